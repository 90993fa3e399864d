"""Fewer vectors per document: similar token vectors are merged into their mean (Clavié, Chaffin & Adams 2024).

Ward's criterion (1963) decides what is similar: the two clusters are joined whose union raises the sum of squared
distances from the means the least. Halving the vectors costs late interaction very little.
"""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from ..shapes import Floats, Ints, unit_rows


def pool_tokens(vectors: Floats, factor: int, protected: int = 1) -> Floats:
    """Token vectors [T, D] of one text -> about T / factor of them, in the order of each cluster's first token.

    The first `protected` vectors stay as they are ([CLS], which stands for the whole text). A merged vector is the mean
    of its cluster's directions, scaled to length one. Raises InputError.
    """
    if factor < 1 or protected < 0:
        raise InputError(f"factor must be at least 1 and protected at least 0, not {factor} and {protected}")
    free = vectors[protected:]
    wanted = max(1, len(free) // factor)
    if len(free) <= wanted:
        return vectors
    x = unit_rows(free)
    labels = ward(x, wanted)
    sums = np.zeros((wanted, x.shape[1]))
    np.add.at(sums, labels, x)
    return np.concatenate([vectors[:protected], unit_rows(sums.astype(np.float32))])


def ward(x: Floats, clusters: int) -> Ints:
    """The cluster [T] of each row of x [T, D], numbered from 0 in the order of their first rows.

    Agglomerative: every row begins alone, and the cheapest pair is joined until `clusters` are left; of equally cheap
    pairs the first. Costs of the pairs that changed follow by Lance & Williams' recurrence (1967).
    """
    n = len(x)
    wide = x.astype(np.float64)
    squares = np.square(wide).sum(axis=1)
    cost = np.maximum(squares[:, None] + squares[None] - 2 * (wide @ wide.T), 0) / 2
    cost[np.tril_indices(n)] = np.inf  # a pair i < j stands once, in row i
    sizes = np.ones(n)
    parent = np.arange(n)
    best = np.argmin(cost, axis=1)  # the cheapest partner in each row
    price = cost[np.arange(n), best]
    for _ in range(n - clusters):
        i = int(np.argmin(price))
        j = int(best[i])
        a, b = sizes[i], sizes[j]
        to_i = np.minimum(cost[i], cost[:, i])  # the costs with every other cluster, wherever they stand
        to_j = np.minimum(cost[j], cost[:, j])
        merged = ((a + sizes) * to_i + (b + sizes) * to_j - sizes * cost[i, j]) / (a + b + sizes)
        merged[[i, j]] = np.inf
        sizes[i] += b
        parent[parent == j] = i
        cost[j], cost[:, j] = np.inf, np.inf
        price[j] = np.inf
        alive = np.isfinite(merged)
        cost[i, i + 1 :] = np.where(alive, merged, np.inf)[i + 1 :]
        cost[:i, i] = np.where(alive, merged, np.inf)[:i]
        stale = np.flatnonzero((best == j) | (best == i))
        for row in {i, *stale.tolist()}:
            best[row] = np.argmin(cost[row])
            price[row] = cost[row, best[row]]
        better = np.flatnonzero(cost[:i, i] < price[:i])
        best[better], price[better] = i, cost[better, i]
    first = np.unique(parent, return_inverse=True)[1]
    return first.reshape(-1).astype(np.int64)
