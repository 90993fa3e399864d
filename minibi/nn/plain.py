"""The verbs of a transformer encoder in NumPy, each with its gradient: what they mean, and the oracle of `fused`.

An architecture is written once against these names and runs on any interpreter that has them: this module, or
`minibi.nn.fused`. Texts are packed end to end: h is [T, C] for all T tokens of a batch, and `starts` [B+1] says
where each text begins and the last one ends. There is no padding and no mask. Verbs are pure: they change no argument.

The gradient of a verb `f` stands below it: `f_grad(dy, *args)` takes dL/dy for y = f(*args) and returns dL/darg for
each argument in turn (None for those that have none), up to the last that has one. It computes again what is cheap
instead of remembering it. `wanted` says by position which gradients somebody needs; the others may be None, and cost
nothing where they are matrix products. `drop` is a place of dropout (`minibi.nn.dropout`). `GRAD` lists all gradients.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..shapes import Floats, Ints, unit_rows
from .dropout import Drop, dropped
from .erf import erf
from .pooling import pool as pool
from .pooling import pool_grad

Array = Any  # float32 in use, float64 when gradients are checked
ALL = (True,) * 16  # every gradient is wanted

name = "plain"


def matrix(w: Array) -> Floats:
    """A stored weight [N, K] (rows are outputs, as PyTorch keeps them) as this interpreter's linear verbs want it."""
    return np.ascontiguousarray(np.asarray(w, np.float32).T)  # (N, K) -> (K, N)


def vector(x: Array) -> Floats:
    """A stored bias or scale as this interpreter wants it."""
    return np.ascontiguousarray(x, dtype=np.float32)


def table(x: Array) -> Floats:
    """A stored table of few rows as this interpreter wants it."""
    return x.astype(np.float32)


def transpose(w: Array) -> Array:
    return w.T


def transpose_grad(dy: Array, w: Array) -> tuple[Array]:
    return (dy.T,)


def join(*parts: Array) -> Array:
    """Arrays one below the other."""
    return np.concatenate(parts)


def join_grad(dy: Array, *parts: Array) -> tuple[Array, ...]:
    return tuple(np.split(dy, np.cumsum([len(part) for part in parts])[:-1]))


def embed(
    ids: Ints, types: Ints, positions: Ints, word: Any, position: Any, token_type: Any, *norm: Any,
    drop: Drop | None = None,
) -> Array:  # fmt: skip
    """Token + position + type embedding, normalized; norm = (gamma, beta, eps). ids, types, positions [T] -> [T, C]."""
    h = word[ids].astype(position.dtype) + (position[positions] + token_type[types])
    return dropped(layer_norm(h, *norm), drop)


def embed_grad(
    dy: Array, ids: Ints, types: Ints, positions: Ints, word: Array, position: Array, token_type: Array, *norm: Any,
    drop: Drop | None = None, wanted: Sequence[bool] = ALL,
) -> tuple[Array | None, ...]:  # fmt: skip
    h = word[ids] + (position[positions] + token_type[types])
    dh, dgamma, dbeta = layer_norm_grad(dropped(dy, drop), h, *norm)
    which = zip((word, position, token_type), (ids, positions, types), wanted[3:6], strict=True)
    tables = [rows_grad(dh, rows, len(table)) if wants else None for table, rows, wants in which]
    return None, None, None, *tables, dgamma, dbeta


def rows_grad(dy: Array, rows: Ints, count: int) -> Array:
    """The gradient of table[rows]: [T, C] -> [count, C]; a row that was read often gets the sum, in order."""
    order = np.argsort(rows, kind="stable")
    found, first = np.unique(rows[order], return_index=True)
    out = np.zeros((count, dy.shape[1]), dy.dtype)
    if len(rows):
        out[found] = np.add.reduceat(dy[order], first, axis=0)
    return out


