"""PairClassifier: its gradient, scikit-learn's probabilities, and what it learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import FormatError, InputError
from minibi.search.pairs import PairClassifier, lbfgs, loss, loss_grad, pair_features

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tasks.json").read_text())["classification"]


def test_features():
    assert pair_features([[1.0, 2.0]], [[3.0, -1.0]]).tolist() == [[1, 2, 3, -1, 2, 3, 3, -2]]
    assert pair_features([1.0, 2.0], [3.0, -1.0]).shape == (1, 8)


@given(st.integers(0, 10_000), st.integers(2, 4), st.integers(1, 6), st.floats(0, 1))
def test_the_gradient_is_that_of_the_loss(seed, k, n, l2):
    rng = np.random.default_rng(seed)
    w, b, x, t = rng.normal(size=(k, 3)), rng.normal(size=k), rng.normal(size=(n, 3)), rng.integers(0, k, n)
    dw, db = loss_grad(w, b, x, t, l2)
    h = 1e-6
    for at in np.ndindex(w.shape):
        e = np.zeros_like(w)
        e[at] = h
        assert (loss(w + e, b, x, t, l2) - loss(w - e, b, x, t, l2)) / (2 * h) == pytest.approx(dw[at], abs=1e-6)
    for i in range(k):
        e = np.eye(k)[i] * h
        assert (loss(w, b + e, x, t, l2) - loss(w, b - e, x, t, l2)) / (2 * h) == pytest.approx(db[i], abs=1e-6)


@pytest.mark.parametrize("case", GOLDEN, ids=["two classes", "three classes"])
def test_probabilities_are_scikit_learns(case):
    classifier = PairClassifier(l2=case["l2"]).fit(case["u"], case["v"], case["labels"])
    assert classifier.classes_ == sorted(set(case["labels"]))
    assert classifier.predict_proba(case["u"], case["v"]) == pytest.approx(np.array(case["proba"]), abs=1e-5)


def test_the_optimizer_reaches_a_minimum():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(30, 30))
    a = a @ a.T + np.diag(np.logspace(-2, 3, 30))  # badly conditioned
    b = rng.normal(size=30)
    p = lbfgs(lambda p: 0.5 * p @ a @ p - b @ p, lambda p: a @ p - b, np.zeros(30), 1000)
    assert a @ p == pytest.approx(b, abs=1e-6)


def test_it_learns_what_the_features_hold():
    """Whether two vectors point the same way cannot be seen in either alone."""
    rng = np.random.default_rng(1)
    u, v = rng.normal(size=(2, 600, 8))
    labels = np.where((u * v).sum(1) > 0, "same", "other")
    classifier = PairClassifier().fit(u[:400], v[:400], labels[:400])
    assert np.mean(np.array(classifier.predict(u[400:], v[400:])) == labels[400:]) > 0.95
    assert classifier.predict_proba(u, v).sum(axis=1) == pytest.approx(1)
    again = PairClassifier().fit(u[:400], v[:400], labels[:400])
    assert (again.w_ == classifier.w_).all()


def test_saved_and_loaded(tmp_path):
    rng = np.random.default_rng(2)
    u, v = rng.normal(size=(2, 30, 4))
    for labels in (["yes", "no", "maybe"] * 10, [0, 1] * 15, np.array([2, 5, 9] * 10)):
        classifier = PairClassifier(l2=0.1).fit(u, v, labels)
        classifier.save(tmp_path / "c")
        loaded = PairClassifier.load(tmp_path / "c")
        assert (loaded.predict_proba(u, v) == classifier.predict_proba(u, v)).all()
        assert loaded.classes_ == classifier.classes_ and loaded.l2 == 0.1
    data = bytearray((tmp_path / "c").read_bytes())
    data[-5] ^= 1
    (tmp_path / "c").write_bytes(data)
    with pytest.raises(FormatError):
        PairClassifier.load(tmp_path / "c")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda u: PairClassifier(l2=-1), "l2 must be"),
        (lambda u: PairClassifier().fit(u, u[:1], [0, 1]), "as many first vectors"),
        (lambda u: PairClassifier().fit(u, u, [0]), "2 pairs, but 1 labels"),
        (lambda u: PairClassifier().fit(u, u, [0, 0]), "two different labels"),
        (lambda u: PairClassifier().fit(u, u, [0, "a"]), "all strings or all whole numbers"),
        (lambda u: PairClassifier().fit(u, u, [0.5, 1.5]), "all strings or all whole numbers"),
        (lambda u: PairClassifier().predict(u, u), "call fit first"),
        (lambda u: PairClassifier().fit(u, u, [0, 1]).predict(u[:, :1], u[:, :1]), "1 dimensions, expected 2"),
    ],
)
def test_complaints(call, says):
    with pytest.raises(InputError, match=says):
        call(np.eye(2))
