"""Fusion: one ranking out of several, such as a dense and a lexical one of the same query. Pure functions.

    hits = reciprocal_rank({"dense": dense_hits, "bm25": bm25_hits})          # needs ranks alone
    hits = convex({"dense": …, "bm25": …}, normalize="theoretical-min", minima={"dense": -1, "bm25": 0},
                  weights={"dense": 0.7, "bm25": 0.3})                        # needs scores; better once tuned
    tuned = tune({"dense": run_a, "bm25": run_b}, qrels, "ndcg@10", held_out=0.5);  hits = tuned({"dense": …, …})

A ranking is hits, a pair (ids, scores), a mapping id -> score, or what an index returned for one query; rankings may
have different lengths, be empty, and hold an id twice (its better score counts). Equal scores rank by smaller id,
before and after fusion, so the order of the input decides nothing. Every hit explains itself: rank, score and
contribution of each retriever.

Reciprocal rank fusion: Cormack, Clarke & Büttcher, SIGIR 2009. Convex combination, and why it beats the former with a
handful of judged queries: Bruch, Gai & Ingber, An analysis of fusion functions for hybrid retrieval, TOIS 2023.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..arguments import whole
from ..errors import InputError
from ..evaluate.metrics import UNJUDGED, Qrels, Run, parse_metric
from ..evaluate.ranking import Id, as_ranking
from .hits import Evidence, Hit, Hits, as_hits

Doubles = NDArray[np.float64]
Normalize = Literal["min-max", "theoretical-min", "z-score"]
Weights = Mapping[str, float] | Sequence[float]
Minima = Mapping[str, float]


def reciprocal_rank(
    rankings: Mapping[str, Any],
    *,
    k: float = 60,
    weights: Weights | None = None,
    depth: int | None = None,
    top_k: int | None = None,
) -> Hits:
    """Score of an item: the sum over rankings of weight / (k + rank), ranks from 1; a ranking without it adds nothing.

    rankings: retriever name -> its answer to one query. weights: by name or in order, each 1 by default. depth: only so
    many of each ranking count. top_k: only so many are returned. Raises InputError.
    """
    return _fuse(rankings, Method("reciprocal rank", k=k), weights, depth, top_k)


def convex(
    rankings: Mapping[str, Any],
    *,
    normalize: Normalize = "min-max",
    minima: Minima | None = None,
    weights: Weights | None = None,
    depth: int | None = None,
    top_k: int | None = None,
) -> Hits:
    """Score of an item: the weighted mean over rankings of its normalized score; weights are scaled to sum to 1.

    normalize
        "min-max": (s - min) / (max - min) over the ranking. "theoretical-min": the same with the least score there can
        be, `minima[name]`, in place of min: -1 for cosine, 0 for BM25; it does not depend on how deep was searched.
        "z-score": (s - mean) / standard deviation. Where all scores are equal, 1, 1 (0 at the minimum itself) and 0.
    An item that a ranking lacks gets the least value it could have there: 0, 0, or the ranking's lowest z-score.
    The rest as for `reciprocal_rank`. Raises InputError, also for infinite scores.
    """
    return _fuse(rankings, Method("convex", normalize=normalize, minima=dict(minima or {})), weights, depth, top_k)


@dataclass(frozen=True)
class Method:
    """How ranks and scores become parts, which are then weighted and added."""

    name: Literal["reciprocal rank", "convex"]
    k: float = 60
    normalize: Normalize = "min-max"
    minima: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.name not in ("reciprocal rank", "convex"):
            raise InputError(f"method must be 'reciprocal rank' or 'convex', not {self.name!r}")
        if isinstance(self.k, bool) or not isinstance(self.k, (int, float)) or not 0 <= self.k < math.inf:
            raise InputError(f"k must be a number of at least 0, such as the usual 60, not {self.k!r}")
        if self.normalize not in ("min-max", "theoretical-min", "z-score"):
            raise InputError(f"normalize must be 'min-max', 'theoretical-min' or 'z-score', not {self.normalize!r}")

    def notes(self) -> dict[str, Any]:
        if self.name == "reciprocal rank":
            return {"fusion": self.name, "k": self.k}
        minima = {"minima": dict(self.minima)} if self.normalize == "theoretical-min" else {}
        return {"fusion": self.name, "normalize": self.normalize, **minima}

    def parts(self, table: _Table) -> Doubles:
        """[R, n]: what each ranking says of each item, before weights."""
        found = table.ranks > 0
        if self.name == "reciprocal rank":
            return np.where(found, 1 / (self.k + np.maximum(table.ranks, 1)), 0.0)
        out = np.zeros(table.ranks.shape)
        for name, row, here, scores in zip(table.names, out, found, table.scores, strict=True):
            if here.any():
                values = self._normalized(scores[here], name)
                row[:] = min(0.0, values.min()) if self.normalize == "z-score" else 0.0
                row[here] = values
        return out

    def _normalized(self, s: Doubles, name: str) -> Doubles:
        if not np.isfinite(s).all():
            raise InputError(f"{name} has an infinite score, which cannot be normalized: use reciprocal_rank")
        if self.normalize == "z-score":
            scale = np.abs(s).max() or 1.0  # of huge scores the squares would overflow
            centred = s / scale - (s / scale).mean()
            return np.zeros_like(s) if (s == s[0]).all() else centred / centred.std()
        least = s.min()
        if self.normalize == "theoretical-min":
            if name not in self.minima:
                raise InputError(
                    f"theoretical-min needs the least score {name!r} can give: pass minima={{{name!r}: …}}"
                )
            least = float(self.minima[name])
            if not least <= s.min():
                raise InputError(f"{name} has score {s.min():.6g}, below its stated minimum {least:g}: correct minima")
        span = s.max() / 2 - least / 2  # halves cannot overflow
        if span > 0:
            return (s / 2 - least / 2) / span
        return np.full_like(s, self.normalize == "min-max")


@dataclass(frozen=True)
class _Table:
    """One query's R rankings over the n ids that any of them holds, smallest id first."""

    names: list[str]
    ids: list[Id]
    ranks: NDArray[np.int64]  # [R, n], from 1; 0 where missing
    scores: Doubles  # [R, n], NaN where missing

    @classmethod
    def of(cls, rankings: Mapping[str, Any], depth: int | None) -> _Table:
        listed = {name: list(as_ranking(found, name).items())[:depth] for name, found in rankings.items()}
        union = {id for ranking in listed.values() for id, _ in ranking}
        if len({isinstance(id, str) for id in union}) == 2:
            raise InputError("some rankings have strings for ids, others integers: fuse rankings of the same ids")
        ids = sorted(union)  # type: ignore[type-var]
        column = {id: i for i, id in enumerate(ids)}
        ranks, scores = np.zeros((len(listed), len(ids)), np.int64), np.full((len(listed), len(ids)), np.nan)
        for row, ranking in enumerate(listed.values()):
            places = [column[id] for id, _ in ranking]
            ranks[row, places] = np.arange(1, len(ranking) + 1)
            scores[row, places] = [score for _, score in ranking]
        return cls(list(listed), ids, ranks, scores)


