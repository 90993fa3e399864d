"""From external ids to rows: sorted arrays for the many, a dictionary for the newest few. 12 bytes per id."""

from __future__ import annotations

import numpy as np

from ..shapes import Ints

MERGE = 4096  # the dictionary may grow to this, or to an eighth of the sorted part


class IdTable:
    """A map int64 -> row. Readers in other threads see an entry before or after a change, never in between."""

    def __init__(self) -> None:
        self._sorted: tuple[Ints, Ints] = (np.zeros(0, np.int64), np.zeros(0, np.int64))  # ids, rows; row -1: removed
        self._recent: dict[int, int] = {}
        self._gone = 0

    @classmethod
    def of(cls, ids: Ints, rows: Ints) -> IdTable:
        """A table of ids that are all different. Raises ValueError if they are not."""
        table, order = cls(), np.argsort(ids, kind="stable")
        table._sorted = ids[order].astype(np.int64), rows[order].astype(np.int64)
        if (np.diff(table._sorted[0]) == 0).any():
            raise ValueError("an id occurs twice")
        return table

    def __len__(self) -> int:
        return len(self._sorted[0]) - self._gone + len(self._recent)

    def rows(self, ids: Ints) -> Ints:
        """The row of each id [n], -1 for those unknown."""
        known, rows = self._sorted
        found = np.full(len(ids), -1, np.int64)
        if len(known):
            at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
            found = np.where(known[at] == ids, rows[at], -1)
        if self._recent:
            found = np.fromiter(map(self._recent.get, ids.tolist(), found.tolist()), np.int64, len(ids))
        return found

    def put(self, ids: Ints, rows: Ints) -> None:
        """Ids, new or known, now stand for these rows."""
        self.remove(ids)
        if len(ids) > MERGE:
            self._merge(ids, rows)
            return
        self._recent.update(zip(ids.tolist(), rows.tolist(), strict=True))
        if len(self._recent) > max(MERGE, len(self._sorted[0]) // 8):
            self._merge(np.zeros(0, np.int64), np.zeros(0, np.int64))

    def remove(self, ids: Ints) -> None:
        """Forget these ids; unknown ones are passed over."""
        if not self._recent.keys().isdisjoint(gone := ids.tolist()):
            for id in gone:
                self._recent.pop(id, None)
        known, rows = self._sorted
        if len(known):
            at = np.minimum(np.searchsorted(known, ids), len(known) - 1)
            at = at[(known[at] == ids) & (rows[at] >= 0)]
            rows[at] = -1
            self._gone += len(at)

    def _merge(self, ids: Ints, rows: Ints) -> None:
        known, places = self._sorted
        live = places >= 0
        recent, count = self._recent, len(self._recent)
        ids = np.concatenate([known[live], np.fromiter(recent.keys(), np.int64, count), ids])
        rows = np.concatenate([places[live], np.fromiter(recent.values(), np.int64, count), rows])
        order = np.argsort(ids, kind="stable")
        self._sorted = ids[order], rows[order]
        self._recent, self._gone = {}, 0
