"""How an index keeps a vector in bytes: float32, float16, or rotated codes of 8 or 4 bits. See `minibi.kernels.codes`.

    codec = codec_for("int4", dim=384)
    rows = codec.encode(x)              # uint8 [n, stride], a row by itself: no training, nothing to recalibrate
    q = codec.encode_queries(x)         # uint8 [n, query size]
    codec.distances_plain(rows, q[0], "cosine")

The functions ending in `_plain` are the twins of the kernels, bit for bit.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..environment import plain_kernels
from ..errors import InputError
from ..hashing import mixed
from ..shapes import Floats

Bytes = NDArray[np.uint8]
CODES = ("float32", "float16", "int8", "int4")
BLOCK, LANES = 128, 16
STEP = np.float32(0.335)  # of the 16 levels, in units of the vector's root mean square
SEED = 0x6D696E69  # of every rotation: the same in all indexes, so that their codes can be compared


def codec_for(name: str, dim: int) -> Floating | Codes:
    """The codec of a name among CODES. Raises InputError."""
    if name not in CODES:
        raise InputError(f"vectors can be kept as one of {list(CODES)}, not {name!r}")
    return Codes(name, dim) if name.startswith("int") else Floating(name, dim)


class Floating:
    """float32, or float16 rounded to nearest; padded with zeros to a multiple of 16 numbers."""

    def __init__(self, name: str, dim: int):
        self.name, self.dim, self.kind = name, dim, CODES.index(name)
        self.width = -(-dim // LANES) * LANES
        self.dtype = np.dtype(np.float32 if name == "float32" else np.float16)
        self.stride, self.query_size = self.dtype.itemsize * self.width, 4 * self.width

    def encode(self, x: Floats) -> Bytes:
        """x [n, dim] -> uint8 [n, stride], x itself where it can be. Raises InputError where float16 would overflow."""
        if self.width == self.dim and self.dtype == x.dtype and x.flags.c_contiguous:
            return x.view(np.uint8)
        if self.kind and len(x) and np.abs(x).max() > 65504:
            raise InputError("float16 holds numbers up to 65504: scale the vectors down or keep them as float32")
        out = np.zeros((len(x), self.width), self.dtype)
        out[:, : self.dim] = x
        return out.view(np.uint8)

    def encode_queries(self, x: Floats) -> Bytes:
        """x [n, dim] -> uint8 [n, query_size]: float32, padded."""
        if self.width == self.dim:
            return x.view(np.uint8)
        out = np.zeros((len(x), self.width), np.float32)
        out[:, : self.dim] = x
        return out.view(np.uint8)

    def decode(self, rows: Bytes) -> Floats:
        return rows.view(self.dtype)[:, : self.dim].astype(np.float32)

    def sound(self, rows: Bytes) -> str:
        """What is wrong with stored rows, or ""."""
        x = rows.view(self.dtype)
        if not np.isfinite(x).all():
            return "a stored vector is not finite"
        return "the padding of a stored vector is not zero" if x[:, self.dim :].any() else ""

    def query_of_row(self, row: Bytes) -> Bytes:
        return row.view(self.dtype).astype(np.float32).view(np.uint8)

    def slack(self, row: Bytes, query: Bytes, metric: str) -> np.float32:
        """How far off a distance may be: no bound."""
        return np.float32(np.inf)

    def distances_plain(self, rows: Bytes, query: Bytes, metric: str) -> Floats:
        """[n] from rows [n, stride] to one query. Each row is summed by itself, so equal rows have equal distances."""
        x, q = rows.view(self.dtype).astype(np.float32), query.view(np.float32)
        return np.square(x - q).sum(axis=1) if metric == "l2" else -(x * q).sum(axis=1)


class Codes:
    """Rotated codes of 8 or 4 bits with a factor for each vector."""

    def __init__(self, name: str, dim: int):
        self.name, self.dim, self.kind, self.bits = name, dim, CODES.index(name), int(name[3:])
        self.width = -(-dim // BLOCK) * BLOCK
        self._size = self.width * self.bits // 8
        self.stride, self.query_size = self._size + 8, self.width + 16
        self.dtype = np.dtype(np.uint8)

    def encode(self, x: Floats) -> Bytes:
        """x [n, dim] -> uint8 [n, stride]: codes, factor, squared norm."""
        y = self.rotate(x)
        if plain_kernels():
            return self._encode_plain(y)
        from ..kernels import codes

        out = np.empty((len(x), self.stride), np.uint8)
        codes.encode(y, self.kind, out)
        return out

    def encode_queries(self, x: Floats) -> Bytes:
        """x [n, dim] -> uint8 [n, query_size]: signed bytes, their scale and sum, squared norm."""
        y = self.rotate(x)
        if plain_kernels():
            return self._encode_queries_plain(y)
        from ..kernels import codes

        out = np.empty((len(x), self.query_size), np.uint8)
        codes.encode_queries(y, out)
        return out

    def decode(self, rows: Bytes) -> Floats:
        """The vectors [n, dim] that rows stand for, rotated back."""
        y = self._centred(rows) * self._tail(rows)[:, :1]
        return rotate_back_plain(y.astype(np.float32))[:, : self.dim]

    def split(self, rows: Bytes, metric: str) -> tuple[Bytes, Floats]:
        """Rows as two tables: codes alone, which may then fill whole cache lines, and what distances need besides: the
        factor, for "l2" the squared norm too."""
        return rows[:, : self._size], self._tail(rows)[:, : self.tails(metric)]

    def join(self, codes: Bytes, tails: Floats) -> Bytes:
        """The inverse of `split`, with a norm of 0 where there was none."""
        both = np.zeros((len(codes), 2), np.float32)
        both[:, : tails.shape[1]] = tails
        return np.concatenate([codes, both.view(np.uint8)], axis=1)

    @staticmethod
    def tails(metric: str) -> int:
        return 2 if metric == "l2" else 1

    def slack(self, row: Bytes, query: Bytes, metric: str) -> np.float32:
        """How far off the estimate of a distance may be: 3.5 standard errors. See `kernels.walk`."""
        length, factor = np.sqrt(query[self.width :].view(np.float32)[2]), self._tail(row[None])[0, 0]
        return length * np.float32((2 if self.bits == 4 else 1) * (2 if metric == "l2" else 1)) * factor

    def sound(self, rows: Bytes) -> str:
        tail = self._tail(rows)
        return "" if np.isfinite(tail).all() and (tail >= 0).all() else "a code's factor is not a finite number"

    def rotate(self, x: Floats) -> Floats:
        """x [n, dim] -> [n, W] in the coordinates of the codes."""
        y = np.zeros((len(x), self.width), np.float32)
        y[:, : self.dim] = x
        if plain_kernels():
            return rotate_plain(y)
        from ..kernels import codes

        codes.rotate(y, signs(self.width))
        return y

    def _tail(self, rows: Bytes) -> Floats:
        return np.ascontiguousarray(rows[:, self._size :]).view(np.float32)

    def _centred(self, rows: Bytes) -> NDArray[np.int64]:
        """Codes as whole numbers around zero [n, W]: from -128 to 127, or odd from -15 to 15."""
        codes = rows[:, : self._size]
        if self.bits == 8:
            return codes.astype(np.int64) - 128
        blocks = codes.reshape(len(rows), -1, 1, 64)
        both = np.concatenate([blocks & 15, blocks >> 4], axis=2)
        return 2 * both.reshape(len(rows), self.width).astype(np.int64) - 15

    def _encode_plain(self, y: Floats) -> Bytes:
        norm = _squares(y)
        if self.bits == 8:
            inverse = np.float32(127) / np.maximum(np.abs(y).max(axis=1, keepdims=True, initial=0), np.float32(1e-30))
            centred = np.rint(y * inverse).astype(np.int64)
            codes = (centred + 128).astype(np.uint8)
        else:
            step = STEP * np.sqrt(norm / self.width).astype(np.float32)
            inverse = (np.float32(1) / np.maximum(step, np.float32(1e-30)))[:, None]
            level = np.clip(np.floor(y * inverse) + np.float32(8), 0, 15).astype(np.uint8)
            centred = 2 * level.astype(np.int64) - 15
            low, high = level.reshape(len(y), -1, 2, 64).transpose(2, 0, 1, 3)
            codes = (low | high << 4).reshape(len(y), -1)
        agreement = _sums(centred.astype(np.float64) * y)
        factor = np.divide(norm, agreement, out=np.zeros_like(norm), where=agreement > 0)
        tail = np.stack([factor, norm], axis=1).astype(np.float32)
        return np.concatenate([codes, tail.view(np.uint8)], axis=1)

    def _encode_queries_plain(self, y: Floats) -> Bytes:
        top = np.abs(y).max(axis=1, initial=0)
        codes = np.rint(y * (np.float32(127) / np.maximum(top, np.float32(1e-30)))[:, None]).astype(np.int8)
        return self._queries(codes, top / np.float32(127), _squares(y))

    def _queries(self, codes: NDArray[np.int8], scale: Floats, norm: Any) -> Bytes:
        tail = np.zeros((len(codes), 4), np.float32)
        tail[:, 0], tail[:, 2] = scale, norm
        tail[:, 1:2].view(np.int32)[:, 0] = codes.sum(axis=1, dtype=np.int32)
        return np.concatenate([codes.view(np.uint8), tail.view(np.uint8)], axis=1)

    def query_of_row(self, row: Bytes) -> Bytes:
        """A stored row in the form of a query: exactly what it stands for."""
        factor, norm = self._tail(row[None])[0]
        return self._queries(self._centred(row[None]).astype(np.int8), factor, norm)[0]

    def distances_plain(self, rows: Bytes, query: Bytes, metric: str) -> Floats:
        """[n] estimates from rows [n, stride] to one query."""
        q, (scale, _, norm, _) = query[: self.width].view(np.int8), query[self.width :].view(np.float32)
        tail = self._tail(rows)
        product = (self._centred(rows) @ q.astype(np.int64)).astype(np.float32) * tail[:, 0] * scale
        return (tail[:, 1] + norm) - np.float32(2) * product if metric == "l2" else -product


def _sums(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of rows, one number after the other, as the kernel adds them."""
    return np.cumsum(x, axis=1)[:, -1]


