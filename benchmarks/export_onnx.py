"""A model in sentence-transformers' layout as ONNX graphs, float32 and int8, for onnxruntime to show its best.

    python -m benchmarks.export_onnx [FOLDER] [--out DIR]

Three float32 graphs of the encoder (token ids to the last layer's states): what torch's tracing exporter writes
("traced"), what its exporter of today writes ("dynamo"), and the first one fused by onnxruntime's own optimizer for
BERT ("fused"). Each is also quantized dynamically to int8, weights per channel and per tensor. Weights stored in a
narrower format are widened to float32 first. Pooling is left to the caller.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import logging
import warnings
from pathlib import Path
from typing import Any

from .common import CACHE, ROOT, limit_threads, say, versions

MODEL = ROOT / "weights" / "all-MiniLM-L6-v2"
FLOAT = ("traced", "dynamo", "fused")
INT8 = tuple(f"{graph}-int8-{scales}" for graph in FLOAT for scales in ("channel", "tensor"))
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")


def graphs(model: Path = MODEL, out: Path | None = None) -> dict[str, Path]:
    """Name -> file of every graph, exported anew if the weights or the exporters are others than last time."""
    out = out or CACHE / "onnx" / model.name
    files = {name: out / f"{name}.onnx" for name in (*FLOAT, *INT8)}
    stamp: dict[str, Any] = {"script": _sha256(Path(__file__)), "weights": _sha256(model / "model.safetensors")}
    stamp |= {k: v for k, v in versions("torch", "transformers", "onnx", "onnxruntime").items() if k != "minibi"}
    record = out / "made-from.json"
    if record.is_file() and json.loads(record.read_text()) == stamp and all(f.is_file() for f in files.values()):
        return files
    out.mkdir(parents=True, exist_ok=True)
    record.unlink(missing_ok=True)
    with _quiet():
        _export(model, files)
        _fuse(model, files)
        _quantize(files)
    record.write_text(json.dumps(stamp, indent=1))
    return files


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporters are talkative on every channel; what matters is checked afterwards."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


def _export(model: Path, files: dict[str, Path]) -> None:
    import torch
    from transformers import BertModel

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            # "eager" attention is what the fusion knows; onnxruntime sees the same operations either way
            options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
            self.bert = BertModel.from_pretrained(model, add_pooling_layer=False, **options)

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> Any:
            return self.bert(input_ids, attention_mask, token_type_ids).last_hidden_state

    states = States().eval()
    ids = torch.randint(1000, 2000, (2, 16))
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    example = (ids, mask, torch.zeros_like(ids))
    names: dict[str, Any] = {"input_names": list(_INPUTS), "output_names": ["last_hidden_state"]}
    axes = {name: {0: "batch", 1: "tokens"} for name in (*_INPUTS, "last_hidden_state")}
    traced, dynamo = str(files["traced"]), str(files["dynamo"])
    torch.onnx.export(states, example, traced, dynamic_axes=axes, opset_version=17, dynamo=False, **names)
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    torch.onnx.export(states, example, dynamo, dynamic_shapes=(shape,) * 3, dynamo=True, external_data=False, **names)


def _fuse(model: Path, files: dict[str, Path]) -> None:
    from onnxruntime.transformers import optimizer

    config = json.loads((model / "config.json").read_text())
    heads, hidden, layers = (config[k] for k in ("num_attention_heads", "hidden_size", "num_hidden_layers"))
    graph = optimizer.optimize_model(str(files["traced"]), "bert", num_heads=heads, hidden_size=hidden, opt_level=0)
    found = graph.get_fused_operator_statistics()
    wanted = {"EmbedLayerNormalization": 1, "Attention": layers, "SkipLayerNormalization": 2 * layers}
    if any(found[name] != count for name, count in wanted.items()):
        raise RuntimeError(f"onnxruntime's optimizer did not fuse the graph: {found}, expected {wanted}")
    graph.save_model_to_file(str(files["fused"]))


def _quantize(files: dict[str, Path]) -> None:
    from onnx import TensorProto
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for graph in FLOAT:
        for scales in ("channel", "tensor"):
            quantize_dynamic(
                files[graph],
                files[f"{graph}-int8-{scales}"],
                weight_type=QuantType.QInt8,
                per_channel=scales == "channel",
                extra_options={"DefaultTensorType": TensorProto.FLOAT},  # the fused operators tell no output type
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=MODEL, help="default: the bundled all-MiniLM-L6-v2")
    parser.add_argument("--out", type=Path, help="default: benchmarks/.cache/onnx/<name of the folder>")
    arguments = parser.parse_args()
    limit_threads(1)
    for name, path in graphs(arguments.folder.resolve(), arguments.out).items():
        say(f"{name}: {path} ({path.stat().st_size / 2**20:.0f} MB)")


if __name__ == "__main__":
    main()
