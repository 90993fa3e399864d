"""HNSW's search (Malkov & Yashunin 2016, algorithm 5) for a batch of queries, of which a few walk in turns.

A query becomes codes, walks, and then compares what it found with the vectors as stored: one kernel from the caller's
numbers to the neighbours. The plain twin is `minibi.index.hnsw_plain`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..shapes import Floats
from .cache import inline, kernel
from .codes import CAREFUL, INT4, ready_query
from .distance import FLOAT16, Rows, _keep
from .graph import Graph
from .keys import fetch, from_ordered
from .memory import float_at, int32_at, set_int32, take
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
    Sample,
    Walks,
    advance,
    begin,
    begin_near,
    distances,
    found_of,
    get,
    pool_of,
    put,
    seen_of,
    state_of,
)

AT_ONCE = 8  # rows compared as stored; a row has four links at least, and `walk.found_of` room for four more


def numbers_of(
    rows: Rows, exact: Rows, graph: Graph, entry: int, root: int, unit: bool, signs: Floats | None,
    sample: tuple[Rows, NDArray[np.int32]] | None = None,
) -> NDArray[np.int64]:  # fmt: skip
    """What `search` has to know of the rows it walks on, of those as stored, of the graph, of how queries are made
    (whether of length one, and the signs of the rotation, None if neither table holds codes), and of a sample of rows,
    copied, with their numbers, where walks begin there. One small array, since each argument of a kernel has its price.
    The arrays must outlive it."""

    def of(r: Rows) -> list[int]:
        return [r.table.ctypes.data, r.table.shape[1], r.tails, r.apart, r.kind, r.metric, r.width]

    links = [graph.links.ctypes.data, graph.links.shape[1], graph.upper.ctypes.data, graph.offsets.ctypes.data]
    ends = [entry, graph.levels[entry], root, unit, 0 if signs is None else signs.ctypes.data]
    near = [0] * 5
    if sample is not None:
        copied, numbers = sample
        near = [copied.table.ctypes.data, copied.tails, copied.apart, numbers.ctypes.data, len(numbers)]
    return np.array([*of(rows), *links, *of(exact), *ends, *near], np.int64)


def places_of(walks: Walks, floats: Floats, turned: Floats, coded: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The same of room for S walks, and for their queries: floats [S, W], turned [1, W], coded [S, W + 16 or more]; and
    the address of a counter from which threads that share the queries take theirs, 0 for one that does all of them."""
    tables = [(a.ctypes.data, a.shape[1]) for a in (*walks, floats, turned, coded)]
    return np.array([*np.ravel(tables), len(floats), 0], np.int64)


@kernel
def search(numbers, places, x, ef, mask, ids, final, out, out_rows):
    """Algorithm 5 for vectors x [Q, dim]: the nearest found among rows with mask[row].

    numbers, places: see `numbers_of` and `places_of`. mask [N] says how many rows there are. Of the ef found, those
    that may be among the nearest are ordered in the end by the vectors as stored. out, out_rows [Q, k]: distances and
    rows, ordered by distance, then id, row -1 where fewer were reached; if `final`, scores and ids instead. Returns
    whether all were found, for queries that are finite and not so long (CAREFUL) that one has to look closer.
    """
    n, p = numbers, places
    total, slots, count = x.shape[0], min(p[14], x.shape[0]), mask.size
    field = Field(
        n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], count, ef,
        p[0], p[1], p[2], p[3], p[4], p[5], p[6], slots,
    )  # fmt: skip
    precise = Field(
        n[11], n[12], n[13], n[14], n[15], n[16], n[17], n[7], n[8], n[9], n[10], count, ef,
        p[0], p[1], p[2], p[3], p[4], p[5], p[6], slots,
    )  # fmt: skip
    begun = walking = 0
    whole = True
    for slot in range(slots):
        q = _next(p, begun)
        begun += 1
        if q < total:
            whole &= _start(field, n, p, x, q, slot)
            walking += 1
    slot = 0
    while walking > 0:
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
            if slots == 1:  # no company: whoever is sure to be compared is asked for at once
                for j in range(AT_ONCE, min(kept, out_rows.shape[1])):
                    fetch(precise.base + precise.stride * row_of(key_at(pool, j)), precise.stride)
        else:
            _compare(precise, state, slot, _form(precise, p, slot), out[q], out_rows[q], ids)
        if not _choose(field, precise, field.base == precise.base, state, pool, slot, q, out):
            held = get(state, HELD)
            whole &= held == out_rows.shape[1]
            for j in range(held, out_rows.shape[1]):
                out_rows[q, j] = -1
            if final:
                for j in range(held):
                    out[q, j] = out[q, j] + np.float32(0) if field.metric else np.float32(0) - out[q, j]  # never -0.0
                    out_rows[q, j] = ids[out_rows[q, j]]
            put(state, STAGE, REST)
            q = _next(p, begun)
            begun += 1
            if q < total:
                whole &= _start(field, n, p, x, q, slot)
            else:
                walking -= 1
    return whole


@inline
def _next(places, begun):
    """The number of the next query: from the counter that threads share, or after those that were begun."""
    return take(places[15], 1) if places[15] else np.int64(begun)


@inline
def _form(field, places, slot):
    """The address of a slot's query as a table's kind of rows needs it."""
    at = 12 if field.kind > FLOAT16 else 8
    return places[at] + (1 if at == 12 else 4) * places[at + 1] * slot


@inline
def _start(field, n, p, x, q, slot):
    coded = p[12] + p[13] * slot if n[22] else 0
    squares = ready_query(x[q], n[21], n[22], p[8] + 4 * p[9] * slot, p[10], coded, p[11])
    query = _form(field, p, slot)
    if n[27]:
        begin_near(field, Sample(n[23], n[24], n[25], n[26], n[27]), n[20], query, slot)
    else:
        begin(field, n[18], n[19], n[20], query, 0, slot)
    put(state_of(field, slot), TASK, q)
    if q + 1 < x.shape[0]:  # nobody else asks for the next query
        fetch(x[q + 1].ctypes.data, 4 * x.shape[1])
    return squares <= CAREFUL


@inline
def _choose(field, precise, same, state, pool, slot, q, best):
    """Asks for the next eight of the list that may be among the nearest; whether there is one.

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
    while at < kept and many < AT_ONCE:
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
