"""MaxSim, the score of late interaction, over ragged documents: for each query token the best document token, summed.

Khattab & Zaharia 2020, equation 3. It is a matrix product of which only the largest element of each column counts, so a
tile of document rows times query tokens never leaves the registers: its sums go into a running maximum. Sixteen query
tokens are the lanes of a vector; a tile is twelve document tokens times one or two such vectors. What is missing in the
last tile of a document repeats its last token, which cannot change a maximum.

Every product is one chain of fused multiply-adds (or an exact sum of bytes) and the maxima are summed in float64 in the
order of the query, so a document's score has the same bits in any company and on any number of threads. A document
without tokens scores -inf.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from ..shapes import aligned
from . import simd, target
from .cache import inline, kernel
from .distance import widen
from .memory import ADDRESS
from .simd import LANES, Lanes, Loop, i64

PAIR = 2 if target.has_wide_registers() else 1  # query vectors of a tile
ROWS = 12 if target.has_wide_registers() else 6  # document tokens of a tile
UNROLL = 4  # dimensions per turn of the loop


def pack_query(query):
    """Query tokens [S, D], D a multiple of 16 -> panels [ceil(S / 16), D, 16], zeros in the last one."""
    tokens, dim = query.shape
    count = -(-tokens // LANES)
    panels = aligned((count, dim, LANES))
    whole = np.zeros((count * LANES, dim), np.float32)
    whole[:tokens] = query
    panels[:] = whole.reshape(count, LANES, dim).transpose(0, 2, 1)
    return panels


def pack_query8(codes):
    """Signed bytes of query tokens [S, D], D a multiple of 16 -> (panels [ceil(S / 16), D / 4, 16, 4], shifts).

    shifts int32 [16 ceil(S / 16)]: 128 times the sum of a token's bytes, to be taken from products with document bytes,
    which are raised by 128.
    """
    tokens, dim = codes.shape
    count = -(-tokens // LANES)
    whole = np.zeros((count * LANES, dim), np.int8)
    whole[:tokens] = codes
    panels = aligned((count, dim // 4, LANES, 4), np.int8)
    panels[:] = whole.reshape(count, LANES, dim // 4, 4).transpose(0, 2, 1, 3)
    return panels, 128 * whole.sum(axis=1, dtype=np.int32)


def _rows(e, a, stride, rows):
    """Addresses of ROWS rows; those beyond `rows` repeat the last."""
    last = e.sub(rows, i64(1))
    within = [e.select(e.icmp_signed("<", i64(i), rows), i64(i), last) for i in range(ROWS)]
    return within, [e.add(a, e.mul(stride, i)) for i in within]


def tile(vectors):
    """An intrinsic `(a, stride, rows, panels, size, k, best)`: best = max(best, a @ panels) over up to ROWS rows.

    a: rows of k floats (a multiple of 16), `stride` bytes apart; panels: of `size` bytes; best: 16 * vectors floats.
    """

    @intrinsic
    def raise_best(typing_context, a, stride, rows, panels, size, k, best):
        def generate(context, builder, signature, args):
            e = builder
            a, stride, rows, panels, size, k, best = args
            _, row = _rows(e, a, stride, rows)
            panel = [e.add(panels, e.mul(size, i64(j))) for j in range(vectors)]
            following = e.add(a, e.mul(stride, i64(ROWS)))
            with Loop(e, k, [simd.constant(e, 0.0)] * (ROWS * vectors), step=UNROLL) as loop:
                at, column = e.mul(loop.index, i64(4)), e.mul(loop.index, i64(4 * LANES))
                sums = loop.carried
                for u in range(UNROLL):
                    simd.prefetch(e, e.add(following, column), 4 * LANES * u)
                    columns = [simd.load(e, e.add(p, column), 4 * LANES * u) for p in panel]
                    for i in range(ROWS):
                        x = simd.broadcast(e, e.add(row[i], at), 4 * u)
                        for j in range(vectors):
                            sums[i * vectors + j] = x.fma(columns[j], sums[i * vectors + j])
                loop.next(*sums)
            for j in range(vectors):
                top = simd.load(e, best, 64 * j)
                for i in range(ROWS):
                    top = loop.results[i * vectors + j].max(top)
                simd.store(e, top, best, 64 * j)
            return context.get_dummy_value()

        return types.void(*[ADDRESS] * 7), generate

    return raise_best


def tile8(vectors):
    """`tile` on bytes: `(a, stride, rows, scales, panels, size, groups, shifts, best)`, k = 4 * groups, a
    multiple of 16.

    a: unsigned bytes; scales: a float for each row; shifts: an int32 for each query token. best is in units of the
    query tokens' scales.
    """

    @intrinsic
    def raise_best8(typing_context, a, stride, rows, scales, panels, size, groups, shifts, best):
        def generate(context, builder, signature, args):
            e = builder
            a, stride, rows, scales, panels, size, groups, shifts, best = args
            within, row = _rows(e, a, stride, rows)
            panel = [e.add(panels, e.mul(size, i64(j))) for j in range(vectors)]
            zero = simd.zero_ints()
            begin = [Lanes(e, e.sub(zero, simd.load_ints(e, shifts, 64 * j))) for j in range(vectors)]
            following = e.add(a, e.mul(stride, i64(ROWS)))
            with Loop(e, groups, begin * ROWS, step=UNROLL) as loop:
                at, column = e.mul(loop.index, i64(4)), e.mul(loop.index, i64(4 * LANES))
                sums = [x.value for x in loop.carried]
                for u in range(UNROLL):
                    simd.prefetch(e, e.add(following, column), 4 * LANES * u)
                    columns = [simd.load_ints(e, e.add(p, column), 4 * LANES * u) for p in panel]
                    for i in range(ROWS):
                        x = simd.broadcast_int(e, e.add(row[i], at), 4 * u)
                        for j in range(vectors):
                            sums[i * vectors + j] = simd.dot_bytes(e, sums[i * vectors + j], x, columns[j])
                loop.next(*[Lanes(e, x) for x in sums])
            factors = [simd.broadcast(e, e.add(scales, e.mul(i, i64(4)))) for i in within]
            for j in range(vectors):
                top = simd.load(e, best, 64 * j)
                for i in range(ROWS):
                    top = (simd.to_floats(e, loop.results[i * vectors + j].value) * factors[i]).max(top)
                simd.store(e, top, best, 64 * j)
            return context.get_dummy_value()

        return types.void(*[ADDRESS] * 9), generate

    return raise_best8


_raise_one, _raise_pair = tile(1), tile(PAIR)
_raise_one8, _raise_pair8 = tile8(1), tile8(PAIR)


@inline
def _sum_best(best, tokens):
    total = 0.0
    for i in range(tokens):
        total += best[i]
    return np.float32(total)


@inline
def score_rows(a, stride, count, k, panels, size, tokens, best):
    """MaxSim of one document: `count` rows of k floats at address a. best: room for a float per query lane."""
    if count == 0:
        return np.float32(-np.inf)
    best[:] = -np.inf
    wide = (tokens + LANES - 1) // LANES
    here = best.ctypes.data
    for m in range(0, count, ROWS):
        rows, v = min(ROWS, count - m), 0
        while v < wide:
            if wide - v >= PAIR:
                _raise_pair(a + stride * m, stride, rows, panels + size * v, size, k, here + 64 * v)
                v += PAIR
            else:
                _raise_one(a + stride * m, stride, rows, panels + size * v, size, k, here + 64 * v)
                v += 1
    return _sum_best(best, tokens)


@kernel
def score_floats(vectors, starts, lengths, panels, tokens, out):
    """out[i] = MaxSim of the document vectors[starts[i] : starts[i] + lengths[i]] with a query of `tokens` tokens.

    vectors float32 [T, P]; panels from `pack_query` of the query [tokens, P].
    """
    stride, k = 4 * vectors.shape[1], panels.shape[1]
    best = np.empty(panels.shape[0] * LANES, np.float32)
    size = 4 * LANES * k
    for i in range(starts.size):
        a = vectors.ctypes.data + stride * starts[i]
        out[i] = score_rows(a, stride, lengths[i], k, panels.ctypes.data, size, tokens, best)


@kernel
def score_halves(vectors, starts, lengths, panels, tokens, out):
    """`score_floats` on float16 vectors, handed in as uint16 [T, P], P a multiple of 16: widened exactly."""
    width, k = vectors.shape[1], panels.shape[1]
    best = np.empty(panels.shape[0] * LANES, np.float32)
    scratch = np.empty((max(1, lengths.max()), width), np.float32)
    a, size = scratch.ctypes.data, 4 * LANES * k
    for i in range(starts.size):
        if lengths[i]:
            widen(vectors.ctypes.data + 2 * width * starts[i], width * lengths[i], a)
        out[i] = score_rows(a, 4 * width, lengths[i], k, panels.ctypes.data, size, tokens, best)
    scratch[0, 0] = 0  # used to the end, or Numba would free it while its address is in use


@kernel
def score_bytes(codes, scales, starts, lengths, panels, shifts, query_scales, out):
    """`score_floats` on bytes: codes uint8 [T, P] (a signed byte + 128), scales [T]; query_scales [S]."""
    stride = codes.shape[1]
    best = np.empty(panels.shape[0] * LANES, np.float32)
    wide, groups = panels.shape[0], panels.shape[1]
    here, size = best.ctypes.data, 4 * LANES * groups
    for i in range(starts.size):
        if lengths[i] == 0:
            out[i] = -np.inf
            continue
        best[:] = -np.inf
        for m in range(starts[i], starts[i] + lengths[i], ROWS):
            rows, v = min(ROWS, starts[i] + lengths[i] - m), 0
            a, b = codes.ctypes.data + stride * m, scales.ctypes.data + 4 * m
            while v < wide:
                panel, shift = panels.ctypes.data + size * v, shifts.ctypes.data + 64 * v
                if wide - v >= PAIR:
                    _raise_pair8(a, stride, rows, b, panel, size, groups, shift, here + 64 * v)
                    v += PAIR
                else:
                    _raise_one8(a, stride, rows, b, panel, size, groups, shift, here + 64 * v)
                    v += 1
        total = 0.0
        for t in range(query_scales.size):
            total += np.float64(best[t]) * query_scales[t]
        out[i] = total
