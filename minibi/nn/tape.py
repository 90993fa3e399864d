"""Backpropagation: a `Tape` has the verbs of an interpreter, notes each call, and walks back through their gradients.

    tape = Tape(plain, watched=[w, b])
    y = tape.linear(x, w, b)            # computes, and notes the call
    dw, db = tape.gradients([y], [dy], of=[w, b])

Only what leads from a watched array to the result is noted, so a frozen layer costs neither memory nor time on the way
back. An array is known by its identity: what is done to it outside of the verbs is not seen.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from ..errors import InputError
from . import plain
from .dropout import Dropout

Array = Any
_DROPS = {"embed": "hidden", "linear_add_norm": "hidden", "dropout": "hidden", "attend": "attention"}


@dataclass
class _Call:
    verb: str
    args: tuple[Any, ...]
    options: dict[str, Any]
    wanted: tuple[bool, ...]
    results: tuple[Array, ...]
    several: bool  # the verb returned a tuple


class Tape:
    """The verbs of `ops`, recorded. watched: arrays whose gradients will be asked for. dropout: none by default.

    `ops` has its gradients in a table GRAD. Where it also has a verb in a table KEEP, that one is called instead: it
    returns (result, kept), and the gradient gets what was `kept` so as not to compute it again. Its tables ONTO, SLOPED
    and TIMES name gradients that do two steps in one pass over memory: see `minibi.nn.fused_grad`.
    """

    name = "tape"

    def __init__(self, ops: Any = plain, watched: Iterable[Array] = (), dropout: Dropout | None = None):
        self._ops, self._dropout = ops, dropout
        self._calls: list[_Call] = []
        self._arrays = {id(a): a for a in watched}  # whatever needs a gradient; holding it keeps its identity unique
        self._places = 0
        self._onto, self._sloped, self._times = (getattr(ops, name, ()) for name in ("ONTO", "SLOPED", "TIMES"))

    def matrix(self, w: Array) -> Array:
        """A stored weight [N, K] as a view [K, N], so that its gradient has the stored layout."""
        return self.transpose(w)

    def vector(self, x: Array) -> Array:
        return x

    table = vector

    def __getattr__(self, verb: str) -> Callable[..., Any]:
        if verb not in self._ops.GRAD:
            raise AttributeError(f"{verb} has no gradient")
        return partial(self._call, verb)

    def _call(self, verb: str, *args: Any, **options: Any) -> Any:
        if self._dropout is not None and verb in _DROPS:
            self._places += 1
            rate = getattr(self._dropout, _DROPS[verb])
            options["drop"] = self._dropout.place(self._places, rate, len(args[0]))
        wanted = tuple(id(a) in self._arrays for a in args)
        keep = getattr(self._ops, "KEEP", {}).get(verb) if any(wanted) else None
        if keep is None:
            result = getattr(self._ops, verb)(*args, **options)
        else:
            result, options["kept"] = keep(*args, **options)
        if any(wanted):
            results = result if isinstance(result, tuple) else (result,)
            self._calls.append(_Call(verb, args, options, wanted, results, isinstance(result, tuple)))
            self._arrays.update((id(y), y) for y in results)
        return result

    def gradients(self, results: Sequence[Array], dys: Sequence[Array], of: Sequence[Array]) -> list[Array]:
        """dL/dx for each watched array x in `of`, given dL/dy for each y of `results`; None where L does not depend.

        The tape is used up: what it held is released on the way back. Raises InputError.
        """
        grads: dict[int, Array] = {}
        for y, dy in zip(results, dys, strict=True):
            if dy.shape != y.shape:
                raise InputError(f"the gradient has shape {list(dy.shape)}, the result {list(y.shape)}")
            self._accumulate(grads, y, dy.copy())  # the tape adds to what it holds
        asked = {id(x) for x in of}
        slopes = self._slopes(asked | grads.keys())
        while self._calls:
            call = self._calls.pop()
            dy = [grads.get(id(y)) if id(y) in asked else grads.pop(id(y), None) for y in call.results]
            for y in call.results:
                self._arrays.pop(id(y), None)
            if all(d is None for d in dy):
                continue
            whole = [np.zeros_like(y) if d is None else d for y, d in zip(call.results, dy, strict=True)]
            if call.verb in _SELECTIVE:
                call.options["wanted"] = call.wanted
            if call.verb in self._onto and call.wanted[0]:
                call.options["onto"] = grads.get(id(call.args[0]))
            if call.verb in self._times:
                call.options["slope"] = slopes.get(id(call.args[0]))
            if call.verb in self._sloped:
                call.options["sloped"] = id(call.results[0]) in slopes
            found = self._ops.GRAD[call.verb](tuple(whole) if call.several else whole[0], *call.args, **call.options)
            for arg, wants, grad in zip(call.args, call.wanted, found, strict=False):
                if wants and grad is not None:
                    self._accumulate(grads, arg, grad)
        return [grads.get(id(x)) for x in of]

    def _slopes(self, seen: set[int]) -> dict[int, Array]:
        """Slopes of results that nobody outside has seen and one verb has used, one that can multiply by them."""
        uses = Counter(id(a) for call in self._calls for a in call.args)
        made = {id(c.results[0]): c.options.get("kept") for c in self._calls if c.verb in self._sloped}
        used = [id(c.args[0]) for c in self._calls if c.verb in self._times]
        return {y: made[y] for y in used if made.get(y) is not None and uses[y] == 1 and y not in seen}

    def _accumulate(self, grads: dict[int, Array], x: Array, grad: Array) -> None:
        if id(x) not in grads:
            grads[id(x)] = grad
        elif grads[id(x)] is not grad:  # not yet added
            self._ops.accumulate(grads[id(x)], grad)


# verbs whose gradients leave out what nobody wants
_SELECTIVE = {
    "embed", "linear", "linear_add_norm", "linear_gelu", "linear_gelu_tanh", "linear_relu", "linear_sigmoid",
    "linear_tanh", "qkv",
}  # fmt: skip
