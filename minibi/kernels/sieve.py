"""A sieve for exact search: bytes of a row and of a query bound their product, so most rows need not be read.

Rows and queries are coded as in `kernels.sieve_codes`. By Cauchy and Schwarz

    |<q, x> - <q', x'>| <= (|q| + |q - q'|) |x - x'| + |q - q'| |x|

A row whose upper bound is below the k-th best lower bound so far is not among the k nearest; what is left in the end is
compared exactly. "Value" is what is bounded: the inner product, less half the row's squared norm for squared L2.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from . import simd
from .cache import inline, kernel
from .codes import CAREFUL, products4, ready_query, rotate_row
from .distance import SQUARED_L2, _keep, distances_of
from .int8 import tile_of_codes
from .keys import fetch
from .matmul import PANEL, ROWS, VECTORS
from .memory import ADDRESS, address, float_at
from .sieve_codes import (
    COARSE,
    ERROR,
    FINE,
    HALF_LOW,
    HALF_UP,
    NORM,
    REACH,
    SCALE,
    SLACK,
    TOTAL,
    encode_queries,
    same_ints,
)
from .simd import LANES, Lanes, Loop, i64, ir
from .sixteen import BLOCK, across, lowest_bit, row_numbers, terms16

HELD, KEPT, USELESS = range(3)  # of `sizes`: lower bounds held, rows kept, whether the bounds are too wide
ROOM = 2048  # rows kept for a query, and four for each neighbour it asks for
WAITING, AHEAD = 16, 8  # rows asked for together before they are read


@intrinsic
def _sums16(typing_context, plane, stride, block, query, size, out):
    """out int32 [16]: halves of bytes times the query's bytes, for the 16 rows whose numbers are at `block`.

    One row after the other, as they lie in memory: the processor sees a single stream, and runs ahead of it by itself.
    """

    def generate(context, builder, signature, args):
        e = builder
        plane, stride, block, query, size, out = args
        rows = [e.add(plane, e.mul(stride, row)) for row in row_numbers(e, block)]
        mask, four, zero = same_ints(0x0F0F0F0F), same_ints(4), Lanes(e, simd.zero_ints())
        sums = []
        for row in rows:
            with Loop(e, size, [zero, zero], step=64) as loop:
                first, second = (total.value for total in loop.carried)
                both, at = simd.load_ints(e, e.add(row, loop.index)), e.add(query, e.mul(loop.index, i64(2)))
                first = simd.dot_bytes(e, first, e.and_(both, mask), simd.load_ints(e, at))
                second = simd.dot_bytes(e, second, e.and_(e.lshr(both, four), mask), simd.load_ints(e, at, 64))
                loop.next(Lanes(e, first), Lanes(e, second))
            sums.append(e.add(*(total.value for total in loop.results)))
        simd.store_ints(e, across(e, sums), out)
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 6), generate


@intrinsic
def _transpose16(typing_context, high, low, stride, block, size, panel):
    """Bytes of the 16 rows whose numbers are at `block` -> a panel's columns: groups of four bytes, row beside row."""

    def generate(context, builder, signature, args):
        e = builder
        high, low, stride, block, size, panel = args
        offsets = [e.mul(stride, row) for row in row_numbers(e, block)]
        mask, four = same_ints(0x0F0F0F0F), same_ints(4)
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


class Planes(NamedTuple):
    """The planes and terms of all rows; where `chosen`, only the rows which [n] count."""

    high: NDArray[np.uint8]
    low: NDArray[np.uint8]
    terms: NDArray[np.float32]
    which: NDArray[np.int64]
    chosen: bool


class Left(NamedTuple):
    """What is left for each query: the k best lower bounds [Q, k], a heap with the least in front; upper bounds and
    numbers [Q, room] of rows that may be among the k nearest; sizes [Q, 3], see above; limits [Q]: a lower value is
    not among the k largest."""

    lows: NDArray[np.float32]
    uppers: NDArray[np.float32]
    rows: NDArray[np.int64]
    sizes: NDArray[np.int64]
    limits: NDArray[np.float32]