def layer_norm(x: Array, gamma: Array, beta: Array, eps: float) -> Array:
    """(x - mean) / sqrt(var + eps) * gamma + beta over the last axis (Ba, Kiros & Hinton 2016)."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    return centred / np.sqrt(variance + eps) * gamma + beta


def layer_norm_grad(dy: Array, x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
    centred = x - x.mean(axis=-1, keepdims=True)
    inverse = 1 / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + eps)
    y = centred * inverse
    d = dy * gamma
    dx = inverse * (d - d.mean(axis=-1, keepdims=True) - y * (d * y).mean(axis=-1, keepdims=True))
    return dx, (dy * y).sum(axis=0), dy.sum(axis=0)


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


def linear_grad(
    dy: Array, x: Array, w: Array, b: Array, wanted: Sequence[bool] = ALL
) -> tuple[Array | None, Array | None, Array | None]:
    dx = dy @ w.T if wanted[0] else None  # (T, N) @ (N, K) -> (T, K)
    dw = (dy.T @ x).T if wanted[1] else None  # (N, T) @ (T, K), laid out as weights are stored -> (K, N)
    db = dy.sum(axis=0) if wanted[2] else None
    return dx, dw, db


def gelu(x: Array) -> Array:
    """x Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016)."""
    return x * (0.5 * (1 + erf(x / math.sqrt(2))))


def gelu_short(x: Array) -> Array:
    """`gelu` within 1.8e-4, for numbers that become bytes; its tail is the polynomial of `kernels.functions`."""
    a = np.minimum(np.abs(x), np.float32(4.33))
    p = np.polyval(np.float32([-9.79728065e-05, 0.000492265797, -0.00027388343, -0.00140925054]), a)
    return np.maximum(x, 0) + a * (4.33 - a) ** 4 * p


def gelu_grad(dy: Array, x: Array) -> tuple[Array]:
    density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return (dy * (0.5 * (1 + erf(x / math.sqrt(2))) + x * density),)


def gelu_tanh(x: Array) -> Array:
    """GELU by its tanh approximation, which older models were trained with."""
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def gelu_tanh_grad(dy: Array, x: Array) -> tuple[Array]:
    t = np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))
    slope = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x * x)
    return (dy * 0.5 * (1 + t + x * (1 - t * t) * slope),)


def linear_gelu(x: Array, w: Array | Bytes, b: Array) -> Array:
    return (gelu_short if isinstance(w, Bytes) else gelu)(linear(x, w, b))


def linear_gelu_grad(dy: Array, x: Array, w: Array, b: Array, wanted: Sequence[bool] = ALL) -> tuple[Array | None, ...]:
    (dz,) = gelu_grad(dy, linear(x, w, b))
    return linear_grad(dz, x, w, b, wanted)


def linear_gelu_tanh(x: Array, w: Array, b: Array) -> Array:
    return gelu_tanh(linear(x, w, b))


def linear_gelu_tanh_grad(
    dy: Array, x: Array, w: Array, b: Array, wanted: Sequence[bool] = ALL
) -> tuple[Array | None, ...]:
    (dz,) = gelu_tanh_grad(dy, linear(x, w, b))
    return linear_grad(dz, x, w, b, wanted)


def linear_relu(x: Array, w: Array, b: Array) -> Array:
    return np.maximum(linear(x, w, b), 0)


def linear_relu_grad(dy: Array, x: Array, w: Array, b: Array, wanted: Sequence[bool] = ALL) -> tuple[Array | None, ...]:
    z = linear(x, w, b)
    return linear_grad(dy * (z > 0), x, w, b, wanted)


def linear_tanh(x: Array, w: Array, b: Array) -> Array:
    return np.tanh(linear(x, w, b))


def linear_tanh_grad(dy: Array, x: Array, w: Array, b: Array, wanted: Sequence[bool] = ALL) -> tuple[Array | None, ...]:
    y = linear_tanh(x, w, b)
    return linear_grad(dy * (1 - y * y), x, w, b, wanted)


def linear_sigmoid(x: Array, w: Array, b: Array) -> Array:
    return 0.5 + 0.5 * np.tanh(0.5 * linear(x, w, b))  # 1 / (1 + e^-x) without overflow


def linear_sigmoid_grad(
    dy: Array, x: Array, w: Array, b: Array, wanted: Sequence[bool] = ALL
) -> tuple[Array | None, ...]:
    y = linear_sigmoid(x, w, b)
    return linear_grad(dy * y * (1 - y), x, w, b, wanted)


def linear_add_norm(x: Array, residual: Array, w: Array, b: Array, *norm: Any, drop: Drop | None = None) -> Array:
    """layer_norm(x @ w + b + residual): the end of each half of a post-norm block; norm = (gamma, beta, eps)."""
    return layer_norm(dropped(linear(x, w, b), drop) + residual, *norm)


def linear_add_norm_grad(
    dy: Array, x: Array, residual: Array, w: Array, b: Array, *norm: Any,
    drop: Drop | None = None, wanted: Sequence[bool] = ALL,
) -> tuple[Array | None, ...]:  # fmt: skip
    total = dropped(linear(x, w, b), drop) + residual
    dtotal, dgamma, dbeta = layer_norm_grad(dy, total, *norm)
    dx, dw, db = linear_grad(dropped(dtotal, drop), x, w, b, (wanted[0], wanted[2], wanted[3]))
    return dx, dtotal, dw, db, dgamma, dbeta


def qkv(h: Array, w: Array, b: Array, heads: int) -> tuple[Array, Array, Array]:
    """Queries, keys and values by one product. h [T, C], w [C, 3C] -> three arrays [T, H, D]."""
    t, c = h.shape
    q, k, v = linear(h, w, b).reshape(t, 3, heads, c // heads).transpose(1, 0, 2, 3)  # (T, 3C) -> (3, T, H, D)
    return q, k, v


def qkv_grad(
    dy: tuple[Array, Array, Array], h: Array, w: Array, b: Array, heads: int, wanted: Sequence[bool] = ALL
) -> tuple[Array | None, ...]:
    return linear_grad(np.stack(dy, axis=1).reshape(len(h), -1), h, w, b, wanted)  # 3 x (T, H, D) -> (T, 3C)


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


def first_rows_grad(dy: Array, h: Array, starts: Ints) -> tuple[Array]:
    dh = np.zeros(h.shape, dy.dtype)
    dh[starts[:-1]] = dy
    return (dh,)


def attend(q: Array, k: Array, v: Array, starts: Ints, first_only: bool = False, drop: Drop | None = None) -> Array:
    """Multi-head attention within each text. q, k, v [T, H, D] -> [T, C]; first_only: first tokens alone, [B, C].

    drop: attention weights are dropped after the softmax, as rows of token, then head.
    """
    if first_only:
        return first_rows(attend(q, k, v, starts, drop=drop), starts)
    out = np.empty_like(v, order="C")
    for p, s, e in zip(attention_weights(q, k, starts), starts[:-1], starts[1:], strict=True):
        out[s:e] = np.einsum("hij,jhd->ihd", p * _kept(s, e, q.shape[1], p.dtype, drop), v[s:e])
    return out.reshape(len(out), -1)  # (T, H, D) -> (T, C)


def attend16(q: Array, k: Array, v: Array, starts: Ints, first_only: bool = False) -> Array:
    """`attend` in whole numbers of 16 bits, rounded as `kernels.attention16` says."""
    if first_only:
        return first_rows(attend16(q, k, v, starts), starts)
    width = q.shape[2]
    limit = np.floor(np.sqrt((2.0**31 - 1) / (-(-width // 32) * 32)))  # a sum of products stays below 2^31
    out = np.empty_like(v, order="C")
    for s, e in pairwise(starts):
        (q_codes, q_scale), (k_codes, k_scale), (v_codes, v_scale) = (
            _short_codes(x[s:e], top) for x, top in ((q, limit), (k, limit), (v, 1023))
        )
        scores = np.einsum("ihd,jhd->hij", q_codes, k_codes)
        factor = q_scale * k_scale / (math.log(2) * math.sqrt(width))  # (H, 1)
        whole = factor[:, :, None] * (scores - scores.max(axis=-1, keepdims=True))
        power = np.rint(np.maximum(whole + 14, -8))  # 2^whole as in `kernels.functions.exp2_short`
        poly = np.polyval([0.0551718747, 0.242611381, 0.693260946, 0.999928027], np.maximum(whole + 14, -8) - power)
        p = np.rint(np.ldexp(poly, power.astype(np.int64)))
        mixed = np.einsum("hij,jhd->ihd", p, v_codes)
        out[s:e] = mixed * v_scale / p.sum(axis=-1).T[:, :, None]  # (H, i) -> (i, H, 1)
    return out.reshape(len(out), -1)  # (T, H, D) -> (T, C)


def _short_codes(x: Array, top: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """[S, H, D] -> whole numbers up to `top` and, for each head, their scale [H, 1]."""
    largest = np.abs(x).max(axis=(0, 2), initial=1e-30).astype(np.float64)[:, None]
    return np.rint(x * (top / largest)), largest / top


def attend_grad(
    dy: Array, q: Array, k: Array, v: Array, starts: Ints, first_only: bool = False, drop: Drop | None = None
) -> tuple[Array, Array, Array]:
    if first_only:
        (dy,) = first_rows_grad(dy, q.reshape(len(q), -1), starts)  # (B, C) -> (T, C)
    dout = dy.reshape(q.shape)  # (T, C) -> (T, H, D)
    dq, dk, dv = (np.zeros(q.shape, dy.dtype) for _ in range(3))
    for p, s, e in zip(attention_weights(q, k, starts), starts[:-1], starts[1:], strict=True):
        kept = _kept(s, e, q.shape[1], p.dtype, drop)
        dv[s:e] = np.einsum("hij,ihd->jhd", p * kept, dout[s:e])  # out = (p kept) v
        dp = np.einsum("ihd,jhd->hij", dout[s:e], v[s:e]) * kept
        dscores = p * (dp - (dp * p).sum(axis=-1, keepdims=True)) / math.sqrt(q.shape[2])  # p = softmax(scores)
        dq[s:e] = np.einsum("hij,jhd->ihd", dscores, k[s:e])  # scores = q k^T / sqrt(D)
        dk[s:e] = np.einsum("hij,ihd->jhd", dscores, q[s:e])
    return dq, dk, dv


def _kept(s: int, e: int, heads: int, dtype: Any, drop: Drop | None) -> Any:
    """The factors of one text's attention weights, [H, S, S], or 1."""
    if drop is None:
        return 1
    rows = (drop.first + np.arange(s, e)) * heads + np.arange(heads)[:, None]  # (H, S)
    return drop.factors(rows, e - s, dtype)


