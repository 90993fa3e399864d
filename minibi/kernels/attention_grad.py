"""The gradient of scaled dot-product attention over packed texts, in memory that grows with a text, not its square.

For each text and head, a block of queries at a time: scores and softmax once more (P), dP = dO V^T, from both
dS = P (dP - sum(P dP)) / sqrt(D), and from these dQ = dS K, dK += dS^T Q, dV += P^T dO. The six products run on the
tiles of `matmul` and `matmul_grad`. (Recomputing P by blocks: Dao et al. 2022, FlashAttention.)

With dropout, weights are dropped after the softmax, as the rows of token, then head, and dropped once more on the way
back: out = (P kept) V, so dP = dO V^T kept and dV += (P kept)^T dO.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .attention import (
    VALUE_PANEL,
    WIDE,
    _pack_keys,
    _pack_values,
    copy_block,
    multiply_half,
    scores_of,
    softmax_rows,
    weigh_values,
)  # fmt: skip
from .cache import inline, kernel
from .dropout import drop_rows_at
from .matmul import PANEL, ROWS, row_addresses
from .memory import ADDRESS
from .simd import LANES, Loop, f32, i64

QUERIES = 32 * ROWS  # in a block


@intrinsic
def _add_columns(typing_context, a, lda, b, k, c, ldc, rows):
    """c [rows, VALUE_PANEL] += a^T @ b for up to ROWS columns of `a` [k, rows], read down; b [k, VALUE_PANEL]."""

    def generate(context, builder, signature, args):
        e = builder
        a, lda, b, k, c, ldc, rows = args
        columns, outs = row_addresses(e, a, i64(4), rows), row_addresses(e, c, ldc, rows)
        start = [simd.load(e, out, 64 * j) for out in outs for j in range(WIDE)]
        with Loop(e, k, start) as loop:
            panel, at = e.add(b, e.mul(loop.index, i64(4 * VALUE_PANEL))), e.mul(loop.index, lda)
            loaded = [simd.load(e, panel, 64 * j) for j in range(WIDE)]
            factors = [simd.broadcast(e, e.add(column, at)) for column in columns]
            pairs = [(x, y) for x in factors for y in loaded]
            loop.next(*(x.fma(y, total) for (x, y), total in zip(pairs, loop.carried, strict=True)))
        for i in range(ROWS):
            with e.if_then(e.icmp_signed(">", rows, i64(i))):
                for j in range(WIDE):
                    simd.store(e, loop.results[i * WIDE + j], outs[i], 64 * j)
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 7), generate


@intrinsic
def softmax_grad_rows(typing_context, p, dp, stride, n, totals, scale):
    """In ROWS rows: p[:n] /= total; dp[:n] <- p (dp - sum(p dp)) scale. Rows lie `stride` bytes apart.

    Both are finite up to a multiple of 16, and p is 0 there. All rows go together, as in `softmax_rows`.
    """

    def generate(context, builder, signature, args):
        e = builder
        p, dp, stride, n, totals, scale = args
        rows = [e.mul(stride, i64(r)) for r in range(ROWS)]
        inverse = [e.fdiv(f32(1.0), simd.load_scalar(e, e.add(totals, i64(4 * r)))) for r in range(ROWS)]
        with Loop(e, n, [simd.constant(e, 0.0)] * ROWS, step=LANES) as loop:
            at = e.mul(loop.index, i64(4))
            places = [e.add(row, at) for row in rows]
            pairs = [(simd.load(e, e.add(p, place)), simd.load(e, e.add(dp, place))) for place in places]
            loop.next(*(x.fma(y, total) for (x, y), total in zip(pairs, loop.carried, strict=True)))
        means = [simd.splat(e, e.fmul(simd.sum_lanes(e, x), i)) for x, i in zip(loop.results, inverse, strict=True)]
        scales = [simd.splat(e, e.fmul(i, scale)) for i in inverse]
        inverse = [simd.splat(e, i) for i in inverse]
        with Loop(e, n, step=LANES) as loop:
            at = e.mul(loop.index, i64(4))
            for r, row in enumerate(rows):
                weight_at, slope_at = e.add(p, e.add(row, at)), e.add(dp, e.add(row, at))
                weight = simd.load(e, weight_at)
                d = weight * scales[r] * (simd.load(e, slope_at) - means[r])
                simd.store(e, weight * inverse[r], weight_at)
                simd.store(e, d, slope_at)
            loop.next()
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 5, types.float32), generate


def scratch_floats(longest: int, width: int) -> int:
    """How much scratch `attend_grad` needs for texts up to `longest` tokens and heads of `width`."""
    padded = -(-longest // PANEL) * PANEL
    return 3 * padded * width + 2 * QUERIES * padded + QUERIES * VALUE_PANEL + ROWS + 64


@inline
def _add_outer(weights, padded, count, length, rows, stride, width, panel, out, out_stride):
    """out [S, D] += weights [count, S]^T @ rows [count, D]."""
    for block in range(0, width, VALUE_PANEL):
        for i in range(count):
            copy_block(rows + stride * i + 4 * block, VALUE_PANEL, panel + 4 * VALUE_PANEL * i)
        for j in range(0, length, ROWS):
            target = out + out_stride * j + 4 * block
            _add_columns(weights + 4 * j, 4 * padded, panel, count, target, out_stride, min(ROWS, length - j))


@kernel
def attend_dropped(q, k, v, starts, scale, token, place, scratch, out):
    """`attention.attend` with dropout (`place`: see `dropout`) of texts that begin with token `token` of theirs.

    All [T, H, D], D a multiple of VALUE_PANEL. scratch: `scratch_floats` of the longest text, of this thread alone.
    """
    heads, width = q.shape[1], q.shape[2]
    factor = np.float32(scale * 1.4426950408889634)
    sums = np.empty(ROWS, np.float32)
    for text in range(starts.size - 1):
        first, length = starts[text], starts[text + 1] - starts[text]
        padded = (length + PANEL - 1) // PANEL * PANEL
        keys = (scratch.ctypes.data + 63) // 64 * 64
        values, scores = keys + 4 * padded * width, keys + 8 * padded * width
        for head in range(heads):
            at = 4 * head * width
            _pack_keys(k.ctypes.data + k.strides[0] * first + at, k.strides[0], length, width, keys)
            _pack_values(v.ctypes.data + v.strides[0] * first + at, v.strides[0], length, width, values)
            for i in range(0, length, ROWS):
                rows = min(ROWS, length - i)
                row = q.ctypes.data + q.strides[0] * (first + i) + at
                done = out.ctypes.data + out.strides[0] * (first + i) + at
                scores_of(row, q.strides[0], rows, keys, length, width, scores, padded)
                softmax_rows(scores, 4 * padded, length, factor, sums.ctypes.data)
                number = heads * (place[3] + token + first + i) + head
                drop_rows_at(scores, 4 * padded, length, rows, number, heads, place)
                for block in range(0, width, VALUE_PANEL):
                    at_block, there = values + 4 * block * length, done + 4 * block
                    weigh_values(
                        scores, 4 * padded, length, at_block, rows, sums.ctypes.data, there, out.strides[0]
                    )  # fmt: skip


@kernel
def attend_grad(dout, q, k, v, starts, scale, token, place, scratch, dq, dk, dv):
    """dq, dk, dv of `attention.attend`, all [T, H, D], D a multiple of VALUE_PANEL; each may be part of a wider array.

    dout [T, H, D]. token, place: as in `attend_dropped`. scratch: `scratch_floats` of the longest text, of this thread.
    """
    heads, width = q.shape[1], q.shape[2]
    drops = place[1] > 0
    factor = np.float32(scale * 1.4426950408889634)
    for text in range(starts.size - 1):
        first, length = starts[text], starts[text + 1] - starts[text]
        dk[first : first + length] = 0
        dv[first : first + length] = 0
        padded = (length + PANEL - 1) // PANEL * PANEL
        keys = (scratch.ctypes.data + 63) // 64 * 64
        values, key_rows = keys + 4 * padded * width, keys + 8 * padded * width
        p = key_rows + 4 * padded * width
        dp = p + 4 * QUERIES * padded
        panel = dp + 4 * QUERIES * padded
        sums = panel + 4 * QUERIES * VALUE_PANEL
        for head in range(heads):
            at = 4 * head * width
            k_at, v_at = k.ctypes.data + k.strides[0] * first + at, v.ctypes.data + v.strides[0] * first + at
            _pack_keys(k_at, k.strides[0], length, width, keys)
            _pack_keys(v_at, v.strides[0], length, width, values)
            _pack_values(k_at, k.strides[0], length, width, key_rows)
            for begin in range(0, length, QUERIES):
                count = min(QUERIES, length - begin)
                q_at = q.ctypes.data + q.strides[0] * (first + begin) + at
                d_at = dout.ctypes.data + dout.strides[0] * (first + begin) + at
                dq_at = dq.ctypes.data + dq.strides[0] * (first + begin) + at
                for i in range(0, count, ROWS):
                    rows = min(ROWS, count - i)
                    pi, di = p + 4 * padded * i, dp + 4 * padded * i
                    scores_of(q_at + q.strides[0] * i, q.strides[0], rows, keys, length, width, pi, padded)
                    softmax_rows(pi, 4 * padded, length, factor, sums)
                    scores_of(d_at + dout.strides[0] * i, dout.strides[0], rows, values, length, width, di, padded)
                    number = heads * (place[3] + token + first + begin + i) + head
                    if drops:
                        drop_rows_at(di, 4 * padded, length, rows, number, heads, place)
                    softmax_grad_rows(pi, di, 4 * padded, length, sums, scale)
                    if drops:
                        drop_rows_at(pi, 4 * padded, length, rows, number, heads, place)
                    for block in range(0, width, VALUE_PANEL):
                        panel_at, out = key_rows + 4 * block * length, dq_at + dq.strides[0] * i + 4 * block
                        multiply_half(di, 4 * padded, panel_at, length, out, dq.strides[0], rows, panel_at, 0)
                dv_at = dv.ctypes.data + dv.strides[0] * first + at
                dk_at = dk.ctypes.data + dk.strides[0] * first + at
                _add_outer(p, padded, count, length, d_at, dout.strides[0], width, panel, dv_at, dv.strides[0])
                _add_outer(dp, padded, count, length, q_at, q.strides[0], width, panel, dk_at, dk.strides[0])
