"""What all adapters share: vectors as lists, any search as one function, a hit's place as metadata."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import InputError
from ...evaluate.ranking import as_ranking
from ..hits import Hit, Hits

Search = Callable[[str, int], Sequence[Hit]]


def lists(vectors: Any) -> list[Any]:
    """Arrays as (lists of) lists of Python floats, which is what frameworks store and send."""
    return np.asarray(vectors, np.float32).astype(np.float64).tolist()


def encoder_of(model: Any) -> Any:
    """`model` itself. Raises InputError unless it can encode."""
    if not any(hasattr(model, name) for name in ("encode_query", "encode_document")):
        raise InputError(f"expected an encoder, such as a BiEncoder, not {model!r:.60}")
    return model


def search_of(source: Any) -> Search:
    """source.search, or `source` itself if it is a function. Raises InputError."""
    search = getattr(source, "search", source)
    if not callable(search):
        raise InputError(f"expected a collection, a pipeline or a function search(query, k), not {source!r}")
    return search


def hits_of(search: Search, query: str, k: int) -> list[Hit]:
    """At most k hits, also from a search that returns ids and scores alone. Raises InputError."""
    found = search(query, k)
    if isinstance(found, Sequence) and all(isinstance(hit, Hit) for hit in found):
        return list(found)[:k]
    ranking = as_ranking(found, "the search")
    return list(Hits.of(ranking, list(ranking.values())))[:k]


def metadata_of(hit: Hit) -> dict[str, Any]:
    """Where a hit comes from; what is empty is left out."""
    fields = {"title": hit.title, "source": hit.source, "key": hit.key, "start": hit.start, "end": hit.end}
    return {name: value for name, value in {**fields, "line": hit.line}.items() if value}
