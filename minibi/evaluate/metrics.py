"""Retrieval metrics under trec_eval's rules: one short pure function per metric, one `evaluate` for a whole run.

The rules, held to trec_eval's own numbers by tests/golden/trec.json:

- A query's hits are ranked by score, descending; hits with equal scores by document id, descending. Whatever order or
  ranks the run came with is ignored.
- Scores are compared as float32, as in trec_eval up to 9.0.7 and in pytrec_eval: 1.0 and 1.0 + 1e-12 tie, and so do all
  scores beyond 3.4e38. (Later trec_eval sources compare doubles; a run of float32 scores ranks alike under both.)
- Ids are compared as the bytes of their UTF-8 form, so "9" stands above "10". Python's order of strings is the same.
- A document is relevant when it is judged 1 or more. Unjudged and negatively judged documents count as 0.
- Judged documents that were not retrieved stay in the denominators of recall, map and ndcg.
- A query without any relevant document scores 0 and is part of the mean.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from numbers import Integral
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError

Run = Mapping[str, Mapping[str, float]]  # query id -> document id -> score, the higher the better
Qrels = Mapping[str, Mapping[str, int]]  # query id -> document id -> judged relevance
Relevances = Sequence[int]
Metric = Callable[[Relevances, Relevances], float]

DEPTH = 100  # hits per query that are asked for where nobody says
UNJUDGED = -(2**31)  # the relevance of a hit nobody judged: worth 0 everywhere, told apart by `judged_share` alone


# --- the metrics: (relevance of every hit in rank order, every judged relevance of the query, cut-off) -> value ------


def linear_gain(relevance: int) -> float:
    """The judgement itself: gain 1, 2, 3 for relevance 1, 2, 3 (trec_eval; Järvelin & Kekäläinen 2002)."""
    return float(max(relevance, 0))


def exponential_gain(relevance: int) -> float:
    """2^relevance - 1: gain 1, 3, 7 for relevance 1, 2, 3.

    Burges et al., Learning to rank using gradient descent, ICML 2005.
    """
    if relevance > 1000:
        raise InputError(f"relevance {relevance} is too large for the exponential gain of ndcg_exp: use ndcg")
    return 2.0 ** max(relevance, 0) - 1.0


def dcg(relevances: Relevances, gain: Callable[[int], float] = linear_gain) -> float:
    """Discounted cumulative gain: the sum over ranks i = 1, 2, … of gain(relevance_i) / log2(i + 1).

    Järvelin & Kekäläinen, Cumulated gain-based evaluation of IR techniques, TOIS 2002. Their discount is 1 for rank 1
    and rank 2 alike; log2(i + 1), from Burges et al. 2005, is what trec_eval computes.
    """
    return sum((gain(r) / math.log2(rank + 1) for rank, r in enumerate(relevances, start=1) if r > 0), start=0.0)


def ndcg(
    ranked: Relevances, judged: Relevances, k: int | None = None, gain: Callable[[int], float] = linear_gain
) -> float:
    """DCG of the first k hits / DCG of the k best judgements in the best order. trec_eval: ndcg_cut_k, ndcg."""
    ideal = dcg(sorted(judged, reverse=True)[:k], gain)
    return dcg(ranked[:k], gain) / ideal if ideal else 0.0


def reciprocal_rank(ranked: Relevances, judged: Relevances, k: int | None = None) -> float:
    """1 / rank of the first relevant hit, 0 if the first k hold none; its mean over queries is MRR@k.

    trec_eval: recip_rank. Voorhees, The TREC-8 question answering track report, 1999.
    """
    return next((1 / rank for rank, r in enumerate(ranked[:k], start=1) if r >= 1), 0.0)


def recall(ranked: Relevances, judged: Relevances, k: int | None = None) -> float:
    """Relevant documents among the first k hits / all relevant documents. trec_eval: recall_k, set_recall."""
    relevant = _count_relevant(judged)
    return _count_relevant(ranked[:k]) / relevant if relevant else 0.0


def precision(ranked: Relevances, judged: Relevances, k: int | None = None) -> float:
    """Relevant documents among the first k hits / k, even if fewer were retrieved. trec_eval: P_k, set_P.

    Without k: divided by the number of hits.
    """
    hits = len(ranked) if k is None else k
    return _count_relevant(ranked[:k]) / hits if hits else 0.0


def average_precision(ranked: Relevances, judged: Relevances, k: int | None = None) -> float:
    """The sum, over relevant hits among the first k, of the precision at their rank / all relevant documents.

    Its mean over queries is MAP. trec_eval: map_cut_k, map. Buckley & Voorhees, Retrieval system evaluation, 2005.
    """
    relevant = _count_relevant(judged)
    found, total = 0, 0.0
    for rank, r in enumerate(ranked[:k], start=1):
        if r >= 1:
            found += 1
            total += found / rank
    return total / relevant if relevant else 0.0


def r_precision(ranked: Relevances, judged: Relevances) -> float:
    """Precision at rank R, where R is the number of relevant documents. trec_eval: Rprec."""
    return precision(ranked, judged, _count_relevant(judged))


def success(ranked: Relevances, judged: Relevances, k: int | None = None) -> float:
    """1 if the first k hits hold a relevant document, else 0; also called hit rate. trec_eval: success_k."""
    return 1.0 if _count_relevant(ranked[:k]) else 0.0


def judged_share(ranked: Relevances, judged: Relevances, k: int | None = None) -> float:
    """Hits with any judgement among the first k / hits among the first k; 0 without hits. ir_measures: Judged@k.

    It says nothing of quality, but how much the other values rest on: unjudged hits count as not relevant.
    """
    first = ranked[:k]
    return sum(r != UNJUDGED for r in first) / len(first) if len(first) else 0.0


def _count_relevant(relevances: Relevances) -> int:
    return sum(r >= 1 for r in relevances)


METRICS: dict[str, Callable[..., float]] = {
    "ndcg": ndcg,
    "ndcg_exp": partial(ndcg, gain=exponential_gain),
    "mrr": reciprocal_rank,
    "recall": recall,
    "precision": precision,
    "map": average_precision,
    "success": success,
    "rprec": r_precision,
    "judged": judged_share,
}


def parse_metric(name: str) -> Metric:
    """The function behind a name such as "ndcg@10", or "map" for no cut-off; InputError for any other name."""
    parts = re.fullmatch(r"(\w+)(?:@([1-9][0-9]{0,8}))?", name, re.ASCII) if isinstance(name, str) else None
    if parts is None or parts[1] not in METRICS:
        raise InputError(
            f"unknown metric {name!r}: choose from {', '.join(METRICS)}, each alone or with a cut-off such as ndcg@10"
        )
    if parts[1] == "rprec":
        if parts[2]:
            raise InputError(f"{name!r}: rprec has its own cut-off, the number of relevant documents: write 'rprec'")
        return r_precision
    return partial(METRICS[parts[1]], k=int(parts[2]) if parts[2] else None)


def default_metrics(k: int = DEPTH) -> tuple[str, ...]:
    """What a run of k hits per query is usually judged by: ndcg@10, mrr@10 and recall@k, of fewer hits if k is less."""
    return f"ndcg@{min(k, 10)}", f"mrr@{min(k, 10)}", f"recall@{k}"


DEFAULT_METRICS = default_metrics()


# --- a whole run ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Result:
    """What `evaluate` found: values of each query and their means, both under the metric names as they were given."""

    mean: dict[str, float]  # metric -> mean over the queries of per_query
    per_query: dict[str, dict[str, float]]  # query id -> metric -> value, in the order of the qrels
    missing: list[str]  # judged queries the run does not hold: in per_query with zeros, or left out of it

    def values(self, metric: str) -> np.ndarray:
        """One metric over the queries in the order of `per_query`, float64 [Q]: what a paired test wants."""
        return np.array([v[metric] for v in self.per_query.values()])


def evaluate(
    qrels: Qrels,
    run: Run,
    metrics: Sequence[str] = DEFAULT_METRICS,
    *,
    missing: Literal["zero", "skip"] = "zero",
    ignore_identical_ids: bool = False,
) -> Result:
    """Scores `run` against `qrels` under the rules at the top of this file.

    missing
        what a judged query without hits in the run is worth. "zero" (the literature's habit, and trec_eval -c): 0,
        so a system gains nothing by keeping silent. "skip": it is left out of the mean (trec_eval's own default).
        Queries that only the run holds are not looked at, in either case.
    ignore_identical_ids
        drop hits whose id is that of the query, as BEIR's own evaluation does: in ArguAna and Quora the queries are
        documents too. Retrieve one hit more than the largest cut-off, then.

    InputError for an unknown metric, qrels without queries, ids that are not strings, scores that are no numbers or
    NaN, relevances that are no integers, and a run that shares no query with the qrels.
    """
    if isinstance(metrics, str):
        raise InputError(f"metrics must be a list of names: write [{metrics!r}]")
    functions = {name: parse_metric(name) for name in metrics}
    if missing not in ("zero", "skip"):
        raise InputError(f"missing must be 'zero' or 'skip', not {missing!r}")
    if not qrels:
        raise InputError("qrels hold no query: there is nothing to evaluate against")
    if not any(query in run for query in qrels) and (run or missing == "skip"):
        raise InputError("run and qrels share no query id: check that both use the same ids, as strings")

    per_query: dict[str, dict[str, float]] = {}
    absent = [query for query in qrels if query not in run]
    for query, judgements in qrels.items():
        if query not in run and missing == "skip":
            continue
        judged = _as_relevances(judgements, query)
        hits = rank_hits(run.get(query, {}), query)
        if ignore_identical_ids:
            hits = [doc for doc in hits if doc != query]
        ranked = [judged.get(doc, UNJUDGED) for doc in hits]
        everything = list(judged.values())
        per_query[query] = {name: function(ranked, everything) for name, function in functions.items()}
    mean = {name: math.fsum(v[name] for v in per_query.values()) / len(per_query) for name in functions}
    return Result(mean, per_query, absent)


def rank_hits(scores: Mapping[str, float], query: str = "") -> list[str]:
    """Document ids in trec_eval's order: score as float32 descending, then id descending. `query` is for messages."""
    if not isinstance(scores, Mapping):
        raise InputError(f"query {query!r}: the run must map document ids to scores, not be a {type(scores).__name__}")
    docs = list(scores)
    if not all(isinstance(doc, str) for doc in docs):
        raise InputError(f"query {query!r}: document ids must be strings, as they are in the qrels")
    try:
        values = np.asarray(list(scores.values()))
    except ValueError:  # a sequence among the scores
        values = np.empty(0, object)
    if values.ndim != 1 or values.dtype.kind not in "fiub":
        raise InputError(f"query {query!r}: every score must be a number")
    if np.isnan(values).any():
        doc = docs[int(np.isnan(values).argmax())]
        raise InputError(f"query {query!r}: the score of document {doc!r} is NaN, which has no rank: drop the hit")
    with np.errstate(over="ignore", under="ignore"):
        as_compared = values.astype(np.float64).astype(np.float32).tolist()
    return [doc for _, doc in sorted(zip(as_compared, docs, strict=True), reverse=True)]


def run_from_arrays(query_ids: Sequence[str], doc_ids: Sequence[str], scores: ArrayLike, rows: ArrayLike) -> Run:
    """A run from what an index search returns: scores [Q, K] and rows [Q, K] that count into `doc_ids`.

    A negative row means no hit. InputError for other shapes, rows beyond `doc_ids`, and an id that occurs twice.
    """
    values, places = np.asarray(scores), np.asarray(rows)
    if places.ndim != 2 or values.shape != places.shape or len(places) != len(query_ids):
        raise InputError(
            f"scores and rows must both have shape [{len(query_ids)}, K], one row of hits per query, "
            f"not {list(values.shape)} and {list(places.shape)}"
        )
    if places.dtype.kind not in "iu":
        raise InputError(f"rows must be integers that count into doc_ids, not {places.dtype}")
    if places.size and places.max() >= len(doc_ids):
        raise InputError(
            f"row {places.max()} is beyond the {len(doc_ids)} doc_ids: pass the ids of all indexed documents"
        )
    run: dict[str, dict[str, float]] = {}
    for query, hit_scores, hit_rows in zip(query_ids, values.tolist(), places.tolist(), strict=True):
        hits = [(doc_ids[row], score) for row, score in zip(hit_rows, hit_scores, strict=True) if row >= 0]
        if query in run:
            raise InputError(f"query id {query!r} occurs twice: give every query its own")
        run[query] = dict(hits)
        if len(run[query]) != len(hits):
            raise InputError(f"query {query!r} has a document among its hits twice: keep the best hit of each")
    return run


def _as_relevances(judgements: Mapping[str, int], query: str) -> dict[str, int]:
    if not isinstance(judgements, Mapping):
        raise InputError(f"query {query!r}: qrels must map document ids to relevances, as in {{'d1': 1}}")
    for doc, relevance in judgements.items():
        if not isinstance(relevance, Integral):
            raise InputError(f"query {query!r}: the relevance of {doc!r} must be an integer, not {relevance!r}")
    return {doc: int(relevance) for doc, relevance in judgements.items()}
