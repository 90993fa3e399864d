"""Keeping the graph of HNSW whole: links around removed rows, a parent for every row, and the proof that all is well.

After a removal each row that linked to removed ones chooses new neighbours among its own and theirs (as in Singh et
al. 2021, FreshDiskANN, algorithm 4). Then the tree of parents is drawn anew, breadth first from the root. A row that
cannot be reached gets a link from the nearest one that can.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from ..shapes import Ints
from ..threads import in_pieces
from .contract import View

BREADTH = 64  # candidates for a host


class Surgery:
    """Works on copies of what readers look at: `arrays` are published when all is done."""

    def __init__(self, view: View, engine: Callable[[View], Any], query: Callable[[int], Any], m: int):
        self.view, self._engine, self._query, self._m = view, engine, query, m
        copied = {name: view.arrays[name].copy() for name in ("links", "upper")}
        copied["parents"] = np.full_like(view.arrays["parents"], -1)
        copied |= {name: np.zeros_like(view.arrays[name]) for name in ("children", "youngest")}
        self.arrays = {**view.arrays, **copied}
        self._facts = dict(view.facts)

    def ends(self) -> dict[str, int]:
        """The entry point and the root; -1 where no row is left."""
        return self._facts

    def bypass(self, stale: Ints) -> None:
        """Links around removed rows."""
        view, old, new = self.view, self.view.arrays, self.arrays
        count, live = view.count, view["live"]
        dead = np.zeros(len(old["ids"]), bool)
        dead[stale] = True
        engine = self._engine(view)
        for layer in range(int(view["levels"].max(initial=0)) + 1):
            rows = np.flatnonzero(live & (view["levels"] >= layer))
            table, slots = self._layer(old, layer, rows)
            links = table[slots]
            owners = rows[(dead[links] & (links >= 0)).any(axis=1)].astype(np.int32)
            fresh = new["links"] if layer == 0 else new["upper"]
            in_pieces(partial(engine.bypass, layer, owners, old["live"], fresh), 0, len(owners), 16, 256)
            gone = stale[view["levels"][stale] >= layer]
            fresh[self._layer(old, layer, gone)[1]] = -1
        self._choose_ends(live)
        if self._facts["root"] >= 0:
            self._reconnect(live, count)
        count_children(new, count)

    @staticmethod
    def _layer(arrays: dict[str, Any], layer: int, rows: Ints) -> tuple[Any, Ints]:
        if layer == 0:
            return arrays["links"], rows
        return arrays["upper"], arrays["offsets"][rows].astype(np.int64) + layer - 1

    def _choose_ends(self, live: Any) -> None:
        levels, facts = self.view["levels"], self._facts
        if not live.any():
            facts.update(entry=-1, root=-1)
            return
        if not live[facts["entry"]]:
            facts["entry"] = int(np.argmax(np.where(live, levels, -1)))
        if not live[facts["root"]]:
            facts["root"] = facts["entry"]

    def _reconnect(self, live: Any, count: int) -> None:
        links, parents = self.arrays["links"], self.arrays["parents"]
        engine = self._engine(View(self.arrays, count))
        engine.spanning_tree(count, self._facts["root"], parents)
        for lost in np.flatnonzero(live & (parents[:count] < 0)).tolist():
            if parents[lost] >= 0:  # came along with an earlier one
                continue
            host = self._host(engine, lost, count)
            free = np.flatnonzero(links[host] < 0)[:1]
            place = free if len(free) else np.flatnonzero(parents[links[host]] != host)[-1:]
            links[host, place] = lost
            parents[lost] = host
            engine.spanning_tree(count, lost, parents)

    def _host(self, engine: Any, lost: int, count: int) -> int:
        """A reachable row that can link to `lost`, as near to it as there is."""
        links, parents = self.arrays["links"], self.arrays["parents"]
        breadth = min(BREADTH, count)
        while True:
            near = engine.nearest(self._facts["entry"], self._facts["root"], self._query(lost), breadth, count)
            near = near[near >= 0]
            near = near[parents[near] >= 0]
            taken = parents[links[near]] == near[:, None]  # by links of the tree
            able = near[((links[near] < 0) | ~taken).any(axis=1)]
            if len(able):
                return int(able[0])
            breadth = min(2 * breadth, count)  # at N, all: their tree has fewer links than places


def used_upper(arrays: dict[str, Any], count: int) -> int:
    """How many slots of the upper layers the first `count` rows have."""
    return int(arrays["offsets"][count - 1]) + int(arrays["levels"][count - 1]) if count else 0


def count_children(arrays: dict[str, Any], count: int) -> None:
    """How many rows each of the first `count` is the parent of, and the last of them."""
    parents = arrays["parents"][:count]
    rows = np.flatnonzero((parents != np.arange(count)) & (parents >= 0))
    counts = np.bincount(parents[rows], minlength=count)[:count]
    arrays["children"][:count] = np.minimum(counts, 2**15 - 1)
    arrays["youngest"][parents[rows]] = rows  # in order: the last one stays


def find_faults(view: View, m: int) -> list[str]:
    """What is wrong with the graph, in words; empty if nothing is."""
    n, live = view.count, view["live"]
    entry, root = view.facts.get("entry", -1), view.facts.get("root", -1)
    if not live.any():
        return [] if entry == -1 and root == -1 else ["an empty graph has an entry point"]
    levels, offsets, parents = view["levels"].astype(np.int64), view["offsets"], view["parents"].astype(np.int64)
    upper = view.arrays["upper"]
    if not 0 <= entry < n or levels.min() < 0 or levels[entry] < levels[live].max() or parents[entry] < 0:
        return ["the entry point is not on the highest layer"]
    if not 0 <= root < n or parents[root] != root:
        return ["the root is not a row that is its own parent"]
    if (offsets != np.cumsum(levels) - levels).any() or levels.sum() > len(upper):
        return ["the places of the upper layers do not fit the levels"]
    problems = []
    owner = np.repeat(np.arange(n), levels)
    layer = np.arange(len(owner)) - np.repeat(offsets, levels) + 1
    for name, table, rows, least in (
        ("layer 0", view["links"], np.arange(n), np.zeros(n, np.int64)),
        ("an upper layer", upper[: len(owner)], owner, layer),
    ):
        used = table >= 0
        if (table < -1).any() or (table >= n).any() or (used[:, 1:] & ~used[:, :-1]).any():
            return [*problems, f"a link of {name} leads nowhere"]
        if (used & (parents[table] < 0)).any():
            problems.append(f"a link of {name} leads to a removed row")
        if (table == rows[:, None]).any():
            problems.append(f"a row of {name} links to itself")
        ordered = np.sort(table, axis=1)
        if ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any():
            problems.append(f"a row of {name} has the same link twice")
        if (used & (levels[table] < least[:, None])).any():
            problems.append(f"a link of {name} leads to a row that is not on that layer")
    if view["links"].shape[1] != 2 * m or upper.shape[1] != m:
        problems.append("the tables of links do not have 2M and M columns")
    return problems + _tree_faults(view["links"], parents, live, root)


def _tree_faults(links: Any, parents: Ints, live: Any, root: int) -> list[str]:
    """Every live row has a parent that links to it, and its ancestors end at the root: so it can be reached."""
    rows = np.flatnonzero(parents >= 0)
    if parents.max() >= len(parents) or (parents[parents[rows]] < 0).any() or (parents[live] < 0).any():
        return ["a row has no parent"]
    others = rows[rows != root]
    if not (links[parents[others]] == others[:, None]).any(axis=1).all():
        return ["a row has no link from its parent"]
    above = parents.copy()
    for _ in range(len(parents).bit_length()):  # twice as far up each time
        above[rows] = above[above[rows]]
    lost = int((above[rows] != root).sum())
    return [f"{lost} of {len(rows)} rows cannot be reached from the root"] if lost else []
