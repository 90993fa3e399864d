"""The training verbs on kernels are the plain ones, forward and backward, and give the same bits on any threads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi.nn import plain
from minibi.nn.dropout import Drop, Dropout
from minibi.nn.memory import empty
from minibi.nn.tape import Tape

pytestmark = pytest.mark.usefixtures("compiled")
SEEDS = st.integers(0, 10**6)
few = settings(max_examples=8)


@pytest.fixture(scope="module")
def fused():
    from minibi.nn import fused_grad

    return fused_grad


def draw_with(seed):
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.standard_normal(shape).astype(np.float32)


PART = tuple((rows, 50 + rows) for rows in range(1000))  # somewhere in a batch
DROPOUTS = st.sampled_from([None, Dropout(0.1, 0.3, (1,)), Dropout(0.6, 0.01, (7, 2**40), PART)])


def both(fused, verb, args, watched, dropout=None, **options):
    """(result, gradients) of a verb on kernels, then on NumPy."""
    for ops in (fused, plain):
        tape = Tape(ops, [args[i] for i in watched], dropout)
        results = getattr(tape, verb)(*args, **options)
        results = list(results) if isinstance(results, tuple) else [results]
        dys = [np.sin(np.arange(y.size, dtype=np.float32)).reshape(y.shape) for y in results]
        yield [*results, *tape.gradients(results, dys, [args[i] for i in watched])]


def agree(fused, verb, args, watched, tolerance=2e-5, **options):
    ours, theirs = both(fused, verb, args, watched, **options)
    for i, (found, expected) in enumerate(zip(ours, theirs, strict=True)):
        assert found.shape == expected.shape and found.dtype == np.float32
        assert np.abs(found - expected).max() <= tolerance * max(1, np.abs(expected).max()), (verb, i)


@pytest.mark.parametrize("verb", ["linear", "linear_gelu", "linear_gelu_tanh"])
@few
@given(
    rows=st.sampled_from([1, 7, 515, 516, 517, 700, 2100]), k=st.sampled_from([36, 64, 128]),
    n=st.sampled_from([1, 64, 192]), seed=SEEDS,
)  # fmt: skip
def test_linear_verbs(fused, verb, rows, k, n, seed):
    draw = draw_with(seed)
    w = (draw(n, k) / np.float32(np.sqrt(k))).T
    agree(fused, verb, [draw(rows, k), w, draw(n)], (0, 1, 2), tolerance=1e-4)


@few
@given(
    st.sampled_from([3, 516, 800]), st.sampled_from([36, 64, 128]), st.sampled_from([36, 64, 128]), SEEDS, DROPOUTS
)  # fmt: skip
def test_linear_add_norm(fused, rows, k, n, seed, dropout):
    draw = draw_with(seed)
    w = (draw(n, k) / np.float32(np.sqrt(k))).T
    args = [draw(rows, k), draw(rows, n), w, draw(n), draw(n), draw(n), 1e-5]
    agree(fused, "linear_add_norm", args, range(6), tolerance=1e-4, dropout=dropout)


@few
@given(st.sampled_from([516, 700]), st.booleans(), SEEDS, DROPOUTS)
def test_what_is_fused_over_verbs(fused, rows, twice, seed, dropout):
    """A feed-forward half of a block: slopes multiplied and gradients added within the products.

    twice: somebody else reads the GELU's result, so that its gradient has two sources.
    """
    draw, c, f = draw_with(seed), 64, 192
    up, down = (draw(f, c) / np.float32(8)).T, (draw(c, f) / np.float32(14)).T
    watched = [draw(rows, c), up, draw(f), down, draw(c), draw(c), draw(c)]
    h, _, up_b, _, down_b, gamma, beta = watched
    found = []
    for ops in (fused, plain):
        tape = Tape(ops, watched, dropout)
        u = tape.linear_gelu(h, up, up_b)
        results = [tape.linear_add_norm(u, h, down, down_b, gamma, beta, 1e-5)]
        if twice:
            results.append(tape.linear(u, down, down_b))
        dys = [np.sin(np.arange(y.size, dtype=np.float32)).reshape(y.shape) for y in results]
        found.append([*results, *tape.gradients(results, dys, watched)])
    for ours, theirs in zip(*found, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-4 * max(1, np.abs(theirs).max())


@few
@given(
    tokens=st.sampled_from([1, 2, 383, 384, 385, 1000]), n=st.sampled_from([16, 64, 208]),
    k=st.sampled_from([1, 2, 7]), cut=st.integers(0, 4), seed=SEEDS,
)  # fmt: skip
def test_weight_grad_by_parts(fused, tokens, n, k, cut, seed):
    """However the matrix is cut, each part is that of dy^T x, and nothing outside of it is touched."""
    from minibi.kernels import matmul_grad

    draw, k, cut = draw_with(seed), k * matmul_grad.PANEL, min(cut * matmul_grad.UNIT, n)
    dy, x = draw(tokens, n), draw(tokens, k)
    dw, db = np.full((n, k), np.nan, np.float32), np.full(n, np.nan, np.float32)
    scratch = np.empty(matmul_grad.WEIGHT_SCRATCH, np.float32)
    matmul_grad.weight_grad(dy, x, cut, n, 0, k, scratch, dw, db)
    assert np.isnan(dw[:cut]).all() and np.isnan(db[:cut]).all()
    half = k // matmul_grad.PANEL // 2 * matmul_grad.PANEL
    matmul_grad.weight_grad(dy, x, 0, cut, half, k, scratch, dw, db)
    assert np.isnan(dw[:cut, :half]).all()
    matmul_grad.weight_grad(dy, x, 0, cut, 0, half, scratch, dw, db)
    np.testing.assert_allclose(dw, dy.T.astype(np.float64) @ x, rtol=1e-5, atol=1e-5 * np.sqrt(tokens) * 5)
    if half or cut == 0:  # sums come with the first column
        np.testing.assert_allclose(db, dy.sum(axis=0, dtype=np.float64), rtol=1e-5, atol=1e-4)


@few
@given(
    st.lists(st.integers(1, 90), min_size=1, max_size=9) | st.just([300, 1, 400]), st.sampled_from([1, 2]),
    st.sampled_from([12, 32, 64]), SEEDS, st.booleans(), DROPOUTS,
)  # fmt: skip
def test_attention(fused, lengths, heads, width, seed, first_only, dropout):
    draw, starts, c = draw_with(seed), np.cumsum([0, *lengths]), heads * width
    h, w, b = draw(starts[-1], c), (draw(3 * c, c) / np.float32(np.sqrt(c))).T, draw(3 * c)
    found = []
    for ops in (fused, plain):
        tape = Tape(ops, [h, w, b], dropout)
        y = tape.attend(*tape.qkv(h, w, b, heads), starts, first_only)
        found.append(
            [y, *tape.gradients([y], [np.sin(np.arange(y.size, dtype=np.float32)).reshape(y.shape)], [h, w, b])]
        )
    for ours, theirs in zip(*found, strict=True):
        assert np.abs(ours - theirs).max() <= 1e-4 * max(1, np.abs(theirs).max())


@few
@given(st.lists(st.integers(1, 30), min_size=1, max_size=30), st.sampled_from([20, 48]), SEEDS, DROPOUTS)
def test_embed(fused, lengths, c, seed, dropout):
    rng, draw, t = np.random.default_rng(seed), draw_with(seed), sum(lengths)
    ids, types = rng.integers(0, 50, t).astype(np.int32), rng.integers(0, 2, t).astype(np.int32)
    positions = np.concatenate([np.arange(n) for n in lengths])
    args = [ids, types, positions, draw(50, c), draw(30, c), draw(2, c), draw(c), draw(c), 1e-3]
    agree(fused, "embed", args, range(3, 8), tolerance=1e-4, dropout=dropout)


@given(
    st.integers(0, 20), st.integers(1, 5), st.integers(0, 2**32 - 1), st.sampled_from([0.001, 0.1, 0.5, 0.999]),
    st.integers(0, 2**33),
)  # fmt: skip
def test_the_kernels_drop_what_the_plain_mask_drops(fused, rows, width, key, rate, first):
    """Bit for bit, from any row on, rows beyond 2^32 among them."""
    from minibi.kernels import dropout as kernels

    drop, x = Drop(rate, key, first // 2), draw_with(key)(rows, 16 * width)
    expected = x * drop.factors(first // 2 + first + np.arange(rows), 16 * width, np.float32)
    out, onto = np.full_like(x, np.nan), x.copy()
    kernels.drop_rows(x, first, fused._place(drop), out)
    kernels.drop_rows_add(onto, first, fused._place(drop), x)
    assert np.array_equal(out, expected) and np.array_equal(onto, expected + x)


@pytest.mark.parametrize("dropout", [None, Dropout(0.1, 0.1, (3,))], ids=["whole", "dropped"])
def test_the_same_bits_on_any_number_of_threads(fused, monkeypatch, dropout):
    draw, starts = draw_with(0), np.array([0, 300, 301, 700, 900])
    h, w, b = draw(900, 64), draw(192, 64).T, draw(192)
    up, bias, down, narrow = draw(256, 64).T, draw(256), draw(64, 256).T, draw(64)
    found = []
    for threads in ("1", "2", "3"):
        monkeypatch.setenv("MINIBI_NUM_THREADS", threads)
        tape = Tape(fused, [h, w, b, up, bias, down, narrow], dropout)
        a = tape.attend(*tape.qkv(h, w, b, 2), starts)
        y = tape.linear_add_norm(tape.linear_gelu(a, up, bias), h, down, narrow, narrow, narrow, 1e-5)
        found.append([y, *tape.gradients([y], [np.ones_like(y)], [h, w, b, up, bias, down, narrow])])
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_memory_comes_back_only_when_nobody_holds_it():
    a = empty((1000, 100))
    a.fill(1)
    view, place = a[10:20, 3], a.ctypes.data
    del a
    others = [empty((1000, 100)) for _ in range(3)]
    for other in others:
        other.fill(2)
    assert (view == 1).all() and place not in [o.ctypes.data for o in others]
    del view
    again = [empty((1000, 100)) for _ in range(3)]
    assert place in [x.ctypes.data for x in again] and all(x.ctypes.data % 64 == 0 for x in again)
    assert empty((0, 5)).shape == (0, 5) and empty((3,), np.float64).dtype == np.float64
