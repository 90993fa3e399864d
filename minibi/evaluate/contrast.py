"""Contrast sets: passages that are nearly the same, but whose small difference flips the answer.

    contrasts = read_condaqa("condaqa_dev.jsonl")           # or read_nevir(…), or quantifiers.generate(500, seed=0)
    contrast_accuracy(contrasts, bi_encoder_scorer(model))  # 0.57 (0.53 to 0.61), chance 0.50

A ranking metric on an ordinary data set hardly notices whether a model reads "not". Here nothing else decides: a scorer
gets a question with two passages and must prefer the one that says yes (Ravichander, Gardner & Marasović, CONDAQA,
EMNLP 2022), or, in NevIR's form, two questions with two passages and must pair them rightly (Weller, Lawrie & Van
Durme, NevIR, EACL 2024).
"""

from __future__ import annotations

import csv
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import as_path
from ..errors import FormatError, InputError
from ..shapes import unit_rows
from ..text.lines import lines_of, objects_of

Scorer = Callable[[list[str], list[str]], ArrayLike]  # N questions, N passages -> N scores, larger is better


@dataclass(frozen=True)
class Contrast:
    """One test: question i must score passage i above the other one.

    One question is asked of passages[0] (yes) and passages[1] (no); of two, each has its own passage.
    """

    questions: tuple[str, ...]
    passages: tuple[str, str]
    kind: str = ""  # what was edited
    cluster: str = ""  # contrasts of one cluster share a text, so they are no independent evidence; "": none does

    @property
    def chance(self) -> float:
        """What guessing earns: 1/2 for one question, 1/4 for two."""
        return 0.5 ** len(self.questions)


@dataclass(frozen=True)
class ContrastResult:
    """Pairwise accuracy: the share of contrasts in which every question preferred the right passage."""

    accuracy: float
    low: float  # confidence interval
    high: float
    chance: float
    count: int
    ties: int  # contrasts with equal scores: such a question counts one half, as if a coin decided
    confidence: float
    by_kind: dict[str, tuple[float, int]]  # kind -> accuracy, count
    values: NDArray[np.float64] = field(repr=False, compare=False)  # of each contrast, 0 to 1

    def __str__(self) -> str:
        return (
            f"{self.accuracy:.3f} ({self.low:.3f} to {self.high:.3f}), chance {self.chance:.2f}, {self.count} contrasts"
        )


def contrast_accuracy(contrasts: Sequence[Contrast], score: Scorer, *, confidence: float = 0.95) -> ContrastResult:
    """Puts each question with both passages to `score`, all in one call, each distinct pair once.

    The interval is Wilson's (1927) for as many independent trials as the spread between clusters suggests, so ten
    questions about one text count for less than ten texts. InputError for no contrasts, another number of scores than
    pairs, and scores that are NaN.
    """
    if not contrasts:
        raise InputError("there are no contrasts to measure")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, as 0.95 does, not {confidence!r}")
    pairs = list(dict.fromkeys(pair for c in contrasts for pair in product(c.questions, c.passages)))
    scores = np.asarray(score([q for q, _ in pairs], [p for _, p in pairs]), np.float64)
    if scores.shape != (len(pairs),):
        raise InputError(f"the scorer must give {len(pairs)} scores, one for each pair, not shape {list(scores.shape)}")
    if np.isnan(scores).any():
        raise InputError(f"the scorer gave NaN for the question {pairs[int(np.isnan(scores).argmax())][0]!r}")
    of = dict(zip(pairs, scores.tolist(), strict=True))
    values, ties = np.ones(len(contrasts)), 0
    for i, c in enumerate(contrasts):
        right = [(of[q, c.passages[j]], of[q, c.passages[1 - j]]) for j, q in enumerate(c.questions)]
        ties += any(a == b for a, b in right)
        values[i] = math.prod(0.5 if a == b else float(a > b) for a, b in right)
    kinds: dict[str, list[float]] = defaultdict(list)
    for c, value in zip(contrasts, values.tolist(), strict=True):
        kinds[c.kind].append(value)
    by_kind = {kind: (math.fsum(found) / len(found), len(found)) for kind, found in sorted(kinds.items())}
    low, high = _interval(values, [c.cluster or str(i) for i, c in enumerate(contrasts)], confidence)
    chance = math.fsum(c.chance for c in contrasts) / len(contrasts)
    mean = float(values.mean())
    return ContrastResult(mean, low, high, chance, len(contrasts), ties, confidence, by_kind, values)


def _interval(values: NDArray[np.float64], clusters: Sequence[str], confidence: float) -> tuple[float, float]:
    """Wilson's interval around mean(values), n being p (1 - p) / the variance of p as clusters show it."""
    p = float(values.mean())
    deviation: dict[str, float] = defaultdict(float)
    for name, value in zip(clusters, values.tolist(), strict=True):
        deviation[name] += value - p
    many = len(deviation)
    variance = sum(d * d for d in deviation.values()) / len(values) ** 2 * many / max(many - 1, 1)
    n = float(many) if variance < 1e-15 else min(float(len(values)), p * (1 - p) / variance)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - reach), min(1.0, centre + reach)


