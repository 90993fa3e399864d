"""A damaged database is refused in one sentence; one writer and many readers get along."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
import threading

import pytest
from answers import no_warnings

from minibi import Collection
from minibi.errors import FormatError, InputError
from minibi.text.files import Document

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
