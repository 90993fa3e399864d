"""The dimension alphabet and the one check at the boundary.

    B texts         T tokens of a packed batch    C channels      H heads        D head width
    F feed-forward  V vocabulary                  L layers        N stored rows  Q queries
    K neighbours    M links or sub-spaces

Arrays are float32 and C-contiguous unless a docstring says otherwise. Whatever a user hands in as vectors goes through
`as_vectors` once, at the door; behind it nobody checks again.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InputError

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

ROWS = 128  # that stay in cache from one step of a computation to the next


def as_vectors(x: ArrayLike, dim: int | None = None, *, name: str = "vectors") -> Floats:
    """`x` as a C-contiguous float32 array [N, dim]; one vector [dim] becomes [1, dim].

    Raises InputError for anything that is not a table of finite numbers, or has another width than `dim`.
    """
    if _is_plain_vector(x, dim):
        return x.reshape(1, -1)
    try:
        raw: Any = np.asarray(x)
        if raw.dtype == object or raw.dtype.kind not in "fiub":
            raise ValueError(f"dtype {raw.dtype}")
        with np.errstate(over="ignore"):
            a = np.ascontiguousarray(raw, dtype=np.float32)
    except (TypeError, ValueError) as e:
        raise InputError(f"{name} must be an array of numbers of shape [N, {dim or 'dim'}]: {e}") from None
    if raw.ndim == 1:
        a = a.reshape(1, -1) if raw.size else a.reshape(0, dim or 0)
    if a.ndim != 2:
        raise InputError(f"{name} must have shape [N, {dim or 'dim'}], not {list(raw.shape)}")
    if dim is not None and a.shape[1] != dim:
        raise InputError(f"{name} have {a.shape[1]} dimensions, expected {dim}")
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(a.sum()) or np.isfinite(a).all()
    if not finite:
        row = int(np.flatnonzero(~np.isfinite(a).all(axis=1))[0])
        raise InputError(f"{name} must be finite in float32: row {row} holds NaN, infinity or a value beyond 3.4e38")
    return a


def _is_plain_vector(x: Any, dim: int | None) -> bool:
    """Whether `x` is one vector of finite float32 already: a query on its way to a fast search."""
    plain = type(x) is np.ndarray and x.dtype == np.float32 and x.ndim == 1 and 0 < len(x) == (dim or len(x))
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is looked at more closely
        return plain and x.flags.c_contiguous and math.isfinite(np.dot(x, x))


def plain_rows(x: Any, dim: int) -> Floats | None:
    """x as rows [n, dim], n > 0, if it is an array of float32 in order already; its numbers are not looked at."""
    if type(x) is not np.ndarray or x.dtype != np.float32 or not x.flags.c_contiguous:
        return None
    rows = x.reshape(1, -1) if x.ndim == 1 else x
    return rows if rows.ndim == 2 and len(rows) and rows.shape[1] == dim else None


def aligned(shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray[Any]:
    """Zeros that begin at a cache line."""
    size = np.dtype(dtype).itemsize * math.prod(shape)
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


def aligned_copy(x: NDArray[Any]) -> NDArray[Any]:
    """A copy that begins at a cache line: rows of whole lines touch no more of them than they fill."""
    out = aligned(x.shape, x.dtype)
    out[...] = x
    return out


def writeable(x: NDArray[Any]) -> NDArray[Any]:
    """x, or a copy where it is read-only, as from a file: a kernel would be compiled for such anew."""
    return x if x.flags.writeable else x.copy()


def unit_rows(x: Floats) -> Floats:
    """Rows of `x` [N, C] scaled to length 1; a zero row stays zero.

    Each row's result depends on that row alone, whatever N is.
    """
    unit = np.empty_like(x)
    room = np.empty((2, min(len(x), ROWS), x.shape[1]))
    for first in range(0, len(x), ROWS):
        wide, squares = room[:, : len(x) - first]
        wide[:] = x[first : first + ROWS]  # squares of float32 neither overflow nor vanish in float64
        norm = np.sqrt(np.multiply(wide, wide, out=squares).sum(axis=1, keepdims=True))
        np.divide(wide, np.where(norm > 0, norm, 1), out=unit[first : first + ROWS], casting="same_kind")
    return unit
