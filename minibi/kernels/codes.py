"""Vectors as bytes: a rotation that spreads every vector over all coordinates, then 8 or 4 bits for each.

The rotation is three rounds of random signs and Hadamard transforms of 128 coordinates, over neighbours, over
registers far apart, over neighbours again (in the manner of Ailon & Chazelle 2009): orthogonal, seeded, and free of the
data. What comes out is nearly Gaussian whatever went in, so a fixed grid, scaled for each vector by itself, suits all.

    row      W codes (8 bits) or W/2 bytes (4 bits: of each 128 the first 64 in the low halves), factor, norm
    query    W signed bytes, scale, their sum, norm, 4 bytes unused

A row stands for factor * (code - 128), or factor * (2 code - 15). The factor makes the estimate of the vector's product
with itself exact (Gao & Long 2024, eq. 7). `minibi.index.codes` is the plain twin.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import inline, kernel
from .memory import ADDRESS, set_float, set_int32
from .simd import LANES, Lanes, Loop, i64

INT8, INT4 = 2, 3  # FLOAT32 and FLOAT16 are 0 and 1: `kernels.distance`
CAREFUL = 1e34  # sum of squares of a query beyond which a caller has to look closer
BLOCK = 128  # coordinates of one Hadamard transform
STEP = np.float32(0.335)  # of the 16 levels, in units of the vector's root mean square: least error for a Gaussian
_doubles = simd.ir.VectorType(simd.ir.DoubleType(), LANES)


@intrinsic
def _hadamard(typing_context, x, y, signs, apart):
    """Eight vectors of sixteen floats, `apart` bytes from one another: times signs, then transformed, from x to y."""

    def generate(context, builder, signature, args):
        e = builder
        x, y, signs, apart = args
        at = [e.mul(apart, i64(i)) for i in range(BLOCK // LANES)]
        v = [simd.load(e, e.add(x, a)) * simd.load(e, e.add(signs, a)) for a in at]
        for h in (1, 2, 4, 8):  # within a register: each lane with the one h away
            order = simd.ir.Constant(simd.ints, [i ^ h for i in range(LANES)])
            sign = Lanes(e, simd.ir.Constant(simd.floats, [-1.0 if i & h else 1.0 for i in range(LANES)]))
            v = [z.fma(sign, Lanes(e, e.shuffle_vector(z.value, z.value, order))) for z in v]
        for h in (1, 2, 4):  # across registers
            for i in range(len(v)):
                if not i & h:
                    v[i], v[i + h] = v[i] + v[i + h], v[i] - v[i + h]
        for z, a in zip(v, at, strict=True):
            simd.store(e, z, e.add(y, a))
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 4), generate


@inline
def rotate_row(x, y, width, signs):
    """From x to y, both [width] float32, maybe the same; signs [3, width]; all addresses."""
    size, far = 4 * BLOCK, 4 * width // (BLOCK // LANES)
    for first in range(0, 4 * width, size):
        _hadamard(x + first, y + first, signs + first, 4 * LANES)
    signs += 4 * width
    for first in range(0, far, 4 * LANES):
        _hadamard(y + first, y + first, signs + first, far)
    signs += 4 * width
    for first in range(0, 4 * width, size):
        _hadamard(y + first, y + first, signs + first, 4 * LANES)


@kernel
def rotate(x, signs):
    """x [n, W] in place, W a multiple of 128; signs [3, W], each 128^-1/2 or its negative."""
    for i in range(x.shape[0]):
        rotate_row(x[i].ctypes.data, x[i].ctypes.data, x.shape[1], signs.ctypes.data)


@intrinsic
def _squares(typing_context, x, n):
    """The sum of the squares of n float32 numbers at an address, whole sixteens: in float64, where each is exact, over
    sixteen lanes and then their tree."""

    def generate(context, builder, signature, args):
        e = builder
        x, n = args
        with Loop(e, n, [Lanes(e, simd.ir.Constant(_doubles, [0.0] * LANES))], step=LANES) as loop:
            y = _widened(e, x, loop.index)
            loop.next(Lanes(e, e.fadd(loop.carried[0].value, e.fmul(y, y))))
        value, half = loop.results[0].value, LANES // 2
        while half:
            order = simd.ir.Constant(simd.ints, [(i + half) % LANES for i in range(LANES)])
            value = e.fadd(value, e.shuffle_vector(value, value, order))
            half //= 2
        return e.extract_element(value, simd.i32(0))

    return types.float64(ADDRESS, ADDRESS), generate


def _widened(e, x, index):
    """Sixteen floats from an index on, as float64."""
    return e.fpext(simd.load(e, e.add(x, e.mul(index, i64(4)))).value, _doubles)


@intrinsic
def _divide(typing_context, x, n, divisor):
    """n float32 numbers at an address, whole sixteens: divided in float64, then rounded."""

    def generate(context, builder, signature, args):
        e = builder
        x, n, divisor = args
        first = e.insert_element(simd.ir.Constant(_doubles, simd.ir.Undefined), divisor, simd.i32(0))
        spread = e.shuffle_vector(first, first, simd.zero_ints())
        with Loop(e, n, [], step=LANES) as loop:
            y = e.fptrunc(e.fdiv(_widened(e, x, loop.index), spread), simd.floats)
            simd.store(e, Lanes(e, y), e.add(x, e.mul(loop.index, i64(4))))
            loop.next()
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS, types.float64), generate


@intrinsic
def largest(typing_context, x, n):
    """The largest absolute value of n float32 numbers at an address, whole sixteens."""

    def generate(context, builder, signature, args):
        e = builder
        x, n = args
        with Loop(e, n, [simd.constant(e, 0.0)], step=LANES) as loop:
            y = simd.load(e, e.add(x, e.mul(loop.index, i64(4))))
            without_sign = e.and_(y.bits(), simd.ir.Constant(simd.ints, [0x7FFFFFFF] * LANES))
            loop.next(Lanes(e, e.bitcast(without_sign, simd.floats)).max(loop.carried[0]))
        return simd.max_lanes(e, loop.results[0])

    return types.float32(ADDRESS, ADDRESS), generate


@kernel
def encode(x, kind, out):
    """Rotated vectors x [n, W] -> rows out uint8 [n, W + 8] or [n, W/2 + 8]."""
    n, width = x.shape
    for i in range(n):
        y, row = x[i], out[i]
        size = width if kind == INT8 else width // 2
        tail = row[size : size + 8].view(np.float32)
        norm = _squares(y.ctypes.data, width)
        agreement = 0.0
        if kind == INT8:
            top = largest(y.ctypes.data, width)
            inverse = np.float32(127) / max(top, np.float32(1e-30))
            for j in range(width):
                c = np.rint(y[j] * inverse)
                row[j] = np.uint8(np.int32(c) + 128)
                agreement += np.float64(c) * np.float64(y[j])
        else:
            step = STEP * np.float32(np.sqrt(norm / width))
            inverse = np.float32(1) / max(step, np.float32(1e-30))
            for j in range(size):
                row[j] = 0
            for j in range(width):
                level = np.floor(y[j] * inverse) + np.float32(8)
                c = np.int32(min(max(level, np.float32(0)), np.float32(15)))
                at = (j >> 7 << 6) + (j & 63)
                row[at] |= np.uint8(c << (4 if j & 64 else 0))
                agreement += np.float64(2 * c - 15) * np.float64(y[j])
        tail[0] = np.float32(norm / agreement) if agreement > 0 else np.float32(0)
        tail[1] = np.float32(norm)


@intrinsic
def _round(typing_context, x, n, inverse, out):
    """n float32 numbers times `inverse`, to the nearest whole numbers, as signed bytes; returns their sum."""

    def generate(context, builder, signature, args):
        e = builder
        x, n, inverse, out = args
        inverse, offset = simd.splat(e, inverse), simd.constant(e, simd.ROUND).bits()
        bytes_ = simd.ir.VectorType(simd.i8, LANES)
        with Loop(e, n, [Lanes(e, simd.zero_ints())], step=LANES) as loop:
            y = simd.load(e, e.add(x, e.mul(loop.index, i64(4)))) * inverse
            whole = e.sub((y + simd.ROUND).bits(), offset)
            e.store(e.trunc(whole, bytes_), e.inttoptr(e.add(out, loop.index), simd.ir.PointerType(bytes_)), align=1)
            loop.next(Lanes(e, e.add(loop.carried[0].value, whole)))
        return simd.sum_ints(e, loop.results[0].value)

    return types.int32(ADDRESS, ADDRESS, types.float32, ADDRESS), generate


@inline
def _encode_query(y, width, out):
    """A rotated vector y [width] as a query at `out`; both are addresses."""
    top = largest(y, width)
    total = _round(y, width, np.float32(127) / max(top, np.float32(1e-30)), out)
    set_float(out + width, top / np.float32(127))
    set_int32(out + width + 4, total)
    set_float(out + width + 8, np.float32(_squares(y, width)))
    set_float(out + width + 12, np.float32(0))


@kernel
def encode_queries(x, out):
    """Rotated vectors x [n, W] -> queries out uint8 [n, W + 16]."""
    for i in range(x.shape[0]):
        _encode_query(x[i].ctypes.data, x.shape[1], out[i].ctypes.data)


@inline
def ready_query(x, unit, signs, floats, turned, coded, width):
    """A vector x [dim] as a query in both forms: floats [width], padded with zeros, of length one if `unit`; and
    rotated and coded, uint8 [width + 16], unless `coded` is 0. All but x are addresses; turned [width]: room. Returns
    the sum of squares, which is finite if x is; if not, the query is of zeros."""
    for j in range(x.size):
        set_float(floats + 4 * j, x[j])
    total = _squares(floats, width)
    if not np.isfinite(total):
        for j in range(x.size):
            set_float(floats + 4 * j, np.float32(0))
    elif unit and total > 0:
        _divide(floats, width, np.sqrt(total))
    if coded:
        rotate_row(floats, turned, width, signs)
        _encode_query(turned, width, coded)
    return total


def _whole(e, row, index):
    """The 64 codes of 64 bytes, as one vector."""
    return [simd.load_ints(e, e.add(row, index))]


def _halves(e, row, index):
    """The 128 codes of 64 bytes, as two vectors."""
    both = simd.load_ints(e, e.add(row, index))
    four, mask = (simd.ir.Constant(simd.ints, [x] * LANES) for x in (4, 0x0F0F0F0F))
    return [e.and_(both, mask), e.and_(e.lshr(both, four), mask)]


def _products(codes_of):
    """An intrinsic `(a, b, c, d, query, n)`: sums of codes times the query's bytes for four rows of n bytes, exact
    int32."""

    @intrinsic
    def products(typing_context, a, b, c, d, query, n):
        def generate(context, builder, signature, args):
            e = builder
            *rows, query, n = args
            with Loop(e, n, [Lanes(e, simd.zero_ints())] * 4, step=64) as loop:
                sums = []
                for row, total in zip(rows, loop.carried, strict=True):
                    value, codes = total.value, codes_of(e, row, loop.index)
                    at = e.add(query, e.mul(loop.index, i64(len(codes))))
                    for i, part in enumerate(codes):
                        value = simd.dot_bytes(e, value, part, simd.load_ints(e, at, 64 * i))
                    sums.append(Lanes(e, value))
                loop.next(*sums)
            return context.make_tuple(e, signature.return_type, simd.sum_four_ints(e, [s.value for s in loop.results]))

        return types.UniTuple(types.int32, 4)(*[ADDRESS] * 6), generate

    return products


def _as_query(codes_of, times, offset):
    """An intrinsic `(row, out, n, factor, norm)`: a row, n bytes of codes, in the form of a query, exactly what it
    stands for: a code as times * code - offset."""

    @intrinsic
    def as_query(typing_context, row, out, n, factor, norm):
        def generate(context, builder, signature, args):
            e = builder
            row, out, n, factor, norm = args
            ones, shift = (simd.ir.Constant(simd.octets, [x] * 64) for x in (1, offset))
            with Loop(e, n, [Lanes(e, simd.zero_ints())], step=64) as loop:
                total, codes = loop.carried[0].value, codes_of(e, row, loop.index)
                at = e.add(out, e.mul(loop.index, i64(len(codes))))
                for i, part in enumerate(codes):
                    part = e.bitcast(part, simd.octets)
                    signed = e.bitcast(e.sub(e.add(part, part) if times == 2 else part, shift), simd.ints)
                    simd.store_ints(e, signed, at, 64 * i)
                    total = simd.dot_bytes(e, total, e.bitcast(ones, simd.ints), signed)
                loop.next(Lanes(e, total))
            total, end = simd.sum_ints(e, loop.results[0].value), e.add(out, e.mul(n, i64(times)))
            for place, value in enumerate((factor, e.bitcast(total, simd.f32), norm)):
                simd.store_scalar(e, value, e.add(end, i64(4 * place)))
            return context.get_dummy_value()

        return types.void(*[ADDRESS] * 3, types.float32, types.float32), generate

    return as_query


products8, products4 = _products(_whole), _products(_halves)
row_as_query8, row_as_query4 = _as_query(_whole, 1, 128), _as_query(_halves, 2, 15)
