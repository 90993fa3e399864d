"""Measures a search as its users meet it: one query after another, each stage timed, the answers judged.

    measured = measure(read_beir(folder), pipeline.search, k=100)
    measured.result.mean["ndcg@10"], measured.stages["rerank"].p95, measured.queries_per_second

A search is any callable `search(query text, k)`. It returns hits with `ids` and `scores` (and, if it knows them,
`seconds`, the time of each stage by name), or a pair (ids, scores), or a mapping id -> score.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError
from .beir import Dataset
from .metrics import DEPTH, Result, Run, default_metrics, evaluate, parse_metric
from .ranking import as_ranking

Search = Callable[[str, int], Any]
TOTAL = "total"


@dataclass(frozen=True)
class Latency:
    """Milliseconds per query of one stage."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        """Percentiles by linear interpolation, NumPy's default. `seconds` holds one at least."""
        ms = 1000 * np.asarray(seconds, np.float64)
        return cls(len(ms), float(ms.mean()), *np.percentile(ms, [50, 90, 95, 99]).tolist(), float(ms.max()))


@dataclass(frozen=True)
class Measured:
    """What `measure` found."""

    run: Run = field(repr=False)
    result: Result = field(repr=False)
    stages: dict[str, Latency]  # in the order they first ran, "total" (the whole call) last
    queries_per_second: float  # one at a time

    def to_dict(self) -> dict[str, Any]:
        """For --json: means, latencies and throughput, without the values of single queries."""
        return {
            "queries": len(self.result.per_query),
            "metrics": dict(self.result.mean),
            "latency_ms": {name: asdict(stage) for name, stage in self.stages.items()},
            "queries_per_second": self.queries_per_second,
        }


def measure(
    dataset: Dataset,
    search: Search,
    *,
    k: int = DEPTH,
    metrics: Sequence[str] | None = None,
    warmup: int = 1,
    ignore_identical_ids: bool = False,
    progress: Callable[[int], object] = lambda queries: None,
) -> Measured:
    """Asks every query of the data set for k hits, and scores the run as `evaluate` does.

    metrics: by default ndcg@10, mrr@10 and recall@k; one whose cut-off is beyond k sees k hits.
    warmup: so many queries are asked beforehand, untimed, since first calls compile and load. progress: called with the
    number of queries done since its last call. ids that are integers count as strings of digits. Raises InputError.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(f"k must be a whole number of at least 1, not {k!r}")
    metrics = default_metrics(k) if metrics is None else metrics
    for metric in metrics:
        parse_metric(metric)  # complains now rather than after the last query
    if not dataset.queries:
        raise InputError("the data set holds no query: there is nothing to measure")
    for text in list(dataset.queries.values())[: max(0, warmup)]:
        search(text, k)
    run: dict[str, dict[str, float]] = {}
    seconds: dict[str, list[float]] = {}
    totals: list[float] = []
    for query, text in dataset.queries.items():
        start = time.perf_counter()
        hits = search(text, k)
        totals.append(time.perf_counter() - start)
        stages = getattr(hits, "seconds", None)
        for stage, duration in (stages if isinstance(stages, Mapping) else {}).items():
            if stage != TOTAL:
                seconds.setdefault(stage, []).append(float(duration))
        run[query] = {str(id): score for id, score in as_ranking(hits, f"query {query!r}").items()}
        progress(1)
    result = evaluate(dataset.qrels, run, metrics, ignore_identical_ids=ignore_identical_ids)
    latencies = {name: Latency.of(values) for name, values in seconds.items()}
    return Measured(run, result, latencies | {TOTAL: Latency.of(totals)}, len(totals) / max(sum(totals), 1e-9))
