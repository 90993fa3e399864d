"""BERT (Devlin et al. 2019): the encoder behind MiniLM, BGE, E5 and GTE, written once against the verbs of `minibi.nn`.

params = read_params(tensors, config, ops)       # ops: minibi.nn.plain or minibi.nn.fused
h = forward(ops, params, config, batch)          # [T, C]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ModelError
from ..nn.outliers import Packing, Unpacked
from ..shapes import Floats
from ..text.batches import Batch, pack
from ..text.tokenizer import Tokenizer
from .locate import read_json

_ACTIVATION_VERB = {
    "gelu": "linear_gelu",
    "gelu_python": "linear_gelu",
    "gelu_new": "linear_gelu_tanh",
    "gelu_fast": "linear_gelu_tanh",
    "gelu_pytorch_tanh": "linear_gelu_tanh",
    "relu": "linear_relu",
}


@dataclass(frozen=True)
class BertConfig:
    """The sizes of a BERT; letters as in minibi.shapes."""

    layers: int  # L
    channels: int  # C
    heads: int  # H
    feed_forward: int  # F
    vocabulary: int  # V
    positions: int
    types: int
    eps: float
    activation: str
    labels: int = 0  # classifier outputs; 0 without a classifier

    @classmethod
    def read(cls, folder: Path) -> BertConfig:
        """From config.json. Raises ModelError for another architecture or a value that makes no sense."""
        raw = read_json(folder / "config.json")
        kind = raw.get("model_type")
        if kind != "bert":
            raise ModelError(f"{folder}: model_type {kind!r} is not supported: minibi reads models of type 'bert'")
        if raw.get("is_decoder"):
            raise ModelError(f"{folder}: a BERT used as a decoder (is_decoder) is not supported")
        if raw.get("position_embedding_type", "absolute") != "absolute":
            raise ModelError(f"{folder}: only absolute position embeddings are supported")
        if raw.get("hidden_act") not in list(_ACTIVATION_VERB):
            raise ModelError(f"{folder}: hidden_act {raw.get('hidden_act')!r} is not one of {sorted(_ACTIVATION_VERB)}")
        classifies = any(str(a).endswith("ForSequenceClassification") for a in raw.get("architectures") or [])
        try:
            config = cls(
                layers=raw["num_hidden_layers"],
                channels=raw["hidden_size"],
                heads=raw["num_attention_heads"],
                feed_forward=raw["intermediate_size"],
                vocabulary=raw["vocab_size"],
                positions=raw["max_position_embeddings"],
                types=raw.get("type_vocab_size", 2),
                eps=float(raw.get("layer_norm_eps", 1e-12)),
                activation=raw["hidden_act"],
                labels=len(raw.get("id2label") or {0: 0, 1: 1}) if classifies else 0,
            )
        except KeyError as e:
            raise ModelError(f"{folder / 'config.json'} lacks {e}") from None
        except (TypeError, ValueError) as e:
            raise ModelError(f"{folder / 'config.json'} holds a value of the wrong kind: {e}") from None
        sizes = [n for name, n in vars(config).items() if name not in ("eps", "activation", "labels")]
        if any(not isinstance(n, int) or n < 1 for n in sizes) or config.channels % config.heads:
            raise ModelError(f"{folder / 'config.json'}: the sizes do not fit together: {config}")
        return config


@dataclass(frozen=True)
class Layer:
    """One block, matrices and vectors in the interpreter's own layout; shapes as (inputs, outputs)."""

    qkv_w: Any  # (C, 3C)
    qkv_b: Any
    out_w: Any  # (C, C)
    out_b: Any
    norm1_g: Any
    norm1_b: Any
    up_w: Any  # (C, F)
    up_b: Any
    down_w: Any  # (F, C)
    down_b: Any
    norm2_g: Any
    norm2_b: Any


@dataclass(frozen=True)
class Params:
    """All arrays of a BERT. The tables stay as they lie on disk (float16 or float32, memory-mapped)."""

    word: NDArray  # [V, C]
    position: Floats  # [positions, C]
    token_type: Floats  # [types, C]
    norm_g: Any
    norm_b: Any
    layers: list[Layer]
    compute: str = "float32"  # or "int8": the layers' matrices are bytes


@dataclass
class Study:
    """Every intermediate of one forward pass, for lessons and debugging."""

    states: list[Floats] = field(default_factory=list)  # L + 1 arrays [T, C]: the embedding, then each layer's output
    attention: list[list[Floats]] = field(default_factory=list)  # per layer, per text: [H, S, S]


# Behind the name of a matrix [N, K] stored as bytes: the scales of its rows [N, 1], and the column that stays float,
# [N, 1], with its number [1].
SCALE, OUTLIER, CHANNEL = "_scale", "_outlier", "_channel"


