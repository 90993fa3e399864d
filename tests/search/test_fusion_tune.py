"""Tuning: the grid's scores are those of the evaluation, the best is found, and what was held out stays unseen."""

from __future__ import annotations

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.evaluate import evaluate
from minibi.search.fusion import convex, fuse_runs, reciprocal_rank, tune

ids = st.sampled_from([str(i) for i in range(12)])
hits = st.dictionaries(ids, st.sampled_from([0.0, 0.5, 1.0]) | st.floats(-1, 1), max_size=8)
query = st.tuples(st.dictionaries(ids, st.integers(0, 2), min_size=1, max_size=4), hits, hits, hits)
queries = st.dictionaries(st.sampled_from(["q1", "q2", "q3"]), query, min_size=1)


@settings(max_examples=25)
@given(queries, st.sampled_from(["min-max", "z-score", "rrf"]), st.sampled_from(["ndcg@10", "map", "judged@3"]))
def test_every_score_of_the_grid_is_that_of_the_evaluation(found, way, metric):
    qrels = {q: judged for q, (judged, *_) in found.items()}
    runs = {name: {q: parts[i] for q, parts in found.items()} for i, name in enumerate("xyz", start=1)}
    rrf = way == "rrf"
    how = {"method": "reciprocal rank"} if rrf else {"normalize": way}
    tuned = tune(runs, qrels, metric, steps=2, **how)
    assert len(tuned.grid) == 6 and all(sum(weights.values()) == 1 for weights, _ in tuned.grid)
    for weights, score in tuned.grid:
        fuse = partial(reciprocal_rank, weights=weights) if rrf else partial(convex, normalize=way, weights=weights)
        assert score == evaluate(qrels, fuse_runs(runs, fuse), [metric]).mean[metric]
    assert tuned.score == max(score for _, score in tuned.grid)
    assert tuned.held_out is None


RUNS = {
    "good": {f"q{i}": {"a": 1.0, "b": 0.5, "c": 0.1} for i in range(10)},
    "bad": {f"q{i}": {"c": 1.0, "b": 0.5, "a": 0.1} for i in range(10)},
}
QRELS = {f"q{i}": {"a": 1} for i in range(10)}


def test_the_better_run_gets_the_weight_and_ties_go_to_the_even():
    tuned = tune(RUNS, QRELS, "mrr@10")
    assert tuned.score == 1.0 and tuned.weights["good"] == pytest.approx(0.6), "the most even of the perfect ones"
    found = tuned({name: run["q0"] for name, run in RUNS.items()}, top_k=2)
    assert found.ids == ["a", "b"] and found.notes["weights"] == pytest.approx(tuned.weights)
    same = tune({"x": RUNS["good"], "y": RUNS["good"]}, QRELS, "mrr@10")
    assert same.weights == {"x": 0.5, "y": 0.5}


def test_what_is_held_out_is_not_looked_at():
    honest = tune(RUNS, QRELS, "mrr@10", held_out=0.3, seed=1)
    assert honest.held_out == 1.0
    spoiled = [q for q in QRELS if tune(RUNS, {**QRELS, q: {"c": 1}}, "mrr@10", held_out=0.3, seed=1).held_out < 1]
    assert len(spoiled) == 3, "the queries held out"
    unseen = tune(RUNS, QRELS | {q: {"c": 1} for q in spoiled}, "mrr@10", held_out=0.3, seed=1)
    assert (unseen.score, unseen.weights) == (honest.score, honest.weights)
    assert unseen.held_out == pytest.approx(1 / 3)
    assert tune(RUNS, dict(reversed(QRELS.items())), "mrr@10", held_out=0.3, seed=1) == honest


def test_a_query_that_no_run_holds_counts_zero():
    assert tune(RUNS, QRELS | {f"r{i}": {"a": 1} for i in range(10)}, "mrr@10").score == 0.5


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"metric": "ndgc"}, "unknown metric"),
        ({"runs": {"good": {}}}, "two runs at least"),
        ({"steps": 0}, "steps must be"),
        ({"held_out": 1.0}, "held_out must be"),
        ({"held_out": 0.01}, "too few"),
        ({"qrels": {}}, "too few"),
        ({"method": "linear"}, "method must be"),
        ({"normalize": "theoretical-min"}, "pass minima"),
        ({"runs": {"x": {"q1": {1: 0.5}}, "y": {}}}, "must be strings"),
    ],
)
def test_what_cannot_be_tuned(options, says):
    with pytest.raises(InputError, match=says):
        tune(**{"runs": RUNS, "qrels": QRELS, **options})
