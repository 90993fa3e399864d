"""MaxScore, term by term: the k best of many rows from a part of their postings.

MaxScore (Turtle & Flood 1995): lists are added up from the heaviest term down. Once the k-th best sum exceeds what the
remaining terms can add together, no document that has only those can enter: their lists are not read, they are looked
up for the documents that were met. Block-max (Ding & Suel 2011): what a frequent term can add at most is known for
every block of 64 rows, which spares most look-ups.

The k-th best sum is not known while sums grow, but a bound is: rows are dealt to columns, each remembers its best sum,
and the k-th best column is a score that k documents reach.
"""

from __future__ import annotations

import numpy as np

from .accumulate import BLOCK, gather, least_of, lowest, not_before, reach, reached_by, scatter
from .cache import inline, kernel
from .heap import offer, ranked
from .keys import fetch
from .memory import float_at

WINDOW = 1 << 18  # rows that are searched together; their sums take 1 MB
REVISIT = 8  # with less than one posting for so many rows, sums are revisited posting by posting, not block by block
LOOK_UP = 16  # looking up one candidate takes as long as reading so many postings
AHEAD = 64  # postings of a list asked for before they are read
NO_BLOCK = np.uint64(2**31)


@inline
def _start_of(rows, places, line, start, at, last, row):
    """As `not_before`, for the first row of a block; `at` is a place known to be at or before it."""
    block = row // BLOCK
    if line >= 0 and block < places.shape[1]:
        return start + places[line, block]
    return not_before(rows, at, last, row)


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
            at, stop = np.uint64(not_before(rows, first, end, row)), np.uint64(end)
        if at < stop and rows[at] == row:
            sums[c] += weight * parts[at] + jump
    return first


@kernel
def _revisit(rows, begin, end, low, least, every, allowed, bits, candidates, partial, count):
    """Sums of the rows of one list become zero; those of `least` or more are candidates. Returns how many these are."""
    sums = bits.view(np.float32)
    for i in range(np.uint64(begin), np.uint64(end)):
        row = np.uint32(rows[i])
        slot = row - low
        candidates[count], partial[count] = row, sums[slot]  # no branch: the processor could not foretell it
        count += (bits[slot] >= least) & (every or allowed[row] > 0)
        bits[slot] = 0
    return count


@kernel
def _scan(blocks, low, least, every, allowed, bits, candidates, partial):
    """As `_revisit`, for every row of a window."""
    sums, count = bits.view(np.float32), 0
    for block in range(blocks):
        mask = reach(bits, block, least)
        while mask:
            slot = np.uint64(block * BLOCK) + lowest(mask)
            mask &= mask - np.uint64(1)
            row = np.uint64(low) + slot
            if every or allowed[row]:
                candidates[count], partial[count] = row, sums[slot]
                count += 1
    bits[: blocks * BLOCK] = 0
    return count


@kernel
def _can_enter(table, lines, weights, jumps, mosts, rest, first, n, goal, candidates, partial, count):
    """Leaves out candidates that terms first, first + 1, ... cannot bring to the goal; returns how many stay."""
    kept, bounded, enough, blocks = 0, NO_BLOCK, 0.0, np.uint64(table.shape[1])
    for c in range(count):
        block = np.uint64(candidates[c]) // np.uint64(BLOCK)
        if block != bounded:
            bounded, enough = block, goal - rest[n]
            for t in range(first, n):
                if lines[t] < 0 or block >= blocks:
                    enough -= rest[t] - rest[t + 1]
                elif table[np.uint64(lines[t]), block]:
                    enough -= weights[t] * mosts[table[np.uint64(lines[t]), block]] + jumps[t]
        candidates[kept], partial[kept] = candidates[c], partial[c]
        kept += partial[c] >= enough
    return kept


