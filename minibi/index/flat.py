"""FlatIndex: compare the query with every stored vector. Exact, nothing to tune; up to some 100,000 vectors fast."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from ..environment import plain_kernels
from ..errors import InputError
from ..shapes import Floats, Ints
from ..threads import parallel_map
from .codes import Codes, Floating
from .contract import Index, View
from .sieve import Sieve, Stored

QUERIES_PER_JOB = 32
PAYS, MOST = 64, 8192  # numbers in a vector from which on, and up to which, a second form is kept by default


class FlatIndex(Index):
    """Exact search.

    dim: width of the vectors; metric: "cosine", "ip" or "l2"; store: how they are kept, "float32", "float16", "int8" or
    "int4" (then scores are those of what is kept). See `minibi.index.contract`.

    codes: "int8" keeps a second form of each vector in memory, dim + 16 bytes, by which most need not be compared
    (`minibi.index.sieve`): the same scores and ids, bit for bit, several times sooner, for a quarter more memory. None
    keeps none. "auto" is "int8" for floats in vectors of 64 to 8,192 numbers. Files do not hold them.
    """

    kind: ClassVar[str] = "flat-index"
    scanned = 64  # rows for each neighbour asked for, at least ten, up to which all are compared

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        *,
        store: str = "float32",
        codes: str | None = "auto",
        fingerprint: str = "",
    ):
        self._sieve: Sieve | None = None
        super().__init__(dim, metric, store=store, fingerprint=fingerprint)
        self.codes = codes
        self._sift(codes)

    def _sift(self, codes: str | None) -> None:
        """Begins to keep `codes` of the rows there are."""
        if codes not in ("auto", "int8", None):
            raise InputError(f"codes {codes!r} is not one of ['auto', 'int8', None]")
        if isinstance(self._codec, Codes):
            if codes == "int8":
                raise InputError(f"vectors kept as {self.store} are codes already: leave out codes")
        elif codes == "int8" and self.dim > MOST:
            raise InputError(f"codes bound the scores of up to {MOST} numbers, not of {self.dim}: leave out codes")
        elif codes == "int8" or (codes == "auto" and PAYS <= self.dim <= MOST):
            self._sieve = Sieve(self._codec)
            view = self._view
            more = {
                name: np.full((view.count, *s), fill, dtype) for name, (dtype, s, fill) in self._sieve.columns().items()
            }
            self._sieve.fill(self._bytes(view), more, 0)
            self._view = replace(view, arrays=view.arrays | more)

    def _columns(self) -> dict[str, tuple[Any, tuple[int, ...], Any]]:
        return super()._columns() | (self._sieve.columns() if self._sieve else {})

    def _link(self, first: int, last: int) -> None:
        if self._sieve:
            arrays = self._view.arrays
            self._sieve.fill(arrays["vectors"][first:last].view(np.uint8), arrays, first)
        self._publish(last)

    def _answer(self, view: View, x: Floats, k: int, ef: int | None, nprobe: int | None) -> tuple[Floats, Ints] | None:
        """One query among all rows: the sieve in one kernel."""
        if self._sieve is None or len(x) > 1 or view.gone or view.count <= self.scanned * max(k, 10) or plain_kernels():
            return None
        return self._sieve.answer(self._sifted(view, None), x, k)

    def _sifted(self, view: View, which: Ints | None) -> Stored:
        columns = {name: view[name] for name in ("high", "low", "terms")}
        return Stored(columns, self._bytes(view), view["ids"], self.metric, which)

    def _search(
        self, view: View, queries: Floats, k: int, mask: NDArray[np.bool_], live: int, **breadth: int
    ) -> tuple[Floats, Ints]:
        which = np.flatnonzero(mask) if live < view.count else None
        rows, ids = self._bytes(view), view["ids"]
        if self._sieve is None or live <= self.scanned * max(k, 10):
            return scan(self._codec, rows, ids, queries, k, self.metric, which)
        distances, found, settled = self._sieve.scan(self._sifted(view, which), queries, k)
        if not settled.all():
            again = scan(self._codec, rows, ids, queries[~settled], k, self.metric, which)
            distances[~settled], found[~settled] = again
        return distances, found

    def _arrays(self) -> dict[str, Any]:
        derived = self._sieve.columns() if self._sieve else {}
        return {name: array for name, array in super()._arrays().items() if name not in derived}

    def _fields(self) -> dict[str, Any]:
        return super()._fields() | {"codes": self.codes}

    @classmethod
    def _from(cls, arrays: dict[str, Any], fields: dict[str, Any]) -> Self:
        index = super()._from(arrays, {**fields, "codes": None})
        index.codes = fields.get("codes", "auto")
        index._sift(index.codes)
        return index


def scan(
    codec: Floating | Codes, rows: Any, ids: Ints, queries: Floats, k: int, metric: str, which: Ints | None = None
) -> tuple[Floats, Ints]:
    """(distances, rows) [Q, k]: the nearest of all rows, or of `which`, sorted by (distance, id)."""
    encoded = codec.encode_queries(queries)
    if plain_kernels():
        return scan_plain(codec, rows, ids, encoded, k, metric, which)
    from ..kernels import distance

    code = distance.SQUARED_L2 if metric == "l2" else distance.DOT
    chosen = np.zeros(0, np.int64) if which is None else which

    def job(first: int) -> tuple[Floats, Ints]:
        some = encoded[first : first + QUERIES_PER_JOB]
        out = np.empty((len(some), k), np.float32), np.empty((len(some), k), np.int64)
        distance.scan(rows, ids, chosen, which is not None, some, k, codec.kind, code, codec.width, *out)
        return out

    parts = list(parallel_map(job, range(0, len(queries), QUERIES_PER_JOB)))
    distances, found = (np.concatenate(part) for part in zip(*parts, strict=True))
    return distances, found


def scan_plain(
    codec: Floating | Codes, rows: Any, ids: Ints, encoded: Any, k: int, metric: str, which: Ints | None
) -> tuple[Floats, Ints]:
    """The slow twin of `kernels.distance.scan`."""
    which = np.arange(len(rows)) if which is None else which
    distances = np.stack([codec.distances_plain(rows[which], q, metric) for q in encoded])
    order = np.stack([np.lexsort((ids[which], d))[:k] for d in distances])
    return np.take_along_axis(distances, order, axis=1), which[order]
