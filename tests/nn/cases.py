"""Random arguments of a linear verb, shared by the tests of floats and of bytes."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

EPS = 2.0**-24
WIDTHS = st.integers(1, 40) | st.sampled_from([63, 64, 65, 96, 128, 130, 300])
ROWS = st.sampled_from([1, 2, 5, 6, 7, 12, 13, 40])
MAGNITUDES = st.sampled_from([1e-4, 1.0, 1e3])
SEEDS = st.integers(0, 10**6)
ACTIVATIONS = ["linear_gelu", "linear_gelu_tanh", "linear_relu", "linear_tanh", "linear_sigmoid"]


class Case:
    """x [rows, k], a stored weight [n, k], bias, residual, and the gain and shift of a norm."""

    def __init__(self, rows, k, n, magnitude, seed):
        rng = np.random.default_rng(seed)
        draw = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
        self.x = draw(rows, k) * np.float32(magnitude)
        self.stored = draw(n, k) / np.float32(np.sqrt(k))
        self.b, self.residual = draw(n), draw(rows, n) * np.float32(magnitude)
        self.gamma, self.beta = draw(n), draw(n)
