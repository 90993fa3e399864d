"""What a sentence-transformers folder says comes after the transformer: pooling, dense layers, normalization.

`modules.json` is obeyed to the letter, in the dialect of every version so far; a module that is not known is refused by
name, since skipping it would give wrong vectors without a word.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import ModelError
from ..nn.pooling import POOLINGS, pool
from ..shapes import Floats, Ints
from ..store.tensors import read_weights
from .bert import getter
from .locate import read_json

_OLD_POOLING_KEYS = {  # in the order in which the poolings are concatenated
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


class Step(Protocol):
    """One module after pooling: vectors [B, C] to vectors [B, C']."""

    def __call__(self, ops: Any, x: Floats) -> Floats: ...


@dataclass(frozen=True)
class Pooling:
    """Token states to one vector per text."""

    modes: tuple[str, ...]
    include_prompt: bool = True

    @classmethod
    def read(cls, folder: Path) -> Pooling:
        raw = read_json(folder / "config.json")
        if "pooling_mode" in raw:
            modes = raw["pooling_mode"]
            modes = (modes,) if isinstance(modes, str) else tuple(modes)
        else:
            modes = tuple(mode for key, mode in _OLD_POOLING_KEYS.items() if raw.get(key))
            strange = [k for k, v in raw.items() if k.startswith("pooling_mode_") and v and k not in _OLD_POOLING_KEYS]
            if strange:
                raise ModelError(f"{folder / 'config.json'}: pooling {strange[0]!r} is not supported")
        if not modes or any(mode not in POOLINGS for mode in modes):
            raise ModelError(f"{folder / 'config.json'}: pooling {list(modes)} is not made of {sorted(POOLINGS)}")
        return cls(modes, bool(raw.get("include_prompt", True)))

    def __call__(self, h: Floats, starts: Ints, prompt_tokens: int = 0) -> Floats:
        """h [T, C] -> [B, C * modes]."""
        return pool(h, starts, self.modes, 0 if self.include_prompt else prompt_tokens)


class Normalize:
    """Vectors scaled to length one."""

    def __call__(self, ops: Any, x: Floats) -> Floats:
        return ops.normalize(x)


_VERB = {  # by the class's own name: the dotted path is never imported
    "Identity": "linear",
    "Tanh": "linear_tanh",
    "ReLU": "linear_relu",
    "GELU": "linear_gelu",
    "Sigmoid": "linear_sigmoid",
}


class Dense:
    """A linear layer with an activation, as in models whose vectors are narrower than their states."""

    def __init__(self, folder: Path, ops: Any):
        raw = read_json(folder / "config.json")
        try:
            self.inputs, self.outputs = int(raw["in_features"]), int(raw["out_features"])
        except (KeyError, TypeError, ValueError) as e:
            raise ModelError(f"{folder / 'config.json'} lacks {e}") from None
        ends = {raw.get("module_input_name"), raw.get("module_output_name")} - {None, "sentence_embedding"}
        if raw.get("use_residual") or ends:
            raise ModelError(
                f"{folder}: a dense layer with a residual, or of something else than vectors, is not supported"
            )
        activation = str(raw.get("activation_function", "torch.nn.modules.activation.Tanh")).rsplit(".", 1)[-1]
        if activation not in _VERB:
            raise ModelError(f"{folder}: activation {activation!r} is not one of {sorted(_VERB)}")
        self.folder, self._verb = folder, _VERB[activation]
        get = getter(read_weights(folder), folder)
        weight = get("linear.weight", self.outputs, self.inputs)
        bias = get("linear.bias", self.outputs) if raw.get("bias", True) else np.zeros(self.outputs, np.float32)
        self._w, self._b = ops.matrix(weight), ops.vector(bias)

    def __call__(self, ops: Any, x: Floats) -> Floats:
        return self.apply(ops, np.ascontiguousarray(x), self._w, self._b)

    def apply(self, ops: Any, x: Floats, w: Any, b: Any) -> Floats:
        """The layer with another matrix and bias than its own, in the layout of `ops`."""
        return getattr(ops, self._verb)(x, w, b)


@dataclass(frozen=True)
class Modules:
    """A model folder taken apart: where the transformer lies, how to pool, what follows."""

    transformer: Path
    pooling: Pooling
    steps: tuple[Step, ...]
    dim: int


def read_modules(folder: Path, channels: Callable[[Path], int], ops: Any) -> Modules:
    """Reads modules.json and what it names. A folder without one is a bare transformer: mean pooling, with a warning.

    `channels(folder)` is the width C of the transformer in a folder. Raises ModelError.
    """
    if not (folder / "modules.json").is_file():
        bare = Modules(folder, Pooling(("mean",)), (), channels(folder))
        warnings.warn(f"{folder} has no modules.json: mean pooling is assumed", stacklevel=3)
        return bare
    entries = read_json(folder / "modules.json", kind=list)
    if not all(isinstance(e, dict) and "type" in e for e in entries):
        raise ModelError(f"{folder / 'modules.json'} is not a list of modules")
    transformer: Path | None = None
    pooling: Pooling | None = None
    steps: list[Step] = []
    dim = 0
    for entry in entries:
        root, kind = str(entry["type"]).split(".")[0], str(entry["type"]).rsplit(".", 1)[-1]
        place = folder / str(entry.get("path", ""))
        if not place.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{folder / 'modules.json'} points outside its folder: {entry['path']!r}")
        if kind == "Router":
            raise ModelError(f"{folder} holds two towers, for queries and for documents: use open_encoder or Towers")
        if root != "sentence_transformers" or kind not in ("Transformer", "Pooling", "Dense", "Normalize"):
            raise ModelError(f"{folder}: module {entry['type']!r} is not supported")
        if (kind == "Transformer") != (transformer is None) or (kind == "Pooling") != (pooling is None and dim > 0):
            raise ModelError(f"{folder}: modules must be Transformer, Pooling, then others; {kind} is out of place")
        if kind == "Transformer":
            transformer, dim = place, channels(place)
        elif kind == "Pooling":
            pooling = Pooling.read(place)
            dim *= len(pooling.modes)
        elif kind == "Normalize":
            steps.append(Normalize())
        else:
            dense = Dense(place, ops)
            if dense.inputs != dim:
                raise ModelError(f"{place}: the dense layer takes {dense.inputs} numbers, it is given {dim}")
            steps.append(dense)
            dim = dense.outputs
    if transformer is None or pooling is None:
        raise ModelError(f"{folder / 'modules.json'} names no transformer or no pooling")
    return Modules(transformer, pooling, tuple(steps), dim)
