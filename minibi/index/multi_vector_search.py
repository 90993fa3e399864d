"""One state of a multi-vector index, and what a search does with it: candidates, scores, the best of them.

The candidate stage follows PLAID (Santhanam et al. 2022): documents near the query's centroids by inverted lists, then
all their vectors taken for their centroids.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..shapes import Floats, Ints
from ..threads import parallel_map
from .token_codes import Columns, Residuals, Scorer

TOKENS_PER_JOB = 16_384
Filter = Iterable[int] | Callable[[Ints], Any] | None


@dataclass(frozen=True)
class Lists:
    """Inverted lists of the first `count` documents: rows[starts[c]:starts[c + 1]] have a token in cell c."""

    starts: Ints  # [K + 1]
    rows: NDArray[np.int32]
    count: int


@dataclass(frozen=True)
class View:
    """One state of the index, which no later change touches."""

    columns: Columns
    starts: Ints  # [rows]: where a document's tokens begin
    lengths: Ints  # [rows]
    ids: Ints  # [rows]
    alive: NDArray[np.bool_]  # [rows]: not removed, and not empty
    lists: Lists | None


def build_lists(cells: NDArray, lengths: Ints, centroids: int) -> Lists:
    """Inverted lists of all documents, each once in a cell, in the order of their rows."""
    count = len(lengths)
    keys = np.unique(cells.astype(np.int64) * count + np.repeat(np.arange(count), lengths))
    starts = np.searchsorted(keys, np.arange(centroids + 1) * count)
    return Lists(starts, (keys % count).astype(np.int32), count)


def filtered(view: View, filter: Filter) -> View:
    """The view with only those documents findable that pass the filter. Raises InputError."""
    if filter is None:
        return view
    if callable(filter):
        passed = np.asarray(filter(view.ids.copy()))
        if passed.dtype != bool or passed.shape != view.ids.shape:
            raise InputError(f"the filter must return {len(view.ids)} booleans, one for each id it was given")
    else:
        if isinstance(filter, (str, bytes)) or not isinstance(filter, Iterable):
            raise InputError("filter must be ids, or a function of an array of ids that returns booleans")
        wanted = np.asarray(filter if isinstance(filter, np.ndarray) else list(filter))
        if wanted.size and (wanted.dtype.kind not in "iu" or wanted.ndim != 1):
            raise InputError(f"filter must be ids in one row, not {wanted.dtype} {list(wanted.shape)}")
        passed = np.isin(view.ids, wanted)
    return replace(view, alive=view.alive & passed)


def candidates(view: View, codes: Residuals, query: Floats, k: int, nprobe: int, depth: int) -> Ints:
    """At most `depth` rows, by scores that take every vector for its centroid; at least min(k, documents)."""
    rows = np.flatnonzero(view.alive)
    products, scorer = codes.cell_scorer(query)  # (K, S)
    by_token = np.ascontiguousarray(products.T)
    while nprobe < len(products):
        near = np.argpartition(by_token, -nprobe, axis=1)[:, -nprobe:]
        found = np.flatnonzero(_touched(view, np.unique(near), len(products)) & view.alive)
        if len(found) >= min(k, len(rows)):
            rows = found
            break
        nprobe *= 4  # too few documents are near: look further
    if len(rows) <= depth:
        return rows
    scores = score(view, scorer, rows)
    return np.sort(rows[best(scores, view.ids[rows], depth)])


def _touched(view: View, cells: Ints, count: int) -> NDArray[np.bool_]:
    """[rows]: documents with a token in one of `cells`, from the inverted lists, and token by token beyond them."""
    touched = np.zeros(len(view.ids), bool)
    covered = view.lists.count if view.lists else 0
    if view.lists:
        for a, b in zip(view.lists.starts[cells].tolist(), view.lists.starts[cells + 1].tolist(), strict=True):
            touched[view.lists.rows[a:b]] = True
    if covered < len(touched):
        wanted = np.zeros(count, bool)
        wanted[cells] = True
        hits = np.concatenate([[0], np.cumsum(wanted[view.columns["cells"][view.starts[covered] :]])])
        at = view.starts[covered:] - view.starts[covered]
        touched[covered:] = hits[at + view.lengths[covered:]] > hits[at]
    return touched


def score(view: View, scorer: Scorer, rows: Ints) -> Floats:
    """The scores of some rows, in chunks of about as many tokens on several threads."""
    starts, lengths = view.starts[rows], view.lengths[rows]
    if not lengths.any():
        return np.full(len(rows), -np.inf, np.float32)
    jobs = np.cumsum(lengths) // TOKENS_PER_JOB
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(jobs)) + 1, [len(rows)]]).tolist()
    pieces = [slice(a, b) for a, b in pairwise(cuts) if a < b]
    found = parallel_map(lambda piece: scorer(view.columns, starts[piece], lengths[piece]), pieces)
    return np.concatenate(list(found))


def best(scores: Floats, ids: Ints, k: int) -> Ints:
    """Places of the k largest scores, best first, equal ones by the smaller id."""
    if len(scores) > k:
        least = np.partition(scores, -k)[-k]
        near = np.flatnonzero(scores >= least)
    else:
        near = np.arange(len(scores))
    return near[np.lexsort((ids[near], -scores[near]))[:k]]
