"""Long documents: windows are found, documents returned, and the score is that of scoring every window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.index.factory import index_factory
from minibi.search.passages import passages_of
from minibi.search.pipeline import Pipeline
from minibi.search.presets import build
from minibi.search.retrievers import Dense, Late, Lexical
from minibi.search.windowed import AGGREGATES, Windowed
from minibi.text.files import Document

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
SENTENCES = ["The sun and the rain.", "Bread on stone.", "Night wind!", "The river road.", "Salt and glass.", "Rain."]
DOCUMENTS = st.lists(st.lists(st.sampled_from(SENTENCES), max_size=14).map(" ".join), min_size=1, max_size=8)
SIZE = 16


def make(kind: str, model, late, aggregate: str) -> Windowed:
    inner = {"dense": lambda: Dense(model), "bm25": Lexical, "colbert": lambda: Late(late)}[kind]()
    return Windowed(inner, aggregate=aggregate, size=SIZE, tokenizer=model.tokenizer)


def scored_one_by_one(kind, model, late, texts, query, aggregate):
    """{document: (score, texts of its windows that are best)}: every window scored, nothing cut off."""
    windows, owner = [], []
    for i, found in enumerate(passages_of([Document("", "", t) for t in texts], model.tokenizer, SIZE)):
        for piece in [p.text for p in found] or [""]:
            windows.append(piece)
            owner.append(i)
    if kind == "dense":
        scores = model.similarity(model.encode_query(query), model.encode_document(windows))[0].tolist()
    elif kind == "colbert":
        scores = late.similarity([late.encode_query(query)], late.encode_document(windows))[0].tolist()
    else:
        words = Lexical()
        words.add(windows)
        found = dict(words._nearest(query, len(windows)))
        scores = [found.get(i, 0.0) for i in range(len(windows))]
    out = {}
    for i in range(len(texts)):
        mine = sorted(((s, w) for s, w, o in zip(scores, windows, owner, strict=True) if o == i), reverse=True)
        counted = [s for s, _ in mine[: AGGREGATES[aggregate]]]
        out[i] = sum(counted) / len(counted), {w for s, w in mine if s > mine[0][0] - 1e-5}
    return out


@pytest.mark.parametrize("kind", ["dense", "bm25", "colbert"])
@pytest.mark.parametrize("aggregate", AGGREGATES)
@settings(max_examples=25, deadline=None)
@given(texts=DOCUMENTS, query=st.sampled_from(SENTENCES), k=st.integers(1, 4))
def test_as_if_every_window_had_been_scored(model, late, kind, aggregate, texts, query, k):
    retriever = make(kind, model, late, aggregate)
    retriever.add(texts)
    truth = scored_one_by_one(kind, model, late, texts, query, aggregate)
    hits = retriever.search(query, k)
    expected = sorted((s for s, _ in truth.values()), reverse=True)[:k]
    if kind == "bm25":
        expected = [s for s in expected if s > 0]
    assert np.allclose(hits.scores, expected, atol=1e-5)
    for hit in hits:
        score, best = truth[hit.id]
        assert abs(hit.score - score) < 1e-5
        assert hit.text == texts[hit.id][hit.start : hit.end] and hit.text in best


def test_many_documents_of_many_windows_are_searched_deep_enough(model, late):
    """The best mean of three hides behind hundreds of windows that are better than its second and third."""
    near, far = "Night wind! Night wind! Night wind!", "Salt and glass. Bread on stone. The river road."
    texts = [f"{near} {far} {far} {far} {far}"] * 40 + [" ".join(["Night wind! Rain. Night wind!"] * 6)]
    retriever = make("dense", model, late, "mean3")
    retriever.add(texts)
    truth = scored_one_by_one("dense", model, late, texts, "Night wind!", "mean3")
    best = max(truth, key=lambda i: truth[i][0])
    assert retriever.search("Night wind!", 1).ids == [best] or truth[0][0] == pytest.approx(truth[best][0], abs=1e-6)
    assert len(retriever.search("Night wind!", 41)) == len(retriever.search("Night wind!", 10**9)) == 41


def test_ids_titles_removal_and_filters(model, late):
    retriever = make("dense", model, late, "max")
    long = " ".join(SENTENCES * 3)
    assert retriever.add([long, "Night wind!"], ["a", "b"], titles=["Weather", ""]) == ["a", "b"]
    assert retriever.add(["", "Salt and glass."], np.array(["c", "d"])) == ["c", "d"]
    assert len(retriever) == 4 and len(retriever.index) > 6 and "4 documents" in repr(retriever)
    assert set(retriever.search("rain", 9).ids) == set("abcd"), "an empty document is there too"
    assert set(retriever.search("rain", 9, filter=["a", "d", "nobody"]).ids) == {"a", "d"}
    assert retriever.search("rain", 9)[0].title in ("", "Weather")
    retriever.remove(["a", "a"])
    assert set(retriever.search("rain", 9).ids) == set("bcd") and len(retriever.index) == 3
    assert retriever.add(long) == [3] or retriever.add(long)  # counted on
    with pytest.raises(InputError, match="holds no document 'a'"):
        retriever.remove(["b", "a"])
    assert "b" in retriever.search("rain", 9).ids, "nothing was removed"


def test_after_an_error_nothing_has_changed(model, late):
    retriever = make("dense", model, late, "max")
    retriever.add(["Rain."], ["a"])
    for texts, ids in (["x"], ["a"]), (["x", "y"], ["b", "b"]), (["x"], ["b", "c"]), (["x"], [1.5]), ([3], ["b"]):
        with pytest.raises(InputError):
            retriever.add(texts, ids)
    with pytest.raises(InputError):
        retriever.add(["x"], ["b"], titles=["p", "q"])
    assert len(retriever) == len(retriever.index) == 1 and retriever.search("rain", 5).ids == ["a"]


@pytest.mark.parametrize("name", ["HNSW8", "IVF4", "SQ8"])
def test_over_other_indexes(model, name):
    retriever = Windowed(Dense(model, index_factory(name, model.dim)), size=SIZE, aggregate="mean3")
    retriever.add([" ".join(np.roll(SENTENCES * 2, i)) for i in range(30)])
    assert len(retriever.search("Night wind!", 10)) == 10
    assert len(set(retriever.search("Night wind!", 30).ids)) == 30


def test_the_judge_reads_the_best_window(model, late):
    read = []

    def judge(query, texts):
        read.extend(texts)
        return [float("Bread" in text) for text in texts]

    text = " ".join(["The river road."] * 30 + ["Bread on stone."] + ["Night wind!"] * 30)
    retriever = Windowed(Dense(model), size=24)
    retriever.add([text, "Night wind!"], ["long", "short"])
    hits = Pipeline(retriever, rerank=judge).search("Bread on stone.", 2)
    assert hits.ids == ["long", "short"] and "Bread" in hits[0].text and all(len(t) < 99 for t in read)


@pytest.mark.parametrize("preset", ["dense", "bm25", "hybrid", "colbert", "rerank"])
def test_presets_with_windows(model, late, preset):
    texts = [f"{' '.join(SENTENCES[:i] * 3)} Snow fell on hill {i}." for i in range(5)]
    ids = [f"d{i}" for i in range(5)]
    pipeline = build(preset, ids, texts, model=model, late=late, reranker=late, window=SIZE, aggregate="mean3")
    hits = pipeline.search("rain", 5)
    assert set(hits.ids) <= set(ids) and len(hits) > 0
    if preset != "hybrid":  # whose words are those of whole documents
        assert all(len(hit.text) < 100 for hit in hits)


def test_bad_calls_name_the_fix(model, late):
    def refuse(text, call):
        with pytest.raises(InputError, match=text):
            call()

    full = Dense(model)
    full.add(["x"])
    refuse("aggregate must be", lambda: Windowed(Dense(model), aggregate="sum"))
    refuse("empty Dense", lambda: Windowed(full))
    refuse("empty Dense", lambda: Windowed(Windowed(Dense(model))))
    refuse("pass tokenizer", lambda: Windowed(Lexical()))
    refuse("size must be", lambda: Windowed(Dense(model), size=10_000))
    refuse("size must be", lambda: Windowed(Dense(model), size=3))
    refuse("overlap must be", lambda: Windowed(Dense(model), overlap=-1))
    refuse("filter must be ids", lambda: Windowed(Dense(model)).search("x", filter="a"))
    refuse("k must be", lambda: Windowed(Dense(model)).search("x", 0))
    assert len(Windowed(Dense(model)).search("x", 3)) == 0
