"""What lies between the matrix products of a training step: GELU, layer norm and embeddings, forward and backward.

Rows are multiples of 16 floats. Sums over tokens are added row by row into one row of `sums` for each CHUNK of tokens,
so that they do not depend on how chunks are spread over threads.
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from . import functions, simd
from .cache import kernel
from .memory import ADDRESS
from .norm import sum_float_rows
from .simd import LANES, Loop, f32, i64

CHUNK = 258  # tokens: 43 tiles of a matrix product


def gelu_and_slope(x):
    """x Phi(x) as `functions.gelu`, and its derivative Phi(x) + x phi(x), phi the normal density; |error| < 1e-6."""
    b = x.b
    a = x.abs().min(functions._FAR)
    below = functions.minus_tail(a)
    positive = b.fcmp_ordered(">", x.value, simd.constant(b, 0.0).value)
    distribution = simd.Lanes(b, b.select(positive, (below + 1.0).value, (below * -1.0).value))
    density = functions.exp2(x * x * -0.7213475204444817) * 0.3989422804014327
    return a.fma(below, functions.relu(x)), x.fma(density, distribution)


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
def times_block(typing_context, x, factor, n):
    """x[:n] *= factor[:n], n a multiple of 16."""

    def generate(context, builder, signature, args):
        e = builder
        x, factor, n = args
        with Loop(e, n, step=LANES) as loop:
            at = e.mul(loop.index, i64(4))
            here = e.add(x, at)
            simd.store(e, simd.load(e, here) * simd.load(e, e.add(factor, at)), here)
            loop.next()
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 3), generate


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
def norm_keep_row(typing_context, x, n, gamma, beta, eps, y):
    """x[:n] <- (x - mean) / sqrt(var + eps); y = x gamma + beta; returns 1 / sqrt(var + eps). n: a multiple of 16."""

    def generate(context, builder, signature, args):
        e = builder
        x, n, gamma, beta, eps, y = args
        count = e.sitofp(n, f32)

        def at(address, loop):
            return e.add(address, e.mul(loop.index, i64(4)))

        with Loop(e, n, [simd.constant(e, 0.0)], step=LANES) as loop:
            loop.next(loop.carried[0] + simd.load(e, at(x, loop)))
        mean = simd.splat(e, e.fdiv(simd.sum_lanes(e, loop.results[0]), count))
        with Loop(e, n, [simd.constant(e, 0.0)], step=LANES) as loop:
            d = simd.load(e, at(x, loop)) - mean
            loop.next(d.fma(d, loop.carried[0]))
        variance = e.fdiv(simd.sum_lanes(e, loop.results[0]), count)
        inverse = e.fdiv(f32(1.0), simd.sqrt(e, e.fadd(variance, eps)))
        scale = simd.splat(e, inverse)
        with Loop(e, n, step=LANES) as loop:
            normal = (simd.load(e, at(x, loop)) - mean) * scale
            simd.store(e, normal, at(x, loop))
            simd.store(e, normal.fma(simd.load(e, at(gamma, loop)), simd.load(e, at(beta, loop))), at(y, loop))
            loop.next()
        return inverse

    return types.float32(*[ADDRESS] * 4, types.float32, ADDRESS), generate


@intrinsic
def norm_grad_row(typing_context, dy, normal, inverse, n, gamma, dx, sums):
    """dx of layer_norm for one row, from what `norm_keep_row` left; sums [2, n] += its part of dgamma and dbeta."""

    def generate(context, builder, signature, args):
        e = builder
        dy, normal, inverse, n, gamma, dx, sums = args
        count, zero = e.sitofp(n, f32), simd.constant(e, 0.0)
        dgamma, dbeta = sums, e.add(sums, e.mul(n, i64(4)))

        def at(address, loop):
            return e.add(address, e.mul(loop.index, i64(4)))

        with Loop(e, n, [zero, zero], step=LANES) as loop:
            given, y = simd.load(e, at(dy, loop)), simd.load(e, at(normal, loop))
            d = given * simd.load(e, at(gamma, loop))
            simd.store(e, given.fma(y, simd.load(e, at(dgamma, loop))), at(dgamma, loop))
            simd.store(e, given + simd.load(e, at(dbeta, loop)), at(dbeta, loop))
            loop.next(loop.carried[0] + d, d.fma(y, loop.carried[1]))
        first, second = (simd.splat(e, e.fdiv(simd.sum_lanes(e, total), count)) for total in loop.results)
        scale = simd.splat(e, inverse)
        with Loop(e, n, step=LANES) as loop:
            d = simd.load(e, at(dy, loop)) * simd.load(e, at(gamma, loop))
            simd.store(e, (d - first - simd.load(e, at(normal, loop)) * second) * scale, at(dx, loop))
            loop.next()
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS, types.float32, *[ADDRESS] * 4), generate


@kernel
def norm(x, gamma, beta, eps, inverse, y):
    """y = layer_norm(x), both [T, C]; x becomes what is multiplied by gamma, and inverse [T] 1 / its deviation."""
    c = x.shape[1]
    for t in range(x.shape[0]):
        at = 4 * c * t
        inverse[t] = norm_keep_row(x.ctypes.data + at, c, gamma.ctypes.data, beta.ctypes.data, eps, y.ctypes.data + at)


@kernel
def norm_grad(dy, normal, inverse, gamma, dx, sums):
    """dx [T, C] of layer_norm from what `norm` left; sums [2, C] = dgamma and dbeta."""
    sums[:] = 0
    c = dy.shape[1]
    for t in range(dy.shape[0]):
        at = 4 * c * t
        norm_grad_row(
            dy.ctypes.data + at, normal.ctypes.data + at, inverse[t], c, gamma.ctypes.data, dx.ctypes.data + at,
            sums.ctypes.data,
        )  # fmt: skip


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
