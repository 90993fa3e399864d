"""`fused`: the verbs of `plain` on compiled kernels. This file and `replay` are the door from the calculus to kernels.

Each verb gives the same bits for a text alone and in any batch, order and number of threads; it may be called from many
threads at once. Against `plain` the results differ by rounding only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import attention, attention16, int8, matmul
from ..kernels.norm import layer_norm
from ..shapes import Floats, Ints
from . import plain

name = "fused"


@dataclass(frozen=True)
class Packed:
    """A weight matrix [K, N] in panels, ready for `kernels.matmul`; `width` is N filled up to whole panels."""

    panels: NDArray  # float32 or float16
    k: int
    n: int

    @property
    def width(self) -> int:
        return len(self.panels) * matmul.PANEL

    @property
    def halves(self) -> bool:
        return self.panels.dtype == np.float16


@dataclass(frozen=True)
class PackedBytes:
    """A weight matrix [K, N] as signed bytes in panels, ready for `kernels.int8`."""

    panels: NDArray[np.int8]
    columns: Floats  # [3, width]: scales, sums of the bytes, weights of the channel that stays float
    channel: int
    k: int  # filled up to a multiple of four
    n: int

    @property
    def width(self) -> int:
        return len(self.panels) * matmul.PANEL


def matrix(w: Any) -> Packed:
    """A stored weight [N, K] -> panels, of float16 if that is what is stored."""
    n, k = w.shape
    dtype = np.float16 if w.dtype == np.float16 else np.float32
    return Packed(matmul.pack(np.asarray(w, dtype).T), k, n)


def matrix8(w: Any, channel: int = 0) -> PackedBytes:
    """A stored weight [N, K] -> bytes in panels, all but those of one input channel."""
    n, k = w.shape
    panels, columns = int8.pack8(np.asarray(w, np.float32).T, channel)
    return PackedBytes(panels, columns, channel, -(-k // 4) * 4, n)


def vector(x: Any) -> Floats:
    """A bias or scale, zeros appended up to a whole panel."""
    whole = -(-x.size // matmul.PANEL) * matmul.PANEL
    out = matmul.lasting((whole,))
    out[: x.size] = x
    return out


def embed(ids: Ints, types: Ints, positions: Ints, word: Any, position: Any, token_type: Any, *norm: Any) -> Floats:
    h = word[ids].astype(np.float32)  # (T,) -> (T, C)
    h += position[positions] + token_type[types]
    return _normalize(h, h.shape[1], *norm)


def _normalize(h: Floats, channels: int, gamma: Floats, beta: Floats, eps: float) -> Floats:
    """Normalizes rows over their first `channels` in place, by way of a wider copy where rows are no multiple of 16."""
    if h.shape[1] % 16:
        h = _widened(h[:, :channels], -(-channels // 16) * 16)
    layer_norm(h, channels, gamma, beta, np.float32(eps))
    return _narrow(h, channels)


def _linear(x: Floats, w: Packed | PackedBytes, b: Floats, kind: int, residual: Floats | None = None) -> Floats:
    out = np.empty((len(x), w.width), np.float32)
    residual = out if residual is None else _widened(residual, w.width)
    if isinstance(w, PackedBytes):
        x = _widened(x, -(-w.k // 16) * 16)
        codes, terms = np.empty(x.shape, np.uint8), np.empty((len(x), int8.TERM // 4), np.float32)
        int8.quantize(x, w.channel, codes, terms)
        int8.linear8(codes, terms, w.k, w.panels, w.columns, b, residual, kind, out)
    else:
        matmul.linear(x, w.panels.view(np.uint8), w.halves, b, residual, kind, out)
    return out


def _widened(x: Floats, width: int) -> Floats:
    return x if x.shape[1] == width else np.pad(x, ((0, 0), (0, width - x.shape[1])))


def _narrow(out: Floats, n: int) -> Floats:
    return out if out.shape[1] == n else np.ascontiguousarray(out[:, :n])


def linear(x: Floats, w: Packed | PackedBytes, b: Floats) -> Floats:
    return _narrow(_linear(x, w, b, matmul.NONE), w.n)


def linear_gelu(x: Floats, w: Packed | PackedBytes, b: Floats) -> Floats:
    return _narrow(_linear(x, w, b, matmul.GELU), w.n)


def linear_gelu_tanh(x: Floats, w: Packed | PackedBytes, b: Floats) -> Floats:
    return _narrow(_linear(x, w, b, matmul.GELU_TANH), w.n)


def linear_relu(x: Floats, w: Packed | PackedBytes, b: Floats) -> Floats:
    return _narrow(_linear(x, w, b, matmul.RELU), w.n)


def linear_tanh(x: Floats, w: Packed | PackedBytes, b: Floats) -> Floats:
    return _narrow(_linear(x, w, b, matmul.TANH), w.n)


def linear_sigmoid(x: Floats, w: Packed | PackedBytes, b: Floats) -> Floats:
    return _narrow(_linear(x, w, b, matmul.SIGMOID), w.n)


def linear_add_norm(x: Floats, residual: Floats, w: Packed | PackedBytes, b: Floats, *norm: Any) -> Floats:
    return _normalize(_linear(x, w, b, matmul.RESIDUAL, residual), w.n, *norm)


def qkv(h: Floats, w: Packed | PackedBytes, b: Floats, heads: int) -> tuple[Floats, Floats, Floats]:
    """Three views [T, H, D] of one [T, 3C] array: nothing is moved."""
    t, c = h.shape
    wide = linear(h, w, b).reshape(t, 3, heads, c // heads)
    return wide[:, 0], wide[:, 1], wide[:, 2]


def attend(q: Floats, k: Floats, v: Floats, starts: Ints, first_only: bool = False) -> Floats:
    return _attend(attention.attend, q, k, v, starts, first_only)


def attend16(q: Floats, k: Floats, v: Floats, starts: Ints, first_only: bool = False) -> Floats:
    return _attend(attention16.attend16, q, k, v, starts, first_only)


def _attend(kernel: Any, q: Floats, k: Floats, v: Floats, starts: Ints, first_only: bool) -> Floats:
    rows = len(starts) - 1 if first_only else len(q)
    out = np.empty((rows, *q.shape[1:]), np.float32)
    kernel(q, k, v, starts, np.float32(1 / math.sqrt(q.shape[2])), first_only, out)
    return out.reshape(rows, -1)  # (T, H, D) -> (T, C)


first_rows = plain.first_rows
join = plain.join
normalize = plain.normalize
pool = plain.pool
table = plain.table
attention_weights = plain.attention_weights