@kernel
def left_for(n, k):
    """Room for what is left of n queries."""
    kept = (n, ROOM + 4 * k)
    lows, uppers, rows = np.empty((n, k), np.float32), np.empty(kept, np.float32), np.empty(kept, np.int64)
    return Left(lows, uppers, rows, np.zeros((n, 3), np.int64), np.full(n, -np.inf, np.float32))


def _signed_rows(e, total, x, y):
    return simd.dot_bytes(e, total, y, x)


_by_six, _by_four = (tile_of_codes(height, VECTORS, _signed_rows) for height in (ROWS, 4))


@inline
def _passing(sums, shift, offset, columns, column, query, limit):
    """A bit for each row of the block that may reach the limit. Addresses: sums int32 [BLOCK], columns [4, BLOCK]."""
    mask = np.int64(0)
    for part in range(0, BLOCK, LANES):
        at, error = columns + 4 * part, 4 * BLOCK * column
        mask |= _pass16(sums + 4 * part, shift, offset, at, error, query, limit) << part
    return mask


@inline
def _take(which, chosen, first, count, terms, block, columns):
    """A block's rows, the last one repeated to fill it, and their terms (addresses of both); returns a bit for each
    that counts."""
    for i in range(BLOCK):
        at = min(first + i, count - 1)
        block[i] = which[at] if chosen else at
    for part in range(0, BLOCK, LANES):
        terms16(terms, 16, address(block) + 8 * part, columns + 4 * part)
    return np.int64(-1) if count - first >= BLOCK else (np.int64(1) << (count - first)) - 1


@inline
def _bounds(centred, terms, query):
    """(upper, lower) bound of a row's value from the whole number that its 8 bits give. Addresses of terms."""
    norm = float_at(terms + 4 * NORM)
    middle = np.float32(centred) * (float_at(terms) * float_at(query + 4 * SCALE))
    reach = float_at(terms + 4 * FINE) * float_at(query + 4 * REACH)
    reach += norm * float_at(query + 4 * ERROR) + float_at(query + 4 * SLACK)
    upper = middle + reach - norm * norm * float_at(query + 4 * HALF_UP)
    return upper, middle - reach - norm * norm * float_at(query + 4 * HALF_LOW)


@inline
def _hold(q, lower, lows, sizes, limits):
    """Puts a lower bound among the k best, and their least in `limits`."""
    held, k = sizes[q, HELD], lows.shape[1]
    if held < k:
        sizes[q, HELD], at = held + 1, held
        while at > 0 and lows[q, (at - 1) >> 1] > lower:
            lows[q, at] = lows[q, (at - 1) >> 1]
            at = (at - 1) >> 1
        lows[q, at] = lower
    elif lower > lows[q, 0]:
        at, child = 0, 1
        while child < k:
            if child + 1 < k and lows[q, child + 1] < lows[q, child]:
                child += 1
            if lows[q, child] >= lower:
                break
            lows[q, at] = lows[q, child]
            at, child = child, 2 * child + 1
        lows[q, at] = lower
    if sizes[q, HELD] == k:
        limits[q] = lows[q, 0]


@inline
def _note(q, row, upper, lower, lows, uppers, rows, sizes, limits):
    """Keeps a row that may be among the k nearest. Room is made by dropping those that no longer are."""
    if not (upper < limits[q] or sizes[q, USELESS]):
        _hold(q, lower if lower > -np.inf else np.float32(-np.inf), lows, sizes, limits)
        if sizes[q, KEPT] == rows.shape[1]:
            _drop(q, uppers, rows, sizes, limits)
            if 2 * sizes[q, KEPT] > rows.shape[1]:  # bounds as wide as this are of no use
                sizes[q, USELESS], limits[q] = 1, np.inf
        if not sizes[q, USELESS]:
            uppers[q, sizes[q, KEPT]], rows[q, sizes[q, KEPT]] = upper, row
            sizes[q, KEPT] += 1


