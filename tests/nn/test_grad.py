"""Every gradient against central differences in float64, at every shape; the tape against the sums by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.nn import plain
from minibi.nn.dropout import Drop, Dropout
from minibi.nn.erf import erf
from minibi.nn.gradcheck import gradcheck
from minibi.nn.pooling import POOLINGS
from minibi.nn.tape import Tape

SEEDS = st.integers(0, 10**6)
ROWS, WIDTHS = st.integers(1, 4), st.integers(1, 5)
LENGTHS = st.lists(st.integers(1, 4), min_size=1, max_size=3)
DROPS = st.none() | st.builds(Drop, st.just(0.4), st.integers(0, 2**32 - 1))
few = settings(max_examples=12)
checked: set[str] = set()


def check(verb, *args, **options):
    checked.add(verb)
    assert gradcheck(getattr(plain, verb), plain.GRAD[verb], args, **options) < 1e-6


def numbers(seed):
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape)


@pytest.mark.parametrize("verb", ["gelu", "gelu_tanh", "transpose", "normalize"])
@few
@given(rows=ROWS, n=WIDTHS, seed=SEEDS)
def test_of_one_array(verb, rows, n, seed):
    check(verb, numbers(seed)(rows, n) * 2 + 0.3)


@pytest.mark.parametrize("verb", [v for v in plain.GRAD if v.startswith("linear") and v != "linear_add_norm"])
@few
@given(rows=ROWS, k=WIDTHS, n=WIDTHS, seed=SEEDS)
def test_linear_verbs(verb, rows, k, n, seed):
    draw = numbers(seed)
    x, w, b = draw(rows, k), draw(k, n), draw(n)
    if verb == "linear_relu":  # away from the kink, or differences would see both sides
        z = plain.linear(x, w, b)
        b += np.where((np.abs(z) < 1e-2).any(axis=0), 0.05, 0)
        if (np.abs(plain.linear(x, w, b)) < 5e-3).any():
            return
    check(verb, x, w, b)


@few
@given(ROWS, st.integers(2, 5), SEEDS, st.sampled_from([1e-12, 1e-3]))
def test_layer_norm(rows, n, seed, eps):
    draw = numbers(seed)
    x = draw(rows, n) + 3 * np.arange(n)  # rows far from constant, where nothing has a derivative at eps 1e-12
    check("layer_norm", x, draw(n), draw(n), eps)


@few
@given(ROWS, WIDTHS, st.integers(2, 5), SEEDS, DROPS)
def test_linear_add_norm(rows, k, n, seed, drop):
    draw = numbers(seed)
    args = draw(rows, k), draw(rows, n) + 3 * np.arange(n), draw(k, n), draw(n), draw(n), draw(n), 1e-2
    check("linear_add_norm", *args, drop=drop)


@few
@given(LENGTHS, st.integers(2, 4), SEEDS, DROPS)
def test_embed(lengths, n, seed, drop):
    rng, draw, t = np.random.default_rng(seed), numbers(seed), sum(lengths)
    rows = rng.integers(0, 5, t), rng.integers(0, 2, t), np.concatenate([np.arange(s) for s in lengths])
    check("embed", *rows, draw(5, n), draw(4, n), draw(2, n), draw(n), draw(n), 1e-2, drop=drop)


@few
@given(LENGTHS, st.integers(1, 2), st.integers(1, 3), SEEDS, st.booleans(), DROPS)
def test_attention(lengths, heads, width, seed, first_only, drop):
    draw, starts, c = numbers(seed), np.cumsum([0, *lengths]), heads * width
    t = starts[-1]
    check("qkv", draw(t, c), draw(c, 3 * c), draw(3 * c), heads)
    check("attend", *draw(3, t, heads, width), starts, first_only, drop=drop)
    check("first_rows", draw(t, c), starts)
    check("dropout", draw(t, c), drop=drop)
    check("join", draw(t, c), draw(2, c), draw(1, c))


@few
@given(LENGTHS, st.integers(1, 3), st.integers(0, 3), SEEDS)
def test_poolings(lengths, channels, skip, seed):
    starts = np.cumsum([0, *lengths])
    h = np.random.default_rng(seed).permutation(starts[-1] * channels).reshape(-1, channels) / 3.0  # no ties
    for modes in [*[(mode,) for mode in POOLINGS], ("cls", "mean", "max")]:
        check("pool", h, starts, modes, skip)


def test_every_gradient_was_checked():
    assert checked == set(plain.GRAD)


def test_gradcheck_finds_what_is_wrong():
    x = np.arange(6.0).reshape(2, 3)
    assert gradcheck(lambda x: x**3, lambda dy, x: (dy * 3 * x * x,), [x]) < 1e-9
    assert gradcheck(lambda x: x**3, lambda dy, x: (dy * 3.00001 * x * x,), [x]) > 1e-6
    with pytest.raises(InputError, match="float64"):
        gradcheck(plain.gelu, plain.gelu_grad, [np.ones(3, np.float32)])
    with pytest.raises(InputError, match="shape"):
        gradcheck(plain.gelu, lambda dy, x: (dy[:1],), [x])
    with pytest.raises(InputError, match="no gradient"):
        gradcheck(plain.gelu, lambda dy, x: (None,), [x])


def test_gradcheck_passes_nothing_over():
    x = np.arange(1.0, 4.0)
    assert gradcheck(lambda x: x**2, lambda dy, x: (x * np.nan,), [x]) == np.inf
    with np.errstate(invalid="ignore"):
        assert gradcheck(lambda x: x * np.nan, lambda dy, x: (dy,), [x]) == np.inf
    assert gradcheck(lambda x: float((x**2).sum()), lambda dy, x: (2 * dy * x,), [x]) < 1e-9, "a loss is a number"
    for f, f_grad, args, options, message in (
        (None, None, [x], {}, "takes a function"),
        (np.square, lambda dy, x: (dy,), None, {}, "takes a function"),
        (np.square, lambda dy, x: (dy,), [[1.0, 2.0]], {}, "no argument is an array"),
        (np.square, lambda dy, x: 2 * dy * x, [x], {}, "must return a tuple"),
        (np.square, lambda dy, x: None, [x], {}, "must return a tuple"),
        (np.square, lambda dy, x: (dy,), [x], {"step": 0}, "step must be a number above 0"),
    ):
        with pytest.raises(InputError, match=message):
            gradcheck(f, f_grad, args, **options)


def test_a_zero_row_has_no_direction():
    x = np.array([[0.0, 0.0], [3.0, 4.0]])
    (dx,) = plain.normalize_grad(np.ones((2, 2)), x)
    assert np.isfinite(dx).all() and (dx[0] == 0).all()


def test_erf_is_exact_to_some_1e_16():
    x = np.concatenate([np.linspace(-7, 7, 20001), np.linspace(-0.5, 0.5, 2001), [5e-324, -0.0, 1e300]])
    truth = np.array([math.erf(v) for v in x])
    assert (np.abs(erf(x) - truth) <= 1e-15 * np.abs(truth)).all()
    assert np.isnan(erf(np.array([np.nan]))).all() and (erf(np.array([np.inf, -np.inf])) == [1, -1]).all()
    assert erf(np.float32([0.3])).dtype == np.float32 and erf(np.empty((0, 3))).shape == (0, 3)


def test_the_tape_adds_up_what_an_array_gives_twice():
    x, w = numbers(1)(3, 3), numbers(2)(3, 3)
    b, dy = np.zeros(3), numbers(3)(3, 3)
    tape = Tape(plain, watched=[x, w])
    y = tape.linear(tape.linear(x, w, b), w, b)  # y = x w w
    dx, dw = tape.gradients([y], [dy], of=[x, w])
    np.testing.assert_allclose(dx, dy @ w.T @ w.T)
    np.testing.assert_allclose(dw, (x @ w).T @ dy + x.T @ (dy @ w.T))


def test_the_tape_notes_only_what_is_needed():
    draw, b = numbers(1), np.zeros(3)
    frozen, w, unused = draw(3, 3), draw(3, 3), draw(3, 3)
    tape = Tape(plain, watched=[w, unused])
    h = tape.linear(draw(2, 3), frozen, b)
    assert not tape._calls
    y = tape.linear(h, w, b)
    dw, none = tape.gradients([y], [np.ones((2, 3))], of=[w, unused])
    assert none is None
    np.testing.assert_allclose(dw, h.T @ np.ones((2, 3)))
    assert not tape._calls
    with pytest.raises(AttributeError, match="argsort"):
        tape.argsort(w)
    with pytest.raises(InputError, match="shape"):
        tape.gradients([y], [np.ones(3)], of=[w])


def test_a_mask_is_a_function_of_its_seed():
    drop = Dropout(hidden=0.3, attention=0.1, seed=(7, 1)).place(4, 0.3)
    ones = np.ones((400, 100))
    y = plain.dropout(ones, drop)
    assert np.array_equal(y, plain.dropout(ones, Drop(0.3, drop.key)))
    assert set(np.unique(y)) == {0.0, 1 / 0.7} and abs((y == 0).mean() - 0.3) < 0.01
    assert abs((y == 0).mean(axis=0) - 0.3).max() < 0.12 and abs((y == 0).mean(axis=1) - 0.3).max() < 0.25
    others = [Dropout(0.3, 0.1, seed).place(n, 0.3).key for seed in [(7, 1), (7, 2), (1, 7), (7,)] for n in range(5)]
    assert len(set(others)) == 20
    assert Dropout(0.0, 0.1).place(1, 0.0) is None
    with pytest.raises(InputError, match="hidden"):
        Dropout(hidden=1.0)


def test_without_dropout_the_tape_drops_nothing():
    x = np.ones((2, 3))
    assert Tape(plain).dropout(x) is x
    assert (Tape(plain, dropout=Dropout(hidden=0.5)).dropout(np.ones((20, 3))) == 0).any()
