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

import numpy as np
from numba import types
from numba.extending import intrinsic

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
COARSE, FINE = 1, 2  # columns of `terms` with the distances from 4 and from 8 bits
SCALE, TOTAL, REACH, ERROR, HALF_UP, HALF_LOW, SLACK = range(7)  # floats behind a query's bytes
ROUNDING = np.float64(2.0**-23)  # two units of rounding
TINY = np.float64(2.0**-116)  # more than anything loses that is too small for float32
ONE_UP = np.float64(1.000001)
LOWS, KEPT, USELESS = range(3)  # of `sizes`: lower bounds held, rows kept, whether the bounds are too wide
WAITING, AHEAD = 16, 8  # rows asked for together before they are read


@kernel
def encode(y, rounding, high, low, terms):
    """Rotated rows y [n, W] -> their planes and terms. rounding: share of a norm that covers what float32 loses."""
    n, width = y.shape
    for i in range(n):
        row, upper, lower = y[i], high[i], low[i]
        top = np.float32(0)
        for j in range(width):
            top = max(top, abs(row[j]))
        inverse, factor = np.float32(127) / max(top, np.float32(1e-30)), top / np.float32(127)
        norm, fine, coarse = 0.0, 0.0, 0.0
        for first in range(0, width, 128):
            for half in range(0, 128, 64):
                shift = half >> 4  # 0 or 4
                for j in range(64):
                    x = row[first + half + j]
                    c = np.int32(np.rint(x * inverse)) + np.int32(128)
                    at = (first >> 1) + j
                    if half == 0:
                        upper[at], lower[at] = c >> 4, c & 15
                    else:
                        upper[at] |= np.uint8((c >> 4) << shift)
                        lower[at] |= np.uint8((c & 15) << shift)
                    wide = np.float64(x)
                    a = wide - np.float64(factor) * np.float64(c - 128)
                    b = wide - np.float64(factor) * np.float64((c & ~15) - 120)
                    norm += wide * wide
                    fine += a * a
                    coarse += b * b
        norm = np.sqrt(norm)
        more = rounding * norm + TINY
        terms[i, 0] = factor
        terms[i, COARSE] = np.float32(np.sqrt(coarse) * ONE_UP + more)
        terms[i, FINE] = np.float32(np.sqrt(fine) * ONE_UP + more)
        terms[i, 3] = np.float32(norm)


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
        error = np.sqrt(error) * ONE_UP + rounding * norm + TINY
        terms[SCALE], terms[TOTAL] = scale, np.float32(total)
        terms[REACH], terms[ERROR] = np.float32((norm + error) * ONE_UP), np.float32(error)
        terms[HALF_UP], terms[HALF_LOW] = np.float32(half * (1 - 4 * rounding)), np.float32(half * (1 + 4 * rounding))
        terms[SLACK] = np.float32(2 * half * rounding * norm * norm + TINY)
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
        factor, norm = simd.load(e, terms), simd.load(e, terms, 4 * 3 * BLOCK)
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


_by_six, _by_four = tile8(ROWS, signed_rows=True), tile8(4, signed_rows=True)


@inline
def _passing(sums, shift, offset, terms, column, query, limit):
    """64 bits: which rows of the block may reach the limit. sums: the address of int32 [64]."""
    mask = np.int64(0)
    for part in range(0, BLOCK, LANES):
        error = 4 * (BLOCK * column)
        mask |= _pass16(sums + 4 * part, shift, offset, terms + 4 * part, error, query, limit) << part
    return mask


@inline
def _bound(centred, term, query, error):
    """(upper, lower) bound of a row's value from its whole number; term: address of its terms."""
    factor, norm = load_float(term), load_float(term + 12)
    middle = np.float32(centred) * (factor * load_float(query + 4 * SCALE))
    reach = load_float(term + 4 * error) * load_float(query + 4 * REACH)
    reach += norm * load_float(query + 4 * ERROR) + load_float(query + 4 * SLACK)
    square = norm * norm
    return (
        middle + reach - square * load_float(query + 4 * HALF_UP),
        middle - reach - square * load_float(query + 4 * HALF_LOW),
    )


