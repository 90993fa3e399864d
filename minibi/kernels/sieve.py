"""A sieve for exact search: bytes of a row and of a query bound their product, so most rows need not be read.

A row is kept a second time as rotated bytes c - 128 with a factor, split into two planes: the upper halves of the bytes
alone are a code of 4 bits, with the lower ones it has 8. Of both the sieve knows how far the row is from them.

    high, low   uint8 [N, W/2], of each 128 coordinates the first 64 in the low halves of 64 bytes
    terms       float32 [N, 4]: factor, distance from 4 bits, distance from 8 bits, norm
    query       uint8 [W + 32]: signed bytes; scale, their sum, norm + distance, distance, and QUERY_TERMS below

By Cauchy and Schwarz |<q, x> - <q', x'>| <= (|q| + |q - q'|) |x - x'| + |q - q'| |x|. A row whose upper bound is below
the k-th best lower bound so far is not among the k nearest; what is left in the end is compared exactly. "Value" is
what is bounded: the inner product, less half the row's squared norm for squared L2. `minibi.index.sieve` is the twin.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from . import simd
from .cache import inline, kernel
from .codes import products4
from .distance import _keep, distances_of
from .heap import offer
from .int8 import load_float, tile8
from .keys import fetch
from .matmul import ADDRESS, PANEL, ROWS
from .simd import LANES, Lanes, Loop, i64, ir

BLOCK = PANEL  # rows that are summed and sifted together
COARSE, FINE, NORM = 1, 2, 3  # columns of `terms`: distance from 4 bits, from 8 bits, norm
SCALE, TOTAL, REACH, ERROR, HALF_UP, HALF_LOW, SLACK = range(7)  # floats behind a query's bytes
TINY = np.float64(1e-20)  # more than a length loses where squares are too small for float32
LEAST = np.float64(1e-35)  # and a product
HELD, KEPT, USELESS = range(3)  # of `sizes`: lower bounds held, rows kept, whether the bounds are too wide
ROOM = 2048  # rows kept for a query, and four for each neighbour it asks for
WAITING, AHEAD = 16, 8  # rows asked for together before they are read


@intrinsic
def _encode_row(typing_context, y, width, high, low, inverse, factor):
    """One row's planes; returns the squares of its norm and of its distances from 4 and from 8 bits."""

    def generate(context, builder, signature, args):
        e = builder
        y, width, high, low, inverse, factor = args
        inverse, factor = simd.splat(e, inverse), simd.splat(e, factor)
        nibble, four, middle = _ints(15), _ints(4), _ints(8)
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
                for plane, shift, flip in ((high, four, 8), (low, _ints(0), 0)):
                    first, second = (e.and_(e.xor(e.ashr(c, shift), _ints(flip)), nibble) for c in both)
                    bytes_ = e.trunc(e.or_(first, e.shl(second, four)), octets)
                    at = e.add(e.add(plane, out), i64(part))
                    e.store(bytes_, e.inttoptr(at, ir.PointerType(octets)), align=1)
            loop.next(*sums)
        return context.make_tuple(e, signature.return_type, [simd.sum_lanes(e, s) for s in loop.results])

    return types.UniTuple(types.float32, 3)(*[ADDRESS] * 4, types.float32, types.float32), generate


@intrinsic
def _largest(typing_context, y, width):
    def generate(context, builder, signature, args):
        e = builder
        y, width = args
        with Loop(e, width, [simd.constant(e, 0.0)], step=LANES) as loop:
            x = simd.load(e, e.add(y, e.mul(loop.index, i64(4))))
            loop.next(loop.carried[0].max(x.max(x * -1.0)))
        return simd.max_lanes(e, loop.results[0])

    return types.float32(ADDRESS, ADDRESS), generate


@kernel
def encode(y, rounding, high, low, terms):
    """Rotated rows y [n, W] -> their planes and terms. rounding: share of a norm that covers what float32 loses."""
    n, width = y.shape
    for i in range(n):
        row = y[i].ctypes.data
        top = _largest(row, width)
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
        top = np.float32(0)
        for j in range(width):
            top = max(top, abs(row[j]))
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


