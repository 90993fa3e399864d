"""SIMD from Python: sixteen float lanes as one value, written straight into LLVM's intermediate representation.

A processor with AVX-512 holds sixteen float32 numbers in one register and multiplies and adds all of them in one
instruction. Numba's own loops reach half of that at best, so the inner loops of this room are written in LLVM vector
IR through `@intrinsic`: a Python function that runs at compile time and emits instructions. The vector is always
`<16 x float>`; where registers are narrower (AVX2: 8, NEON and SSE: 4) LLVM splits it into two or four of them. The
lanes, and so the order of every sum, stay the same sixteen on every processor.

A kernel reads as arithmetic because `Lanes` overloads it:

    x = load(b, address)                 # sixteen floats from memory
    y = x.fma(scale, shift)              # x * scale + shift, rounded once
    store(b, y.max(0.0), address)

`b` is llvmlite's IRBuilder, the cursor that emits instructions one after another. Addresses are 64-bit integers.

What keeps results the same bit for bit: no fast-math flags (LLVM may not reorder), explicit fma, sums over lanes by one
fixed tree, and our own exp2 and normal distribution instead of a library's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from .target import has_avx2, has_byte_dot, has_short_byte_dot, has_wide_byte_shuffle, widens_halves

LANES = 16
ROUND = 12582912.0  # 1.5 * 2^23: adding it to a small number leaves the nearest integer in the low bits of the sum
f32, i8, i32, i64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
floats = ir.VectorType(f32, LANES)
ints = ir.VectorType(i32, LANES)
octets = ir.VectorType(i8, 4 * LANES)


class Lanes:
    """Sixteen float32 values while code is being generated. Plain numbers are spread over all lanes."""

    def __init__(self, b: ir.IRBuilder, value: Any):
        self.b, self.value = b, value

    def _other(self, x: Lanes | float) -> Any:
        return x.value if isinstance(x, Lanes) else ir.Constant(floats, [float(x)] * LANES)

    def __add__(self, x: Lanes | float) -> Lanes:
        return Lanes(self.b, self.b.fadd(self.value, self._other(x)))

    def __sub__(self, x: Lanes | float) -> Lanes:
        return Lanes(self.b, self.b.fsub(self.value, self._other(x)))

    def __mul__(self, x: Lanes | float) -> Lanes:
        return Lanes(self.b, self.b.fmul(self.value, self._other(x)))

    def __truediv__(self, x: Lanes | float) -> Lanes:
        return Lanes(self.b, self.b.fdiv(self.value, self._other(x)))

    def fma(self, factor: Lanes | float, addend: Lanes | float) -> Lanes:
        """self * factor + addend, rounded once."""
        args = [self.value, self._other(factor), self._other(addend)]
        return Lanes(self.b, _call(self.b, "llvm.fma.v16f32", floats, args))

    def max(self, x: Lanes | float) -> Lanes:
        """The larger in each lane; `x` where self is NaN (one instruction on every processor)."""
        return self._choose(">", self._other(x))

    def min(self, x: Lanes | float) -> Lanes:
        """The smaller in each lane; `x` where self is NaN."""
        return self._choose("<", self._other(x))

    def _choose(self, relation: str, other: Any) -> Lanes:
        mine = self.b.fcmp_ordered(relation, self.value, other)
        return Lanes(self.b, self.b.select(mine, self.value, other))

    def abs(self) -> Lanes:
        return Lanes(self.b, _call(self.b, "llvm.fabs.v16f32", floats, [self.value]))

    def bits(self) -> Any:
        """The same bits as sixteen int32."""
        return self.b.bitcast(self.value, ints)


def _call(b: ir.IRBuilder, name: str, result: ir.Type, args: Sequence[Any]) -> Any:
    signature = ir.FunctionType(result, [a.type for a in args])
    return b.call(cgutils.get_or_insert_function(b.module, signature, name), args)


def _pointer(b: ir.IRBuilder, address: Any, offset: int, to: ir.Type) -> Any:
    return b.inttoptr(b.add(address, i64(offset)) if offset else address, ir.PointerType(to))


def load_ints(b: ir.IRBuilder, address: Any, offset: int = 0) -> Any:
    """Sixteen int32 from memory, as a plain LLVM value."""
    return b.load(_pointer(b, address, offset, ints), align=4)


def broadcast_int(b: ir.IRBuilder, address: Any, offset: int = 0) -> Any:
    """One int32 from memory in all lanes."""
    return spread_int(b, b.load(_pointer(b, address, offset, i32), align=1))


def spread_int(b: ir.IRBuilder, x: Any) -> Any:
    """One scalar int32 in all lanes."""
    return _spread(b, x, ints)


def store_ints(b: ir.IRBuilder, x: Any, address: Any, offset: int = 0) -> None:
    b.store(x, _pointer(b, address, offset, ints), align=4)


def zero_ints() -> Any:
    return ir.Constant(ints, [0] * LANES)


def to_floats(b: ir.IRBuilder, x: Any) -> Lanes:
    """Sixteen int32 rounded to float32."""
    return Lanes(b, b.sitofp(x, floats))


def load_halves(b: ir.IRBuilder, address: Any, offset: int = 0) -> Lanes:
    """Sixteen finite float16 from memory, widened exactly."""
    if widens_halves():
        halves = b.load(_pointer(b, address, offset, ir.VectorType(ir.HalfType(), LANES)), align=2)
        return Lanes(b, b.fpext(halves, floats))
    shorts = b.load(_pointer(b, address, offset, ir.VectorType(ir.IntType(16), LANES)), align=2)

    def each(x: int) -> Any:
        return ir.Constant(ints, [x] * LANES)

    wide = b.zext(shorts, ints)  # move sign, exponent and fraction to their places, then mend the exponent's offset
    moved = b.or_(b.shl(b.and_(wide, each(0x8000)), each(16)), b.shl(b.and_(wide, each(0x7FFF)), each(13)))
    return Lanes(b, b.bitcast(moved, floats)) * 2.0**112


def store_bytes(b: ir.IRBuilder, x: Lanes, address: Any) -> None:
    """x, whole numbers from 0 to 255, as sixteen bytes."""
    whole = b.trunc((x + ROUND).bits(), ir.VectorType(i8, LANES))
    b.store(whole, _pointer(b, address, 0, ir.VectorType(i8, LANES)), align=1)


def dot_bytes(b: ir.IRBuilder, total: Any, u: Any, s: Any) -> Any:
    """total + the sum of four products in each int32 lane: bytes of `u` unsigned, of `s` signed. Exact.

    One instruction with VNNI, two with its shorter form. Elsewhere bytes are widened to 16 bits and multiplied in
    pairs, or, on processors without that either, to 32 bits: the same whole numbers, so the same bits, everywhere.
    """
    if has_byte_dot():
        return _call(b, "llvm.x86.avx512.vpdpbusd.512", ints, [total, u, s])
    if has_short_byte_dot():
        return _by_halves(b, lambda *x: _call(b, "llvm.x86.avx512.vpdpbusd.256", x[0].type, x), total, u, s)
    shorts = ir.VectorType(ir.IntType(16), 2 * LANES)

    def eight(x: int) -> Any:
        return ir.Constant(shorts, [x] * 2 * LANES)

    u, s = b.bitcast(u, shorts), b.bitcast(s, shorts)
    even = _pair_products(b, b.and_(u, eight(255)), b.ashr(b.shl(s, eight(8)), eight(8)))
    odd = _pair_products(b, b.lshr(u, eight(8)), b.ashr(s, eight(8)))
    return b.add(total, b.add(even, odd))


def dot_shorts(b: ir.IRBuilder, total: Any, x: Any, y: Any) -> Any:
    """total + the sum of two products of signed 16-bit numbers in each int32 lane. Exact."""
    if has_byte_dot():
        return _call(b, "llvm.x86.avx512.vpdpwssd.512", ints, [total, x, y])
    shorts = ir.VectorType(ir.IntType(16), 2 * LANES)
    return b.add(total, _pair_products(b, b.bitcast(x, shorts), b.bitcast(y, shorts)))


def _by_halves(b: ir.IRBuilder, function: Any, *args: Any) -> Any:
    """function on the lower and on the upper halves of its arguments, side by side."""
    parts = []
    for upper in (False, True):
        halves = []
        for x in args:
            half = x.type.count // 2
            order = ir.Constant(ir.VectorType(i32, half), [i + half * upper for i in range(half)])
            halves.append(b.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), order))
        parts.append(function(*halves))
    return b.shuffle_vector(*parts, ir.Constant(ints, list(range(LANES))))


def _pair_products(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """<32 x i16>, twice: products of neighbours added, <16 x i32>."""
    if has_avx2():
        quarter = ir.VectorType(i32, LANES // 2)
        return _by_halves(b, lambda *halves: _call(b, "llvm.x86.avx2.pmadd.wd", quarter, halves), x, y)
    wide = ir.VectorType(i32, 2 * LANES)
    product = b.mul(b.sext(x, wide), b.sext(y, wide))
    first = ir.Constant(ints, list(range(0, 2 * LANES, 2)))
    second = ir.Constant(ints, list(range(1, 2 * LANES, 2)))
    return b.add(b.shuffle_vector(product, product, first), b.shuffle_vector(product, product, second))


def shuffle(b: ir.IRBuilder, table: Any, index: Any) -> Any:
    """Four tables of sixteen bytes, looked up by 64 indices from 0 to 15: byte i reads table i // 16. All <64 x i8>.

    One instruction where registers hold 64 bytes, two with AVX2; elsewhere each entry is chosen by comparison.
    """
    if has_wide_byte_shuffle():
        return _call(b, "llvm.x86.avx512.pshuf.b.512", octets, [table, index])
    if has_avx2():
        half = ir.VectorType(i8, 2 * LANES)
        halves = [ir.Constant(ir.VectorType(i32, 32), list(range(first, first + 32))) for first in (0, 32)]
        parts = []
        for order in halves:
            args = [b.shuffle_vector(v, ir.Constant(octets, ir.Undefined), order) for v in (table, index)]
            parts.append(_call(b, "llvm.x86.avx2.pshuf.b", half, args))
        return b.shuffle_vector(*parts, ir.Constant(ir.VectorType(i32, 64), list(range(64))))
    found = ir.Constant(octets, [0] * 64)
    for entry in range(16):
        order = ir.Constant(ir.VectorType(i32, 64), [16 * (i // 16) + entry for i in range(64)])
        same = b.icmp_unsigned("==", index, ir.Constant(octets, [entry] * 64))
        found = b.select(same, b.shuffle_vector(table, table, order), found)
    return found


def load(b: ir.IRBuilder, address: Any, offset: int = 0) -> Lanes:
    """Sixteen floats from `address + offset` bytes, aligned or not."""
    return Lanes(b, b.load(_pointer(b, address, offset, floats), align=4))


def store(b: ir.IRBuilder, x: Lanes, address: Any, offset: int = 0) -> None:
    b.store(x.value, _pointer(b, address, offset, floats), align=4)


def splat(b: ir.IRBuilder, x: Any) -> Lanes:
    """One scalar float in all lanes."""
    return Lanes(b, _spread(b, x, floats))


def _spread(b: ir.IRBuilder, x: Any, vector: ir.VectorType) -> Any:
    first = b.insert_element(ir.Constant(vector, ir.Undefined), x, i32(0))
    return b.shuffle_vector(first, ir.Constant(vector, ir.Undefined), ir.Constant(ints, [0] * LANES))


def broadcast(b: ir.IRBuilder, address: Any, offset: int = 0) -> Lanes:
    """One float from memory in all lanes."""
    return splat(b, b.load(_pointer(b, address, offset, f32), align=4))


def constant(b: ir.IRBuilder, x: float) -> Lanes:
    return Lanes(b, ir.Constant(floats, [float(x)] * LANES))


def store_scalar(b: ir.IRBuilder, x: Any, address: Any) -> None:
    b.store(x, _pointer(b, address, 0, f32), align=4)


def load_scalar(b: ir.IRBuilder, address: Any) -> Any:
    return b.load(_pointer(b, address, 0, f32), align=4)


def keep_first(b: ir.IRBuilder, x: Lanes, count: Any, otherwise: float) -> Lanes:
    """`x` in the first `count` lanes (an int64 value), `otherwise` in the rest."""
    count = _spread(b, b.trunc(count, i32), ints)
    mask = b.icmp_signed("<", ir.Constant(ints, list(range(LANES))), count)
    return Lanes(b, b.select(mask, x.value, ir.Constant(floats, [otherwise] * LANES)))


def keep_first_ints(b: ir.IRBuilder, x: Any, count: Any, otherwise: int) -> Any:
    """`keep_first` of sixteen int32."""
    mask = b.icmp_signed("<", ir.Constant(ints, list(range(LANES))), _spread(b, b.trunc(count, i32), ints))
    return b.select(mask, x, ir.Constant(ints, [otherwise] * LANES))


def without(b: ir.IRBuilder, x: Lanes, lane: Any) -> Lanes:
    """`x` with 0 in one lane (an int64 value); x itself where there is no such lane."""
    here = b.icmp_signed("==", ir.Constant(ints, list(range(LANES))), _spread(b, b.trunc(lane, i32), ints))
    return Lanes(b, b.select(here, ir.Constant(floats, [0.0] * LANES), x.value))


def _fold(b: ir.IRBuilder, x: Lanes, combine: Any) -> Any:
    """Lane 0 of a fixed tree: 16 lanes -> 8 -> 4 -> 2 -> 1, lane i with lane i + half."""
    value, half = x.value, LANES // 2
    while half:
        order = ir.Constant(ints, [(i + half) % LANES for i in range(LANES)])
        value = combine(Lanes(b, value), Lanes(b, b.shuffle_vector(value, value, order))).value
        half //= 2
    return b.extract_element(value, i32(0))


def sum_lanes(b: ir.IRBuilder, x: Lanes) -> Any:
    """The sum of the lanes as a scalar, always by the same tree."""
    return _fold(b, x, lambda p, q: p + q)


def sum_ints(b: ir.IRBuilder, x: Any) -> Any:
    """The sum of sixteen int32, exact whatever the order."""
    return _call(b, "llvm.vector.reduce.add.v16i32", i32, [x])


def max_ints(b: ir.IRBuilder, x: Any, y: Any) -> Any:
    """The larger in each of sixteen int32 lanes."""
    return b.select(b.icmp_signed(">", x, y), x, y)


def top_int(b: ir.IRBuilder, x: Any) -> Any:
    """The largest of sixteen int32."""
    return _call(b, "llvm.vector.reduce.smax.v16i32", i32, [x])


def sum_four_ints(b: ir.IRBuilder, vectors: Sequence[Any]) -> list[Any]:
    """The sums of four vectors of sixteen int32, by half as many shuffles as each by itself."""
    parts, width = list(vectors), LANES
    while len(parts) > 1:  # one vector holds the half sums of two
        width //= 2
        low = [i for i in range(2 * LANES) if not i & width]
        pairs = zip(parts[::2], parts[1::2], strict=True)
        parts = [_folded(b, p, q, low, [i + width for i in low]) for p, q in pairs]
    total = parts[0]
    while width > 1:
        width //= 2
        total = b.add(total, b.shuffle_vector(total, total, ir.Constant(ints, [i ^ width for i in range(LANES)])))
    return [b.extract_element(total, i32(LANES // 4 * i)) for i in range(4)]


def _folded(b: ir.IRBuilder, x: Any, y: Any, low: list[int], high: list[int]) -> Any:
    return b.add(*(b.shuffle_vector(x, y, ir.Constant(ints, order)) for order in (low, high)))


def max_lanes(b: ir.IRBuilder, x: Lanes) -> Any:
    return _fold(b, x, lambda p, q: p.max(q))


def sqrt(b: ir.IRBuilder, x: Any) -> Any:
    """Square root of a scalar float, correctly rounded."""
    return _call(b, "llvm.sqrt.f32", f32, [x])


def prefetch(b: ir.IRBuilder, address: Any, offset: int, level: int = 2) -> None:
    """Ask for the cache line at `address + offset`, which need not exist, into the first- or second-level cache."""
    pointer = _pointer(b, address, offset, i8)
    signature = ir.FunctionType(ir.VoidType(), [pointer.type, i32, i32, i32])
    kind = i32(0), i32(4 - level), i32(1)  # to be read; how near; data
    b.call(cgutils.get_or_insert_function(b.module, signature, "llvm.prefetch.p0"), [pointer, *kind])


def transpose(b: ir.IRBuilder, rows: Sequence[Lanes]) -> list[Lanes]:
    """Sixteen vectors as the columns of what were sixteen rows: four rounds of pairwise shuffles."""
    values = [x.value for x in rows]
    half = LANES // 2
    while half:  # swap the off-diagonal blocks of size `half`
        done = list(values)
        for i in range(LANES):
            if not i & half:
                upper, lower = values[i], values[i + half]
                left = [j if not j & half else j - half + LANES for j in range(LANES)]
                right = [j + half if not j & half else j + LANES for j in range(LANES)]
                done[i] = b.shuffle_vector(upper, lower, ir.Constant(ints, left))
                done[i + half] = b.shuffle_vector(upper, lower, ir.Constant(ints, right))
        values = done
        half //= 2
    return [Lanes(b, v) for v in values]


class Loop:
    """`for index in range(0, count, step)` in generated code, carrying vectors from one turn to the next.

        with Loop(b, n, [constant(b, 0.0)], step=16) as loop:
            (total,) = loop.carried
            loop.next(total + load(b, b.add(x, b.mul(loop.index, i64(4)))))
        (total,) = loop.results

    A loop with count <= 0 runs no turn and yields the initial values.
    """

    def __init__(self, b: ir.IRBuilder, count: Any, carried: Sequence[Lanes] = (), step: int = 1):
        self.b, self.count, self.step, self.initial = b, count, step, list(carried)
        self._after: list[Any] = []

    def __enter__(self) -> Loop:
        b = self.b
        self._before = b.block
        self._body, self._end = b.append_basic_block("turn"), b.append_basic_block("done")
        b.cbranch(b.icmp_signed(">", self.count, i64(0)), self._body, self._end)
        b.position_at_end(self._body)
        self.index = b.phi(i64)
        self.index.add_incoming(i64(0), self._before)
        self._phis = [b.phi(x.value.type) for x in self.initial]
        for phi, x in zip(self._phis, self.initial, strict=True):
            phi.add_incoming(x.value, self._before)
        self.carried = [Lanes(b, phi) for phi in self._phis]
        return self

    def next(self, *values: Lanes) -> None:
        """What the next turn finds in `carried`, and the caller in `results` after the last."""
        self._after = [x.value for x in values]

    def __exit__(self, *_: object) -> None:
        b, last = self.b, self.b.block
        following = b.add(self.index, i64(self.step))
        self.index.add_incoming(following, last)
        for phi, value in zip(self._phis, self._after, strict=True):
            phi.add_incoming(value, last)
        b.cbranch(b.icmp_signed("<", following, self.count), self._body, self._end)
        b.position_at_end(self._end)
        self.results = []
        for x, value in zip(self.initial, self._after, strict=True):
            phi = b.phi(value.type)
            phi.add_incoming(x.value, self._before)
            phi.add_incoming(value, last)
            self.results.append(Lanes(b, phi))


def sweep(b: ir.IRBuilder, n: Any, start: Sequence[Lanes], body: Any) -> list[Lanes]:
    """Folds n floats: `body(index, carried, kept)` -> carried for sixteen at a time, from `start`.

    kept(x): x itself, but with 0 beyond the n-th; it costs nothing up to the last few.
    """
    whole = b.and_(n, i64(-LANES))
    with Loop(b, whole, start, step=LANES) as loop:
        loop.next(*body(loop.index, loop.carried, lambda x: x))
    with Loop(b, b.sub(n, whole), loop.results, step=LANES) as rest:
        rest.next(*body(whole, rest.carried, lambda x: keep_first(b, x, b.sub(n, whole), 0.0)))
    return rest.results
