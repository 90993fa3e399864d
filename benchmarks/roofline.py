"""What one core can do at most, how much of it the matrix kernel gets, and what two cores give together.

The peak is a loop that touches nothing but registers, written here apart from minibi's own SIMD layer: 24 (12 where
there are only 16 registers) independent sums, so that no instruction waits for another. float32: fused multiply-adds.
int8: the processor's own u8 x s8 dot product where the target has one (VNNI), else the three instructions that stand
in for it on AVX2; None where neither is known.
"""

from __future__ import annotations

import math
import multiprocessing
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

from minibi.models.running import TOKENS_AT_ONCE
from minibi.text.batches import Batch, pack, plan

from .common import Clock, Ratio, interleave, ratio, timed
from .contenders import Minibi
from .workloads import Workload

_f32, _i8, _i16, _i32 = ir.FloatType(), ir.IntType(8), ir.IntType(16), ir.IntType(32)
_FEATURES = set(cpu_target.target_context.codegen().magic_tuple()[2].split(","))
_WIDE, _AVX2 = "+avx512f" in _FEATURES, "+avx2" in _FEATURES
_BITS = 512 if _WIDE else 256 if _AVX2 else 128
_SUMS = 24 if _WIDE or not _AVX2 else 12
_VNNI = {512: "+avx512vnni", 256: "+avxvnni"}.get(_BITS, "") in _FEATURES

Emit = Callable[[ir.IRBuilder, Any, Any, Any], Any]


def _burn(vector: ir.VectorType, step: Emit) -> Any:
    """A compiled `(turns, x, y)`: every sum becomes step(sum, x, y), `turns` times over."""

    @intrinsic
    def loop(typing_context, turns, x, y):
        def generate(context, builder, signature, args):
            turns, *scalars = args
            x, y = (_spread(builder, scalar, vector) for scalar in scalars)
            # Numba turns these stack slots into registers. Different beginnings keep LLVM from merging equal sums.
            sums = [
                cgutils.alloca_once_value(builder, ir.Constant(vector, [i + 1] * vector.count)) for i in range(_SUMS)
            ]
            with cgutils.for_range(builder, turns):
                for total in sums:
                    builder.store(step(builder, builder.load(total), x, y), total)
            add = builder.fadd if vector.element == _f32 else builder.add
            result = builder.load(sums[0])
            for total in sums[1:]:
                result = add(result, builder.load(total))
            return builder.extract_element(result, _i32(0))

        scalar = types.float32 if vector.element == _f32 else types.int32
        return scalar(types.int64, scalar, scalar), generate

    @njit(nogil=True)
    def run(turns, x, y):
        return loop(turns, x, y)

    return run


def _spread(b: ir.IRBuilder, scalar: Any, vector: ir.VectorType) -> Any:
    nothing = ir.Constant(vector, ir.Undefined)
    first = b.insert_element(nothing, scalar, _i32(0))
    return b.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_i32, vector.count), [0] * vector.count))


def _call(b: ir.IRBuilder, name: str, result: ir.Type, *args: Any) -> Any:
    signature = ir.FunctionType(result, [a.type for a in args])
    return b.call(cgutils.get_or_insert_function(b.module, signature, name), args)


