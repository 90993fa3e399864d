"""The kernels of `minibi.kernels.graph`, bound to the arrays of one index. `hnsw_plain` is the twin in plain Python."""

from __future__ import annotations

import math
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..environment import plain_kernels
from ..hashing import mixed
from ..shapes import Floats, Ints
from .codes import Codes, Floating

MAX_LEVEL = 30
NEIGHBOURS_OF_REMOVED = 511  # candidates for the new links of a row some of whose neighbours were removed
_local = threading.local()


def engine_for(codec: Floating | Codes, arrays: dict[str, Any], walked: str, metric: str) -> Any:
    """What walks and builds the graph held in `arrays`, comparing the rows of arrays[walked]."""
    if plain_kernels():
        from .hnsw_plain import PlainEngine

        return PlainEngine(codec, arrays, walked, metric)
    return Engine(codec, arrays, walked, metric)


class Engine:
    """Search and insertion by kernels."""

    def __init__(self, codec: Floating | Codes, arrays: dict[str, Any], walked: str, metric: str):
        from ..kernels import graph

        self._metric = int(metric == "l2")  # kernels.distance.DOT or SQUARED_L2
        self._codec, self._arrays = codec, arrays
        table = arrays[walked].view(np.uint8)
        self._rows = graph.Rows(table, codec.kind, self._metric, codec.width)
        self._graph = graph.Graph(arrays["links"], arrays["upper"], arrays["offsets"], arrays["levels"])

    def search(
        self, entry: int, root: int, walked: Any, ef: int, exact: Floating | Codes, stored: Any, queries: Any,
        rescored: int, mask: NDArray[np.bool_], ids: Ints, k: int,
    ) -> tuple[Floats, Ints]:  # fmt: skip
        from ..kernels import graph

        out = np.empty((len(walked), k), np.float32), np.empty((len(walked), k), np.int64)
        rows = graph.Rows(stored, exact.kind, self._metric, exact.width)
        scratch = self._scratch(ef)
        graph.search(self._rows, self._graph, entry, root, walked, ef, rows, queries, rescored, mask, ids, scratch, out)
        return out

    def find_neighbours(
        self, entry: int, root: int, count: int, first: int, last: int, m: int, ef: int, expanded: int, live: Any
    ) -> None:
        from ..kernels import graph_build

        graph_build.find_neighbours(
            self._rows, self._graph, entry, root, count, first, last, m, ef, expanded, live,
            self._scratch(ef), self._query(),
        )  # fmt: skip

    def adopt(self, first: int, last: int, limit: int) -> None:
        from ..kernels import graph_build

        a = self._arrays
        kin = a["parents"], a["children"], a["youngest"]
        graph_build.adopt(self._rows.table, a["links"], first, last, limit, *kin)

    def link_back(
        self, layer: int, slots: Ints, targets: Ints, sources: Any, starts: Ints, first: int, last: int
    ) -> None:
        from ..kernels import graph_build

        a = self._arrays
        table = a["links"] if layer == 0 else a["upper"]
        parents = a["parents"] if layer == 0 else graph_build.NO_PARENTS
        graph_build.link_back(self._rows, table, slots, targets, sources, starts, first, last, parents, self._query())

    def bypass(self, layer: int, owners: Any, live: Any, fresh: Any, first: int, last: int) -> None:
        from ..kernels import graph_build

        a = self._arrays
        table = a["links"] if layer == 0 else a["upper"]
        scratch = self._scratch(NEIGHBOURS_OF_REMOVED)
        graph_build.bypass(
            self._rows, table, a["offsets"], layer, owners, first, last, live, scratch, fresh, self._query()
        )

    def nearest(self, entry: int, root: int, query: Any, ef: int, count: int) -> Ints:
        """The ef nearest rows that can be reached, by what the graph is walked on."""
        everything, ids = np.ones(count, bool), np.arange(count)
        return self.search(entry, root, query, ef, self._codec, self._rows.table, query, ef, everything, ids, ef)[1][0]

    def spanning_tree(self, count: int, start: int, parents: Any) -> int:
        from ..kernels import graph

        return graph.spanning_tree(self._arrays["links"], count, start, parents)

    def _query(self) -> Any:
        return np.empty(self._codec.query_size, np.uint8)

    def _scratch(self, ef: int) -> Any:
        """This thread's marks and pool, grown where they are too small."""
        from ..kernels import graph

        rows, links = len(self._arrays["ids"]), self._arrays["links"].shape[1]
        held = getattr(_local, "scratch", None)
        if held is None or len(held.visited) < rows or len(held.pool) < ef + 1 or len(held.fresh) < links + 1:
            held = graph.Scratch(
                np.zeros(max(rows, 1024), np.uint16), np.zeros(1, np.int64),
                np.empty(max(ef + 1, 512), np.int64), np.empty(max(links + 1, 64), np.int32),
            )  # fmt: skip
            _local.scratch = held
        return held


def draw_levels(rows: Ints, m: int, seed: int) -> Any:
    """The top layer of each row: floor(-ln(u) / ln(M)) (section 4 of the paper), u from a hash of (seed, row).

    The hash is splitmix64 (Steele, Lea & Flood 2014): a row has the same level whatever was added with it.
    """
    x = rows.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    u = ((mixed(x) >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return np.minimum(-np.log(u) / math.log(m), MAX_LEVEL).astype(np.int8)
