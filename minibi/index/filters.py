"""What a search may return: an id set, a bitmap or a predicate becomes one array of rows that count."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..shapes import Ints

Filter = Iterable[int] | NDArray[np.bool_] | Callable[[Ints], Any] | None


def allowed(filter: Filter, ids: Ints, live: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[N]: which rows a search may return: those alive that pass the filter.

    filter: ids (list, set, array; unknown ones pass nothing), or booleans that run parallel to the index's `ids`, or a
    function of int64 ids [n] that returns booleans [n]. ids, live [N]. Raises InputError.
    """
    if filter is None:
        return live
    mask = np.zeros(len(live), bool)
    if callable(filter):
        mask[live] = _booleans(filter(ids[live]), int(live.sum()), "what the filter returned")
        return mask
    if isinstance(filter, (str, bytes)) or not isinstance(filter, Iterable):
        raise InputError("filter must be ids, booleans parallel to the index's ids, or a function of an array of ids")
    given = filter if isinstance(filter, np.ndarray) else np.asarray(list(filter))
    if given.dtype == bool:
        mask[live] = _booleans(given, int(live.sum()), "filter")
        return mask
    if given.size and (given.dtype.kind not in "iu" or given.ndim != 1):
        raise InputError(f"filter must be ids in one row, or booleans, not {given.dtype} {list(given.shape)}")
    return live & np.isin(ids, given[given < 2**63].astype(np.int64))


def _booleans(given: Any, n: int, name: str) -> NDArray[np.bool_]:
    try:
        mask = np.asarray(given)
    except ValueError:
        mask = np.zeros(0)
    if mask.dtype != bool or mask.shape != (n,):
        raise InputError(f"{name} must be {n} booleans, one for each id, not {mask.dtype} {list(mask.shape)}")
    return mask
