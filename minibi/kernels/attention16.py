"""Attention in whole numbers of 16 bits: two products and their sum in one step of a lane, where float32 has one.

For models whose matrices are bytes already. The queries, keys and values of a head become whole numbers, with one scale
each for all tokens of a text, and the softmax writes its weights as whole numbers from 0 to 2^14. Sums are exact, so
their order cannot matter. What is rounded here is a hundredth of what the bytes around it lose.

    code = round(x / scale)      |code| <= `code_limit` for queries and keys, 1023 for values
    w[i, j] = round(2^(14 + factor (query_i . key_j - max_j)))
    out[i, d] = value_scale (sum_j w[i, j] value[j, d]) / sum_j w[i, j]
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from . import functions, simd
from .attention import VALUE_PANEL, WIDE, copy_float, on_arrays, panel_width, transpose_block
from .cache import inline, kernel
from .int8 import tile_of_codes
from .matmul import PANEL, ROWS, VECTORS, row_addresses
from .memory import ADDRESS, set_float
from .simd import LANES, Lanes, Loop, f32, i32, i64

BITS = 14  # of a weight
VALUE_LIMIT = np.float32(1023)
BLOCK = 128  # tokens whose weighted values are summed before they become floats: 128 * 2^14 * 1023 < 2^31
LEAST, TINY = -(2**31), np.float32(1e-30)
HEAD = 2 * LANES  # a head is filled up to a multiple of this: whole vectors of pairs of codes

score_panel, score_half, score_quarter = (tile_of_codes(ROWS, n, simd.dot_shorts) for n in (VECTORS, WIDE, 1))


@inline
def code_limit(width):
    """The largest code of a query or key: a sum of `width` products of such stays below 2^31."""
    return min(32767, np.int64(np.sqrt((2.0**31 - 1) / width)))


def _each(x):
    return ir.Constant(simd.ints, [x] * LANES)


def _low_shorts(e, x):
    """The low 16 bits of sixteen int32, zeros above them."""
    return e.and_(x, _each(0xFFFF))


def _store_shorts(e, x, address):
    """The low 16 bits of sixteen int32."""
    shorts = ir.VectorType(ir.IntType(16), LANES)
    e.store(e.trunc(x, shorts), e.inttoptr(address, ir.PointerType(shorts)), align=2)


@intrinsic
def largest(typing_context, x, stride, rows, n):
    """The largest magnitude in [rows, n] floats, n a multiple of 16; not finite if one of them is not."""

    def generate(context, builder, signature, args):
        e = builder
        x, stride, rows, n = args
        with Loop(e, n, [Lanes(e, simd.zero_ints())], step=LANES) as across:
            column = e.add(x, e.mul(across.index, i64(4)))
            with Loop(e, rows, across.carried) as down:
                here = simd.load(e, e.add(column, e.mul(stride, down.index))).abs()
                down.next(Lanes(e, simd.max_ints(e, here.bits(), down.carried[0].value)))
            across.next(*down.results)
        return e.bitcast(simd.top_int(e, across.results[0].value), f32)

    return types.float32(*[ADDRESS] * 4), generate


@intrinsic
def code_rows(typing_context, x, stride, rows, n, factor, out):
    """Rows of n floats, a multiple of 16, times `factor` and rounded, to [rows, n] shorts."""

    def generate(context, builder, signature, args):
        e = builder
        x, stride, rows, n, factor, out = args
        factor = simd.splat(e, factor)
        with Loop(e, rows) as down:
            row, done = e.add(x, e.mul(stride, down.index)), e.add(out, e.mul(e.mul(n, down.index), i64(2)))
            with Loop(e, n, step=LANES) as across:
                y = simd.load(e, e.add(row, e.mul(across.index, i64(4)))).fma(factor, simd.ROUND)
                _store_shorts(e, y.bits(), e.add(done, e.mul(across.index, i64(2))))
                across.next()
            down.next()
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 4, types.float32, ADDRESS), generate


@intrinsic
def code_values(typing_context, x, stride, rows, factor, out):
    """VALUE_PANEL columns of values to codes, [(rows + 1) / 2, VALUE_PANEL, 2] shorts: tokens in pairs."""

    def generate(context, builder, signature, args):
        e = builder
        x, stride, rows, factor, out = args
        factor = simd.splat(e, factor)
        last = e.sub(rows, i64(1))
        with Loop(e, rows, step=2) as down:
            first = e.add(x, e.mul(stride, down.index))
            alone = e.icmp_signed("==", down.index, last)
            second = e.select(alone, first, e.add(first, stride))
            upper = simd.splat(e, e.select(alone, f32(0.0), f32(1.0))) * factor
            done = e.add(out, e.mul(down.index, i64(2 * VALUE_PANEL)))
            for j in range(WIDE):
                low = simd.load(e, first, 64 * j).fma(factor, simd.ROUND)
                high = simd.load(e, second, 64 * j).fma(upper, simd.ROUND)
                pair = e.or_(_low_shorts(e, low.bits()), e.shl(high.bits(), _each(16)))
                simd.store_ints(e, pair, done, 64 * j)
            down.next()
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 3, types.float32, ADDRESS), generate


@intrinsic
def softmax_codes(typing_context, p, stride, n, factor, sums):
    """int32 scores p[:n] -> shorts round(2^(14 + factor (p - max p))) at the beginning of their own memory, in ROWS
    rows, zero up to the next multiple of 16; their sums as floats to `sums`. See `attention.softmax_rows`.
    """

    def generate(context, builder, signature, args):
        e = builder
        p, stride, n, factor, sums = args
        rows = [e.add(p, e.mul(stride, i64(r))) for r in range(ROWS)]
        last = e.mul(e.sdiv(e.sub(n, i64(1)), i64(LANES)), i64(LANES))
        for row in rows:
            end = e.add(row, e.mul(last, i64(4)))
            simd.store_ints(e, simd.keep_first_ints(e, simd.load_ints(e, end), e.sub(n, last), LEAST), end)
        with Loop(e, n, [Lanes(e, simd.spread_int(e, i32(LEAST)))] * ROWS, step=LANES) as loop:
            at = e.mul(loop.index, i64(4))
            both = zip(rows, loop.carried, strict=True)
            loop.next(*(Lanes(e, simd.max_ints(e, simd.load_ints(e, e.add(row, at)), top.value)) for row, top in both))
        factor = simd.splat(e, factor)
        tops = [simd.splat(e, e.sitofp(simd.top_int(e, top.value), f32)) for top in loop.results]
        shifts = [(top * -1.0).fma(factor, float(BITS)) for top in tops]

        def weigh(index, totals, kept):
            at, done = e.mul(index, i64(4)), e.mul(index, i64(2))
            for row, shift, total in zip(rows, shifts, totals, strict=True):
                score = simd.to_floats(e, simd.load_ints(e, e.add(row, at)))
                weight = kept((functions.exp2_short(score.fma(factor, shift)) + simd.ROUND).bits())
                _store_shorts(e, weight, e.add(row, done))
                yield Lanes(e, e.add(total.value, _low_shorts(e, weight)))

        with Loop(e, last, [Lanes(e, simd.zero_ints())] * ROWS, step=LANES) as loop:
            loop.next(*weigh(loop.index, loop.carried, lambda x: x))
        totals = weigh(last, loop.results, lambda x: simd.keep_first_ints(e, x, e.sub(n, last), 0))
        for r, total in enumerate(totals):
            whole = e.sitofp(simd.sum_ints(e, total.value), f32)
            simd.store_scalar(e, whole, e.add(sums, i64(4 * r)))
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS, ADDRESS, types.float32, ADDRESS), generate


@intrinsic
def weigh_codes(typing_context, p, stride, n, values, rows, scale, sums, out, out_stride):
    """VALUE_PANEL columns of out = scale / sums * p @ values for up to ROWS rows of n weights.

    p, sums: from `softmax_codes`; values: from `code_values`.
    """

    def generate(context, builder, signature, args):
        e = builder
        p, stride, n, values, rows, scale, sums, out, out_stride = args
        row = row_addresses(e, p, stride, rows)
        pairs = e.sdiv(e.add(n, i64(1)), i64(2))
        with Loop(e, pairs, [simd.constant(e, 0.0)] * (ROWS * WIDE), step=BLOCK // 2) as blocks:
            left = e.sub(pairs, blocks.index)
            count = e.select(e.icmp_signed("<", left, i64(BLOCK // 2)), left, i64(BLOCK // 2))
            with Loop(e, count, [Lanes(e, simd.zero_ints())] * (ROWS * WIDE)) as loop:
                pair = e.mul(e.add(blocks.index, loop.index), i64(4))
                panel = e.add(values, e.mul(pair, i64(VALUE_PANEL)))
                columns = [simd.load_ints(e, panel, 64 * j) for j in range(WIDE)]
                totals = []
                for i in range(ROWS):
                    x = simd.broadcast_int(e, e.add(row[i], pair))
                    for j in range(WIDE):
                        total = loop.carried[i * WIDE + j].value
                        totals.append(Lanes(e, simd.dot_shorts(e, total, x, columns[j])))
                loop.next(*totals)
            both = zip(blocks.carried, loop.results, strict=True)
            blocks.next(*(total + simd.to_floats(e, whole.value) for total, whole in both))
        for i in range(ROWS):
            with e.if_then(e.icmp_signed(">", rows, i64(i))):
                factor = simd.splat(e, e.fdiv(scale, simd.load_scalar(e, e.add(sums, i64(4 * i)))))
                done = e.add(out, e.mul(out_stride, i64(i)))
                for j in range(WIDE):
                    simd.store(e, blocks.results[i * WIDE + j] * factor, done, 64 * j)
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 5, types.float32, *[ADDRESS] * 3), generate


@inline
def scratch_floats16(longest, width):
    """How much scratch `attend16_at` needs for texts up to `longest` tokens and heads of `width`."""
    padded = (longest + PANEL - 1) // PANEL * PANEL
    deep = (width + HEAD - 1) // HEAD * HEAD
    return padded * deep * 5 // 2 + deep + ROWS * (padded + deep) + 64


@inline
def _filled_up(x, stride, rows, width, deep, out):
    """Copies rows of a head and fills them up by zeros."""
    for t in range(rows):
        for d in range(deep):
            at = out + 4 * (deep * t + d)
            if d < width:
                copy_float(x + stride * t + 4 * d, at)
            else:
                set_float(at, np.float32(0))


@inline
def _pack_keys(codes, length, deep, keys):
    """Codes [S, deep] -> panels [deep / 2, panel width, 2], one after the other."""
    n = 0
    while n < length:
        panel = panel_width(length - n)
        for t in range(0, min(panel, length - n), LANES):
            for d in range(0, deep // 2, LANES):
                rows = codes + 2 * deep * (n + t) + 4 * d
                out = keys + 2 * n * deep + 4 * (d * panel + t)
                transpose_block(rows, 2 * deep, min(LANES, length - n - t), out, 4 * panel)
        n += panel


@inline
def _scores(a, deep, rows, keys, length, out, padded):
    """out [rows, padded] = codes a [rows, deep] @ packed keys, for the first `length` of them."""
    n = 0
    while n < length:
        panel = panel_width(length - n)
        b, c = keys + 2 * n * deep, out + 4 * n
        if panel == LANES:
            score_quarter(a, 2 * deep, b, deep // 2, c, 4 * padded, rows, b, 0)
        elif panel == VALUE_PANEL:
            score_half(a, 2 * deep, b, deep // 2, c, 4 * padded, rows, b, 0)
        else:
            score_panel(a, 2 * deep, b, deep // 2, c, 4 * padded, rows, b, 0)
        n += panel


@kernel
def attend16_at(
    q, k, v, q_stride, k_stride, v_stride, starts, heads, width, scale, first_only, out, out_stride, scratch
):  # fmt: skip
    """`attention.attend_at` in whole numbers; scratch: `scratch_floats16` of the longest text."""
    deep = (width + HEAD - 1) // HEAD * HEAD
    limit = np.float32(code_limit(deep))
    sums = np.empty(ROWS, np.float32)
    for text in range(starts.size - 1):
        first, length = starts[text], starts[text + 1] - starts[text]
        padded = (length + PANEL - 1) // PANEL * PANEL
        codes = scratch
        keys = codes + 2 * padded * deep
        values = keys + 2 * padded * deep
        wide = values + 2 * (padded + 2) * deep
        scores = wide + 4 * padded * deep
        mixed = scores + 4 * ROWS * padded
        queries = 1 if first_only else length
        target = out + out_stride * (text if first_only else first)
        for head in range(heads):
            at = 4 * head * width
            q_at, k_at, v_at = q + q_stride * first + at, k + k_stride * first + at, v + v_stride * first + at
            q_row, k_row, v_row = q_stride, k_stride, v_stride
            if width != deep:
                _filled_up(k_at, k_stride, length, width, deep, wide)
                k_at, k_row = wide, 4 * deep
            k_top = largest(k_at, k_row, length, deep)
            code_rows(k_at, k_row, length, deep, limit / max(k_top, TINY), codes)
            _pack_keys(codes, length, deep, keys)
            if width != deep:
                _filled_up(v_at, v_stride, length, width, deep, wide)
                v_at, v_row = wide, 4 * deep
            v_top = largest(v_at, v_row, length, deep)
            for block in range(0, deep, VALUE_PANEL):
                panel = values + 2 * block * (length + 1)
                code_values(v_at + 4 * block, v_row, length, VALUE_LIMIT / max(v_top, TINY), panel)
            if width != deep:
                _filled_up(q_at, q_stride, length, width, deep, wide)
                q_at, q_row = wide, 4 * deep
            q_top = largest(q_at, q_row, length, deep)
            code_rows(q_at, q_row, queries, deep, limit / max(q_top, TINY), codes)
            factor = np.float32(scale * 1.4426950408889634) * (q_top / limit) * (k_top / limit)
            back = v_top / VALUE_LIMIT + np.float32(0) * q_top + np.float32(0) * k_top
            for i in range(0, queries, ROWS):
                rows = min(ROWS, queries - i)
                _scores(codes + 2 * deep * i, deep, rows, keys, length, scores, padded)
                softmax_codes(scores, 4 * padded, length, factor, sums.ctypes.data)
                done, done_stride = target + out_stride * i + at, out_stride
                if width != deep:
                    done, done_stride = mixed, 4 * deep
                for block in range(0, deep, VALUE_PANEL):
                    panel = values + 2 * block * (length + 1)
                    weigh_codes(
                        scores, 4 * padded, length, panel, rows, back, sums.ctypes.data, done + 4 * block, done_stride
                    )
                if width != deep:
                    for r in range(rows):
                        for d in range(width):
                            copy_float(mixed + 4 * (deep * r + d), target + out_stride * (i + r) + at + 4 * d)


def attend16(q, k, v, starts, scale, first_only, out):
    """`attend16_at` on arrays: q, k, v [T, H, D] may be views of one [T, 3, H, D]."""
    on_arrays(attend16_at, scratch_floats16, q, k, v, starts, scale, first_only, out)
