"""BM25 beside bm25s with its Numba backend, one thread, contenders in turn.

    synthetic   200,000 documents of some 86 terms drawn by Zipf's law, 300 queries of 6 terms
    scifact     5,183 abstracts and 300 claims, indexed from the same terms
    indexing    the same abstracts from raw text, each with its own tokenizer: stop words, Snowball English

Queries are timed in the form each takes fastest (term numbers for bm25s, lists of terms for minibi), in one call; and
as text, tokenizing included. Before that the scores of both are compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minibi import BM25
from minibi.evaluate.beir import read_beir
from minibi.evaluate.metrics import evaluate, run_from_arrays
from minibi.text.words import Words

from .common import SCIFACT, Ratio, describe, interleave, machine, ratio, say, table, versions

GOALS = {"synthetic": 4.5, "scifact": 3.0, "indexing": 1.0}
K = 10


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", default="synthetic,scifact,indexing,ndcg", help="parts, with commas between")
    parser.add_argument("--documents", type=int, default=200_000, help="of the synthetic part")
    parser.add_argument("--data", nargs="*", type=Path, default=[], help="more folders in BEIR's layout for nDCG@10")


def run(options: argparse.Namespace) -> dict[str, Any]:
    facts, parts = machine(), options.only.split(",")
    result: dict[str, Any] = {"machine": facts, "rounds": options.rounds, "ratios": [], "ndcg_at_10": []}
    result["versions"] = versions("numpy", "numba", "bm25s", "PyStemmer")
    if "synthetic" in parts:
        result["ratios"] += synthetic(options.documents, options.rounds)
    dataset = read_beir(SCIFACT)
    if "scifact" in parts:
        words, queries = Words(), list(dataset.queries.values())
        docs, asked = [words(text) for text in dataset.docs], [words(query) for query in queries]
        result["ratios"] += search("scifact", docs, asked, options.rounds, queries)
    if "indexing" in parts:
        result["ratios"].append(indexing(dataset.docs, options.rounds))
    if "ndcg" in parts:
        result["ndcg_at_10"] = [ndcg(folder) for folder in (SCIFACT, *options.data)]
    return result


def synthetic(documents: int, rounds: int) -> list[dict[str, Any]]:
    """Documents and queries as skewed as words are."""
    rng, vocabulary = np.random.default_rng(0), 100_000
    p = 1 / (np.arange(1, vocabulary + 1) + 2.7) ** 1.07
    p /= p.sum()
    lengths = np.maximum(5, rng.lognormal(np.log(80), 0.4, documents).astype(int))
    names = np.array([f"t{i}" for i in range(vocabulary)], object)
    ends = np.cumsum(lengths)
    tokens = names[rng.choice(vocabulary, ends[-1], p=p)].tolist()
    docs = [tokens[end - n : end] for end, n in zip(ends.tolist(), lengths.tolist(), strict=True)]
    rarer = p**0.75 / (p**0.75).sum()
    queries = [names[np.unique(rng.choice(vocabulary, 6, p=rarer))].tolist() for _ in range(300)]
    return search("synthetic", docs, queries, rounds)


def search(
    name: str, docs: list[list[str]], queries: list[list[str]], rounds: int, texts: Sequence[str] = ()
) -> list[dict[str, Any]]:
    """The same terms indexed by both, then the same queries."""
    import bm25s

    say(f"{name}: indexing {len(docs)} documents")
    start = time.perf_counter()
    mine = BM25()
    mine.add(docs)
    seconds = [time.perf_counter() - start]
    numbers: dict[str, int] = {}
    ids = [[numbers.setdefault(term, len(numbers)) for term in doc] for doc in docs]
    start = time.perf_counter()
    peer = bm25s.BM25(backend="numba")
    peer.index((ids, numbers), show_progress=False)
    seconds.append(time.perf_counter() - start)
    say(f"{name}: {seconds[0]:.1f} s from lists of terms, bm25s {seconds[1]:.1f} s from lists of numbers")
    asked = [[numbers[term] for term in query if term in numbers] for query in queries]

    def retrieve(tokens: Any) -> Any:
        return peer.retrieve(tokens, k=K, show_progress=False, n_threads=1)

    scores, _ = mine.search(queries, K)
    difference = np.abs(np.where(np.isfinite(scores), scores, 0) - retrieve(asked).scores).max()
    assert difference < 1e-4, f"other scores than bm25s: {difference}"
    runs: dict[tuple[str, str], Callable[[], Any]] = {
        ("terms, one call", "minibi"): lambda: mine.search(queries, K),
        ("terms, one call", "bm25s"): lambda: retrieve(asked),
        ("terms, query by query", "minibi"): lambda: [mine.search([query], K) for query in queries],
        ("terms, query by query", "bm25s"): lambda: [retrieve([query]) for query in asked],
    }
    if texts:
        stemmer = _stemmer()

        def from_text() -> Any:
            return retrieve(
                bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, return_ids=False, show_progress=False)
            )

        runs["text, one call", "minibi"] = lambda: mine.search(list(texts), K)
        runs["text, one call", "bm25s"] = from_text
    say(f"{name}: {rounds} rounds")
    times = interleave(runs, rounds, seconds=0.2)
    forms = dict.fromkeys(form for form, _ in runs)
    return [
        {
            "part": name,
            "form": form,
            "qps": len(queries) / Ratio.of(times[form, "minibi"]).median,
            "peer_qps": len(queries) / Ratio.of(times[form, "bm25s"]).median,
            "ratio": ratio(times[form, "bm25s"], times[form, "minibi"]),
            "goal": GOALS[name] if form == "terms, one call" else None,
            "largest_difference": float(difference),
        }
        for form in forms
    ]


def indexing(texts: list[str], rounds: int) -> dict[str, Any]:
    """Raw text to an index that can be searched; nothing is remembered from round to round."""
    import bm25s

    def mine() -> None:
        BM25().add(texts)

    def peer() -> None:
        tokens = bm25s.tokenize(texts, stopwords="en", stemmer=_stemmer(), show_progress=False)
        bm25s.BM25(backend="numba").index(tokens, show_progress=False)

    say(f"indexing {len(texts)} texts, {rounds} rounds")
    times = interleave({"minibi": mine, "bm25s": peer}, rounds, seconds=0.0)
    return {
        "part": "indexing",
        "form": "text",
        "qps": len(texts) / Ratio.of(times["minibi"]).median,
        "peer_qps": len(texts) / Ratio.of(times["bm25s"]).median,
        "ratio": ratio(times["bm25s"], times["minibi"]),
        "goal": GOALS["indexing"],
    }


def ndcg(folder: Path) -> dict[str, Any]:
    """nDCG@10 of both with their own tokenizers and default parameters."""
    import bm25s

    dataset = read_beir(folder)
    texts, queries = dataset.docs, list(dataset.queries.values())
    index = BM25()
    index.add(texts)
    options: dict[str, Any] = {"stopwords": "en", "stemmer": _stemmer(), "show_progress": False}
    peer = bm25s.BM25(backend="numba")
    peer.index(bm25s.tokenize(texts, **options), show_progress=False)
    found = peer.retrieve(bm25s.tokenize(queries, return_ids=False, **options), k=100, show_progress=False, n_threads=1)
    row: dict[str, Any] = {"data": folder.name}
    for name, (scores, rows) in {
        "minibi": index.search(queries, 100),
        "bm25s": (found.scores, found.documents),
    }.items():
        run = run_from_arrays(list(dataset.queries), dataset.doc_ids, scores, np.asarray(rows).astype(np.int64))
        row[name] = evaluate(dataset.qrels, run, ["ndcg@10"]).mean["ndcg@10"]
    return row


def _stemmer() -> Any:
    import Stemmer

    return Stemmer.Stemmer("english")


def render(result: dict[str, Any]) -> str:
    parts = [
        describe(result["machine"], result["versions"]),
        f"one thread, {result['rounds']} rounds; medians (quartiles)",
    ]
    rows = [
        (
            r["part"], r["form"], f"{r['qps']:,.0f}", f"{r['peer_qps']:,.0f}", r["ratio"],
            "" if r["goal"] is None else f"≥ {r['goal']} {'yes' if r['ratio'].median >= r['goal'] else 'no'}",
        )
        for r in result["ratios"]
    ]  # fmt: skip
    if rows:
        parts.append(table(("part", "from", "minibi per s", "bm25s per s", "times", "goal"), rows, left=2))
    if result["ndcg_at_10"]:
        rows = [(r["data"], f"{r['minibi']:.4f}", f"{r['bm25s']:.4f}") for r in result["ndcg_at_10"]]
        parts.append(table(("nDCG@10", "minibi", "bm25s"), rows))
    return "\n\n".join(parts)
