"""Many may read at once, or one may change: searches share, a change excludes.

Who wants to change is let in before readers that come later, so steady searching cannot keep changes out for ever.
Not re-entrant.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self


class SharedLock:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._free = threading.Condition(self._lock)
        self._readers = 0
        self._changing = False
        self._waiting = 0  # to change

    def shared(self) -> Self:
        """`with lock.shared():` is for reading."""
        return self

    def __enter__(self) -> None:
        with self._lock:
            while self._changing or self._waiting:
                self._free.wait()
            self._readers += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._readers -= 1
            if not self._readers and self._waiting:
                self._free.notify_all()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with self._lock:
            self._waiting += 1
            try:
                while self._changing or self._readers:
                    self._free.wait()
                self._changing = True
            finally:
                self._waiting -= 1
                if not self._changing:  # interrupted while waiting
                    self._free.notify_all()
        try:
            yield
        finally:
            with self._lock:
                self._changing = False
                self._free.notify_all()