def _weighted(parts: Doubles, weights: Doubles) -> tuple[Doubles, Doubles]:
    """(sums [n], contributions [R, n]). Summed from the smallest: equal contributions, from whom ever, sum alike."""
    contributions = parts * weights[:, None]
    return np.sort(contributions, axis=0).sum(axis=0), contributions


def _fuse(
    rankings: Mapping[str, Any], method: Method, weights: Weights | None, depth: int | None, top_k: int | None
) -> Hits:
    if not isinstance(rankings, Mapping) or not rankings:
        raise InputError("pass the rankings by name, as in {'dense': dense_hits, 'bm25': bm25_hits}")
    for name, value in (("depth", depth), ("top_k", top_k)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
    w = _weights(list(rankings), weights, method)
    table = _Table.of(rankings, depth)
    sums, contributions = _weighted(method.parts(table), w)
    known: dict[Id, Hit] = {}
    for found in rankings.values():
        for id, hit in as_hits(found).items():
            if id not in known or (hit.text and not known[id].text):  # the first view of a hit that has its text
                known[id] = hit
    order = np.argsort(-sums, kind="stable")[:top_k]
    columns = (table.ranks[:, order].T, table.scores[:, order].T, contributions[:, order].T)
    hits = []
    for i, total, *seen in zip(order.tolist(), sums[order].tolist(), *(c.tolist() for c in columns), strict=True):
        evidence = tuple(
            Evidence(name, rank or None, score if rank else None, part)
            for name, rank, score, part in zip(table.names, *seen, strict=True)
        )
        id = table.ids[i]
        hit = known.get(id)
        hits.append(hit.scored(total, evidence) if hit else Hit(total, id=id, evidence=evidence))
    query = next((q for r in rankings.values() if (q := getattr(r, "query", ""))), "")
    return Hits(tuple(hits), query, notes=method.notes() | {"weights": dict(zip(table.names, w.tolist(), strict=True))})


def _weights(names: list[str], weights: Weights | None, method: Method) -> Doubles:
    """[R]; of a convex combination they sum to 1."""
    if weights is None:
        listed: list[Any] = [1.0] * len(names)
    elif isinstance(weights, Mapping):
        if weights.keys() != set(names):
            raise InputError(f"weights must name each retriever, {names}, not {list(weights)}")
        listed = [weights[name] for name in names]
    else:
        listed = list(weights)
    try:
        w = np.array(listed, np.float64)
    except (TypeError, ValueError):
        w = np.empty(0)
    if w.shape != (len(names),) or not np.isfinite(w).all() or (w < 0).any() or not w.any():
        raise InputError(f"weights must be {len(names)} numbers of at least 0, one above 0, not {listed}")
    w = w / w.max() if w.max() > 1e100 else w
    return w / w.sum() if method.name == "convex" else w


# --- whole runs -------------------------------------------------------------------------------------------------------


def fuse_runs(runs: Mapping[str, Run], fuse: Callable[[Mapping[str, Any]], Hits] = reciprocal_rank) -> Run:
    """One run out of several: `fuse` applied to each query, one that a run lacks being an empty ranking there."""
    queries = dict.fromkeys(query for run in runs.values() for query in run)
    fused = {query: fuse({name: run.get(query, {}) for name, run in runs.items()}) for query in queries}
    return {query: {str(hit.id): hit.score for hit in hits} for query, hits in fused.items()}


@dataclass(frozen=True)
class Tuned:
    """Weights found by `tune`. Call it like `convex` or `reciprocal_rank` to fuse with them."""

    weights: dict[str, float]
    metric: str
    score: float  # mean of the metric over the queries looked at
    held_out: float | None  # over those kept back, None if there were none
    method: Method
    grid: list[tuple[dict[str, float], float]] = field(repr=False)  # every setting tried, with its score

    def __call__(self, rankings: Mapping[str, Any], depth: int | None = None, top_k: int | None = None) -> Hits:
        return _fuse(rankings, self.method, self.weights, depth, top_k)


def tune(
    runs: Mapping[str, Run],
    qrels: Qrels,
    metric: str = "ndcg@10",
    *,
    method: Literal["convex", "reciprocal rank"] = "convex",
    normalize: Normalize = "min-max",
    minima: Minima | None = None,
    k: float = 60,
    steps: int = 10,
    held_out: float = 0.0,
    seed: int = 0,
) -> Tuned:
    """The best weights on a grid: all shares that are multiples of 1 / steps and sum to 1.

    held_out: this share of the queries, drawn by `seed`, is not looked at but used for an honest figure in the end.
    Among equally good settings the one nearest to equal weights wins. The scores are those of `evaluate` on the fused
    run, queries that no run holds counting 0. Raises InputError.
    """
    settings = Method(method, k, normalize, dict(minima or {}))
    value = parse_metric(metric)
    if not isinstance(runs, Mapping) or len(runs) < 2:
        raise InputError("tuning needs two runs at least, by name: {'dense': run, 'bm25': run}")
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise InputError(f"steps must be a whole number of at least 1, not {steps!r}")
    if isinstance(held_out, bool) or not isinstance(held_out, (int, float)) or not 0 <= held_out < 1:
        raise InputError(f"held_out must be a share of the queries from 0 to below 1, not {held_out!r}")
    if not isinstance(qrels, Mapping):
        raise InputError(f"qrels must map each query to its judged documents, not be a {type(qrels).__name__}")
    whole("seed", seed, 0)
    queries = sorted(qrels)
    kept_back = set(np.random.default_rng(seed).permutation(len(queries))[: round(held_out * len(queries))].tolist())
    seen = [query for i, query in enumerate(queries) if i not in kept_back]
    if not seen or (held_out and not kept_back):
        raise InputError(f"{len(queries)} judged queries are too few to tune on, and to hold out {held_out:g} of them")
    prepared = {query: _Prepared.of(runs, qrels[query], query, settings) for query in queries}

    def mean(weights: Doubles, chosen: list[str]) -> float:
        return math.fsum(prepared[query].value(value, weights) for query in chosen) / len(chosen)

    names = list(runs)
    grid = [np.array(shares) / steps for shares in _compositions(steps, len(names))]
    scores = [mean(weights, seen) for weights in grid]
    best = max(range(len(grid)), key=lambda i: (scores[i], -round(float(grid[i] @ grid[i]), 9), -i))
    others = [query for i, query in enumerate(queries) if i in kept_back]
    by_name = [dict(zip(names, weights.tolist(), strict=True)) for weights in grid]
    honest = mean(grid[best], others) if others else None
    return Tuned(by_name[best], metric, scores[best], honest, settings, list(zip(by_name, scores, strict=True)))


@dataclass(frozen=True)
class _Prepared:
    """One query of a tuning: parts are computed once, only weights change."""

    parts: Doubles  # [R, n]
    relevances: list[int]  # of the n ids, largest id first, as trec_eval breaks ties
    judged: list[int]

    @classmethod
    def of(cls, runs: Mapping[str, Run], judged: Mapping[str, int], query: str, method: Method) -> _Prepared:
        table = _Table.of({name: run.get(query, {}) for name, run in runs.items()}, None)
        if table.ids and not isinstance(table.ids[0], str):
            raise InputError(f"query {query!r}: document ids must be strings, as they are in the qrels")
        relevances = [judged.get(id, UNJUDGED) for id in reversed(table.ids)]  # type: ignore[call-overload]
        return cls(method.parts(table)[:, ::-1], relevances, list(judged.values()))

    def value(self, metric: Callable[[list[int], list[int]], float], weights: Doubles) -> float:
        with np.errstate(over="ignore", under="ignore"):
            sums = _weighted(self.parts, weights)[0].astype(np.float32)
        return metric([self.relevances[i] for i in np.argsort(-sums, kind="stable").tolist()], self.judged)


def _compositions(total: int, parts: int) -> Iterator[tuple[int, ...]]:
    """All ways to write `total` as an ordered sum of `parts` numbers of at least 0."""
    if parts == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, parts - 1):
            yield (first, *rest)
