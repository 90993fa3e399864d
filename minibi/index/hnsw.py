"""HNSWIndex: a navigable graph in layers, searched greedily from the top (Malkov & Yashunin 2016).

Insertion is sequential and levels are drawn from a hash of (seed, row), so the same calls build the same graph. Every
row is reachable from the entry point: whatever pruning cut off is linked again, which `check` verifies.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np

from ..environment import plain_kernels
from ..shapes import Floats, Ints
from ..threads import parallel_map
from .contract import Index, _grown, whole

QUERIES_PER_JOB = 64
ROWS_PER_CALL = 1024  # inserted without a chance to be interrupted
MAX_LEVEL = 30


class HNSWIndex(Index):
    """Approximate search in logarithmic time.

    dim, metric: as for every index. M: links per row on the upper layers, 2M on the lowest. ef_construction: candidates
    considered for each new row. seed: of the random levels. `search` takes `ef`, the number of candidates kept while
    searching: larger finds more and takes longer (default 64, and never less than k).
    """

    kind: ClassVar[str] = "hnsw-index"

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        M: int = 16,
        ef_construction: int = 200,
        seed: int = 0,
        fingerprint: str = "",
    ):
        super().__init__(dim, metric, fingerprint)
        self.M, self.ef_construction = whole("M", M, 2, 512), whole("ef_construction", ef_construction, 1, 100_000)
        self.seed = whole("seed", seed)
        self.ef = 64
        self._metric_code = int(metric == "l2")  # kernels.distance.DOT or SQUARED_L2
        self._entry = -1
        self._links = np.full((0, 2 * self.M), -1, np.int32)  # layer 0
        self._upper = np.full((0, self.M), -1, np.int32)  # layers 1.. of each row that has any, one after the other
        self._offsets = np.zeros(0, np.int64)  # where a row's upper layers begin
        self._levels = np.zeros(0, np.int8)

    def _engine(self) -> ModuleType:
        if plain_kernels():
            from . import hnsw_plain

            return hnsw_plain
        from ..kernels import graph

        return graph

    def _reserve(self, count: int) -> None:
        super()._reserve(count)
        capacity = len(self._rows)
        if len(self._links) < capacity:
            n = min(self._count, len(self._links))
            self._links = _grown(self._links[:n], capacity, -1)
            self._offsets = _grown(self._offsets[:n], capacity)
            self._levels = _grown(self._levels[:n], capacity)

    def _link(self, first: int) -> None:
        levels = draw_levels(np.arange(first, self._count), self.M, self.seed)
        used = self._used_upper(first)
        self._levels[first : self._count] = levels
        self._offsets[first : self._count] = used + np.cumsum(levels, dtype=np.int64) - levels
        needed = used + int(levels.sum(dtype=np.int64))
        if needed > len(self._upper):
            self._upper = _grown(self._upper[:used], max(needed, 2 * used, 16), -1)
        done = first
        try:
            while done < self._count:
                last = min(done + ROWS_PER_CALL, self._count)
                self._entry = int(
                    self._engine().insert(
                        self.vectors, self._links[: self._count], self._upper, self._offsets, self._levels,
                        done, last, self._entry, self.M, self.ef_construction, self._metric_code,
                    )
                )  # fmt: skip
                done = last
        finally:  # interrupted: what was inserted stays, the rest was never there
            if done < self._count:
                self._cut_back(done)
            if done:
                self._repair()

    def _cut_back(self, count: int) -> None:
        """Takes back all but the first `count` rows, also where an interrupted insertion has linked some of them."""
        used = self._used_upper(count)
        for table, kept in ((self._links, count), (self._upper, used)):
            table[kept:] = -1
            if (table[:kept] >= count).any():
                table[table >= count] = -1
                table[:kept] = np.take_along_axis(table[:kept], np.argsort(table[:kept] < 0, axis=1, kind="stable"), 1)
        self._forget_from(count)

    def _used_upper(self, count: int) -> int:
        return int(self._offsets[count - 1]) + int(self._levels[count - 1]) if count else 0

    def _search(self, queries: Floats, k: int, ef: int | None) -> tuple[Floats, Ints]:
        breadth = min(max(ef or self.ef, k), self._count)
        engine, links = self._engine(), self._links[: self._count]

        def job(first: int) -> tuple[Floats, Ints]:
            some = queries[first : first + QUERIES_PER_JOB]
            distances = np.full((len(some), breadth), np.inf, np.float32)
            rows = np.full((len(some), breadth), -1, np.int64)
            engine.search(
                self.vectors, links, self._upper, self._offsets, self._levels, self._entry,
                some, breadth, breadth, self._metric_code, distances, rows,
            )  # fmt: skip
            ids = np.where(rows >= 0, self._ids[rows], np.iinfo(np.int64).max)
            order = np.lexsort((ids, distances), axis=1)[:, :k]  # equal distances by id, not by row
            return np.take_along_axis(distances, order, axis=1), np.take_along_axis(rows, order, axis=1)

        parts = list(parallel_map(job, range(0, len(queries), QUERIES_PER_JOB)))
        found, where = (np.concatenate(part) for part in zip(*parts, strict=True))
        return found, where

    def _repair(self) -> None:
        """Links every row that cannot be reached from the entry point to a near one that can.

        The nearest reachable row with a free place takes the link; where all are full, one gives up its last link that
        no other row depends on (that is not in the breadth-first tree), so nothing reachable is ever cut off. Exact
        duplicates are linked to one another, which keeps the work linear however many there are.
        """
        links, spanning_tree = self._links[: self._count], self._engine().spanning_tree
        parent = np.full(self._count, -1, np.int32)
        if spanning_tree(links, self._entry, parent) == self._count:
            return
        twins: dict[bytes, tuple[int, int]] = {}  # vector -> the rows that last gave and got a link for its sake
        for lost in np.flatnonzero(parent < 0).tolist():
            if parent[lost] >= 0:  # came along with an earlier one
                continue
            vector = self._rows[lost].tobytes()
            host = next((row for row in twins.get(vector, ()) if links[row, -1] < 0), -1)
            if host < 0:
                host = self._host(lost, parent)
            twins[vector] = host, lost
            free = np.flatnonzero(links[host] < 0)[:1]
            place = free if len(free) else np.flatnonzero(parent[links[host]] != host)[-1:]
            links[host, place] = lost
            parent[lost] = host
            spanning_tree(links, lost, parent)

    def _host(self, lost: int, parent: Any) -> int:
        """A reachable row that can link to `lost`, as near to it as there is."""
        breadth = min(self.ef_construction, self._count)
        while True:
            _, (near,) = self._search(self.vectors[lost : lost + 1], breadth, breadth)
            near = near[near >= 0]
            taken = parent[self._links[near]] == near[:, None]  # by links of the tree
            able = near[(parent[near] >= 0) & ((self._links[near] < 0) | ~taken).any(axis=1)]
            if len(able):
                return int(able[0])
            breadth = min(2 * breadth, self._count)  # at N, all: their tree has fewer links than places

    def check(self) -> list[str]:
        """What is wrong with the vectors, ids, or the graph, in words; empty if nothing is."""
        problems = super().check()
        n, m = self._count, self.M
        if not n:
            return problems if self._entry == -1 else [*problems, "an empty graph has an entry point"]
        levels, offsets = self._levels[:n].astype(np.int64), self._offsets[:n]
        if not 0 <= self._entry < n or levels.min() < 0 or levels[self._entry] != levels.max():
            return [*problems, "the entry point is not on the highest layer"]
        if (offsets != np.cumsum(levels) - levels).any() or levels.sum() > len(self._upper):
            return [*problems, "the places of the upper layers do not fit the levels"]
        owner = np.repeat(np.arange(n), levels)
        layer = np.arange(len(owner)) - np.repeat(offsets, levels) + 1
        for name, table, rows, least in (
            ("layer 0", self._links[:n], np.arange(n), np.zeros(n, np.int64)),
            ("an upper layer", self._upper[: len(owner)], owner, layer),
        ):
            used = table >= 0
            if (table < -1).any() or (table >= n).any() or (used[:, 1:] & ~used[:, :-1]).any():
                return [*problems, f"a link of {name} leads nowhere"]
            if (table == rows[:, None]).any():
                problems.append(f"a row of {name} links to itself")
            ordered = np.sort(table, axis=1)
            if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
                problems.append(f"a row of {name} has the same link twice")
            if (used & (levels[table] < least[:, None])).any():
                problems.append(f"a link of {name} leads to a row that is not on that layer")
        if self._links.shape[1] != 2 * m or self._upper.shape[1] != m:
            problems.append("the tables of links do not have 2M and M columns")
        reached = self._engine().spanning_tree(self._links[:n], self._entry, np.full(n, -1, np.int32))
        if reached < n:
            problems.append(f"{n - reached} of {n} rows cannot be reached from the entry point")
        return problems

    def _arrays(self) -> dict[str, Any]:
        n = self._count
        graph = {"links": self._links[:n], "upper": self._upper[: self._used_upper(n)]}
        return super()._arrays() | graph | {"offsets": self._offsets[:n], "levels": self._levels[:n]}

    def _fields(self) -> dict[str, Any]:
        settings = {"M": self.M, "ef_construction": self.ef_construction, "seed": self.seed, "entry": self._entry}
        return super()._fields() | settings

    @classmethod
    def _from(cls, arrays: dict[str, Any], fields: dict[str, Any]) -> Self:
        entry = int(fields.pop("entry"))
        index = super()._from(arrays, fields)
        n, m = index._count, index.M
        expected = {"links": (np.int32, (n, 2 * m)), "offsets": (np.int64, (n,)), "levels": (np.int8, (n,))}
        for name, (dtype, shape) in expected.items():
            if arrays[name].dtype != dtype or arrays[name].shape != shape:
                raise ValueError(f"{name} is {arrays[name].dtype}{list(arrays[name].shape)}")
        if arrays["upper"].dtype != np.int32 or arrays["upper"].ndim != 2 or arrays["upper"].shape[1] != m:
            raise ValueError(f"upper is {arrays['upper'].dtype}{list(arrays['upper'].shape)}")
        index._links, index._upper = arrays["links"], arrays["upper"]
        index._offsets, index._levels = arrays["offsets"], arrays["levels"]
        index._entry = entry
        return index


def draw_levels(rows: Ints, m: int, seed: int) -> Any:
    """The top layer of each row: floor(-ln(u) / ln(M)) (section 4 of the paper), u from a hash of (seed, row).

    The hash is splitmix64 (Steele, Lea & Flood 2014): a row has the same level whatever was added with it.
    """
    x = rows.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    x ^= x >> np.uint64(31)
    u = ((x >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return np.minimum(-np.log(u) / math.log(m), MAX_LEVEL).astype(np.int8)
