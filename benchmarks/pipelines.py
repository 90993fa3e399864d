"""The usual pipelines on data sets in BEIR's layout: quality, and milliseconds per query, one query at a time.

    bm25       words
    dense      the bundled model's vectors, compared exactly
    hybrid     both, fused by reciprocal rank
    colbert    the same model's token vectors, every document scored by MaxSim: late interaction nobody trained it for
    rerank     hybrid, its best 100 reordered by those token vectors, which were stored beforehand

Arithmetic is int8; token vectors are kept as bytes. Encoded corpora are kept under benchmarks/.cache. `minibi eval
DIR --pipeline NAME --compute int8` gives the same of the first four; its rerank encodes the candidates anew for every
query, as it must where no token vectors are stored: `encoded anew` says how long that takes.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from minibi import BM25, BiEncoder, FlatIndex, LateInteraction, MultiVectorIndex
from minibi.evaluate.beir import Dataset, read_beir
from minibi.evaluate.measure import Latency, measure
from minibi.search.pipeline import Pipeline
from minibi.search.retrievers import Dense, Late, Lexical

from .common import CACHE, SCIFACT, describe, machine, say, table, versions

NAMES = ("bm25", "dense", "hybrid", "rerank", "colbert")
METRICS = ("ndcg@10", "mrr@10", "recall@100")
ANEW = 8  # queries whose candidates are encoded anew


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", nargs="+", type=Path, default=[SCIFACT], help="folders in BEIR's layout")
    parser.add_argument("--only", default=",".join(NAMES), help="pipelines, with commas between")
    parser.add_argument("--queries", type=int, help="only the first so many, to look at times alone")


def run(options: argparse.Namespace) -> dict[str, Any]:
    facts, names = machine(), options.only.split(",")
    model, late = BiEncoder(compute="int8"), LateInteraction(compute="int8")
    rows = []
    for folder in options.data:
        dataset = read_beir(folder)
        docs, labels = dataset.docs, dataset.doc_ids
        if options.queries:
            some = list(dataset.queries)[: options.queries]
            queries, qrels = ({q: held[q] for q in some} for held in (dataset.queries, dataset.qrels))
            dataset = replace(dataset, queries=queries, qrels=qrels)
        words = Lexical(BM25(), labels=labels)
        words.add(docs)
        dense = Dense(model, vectors(folder.name, docs, model), labels=labels)
        held = dict(zip(labels, docs, strict=True))
        tokens = Late(late, token_vectors(folder.name, docs, late), labels=labels)
        pipelines = {
            "bm25": Pipeline(words, texts=held),
            "dense": Pipeline(dense, texts=held),
            "hybrid": Pipeline([dense, words], texts=held),
            "rerank": Pipeline([dense, words], rerank=tokens, texts=held),
            "colbert": Pipeline(tokens, texts=held),
        }
        for name in names:
            say(f"{folder.name}: {name}, {len(dataset.queries)} queries")
            found = measure(dataset, pipelines[name].search, k=100, metrics=METRICS)
            row = {"data": folder.name, "pipeline": name, **found.result.mean}
            row["ms"] = {stage: latency.p50 for stage, latency in found.stages.items()}
            rows.append(row)
        if "rerank" in names:
            rows[-1 - names[::-1].index("rerank")]["encoded anew"] = anew(dataset, [dense, words], late, held)
    return {"machine": facts, "versions": versions("numpy", "numba"), "threads": options.threads, "rows": rows}


def anew(dataset: Dataset, retrievers: list[Any], late: LateInteraction, held: dict[str, str]) -> float:
    """Median milliseconds of reranking a hundred candidates that are encoded when they are needed."""
    pipeline = Pipeline(retrievers, rerank=late, texts=held)
    some = list(dataset.queries.values())[:ANEW]
    return Latency.of([pipeline.search(text, 100).seconds["rerank"] for text in some]).p50


def kept(name: str, docs: list[str], model: Any, kind: Any) -> tuple[Path, Any]:
    """(where an index of these texts by this model is kept, that index if it is there)."""
    stamp = hashlib.sha256("\0".join([model.fingerprint, *docs]).encode()).hexdigest()[:16]
    path = CACHE / "pipelines" / f"{name}-{kind.kind}-{stamp}.minibi"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path, kind.load(path) if path.exists() else None


def vectors(name: str, docs: list[str], model: BiEncoder) -> FlatIndex:
    path, index = kept(name, docs, model, FlatIndex)
    if index is None:
        say(f"{name}: encoding {len(docs)} texts")
        index = FlatIndex(model.dim, fingerprint=model.fingerprint)
        index.add(model.encode_document(docs, truncation="silent"))
        index.save(path)
    return index


def token_vectors(name: str, docs: list[str], model: LateInteraction) -> MultiVectorIndex:
    path, index = kept(name, docs, model, MultiVectorIndex)
    if index is None:
        index = MultiVectorIndex(model.dim, storage="int8", fingerprint=model.fingerprint)
        for first in range(0, len(docs), 512):
            say(f"{name}: token vectors of {first} of {len(docs)} texts")
            index.add(model.encode_document(docs[first : first + 512], truncation="silent"))
        index.save(path)
    return index


def render(result: dict[str, Any]) -> str:
    rows = result["rows"]
    lines = []
    for row in rows:
        stages = ", ".join(f"{name} {ms:.1f}" for name, ms in row["ms"].items() if name != "total")
        more = f"; encoded anew {row['encoded anew']:.0f}" if "encoded anew" in row else ""
        quality = [f"{row[metric]:.4f}" for metric in METRICS]
        lines.append([row["data"], row["pipeline"], *quality, f"{row['ms']['total']:.1f}", stages + more])
    for name in dict.fromkeys(row["pipeline"] for row in rows):
        mine = [row for row in rows if row["pipeline"] == name]
        means = [f"{np.mean([row[metric] for row in mine]):.4f}" for metric in METRICS]
        lines.append(["mean", name, *means, "", ""])
    heads = ["data", "pipeline", "nDCG@10", "MRR@10", "recall@100", "ms p50", "of which"]
    facts = f"{describe(result['machine'], result['versions'])}\n{result['threads']} threads, one query at a time"
    return f"{facts}\n\n{table(heads, lines, left=2)}"
