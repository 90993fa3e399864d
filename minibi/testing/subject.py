"""What is under test, what it offers, and `verify`: the one judge of answers, used by contract, machine and readers.

Always held, however approximate the index: shapes; no id twice; none that is unknown, removed or filtered out; scores
that are the true scores of the returned ids; best first. Held unless switched off: min(k, live) results, -1 after them
alone, and equal scores by smaller id. Recall is counted by score, so that any of equally good neighbours will do.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..shapes import Floats, Ints
from .oracle import Doubles, Oracle, best_first

CAPABILITIES = {
    "any_id": "ids are any int64 but -1, negative ones and 2**63 - 1 among them",
    "batches": "a query's answer does not depend on the other queries of its batch",
    "check": "check() returns what is wrong in words, an empty list if nothing is",
    "compact": "compact() gives back the space of removed items and changes no answer",
    "complete": "there are always min(k, live) results; the rest of a row is id -1",
    "concurrent": "threads may search while one writes; each answer is that of one moment",
    "contains": "`id in index`",
    "counting": "add(vectors) without ids counts on from the largest",
    "filter": "search(..., filter=ids, booleans or a function of ids)",
    "ids": "index.ids are the stored ids in the order they were added",
    "range_search": "range_search(queries, score) -> (starts, scores, ids)",
    "reconstruct": "reconstruct(ids) -> the stored vectors",
    "refusal": "bad input raises ValueError, and nothing has changed",
    "remove": "remove(ids)",
    "save": "save(path) is atomic and durable, load(path) notices every damage",
    "ties": "equal scores are ordered by smaller id",
    "upsert": "upsert(vectors, ids)",
}
EVERYTHING = frozenset(CAPABILITIES)


class Subject:
    """An index to be tested: subclass it, or `IndexContract`, and give it `make`."""

    capabilities: frozenset[str] = EVERYTHING  # names of CAPABILITIES
    metrics: tuple[str, ...] = ("cosine", "ip", "l2")
    recall: float = 1.0  # the least mean recall of a batch of queries; 1.0 is exact search
    tolerance: float = 1e-5  # of scores, relative to the lengths of the two vectors
    errors: tuple[type[Exception], ...] = (ValueError,)  # what bad input raises
    shrink: bool = True  # whether hypothesis looks for the smallest failure, which may take minutes
    options: Mapping[str, Any] = MappingProxyType({})  # handed to every search, such as {"ef": 500}

    def make(self, dim: int, metric: str) -> Any:
        """An empty index."""
        raise NotImplementedError("give your subclass make(self, dim, metric), which returns an empty index")

    def load(self, index: Any, path: Path) -> Any:
        """What `index` wrote to `path` with save, read again."""
        return index.load(path)

    def has(self, *names: str) -> bool:
        """Whether the index offers all of these."""
        if unknown := set(self.capabilities) - EVERYTHING:
            raise ValueError(f"capabilities {sorted(unknown)} are not among {sorted(EVERYTHING)}")
        return set(names) <= self.capabilities

    def search(self, index: Any, queries: ArrayLike, k: int, filter: Any = None) -> tuple[Floats, Ints]:
        """One search with the subject's options."""
        extra = {} if filter is None else {"filter": filter}
        return index.search(queries, k, **self.options, **extra)

    def verify(self, truth: Oracle, index: Any, queries: ArrayLike, k: int, filter: Any = None) -> None:
        """Searches and judges the answer. Raises AssertionError."""
        scores, ids = self.search(index, queries, k, filter)
        verify(
            truth, queries, k, scores, ids, filter=filter, recall=self.recall, tolerance=self.tolerance,
            complete=self.has("complete"), ties=self.has("ties"),
        )  # fmt: skip


def slack(queries: Doubles, vectors: Doubles, metric: str, tolerance: float) -> Doubles:
    """How far [Q, N] a score may be off: `tolerance` times the size of what was added up to it."""
    if metric == "cosine":
        return np.full((len(queries), len(vectors)), tolerance)
    q, x = (np.square(a).sum(axis=1) for a in (queries, vectors))
    size = q[:, None] + x[None] if metric == "l2" else np.sqrt(q[:, None] * x[None])
    return tolerance * size + 1e-35  # where float32 has no digits left


