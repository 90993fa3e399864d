"""What losses measure vectors with, each beside its gradient: unit length, scores and distances, stable exponentials.

`f_grad(dy, *arguments of f)` recomputes what is cheap. Results have the dtype of the vectors: float32 in use, float64
when gradients are checked. A row shorter than TINY counts as zero: its cosine with anything is 0 and it gets no
gradient, because it has no direction. Two rows at no distance from each other pull and push neither.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import InputError

Array = Any  # float32 or float64
Loss = tuple[float, tuple[Array, ...]]  # the mean over the batch, and its gradient for each positional array
LossFunction = Callable[..., Loss]

TINY = 1e-12
SIMILARITIES = ("cosine", "dot")
DISTANCES = ("cosine", "euclidean")


# --- the boundary check ----------------------------------------------------------------------------------------------


def as_rows(*arrays: Any) -> list[Array]:
    """Embeddings as float arrays of one shape [B, C], B >= 1. Raises InputError."""
    rows = [as_floats(f"embeddings {i}", x) for i, x in enumerate(arrays)]
    for i, x in enumerate(rows):
        if x.ndim != 2 or not x.size:
            raise InputError(f"embeddings {i} must have shape [B, C] with at least one row, not {list(x.shape)}")
        if x.shape != rows[0].shape:
            raise InputError(f"embeddings {i} have shape {list(x.shape)}, the first have {list(rows[0].shape)}")
    return rows


def as_floats(name: str, x: Any) -> Array:
    """`x` as an array of float32 or float64. Raises InputError."""
    a = np.asarray(x)
    if a.dtype not in (np.float32, np.float64):
        raise InputError(f"{name} must be float32 or float64, not {a.dtype}: convert them with astype")
    return a


def as_labels(labels: Any, shape: tuple[int, ...], what: str = "labels") -> Array:
    """Finite numbers of a given shape, as float64. Raises InputError."""
    try:
        a = np.asarray(labels, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{what} must be numbers of shape {list(shape)}") from None
    if a.shape != tuple(shape):
        raise InputError(f"{what} must have shape {list(shape)}, one for each example, not {list(a.shape)}")
    if not np.isfinite(a).all():
        raise InputError(f"{what} must be finite: {int((~np.isfinite(a)).sum())} of them are NaN or infinite")
    return a


def positive(name: str, value: float) -> float:
    """A finite number above zero. Raises InputError."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value < np.inf:
        raise InputError(f"{name} must be a finite number above 0, not {value!r}")
    return float(value)


def one_of(name: str, value: object, names: Sequence[str]) -> None:
    """Raises InputError for a name that is not known."""
    if value not in names:
        raise InputError(f"{name} {value!r} is not one of {list(names)}")


# --- exponentials ----------------------------------------------------------------------------------------------------


def log_sum_exp(x: Array, axis: int = -1) -> Array:
    """log of the sum of e^x, of any size of x; -inf entries count nothing, and nothing but them gives -inf."""
    top = x.max(axis=axis, keepdims=True)
    top = np.where(np.isfinite(top), top, 0).astype(x.dtype)
    with np.errstate(divide="ignore"):
        return np.log(np.exp(x - top).sum(axis=axis)) + top.squeeze(axis)


def softplus(x: Array) -> Array:
    """log(1 + e^x)."""
    return np.logaddexp(np.zeros((), x.dtype), x)


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x), to full relative precision at both ends; the slope of softplus."""
    return np.exp(-softplus(-x))


# --- rows of length one ----------------------------------------------------------------------------------------------


def length(x: Array) -> Array:
    """The length of each row, [B, C] -> [B, 1], without overflow; 0 below TINY."""
    top = np.abs(x).max(axis=1, keepdims=True)
    norm = top * np.sqrt(np.square(x / np.where(top > 0, top, 1)).sum(axis=1, keepdims=True))
    return np.where(norm < TINY, 0, norm).astype(x.dtype)


def unit(x: Array) -> Array:
    """Each row of x [B, C] divided by its length; a zero row stays zero."""
    norm = length(x)
    return np.where(norm == 0, 0, x / np.where(norm == 0, 1, norm))


def unit_grad(du: Array, x: Array) -> Array:
    """(du - u (u . du)) / |x|: only what is across a row's direction turns it."""
    norm, u = length(x), unit(x)
    across = du - u * (u * du).sum(axis=1, keepdims=True)
    return np.where(norm == 0, 0, across / np.where(norm == 0, 1, norm))


# --- row against row -------------------------------------------------------------------------------------------------


def row_scores(a: Array, b: Array, similarity: str) -> Array:
    """Cosine or dot product of each row of a with the same row of b, [B, C] -> [B]."""
    if similarity == "cosine":
        a, b = unit(a), unit(b)
    return (a * b).sum(axis=1)


def row_scores_grad(ds: Array, a: Array, b: Array, similarity: str) -> tuple[Array, Array]:
    """ds [B] -> gradients of a and b."""
    ds = ds[:, None]
    if similarity == "cosine":
        return unit_grad(ds * unit(b), a), unit_grad(ds * unit(a), b)
    return ds * b, ds * a


def row_distances(a: Array, b: Array, distance: str) -> Array:
    """1 - cosine, or the Euclidean distance, of each row of a from the same row of b, [B, C] -> [B]."""
    return length(a - b)[:, 0] if distance == "euclidean" else 1 - row_scores(a, b, "cosine")


def row_distances_grad(dd: Array, a: Array, b: Array, distance: str) -> tuple[Array, Array]:
    """dd [B] -> gradients of a and b."""
    if distance == "cosine":
        return row_scores_grad(-dd, a, b, "cosine")
    da = dd[:, None] * unit(a - b)
    return da, -da


# --- every row against every row -------------------------------------------------------------------------------------


def all_distances(x: Array, distance: str) -> Array:
    """Distances between all rows of x, [B, C] -> float64 [B, B].

    Euclidean: |a - b|^2 = |a|^2 - 2 a.b + |b|^2 in float64 and about the centre, so that little cancels; rows nearer
    than 1e-7 of their lengths count as equal.
    """
    if distance == "cosine":
        u = unit(x.astype(np.float64))
        return 1 - u @ u.T
    x = x.astype(np.float64)
    x = x - x.mean(axis=0)
    squares = np.square(x).sum(axis=1)
    both = squares[:, None] + squares
    d2 = both - 2 * (x @ x.T)
    return np.sqrt(np.where(d2 > 1e-14 * both, d2, 0))


def all_distances_grad(dd: Array, x: Array, distance: str) -> Array:
    """dd [B, B] -> the gradient of x, in x's dtype; entry (i, j) of dd moves row i and row j."""
    wide = x.astype(np.float64)
    if distance == "cosine":
        return unit_grad(-(dd + dd.T) @ unit(wide), wide).astype(x.dtype)
    d = all_distances(x, distance)
    pull = np.where(d > 0, dd + dd.T, 0) / np.where(d > 0, d, 1)  # d|a - b| / da = (a - b) / |a - b|
    wide = wide - wide.mean(axis=0)
    return (pull.sum(axis=1, keepdims=True) * wide - pull @ wide).astype(x.dtype)
