"""Candidates as whole numbers: one int64 sorts as (distance, row); a sorted pool of them is kept in vectors of eight.

A key holds the float's bits made monotone in the upper half, the row and an "expanded" bit in the lower. A pool is the
address of its first key; before it lie eight of the least, its unused places hold the greatest. So nothing has to be
counted to insert a key: each place takes the larger of its left neighbour and the smaller of itself and the key.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import inline
from .keys import ordered
from .memory import ADDRESS, int64_at, set_int64

EIGHT = 8  # keys in a vector
LEAST, GREATEST = np.int64(-(2**63)), np.int64(2**63 - 1)
_keys = simd.ir.VectorType(simd.i64, EIGHT)


@inline
def key_of(d, row):
    return (np.int64(ordered(d)) << 32) | (np.int64(row) << 1)


@inline
def row_of(key):
    return (key & np.int64(0xFFFFFFFF)) >> 1


@intrinsic
def _insert_in_eight(typing_context, address, key):
    """The eight keys at an address take their part in an insertion; returns how many of them were less than the key."""

    def generate(context, builder, signature, args):
        e = builder
        address, key = args
        pointer = simd.ir.PointerType(_keys)
        place = e.inttoptr(address, pointer)
        mine, before = e.load(place, align=8), e.load(e.inttoptr(e.sub(address, simd.i64(64)), pointer), align=8)
        spread = e.insert_element(simd.ir.Constant(_keys, simd.ir.Undefined), key, simd.i32(0))
        all_lanes = simd.ir.Constant(simd.ir.VectorType(simd.i32, EIGHT), [0] * EIGHT)
        key = e.shuffle_vector(spread, simd.ir.Constant(_keys, simd.ir.Undefined), all_lanes)
        order = simd.ir.Constant(simd.ir.VectorType(simd.i32, EIGHT), list(range(EIGHT - 1, 2 * EIGHT - 1)))
        left = e.shuffle_vector(before, mine, order)
        less = e.icmp_signed("<", mine, key)
        smaller = e.select(less, mine, key)
        e.store(e.select(e.icmp_signed(">", left, smaller), left, smaller), place, align=8)
        octet = simd.ir.IntType(8)
        count = simd.cgutils.get_or_insert_function(e.module, simd.ir.FunctionType(octet, [octet]), "llvm.ctpop.i8")
        return e.zext(e.call(count, [e.bitcast(less, octet)]), simd.i64)

    return types.int64(ADDRESS, types.int64), generate


@inline
def insert(pool, limit, key):
    """The key into the sorted pool of the `limit` least; returns its position. What falls behind them is lost."""
    block = (limit - 1) >> 3 << 3
    less = _insert_in_eight(pool + 8 * block, key)
    while less == 0 and block > 0:
        block -= EIGHT
        less = _insert_in_eight(pool + 8 * block, key)
    return block + less


@inline
def clear(pool, first, limit):
    """Nothing in a pool of `limit` keys from place `first` on."""
    for j in range(first, (limit + 7) >> 3 << 3):
        set_int64(pool + 8 * j, GREATEST)


@inline
def key_at(pool, j):
    return int64_at(pool + 8 * j)


@inline
def set_key(pool, j, key):
    set_int64(pool + 8 * j, key)
