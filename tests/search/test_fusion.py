"""Fusion: values by hand, invariances under hypothesis, complaints."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.search.fusion import convex, fuse_runs, reciprocal_rank
from minibi.search.hits import Hit, Hits

DENSE = {"a": 0.9, "b": 0.8, "c": 0.4}
BM25 = {"c": 12.0, "a": 6.0, "d": 3.0}
BOTH = {"dense": DENSE, "bm25": BM25}

ids = st.sampled_from(["a", "b", "c", "d", "e", "f"])
numbers = st.floats(-1e6, 1e6) | st.sampled_from([0.0, 0.5, 1.0])
ranking = st.lists(st.tuples(ids, numbers), max_size=8)
rankings = st.dictionaries(st.sampled_from(["x", "y", "z"]), ranking, min_size=1, max_size=3)
WAYS = {
    "rrf": reciprocal_rank,
    "min-max": convex,
    "z-score": lambda r, **o: convex(r, normalize="z-score", **o),
    "theoretical-min": lambda r, **o: convex(
        r, normalize="theoretical-min", minima=dict.fromkeys(["x", "y", "z", "dense", "bm25"], -1e6), **o
    ),
}


def pair(hits):
    return [i for i, _ in hits], [s for _, s in hits]


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_reciprocal_rank_by_hand():
    """Cormack et al.: 1 / (60 + rank), summed."""
    hits = reciprocal_rank(BOTH)
    assert hits.ids == ["a", "c", "b", "d"]
    assert hits.scores.tolist() == pytest.approx([1 / 61 + 1 / 62, 1 / 63 + 1 / 61, 1 / 62, 1 / 63], rel=1e-15)
    assert hits.notes == {"fusion": "reciprocal rank", "k": 60, "weights": {"dense": 1.0, "bm25": 1.0}}
    hits = reciprocal_rank(BOTH, k=0, weights={"bm25": 3, "dense": 1})
    assert dict(zip(hits.ids, hits.scores, strict=True)) == pytest.approx(
        {"a": 1 + 3 / 2, "b": 1 / 2, "c": 1 / 3 + 3, "d": 1}
    )
    assert reciprocal_rank(BOTH, depth=1).ids == ["a", "c"]
    assert reciprocal_rank(BOTH, top_k=2).ids == ["a", "c"]


def test_every_hit_explains_itself():
    a, *_, d = reciprocal_rank(BOTH)
    assert [(e.stage, e.rank, e.score) for e in a.evidence] == [("dense", 1, 0.9), ("bm25", 2, 6.0)]
    assert [e.contribution for e in a.evidence] == pytest.approx([1 / 61, 1 / 62])
    assert [(e.stage, e.rank, e.score, e.contribution) for e in d.evidence] == [
        ("dense", None, None, 0.0),
        ("bm25", 3, 3.0, pytest.approx(1 / 63)),
    ]
    assert a.explain() == "0.03252 = 0.01639 dense (rank 1, score 0.9) + 0.01613 bm25 (rank 2, score 6)"
    json.dumps(reciprocal_rank(BOTH).to_dict())


def test_min_max_by_hand():
    hits = convex(BOTH, weights=[3, 1])
    assert dict(zip(hits.ids, hits.scores, strict=True)) == pytest.approx(
        {"a": 0.75 + 0.25 / 3, "b": 0.75 * 0.8, "c": 0.25, "d": 0.0}
    )
    assert hits.notes["weights"] == {"dense": 0.75, "bm25": 0.25}


def test_theoretical_min_by_hand():
    hits = convex(BOTH, normalize="theoretical-min", minima={"dense": -1, "bm25": 0})
    assert dict(zip(hits.ids, hits.scores, strict=True)) == pytest.approx(
        {"a": 0.5 + 0.25, "b": 0.5 * 1.8 / 1.9, "c": 0.5 * 1.4 / 1.9 + 0.5, "d": 0.125}
    )
    assert hits.notes == {
        "fusion": "convex",
        "normalize": "theoretical-min",
        "minima": {"dense": -1, "bm25": 0},
        "weights": {"dense": 0.5, "bm25": 0.5},
    }
    nothing = convex({"bm25": {"a": 0.0, "b": 0.0}}, normalize="theoretical-min", minima={"bm25": 0})
    assert nothing.scores.tolist() == [0, 0]


def test_z_scores_by_hand():
    hits = convex(BOTH, normalize="z-score")
    z = {
        name: {i: (s - np.mean([*r.values()])) / np.std([*r.values()]) for i, s in r.items()}
        for name, r in BOTH.items()
    }
    lowest = {name: min(values.values()) for name, values in z.items()}
    expected = {i: sum(z[name].get(i, lowest[name]) for name in BOTH) / 2 for i in "abcd"}
    assert dict(zip(hits.ids, hits.scores, strict=True)) == pytest.approx(expected)
    assert hits.ids == sorted(expected, key=lambda i: -expected[i])


@pytest.mark.parametrize(("way", "value"), [("min-max", 0.5), ("z-score", 0.0), ("theoretical-min", 0.5)])
def test_a_ranking_of_equal_scores(way, value):
    hits = WAYS[way]({"dense": {"a": 7.0, "b": 7.0}, "bm25": {}})
    assert hits.ids == ["a", "b"] and hits.scores.tolist() == [value, value]


def test_nothing_found():
    for fuse in WAYS.values():
        assert fuse({"dense": {}, "bm25": ([], [])}) == []


# --- properties -------------------------------------------------------------------------------------------------------


@given(rankings, st.sampled_from(sorted(WAYS)), st.randoms(use_true_random=False))
def test_the_order_of_the_input_changes_nothing(found, way, rng):
    a = WAYS[way]({name: pair(hits) for name, hits in found.items()})
    names = rng.sample(sorted(found), len(found))
    b = WAYS[way]({name: pair(rng.sample(found[name], len(found[name]))) for name in names})
    assert a.ids == b.ids and a.scores.tolist() == b.scores.tolist()
    assert sorted(a.ids) == sorted({i for hits in found.values() for i, _ in hits})
    assert np.isfinite(a.scores).all()
    assert list(zip(-a.scores, a.ids, strict=True)) == sorted(zip(-a.scores, a.ids, strict=True)), "ties by smaller id"


@given(rankings, st.sampled_from(sorted(WAYS)))
def test_contributions_add_up_and_evidence_is_true(found, way):
    for hit in WAYS[way]({name: pair(hits) for name, hits in found.items()}):
        assert [e.stage for e in hit.evidence] == list(found)
        assert hit.score == pytest.approx(math.fsum(e.contribution for e in hit.evidence), abs=1e-12)
        for e in hit.evidence:
            best = {i: max(s for j, s in found[e.stage] if j == i) for i, _ in found[e.stage]}
            assert e.score == best.get(hit.id)
            assert e.rank == (
                1 + sorted((-s, i) for i, s in best.items()).index((-e.score, hit.id)) if e.rank else None
            )


@given(ranking, st.sampled_from(sorted(WAYS)))
def test_one_ranking_alone_keeps_its_order(hits, way):
    best = {i: max(s for j, s in hits if j == i) for i, _ in hits}
    expected = sorted(best, key=lambda i: (-best[i], i))
    found = WAYS[way]({"x": pair(hits)})
    if way == "rrf":
        assert found.ids == expected
    else:  # nearly equal scores may become equal
        assert [best[i] for i in found.ids] == pytest.approx([best[i] for i in expected], abs=1e-8)


@given(ranking, ranking, st.floats(0.01, 100), st.floats(-100, 100))
def test_scale_and_shift_of_one_retrievers_scores_do_not_matter(x, y, scale, shift):
    x, y = ([(i, float(round(s))) for i, s in hits] for hits in (x, y))
    moved = [(i, s * scale + shift) for i, s in x]
    for way in ("min-max", "z-score"):
        a, b = (WAYS[way]({"x": pair(hits), "y": pair(y)}) for hits in (x, moved))
        assert {h.id: h.score for h in a} == pytest.approx({h.id: h.score for h in b}, abs=1e-6)


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=6, unique=True))
def test_scores_of_any_size_normalize(scores):
    for way in ("min-max", "z-score"):
        hits = WAYS[way]({"x": (list("abcdef")[: len(scores)], scores)})
        assert np.isfinite(hits.scores).all()
        if way == "min-max":
            assert hits.scores.min() >= 0 and hits.scores.max() == 1


def test_three_retrievers_that_swap_ranks_tie_exactly():
    """1/61 + 1/62 + 1/63 added in another order may differ in the last bit; the sums here do not."""
    orders = [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]
    for k in range(1, 200):
        hits = reciprocal_rank({str(i): (order, [3, 2, 1]) for i, order in enumerate(orders)}, k=k)
        assert len(set(hits.scores)) == 1 and hits.ids == ["a", "b", "c"]


# --- texts and runs ---------------------------------------------------------------------------------------------------


def test_texts_and_places_travel_along():
    dense = Hits((Hit(0.5, "T", "dense text", "f.txt", id="a"),), "the query")
    bm25 = [Hit(9.0, "T", "bm25 text", "f.txt", id="a"), Hit(8.0, text="only here", id="b")]
    hits = reciprocal_rank({"ann": (["a", "c"], [1.0, 0.5]), "dense": dense, "bm25": bm25})
    assert hits.query == "the query"
    assert {h.id: h.text for h in hits} == {"a": "dense text", "b": "only here", "c": ""}
    without = Hits.of(["b", "a"], [1.0, 0.5])
    assert {h.id: h.text for h in reciprocal_rank({"ann": without, "bm25": bm25})} == {
        "a": "bm25 text",
        "b": "only here",
    }
    assert hits[0].source == "f.txt"
    assert (dense[0].score, bm25[0].score) == (0.5, 9.0), "what came in is as it was"


def test_runs_are_fused_query_by_query():
    runs = {"dense": {"q1": DENSE, "q2": {"x": 1.0}}, "bm25": {"q1": BM25, "q3": {}}}
    fused = fuse_runs(runs)
    assert list(fused) == ["q1", "q2", "q3"]
    assert fused["q1"] == {str(h.id): h.score for h in reciprocal_rank(BOTH)}
    assert fused["q2"] == {"x": pytest.approx(1 / 61)} and fused["q3"] == {}
    assert fuse_runs(runs, lambda r: convex(r, weights={"dense": 1, "bm25": 0}))["q1"]["c"] == 0.0


# --- complaints -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: reciprocal_rank({}), "pass the rankings by name"),
        (lambda: reciprocal_rank([DENSE, BM25]), "pass the rankings by name"),
        (lambda: reciprocal_rank(BOTH, k=-1), "k must be a number of at least 0"),
        (lambda: reciprocal_rank(BOTH, k=math.nan), "k must be"),
        (lambda: reciprocal_rank(BOTH, depth=0), "depth must be"),
        (lambda: reciprocal_rank(BOTH, top_k=1.5), "top_k must be"),
        (lambda: reciprocal_rank(BOTH, weights=[1]), "weights must be 2 numbers"),
        (lambda: reciprocal_rank(BOTH, weights=[0, 0]), "one above 0"),
        (lambda: reciprocal_rank(BOTH, weights=[1, -1]), "weights must be 2 numbers"),
        (lambda: reciprocal_rank(BOTH, weights=["a", "b"]), "weights must be 2 numbers"),
        (lambda: reciprocal_rank(BOTH, weights={"dense": 1}), "weights must name each retriever"),
        (lambda: reciprocal_rank({"dense": (["a"], [math.nan])}), "dense: the score of 'a' is NaN"),
        (lambda: reciprocal_rank({"dense": {"a": 1.0}, "bm25": {1: 1.0}}), "fuse rankings of the same ids"),
        (lambda: convex(BOTH, normalize="l2"), "normalize must be"),
        (lambda: convex({"dense": {"a": math.inf}}), "dense has an infinite score"),
        (lambda: convex(BOTH, normalize="theoretical-min"), r"pass minima=\{'dense'"),
        (
            lambda: convex(BOTH, normalize="theoretical-min", minima={"dense": 0.5, "bm25": 0}),
            "dense has score 0.4, below its stated minimum 0.5",
        ),
    ],
)
def test_what_cannot_be_fused(call, says):
    with pytest.raises(InputError, match=says):
        call()
