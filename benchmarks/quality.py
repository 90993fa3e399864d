"""How near the vectors come to torch's with the same stored weights, and what that does to a ranking."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from minibi import BiEncoder
from minibi.evaluate.beir import read_beir
from minibi.evaluate.metrics import evaluate, run_from_arrays
from minibi.shapes import Floats

from .common import SCIFACT, say
from .contenders import Minibi, Peers, computes, option
from .export_onnx import INT8
from .workloads import LONGEST, Cutter, real_texts


def accuracy(folder: Path, ours: dict[str, Minibi], peers: Peers, count: int = 1000) -> list[dict[str, Any]]:
    """Largest difference of a component, and cosine errors 1 - cos, over real texts read up to 512 tokens.

    onnxruntime gets batches of 8 (its int8 results depend on what shares a batch).
    """
    if peers.sentence_transformers is None:
        return []
    texts = real_texts(count)
    say(f"accuracy on {count} texts: torch")
    truth = peers.sentence_transformers.encode(texts).astype(np.float64)
    runs: dict[str, Callable[[], Floats]] = {}
    for compute, model in ours.items():
        runs[f"minibi {compute}"] = lambda model=model: model.bi_encoder.encode(texts, truncation="silent")
    cutter = Cutter(folder)
    cutter.tokenizer.enable_truncation(LONGEST)
    work = cutter.work("accuracy", "", texts)
    for name in ("traced", *INT8):
        if name in peers.onnx:
            runs[f"onnxruntime {name}"] = peers.onnx[name].ids(work, 8)
    results = []
    for name, run in runs.items():
        say(f"accuracy on {count} texts: {name}")
        v = run().astype(np.float64)
        errors = 1 - (v * truth).sum(1) / (np.linalg.norm(v, axis=1) * np.linalg.norm(truth, axis=1))
        results.append(
            {
                "name": name,
                "texts": count,
                "largest_difference": float(np.abs(v - truth).max()),
                "cosine_error_mean": float(errors.mean()),
                "cosine_error_max": float(errors.max()),
            }
        )
    return results


def ndcg(folder: Path, peers: Peers) -> dict[str, float]:
    """SciFact nDCG@10 by exact search, texts cut at the model's own length."""
    dataset = read_beir(SCIFACT)
    queries = list(dataset.queries.values())
    encoders: dict[str, Callable[[list[str]], Floats]] = {}
    for compute in computes():
        model = BiEncoder(folder, **option(compute))
        encoders[f"minibi {compute}"] = lambda texts, model=model: model.encode(texts, truncation="silent")
        length = model.max_seq_length
    if peers.sentence_transformers is not None:
        encoders["sentence-transformers"] = lambda texts: peers.sentence_transformers.encode(texts, length)
    scores = {}
    for name, encode in encoders.items():
        say(f"SciFact nDCG@10: {name}")
        similarities = encode(queries) @ encode(dataset.docs).T  # unit vectors: cosines
        rows = np.argsort(-similarities, kind="stable")[:, :100]
        run = run_from_arrays(list(dataset.queries), dataset.doc_ids, np.take_along_axis(similarities, rows, 1), rows)
        scores[name] = evaluate(dataset.qrels, run, ["ndcg@10"]).mean["ndcg@10"]
    return scores
