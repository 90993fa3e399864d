"""The contract's promises about what changes: upsert, remove, filters, ranges, files, and readers beside a writer."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given

from . import strategies
from .contract_parts import holds, needs, random_rows, refused, same, stored, tries
from .files import check_crashes, check_flips
from .machine import replay
from .readers import check_readers
from .subject import Subject, verify_range


class Changes(Subject):
    """See `contract.IndexContract`."""

    def test_any_sequence_of_calls(self, metric: str) -> None:
        """Whatever is called in whatever order: counts, answers and refusals are those of the oracle."""

        @tries(self)
        @given(strategies.operations(2, capabilities=self.capabilities - {"save"}))
        def check(calls: list[strategies.Operation]) -> None:
            replay(self, 2, metric, calls)

        check()

    # ------------------------------------------------------------------ upsert and remove

    @needs("upsert")
    def test_upsert_replaces(self, metric: str) -> None:
        """A known id gets the new vector, an unknown one is added; the old vector is found no more."""
        x = random_rows(40, 4)
        index, truth = stored(self, x, range(40), metric)
        for ids in ([3, 50, 7], list(range(40)), [50]):
            new = random_rows(len(ids), 4, len(ids))
            index.upsert(new, ids)
            truth.upsert(new, ids)
            holds(index, len(truth))
            self.verify(truth, index, np.vstack([x[:4], new[:4]]), 41)

    @needs("remove")
    def test_removed_ids_never_return(self, metric: str) -> None:
        """A removed id is not found by its own vector, nor with k beyond what is left, nor after more was added."""
        x = random_rows(150, 6)
        index, truth = stored(self, x, range(150), metric)
        order = np.random.default_rng(1).permutation(150)
        for gone in (order[:1], order[1:60], order[60:100]):
            for part in (index, truth):
                part.remove(gone.tolist())
            holds(index, len(truth))
            for k in (1, 10, 150):
                self.verify(truth, index, x[gone[:5]], k)
        for part in (index, truth):
            part.add(x[order[:30]] + np.float32(0.1), list(range(500, 530)))
        self.verify(truth, index, x[order[:9]], 100)

    @needs("remove")
    def test_a_removed_id_can_be_added_again(self, metric: str) -> None:
        """It comes back with another vector, and only that one is found."""
        index, truth = stored(self, random_rows(20, 3), range(20), metric)
        for part in (index, truth):
            part.remove([4, 5])
            part.add(random_rows(2, 3, 9), [4, 5])
        self.verify(truth, index, np.vstack([random_rows(6, 3), random_rows(2, 3, 9)]), 20)

    @needs("remove", "complete")
    def test_all_removed(self, metric: str) -> None:
        """An index whose every item was removed is an empty index, and can be filled again."""
        x = random_rows(30, 3)
        index, truth = stored(self, x, range(30), metric)
        for part in (index, truth):
            part.remove(list(range(30)))
        holds(index, 0)
        self.verify(truth, index, x[:3], 5)
        for part in (index, truth):
            part.add(x[:7], list(range(7)))
        self.verify(truth, index, x[:3], 9)

    @needs("remove", "refusal")
    def test_removing_what_is_not_there_is_refused(self, metric: str) -> None:
        """remove() raises ValueError, and then nothing was removed."""
        x = random_rows(5, 3)
        index, truth = stored(self, x, range(5), metric)
        for bad in ([9], [1, 9], ["a"], [0.5]):
            refused(self, f"remove {bad}", index.remove, bad)
        holds(index, 5)
        self.verify(truth, index, x, 5)

    @needs("compact", "remove")
    def test_compact_changes_no_answer(self, metric: str) -> None:
        """Before or after, the answers are the oracle's, and more can be added and removed."""
        x = random_rows(120, 5)
        index, truth = stored(self, x, range(120), metric)
        for part in (index, truth):
            part.remove(list(range(0, 120, 3)))
            part.compact()
        self.verify(truth, index, x[:6], 30)
        for part in (index, truth):
            part.add(x[:40:3], list(range(200, 214)))
            part.remove([1, 2, 200])
        self.verify(truth, index, x[:6], 30)

    @needs("check", "remove")
    def test_check_finds_nothing_wrong(self, metric: str) -> None:
        """check() is content with an index that is empty, filled, half removed."""
        index = self.make(4, metric)
        assert index.check() == []
        index.add(random_rows(90, 4), list(range(90)))
        assert index.check() == []
        index.remove(list(range(0, 90, 2)))
        assert index.check() == []

    # ------------------------------------------------------------------ filters and ranges

    @needs("filter")
    def test_filters(self, metric: str) -> None:
        """Only what passes is returned, and min(k, passing) of it, whether many pass, few, one or none."""
        x = random_rows(200, 6)
        index, truth = stored(self, x, range(200), metric)
        for step in (1, 2, 10, 70, 199):
            wanted = np.arange(0, 200, step)
            forms: list[Any] = [wanted.tolist(), set(wanted.tolist()), wanted, lambda ids, s=step: ids % s == 0]
            for form in forms:
                self.verify(truth, index, x[:4], 7, form)
        self.verify(truth, index, x[:2], 3, [])
        self.verify(truth, index, x[:2], 3, [10**6])

    @needs("filter", "ids")
    def test_filter_by_booleans(self, metric: str) -> None:
        """Booleans run parallel to index.ids, also after removals."""
        x = random_rows(60, 4)
        index, truth = stored(self, x, range(60), metric)
        if self.has("remove"):
            for part in (index, truth):
                part.remove([0, 7, 59])
        wanted = np.arange(0, 60, 4)
        found = self.search(index, x[:5], 6, np.isin(index.ids, wanted))
        same(found, self.search(index, x[:5], 6, wanted))
        assert set(found[1].ravel().tolist()) <= set(wanted.tolist()) | {-1}

    @needs("range_search")
    def test_range_search(self, metric: str) -> None:
        """All within the score, best first, and nothing else; none and all included."""
        x, q = random_rows(80, 4), random_rows(3, 4, 1)
        index, truth = stored(self, x, range(80), metric)
        exact = np.sort(truth.scores(q, range(80)), axis=None)
        for score in (-1e6, float(exact[5]), float(exact[120]), float(exact[-5]), 1e6):
            answer = index.range_search(q, score, **self.options)
            verify_range(
                truth, q, score, answer, tolerance=self.tolerance, whole=self.recall >= 1, ties=self.has("ties")
            )

    # ------------------------------------------------------------------ files

    @needs("save")
    def test_saved_and_loaded(self, metric: str) -> None:
        """The loaded index gives the same bits, goes on like the one that was saved, and saves over its own file."""
        for n in (0, 1, 90):
            index, truth = stored(self, random_rows(n, 5), range(n), metric)
            with tempfile.TemporaryDirectory() as folder:
                path, q = Path(folder) / "index", random_rows(5, 5, 1)
                index.save(path)
                before = path.read_bytes()
                loaded = self.load(index, path)
                holds(loaded, n)
                same(self.search(loaded, q, 7), self.search(index, q, 7))
                for part in (loaded, truth):
                    part.add(random_rows(20, 5, 2), list(range(1000, 1020)))
                self.verify(truth, loaded, q, 12)
                assert path.read_bytes() == before, "adding to a loaded index changed its file"
                loaded.save(path)
                self.verify(truth, self.load(index, path), q, 12)

    def _reader(self, index: Any, q: Any) -> Callable[[Path], Any]:
        def read(path: Path) -> Any:
            loaded = self.load(index, path)
            scores, ids = self.search(loaded, q, 9)
            return len(loaded), scores.tobytes(), ids.tobytes()

        return read

    @needs("save")
    def test_damaged_bytes_are_noticed(self, metric: str) -> None:
        """A changed byte in a file is refused, or changes no answer."""
        x = random_rows(40, 3)
        index, _ = stored(self, x, range(40), metric)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            index.save(path)
            check_flips(path, self._reader(index, x), sample=60)

    @needs("save")
    def test_a_crash_while_saving_leaves_the_old_file_or_the_new(self, metric: str) -> None:
        """At whatever moment a kill or a power cut comes; and the new one once save has returned."""
        x = random_rows(12, 3)
        index, _ = stored(self, x[:7], range(7), metric)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "index"
            index.save(path)
            index.add(x[7:], list(range(7, 12)))
            check_crashes(path, lambda: index.save(path), self._reader(index, x))

    # ------------------------------------------------------------------ threads

    @needs("concurrent")
    def test_threads_search_while_one_writes(self, metric: str) -> None:
        """Every answer is that of one moment: no removed id, no score of half a vector, nothing missing."""
        check_readers(self, 6, metric, items=80, threads=2, seconds=0.2, k=5, largest=15)