@kernel
def _drop(q, uppers, rows, sizes, limits):
    kept = 0
    for i in range(sizes[q, KEPT]):
        if not uppers[q, i] < limits[q]:
            uppers[q, kept], rows[q, kept] = uppers[q, i], rows[q, i]
            kept += 1
    sizes[q, KEPT] = kept


@kernel
def sift_few(rows, queries, left):
    """What is `left` of all rows for a few queries: 4 bits of every row are read, 8 of the better ones."""
    which, chosen, sizes, limits = rows.which, rows.chosen, left.sizes, left.limits
    count, (n, stride), size = which.size if chosen else rows.high.shape[0], queries.shape, rows.high.shape[1]
    high, low, terms = address(rows.high), address(rows.low), address(rows.terms)
    block, columns, sums = np.empty(BLOCK, np.int64), np.empty((4, BLOCK), np.float32), np.empty(BLOCK, np.int32)
    numbers, lanes, out = address(block), address(columns), address(sums)
    waiting, held = np.empty((n, 2, WAITING), np.int64), np.zeros(n, np.int64)
    for first in range(0, count, BLOCK):
        valid = _take(which, chosen, first, count, terms, block, lanes)
        for q in range(n):
            if sizes[q, USELESS]:
                continue
            query = address(queries) + stride * q
            tail = query + 2 * size
            for part in range(0, BLOCK, LANES):
                _sums16(high, size, numbers + 8 * part, query, size, out + 4 * part)
            offset = np.int64(float_at(tail + 4 * TOTAL)) * 120
            mask = valid & _passing(out, 4, offset, lanes, COARSE, tail, limits[q])
            while mask:
                i = lowest_bit(mask)
                mask &= mask - 1
                fetch(low + size * block[i], size)
                waiting[q, 0, held[q]], waiting[q, 1, held[q]] = block[i], np.int64(sums[i]) << 4
                held[q] += 1
                if held[q] == WAITING:
                    _refine(q, waiting[q], WAITING, rows, queries, left)
                    held[q] = 0
    for q in range(n):
        _refine(q, waiting[q], held[q], rows, queries, left)
    columns[0, 0] = 0  # used to the end, or Numba would free it while its address is in use


@kernel
def _refine(q, waiting, held, rows, queries, left):
    """Adds the lower halves of the bytes to the sums of the rows that wait, and notes them."""
    lows, uppers, kept, sizes, limits = left
    size, base, terms, query = rows.low.shape[1], address(rows.low), address(rows.terms), address(queries[q])
    tail = query + 2 * size
    offset = np.int64(float_at(tail + 4 * TOTAL)) * 128
    for first in range(0, held, 4):
        last = held - 1
        a, b = waiting[0, first], waiting[0, min(first + 1, last)]
        c, d = waiting[0, min(first + 2, last)], waiting[0, min(first + 3, last)]
        sums = products4(base + size * a, base + size * b, base + size * c, base + size * d, query, size)
        for j in range(min(4, held - first)):
            row, centred = waiting[0, first + j], waiting[1, first + j] + np.int64(sums[j]) - offset
            upper, lower = _bounds(centred, terms + 16 * row, tail)
            _note(q, row, upper, lower, lows, uppers, kept, sizes, limits)


