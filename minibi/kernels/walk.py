"""Walks through HNSW's graph that take turns, so that each waits for memory while the others work.

A walk is the search of Malkov & Yashunin 2016: greedy from the entry point downwards (algorithm 2 with ef = 1), then
algorithm 2 with ef. The candidate list and the result list are one sorted pool of ef keys: the nearest key not yet
expanded is next, and the search ends when all are. Its steps are cut in two where they wait for memory:

    GATHER    the links of a node are there: note which of its neighbours are new, ask for their rows
    MEASURE   the rows are there: take in those that are near enough, choose the next node, ask for its links

Each walk has a slot in `Walks`. `advance` gives every slot half a step in turn, until one is DONE. No walk sees
another, so what it finds does not depend on its company. Searching (`graph_search`) and building (`graph_build`) start
the walks and take what they found.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from . import simd
from .cache import inline, kernel
from .distance import distances_to
from .keys import fetch, from_ordered
from .memory import ADDRESS, address, float_at, int32_at, int64_at, set_int32, set_int64, set_uint64, uint64_at
from .pool import EIGHT, GREATEST, clear, insert, key_at, key_of, row_of, set_key
from .simd import LANES
from .sixteen import lowest_bit

REST, GATHER, MEASURE, DONE = range(4)  # stages
# What is kept for each walk: its stage; its query's address; the layer it is on and the one down to which it is greedy;
# how many keys are in its pool and how many of the first were expanded; the node whose neighbours are looked at; where
# in `seen` the new ones begin and end; how many were seen; the root's key; what the caller keeps.
STAGE, QUERY, LEVEL, BOTTOM, SIZE, CURRENT, NODE, FRESH, END, SEEN, ROOT, TASK, HELD = range(13)
FIELDS = 16
MOST_SEEN = 4096  # rows that are remembered; who marked more wipes all marks


class Walks(NamedTuple):
    """For each of S slots: a bit for every row that was seen, a sorted pool of keys, the rows seen, numbers."""

    marks: NDArray[np.uint64]  # [S, N / 64], zero at first
    pool: NDArray[np.int64]  # [S, 8 + ef in eights], the first eight of each `pool.LEAST`
    seen: NDArray[np.int32]  # [S, MOST_SEEN + 4M + 24]; distances are at the end
    state: NDArray[np.int64]  # [S, FIELDS], zero at first


class Field(NamedTuple):
    """Where all of these lie, in addresses and numbers."""

    base: int  # rows
    stride: int
    tails: int
    apart: int
    kind: int
    metric: int
    width: int
    links: int
    most: int  # links of a row on layer 0
    upper: int
    offsets: int
    count: int  # rows in use: links to others, which a writer may be linking, are passed over
    ef: int
    marks: int
    words: int
    pool: int
    depth: int
    seen: int
    room: int
    state: int
    slots: int


class Sample(NamedTuple):
    """Rows to choose from where to begin, copied so that they lie together: addresses and numbers, as in `Field`."""

    base: int
    tails: int
    apart: int
    rows: int  # their numbers, int32
    count: int


@inline
def field_of(rows, graph, walks, slots, count, ef):
    return Field(
        address(rows.table), rows.table.shape[1], rows.tails, rows.apart, rows.kind, rows.metric, rows.width,
        address(graph.links), graph.links.shape[1], address(graph.upper), address(graph.offsets),
        count, ef,
        address(walks.marks), walks.marks.shape[1], address(walks.pool), walks.pool.shape[1],
        address(walks.seen), walks.seen.shape[1], address(walks.state), slots,
    )  # fmt: skip


@inline
def get(state, name):
    return int64_at(state + 8 * name)


@inline
def put(state, name, value):
    set_int64(state + 8 * name, np.int64(value))


@inline
def state_of(field, slot):
    return field.state + 8 * FIELDS * slot


@inline
def pool_of(field, slot):
    return field.pool + 8 * (field.depth * slot + EIGHT)


@inline
def distances(field, which, count, query, out, ahead, many):
    """Of `count` rows (int32 at an address) to a query, to an address; asks for the `many` rows at `ahead`."""
    f = field
    distances_to(
        f.kind, f.metric, f.base, f.stride, f.tails, f.apart, f.width, which, count, query, out, ahead, many
    )  # fmt: skip


@inline
def seen_of(field, slot):
    return field.seen + 4 * field.room * slot


@inline
def found_of(field, slot):
    """Room for as many distances as a row has links, eight at least, as there is for the rows before it."""
    return seen_of(field, slot) + 4 * (MOST_SEEN + field.most + 4)


@inline
def begin(field, entry, top, root, query, bottom, slot):
    """A new walk: from the entry point, whose top layer is `top`, greedy above the layer `bottom`."""
    state, pool = state_of(field, slot), pool_of(field, slot)
    which, found = seen_of(field, slot) + 4 * MOST_SEEN, found_of(field, slot)
    set_int32(which, np.int32(entry))
    set_int32(which + 4, np.int32(root))
    distances(field, which, 2, query, found, 0, 0)
    set_key(pool, 0, key_of(float_at(found), entry))
    put(state, QUERY, query)
    put(state, LEVEL, top)
    put(state, BOTTOM, bottom)
    put(state, SIZE, 1)
    put(state, ROOT, key_of(float_at(found + 4), root))
    enter_layer(field, slot)


@inline
def begin_near(field, sample, root, query, slot):
    """A new walk on the lowest layer, from the nearest of a sample of rows."""
    state, pool, f, s = state_of(field, slot), pool_of(field, slot), field, sample
    which, found = seen_of(field, slot) + 4 * MOST_SEEN, found_of(field, slot)
    nearest = GREATEST
    for first in range(0, s.count, 4):  # a row has four links at least, and there is room for as many
        many = min(4, s.count - first)
        for j in range(4):
            set_int32(which + 4 * j, np.int32(first + j))
        distances_to(
            f.kind, f.metric, s.base, f.stride, s.tails, s.apart, f.width, which, many, query, found, 0, 0
        )  # fmt: skip
        for j in range(many):
            nearest = min(nearest, key_of(float_at(found + 4 * j), int32_at(s.rows + 4 * (first + j))))
    set_int32(which, np.int32(root))
    distances(field, which, 1, query, found, 0, 0)
    set_key(pool, 0, nearest)
    put(state, QUERY, query)
    put(state, LEVEL, 0)
    put(state, BOTTOM, 0)
    put(state, SIZE, 1)
    put(state, ROOT, key_of(float_at(found), root))
    enter_layer(field, slot)


@inline
def links_of(field, level, node):
    """The address of a node's links on a layer."""
    if level == 0:
        return field.links + 4 * field.most * node
    return field.upper + 2 * field.most * (np.int64(int32_at(field.offsets + 4 * node)) + level - 1)


