"""k-means: K centroids such that vectors lie near their own (Lloyd 1982), for inverted lists and all kinds of codes.

    centroids, assignment = kmeans(vectors, 256, iterations=20, seed=0)
    cells = assign(more, centroids)

The same vectors and seed give the same bits on any number of threads: a row's nearest centroid is found by itself, and
means are summed in float64 in the order of the rows. What Lloyd's steps leave empty is given to the rows that lie
farthest from their centroids, so every cell holds something as long as there are rows that differ.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ..environment import plain_kernels
from ..errors import InputError
from ..shapes import Floats, Ints, as_vectors, unit_rows
from ..threads import parallel_map

ROWS_PER_JOB = 4096
LARGEST = 1e17  # beyond it squares, and sums of them, leave float32
REPAIRS = 10  # rounds; one is the rule


def kmeans(
    vectors: ArrayLike,
    k: int,
    *,
    iterations: int = 20,
    seed: int = 0,
    spherical: bool = False,
    start: Literal["random", "k-means++"] = "random",
    threads: int | None = None,
) -> tuple[Floats, Ints]:
    """(centroids [K, D], assignment [N]) of vectors [N, D]: each row belongs to its nearest centroid.

    iterations: of Lloyd's two steps, fewer if nothing moves any more; 0 keeps the start. spherical: vectors and
    centroids are scaled to length one and nearness is the cosine (Dhillon & Modha 2001). start: K distinct rows at
    random, or "k-means++" (Arthur & Vassilvitskii 2007), which reads all vectors K times and pays where K is small.
    Raises InputError unless 1 <= k <= N and the vectors are finite.
    """
    x = _checked(as_vectors(vectors), "vectors")
    if isinstance(k, bool) or not isinstance(k, (int, np.integer)) or not 1 <= k <= len(x):
        raise InputError(f"k must be a whole number from 1 to the number of vectors, {len(x)}, not {k!r}")
    if isinstance(iterations, bool) or not isinstance(iterations, (int, np.integer)) or iterations < 0:
        raise InputError(f"iterations must be a whole number of at least 0, not {iterations!r}")
    if start not in _STARTS:
        raise InputError(f"start {start!r} is not one of {list(_STARTS)}")
    if spherical:
        x, shift = unit_rows(x), np.zeros(x.shape[1], np.float32)
    else:  # around their mean: products of vectors far from the origin would hide small distances
        shift = x.mean(axis=0, dtype=np.float64).astype(np.float32)
        x = x - shift
    centroids = x[_STARTS[start](x, int(k), np.random.default_rng(seed))]
    cells = _assign(x, centroids, spherical, threads)
    for _ in range(iterations):
        before = cells
        centroids = _means(x, cells, centroids, spherical)
        _repair(x, cells, centroids)
        cells = _assign(x, centroids, spherical, threads)
        if (cells == before).all():
            break
    for _ in range(REPAIRS):  # the last step may have emptied a cell again
        if not _repair(x, cells, centroids):
            break
        cells = _assign(x, centroids, spherical, threads)
    return centroids if spherical else centroids + shift, cells


def assign(vectors: ArrayLike, centroids: ArrayLike, *, spherical: bool = False, threads: int | None = None) -> Ints:
    """The number [N] of the nearest of centroids [K, D] for each vector [N, D]; of equally near ones the first.

    spherical: by the largest inner product instead of the smallest distance. Raises InputError.
    """
    c = _checked(as_vectors(centroids, name="centroids"), "centroids")
    if not len(c):
        raise InputError("there must be at least one centroid")
    return _assign(_checked(as_vectors(vectors, c.shape[1]), "vectors"), c, spherical, threads)


def _checked(x: Floats, name: str) -> Floats:
    if x.size and np.abs(x).max() > LARGEST:
        raise InputError(f"{name} hold a number beyond {LARGEST:g}, whose square would overflow: scale them down")
    return x


def _assign(x: Floats, centroids: Floats, spherical: bool, threads: int | None) -> Ints:
    """|x - c|^2 is smallest where x . c - |c|^2 / 2 is largest."""
    shifts = np.zeros(len(centroids), np.float32)
    if not spherical:
        shifts[:] = np.square(centroids, dtype=np.float64).sum(axis=1) / 2
    out = np.zeros(len(x), np.int64)
    if plain_kernels():
        for first in range(0, len(x), ROWS_PER_JOB):
            rows = slice(first, first + ROWS_PER_JOB)
            out[rows] = np.argmax(x[rows] @ centroids.T - shifts, axis=1)
        return out
    from ..kernels import cluster, matmul

    panels = matmul.pack(centroids.T)
    whole = np.full(len(panels) * matmul.PANEL, np.inf, np.float32)
    whole[: len(shifts)] = shifts

    def job(first: int) -> None:
        cluster.assign(x, panels, whole, first, min(first + ROWS_PER_JOB, len(x)), out)

    list(parallel_map(job, range(0, len(x), ROWS_PER_JOB), threads))
    return out


def _means(x: Floats, cells: Ints, centroids: Floats, spherical: bool) -> Floats:
    """The mean of each cell, of length one if spherical; an empty cell, or one whose mean is zero then, stays."""
    sums = np.zeros(centroids.shape)
    if plain_kernels():
        np.add.at(sums, cells, x)
    else:
        from ..kernels import cluster

        cluster.add_rows(x, cells, sums)
    counts = np.bincount(cells, minlength=len(centroids))[:, None]
    means = (sums / np.maximum(counts, 1)).astype(np.float32)
    if spherical:
        means = unit_rows(means)
        counts = counts * means.any(axis=1, keepdims=True)
    return np.where(counts > 0, means, centroids)


def _repair(x: Floats, cells: Ints, centroids: Floats) -> bool:
    """Moves centroids of empty cells onto the rows farthest from their own; whether there was something to move."""
    empty = np.flatnonzero(np.bincount(cells, minlength=len(centroids)) == 0)
    if not len(empty):
        return False
    distances = np.empty(len(x))
    for first in range(0, len(x), ROWS_PER_JOB):
        rows = slice(first, first + ROWS_PER_JOB)
        distances[rows] = np.square(x[rows] - centroids[cells[rows]], dtype=np.float64).sum(axis=1)
    farthest = np.argsort(-distances, kind="stable")[: len(empty)]
    farthest = farthest[distances[farthest] > 0]
    centroids[empty[: len(farthest)]] = x[farthest]
    return len(farthest) > 0


def _random_rows(x: Floats, k: int, rng: np.random.Generator) -> Ints:
    return rng.choice(len(x), k, replace=False)


def _spread_rows(x: Floats, k: int, rng: np.random.Generator) -> Ints:
    """k-means++: each further row is drawn with probability proportional to its squared distance from those chosen."""
    width = -(-x.shape[1] // 16) * 16
    padded = x if width == x.shape[1] else np.pad(x, ((0, 0), (0, width - x.shape[1])))
    distances = np.full(len(x), np.inf, np.float32)
    chosen = [int(rng.integers(len(x)))]
    for _ in range(1, k):
        _nearer(padded, padded[chosen[-1]], distances)
        distances[chosen[-1]] = 0
        total = np.cumsum(distances, dtype=np.float64)
        if total[-1] > 0:
            row = int(np.searchsorted(total, rng.random() * total[-1], side="right"))
        else:  # all that is left equals something chosen
            row = int(rng.choice(np.setdiff1d(np.arange(len(x)), chosen)))
        chosen.append(min(row, len(x) - 1))
    return np.array(chosen, np.int64)


def _nearer(x: Floats, centre: Floats, distances: Floats) -> None:
    if plain_kernels():
        np.minimum(distances, np.square(x - centre).sum(axis=1), out=distances)
        return
    from ..kernels import cluster

    cluster.nearer(x, np.ascontiguousarray(centre), distances)


_STARTS: dict[str, Any] = {"random": _random_rows, "k-means++": _spread_rows}
