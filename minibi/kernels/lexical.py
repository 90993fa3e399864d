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

from .cache import inline, kernel
from .heap import offer, sift_down
from .keys import bits_of

WINDOW = 8192  # rows; their sums take 32 KB
WIDE = 8 * WINDOW  # where few postings are expected
BLOCK = 64  # rows that are looked at together, and that share a bound
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
    guesses: np.ndarray  # int64 [WIDE + 1]: their places in a list
    needed: np.ndarray  # float64 [WINDOW / BLOCK]: the least sum of a candidate, block by block


def new_work():
    """To be used by one search at a time, again and again."""
    return Work(
        np.zeros(WIDE, np.float32), np.zeros(WIDE, np.int64), np.zeros(WIDE, np.float32),
        np.zeros(WIDE + 1, np.int64), np.zeros(WINDOW // BLOCK, np.float64),
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
    parts: np.ndarray  # float64 [256]: x / (x + c) at most, for each code of the table
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


@kernel
def _scatter(rows, tfs, begin, end, lengths, low, c0, c1, weight, jump, sums):
    """Adds what one term gives to the sums of the rows from `low` on."""
    for i in range(np.uint64(begin), np.uint64(end)):
        row, tf = np.uint32(rows[i]), np.float32(tfs[i])
        sums[row - low] += weight * (tf / (tf + (c0 + c1 * np.float32(lengths[row])))) + jump


@inline
def _near(rows, first, last, at, row):
    """The first place in rows[first : last] that holds `row` or a later one, sought from the place `at` outwards."""
    step = 1
    if rows[at] < row:
        while at + step < last and rows[at + step] < row:
            at += step
            step *= 2
        low, high = at + 1, min(last, at + step)
    else:
        while at - step >= first and rows[at - step] >= row:
            at -= step
            step *= 2
        low, high = max(first, at - step + 1), at
    while low < high:
        middle = (low + high) >> 1
        if rows[middle] < row:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def _look_up(rows, tfs, first, last, lengths, c0, c1, weight, jump, candidates, sums, guesses, count, room, low):
    """Adds what one term gives to `count` candidates, rows of one window in any order.

    A list is long and seldom in a cache. So each candidate's place is guessed, as if the list were even from its first
    place to its last in the window; all guesses are touched, which lets the processor wait for them together. For many
    candidates the list is read instead; `room`: zeros for the rows from `low` on.
    """
    least, most = candidates[0], candidates[0]
    for c in range(count):
        least, most = min(least, candidates[c]), max(most, candidates[c])
    first = _not_before(rows, first, last, least)
    end = _not_before(rows, first, last, most + 1)
    if first == end:
        return first
    if count * LOOK_UP > end - first:
        _scatter(rows, tfs, first, end, lengths, np.uint32(low), c0, c1, weight, jump, room)
        for c in range(count):
            sums[c] += room[np.uint64(candidates[c] - low)]
        for i in range(np.uint64(first), np.uint64(end)):
            room[np.uint64(rows[i] - low)] = 0
        return first
    step = (end - first) / (1.0 + most - least)
    touched = 0
    for c in range(count):
        at = np.uint64(first + min(end - first - 1, np.int64((candidates[c] - least) * step)))
        guesses[c] = at
        touched += rows[at]
    guesses[count] = touched  # so that the reading is not optimized away
    for c in range(count):
        row = candidates[c]
        at = np.uint64(_near(rows, first, end, guesses[c], row))
        if at < end and rows[at] == row:
            tf = np.float32(tfs[at])
            sums[c] += weight * (tf / (tf + (c0 + c1 * np.float32(lengths[np.uint32(row)])))) + jump
    return first


@inline
def _least(goal):
    """The bits of the smallest sum that is a candidate; at least those of the smallest positive number."""
    return max(np.int32(1), bits_of(np.float32(goal)))


@inline
def _window_bounds(table, line, first, weight, jump, parts):
    """What a term can give to any row of the window whose first block is `first`."""
    most, codes = np.uint8(0), table[line, first : first + WINDOW // BLOCK]
    for i in range(codes.shape[0]):
        most = max(most, codes[i])
    return weight * parts[most] + jump if most else 0.0


@kernel
def _enough(table, lines, block, weights, jumps, parts, rest, first, n, goal, needed):
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
                needed[i] -= weights[t] * parts[code] + jumps[t]
        needed[blocks:] -= rest[t] - rest[t + 1]


@kernel
def _collect(lists, docs, allowed, model, query, n, constant, k, known, work, best_scores, best_ids):
    """The k best by the first n terms, as a heap; returns its size. `known`: a score that k documents reach."""
    rows, tfs, starts, table = lists.rows, lists.tfs, lists.starts, lists.table
    lengths, ids, c0, c1 = docs.lengths, docs.ids, model.c0, model.c1
    terms, weights, jumps, rest, parts = query.terms, query.weights, query.jumps, query.rest, query.parts
    lasts, begins, ends, lines = query.lasts, query.begins, query.ends, query.lines
    finals, density, left = query.finals, query.density, query.left
    sums, candidates, partial, guesses, needed = work.sums, work.candidates, work.partial, work.guesses, work.needed
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
                left[t] = left[t + 1] + _window_bounds(table, lines[t], block, weights[t], jumps[t], parts)
        here = essential
        while here and left[here - 1] < goal:
            here -= 1
        found = 0
        for t in range(essential):
            begins[t] = _not_before(rows, ends[t], lasts[t], low)
            ends[t] = begins[t]
            if t < here:
                ends[t] = _not_before(rows, begins[t], lasts[t], floor)
                found += ends[t] - begins[t]
                _scatter(rows, tfs, begins[t], ends[t], lengths, np.uint32(low), c0, c1, weights[t], jumps[t], sums)
            ends[t] = min(ends[t], lasts[t] - 1)
        if found == 0:
            continue
        least = _least(goal - left[here])
        sparse = wide or found * REVISIT < WINDOW
        count, bounded, enough = 0, NO_BLOCK, 0.0
        if not wide:
            _enough(table, lines, block, weights, jumps, parts, rest, here, n, goal, needed)
        for part in range(here if sparse else WINDOW // BLOCK):
            if sparse:
                begin, end = begins[part], ends[part] + (rows[ends[part]] < floor)
            else:
                begin, end = part * BLOCK, (part + 1) * BLOCK
                few, most = bits[begin:end], np.int32(0)
                for i in range(few.shape[0]):
                    most = max(most, few[i])
                if most < max(least, _least(needed[part])):
                    if most > 0:
                        few[:] = 0
                    continue
            for i in range(np.uint64(begin), np.uint64(end)):
                slot = np.uint64(rows[i] - low) if sparse else i
                x, sum = bits[slot], sums[slot]
                bits[slot] = 0
                row = np.uint64(low) + slot
                if x < least or not allowed[row]:
                    continue
                if not wide:
                    enough = needed[slot // np.uint64(BLOCK)]
                elif row // np.uint64(BLOCK) != bounded:
                    bounded, enough = row // np.uint64(BLOCK), goal - rest[n]
                    for t in range(here, n):  # without what the other terms can add in this block
                        if lines[t] < 0 or bounded >= blocks:
                            enough -= rest[t] - rest[t + 1]
                        else:
                            code = table[np.uint64(lines[t]), bounded]
                            if code:
                                enough -= weights[t] * parts[code] + jumps[t]
                if sum < enough:
                    continue
                if here < n:
                    candidates[count], partial[count] = row, sum
                    count += 1
                elif sum + np.float32(constant) >= known:
                    size = offer(best_scores, best_ids, size, k, sum + np.float32(constant), ids[row])
                    if size == k and best_scores[0] > known:
                        known = best_scores[0]
                        goal = known * keep + shift
                        least = _least(goal - rest[n])
        for t in range(here, n):
            if count == 0:
                break
            begins[t] = _look_up(
                rows, tfs, begins[t], lasts[t], lengths, c0, c1, weights[t], jumps[t],
                candidates, partial, guesses, count, sums, low,
            )  # fmt: skip
            kept = 0
            for c in range(count):
                if partial[c] + left[t + 1] >= goal:
                    candidates[kept], partial[kept] = candidates[c], partial[c]
                    kept += 1
            count = kept
        for c in range(count):
            score = partial[c] + np.float32(constant)
            if score >= known:
                size = offer(best_scores, best_ids, size, k, score, ids[np.uint32(candidates[c])])
                if size == k and best_scores[0] > known:
                    known = best_scores[0]
        goal = known * keep + shift


@kernel
def _prepare(lists, model, terms, weights, query):
    """Fills `query` with the terms that count, repeated ones added up; returns how many, and what all documents get."""
    n, keys = terms.shape[0], query.keys
    for i in range(n):
        keys[i] = (np.int64(terms[i]) << 32) | i
    keys[:n].sort()
    distinct, i = 0, 0
    while i < n:  # equal terms are neighbours now, in the order of the query
        term, position, total = keys[i] >> 32, keys[i] & 0xFFFFFFFF, 0.0
        while i < n and keys[i] >> 32 == term:
            total += weights[keys[i] & 0xFFFFFFFF]
            i += 1
        if term >= 0 and total > 0:
            query.totals[position] = total
            keys[distinct] = (np.int64(0x7FFFFFFF - bits_of(np.float32(total))) << 32) | position
            distinct += 1
    keys[:distinct].sort()
    constant = 0.0
    for i in range(distinct):
        position = keys[i] & 0xFFFFFFFF
        total = query.totals[position]
        query.terms[i] = terms[position]
        query.weights[i], query.jumps[i] = total * model.scale, total * model.jump
        constant += total * model.everywhere
    query.rest[distinct] = 0.0
    for i in range(distinct - 1, -1, -1):
        x = lists.tops[query.terms[i]] * model.stretch
        most = query.weights[i] * (x / (x + model.c)) + query.jumps[i]
        query.rest[i] = query.rest[i + 1] + most * 1.000001
    return distinct, constant


@kernel
def search(lists, docs, allowed, model, batch, work, k, pruned, out_scores, out_ids):
    """The k best of each query, best first, equal scores by smaller id. out: float32, int64 [Q, k], filled before.

    batch: (terms, weights, offsets): query q has terms[offsets[q] : offsets[q + 1]], each with its weight >= 0, idf
    included; a term < 0 is none. allowed: uint8 per row. Not `pruned`: every posting is read.
    """
    longest = 0
    for q in range(out_ids.shape[0]):
        longest = max(longest, batch.offsets[q + 1] - batch.offsets[q])
    query = Query(
        np.empty(longest, np.int32), np.empty(longest, np.float32), np.empty(longest, np.float32),
        np.empty(longest + 1, np.float64), np.empty(longest, np.int64), np.empty(longest, np.int64),
        np.empty(longest, np.int64), np.empty(longest, np.int64), np.empty(longest, np.float64),
        np.empty(longest, np.int64), np.empty(longest + 1, np.float64), np.empty(256, np.float64),
        np.empty(longest, np.float64), np.empty(longest, np.int64),
    )  # fmt: skip
    for code in range(255):
        x = code / (255.0 - code) * model.stretch
        query.parts[code] = x / (x + model.c) * 1.000001
    query.parts[255] = 1.000001
    scores, ids = np.empty(k, np.float32), np.empty(k, np.int64)
    for q in range(out_ids.shape[0]):
        begin, end = batch.offsets[q], batch.offsets[q + 1]
        n, constant = _prepare(lists, model, batch.terms[begin:end], batch.weights[begin:end], query)
        known = np.float32(0)
        if pruned:
            budget, warm, read = np.int64(0), 0, np.int64(0)
            for t in range(n):
                budget += lists.counts[query.terms[t]]
            budget //= WARM_SHARE
            while warm < n and read + lists.counts[query.terms[warm]] <= budget:
                read += lists.counts[query.terms[warm]]
                warm += 1
            if read >= k and budget > WORTH:
                size = _collect(
                    lists, docs, allowed, model, query, warm, constant, k, known, work, scores, ids
                )  # fmt: skip
                known = scores[0] if size == k else known
        else:
            query.rest[:n] = np.inf
        size = _collect(lists, docs, allowed, model, query, n, constant, k, known, work, scores, ids)
        while size:  # the worst first, from the back
            size -= 1
            out_scores[q, size], out_ids[q, size] = scores[0], ids[0]
            scores[0], ids[0] = scores[size], ids[size]
            sift_down(scores, ids, size)
