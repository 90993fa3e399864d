"""Models on disk in fewer bytes: `convert` writes a folder's weights as float32, float16 or int8.

int8 stores each matrix as signed bytes, and beside it, under its name with `_scale`, a float32 scale for each row; the
column that stays float (see `nn.outliers`) goes under `_outlier`, its number under `_channel`. What `compute="int8"`
makes of them are the very same bytes.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..arguments import as_path
from ..errors import InputError, ModelError
from ..store.files import replace_file
from ..store.tensors import read_weights
from .bert import CHANNEL, OUTLIER, SCALE, BertConfig, as_floats, canonical, outlier_channels, read_params
from .locate import locate, read_json
from .running import interpreter

STORED = ("float32", "float16", "int8")
OTHER_WEIGHTS = ("*.bin", "*.onnx", "*.onnx_data", "*.h5", "*.msgpack", "*.ot", "*.pt", "*.pth", "*.ckpt", "*.gguf")
OTHER_WEIGHTS += ("*.tflite", "onnx", "openvino", "*.mlpackage", "coreml", "flax_model*", "rust_model*")


def convert(source: str | Path, target: str | Path, stored: str) -> Path:
    """Copies a model folder with its matrices stored as `stored`; biases and norms stay float32. Raises InputError."""
    if stored not in STORED:
        raise InputError(f"{stored!r} is not one of {list(STORED)}")
    folder, target = locate(source), as_path(target)
    check_target(folder, target)
    place = transformer_place(folder)
    config = BertConfig.read(folder / place)
    floats = as_floats(read_weights(folder / place))
    for name, tensor in floats.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():  # as bytes these would become numbers
            raise InputError(f"{name} holds NaN or infinity: this model cannot be used")
    channels: dict[str, int] = {}
    if stored == "int8":
        channels = outlier_channels(read_params(canonical(floats), config, interpreter(), folder, "int8"))
    tensors: dict[str, NDArray] = {}
    for name, tensor in floats.items():
        if tensor.dtype.kind != "f":
            tensors[name] = tensor
        elif tensor.ndim < 2 or stored == "float32":
            tensors[name] = tensor.astype(np.float32)
        elif stored == "float16" or "embeddings" in name:  # tables of embeddings are read, not multiplied
            with np.errstate(over="ignore"):
                tensors[name] = tensor.astype(np.float16)
            if not np.isfinite(tensors[name]).all():
                raise InputError(f"{name} holds numbers beyond float16: store the model as float32")
        else:
            parts = to_bytes(tensor, channels.get(name.removeprefix("bert.")))
            tensors |= {name + part: array for part, array in parts.items()}
    write_model(folder, target, {place: tensors})
    return target


def check_target(folder: Path, target: Path) -> None:
    """Raises InputError if a model cannot be copied there."""
    if target.exists():
        raise InputError(f"{target} exists already: choose another name")
    if target.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{target} lies in the folder to be copied: choose a place outside")


def write_model(folder: Path, target: Path, weights: Mapping[Path, Mapping[str, NDArray]]) -> None:
    """Copies a model folder with other weights: tensors by name for each place in it that has some. Raises InputError.

    The copy is there in whole or not at all.
    """
    from safetensors.numpy import save

    check_target(folder, target)
    target.mkdir(parents=True)
    try:
        others = shutil.ignore_patterns("*.safetensors*", *OTHER_WEIGHTS, ".*")
        shutil.copytree(folder, target, ignore=others, dirs_exist_ok=True)
        for extra in folder.glob("*/*.safetensors"):  # dense layers behind the transformer stay as they are
            if extra.parent.relative_to(folder) not in weights:
                shutil.copy(extra, target / extra.relative_to(folder))
        for place, tensors in weights.items():
            whole = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
            replace_file(target / place / "model.safetensors", lambda f, t=whole: f.write(save(t, {"format": "pt"})))
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise


def transformer_place(folder: Path) -> Path:
    """Where the weights lie in a model folder: in itself, or in one of its own that an older modules.json names."""
    first = next(iter(read_json(folder / "modules.json", [], kind=list)), {})
    place = Path(str(first.get("path", "") if isinstance(first, dict) else ""))
    if not (folder / place).resolve().is_relative_to(folder.resolve()):
        raise ModelError(f"{folder / 'modules.json'} points outside its folder: {str(place)!r}")
    return place


def to_bytes(w: NDArray, channel: int | None = None) -> dict[str, NDArray]:
    """w [N, K] as bytes, with the scale of each row: its largest magnitude becomes 127. `channel` stays apart."""
    w = np.array(w, np.float32)
    apart: dict[str, NDArray] = {}
    if channel is not None:
        apart = {OUTLIER: w[:, [channel]], CHANNEL: np.array([channel], np.int32)}
        w[:, channel] = 0
    top = np.abs(w).max(axis=1, keepdims=True)
    scale = np.where(top > 1e-35, top / np.float32(127), np.float32(1)).astype(np.float32)
    return {"": np.rint(w / scale).astype(np.int8), SCALE: scale} | apart
