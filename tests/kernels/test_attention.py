"""Attention over packed texts: exact where it can be, each text by itself, nothing written outside."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("compiled")


def exact(q, k, v, starts, scale):
    """Softmax attention in float64."""
    q, k, v = (a.astype(np.float64) for a in (q, k, v))
    out = np.zeros_like(v)
    for s, e in pairwise(starts):
        for h in range(q.shape[1]):
            scores = q[s:e, h] @ k[s:e, h].T * scale
            p = np.exp(scores - scores.max(1, keepdims=True))
            out[s:e, h] = p / p.sum(1, keepdims=True) @ v[s:e, h]
    return out


def run(q, k, v, starts, scale):
    from minibi.kernels.attention import attend

    memory = np.full(q.size + 128, 12345.0, np.float32)
    out = memory[64:-64].reshape(q.shape)
    attend(q, k, v, np.asarray(starts, np.int64), np.float32(scale), False, out)
    assert (memory[:64] == 12345).all() and (memory[-64:] == 12345).all()
    return out


SHAPES = {
    "lengths": st.lists(st.sampled_from([1, 2, 5, 6, 7, 15, 16, 17, 63, 64, 65, 130]), min_size=1, max_size=4),
    "heads": st.integers(1, 3),
    "width": st.integers(1, 70),
    "seed": st.integers(0, 10**6),
}


@given(**SHAPES, magnitude=st.sampled_from([1e-3, 1.0, 30.0]))
def test_attend(lengths, heads, width, seed, magnitude):
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *lengths])
    packed = rng.standard_normal((starts[-1], 3, heads, width)).astype(np.float32)
    q, k, v = packed[:, 0] * np.float32(magnitude), packed[:, 1], packed[:, 2]
    scale = 1 / np.sqrt(width)
    out = run(q, k, v, starts, scale)
    # a score of size s carries an error near 1e-7 s, and so does the weight made of it
    assert np.abs(out - exact(q, k, v, starts, scale)).max() < 4e-6 * max(1, magnitude)


@given(**SHAPES)
def test_a_text_is_attended_to_by_itself(lengths, heads, width, seed):
    """Neither the neighbours in the batch nor what they leave in the scratch memory change a bit."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *lengths])
    q, k, v = rng.standard_normal((3, starts[-1], heads, width)).astype(np.float32)
    together = run(q, k, v, starts, 0.3)
    for s, e in pairwise(starts):
        assert np.array_equal(together[s:e], run(q[s:e], k[s:e], v[s:e], [0, e - s], 0.3))


def test_one_token_attends_to_itself():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 1, 2, 5)).astype(np.float32)
    assert np.array_equal(run(q * 1000, k, v, [0, 1], 1.0), v), "the weight is exactly one"


def test_equal_scores_average():
    v = np.arange(8, dtype=np.float32).reshape(8, 1, 1)
    assert run(np.zeros_like(v), v, v, [0, 8], 1.0).ravel().tolist() == [3.5] * 8


def test_far_apart_scores_pick_the_largest():
    k = np.linspace(-1, 1, 40, dtype=np.float32).reshape(-1, 1, 1)
    q = np.full_like(k, 1e6)
    assert np.abs(run(q, k, k, [0, 40], 1.0) - 1).max() < 1e-6
    assert np.abs(run(-q, k, k, [0, 40], 1.0) + 1).max() < 1e-6


def test_texts_of_no_tokens_and_no_texts():
    x = np.ones((3, 1, 4), np.float32)
    assert np.array_equal(run(x, x, x, [0, 0, 3, 3], 1.0), x)
    assert run(x[:0], x[:0], x[:0], [0], 1.0).shape == (0, 1, 4)


def test_views_of_one_array_and_copies_agree():
    packed = np.random.default_rng(1).standard_normal((20, 3, 2, 12)).astype(np.float32)
    views = [packed[:, i] for i in range(3)]
    copies = [np.ascontiguousarray(a) for a in views]
    assert np.array_equal(run(*views, [0, 9, 20], 0.5), run(*copies, [0, 9, 20], 0.5))
