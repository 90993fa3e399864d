"""MaxScore, window by window: the k best of many rows from a part of their postings.

MaxScore (Turtle & Flood 1995): once the k-th best score so far exceeds what the lightest terms can add together, no
document that has only those can enter, so their lists need not be read; they are looked up for single candidates. The
rest is gathered as Lucene's bulk scorer does: in windows of rows whose sums fit the first-level cache. Block-max
(Ding & Suel 2011): what a frequent term can add at most is known for every block of 64 rows. A first pass over the
rarest terms alone gives the threshold to begin with.
"""

from __future__ import annotations

import numpy as np

from .accumulate import BLOCK, least_of, lowest, reach, scatter
from .cache import inline, kernel
from .heap import offer
from .keys import fetch

WINDOW = 8192  # rows; their sums take 32 KB
WIDE = 8 * WINDOW  # where few postings are expected
SPARSE = 16  # with less than one posting expected for so many rows, windows are wide
REVISIT = 3  # with less than one for so many, sums are revisited posting by posting, not block by block
WARM_SHARE = 8  # the first pass may read 1 / WARM_SHARE of the postings
WORTH = 2048  # postings; where the first pass may not read so many, there is none
LOOK_UP = 16  # looking up one candidate takes as long as reading so many postings
NOWHERE, NO_BLOCK = np.int64(2**31), np.uint64(2**31)


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
def best_of_some(lists, ids, allowed, every, query, n, constant, k, known, work, best_scores, best_ids):
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


@kernel
def known_to_be_reached(lists, ids, allowed, every, query, n, constant, k, work, best_scores, best_ids):
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
    size = best_of_some(
        lists, ids, allowed, every, query, warm, constant, k, np.float32(0), work, best_scores, best_ids
    )
    return best_scores[0] if size == k else np.float32(0)
