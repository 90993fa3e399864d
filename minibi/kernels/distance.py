"""Distances between stored rows and a query, whatever bytes a row is kept in, and the exact scan built on them.

Rows are padded with zeros to whole vectors of sixteen. A distance is one chain of fused multiply-adds per lane and then
the fixed tree over lanes, or an exact whole number times two factors, so it is the same bits wherever and in whatever
company it is computed. Smaller is nearer.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import inline, kernel
from .codes import INT8, products4, products8, row_as_query4, row_as_query8
from .matmul import ADDRESS
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


@intrinsic
def _float_at(typing_context, address):
    def generate(context, builder, signature, args):
        return simd.load_scalar(builder, args[0])

    return types.float32(ADDRESS), generate


@intrinsic
def _int_at(typing_context, address):
    def generate(context, builder, signature, args):
        return builder.load(builder.inttoptr(args[0], simd.ir.PointerType(simd.i32)), align=1)

    return types.int32(ADDRESS), generate


@inline
def _estimate(centred, tail, query_scale, query_norm, metric):
    """From a whole number and a row's (factor, norm) to its distance."""
    product = np.float32(centred) * _float_at(tail) * query_scale
    if metric == DOT:
        return -product
    return (_float_at(tail + 4) + query_norm) - np.float32(2) * product


@kernel
def distance4(kind, metric, a, b, c, d, query, n):
    """The distances of four rows (addresses) to one query (an address). n: numbers of a row, W for codes."""
    if kind == FLOAT32:
        return _dot4(a, b, c, d, query, n) if metric == DOT else _l2_4(a, b, c, d, query, n)
    if kind == FLOAT16:
        return _half_dot4(a, b, c, d, query, n) if metric == DOT else _half_l2_4(a, b, c, d, query, n)
    size = n if kind == INT8 else n >> 1
    sums = products8(a, b, c, d, query, size) if kind == INT8 else products4(a, b, c, d, query, size)
    times = np.int64(1) if kind == INT8 else np.int64(2)
    tail = query + n
    scale, norm = _float_at(tail), _float_at(tail + 8)
    offset = np.int64(_int_at(tail + 4)) * (128 if kind == INT8 else 15)
    return (
        _estimate(times * sums[0] - offset, a + size, scale, norm, metric),
        _estimate(times * sums[1] - offset, b + size, scale, norm, metric),
        _estimate(times * sums[2] - offset, c + size, scale, norm, metric),
        _estimate(times * sums[3] - offset, d + size, scale, norm, metric),
    )


@inline
def distances_of(rows, kind, metric, width, which, first, count, query):
    """Distances to a query (an address) of up to four rows which[first : first + count] of a table of bytes."""
    base, stride = rows.ctypes.data, rows.shape[1]
    last = first + count - 1
    return distance4(
        kind,
        metric,
        base + stride * np.int64(which[first]),
        base + stride * np.int64(which[min(first + 1, last)]),
        base + stride * np.int64(which[min(first + 2, last)]),
        base + stride * np.int64(which[last]),
        query,
        width,
    )


@kernel
def as_query(rows, kind, width, row, scratch):
    """The address of a stored row in the form of a query; `scratch` (uint8) holds it where it has to be made."""
    source, target = rows.ctypes.data + rows.shape[1] * np.int64(row), scratch.ctypes.data
    if kind == FLOAT32:
        return source
    if kind == FLOAT16:
        _widen(source, width, target)
    elif kind == INT8:
        row_as_query8(source, target, width)
    else:
        row_as_query4(source, target, width >> 1)
    return target


@intrinsic
def _widen(typing_context, halves, n, out):
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
            query = queries[q].ctypes.data
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
