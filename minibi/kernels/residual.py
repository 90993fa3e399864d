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
from .maxsim import score_rows
from .memory import ADDRESS
from .simd import LANES, Loop, f32, i64


def _unpacker(bits):
    """An intrinsic `(centroid, code, weights, dim, width, out)`: out = centroid + weights[code], zeros from dim on.

    width floats, a multiple of 16, the first code in the lowest bits. Returns the sum of the squares. Addresses.
    """

    @intrinsic
    def unpack(typing_context, centroid, code, weights, dim, width, out):
        def generate(context, builder, signature, args):
            e = builder
            centroid, code, weights, dim, width, out = args
            values = [simd.broadcast(e, weights, 4 * i).value for i in range(1 << bits)]
            shifts = simd.ir.Constant(simd.ints, [bits * i % 32 for i in range(LANES)])
            with Loop(e, width, [simd.constant(e, 0.0)], step=LANES) as loop:
                at = e.mul(loop.index, i64(4))
                numbers = e.lshr(_sixteen(e, e.add(code, e.sdiv(e.mul(loop.index, i64(bits)), i64(8))), bits), shifts)
                choices = values
                for bit in range(bits):  # the lowest bit chooses between neighbours, the next between pairs, …
                    mask = simd.ir.Constant(simd.ints, [1 << bit] * LANES)
                    odd = e.icmp_signed("!=", e.and_(numbers, mask), simd.zero_ints())
                    pairs = zip(choices[1::2], choices[::2], strict=True)
                    choices = [e.select(odd, upper, lower) for upper, lower in pairs]
                x = simd.load(e, e.add(centroid, at)) + simd.Lanes(e, choices[0])
                x = simd.keep_first(e, x, e.sub(dim, loop.index), 0.0)
                simd.store(e, x, e.add(out, at))
                loop.next(x.fma(x, loop.carried[0]))
            return simd.sum_lanes(e, loop.results[0])

        return types.float32(*[ADDRESS] * 6), generate

    return unpack


def _sixteen(e, address, bits):
    """Sixteen lanes, each with the 32 bits its number is in: 2, 4 or 8 bytes from memory."""
    if bits == 1:
        short = e.load(e.inttoptr(address, simd.ir.PointerType(simd.ir.IntType(16))), align=1)
        lane = e.insert_element(simd.zero_ints(), e.zext(short, simd.i32), simd.i32(0))
        return e.shuffle_vector(lane, lane, simd.zero_ints())
    low = simd.broadcast_int(e, address)
    if bits == 2:
        return low
    half = simd.ir.Constant(simd.ints, [i if i < LANES // 2 else i + LANES for i in range(LANES)])
    return e.shuffle_vector(low, simd.broadcast_int(e, address, 4), half)


_unpack1, _unpack2, _unpack4 = _unpacker(1), _unpacker(2), _unpacker(4)


@intrinsic
def _scale(typing_context, x, n, squares):
    """n floats at x, a multiple of 16, divided by the root of `squares` in place, unless that is zero."""

    def generate(context, builder, signature, args):
        e = builder
        x, n, squares = args
        norm = simd.sqrt(e, squares)
        norm = simd.splat(e, e.select(e.fcmp_ordered(">", norm, f32(0)), norm, f32(1)))
        with Loop(e, n, step=LANES) as loop:
            at = e.add(x, e.mul(loop.index, i64(4)))
            simd.store(e, simd.load(e, at) / norm, at)
            loop.next()
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS, types.float32), generate


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
def _decode(centroid, code, weights, count, dim, width, unit, out):
    """One vector to `out`; all but the count of weights, dim, width and unit are addresses."""
    if count == 2:
        squares = _unpack1(centroid, code, weights, dim, width, out)
    elif count == 4:
        squares = _unpack2(centroid, code, weights, dim, width, out)
    else:
        squares = _unpack4(centroid, code, weights, dim, width, out)
    if unit:
        _scale(out, width, squares)


@kernel
def decode(cells, codes, centroids, weights, dim, unit, out):
    """out [T, P]: the vectors of cells [T] (uint16 or uint32) and codes uint8 [T, P nbits / 8]; zeros from dim on.

    centroids [K, P], P a multiple of 16; weights [2^nbits]; unit: vectors are scaled to length one.
    """
    width, size = centroids.shape[1], codes.shape[1]
    for t in range(out.shape[0]):
        _decode(
            centroids.ctypes.data + 4 * width * np.int64(cells[t]), codes.ctypes.data + size * t, weights.ctypes.data,
            weights.size, dim, width, unit, out.ctypes.data + 4 * width * t,
        )  # fmt: skip


@kernel
def score(cells, codes, centroids, weights, dim, unit, starts, lengths, panels, tokens, out):
    """out[i] = MaxSim with tokens starts[i] … starts[i] + lengths[i], decoded; the rest as `kernels.maxsim`."""
    width, size = centroids.shape[1], codes.shape[1]
    scratch = np.empty((max(1, lengths.max()), width), np.float32)
    best = np.empty(panels.shape[0] * LANES, np.float32)
    here = scratch.ctypes.data
    for i in range(starts.size):
        for t in range(lengths[i]):
            at = starts[i] + t
            _decode(
                centroids.ctypes.data + 4 * width * np.int64(cells[at]), codes.ctypes.data + size * at,
                weights.ctypes.data, weights.size, dim, width, unit, here + 4 * width * t,
            )  # fmt: skip
        out[i] = score_rows(here, 4 * width, lengths[i], width, panels.ctypes.data, 4 * LANES * width, tokens, best)
    scratch[0, 0] = 0  # used to the end, or Numba would free it while its address is in use


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
