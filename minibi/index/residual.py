"""ResidualCodec: a vector as its nearest centroid and, in 1, 2 or 4 bits per dimension, what is missing to it.

Santhanam et al. 2022 (ColBERTv2, section 3.3). A residual's number is replaced by one of 2^nbits weights, the same for
all dimensions, chosen to make the squared error least (Lloyd 1982, Max 1960) instead of at fixed quantiles. 128
dimensions at 2 bits take 34 bytes instead of 512.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ..environment import plain_kernels
from ..errors import InputError
from ..shapes import Floats, unit_rows
from .kmeans import assign, kmeans

LANES = 16
SAMPLE = 1 << 20  # residual numbers from which the weights are learned
ROWS_PER_CENTROID = 64  # more do not make better centroids
ROWS_PER_STEP = 4096
NBITS = (1, 2, 4)


@dataclass(frozen=True, eq=False)
class ResidualCodec:
    """centroids [K, D]; weights [2^nbits], rising: what a code stands for; unit: vectors have length one."""

    centroids: Floats
    weights: Floats
    unit: bool = True

    @classmethod
    def train(
        cls,
        vectors: Floats,
        n_centroids: int | None = None,
        nbits: int = 2,
        *,
        unit: bool = True,
        iterations: int = 4,
        seed: int = 0,
        threads: int | None = None,
    ) -> Self:
        """Learns from sample vectors [N, D] (of length one if `unit`).

        n_centroids: by default the largest power of two within 4 sqrt(N) and N / 8. (PLAID has four times as many; they
        make shorter lists and take four times as long to assign.)
        Raises InputError.
        """
        if nbits not in NBITS or isinstance(nbits, bool):
            raise InputError(f"nbits must be one of {list(NBITS)}, not {nbits!r}")
        if not len(vectors):
            raise InputError("a residual codec must be trained on at least one vector")
        if n_centroids is None:
            n_centroids = 2 ** int(math.log2(max(1, min(4 * math.sqrt(len(vectors)), len(vectors) / 8))))
        if isinstance(n_centroids, bool) or not isinstance(n_centroids, (int, np.integer)) or n_centroids < 1:
            raise InputError(f"n_centroids must be a whole number of at least 1, not {n_centroids!r}")
        k = min(int(n_centroids), len(vectors))
        rng = np.random.default_rng(seed)
        if len(vectors) > ROWS_PER_CENTROID * k:
            vectors = vectors[np.sort(rng.choice(len(vectors), ROWS_PER_CENTROID * k, replace=False))]
        centroids, cells = kmeans(vectors, k, iterations=iterations, seed=seed, spherical=unit, threads=threads)
        rows = rng.permutation(len(vectors))[: max(1, SAMPLE // vectors.shape[1])]
        residuals = (vectors[rows] - centroids[cells[rows]]).reshape(-1)
        return cls(centroids, least_squares_weights(residuals, 2**nbits), unit)

    @property
    def dim(self) -> int:
        return self.centroids.shape[1]

    @property
    def nbits(self) -> int:
        return len(self.weights).bit_length() - 1

    @property
    def code_size(self) -> int:
        """Bytes of a residual: those of all dimensions, filled up to a multiple of 16."""
        return self.padded.shape[1] * self.nbits // 8

    @property
    def cell_dtype(self) -> type:
        return np.uint16 if len(self.centroids) <= 2**16 else np.uint32

    @cached_property
    def cutoffs(self) -> Floats:
        """[2^nbits - 1]: numbers between two cut-offs get the weight between them, which is the nearest."""
        w = self.weights.astype(np.float64)
        return ((w[1:] + w[:-1]) / 2).astype(np.float32)

    @cached_property
    def table(self) -> Floats:
        """[256, 8 / nbits]: the weights that a byte stands for, the first in its lowest bits."""
        shifts = np.arange(0, 8, self.nbits)
        return np.ascontiguousarray(self.weights[(np.arange(256)[:, None] >> shifts) & (len(self.weights) - 1)])

    @cached_property
    def padded(self) -> Floats:
        """The centroids with zeros up to a multiple of 16 dimensions, as kernels read them."""
        width = -(-self.dim // LANES) * LANES
        return np.pad(self.centroids, ((0, 0), (0, width - self.dim)))

    def encode(self, vectors: Floats, threads: int | None = None) -> tuple[NDArray, NDArray[np.uint8]]:
        """Vectors [T, D] -> (cells [T], codes [T, code_size]); each row by itself."""
        cells = assign(vectors, self.centroids, spherical=self.unit, threads=threads)
        codes = np.empty((len(vectors), self.code_size), np.uint8)
        per_byte = 8 // self.nbits
        for first in range(0, len(vectors), ROWS_PER_STEP):
            rows = slice(first, first + ROWS_PER_STEP)
            residuals = vectors[rows] - self.centroids[cells[rows]]
            numbers = np.zeros((len(residuals), self.code_size * per_byte), np.uint8)
            for cutoff in self.cutoffs:
                numbers[:, : self.dim] += residuals > cutoff
            shifted = numbers.reshape(len(residuals), -1, per_byte) << np.arange(0, 8, self.nbits).astype(np.uint8)
            codes[rows] = np.bitwise_or.reduce(shifted, axis=2)
        return cells.astype(self.cell_dtype), codes

    def decode(self, cells: NDArray, codes: NDArray[np.uint8]) -> Floats:
        """(cells [T], codes [T, code_size]) -> vectors [T, D], of length one if `unit`."""
        if plain_kernels():
            return self.decode_plain(cells, codes)
        from ..kernels import residual

        out = np.empty((len(cells), self.padded.shape[1]), np.float32)
        residual.decode(cells, codes, self.padded, self.weights, self.dim, self.unit, out)
        return np.ascontiguousarray(out[:, : self.dim])

    def decode_plain(self, cells: NDArray, codes: NDArray[np.uint8]) -> Floats:
        """The slow twin of `kernels.residual.decode`."""
        vectors = self.centroids[cells] + self.table[codes].reshape(len(cells), -1)[:, : self.dim]
        return unit_rows(vectors) if self.unit else vectors


def least_squares_weights(x: Floats, count: int, steps: int = 30) -> Floats:
    """`count` numbers, rising, such that replacing each of x [N] by the nearest costs little in squares.

    Begins at quantiles, then alternates between nearest numbers and means.
    """
    ordered = np.sort(x.astype(np.float64))
    weights = np.quantile(ordered, (np.arange(count) + 0.5) / count)
    sums = np.concatenate([[0], np.cumsum(ordered)])
    for _ in range(steps):
        bounds = np.searchsorted(ordered, (weights[1:] + weights[:-1]) / 2)
        first, last = np.concatenate([[0], bounds]), np.concatenate([bounds, [len(ordered)]])
        means = (sums[last] - sums[first]) / np.maximum(last - first, 1)
        weights = np.sort(np.where(last > first, means, weights))
    return weights.astype(np.float32)
