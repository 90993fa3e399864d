"""The plainest pipeline, as a baseline for all others: encode everything, compare everything."""

from __future__ import annotations

import time
from dataclasses import dataclass

from ..index.flat import FlatIndex
from ..models.bi_encoder import BiEncoder
from .beir import Dataset
from .metrics import Run, run_from_arrays


@dataclass
class Timed:
    """A run, and the seconds its stages took."""

    run: Run
    seconds: dict[str, float]


def dense(dataset: Dataset, model: BiEncoder, k: int = 100, show_progress_bar: bool = False) -> Timed:
    """The k documents nearest to each query by exact search; texts are cut at the model's limit, as is usual."""
    options = {"truncation": "silent", "show_progress_bar": show_progress_bar}
    clock = [time.perf_counter()]
    documents = model.encode_document(dataset.docs, **options)
    clock.append(time.perf_counter())
    queries = model.encode_query(list(dataset.queries.values()), **options)
    clock.append(time.perf_counter())
    index = FlatIndex(model.dim, "cosine" if model.similarity_fn_name == "cosine" else "ip")
    index.add(documents)
    scores, rows = index.search(queries, min(k, max(1, len(dataset.doc_ids))))
    clock.append(time.perf_counter())
    names = ("encode documents", "encode queries", "search")
    seconds = {name: b - a for name, a, b in zip(names, clock[:-1], clock[1:], strict=True)}
    return Timed(run_from_arrays(list(dataset.queries), dataset.doc_ids, scores, rows), seconds)
