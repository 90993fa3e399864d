"""Linear verbs on bytes: the plain twin is its formula, the fused verbs are the plain ones, errors are half steps."""

from __future__ import annotations

import cases
import numpy as np
import pytest
from cases import ACTIVATIONS, EPS, MAGNITUDES, ROWS, SEEDS, WIDTHS
from hypothesis import given
from hypothesis import strategies as st

from minibi.nn import plain

VERBS = ["linear", *ACTIVATIONS]


class Case(cases.Case):
    """And what they mean once they are bytes."""

    def __init__(self, rows, k, n, magnitude, seed):
        super().__init__(rows, k, n, magnitude, seed)
        self.channel = seed % k
        codes, self.scale, zero = plain.quantize(self.x, self.channel)
        weights = plain.matrix8(self.stored, self.channel)
        self.meant_x = self.scale.astype(np.float64) * (codes - zero.astype(np.float64))  # [T, K]
        self.meant_w = weights.codes * weights.scales.astype(np.float64)  # [K, N]
        self.step_w = weights.scales.astype(np.float64)  # [N]
        self.apart = self.x[:, [self.channel]].astype(np.float64) * weights.outlier  # [T, N], of no error
        self.exact = self.meant_x @ self.meant_w + self.b + self.apart
        # the sum before the zero point is taken out may be far larger than what is left of it
        most = self.scale * (
            np.abs(codes.astype(np.float64)) @ np.abs(self.meant_w) + zero * np.abs(self.meant_w).sum(0)
        )
        self.slack = 8 * EPS * (most + np.abs(self.exact) + np.abs(self.b) + np.abs(self.apart))
        place = self.x.astype(np.float64) / self.scale + zero
        near_tie = np.abs(place - np.floor(place) - 0.5) < 2e-4  # a fused multiply-add may decide otherwise
        self.ties = self.scale * (near_tie @ np.abs(self.meant_w))


@given(ROWS, WIDTHS, WIDTHS, MAGNITUDES, SEEDS)
def test_the_plain_twin_is_its_formula(rows, k, n, magnitude, seed):
    case = Case(rows, k, n, magnitude, seed)
    found = plain.linear(case.x, plain.matrix8(case.stored, case.channel), plain.vector(case.b))
    assert found.shape == (rows, n) and found.dtype == np.float32
    assert (np.abs(found - case.exact) <= case.slack).all()


@given(ROWS, WIDTHS, WIDTHS, MAGNITUDES, SEEDS)
def test_the_error_is_half_a_step_of_each_number(rows, k, n, magnitude, seed):
    """Against the product of floats: what rounding to bytes may cost, and no more."""
    case = Case(rows, k, n, magnitude, seed)
    found = plain.linear(case.x, plain.matrix8(case.stored, case.channel), plain.vector(case.b))
    floats = case.x.astype(np.float64) @ case.stored.T.astype(np.float64) + case.b
    case.meant_x[:, case.channel] = 0
    allowed = (
        0.5005 * case.scale * np.abs(np.delete(case.stored, case.channel, 1)).sum(1)
        + 0.5005 * case.step_w * np.abs(case.meant_x).sum(1)[:, None]
    )
    assert (np.abs(found - floats) <= allowed + case.slack).all()


def test_plain_bytes():
    w = plain.matrix8(np.float16([[0, 0, 0, 7], [1, -2, 0.5, 99], [-3, 3, 1.5, -1]]), channel=3)
    assert w.codes.dtype == np.int8
    assert w.codes.T.tolist() == [[0, 0, 0, 0], [64, -127, 32, 0], [-127, 127, 64, 0]]
    assert w.scales.dtype == np.float32 and w.scales.tolist() == [1, np.float32(2) / 127, np.float32(3) / 127]
    assert w.channel == 3 and w.outlier.tolist() == [7, 99, -1]
    tiny = plain.matrix8(np.float32([[0, 1e-42, -2e-43], [0, 1e-30, 0]]))
    assert tiny.codes.T.tolist() == [[0, 0, 0], [0, 127, 0]], "no scale underflows"


@pytest.fixture(scope="module")
def fused(compiled):
    from minibi.nn import fused

    return fused


