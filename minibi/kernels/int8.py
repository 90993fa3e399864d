"""Matrix products on bytes: four times the arithmetic of float32 in the same instruction.

Rows of the input become unsigned bytes with a scale and a zero point of their own (asymmetric, per token), columns of
the weights signed bytes with a scale of their own (symmetric, per channel). The product of bytes is an exact int32;
what rounding there is happens once per output element, in one order, so a row gives the same bits in any batch and on
any processor.

    x[t, k] ~ scale[t] (code[t, k] - zero[t])        w[k, n] ~ column_scale[n] byte[k, n]
    y[t, n] = scale[t] column_scale[n] (sum_k code byte - zero[t] sum_k byte) + bias[n] + x[t, c] w[c, n]

One input channel c stays float. Transformers have channels many times larger than the rest (Dettmers et al. 2022), and
a range stretched by one of them has few steps left for the others: taking out a single one halves the error.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import functions, matmul, simd
from .cache import inline, kernel
from .matmul import (
    GELU,
    NONE,
    PANEL,
    ROWS,
    VECTORS,
    activate,
    at_once,
    fetch_tile,
    for_kind,
    lasting,
    row_addresses,
    tile_count,
    tile_rows,
)
from .memory import ADDRESS, address, float_at, set_float
from .norm import TOGETHER
from .simd import LANES, Loop, f32, i64


def pack8(w, channel=0):
    """w [K, N] -> (bytes [N/PANEL, K/4, PANEL, 4], columns [3, N]), N and K filled up by zeros.

    columns: the scales, the sums of the bytes, and row `channel` of w as it is, whose bytes are zero.
    """
    k, n = w.shape
    deep, wide = -(-k // 4) * 4, -(-n // PANEL) * PANEL
    full = np.zeros((deep, wide), np.float32)
    full[:k, :n] = w
    columns = lasting((3, wide))
    columns[2] = full[channel]
    full[channel] = 0
    top = np.abs(full).max(axis=0)
    scale = np.where(top > 1e-35, top / np.float32(127), np.float32(1)).astype(np.float32)  # a smaller one is inexact
    codes = np.rint(full / scale).astype(np.int8)
    panels = codes.reshape(deep // 4, 4, wide // PANEL, PANEL).transpose(2, 0, 3, 1)
    out = lasting(panels.shape, np.int8)
    out[:] = panels
    columns[0], columns[1] = scale, codes.sum(axis=0, dtype=np.int32)
    return out, columns


def sums_of_codes(e, height, vectors, dot, a, lda, b, k, rows, ahead, stride):
    """Emits the inner loop: int32 sums of `height` rows of codes times a panel of `vectors`, in registers.

    dot: `(e, total, row's codes, panel's codes) -> total` takes four bytes, or two shorts, of k at a time.
    """
    row = row_addresses(e, a, lda, rows, height)
    with Loop(e, k, [simd.Lanes(e, simd.zero_ints())] * (height * vectors)) as loop:
        panel = e.add(b, e.mul(loop.index, i64(64 * vectors)))
        columns = [simd.load_ints(e, panel, 64 * j) for j in range(vectors)]
        for j in range(vectors):
            simd.prefetch(e, e.add(ahead, e.mul(loop.index, stride)), 64 * j)
        at = e.mul(loop.index, i64(4))
        sums = []
        for i in range(height):
            x = simd.broadcast_int(e, e.add(row[i], at))
            for j in range(vectors):
                sums.append(simd.Lanes(e, dot(e, loop.carried[i * vectors + j].value, x, columns[j])))
        loop.next(*sums)
    return [total.value for total in loop.results]


def tile_of_codes(height, vectors, dot):
    """`matmul.tile` on codes, its sums int32; dot as for `sums_of_codes`, k in groups of as many codes as dot takes."""

    @intrinsic
    def multiply(typing_context, a, lda, b, k, c, ldc, rows, ahead, stride):
        def generate(context, builder, signature, args):
            e = builder
            a, lda, b, k, c, ldc, rows, ahead, stride = args
            sums = sums_of_codes(e, height, vectors, dot, a, lda, b, k, rows, ahead, stride)
            for i in range(height):
                with e.if_then(e.icmp_signed(">", rows, i64(i))):
                    out = e.add(c, e.mul(ldc, i64(i)))
                    for j in range(vectors):
                        simd.store_ints(e, sums[i * vectors + j], out, 64 * j)
            return context.get_dummy_value()

        return types.void(*[ADDRESS] * 9), generate

    return multiply


TERM = 16  # bytes of what is kept of a row beside its codes: scale, zero point, and the channel that stays float
AT_ONCE = matmul.AT_ONCE | {GELU: lambda x, _: functions.gelu_short(x)}


@intrinsic
def linear_tile8(typing_context, height, kind, a, lda, b, k, c, ldc, rows, ahead, stride, finish):
    """`tile_of_codes` of 6, 5 or 4 rows of bytes, its sums made floats before they leave the registers: scaled, the
    bias added, and what `kind` says if that is one of AT_ONCE.

    finish: five addresses. `terms`, TERM bytes for each row; `columns`, the panel's scales, and `step` bytes further
    its sums, and `step` further the weights of the channel that stays float; its bias; the residual, laid out as c.
    """

    def generate(context, builder, signature, args):
        e = builder
        height, kind, a, lda, b, k, c, ldc, rows, ahead, stride, finish = args
        terms, columns, step, bias, residual = cgutils.unpack_tuple(e, finish)

        def finished(sums, what):
            for j in range(VECTORS):
                column = e.add(
                    columns, i64(64 * j)
                )  # read once for all rows: a store might change it, for all LLVM knows
                scales, bytes_sum = simd.load(e, column), simd.load(e, e.add(column, step))
                weights, start = simd.load(e, e.add(column, e.mul(step, i64(2)))), simd.load(e, bias, 64 * j)
                for i in range(len(sums) // VECTORS):
                    with e.if_then(e.icmp_signed(">", rows, i64(i))):
                        scale, zero, outlier = (simd.broadcast(e, terms, TERM * i + 4 * n) for n in range(3))
                        total = (zero * -1.0).fma(bytes_sum, simd.to_floats(e, sums[i * VECTORS + j]))
                        x = outlier.fma(weights, (total * scale).fma(scales, start))
                        here = e.add(e.mul(ldc, i64(i)), i64(64 * j))
                        simd.store(e, what(x, e.add(residual, here)), e.add(c, here))

        for tall in (ROWS, 5, 4):
            with e.if_then(e.icmp_signed("==", height, i64(tall))):
                fetch_tile(e, tall, VECTORS, [c, residual], ldc)
                sums = sums_of_codes(e, tall, VECTORS, simd.dot_bytes, a, lda, b, k, rows, ahead, stride)
                for_kind(e, kind, lambda what, sums=sums: finished(sums, what), AT_ONCE)
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 11, types.UniTuple(ADDRESS, 5)), generate


@intrinsic
def quantize_row(typing_context, x, n, codes, lowest, highest):
    """n floats at x to bytes at codes; returns (scale, zero), a scale of NaN if the range is.

    [lowest, highest] holds 0. Numbers outside become its ends.
    """

    def generate(context, builder, signature, args):
        e = builder
        x, n, codes, lowest, highest = args
        span = e.fsub(highest, lowest)
        span = e.select(e.fcmp_ordered("<", span, f32(1e-30)), f32(1e-30), span)
        inverse = e.fdiv(f32(255.0), span)
        magic = f32(simd.ROUND)
        zero = e.fsub(e.fadd(e.fmul(e.fneg(lowest), inverse), magic), magic)
        factor, shift = simd.splat(e, inverse), simd.splat(e, zero)
        with Loop(e, n, step=LANES) as loop:
            y = simd.load(e, e.add(x, e.mul(loop.index, i64(4)))).fma(factor, shift).max(0.0).min(255.0)
            simd.store_bytes(e, y, e.add(codes, loop.index))
            loop.next()
        return context.make_tuple(e, signature.return_type, [e.fdiv(span, f32(255.0)), zero])

    return types.UniTuple(types.float32, 2)(ADDRESS, ADDRESS, ADDRESS, types.float32, types.float32), generate


@intrinsic
def range_rows(typing_context, x, stride, rows, n, channel):
    """min(0, x) and max(0, x) over n floats but that of `channel`, NaN where one is NaN or infinite: of the first of up
    to TOGETHER rows `stride` bytes apart, of the second and so on."""

    def generate(context, builder, signature, args):
        e = builder
        x, stride, rows, n, channel = args
        row = row_addresses(e, x, stride, rows, TOGETHER)

        def widen(index, carried, kept):
            after = []
            for start, (low, high, nothing) in zip(row, zip(*[iter(carried)] * 3, strict=True), strict=True):
                y = kept(simd.load(e, e.add(start, e.mul(index, i64(4)))))
                y = simd.without(e, y, e.sub(channel, index))
                after += [y.min(low), y.max(high), y.fma(0.0, nothing)]
            return after

        found = simd.sweep(e, n, [simd.constant(e, 0.0)] * 3 * TOGETHER, widen)
        ends = []
        for low, high, nothing in zip(*[iter(found)] * 3, strict=True):
            nothing = simd.sum_lanes(e, nothing)
            ends += [e.fsub(nothing, simd.max_lanes(e, low * -1.0)), e.fadd(nothing, simd.max_lanes(e, high))]
        return context.make_tuple(e, signature.return_type, ends)

    ends = types.UniTuple(types.float32, 2 * TOGETHER)
    return ends(*[ADDRESS] * 4, types.int64), generate


@inline
def code_rows(x, stride, rows, n, channel, ends, codes, width, terms):
    """Up to TOGETHER rows of n floats to bytes and terms; their ranges, `ends`, leave `channel` out."""
    for r in range(rows):
        row, term = x + stride * r, terms + TERM * r
        scale, zero = quantize_row(row, n, codes + width * r, ends[2 * r], ends[2 * r + 1])
        set_float(term, scale)
        set_float(term + 4, zero)
        set_float(term + 8, float_at(row + 4 * channel))


@kernel
def quantize_at(x, stride, rows, n, channel, codes, width, terms):
    """`rows` rows of n floats, `stride` bytes apart, to bytes `width` apart and terms [rows, 4]. Addresses."""
    for t in range(0, rows, TOGETHER):
        here, count = x + stride * t, min(TOGETHER, rows - t)
        ends = range_rows(here, stride, count, n, channel)
        code_rows(here, stride, count, n, channel, ends, codes + width * t, width, terms + TERM * t)


@kernel
def linear8_at(codes, lda, terms, rows, k, panels, columns, bias, residual, kind, out, width, begin, end):
    """Columns `begin` to `end`, multiples of PANEL, of out [rows, width] = activation(x @ w + bias) or + residual, from
    the bytes of x and `pack8` of w. Addresses. lda: bytes from row to row of the codes; k: a multiple of four.
    """
    tiles = tile_count(rows)
    stride = 4 * PANEL // tiles
    first = kind if at_once(kind) else NONE
    for n in range(begin, end, PANEL):
        panel = panels + n * k
        ahead = panel + PANEL * k  # the next panel, a part of it with each tile
        m = 0
        for i in range(tiles):
            here = 4 * (m * width + n)
            count = tile_rows(rows - m, tiles - i)
            finish = (terms + TERM * m, columns + 4 * n, 4 * width, bias + 4 * n, residual + here)
            linear_tile8(
                max(4, count), first, codes + lda * m, lda, panel, k // 4, out + here, 4 * width, count, ahead, stride,
                finish,
            )  # fmt: skip
            m += count
            ahead += k // 4 * stride
    if not at_once(kind):
        for m in range(rows):
            activate(kind, out + 4 * (m * width + begin), end - begin)


@kernel
def quantize(x, channel, codes, terms):
    """Rows of x [T, P] to bytes codes [T, P] and terms [T, 4]; P a multiple of 16."""
    n = x.shape[1]
    quantize_at(address(x), 4 * n, x.shape[0], n, channel, address(codes), n, address(terms))


@kernel
def linear8(codes, terms, k, panels, columns, bias, residual, kind, out):
    """`linear8_at` on arrays: codes [T, P], of which the first k columns count."""
    linear8_at(
        address(codes), codes.shape[1], address(terms), codes.shape[0], k, address(panels), address(columns),
        address(bias), address(residual), kind, address(out), out.shape[1], 0, out.shape[1],
    )  # fmt: skip
