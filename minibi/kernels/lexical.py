"""The best k of BM25 by MaxScore, window by window.

A list holds the rows of the documents that contain a term, ascending, with the counts. `lists` and `docs` are the named
tuples of `minibi.lexical.postings`. A document's score is the sum over query terms, in float32 and always from the
heaviest weight down, of

    weight * tf / (tf + c0 + c1 * length) + jump

MaxScore (Turtle & Flood 1995): once the k-th best score so far exceeds what the lightest terms can add together, no
document that has only those can enter, so their lists need not be read; they are looked up for single candidates. The
rest is gathered as Lucene's bulk scorer does: in windows of rows whose sums fit the first-level cache. Block-max
(Ding & Suel 2011): what a frequent term can add at most is known for every block of 64 rows. A first pass over the
rarest terms alone gives the threshold to begin with. The plain twin is `minibi.lexical.plain`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .accumulate import BLOCK, best_of_all, least_of, lowest, reach, scatter
from .cache import inline, kernel
from .heap import offer, sift_down
from .keys import bits_of, fetch

WINDOW = 8192  # rows; their sums take 32 KB
WIDE = 8 * WINDOW  # where few postings are expected
FEW = 2 * WINDOW  # rows; if there are no more, every posting is read
SPARSE = 16  # with less than one posting expected for so many rows, windows are wide
REVISIT = 3  # with less than one for so many, sums are revisited posting by posting, not block by block
WARM_SHARE = 8  # the first pass may read 1 / WARM_SHARE of the postings
WORTH = 2048  # postings; where the first pass may not read so many, there is none
LOOK_UP = 16  # looking up one candidate takes as long as reading so many postings
NOWHERE, NO_BLOCK = np.int64(2**31), np.uint64(2**31)


class Work(NamedTuple):
    """Room for one window."""

    sums: np.ndarray  # float32 [WIDE], zeros between windows
    candidates: np.ndarray  # int64 [WIDE]: rows
    partial: np.ndarray  # float32 [WIDE]: their sums so far
    needed: np.ndarray  # float64 [WINDOW / BLOCK]: the least sum of a candidate, block by block
    columns: np.ndarray  # float32 [BLOCK]


def new_work():
    """To be used by one search at a time, again and again."""
    return Work(
        np.zeros(WIDE, np.float32), np.zeros(WIDE, np.int64), np.zeros(WIDE, np.float32),
        np.zeros(WINDOW // BLOCK, np.float64), np.zeros(BLOCK, np.float32),
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
    finals: np.ndarray  # int64: the last row of the list
    density: np.ndarray  # float64: postings per row
    lines: np.ndarray  # int64: of the table
    left: np.ndarray  # float64 [n + 1]: like `rest`, in the window alone
    mosts: np.ndarray  # float64 [256]: x / (x + c) at most, for each code of the table
    totals: np.ndarray  # float64: scratch
    keys: np.ndarray  # int64: scratch


@inline
def _not_before(rows, first, last, row):
    """The first place in rows[first : last] that holds `row` or a later one: strides double, then halve."""
    step = 1
    while first + step < last and rows[first + step] < row:
        first += step
        step *= 2
    last = min(last, first + step)
    while first < last:
        middle = (first + last) >> 1
        if rows[middle] < row:
            first = middle + 1
        else:
            last = middle
    return first


@inline
def _start_of(rows, places, line, start, at, last, row):
    """As `_not_before`, for the first row of a block; `at` is a place known to be at or before it."""
    block = row // BLOCK
    if line >= 0 and block < places.shape[1]:
        return start + places[line, block]
    return _not_before(rows, at, last, row)


@kernel
def _look_up(rows, parts, places, line, start, first, last, weight, jump, candidates, sums, count, room, low):
    """Adds what one term gives to `count` candidates, rows of one window in any order.

    rows[first : last] is the list from the window on. A list is long and seldom in a cache, so all places are asked for
    before the first is looked at. For many candidates the list is read instead; `room`: zeros for the rows from `low`
    on.
    """
    least, most = candidates[0], candidates[0]
    for c in range(count):
        least, most = min(least, candidates[c]), max(most, candidates[c])
    first = _start_of(rows, places, line, start, first, last, least // BLOCK * BLOCK)
    end = _start_of(rows, places, line, start, first, last, (most // BLOCK + 1) * BLOCK)
    if first == end:
        return first
    if count * LOOK_UP > end - first:
        scatter(rows, parts, first, end, np.uint32(low), weight, jump, room)
        for c in range(count):
            sums[c] += room[np.uint64(candidates[c] - low)]
        for i in range(np.uint64(first), np.uint64(end)):
            room[np.uint64(rows[i] - low)] = 0
        return first
    covered = np.uint64(max(0, places.shape[1] - 1) if line >= 0 else 0)
    line = np.uint64(max(line, 0))
    for c in range(count):
        block = np.uint64(candidates[c]) // np.uint64(BLOCK)
        if block < covered:
            at = start + places[line, block]
            fetch(rows.ctypes.data + 4 * at, 1)
            fetch(parts.ctypes.data + 4 * at, 1)
    for c in range(count):
        row = candidates[c]
        block = np.uint64(row) // np.uint64(BLOCK)
        if block < covered:
            at, stop = np.uint64(start + places[line, block]), np.uint64(start + places[line, block + np.uint64(1)])
            for i in range(at, stop):
                at += np.uint64(rows[i] < row)
        else:
            at, stop = np.uint64(_not_before(rows, first, end, row)), np.uint64(end)
        if at < stop and rows[at] == row:
            sums[c] += weight * parts[at] + jump
    return first


@inline
def _window_bounds(table, line, first, weight, jump, mosts):
    """What a term can give to any row of the window whose first block is `first`."""
    most, codes = np.uint8(0), table[line, first : first + WINDOW // BLOCK]
    for i in range(codes.shape[0]):
        most = max(most, codes[i])
    return weight * mosts[most] + jump if most else 0.0


@kernel
def _enough(table, lines, block, weights, jumps, mosts, rest, first, n, goal, needed):
    """For each block of a window, the sum that terms first, first + 1, ... can still bring to the goal."""
    needed[:] = goal - rest[n]
    blocks = min(needed.shape[0], max(0, table.shape[1] - np.int64(block)))
    for t in range(first, n):
        if lines[t] < 0:
            needed -= rest[t] - rest[t + 1]
            continue
        codes = table[lines[t], block : block + np.uint64(blocks)]
        for i in range(blocks):
            code = codes[i]
            if code:
                needed[i] -= weights[t] * mosts[code] + jumps[t]
        needed[blocks:] -= rest[t] - rest[t + 1]


@kernel
def _collect(lists, ids, allowed, every, query, n, constant, k, known, work, best_scores, best_ids):
    """The k best by the first n terms, as a heap; returns its size. `known`: a score that k documents reach."""
    rows, parts, starts = lists.rows, lists.parts, lists.starts
    table, places = lists.table, lists.places
    terms, weights, jumps, rest, mosts = query.terms, query.weights, query.jumps, query.rest, query.mosts
    lasts, begins, ends, lines = query.lasts, query.begins, query.ends, query.lines
    finals, density, left = query.finals, query.density, query.left
    sums, candidates, partial, needed = work.sums, work.candidates, work.partial, work.needed
    bits = sums.view(np.int32)  # numbers >= 0 sort like their bits
    keep = 1 - 2e-6 - 2.5e-7 * n  # what rounding may do
    shift = rest[n] - constant
    goal = known * keep + shift
    size, essential, blocks, floor = 0, n, np.uint64(table.shape[1]), np.int64(0)
    for t in range(n):
        term = terms[t]
        begins[t] = ends[t] = starts[term]
        lasts[t], lines[t] = starts[term] + lists.counts[term], lists.lines[term]
        finals[t] = rows[lasts[t] - 1]
        density[t] = lists.counts[term] / (1.0 + finals[t] - rows[begins[t]])
    while True:
        while essential and rest[essential - 1] < goal:
            essential -= 1
        low, expected = NOWHERE, 0.0
        for t in range(essential):
            if finals[t] >= floor:
                expected += density[t]
                low = min(low, max(floor, np.int64(rows[ends[t]])))
        if low == NOWHERE:
            return size
        low = low // WINDOW * WINDOW
        wide = expected * SPARSE < 1
        floor = low + (WIDE if wide else WINDOW)
        block = np.uint64(low // BLOCK)
        left[n] = rest[n]
        for t in range(n - 1, -1, -1):  # the same as `rest`, for this window alone
            left[t] = left[t + 1] + rest[t] - rest[t + 1]
            if lines[t] >= 0 and not wide and block + np.uint64(WINDOW // BLOCK) <= blocks:
                left[t] = left[t + 1] + _window_bounds(table, lines[t], block, weights[t], jumps[t], mosts)
        here = essential
        while here and left[here - 1] < goal:
            here -= 1
        found = 0
        for t in range(essential):
            begins[t] = _start_of(rows, places, lines[t], starts[terms[t]], ends[t], lasts[t], low)
            ends[t] = begins[t]
            if t < here:
                ends[t] = _start_of(rows, places, lines[t], starts[terms[t]], begins[t], lasts[t], floor)
                found += ends[t] - begins[t]
                scatter(rows, parts, begins[t], ends[t], np.uint32(low), weights[t], jumps[t], sums)
            ends[t] = min(ends[t], lasts[t] - 1)
        if found == 0:
            continue
        least, count = least_of(goal - left[here], 0.0), 0
        if not wide:
            _enough(table, lines, block, weights, jumps, mosts, rest, here, n, goal, needed)
        if wide or found * REVISIT < WINDOW:
            for t in range(here):
                for i in range(np.uint64(begins[t]), np.uint64(ends[t] + (rows[ends[t]] < floor))):
                    row = np.uint64(rows[i])
                    slot = row - np.uint64(low)
                    if bits[slot] >= least and (every or allowed[row]):
                        candidates[count], partial[count] = row, sums[slot]
                        count += 1
                    bits[slot] = 0
        else:
            for part in range(WINDOW // BLOCK):
                mask = reach(bits, part, max(least, least_of(needed[part], 0.0)))
                while mask:
                    slot = np.uint64(part * BLOCK) + lowest(mask)
                    mask &= mask - np.uint64(1)
                    row = np.uint64(low) + slot
                    if every or allowed[row]:
                        candidates[count], partial[count] = row, sums[slot]
                        count += 1
            sums[:WINDOW] = 0
        if here < n and count:
            kept, bounded, enough = 0, NO_BLOCK, 0.0
            for c in range(count):  # without those that the other terms cannot bring to the goal in their block
                of = np.uint64(candidates[c]) // np.uint64(BLOCK)
                if not wide:
                    enough = needed[of - block]
                elif of != bounded:
                    bounded, enough = of, goal - rest[n]
                    for t in range(here, n):
                        if lines[t] < 0 or bounded >= blocks:
                            enough -= rest[t] - rest[t + 1]
                        elif table[np.uint64(lines[t]), bounded]:
                            enough -= weights[t] * mosts[table[np.uint64(lines[t]), bounded]] + jumps[t]
                if partial[c] >= enough:
                    candidates[kept], partial[kept] = candidates[c], partial[c]
                    kept += 1
            count = kept
        for t in range(here, n):
            if count == 0:
                break
            begins[t] = _look_up(
                rows, parts, places, lines[t], starts[terms[t]], begins[t], lasts[t], weights[t], jumps[t],
                candidates, partial, count, sums, low,
            )  # fmt: skip
            kept = 0
            for c in range(count):
                if partial[c] + left[t + 1] >= goal:
                    candidates[kept], partial[kept] = candidates[c], partial[c]
                    kept += 1
            count = kept
        for c in range(count):
            score = partial[c] + constant
            if score >= known:
                size = offer(best_scores, best_ids, size, k, score, ids[np.uint32(candidates[c])])
                if size == k and best_scores[0] > known:
                    known = best_scores[0]
        goal = known * keep + shift


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
def _known(lists, ids, allowed, every, query, n, constant, k, work, best_scores, best_ids):
    """A score that k documents reach by the rarest terms alone, 0 if that is too much to find out."""
    budget, warm, read = np.int64(0), 0, np.int64(0)
    for t in range(n):
        budget += lists.counts[query.terms[t]]
    budget //= WARM_SHARE
    while warm < n and read + lists.counts[query.terms[warm]] <= budget:
        read += lists.counts[query.terms[warm]]
        warm += 1
    if read < k or budget <= WORTH:
        return np.float32(0)
    size = _collect(lists, ids, allowed, every, query, warm, constant, k, np.float32(0), work, best_scores, best_ids)
    return best_scores[0] if size == k else np.float32(0)


@kernel
def stale(moments, used, moment, terms):
    """Whether one of the terms, if it is one of those in use, was weighed at another moment."""
    old = 0
    for i in range(terms.shape[0]):
        old += 0 <= terms[i] < used and moments[terms[i]] != moment
    return old > 0


@kernel
def search(lists, ids, rows, allowed, every, model, batch, work, k, out_scores, out_ids):
    """The k best of each query, best first, equal scores by smaller id; the rest of out, float32 and int64 [Q, >= k],
    becomes -inf and -1.

    batch: (terms, weights, offsets): query q has terms[offsets[q] : offsets[q + 1]], each weighed with its idf and a
    weight >= 0 (without weights: 1); a term < 0 is none. rows: how many there are. allowed: uint8 per row; every: all
    are allowed. `lists` must be weighed for all terms.
    """
    longest = 0
    for q in range(out_ids.shape[0]):
        longest = max(longest, batch.offsets[q + 1] - batch.offsets[q])
    whole, reals = np.empty((7, longest), np.int64), np.empty((4, longest + 1), np.float64)
    query = Query(
        np.empty(longest, np.int32), np.empty(longest, np.float32), np.empty(longest, np.float32),
        reals[0], whole[0], whole[1], whole[2], whole[3], reals[1], whole[4], reals[2], np.empty(256, np.float64),
        reals[3], whole[5],
    )  # fmt: skip
    best_scores, best_ids = np.empty(k, np.float32), np.empty(k, np.int64)
    for q in range(out_ids.shape[0]):
        begin, end = batch.offsets[q], batch.offsets[q + 1]
        weights = batch.weights[begin:end]  # none, or one for each
        n, constant = _prepare(lists, model, batch.terms[begin:end], weights, query)
        if rows <= FEW:
            size = best_of_all(lists, ids, rows, allowed, every, query, n, constant, k, work, best_scores, best_ids)
        else:
            _bound(lists, model, n, query)
            known = _known(lists, ids, allowed, every, query, n, constant, k, work, best_scores, best_ids)
            size = _collect(lists, ids, allowed, every, query, n, constant, k, known, work, best_scores, best_ids)
        for i in range(size, out_ids.shape[1]):
            out_scores[q, i], out_ids[q, i] = -np.inf, -1
        while size:  # the worst first, from the back
            size -= 1
            out_scores[q, size], out_ids[q, size] = best_scores[0], best_ids[0]
            best_scores[0], best_ids[0] = best_scores[size], best_ids[size]
            sift_down(best_scores, best_ids, size)
