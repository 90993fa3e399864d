"""Tasks over embeddings: sentence-transformers' own results, and brute force under hypothesis."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.search import tasks
from minibi.search.tasks import (
    community_detection,
    cos_sim,
    dot_score,
    duplicates,
    paraphrase_mining,
    paraphrase_mining_embeddings,
    semantic_search,
)
from minibi.shapes import unit_rows

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tasks.json").read_text())
points = st.lists(st.tuples(*[st.integers(-2, 2)] * 3), min_size=1, max_size=25).map(lambda x: np.float32(x))
chunk = st.integers(1, 30)


@pytest.fixture(scope="module")
def vectors(golden_arrays):
    return golden_arrays("minilm")["embeddings_rounded"]


def same_hits(ours, theirs):
    """The same scores, and the same ids wherever neighbours' scores differ by more than rounding.

    The last one's neighbour is not in the list: there the score alone tells.
    """
    a, b = (np.array([h["score"] for h in hits]) for hits in (ours, theirs))
    assert a == pytest.approx(b, abs=2e-5, rel=1e-6)
    for i, (x, y) in enumerate(zip(ours, theirs, strict=True)):
        tied = i == len(b) - 1 or np.abs(np.delete(b, i) - b[i]).min() < 1e-5
        assert x["corpus_id"] == y["corpus_id"] or tied


# --- sentence-transformers' own results -------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "score"), [("semantic_search", cos_sim), ("semantic_search_dot", dot_score)])
@pytest.mark.parametrize("sizes", [(100, 500_000), (7, 30), (1, 1)])
def test_semantic_search_is_sentence_transformers(vectors, key, score, sizes):
    scaled = vectors * (1 + np.arange(len(vectors), dtype=np.float32)[:, None] % 7)
    found = semantic_search(scaled[:20], scaled, *sizes, top_k=6, score_function=score)
    assert len(found) == len(GOLDEN[key]) == 20
    for ours, theirs in zip(found, GOLDEN[key], strict=True):
        same_hits(ours, theirs)


@pytest.mark.parametrize("sizes", [(5000, 100_000), (33, 41)])
def test_paraphrase_mining_is_sentence_transformers(vectors, sizes):
    found = paraphrase_mining_embeddings(vectors, *sizes, top_k=50, max_pairs=400)
    assert [s for s, _, _ in found] == pytest.approx([s for s, _, _ in GOLDEN["paraphrase_mining"]], abs=1e-6)
    last = found[-1][0] + 1e-5  # which of those that tie with the last are kept is anybody's choice
    assert {(i, j) for s, i, j in found if s > last} == {(i, j) for s, i, j in GOLDEN["paraphrase_mining"] if s > last}


@pytest.mark.parametrize("case", GOLDEN["community_detection"], ids=lambda c: f"{c['threshold']}")
@pytest.mark.parametrize("batch_size", [1024, 7])
def test_community_detection_is_sentence_transformers(vectors, case, batch_size):
    found = community_detection(vectors, case["threshold"], case["min_community_size"], batch_size)
    assert len(found) == len(case["found"]) > 10
    assert [c[0] for c in found] == [c[0] for c in case["found"]], "the centres"
    assert [sorted(c) for c in found] == [sorted(c) for c in case["found"]]


# --- brute force ------------------------------------------------------------------------------------------------------


@given(points, points, st.integers(1, 30), chunk, chunk)
def test_search_is_a_sorted_list_of_all(queries, corpus, k, query_chunk, corpus_chunk):
    """Small whole numbers: inner products are exact, so chunks cannot change a bit."""
    found = semantic_search(queries, corpus, query_chunk, corpus_chunk, k, dot_score)
    for q, hits in zip(queries, found, strict=True):
        expected = sorted((-float(q @ c), i) for i, c in enumerate(corpus))[:k]
        assert [(-h["score"], h["corpus_id"]) for h in hits] == expected


@given(points, st.integers(1, 30), st.integers(1, 40), chunk, chunk)
def test_mined_pairs_are_the_best_of_all(x, top_k, max_pairs, query_chunk, corpus_chunk):
    found = paraphrase_mining_embeddings(x, query_chunk, corpus_chunk, max_pairs, top_k, dot_score)
    near = set()
    for i in range(len(x)):
        others = sorted((-float(x[i] @ x[j]), j) for j in range(len(x)) if j != i)
        near |= {(s, min(i, j), max(i, j)) for s, j in others[:top_k]}
    assert [(-s, i, j) for s, i, j in found] == sorted(near)[:max_pairs]


def test_mining_prunes_as_it_goes(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.integers(-3, 4, (60, 5)).astype(np.float32)
    whole = paraphrase_mining_embeddings(x, max_pairs=40, score_function=dot_score)
    real, calls = tasks._top_pairs, []
    monkeypatch.setattr(tasks, "_top_pairs", lambda pairs, count: calls.append(len(pairs)) or real(pairs, count))
    assert paraphrase_mining_embeddings(x, max_pairs=40, top_k=20_000, score_function=dot_score) == whole
    assert len(calls) > 1


@given(points, st.sampled_from([-0.1, 0.55, 0.9, 0.99]))
def test_duplicates_are_the_linked(x, threshold):
    found = duplicates(x, threshold)
    linked = cos_sim(x, x) >= np.float32(threshold)
    np.fill_diagonal(linked, True)
    for _ in range(len(x)):
        linked = linked @ linked
    rows = {tuple(np.flatnonzero(row).tolist()) for row in linked}
    assert found == sorted(list(row) for row in rows if len(row) > 1)


@given(points, st.sampled_from([0.3, 0.55, 0.9]), st.integers(1, 5), chunk)
def test_communities(x, threshold, least, batch_size):
    found = community_detection(x, threshold, least, batch_size)
    members = [i for community in found for i in community]
    assert len(members) == len(set(members))
    assert [len(c) for c in found] == sorted((len(c) for c in found), reverse=True)
    unit = unit_rows(x)
    for centre, *others in found:
        scores = [float(unit[centre] @ unit[i]) for i in others]
        assert len(others) + 1 >= least
        assert all(s >= threshold - 1e-6 for s in scores)
        assert scores == pytest.approx(sorted(scores, reverse=True), abs=1e-6)
    for i in set(range(len(x))) - set(members):  # nobody outside could have founded one
        free = [j for j in range(len(x)) if j not in members and unit[i] @ unit[j] >= threshold + 1e-6]
        assert len(free) < least


# --- edges ------------------------------------------------------------------------------------------------------------


def test_blocks_bound_the_memory(monkeypatch, vectors):
    monkeypatch.setattr(tasks, "BLOCK", 1000)
    asked = []

    def score(a, b):
        asked.append(len(a) * len(b))
        return cos_sim(a, b)

    small = semantic_search(vectors[:20], vectors, top_k=3, score_function=score)
    assert max(asked) <= 1000
    monkeypatch.undo()
    for ours, theirs in zip(small, semantic_search(vectors[:20], vectors, top_k=3), strict=True):
        same_hits(ours, theirs)


def test_a_single_query_nothing_and_less_than_top_k():
    x = np.eye(3, dtype=np.float32)
    assert semantic_search(x[1], x, top_k=9) == [
        [{"corpus_id": 1, "score": 1.0}, {"corpus_id": 0, "score": 0.0}, {"corpus_id": 2, "score": 0.0}]
    ]
    none = np.empty((0, 3), np.float32)
    assert semantic_search(x, none) == [[], [], []] and semantic_search(none, x) == []
    assert paraphrase_mining_embeddings(none) == duplicates(none) == community_detection(none) == []
    assert paraphrase_mining_embeddings(x[:1]) == []
    assert community_detection(x, min_community_size=1) == [[0], [1], [2]]
    assert duplicates(np.zeros((3, 2))) == [], "zero vectors are like nothing, not even each other"


def test_mining_texts(tiny, tiny_texts):
    texts = [*tiny_texts[3:9], tiny_texts[5]]
    found = paraphrase_mining(tiny, texts, batch_size=4, top_k=3)
    assert found[0] == [pytest.approx(1.0), 2, 6]
    assert found == paraphrase_mining_embeddings(tiny.encode(texts, batch_size=4), top_k=3)  # BLAS heeds the batch
    assert duplicates(tiny.encode(texts), 0.99999) == [[2, 6]]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: semantic_search(x, x[:, :2]), "3 dimensions, expected 2"),
        (lambda x: semantic_search(x, x, top_k=0), "top_k"),
        (lambda x: semantic_search(x, x, query_chunk_size=0), "query_chunk_size"),
        (lambda x: semantic_search(x, x, corpus_chunk_size=1.5), "corpus_chunk_size"),
        (lambda x: semantic_search(x, x, score_function=lambda a, b: np.ones(3)), "score_function must give"),
        (lambda x: semantic_search(x * np.nan, x), "finite"),
        (lambda x: paraphrase_mining_embeddings(x, max_pairs=0), "max_pairs"),
        (lambda x: duplicates(x, 1.5), "threshold must be a cosine"),
        (lambda x: duplicates(x, float("nan")), "threshold must be a cosine"),
        (lambda x: community_detection(x, "high"), "threshold must be a cosine"),
        (lambda x: community_detection(x, min_community_size=0), "min_community_size"),
        (lambda x: community_detection(x, batch_size=0), "batch_size"),
        (lambda x: duplicates("text"), "array of numbers"),
    ],
)
def test_complaints(call, says):
    with pytest.raises(InputError, match=says):
        call(np.eye(3, dtype=np.float32))


@pytest.mark.parametrize("sentences", ["one text", None, 3])
def test_what_is_no_list_of_sentences(sentences):
    with pytest.raises(InputError, match="sentences must be a list of strings"):
        paraphrase_mining(None, sentences)
