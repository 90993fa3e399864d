"""Hard negatives: for each query, documents that a retriever ranks high although they are not its positives.

Near misses teach more than random documents, but the nearest are often unlabelled positives. So candidates can be
skipped by rank (range_min), by score (max_score, min_score), or for lying too near to the positive's score
(absolute_margin, relative_margin; a relative margin of 0.05 served best in NV-Retriever, Moreira et al. 2024), and a
cross-encoder can judge in the retriever's place. Arguments are named as in sentence-transformers.

Nothing here knows an index or a model: `search` is any callable from texts to (scores, ids).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import as_path, whole
from ..errors import InputError
from ..store.files import replace_file
from .data import Example, shuffled

Search = Callable[[list[str], int], tuple[ArrayLike, ArrayLike]]  # queries, k -> scores and ids [Q, k], best first
Judge = Callable[[list[tuple[str, str]]], ArrayLike]  # (query, document) pairs -> scores [n], larger is better

FORMATS = ("triplet", "n-tuple", "labeled-pair", "labeled-list")
STRATEGIES = ("top", "random")


@dataclass
class Mined:
    """What was found: rows as `read_examples` reads them, and what became of the candidates."""

    rows: list[dict[str, Any]] = field(repr=False)
    queries: int  # distinct ones
    negatives: int  # found, over all queries
    missing: int  # negatives that were asked for and not found
    skipped: dict[str, int]  # argument -> candidates that it refused

    def write(self, path: str | Path) -> None:
        """The rows as JSON lines, put in place atomically."""
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self.rows)
        replace_file(as_path(path), lambda file: file.write(lines.encode("utf-8", "replace")))


def mine_hard_negatives(
    pairs: Sequence[Example],
    corpus: Sequence[str],
    search: Search,
    *,
    cross_encoder: Judge | None = None,
    similarity: Judge | None = None,
    range_min: int = 0,
    range_max: int | None = None,
    max_score: float | None = None,
    min_score: float | None = None,
    absolute_margin: float | None = None,
    relative_margin: float | None = None,
    num_negatives: int = 3,
    sampling_strategy: str = "top",
    output_format: str = "triplet",
    output_scores: bool = False,
    batch_size: int = 1024,
    seed: int = 0,
    progress: Callable[[int], object] = lambda queries: None,
) -> Mined:
    """Hard negatives for each query of `pairs`, whose first documents are the positives; a query may have several.

    corpus[id] is the text of an id that `search` returns; larger scores are better, id -1 is none. Candidates are what
    search finds among the best range_max, less the query's positives, the query itself and repeated texts.
    cross_encoder: a CrossEncoder, or a function of pairs, which scores candidates and positives anew, before all that
    follows. Then these candidates are refused:

        absolute_margin   score > p - absolute_margin         p the least score among the query's positives
        relative_margin   score > p - |p| relative_margin
        max_score, min_score

    Of the rest, ranks range_min to range_max stand to choice: the best num_negatives ("top"), or a random choice by
    seed ("random"). range_max is by default what num_negatives need, and ten times that if candidates may be refused.
    similarity: the retriever's score of any pair, for positives that search does not find; without it, a margin refuses
    all candidates of such a query, for they all score above the positive.

    output_format: "triplet", one row for each negative; "n-tuple", one row with exactly num_negatives, or none;
    "labeled-pair", one row for each document; "labeled-list", one row with all. A query with several positives has
    these rows for each of them. output_scores adds scores, or puts them in the labels' place. Raises InputError.
    """
    wholes = {"range_min": (range_min, 0), "num_negatives": (num_negatives, 1), "batch_size": (batch_size, 1)}
    wholes |= {"seed": (seed, None)} | ({} if range_max is None else {"range_max": (range_max, 1)})
    margin = {"absolute_margin": absolute_margin, "relative_margin": relative_margin}
    limits = {"max_score": max_score, "min_score": min_score}
    _check(wholes, margin | limits, sampling_strategy=sampling_strategy, output_format=output_format)
    cross_encoder, similarity = _judge("cross_encoder", cross_encoder), _judge("similarity", similarity)
    if not callable(search):
        raise InputError(f"search must be a function (texts, k) -> (scores, ids), not {type(search).__name__}")
    if isinstance(corpus, str) or not isinstance(corpus, (Sequence, np.ndarray)):
        raise InputError(f"corpus must be the list of texts that search finds, not {type(corpus).__name__}")
    if not isinstance(pairs, Sequence) or not all(isinstance(pair, Example) for pair in pairs):
        raise InputError("pairs must be a list of examples, as read_examples returns it")
    positives: dict[str, list[str]] = {}
    for example in pairs:
        known = positives.setdefault(example.query, [])
        if example.documents[0] not in known:
            known.append(example.documents[0])
    if not positives:
        raise InputError("no pairs to mine for: pass examples with a query and a positive")
    margins = absolute_margin is not None or relative_margin is not None
    most = max(map(len, positives.values()))
    if range_max is None:
        refusing = margins or max_score is not None or (cross_encoder is not None and min_score is not None)
        range_max = range_min + num_negatives * (10 if refusing else 1) + most
    if num_negatives > range_max - range_min:
        raise InputError(
            f"ranks {range_min} to {range_max} hold fewer than {num_negatives} negatives: raise range_max or lower "
            "num_negatives or range_min"
        )
    indexed = set(corpus)
    unknown = [p for known in positives.values() for p in known if p not in indexed]
    if unknown and (margins or output_scores) and cross_encoder is None and similarity is None:
        raise InputError(f"the positive {unknown[0][:60]!r} is not in the corpus: add it, or pass `similarity`")

    mined = Mined([], len(positives), 0, 0, {})
    skipped: Counter[str] = Counter()
    everything = list(positives)
    for first in range(0, len(everything), batch_size):
        queries = everything[first : first + batch_size]
        found = _candidates(queries, positives, corpus, search, min(range_max + most, len(corpus)))
        _score_again(found, cross_encoder, similarity)
        for offset, one in enumerate(found):
            p = min(one.positives.values())
            if output_scores and p == -np.inf and (output_format == "labeled-pair" or not margins):
                raise InputError(f"the score of a positive of {one.query[:60]!r} is not known: pass `similarity`")
            kept = []
            for text, score in one.candidates:
                reason = _refused(score, p, absolute_margin, relative_margin, max_score, min_score)
                if reason:
                    skipped[reason] += 1
                else:
                    kept.append((text, score))
            kept.sort(key=lambda candidate: -candidate[1])  # stable: of equals, as searched
            kept = kept[range_min:range_max]
            if sampling_strategy == "random":
                kept = [kept[i] for i in sorted(shuffled(len(kept), seed, first + offset)[:num_negatives].tolist())]
            kept = kept[:num_negatives]
            mined.negatives += len(kept)
            mined.missing += num_negatives - len(kept)
            mined.rows += _rows(one, kept, num_negatives, output_format, output_scores)
        progress(len(queries))
    mined.skipped = dict(skipped)
    return mined


@dataclass
class _Found:
    """One query, what was found for it, and the scores of its positives (-inf: not found)."""

    query: str
    positives: dict[str, float]
    candidates: list[tuple[str, float]]


def _candidates(
    queries: list[str], positives: dict[str, list[str]], corpus: Sequence[str], search: Search, k: int
) -> list[_Found]:
    answer = search(queries, k)
    if not isinstance(answer, Sequence) or len(answer) != 2:
        raise InputError(f"search must return a pair, scores and ids, not {type(answer).__name__}")
    scores, ids = map(np.asarray, answer)
    if scores.shape != ids.shape or ids.ndim != 2 or len(ids) != len(queries) or ids.dtype.kind not in "iu":
        raise InputError(f"search must return scores and ids [{len(queries)}, k], not {scores.shape} and {ids.shape}")
    if (ids < -1).any() or (ids >= len(corpus)).any():
        raise InputError(
            f"search returned an id outside the corpus of {len(corpus)} texts: they do not belong together"
        )
    found = []
    for query, row, numbers in zip(queries, scores.astype(np.float64).tolist(), ids.tolist(), strict=True):
        best: dict[str, float] = {}
        last = np.inf
        for score, i in zip(row, numbers, strict=True):
            if i != -1:
                if not score <= last + 1e-6 * abs(last):
                    raise InputError("search must return the best first, larger scores better: negate distances")
                last = score
                best.setdefault(corpus[i], score)
        known = {text: best.pop(text, -np.inf) for text in positives[query]}
        best.pop(query, None)
        found.append(_Found(query, known, list(best.items())))
    return found


def _score_again(found: list[_Found], cross_encoder: Judge | None, similarity: Judge | None) -> None:
    """The judge's scores in the place of the retriever's; else the retriever's for positives that were not found."""
    if cross_encoder is not None:
        asked = [(one.query, text) for one in found for text in (*one.positives, *dict(one.candidates))]
        scores = iter(_asked("cross_encoder", cross_encoder, asked))
        for one in found:
            one.positives = {text: next(scores) for text in one.positives}
            one.candidates = [(text, next(scores)) for text, _ in one.candidates]
    elif similarity is not None:
        missing = [(one, text) for one in found for text, score in one.positives.items() if score == -np.inf]
        asked = [(one.query, text) for one, text in missing]
        for (one, text), score in zip(missing, _asked("similarity", similarity, asked), strict=True):
            one.positives[text] = score


