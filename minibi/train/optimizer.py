"""AdamW (Loshchilov & Hutter 2019), clipping by the global norm, and schedules of the learning rate.

    optimizer = AdamW(model.trainable, lr=2e-5)
    schedule = linear_schedule(steps=1000, warmup=100)
    norm = clip(gradients, 1.0)
    optimizer.step(gradients, scale=schedule(n))       # n = 0, 1, 2, ...

Parameters change in place. The same numbers give the same bits, on any number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from ..environment import plain_kernels
from ..errors import InputError
from ..threads import parallel_map

Arrays = Mapping[str, NDArray]
CHUNK = 1 << 18  # numbers one thread works on at a time


class AdamW:
    """Adam with decoupled weight decay; names and defaults as in PyTorch.

    Norms and biases (all parameters of one dimension) do not decay. The first two moments are kept in the parameters'
    own type. Raises InputError.
    """

    def __init__(
        self,
        parameters: Arrays,
        lr: float = 2e-5,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        threads: int | None = None,
    ):
        if lr < 0 or eps <= 0 or weight_decay < 0 or not all(0 <= b < 1 for b in betas):
            raise InputError(f"lr {lr}, betas {betas}, eps {eps} and weight_decay {weight_decay} do not make an AdamW")
        if any(not p.flags.c_contiguous or not p.flags.writeable for p in parameters.values()):
            raise InputError("parameters are changed in place: they must be contiguous and writeable")
        self.parameters = dict(parameters)
        self.lr, self.betas, self.eps, self.weight_decay, self.threads = lr, betas, eps, weight_decay, threads
        self.steps = 0
        self._first = {name: np.zeros_like(p) for name, p in self.parameters.items()}
        self._second = {name: np.zeros_like(p) for name, p in self.parameters.items()}

    def step(self, gradients: Arrays, scale: float = 1.0) -> None:
        """One step along gradients of the same names, at `scale` times the learning rate. Raises InputError."""
        if gradients.keys() != self.parameters.keys():
            raise InputError("the gradients are not those of the optimizer's parameters: pass one for each name")
        if wrong := [name for name, p in self.parameters.items() if gradients[name].shape != p.shape]:
            raise InputError(f"the gradient of {wrong[0]!r} has another shape than the parameter")
        self.steps += 1
        update = _twin()
        numbers = _numbers(self.lr * scale, self.betas, self.eps, self.steps)

        def change(part: tuple[str, int]) -> None:
            name, begin = part
            p = self.parameters[name]
            arrays = (p, gradients[name], self._first[name], self._second[name])
            flat = [a.reshape(-1)[begin : begin + CHUNK] for a in arrays]
            flat[1] = np.ascontiguousarray(flat[1], p.dtype)
            decay = 1 - self.lr * scale * self.weight_decay if p.ndim > 1 else 1.0
            (update if p.dtype == np.float32 else adamw)(*flat, *(p.dtype.type(n) for n in (decay, *numbers)))

        parts = [(name, begin) for name, p in self.parameters.items() for begin in range(0, p.size, CHUNK)]
        for _ in parallel_map(change, parts, self.threads):
            pass

    def state(self) -> dict[str, NDArray]:
        """All that a resumed run needs besides the parameters: arrays, to be stored under these names."""
        moments = {f"first.{name}": a for name, a in self._first.items()}
        moments |= {f"second.{name}": a for name, a in self._second.items()}
        return {"steps": np.array([self.steps], np.int64), **moments}

    def load_state(self, state: Arrays) -> None:
        """Takes over what `state` returned. Raises InputError, and has then changed nothing."""
        mine = self.state()
        if state.keys() != mine.keys() or any(state[name].shape != a.shape for name, a in mine.items()):
            raise InputError("the state belongs to an optimizer of other parameters: begin anew, or load its own")
        self.steps = int(state["steps"][0])
        for name, a in mine.items():
            if name != "steps":
                a[...] = state[name]


def _numbers(rate: float, betas: tuple[float, float], eps: float, steps: int) -> tuple[float, ...]:
    """What a step multiplies with: both betas, the rate and 1 / sqrt of the second moment, bias-corrected; eps."""
    return (*betas, rate / (1 - betas[0] ** steps), 1 / math.sqrt(1 - betas[1] ** steps), eps)


def adamw(p, g, first, second, decay, beta1, beta2, rate, correction, eps) -> None:
    """The step on flat arrays, all in place: algorithm 2 of the paper, with the bias correction in two numbers."""
    one = p.dtype.type(1)
    first += (one - beta1) * (g - first)
    second *= beta2
    second += (one - beta2) * g * g
    p *= decay
    p -= rate * first / (np.sqrt(second) * correction + eps)


def _twin() -> Callable[..., None]:
    """`adamw` as it runs: compiled, or as it stands above under MINIBI_KERNELS=plain."""
    if plain_kernels():
        return adamw
    from ..kernels import adamw as compiled

    return compiled.adamw


def global_norm(gradients: Arrays, threads: int | None = None) -> float:
    """The length of all gradients as one vector; the sum runs in a fixed order."""

    def squares(part: tuple[str, int]) -> float:
        flat = gradients[part[0]].reshape(-1)[part[1] : part[1] + CHUNK]
        return float(np.dot(flat, flat))

    parts = [(name, begin) for name, g in gradients.items() for begin in range(0, g.size, CHUNK)]
    return math.sqrt(math.fsum(parallel_map(squares, parts, threads)))


def clip(gradients: Arrays, max_norm: float, threads: int | None = None) -> float:
    """Scales gradients down, in place, if their global norm is above `max_norm`; returns the norm before.

    Raises InputError if the norm is not finite: the run has diverged.
    """
    norm = global_norm(gradients, threads)
    if not math.isfinite(norm):
        raise InputError("the gradients are not finite: lower the learning rate, or look for NaN in the loss")
    if norm > max_norm:
        for g in gradients.values():
            g *= g.dtype.type(max_norm / (norm + 1e-6))
    return norm


def linear_schedule(steps: int, warmup: int = 0) -> Callable[[int], float]:
    """Factors of the learning rate: from 0 up to 1 over `warmup` steps, then straight down to 0 at `steps`."""
    return _schedule(steps, warmup, lambda done: 1 - done)


def cosine_schedule(steps: int, warmup: int = 0) -> Callable[[int], float]:
    """As `linear_schedule`, but down along half a cosine (Loshchilov & Hutter 2017)."""
    return _schedule(steps, warmup, lambda done: 0.5 * (1 + math.cos(math.pi * done)))


def constant_schedule(warmup: int = 0) -> Callable[[int], float]:
    """From 0 up to 1 over `warmup` steps, and 1 from there on."""
    return lambda n: min(1.0, n / warmup) if warmup else 1.0


def _schedule(steps: int, warmup: int, shape: Callable[[float], float]) -> Callable[[int], float]:
    if not 0 <= warmup <= steps:
        raise InputError(f"a warm-up of {warmup} steps does not fit into {steps}")

    def factor(n: int) -> float:
        if n < warmup:
            return n / warmup
        return shape(min(1.0, (n - warmup) / max(1, steps - warmup)))

    return factor
