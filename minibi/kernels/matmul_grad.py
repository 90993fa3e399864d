"""The three products of a linear layer in training: Y = X W^T + b, dX = dY W, dW = dY^T X.

Weights change at every step and lie as they are stored, [N, K]; X and dY are far larger than the cache. So, unlike
`matmul`, these kernels do what hides memory: a tile of six rows and one panel begins with the bias, a residual or what
it is added to in its registers instead of adding it later; while it runs, the rows of the next tile and a part of the
next panel are asked for; four steps of the sum stand in one turn of the loop. In dW the sum runs over tokens, BLOCK at
a time: X's panels stay in the second cache while six columns after six of dY pass by.

An element is one chain of fused multiply-adds in an order that depends on the shapes alone.
"""

from __future__ import annotations

from numba import types
from numba.extending import intrinsic

from . import simd
from .attention import copy_block, copy_float, transpose_block
from .cache import kernel
from .matmul import PANEL, ROWS, VECTORS, row_addresses
from .memory import ADDRESS
from .norm_grad import add_block, gelu_keep_row, times_block
from .simd import LANES, Loop, i64

UNROLL = 4  # steps of a sum in one turn of its loop
BLOCK = 384  # tokens whose part of X (PART columns) stays in cache while dY's columns pass
PART = 384
STRETCH = 128  # steps of a tile's sum in which one row of what comes next is asked for
WIDTH = 4 * PANEL  # bytes of a panel's row

BIAS, RESIDUAL, GELU, TIMES, ONTO = range(5)  # what a product begins with, or what follows it


def _run_sums(e, count, sums, rows, row_step, panel, each):
    """`count` steps of a tile's sums: sums[i, j] += rows[i] * panel[j], UNROLL in one turn of the loop.

    rows: addresses of one number each, `row_step` bytes further with each step; the panel is read end to end.
    each(step): what else a turn does.
    """
    whole = e.mul(e.sdiv(count, i64(UNROLL)), i64(UNROLL))
    offsets = [e.mul(row_step, i64(u)) for u in range(UNROLL)]
    for first, turns, steps in ((i64(0), whole, UNROLL), (whole, e.sub(count, whole), 1)):
        with Loop(e, turns, sums, step=steps) as loop:
            step = e.add(first, loop.index)
            each(step)
            here, at = e.add(panel, e.mul(step, i64(WIDTH))), e.mul(step, row_step)
            numbers, sums = [e.add(row, at) for row in rows], list(loop.carried)
            for u in range(steps):
                columns = [simd.load(e, here, WIDTH * u + 64 * j) for j in range(VECTORS)]
                for i, number in enumerate(numbers):
                    x = simd.broadcast(e, e.add(number, offsets[u]))
                    for j, y in enumerate(columns):
                        sums[i * VECTORS + j] = x.fma(y, sums[i * VECTORS + j])
            loop.next(*sums)
        sums = loop.results
    return sums


def _store_rows(e, sums, out, stride, rows):
    for i in range(ROWS):
        with e.if_then(e.icmp_signed(">", rows, i64(i))):
            at = e.add(out, e.mul(stride, i64(i)))
            for j in range(VECTORS):
                simd.store(e, sums[i * VECTORS + j], at, 64 * j)


def _ask_for_rows(e, at, stride, first):
    """ROWS rows of a panel's width, from row `first` on, into the cache."""
    for i in range(first, first + ROWS):
        for j in range(VECTORS):
            simd.prefetch(e, e.add(at, e.mul(stride, i64(i))), 64 * j)


def _tile(begin):
    """An intrinsic `(x, k, panel, rows, bias, residual, out, stride, ahead)`: a tile of x @ w, up to ROWS rows.

    Addresses; rows of x lie 4 k bytes apart, those of residual and out `stride`. begin: what the sums begin with.
    The next rows of x are asked for, and 2 k bytes at `ahead`.
    """

    @intrinsic
    def multiply(typing_context, x, k, panel, rows, bias, residual, out, stride, ahead):
        def generate(context, builder, signature, args):
            e = builder
            x, k, panel, rows, bias, residual, out, stride, ahead = args
            row_bytes = e.mul(k, i64(4))
            row = row_addresses(e, x, row_bytes, rows)
            following = e.add(x, e.mul(row_bytes, i64(ROWS)))
            _ask_for_rows(e, out, stride, ROWS if begin == ONTO else 0)
            biases = [simd.load(e, bias, 64 * j) for j in range(VECTORS)]
            if begin == BIAS:
                _ask_for_rows(e, residual, stride, 0)
                start = biases * ROWS
            else:
                if begin == RESIDUAL:
                    _ask_for_rows(e, residual, stride, ROWS)
                begun = row_addresses(e, residual if begin == RESIDUAL else out, stride, rows)
                start = [simd.load(e, at, 64 * j) for at in begun for j in range(VECTORS)]
                if begin == RESIDUAL:
                    start = [here + biases[i % VECTORS] for i, here in enumerate(start)]

            def ask(step):
                simd.prefetch(e, e.add(following, e.mul(step, i64(4 * ROWS))), 0)
                simd.prefetch(e, e.add(ahead, e.mul(step, i64(2))), 0)

            _store_rows(e, _run_sums(e, k, start, row, i64(4), panel, ask), out, stride, rows)
            return context.get_dummy_value()

        return types.void(*[ADDRESS] * 9), generate

    return multiply


