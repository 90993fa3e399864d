"""Memory that is used again: a training step asks for the same large arrays every time, and fresh pages are slow.

`empty` is np.empty, except that a large array's memory comes back to a pool when nobody holds the array, or a view of
it, any more.
"""

from __future__ import annotations

import math
import threading
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALL = 1 << 18  # bytes; below this the usual allocator is as good
ALIGNMENT = 64


class _Pool:
    """Free memory by size, in steps of an eighth; what lies idle is given up once it is more than what is in use."""

    def __init__(self) -> None:
        self._free: dict[int, list[NDArray]] = defaultdict(list)
        self._lock = threading.RLock()
        self.idle = self.used = 0

    def take(self, size: int) -> NDArray:
        with self._lock:
            self.used += size
            if self._free[size]:
                self.idle -= size
                return self._free[size].pop()
            if self.idle > self.used:
                self._free.clear()
                self.idle = 0
        return np.empty(size + ALIGNMENT, np.uint8)

    def give(self, raw: NDArray) -> None:
        size = raw.size - ALIGNMENT
        with self._lock:
            self.used -= size
            self.idle += size
            self._free[size].append(raw)


_pool = _Pool()


class _Lease:
    """Holds memory of the pool while an array (whose base this is) lives."""

    def __init__(self, raw: NDArray):
        self._raw = raw
        start = -raw.ctypes.data % ALIGNMENT
        self.__array_interface__ = raw[start : raw.size - ALIGNMENT + start].__array_interface__

    def __del__(self) -> None:
        _pool.give(self._raw)


def empty(shape: tuple[int, ...], dtype: Any = np.float32) -> NDArray:
    """An array of undefined content, large ones aligned to cache lines."""
    size = np.dtype(dtype).itemsize * math.prod(shape)
    if size < SMALL:
        return np.empty(shape, dtype)
    step = 1 << max(0, size.bit_length() - 4)  # an eighth of the power of two at or below
    lease = _Lease(_pool.take(-(-size // step) * step))
    return np.asarray(lease)[:size].view(dtype).reshape(shape)
