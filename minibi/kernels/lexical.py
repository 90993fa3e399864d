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
from .heap import sift_down
from .keys import bits_of
from .maxscore import WINDOW, best_of_some
from .whole import best_of_all

COLUMNS = 8192  # at most: for more than half as many hits nothing is pruned
FEW = 16384  # rows; if there are no more, every posting is read


class Work(NamedTuple):
    """Room for one window."""

    sums: np.ndarray  # float32 [WINDOW], zeros between windows
    candidates: np.ndarray  # int32 [WINDOW]: rows
    partial: np.ndarray  # float32 [WINDOW]: their sums so far
    columns: np.ndarray  # float32 [COLUMNS]


def new_work():
    """To be used by one search at a time, again and again."""
    return Work(
        np.zeros(WINDOW, np.float32), np.zeros(WINDOW, np.int32), np.zeros(WINDOW, np.float32),
        np.zeros(COLUMNS, np.float32),
    )  # fmt: skip


class Query(NamedTuple):
    """A query's terms from the heaviest weight down, and where the reading of each list stands."""

    terms: np.ndarray  # int32
    weights: np.ndarray  # float32
    jumps: np.ndarray  # float32
    rest: np.ndarray  # float64 [n + 1]: what terms i, i + 1, ... can add together
    lasts: np.ndarray  # int64: where the list ends in the arena
    begins: np.ndarray  # int64: the part of the list in the window,
    ends: np.ndarray  # ending at the latest with the last posting
    lines: np.ndarray  # int64: of the table
    steps: np.ndarray  # float32: the weight of one step of a code
    mosts: np.ndarray  # float64 [256]: x / (x + c) at most, for each code of the table
    totals: np.ndarray  # float64: scratch
    keys: np.ndarray  # int64: scratch


@inline
def _sort(keys, n):
    """Few as a rule: each is put in its place among those before."""
    if n > 32:
        keys[:n].sort()
        return
    for i in range(1, n):
        key, at = keys[i], i
        while at and keys[at - 1] > key:
            keys[at] = keys[at - 1]
            at -= 1
        keys[at] = key


@kernel
def _prepare(lists, model, terms, weights, query):
    """Fills `query` with the terms that count, repeated ones added up; returns how many, and what all documents get."""
    n, keys = 0, query.keys
    for i in range(terms.shape[0]):
        if 0 <= terms[i] < lists.idfs.shape[0] and lists.idfs[terms[i]] > 0:
            keys[n] = (np.int64(terms[i]) << 32) | i
            n += 1
    _sort(keys, n)
    distinct, i = 0, 0
    while i < n:  # equal terms are neighbours now, in the order of the query
        term, position, total = keys[i] >> 32, keys[i] & 0xFFFFFFFF, 0.0
        while i < n and keys[i] >> 32 == term:
            weight = weights[keys[i] & 0xFFFFFFFF] if weights.shape[0] else 1.0
            total += weight * lists.idfs[term]
            i += 1
        if total > 0:
            query.totals[position] = total
            keys[distinct] = (np.int64(0x7FFFFFFF - bits_of(np.float32(total))) << 32) | position
            distinct += 1
    _sort(keys, distinct)
    constant = 0.0
    for i in range(distinct):
        position = keys[i] & 0xFFFFFFFF
        total = query.totals[position]
        query.terms[i] = terms[position]
        query.weights[i], query.jumps[i] = total * model.scale, total * model.jump
        constant += total * model.everywhere
    return distinct, np.float32(constant)


@kernel
def _bound(lists, model, n, query):
    """What each term, and each code of the table, can give at most."""
    query.rest[n] = 0.0
    for i in range(n - 1, -1, -1):
        x = lists.tops[query.terms[i]] * model.stretch
        most = query.weights[i] * (x / (x + model.c)) + query.jumps[i]
        query.rest[i] = query.rest[i + 1] + most * 1.000001
    for code in range(255):
        x = code / (255.0 - code) * model.stretch
        query.mosts[code] = x / (x + model.c) * 1.000001
    query.mosts[255] = 1.000001


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
    weight >= 0 (without weights: 1); a term < 0 is none. lengths: int32 per row. rows: how many there are. allowed: uint8 per row; every: all
    are allowed. `lists` must be weighed for all terms.
    """
    longest = 0
    for q in range(out_ids.shape[0]):
        longest = max(longest, batch.offsets[q + 1] - batch.offsets[q])
    whole, singles = np.empty((5, longest), np.int64), np.empty((3, longest), np.float32)
    query = Query(
        np.empty(longest, np.int32), singles[0], singles[1], np.empty(longest + 1, np.float64), whole[0], whole[1],
        whole[2], whole[3], singles[2], np.empty(256, np.float64), np.empty(longest, np.float64), whole[4],
    )  # fmt: skip
    best_scores, best_ids = np.empty(k, np.float32), np.empty(k, np.int64)
    for q in range(out_ids.shape[0]):
        begin, end = batch.offsets[q], batch.offsets[q + 1]
        weights = batch.weights[begin:end]  # none, or one for each
        n, constant = _prepare(lists, model, batch.terms[begin:end], weights, query)
        if rows <= FEW:
            size = best_of_all(
                lists, ids, lengths, rows, allowed, every, model, query, n, constant, k, work, best_scores, best_ids
            )
        else:
            _bound(lists, model, n, query)
            size = best_of_some(lists, ids, rows, allowed, every, query, n, constant, k, work, best_scores, best_ids)
        for i in range(size, out_ids.shape[1]):
            out_scores[q, i], out_ids[q, i] = -np.inf, -1
        while size:  # the worst first, from the back
            size -= 1
            out_scores[q, size], out_ids[q, size] = best_scores[0], best_ids[0]
            best_scores[0], best_ids[0] = best_scores[size], best_ids[size]
            sift_down(best_scores, best_ids, size)
