"""The harness can fail: each toy below breaks one promise, and must be caught breaking it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from minibi.testing import (
    EVERYTHING,
    IndexContract,
    Oracle,
    audit,
    check_crashes,
    check_flips,
    check_kills,
    check_mangled,
    check_readers,
    state_machine,
    verify,
)


class Drops(Oracle):
    """Leaves out the second best."""

    def search(self, queries, k=10, **options):
        scores, ids = super().search(queries, k + 1, **options)
        return np.delete(scores, 1, 1)[:, :k], np.delete(ids, 1, 1)[:, :k]


class Remembers(Oracle):
    """Removes an id from its books, but not from its answers."""

    gone = ()

    def remove(self, ids):
        self.gone = [(id, self.vectors[id]) for id in ids if id in self.vectors]
        super().remove(ids)

    def search(self, queries, k=10, **options):
        now, self.vectors = self.vectors, self.vectors | dict(self.gone)
        try:
            return super().search(queries, k, **options)
        finally:
            self.vectors = now


class LargestFirst(Oracle):
    """Orders equal scores by larger id."""

    def search(self, queries, k=10, **options):
        scores, ids = super().search(queries, max(k, len(self)), **options)
        order = np.stack([np.lexsort((-i, s if self.metric == "l2" else -s)) for s, i in zip(scores, ids, strict=True)])
        return tuple(np.take_along_axis(a, order, 1)[:, :k] for a in (scores, ids))


class Twice(Oracle):
    """Returns the best result twice."""

    def search(self, queries, k=10, **options):
        scores, ids = super().search(queries, k, **options)
        if k > 1:
            scores[:, 1], ids[:, 1] = scores[:, 0], ids[:, 0]
        return scores, ids


class Stale(Oracle):
    """Upsert keeps the old vector."""

    def upsert(self, vectors, ids):
        super().upsert([self.vectors.get(i, v) for i, v in zip(ids, vectors, strict=True)], ids)


class Half(Oracle):
    """Adds what comes before the bad id, then refuses."""

    def add(self, vectors, ids=None):
        for v, i in zip(vectors, [] if ids is None else ids, strict=False):
            super().add([v], [i])


class Rounds(Oracle):
    """Scores with half their digits."""

    def search(self, queries, k=10, **options):
        scores, ids = super().search(queries, k, **options)
        return (scores.view(np.int32) & -4096).view(np.float32), ids


class NoFilter(Oracle):
    """Takes a filter and passes it over."""

    def search(self, queries, k=10, *, filter=None, **options):
        return super().search(queries, k, **options)


class Spills(Oracle):
    """Range search with one item too many."""

    def range_search(self, queries, score, **options):
        return super().range_search(queries, score + (0.5 if self.metric == "l2" else -0.5), **options)


class Keeps(Oracle):
    """Holds on to the caller's array."""

    def add(self, vectors, ids=None):
        new = super().add(vectors, ids)
        if isinstance(vectors, np.ndarray) and vectors.dtype == np.float32:
            self.vectors.update(zip(new.tolist(), vectors, strict=True))
        return new


class Sorts(Oracle):
    """Puts the caller's ids into order."""

    def remove(self, ids):
        super().remove(ids)
        if isinstance(ids, np.ndarray):
            ids.sort()


def contract(kind) -> IndexContract:
    class Contract(IndexContract):
        capabilities = EVERYTHING - {"save", "concurrent"}
        metrics = ("l2",)
        shrink = False

        def make(self, dim, metric):
            return kind(dim, metric)

    return Contract()


CAUGHT = {
    Drops: "finds the k best",
    Remembers: "removed ids never return",
    LargestFirst: "ties go to the smaller id",
    Twice: "equal vectors are found each once",
    Stale: "upsert replaces",
    Half: "broken ids are refused",
    Rounds: "finds the k best",
    NoFilter: "filters",
    Spills: "range search",
    Keeps: "the callers arrays are neither kept nor changed",
    Sorts: "the callers arrays are neither kept nor changed",
}


@pytest.mark.parametrize("kind", CAUGHT, ids=lambda kind: kind.__name__)
def test_the_contract_catches(kind):
    """The promise that is broken is named."""
    part, name = contract(kind), "test_" + CAUGHT[kind].replace(" ", "_")
    with pytest.raises(AssertionError):
        getattr(part, name)("l2")


