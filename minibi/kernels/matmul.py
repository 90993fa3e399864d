"""x @ w + bias, then an activation or a residual: the kernel in which an encoder spends nine tenths of its time.

How it reaches the processor's peak: `w` [K, N] is packed once into panels of `PANEL` columns, [N/PANEL, K, PANEL], so
that the inner loop reads it end to end. A tile of `ROWS` rows times one panel keeps all its sums in registers and walks
down K: load a few vectors of the panel, multiply them by one broadcast number of each row, add. With 512-bit registers
6 rows x 4 vectors fill 24 of 32; with narrower ones a tile is 6 rows x one vector of sixteen.

Weights stored as float16 stay so. For a few rows, when reading weights is what takes the time, they are widened in the
registers, and while a panel is multiplied the next one is asked for; for many rows only the first tile does so, and
leaves the widened panel in memory that stays in cache.

An output element is one chain of fused multiply-adds over k = 0 .. K-1, whatever the tile, the number of rows or the
width of the registers: the same row gives the same bits in any batch.
"""

from __future__ import annotations

import threading

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from . import functions, simd, target
from .cache import inline, kernel
from .memory import ADDRESS, address
from .simd import LANES, Loop, i64

ROWS = 6
VECTORS = 4 if target.has_wide_registers() else 1
PANEL = VECTORS * LANES
FEW_ROWS = 24  # up to here float16 weights are widened in registers

NONE, GELU, GELU_TANH, RELU, TANH, SIGMOID, RESIDUAL = range(7)  # what `linear` does after adding the bias


_CHUNK = 16 << 20
_lock = threading.Lock()
_rest = np.empty(0, np.uint8)


