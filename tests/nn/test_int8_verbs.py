"""Linear verbs on bytes: the plain twin is its formula, the fused verbs are the plain ones, errors are half steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.nn import plain

EPS = 2.0**-24
WIDTHS = st.integers(1, 40) | st.sampled_from([63, 64, 65, 96, 130, 300])
ROWS = st.sampled_from([1, 2, 5, 6, 7, 13, 40])
MAGNITUDES = st.sampled_from([1e-4, 1.0, 1e3])
SEEDS = st.integers(0, 10**6)
VERBS = ["linear", "linear_gelu", "linear_gelu_tanh", "linear_relu", "linear_tanh", "linear_sigmoid"]


class Case:
    """Random arguments of a linear verb, and what they mean once they are bytes."""

    def __init__(self, rows, k, n, magnitude, seed):
        rng = np.random.default_rng(seed)
        draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
        self.x = draw(rows, k) * np.float32(magnitude)
        self.stored = draw(n, k) / np.float32(np.sqrt(k))
        self.b, self.residual = draw(n), draw(rows, n) * np.float32(magnitude)
        self.gamma, self.beta = draw(n), draw(n)
        codes, self.scale, zero = plain.quantize(self.x)
        weights = plain.matrix8(self.stored)
        self.meant_x = self.scale.astype(np.float64) * (codes - zero.astype(np.float64))  # [T, K]
        self.meant_w = weights.codes * weights.scales.astype(np.float64)  # [K, N]
        self.step_w = weights.scales.astype(np.float64)  # [N]
        self.exact = self.meant_x @ self.meant_w + self.b
        # the sum before the zero point is taken out may be far larger than what is left of it
        most = self.scale * (
            np.abs(codes.astype(np.float64)) @ np.abs(self.meant_w) + zero * np.abs(self.meant_w).sum(0)
        )
        self.slack = 8 * EPS * (most + np.abs(self.exact) + np.abs(self.b))
        place = self.x.astype(np.float64) / self.scale + zero
        near_tie = np.abs(place - np.floor(place) - 0.5) < 2e-4  # a fused multiply-add may decide otherwise
        self.ties = self.scale * (near_tie @ np.abs(self.meant_w))


@given(ROWS, WIDTHS, WIDTHS, MAGNITUDES, SEEDS)
def test_the_plain_twin_is_its_formula(rows, k, n, magnitude, seed):
    case = Case(rows, k, n, magnitude, seed)
    found = plain.linear(case.x, plain.matrix8(case.stored), plain.vector(case.b))
    assert found.shape == (rows, n) and found.dtype == np.float32
    assert (np.abs(found - case.exact) <= case.slack).all()


@given(ROWS, WIDTHS, WIDTHS, MAGNITUDES, SEEDS)
def test_the_error_is_half_a_step_of_each_number(rows, k, n, magnitude, seed):
    """Against the product of floats: what rounding to bytes may cost, and no more."""
    case = Case(rows, k, n, magnitude, seed)
    found = plain.linear(case.x, plain.matrix8(case.stored), plain.vector(case.b))
    floats = case.x.astype(np.float64) @ case.stored.T.astype(np.float64) + case.b
    allowed = (
        0.5005 * case.scale * np.abs(case.stored).sum(1) + 0.5005 * case.step_w * np.abs(case.meant_x).sum(1)[:, None]
    )
    assert (np.abs(found - floats) <= allowed + case.slack).all()


def test_plain_bytes():
    w = plain.matrix8(np.float16([[0, 0, 0], [1, -2, 0.5], [-3, 3, 1.5]]))
    assert w.codes.dtype == np.int8 and w.codes.T.tolist() == [[0, 0, 0], [64, -127, 32], [-127, 127, 64]]
    assert w.scales.dtype == np.float32 and w.scales.tolist() == [1, np.float32(2) / 127, np.float32(3) / 127]
    tiny = plain.matrix8(np.float32([[1e-42, -2e-43], [1e-30, 0]]))
    assert tiny.codes.T.tolist() == [[0, 0], [127, 0]], "no scale underflows"


@pytest.fixture(scope="module")
def fused(compiled):
    from minibi.nn import fused

    return fused


@given(WIDTHS, WIDTHS, SEEDS, st.sampled_from([np.float16, np.float32]))
def test_the_bytes_are_the_same_whatever_holds_them(fused, k, n, seed, dtype):
    stored = np.random.default_rng(seed).standard_normal((n, k)).astype(dtype)
    packed, twin = fused.matrix8(stored), plain.matrix8(stored.astype(np.float32))
    assert (packed.n, packed.k, packed.width % 16) == (n, -(-k // 4) * 4, 0)
    wide = packed.panels.transpose(1, 3, 0, 2).reshape(packed.k, packed.width)
    assert np.array_equal(wide[:k, :n], twin.codes) and np.array_equal(packed.columns[:n], twin.scales)
    assert np.array_equal(packed.sums[:n], twin.codes.sum(0, dtype=np.int64))


@pytest.mark.parametrize("verb", VERBS)
@given(rows=ROWS, k=WIDTHS, n=WIDTHS, magnitude=MAGNITUDES, seed=SEEDS)
def test_fused_is_plain(fused, verb, rows, k, n, magnitude, seed):
    case = Case(rows, k, n, magnitude, seed)
    run = lambda ops: getattr(ops, verb)(case.x, ops.matrix8(case.stored), ops.vector(case.b))  # noqa: E731
    found, expected = run(fused), run(plain)
    assert found.shape == (rows, n) and found.dtype == np.float32 and found.flags.c_contiguous
    slack = 1.2 * (2 * case.slack + case.ties)  # no activation is steeper than 1.13
    if verb != "linear":
        slack += (1.3e-5 if verb == "linear_gelu" else 1e-6) * np.maximum(1, np.abs(expected))  # see gelu_short
    assert (np.abs(found - expected) <= slack).all()


@given(ROWS, WIDTHS, st.integers(2, 40) | st.sampled_from([64, 65, 130, 384]), SEEDS)
def test_linear_add_norm(fused, rows, k, n, seed):
    case = Case(rows, k, n, 1.0, seed)

    def run(ops):
        norm = (ops.vector(case.gamma), ops.vector(case.beta), 1e-2)
        return ops.linear_add_norm(case.x, case.residual, ops.matrix8(case.stored), ops.vector(case.b), *norm)

    found, expected = run(fused), run(plain)
    assert found.shape == (rows, n) and found.flags.c_contiguous
    spread = np.sqrt((case.exact + case.residual).var(axis=1, keepdims=True) + 1e-2)
    steps = (2 * case.slack + case.ties).max(axis=1, keepdims=True) / spread
    slack = (8 * steps + 1e-5) * (1 + np.abs(expected - case.beta) + np.abs(case.gamma))
    assert (np.abs(found - expected) <= slack).all()


@given(st.integers(1, 40), WIDTHS, WIDTHS, SEEDS, st.permutations(range(40)))
def test_a_row_does_not_depend_on_its_batch(fused, rows, k, n, seed, order):
    case = Case(rows, k, n, 1.0, seed)
    w, b = fused.matrix8(case.stored), fused.vector(case.b)
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
    w, b = ops.matrix8(case.stored), ops.vector(case.b)
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
