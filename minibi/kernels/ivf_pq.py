"""Inverted lists of 4-bit product codes, from vectors to neighbours in one kernel.

A query is made of length one, compared with all centroids, turned into tables of bytes, looked up in the blocks of its
lists (`kernels.pq`), and what was found is ordered by the vectors as stored. While the lists of one query are read,
memory is asked for the candidates of the one before. `minibi.index.pq` and `ivf` hold the plain twin.
"""

from __future__ import annotations

import numpy as np
from numba import types
from numba.extending import intrinsic

from . import simd
from .cache import kernel
from .codes import CAREFUL, ready_query, rotate_row
from .distance import FLOAT16, SQUARED_L2
from .ivf import choose, finish, key_of, rank, room_for, shrink
from .keys import fetch
from .matmul import NONE, PANEL, VECTORS, linear_at, tile_sums
from .memory import ADDRESS, float_at, int32_at, int64_at
from .pq import BLOCK, quantize_row, scan_block, tables_at
from .simd import i64
from .sixteen import lowest_bit

AT_ONCE = 48  # queries compared with the centroids together
AHEAD = 2  # blocks asked for before they are read
UNTURNED, RANDOM, LEARNED = range(3)  # how residuals are rotated before they are cut

# What `search` has to know, by places in one small array, since each argument of a kernel has its price.
(
    DIM, UNIT, METRIC, KIND, WIDTH, SIGNS, ROWS, STRIDE,  # of the vectors as stored; UNIT: queries become of length one
    PANELS, BIAS, SCORES, NLIST, SHIFTS,  # of the centroids; SCORES: how many, filled up to whole panels
    TURN, TURNS, TURNED, ZEROS, BOOKS, M, PART, MOST,  # of the codes; TURNED: the width of what is rotated
    BLOCKS, TERMS, ORDER, STARTS,  # of the lists
) = range(25)  # fmt: skip


@intrinsic
def _one_row(typing_context, a, b, k, c, bias):
    """c [PANEL] = a [k] @ a panel + bias: what `matmul.linear_tile` does for six rows, the same bits."""

    def generate(context, builder, signature, args):
        e = builder
        a, b, k, c, bias = args
        ahead = e.add(b, e.mul(k, i64(4 * PANEL)))
        sums = tile_sums(e, 1, VECTORS, a, i64(0), b, k, i64(1), [c], i64(0), (ahead, i64(4 * PANEL)))
        for j, x in enumerate(sums):
            simd.store(e, x + simd.load(e, bias, 64 * j), c, 64 * j)
        return context.get_dummy_value()

    return types.void(*[ADDRESS] * 5), generate


@kernel
def multiply(x, lda, rows, k, panels, bias, out, width):
    """out [rows, width] = x [rows, k] @ panels + bias; all are addresses, lda in bytes."""
    if rows == 1:
        for first in range(0, width, PANEL):
            _one_row(x, panels + 4 * first * k, k, out + 4 * first, bias + 4 * first)
    else:
        linear_at(x, lda, rows, k, panels, False, bias, out, NONE, out, width, 0, width, 0)


@kernel
def scan_lists(n, mask, cells, bases, table, scale, offset, keep, keys, waiting, out):
    """The `keep` rows of least estimate in the lists cells [P], in any order, to out [keep]; returns how many.

    n: see `search`; bases [P]; table: address of bytes [M', 16]; keys: room. Meanwhile the vectors of rows `waiting`
    are asked for.
    """
    estimates = np.empty(BLOCK, np.float32)
    groups, starts, size, asked, limit = (n[M] + 3) >> 2, n[STARTS], 0, 0, np.float32(np.inf)
    for p in range(cells.size):
        begin, end = int64_at(starts + 8 * cells[p]) >> 5, int64_at(starts + 8 * cells[p] + 8) >> 5
        following = int64_at(starts + 8 * cells[p + 1]) >> 5 if p + 1 < cells.size else begin
        for b in range(begin, end):
            ahead = b + AHEAD if b + AHEAD < end else following + b + AHEAD - end
            near = scan_block(
                n[BLOCKS] + 64 * groups * b, table, groups, n[TERMS] + 256 * b, bases[p], scale, offset, limit,
                estimates.ctypes.data, n[BLOCKS] + 64 * groups * ahead,
            )  # fmt: skip
            fetch(n[TERMS] + 256 * ahead, 256)
            if asked < waiting.size:
                fetch(n[ROWS] + n[STRIDE] * waiting[asked], n[STRIDE])
                asked += 1
            while near:
                v = lowest_bit(near)
                near &= near - 1
                row = np.int64(int32_at(n[ORDER] + 4 * (BLOCK * b + v)))
                if row >= 0 and mask[row]:
                    keys[size] = key_of(estimates[v], row)
                    size += 1
            if size >= room_for(keep):
                limit = shrink(keys, size, keep)
                size = keep
    finish(keys, size, keep, out)
    return min(size, keep)


