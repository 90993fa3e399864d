"""Which input channel of a matrix stays float when the matrix becomes bytes: the one that is largest on a few tokens.

Some channels of a trained transformer are tens of times larger than the rest, on nearly every token and whatever the
text says, so a handful of tokens finds them. A model is run once, verb by verb, on matrices that are still `Unpacked`;
each becomes bytes when its first input is seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Unpacked:
    """A stored weight [N, K] that will become bytes; `channel`: the one to leave out, if that is known already."""

    stored: NDArray
    channel: int | None = None
    packed: Any = None


class Packing:
    """The verbs of an interpreter, taking `Unpacked` matrices and packing them on the way."""

    def __init__(self, ops: Any):
        self._ops = ops

    def __getattr__(self, name: str) -> Any:
        verb = getattr(self._ops, name)

        def run(x: Any, *args: Any, **options: Any) -> Any:
            return verb(x, *(self._pack(a, x) if isinstance(a, Unpacked) else a for a in args), **options)

        return run

    def _pack(self, w: Unpacked, x: NDArray) -> Any:
        if w.packed is None:
            if w.channel is None:
                w.channel = int(np.abs(x).max(axis=0).argmax())
            w.packed = self._ops.matrix8(w.stored, w.channel)
        return w.packed
