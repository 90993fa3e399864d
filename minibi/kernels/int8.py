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
from numba.extending import intrinsic

from . import functions, simd
from .cache import inline, kernel
from .matmul import ADDRESS, AFTER, AHEAD, GELU, PANEL, ROWS, VECTORS, aligned, for_kind, row_addresses
from .simd import LANES, Loop, f32, i64


def pack8(w, channel=0):
    """w [K, N] -> (bytes [N/PANEL, K/4, PANEL, 4], columns [3, N]), N and K filled up by zeros.

    columns: the scales, the sums of the bytes, and row `channel` of w as it is, whose bytes are zero.
    """
    k, n = w.shape
    deep, wide = -(-k // 4) * 4, -(-n // PANEL) * PANEL
    full = np.zeros((deep, wide), np.float32)
    full[:k, :n] = w
    columns = aligned((3, wide))
    columns[2] = full[channel]
    full[channel] = 0
    top = np.abs(full).max(axis=0)
    scale = np.where(top > 1e-35, top / np.float32(127), np.float32(1)).astype(np.float32)  # a smaller one is inexact
    codes = np.rint(full / scale).astype(np.int8)
    panels = codes.reshape(deep // 4, 4, wide // PANEL, PANEL).transpose(2, 0, 3, 1)
    out = aligned(panels.shape, np.int8)
    out[:] = panels
    columns[0], columns[1] = scale, codes.sum(axis=0, dtype=np.int32)
    return out, columns


@intrinsic
def multiply_panel8(typing_context, a, lda, b, k, c, ldc, rows):
    """c[:rows] (int32) = a[:rows] (bytes) @ b for up to ROWS rows and one panel; k in groups of four bytes."""

    def generate(context, builder, signature, args):
        e = builder
        a, lda, b, k, c, ldc, rows = args
        row = row_addresses(e, a, lda, rows)
        with Loop(e, k, [simd.Lanes(e, simd.zero_ints())] * (ROWS * VECTORS)) as loop:
            panel = e.add(b, e.mul(loop.index, i64(4 * PANEL)))
            columns = [simd.load_ints(e, panel, 64 * j) for j in range(VECTORS)]
            for j in range(VECTORS):
                simd.prefetch(e, panel, AHEAD + 64 * j)
            at = e.mul(loop.index, i64(4))
            sums = []
            for i in range(ROWS):
                x = simd.broadcast_int(e, e.add(row[i], at))
                for j in range(VECTORS):
                    sums.append(simd.Lanes(e, simd.dot_bytes(e, loop.carried[i * VECTORS + j].value, x, columns[j])))
            loop.next(*sums)
        for i in range(ROWS):
            with e.if_then(e.icmp_signed(">", rows, i64(i))):
                out = e.add(c, e.mul(ldc, i64(i)))
                for j in range(VECTORS):
                    simd.store_ints(e, loop.results[i * VECTORS + j].value, out, 64 * j)
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 7), generate


@intrinsic
def finish_row8(typing_context, kind, c, bias, residual, n, columns, stride, scale, zero, outlier):
    """Turns n int32 sums at c into floats in their place, adds the bias, and applies what `kind` says.

    columns: n scales, `stride` bytes further n sums, and `stride` further the weights of the channel whose value is
    `outlier`.
    """

    def generate(context, builder, signature, args):
        e = builder
        kind, c, bias, residual, n, columns, stride, scale, zero, outlier = args
        scale, minus_zero, outlier = simd.splat(e, scale), simd.splat(e, e.fneg(zero)), simd.splat(e, outlier)
        sums = e.add(columns, stride)
        weights = e.add(sums, stride)

        def body(what):
            with Loop(e, n, step=LANES) as loop:
                at = e.mul(loop.index, i64(4))
                out = e.add(c, at)
                x = minus_zero.fma(simd.load(e, e.add(sums, at)), simd.to_floats(e, simd.load_ints(e, out)))
                x = (x * scale).fma(simd.load(e, e.add(columns, at)), simd.load(e, e.add(bias, at)))
                x = outlier.fma(simd.load(e, e.add(weights, at)), x)
                simd.store(e, what(x, e.add(residual, at)), out)
                loop.next()

        for_kind(e, kind, body, AFTER | {GELU: lambda x, _: functions.gelu_short(x)})
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 7, *[types.float32] * 3), generate