# --- scorers ----------------------------------------------------------------------------------------------------------


def bi_encoder_scorer(model: Any, **options: Any) -> Scorer:
    """Cosine of question and passage, every distinct text encoded once. options: for encode_query and _document."""

    def score(questions: list[str], passages: list[str]) -> ArrayLike:
        q, p = list(dict.fromkeys(questions)), list(dict.fromkeys(passages))
        a = unit_rows(np.asarray(model.encode_query(q, **options), np.float32))
        b = unit_rows(np.asarray(model.encode_document(p, **options), np.float32))
        at_q, at_p = {t: i for i, t in enumerate(q)}, {t: i for i, t in enumerate(p)}
        rows, columns = [at_q[t] for t in questions], [at_p[t] for t in passages]
        return np.einsum("ij,ij->i", a[rows].astype(np.float64), b[columns])

    return score


def cross_encoder_scorer(model: Any, **options: Any) -> Scorer:
    """A cross-encoder's logits. options: for its predict."""
    return lambda questions, passages: model.predict(list(zip(questions, passages, strict=True)), **options)


# --- files ------------------------------------------------------------------------------------------------------------

EDITS = {0: "original", 1: "paraphrase", 2: "scope", 3: "affirmative"}


def read_condaqa(path: str | os.PathLike[str]) -> list[Contrast]:
    """One contrast for each question with a passage answered YES and an edit of the same passage answered NO.

    JSONL, .gz too, with the fields question, passage, label, edit_id (0 original, 1 paraphrase, 2 scope, 3 affirmative)
    and group (what all edits of one question share), or as published: sentence2, sentence1, label, PassageEditID, and
    PassageID with QuestionID. Other labels than YES and NO take no part. `kind` names the two edits, `cluster` the
    passage. Raises FormatError.
    """
    groups: dict[tuple[str, str], dict[str, list[tuple[int, str]]]] = defaultdict(lambda: {"YES": [], "NO": []})
    for number, record in objects_of(path, '{"question": "…", "passage": "…", "label": "YES", …}'):
        where = f"{path}:{number}"
        if "sentence1" in record:
            question, passage, edit = (record.get(k) for k in ("sentence2", "sentence1", "PassageEditID"))
            group = f"{record.get('PassageID')}-{record.get('QuestionID')}"
        else:
            question, passage, edit, group = (record.get(k) for k in ("question", "passage", "edit_id", "group"))
        label = record.get("label")
        texts = {"question": question, "passage": passage, "label": label, "group": group}
        for name, text in texts.items():
            if not isinstance(text, str) or not text.strip():
                raise FormatError(f"{where}: {name} must be a string that is not empty")
        if isinstance(edit, bool) or edit not in EDITS:
            raise FormatError(f"{where}: the edit must be 0, 1, 2 or 3, not {edit!r}")
        answer = label.strip().upper()  # type: ignore[union-attr]
        if answer in ("YES", "NO"):
            groups[str(group), str(question)][answer].append((int(edit), str(passage)))
    found = [
        Contrast((question,), (yes, no), f"{EDITS[a]} / {EDITS[b]}", group.rpartition("-")[0] or group)
        for (group, question), answers in groups.items()
        for (a, yes), (b, no) in product(answers["YES"], answers["NO"])
        if yes != no
    ]
    if not found:
        raise FormatError(f"{path} holds no question that is answered YES by one passage and NO by another")
    return found


def read_nevir(path: str | os.PathLike[str]) -> list[Contrast]:
    """NevIR's two-questions form: q1 must prefer doc1, q2 doc2. JSONL, CSV or TSV with these four columns, .gz too.

    FormatError for missing columns, empty texts, and two documents that are the same.
    """
    found = []
    for where, record in _rows(as_path(path)):
        texts = [record.get(name) for name in ("q1", "q2", "doc1", "doc2")]
        if not all(isinstance(text, str) and text.strip() for text in texts):
            raise FormatError(f"{where}: expected texts in the columns q1, q2, doc1 and doc2")
        q1, q2, doc1, doc2 = map(str, texts)
        if doc1 == doc2:
            raise FormatError(f"{where}: doc1 and doc2 are the same, so neither can be preferred")
        found.append(Contrast((q1, q2), (doc1, doc2), "negation", str(record.get("id", ""))))
    if not found:
        raise FormatError(f"{path} holds no contrast")
    return found


def _rows(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    name = path.name.removesuffix(".gz")
    if not name.endswith((".csv", ".tsv")):
        for number, record in objects_of(path, '{"q1": "…", "q2": "…", "doc1": "…", "doc2": "…"}'):
            yield f"{path}:{number}", record
        return
    text = (f"{line}\n" for _, line in lines_of(path))
    reader = csv.DictReader(text, delimiter="\t" if name.endswith(".tsv") else ",")
    try:
        for number, record in enumerate(reader, start=1):
            yield f"{path}: row {number}", record
    except csv.Error as e:
        raise FormatError(f"{path} is no table: {e}") from None
