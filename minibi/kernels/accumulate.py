"""Scores of many rows at once: lists added up in one array, and the best of it found 64 rows at a time."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import inline, kernel
from .keys import bits_of, float_of
from .memory import ADDRESS
from .simd import ir
from .sixteen import lowest_bit

BLOCK = 64  # rows that are looked at together
PRECISION = 1 << 14  # of float32's 2^23 steps from a number to its double


@kernel
def scatter(rows, parts, begin, end, low, weight, jump, sums):
    """Adds what one term gives to the sums of the rows from `low` on."""
    for i in range(np.uint64(begin), np.uint64(end)):
        sums[np.uint32(rows[i]) - low] += weight * parts[i] + jump


@kernel
def gather(rows, parts, begin, end, low, weight, jump, sums, every, allowed, best, columns):
    """As `scatter`; and each row's sum, if the row is allowed, becomes its column's best if it is that.

    best: float32; a row belongs to one of its first `columns`, a power of two.
    """
    last = np.uint32(columns - 1)
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


@inline
def reach(bits, block, least):
    """A bit for each of the 64 numbers of a block: whether it is `least` or more. bits: int32, whole blocks."""
    return _reach(bits.ctypes.data + block * (4 * BLOCK), least)


@kernel
def reached_by(address, count, k):
    """A number that at least k of the `count` float32 at the address reach, and close to the largest such, by halving.

    They are whole blocks, and none is < 0.
    """
    low, high = np.int32(0), np.int32(0x7F800000)  # k reach the one, perhaps not the other
    while high - low > PRECISION:
        middle, reaching = low + ((high - low) >> 1), 0
        for block in range(count // BLOCK):
            reaching += _ones(_reach(address + block * (4 * BLOCK), middle))
        if reaching >= k:
            low = middle
        else:
            high = middle
    return float_of(low)


@inline
def lowest(mask):
    """The place of the lowest bit of a mask that is not 0."""
    return np.uint64(lowest_bit(np.int64(mask)))


@inline
def least_of(score, constant):
    """The bits of the smallest sum that can be worth `score` once the constant is added, at least those of the
    smallest positive number. Numbers >= 0 sort like their bits."""
    goal = np.float64(score) * (1 - 2.5e-7) - np.float64(constant)  # the addition rounds
    return max(np.int32(1), bits_of(np.float32(max(0.0, goal))))


@inline
def not_before(rows, first, last, row):
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
