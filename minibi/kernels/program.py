"""A whole forward pass in one call: a recorded sequence of operations, replayed without Python in between.

A program is a table of int64, one row an operation; a row names its operands by their place in a table of addresses, so
the same program runs on every thread with that thread's own memory. Or several threads share a text's memory, and each
does parts of every operation. `minibi.nn.replay` records programs.
"""

from __future__ import annotations

import numpy as np

from .attention import attend_at, copy_block
from .attention16 import attend16_at
from .cache import inline, kernel
from .int8 import TERM, code_rows, linear8_at, quantize_at
from .matmul import PANEL, linear_at
from .memory import address, float_at, take, take_this, waited_for
from .norm import TOGETHER, norm_rows, sum_float_rows, sum_half_rows

EMBED, NORM, LINEAR, QUANTIZE, LINEAR8, ATTEND, ATTEND16, FIRST_ROWS = range(8)

# The columns of a program. Operands are indices into the table of addresses, -1 where there is none; what a NORM
# quantizes, all but the CHANNEL that stays float, goes to CODES and TERMS.
OP, X, OUT, W, BIAS, RESIDUAL, K, WIDTH, KIND, PER_TEXT, CODES, TERMS, COLUMNS, CHANNEL, EXTRA, NUMBER = range(16)
FIELDS = 16
PATIENCE = 20_000  # looks at what others have done, a tenth of a millisecond


@inline
def run(program, numbers, table, widths, ids, types, starts, scratch):
    """Runs `program` [n, FIELDS] on a batch.

    numbers float32: constants the program names by NUMBER. table int64: an address for each operand. widths int64: the
    bytes from row to row of each. ids, types int32 [T]; starts int64 [B+1]. scratch: memory for the operations.
    """
    for i in range(program.shape[0]):
        perform(program[i], numbers, table, widths, ids, types, starts, address(scratch), 0, 1)


