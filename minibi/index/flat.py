"""FlatIndex: compare the query with every stored vector. Exact, nothing to tune; up to some 100,000 vectors fast."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..environment import plain_kernels
from ..shapes import Floats, Ints
from ..threads import parallel_map
from .contract import Index

QUERIES_PER_JOB = 32


class FlatIndex(Index):
    """Exact search. dim: width of the vectors; metric: "cosine", "ip" or "l2". See `minibi.index.contract`."""

    kind: ClassVar[str] = "flat-index"

    def _search(self, queries: Floats, k: int, ef: int | None) -> tuple[Floats, Ints]:
        rows, ids = self.vectors, self._ids[: self._count]
        if plain_kernels():
            return scan_plain(rows, ids, queries, k, self.metric)
        from ..kernels import distance

        metric = distance.SQUARED_L2 if self.metric == "l2" else distance.DOT

        def job(first: int) -> tuple[Floats, Ints]:
            some = queries[first : first + QUERIES_PER_JOB]
            out = np.empty((len(some), k), np.float32), np.empty((len(some), k), np.int64)
            distance.scan(rows, ids, some, k, metric, *out)
            return out

        parts = list(parallel_map(job, range(0, len(queries), QUERIES_PER_JOB)))
        distances, found = (np.concatenate(part) for part in zip(*parts, strict=True))
        return distances, found


def distances_plain(rows: Floats, queries: Floats, metric: str) -> Floats:
    """[Q, N]: minus the inner products, or squared Euclidean distances; smaller is nearer."""
    if metric == "l2":
        return np.stack([np.square(rows - q).sum(axis=1) for q in queries])
    return -(queries @ rows.T)


def scan_plain(rows: Floats, ids: Ints, queries: Floats, k: int, metric: str) -> tuple[Floats, Ints]:
    """The slow twin of `kernels.distance.scan`."""
    distances = distances_plain(rows, queries, metric)
    order = np.stack([np.lexsort((ids, d))[:k] for d in distances])
    return np.take_along_axis(distances, order, axis=1), order
