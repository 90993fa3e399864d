"""The index as a container: ids, errors that change nothing, and statistics."""

from __future__ import annotations

import numpy as np
import pytest

from minibi import BM25
from minibi.errors import InputError


def test_ids_count_on_and_come_back():
    index = BM25()
    assert index.add(["a cat", "a dog"]).tolist() == [0, 1]
    assert index.add("one text", [40]).tolist() == [40]
    assert index.add(["next"]).tolist() == [41]
    index.remove(41)
    assert index.add(["not the same"]).tolist() == [42] and 41 not in index and 42 in index
    assert index.ids.tolist() == [0, 1, 40, 42] and len(index) == 4
    index.upsert(["a bird", "new"], [1, 7])
    assert index.search("dog", 1)[1][0, 0] == -1 and index.search("bird", 1)[1][0, 0] == 1 and len(index) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.add(["x"], [0]), "already in the index"),
        (lambda i: i.add(["x", "y"], [5, 5]), "given twice"),
        (lambda i: i.add(["x", "y"], [5]), "2 whole numbers"),
        (lambda i: i.add(["x"], [-1]), "not -1"),
        (lambda i: i.add(["x"], [0.5]), "whole numbers"),
        (lambda i: i.add(["x", 3]), "text number 1 is int"),
        (lambda i: i.add(["x", ["y"]]), "strings only"),
        (lambda i: i.add([["y", 3]]), "not a string"),
        (lambda i: i.add(7), "one text or a list"),
        (lambda i: i.remove([0, 99]), "99 is not in the index"),
        (lambda i: i.remove([0, 0]), "given twice"),
        (lambda i: i.upsert(["x", None], [0, 1]), "strings only|NoneType"),
        (lambda i: i.explain("x", 99), "99 is not in the index"),
        (lambda i: i.explain(["x", "y"], 0), "one query"),
    ],
)
def test_after_an_error_nothing_has_changed(change, message):
    index = BM25()
    index.add(["a cat", "a dog"])
    before = index.stats(), index.search(["cat", "dog"], 2)[0].tolist()
    with pytest.raises(InputError, match=message):
        change(index)
    assert (index.stats(), index.search(["cat", "dog"], 2)[0].tolist()) == before and index.check() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "bm26"}, "variant"),
        ({"k1": -1}, "k1"),
        ({"k1": float("nan")}, "k1"),
        ({"k1": "1"}, "k1"),
        ({"b": 1.1}, "b must"),
        ({"delta": 1.0}, "delta belongs"),
        ({"variant": "bm25l", "k1": 0}, "constant"),
        ({"floor_for": "some"}, "floor_for"),
        ({"tokenizer": 3}, "tokenizer"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        BM25(**options)


def test_a_tokenizer_that_breaks_changes_nothing():
    def breaks(text):
        return text.split() if text != "bad" else "bad"

    index = BM25(tokenizer=breaks)
    index.add(["fine thing"])
    with pytest.raises(InputError, match="list of strings"):
        index.add(["also fine", "bad"])
    assert len(index) == 1 and index.search("also", 1)[1].tolist() == [[-1]] and index.check() == []


def test_much_at_once_and_all_of_it_gone():
    """Lists move, the arena grows, everything is packed, and memory comes back."""
    rng = np.random.default_rng(0)
    texts = [" ".join(f"w{int(i)}" for i in rng.zipf(1.2, 30) if i < 5_000) for _ in range(1_500)]
    index = BM25()
    index.add(texts[:1_000])
    for text in texts[1_000:]:
        index.add(text)
    assert index.check() == []
    full = index.stats()
    index.remove(index.ids[:1_400])
    assert index.check() == [] and index.stats()["bytes"] < full["bytes"] / 4
    index.remove(index.ids)
    assert index.stats()["documents"] == index.stats()["tokens"] == 0
    assert index.search("w1", 1)[1].tolist() == [[-1]]
    index.add(texts[:20])
    fresh = BM25()
    fresh.add(texts[:20], index.ids)
    for a, b in zip(index.search(texts[:5], 20), fresh.search(texts[:5], 20), strict=True):
        np.testing.assert_array_equal(a, b)


def test_an_interrupted_addition_leaves_a_sound_index(monkeypatch):
    index = BM25()
    index.add(["a cat", "a dog"])
    monkeypatch.setattr(type(index._postings), "_enlarge_arena", lambda *_: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        index.add([" ".join(f"new{i}" for i in range(j, j + 50)) for j in range(3)])
    monkeypatch.undo()
    assert index.check() == [] and len(index) == 2
    index.add(["new1 cat"])
    assert index.check() == [] and index.search("cat", 3)[1][0].tolist()[2] == -1
