"""HNSW on arrays: the search as published (Malkov & Yashunin 2016, algorithms 2 and 5), on rows of bytes.

A candidate is one int64 key that sorts as (distance, row): the float's bits made monotone in the upper half, the row
and an "expanded" bit in the lower. The candidate list and the result list of algorithm 2 are one sorted pool of `ef`
keys: the nearest key not yet expanded is next, and the search ends when all are. The plain twin, with heaps and sets,
is `minibi.index.hnsw_plain`.

A writer may be linking rows while readers search: links to rows at or beyond `count` are passed over.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from . import simd
from .cache import inline, kernel
from .distance import _keep, distances_of
from .keys import fetch, ordered
from .matmul import ADDRESS


class Rows(NamedTuple):
    """Vectors as bytes [N, stride], and how to read them: see `minibi.kernels.distance`."""

    table: NDArray[np.uint8]
    kind: int
    metric: int
    width: int


class Graph(NamedTuple):
    """Links of layer 0 [N, 2M], of the upper layers [U, M], where a row's upper layers begin [N], its top layer [N]."""

    links: NDArray[np.int32]
    upper: NDArray[np.int32]
    offsets: NDArray[np.int32]
    levels: NDArray[np.int8]


class Scratch(NamedTuple):
    """What one thread needs while it searches: marks of visited rows [N], the last mark [1], keys, a few rows."""

    visited: NDArray[np.uint16]
    stamp: NDArray[np.int64]
    pool: NDArray[np.int64]
    fresh: NDArray[np.int32]


@intrinsic
def _shift_up(typing_context, address, count):
    """Moves `count` int64 one place up."""

    def generate(context, builder, signature, args):
        e = builder
        source, count = args
        pointer = simd.ir.PointerType(simd.i8)
        signature_ = simd.ir.FunctionType(simd.ir.VoidType(), [pointer, pointer, simd.i64, simd.ir.IntType(1)])
        move = simd.cgutils.get_or_insert_function(e.module, signature_, "llvm.memmove.p0.p0.i64")
        places = [e.inttoptr(x, pointer) for x in (e.add(source, simd.i64(8)), source)]
        e.call(move, [*places, e.mul(count, simd.i64(8)), simd.ir.Constant(simd.ir.IntType(1), 0)])
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS), generate


@inline
def key_of(d, row):
    return (np.int64(ordered(d)) << 32) | (np.int64(row) << 1)


@inline
def row_of(key):
    return (key & np.int64(0xFFFFFFFF)) >> 1


@inline
def insert_key(pool, size, ef, key):
    """Insert into the sorted pool of at most ef keys; (position or size if refused, new size)."""
    if size == ef:
        if key >= pool[np.uint64(size - 1)]:
            return size, size
        size -= 1
    low, many = np.int64(0), np.int64(size)
    while many > 1:  # no branch on what is found
        half = many >> 1
        low += half * np.int64(pool[np.uint64(low + half - 1)] < key)
        many -= half
    if size > 0:
        low += np.int64(pool[np.uint64(low)] < key)
    _shift_up(pool.ctypes.data + 8 * low, size - low)
    pool[np.uint64(low)] = key
    return low, size + 1


@inline
def slot_of(node, level, offsets):
    """Where a node's links of a level stand: layer 0 in `links[node]`, the others in `upper`."""
    return np.int64(node) if level == 0 else np.int64(offsets[node]) + level - 1


@inline
def new_stamp(scratch):
    """A mark that no row carries yet."""
    if scratch.stamp[0] >= 65535:
        scratch.visited[:] = 0
        scratch.stamp[0] = 0
    scratch.stamp[0] += 1
    return np.uint16(scratch.stamp[0])


@kernel
def search_layer(rows, links, offsets, level, count, query, ef, expanded, size, scratch):
    """Algorithm 2: from the `size` keys in the pool, the ef nearest rows on one layer; returns how many.

    Only the nearest `expanded` of them look at their neighbours: ef for the algorithm as published.
    links: the layer's table of neighbours, -1 where there is none; query: an address.
    """
    visited, pool, fresh = scratch.visited, scratch.pool, scratch.fresh
    stamp = new_stamp(scratch)
    base, stride = rows.table.ctypes.data, rows.table.shape[1]
    for j in range(size):
        visited[row_of(pool[j])] = stamp
    current = 0
    while current < min(size, expanded):
        if pool[np.uint64(current)] & 1:
            current += 1
            continue
        node = row_of(pool[np.uint64(current)])
        pool[np.uint64(current)] |= 1
        neighbours = links[slot_of(node, level, offsets)]
        many = np.int64(0)
        for j in range(neighbours.size):
            row = np.int64(neighbours[j])
            if row < 0:
                break
            if row < count:
                seen = visited[np.uint64(row)]
                visited[np.uint64(row)] = stamp
                fresh[np.uint64(many)] = row
                many += np.int64(seen != stamp)
        for j in range(many):
            fetch(base + stride * np.int64(fresh[np.uint64(j)]), stride)
        if level == 0 and current + 1 < size:  # the likely next node's links
            fetch(links.ctypes.data + 4 * links.shape[1] * row_of(pool[np.uint64(current + 1)]), 4 * links.shape[1])
        nearest = size
        for first in range(0, many, 4):
            block = min(4, many - first)
            found = distances_of(rows.table, rows.kind, rows.metric, rows.width, fresh, first, block, query)
            for j in range(block):
                position, size = insert_key(pool, size, ef, key_of(found[j], fresh[first + j]))
                nearest = min(nearest, position)
        current = min(current, nearest)
    return size


