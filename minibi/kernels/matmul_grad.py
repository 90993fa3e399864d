"""The two products of a linear layer's gradient, dX = dY W and dW = dY^T X, by the tiles of `matmul`.

W lies as it is stored, [N, K]. dX is `matmul.linear` on panels of W's rows. In dW the sum runs over tokens: six columns
of dY against a panel of X, tokens in their order, so an element is one chain of fused multiply-adds whatever the number
of threads.
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from . import simd
from .attention import copy_block, transpose_block
from .cache import kernel
from .matmul import ADDRESS, PANEL, ROWS, VECTORS, tile
from .simd import LANES, Loop, i64

BLOCK = 2048  # tokens whose part of X stays in cache while all of dY's columns pass
SCRATCH = BLOCK * PANEL + LANES
AHEAD = 4096  # bytes of a panel asked for before they are needed


def column_tile(vectors: int):
    """An intrinsic `(a, lda, b, k, c, ldc, rows)`: c += a^T @ b for up to ROWS columns of `a`.

    As `matmul.tile`, but `a` [k, rows] is read down its columns, and c [rows, vectors * 16] is added to.
    """

    @intrinsic
    def multiply(typing_context, a, lda, b, k, c, ldc, rows):
        def generate(context, builder, signature, args):
            e = builder
            a, lda, b, k, c, ldc, rows = args
            last = e.sub(rows, i64(1))
            within = [e.select(e.icmp_signed("<", i64(i), rows), i64(i), last) for i in range(ROWS)]
            columns = [e.add(a, e.mul(i64(4), i)) for i in within]
            outs = [e.add(c, e.mul(ldc, i)) for i in within]
            start = [simd.load(e, out, 64 * j) for out in outs for j in range(vectors)]
            for i in range(ROWS):  # the next tile's sums
                for j in range(vectors):
                    simd.prefetch(e, e.add(c, e.mul(ldc, i64(ROWS + i))), 64 * j)
            with Loop(e, k, start) as loop:
                panel = e.add(b, e.mul(loop.index, i64(4 * LANES * vectors)))
                loaded = [simd.load(e, panel, 4 * LANES * j) for j in range(vectors)]
                for j in range(0, 4 * LANES * vectors, 64):
                    simd.prefetch(e, panel, AHEAD + j)
                at = e.mul(loop.index, lda)
                sums = []
                for i in range(ROWS):
                    x = simd.broadcast(e, e.add(columns[i], at))
                    sums += [x.fma(loaded[j], loop.carried[i * vectors + j]) for j in range(vectors)]
                loop.next(*sums)
            for i in range(ROWS):
                with e.if_then(e.icmp_signed(">", rows, i64(i))):
                    for j in range(vectors):
                        simd.store(e, loop.results[i * vectors + j], outs[i], 64 * j)
            return context.get_dummy_value()

        return types.void(*[ADDRESS] * 7), generate

    return multiply


add_panel = tile(VECTORS, add=True)


@kernel
def pack_transposed(w, first, last, panels):
    """Panels `first` to `last` of w^T, w [N, K]: panels[p, k, j] = w[PANEL p + j, k]. N % PANEL == K % 16 == 0."""
    k = w.shape[1]
    for p in range(first, last):
        for j in range(0, PANEL, LANES):
            rows = w.ctypes.data + 4 * k * (PANEL * p + j)
            out = panels.ctypes.data + 4 * (PANEL * k * p + j)
            for i in range(0, k, LANES):
                transpose_block(rows + 4 * i, 4 * k, LANES, out + 4 * PANEL * i, 4 * PANEL)


@kernel
def pack_rows(w, first, last, panels):
    """Panels `first` to `last` of w [N, K] itself: panels[p, n, j] = w[n, PANEL p + j]. K % PANEL == 0."""
    n, k = w.shape
    for p in range(first, last):
        for i in range(n):
            copy_block(w.ctypes.data + 4 * (k * i + PANEL * p), PANEL, panels.ctypes.data + 4 * PANEL * (n * p + i))


def padded_tokens(tokens: int) -> int:
    """How long a row of dy^T is: never a multiple of a page, or all rows would contend for the same lines of cache."""
    padded = -(-tokens // LANES) * LANES
    return padded + LANES if padded % 1024 == 0 else padded


@kernel
def transpose(dy, first, last, out):
    """Columns of sixteen tokens, `first` to `last`, of out [N, padded T] = dy^T, dy [T, N]; N % 16 == 0.

    The last token is repeated up to a multiple of 16.
    """
    tokens, n = dy.shape
    stride = 4 * out.shape[1]
    for i in range(0, n, LANES):
        for j in range(first, last):
            t = LANES * j
            source, target = dy.ctypes.data + 4 * (n * t + i), out.ctypes.data + stride * i + 4 * t
            transpose_block(source, 4 * n, min(LANES, tokens - t), target, stride)


@kernel
def weight_grad(left, x, first, last, scratch, dw):
    """Panels `first` to `last` of the columns of dw [N, K] = left @ x, left = dy^T by `transpose`, x [T, K].

    K % PANEL == 0. scratch: SCRATCH floats of this thread alone.
    """
    tokens, k = x.shape
    n, stride = left.shape[0], 4 * left.shape[1]
    panel = (scratch.ctypes.data + 63) // 64 * 64
    dw[:, PANEL * first : PANEL * last] = 0
    for p in range(first, last):
        for t in range(0, tokens, BLOCK):
            count = min(BLOCK, tokens - t)
            for i in range(count):
                copy_block(x.ctypes.data + 4 * (k * (t + i) + PANEL * p), PANEL, panel + 4 * PANEL * i)
            for i in range(0, n, ROWS):
                a, out = left.ctypes.data + stride * i + 4 * t, dw.ctypes.data + 4 * (k * i + PANEL * p)
                add_panel(a, stride, panel, count, out, 4 * k, min(ROWS, n - i), panel + AHEAD, 4 * PANEL)