@inline
def _take(block, which, chosen, first, count):
    """The numbers of a block's rows, the last one repeated to fill it."""
    for i in range(BLOCK):
        at = min(first + i, count - 1)
        block[i] = which[at] if chosen else at


@inline
def _terms_of(terms, block, out):
    for i in range(BLOCK):
        for j in range(4):
            out[j, i] = terms[block[i], j]


@kernel
def _note(row, centred, term, query, k, lows, low_rows, uppers, rows, sizes, limits, q):
    """Keeps a row that may be among the k nearest. Room is made by dropping those that no longer are."""
    upper, lower = _bound(centred, term, query, FINE)
    if upper < limits[q]:
        return
    if not lower > -np.inf:
        lower = np.float32(-np.inf)
    sizes[q, LOWS] = offer(lows[q], low_rows[q], sizes[q, LOWS], k, lower, row)
    if sizes[q, LOWS] == k:
        limits[q] = lows[q, 0]
    if sizes[q, KEPT] == rows.shape[1]:
        _drop(q, uppers, rows, sizes, limits)
        if 2 * sizes[q, KEPT] > rows.shape[1]:  # bounds as wide as this are of no use
            sizes[q, USELESS] = 1
    if not sizes[q, USELESS]:
        uppers[q, sizes[q, KEPT]], rows[q, sizes[q, KEPT]] = upper, row
        sizes[q, KEPT] += 1


@inline
def _drop(q, uppers, rows, sizes, limits):
    kept = 0
    for i in range(sizes[q, KEPT]):
        if not uppers[q, i] < limits[q]:
            uppers[q, kept], rows[q, kept] = uppers[q, i], rows[q, i]
            kept += 1
    sizes[q, KEPT] = kept


@kernel
def sift_few(high, low, terms, which, chosen, queries, k, lows, low_rows, uppers, rows, sizes, limits):
    """Rows that may be among the k nearest of each query, for a few queries: 4 bits of all rows, 8 of the better.

    Of all rows, or where `chosen` of which [n] alone. They end up in rows[q, : sizes[q, KEPT]].
    """
    count = which.size if chosen else high.shape[0]
    n, size = queries.shape[0], high.shape[1]
    block, columns, sums = np.empty(BLOCK, np.int64), np.empty((4, BLOCK), np.float32), np.empty(BLOCK, np.int32)
    waiting, wholes, held = np.empty((n, WAITING), np.int64), np.empty((n, WAITING), np.int64), np.zeros(n, np.int64)
    for first in range(0, count, BLOCK):
        _take(block, which, chosen, first, count)
        _terms_of(terms, block, columns)
        for q in range(n):
            if sizes[q, USELESS]:
                continue
            query = queries[q].ctypes.data
            at = query + 2 * size
            offset = np.int64(load_float(at + 4 * TOTAL)) * 120
            for part in range(0, BLOCK, LANES):
                _sums16(high.ctypes.data, size, block[part:].ctypes.data, query, size, sums[part:].ctypes.data)
            mask = _passing(sums.ctypes.data, 4, offset, columns.ctypes.data, COARSE, at, limits[q])
            while mask:
                i = _lowest_bit(mask)
                mask &= mask - 1
                if i < count - first:
                    waiting[q, held[q]], wholes[q, held[q]] = block[i], np.int64(sums[i]) << 4
                    held[q] += 1
                    fetch(low.ctypes.data + size * block[i], size)
                    if held[q] == WAITING:
                        _refine(q, waiting, wholes, WAITING, low, terms, queries, k, lows, low_rows, uppers, rows, sizes, limits)
                        held[q] = 0
    for q in range(n):
        _refine(q, waiting, wholes, held[q], low, terms, queries, k, lows, low_rows, uppers, rows, sizes, limits)


