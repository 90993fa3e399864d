"""Texts as sets of token vectors, packed end to end, and MaxSim, the score of late interaction, in NumPy.

A `Ragged` of B texts holds `vectors` [T, D] and `starts` [B+1]: text i owns vectors[starts[i]:starts[i+1]]. There is no
padding, so none can win a maximum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from .errors import InputError
from .shapes import Floats, Ints, as_vectors


@dataclass(frozen=True)
class Ragged:
    """B matrices of D columns, one after the other. `ragged[i]` is matrix i, [its tokens, D]."""

    vectors: Floats  # [T, D]
    starts: Ints  # [B+1], from 0 to T

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> Floats:
        if not -len(self) <= i < len(self):
            raise IndexError(f"there are {len(self)} texts, no number {i}")
        i %= len(self)
        return self.vectors[self.starts[i] : self.starts[i + 1]]

    def __iter__(self) -> Iterator[Floats]:
        return (self.vectors[a:b] for a, b in pairwise(self.starts.tolist()))

    @property
    def lengths(self) -> Ints:
        """Tokens of each text [B]."""
        return np.diff(self.starts)

    @property
    def dim(self) -> int:
        return self.vectors.shape[1]


def pack_rows(matrices: Sequence[Floats], dim: int) -> Ragged:
    """Matrices [_, D] end to end."""
    starts = np.zeros(len(matrices) + 1, np.int64)
    np.cumsum([len(m) for m in matrices], out=starts[1:])
    return Ragged(np.concatenate([np.zeros((0, dim), np.float32), *matrices]), starts)


def as_ragged(x: Any, dim: int | None = None, *, name: str = "token vectors") -> Ragged:
    """`x` checked: a Ragged, one matrix [T, D], an array [B, T, D], or a list of matrices, which may be empty.

    dim: the width required; it must be given where `x` may hold no text at all. Raises InputError.
    """
    if isinstance(x, Ragged):
        vectors, starts = as_vectors(x.vectors, dim, name=name), np.asarray(x.starts)
        if starts.ndim != 1 or not starts.size or starts.dtype.kind not in "iu":
            raise InputError(f"the starts of {name} must be a list of whole numbers that begins with 0")
        starts = starts.astype(np.int64)
        if starts[0] != 0 or starts[-1] != len(vectors) or (np.diff(starts) < 0).any():
            raise InputError(f"the starts of {name} must rise from 0 to their number, {len(vectors)}")
        return Ragged(vectors, starts)
    if isinstance(x, np.ndarray) and x.ndim == 2:
        x = [x]
    elif isinstance(x, str) or not isinstance(x, (Sequence, np.ndarray)):
        raise InputError(f"{name} must be a list of matrices [tokens, {dim or 'dim'}], not {type(x).__name__}")
    matrices = []
    for i, one in enumerate(x):
        if np.ndim(one) != 2 and np.size(one):
            raise InputError(f"{name} number {i} must be a matrix [tokens, {dim or 'dim'}], one row for each token")
        if np.size(one) == 0:
            one = np.zeros((0, dim or np.shape(one)[-1]), np.float32)
        matrices.append(as_vectors(one, dim, name=f"{name} number {i}"))
        dim = matrices[-1].shape[1]
    if dim is None:
        raise InputError(f"{name} are empty, and nothing says how wide they would be: pass at least one matrix")
    return pack_rows(matrices, dim)


def maxsim(query: ArrayLike, documents: Ragged) -> Floats:
    """Scores [B]: for each query token its largest inner product with a token of the document, summed.

    Khattab & Zaharia 2020, equation 3. query [S, D]. A document without tokens scores -inf: it can match nothing. The
    sum runs in float64. `minibi.kernels.maxsim` does the same.
    """
    scores = np.full(len(documents), -np.inf, np.float32)
    whole = np.flatnonzero(documents.lengths)
    if len(whole):
        products = documents.vectors @ np.asarray(query, np.float32).T  # (T, D) -> (T, S)
        best = np.maximum.reduceat(products, documents.starts[:-1][whole], axis=0)  # (T, S) -> (B, S)
        scores[whole] = best.sum(axis=1, dtype=np.float64)
    return scores
