"""Floor 3: retrieval metrics and the files the literature uses."""

from .beir import Dataset, read_beir, read_qrels
from .measure import Latency, Measured, measure
from .metrics import METRICS, Result, evaluate, parse_metric, run_from_arrays
from .significance import Comparison, compare, paired_bootstrap, paired_t_test
from .sts import ScoredPairs, evaluate_sts, pearson, read_sts, spearman
from .trec import read_run, write_qrels, write_run

__all__ = [
    "METRICS",
    "Comparison",
    "Dataset",
    "Latency",
    "Measured",
    "Result",
    "ScoredPairs",
    "compare",
    "evaluate",
    "evaluate_sts",
    "measure",
    "paired_bootstrap",
    "paired_t_test",
    "parse_metric",
    "pearson",
    "read_beir",
    "read_qrels",
    "read_run",
    "read_sts",
    "run_from_arrays",
    "spearman",
    "write_qrels",
    "write_run",
]
