"""What every index promises, and the bookkeeping they share.

    add(vectors, ids=None)                    ids: any int64 but -1, each once; by default they count on
    search(queries, k) -> (scores, ids)       float32 and int64 [Q, k], best first, equal scores by smaller id
    save(path) / load(path)                   one checksummed file, replaced atomically
    len(index), id in index, reconstruct(ids)

Where fewer than k items are stored, the rest of a row is id -1. Scores: cosine and inner product ("ip"), larger is
better; "l2" is the squared Euclidean distance, smaller is better. Cosine of a zero vector with anything is 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike

from ..errors import FormatError, InputError
from ..shapes import Floats, Ints, as_vectors, unit_rows
from ..store.snapshot import read_snapshot, write_snapshot

METRICS = ("cosine", "ip", "l2")
LANES = 16  # rows are stored with zeros up to a multiple of this, the kernels' vector width


class Index:
    """Base of all indexes: rows of vectors with their ids. Subclasses add `_link` and `_search`."""

    kind: ClassVar[str]

    def __init__(self, dim: int, metric: str = "cosine", fingerprint: str = ""):
        if metric not in METRICS:
            raise InputError(f"metric {metric!r} is not one of {list(METRICS)}")
        self.dim, self.metric = whole("dim", dim, 1), metric
        self.fingerprint = fingerprint  # of the model that made the vectors; kept, never interpreted
        self.notes: dict[str, Any] = {}  # free JSON that travels with the file
        self._width = -(-self.dim // LANES) * LANES
        self._rows = np.zeros((0, self._width), np.float32)  # capacity; the first _count are in use
        self._ids = np.zeros(0, np.int64)
        self._count = 0
        self._row_of: dict[int, int] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(dim={self.dim}, metric={self.metric!r}, {len(self)} vectors)"

    def __len__(self) -> int:
        return self._count

    def __contains__(self, id: object) -> bool:
        return id in self._row_of

    @property
    def ids(self) -> Ints:
        """The stored ids in the order they were added, [N]."""
        return self._ids[: self._count].copy()

    @property
    def vectors(self) -> Floats:
        """The stored rows [N, width] as the kernels read them: padded, and of length one for cosine."""
        return self._rows[: self._count]

    def add(self, vectors: ArrayLike, ids: ArrayLike | Sequence[int] | None = None) -> Ints:
        """Stores vectors [n, dim] under `ids` [n]; returns the ids. After an InputError nothing was added."""
        rows = self._prepare(vectors, "vectors")
        new = self._new_ids(len(rows), ids)
        first = self._count
        self._reserve(first + len(rows))
        self._rows[first : first + len(rows)] = rows
        self._ids[first : first + len(rows)] = new
        self._count += len(rows)
        self._row_of.update(zip(new.tolist(), range(first, self._count), strict=True))
        if len(rows):
            self._link(first)
        return new

    def _forget_from(self, row: int) -> None:
        """Takes back rows from `row` on."""
        for i in self._ids[row : self._count].tolist():
            self._row_of.pop(i, None)
        self._count = row

    def search(self, queries: ArrayLike, k: int = 10, ef: int | None = None) -> tuple[Floats, Ints]:
        """The k best of each query [Q, dim] or [dim]: (scores [Q, k], ids [Q, k]). `ef`: breadth, for graphs.

        Raises InputError.
        """
        q, k, ef = self._prepare(queries, "queries"), whole("k", k, 1), ef if ef is None else whole("ef", ef, 1)
        scores = np.full((len(q), k), np.inf if self.metric == "l2" else -np.inf, np.float32)
        ids = np.full((len(q), k), -1, np.int64)
        found = min(k, self._count)
        if found and len(q):
            distances, rows = self._search(q, found, ef)
            hit = rows >= 0
            scores[:, :found][hit] = (distances if self.metric == "l2" else -distances)[hit]
            ids[:, :found][hit] = self._ids[rows[hit]]
        return scores + 0.0, ids  # -0.0 becomes 0.0

    def reconstruct(self, ids: ArrayLike) -> Floats:
        """The stored vectors [n, dim] of some ids (scaled to length one for cosine). Raises InputError."""
        wanted = np.atleast_1d(_as_ids(ids)).tolist()
        missing = [i for i in wanted if i not in self._row_of]
        if missing:
            raise InputError(f"id {missing[0]} is not in the index")
        return self._rows[[self._row_of[i] for i in wanted], : self.dim]

    def save(self, path: str | Path) -> None:
        """Writes the index to one file, atomically and durably."""
        write_snapshot(path, self.kind, self._arrays(), self._fields())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote; every length, id and link is checked. Raises FormatError."""
        arrays, fields = read_snapshot(path, cls.kind)
        try:
            notes = dict(fields.pop("notes"))
            index = cls._from(arrays, fields)
            index.notes = notes
            problems = index.check()
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as e:
            raise FormatError(f"{path} is damaged: {e}") from None
        if problems:
            raise FormatError(f"{path} is damaged: {problems[0]}")
        return index

    def check(self) -> list[str]:
        """What is wrong with the index, in words; empty if nothing is."""
        problems = []
        ids = self._ids[: self._count]
        if len(self._row_of) != self._count or any(self._row_of.get(i) != r for r, i in enumerate(ids.tolist())):
            problems.append("ids and rows do not correspond one to one")
        if not np.isfinite(self.vectors).all():
            problems.append("a stored vector is not finite")
        if self.vectors[:, self.dim :].any():
            problems.append("the padding of a stored vector is not zero")
        return problems

    def _link(self, first: int) -> None:
        """Called after rows from `first` on were stored."""

    def _search(self, queries: Floats, k: int, ef: int | None) -> tuple[Floats, Ints]:
        """(distances, rows) [Q, k], 1 <= k <= N, sorted by (distance, id); row -1 where none was found."""
        raise TypeError(f"{type(self).__name__} cannot search")

    def _arrays(self) -> dict[str, Any]:
        return {"vectors": self.vectors, "ids": self._ids[: self._count]}

    def _fields(self) -> dict[str, Any]:
        return {"dim": self.dim, "metric": self.metric, "fingerprint": self.fingerprint, "notes": self.notes}

    @classmethod
    def _from(cls, arrays: dict[str, Any], fields: dict[str, Any]) -> Self:
        index = cls(**fields)
        index._adopt(arrays["vectors"], arrays["ids"])
        return index

    def _adopt(self, rows: Floats, ids: Ints) -> None:
        """Take stored arrays as they are."""
        if rows.dtype != np.float32 or ids.dtype != np.int64 or rows.shape != (len(ids), self._width):
            raise ValueError(f"vectors {rows.dtype}{list(rows.shape)} and ids {ids.dtype}{list(ids.shape)} do not fit")
        if (ids == -1).any():
            raise ValueError("an id is -1")
        self._rows, self._ids, self._count = rows, ids, len(ids)
        self._row_of = dict(zip(ids.tolist(), range(len(ids)), strict=True))

    def _prepare(self, x: ArrayLike, name: str) -> Floats:
        """Checked, normalized for cosine, padded: [n, width]."""
        a = as_vectors(x, self.dim, name=name)
        if self.metric == "cosine":
            a = unit_rows(a)
        elif len(a) and np.abs(a).max() > 1e17:
            raise InputError(f"{name} hold a number beyond 1e17, whose products would overflow: scale them down")
        padded = np.zeros((len(a), self._width), np.float32)
        padded[:, : self.dim] = a
        return padded

    def _new_ids(self, n: int, ids: ArrayLike | Sequence[int] | None) -> Ints:
        if ids is None:
            first = max(int(self._ids[: self._count].max()) + 1, 0) if self._count else 0
            if first + n > 2**63 - 1:
                raise InputError("the largest id leaves no room to count on: pass ids")
            return np.arange(first, first + n, dtype=np.int64)
        raw = _as_ids(ids)
        if raw.shape != (n,):
            raise InputError(f"ids must be {n} whole numbers, one for each vector, not an array {list(raw.shape)}")
        new = raw.astype(np.int64)
        if (new == -1).any() or (raw.dtype.kind == "u" and (new < 0).any()):
            raise InputError("ids must be int64 and not -1, which stands for 'none'")
        values, counts = np.unique(new, return_counts=True)
        if (counts > 1).any():
            raise InputError(f"id {values[counts > 1][0]} is given twice")
        for i in new.tolist():
            if i in self._row_of:
                raise InputError(f"id {i} is already in the index")
        return new

    def _reserve(self, count: int) -> None:
        """Room for `count` rows, doubling; rows of a mapped file are copied when the first is added."""
        if count <= len(self._rows):
            return
        capacity = max(count, 2 * self._count, 64)
        self._rows = _grown(self._rows[: self._count], capacity)
        self._ids = _grown(self._ids[: self._count], capacity)


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """`value` as an int within bounds. Raises InputError."""
    bounds = "" if least is None else f" of at least {least}" if most is None else f" from {least} to {most}"
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InputError(f"{name} must be a whole number{bounds}, not {value!r}")
    if (least is not None and value < least) or (most is not None and value > most):
        raise InputError(f"{name} must be a whole number{bounds}, not {value}")
    return int(value)


def _as_ids(ids: ArrayLike | Sequence[int]) -> Any:
    """An integer array; one of no elements may come in any type. Raises InputError."""
    try:
        raw = np.asarray(ids)
    except ValueError:
        raise InputError("ids must be a plain list of whole numbers, not a ragged one") from None
    if raw.size and (raw.dtype.kind not in "iu" or raw.ndim > 1):
        raise InputError(f"ids must be whole numbers in one row, not {raw.dtype} {list(raw.shape)}")
    return raw if raw.size else np.zeros(raw.shape, np.int64)


def _grown(a: Any, capacity: int, fill: int = 0) -> Any:
    """A copy of `a` with room for `capacity` rows."""
    bigger = np.full((capacity, *a.shape[1:]), fill, a.dtype)
    bigger[: len(a)] = a
    return bigger
