"""Token vectors kept as the number of a centroid and a residual of 1, 2 or 4 bits per dimension: read, score, sift.

Santhanam et al. 2022 (ColBERTv2, section 3.3; PLAID). `minibi.index.residual` writes the codes; its functions ending in
`_plain` are the twins of these kernels.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import inline, kernel
from .matmul import ADDRESS
from .maxsim import score_rows
from .simd import LANES, Loop, f32, i64


@intrinsic
def _unit(typing_context, x, n):
    """n floats at x, a multiple of 16, scaled to length one in place; zeros stay."""

    def generate(context, builder, signature, args):
        e = builder
        x, n = args
        with Loop(e, n, [simd.constant(e, 0.0)], step=LANES) as loop:
            y = simd.load(e, e.add(x, e.mul(loop.index, i64(4))))
            loop.next(y.fma(y, loop.carried[0]))
        norm = simd.sqrt(e, simd.sum_lanes(e, loop.results[0]))
        norm = simd.splat(e, e.select(e.fcmp_ordered(">", norm, f32(0)), norm, f32(1)))
        with Loop(e, n, step=LANES) as loop:
            at = e.add(x, e.mul(loop.index, i64(4)))
            simd.store(e, simd.load(e, at) / norm, at)
            loop.next()
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS), generate


@intrinsic
def _raise(typing_context, row, n, best):
    """best = max(best, row), n floats each, a multiple of 16. Addresses."""

    def generate(context, builder, signature, args):
        e = builder
        row, n, best = args
        with Loop(e, n, step=LANES) as loop:
            at = e.mul(loop.index, i64(4))
            out = e.add(best, at)
            simd.store(e, simd.load(e, e.add(row, at)).max(simd.load(e, out)), out)
            loop.next()
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS, ADDRESS), generate


@inline
def _decode(centroid, code, table, dim, unit, out):
    """out [P] = centroid [P] + what the bytes of code stand for in table [256, 8 / bits]; zeros from dim on."""
    size = np.uint64(table.shape[1])
    for b in range(np.uint64(code.size)):
        values = table[code[b]]
        d = b * size
        if size == 4:
            for j in range(np.uint64(4)):
                out[d + j] = centroid[d + j] + values[j]
        elif size == 2:
            for j in range(np.uint64(2)):
                out[d + j] = centroid[d + j] + values[j]
        else:
            for j in range(np.uint64(8)):
                out[d + j] = centroid[d + j] + values[j]
    for d in range(np.uint64(dim), np.uint64(out.size)):
        out[d] = 0
    if unit:
        _unit(out.ctypes.data, out.size)


@kernel
def decode(cells, codes, centroids, table, dim, unit, out):
    """out [T, P]: the vectors of cells [T] (uint16 or uint32) and codes uint8 [T, bytes]; centroids [K, P].

    unit: scaled to length one. P, a multiple of 16, has room for all dimensions of the bytes.
    """
    for t in range(out.shape[0]):
        _decode(centroids[np.uint64(cells[t])], codes[t], table, dim, unit, out[t])


@kernel
def score(cells, codes, centroids, table, dim, unit, starts, lengths, panels, tokens, out):
    """out[i] = MaxSim with tokens starts[i] … starts[i] + lengths[i], decoded; the rest as `kernels.maxsim`."""
    width, k = centroids.shape[1], panels.shape[1]
    scratch = np.empty((max(1, lengths.max()), width), np.float32)
    best = np.empty(panels.shape[0] * LANES, np.float32)
    for i in range(starts.size):
        for t in range(lengths[i]):
            at = starts[i] + t
            _decode(centroids[np.uint64(cells[at])], codes[at], table, dim, unit, scratch[t])
        here, size = panels.ctypes.data, 4 * LANES * k
        out[i] = score_rows(scratch.ctypes.data, 4 * width, lengths[i], k, here, size, tokens, best)


@kernel
def score_cells(cells, products, starts, lengths, tokens, out):
    """MaxSim of documents whose tokens are taken for their centroids. products [K, S]: centroid times query token.

    S: tokens filled up to a multiple of 16.
    """
    width = products.shape[1]
    best = np.empty(width, np.float32)
    for i in range(starts.size):
        best[:] = -np.inf
        for at in range(starts[i], starts[i] + lengths[i]):
            row = products.ctypes.data + 4 * width * np.int64(cells[at])
            _raise(row, width, best.ctypes.data)
        total = 0.0
        for t in range(tokens):
            total += best[t]
        out[i] = total if lengths[i] else -np.inf
