"""Codes of one to eight bits per coordinate, kept as planes of bits, and signs compared by counting.

    row      for each 64 coordinates `bits` words of 64 bits, highest plane first; then add, factor, error, length
    query    that of `kernels.codes`: signed bytes, their scale and sum

An estimate is base + (add + factor * <code, query>); a vector is nearer than that by more than

    epsilon * (error * gap + length * noise)

with the probability that RaBitQ promises (`minibi.index.rabitq`). What that cannot exclude is compared exactly.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import inline, kernel
from .distance import _keep, distances_of
from .ivf import finish, gather, key_of, longest, room_for, shrink
from .keys import fetch
from .matmul import ADDRESS
from .memory import float_at, int32_at
from .simd import Lanes, Loop, i64, ir

WAITING = 8  # vectors asked for together before they are compared


@kernel
def levels(y, bits, steps, out):
    """Codes out uint8 [n, W] of rotated y [n, W]: the grid, of those with `steps` in units of the row's root mean
    square, that is nearest in angle (Gao et al. 2024)."""
    n, width = y.shape
    half, most = np.float32(1 << (bits - 1)), (1 << bits) - 1
    trial = np.empty(width, np.uint8)
    for i in range(n):
        row = y[i]
        if bits == 1:
            for j in range(width):
                out[i, j] = np.uint8(row[j] > 0)
            continue
        norm = 0.0
        for j in range(width):
            norm += np.float64(row[j]) * np.float64(row[j])
        rms = np.float32(np.sqrt(norm / width))
        best = -1.0
        for s in range(steps.size):
            inverse = np.float32(1) / max(steps[s] * rms, np.float32(1e-30))
            product, square = 0.0, np.int64(0)
            for j in range(width):
                level = min(max(np.floor(row[j] * inverse) + half, np.float32(0)), np.float32(most))
                trial[j] = np.uint8(level)
                c = 2 * np.int64(level) - most
                product += np.float64(c) * np.float64(row[j])
                square += c * c
            angle = product / np.sqrt(np.float64(square))
            if angle > best:
                best = angle
                out[i, :] = trial


@intrinsic
def _planes4(typing_context, a, b, c, d, query, chunks, bits):
    """The sums of codes times the query's bytes for four rows, exact int32."""

    def generate(context, builder, signature, args):
        e = builder
        *rows, query, chunks, bits = args
        one = ir.Constant(simd.octets, [1] * 64)
        zero = Lanes(e, simd.zero_ints())
        with Loop(e, chunks, [zero] * 4) as loop:
            first = e.mul(e.mul(loop.index, bits), i64(8))
            with Loop(e, bits, [zero] * 4) as inner:
                at = e.add(first, e.mul(inner.index, i64(8)))
                codes = []
                for row, code in zip(rows, inner.carried, strict=True):
                    word = e.load(e.inttoptr(e.add(row, at), ir.PointerType(ir.IntType(64))), align=1)
                    value = e.bitcast(code.value, simd.octets)
                    doubled = e.add(value, value)
                    set_ = e.bitcast(word, ir.VectorType(ir.IntType(1), 64))
                    codes.append(Lanes(e, e.bitcast(e.select(set_, e.add(doubled, one), doubled), simd.ints)))
                inner.next(*codes)
            signed = simd.load_ints(e, e.add(query, e.mul(loop.index, i64(64))))
            both = zip(inner.results, loop.carried, strict=True)
            loop.next(*(Lanes(e, simd.dot_bytes(e, total.value, code.value, signed)) for code, total in both))
        return context.make_tuple(e, signature.return_type, [simd.sum_ints(e, s.value) for s in loop.results])

    return types.UniTuple(types.int32, 4)(*[ADDRESS] * 7), generate


@inline
def _four(codes, which, first, some, query, width, bits):
    base, stride = codes.ctypes.data, codes.shape[1]
    last = first + some - 1
    return _planes4(
        base + stride * which[first],
        base + stride * which[min(first + 1, last)],
        base + stride * which[min(first + 2, last)],
        base + stride * which[last],
        query,
        width >> 6,
        bits,
    )


@inline
def _estimate(total, tail, base, scale, offset):
    product = scale * np.float32(2 * np.int64(total) - offset)
    return base + (float_at(tail) + float_at(tail + 4) * product)


@kernel
def estimate_all(codes, which, bases, query, width, bits, out):
    """out [n]: estimates of the rows which [n] with their `bases`, for one encoded query (uint8)."""
    tail, address = codes.shape[1] - 16, query.ctypes.data
    scale = float_at(address + width)
    offset = np.int64(int32_at(address + width + 4)) * ((1 << bits) - 1)
    for first in range(0, which.size, 4):
        some = min(4, which.size - first)
        sums = _four(codes, which, first, some, address, width, bits)
        for j in range(some):
            at = codes.ctypes.data + codes.shape[1] * which[first + j] + tail
            out[first + j] = _estimate(sums[j], at, bases[first + j], scale, offset)


