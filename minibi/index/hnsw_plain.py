"""HNSW with heaps, sets and lists: the readable twin of `minibi.kernels.graph` and `graph_build`, on the same arrays.

Follows the algorithms of Malkov & Yashunin 2016 line by line. Candidates are pairs (distance, row), so equal distances
are ordered by row, and twin and kernel build the same graph wherever their distances agree: on codes, always.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..shapes import Floats, Ints, unit_rows
from .codes import Codes, Floating
from .contract import View

Candidate = tuple[float, int]
Layer = Callable[[int], list[int]]  # a row's neighbours on one layer


def search_layer(
    distances: Callable[[list[int]], list[float]], layer: Layer, ef: int, entry: list[Candidate]
) -> list[Candidate]:
    """Algorithm 2: the ef nearest to the query on one layer, sorted. distances(rows): to the query."""
    entry = sorted(entry)[:ef]
    visited = {row for _, row in entry}
    candidates = list(entry)
    heapq.heapify(candidates)
    found = [(-d, -row) for d, row in entry]  # a heap with the furthest on top
    heapq.heapify(found)
    while candidates:
        nearest = heapq.heappop(candidates)
        furthest = (-found[0][0], -found[0][1])
        if nearest > furthest and len(found) >= ef:
            break
        fresh = [row for row in layer(nearest[1]) if row not in visited]
        visited.update(fresh)
        if not fresh:
            continue
        for candidate in zip(distances(fresh), fresh, strict=True):
            if len(found) < ef or candidate < (-found[0][0], -found[0][1]):
                heapq.heappush(candidates, candidate)
                heapq.heappush(found, (-candidate[0], -candidate[1]))
                if len(found) > ef:
                    heapq.heappop(found)
    return sorted((-d, -row) for d, row in found)


class PlainEngine:
    """Search and insertion as `hnsw_engine.Engine` does them, one candidate after the other."""

    def __init__(self, codec: Floating | Codes, arrays: dict[str, Any], walked: str, metric: str):
        self._codec, self._metric = codec, metric
        self._table = arrays[walked].view(np.uint8)
        self._tails = arrays.get("tails") if walked == "codes" else None
        self._live = arrays["live"]
        self._links, self._upper = arrays["links"], arrays["upper"]
        self._offsets, self._levels = arrays["offsets"], arrays["levels"]
        self._parents, self._children, self._youngest = arrays["parents"], arrays["children"], arrays["youngest"]

    # the graph -------------------------------------------------------------

    def _slots(self, layer: int, row: int) -> Any:
        """A row's places for links on a layer."""
        return self._links[row] if layer == 0 else self._upper[int(self._offsets[row]) + layer - 1]

    def _layer(self, layer: int, count: int) -> Layer:
        return lambda row: [other for other in self._slots(layer, row).tolist() if 0 <= other < count]

    def _write(self, layer: int, row: int, links: list[int], table: Any = None) -> None:
        mine = self._slots(layer, row) if table is None else table
        mine[:] = -1
        mine[: len(links)] = links

    def _distances(self, query: Any) -> Callable[[list[int]], list[float]]:
        def distances(rows: list[int]) -> list[float]:
            return (self._codec.distances_plain(self._rows(rows), query, self._metric) + np.float32(0)).tolist()

        return distances

    def _rows(self, rows: Any) -> Any:
        """Rows as the codec knows them."""
        return self._table[rows] if self._tails is None else self._codec.join(self._table[rows], self._tails[rows])

    def _as_query(self, row: int) -> Any:
        return self._codec.query_of_row(self._rows([row])[0])

    # searching -------------------------------------------------------------

    def _descend(self, distances: Any, count: int, entry: int, bottom: int) -> list[Candidate]:
        nearest = [(distances([entry])[0], entry)]
        for level in range(int(self._levels[entry]), bottom, -1):
            nearest = search_layer(distances, self._layer(level, count), 1, nearest)
        return nearest

    def _above(self, distances: Any, count: int, entry: int | None) -> list[Candidate]:
        """Where the search of layer 0 begins: what the upper layers lead to, or the nearest of a sample."""
        if entry is not None:
            return self._descend(distances, count, entry, 0)
        from .hnsw_engine import sample_of

        rows = sample_of(self._live[:count]).tolist()
        return [min(zip(distances(rows), rows, strict=True))]

    @staticmethod
    def _with_root(distances: Any, root: int, nearest: list[Candidate]) -> list[Candidate]:
        """The root among those that a search of layer 0 begins with: from it, and maybe from no other row, every row
        can be reached, so a search finds as many as it was asked for."""
        if any(row == root for _, row in nearest):
            return nearest
        return [*nearest, (distances([root])[0], root)]

    def search(
        self, entry: int | None, root: int, x: Floats, ef: int, exact: Floating | Codes, stored: Any,
        mask: NDArray[np.bool_], ids: Ints, k: int,
    ) -> tuple[Floats, Ints]:  # fmt: skip
        """Algorithm 5 for each query; those that may be among the nearest are ordered by the vectors as stored."""
        out = np.full((len(x), k), np.inf, np.float32), np.full((len(x), k), -1, np.int64)
        x = unit_rows(x) if self._metric == "cosine" else x
        for q, (query, precise) in enumerate(zip(*(c.encode_queries(x) for c in (self._codec, exact)), strict=True)):
            distances = self._distances(query)
            nearest = self._above(distances, len(mask), entry)
            nearest = self._with_root(distances, root, nearest)
            found = search_layer(distances, self._layer(0, len(mask)), ef, nearest)
            found = [(d, row) for d, row in found if mask[row]]
            best: list[tuple[float, int, int]] = []
            while found:
                some, found = self._may_be_near(found, query, exact, best[k - 1][0] if len(best) >= k else np.inf)
                rows = self._rows(some) if exact.name == self._codec.name else stored[some]
                d = exact.distances_plain(rows, precise, self._metric) if some else []
                best = sorted([*best, *zip(d, ids[some].tolist(), some, strict=True)])[:k]
            for j, (d, _, row) in enumerate(best):
                out[0][q, j], out[1][q, j] = d, row
        return out

    def answer(self, view: View, entry: int | None, x: Floats, ef: int, exact: Any, k: int) -> None:
        """No short way."""

    def _may_be_near(
        self, found: list[Candidate], query: Any, exact: Any, worst: float
    ) -> tuple[list[int], list[Candidate]]:
        """The next eight whose estimates do not rule them out, and the rest. See `kernels.walk`."""
        some: list[int] = []
        while found and len(some) < 8:
            (d, row), *found = found
            same = exact.name == self._codec.name
            slack = 0 if same else self._codec.slack(self._rows([row])[0], query, self._metric)
            if np.float32(d) - slack <= worst:
                some.append(row)
        return some, found

    def nearest(self, entry: int, root: int, x: Floats, ef: int, count: int) -> Ints:
        everything, ids = np.ones(count, bool), np.arange(count)
        return self.search(entry, root, x, ef, self._codec, None, everything, ids, ef)[1][0]

    # building --------------------------------------------------------------

    def _select(self, candidates: list[Candidate], m: int, children: Any = ()) -> list[int]:
        """Algorithm 4: each candidate that is kept rules out those that are nearer to it than to the base, and its
        exact duplicates. Children of the base are always kept."""
        chosen: list[int] = []
        owed = sum(row in children for _, row in candidates)
        while candidates and len(chosen) < m:
            (_, row), *candidates = candidates
            if row in children:
                owed -= 1
            elif len(chosen) + owed >= m:
                continue
            chosen.append(row)
            candidates = self._not_hidden(candidates, row, children)
        return chosen

    def _not_hidden(self, candidates: list[Candidate], row: int, children: Any) -> list[Candidate]:
        between = self._distances(self._as_query(row))([other for _, other in candidates]) if candidates else []
        return [
            (distance, other)
            for d, (distance, other) in zip(between, candidates, strict=True)
            if other in children or d > distance or (d == distance and not self._same(row, other))
        ]

    def _same(self, a: int, b: int) -> bool:
        first, second = self._rows([a, b])
        return bool((first == second).all())

    def insert(self, ends: Ints, entries: Ints, root: int, m: int, ef: int, live: Any) -> None:
        """Batches of new rows, b of the rows ends[b] .. ends[b + 1] - 1, one after the other."""
        for (first, last), entry in zip(pairwise(ends.tolist()), entries.tolist(), strict=True):
            self.find_neighbours(entry, root, first, last, m, ef, live)
            self.adopt(first, last, m)
            self.link_back(first, last, m)

    def find_neighbours(self, entry: int, root: int, first: int, last: int, m: int, ef: int, live: Any) -> None:
        """Algorithm 1 up to the links of the new rows first .. last-1 themselves."""
        for row in range(first, last):
            distances = self._distances(self._as_query(row))
            level, top = int(self._levels[row]), int(self._levels[entry])
            nearest = self._descend(distances, first, entry, level)
            for layer in range(min(level, top), -1, -1):
                if layer == 0:
                    nearest = self._with_root(distances, root, nearest)
                nearest = search_layer(distances, self._layer(layer, first), ef, nearest)
                chosen = self._select([(d, other) for d, other in nearest if live[other]], m)
                self._write(layer, row, chosen)

    def adopt(self, first: int, last: int, limit: int) -> None:
        """Gives each new row a parent: the nearest of its neighbours, or else any row, with room for a child; exact
        duplicates hang on one another."""
        children, youngest = self._children, self._youngest
        for row in range(first, last):
            near = self._layer(0, first)(row)
            for i, host in enumerate([*near, *np.flatnonzero(self._parents[:row] >= 0).tolist()]):
                while i < len(near) and children[host] >= limit and self._same(youngest[host], row):
                    host = int(youngest[host])
                if children[host] < limit:
                    break
            self._parents[row], youngest[host] = host, row
            children[host] += 1

    def link_back(self, first: int, last: int, m: int) -> None:
        """The rows that rows first .. last-1 link to link to them in turn, and so do their parents; a full list is
        chosen anew."""
        gained: dict[tuple[int, int], list[int]] = {}  # layer, row: what it gains
        for row in range(first, last):
            for layer in range(int(self._levels[row]) + 1):
                kin = [int(self._parents[row])] if layer == 0 else []
                for other in kin + self._layer(layer, first)(row)[:m]:
                    gained.setdefault((layer, other), []).append(row)
        for (layer, node), sources in gained.items():
            mine = self._layer(layer, len(self._table))(node)
            mine = list(dict.fromkeys([*mine, *sources]))
            capacity = len(self._slots(layer, node))
            if len(mine) > capacity:
                ranked = sorted(zip(self._distances(self._as_query(node))(mine), mine, strict=True))
                children = {row for row in mine if layer == 0 and self._parents[row] == node}
                mine = self._select(ranked, capacity, children)
            self._write(layer, node, mine)

    def bypass(self, layer: int, owners: Any, live: Any, fresh: Any, first: int, last: int) -> None:
        """New links for rows some of whose links lead to removed rows: chosen among the live neighbours of removed
        neighbours, and of their removed neighbours in turn. Links to live rows stay."""
        from .hnsw_engine import NEIGHBOURS_OF_REMOVED as MOST

        for node in owners[first:last].tolist():
            held = self._layer(layer, len(self._table))(node)
            seen, todo, found = {node}, deque([node]), []
            passed, own = 1, sum(bool(live[row]) for row in held)
            enough = own + fresh.shape[1] * (len(held) - own)
            while todo and len(found) < min(enough, MOST):
                for row in self._layer(layer, len(self._table))(todo.popleft()):
                    if row in seen:
                        continue
                    seen.add(row)
                    if live[row]:
                        found.append(row)
                    elif passed < MOST:
                        todo.append(row)
                        passed += 1
            found = found[:MOST]
            ranked = sorted(zip(self._distances(self._as_query(node))(found), found, strict=True)) if found else []
            owed, chosen = own, []
            for distance, row in ranked:
                owed -= row in held
                if row in held or (len(chosen) + owed < fresh.shape[1] and not self._hidden(chosen, row, distance)):
                    chosen.append(row)
            slot = node if layer == 0 else int(self._offsets[node]) + layer - 1
            self._write(layer, node, chosen, fresh[slot])

    def _hidden(self, chosen: list[int], row: int, distance: float) -> bool:
        """Whether one of `chosen` is nearer to a row than `distance`, or is its exact duplicate."""
        between = self._distances(self._as_query(row))(chosen) if chosen else []
        return any(
            d < distance or (d == distance and self._same(row, other)) for d, other in zip(between, chosen, strict=True)
        )

    def spanning_tree(self, count: int, start: int, parents: Any) -> int:
        """Breadth first over layer 0 from `start`: parents[row] = who reached it; returns how many rows were.

        Rows whose parent is not -1 were reached before and are passed over. `start` is its own parent if it has none.
        """
        if parents[start] < 0:
            parents[start] = start
        layer = self._layer(0, count)
        queue, reached = deque([start]), 1
        while queue:
            node = queue.popleft()
            for row in layer(node):
                if parents[row] < 0:
                    parents[row] = node
                    queue.append(row)
                    reached += 1
        return reached
