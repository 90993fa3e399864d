"""What indexes with inverted lists share: what was learned, which rows a list holds, what a piece of a search sees."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..shapes import Floats, Ints
from .contract import View


@dataclass(frozen=True)
class Learned:
    """What training found: centroids [K, D], and what a subclass learned for its codes."""

    centroids: Floats
    arrays: dict[str, Any] = field(default_factory=dict)
    cached: dict[str, Any] = field(default_factory=dict)  # derived, never saved


@dataclass(frozen=True)
class Lists:
    """Rows below `count` by list: list c owns order[starts[c] : starts[c + 1]], ascending rows and then -1."""

    count: int
    order: NDArray[np.int32]
    starts: Ints
    packed: dict[str, Any] = field(default_factory=dict)  # codes in the order of the lists


@dataclass(frozen=True)
class Scope:
    """What one piece of a search looks at: queries [Q, D], their probed lists, cells and <q, c> scores [Q, P]."""

    view: View
    learned: Learned
    lists: Lists
    mask: NDArray[np.bool_]
    tail: Ints  # rows in no list yet
    queries: Floats
    cells: Ints
    products: Floats
    ef: int
    k: int

    def rows_of(self, q: int) -> Ints:
        """The rows a plain search of query q visits, tail apart."""
        rows = np.concatenate(
            [self.lists.order[self.lists.starts[c] : self.lists.starts[c + 1]] for c in self.cells[q]]
        )
        rows = rows[rows >= 0].astype(np.int64)
        return rows[self.mask[rows]]


def sort_rows(cells: NDArray[np.int32], nlist: int, step: int) -> tuple[NDArray[np.int32], Ints]:
    """(order, starts [nlist + 1]) of rows 0 .. by their cells: a list begins at a multiple of `step` slots."""
    sizes = np.bincount(cells, minlength=nlist).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(-(-sizes // step) * step)]).astype(np.int64)
    rows = np.argsort(cells, kind="stable")
    within = np.arange(len(rows)) - (np.cumsum(sizes) - sizes)[cells[rows]]
    order = np.full(starts[-1], -1, np.int32)
    order[starts[:-1][cells[rows]] + within] = rows
    return order, starts


def multiply(x: Floats, learned: Learned, name: str, matrix: Floats, bias: Floats | None = None) -> Floats:
    """x [Q, D] @ matrix [D, N] + bias [N], filled up to whole panels; a row gives the same bits in any company."""
    from ..kernels import matmul

    panels, wide = panels_of(learned, name, matrix, bias)
    out = np.empty((len(x), len(wide)), np.float32)
    matmul.linear(x, panels, False, wide, out, matmul.NONE, out)
    return out


def panels_of(learned: Learned, name: str, matrix: Floats, bias: Floats | None = None) -> tuple[Floats, Floats]:
    """A matrix and its bias as kernels read them, made once."""
    from ..kernels import matmul

    if name not in learned.cached:
        panels = matmul.pack(matrix)
        wide = np.zeros(len(panels) * matmul.PANEL, np.float32)
        if bias is not None:
            wide[: len(bias)] = bias
        learned.cached[name] = panels, wide
    return learned.cached[name]


def visits(cells: Ints) -> tuple[Ints, Ints]:
    """(pairs [Q P], firsts [G + 1]) of probed lists cells [Q, P]: the pairs q P + p in the order in which lists are
    read, each query's nearest first; those of a group, pairs[firsts[g] : firsts[g + 1]], read the same list."""
    width = int(cells.max(initial=0)) + 1
    keys = (cells.astype(np.int64) + width * np.arange(cells.shape[1])).ravel()
    pairs = np.argsort(keys, kind="stable")
    return pairs, np.flatnonzero(np.diff(keys[pairs], prepend=-1, append=-1))


def best_plain(scope: Scope, keep: int, estimates: Any) -> Ints:
    """[Q, keep]: the twin of the kernels' pools: rows of least (estimates(q, rows), row) in the probed lists."""
    out = np.full((len(scope.queries), keep), -1, np.int64)
    for q in range(len(scope.queries)):
        rows = scope.rows_of(q)
        nearest = rows[np.lexsort((rows, estimates(q, rows)))[:keep]]
        out[q, : len(nearest)] = nearest
    return out


def rank_plain(distances: Floats, which: Ints, ids: Ints, k: int) -> tuple[Floats, Ints]:
    """(distances, rows) [k], sorted by (distance, id), infinity and -1 behind."""
    order = np.lexsort((ids[which], distances))[:k]
    best, found = np.full(k, np.inf, np.float32), np.full(k, -1, np.int64)
    best[: len(order)], found[: len(order)] = distances[order], which[order]
    return best, found
