"""Collection: a folder of texts you can search by meaning, kept up to date and safe from crashes.

    collection = Collection.create("notes.minibi", BiEncoder())
    collection.sync("diary.txt", [Document(key="1", title="Monday", text="It rained.")])
    hits = collection.search("what was the weather like?")

The folder holds one SQLite database, the truth, and a snapshot of all vectors for searching, which is derived from it
and stamped with the commit it reflects. A search reads the snapshot and an exact scan of what was committed since. Any
number of processes may search while one writes; an interrupted `sync` keeps what it had finished and continues when
repeated.
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..arguments import as_path, whole
from ..environment import weights_folder
from ..errors import FormatError, InputError
from ..index.flat import FlatIndex
from ..models.bi_encoder import BiEncoder
from ..models.towers import Towers, open_encoder
from ..shapes import Floats, Ints
from ..text.files import Document, kind_of
from . import database as data
from .hits import Hit, Hits
from .passages import OVERLAP, Passage, passages_of

DATABASE = "collection.db"
SNAPSHOT = "vectors.safetensors"
BATCH_CHARACTERS = 64_000  # encoded and committed together: what an interruption can lose
FOREIGN = "belongs to another state of the collection"
STALE = 0.1  # the snapshot is written anew when this share of the passages changed since


Encoder = BiEncoder | Towers


@dataclass
class Changes:
    """What a `sync` did, in documents; and passages encoded."""

    new: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    passages: int = 0

    def __add__(self, other: Changes) -> Changes:
        return Changes(*(a + b for a, b in zip(vars(self).values(), vars(other).values(), strict=True)))


@dataclass(frozen=True)
class _View:
    """One state of the collection in memory: never changed, only replaced by a newer one."""

    commit: int
    snapshot_commit: int  # what `base` reflects, -1 for nothing
    newest: int  # the newest snapshot there was to read when `base` was
    base: FlatIndex
    tail: FlatIndex
    removed: frozenset[int] = field(default_factory=frozenset)


class Collection:
    """See the module. Use `create`, `open` or `open_or_create`."""

    def __init__(self, folder: Path, db: sqlite3.Connection, model: Encoder | None):
        self.folder = folder
        self._db = db
        self._lock = threading.RLock()  # one connection, many threads
        meta = data.meta(db)
        self.model_name, self.fingerprint, self._uuid = meta["model"], meta["fingerprint"], meta["uuid"]
        self.dim, self.compute = int(meta["dim"]), meta.get("compute", "float32")
        self._model = model
        if model is not None:
            self._check_model(model)
        self._view: _View | None = None

    @classmethod
    def create(cls, folder: str | Path, model: Encoder) -> Collection:
        """A new, empty collection for vectors of `model`. Raises InputError if the folder is taken."""
        if not data.is_blank(as_path(folder) / DATABASE):
            raise InputError(f"{folder} is a collection already: open it, or choose another name")
        return cls.open_or_create(folder, model)

    @classmethod
    def open(cls, folder: str | Path, model: Encoder | None = None) -> Collection:
        """An existing collection; its model is loaded when first needed, unless given.

        Raises InputError if there is none or it was made with another model, FormatError if it is damaged.
        """
        folder = as_path(folder)
        if data.is_blank(folder / DATABASE):
            raise InputError(f"{folder} is not a collection: make one with `minibi index PATH... -o {folder}`")
        return cls._over(folder, data.connect(folder / DATABASE), model)

    @classmethod
    def open_or_create(cls, folder: str | Path, model: Encoder) -> Collection:
        """The collection there is, else a new one. Several processes may do this at once."""
        folder = as_path(folder)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file: choose another name for the collection's folder")
        others = folder.is_dir() and any(not p.name.startswith(DATABASE) for p in folder.iterdir())
        if not data.is_blank(folder / DATABASE):
            return cls.open(folder, model)
        if others:
            raise InputError(f"{folder} holds other files: choose another name for the collection's folder")
        if model.space != model.fingerprint:
            raise InputError(f"{model.name!r} reads queries alone: make the collection with its document tower too")
        folder.mkdir(parents=True, exist_ok=True)
        own = model.name == model.folder.name and model.folder.parent != weights_folder()  # a folder of the user's
        name = str(model.folder.resolve()) if own else model.name
        meta = {"uuid": uuid.uuid4().hex, "model": name, "compute": model.compute, "dim": str(model.dim)}
        meta |= {"overlap": str(OVERLAP), "fingerprint": model.fingerprint, "snapshot": "-1"}
        db = data.create(folder / DATABASE, meta)
        return cls._over(folder, db, model)

    @classmethod
    def _over(cls, folder: Path, db: sqlite3.Connection, model: Encoder | None) -> Collection:
        try:
            return cls(folder, db, model)
        except BaseException as e:
            db.close()
            if isinstance(e, KeyError):
                raise FormatError(f"{folder} is damaged: its database lacks {e}") from None
            raise

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Passages."""
        with self._lock, data.transaction(self._db, "DEFERRED"):
            return int(self._db.execute("SELECT count(*) FROM passages").fetchone()[0])

    @property
    def documents(self) -> int:
        """Documents."""
        with self._lock, data.transaction(self._db, "DEFERRED"):
            return int(self._db.execute("SELECT count(*) FROM documents").fetchone()[0])

    @property
    def model(self) -> Encoder:
        if self._model is None:
            model = open_encoder(self.model_name, compute=self.compute)
            self._check_model(model)
            self._model = model
        return self._model

    def _check_model(self, model: Encoder) -> None:
        if model.space != self.fingerprint:
            raise InputError(
                f"{self.folder} was made with another model or other settings than {model.name!r} "
                f"(it names {self.model_name!r}, {self.compute}): open it with those, or index into a new folder"
            )

    def sources(self) -> dict[str, str | None]:
        """name -> stamp of every source; None where a `sync` was interrupted."""
        with self._lock, data.transaction(self._db, "DEFERRED"):
            return dict(self._db.execute("SELECT name, stamp FROM sources"))

    def sync(
        self,
        source: str,
        documents: Iterable[Document],
        stamp: str = "",
        progress: Callable[[int], object] = lambda characters: None,
    ) -> Changes:
        """Makes the documents of `source` exactly these: encodes new and changed ones, removes those that are gone.

        Publishes batch by batch. stamp: kept with the source once all is done, to recognize it unchanged another time.
        progress: called with the number of characters done. Raises InputError if another process is writing.
        """
        if self.model.fingerprint != self.fingerprint:
            raise InputError(
                f"{self.model.name!r} reads queries alone: open the collection with its document tower too"
            )
        with data.sole_writer(self.folder):
            source_id, known = self._begin(source)
            changes = Changes()
            seen: set[str] = set()
            batch: list[tuple[Document, bytes]] = []
            waiting = 0
            for document in documents:
                if document.key in seen:
                    raise InputError(f"{source}: two documents have the key {document.key!r}")
                seen.add(document.key)
                try:
                    digest = digest_of(document)
                except UnicodeEncodeError as e:
                    where = f"{source}: document {document.key!r}"
                    raise InputError(f"{where} holds half a surrogate pair, which is no text: {e.reason}") from None
                old = known.get(document.key)
                if old is not None and old[1] == digest:
                    changes.unchanged += 1
                    progress(len(document.text))
                    continue
                changes.new += old is None
                changes.changed += old is not None
                batch.append((document, digest))
                waiting += len(document.text)
                if waiting >= BATCH_CHARACTERS:
                    changes.passages += self._publish(source_id, batch, known)
                    progress(waiting)
                    batch, waiting = [], 0
            if batch:
                changes.passages += self._publish(source_id, batch, known)
                progress(waiting)
            gone = [document for key, (document, _) in known.items() if key not in seen]
            self._finish(source_id, gone, stamp)
            changes.removed += len(gone)
        return changes

    def drop(self, source: str) -> int:
        """Removes a source with all its documents; returns how many documents there were."""
        with data.sole_writer(self.folder):
            source_id, known = self._begin(source)
            self._finish(source_id, [document for document, _ in known.values()], None)
            with self._lock, data.transaction(self._db):
                self._db.execute("DELETE FROM sources WHERE id = ?", (source_id,))
            return len(known)

    def _begin(self, source: str) -> tuple[int, dict[str, tuple[int, bytes]]]:
        """The source's id, marked as unfinished, and its documents: key -> (id, digest)."""
        with self._lock, data.transaction(self._db):
            self._db.execute(
                "INSERT INTO sources (name) VALUES (?) ON CONFLICT (name) DO UPDATE SET stamp = NULL", (source,)
            )
            (source_id,) = self._db.execute("SELECT id FROM sources WHERE name = ?", (source,)).fetchone()
            rows = self._db.execute("SELECT key, id, digest FROM documents WHERE source = ?", (source_id,)).fetchall()
        return source_id, {key: (document, digest) for key, document, digest in rows}

    def _publish(self, source: int, batch: list[tuple[Document, bytes]], known: dict[str, tuple[int, bytes]]) -> int:
        """Encodes a batch of documents and commits them in the place of their former versions."""
        model = self.model
        limit = model.max_seq_length - len(model.tokenizer.bare([model.document_prompt])[0])
        found = passages_of([d for d, _ in batch], model.tokenizer, limit)
        texts = [p.text for passages in found for p in passages]
        vectors = model.encode_document(texts, truncation="silent", normalize_embeddings=True)
        at = 0
        with self._lock, data.transaction(self._db):
            commit = data.next_commit(self._db)
            data.remove_documents(self._db, [known[d.key][0] for d, _ in batch if d.key in known], commit)
            for (document, digest), passages in zip(batch, found, strict=True):
                row = (source, document.key, document.title, document.text, document.start, document.line, digest)
                self._insert(row, passages, vectors[at : at + len(passages)], commit)
                at += len(passages)
        return at

    def _insert(self, row: tuple, passages: list[Passage], vectors: Floats, commit: int) -> None:
        columns = "source, key, title, text, start, line, digest"
        document = self._db.execute(f"INSERT INTO documents ({columns}) VALUES (?, ?, ?, ?, ?, ?, ?)", row).lastrowid
        self._db.executemany(
            "INSERT INTO passages (document, start, end, born, vector) VALUES (?, ?, ?, ?, ?)",
            [(document, p.start, p.end, commit, v.tobytes()) for p, v in zip(passages, vectors, strict=True)],
        )

    def _finish(self, source: int, gone: list[int], stamp: str | None) -> None:
        with self._lock, data.transaction(self._db):
            if gone:
                data.remove_documents(self._db, gone, data.next_commit(self._db))
            self._db.execute("UPDATE sources SET stamp = ? WHERE id = ?", (stamp, source))

    def compact(self, always: bool = False) -> None:
        """Writes the snapshot anew, if enough has changed since it was written (or always).

        Raises InputError if another process is writing.
        """
        view = self._refresh()
        changed = len(view.tail) + len(view.removed)
        if not always and view.snapshot_commit >= 0 and changed <= STALE * len(view.base):
            return
        with data.sole_writer(self.folder):  # or an older snapshot might replace a newer one
            with self._lock, data.transaction(self._db, "DEFERRED"):
                commit = int(data.meta(self._db)["commit"])
                ids, vectors = data.vectors_since(self._db, -1, self.dim)
            index = self._index(ids, vectors)
            index.notes = {"commit": commit, "collection": self._uuid}
            index.save(self.folder / SNAPSHOT)
            with self._lock, data.transaction(self._db):
                self._db.execute("UPDATE meta SET value = ? WHERE key = 'snapshot'", (str(commit),))
                self._db.execute("DELETE FROM removed WHERE died <= ?", (commit,))
                self._view = None

    def _index(self, ids: Ints, vectors: Floats) -> FlatIndex:
        index = FlatIndex(self.dim, fingerprint=self.fingerprint)
        index.add(vectors, ids)
        return index

    def _refresh(self) -> _View:
        """The newest state: the view in memory, brought up to the last commit."""
        with self._lock:
            while True:
                with data.transaction(self._db, "DEFERRED"):
                    meta = data.meta(self._db)
                    commit, snapshot = int(meta["commit"]), int(meta["snapshot"])
                    view = self._view
                    if view is not None and view.newest >= snapshot and view.snapshot_commit <= commit:
                        if commit > view.commit:
                            since = view.snapshot_commit
                            tail = self._index(*data.vectors_since(self._db, since, self.dim))
                            gone = frozenset(i for i in data.removed_since(self._db, since) if i in view.base)
                            view = self._view = replace(view, commit=commit, tail=tail, removed=gone)
                        return view
                if view is not None and view.snapshot_commit > commit:
                    self._view = self._without_snapshot(view.newest, f"{self.folder / SNAPSHOT} {FOREIGN}")
                else:
                    self._view = self._load(snapshot)  # before the next look at the database: never newer than it

    def _load(self, snapshot: int) -> _View:
        """The snapshot on disk; if it is missing, damaged or foreign, none."""
        if snapshot < 0:
            return self._without_snapshot(-1)
        path, why = self.folder / SNAPSHOT, ""
        for _ in range(2):  # it may be replaced while it is read
            try:
                base = FlatIndex.load(path)
                commit = int(base.notes.get("commit", -1))
                ours = (base.notes.get("collection"), base.fingerprint) == (self._uuid, self.fingerprint)
                if ours and commit >= snapshot:
                    return _View(commit, commit, commit, base, FlatIndex(self.dim))
                why = f"{path} {FOREIGN}"
            except FormatError as e:
                why = str(e)
        return self._without_snapshot(snapshot, why)

    def _without_snapshot(self, newest: int, why: str = "") -> _View:
        """A view that takes all from the database."""
        if why:
            warnings.warn(f"{why}; reading the database instead, until the next change writes it anew", stacklevel=5)
        empty = FlatIndex(self.dim)
        return _View(-1, -1, newest, empty, empty)

    def search(self, query: str, k: int = 10) -> Hits:
        """The k passages nearest to `query` by cosine, best first. Raises InputError."""
        if not isinstance(query, str) or not query.strip():
            raise InputError("the query is empty: ask something")
        k = whole("k", k, 1)
        begun = time.perf_counter()
        vector = self.model.encode_query(query, normalize_embeddings=True)
        encoded = time.perf_counter()
        before = None
        while True:
            view = self._refresh()
            best = sorted((-s, i) for s, i in _both(view, vector, k))[:k]
            with self._lock, data.transaction(self._db, "DEFERRED"):
                hits = [hit for s, i in best if (hit := self._hit(i, -s))]
            if len(hits) == len(best):
                seconds = {"encode": encoded - begun, "search": time.perf_counter() - encoded}
                return Hits(tuple(hits), query, seconds)
            if view is before:  # not removed a moment ago, but never there
                self._view = self._without_snapshot(view.newest, f"{self.folder / SNAPSHOT} {FOREIGN}")
            before = view  # look again

    def _hit(self, passage: int, score: float) -> Hit | None:
        row = self._db.execute(
            """SELECT d.title, d.text, d.key, d.start, d.line, p.start, p.end, s.name
               FROM passages p JOIN documents d ON d.id = p.document JOIN sources s ON s.id = d.source
               WHERE p.id = ?""",
            (passage,),
        ).fetchone()
        if row is None:
            return None
        title, text, key, offset, line, start, end, source = row
        if line and kind_of(source) != "json":  # there a row is one line, whatever its text
            line += len(re.findall(r"\r\n?|\n", text[:start]))
        return Hit(score, title, text[start:end], source, key, offset + start, offset + end, line, passage)


def _both(view: _View, vector: Floats, k: int) -> list[tuple[float, int]]:
    """(score, id) of the k best live passages of the snapshot and of those committed since."""
    found = []
    for index, extra in ((view.base, len(view.removed)), (view.tail, 0)):
        scores, ids = index.search(vector, min(k + extra, len(index) or 1))
        found += [(s, i) for s, i in zip(scores[0].tolist(), ids[0].tolist(), strict=True) if i >= 0]
    return [(s, i) for s, i in found if i not in view.removed]


def digest_of(document: Document) -> bytes:
    """Changes whenever anything about a document changes that is encoded or shown. Raises UnicodeEncodeError."""
    parts = (document.key, document.title, document.text, str(document.start), str(document.line))
    return hashlib.sha256("\0".join(f"{len(p)}:{p}" for p in parts).encode()).digest()
