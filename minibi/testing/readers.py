"""Many threads search while one writes; afterwards every answer must be that of one moment during its call.

The writer's calls are numbered. A vector that call b stored and call d replaced or removed was certainly there between
the end of b and the start of d, and may have been there while b or d ran. For each answer there must be a moment within
its call at which every returned id was, with the returned score; at which there were so many items; and, for exact
search, at which nothing better was certainly there. So a removed id, a torn vector or half an answer is found out.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .oracle import exact_scores
from .subject import Subject, slack

NEVER = 2**62


@dataclass
class History:
    """Every vector that ever was, with the numbers of the calls that stored and ended it. Written by one thread."""

    ids: list[int] = field(default_factory=list)
    vectors: list[Any] = field(default_factory=list)
    born: list[int] = field(default_factory=list)
    died: list[int] = field(default_factory=list)
    place: dict[int, int] = field(default_factory=dict)  # id -> its vector of the moment

    def store(self, call: int, ids: list[int], vectors: Any) -> None:
        self.end(call, [i for i in ids if i in self.place])
        for id, vector in zip(ids, vectors, strict=True):
            self.place[id] = len(self.ids)
            self.ids.append(id)
            self.vectors.append(vector)
            self.born.append(call)
            self.died.append(NEVER)

    def end(self, call: int, ids: list[int]) -> None:
        for id in ids:
            self.died[self.place.pop(id)] = call


@dataclass(frozen=True)
class Answer:
    """One search and the calls that were under way: moment 2i is after call i, 2i - 1 while it ran."""

    first: int
    last: int
    query: int
    scores: Any
    ids: Any


@dataclass
class ReadersReport:
    """What `check_readers` saw."""

    answers: int
    calls: int
    during: int  # answers whose search ran beside a call of the writer
    items: int

    def __str__(self) -> str:
        return f"{self.answers} answers beside {self.calls} calls of the writer, {self.during} while one was under way"


def check_readers(
    subject: Subject, dim: int = 8, metric: str = "cosine", *, items: int = 200, threads: int = 3, seconds: float = 1.0,
    k: int = 10, largest: int = 40, seed: int = 0, most: int = 20_000,
) -> ReadersReport:  # fmt: skip
    """Searches from `threads` threads while this one adds, upserts and removes up to `largest` items at a time.

    items: how many there are to begin with, and about how many throughout; most: answers that are kept for judging.
    Raises AssertionError; whatever a searching thread raised, too.
    """
    rng = np.random.default_rng(seed)
    index, history = subject.make(dim, metric), History()
    queries = rng.normal(size=(64, dim)).astype(np.float32)
    calls = [0, 0]  # started, finished
    answers: list[Answer] = []
    errors: list[BaseException] = []
    stop = threading.Event()

    def reader(number: int) -> None:
        dice = np.random.default_rng([seed, number])
        try:
            while not stop.is_set() and len(answers) < most:
                q = int(dice.integers(len(queries)))
                first = 2 * calls[1]
                scores, ids = subject.search(index, queries[q : q + 1], k)
                started, finished = calls[0], calls[1]  # in this order
                last = 2 * started if finished >= started else 2 * started - 1
                answers.append(Answer(first, max(first, last), q, np.array(scores[0]), np.array(ids[0])))
        except BaseException as e:
            errors.append(e)

    def write(what: str, ids: list[int]) -> None:
        calls[0] += 1
        if what == "remove":
            history.end(calls[0], ids)
            index.remove(ids)
        else:
            x = rng.normal(size=(len(ids), dim)).astype(np.float32)
            history.store(calls[0], ids, x)
            getattr(index, what)(x, ids)
        calls[1] += 1

    fresh = iter(range(NEVER))
    write("add", [next(fresh) for _ in range(items)])
    crew = [threading.Thread(target=reader, args=(n,), daemon=True) for n in range(threads)]
    for thread in crew:
        thread.start()
    end = time.monotonic() + seconds
    try:
        while time.monotonic() < end and not errors:
            n, live = int(rng.integers(1, largest + 1)), list(history.place)
            options = ["add"] if len(live) < 2 * items or not subject.has("remove") else []
            options += ["upsert"] * subject.has("upsert") + ["remove"] * (subject.has("remove") and len(live) > n)
            what = str(rng.choice(options))
            some = rng.choice(live, min(n, len(live)), replace=False).tolist() if what != "add" else []
            write(what, [next(fresh) for _ in range(n)] if what == "add" else some)
    finally:
        stop.set()
        for thread in crew:
            thread.join()
    if errors:
        raise errors[0]
    _judge(subject, metric, queries, answers, history, k)
    during = sum(a.last > a.first or a.last % 2 for a in answers)
    return ReadersReport(len(answers), calls[0], during, len(history.place))


def _judge(subject: Subject, metric: str, queries: Any, answers: list[Answer], history: History, k: int) -> None:
    ids, x = np.array(history.ids, np.int64), np.array(history.vectors)
    born, died = np.array(history.born), np.array(history.died)
    exact = exact_scores(queries, x, metric)
    off = slack(queries.astype(np.float64), x.astype(np.float64), metric, subject.tolerance)
    sign = 1 if metric == "l2" else -1
    versions: dict[int, list[int]] = {}
    for at, id in enumerate(history.ids):
        versions.setdefault(id, []).append(at)
    for answer in answers:
        given = [i for i in answer.ids.tolist() if i != -1]
        where = f"a search beside calls {answer.first / 2:g} to {answer.last / 2:g} of the writer"
        assert len(set(given)) == len(given), f"{where} returned an id twice: {given}"
        moments = np.arange(answer.first, answer.last + 1)
        right = np.ones(len(moments), bool)
        for id, score in zip(given, answer.scores.tolist(), strict=False):
            at = np.array(versions.get(id, []), np.int64)
            assert len(at), f"{where} returned id {id}, which never was"
            at_all = (2 * born[at] - 1 <= moments[:, None]) & (moments[:, None] <= 2 * died[at] - 1)
            assert at_all.any(), f"{where} returned id {id}, which was not there at that time"
            same = np.abs(score - exact[answer.query, at]) <= off[answer.query, at]
            assert (at_all & same).any(), (
                f"{where} returned id {id} with the score {score}, which no vector it had at that time has"
            )
            right &= (at_all & same).any(axis=1)
        assert right.any(), f"{where} returned ids that were never there together: {given}"
        reasons = set()
        for moment in moments[right].tolist():
            reason = _incomplete(subject, answer, given, moment, k, sign, ids, born, died, exact, off)
            if not reason:
                break
            reasons.add(reason)
        else:
            raise AssertionError(f"{where}: {reasons.pop()}")


def _incomplete(
    subject: Subject, answer: Answer, given: list[int], moment: int, k: int, sign: int, ids: Any, born: Any, died: Any,
    exact: Any, off: Any,
) -> str:  # fmt: skip
    """What is missing from an answer if it was given at this moment, or ""."""
    sure = (2 * born <= moment) & (moment < 2 * died - 1)
    possible = len(np.unique(ids[(2 * born - 1 <= moment) & (moment <= 2 * died - 1)]))
    if subject.has("complete") and not min(k, int(sure.sum())) <= len(given) <= min(k, possible):
        return f"{len(given)} results, but there were {int(sure.sum())} to {possible} items"
    if subject.recall >= 1 and len(given) == k:
        distance = sign * exact[answer.query]
        better = sure & (distance < sign * float(answer.scores[k - 1]) - 2 * off[answer.query])
        if left_out := sorted(set(ids[better].tolist()) - set(given)):
            return f"id {left_out[0]} was there and better than the last result, but was left out"
    return ""
