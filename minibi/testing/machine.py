"""All calls in any order, beside the oracle: `Shadowed` makes each call twice and compares, `state_machine` picks them.

TestMine = state_machine(TestContract(), dim=4, metric="l2").TestCase       # with hypothesis, which shrinks
replay(Subject, dim, metric, operations)                                    # a list of calls, as in a bug report
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from numpy.typing import ArrayLike

from ..shapes import Floats
from . import strategies
from .contract_parts import phases
from .oracle import Oracle
from .subject import Subject, verify_range


class Shadowed:
    """An index and an oracle that get the same calls. Every method raises AssertionError where they differ."""

    def __init__(self, subject: Subject, dim: int, metric: str):
        self.subject, self.index, self.truth = subject, subject.make(dim, metric), Oracle(dim, metric)

    def _live(self) -> list[int]:
        return self.truth.ids.tolist()

    def counts(self) -> None:
        """Length, ids and membership."""
        index, truth, has = self.index, self.truth, self.subject.has
        if hasattr(index, "__len__"):
            assert len(index) == len(truth), f"len(index) is {len(index)}, not {len(truth)}"
        if has("ids"):
            assert sorted(index.ids.tolist()) == sorted(truth.vectors), "index.ids are not what was added"
        if has("contains"):
            assert all(id in index for id in truth.vectors), "an id that was added is not `in` the index"

    def add(self, vectors: ArrayLike, ids: Any) -> None:
        """New ids are added; if one is known, the whole call must be refused."""
        if not self.truth.vectors.keys() & set(ids):
            self.truth.add(vectors, ids)
            self.index.add(vectors, ids)
        elif self.subject.has("refusal"):
            try:
                self.index.add(vectors, ids)
            except self.subject.errors:
                pass
            else:
                raise AssertionError(f"an id of {list(ids)} was already there, and add took it again")
        self.counts()

    def upsert(self, vectors: ArrayLike, ids: Any) -> None:
        """New and known ids get these vectors."""
        self.truth.upsert(vectors, ids)
        self.index.upsert(vectors, ids)
        self.counts()

    def remove(self, ids: Any) -> None:
        """Known ids are removed; if one is unknown, the whole call must be refused."""
        if set(ids) <= self.truth.vectors.keys():
            self.truth.remove(ids)
            self.index.remove(ids)
        elif self.subject.has("refusal"):
            try:
                self.index.remove(ids)
            except self.subject.errors:
                pass
            else:
                raise AssertionError(f"an id of {list(ids)} was not there, and remove took it")
        self.counts()

    def search(self, queries: ArrayLike, k: int) -> None:
        """The k best."""
        self.subject.verify(self.truth, self.index, queries, k)

    def filter(self, queries: ArrayLike, k: int, ids: Any) -> None:
        """The k best among these ids, given as a list, as booleans and as a function."""
        wanted = np.array(sorted(ids), np.int64)
        self.subject.verify(self.truth, self.index, queries, k, list(ids))
        self.subject.verify(self.truth, self.index, queries, k, lambda some: np.isin(some, wanted))
        if self.subject.has("ids"):
            given = self.subject.search(self.index, queries, k, np.isin(self.index.ids, wanted))
            by_ids = self.subject.search(self.index, queries, k, list(ids))
            assert all((a == b).all() for a, b in zip(given, by_ids, strict=True)), "booleans filter otherwise than ids"

    def range_search(self, queries: ArrayLike, score: float) -> None:
        """All within a score."""
        subject = self.subject
        verify_range(
            self.truth, queries, score, self.index.range_search(queries, score, **subject.options),
            tolerance=subject.tolerance, whole=subject.recall >= 1, ties=subject.has("ties"),
        )  # fmt: skip

    def save(self) -> None:
        """Goes on with what was saved and loaded."""
        folder = tempfile.TemporaryDirectory()
        self._folder = folder  # a mapped file must outlive its index; the one before is gone with its own
        path = Path(folder.name) / "index"
        self.index.save(path)
        self.index = self.subject.load(self.index, path)
        self.counts()

    def compact(self) -> None:
        """Gives back space."""
        self.index.compact()
        self.counts()

    def check(self) -> None:
        """Nothing is wrong."""
        problems = self.index.check()
        assert not problems, f"check() says: {problems}"


def replay(subject: Subject, dim: int, metric: str, operations: Iterable[strategies.Operation]) -> Shadowed:
    """Makes these calls one after the other, each compared with the oracle. Raises AssertionError."""
    pair = Shadowed(subject, dim, metric)
    for operation in operations:
        getattr(pair, operation.name)(*operation.arguments)
    return pair


def state_machine(
    subject: Subject,
    dim: int = 3,
    metric: str = "cosine",
    *,
    most: int = 30,
    kinds: Iterable[str] = ("whole", "spread", "clustered", "duplicated", "some_zeros"),
    any_id: bool = True,
) -> type[RuleBasedStateMachine]:
    """A hypothesis state machine over the subject. most: vectors per call; kinds: of `strategies.KINDS`.

    Its class attribute `tally` counts the steps by name. Use its `.TestCase`, or `run_state_machine_as_test`.
    """
    kinds, any_id = tuple(kinds), any_id and subject.has("any_id")
    vectors = st.deferred(lambda: strategies.vector_sets((0, most), dim, kinds))
    queries = strategies.vector_sets((1, 4), dim, kinds)

    def when(name: str) -> Any:
        return precondition(lambda self: subject.has(name))

    class Machine(RuleBasedStateMachine):
        tally: ClassVar[Counter[str]] = Counter()

        @initialize()
        def start(self) -> None:
            self.pair = Shadowed(subject, dim, metric)

        def _known(self, data: Any, all_of_them: bool = False) -> list[int]:
            live = sorted(self.pair.truth.vectors)
            if not live:
                return []
            if all_of_them:
                return live
            return data.draw(st.lists(st.sampled_from(live), unique=True, max_size=most), label="known ids")

        def _fresh(self, data: Any, n: int) -> list[int]:
            return data.draw(strategies.ids(n, any_id=any_id), label="ids")

        @rule(data=st.data(), x=vectors)
        def add(self, data: Any, x: Floats) -> None:
            self.tally["add"] += 1
            self.pair.add(x, self._fresh(data, len(x)))

        @when("upsert")
        @rule(data=st.data(), x=vectors)
        def upsert(self, data: Any, x: Floats) -> None:
            self.tally["upsert"] += 1
            known = self._known(data)[: len(x)]
            others = [i for i in self._fresh(data, len(x) - len(known)) if i not in known]
            self.pair.upsert(x[: len(known) + len(others)], known + others)

        @when("remove")
        @rule(data=st.data(), everything=st.sampled_from([False] * 7 + [True]))
        def remove(self, data: Any, everything: bool) -> None:
            self.tally["remove"] += 1
            self.pair.remove(self._known(data, everything))

        @rule(q=queries, k=st.integers(1, 2 * most))
        def search(self, q: Floats, k: int) -> None:
            self.tally["search"] += 1
            self.pair.search(q, k)

        @when("filter")
        @rule(data=st.data(), q=queries, k=st.integers(1, most), unknown=st.lists(st.integers(0, 9), max_size=2))
        def filter(self, data: Any, q: Floats, k: int, unknown: list[int]) -> None:
            self.tally["filter"] += 1
            self.pair.filter(q, k, self._known(data) + unknown)

        @when("range_search")
        @rule(q=queries, score=st.floats(-10, 10))
        def range_search(self, q: Floats, score: float) -> None:
            self.tally["range_search"] += 1
            self.pair.range_search(q, score)

        @when("save")
        @rule()
        def save(self) -> None:
            self.tally["save and load"] += 1
            self.pair.save()

        @when("compact")
        @rule()
        def compact(self) -> None:
            self.tally["compact"] += 1
            self.pair.compact()

        @invariant()
        def nothing_is_wrong(self) -> None:
            if hasattr(self, "pair") and subject.has("check"):
                self.pair.check()

    Machine.TestCase.settings = settings(Machine.TestCase.settings, phases=phases(subject))
    Machine.__name__ = Machine.__qualname__ = f"Machine_{metric}_{dim}"
    return Machine
