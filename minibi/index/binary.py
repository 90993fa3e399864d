"""BinaryIndex: one bit per coordinate, the sign of the rotated vector; nearness by counting bits that differ.

The share of differing bits grows with the angle (Charikar 2002), measured around the mean of the vectors, which is
learned: without it, vectors that lie to one side would share most of their signs. The best `ef` are ordered by the
vectors as stored.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..environment import plain_kernels
from ..shapes import Floats, Ints
from .codes import Codes
from .contract import whole
from .ivf import IVFIndex
from .lists import Learned, Scope, best_plain, visits


class BinaryIndex(IVFIndex):
    """Signs in one list, by default, or in `nlist`.

    dim, metric, store, train_size, nprobe, seed: as for IVFIndex. `search` takes `ef`, the candidates kept (default
    `index.ef`, 100).
    """

    kind: ClassVar[str] = "binary-index"

    def __init__(
        self,
        dim: int,
        metric: str = "cosine",
        nlist: int | None = 1,
        *,
        store: str = "float32",
        train_size: int | None = None,
        nprobe: int | None = None,
        seed: int = 0,
        fingerprint: str = "",
    ):
        self._turn = Codes("int8", whole("dim", dim, 1))
        super().__init__(
            dim, metric, nlist, store=store, train_size=train_size, nprobe=nprobe, seed=seed, fingerprint=fingerprint
        )

    def _code_columns(self) -> dict[str, tuple[Any, tuple[int, ...], Any]]:
        return {"codes": (np.uint8, (self._turn.width // 8,), 0)}

    def _settings(self) -> dict[str, Any]:
        return {}

    def _learned_shapes(self) -> dict[str, tuple[int, ...]]:
        return {"learned_centre": (self.dim,)}

    def _learn(self, x: Floats, centroids: Floats, cells: Ints) -> dict[str, Any]:
        return {"learned_centre": x.mean(axis=0, dtype=np.float64).astype(np.float32)}

    def _encode(self, x: Floats, cells: Ints, learned: Learned) -> dict[str, Any]:
        return {"codes": self._signs(x, learned)}

    def _signs(self, x: Floats, learned: Learned) -> NDArray[np.uint8]:
        return np.packbits(self._turn.rotate(x - learned.arrays["learned_centre"]) > 0, axis=1, bitorder="little")

    def _faults(self, learned: Learned) -> list[str]:
        return []

    def _candidates(self, scope: Scope) -> Ints | None:
        queries, codes = self._signs(scope.queries, scope.learned), scope.lists.packed["codes"]
        if plain_kernels():

            def estimates(q: int, rows: Ints) -> Ints:
                return np.bitwise_count(codes[rows] ^ queries[q]).sum(axis=1, dtype=np.int64)

            return best_plain(scope, scope.ef, estimates)
        from ..kernels import bits

        out, lists = np.empty((len(queries), scope.ef), np.int64), scope.lists
        where = lists.order, lists.starts, scope.mask, scope.cells, *visits(scope.cells)
        bits.hamming_search(*where, codes, queries, scope.ef, out)
        return out
