"""Clusters of embeddings by direction: k-means on the unit sphere, and merging by a threshold.

    kmeans(embeddings, 8, seed=0).labels          # any number of texts, k known
    agglomerative(embeddings, threshold=0.4)      # up to some thousand texts, k unknown

Everything looks at directions alone: vectors are scaled to length one first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..index.contract import whole
from ..shapes import Floats, Ints, as_vectors, unit_rows

LARGEST = 16_384  # vectors that `agglomerative` takes: their distances fill 1 GB
ROWS = 8192  # compared with all centres at once


@dataclass(frozen=True)
class Clusters:
    """Labels 0 … k-1 of N vectors, and unit centres [k, dim]."""

    labels: Ints = field(repr=False)
    centres: Floats = field(repr=False)
    cohesion: float  # mean cosine of the vectors with their centres
    iterations: int


def kmeans(embeddings: ArrayLike, k: int, *, seed: int = 0, max_iter: int = 100, restarts: int = 4) -> Clusters:
    """Spherical k-means (Dhillon & Modha, Machine Learning 2001): the best of several runs by mean cosine.

    Each run starts from centres drawn as in k-means++ (Arthur & Vassilvitskii, SODA 2007) and goes on until no label
    changes. Clusters are numbered by their first member. Raises InputError for fewer different directions than k.
    """
    unit = unit_rows(as_vectors(embeddings))
    k, max_iter, restarts = whole("k", k, 1), whole("max_iter", max_iter, 1), whole("restarts", restarts, 1)
    if len(np.unique(unit[: 64 * k], axis=0)) < k and (different := len(np.unique(unit, axis=0))) < k:
        raise InputError(f"{k} clusters need {k} different vectors at least, and here are {different}")
    rng = np.random.default_rng(seed)
    return max((_kmeans_once(unit, k, rng, max_iter) for _ in range(restarts)), key=lambda c: c.cohesion)


def _kmeans_once(unit: Floats, k: int, rng: np.random.Generator, max_iter: int) -> Clusters:
    centres = _spread(unit, k, rng)
    labels, cosines = _nearest(unit, centres)
    iterations, before = 0, np.full(len(unit), -1)
    while iterations < max_iter and (labels != before).any():
        iterations += 1
        sums = np.zeros((k, unit.shape[1]))
        np.add.at(sums, labels, unit)
        centres = unit_rows(sums.astype(np.float32))
        for empty in np.flatnonzero(np.bincount(labels, minlength=k) == 0):
            worst = int(cosines.argmin())  # the vector that fits its cluster least founds a new one
            centres[empty], cosines[worst] = unit[worst], 1
        before = labels
        labels, cosines = _nearest(unit, centres)
    _, first = np.unique(labels, return_index=True)
    used = labels[np.sort(first)]
    order = np.concatenate([used, np.setdiff1d(np.arange(k), used)])
    number = np.empty(k, np.int64)
    number[order] = np.arange(k)
    return Clusters(number[labels], centres[order], float(cosines.mean(dtype=np.float64)), iterations)


def _spread(unit: Floats, k: int, rng: np.random.Generator) -> Floats:
    """k vectors: the first at random, each next with a chance in proportion to its squared distance from the chosen."""
    chosen = [int(rng.integers(len(unit)))]
    distance = np.full(len(unit), np.inf)
    while len(chosen) < k:
        distance = np.minimum(distance, np.maximum(0, 2 - 2 * (unit @ unit[chosen[-1]]).astype(np.float64)))
        distance[chosen] = 0
        total = distance.cumsum()
        at = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        chosen.append(min(at, len(unit) - 1))
    return unit[chosen]


def _nearest(unit: Floats, centres: Floats) -> tuple[Ints, Floats]:
    """(label [N], cosine with that centre [N])."""
    labels, cosines = np.empty(len(unit), np.int64), np.empty(len(unit), np.float32)
    for start in range(0, len(unit), ROWS):
        scores = unit[start : start + ROWS] @ centres.T
        labels[start : start + ROWS] = scores.argmax(axis=1)
        cosines[start : start + ROWS] = scores.max(axis=1)
    return labels, cosines


def agglomerative(
    embeddings: ArrayLike, threshold: float, linkage: Literal["average", "complete", "single"] = "average"
) -> Ints:
    """Labels [N]: the two clusters at the least cosine distance, 1 - cos, merge for as long as that is < threshold.

    The distance of clusters is the average, the largest ("complete") or the least ("single") of their members'. Labels
    are numbered by their first member. By nearest-neighbour chains (Murtagh, 1983), O(N²) in time and memory.
    InputError for more than 16,384 vectors: use kmeans or community_detection.
    """
    unit = unit_rows(as_vectors(embeddings))
    n = len(unit)
    if n > LARGEST:
        raise InputError(f"{n} vectors are too many to compare at once: use kmeans or community_detection")
    if linkage not in ("average", "complete", "single"):
        raise InputError(f"linkage must be 'average', 'complete' or 'single', not {linkage!r}")
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not threshold >= 0:
        raise InputError(f"threshold must be a cosine distance, from 0 to 2, not {threshold!r}")
    owner = list(range(n))

    def root(i: int) -> int:
        while owner[i] != i:
            owner[i] = owner[owner[i]]
            i = owner[i]
        return i

    for a, b, height in _merges(1 - unit @ unit.T, linkage):
        if height < threshold:
            a, b = sorted((root(a), root(b)))
            owner[b] = a
    roots = [root(i) for i in range(n)]
    numbers = {r: i for i, r in enumerate(dict.fromkeys(roots))}
    return np.array([numbers[r] for r in roots], np.int64)


def _merges(distance: NDArray[np.float32], linkage: str) -> list[tuple[int, int, float]]:
    """(a, b, height): clusters merged, each named by one of its members. Overwrites `distance` [N, N].

    A chain walks from a cluster to its nearest, to that one's nearest, and so on, until two are each other's nearest.
    """
    n = len(distance)
    np.fill_diagonal(distance, np.inf)
    size = np.ones(n)
    alive = np.ones(n, bool)
    chain: list[int] = []
    merges = []
    while len(merges) < n - 1:
        if not chain:
            chain.append(int(alive.argmax()))
        while True:
            row = distance[chain[-1]]
            nearest = int(row.argmin())
            if len(chain) > 1 and row[chain[-2]] <= row[nearest]:
                break  # the one before, which this one is nearest to: they merge
            chain.append(nearest)
        b, a = chain.pop(), chain.pop()
        merges.append((a, b, float(distance[a, b])))
        if linkage == "average":
            joined = (size[a] * distance[a] + size[b] * distance[b]) / (size[a] + size[b])
        else:
            joined = (np.maximum if linkage == "complete" else np.minimum)(distance[a], distance[b])
        size[a] += size[b]
        alive[b] = False
        distance[a], distance[:, a] = joined, joined
        distance[b], distance[:, b] = np.inf, np.inf
        distance[a, a] = np.inf
    return merges
