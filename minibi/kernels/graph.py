"""HNSW on arrays: search and insertion as published (Malkov & Yashunin 2016, algorithms 1, 2, 4 and 5).

A candidate is one int64 key that sorts as (distance, row): the float's bits made monotone in the upper half, the row
and an "expanded" bit in the lower. The candidate list and the result list of algorithm 2 are one sorted pool of `ef`
keys: the nearest key not yet expanded is next, and the search ends when all are. The plain twin, with heaps and sets,
is `minibi.index.hnsw_plain`.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from .cache import inline, kernel
from .distance import distance4


@intrinsic
def _bits(typing_context, x):
    """A float32's bits as int32."""

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], context.get_value_type(types.int32))

    return types.int32(types.float32), generate


@inline
def _key(d, row):
    bits = _bits(d + np.float32(0))  # -0.0 becomes 0.0
    ordered = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))  # negative floats count downward: turn them round
    return (np.int64(ordered) << 32) | (np.int64(row) << 1)


@inline
def _row(key):
    return (key & np.int64(0xFFFFFFFF)) >> 1


@inline
def _insert(pool, size, ef, key):
    """Insert into the sorted pool of at most ef keys; (position or size if refused, new size)."""
    if size == ef:
        if key >= pool[size - 1]:
            return size, size
        size -= 1
    low, high = 0, size
    while low < high:
        middle = (low + high) >> 1
        if pool[middle] < key:
            low = middle + 1
        else:
            high = middle
    for j in range(size, low, -1):
        pool[j] = pool[j - 1]
    pool[low] = key
    return low, size + 1


@inline
def _slot(node, level, offsets):
    """Where a node's links of a level stand: layer 0 in `links[node]`, the others in `upper`."""
    return node if level == 0 else offsets[node] + level - 1


@inline
def _distances(vectors, rows, first, count, query, metric):
    """Distances of up to four rows[first : first + count] to a query (an address)."""
    base, width = vectors.ctypes.data, vectors.shape[1]
    last = first + count - 1
    return distance4(
        base + 4 * width * np.int64(rows[first]),
        base + 4 * width * np.int64(rows[min(first + 1, last)]),
        base + 4 * width * np.int64(rows[min(first + 2, last)]),
        base + 4 * width * np.int64(rows[last]),
        query,
        width,
        metric,
    )


@inline
def _same(vectors, a, b):
    for i in range(vectors.shape[1]):  # noqa: SIM110 - Numba knows no generators
        if vectors[a, i] != vectors[b, i]:
            return False
    return True


@kernel
def search_layer(vectors, links, offsets, level, query, metric, ef, pool, size, visited, stamp, fresh):
    """Algorithm 2: from the `size` keys in `pool`, the ef nearest rows on one layer; returns how many.

    links: the layer's table of neighbours, -1 where there is none. visited [N] marks rows with `stamp`; fresh is
    scratch for one row of neighbours.
    """
    for j in range(size):
        visited[_row(pool[j])] = stamp
    current = 0
    while current < size:
        if pool[current] & 1:
            current += 1
            continue
        node = _row(pool[current])
        pool[current] |= 1
        neighbours = links[_slot(node, level, offsets)]
        count = 0
        for j in range(neighbours.size):
            row = neighbours[j]
            if row < 0:
                break
            if visited[row] != stamp:
                visited[row] = stamp
                fresh[count] = row
                count += 1
        nearest = size
        for first in range(0, count, 4):
            block = min(4, count - first)
            found = _distances(vectors, fresh, first, block, query, metric)
            for j in range(block):
                position, size = _insert(pool, size, ef, _key(found[j], fresh[first + j]))
                nearest = min(nearest, position)
        current = min(current, nearest)
    return size


@kernel
def select_neighbours(vectors, metric, candidates, count, m, chosen):
    """Algorithm 4: from `count` sorted keys, up to m rows, none of them nearer to one chosen before than to the base.

    Of exact duplicates only one is chosen, so they cannot fill a list and seal it off.
    """
    base, width = vectors.ctypes.data, vectors.shape[1]
    size = 0
    for i in range(count):
        row = _row(candidates[i])
        limit = candidates[i] >> 32
        good = True
        for first in range(0, size, 4):
            block = min(4, size - first)
            found = _distances(vectors, chosen, first, block, base + 4 * width * row, metric)
            for j in range(block):
                between = _key(found[j], 0) >> 32
                if between < limit or (between == limit and _same(vectors, row, chosen[first + j])):
                    good = False
            if not good:
                break
        if good:
            chosen[size] = row
            size += 1
            if size == m:
                break
    return size


