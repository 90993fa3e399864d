"""The verbs of a transformer encoder in NumPy: what each one means, to read and debug, and the oracle of `fused`.

An architecture is written once against these names and runs on any interpreter that has them: this module, or
`minibi.nn.fused`. Texts are packed end to end: h is [T, C] for all T tokens of a batch, and `starts` [B+1] says
where each text begins and the last one ends. There is no padding and no mask. Verbs are pure: they change no argument.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..shapes import Floats, Ints

Array = Any  # float32 in use, float64 when gradients are checked

name = "plain"


def matrix(w: Array) -> Floats:
    """A stored weight [N, K] (rows are outputs, as PyTorch keeps them) as this interpreter's linear verbs want it."""
    return np.ascontiguousarray(np.asarray(w, np.float32).T)  # (N, K) -> (K, N)


def vector(x: Array) -> Floats:
    """A stored bias or scale as this interpreter wants it."""
    return np.ascontiguousarray(x, dtype=np.float32)


def embed(ids: Ints, types: Ints, positions: Ints, word: Any, position: Any, token_type: Any, *norm: Any) -> Array:
    """Token + position + type embedding, normalized; norm = (gamma, beta, eps). ids, types, positions [T] -> [T, C]."""
    h = word[ids].astype(np.float32) + (position[positions] + token_type[types])
    return layer_norm(h, *norm)


def layer_norm(x: Array, gamma: Array, beta: Array, eps: float) -> Array:
    """(x - mean) / sqrt(var + eps) * gamma + beta over the last axis (Ba, Kiros & Hinton 2016)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * gamma + beta


@dataclass(frozen=True)
class Bytes:
    """A weight matrix [K, N] as signed bytes with a scale for each column; one input channel stays float."""

    codes: NDArray[np.int8]  # those of the channel are zero
    scales: Floats
    channel: int
    outlier: Floats  # the channel's weights [N]


def matrix8(w: Array, channel: int = 0) -> Bytes:
    """A stored weight [N, K] -> bytes: each column's largest magnitude, but that of `channel`, becomes 127."""
    w = matrix(w).copy()
    outlier = w[channel].copy()
    w[channel] = 0
    top = np.abs(w).max(axis=0)
    scales = np.where(top > 1e-35, top / np.float32(127), np.float32(1)).astype(np.float32)
    return Bytes(np.rint(w / scales).astype(np.int8), scales, channel, outlier)


def quantize(x: Array, channel: int) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """Rows [T, K] -> unsigned bytes, scales [T, 1] and zero points [T, 1]: x ~ scale (code - zero).

    The range of a row leaves `channel` out. A row with NaN or infinity in it has a scale of NaN.
    """
    x = np.array(x, np.float32)
    x[:, channel] = 0
    x[~np.isfinite(x).all(axis=1)] = np.nan
    low, high = x.min(axis=1, keepdims=True, initial=0), x.max(axis=1, keepdims=True, initial=0)
    span = np.maximum(high - low, np.float32(1e-30))
    inverse = np.float32(255) / span
    zero = np.rint(-low * inverse)
    codes = np.nan_to_num(np.clip(np.rint(x * inverse + zero), 0, 255)).astype(np.uint8)
    return codes, span / np.float32(255), zero


def linear(x: Array, w: Any, b: Array) -> Array:
    """x [T, K] @ w [K, N] + b [N]. With `Bytes`, x becomes bytes too and the product of bytes is exact."""
    if isinstance(w, Bytes):
        codes, scale, zero = quantize(x, w.channel)
        products = codes.astype(np.float64) @ w.codes.astype(np.float64)  # whole numbers below 2^53
        products -= zero * w.codes.sum(axis=0, dtype=np.float64)
        y = products * scale * w.scales + b
        return (y + x[:, [w.channel]] * w.outlier).astype(np.float32)
    return x @ w + b


_erf = np.frompyfunc(math.erf, 1, 1)


def gelu(x: Array) -> Array:
    """x Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016)."""
    return x * (0.5 * (1 + _erf(x / math.sqrt(2)).astype(x.dtype)))


def gelu_tanh(x: Array) -> Array:
    """GELU by its tanh approximation, which older models were trained with."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def linear_gelu(x: Array, w: Array, b: Array) -> Array:
    return gelu(linear(x, w, b))


def linear_gelu_tanh(x: Array, w: Array, b: Array) -> Array:
    return gelu_tanh(linear(x, w, b))


def linear_relu(x: Array, w: Array, b: Array) -> Array:
    return np.maximum(linear(x, w, b), 0)


def linear_tanh(x: Array, w: Array, b: Array) -> Array:
    return np.tanh(linear(x, w, b))


def linear_sigmoid(x: Array, w: Array, b: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(0.5 * linear(x, w, b))  # 1 / (1 + e^-x) without overflow


def linear_add_norm(x: Array, residual: Array, w: Array, b: Array, *norm: Any) -> Array:
    """layer_norm(x @ w + b + residual): the end of each half of a post-norm block; norm = (gamma, beta, eps)."""
    return layer_norm(linear(x, w, b) + residual, *norm)


def qkv(h: Array, w: Array, b: Array, heads: int) -> tuple[Array, Array, Array]:
    """Queries, keys and values by one product. h [T, C], w [C, 3C] -> three arrays [T, H, D]."""
    t, c = h.shape
    q, k, v = linear(h, w, b).reshape(t, 3, heads, c // heads).transpose(1, 0, 2, 3)  # (T, 3C) -> (3, T, H, D)
    return q, k, v


def attention_weights(q: Array, k: Array, starts: Ints) -> list[Array]:
    """softmax(q k^T / sqrt(D)) of each text: a list of [H, S, S], rows sum to one (Vaswani et al. 2017, equation 1)."""
    weights = []
    for s, e in pairwise(starts):
        scores = np.einsum("ihd,jhd->hij", q[s:e], k[s:e]) / math.sqrt(q.shape[2])
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights.append(p / p.sum(axis=-1, keepdims=True))
    return weights


def first_rows(h: Array, starts: Ints) -> Array:
    """The first token's row of each text. [T, C] -> [B, C]"""
    return np.ascontiguousarray(h[starts[:-1]])


def attend(q: Array, k: Array, v: Array, starts: Ints, first_only: bool = False) -> Array:
    """Multi-head attention within each text. q, k, v [T, H, D] -> [T, C]; first_only: first tokens alone, [B, C]."""
    if first_only:
        return first_rows(attend(q, k, v, starts), starts)
    out = np.empty_like(v, order="C")
    for p, s, e in zip(attention_weights(q, k, starts), starts[:-1], starts[1:], strict=True):
        out[s:e] = np.einsum("hij,jhd->ihd", p, v[s:e])
    return out.reshape(len(out), -1)  # (T, H, D) -> (T, C)
