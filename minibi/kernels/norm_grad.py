"""What lies between the matrix products of a training step: GELU, layer norm and embeddings, forward and backward.

Rows are multiples of 16 floats. Sums over tokens are added row by row into one row of `sums` for each CHUNK of tokens,
so that they do not depend on how chunks are spread over threads.
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from . import functions, simd
from .attention import copy_block
from .cache import kernel
from .matmul import ADDRESS
from .norm import norm_row, sum_float_rows
from .simd import LANES, Loop, f32, i64

CHUNK = 258  # tokens: 43 tiles of a matrix product


def gelu_and_slope(x):
    """x Phi(x) as `functions.gelu`, and its derivative Phi(x) + x phi(x), phi the normal density; |error| < 1e-6."""
    b = x.b
    a = x.max(x * -1.0)
    p = functions.reciprocal(functions.polynomial(a.min(10.0), functions._TAIL))
    p2 = p * p
    p4 = p2 * p2
    below = p4 * p4 * 0.5  # Phi(-a)
    positive = b.fcmp_ordered(">", x.value, simd.constant(b, 0.0).value)
    distribution = simd.Lanes(b, b.select(positive, (below * -1.0 + 1.0).value, below.value))
    density = functions.exp2(x * x * -0.7213475204444817) * 0.3989422804014327
    return x.max(0.0) - a * below, x.fma(density, distribution)


@intrinsic
def gelu_keep_row(typing_context, x, n, slope):
    """x[:n] <- gelu(x), slope[:n] = gelu'(x). n is a multiple of 16."""

    def generate(context, builder, signature, args):
        e = builder
        x, n, slope = args
        with Loop(e, n, step=LANES) as loop:
            at = e.mul(loop.index, i64(4))
            y, d = gelu_and_slope(simd.load(e, e.add(x, at)))
            simd.store(e, y, e.add(x, at))
            simd.store(e, d, e.add(slope, at))
            loop.next()
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 3), generate


@intrinsic
def times_row(typing_context, dy, x, n, dx, sums):
    """dx[:n] = dy x, and sums += dx."""

    def generate(context, builder, signature, args):
        e = builder
        dy, x, n, dx, sums = args
        with Loop(e, n, step=LANES) as loop:
            at = e.mul(loop.index, i64(4))
            d = simd.load(e, e.add(dy, at)) * simd.load(e, e.add(x, at))
            simd.store(e, d, e.add(dx, at))
            total = e.add(sums, at)
            simd.store(e, simd.load(e, total) + d, total)
            loop.next()
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 5), generate


@intrinsic
def add_block(typing_context, x, n, sums):
    """sums[:n] += x[:n]."""

    def generate(context, builder, signature, args):
        e = builder
        x, n, sums = args
        with Loop(e, n, step=LANES) as loop:
            at = e.mul(loop.index, i64(4))
            total = e.add(sums, at)
            simd.store(e, simd.load(e, total) + simd.load(e, e.add(x, at)), total)
            loop.next()
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 3), generate


