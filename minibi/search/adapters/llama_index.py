"""For LlamaIndex: an embedding model, and a retriever over any search.

class Embedding(LlamaIndexEmbedding, BaseEmbedding): pass       # where LlamaIndex insists on its own classes
class Retriever(LlamaIndexRetriever, BaseRetriever): pass
Retriever(collection, k=5, node=lambda text, score, metadata, id: NodeWithScore(
    node=TextNode(text=text, metadata=metadata, id_=id), score=score))
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ...index.contract import whole
from .common import encoder_of, hits_of, lists, metadata_of, search_of


class LlamaIndexEmbedding:
    """Embeddings from a BiEncoder, queries and documents with the model's own prompts.

    options: for its encode. fields: for the base class, if there is one, such as embed_batch_size.
    """

    def __init__(self, model: Any, options: dict[str, Any] | None = None, **fields: Any):
        super().__init__(**fields)
        # The base class is a pydantic model, which would refuse attributes it does not know.
        object.__setattr__(self, "_bi_encoder", encoder_of(model))
        object.__setattr__(self, "_options", dict(options or {}))

    def _get_query_embedding(self, query: str) -> list[float]:
        return lists(self._bi_encoder.encode_query(query, **self._options))

    def _get_text_embedding(self, text: str) -> list[float]:
        return lists(self._bi_encoder.encode_document(text, **self._options))

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return lists(self._bi_encoder.encode_document(list(texts), **self._options))

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return await asyncio.to_thread(self._get_query_embedding, query)

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return await asyncio.to_thread(self._get_text_embedding, text)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await asyncio.to_thread(self._get_text_embeddings, texts)

    # What LlamaIndex calls. A base class has its own of these, which batch, report and cache around the methods above.

    def get_query_embedding(self, query: str) -> list[float]:
        return getattr(super(), "get_query_embedding", self._get_query_embedding)(query)

    def get_text_embedding(self, text: str) -> list[float]:
        return getattr(super(), "get_text_embedding", self._get_text_embedding)(text)

    def get_text_embedding_batch(self, texts: list[str], show_progress: bool = False, **more: Any) -> list[list[float]]:
        theirs = getattr(super(), "get_text_embedding_batch", None)
        return theirs(texts, show_progress, **more) if theirs is not None else self._get_text_embeddings(texts)

    async def aget_query_embedding(self, query: str) -> list[float]:
        return await getattr(super(), "aget_query_embedding", self._aget_query_embedding)(query)

    async def aget_text_embedding(self, text: str) -> list[float]:
        return await getattr(super(), "aget_text_embedding", self._aget_text_embedding)(text)


@dataclass
class PlainNode:
    """Looks like LlamaIndex's TextNode and NodeWithScore in one."""

    text: str
    score: float
    metadata: dict[str, Any] = field(default_factory=dict)
    id: str = ""

    @property
    def node(self) -> PlainNode:
        return self

    @property
    def node_id(self) -> str:
        return self.id

    def get_content(self, metadata_mode: Any = None) -> str:
        return self.text

    def get_score(self, raise_error: bool = False) -> float:
        return self.score


class LlamaIndexRetriever:
    """A retriever over a Collection, a pipeline or a function search(query, k).

    node: makes what is returned of (text, score, metadata, id). fields: for the base class, if there is one.
    """

    def __init__(self, search: Any, k: int = 4, node: Callable[..., Any] = PlainNode, **fields: Any):
        super().__init__(**fields)
        self._search, self._k, self._node = search_of(search), whole("k", k, 1), node

    def _retrieve(self, query_bundle: Any) -> list[Any]:
        hits = hits_of(self._search, getattr(query_bundle, "query_str", query_bundle), self._k)
        return [self._node(text=h.text, score=h.score, metadata=metadata_of(h), id=str(h.id)) for h in hits]

    async def _aretrieve(self, query_bundle: Any) -> list[Any]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def retrieve(self, query: Any) -> list[Any]:
        """Nodes with scores, best first, of a string or of anything with `query_str`."""
        theirs = getattr(super(), "retrieve", None)  # it also tells its callbacks
        return theirs(query) if theirs is not None else self._retrieve(query)

    async def aretrieve(self, query: Any) -> list[Any]:
        theirs = getattr(super(), "aretrieve", None)
        return await (theirs(query) if theirs is not None else self._aretrieve(query))