@inline
def _mark(marks, row):
    """Notes a row; whether it was new."""
    word, bit = marks + (row >> 6 << 3), np.uint64(1) << np.uint64(row & 63)
    held = uint64_at(word)
    set_uint64(word, held | bit)
    return held & bit == 0


@inline
def _expand(field, state, pool, at):
    """The node of the key at a place is next."""
    key = key_at(pool, at)
    set_key(pool, at, key | 1)
    node, level = row_of(key), get(state, LEVEL)
    put(state, NODE, node)
    put(state, STAGE, GATHER)
    fetch(links_of(field, level, node), 4 * field.most if level == 0 else 2 * field.most)


@kernel
def enter_layer(field, slot):
    """The walk begins on its layer with the keys in its pool, none of which is expanded."""
    state, pool = state_of(field, slot), pool_of(field, slot)
    marks, seen = field.marks + 8 * field.words * slot, seen_of(field, slot)
    size, root = get(state, SIZE), get(state, ROOT)
    limit = field.ef if get(state, LEVEL) <= get(state, BOTTOM) else 1
    clear(pool, size, limit)
    if get(state, LEVEL) == 0:  # from the root, and maybe from no other row, every row can be reached
        known = False
        for j in range(size):
            known |= key_at(pool, j) == root
        if not known and root < key_at(pool, limit - 1):
            insert(pool, limit, root)
            size = min(size + 1, limit)
    many = get(state, SEEN)
    if many > MOST_SEEN:
        for j in range(field.words):
            set_uint64(marks + 8 * j, np.uint64(0))
    else:
        for j in range(many):
            set_uint64(marks + (np.int64(int32_at(seen + 4 * j)) >> 6 << 3), np.uint64(0))
    for j in range(size):
        row = row_of(key_at(pool, j))
        _mark(marks, row)
        set_int32(seen + 4 * min(j, MOST_SEEN), np.int32(row))
    put(state, SEEN, size)
    put(state, SIZE, size)
    put(state, CURRENT, 0)
    _expand(field, state, pool, 0)


@inline
def _gather(field, state, slot):
    """GATHER, and whether there was a new neighbour."""
    marks, seen = field.marks + 8 * field.words * slot, seen_of(field, slot)
    level = get(state, LEVEL)
    links, most = links_of(field, level, get(state, NODE)), field.most if level == 0 else field.most >> 1
    first = min(get(state, SEEN), MOST_SEEN)
    end = first
    for j in range(most):
        row = np.int64(int32_at(links + 4 * j))
        if row < 0:
            break
        if row < field.count:
            set_int32(seen + 4 * end, np.int32(row))
            end += np.int64(_mark(marks, row))
            if level > 0:  # where its links are, should it be the nearest
                fetch(field.offsets + 4 * row, 4)
    put(state, FRESH, first)
    put(state, END, end)
    put(state, SEEN, get(state, SEEN) + end - first)
    return seen + 4 * first, end - first


