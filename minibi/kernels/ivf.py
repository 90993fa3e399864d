"""Inverted lists on arrays: which lists to probe, a pool of the best candidates, and the last word by stored vectors.

A candidate is one int64 key that sorts as (estimated distance, row). A pool holds up to twice the keys it has to
keep; when it is full the better half is selected, and what is beyond its worst need not be looked at any more. So
the result is the same in whatever order lists, blocks and rows come.

Lists lie end to end: list c owns slots starts[c] .. starts[c + 1] - 1 of `order`, which names a row or is -1.
"""

from __future__ import annotations

import numpy as np

from .cache import inline, kernel
from .codes import INT8
from .distance import _keep, distance4, distances_of
from .keys import fetch, from_ordered, ordered

AHEAD = 8  # candidates whose vectors are asked for before they are compared


@inline
def key_of(d, row):
    return (np.int64(ordered(d)) << 32) | np.int64(row)


@inline
def distance_of(key):
    return from_ordered(np.int32(key >> 32))


@inline
def row_of(key):
    return key & np.int64(0xFFFFFFFF)


@inline
def room_for(keep):
    """The length of a pool that keeps so many keys."""
    return 2 * keep + 64


@kernel
def select(keys, size, keep):
    """Moves the `keep` smallest of keys[:size], all different, to the front, the largest of them to keys[keep - 1]
    (quickselect, Hoare 1961).

    Pieces are cut by Lomuto's method without a branch: where keys come in any order, none could be foreseen.
    """
    low, high = 0, size - 1
    while low < high:
        a, b, c = keys[low], keys[(low + high) >> 1], keys[high]
        pivot = max(min(a, b), min(max(a, b), c))
        if pivot != c:
            at = low if pivot == a else (low + high) >> 1
            keys[at], keys[high] = c, pivot
        cut = low
        for j in range(low, high):
            x = keys[j]
            keys[j] = keys[cut]
            keys[cut] = x
            cut += x < pivot
        keys[high] = keys[cut]
        keys[cut] = pivot
        if keep - 1 < cut:
            high = cut - 1
        elif keep - 1 > cut:
            low = cut + 1
        else:
            return


@inline
def shrink(keys, size, keep):
    """Keeps the best of a full pool; returns the distance beyond which nothing matters."""
    select(keys, size, keep)
    return distance_of(keys[keep - 1])


@kernel
def choose(scores, nlist, nprobe, keys, out_cells, out_scores):
    """The `nprobe` cells [P] of largest score among scores[:nlist], best first, equal ones by number; keys: room."""
    room, size, limit = room_for(nprobe), 0, np.int64(0x7FFFFFFFFFFFFFFF)
    for c in range(nlist):
        d = -scores[c]
        key = key_of(d if d == d else np.float32(np.inf), c)  # NaN: infinity less infinity, of numbers near the limits
        keys[size] = key
        size += key < limit
        if size == room:
            select(keys, size, nprobe)
            limit, size = keys[nprobe - 1], nprobe
    select(keys, size, nprobe)
    best = np.sort(keys[:nprobe])
    for p in range(nprobe):
        c = row_of(best[p])
        out_cells[p] = c
        out_scores[p] = scores[c]


@kernel
def probes(scores, nlist, nprobe, out_cells, out_scores):
    """`choose` for each row of scores [Q, C]: cells and scores [Q, P]."""
    keys = np.empty(room_for(nprobe), np.int64)
    for q in range(scores.shape[0]):
        choose(scores[q], nlist, nprobe, keys, out_cells[q], out_scores[q])


@inline
def gather(order, starts, mask, cells, out):
    """Rows of the lists `cells` [P] that `mask` lets pass, in `out`; returns how many."""
    n = 0
    for p in range(cells.size):
        for slot in range(starts[cells[p]], starts[cells[p] + 1]):
            row = np.int64(order[slot])
            if row >= 0 and mask[row]:
                out[n] = row
                n += 1
    return n


