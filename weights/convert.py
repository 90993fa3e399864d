"""Stores the float32 matrices of a sentence-transformers folder as float16: half the size, the same bytes every time.

Rounding is to the nearest float16, ties to even; a value that float16 cannot hold stops the conversion. Vectors
(biases, gains of norms) stay float32: they are 0.14 % of MiniLM's weights, and rounding them too would nearly double
the error of its embeddings. Tensors that merely count 0, 1, 2, … (BERT's saved `position_ids`) are left out: loaders
make them. `vocab.txt` is left out, for tokenizer.json holds the same vocabulary. Needs NumPy and safetensors.

    python weights/convert.py SOURCE weights/NAME [--sha256 HEX]
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

NEEDED = ("config.json", "tokenizer.json", "modules.json")
COPIED = (
    *NEEDED,
    "1_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)


def sha256(path: Path) -> str:
    """The file's sha256 as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_arange(tensor: np.ndarray) -> bool:
    """True for an integer tensor that counts 0, 1, 2, … and so carries no information."""
    return tensor.dtype.kind in "iu" and np.array_equal(tensor.ravel(), np.arange(tensor.size))


def rounded(name: str, tensor: np.ndarray) -> np.ndarray:
    """A float32 matrix -> float16, nearest even; all else as it is. Raises SystemExit on NaN, infinity and overflow."""
    if tensor.dtype != np.float32 or tensor.ndim < 2:
        return tensor
    if not np.isfinite(tensor).all():
        raise SystemExit(f"{name} holds NaN or infinity in the source; nothing was written.")
    with np.errstate(over="ignore"):
        half = tensor.astype(np.float16)
    if not np.isfinite(half).all():
        raise SystemExit(f"{name} holds values beyond float16 (largest {np.abs(tensor).max():g}); keep it in float32.")
    return half


def convert(source: Path, target: Path, expected: str | None = None) -> None:
    """Reads `source`, checks model.safetensors against `expected` when given, writes `target`, prints both sha256."""
    before = sha256(source / "model.safetensors")
    if expected and before != expected.lower():
        raise SystemExit(f"model.safetensors has sha256 {before}, expected {expected}: fetch the source again.")
    if missing := [name for name in NEEDED if not (source / name).is_file()]:
        raise SystemExit(f"{source} lacks {', '.join(missing)}: it is not a sentence-transformers folder.")
    with safe_open(source / "model.safetensors", framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
    kept = {name: rounded(name, t) for name, t in tensors.items() if not is_arange(t)}
    for name in COPIED:
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
    # one key of metadata only: safetensors may write several in any order
    (target / "model.safetensors").write_bytes(save(kept, metadata={"format": "pt"}))
    print("sha256 before", before)
    print("sha256 after ", sha256(target / "model.safetensors"))
    print("left out     ", ", ".join(sorted(tensors.keys() - kept.keys())) or "nothing")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder with model.safetensors in float32 and its config files")
    parser.add_argument("target", type=Path, help="folder to write")
    parser.add_argument("--sha256", help="the sha256 that the source's model.safetensors must have")
    arguments = parser.parse_args()
    convert(arguments.source, arguments.target, arguments.sha256)