@inline
def _ask(field, which, first, many):
    """Ask for rows from `first` on of a list."""
    for j in range(first, many):
        row = np.int64(int32_at(which + 4 * j))
        fetch(field.base + field.stride * row, field.stride)
        fetch(field.tails + field.apart * row, 1)


@inline
def _ask_alone(field, state, pool, slot, which, many):
    """Without company, memory is asked for all that may be wanted soon: the rows, their links, and, by the links of the
    nearest node that is not yet expanded, the rows that will be compared when it is its turn."""
    _ask(field, which, 0, many)
    level = get(state, LEVEL)
    size = 4 * field.most if level == 0 else 2 * field.most
    for j in range(many):
        fetch(links_of(field, level, np.int64(int32_at(which + 4 * j))), size)
    if level > 0:
        return
    at, size = get(state, CURRENT), get(state, SIZE)
    while at < size and key_at(pool, at) & 1:
        at += 1
    if at < size:
        links, marks = links_of(field, 0, row_of(key_at(pool, at))), field.marks + 8 * field.words * slot
        for j in range(field.most):
            row = np.int64(int32_at(links + 4 * j))
            if row < 0 or row >= field.count:
                break
            if uint64_at(marks + (row >> 6 << 3)) >> np.uint64(row & 63) & np.uint64(1) == 0:
                fetch(field.base + field.stride * row, field.stride)


@intrinsic
def _within(typing_context, found, bound, many):
    """A bit for each of the first `many` of sixteen float32 at an address that is not greater than `bound`."""

    def generate(context, builder, signature, args):
        e = builder
        found, bound, many = args
        some = e.fcmp_unordered("<=", simd.load(e, found).value, simd.splat(e, bound).value)  # of no key: NaN
        bits = e.zext(e.bitcast(some, simd.ir.IntType(LANES)), simd.i64)
        beyond = e.shl(simd.i64(-1), e.select(e.icmp_signed("<", many, simd.i64(LANES)), many, simd.i64(LANES)))
        return e.and_(bits, e.not_(beyond))

    return types.int64(ADDRESS, types.float32, types.int64), generate


@inline
def _measure(field, state, pool, slot, limit, ahead, ahead_many):
    """MEASURE up to the choice of the next."""
    first = get(state, FRESH)
    which, found, many = seen_of(field, slot) + 4 * first, found_of(field, slot), get(state, END) - first
    distances(field, which, many, get(state, QUERY), found, ahead, ahead_many)
    size, nearest, worst = get(state, SIZE), get(state, CURRENT), key_at(pool, limit - 1)
    for first in range(0, many, LANES):
        near = _within(found + 4 * first, from_ordered(worst >> 32), many - first)
        while near:  # most are too far away
            j = first + lowest_bit(near)
            near &= near - 1
            key = key_of(float_at(found + 4 * j), int32_at(which + 4 * j))
            if key < worst:
                nearest = min(nearest, insert(pool, limit, key))
                size = min(size + 1, limit)
                worst = key_at(pool, limit - 1)
    put(state, SIZE, size)
    return size, nearest


@kernel
def advance(field, slot):
    """Half a step for each slot after this one, round and round, until one is done with its layer; returns which.

    Each slot gathers when it is its turn and measures half a round later, while the rows of the one that has just
    gathered are asked for.
    """
    half = field.slots >> 1
    turn = slot - half if slot >= half else slot - half + field.slots
    ahead, many, gathers = np.int64(0), np.int64(0), False
    while True:
        gathers = not gathers
        if gathers:
            turn = turn + 1 if turn + 1 < field.slots else 0
            slot = turn
        else:
            slot = turn + half if turn + half < field.slots else turn + half - field.slots
        state, pool = state_of(field, slot), pool_of(field, slot)
        stage = get(state, STAGE)
        size, current = get(state, SIZE), get(state, CURRENT)
        greedy = get(state, LEVEL) > get(state, BOTTOM)
        if gathers:
            if stage != GATHER:
                continue
            ahead, many = _gather(field, state, slot)
            if many > 0:
                put(state, STAGE, MEASURE)
                if half == 0:
                    _ask_alone(field, state, pool, slot, ahead, many)
                    many = 0
                continue
        else:
            if stage != MEASURE:
                _ask(field, ahead, 0, many)
                many = 0
                if stage == DONE:
                    return slot
                continue
            size, current = _measure(field, state, pool, slot, 1 if greedy else field.ef, ahead, many)
            many = 0
        while current < size and key_at(pool, current) & 1:
            current += 1
        put(state, CURRENT, current)
        if current < size:
            _expand(field, state, pool, current)
        elif greedy:
            set_key(pool, 0, key_at(pool, 0) & ~np.int64(1))
            put(state, LEVEL, get(state, LEVEL) - 1)
            enter_layer(field, slot)
        else:
            put(state, STAGE, DONE)
