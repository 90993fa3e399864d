"""Exact search without reading every vector: bytes bound each score, and only what they leave open is compared.

Every row is kept a second time as rotated bytes, of which the upper halves alone make a code of 4 bits, with its
distances from both codes (`minibi.kernels.sieve`): W + 16 bytes for W numbers. For a row x with the code x' and a query
q with the code q'

    |<q, x> - <q', x'>| <= (|q| + |q - q'|) |x - x'| + |q - q'| |x|

by Cauchy and Schwarz, and a share of |q| |x| beyond that, 2e-5 for 384 numbers, covers what float32 loses on the way:
in the rotation, in the bounds themselves, and in the scores that they bound. So the result is that of a scan, bit for
bit, whatever the data. Where bounds are too wide to be of use, as for equal vectors or for squared L2 far from the
origin, a scan it is.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..environment import plain_kernels, thread_count
from ..shapes import Floats, Ints, writeable
from ..threads import parallel_map
from .codes import BLOCK, LANES, Codes, Floating, signs

Bytes = NDArray[np.uint8]
TINY, LEAST = 1e-20, 1e-35  # what lengths and products may lose where numbers are too small for float32
FEW = 8  # queries up to which only the better rows are read as 8 bits
TOGETHER = 96  # queries that share a pass over the rows
CHUNK = 8192  # rows that are encoded at once


class Stored(NamedTuple):
    """What is searched: the sieve's columns, rows as the codec keeps them, ids, and which rows count."""

    arrays: dict[str, Any]
    rows: Bytes
    ids: Ints
    metric: str
    which: Ints | None


