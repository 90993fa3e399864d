"""Models as recorded programs: a forward pass is written once, recorded once, and replayed as one call without the GIL.

`Recorder` has the verbs of `plain`, but computes nothing: each verb appends an operation and returns a handle to where
its result will stand. `Program.run` replays the operations on a batch, with memory of the calling thread's own. The
operations are the kernels that `fused` calls, so the results have the same bits.
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from time import sleep
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..kernels import attention, attention16, int8, matmul
from ..kernels import program as op
from ..kernels.simd import LANES
from ..shapes import Floats, Ints, aligned
from ..threads import PAUSE, on_each
from .fused import Packed, PackedBytes
from .memory import empty

ALIGNMENT = 64


@dataclass
class Value:
    """Where a result will stand: a row of `width` floats, of which `channels` count, for each token (or each text).

    Its memory is free for others once nobody holds the handle: recording follows Python's own reference counts.
    """

    recorder: Recorder
    place: int
    channels: int
    width: int
    per_text: bool = False
    codes: dict[int, tuple[int, int]] = field(default_factory=dict)  # channel left out -> places of bytes and terms
    norm: list[int] | None = None  # the step it comes from, if that one can also write codes
    spare: tuple[int, int] | None = None  # places that step may write them to

    def __del__(self) -> None:
        self.recorder.release(self)


@dataclass
class Heads:
    """Queries, keys or values: a part of a value that holds all three."""

    whole: Value
    heads: int
    width: int


class Recorder:
    """The verbs of `plain`, recorded."""

    def __init__(self) -> None:
        self.steps: list[list[int]] = []
        self.numbers: list[float] = []
        self.operands: list[NDArray | int] = []  # an array of weights, or a row's size in bytes
        self._places: dict[int, int] = {}
        self._free: dict[tuple[int, ...], list[int]] = {}

    def _weight(self, *arrays: NDArray) -> int:
        """The place of an array, and of others right behind it."""
        if id(arrays[0]) not in self._places:
            self._places[id(arrays[0])] = len(self.operands)
            self.operands.extend(arrays)
        return self._places[id(arrays[0])]

    def _room(self, *sizes: int) -> int:
        """The place of memory for rows of `sizes` bytes, one behind the other."""
        if free := self._free.get(sizes):
            return free.pop()
        self.operands.extend(sizes)
        return len(self.operands) - len(sizes)

    def _value(self, channels: int, width: int, per_text: bool) -> Value:
        return Value(self, self._room(4 * width), channels, width, per_text)

    def release(self, value: Value) -> None:
        self._free.setdefault((4 * value.width,), []).append(value.place)
        for codes, terms in [*value.codes.values(), *filter(None, [value.spare])]:
            self._free.setdefault((_code_width(value.channels),), []).append(codes)
            self._free.setdefault((int8.TERM,), []).append(terms)

    def _number(self, x: float) -> int:
        self.numbers.append(x)
        return len(self.numbers) - 1

    def _step(self, code: int, **fields: int) -> list[int]:
        row = [-1] * op.FIELDS
        row[op.OP] = code
        row[op.PER_TEXT] = 0
        for name, number in fields.items():
            row[getattr(op, name)] = int(number)
        self.steps.append(row)
        return row

    def _code_room(self, value: Value) -> tuple[int, int]:
        return self._room(_code_width(value.channels)), self._room(int8.TERM)

    def _codes(self, x: Value, channel: int) -> tuple[int, int]:
        """Places of a value's bytes and terms, written by the norm it comes from or by a step of their own."""
        if channel not in x.codes:
            if x.norm is not None and x.spare is not None:
                x.codes[channel], step = x.spare, x.norm
                x.norm = x.spare = None
            else:
                x.codes[channel] = self._code_room(x)
                step = self._step(op.QUANTIZE, X=x.place, K=x.channels, PER_TEXT=x.per_text)
            (step[op.CODES], step[op.TERMS]), step[op.CHANNEL] = x.codes[channel], channel
        return x.codes[channel]

    def embed(
        self, ids: Any, types: Any, positions: Any, word: Any, position: Any, token_type: Any, *norm: Any
    ) -> Value:
        gamma, beta, eps = norm
        channels = position.shape[1]
        word, position, token_type = (_readable(table) for table in (word, position, token_type))
        value = self._value(channels, len(gamma), False)
        self._step(
            op.EMBED, X=self._weight(word), EXTRA=self._weight(position, token_type), OUT=value.place, K=channels,
            W=self._weight(gamma), BIAS=self._weight(beta), NUMBER=self._number(eps), KIND=word.dtype == np.float16,
        )  # fmt: skip
        return value

    def _linear(self, x: Value, w: Packed | PackedBytes, b: Floats, kind: int, residual: Value | None = None) -> Value:
        out = self._value(w.n, w.width, x.per_text)
        fields = {
            "X": x.place, "OUT": out.place, "BIAS": self._weight(b), "K": w.k, "WIDTH": w.width, "KIND": kind,
            "RESIDUAL": out.place if residual is None else residual.place, "PER_TEXT": x.per_text,
        }  # fmt: skip
        if isinstance(w, Packed):
            self._step(op.LINEAR, W=self._weight(w.panels), EXTRA=w.halves, **fields)
            return out
        codes, terms = self._codes(x, w.channel)
        columns = self._weight(w.columns)
        self._step(op.LINEAR8, W=self._weight(w.panels), CODES=codes, TERMS=terms, COLUMNS=columns, **fields)
        return out

    def linear(self, x: Value, w: Any, b: Floats) -> Value:
        return self._linear(x, w, b, matmul.NONE)

    def linear_gelu(self, x: Value, w: Any, b: Floats) -> Value:
        return self._linear(x, w, b, matmul.GELU)

    def linear_gelu_tanh(self, x: Value, w: Any, b: Floats) -> Value:
        return self._linear(x, w, b, matmul.GELU_TANH)

    def linear_relu(self, x: Value, w: Any, b: Floats) -> Value:
        return self._linear(x, w, b, matmul.RELU)

    def linear_add_norm(self, x: Value, residual: Value, w: Any, b: Floats, *norm: Any) -> Value:
        out = self._linear(x, w, b, matmul.RESIDUAL, residual)
        gamma, beta, eps = norm
        out.norm = self._step(
            op.NORM, X=out.place, OUT=out.place, K=out.channels, W=self._weight(gamma), BIAS=self._weight(beta),
            NUMBER=self._number(eps), PER_TEXT=out.per_text,
        )  # fmt: skip
        out.spare = self._code_room(out) if isinstance(w, PackedBytes) else None  # one pass will do both
        return out

    def qkv(self, h: Value, w: Any, b: Floats, heads: int) -> tuple[Heads, Heads, Heads]:
        whole = Heads(self.linear(h, w, b), heads, h.channels // heads)
        return whole, whole, whole

    def attend(self, q: Heads, k: Heads, v: Heads, starts: Any, first_only: bool = False) -> Value:
        return self._attend(op.ATTEND, q, first_only)

    def attend16(self, q: Heads, k: Heads, v: Heads, starts: Any, first_only: bool = False) -> Value:
        return self._attend(op.ATTEND16, q, first_only)

    def _attend(self, code: int, q: Heads, first_only: bool) -> Value:
        channels = q.heads * q.width
        out = self._value(channels, -(-channels // matmul.PANEL) * matmul.PANEL, first_only)
        self._step(
            code, X=q.whole.place, OUT=out.place, EXTRA=q.heads, WIDTH=q.width, PER_TEXT=first_only,
            NUMBER=self._number(1 / math.sqrt(q.width)),
        )  # fmt: skip
        return out

    def first_rows(self, h: Value, starts: Any) -> Value:
        out = self._value(h.channels, h.width, True)
        self._step(op.FIRST_ROWS, X=h.place, OUT=out.place, PER_TEXT=1)
        return out


def _code_width(channels: int) -> int:
    return -(-channels // LANES) * LANES


def _readable(table: NDArray) -> NDArray:
    """A table of float16 or float32 whose rows may be read in whole vectors."""
    if table.dtype not in (np.float16, np.float32):
        table = table.astype(np.float32)
    if table.shape[1] % LANES == 0:
        return table
    return np.pad(table, ((0, 0), (0, LANES - table.shape[1] % LANES)))


@dataclass
class _Memory:
    """One thread's memory for batches up to some size."""

    tokens: int
    texts: int
    longest: int
    arena: NDArray[np.uint8]
    table: Ints
    scratch: Floats


_ALONE = np.zeros(16, np.int64)


@dataclass
class Program:
    """A recorded forward pass; `result` is where it ends."""

    recorder: Recorder
    result: Value
    heads: tuple[int, int]  # of the attention: how many, how wide
    at_once: int = 512  # tokens that go through all layers together: their activations should stay in cache
    worth_sharing: float = 4e7  # multiplications of float32 for one text: half a millisecond, ten times a thread's call
    _threads: threading.local = field(default_factory=threading.local)
    _sharing: threading.Lock = field(default_factory=threading.Lock)  # many texts at once: each on its own thread

    def __post_init__(self) -> None:
        r = self.recorder
        self._steps = np.array(r.steps, np.int64).reshape(-1, op.FIELDS)
        self._numbers = np.array(r.numbers, np.float32)
        self._widths = np.array([o if isinstance(o, int) else o.itemsize * o.shape[-1] for o in r.operands], np.int64)
        self._deepest = int(self._steps[:, op.K].max(initial=1))
        products = (self._steps[:, op.K] * self._steps[:, op.WIDTH]).astype(float)
        kinds = self._steps[:, op.OP]
        self._work = float(products[kinds == op.LINEAR].sum() + products[kinds == op.LINEAR8].sum() / 3)

    def run(self, ids: NDArray[np.int32], types: NDArray[np.int32], starts: Ints, threads: int = 1) -> Floats:
        """The result on a packed batch: [T, C], or [B, C] if it was recorded for the first tokens alone.

        threads: of which a single text may make use; the bits are the same.
        """
        longest = len(ids) if len(starts) == 2 else int(np.diff(starts).max())
        shared = threads > 1 and len(starts) == 2 and len(ids) * self._work >= self.worth_sharing
        if shared and self._sharing.acquire(blocking=False):
            try:
                return self._run_shared(ids, types, starts, threads)
            finally:
                self._sharing.release()
        memory = self._memory(min(len(ids), max(self.at_once, longest)), min(len(starts) - 1, self.at_once), longest)
        out = empty((len(starts) - 1 if self.result.per_text else len(ids), self.result.channels))
        self._forward(memory.table, ids, types, starts, memory.scratch, out, 1, _ALONE)
        return out

    def _run_shared(self, ids: NDArray[np.int32], types: NDArray[np.int32], starts: Ints, threads: int) -> Floats:
        """One text by several threads in the memory of the calling one, each with scratch of its own."""
        memory = self._memory(len(ids), 1, len(ids))
        counters = np.zeros(16, np.int64)

        out = empty((1 if self.result.per_text else len(ids), self.result.channels))

        def some() -> None:
            scratch = self._memory(len(ids), 1, len(ids)).scratch
            while not self._forward(memory.table, ids, types, starts, scratch, out, threads, counters):
                sleep(PAUSE)  # a thread was held up in the middle of its work

        on_each(some, threads)
        begin = memory.table[self.result.place] - memory.arena.ctypes.data
        states = memory.arena[begin : begin + 4 * self.result.width * len(out)].view(np.float32)
        out[:] = states.reshape(len(out), self.result.width)[:, : self.result.channels]
        return out

    def _forward(
        self, table: Ints, ids: Any, types: Any, starts: Ints, scratch: Floats, out: Floats, *way: Any
    ) -> bool:
        batch = (ids, types, starts, scratch, self.at_once, self.result.place, out)
        return bool(op.forward(self._steps, self._numbers, table, self._widths, *batch, *way))

    def _memory(self, tokens: int, texts: int, longest: int) -> _Memory:
        memory: _Memory | None = getattr(self._threads, "memory", None)
        if memory is not None:
            if tokens <= memory.tokens and texts <= memory.texts and longest <= memory.longest:
                return memory
            tokens, texts = max(tokens, memory.tokens), max(texts, memory.texts)  # never smaller than before
            longest = max(longest, memory.longest)
        tokens, texts = -(-tokens // ALIGNMENT) * ALIGNMENT, -(-texts // ALIGNMENT) * ALIGNMENT
        rows = max(tokens, texts)
        sizes = [rows * o if isinstance(o, int) else 0 for o in self.recorder.operands]
        starts = np.cumsum([0, *(-(-s // ALIGNMENT) * ALIGNMENT for s in sizes)])
        arena = aligned((int(starts[-1]) + ALIGNMENT,), np.uint8)
        table = np.array(
            [
                arena.ctypes.data + start if isinstance(o, int) else o.ctypes.data
                for o, start in zip(self.recorder.operands, starts[:-1].tolist(), strict=True)
            ],
            np.int64,
        )
        need = self._deepest * matmul.PANEL
        for floats in (attention.scratch_floats, attention16.scratch_floats16):
            need = max(need, floats.py_func(longest, self.heads[1]))
        self._threads.memory = _Memory(tokens, texts, longest, arena, table, aligned((need,)))
        return self._threads.memory
