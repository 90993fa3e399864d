"""GradCache: the gradient of the whole batch, with one chunk's activations alive at a time, dropout replayed."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loss_checks import normal, seeds

from minibi.train import losses as L


class Model:
    """One linear map with dropout on its input; a chunk is (rows, seed)."""

    def __init__(self, w):
        self.w, self.grad, self.alive, self.most = w, np.zeros_like(w), 0, 0

    def dropped(self, chunk):
        x, seed = chunk
        self.most = max(self.most, len(x))
        return x * (np.random.default_rng(seed).random(x.shape) < 0.8) / 0.8

    def embed(self, chunk):
        return self.dropped(chunk) @ self.w

    def backward(self, chunk, d):
        self.grad += self.dropped(chunk).T @ d


def cut(x, size, seed):
    return [(x[i : i + size], seed + i) for i in range(0, len(x), size)]


@given(seed=seeds, rows=st.integers(1, 20), size=st.integers(1, 7), columns=st.integers(2, 3))
def test_the_gradient_is_the_uncached_one(seed, rows, size, columns):
    inputs, w = normal(seed, columns, rows, 5), normal(seed + 1, 5, 3)
    chunks = [cut(x, size, 1000 * i) for i, x in enumerate(inputs)]
    loss = partial(L.info_nce, directions=("query_to_doc", "doc_to_query"))

    cached = Model(w)
    value, gradients = L.grad_cache(chunks, cached.embed, cached.backward, loss)

    whole = Model(w)
    vectors = [np.concatenate([whole.embed(c) for c in column]) for column in chunks]
    expected, slopes = loss(*vectors)
    for column, slope in zip(chunks, slopes, strict=True):
        x = np.concatenate([whole.dropped(c) for c in column])
        whole.grad += x.T @ slope

    assert value == expected
    np.testing.assert_array_equal(gradients, slopes)
    np.testing.assert_allclose(cached.grad, whole.grad, atol=1e-12 * max(1, np.abs(whole.grad).max()))
    assert cached.most <= size


def test_the_gradient_is_that_of_the_parameters():
    """Against central differences of the whole, so that no mistake is common to both sides."""
    inputs, w = normal(1, 2, 7, 4), normal(2, 4, 3)
    chunks = [cut(x, 3, 10 * i) for i, x in enumerate(inputs)]
    model = Model(w)
    L.grad_cache(chunks, model.embed, model.backward, L.info_nce)
    for i in np.ndindex(w.shape):
        up, down = w.copy(), w.copy()
        up[i] += 1e-5
        down[i] -= 1e-5
        ends = [L.grad_cache(chunks, Model(v).embed, lambda *_: None, L.info_nce)[0] for v in (up, down)]
        assert model.grad[i] == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=1e-5, abs=1e-7)


def test_a_learned_scale_and_matryoshka_go_through():
    inputs, w = normal(1, 2, 7, 4), normal(2, 4, 3)
    chunks = [cut(x, 3, 10 * i) for i, x in enumerate(inputs)]
    model = Model(w)
    nested = L.matryoshka(L.info_nce_learned_scale, [3, 2])
    value, gradients = L.grad_cache(chunks, model.embed, model.backward, partial(nested, 1.5))
    vectors = [np.concatenate([model.embed(c) for c in column]) for column in chunks]
    expected, slopes = nested(1.5, *vectors)
    assert value == expected
    assert len(gradients) == 3
    assert float(gradients[0]) == float(slopes[0])
    direct = sum(
        np.concatenate([model.dropped(c) for c in col]).T @ d for col, d in zip(chunks, slopes[1:], strict=True)
    )
    np.testing.assert_allclose(model.grad, direct, atol=1e-12)
