"""The kernel of `minibi.kernels.ivf_pq`, bound to the arrays of one moment of an index of 4-bit product codes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..shapes import Floats, Ints, writeable
from .codes import Codes, Floating, signs
from .contract import View
from .lists import panels_of


class Engine:
    """Searches one view; made once for it, since each array that is handed to a kernel has its price."""

    def __init__(self, view: View, codec: Floating | Codes, metric: str, rotation: str, most: int, shifts: Floats):
        """codec: of the vectors as stored; rotation: of residuals; most: the largest byte of a table; shifts: what is
        taken off from products with centroids."""
        from ..kernels import distance, ivf_pq

        learned, lists = view.facts["learned"], view.facts["lists"]
        panels, bias = panels_of(learned, "panels", learned.centroids.T, -shifts)
        books = np.ascontiguousarray(learned.arrays["learned_codebooks"])
        m, _, part, _ = books.shape
        turn, turns, zeros, turned = ivf_pq.UNTURNED, None, None, 0
        if rotation == "random":
            turned = Codes("int8", codec.dim).width
            turn, turns = ivf_pq.RANDOM, signs(turned)
        elif rotation == "opq":
            turns, zeros = panels_of(learned, "rotation", learned.arrays["learned_rotation"])
            turn, turned = ivf_pq.LEARNED, len(zeros)
        own = signs(codec.width) if isinstance(codec, Codes) else None
        rows, packed = view["vectors"].view(np.uint8), lists.packed
        self._held: list[Any] = []  # arrays whose addresses are in `_numbers`

        def at(array: Any) -> int:
            self._held.append(array)
            return 0 if array is None else array.ctypes.data

        numbers = {
            ivf_pq.DIM: codec.dim, ivf_pq.UNIT: metric == "cosine",
            ivf_pq.METRIC: distance.SQUARED_L2 if metric == "l2" else distance.DOT,
            ivf_pq.KIND: codec.kind, ivf_pq.WIDTH: codec.width, ivf_pq.SIGNS: at(own), ivf_pq.ROWS: at(rows),
            ivf_pq.STRIDE: codec.stride, ivf_pq.PANELS: at(panels), ivf_pq.BIAS: at(bias), ivf_pq.SCORES: len(bias),
            ivf_pq.NLIST: len(shifts), ivf_pq.SHIFTS: at(shifts), ivf_pq.TURN: turn, ivf_pq.TURNS: at(turns),
            ivf_pq.TURNED: turned, ivf_pq.ZEROS: at(zeros), ivf_pq.BOOKS: at(books), ivf_pq.M: m, ivf_pq.PART: part,
            ivf_pq.MOST: most, ivf_pq.BLOCKS: at(packed["blocks"]), ivf_pq.TERMS: at(packed["block_terms"]),
            ivf_pq.ORDER: at(lists.order), ivf_pq.STARTS: at(lists.starts),
        }  # fmt: skip
        self._numbers = np.array([numbers[place] for place in range(len(numbers))], np.int64)
        self._search, self.view = ivf_pq.search, view
        self._ids, self._live = writeable(view["ids"]), view["live"]
        self._tail = lists.count + np.flatnonzero(self._live[lists.count :])

    def search(
        self, x: Floats, nprobe: int, ef: int, k: int, mask: NDArray[np.bool_], tail: Ints
    ) -> tuple[Floats, Ints]:
        """Distances and rows [Q, k] among those of `mask`, row -1 where none was found."""
        out, found = np.empty((len(x), k), np.float32), np.empty((len(x), k), np.int64)
        self._search(self._numbers, writeable(x), self._ids, mask, tail, nprobe, ef, False, out, found)
        return out, found

    def answer(self, x: Floats, nprobe: int, ef: int, k: int) -> tuple[Floats, Ints] | None:
        """Scores and ids [Q, k] of the nearest of all live rows; None if fewer were found, or a query is not finite or
        so long that it has to be looked at more closely."""
        out, found = np.empty((len(x), k), np.float32), np.empty((len(x), k), np.int64)
        x, live = writeable(x), self._live
        fine = self._search(self._numbers, x, self._ids, live, self._tail, nprobe, ef, True, out, found)
        return (out, found) if fine else None
