"""The kernels of `minibi.kernels.graph`, bound to the arrays of one index. `hnsw_plain` is the twin in plain Python."""

from __future__ import annotations

import math
import threading
from time import sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..environment import plain_kernels
from ..hashing import mixed
from ..shapes import Floats, Ints, aligned, aligned_copy, writeable
from ..threads import PAUSE, on_each
from .codes import Codes, Floating, signs
from .contract import View

MAX_LEVEL = 30
SAMPLE = 128  # rows that a search may choose its beginning from
WALKS = 6  # queries that one thread walks for in turns
FEW_ROWS, FEW_QUERIES = 12, 64  # not worth a second thread
MOST_QUERIES = 16384  # at once: whoever interrupts a search will not wait for more
NEIGHBOURS_OF_REMOVED = 511  # candidates for the new links of a row some of whose neighbours were removed
_local = threading.local()


def engine_for(codec: Floating | Codes, arrays: dict[str, Any], walked: str, metric: str) -> Any:
    """What walks and builds the graph held in `arrays`, comparing the rows of arrays[walked]."""
    if plain_kernels():
        from .hnsw_plain import PlainEngine

        return PlainEngine(codec, arrays, walked, metric)
    return Engine(codec, arrays, walked, metric)


class Room:
    """What one thread needs to walk: `walks`, their addresses, and its queries in the forms they are compared in."""

    def __init__(self, rows: int, ef: int, links: int, dim: int):
        from ..kernels import graph_search, pool, walk

        self._rows, self._ef, self._links = max(rows, 4096), max(ef, 504), links
        seen = walk.MOST_SEEN + -(-(2 * links + 24) // 16) * 16
        self.walks = walk.Walks(
            aligned((WALKS, -(-self._rows // 64)), np.uint64),
            aligned((WALKS, pool.EIGHT + -(-self._ef // 8) * 8), np.int64),
            aligned((WALKS, seen), np.int32),
            aligned((WALKS, walk.FIELDS), np.int64),
        )  # fmt: skip
        self.walks.pool[:, : pool.EIGHT] = pool.LEAST
        width = -(-dim // 128) * 128
        self._queries = aligned((WALKS, width)), aligned((1, width)), aligned((WALKS, width + 64), np.uint8)
        self.places = graph_search.places_of(self.walks, *self._queries)

    def fits(self, rows: int, ef: int, links: int) -> bool:
        return rows <= self._rows and ef <= self._ef and links <= self._links


class Engine:
    """Search and insertion by kernels."""

    def __init__(self, codec: Floating | Codes, arrays: dict[str, Any], walked: str, metric: str):
        from ..kernels import distance, graph, graph_search

        self._metric = int(metric == "l2")  # kernels.distance.DOT or SQUARED_L2
        self._codec, self._arrays, self._unit = codec, arrays, metric == "cosine"
        self._asked: Any = None
        self._whole: Any = None  # what `answer` asks of its view
        self._needs = len(arrays["ids"]), arrays["links"].shape[1]
        table, tails = arrays[walked].view(np.uint8), arrays.get("tails") if walked == "codes" else None
        self._tailed = tails is not None
        self._rows_of, self._numbers_of, self._search = distance.rows_of, graph_search.numbers_of, graph_search.search
        self._rows = distance.rows_of(table, codec.kind, self._metric, codec.width, tails)
        self._graph = graph.Graph(arrays["links"], arrays["upper"], arrays["offsets"], arrays["levels"])

    def search(
        self, entry: int | None, root: int, x: Floats, ef: int, exact: Floating | Codes, stored: Any,
        mask: NDArray[np.bool_], ids: Ints, k: int,
    ) -> tuple[Floats, Ints]:  # fmt: skip
        """Distances and rows [Q, k] of the nearest found from the entry point; None: from the nearest of a sample."""
        asked = self._about(entry, root, exact, stored, len(mask))
        return self._all(asked[1], x, ef, mask, ids, False, k)[:2]

    def answer(
        self, view: View, entry: int | None, x: Floats, ef: int, exact: Floating | Codes, k: int
    ) -> tuple[Floats, Ints] | None:
        """Scores and ids [Q, k] of the nearest of all live rows; None if fewer were found, or a query is not finite or
        so long that it has to be looked at more closely."""
        asked = self._whole
        if asked is None or asked[0] != entry:
            held = self._about(entry, view.facts["root"], exact, view.arrays["vectors"].view(np.uint8), view.count)
            asked = self._whole = entry, held, view["live"], view["ids"]
        _, held, live, ids = asked
        scores, found, fine = self._all(held[1], x, ef, live, ids, True, k)
        return (scores, found) if fine else None

    def _all(
        self, asked: Any, x: Floats, ef: int, mask: NDArray[np.bool_], ids: Ints, final: bool, k: int
    ) -> tuple[Floats, Ints, bool]:
        """`graph_search.search`, by all threads where it is worth it."""
        x, out, found = writeable(x), np.empty((len(x), k), np.float32), np.empty((len(x), k), np.int64)
        if len(x) <= FEW_QUERIES:
            return out, found, self._search(asked, self._walks(ef).places, x, ef, mask, ids, final, out, found)
        fine = True
        for first in range(0, len(x), MOST_QUERIES):
            part, taken = slice(first, first + MOST_QUERIES), np.zeros(1, np.int64)

            def some(part: slice = part, taken: Ints = taken) -> bool:
                places = self._walks(ef).places.copy()
                places[-1] = taken.ctypes.data
                return self._search(asked, places, x[part], ef, mask, ids, final, out[part], found[part])

            fine &= all(on_each(some))
        return out, found, fine

    def _about(self, entry: int | None, root: int, exact: Floating | Codes, stored: Any, count: int) -> Any:
        """(what they are for, `graph_search.numbers_of`, the arrays whose addresses they hold): the last are kept, and
        whoever searches holds on to them, since another thread may replace them meanwhile."""
        asked, key = self._asked, (entry, root, exact.kind)
        if asked is None or asked[0] != key:
            same = exact.kind == self._codec.kind
            rows = self._rows if same else self._rows_of(stored, exact.kind, self._metric, exact.width)
            codes = [c for c in (exact, self._codec) if isinstance(c, Codes)]
            turn = signs(codes[0].width) if codes else None
            sample = self._sampled(count) if entry is None else None
            near = sample and sample[:2]
            about = self._numbers_of(self._rows, rows, self._graph, entry or 0, root, self._unit, turn, near)
            asked = self._asked = key, about, sample
        return asked

    def _sampled(self, count: int) -> Any:
        """Some live rows of the first `count`, copied together, and their numbers."""
        a = self._arrays
        which = sample_of(a["live"][:count])
        tails = np.ascontiguousarray(a["tails"][which]) if self._tailed else None
        copied = aligned_copy(self._rows.table[which])
        return self._rows_of(copied, self._codec.kind, self._metric, self._codec.width, tails), which, tails

    def insert(self, ends: Ints, entries: Ints, root: int, m: int, ef: int, live: Any) -> None:
        """Batches of new rows, b of the rows ends[b] .. ends[b + 1] - 1, one after the other, by all threads: each row
        finds its neighbours in the graph as it was before its batch, then those take it in."""
        from ..kernels import graph_build

        a, layers = self._arrays, self._graph.levels[ends[0] : ends[-1]] + np.int64(1)
        pairs = (m + 1) * int(np.add.reduceat(layers, ends[:-1] - ends[0]).max())
        slots, targets, starts = np.empty(pairs, np.int64), np.empty(pairs, np.int64), np.empty(pairs + 1, np.int64)
        gains = slots, targets, starts, np.empty(pairs, np.int32), np.empty((2, pairs), np.int32)
        kin, places = (a["parents"], a["children"], a["youngest"]), self._places()
        board = np.zeros((len(entries), graph_build.COUNTERS), np.int64)

        def some() -> None:
            walks = self._walks(ef).walks
            queries = aligned((WALKS, -(-self._codec.query_size // 64) * 64), np.uint8)
            batches = ends, entries, root, m, ef, live
            while not graph_build.insert(self._rows, self._graph, kin, *batches, walks, queries, board, gains, places):
                sleep(PAUSE)  # a thread was held up in the middle of its work

        on_each(some, None if np.diff(ends).max() > FEW_ROWS else 1)

    def bypass(self, layer: int, owners: Any, live: Any, fresh: Any, first: int, last: int) -> None:
        from ..kernels import graph_build

        a = self._arrays
        table = a["links"] if layer == 0 else a["upper"]
        scratch = self._scratch(NEIGHBOURS_OF_REMOVED)
        graph_build.bypass(
            self._rows, table, a["offsets"], layer, owners, first, last, live, scratch, fresh, self._query()
        )

    def nearest(self, entry: int, root: int, x: Floats, ef: int, count: int) -> Ints:
        """The ef nearest rows that can be reached from x [1, dim], by what the graph is walked on."""
        everything, ids = np.ones(count, bool), np.arange(count)
        return self.search(entry, root, x, ef, self._codec, None, everything, ids, ef)[1][0]

    def spanning_tree(self, count: int, start: int, parents: Any) -> int:
        from ..kernels import graph

        return graph.spanning_tree(self._arrays["links"], count, start, parents)

    def _query(self) -> Any:
        return np.empty(self._codec.query_size, np.uint8)

    def _walks(self, ef: int) -> Any:
        """This thread's room for walks, grown where it is too small."""
        rooms = _local.__dict__  # by dimensions
        held, (rows, links) = rooms.get(self._codec.dim), self._needs
        if held is None or not held.fits(rows, ef, links):
            held = rooms[self._codec.dim] = Room(rows, ef, links, self._codec.dim)
        return held

    def _places(self) -> Any:
        """This thread's zeros, one for each list of links."""
        size, held = len(self._graph.links) + len(self._graph.upper), getattr(_local, "places", None)
        if held is None or len(held) < size:
            held = _local.places = np.zeros(size, np.int32)
        return held

    def _scratch(self, most: int) -> Any:
        """This thread's marks and keys, grown where they are too small."""
        from ..kernels import graph

        rows, held = len(self._arrays["ids"]), getattr(_local, "scratch", None)
        if held is None or len(held.visited) < rows or len(held.pool) < most + 1:
            held = graph.Scratch(np.zeros(rows, np.uint16), np.zeros(1, np.int64), np.empty(most + 1, np.int64))
            _local.scratch = held
        return held


def sample_of(live: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Rows among which a walk may look for its beginning: one of each of SAMPLE even shares of the live rows, by a hash
    of the share's number; all of them where there are no more."""
    rows = np.flatnonzero(live)
    if len(rows) > SAMPLE:
        share = np.arange(SAMPLE, dtype=np.uint64)
        u = (mixed(share * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(11)).astype(np.float64) / 2.0**53
        rows = rows[((share.astype(np.float64) + u) * (len(rows) / SAMPLE)).astype(np.int64)]
    return rows.astype(np.int32)


def draw_levels(rows: Ints, m: int, seed: int) -> Any:
    """The top layer of each row: floor(-ln(u) / ln(M)) (section 4 of the paper), u from a hash of (seed, row).

    The hash is splitmix64 (Steele, Lea & Flood 2014): a row has the same level whatever was added with it.
    """
    x = rows.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    u = ((mixed(x) >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return np.minimum(-np.log(u) / math.log(m), MAX_LEVEL).astype(np.int8)
