"""Retrievers: what finds candidates for a query. Each has a `name` and `search(query, k) -> Hits`, stages timed.

    dense = Dense(BiEncoder("all-MiniLM-L6-v2"))
    dense.add(texts, ids)                                  # or Dense(model, index) around an index that is full already
    dense.search("what was decided about backups?", 10)

`Dense` compares single vectors, `Lexical` words (BM25), `Late` the vectors of all tokens (ColBERT); `Windowed` lets any
of them read long documents. Ids are whole numbers or strings; `labels` names the items of an index that was filled
elsewhere: the item with index id i is labels[i].
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..arguments import whole
from ..errors import InputError
from ..index.contract import Index
from ..index.flat import FlatIndex
from ..index.multi_vector import MultiVectorIndex
from ..lexical.bm25 import BM25
from ..lexical.terms import as_documents
from ..models.bi_encoder import BiEncoder
from ..models.late_interaction import LateInteraction
from ..models.towers import Towers
from ..text.tokenizer import as_texts
from .hits import Hit, Hits
from .vector_cache import VectorCache

OPTIONS = ("filter", "ef", "nprobe", "depth")


class Retriever:
    """Base: adds texts, which its hits then show, and turns an index's arrays into timed Hits."""

    name: str
    index: Any
    takes: tuple[str, ...] = ("filter",)  # options of the index's search

    def __init__(self, labels: Sequence[str] | None = None):
        self.labels = None if labels is None else list(labels)
        self._number_of: dict[str, int] | None = None  # label -> the index's id, once it is asked for
        self._texts: dict[int, str] = {}  # the index's id -> text, of what was added here

    def __len__(self) -> int:
        return len(self.index)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} items)"

    def add(self, texts: str | Sequence[str], ids: Any = None, **options: Any) -> list[Any]:
        """Adds texts under `ids`, whole numbers or strings, by default counted on; returns the ids.

        Options go to the model's `encode_document`. Raises InputError, after which nothing was added.
        """
        listed = self._listed(texts)
        named = self._new_labels(ids, len(listed))
        read = self._read(listed, **options)
        if named is None:
            numbers = self.index.add(read, ids).tolist()
            if self.labels is not None and numbers and not 0 <= min(numbers) <= max(numbers) < len(self.labels):
                self.index.remove(numbers)
                raise InputError(f"labels name {len(self.labels)} items: pass a string as the id of each further text")
        else:
            before = self.labels or []
            numbers = list(range(len(before), len(before) + len(named)))
            self.labels, old = before + named, self.labels  # first, for a search that finds the new items at once
            try:
                self.index.add(read, numbers)
            except BaseException:
                self.labels = old
                raise
            self._numbering().update(zip(named, numbers, strict=True))
        self._texts.update((n, t if isinstance(t, str) else " ".join(t)) for n, t in zip(numbers, listed, strict=True))
        return [self._name(number) for number in numbers]

    def remove(self, ids: Sequence[Any]) -> None:
        """Takes items out. Raises InputError for one that is not there, and nothing was removed."""
        gone = [ids] if isinstance(ids, (str, int)) else list(ids)
        numbers = self._numbers(gone)
        self.index.remove(numbers)
        for id, number in zip(gone, numbers, strict=True):
            self._texts.pop(number, None)
            self._numbering().pop(id, None)

    def search(self, query: str, k: int = 100, **options: Any) -> Hits:
        """The k best items, and the seconds of each stage.

        options: filter (ids that may be found, or what the index understands), ef, nprobe, depth; those that the index
        has no use for are passed over. Raises InputError.
        """
        if not isinstance(query, str):
            raise InputError(f"a query is one string, not {type(query).__name__}")
        unknown = [name for name in options if name not in OPTIONS]
        if unknown:
            raise InputError(f"a search takes the options {list(OPTIONS)}, not {unknown[0]!r}")
        k = min(whole("k", k, 1), max(1, len(self.index)))  # an index makes room for k, however few it holds
        known = {name: value for name, value in options.items() if name in self.takes}
        seconds: dict[str, float] = {}
        asked = self._timed(seconds, "encode", lambda: self._ask(query))
        hits = self._timed(seconds, "search", lambda: self._hits(asked, k, **known))
        return Hits(tuple(hits), query, seconds)

    def _hits(self, asked: Any, k: int, **options: Any) -> list[Hit]:
        options["filter"] = self._allowed(options.get("filter"))
        found = self._nearest(asked, k, **options)
        return [Hit(score, text=self._texts.get(number, ""), id=self._name(number)) for number, score in found]

    def _nearest(self, asked: Any, k: int, **options: Any) -> list[tuple[int, float]]:
        """(the index's id, score) of the k best, larger scores first."""
        scores, ids = self.index.search(asked, k, **options)
        sign = -1 if getattr(self.index, "metric", "") == "l2" else 1
        return [(i, sign * s) for i, s in zip(ids[0].tolist(), scores[0].tolist(), strict=True) if i != -1]

    def _allowed(self, filter: Any) -> Any:
        """A filter of labels as one of the index's ids; any other as it is."""
        if self.labels is None or isinstance(filter, str) or not isinstance(filter, Iterable):
            return filter
        wanted = list(filter)
        if not any(isinstance(id, str) for id in wanted):
            return filter
        known = self._numbering()
        return [known[id] for id in wanted if id in known]

    def _name(self, number: int) -> Any:
        if self.labels is None:
            return number
        if not 0 <= number < len(self.labels):
            raise InputError(f"{self.name} found item {number}, but labels name {len(self.labels)}: pass one for each")
        return self.labels[number]

    def _numbers(self, ids: Sequence[Any]) -> list[int]:
        """The index's own ids of items. Raises InputError."""
        if self.labels is None:
            return list(ids)
        known = self._numbering()
        for id in ids:
            if id not in known:
                raise InputError(f"{self.name} holds no item {id!r}")
        return [known[id] for id in ids]

    def _numbering(self) -> dict[str, int]:
        """label -> the index's id."""
        if self._number_of is None:
            self._number_of = {x: number for number, x in enumerate(self.labels or []) if number in self.index}
        return self._number_of

    def _new_labels(self, ids: Any, count: int) -> list[str] | None:
        """ids as new labels if they are strings, else None. Raises InputError."""
        named = [str(id) for id in ids if isinstance(id, str)] if isinstance(ids, Iterable) else []
        if not named:
            return None
        if isinstance(ids, str) or not count == len(named) == len(ids):
            raise InputError(f"ids must be {count} strings or {count} whole numbers, one for each text")
        if self.labels is None and len(self.index):
            raise InputError("the items so far have whole numbers as ids: go on with such, or begin with strings")
        known, seen = self._numbering(), set[str]()
        for id in named:
            if id in known or id in seen:
                raise InputError(f"id {id!r} is there already, or given twice: ids must be unique")
            seen.add(id)
        return named

    def _listed(self, texts: Any) -> list[Any]:
        return as_texts(texts)

    def _read(self, texts: list[str], **options: Any) -> Any:
        """Texts as the index wants them."""
        raise TypeError(f"{type(self).__name__} cannot read")

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

    takes = ("filter", "ef", "nprobe")

    def __init__(
        self,
        model: BiEncoder | Towers,
        index: Index | None = None,
        *,
        labels: Sequence[str] | None = None,
        cache: VectorCache | None = None,
        name: str = "dense",
    ):
        super().__init__(labels)
        _check("Dense", model, "encode_query", "a BiEncoder")
        metric = "cosine" if model.similarity_fn_name == "cosine" else "ip"
        if index is None:
            index = FlatIndex(model.dim, metric, fingerprint=model.space)
        _check("Dense", index, "range_search", "an index of vectors")
        _check_origin(index, model.dim, model.space)
        self.model, self.index, self.cache, self.name = model, index, cache, name

    def _read(self, texts: list[str], **options: Any) -> Any:
        return self.model.encode_document(texts, **options)

    def _ask(self, query: str) -> Any:
        if self.cache is None:
            return self._encode(query)
        asks = self.model.query if isinstance(self.model, Towers) else self.model
        return self.cache.get((asks.fingerprint, "query", query), lambda: self._encode(query))

    def _encode(self, query: str) -> Any:
        return self.model.encode_query(query, truncation="silent")


