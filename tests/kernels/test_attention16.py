"""Attention in whole numbers: its twin's results within what is rounded, each text by itself, no sum overflows."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_attention import SHAPES, exact

from minibi.nn import plain

pytestmark = pytest.mark.usefixtures("compiled")


def run(q, k, v, starts, first_only=False):
    """Of arrays [T, H, D], scaled by 1 / sqrt(D)."""
    from minibi.kernels.attention16 import attend16

    starts = np.asarray(starts, np.int64)
    shape = (len(starts) - 1 if first_only else len(q), *q.shape[1:])
    memory = np.full(int(np.prod(shape)) + 128, 12345.0, np.float32)
    out = memory[64:-64].reshape(shape)
    attend16(q, k, v, starts, np.float32(1 / np.sqrt(q.shape[2])), first_only, out)
    assert (memory[:64] == 12345).all() and (memory[-64:] == 12345).all()
    return out


def slack(q, k, v, starts):
    """What may be lost, [T, H, 1]: half a code of a value, and what half a code of queries and keys does to weights."""
    out = np.zeros((len(q), q.shape[1], 1))
    for s, e in pairwise(starts):
        tops = [np.abs(x[s:e]).max(axis=(0, 2), initial=0).astype(np.float64)[:, None] for x in (q, k, v)]
        scores = tops[0] * tops[1] * np.sqrt(q.shape[2])  # at most
        out[s:e] = tops[2] * (0.5 / 1023 + 5e-4 + 2 * np.expm1(np.minimum(scores / 3000, 1)))
    return out + 1e-30


@given(**SHAPES, magnitude=st.sampled_from([1e-20, 1e-3, 1.0, 4.0]))
@example([130, 1, 128, 129, 257], 2, 32, 0, 1.0)
def test_attend16(lengths, heads, width, seed, magnitude):
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *lengths])
    packed = rng.standard_normal((starts[-1], 3, heads, width)).astype(np.float32)
    q, k, v = packed[:, 0] * np.float32(magnitude), packed[:, 1], packed[:, 2]
    out, allowed = run(q, k, v, starts), slack(q, k, v, starts)
    assert (np.abs(out - plain.attend16(q, k, v, starts).reshape(q.shape)) <= allowed).all()
    assert (np.abs(out - exact(q, k, v, starts, 1 / np.sqrt(width))) <= allowed).all()


@given(**SHAPES)
def test_a_text_is_attended_to_by_itself(lengths, heads, width, seed):
    """Not a bit depends on the neighbours, on what they leave in the scratch memory, or on how much is asked for."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *lengths])
    q, k, v = rng.standard_normal((3, starts[-1], heads, width)).astype(np.float32)
    together = run(q, k, v, starts)
    for s, e in pairwise(starts):
        assert np.array_equal(together[s:e], run(q[s:e], k[s:e], v[s:e], [0, e - s]))
    assert np.array_equal(run(q, k, v, starts, first_only=True), together[starts[:-1]])


@pytest.mark.parametrize("width", [1, 32, 64, 70])
@pytest.mark.parametrize("sign", [1, -1])
def test_no_sum_overflows(width, sign):
    """Everything at its largest, in a text of many blocks: scores, and values under equal weights."""
    x = np.full((1000, 1, width), 3.0, np.float32)
    assert np.abs(run(x, sign * x, -x, [0, 1000]) + 3).max() < 1e-5
    k = sign * x
    k[777] *= -1  # the one key that differs
    v = np.where(np.arange(1000) == 777, 1.0, 2.0).astype(np.float32)[:, None, None].repeat(width, 2)
    apart = 2 * 9 * np.sqrt(width)  # how far its scores are from the others
    weight = 1 / (1 + 999 * np.exp(sign * apart))
    assert np.abs(run(x, k, v, [0, 1000]) - (2 - weight)).max() < 2 / 1023 + 1e-3


def test_one_token_attends_to_itself():
    rng = np.random.default_rng(0)
    q, k, v = rng.standard_normal((3, 1, 2, 5)).astype(np.float32)
    top = np.abs(v).max(axis=(0, 2), keepdims=True)
    assert (np.abs(run(q * 1000, k, v, [0, 1]) - v) <= 0.5001 / 1023 * top).all()


def test_equal_scores_average():
    v = np.arange(1, 9, dtype=np.float32).reshape(8, 1, 1)
    assert np.abs(run(np.zeros_like(v), v, v, [0, 8]) - 4.5).max() < 8 / 1023


def test_zeros():
    x = np.zeros((9, 2, 32), np.float32)
    assert not run(x, x, x, [0, 9]).any()


def test_texts_of_no_tokens_and_no_texts():
    x = np.ones((3, 1, 4), np.float32)
    assert np.abs(run(x, x, x, [0, 0, 3, 3]) - 1).max() < 1e-6
    assert run(x[:0], x[:0], x[:0], [0]).shape == (0, 1, 4)


def test_views_of_one_array_and_copies_agree():
    packed = np.random.default_rng(1).standard_normal((20, 3, 2, 32)).astype(np.float32)
    views = [packed[:, i] for i in range(3)]
    copies = [np.ascontiguousarray(a) for a in views]
    assert np.array_equal(run(*views, [0, 9, 20]), run(*copies, [0, 9, 20]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_no_number_does_not_become_one(value, which):
    """A head with NaN or infinity in a text gives NaN there, and nowhere else."""
    for width in (12, 32):
        x = np.random.default_rng(0).standard_normal((3, 30, 2, width)).astype(np.float32)
        clean = run(*x, [0, 10, 30])
        x[which, 4, 1, 3] = value
        out = run(*x, [0, 10, 30])
        assert np.isnan(out[:10, 1]).all()
        assert np.array_equal(out[10:], clean[10:]) and np.array_equal(out[:, 0], clean[:, 0])
