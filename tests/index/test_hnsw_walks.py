"""Searches that take turns: none sees another, marks are wiped between them, estimates only choose who is compared."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi import FlatIndex, HNSWIndex
from minibi.errors import InputError
from minibi.index.codes import CODES


def made(n, dim, metric="cosine", codes=None, store="float32", seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(30, dim))
    x = (centres[rng.integers(0, 30, n)] + 0.5 * rng.normal(size=(n, dim))).astype(np.float32)
    index = HNSWIndex(dim, metric, M=8, ef_construction=40, codes=codes, store=store)
    index.add(x)
    return index, x


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(("cosine", "ip", "l2")), st.sampled_from(CODES), st.sampled_from(CODES), st.integers(1, 400),
    st.integers(1, 40), st.integers(1, 60), st.integers(0, 2**32),
)  # fmt: skip
def test_a_query_finds_the_same_alone_and_in_any_company(metric, codes, store, n, k, ef, seed):
    rng = np.random.default_rng(seed)
    index, _ = made(n, 20, metric, codes, store, seed % 7)
    queries = rng.normal(size=(int(rng.integers(1, 30)), 20)).astype(np.float32)
    scores, ids = index.search(queries, k, ef=ef)
    other_way = index.search(queries.tolist(), k, ef=ef)  # what is not an array yet is looked at step by step
    assert other_way[0].tobytes() == scores.tobytes() and (other_way[1] == ids).all()
    order = rng.permutation(len(queries))
    shuffled = index.search(queries[order], k, ef=ef)
    assert shuffled[0].tobytes() == scores[order].tobytes() and (shuffled[1] == ids[order]).all()
    for q in range(len(queries)):
        alone = index.search(queries[q], k, ef=ef)
        assert alone[0].tobytes() == scores[q : q + 1].tobytes() and (alone[1] == ids[q]).all()


def test_marks_are_wiped_also_after_a_search_that_saw_more_than_it_remembers():
    index, x = made(9000, 8)
    before = index.search(x[:40], 5, ef=20)
    everything = index.search(x[:3], 9000, ef=9000)
    assert all(len(set(row)) == 9000 for row in everything[1].tolist())
    for a, b in zip(before, index.search(x[:40], 5, ef=20), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("codes", ["int4", "int8"])
def test_what_is_returned_is_ordered_by_the_vectors_themselves(metric, codes):
    """Tight clusters, whose members the codes cannot tell apart: all that may be near are compared."""
    rng = np.random.default_rng(0)
    x = np.repeat(rng.normal(size=(40, 32)), 50, axis=0) + 0.002 * rng.normal(size=(2000, 32))
    index, exact = HNSWIndex(32, metric, codes=codes), FlatIndex(32, metric)
    index.add(x)
    exact.add(x)
    q = x[::20] + 0.001
    scores, ids = index.search(q, 10, ef=2000)  # the walk sees all: what is missing, an estimate has ruled out
    wanted, true_ids = exact.search(q, 10)
    found = np.mean([len(set(a) & set(b)) for a, b in zip(ids.tolist(), true_ids.tolist(), strict=True)]) / 10
    assert found > 0.995
    same = ids == true_ids
    np.testing.assert_allclose(scores[same], wanted[same], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_vector_on_the_narrow_path_is_still_checked(bad):
    index, x = made(50, 8)
    query = x[0].copy()
    query[3] = bad
    with pytest.raises(InputError, match="finite"):
        index.search(query)
    with pytest.raises(InputError, match="dimensions"):
        index.search(x[0, :5])
    with pytest.raises(InputError, match="finite"):
        index.search(np.stack([x[1], query]))
    scores, ids = index.search(np.float32(1e30) * x[0], 1)  # its square overflows; it is still a direction
    assert ids[0, 0] == 0 and abs(scores[0, 0] - 1) < 1e-5
    index, x = made(50, 8, "ip")
    assert np.isfinite(index.search(np.float32(1e16) * x[0], 50)[0]).all()
    with pytest.raises(InputError, match="1e17"):
        index.search(np.float32(1e18) * x[0])
