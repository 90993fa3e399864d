"""Layer normalization of rows (Ba, Kiros & Hinton 2016), and the sum of embeddings it follows first."""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from . import simd, target
from .cache import kernel
from .matmul import row_addresses
from .memory import ADDRESS, address
from .simd import LANES, Loop, f32, i64

TOGETHER = 4 if target.has_wide_registers() else 2  # rows: each is a chain of dependent steps, several fill the pipes


@intrinsic
def norm_rows(typing_context, x, stride, rows, n, gamma, beta, eps, channel):
    """Each of up to TOGETHER rows of n floats, `stride` bytes apart: x <- (x - mean) / sqrt(var + eps) * gamma + beta.

    Returns min(0, result) and max(0, result) of the first row, of the second and so on; these ends leave `channel` out,
    and are NaN where a number is NaN or infinite.

    n need not be a multiple of 16; the rows and both vectors must be followed by readable floats up to one, and the
    rows' are overwritten.
    """

    def generate(context, builder, signature, args):
        e = builder
        x, stride, rows, n, gamma, beta, eps, channel = args
        row = row_addresses(e, x, stride, rows, TOGETHER)
        zeros = [simd.constant(e, 0.0)] * TOGETHER
        count = e.sitofp(n, f32)

        def loaded(index):
            return [simd.load(e, e.add(start, e.mul(index, i64(4)))) for start in row]

        def add(index, carried, kept):
            return [total + kept(y) for total, y in zip(carried, loaded(index), strict=True)]

        sums = [simd.sum_lanes(e, total) for total in simd.sweep(e, n, zeros, add)]
        means = [simd.splat(e, e.fdiv(total, count)) for total in sums]

        def add_square(index, carried, kept):
            apart = [kept(y - mean) for y, mean in zip(loaded(index), means, strict=True)]
            return [d.fma(d, total) for d, total in zip(apart, carried, strict=True)]

        squares = [simd.sum_lanes(e, total) for total in simd.sweep(e, n, zeros, add_square)]
        variances = [e.fdiv(total, count) for total in squares]
        scales = [simd.splat(e, e.fdiv(f32(1.0), simd.sqrt(e, e.fadd(v, eps)))) for v in variances]

        def normalize(index, carried, kept):
            at = e.mul(index, i64(4))
            factor, shift = simd.load(e, e.add(gamma, at)), simd.load(e, e.add(beta, at))
            done = [(y - mean) * scale for y, mean, scale in zip(loaded(index), means, scales, strict=True)]
            done = [kept(y.fma(factor, shift)) for y in done]
            for start, y in zip(row, done, strict=True):  # after all were read: the last row may be there twice
                simd.store(e, y, e.add(start, at))
            done = [simd.without(e, y, e.sub(channel, index)) for y in done]
            low, high = carried[:TOGETHER], carried[TOGETHER:]
            return [y.min(end) for y, end in zip(done, low, strict=True)] + [
                y.max(end) for y, end in zip(done, high, strict=True)
            ]

        found = simd.sweep(e, n, zeros + zeros, normalize)
        ends = []
        for variance, low, high in zip(variances, found[:TOGETHER], found[TOGETHER:], strict=True):
            nothing = e.fmul(variance, f32(0.0))
            ends += [e.fsub(nothing, simd.max_lanes(e, low * -1.0)), e.fadd(nothing, simd.max_lanes(e, high))]
        return context.make_tuple(e, signature.return_type, ends)

    ends = types.UniTuple(types.float32, 2 * TOGETHER)
    return ends(*[ADDRESS] * 6, types.float32, types.int64), generate


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
    stride = 4 * x.shape[1]
    for t in range(0, x.shape[0], TOGETHER):
        rows = min(TOGETHER, x.shape[0] - t)
        norm_rows(address(x) + stride * t, stride, rows, channels, address(gamma), address(beta), eps, -1)