def test_an_audit_is_a_table():
    class Small(IndexContract):
        capabilities = EVERYTHING - {"save", "concurrent"}
        metrics = ("l2",)
        test_any_sequence_of_calls = test_finds_the_k_best = None
        test_numbers_float32_cannot_hold_are_refused = None

        def make(self, dim, metric):
            return NoFilter(dim, metric)

    found = audit(Small())
    assert found.broken == {"filters", "filter by booleans"}
    lines = str(found).splitlines()
    assert any("| filters" in line and "broken" in line and "filtered out" in line for line in lines)
    assert any("| saved and loaded" in line and "not offered" in line for line in lines)


def test_an_audit_says_what_was_wrong():
    for kind, words in (
        (Sorts, "remove changed the array that it was given"), (Keeps, "the index kept the caller's array"),
        (LargestFirst, "ids [[30, 20], [99, 4]] instead of [[10, 20], [4, 99]]"),
        (Twice, "is returned twice"), (Remembers, "which is removed or was never there"),
    ):  # fmt: skip
        part = contract(kind)
        for name in dir(part):
            if name.startswith("test_") and name != "test_" + CAUGHT[kind].replace(" ", "_"):
                setattr(part, name, None)
        (verdict,) = audit(part).verdicts
        assert verdict.outcome == "broken" and words in verdict.reason


@pytest.mark.parametrize("kind", [Drops, Remembers, LargestFirst, Stale, NoFilter, Spills], ids=lambda k: k.__name__)
def test_the_machine_catches(kind):
    machine = state_machine(contract(kind), dim=2, metric="l2", most=6)
    quick = settings(max_examples=200, phases=[Phase.generate], database=None, print_blob=False, deadline=None)
    with pytest.raises((AssertionError, IndexError)):
        run_state_machine_as_test(machine, settings=quick)


def test_the_judge_names_what_is_wrong():
    truth = Oracle(1, "l2")
    truth.add([[0], [1], [1], [3]], [5, 2, 9, 4])

    def judge(scores, ids, **options):
        return verify(truth, [[0]], len(ids), [scores], [ids], **options)

    assert judge([0, 1, 1], [5, 2, 9]) == 1
    assert judge([0, 1, 9], [5, 2, 4], recall=0.6) == pytest.approx(2 / 3)
    for words, scores, ids in (
        ("recall", [0, 1, 9], [5, 2, 4]), ("twice", [0, 0], [5, 5]), ("never there", [0, 1], [5, 6]),
        ("true score", [0, 1.1], [5, 2]), ("best first", [1, 0], [2, 5]), ("of equal scores", [0, 1, 1], [5, 9, 2]),
        ("before a result", [0, 0], [-1, 5]), ("1 results instead of 2", [0, np.inf], [5, -1]),
        ("true score", [0, np.nan], [5, 2]),
    ):  # fmt: skip
        with pytest.raises(AssertionError, match=words):
            judge(scores, ids)
    with pytest.raises(AssertionError, match="filtered out"):
        judge([0, 1], [5, 2], filter=[5, 9])


# --- files -----------------------------------------------------------------------------------------------------------


def load(path: Path):
    """A number with a checksum at the end, so that a lost byte is noticed."""
    data = json.loads(path.read_text())
    if data.get("sum") is None or data["sum"] != data.get("n", 0) * 3:
        raise ValueError("damaged")
    return data["n"]


def text(n: int) -> str:
    return json.dumps({"n": n, "sum": n * 3})


