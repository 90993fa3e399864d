"""The contract of an index, one test for each promise: subclass `IndexContract`, give it `make`, let pytest find it.

    class TestMine(IndexContract):
        capabilities = EVERYTHING - {"upsert", "save"}
        def make(self, dim, metric):
            return Mine(dim, metric)

Every test takes a metric and nothing else, and is skipped where a capability it `needs` is switched off. To leave out a
single promise, set its test to None in the subclass. `audit(TestMine())` runs them without pytest. No test holds more
than a few hundred vectors, so a graph searched with options = {"ef": 500} should be exact.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from . import strategies
from .contract_changes import Changes
from .contract_parts import holds, needs, random_rows, refused, same, stored, tries
from .oracle import Oracle
from .reports import table
from .strategies import BROKEN_IDS, BROKEN_K, BROKEN_VECTORS, HUGE


class IndexContract(Changes):
    """The promises about answers; those about changes and files are in `contract_changes`."""

    def pytest_generate_tests(self, metafunc: Any) -> None:
        """Runs each test for each metric, or skips it where something it needs is not offered."""
        missing = needed(metafunc.function) - self.capabilities
        reason = f"not offered: {', '.join(sorted(missing))}"
        marks = [pytest.mark.skip(reason=reason)] if missing else []
        metafunc.parametrize("metric", [pytest.param(m, marks=marks) for m in self.metrics])

    # ------------------------------------------------------------------ what is found

    def test_finds_the_k_best(self, metric: str) -> None:
        """The answer is that of the oracle for vectors of every kind, any k, and queries that are stored or not."""

        @tries(self)
        @given(x=strategies.vector_sets((1, 50), (1, 7)), k=st.integers(1, 60), data=st.data())
        def check(x: Any, k: int, data: Any) -> None:
            ids = data.draw(strategies.ids(len(x), any_id=self.has("any_id")))
            others = data.draw(strategies.vector_sets((1, 3), x.shape[1]))
            index, truth = stored(self, x, ids, metric)
            self.verify(truth, index, np.vstack([x[:2], others]), k)

        check()

    @needs("ties", "complete")
    def test_exact_where_nothing_is_rounded(self, metric: str) -> None:
        """On small whole numbers scores, order and ids are exactly the oracle's."""
        if metric == "cosine" or self.recall < 1:
            return  # normalizing rounds
        rng = np.random.default_rng(0)
        x, q = rng.integers(-2, 3, size=(60, 3)), rng.integers(-2, 3, size=(20, 3))
        index, truth = stored(self, x, rng.permutation(1000)[:60], metric)
        for k in (1, 7, 25, 70):
            same(self.search(index, q, k), truth.search(q, k), f"k={k}")

    def test_shapes_and_types(self, metric: str) -> None:
        """Scores are float32 and ids int64, both [Q, k]."""
        index, _ = stored(self, random_rows(30, 5), range(30), metric)
        scores, ids = self.search(index, random_rows(4, 5, 1), 3)
        assert (scores.dtype, ids.dtype) == (np.float32, np.int64), f"types are {scores.dtype} and {ids.dtype}"
        assert scores.shape == ids.shape == (4, 3), f"shapes are {scores.shape} and {ids.shape}, not (4, 3)"

    def test_equal_vectors_are_found_each_once(self, metric: str) -> None:
        """Many copies of one vector: all are returned, none twice, and they do not hide the others."""
        x = np.vstack([np.repeat(random_rows(1, 4), 40, axis=0), random_rows(20, 4, 1)])
        index, truth = stored(self, x, range(100, 160), metric)
        for k in (1, 30, 60):
            self.verify(truth, index, x[[0, 40, 59]], k)

    @needs("complete")
    def test_more_asked_than_stored(self, metric: str) -> None:
        """Rows that are too short end with id -1 and the worst score there is."""
        index, truth = stored(self, random_rows(3, 4), range(3), metric)
        scores, ids = self.search(index, random_rows(2, 4, 1), 7)
        assert (ids[:, 3:] == -1).all() and (ids[:, :3] >= 0).all(), f"3 of 7 are there, and these came: {ids.tolist()}"
        worst = np.inf if metric == "l2" else -np.inf
        assert (scores[:, 3:] == worst).all(), f"scores behind the last are {scores[:, 3:].tolist()}, not {worst}"
        self.verify(truth, index, random_rows(2, 4, 1), 7)

    @needs("complete")
    def test_an_empty_index(self, metric: str) -> None:
        """Nothing is found in nothing, and adding nothing changes nothing."""
        index = self.make(4, metric)
        for _ in range(2):
            holds(index, 0)
            scores, ids = self.search(index, random_rows(3, 4), 5)
            assert scores.shape == ids.shape == (3, 5) and (ids == -1).all()
            index.add(np.zeros((0, 4), np.float32), [])

    def test_no_queries(self, metric: str) -> None:
        """No queries give no rows."""
        index, _ = stored(self, random_rows(3, 4), range(3), metric)
        scores, ids = self.search(index, np.zeros((0, 4), np.float32), 2)
        assert scores.shape == ids.shape == (0, 2)

    def test_one_query_as_a_vector(self, metric: str) -> None:
        """A query [dim] is a query [1, dim]."""
        index, _ = stored(self, random_rows(30, 4), range(30), metric)
        q = random_rows(1, 4, 1)
        same(self.search(index, q[0], 5), self.search(index, q, 5))

    def test_numbers_of_any_kind(self, metric: str) -> None:
        """Lists, whole numbers, float64, and arrays in another order in memory are taken as they are meant."""
        index, truth = self.make(3, metric), Oracle(3, metric)
        rows = [
            [[1, 2, 3]], np.arange(6, dtype=np.int16).reshape(2, 3), np.asfortranarray(random_rows(4, 3).astype(float)),
            np.repeat(random_rows(4, 3, 1), 2, axis=1)[:, ::2], [[0.5, np.float16(2), 1]],
        ]  # fmt: skip
        for some in rows:
            ids = list(range(len(truth), len(truth) + len(some)))
            index.add(some, ids)
            truth.add(some, ids)
        self.verify(truth, index, [[3, 2, 1]], len(truth))

    def test_the_callers_arrays_are_neither_kept_nor_changed(self, metric: str) -> None:
        """What is done to the arrays after a call does not reach the index, nor the other way round."""
        x, ids, q, gone = random_rows(5, 16), np.array([3, 0, 4, 1, 2]), random_rows(1, 16, 1), np.array([4, 0])
        index = self.make(16, metric)

        def untouched(call: Callable[..., Any], *arrays: Any) -> Any:
            before, answer = [a.copy() for a in arrays], call(*arrays)
            for now, old in zip(arrays, before, strict=True):
                assert np.array_equal(now, old), f"{call.__name__} changed the array that it was given"
            return answer

        def search(q: Any) -> Any:
            return self.search(index, q, 5)

        untouched(index.add, x, ids)
        wanted = untouched(search, q)
        x[:], ids[:] = 9, 77
        same(search(q), wanted, "the index kept the caller's array")
        if self.has("upsert"):
            untouched(index.upsert, random_rows(2, 16, 2), gone)
        if self.has("remove"):
            untouched(index.remove, gone)

    @needs("ties")
    def test_ties_go_to_the_smaller_id(self, metric: str) -> None:
        """Of equal vectors those with the smallest ids are returned, in their order."""
        x = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [0, 1]], np.float32)
        index, _ = stored(self, x, [30, 4, 20, 10, 99], metric)
        found = self.search(index, [[1, 0], [0, 1]], 2)[1].tolist()
        assert found == [[10, 20], [4, 99]], f"ids {found} instead of [[10, 20], [4, 99]]"

    def test_zero_vectors(self, metric: str) -> None:
        """The cosine of a zero vector with anything is 0, never NaN; -0.0 is 0.0."""
        index, truth = stored(self, [[0, 0, 0], [1, 0, 0], [-1, 0, 0], [-0.0, 0, 0]], [5, 6, 7, 8], metric)
        q = [[1, 0, 0], [0, 0, 0]]
        self.verify(truth, index, q, 4)
        assert not np.isnan(self.search(index, q, 4)[0]).any()

    @needs("batches")
    def test_answers_do_not_depend_on_the_batch(self, metric: str) -> None:
        """A query alone and the same query among others get the same bits."""
        index, _ = stored(self, random_rows(200, 37), range(200), metric)
        q = random_rows(70, 37, 1)
        scores, ids = self.search(index, q, 10)
        for i in (0, 1, 31, 32, 63, 69):
            same(self.search(index, q[i : i + 1], 10), (scores[i : i + 1], ids[i : i + 1]), f"query {i}")
        same(self.search(index, q[::-1], 10), (scores[::-1], ids[::-1]), "in reverse")

    # ------------------------------------------------------------------ ids

    @needs("any_id")
    def test_ids_are_any_int64(self, metric: str) -> None:
        """Negative ids and the ends of int64 come back as they were given."""
        ids = [0, -2, HUGE, -(2**63), 1, 2**32, -(2**31)]
        index, truth = stored(self, random_rows(7, 4), ids, metric)
        self.verify(truth, index, random_rows(3, 4, 1), 7)
        assert set(self.search(index, random_rows(1, 4, 1), 7)[1][0].tolist()) == set(ids)

    @needs("counting")
    def test_ids_count_on(self, metric: str) -> None:
        """Without ids, numbering goes on after the largest there is."""
        index, x = self.make(2, metric), random_rows(2, 2)
        assert [np.asarray(index.add(x)).tolist(), np.asarray(index.add(x)).tolist()] == [[0, 1], [2, 3]]
        index.add(x[:1], [10])
        assert np.asarray(index.add(x)).tolist() == [11, 12]

    @needs("contains", "ids")
    def test_length_ids_and_membership(self, metric: str) -> None:
        """What was added is counted, listed in its order, and `in` the index; nothing else is."""
        index, _ = stored(self, random_rows(4, 3), [7, 3, 9, 0], metric)
        assert len(index) == 4 and index.ids.tolist() == [7, 3, 9, 0]
        assert [i in index for i in (7, 3, 9, 0, 1, -1, 2**70)] == [True] * 4 + [False] * 3

    @needs("reconstruct")
    def test_reconstruct(self, metric: str) -> None:
        """The stored vectors come back, for cosine with length one, in the order of the ids."""
        x = random_rows(6, 5)
        index, truth = stored(self, x, range(10, 16), metric)
        wanted = truth.reconstruct([12, 10, 12])
        np.testing.assert_allclose(index.reconstruct([12, 10, 12]), wanted, atol=max(self.tolerance, 1e-6) * 5)

    # ------------------------------------------------------------------ refusals

    @needs("refusal")
    def test_broken_vectors_are_refused(self, metric: str) -> None:
        """NaN, infinity, wrong shapes and types raise ValueError in add and search, and nothing has changed."""
        x = random_rows(4, 3)
        index, truth = stored(self, x, range(4), metric)
        for name, bad in BROKEN_VECTORS.items():
            for call, rest in ((index.add, [range(100, 100 + len(bad) if hasattr(bad, "__len__") else 101)]),
                               (lambda q: self.search(index, q, 2), [])):  # fmt: skip
                refused(self, name, call, bad, *map(list, rest))
        holds(index, 4)
        self.verify(truth, index, x, 4)

    @needs("refusal")
    def test_numbers_float32_cannot_hold_are_refused(self, metric: str) -> None:
        """They raise ValueError wherever they stand, and the other rows of the call are not added either."""

        @tries(self)
        @given(bad=strategies.not_finite(3))
        def check(bad: Any) -> None:
            index, _ = stored(self, random_rows(2, 3), range(2), metric)
            refused(self, "not finite", index.add, bad, list(range(10, 10 + len(bad))))
            holds(index, 2)

        check()

    @needs("refusal")
    def test_broken_ids_are_refused(self, metric: str) -> None:
        """Too few, too many, fractions, -1, beyond int64, given twice, or already there: each raises ValueError."""
        index, truth = stored(self, random_rows(1, 3), [100], metric)
        for name, bad in [*BROKEN_IDS.items(), ("already there", [5, 100])]:
            refused(self, name, index.add, random_rows(2, 3), bad)
            assert len(index) == 1, f"{name}: something was added all the same"
        self.verify(truth, index, random_rows(2, 3), 3)

    @needs("refusal")
    def test_broken_k_is_refused(self, metric: str) -> None:
        """k is a whole number of at least 1."""
        index, _ = stored(self, random_rows(2, 3), [1, 2], metric)
        for bad in BROKEN_K:
            refused(self, f"k={bad!r}", lambda k: self.search(index, np.ones((1, 3), np.float32), k), bad)