@given(WIDTHS, WIDTHS, SEEDS, st.sampled_from([np.float16, np.float32]))
def test_the_bytes_are_the_same_whatever_holds_them(fused, k, n, seed, dtype):
    stored = np.random.default_rng(seed).standard_normal((n, k)).astype(dtype)
    channel = seed % k
    packed, twin = fused.matrix8(stored, channel), plain.matrix8(stored.astype(np.float32), channel)
    assert (packed.n, packed.k, packed.width % 16) == (n, -(-k // 4) * 4, 0)
    wide = packed.panels.transpose(1, 3, 0, 2).reshape(packed.k, packed.width)
    scales, sums, outlier = packed.columns[:, :n]
    assert np.array_equal(wide[:k, :n], twin.codes) and np.array_equal(scales, twin.scales)
    assert np.array_equal(sums, twin.codes.sum(0, dtype=np.int64)) and np.array_equal(outlier, twin.outlier)
    assert packed.channel == twin.channel == channel


@pytest.mark.parametrize("verb", VERBS)
@given(rows=ROWS, k=WIDTHS, n=WIDTHS, magnitude=MAGNITUDES, seed=SEEDS)
def test_fused_is_plain(fused, verb, rows, k, n, magnitude, seed):
    case = Case(rows, k, n, magnitude, seed)
    run = lambda ops: getattr(ops, verb)(case.x, ops.matrix8(case.stored, case.channel), ops.vector(case.b))  # noqa: E731
    found, expected = run(fused), run(plain)
    assert found.shape == (rows, n) and found.dtype == np.float32 and found.flags.c_contiguous
    slack = 1.2 * (2 * case.slack + case.ties)  # no activation is steeper than 1.13
    if verb != "linear":
        slack += (1.8e-4 if verb == "linear_gelu" else 1e-6) * np.maximum(1, np.abs(expected))  # see gelu_short
    assert (np.abs(found - expected) <= slack).all()


@given(ROWS, WIDTHS, st.integers(2, 40) | st.sampled_from([64, 65, 130, 384]), SEEDS)
def test_linear_add_norm(fused, rows, k, n, seed):
    case = Case(rows, k, n, 1.0, seed)

    def run(ops):
        norm = (ops.vector(case.gamma), ops.vector(case.beta), 1e-2)
        return ops.linear_add_norm(
            case.x, case.residual, ops.matrix8(case.stored, case.channel), ops.vector(case.b), *norm
        )

    found, expected = run(fused), run(plain)
    assert found.shape == (rows, n) and found.flags.c_contiguous
    spread = np.sqrt((case.exact + case.residual).var(axis=1, keepdims=True) + 1e-2)
    steps = (2 * case.slack + case.ties).max(axis=1, keepdims=True) / spread
    slack = (8 * steps + 1e-5) * (1 + np.abs(expected - case.beta) + np.abs(case.gamma))
    assert (np.abs(found - expected) <= slack).all()


@given(st.integers(1, 40), WIDTHS, WIDTHS, SEEDS, st.permutations(range(40)))
def test_a_row_does_not_depend_on_its_batch(fused, rows, k, n, seed, order):
    case = Case(rows, k, n, 1.0, seed)
    w, b = fused.matrix8(case.stored, case.channel), fused.vector(case.b)
    gamma, beta = fused.vector(case.gamma), fused.vector(case.beta)
    order = [i for i in order if i < rows]
    for run in (
        lambda x, r: fused.linear_gelu(x, w, b),
        lambda x, r: fused.linear_add_norm(x, r, w, b, gamma, beta, 1e-6),
    ):
        together = run(case.x, case.residual)
        shuffled = run(case.x[order], case.residual[order])
        assert np.array_equal(shuffled, together[order])
        for t in range(0, rows, 7):
            assert np.array_equal(run(case.x[t : t + 1], case.residual[t : t + 1]), together[t : t + 1])


@pytest.mark.parametrize("name", ["plain", "fused"])
def test_verbs_change_no_argument(name, fused):
    ops = {"plain": plain, "fused": fused}[name]
    case = Case(7, 33, 20, 1.0, 0)
    w, b = ops.matrix8(case.stored, case.channel), ops.vector(case.b)
    arguments = [case.x, case.residual, b, *[a for a in vars(w).values() if isinstance(a, np.ndarray)]]
    for argument in arguments:
        argument.flags.writeable = False
    before = [a.copy() for a in arguments]
    for verb in VERBS:
        getattr(ops, verb)(case.x, w, b)
    ops.linear_add_norm(case.x, case.residual, w, b, ops.vector(case.gamma), ops.vector(case.beta), 1e-6)
    assert all(np.array_equal(a, old) for a, old in zip(arguments, before, strict=True))


def test_no_rows_and_rows_of_zeros(fused):
    for ops in (plain, fused):
        w, b = ops.matrix8(np.ones((5, 3), np.float32)), ops.vector(np.arange(5, dtype=np.float32))
        assert ops.linear(np.empty((0, 3), np.float32), w, b).shape == (0, 5)
        assert ops.linear(np.zeros((2, 3), np.float32), w, b).tolist() == [[0, 1, 2, 3, 4]] * 2, "the bias, exactly"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_stays_none(fused, value):
    """A model gone wrong gives NaN, never a vector that looks like one."""
    for at in (0, 7):  # the channel that stays float, and another
        for ops in (plain, fused):
            x = np.ones((2, 9), np.float32)
            x[1, at] = value
            with np.errstate(invalid="ignore"):
                y = ops.linear(x, ops.matrix8(np.ones((3, 9), np.float32)), ops.vector(np.zeros(3, np.float32)))
            assert np.isfinite(y[0]).all() and not np.isfinite(y[1]).any()


def test_a_channel_far_larger_than_the_rest_costs_nothing(fused):
    """What one channel that stays float is for: the other channels keep their steps."""
    from minibi.nn.outliers import Packing, Unpacked

    rng = np.random.default_rng(0)
    x, stored = rng.standard_normal((50, 200)).astype(np.float32), rng.standard_normal((64, 200)).astype(np.float32)
    x[:, 123] *= 100
    exact, b = x.astype(np.float64) @ stored.T.astype(np.float64), np.zeros(64, np.float32)
    for ops in (plain, fused):
        w = Unpacked(stored)
        found = Packing(ops).linear(x, w, ops.vector(b))
        assert w.channel == 123 and w.packed.channel == 123
        assert np.array_equal(Packing(ops).linear(x, w, ops.vector(b)), found), "packed once"
        assert np.array_equal(ops.linear(x, w.packed, ops.vector(b)), found)
        fixed = Unpacked(stored, channel=5)
        worse = Packing(ops).linear(x, fixed, ops.vector(b))
        assert fixed.packed.channel == 5 and np.abs(worse - exact).mean() > 10 * np.abs(found - exact).mean()
