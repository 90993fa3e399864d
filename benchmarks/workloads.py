"""The encoder's workloads, cut from SciFact's queries and abstracts, as text and as token ids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import numpy as np
import tokenizers

from minibi.evaluate.beir import Dataset, read_beir

from .common import SCIFACT

LONGEST = 512  # tokens; every contender is set to read as many


@dataclass(frozen=True)
class Workload:
    """N texts (or pairs of texts) with their token ids, special tokens included, and type ids."""

    name: str
    title: str
    texts: list[str] | list[tuple[str, str]]
    ids: list[list[int]]
    types: list[list[int]]

    @property
    def pairs(self) -> bool:
        return isinstance(self.texts[0], tuple)

    @property
    def lengths(self) -> list[int]:
        return [len(ids) for ids in self.ids]

    @property
    def tokens(self) -> int:
        return sum(self.lengths)

    def first(self) -> Workload:
        """The first text by itself."""
        return replace(self, name=f"one of {self.name}", texts=self.texts[:1], ids=self.ids[:1], types=self.types[:1])


class Cutter:
    """Real text in given numbers of tokens, by the model's own tokenizer; the same on every run."""

    def __init__(self, model: Path, dataset: Dataset | None = None):
        dataset = dataset or read_beir(SCIFACT)
        self.tokenizer = tokenizers.Tokenizer.from_file(str(model / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.queries = list(dataset.queries.values())
        self.documents = dataset.docs
        self._next = cycle(dataset.docs)

    def length(self, *text: str) -> int:
        return len(self.tokenizer.encode(*text).ids)

    def text(self, tokens: int) -> str:
        """The beginning of the next documents: `tokens` tokens, give or take one where the cut splits a word."""
        text = next(self._next)
        while self.length(text) < tokens:
            text += " " + next(self._next)
        encoding = self.tokenizer.encode(text)
        return text[: encoding.offsets[tokens - 2][1]]  # [CLS], tokens - 2 pieces, [SEP]

    def work(self, name: str, title: str, texts: list[str] | list[tuple[str, str]]) -> Workload:
        encodings = self.tokenizer.encode_batch(texts)
        return Workload(name, title, texts, [e.ids for e in encodings], [e.type_ids for e in encodings])


def _query(cut: Cutter, rng: np.random.Generator) -> list[str]:
    return [next(query for query in cut.queries if cut.length(query) == 10)]


def _texts(cut: Cutter, rng: np.random.Generator) -> list[str]:
    return [cut.text(n) for n in rng.integers(112, 145, 128)]


def _mixed(cut: Cutter, rng: np.random.Generator) -> list[str]:
    return [cut.text(n) for n in rng.integers(16, 253, 128)]


def _pairs(cut: Cutter, rng: np.random.Generator) -> list[tuple[str, str]]:
    totals = rng.integers(144, 177, 100)
    sides = zip(totals, cycle(cut.queries), strict=False)
    return [(query, cut.text(total - cut.length(query) + 1)) for total, query in sides]  # one [CLS] for both


def _documents(cut: Cutter, rng: np.random.Generator) -> list[str]:
    return [cut.text(LONGEST) for _ in range(24)]


_MAKERS: dict[str, tuple[str, Callable[[Cutter, np.random.Generator], list]]] = {
    "query": ("one query of 10 tokens", _query),
    "texts": ("128 texts of about 128 tokens", _texts),
    "mixed": ("128 texts of 16–252 tokens", _mixed),
    "pairs": ("100 pairs of about 160 tokens", _pairs),
    "documents": ("24 documents of 512 tokens", _documents),
}
NAMES = tuple(_MAKERS)


def workloads(model: Path, names: tuple[str, ...] = NAMES) -> Iterator[Workload]:
    """The named workloads in their fixed order; each is the same whichever others are asked for."""
    dataset = read_beir(SCIFACT)
    for seed, (name, (title, make)) in enumerate(_MAKERS.items()):
        if name in names:
            cut = Cutter(model, dataset)
            yield cut.work(name, title, make(cut, np.random.default_rng(seed)))


def real_texts(count: int) -> list[str]:
    """`count` whole texts: three abstracts to one query, as far as there are queries."""
    dataset = read_beir(SCIFACT)
    queries = list(dataset.queries.values())[: count // 4]
    return (queries + dataset.docs)[:count]


def passages(count: int, words: int = 60) -> Iterator[str]:
    """`count` different passages of `words` words, made one at a time."""
    documents = [doc.split() for doc in read_beir(SCIFACT).docs]
    made = 0
    while made < count:
        lap = f"{made} " if made else ""  # the corpus is used up after some 17,000: a number keeps the next lap apart
        for doc in documents:
            for start in range(0, len(doc) - words + 1, words):
                if made == count:
                    return
                yield lap + " ".join(doc[start : start + words])
                made += 1
