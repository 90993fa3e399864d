"""Searches that take turns: none sees another, marks are wiped between them, estimates only choose who is compared."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi import FlatIndex, HNSWIndex
from minibi.errors import InputError
from minibi.index.codes import CODES
from minibi.index.hnsw_engine import SAMPLE, sample_of


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


@pytest.mark.parametrize("codes", CODES)
def test_a_search_may_begin_at_the_nearest_of_a_sample(codes, tmp_path):
    index, x = made(3000, 24, codes=codes)
    exact = FlatIndex(24)
    exact.add(x)
    wanted = exact.search(x[:200] + 0.1, 10)[1]

    def found(index):
        ids = index.search(x[:200] + 0.1, 10, ef=60)[1]
        return np.mean([len(set(a) & set(b)) for a, b in zip(ids.tolist(), wanted.tolist(), strict=True)]) / 10

    assert found(index) > 0.95
    links = index._view["links"].copy()
    index.entry = "sampled"
    assert found(index) > 0.95 and (index._view["links"] == links).all()
    index.save(tmp_path / "index")
    loaded = HNSWIndex.load(tmp_path / "index")
    assert loaded.entry == "sampled"
    for a, b in zip(loaded.search(x[:50], 5), index.search(x[:50], 5), strict=True):
        np.testing.assert_array_equal(a, b)
    index.remove(np.arange(0, 3000, 2))
    index.add(x[:20:2], np.arange(5000, 5010))
    ids = index.search(x[:400], 3)[1]
    assert (ids[:20:2, 0] >= 5000).all() and ((ids >= 5000) | (ids % 2 == 1)).all()
    assert not index.check()


def test_a_sample_is_spread_over_the_live_rows():
    live = np.random.default_rng(0).random(5000) < 0.5
    rows = sample_of(live)
    assert len(rows) == SAMPLE == len(set(rows.tolist())) and live[rows].all()
    shares = np.searchsorted(np.flatnonzero(live), rows) * SAMPLE // live.sum()
    assert (np.diff(shares) >= 0).all() and np.abs(shares - np.arange(SAMPLE)).max() <= 1
    np.testing.assert_array_equal(sample_of(live), rows)
    np.testing.assert_array_equal(sample_of(np.ones(7, bool)), np.arange(7))


def test_an_unknown_entry_is_refused():
    with pytest.raises(InputError, match="hierarchy"):
        HNSWIndex(8, entry="random")
    index, _ = made(5, 8)
    with pytest.raises(InputError, match="sampled"):
        index.entry = "top"


def test_threads_that_search_a_new_view_at_once_find_the_same():
    """Each may be the first to look at it."""
    index, x = made(2000, 16)
    index.entry = "sampled"
    wanted = index.search(x[:40], 5)
    for _ in range(20):
        index._last_engine = None
        with ThreadPoolExecutor(4) as pool:
            for scores, ids in pool.map(lambda _: index.search(x[:40], 5), range(8)):
                assert (ids == wanted[1]).all() and (scores == wanted[0]).all()