def lasting(shape: tuple[int, ...], dtype: type = np.float32) -> NDArray:
    """Zeros that begin at a cache line, right behind those asked for before: memory for weights.

    They are read in the order they were made, from few large pages where the system has such: NumPy asks for them when
    an array is large.
    """
    global _rest
    size = -(-np.dtype(dtype).itemsize * int(np.prod(shape)) // 64) * 64
    with _lock:
        if size > _rest.size:
            fresh = np.empty(max(size, _CHUNK) + 64, np.uint8)
            _rest = fresh[-fresh.ctypes.data % 64 :]
        out, _rest = _rest[:size], _rest[size:]
    out[:] = 0
    return out.view(dtype)[: int(np.prod(shape))].reshape(shape)


def pack(w: NDArray) -> NDArray:
    """w [K, N], float32 or float16 -> panels [ceil(N / PANEL), K, PANEL] of the same type, zeros in the last one."""
    k, n = w.shape
    panels = lasting((-(-n // PANEL), k, PANEL), w.dtype.type)
    for i, panel in enumerate(panels):
        columns = w[:, i * PANEL : (i + 1) * PANEL]
        panel[:, : columns.shape[1]] = columns
    return panels


def row_addresses(e, a, lda, rows, height=ROWS):
    """Addresses of `height` rows of `a`; those beyond `rows` repeat the last, so nothing outside is read."""
    last = e.sub(rows, i64(1))
    within = [e.select(e.icmp_signed("<", i64(i), rows), i64(i), last) for i in range(1, height)]
    return [a, *(e.add(a, e.mul(lda, i)) for i in within)]


@inline
def tile_count(rows):
    """How many tiles of up to ROWS rows there are in `rows`."""
    return max(1, (rows + ROWS - 1) // ROWS)


@inline
def tile_rows(rows, tiles):
    """Rows of the first of `tiles` that share `rows` evenly: nearly all have 6, the last 5, and none is half empty."""
    return (rows + tiles - 1) // tiles


def fetch_tile(e, height, vectors, addresses, ldc):
    """Asks the cache for a tile at each of some addresses: what will be written or added, while sums still run."""
    for there in addresses:
        for i in range(height):
            for j in range(vectors):
                simd.prefetch(e, e.add(there, e.mul(ldc, i64(i))), 64 * j)


def tile_sums(e, height, vectors, a, lda, b, k, rows, written, ldc, ahead=None, halves=False, wide=None):
    """Emits the inner loop: `height` rows times one panel, the sums left in registers.

    written: addresses laid out as the result, which the cache is asked for. ahead: the address of a next panel and how
    many bytes further with each step of k. halves: the panel is float16, and goes to `wide` as float32: an address and
    the bytes of a row.
    """
    size, load = (2, simd.load_halves) if halves else (4, simd.load)
    row = row_addresses(e, a, lda, rows, height)
    fetch_tile(e, height, vectors, written, ldc)
    with Loop(e, k, [simd.constant(e, 0.0)] * (height * vectors)) as loop:
        panel = e.add(b, e.mul(loop.index, i64(size * LANES * vectors)))
        columns = [load(e, panel, size * LANES * j) for j in range(vectors)]
        for j in range(vectors if wide else 0):
            simd.store(e, columns[j], e.add(wide[0], e.mul(loop.index, wide[1])), 64 * j)
        for j in range(0, size * LANES * vectors if ahead else 0, 64):
            simd.prefetch(e, e.add(ahead[0], e.mul(loop.index, ahead[1])), j)
        at = e.mul(loop.index, i64(4))
        sums = []
        for i in range(height):
            x = simd.broadcast(e, e.add(row[i], at))
            sums += [x.fma(columns[j], loop.carried[i * vectors + j]) for j in range(vectors)]
        loop.next(*sums)
    return loop.results


def tile(vectors: int):
    """An intrinsic `(a, lda, b, k, c, ldc, rows, ahead, stride)`: c = a @ b for up to ROWS rows.

    a, b, c are addresses, lda and ldc row lengths in bytes, b is a packed panel [k, vectors * 16]. Only `rows` rows of
    `a` are read and of `c` written. Meanwhile the cache is asked for what lies at `ahead`, `stride` bytes further with
    each step of k: no address at all is a wrong one.
    """

    @intrinsic
    def multiply(typing_context, a, lda, b, k, c, ldc, rows, ahead, stride):
        def generate(context, builder, signature, args):
            e = builder
            a, lda, b, k, c, ldc, rows, ahead, stride = args
            sums = tile_sums(e, ROWS, vectors, a, lda, b, k, rows, [c], ldc, (ahead, stride))
            for i in range(ROWS):
                with e.if_then(e.icmp_signed(">", rows, i64(i))):
                    out = e.add(c, e.mul(ldc, i64(i)))
                    for j in range(vectors):
                        simd.store(e, sums[i * vectors + j], out, 64 * j)
            return context.get_dummy_value()

        return types.void(*[ADDRESS] * 9), generate

    return multiply


AFTER = {
    NONE: lambda x, _: x,
    GELU: lambda x, _: functions.gelu(x),
    GELU_TANH: lambda x, _: functions.gelu_tanh(x),
    RELU: lambda x, _: functions.relu(x),
    TANH: lambda x, _: functions.tanh(x),
    SIGMOID: lambda x, _: functions.sigmoid(x),
    RESIDUAL: lambda x, residual: x + simd.load(x.b, residual),
}


def for_kind(e, kind, body, after=AFTER):
    """Emits `body(what)` for each entry of `after`, of which the one with code `kind` will run."""
    for code, what in after.items():
        with e.if_then(e.icmp_signed("==", kind, i64(code))):
            body(what)


AT_ONCE = {kind: AFTER[kind] for kind in (NONE, GELU, RESIDUAL)}


@intrinsic
def linear_tile(typing_context, height, kind, a, lda, b, k, c, ldc, rows, ahead, stride, bias, residual, wide, step):
    """`tile` of a whole panel; before its sums leave the registers the bias is added and done what `kind` says, if that
    is one of AT_ONCE. residual is laid out as c. height: 6, 5 or 4 for as many rows and a panel of float16, which goes
    to `wide` as float32, each row `step` bytes behind the one before; -6 or -5 for a panel of float32.
    """

    def generate(context, builder, signature, args):
        e = builder
        height, kind, a, lda, b, k, c, ldc, rows, ahead, stride, bias, residual, wide, step = args

        def finished(sums, what):
            for j in range(VECTORS):
                start = simd.load(e, bias, 64 * j)
                for i in range(len(sums) // VECTORS):
                    with e.if_then(e.icmp_signed(">", rows, i64(i))):
                        here = e.add(e.mul(ldc, i64(i)), i64(64 * j))
                        x = sums[i * VECTORS + j] + start
                        simd.store(e, what(x, e.add(residual, here)), e.add(c, here))

        for tall in (-ROWS, -5, ROWS, 5, 4):
            with e.if_then(e.icmp_signed("==", height, i64(tall))):
                sums = tile_sums(
                    e, abs(tall), VECTORS, a, lda, b, k, rows, [c, residual], ldc, (ahead, stride), tall > 0,
                    (wide, step) if tall > 0 else None,
                )  # fmt: skip
                for_kind(e, kind, lambda what, sums=sums: finished(sums, what), AT_ONCE)
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 15), generate


@intrinsic
def activate(typing_context, kind, x, n):
    """n floats at x, a multiple of 16, in place through what `kind` says, for those not in AT_ONCE."""

    def generate(context, builder, signature, args):
        e = builder
        kind, x, n = args

        def body(what):
            with Loop(e, n, step=LANES) as loop:
                at = e.add(x, e.mul(loop.index, i64(4)))
                simd.store(e, what(simd.load(e, at), at), at)
                loop.next()

        for_kind(e, kind, body, {code: what for code, what in AFTER.items() if code not in AT_ONCE})
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 3), generate


@inline
def at_once(kind):
    """Whether a tile can do what `kind` says before its sums leave the registers."""
    return kind in (NONE, GELU, RESIDUAL)


multiply_panel = tile(VECTORS)


@kernel
def linear_at(x, lda, rows, k, panels, halves, bias, residual, kind, out, width, begin, end, scratch):
    """Columns `begin` to `end` of out [rows, width] = activation(x [rows, k] @ w + bias) or + residual [rows, width].

    All are addresses. lda: bytes from row to row of x. `panels` comes from `pack` (halves: of float16), width is that
    of all panels together, begin and end are multiples of PANEL; bias has `width` elements, `kind` is one of the codes
    above, `residual` is read only for RESIDUAL. scratch: k * PANEL floats.
    """
    in_registers = halves and rows <= FEW_ROWS
    size = (2 if halves else 4) * PANEL
    tiles = tile_count(rows)
    stride = (size + tiles - 1) // tiles  # of the next panel, a part with each tile
    first = kind if at_once(kind) else NONE
    for n in range(begin, end, PANEL):
        panel = panels + (2 if halves else 4) * n * k
        ahead = panel + size * k
        m = 0
        for i in range(tiles):
            here = 4 * (m * width + n)
            count = tile_rows(rows - m, tiles - i)
            height = max(4, count) if in_registers or (halves and i == 0) else -max(5, count)
            linear_tile(
                height, first, x + lda * m, lda, panel, k, out + here, 4 * width, count, ahead, stride, bias + 4 * n,
                residual + here, scratch, 0 if in_registers else 4 * PANEL,
            )  # fmt: skip
            m += count
            ahead += stride * k
            if halves and not in_registers:
                panel = scratch
    if not at_once(kind):
        for m in range(rows):
            activate(kind, out + 4 * (m * width + begin), end - begin)


@kernel
def linear(x, panels, halves, bias, residual, kind, out):
    """`linear_at` on arrays: x [T, K], panels as bytes, bias [P], residual and out [T, P]."""
    rows, k = x.shape
    scratch = np.empty(k * PANEL if halves and rows > FEW_ROWS else PANEL, np.float32)
    linear_at(
        address(x), 4 * k, rows, k, address(panels), halves, address(bias), address(residual), kind, address(out),
        out.shape[1], 0, out.shape[1], address(scratch),
    )  # fmt: skip
    scratch[0] = 0  # used to the end, or Numba would free it while its address is in use
