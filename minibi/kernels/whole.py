"""Small collections: what every document can have at most, sixteen at a time, then the sums of the few that matter.

Sums of all rows fit the first-level cache. Lists of seldom terms are added up posting by posting. A frequent term has a
row of codes, a byte for every document:

    code = 1 + floor(254 part) if the document holds the term, else 0;  part <= code / 254,  part > (code - 1) / 254

which are multiplied and added without any index. The k best of these bounds give a threshold, and whoever reaches it is
summed up exactly. No other posting is read for that: part = tf / (tf + L) with a whole tf, so a document's L and the
code give tf and with it part, bit for bit, unless two counts share the code.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .accumulate import BLOCK, least_of, lowest, not_before, reach, reached_by
from .cache import inline, kernel
from .heap import offer, ranked
from .memory import ADDRESS, float_at
from .simd import Loop, ir

STRETCH = 2 * BLOCK  # rows
STEPS = np.float32(254)
COLUMNS = 1024  # at most; for more than half as many hits the threshold is the worst of those found so far


@inline
def code_of(part):
    """A byte for what a posting gives."""
    return np.uint8(np.int32(part * STEPS) + 1)


@intrinsic
def _bound(typing_context, sums, stretches, lines, weights, count, bounds, columns):
    """bounds = sums + weights @ codes, for stretches of 128 rows; the largest of every 64th of them to `columns`.

    lines: int64 [count], the addresses of the terms' codes; weights: float32 [count].
    """

    def generate(context, builder, signature, args):
        e, (sums, stretches, lines, weights, count, bounds, columns) = builder, args
        octets, parts = ir.VectorType(simd.i8, simd.LANES), range(STRETCH // simd.LANES)
        nothing = [simd.constant(e, 0.0)] * (BLOCK // simd.LANES)
        with Loop(e, e.mul(stretches, simd.i64(STRETCH)), nothing, step=STRETCH) as loop:
            here = e.mul(loop.index, simd.i64(4))
            totals = [simd.load(e, e.add(sums, here), 4 * simd.LANES * i) for i in parts]
            with Loop(e, count, totals) as term:
                line = e.inttoptr(e.add(lines, e.mul(term.index, simd.i64(8))), simd.i64.as_pointer())
                codes = e.add(e.load(line), loop.index)
                weight = simd.broadcast(e, e.add(weights, e.mul(term.index, simd.i64(4))))
                following = []
                for i, total in enumerate(term.carried):
                    place = e.inttoptr(e.add(codes, simd.i64(simd.LANES * i)), octets.as_pointer())
                    wide = e.zext(e.load(place, align=1), simd.ints)
                    following.append(simd.to_floats(e, wide).fma(weight, total))
                term.next(*following)
            for i, total in enumerate(term.results):
                simd.store(e, total, e.add(bounds, here), 4 * simd.LANES * i)
            best = loop.carried
            for half in term.results[: len(best)], term.results[len(best) :]:
                best = [total.max(most) for total, most in zip(half, best, strict=True)]
            loop.next(*best)
        for i, best in enumerate(loop.results):
            simd.store(e, best, columns, 4 * simd.LANES * i)
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS), generate


@inline
def _threshold(bounds, blocks, k, columns):
    """A bound that at least k rows reach, 0 if that is not known."""
    if k <= BLOCK // 4:
        return reached_by(columns.ctypes.data, BLOCK, k)
    if 2 * k > COLUMNS:
        return np.float32(0)
    columns[:COLUMNS] = 0
    for row in range(blocks * BLOCK):
        columns[row & (COLUMNS - 1)] = max(columns[row & (COLUMNS - 1)], bounds[row])
    return reached_by(columns.ctypes.data, COLUMNS, k)


def odds():
    """p / (1 - p) for the middle p of what each code stands for."""
    middle = (np.arange(256) - 0.5) / float(STEPS)
    return (middle / (1 - np.minimum(middle, 1 - 1e-6))).astype(np.float32)


@inline
def _part_of_code(rest, odd, code):
    """(what a posting gives, from its code; whether no other count has that code), with rest = c0 + c1 * length."""
    tf = max(np.float32(1), np.rint(rest * odd))
    part = tf / (tf + rest)
    # the next count's part is larger by (1 - part) / (tf + 1 + rest), the one before it smaller by more
    alone = STEPS * (np.float32(1) - part) > (tf + np.float32(1) + rest) * np.float32(1.001)
    return part, alone & (code_of(part) == code)


@kernel
def _part_of(rows, parts, first, last, row):
    """The same from the list, rows[first : last]; 0 if the row is not in it."""
    at = not_before(rows, first, last, row)
    return parts[at] if at < last and rows[at] == row else np.float32(0)


@kernel
def best_of_all(
    lists, ids, lengths, count, allowed, every, model, queries, longest, k, work, out_scores, out_ids
):  # fmt: skip
    """The k best of `count` rows by all terms of each query. every: all rows are allowed."""
    rows, parts, starts, counts, lines, codes = (
        lists.rows, lists.parts, lists.starts, lists.counts, lists.lines, lists.codes
    )  # fmt: skip
    terms, weights, jumps, offsets = queries.terms, queries.weights, queries.jumps, queries.offsets
    sums, bounds, columns, inverse = work.sums, work.partial, work.columns, work.odds
    constants, sizes = queries.constants, queries.counts
    bits = bounds.view(np.int32)  # numbers >= 0 sort like their bits
    blocks, coded = (count + BLOCK - 1) // BLOCK, codes.shape[1] >= count
    at, places = np.empty(longest, np.uint64), np.empty(longest, np.int64)
    heavy, steps = np.empty(longest, np.float32), np.empty(longest, np.float32)
    masks, touched_blocks = np.empty(blocks + 1, np.uint64), np.empty(blocks + 1, np.int64)
    octets = codes.reshape(codes.size)
    heap_scores, heap_ids = np.zeros(k + 1, np.float32), np.zeros(k + 1, np.int64)
    best_scores, best_ids = heap_scores.ctypes.data, heap_ids.ctypes.data
    for q in range(out_ids.shape[0]):
        first, constant, found = offsets[q], constants[q], np.int64(0)
        seldom = last = first + sizes[q]
        slack, size, frequent = 0.0, 0, 0
        # the terms from `seldom` on have codes; none of them is heavier than one that has not
        while coded and seldom > first and lines[terms[seldom - 1]] >= 0 and jumps[seldom - 1] == 0:
            seldom -= 1
        for t in range(seldom, last):
            at[frequent] = codes.shape[1] * lines[terms[t]]
            places[frequent] = codes.ctypes.data + np.int64(at[frequent])
            heavy[frequent], steps[frequent] = weights[t], weights[t] / STEPS
            slack += steps[frequent]
            frequent += 1
        for t in range(first, seldom):
            begin = starts[terms[t]]
            end = begin + counts[terms[t]]
            found += end - begin
            weight, jump = weights[t], jumps[t]
            for i in range(np.uint64(begin), np.uint64(end)):
                sums[np.uint32(rows[i])] += weight * parts[i] + jump
        _bound(
            sums.ctypes.data, (count + STRETCH - 1) // STRETCH, places.ctypes.data, steps.ctypes.data, frequent,
            bounds.ctypes.data, columns.ctypes.data,
        )  # fmt: skip
        if not every:
            columns[:BLOCK] = 0
            for row in range(count):
                bits[row] *= allowed[row]
                columns[row & (BLOCK - 1)] = max(columns[row & (BLOCK - 1)], bounds[row])
        keep = 1 - 2e-6 - 2.5e-7 * (last - first)  # what rounding may do
        least = least_of(_threshold(bounds, blocks, k, columns) * keep - slack * 1.000001 + constant, constant)
        touched = 0
        for block in range(blocks):  # no branch: the processor could not foretell it
            masks[touched], touched_blocks[touched] = reach(bits, block, least), block
            touched += masks[touched] != 0
        for i in range(touched):
            mask = masks[i]
            while mask:
                row = np.uint64(touched_blocks[i] * BLOCK) + lowest(mask)
                mask &= mask - np.uint64(1)
                if bits[row] < least:
                    continue
                total, rest, doubt = sums[row], model.c0 + model.c1 * np.float32(lengths[row]), False
                for t in range(frequent):  # nor here
                    code = octets[np.uint64(at[t]) + row]
                    part, sure = _part_of_code(rest, inverse[code], code)
                    total += heavy[t] * (part * np.float32(code > 0))
                    doubt |= (code > 0) & (not sure)
                if doubt:
                    total = sums[row]
                    for t in range(seldom, last):
                        begin = starts[terms[t]]
                        total += weights[t] * _part_of(rows, parts, begin, begin + counts[terms[t]], row)
                size = offer(best_scores, best_ids, size, k, total + constant, ids[row])
                if size == k and 2 * k > COLUMNS:
                    least = max(least, least_of(float_at(best_scores) * keep, constant))
        if found < count // 4:
            for t in range(first, seldom):
                for i in range(np.uint64(starts[terms[t]]), np.uint64(starts[terms[t]] + counts[terms[t]])):
                    sums[np.uint32(rows[i])] = 0
        else:
            sums[:count] = 0
        ranked(best_scores, best_ids, size, out_scores, out_ids, q)
    heap_scores[0], heap_ids[0] = 0, 0  # the arrays must live until here
