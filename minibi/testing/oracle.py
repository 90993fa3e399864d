"""The slow oracle: a dictionary of vectors, scores in float64, nothing clever. It keeps the whole index contract.

Vectors are rounded to float32 when they come in, as every index does; all arithmetic after that is in float64, so its
scores are right to some sixteen digits. Cosine of a zero vector with anything is 0. Equal scores: smaller id first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..shapes import Floats, Ints, as_vectors

Doubles = NDArray[np.float64]
METRICS = ("cosine", "ip", "l2")


def exact_scores(queries: ArrayLike, vectors: ArrayLike, metric: str) -> Doubles:
    """Scores [Q, N] in float64 of queries [Q, dim] with vectors [N, dim]; for "l2" the squared distances."""
    q, x = np.asarray(queries, np.float64), np.asarray(vectors, np.float64)
    if metric == "l2":
        return np.square(q[:, None] - x[None]).sum(axis=2)
    return (_unit(q) @ _unit(x).T if metric == "cosine" else q @ x.T) + 0.0


def _unit(x: Doubles) -> Doubles:
    largest = np.abs(x).max(axis=1, keepdims=True, initial=0)
    x = x / np.where(largest > 0, largest, 1)  # so that no square overflows or vanishes
    norm = np.sqrt(np.square(x).sum(axis=1, keepdims=True))
    return x / np.where(norm > 0, norm, 1)


def best_first(scores: Doubles, ids: Ints, metric: str) -> Ints:
    """The order [N] of one row of scores: best first, equal ones by id."""
    return np.lexsort((ids, scores if metric == "l2" else -scores))


class Oracle:
    """An exact index of few vectors. dim: their width; metric: "cosine", "ip" or "l2".

    `vectors` is the whole state: id -> float64 [dim], in the order of adding (an upsert moves its id to the end).
    """

    def __init__(self, dim: int, metric: str = "cosine"):
        if isinstance(dim, bool) or not isinstance(dim, (int, np.integer)) or dim < 1:
            raise InputError(f"dim must be a whole number of at least 1, not {dim!r}")
        if metric not in METRICS:
            raise InputError(f"metric {metric!r} is not one of {list(METRICS)}")
        self.dim, self.metric = int(dim), metric
        self.vectors: dict[int, Doubles] = {}

    def __len__(self) -> int:
        return len(self.vectors)

    def __contains__(self, id: object) -> bool:
        return id in self.vectors

    @property
    def ids(self) -> Ints:
        """The stored ids in the order they were added, [N]."""
        return np.array(list(self.vectors), np.int64)

    def copy(self) -> Oracle:
        """Another oracle with the same vectors."""
        twin = Oracle(self.dim, self.metric)
        twin.vectors = dict(self.vectors)
        return twin

    def add(self, vectors: ArrayLike, ids: ArrayLike | Sequence[int] | None = None) -> Ints:
        """Stores vectors [n, dim] under new ids [n], by default counting on. Raises InputError."""
        x = as_vectors(vectors, self.dim)
        if ids is None:
            first = max(max(self.vectors, default=-1) + 1, 0)
            if first + len(x) >= 2**63:
                raise InputError("the largest id leaves no room to count on: pass ids")
            ids = np.arange(first, first + len(x))
        new = self._checked(ids, len(x))
        for id in new:
            if id in self.vectors:
                raise InputError(f"id {id} is already in the index: upsert replaces a vector")
        self._put(x, new)
        return np.array(new, np.int64)

    def upsert(self, vectors: ArrayLike, ids: ArrayLike | Sequence[int]) -> Ints:
        """Like `add`, but a known id gets the new vector instead of the old."""
        x = as_vectors(vectors, self.dim)
        new = self._checked(ids, len(x))
        self._put(x, new)
        return np.array(new, np.int64)

    def remove(self, ids: ArrayLike | Sequence[int]) -> None:
        """Forgets these ids. Raises InputError if one is not there; then nothing was removed."""
        gone = set(_integers(ids).tolist())
        for id in gone:
            if id not in self.vectors:
                raise InputError(f"id {id} is not in the index")
        for id in gone:
            del self.vectors[id]

    def reconstruct(self, ids: ArrayLike) -> Floats:
        """The vectors [n, dim], for cosine of length one. Raises InputError."""
        wanted = _integers(ids).reshape(-1).tolist()
        if missing := [id for id in wanted if id not in self.vectors]:
            raise InputError(f"id {missing[0]} is not in the index")
        x = np.array([self.vectors[id] for id in wanted], np.float64).reshape(-1, self.dim)
        return (_unit(x) if self.metric == "cosine" else x).astype(np.float32)

    def allowed(self, filter: Any) -> Ints:
        """The ids [n] that pass a filter: None, ids, booleans parallel to `ids`, or a function of ids."""
        ids = self.ids
        if filter is None:
            return ids
        given = filter(ids) if callable(filter) else filter
        given = given if isinstance(given, np.ndarray) else np.asarray(list(given))
        if given.dtype == bool:
            return ids[given]
        wanted = set(given.tolist())
        return np.array([id for id in ids.tolist() if id in wanted], np.int64)

    def scores(self, queries: ArrayLike, ids: Iterable[int]) -> Doubles:
        """Exact scores [Q, n] of queries [Q, dim] with the vectors of some ids [n]."""
        x = np.array([self.vectors[id] for id in ids], np.float64).reshape(-1, self.dim)
        return exact_scores(as_vectors(queries, self.dim, name="queries"), x, self.metric)

    def search(self, queries: ArrayLike, k: int = 10, *, filter: Any = None, **breadth: Any) -> tuple[Floats, Ints]:
        """The k best: (scores float32 [Q, k], ids int64 [Q, k]), short rows filled up with -1. Raises InputError."""
        if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or k < 1:
            raise InputError(f"k must be a whole number of at least 1, not {k!r}")
        ids = self.allowed(filter)
        exact = self.scores(queries, ids.tolist())
        scores = np.full((len(exact), k), np.inf if self.metric == "l2" else -np.inf, np.float32)
        found = np.full((len(exact), k), -1, np.int64)
        for q, row in enumerate(exact):
            order = best_first(row.astype(np.float32), ids, self.metric)[:k]  # ties are those of what is returned
            scores[q, : len(order)], found[q, : len(order)] = row[order], ids[order]
        return scores + 0.0, found

    def range_search(
        self, queries: ArrayLike, score: float, *, filter: Any = None, **breadth: Any
    ) -> tuple[Ints, Floats, Ints]:
        """All at least as good as `score`: (starts [Q + 1], scores [R], ids [R]), each query's best first."""
        scores, ids = self.search(queries, max(len(self), 1), filter=filter)
        good = (ids >= 0) | (ids < -1)
        good &= scores <= score if self.metric == "l2" else scores >= score
        return np.concatenate([[0], np.cumsum(good.sum(axis=1))]).astype(np.int64), scores[good], ids[good]

    def compact(self) -> None:
        """There is nothing to give back."""

    def check(self) -> list[str]:
        """What is wrong: nothing, ever."""
        return []

    def _put(self, x: Floats, ids: list[int]) -> None:
        for id, vector in zip(ids, x.astype(np.float64), strict=True):
            self.vectors.pop(id, None)
            self.vectors[id] = vector

    def _checked(self, ids: ArrayLike | Sequence[int], n: int) -> list[int]:
        new = _integers(ids)
        if new.shape != (n,):
            raise InputError(f"ids must be {n} whole numbers, one for each vector, not an array {list(new.shape)}")
        if (new == -1).any() or (new.dtype.kind == "u" and (new >= 2**63).any()):
            raise InputError("ids must be int64 and not -1, which stands for 'none'")
        seen: set[int] = set()
        for id in new.tolist():
            if id in seen:
                raise InputError(f"id {id} is given twice")
            seen.add(id)
        return new.tolist()


def _integers(ids: ArrayLike | Sequence[int]) -> Any:
    try:
        raw = np.asarray(ids)
    except (ValueError, OverflowError):
        raise InputError("ids must be a plain list of whole numbers") from None
    if raw.size and (raw.dtype.kind not in "iu" or raw.ndim > 1):
        raise InputError(f"ids must be whole numbers in one row, not {raw.dtype} {list(raw.shape)}")
    return raw if raw.size else np.zeros(raw.shape, np.int64)


Maker = Callable[[int, str], Any]
