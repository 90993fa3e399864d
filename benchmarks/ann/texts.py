"""Real texts for the index benchmark: every passage and sentence of a folder of data sets, and the questions asked.

The folder holds, at any depth, data sets in BEIR's layout (corpus.jsonl and queries.jsonl, gzipped or not) and
files of training pairs (*.jsonl) whose records name their texts `positive`, `positives`, `negatives`, `passage`,
`sentence`, `negation`, `a`, `b`, and their questions `query` or `question`.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from minibi.text.windows import sentences

TEXTS = ("positive", "positives", "negatives", "passage", "sentence", "negation", "a", "b")
QUESTIONS = ("query", "question")
SHORTEST = 12  # characters: "Fig. 2." and the like are no sentences


def collect(folder: Path, most: int, questions: int, seed: int = 0) -> tuple[list[str], list[str]]:
    """(at most `most` passages and sentences, `questions` queries), each once, the same on every run.

    Files take turns, each in an order drawn from `seed`, so all are represented whatever their size. No query is also a
    stored text.
    """
    stored, asked = [], []
    for path in sorted(p for p in folder.rglob("*.jsonl*") if p.is_file()):
        texts, queries = _read(path)
        rng = np.random.default_rng((seed, len(stored)))
        pieces = [piece for text in texts for piece in dict.fromkeys([text, *_sentences(text)])]
        stored.append([pieces[i] for i in rng.permutation(len(pieces))])
        asked.append([queries[i] for i in rng.permutation(len(queries))])
    if not any(stored):
        raise FileNotFoundError(f"{folder} holds no .jsonl file with texts")
    texts = _in_turn(stored, most, [])
    return texts, _in_turn(asked, questions, texts)


def _read(path: Path) -> tuple[list[str], list[str]]:
    texts, queries = {}, {}
    with (gzip.open if path.suffix == ".gz" else open)(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            record: dict[str, Any] = json.loads(line)
            if "_id" in record:
                kind = queries if path.name.startswith("queries") else texts
                kind[f"{record.get('title', '')} {record['text']}".strip()] = None
                continue
            texts |= dict.fromkeys(_strings(record, TEXTS))
            queries |= dict.fromkeys(_strings(record, QUESTIONS))
    return list(texts), list(queries)


def _strings(record: dict[str, Any], keys: tuple[str, ...]) -> Iterator[str]:
    for key in keys:
        value = record.get(key, [])
        yield from (text.strip() for text in ([value] if isinstance(value, str) else value))


def _sentences(text: str) -> Iterator[str]:
    yield from (text[a:b] for a, b in sentences(text) if b - a >= SHORTEST)


def _in_turn(lists: list[list[str]], most: int, taken: list[str]) -> list[str]:
    """One of each list after the other until all are used up; none twice, none of `taken`, whatever case and space."""
    seen, found = {_folded(text) for text in taken}, []
    iterators = [iter(texts) for texts in lists]
    while iterators:
        for texts in list(iterators):
            text = next((t for t in texts if _folded(t) not in seen), None)
            if len(found) == most:
                return found
            if text is None:
                iterators.remove(texts)
            else:
                seen.add(_folded(text))
                found.append(text)
    return found


def _folded(text: str) -> str:
    return " ".join(text.lower().split())