def careful(path: Path, n: int, skip: str = "") -> None:
    """Temporary name, fsync, rename, fsync of the folder; `skip` leaves a step out."""
    temporary = path.with_suffix(".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text(n))
        if skip != "flush":
            file.flush()
        if skip != "fsync":
            os.fsync(file.fileno())
    os.replace(temporary, path)
    if skip != "folder":
        handle = os.open(path.parent, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def test_a_careful_save_passes(tmp_path):
    path = tmp_path / "f"
    report = check_crashes(path, lambda: careful(path, 1), load)
    assert report.steps >= 4 and report.new
    report = check_crashes(path, lambda: careful(path, 2), load)
    assert report.old and report.new and "steps" in str(report)


CARELESS = {
    "no fsync": lambda path: careful(path, 2, "fsync"),
    "no flush before fsync": lambda path: careful(path, 2, "flush"),
    "no fsync of the folder": lambda path: careful(path, 2, "folder"),
    "in place": lambda path: path.write_text(text(2)),
    "removed first": lambda path: (path.unlink(), careful(path, 2)),
}


@pytest.mark.parametrize("name", CARELESS)
def test_careless_saves_are_caught(tmp_path, name):
    path = tmp_path / "f"
    careful(path, 1)
    with pytest.raises(AssertionError):
        check_crashes(path, lambda: CARELESS[name](path), load)


def test_lost_and_changed_bytes_are_caught(tmp_path):
    path = tmp_path / "f"
    path.write_text(text(7))
    report = check_flips(path, load)
    assert report.refused > 10 and "refused" in str(report)
    with pytest.raises(AssertionError, match="unnoticed"):
        check_flips(path, lambda p: p.read_bytes())
    with pytest.raises(AssertionError, match="unnoticed"):
        check_mangled(path, lambda p: len(p.read_bytes()), 50)
    with pytest.raises(AssertionError, match="KeyError instead of a refusal"):
        check_flips(path, lambda p: {text(7): 7}[p.read_bytes().decode("latin1")])


SAVES = """
import itertools, json, os, sys
path, n = sys.argv[1], int(sys.argv[2])
for n in itertools.count(n):
    with open({temporary}, "w") as file:
        json.dump({{"n": n, "sum": n * 3, "rest": " " * 300000}}, file)
    {replace}
    print(n, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_kills(tmp_path):
    good = SAVES.format(temporary='path + ".tmp"', replace='os.replace(path + ".tmp", path)')
    report = check_kills(good, tmp_path / "good", load, rounds=3, longest=0.05)
    assert report.kills == 3 and report.saved >= 3
    bad = SAVES.format(temporary="path", replace="pass")
    with pytest.raises(AssertionError, match="cannot be read"):
        check_kills(bad, tmp_path / "bad", load, rounds=40, longest=0.05)
    with pytest.raises(AssertionError, match="ended by itself"):
        check_kills("print(0)", tmp_path / "good", load, rounds=1)


# --- threads ---------------------------------------------------------------------------------------------------------


class Locked(Oracle):
    """An oracle whose readers take one state at once."""

    def search(self, queries, k=10, **options):
        held = self.copy()
        time.sleep(0.001)
        return Oracle.search(held, queries, k, **options)

    def upsert(self, vectors, ids):
        held = self.copy()
        Oracle.upsert(held, vectors, ids)
        time.sleep(0.001)
        self.vectors = held.vectors

    def add(self, vectors, ids=None):
        self.upsert(vectors, ids)

    def remove(self, ids):
        self.vectors = {i: v for i, v in self.vectors.items() if i not in set(ids)}


class Late(Locked):
    """Readers see a removed id for a while after remove has returned."""

    before = None

    def remove(self, ids):
        self.before = self.vectors
        super().remove(ids)

    def search(self, queries, k=10, **options):
        twin = Oracle(self.dim, self.metric)
        twin.vectors = self.before or self.vectors
        time.sleep(0.001)  # or readers had their fill before the first change
        return twin.search(queries, k, **options)


class Torn(Locked):
    """Upsert writes into the vector that readers look at."""

    def upsert(self, vectors, ids):
        for id, v in zip(ids, np.asarray(vectors, float), strict=True):
            if id in self.vectors:
                self.vectors[id][:2] = v[:2]
                time.sleep(0.002)
                self.vectors[id][2:] = v[2:]
        super().upsert(vectors, ids)


def readers(kind, **options):
    return check_readers(contract(kind), 4, "l2", items=30, largest=5, seconds=0.5, k=40, most=400, **options)


def test_readers_pass_where_all_is_well():
    report = readers(Locked)
    assert report.answers > 10 and report.calls > 3 and report.during and "answers" in str(report)


@pytest.mark.parametrize("kind", [Late, Torn], ids=lambda kind: kind.__name__)
def test_readers_are_caught(kind):
    with pytest.raises(AssertionError, match="search beside calls"):
        for seed in range(5):
            readers(kind, seed=seed)


def test_an_error_in_a_reader_is_raised():
    class Fails(Locked):
        def search(self, queries, k=10, **options):
            raise RuntimeError("not now")

    with pytest.raises(RuntimeError, match="not now"):
        readers(Fails)


def test_an_index_of_add_and_search_alone():
    """What a stranger begins with: nothing is asked of it that it does not claim."""

    class Bare:
        def __init__(self, dim, metric):
            self._inside = Oracle(dim, metric)

        def add(self, vectors, ids):
            self._inside.add(vectors, ids)

        def search(self, queries, k):
            return self._inside.search(queries, k)

    class Mine(IndexContract):
        capabilities = frozenset()
        metrics = ("l2",)

        def make(self, dim, metric):
            return Bare(dim, metric)

    assert not audit(Mine()).broken
    Mine.capabilities = frozenset({"removal"})
    with pytest.raises(ValueError, match=r"\['removal'\]"):
        audit(Mine())
