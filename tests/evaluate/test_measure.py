"""A search measured query by query: what it is asked, what is timed, what it may return."""

from __future__ import annotations

import json
import math
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.evaluate import Dataset, Latency, measure
from minibi.evaluate.ranking import as_ranking

DATA = Dataset(
    ["1", "2", "3"], ["one", "two", "three"], ["", "", ""], {"q1": "uno", "q2": "dos"},
    {"q1": {"1": 1}, "q2": {"2": 1, "3": 1}}, "test", [],
)  # fmt: skip


def test_a_search_is_asked_each_query_once_and_scored():
    asked, done = [], []

    def search(text, k):
        asked.append((text, k))
        return SimpleNamespace(ids=["3", "1"], scores=np.float32([0.5, 0.25]), seconds={"encode": 0.002, "scan": 0.001})

    found = measure(DATA, search, k=7, metrics=["mrr@10", "recall@7"], progress=done.append)
    assert asked == [("uno", 7), ("uno", 7), ("dos", 7)]  # the first twice: to warm up
    assert sum(done) == 2
    assert found.run == {"q1": {"3": 0.5, "1": 0.25}, "q2": {"3": 0.5, "1": 0.25}}
    assert found.result.mean == {"mrr@10": 0.75, "recall@7": 0.75}
    assert found.result.per_query["q1"] == {"mrr@10": 0.5, "recall@7": 1.0}
    assert list(found.stages) == ["encode", "scan", "total"]
    assert found.stages["encode"].p50 == pytest.approx(2.0) and found.stages["encode"].count == 2
    report = json.loads(json.dumps(found.to_dict()))
    assert report["queries"] == 2 and report["metrics"]["mrr@10"] == 0.75
    assert report["latency_ms"]["scan"]["p99"] == pytest.approx(1.0)


def test_by_default_recall_is_of_as_many_hits_as_are_asked_for():
    for k, names in ((100, ["ndcg@10", "mrr@10", "recall@100"]), (3, ["ndcg@3", "mrr@3", "recall@3"])):
        assert list(measure(DATA, lambda text, k: {"1": 1.0}, k=k).result.mean) == names


def test_the_whole_call_is_timed():
    found = measure(DATA, lambda text, k: (time.sleep(0.02), ([1], [1.0]))[1], warmup=0)
    assert 19 < found.stages["total"].p50 <= found.stages["total"].max
    assert 0 < found.queries_per_second < 51
    assert found.run["q1"] == {"1": 1.0}, "integers count as their digits"


def test_percentiles():
    found = Latency.of([i / 1000 for i in range(101)])
    assert (found.p50, found.p90, found.p95, found.p99, found.max) == pytest.approx((50, 90, 95, 99, 100))
    assert (found.count, found.mean) == (101, pytest.approx(50))


def test_complaints():
    with pytest.raises(InputError, match="k must be"):
        measure(DATA, lambda text, k: {}, k=0)
    with pytest.raises(InputError, match="no query"):
        measure(Dataset(["1"], ["one"], [""], {}, {}, "test", []), lambda text, k: {})
    with pytest.raises(InputError, match="query 'q1' must have ids and scores"):
        measure(DATA, lambda text, k: ["1", "2", "3"])


# --- rankings ---------------------------------------------------------------------------------------------------------


def test_the_three_forms_of_a_ranking():
    expected = {"b": 2.0, "a": 1.0, "c": 1.0}
    assert as_ranking({"c": 1, "a": 1.0, "b": 2}) == expected
    assert list(as_ranking((["c", "a", "b"], np.float32([1, 1, 2])))) == list(expected)
    assert list(as_ranking(SimpleNamespace(ids=np.array(["c", "a", "b"]), scores=[1, 1, 2]))) == list(expected)
    assert as_ranking((np.array([7, -1, 7, 3]), [0.5, -math.inf, 0.75, 0.75])) == {3: 0.75, 7: 0.75}
    assert as_ranking({}) == as_ranking(([], [])) == as_ranking([]) == {}
    assert as_ranking([SimpleNamespace(id="a", score=1.0), SimpleNamespace(id="b", score=2.0)]) == {"b": 2.0, "a": 1.0}


def test_what_an_index_returns_is_a_ranking():
    from minibi import FlatIndex

    index = FlatIndex(2)
    index.add([[1.0, 0.0], [0.0, 1.0], [3.0, 3.0]], ids=[5, 6, 7])
    expected = {5: 1.0, 7: pytest.approx(0.5**0.5), 6: 0.0}
    for found in (index.search([1.0, 0.0], 9), tuple(x[0] for x in index.search([1.0, 0.0], 9))):
        assert as_ranking(found) == expected and list(as_ranking(found)) == [5, 7, 6]
    assert as_ranking((np.array([1, 2]), np.float32([0.5, 0.75]))) == {2: 0.75, 1: 0.5}
    assert as_ranking((np.array([1, 2]), np.array([3, 4]))) == {2: 4.0, 1: 3.0}
    with pytest.raises(InputError, match="score"):
        as_ranking(index.search([[1.0, 0.0], [0.0, 1.0]], 2))


@given(st.lists(st.tuples(st.integers(0, 9), st.floats(allow_nan=False)), max_size=20), st.randoms())
def test_the_order_of_the_hits_changes_nothing(hits, rng):
    shuffled = rng.sample(hits, len(hits))
    a, b = (list(as_ranking(([i for i, _ in h], [s for _, s in h])).items()) for h in (hits, shuffled))
    assert a == b
    assert all(s == max(t for j, t in hits if j == i) for i, s in a)
    assert [s for _, s in a] == sorted((s for _, s in a), reverse=True)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        ((["a", "b"], [1.0]), "2 ids, but 1 scores"),
        ((["a"], [math.nan]), "the score of 'a' is NaN"),
        ((["a"], ["x"]), "must be a number"),
        (([1.5], [1.0]), "strings or integers"),
        (([True], [1.0]), "strings or integers"),
        (([1, "a"], [1.0, 2.0]), "mixes ids"),
        ("ab", "must have ids and scores"),
    ],
)
def test_what_is_no_ranking(found, says):
    with pytest.raises(InputError, match=says):
        as_ranking(found, "dense")


def test_an_unknown_metric_is_refused_before_a_query_is_asked():
    with pytest.raises(InputError, match="unknown metric"):
        measure(DATA, lambda text, k: pytest.fail("asked"), metrics=["mrr@10", "ndgc"])
