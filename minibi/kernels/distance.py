"""Distances between stored rows and a query, whatever bytes a row is kept in, and the exact scan built on them.

Rows are padded with zeros to whole vectors of sixteen. A distance is one chain of fused multiply-adds per lane and then
the fixed tree over lanes, or an exact whole number times two factors, so it is the same bits wherever and in whatever
company it is computed. Smaller is nearer.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from . import simd
from .cache import inline, kernel
from .codes import INT8, products4, products8, row_as_query4, row_as_query8
from .keys import fetch
from .memory import ADDRESS, address, float_at, int32_at, set_float
from .simd import LANES, Loop, i64

DOT, SQUARED_L2 = range(2)  # the distance is minus the inner product, or the squared Euclidean one
FLOAT32, FLOAT16 = 0, 1  # kinds of rows; INT8 and INT4 are 2 and 3
BLOCK = 128  # rows that stay in cache while all queries pass over them


def _four(step, load, size):
    """An intrinsic `(a, b, c, d, query, n)`: step summed over n numbers between the query and each of four rows."""

    @intrinsic
    def distances(typing_context, a, b, c, d, query, n):
        def generate(context, builder, signature, args):
            e = builder
            *rows, query, n = args
            with Loop(e, n, [simd.constant(e, 0.0)] * 4, step=LANES) as loop:
                y = simd.load(e, e.add(query, e.mul(loop.index, i64(4))))
                at = e.mul(loop.index, i64(size))
                loop.next(*(step(load(e, e.add(x, at)), y, s) for x, s in zip(rows, loop.carried, strict=True)))
            return context.make_tuple(e, signature.return_type, [simd.sum_lanes(e, s) for s in loop.results])

        return types.UniTuple(types.float32, 4)(*[ADDRESS] * 6), generate

    return distances


def _minus_product(x, y, total):
    return (x * -1.0).fma(y, total)


def _square(x, y, total):
    difference = x - y
    return difference.fma(difference, total)


_dot4 = _four(_minus_product, simd.load, 4)
_l2_4 = _four(_square, simd.load, 4)
_half_dot4 = _four(_minus_product, simd.load_halves, 2)
_half_l2_4 = _four(_square, simd.load_halves, 2)


class Rows(NamedTuple):
    """Vectors as bytes [N, stride], and how to read them. The factor of a row's codes and its squared norm stand at the
    address `tails`, `apart` bytes further for each row."""

    table: NDArray[np.uint8]
    tails: int
    apart: int
    kind: int
    metric: int
    width: int


def rows_of(table: NDArray[np.uint8], kind: int, metric: int, width: int, tails: Any = None) -> Rows:
    """Rows with their factors in a table of their own, or else at the end of each row."""
    if tails is not None:
        return Rows(table, tails.ctypes.data, tails.strides[0], kind, metric, width)
    size = width if kind == INT8 else width // 2
    return Rows(table, table.ctypes.data + size, table.shape[1], kind, metric, width)


@intrinsic
def _estimates(typing_context, sums, times, offset, a, b, c, d, scale, norm, metric):
    """From four whole numbers and the addresses of the rows' (factor, norm) to their distances."""

    def generate(context, builder, signature, args):
        e = builder
        sums, times, offset, *tails, scale, norm, metric = args
        four = simd.ir.VectorType(simd.f32, 4)

        def together(values, kind):
            out = simd.ir.Constant(simd.ir.VectorType(kind, 4), simd.ir.Undefined)
            for i, value in enumerate(values):
                out = e.insert_element(out, value, simd.i32(i))
            return out

        def all_four(x, kind):
            return together([x] * 4, kind)

        def of_rows(at):
            return together([simd.load_scalar(e, e.add(tail, i64(at))) for tail in tails], simd.f32)

        centred = e.mul(together([e.extract_value(sums, i) for i in range(4)], simd.i32), all_four(times, simd.i32))
        centred = e.sitofp(e.sub(centred, all_four(offset, simd.i32)), four)
        product = e.fmul(e.fmul(centred, of_rows(0)), all_four(scale, simd.f32))
        out = simd.cgutils.alloca_once_value(e, e.fneg(product))
        with e.if_then(e.icmp_signed("!=", metric, i64(DOT))):
            norms = e.fadd(of_rows(4), all_four(norm, simd.f32))
            e.store(e.fsub(norms, e.fmul(product, simd.ir.Constant(four, [2.0] * 4))), out)
        out = e.load(out)
        return context.make_tuple(e, signature.return_type, [e.extract_element(out, simd.i32(i)) for i in range(4)])

    whole, real = types.int32, types.float32
    arguments = [types.UniTuple(whole, 4), whole, whole, *[ADDRESS] * 4, real, real, types.int64]
    return types.UniTuple(real, 4)(*arguments), generate


@inline
def _distance4(kind, metric, base, stride, tails, apart, i, j, k, m, query, n):
    a, b, c, d = base + stride * i, base + stride * j, base + stride * k, base + stride * m
    if kind == FLOAT32:
        return _dot4(a, b, c, d, query, n) if metric == DOT else _l2_4(a, b, c, d, query, n)
    if kind == FLOAT16:
        return _half_dot4(a, b, c, d, query, n) if metric == DOT else _half_l2_4(a, b, c, d, query, n)
    tail = query + n
    size = n if kind == INT8 else n >> 1
    sums = products8(a, b, c, d, query, size) if kind == INT8 else products4(a, b, c, d, query, size)
    times = np.int32(1) if kind == INT8 else np.int32(2)
    offset = np.int32(int32_at(tail + 4) * np.int32(128 if kind == INT8 else 15))
    a, b, c, d = tails + apart * i, tails + apart * j, tails + apart * k, tails + apart * m
    return _estimates(sums, times, offset, a, b, c, d, float_at(tail), float_at(tail + 8), metric)