@intrinsic
def _sums16(typing_context, plane, stride, block, query, size, out):
    """out int32 [16]: halves of bytes times the query's bytes, for the 16 rows whose numbers are at `block`."""

    def generate(context, builder, signature, args):
        e = builder
        plane, stride, block, query, size, out = args
        rows = [e.add(plane, e.mul(stride, _whole(e, block, 8 * i))) for i in range(LANES)]
        mask, four = _ints(0x0F0F0F0F), _ints(4)
        with Loop(e, size, [Lanes(e, simd.zero_ints())] * LANES, step=64) as loop:
            at = e.add(query, e.mul(loop.index, i64(2)))
            first, second = simd.load_ints(e, at), simd.load_ints(e, at, 64)
            sums = []
            for row, total in zip(rows, loop.carried, strict=True):
                both = simd.load_ints(e, e.add(row, loop.index))
                value = simd.dot_bytes(e, total.value, e.and_(both, mask), first)
                sums.append(Lanes(e, simd.dot_bytes(e, value, e.and_(e.lshr(both, four), mask), second)))
            loop.next(*sums)
        simd.store_ints(e, _across(e, [total.value for total in loop.results]), out)
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 6), generate


def _whole(e, address, offset):
    return e.load(e.inttoptr(e.add(address, i64(offset)), ir.PointerType(i64)))


def _ints(x):
    return ir.Constant(simd.ints, [x] * LANES)


def _across(e, values):
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
def _transpose16(typing_context, high, low, stride, block, size, panel):
    """Bytes of the 16 rows whose numbers are at `block` -> a panel's columns: groups of four bytes, row beside row."""

    def generate(context, builder, signature, args):
        e = builder
        high, low, stride, block, size, panel = args
        offsets = [e.mul(stride, _whole(e, block, 8 * i)) for i in range(LANES)]
        mask, four = _ints(0x0F0F0F0F), _ints(4)
        with Loop(e, size, step=64) as loop:
            for half in range(2):
                rows = []
                for offset in offsets:
                    at = e.add(offset, loop.index)
                    upper, lower = simd.load_ints(e, e.add(high, at)), simd.load_ints(e, e.add(low, at))
                    if half:
                        value = e.or_(e.and_(upper, e.not_(mask)), e.and_(e.lshr(lower, four), mask))
                    else:
                        value = e.or_(e.shl(e.and_(upper, mask), four), e.and_(lower, mask))
                    rows.append(Lanes(e, value))
                out = e.add(panel, e.mul(loop.index, i64(2 * PANEL)))
                for i, column in enumerate(simd.transpose(e, rows)):
                    simd.store_ints(e, column.value, out, 4 * PANEL * (LANES * half + i))
            loop.next()
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 6), generate


@intrinsic
def _pass16(typing_context, sums, shift, offset, terms, error, query, limit):
    """A bit for each of sixteen rows that may reach the limit. sums int32 [16]; terms float32 [4, BLOCK] (addresses);
    error: byte offset of the row of `terms` that counts; a bound that is not a number passes."""

    def generate(context, builder, signature, args):
        e = builder
        sums, shift, offset, terms, error, query, limit = args
        value = e.shl(simd.load_ints(e, sums), simd._spread(e, e.trunc(shift, simd.i32), simd.ints))
        value = e.sub(value, simd._spread(e, e.trunc(offset, simd.i32), simd.ints))
        scale, reach, spread, half, slack = (
            simd.broadcast(e, query, 4 * at) for at in (SCALE, REACH, ERROR, HALF_UP, SLACK)
        )
        factor, norm = simd.load(e, terms), simd.load(e, terms, 4 * NORM * BLOCK)
        bound = norm.fma(spread, slack)
        bound = simd.load(e, e.add(terms, error)).fma(reach, bound)
        bound = (norm * norm * -1.0).fma(half, bound)
        bound = simd.to_floats(e, value).fma(factor * scale, bound)
        passes = e.fcmp_unordered(">=", bound.value, simd.splat(e, limit).value)
        return e.zext(e.bitcast(passes, ir.IntType(LANES)), i64)

    return types.int64(*[ADDRESS] * 6, types.float32), generate


