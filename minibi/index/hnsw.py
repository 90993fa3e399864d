"""HNSWIndex: a navigable graph in layers, searched greedily from the top (Malkov & Yashunin 2016).

The graph is walked on small codes of the vectors, and the best that are found are ordered by the vectors as stored.
Rows are added in batches of a fiftieth of what stands: the same calls build the same graph on any number of threads.
Every row can be reached from the root; removed rows are linked around; `check` verifies it all.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import whole
from ..environment import plain_kernels
from ..errors import InputError
from ..shapes import Floats, Ints, as_vectors, unit_rows
from ..threads import in_pieces
from .codes import CODES, Codes, codec_for
from .contract import Index, View
from .flat import scan
from .hnsw_engine import Engine, draw_levels, engine_for
from .hnsw_repair import Surgery, count_children, find_faults, used_upper

LARGEST_BATCH = 8192  # rows inserted without a chance for readers to see them
BATCH_SHARE = 50  # a batch is at most a fiftieth of what stands: larger ones cost recall
AT_ONCE = 6  # the sixth part of the rows is taken out at once, more in steps: see `_relink`
EXACT = 20  # a filter that leaves n of N rows is answered by a scan if n * n <= EXACT * ef * N


class HNSWIndex(Index):
    """Approximate search in logarithmic time.

    dim, metric, store: as for every index. M: links per row on the upper layers, 2M on the lowest. ef_construction:
    candidates considered for each new row. codes: what the graph is walked on, "int4", "int8", "float16" or "float32";
    by default "int4", and "float32" for l2, whose small distances between large vectors codes would blur. seed: of the
    random levels. entry: where searches begin on the lowest layer, "hierarchy" (what the upper layers lead to, as
    published) or "sampled" (the nearest of 128 rows spread over all); may be set at any time, the graph is the same.
    `search` takes `ef`, the number of candidates kept while searching: larger finds more and takes longer (default 64,
    and never less than k).
    """

    kind: ClassVar[str] = "hnsw-index"

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        M: int = 16,
        ef_construction: int = 200,
        *,
        codes: str | None = None,
        store: str = "float32",
        seed: int = 0,
        entry: str = "hierarchy",
        fingerprint: str = "",
    ):
        self.entry = entry
        self.codes = codes or ("float32" if metric == "l2" else "int4")
        if self.codes not in CODES:
            raise InputError(f"codes must be one of {list(CODES)}, not {codes!r}")
        self.M, self.ef_construction = whole("M", M, 2, 512), whole("ef_construction", ef_construction, 1, 100_000)
        self.seed = whole("seed", seed)
        self.ef = 64
        self._walked = "vectors" if self.codes == store else "codes"  # the array that the graph is walked on
        self._last_engine: tuple[View, bool, Engine] | None = None
        super().__init__(dim, metric, store=store, fingerprint=fingerprint)
        self._walk_codec = codec_for(self.codes, self.dim)
        self._stale: list[int] = []  # removed rows that other rows still link to

    @property
    def entry(self) -> str:
        """Where searches begin: "hierarchy" or "sampled"."""
        return "sampled" if self._sampled else "hierarchy"

    @entry.setter
    def entry(self, entry: str) -> None:
        if entry not in ("hierarchy", "sampled"):
            raise InputError(f"entry must be 'hierarchy' or 'sampled', not {entry!r}")
        self._sampled = entry == "sampled"

    def _columns(self) -> dict[str, tuple[Any, tuple[int, ...], Any]]:
        own: dict[str, tuple[Any, tuple[int, ...], Any]] = {
            "links": (np.int32, (2 * self.M,), -1),  # layer 0
            "offsets": (np.int32, (), 0),  # where a row's upper layers begin in `upper`
            "levels": (np.int8, (), 0),
            "parents": (np.int32, (), -1),
            "children": (np.int16, (), 0),
            "youngest": (np.int32, (), 0),  # the last of the children
        }
        if self._walked == "codes":
            codec = codec_for(self.codes, self.dim)
            if isinstance(codec, Codes):
                own["codes"] = np.uint8, (codec.stride - 8,), 0
                own["tails"] = np.float32, (codec.tails(self.metric),), 0
            else:
                own["codes"] = codec.dtype, (codec.width,), 0
        return super()._columns() | own

    def _empty(self, capacity: int) -> dict[str, Any]:
        upper = (
            {} if capacity else {"upper": np.full((0, self.M), -1, np.int32)}
        )  # layers 1.. of the rows that have any
        return super()._empty(capacity) | upper

    def _engine(self, view: View) -> Engine:
        """What works on a view; the last one is kept, for the next search."""
        plain, held = plain_kernels(), self._last_engine
        if held is None or held[0] is not view or held[1] != plain:
            made = engine_for(self._walk_codec, view.arrays, self._walked, self.metric)
            held = self._last_engine = view, plain, made
        return held[2]

    def _prepare(self, x: ArrayLike, name: str) -> Floats:
        """As in every index, but kernels make queries of length one."""
        if name == "queries" and self.metric == "cosine":
            return as_vectors(x, self.dim, name=name)
        return super()._prepare(x, name)

    # ------------------------------------------------------------------ adding

    def _link(self, first: int, last: int) -> None:
        arrays = self._view.arrays
        levels = draw_levels(np.arange(first, last), self.M, self.seed)
        used = used_upper(arrays, first)
        arrays["levels"][first:last] = levels
        arrays["offsets"][first:last] = used + np.cumsum(levels, dtype=np.int64) - levels
        if self._walked == "codes":
            in_pieces(lambda a, b: self._encode(arrays, a, b), first, last, 128, 1024)
        needed = used + int(levels.sum(dtype=np.int64))
        if needed > len(arrays["upper"]):
            upper = np.full((max(needed, 2 * used, 16), self.M), -1, np.int32)
            upper[:used] = arrays["upper"][:used]
            self._view = replace(self._view, arrays={**arrays, "upper": upper})
        self._view.arrays["upper"][used:needed] = -1
        while first < last:
            end = min(last, first + max(1, min(first // BATCH_SHARE, LARGEST_BATCH)))
            self._insert(first, end)
            first = end

    def _encode(self, arrays: dict[str, Any], first: int, last: int) -> None:
        coded = self._walk_codec.encode(self._codec.decode(self._stored(first, last)))
        if isinstance(self._walk_codec, Codes):
            arrays["codes"][first:last], arrays["tails"][first:last] = self._walk_codec.split(coded, self.metric)
        else:
            arrays["codes"][first:last] = coded.view(self._walk_codec.dtype)

    def _stored(self, first: int, last: int) -> Any:
        return self._view.arrays["vectors"][first:last].view(np.uint8)

    def _insert(self, first: int, last: int) -> None:
        """One batch: every row finds its neighbours in the graph as it stands, then those take it in."""
        view = self._view
        entry, root = view.facts.get("entry", -1), view.facts.get("root", -1)
        arrays = view.arrays
        if entry < 0:
            arrays["links"][first], arrays["parents"][first], arrays["children"][first] = -1, first, 0
            self._publish(last, entry=first, root=first)
            return
        engine, live = self._engine(view), arrays["live"]
        ef, m = self.ef_construction, self.M
        engine.find_neighbours(entry, root, first, last, m, ef, live)
        try:
            arrays["children"][first:last] = 0
            engine.adopt(first, last, m)
            engine.link_back(first, last, m)
        except BaseException:
            self._take_back(first)
            raise
        highest = first + int(np.argmax(arrays["levels"][first:last]))
        if arrays["levels"][highest] > arrays["levels"][entry]:
            entry = highest
        self._publish(last, entry=entry, root=root)

    def _take_back(self, count: int) -> None:
        """Forgets links to rows that an interrupted batch did not finish."""
        arrays = self._view.arrays
        for table, used in ((arrays["links"], count), (arrays["upper"], used_upper(arrays, count))):
            table[:used][table[:used] >= count] = -1
            table[:used] = np.take_along_axis(table[:used], np.argsort(table[:used] < 0, axis=1, kind="stable"), 1)
        count_children(arrays, count)

    # ------------------------------------------------------------------ searching

    def _answer(self, view: View, x: Floats, k: int, ef: int | None, nprobe: int | None) -> tuple[Floats, Ints] | None:
        entry = None if self._sampled else view.facts["entry"]
        wide = self._wide(view, max(ef or self.ef, k), view.count - view.gone)
        return self._engine(view).answer(view, entry, x, wide, self._codec, k)

    def _wide(self, view: View, ef: int, live: int) -> int:
        """How many candidates a search keeps so that some `ef` of them may be returned; behind a filter up to half as
        many again, or it would end too early."""
        present = view.count - view.gone
        if live < present:
            ef = min(ef * present // live, ef + ef // 2)
        spent = max(len(self._stale), view.gone // 4)  # on removed rows that are still met, on links that were lost
        return min(-(-ef * (present + spent) // live), view.count) if live < view.count else ef

    def _search(
        self, view: View, queries: Floats, k: int, mask: NDArray[np.bool_], live: int, **breadth: int
    ) -> tuple[Floats, Ints]:
        ef = max(breadth.get("ef", self.ef), k)
        if live < view.count - view.gone and live * live <= EXACT * ef * view.count:
            return self._scan(view, queries, k, mask)
        engine, stored, ids = self._engine(view), view.arrays["vectors"].view(np.uint8), view["ids"]
        entry, root = None if self._sampled else view.facts["entry"], view.facts["root"]
        wide = self._wide(view, ef, live)
        distances, rows = engine.search(entry, root, queries, wide, self._codec, stored, mask, ids, k)
        if rows[:, -1].min() < 0:  # too many of the nearest were filtered out
            short = np.flatnonzero(rows[:, -1] < 0)
            distances[short], rows[short] = self._scan(view, queries[short], k, mask)
        return distances, rows

    def _scan(self, view: View, queries: Floats, k: int, mask: NDArray[np.bool_]) -> tuple[Floats, Ints]:
        which = np.flatnonzero(mask)
        queries = unit_rows(queries) if self.metric == "cosine" else queries
        return scan(self._codec, self._bytes(view), view["ids"], queries, k, self.metric, which)

    # ------------------------------------------------------------------ removing

    def _unlink(self, rows: Ints) -> None:
        """Removed rows stay stepping stones until there are enough of them to be worth a pass over the links."""
        self._stale.extend(rows.tolist())
        if len(self._stale) > max(64, self._view.count // 64) or not len(self):
            self._relink()

    def _relink(self) -> None:
        """Links around the removed rows: of many, a share at a time, while the others count as if they were there, or
        too few rows would be left around a row to choose from. Readers see the graph when all is done."""
        if not self._stale:
            return
        view, stale = self._view, np.array(self._stale)
        live, there = view.arrays["live"], view.arrays["live"].copy()
        there[stale] = True
        parts = min(-(-AT_ONCE * len(stale) // np.count_nonzero(there)), len(stale))
        for part in (stale[i::parts] for i in range(parts)):
            there[part] = False
            view = replace(view, arrays={**view.arrays, "live": there})
            surgery = Surgery(view, self._engine, self._host_query, self.M)
            surgery.bypass(part)
            view = replace(view, arrays=surgery.arrays, facts={**view.facts, **surgery.ends()})
        self._view = replace(view, arrays={**view.arrays, "live": live})
        self._stale = []

    def _host_query(self, row: int) -> Any:
        return self._codec.decode(self._stored(row, row + 1))

    def _renumber(self) -> None:
        self._relink()
        super()._renumber()

    def _moved(self, view: View, arrays: dict[str, Any], kept: Ints) -> dict[str, Any]:
        """Links, parents and upper layers in the new numbers of rows."""
        new = np.full(view.count + 1, -1, np.int32)  # the last place answers for row -1
        new[kept] = np.arange(len(kept))
        levels = arrays["levels"].astype(np.int64)
        owner = np.repeat(np.arange(len(kept)), levels)
        layer = np.arange(len(owner)) - np.repeat(np.cumsum(levels) - levels, levels)
        arrays["upper"] = new[view.arrays["upper"][arrays["offsets"][owner] + layer]].reshape(-1, self.M)
        arrays["offsets"] = (np.cumsum(levels) - levels).astype(np.int32)
        arrays["links"], arrays["parents"] = new[arrays["links"]], new[arrays["parents"]]
        count_children(arrays, len(kept))
        return {name: int(new[row]) for name, row in view.facts.items()}

    # ------------------------------------------------------------------ files

    def check(self) -> list[str]:
        """What is wrong with the vectors, ids, or the graph, in words; empty if nothing is."""
        view = self._view
        problems = super().check()
        if self._walked == "codes":
            coded = view["codes"].view(np.uint8)
            if isinstance(self._walk_codec, Codes):
                coded = self._walk_codec.join(coded, view["tails"])
            if fault := self._walk_codec.sound(coded):
                problems.append(fault)
        return problems + find_faults(view, self.M)

    def _arrays(self) -> dict[str, Any]:
        arrays = super()._arrays()
        del arrays["offsets"], arrays["children"], arrays["youngest"]  # follow from the levels and the parents
        return arrays | {"upper": self._view.arrays["upper"][: used_upper(self._view.arrays, self._view.count)]}

    def _fields(self) -> dict[str, Any]:
        settings = {"M": self.M, "ef_construction": self.ef_construction, "seed": self.seed, "codes": self.codes}
        settings["entry"] = self.entry
        return super()._fields() | settings | {"facts": self._view.facts}

    @classmethod
    def _from(cls, arrays: dict[str, Any], fields: dict[str, Any]) -> Self:
        facts = {name: int(row) for name, row in fields.pop("facts").items()}
        levels, parents = arrays["levels"].astype(np.int64), arrays["parents"]
        n = len(levels)
        if levels.ndim != 1 or parents.shape != (n,) or (n and (levels.min() < 0 or parents.max() >= n)):
            raise ValueError("levels and parents do not fit")
        if parents.dtype != np.int32 or (n and parents.min() < 0):
            raise ValueError("a parent is not a row")
        arrays["offsets"] = (np.cumsum(levels) - levels).astype(np.int32)
        arrays["children"], arrays["youngest"] = np.zeros(n, np.int16), np.zeros(n, np.int32)
        arrays["ids"] = np.array(arrays["ids"])  # a map is read-only: `search` would be compiled for it anew
        index = super()._from(arrays, fields)
        upper = arrays["upper"]
        if upper.dtype != np.int32 or upper.shape != (levels.sum(), index.M):
            raise ValueError(f"upper is {upper.dtype}{list(upper.shape)}")
        count_children(arrays, n)
        index._view = replace(index._view, facts=facts)
        return index