@inline
def run_shared(program, numbers, table, widths, ids, types, starts, scratch, parts, counters):
    """`run` by several threads that call this with the same table and counters and with scratch of their own.

    Every operation has `parts` pieces, by columns, rows or heads. Whoever is free takes the next once all pieces of the
    operation before are done: a thread that comes late or never is not waited for. counters: int64 [16], zeros at
    first, the pieces taken and, a cache line away, those done. False: others were waited for in vain, call again; True:
    no piece is left to take.
    """
    taken, done = address(counters), address(counters) + 64
    while True:
        piece = take(taken, 0)
        before = piece // parts * parts
        if before >= program.shape[0] * parts:
            return True
        if not waited_for(done, before, PATIENCE):
            return False
        if take_this(taken, piece):
            step = program[piece // parts]
            perform(step, numbers, table, widths, ids, types, starts, address(scratch), piece - before, parts)
            take(done, 1)


@inline
def _share(count, part, parts):
    """Where a part of `count` things begins and ends."""
    return count * part // parts, count * (part + 1) // parts


@kernel
def perform(step, numbers, table, widths, ids, types, starts, memory, part, parts):
    """One operation, or one of `parts` of it: some of its columns, rows or heads."""
    op = step[OP]
    rows = np.int64(starts.size - 1 if step[PER_TEXT] else ids.size)
    x, out = table[step[X]], table[step[OUT]]
    if op == EMBED:
        _embed(step, numbers, table, widths, ids, types, starts, part, parts)
    elif op == NORM:
        first, last = _share(rows, part, parts)
        _norm(step, numbers, table, widths, first, last)
    elif op == LINEAR:
        begin, end = _share(step[WIDTH] // PANEL, part, parts)
        linear_at(
            x, widths[step[X]], rows, step[K], table[step[W]], step[EXTRA] == 1, table[step[BIAS]],
            table[step[RESIDUAL]], step[KIND], out, step[WIDTH], begin * PANEL, end * PANEL, memory,
        )  # fmt: skip
    elif op == QUANTIZE:
        first, last = _share(rows, part, parts)
        width, codes = widths[step[CODES]], table[step[CODES]]
        quantize_at(
            x + widths[step[X]] * first, widths[step[X]], last - first, step[K], step[CHANNEL], codes + width * first,
            width, table[step[TERMS]] + TERM * first,
        )  # fmt: skip
    elif op == LINEAR8:
        begin, end = _share(step[WIDTH] // PANEL, part, parts)
        linear8_at(
            table[step[CODES]], widths[step[CODES]], table[step[TERMS]], rows, step[K], table[step[W]],
            table[step[COLUMNS]], table[step[BIAS]], table[step[RESIDUAL]], step[KIND], out, step[WIDTH],
            begin * PANEL, end * PANEL,
        )  # fmt: skip
    elif op in (ATTEND, ATTEND16):
        width, stride = step[WIDTH], widths[step[X]]
        first, last = _share(step[EXTRA], part, parts)
        channels, here = 4 * step[EXTRA] * width, x + 4 * width * first
        operands = (
            here, here + channels, here + 2 * channels, stride, stride, stride, starts, last - first, width,
            numbers[step[NUMBER]], step[PER_TEXT] == 1, out + 4 * width * first, widths[step[OUT]], memory,
        )  # fmt: skip
        if op == ATTEND:
            attend_at(*operands)
        else:
            attend16_at(*operands)
    else:
        stride = widths[step[OUT]]
        first, last = _share(starts.size - 1, part, parts)
        for text in range(first, last):
            copy_block(x + stride * starts[text], stride // 4, out + stride * text)


@kernel
def forward(program, numbers, table, widths, ids, types, starts, scratch, at_once, place, out, parts, counters):
    """With parts > 1: `run_shared`. Else `run` on parts of a batch, of as many texts as have `at_once` tokens together,
    or of a single text; returns True.

    The result, which each part leaves at `place` in the table, goes to out [T, C], or [B, C] where it is per text.
    (Two kernels would take Numba twice as long: each would hold all operations.)
    """
    if parts > 1:
        return run_shared(program, numbers, table, widths, ids, types, starts, scratch, parts, counters)
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
    return True


@inline
def _norm(step, numbers, table, widths, first, last):
    """Normalizes rows in place and, where the program says so, quantizes them too."""
    x, stride, n, channel = table[step[OUT]], widths[step[OUT]], step[K], step[CHANNEL]
    gamma, beta, eps = table[step[W]], table[step[BIAS]], numbers[step[NUMBER]]
    for t in range(first, last, TOGETHER):
        here, rows = x + stride * t, min(TOGETHER, last - t)
        ends = norm_rows(here, stride, rows, n, gamma, beta, eps, channel)
        if step[CODES] >= 0:
            codes, width = table[step[CODES]], widths[step[CODES]]
            code_rows(here, stride, rows, n, channel, ends, codes + width * t, width, table[step[TERMS]] + TERM * t)


@inline
def _embed(step, numbers, table, widths, ids, types, starts, part, parts):
    """X: the table of words (KIND 1: float16), EXTRA and the next: positions and types."""
    word, out = table[step[X]], table[step[OUT]]
    position, kind = table[step[EXTRA]], table[step[EXTRA] + 1]
    first, last = _share(ids.size, part, parts)
    for text in range(starts.size - 1):
        for t in range(max(first, starts[text]), min(last, starts[text + 1])):
            row = out + widths[step[OUT]] * t
            a = word + widths[step[X]] * np.int64(ids[t])
            b = position + widths[step[EXTRA]] * (t - starts[text])
            c = kind + widths[step[EXTRA] + 1] * np.int64(types[t])
            if step[KIND] == 1:
                sum_half_rows(a, b, c, step[K], row)
            else:
                sum_float_rows(a, b, c, step[K], row)
    _norm(step, numbers, table, widths, first, last)
