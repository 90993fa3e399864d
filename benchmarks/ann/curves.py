"""Recall, and queries per second read off at a given recall. Arrays and numbers alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from minibi.shapes import Ints


class Point(NamedTuple):
    """What an index does at one of its settings."""

    recall: float
    qps: float  # queries per second
    setting: object = None


def recall(found: Ints, truth: Ints) -> float:
    """Share of the true neighbours [Q, K] among the first K found [Q, >= K]."""
    q, k = truth.shape
    if q == 0 or k == 0:
        return 1.0
    return float(sum(np.isin(own, ids[:k]).sum() for own, ids in zip(truth, found, strict=True)) / truth.size)


def front(points: Iterable[Point]) -> list[Point]:
    """The points that no other beats in both recall and speed, by rising recall (and so falling speed)."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.recall, -p.qps)):
        if not best or point.qps > best[-1].qps:
            best.append(point)
    return best[::-1]


def bracket(curve: Sequence[Point], target: float) -> tuple[Point, ...]:
    """The neighbours on a front between which the target lies: two, the first alone if it is beyond, or none."""
    for i, point in enumerate(curve):
        if point.recall >= target:
            return (point,) if i == 0 or point.recall == target else (curve[i - 1], point)
    return ()


def qps_at(curve: Sequence[Point], target: float) -> float | None:
    """Queries per second at a recall: log-linear between neighbours, None where the front does not reach it.

    Where even the first point is beyond the target, its own speed: nothing faster was seen.
    """
    found = bracket(curve, target)
    if not found:
        return None
    if len(found) == 1:
        return found[0].qps
    a, b = found
    t = (target - a.recall) / (b.recall - a.recall)
    return math.exp((1 - t) * math.log(a.qps) + t * math.log(b.qps))
