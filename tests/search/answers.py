"""How tests compare collections: what they answer, and whether two answer the same."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from minibi import BiEncoder, Collection
from minibi.environment import plain_kernels
from minibi.text.files import Document

Answers = list[tuple]


def answers(collection: Collection, query: str = "sun and rain", k: int = 1000) -> Answers:
    return [(h.score, h.source, h.key, h.start, h.end, h.title, h.text) for h in collection.search(query, k)]


def truth(model: BiEncoder, folder: Path, sources: dict[str, list[Document]], query: str = "sun and rain") -> Answers:
    """The answers of a fresh collection with these documents."""
    with Collection.create(folder, model) as fresh:
        for source, documents in sources.items():
            fresh.sync(source, documents)
        return answers(fresh, query)


def agree(a: Answers, b: Answers) -> None:
    """The same passages with the same scores, to the last bit where kernels promise it."""
    assert sorted(x[1:] for x in a) == sorted(x[1:] for x in b)
    np.testing.assert_allclose([x[0] for x in a], [x[0] for x in b], atol=1e-5 if plain_kernels() else 0, rtol=0)


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