@kernel
def connect(vectors, metric, neighbours, node, new, keys, chosen):
    """Add a link node -> new; a full list is chosen anew by algorithm 4."""
    capacity = neighbours.size
    count = 0
    while count < capacity and neighbours[count] >= 0:
        count += 1
    if count < capacity:
        neighbours[count] = new
        return
    query = vectors.ctypes.data + 4 * vectors.shape[1] * np.int64(node)
    chosen[:capacity] = neighbours
    chosen[capacity] = new
    size = 0
    for first in range(0, capacity + 1, 4):
        block = min(4, capacity + 1 - first)
        found = _distances(vectors, chosen, first, block, query, metric)
        for j in range(block):
            _, size = _insert(keys, size, capacity + 1, _key(found[j], chosen[first + j]))
    size = select_neighbours(vectors, metric, keys, size, capacity, chosen)
    neighbours[:size] = chosen[:size]
    neighbours[size:] = -1


@kernel
def descend(vectors, upper, offsets, query, metric, entry, top, bottom, pool, visited, stamp, fresh):
    """Greedy search (algorithm 2 with ef = 1) from layer `top` down to `bottom` + 1; pool[0] is then the nearest."""
    fresh[0] = entry
    pool[0] = _key(_distances(vectors, fresh, 0, 1, query, metric)[0], entry)
    for level in range(top, bottom, -1):
        stamp += 1
        pool[0] &= ~np.int64(1)
        search_layer(vectors, upper, offsets, level, query, metric, 1, pool, 1, visited, stamp, fresh)
    pool[0] &= ~np.int64(1)
    return stamp


@inline
def _with_entry(vectors, query, metric, entry, ef, pool, size, fresh):
    """The entry point among the keys that a search of layer 0 begins with: from it, and maybe from no other row, every
    row can be reached, so a search finds as many as it was asked for."""
    for j in range(size):
        if _row(pool[j]) == entry:
            return size
    fresh[0] = entry
    return _insert(pool, size, ef, _key(_distances(vectors, fresh, 0, 1, query, metric)[0], entry))[1]


@kernel
def insert(vectors, links, upper, offsets, levels, first, last, entry, m, ef, metric):
    """Algorithm 1 for rows first .. last-1, in order; returns the entry point after them. entry < 0: an empty graph."""
    count, width = vectors.shape
    visited = np.zeros(count, np.uint32)
    stamp = np.uint32(0)
    pool = np.empty(ef + 1, np.int64)
    fresh = np.empty(2 * m + 1, np.int32)
    chosen = np.empty(2 * m + 2, np.int32)
    scratch = np.empty(2 * m + 2, np.int32)
    keys = np.empty(2 * m + 3, np.int64)
    for row in range(first, last):
        level = levels[row]
        if entry < 0:
            entry = row
            continue
        top = levels[entry]
        query = vectors.ctypes.data + 4 * width * row
        if stamp > 4_000_000_000:
            visited[:] = 0
            stamp = np.uint32(0)
        stamp = descend(vectors, upper, offsets, query, metric, entry, top, level, pool, visited, stamp, fresh)
        size = 1
        for layer in range(min(level, top), -1, -1):
            table = links if layer == 0 else upper
            if layer == 0:
                size = _with_entry(vectors, query, metric, entry, ef, pool, size, fresh)
            stamp += np.uint32(1)
            size = search_layer(vectors, table, offsets, layer, query, metric, ef, pool, size, visited, stamp, fresh)
            for j in range(size):
                pool[j] &= ~np.int64(1)
            picked = select_neighbours(vectors, metric, pool, size, m, chosen)
            mine = table[_slot(row, layer, offsets)]
            mine[:picked] = chosen[:picked]
            for j in range(picked):
                other = chosen[j]
                connect(vectors, metric, table[_slot(other, layer, offsets)], other, row, keys, scratch)
        if level > top:
            entry = row
    return entry


@kernel
def search(vectors, links, upper, offsets, levels, entry, queries, k, ef, metric, out_distances, out_rows):
    """Algorithm 5 for queries [Q, P]: the k nearest found, out_rows int64 [Q, k], -1 where fewer were reached."""
    count, width = vectors.shape
    visited = np.zeros(count, np.uint32)
    stamp = np.uint32(0)
    pool = np.empty(ef + 1, np.int64)
    fresh = np.empty(links.shape[1] + 1, np.int32)
    for q in range(queries.shape[0]):
        query = queries.ctypes.data + 4 * width * q
        stamp = descend(vectors, upper, offsets, query, metric, entry, levels[entry], 0, pool, visited, stamp, fresh)
        stamp += np.uint32(1)
        size = _with_entry(vectors, query, metric, entry, ef, pool, 1, fresh)
        size = search_layer(vectors, links, offsets, 0, query, metric, ef, pool, size, visited, stamp, fresh)
        for j in range(k):
            if j < size:
                fresh[0] = _row(pool[j])
                out_rows[q, j] = fresh[0]
                out_distances[q, j] = _distances(vectors, fresh, 0, 1, query, metric)[0]
            else:
                out_rows[q, j] = -1


@kernel
def spanning_tree(links, start, parent):
    """Breadth first over layer 0 from `start`: parent[row] = who reached it; returns how many rows were.

    Rows whose parent is not -1 were reached before and are passed over. `start` is its own parent, unless it has one.
    """
    queue = np.empty(links.shape[0], np.int32)
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
            if parent[row] < 0:
                parent[row] = node
                queue[tail] = row
                tail += 1
    return tail
