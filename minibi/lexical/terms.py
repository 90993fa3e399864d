"""Texts and queries to numbers: the vocabulary, and what a text may be."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..text.tokenizer import Tokenizer
from ..text.words import Words

MANY_KEYS = 2_000_000  # words remembered with their term; beyond, all are forgotten and learned again
Ids = NDArray[np.int64]


class Batch(NamedTuple):
    """Queries end to end: query q has terms[offsets[q] : offsets[q + 1]]; -1 is a term that no document has.

    weights: one for each term, or none, which is 1 for each.
    """

    terms: NDArray[np.int32]
    weights: NDArray[np.float64]
    offsets: NDArray[np.int64]


class Pieces:
    """A model's own tokenizer as a source of terms: its word pieces."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer

    def keys(self, texts: Sequence[str]) -> Sequence[list[int]]:
        return self.tokenizer.bare(texts)

    def term(self, key: int) -> str | None:
        return self.tokenizer.tokens([key])[0] or None

    def settings(self) -> None:
        return None


class Function:
    """Any function from a text to its terms."""

    def __init__(self, function: Callable[[str], Sequence[str]]):
        self.function = function

    def keys(self, texts: Sequence[str]) -> Iterator[list[str]]:
        for text in texts:
            found = self.function(text)
            if not isinstance(found, Sequence) or isinstance(found, str) or not all(isinstance(t, str) for t in found):
                raise InputError("the tokenizer must return a list of strings for each text")
            yield list(found)

    def term(self, key: str) -> str | None:
        return key or None

    def settings(self) -> None:
        return None


def as_source(tokenizer: Any) -> Words | Pieces | Function:
    """What `BM25(tokenizer=...)` accepts. Raises InputError."""
    if isinstance(tokenizer, str) and tokenizer == "words":
        return Words()
    if isinstance(tokenizer, (Words, Pieces, Function)):
        return tokenizer
    if isinstance(tokenizer, Tokenizer):
        return Pieces(tokenizer)
    if callable(tokenizer):
        return Function(tokenizer)
    raise InputError(f"tokenizer {tokenizer!r} is not 'words', a Words, a Tokenizer or a function of a text")


class Vocabulary(dict[str, int]):
    """term -> number; a term that is new gets the next one."""

    def __missing__(self, term: str) -> int:
        self[term] = number = len(self)
        return number


class Reader:
    """Turns texts into term numbers; each distinct word is stopped, stemmed and looked up once."""

    def __init__(self, source: Words | Pieces | Function, terms: Sequence[str] = ()):
        self.source = source
        self.vocabulary = Vocabulary(zip(terms, range(len(terms)), strict=True))
        self._known: dict[Any, int] = _Known(self)

    def keep(self, kept: NDArray[np.int64]) -> None:
        """Only these terms stay, and are counted anew."""
        terms = list(self.vocabulary)
        self.vocabulary = Vocabulary(zip((terms[i] for i in kept.tolist()), range(len(kept)), strict=True))
        self._known = _Known(self)

    def documents(self, texts: Sequence[Any]) -> tuple[NDArray[np.int32], Ids]:
        """(term numbers end to end, offsets [n + 1]); new terms enter the vocabulary. Raises InputError."""
        if len(self._known) > MANY_KEYS:
            self._known = _Known(self)
        words, number = self._words(texts, "text")
        sizes: list[int] = []

        def counted() -> Iterator[Sequence[Any]]:
            for some in words:
                sizes.append(len(some))
                yield some

        flat = np.fromiter(map(number.__getitem__, chain.from_iterable(counted())), np.int32)
        offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        kept = flat >= 0
        if not kept.all():
            offsets = np.concatenate([[0], np.cumsum(kept)])[offsets]
            flat = flat[kept]
        return flat, offsets

    def queries(self, queries: Any) -> Batch:
        """Queries as strings, lists of terms or {term: weight}, one or many. Raises InputError."""
        if isinstance(queries, (str, Mapping)):
            queries = [queries]
        found = _listed(queries, "query")
        kinds, weights = set(map(type, found)), np.zeros(0)
        if not kinds <= {str, list, tuple} and any(isinstance(query, Mapping) for query in found):
            if not all(isinstance(query, Mapping) for query in found):
                raise InputError("queries must be all of one kind: strings, lists of terms, or {term: weight}")
            weights = np.array([_weight(w) for query in found for w in query.values()])
            found, kinds = [list(query) for query in found], {list}
        if kinds <= {list, tuple}:
            numbers = self._numbers(found)
        else:
            found = list(map(self._look_up, self._words(found, "query")[0]))
            numbers = np.array(list(chain.from_iterable(found)), np.int32)
        ends = np.fromiter(accumulate(map(len, found), initial=0), np.int64, len(found) + 1)
        return Batch(numbers, weights, ends)

    def _numbers(self, queries: Sequence[Sequence[Any]]) -> NDArray[np.int32]:
        """Of terms, -1 for one that is unknown."""
        terms = list(chain.from_iterable(queries))
        try:
            numbers = list(map(self.vocabulary.get, terms, repeat(-1)))
            if -1 in numbers:
                "".join(terms)  # the quickest way to see that all are strings
        except TypeError:
            self._words(queries, "query")  # says which is no term
            raise
        return np.array(numbers, np.int32)

    def _look_up(self, keys: Sequence[Any]) -> list[int]:
        """Numbers of words that need not be known, and do not become so."""
        numbers = list(map(self._known.get, keys))
        if None in numbers:
            for i, number in enumerate(numbers):
                if number is None:
                    term = self.source.term(keys[i])
                    numbers[i] = number = -1 if term is None else self.vocabulary.get(term, -1)
                    if number >= 0:
                        self._known[keys[i]] = number
        return numbers

    def _words(self, texts: Sequence[Any], name: str) -> tuple[Any, dict[Any, int]]:
        """The words of each text, and what gives their numbers. A list is a text whose terms are given."""
        if all(isinstance(text, str) for text in texts):
            return self.source.keys([str(text) for text in texts]), self._known
        for i, text in enumerate(texts):
            if isinstance(text, str) != isinstance(texts[0], str) or not isinstance(text, Sequence):
                raise InputError(
                    f"{name} number {i} is {type(text).__name__}: pass strings only, or lists of terms only"
                )
            if not all(issubclass(kind, str) for kind in set(map(type, text))):
                raise InputError(f"{name} number {i} holds a term that is not a string")
        return texts, self.vocabulary


class _Known(dict[Any, int]):
    """word -> number of its term, -1 for a stop word; learns what is missing."""

    def __init__(self, reader: Reader):
        self._term, self._vocabulary = reader.source.term, reader.vocabulary

    def __missing__(self, key: Any) -> int:
        term = self._term(key)
        self[key] = number = -1 if term is None else self._vocabulary[term]
        return number


def _listed(things: Any, name: str) -> list[Any]:
    try:
        return list(things)
    except TypeError:
        raise InputError(f"expected one {name} or a list of them, not {type(things).__name__}") from None


def as_documents(texts: Any) -> list[Any]:
    return [texts] if isinstance(texts, str) else _listed(texts, "text")


def _weight(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 <= value <= 1e9:
        raise InputError(f"the weight of a query term must be a number from 0 to 1e9, not {value!r}")
    return float(value)
