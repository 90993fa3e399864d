"""Losses of labelled pairs: two texts and a number that says how alike they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...errors import InputError
from .similarity import (
    DISTANCES,
    SIMILARITIES,
    Array,
    Loss,
    as_labels,
    as_rows,
    one_of,
    positive,
    row_distances,
    row_distances_grad,
    row_scores,
    row_scores_grad,
)


def contrastive(first: Array, second: Array, *, labels: Any, distance: str = "cosine", margin: float = 0.5) -> Loss:
    """Pulls alike pairs together and pushes others apart, up to a margin (Hadsell, Chopra & LeCun 2006, equation 4).

    The mean of (y d^2 + (1 - y) max(0, margin - d)^2) / 2. first, second [B, C]; labels y [B], 1 alike, 0 not; numbers
    between mix the two. distance: "cosine" (1 - cosine) or "euclidean". Raises InputError.
    """
    a, b, y = _pairs(first, second, labels, distance)
    if ((y < 0) | (y > 1)).any():
        raise InputError("labels of contrastive must lie between 0 (apart) and 1 (alike): scale them")
    d = row_distances(a, b, distance)
    short = np.maximum(d.dtype.type(margin) - d, 0)
    y = y.astype(d.dtype)
    loss = float((y * d * d + (1 - y) * short * short).mean(dtype=np.float64)) / 2
    return loss, row_distances_grad((y * d - (1 - y) * short) / len(d), a, b, distance)


def online_contrastive(
    first: Array, second: Array, *, labels: Any, distance: str = "cosine", margin: float = 0.5
) -> Loss:
    """Contrastive loss of the hard pairs only, summed: alike pairs farther apart than the nearest unlike pair, and
    unlike pairs nearer than the farthest alike one (the choice of sentence-transformers' OnlineContrastiveLoss).

    Where the batch has one kind only, its mean distance divides hard from easy. labels [B], 0 or 1. Raises InputError.
    """
    a, b, y = _pairs(first, second, labels, distance)
    if not np.isin(y, (0, 1)).all():
        raise InputError("labels of online_contrastive must be 0 (apart) or 1 (alike)")
    d = row_distances(a, b, distance)
    alike, apart = y == 1, y == 0
    far = d[alike].max() if alike.any() else d[apart].mean()
    near = d[apart].min() if apart.any() else d[alike].mean()
    pulled = np.where(alike & (d > near), d, 0)
    pushed = np.where(apart & (d < far), np.maximum(d.dtype.type(margin) - d, 0), 0)
    loss = float((pulled * pulled + pushed * pushed).sum(dtype=np.float64))
    return loss, row_distances_grad(2 * (pulled - pushed), a, b, distance)


def cosine_similarity(first: Array, second: Array, *, labels: Any) -> Loss:
    """Mean of (cosine - label)^2: regression to a likeness from -1 to 1 (Reimers & Gurevych 2019, section 3).

    first, second [B, C]; labels [B]: scores of another range must be scaled first. Raises InputError.
    """
    a, b, y = _pairs(first, second, labels, "cosine")
    if (np.abs(y) > 1).any():
        raise InputError(
            f"labels must lie between -1 and 1, as cosines do, but one is {y[np.abs(y).argmax()]:g}: scale"
        )
    error = row_scores(a, b, "cosine") - y.astype(a.dtype)
    loss = float(np.square(error).mean(dtype=np.float64))
    return loss, row_scores_grad(2 * error / len(error), a, b, "cosine")


def cosent(first: Array, second: Array, *, labels: Any, scale: float = 20.0, similarity: str = "cosine") -> Loss:
    """CoSENT (Su 2022): pairs are to be ordered by likeness as their labels are.

        log(1 + sum over i, j with label_i < label_j of exp(scale (s_i - s_j)))

    first, second [B, C]; labels [B] of any range: only their order counts. Sums over sorted labels take B log B time
    where the formula has B^2 terms. Raises InputError.
    """
    a, b, y = _pairs(first, second, labels, "cosine")
    one_of("similarity", similarity, SIMILARITIES)
    scale = positive("scale", scale)
    s = scale * row_scores(a, b, similarity).astype(np.float64)
    order = np.argsort(y, kind="stable")
    y, s = y[order], s[order]
    none = np.array([-np.inf])
    above = np.concatenate([np.logaddexp.accumulate(-s[::-1])[::-1], none])[np.searchsorted(y, y, side="right")]
    below = np.concatenate([none, np.logaddexp.accumulate(s)])[np.searchsorted(y, y, side="left")]
    loss = np.logaddexp(0, np.logaddexp.reduce(s + above))
    ds = np.empty_like(s)
    ds[order] = np.exp(s + above - loss) - np.exp(below - s - loss)  # as the lower of a pair, as the upper
    return float(loss), row_scores_grad((scale * ds).astype(a.dtype), a, b, similarity)


def _pairs(first: Array, second: Array, labels: Any, distance: str) -> tuple[Array, Array, Array]:
    a, b = as_rows(first, second)
    one_of("distance", distance, DISTANCES)
    return a, b, as_labels(labels, (len(a),))
