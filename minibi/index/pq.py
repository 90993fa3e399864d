"""Product quantization: a vector as M small numbers, compared with a query by table (Jégou, Douze & Schmid 2011).

    PQIndex(384, M=96)                 one list: a scan of 4-bit codes, the best `ef` ordered by the vectors as stored
    IVFPQIndex(384, M=96)              the same inside inverted lists

What is coded is the residual r = x - c of a vector and its list's centroid. Beside the code of r stand two numbers, so
that a query's distance is estimated from q - c, which is short for the lists that matter, and a vector's
estimated product with its own residual is exact (the correction of Gao & Long 2024, eq. 7):

    f = |r|^2 / <r, r'>                                    r': what the code stands for
    <q, x>     ~  <q, c> + <c, r> - f <c, r'> + f <q, r'>
    |q - x|^2  ~  |q - c|^2 + |r|^2 + 2 f <c, r'> - 2 f <q, r'>
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..environment import plain_kernels
from ..errors import InputError
from ..shapes import Floats, Ints, aligned, as_vectors, unit_rows
from .codes import Codes, rotate_back_plain
from .contract import View, whole
from .ivf import QUERIES_PER_JOB, IVFIndex
from .lists import Learned, Scope, best_plain, multiply
from .pq_engine import Engine

ROTATIONS = ("none", "random", "opq")
SAMPLE = 16_384  # residuals that codewords are learned from
LLOYD, ALTERNATIONS = 20, 12  # rounds of k-means; of OPQ's two steps
BLOCK = 32  # slots of the fast scan


class IVFPQIndex(IVFIndex):
    """Inverted lists of product codes.

    dim, metric, nlist, store, train_size, nprobe, seed: as for IVFIndex. M: numbers per vector, by default a quarter of
    `dim`. bits of each: 4, scanned 64 at a time in registers, or 8. rotation of the residuals before they are cut:
    "none", "random" (that of `minibi.index.codes`, for vectors whose coordinates differ in weight), or "opq", learned
    (Ge et al. 2013).
    """

    kind: ClassVar[str] = "ivfpq-index"
    step: ClassVar[int] = BLOCK

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        nlist: int | None = None,
        *,
        M: int | None = None,
        bits: int = 4,
        rotation: str = "none",
        store: str = "float32",
        train_size: int | None = None,
        nprobe: int | None = None,
        seed: int = 0,
        fingerprint: str = "",
    ):
        dim = whole("dim", dim, 1)
        if isinstance(bits, bool) or bits not in (4, 8):
            raise InputError(f"bits must be 4 or 8, not {bits!r}")
        if rotation not in ROTATIONS:
            raise InputError(f"rotation must be one of {list(ROTATIONS)}, not {rotation!r}")
        self.M = -(-dim // 4) if M is None else whole("M", M, 1, min(dim, 4096))
        self.bits, self.rotation = int(bits), rotation
        self._turn = Codes("int8", dim)  # the random rotation
        self._width = self._turn.width if rotation == "random" else dim
        self._last_engine: Engine | None = None
        self._part = -(-self._width // self.M)  # coordinates of a sub-space; the last may be filled up with zeros
        super().__init__(
            dim, metric, nlist, store=store, train_size=train_size, nprobe=nprobe, seed=seed, fingerprint=fingerprint
        )

    def _code_columns(self) -> dict[str, tuple[Any, tuple[int, ...], Any]]:
        size = self.M if self.bits == 8 else -(-self.M // 2)
        return {"codes": (np.uint8, (size,), 0), "terms": (np.float32, (2,), 0)}

    def _settings(self) -> dict[str, Any]:
        return {"M": self.M, "bits": self.bits, "rotation": self.rotation}

    def _learned_shapes(self) -> dict[str, tuple[int, ...]]:
        own: dict[str, tuple[int, ...]] = {"learned_codebooks": (self.M, 2**self.bits // 16, self._part, 16)}
        return own | ({"learned_rotation": (self.dim, self.dim)} if self.rotation == "opq" else {})

    # ------------------------------------------------------------------ learning

    def _learn(self, x: Floats, centroids: Floats, cells: Ints) -> dict[str, Any]:
        rng = np.random.default_rng(self.seed)
        if len(x) > SAMPLE:
            some = np.sort(rng.choice(len(x), SAMPLE, replace=False))
            x, cells = x[some], cells[some]
        r = x - centroids[cells]
        if self.rotation != "opq":
            return {"learned_codebooks": learn_codebooks(self._cut(r, None), self.M, self.bits, LLOYD, rng)}
        turn = np.eye(self.dim, dtype=np.float32)
        books = learn_codebooks(self._cut(r, turn), self.M, self.bits, 1, rng)
        for _ in range(ALTERNATIONS):  # the codes of turned residuals, then the turn that brings those nearest to them
            cut = self._cut(r, turn)
            books = learn_codebooks(cut, self.M, self.bits, 2, rng, books)
            coded = decode(encode(cut, books), books)[:, : self.dim]
            u, _, v = np.linalg.svd(r.T.astype(np.float64) @ coded)
            turn = (u @ v).astype(np.float32)
        books = learn_codebooks(self._cut(r, turn), self.M, self.bits, LLOYD // 2, rng, books)
        return {"learned_codebooks": books, "learned_rotation": np.ascontiguousarray(turn)}

    def _cut(self, x: Floats, turn: Floats | None) -> Floats:
        """x [n, D] in the coordinates that are coded, filled up: [n, M d]."""
        if self.rotation == "random":
            x = self._turn.rotate(x)
        elif turn is not None:
            x = x @ turn
        out = np.zeros((len(x), self.M * self._part), np.float32)
        out[:, : x.shape[1]] = x
        return out

    def _cut_queries(self, x: Floats, learned: Learned) -> Floats:
        """`_cut`, the same bits for a query in any company."""
        turn = learned.arrays.get("learned_rotation")
        if turn is not None and not plain_kernels():
            x, turn = multiply(x, learned, "rotation", turn)[:, : self.dim], None
        return self._cut(x, turn)

    # ------------------------------------------------------------------ encoding

    def _encode(self, x: Floats, cells: Ints, learned: Learned) -> dict[str, Any]:
        books, turn = learned.arrays["learned_codebooks"], learned.arrays.get("learned_rotation")
        c = learned.centroids[cells]
        r = x - c
        codes = encode(self._cut_queries(r, learned), books)
        back = decode(codes, books)[:, : self._width]
        if self.rotation == "random":
            back = rotate_back_plain(back)[:, : self.dim]
        elif turn is not None:
            back = back @ turn.T
        square, own = _products(r, r), _products(r, back)
        factor = np.divide(square, own, out=np.zeros_like(square), where=own > 1e-3 * square)
        along = factor * _products(c, back)
        if self.metric == "l2":
            terms = np.stack([square + 2 * along, 2 * factor], axis=1)
        else:
            terms = np.stack([along - _products(c, r), factor], axis=1)
        return {"codes": codes if self.bits == 8 else pair(codes), "terms": terms.astype(np.float32)}

    def _pack(self, arrays: dict[str, Any], order: NDArray[np.int32], count: int) -> dict[str, Any]:
        if self.bits == 8 or plain_kernels():
            return super()._pack(arrays, order, count)
        from ..kernels import pq

        blocks = aligned((len(order) // BLOCK, -(-self.M // 4), 64), np.uint8)
        pq.pack(arrays["codes"], order, blocks)
        terms = aligned((len(order) // BLOCK, 2, BLOCK))
        terms[:] = np.where(order >= 0, arrays["terms"][order].T, 0).reshape(2, -1, BLOCK).swapaxes(0, 1)
        return {"blocks": blocks, "block_terms": terms}

    def _faults(self, learned: Learned) -> list[str]:
        return [] if np.isfinite(self._view["terms"]).all() else ["a correction of a code is not a finite number"]

    # ------------------------------------------------------------------ searching

    def _answer(self, view: View, x: Floats, k: int, ef: int | None, nprobe: int | None) -> tuple[Floats, Ints] | None:
        if len(x) > QUERIES_PER_JOB or not self._compiled(view):
            return None
        wide = min(max(ef or self.ef, k), view.count - view.gone)
        return self._engine(view).answer(x, self._breadth(view.facts["learned"], nprobe), wide, k)

    def _compiled(self, view: View) -> bool:
        """Whether one kernel searches this view."""
        return self.bits == 4 and "learned" in view.facts and not plain_kernels()

    def _engine(self, view: View) -> Engine:
        """What searches a view; the last one is kept, for the next search."""
        held = self._last_engine
        if held is None or held.view is not view:
            shifts, most = self._shifts(view.facts["learned"]), largest_byte(self.M)
            held = self._last_engine = Engine(view, self._codec, self.metric, self.rotation, most, shifts)
        return held

    def _near(
        self, view: View, queries: Floats, nprobe: int, ef: int, k: int, mask: NDArray[np.bool_], tail: Ints
    ) -> tuple[Floats, Ints]:
        if self._compiled(view):
            return self._engine(view).search(queries, nprobe, ef, k, mask, tail)
        return super()._near(view, self._ready(queries), nprobe, ef, k, mask, tail)

    def _scan(self, view: View, queries: Floats, k: int, which: Ints | None) -> tuple[Floats, Ints]:
        return super()._scan(view, self._ready(queries), k, which)

    def _ready(self, queries: Floats) -> Floats:
        return unit_rows(queries) if self.metric == "cosine" else queries

    def _prepare(self, x: ArrayLike, name: str) -> Floats:
        """As in every index, but queries become of length one later, in the kernel where there is one."""
        if name == "queries" and self.metric == "cosine":
            return as_vectors(x, self.dim, name=name)
        return super()._prepare(x, name)

    def _candidates(self, scope: Scope) -> Ints | None:
        learned, lists = scope.learned, scope.lists
        books, keep = learned.arrays["learned_codebooks"], scope.ef
        bases = -scope.products
        if self.metric == "l2":
            square = np.square(scope.queries, dtype=np.float64).sum(axis=1)[:, None]
            shifts = self._shifts(learned)[scope.cells].astype(np.float64)
            bases = (square + 2 * (shifts - scope.products)).astype(np.float32)
        queries = self._cut_queries(scope.queries, learned)
        if plain_kernels():
            return self._candidates_plain(scope, tables_plain(queries, books), bases)
        from ..kernels import pq

        exact = np.empty((len(queries), self.M, 2**self.bits), np.float32)
        pq.tables(queries, books, exact)
        out = np.empty((len(queries), keep), np.int64)
        where = lists.order, lists.starts, scope.mask, scope.cells, bases
        pq.table_scan(lists.packed["codes"], lists.packed["terms"], *where, exact, keep, out)
        return out

    def _candidates_plain(self, scope: Scope, exact: Floats, bases: Floats) -> Ints:
        """The slow twin of `kernels.ivf_pq.scan_lists` and `kernels.pq.table_scan`."""
        codes, terms = scope.lists.packed["codes"], scope.lists.packed["terms"]
        if self.bits == 4:
            codes = apart(codes, self.M)
        small, scales, offsets = quantize_plain(exact, largest_byte(self.M))
        list_of = np.repeat(np.arange(len(scope.lists.starts) - 1), np.diff(scope.lists.starts))
        cell = np.full(scope.lists.count, -1)
        cell[scope.lists.order[scope.lists.order >= 0]] = list_of[scope.lists.order >= 0]

        def estimates(q: int, rows: Ints) -> Floats:
            base = np.zeros(len(scope.lists.starts), np.float32)
            base[scope.cells[q]] = bases[q]
            which = np.arange(self.M), codes[rows]
            if self.bits == 8:
                products = exact[q][which].sum(axis=1, dtype=np.float32)
            else:
                sums = small[q][which].sum(axis=1, dtype=np.int64)
                products = scales[q] * sums.astype(np.float32) + offsets[q]
            return base[cell[rows]] + (terms[rows, 0] + terms[rows, 1] * products)

        return best_plain(scope, scope.ef, estimates)


class PQIndex(IVFPQIndex):
    """One list: every code is scanned. The centroid is the mean. Other settings as for IVFPQIndex."""

    kind: ClassVar[str] = "pq-index"

    def __init__(self, dim: int, metric: str = "cosine", *, nlist: int | None = 1, **settings: Any):
        if nlist != 1:
            raise InputError("a PQIndex has one list: use IVFPQIndex")
        super().__init__(dim, metric, 1, **settings)


def largest_byte(M: int) -> int:
    """Of a table: M of them must fit in 16 bits."""
    return min(255, 65535 // M)


def learn_codebooks(
    x: Floats, M: int, bits: int, rounds: int, rng: np.random.Generator, books: Floats | None = None
) -> Floats:
    """Codebooks [M, G, d, 16], G groups of sixteen codewords, by Lloyd's algorithm in every sub-space of x [n, M d].

    books: where to begin; by default at random rows.
    """
    groups, part = 2**bits // 16, x.shape[1] // M
    if books is None:
        rows = rng.choice(len(x), 16 * groups, replace=len(x) < 16 * groups)
        books = x[rows].reshape(groups, 16, M, part).transpose(2, 0, 3, 1)
    words = np.ascontiguousarray(books.transpose(0, 1, 3, 2)).reshape(M, 16 * groups, part)
    parts = x.reshape(len(x), M, part)
    for _ in range(rounds):
        codes = encode(x, _books(words, groups))
        for m in range(M):
            counts = np.bincount(codes[:, m], minlength=16 * groups)
            held = counts > 0  # a codeword that nobody is nearest to stays
            for j in range(part):
                sums = np.bincount(codes[:, m], weights=parts[:, m, j], minlength=16 * groups)
                words[m, held, j] = (sums[held] / counts[held]).astype(np.float32)
    return _books(words, groups)


def _books(words: Floats, groups: int) -> Floats:
    """[M, 16 G, d] -> [M, G, d, 16], as kernels read them."""
    M, _, part = words.shape
    return np.ascontiguousarray(words.reshape(M, groups, 16, part).transpose(0, 1, 3, 2))


def encode(x: Floats, books: Floats) -> NDArray[np.uint8]:
    """The nearest codeword in each sub-space: x [n, M d] -> [n, M]."""
    if plain_kernels():
        return encode_plain(x, books)
    from ..kernels import pq

    out = np.empty((len(x), len(books)), np.uint8)
    pq.encode(np.ascontiguousarray(x), books, 0, len(x), out)
    return out


def encode_plain(x: Floats, books: Floats) -> NDArray[np.uint8]:
    """The twin of the kernel, bit for bit: squares are added one coordinate after the other."""
    M, _, part, _ = books.shape
    out = np.empty((len(x), M), np.uint8)
    for m in range(M):
        words = books[m].transpose(0, 2, 1).reshape(-1, part)
        total = np.zeros((len(x), len(words)), np.float32)
        for j in range(part):
            total = np.square(x[:, m * part + j, None] - words[:, j]) + total
        out[:, m] = total.argmin(axis=1)
    return out


def decode(codes: NDArray[np.uint8], books: Floats) -> Floats:
    """What codes [n, M] stand for, [n, M d]."""
    M, _, part, _ = books.shape
    words = books.transpose(0, 1, 3, 2).reshape(M, -1, part)
    return words[np.arange(M), codes].reshape(len(codes), M * part)


def tables_plain(queries: Floats, books: Floats) -> Floats:
    """Minus the products of queries [Q, M d] with all codewords: [Q, M, 16 G]."""
    M, groups, part, _ = books.shape
    q = queries.reshape(len(queries), M, part)
    return -np.einsum("qmd,mgdj->qmgj", q, books).reshape(len(queries), M, 16 * groups)


def quantize_plain(exact: Floats, most: int) -> tuple[NDArray[np.uint8], Floats, Floats]:
    """The twin of `kernels.pq.quantize_row`: (bytes [Q, M, 16], scales [Q], offsets [Q])."""
    least = exact.min(axis=2, keepdims=True)
    widest = (exact.max(axis=2, keepdims=True) - least).max(axis=1, keepdims=True)
    inverse = np.float32(most) / np.maximum(widest, np.float32(1e-30))
    total = np.cumsum(least[:, :, 0].astype(np.float64), axis=1)[:, -1].astype(np.float32)
    return np.rint((exact - least) * inverse).astype(np.uint8), widest[:, 0, 0] / np.float32(most), total


def pair(codes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Codes below 16 [n, M] -> [n, ceil(M / 2)], the even ones in the low halves."""
    even, odd = codes[:, ::2], np.zeros((len(codes), -(-codes.shape[1] // 2)), np.uint8)
    odd[:, : codes.shape[1] // 2] = codes[:, 1::2]
    return even | odd << 4


def apart(codes: NDArray[np.uint8], M: int) -> NDArray[np.uint8]:
    """The inverse of `pair`."""
    return np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), 2 * codes.shape[1])[:, :M]


def _products(x: Any, y: Any) -> NDArray[np.float64]:
    """Inner products of rows."""
    return (x.astype(np.float64) * y).sum(axis=1)