@kernel
def best_of_some(lists, ids, count, allowed, every, model, queries, longest, k, work, out_scores, out_ids):
    """The k best of `count` rows by the terms of each query. every: all rows are allowed."""
    rows, parts, starts, counts = lists.rows, lists.parts, lists.starts, lists.counts
    table, places, tops = lists.table, lists.places, lists.tops
    sums, candidates, partial, best = work.sums, work.candidates, work.partial, work.columns
    places_of = np.empty((4, longest), np.int64)
    begins, ends, lasts, lines = places_of[0], places_of[1], places_of[2], places_of[3]
    rest, mosts = np.empty(longest + 1, np.float64), np.ones(256, np.float64)
    heap_scores, heap_ids = np.zeros(k + 1, np.float32), np.zeros(k + 1, np.int64)
    best_scores, best_ids = heap_scores.ctypes.data, heap_ids.ctypes.data
    bits = sums.view(np.int32)  # numbers >= 0 sort like their bits
    for code in range(255):  # x / (x + c) at most
        x = code / (255.0 - code) * model.stretch
        mosts[code] = x / (x + model.c)
    mosts *= 1.000001
    columns = np.int64(BLOCK)
    while columns < 8 * k and columns < best.shape[0]:
        columns *= 2
    for q in range(out_ids.shape[0]):
        at, n, constant = queries.offsets[q], queries.counts[q], queries.constants[q]
        terms, weights, jumps = queries.terms[at : at + n], queries.weights[at : at + n], queries.jumps[at : at + n]
        rest[n] = 0.0  # what terms t, t + 1, ... can add together
        for t in range(n - 1, -1, -1):
            x = tops[terms[t]] * model.stretch
            rest[t] = rest[t + 1] + (weights[t] * (x / (x + model.c)) + jumps[t]) * 1.000001
            begins[t], lasts[t] = starts[terms[t]], starts[terms[t]] + counts[terms[t]]
            lines[t], nearby = lists.lines[terms[t]], 4 * min(AHEAD, counts[terms[t]])
            fetch(rows.ctypes.data + 4 * begins[t], nearby)
            fetch(parts.ctypes.data + 4 * begins[t], nearby)
        keep = 1 - 2e-6 - 2.5e-7 * n  # what rounding may do
        shift = -np.float64(constant)
        known, size = np.float32(0), 0
        goal = known * keep + shift
        for low in range(0, count, WINDOW):
            here, found = 0, 0
            best[:columns] = 0
            while here < n and rest[here] >= goal:
                t = here
                begin, end = begins[t], lasts[t]
                if low:
                    begin = _start_of(rows, places, lines[t], starts[terms[t]], begin, end, low)
                if low + WINDOW < count:
                    end = _start_of(rows, places, lines[t], starts[terms[t]], begin, end, low + WINDOW)
                begins[t], ends[t] = begin, end
                found += end - begin
                here += 1
                if here == n or 2 * k > columns:
                    scatter(rows, parts, begin, end, np.uint32(low), weights[t], jumps[t], sums)
                else:
                    gather(
                        rows, parts, begin, end, np.uint32(low), weights[t], jumps[t], sums, every, allowed, best,
                        columns,
                    )  # fmt: skip
                    if found >= k:
                        known = max(known, reached_by(best.ctypes.data, columns, k) + constant)
                        goal = known * keep + shift
            least, met = least_of(goal - rest[here], 0.0), 0
            if found * REVISIT < min(count - low, WINDOW):
                for t in range(here):
                    met = _revisit(
                        rows, begins[t], ends[t], np.uint32(low), least, every, allowed, bits, candidates, partial, met
                    )
            else:
                blocks = (min(count - low, WINDOW) + BLOCK - 1) // BLOCK
                met = _scan(blocks, low, least, every, allowed, bits, candidates, partial)
            if here < n:
                met = _can_enter(
                    table, lines, weights, jumps, mosts, rest, here, n, goal, candidates, partial, met
                )  # fmt: skip
            for t in range(here, n):
                if met == 0:
                    break
                begins[t] = _look_up(
                    rows, parts, places, lines[t], starts[terms[t]], begins[t], lasts[t], weights[t], jumps[t],
                    candidates, partial, met, sums, low,
                )  # fmt: skip
                kept = 0
                for c in range(met):
                    candidates[kept], partial[kept] = candidates[c], partial[c]
                    kept += partial[c] + rest[t + 1] >= goal
                met = kept
            for c in range(met):
                score = partial[c] + constant
                if score >= known:
                    size = offer(best_scores, best_ids, size, k, score, ids[np.uint32(candidates[c])])
                    if size == k and float_at(best_scores) > known:
                        known = float_at(best_scores)
            goal = known * keep + shift
        ranked(best_scores, best_ids, size, out_scores, out_ids, q)
    heap_scores[0], heap_ids[0] = 0, 0  # the arrays must live until here
