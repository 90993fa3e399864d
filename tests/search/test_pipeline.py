"""Retrieve, fuse, rerank: each stage does its part, says so, and is timed; budgets are kept; ids stay true."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi import CrossEncoder, FlatIndex
from minibi.errors import InputError
from minibi.lexical.bm25 import BM25
from minibi.search.fusion import convex, reciprocal_rank
from minibi.search.hits import Evidence, Hits
from minibi.search.pipeline import Pipeline
from minibi.search.presets import PRESETS, build
from minibi.search.rerank import CHUNK, rerank
from minibi.search.retrievers import Dense, Late, Lexical
from minibi.search.vector_cache import OVERHEAD, VectorCache

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TEXTS = ["the sun and the rain", "bread on stone", "night wind", "the river road", "salt and glass", "rain on the road"]
IDS = [f"d{i}" for i in range(len(TEXTS))]
HELD = dict(zip(IDS, TEXTS, strict=True))


class Fixed:
    """A retriever that always finds the same."""

    def __init__(self, name: str, scores: dict[str, float]):
        self.name, self.scores = name, scores

    def search(self, query, k, **options):
        best = sorted(self.scores.items(), key=lambda item: (-item[1], item[0]))[:k]
        return {id: score for id, score in best if id in options.get("filter", self.scores)}


def by_length(query, texts):
    return [float(len(text)) for text in texts]


# --- retrievers ------------------------------------------------------------------------------------------------------


def test_dense_is_the_index_with_other_names(model):
    dense = Dense(model, labels=IDS)
    dense.add(TEXTS)
    hits = dense.search("rain", 4)
    scores, ids = dense.index.search(model.encode_query("rain"), 4)
    assert hits.ids == [IDS[i] for i in ids[0]] and hits.scores.astype(np.float32).tolist() == scores[0].tolist()
    assert set(hits.seconds) == {"encode", "search"} and hits.query == "rain" and len(dense) == 6
    assert dense.search("rain", 50).ids[:4] == hits.ids and len(dense.search("rain", 50)) == 6
    assert Dense(model, dense.index).search("rain", 4).ids == ids[0].tolist()
    assert set(dense.search("rain", 6, filter=[1, 2]).ids) == {"d1", "d2"}


def test_dense_over_distances_ranks_the_nearest_first(model):
    index = FlatIndex(model.dim, "l2")
    dense = Dense(model, index, labels=IDS)
    dense.add(TEXTS)
    hits = dense.search("night wind", 6)
    assert hits.ids[0] == "d2" and (np.diff(hits.scores) <= 0).all()


def test_an_index_of_another_model_is_refused(model):
    with pytest.raises(InputError, match="another model"):
        Dense(model, FlatIndex(model.dim, fingerprint="other"))
    with pytest.raises(InputError, match="another model"):
        Dense(model, FlatIndex(model.dim + 1))


def test_lexical_and_late(late):
    words = Lexical(labels=IDS)
    words.add(TEXTS)
    assert set(words.search("river road", 9).ids) == {"d3", "d5"} and words.search("river road", 9).ids[0] == "d3"
    tokens = Late(late, labels=IDS)
    tokens.add(TEXTS, truncation="silent")
    hits = tokens.search("night wind", 3)
    assert hits.ids[0] == "d2" and len(hits) == 3
    with pytest.raises(InputError, match="one string"):
        words.search(["a", "b"])


def test_cached_queries_are_encoded_once(model):
    cache = VectorCache()
    dense = Dense(model, labels=IDS, cache=cache)
    dense.add(TEXTS)
    first, second = dense.search("rain", 3), dense.search("rain", 3)
    assert first == second and (cache.hits, cache.misses, len(cache)) == (1, 1, 1)
    dense.search("sun", 3)
    assert cache.misses == 2


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 40)), max_size=40), st.integers(0, 3000))
def test_the_cache_forgets_the_least_recently_used_and_stays_within_its_bytes(asked, limit):
    cache, recent = VectorCache(limit), {}
    for text, size in asked:
        key = ("f", "query", str(text))
        got = cache.get(key, lambda size=size: np.zeros(size, np.float32))
        assert not got.flags.writeable
        if key in recent:
            assert len(got) == recent[key]
            recent[key] = recent.pop(key)
        elif 4 * size + 7 + OVERHEAD <= limit:
            recent[key] = size
            while sum(4 * n + 7 + OVERHEAD for n in recent.values()) > limit:
                del recent[next(iter(recent))]
        assert len(cache) == len(recent) and cache.bytes <= limit
        assert cache.bytes == sum(4 * n + 7 + OVERHEAD for n in recent.values())
    cache.clear()
    assert len(cache) == cache.bytes == 0


# --- pipeline --------------------------------------------------------------------------------------------------------

A = Fixed("a", {"d0": 3.0, "d1": 2.0, "d2": 1.0})
B = Fixed("b", {"d2": 9.0, "d3": 5.0})


def test_one_retriever_is_passed_through():
    hits = Pipeline(A, texts=HELD).search("q", 2)
    assert hits.ids == ["d0", "d1"] and hits.texts == TEXTS[:2] and hits.scores.tolist() == [3, 2]
    assert hits[0].evidence == (Evidence("a", 1, 3.0),) and set(hits.seconds) == {"a"}


def test_two_are_fused_and_explained():
    pipeline = Pipeline([A, B], texts=HELD)
    hits = pipeline.search("q", 3)
    expected = reciprocal_rank({"a": A.search("q", 100), "b": B.search("q", 100)}, top_k=3)
    assert hits.ids == expected.ids == ["d2", "d0", "d1"] or hits.ids == expected.ids
    assert hits.scores.tolist() == expected.scores.tolist() and hits.notes["k"] == 60
    assert {e.stage for e in hits[0].evidence} == {"a", "b"} and set(hits.seconds) == {"a", "b", "fuse"}
    both = Pipeline({"x": A, "y": B}, fuse="convex").search("q", 5)
    assert both.scores.tolist() == convex({"x": A.search("q", 5), "y": B.search("q", 5)}).scores.tolist()
    assert Pipeline([A, B], texts=HELD, parallel=True).search("q", 3) == hits


def test_depth_limits_what_is_fused_and_k_deepens_it():
    assert set(Pipeline([A, B], depth=1).search("q", 1).ids) <= {"d0", "d2"}
    assert len(Pipeline([A, B], depth=1).search("q", 9)) == 4


def test_options_reach_every_retriever():
    assert set(Pipeline([A, B]).search("q", 9, filter={"d2", "d3"}).ids) == {"d2", "d3"}


def test_reranking_orders_by_the_judge_and_keeps_evidence():
    hits = Pipeline([A, B], rerank=by_length, texts=HELD).search("q", 4)
    assert hits.ids == sorted(["d0", "d1", "d2", "d3"], key=lambda id: -len(HELD[id]))
    assert [e.stage for e in hits[0].evidence] == ["a", "b", "rerank"] and hits[0].evidence[-1].rank == 1
    assert hits.notes["judged"] == 4 and list(hits.seconds) == ["a", "b", "fuse", "rerank"]
    assert "rerank" in hits[0].explain() and "rank 1" in hits.explain()


@settings(max_examples=60)
@given(st.lists(st.floats(-5, 5), max_size=60), st.booleans())
def test_reranking_is_a_stable_sort(scores, budget):
    hits = Hits.of(range(len(scores)), range(len(scores), 0, -1), [str(i) for i in range(len(scores))], query="q")
    done = rerank(hits, lambda query, texts: [scores[int(t)] for t in texts], budget_ms=1e9 if budget else None)
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    assert done.ids == order and done.scores.tolist() == [scores[i] for i in order]


def test_a_budget_is_kept_and_the_best_order_so_far_returned():
    def slow(query, texts):
        time.sleep(0.002 * len(texts))
        return [float(t) for t in texts]

    hits = Hits.of(range(400), range(400, 0, -1), [str(i) for i in range(400)], query="q")
    start = time.perf_counter()
    done = rerank(hits, slow, budget_ms=100)
    took = time.perf_counter() - start
    judged = done.notes["judged"]
    assert CHUNK <= judged < 400 and took < 0.35
    assert done.ids == [*range(judged - 1, -1, -1), *range(judged, 400)]
    assert (np.diff(done.scores) < 0).all(), "the order can be read off the scores"
    assert done[judged].evidence[-1] == Evidence("rerank", None, None)
    assert rerank(hits, slow, budget_ms=0).notes["judged"] == CHUNK


def test_models_as_judges(model, late):
    cross = CrossEncoder(GOLDEN / "tiny-cross-encoder")
    dense = Dense(model, labels=IDS)
    dense.add(TEXTS)
    hits = Pipeline(dense, rerank=cross, texts=HELD).search("rain", 6)
    expected = cross.predict([("rain", text) for text in hits.texts])
    assert hits.scores.astype(np.float32).tolist() == sorted(expected.tolist(), reverse=True) == expected.tolist()
    hits = Pipeline(dense, rerank=late, texts=HELD.__getitem__).search("night wind", 6)
    assert hits.ids[0] == "d2" and (np.diff(hits.scores) <= 0).all()
    with pytest.raises(InputError, match="3 labels"):
        Pipeline(dense, rerank=CrossEncoder(GOLDEN / "tiny-cross-encoder-3"), texts=HELD)


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_find_the_text_itself(model, late, preset):
    pipeline = build(preset, IDS, TEXTS, model=model, late=late, reranker=late)
    for id, text in HELD.items():
        assert pipeline.search(text, 3).ids[0] == id
    assert preset in ("dense", "bm25", "colbert") or "dense" in repr(pipeline)


def test_bad_calls_name_the_fix(model):
    def refuse(text, call):
        with pytest.raises(InputError, match=text):
            call()

    refuse("a retriever at least", lambda: Pipeline([]))
    refuse("two retrievers are called 'a'", lambda: Pipeline([A, A]))
    refuse("no search", lambda: Pipeline([BM25, 3]))
    refuse("fuse must be", lambda: Pipeline(A, fuse="sum"))
    refuse("pass texts", lambda: Pipeline(A, rerank=by_length).search("q"))
    refuse("rerank must be", lambda: Pipeline(A, rerank=5, texts=HELD))
    refuse("budget_ms", lambda: Pipeline(A, budget_ms=-1))
    refuse("budget_ms", lambda: Pipeline(A, budget_ms=float("nan")))
    refuse("depth", lambda: Pipeline(A, depth=0))
    refuse("one string", lambda: Pipeline(A).search(["q"]))
    refuse("k must be", lambda: Pipeline(A).search("q", 0))
    refuse("holds nothing for id 'd1'", lambda: Pipeline(A, texts={"d0": "x"}).search("q", 2))
    refuse("3 numbers", lambda: Pipeline(A, rerank=lambda q, t: [1.0], texts=HELD).search("q", 2))
    refuse("3 numbers", lambda: Pipeline(A, rerank=lambda q, t: [np.nan] * len(t), texts=HELD).search("q", 2))
    refuse("pipeline 'x'", lambda: build("x", IDS, TEXTS))
    refuse("needs model=", lambda: build("dense", IDS, TEXTS))
    refuse("one id for each", lambda: build("bm25", IDS[1:], TEXTS))
    refuse("max_bytes", lambda: VectorCache(-1))


def test_nothing_found(model):
    words = Lexical(labels=IDS)
    words.add(TEXTS)
    assert len(Pipeline(words, rerank=by_length, texts=HELD).search("zebra", 5)) == 0
    assert len(Pipeline([words, Dense(model, labels=IDS)], texts=HELD).search("zebra", 5)) == 0
