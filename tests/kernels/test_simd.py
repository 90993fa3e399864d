"""The claims in the docstrings of functions.py and simd.py, held against math functions in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("compiled")

erfc = np.frompyfunc(math.erfc, 1, 1)


@pytest.fixture(scope="module")
def lanes():
    """lanes(what)(x): `what`, a function of Lanes, compiled and mapped over an array."""
    from numba import njit, types
    from numba.extending import intrinsic

    from minibi.kernels import simd

    made = {}

    def lanes(what):
        if what in made:
            return made[what]

        @intrinsic
        def each(typing_context, source, target, count):
            def generate(context, builder, signature, args):
                with simd.Loop(builder, args[2], step=simd.LANES) as loop:
                    at = builder.mul(loop.index, simd.i64(4))
                    y = what(simd.load(builder, builder.add(args[0], at)))
                    simd.store(builder, y, builder.add(args[1], at))
                    loop.next()
                return context.get_dummy_value()

            return types.void(types.intp, types.intp, types.intp), generate

        @njit
        def run(x, y):
            each(x.ctypes.data, y.ctypes.data, x.size)

        def apply(x):
            x = np.asarray(x, np.float32)
            padded = np.ones(-(-x.size // 16) * 16, np.float32)
            padded[: x.size] = x
            out = np.empty_like(padded)
            run(padded, out)
            return out[: x.size]

        made[what] = apply
        return apply

    return lanes


@pytest.fixture(scope="module")
def simd():
    from minibi.kernels import simd

    return simd


@pytest.fixture(scope="module")
def functions():
    from minibi.kernels import functions

    return functions


def test_exp2(functions, lanes):
    x = np.linspace(-125, 127, 1_000_001).astype(np.float32)
    y = lanes(functions.exp2)(x)
    assert np.abs(y / np.exp2(x.astype(np.float64)) - 1).max() < 1.5e-7
    whole = np.arange(-125, 128)
    assert np.array_equal(lanes(functions.exp2)(whole), np.exp2(whole.astype(np.float64))), "whole powers are exact"
    assert (lanes(functions.exp2)([-125.5, -1000, -3e38, -np.inf, np.nan]) == np.float32(2.0**-125)).all()


def test_exp2_short(functions, lanes):
    x = np.linspace(-8, 16, 100_001).astype(np.float32)
    y = lanes(functions.exp2_short)(x)
    assert np.abs(y / np.exp2(x.astype(np.float64)) - 1).max() < 8e-5
    assert lanes(functions.exp2_short)([-9, -3e38, -np.inf, np.nan]).tolist() == [y[0]] * 4


def test_exp2_coefficients(functions):
    r = np.linspace(-0.5, 0.5, 10_001)
    assert np.abs(np.polynomial.polynomial.polyval(r, functions._EXP2) / np.exp2(r) - 1).max() < 4e-9


def test_reciprocal(functions, lanes):
    x = np.geomspace(1e-30, 1e30, 1_000_001).astype(np.float32)
    exact = 1 / x.astype(np.float64)
    units = np.abs(lanes(functions.reciprocal)(x) - exact) / np.spacing(exact.astype(np.float32))
    assert units.max() < 2


@pytest.mark.parametrize("reach", [1e-3, 1, 6, 12, 100, 1e4])
def test_gelu(functions, lanes, reach):
    x = np.linspace(-reach, reach, 100_001).astype(np.float32)
    exact = x * 0.5 * erfc(-x.astype(np.float64) / math.sqrt(2)).astype(np.float64)
    assert np.abs(lanes(functions.gelu)(x) - exact).max() < 3e-7


def test_gelu_short(functions, lanes):
    x = np.linspace(-40, 40, 1_000_001).astype(np.float32)
    exact = x * np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x.tolist()])
    error = np.abs(lanes(functions.gelu_short)(x) - exact)
    assert error.max() < 1.8e-4 and (error <= np.abs(x) / 90).all()
    assert lanes(functions.gelu_short)([20, 1e10, 0.0]).tolist() == np.float32([20, 1e10, 0]).tolist()


def test_gelu_coefficients(functions):
    a = np.linspace(0, functions._FAR, 20_001)
    fit = (functions._FAR - a) ** 16 * np.polynomial.polynomial.polyval(a, functions._TAIL)
    error = np.abs(fit + 0.5 * erfc(a / math.sqrt(2)).astype(np.float64))
    assert error.max() < 2.1e-7 and (a * error).max() < 3.6e-8


def test_gelu_far_out(functions, lanes):
    assert lanes(functions.gelu)([20, 1e10, 3e38]).tolist() == np.float32([20, 1e10, 3e38]).tolist(), "no error at all"
    far = lanes(functions.gelu)([-20, -1e6, -1e13])
    assert (far <= 0).all() and (far > -3e-7).all()
    assert lanes(functions.gelu)([0.0, -0.0]).tolist() == [0, 0]
    assert np.isnan(lanes(functions.gelu)([np.nan])).all()


@pytest.mark.parametrize("reach", [1e-3, 1, 6, 12, 100, 1e4])
def test_gelu_tanh(functions, lanes, reach):
    x = np.linspace(-reach, reach, 100_001).astype(np.float32)
    d = x.astype(np.float64)
    exact = 0.5 * d * (1 + np.tanh(math.sqrt(2 / math.pi) * (d + 0.044715 * d**3)))
    assert (np.abs(lanes(functions.gelu_tanh)(x) - exact) < 2e-7 * np.maximum(1, np.abs(d))).all()
    assert np.isnan(lanes(functions.gelu_tanh)([np.nan])).all()


def test_sigmoid_and_tanh(functions, lanes):
    for reach in (1e-3, 1, 20, 100, 1e30):
        x = np.linspace(-reach, reach, 100_001).astype(np.float32)
        d = np.clip(x.astype(np.float64), -700, 700)
        assert np.abs(lanes(functions.sigmoid)(x) - 1 / (1 + np.exp(-d))).max() < 2e-7
        assert np.abs(lanes(functions.tanh)(x) - np.tanh(d)).max() < 3e-7
    assert lanes(functions.sigmoid)([0, -0.0]).tolist() == [0.5, 0.5]
    assert lanes(functions.tanh)([0, -0.0]).tolist() == [0, 0]


def test_relu(functions, lanes):
    x = np.float32([-np.inf, -3e38, -1e-45, -0.0, 0.0, 1e-45, 3e38, np.inf, np.nan])
    np.testing.assert_array_equal(lanes(functions.relu)(x), np.maximum(x, 0))


def larger_than_one(x):
    return x.max(1.0)


def smaller_than_one(x):
    return x.min(1.0)


def square_plus_one(x):
    return x.fma(x, 1.0)


def test_max_and_min_give_the_argument_for_nan(lanes):
    x = [np.nan, -np.inf, 0.5, 1, 2, np.inf]
    assert lanes(larger_than_one)(x).tolist() == [1, 1, 1, 1, 2, np.inf]
    assert lanes(smaller_than_one)(x).tolist() == [1, -np.inf, 0.5, 1, 1, 1]


def test_fma_rounds_once(lanes):
    x = np.float32(1 + 2.0**-12)  # x * x = 1 + 2^-11 + 2^-24, which alone rounds the last term away
    tricky = np.float32([x, -x, 3, 1e-30])
    exact = (tricky.astype(np.float64) ** 2 + 1).astype(np.float32)
    assert lanes(square_plus_one)(tricky).tolist() == exact.tolist()


def test_sums_and_maxima_go_over_the_lanes_by_one_tree(simd):
    from numba import njit, types
    from numba.extending import intrinsic

    def compiled(fold):
        @intrinsic
        def folded(typing_context, at):
            def generate(context, builder, signature, args):
                return fold(builder, simd.load(builder, args[0]))

            return types.float32(types.intp), generate

        @njit
        def run(x):
            return folded(x.ctypes.data)

        return run

    total, largest = compiled(simd.sum_lanes), compiled(simd.max_lanes)
    rng = np.random.default_rng(0)
    for _ in range(50):
        x = (rng.standard_normal(16) * 10 ** rng.uniform(-6, 6, 16)).astype(np.float32)
        y = x.copy()
        while len(y) > 1:  # 16 -> 8 -> 4 -> 2 -> 1, lane i with lane i + half
            y = y[: len(y) // 2] + y[len(y) // 2 :]
        assert total(x) == y[0] and largest(x) == x.max()
