"""linear and layer_norm as kernels: one fixed chain of operations per output, nothing written outside."""

from __future__ import annotations

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture(scope="module")
def matmul():
    from minibi.kernels import matmul

    return matmul


def guarded(rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(a [rows, width] array, the memory it lies in with 64 strange numbers on each side)."""
    memory = np.full(rows * width + 128, 12345.0, np.float32)
    return memory[64:-64].reshape(rows, width), memory


def one_chain(x: np.ndarray, w: np.ndarray) -> np.ndarray:
    """x @ w by one fused multiply-add after another: products are exact in float64, each sum is rounded to float32."""
    total = np.zeros((len(x), w.shape[1]), np.float32)
    for k in range(x.shape[1]):
        product = x[:, k].astype(np.float64)[:, None] * w[k].astype(np.float64)
        total = (product + total).astype(np.float32)
    return total


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 36, 20), (5, 7, 64), (6, 64, 65), (7, 384, 100), (13, 3, 257)])
def test_linear_is_one_chain_of_fused_multiply_adds(matmul, shape):
    rows, k, n = shape
    rng = np.random.default_rng(sum(shape))
    x = rng.standard_normal((rows, k)).astype(np.float32)
    w = rng.standard_normal((k, n)).astype(np.float32)
    panels = matmul.pack(w)
    width = len(panels) * matmul.PANEL
    bias, residual = (rng.standard_normal(s).astype(np.float32) for s in (width, (rows, width)))
    chain = one_chain(x, w)
    for kind in (matmul.NONE, matmul.RESIDUAL, matmul.RELU):
        out, memory = guarded(rows, width)
        matmul.linear(x, panels.view(np.uint8), False, bias, residual, kind, out)
        expected = chain + bias[:n]
        if kind == matmul.RESIDUAL:
            expected = expected + residual[:, :n]
        if kind == matmul.RELU:
            expected = np.maximum(expected, 0)
        assert np.array_equal(out[:, :n], expected)
        assert (memory[:64] == 12345).all() and (memory[-64:] == 12345).all()


def test_pack(matmul):
    w = np.arange(3 * 70, dtype=np.float32).reshape(3, 70)
    panels = matmul.pack(w)
    assert panels.shape == (-(-70 // matmul.PANEL), 3, matmul.PANEL)
    wide = np.concatenate(list(panels), axis=1)
    assert np.array_equal(wide[:, :70], w) and not wide[:, 70:].any()
    assert panels.ctypes.data % 64 == 0


def test_linear_of_no_rows(matmul):
    panels = matmul.pack(np.ones((4, 4), np.float32))
    out = np.empty((0, matmul.PANEL), np.float32)
    bias = np.zeros(matmul.PANEL, np.float32)
    matmul.linear(np.empty((0, 4), np.float32), panels.view(np.uint8), False, bias, out, matmul.NONE, out)


@pytest.mark.parametrize("channels", [1, 2, 15, 16, 17, 36, 384, 1000])
def test_layer_norm(matmul, channels):
    from minibi.kernels.norm import layer_norm

    rng = np.random.default_rng(channels)
    width = -(-channels // 16) * 16
    for scale in (1e-6, 1.0, 1e6):
        x, memory = guarded(5, width)
        x[:] = rng.standard_normal((5, width)) * scale + 0.3 * scale
        gamma, beta = rng.standard_normal((2, width)).astype(np.float32)
        d = x[:, :channels].astype(np.float64)
        centred = d - d.mean(1, keepdims=True)
        exact = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-12) * gamma[:channels] + beta[:channels]
        layer_norm(x, channels, gamma, beta, np.float32(1e-12))
        assert np.abs(x[:, :channels] - exact).max() < 1e-5
        assert (memory[:64] == 12345).all() and (memory[-64:] == 12345).all()


@pytest.mark.parametrize("channels", [1, 20, 384])
def test_rows_normalized_together_have_the_bits_of_each_alone(matmul, channels):
    from minibi.kernels.norm import layer_norm

    width = -(-channels // 16) * 16
    rng = np.random.default_rng(channels)
    gamma, beta = rng.standard_normal((2, width)).astype(np.float32)
    for rows in range(1, 10):
        x = rng.standard_normal((rows, width)).astype(np.float32) * 10.0 ** rng.integers(-3, 4, (rows, 1), np.int64)
        x[rng.integers(rows), 0] = np.inf  # what becomes of one row does not reach another
        x = x.astype(np.float32)
        alone = [row[None].copy() for row in x]
        for row in [x, *alone]:
            layer_norm(row, channels, gamma, beta, np.float32(1e-12))
        assert np.array_equal(x[:, :channels], np.concatenate(alone)[:, :channels], equal_nan=True)


def test_layer_norm_of_a_constant_row_is_beta(matmul):
    from minibi.kernels.norm import layer_norm

    x = np.full((1, 16), 7.0, np.float32)
    beta = np.arange(16, dtype=np.float32)
    layer_norm(x, 16, np.ones(16, np.float32), beta, np.float32(1e-12))
    assert np.array_equal(x[0], beta)
