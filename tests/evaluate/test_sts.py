"""Correlations as SciPy computes them, and scored pairs read and measured."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import FormatError, InputError
from minibi.evaluate import ScoredPairs, evaluate_sts, pearson, read_sts, spearman
from minibi.evaluate.sts import average_ranks

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "statistics.json").read_text(encoding="utf-8"))
numbers = st.lists(st.integers(-1000, 1000), min_size=2, max_size=20).filter(lambda x: len(set(x)) > 1)


def test_correlations_equal_scipys():
    assert any(len(set(case["x"])) < len(case["x"]) for case in GOLDEN["correlations"]), "ties"
    for case in GOLDEN["correlations"]:
        assert spearman(case["x"], case["y"]) == pytest.approx(case["spearman"], abs=1e-12)
        assert pearson(case["x"], case["y"]) == pytest.approx(case["pearson"], abs=1e-12)


def test_average_ranks_by_hand():
    assert average_ranks([10, 20, 20, 5, 20]).tolist() == [2, 4, 4, 1, 4]
    assert average_ranks([]).tolist() == []
    assert average_ranks([0.0, -0.0]).tolist() == [1.5, 1.5]


@given(numbers)
def test_spearman_sees_the_order_alone(x):
    assert spearman(x, np.exp(np.array(x) / 500)) == pytest.approx(1.0)
    assert spearman(x, [-v for v in x]) == pytest.approx(-1.0)
    assert pearson(x, [3 * v - 7 for v in x]) == pytest.approx(1.0)
    assert average_ranks(x).sum() == pytest.approx(len(x) * (len(x) + 1) / 2)


@given(numbers)
def test_correlations_of_huge_and_tiny_numbers(x):
    y = list(range(len(x)))
    for scale in (1e-300, 1e-20, 1e20, 1e300):
        assert pearson(np.array(x) * scale, y) == pytest.approx(pearson(x, y), abs=1e-9)


@pytest.mark.parametrize(
    ("x", "y", "says"),
    [
        ([1.0], [2.0], "2 at least"),
        ([1, 2, 3], [1, 2], "one length"),
        ([1, 1, 1], [1, 2, 3], "same throughout"),
        ([1, 2, 3], [0.1, 0.1, 0.1], "same throughout"),
        ([1, math.nan], [1, 2], "finite"),
        ([[1, 2]], [[1, 2]], "finite numbers, not shape"),
        (["a", "b"], [1, 2], "list of numbers"),
    ],
)
def test_lists_without_a_correlation(x, y, says):
    for correlation in (pearson, spearman):
        with pytest.raises(InputError, match=says):
            correlation(x, y)


def test_pairs_are_read(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(
        '{"a": "x", "b": "y", "score": 5}\n\n{"sentence1": "p", "sentence2": "q", "score": 0.5, "more": 1}\n'
        '{"sentence1": "p", "sentence2": "", "label": 1}\n'
    )
    assert read_sts(path) == ScoredPairs(["x", "p", "p"], ["y", "q", ""], [5.0, 0.5, 1.0])
    assert len(read_sts(path)) == 3


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("", "holds no pair"),
        ('{"a": "x", "b": "y"}', "jsonl:1: expected the fields a, b, score"),
        ('{"a": "x", "b": 1, "score": 1}', "must be strings"),
        ('{"a": "x", "b": "y", "score": "1"}', "finite number"),
        ('{"a": "x", "b": "y", "score": true}', "finite number"),
        ('{"a": "x", "b": "y", "score": NaN}', "finite number"),
        ("[]", "one object such as"),
        ("{", "not valid JSON"),
    ],
)
def test_pairs_that_cannot_be_read(tmp_path, line, says):
    (tmp_path / "x.jsonl").write_text(line + "\n")
    with pytest.raises(FormatError, match=says):
        read_sts(tmp_path / "x.jsonl")


class Angles:
    """Encodes the text "30" as a vector of length 2 at 30 degrees."""

    def encode(self, texts, scale=2.0):
        angles = np.radians([float(t) for t in texts])
        return scale * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def test_a_model_is_measured():
    pairs = ScoredPairs(["0", "0", "0", "0"], ["0", "10", "45", "90"], [5, 4, 2, 0])
    found = evaluate_sts(Angles(), pairs)
    assert list(found)[:2] == ["pearson_cosine", "spearman_cosine"] and len(found) == 8
    assert all(found[f"spearman_{name}"] == pytest.approx(1) for name in ("cosine", "dot", "euclidean", "manhattan"))
    expected = np.corrcoef([1, math.cos(math.radians(10)), math.sqrt(0.5), 0], [5, 4, 2, 0])[0, 1]
    assert found["pearson_cosine"] == pytest.approx(expected, abs=1e-6)
    assert evaluate_sts(Angles(), pairs, scale=5.0)["pearson_cosine"] == pytest.approx(expected, abs=1e-6)
