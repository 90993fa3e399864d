"""The parts of the benchmarks that are pure: recall, fronts, speeds read off at a recall, paired ratios."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.ann.curves import Point, bracket, front, qps_at, recall
from benchmarks.ann.data import exact, manifold
from benchmarks.common import ratio

points = st.lists(st.builds(Point, st.floats(0, 1), st.floats(1, 1e5), st.integers()), max_size=20)


def test_recall_counts_the_true_neighbours_among_the_first_k():
    truth = np.array([[1, 2], [3, 4]])
    assert recall(np.array([[2, 1], [4, 3]]), truth) == 1.0  # in any order
    assert recall(np.array([[2, 9, 1], [-1, -1, 3]]), truth) == 0.25  # the third is too late, -1 is nobody
    assert recall(np.zeros((0, 2), np.int64), np.zeros((0, 2), np.int64)) == 1.0


@given(points)
def test_a_front_holds_what_no_other_point_beats(curve):
    best = front(curve)
    assert [p.recall for p in best] == sorted({p.recall for p in best})
    assert all(a.qps > b.qps for a, b in pairwise(best))
    for p in curve:
        assert any(b.recall >= p.recall and b.qps >= p.qps for b in best)


@given(points, st.floats(0, 1))
def test_a_speed_lies_between_those_around_it(curve, target):
    best = front(curve)
    around, speed = bracket(best, target), qps_at(best, target)
    if speed is None:
        assert all(p.recall < target for p in curve)
    else:
        assert min(p.qps for p in around) * 0.999999 <= speed <= max(p.qps for p in around) * 1.000001


def test_speeds_are_read_off_along_the_logarithm():
    curve = [Point(0.9, 1000.0), Point(1.0, 10.0)]
    assert qps_at(curve, 0.95) == pytest.approx(100.0)
    assert qps_at(curve, 0.5) == 1000.0  # nothing faster was seen
    assert qps_at(curve[:1], 0.95) is None


def test_a_ratio_pairs_neighbours_in_time():
    drift = np.array([1.0, 5.0, 2.0, 9.0, 4.0])  # the machine's mood, the same for both of a round
    found = ratio(3 * drift, drift)
    assert (found.median, found.low, found.high) == (3.0, 3.0, 3.0)


def test_the_synthetic_vectors_are_the_same_every_time_and_their_neighbours_true():
    x = manifold(500, 24, seed=1)
    assert np.array_equal(x, manifold(500, 24, seed=1)) and not np.array_equal(x, manifold(500, 24, seed=2))
    assert np.allclose(np.linalg.norm(x, axis=1), 1, atol=1e-6)
    truth = np.argsort(-(x[:7] @ x.T), axis=1, kind="stable")[:, :5]
    assert np.array_equal(exact(x, x[:7], 5), truth)
    assert np.array_equal(truth[:, 0], np.arange(7))