def _asked(name: str, judge: Judge, pairs: list[tuple[str, str]]) -> list[float]:
    if not pairs:
        return []
    scores = np.asarray(judge(pairs), np.float64)
    if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
        raise InputError(f"{name} must return {len(pairs)} finite scores, one for each pair, not {list(scores.shape)}")
    return scores.tolist()


def _refused(
    score: float, p: float, absolute: float | None, relative: float | None, most: float | None, least: float | None
) -> str:
    """The argument that refuses a candidate, or ""."""
    if absolute is not None and score > p - absolute:
        return "absolute_margin"
    if relative is not None and (p == -np.inf or score > p - abs(p) * relative):
        return "relative_margin"
    if most is not None and score > most:
        return "max_score"
    return "min_score" if least is not None and score < least else ""


def _rows(
    one: _Found, negatives: list[tuple[str, float]], count: int, output_format: str, scored: bool
) -> list[dict[str, Any]]:
    query, texts, scores = one.query, [text for text, _ in negatives], [score for _, score in negatives]
    rows: list[dict[str, Any]] = []
    if output_format == "labeled-pair":
        both = [(*item, 1) for item in one.positives.items()] + [(*item, 0) for item in negatives]
        return [{"query": query, "document": t} | ({"score": s} if scored else {"label": y}) for t, s, y in both]
    for positive, p in one.positives.items():
        row = {"query": query, "positive": positive}
        if output_format == "triplet":
            for text, score in negatives:
                rows.append(row | {"negative": text} | ({"scores": [p, score]} if scored else {}))
        elif output_format == "n-tuple" and len(texts) == count:
            row |= {f"negative_{i}": text for i, text in enumerate(texts, 1)}
            rows.append(row | ({"scores": [p, *scores]} if scored else {}))
        elif output_format == "labeled-list" and texts:
            marks = {"scores": [p, *scores]} if scored else {"labels": [1] + [0] * len(texts)}
            rows.append({"query": query, "documents": [positive, *texts], **marks})
    return rows


def _check(wholes: dict[str, tuple[Any, int | None]], numbers: dict[str, float | None], **choices: Any) -> None:
    """wholes: name -> (value, the least it may be); numbers: margins, which are not negative, and limits."""
    for name, (value, least) in wholes.items():
        whole(name, value, least)
    for name, value in numbers.items():
        least = 0 if name.endswith("margin") else -np.inf
        number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
        if value is not None and not (number and least <= value < np.inf):
            raise InputError(f"{name} must be a number{' of at least 0' if least == 0 else ''}, not {value!r}")
    for name, known in (("sampling_strategy", STRATEGIES), ("output_format", FORMATS)):
        if choices[name] not in known:
            raise InputError(f"{name} {choices[name]!r} is not one of {list(known)}")


def _judge(name: str, judge: Any) -> Judge | None:
    """A function of pairs, made of one that has `predict` as a CrossEncoder has. Raises InputError."""
    asked = getattr(judge, "predict", judge)
    if judge is not None and not callable(asked):
        raise InputError(f"{name} must be a CrossEncoder or a function of pairs, not {type(judge).__name__}")
    return asked
