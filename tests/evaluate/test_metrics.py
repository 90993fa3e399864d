"""Metrics: equal to trec_eval's own numbers, and to the properties their definitions promise."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.evaluate import METRICS, evaluate, parse_metric, run_from_arrays
from minibi.evaluate.metrics import DEFAULT_METRICS, rank_hits

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "trec.json").read_text(encoding="utf-8"))
CUTOFFS = GOLDEN["cutoffs"]
# ours -> what trec_eval calls it; mrr@k has no name there and is derived from recip_rank
OURS_BY_CUTOFF = {"ndcg": "ndcg_cut", "recall": "recall", "precision": "P", "map": "map_cut", "success": "success"}
OURS_WHOLE = {
    "ndcg": "ndcg",
    "mrr": "recip_rank",
    "map": "map",
    "recall": "set_recall",
    "precision": "set_P",
    "rprec": "Rprec",
}


# --- trec_eval's own numbers ------------------------------------------------------------------------------------------


def golden_pairs() -> dict[str, str]:
    by_cutoff = {f"{ours}@{k}": f"{theirs}_{k}" for ours, theirs in OURS_BY_CUTOFF.items() for k in CUTOFFS}
    return by_cutoff | OURS_WHOLE


def test_every_value_of_every_query_equals_trec_eval():
    names = golden_pairs()
    result = evaluate(GOLDEN["qrels"], GOLDEN["run"], list(names), missing="skip")
    assert list(result.per_query) == list(GOLDEN["values"])
    assert result.missing == ["not in the run"]
    for query, theirs in GOLDEN["values"].items():
        assert set(theirs) == set(names.values())
        for ours, their_name in names.items():
            assert result.per_query[query][ours] == pytest.approx(theirs[their_name], rel=0, abs=1e-12), (query, ours)
    for ours, their_name in names.items():
        theirs = np.mean([v[their_name] for v in GOLDEN["values"].values()])
        assert result.mean[ours] == pytest.approx(theirs, rel=0, abs=1e-12)


@pytest.mark.parametrize("k", CUTOFFS)
def test_mrr_is_recip_rank_cut_off(k: int):
    result = evaluate(GOLDEN["qrels"], GOLDEN["run"], [f"mrr@{k}"], missing="skip")
    for query, theirs in GOLDEN["values"].items():
        full = theirs["recip_rank"]
        expected = full if full and round(1 / full) <= k else 0.0
        assert result.per_query[query][f"mrr@{k}"] == pytest.approx(expected, rel=0, abs=1e-12)


def test_the_golden_file_holds_what_it_claims():
    """Were these cases missing, the comparison above would prove little."""
    qrels, run, values = GOLDEN["qrels"], GOLDEN["run"], GOLDEN["values"]
    scores = [list(hits.values()) for hits in run.values()]
    float32 = [np.asarray(s, np.float64).astype(np.float32) for s in scores if max(map(abs, s), default=0) < 1e38]
    assert any(len(set(s)) < len(s) for s in scores)
    assert any(len(set(np.asarray(s))) > len(set(f.tolist())) for s, f in zip(scores, float32, strict=False))
    assert any(max(judged.values()) == 0 for judged in qrels.values())
    assert any(min(judged.values()) < 0 < max(judged.values()) for judged in qrels.values())
    assert any(not run[query] for query in values)
    assert any({"9", "10"} <= hits.keys() for hits in run.values())
    assert {0 < v["ndcg_cut_10"] < 1 for v in values.values()} == {True, False}


@pytest.mark.parametrize(
    ("scores", "order"),
    [
        ({"9": 1.0, "10": 1.0, "1": 1.0}, ["9", "10", "1"]),  # strings, not numbers
        ({"a": 1.0 + 1e-12, "b": 1.0}, ["b", "a"]),  # a tie in float32
        ({"a": 1.0 + 1e-6, "b": 1.0}, ["a", "b"]),
        ({"a": 1e40, "b": 1e39}, ["b", "a"]),  # both infinite in float32
        ({"a": 1e-300, "b": 0.0}, ["b", "a"]),
        ({"a": 0.0, "b": -0.0}, ["b", "a"]),
        ({"\ue000": 1.0, "\U0001f600": 1.0}, ["\U0001f600", "\ue000"]),  # UTF-8 order; UTF-16 order is the reverse
        ({"b": 2, "a": 3}, ["a", "b"]),
        ({"b": np.float32(0.5), "a": 0.5}, ["b", "a"]),
        ({"a": math.inf, "b": 1e38, "c": -math.inf}, ["a", "b", "c"]),
        ({}, []),
    ],
)
def test_order_of_hits(scores: dict[str, float], order: list[str]):
    assert rank_hits(scores) == order
    assert rank_hits(dict(reversed(scores.items()))) == order


# --- values worked out by hand ----------------------------------------------------------------------------------------


def test_by_hand():
    """Ranking a b c d; judged: b 2, d 1, e 3 (never retrieved)."""
    qrels = {"q": {"b": 2, "d": 1, "e": 3, "c": -1}}
    run = {"q": {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}}
    names = ["ndcg@4", "ndcg_exp@4", "mrr@4", "recall@4", "precision@10", "map", "map@2", "success@1", "success@2"]
    names += ["rprec", "judged", "judged@1", "judged@3", "judged@99"]
    got = evaluate(qrels, run, names).mean
    log = math.log2
    assert got["ndcg@4"] == pytest.approx((2 / log(3) + 1 / log(5)) / (3 + 2 / log(3) + 1 / log(4)), abs=1e-15)
    assert got["ndcg_exp@4"] == pytest.approx((3 / log(3) + 1 / log(5)) / (7 + 3 / log(3) + 1 / log(4)), abs=1e-15)
    assert got["mrr@4"] == 0.5
    assert got["recall@4"] == pytest.approx(2 / 3)
    assert got["precision@10"] == pytest.approx(0.2)  # of ten, though only four were retrieved
    assert got["map"] == pytest.approx((1 / 2 + 2 / 4) / 3)
    assert got["map@2"] == pytest.approx((1 / 2) / 3)
    assert (got["success@1"], got["success@2"]) == (0.0, 1.0)
    assert got["rprec"] == pytest.approx(1 / 3)  # three are relevant, one of them is among the first three
    assert (got["judged"], got["judged@1"], got["judged@3"], got["judged@99"]) == (0.75, 0.0, 2 / 3, 0.75)


def test_missing_queries_count_zero_unless_skipped():
    qrels = {"here": {"a": 1}, "absent": {"a": 1}, "nothing relevant": {"a": 0}, "judged below zero": {"a": -1}}
    run = {query: {"a": 1.0} for query in qrels if query != "absent"} | {"unknown": {"a": 1.0}}
    zero, skip = evaluate(qrels, run), evaluate(qrels, run, missing="skip")
    assert zero.mean == dict.fromkeys(DEFAULT_METRICS, 1 / 4)
    assert skip.mean == dict.fromkeys(DEFAULT_METRICS, 1 / 3)
    assert zero.missing == skip.missing == ["absent"]
    assert list(zero.per_query) == list(qrels)
    assert "absent" not in skip.per_query and "unknown" not in zero.per_query
    assert zero.values("ndcg@10").tolist() == [1.0, 0.0, 0.0, 0.0]
    assert evaluate(qrels, {}).mean == dict.fromkeys(DEFAULT_METRICS, 0.0)


def test_a_hit_on_the_query_itself_can_be_ignored():
    qrels, run = {"q": {"a": 1}}, {"q": {"q": 2.0, "a": 1.0}}
    assert evaluate(qrels, run, ["mrr@10"]).mean == {"mrr@10": 0.5}
    assert evaluate(qrels, run, ["mrr@10"], ignore_identical_ids=True).mean == {"mrr@10": 1.0}


# --- properties -------------------------------------------------------------------------------------------------------

ids = st.text(min_size=1, max_size=3)
grades = st.integers(-2, 4)
judgements = st.dictionaries(ids, grades, max_size=12)
hits = st.dictionaries(ids, st.floats(allow_nan=False) | st.sampled_from([0.0, 0.5, 1.0]), max_size=15)
cutoffs = st.integers(1, 20)
relevances = st.lists(grades, max_size=12)
CUT = [name for name in METRICS if name != "rprec"]  # rprec has its own cut-off
OF_RELEVANCE = [name for name in CUT if name != "judged"]
EVERY = [*METRICS, *(f"{name}@{k}" for name in CUT for k in (1, 5))]


@given(judgements, hits)
def test_every_metric_lies_between_0_and_1(judged, scores):
    result = evaluate({"q": judged}, {"q": scores}, EVERY)
    assert all(0.0 <= value <= 1.0 + 1e-12 for value in result.mean.values())
    assert result.per_query["q"] == pytest.approx(result.mean)
    if not any(r >= 1 and doc in scores for doc, r in judged.items()):
        assert not any(value for name, value in result.mean.items() if not name.startswith("judged"))


@given(judgements.filter(lambda judged: any(r >= 1 for r in judged.values())), cutoffs)
def test_a_perfect_ranking_scores_1(judged, k):
    run = {doc: float(r) for doc, r in judged.items() if r >= 1}
    result = evaluate({"q": judged}, {"q": run}, [f"ndcg@{k}", f"ndcg_exp@{k}", "ndcg", "map", f"mrr@{k}", "recall"])
    assert result.mean == pytest.approx(dict.fromkeys(result.mean, 1.0), abs=1e-12)


@given(st.dictionaries(ids, st.tuples(judgements, hits), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_the_order_of_the_input_changes_nothing(queries, rng):
    def shuffled(d):
        return dict(rng.sample(sorted(d.items()), len(d)))

    qrels, run = {q: j for q, (j, _) in queries.items()}, {q: h for q, (_, h) in queries.items()}
    a = evaluate(qrels, run, EVERY)
    b = evaluate(
        shuffled({q: shuffled(j) for q, j in qrels.items()}), shuffled({q: shuffled(h) for q, h in run.items()}), EVERY
    )
    assert a.mean == b.mean
    assert a.per_query == b.per_query


@given(judgements, st.dictionaries(ids, st.integers(-1000, 1000), max_size=15))
def test_only_the_order_of_scores_counts(judged, scores):
    cubed = {doc: score**3 / 8 for doc, score in scores.items()}
    assert evaluate({"q": judged}, {"q": scores}, EVERY) == evaluate({"q": judged}, {"q": cubed}, EVERY)


@given(relevances, relevances, cutoffs)
def test_metrics_agree_with_each_other(ranked, never_retrieved, k):
    judged = ranked + never_retrieved
    value = {name: METRICS[name](ranked, judged, k) for name in OF_RELEVANCE}
    relevant = sum(r >= 1 for r in judged)
    assert value["precision"] * k == pytest.approx(value["recall"] * relevant)
    assert value["success"] == (value["recall"] > 0) == (value["mrr"] > 0) == (value["ndcg"] > 0) == (value["map"] > 0)
    assert value["map"] <= value["recall"] + 1e-12
    for name in ("mrr", "recall", "map", "success"):
        assert METRICS[name](ranked, judged, k + 1) >= value[name]
    assert METRICS["mrr"](ranked, judged, 1) == METRICS["precision"](ranked, judged, 1)
    binary = [min(r, 1) for r in ranked], [min(r, 1) for r in judged]
    assert METRICS["ndcg"](*binary, k) == pytest.approx(METRICS["ndcg_exp"](*binary, k))
    if relevant:
        assert METRICS["rprec"](ranked, judged) == METRICS["precision"](ranked, judged, relevant)
        assert METRICS["rprec"](ranked, judged) == pytest.approx(METRICS["recall"](ranked, judged, relevant))


@given(relevances.filter(lambda r: len(r) > 1), relevances, cutoffs, st.data())
def test_moving_a_better_document_up_never_hurts(ranked, never_retrieved, k, data):
    i = data.draw(st.integers(0, len(ranked) - 2))
    j = data.draw(st.integers(i + 1, len(ranked) - 1))
    worse, better = sorted((ranked[i], ranked[j]))
    before, after = list(ranked), list(ranked)
    before[i], before[j], after[i], after[j] = worse, better, better, worse
    judged = ranked + never_retrieved
    for name in OF_RELEVANCE:
        assert METRICS[name](after, judged, k) >= METRICS[name](before, judged, k) - 1e-12


@given(relevances, relevances, cutoffs, st.integers(1, 5))
def test_hits_without_relevance_at_the_end_change_nothing(ranked, never_retrieved, k, extra):
    judged = ranked + never_retrieved
    for name in OF_RELEVANCE:
        assert METRICS[name](ranked + [0] * extra, judged, k) == METRICS[name](ranked, judged, k)


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_a_run_from_arrays():
    run = run_from_arrays(["q1", "q2"], ["a", "b", "c"], np.float32([[0.5, 0.25], [0.125, -1]]), [[2, 0], [1, -1]])
    assert run == {"q1": {"c": 0.5, "a": 0.25}, "q2": {"b": 0.125}}
    assert run_from_arrays([], ["a"], np.zeros((0, 3)), np.zeros((0, 3), int)) == {}
    assert run_from_arrays(["q"], ["a"], np.zeros((1, 0)), np.zeros((1, 0), int)) == {"q": {}}


@pytest.mark.parametrize(
    ("query_ids", "scores", "rows", "says"),
    [
        (["q"], [[1.0]], [[3]], "row 3 is beyond the 3 doc_ids"),
        (["q"], [[1.0, 0.5]], [[1, 1]], "twice"),
        (["q", "q"], [[1.0], [1.0]], [[1], [1]], "occurs twice"),
        (["q"], [[1.0, 0.5]], [[1]], r"shape \[1, K\]"),
        (["q", "p"], [[1.0]], [[1]], r"shape \[2, K\]"),
        (["q"], [1.0], [1], r"shape \[1, K\]"),
        (["q"], [[1.0]], [[1.0]], "must be integers"),
    ],
)
def test_arrays_that_make_no_run(query_ids, scores, rows, says):
    with pytest.raises(InputError, match=says):
        run_from_arrays(query_ids, ["a", "b", "c"], scores, rows)


# --- complaints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["ndgc@10", "ndcg@0", "ndcg@-1", "ndcg@", "ndcg@1.5", "ndcg@1e3", "NDCG@10", "", 10, None]
)
def test_an_unknown_metric_names_the_known(name):
    with pytest.raises(InputError, match="unknown metric") as e:
        evaluate({"q": {"a": 1}}, {"q": {"a": 1.0}}, [name])
    assert all(known in str(e.value) for known in METRICS)


def test_parse_metric():
    assert parse_metric("precision@2")([1, 0, 1], [1, 1]) == 0.5
    assert parse_metric("recall")([1, 0, 1], [1, 1]) == 1.0
    assert parse_metric("rprec")([1, 0, 1], [1, 1]) == 0.5
    with pytest.raises(InputError, match="write 'rprec'"):
        parse_metric("rprec@5")


@pytest.mark.parametrize(
    ("qrels", "run", "says"),
    [
        ({}, {"q": {"a": 1.0}}, "hold no query"),
        ({"1": {"a": 1}}, {1: {"a": 1.0}}, "share no query id"),
        ({"q": {"a": 1}}, {"q": {"a": math.nan}}, "'a' is NaN"),
        ({"q": {"a": 1}}, {"q": {"a": "0.5"}}, "must be a number"),
        ({"q": {"a": 1}}, {"q": {"a": None}}, "must be a number"),
        ({"q": {"a": 1}}, {"q": {"a": [1.0], "b": [1.0, 2.0]}}, "must be a number"),
        ({"q": {"a": 1}}, {"q": {"a": [1.0]}}, "must be a number"),
        ({"q": {"a": 1}}, {"q": ["a"]}, "must map document ids to scores, not be a list"),
        ({"q": {"a"}}, {"q": {"a": 1.0}}, "qrels must map document ids to relevances"),
        ({"q": {"a": 1}}, {"q": {1: 0.5}}, "must be strings"),
        ({"q": {"a": 0.5}}, {"q": {"a": 0.5}}, "must be an integer"),
        ({"q": {"a": "1"}}, {"q": {"a": 0.5}}, "must be an integer"),
    ],
)
def test_input_that_cannot_be_evaluated(qrels, run, says):
    with pytest.raises(InputError, match=says):
        evaluate(qrels, run)


def test_other_arguments_that_cannot_be_used():
    qrels, run = {"q": {"a": 5000}}, {"q": {"a": 1.0}}
    with pytest.raises(InputError, match=r"write \['ndcg@10'\]"):
        evaluate(qrels, run, "ndcg@10")
    with pytest.raises(InputError, match="'zero' or 'skip'"):
        evaluate(qrels, run, missing="drop")
    with pytest.raises(InputError, match="share no query id"):
        evaluate(qrels, {}, missing="skip")
    with pytest.raises(InputError, match="use ndcg"):
        evaluate(qrels, run, ["ndcg_exp@10"])
    assert evaluate(qrels, run, ["ndcg@10"]).mean == {"ndcg@10": 1.0}


def test_three_hundred_queries_of_a_thousand_hits_are_quick():
    rng = np.random.default_rng(0)
    doc_ids = [str(i) for i in range(5000)]
    rows = np.stack([rng.permutation(5000)[:1000] for _ in range(300)])
    query_ids = [f"q{i}" for i in range(300)]
    qrels = {query: {doc_ids[i]: 1 for i in rng.integers(0, 5000, 20)} for query in query_ids}
    start = time.process_time()
    evaluate(
        qrels, run_from_arrays(query_ids, doc_ids, rng.random(rows.shape, np.float32), rows), [*DEFAULT_METRICS, "map"]
    )
    assert time.process_time() - start < 5  # about 0.3 s; the margin is for a busy machine