_multiply, _multiply_residual, _multiply_onto = _tile(BIAS), _tile(RESIDUAL), _tile(ONTO)


@kernel
def product(x, panels, bias, other, kind, out):
    """out [T, N] = x [T, K] @ w + bias, panels [N / PANEL, K, PANEL] of w [K, N]; and by `kind`

    RESIDUAL: + other [T, N]. GELU: of that, and other becomes the slope there. TIMES: times other. ONTO: added to out,
    without the bias.
    """
    rows, k = x.shape
    n = out.shape[1]
    tiles = (rows + ROWS - 1) // ROWS
    part = (k * WIDTH // tiles + 127) // 128 * 128  # of the next panel, with each tile
    for p in range(panels.shape[0]):
        panel, b = panels.ctypes.data + WIDTH * k * p, bias.ctypes.data + WIDTH * p
        ahead = panel + WIDTH * k
        for m in range(0, rows, ROWS):
            count = min(ROWS, rows - m)
            at = 4 * n * m + WIDTH * p
            a, beside, c = x.ctypes.data + 4 * k * m, other.ctypes.data + at, out.ctypes.data + at
            if kind == RESIDUAL:
                _multiply_residual(a, k, panel, count, b, beside, c, 4 * n, ahead)
            elif kind == ONTO:
                _multiply_onto(a, k, panel, count, b, beside, c, 4 * n, ahead)
            else:
                _multiply(a, k, panel, count, b, beside, c, 4 * n, ahead)
            if kind == GELU:
                for i in range(count):
                    gelu_keep_row(c + 4 * n * i, PANEL, beside + 4 * n * i)
            elif kind == TIMES:
                for i in range(count):
                    times_block(c + 4 * n * i, beside + 4 * n * i, PANEL)
            ahead += part


@kernel
def pack_transposed(w, first, last, panels):
    """Panels `first` to `last` of w^T, w [N, K]: panels[p, k, j] = w[PANEL p + j, k]. N % PANEL == K % 16 == 0."""
    k = w.shape[1]
    for p in range(first, last):
        for j in range(0, PANEL, LANES):
            rows = w.ctypes.data + 4 * k * (PANEL * p + j)
            out = panels.ctypes.data + 4 * (PANEL * k * p + j)
            for i in range(0, k, LANES):
                transpose_block(rows + 4 * i, 4 * k, LANES, out + 4 * PANEL * i, 4 * PANEL)


@kernel
def pack_rows(w, first, last, panels):
    """Panels `first` to `last` of w [N, K] itself: panels[p, n, j] = w[n, PANEL p + j]. K % PANEL == 0."""
    n, k = w.shape
    for p in range(first, last):
        for i in range(n):
            copy_block(w.ctypes.data + 4 * (k * i + PANEL * p), PANEL, panels.ctypes.data + 4 * PANEL * (n * p + i))


def _weight_tile(add):
    """An intrinsic `(columns, panel, tokens, out, stride, rows, ahead, next_row, width)`: a tile of dY^T X.

    add: it is added to out. columns [tokens, ROWS] and panel [tokens, PANEL] are packed; `rows` of out are written,
    `stride` bytes apart. Meanwhile one row after the other is asked for, each in STRETCH steps: the first at `ahead`,
    `width` bytes, the next `next_row` further.
    """

    @intrinsic
    def multiply(typing_context, columns, panel, tokens, out, stride, rows, ahead, next_row, width):
        def generate(context, builder, signature, args):
            e = builder
            columns, panel, tokens, out, stride, rows, ahead, next_row, width = args
            part = e.sdiv(width, i64(STRETCH))
            start = [simd.constant(e, 0.0)] * (ROWS * VECTORS)
            _ask_for_rows(e, e.add(out, i64(WIDTH)), stride, 0)  # the next tile's
            if add:
                outs = row_addresses(e, out, stride, rows)
                start = [simd.load(e, at, 64 * j) for at in outs for j in range(VECTORS)]

            def ask(step):
                row, within = e.sdiv(step, i64(STRETCH)), e.srem(step, i64(STRETCH))
                simd.prefetch(e, e.add(ahead, e.add(e.mul(row, next_row), e.mul(within, part))), 0)

            numbers = [e.add(columns, i64(4 * i)) for i in range(ROWS)]
            _store_rows(e, _run_sums(e, tokens, start, numbers, i64(4 * ROWS), panel, ask), out, stride, rows)
            return context.get_dummy_value()

        return types.void(*[ADDRESS] * 9), generate

    return multiply


_begin_weights, _add_weights = _weight_tile(False), _weight_tile(True)


@intrinsic
def _pack_columns(typing_context, source, width, out, step):
    """`width` numbers of a row, ROWS to each of the blocks at `out`, which lie `step` bytes apart.

    They are moved by eight: the next row is written over the surplus, and the last may be read beyond the row.
    """

    def generate(context, builder, signature, args):
        e = builder
        source, width, out, step = args
        eight = simd.ir.PointerType(simd.ir.VectorType(simd.f32, 8))
        with Loop(e, width, step=ROWS) as loop:
            x = e.load(e.inttoptr(e.add(source, e.mul(loop.index, i64(4))), eight), align=4)
            e.store(x, e.inttoptr(e.add(out, e.mul(e.sdiv(loop.index, i64(ROWS)), step)), eight), align=4)
            loop.next()
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 4), generate


