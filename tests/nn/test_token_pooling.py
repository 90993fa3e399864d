"""Token pooling: Ward's clustering by the definition, and what is kept of a text's vectors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.nn.token_pooling import pool_tokens, ward
from minibi.shapes import unit_rows


def ward_by_definition(x, clusters):
    """Tries every pair, sums every square."""

    def spread(rows):
        return float(np.square(x[rows] - x[rows].mean(axis=0)).sum())

    groups = [[i] for i in range(len(x))]
    while len(groups) > clusters:
        pairs = [(i, j) for i in range(len(groups)) for j in range(i + 1, len(groups))]
        costs = [spread(groups[i] + groups[j]) - spread(groups[i]) - spread(groups[j]) for i, j in pairs]
        i, j = pairs[int(np.argmin(costs))]
        groups[i] += groups.pop(j)
    return {frozenset(group) for group in groups}


@given(st.integers(1, 14), st.integers(0, 10**6), st.data())
def test_ward_is_the_cheapest_join_each_time(n, seed, data):
    clusters = data.draw(st.integers(1, n))
    x = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    labels = ward(x, clusters)
    assert {frozenset(np.flatnonzero(labels == c).tolist()) for c in range(clusters)} == ward_by_definition(x, clusters)
    firsts = [int(np.flatnonzero(labels == c)[0]) for c in range(clusters)]
    assert firsts == sorted(firsts)


@given(st.integers(0, 20), st.integers(1, 6), st.integers(0, 3), st.integers(0, 10**6))
def test_sizes(n, factor, protected, seed):
    x = unit_rows(np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32))
    pooled = pool_tokens(x, factor, protected)
    free = max(0, n - protected)
    assert len(pooled) == min(n, protected) + (max(1, free // factor) if free else 0)
    assert (pooled[:protected] == x[:protected]).all()
    assert np.linalg.norm(pooled, axis=1) == pytest.approx(1, abs=1e-5)


def test_equal_vectors_become_one():
    x = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)[[0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11]]
    assert pool_tokens(x, 4, 0) == pytest.approx(np.eye(3))
    assert pool_tokens(x, 1) is x


def test_refused():
    with pytest.raises(InputError):
        pool_tokens(np.eye(3, dtype=np.float32), 0)
