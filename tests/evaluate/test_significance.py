"""Paired tests: SciPy's own numbers, coverage by simulation, and what must hold of any pair of systems."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.evaluate import compare, evaluate, paired_bootstrap, paired_t_test
from minibi.evaluate.significance import incomplete_beta, t_quantile, t_two_sided

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "statistics.json").read_text(encoding="utf-8"))
values = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=30)


def test_the_incomplete_beta_function():
    for a, b, x, expected in GOLDEN["incomplete_beta"]:
        assert incomplete_beta(a, b, x) == pytest.approx(expected, rel=2e-9, abs=1e-13), (a, b, x)


def test_students_t():
    for t, df, expected in GOLDEN["t_two_sided"]:
        assert t_two_sided(t, df) == pytest.approx(expected, rel=1e-10, abs=1e-300), (t, df)
    for confidence, df, expected in GOLDEN["t_quantile"]:
        assert t_quantile(confidence, df) == pytest.approx(expected, rel=1e-10), (confidence, df)
    for t in (1e-12, 1e-9, 0.5, 40.0):  # with one degree of freedom it is Cauchy's distribution
        assert t_two_sided(t, 1) == pytest.approx(1 - 2 / math.pi * math.atan(t), rel=1e-13)
    assert t_two_sided(math.inf, 5) == t_two_sided(1e200, 5) == 0.0


def test_the_paired_t_test():
    assert len(GOLDEN["t_tests"]) > 10
    for case in GOLDEN["t_tests"]:
        ours = paired_t_test(case["a"], case["b"], confidence=0.9)
        assert ours.p_value == pytest.approx(case["p"], rel=1e-9)
        assert (ours.low, ours.high) == pytest.approx((case["low"], case["high"]), rel=1e-9, abs=1e-12)


def test_the_bootstrap_agrees_with_the_t_test_where_that_holds():
    rng = np.random.default_rng(1)
    for shift in (0.0, 0.03, 0.06):
        a, b = rng.normal(0.5 + shift, 0.3, 300), rng.normal(0.5, 0.3, 300)
        t, boot = paired_t_test(a, b), paired_bootstrap(a, b)
        assert boot.p_value == pytest.approx(t.p_value, abs=0.015)
        assert (boot.low, boot.high) == pytest.approx((t.low, t.high), abs=0.004)


def test_equal_systems_are_found_different_as_often_as_promised():
    """With p <= 0.1 in a tenth of all cases, and the interval missing 0 as often."""
    rng = np.random.default_rng(2)
    trials = 400
    for test in (paired_t_test, lambda a, b, confidence: paired_bootstrap(a, b, confidence=confidence, resamples=400)):
        found = [test(rng.random(60), rng.random(60), confidence=0.9) for _ in range(trials)]
        assert np.mean([c.p_value <= 0.1 for c in found]) == pytest.approx(0.1, abs=0.05)
        assert np.mean([not c.low <= 0 <= c.high for c in found]) == pytest.approx(0.1, abs=0.05)


def test_the_same_seed_gives_the_same_answer():
    rng = np.random.default_rng(3)
    a, b = rng.random(50), rng.random(50)
    assert paired_bootstrap(a, b, seed=5) == paired_bootstrap(a, b, seed=5)
    assert paired_bootstrap(a, b, seed=5).p_value != paired_bootstrap(a, b, seed=6).p_value


def test_many_queries_are_resampled_in_blocks():
    rng = np.random.default_rng(4)
    a = rng.random(20_000)
    found = paired_bootstrap(a, a + rng.normal(0.001, 0.05, len(a)), resamples=200)
    assert found.difference == pytest.approx(-0.001, abs=0.002) and found.low < found.difference < found.high


@pytest.mark.parametrize("test", [paired_t_test, lambda a, b: paired_bootstrap(a, b, resamples=100)])
def test_no_spread(test):
    same = test([0.5, 0.25, 1.0], [0.5, 0.25, 1.0])
    assert (same.p_value, same.low, same.high, same.equal) == (1.0, 0.0, 0.0, 3)
    shifted = test([0.5, 0.75], [0.25, 0.5])
    assert shifted.p_value == pytest.approx(0.0, abs=0.01)
    assert (shifted.low, shifted.difference, shifted.high) == (0.25, 0.25, 0.25)


@given(values)
def test_exchanging_the_systems_turns_the_sign(pairs):
    a, b = np.array(pairs).T
    for test in (paired_t_test, lambda a, b: paired_bootstrap(a, b, resamples=100)):
        there, back = test(a, b), test(b, a)
        assert 0 <= there.p_value <= 1 and there.low <= there.high
        assert there.p_value == pytest.approx(back.p_value)
        assert (there.difference, there.better, there.worse) == (-back.difference, back.worse, back.better)
        assert (there.low, there.high) == pytest.approx((-back.high, -back.low), abs=1e-9)


def test_results_are_compared_query_by_query():
    qrels = {f"q{i}": {"a": 1} for i in range(4)}
    good = evaluate(qrels, {q: {"a": 1.0} for q in qrels}, ["mrr@10", "map"])
    order = ["q2", "q0", "q3", "q1"]  # another order of the same queries
    poor = evaluate({q: qrels[q] for q in order}, {q: {"b": 2.0, "a": 1.0 + (q == "q1")} for q in order}, ["mrr@10"])
    (found,) = compare(good, poor, test="t-test")
    assert (found.metric, found.mean, found.baseline, found.better, found.equal) == ("mrr@10", 1.0, 0.5, 4, 0)
    assert "mrr@10 1.0000, +0.5000" in str(found) and "4 better" in str(found)
    assert found.to_dict()["p_value"] == found.p_value
    (found,) = compare(good, poor, ["mrr@10"])
    assert found.test == "paired bootstrap of 10000"


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        ([1.0], [1.0], "2 queries at least"),
        ([1.0, 2.0], [1.0], "one value per query"),
        ([[1.0, 2.0]], [[1.0, 2.0]], "one value per query"),
        (["x", "y"], [1, 2], "lists of numbers"),
        ([1.0, math.nan], [1.0, 2.0], "finite"),
    ],
)
def test_values_that_cannot_be_tested(a, b, says):
    for test in (paired_t_test, paired_bootstrap):
        with pytest.raises(InputError, match=says):
            test(a, b)


def test_other_complaints():
    a, b = [0.1, 0.2], [0.3, 0.1]
    for confidence in (0, 1, 95, -0.5, math.nan):
        with pytest.raises(InputError, match="between 0 and 1"):
            paired_t_test(a, b, confidence=confidence)
    for resamples in (10, 1e4, True):
        with pytest.raises(InputError, match="resamples"):
            paired_bootstrap(a, b, resamples=resamples)
    one, two = (evaluate({q: {"a": 1}}, {q: {"a": 1.0}}) for q in ("1", "2"))
    with pytest.raises(InputError, match="query '1' is in one result alone"):
        compare(one, two)
    with pytest.raises(InputError, match="'map' is not in both"):
        compare(one, one, ["map"])
    with pytest.raises(InputError, match="share no metric"):
        compare(one, evaluate({"1": {"a": 1}}, {"1": {"a": 1.0}}, ["map"]))
    with pytest.raises(InputError, match="'bootstrap' or 't-test'"):
        compare(one, one, test="wilcoxon")