UNIT = ROWS * LANES // 2  # columns of dY that are whole tiles and whole vectors
COLUMNS = 4 * UNIT  # that are packed at a time
WEIGHT_SCRATCH = BLOCK * (max(PART, PANEL) + COLUMNS) + (COLUMNS // ROWS + 2) * LANES


@kernel
def weight_grad(dy, x, first, last, begin, end, scratch, dw, db):
    """dw[first:last, begin:end] of dw [N, K] = dy^T x, dy [T, N] and x [T, K]; if begin is 0 also db [N] = sums of dy.

    first and last are multiples of UNIT or N, begin, end and K of PANEL, N of 16. scratch: WEIGHT_SCRATCH floats of
    this thread alone.
    """
    tokens, n = dy.shape
    k = x.shape[1]
    panels = (scratch.ctypes.data + 63) // 64 * 64
    columns = panels + 4 * BLOCK * max(PART, PANEL)
    if begin == 0:
        db[first:last] = 0
    for t in range(0, tokens, BLOCK):
        count = min(BLOCK, tokens - t)
        step = 4 * (count * ROWS + LANES)
        for b in range(begin, end, PART):
            width = min(PART, end - b)
            for i in range(count):
                for p in range(width // PANEL):
                    source = x.ctypes.data + 4 * (k * (t + i) + b) + WIDTH * p
                    copy_block(source, PANEL, panels + WIDTH * (count * p + i))
            for c in range(first, last, COLUMNS):
                some = min(COLUMNS, last - c)
                source = dy.ctypes.data + 4 * (n * t + c)
                if b == 0:
                    for i in range(count):
                        add_block(source + 4 * n * i, some, db.ctypes.data + 4 * c)
                for i in range(count - 1):
                    _pack_columns(source + 4 * n * i, some, columns + 4 * ROWS * i, step)
                for j in range(some):  # a vector might reach beyond the array
                    at = columns + step * (j // ROWS) + 4 * (ROWS * (count - 1) + j % ROWS)
                    copy_float(source + 4 * (n * (count - 1) + j), at)
                if c + COLUMNS < last:  # what will be packed next
                    ahead, stride, size = source + 4 * COLUMNS, 4 * n, 4 * COLUMNS
                elif b + PART < end:
                    ahead, stride, size = x.ctypes.data + 4 * (k * t + b + PART), 4 * k, 4 * PART
                else:
                    ahead, stride, size = x.ctypes.data + 4 * (k * (t + count) + begin), 4 * k, 4 * PART
                for m in range(0, some, ROWS):
                    rows, a = min(ROWS, some - m), columns + step * (m // ROWS)
                    for p in range(width // PANEL):
                        panel, out = panels + WIDTH * count * p, dw.ctypes.data + 4 * (k * (c + m) + b) + WIDTH * p
                        if t == 0:
                            _begin_weights(a, panel, count, out, 4 * k, rows, ahead, stride, size)
                        else:
                            _add_weights(a, panel, count, out, 4 * k, rows, ahead, stride, size)
                        ahead += stride * (count // STRETCH)
