"""FlatIndex: compare the query with every stored vector. Exact, nothing to tune; up to some 100,000 vectors fast."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..environment import plain_kernels
from ..shapes import Floats, Ints
from ..threads import parallel_map
from .codes import Codes, Floating
from .contract import Index, View

QUERIES_PER_JOB = 32


class FlatIndex(Index):
    """Exact search.

    dim: width of the vectors; metric: "cosine", "ip" or "l2"; store: how they are kept, "float32", "float16", "int8" or
    "int4" (then scores are those of what is kept). See `minibi.index.contract`.
    """

    kind: ClassVar[str] = "flat-index"

    def _search(
        self, view: View, queries: Floats, k: int, mask: NDArray[np.bool_], live: int, **breadth: int
    ) -> tuple[Floats, Ints]:
        which = np.flatnonzero(mask) if live < view.count else None
        return scan(self._codec, self._bytes(view), view["ids"], queries, k, self.metric, which)


def scan(
    codec: Floating | Codes, rows: Any, ids: Ints, queries: Floats, k: int, metric: str, which: Ints | None = None
) -> tuple[Floats, Ints]:
    """(distances, rows) [Q, k]: the nearest of all rows, or of `which`, sorted by (distance, id)."""
    encoded = codec.encode_queries(queries)
    if plain_kernels():
        return scan_plain(codec, rows, ids, encoded, k, metric, which)
    from ..kernels import distance

    code = distance.SQUARED_L2 if metric == "l2" else distance.DOT
    chosen = np.zeros(0, np.int64) if which is None else which

    def job(first: int) -> tuple[Floats, Ints]:
        some = encoded[first : first + QUERIES_PER_JOB]
        out = np.empty((len(some), k), np.float32), np.empty((len(some), k), np.int64)
        distance.scan(rows, ids, chosen, which is not None, some, k, codec.kind, code, codec.width, *out)
        return out

    parts = list(parallel_map(job, range(0, len(queries), QUERIES_PER_JOB)))
    distances, found = (np.concatenate(part) for part in zip(*parts, strict=True))
    return distances, found


def scan_plain(
    codec: Floating | Codes, rows: Any, ids: Ints, encoded: Any, k: int, metric: str, which: Ints | None
) -> tuple[Floats, Ints]:
    """The slow twin of `kernels.distance.scan`."""
    which = np.arange(len(rows)) if which is None else which
    distances = np.stack([codec.distances_plain(rows[which], q, metric) for q in encoded])
    order = np.stack([np.lexsort((ids[which], d))[:k] for d in distances])
    return np.take_along_axis(distances, order, axis=1), which[order]
