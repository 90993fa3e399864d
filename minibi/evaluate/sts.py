"""Semantic textual similarity: how well the similarity of two vectors follows people's judgement of two sentences.

    result = evaluate_sts(model, read_sts("stsb_test.jsonl"))
    result["spearman_cosine"]

Spearman's correlation is the figure the literature gives (Reimers, Beyer & Gurevych, COLING 2016).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import FormatError, InputError
from ..shapes import Floats, unit_rows
from ..text.lines import objects_of

NAMES = (("a", "b", "score"), ("sentence1", "sentence2", "score"), ("sentence1", "sentence2", "label"))


@dataclass(frozen=True)
class ScoredPairs:
    """Sentences a[i] and b[i], and how alike people found them; the scale of the scores does not matter."""

    a: list[str] = field(repr=False)
    b: list[str] = field(repr=False)
    scores: list[float] = field(repr=False)

    def __len__(self) -> int:
        return len(self.scores)


def read_sts(path: str | os.PathLike[str]) -> ScoredPairs:
    """Pairs from JSONL with the fields a, b, score, or sentence1, sentence2, and score or label; .gz too.

    FormatError for a line without them, a text that is no string, a score that is no finite number, and an empty file.
    """
    pairs = ScoredPairs([], [], [])
    for number, record in objects_of(path, '{"a": "…", "b": "…", "score": 2.5}'):
        where = f"{path}:{number}"
        names = next((n for n in NAMES if record.keys() >= set(n)), None)
        if names is None:
            raise FormatError(f"{where}: expected the fields a, b, score, or sentence1, sentence2, score (or label)")
        a, b, score = (record[name] for name in names)
        if not isinstance(a, str) or not isinstance(b, str):
            raise FormatError(f"{where}: {names[0]} and {names[1]} must be strings")
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not math.isfinite(score):
            raise FormatError(f"{where}: {names[2]} must be a finite number")
        pairs.a.append(a)
        pairs.b.append(b)
        pairs.scores.append(float(score))
    if not pairs.scores:
        raise FormatError(f"{path} holds no pair")
    return pairs


def evaluate_sts(model: Any, pairs: ScoredPairs, **options: Any) -> dict[str, float]:
    """Correlations, named as sentence-transformers does: spearman_cosine, pearson_cosine, and so on for dot,
    euclidean and manhattan.

    model: anything with `encode(list of texts, **options)`. Raises InputError for fewer than two pairs, or where all
    scores are alike.
    """
    left, right = (np.asarray(model.encode(texts, **options), np.float32) for texts in (pairs.a, pairs.b))
    found = {}
    for name, similarity in SIMILARITIES.items():
        ours = similarity(left, right)
        found[f"pearson_{name}"] = pearson(ours, pairs.scores)
        found[f"spearman_{name}"] = spearman(ours, pairs.scores)
    return found


def _cosine(a: Floats, b: Floats) -> Floats:
    return (unit_rows(a) * unit_rows(b)).sum(1)


SIMILARITIES: dict[str, Callable[[Floats, Floats], Floats]] = {
    "cosine": _cosine,
    "dot": lambda a, b: (a * b).sum(1),
    "euclidean": lambda a, b: -np.linalg.norm(a - b, axis=1),
    "manhattan": lambda a, b: -np.abs(a - b).sum(1),
}


def pearson(x: ArrayLike, y: ArrayLike) -> float:
    """Pearson's correlation of x and y [n]: covariance / product of standard deviations. Raises InputError."""
    a, b = _numbers(x), _numbers(y)
    if a.shape != b.shape or len(a) < 2:
        raise InputError(f"a correlation needs two lists of one length, 2 at least, not {len(a)} and {len(b)} numbers")
    a, b = ((v - v.mean()) / (np.abs(v - v.mean()).max() or 1) for v in (a, b))  # scaled: squares cannot overflow
    product = float(np.linalg.norm(a) * np.linalg.norm(b))
    if not product or (_numbers(x) == _numbers(x)[0]).all() or (_numbers(y) == _numbers(y)[0]).all():
        raise InputError("a correlation needs numbers that differ: one of the lists holds the same throughout")
    return min(1.0, max(-1.0, float(a @ b) / product))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Spearman's correlation: Pearson's of the ranks, equal values sharing their average rank. Raises InputError."""
    return pearson(average_ranks(x), average_ranks(y))


def average_ranks(x: ArrayLike) -> NDArray[np.float64]:
    """Ranks from 1 of x [n], smallest first; equal values get the mean of the ranks they take up together."""
    values = _numbers(x)
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[place]


def _numbers(x: ArrayLike) -> NDArray[np.float64]:
    try:
        values = np.asarray(x, np.float64)
    except (TypeError, ValueError):
        raise InputError("expected a list of numbers") from None
    if values.ndim != 1 or not np.isfinite(values).all():
        raise InputError(f"expected a list of finite numbers, not shape {list(values.shape)} or NaN or infinity in it")
    return values
