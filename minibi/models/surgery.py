"""Model folders with other parts: fewer layers, a projection behind the pooling, other prompts or lengths.

Each function writes a new folder in sentence-transformers' layout and leaves the old one as it is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import as_path
from ..errors import InputError, ModelError
from ..store.files import replace_file
from ..store.tensors import read_weights
from .bert import BertConfig, as_floats, canonical_name
from .convert import transformer_place, write_model
from .locate import locate, read_json

_LAYER = "encoder.layer."


def take_layers(source: str | Path, target: str | Path, layers: Sequence[int]) -> Path:
    """A model of some of the layers of another, in the order given (counted from 0): what distillation begins with.

    Raises InputError for layers that it does not have.
    """
    folder, target = locate(source), as_path(target)
    place = transformer_place(folder)
    config = BertConfig.read(folder / place)
    if not layers or any(not 0 <= i < config.layers for i in layers):
        raise InputError(f"layers must name some of the model's {config.layers}, from 0 on, not {list(layers)}")
    kept: dict[str, NDArray] = {}
    for stored, tensor in as_floats(read_weights(folder / place)).items():
        name = canonical_name(stored)
        if not name.startswith(_LAYER):
            kept[name] = tensor
            continue
        number, rest = name.removeprefix(_LAYER).split(".", 1)
        kept |= {f"{_LAYER}{new}.{rest}": tensor for new, old in enumerate(layers) if old == int(number)}
    write_model(folder, target, {place: kept})
    change_json(target / place / "config.json", num_hidden_layers=len(layers))
    return target


def add_projection(source: str | Path, target: str | Path, outputs: int, seed: int = 0) -> Path:
    """A model whose pooled vectors pass through one more linear layer, before they are normalized, to `outputs`
    components. Its rows begin as random directions, orthogonal as far as there is room, which keeps angles as well
    as can be. Raises ModelError for a folder without modules.json.
    """
    folder, target = locate(source), as_path(target)
    entries = read_json(folder / "modules.json", kind=list)
    kinds = [str(entry["type"]).rsplit(".", 1)[-1] for entry in entries]
    if kinds[:2] != ["Transformer", "Pooling"]:
        raise ModelError(f"{folder}: a projection needs a model of Transformer and Pooling, not {kinds}")
    at = kinds.index("Normalize") if "Normalize" in kinds else len(kinds)
    name = f"{len(kinds)}_Dense"
    inputs = _width(folder, entries[:at])
    place = transformer_place(folder)
    rng = np.random.default_rng(seed)
    q, r = np.linalg.qr(rng.standard_normal((max(inputs, outputs), min(inputs, outputs))))
    q = q * np.sign(np.diag(r))
    weight = (q if outputs >= inputs else q.T).astype(np.float32)  # [outputs, inputs]
    linear = {"linear.weight": weight, "linear.bias": np.zeros(outputs, np.float32)}
    weights = {place: as_floats(read_weights(folder / place)), Path(name): linear}
    write_model(folder, target, weights)
    entry = {"name": name, "path": name, "type": "sentence_transformers.models.Dense"}
    entries = [*entries[:at], entry, *entries[at:]]
    _write_json(target / "modules.json", [e | {"idx": i, "name": str(i)} for i, e in enumerate(entries)])
    activation = "torch.nn.modules.linear.Identity"
    sizes = {"in_features": inputs, "out_features": outputs, "bias": True, "activation_function": activation}
    _write_json(target / name / "config.json", sizes)
    return target


def add_classifier(source: str | Path, target: str | Path, seed: int = 0) -> Path:
    """An encoder as a cross-encoder of one output, to be trained: BERT's pooler, or a random one where it is not
    stored, and a random classifier, both normal with deviation 0.02 as BERT begins. Raises ModelError.
    """
    folder, target = locate(source), as_path(target)
    place = transformer_place(folder)
    channels = BertConfig.read(folder / place).channels
    rng = np.random.default_rng(seed)
    tensors = {canonical_name(name): t for name, t in as_floats(read_weights(folder / place)).items()}
    for name, rows in (("pooler.dense", channels), ("classifier", 1)):
        if f"{name}.weight" not in tensors:
            tensors[f"{name}.weight"] = (0.02 * rng.standard_normal((rows, channels))).astype(np.float32)
            tensors[f"{name}.bias"] = np.zeros(rows, np.float32)
    prefixed = {name if name.startswith("classifier.") else f"bert.{name}": t for name, t in tensors.items()}
    write_model(folder / place, target, {Path(): prefixed})
    for left in ("modules.json", "config_sentence_transformers.json", "README.md"):
        (target / left).unlink(missing_ok=True)
    for part in [p for p in target.iterdir() if p.is_dir()]:
        shutil.rmtree(part)
    head = {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "LABEL_0"}}
    change_json(target / "config.json", **head, label2id={"LABEL_0": 0})
    return target


def _width(folder: Path, entries: Sequence[Mapping[str, Any]]) -> int:
    """The width of the vectors behind these modules."""
    from .modules import Dense, Pooling
    from .running import interpreter

    width = BertConfig.read(folder / transformer_place(folder)).channels
    for entry in entries:
        kind, place = str(entry["type"]).rsplit(".", 1)[-1], folder / str(entry.get("path", ""))
        if kind == "Pooling":
            width *= len(Pooling.read(place).modes)
        elif kind == "Dense":
            width = Dense(place, interpreter()).outputs
    return width


def write_settings(
    folder: Path, *, prompts: Mapping[str, str] | None = None, max_seq_length: int | None = None, **others: Any
) -> None:
    """Writes into a model folder of one's own what is given: prompts, the length limit, other settings."""
    settings = others | ({"prompts": dict(prompts)} if prompts is not None else {})
    if settings:
        change_json(folder / "config_sentence_transformers.json", **settings)
    if max_seq_length is not None:
        change_json(folder / transformer_place(folder) / "sentence_bert_config.json", max_seq_length=max_seq_length)


def change_json(path: Path, **changes: Any) -> None:
    """Some keys of a JSON file anew; a new file if there is none."""
    _write_json(path, read_json(path, {}) | changes)


def _write_json(path: Path, value: Any) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    replace_file(path, lambda file: file.write(text.encode()))
