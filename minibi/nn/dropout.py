"""Dropout that can be replayed (Srivastava et al. 2014): a mask is a hash of (seed, layer, element) and never stored.

The same seed gives the same mask in the forward pass, in the backward pass and in a run that was resumed, whatever the
number of threads. The hash is a counter run through a 32-bit mixer (multiply and shift, twice), once for an
element's row and once more for its column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

Array = Any


def mix(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A bijection of 32 bits in which each bit of the input flips about half of the output's."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


@dataclass(frozen=True)
class Drop:
    """One place where elements are dropped: with probability `rate`, by the hash of `key` and the element."""

    rate: float
    key: int  # 32 bits
    first: int = 0  # the number of the first row: that of a token or text in its batch

    @property
    def threshold(self) -> np.uint32:
        """Elements whose hash is below are dropped."""
        return np.uint32(round(self.rate * 2**32))

    def rows(self, numbers: Array) -> NDArray[np.uint32]:
        """The hashes of rows, by their numbers."""
        return mix(np.asarray(numbers).astype(np.uint32) + np.uint32(self.key))

    def factors(self, numbers: Array, columns: int, dtype: Any) -> Array:
        """0 or 1 / (1 - rate) for the rows of these numbers (an array of any shape [...]): [..., columns]."""
        hashes = mix(self.rows(numbers)[..., None] + np.arange(columns, dtype=np.uint32))
        return (hashes >= self.threshold).astype(dtype) * np.dtype(dtype).type(1 / (1 - self.rate))


def dropped(x: Array, drop: Drop | None) -> Array:
    """x [T, C] with elements dropped and the others scaled up to keep the mean; as it is without a `drop`."""
    return x if drop is None else x * drop.factors(drop.first + np.arange(len(x)), x.shape[1], x.dtype)


@dataclass(frozen=True)
class Dropout:
    """How much is dropped in one pass through a model. seed: whole numbers, such as (run, step).

    begins: where a part of a batch begins in it, for arrays of so many rows: (tokens of the part, tokens before it) and
    (texts of the part, texts before it), so that a batch loses the same elements however it is cut.
    """

    hidden: float = 0.0  # of embeddings and of what each half of a block adds
    attention: float = 0.0  # of attention weights
    seed: tuple[int, ...] = (0,)
    begins: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for name in ("hidden", "attention"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"dropout ({name}) must be at least 0 and below 1, not {getattr(self, name)}")

    def place(self, number: int, rate: float, rows: int = 0) -> Drop | None:
        """The mask of the place of that number in the model, where arrays have so many rows; None: nothing drops."""
        key = np.zeros(1, np.uint32)
        for part in (*self.seed, number):
            for word in (part & 0xFFFFFFFF, part >> 32 & 0xFFFFFFFF):
                key = mix(key + np.uint32(word) + np.uint32(0x9E3779B9))
        return Drop(rate, int(key[0]), dict(self.begins).get(rows, 0)) if rate else None
