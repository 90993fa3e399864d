"""What `minibi.kernels.lexical` computes, in NumPy: slow, plain, every posting read."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .variants import Model

BLOCK = 64


def append(lists: Any, docs: Any, flat: NDArray, offsets: NDArray, first: int, slope: Any, state: NDArray) -> int:
    """Adds documents `first`, ...; how many places it needs at the arena's end, 0 when done. See the kernel."""
    for d in range(int(state[0]), len(offsets) - 1):
        row, size = first + d, int(offsets[d + 1] - offsets[d])
        terms, tfs = np.unique(flat[offsets[d] : offsets[d + 1]], return_counts=True)
        moved = [(t, int(lists.counts[t])) for t in terms if lists.counts[t] == lists.caps[t]]
        needed = sum(c + c // 4 + 4 for _, c in moved)
        if int(state[2]) + needed > len(lists.rows):
            state[0] = d
            return needed
        for t, count in moved:
            old, new = lists.starts[t], int(state[2])
            for a in (lists.rows, lists.tfs):
                a[new : new + count] = a[old : old + count]
            state[4] += lists.caps[t]
            lists.starts[t], lists.caps[t] = new, count + count // 4 + 4
            state[2] += lists.caps[t]
        places = lists.starts[terms] + lists.counts[terms]
        lists.rows[places], lists.tfs[places] = row, tfs
        lists.counts[terms] += 1
        lists.dfs[terms] += 1
        lists.tops[terms] = np.maximum(lists.tops[terms], tfs / (slope[0] + slope[1] * size))
        docs.terms[state[3] : state[3] + len(terms)] = terms
        state[3] += len(terms)
        docs.firsts[row + 1], docs.lengths[row], docs.live[row] = state[3], size, 1
    return 0


def weigh(lists: Any, lengths: NDArray, terms: NDArray, model: Model) -> None:
    for term in terms:
        at = slice(lists.starts[term], lists.starts[term] + lists.counts[term])
        lists.parts[at] = parts(model, lists.tfs[at], lengths[lists.rows[at]])
        if lists.lines[term] >= 0:
            there = lists.rows[at] < lists.codes.shape[1]
            lists.codes[lists.lines[term], lists.rows[at][there]] = codes(lists.parts[at][there])


def count_documents(flat: NDArray, offsets: NDArray, need: NDArray) -> None:
    for begin, end in pairwise(offsets.tolist()):
        need[np.unique(flat[begin:end])] += 1


def pack(lists: Any, kept: NDArray, new_rows: NDArray, lengths: NDArray, slope: Any, new: Any) -> None:
    """Copies the postings of live rows, and computes `tops`."""
    for term, old in enumerate(kept):
        at = slice(lists.starts[old], lists.starts[old] + lists.counts[old])
        rows = new_rows[lists.rows[at]]
        tfs = lists.tfs[at][rows >= 0]
        rows = rows[rows >= 0]
        to = slice(new.starts[term], new.starts[term] + len(rows))
        new.rows[to], new.tfs[to], new.counts[term] = rows, tfs, len(rows)
        x = tfs / (slope[0] + slope[1] * lengths[rows])
        new.tops[term] = np.max(x, initial=0)
        if new.lines[term] >= 0:
            line, there = new.table[new.lines[term]], rows // BLOCK < new.table.shape[1]
            codes = np.minimum(255.0, 255 * x / (x + 1) + 1).astype(np.uint8)
            np.maximum.at(line, rows[there] // BLOCK, codes[there])
            new.places[new.lines[term]] = np.searchsorted(rows, BLOCK * np.arange(len(line) + 1))


def transpose(lists: Any, ends: NDArray, terms: NDArray) -> None:
    for term, (start, count) in enumerate(zip(lists.starts, lists.counts, strict=True)):
        rows = lists.rows[start : start + count]
        terms[ends[rows]] = term
        ends[rows] += 1


def query_terms(lists: Any, terms: NDArray, weights: NDArray) -> list[tuple[int, float]]:
    """(term, weight * idf) of a query, heaviest first, repeated terms added up, those without weight left out."""
    total: dict[int, float] = {}
    for term, weight in zip(terms.tolist(), weights.tolist() or [1.0] * len(terms), strict=True):
        if 0 <= term < len(lists.idfs) and lists.idfs[term] > 0:
            total[term] = total.get(term, 0.0) + weight * float(lists.idfs[term])
    return sorted(((t, w) for t, w in total.items() if w > 0), key=lambda pair: -np.float32(pair[1]))


def parts(model: Model, tfs: NDArray, lengths: NDArray) -> NDArray[np.float32]:
    """tf / (tf + c B), in the kernels' own arithmetic."""
    tf = tfs.astype(np.float32)
    return tf / (tf + (model.c0 + model.c1 * lengths.astype(np.float32)))


def codes(parts: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A byte for what a posting gives: part <= code / 254, part > (code - 1) / 254."""
    return ((parts * np.float32(254)).astype(np.int32) + 1).astype(np.uint8)


def contributions(model: Model, weight: float, parts: NDArray[np.float32]) -> NDArray[np.float32]:
    """What a term of this weight gives to documents that hold it."""
    return np.float32(weight * model.scale) * parts + np.float32(weight * model.jump)


def constant(model: Model, weights: list[float]) -> np.float32:
    """What every document gets."""
    total = 0.0
    for weight in weights:
        total += weight * model.everywhere
    return np.float32(total)


def new_work() -> None:
    """The kernel needs room, this does not."""


def stale(moments: NDArray, used: int, moment: int, terms: NDArray) -> bool:
    return bool((moments[terms[(terms >= 0) & (terms < used)]] != moment).any())


def search(
    lists: Any, ids: NDArray, lengths: NDArray, rows: int, allowed: NDArray, every: bool, model: Model, batch: Any,
    work: None, k: int, out_scores: NDArray, out_ids: NDArray,
) -> None:  # fmt: skip
    """The k best of each query, by summing up every document."""
    out_scores[:], out_ids[:] = -np.inf, -1
    for q in range(len(out_ids)):
        at = slice(batch.offsets[q], batch.offsets[q + 1])
        chosen = query_terms(lists, batch.terms[at], batch.weights[at])
        sums = np.zeros(rows, np.float32)
        for term, weight in chosen:
            postings = slice(lists.starts[term], lists.starts[term] + lists.counts[term])
            sums[lists.rows[postings]] += contributions(model, weight, lists.parts[postings])
        hits = np.flatnonzero((sums > 0) & (allowed[:rows] > 0))
        scores = sums[hits] + constant(model, [weight for _, weight in chosen])
        best = np.lexsort((ids[hits], -scores))[:k]
        out_scores[q, : len(best)], out_ids[q, : len(best)] = scores[best], ids[hits[best]]
