"""Smaller output vectors: float32 [N, C] as bytes or bits, for indexes that hold many.

int8 and uint8 cut a range of each dimension into 255 steps; binary and ubinary keep the signs, eight to a byte. Codes
saturate and never wrap, and a vector's codes depend on that vector and the ranges alone, not on its batch.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..shapes import Floats, as_vectors

Precision = Literal["float32", "int8", "uint8", "binary", "ubinary"]
PRECISIONS = ("float32", "int8", "uint8", "binary", "ubinary")


def calibrate(vectors: ArrayLike) -> Floats:
    """Ranges [2, C]: the smallest and largest value of each dimension among sample vectors [N, C]."""
    x = as_vectors(vectors, name="the calibration vectors")
    if len(x) < 2:
        raise InputError(f"calibration needs at least 2 vectors, better 1,000, not {len(x)}")
    return np.stack([x.min(axis=0), x.max(axis=0)])


def usual_ranges(dim: int) -> Floats:
    """Ranges [2, C] for unit vectors without calibration: a coordinate of a random one is within 4.5 / sqrt(C)."""
    limit = np.float32(min(1.0, 4.5 / math.sqrt(dim)))
    return np.repeat(np.array([[-limit], [limit]], np.float32), dim, axis=1)


def quantize_embeddings(
    embeddings: ArrayLike,
    precision: Precision,
    ranges: ArrayLike | None = None,
    calibration_embeddings: ArrayLike | None = None,
) -> NDArray:
    """Vectors [N, C] as codes: int8 or uint8 [N, C], binary (int8) or ubinary (uint8) [N, C / 8].

    ranges [2, C], or vectors to take them from; by default those of unit vectors in general. Values beyond the ranges
    saturate. Raises InputError.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision {precision!r} is not one of {list(PRECISIONS)}")
    x = as_vectors(embeddings, name="the embeddings")
    if precision == "float32":
        return x
    if precision in ("binary", "ubinary"):
        if x.shape[1] % 8:
            raise InputError(f"binary codes need a multiple of 8 dimensions, not {x.shape[1]}")
        bits = np.packbits(x > 0, axis=1)
        return bits if precision == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
    if ranges is None:
        ranges = usual_ranges(x.shape[1]) if calibration_embeddings is None else calibrate(calibration_embeddings)
    ends = as_vectors(ranges, x.shape[1], name="the ranges")
    if len(ends) != 2 or (ends[0] > ends[1]).any():
        raise InputError(f"the ranges must be the smallest and the largest values, [2, {x.shape[1]}]: see `calibrate`")
    low, high = ends.astype(np.float64)
    step = ((high - low) / 255).astype(np.float32)
    with np.errstate(over="ignore"):
        codes = np.clip(np.rint((x - ends[0]) / np.where(step > 1e-38, step, np.float32(1))), 0, 255)
    return codes.astype(np.uint8) if precision == "uint8" else (codes - 128).astype(np.int8)
