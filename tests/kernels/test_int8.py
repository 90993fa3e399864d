"""Products of bytes: whole numbers exactly, then one rounding per step; rows become bytes as the docstrings say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

pytestmark = pytest.mark.usefixtures("compiled")

WIDTHS = st.integers(1, 40) | st.sampled_from([63, 64, 65, 127, 130, 384])
ROWS = st.sampled_from([1, 2, 5, 6, 7, 12, 13, 30])
SEEDS = st.integers(0, 10**6)


@pytest.fixture(scope="module")
def int8():
    from minibi.kernels import int8

    return int8


@pytest.fixture(scope="module")
def products(int8):
    """products(a, panels, height): the int32 sums of the kernel's inner loop, before any of them is rounded."""
    from numba import njit

    from minibi.kernels import simd

    def compiled(height, tile):
        @njit
        def multiply(a, panels, out):
            groups, panel = panels.shape[1], panels.shape[2]
            for n in range(panels.shape[0]):
                b = panels.ctypes.data + n * groups * panel * 4
                for m in range(0, a.shape[0], height):
                    at = out.ctypes.data + 4 * (m * out.shape[1] + n * panel)
                    count = min(height, a.shape[0] - m)
                    tile(a.ctypes.data + m * a.shape[1], a.shape[1], b, groups, at, 4 * out.shape[1], count, b, 7)

        return multiply

    ways = {height: compiled(height, int8.tile_of_codes(height, int8.VECTORS, simd.dot_bytes)) for height in (6, 5, 4)}

    def products(a, panels, height=6):
        memory = np.full(len(a) * len(panels) * int8.PANEL + 128, -7, np.int32)
        out = memory[64:-64].reshape(len(a), -1)
        ways[height](a, panels, out)
        assert (memory[:64] == -7).all() and (memory[-64:] == -7).all(), "nothing outside is written"
        return out

    return products


def unpacked(int8, panels, k, n):
    """The panels of `pack8` as a plain matrix [K, N], and what was filled up."""
    whole = panels.transpose(1, 3, 0, 2).reshape(panels.shape[1] * 4, -1)
    return whole[:k, :n].astype(np.int64), whole


