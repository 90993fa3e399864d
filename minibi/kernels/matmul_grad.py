"""The two products of a linear layer's gradient, dX = dY W and dW = dY^T X, by the tiles of `matmul`.

W lies as it is stored, [N, K]. dX is `matmul.linear` on panels of W's rows. In dW the sum runs over tokens: six columns
of dY against a panel of X, tokens in their order, so an element is one chain of fused multiply-adds whatever the number
of threads.
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from . import simd
from .attention import copy_block, copy_float, transpose_block
from .cache import kernel
from .matmul import ADDRESS, AHEAD, PANEL, ROWS, VECTORS
from .simd import LANES, Loop, i64

BLOCK = 512  # tokens whose part of X stays in cache while all of dY's columns pass


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


add_columns = column_tile(VECTORS)


@intrinsic
def pack_columns(typing_context, a, lda, count, out):
    """ROWS columns of `a` [count, ...] end to end, [count, ROWS]; up to LANES floats beyond may be read and written."""

    def generate(context, builder, signature, args):
        e = builder
        a, lda, count, out = args
        with Loop(e, count) as loop:  # each store leaves a surplus behind, which the next one covers
            x = simd.load(e, e.add(a, e.mul(loop.index, lda)))
            simd.store(e, x, e.add(out, e.mul(loop.index, i64(4 * ROWS))))
            loop.next()
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 4), generate


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


def scratch_floats(n: int) -> int:
    """How much scratch `weight_grad` needs for N columns of dy."""
    return BLOCK * (PANEL + n + ROWS) + 2 * LANES


@kernel
def weight_grad(dy, x, first, last, scratch, dw):
    """Panels `first` to `last` of the columns of dw [N, K] = dy^T @ x, dy [T, N], x [T, K]; K % PANEL == 0.

    scratch: `scratch_floats(N)`, of this thread alone.
    """
    tokens, n = dy.shape
    k = x.shape[1]
    tiles = (n + ROWS - 1) // ROWS
    panel = (scratch.ctypes.data + 63) // 64 * 64
    columns = panel + 4 * BLOCK * PANEL
    dw[:, PANEL * first : PANEL * last] = 0
    for t in range(0, tokens, BLOCK):
        count = min(BLOCK, tokens - t)
        for i in range(tiles):
            source, out = dy.ctypes.data + 4 * (n * t + ROWS * i), columns + 4 * ROWS * BLOCK * i
            pack_columns(source, 4 * n, count - 1, out)
            for j in range(min(ROWS, n - ROWS * i)):  # nothing may be read behind the last row
                copy_float(source + 4 * (n * (count - 1) + j), out + 4 * (ROWS * (count - 1) + j))
        for p in range(first, last):
            for i in range(count):
                copy_block(x.ctypes.data + 4 * (k * (t + i) + PANEL * p), PANEL, panel + 4 * PANEL * i)
            for i in range(tiles):
                out = dw.ctypes.data + 4 * (k * ROWS * i + PANEL * p)
                a = columns + 4 * ROWS * BLOCK * i
                add_columns(a, 4 * ROWS, panel, count, out, 4 * k, min(ROWS, n - ROWS * i))
