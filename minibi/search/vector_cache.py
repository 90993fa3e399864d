"""VectorCache: vectors of queries that were asked before, the least recently used forgotten first, bounded in bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from ..errors import InputError

OVERHEAD = 200  # bytes of a key and its place, about


class VectorCache:
    """A thread-safe map from (fingerprint of the model, prompt, text) to the vectors that came of them.

    max_bytes: of vectors and texts together. Vectors are handed out read-only.
    """

    def __init__(self, max_bytes: int = 64_000_000):
        if isinstance(max_bytes, bool) or not isinstance(max_bytes, int) or max_bytes < 0:
            raise InputError(f"max_bytes must be a whole number of at least 0, not {max_bytes!r}")
        self.max_bytes = max_bytes
        self.hits = self.misses = self.bytes = 0
        self._held: OrderedDict[Hashable, tuple[Any, int]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: tuple[str, str, str], make: Callable[[], Any]) -> Any:
        """What is held for `key` = (fingerprint, prompt, text); otherwise what `make` returns, which is kept.

        `make` runs outside the lock: two threads that ask at once may both make it, and one result stays.
        """
        with self._lock:
            if key in self._held:
                self.hits += 1
                self._held.move_to_end(key)
                return self._held[key][0]
            self.misses += 1
        value = np.array(make())
        value.flags.writeable = False
        size = value.nbytes + sum(len(part.encode("utf-8", "surrogatepass")) for part in key) + OVERHEAD
        with self._lock:
            if size <= self.max_bytes and key not in self._held:
                self._held[key] = value, size
                self.bytes += size
                while self.bytes > self.max_bytes:
                    _, (_, least) = self._held.popitem(last=False)
                    self.bytes -= least
        return value

    def clear(self) -> None:
        with self._lock:
            self._held.clear()
            self.bytes = 0
