"""x @ w + bias, then an activation or a residual: the kernel in which an encoder spends nine tenths of its time.

How it reaches the processor's peak: `w` [K, N] is packed once into panels of `PANEL` columns, [N/PANEL, K, PANEL], so
that the inner loop reads it end to end. A tile of `ROWS` rows times one panel keeps all its sums in registers and walks
down K: load a few vectors of the panel, multiply them by one broadcast number of each row, add. With 512-bit registers
6 rows x 4 vectors fill 24 of 32; with narrower ones a tile is 6 rows x one vector of sixteen.

An output element is one chain of fused multiply-adds over k = 0 .. K-1, whatever the tile, the number of rows or the
width of the registers: the same row gives the same bits in any batch.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from ..shapes import Floats
from . import simd
from .cache import inline, kernel
from .simd import LANES, Loop, i64

ROWS = 6
VECTORS = 4 if simd.has_wide_registers() else 1
PANEL = VECTORS * LANES
ADDRESS = types.intp

NONE, GELU, GELU_TANH, RELU, TANH, SIGMOID, RESIDUAL = range(7)  # what `linear` does after adding the bias


def aligned(shape: tuple[int, ...]) -> Floats:
    """Zeros that begin at a cache line."""
    size = 4 * int(np.prod(shape))
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(np.float32).reshape(shape)


def pack(w: Floats) -> Floats:
    """w [K, N] -> panels [ceil(N / PANEL), K, PANEL], the last one filled up with zeros."""
    k, n = w.shape
    panels = aligned((-(-n // PANEL), k, PANEL))
    for i, panel in enumerate(panels):
        columns = w[:, i * PANEL : (i + 1) * PANEL]
        panel[:, : columns.shape[1]] = columns
    return panels


def tile(vectors: int):
    """An intrinsic `(a, lda, b, k, c, ldc, rows)`: c = a @ b for up to ROWS rows and `vectors` * 16 columns.

    a, b, c are addresses, lda and ldc row lengths in bytes, b is a packed panel [k, vectors * 16]. Rows beyond `rows`
    repeat the last one and are not stored, so nothing outside `a` and `c` is touched.
    """

    @intrinsic
    def multiply(typing_context, a, lda, b, k, c, ldc, rows):
        def generate(context, builder, signature, args):
            e = builder
            a, lda, b, k, c, ldc, rows = args
            last = e.sub(rows, i64(1))
            row = [a]
            for i in range(1, ROWS):
                within = e.select(e.icmp_signed("<", i64(i), rows), i64(i), last)
                row.append(e.add(a, e.mul(lda, within)))
            with Loop(e, k, [simd.constant(e, 0.0)] * (ROWS * vectors)) as loop:
                panel = e.add(b, e.mul(loop.index, i64(4 * LANES * vectors)))
                columns = [simd.load(e, panel, 64 * j) for j in range(vectors)]
                at = e.mul(loop.index, i64(4))
                sums = []
                for i in range(ROWS):
                    x = simd.broadcast(e, e.add(row[i], at))
                    sums += [x.fma(columns[j], loop.carried[i * vectors + j]) for j in range(vectors)]
                loop.next(*sums)
            for i in range(ROWS):
                with e.if_then(e.icmp_signed(">", rows, i64(i))):
                    out = e.add(c, e.mul(ldc, i64(i)))
                    for j in range(vectors):
                        simd.store(e, loop.results[i * vectors + j], out, 64 * j)
            return context.get_dummy_value()

        return types.void(*[ADDRESS] * 7), generate

    return multiply


def _finish(what):
    """An intrinsic `(c, bias, residual, n)`: c[:n] = what(c + bias, residual) over n floats, n a multiple of 16."""

    @intrinsic
    def finish(typing_context, c, bias, residual, n):
        def generate(context, builder, signature, args):
            c, bias, residual, n = args
            with Loop(builder, n, step=LANES) as loop:
                at = builder.mul(loop.index, i64(4))
                out = builder.add(c, at)
                x = simd.load(builder, out) + simd.load(builder, builder.add(bias, at))
                simd.store(builder, what(x, builder.add(residual, at)), out)
                loop.next()
            return context.get_dummy_value()

        return types.void(*[ADDRESS] * 4), generate

    return finish


multiply_panel = tile(VECTORS)
_add_bias = _finish(lambda x, _: x)
_gelu = _finish(lambda x, _: simd.gelu(x))
_gelu_tanh = _finish(lambda x, _: simd.gelu_tanh(x))
_relu = _finish(lambda x, _: simd.relu(x))
_tanh = _finish(lambda x, _: simd.tanh(x))
_sigmoid = _finish(lambda x, _: simd.sigmoid(x))
_residual = _finish(lambda x, residual: x + simd.load(x.b, residual))


@inline
def finish_row(kind, c, bias, residual, n):
    if kind == NONE:
        _add_bias(c, bias, residual, n)
    elif kind == GELU:
        _gelu(c, bias, residual, n)
    elif kind == GELU_TANH:
        _gelu_tanh(c, bias, residual, n)
    elif kind == RELU:
        _relu(c, bias, residual, n)
    elif kind == TANH:
        _tanh(c, bias, residual, n)
    elif kind == SIGMOID:
        _sigmoid(c, bias, residual, n)
    else:
        _residual(c, bias, residual, n)


@kernel
def linear(x, panels, bias, residual, kind, out):
    """out [T, P] = activation(x [T, K] @ w + bias) or + residual [T, P], P the width of the panels together.

    `panels` comes from `pack`, `bias` has P elements, `kind` is one of the codes above; `residual` is read only for
    RESIDUAL (pass `out` otherwise).
    """
    rows, k = x.shape
    width = out.shape[1]
    a, b, c = x.ctypes.data, panels.ctypes.data, out.ctypes.data
    r, shift = residual.ctypes.data, bias.ctypes.data
    for n in range(0, width, PANEL):
        panel = b + 4 * n * k
        for m in range(0, rows, ROWS):
            here = 4 * (m * width + n)
            count = min(ROWS, rows - m)
            multiply_panel(a + 4 * m * k, 4 * k, panel, k, c + here, 4 * width, count)
            for i in range(count):
                at = here + 4 * i * width
                finish_row(kind, c + at, shift + 4 * n, r + at, PANEL)
