"""A whole forward pass in one call: a recorded sequence of operations, replayed without Python in between.

A program is a table of int64, one row an operation; a row names its operands by their place in a table of addresses, so
the same program runs on every thread with that thread's own memory. `minibi.nn.replay` records programs.
"""

from __future__ import annotations

import numpy as np

from .attention import attend_at, copy_block
from .attention16 import attend16_at
from .cache import inline, kernel
from .int8 import TERM, code_rows, linear8_at, quantize_at
from .matmul import linear_at
from .memory import address, float_at
from .norm import TOGETHER, norm_rows, sum_float_rows, sum_half_rows

EMBED, NORM, LINEAR, QUANTIZE, LINEAR8, ATTEND, ATTEND16, FIRST_ROWS = range(8)

# The columns of a program. Operands are indices into the table of addresses, -1 where there is none; what a NORM
# quantizes, all but the CHANNEL that stays float, goes to CODES and TERMS.
OP, X, OUT, W, BIAS, RESIDUAL, K, WIDTH, KIND, PER_TEXT, CODES, TERMS, COLUMNS, CHANNEL, EXTRA, NUMBER = range(16)
FIELDS = 16


@kernel
def run(program, numbers, table, widths, ids, types, starts, scratch):
    """Runs `program` [n, FIELDS] on a batch.

    numbers float32: constants the program names by NUMBER. table int64: an address for each operand. widths int64: the
    bytes from row to row of each. ids, types int32 [T]; starts int64 [B+1]. scratch: memory for the operations.
    """
    tokens, texts = ids.size, starts.size - 1
    memory = address(scratch)
    for i in range(program.shape[0]):
        step = program[i]
        op = step[OP]
        rows = texts if step[PER_TEXT] else tokens
        x, out = table[step[X]], table[step[OUT]]
        if op == EMBED:
            _embed(step, numbers, table, widths, ids, types, starts)
        elif op == NORM:
            _norm(step, numbers, table, widths, rows)
        elif op == LINEAR:
            linear_at(
                x, widths[step[X]], rows, step[K], table[step[W]], step[EXTRA] == 1, table[step[BIAS]],
                table[step[RESIDUAL]], step[KIND], out, step[WIDTH], memory,
            )  # fmt: skip
        elif op == QUANTIZE:
            codes, terms = table[step[CODES]], table[step[TERMS]]
            quantize_at(x, widths[step[X]], rows, step[K], step[CHANNEL], codes, widths[step[CODES]], terms)
        elif op == LINEAR8:
            linear8_at(
                table[step[CODES]], widths[step[CODES]], table[step[TERMS]], rows, step[K], table[step[W]],
                table[step[COLUMNS]], table[step[BIAS]], table[step[RESIDUAL]], step[KIND], out, step[WIDTH],
            )  # fmt: skip
        elif op in (ATTEND, ATTEND16):
            heads, width = step[EXTRA], step[WIDTH]
            channels, stride = 4 * heads * width, widths[step[X]]
            operands = (
                x, x + channels, x + 2 * channels, stride, stride, stride, starts, heads, width, numbers[step[NUMBER]],
                step[PER_TEXT] == 1, out, widths[step[OUT]], memory,
            )  # fmt: skip
            if op == ATTEND:
                attend_at(*operands)
            else:
                attend16_at(*operands)
        else:
            stride = widths[step[OUT]]
            for text in range(texts):
                copy_block(x + stride * starts[text], stride // 4, out + stride * text)


@kernel
def run_parts(program, numbers, table, widths, ids, types, starts, scratch, at_once, place, out):
    """`run` on parts of a batch, of as many texts as have `at_once` tokens together, or of a single text.

    The result, which each part leaves at `place` in the table, goes to out [T, C], or [B, C] where it is per text.
    """
    first, texts, done = 0, starts.size - 1, 0
    per_text = program[program.shape[0] - 1, PER_TEXT] == 1
    while first < texts:
        last = first + 1
        while last < min(texts, first + at_once) and starts[last + 1] - starts[first] <= at_once:
            last += 1
        begin, end = starts[first], starts[last]
        near = starts[first : last + 1] - begin
        run(program, numbers, table, widths, ids[begin:end], types[begin:end], near, scratch)
        for r in range(last - first if per_text else end - begin):
            row = table[place] + widths[place] * r
            for c in range(out.shape[1]):
                out[done, c] = float_at(row + 4 * c)
            done += 1
        first = last


@inline
def _norm(step, numbers, table, widths, rows):
    """Normalizes rows in place and, where the program says so, quantizes them too."""
    x, stride, n, channel = table[step[OUT]], widths[step[OUT]], step[K], step[CHANNEL]
    for t in range(0, rows, TOGETHER):
        here, count = x + stride * t, min(TOGETHER, rows - t)
        ends = norm_rows(here, stride, count, n, table[step[W]], table[step[BIAS]], numbers[step[NUMBER]], channel)
        if step[CODES] >= 0:
            codes, width = table[step[CODES]], widths[step[CODES]]
            terms = table[step[TERMS]] + TERM * t
            code_rows(here, stride, count, n, channel, ends, codes + width * t, width, terms)


@inline
def _embed(step, numbers, table, widths, ids, types, starts):
    """X: the table of words (KIND 1: float16), EXTRA and the next: positions and types."""
    word, out = table[step[X]], table[step[OUT]]
    position, kind = table[step[EXTRA]], table[step[EXTRA] + 1]
    for text in range(starts.size - 1):
        for t in range(starts[text], starts[text + 1]):
            row = out + widths[step[OUT]] * t
            a = word + widths[step[X]] * np.int64(ids[t])
            b = position + widths[step[EXTRA]] * (t - starts[text])
            c = kind + widths[step[EXTRA] + 1] * np.int64(types[t])
            if step[KIND] == 1:
                sum_half_rows(a, b, c, step[K], row)
            else:
                sum_float_rows(a, b, c, step[K], row)
    _norm(step, numbers, table, widths, starts[starts.size - 1])
