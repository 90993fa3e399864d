"""Floor 3: retrieval metrics and the files the literature uses."""

from .beir import Dataset, read_beir, read_qrels
from .metrics import METRICS, Result, evaluate, parse_metric, run_from_arrays

__all__ = ["METRICS", "Dataset", "Result", "evaluate", "parse_metric", "read_beir", "read_qrels", "run_from_arrays"]
