"""HNSW after removals: as good as built anew, in many steps too, and with the links it had."""

from __future__ import annotations

import os

import numpy as np
import pytest

from minibi.index.flat import FlatIndex
from minibi.index.hnsw import HNSWIndex

N = 600 if os.environ.get("MINIBI_KERNELS") == "plain" else 4000


def clustered(n, seed=0, dim=32):
    centres = np.random.default_rng(7).normal(size=(40, dim))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(0, 40, n)] + 0.3 * rng.normal(size=(n, dim))).astype(np.float32)


def recall(index, exact, queries, ef):
    found, wanted = index.search(queries, 10, ef=ef)[1], exact.search(queries, 10)[1]
    return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), wanted.tolist(), strict=True)])


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("steps", [1, 7, 25])
def test_half_removed_in_steps_is_as_good_as_built_anew(metric, steps):
    x, q = clustered(N), clustered(300, 1)
    gone = np.random.default_rng(2).permutation(N)[: N // 2]
    kept = np.setdiff1d(np.arange(N), gone)
    index, fresh, exact = HNSWIndex(32, metric), HNSWIndex(32, metric), FlatIndex(32, metric)
    index.add(x)
    fresh.add(x[kept], kept)
    exact.add(x[kept], kept)
    for part in np.array_split(gone, steps):
        index.remove(part)
    for ef in (10, 20, 50):
        assert recall(index, exact, q, ef) >= recall(fresh, exact, q, ef) - 0.01
    assert index.check() == [] and not np.isin(index.search(q, 50)[1], gone).any()


def test_links_between_those_that_stay_are_kept():
    index = HNSWIndex(32)
    index.add(clustered(N))
    before = index._view["links"].copy()
    gone = np.arange(0, N, 9)
    index.remove(gone)
    index._relink()
    after, touched = index._view["links"], 0
    for row in index.ids.tolist():
        stay = before[row][(before[row] >= 0) & (before[row] % 9 > 0)]
        here = after[row][after[row] >= 0]
        lost = set(stay.tolist()) - set(here.tolist())
        assert len(lost) <= 1  # one may have made room for a row that could not be reached otherwise
        touched += len(stay) < (before[row] >= 0).sum() and len(here) > len(stay)
    assert touched > N // 3
