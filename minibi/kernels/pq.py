"""Product quantization: tables of partial distances, and the 4-bit fast scan (André, Kermarrec & Le Scouarnec 2015).

A code names, for each of M sub-spaces, one of sixteen codewords. A query turns each sub-space into a table of sixteen
bytes, small enough for a register, and one instruction looks up 64 codes at once. Codes lie in blocks of 32 slots:

    blocks uint8 [blocks, M / 4, 64]     byte 16 i + v of group g: of sub-space 4 g + i the code of slot v in the low
                                         half, of slot 16 + v in the high half

Sums are whole numbers of 16 bits, exact on every processor. An estimate is, for each slot, in this order of float32
operations,  base + (add + factor * (scale * sum + offset)).
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import inline, kernel
from .ivf import finish, gather, key_of, longest, room_for, shrink
from .memory import ADDRESS
from .simd import LANES, Lanes, Loop, i64, ir

BLOCK = 32  # slots
CODEWORDS = 16

_shorts = ir.VectorType(ir.IntType(16), 2 * LANES)
_bytes = simd.octets


@intrinsic
def _products(typing_context, x, codebook, d, out):
    """out [16] = minus the products of x [d] with sixteen codewords [d, 16]."""

    def generate(context, builder, signature, args):
        e = builder
        x, codebook, d, out = args
        with Loop(e, d, [simd.constant(e, 0.0)]) as loop:
            y = simd.broadcast(e, e.add(x, e.mul(loop.index, i64(4)))) * -1.0
            words = simd.load(e, e.add(codebook, e.mul(loop.index, i64(4 * LANES))))
            loop.next(y.fma(words, loop.carried[0]))
        simd.store(e, loop.results[0], out)
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 4), generate


@intrinsic
def _squares(typing_context, x, codebook, d, out):
    """out [16] = the squared distances of x [d] to sixteen codewords [d, 16]."""

    def generate(context, builder, signature, args):
        e = builder
        x, codebook, d, out = args
        with Loop(e, d, [simd.constant(e, 0.0)]) as loop:
            y = simd.broadcast(e, e.add(x, e.mul(loop.index, i64(4))))
            difference = y - simd.load(e, e.add(codebook, e.mul(loop.index, i64(4 * LANES))))
            loop.next(difference * difference + loop.carried[0])
        simd.store(e, loop.results[0], out)
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 4), generate


@kernel
def encode(x, codebooks, first, last, out):
    """out [N, M]: the nearest codeword in each sub-space, of equally near ones the first, for rows first <= i < last.

    x [N, M d]; codebooks [M, G, d, 16]: G groups of sixteen codewords.
    """
    m, groups, d, _ = codebooks.shape
    squares = np.empty(CODEWORDS, np.float32)
    for i in range(first, last):
        for s in range(m):
            least, nearest = np.float32(np.inf), 0
            for g in range(groups):
                _squares(x[i].ctypes.data + 4 * d * s, codebooks[s, g].ctypes.data, d, squares.ctypes.data)
                for j in range(CODEWORDS):
                    if squares[j] < least:
                        least, nearest = squares[j], CODEWORDS * g + j
            out[i, s] = nearest


@inline
def tables_at(x, codebooks, m, groups, d, out):
    """out [M, 16 G]: minus the products of a query's parts x [M d] with all codewords; all are addresses."""
    for s in range(m):
        for g in range(groups * s, groups * s + groups):
            _products(x + 4 * d * s, codebooks + 4 * CODEWORDS * d * g, d, out + 4 * CODEWORDS * g)


@kernel
def tables(x, codebooks, out):
    """`tables_at` for queries x [Q, M d]: out [Q, M, 16 G]."""
    m, groups, d, _ = codebooks.shape
    for q in range(x.shape[0]):
        tables_at(x[q].ctypes.data, codebooks.ctypes.data, m, groups, d, out[q].ctypes.data)


@intrinsic
def _ends(typing_context, x):
    """The least and the largest of sixteen floats."""

    def generate(context, builder, signature, args):
        e = builder
        x = simd.load(e, args[0])
        least = e.fmul(simd.max_lanes(e, x * -1.0), ir.Constant(simd.f32, -1.0))
        return context.make_tuple(e, signature.return_type, [least, simd.max_lanes(e, x)])

    return types.UniTuple(types.float32, 2)(ADDRESS), generate


@intrinsic
def _to_bytes(typing_context, x, least, inverse, out):
    """Sixteen floats, less the least, times `inverse`, to the nearest whole numbers as bytes."""

    def generate(context, builder, signature, args):
        e = builder
        x, least, inverse, out = args
        simd.store_bytes(e, (simd.load(e, x) - simd.splat(e, least)) * simd.splat(e, inverse), out)
        return context.get_dummy_value()

    return types.void(ADDRESS, types.float32, types.float32, ADDRESS), generate


@kernel
def quantize_row(exact, most, out):
    """Tables [M, 16] to bytes out [M', 16] from 0 to `most`: an entry is scale * byte + its sub-space's least.

    Returns scale and offset, the sum of those; rows of `out` beyond M are left alone.
    """
    least = np.empty(exact.shape[0], np.float32)
    widest, total = np.float32(0), 0.0
    for s in range(exact.shape[0]):
        least[s], largest = _ends(exact[s].ctypes.data)
        widest = max(widest, largest - least[s])
        total += np.float64(least[s])
    inverse = np.float32(most) / max(widest, np.float32(1e-30))
    for s in range(exact.shape[0]):
        _to_bytes(exact[s].ctypes.data, least[s], inverse, out[s].ctypes.data)
    return widest / np.float32(most), np.float32(total)


