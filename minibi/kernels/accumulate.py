"""Scores of many rows at once: lists added up in one array, and the best of it found 64 rows at a time."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import inline, kernel
from .heap import offer
from .keys import bits_of, fetch, float_of
from .matmul import ADDRESS
from .simd import Loop, ir

BLOCK = 64  # rows that are looked at together
PRECISION = 1 << 15  # of float32's 2^23 steps from a number to its double
AHEAD = 128  # postings asked for before they are read


@kernel
def scatter(rows, parts, begin, end, low, weight, jump, sums):
    """Adds what one term gives to the sums of the rows from `low` on."""
    for i in range(np.uint64(begin), np.uint64(end)):
        sums[np.uint32(rows[i]) - low] += weight * parts[i] + jump


@kernel
def gather(rows, parts, begin, end, low, weight, jump, sums, every, allowed, best):
    """As `scatter`; and each row's sum, if the row is allowed, becomes its column's best if it is that.

    best: float32, a power of two of columns; a row belongs to one of them.
    """
    last = np.uint32(best.shape[0] - 1)
    for i in range(np.uint64(begin), np.uint64(end)):
        row = np.uint32(rows[i])
        total = sums[row - low] + (weight * parts[i] + jump)
        sums[row - low] = total
        if every or allowed[row]:
            best[row & last] = max(best[row & last], total)


@intrinsic
def _reach(typing_context, address, least):
    def generate(context, builder, signature, args):
        e, (address, least) = builder, args
        bound, mask = simd.spread_int(e, least), simd.i64(0)
        for part in range(BLOCK // simd.LANES):
            some = e.icmp_signed(">=", simd.load_ints(e, address, 64 * part), bound)
            word = e.zext(e.bitcast(some, ir.IntType(simd.LANES)), simd.i64)
            mask = e.or_(mask, e.shl(word, simd.i64(simd.LANES * part)))
        return mask

    return types.uint64(ADDRESS, types.int32), generate


@intrinsic
def _ones(typing_context, mask):
    def generate(context, builder, signature, args):
        return builder.ctpop(args[0])

    return types.int64(types.uint64), generate


@intrinsic
def _lowest(typing_context, mask):
    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.uint64(types.uint64), generate


@inline
def reach(bits, block, least):
    """A bit for each of the 64 numbers of a block: whether it is `least` or more. bits: int32, whole blocks."""
    return _reach(bits.ctypes.data + block * (4 * BLOCK), least)


@kernel
def reached(best, k):
    """A number that at least k of `best` reach, and close to the largest such, by halving; whole blocks, none < 0."""
    bits = best.view(np.int32)
    low, high = np.int32(0), np.int32(0x7F800000)  # k reach the one, perhaps not the other
    while high - low > PRECISION:
        middle, count = low + ((high - low) >> 1), 0
        for block in range(best.shape[0] // BLOCK):
            count += _ones(reach(bits, block, middle))
        if count >= k:
            low = middle
        else:
            high = middle
    return float_of(low)


@inline
def lowest(mask):
    """The place of the lowest bit of a mask that is not 0."""
    return _lowest(mask)


@inline
def least_of(score, constant):
    """The bits of the smallest sum that can be worth `score` once the constant is added, at least those of the
    smallest positive number. Numbers >= 0 sort like their bits."""
    goal = np.float64(score) * (1 - 2.5e-7) - np.float64(constant)  # the addition rounds
    return max(np.int32(1), bits_of(np.float32(max(0.0, goal))))


@intrinsic
def _columns(typing_context, sums, blocks, columns):
    """The largest of every 64th number, 64 times."""

    def generate(context, builder, signature, args):
        e, (sums, blocks, columns) = builder, args
        nothing = [simd.constant(e, 0.0)] * (BLOCK // simd.LANES)
        with Loop(e, e.mul(blocks, simd.i64(4 * BLOCK)), nothing, step=4 * BLOCK) as loop:
            here = e.add(sums, loop.index)
            loop.next(*(x.max(simd.load(e, here, 4 * simd.LANES * i)) for i, x in enumerate(loop.carried)))
        for i, x in enumerate(loop.results):
            simd.store(e, x, columns, 4 * simd.LANES * i)
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS, ADDRESS), generate


@kernel
def _reached_by(sums, blocks, k, columns):
    """A sum that at least k rows reach: every 64th row makes a group, and k groups have a row so good."""
    _columns(sums.ctypes.data, blocks, columns.ctypes.data)
    for i in range(1, BLOCK):  # the k largest come to the front, in descending order
        x, at = columns[i], min(i, k)
        if at == k and x <= columns[k - 1]:
            continue
        at -= at == k
        while at and columns[at - 1] < x:
            columns[at] = columns[at - 1]
            at -= 1
        columns[at] = x
    return columns[k - 1]


@kernel
def best_of_all(lists, ids, count, allowed, every, query, n, constant, k, work, best_scores, best_ids):
    """The k best of `count` rows by all n terms, as a heap; returns its size. every: all rows are allowed.

    No posting is left out: where sums of all rows fit a cache, bounds and look-ups would cost more than they save.
    """
    rows, parts, sums = lists.rows, lists.parts, work.sums
    for t in range(n):  # lists are seldom in a cache: ask for all before the first is read
        begin = lists.starts[query.terms[t]]
        query.begins[t], query.ends[t] = begin, begin + lists.counts[query.terms[t]]
        size = 4 * min(AHEAD, lists.counts[query.terms[t]])
        fetch(rows.ctypes.data + 4 * begin, size)
        fetch(parts.ctypes.data + 4 * begin, size)
    for t in range(n):
        scatter(rows, parts, query.begins[t], query.ends[t], np.uint32(0), query.weights[t], query.jumps[t], sums)
    blocks, bits = (count + BLOCK - 1) // BLOCK, sums.view(np.int32)
    if not every:
        for i in range(count):
            bits[i] *= allowed[i]
    size, least = 0, np.int32(1)
    if 0 < k <= BLOCK:
        least = least_of(_reached_by(sums, blocks, k, work.columns) + constant, constant)
    for block in range(blocks):
        mask = reach(bits, block, least)
        while mask:
            row = np.uint64(block * BLOCK) + lowest(mask)
            mask &= mask - np.uint64(1)
            size = offer(best_scores, best_ids, size, k, sums[row] + constant, ids[row])
        if size == k and k > BLOCK:
            least = least_of(best_scores[0], constant)
    for i in range(blocks * BLOCK):
        sums[i] = 0
    return size
