"""Changes to copies of model folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

WEIGHTS = "model.safetensors"


def change_json(path: Path, **changes):
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def change_weights(folder: Path, change):
    tensors = {name: np.array(tensor) for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(change(tensors) or tensors, folder / WEIGHTS)


def move_transformer(folder: Path):
    """The layout of older models: 0_Transformer/, and modules.json names it."""
    inner = folder / "0_Transformer"
    inner.mkdir()
    for name in (WEIGHTS, "config.json", "tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"):
        shutil.move(folder / name, inner / name)
    place_transformer(folder, "0_Transformer")


def place_transformer(folder: Path, place: str):
    """Says in modules.json where the transformer is."""
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["path"] = place
    (folder / "modules.json").write_text(json.dumps(modules))
