"""Recall and the shape of a graph, as dataclasses that print as tables. Nothing here prints by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from .oracle import exact_scores

QUERIES_AT_ONCE = 64


def table(rows: Sequence[Sequence[Any]], head: Sequence[str]) -> str:
    """Columns padded to equal width, in Markdown."""
    cells = [[str(c) for c in row] for row in (head, *rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in cells]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


@dataclass(frozen=True)
class RecallReport:
    """How many of the true k nearest were found."""

    k: int
    queries: int
    by_id: float  # mean share of the ids of the exact answer, equal scores by smaller id
    by_score: float  # mean share of results as good as the exact k-th: any of equally good ones will do
    worst: float  # lowest by_score of a query
    perfect: float  # share of queries with by_score 1
    short: int  # queries with fewer than min(k, N) results
    error: float  # largest difference of a returned score from the true one, relative to the vectors' lengths

    def __str__(self) -> str:
        rows = [
            (f"recall@{self.k} by score", f"{self.by_score:.4f}"), (f"recall@{self.k} by id", f"{self.by_id:.4f}"),
            ("worst query", f"{self.worst:.4f}"), ("queries without a miss", f"{self.perfect:.4f}"),
            ("queries with too few results", self.short), ("largest error of a score", f"{self.error:.1e}"),
        ]  # fmt: skip
        return table(rows, ("", f"{self.queries} queries"))


def recall_report(
    index: Any, vectors: ArrayLike, queries: ArrayLike, k: int = 10, *, metric: str, ids: ArrayLike | None = None,
    filter: Any = None, **options: Any,
) -> RecallReport:  # fmt: skip
    """Compares `index.search(queries, k, **options)` with exact search in float64.

    vectors [N, dim] and ids [N] (default 0 .. N-1): what the index holds; filter: ids that may be returned, handed on.
    Raises InputError.
    """
    x, q = np.asarray(vectors, np.float64), np.asarray(queries, np.float64)
    if x.ndim != 2 or q.ndim != 2 or not len(x) or not len(q):
        raise InputError("a recall report needs vectors [N, dim] and queries [Q, dim], at least one of each")
    held = np.arange(len(x)) if ids is None else np.asarray(ids, np.int64)
    if held.shape != (len(x),):
        raise InputError(f"ids must be {len(x)} whole numbers, one for each vector")
    if filter is not None:
        options["filter"] = filter
        kept = np.isin(held, np.asarray(list(filter), np.int64))
        x, held = x[kept], held[kept]
    order = np.argsort(held)
    x, held = x[order], held[order]
    best, sign = min(k, len(x)), 1 if metric == "l2" else -1
    scores, found = (np.asarray(a) for a in index.search(np.asarray(queries, np.float32), k, **options))
    by_id, by_score, errors, short = [], [], [0.0], 0
    for first in range(0, len(q), QUERIES_AT_ONCE):
        some = slice(first, first + QUERIES_AT_ONCE)
        distances = sign * exact_scores(q[some], x, metric) if metric != "l2" else _squared(q[some], x)
        for d, s, f in zip(distances, scores[some], found[some], strict=True):
            real = f != -1
            short += int(real.sum()) < best
            f, s = f[real], s[real]
            near = np.argpartition(d, best - 1)[:best] if best < len(d) else np.arange(len(d))
            limit = d[near].max()
            ties = np.flatnonzero(d <= limit)
            true = held[ties[np.lexsort((held[ties], d[ties]))][:best]]
            at = np.searchsorted(held, f).clip(max=len(held) - 1)
            known = held[at] == f
            size = max(1e-30, float(np.abs(limit)), float(np.abs(d).max()) if metric == "l2" else 0.0)
            by_id.append(len(np.intersect1d(f, true)) / best)
            by_score.append((known & (d[at] <= limit + 1e-6 * size)).sum() / best)
            if known.any():
                errors.append(float(np.abs(sign * s[known] - d[at[known]]).max() / max(size, 1.0)))
    share = np.array(by_score)
    return RecallReport(
        k, len(q), float(np.mean(by_id)), float(share.mean()), float(share.min()), float((share >= 1).mean()), short,
        max(errors),
    )  # fmt: skip


def _squared(q: Any, x: Any) -> Any:
    """Squared distances [Q, N] by the binomial formula in float64: no array of Q x N x dim."""
    return np.maximum(np.square(q).sum(1)[:, None] - 2 * q @ x.T + np.square(x).sum(1)[None], 0)


@dataclass(frozen=True)
class GraphReport:
    """The shape of a directed graph."""

    nodes: int
    links: int
    out_degrees: NDArray[np.int64]  # [N]
    in_degrees: NDArray[np.int64]  # [N]
    reachable: int  # from the start, itself included
    depth: int  # steps to the farthest of them
    selfish: int  # links of a node to itself
    double: int  # links that a node has twice
    astray: int  # links to no node, or to one that is not live
    one_way: int  # links whose target does not link back

    @property
    def problems(self) -> list[str]:
        """What a search graph should never have, in words."""
        found = [
            (self.nodes - self.reachable, "nodes cannot be reached from the start"),
            (self.selfish, "links lead from a node to itself"), (self.double, "links are there twice"),
            (self.astray, "links lead to no live node"),
        ]  # fmt: skip
        return [f"{n} {words}" for n, words in found if n]

    def __str__(self) -> str:
        rows = [
            ("nodes / links", f"{self.nodes} / {self.links}"), ("reachable from the start", self.reachable),
            ("steps to the farthest", self.depth), ("links one way", self.one_way),
            ("to itself / twice / astray", f"{self.selfish} / {self.double} / {self.astray}"),
        ]  # fmt: skip
        return table(rows, ("graph", "")) + "\n\n" + self._histogram()

    def _histogram(self) -> str:
        edges = [0, 1, 2, 4, 8, 16, 32, 64, 128, 2**62]
        rows = []
        for low, high in pairwise(edges):
            counts = [int(((d >= low) & (d < high)).sum()) for d in (self.out_degrees, self.in_degrees)]
            if any(counts):
                name = str(low) if high == low + 1 else f"{low}-{high - 1}" if high < 2**62 else f"{low}-"
                rows.append((name, *counts))
        return table(rows, ("degree", "nodes by links out", "nodes by links in"))


def graph_report(links: ArrayLike, start: int, live: ArrayLike | None = None) -> GraphReport:
    """links: int [N, M], -1 where there is none; start: the node that searches begin at; live: bool [N], default all.

    Raises InputError.
    """
    out = np.asarray(links)
    if out.ndim != 2 or out.dtype.kind not in "iu":
        raise InputError("links must be whole numbers [N, M], -1 where there is none")
    n = len(out)
    alive = np.ones(n, bool) if live is None else np.asarray(live, bool)
    if not 0 <= start < n and n:
        raise InputError(f"start must be one of {n} nodes, not {start}")
    used = (out != -1) & alive[:, None]
    inside = used & (out >= 0) & (out < n)
    good = inside & alive[np.where(inside, out, 0)]
    source, target = np.nonzero(good)[0], out[good].astype(np.int64)
    ordered = np.sort(np.where(used, out, -1), axis=1)
    double = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] != -1)
    keys = np.unique(source.astype(np.int64) * n + target)
    one_way = len(keys) - np.isin(keys % max(n, 1) * n + keys // max(n, 1), keys).sum()
    reached, depth = _walk(out, good, start, n)
    return GraphReport(
        int(alive.sum()), int(used.sum()), good.sum(axis=1)[alive], np.bincount(target, minlength=n)[alive], reached,
        depth, int((good & (out == np.arange(n)[:, None])).sum()), int(double.sum()), int((used & ~good).sum()),
        int(one_way),
    )  # fmt: skip


def _walk(out: Any, good: Any, start: int, n: int) -> tuple[int, int]:
    """(nodes reached, steps to the farthest), breadth first."""
    if not n:
        return 0, 0
    seen = np.zeros(n, bool)
    seen[start] = True
    wave, depth = np.array([start]), 0
    while True:
        following = np.unique(out[wave][good[wave]])
        wave = following[~seen[following]]
        if not len(wave):
            return int(seen.sum()), depth
        seen[wave] = True
        depth += 1
