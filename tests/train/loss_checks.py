"""What the tests of losses share: central differences, and arrays that hypothesis draws."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

seeds = st.integers(0, 2**32 - 1)


def normal(seed: int, *shape: int, dtype=np.float64) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def check_gradient(loss, *arrays, step: float = 1e-4, tolerance: float = 1e-6) -> float:
    """Holds the gradient of loss(*arrays) -> (value, gradients) against five-point central differences, number by
    number; relative to the gradient's largest component. Returns the value."""
    arrays = [np.array(x, np.float64) for x in arrays]
    value, gradients = loss(*arrays)
    assert isinstance(value, float)
    assert len(gradients) == len(arrays)
    for x, gradient in zip(arrays, gradients, strict=True):
        gradient = np.asarray(gradient)
        assert gradient.dtype == np.float64
        assert gradient.shape == x.shape
        numeric = np.empty_like(x)
        for i in np.ndindex(x.shape):
            kept, f = x[i], {}
            for k in (-2, -1, 1, 2):
                x[i] = kept + k * step
                f[k] = loss(*arrays)[0]
            x[i] = kept
            numeric[i] = (8 * (f[1] - f[-1]) - (f[2] - f[-2])) / (12 * step)
        size = max(np.abs(numeric).max(), np.abs(gradient).max(), 1e-4)
        assert np.abs(numeric - gradient).max() <= tolerance * size, (numeric, gradient)
    return value