@kernel
def bounded_search(
    codes, bits, width, order, starts, mask, cells, bases, gaps, coded, noise,
    rows, ids, tail, queries, k, kind, metric, exact_width, out, out_rows, compared,
):  # fmt: skip
    """The k nearest of the probed lists and of `tail`; only what the bound cannot exclude is compared exactly.

    cells, bases, gaps [Q, P]: the gap is epsilon |q - c|; coded, queries: uint8 rows in the form of codes and of the
    stored vectors; noise [Q]: epsilon times the length of what the query's bytes leave out; compared [Q]: how many
    were.
    """
    which = np.empty(longest(starts, cells), np.int64)
    waiting = np.empty(WAITING, np.int64)
    base, stride = rows.ctypes.data, rows.shape[1]
    for q in range(cells.shape[0]):
        best, found, query = out[q], out_rows[q], queries[q].ctypes.data
        best[:] = np.inf
        found[:] = -1
        size, held, compared[q] = 0, 0, tail.size
        for first in range(0, tail.size, 4):
            some = min(4, tail.size - first)
            distances = distances_of(rows, kind, metric, exact_width, tail, first, some, query)
            for j in range(some):
                if size < k or distances[j] <= best[k - 1]:
                    size = _keep(best, found, size, k, distances[j], tail[first + j], ids)
        address = coded[q].ctypes.data
        scale = float_at(address + width)
        offset = np.int64(int32_at(address + width + 4)) * ((1 << bits) - 1)
        for p in range(cells.shape[1] + 1):
            n = 0
            if p < cells.shape[1]:
                n = gather(order, starts, mask, cells[q, p : p + 1], which)
            for first in range(0, n + 1, 4):  # one more turn, to compare who still waits after the last list
                some = min(4, n - first)
                if some > 0:
                    sums = _four(codes, which, first, some, address, width, bits)
                    for j in range(some):
                        row = which[first + j]
                        at = codes.ctypes.data + codes.shape[1] * row + codes.shape[1] - 16
                        slack = float_at(at + 8) * gaps[q, p] + float_at(at + 12) * noise[q]
                        lower = _estimate(sums[j], at, bases[q, p], scale, offset) - slack
                        if size < k or lower <= best[k - 1]:
                            waiting[held] = row
                            held += 1
                            fetch(base + stride * row, stride)
                if held > WAITING - 4 or p == cells.shape[1]:
                    for start in range(0, held, 4):
                        some = min(4, held - start)
                        distances = distances_of(rows, kind, metric, exact_width, waiting, start, some, query)
                        for j in range(some):
                            if size < k or distances[j] <= best[k - 1]:
                                size = _keep(best, found, size, k, distances[j], waiting[start + j], ids)
                    compared[q] += held
                    held = 0


@intrinsic
def _ones_apart(typing_context, a, b, words):
    """How many bits differ between `words` words of 64 bits at two addresses."""

    def generate(context, builder, signature, args):
        e = builder
        a, b, words = args
        word = ir.PointerType(ir.IntType(64))
        count = simd.ir.FunctionType(i64, [i64])
        popcount = simd.cgutils.get_or_insert_function(e.module, count, "llvm.ctpop.i64")
        total = simd.cgutils.alloca_once_value(e, i64(0))
        with Loop(e, words) as loop:
            at = e.mul(loop.index, i64(8))
            x, y = (e.load(e.inttoptr(e.add(z, at), word), align=1) for z in (a, b))
            e.store(e.add(e.load(total), e.call(popcount, [e.xor(x, y)])), total)
            loop.next()
        return e.load(total)

    return types.int64(ADDRESS, ADDRESS, ADDRESS), generate


@kernel
def hamming_search(order, starts, mask, cells, codes, queries, keep, out):
    """The `keep` rows of the probed lists whose bits, uint8 [N, S], differ least from the query's; out, -1 behind."""
    which = np.empty(longest(starts, cells), np.int64)
    keys = np.empty(room_for(keep), np.int64)
    base, stride = codes.ctypes.data, codes.shape[1]
    for q in range(cells.shape[0]):
        n = gather(order, starts, mask, cells[q], which)
        size, limit = 0, np.float32(np.inf)
        for i in range(n):
            row = which[i]
            d = np.float32(_ones_apart(base + stride * row, queries[q].ctypes.data, stride >> 3))
            if d <= limit:
                keys[size] = key_of(d, row)
                size += 1
                if size == keys.size:
                    limit = shrink(keys, size, keep)
                    size = keep
        finish(keys, size, keep, out[q])
