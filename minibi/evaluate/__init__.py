"""Floor 3: retrieval metrics and the files the literature uses."""

from .beir import Dataset, read_beir, read_qrels
from .contrast import (
    Contrast,
    ContrastResult,
    bi_encoder_scorer,
    contrast_accuracy,
    cross_encoder_scorer,
    read_condaqa,
    read_nevir,
)
from .measure import Latency, Measured, measure
from .metrics import METRICS, Result, evaluate, parse_metric, run_from_arrays
from .significance import Comparison, compare, paired_bootstrap, paired_t_test
from .sts import ScoredPairs, evaluate_sts, pearson, read_sts, spearman
from .trec import read_run, write_qrels, write_run

__all__ = [
    "METRICS",
    "Comparison",
    "Contrast",
    "ContrastResult",
    "Dataset",
    "Latency",
    "Measured",
    "Result",
    "ScoredPairs",
    "bi_encoder_scorer",
    "compare",
    "contrast_accuracy",
    "cross_encoder_scorer",
    "evaluate",
    "evaluate_sts",
    "measure",
    "paired_bootstrap",
    "paired_t_test",
    "parse_metric",
    "pearson",
    "read_beir",
    "read_condaqa",
    "read_nevir",
    "read_qrels",
    "read_run",
    "read_sts",
    "run_from_arrays",
    "spearman",
    "write_qrels",
    "write_run",
]
