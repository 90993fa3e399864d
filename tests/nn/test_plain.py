"""The plain verbs mean what their docstrings say: each against a loop over single numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.nn import plain


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), rtol=tolerance, atol=tolerance)


def numbers(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_matrix_and_vector_are_float32_in_computing_order():
    stored = numbers(0, 3, 5).astype(np.float16)
    assert plain.matrix(stored).shape == (5, 3) and plain.matrix(stored).dtype == np.float32
    assert plain.matrix(stored).flags.c_contiguous and np.array_equal(plain.matrix(stored), stored.T)
    assert plain.vector(stored[0]).dtype == np.float32 and np.array_equal(plain.vector(stored[0]), stored[0])


def test_linear():
    x, w, b = numbers(1, 4, 3), numbers(2, 3, 5), numbers(3, 5)
    close(plain.linear(x, w, b), [[sum(x[t] * w[:, n]) + b[n] for n in range(5)] for t in range(4)])


def test_embed():
    word, position, kinds = numbers(1, 7, 4), numbers(2, 5, 4), numbers(3, 2, 4)
    gamma, beta = numbers(4, 4), numbers(5, 4)
    h = plain.embed(np.array([6, 0]), np.array([1, 0]), np.array([0, 4]), word, position, kinds, gamma, beta, 1e-12)
    sums = np.stack([word[6] + kinds[1] + position[0], word[0] + kinds[0] + position[4]])
    close(h, plain.layer_norm(sums, gamma, beta, 1e-12))


def test_layer_norm():
    x, gamma, beta = numbers(1, 3, 6) * 5 + 2, numbers(2, 6), numbers(3, 6)
    expected = []
    for row in x.tolist():
        mean = sum(row) / 6
        variance = sum((v - mean) ** 2 for v in row) / 6
        expected.append(
            [(v - mean) / math.sqrt(variance + 0.5) * g + b for v, g, b in zip(row, gamma, beta, strict=True)]
        )
    close(plain.layer_norm(x, gamma, beta, 0.5), expected)


def test_gelu_in_float64_is_x_times_the_normal_distribution():
    x = np.linspace(-8, 8, 1001)
    close(plain.gelu(x), [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x], 1e-15)
    assert plain.gelu(x).dtype == np.float64 and plain.gelu(x.astype(np.float32)).dtype == np.float32


def test_gelu_tanh_is_its_approximation():
    x = np.linspace(-8, 8, 1001)
    tanh = [math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3)) for v in x]
    close(plain.gelu_tanh(x), 0.5 * x * (1 + np.array(tanh)), 1e-15)
    assert 1e-5 < np.abs(plain.gelu_tanh(x) - plain.gelu(x)).max() < 1e-3, "close to gelu, and not the same"


def test_fused_verbs_are_their_parts():
    x, w, b, r = numbers(1, 4, 3), numbers(2, 3, 5), numbers(3, 5), numbers(4, 4, 5)
    gamma, beta = numbers(5, 5), numbers(6, 5)
    y = x @ w + b
    close(plain.linear_gelu(x, w, b), plain.gelu(y))
    close(plain.linear_gelu_tanh(x, w, b), plain.gelu_tanh(y))
    close(plain.linear_relu(x, w, b), np.where(y > 0, y, 0))
    close(plain.linear_tanh(x, w, b), np.tanh(y))
    close(plain.linear_sigmoid(x, w, b), 1 / (1 + np.exp(-y)))
    close(plain.linear_add_norm(x, r, w, b, gamma, beta, 1e-3), plain.layer_norm(y + r, gamma, beta, 1e-3))


def test_qkv_lays_heads_side_by_side():
    h, w, b = numbers(1, 4, 6), numbers(2, 6, 18), numbers(3, 18)
    y = h @ w + b
    for part, found in enumerate(plain.qkv(h, w, b, 3)):
        assert found.shape == (4, 3, 2)
        for head in range(3):
            close(found[:, head], y[:, 6 * part + 2 * head : 6 * part + 2 * head + 2])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 5), st.integers(0, 10**6))
def test_attention(lengths, heads, width, seed):
    starts = np.cumsum([0, *lengths])
    q, k, v = numbers(seed, 3, starts[-1], heads, width)
    weights, out = plain.attention_weights(q, k, starts), plain.attend(q, k, v, starts)
    assert out.shape == (starts[-1], heads * width)
    for text, n in enumerate(lengths):
        s = starts[text]
        assert weights[text].shape == (heads, n, n)
        for head in range(heads):
            for i in range(n):
                e = [math.exp(float(q[s + i, head] @ k[s + j, head]) / math.sqrt(width)) for j in range(n)]
                p = np.array(e) / sum(e)
                close(weights[text][head, i], p)
                close(out[s + i, head * width : (head + 1) * width], p @ v[s : s + n, head])


@pytest.mark.parametrize("magnitude", [1e4, 1e-30])
def test_softmax_neither_overflows_nor_vanishes(magnitude):
    q, k = numbers(0, 2, 9, 2, 4)
    with np.errstate(over="raise", invalid="raise"):
        weights = plain.attention_weights(q * np.float32(magnitude), k, np.array([0, 9]))[0]
    close(weights.sum(-1), np.ones((2, 9)))
