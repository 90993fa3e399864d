"""Is this gradient right? Asked of the function itself, by central differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..errors import InputError


def gradcheck(
    f: Callable[..., Any],
    f_grad: Callable[..., Sequence[Any]],
    args: Sequence[Any],
    *,
    step: float = 1e-4,
    seed: int = 0,
    **options: Any,
) -> float:
    """The largest relative error of `f_grad(dy, *args)` against differences of `f(*args)`: below 1e-6 is right.

    f returns an array or a tuple of them; f_grad returns one gradient for each argument, None for those without one.
    Each element of each float64 array in `args` is moved by one and two steps (relative to its size where above 1) to
    either side, which makes the differences exact up to the fourth power of the step; a kink (of relu, of max) within
    two steps spoils them. dy is random, from the seed. The error of an argument's gradient is the largest difference
    over the largest element, infinite where NaN is among them. Options go to both functions. Raises InputError for
    arguments that are no float64, and if none is there to be moved.
    """
    if not (callable(f) and callable(f_grad) and isinstance(args, Sequence)):
        raise InputError("gradcheck takes a function, its gradient and a list of their arguments")
    if not 0 < step < 1:
        raise InputError(f"step must be a number above 0 and below 1, not {step!r}")
    args = [a.copy() if isinstance(a, np.ndarray) else a for a in args]
    moving = [i for i, a in enumerate(args) if isinstance(a, np.ndarray) and a.dtype.kind == "f"]
    if any(args[i].dtype != np.float64 for i in moving):
        raise InputError("gradients are checked in float64: pass x.astype(np.float64)")
    if not moving:
        raise InputError("no argument is an array of floats: pass np.asarray(x, np.float64)")
    result = f(*args, **options)
    rng = np.random.default_rng(seed)
    several = isinstance(result, tuple)
    dys = [rng.standard_normal(np.shape(y)) for y in (result if several else (result,))]
    found = f_grad(tuple(dys) if several else dys[0], *args, **options)
    if not isinstance(found, (tuple, list)):
        raise InputError(f"f_grad must return a tuple, one gradient for each argument, not {type(found).__name__}")

    def value() -> float:
        y = f(*args, **options)
        return sum(float((dy * part).sum()) for dy, part in zip(dys, y if several else (y,), strict=True))

    worst = 0.0
    for i in moving:
        if i >= len(found) or found[i] is None:
            raise InputError(f"f_grad returned no gradient for argument {i}")
        if np.shape(found[i]) != args[i].shape:
            raise InputError(f"argument {i} has shape {args[i].shape}, its gradient {np.shape(found[i])}")
        expected = np.empty_like(args[i])
        for at in np.ndindex(args[i].shape):
            x, h = args[i][at], step * max(1.0, abs(args[i][at]))
            near, far = _difference(value, args[i], at, h), _difference(value, args[i], at, 2 * h)
            args[i][at] = x
            expected[at] = (8 * near - far) / (12 * h)
        if expected.size:
            error = np.abs(found[i] - expected).max()
            relative = float(error / max(np.abs(expected).max(), 1e-3))
            worst = max(worst, math.inf if math.isnan(relative) else relative)  # max() would pass over NaN
    return worst


def _difference(value: Callable[[], float], x: np.ndarray, at: tuple[int, ...], h: float) -> float:
    middle = x[at]
    x[at] = middle + h
    above = value()
    x[at] = middle - h
    below = value()
    x[at] = middle
    return above - below
