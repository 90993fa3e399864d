"""Retrievers: what finds candidates for a query. Each has a `name` and `search(query, k) -> Hits`, stages timed.

    dense = Dense(BiEncoder("all-MiniLM-L6-v2"))
    dense.add(texts, ids)                                  # or Dense(model, index) around an index that is full already
    dense.search("what was decided about backups?", 10)

`Dense` compares single vectors, `Lexical` words (BM25), `Late` the vectors of all tokens (ColBERT). `labels` gives
items other ids than the index's own, such as the strings of a BEIR corpus: the item with index id i is labels[i].
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import InputError
from ..index.contract import Index
from ..index.flat import FlatIndex
from ..index.multi_vector import MultiVectorIndex
from ..lexical.bm25 import BM25
from ..models.bi_encoder import BiEncoder
from ..models.late_interaction import LateInteraction
from ..shapes import Floats
from .hits import Hits
from .vector_cache import VectorCache


class Retriever:
    """Base: adds texts, and turns an index's arrays into timed Hits."""

    name: str
    index: Any

    def __init__(self, labels: Sequence[str] | None = None):
        self.labels = None if labels is None else list(labels)
        self._number_of: dict[str, int] | None = None  # label -> the index's id, once it is asked for

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} items)"

    def search(self, query: str, k: int = 100, **options: Any) -> Hits:
        """The k best items, and the seconds of each stage. Options go to the index's search: filter, ef, nprobe."""
        if not isinstance(query, str):
            raise InputError(f"a query is one string, not {type(query).__name__}")
        seconds: dict[str, float] = {}
        asked = self._timed(seconds, "encode", lambda: self._ask(query))
        scores, ids = self._timed(seconds, "search", lambda: self.index.search(asked, k, **options))
        found = [i for i in ids[0].tolist() if i != -1]
        named = found if self.labels is None else [self.labels[i] for i in found]
        best = scores[0][: len(found)]
        if getattr(self.index, "metric", "") == "l2":
            best = -best  # of hits, larger is better
        return Hits.of(named, best, query=query, seconds=seconds)

    def _numbers(self, ids: Sequence[Any]) -> list[int]:
        """The index's own ids of items. Raises InputError."""
        if self.labels is None:
            return list(ids)
        if self._number_of is None:
            self._number_of = {label: number for number, label in enumerate(self.labels)}
        unknown = next((id for id in ids if id not in self._number_of), None)
        if unknown is not None:
            raise InputError(f"{self.name} holds no item {unknown!r}")
        return [self._number_of[id] for id in ids]

    def _ask(self, query: str) -> Any:
        """A query as the index wants it."""
        raise TypeError(f"{type(self).__name__} cannot ask")

    @staticmethod
    def _timed(seconds: dict[str, float], stage: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        done = work()
        seconds[stage] = time.perf_counter() - start
        return done


class Dense(Retriever):
    """One vector for each text. index: any index of vectors; a FlatIndex if none is given. cache: of query vectors."""

    def __init__(
        self,
        model: BiEncoder,
        index: Index | None = None,
        *,
        labels: Sequence[str] | None = None,
        cache: VectorCache | None = None,
        name: str = "dense",
    ):
        super().__init__(labels)
        metric = "cosine" if model.similarity_fn_name == "cosine" else "ip"
        if index is None:
            index = FlatIndex(model.dim, metric, fingerprint=model.fingerprint)
        if index.dim != model.dim or (index.fingerprint and index.fingerprint != model.fingerprint):
            raise InputError("the index was filled by another model or prompt: use that one, or build the index anew")
        self.model, self.index, self.cache, self.name = model, index, cache, name

    def add(self, texts: Sequence[str], ids: Any = None, **options: Any) -> Any:
        """Encodes texts as documents and adds them; returns their ids. Options go to `encode_document`."""
        return self.index.add(self.model.encode_document(texts, **options), ids)

    def _ask(self, query: str) -> Any:
        if self.cache is None:
            return self._encode(query)
        return self.cache.get((self.model.fingerprint, "query", query), lambda: self._encode(query))

    def _encode(self, query: str) -> Any:
        return self.model.encode_query(query, truncation="silent")


class Lexical(Retriever):
    """BM25 over the words of texts."""

    def __init__(self, index: BM25 | None = None, *, labels: Sequence[str] | None = None, name: str = "bm25"):
        super().__init__(labels)
        self.index, self.name = index or BM25(), name

    def add(self, texts: Sequence[str], ids: Any = None) -> Any:
        return self.index.add(texts, ids)

    def _ask(self, query: str) -> Any:
        return query


class Late(Retriever):
    """A vector for each token, compared by MaxSim."""

    def __init__(
        self,
        model: LateInteraction,
        index: MultiVectorIndex | None = None,
        *,
        labels: Sequence[str] | None = None,
        name: str = "colbert",
    ):
        super().__init__(labels)
        self.model, self.index, self.name = model, index or MultiVectorIndex(model.dim), name

    def add(self, texts: Sequence[str], ids: Any = None, **options: Any) -> Any:
        """Encodes texts as documents and adds them; returns their ids. Options go to `encode_document`."""
        return self.index.add(self.model.encode_document(list(texts), **options), ids)

    def _ask(self, query: str) -> Any:
        return self.model.encode_query(query, truncation="silent")

    def scores(self, query: str, ids: Sequence[Any]) -> Floats:
        """MaxSim [n] of a query with stored items: what reranking asks. Raises InputError for an unknown id."""
        return self.index.score([self._ask(query)], self._numbers(ids))[0]