class Sieve:
    """The second form of vectors that `codec` keeps, and the search that it serves."""

    def __init__(self, codec: Floating):
        self._codec, self._turn = codec, Codes("int8", codec.dim)
        self._signs = signs(self._turn.width)
        self._rounding = (self._turn.width / LANES + 128) * 2.0**-23  # some twice as much as is lost

    def columns(self) -> dict[str, tuple[Any, tuple[int, ...], Any]]:
        """Name, type, shape of a row and filling of the arrays with a row for each vector."""
        half = (self._turn.width // 2,)
        return {"high": (np.uint8, half, 0), "low": (np.uint8, half, 0), "terms": (np.float32, (4,), 0)}

    def fill(self, stored: Bytes, arrays: dict[str, Any], first: int) -> None:
        """Encodes stored rows [n, stride] into rows first .. first + n - 1 of `arrays`."""

        def job(start: int) -> None:
            some = stored[start : start + CHUNK]
            y = self._turn.rotate(self._codec.decode(some))
            out = [arrays[name][first + start : first + start + len(some)] for name in self.columns()]
            if plain_kernels():
                for array, part in zip(out, encode_plain(y, self._rounding), strict=True):
                    array[:] = part
            else:
                from ..kernels import sieve_codes

                sieve_codes.encode(y, self._rounding, *out)

        for _ in parallel_map(job, range(0, len(stored), CHUNK)):
            pass

    def answer(self, table: Stored, x: Floats, k: int) -> tuple[Floats, Ints] | None:
        """Scores and ids [Q, k] for a few queries x [Q, dim] as they come; None where somebody has to look closer."""
        from ..kernels import distance, sieve

        planes = [table.arrays[name] for name in self.columns()]
        out, found = np.empty((len(x), k), np.float32), np.empty((len(x), k), np.int64)
        metric = distance.SQUARED_L2 if table.metric == "l2" else distance.DOT
        fine = sieve.answer(
            *planes, table.rows, table.ids, self._codec.kind, metric, self._codec.width, table.metric == "cosine",
            self._signs, self._rounding, writeable(x), out, found,
        )  # fmt: skip
        return (out, found) if fine else None

    def scan(self, table: Stored, queries: Floats, k: int) -> tuple[Floats, Ints, NDArray[np.bool_]]:
        """(distances, rows) [Q, k] as from `flat.scan`, and for which queries [Q] they hold: the others need a scan."""
        encoded, y = self._codec.encode_queries(queries), self._turn.rotate(queries)
        most = TOGETHER if len(queries) > FEW else FEW
        each = -(-len(queries) // max(thread_count(), -(-len(queries) // most)))
        job = self._job_plain if plain_kernels() else self._job

        def part(first: int) -> tuple[Floats, Ints, NDArray[np.bool_]]:
            some = slice(first, first + each)
            return job(table, encoded[some], y[some], k)

        parts = list(parallel_map(part, range(0, len(queries), each)))
        distances, rows, settled = (np.concatenate(part) for part in zip(*parts, strict=True))
        return distances, rows, settled

    def _job(self, table: Stored, encoded: Bytes, y: Floats, k: int) -> tuple[Floats, Ints, NDArray[np.bool_]]:
        from ..kernels import distance, sieve, sieve_codes

        chosen = np.zeros(0, np.int64) if table.which is None else table.which
        planes = sieve.Planes(*(table.arrays[name] for name in self.columns()), chosen, table.which is not None)
        coded = np.empty((len(y), self._turn.width + 32), np.uint8)
        sieve_codes.encode_queries(y, self._rounding, 0.5 if table.metric == "l2" else 0.0, coded)
        left = sieve.left_for(len(y), k)
        (sieve.sift_few if len(y) <= FEW else sieve.sift_many)(planes, coded, left)
        out = np.empty((len(y), k), np.float32), np.empty((len(y), k), np.int64)
        code = distance.SQUARED_L2 if table.metric == "l2" else distance.DOT
        sieve.finish(table.rows, table.ids, encoded, self._codec.kind, code, self._codec.width, left, *out)
        return *out, left.sizes[:, sieve.USELESS] == 0

    def _job_plain(self, table: Stored, encoded: Bytes, y: Floats, k: int) -> tuple[Floats, Ints, NDArray[np.bool_]]:
        """The twin: all bounds first, by 8 bits alone."""
        which = np.arange(len(table.rows)) if table.which is None else table.which
        high, low, terms = (table.arrays[name][which] for name in self.columns())
        distances, rows = np.empty((len(y), k), np.float32), np.empty((len(y), k), np.int64)
        for i, q in enumerate(y):
            lower, upper = bounds_plain(high, low, terms, q, self._rounding, table.metric)
            left = which[upper >= np.sort(lower)[-k]]
            d = self._codec.distances_plain(table.rows[left], encoded[i], table.metric)
            order = np.lexsort((table.ids[left], d))[:k]
            distances[i], rows[i] = d[order], left[order]
        return distances, rows, np.ones(len(y), bool)


def bounds_plain(
    high: Bytes, low: Bytes, terms: Floats, q: Floats, rounding: float, metric: str
) -> tuple[Floats, Floats]:
    """(lower, upper) bounds [n] of rows' values by their 8 bits, for one rotated query q [W]."""
    factor, _, error, norm = terms.T.astype(np.float64)
    scale, codes, query_norm, query_error = query_plain(q, rounding)
    middle = factor * scale * (bytes_plain(high, low) @ codes)
    reach = (query_norm + query_error) * error + query_error * norm + LEAST
    square = 0.5 * norm * norm if metric == "l2" else np.zeros_like(norm)
    if metric == "l2":
        reach += rounding * query_norm * query_norm
    return middle - reach - square * (1 + 4 * rounding), middle + reach - square * (1 - 4 * rounding)


def bytes_plain(high: Bytes, low: Bytes) -> Ints:
    """The bytes [n, W] of two planes [n, W/2], from -128 to 127."""
    n = len(high)
    halves = [plane.reshape(n, -1, 64) >> shift & 15 for shift in (0, 4) for plane in (high, low)]
    first, second = (16 * halves[i].astype(np.int64) + halves[i + 1] - 128 for i in (0, 2))
    return np.stack([first, second], axis=2).reshape(n, -1)


def query_plain(y: Floats, rounding: float) -> tuple[float, Ints, float, float]:
    """A rotated query's (scale, signed bytes [W], norm, distance from what they stand for)."""
    top = np.abs(y).max()
    codes = np.rint(y * (np.float32(127) / np.maximum(top, np.float32(1e-30)))).astype(np.int64)
    scale, wide = float(top / np.float32(127)), y.astype(np.float64)
    norm = float(np.sqrt(np.square(wide).sum()))
    error = float(np.sqrt(np.square(wide - scale * codes).sum()))
    return scale, codes, norm, error * (1 + rounding) + rounding * norm + TINY


def encode_plain(y: Floats, rounding: float) -> tuple[Bytes, Bytes, Floats]:
    """The twin of `kernels.sieve.encode`, bit for bit: rotated rows y [n, W] -> (high, low, terms)."""
    top = np.abs(y).max(axis=1, keepdims=True, initial=0)
    factor = top / np.float32(127)
    c = np.rint(y * (np.float32(127) / np.maximum(top, np.float32(1e-30)))).astype(np.int32)
    middle = (c & ~15) + 8
    halves = (
        ((c + 128).astype(np.uint8) >> 4).reshape(len(y), -1, 2, 64),
        (c & 15).astype(np.uint8).reshape(len(y), -1, 2, 64),
    )
    high, low = ((h[:, :, 0] | h[:, :, 1] << 4).reshape(len(y), -1) for h in halves)
    norm, coarse, fine = (
        np.sqrt(_squares(y - level.astype(np.float32) * factor).astype(np.float64))
        for level in (np.zeros_like(c), middle, c)
    )
    more = rounding * norm + TINY
    terms = [factor[:, 0], coarse * (1 + rounding) + more, fine * (1 + rounding) + more, norm]
    return high, low, np.stack([term.astype(np.float32) for term in terms], axis=1)


def _squares(x: Floats) -> Floats:
    """Sums of squares of rows in the kernel's order: sixteen lanes, of each 128 numbers those 64 apart in turn."""
    n, width = x.shape
    order = (x * x).reshape(n, width // BLOCK, 2, 4, LANES).swapaxes(2, 3).reshape(n, -1, LANES)
    lanes = np.cumsum(order, axis=1, dtype=np.float32)[:, -1]
    while lanes.shape[1] > 1:
        half = lanes.shape[1] // 2
        lanes = lanes[:, :half] + lanes[:, half:]
    return lanes[:, 0]
