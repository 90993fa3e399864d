"""Distances between stored vectors and a query, and the exact scan built on them.

Rows are padded with zeros to whole vectors of sixteen. A distance is one chain of fused multiply-adds per lane and then
the fixed tree over lanes, so it is the same bits wherever and in whatever company it is computed. Smaller is nearer.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import inline, kernel
from .matmul import ADDRESS
from .simd import LANES, Loop, i64

DOT, SQUARED_L2 = range(2)  # the distance is minus the inner product, or the squared Euclidean one
BLOCK = 128  # rows that stay in cache while all queries pass over them


def _four(step):
    """An intrinsic `(a, b, c, d, query, n)`: step summed over n floats between the query and each of four rows."""

    @intrinsic
    def distances(typing_context, a, b, c, d, query, n):
        def generate(context, builder, signature, args):
            e = builder
            *rows, query, n = args
            with Loop(e, n, [simd.constant(e, 0.0)] * 4, step=LANES) as loop:
                at = e.mul(loop.index, i64(4))
                y = simd.load(e, e.add(query, at))
                loop.next(*(step(simd.load(e, e.add(x, at)), y, s) for x, s in zip(rows, loop.carried, strict=True)))
            return context.make_tuple(e, signature.return_type, [simd.sum_lanes(e, s) for s in loop.results])

        return types.UniTuple(types.float32, 4)(*[ADDRESS] * 6), generate

    return distances


def _minus_product(x, y, total):
    return (x * -1.0).fma(y, total)


def _square(x, y, total):
    difference = x - y
    return difference.fma(difference, total)


_dot4 = _four(_minus_product)
_l2_4 = _four(_square)


@inline
def distance4(a, b, c, d, query, n, metric):
    """The distances of four rows (addresses of n floats) to one query."""
    if metric == DOT:
        return _dot4(a, b, c, d, query, n)
    return _l2_4(a, b, c, d, query, n)


@kernel
def scan(vectors, ids, queries, k, metric, out_distances, out_rows):
    """The k nearest rows of vectors [N, P] to each query [Q, P]: out_distances, out_rows [Q, k], best first.

    Equal distances are ordered by ids [N]. k must not exceed N. NaN must have been refused before.
    """
    count, width = vectors.shape
    held = np.zeros(queries.shape[0], np.int64)
    base, q0 = vectors.ctypes.data, queries.ctypes.data
    for block in range(0, count, BLOCK):
        end = min(count, block + BLOCK)
        for q in range(queries.shape[0]):
            best, rows = out_distances[q], out_rows[q]
            size = held[q]
            for first in range(block, end, 4):
                last = min(first + 3, end - 1)
                found = distance4(
                    base + 4 * width * first,
                    base + 4 * width * min(first + 1, last),
                    base + 4 * width * min(first + 2, last),
                    base + 4 * width * last,
                    q0 + 4 * width * q,
                    width,
                    metric,
                )
                for j in range(last - first + 1):
                    d = found[j]
                    if size < k or d <= best[k - 1]:
                        size = _keep(best, rows, size, k, d, first + j, ids)
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
