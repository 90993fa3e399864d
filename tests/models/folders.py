"""Changes to copies of model folders."""

from __future__ import annotations

import json
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
