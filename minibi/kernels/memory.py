"""Numbers at addresses: for state that many walks share, where an array's bookkeeping would cost more than the work;
and a counter from which many threads take what they do next."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import inline

ADDRESS = types.intp


def _reader(number: Any, kind: Any, align: int) -> Any:
    @intrinsic
    def read(typing_context, address):
        def generate(context, builder, signature, args):
            return builder.load(builder.inttoptr(args[0], simd.ir.PointerType(kind)), align=align)

        return number(ADDRESS), generate

    return read


def _writer(number: Any, kind: Any, align: int) -> Any:
    @intrinsic
    def write(typing_context, address, value):
        def generate(context, builder, signature, args):
            builder.store(args[1], builder.inttoptr(args[0], simd.ir.PointerType(kind)), align=align)
            return context.get_dummy_value()

        return types.void(ADDRESS, number), generate

    return write


int64_at, set_int64 = (make(types.int64, simd.i64, 8) for make in (_reader, _writer))
int32_at, set_int32 = (make(types.int32, simd.i32, 4) for make in (_reader, _writer))
uint64_at, set_uint64 = (make(types.uint64, simd.i64, 8) for make in (_reader, _writer))
float_at, set_float = (make(types.float32, simd.f32, 4) for make in (_reader, _writer))


@intrinsic
def take(typing_context, address, many):
    """The next `many` numbers of a counter (int64, at an address) that threads share; returns the first of them.
    Whoever reads the counter after this thread raised it sees what this thread wrote before."""

    def generate(context, builder, signature, args):
        place = builder.inttoptr(args[0], simd.ir.PointerType(simd.i64))
        return builder.atomic_rmw("add", place, args[1], "acq_rel")

    return types.int64(ADDRESS, types.int64), generate


@intrinsic
def take_this(typing_context, address, number):
    """Raises a counter as `take` does by one, but only if it stands at `number`; whether it did."""

    def generate(context, builder, signature, args):
        place = builder.inttoptr(args[0], simd.ir.PointerType(simd.i64))
        found = builder.cmpxchg(place, args[1], builder.add(args[1], simd.i64(1)), "acq_rel", "monotonic")
        return builder.extract_value(found, 1)

    return types.boolean(ADDRESS, types.int64), generate


@inline
def waited_for(counter, goal, patience):
    """Waits until others have raised a counter (int64, at an address) to `goal`, for so many looks at it at most (a
    million take a few milliseconds); whether they have."""
    looks = 0
    while take(counter, 0) < goal and looks < patience:
        looks += 1
    return looks < patience


@inline
def address(array):
    """Where an array begins, signed: Numba's own is not, and the sum of it and an int64 would be a float."""
    return np.int64(array.ctypes.data)
