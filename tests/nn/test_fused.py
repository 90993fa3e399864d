"""The fused verbs are the plain ones: verb by verb, at every size, within what rounding allows."""

from __future__ import annotations

from itertools import pairwise

import cases
import numpy as np
import pytest
from cases import ACTIVATIONS, EPS, MAGNITUDES, ROWS, SEEDS, WIDTHS
from hypothesis import given
from hypothesis import strategies as st

from minibi.nn import plain

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def fused():
    from minibi.nn import fused

    return fused


class Case(cases.Case):
    """And how far two summation orders may part."""

    def __init__(self, rows, k, n, magnitude, seed):
        super().__init__(rows, k, n, magnitude, seed)
        self.exact = self.x.astype(np.float64) @ self.stored.T.astype(np.float64) + self.b
        self.slack = 2 * (k + 3) * EPS * (np.abs(self.x) @ np.abs(self.stored.T) + np.abs(self.b))

    def run(self, ops, verb):
        return getattr(ops, verb)(self.x, ops.matrix(self.stored), ops.vector(self.b))


@given(ROWS, WIDTHS, WIDTHS, MAGNITUDES, SEEDS)
def test_linear(fused, rows, k, n, magnitude, seed):
    case = Case(rows, k, n, magnitude, seed)
    found = case.run(fused, "linear")
    assert found.shape == (rows, n) and found.dtype == np.float32 and found.flags.c_contiguous
    assert (np.abs(found - case.run(plain, "linear")) <= case.slack).all()
    assert (np.abs(found - case.exact) <= case.slack).all()


@pytest.mark.parametrize("verb", ACTIVATIONS)
@given(rows=ROWS, k=WIDTHS, n=WIDTHS, magnitude=MAGNITUDES, seed=SEEDS)
def test_linear_with_an_activation(fused, verb, rows, k, n, magnitude, seed):
    case = Case(rows, k, n, magnitude, seed)
    found, expected = case.run(fused, verb), case.run(plain, verb)
    assert found.shape == (rows, n) and found.flags.c_contiguous
    slack = 1.2 * case.slack + 1e-6 * np.maximum(1, np.abs(expected))  # no activation is steeper than 1.13
    assert (np.abs(found - expected) <= slack).all()


@given(ROWS, WIDTHS, st.integers(2, 40) | st.sampled_from([64, 65, 130, 384]), MAGNITUDES, SEEDS)
def test_linear_add_norm(fused, rows, k, n, magnitude, seed):
    case = Case(rows, k, n, magnitude, seed)
    run = lambda ops: ops.linear_add_norm(  # noqa: E731
        case.x, case.residual, ops.matrix(case.stored), ops.vector(case.b), ops.vector(case.gamma),
        ops.vector(case.beta), 1e-5,
    )  # fmt: skip
    found, expected = run(fused), run(plain)
    assert found.shape == (rows, n) and found.flags.c_contiguous
    y = case.exact + case.residual
    spread = np.sqrt(y.var(axis=1, keepdims=True) + 1e-5)
    steps = (case.slack + 4 * EPS * np.abs(y)).max(axis=1, keepdims=True) / spread  # relative to what is divided by
    slack = (8 * steps + 1e-5) * (1 + np.abs(expected - case.beta) + np.abs(case.gamma)) + 1e-6
    assert (np.abs(found - expected) <= slack).all()


@given(st.lists(st.integers(1, 20), min_size=1, max_size=4), WIDTHS, SEEDS, st.sampled_from([np.float16, np.float32]))
def test_embed(fused, lengths, channels, seed, dtype):
    rng = np.random.default_rng(seed)
    t = sum(lengths)
    ids, types = rng.integers(0, 50, t).astype(np.int32), rng.integers(0, 2, t).astype(np.int32)
    positions = np.concatenate([np.arange(n) for n in lengths])
    word = rng.standard_normal((50, channels)).astype(dtype)
    position, kinds = rng.standard_normal((20, channels)), rng.standard_normal((2, channels))
    tables = (word, position.astype(np.float32), kinds.astype(np.float32))
    gamma, beta = rng.standard_normal((2, channels)).astype(np.float32)
    found = fused.embed(ids, types, positions, *tables, fused.vector(gamma), fused.vector(beta), 1e-3)
    expected = plain.embed(ids, types, positions, *tables, gamma, beta, 1e-3)
    assert found.shape == (t, channels) and found.dtype == np.float32 and found.flags.c_contiguous
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-5)


