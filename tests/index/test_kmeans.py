"""k-means: what Lloyd's algorithm promises, the same bits on any number of threads, and the twins' agreement."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.index.kmeans import assign, kmeans


def inertia(x, centroids, cells) -> float:
    return float(np.square(x - centroids[cells], dtype=np.float64).sum())


def blobs(k=5, each=60, dim=7, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(k, dim)) * 20
    truth = np.repeat(np.arange(k), each)
    return (centres[truth] + rng.normal(size=(k * each, dim))).astype(np.float32), truth


@st.composite
def whole_numbers(draw):
    """Vectors of small whole numbers, whose products are exact in float32, with ties and duplicates."""
    n, dim, k = draw(st.integers(1, 70)), draw(st.sampled_from([1, 3, 16, 17])), draw(st.integers(1, 140))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    top = draw(st.sampled_from([0, 1, 6]))
    return tuple(rng.integers(-top, top + 1, (m, dim)).astype(np.float32) for m in (n, k))


@given(whole_numbers(), st.booleans())
def test_assign_is_the_first_nearest(arrays, spherical):
    x, c = arrays
    if spherical:
        expected = np.argmax(x.astype(np.int64) @ c.astype(np.int64).T, axis=1)
    else:
        expected = np.argmin(np.square(x[:, None] - c[None]).sum(axis=2), axis=1)
    assert (assign(x, c, spherical=spherical) == expected).all()


@given(whole_numbers())
def test_kernel_and_twin_agree(arrays):
    x, c = arrays
    with pytest.MonkeyPatch.context() as patch:
        found = []
        for kind in ("plain", "compiled"):
            patch.setenv("MINIBI_KERNELS", kind)
            found.append([assign(x, c), assign(x, c, spherical=True)])
    assert (np.array(found[0]) == np.array(found[1])).all()


@settings(max_examples=25)
@given(
    n=st.integers(1, 80),
    seed=st.integers(0, 1000),
    spherical=st.booleans(),
    start=st.sampled_from(["random", "k-means++"]),
    data=st.data(),
)
def test_properties(n, seed, spherical, start, data):
    k = data.draw(st.integers(1, n))
    x = np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)
    if spherical:
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    centroids, cells = kmeans(x, k, iterations=8, seed=seed, spherical=spherical, start=start)
    assert centroids.shape == (k, 5) and centroids.dtype == np.float32
    assert cells.shape == (n,) and cells.dtype == np.int64
    assert (np.bincount(cells, minlength=k) > 0).all(), "no cell is empty"
    distances = np.square(x[:, None] - centroids[None], dtype=np.float64).sum(axis=2)
    assert distances[np.arange(n), cells] == pytest.approx(distances.min(axis=1), abs=1e-5)
    if spherical:
        assert np.linalg.norm(centroids, axis=1) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("start", ["random", "k-means++"])
def test_more_steps_never_cost(start):
    x = np.random.default_rng(3).normal(size=(500, 9)).astype(np.float32)
    costs = [inertia(x, *kmeans(x, 20, iterations=i, seed=1, start=start)) for i in range(8)]
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(costs))
    assert costs[-1] < 0.9 * costs[0]


def test_finds_what_is_there():
    x, truth = blobs()
    _, cells = kmeans(x, 5, seed=2, start="k-means++")
    assert len({(a, b) for a, b in zip(truth.tolist(), cells.tolist(), strict=True)}) == 5


def test_spreading_starts_better_than_chance():
    x, _ = blobs(k=20, each=20)
    pairs = [
        [inertia(x, *kmeans(x, 20, iterations=0, seed=s, start=w)) for s in range(8)] for w in ("random", "k-means++")
    ]
    assert np.median(pairs[1]) < 0.5 * np.median(pairs[0])


def test_same_bits_on_any_number_of_threads():
    x = np.random.default_rng(0).normal(size=(10_000, 20)).astype(np.float32)
    one, three = (kmeans(x, 50, iterations=4, seed=7, threads=t) for t in (1, 3))
    for a, b in zip(one, three, strict=True):
        assert a.tobytes() == b.tobytes()
    assert kmeans(x, 50, iterations=4, seed=8)[0].tobytes() != one[0].tobytes()


def test_far_from_the_origin():
    x, truth = blobs(k=4, each=40)
    far = x.astype(np.float64) + 100_000
    _, cells = kmeans(far, 4, seed=0, start="k-means++")
    assert len({(a, b) for a, b in zip(truth.tolist(), cells.tolist(), strict=True)}) == 4


@pytest.mark.parametrize("start", ["random", "k-means++"])
def test_fewer_different_rows_than_cells(start):
    x = np.repeat(np.eye(3, 8, dtype=np.float32), 10, axis=0)
    centroids, cells = kmeans(x, 6, seed=0, start=start)
    assert np.isfinite(centroids).all() and inertia(x, centroids, cells) < 1e-9
    assert len(np.unique(cells)) >= 3


def test_zero_rows_on_the_sphere():
    x = np.zeros((20, 4), np.float32)
    x[:10, 0] = 3
    centroids, cells = kmeans(x, 3, spherical=True)
    assert np.isfinite(centroids).all() and len(cells) == 20


def test_as_many_cells_as_rows():
    x = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    centroids, cells = kmeans(x, 30)
    assert sorted(cells.tolist()) == list(range(30))
    assert centroids[cells] == pytest.approx(x, abs=1e-6)


@pytest.mark.parametrize(
    ("vectors", "k", "options"),
    [
        (np.eye(3), 0, {}),
        (np.eye(3), 4, {}),
        (np.eye(3), True, {}),
        (np.eye(3), 2.0, {}),
        (np.zeros((0, 3)), 1, {}),
        ([[np.nan, 1]], 1, {}),
        ([[1e18, 1]], 1, {}),
        ("text", 1, {}),
        (np.eye(3), 2, {"iterations": -1}),
        (np.eye(3), 2, {"start": "best"}),
    ],
)
def test_refused(vectors, k, options):
    with pytest.raises(InputError):
        kmeans(vectors, k, **options)


def test_assign_refuses():
    with pytest.raises(InputError, match="at least one"):
        assign(np.eye(2), np.zeros((0, 2)))
    with pytest.raises(InputError, match="dimensions"):
        assign(np.eye(2), np.eye(3))
    assert assign(np.zeros((0, 3)), np.eye(3)).shape == (0,)
