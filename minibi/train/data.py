"""Training data: examples from JSON lines, a held-out part, and batches in which no text occurs twice.

Each line of a file (.jsonl, also .gz) is one object in one of these forms; other fields are passed over:

    {"query": "…", "positive": "…"}                                   a pair
    {"query": "…", "positive": "…", "negative": "…"}                  a triplet; or "negatives": […]; or "negative_1", …
    {"query": "…", "positives": ["…", …], "negatives": ["…", …]}      one example for each positive
    {"query": "…", "positive": "…", "negatives": […], "scores": […]}  a teacher's scores, the positive's first
    {"query": "…", "documents": ["…", …], "scores": [1.5, …]}         a scored list; "labels" will do for "scores"
    {"query": "…", "document": "…", "score": 3.2}                     a scored pair; "label" will do for "score"

Customary other names are understood (NAMES); `columns` tells any others. What cannot be used is refused by its line.
Only a negative that is also a positive is passed over: real collections have some, and the positive is right.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from ..arguments import as_path
from ..errors import FormatError, InputError
from ..hashing import mixed
from ..shapes import Ints
from ..text.lines import objects_of

NAMES = {
    "query": ("query", "anchor", "question", "sentence1", "a"),
    "positive": ("positive", "answer"),
    "positives": ("positives",),
    "negative": ("negative",),
    "negatives": ("negatives",),
    "documents": ("documents", "passages"),
    "document": ("document", "sentence2", "b"),
    "scores": ("scores", "labels"),
    "score": ("score", "label"),
}
NUMBERED = re.compile(r"negative_[0-9]+")


@dataclass(frozen=True, slots=True)
class Example:
    """A query and its documents. Without scores, documents[0] is the positive and the rest are hard negatives."""

    query: str
    documents: tuple[str, ...]
    scores: tuple[float, ...] | None = None  # one for each document: a teacher's, or graded labels

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.query, *self.documents)


# --- reading ---------------------------------------------------------------------------------------------------------


def read_examples(
    path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    score_range: tuple[float, float] | None = None,
) -> list[Example]:
    """All examples of one file, in order.

    columns: role -> the field's name in this file, for roles of NAMES, such as {"query": "title", "positive": "body"}.
    score_range: (lowest, highest) possible score, mapped to 0 … 1. Blank lines are passed over. InputError for a
    missing file or an unknown role; FormatError that names the line for all that is not as the module says, also if
    some lines have scores and others have none.
    """
    path = as_path(path)
    if unknown := sorted(set(columns or {}) - set(NAMES)):
        raise InputError(f"columns names the unknown role {unknown[0]!r}: the roles are {', '.join(NAMES)}")
    if score_range is not None and not -np.inf < score_range[0] < score_range[1] < np.inf:
        raise InputError(f"score_range must be two rising numbers, such as (0, 5), not {score_range!r}")
    names = NAMES | {role: (name,) for role, name in (columns or {}).items()}
    examples: list[Example] = []
    first = 0
    for number, row in objects_of(path, _EXAMPLE):
        where = f"{path}:{number}"
        for example in _examples(row, names, where):
            if examples and (example.scores is None) != (examples[0].scores is None):
                this, other = ("no scores", "some") if example.scores is None else ("scores", "none")
                raise FormatError(f"{where}: has {this}, but line {first} has {other}: split the file by kind")
            first = first or number
            examples.append(_rescaled(example, score_range, where))
    if not examples:
        raise FormatError(f"{path} holds no example: each line must be an object such as {_EXAMPLE}")
    return examples


_EXAMPLE = '{"query": "…", "positive": "…"}'


def _examples(row: dict[str, Any], names: Mapping[str, tuple[str, ...]], where: str) -> list[Example]:
    """The examples of one line."""

    def field(role: str) -> str | None:
        return next((name for name in names[role] if row.get(name) is not None), None)

    def text(name: str) -> str:
        return _text(row[name], where, name)

    def texts(name: str) -> list[str]:
        if not isinstance(row[name], list):
            raise FormatError(f"{where}: {name!r} must be a list of texts, not {type(row[name]).__name__}")
        return [_text(value, where, f"{name}[{i}]") for i, value in enumerate(row[name])]

    query, positive, positives = field("query"), field("positive"), field("positives")
    documents, document, scores = field("documents"), field("document"), field("scores")
    if query is None:
        raise FormatError(f"{where}: no query: expected {' or '.join(map(repr, names['query']))}")
    if positive or positives:
        negatives = [text(name) for name in sorted(filter(NUMBERED.fullmatch, row), key=lambda n: (len(n), n))]
        negatives += [text(name)] if (name := field("negative")) else []
        negatives += texts(name) if (name := field("negatives")) else []
        found = list(dict.fromkeys(texts(positives))) if positives else [text(positive)]  # type: ignore[arg-type]
        if not found:
            raise FormatError(f"{where}: {positives!r} is empty: an example needs at least one positive")
        if scores and positives:
            raise FormatError(f"{where}: {scores!r} beside {positives!r}: write them as one list of 'documents'")
        if not scores:
            negatives = [text for text in negatives if text not in found]
        judged = _numbers(row[scores], 1 + len(negatives), where, scores) if scores else None
        return [Example(text(query), (p, *negatives), judged) for p in found]
    if documents:
        listed = texts(documents)
        if not listed or not scores:
            raise FormatError(f"{where}: {documents!r} needs documents and 'scores', one number for each")
        return [Example(text(query), tuple(listed), _numbers(row[scores], len(listed), where, scores))]
    score = field("score")
    if document and score:
        return [Example(text(query), (text(document),), _numbers([row[score]], 1, where, score))]
    have = ", ".join(map(repr, row))
    raise FormatError(f"{where}: no positive, documents with scores, or document with score; it has {have}")


def _text(value: Any, where: str, name: str) -> str:
    """A text with some content; lone surrogates, which JSON can spell but UTF-8 cannot, become U+FFFD."""
    if not isinstance(value, str):
        raise FormatError(f"{where}: {name!r} must be a text, not {type(value).__name__}")
    if not value.strip():
        raise FormatError(f"{where}: {name!r} is empty: remove the line or fill it in")
    return value if value.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", value)


def _numbers(values: Any, count: int, where: str, name: str) -> tuple[float, ...]:
    if not isinstance(values, list) or len(values) != count:
        have = f"{len(values)}" if isinstance(values, list) else type(values).__name__
        raise FormatError(f"{where}: {name!r} must hold {count} numbers, one for each document, not {have}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e300:
            raise FormatError(f"{where}: {name!r} must hold finite numbers, not {value!r}")
    return tuple(map(float, values))


def _rescaled(example: Example, score_range: tuple[float, float] | None, where: str) -> Example:
    if score_range is None or example.scores is None:
        return example
    low, high = score_range
    for score in example.scores:
        if not low <= score <= high:
            raise FormatError(f"{where}: score {score:g} lies outside the score_range from {low:g} to {high:g}")
    return replace(example, scores=tuple((s - low) / (high - low) for s in example.scores))


# --- choosing --------------------------------------------------------------------------------------------------------


def with_negatives(examples: Sequence[Example], count: int) -> list[Example]:
    """The examples that have at least `count` hard negatives, cut to the first `count`: columns of equal height."""
    if any(example.scores is not None for example in examples):
        raise InputError("with_negatives is for examples without scores: scored lists have no negatives")
    return [replace(e, documents=e.documents[: 1 + count]) for e in examples if len(e.documents) > count]


def held_out(examples: Sequence[Example], share: float, seed: int = 0) -> tuple[list[Example], list[Example]]:
    """(for training, held out): about `share` of the examples are kept apart, chosen by text and seed, not by place.

    Examples that share their query or their positive, also through others, stay on one side: nothing held out
    was seen in training but as a negative. Raises InputError.
    """
    if not 0 <= share < 1:
        raise InputError(f"the held-out share must be at least 0 and below 1, not {share!r}")
    parent: dict[str, str] = {}

    def root(text: str) -> str:
        parent.setdefault(text, text)
        while parent[text] != text:
            parent[text] = text = parent[parent[text]]
        return text

    for example in examples:
        lists = example.scores is not None and len(example.documents) > 1  # no single positive
        one, other = root(example.query), root(example.query if lists else example.documents[0])
        parent[max(one, other)] = min(one, other)  # the least text names the group, whatever the order
    limit = int(share * 2**64)
    train: list[Example] = []
    held: list[Example] = []
    for example in examples:
        digest = blake2b(root(example.query).encode(), digest_size=8, key=(seed % 2**64).to_bytes(8, "little")).digest()
        (held if int.from_bytes(digest, "little") < limit else train).append(example)
    return train, held


# --- batches ---------------------------------------------------------------------------------------------------------


def shuffled(count: int, seed: int, epoch: int) -> Ints:
    """A permutation of `count` numbers: they are sorted by a hash of (seed, epoch, number), the same on every machine.

    The hash is splitmix64's finalizer (Steele, Lea & Flood 2014), a counter-based generator: no state is kept.
    """
    x = np.arange(count, dtype=np.uint64)
    for word in (seed, epoch):  # arrays throughout, whose products wrap around without a warning
        x = mixed(x + mixed(np.array([word % 2**64], np.uint64) + np.uint64(0x9E3779B97F4A7C15)))
    return np.argsort(x, kind="stable")


class Batches:
    """Endless batches of examples, shuffled anew each epoch, no text twice in a batch.

    In-batch negatives are wrong where a text occurs twice, so an example waits for the next batch that is free of its
    texts. Nothing is lost by that, but the last batches of an epoch are small if one text is very frequent. Batches of
    fewer than `least` examples, which teach nothing where examples are each other's negatives, are left out; with
    drop_last, all that are not full. All follows from the state (seed, epoch, batch), the place of the next batch: set
    it to resume.
    """

    def __init__(
        self, examples: Sequence[Example], batch_size: int, *, seed: int = 0, drop_last: bool = False, least: int = 1
    ):
        if not examples:
            raise InputError("no examples to make batches of")
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise InputError(f"batch_size must be a whole number of at least 1, not {batch_size!r}")
        if batch_size < least:
            raise InputError(f"batch_size is {batch_size}, but in a batch examples learn from others: make it {least}")
        self.examples, self.batch_size = list(examples), batch_size
        self.least = batch_size if drop_last else least
        number: dict[str, int] = {}
        self._texts = [tuple({number.setdefault(t, len(number)) for t in e.texts}) for e in self.examples]
        self._distinct = len(number)
        self.state = (seed, 0, 0)
        self._planned: tuple[tuple[int, int], list[list[int]]] | None = None

    def __iter__(self) -> Iterator[list[Example]]:
        while True:
            seed, epoch, batch = self.state
            plan = self.plan(epoch)
            if not plan:
                raise InputError(f"no batch has {self.least} examples that share no text: lower batch_size")
            if batch >= len(plan):
                self.state = (seed, epoch + 1, 0)
                continue
            self.state = (seed, epoch, batch + 1)  # before the batch is used: what a checkpoint after it must hold
            yield [self.examples[i] for i in plan[batch]]

    @property
    def epochs(self) -> float:
        """How many epochs have gone by, with their parts."""
        _, epoch, batch = self.state
        return epoch + batch / max(1, self.count(epoch))

    def count(self, epoch: int = 0) -> int:
        """Number of batches of an epoch."""
        return len(self.plan(epoch))

    def plan(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch as numbers of examples."""
        key = (self.state[0], epoch)
        if self._planned is None or self._planned[0] != key:
            order = shuffled(len(self.examples), *key)
            self._planned = (key, self._fill(order))
        return self._planned[1]

    def _fill(self, order: Ints) -> list[list[int]]:
        """Each example goes to the first batch with room after all those that hold one of its texts."""
        batches: list[list[int]] = []
        room: list[int] = []  # room[b]: b if it has room, else a later batch to look at; len(batches) means a new one
        after = [0] * self._distinct  # text -> the batch after the last one that holds it

        def with_room(b: int) -> int:
            path = []
            while b < len(room) and room[b] != b:
                path.append(b)
                b = room[b]
            for visited in path:
                room[visited] = b
            return b

        for i in order.tolist():
            b = with_room(max(after[t] for t in self._texts[i]))
            while b >= len(batches):
                room.append(len(batches))
                batches.append([])
            batches[b].append(i)
            if len(batches[b]) == self.batch_size:
                room[b] = b + 1
            for t in self._texts[i]:
                after[t] = b + 1
        return [b for b in batches if len(b) >= self.least]
