"""Triplet losses: an anchor is to be nearer to its positive than to a negative.

    margin         max(0, d(a, p) - d(a, n) + margin)                 Schroff et al. 2015 (FaceNet), equation 2
    soft margin    log(1 + exp(d(a, p) - d(a, n)))                    Hermans et al. 2017, section 2 (margin="soft")

Triplets are given (`triplet`), or found in a batch of labelled rows: all of them, the hardest of each anchor, or for
each pair the semi-hard one. d is the Euclidean distance or 1 - cosine. Choosing is taken as given by the gradient.
An anchor without a positive or without a negative in the batch has no triplet and counts for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ...errors import InputError
from .similarity import (
    DISTANCES,
    Array,
    Loss,
    all_distances,
    all_distances_grad,
    as_rows,
    one_of,
    row_distances,
    row_distances_grad,
    sigmoid,
    softplus,
)

Margin = float | Literal["soft"]


def triplet(
    anchors: Array,
    positives: Array,
    negatives: Array,
    *,
    distance: str = "euclidean",
    margin: Margin = 5.0,
) -> Loss:
    """The mean over given triplets, each array [B, C]. Raises InputError."""
    a, p, n = as_rows(anchors, positives, negatives)
    _check(distance, margin)
    gap = row_distances(a, p, distance) - row_distances(a, n, distance)
    losses, slope = _hinge(gap, margin)
    slope = slope / len(a)
    da, dp = row_distances_grad(slope, a, p, distance)
    da_n, dn = row_distances_grad(-slope, a, n, distance)
    return float(losses.mean(dtype=np.float64)), (da + da_n, dp, dn)


def batch_all_triplet(embeddings: Array, *, labels: Any, distance: str = "euclidean", margin: Margin = 5.0) -> Loss:
    """The mean over all triplets of a batch [B, C] that have a loss at all ("batch all" without the zeros, Hermans et
    al. 2017, equation 6); under a soft margin, over all triplets. labels [B]: equal means positive. Raises InputError.
    """

    def every(d: Array, same: Array, other: Array) -> tuple[float, Array]:
        dd, total, count = np.zeros_like(d), 0.0, 0
        for i in range(len(d)):  # anchor by anchor: B x B memory, not B x B x B
            p, n = np.flatnonzero(same[i]), np.flatnonzero(other[i])
            losses, slope = _hinge(d[i, p, None] - d[i, n], margin)  # (positives, negatives)
            dd[i, p] += slope.sum(axis=1)
            dd[i, n] -= slope.sum(axis=0)
            total += losses.sum()
            count += int((losses > 0).sum())
        return total / max(count, 1), dd / max(count, 1)

    return _in_batch(embeddings, labels, distance, margin, every)


def batch_hard_triplet(embeddings: Array, *, labels: Any, distance: str = "euclidean", margin: Margin = 5.0) -> Loss:
    """The mean over anchors of the triplet of the farthest positive and the nearest negative (Hermans et al. 2017,
    equation 5). embeddings [B, C], labels [B]. Raises InputError.
    """

    def hardest(d: Array, same: Array, other: Array) -> tuple[float, Array]:
        rows = np.flatnonzero(same.any(axis=1) & other.any(axis=1))
        p = np.where(same, d, -np.inf)[rows].argmax(axis=1)
        n = np.where(other, d, np.inf)[rows].argmin(axis=1)
        return _chosen(d, rows, p, n, margin)

    return _in_batch(embeddings, labels, distance, margin, hardest)


def batch_semi_hard_triplet(
    embeddings: Array, *, labels: Any, distance: str = "euclidean", margin: Margin = 5.0
) -> Loss:
    """The mean over pairs of anchor and positive with the nearest negative beyond the positive (Schroff et al. 2015,
    equation 4), or with the farthest negative where none is beyond. embeddings [B, C], labels [B]. Raises InputError.
    """

    def semi_hard(d: Array, same: Array, other: Array) -> tuple[float, Array]:
        rows, p = np.nonzero(same & other.any(axis=1)[:, None])
        beyond = other[rows] & (d[rows] > d[rows, p][:, None])  # (pairs, B)
        nearest = np.where(beyond, d[rows], np.inf).argmin(axis=1)
        farthest = np.where(other[rows], d[rows], -np.inf).argmax(axis=1)
        return _chosen(d, rows, p, np.where(beyond.any(axis=1), nearest, farthest), margin)

    return _in_batch(embeddings, labels, distance, margin, semi_hard)


Choose = Callable[[Array, Array, Array], tuple[float, Array]]  # distances, same, other [B, B] -> loss, its gradient


def _in_batch(embeddings: Array, labels: Any, distance: str, margin: Margin, choose: Choose) -> Loss:
    (x,) = as_rows(embeddings)
    _check(distance, margin)
    labels = np.asarray(labels)
    if labels.shape != (len(x),):
        raise InputError(f"labels must be {len(x)} values, one for each row, not an array {list(labels.shape)}")
    same = labels[:, None] == labels
    loss, dd = choose(all_distances(x, distance), same & ~np.eye(len(x), dtype=bool), ~same)
    return float(loss), (all_distances_grad(dd, x, distance),)


def _chosen(d: Array, a: Array, p: Array, n: Array, margin: Margin) -> tuple[float, Array]:
    """The mean over triplets (a, p, n) of row numbers, and its gradient by distances."""
    losses, slope = _hinge(d[a, p] - d[a, n], margin)
    dd = np.zeros_like(d)
    np.add.at(dd, (a, p), slope / max(len(a), 1))
    np.add.at(dd, (a, n), -slope / max(len(a), 1))
    return float(losses.sum()) / max(len(a), 1), dd


def _hinge(gap: Array, margin: Margin) -> tuple[Array, Array]:
    """Each loss of d(a, p) - d(a, n), and its slope."""
    if margin == "soft":
        return softplus(gap), sigmoid(gap)
    losses = np.maximum(gap + gap.dtype.type(margin), 0)
    return losses, (losses > 0).astype(gap.dtype)


def _check(distance: str, margin: Margin) -> None:
    one_of("distance", distance, DISTANCES)
    number = isinstance(margin, int | float | np.number) and not isinstance(margin, bool) and 0 <= margin < np.inf
    if margin != "soft" and not number:
        raise InputError(f'margin must be "soft" or a finite number of at least 0, not {margin!r}')
