"""hnswlib and faiss in the form that a `Subject` takes. They translate and repair nothing: what a library does not
promise shows. The caller hands in the module, so minibi depends on neither.

    HnswlibAdapter(hnswlib, dim, "l2", M=16)
    FaissAdapter(faiss, faiss.IndexFlatL2(dim), "l2")

Scores are turned into minibi's: larger is better for cosine and "ip", the squared distance for "l2". `graph_of` shows
the lowest layer of a HNSWIndex for `graph_report`.
"""

from __future__ import annotations

from copy import copy
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from ..index.filters import allowed
from ..index.hnsw import HNSWIndex
from ..shapes import Floats, Ints


def _wanted(filter: Any, ids: Ints) -> Ints:
    """The ids that a filter lets pass, in any of the forms the contract names."""
    return ids[allowed(filter, ids, np.ones(len(ids), bool))]


class HnswlibAdapter:
    """hnswlib.Index, grown as needed. Deleting is marking; an added id that is known is overwritten."""

    def __init__(self, hnswlib: Any, dim: int, metric: str, *, M: int = 16, ef_construction: int = 200, ef: int = 64):
        self._hnswlib, self.dim, self.metric = hnswlib, dim, metric
        self._settings = {"M": M, "ef_construction": ef_construction}
        self._ef, self._gone = ef, set[int]()
        self._index = hnswlib.Index(space=metric, dim=dim)
        self._index.init_index(16, random_seed=0, **self._settings)
        self._index.set_ef(ef)

    def __len__(self) -> int:
        return self._index.get_current_count() - len(self._gone)

    @property
    def ids(self) -> Ints:
        known = np.array(self._index.get_ids_list(), np.uint64).astype(np.int64)
        return known[~np.isin(known, list(self._gone))] if self._gone else known

    def __contains__(self, id: object) -> bool:
        return id in self.ids.tolist()

    def add(self, vectors: ArrayLike, ids: Any = None) -> Any:
        n = len(vectors) if np.ndim(vectors) > 1 else 1  # type: ignore[arg-type]
        needed = self._index.get_current_count() + n
        if needed > self._index.get_max_elements():
            self._index.resize_index(2 * needed)
        self._index.add_items(vectors, None if ids is None else np.asarray(ids, np.int64).astype(np.uint64))
        self._gone -= set([] if ids is None else np.asarray(ids).tolist())
        return ids

    upsert = add

    def remove(self, ids: Any) -> None:
        for id in np.asarray(ids, np.int64).tolist():
            self._index.mark_deleted(id % 2**64)
            self._gone.add(id)

    def search(self, queries: ArrayLike, k: int = 10, *, filter: Any = None, ef: int | None = None) -> Any:
        self._index.set_ef(max(ef or self._ef, k))
        chosen = {}
        if filter is not None:
            passing = set(_wanted(filter, self.ids).tolist())
            chosen["filter"] = lambda id: id in passing
        labels, distances = self._index.knn_query(queries, k, num_threads=1, **chosen)
        scores = distances if self.metric == "l2" else 1 - distances
        return scores.astype(np.float32), labels.astype(np.int64)

    def reconstruct(self, ids: Any) -> Floats:
        return np.array(self._index.get_items(np.asarray(ids, np.int64).astype(np.uint64)), np.float32)

    def save(self, path: str | Path) -> None:
        self._index.save_index(str(path))

    def load(self, path: str | Path) -> Self:
        """A new adapter over a saved index of the same settings."""
        other = type(self)(self._hnswlib, self.dim, self.metric, ef=self._ef, **self._settings)
        other._index = self._hnswlib.Index(space=self.metric, dim=self.dim)
        other._index.load_index(str(path))
        other._gone = set(self._gone)
        return other


class FaissAdapter:
    """A faiss index with ids (IndexIDMap2), for any index that is trained. For cosine, rows are scaled to length 1."""

    def __init__(self, faiss: Any, index: Any, metric: str):
        self._faiss, self.dim, self.metric = faiss, index.d, metric
        self._inner = index
        self._index = faiss.IndexIDMap2(index)

    def __len__(self) -> int:
        return self._index.ntotal

    @property
    def ids(self) -> Ints:
        return self._faiss.vector_to_array(self._index.id_map).astype(np.int64)

    def __contains__(self, id: object) -> bool:
        return id in self.ids.tolist()

    def _rows(self, x: ArrayLike) -> Any:
        rows = np.ascontiguousarray(x, np.float32)
        if self.metric == "cosine":
            rows = rows.copy()
            self._faiss.normalize_L2(rows)
        return rows

    def add(self, vectors: ArrayLike, ids: Any = None) -> Any:
        self._index.add_with_ids(self._rows(vectors), np.asarray(ids, np.int64))
        return ids

    def upsert(self, vectors: ArrayLike, ids: Any) -> Any:
        self.remove(ids)
        return self.add(vectors, ids)

    def remove(self, ids: Any) -> None:
        self._index.remove_ids(np.asarray(ids, np.int64))

    def search(self, queries: ArrayLike, k: int = 10, *, filter: Any = None, ef: int | None = None) -> Any:
        faiss, chosen = self._faiss, {}
        if filter is not None:
            chosen["sel"] = faiss.IDSelectorBatch(_wanted(filter, self.ids))
        if ef is not None and hasattr(self._inner, "hnsw"):
            chosen["efSearch"] = max(ef, k)
            parameters = faiss.SearchParametersHNSW(**chosen)
        else:
            parameters = faiss.SearchParameters(**chosen) if chosen else None
        scores, ids = self._index.search(self._rows(queries), k, params=parameters)
        return scores, ids

    def range_search(self, queries: ArrayLike, score: float, **options: Any) -> Any:
        starts, scores, ids = self._index.range_search(self._rows(queries), score)
        return starts.astype(np.int64), scores, ids

    def reconstruct(self, ids: Any) -> Floats:
        return np.stack([self._index.reconstruct(int(i)) for i in ids])

    def save(self, path: str | Path) -> None:
        self._faiss.write_index(self._index, str(path))

    def load(self, path: str | Path) -> Self:
        """A new adapter over a saved index."""
        other = copy(self)
        other._index = self._faiss.read_index(str(path))
        return other


def graph_of(index: HNSWIndex) -> dict[str, Any]:
    """The lowest layer as arguments of `graph_report`: links [N, 2M], start, live [N]."""
    view = index._view
    return {"links": view["links"], "start": view.facts["root"], "live": view["live"]}
