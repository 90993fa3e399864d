"""Dropout on sixteen lanes: the mask of `minibi.nn.dropout`, computed where it is used and never stored.

An element's hash is that of its row's number, then of its column, so any thread can begin anywhere. A place of dropout
comes as `(key, threshold, keep, first)`: rows are numbered from `first` on, elements whose hash is below the threshold
become 0, others are multiplied by `keep`.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import inline, kernel
from .memory import ADDRESS
from .simd import LANES, Loop, i32, i64

Place = tuple[int, int, np.float32, int]
NOTHING: Place = (0, 0, np.float32(1), 0)  # where nothing is dropped


def mix(e, x):
    """`minibi.nn.dropout.mix` of 32-bit values, one or sixteen."""

    def same(c):
        return ir.Constant(x.type, [c] * LANES if isinstance(x.type, ir.VectorType) else c)

    x = e.mul(e.xor(x, e.lshr(x, same(16))), same(0x7FEB352D))
    x = e.mul(e.xor(x, e.lshr(x, same(15))), same(0x846CA68B))
    return e.xor(x, e.lshr(x, same(16)))


def _row(add):
    """An intrinsic `(x, n, number, key, threshold, keep, other, out)`: out[:n] = x, dropped as row `number`.

    add: + other. All but numbers are addresses; n is a multiple of 16, or x and out may be used up to one.
    """

    @intrinsic
    def drop(typing_context, x, n, number, key, threshold, keep, other, out):
        def generate(context, builder, signature, args):
            e = builder
            x, n, number, key, threshold, keep, other, out = args
            row = simd.spread_int(e, mix(e, e.add(e.trunc(number, i32), e.trunc(key, i32))))
            columns = e.add(row, ir.Constant(simd.ints, list(range(LANES))))
            threshold, keep = simd.spread_int(e, e.trunc(threshold, i32)), simd.splat(e, keep)
            zero = simd.constant(e, 0.0).value
            with Loop(e, n, step=LANES) as loop:
                at = e.mul(loop.index, i64(4))
                hashes = mix(e, e.add(columns, simd.spread_int(e, e.trunc(loop.index, i32))))
                kept = e.icmp_unsigned(">=", hashes, threshold)
                y = simd.Lanes(e, e.select(kept, (simd.load(e, e.add(x, at)) * keep).value, zero))
                simd.store(e, y + simd.load(e, e.add(other, at)) if add else y, e.add(out, at))
                loop.next()
            return context.get_dummy_value()

        return types.void(*[ADDRESS] * 5, types.float32, *[ADDRESS] * 2), generate

    return drop


_drop_row, _drop_row_add = _row(False), _row(True)


@inline
def drop_rows_at(x, stride, n, rows, number, step, place):
    """`rows` rows of n floats at x, `stride` bytes apart, dropped in place as rows number, number + step, …"""
    key, threshold, keep, _ = place
    for r in range(rows):
        _drop_row(x + stride * r, n, number + step * r, key, threshold, keep, x, x + stride * r)


@kernel
def drop_rows(x, row, place, out):
    """out [T, C] = x [T, C], dropped as row `row` of its array and those after it; C % 16 == 0. out may be x."""
    key, threshold, keep, first = place
    c = x.shape[1]
    for t in range(x.shape[0]):
        at = 4 * c * t
        _drop_row(x.ctypes.data + at, c, first + row + t, key, threshold, keep, x.ctypes.data, out.ctypes.data + at)


@kernel
def drop_rows_add(x, row, place, other):
    """x [T, C] <- x, dropped as in `drop_rows`, + other [T, C]."""
    key, threshold, keep, first = place
    c = x.shape[1]
    for t in range(x.shape[0]):
        here = x.ctypes.data + 4 * c * t
        _drop_row_add(here, c, first + row + t, key, threshold, keep, other.ctypes.data + 4 * c * t, here)
