"""Sixteen rows at once, one in each lane: their numbers, what is known of each as columns, sums over lanes, bits."""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from . import simd
from .matmul import PANEL
from .memory import ADDRESS
from .simd import LANES, Lanes, i64, ir

BLOCK = PANEL  # rows that are looked at together, sixteen after sixteen


def row_numbers(e, block):
    """Sixteen row numbers from memory."""
    pointers = (e.inttoptr(e.add(block, i64(8 * i)), ir.PointerType(i64)) for i in range(LANES))
    return [e.load(pointer) for pointer in pointers]


@intrinsic
def terms16(typing_context, terms, stride, block, out):
    """Four numbers of each of 16 rows -> columns of out float32 [4, BLOCK]: those at terms + stride * its number, for
    the row numbers at `block`."""

    def generate(context, builder, signature, args):
        e = builder
        terms, stride, block, out = args
        four = ir.VectorType(simd.f32, 4)
        at = [e.add(terms, e.mul(row, stride)) for row in row_numbers(e, block)]
        rows = [e.load(e.inttoptr(x, ir.PointerType(four)), align=4) for x in at]

        def join(*parts):
            while len(parts) > 1:
                count = 2 * parts[0].type.count
                order = ir.Constant(ir.VectorType(simd.i32, count), list(range(count)))
                parts = [e.shuffle_vector(a, b, order) for a, b in zip(parts[::2], parts[1::2], strict=True)]
            return parts[0]

        every_fourth = [join(*rows[i::4]) for i in range(4)]
        for column in range(4):
            pairs = [_lanes(e, *every_fourth[i : i + 2], [column, LANES + column] * 2) for i in (0, 2)]
            simd.store(e, Lanes(e, _lanes(e, *pairs, [0, 1, LANES, LANES + 1])), out, 4 * BLOCK * column)
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 4), generate


def _lanes(e, a, b, four):
    """Of each four lanes of a and b those that are named, from LANES on those of b."""
    order = [4 * (lane // 4) + four[lane % 4] for lane in range(LANES)]
    return e.shuffle_vector(a, b, ir.Constant(simd.ints, order))


def across(e, values):
    """Sixteen vectors -> the sums of their lanes, the i-th in lane i: four rounds, each halving their number."""
    half = LANES // 2
    while half:
        left, right = [], []
        for lane in range(LANES):
            inside = lane % (2 * half)
            start = lane if inside < half else LANES + lane - half
            left.append(start)
            right.append(start + half)
        orders = [ir.Constant(simd.ints, order) for order in (left, right)]
        pairs = [(values[i], values[i + half]) for i in range(half)]
        values = [e.add(*(e.shuffle_vector(a, b, order) for order in orders)) for a, b in pairs]
        half //= 2
    return values[0]


@intrinsic
def lowest_bit(typing_context, mask):
    """How many zeros are below the lowest one of a number that is not zero."""

    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate
