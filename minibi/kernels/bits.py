"""Codes of one to eight bits per coordinate, kept as planes of bits, and signs compared by counting.

    row      for each 64 coordinates `bits` words of 64 bits, highest plane first; then add, factor, error, length
    query    that of `kernels.codes`: signed bytes, their scale and sum

An estimate is base + (add + factor * <code, query>); a vector is nearer than that by more than

    epsilon * (error * gap + length * noise)

with the probability that RaBitQ promises (`minibi.index.rabitq`). What that cannot exclude is compared exactly.

Queries that read the same list read it together, 64 rows at a time, which stay near: `visits` (`minibi.index.lists`)
names pairs of a query and a probe as q P + p; those of a group, pairs[firsts[g] : firsts[g + 1]], share a list.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import inline, kernel
from .distance import _keep, distances_of
from .ivf import finish, room_for, select
from .keys import fetch
from .memory import ADDRESS, float_at, int32_at
from .simd import LANES, Lanes, Loop, i64, ir
from .sixteen import BLOCK, across, lowest_bit, row_numbers, terms16

WAITING = 16  # vectors asked for together before they are compared
TAIL = 16  # bytes of a row behind its bits


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
def _sums16(typing_context, codes, stride, block, query, chunks, bits, out):
    """out int32 [16]: codes times the query's bytes, for the 16 rows whose numbers are at `block`, exact."""

    def generate(context, builder, signature, args):
        e = builder
        codes, stride, block, query, chunks, bits, out = args
        rows = [e.add(codes, e.mul(stride, row)) for row in row_numbers(e, block)]
        one, none = (ir.Constant(simd.octets, [x] * 64) for x in (1, 0))
        with Loop(e, bits, [Lanes(e, simd.zero_ints())] * LANES) as plane:  # the sum of each is twice the next one's
            doubled = [Lanes(e, e.add(total.value, total.value)) for total in plane.carried]
            with Loop(e, chunks, doubled) as loop:
                at = e.mul(e.add(e.mul(loop.index, bits), plane.index), i64(8))
                signed = simd.load_ints(e, e.add(query, e.mul(loop.index, i64(64))))
                totals = []
                for row, total in zip(rows, loop.carried, strict=True):
                    word = e.load(e.inttoptr(e.add(row, at), ir.PointerType(i64)), align=1)
                    code = e.select(e.bitcast(word, ir.VectorType(ir.IntType(1), 64)), one, none)
                    totals.append(Lanes(e, simd.dot_bytes(e, total.value, e.bitcast(code, simd.ints), signed)))
                loop.next(*totals)
            plane.next(*loop.results)
        simd.store_ints(e, across(e, [total.value for total in plane.results]), out)
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 7), generate


@intrinsic
def _estimates16(typing_context, sums, columns, bases, scale, offset, out):
    """out float32 [16]: base + (add + factor * product) of sums int32 [16] and bases [16] (addresses)."""

    def generate(context, builder, signature, args):
        e = builder
        sums, columns, bases, scale, offset, out = args
        wide = ir.VectorType(i64, LANES)
        total = e.sext(simd.load_ints(e, sums), wide)
        total = e.sub(e.add(total, total), simd._spread(e, offset, wide))
        product = simd.splat(e, scale) * Lanes(e, e.sitofp(total, simd.floats))
        add, factor = simd.load(e, columns), simd.load(e, columns, 4 * BLOCK)
        simd.store(e, simd.load(e, bases) + (add + factor * product), out)
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS, ADDRESS, types.float32, types.int64, ADDRESS), generate


@intrinsic
def _passing16(typing_context, estimates, columns, gap, noise, limit):
    """A bit for each of sixteen rows whose estimate, less what it may be wrong by, is not above the limit."""

    def generate(context, builder, signature, args):
        e = builder
        estimates, columns, *scalars, limit = args
        gap, noise = (simd.splat(e, x) for x in scalars)
        error, length = simd.load(e, columns, 8 * BLOCK), simd.load(e, columns, 12 * BLOCK)
        lower = simd.load(e, estimates) - (error * gap + length * noise)
        passes = e.fcmp_unordered("<=", lower.value, simd.splat(e, limit).value)  # what is no number passes
        return e.zext(e.bitcast(passes, ir.IntType(LANES)), i64)

    return types.int64(ADDRESS, ADDRESS, types.float32, types.float32, types.float32), generate


@inline
def _scale_and_offset(query, width, bits):
    """Of an encoded query: its scale, and what twice a sum is too large by. query: an address."""
    return float_at(query + width), np.int64(int32_at(query + width + 4)) * ((1 << bits) - 1)


@kernel
def estimate_all(codes, which, bases, query, width, bits, out):
    """out [n]: estimates of the rows which [n] with their `bases`, for one encoded query (uint8)."""
    block, columns, sums = np.zeros(BLOCK, np.int64), np.empty((4, BLOCK), np.float32), np.empty(LANES, np.int32)
    base, found = np.zeros(LANES, np.float32), np.empty(LANES, np.float32)
    address, stride = codes.ctypes.data, codes.shape[1]
    scale, offset = _scale_and_offset(query.ctypes.data, width, bits)
    for first in range(0, which.size, LANES):
        some = min(LANES, which.size - first)
        block[:some], base[:some] = which[first : first + some], bases[first : first + some]
        terms16(address + stride - TAIL, stride, block.ctypes.data, columns.ctypes.data)
        _sums16(address, stride, block.ctypes.data, query.ctypes.data, width >> 6, bits, sums.ctypes.data)
        _estimates16(sums.ctypes.data, columns.ctypes.data, base.ctypes.data, scale, offset, found.ctypes.data)
        out[first : first + some] = found[:some]
    columns[0, 0] = sums[0] = 0  # used to the end, or Numba would free them while their addresses are in use


@inline
def _next_block(order, mask, slot, end, block):
    """Rows of order[slot:end] that `mask` lets pass, until the block is full; (the next slot, how many). What is left
    of the block repeats the last one."""
    n = 0
    while slot < end and n < BLOCK:
        row = np.int64(order[slot])
        slot += 1
        if row >= 0 and mask[row]:
            block[n] = row
            n += 1
    for j in range(n, BLOCK if n else 0):
        block[j] = block[n - 1]
    return slot, n


@inline
def _below(n):
    """A bit for each of the first n of sixteen."""
    return (np.int64(1) << max(min(n, LANES), 0)) - 1


@kernel
def bounded_search(
    codes, bits, width, order, starts, mask, cells, pairs, firsts, bases, gaps, coded, noise,
    rows, ids, tail, queries, k, kind, metric, exact_width, out, out_rows, compared,
):  # fmt: skip
    """The k nearest of the probed lists and of `tail`; only what the bound cannot exclude is compared exactly.

    cells, bases, gaps [Q, P]: the gap is epsilon |q - c|; coded, queries: uint8 rows in the form of codes and of the
    stored vectors; noise [Q]: epsilon times the length of what the query's bytes leave out; compared [Q]: how many
    were.
    """
    many, probed = cells.shape
    waiting, held, sizes = np.empty((many, WAITING), np.int64), np.zeros(many, np.int64), np.zeros(many, np.int64)
    block, columns = np.empty(BLOCK, np.int64), np.empty((4, BLOCK), np.float32)
    sums, base, found = np.empty(LANES, np.int32), np.empty(LANES, np.float32), np.empty(LANES, np.float32)
    numbers, lanes, address, stride = block.ctypes.data, columns.ctypes.data, codes.ctypes.data, codes.shape[1]
    how = kind, metric, exact_width
    for q in range(many):
        out[q], out_rows[q], compared[q] = np.inf, -1, tail.size
        sizes[q] = _compare(rows, ids, tail, tail.size, queries[q], how, out[q], out_rows[q], 0)
    for g in range(firsts.size - 1):
        cell = cells[pairs[firsts[g]] // probed, pairs[firsts[g]] % probed]
        slot, end = starts[cell], starts[cell + 1]
        while slot < end:
            slot, n = _next_block(order, mask, slot, end, block)
            for part in range(0, n, LANES):
                terms16(address + stride - TAIL, stride, numbers + 8 * part, lanes + 4 * part)
            for pair in pairs[firsts[g] : firsts[g + 1]]:
                q, p = pair // probed, pair % probed
                query = coded[q].ctypes.data
                scale, offset = _scale_and_offset(query, width, bits)
                base[:] = bases[q, p]
                for part in range(0, n, LANES):
                    _sums16(address, stride, numbers + 8 * part, query, width >> 6, bits, sums.ctypes.data)
                    at = lanes + 4 * part
                    _estimates16(sums.ctypes.data, at, base.ctypes.data, scale, offset, found.ctypes.data)
                    limit = out[q, k - 1] if sizes[q] >= k else np.float32(np.inf)
                    passing = _passing16(found.ctypes.data, at, gaps[q, p], noise[q], limit) & _below(n - part)
                    while passing:
                        row = block[part + lowest_bit(passing)]
                        passing &= passing - 1
                        fetch(rows.ctypes.data + rows.shape[1] * row, rows.shape[1])
                        waiting[q, held[q]] = row
                        held[q] += 1
                        if held[q] == WAITING:
                            sizes[q] = _compare(
                                rows, ids, waiting[q], WAITING, queries[q], how, out[q], out_rows[q], sizes[q]
                            )
                            compared[q] += WAITING
                            held[q] = 0
    for q in range(many):
        _compare(rows, ids, waiting[q], held[q], queries[q], how, out[q], out_rows[q], sizes[q])
        compared[q] += held[q]
    columns[0, 0] = sums[0] = 0  # used to the end, or Numba would free them while their addresses are in use


@kernel
def _compare(rows, ids, which, count, query, how, best, found, size):
    """Puts the first `count` rows of `which` among the nearest, by stored vectors; returns how many those are."""
    kind, metric, width = how
    k = best.size
    for first in range(0, count, 4):
        some = min(4, count - first)
        distances = distances_of(rows, kind, metric, width, which, first, some, query.ctypes.data)
        for j in range(some):
            if size < k or distances[j] <= best[k - 1]:
                size = _keep(best, found, size, k, distances[j], which[first + j], ids)
    return size


@intrinsic
def _apart16(typing_context, codes, stride, block, query, pieces, limit, out):
    """out int32 [16]: how many bits of the 16 rows whose numbers are at `block` differ from the query's, in `pieces` of
    128; returns a bit for each that has at most `limit`."""

    def generate(context, builder, signature, args):
        e = builder
        codes, stride, block, query, pieces, limit, out = args
        rows = [e.add(codes, e.mul(stride, row)) for row in row_numbers(e, block)]
        two, eight = (ir.VectorType(i64, n) for n in (2, 8))

        def order(*places):
            return ir.Constant(ir.VectorType(simd.i32, len(places)), places)

        with Loop(e, pieces, [Lanes(e, ir.Constant(eight, [0] * 8))] * 4) as loop:
            at = e.mul(loop.index, i64(16))

            def piece(address):
                return e.load(e.inttoptr(e.add(address, at), ir.PointerType(two)), align=1)

            asked = piece(query)
            asked, counts = e.shuffle_vector(asked, asked, order(*[0, 1] * 4)), []
            for first, total in zip(range(0, LANES, 4), loop.carried, strict=True):
                a, b, c, d = (piece(row) for row in rows[first : first + 4])
                pairs = [e.shuffle_vector(*both, order(0, 1, 2, 3)) for both in ((a, b), (c, d))]
                four = e.shuffle_vector(*pairs, order(*range(8)))
                ones = simd._call(e, "llvm.ctpop.v8i64", eight, [e.xor(four, asked)])
                counts.append(Lanes(e, e.add(total.value, ones)))
            loop.next(*counts)
        halves = [e.bitcast(total.value, simd.ints) for total in loop.results]  # counts in every other lane
        low = [e.shuffle_vector(*halves[i : i + 2], order(*range(0, 32, 4))) for i in (0, 2)]
        high = [e.shuffle_vector(*halves[i : i + 2], order(*range(2, 32, 4))) for i in (0, 2)]
        sums = e.add(*(e.shuffle_vector(*both, order(*range(LANES))) for both in (low, high)))
        simd.store_ints(e, sums, out)
        within = e.icmp_signed("<=", sums, simd.spread_int(e, e.trunc(limit, simd.i32)))
        return e.zext(e.bitcast(within, ir.IntType(LANES)), i64)

    return types.int64(*[ADDRESS] * 6, ADDRESS), generate


@kernel
def hamming_search(order, starts, mask, cells, pairs, firsts, codes, queries, keep, out):
    """The `keep` rows of the probed lists whose bits, uint8 [N, S], differ least from the query's; out, -1 behind."""
    many, probed = cells.shape
    keys, sizes = np.empty((many, room_for(keep)), np.int64), np.zeros(many, np.int64)
    limits, room = np.full(many, 8 * codes.shape[1], np.int64), room_for(keep)
    block, sums = np.empty(BLOCK, np.int64), np.empty(LANES, np.int32)
    address, stride = codes.ctypes.data, codes.shape[1]
    for g in range(firsts.size - 1):
        cell = cells[pairs[firsts[g]] // probed, pairs[firsts[g]] % probed]
        slot, end = starts[cell], starts[cell + 1]
        while slot < end:
            slot, n = _next_block(order, mask, slot, end, block)
            for pair in pairs[firsts[g] : firsts[g + 1]]:
                q = pair // probed
                query = queries[q].ctypes.data
                for part in range(0, n, LANES):
                    numbers = block.ctypes.data + 8 * part
                    near = _apart16(address, stride, numbers, query, stride >> 4, limits[q], sums.ctypes.data)
                    near &= _below(n - part)
                    while near:
                        lane = lowest_bit(near)
                        near &= near - 1
                        keys[q, sizes[q]] = np.int64(sums[lane]) << 32 | block[part + lane]
                        sizes[q] += 1
                        if sizes[q] == room:
                            select(keys[q], room, keep)
                            sizes[q], limits[q] = keep, keys[q, keep - 1] >> 32
    for q in range(many):
        finish(keys[q], sizes[q], keep, out[q])
    sums[0] = block[0] = 0  # used to the end, or Numba would free them while their addresses are in use
