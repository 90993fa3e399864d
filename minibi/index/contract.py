"""What every index promises, and the bookkeeping they share.

    add(vectors, ids=None), upsert(vectors, ids), remove(ids)
    search(queries, k, *, ef, nprobe, filter) -> (scores, ids)    float32 and int64 [Q, k], best first
    range_search(queries, score, *, filter) -> (starts, scores, ids)
    save(path), load(path)                                         one checksummed file, replaced atomically
    len(index), id in index, ids, reconstruct(ids), check(), compact(), stats()

Ids are any int64 but -1, each once. Equal scores are ordered by smaller id. There are always min(k, live) results; the
rest of a row is id -1. Scores: cosine and inner product ("ip"), larger is better; "l2" is the squared Euclidean
distance, smaller is better. Cosine of a zero vector with anything is 0.

One writer and any number of readers may work at once. A reader takes the index's `View` once: arrays and how many of
their rows count. A writer fills rows behind that count, or copies what readers look at, then replaces the view by one
assignment. So a search answers from one moment: it sees every item added or removed before it began, and no item by
half. Rows are given to new items only by `compact`, which builds new arrays.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import as_ids, new_ids, next_ids, whole
from ..errors import FormatError, InputError
from ..shapes import Floats, Ints, aligned, aligned_copy, as_vectors, plain_rows, unit_rows
from ..store.snapshot import read_snapshot, write_snapshot
from ..threads import in_pieces
from .codes import codec_for
from .filters import Filter, allowed
from .ids import IdTable

METRICS = ("cosine", "ip", "l2")


@dataclass(frozen=True)
class View:
    """The index at one moment: `arrays` with room to spare, of whose rows the first `count` are in use."""

    arrays: dict[str, Any]
    count: int = 0
    gone: int = 0  # rows among them that were removed
    facts: dict[str, Any] = field(default_factory=dict)  # what a subclass publishes with the rows

    def __getitem__(self, name: str) -> Any:
        """The rows in use of an array."""
        return self.arrays[name][: self.count]


class Index:
    """Base of all indexes. A subclass names its arrays in `_columns` and adds `_link`, `_unlink` and `_search`."""

    kind: ClassVar[str]

    def __init__(self, dim: int, metric: str = "cosine", *, store: str = "float32", fingerprint: str = ""):
        if metric not in METRICS:
            raise InputError(f"metric {metric!r} is not one of {list(METRICS)}")
        self.dim, self.metric = whole("dim", dim, 1), metric
        self.store = store  # how vectors are kept: one of `codes.CODES`
        self.fingerprint = fingerprint  # of the model that made the vectors; kept, never interpreted
        self.notes: dict[str, Any] = {}  # free JSON that travels with the file
        self._codec = codec_for(store, self.dim)
        self._table = IdTable()
        self._lock = threading.RLock()  # of writers
        self._view = View(self._empty(0))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dim={self.dim}, metric={self.metric!r}, {len(self)} vectors)"

    def __len__(self) -> int:
        view = self._view
        return view.count - view.gone

    def __contains__(self, id: object) -> bool:
        known = isinstance(id, (int, np.integer)) and -(2**63) <= id < 2**63
        return bool(known and self._table.rows(np.array([id], np.int64))[0] >= 0)

    def __getstate__(self) -> Any:
        raise TypeError("an index is not pickled: use save and load")

    @property
    def ids(self) -> Ints:
        """The stored ids in the order they were added, [N]."""
        view = self._view
        return view["ids"][view["live"]]

    # ------------------------------------------------------------------ writing

    def add(self, vectors: ArrayLike, ids: ArrayLike | Sequence[int] | None = None) -> Ints:
        """Stores vectors [n, dim] under `ids` [n], by default counting on; returns the ids.

        Raises InputError, for an id that is already there too; then nothing was added.
        """
        x = self._prepare(vectors, "vectors")
        with self._lock:
            new = self._new_ids(len(x), ids)
            held = self._table.rows(new) >= 0
            if held.any():
                raise InputError(f"id {new[held][0]} is already in the index: upsert replaces a vector")
            self._append(x, new)
        return new

    def upsert(self, vectors: ArrayLike, ids: ArrayLike | Sequence[int]) -> Ints:
        """Like `add`, but a known id gets the new vector instead of the old. A search finds one of the two."""
        x = self._prepare(vectors, "vectors")
        with self._lock:
            new = self._new_ids(len(x), ids)
            self._append(x, new)
            self._tidy()
        return new

    def remove(self, ids: ArrayLike | Sequence[int]) -> None:
        """Forgets these ids. Raises InputError if one is not there; then nothing was removed."""
        with self._lock:
            wanted = np.unique(as_ids(ids).astype(np.int64))
            rows = self._table.rows(wanted)
            if (rows < 0).any():
                raise InputError(f"id {wanted[rows < 0][0]} is not in the index")
            if len(rows):
                self._kill(rows)
                self._table.remove(wanted)
                self._tidy()

    def compact(self) -> None:
        """Gives back the space of removed items. Happens by itself when half of the rows are such."""
        with self._lock:
            if self._view.gone:
                self._renumber()

    # ------------------------------------------------------------------ reading

    def search(
        self,
        queries: ArrayLike,
        k: int = 10,
        *,
        ef: int | None = None,
        nprobe: int | None = None,
        filter: Filter = None,
    ) -> tuple[Floats, Ints]:
        """The k best of each query [Q, dim] or [dim]: (scores [Q, k], ids [Q, k]).

        ef: breadth of a graph search; nprobe: lists of an inverted file; an index that has none passes them over.
        filter: which ids may be returned (see `filters.allowed`). Raises InputError.
        """
        view, x = self._view, plain_rows(queries, self.dim) if filter is None else None
        usual = all(n is None or (type(n) is int and n > 0) for n in (k, ef, nprobe))
        if x is not None and usual and k is not None and k <= view.count - view.gone:
            answer = self._answer(view, x, k, ef, nprobe)
            if answer is not None:
                return answer
        q, k = self._prepare(queries, "queries"), whole("k", k, 1)
        breadth = {} if ef is None else {"ef": whole("ef", ef, 1)}
        if nprobe is not None:
            breadth["nprobe"] = whole("nprobe", nprobe, 1)
        mask = view["live"] if filter is None else allowed(filter, view["ids"], view["live"])
        live = view.count - view.gone if filter is None else int(np.count_nonzero(mask))
        found = min(k, live)
        if found and len(q):
            distances, rows = self._search(view, q, found, mask, live, **breadth)
            best = distances + 0.0 if self.metric == "l2" else 0.0 - distances  # never -0.0
            if found == k and rows.min() >= 0:
                return best, view["ids"].take(rows)
        scores = np.full((len(q), k), np.inf if self.metric == "l2" else -np.inf, np.float32)
        ids = np.full((len(q), k), -1, np.int64)
        if found and len(q):
            hit = rows >= 0
            scores[:, :found][hit] = best[hit]
            ids[:, :found][hit] = view["ids"][rows[hit]]
        return scores, ids

    def range_search(
        self,
        queries: ArrayLike,
        score: float,
        *,
        ef: int | None = None,
        nprobe: int | None = None,
        filter: Filter = None,
    ) -> tuple[Ints, Floats, Ints]:
        """All items at least as good as `score` (for "l2": at most as far).

        Returns (starts [Q + 1], scores [R], ids [R]): query q has scores[starts[q] : starts[q + 1]], best first.
        Raises InputError.
        """
        q = self._prepare(queries, "queries")
        if isinstance(score, bool) or not isinstance(score, (int, float, np.number)) or np.isnan(score):
            raise InputError(f"score must be a number, not {score!r}")
        parts: list[tuple[Floats, Ints]] = []
        for one in q:  # widen the search until its worst result is beyond the limit
            k, enough = min(64, len(self) or 1), False
            while not enough:
                s, ids = self.search(
                    one[: self.dim], k, ef=None if ef is None else max(ef, k), nprobe=nprobe, filter=filter
                )
                good = (ids[0] != -1) & (s[0] <= score if self.metric == "l2" else s[0] >= score)
                enough, k = not good.all() or k >= len(self), min(4 * k, len(self) or 1)
            parts.append((s[0][good], ids[0][good]))
        starts = np.cumsum([0, *(len(p[1]) for p in parts)], dtype=np.int64)
        scores = np.concatenate([p[0] for p in parts] or [np.zeros(0, np.float32)])
        return starts, scores, np.concatenate([p[1] for p in parts] or [np.zeros(0, np.int64)])

    def reconstruct(self, ids: ArrayLike) -> Floats:
        """The stored vectors [n, dim] of some ids, as exact as `store` keeps them (of length one for cosine).

        Raises InputError.
        """
        with self._lock:
            wanted = np.atleast_1d(as_ids(ids)).astype(np.int64)
            rows, view = self._table.rows(wanted), self._view
        if (rows < 0).any():
            raise InputError(f"id {wanted[rows < 0][0]} is not in the index")
        return self._codec.decode(self._bytes(view, rows))

    def stats(self) -> dict[str, Any]:
        """Numbers about the index: items, rows of removed ones, bytes of each array in use."""
        view = self._view
        used = {
            name: int(a[: view.count].nbytes if name in self._columns() else a.nbytes)
            for name, a in view.arrays.items()
        }
        total = sum(used.values())
        return {
            "kind": self.kind, "items": len(self), "removed_rows": view.gone, "dim": self.dim, "metric": self.metric,
            "store": self.store, "bytes": used, "bytes_per_item": round(total / max(len(self), 1), 1),
        }  # fmt: skip

    # ------------------------------------------------------------------ files

    def save(self, path: str | Path) -> None:
        """Writes the index to one file, atomically and durably."""
        with self._lock:
            self.compact()
            write_snapshot(path, self.kind, self._arrays(), self._fields())

    @classmethod
    def load(cls, path: str | Path, mmap: bool = True) -> Self:
        """Reads what `save` wrote; every length, id and link is checked.

        mmap: leave arrays in the file until they are touched, and copy none; otherwise read them into memory.
        Raises FormatError.
        """
        arrays, fields = read_snapshot(path, cls.kind)
        try:
            notes = dict(fields.pop("notes"))
            index = cls._from({k: a if mmap else aligned_copy(a) for k, a in arrays.items()}, fields)
            index.notes = notes
            problems = index.check()
        except (AttributeError, KeyError, TypeError, ValueError, IndexError, OverflowError) as e:
            raise FormatError(f"{path} is damaged: {e}") from None
        if problems:
            raise FormatError(f"{path} is damaged: {problems[0]}")
        return index

    def check(self) -> list[str]:
        """What is wrong with the index, in words; empty if nothing is."""
        view, problems = self._view, []
        live = np.flatnonzero(view["live"])
        if len(self._table) != len(live) or (self._table.rows(view["ids"][live]) != live).any():
            problems.append("ids and rows do not correspond one to one")
        if view.count - len(live) != view.gone:
            problems.append("the number of removed rows is wrong")
        fault = self._codec.sound(self._bytes(view))
        return [*problems, fault] if fault else problems

    # ------------------------------------------------------------------ for subclasses

    def _columns(self) -> dict[str, tuple[Any, tuple[int, ...], Any]]:
        """name -> (dtype, shape of a row, what fills an unused row) of every array with a row for each item."""
        codec = self._codec
        return {
            "vectors": (codec.dtype, (codec.stride // codec.dtype.itemsize,), 0),
            "ids": (np.int64, (), -1),
            "live": (np.bool_, (), False),
        }

    def _link(self, first: int, last: int) -> None:
        """Rows first .. last - 1 hold new vectors: make them findable and `_publish` them."""
        self._publish(last)

    def _unlink(self, rows: Ints) -> None:
        """Called after rows were marked as removed."""

    def _answer(self, view: View, x: Floats, k: int, ef: int | None, nprobe: int | None) -> tuple[Floats, Ints] | None:
        """What `search` returns for float32 queries x [Q, dim] that nobody has looked at yet, k <= live, where a kernel
        does all of it; None: ask the long way."""
        return None

    def _search(
        self, view: View, queries: Floats, k: int, mask: NDArray[np.bool_], live: int, **breadth: int
    ) -> tuple[Floats, Ints]:
        """(distances, rows) [Q, k], sorted by (distance, id), rows with mask[row] alone; 1 <= k <= live, how many those
        are; row -1 where none was found."""
        raise TypeError(f"{type(self).__name__} cannot search")

    def _renumber(self) -> None:
        """Moves live rows together into new arrays."""
        view = self._view
        kept = np.flatnonzero(view["live"])
        arrays = {**view.arrays, **self._empty(len(kept))}
        for name in self._columns():
            arrays[name][:] = view[name][kept]
        facts = self._moved(view, arrays, kept)
        self._table = IdTable.of(arrays["ids"], np.arange(len(kept)))
        self._view = View(arrays, len(kept), 0, facts)

    def _moved(self, view: View, arrays: dict[str, Any], kept: Ints) -> dict[str, Any]:
        """Row kept[i] is about to become row i; `arrays` hold it there. Returns the new facts."""
        return view.facts

    def _publish(self, count: int, **facts: Any) -> None:
        """Lets readers see rows up to `count`; rows of the same ids before them are removed in the same moment."""
        view = self._view
        fresh = np.arange(view.count, count)
        ids = view.arrays["ids"][view.count : count]
        old = self._table.rows(ids)
        replaced = old[old >= 0]
        arrays = dict(view.arrays)
        if len(replaced):
            arrays["live"] = arrays["live"].copy()
            arrays["live"][replaced] = False
        arrays["live"][view.count : count] = True
        self._table.put(ids, fresh)
        self._view = replace(
            view, arrays=arrays, count=count, gone=view.gone + len(replaced), facts={**view.facts, **facts}
        )
        if len(replaced):
            self._unlink(replaced)

    def _append(self, x: Floats, ids: Ints) -> None:
        if not len(x):
            return
        first = self._view.count
        self._reserve(first + len(x))
        arrays = self._view.arrays
        vectors, codec = arrays["vectors"][first : first + len(x)], self._codec
        in_pieces(lambda a, b: np.copyto(vectors[a:b], codec.encode(x[a:b]).view(codec.dtype)), 0, len(x), 256, 1024)
        arrays["ids"][first : first + len(x)] = ids
        self._link(first, first + len(x))

    def _kill(self, rows: Ints) -> None:
        view = self._view
        live = view.arrays["live"].copy()
        live[rows] = False
        self._view = replace(view, arrays={**view.arrays, "live": live}, gone=view.gone + len(rows))
        self._unlink(rows)

    def _tidy(self) -> None:
        if self._view.gone > max(64, self._view.count // 2):
            self._renumber()

    def _reserve(self, count: int) -> None:
        """Room for `count` rows, doubling. Old arrays stay as they are for readers that hold them."""
        view = self._view
        if count <= len(view.arrays["ids"]):
            return
        arrays = {**view.arrays, **self._empty(max(count, 2 * view.count, 64))}
        for name in self._columns():
            arrays[name][: view.count] = view[name]
        self._view = replace(view, arrays=arrays)

    def _empty(self, capacity: int) -> dict[str, Any]:
        arrays = {name: aligned((capacity, *s), dtype) for name, (dtype, s, _) in self._columns().items()}
        for name, (_, _, fill) in self._columns().items():
            if fill:
                arrays[name][:] = fill
        return arrays

    def _bytes(self, view: View, rows: Any = slice(None)) -> NDArray[np.uint8]:
        """Stored rows as the codec and the kernels read them, uint8 [n, stride]."""
        return view["vectors"][rows].view(np.uint8)

    def _arrays(self) -> dict[str, Any]:
        return {name: self._view[name] for name in self._columns() if name != "live"}

    def _fields(self) -> dict[str, Any]:
        own = {"dim": self.dim, "metric": self.metric, "store": self.store, "fingerprint": self.fingerprint}
        return own | {"notes": self.notes}

    @classmethod
    def _from(cls, arrays: dict[str, Any], fields: dict[str, Any]) -> Self:
        """An index with these arrays, whose types and shapes are checked. Raises ValueError, KeyError."""
        index = cls(**fields)
        count = len(arrays["ids"])
        arrays["live"] = np.ones(count, bool)
        for name, (dtype, shape, _) in index._columns().items():
            a = arrays[name]
            if a.dtype != dtype or a.shape != (count, *shape):
                raise ValueError(f"{name} is {a.dtype}{list(a.shape)}, not {np.dtype(dtype)}{[count, *shape]}")
        if (arrays["ids"] == -1).any():
            raise ValueError("an id is -1")
        index._table = IdTable.of(arrays["ids"], np.arange(count))
        index._view = View(arrays, count)
        return index

    def _prepare(self, x: ArrayLike, name: str) -> Floats:
        """Checked, and of length one for cosine: [n, dim]."""
        a = as_vectors(x, self.dim, name=name)
        if self.metric == "cosine":
            unit = np.empty_like(a)
            in_pieces(lambda i, j: np.copyto(unit[i:j], unit_rows(a[i:j])), 0, len(a), 512, 1024)
            return unit
        if len(a) and np.abs(a).max() > 1e17:
            raise InputError(f"{name} hold a number beyond 1e17, whose products would overflow: scale them down")
        return a

    def _new_ids(self, n: int, ids: ArrayLike | Sequence[int] | None) -> Ints:
        if ids is None:
            return next_ids(max(int(self.ids.max()) + 1, 0) if len(self) else 0, n)
        return new_ids(ids, n, "vector")
