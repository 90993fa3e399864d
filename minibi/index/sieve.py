"""Exact search without reading every vector: bytes bound each score, and only what they leave open is compared.

Every row is kept a second time as rotated bytes of 4 and 8 bits with its distance from them (`minibi.kernels.sieve`),
W + 16 bytes for W numbers. For a row x, its code x', a query q and its code q',

    |<q, x> - <q', x'>| <= (|q| + |q - q'|) |x - x'| + |q - q'| |x|

by Cauchy and Schwarz, and some 1e-5 |q| |x| covers what float32 loses on the way: in the rotation, in the bounds
themselves and in the scores they stand for. So the result is that of a scan, bit for bit, whatever the data;
where the bounds are too wide to be of use, for equal vectors or vectors far from the origin, a scan it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..environment import plain_kernels, thread_count
from ..shapes import Floats, Ints
from ..threads import parallel_map
from .codes import Codes, Floating

ROUNDING, TINY, ONE_UP = 2.0**-23, 2.0**-116, 1.000001
FEW = 8  # queries up to which rows are read as 4 bits first
TOGETHER = 96  # queries that share a pass over the rows
CHUNK = 8192  # rows that are encoded at once
WORTH = 1000  # rows below which a scan is as fast


class Sieve:
    """The second form of vectors of `dim` numbers, and the search that it serves."""

    def __init__(self, dim: int, codec: Floating):
        self._turn, self._codec = Codes("int8", dim), codec
        self.width = self._turn.width
        self._rounding = (self.width / 16 + 128) * ROUNDING

    def columns(self) -> dict[str, tuple[Any, tuple[int, ...], Any]]:
        """Name, type, shape and filling of the arrays with a row for each vector."""
        half = (self.width // 2,)
        return {"high": (np.uint8, half, 0), "low": (np.uint8, half, 0), "terms": (np.float32, (4,), 0)}

    def fill(self, stored: NDArray[np.uint8], arrays: dict[str, Any], first: int, last: int) -> None:
        """Encodes stored rows [last - first, stride] into rows first .. last - 1 of `arrays`."""

        def job(start: int) -> None:
            stop = min(start + CHUNK, last)
            y = self._turn.rotate(self._codec.decode(stored[start - first : stop - first]))
            out = [arrays[name][start:stop] for name in self.columns()]
            if plain_kernels():
                for array, value in zip(out, encode_plain(y, self._rounding), strict=True):
                    array[:] = value
            else:
                from ..kernels import sieve

                sieve.encode(y, self._rounding, *out)

        for _ in parallel_map(job, range(first, last, CHUNK)):
            pass

    def scan(
        self, arrays: dict[str, Any], stored: Any, ids: Ints, queries: Floats, k: int, metric: str, which: Ints | None
    ) -> tuple[Floats, Ints, NDArray[np.bool_]]:
        """(distances, rows) [Q, k] as from `flat.scan`, and for which queries they hold; the others need a scan."""
        encoded, y = self._codec.encode_queries(queries), self._turn.rotate(queries)
        half = 0.5 if metric == "l2" else 0.0
        if plain_kernels():
            return self._scan_plain(arrays, stored, ids, encoded, y, k, metric, which)
        from ..kernels import distance, sieve

        code = distance.SQUARED_L2 if metric == "l2" else distance.DOT
        planes, chosen = [arrays[name] for name in self.columns()], np.zeros(0, np.int64) if which is None else which
        room = 2048 + 4 * k
        each = len(queries) if len(queries) <= FEW else -(-len(queries) // max(thread_count(), -(-len(queries) // TOGETHER)))

        def job(first: int) -> tuple[Floats, Ints, NDArray[np.bool_]]:
            some = y[first : first + each]
            n = len(some)
            coded = np.empty((n, self.width + 32), np.uint8)
            sieve.encode_queries(some, self._rounding, half, coded)
            out = np.empty((n, k), np.float32), np.empty((n, k), np.int64)
            lows, kept = (
                (np.empty((n, size), np.float32), np.empty((n, size), np.int64)) for size in (k, room)
            )
            sizes, limits = np.zeros((n, 3), np.int64), np.full(n, -np.inf, np.float32)
            sift = sieve.sift_few if n <= FEW else sieve.sift_many
            sift(*planes, chosen, which is not None, coded, k, *lows, *kept, sizes, limits)
            exact = encoded[first : first + each]
            sieve.finish(stored, ids, exact, k, self._codec.kind, code, self._codec.width, *kept, sizes, limits, *out)
            return *out, sizes[:, sieve.USELESS] == 0

        parts = list(parallel_map(job, range(0, len(queries), each)))
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))
