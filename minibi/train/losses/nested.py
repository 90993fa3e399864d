"""Losses made of losses: one at several widths at once (Matryoshka), a teacher's beside that of the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...errors import InputError
from .ranking import info_nce
from .similarity import Loss, LossFunction, as_floats, positive, unit, unit_grad


def matryoshka(
    loss: LossFunction,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    *,
    normalize: bool = True,
    truncated: Sequence[str] = (),
) -> LossFunction:
    """`loss` as the weighted sum of itself on the first d components, for each d of dims (Kusupati et al. 2022,
    equation 1).

    Every positional array [., C] is cut, and scaled to length 1 again if normalize is set (which changes nothing for
    cosine); single numbers, such as a learned scale, pass as they are. truncated: keywords whose arrays are cut too,
    such as a teacher's vectors. weights: 1 each by default. Raises InputError.
    """
    dims = [int(d) for d in dims]
    weights = [1.0] * len(dims) if weights is None else [float(w) for w in weights]
    if not dims or min(dims) < 1 or len(set(dims)) < len(dims):
        raise InputError(f"dims must be different widths of at least 1, such as [384, 128, 32], not {dims}")
    if len(weights) != len(dims) or not all(0 <= w < np.inf for w in weights):
        raise InputError(f"weights must be {len(dims)} numbers of at least 0, one for each width, not {weights}")

    def nested(*arrays: Any, **options: Any) -> Loss:
        arrays = tuple(as_floats("embeddings", x) if np.ndim(x) else np.asarray(x) for x in arrays)
        width = min((x.shape[-1] for x in arrays if x.ndim), default=0)
        if max(dims) > width:
            raise InputError(f"dims ask for {max(dims)} components, but the vectors have {width}")
        total, gradients = 0.0, [np.zeros_like(x) for x in arrays]
        for d, weight in zip(dims, weights, strict=True):
            cut = [np.ascontiguousarray(x[:, :d]) if x.ndim else x for x in arrays]
            given = [unit(x) if x.ndim and normalize else x for x in cut]
            value, slopes = loss(*given, **{k: _cut(v, d) if k in truncated else v for k, v in options.items()})
            total += weight * value
            for i, (x, slope) in enumerate(zip(cut, slopes, strict=True)):
                if x.ndim:
                    gradients[i][:, :d] += weight * (unit_grad(slope, x) if normalize else slope)
                else:
                    gradients[i] = gradients[i] + weight * slope
        return total, tuple(gradients)

    return nested


def _cut(value: Any, d: int) -> Any:
    return value[..., :d] if isinstance(value, np.ndarray) else [v[..., :d] for v in value]


def with_labels(loss: LossFunction, weight: float = 1.0, scale: float = 20.0) -> LossFunction:
    """`loss` of queries, positives and hard negatives with a teacher, + weight * `info_nce` of the same at `scale`.

    Soft targets beside hard ones (Hinton, Vinyals & Dean 2015, section 2). Raises InputError.
    """
    weight, scale = positive("label_weight", weight), positive("label_scale", scale)

    def both(*arrays: Any, **given: Any) -> Loss:
        (soft, of_soft), (hard, of_hard) = loss(*arrays, **given), info_nce(*arrays, scale=scale)
        slopes = zip(of_soft, of_hard, strict=True)
        return soft + weight * hard, tuple(s + s.dtype.type(weight) * h for s, h in slopes)

    return both
