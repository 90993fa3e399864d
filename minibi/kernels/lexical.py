"""The best k of BM25 for a batch of queries.

A list holds the rows of the documents that contain a term, ascending, with what each gives to a score. `lists` is the
named tuple of `minibi.lexical.postings`. A document's score is the sum over query terms, in float32 and always from the
heaviest weight down, of

    weight * part + jump,  part = tf / (tf + c0 + c1 * length)

Small collections are bounded whole (`kernels.whole`), large ones searched by MaxScore (`kernels.maxscore`). The
plain twin is `minibi.lexical.plain`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .cache import inline, kernel
from .keys import bits_of
from .maxscore import WINDOW, best_of_some
from .whole import best_of_all, odds

COLUMNS = 8192  # at most: for more than half as many hits nothing is pruned
FEW = 16384  # rows; if there are no more, every posting is read


class Work(NamedTuple):
    """Room for one window."""

    sums: np.ndarray  # float32 [WINDOW], zeros between windows
    candidates: np.ndarray  # int32 [WINDOW]: rows
    partial: np.ndarray  # float32 [WINDOW]: their sums so far
    columns: np.ndarray  # float32 [COLUMNS]
    odds: np.ndarray  # float32 [256]: of codes


def new_work():
    """To be used by one search at a time, again and again."""
    return Work(
        np.zeros(WINDOW, np.float32), np.zeros(WINDOW, np.int32), np.zeros(WINDOW, np.float32),
        np.zeros(COLUMNS, np.float32), odds(),
    )  # fmt: skip


class Queries(NamedTuple):
    """Query q has the terms offsets[q], ..., offsets[q] + counts[q] - 1, from the heaviest weight down."""

    terms: np.ndarray  # int32
    weights: np.ndarray  # float32
    jumps: np.ndarray  # float32
    offsets: np.ndarray  # int64 [Q]
    counts: np.ndarray  # int64 [Q]
    constants: np.ndarray  # float32 [Q]: what all documents get


@inline
def _slot(slots, found, term):
    """Where the term is, or would be."""
    at = (np.uint32(term) * np.uint32(0x9E3779B1)) >> np.uint32(7) & np.uint32(slots.shape[0] - 1)
    while slots[at] >= 0 and found[slots[at]] != term:
        at = (at + np.uint32(1)) & np.uint32(slots.shape[0] - 1)
    return at


@kernel
def _prepare(lists, model, batch, longest, queries):
    """Fills `queries` with the terms that count, repeated ones added up."""
    idfs, terms, weights, offsets = lists.idfs, batch.terms, batch.weights, batch.offsets
    out_terms, out_weights, out_jumps = queries.terms, queries.weights, queries.jumps
    out_offsets, out_counts, out_constants = queries.offsets, queries.counts, queries.constants
    room = 64
    while room < 2 * longest:
        room *= 2
    found, totals, slots = np.empty(longest, np.int32), np.empty(longest, np.float64), np.full(room, -1, np.int32)
    keys, order, out = np.empty(longest, np.int64), np.empty(longest, np.int64), 0
    for q in range(out_counts.shape[0]):
        n, distinct, constant = 0, 0, 0.0
        for i in range(offsets[q], offsets[q + 1]):
            term = terms[i]
            if 0 <= term < idfs.shape[0]:
                at = _slot(slots, found, term)
                if slots[at] < 0:
                    slots[at], found[n], totals[n] = n, term, 0.0
                    n += 1
                totals[slots[at]] += (weights[i] if weights.shape[0] else 1.0) * idfs[term]
        for i in range(n - 1, -1, -1):  # the last first, or those that had to look further would not be found
            slots[_slot(slots, found, found[i])] = -1
            if totals[i] > 0:
                keys[distinct] = (np.int64(0x7FFFFFFF - bits_of(np.float32(totals[i]))) << 32) | i
                distinct += 1
        if distinct > 32:
            keys[:distinct].sort()
        for i in range(distinct):
            place = i
            if distinct <= 32:  # few as a rule: each is compared with all
                place = 0
                for j in range(distinct):
                    place += keys[j] < keys[i]
            order[place] = keys[i] & 0xFFFFFFFF
        out_offsets[q], out_counts[q] = out, distinct
        for i in range(distinct):
            total = totals[order[i]]
            out_terms[out], out_weights[out], out_jumps[out] = found[order[i]], total * model.scale, total * model.jump
            constant += total * model.everywhere
            out += 1
        out_constants[q] = constant


@kernel
def stale(moments, used, moment, terms):
    """Whether one of the terms, if it is one of those in use, was weighed at another moment."""
    old = 0
    for i in range(terms.shape[0]):
        old += 0 <= terms[i] < used and moments[terms[i]] != moment
    return old > 0


@kernel
def search(lists, ids, lengths, rows, allowed, every, model, batch, work, k, out_scores, out_ids):
    """The k best of each query, best first, equal scores by smaller id; the rest of out, float32 and int64 [Q, >= k],
    becomes -inf and -1.

    batch: (terms, weights, offsets): query q has terms[offsets[q] : offsets[q + 1]], each weighed with its idf and a
    weight >= 0 (without weights: 1); a term < 0 is none. lengths: int32 per row. rows: how many there are. allowed:
    uint8 per row; every: all are allowed. `lists` must be weighed for all terms.
    """
    longest = 0
    for q in range(out_ids.shape[0]):
        longest = max(longest, batch.offsets[q + 1] - batch.offsets[q])
    total = batch.offsets[out_ids.shape[0]] - batch.offsets[0]
    singles, whole = np.empty((2, total), np.float32), np.empty((2, out_ids.shape[0]), np.int64)
    queries = Queries(
        np.empty(total, np.int32), singles[0], singles[1], whole[0], whole[1], np.empty(out_ids.shape[0], np.float32)
    )
    _prepare(lists, model, batch, longest, queries)
    if rows <= FEW:
        best_of_all(lists, ids, lengths, rows, allowed, every, model, queries, longest, k, work, out_scores, out_ids)
    else:
        best_of_some(lists, ids, rows, allowed, every, model, queries, longest, k, work, out_scores, out_ids)
