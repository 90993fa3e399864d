"""Checks of what callers hand to an index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .errors import InputError


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


def as_ids(ids: ArrayLike | Sequence[int]) -> Any:
    """An integer array; one of no elements may come in any type. Raises InputError."""
    try:
        raw = np.asarray(ids)
    except ValueError:
        raise InputError("ids must be a plain list of whole numbers, not a ragged one") from None
    if raw.size and (raw.dtype.kind not in "iu" or raw.ndim > 1):
        raise InputError(f"ids must be whole numbers in one row, not {raw.dtype} {list(raw.shape)}")
    return raw if raw.size else np.zeros(raw.shape, np.int64)