@kernel
def sift_many(rows, queries, left):
    """`sift_few` for many queries: blocks of rows become panels of bytes, and the sums a product of matrices."""
    which, chosen = rows.which, rows.chosen
    lows, uppers, kept, sizes, limits = left
    count, (n, stride), size = which.size if chosen else rows.high.shape[0], queries.shape, rows.high.shape[1]
    high, low, terms = address(rows.high), address(rows.low), address(rows.terms)
    block, columns = np.empty(BLOCK, np.int64), np.empty((4, BLOCK), np.float32)
    sums, room = np.empty((ROWS, BLOCK), np.int32), np.empty(2 * size * BLOCK + 64, np.uint8)
    numbers, lanes, out, panel = address(block), address(columns), address(sums), address(room)
    panel += -panel & 63
    for first in range(0, count, BLOCK):
        valid = _take(which, chosen, first, count, terms, block, lanes)
        for part in range(0, BLOCK, LANES):
            _transpose16(high, low, size, numbers + 8 * part, size, panel + 4 * part)
        for start in range(0, n, ROWS):
            some, some_queries = min(ROWS, n - start), address(queries) + stride * start
            if some > 4:
                _by_six(some_queries, stride, panel, size >> 1, out, 4 * PANEL, some, out, 0)
            else:
                _by_four(some_queries, stride, panel, size >> 1, out, 4 * PANEL, some, out, 0)
            for j in range(some):
                q, tail = start + j, some_queries + stride * j + 2 * size
                offset = np.int64(float_at(tail + 4 * TOTAL)) * 128
                mask = valid & _passing(out + 4 * PANEL * j, 0, offset, lanes, FINE, tail, limits[q])
                while mask:
                    i = lowest_bit(mask)
                    mask &= mask - 1
                    upper, lower = _bounds(np.int64(sums[j, i]) - offset, terms + 16 * block[i], tail)
                    _note(q, block[i], upper, lower, lows, uppers, kept, sizes, limits)
    room[0] = columns[0, 0] = 0  # used to the end, or Numba would free them while their addresses are in use


@kernel
def finish(stored, ids, queries, kind, metric, width, left, out_distances, out_rows):
    """The k nearest [Q, k] of what is left, compared as `distance.scan` compares; not where the bounds were useless."""
    base, stride, k = address(stored), stored.shape[1], out_rows.shape[1]
    for q in range(queries.shape[0]):
        if left.sizes[q, USELESS]:
            continue
        _drop(q, left.uppers, left.rows, left.sizes, left.limits)
        rows, held = left.rows[q, : left.sizes[q, KEPT]], 0
        for first in range(-AHEAD, rows.size, 4):
            for i in range(first + AHEAD, min(first + AHEAD + 4, rows.size)):
                fetch(base + stride * rows[i], stride)
            if first >= 0:
                some = min(4, rows.size - first)
                distances = distances_of(stored, kind, metric, width, rows, first, some, address(queries[q]))
                for j in range(some):
                    if held < k or distances[j] <= out_distances[q, k - 1]:
                        held = _keep(out_distances[q], out_rows[q], held, k, distances[j], rows[first + j], ids)


@kernel
def answer(high, low, terms, stored, ids, kind, metric, width, unit, signs, rounding, x, out, out_ids):
    """Scores and ids [Q, k] of the nearest of all rows to a few vectors x [Q, dim]: a whole search in one kernel.

    kind, metric, width: of the rows as stored; unit: whether queries become of length one; signs [3, W]: rotation.
    Returns whether all were found, for queries that are finite and not so long (CAREFUL) that one has to look closer.
    """
    (n, k), wide = out.shape, signs.shape[1]
    queries, turned = np.zeros((n, wide), np.float32), np.empty((n, wide), np.float32)
    coded, left = np.empty((n, wide + 32), np.uint8), left_for(n, k)
    fine = True
    for q in range(n):
        query = address(queries[q])
        fine &= ready_query(x[q], unit, address(signs), query, np.int64(0), np.int64(0), width) <= CAREFUL
        rotate_row(query, address(turned[q]), wide, address(signs))
    encode_queries(turned, rounding, 0.5 if metric == SQUARED_L2 else 0.0, coded)
    sift_few(Planes(high, low, terms, np.empty(0, np.int64), False), coded, left)
    finish(stored, ids, queries.view(np.uint8), kind, metric, width, left, out, out_ids)
    for q in range(n):
        fine &= left.sizes[q, USELESS] == 0
        for j in range(k if fine else 0):  # never -0.0
            out[q, j] = out[q, j] + np.float32(0) if metric == SQUARED_L2 else np.float32(0) - out[q, j]
            out_ids[q, j] = ids[out_ids[q, j]]
    return fine
