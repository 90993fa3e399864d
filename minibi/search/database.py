"""The truth of a collection: one SQLite database of sources, documents, passages and their vectors.

Every transaction that changes passages has a number, the commit. A removed passage leaves its id behind in `removed`,
so whoever holds the passages up to some commit can catch up from there. Passage ids are never used again.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from ..errors import FormatError, InputError
from ..shapes import Floats, Ints

FORMAT = "1"

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE sources (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, stamp TEXT);
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, source INTEGER NOT NULL REFERENCES sources (id), key TEXT NOT NULL, title TEXT NOT NULL,
    text TEXT NOT NULL, start INTEGER NOT NULL, line INTEGER NOT NULL, digest BLOB NOT NULL, UNIQUE (source, key)
);
CREATE TABLE passages (
    id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES documents (id),
    start INTEGER NOT NULL, end INTEGER NOT NULL, born INTEGER NOT NULL, vector BLOB NOT NULL
);
CREATE INDEX passages_by_document ON passages (document);
CREATE INDEX passages_by_birth ON passages (born);
CREATE TABLE removed (passage INTEGER PRIMARY KEY, died INTEGER NOT NULL);
CREATE INDEX removed_by_death ON removed (died);
"""


def connect(path: Path) -> sqlite3.Connection:
    """A connection that waits for others, and whose commits survive a power cut. Raises FormatError."""
    try:
        db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
        _use_wal(db)
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA foreign_keys=ON")
        return db
    except sqlite3.DatabaseError as e:
        raise FormatError(f"{path} cannot be opened as a collection's database: {e}") from None


def _use_wal(db: sqlite3.Connection) -> None:
    """Write-ahead logging. SQLite does not wait by itself while another connection is just switching to it."""
    for patience in reversed(range(100)):
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as e:
            if e.sqlite_errorcode != sqlite3.SQLITE_BUSY or not patience:
                raise
            time.sleep(0.05)


def is_blank(path: Path) -> bool:
    """Whether there is no database, or one without tables: what is left when `create` is killed. Raises FormatError."""
    if not path.is_file():
        return True
    with contextlib.closing(sqlite3.connect(path, timeout=30, isolation_level=None)) as db, transaction(db, "DEFERRED"):
        return not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]


def create(path: Path, meta: dict[str, str]) -> sqlite3.Connection:
    """A new database with its `meta` entries, or the one there is: of several creators the first decides."""
    db = connect(path)
    with transaction(db):
        if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            for statement in _SCHEMA.split(";"):
                db.execute(statement)
            db.executemany("INSERT INTO meta VALUES (?, ?)", {"format": FORMAT, "commit": "0", **meta}.items())
    return db


@contextlib.contextmanager
def transaction(db: sqlite3.Connection, kind: str = "IMMEDIATE") -> Iterator[None]:
    """All or nothing. kind DEFERRED: several reads of one state.

    Raises FormatError if the database is damaged, InputError if it cannot be used for now.
    """
    try:
        db.execute(f"BEGIN {kind}")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:  # some errors have rolled back by themselves
                db.execute("ROLLBACK")
            raise
    except sqlite3.ProgrammingError:  # a closed collection
        raise
    except sqlite3.OperationalError as e:  # locked, disk full, read-only
        raise InputError(f"the collection's database cannot be used: {e}") from e
    except sqlite3.DatabaseError as e:
        raise FormatError(f"the collection's database is damaged ({e}): remove the collection and index again") from e


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Holds the collection's writer lock, which ends with the process however that ends. Raises InputError if taken."""
    lock = sqlite3.connect(folder / "writer.lock", timeout=0, isolation_level=None, check_same_thread=False)
    try:
        try:
            lock.execute("BEGIN EXCLUSIVE")
        except sqlite3.DatabaseError as e:
            if e.sqlite_errorcode == sqlite3.SQLITE_BUSY:
                raise InputError(f"another process is writing to {folder}: wait until it has finished") from None
            raise InputError(f"cannot write to {folder}: {e}") from None
        yield
    finally:
        lock.close()


def meta(db: sqlite3.Connection) -> dict[str, str]:
    """All meta entries. Raises FormatError if this is no collection, or one of a newer format."""
    try:
        entries = dict(db.execute("SELECT key, value FROM meta"))
    except sqlite3.DatabaseError as e:
        raise FormatError(f"the database is damaged or no collection of minibi: {e}") from None
    if entries.get("format") != FORMAT:
        raise FormatError(f"the collection has format {entries.get('format')!r}, this version reads {FORMAT!r}")
    return entries


def next_commit(db: sqlite3.Connection) -> int:
    """Inside a transaction: a new commit number."""
    db.execute("UPDATE meta SET value = value + 1 WHERE key = 'commit'")
    return int(db.execute("SELECT value FROM meta WHERE key = 'commit'").fetchone()[0])


def remove_documents(db: sqlite3.Connection, documents: Iterable[int], commit: int) -> int:
    """Inside a transaction: removes documents with their passages; returns how many passages."""
    passages = 0
    for document in documents:
        found = db.execute("SELECT id FROM passages WHERE document = ?", (document,)).fetchall()
        db.executemany("INSERT INTO removed VALUES (?, ?)", [(i, commit) for (i,) in found])
        db.execute("DELETE FROM passages WHERE document = ?", (document,))
        db.execute("DELETE FROM documents WHERE id = ?", (document,))
        passages += len(found)
    return passages


def vectors_since(db: sqlite3.Connection, commit: int, dim: int) -> tuple[Ints, Floats]:
    """(ids [n], vectors [n, dim]) of the live passages born after a commit, by id. Raises FormatError."""
    ids, parts = [], []
    for i, blob in db.execute("SELECT id, vector FROM passages WHERE born > ? ORDER BY id", (commit,)):
        if len(blob) != 4 * dim:
            raise FormatError(f"the vector of passage {i} has {len(blob)} bytes instead of {4 * dim}: index again")
        ids.append(i)
        parts.append(blob)
    vectors = np.frombuffer(b"".join(parts), np.float32).reshape(len(ids), dim)
    return np.array(ids, np.int64), vectors


def removed_since(db: sqlite3.Connection, commit: int) -> list[int]:
    """Ids of the passages that died after a commit."""
    return [i for (i,) in db.execute("SELECT passage FROM removed WHERE died > ?", (commit,))]
