"""HNSW with heaps, sets and lists: the readable twin of `minibi.kernels.graph`, on the same arrays.

Follows the algorithms of Malkov & Yashunin 2016 line by line. Candidates are pairs (distance, row), so equal distances
are ordered by row, and twin and kernel build the same graph wherever their distances agree.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any

import numpy as np

from ..shapes import Floats, Ints

Candidate = tuple[float, int]


def _distances(vectors: Floats, rows: Any, query: Floats, metric: int) -> list[float]:
    picked = vectors[rows]  # each row summed by itself: BLAS would let equal rows differ in the last bit
    return (np.square(picked - query).sum(axis=1) if metric else -(picked * query).sum(axis=1)).tolist()


def neighbours_of(links: Any, slot: int) -> list[int]:
    return [row for row in links[slot].tolist() if row >= 0]


def search_layer(
    vectors: Floats, layer: Any, query: Floats, metric: int, ef: int, entry: list[Candidate]
) -> list[Candidate]:
    """Algorithm 2: the ef nearest to the query on one layer, sorted. `layer(row)` is a row's list of neighbours."""
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
        for candidate in zip(_distances(vectors, fresh, query, metric), fresh, strict=True):
            if len(found) < ef or candidate < (-found[0][0], -found[0][1]):
                heapq.heappush(candidates, candidate)
                heapq.heappush(found, (-candidate[0], -candidate[1]))
                if len(found) > ef:
                    heapq.heappop(found)
    return sorted((-d, -row) for d, row in found)


def select_neighbours(vectors: Floats, metric: int, candidates: list[Candidate], m: int) -> list[int]:
    """Algorithm 4: keep a candidate unless it is nearer to one kept before than to the base, or a duplicate of one."""
    chosen: list[int] = []
    for distance, row in candidates:
        between = _distances(vectors, chosen, vectors[row], metric) if chosen else []
        if all(
            d > distance or (d == distance and (vectors[row] != vectors[other]).any())
            for d, other in zip(between, chosen, strict=True)
        ):
            chosen.append(row)
            if len(chosen) == m:
                break
    return chosen


def _connect(vectors: Floats, metric: int, links: Any, slot: int, node: int, new: int) -> None:
    """A link node -> new; a full list is chosen anew."""
    mine = [*neighbours_of(links, slot), new]
    if len(mine) > links.shape[1]:
        ranked = sorted(zip(_distances(vectors, mine, vectors[node], metric), mine, strict=True))
        mine = select_neighbours(vectors, metric, ranked, links.shape[1])
    links[slot] = -1
    links[slot, : len(mine)] = mine


def _layer(links: Any, upper: Any, offsets: Ints, level: int) -> Any:
    """row -> its neighbours on a level, as `search_layer` wants it."""
    if level == 0:
        return lambda row: neighbours_of(links, row)
    return lambda row: neighbours_of(upper, offsets[row] + level - 1)


def _descend(vectors: Floats, upper: Any, offsets: Ints, query: Floats, metric: int, entry: int, top: int, bottom: int):
    nearest = [(_distances(vectors, [entry], query, metric)[0], entry)]
    for level in range(top, bottom, -1):
        nearest = search_layer(vectors, _layer(None, upper, offsets, level), query, metric, 1, nearest)
    return nearest


def _with_entry(vectors: Floats, query: Floats, metric: int, entry: int, nearest: list[Candidate]) -> list[Candidate]:
    """The entry point among those that a search of layer 0 begins with: from it, and maybe from no other row, every
    row can be reached, so a search finds as many as it was asked for."""
    if any(row == entry for _, row in nearest):
        return nearest
    return [*nearest, (_distances(vectors, [entry], query, metric)[0], entry)]


def insert(
    vectors: Floats, links: Any, upper: Any, offsets: Ints, levels: Any,
    first: int, last: int, entry: int, m: int, ef: int, metric: int,
) -> int:  # fmt: skip
    """Algorithm 1 for rows first .. last-1; returns the entry point after them."""
    for row in range(first, last):
        if entry < 0:
            entry = row
            continue
        query, level, top = vectors[row], int(levels[row]), int(levels[entry])
        nearest = _descend(vectors, upper, offsets, query, metric, entry, top, level)
        for layer in range(min(level, top), -1, -1):
            if layer == 0:
                nearest = _with_entry(vectors, query, metric, entry, nearest)
            nearest = search_layer(vectors, _layer(links, upper, offsets, layer), query, metric, ef, nearest)
            chosen = select_neighbours(vectors, metric, nearest, m)
            table, slot = (links, row) if layer == 0 else (upper, offsets[row] + layer - 1)
            table[slot, : len(chosen)] = chosen
            for other in chosen:
                other_slot = other if layer == 0 else offsets[other] + layer - 1
                _connect(vectors, metric, table, other_slot, other, row)
        if level > top:
            entry = row
    return entry


def search(
    vectors: Floats, links: Any, upper: Any, offsets: Ints, levels: Any, entry: int,
    queries: Floats, k: int, ef: int, metric: int, out_distances: Floats, out_rows: Ints,
) -> None:  # fmt: skip
    """Algorithm 5 for each query."""
    for q, query in enumerate(queries):
        nearest = _descend(vectors, upper, offsets, query, metric, entry, int(levels[entry]), 0)
        nearest = _with_entry(vectors, query, metric, entry, nearest)
        found = search_layer(vectors, _layer(links, upper, offsets, 0), query, metric, ef, nearest)[:k]
        out_distances[q, : len(found)] = [d for d, _ in found]
        out_rows[q, : len(found)] = [row for _, row in found]


def spanning_tree(links: Any, start: int, parent: Any) -> int:
    """Breadth first over layer 0 from `start`: parent[row] = who reached it; returns how many rows were.

    Rows whose parent is not -1 were reached before and are passed over. `start` is its own parent, unless it has one.
    """
    if parent[start] < 0:
        parent[start] = start
    queue, reached = deque([start]), 1
    while queue:
        node = queue.popleft()
        for row in neighbours_of(links, node):
            if parent[row] < 0:
                parent[row] = node
                queue.append(row)
                reached += 1
    return reached
