"""Exact search against arithmetic in float64, and the compiled scan against its plain twin."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minibi import FlatIndex
from minibi.index.codes import CODES, codec_for
from minibi.index.flat import scan, scan_plain

METRICS = ("cosine", "ip", "l2")
WHOLE = st.integers(-4, 4).map(float)
ANY = st.floats(-1e3, 1e3, width=32)


@st.composite
def tables(draw, elements, queries=4):
    """(vectors, queries, ids), with rows that repeat."""
    dim = draw(st.integers(1, 35))
    n = draw(st.integers(1, 150))
    kinds = draw(hnp.arrays(np.float32, (draw(st.integers(1, 12)), dim), elements=elements, fill=st.just(0.0)))
    x = kinds[draw(hnp.arrays(np.int64, n, elements=st.integers(0, len(kinds) - 1)))]
    q = draw(hnp.arrays(np.float32, (queries, dim), elements=elements, fill=st.just(1.0)))
    ids = np.random.default_rng(draw(st.integers(0, 9))).permutation(5 * n)[:n] * 2 - 4 * n
    return x, q, ids


def exact(x, q, metric):
    """Distances in float64, [Q, N]."""
    x, q = x.astype(float), q.astype(float)
    if metric == "cosine":
        x, q = (a / np.where((n := np.linalg.norm(a, axis=1, keepdims=True)) > 0, n, 1) for a in (x, q))
    return ((x[None] - q[:, None]) ** 2).sum(-1) if metric == "l2" else -(q @ x.T)


@given(tables(WHOLE), st.sampled_from(["ip", "l2"]), st.integers(1, 160))
def test_whole_numbers_give_exactly_the_oracles_answer(table, metric, k):
    x, q, ids = table
    index = FlatIndex(x.shape[1], metric)
    index.add(x, ids)
    scores, found = index.search(q, k)
    distances, k = exact(x, q, metric), min(k, len(x))
    for row, d in enumerate(distances):
        order = np.lexsort((ids, d))[:k]
        assert found[row, :k].tolist() == ids[order].tolist()
        assert scores[row, :k].tolist() == (d[order] if metric == "l2" else -d[order] + 0.0).tolist()
    assert (found[:, k:] == -1).all()


@given(tables(ANY), st.sampled_from(METRICS), st.integers(1, 160))
def test_any_numbers_give_the_oracles_answer_up_to_rounding(table, metric, k):
    x, q, ids = table
    index = FlatIndex(x.shape[1], metric)
    index.add(x, ids)
    scores, found = index.search(q, k)
    distances, k = exact(x, q, metric), min(k, len(x))
    sign = 1 if metric == "l2" else -1
    row_of = {i: r for r, i in enumerate(ids.tolist())}
    for d, s, f, one in zip(distances, scores[:, :k], found[:, :k], q, strict=True):
        size = 1.0 if metric == "cosine" else np.abs(x.astype(float)).max() + np.abs(one).max()
        slack = 1e-5 * max(1.0, size * size * x.shape[1]) if metric != "cosine" else 1e-5
        rows = [row_of[i] for i in f.tolist()]
        assert len(set(rows)) == k  # nothing twice
        np.testing.assert_allclose(sign * s.astype(float), d[rows], rtol=0, atol=slack)
        np.testing.assert_allclose(np.sort(d)[:k], d[rows], rtol=0, atol=2 * slack)  # nothing better left out
        for a, b in zip(range(k), range(1, k), strict=False):  # equal scores by id
            assert s[a] != s[b] or f[a] < f[b]


@given(tables(ANY | WHOLE), st.sampled_from(METRICS), st.integers(1, 150))
def test_equal_vectors_have_equal_scores_in_the_order_of_ids(table, metric, k):
    x, q, ids = table
    index = FlatIndex(x.shape[1], metric)
    index.add(x, ids)
    scores, found = index.search(q, len(x))
    for s, f in zip(scores, found, strict=True):
        by_vector: dict[bytes, set] = {}
        for score, vector in zip(s.tolist(), index.reconstruct(f), strict=True):
            by_vector.setdefault((vector + 0.0).tobytes(), set()).add(score)
        assert all(len(different) == 1 for different in by_vector.values())


@pytest.mark.parametrize("store", CODES)
@given(table=tables(WHOLE), metric=st.sampled_from(["ip", "l2"]), k=st.integers(1, 150), some=st.booleans())
def test_the_plain_twin_equals_the_kernel_on_whole_numbers(compiled, store, table, metric, k, some):
    x, q, ids = table
    codec = codec_for(store, x.shape[1])
    rows = codec.encode(x)
    which = np.arange(0, len(x), 3) if some else None
    k = min(k, len(x) if which is None else len(which))
    fast = scan(codec, rows, ids, q, k, metric, which)
    twin = scan_plain(codec, rows, ids, codec.encode_queries(q), k, metric, which)
    np.testing.assert_array_equal(fast[0], twin[0])
    np.testing.assert_array_equal(fast[1], twin[1])


@given(tables(ANY), st.sampled_from(["ip", "l2"]))
def test_the_plain_twin_equals_the_kernel_up_to_rounding(compiled, table, metric):
    x, q, ids = table
    codec = codec_for("float32", x.shape[1])
    rows, n = codec.encode(x), len(x)
    distances, found = scan(codec, rows, ids, q, n, metric)
    twin = np.stack([codec.distances_plain(rows, one, metric) for one in codec.encode_queries(q)])
    scale = max(1.0, float(np.abs(x).max() + np.abs(q).max()) ** 2 * x.shape[1])
    np.testing.assert_allclose(distances, np.take_along_axis(twin, found, 1), rtol=0, atol=1e-6 * scale)
    assert (np.sort(found, 1) == np.arange(n)).all() and (np.diff(distances, axis=1) >= 0).all()


@pytest.mark.parametrize("metric", METRICS)
def test_twenty_thousand_vectors_against_a_sort(metric):
    """More than one block of rows and of queries."""
    rng = np.random.default_rng(5)
    x, q = rng.normal(size=(20_000, 20)).astype(np.float32), rng.normal(size=(70, 20)).astype(np.float32)
    index = FlatIndex(20, metric)
    index.add(x)
    scores, ids = index.search(q, 100)
    distances = exact(x, q, metric)
    best = np.sort(distances, axis=1)[:, :100]
    np.testing.assert_allclose(scores if metric == "l2" else -scores, best, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(distances, ids, 1), best, rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == 100 for row in ids.tolist())
