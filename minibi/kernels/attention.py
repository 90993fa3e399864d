"""Scaled dot-product attention over packed texts, without padding and without a T x T matrix.

For each text and head: the keys are copied transposed into panels, the values into panels, and then six queries at a
time run through scores -> softmax -> weighted sum of values, with six rows of scores as the only scratch.
Vaswani et al. 2017, equation 1.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import kernel
from .matmul import ADDRESS, PANEL, ROWS, VECTORS, multiply_panel, tile
from .simd import LANES, Loop, i64

WIDE = min(VECTORS, 2)  # vectors of a value panel: heads are mostly 32 or 64 wide
VALUE_PANEL = WIDE * LANES
weigh_values = tile(WIDE)


@intrinsic
def softmax_row(typing_context, p, n, scale):
    """p[:n] <- 2^(scale (p - max p)), zero up to the next multiple of 16; returns the sum.

    With scale = log2(e) / sqrt(D) the weights are p / sum. The caller divides the D outputs instead of the n weights.
    """

    def generate(context, builder, signature, args):
        e = builder
        p, n, scale = args
        last = e.mul(e.sdiv(e.sub(n, i64(1)), i64(LANES)), i64(LANES))
        end = e.add(p, e.mul(last, i64(4)))
        simd.store(e, simd.keep_first(e, simd.load(e, end), e.sub(n, last), -3e38), end)
        with Loop(e, n, [simd.constant(e, -3e38)], step=LANES) as loop:
            loop.next(loop.carried[0].max(simd.load(e, e.add(p, e.mul(loop.index, i64(4))))))
        top = simd.splat(e, simd.max_lanes(e, loop.results[0]))
        factor = simd.splat(e, scale)
        shift = top * factor * -1.0
        with Loop(e, n, [simd.constant(e, 0.0)], step=LANES) as loop:
            at = e.add(p, e.mul(loop.index, i64(4)))
            weight = simd.exp2(simd.load(e, at).fma(factor, shift))
            simd.store(e, weight, at)
            loop.next(loop.carried[0] + weight)
        return simd.sum_lanes(e, loop.results[0])

    return types.float32(ADDRESS, ADDRESS, types.float32), generate


@kernel
def attend(q, k, v, starts, scale, out):
    """out [T, H, D] = softmax(q k^T scale) v within each text; q, k, v [T, H, D] may be views of one [T, 3, H, D].

    `starts` int64 [B+1] delimits the texts. Scratch: 2 * S * D floats for the longest text of S tokens.
    """
    heads, width = q.shape[1], q.shape[2]
    longest = 1
    for text in range(starts.size - 1):
        longest = max(longest, starts[text + 1] - starts[text])
    padded = (longest + PANEL - 1) // PANEL * PANEL
    blocks = (width + VALUE_PANEL - 1) // VALUE_PANEL
    keys = np.zeros(padded * width, np.float32)  # [S/PANEL, D, PANEL]
    values = np.zeros(blocks * longest * VALUE_PANEL, np.float32)  # [D/VALUE_PANEL, S, VALUE_PANEL]
    scores = np.zeros((ROWS, padded), np.float32)
    mixed = np.empty((ROWS, blocks * VALUE_PANEL), np.float32)
    factor = np.float32(scale * 1.4426950408889634)
    row_bytes = q.strides[0]
    for text in range(starts.size - 1):
        first, length = starts[text], starts[text + 1] - starts[text]
        for head in range(heads):
            for t in range(length):
                base = t // PANEL * PANEL * width + t % PANEL
                for d in range(width):
                    keys[base + d * PANEL] = k[first + t, head, d]
                    block, column = d // VALUE_PANEL, d % VALUE_PANEL
                    values[(block * length + t) * VALUE_PANEL + column] = v[first + t, head, d]
            for i in range(0, length, ROWS):
                rows = min(ROWS, length - i)
                query = q[first + i :, head].ctypes.data
                for n in range(0, length, PANEL):
                    panel = keys.ctypes.data + 4 * n * width
                    multiply_panel(query, row_bytes, panel, width, scores.ctypes.data + 4 * n, 4 * padded, rows)
                sums = np.empty(ROWS, np.float32)
                for r in range(rows):
                    sums[r] = softmax_row(scores.ctypes.data + 4 * r * padded, length, factor)
                for block in range(blocks):
                    panel = values.ctypes.data + 4 * block * length * VALUE_PANEL
                    target = mixed.ctypes.data + 4 * block * VALUE_PANEL
                    weigh_values(scores.ctypes.data, 4 * padded, panel, length, target, mixed.strides[0], rows)
                for r in range(rows):
                    for d in range(width):
                        out[first + i + r, head, d] = mixed[r, d] / sums[r]
