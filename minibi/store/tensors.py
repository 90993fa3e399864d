"""Model weights on disk: safetensors files, whole or in shards, memory-mapped and never executed.

float16 and float32 tensors are views of the mapped file; bfloat16, which NumPy lacks, is widened to float32 on reading.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError

_DTYPES = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8, "BOOL": np.bool_,
}  # fmt: skip


def read_header(path: Path) -> tuple[dict[str, dict], dict[str, str], int]:
    """(tensors, metadata, offset of the data) of a safetensors file whose header the safetensors library accepts.

    Raises ModelError if it is missing or damaged.
    """
    import safetensors

    try:
        with safetensors.safe_open(str(path), framework="np"):
            pass  # checks lengths, offsets and overlaps
        with path.open("rb") as f:
            size = int.from_bytes(f.read(8), "little")
            header = json.loads(f.read(size))
    except FileNotFoundError:
        raise ModelError(f"{path} does not exist") from None
    except (safetensors.SafetensorError, OSError, ValueError) as e:
        raise ModelError(f"{path} is not a sound safetensors file ({e}): fetch it again") from None
    metadata = header.pop("__metadata__", {})
    return header, metadata, 8 + size


def read_safetensors(path: Path) -> dict[str, NDArray]:
    """Every tensor of one file. Raises ModelError.

    The mapping is private: writing to a tensor changes memory, never the file. (It is not read-only, because compiled
    kernels would be compiled once more for read-only arrays.)
    """
    header, _, begin = read_header(path)
    data = np.memmap(path, np.uint8, mode="c") if path.stat().st_size else np.zeros(0, np.uint8)
    tensors = {}
    for name, info in header.items():
        if info["dtype"] not in _DTYPES:
            raise ModelError(f"{path}: tensor {name} has type {info['dtype']}, which is not supported")
        start, end = info["data_offsets"]
        raw = np.asarray(data[begin + start : begin + end]).view(_DTYPES[info["dtype"]]).reshape(info["shape"])
        if info["dtype"] == "BF16":  # the upper half of a float32
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        tensors[name] = raw
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a model folder: one, or the shards its index lists. Raises ModelError."""
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
            outside = any(Path(n).name != n or n == ".." for n in names)
        except (ValueError, KeyError, AttributeError, TypeError) as e:
            raise ModelError(f"{index} is not a list of weight shards: {e!r}") from None
        if outside:
            raise ModelError(f"{index} names files outside its folder")
        return [folder / n for n in names]
    if (folder / "pytorch_model.bin").is_file():
        raise ModelError(f"{folder} has only a pickled pytorch_model.bin: save the model again as safetensors")
    raise ModelError(f"{folder} has no model.safetensors")


def read_weights(folder: Path) -> Mapping[str, NDArray]:
    """Every tensor of a model folder by its stored name. Raises ModelError."""
    tensors: dict[str, NDArray] = {}
    for path in weight_files(folder):
        tensors.update(read_safetensors(path))
    return tensors
