"""The verbs of `plain` and their gradients on compiled kernels and several threads: what training runs on.

Weights are views [K, N] of matrices as they are stored, since they change at every step; they are packed at each use.
KEEP has the verbs that remember, for their gradient, what would be dear to compute again. Every sum runs in an order
that depends on the shapes alone, so the bits do not depend on the number of threads. What the kernels do not cover
(widths that are no multiple of their panels, small heads) is left to `plain`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..kernels import attention, attention_grad, matmul_grad, norm_grad
from ..kernels import dropout as dropping
from ..kernels.attention import VALUE_PANEL
from ..kernels.matmul import PANEL
from ..kernels.norm_grad import CHUNK
from ..shapes import Floats, Ints
from ..threads import parallel_ranges
from . import plain
from .dropout import Drop
from .memory import empty
from .plain import ALL

name = "fused_grad"
matrix, vector, table = plain.transpose, np.asarray, np.asarray

dropout, first_rows, join, normalize = plain.dropout, plain.first_rows, plain.join, plain.normalize
gelu, gelu_tanh, pool, transpose = plain.gelu, plain.gelu_tanh, plain.pool, plain.transpose
linear_gelu_tanh, linear_relu = plain.linear_gelu_tanh, plain.linear_relu
linear_tanh, linear_sigmoid, layer_norm = plain.linear_tanh, plain.linear_sigmoid, plain.layer_norm


def _covered(x: Floats, w: Floats) -> bool:
    """Whether the kernels take these widths; few rows are quicker without them."""
    k, n = w.shape
    return len(x) >= 2 * CHUNK and k % PANEL == 0 and n % PANEL == 0 and k % 16 == 0 and w.flags.f_contiguous


def _place(drop: Drop | None) -> dropping.Place:
    """A place of dropout as kernels take it."""
    if drop is None:
        return dropping.NOTHING
    return drop.key, int(drop.threshold), np.float32(1 / (1 - drop.rate)), drop.first


def _chunks(work: Callable[[int, int, int], object], rows: int) -> int:
    """work(chunk, first row, last row) for every chunk of CHUNK rows, on several threads; how many there were."""
    count = -(-rows // CHUNK)

    def several(first: int, last: int) -> None:
        for i in range(first, last):
            work(i, CHUNK * i, min(CHUNK * (i + 1), rows))

    parallel_ranges(several, count)
    return count


def _panels(w: Floats) -> Floats:
    """w [K, N], a view of the stored [N, K], in panels: for x @ w."""
    k, n = w.shape
    panels = empty((n // PANEL, k, PANEL))
    parallel_ranges(lambda first, last: matmul_grad.pack_transposed(w.T, first, last, panels), len(panels))
    return panels


def _stored_panels(w: Floats) -> Floats:
    """The stored matrix [N, K] in panels: for dy @ w.T."""
    k, n = w.shape
    panels = empty((k // PANEL, n, PANEL))
    parallel_ranges(lambda first, last: matmul_grad.pack_rows(w.T, first, last, panels), len(panels))
    return panels


def _multiply(x: Floats, panels: Floats, b: Floats, kind: int, out: Floats, other: Floats | None = None) -> None:
    matmul_grad.product(x, panels, b, out if other is None else other, kind, out)


def _weight_grad(dy: Floats, x: Floats) -> tuple[Floats, Floats]:
    """dy^T x, [N, K], as a view [K, N], and the sums of dy over tokens [N]. Threads share the longer side."""
    n, k, unit = dy.shape[1], x.shape[1], matmul_grad.UNIT
    dw, db = empty((n, k)), np.empty(n, np.float32)

    def some(first: int, last: int) -> None:
        scratch = empty((matmul_grad.WEIGHT_SCRATCH,))
        if n >= k:
            matmul_grad.weight_grad(dy, x, unit * first, min(unit * last, n), 0, k, scratch, dw, db)
        else:
            matmul_grad.weight_grad(dy, x, 0, n, PANEL * first, PANEL * last, scratch, dw, db)

    parallel_ranges(some, -(-n // unit) if n >= k else k // PANEL)
    return dw.T, db


def linear(x: Floats, w: Floats, b: Floats) -> Floats:
    if not _covered(x, w):
        return plain.linear(x, w, b)
    panels, out = _panels(w), empty((len(x), w.shape[1]))
    _chunks(lambda _, s, e: _multiply(x[s:e], panels, b, matmul_grad.BIAS, out[s:e]), len(x))
    return out


def linear_grad(
    dy: Floats, x: Floats, w: Floats, b: Floats, wanted: Sequence[bool] = ALL, onto: Floats | None = None
) -> tuple:
    """onto: where the gradient of x is added, and then returned."""
    if not _covered(x, w):
        dx, dw, db = plain.linear_grad(dy, x, w, b, wanted)
        if onto is not None and dx is not None:
            onto += dx
            dx = onto
        return dx, dw, db
    dx = None
    if wanted[0]:
        panels, zero, dx = _stored_panels(w), np.zeros(len(w), np.float32), empty(x.shape) if onto is None else onto
        kind = matmul_grad.BIAS if onto is None else matmul_grad.ONTO
        _chunks(lambda _, s, e: _multiply(dy[s:e], panels, zero, kind, dx[s:e]), len(dy))
    if wanted[1]:
        return dx, *_weight_grad(dy, x)
    return dx, None, dy.sum(axis=0) if wanted[2] else None


def linear_gelu_keep(x: Floats, w: Floats, b: Floats) -> tuple[Floats, Floats | None]:
    """The result, and the slope of GELU at each x @ w + b."""
    if not _covered(x, w):
        return plain.linear_gelu(x, w, b), None
    panels = _panels(w)
    slope, out = empty((len(x), w.shape[1])), empty((len(x), w.shape[1]))
    _chunks(lambda _, s, e: _multiply(x[s:e], panels, b, matmul_grad.GELU, out[s:e], slope[s:e]), len(x))
    return out, slope


def linear_gelu(x: Floats, w: Floats, b: Floats) -> Floats:
    return linear_gelu_keep(x, w, b)[0]


def linear_gelu_grad(
    dy: Floats, x: Floats, w: Floats, b: Floats, wanted: Sequence[bool] = ALL,
    kept: Floats | None = None, onto: Floats | None = None, sloped: bool = False,
) -> tuple:  # fmt: skip
    """sloped: dy was multiplied by the slope when it was computed."""
    if kept is None:
        dy = plain.gelu_grad(dy, plain.linear(x, w, b))[0]
    elif not sloped:
        dy = dy * kept
    return linear_grad(dy, x, w, b, wanted, onto)


def linear_add_norm_keep(
    x: Floats, residual: Floats, w: Floats, b: Floats, *norm: Any, drop: Drop | None = None
) -> tuple[Floats, tuple | None]:
    """The result, and what `norm_grad` wants: rows normalized, and 1 / their deviations."""
    if not _covered(x, w):
        return plain.linear_add_norm(x, residual, w, b, *norm, drop=drop), None
    (gamma, beta, eps), place = norm, _place(drop)
    panels, total, out = _panels(w), empty(residual.shape), empty(residual.shape)
    inverse = np.empty(len(x), np.float32)

    def work(_: int, s: int, e: int) -> None:
        if drop is None:
            _multiply(x[s:e], panels, b, matmul_grad.RESIDUAL, total[s:e], residual[s:e])
        else:
            _multiply(x[s:e], panels, b, matmul_grad.BIAS, total[s:e])
            dropping.drop_rows_add(total[s:e], s, place, residual[s:e])
        norm_grad.norm(total[s:e], gamma, beta, np.float32(eps), inverse[s:e], out[s:e])

    _chunks(work, len(x))
    return out, (total, inverse)


def linear_add_norm(x: Floats, residual: Floats, w: Floats, b: Floats, *norm: Any, drop: Drop | None = None) -> Floats:
    return linear_add_norm_keep(x, residual, w, b, *norm, drop=drop)[0]


def linear_add_norm_grad(
    dy: Floats, x: Floats, residual: Floats, w: Floats, b: Floats, *norm: Any,
    drop: Drop | None = None, wanted: Sequence[bool] = ALL, kept: tuple | None = None, slope: Floats | None = None,
) -> tuple:  # fmt: skip
    """slope: what the gradient of x is multiplied by."""
    if kept is None:
        dx, *others = plain.linear_add_norm_grad(dy, x, residual, w, b, *norm, drop=drop, wanted=wanted)
        return (dx if dx is None or slope is None else dx * slope), *others
    (normal, inverse), gamma = kept, norm[0]
    dtotal, sums = empty(normal.shape), np.empty((-(-len(x) // CHUNK), 2, normal.shape[1]), np.float32)
    panels, zero = _stored_panels(w) if wanted[0] else None, np.zeros(len(w), np.float32)
    dx = empty(x.shape) if wanted[0] else None
    dlinear, place = dtotal if drop is None else empty(normal.shape), _place(drop)

    def work(i: int, s: int, e: int) -> None:
        norm_grad.norm_grad(dy[s:e], normal[s:e], inverse[s:e], gamma, dtotal[s:e], sums[i])
        if drop is not None:
            dropping.drop_rows(dtotal[s:e], s, place, dlinear[s:e])
        if panels is not None and dx is not None:
            kind, factor = (matmul_grad.BIAS, None) if slope is None else (matmul_grad.TIMES, slope[s:e])
            _multiply(dlinear[s:e], panels, zero, kind, dx[s:e], factor)

    _chunks(work, len(x))
    dw, db = _weight_grad(dlinear, x) if wanted[2] else (None, dlinear.sum(axis=0) if wanted[3] else None)
    return dx, dtotal, dw, db, *sums.sum(axis=0)


def qkv(h: Floats, w: Floats, b: Floats, heads: int) -> tuple[Floats, Floats, Floats]:
    t, c = h.shape
    wide = linear(h, w, b).reshape(t, 3, heads, c // heads)
    return wide[:, 0], wide[:, 1], wide[:, 2]


def qkv_grad(
    dy: tuple[Floats, Floats, Floats], h: Floats, w: Floats, b: Floats, heads: int, wanted: Sequence[bool] = ALL,
    onto: Floats | None = None,
) -> tuple:  # fmt: skip
    t, c = h.shape
    first = dy[0].ctypes.data
    side_by_side = all(
        d.strides == (12 * c, 4 * c // heads, 4) and d.ctypes.data == first + 4 * c * i for i, d in enumerate(dy)
    )
    if side_by_side and t:  # parts of one array, as `attend_grad` leaves them
        wide = np.lib.stride_tricks.as_strided(dy[0], (t, 3 * c), (12 * c, 4))
    else:
        wide = np.stack(dy, axis=1).reshape(t, 3 * c)
    return linear_grad(wide, h, w, b, wanted, onto)


def _texts(work: Callable[[int, int], object], starts: Ints) -> None:
    """work(first, last text) on several threads, each with about as many tokens."""

    def some(begin: int, end: int) -> None:
        first, last = np.searchsorted(starts[:-1], (begin, end))
        if first < last:
            work(first, last)

    parallel_ranges(some, int(starts[-1]))


def _scratch_floats(q: Floats, starts: Ints) -> int:
    return attention_grad.scratch_floats(int(np.diff(starts).max(initial=1)), q.shape[2])


def attend(q: Floats, k: Floats, v: Floats, starts: Ints, first_only: bool = False, drop: Drop | None = None) -> Floats:
    if q.shape[2] % VALUE_PANEL:
        return plain.attend(q, k, v, starts, first_only, drop)
    if first_only:
        return first_rows(attend(q, k, v, starts, drop=drop), starts)
    out, scale = empty(q.shape), np.float32(1 / math.sqrt(q.shape[2]))
    size, place = _scratch_floats(q, starts), _place(drop)

    def work(i: int, j: int) -> None:
        s, e = starts[i], starts[j]
        bounds = starts[i : j + 1] - s
        if drop is None:
            attention.attend(q[s:e], k[s:e], v[s:e], bounds, scale, False, out[s:e])
        else:
            attention_grad.attend_dropped(
                q[s:e], k[s:e], v[s:e], bounds, scale, int(s), place, empty((size,)), out[s:e]
            )

    _texts(work, starts)
    return out.reshape(len(q), -1)


def attend_grad(
    dy: Floats, q: Floats, k: Floats, v: Floats, starts: Ints, first_only: bool = False, drop: Drop | None = None
) -> tuple[Floats, Floats, Floats]:
    if q.shape[2] % VALUE_PANEL:
        return plain.attend_grad(dy, q, k, v, starts, first_only, drop)
    t, heads, width = q.shape
    if first_only:
        (dy,) = plain.first_rows_grad(dy, q.reshape(t, -1), starts)  # (B, C) -> (T, C)
    d, dout = empty((t, 3, heads, width)), dy.reshape(q.shape)
    size, scale, place = _scratch_floats(q, starts), np.float32(1 / math.sqrt(width)), _place(drop)

    def work(i: int, j: int) -> None:
        scratch, s, e = empty((size,)), starts[i], starts[j]
        args = (dout[s:e], q[s:e], k[s:e], v[s:e], starts[i : j + 1] - s, scale, int(s), place, scratch)
        attention_grad.attend_grad(*args, d[s:e, 0], d[s:e, 1], d[s:e, 2])

    _texts(work, starts)
    return d[:, 0], d[:, 1], d[:, 2]


def embed_keep(
    ids: Ints,
    types: Ints,
    positions: Ints,
    word: Any,
    position: Any,
    token_type: Any,
    *norm: Any,
    drop: Drop | None = None,
) -> tuple[Floats, tuple | None]:
    """The result, and what `norm_grad` wants."""
    if position.shape[1] % 16:
        return plain.embed(ids, types, positions, word, position, token_type, *norm, drop=drop), None
    (gamma, beta, eps), place = norm, _place(drop)
    total, out = empty((len(ids), position.shape[1])), empty((len(ids), position.shape[1]))
    inverse = np.empty(len(ids), np.float32)

    def work(_: int, s: int, e: int) -> None:
        norm_grad.embed(ids[s:e], types[s:e], positions[s:e], word, position, token_type, total[s:e])
        norm_grad.norm(total[s:e], gamma, beta, np.float32(eps), inverse[s:e], out[s:e])
        if drop is not None:
            dropping.drop_rows(out[s:e], s, place, out[s:e])

    _chunks(work, len(ids))
    return out, (total, inverse)


def embed(*args: Any, drop: Drop | None = None) -> Floats:
    return embed_keep(*args, drop=drop)[0]


def embed_grad(
    dy: Floats, ids: Ints, types: Ints, positions: Ints, word: Any, position: Any, token_type: Any, *norm: Any,
    drop: Drop | None = None, wanted: Sequence[bool] = ALL, kept: tuple | None = None,
) -> tuple:  # fmt: skip
    if kept is None:
        args = (ids, types, positions, word, position, token_type)
        return plain.embed_grad(dy, *args, *norm, drop=drop, wanted=wanted)
    (normal, inverse), gamma, place = kept, norm[0], _place(drop)
    dtotal, sums = empty(normal.shape), np.empty((-(-len(ids) // CHUNK), 2, normal.shape[1]), np.float32)

    def work(i: int, s: int, e: int) -> None:
        given = dy[s:e]
        if drop is not None:
            given = dtotal[s:e]  # until it is overwritten, row by row
            dropping.drop_rows(dy[s:e], s, place, given)
        norm_grad.norm_grad(given, normal[s:e], inverse[s:e], gamma, dtotal[s:e], sums[i])

    _chunks(work, len(ids))
    tables: list[Floats | None] = []
    for array, rows, wants in zip((word, position, token_type), (ids, positions, types), wanted[3:6], strict=True):
        tables.append(None)
        if wants:
            tables[-1] = empty(array.shape)
            tables[-1].fill(0)
            norm_grad.add_rows(dtotal, rows, tables[-1])
    return None, None, None, *tables, *sums.sum(axis=0)


accumulate = plain.accumulate

KEEP = {"embed": embed_keep, "linear_add_norm": linear_add_norm_keep, "linear_gelu": linear_gelu_keep}
GRAD = plain.GRAD | {
    "attend": attend_grad,
    "embed": embed_grad,
    "linear": linear_grad,
    "linear_add_norm": linear_add_norm_grad,
    "linear_gelu": linear_gelu_grad,
    "qkv": qkv_grad,
}
ONTO = {"linear", "linear_gelu", "qkv"}  # gradients that add what their first argument gets to what it has
SLOPED = {"linear_gelu"}  # what these kept is the slope by which their gradient begins to multiply ...
TIMES = {"linear_add_norm"}  # ... unless one of these made that gradient, and has multiplied at once
