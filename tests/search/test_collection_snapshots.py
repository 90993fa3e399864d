"""Snapshot, tail and removed passages answer as one; a bad snapshot is reported, answered around and healed."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3

import numpy as np
import pytest
from answers import agree, answers, no_warnings, truth

from minibi import Collection, FlatIndex, HNSWIndex
from minibi.errors import FormatError

SNAPSHOT = "vectors.safetensors"


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