def _squares(y: Floats) -> NDArray[np.float64]:
    """Sums of the squares of rows over sixteen lanes, then their tree, as the kernel adds them."""
    wide = y.astype(np.float64).reshape(len(y), -1, LANES)
    lanes = np.cumsum(wide * wide, axis=1)[:, -1]
    while lanes.shape[1] > 1:
        lanes = lanes[:, : lanes.shape[1] // 2] + lanes[:, lanes.shape[1] // 2 :]
    return lanes[:, 0]


@cache
def signs(width: int) -> Floats:
    """[3, W] of +-128^-1/2, by splitmix64 of the position."""
    x = np.arange(3 * width, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(SEED)
    bits = (mixed(x) >> np.uint64(63)).astype(np.float32)
    out = ((1 - 2 * bits) * np.float32(1 / math.sqrt(BLOCK))).astype(np.float32).reshape(3, width)
    out.flags.writeable = False
    return out


def _hadamard(v: Floats) -> Floats:
    """The Walsh-Hadamard transform of the last axis (128), unscaled, in the kernel's order of additions."""
    h = 1
    while h < BLOCK:
        pairs = v.reshape(*v.shape[:-1], -1, 2, h)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        v = np.stack([a + b, a - b], axis=-2).reshape(v.shape)
        h *= 2
    return v


def _near(y: Floats) -> Floats:
    n, width = y.shape
    return _hadamard(y.reshape(n, width // BLOCK, BLOCK)).reshape(n, width)


def _far(y: Floats) -> Floats:
    n, width = y.shape
    shape = (n, BLOCK // LANES, width // BLOCK, LANES)  # of every W/8 coordinates the same sixteen
    groups = y.reshape(shape).swapaxes(1, 2)
    done = _hadamard(groups.reshape(n, width // BLOCK, BLOCK)).reshape(groups.shape)
    return done.swapaxes(1, 2).reshape(n, width)


def rotate_plain(y: Floats) -> Floats:
    """[n, W] -> [n, W]: signs and Hadamard transforms of 128 near, far and near coordinates."""
    for s, turn in zip(signs(y.shape[1]), (_near, _far, _near), strict=True):
        y = turn(y * s)
    return y


def rotate_back_plain(y: Floats) -> Floats:
    """The inverse: each step is its own transpose."""
    for s, turn in zip(signs(y.shape[1])[::-1], (_near, _far, _near), strict=True):
        y = turn(y) * s
    return y