@intrinsic
def load_float(typing_context, address):
    """The float32 at an address."""

    def generate(context, builder, signature, args):
        return simd.load_scalar(builder, args[0])

    return types.float32(ADDRESS), generate


@intrinsic
def store_float(typing_context, address, x):
    """A float32 to an address."""

    def generate(context, builder, signature, args):
        simd.store_scalar(builder, args[1], args[0])
        return context.get_dummy_value()

    return types.void(ADDRESS, types.float32), generate


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
def range_row(typing_context, x, n, channel):
    """(min(0, x), max(0, x)) over n floats but that of `channel`; NaN where one is NaN or infinite."""

    def generate(context, builder, signature, args):
        e = builder
        x, n, channel = args
        zero = simd.constant(e, 0.0)
        with Loop(e, n, [zero, zero, zero], step=LANES) as loop:
            y = simd.load(e, e.add(x, e.mul(loop.index, i64(4))))
            y = simd.keep_first(e, y, e.sub(n, loop.index), 0.0)
            y = simd.without(e, y, e.sub(channel, loop.index))
            low, high, nothing = loop.carried
            loop.next(y.min(low), y.max(high), y.fma(0.0, nothing))
        low, high, nothing = loop.results
        nothing = simd.sum_lanes(e, nothing)
        ends = [e.fsub(nothing, simd.max_lanes(e, low * -1.0)), e.fadd(nothing, simd.max_lanes(e, high))]
        return context.make_tuple(e, signature.return_type, ends)

    return types.UniTuple(types.float32, 2)(ADDRESS, ADDRESS, types.int64), generate


TERM = 16  # bytes of what is kept of a row beside its codes: scale, zero point, and the channel that stays float


@inline
def code_row(row, n, channel, low, high, codes, term):
    """n floats to bytes and their term; the range [low, high] leaves `channel` out."""
    scale, zero = quantize_row(row, n, codes, low, high)
    store_float(term, scale)
    store_float(term + 4, zero)
    store_float(term + 8, load_float(row + 4 * channel))


@kernel
def quantize_at(x, stride, rows, n, channel, codes, width, terms):
    """`rows` rows of n floats, `stride` bytes apart, to bytes `width` apart and terms [rows, 4]. Addresses."""
    for t in range(rows):
        low, high = range_row(x + stride * t, n, channel)
        code_row(x + stride * t, n, channel, low, high, codes + width * t, terms + TERM * t)


@kernel
def linear8_at(codes, lda, terms, rows, k, panels, columns, bias, residual, kind, out, width):
    """out [rows, width] = activation(x @ w + bias) or + residual, from the bytes of x and `pack8` of w. Addresses.

    lda: bytes from row to row of the codes; k: a multiple of four.
    """
    for n in range(0, width, PANEL):
        panel = panels + n * k
        for m in range(0, rows, ROWS):
            here = 4 * (m * width + n)
            count = min(ROWS, rows - m)
            multiply_panel8(codes + lda * m, lda, panel, k // 4, out + here, 4 * width, count)
            for i in range(count):
                at, term = here + 4 * i * width, terms + TERM * (m + i)
                scale, zero, outlier = load_float(term), load_float(term + 4), load_float(term + 8)
                column = columns + 4 * n
                finish_row8(
                    kind, out + at, bias + 4 * n, residual + at, PANEL, column, 4 * width, scale, zero, outlier
                )  # fmt: skip


@kernel
def quantize(x, channel, codes, terms):
    """Rows of x [T, P] to bytes codes [T, P] and terms [T, 4]; P a multiple of 16."""
    n = x.shape[1]
    quantize_at(x.ctypes.data, 4 * n, x.shape[0], n, channel, codes.ctypes.data, n, terms.ctypes.data)


@kernel
def linear8(codes, terms, k, panels, columns, bias, residual, kind, out):
    """`linear8_at` on arrays: codes [T, P], of which the first k columns count."""
    linear8_at(
        codes.ctypes.data, codes.shape[1], terms.ctypes.data, codes.shape[0], k, panels.ctypes.data,
        columns.ctypes.data, bias.ctypes.data, residual.ctypes.data, kind, out.ctypes.data, out.shape[1],
    )  # fmt: skip