_floats, _ints = ir.VectorType(_f32, _BITS // 32), ir.VectorType(_i32, _BITS // 32)


def _fma(b: ir.IRBuilder, total: Any, x: Any, y: Any) -> Any:
    return _call(b, f"llvm.fma.v{_floats.count}f32", _floats, total, x, y)


def _dot(b: ir.IRBuilder, total: Any, x: Any, y: Any) -> Any:
    if _VNNI:
        return _call(b, f"llvm.x86.avx512.vpdpbusd.{_BITS}", _ints, total, x, y)
    bytes_, shorts = ir.VectorType(_i8, _BITS // 8), ir.VectorType(_i16, _BITS // 16)
    name = "avx512" if _WIDE else "avx2"
    pairs, quads = ("pmaddubs.w.512", "pmaddw.d.512") if _WIDE else ("pmadd.ub.sw", "pmadd.wd")
    # the running sum is an operand, or the compiler would multiply once and for all
    products = _call(b, f"llvm.x86.{name}.{pairs}", shorts, b.bitcast(total, bytes_), b.bitcast(x, bytes_))
    return b.add(total, _call(b, f"llvm.x86.{name}.{quads}", _ints, products, b.bitcast(y, shorts)))


_RUNS = {"float32": _burn(_floats, _fma), "int8": _burn(_ints, _dot) if _AVX2 or _WIDE else None}
_PER_TURN = {"float32": _SUMS * 2 * _floats.count, "int8": _SUMS * 8 * _ints.count}  # operations
_FACTORS = {"float32": (np.float32(0.5), np.float32(0.25)), "int8": (np.int32(3), np.int32(5))}


def burn(compute: str, turns: int) -> None:
    _RUNS[compute](turns, *_FACTORS[compute])


def peak_loop(compute: str, seconds: float = 0.02) -> tuple[Callable[[], None], float] | None:
    """(a loop of about `seconds`, its operations), None where the target has no such instruction."""
    if _RUNS[compute] is None:
        return None
    burn(compute, 10)
    probe = 100_000
    turns = max(1, int(probe * seconds / min(timed(lambda: burn(compute, probe)) for _ in range(3))))
    return lambda: burn(compute, turns), float(turns * _PER_TURN[compute])


# --- the matrix kernel ------------------------------------------------------------------------------------------------


class Steps:
    """A model's recorded forward pass on one batch, one operation at a time, in the memory it always uses.

    Reaches into minibi: `nn.replay.Program` and `kernels.program`.
    """

    def __init__(self, model: Minibi, batch: Batch):
        from minibi.kernels import program as op

        runner = model.bi_encoder._runner
        runner.states(batch)  # records the program, compiles, fills the memory
        program = runner._programs[False]
        memory = program._memory(len(batch.ids), len(batch), int(batch.lengths.max()))
        self._operands = (program._numbers, memory.table, program._widths)
        self._batch = (batch.ids, batch.types, batch.starts, memory.scratch)
        self._memory = memory  # the table holds bare addresses into it
        self._run, self._steps = op.run, program._steps
        names = {
            getattr(op, name): name for name in ("EMBED", "NORM", "LINEAR", "QUANTIZE", "LINEAR8", "ATTEND", "ATTEND16")
        }
        self.names = [names.get(step[op.OP], "other").lower() for step in self._steps]
        self.operations = [  # of the matrix products, else 0
            2.0 * len(batch.ids) * step[op.K] * step[op.WIDTH] if name.startswith("linear") else 0.0
            for name, step in zip(self.names, self._steps, strict=True)
        ]
        self.shapes = [f"{step[op.K]} to {step[op.WIDTH]}" for step in self._steps]

    def run(self, i: int) -> None:
        self._run(self._steps[i : i + 1], *self._operands, *self._batch)


def has_steps(model: Minibi) -> bool:
    """Whether this minibi records its forward pass (and is not told to run the plain twins)."""
    runner = getattr(model.bi_encoder, "_runner", None)
    return runner is not None and runner.ops.name == "fused"


def _batch_of(work: Workload, rows: int) -> Batch:
    """One text of `rows` tokens: texts of `work` end to end."""
    ids = np.concatenate([np.array(i, np.int32) for i in work.ids])[:rows]
    return pack([ids])


def alone(model: Minibi, compute: str, work: Workload, rows: int, rounds: int, clock: Clock) -> dict[str, Any] | None:
    """The first layer's matrix products by themselves, epilogues included: shares of the peak in the same rounds."""
    peak = peak_loop(compute)
    if peak is None or not has_steps(model):
        return None
    steps = Steps(model, _batch_of(work, rows))
    first = [i for i, operations in enumerate(steps.operations) if operations][:4]
    runs: dict[Any, Callable[[], None]] = {"peak": peak[0], **{i: partial(steps.run, i) for i in first}}
    for i in range(len(steps.names)):
        steps.run(i)  # so that all inputs are what they are in a real pass
    times = interleave(runs, rounds, seconds=0.02, clock=clock)
    best = [peak[1] / t for t in times["peak"]]  # operations per second, one figure per round
    shares = {steps.shapes[i]: ratio([steps.operations[i] / t for t in times[i]], best) for i in first}
    together = [sum(ts) for ts in zip(*(times[i] for i in first), strict=True)]
    shares["all four"] = ratio([sum(steps.operations[i] for i in first) / t for t in together], best)
    return {"peak_gops": Ratio.of(b / 1e9 for b in best), "rows": rows, "shares": shares}


def in_sequence(model: Minibi, compute: str, work: Workload, rounds: int, clock: Clock) -> dict[str, Any] | None:
    """Shares of the peak while real texts are encoded, and where the time goes.

    "kernels": multiplications / time of the matrix products, each operation of the pass being called and timed by
    itself in its place in the sequence. "model": multiplications / time from token ids to vectors, all included.
    "us_per_token": time of each kind of operation.
    """
    peak = peak_loop(compute)
    if peak is None or not has_steps(model):
        return None
    groups = plan(work.lengths, tokens=TOKENS_AT_ONCE[compute])
    batches = [Steps(model, pack([work.ids[i] for i in rows], [work.types[i] for i in rows])) for rows in groups]
    operations = sum(sum(steps.operations) for steps in batches)
    run = model.ids(work, threads=1)
    run()
    kernels, whole, spent = [], [], defaultdict(list)
    for _ in range(rounds):
        before = timed(peak[0], 1, clock)
        seconds: dict[str, float] = defaultdict(float)
        for steps in batches:
            for i, name in enumerate(steps.names):
                seconds[name] += timed(partial(steps.run, i), 1, clock)
        middle = timed(peak[0], 1, clock)
        everything = timed(run, 1, clock)
        after = timed(peak[0], 1, clock)
        products = sum(s for name, s in seconds.items() if name.startswith("linear"))
        kernels.append(operations / products / (2 * peak[1] / (before + middle)))
        whole.append(operations / everything / (2 * peak[1] / (middle + after)))
        for name, s in seconds.items():
            spent[name].append(1e6 * s / work.tokens)
    us = {name: Ratio.of(values) for name, values in spent.items()}
    return {"kernels": Ratio.of(kernels), "model": Ratio.of(whole), "us_per_token": us}


# --- two cores --------------------------------------------------------------------------------------------------------


def _burner(pipe: Any) -> None:
    burn("float32", 10)
    pipe.send(None)
    while (turns := pipe.recv()) is not None:
        burn("float32", turns)
        pipe.send(None)


class Burners:
    """Processes that run the float32 register loop on command: what the machine's cores give without any sharing."""

    def __init__(self, count: int, seconds: float = 0.5):
        run = peak_loop("float32", seconds)
        assert run is not None
        self._turns = math.ceil(run[1] / _PER_TURN["float32"])
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_burner, args=(theirs,), daemon=True)
            process.start()
            self._pipes.append(ours)
            self._processes.append(process)
        for pipe in self._pipes:
            pipe.recv()  # compiled

    def run(self, count: int) -> None:
        """The first `count` processes do the same work each, at the same time."""
        for pipe in self._pipes[:count]:
            pipe.send(self._turns)
        for pipe in self._pipes[:count]:
            pipe.recv()

    def __enter__(self) -> Burners:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.send(None)
            process.join()
