"""`fused`: the verbs of `plain` on compiled kernels. This file is the one door between the calculus and the kernels.

Each verb gives the same bits for a text alone and in any batch, order and number of threads; it may be called from many
threads at once. Against `plain` the results differ by rounding only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..kernels import attention, matmul
from ..kernels.norm import layer_norm
from ..shapes import Floats, Ints
from . import plain

name = "fused"


@dataclass(frozen=True)
class Packed:
    """A weight matrix [K, N] in panels, ready for `kernels.matmul`; `width` is N filled up to whole panels."""

    panels: Floats
    k: int
    n: int

    @property
    def width(self) -> int:
        return len(self.panels) * matmul.PANEL


def matrix(w: Any) -> Packed:
    """A stored weight [N, K] -> panels."""
    n, k = w.shape
    return Packed(matmul.pack(np.asarray(w, np.float32).T), k, n)


def vector(x: Any) -> Floats:
    """A bias or scale, zeros appended up to a whole panel."""
    whole = -(-x.size // matmul.PANEL) * matmul.PANEL
    out = matmul.aligned((whole,))
    out[: x.size] = x
    return out


def embed(ids: Ints, types: Ints, positions: Ints, word: Any, position: Any, token_type: Any, *norm: Any) -> Floats:
    h = word[ids].astype(np.float32)  # (T,) -> (T, C)
    h += position[positions] + token_type[types]
    return _normalize(h, h.shape[1], *norm)


def _normalize(h: Floats, channels: int, gamma: Floats, beta: Floats, eps: float) -> Floats:
    """Normalizes rows over their first `channels` in place, by way of a wider copy where rows are no multiple of 16."""
    if h.shape[1] % 16:
        wide = np.zeros((len(h), -(-channels // 16) * 16), np.float32)
        wide[:, :channels] = h[:, :channels]
        h = wide
    layer_norm(h, channels, gamma, beta, np.float32(eps))
    return h if h.shape[1] == channels else np.ascontiguousarray(h[:, :channels])


def _linear(x: Floats, w: Packed, b: Floats, kind: int, residual: Floats | None = None) -> Floats:
    out = np.empty((len(x), w.width), np.float32)
    if residual is not None and w.width != w.n:
        residual = np.pad(residual, ((0, 0), (0, w.width - w.n)))
    matmul.linear(x, w.panels, b, out if residual is None else residual, kind, out)
    return out


def _narrow(out: Floats, n: int) -> Floats:
    return out if out.shape[1] == n else np.ascontiguousarray(out[:, :n])


def linear(x: Floats, w: Packed, b: Floats) -> Floats:
    return _narrow(_linear(x, w, b, matmul.NONE), w.n)


def linear_gelu(x: Floats, w: Packed, b: Floats) -> Floats:
    return _narrow(_linear(x, w, b, matmul.GELU), w.n)


def linear_gelu_tanh(x: Floats, w: Packed, b: Floats) -> Floats:
    return _narrow(_linear(x, w, b, matmul.GELU_TANH), w.n)


def linear_relu(x: Floats, w: Packed, b: Floats) -> Floats:
    return _narrow(_linear(x, w, b, matmul.RELU), w.n)


def linear_tanh(x: Floats, w: Packed, b: Floats) -> Floats:
    return _narrow(_linear(x, w, b, matmul.TANH), w.n)


def linear_sigmoid(x: Floats, w: Packed, b: Floats) -> Floats:
    return _narrow(_linear(x, w, b, matmul.SIGMOID), w.n)


def linear_add_norm(x: Floats, residual: Floats, w: Packed, b: Floats, *norm: Any) -> Floats:
    return _normalize(_linear(x, w, b, matmul.RESIDUAL, residual), w.n, *norm)


def qkv(h: Floats, w: Packed, b: Floats, heads: int) -> tuple[Floats, Floats, Floats]:
    """Three views [T, H, D] of one [T, 3C] array: nothing is moved."""
    t, c = h.shape
    wide = linear(h, w, b).reshape(t, 3, heads, c // heads)
    return wide[:, 0], wide[:, 1], wide[:, 2]


def attend(q: Floats, k: Floats, v: Floats, starts: Ints) -> Floats:
    out = np.empty(q.shape, np.float32)
    attention.attend(q, k, v, starts, np.float32(1 / math.sqrt(q.shape[2])), out)
    return out.reshape(len(out), -1)  # (T, H, D) -> (T, C)


attention_weights = plain.attention_weights