@intrinsic
def norm_grad_row(typing_context, dy, x, n, gamma, eps, dx, sums):
    """dx of layer_norm(x) for one row; sums [3, n] += what the row gives to dgamma, dbeta and the sum of dx."""

    def generate(context, builder, signature, args):
        e = builder
        dy, x, n, gamma, eps, dx, sums = args
        zero = simd.constant(e, 0.0)
        count = e.sitofp(n, f32)

        def mean(total):
            return simd.splat(e, e.fdiv(simd.sum_lanes(e, total), count))

        def at(address, loop):
            return e.add(address, e.mul(loop.index, i64(4)))

        with Loop(e, n, [zero], step=LANES) as loop:
            loop.next(loop.carried[0] + simd.load(e, at(x, loop)))
        middle = mean(loop.results[0])
        with Loop(e, n, [zero], step=LANES) as loop:
            d = simd.load(e, at(x, loop)) - middle
            loop.next(d.fma(d, loop.carried[0]))
        variance = e.fdiv(simd.sum_lanes(e, loop.results[0]), count)
        inverse = simd.splat(e, e.fdiv(f32(1.0), simd.sqrt(e, e.fadd(variance, eps))))
        dgamma, dbeta = sums, e.add(sums, e.mul(n, i64(4)))
        dbias = e.add(dbeta, e.mul(n, i64(4)))
        with Loop(e, n, [zero, zero], step=LANES) as loop:
            given = simd.load(e, at(dy, loop))
            y = (simd.load(e, at(x, loop)) - middle) * inverse
            d = given * simd.load(e, at(gamma, loop))
            simd.store(e, given.fma(y, simd.load(e, at(dgamma, loop))), at(dgamma, loop))
            simd.store(e, given + simd.load(e, at(dbeta, loop)), at(dbeta, loop))
            loop.next(loop.carried[0] + d, d.fma(y, loop.carried[1]))
        first, second = mean(loop.results[0]), mean(loop.results[1])
        with Loop(e, n, step=LANES) as loop:
            y = (simd.load(e, at(x, loop)) - middle) * inverse
            d = simd.load(e, at(dy, loop)) * simd.load(e, at(gamma, loop))
            d = (d - first - y * second) * inverse
            simd.store(e, d, at(dx, loop))
            simd.store(e, d + simd.load(e, at(dbias, loop)), at(dbias, loop))
            loop.next()
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS, ADDRESS, ADDRESS, types.float32, ADDRESS, ADDRESS), generate


@kernel
def times(dy, x, dx, sums):
    """dx = dy x, element by element, all [T, N]; sums [N] = those of dx over T."""
    sums[:] = 0
    n = x.shape[1]
    for t in range(x.shape[0]):
        at = 4 * n * t
        times_row(dy.ctypes.data + at, x.ctypes.data + at, n, dx.ctypes.data + at, sums.ctypes.data)


@kernel
def column_sums(x, sums):
    """sums [N] = x [T, N] summed over T."""
    sums[:] = 0
    for t in range(x.shape[0]):
        add_block(x.ctypes.data + 4 * x.shape[1] * t, x.shape[1], sums.ctypes.data)


@kernel
def add(x, total):
    """total += x, both [T, C]."""
    add_block(x.ctypes.data, x.size, total.ctypes.data)


@kernel
def norm(x, gamma, beta, eps, y):
    """y = layer_norm(x), both [T, C]."""
    c = x.shape[1]
    for t in range(x.shape[0]):
        row = y.ctypes.data + 4 * c * t
        copy_block(x.ctypes.data + 4 * c * t, c, row)
        norm_row(row, c, gamma.ctypes.data, beta.ctypes.data, eps, -1)


@kernel
def norm_grad(dy, x, gamma, eps, dx, sums):
    """dx [T, C] of layer_norm(x); sums [3, C] = dgamma, dbeta and the sum of dx over T."""
    sums[:] = 0
    c = x.shape[1]
    for t in range(x.shape[0]):
        at = 4 * c * t
        norm_grad_row(
            dy.ctypes.data + at, x.ctypes.data + at, c, gamma.ctypes.data, eps, dx.ctypes.data + at, sums.ctypes.data
        )


@kernel
def embed(ids, types_, positions, word, position, kind, out):
    """out [T, C] = word[ids] + (position[positions] + kind[types])."""
    c = out.shape[1]
    for t in range(ids.size):
        sum_float_rows(
            word.ctypes.data + 4 * c * ids[t], position.ctypes.data + 4 * c * positions[t],
            kind.ctypes.data + 4 * c * types_[t], c, out.ctypes.data + 4 * c * t,
        )  # fmt: skip


@kernel
def add_rows(dy, rows, table):
    """table[rows[t]] += dy[t] for each t in turn."""
    c = dy.shape[1]
    for t in range(rows.size):
        add_block(dy.ctypes.data + 4 * c * t, c, table.ctypes.data + 4 * c * rows[t])