@kernel
def _cut(n, query, wide, parts):
    """A query, an address, in the coordinates that are coded: parts [M d]; wide: room."""
    size = n[DIM]
    if n[TURN] == LEARNED:
        multiply(query, 0, 1, n[DIM], n[TURNS], n[ZEROS], wide.ctypes.data, n[TURNED])
        query = wide.ctypes.data
    for j in range(size):
        parts[j] = float_at(query + 4 * j)
    for j in range(size, parts.size):
        parts[j] = 0
    if n[TURN] == RANDOM:
        rotate_row(parts.ctypes.data, parts.ctypes.data, n[TURNED], n[TURNS])


@kernel
def search(n, x, ids, mask, tail, nprobe, ef, final, out, out_rows):
    """The k nearest of vectors x [Q, dim]: distances and rows, out and out_rows [Q, k], ordered by distance, then id,
    row -1 where none was found; if `final`, scores and ids instead.

    n: sizes and addresses by the places named above; the arrays must outlive it. Of the rows with mask[row] the ef of
    least estimate in nprobe lists are compared, and all of `tail`. Returns whether all were found, for queries that are
    finite and not so long (CAREFUL) that one has to look closer.
    """
    total, k = out.shape
    dim, width, kind, metric, m = n[DIM], n[WIDTH], n[KIND], n[METRIC], n[M]
    most = min(total, AT_ONCE)
    floats, turned = np.zeros((most, width), np.float32), np.empty(width, np.float32)
    coded = np.empty((most, width + 16 if n[SIGNS] else 1), np.uint8)
    squares, scores = np.empty(most), np.empty((most, n[SCORES]), np.float32)
    wide, parts = np.empty(n[TURNED], np.float32), np.empty(m * n[PART], np.float32)
    exact, small = np.empty((m, 16), np.float32), np.zeros(((m + 3) >> 2 << 2, 16), np.uint8)
    keys = np.empty(max(room_for(ef) + BLOCK, room_for(nprobe)), np.int64)
    cells, bases = np.empty(nprobe, np.int64), np.empty(nprobe, np.float32)
    which, found = np.empty((2, ef), np.int64), 0
    whole = True
    for first in range(0, total, most):
        some = min(most, total - first)
        for i in range(some):
            code = coded[i].ctypes.data if n[SIGNS] else 0
            squares[i] = ready_query(
                x[first + i], n[UNIT], n[SIGNS], floats[i].ctypes.data, turned.ctypes.data, code, width
            )
            whole &= squares[i] <= CAREFUL
        multiply(
            floats.ctypes.data, 4 * width, some, dim, n[PANELS], n[BIAS], scores.ctypes.data, n[SCORES]
        )  # fmt: skip
        for i in range(some + 1):  # one behind: the candidates of a query are compared when the next one's are known
            before, found = found, 0
            if i < some:
                choose(scores[i], n[NLIST], nprobe, keys, cells, bases)
                for p in range(nprobe):
                    shift = float_at(n[SHIFTS] + 4 * cells[p])
                    product = bases[p] + shift
                    if metric == SQUARED_L2:
                        bases[p] = np.float32(squares[i] + 2.0 * (np.float64(shift) - np.float64(product)))
                    else:
                        bases[p] = -product
                _cut(n, floats[i].ctypes.data, wide, parts)
                tables_at(parts.ctypes.data, n[BOOKS], m, 1, n[PART], exact.ctypes.data)
                scale, offset = quantize_row(exact, n[MOST], small)
                found = scan_lists(
                    n, mask, cells, bases, small.ctypes.data, scale, offset, ef, keys,
                    which[1 - (i & 1)][:before], which[i & 1],
                )  # fmt: skip
            if i > 0:
                q = first + i - 1
                query = coded[i - 1].ctypes.data if kind > FLOAT16 else floats[i - 1].ctypes.data
                best, here = out[q], out_rows[q]
                rank(
                    n[ROWS], n[STRIDE], ids, which[1 - (i & 1)], before, tail, query, k, kind, metric, width, best, here
                )  # fmt: skip
                whole &= here[k - 1] >= 0
                for j in range(k if final else 0):
                    if here[j] >= 0:
                        best[j] = best[j] + np.float32(0) if metric == SQUARED_L2 else np.float32(0) - best[j]
                        here[j] = ids[here[j]]
    turned[0] = parts[0] = exact[0, 0] = 0  # used to the end, or Numba would free them while addresses are in use
    small[0, 0] = coded[0, 0] = 0
    floats[0, 0] = scores[0, 0] = 0
    return whole
