"""HNSW's graph as arrays (Malkov & Yashunin 2016), and what searching it, building it and mending it share.

`walk` searches it, `graph_build` links new rows; the plain twin of both is `minibi.index.hnsw_plain`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from . import simd
from .cache import inline, kernel
from .memory import ADDRESS


class Graph(NamedTuple):
    """Links of layer 0 [N, 2M], of the upper layers [U, M], where a row's upper layers begin [N], its top layer [N]."""

    links: NDArray[np.int32]
    upper: NDArray[np.int32]
    offsets: NDArray[np.int32]
    levels: NDArray[np.int8]


class Scratch(NamedTuple):
    """What one thread needs while it links around removed rows: marks of visited rows [N], the last mark [1], keys."""

    visited: NDArray[np.uint16]
    stamp: NDArray[np.int64]
    pool: NDArray[np.int64]


@intrinsic
def _shift_up(typing_context, address, count):
    """Moves `count` int64 one place up."""

    def generate(context, builder, signature, args):
        e = builder
        source, count = args
        pointer = simd.ir.PointerType(simd.i8)
        signature_ = simd.ir.FunctionType(simd.ir.VoidType(), [pointer, pointer, simd.i64, simd.ir.IntType(1)])
        move = simd.cgutils.get_or_insert_function(e.module, signature_, "llvm.memmove.p0.p0.i64")
        places = [e.inttoptr(x, pointer) for x in (e.add(source, simd.i64(8)), source)]
        e.call(move, [*places, e.mul(count, simd.i64(8)), simd.ir.Constant(simd.ir.IntType(1), 0)])
        return context.get_dummy_value()

    return types.void(ADDRESS, ADDRESS), generate


@inline
def insert_key(pool, size, ef, key):
    """Insert into the sorted pool of at most ef keys; (position or size if refused, new size)."""
    if size == ef:
        if key >= pool[np.uint64(size - 1)]:
            return size, size
        size -= 1
    low, many = np.int64(0), np.int64(size)
    while many > 1:  # no branch on what is found
        half = many >> 1
        low += half * np.int64(pool[np.uint64(low + half - 1)] < key)
        many -= half
    if size > 0:
        low += np.int64(pool[np.uint64(low)] < key)
    _shift_up(pool.ctypes.data + 8 * low, size - low)
    pool[np.uint64(low)] = key
    return low, size + 1


@inline
def slot_of(node, level, offsets):
    """Where a node's links of a level stand: layer 0 in `links[node]`, the others in `upper`."""
    return np.int64(node) if level == 0 else np.int64(offsets[node]) + level - 1


@inline
def new_stamp(scratch):
    """A mark that no row carries yet."""
    if scratch.stamp[0] >= 65535:
        scratch.visited[:] = 0
        scratch.stamp[0] = 0
    scratch.stamp[0] += 1
    return np.uint16(scratch.stamp[0])


@kernel
def spanning_tree(links, count, start, parent):
    """Breadth first over layer 0 from `start`: parent[row] = who reached it; returns how many rows were.

    Rows whose parent is not -1 were reached before and are passed over. `start` is its own parent, unless it has one.
    """
    queue = np.empty(count, np.int32)
    if parent[start] < 0:
        parent[start] = start
    queue[0] = start
    head, tail = 0, 1
    while head < tail:
        node = queue[head]
        head += 1
        for j in range(links.shape[1]):
            row = links[node, j]
            if row < 0:
                break
            if row < count and parent[row] < 0:
                parent[row] = node
                queue[tail] = row
                tail += 1
    return tail
