"""exp2, the normal distribution and what follows from them, on sixteen lanes, the same bits on every processor."""

from __future__ import annotations

from collections.abc import Sequence

from llvmlite import ir

from .simd import LANES, ROUND, Lanes, constant, floats, ints


def polynomial(x: Lanes, coefficients: Sequence[float]) -> Lanes:
    """Horner's rule; coefficients from the constant term upward."""
    *rest, highest = coefficients
    result = constant(x.b, highest)
    for c in reversed(rest):
        result = result.fma(x, c)
    return result


def reciprocal(x: Lanes) -> Lanes:
    """1 / x for x in [1e-30, 1e30], within 2 units in the last place.

    Three Newton steps r <- r (2 - x r) from a first guess that subtracts x's bits (so: negates its exponent) from a
    magic number. Same bits on every processor, and four times quicker than a vector division.
    """
    b = x.b
    guess = b.sub(ir.Constant(ints, [0x7EF311C7] * LANES), x.bits())
    r = Lanes(b, b.bitcast(guess, floats))
    minus = x * -1.0
    for _ in range(3):
        r = r * minus.fma(r, 2.0)
    return r


# 2^r on [-1/2, 1/2], Chebyshev interpolation of degree 6, relative error 2.6e-9
_EXP2 = (1.0, 0.693147207, 0.240226509, 0.0555032723, 0.00961805668, 0.00134004282, 0.000154614447)


def exp2(x: Lanes) -> Lanes:
    """2^x for x <= 127; below -125 the result is 2^-125. Relative error below 1.5e-7.

    x = n + r with n the nearest integer: a polynomial for 2^r, and n added to the exponent bits of the result.
    """
    b = x.b
    x = x.max(-125.0)
    shifted = x + ROUND
    r = x - (shifted - ROUND)
    n = b.shl(shifted.bits(), ir.Constant(ints, [23] * LANES))  # what ROUND has above n leaves at the top
    return Lanes(b, b.bitcast(b.add(polynomial(r, _EXP2).bits(), n), floats))


# the same by degree 3, minimax, relative error 7.5e-5
_SHORT_EXP2 = (0.999928027, 0.693260946, 0.242611381, 0.0551718747)


def exp2_short(x: Lanes) -> Lanes:
    """2^x for weights that will be rounded to 16 bits; relative error below 8e-5, from 2^-8 on downward 2^-8."""
    b = x.b
    x = x.max(-8.0)
    shifted = x + ROUND
    n = b.shl(shifted.bits(), ir.Constant(ints, [23] * LANES))
    return Lanes(b, b.bitcast(b.add(polynomial(x - (shifted - ROUND), _SHORT_EXP2).bits(), n), floats))


# -Phi(-a) = (FAR - a)^16 q(a) for 0 <= a <= FAR, and 0 beyond; q by minimax: within 2.1e-7, a times it within 3.6e-8
_FAR = 7.5
_TAIL = (
    -4.98872759e-15, -6.66229549e-15, -3.56849353e-15, -6.9725616e-16, 1.94324571e-16, 8.11866219e-17,
    3.34109161e-17, -1.76056181e-17, -1.30371518e-18, 1.12769658e-18, -1.14969954e-19,
)  # fmt: skip


def minus_tail(a: Lanes) -> Lanes:
    """-Phi(-a) for a from 0 to FAR, Phi the normal distribution function.

    The tail falls as steeply as a high power of a straight line, and what is left is tame enough for a polynomial.
    """
    power = constant(a.b, _FAR) - a
    for _ in range(4):
        power = power * power
    return power * polynomial(a, _TAIL)


def gelu(x: Lanes) -> Lanes:
    """x Phi(x), Phi the normal distribution function (Hendrycks & Gimpel 2016); |error| < 3e-7, far from 0 none.

    Written as max(x, 0) - |x| Phi(-|x|): the second term is small and fades out, so large |x| carry no error at all.
    (Through erf, every large negative x would keep an error of the same sign, which a sum over channels adds up.)
    """
    a = x.abs().min(_FAR)
    return a.fma(minus_tail(a), relu(x))


# a Phi(-a) = -a (END - a)^4 q(a) for 0 <= a <= END, and 0 beyond; q by minimax: within 1.8e-4
_END = 4.33
_SHORT_TAIL = (-0.00140925054, -0.00027388343, 0.000492265797, -9.79728065e-05)


def gelu_short(x: Lanes) -> Lanes:
    """GELU for values that will be rounded to bytes: |error| < 1.8e-4, less than |x| / 90, in eleven steps."""
    a = x.abs().min(_END)
    left = constant(x.b, _END) - a
    left = left * left
    return a.fma(left * left * polynomial(a, _SHORT_TAIL), relu(x))


def sigmoid(x: Lanes) -> Lanes:
    """1 / (1 + e^-x); |error| < 2e-7, exact at 0."""
    return constant(x.b, 1.0) / (exp2((x * -1.4426950408889634).min(80.0)) + 1.0)


def tanh(x: Lanes) -> Lanes:
    """2 sigmoid(2x) - 1; |error| < 3e-7, exact at 0."""
    return sigmoid(x * 2.0).fma(2.0, -1.0)


def gelu_tanh(x: Lanes) -> Lanes:
    """GELU by its tanh approximation: x sigmoid(2u), u = sqrt(2/pi) (x + 0.044715 x^3); |error| < 2e-7 max(1, |x|)."""
    cubic = (x * x).fma(0.044715, 1.0)
    u = (x * cubic * (-2 * 0.7978845608028654 * 1.4426950408889634)).min(80.0)  # -2u log2(e)
    return x * reciprocal(exp2(u) + 1.0)


def relu(x: Lanes) -> Lanes:
    """max(x, 0); NaN stays NaN."""
    return constant(x.b, 0.0).max(x)