def dropout(x: Array, drop: Drop | None = None) -> Array:
    """x [T, C], elements dropped while training: see `minibi.nn.dropout`."""
    return dropped(x, drop)


def dropout_grad(dy: Array, x: Array, drop: Drop | None = None) -> tuple[Array]:
    return (dropped(dy, drop),)


normalize = unit_rows


def normalize_grad(dy: Array, x: Array) -> tuple[Array]:
    """y = x / |x|, so dx = (dy - y (y . dy)) / |x|; a zero row, which has no direction, gets zero."""
    wide = x.astype(np.float64)
    length = np.sqrt((wide * wide).sum(axis=1, keepdims=True))
    inverse = np.divide(1, length, out=np.zeros_like(length), where=length > 0)
    y = wide * inverse
    return (((dy - y * (y * dy).sum(axis=1, keepdims=True)) * inverse).astype(x.dtype),)


def accumulate(total: Array, grad: Array) -> None:
    """total += grad, for an array that was used twice; `total` is the tape's own."""
    total += grad


GRAD: dict[str, Callable[..., tuple]] = {
    "attend": attend_grad,
    "dropout": dropout_grad,
    "embed": embed_grad,
    "first_rows": first_rows_grad,
    "gelu": gelu_grad,
    "gelu_tanh": gelu_tanh_grad,
    "join": join_grad,
    "layer_norm": layer_norm_grad,
    "linear": linear_grad,
    "linear_add_norm": linear_add_norm_grad,
    "linear_gelu": linear_gelu_grad,
    "linear_gelu_tanh": linear_gelu_tanh_grad,
    "linear_relu": linear_relu_grad,
    "linear_sigmoid": linear_sigmoid_grad,
    "linear_tanh": linear_tanh_grad,
    "normalize": normalize_grad,
    "pool": pool_grad,
    "qkv": qkv_grad,
    "transpose": transpose_grad,
}
