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
    np.fill_diagonal(cost, np.inf)
    sizes = np.ones(n)
    owner = np.arange(n)  # a cluster is known by its first row
    for _ in range(n - clusters):
        i, j = divmod(int(np.argmin(cost)), n)  # i < j: a pair stands twice, and this way first
        a, b = sizes[i], sizes[j]
        row = ((a + sizes) * cost[i] + (b + sizes) * cost[j] - sizes * cost[i, j]) / (a + b + sizes)
        row[i] = np.inf
        cost[i], cost[:, i] = row, row
        cost[j], cost[:, j] = np.inf, np.inf
        sizes[i] += b
        owner[owner == j] = i
    return np.unique(owner, return_inverse=True)[1].reshape(-1).astype(np.int64)