def as_floats(tensors: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Stored tensors, bytes as the floats they mean; of what belonged to them only CHANNEL is left.

    Raises ModelError.
    """
    out = dict(tensors)
    for name, tensor in tensors.items():
        if name + SCALE in tensors and tensor.dtype == np.int8:
            w = tensor.astype(np.float32) * _of_rows(out, name, SCALE, tensor)
            if (channel := outlier_channel(tensors, name, tensor.shape[-1])) is not None:
                w[:, [channel]] = _of_rows(out, name, OUTLIER, tensor)
            out[name] = w
    return out


def _of_rows(tensors: dict[str, NDArray], name: str, what: str, matrix: NDArray) -> NDArray:
    """Takes out what belongs to a matrix: one float for each of its rows."""
    x = tensors.pop(name + what, None)
    if x is None or x.dtype.kind != "f" or x.shape != (*matrix.shape[:-1], 1):
        found = "missing" if x is None else f"{x.dtype} {list(x.shape)}"
        raise ModelError(f"{name}{what} is {found}, not one float for each row")
    return x


def outlier_channel(tensors: Mapping[str, NDArray], name: str, channels: int) -> int | None:
    """The stored number of the column that stays float; None where none is stored. Raises ModelError."""
    found = tensors.get(name + CHANNEL)
    if found is None:
        return None
    if found.dtype.kind != "i" or found.shape != (1,) or not 0 <= found[0] < channels:
        raise ModelError(f"{name}{CHANNEL} is not the number of one of its {channels} columns")
    return int(found[0])


def canonical(tensors: Mapping[str, NDArray]) -> dict[str, NDArray]:
    """Stored tensors without the optional `bert.` prefix, old LayerNorm names as new, bytes as the floats they mean."""
    return {canonical_name(name): tensor for name, tensor in as_floats(tensors).items()}


def canonical_name(stored: str) -> str:
    name = stored.removeprefix("bert.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def getter(tensors: Mapping[str, NDArray], where: object, finite: bool = True) -> Callable[..., NDArray]:
    """get(name, *shape): the tensor of that name, its shape checked and (finite) its numbers too. Raises ModelError."""

    def get(name: str, *shape: int) -> NDArray:
        if name not in tensors:
            raise ModelError(f"{where}: the weights lack {name!r}")
        tensor = tensors[name]
        if tensor.dtype.kind != "f":
            raise ModelError(f"{where}: {name} is stored as {tensor.dtype}: only float weights are supported")
        if tensor.shape != shape:
            raise ModelError(f"{where}: {name} has shape {list(tensor.shape)}, the config says {list(shape)}")
        if finite and not np.isfinite(tensor).all():
            raise ModelError(f"{where}: {name} holds NaN or infinity")
        return tensor

    return get


def check_vocabulary(tokenizer: Tokenizer, config: BertConfig, where: object, pairs: bool = False) -> None:
    """Raises ModelError if the tokenizer can write ids (for pairs also types) that the model has no vector for."""
    if pairs and tokenizer.pair_types > config.types:
        raise ModelError(
            f"{where}: the tokenizer gives pairs {tokenizer.pair_types} types, the model has {config.types}"
        )
    if max(tokenizer.vocabulary.values(), default=0) >= config.vocabulary:
        raise ModelError(f"{where}: the tokenizer has more tokens than the model ({config.vocabulary})")


def read_params(
    tensors: Mapping[str, NDArray],
    config: BertConfig,
    ops: Any,
    where: object = "model",
    compute: str = "float32",
    finite: bool = True,
) -> Params:
    """Arrays of a BERT from tensors under their canonical names; compute "int8": the layers' matrices as bytes.

    finite: look for NaN and infinity, which takes time where it is done for every batch.

    Raises ModelError for a missing or misshapen tensor.
    """
    get = getter(tensors, where, finite)
    c, f = config.channels, config.feed_forward

    def matrix(stored: NDArray, name: str) -> Any:
        if compute != "int8":
            return ops.matrix(stored)
        return Unpacked(stored, outlier_channel(tensors, name, stored.shape[1]))

    def joined(prefix: str, part: str, *shape: int) -> NDArray:
        return ops.join(*[get(f"{prefix}attention.self.{n}.{part}", *shape) for n in ("query", "key", "value")])

    def vector(name: str, size: int = c) -> Any:
        return ops.vector(get(name, size))

    def weight(name: str, *shape: int) -> Any:
        return matrix(get(name, *shape), name)

    def layer(i: int) -> Layer:
        p = f"encoder.layer.{i}."
        return Layer(
            qkv_w=matrix(joined(p, "weight", c, c), p + "attention.self.query.weight"),
            qkv_b=ops.vector(joined(p, "bias", c)),
            out_w=weight(p + "attention.output.dense.weight", c, c),
            out_b=vector(p + "attention.output.dense.bias"),
            norm1_g=vector(p + "attention.output.LayerNorm.weight"),
            norm1_b=vector(p + "attention.output.LayerNorm.bias"),
            up_w=weight(p + "intermediate.dense.weight", f, c),
            up_b=vector(p + "intermediate.dense.bias", f),
            down_w=weight(p + "output.dense.weight", c, f),
            down_b=vector(p + "output.dense.bias"),
            norm2_g=vector(p + "output.LayerNorm.weight"),
            norm2_b=vector(p + "output.LayerNorm.bias"),
        )

    params = Params(
        word=get("embeddings.word_embeddings.weight", config.vocabulary, c),
        position=ops.table(get("embeddings.position_embeddings.weight", config.positions, c)),
        token_type=ops.table(get("embeddings.token_type_embeddings.weight", config.types, c)),
        norm_g=vector("embeddings.LayerNorm.weight"),
        norm_b=vector("embeddings.LayerNorm.bias"),
        layers=[layer(i) for i in range(config.layers)],
        compute=compute,
    )
    return _packed(params, config, ops) if compute == "int8" else params


PROBE = 16  # tokens, evenly from the vocabulary


def _packed(p: Params, config: BertConfig, ops: Any) -> Params:
    """Its `Unpacked` matrices as bytes, by one run on a few tokens."""
    count = min(PROBE, config.positions)
    probe = pack([np.arange(count, dtype=np.int32) * config.vocabulary // count])
    forward(Packing(ops), p, config, probe)

    def layer(raw: Layer) -> Layer:
        return replace(raw, **{name: w.packed for name, w in vars(raw).items() if isinstance(w, Unpacked)})

    return replace(p, layers=[layer(raw) for raw in p.layers])


def outlier_channels(p: Params) -> dict[str, int]:
    """Name of each matrix that has become bytes -> its column that stays float."""
    names = {"qkv_w": [f"attention.self.{n}" for n in ("query", "key", "value")], "out_w": ["attention.output.dense"]}
    names |= {"up_w": ["intermediate.dense"], "down_w": ["output.dense"]}
    return {
        f"encoder.layer.{i}.{name}.weight": getattr(layer, w).channel
        for i, layer in enumerate(p.layers)
        for w in names
        for name in names[w]
    }


def forward(ops: Any, p: Params, config: BertConfig, batch: Batch, study: Study | None = None) -> Floats:
    """Token states after the last layer, [T, C]. With a `study`, every layer's states and attention are kept in it."""
    check_lengths(batch, config)
    if len(batch.ids) == 0:
        return np.empty((0, config.channels), np.float32)
    return layers(ops, p, config, batch.ids, batch.types, batch.positions(), batch.starts, study)


def check_lengths(batch: Batch, config: BertConfig) -> None:
    """Raises InputError for a text longer than the table of positions."""
    if len(batch.ids) <= config.positions:
        return
    longest = int(batch.lengths.max(initial=0))
    if longest > config.positions:
        raise InputError(f"a text of {longest} tokens exceeds the model's {config.positions} positions")


def layers(
    ops: Any,
    p: Params,
    config: BertConfig,
    ids: Any,
    types: Any,
    positions: Any,
    starts: Any,
    study: Study | None = None,
    first_only: bool = False,
) -> Any:
    """The model itself: token ids [T] -> states [T, C]. first_only: those of each text's first token alone, [B, C]."""
    up = getattr(ops, _ACTIVATION_VERB[config.activation])
    attend = ops.attend16 if p.compute == "int8" else ops.attend
    norm = (p.norm_g, p.norm_b, config.eps)
    h = ops.embed(ids, types, positions, p.word, p.position, p.token_type, *norm)  # (T,) -> (T, C)
    for i, layer in enumerate(p.layers):
        if study is not None:
            study.states.append(h)
        q, k, v = ops.qkv(h, layer.qkv_w, layer.qkv_b, config.heads)  # (T, C) -> 3 x (T, H, D)
        if study is not None:
            study.attention.append(ops.attention_weights(q, k, starts))
        if first_only and i == config.layers - 1:  # nobody reads the other rows any more
            a, h = attend(q, k, v, starts, first_only=True), ops.first_rows(h, starts)  # (T, C) -> (B, C)
        else:
            a = attend(q, k, v, starts)  # -> (T, C)
        h = ops.linear_add_norm(a, h, layer.out_w, layer.out_b, layer.norm1_g, layer.norm1_b, config.eps)
        u = up(h, layer.up_w, layer.up_b)  # (T, C) -> (T, F)
        h = ops.linear_add_norm(u, h, layer.down_w, layer.down_b, layer.norm2_g, layer.norm2_b, config.eps)
    if study is not None:
        study.states.append(h)
    return h
