"""For LangChain: Embeddings, a VectorStore in memory, and a retriever over any search.

    store = LangChainStore.from_texts(texts, LangChainEmbeddings(BiEncoder()), metadatas, document=Document)
    store.similarity_search("…", k=4);  store.as_retriever(search_kwargs={"k": 4}).invoke("…")

`document` is LangChain's Document class; without it, a small class with the same attributes is returned.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from ...errors import InputError
from ...index.contract import whole
from ...index.flat import FlatIndex
from ...shapes import as_vectors, unit_rows
from .common import encoder_of, hits_of, lists, metadata_of, search_of


@dataclass
class PlainDocument:
    """Looks like LangChain's Document."""

    page_content: str
    metadata: dict[str, Any] = field(default_factory=dict)
    id: str | None = None


class LangChainEmbeddings:
    """Embeddings from a BiEncoder, queries and documents with the model's own prompts. options: for its encode."""

    def __init__(self, model: Any, **options: Any):
        self.model, self.options = encoder_of(model), options

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return lists(self.model.encode_document(list(texts), **self.options))

    def embed_query(self, text: str) -> list[float]:
        return lists(self.model.encode_query(text, **self.options))

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self.embed_documents, texts)

    async def aembed_query(self, text: str) -> list[float]:
        return await asyncio.to_thread(self.embed_query, text)


class LangChainRetriever:
    """A retriever over a Collection, a pipeline or a function search(query, k). It is called, or invoked."""

    def __init__(self, search: Any, k: int = 4, document: Callable[..., Any] = PlainDocument):
        self.search, self.k, self.document = search_of(search), whole("k", k, 1), document

    def invoke(self, input: str, config: Any = None, *, k: int | None = None, **_: Any) -> list[Any]:
        """Documents, best first, each with its score in the metadata."""
        hits = hits_of(self.search, input, self.k if k is None else whole("k", k, 1))
        return [
            self.document(page_content=h.text, metadata={**metadata_of(h), "score": h.score}, id=str(h.id))
            for h in hits
        ]

    def __call__(self, input: str) -> list[Any]:
        return self.invoke(input)

    async def ainvoke(self, input: str, config: Any = None, **options: Any) -> list[Any]:
        return await asyncio.to_thread(self.invoke, input, config, **options)

    def batch(self, inputs: Sequence[str], config: Any = None, **options: Any) -> list[list[Any]]:
        return [self.invoke(text, config, **options) for text in inputs]


