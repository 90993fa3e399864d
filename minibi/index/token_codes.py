"""How a multi-vector index keeps token vectors: float32, float16, bytes, or residuals of centroids.

Each way has columns with a row for every token, turns vectors [T, D] into such rows and back, each token by itself, and
scores stored documents against a query with a kernel. `score_plain` is the twin of all these kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ..environment import plain_kernels
from ..errors import InputError
from ..ragged import Ragged, maxsim
from ..shapes import Floats, Ints
from .residual import LANES, ResidualCodec

Storage = Literal["float32", "float16", "int8", "residual"]
STORAGES = ("float32", "float16", "int8", "residual")
Columns = Mapping[str, NDArray]
Scorer = Callable[[Columns, Ints, Ints], Floats]  # (columns, starts [n], lengths [n]) -> scores [n]


class TokenCodes(Protocol):
    """One way of keeping token vectors."""

    dim: int

    def columns(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """name -> (dtype, shape of a row)."""
        ...

    def encode(self, vectors: Floats) -> dict[str, NDArray]: ...

    def decode(self, columns: Columns) -> Floats: ...

    def scorer(self, query: Floats) -> Scorer:
        """A function that scores stored documents by MaxSim with query [S, D], -inf where a document is empty."""
        ...


def score_plain(codes: TokenCodes, query: Floats, columns: Columns, starts: Ints, lengths: Ints) -> Floats:
    """The slow twin of the kernels that score: decode, then MaxSim in NumPy."""
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    rows = np.repeat(starts - bounds[:-1], lengths) + np.arange(bounds[-1])
    return maxsim(query, Ragged(codes.decode({name: a[rows] for name, a in columns.items()}), bounds))


class Floating:
    """float32, or float16 rounded to nearest; padded with zeros to a multiple of 16 numbers."""

    def __init__(self, dim: int, halves: bool = False):
        self.dim, self.width = dim, -(-dim // LANES) * LANES
        self.dtype = np.float16 if halves else np.float32

    def columns(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        return {"vectors": (self.dtype, (self.width,))}

    def encode(self, vectors: Floats) -> dict[str, NDArray]:
        if self.dtype is np.float16 and vectors.size and np.abs(vectors).max() > 65504:
            raise InputError("float16 holds numbers up to 65504: scale the vectors down or keep them as float32")
        out = np.zeros((len(vectors), self.width), self.dtype)
        out[:, : self.dim] = vectors
        return {"vectors": out}

    def decode(self, columns: Columns) -> Floats:
        return columns["vectors"][:, : self.dim].astype(np.float32)

    def scorer(self, query: Floats) -> Scorer:
        if plain_kernels():
            return lambda *stored: score_plain(self, query, *stored)
        from ..kernels import maxsim as kernels

        panels = kernels.pack_query(_widened(query, self.width))

        def score(columns: Columns, starts: Ints, lengths: Ints) -> Floats:
            out = np.empty(len(starts), np.float32)
            if self.dtype is np.float16:
                kernels.score_halves(columns["vectors"].view(np.uint16), starts, lengths, panels, len(query), out)
            else:
                kernels.score_floats(columns["vectors"], starts, lengths, panels, len(query), out)
            return out

        return score


class ByteCodes:
    """A signed byte per dimension, raised by 128, and a scale per token: its largest magnitude is 127."""

    def __init__(self, dim: int):
        self.dim, self.width = dim, -(-dim // LANES) * LANES

    def columns(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        return {"codes": (np.uint8, (self.width,)), "scales": (np.float32, ())}

    def encode(self, vectors: Floats) -> dict[str, NDArray]:
        signed, scales = quantize_tokens(vectors)
        codes = np.full((len(vectors), self.width), 128, np.uint8)
        codes[:, : self.dim] = signed.view(np.uint8) ^ 128
        return {"codes": codes, "scales": scales}

    def decode(self, columns: Columns) -> Floats:
        return (columns["codes"][:, : self.dim].astype(np.float32) - 128) * columns["scales"][:, None]

    def scorer(self, query: Floats) -> Scorer:
        signed, scales = quantize_tokens(query)  # the query too
        if plain_kernels():
            rounded = signed * scales[:, None]
            return lambda *stored: score_plain(self, rounded, *stored)
        from ..kernels import maxsim as kernels

        packed = kernels.pack_query8(_widened(signed, self.width))

        def score(columns: Columns, starts: Ints, lengths: Ints) -> Floats:
            out = np.empty(len(starts), np.float32)
            kernels.score_bytes(columns["codes"], columns["scales"], starts, lengths, *packed, scales, out)
            return out

        return score


class Residuals:
    """A centroid's number and a residual: see `minibi.index.residual`."""

    def __init__(self, codec: ResidualCodec):
        self.dim, self.codec = codec.dim, codec

    def columns(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        return {"cells": (self.codec.cell_dtype, ()), "codes": (np.uint8, (self.codec.code_size,))}

    def encode(self, vectors: Floats) -> dict[str, NDArray]:
        return dict(zip(("cells", "codes"), self.codec.encode(vectors), strict=True))

    def decode(self, columns: Columns) -> Floats:
        return self.codec.decode(columns["cells"], columns["codes"])

    def scorer(self, query: Floats) -> Scorer:
        if plain_kernels():
            return lambda *stored: score_plain(self, query, *stored)
        from ..kernels import maxsim, residual

        codec = self.codec
        panels = maxsim.pack_query(_widened(query, codec.padded.shape[1]))

        def score(columns: Columns, starts: Ints, lengths: Ints) -> Floats:
            out = np.empty(len(starts), np.float32)
            residual.score(
                columns["cells"], columns["codes"], codec.padded, codec.weights, codec.dim, codec.unit,
                starts, lengths, panels, len(query), out,
            )  # fmt: skip
            return out

        return score

    def cell_scorer(self, query: Floats) -> tuple[Floats, Scorer]:
        """(products of query tokens and centroids [K, S], a scorer that takes tokens for their centroids)."""
        products = self.codec.centroids @ query.T  # (K, S)
        if plain_kernels():

            def plain(columns: Columns, starts: Ints, lengths: Ints) -> Floats:
                out = np.full(len(starts), -np.inf, np.float32)
                for i, (a, n) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
                    if n:
                        out[i] = products[columns["cells"][a : a + n]].max(axis=0).sum(dtype=np.float64)
                return out

            return products, plain
        from ..kernels import residual

        padded = _widened(products, -(-len(query) // LANES) * LANES)

        def score(columns: Columns, starts: Ints, lengths: Ints) -> Floats:
            out = np.empty(len(starts), np.float32)
            residual.score_cells(columns["cells"], padded, starts, lengths, len(query), out)
            return out

        return products, score


def quantize_tokens(x: Floats) -> tuple[NDArray[np.int8], Floats]:
    """Rows [T, D] -> (signed bytes [T, D], scales [T]): x ~ scale byte, a row's largest magnitude becomes 127."""
    top = np.abs(x).max(axis=1, initial=0)
    scales = np.where(top > 1e-35, top / np.float32(127), np.float32(1)).astype(np.float32)
    return np.rint(x / scales[:, None]).astype(np.int8), scales


def _widened(x: NDArray, width: int) -> NDArray:
    return np.ascontiguousarray(x if x.shape[1] == width else np.pad(x, ((0, 0), (0, width - x.shape[1]))))
