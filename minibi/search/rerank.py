"""Reranking: the candidates in the order of a slower, better judge, as far as the time allows.

    rerank(hits, CrossEncoder(folder), budget_ms=200)

A judge is a CrossEncoder, a LateInteraction model, a `Late` retriever, which has the candidates' token vectors already,
or any function `judge(query, texts) -> scores`, larger is better. The best candidates are judged first, a few at a
time. When the budget is spent, those judged stand first, in their new order; the rest follow in the order they came.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from ..errors import InputError
from ..models.cross_encoder import CrossEncoder
from ..models.late_interaction import LateInteraction
from .hits import Evidence, Hits
from .retrievers import Late

Judge = CrossEncoder | LateInteraction | Late | Callable[[str, Sequence[str]], Any]
CHUNK = 8  # candidates judged between two looks at the clock, at first


def as_judge(judge: Any) -> Callable[[str, Hits], Any]:
    """A function (query, hits) -> scores of whatever can judge. Raises InputError."""
    if isinstance(judge, Late):
        ask = lru_cache(1)(judge._ask)  # once, however many parts the candidates come in
        return lambda query, hits: judge.index.score([ask(query)], judge._numbers(hits.ids))[0]
    if isinstance(judge, CrossEncoder):
        if judge.config.labels != 1:
            raise InputError(f"{judge.name} has {judge.config.labels} labels: reranking needs a model with one score")
        return lambda query, hits: judge.predict([(query, text) for text in _texts(hits)], truncation="silent")
    if isinstance(judge, LateInteraction):
        encode = lru_cache(1)(lambda query: judge.encode_query(query, truncation="silent"))
        return lambda query, hits: judge.similarity(
            [encode(query)], judge.encode_document(_texts(hits), truncation="silent")
        )[0]
    if not callable(judge):
        raise InputError(
            f"rerank must be a CrossEncoder, a LateInteraction, a Late or a function, not {type(judge).__name__}"
        )
    return lambda query, hits: judge(query, _texts(hits))


def _texts(hits: Hits) -> list[str]:
    if hits and not any(hits.texts):
        raise InputError("reranking reads the candidates, which have no texts: pass texts, a mapping from id to text")
    return hits.texts


def rerank(hits: Hits, judge: Judge, *, budget_ms: float | None = None, name: str = "rerank") -> Hits:
    """`hits`, which hold their texts, in the judge's order; equal scores keep the order they came in.

    budget_ms: milliseconds that may pass; None for as long as it takes. At least one chunk is judged, and no chunk is
    begun that would, at the pace so far, end too late. Scores of hits that were not judged are set below the judged
    ones', so that the order can be read off them; what they were is in the evidence.
    """
    if not isinstance(hits, Hits):
        raise InputError(f"rerank orders Hits, as a search returns them, not {type(hits).__name__}")
    begun = time.perf_counter()
    judged_by = as_judge(judge)
    scores: list[float] = []
    while len(scores) < len(hits):
        size = len(hits) if budget_ms is None else CHUNK
        if scores and budget_ms is not None:
            spent = 1000 * (time.perf_counter() - begun)
            size = min(4 * CHUNK, int((budget_ms - spent) / (spent / len(scores))))
            if size < 1:
                break
        part = hits[len(scores) : len(scores) + size]
        said = judged_by(hits.query, part)
        try:
            found = np.asarray(said, np.float64)
        except (TypeError, ValueError):
            found = np.zeros(0)
        if found.shape != (len(part),) or np.isnan(found).any():
            raise InputError(f"the judge must return {len(part)} numbers, one for each text, not {said!r:.60}")
        scores.extend(found.tolist())
    judged = len(scores)
    order = np.argsort(-np.array(scores), kind="stable").tolist()
    best = [
        hits[i].scored(scores[i], (*hits[i].evidence, Evidence(name, rank, scores[i])))
        for rank, i in enumerate(order, 1)
    ]
    floor = min(scores, default=0.0)
    step = max(1e-6, abs(floor) * 1e-6)
    rest = [
        hit.scored(floor - step * i, (*hit.evidence, Evidence(name, None, None)))
        for i, hit in enumerate(hits.hits[judged:], 1)
    ]
    seconds = hits.seconds | {name: time.perf_counter() - begun}
    return Hits((*best, *rest), hits.query, seconds, hits.notes | {"judged": judged, "candidates": len(hits)})