@kernel
def distances_to(kind, metric, base, stride, tails, apart, width, which, count, query, out, ahead, many):
    """The distances of some rows to one query (an address): `which` int32 and `out` float32, of whole fours, are
    addresses too. What a row's codes are multiplied with stands at `tails`, `apart` bytes further for each row.

    Meanwhile memory is asked for the rows of another such list, the `many` at `ahead`."""
    last = count - 1
    for first in range(0, count, 4):
        i = np.int64(int32_at(which + 4 * first))
        j = np.int64(int32_at(which + 4 * min(first + 1, last)))
        k = np.int64(int32_at(which + 4 * min(first + 2, last)))
        m = np.int64(int32_at(which + 4 * min(first + 3, last)))
        found = _distance4(kind, metric, base, stride, tails, apart, i, j, k, m, query, width)
        at = out + 4 * first
        set_float(at, found[0])
        set_float(at + 4, found[1])
        set_float(at + 8, found[2])
        set_float(at + 12, found[3])
        end = many if first + 4 >= count else min(many, first + 4)
        for p in range(first, end):
            row = np.int64(int32_at(ahead + 4 * p))
            fetch(base + stride * row, stride)
            fetch(tails + apart * row, 1)


@kernel
def distance4(kind, metric, base, stride, tails, apart, i, j, k, m, query, width):
    """The distances of four rows, by their numbers, to one query (an address)."""
    return _distance4(kind, metric, base, stride, tails, apart, i, j, k, m, query, width)


@inline
def some_distances(rows, which, first, count, query):
    """Distances to a query (an address) of up to four rows which[first : first + count]."""
    last, table = first + count - 1, rows.table
    return distance4(
        rows.kind, rows.metric, address(table), table.shape[1], rows.tails, rows.apart,
        np.int64(which[first]), np.int64(which[min(first + 1, last)]), np.int64(which[min(first + 2, last)]),
        np.int64(which[last]), query, rows.width,
    )  # fmt: skip


@inline
def distances_of(table, kind, metric, width, which, first, count, query):
    """Distances to a query (an address) of up to four rows which[first : first + count] of a table of bytes with the
    factors at the end of each row."""
    size = width if kind == INT8 else width >> 1
    rows = Rows(table, address(table) + size, table.shape[1], kind, metric, width)
    return some_distances(rows, which, first, count, query)


@kernel
def as_query(rows, row, scratch):
    """The address of a stored row in the form of a query; `scratch` (uint8) holds it where it has to be made."""
    table, kind, width = rows.table, rows.kind, rows.width
    source, target = address(table) + table.shape[1] * np.int64(row), address(scratch)
    if kind == FLOAT32:
        return source
    if kind == FLOAT16:
        widen(source, width, target)
        return target
    tail = rows.tails + rows.apart * np.int64(row)
    norm = np.float32(0) if rows.metric == DOT else float_at(tail + 4)
    if kind == INT8:
        row_as_query8(source, target, width, float_at(tail), norm)
    else:
        row_as_query4(source, target, width >> 1, float_at(tail), norm)
    return target


@kernel
def same_rows(rows, a, b):
    """Whether two rows are the same bytes, factors too."""
    table, tails, apart = rows.table, rows.tails, rows.apart
    for i in range(table.shape[1]):
        if table[a, i] != table[b, i]:
            return False
    if rows.kind > FLOAT16:
        for at in range(0, 8 if rows.metric == SQUARED_L2 else 4, 4):
            if int32_at(tails + apart * a + at) != int32_at(tails + apart * b + at):
                return False
    return True


@intrinsic
def widen(typing_context, halves, n, out):
    """n float16 at one address to float32 at another, n a multiple of 16."""

    def generate(context, builder, signature, args):
        e = builder
        halves, n, out = args
        with Loop(e, n, [], step=LANES) as loop:
            x = simd.load_halves(e, e.add(halves, e.mul(loop.index, i64(2))))
            simd.store(e, x, e.add(out, e.mul(loop.index, i64(4))))
            loop.next()
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS, ADDRESS), generate


@kernel
def scan(rows, ids, which, chosen, queries, k, kind, metric, width, out_distances, out_rows):
    """The k nearest rows of uint8 [N, stride] to each query: out_distances, out_rows [Q, k], best first.

    Of all rows, or where `chosen` of which [n] alone. Equal distances are ordered by ids [N]. k must not exceed N or n.
    """
    count = which.size if chosen else rows.shape[0]
    held = np.zeros(queries.shape[0], np.int64)
    four = np.empty(4, np.int64)
    for block in range(0, count, BLOCK):
        end = min(count, block + BLOCK)
        for q in range(queries.shape[0]):
            best, found = out_distances[q], out_rows[q]
            size = held[q]
            query = address(queries[q])
            for first in range(block, end, 4):
                some = min(4, end - first)
                for j in range(some):
                    four[j] = which[first + j] if chosen else first + j
                distances = distances_of(rows, kind, metric, width, four, 0, some, query)
                for j in range(some):
                    d = distances[j]
                    if size < k or d <= best[k - 1]:
                        size = _keep(best, found, size, k, d, four[j], ids)
            held[q] = size


@inline
def _keep(best, rows, size, k, d, row, ids):
    """Insert (d, row) into the sorted list, ordered by distance, then id; returns the new size."""
    at = size
    while at > 0 and (best[at - 1] > d or (best[at - 1] == d and ids[rows[at - 1]] > ids[row])):
        at -= 1
    if at >= k:
        return size
    new = min(size + 1, k)
    for j in range(new - 1, at, -1):
        best[j] = best[j - 1]
        rows[j] = rows[j - 1]
    best[at] = d
    rows[at] = row
    return new
