"""MultiVectorIndex: documents of many vectors each, scored by MaxSim: for each query vector its best match, summed.

    index = MultiVectorIndex(128, storage="residual", nbits=2)
    index.add(model.encode_document(texts))                 # a Ragged, or a list of matrices [tokens, dim]
    scores, ids = index.search(model.encode_query(queries), k=10)

Kept as float32, float16 or bytes, every document is scored. Kept as residuals of centroids (ColBERTv2, Santhanam et al.
2022), 128 dimensions take 34 bytes, and a search in the manner of PLAID (same authors) looks at some documents only:

    1  the nprobe centroids best for each query vector; documents that have a vector near one of them
    2  their scores with every vector taken for its centroid; the `depth` best
    3  their scores with vectors decoded

With nprobe = the number of centroids and depth = the number of documents that is exact, too. After any adds and removes
the index answers as one built anew with the same codec. Equal scores go to the smaller id. Any number of threads may
search while one changes the index, and the number of threads changes no bit of a score.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import int64_ids, new_ids, next_ids, whole
from ..errors import FormatError, InputError
from ..ragged import Ragged, as_ragged
from ..shapes import Floats, Ints, unit_rows
from ..store.snapshot import read_snapshot, write_snapshot
from .multi_vector_search import Filter, Lists, View, best, build_lists, candidates, filtered, score
from .residual import NBITS, ResidualCodec
from .token_codes import STORAGES, ByteCodes, Floating, Residuals, Storage, TokenCodes

METRICS = ("cosine", "ip")
TAIL = 32_768  # tokens that may wait outside the inverted lists
NPROBE, LEAST_DEPTH = 2, 256


class MultiVectorIndex:
    """Documents as sets of vectors of `dim` numbers.

    metric: "cosine" (vectors are scaled to length one) or "ip". storage: "float32", "float16", "int8" (a byte per
    dimension and a scale per vector) or "residual" (nbits 1, 2 or 4 per dimension). n_centroids, seed: of a residual
    codec, which the first `add` learns from what it is given, if `train` has not before, or `codec` is given: another
    index's, to answer as that one does. fingerprint: of the model that made the vectors; kept, never interpreted.
    A document without vectors is kept, scores -inf and is never found.
    """

    kind: ClassVar[str] = "multi-vector-index"

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        *,
        storage: Storage = "float32",
        nbits: int = 2,
        n_centroids: int | None = None,
        codec: ResidualCodec | None = None,
        seed: int = 0,
        fingerprint: str = "",
    ):
        if metric not in METRICS:
            raise InputError(f"metric {metric!r} is not one of {list(METRICS)}")
        if storage not in STORAGES:
            raise InputError(f"storage {storage!r} is not one of {list(STORAGES)}")
        self.dim, self.metric, self.storage = whole("dim", dim, 1), metric, storage
        self.seed, self.fingerprint = whole("seed", seed, 0), fingerprint
        self.notes: dict[str, Any] = {}  # free JSON that travels with the file
        self.nbits, self.n_centroids = nbits, n_centroids
        if nbits not in NBITS or isinstance(nbits, bool):
            raise InputError(f"nbits must be one of {list(NBITS)}, not {nbits!r}")
        if n_centroids is not None:
            self.n_centroids = whole("n_centroids", n_centroids, 1)
        self._lock = threading.RLock()
        self._codes: TokenCodes | None = None
        if storage == "int8":
            self._codes = ByteCodes(self.dim)
        elif storage != "residual":
            self._codes = Floating(self.dim, storage == "float16")
        elif codec is not None:
            if codec.dim != self.dim or codec.unit != (metric == "cosine"):
                raise InputError(f"the codec is for {codec.dim} dimensions, unit={codec.unit}: it does not fit")
            self._codes = Residuals(codec)
            self.nbits, self.n_centroids = codec.nbits, len(codec.centroids)
        if codec is not None and storage != "residual":
            raise InputError(f"a codec is for storage 'residual', not {storage!r}")
        self._clear()

    def _clear(self) -> None:
        self._columns: dict[str, NDArray] = {}
        self._starts, self._lengths, self._ids = (np.zeros(0, np.int64) for _ in range(3))
        self._alive = np.zeros(0, bool)
        self._rows = self._tokens = self._dead = 0  # in use, of the capacity of the arrays; tokens of removed documents
        self._row_of: dict[int, int] = {}
        self._lists: Lists | None = None

    def __repr__(self) -> str:
        kept = f"{self.storage}, {self.nbits} bits" if self.storage == "residual" else self.storage
        return f"MultiVectorIndex(dim={self.dim}, metric={self.metric!r}, {kept}, {len(self)} documents)"

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, id: object) -> bool:
        return id in self._row_of

    @property
    def ids(self) -> Ints:
        """The stored ids in the order they were added, [N]."""
        return np.array(list(self._row_of), np.int64)

    @property
    def codec(self) -> ResidualCodec | None:
        """The residual codec, once there is one."""
        return self._codes.codec if isinstance(self._codes, Residuals) else None

    def train(self, tokens: Any, iterations: int = 4) -> None:
        """Learns the residual codec from sample vectors. Raises InputError if there is one already, or none needed."""
        if self.storage != "residual" or self._codes is not None:
            raise InputError("only an empty index with storage='residual' and without a codec can be trained")
        self._codes = self._trained(self._checked(tokens, "sample vectors").vectors, iterations)

    def _trained(self, vectors: Floats, iterations: int = 4) -> Residuals:
        unit = self.metric == "cosine"
        codec = ResidualCodec.train(
            vectors, self.n_centroids, self.nbits, unit=unit, iterations=iterations, seed=self.seed
        )
        return Residuals(codec)

    def add(self, tokens: Any, ids: ArrayLike | Sequence[int] | None = None) -> Ints:
        """Stores documents (a Ragged, or a list of matrices [tokens, dim]) under `ids`, by default counted on.

        Returns the ids. Raises InputError, after which nothing was added.
        """
        documents = self._checked(tokens, "documents")
        with self._lock:
            new = self._new_ids(len(documents), ids)
            for i in new.tolist():
                if i in self._row_of:
                    raise InputError(f"id {i} is already in the index: use upsert to replace it")
            self._append(documents, new)
        return new

    def upsert(self, tokens: Any, ids: ArrayLike | Sequence[int]) -> Ints:
        """`add`, but documents whose id is already there are replaced. Raises InputError."""
        documents = self._checked(tokens, "documents")
        with self._lock:
            new = self._new_ids(len(documents), ids)
            self._append(documents, new, replace=True)
        return new

    def remove(self, ids: ArrayLike | Sequence[int]) -> int:
        """Removes documents; returns how many there were. Ids that are not in the index are passed over."""
        with self._lock:
            return self._forget(int64_ids(ids).tolist())

    def search(
        self, queries: Any, k: int = 10, *, nprobe: int | None = None, depth: int | None = None, filter: Filter = None
    ) -> tuple[Floats, Ints]:
        """The k best documents of each query: (scores [Q, k], ids [Q, k]), best first; behind the last -inf and -1.

        queries: a Ragged, a list of matrices [tokens, dim], or one matrix. nprobe: centroids per query vector (default
        2); depth: documents scored in full (default 256, and never less than 4 k). Both matter to residuals alone; as
        many documents as there are, up to k, are found in any case. filter: the ids that may be found, or a function
        of an array of ids that returns booleans. Raises InputError.
        """
        k = whole("k", k, 1)
        nprobe = NPROBE if nprobe is None else whole("nprobe", nprobe, 1)
        depth = max(k, max(LEAST_DEPTH, 4 * k) if depth is None else whole("depth", depth, 1))
        asked = self._queries(queries)
        scores = np.full((len(asked), k), -np.inf, np.float32)
        ids = np.full((len(asked), k), -1, np.int64)
        view = filtered(self._view(), filter)
        for i, query in enumerate(asked):
            if not view.alive.any():
                break
            if isinstance(self._codes, Residuals):
                rows = candidates(view, self._codes, query, k, nprobe, depth)
            else:
                rows = np.flatnonzero(view.alive)
            found = score(view, self._codes.scorer(query), rows)
            order = best(found, view.ids[rows], k)
            scores[i, : len(order)], ids[i, : len(order)] = found[order], view.ids[rows[order]]
        return scores + 0.0, ids

    def score(self, queries: Any, ids: ArrayLike | Sequence[int]) -> Floats:
        """Scores [Q, n] of queries with stored documents `ids` [n], or [Q, n] others for each query: to rerank.

        Raises InputError for an unknown id.
        """
        asked, wanted = self._queries(queries), np.asarray(ids)
        if wanted.ndim == 2 and len(wanted) != len(asked):
            raise InputError(f"ids must be one row, or one row for each of the {len(asked)} queries")
        table = np.broadcast_to(int64_ids(wanted, ndim=2), (len(asked), wanted.shape[-1] if wanted.ndim else 1))
        with self._lock:
            rows, view = self._known(table.reshape(-1)).reshape(table.shape), self._view()
        out = np.full(table.shape, -np.inf, np.float32)
        for i, query in enumerate(asked):
            if rows.size and view.lengths[rows[i]].any():
                out[i] = score(view, self._codes.scorer(query), rows[i])
        return out + 0.0

    def reconstruct(self, ids: ArrayLike | Sequence[int]) -> Ragged:
        """The vectors of stored documents as they are scored (for cosine of length one). Raises InputError."""
        with self._lock:
            rows, view = self._known(int64_ids(ids)), self._view()
        bounds = np.concatenate([[0], np.cumsum(view.lengths[rows])]).astype(np.int64)
        if not bounds[-1]:
            return Ragged(np.zeros((0, self.dim), np.float32), bounds)
        at = np.repeat(view.starts[rows] - bounds[:-1], view.lengths[rows]) + np.arange(bounds[-1])
        return Ragged(self._codes.decode({name: a[at] for name, a in view.columns.items()}), bounds)

    def stats(self) -> dict[str, Any]:
        """Sizes: documents, tokens, bytes_per_token (vectors and inverted lists), and what removed documents hold."""
        with self._lock:
            view, live = self._view(), self._tokens - self._dead
            size = sum(a[:1].nbytes for a in view.columns.values()) * live
            lists = view.lists.rows.nbytes if view.lists else 0
            return {
                "documents": len(self), "tokens": live, "dim": self.dim, "metric": self.metric,
                "storage": self.storage, "nbits": self.nbits if self.storage == "residual" else None,
                "centroids": len(self.codec.centroids) if self.codec else 0, "token_bytes": size, "list_bytes": lists,
                "bytes_per_token": (size + lists) / max(1, live), "removed_tokens": self._dead,
            }  # fmt: skip

    def save(self, path: str | Path) -> None:
        """Writes the index to one file, atomically and durably. Inverted lists are not written: they are derived."""
        with self._lock:
            if self._dead or len(self) < self._rows:
                self._compact()
            view = self._view()
            fields = {name: getattr(self, name) for name in _FIELDS}
            arrays = {"ids": view.ids, "lengths": view.lengths, **view.columns}
            if self.codec:
                arrays |= {"centroids": self.codec.centroids, "weights": self.codec.weights}
            write_snapshot(path, self.kind, arrays, fields)

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Reads what `save` wrote; every length, id and code is checked. Raises FormatError."""
        from .multi_vector_file import restore  # checks, apart from what they check

        arrays, fields = read_snapshot(path, cls.kind)
        try:
            return restore(cls, arrays, fields)
        except (KeyError, TypeError, ValueError, IndexError, OverflowError) as e:
            raise FormatError(f"{path} is damaged: {e}") from None

    def check(self) -> list[str]:
        """What is wrong with the index, in words; empty if nothing is."""
        from .multi_vector_file import problems

        with self._lock:
            return problems(self)

    def _checked(self, tokens: Any, name: str) -> Ragged:
        given = as_ragged(tokens, self.dim, name=name)
        if self.metric == "cosine":
            return Ragged(unit_rows(given.vectors), given.starts)
        if given.vectors.size and np.abs(given.vectors).max() > 1e17:
            raise InputError(f"{name} hold a number beyond 1e17, whose products would overflow: scale them down")
        return given

    def _queries(self, queries: Any) -> Ragged:
        asked = self._checked(queries, "queries")
        if len(asked) and asked.lengths.min() == 0:
            raise InputError(f"query number {int(np.argmin(asked.lengths))} has no vectors, so nothing can match it")
        return asked

    def _new_ids(self, n: int, ids: ArrayLike | Sequence[int] | None) -> Ints:
        if ids is None:
            return next_ids(max(0, max(self._row_of, default=-1) + 1), n)
        return new_ids(ids, n, "document")

    def _append(self, documents: Ragged, ids: Ints, replace: bool = False) -> None:
        vectors, lengths = documents.vectors, documents.lengths
        codes = self._codes
        if codes is None and len(vectors):
            codes = self._trained(vectors)
        encoded = codes.encode(vectors) if codes is not None else {}
        if replace:
            self._forget(ids.tolist())
        rows, tokens = self._rows + len(ids), self._tokens + len(vectors)
        self._codes = codes
        if codes is not None and not self._columns:
            self._columns = {name: np.zeros((0, *shape), dtype) for name, (dtype, shape) in codes.columns().items()}
        for name, values in encoded.items():
            self._columns[name] = _with(self._columns[name], self._tokens, values)
        self._starts = _with(self._starts, self._rows, self._tokens + documents.starts[:-1])
        self._lengths = _with(self._lengths, self._rows, lengths)
        self._ids = _with(self._ids, self._rows, ids)
        self._alive = _with(self._alive, self._rows, lengths > 0)
        self._row_of.update(zip(ids.tolist(), range(self._rows, rows), strict=True))
        self._rows, self._tokens = rows, tokens

    def _forget(self, ids: list[int]) -> int:
        rows = [row for i in ids if (row := self._row_of.pop(i, None)) is not None]
        self._alive[rows] = False
        self._dead += int(self._lengths[rows].sum())
        if self._dead > max(TAIL, self._tokens // 2) or self._rows > 2 * len(self) + 1024:
            self._compact()
        return len(rows)

    def _compact(self) -> None:
        """Lays what is left end to end, in new arrays: a search under way still has the old ones."""
        rows = np.array(list(self._row_of.values()), np.int64)  # rising: a document is added behind all others
        lengths, ids = self._lengths[rows], self._ids[rows]
        bounds = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        at = np.repeat(self._starts[rows] - bounds[:-1], lengths) + np.arange(bounds[-1])
        columns = {name: a[at] for name, a in self._columns.items()}
        self._clear()
        self._adopt(columns, ids, lengths)

    def _adopt(self, columns: dict[str, NDArray], ids: Ints, lengths: Ints) -> None:
        """Takes arrays as they are."""
        self._columns, self._ids, self._lengths = columns, ids, lengths
        self._rows, self._tokens, self._dead = len(ids), int(lengths.sum()), 0
        self._starts = np.cumsum(lengths) - lengths
        self._alive = lengths > 0
        self._row_of = dict(zip(ids.tolist(), range(len(ids)), strict=True))

    def _known(self, ids: Ints) -> Ints:
        missing = [i for i in ids.tolist() if i not in self._row_of]
        if missing:
            raise InputError(f"id {missing[0]} is not in the index")
        return np.array([self._row_of[i] for i in ids.tolist()], np.int64)

    def _view(self) -> View:
        with self._lock:
            n, t = self._rows, self._tokens
            if isinstance(self._codes, Residuals) and t:
                covered = self._lists.count if self._lists else 0
                if covered < n and t - int(self._starts[covered]) > max(TAIL if covered else 0, t // 4):
                    centroids = len(self._codes.codec.centroids)
                    self._lists = build_lists(self._columns["cells"][:t], self._lengths[:n], centroids)
            columns = {name: a[:t] for name, a in self._columns.items()}
            alive = self._alive[:n].copy()
            return View(columns, self._starts[:n], self._lengths[:n], self._ids[:n], alive, self._lists)


_FIELDS = ("dim", "metric", "storage", "nbits", "n_centroids", "seed", "fingerprint", "notes")


def _with(a: NDArray, used: int, values: NDArray) -> NDArray:
    """`a` with `values` behind its first `used` rows; where there is no room, a copy of twice the size."""
    needed = used + len(values)
    if needed > len(a):
        bigger = np.zeros((max(needed, 2 * used, 64), *a.shape[1:]), a.dtype)
        bigger[:used] = a[:used]
        a = bigger
    a[used:needed] = values
    return a