@kernel
def pack(codes, order, blocks):
    """Codes [N, ceil(M / 2)], two to a byte, in the blocks of `order` [32 B]; blocks uint8 [B, M / 4, 64], zeros."""
    for slot in range(order.size):
        row = order[slot]
        if row < 0:
            continue
        v = slot & 15
        shift = 4 if slot & 16 else 0
        block = blocks[slot >> 5]
        for byte in range(codes.shape[1]):
            both = codes[row, byte]
            group, lane = byte >> 1, (byte & 1) << 5
            block[group, lane + v] |= np.uint8((both & 15) << shift)
            block[group, lane + 16 + v] |= np.uint8((both >> 4) << shift)


@intrinsic
def scan_block(typing_context, block, table, groups, terms, base, scale, offset, limit, out, ahead):
    """Estimates of a block's 32 slots to out [32], and as bits of a whole number which of them are <= limit.

    terms: address of add [32] and, 128 bytes on, factor [32]. The block at `ahead` is asked for meanwhile.
    """

    def generate(context, builder, signature, args):
        e = builder
        block, table, groups, terms, base, scale, offset, limit, out, ahead = args
        low = ir.Constant(_bytes, [15] * 64)
        four, eight = ir.Constant(_shorts, [4] * 32), ir.Constant(_shorts, [8] * 32)
        zero = Lanes(e, simd.zero_ints())
        with Loop(e, e.mul(groups, i64(64)), [zero] * 4, step=64) as loop:
            simd.prefetch(e, e.add(ahead, loop.index), 0)
            codes = e.bitcast(simd.load_ints(e, e.add(block, loop.index)), _shorts)
            entries = e.bitcast(simd.load_ints(e, e.add(table, loop.index)), _bytes)
            halves = e.and_(e.bitcast(codes, _bytes), low), e.and_(e.bitcast(e.lshr(codes, four), _bytes), low)
            sums = []
            for i, half in enumerate(halves):
                found = e.bitcast(simd.shuffle(e, entries, half), _shorts)
                both, odd = (e.bitcast(x.value, _shorts) for x in loop.carried[2 * i : 2 * i + 2])
                sums += [e.add(both, found), e.add(odd, e.lshr(found, eight))]
            loop.next(*(Lanes(e, e.bitcast(x, simd.ints)) for x in sums))
        mask = e.bitcast(ir.Constant(ir.IntType(32), 0), ir.IntType(32))
        spread = [simd.splat(e, x) for x in (base, scale, offset, limit)]
        for i in range(2):
            both, odd = (e.bitcast(x.value, _shorts) for x in loop.results[2 * i : 2 * i + 2])
            even = e.sub(both, e.shl(odd, eight))
            sums = simd.to_floats(e, e.zext(_sixteen(e, even, odd), simd.ints))
            add, factor = simd.load(e, terms, 64 * i), simd.load(e, terms, 128 + 64 * i)
            estimate = spread[0] + (add + factor * (spread[1] * sums + spread[2]))
            simd.store(e, estimate, out, 64 * i)
            near = e.fcmp_ordered("<=", estimate.value, spread[3].value)
            bits = e.zext(e.bitcast(near, ir.IntType(16)), ir.IntType(32))
            mask = e.or_(mask, e.shl(bits, ir.Constant(ir.IntType(32), 16 * i)))
        return e.zext(mask, ir.IntType(64))

    single = types.float32
    return types.int64(*[ADDRESS] * 4, single, single, single, single, ADDRESS, ADDRESS), generate


def _sixteen(e, even, odd):
    """Four quarters of even and of odd slots added, then interleaved: <16 x i16>."""
    eight = ir.VectorType(ir.IntType(16), 8)
    sums = []
    for x in (even, odd):
        quarters = [
            e.shuffle_vector(x, x, ir.Constant(ir.VectorType(ir.IntType(32), 8), list(range(first, first + 8))))
            for first in (0, 8, 16, 24)
        ]
        assert quarters[0].type == eight
        sums.append(e.add(e.add(quarters[0], quarters[1]), e.add(quarters[2], quarters[3])))
    order = [j for i in range(8) for j in (i, 8 + i)]
    return e.shuffle_vector(*sums, ir.Constant(ir.VectorType(ir.IntType(32), 16), order))


@kernel
def table_scan(codes, terms, order, starts, mask, cells, bases, tables, keep, out):
    """The `keep` rows of least estimate in the lists cells [Q, P]; out [Q, keep], -1 behind.

    codes [N, M]: a byte per sub-space; terms [N, 2]; bases [Q, P]; tables [Q, M, 256] float32.
    """
    which = np.empty(longest(starts, cells), np.int64)
    keys = np.empty(room_for(keep), np.int64)
    m = codes.shape[1]
    for q in range(cells.shape[0]):
        size, limit = 0, np.float32(np.inf)
        for p in range(cells.shape[1]):
            n = gather(order, starts, mask, cells[q, p : p + 1], which)
            for i in range(n):
                row = which[i]
                total = np.float32(0)
                for s in range(m):
                    total += tables[q, s, codes[row, s]]
                d = bases[q, p] + (terms[row, 0] + terms[row, 1] * total)
                if d <= limit:
                    keys[size] = key_of(d, row)
                    size += 1
                    if size == keys.size:
                        limit = shrink(keys, size, keep)
                        size = keep
        finish(keys, size, keep, out[q])
