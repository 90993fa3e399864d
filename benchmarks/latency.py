"""From a question to ordered passages, one question at a time: milliseconds of every stage, median.

    encode    the query, SciFact's claims, in int8
    search    the ten, or hundred, nearest of 1,000,000 synthetic vectors of 384 (benchmarks/ann/data.py), float16 kept
    rerank    a hundred passages by a cross-encoder of MiniLM's size in int8: cut to 150 tokens, and whole SciFact
              abstracts; its head is random, which changes the order and not the time

The query is encoded in earnest, but what is searched for is a vector made like those that are stored. The index is
built once and kept under benchmarks/.cache.
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from typing import Any

import numpy as np

from minibi import BiEncoder, CrossEncoder
from minibi.evaluate.beir import read_beir
from minibi.evaluate.measure import Latency
from minibi.index.factory import index_factory
from minibi.index.inspect import load_index
from minibi.models.locate import locate
from minibi.search.pipeline import Pipeline
from minibi.search.retrievers import Dense

from .ann.data import exact, manifold
from .common import CACHE, SCIFACT, describe, machine, say, table, versions
from .contenders import open_headed

DIM, QUERIES = 384, 500
CUT = 150  # tokens
PORTION = 50_000  # rows added, and compared, at once


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--vectors", type=int, default=1_000_000)
    parser.add_argument("--index", default="IVF4096,PQ96x4fs,Refine(SQfp16)", help="as index_factory names it")
    parser.add_argument("--nprobe", type=int, default=32, help="of an inverted file")
    parser.add_argument("--ef", type=int, default=200, help="candidates ordered by the vectors as kept")
    parser.add_argument("--questions", type=int, default=30, help="that are reranked; ten times as many are not")
    parser.add_argument("--build", action="store_true", help="build the index, and stop")


def run(options: argparse.Namespace) -> dict[str, Any]:
    index, queries, truth = stored(options.index, options.vectors)
    if options.build:
        return {"built": repr(index)}
    breadth = {"nprobe": options.nprobe, "ef": options.ef}
    _, ids = index.search(queries, 10, **breadth)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), truth.tolist(), strict=True)])
    dataset = read_beir(SCIFACT)
    retriever = Elsewhere(BiEncoder(compute="int8"), index, queries)
    cross = CrossEncoder(open_headed(locate("all-MiniLM-L6-v2"), 1), compute="int8")
    whole, short = dataset.docs, cut(cross, dataset.docs, CUT)
    pipelines = {
        "retrieve 10": (Pipeline(retriever, depth=10), 10 * options.questions),
        f"retrieve 100, rerank, {CUT} tokens": (judged(retriever, cross, short), options.questions),
        "retrieve 100, rerank, whole abstracts": (judged(retriever, cross, whole), options.questions),
    }
    texts = list(dataset.queries.values())
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in pipelines}
    for number in range(-2, 10 * options.questions):  # the first two warm up
        for name, (pipeline, count) in pipelines.items():
            if number < count:
                start = time.perf_counter()
                hits = pipeline.search(texts[number % len(texts)], 10, **breadth)
                if number >= 0:
                    seconds[name].append({**hits.seconds, "total": time.perf_counter() - start})
    return {
        "machine": machine(),
        "versions": versions("numpy", "numba"),
        "index": repr(index),
        "recall@10": float(recall),
        "threads": options.threads,
        "pipelines": {
            name: {stage: Latency.of([s[stage] for s in found]) for stage in found[0]}
            for name, found in seconds.items()
        },
    }


class Elsewhere(Dense):
    """Encodes each query, then searches with the next of the synthetic ones."""

    def __init__(self, model: BiEncoder, index: Any, queries: Any):
        super().__init__(model, index)
        self.queries, self.asked = queries, 0

    def _ask(self, query: str) -> Any:
        super()._ask(query)
        self.asked += 1
        return self.queries[self.asked % len(self.queries)]


def judged(retriever: Dense, cross: CrossEncoder, texts: list[str]) -> Pipeline:
    """The hundred best, reordered by what stands in `texts` under their numbers, modulo how many there are."""
    return Pipeline(retriever, rerank=cross, texts=lambda id: texts[id % len(texts)])


def cut(model: CrossEncoder, texts: list[str], tokens: int) -> list[str]:
    """The beginning of each text, and of those behind it where it is too short: `tokens` tokens."""
    longer = [f"{a} {b} {c}" for a, b, c in zip(texts, texts[1:] + texts[:1], texts[2:] + texts[:2], strict=True)]
    spans = model.tokenizer.offsets(longer)
    return [text[: span[:tokens, 1].max()] for text, span in zip(longer, spans, strict=True)]


def stored(name: str, count: int) -> tuple[Any, Any, Any]:
    """(index of `count` synthetic vectors, queries [500, D], their ten true neighbours): kept in the cache."""
    folder = CACHE / "latency" / f"{count}x{DIM}"
    path = folder / (re.sub(r"\W+", "-", name).strip("-") + ".minibi")
    files = [folder / "queries.npy", folder / "truth.npy"]
    if not (path.exists() and files[1].exists()):
        build(name, count, path, files)
    return load_index(path), *map(np.load, files)


def build(name: str, count: int, path: Path, files: list[Path]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    say(f"making {count} vectors")
    x = manifold(count + QUERIES, DIM)
    x, queries = x[:count], x[count:]
    if not files[1].exists():
        say("finding the true neighbours")
        near = [exact(x[a : a + PORTION], queries, 10) + a for a in range(0, count, PORTION)]
        rows = np.concatenate(near, axis=1)
        scores = np.einsum("qkd,qd->qk", x[rows], queries)
        np.save(files[0], queries)
        np.save(files[1], np.take_along_axis(rows, np.argsort(-scores, kind="stable")[:, :10], axis=1))
    index = index_factory(name, DIM)
    start, first = time.perf_counter(), 0
    while first < count:  # an inverted file learns from its first portion
        last = first + max(PORTION, getattr(index, "train_size", 0) if first == 0 else 0)
        index.add(x[first:last])
        first = last
        say(f"{len(index)} vectors after {time.perf_counter() - start:.0f} s")
    index.save(path)


def render(result: dict[str, Any]) -> str:
    if "built" in result:
        return f"built: {result['built']}"
    rows = []
    for name, stages in result["pipelines"].items():
        told = {stage.removeprefix("dense "): latency for stage, latency in stages.items()}
        rows.append([name, *(f"{told[s].p50:.1f}" if s in told else "" for s in ("encode", "search", "rerank"))])
        rows[-1] += [f"{told['total'].p50:.1f}", f"{told['total'].p95:.1f}", told["total"].count]
    heads = ["ms, median", "encode", "search", "rerank", "total", "p95", "questions"]
    facts = f"{result['index']}, recall@10 {result['recall@10']:.3f}; {result['threads']} threads"
    return f"{describe(result['machine'], result['versions'])}\n\n{facts}\n\n{table(heads, rows)}"
