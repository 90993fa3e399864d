"""A step of AdamW in one pass over parameters, gradients and moments; the slow twin is `train.optimizer.adamw`."""

from __future__ import annotations

import numpy as np

from .cache import kernel


@kernel
def adamw(p, g, first, second, decay, beta1, beta2, rate, correction, eps):
    """All flat float32 arrays of one length, p, first and second changed in place; the rest float32 numbers."""
    one = np.float32(1)
    for i in range(p.size):
        m = first[i] + (one - beta1) * (g[i] - first[i])
        v = second[i] * beta2 + (one - beta2) * g[i] * g[i]
        first[i] = m
        second[i] = v
        p[i] = p[i] * decay - rate * m / (np.sqrt(v) * correction + eps)