@inline
def longest(starts, cells):
    """The most slots that one query's lists have together."""
    most = 0
    for q in range(cells.shape[0]):
        n = 0
        for p in range(cells.shape[1]):
            n += starts[cells[q, p] + 1] - starts[cells[q, p]]
        most = max(most, n)
    return most


@kernel
def rank(base, stride, ids, which, count, tail, query, k, kind, metric, width, best, found):
    """The k nearest of which[:count] and of `tail` to one query, by (distance, id), in best and found [k].

    base, query: the addresses of the vectors as stored, `stride` bytes each, and of what they are compared with.
    """
    tails = base + (width if kind == INT8 else width >> 1)
    four = np.empty(4, np.int64)
    total, size = count + tail.size, 0
    for j in range(k):
        best[j], found[j] = np.float32(np.inf), -1
    for j in range(min(AHEAD, count)):
        fetch(base + stride * which[j], stride)
    for first in range(0, total, 4):
        some = min(4, total - first)
        for j in range(4):
            at = first + min(j, some - 1)
            four[j] = which[at] if at < count else tail[at - count]
            if j < some and at + AHEAD < count:
                fetch(base + stride * which[at + AHEAD], stride)
        distances = distance4(
            kind, metric, base, stride, tails, stride, four[0], four[1], four[2], four[3], query, width
        )  # fmt: skip
        for j in range(some):
            if size < k or distances[j] <= best[k - 1]:
                size = _keep(best, found, size, k, distances[j], four[j], ids)


@inline
def rank_rows(rows, ids, which, count, tail, query, k, kind, metric, width, best, found):
    """`rank` of vectors and of a query that are arrays."""
    base, stride = rows.ctypes.data, rows.shape[1]
    rank(base, stride, ids, which, count, tail, query.ctypes.data, k, kind, metric, width, best, found)


@kernel
def search_lists(order, starts, mask, cells, rows, ids, tail, queries, k, kind, metric, width, out, out_rows):
    """The k nearest rows of the probed lists cells [Q, P] and of `tail`: out, out_rows [Q, k], row -1 where none is."""
    which = np.empty(longest(starts, cells), np.int64)
    for q in range(cells.shape[0]):
        n = gather(order, starts, mask, cells[q], which)
        rank_rows(rows, ids, which, n, tail, queries[q], k, kind, metric, width, out[q], out_rows[q])


@kernel
def search_coded(order, starts, mask, cells, codes, queries, kind, metric, width, keep, out):
    """The `keep` rows of the probed lists that are nearest by codes uint8 [N, stride]; out [Q, keep], -1 behind."""
    which = np.empty(longest(starts, cells), np.int64)
    keys = np.empty(room_for(keep), np.int64)
    for q in range(cells.shape[0]):
        n = gather(order, starts, mask, cells[q], which)
        size, limit = 0, np.float32(np.inf)
        for first in range(0, n, 4):
            some = min(4, n - first)
            distances = distances_of(codes, kind, metric, width, which, first, some, queries[q].ctypes.data)
            for j in range(some):
                if distances[j] <= limit:
                    keys[size] = key_of(distances[j], which[first + j])
                    size += 1
                    if size == keys.size:
                        limit = shrink(keys, size, keep)
                        size = keep
        finish(keys, size, keep, out[q])


@inline
def finish(keys, size, keep, out):
    """The rows of a pool's best, in any order."""
    if size > keep:
        select(keys, size, keep)
        size = keep
    for j in range(size):
        out[j] = row_of(keys[j])
    for j in range(size, out.size):
        out[j] = -1


@kernel
def rank_candidates(candidates, rows, ids, tail, queries, k, kind, metric, width, out, out_rows):
    """The k nearest by stored vectors among candidates [Q, R] (-1: none, all behind the others) and `tail`."""
    for q in range(candidates.shape[0]):
        n = candidates.shape[1]
        while n > 0 and candidates[q, n - 1] < 0:
            n -= 1
        rank_rows(rows, ids, candidates[q], n, tail, queries[q], k, kind, metric, width, out[q], out_rows[q])
