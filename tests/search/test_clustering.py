"""Clusters: scikit-learn's own merges, Lloyd's promises, and a slow twin under hypothesis."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.search import clustering
from minibi.search.clustering import agglomerative, kmeans
from minibi.shapes import unit_rows

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "tasks.json").read_text())
seeds = st.integers(0, 10_000)


def partition(labels):
    groups = {}
    for i, label in enumerate(labels):
        groups.setdefault(label, []).append(i)
    return sorted(groups.values())


@pytest.mark.parametrize("case", GOLDEN["agglomerative"], ids=lambda c: f"{c['linkage']} {c['threshold']}")
def test_merging_is_scikit_learns(golden_arrays, case):
    labels = agglomerative(golden_arrays("minilm")["embeddings_rounded"], case["threshold"], case["linkage"])
    assert partition(labels.tolist()) == partition(case["labels"])


@given(seeds, st.integers(1, 12), st.sampled_from(["average", "complete", "single"]), st.floats(0, 2))
def test_merging_is_the_slow_definition(seed, n, linkage, threshold):
    """Again and again the two nearest clusters, all distances computed anew."""
    unit = unit_rows(np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32))
    distance = 1 - unit @ unit.T
    of = {"average": np.mean, "complete": np.max, "single": np.min}[linkage]
    clusters = [[i] for i in range(n)]
    near = False
    while len(clusters) > 1:
        pairs = [
            (of(distance[np.ix_(a, b)]), i, j) for i, a in enumerate(clusters) for j, b in enumerate(clusters) if i < j
        ]
        height, i, j = min(pairs)
        near |= abs(height - threshold) < 1e-4
        if height >= threshold:
            break
        clusters[i] += clusters.pop(j)
    labels = agglomerative(unit, threshold, linkage).tolist()
    assert near or partition(labels) == sorted(sorted(c) for c in clusters)
    assert list(dict.fromkeys(labels)) == list(range(len(set(labels)))), "numbered by first member"


def blobs(seed, k=4, each=25, spread=0.1):
    rng = np.random.default_rng(seed)
    centres = np.eye(k, 6)
    truth = rng.integers(0, k, k * each)
    return (centres[truth] + rng.normal(size=(k * each, 6)) * spread).astype(np.float32) * 3, truth


def test_kmeans_finds_what_is_apart():
    for seed in range(5):
        x, truth = blobs(seed)
        found = kmeans(x, 4, seed=seed)
        assert partition(found.labels.tolist()) == partition(truth.tolist())
        assert found.labels[0] == 0 and found.iterations < 20
        again = kmeans(x, 4, seed=seed)
        assert (again.labels == found.labels).all() and (again.centres == found.centres).all()


@given(seeds, st.integers(1, 6), st.integers(6, 40))
def test_lloyd(seed, k, n):
    x = np.random.default_rng(seed).normal(size=(n, 3)).astype(np.float32)
    found = kmeans(x, k, seed=seed)
    unit = unit_rows(x)
    cosines = unit @ found.centres.T
    assert sorted(set(found.labels.tolist())) == list(range(k)), "no cluster is empty"
    assert cosines[np.arange(n), found.labels] == pytest.approx(cosines.max(axis=1), abs=1e-6), "the nearest centre"
    means = unit_rows(np.stack([unit[found.labels == i].mean(axis=0) for i in range(k)]))
    assert found.centres == pytest.approx(means, abs=1e-5), "the direction of its members' mean"
    assert found.cohesion == pytest.approx(cosines.max(axis=1).mean(), abs=1e-6)
    more = kmeans(x, k, seed=seed, restarts=8)
    assert more.cohesion >= found.cohesion


def test_length_does_not_matter_and_zero_vectors_pass():
    x, _ = blobs(7)
    scale = np.random.default_rng(0).uniform(0.1, 10, (len(x), 1)).astype(np.float32)
    assert (kmeans(x, 4).labels == kmeans(x * scale, 4).labels).all()
    assert (agglomerative(x, 0.3) == agglomerative(x * scale, 0.3)).all()
    x[3] = 0
    assert np.isfinite(kmeans(x, 4).centres).all()
    assert agglomerative(x, 0.3)[3] not in np.delete(agglomerative(x, 0.3), 3)


def test_small_cases():
    x = np.float32([[1, 0], [1, 0], [0, 1]])
    assert kmeans(x, 1).labels.tolist() == [0, 0, 0]
    assert kmeans(x, 2).labels.tolist() == [0, 0, 1] and kmeans(x, 2).cohesion == 1.0
    assert agglomerative(x, 0.5).tolist() == [0, 0, 1]
    assert agglomerative(x, 0.0).tolist() == [0, 1, 2] and agglomerative(x, 2).tolist() == [0, 0, 0]
    assert agglomerative(np.empty((0, 2)), 0.5).tolist() == [] and agglomerative(x[:1], 0.5).tolist() == [0]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda x: kmeans(x, 3), "3 different vectors at least, and here are 2"),
        (lambda x: kmeans(x, 0), "k must be"),
        (lambda x: kmeans(np.empty((0, 2)), 1), "here are 0"),
        (lambda x: kmeans(x, 2, restarts=0), "restarts"),
        (lambda x: agglomerative(x, -1), "cosine distance"),
        (lambda x: agglomerative(x, 0.5, "ward"), "linkage must be"),
        (lambda x: agglomerative("text", 0.5), "array of numbers"),
    ],
)
def test_complaints(call, says, monkeypatch):
    x = np.float32([[1, 0], [2, 0], [0, 1]])
    with pytest.raises(InputError, match=says):
        call(x)
    monkeypatch.setattr(clustering, "LARGEST", 2)
    with pytest.raises(InputError, match="use kmeans or community_detection"):
        agglomerative(x, 0.5)
