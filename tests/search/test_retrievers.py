"""Retrievers remember texts, take strings as ids, keep the index they are given, and refuse what cannot be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from minibi import BM25, FlatIndex, Hits, MultiVectorIndex
from minibi.errors import InputError
from minibi.search.pipeline import Pipeline
from minibi.search.rerank import rerank
from minibi.search.retrievers import Dense, Late, Lexical

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TEXTS = ["the sun and the rain", "bread on stone", "night wind", "the river road", "salt and glass", "rain on the road"]
IDS = [f"d{i}" for i in range(len(TEXTS))]


@pytest.fixture(params=["dense", "bm25", "colbert"])
def retriever(request, model, late):
    return {"dense": lambda: Dense(model), "bm25": Lexical, "colbert": lambda: Late(late)}[request.param]()


def test_hits_show_the_texts_that_were_added(retriever):
    assert retriever.add(TEXTS) == [0, 1, 2, 3, 4, 5]
    hits = retriever.search("night wind", 3)
    assert hits[0].id == 2 and hits[0].text == "night wind" and hits.texts == [TEXTS[i] for i in hits.ids]
    assert retriever.add("one text alone") == [6] and len(retriever) == 7
    assert retriever.search("one text alone", 1).texts == ["one text alone"]


def test_strings_as_ids(retriever):
    assert retriever.add(TEXTS[:4], IDS[:4]) == IDS[:4]
    assert retriever.add(TEXTS[4:], np.array(IDS[4:])) == IDS[4:]
    hit = retriever.search("rain on the road", 1)[0]
    assert (hit.id, hit.text) == ("d5", TEXTS[5])
    found = retriever.search("rain on the road", 6, filter=["d0", "d3", "nobody"]).ids
    assert set(found) == {"d0", "d3"}
    retriever.remove(["d5", "d0"])
    assert len(retriever) == 4 and not {"d0", "d5"} & set(retriever.search("rain on the road", 6).ids)
    assert retriever.add(["rain again"], ["d5"]) == ["d5"], "an id is free again once it is removed"
    assert retriever.search("rain again", 1).ids == ["d5"]
    retriever.remove("d5")
    assert len(retriever) == 4


def test_after_an_error_nothing_has_changed(retriever):
    retriever.add(TEXTS, IDS)
    before = retriever.search("rain", 6)
    for texts, ids in (
        (["x"], ["d0"]),
        (["x", "y"], ["e", "e"]),
        (["x"], ["e", "f"]),
        (["x", "y"], ["e", 3]),
        ([5], ["e"]),
    ):
        with pytest.raises(InputError):
            retriever.add(texts, ids)
    with pytest.raises(InputError, match="labels name 6 items"):
        retriever.add(["x"])
    with pytest.raises(InputError):
        retriever.remove(["d0", "nobody"])
    assert len(retriever) == 6 and retriever.search("rain", 6) == before


def test_labels_name_what_an_index_holds_already(model):
    index = FlatIndex(model.dim)
    index.add(model.encode_document(TEXTS))
    assert Dense(model, index, labels=IDS).search("night wind", 1).ids == ["d2"]
    with pytest.raises(InputError, match="labels name 2"):
        Dense(model, index, labels=IDS[:2]).search("night wind", 6)
    with pytest.raises(InputError, match="whole numbers as ids"):
        Dense(model, index).add(["x"], ["a"])


def test_an_index_that_is_given_is_kept_though_it_is_empty(model, late):
    words, tokens = BM25("bm25+"), MultiVectorIndex(late.dim, storage="int8")
    assert Lexical(words).index is words and Late(late, tokens).index is tokens
    Lexical(words).add(TEXTS)
    assert len(words) == 6


def test_options_that_an_index_has_no_use_for_are_passed_over(retriever):
    retriever.add(TEXTS)
    assert retriever.search("rain", 3, ef=50, nprobe=2) == retriever.search("rain", 3)
    with pytest.raises(InputError, match="not 'nprob'"):
        retriever.search("rain", 3, nprob=2)


def test_terms_of_ones_own(model):
    words = Lexical()
    words.add([["night", "wind"], ["bread"]])
    assert words.search("bread", 2).texts == ["bread"] and words.search("wind", 1).texts == ["night wind"]


def test_stored_token_vectors_judge_as_the_model_does(model, late):
    words, tokens = Lexical(), Late(late)
    for retriever in (words, tokens):
        retriever.add(TEXTS, IDS)
    hits = words.search("the road and the rain", 6)
    for budget in (None, 1e9):
        stored, anew = (rerank(hits, judge, budget_ms=budget) for judge in (tokens, late))
        assert stored.ids == anew.ids and np.allclose(stored.scores, anew.scores, atol=1e-4)
    assert Pipeline(words, rerank=tokens).search("the road and the rain", 2).ids == stored.ids[:2]
    with pytest.raises(InputError, match="holds no item 'other'"):
        rerank(Hits.of(["other"], [1.0], ["text"], query="q"), tokens)


def test_what_cannot_be_is_refused_in_one_sentence(model, late):
    for text, call in {
        "needs a BiEncoder": lambda: Dense("all-MiniLM-L6-v2"),
        "needs an index of vectors": lambda: Dense(model, BM25()),
        "needs a BM25": lambda: Lexical(model),
        "needs a LateInteraction": lambda: Late(model),
        "needs a MultiVectorIndex": lambda: Late(late, FlatIndex(late.dim)),
        "another model": lambda: Late(late, MultiVectorIndex(late.dim + 1)),
        "not NoneType": lambda: Dense(model).add(None),
        "fuse must be": lambda: Pipeline(Lexical(), fuse=3),
        "fuse must return": lambda: Pipeline({"a": Lexical(), "b": Lexical()}, fuse=lambda found: None).search("x"),
        "rerank orders Hits": lambda: rerank([1], late),
    }.items():
        with pytest.raises(InputError, match=text):
            call()


def test_an_enormous_k_is_all_there_is(retriever):
    retriever.add(["the sun", "the rain", "bread"])
    assert len(retriever.search("the sun", k=10**9)) == len(retriever.search("the sun", k=3))
    with pytest.raises(InputError, match="k must be a whole number of at least 1"):
        retriever.search("the sun", k=0)
