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
from .accumulate import BLOCK, least_of, lowest, reach, reached, scatter
from .cache import inline, kernel
from .heap import offer
from .keys import fetch
from .matmul import ADDRESS
from .simd import Loop, ir

STEPS = np.float32(254)
AHEAD = 64  # postings of a list asked for before they are read
COLUMNS = 1024  # at most


@inline
def code_of(part):
    """A byte for what a posting gives."""
    return np.uint8(np.int32(part * STEPS) + 1)


@intrinsic
def _bound(typing_context, sums, blocks, lines, weights, count, bounds, columns):
    """bounds = sums + weights @ codes, for blocks of 64 rows; the largest of every 64th of them to `columns`.

    lines: int64 [count], the addresses of the terms' codes; weights: float32 [count].
    """

    def generate(context, builder, signature, args):
        e, (sums, blocks, lines, weights, count, bounds, columns) = builder, args
        octets, parts = ir.VectorType(simd.i8, simd.LANES), range(BLOCK // simd.LANES)
        with Loop(e, e.mul(blocks, simd.i64(BLOCK)), [simd.constant(e, 0.0) for _ in parts], step=BLOCK) as loop:
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
            loop.next(*(total.max(best) for total, best in zip(term.results, loop.carried, strict=True)))
        for i, best in enumerate(loop.results):
            simd.store(e, best, columns, 4 * simd.LANES * i)
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS, ADDRESS), generate


@inline
def _threshold(bounds, blocks, k, columns):
    """A bound that at least k rows reach, 0 if that is not known."""
    if k <= BLOCK // 4:
        return reached(columns[:BLOCK], k)
    if 2 * k > COLUMNS:
        return np.float32(0)
    columns[:COLUMNS] = 0
    for row in range(blocks * BLOCK):
        columns[row & (COLUMNS - 1)] = max(columns[row & (COLUMNS - 1)], bounds[row])
    return reached(columns[:COLUMNS], k)


@kernel
def _part(lists, model, term, code, row, length):
    """What a posting gives, from its code."""
    rest = model.c0 + model.c1 * np.float32(length)
    middle = (np.float32(code) - np.float32(0.5)) / STEPS
    tf = np.float32(max(1.0, np.rint(rest * (middle / (1 - middle)))))
    part = tf / (tf + rest)
    # the next count's part is larger by (1 - part) / (tf + 1 + rest), the one before it smaller by more
    if code_of(part) == code and STEPS * (1 - part) > (tf + 1 + rest) * np.float32(1.001):
        return part
    low, high = lists.starts[term], lists.starts[term] + lists.counts[term]
    while low < high:
        middle_place = (low + high) >> 1
        if lists.rows[middle_place] < row:
            low = middle_place + 1
        else:
            high = middle_place
    return lists.parts[low]


@kernel
def best_of_all(
    lists, ids, lengths, count, allowed, every, model, query, n, constant, k, work, best_scores, best_ids
):  # fmt: skip
    """The k best of `count` rows by all n terms, as a heap; returns its size. every: all rows are allowed."""
    terms, weights, jumps, begins, ends = query.terms, query.weights, query.jumps, query.begins, query.ends
    rows, parts, sums, bounds, codes = lists.rows, lists.parts, work.sums, work.partial, lists.codes
    seldom, slack, found = n, 0.0, np.int64(0)
    if codes.shape[1] >= count:  # the terms from `seldom` on have codes; none of them is heavier than one that has not
        while seldom and lists.lines[terms[seldom - 1]] >= 0 and jumps[seldom - 1] == 0:
            seldom -= 1
            begins[seldom] = codes.ctypes.data + codes.shape[1] * lists.lines[terms[seldom]]
            fetch(begins[seldom], count)
            query.steps[seldom] = weights[seldom] / STEPS
            slack += query.steps[seldom]
    for t in range(seldom):  # lists are seldom in a cache: ask for all before the first is read
        begins[t] = lists.starts[terms[t]]
        ends[t] = begins[t] + lists.counts[terms[t]]
        size = 4 * min(AHEAD, lists.counts[terms[t]])
        fetch(rows.ctypes.data + 4 * begins[t], size)
        fetch(parts.ctypes.data + 4 * begins[t], size)
        found += lists.counts[terms[t]]
    for t in range(seldom):
        scatter(rows, parts, begins[t], ends[t], np.uint32(0), weights[t], jumps[t], sums)
    blocks, columns = (count + BLOCK - 1) // BLOCK, work.columns
    _bound(
        sums.ctypes.data, blocks, begins[seldom:].ctypes.data, query.steps[seldom:].ctypes.data, n - seldom,
        bounds.ctypes.data, columns.ctypes.data,
    )  # fmt: skip
    bits = bounds.view(np.int32)  # numbers >= 0 sort like their bits
    if not every:
        for row in range(count):
            bits[row] *= allowed[row]
        columns[:BLOCK] = 0
        for row in range(count):
            columns[row & (BLOCK - 1)] = max(columns[row & (BLOCK - 1)], bounds[row])
    goal = _threshold(bounds, blocks, k, columns) - slack + constant
    keep = 1 - 2e-6 - 2.5e-7 * n  # what rounding may do
    least, size = least_of(goal * keep, constant), 0
    for block in range(blocks):
        mask = reach(bits, block, least)
        while mask:
            row = np.uint64(block * BLOCK) + lowest(mask)
            mask &= mask - np.uint64(1)
            total = sums[row]
            for t in range(seldom, n):
                code = codes[np.uint64(lists.lines[terms[t]]), row]
                if code:
                    total += weights[t] * _part(lists, model, terms[t], code, row, lengths[row])
            size = offer(best_scores, best_ids, size, k, total + constant, ids[row])
        if size == k and 2 * k > COLUMNS:
            least = max(least, least_of(best_scores[0] * keep, constant))
    if found < count // 4:
        for t in range(seldom):
            for i in range(np.uint64(begins[t]), np.uint64(ends[t])):
                sums[np.uint32(rows[i])] = 0
    else:
        sums[:count] = 0
    return size