HEADS = {
    "lengths": st.lists(st.integers(1, 40), min_size=1, max_size=4)
    | st.just([200])
    | st.lists(st.just(1), min_size=1, max_size=9),
    "heads": st.integers(1, 4),
    "width": st.integers(1, 70),
    "seed": SEEDS,
}


@given(**HEADS, magnitude=st.sampled_from([1e-3, 1.0, 20.0]))
def test_qkv_and_attend(fused, lengths, heads, width, seed, magnitude):
    c = heads * width
    starts = np.cumsum([0, *lengths])
    rng = np.random.default_rng(seed)
    h = (rng.standard_normal((starts[-1], c)) * magnitude).astype(np.float32)
    stored, b = (rng.standard_normal((3 * c, c)) / np.sqrt(c)).astype(np.float32), np.zeros(3 * c, np.float32)
    found = fused.qkv(h, fused.matrix(stored), fused.vector(b), heads)
    expected = plain.qkv(h, plain.matrix(stored), b, heads)
    for a, truth in zip(found, expected, strict=True):
        assert a.shape == (starts[-1], heads, width)
        np.testing.assert_allclose(a, truth, rtol=1e-4, atol=1e-5 * magnitude)
    a, truth = fused.attend(*found, starts), plain.attend(*found, starts)
    assert a.shape == (starts[-1], c) and a.flags.c_contiguous
    scores = magnitude**2 * np.sqrt(width)  # an error of 1e-7 of a score is one of a weight
    np.testing.assert_allclose(a, truth, rtol=1e-4, atol=1e-5 * magnitude * max(1, scores / 10))
    weights = fused.attention_weights(*found[:2], starts)
    assert all(np.abs(w.sum(-1) - 1).max() < 1e-5 for w in weights)


@given(**HEADS)
def test_a_row_does_not_depend_on_its_batch(fused, lengths, heads, width, seed):
    """All verbs, bit for bit: the whole batch against each text alone."""
    c = heads * width
    starts = np.cumsum([0, *lengths])
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    x = draw(starts[-1], c)
    square, wide = fused.matrix(draw(c, c)), fused.matrix(draw(3 * c, c))
    b, b3, gamma, beta = fused.vector(draw(c)), fused.vector(draw(3 * c)), fused.vector(draw(c)), fused.vector(draw(c))

    def verbs(x, starts):
        yield fused.linear(x, square, b)
        yield fused.linear_gelu(x, square, b)
        yield fused.linear_gelu_tanh(x, square, b)
        yield fused.linear_relu(x, square, b)
        yield fused.linear_tanh(x, square, b)
        yield fused.linear_sigmoid(x, square, b)
        yield fused.linear_add_norm(x, x, square, b, gamma, beta, 1e-6)
        yield fused.attend(*fused.qkv(x, wide, b3, heads), starts)

    alone = [list(verbs(np.ascontiguousarray(x[s:e]), np.array([0, e - s]))) for s, e in pairwise(starts)]
    for i, together in enumerate(verbs(x, starts)):
        assert np.array_equal(together, np.concatenate([one[i] for one in alone]))


@pytest.mark.parametrize("name", ["plain", "fused"])
def test_verbs_change_no_argument(name, fused):
    ops = {"plain": plain, "fused": fused}[name]
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    x, r, starts = draw(7, 32), draw(7, 32), np.array([0, 3, 7])
    w, w3, b, b3 = ops.matrix(draw(32, 32)), ops.matrix(draw(96, 32)), ops.vector(draw(32)), ops.vector(draw(96))
    word, ids = draw(9, 32), np.arange(7)
    arguments = [x, r, starts, b, b3, word, ids, *[m if name == "plain" else m.panels for m in (w, w3)]]
    for argument in arguments:
        argument.flags.writeable = False
    before = [a.copy() for a in arguments]
    ops.linear(x, w, b)
    ops.linear_gelu(x, w, b)
    ops.linear_gelu_tanh(x, w, b)
    ops.linear_relu(x, w, b)
    ops.linear_tanh(x, w, b)
    ops.linear_sigmoid(x, w, b)
    ops.linear_add_norm(x, r, w, b, b, b, 1e-6)
    ops.attend(*ops.qkv(x, w3, b3, 4), starts)
    ops.embed(ids, ids, ids, word, word, word, b, b, 1e-6)
    assert all(np.array_equal(a, old) for a, old in zip(arguments, before, strict=True))


def test_no_rows(fused):
    w, b = fused.matrix(np.ones((5, 3), np.float32)), fused.vector(np.ones(5, np.float32))
    assert fused.linear(np.empty((0, 3), np.float32), w, b).shape == (0, 5)
