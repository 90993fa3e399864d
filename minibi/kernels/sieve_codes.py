"""The second form of a vector that `kernels.sieve` searches by: bytes, and how far the vector is from them.

A row is kept as rotated bytes c - 128 with a factor, split into two planes: the upper halves of the bytes alone are a
code of 4 bits, with the lower ones it has 8.

    high, low   uint8 [N, W/2], of each 128 coordinates the first 64 in the low halves of 64 bytes
    terms       float32 [N, 4]: factor, distance from 4 bits, distance from 8 bits, norm
    query       uint8 [W + 32]: signed bytes; eight floats: scale, sum of the bytes, norm + distance, distance, what
                half a squared norm counts in the upper and in the lower bound, what float32 may lose, unused

Distances are rounded up, and hold what is lost by computing in float32. `minibi.index.sieve` is the plain twin.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import kernel
from .codes import largest
from .memory import ADDRESS
from .simd import LANES, Loop, i64, ir

COARSE, FINE, NORM = 1, 2, 3  # columns of `terms`: distance from 4 bits, from 8 bits, norm
SCALE, TOTAL, REACH, ERROR, HALF_UP, HALF_LOW, SLACK = range(7)  # floats behind a query's bytes
TINY = np.float64(1e-20)  # more than a length loses where squares are too small for float32
LEAST = np.float64(1e-35)  # and a product


def same_ints(x):
    """A number in all lanes."""
    return ir.Constant(simd.ints, [x] * LANES)


@intrinsic
def _encode_row(typing_context, y, width, high, low, inverse, factor):
    """One row's planes; returns the squares of its norm and of its distances from 4 and from 8 bits."""

    def generate(context, builder, signature, args):
        e = builder
        y, width, high, low, inverse, factor = args
        inverse, factor = simd.splat(e, inverse), simd.splat(e, factor)
        nibble, four, middle = same_ints(15), same_ints(4), same_ints(8)
        octets = ir.VectorType(simd.i8, LANES)
        with Loop(e, width, [simd.constant(e, 0.0)] * 3, step=128) as loop:
            sums, out = loop.carried, e.lshr(loop.index, i64(1))
            for part in range(0, 64, LANES):
                both = []
                for half in (0, 64):
                    x = simd.load(e, e.add(y, e.mul(loop.index, i64(4))), 4 * (half + part))
                    shifted = x * inverse + simd.ROUND
                    c = e.sub(shifted.bits(), simd.constant(e, simd.ROUND).bits())
                    level = simd.to_floats(e, e.add(e.and_(c, e.not_(nibble)), middle))
                    misses = x, x - level * factor, x - (shifted - simd.ROUND) * factor
                    sums = [total + miss * miss for total, miss in zip(sums, misses, strict=True)]
                    both.append(c)
                for plane, shift, flip in ((high, four, 8), (low, same_ints(0), 0)):
                    first, second = (e.and_(e.xor(e.ashr(c, shift), same_ints(flip)), nibble) for c in both)
                    bytes_ = e.trunc(e.or_(first, e.shl(second, four)), octets)
                    at = e.add(e.add(plane, out), i64(part))
                    e.store(bytes_, e.inttoptr(at, ir.PointerType(octets)), align=1)
            loop.next(*sums)
        return context.make_tuple(e, signature.return_type, [simd.sum_lanes(e, s) for s in loop.results])

    return types.UniTuple(types.float32, 3)(*[ADDRESS] * 4, types.float32, types.float32), generate


@kernel
def encode(y, rounding, high, low, terms):
    """Rotated rows y [n, W] -> their planes and terms. rounding: share of a norm that covers what float32 loses."""
    n, width = y.shape
    for i in range(n):
        row = y[i].ctypes.data
        top = largest(row, width)
        inverse, factor = np.float32(127) / max(top, np.float32(1e-30)), top / np.float32(127)
        squares = _encode_row(row, width, high[i].ctypes.data, low[i].ctypes.data, inverse, factor)
        norm = np.sqrt(np.float64(squares[0]))
        more = rounding * norm + TINY
        terms[i, 0] = factor
        terms[i, COARSE] = np.float32(np.sqrt(np.float64(squares[1])) * (1 + rounding) + more)
        terms[i, FINE] = np.float32(np.sqrt(np.float64(squares[2])) * (1 + rounding) + more)
        terms[i, NORM] = np.float32(norm)


@kernel
def encode_queries(y, rounding, half, out):
    """Rotated queries y [n, W] -> out uint8 [n, W + 32]. half: 0.5 for squared L2, where norms count; else 0."""
    n, width = y.shape
    for i in range(n):
        row, codes, terms = y[i], out[i, :width].view(np.int8), out[i, width : width + 32].view(np.float32)
        top = largest(row.ctypes.data, width)
        inverse, scale = np.float32(127) / max(top, np.float32(1e-30)), top / np.float32(127)
        norm, error, total = 0.0, 0.0, 0
        for j in range(width):
            c = np.rint(row[j] * inverse)
            codes[j] = np.int8(c)
            total += np.int64(c)
            wide = np.float64(row[j])
            a = wide - np.float64(scale) * np.float64(c)
            norm += wide * wide
            error += a * a
        norm = np.sqrt(norm)
        error = np.sqrt(error) * (1 + rounding) + rounding * norm + TINY
        terms[SCALE], terms[TOTAL] = scale, np.float32(total)
        terms[REACH], terms[ERROR] = np.float32((norm + error) * (1 + rounding)), np.float32(error)
        terms[HALF_UP], terms[HALF_LOW] = np.float32(half * (1 - 4 * rounding)), np.float32(half * (1 + 4 * rounding))
        terms[SLACK] = np.float32(2 * half * rounding * norm * norm + LEAST)
        terms[7] = 0
