"""The nearest of K centroids for each vector: the step in which k-means and inverted lists spend their time.

Centroids lie in panels, as weights do in `matmul`, so products run through the same tile; what follows keeps, in each
of sixteen lanes, the best product so far and whose it was. Equal products go to the smaller number.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import kernel
from .matmul import PANEL, ROWS, multiply_panel
from .memory import ADDRESS
from .simd import LANES, Loop, i64


@intrinsic
def keep_best(typing_context, products, shifts, n, first, best, number):
    """Lane by lane: best = max(best, product - shift), and in `number` which of first, first + 1, … it was."""

    def generate(context, builder, signature, args):
        e = builder
        products, shifts, n, first, best, number = args
        counting = simd.Lanes(e, simd.ir.Constant(simd.floats, [float(i) for i in range(LANES)]))
        here = simd.splat(e, first) + counting
        with Loop(e, n, [simd.load(e, best), simd.load(e, number), here], step=LANES) as loop:
            top, holder, here = loop.carried
            at = e.mul(loop.index, i64(4))
            x = simd.load(e, e.add(products, at)) - simd.load(e, e.add(shifts, at))
            better = e.fcmp_ordered(">", x.value, top.value)
            kept = [simd.Lanes(e, e.select(better, new.value, old.value)) for new, old in ((x, top), (here, holder))]
            loop.next(*kept, here + float(LANES))
        simd.store(e, loop.results[0], best)
        simd.store(e, loop.results[1], number)
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS, ADDRESS, types.float32, ADDRESS, ADDRESS), generate


@kernel
def assign(x, panels, shifts, first, last, out):
    """out[t] = the n that maximizes x[t] . centroid[n] - shifts[n], the smallest such n, for rows first <= t < last.

    x [T, D]; panels from `matmul.pack` of the centroids [D, K]; shifts [K filled up to whole panels], infinite beyond.
    """
    k = x.shape[1]
    products = np.empty((ROWS, PANEL), np.float32)
    best = np.empty((ROWS, LANES), np.float32)
    number = np.empty((ROWS, LANES), np.float32)  # exact up to 2^24
    here = products.ctypes.data
    for m in range(first, last, ROWS):
        rows = min(ROWS, last - m)
        best[:] = -np.inf
        number[:] = 0
        for n in range(panels.shape[0]):
            panel = panels.ctypes.data + 4 * n * k * PANEL
            multiply_panel(x.ctypes.data + 4 * k * m, 4 * k, panel, k, here, 4 * PANEL, rows, panel, 0)
            for r in range(rows):
                keep_best(
                    here + 4 * PANEL * r, shifts.ctypes.data + 4 * PANEL * n, PANEL, np.float32(PANEL * n),
                    best.ctypes.data + 4 * LANES * r, number.ctypes.data + 4 * LANES * r,
                )  # fmt: skip
        for r in range(rows):
            winner = 0
            for lane in range(1, LANES):
                a, b = best[r, lane], best[r, winner]
                if a > b or (a == b and number[r, lane] < number[r, winner]):
                    winner = lane
            out[m + r] = np.int64(number[r, winner])
    products[0, 0] = 0  # used to the end, or Numba would free it while its address is in use


@kernel
def add_rows(x, assignment, sums):
    """sums[assignment[t]] += x[t] in float64, for rows t in order. x [T, D], sums [K, D]."""
    for t in range(x.shape[0]):
        total, row = sums[assignment[t]], x[t]
        for d in range(x.shape[1]):
            total[d] += row[d]


@intrinsic
def _square(typing_context, x, y, n):
    """|x - y|^2 over n floats at two addresses, n a multiple of 16."""

    def generate(context, builder, signature, args):
        e = builder
        x, y, n = args
        with Loop(e, n, [simd.constant(e, 0.0)], step=LANES) as loop:
            at = e.mul(loop.index, i64(4))
            difference = simd.load(e, e.add(x, at)) - simd.load(e, e.add(y, at))
            loop.next(difference.fma(difference, loop.carried[0]))
        return simd.sum_lanes(e, loop.results[0])

    return types.float32(ADDRESS, ADDRESS, ADDRESS), generate


@kernel
def nearer(x, centre, distances):
    """distances[t] = min(distances[t], |x[t] - centre|^2). x [T, P], centre [P], P a multiple of 16."""
    width = x.shape[1]
    for t in range(x.shape[0]):
        found = _square(x.ctypes.data + 4 * width * t, centre.ctypes.data, width)
        distances[t] = min(distances[t], found)
