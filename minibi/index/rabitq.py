"""RaBitQ: one to eight bits per coordinate, with a bound on the error (Gao & Long 2024; more bits: Gao et al. 2024).

A residual r = x - c is rotated at random and put on a grid of 2^bits levels per coordinate, scaled so that the code y
is as near to r in angle as can be: a = cos(r, y). Then for any query

    <r, q - c>  ~  f <y, q - c>,  f = |r|^2 / <r, y>               unbiased over rotations
    error       <  epsilon |r| |q - c| sqrt((1 - a^2) / a^2 / (D - 1))

where epsilon 1.9 is exceeded a few times in a hundred, on either side, and 4 practically never. The query is rounded to
bytes; what that leaves out is counted into the error likewise. A search keeps the k nearest so far and compares exactly
whatever the lower end of its estimate does not exclude: so there is no depth of rescoring to choose, only epsilon.
The rotation is that of `minibi.index.codes`, in the coordinates of which D is a multiple of 128.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..environment import plain_kernels
from ..errors import InputError
from ..shapes import Floats, Ints
from .codes import Codes
from .contract import whole
from .ivf import IVFIndex
from .lists import Learned, Scope, rank_plain, visits

EPSILON = 1.9
ROUNDING = 4e-6  # of what is added up in float32: never a reason to exclude
# The best step of a uniform grid for a Gaussian of variance one (Max 1960), by bits; steps around it are tried.
MAX_STEP = {2: 0.9957, 3: 0.586, 4: 0.3352, 5: 0.1881, 6: 0.1041, 7: 0.0569, 8: 0.0308}
TRIED = (0.6, 0.7, 0.78, 0.85, 0.92, 1.0, 1.08, 1.17, 1.3, 1.5)


class IVFRaBitQIndex(IVFIndex):
    """Inverted lists of RaBitQ codes.

    dim, metric, nlist, store, train_size, nprobe, seed: as for IVFIndex. bits: 1 to 8 per coordinate. epsilon: how many
    deviations an estimate may be wrong before a neighbour is missed; it may be changed at any time.
    """

    kind: ClassVar[str] = "ivf-rabitq-index"

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        nlist: int | None = None,
        *,
        bits: int = 1,
        epsilon: float = EPSILON,
        store: str = "float32",
        train_size: int | None = None,
        nprobe: int | None = None,
        seed: int = 0,
        fingerprint: str = "",
    ):
        self.bits = whole("bits", bits, 1, 8)
        if isinstance(epsilon, bool) or not isinstance(epsilon, (int, float)) or not 0 <= epsilon < 1e6:
            raise InputError(f"epsilon must be a number from 0 to a million, not {epsilon!r}")
        self.epsilon = float(epsilon)
        self._turn = Codes("int8", whole("dim", dim, 1))
        super().__init__(
            dim, metric, nlist, store=store, train_size=train_size, nprobe=nprobe, seed=seed, fingerprint=fingerprint
        )

    def _code_columns(self) -> dict[str, tuple[Any, tuple[int, ...], Any]]:
        return {"codes": (np.uint8, (self._turn.width * self.bits // 8 + 16,), 0)}

    def _settings(self) -> dict[str, Any]:
        return {"bits": self.bits, "epsilon": self.epsilon}

    # ------------------------------------------------------------------ encoding

    def _encode(self, x: Floats, cells: Ints, learned: Learned) -> dict[str, Any]:
        r = x - learned.centroids[cells]
        turned, c = self._turn.rotate(r), self._turn.rotate(learned.centroids[cells])
        codes = self._levels(turned)
        y = 2.0 * codes - (2**self.bits - 1)
        square, agreement = np.square(turned, dtype=np.float64).sum(axis=1), (y * turned).sum(axis=1)
        factor = np.divide(square, agreement, out=np.zeros_like(square), where=agreement > 0)
        sides = square * np.square(y).sum(axis=1)
        angle = np.divide(agreement**2, sides, out=np.ones_like(square), where=sides > 0)  # a^2
        along, own = factor * (y * c).sum(axis=1), (turned.astype(np.float64) * c).sum(axis=1)
        rest = np.sqrt(square * np.maximum(1 / np.maximum(angle, 1e-12) - 1, 0) / (self._turn.width - 1))
        length = factor * np.sqrt(np.square(y).sum(axis=1) / (self._turn.width - 1))
        if self.metric == "l2":
            add, times = square + 2 * along, 2.0
        else:
            add, times = along - own, 1.0
        add -= ROUNDING * (square + np.abs(along) + np.abs(own))
        tail = np.stack([add, -times * factor, times * rest, times * length], axis=1).astype(np.float32)
        return {"codes": np.concatenate([to_planes(codes, self.bits), tail.view(np.uint8)], axis=1)}

    def _levels(self, turned: Floats) -> NDArray[np.uint8]:
        steps = np.array([MAX_STEP.get(self.bits, 1.0) * t for t in TRIED], np.float32)
        if plain_kernels():
            return levels_plain(turned, self.bits, steps)
        from ..kernels import bits

        out = np.empty(turned.shape, np.uint8)
        bits.levels(turned, self.bits, steps, out)
        return out

    def _faults(self, learned: Learned) -> list[str]:
        tail = np.ascontiguousarray(self._view["codes"][:, -16:]).view(np.float32)
        sound = np.isfinite(tail).all() and (tail[:, 2:] >= 0).all()
        return [] if sound else ["a correction of a code is not a finite number"]

    # ------------------------------------------------------------------ searching

    def _rank(self, scope: Scope) -> tuple[Floats, Ints]:
        bases, gaps = self._bases(scope)
        coded, noise = self._coded(scope.queries)
        noise *= np.float32(self.epsilon)
        gaps *= np.float32(self.epsilon)
        rows, ids, codec = self._bytes(scope.view), scope.view["ids"], self._codec
        exact = codec.encode_queries(scope.queries)
        out = np.empty((len(exact), scope.k), np.float32), np.empty((len(exact), scope.k), np.int64)
        if plain_kernels():
            for q, one in enumerate(exact):
                which = self._kept_plain(scope, q, bases[q], gaps[q], coded[q], noise[q])
                which = np.concatenate([scope.tail, which])
                distances = codec.distances_plain(rows[which], one, self.metric)
                out[0][q], out[1][q] = rank_plain(distances, which, ids, scope.k)
            return out
        from ..kernels import bits, distance

        lists, compared = scope.lists, np.empty(len(exact), np.int64)
        where = lists.order, lists.starts, scope.mask, scope.cells, *visits(scope.cells)
        how = codec.kind, distance.SQUARED_L2 if self.metric == "l2" else distance.DOT, codec.width
        bits.bounded_search(
            lists.packed["codes"], self.bits, self._turn.width, *where, bases, gaps, coded, noise,
            rows, ids, scope.tail, exact, scope.k, *how, *out, compared,
        )  # fmt: skip
        return out

    def _bases(self, scope: Scope) -> tuple[Floats, Floats]:
        """What estimates of a list begin with, and |q - c|: [Q, P]."""
        q = np.square(scope.queries, dtype=np.float64).sum(axis=1)[:, None]
        c = np.square(scope.learned.centroids[scope.cells], dtype=np.float64).sum(axis=2)
        squared = np.maximum(q + c - 2.0 * scope.products, 0) + ROUNDING * (q + c)
        bases = squared - 2 * ROUNDING * (q + c) if self.metric == "l2" else -scope.products - ROUNDING * np.sqrt(q * c)
        return bases.astype(np.float32), np.sqrt(squared).astype(np.float32)

    def _coded(self, queries: Floats) -> tuple[NDArray[np.uint8], Floats]:
        """Queries as signed bytes in rotated coordinates, and the length of what rounding leaves out."""
        width = self._turn.width
        coded, turned = self._turn.encode_queries(queries), self._turn.rotate(queries)
        scale = np.ascontiguousarray(coded[:, width : width + 4]).view(np.float32)
        rest = turned - scale * coded[:, :width].view(np.int8)
        return coded, np.sqrt(np.square(rest, dtype=np.float64).sum(axis=1)).astype(np.float32)

    def estimates(self, queries: ArrayLike) -> tuple[Floats, Floats, Ints]:
        """(distances [Q, N], errors [Q, N], ids [N]) of all vectors in lists, from codes alone.

        Distances are squared or minus inner products; the true one lies within epsilon times the error, as promised
        above. Raises InputError.
        """
        queries, view = self._prepare(queries, "queries"), self._view
        if "learned" not in view.facts:
            raise InputError("there are no codes before training: add more vectors or call train")
        learned, lists = view.facts["learned"], view.facts["lists"]
        rows = np.flatnonzero(view["live"][: lists.count])
        cells, products = self._probe(learned, queries, len(learned.centroids))
        order = np.argsort(cells, axis=1)  # by number instead of nearness
        cells, products = np.take_along_axis(cells, order, 1), np.take_along_axis(products, order, 1)
        scope = Scope(view, learned, lists, view["live"], rows[:0], queries, cells, products, 1, 1)
        (bases, gaps), (coded, noise) = self._bases(scope), self._coded(queries)
        cell = view["cells"][rows]
        tail = np.ascontiguousarray(lists.packed["codes"][rows, -16:]).view(np.float32)
        errors = tail[:, 2] * gaps[:, cell] + tail[:, 3] * noise[:, None]
        parts = [self._estimate(lists.packed["codes"], rows, b[cell], one) for b, one in zip(bases, coded, strict=True)]
        return np.stack(parts), errors, view["ids"][rows]

    def _estimate(self, codes: NDArray[np.uint8], rows: Ints, bases: Floats, coded: NDArray[np.uint8]) -> Floats:
        """Estimates [n] of some rows for one query."""
        width = self._turn.width
        if not plain_kernels():
            from ..kernels import bits

            out = np.empty(len(rows), np.float32)
            bits.estimate_all(codes, rows, bases, coded, width, self.bits, out)
            return out
        levels, tail = (
            from_planes(codes[rows, :-16], self.bits),
            np.ascontiguousarray(codes[rows, -16:]).view(np.float32),
        )
        scale = coded[width : width + 4].view(np.float32)[0]
        y = 2 * levels.astype(np.int64) - (2**self.bits - 1)
        product = scale * (y @ coded[:width].view(np.int8).astype(np.int64)).astype(np.float32)
        return bases + (tail[:, 0] + tail[:, 1] * product)

    def _kept_plain(self, scope: Scope, q: int, bases: Floats, gaps: Floats, coded: Any, noise: Any) -> Ints:
        """Rows of query q's lists that could be among the k nearest, by the bounds' both ends."""
        rows = scope.rows_of(q)
        spread = np.zeros((2, len(scope.learned.centroids)), np.float32)
        spread[:, scope.cells[q]] = bases, gaps
        cell = scope.view["cells"][rows]
        codes = scope.lists.packed["codes"]
        middle = self._estimate(codes, rows, spread[0][cell], coded)
        tail = np.ascontiguousarray(codes[rows, -16:]).view(np.float32)
        slack = tail[:, 2] * spread[1][cell] + tail[:, 3] * noise
        if len(rows) <= scope.k:
            return rows
        return rows[middle - slack <= np.partition(middle + slack, scope.k - 1)[scope.k - 1]]


class RaBitQIndex(IVFRaBitQIndex):
    """One list: every code is scanned. The centroid is the mean. Other settings as for IVFRaBitQIndex."""

    kind: ClassVar[str] = "rabitq-index"

    def __init__(self, dim: int, metric: str = "cosine", *, nlist: int | None = 1, **settings: Any):
        if nlist != 1:
            raise InputError("a RaBitQIndex has one list: use IVFRaBitQIndex")
        super().__init__(dim, metric, 1, **settings)


def levels_plain(y: Floats, bits: int, steps: Floats) -> NDArray[np.uint8]:
    """The twin of `kernels.bits.levels`, bit for bit."""
    if bits == 1:
        return (y > 0).astype(np.uint8)
    most, half = 2**bits - 1, np.float32(2 ** (bits - 1))
    norm = np.cumsum(y.astype(np.float64) * y, axis=1)[:, -1]
    rms = np.sqrt(norm / y.shape[1]).astype(np.float32)
    best, out = np.full(len(y), -1.0), np.zeros(y.shape, np.uint8)
    for step in steps:
        inverse = np.float32(1) / np.maximum(step * rms, np.float32(1e-30))
        levels = np.clip(np.floor(y * inverse[:, None]) + half, 0, most)
        c = 2 * levels.astype(np.float64) - most
        angle = np.cumsum(c * y, axis=1)[:, -1] / np.sqrt(np.square(c).sum(axis=1))
        better = angle > best
        best[better], out[better] = angle[better], levels[better].astype(np.uint8)
    return out


def to_planes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes [n, W] -> bytes [n, W bits / 8]: of each 64 coordinates the planes of bits, the highest first."""
    planes = [np.packbits(codes >> b & 1, axis=1, bitorder="little") for b in reversed(range(bits))]
    n, width = codes.shape
    return np.stack([p.reshape(n, width // 64, 8) for p in planes], axis=2).reshape(n, width * bits // 8)


def from_planes(planes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """The inverse of `to_planes`."""
    n, width = len(planes), planes.shape[1] * 8 // bits
    words = np.ascontiguousarray(planes).reshape(n, width // 64, bits, 8)
    each = np.unpackbits(words, axis=3, bitorder="little")
    weights = (1 << np.arange(bits)[::-1]).astype(np.uint8)[:, None]
    return (each * weights).sum(axis=2, dtype=np.uint8).reshape(n, width)