def needed(test: Callable[..., Any]) -> frozenset[str]:
    """The capabilities that a test of the contract needs."""
    return getattr(test, "needs", frozenset())


@dataclass(frozen=True)
class Verdict:
    """How one promise was kept."""

    promise: str  # the test's name
    metric: str
    outcome: str  # "kept", "broken" or "not offered"
    reason: str = ""


@dataclass(frozen=True)
class Audit:
    """Every verdict; printed as a table of promises by metrics."""

    verdicts: list[Verdict]

    @property
    def broken(self) -> set[str]:
        """The promises broken under some metric."""
        return {v.promise for v in self.verdicts if v.outcome == "broken"}

    def __str__(self) -> str:
        metrics = list(dict.fromkeys(v.metric for v in self.verdicts))
        rows: dict[str, list[str]] = {}
        for v in self.verdicts:
            rows.setdefault(v.promise, []).append(v.outcome)
        reasons = {v.promise: v.reason for v in reversed(self.verdicts) if v.outcome == "broken"}
        return table([(p, *outcomes, reasons.get(p, "")) for p, outcomes in rows.items()], ("", *metrics, "why"))


def audit(contract: IndexContract) -> Audit:
    """Runs every test of a contract for every metric, whatever fails, and says what was kept."""
    contract.has()  # names of capabilities that do not exist are refused at once
    contract.shrink = False
    return Audit(list(_verdicts(contract)))


def _verdicts(contract: IndexContract) -> Iterator[Verdict]:
    names = [n for n in dir(contract) if n.startswith("test_") and getattr(contract, n) is not None]
    for name in names:
        test = getattr(contract, name)
        for metric in contract.metrics:
            promise = name.removeprefix("test_").replace("_", " ")
            if not needed(test) <= contract.capabilities:
                yield Verdict(promise, metric, "not offered")
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    test(metric)
            except Exception as e:
                while isinstance(e, ExceptionGroup):
                    e = e.exceptions[0]
                words = [line.strip() for line in str(e).splitlines() if line.strip()]
                words = words or [f"not so: {test.__doc__.splitlines()[0]}"]
                said = ": ".join(words[: 2 if words[0] == "Arrays are not equal" else 1])  # then NumPy says where
                yield Verdict(promise, metric, "broken", f"{type(e).__name__}: {said[:110]}".replace("|", "/"))
            else:
                yield Verdict(promise, metric, "kept")
