"""Collections: nothing encoded twice, nothing removed ever found, every commit seen at once, damage survived."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

from minibi import BiEncoder, Collection, FlatIndex, HNSWIndex, MinibiError
from minibi.environment import plain_kernels
from minibi.errors import FormatError, InputError
from minibi.search import collection as module
from minibi.search.collection import Changes
from minibi.text.files import Document

SNAPSHOT = "vectors.safetensors"


@pytest.fixture
def collection(tmp_path, model):
    with Collection.create(tmp_path / "c.minibi", model) as made:
        yield made


def answers(collection, query="sun and rain", k=1000) -> list[tuple]:
    return [(h.score, h.source, h.key, h.start, h.end, h.title, h.text) for h in collection.search(query, k)]


def truth(model, folder, sources: dict[str, list[Document]], query="sun and rain") -> list[tuple]:
    """The answers of a fresh collection with these documents."""
    with Collection.create(folder, model) as fresh:
        for source, documents in sources.items():
            fresh.sync(source, documents)
        return answers(fresh, query)


def agree(a: list[tuple], b: list[tuple]) -> None:
    assert sorted(x[1:] for x in a) == sorted(x[1:] for x in b)
    np.testing.assert_allclose([x[0] for x in a], [x[0] for x in b], atol=1e-5 if plain_kernels() else 0)


@contextlib.contextmanager
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


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


# --- snapshot and tail -----------------------------------------------------------------------------------------------


def test_answers_are_the_same_from_tail_and_snapshot(collection, some, model, tmp_path):
    collection.sync("s", some(*range(30)))
    tail = answers(collection)
    collection.compact()
    assert collection._refresh().snapshot_commit >= 0 and len(collection._refresh().tail) == 0
    agree(answers(collection), tail)
    with Collection.open(collection.folder, model) as again, no_warnings():
        agree(answers(again), tail)
        collection.sync("s", some(*range(3, 34)))  # some gone, some new: snapshot, tail and removed together
        view = again._refresh()
        assert len(view.base) == 30 and len(view.tail) == 4 and len(view.removed) == 3
        mixed = answers(again)
        agree(mixed, truth(model, tmp_path / "t", {"s": some(*range(3, 34))}))
        again.compact(always=True)
        agree(answers(again), mixed)
        agree(answers(collection), mixed)


def test_compact_only_when_enough_has_changed(collection, some):
    path = collection.folder / SNAPSHOT
    collection.compact()
    first = path.read_bytes()
    collection.sync("s", some(*range(20)))
    collection.compact()
    second = path.read_bytes()
    assert first != second
    collection.sync("s", some(*range(1, 21)))  # one gone, one new: a tenth
    collection.compact()
    assert path.read_bytes() == second
    collection.sync("s", some(*range(2, 21)))
    collection.compact()
    third = path.read_bytes()
    assert third != second
    collection.compact()
    assert path.read_bytes() == third
    with sqlite3.connect(collection.folder / "collection.db") as db:
        assert db.execute("SELECT count(*) FROM removed").fetchone() == (0,)


def test_the_snapshot_is_an_index_of_its_own(collection, some):
    collection.sync("s", some(*range(5)))
    collection.compact()
    index = FlatIndex.load(collection.folder / SNAPSHOT)
    assert len(index) == 5 and index.fingerprint == collection.fingerprint and index.notes["commit"] > 0


def test_ids_are_never_used_again(collection, some):
    seen: set[int] = set()
    for _ in range(4):
        collection.sync("s", some(0, 1, 2))
        ids = {h.id for h in collection.search("sun")}
        assert len(ids) == 3 and not ids & seen
        seen |= ids
        collection.sync("s", [])
        collection.compact(always=True)


def test_another_connection_sees_every_commit(collection, some, model):
    with Collection.open(collection.folder, model) as other, no_warnings():
        assert other.search("sun") == []
        for numbers in ([0], [0, 1, 2], [1, 2], [3], [], range(30), range(20)):
            collection.sync("s", some(*numbers))
            assert sorted(h.key for h in other.search("sun", 50)) == sorted(map(str, numbers))
            assert len(other) == len(numbers)
            collection.compact()
            assert sorted(h.key for h in other.search("sun", 50)) == sorted(map(str, numbers))


def test_a_reader_that_slept_through_many_compactions(collection, some, model):
    collection.sync("s", some(0, 1, 2))
    collection.compact(always=True)
    with Collection.open(collection.folder, model) as sleeper, no_warnings():
        assert len(sleeper.search("sun")) == 3
        for first in (1, 2, 3):
            collection.sync("s", some(*range(first, first + 3)))
            collection.compact(always=True)
        assert sorted(h.key for h in sleeper.search("sun")) == ["3", "4", "5"]


def test_killed_between_the_snapshot_and_its_record(collection, some, model, monkeypatch):
    """The file is already new, the database still names the old one."""
    collection.sync("s", some(0, 1, 2))
    collection.compact(always=True)
    collection.sync("s", some(1, 2, 3))
    real = FlatIndex.save

    def save(self, path):
        real(self, path)
        raise KeyboardInterrupt

    monkeypatch.setattr(FlatIndex, "save", save)
    with pytest.raises(KeyboardInterrupt):
        collection.compact(always=True)
    monkeypatch.undo()
    for c in (collection, Collection.open(collection.folder, model)):
        with no_warnings():
            assert sorted(h.key for h in c.search("sun")) == ["1", "2", "3"]
            c.sync("s", some(2, 3))
            assert sorted(h.key for h in c.search("sun")) == ["2", "3"]
            c.compact(always=True)
            c.sync("s", some(1, 2, 3))
            assert sorted(h.key for h in c.search("sun")) == ["1", "2", "3"]


def put(path, content):
    """Another file in its place: who has the old one mapped keeps it."""
    path.unlink()
    path.write_bytes(content)


def test_a_snapshot_replaced_while_it_is_read(collection, some, model, monkeypatch):
    """Half of the old file and half of the new one fail the checksums: that is no damage, and no reason to warn."""
    collection.sync("s", some(0, 1, 2))
    collection.compact(always=True)
    real, failures = FlatIndex.load, [FormatError("torn")]

    def load(path):
        if failures:
            torn = failures.pop()
            collection.sync("s", some(1, 2, 3))
            collection.compact(always=True)
            raise torn
        return real(path)

    with Collection.open(collection.folder, model) as c, no_warnings():
        monkeypatch.setattr(FlatIndex, "load", load)
        assert sorted(h.key for h in c.search("sun")) == ["1", "2", "3"]
        assert c._refresh().snapshot_commit > 1


def damage_missing(path, elsewhere):
    path.unlink()


def damage_cut(path, elsewhere):
    put(path, path.read_bytes()[:-9])


def damage_flipped(path, elsewhere):
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    put(path, bytes(content))


def damage_header(path, elsewhere):
    content = bytearray(path.read_bytes())
    at = content.index(b"commit")
    content[at + 11] ^= 1
    put(path, bytes(content))


def damage_rubbish(path, elsewhere):
    put(path, b"rubbish" * 1000)


def damage_empty(path, elsewhere):
    put(path, b"")


def damage_folder(path, elsewhere):
    path.unlink()
    path.mkdir()


def damage_graph(path, elsewhere):
    index = HNSWIndex(36)
    index.add(np.eye(36))
    index.save(path)


def damage_foreign(path, elsewhere):
    put(path, (elsewhere / SNAPSHOT).read_bytes())


def damage_older(path, elsewhere):
    put(path, (path.parent / "older").read_bytes())


DAMAGES = [damage_missing, damage_cut, damage_flipped, damage_header, damage_rubbish, damage_empty, damage_folder]
DAMAGES += [damage_graph, damage_foreign, damage_older]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.__name__[7:])
def test_a_bad_snapshot_is_reported_and_healed(collection, some, model, tmp_path, damage):
    with Collection.create(tmp_path / "elsewhere", model) as elsewhere:
        elsewhere.sync("s", some(*range(50, 90)))
        elsewhere.compact(always=True)
    path = collection.folder / SNAPSHOT
    collection.sync("s", some(*range(30)))
    collection.compact(always=True)
    shutil.copy(path, collection.folder / "older")
    collection.sync("s", some(*range(5, 35)))
    collection.compact(always=True)
    collection.sync("s", some(*range(6, 36)))
    right = answers(collection)
    damage(path, tmp_path / "elsewhere")
    agree(answers(collection), right)  # what is in memory stays good
    with Collection.open(collection.folder, model) as c:
        with pytest.warns(UserWarning, match=r"vectors\.safetensors.*reading the database instead"):
            agree(answers(c), right)
        with no_warnings():  # said once
            agree(answers(c), right)
            c.sync("s", some(*range(7, 37)))
            later = answers(c)
        agree(later, truth(model, tmp_path / "t", {"s": some(*range(7, 37))}))
        if damage is damage_folder:
            path.rmdir()
        with no_warnings():
            c.compact()
            agree(answers(c), later)
            healed = path.stat().st_mtime_ns
            c.compact()
            assert path.stat().st_mtime_ns == healed  # once
    with Collection.open(collection.folder, model) as c, no_warnings():
        agree(answers(c), later)
        assert c._refresh().snapshot_commit >= 0


def test_a_database_restored_from_before_the_snapshot(collection, some, model, tmp_path):
    """The snapshot then knows passages that the database does not: they must not be found, nor searched for ever."""
    collection.sync("s", some(0, 1, 2))
    with sqlite3.connect(tmp_path / "backup.db") as backup:
        collection._db.backup(backup)
    backup.close()
    collection.sync("s", some(3, 4, 5))
    collection.compact(always=True)
    collection.close()
    for name in ("collection.db-wal", "collection.db-shm"):
        (collection.folder / name).unlink(missing_ok=True)
    with (
        contextlib.closing(sqlite3.connect(collection.folder / "collection.db")) as db,
        contextlib.closing(sqlite3.connect(tmp_path / "backup.db")) as old,
    ):
        old.execute("UPDATE meta SET value = 1 WHERE key = 'snapshot'")  # it had one then, too
        old.commit()
        old.backup(db)
    with Collection.open(collection.folder, model) as c:
        with pytest.warns(UserWarning, match="another state"):
            assert sorted(h.key for h in c.search("sun")) == ["0", "1", "2"]
        c.compact()
        with no_warnings():
            assert sorted(h.key for h in c.search("sun")) == ["0", "1", "2"]


def test_a_snapshot_with_a_passage_that_never_was(collection, some, model):
    """Signed as ours and of the right commit, but with an id too many: answered from the database, not for ever."""
    collection.sync("s", some(0, 1, 2))
    collection.compact(always=True)
    index = FlatIndex.load(collection.folder / SNAPSHOT)
    index.add(model.encode_query("sun"), [999])
    index.save(collection.folder / SNAPSHOT)
    with Collection.open(collection.folder, model) as c, pytest.warns(UserWarning, match="another state"):
        assert sorted(h.key for h in c.search("sun")) == ["0", "1", "2"]


# --- the database ----------------------------------------------------------------------------------------------------


def tampered(collection, *statements) -> None:
    with contextlib.closing(sqlite3.connect(collection.folder / "collection.db")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


def refused(folder, model, error=FormatError) -> str:
    with pytest.raises(error) as e, Collection.open(folder, model) as c:
        c.sync("another", [Document("new", "", "rain")])
        c.search("sun")
    assert "\n" not in str(e.value)
    return str(e.value)


@pytest.mark.parametrize("where", ["all", "header", "schema", "middle", "cut", "page"])
def test_a_damaged_database_is_refused_in_one_sentence(collection, some, model, where):
    collection.sync("s", some(*range(300)))
    collection.close()
    path = collection.folder / "collection.db"
    content = path.read_bytes()
    assert len(content) > 60_000
    path.write_bytes(
        {
            "all": b"rubbish " * 9000,
            "header": b"rubbish" + content[7:],
            "schema": content[:100] + b"\xa5" * 3996 + content[4096:],
            "middle": content[:8192] + b"\xa5" * (len(content) - 8192),
            "cut": content[: len(content) // 2],
            "page": content[:4096] + b"\0" * 4096 + content[8192:],
        }[where]
    )
    refused(collection.folder, model)


def test_parts_of_the_database_missing(collection, some, model):
    collection.sync("s", some(0, 1))
    tampered(collection, "UPDATE meta SET value = '2' WHERE key = 'format'")
    assert "format '2'" in refused(collection.folder, model)
    tampered(collection, "UPDATE meta SET value = '1' WHERE key = 'format'", "DELETE FROM meta WHERE key = 'dim'")
    assert "dim" in refused(collection.folder, model)
    tampered(collection, "DROP TABLE meta")
    assert "meta" in refused(collection.folder, model)


def test_a_vector_of_another_length(collection, some, model):
    collection.sync("s", some(0, 1))
    tampered(collection, "UPDATE passages SET vector = x'00' WHERE id = 1")
    assert "passage 1" in refused(collection.folder, model)


def test_another_program_holds_the_database(collection, some):
    collection.sync("s", some(0))
    collection._db.execute("PRAGMA busy_timeout = 50")
    with contextlib.closing(sqlite3.connect(collection.folder / "collection.db", isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        with pytest.raises(InputError, match="locked"):
            collection.sync("s", some(1))
        assert [h.key for h in collection.search("sun")] == ["0"]
    collection.sync("s", some(1))
    assert [h.key for h in collection.search("sun")] == ["1"]


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


# --- writers and readers ---------------------------------------------------------------------------------------------


def test_a_second_writer_is_refused(collection, some, model):
    with Collection.open(collection.folder, model) as other:

        def documents():
            yield from some(0)
            for write in (
                lambda: other.sync("s", some(1)),
                lambda: other.drop("s"),
                lambda: other.compact(always=True),
            ):
                with pytest.raises(InputError, match="another process is writing"):
                    write()
            assert other.search("sun") == []
            yield from some(1)

        collection.sync("s", documents())
        assert len(other.search("sun")) == 2
        other.sync("s", some(1))
        assert len(collection.search("sun")) == 1


WAITER = """
import sys
from minibi import BiEncoder, Collection
from minibi.text.files import Document
def documents():
    yield Document("1", "", "rain")
    print("writing", flush=True)
    sys.stdin.readline()
