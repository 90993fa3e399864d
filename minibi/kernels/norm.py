"""Layer normalization of rows (Ba, Kiros & Hinton 2016), and the sum of embeddings it follows first."""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import kernel
from .memory import ADDRESS
from .simd import LANES, Loop, f32, i64


@intrinsic
def norm_row(typing_context, x, n, gamma, beta, eps, channel):
    """x[:n] <- (x - mean) / sqrt(var + eps) * gamma + beta; returns (min(0, result), max(0, result)).

    These ends leave `channel` out, and are NaN where a number is NaN or infinite.

    n need not be a multiple of 16; the row and both vectors must be followed by readable floats up to one, and the
    row's are overwritten.
    """

    def generate(context, builder, signature, args):
        e = builder
        x, n, gamma, beta, eps, channel = args
        zero = simd.constant(e, 0.0)
        count = e.sitofp(n, f32)

        def add(index, carried, kept):
            return [carried[0] + kept(simd.load(e, e.add(x, e.mul(index, i64(4)))))]

        mean = simd.splat(e, e.fdiv(simd.sum_lanes(e, simd.sweep(e, n, [zero], add)[0]), count))

        def add_square(index, carried, kept):
            d = kept(simd.load(e, e.add(x, e.mul(index, i64(4)))) - mean)
            return [d.fma(d, carried[0])]

        variance = e.fdiv(simd.sum_lanes(e, simd.sweep(e, n, [zero], add_square)[0]), count)
        scale = simd.splat(e, e.fdiv(f32(1.0), simd.sqrt(e, e.fadd(variance, eps))))

        def normalize(index, carried, kept):
            at = e.mul(index, i64(4))
            here = e.add(x, at)
            y = (simd.load(e, here) - mean) * scale
            y = kept(y.fma(simd.load(e, e.add(gamma, at)), simd.load(e, e.add(beta, at))))
            simd.store(e, y, here)
            y = simd.without(e, y, e.sub(channel, index))
            return [y.min(carried[0]), y.max(carried[1])]

        low, high = simd.sweep(e, n, [zero, zero], normalize)
        nothing = e.fmul(variance, f32(0.0))
        ends = [e.fsub(nothing, simd.max_lanes(e, low * -1.0)), e.fadd(nothing, simd.max_lanes(e, high))]
        return context.make_tuple(e, signature.return_type, ends)

    return types.UniTuple(types.float32, 2)(*[ADDRESS] * 4, types.float32, types.int64), generate


def _sum_rows(load_word):
    """An intrinsic `(word, position, kind, n, out)`: out[:n] = word + (position + kind), word of one of two types."""

    @intrinsic
    def add(typing_context, word, position, kind, n, out):
        def generate(context, builder, signature, args):
            e = builder
            word, position, kind, n, out = args
            with Loop(e, n, step=LANES) as loop:
                at = e.mul(loop.index, i64(4))
                y = simd.load(e, e.add(position, at)) + simd.load(e, e.add(kind, at))
                simd.store(e, load_word(e, word, loop.index) + y, e.add(out, at))
                loop.next()
            return context.get_dummy_value()

        return types.void(*[ADDRESS] * 5), generate

    return add


sum_float_rows = _sum_rows(lambda e, word, i: simd.load(e, e.add(word, e.mul(i, i64(4)))))
sum_half_rows = _sum_rows(lambda e, word, i: simd.load_halves(e, e.add(word, e.mul(i, i64(2)))))


@kernel
def layer_norm(x, channels, gamma, beta, eps):
    """Each row of x [T, P] normalized in place over its first `channels`; P, gamma and beta are multiples of 16."""
    for t in range(x.shape[0]):
        norm_row(x.ctypes.data + 4 * t * x.shape[1], channels, gamma.ctypes.data, beta.ctypes.data, eps, -1)