@intrinsic
def _lowest_bit(typing_context, mask):
    def generate(context, builder, signature, args):
        return builder.cttz(args[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.int64), generate


class Planes(NamedTuple):
    """The planes and terms of all rows; where `chosen`, only the rows which [n] count."""

    high: NDArray[np.uint8]
    low: NDArray[np.uint8]
    terms: NDArray[np.float32]
    which: NDArray[np.int64]
    chosen: bool


class Left(NamedTuple):
    """What is left for each query: the k best lower bounds [Q, k], a heap, with their rows; upper bounds [Q, room] of
    the rows that may be among the k nearest; sizes [Q, 3], see above; limits [Q]: a lower value is not among them."""

    lows: NDArray[np.float32]
    low_rows: NDArray[np.int64]
    uppers: NDArray[np.float32]
    rows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    limits: NDArray[np.float32]


def left_for(queries: int, k: int) -> Left:
    """Room for the rows that are left."""
    heap, kept = (queries, k), (queries, ROOM + 4 * k)
    tables = [np.empty(shape, dtype) for shape in (heap, kept) for dtype in (np.float32, np.int64)]
    return Left(*tables, np.zeros((queries, 3), np.int64), np.full(queries, -np.inf, np.float32))


_by_six, _by_four = tile8(ROWS, signed_rows=True), tile8(4, signed_rows=True)


@inline
def _passing(sums, shift, offset, columns, column, query, limit):
    """A bit for each row of the block that may reach the limit. sums: the address of int32 [BLOCK]."""
    mask, terms = np.int64(0), columns.ctypes.data
    for part in range(0, BLOCK, LANES):
        at = terms + 4 * part
        mask |= _pass16(sums + 4 * part, shift, offset, at, 4 * BLOCK * column, query, limit) << part
    return mask


@inline
def _take(rows, first, count, block, columns):
    """The numbers and terms of a block's rows, the last one repeated to fill it; returns a bit for each that counts."""
    for i in range(BLOCK):
        at = min(first + i, count - 1)
        row = rows.which[at] if rows.chosen else at
        block[i] = row
        for j in range(4):
            columns[j, i] = rows.terms[row, j]
    return np.int64(-1) if count - first >= BLOCK else (np.int64(1) << (count - first)) - 1


@inline
def _bounds(centred, terms, query):
    """(upper, lower) bound of a row's value from the whole number that its 8 bits give."""
    middle = np.float32(centred) * (terms[0] * load_float(query + 4 * SCALE))
    reach = terms[FINE] * load_float(query + 4 * REACH)
    reach += terms[NORM] * load_float(query + 4 * ERROR) + load_float(query + 4 * SLACK)
    square = terms[NORM] * terms[NORM]
    return (
        middle + reach - square * load_float(query + 4 * HALF_UP),
        middle - reach - square * load_float(query + 4 * HALF_LOW),
    )


@kernel
def _note(q, row, centred, terms, query, left):
    """Keeps a row that may be among the k nearest. Room is made by dropping those that no longer are."""
    upper, lower = _bounds(centred, terms[row], query)
    sizes, k = left.sizes[q], left.lows.shape[1]
    if upper < left.limits[q] or sizes[USELESS]:
        return
    if not lower > -np.inf:
        lower = np.float32(-np.inf)
    sizes[HELD] = offer(left.lows[q], left.low_rows[q], sizes[HELD], k, lower, row)
    if sizes[HELD] == k:
        left.limits[q] = left.lows[q, 0]
    if sizes[KEPT] == left.rows.shape[1]:
        _drop(q, left)
        if 2 * sizes[KEPT] > left.rows.shape[1]:  # bounds as wide as this are of no use
            sizes[USELESS] = 1
            return
    left.uppers[q, sizes[KEPT]], left.rows[q, sizes[KEPT]] = upper, row
    sizes[KEPT] += 1


@inline
def _drop(q, left):
    uppers, rows, kept = left.uppers[q], left.rows[q], 0
    for i in range(left.sizes[q, KEPT]):
        if not uppers[i] < left.limits[q]:
            uppers[kept], rows[kept] = uppers[i], rows[i]
            kept += 1
    left.sizes[q, KEPT] = kept


@kernel
def sift_few(rows, queries, left):
    """What is `left` of all rows for a few queries: 4 bits of every row are read, 8 of the better ones."""
    count, size = rows.which.size if rows.chosen else rows.high.shape[0], rows.high.shape[1]
    block, columns, sums = np.empty(BLOCK, np.int64), np.empty((4, BLOCK), np.float32), np.empty(BLOCK, np.int32)
    waiting, held = np.empty((queries.shape[0], 2, WAITING), np.int64), np.zeros(queries.shape[0], np.int64)
    for first in range(0, count, BLOCK):
        valid = _take(rows, first, count, block, columns)
        for q in range(queries.shape[0]):
            if left.sizes[q, USELESS]:
                continue
            query = queries[q].ctypes.data
            terms = query + 2 * size
            for part in range(0, BLOCK, LANES):
                out = sums[part:].ctypes.data
                _sums16(rows.high.ctypes.data, size, block[part:].ctypes.data, query, size, out)
            offset = np.int64(load_float(terms + 4 * TOTAL)) * 120
            mask = valid & _passing(sums.ctypes.data, 4, offset, columns, COARSE, terms, left.limits[q])
            while mask:
                i = _lowest_bit(mask)
                mask &= mask - 1
                fetch(rows.low.ctypes.data + size * block[i], size)
                waiting[q, 0, held[q]], waiting[q, 1, held[q]] = block[i], np.int64(sums[i]) << 4
                held[q] += 1
                if held[q] == WAITING:
                    _refine(q, waiting[q], WAITING, rows, queries, left)
                    held[q] = 0
    for q in range(queries.shape[0]):
        _refine(q, waiting[q], held[q], rows, queries, left)


@kernel
def _refine(q, waiting, held, rows, queries, left):
    """Adds the lower halves of the bytes to the sums of the rows that wait, and notes them."""
    size, base, query = rows.low.shape[1], rows.low.ctypes.data, queries[q].ctypes.data
    terms = query + 2 * size
    offset = np.int64(load_float(terms + 4 * TOTAL)) * 128
    for first in range(0, held, 4):
        last = held - 1
        a, b = waiting[0, first], waiting[0, min(first + 1, last)]
        c, d = waiting[0, min(first + 2, last)], waiting[0, min(first + 3, last)]
        sums = products4(base + size * a, base + size * b, base + size * c, base + size * d, query, size)
        for j in range(min(4, held - first)):
            centred = waiting[1, first + j] + np.int64(sums[j]) - offset
            _note(q, waiting[0, first + j], centred, rows.terms, terms, left)


@kernel
def sift_many(rows, queries, left):
    """`sift_few` for many queries: blocks of rows become panels of bytes, and the sums a product of matrices."""
    count, size = rows.which.size if rows.chosen else rows.high.shape[0], rows.high.shape[1]
    n, stride = queries.shape
    block, columns, sums = (
        np.empty(BLOCK, np.int64),
        np.empty((4, BLOCK), np.float32),
        np.empty((ROWS, BLOCK), np.int32),
    )
    room = np.empty(2 * size * BLOCK + 64, np.uint8)
    panel = room.ctypes.data + (-room.ctypes.data & 63)
    for first in range(0, count, BLOCK):
        valid = _take(rows, first, count, block, columns)
        for part in range(0, BLOCK, LANES):
            at = block[part:].ctypes.data
            _transpose16(rows.high.ctypes.data, rows.low.ctypes.data, size, at, size, panel + 4 * part)
        for start in range(0, n, ROWS):
            some, a, c = min(ROWS, n - start), queries[start].ctypes.data, sums.ctypes.data
            if some > 4:
                _by_six(a, stride, panel, size >> 1, c, 4 * PANEL, some, c, 0)
            else:
                _by_four(a, stride, panel, size >> 1, c, 4 * PANEL, some, c, 0)
            for j in range(some):
                q = start + j
                terms = queries[q].ctypes.data + 2 * size
                offset = np.int64(load_float(terms + 4 * TOTAL)) * 128
                mask = valid & _passing(c + 4 * PANEL * j, 0, offset, columns, FINE, terms, left.limits[q])
                while mask:
                    i = _lowest_bit(mask)
                    mask &= mask - 1
                    _note(q, block[i], np.int64(sums[j, i]) - offset, rows.terms, terms, left)
    room[0] = 0  # used to the end, or Numba would free it while its address is in use


@kernel
def finish(stored, ids, queries, kind, metric, width, left, out_distances, out_rows):
    """The k nearest [Q, k] of what is left, compared as `distance.scan` compares; not where the bounds were useless."""
    base, stride, k = stored.ctypes.data, stored.shape[1], out_rows.shape[1]
    for q in range(queries.shape[0]):
        if left.sizes[q, USELESS]:
            continue
        _drop(q, left)
        rows, held = left.rows[q, : left.sizes[q, KEPT]], 0
        for first in range(-AHEAD, rows.size, 4):
            for i in range(first + AHEAD, min(first + AHEAD + 4, rows.size)):
                fetch(base + stride * rows[i], stride)
            if first >= 0:
                some = min(4, rows.size - first)
                distances = distances_of(stored, kind, metric, width, rows, first, some, queries[q].ctypes.data)
                for j in range(some):
                    if held < k or distances[j] <= out_distances[q, k - 1]:
                        held = _keep(out_distances[q], out_rows[q], held, k, distances[j], rows[first + j], ids)
