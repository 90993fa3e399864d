"""Checks of what callers hand in: numbers, ids, and the names of files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .errors import InputError
from .shapes import Ints


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """`value` as an int within bounds. Raises InputError."""
    if type(value) is int and (least is None or value >= least) and (most is None or value <= most):
        return value
    bounds = "" if least is None else f" of at least {least}" if most is None else f" from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f"{name} must be a whole number{bounds}, not {value!r}")
    if (least is not None and value < least) or (most is not None and value > most):
        raise InputError(f"{name} must be a whole number{bounds}, not {value}")
    return int(value)


def as_path(path: Any) -> Path:
    """The path of a file or folder. Raises InputError for what is no string and no path."""
    try:
        return Path(path)
    except TypeError:
        kind = "None" if path is None else f"{type(path).__name__} {path!r:.60}"
        raise InputError(f"a file or folder is named by a string or a pathlib.Path, not by {kind}: pass one") from None


def as_ids(ids: ArrayLike | Sequence[int], name: str = "ids", ndim: int = 1) -> Any:
    """An integer array of at most `ndim` dimensions; one of no elements may come in any type. Raises InputError."""
    try:
        raw = np.asarray(ids)
    except ValueError:
        raise InputError(f"{name} must be a plain list of whole numbers, not a ragged one") from None
    if raw.size and (raw.dtype.kind not in "iu" or raw.ndim > ndim):
        raise InputError(f"{name} must be whole numbers in one row, not {raw.dtype} {list(raw.shape)}")
    return raw if raw.size else np.zeros(raw.shape, np.int64)


def int64_ids(ids: ArrayLike | Sequence[int], name: str = "ids", ndim: int = 1) -> Ints:
    """Ids as int64, none of them -1; a single one becomes a row of one. Raises InputError."""
    raw = np.atleast_1d(as_ids(ids, name, ndim))
    new = raw.astype(np.int64)
    if (new == -1).any() or (raw.dtype.kind == "u" and (new < 0).any()):
        raise InputError(f"{name} must be int64 and not -1, which stands for 'none'")
    return new


def new_ids(ids: ArrayLike | Sequence[int], count: int, what: str) -> Ints:
    """One id for each of `count` things that are called `what`, all different. Raises InputError."""
    new = int64_ids(ids)
    if new.shape != (count,):
        raise InputError(f"ids must be {count} whole numbers, one for each {what}, not an array {list(new.shape)}")
    values, counts = np.unique(new, return_counts=True)
    if (counts > 1).any():
        raise InputError(f"id {values[counts > 1][0]} is given twice")
    return new


def next_ids(first: int, count: int) -> Ints:
    """`count` ids from `first` on, for who passes none. Raises InputError."""
    if first + count > 2**63 - 1:
        raise InputError("the largest id leaves no room to count on: pass ids")
    return np.arange(first, first + count, dtype=np.int64)