class Lexical(Retriever):
    """BM25 over the words of texts."""

    def __init__(self, index: BM25 | None = None, *, labels: Sequence[str] | None = None, name: str = "bm25"):
        super().__init__(labels)
        self.index, self.name = BM25() if index is None else index, name
        _check("Lexical", self.index, "tokenizer", "a BM25 index")
        _check("Lexical", self.index, "search", "a BM25 index")

    def _listed(self, texts: Any) -> list[Any]:
        return as_documents(texts)  # lists of terms, too

    def _read(self, texts: list[Any]) -> Any:
        return texts

    def _ask(self, query: str) -> Any:
        return query


class Late(Retriever):
    """A vector for each token, compared by MaxSim."""

    takes = ("filter", "nprobe", "depth")

    def __init__(
        self,
        model: LateInteraction,
        index: MultiVectorIndex | None = None,
        *,
        labels: Sequence[str] | None = None,
        name: str = "colbert",
    ):
        super().__init__(labels)
        _check("Late", model, "tokens", "a LateInteraction model")
        if index is None:
            index = MultiVectorIndex(model.dim, fingerprint=model.fingerprint)
        _check("Late", index, "score", "a MultiVectorIndex")
        _check_origin(index, model.dim, model.fingerprint)
        self.model, self.index, self.name = model, index, name

    def _read(self, texts: list[str], **options: Any) -> Any:
        return self.model.encode_document(texts, **options)

    def _ask(self, query: str) -> Any:
        return self.model.encode_query(query, truncation="silent")


def _check(who: str, given: Any, sign: str, wanted: str) -> None:
    """Raises InputError unless `given` has the attribute that tells its kind."""
    if not hasattr(given, sign):
        raise InputError(f"{who} needs {wanted}, not {given!r}")


def _check_origin(index: Any, dim: int, fingerprint: str) -> None:
    """Raises InputError for an index of other vectors than these."""
    if index.dim != dim or (index.fingerprint and index.fingerprint != fingerprint):
        raise InputError("the index was filled by another model or prompt: use that one, or build the index anew")