class LangChainStore:
    """A vector store in memory, compared exactly by cosine; texts can be added, replaced and deleted at any time.

    embedding: LangChainEmbeddings or any other, or a BiEncoder.
    """

    def __init__(self, embedding: Any, document: Callable[..., Any] = PlainDocument):
        self._embedding = embedding if hasattr(embedding, "embed_query") else LangChainEmbeddings(embedding)
        self._document = document
        self._lock = threading.RLock()
        self._index: FlatIndex | None = None  # rows under running numbers
        self._next = 0
        self._row: dict[str, int] = {}  # id -> number of its row
        self._texts: dict[int, tuple[str, str, dict[str, Any]]] = {}  # number -> id, text, metadata; the living alone

    @property
    def embeddings(self) -> Any:
        return self._embedding

    def __len__(self) -> int:
        return len(self._row)

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Any,
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **options: Any,
    ) -> Self:
        store = cls(embedding, **options)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    def from_documents(cls, documents: Iterable[Any], embedding: Any, **options: Any) -> Self:
        store = cls(embedding, **options)
        store.add_documents(documents)
        return store

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **_: Any,
    ) -> list[str]:
        """Adds texts, or replaces those whose ids are there; returns the ids. After an InputError nothing changed."""
        words = list(texts)
        notes = [{}] * len(words) if metadatas is None else list(metadatas)
        keys = [str(i) if i is not None else uuid.uuid4().hex for i in (ids or [None] * len(words))]
        if not len(words) == len(notes) == len(keys):
            raise InputError(f"{len(words)} texts need as many metadatas and ids, not {len(notes)} and {len(keys)}")
        if len(set(keys)) < len(keys):
            raise InputError("an id is given twice: each text needs its own")
        if not words:
            return []
        vectors = as_vectors(self._embedding.embed_documents(words))
        with self._lock:
            if self._index is None:
                self._index = FlatIndex(vectors.shape[1])
            numbers = range(self._next, self._next + len(words))
            self._index.add(vectors, numbers)
            self._next += len(words)
            self._forget(keys)
            for number, key, text, note in zip(numbers, keys, words, notes, strict=True):
                self._row[key], self._texts[number] = number, (key, text, dict(note or {}))
        return keys

    def add_documents(
        self, documents: Iterable[Any], *, ids: Sequence[str | None] | None = None, **_: Any
    ) -> list[str]:
        listed = list(documents)
        keys = [getattr(d, "id", None) for d in listed] if ids is None else ids
        return self.add_texts([d.page_content for d in listed], [d.metadata for d in listed], ids=keys)

    def delete(self, ids: Sequence[str] | None = None, **_: Any) -> bool:
        """Removes these ids, or all; ids that are not there are passed over."""
        with self._lock:
            self._forget(list(self._row) if ids is None else ids)
        return True

    def _forget(self, ids: Sequence[str]) -> None:
        for key in ids:
            if key in self._row:
                del self._texts[self._row.pop(key)]
        if self._index is not None and len(self._index) > 2 * len(self._row) + 1000:  # most rows are dead: start afresh
            alive = sorted(set(self._texts) & set(self._index.ids.tolist()))
            index = FlatIndex(self._index.dim)
            if alive:
                index.add(self._index.reconstruct(alive), alive)
            self._index = index

    def get_by_ids(self, ids: Sequence[str], /) -> list[Any]:
        with self._lock:
            return [self._as_document(self._row[i]) for i in ids if i in self._row]

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Any]:
        return [document for document, _ in self.similarity_search_with_score(query, k, **options)]

    def similarity_search_with_score(self, query: str, k: int = 4, **options: Any) -> list[tuple[Any, float]]:
        """(document, cosine), best first. filter: a function of a document that says whether it may be returned."""
        return self._nearest(self._embedding.embed_query(query), k, **options)

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **options: Any) -> list[Any]:
        return [document for document, _ in self._nearest(embedding, k, **options)]

    def similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, *, score_threshold: float | None = None, **options: Any
    ) -> list[tuple[Any, float]]:
        """(document, relevance from 0 to 1): the cosine, negative ones being 0."""
        found = [(d, min(1.0, max(0.0, s))) for d, s in self.similarity_search_with_score(query, k, **options)]
        return [(d, s) for d, s in found if score_threshold is None or s >= score_threshold]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Any]:
        """k of the fetch_k nearest, each next one near to the query and far from those taken (Carbonell & Goldstein,
        SIGIR 1998): the largest lambda_mult · cos(query) - (1 - lambda_mult) · largest cos(taken)."""
        vector = self._embedding.embed_query(query)
        with self._lock:
            found = self._numbers(vector, max(fetch_k, k), **options)
            if not found or self._index is None:
                return []
            unit = unit_rows(self._index.reconstruct([n for n, _ in found]))
            near, taken = np.array([s for _, s in found]), [0]
            while len(taken) < min(whole("k", k, 1), len(found)):
                gain = lambda_mult * near - (1 - lambda_mult) * (unit @ unit[taken].T).max(axis=1)
                gain[taken] = -np.inf
                taken.append(int(gain.argmax()))
            return [self._as_document(found[i][0]) for i in taken]

    def as_retriever(self, **options: Any) -> Any:
        """LangChain's own retriever where this class also inherits from VectorStore, else a LangChainRetriever."""
        theirs = getattr(super(), "as_retriever", None)
        if theirs is not None:
            return theirs(**options)
        settings = dict(options.get("search_kwargs") or {})
        return _StoreRetriever(self, options.get("search_type", "similarity"), settings)

    def _nearest(self, vector: Any, k: int, **options: Any) -> list[tuple[Any, float]]:
        with self._lock:
            return [(self._as_document(n), s) for n, s in self._numbers(vector, k, **options)]

    def _numbers(
        self, vector: Any, k: int, *, filter: Callable[[Any], bool] | None = None, **_: Any
    ) -> list[tuple[int, float]]:
        """(row number, cosine) of the k nearest living texts."""
        whole("k", k, 1)
        if self._index is None or not self._row:
            return []
        dead = len(self._index) - len(self._row)
        scores, numbers = self._index.search(vector, len(self._index) if filter else min(k + dead, len(self._index)))
        found = [(n, s) for n, s in zip(numbers[0].tolist(), scores[0].tolist(), strict=True) if n in self._texts]
        return [(n, s) for n, s in found if filter is None or filter(self._as_document(n))][:k]

    def _as_document(self, number: int) -> Any:
        key, text, note = self._texts[number]
        return self._document(page_content=text, metadata=dict(note), id=key)

    async def aadd_texts(self, *args: Any, **options: Any) -> list[str]:
        return await asyncio.to_thread(self.add_texts, *args, **options)

    async def aadd_documents(self, *args: Any, **options: Any) -> list[str]:
        return await asyncio.to_thread(self.add_documents, *args, **options)

    async def adelete(self, *args: Any, **options: Any) -> bool:
        return await asyncio.to_thread(self.delete, *args, **options)

    async def asimilarity_search(self, *args: Any, **options: Any) -> list[Any]:
        return await asyncio.to_thread(self.similarity_search, *args, **options)

    async def asimilarity_search_with_score(self, *args: Any, **options: Any) -> list[tuple[Any, float]]:
        return await asyncio.to_thread(self.similarity_search_with_score, *args, **options)


class _StoreRetriever(LangChainRetriever):
    """What `as_retriever` returns without LangChain."""

    def __init__(self, store: LangChainStore, search_type: str, settings: dict[str, Any]):
        self.store, self.search_type, self.settings = store, search_type, settings
        if search_type not in ("similarity", "mmr", "similarity_score_threshold"):
            raise InputError(f"search_type {search_type!r} is not similarity, mmr or similarity_score_threshold")

    def invoke(self, input: str, config: Any = None, **options: Any) -> list[Any]:
        settings = {**self.settings, **options}
        if self.search_type == "mmr":
            return self.store.max_marginal_relevance_search(input, **settings)
        if self.search_type == "similarity_score_threshold":
            return [d for d, _ in self.store.similarity_search_with_relevance_scores(input, **settings)]
        return self.store.similarity_search(input, **settings)
