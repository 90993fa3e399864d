"""Losses of scores, for cross-encoders as they stand and for bi-encoders through `bridges`; labels or a teacher judge.

Lists come packed, as texts do: scores [T] of all documents end to end, and `starts` [B+1] says where each query's list
begins and the last one ends. Lists of one length may come as scores [B, K] without `starts`. The gradient has the
shape of the scores.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from ...errors import InputError
from .similarity import Array, Loss, as_floats, as_labels, log_sum_exp, positive, sigmoid, softplus


def mse(scores: Array, *, targets: Any) -> Loss:
    """Mean of (score - target)^2; both of any one shape. Raises InputError."""
    s = _scores(scores)
    error = s - as_labels(targets, s.shape, "targets").astype(s.dtype)
    return float(np.square(error).mean(dtype=np.float64)), (2 * error / s.dtype.type(s.size),)


def margin_mse(scores: Array, *, teacher: Any) -> Loss:
    """Mean of (student's margin - teacher's margin)^2 (Hofstätter et al. 2020, equation 4).

    scores [B, 1 + n], the positive first, margins between it and each negative; teacher: scores [B, 1 + n] or margins
    [B, n]. Raises InputError.
    """
    s = _scores(scores)
    if s.ndim != 2 or s.shape[1] < 2:
        raise InputError(f"scores must be [B, 1 + negatives], the positive first, not {list(s.shape)}")
    b, n = s.shape[0], s.shape[1] - 1
    if np.shape(teacher) == s.shape:
        t = as_labels(teacher, s.shape, "teacher's scores")
        margins = t[:, :1] - t[:, 1:]
    else:
        margins = as_labels(teacher, (b, n), "teacher's margins")
    error = s[:, :1] - s[:, 1:] - margins.astype(s.dtype)
    slope = 2 * error / s.dtype.type(error.size)
    return float(np.square(error).mean(dtype=np.float64)), (np.hstack([slope.sum(axis=1, keepdims=True), -slope]),)


def kl_divergence(scores: Array, *, teacher: Any, starts: Any = None, temperature: float = 1.0) -> Loss:
    """Mean over lists of temperature^2 KL(softmax(teacher / temperature) | softmax(scores / temperature)).

    Hinton, Vinyals & Dean 2015, section 2: the factor keeps the gradient's size whatever the temperature is.
    """
    t = positive("temperature", temperature)
    log_p, log_q, lists = _log_probabilities(scores, teacher, starts, t)
    p, q = np.exp(log_p), np.exp(log_q)
    return t * t * float((q * (log_q - log_p)).sum()) / lists, (_like(scores, (p - q) * (t / lists)),)


def list_net(scores: Array, *, labels: Any, starts: Any = None, temperature: float = 1.0) -> Loss:
    """Mean over lists of the cross-entropy between softmax(labels) and softmax(scores / temperature): top-one ListNet
    (Cao et al. 2007, equation 4). labels: relevances or a teacher's scores, shaped as the scores. Raises InputError.
    """
    t = positive("temperature", temperature)
    log_p, log_q, lists = _log_probabilities(scores, labels, starts, t, 1.0)
    p, q = np.exp(log_p), np.exp(log_q)
    return -float((q * log_p).sum()) / lists, (_like(scores, (p - q) / (t * lists)),)


def rank_net(scores: Array, *, labels: Any, starts: Any = None, sigma: float = 1.0) -> Loss:
    """Mean of log(1 + exp(-sigma (s_i - s_j))) over all pairs of one list with label_i > label_j (Burges et al. 2005,
    equation 3 with certain targets). Lists without such a pair count nothing. Raises InputError.
    """
    sigma = positive("sigma", sigma)
    flat, bounds = _packed(scores, starts)
    y = as_labels(labels, np.shape(scores)).ravel()
    d, total, count = np.zeros(len(flat)), 0.0, 0
    for first, end in pairwise(bounds.tolist()):
        s = sigma * flat[first:end].astype(np.float64)
        above = y[first:end, None] > y[first:end]
        worse = s - s[:, None]  # [i, j]: by how much j is scored above i
        slope = sigma * np.where(above, sigmoid(worse), 0)
        d[first:end] += slope.sum(axis=0) - slope.sum(axis=1)
        total += float(softplus(worse)[above].sum())
        count += int(above.sum())
    return total / max(count, 1), (_like(scores, d / max(count, 1)),)


def rank_net_pairs(first: Array, second: Array, *, probability: Any = 1.0, sigma: float = 1.0) -> Loss:
    """Mean of -P o + log(1 + e^o), o = sigma (first - second) (Burges et al. 2005, equation 3).

    first, second [B]: scores of two documents; probability P [B] or one number: that the first is to rank above the
    second. Raises InputError.
    """
    a, b = _scores(first), _scores(second)
    p = as_labels(np.broadcast_to(probability, a.shape) if np.ndim(probability) == 0 else probability, a.shape)
    if a.shape != b.shape:
        raise InputError(f"both scores must have one shape, not {list(a.shape)} and {list(b.shape)}")
    if ((p < 0) | (p > 1)).any():
        raise InputError("probability must lie between 0 and 1")
    sigma = positive("sigma", sigma)
    o, p = (a - b) * a.dtype.type(sigma), p.astype(a.dtype)
    losses = p * softplus(-o) + (1 - p) * softplus(o)  # the same sum, without a difference of large numbers
    slope = ((1 - p) * sigmoid(o) - p * sigmoid(-o)) * a.dtype.type(sigma / a.size)
    return float(losses.mean(dtype=np.float64)), (slope, -slope)


def binary_cross_entropy(logits: Array, *, labels: Any, pos_weight: float = 1.0) -> Loss:
    """Mean of -w y log p - (1 - y) log(1 - p), p = sigmoid(logit): relevance as yes or no, each pair for itself.

    labels between 0 and 1, shaped as the logits; pos_weight w makes up for many negatives. Raises InputError.
    """
    x, w = _scores(logits), positive("pos_weight", pos_weight)
    y = as_labels(labels, x.shape)
    if ((y < 0) | (y > 1)).any():
        raise InputError("labels must lie between 0 and 1: scale them, or use mse for scores of another range")
    y, w = y.astype(x.dtype), x.dtype.type(w)
    losses = w * y * softplus(-x) + (1 - y) * softplus(x)
    slope = ((1 - y) * sigmoid(x) - w * y * sigmoid(-x)) / x.dtype.type(x.size)
    return float(losses.mean(dtype=np.float64)), (slope,)


def cross_entropy(logits: Array, *, labels: Any, label_smoothing: float = 0.0) -> Loss:
    """Mean of -log softmax(logits)[label]. logits [B, K]; labels: whole numbers [B], the right column of each row, or
    probabilities [B, K]. label_smoothing mixes in the uniform distribution. Raises InputError.
    """
    x = _scores(logits)
    if x.ndim != 2:
        raise InputError(f"logits must have shape [B, K], not {list(x.shape)}")
    b, k = x.shape
    if np.ndim(labels) == 2:
        target = as_labels(labels, (b, k))
        if (target < 0).any() or np.abs(target.sum(axis=1) - 1).max() > 1e-4:
            raise InputError("labels [B, K] must be probabilities: at least 0, and 1 in the sum of each row")
    else:
        y = as_labels(labels, (b,))
        if (y != np.floor(y)).any() or (y < 0).any() or (y >= k).any():
            raise InputError(f"labels must be whole numbers from 0 to {k - 1}, the columns of the logits")
        target = np.eye(k)[y.astype(np.int64)]
    if not 0 <= label_smoothing < 1:
        raise InputError(f"label_smoothing must be at least 0 and below 1, not {label_smoothing!r}")
    target = ((1 - label_smoothing) * target + label_smoothing / k).astype(x.dtype)
    log_p = x - x.max(axis=1, keepdims=True)
    log_p = log_p - log_sum_exp(log_p)[:, None]
    loss = -float(np.where(target > 0, target * log_p, 0).sum(dtype=np.float64)) / b
    return loss + 0.0, ((np.exp(log_p) * target.sum(axis=1, keepdims=True) - target) / x.dtype.type(b),)


# --- lists -----------------------------------------------------------------------------------------------------------


def _log_probabilities(
    scores: Array, targets: Any, starts: Any, t: float, t_targets: float | None = None
) -> tuple[Array, Array, int]:
    """Log softmax of scores / t and of targets / t_targets (else / t), float64 [T], and the number of lists."""
    flat, bounds = _packed(scores, starts)
    y = as_labels(targets, np.shape(scores), "labels or teacher's scores").ravel()
    return _log_softmax(flat / t, bounds), _log_softmax(y / (t_targets or t), bounds), len(bounds) - 1


def _like(scores: Array, gradient: Array) -> Array:
    return gradient.astype(scores.dtype).reshape(scores.shape)


def _log_softmax(x: Array, bounds: Array) -> Array:
    """log softmax of each list of x [T], in float64."""
    sizes, begin = np.diff(bounds), bounds[:-1]
    x = x.astype(np.float64)
    x = x - np.repeat(np.maximum.reduceat(x, begin), sizes)
    return x - np.repeat(np.log(np.add.reduceat(np.exp(x), begin)), sizes)


def _packed(scores: Array, starts: Any) -> tuple[Array, Array]:
    """Scores [T] and their bounds [B+1]. Raises InputError."""
    s = _scores(scores)
    if starts is None:
        if s.ndim != 2:
            raise InputError(f"scores must be [B, K], or [T] with `starts`, not {list(s.shape)}")
        return s.ravel(), np.arange(s.shape[0] + 1) * s.shape[1]
    bounds = np.asarray(starts)
    ok = bounds.ndim == 1 and bounds.size > 1 and bounds.dtype.kind in "iu" and s.ndim == 1
    if not ok or bounds[0] != 0 or bounds[-1] != len(s) or (np.diff(bounds.astype(np.int64)) < 1).any():
        raise InputError(f"starts must rise from 0 to {len(s)}, the number of scores, with no empty list between")
    return s, bounds.astype(np.int64)


def _scores(x: Any) -> Array:
    a = as_floats("scores", x)
    if not a.size:
        raise InputError("scores are empty: a batch needs at least one")
    return a
