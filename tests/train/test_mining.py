"""Hard negatives: as sentence-transformers mines them, by the filters' definition, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.store.tensors import read_safetensors
from minibi.train.data import Example, read_examples
from minibi.train.mining import mine_hard_negatives

GOLDEN = Path(__file__).parents[1] / "golden"
MINING = json.loads((GOLDEN / "losses.json").read_text())["mining"]


def dense(queries: np.ndarray, documents: np.ndarray, unit: bool = True):
    """(search, score of pairs) over texts "q3" and "d7", which are rows."""
    if unit:
        queries, documents = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, documents))

    def search(texts, k):
        scores = np.stack([queries[int(t[1:])] for t in texts]) @ documents.T
        ids = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        short = max(0, k - len(documents))
        ids = np.pad(ids, ((0, 0), (0, short)), constant_values=-1)
        return np.where(ids >= 0, np.take_along_axis(scores, np.maximum(ids, 0), axis=1), -np.inf), ids

    def score(pairs):
        return np.array([queries[int(q[1:])] @ documents[int(d[1:])] for q, d in pairs])

    return search, score


@pytest.fixture(scope="module")
def world():
    arrays = read_safetensors(GOLDEN / "losses.safetensors")
    documents = arrays["mining.documents"]
    search, score = dense(arrays["mining.queries"], documents)
    _, judge = dense(arrays["mining.judge"], documents, unit=False)
    pairs = [Example(f"q{q}", (f"d{d}",)) for q, d in MINING["pairs"]]
    return pairs, [f"d{i}" for i in range(len(documents))], search, score, judge


@pytest.mark.parametrize("case", MINING["cases"], ids=lambda case: json.dumps(case["options"]))
@pytest.mark.parametrize("batch_size", [1024, 5])
def test_as_sentence_transformers(case, batch_size, world):
    pairs, corpus, search, score, judge = world
    options = dict(case["options"])
    cross_encoder = judge if options.pop("judge", False) else None
    mined = mine_hard_negatives(
        pairs, corpus, search, cross_encoder=cross_encoder, similarity=score, batch_size=batch_size, **options
    )
    names = {"document": "positive", "documents": "positive"}  # its column keeps the name "positive" for all documents
    expected = case["columns"]
    assert len(mined.rows) == len(expected["query"]) > 0
    for i, row in enumerate(mined.rows):
        assert {names.get(k, k) for k in row} == set(expected)
        for key, value in row.items():
            theirs = expected[names.get(key, key)][i]
            if key in ("score", "scores"):
                np.testing.assert_allclose(value, theirs, rtol=1e-6)
            else:
                assert value == theirs, (i, key)


settings = st.fixed_dictionaries(
    {
        "range_min": st.integers(0, 4),
        "max_score": st.none() | st.floats(-0.5, 1),
        "min_score": st.none() | st.floats(-1, 0.5),
        "absolute_margin": st.none() | st.floats(0, 1),
        "relative_margin": st.none() | st.floats(0, 1),
        "num_negatives": st.integers(1, 4),
        "sampling_strategy": st.sampled_from(["top", "random"]),
    }
)


@given(options=settings, seed=st.integers(0, 999), judged=st.booleans())
def test_every_negative_passes_every_filter(options, seed, judged):
    rng = np.random.default_rng(seed)
    queries, documents = rng.normal(size=(6, 3)), rng.normal(size=(15, 3))
    search, score = dense(queries, documents)
    _, judge = dense(queries[::-1], documents)
    pairs = [Example(f"q{i}", (f"d{j}",)) for i, j in zip(rng.integers(0, 6, 9), rng.integers(0, 15, 9), strict=True)]
    truth, extra = (judge, {"cross_encoder": judge}) if judged else (score, {"similarity": score})
    corpus = [f"d{i}" for i in range(15)]
    mined = mine_hard_negatives(
        pairs,
        corpus,
        search,
        range_max=20,
        output_format="labeled-list",
        output_scores=True,
        seed=seed,
        **extra,
        **options,
    )
    positives = {}
    for pair in pairs:
        positives.setdefault(pair.query, set()).add(pair.documents[0])
    found = 0
    for query, known in positives.items():
        least = min(truth([(query, d) for d in known]))
        scores = dict(zip(corpus, truth([(query, d) for d in corpus]), strict=True))
        allowed = [d for d in sorted(corpus, key=lambda d: -scores[d]) if d not in known]
        limits = [np.inf if options["max_score"] is None else options["max_score"]]
        if options["absolute_margin"] is not None:
            limits.append(least - options["absolute_margin"])
        if options["relative_margin"] is not None:
            limits.append(least - abs(least) * options["relative_margin"])
        bottom = -np.inf if options["min_score"] is None else options["min_score"]
        allowed = [d for d in allowed if bottom <= scores[d] <= min(limits)][options["range_min"] :]
        rows = [row for row in mined.rows if row["query"] == query]
        found += min(len(allowed), options["num_negatives"])
        assert len(rows) == (len(known) if allowed else 0)
        for row in rows:
            negatives = row["documents"][1:]
            assert row["documents"][0] in known
            assert len(negatives) == min(len(allowed), options["num_negatives"])
            if options["sampling_strategy"] == "top":
                assert negatives == allowed[: len(negatives)]
            assert set(negatives) <= set(allowed)
            np.testing.assert_allclose(row["scores"], [scores[d] for d in row["documents"]])
    assert mined.negatives == found
    assert mined.missing == options["num_negatives"] * len(positives) - found


def test_random_is_seeded_and_spreads(world):
    pairs, corpus, search, *_ = world
    options = {"range_max": 20, "sampling_strategy": "random"}
    rows = [
        mine_hard_negatives(pairs, corpus, search, seed=s, batch_size=b, **options).rows
        for s, b in ((1, 99), (1, 4), (2, 99))
    ]
    assert rows[0] == rows[1] != rows[2]
    seen = {
        r["negative"] for s in range(40) for r in mine_hard_negatives(pairs[:1], corpus, search, seed=s, **options).rows
    }
    assert len(seen) == 20


def test_a_positive_out_of_reach_has_no_negatives_within_a_margin():
    search, score = dense(np.eye(3)[:1], np.array([[1, 0, 0], [0.9, 0.1, 0], [0.8, 0.2, 0], [-1, 0, 0.0]]))
    pairs, corpus = [Example("q0", ("d3",))], ["d0", "d1", "d2", "d3"]
    mined = mine_hard_negatives(pairs, corpus, search, absolute_margin=0.0, range_max=1, num_negatives=1)
    assert mined.rows == []
    assert mined.skipped == {"absolute_margin": 2}
    assert mined.missing == 1
    with pytest.raises(InputError, match="pass `similarity`"):
        mine_hard_negatives(pairs, corpus, search, range_max=1, num_negatives=1, output_scores=True)
    mined = mine_hard_negatives(
        pairs, corpus, search, range_max=1, num_negatives=1, output_scores=True, similarity=score
    )
    assert mined.rows == [{"query": "q0", "positive": "d3", "negative": "d0", "scores": [-1.0, 1.0]}]


def test_repeated_texts_and_the_query_itself_are_no_negatives():
    corpus = ["d0", "d1", "d1", "q0", "d4"]

    def search(queries, k):
        return np.array([[0.9, 0.8, 0.7, 0.6, 0.5][:k]]), np.array([[3, 1, 2, 0, 4][:k]])

    mined = mine_hard_negatives([Example("q0", ("d0",))], corpus, search, num_negatives=2, range_max=5)
    assert [row["negative"] for row in mined.rows] == ["d1", "d4"]


@pytest.mark.parametrize("output_format", ["triplet", "n-tuple", "labeled-pair", "labeled-list"])
@pytest.mark.parametrize("scored", [False, True])
def test_what_is_written_can_be_read(output_format, scored, world, tmp_path):
    pairs, corpus, search, score, _ = world
    mined = mine_hard_negatives(
        pairs, corpus, search, output_format=output_format, output_scores=scored, similarity=score
    )
    mined.write(tmp_path / "mined.jsonl")
    examples = read_examples(tmp_path / "mined.jsonl")
    assert len(examples) == len(mined.rows)
    assert (examples[0].scores is not None) == (scored or output_format.startswith("labeled"))
    assert all(e.query.startswith("q") and set(e.documents) <= set(corpus) for e in examples)


def test_bad_input_is_named(world):
    pairs, corpus, search, *_ = world
    for options, message in (
        ({"range_min": -1}, "range_min must be a whole number of at least 0"),
        ({"num_negatives": 0}, "num_negatives"),
        ({"absolute_margin": -0.1}, "absolute_margin must be a number of at least 0"),
        ({"relative_margin": float("nan")}, "relative_margin"),
        ({"sampling_strategy": "best"}, "'best' is not one of"),
        ({"output_format": "pairs"}, "'pairs' is not one of"),
        ({"relative_margin": "5 %"}, "relative_margin must be a number of at least 0, not '5 %'"),
        ({"max_score": float("nan")}, "max_score must be a number, not nan"),
        ({"range_max": 7.5}, "range_max must be a whole number"),
        ({"seed": "x"}, "seed must be a whole number"),
        ({"cross_encoder": 3}, "cross_encoder must be a CrossEncoder or a function of pairs, not int"),
        ({"range_min": 5, "range_max": 6}, "ranks 5 to 6 hold fewer than 3"),
        ({"cross_encoder": lambda pairs: np.zeros(3)}, "cross_encoder must return"),
        ({"similarity": lambda pairs: [np.nan] * len(pairs), "num_negatives": 1}, "similarity must return"),
    ):
        with pytest.raises(InputError, match=message):
            mine_hard_negatives(pairs, corpus, search, **options)
    for bad, message in (
        (lambda q, k: (np.zeros((1, k)), np.zeros((1, k), int)), "search must return"),
        (lambda q, k: (np.zeros((12, k)), np.full((12, k), 99)), "outside the corpus"),
        (lambda q, k: (np.tile(np.arange(k), (12, 1)), np.tile(np.arange(k), (12, 1))), "negate distances"),
    ):
        with pytest.raises(InputError, match=message):
            mine_hard_negatives(pairs, corpus, bad)
    for wrong, message in (
        (("q0", corpus, search), "pairs must be a list of examples"),
        ((pairs, "d0", search), "corpus must be the list of texts"),
        ((pairs, corpus, None), "search must be a function"),
        ((pairs, corpus, lambda q, k: 3), "search must return a pair"),
    ):
        with pytest.raises(InputError, match=message):
            mine_hard_negatives(*wrong)
    with pytest.raises(InputError, match="no pairs"):
        mine_hard_negatives([], corpus, search)
    with pytest.raises(InputError, match="'d99' is not in the corpus"):
        mine_hard_negatives([Example("q0", ("d99",))], corpus, search, absolute_margin=0.1)


def test_a_cross_encoder_itself_can_judge_and_no_more_is_asked_for_than_there_is(world):
    pairs, corpus, search, _, judge = world
    asked = []

    def counted(queries, k):
        asked.append(k)
        return search(queries, k)

    options = {"num_negatives": 2, "range_max": 10**9, "output_scores": True}
    mined = mine_hard_negatives(pairs, corpus, counted, cross_encoder=SimpleNamespace(predict=judge), **options)
    assert mined.rows == mine_hard_negatives(pairs, corpus, search, cross_encoder=judge, **options).rows
    assert max(asked) == len(corpus)
