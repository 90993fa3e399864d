"""Windowed: a retriever that reads long documents in overlapping windows, and finds each by its best ones.

    dense = Windowed(Dense(model), size=128)
    dense.add(documents, ids)
    hits = dense.search("a fact that one sentence states", 10)     # documents; hit.text is the best window of each

A model reads the first few hundred tokens of a text, and of these it makes one vector: what one sentence says is lost
behind them, or among them. So every window is an item of its own, and a document's score comes from its windows':

    "max"      the best one's (MaxP: Dai & Callan, SIGIR 2019)
    "mean3"    the mean of the three best, of as many as there are in shorter documents
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from ..arguments import whole
from ..errors import InputError
from ..text.files import Document
from ..text.tokenizer import Tokenizer, as_texts
from .hits import Hit
from .passages import OVERLAP, Passage, passages_of
from .retrievers import Lexical, Retriever

AGGREGATES = {"max": 1, "mean3": 3}  # how many of a document's windows count
DEPTH = 4  # windows asked for at first, for each document wanted


@dataclass(frozen=True, slots=True)
class _Long:
    """A document in windows: window i is [spans[i]) of the text and item first + i of the index."""

    id: Any
    title: str
    text: str
    first: int
    spans: tuple[tuple[int, int], ...]

    @property
    def numbers(self) -> range:
        return range(self.first, self.first + len(self.spans))


class Windowed(Retriever):
    """`retriever`, which must be empty, over windows of documents.

    aggregate: "max" or "mean3". size: tokens of a window, special ones and the title included; by default as many as
    the model reads, and never more. overlap: tokens that neighbouring windows share at most. tokenizer: what counts
    them, by default the model's own; Lexical has none. The answer is that of scoring every window, as far as the
    index is exact. Raises InputError.
    """

    def __init__(
        self,
        retriever: Retriever,
        *,
        aggregate: str = "max",
        size: int | None = None,
        overlap: int = OVERLAP,
        tokenizer: Tokenizer | None = None,
    ):
        super().__init__()
        if aggregate not in AGGREGATES:
            raise InputError(f"aggregate must be one of {list(AGGREGATES)}, not {aggregate!r}")
        if not isinstance(retriever, Retriever) or isinstance(retriever, Windowed) or len(retriever):
            raise InputError("Windowed needs an empty Dense, Lexical or Late, which it then fills")
        model = getattr(retriever, "model", None)
        self.tokenizer = tokenizer or getattr(model, "tokenizer", None)
        if self.tokenizer is None:
            raise InputError("windows are counted in tokens: pass tokenizer=model.tokenizer")
        longest = None if model is None else model.tokenizer.max_length
        self.size = whole("size", longest or self.tokenizer.max_length if size is None else size, 16, longest)
        self.overlap = whole("overlap", overlap, 0)
        self.retriever, self.index, self.name, self.takes = retriever, retriever.index, retriever.name, retriever.takes
        self.aggregate = aggregate
        prompt = getattr(model, "document_prompt", "")
        self._limit = self.size - len(self.tokenizer.bare([prompt])[0])
        self._missing = 0.0 if isinstance(retriever, Lexical) else None  # the score of a window that is not found
        self._lock = threading.Lock()  # one change after the other
        self._documents: dict[Any, _Long] = {}
        self._document_of: dict[int, _Long] = {}  # the index's id -> the document
        self._next = 0

    def __len__(self) -> int:
        """Documents."""
        return len(self._documents)

    def __repr__(self) -> str:
        return (
            f"Windowed({type(self.retriever).__name__}, {self.aggregate!r}, size={self.size}: "
            f"{len(self)} documents in {len(self._document_of)} windows)"
        )

    def add(
        self, texts: str | Sequence[str], ids: Any = None, *, titles: Sequence[str] | None = None, **options: Any
    ) -> list[Any]:
        """Adds documents under `ids`, whole numbers or strings, by default counted on; returns the ids.

        titles: read before each window of a document. Options go to the model's `encode_document`. Raises InputError,
        after which nothing was added.
        """
        listed = as_texts(texts)
        heads = [""] * len(listed) if titles is None else as_texts(titles)
        if len(heads) != len(listed):
            raise InputError(f"there must be one title for each of the {len(listed)} texts, not {len(heads)}")
        documents = [Document("", title, text) for title, text in zip(heads, listed, strict=True)]
        cut = passages_of(documents, self.tokenizer, self._limit, self.overlap)
        cut = [found or [Passage(0, 0, d.title)] for found, d in zip(cut, documents, strict=True)]  # empty texts
        read = self.retriever._read([p.text for found in cut for p in found], **options)
        with self._lock:
            named, new, last = self._new_ids(ids, len(listed)), [], self._next
            for id, document, found in zip(named, documents, cut, strict=True):
                new.append(_Long(id, document.title, document.text, last, tuple((p.start, p.end) for p in found)))
                last += len(found)
            self._document_of.update((n, d) for d in new for n in d.numbers)  # first: a search may find them at once
            try:
                self.index.add(read, range(self._next, last))
            except BaseException:
                for number in range(self._next, last):
                    del self._document_of[number]
                raise
            self._documents.update((d.id, d) for d in new)
            self._next = last
        return named

    def remove(self, ids: Sequence[Any]) -> None:
        """Takes documents out. Raises InputError for one that is not there, and nothing was removed."""
        with self._lock:
            gone = [self._document(id) for id in dict.fromkeys(ids)]
            self.index.remove([number for document in gone for number in document.numbers])
            for document in gone:
                del self._documents[document.id]
                for number in document.numbers:
                    del self._document_of[number]

    def _ask(self, query: str) -> Any:
        return self.retriever._ask(query)

    def _hits(self, asked: Any, k: int, *, filter: Iterable[Any] | None = None, **options: Any) -> list[Hit]:
        """The k best documents, equal ones in the order they were added. filter: ids of documents."""
        if filter is not None:
            options["filter"] = self._windows_of(filter)
        depth, most = DEPTH * AGGREGATES[self.aggregate] * whole("k", k, 1), len(self._document_of) + 1
        while True:
            depth = min(depth, most)
            found = self._nearest(asked, depth, **options)
            ranked = self._ranked(asked, found, options)
            # A document none of whose windows was found is no better than the last window that was.
            everything = len(found) < depth
            if everything or (len(ranked) >= k and ranked[k - 1].score >= found[-1][1]):
                return ranked[:k]
            depth *= 4

    def _ranked(self, asked: Any, found: list[tuple[int, float]], options: dict[str, Any]) -> list[Hit]:
        """The documents that have windows in `found`, best first."""
        most = AGGREGATES[self.aggregate]
        scores: dict[int, list[float]] = {}  # first window of a document -> scores of its windows, best first
        best: dict[int, tuple[_Long, int]] = {}  # the same -> the document and its best window
        for number, score in found:
            document = self._document_of.get(number)
            if document is not None:  # else it was removed a moment ago
                scores.setdefault(document.first, []).append(score)
                best.setdefault(document.first, (document, number))
        short = [d for d, _ in best.values() if len(scores[d.first]) < min(most, len(d.spans))]
        if short:  # of these, others may count that were not among the best
            seen = {number for number, _ in found}
            rest = [number for d in short for number in d.numbers if number not in seen]
            for number, score in self._nearest(asked, len(rest), **options | {"filter": rest}):
                document = self._document_of.get(number)
                if document is not None:
                    scores[document.first].append(score)
        hits = []
        for first in sorted(best):
            document, number = best[first]
            counted = scores[first][:most]
            if self._missing is not None:
                counted += [self._missing] * (min(most, len(document.spans)) - len(counted))
            start, end = document.spans[number - first]
            text = document.text[start:end]
            hits.append(Hit(sum(counted) / len(counted), document.title, text, start=start, end=end, id=document.id))
        return sorted(hits, key=lambda hit: -hit.score)

    def _new_ids(self, ids: Any, size: int) -> list[Any]:
        if ids is None:
            fresh = (i for i in count(len(self._documents)) if i not in self._documents)
            return [next(fresh) for _ in range(size)]
        named = [id.item() if hasattr(id, "item") else id for id in ([ids] if isinstance(ids, (str, int)) else ids)]
        seen = set()
        for id in named:
            if isinstance(id, bool) or not isinstance(id, (str, int)) or id == -1:
                raise InputError(f"ids must be strings or whole numbers but -1, not {id!r}")
            if id in self._documents or id in seen:
                raise InputError(f"id {id!r} is there already, or given twice: ids must be unique")
            seen.add(id)
        if len(named) != size:
            raise InputError(f"there must be one id for each of the {size} texts, not {len(named)}")
        return named

    def _windows_of(self, ids: Any) -> list[int]:
        if isinstance(ids, str) or not isinstance(ids, Iterable):
            raise InputError("filter must be ids of documents")
        wanted = (self._documents.get(id.item() if hasattr(id, "item") else id) for id in ids)
        return [number for document in wanted if document for number in document.numbers]

    def _document(self, id: Any) -> _Long:
        if id not in self._documents:
            raise InputError(f"{self.name} holds no document {id!r}")
        return self._documents[id]