with Collection.open(sys.argv[1], BiEncoder(sys.argv[2])) as c:
    c.sync("other", documents())
"""


def test_a_writer_in_another_process(collection, some, golden, child_env):
    arguments = [sys.executable, "-c", WAITER, str(collection.folder), str(golden / "tiny-bert")]
    for end in ("finish", "kill"):
        child = subprocess.Popen(arguments, env=child_env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"writing\n"
        with pytest.raises(InputError, match="another process is writing"):
            collection.sync("s", some(0))
        if end == "finish":
            child.communicate(b"\n")
            assert [h.source for h in collection.search("rain")] == ["other"]
        else:
            child.kill()
            child.communicate()
        collection.sync("s", some(0))  # the lock went with the process, however it ended
        collection.drop("other")
        collection.drop("s")


def test_search_from_four_threads_while_one_writes(collection, some, model, deep):
    """No error, no removed passage, no half of a document, no warning, and the last commit seen at the end."""
    collection.sync("fixed", some(*range(100, 110)))
    stop, errors, searches = threading.Event(), [], []

    def reader(own: bool):
        c = Collection.open(collection.folder, model) if own else collection
        try:
            while not stop.is_set():
                hits = c.search("sun and rain", 40)
                keys = [h.key for h in hits if h.source == "fixed"]
                assert sorted(keys) == [str(i) for i in range(100, 110)]
                assert len({h.id for h in hits}) == len(hits)
                moving = {h.title for h in hits if h.source == "moving"}
                assert len(moving) <= 1 or {int(t) for t in moving} <= set(range(min(map(int, moving)), 10**6))
                searches.append(len(hits))
        except BaseException as e:
            errors.append(e)
        finally:
            if own:
                c.close()

    with no_warnings():
        threads = [threading.Thread(target=reader, args=(i % 2 == 0,)) for i in range(4)]
        [t.start() for t in threads]
        try:
            for i in range(150 if deep else 25):
                collection.sync("moving", [Document(str(j), str(i), f"sun {i} {j}") for j in range(i % 7)])
                if i % 2:
                    collection.compact(always=True)
        finally:
            stop.set()
            [t.join() for t in threads]
    assert not errors, errors[:1]
    assert len(searches) > 20
    assert {h.title for h in collection.search("sun", 50) if h.source == "moving"} <= {str(150 - 1 if deep else 24)}


def test_after_close_nothing_works_and_closing_again_is_fine(collection, some):
    collection.close()
    collection.close()
    with pytest.raises(sqlite3.ProgrammingError):
        collection.search("sun")
