"""Scaled dot-product attention over packed texts, without padding and without a T x T matrix.

For each text and head: the keys are copied transposed into panels, the values into panels, and then six queries at a
time run through scores -> softmax -> weighted sum of values, with six rows of scores as the only scratch.
Vaswani et al. 2017, equation 1.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from ..shapes import aligned
from . import functions, simd
from .cache import inline, kernel
from .keys import fetch
from .matmul import PANEL, ROWS, VECTORS, multiply_panel, tile, tile_sums
from .memory import ADDRESS
from .simd import LANES, Loop, i64

WIDE = min(VECTORS, 2)  # vectors of a value panel: heads are mostly 32 or 64 wide
VALUE_PANEL = WIDE * LANES
multiply_half = tile(WIDE)  # the last key panel of a text may be narrower
multiply_quarter = tile(1)


@intrinsic
def softmax_rows(typing_context, p, stride, n, scale, sums):
    """p[:n] <- 2^(scale (p - max p)) in ROWS rows, zero up to the next multiple of 16; the rows' sums to `sums`.

    With scale = log2(e) / sqrt(D) the weights are p / sum. The caller divides the D outputs instead of the n weights.
    All rows go together: each is a chain of dependent steps, and six of them fill the processor's pipelines.
    """

    def generate(context, builder, signature, args):
        e = builder
        p, stride, n, scale, sums = args
        rows = [e.add(p, e.mul(stride, i64(r))) for r in range(ROWS)]
        last = e.mul(e.sdiv(e.sub(n, i64(1)), i64(LANES)), i64(LANES))
        for row in rows:
            end = e.add(row, e.mul(last, i64(4)))
            simd.store(e, simd.keep_first(e, simd.load(e, end), e.sub(n, last), -3e38), end)
        with Loop(e, n, [simd.constant(e, -3e38)] * ROWS, step=LANES) as loop:
            at = e.mul(loop.index, i64(4))
            loop.next(*(top.max(simd.load(e, e.add(row, at))) for top, row in zip(loop.carried, rows, strict=True)))
        factor = simd.splat(e, scale)
        shifts = [simd.splat(e, simd.max_lanes(e, top)) * factor * -1.0 for top in loop.results]
        with Loop(e, n, [simd.constant(e, 0.0)] * ROWS, step=LANES) as loop:
            at = e.mul(loop.index, i64(4))
            totals = []
            for row, shift, total in zip(rows, shifts, loop.carried, strict=True):
                weight = functions.exp2(simd.load(e, e.add(row, at)).fma(factor, shift))
                simd.store(e, weight, e.add(row, at))
                totals.append(total + weight)
            loop.next(*totals)
        for r, total in enumerate(loop.results):
            simd.store_scalar(e, simd.sum_lanes(e, total), e.add(sums, i64(4 * r)))
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS, ADDRESS, types.float32, ADDRESS), generate


@intrinsic
def transpose_block(typing_context, rows, stride, count, out, out_stride):
    """16 x 16 floats: out[j, i] = rows[min(i, count - 1), j]; strides in bytes."""

    def generate(context, builder, signature, args):
        e = builder
        rows, stride, count, out, out_stride = args
        last = e.sub(count, i64(1))
        loaded = []
        for i in range(LANES):
            within = e.select(e.icmp_signed("<", i64(i), count), i64(i), last)
            loaded.append(simd.load(e, e.add(rows, e.mul(stride, within))))
        for j, column in enumerate(simd.transpose(e, loaded)):
            simd.store(e, column, e.add(out, e.mul(out_stride, i64(j))))
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 5), generate


@intrinsic
def copy_block(typing_context, source, n, out):
    """n floats, a multiple of 16."""

    def generate(context, builder, signature, args):
        e = builder
        source, n, out = args
        with Loop(e, n, step=LANES) as loop:
            at = e.mul(loop.index, i64(4))
            simd.store(e, simd.load(e, e.add(source, at)), e.add(out, at))
            loop.next()
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 3), generate


@intrinsic
def copy_float(typing_context, source, out):
    """One float from one address to another."""

    def generate(context, builder, signature, args):
        simd.store_scalar(builder, simd.load_scalar(builder, args[0]), args[1])
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS), generate


@intrinsic
def weigh_values(typing_context, p, stride, n, values, rows, sums, out, out_stride):
    """VALUE_PANEL columns of out = p @ values / sums for up to ROWS rows of n weights; p, sums: from `softmax_rows`."""

    def generate(context, builder, signature, args):
        e = builder
        p, stride, n, values, rows, sums, out, out_stride = args
        results = tile_sums(e, ROWS, WIDE, p, stride, values, n, rows, [out], out_stride)
        for i in range(ROWS):
            with e.if_then(e.icmp_signed(">", rows, i64(i))):
                total = simd.broadcast(e, e.add(sums, i64(4 * i)))
                for j in range(WIDE):
                    simd.store(e, results[i * WIDE + j] / total, e.add(out, e.mul(out_stride, i64(i))), 64 * j)
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 8), generate


@inline
def scratch_floats(longest, width):
    """How much scratch `attend_at` needs for texts up to `longest` tokens and heads of `width`."""
    padded = (longest + PANEL - 1) // PANEL * PANEL
    wide = (width + VALUE_PANEL - 1) // VALUE_PANEL * VALUE_PANEL
    return padded * width + longest * wide + ROWS * padded + ROWS * wide + 64


@inline
def panel_width(left):
    """Keys in the next panel when `left` are left: a full panel, or for the last one the narrowest that holds them."""
    if left <= LANES:
        return LANES
    if left <= VALUE_PANEL:
        return VALUE_PANEL
    return PANEL


@inline
def _pack_keys(k, stride, length, width, keys):
    """Keys [S, D] -> panels [D, panel width], one after the other."""
    n = 0
    while n < length:
        panel = panel_width(length - n)
        out = keys + 4 * n * width
        if width % LANES == 0:
            for t in range(0, min(panel, length - n), LANES):
                for d in range(0, width, LANES):
                    transpose_block(
                        k + stride * (n + t) + 4 * d, stride, min(LANES, length - n - t), out + 4 * (d * panel + t),
                        4 * panel,
                    )  # fmt: skip
        else:
            for t in range(min(panel, length - n)):
                for d in range(width):
                    copy_float(k + stride * (n + t) + 4 * d, out + 4 * (d * panel + t))
        n += panel


@inline
def _pack_values(v, stride, length, width, values):
    """Values [S, D] -> panels [S, VALUE_PANEL]; columns beyond D keep whatever they held, and are not used."""
    for block in range(0, width, VALUE_PANEL):
        out = values + 4 * block * length
        whole = min(VALUE_PANEL, width - block)
        for t in range(length):
            row, target = v + stride * t + 4 * block, out + 4 * VALUE_PANEL * t
            if whole % LANES == 0:
                copy_block(row, whole, target)
            else:
                for d in range(whole):
                    copy_float(row + 4 * d, target + 4 * d)


@inline
def scores_of(a, stride, rows, panels, length, width, out, padded):
    """out [rows, padded] = a [rows, D] @ packed keys or values, for the first `length` columns."""
    n = 0
    while n < length:
        panel = panel_width(length - n)
        b, c = panels + 4 * n * width, out + 4 * n
        if panel == LANES:
            multiply_quarter(a, stride, b, width, c, 4 * padded, rows, b, 0)
        elif panel == VALUE_PANEL:
            multiply_half(a, stride, b, width, c, 4 * padded, rows, b, 0)
        else:
            multiply_panel(a, stride, b, width, c, 4 * padded, rows, b, 0)
        n += panel


@kernel
def attend_at(q, k, v, q_stride, k_stride, v_stride, starts, heads, width, scale, first_only, out, out_stride, scratch):
    """out [T, H, D] = softmax(q k^T scale) v within each text; q, k, v are addresses of [T, H, D] with that many
    bytes from token to token, and out too. first_only: for each text's first token alone, out [B, H, D].

    scratch: `scratch_floats` of the longest text.
    """
    factor = np.float32(scale * 1.4426950408889634)
    sums = np.empty(ROWS, np.float32)
    for text in range(starts.size - 1):
        first, length = starts[text], starts[text + 1] - starts[text]
        padded = (length + PANEL - 1) // PANEL * PANEL
        wide = (width + VALUE_PANEL - 1) // VALUE_PANEL * VALUE_PANEL
        keys = scratch
        values = keys + 4 * padded * width
        scores = values + 4 * length * wide
        mixed = scores + 4 * ROWS * padded
        queries = 1 if first_only else length
        target = out + out_stride * (text if first_only else first)
        for head in range(heads):
            at = 4 * head * width
            _pack_keys(k + k_stride * first + at, k_stride, length, width, keys)
            _pack_values(v + v_stride * first + at, v_stride, length, width, values)
            for i in range(0, queries, ROWS):
                rows = min(ROWS, queries - i)
                row = first + i
                for x, x_stride in ((q, q_stride), (k, k_stride), (v, v_stride)):  # of the next head
                    for r in range(rows):
                        fetch(x + x_stride * (row + r) + at + 4 * width, 4 * width)
                scores_of(q + q_stride * row + at, q_stride, rows, keys, length, width, scores, padded)
                softmax_rows(scores, 4 * padded, length, factor, sums.ctypes.data)
                done, done_stride = target + out_stride * i + at, out_stride
                if width != wide:
                    done, done_stride = mixed, 4 * wide
                for block in range(0, width, VALUE_PANEL):
                    panel = values + 4 * block * length
                    weigh_values(
                        scores, 4 * padded, length, panel, rows, sums.ctypes.data, done + 4 * block, done_stride
                    )
                if width != wide:
                    for r in range(rows):
                        for d in range(width):
                            copy_float(mixed + 4 * (wide * r + d), target + out_stride * (i + r) + at + 4 * d)


def on_arrays(kernel, scratch_floats, q, k, v, starts, scale, first_only, out):
    """`attend_at`, or another kernel with its operands, on arrays with scratch of its own."""
    longest = int(np.diff(starts).max(initial=1))
    scratch = aligned((scratch_floats.py_func(longest, q.shape[2]),))
    kernel(
        q.ctypes.data, k.ctypes.data, v.ctypes.data, q.strides[0], k.strides[0], v.strides[0], starts,
        q.shape[1], q.shape[2], scale, first_only, out.ctypes.data, 4 * q.shape[1] * q.shape[2], scratch.ctypes.data,
    )  # fmt: skip


def attend(q, k, v, starts, scale, first_only, out):
    """`attend_at` on arrays: q, k, v [T, H, D] may be views of one [T, 3, H, D]."""
    on_arrays(attend_at, scratch_floats, q, k, v, starts, scale, first_only, out)
