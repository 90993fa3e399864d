"""Six poolings: against sentence-transformers' own results, and with prompts left out as it leaves them out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.nn.pooling import POOLINGS, pool


@pytest.mark.parametrize("name", [*POOLINGS, "cls_mean"])
def test_golden(name, golden_arrays):
    arrays = golden_arrays("tiny")
    modes = ("cls", "mean") if name == "cls_mean" else (name,)
    found = pool(arrays["token_embeddings"], arrays["starts"], modes)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, arrays[f"pooled_{name}"], rtol=2e-6, atol=1e-6)


def masked(h, mode, skip):
    """What sentence-transformers computes from the states [S, C] of one text with the first `skip` masked out."""
    mask = np.arange(len(h)) >= skip
    d = h.astype(np.float64)
    if mode == "cls":
        return d[mask][0]
    if mode == "lasttoken":
        return d[mask][-1]
    if mode == "max":
        return np.where(mask[:, None], d, -np.inf).max(0)
    if mode == "weightedmean":
        weights = np.arange(1, len(h) + 1) * mask
        return (d * weights[:, None]).sum(0) / weights.sum()
    total = (d * mask[:, None]).sum(0)
    return total / (mask.sum() if mode == "mean" else np.sqrt(mask.sum()))


LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=5)
MODES = st.lists(st.sampled_from(sorted(POOLINGS)), min_size=1, max_size=3)


@given(LENGTHS, MODES, st.integers(0, 5), st.integers(1, 20), st.integers(0, 10**6))
def test_pool(lengths, modes, skip, channels, seed):
    starts = np.cumsum([0, *lengths])
    h = np.random.default_rng(seed).standard_normal((starts[-1], channels)).astype(np.float32)
    found = pool(h, starts, modes, skip)
    assert found.shape == (len(lengths), channels * len(modes))
    for i, n in enumerate(lengths):
        text = h[starts[i] : starts[i + 1]]
        expected = np.concatenate([masked(text, mode, min(skip, n - 1)) for mode in modes])
        np.testing.assert_allclose(found[i], expected, rtol=1e-5, atol=1e-5)
        alone = pool(text.copy(), np.array([0, n]), modes, skip)
        assert np.array_equal(found[i : i + 1], alone), "the same bits alone"


def test_no_texts():
    assert pool(np.empty((0, 4), np.float32), np.array([0]), ("cls", "mean")).shape == (0, 8)
