"""HNSW's search (Malkov & Yashunin 2016, algorithm 5) for a batch of queries, of which a few walk in turns.

A query becomes codes, walks, and then compares what it found with the vectors as stored: one kernel from the caller's
numbers to the neighbours. The plain twin is `minibi.index.hnsw_plain`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .cache import inline, kernel
from .codes import INT4, ready_query
from .distance import FLOAT16, Rows, _keep
from .graph import Graph
from .keys import fetch, from_ordered
from .memory import float_at, int32_at, set_int32
from .pool import key_at, row_of, set_key
from .walk import (
    CURRENT,
    END,
    HELD,
    LEVEL,
    MOST_SEEN,
    QUERY,
    REST,
    SIZE,
    STAGE,
    TASK,
    Field,
    Walks,
    advance,
    begin,
    distances,
    found_of,
    get,
    pool_of,
    put,
    seen_of,
    state_of,
)


def numbers_of(rows: Rows, exact: Rows, graph: Graph, entry: int, root: int) -> NDArray[np.int64]:
    """What `search` has to know of the rows it walks on, of those as stored, and of the graph: one small array, since
    each argument of a kernel has its price. The arrays must outlive it."""

    def of(r: Rows) -> list[int]:
        return [r.table.ctypes.data, r.table.shape[1], r.tails, r.apart, r.kind, r.metric, r.width]

    links = [graph.links.ctypes.data, graph.links.shape[1], graph.upper.ctypes.data, graph.offsets.ctypes.data]
    return np.array([*of(rows), *links, *of(exact), entry, graph.levels[entry], root], np.int64)


def places_of(walks: Walks) -> NDArray[np.int64]:
    """The same of room for walks."""
    tables = [(a.ctypes.data, a.shape[1]) for a in walks]
    return np.array(tables, np.int64).reshape(-1)


@kernel
def search(numbers, places, x, unit, signs, floats, turned, coded, ef, mask, ids, out_distances, out_rows):
    """Algorithm 5 for vectors x [Q, dim]: the nearest found among rows with mask[row].

    numbers, places: see `numbers_of` and `places_of`. unit, signs: see `codes.ready_query`; floats [S, F], turned [W]
    and coded [S, W + 16] are room for what it makes. mask [N] says how many rows there are. Of the ef found, those that
    may be among the nearest are ordered in the end by the vectors as stored. out_distances, out_rows [Q, k], ordered by
    distance, then id, row -1 where fewer were reached.
    """
    n, p = numbers, places
    total, slots, count = x.shape[0], min(floats.shape[0], x.shape[0]), mask.size
    field = Field(
        n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], count, ef,
        p[0], p[1], p[2], p[3], p[4], p[5], p[6], slots,
    )  # fmt: skip
    precise = Field(
        n[11], n[12], n[13], n[14], n[15], n[16], n[17], n[7], n[8], n[9], n[10], count, ef,
        p[0], p[1], p[2], p[3], p[4], p[5], p[6], slots,
    )  # fmt: skip
    begun = finished = 0
    for slot in range(slots):
        _start(field, n, x, begun, unit, signs, floats, turned, coded, slot)
        begun += 1
    slot = 0
    while finished < total:
        slot = advance(field, slot)
        state, pool = state_of(field, slot), pool_of(field, slot)
        q = get(state, TASK)
        if get(state, LEVEL) >= 0:  # the pool becomes the list of those that may be returned
            kept = 0
            for j in range(get(state, SIZE)):
                if mask[row_of(key_at(pool, j))]:
                    set_key(pool, kept, key_at(pool, j))
                    kept += 1
            put(state, LEVEL, -1)
            put(state, SIZE, kept)
            put(state, CURRENT, 0)
            put(state, HELD, 0)
        else:
            _compare(precise, state, slot, _form(precise, floats, coded, slot), out_distances[q], out_rows[q], ids)
        if not _choose(field, precise, field.base == precise.base, state, pool, slot, q, out_distances):
            for j in range(get(state, HELD), out_rows.shape[1]):
                out_rows[q, j] = -1
            finished += 1
            put(state, STAGE, REST)
            if begun < total:
                _start(field, n, x, begun, unit, signs, floats, turned, coded, slot)
                begun += 1


@inline
def _form(field, floats, coded, slot):
    """The address of a slot's query as a table's kind of rows needs it."""
    if field.kind > FLOAT16:
        return coded.ctypes.data + coded.shape[1] * slot
    return floats.ctypes.data + 4 * floats.shape[1] * slot


@inline
def _start(field, numbers, x, q, unit, signs, floats, turned, coded, slot):
    ready_query(x[q], unit, signs, floats[slot], turned, coded[slot])
    begin(field, numbers[18], numbers[19], numbers[20], _form(field, floats, coded, slot), 0, slot)
    put(state_of(field, slot), TASK, q)


@inline
def _choose(field, precise, same, state, pool, slot, q, best):
    """Asks for the next four of the list that may be among the nearest; whether there is one.

    Codes are off by up to half a step in each coordinate, by chance: the standard error of a product is the step times
    the length of the query over the square root of 12. Rows that are further off than 3.5 times that are left out.
    """
    which, k = seen_of(field, slot) + 4 * MOST_SEEN, best.shape[1]
    at, kept, many = get(state, CURRENT), get(state, SIZE), 0
    slack, coded = np.float32(0), field.kind > FLOAT16 and not same
    if coded:
        length = np.sqrt(float_at(get(state, QUERY) + field.width + 8))
        slack = length * np.float32((2 if field.kind == INT4 else 1) * (1 + field.metric))
    full, worst = get(state, HELD) == k, best[q, k - 1]
    while at < kept and many < 4:
        key = key_at(pool, at)
        row = row_of(key)
        lower = from_ordered(key >> 32)
        if coded:
            lower -= slack * float_at(field.tails + field.apart * row)
        if not full or lower <= worst or (not coded and not same):
            set_int32(which + 4 * many, np.int32(row))
            fetch(precise.base + precise.stride * row, precise.stride)
            many += 1
        at += 1
    put(state, CURRENT, at)
    put(state, END, many)
    return many > 0


@inline
def _compare(precise, state, slot, query, best, where, ids):
    """Takes those asked for among the k nearest, by their distances."""
    which, found, held = seen_of(precise, slot) + 4 * MOST_SEEN, found_of(precise, slot), get(state, HELD)
    k, many = best.size, get(state, END)
    distances(precise, which, many, query, found, 0, 0)
    for j in range(many):
        d = float_at(found + 4 * j)
        if held < k or d <= best[k - 1]:
            held = _keep(best, where, held, k, d, np.int64(int32_at(which + 4 * j)), ids)
    put(state, HELD, held)
