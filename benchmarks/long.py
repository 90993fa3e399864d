"""Long documents of which one sentence, or one abstract, answers: cut off, or read in windows.

    --pairs FILE    JSONL of {"query", "positive"}, neighbours from one article, as SQuAD's are: the sentences are
                    joined in the order of the file, so that a document is 24 sentences, mostly about one thing
    --data DIR      a data set in BEIR's layout: eight texts, drawn by chance, become one document

A question's document is the one that holds its sentence or text. Dense vectors in int8 (cut off at the model's 256
tokens, or averaged over all that was read in pieces), BM25, and both fused, each of whole documents and of windows.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minibi import BiEncoder
from minibi.evaluate.beir import Dataset, read_beir
from minibi.evaluate.measure import measure
from minibi.evaluate.significance import paired_bootstrap
from minibi.search.pipeline import Pipeline
from minibi.search.retrievers import Dense, Lexical, Retriever
from minibi.search.windowed import AGGREGATES, Windowed
from minibi.train.data import read_examples

from .common import describe, machine, say, table, versions

SENTENCES, TEXTS = 24, 8  # in a document
METRICS = ("ndcg@10", "mrr@10", "success@1")


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--pairs", nargs="*", type=Path, default=[])
    parser.add_argument("--data", nargs="*", type=Path, default=[])
    parser.add_argument("--sizes", default="256,128,64", help="tokens of a window")
    parser.add_argument("--questions", type=int, default=1000, help="drawn from each data set, at most")


def run(options: argparse.Namespace) -> dict[str, Any]:
    if not options.pairs + options.data:
        raise SystemExit("long needs --pairs FILE or --data DIR: it makes long documents of what these hold")
    facts, model = machine(), BiEncoder(compute="int8")
    sizes = [int(size) for size in options.sizes.split(",")]
    sets = {path.stem: of_pairs(path) for path in options.pairs} | {path.name: of_texts(path) for path in options.data}
    rows: list[dict[str, Any]] = []
    for name, dataset in sets.items():
        keep = np.random.default_rng(0).permutation(len(dataset.queries))[: options.questions]
        chosen = [list(dataset.queries)[i] for i in sorted(keep.tolist())]
        dataset = made(dataset.docs, {q: dataset.queries[q] for q in chosen}, {q: dataset.qrels[q] for q in chosen})
        lengths = [len(ids) for ids in model.tokenizer.bare(dataset.docs)]
        facts |= {f"tokens in a document of {name}": int(np.median(lengths)), f"documents of {name}": len(lengths)}
        rows += measured(name, dataset, model, sizes)
    return {"machine": facts, "versions": versions("numpy", "numba"), "threads": options.threads, "rows": rows}


def measured(name: str, dataset: Dataset, model: BiEncoder, sizes: Sequence[int]) -> list[dict[str, Any]]:
    """A row for each way of reading, each compared with documents cut off (words: with whole documents)."""
    found: list[tuple[str, str, Any]] = []

    def ask(kind: str, how: str, retrievers: Sequence[Retriever]) -> None:
        say(f"{name}: {kind}, {how}")
        found.append((kind, how, measure(dataset, Pipeline(list(retrievers)).search, k=100, metrics=METRICS)))

    def filled(retriever: Any, **options: Any) -> Any:
        start = time.perf_counter()
        retriever.add(dataset.docs, dataset.doc_ids, **options)
        say(f"{name}: {retriever!r}, {time.perf_counter() - start:.0f} s")
        return retriever

    cut = filled(Dense(model), truncation="silent")
    words = filled(Lexical())
    ask("dense", "cut off", [cut])
    ask("dense", "pieces averaged", [filled(Dense(model), truncation="chunk")])
    ask("bm25", "whole", [words])
    ask("hybrid", "cut off, whole", [cut, words])
    for size in sizes:
        dense = filled(Windowed(Dense(model), size=size), truncation="silent")
        lexical = filled(Windowed(Lexical(), size=size, tokenizer=model.tokenizer))
        for aggregate in AGGREGATES:
            dense.aggregate = lexical.aggregate = aggregate
            how = f"windows of {size}, {aggregate}"
            ask("dense", how, [dense])
            ask("bm25", how, [lexical])
            ask("hybrid", f"dense {how}; bm25 whole", [dense, words])
    base = {kind: next(m.result for k, _, m in found if k == kind) for kind, _, _ in found}
    rows = []
    for kind, how, got in found:
        values = [result.values("ndcg@10") for result in (got.result, base[kind])]
        gain = None if got.result is base[kind] else paired_bootstrap(*values)
        row = {"data": name, "kind": kind, "how": how, **got.result.mean, "ms": got.stages["total"].p50}
        rows.append(row | ({} if gain is None else {"gain": gain.difference, "low": gain.low, "high": gain.high}))
    return rows


def of_pairs(path: Path) -> Dataset:
    """Sentences joined in the order of a file of pairs."""
    examples = read_examples(path)
    sentences = list(dict.fromkeys(example.documents[0] for example in examples))
    place = {sentence: str(i // SENTENCES) for i, sentence in enumerate(sentences)}
    docs = [" ".join(sentences[a : a + SENTENCES]) for a in range(0, len(sentences), SENTENCES)]
    queries = {str(i): example.query for i, example in enumerate(examples)}
    return made(docs, queries, {str(i): {place[e.documents[0]]: 1} for i, e in enumerate(examples)})


def of_texts(folder: Path) -> Dataset:
    """Texts of a data set joined by eights."""
    dataset = read_beir(folder)
    order = np.random.default_rng(0).permutation(len(dataset.docs)).tolist()
    place = {dataset.doc_ids[row]: str(i // TEXTS) for i, row in enumerate(order)}
    docs = ["\n\n".join(dataset.docs[row] for row in order[a : a + TEXTS]) for a in range(0, len(order), TEXTS)]
    qrels: dict[str, dict[str, int]] = {}
    for query, judged in dataset.qrels.items():
        qrels[query] = {}
        for doc, relevance in judged.items():
            if doc in place:
                qrels[query][place[doc]] = max(relevance, qrels[query].get(place[doc], 0))
    return made(docs, dataset.queries, qrels)


def made(docs: list[str], queries: dict[str, str], qrels: dict[str, dict[str, int]]) -> Dataset:
    return Dataset([str(i) for i in range(len(docs))], docs, [""] * len(docs), queries, qrels, "made", [])


def render(result: dict[str, Any]) -> str:
    lines = []
    for row in result["rows"]:
        gain = f"{row['gain']:+.4f} ({row['low']:+.4f} to {row['high']:+.4f})" if "gain" in row else ""
        quality = [f"{row[metric]:.4f}" for metric in METRICS]
        lines.append([row["data"], row["kind"], row["how"], *quality, gain, f"{row['ms']:.1f}"])
    heads = ["data", "", "documents are", "nDCG@10", "MRR@10", "success@1", "gain in nDCG@10, 95 %", "ms p50"]
    facts = {key: value for key, value in result["machine"].items() if " of " in key}
    return f"{describe(result['machine'], result['versions'])}\n{json.dumps(facts)}\n\n{table(heads, lines, left=3)}"