def wide_codes(rng, rows, k, pattern):
    """Unsigned bytes [rows, k filled up to 16], the filling not zero: it must not count."""
    codes = rng.integers(0, 256, (rows, -(-k // 16) * 16)).astype(np.uint8)
    if pattern == "ends":
        codes = np.where(codes > 127, 255, 0).astype(np.uint8)
    elif pattern != "random":
        codes[:] = int(pattern)
    return codes


PATTERNS = st.sampled_from(["random", "ends", "0", "127", "128", "255"])


@given(ROWS, WIDTHS, WIDTHS, PATTERNS, st.sampled_from(["random", "ends", "+", "-"]), st.sampled_from([4, 5, 6]), SEEDS)
def test_products_are_whole_numbers_exactly(int8, products, rows, k, n, pattern, weights, height, seed):
    rng = np.random.default_rng(seed)
    w = rng.integers(-127, 128, (k, n))
    if weights == "ends":
        w = np.where(w > 0, 127, -127)
    elif weights != "random":
        w = np.full_like(w, 127 if weights == "+" else -127)
    w[rng.integers(0, k), :] = 127  # then the scale is one and bytes are the numbers themselves
    a = wide_codes(rng, rows, k, pattern)
    w = np.concatenate([w, rng.integers(-9, 9, (1, n))])  # a channel that stays float: its codes do not count
    panels, (scales, sums, outlier) = int8.pack8(w.astype(np.float32), k)
    assert np.array_equal(outlier[:n], w[k]) and not outlier[n:].any()
    w = w[:k]
    assert np.array_equal(scales[:n], np.ones(n)) and np.array_equal(sums[:n], w.sum(0)) and not sums[n:].any()
    assert np.array_equal(unpacked(int8, panels, k, n)[0], w)
    a = np.pad(a, ((0, 0), (0, 16)), constant_values=77)
    found = products(a, panels, height)
    assert np.array_equal(found[:, :n], a[:, :k].astype(np.int64) @ w) and not found[:, n:].any()


@pytest.mark.parametrize(("code", "weight"), [(255, 127), (255, -127), (1, 127)])
def test_a_long_sum_does_not_overflow(int8, products, code, weight):
    """Not between instructions either: 66,000 products of the largest bytes are near the end of 32 bits."""
    k = 66_000
    a = np.full((3, k), code, np.uint8)
    w = np.full((k + 1, 2), weight, np.float32)
    w[:, 1] *= np.where(np.arange(k + 1) % 2, -1, 1)
    found = products(np.pad(a, ((0, 0), (0, 4))), int8.pack8(w, k)[0])
    assert found[:, :2].tolist() == [[k * code * weight, 0]] * 3
    assert abs(k * code * weight) < 2**31


def test_sums_of_four_do_not_saturate(int8, products):
    """The trap of pairwise instructions on bytes: 255 * 127 * 2 exceeds 16 bits."""
    found = products(np.full((1, 16), 255, np.uint8), int8.pack8(np.full((5, 1), 127, np.float32), 4)[0])
    assert found[0, 0] == 4 * 255 * 127


# --- packing


@given(WIDTHS, WIDTHS, st.sampled_from([1e-42, 1e-36, 1e-30, 1e-4, 1.0, 1e30, 3e38]), SEEDS)
def test_pack8(int8, k, n, magnitude, seed):
    rng = np.random.default_rng(seed)
    w = (rng.uniform(-1, 1, (k, n)) * magnitude).astype(np.float32)
    w[:, rng.random(n) < 0.2] = 0
    channel = int(rng.integers(k))
    panels, columns = int8.pack8(w, channel)
    scales, sums, outlier = columns
    assert np.array_equal(outlier[:n], w[channel]) and not outlier[n:].any() and columns.ctypes.data % 64 == 0
    w[channel] = 0
    codes, whole = unpacked(int8, panels, k, n)
    assert panels.dtype == np.int8 and panels.ctypes.data % 64 == 0
    assert not whole[k:].any() and not whole[:, n:].any(), "filled up by zeros"
    assert np.array_equal(sums, whole.astype(np.int64).sum(0)) and scales.shape == sums.shape == whole.shape[1:]
    top = np.abs(w).max(axis=0)
    usual = top > 1e-35
    assert (np.abs(codes).max(axis=0)[usual] == 127).all(), "the largest magnitude becomes 127"
    assert (codes[:, ~usual] == 0).all() and np.isfinite(scales).all() and (scales > 0).all()
    error = np.abs(w - codes * scales[:n].astype(np.float64))
    assert (error <= 0.50002 * scales[:n] * usual + 1.1e-35 * ~usual).all()


# --- rows to bytes


def quantized(int8, x, channel=None):
    """(codes, scales, zeros) of rows; strange numbers around the result stay as they are. channel: left out."""
    x = np.ascontiguousarray(x, np.float32)
    t, n = x.shape
    wide = np.zeros((t, -(-(n + 1) // 16) * 16), np.float32)
    wide[:, :n] = x
    channel = n if channel is None else channel  # one of the zeros behind the row
    memory = np.full(wide.size + 128, 99, np.uint8)
    codes = memory[64:-64].reshape(wide.shape)
    terms = np.full((t + 8, int8.TERM // 4), 5.0, np.float32)
    int8.quantize(wide, channel, codes, terms[:t])
    assert (memory[:64] == 99).all() and (memory[-64:] == 99).all()
    assert (terms[t:] == 5).all() and np.array_equal(terms[:t, 2], wide[:, channel], equal_nan=True)
    return codes[:, :n], terms[:t, :1], terms[:t, 1:2]


KINDS = st.sampled_from(["both", "positive", "negative", "zeros", "sparse", "constant", "one large"])


def rows_of_kind(rng, rows, n, kind, magnitude):
    x = rng.standard_normal((rows, n)) * magnitude
    if kind == "positive":
        x = np.abs(x)
    elif kind == "negative":
        x = -np.abs(x)
    elif kind == "zeros":
        x *= 0
    elif kind == "sparse":
        x *= rng.random(x.shape) < 0.1
    elif kind == "constant":
        x[:] = x[:, :1]
    elif kind == "one large":
        x[:, rng.integers(0, n)] *= 1000
    return x.astype(np.float32)


@given(ROWS, WIDTHS, KINDS, st.sampled_from([1e-30, 1e-20, 1e-3, 1.0, 1e3, 1e30]), SEEDS)
def test_rows_to_bytes(int8, rows, n, kind, magnitude, seed):
    """Within half a step everywhere, zero exactly, the ends of the row at the ends of the bytes."""
    x = rows_of_kind(np.random.default_rng(seed), rows, n, kind, magnitude)
    codes, scale, zero = quantized(int8, x)
    assert (zero == np.rint(zero)).all() and (zero >= 0).all() and (zero <= 255).all()
    back = scale.astype(np.float64) * (codes.astype(np.float64) - zero)
    assert (np.abs(back - x) <= 0.5005 * scale).all()
    assert (back[x == 0] == 0).all(), "zero stays exactly zero"
    low, high = x.min(1, initial=0), x.max(1, initial=0)
    usual = high - low > 1e-30
    assert (zero[high == 0][usual[high == 0]] == 255).all(), "nothing above zero"
    assert (zero[low == 0] == 0).all(), "nothing below zero"
    whole = usual & (low == 0)
    assert (codes[whole].max(1, initial=0) == 255).all()
    whole = usual & (high == 0)
    assert (codes[whole].min(1, initial=255) == 0).all()


@given(ROWS, WIDTHS, KINDS, st.sampled_from([1e-20, 1e-3, 1.0, 1e30]), SEEDS)
@example(1, 16, "zeros", 1.0, 0)
def test_the_twin_quantizes_alike(int8, rows, n, kind, magnitude, seed):
    """Scale and zero point bit for bit; a code may be one off where a fused multiply-add decides a near tie."""
    from minibi.nn import plain

    x = rows_of_kind(np.random.default_rng(seed), rows, n, kind, magnitude)
    channel = seed % n
    codes, scale, zero = quantized(int8, x, channel)
    twin_codes, twin_scale, twin_zero = plain.quantize(x, channel)
    codes, twin_codes, x = (np.delete(a, channel, axis=1) for a in (codes, twin_codes, x))
    assert twin_codes.dtype == np.uint8 and twin_scale.shape == twin_zero.shape == (rows, 1)
    assert np.array_equal(scale, twin_scale) and np.array_equal(zero, twin_zero)
    exact = x.astype(np.float64) * (np.float32(255) / (np.float32(255) * scale.astype(np.float64))) + zero
    tie = np.abs(exact - np.floor(exact) - 0.5) < 1e-4
    assert np.array_equal(codes[~tie], twin_codes[~tie])
    assert (np.abs(codes.astype(int) - twin_codes) <= 1).all()


def test_ties_go_to_even(int8):
    x = np.float32([[0, 255, 0.5, 1.5, 2.5, 3.5, 254.5, 253.5], [-128, 127, -0.5, 0.5, 1.5, -1.5, 126.5, -127.5]])
    codes, scale, zero = quantized(int8, x)
    assert scale.ravel().tolist() == [1, 1] and zero.ravel().tolist() == [0, 128]
    assert codes[0].tolist() == [0, 255, 0, 2, 2, 4, 254, 254]
    assert codes[1].tolist() == [0, 255, 128, 128, 130, 126, 254, 0]


@pytest.mark.parametrize(
    ("low", "high"), [(-1.020554780960083, 0.5614602565765381), (-5.4383931159973145, 1.4099537134170532)]
)
def test_the_smallest_number_never_becomes_the_largest_byte(int8, low, high):
    """Rows whose zero point is rounded so that the smallest number lies a hair below -1/2: unlimited, byte 255."""
    codes, scale, zero = quantized(int8, [[low, high, 0.0]])
    assert (
        codes[0, 0] == 0
        and codes[0, 1] >= 254
        and codes[0, 2] == zero[0, 0]
        and abs(scale[0, 0] * -zero[0, 0] - low) < 0.501 * scale[0, 0]
    )


def test_rows_without_a_range(int8):
    codes, scale, zero = quantized(int8, np.zeros((2, 20)))
    assert not codes.any() and not zero.any() and (scale > 0).all(), "zeros are zeros, and nothing divides by zero"
    tiny = np.float32([[1e-38, -1e-38, 1e-45, 0]])
    codes, scale, zero = quantized(int8, tiny)
    assert np.abs(scale * (codes - zero) - tiny).max() < 1e-30
    huge = np.float32([[1.5e38, -1.5e38, 0, 1e38]])
    codes, scale, zero = quantized(int8, huge)
    assert np.isfinite(scale).all() and np.abs(scale * (codes - zero) - huge).max() <= scale.max()


@given(WIDTHS, st.sampled_from([np.nan, np.inf, -1e30, 3e38]), SEEDS)
def test_what_lies_behind_a_row_does_not_count(int8, n, beyond, seed):
    """`quantize_at` on n of a wider row: the same codes, scale and zero point whatever follows."""
    rng = np.random.default_rng(seed)
    width = -(-n // 16) * 16 + 16
    x = np.full((4, width), beyond, np.float32)
    x[:, :n] = rng.standard_normal((4, n))
    codes = np.zeros((4, width), np.uint8)
    terms = np.zeros((4, int8.TERM // 4), np.float32)
    int8.quantize_at(x.ctypes.data, 4 * width, 4, n, 0, codes.ctypes.data, width, terms.ctypes.data)
    clean = quantized(int8, x[:, :n], 0)
    assert np.array_equal(codes[:, :n], clean[0])
    assert np.array_equal(terms[:, :1], clean[1]) and np.array_equal(terms[:, 1:2], clean[2])


@given(st.integers(1, 9), WIDTHS, SEEDS)
def test_rows_quantized_together_have_the_bytes_of_each_alone(int8, rows, n, seed):
    x = np.random.default_rng(seed).standard_normal((rows, n)).astype(np.float32)
    together = quantized(int8, x, 0)
    alone = [quantized(int8, row[None], 0) for row in x]
    for whole, parts in zip(together, zip(*alone, strict=True), strict=True):
        assert np.array_equal(whole, np.concatenate(parts))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_does_not_become_one(int8, value):
    """A row with NaN or infinity in it has a scale of NaN, and so do all products of it; other rows are not touched."""
    from minibi.nn import plain

    for n in (1, 20, 384):
        for at in {0, n // 2, n - 1}:
            x = np.ones((3, n), np.float32)
            x[1, at] = value
            for _, scale, _ in (quantized(int8, x), plain.quantize(np.pad(x, ((0, 0), (0, 1))), n)):
                assert np.isnan(scale).ravel().tolist() == [False, True, False]
            _, scale, _ = quantized(int8, x, at)
            assert not np.isnan(scale).any(), "the channel that stays float carries its value by itself"


# --- the whole product


def fused_once(a, b, c):
    """a * b + c of float32 numbers, rounded once: the product of two is exact in float64."""
    return (a.astype(np.float64) * b.astype(np.float64) + c).astype(np.float32)


@settings(max_examples=25)
@given(ROWS, WIDTHS, WIDTHS, SEEDS)
def test_linear8_rounds_as_its_formula_says(int8, rows, k, n, seed):
    """Bit for bit, for the kinds that are arithmetic alone; no other rows and columns are touched."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, -(-k // 16) * 16)).astype(np.float32)
    channel = int(rng.integers(k))
    panels, columns = int8.pack8(rng.standard_normal((k, n)).astype(np.float32), channel)
    width, deep = len(panels) * int8.PANEL, -(-k // 4) * 4
    codes, terms = np.empty(x.shape, np.uint8), np.empty((rows, int8.TERM // 4), np.float32)
    int8.quantize(x, channel, codes, terms)
    bias, residual = (rng.standard_normal(s).astype(np.float32) for s in (width, (rows, width)))
    w, _ = unpacked(int8, panels, k, n)
    exact = (codes[:, :k].astype(np.int64) @ w).astype(np.float32)
    scales, sums, outlier = columns[:, None, :n]
    shifted = fused_once(-terms[:, 1:2], sums, exact)
    y = fused_once(shifted * terms[:, :1], scales, bias[:n])
    y = fused_once(x[:, [channel]], outlier, y)
    from minibi.kernels import matmul

    for kind in (matmul.NONE, matmul.RESIDUAL, matmul.RELU):
        memory = np.full(rows * width + 128, 12345.0, np.float32)
        out = memory[64:-64].reshape(rows, width)
        int8.linear8(codes, terms, deep, panels, columns, bias, residual, kind, out)
        expected = {matmul.NONE: y, matmul.RESIDUAL: y + residual[:, :n], matmul.RELU: np.maximum(y, 0)}[kind]
        assert np.array_equal(out[:, :n], expected)
        assert (memory[:64] == 12345).all() and (memory[-64:] == 12345).all()


def test_no_rows(int8):
    panels, columns = int8.pack8(np.ones((4, 4), np.float32))
    none, empty = np.empty((0, int8.TERM // 4), np.float32), np.empty((0, int8.PANEL), np.float32)
    int8.quantize(np.empty((0, 16), np.float32), 0, np.empty((0, 16), np.uint8), none)
    int8.linear8(np.empty((0, 16), np.uint8), none, 4, panels, columns, columns[0], empty, 0, empty)


# --- what the target can do


@pytest.mark.parametrize(
    ("name", "features", "wide", "dot", "avx2"),
    [
        ("icelake-server", "", True, True, True),
        ("icelake-server", "+avx2,+avx512f,-avx512vnni", True, False, True),
        ("icelake-server", "+avx2,-avx512f,-avx512vnni", False, False, True),
        ("sapphirerapids", "-avx2,-avx512f,-avx512vnni", False, False, False),
        ("skylake-avx512", "", True, False, True),
        ("haswell", "", False, False, True),
        ("haswell", "-avx2", False, False, False),
        ("nehalem", "", False, False, False),
        ("somethingnew", "+avx2,+avx512f,+avx512vnni", True, True, True),
    ],
)
def test_features_count_before_names(monkeypatch, name, features, wide, dot, avx2):
    """A virtual machine may hide instructions that its processor's name promises: they must not be emitted."""
    from minibi.kernels import target

    class Codegen:
        def magic_tuple(self):
            return "x86_64-unknown-linux-gnu", name, features

    class Context:
        def codegen(self):
            return Codegen()

    class Target:
        target_context = Context()

    monkeypatch.setattr(target, "cpu_target", Target())
    assert (target.has_wide_registers(), target.has_byte_dot(), target.has_avx2()) == (wide, dot, avx2)
