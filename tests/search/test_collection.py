"""Collections: made, opened, kept up to date without encoding anything twice, and asked."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import threading

import pytest
from answers import answers, no_warnings

from minibi import BiEncoder, Collection, MinibiError
from minibi.errors import InputError
from minibi.search import collection as module
from minibi.search.collection import Changes
from minibi.text.files import Document

# --- create and open -------------------------------------------------------------------------------------------------


def test_create_open_and_search(tmp_path, model, some):
    folder = tmp_path / "deep" / "c.minibi"
    with Collection.create(folder, model) as c:
        assert len(c) == c.documents == 0 and c.sources() == {} and c.search("sun") == []
        assert c.sync("s", some(0, 1, 2), "stamp") == Changes(new=3, passages=3)
        assert len(c) == c.documents == 3 and c.sources() == {"s": "stamp"}
        before = c.search("sun", 2)
    with Collection.open(folder) as c:  # finds its model by itself
        assert c.model.fingerprint == model.fingerprint
        assert c.search("sun", 2) == before and len(before) == 2
    with Collection.open_or_create(str(folder), model) as c:
        assert c.search("sun", 2) == before


def test_hits_tell_what_and_where(collection, model):
    documents = [Document("k1", "Weather", "Rain.\nSun.", start=40, line=7), Document("k2", "", "Bread", 0, 0)]
    collection.sync("notes/a.txt", documents)
    hits = {h.key: h for h in collection.search("rain")}
    a, b = hits["k1"], hits["k2"]
    assert (a.title, a.text, a.source, a.start, a.end, a.line) == ("Weather", "Rain.\nSun.", "notes/a.txt", 40, 50, 7)
    assert (b.title, b.text, b.start, b.end, b.line) == ("", "Bread", 0, 5, 0)
    assert a.place == "notes/a.txt:7" and b.place == "notes/a.txt"
    assert a.to_dict()["score"] == a.score and json.loads(json.dumps(a.to_dict()))["text"] == "Rain.\nSun."
    query, passage = model.encode(["rain", "Weather\nRain.\nSun."], normalize_embeddings=True)
    assert a.score == pytest.approx(float(query @ passage), abs=1e-6)
    assert [h.score for h in collection.search("rain")] == sorted((h.score for h in hits.values()), reverse=True)


def test_create_refuses_what_is_taken(tmp_path, model):
    Collection.create(tmp_path / "c", model).close()
    with pytest.raises(InputError, match="collection already"):
        Collection.create(tmp_path / "c", model)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine.txt").write_text("mine")
    for name in ("file", "folder"):
        for make in (Collection.create, Collection.open_or_create):
            with pytest.raises(InputError, match="choose another name"):
                make(tmp_path / name, model)
    assert (tmp_path / "file").read_text() == "mine" and [p.name for p in (tmp_path / "folder").iterdir()] == [
        "mine.txt"
    ]
    (tmp_path / "empty").mkdir()
    Collection.create(tmp_path / "empty", model).close()


def test_open_refuses_what_is_none(tmp_path, model):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for name in ("missing", "file", "folder", "missing/below"):
        with pytest.raises(InputError, match="is not a collection"):
            Collection.open(tmp_path / name)
    assert list((tmp_path / "folder").iterdir()) == [] and not (tmp_path / "missing").exists()


@pytest.mark.parametrize("left", ["nothing in it", "no tables"])
def test_a_creation_that_was_killed_can_be_repeated(tmp_path, model, some, left):
    folder = tmp_path / "c"
    folder.mkdir()
    if left == "no tables":
        with contextlib.closing(sqlite3.connect(folder / "collection.db")) as db:
            db.execute("PRAGMA journal_mode=WAL")
    else:
        (folder / "collection.db").write_bytes(b"")
    with pytest.raises(InputError, match="is not a collection"):
        Collection.open(folder)
    with Collection.open_or_create(folder, model) as c:
        c.sync("s", some(1))
        assert len(c.search("sun")) == 1


def test_two_creators_at_once_share_one_collection(tmp_path, model, some):
    folders, errors = [], []
    start = threading.Barrier(4)

    def work(n):
        start.wait()
        try:
            with Collection.open_or_create(tmp_path / "c", model) as c:
                folders.append(c._uuid)
        except MinibiError as e:
            errors.append(e)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert not errors and len(folders) == 4 and len(set(folders)) == 1


# --- sync ------------------------------------------------------------------------------------------------------------


def test_only_what_is_new_is_encoded(collection, some, encoded, words):
    assert collection.sync("s", some(0, 1, 2)) == Changes(new=3, passages=3)
    assert len(encoded) == 3
    encoded.clear()
    assert collection.sync("s", some(2, 0, 1)) == Changes(unchanged=3)
    assert encoded == []
    changed = [*some(0, 1), Document("2", "title 2", words(99)), Document("3", "other", words(2))]
    assert collection.sync("s", changed) == Changes(new=1, changed=1, unchanged=2, passages=2)
    assert encoded == [f"title 2\n{words(99)}", f"other\n{words(2)}"]
    encoded.clear()
    assert collection.sync("s", some(1)) == Changes(removed=3, unchanged=1) and encoded == []
    assert [h.key for h in collection.search("sun")] == ["1"]
    assert collection.sync("s", []) == Changes(removed=1) and collection.search("sun") == []
    assert collection.sync("t", []) == Changes()


def test_a_new_title_or_place_is_a_change(collection, encoded):
    one = Document("1", "Rain", "It rained.", start=3, line=2)
    collection.sync("s", [one])
    for other in (
        Document("1", "Sun", "It rained.", 3, 2),
        Document("1", "Sun", "It rained.", 4, 2),
        Document("1", "Sun", "It rained.", 4, 3),
        Document("1", "Sun\0It", " rained.", 4, 3),
    ):
        assert collection.sync("s", [other]).changed == 1
        (hit,) = collection.search("rain")
        assert (hit.title, hit.text, hit.start, hit.line) == (other.title, other.text.strip(), *where(other))


def where(document):
    return document.start + len(document.text) - len(document.text.lstrip()), document.line


def test_sources_are_apart(collection, some):
    collection.sync("a", some(0, 1))
    collection.sync("b", some(1, 2))
    assert sorted((h.source, h.key) for h in collection.search("sun")) == [
        ("a", "0"),
        ("a", "1"),
        ("b", "1"),
        ("b", "2"),
    ]
    assert collection.drop("a") == 2
    assert sorted((h.source, h.key) for h in collection.search("sun")) == [("b", "1"), ("b", "2")]
    assert collection.sources() == {"b": ""} and collection.drop("never there") == 0 and collection.drop("a") == 0
    assert collection.sources() == {"b": ""}


def test_long_documents_have_several_passages(collection, model, words):
    text = words(0, 400)
    changes = collection.sync("s", [Document("1", "long", text, start=10, line=1)])
    assert changes.passages == len(collection) > 5 and collection.documents == 1
    hits = collection.search("sun", 1000)
    assert len(hits) == len(collection) == len({h.start for h in hits})
    assert all(h.text == text[h.start - 10 : h.end - 10] for h in hits)
    covered = {i for h in hits for i in range(h.start - 10, h.end - 10)}
    assert all(i in covered or c.isspace() for i, c in enumerate(text))
    collection.sync("s", [Document("1", "long", "short now")])
    assert [h.text for h in collection.search("sun")] == ["short now"] and len(collection) == 1


def test_progress_counts_all_characters(collection, some, monkeypatch):
    monkeypatch.setattr(module, "BATCH_CHARACTERS", 100)
    done = []
    documents = some(*range(12))
    collection.sync("s", documents[:5])
    collection.sync("s", documents, progress=done.append)
    assert sum(done) == sum(len(d.text) for d in documents) and len(done) > 5


def test_a_key_given_twice_is_named(collection, some):
    with pytest.raises(InputError, match="two documents have the key '1'"):
        collection.sync("s", some(0, 1, 2, 1))
    assert collection.sources() == {"s": None}  # unfinished
    collection.sync("s", some(0, 1))
    assert len(collection) == 2


def test_published_batch_by_batch(collection, some, monkeypatch, model):
    """What was encoded before an error stays, what is missing is taken up when the sync is repeated."""
    monkeypatch.setattr(module, "BATCH_CHARACTERS", 1)
    collection.sync("s", some(0, 1, 8, 9), "first")

    def interrupted():
        yield from some(9, 2, 3)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collection.sync("s", interrupted(), "second")
    assert collection.sources() == {"s": None}
    assert sorted(h.key for h in collection.search("sun")) == ["0", "1", "2", "3", "8", "9"]
    assert collection.sync("s", some(9, 2, 3, 4), "second") == Changes(new=1, removed=3, unchanged=3, passages=1)
    assert collection.sources() == {"s": "second"}
    assert sorted(h.key for h in collection.search("sun")) == ["2", "3", "4", "9"]


def test_an_error_while_encoding_changes_nothing(collection, some, monkeypatch):
    collection.sync("s", some(0, 1))
    before = answers(collection)

    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(BiEncoder, "encode_document", fail)
    with pytest.raises(MemoryError):
        collection.sync("s", some(5, 6))
    assert answers(collection) == before
    monkeypatch.undo()
    collection.sync("s", some(5, 6))
    assert sorted(h.key for h in collection.search("sun")) == ["5", "6"]


def test_strange_texts(collection):
    texts = {
        "nul": "a\0b rain",
        "cr": "rain\rsun",
        "emoji": "😀 sun",
        "rtl": "שלום rain",
        "tab": "\train\t",
    }
    collection.sync("ß/源\0?", [Document(k, f"{k}\n\0", t) for k, t in texts.items()])
    hits = {h.key: h for h in collection.search("rain", 50)}
    for key, hit in hits.items():
        assert hit.text == texts[key].strip() and hit.title == f"{key}\n\0" and hit.source == "ß/源\0?"
    assert set(hits) == set(texts)


@pytest.mark.parametrize(
    "bad", [Document("1", "t", "\ud800"), Document("1", "\udfff", "x"), Document("\udc00", "t", "x")]
)
def test_half_a_surrogate_pair_is_refused_by_name(collection, some, bad):
    with pytest.raises(InputError, match="surrogate"):
        collection.sync("s", [*some(5), bad])
    collection.sync("s", some(5))
    assert len(collection) == 1


@pytest.mark.parametrize("query", ["", "  \n", None, 3, ["sun"]])
def test_bad_queries(collection, query):
    with pytest.raises(InputError, match="ask something"):
        collection.search(query)


@pytest.mark.parametrize("k", [0, -1, 2.0, "3", None, True])
def test_bad_k(collection, some, k):
    collection.sync("s", some(0, 1))
    collection.sync("s", some(0))
    with pytest.raises(InputError, match="k must be"):
        collection.search("sun", k)


def test_any_k(collection, some):
    collection.sync("s", some(0, 1, 2))
    collection.compact(always=True)
    collection.sync("s", some(1, 2, 3))
    whole = collection.search("sun", 10**15)
    assert len(whole) == 3
    for k in range(1, 5):
        assert collection.search("sun", k) == whole[:k]


def test_removed_passages_take_no_place_among_the_best(collection, some):
    collection.sync("s", some(*range(20)))
    collection.compact(always=True)
    worst = [int(h.key) for h in collection.search("sun", 20)[-3:]]
    collection.sync("s", some(*worst))
    assert len(collection._refresh().removed) == 17
    for k in (1, 2, 3, 4):
        assert [int(h.key) for h in collection.search("sun", k)] == worst[:k]


# --- models ----------------------------------------------------------------------------------------------------------


def test_another_model_is_refused(collection, some, golden, model):
    collection.sync("s", some(0))
    others = [BiEncoder(golden / "tiny-bert-new"), BiEncoder(golden / "tiny-bert", max_seq_length=20)]
    others += [BiEncoder(golden / "tiny-bert", truncate_dim=12)]
    for other in others:
        with pytest.raises(InputError, match="another model"):
            Collection.open(collection.folder, other)
        with pytest.raises(InputError, match="another model"):
            Collection.open_or_create(collection.folder, other)
    Collection.open(collection.folder, BiEncoder(golden / "tiny-bert")).close()


def test_a_model_that_changed_or_vanished(tmp_path, some, golden):
    home = tmp_path / "models" / "tiny"
    shutil.copytree(golden / "tiny-bert", home)
    with Collection.create(tmp_path / "c", BiEncoder(home)) as c:
        c.sync("s", some(0))
    with Collection.open(tmp_path / "c") as c:
        assert len(c.search("sun")) == 1
    config = json.loads((home / "sentence_bert_config.json").read_text())
    (home / "sentence_bert_config.json").write_text(json.dumps({**config, "max_seq_length": 17}))
    with Collection.open(tmp_path / "c") as c, pytest.raises(InputError, match="another model"):
        c.search("sun")
    shutil.rmtree(home)
    with Collection.open(tmp_path / "c") as c:
        assert len(c) == 1  # counting needs no model
        with pytest.raises(MinibiError, match=str(home)):
            c.search("sun")


def test_the_bundled_model_is_kept_by_name(tmp_path):
    """So that a collection can move to another machine."""
    bundled = BiEncoder("all-MiniLM-L6-v2")
    with Collection.create(tmp_path / "c", bundled) as c:
        assert c.model_name == "all-MiniLM-L6-v2"


def test_a_moved_collection_still_answers(collection, some, model, tmp_path):
    collection.sync("s", some(0, 1))
    collection.compact(always=True)
    right = collection.search("sun")
    collection.close()
    shutil.move(collection.folder, tmp_path / "elsewhere.minibi")
    with Collection.open(tmp_path / "elsewhere.minibi", model) as c, no_warnings():
        assert c.search("sun") == right
