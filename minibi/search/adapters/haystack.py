"""For Haystack: embedders of queries and documents, and a retriever over any search.

Called directly, they need nothing. A Haystack pipeline takes components only, and `bind` makes one of them:

    from haystack import Document, Pipeline, component
    Embedder = HaystackTextEmbedder.bind(component)
    Retriever = HaystackRetriever.bind(component, Document)
    pipeline.add_component("retriever", Retriever(collection, top_k=5))
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, is_dataclass, replace
from types import FunctionType
from typing import Any

from ...index.contract import whole
from .common import encoder_of, hits_of, lists, metadata_of, search_of


@dataclass
class PlainDocument:
    """Looks like Haystack's Document."""

    content: str
    meta: dict[str, Any] = field(default_factory=dict)
    id: str = ""
    score: float | None = None
    embedding: list[float] | None = None


class HaystackTextEmbedder:
    """run(text="…") -> {"embedding": […]} from a BiEncoder, with its prompt for queries. options: for its encode."""

    def __init__(self, model: Any, **options: Any):
        self.model, self.options = encoder_of(model), options

    def warm_up(self) -> None:
        """Compiles and loads what the first text would wait for."""
        self.run("warm")

    def run(self, text: str) -> dict[str, Any]:
        return {"embedding": lists(self.model.encode_query(text, **self.options))}

    @classmethod
    def bind(cls, component: Any) -> type:
        """This class as a Haystack component. component: haystack.component."""
        return _bound(cls, component, {"text": str}, {"embedding": list[float]})


class HaystackDocumentEmbedder:
    """run(documents=[…]) -> {"documents": […]}: copies with their embedding, made with the prompt for documents.

    meta_fields_to_embed: put before the content, each on its line, as Haystack's own embedders do. options: for encode.
    """

    def __init__(self, model: Any, meta_fields_to_embed: list[str] | None = None, **options: Any):
        self.model, self.meta_fields, self.options = encoder_of(model), list(meta_fields_to_embed or []), options

    def run(self, documents: list[Any]) -> dict[str, Any]:
        texts = []
        for document in documents:
            values = [str(document.meta[name]) for name in self.meta_fields if document.meta.get(name)]
            texts.append("\n".join([*values, document.content or ""]))
        vectors = lists(self.model.encode_document(texts, **self.options)) if texts else []
        out: list[Any] = []
        for document, vector in zip(documents, vectors, strict=True):
            if is_dataclass(document):
                out.append(replace(document, embedding=vector))
            else:
                out.append(copy.copy(document))
                out[-1].embedding = vector
        return {"documents": out}

    @classmethod
    def bind(cls, component: Any, document: Any = Any) -> type:
        """This class as a Haystack component. component: haystack.component; document: haystack.Document."""
        return _bound(cls, component, {"documents": list[document]}, {"documents": list[document]})


class HaystackRetriever:
    """run(query="…") -> {"documents": […]} of a Collection, a pipeline or a function search(query, k)."""

    document: Callable[..., Any] = PlainDocument

    def __init__(self, search: Any, top_k: int = 10, document: Callable[..., Any] | None = None):
        self.search, self.top_k = search_of(search), whole("top_k", top_k, 1)
        if document is not None:
            self.document = document

    def run(self, query: str, top_k: int | None = None) -> dict[str, Any]:
        hits = hits_of(self.search, query, self.top_k if top_k is None else whole("top_k", top_k, 1))
        make = self.document
        return {"documents": [make(content=h.text, meta=metadata_of(h), id=str(h.id), score=h.score) for h in hits]}

    @classmethod
    def bind(cls, component: Any, document: Any) -> type:
        """This class as a Haystack component. component: haystack.component; document: haystack.Document."""
        bound = _bound(cls, component, {"query": str, "top_k": int | None}, {"documents": list[document]})
        bound.document = staticmethod(document)  # type: ignore[attr-defined]
        return bound


def _bound(cls: type, component: Any, inputs: dict[str, Any], outputs: dict[str, Any]) -> type:
    """A subclass whose `run` states its types as objects, which is where Haystack looks for sockets."""
    original: Any = cls.run  # type: ignore[attr-defined]
    run = FunctionType(original.__code__, original.__globals__, "run", original.__defaults__)
    run.__doc__, run.__annotations__ = original.__doc__, {**inputs, "return": dict[str, Any]}
    body = {"run": component.output_types(**outputs)(run), "__module__": cls.__module__, "__doc__": cls.__doc__}
    return component(type(cls.__name__, (cls,), body))