@kernel
def descend(rows, graph, count, query, entry, bottom, scratch):
    """Greedy search (algorithm 2 with ef = 1) from the entry point's top layer down to `bottom` + 1; pool[0] is then
    the nearest."""
    fresh, pool = scratch.fresh, scratch.pool
    fresh[0] = entry
    found = distances_of(rows.table, rows.kind, rows.metric, rows.width, fresh, 0, 1, query)
    pool[0] = key_of(found[0], entry)
    for level in range(graph.levels[entry], bottom, -1):
        search_layer(rows, graph.upper, graph.offsets, level, count, query, 1, 1, 1, scratch)
        pool[0] &= ~np.int64(1)


@kernel
def with_root(rows, query, root, ef, size, scratch):
    """The root among the keys that a search of layer 0 begins with: from it, and maybe from no other row, every row can
    be reached, so a search finds as many as it was asked for."""
    for j in range(size):
        if row_of(scratch.pool[j]) == root:
            return size
    scratch.fresh[0] = root
    found = distances_of(rows.table, rows.kind, rows.metric, rows.width, scratch.fresh, 0, 1, query)
    return insert_key(scratch.pool, size, ef, key_of(found[0], root))[1]


@kernel
def search(rows, graph, entry, root, queries, ef, exact, exact_queries, rescored, mask, ids, scratch, out):
    """Algorithm 5 for queries uint8 [Q, size]: the nearest found among rows with mask[row].

    mask [N] says how many rows there are. exact: the rows by which up to `rescored` of the ef found are ordered in the
    end, with exact_queries, or the same as `rows`. out: (distances, rows) [Q, k], ordered by distance, then id, row -1
    where fewer were reached.
    """
    count = mask.size
    k = out[0].shape[1]
    same = rows.kind == exact.kind
    base, stride = exact.table.ctypes.data, exact.table.shape[1]
    for q in range(queries.shape[0]):
        query = queries[q].ctypes.data
        descend(rows, graph, count, query, entry, 0, scratch)
        size = with_root(rows, query, root, ef, 1, scratch)
        size = search_layer(rows, graph.links, graph.offsets, 0, count, query, ef, ef, size, scratch)
        pool = scratch.pool
        kept = 0
        for j in range(size):  # the pool becomes the list of those that may be returned
            if mask[row_of(pool[j])]:
                pool[kept] = pool[j]
                kept += 1
                if kept == rescored:
                    break
        best, where = out[0][q], out[1][q]
        held = 0
        if not same:
            for j in range(min(4, kept)):
                fetch(base + stride * row_of(pool[j]), stride)
        for first in range(0, kept, 4):
            some = min(4, kept - first)
            for j in range(some):
                scratch.fresh[j] = row_of(pool[first + j])
            if not same:
                for j in range(first + 4, min(first + 8, kept)):
                    fetch(base + stride * row_of(pool[j]), stride)
            found = distances_of(
                exact.table, exact.kind, exact.metric, exact.width, scratch.fresh, 0, some, exact_queries[q].ctypes.data
            )
            for j in range(some):
                if held < k or found[j] <= best[k - 1]:
                    held = _keep(best, where, held, k, found[j], np.int64(scratch.fresh[j]), ids)
        where[held:] = -1


@kernel
def spanning_tree(links, count, start, parent):
    """Breadth first over layer 0 from `start`: parent[row] = who reached it; returns how many rows were.

    Rows whose parent is not -1 were reached before and are passed over. `start` is its own parent, unless it has one.
    """
    queue = np.empty(count, np.int32)
    if parent[start] < 0:
        parent[start] = start
    queue[0] = start
    head, tail = 0, 1
    while head < tail:
        node = queue[head]
        head += 1
        for j in range(links.shape[1]):
            row = links[node, j]
            if row < 0:
                break
            if row < count and parent[row] < 0:
                parent[row] = node
                queue[tail] = row
                tail += 1
    return tail
