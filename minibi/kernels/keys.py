"""Distances as whole numbers that sort alike, to be kept with a row in one int64; and memory asked for beforehand."""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import inline
from .memory import ADDRESS


def _cast(source, result):
    """An intrinsic from the bits of one type to the same bits of another."""

    @intrinsic
    def cast(typing_context, x):
        def generate(context, builder, signature, args):
            return builder.bitcast(args[0], context.get_value_type(result))

        return result(source), generate

    return cast


bits_of = _cast(types.float32, types.int32)
float_of = _cast(types.int32, types.float32)


@inline
def ordered(d):
    """A float32 as an int32 of the same order; -0.0 as 0.0."""
    bits = bits_of(d + np.float32(0))
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))  # negative floats count downward: turn them round


@inline
def from_ordered(whole):
    """What `ordered` was made of."""
    whole = np.int32(whole)
    return float_of(whole ^ ((whole >> 31) & np.int32(0x7FFFFFFF)))


@intrinsic
def _prefetch(typing_context, address):
    def generate(context, builder, signature, args):
        simd.prefetch(builder, args[0], 0)
        return context.get_dummy_value()

    return types.void(ADDRESS), generate


@inline
def fetch(address, size):
    """Ask for `size` bytes that will be read soon."""
    for at in range(0, size, 64):
        _prefetch(address + at)
