"""Scores of many rows at once: lists added up in one array, and the best of it found 64 rows at a time."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import inline, kernel
from .heap import offer
from .keys import bits_of, float_of
from .matmul import ADDRESS
from .simd import ir

BLOCK = 64  # rows that are looked at together


@kernel
def scatter(rows, parts, begin, end, low, weight, jump, sums):
    """Adds what one term gives to the sums of the rows from `low` on."""
    for i in range(np.uint64(begin), np.uint64(end)):
        sums[np.uint32(rows[i]) - low] += weight * parts[i] + jump


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
def _lowest(typing_context, mask):
    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.IntType(1)(1))

    return types.uint64(types.uint64), generate


@inline
def reach(bits, block, least):
    """A bit for each of the 64 numbers of a block: whether it is `least` or more. bits: int32, whole blocks."""
    return _reach(bits.ctypes.data + block * (4 * BLOCK), least)


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


@kernel
def _reached_by(bits, blocks, k, best):
    """The bits of a sum that at least k rows reach: every 64th row makes a group, and k groups have a row so good."""
    columns = best[BLOCK:]
    columns[:] = 0
    for block in range(blocks):
        some = bits[block * BLOCK : (block + 1) * BLOCK]
        for i in range(BLOCK):
            columns[i] = max(columns[i], some[i])
    best[:k] = 0
    for i in range(BLOCK):  # the k largest, in ascending order
        x, at = columns[i], 0
        if x > best[0]:
            while at + 1 < k and best[at + 1] < x:
                best[at] = best[at + 1]
                at += 1
            best[at] = x
    return best[0]


@kernel
def best_of_all(lists, ids, allowed, every, query, n, constant, k, work, best_scores, best_ids):
    """The k best by all n terms, as a heap; returns its size. No posting is left out. every: all rows are allowed.

    For rows that fit work.sums, where bounds and look-ups would cost more than the postings they save.
    """
    rows, parts, sums = lists.rows, lists.parts, work.sums
    high = np.int64(0)
    for t in range(n):
        begin = lists.starts[query.terms[t]]
        end = begin + lists.counts[query.terms[t]]
        high = max(high, rows[end - 1] + 1)
        scatter(rows, parts, begin, end, np.uint32(0), query.weights[t], query.jumps[t], sums)
    blocks, bits = (high + BLOCK - 1) // BLOCK, sums.view(np.int32)
    if not every:
        for i in range(high):
            bits[i] *= allowed[i]
    size, least = 0, np.int32(1)
    if k <= BLOCK:
        known = float_of(_reached_by(bits, blocks, k, work.columns))
        least = least_of(known + constant, constant)
    for block in range(blocks):
        mask = reach(bits, block, least)
        while mask:
            row = np.uint64(block * BLOCK) + lowest(mask)
            mask &= mask - np.uint64(1)
            size = offer(best_scores, best_ids, size, k, sums[row] + constant, ids[row])
        if size == k:
            least = least_of(best_scores[0], constant)
    sums[: blocks * BLOCK] = 0
    return size