@kernel
def _refine(q, waiting, wholes, held, low, terms, queries, k, lows, low_rows, uppers, rows, sizes, limits):
    """Adds the lower halves of the bytes to the sums of the rows that wait, and notes them."""
    size, base, query = low.shape[1], low.ctypes.data, queries[q].ctypes.data
    at = query + 2 * size
    offset = np.int64(load_float(at + 4 * TOTAL)) * 128
    for first in range(0, held, 4):
        last = held - 1
        a, b = waiting[q, first], waiting[q, min(first + 1, last)]
        c, d = waiting[q, min(first + 2, last)], waiting[q, min(first + 3, last)]
        sums = products4(base + size * a, base + size * b, base + size * c, base + size * d, query, size)
        for j in range(min(4, held - first)):
            row = waiting[q, first + j]
            centred = wholes[q, first + j] + np.int64(sums[j]) - offset
            term = terms[row].ctypes.data
            _note(row, centred, term, at, k, lows, low_rows, uppers, rows, sizes, limits, q)


@kernel
def sift_many(high, low, terms, which, chosen, queries, k, lows, low_rows, uppers, rows, sizes, limits):
    """`sift_few` for many queries: blocks of rows become panels of bytes, and the sums a matrix product."""
    count = which.size if chosen else high.shape[0]
    n, size, stride = queries.shape[0], high.shape[1], queries.shape[1]
    block, columns = np.empty(BLOCK, np.int64), np.empty((4, BLOCK), np.float32)
    panel, sums = np.empty(2 * size * BLOCK + 64, np.uint8), np.empty((ROWS, BLOCK), np.int32)
    upright = panel.ctypes.data
    upright += -upright & 63
    for first in range(0, count, BLOCK):
        _take(block, which, chosen, first, count)
        _terms_of(terms, block, columns)
        for part in range(0, BLOCK, LANES):
            _transpose16(high.ctypes.data, low.ctypes.data, size, block[part:].ctypes.data, size, upright + 4 * part)
        for start in range(0, n, ROWS):
            some = min(ROWS, n - start)
            a, c = queries[start].ctypes.data, sums.ctypes.data
            if some > 4:
                _by_six(a, stride, upright, size >> 1, c, 4 * PANEL, some, c, 0)
            else:
                _by_four(a, stride, upright, size >> 1, c, 4 * PANEL, some, c, 0)
            for j in range(some):
                q = start + j
                at = queries[q].ctypes.data + 2 * size
                offset = np.int64(load_float(at + 4 * TOTAL)) * 128
                mask = _passing(c + 4 * PANEL * j, 0, offset, columns.ctypes.data, FINE, at, limits[q])
                while mask and not sizes[q, USELESS]:
                    i = _lowest_bit(mask)
                    mask &= mask - 1
                    if i < count - first:
                        term = terms[block[i]].ctypes.data
                        centred = np.int64(sums[j, i]) - offset
                        _note(block[i], centred, term, at, k, lows, low_rows, uppers, rows, sizes, limits, q)
    panel[0] = 0  # used to the end, or Numba would free it while its address is in use


@kernel
def finish(stored, ids, queries, k, kind, metric, width, uppers, rows, sizes, limits, out_distances, out_rows):
    """The k nearest [Q, k] of what was sifted, compared as `distance.scan` compares them, but where it was of no use."""
    base, stride = stored.ctypes.data, stored.shape[1]
    for q in range(queries.shape[0]):
        if sizes[q, USELESS]:
            continue
        _drop(q, uppers, rows, sizes, limits)
        left, held = rows[q, : sizes[q, KEPT]], 0
        for i in range(min(AHEAD, left.size)):
            fetch(base + stride * left[i], stride)
        for first in range(0, left.size, 4):
            for i in range(first + AHEAD, min(first + AHEAD + 4, left.size)):
                fetch(base + stride * left[i], stride)
            some = min(4, left.size - first)
            distances = distances_of(stored, kind, metric, width, left, first, some, queries[q].ctypes.data)
            for j in range(some):
                d = distances[j]
                if held < k or d <= out_distances[q, k - 1]:
                    held = _keep(out_distances[q], out_rows[q], held, k, d, left[first + j], ids)