def verify(
    truth: Oracle,
    queries: ArrayLike,
    k: int,
    scores: ArrayLike,
    ids: ArrayLike,
    *,
    filter: Any = None,
    recall: float = 1.0,
    tolerance: float = 1e-5,
    complete: bool = True,
    ties: bool = True,
) -> float:
    """Judges the answer (scores, ids) [Q, k] to queries [Q, dim]; returns the mean recall by score.

    filter: what `search` was given. Raises AssertionError that says what is wrong with which query.
    """
    q = np.asarray(queries, np.float64).reshape(-1, truth.dim)
    s, found = np.asarray(scores), np.asarray(ids)
    assert s.shape == found.shape == (len(q), k), (
        f"shapes {s.shape} and {found.shape} are not both {(len(q), k)}, with id -1 at the end"
    )
    allowed = truth.allowed(filter)
    place = {id: i for i, id in enumerate(allowed.tolist())}
    x = np.array([truth.vectors[id] for id in allowed.tolist()]).reshape(-1, truth.dim)
    exact, off = truth.scores(q, allowed.tolist()), slack(q, x, truth.metric, tolerance)
    sign = 1.0 if truth.metric == "l2" else -1.0  # distances: smaller is better
    shares = []
    for row in range(len(q)):
        where = f"query {row} of {len(q)}, k={k}, {len(allowed)} candidates"
        given = found[row].tolist()
        n = len(given) - given.count(-1)
        assert -1 not in given[:n], f"{where}: id -1 stands before a result: {given}"
        given = given[:n]
        twice = next((id for id in given if given.count(id) > 1), None)
        assert twice is None, f"{where}: id {twice} is returned twice: {given}"
        for id in given:
            state = "filtered out" if id in truth else "removed or was never there"
            assert id in place, f"{where}: id {id} was returned, which is {state}"
        if complete:
            assert n == min(k, len(allowed)), f"{where}: {n} results instead of {min(k, len(allowed))}"
        at = np.array([place[id] for id in given], np.int64)
        distances = sign * s[row, :n].astype(np.float64)
        wrong = ~(np.abs(distances - sign * exact[row, at]) <= off[row, at])
        assert not wrong.any(), _about_scores(where, given, s[row], exact[row, at], wrong)
        assert (np.diff(distances) >= 0).all(), f"{where}: scores are not best first: {s[row, :n].tolist()}"
        if ties:
            for i in np.flatnonzero(np.diff(distances) == 0):
                assert given[i] < given[i + 1], f"{where}: of equal scores id {given[i]} comes before {given[i + 1]}"
        if best := min(k, len(allowed)):
            last = best_first(exact[row], allowed, truth.metric)[best - 1]
            limit = sign * exact[row, last] + 2 * off[row].max()
            shares.append(float((sign * exact[row, at] <= limit).sum()) / best)
    mean = float(np.mean(shares)) if shares else 1.0
    assert mean >= recall - 1e-9, f"recall@{k} is {mean:.4f}, below {recall}, over {len(q)} queries"
    return mean


def _about_scores(where: str, ids: list[int], scores: Any, exact: Doubles, wrong: Any) -> str:
    i = int(np.flatnonzero(wrong)[0])
    return f"{where}: id {ids[i]} came with the score {scores[i]!r}, its true score is {exact[i]!r}"


def verify_range(
    truth: Oracle,
    queries: ArrayLike,
    score: float,
    answer: tuple[Any, Any, Any],
    *,
    filter: Any = None,
    tolerance: float = 1e-5,
    whole: bool = True,
    ties: bool = True,
) -> None:
    """Judges (starts, scores, ids) of a range search; whole: nothing clearly inside the range may be left out.

    Raises AssertionError.
    """
    q = np.asarray(queries, np.float64).reshape(-1, truth.dim)
    starts, scores, ids = (np.asarray(part) for part in answer)
    assert starts.shape == (len(q) + 1,), f"starts have shape {starts.shape}, not {(len(q) + 1,)}"
    assert starts[0] == 0 and starts[-1] == len(scores) == len(ids) and (np.diff(starts) >= 0).all(), "bad starts"
    sign = 1.0 if truth.metric == "l2" else -1.0
    allowed = truth.allowed(filter)
    x = np.array([truth.vectors[id] for id in allowed.tolist()]).reshape(-1, truth.dim)
    exact, off = truth.scores(q, allowed.tolist()), slack(q, x, truth.metric, tolerance)
    for row in range(len(q)):
        s, found = scores[starts[row] : starts[row + 1]], ids[starts[row] : starts[row + 1]]
        assert (sign * s <= sign * score).all(), f"query {row}: a score is beyond {score}: {s.tolist()}"
        if len(found):  # as an answer of so many results, whose recall is judged below
            verify(
                truth, q[row], len(found), s[None], found[None], filter=filter, recall=0.0, tolerance=tolerance,
                complete=False, ties=ties,
            )  # fmt: skip
        inside = sign * exact[row] <= sign * score - 2 * off[row]
        missing = sorted(set(allowed[inside].tolist()) - set(found.tolist()))
        assert not whole or not missing, f"query {row}: ids {missing[:5]} are within {score} but were left out"
