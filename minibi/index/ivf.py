"""IVFIndex: vectors in lists around centroids, of which a search reads the nearest few (Jégou, Douze & Schmid 2011).

Until there are `train_size` vectors every search is an exact scan. Then the centroids are learned from what is there,
and never change, unless `retrain` is called. Rows wait in a short tail, compared one by one, until there are enough of
them to be sorted into lists. Where a search finds fewer than k, it scans.

A subclass keeps codes beside the vectors and says by `_candidates` which rows they hold to be near; those are
then ordered by the vectors as stored. `minibi.index.pq`, `rabitq` and `binary` are such.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..environment import plain_kernels
from ..errors import InputError
from ..shapes import Floats, Ints
from ..threads import parallel_map
from .codes import CODES, codec_for
from .contract import Index, View, whole
from .flat import scan
from .kmeans import assign, kmeans
from .lists import Learned, Lists, Scope, best_plain, multiply, rank_plain, sort_rows

QUERIES_PER_JOB = 48
ROWS_PER_JOB = 4096
TAIL = 1024  # rows compared one by one before they are sorted into lists; and one for each 256 in them
SAMPLE = 64  # vectors per list to learn centroids from
ITERATIONS = 10
CAREFUL = 256  # up to so many lists k-means starts from k-means++, beyond from random rows


class IVFIndex(Index):
    """Search in some of `nlist` lists.

    dim, metric, store: as for every index. nlist: by default 4 sqrt(n) of the n vectors there are at training. codes:
    "int8", "int4" or "float16" are scanned in the lists and the best `ef` ordered by the vectors as stored; None scans
    those at once. train_size: vectors that start the training. seed: of the training. `search` takes `nprobe`, the
    lists read (default `index.nprobe`, or a 32nd of all), and `ef`, the candidates kept where there are codes
    (default `index.ef`, 100, and never less than k).
    """

    kind: ClassVar[str] = "ivf-index"
    step: ClassVar[int] = 1  # slots of a list are a multiple of this

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        nlist: int | None = None,
        *,
        codes: str | None = None,
        store: str = "float32",
        train_size: int | None = None,
        nprobe: int | None = None,
        seed: int = 0,
        fingerprint: str = "",
    ):
        self._set_up(nlist, train_size, nprobe, seed)
        if codes is not None and codes not in CODES:
            raise InputError(f"codes must be one of {list(CODES)}, not {codes!r}")
        self.codes = None if codes == store else codes
        self._code_codec = codec_for(codes, whole("dim", dim, 1)) if self.codes else None
        super().__init__(dim, metric, store=store, fingerprint=fingerprint)

    def _set_up(self, nlist: int | None, train_size: int | None, nprobe: int | None, seed: int) -> None:
        self.nlist = None if nlist is None else whole("nlist", nlist, 1, 2**24)
        default = 10_000 if nlist is None else max(1000, 32 * self.nlist)  # type: ignore[operator]
        self.train_size = default if train_size is None else whole("train_size", train_size, 1)
        self.nprobe = None if nprobe is None else whole("nprobe", nprobe, 1)
        self.seed, self.ef = whole("seed", seed, 0), 100

    @property
    def trained(self) -> bool:
        return "learned" in self._view.facts

    def _columns(self) -> dict[str, tuple[Any, tuple[int, ...], Any]]:
        return super()._columns() | {"cells": (np.int32, (), -1)} | self._code_columns()

    # ------------------------------------------------------------------ what a subclass with codes replaces

    def _code_columns(self) -> dict[str, tuple[Any, tuple[int, ...], Any]]:
        """Arrays with a row of codes for each item."""
        codec = self._code_codec
        return {"codes": (codec.dtype, (codec.stride // codec.dtype.itemsize,), 0)} if codec else {}

    def _learn(self, x: Floats, centroids: Floats, cells: Ints) -> dict[str, Any]:
        """What codes need to know, from vectors [n, D] and the cells they are in."""
        return {}

    def _encode(self, x: Floats, cells: Ints, learned: Learned) -> dict[str, Any]:
        """name -> codes [n, ...] of vectors [n, D], for the columns of `_code_columns`."""
        return {"codes": self._code_codec.encode(x).view(self._code_codec.dtype)} if self._code_codec else {}

    def _pack(self, arrays: dict[str, Any], order: NDArray[np.int32], count: int) -> dict[str, Any]:
        """Codes as a search reads them: the columns, or anew in the order of the lists where that is faster."""
        return {name: arrays[name][:count] for name in self._code_columns()}

    def _faults(self, learned: Learned) -> list[str]:
        """What is wrong with what was learned, and with codes."""
        view = self._view
        fault = self._code_codec.sound(view["codes"].view(np.uint8)) if self._code_codec else ""
        return [fault] if fault else []

    def _candidates(self, scope: Scope) -> Ints | None:
        """The rows [Q, R] that codes hold to be nearest, -1 behind; None: all rows of the lists."""
        codec = self._code_codec
        if codec is None:
            return None
        codes, keep = scope.lists.packed["codes"].view(np.uint8), scope.ef
        encoded = codec.encode_queries(scope.queries)
        if plain_kernels():

            def estimates(q: int, rows: Ints) -> Floats:
                return codec.distances_plain(codes[rows], encoded[q], self.metric)

            return best_plain(scope, keep, estimates)
        from ..kernels import distance, ivf

        metric = distance.SQUARED_L2 if self.metric == "l2" else distance.DOT
        out = np.empty((len(encoded), keep), np.int64)
        where = scope.lists.order, scope.lists.starts, scope.mask, scope.cells
        ivf.search_coded(*where, codes, encoded, codec.kind, metric, codec.width, keep, out)
        return out

    def _rank(self, scope: Scope) -> tuple[Floats, Ints]:
        """(distances, rows) [Q, k] of the nearest by the vectors as stored."""
        candidates, view = self._candidates(scope), scope.view
        codec, rows, ids = self._codec, self._bytes(view), view["ids"]
        encoded = codec.encode_queries(scope.queries)
        out = np.empty((len(encoded), scope.k), np.float32), np.empty((len(encoded), scope.k), np.int64)
        if plain_kernels():
            for q, one in enumerate(encoded):
                which = scope.rows_of(q) if candidates is None else candidates[q][candidates[q] >= 0]
                which = np.concatenate([which, scope.tail])
                distances = codec.distances_plain(rows[which], one, self.metric)
                out[0][q], out[1][q] = rank_plain(distances, which, ids, scope.k)
            return out
        from ..kernels import distance, ivf

        how = codec.kind, distance.SQUARED_L2 if self.metric == "l2" else distance.DOT, codec.width
        if candidates is None:
            where = scope.lists.order, scope.lists.starts, scope.mask, scope.cells
            ivf.search_lists(*where, rows, ids, scope.tail, encoded, scope.k, *how, *out)
        else:
            ivf.rank_candidates(candidates, rows, ids, scope.tail, encoded, scope.k, *how, *out)
        return out

    # ------------------------------------------------------------------ training

    def train(self, vectors: ArrayLike) -> None:
        """Learns from vectors [n, dim] instead of the first that are added. Raises InputError."""
        x = self._prepare(vectors, "vectors")
        with self._lock:
            if self.trained:
                raise InputError("the index is trained already: retrain learns anew from the vectors it holds")
            if not len(x):
                raise InputError("training needs at least one vector")
            self._adopt(self._train(x), self._view.count)

    def retrain(self) -> None:
        """Learns anew from the vectors it holds and sorts them into the new lists. Readers see the old or the new."""
        with self._lock:
            view = self._view
            if not len(self):
                raise InputError("there is nothing to learn from: add vectors first")
            self._adopt(self._train(self._codec.decode(self._bytes(view, np.flatnonzero(view["live"])))), view.count)

    def _train(self, x: Floats) -> Learned:
        nlist = min(self.nlist or max(1, round(4 * math.sqrt(len(x)))), len(x))
        rng = np.random.default_rng(self.seed)
        if len(x) > max(SAMPLE * nlist, 16_384):
            x = x[np.sort(rng.choice(len(x), max(SAMPLE * nlist, 16_384), replace=False))]
        start = "k-means++" if nlist <= CAREFUL else "random"
        spherical = self.metric == "cosine" and nlist > 1
        centroids, cells = kmeans(x, nlist, iterations=ITERATIONS, seed=self.seed, spherical=spherical, start=start)
        return Learned(centroids, self._learn(x, centroids, cells))

    def _adopt(self, learned: Learned, last: int) -> None:
        """All rows below `last` are encoded anew, in new arrays: readers go on with those their lists came with."""
        view = self._view
        arrays = dict(view.arrays)
        for name in ("cells", *self._code_columns()):
            arrays[name] = arrays[name].copy()
        self._fill(arrays, learned, 0, last)
        lists = self._sort(arrays, learned, last)
        self._view = View(arrays, view.count, view.gone, view.facts)
        self._publish(last, learned=learned, lists=lists)

    def _fill(self, arrays: dict[str, Any], learned: Learned, first: int, last: int) -> None:
        """Cells and codes of rows first .. last - 1."""

        def job(a: int) -> None:
            b = min(a + ROWS_PER_JOB, last)
            x = self._codec.decode(arrays["vectors"][a:b].view(np.uint8))
            cells = assign(x, learned.centroids, spherical=self._by_product(learned), threads=1)
            arrays["cells"][a:b] = cells
            for name, codes in self._encode(x, cells, learned).items():
                arrays[name][a:b] = codes

        for _ in parallel_map(job, range(first, last, ROWS_PER_JOB)):
            pass

    def _by_product(self, learned: Learned) -> bool:
        """Whether the nearest centroid is that of the largest product; centroids of length one make no difference."""
        return self.metric == "cosine" and len(learned.centroids) > 1

    def _sort(self, arrays: dict[str, Any], learned: Learned, count: int) -> Lists:
        order, starts = sort_rows(arrays["cells"][:count], len(learned.centroids), self.step)
        return Lists(count, order, starts, self._pack(arrays, order, count))

    # ------------------------------------------------------------------ writing

    def _link(self, first: int, last: int) -> None:
        view = self._view
        learned = view.facts.get("learned")
        if learned is None:
            if last < self.train_size:
                self._publish(last)
                return
            known = np.concatenate([np.flatnonzero(view["live"]), np.arange(first, last)])
            self._adopt(self._train(self._codec.decode(view.arrays["vectors"][known].view(np.uint8))), last)
            return
        self._fill(view.arrays, learned, first, last)
        lists = view.facts["lists"]
        if last - lists.count > TAIL + lists.count // 256:
            lists = self._sort(view.arrays, learned, last)
        self._publish(last, lists=lists)

    def _moved(self, view: View, arrays: dict[str, Any], kept: Ints) -> dict[str, Any]:
        if "learned" not in view.facts:
            return view.facts
        return {**view.facts, "lists": self._sort(arrays, view.facts["learned"], len(kept))}

    # ------------------------------------------------------------------ searching

    def _search(
        self, view: View, queries: Floats, k: int, mask: NDArray[np.bool_], live: int, **breadth: int
    ) -> tuple[Floats, Ints]:
        which = None if live == view.count else np.flatnonzero(mask)
        learned, lists = view.facts.get("learned"), view.facts.get("lists")
        if learned is None:
            return self._scan(view, queries, k, which)
        nlist, held = len(learned.centroids), view.count - view.gone
        nprobe = self._breadth(learned, breadth.get("nprobe"))
        ef = min(max(breadth.get("ef", self.ef), k), live)
        if live < held:  # filtered: read more lists to see as many rows, or all that pass if those are few
            if live <= max(2 * ef, held * nprobe // nlist):
                return self._scan(view, queries, k, which)
            nprobe = min(nlist, -(-nprobe * held // live))
        tail = lists.count + np.flatnonzero(mask[lists.count :])

        def job(first: int) -> tuple[Floats, Ints]:
            return self._near(view, queries[first : first + QUERIES_PER_JOB], nprobe, ef, k, mask, tail)

        parts = list(parallel_map(job, range(0, len(queries), QUERIES_PER_JOB)))
        distances, rows = parts[0] if len(parts) == 1 else (np.concatenate(p) for p in zip(*parts, strict=True))
        short = np.flatnonzero(rows[:, -1] < 0)
        if len(short):
            distances[short], rows[short] = self._scan(view, queries[short], k, which)
        return distances, rows

    def _scan(self, view: View, queries: Floats, k: int, which: Ints | None) -> tuple[Floats, Ints]:
        """(distances, rows) [Q, k] of the nearest of some rows, or of all."""
        return scan(self._codec, self._bytes(view), view["ids"], queries, k, self.metric, which)

    def _breadth(self, learned: Learned, nprobe: int | None) -> int:
        """How many lists are read if so many are wanted, by default `self.nprobe`."""
        nlist = len(learned.centroids)
        return min(nprobe or self.nprobe or max(1, -(-nlist // 32)), nlist)

    def _near(
        self, view: View, queries: Floats, nprobe: int, ef: int, k: int, mask: NDArray[np.bool_], tail: Ints
    ) -> tuple[Floats, Ints]:
        """(distances, rows) [Q, k] of the nearest in the lists of a few queries, and in `tail`."""
        learned, lists = view.facts["learned"], view.facts["lists"]
        cells, products = self._probe(learned, queries, nprobe)
        return self._rank(Scope(view, learned, lists, mask, tail, queries, cells, products, ef, k))

    def _probe(self, learned: Learned, queries: Floats, nprobe: int) -> tuple[Ints, Floats]:
        """The nearest lists, best first, and the products of queries and their centroids: [Q, nprobe]."""
        shifts = self._shifts(learned)
        if plain_kernels():
            scores = queries @ learned.centroids.T - shifts
            cells = np.argsort(-scores, axis=1, kind="stable")[:, :nprobe]
            return cells, np.take_along_axis(scores, cells, axis=1) + shifts[cells]
        from ..kernels import ivf

        scores = multiply(queries, learned, "panels", learned.centroids.T, -shifts)
        cells, best = np.empty((len(queries), nprobe), np.int64), np.empty((len(queries), nprobe), np.float32)
        ivf.probes(scores, len(learned.centroids), nprobe, cells, best)
        return cells, best + shifts[cells]

    def _shifts(self, learned: Learned) -> Floats:
        """|c|^2 / 2: the nearest centroid has the largest q . c less this. Zeros for inner products."""
        if "shifts" not in learned.cached:
            c = learned.centroids.astype(np.float64)
            factor = 0.5 if self.metric == "l2" else 0.0
            learned.cached["shifts"] = (factor * np.square(c).sum(axis=1)).astype(np.float32)
        return learned.cached["shifts"]

    # ------------------------------------------------------------------ files

    def stats(self) -> dict[str, Any]:
        """Numbers about the index: those of every index, lists and their imbalance (1: all equally long)."""
        view, own = self._view, super().stats()
        if not self.trained:
            return own | {"trained": False}
        sizes = np.bincount(view["cells"][view["live"]], minlength=len(view.facts["learned"].centroids))
        mean = max(float(sizes.mean()), 1e-9)
        packed = view.facts["lists"].packed
        own["bytes"] |= {name: packed[name].nbytes for name in packed if name not in self._code_columns()}
        own["bytes"]["order"] = view.facts["lists"].order.nbytes
        own["bytes_per_item"] = round(sum(own["bytes"].values()) / max(len(self), 1), 1)
        return own | {"trained": True, "nlist": len(sizes), "imbalance": float(np.square(sizes).mean()) / mean**2}

    def check(self) -> list[str]:
        """What is wrong with the vectors, ids, lists or codes, in words; empty if nothing is."""
        view, problems = self._view, super().check()
        learned, lists = view.facts.get("learned"), view.facts.get("lists")
        if learned is None:
            return problems
        if not np.isfinite(learned.centroids).all() or (np.abs(learned.centroids) > 2e17).any():
            return [*problems, "a centroid is not a finite number"]
        if len(view["cells"]) and not 0 <= view["cells"].min() <= view["cells"].max() < len(learned.centroids):
            return [*problems, "a row is in a list that does not exist"]
        rows = lists.order[lists.order >= 0]
        owner = np.repeat(np.arange(len(learned.centroids)), np.diff(lists.starts))[lists.order >= 0]
        if len(rows) != lists.count or (view["cells"][rows] != owner).any() or len(np.unique(rows)) != len(rows):
            problems.append("lists and rows do not correspond one to one")
        return problems + self._faults(learned)

    def _arrays(self) -> dict[str, Any]:
        learned = self._view.facts.get("learned", Learned(np.zeros((0, self.dim), np.float32)))
        return super()._arrays() | {"centroids": learned.centroids} | learned.arrays

    def _fields(self) -> dict[str, Any]:
        own = {"nlist": self.nlist, "train_size": self.train_size, "nprobe": self.nprobe, "seed": self.seed}
        return super()._fields() | own | self._settings()

    def _settings(self) -> dict[str, Any]:
        return {"codes": self.codes}

    def _learned_shapes(self) -> dict[str, tuple[int, ...]]:
        """name -> shape of the float32 arrays that `_learn` returns."""
        return {}

    @classmethod
    def _from(cls, arrays: dict[str, Any], fields: dict[str, Any]) -> Self:
        centroids = arrays.pop("centroids")
        learned = {name: arrays.pop(name) for name in [*arrays] if name.startswith("learned_")}
        index = super()._from(arrays, fields)
        if centroids.dtype != np.float32 or centroids.ndim != 2 or centroids.shape[1] != index.dim:
            raise ValueError(f"centroids are {centroids.dtype}{list(centroids.shape)}")
        shapes = index._learned_shapes() if len(centroids) else {}
        found = {name: a.shape for name, a in learned.items()}
        if found != shapes or any(a.dtype != np.float32 or not np.isfinite(a).all() for a in learned.values()):
            raise ValueError(f"what was learned has the shapes {found}, not {shapes}")
        count, cells = index._view.count, arrays["cells"]
        if not len(centroids):
            if (cells != -1).any():
                raise ValueError("rows are in lists, but there are none")
            return index
        if count and not 0 <= cells.min() <= cells.max() < len(centroids):
            raise ValueError("a row is in a list that does not exist")
        known = Learned(np.ascontiguousarray(centroids), learned)
        lists = index._sort(arrays, known, count)
        index._view = View(arrays, count, 0, {"learned": known, "lists": lists})
        return index
