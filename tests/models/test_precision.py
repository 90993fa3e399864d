"""Vectors as codes: half a step off within the ranges, saturated beyond, each by itself; bits as all pack them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.models.precision import PRECISIONS, calibrate, quantize_embeddings, usual_ranges

SIZES = st.integers(1, 30)
SEEDS = st.integers(0, 10**6)
MAGNITUDES = st.sampled_from([1e-30, 1e-3, 1.0, 1e3, 1e30])


def vectors(seed, n, c, magnitude=1.0):
    return (np.random.default_rng(seed).standard_normal((n, c)) * magnitude).astype(np.float32)


# --- int8 and uint8


@given(SIZES, SIZES, MAGNITUDES, SEEDS)
def test_codes_are_half_a_step_off_within_the_ranges(n, c, magnitude, seed):
    x = vectors(seed, n + 2, c, magnitude)
    low, high = ranges = calibrate(x)
    codes = quantize_embeddings(x, "uint8", ranges)
    assert codes.shape == x.shape and codes.dtype == np.uint8
    step = (high.astype(np.float64) - low) / 255
    assert (np.abs(low + step * codes - x) <= 0.5001 * step + 1e-6 * np.abs(x)).all()
    assert (codes.min(0) == 0).all() and (codes.max(0) == 255).all(), "the whole range is used"


@given(SIZES, SIZES, MAGNITUDES, SEEDS)
def test_signed_codes_are_unsigned_ones_minus_128(n, c, magnitude, seed):
    x = vectors(seed, n, c, magnitude)
    ranges = vectors(seed + 1, 2, c, magnitude)
    ranges.sort(axis=0)
    signed, unsigned = quantize_embeddings(x, "int8", ranges), quantize_embeddings(x, "uint8", ranges)
    assert signed.dtype == np.int8 and np.array_equal(signed.astype(int), unsigned.astype(int) - 128)


@given(SIZES, MAGNITUDES, st.sampled_from([1.0, 1.001, 2, 100, 1e6]), SEEDS)
def test_what_lies_beyond_saturates_and_never_wraps(c, magnitude, beyond, seed):
    low, high = ranges = calibrate(vectors(seed, 10, c, magnitude))
    span = high - low
    x = np.stack([low - np.float32(beyond) * span, high + np.float32(beyond) * span, low, high])
    assert quantize_embeddings(x, "uint8", ranges).T.tolist() == [[0, 255, 0, 255]] * c
    assert quantize_embeddings(x, "int8", ranges).T.tolist() == [[-128, 127, -128, 127]] * c


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=20))
def test_codes_keep_the_order_of_any_numbers(values):
    """Of all magnitudes at once, the largest floats included, without a warning from NumPy."""
    low, high, *rest = np.sort(np.float32(values))[[0, -1, *range(len(values))]]
    x = np.float32(rest)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        codes = quantize_embeddings(x, "uint8", [[low], [high]]).ravel().astype(int)
    assert (np.diff(codes) >= 0).all() and codes[0] == 0
    if high > 1e-30 + low:
        assert codes[-1] == 255


def test_a_dimension_that_never_changes():
    x = np.float32([[0.5, 1], [0.5, 101], [0.5, 256]])
    ranges = calibrate(x)
    assert quantize_embeddings(x, "uint8", ranges).tolist() == [[0, 0], [0, 100], [0, 255]]
    assert quantize_embeddings([[1e9, 2], [-1e9, 2]], "uint8", ranges)[:, 0].tolist() == [255, 0]


@given(st.integers(1, 20), SIZES, SEEDS, st.sampled_from(["int8", "uint8", "binary", "ubinary"]))
def test_a_vector_s_codes_do_not_depend_on_its_company(n, c, seed, precision):
    x = vectors(seed, n, 8 * c)
    together = quantize_embeddings(x, precision)
    for i in range(n):
        assert np.array_equal(quantize_embeddings(x[i], precision)[0], together[i])
    order = np.random.default_rng(seed).permutation(n)
    assert np.array_equal(quantize_embeddings(x[order], precision), together[order])


def test_ranges():
    x = np.float32([[1, -5], [3, 0], [2, 7]])
    assert calibrate(x).tolist() == [[1, -5], [3, 7]] and calibrate(x).dtype == np.float32
    by_vectors = quantize_embeddings(x, "int8", calibration_embeddings=x)
    assert np.array_equal(by_vectors, quantize_embeddings(x, "int8", calibrate(x)))
    chosen = quantize_embeddings(x, "int8", [[0, 0], [255, 255]], calibration_embeddings=x)
    assert chosen.tolist() == [[-127, -128], [-125, -128], [-126, -121]], "given ranges count before vectors"


@pytest.mark.parametrize("dim", [1, 8, 20, 384, 4096])
def test_usual_ranges_hold_unit_vectors(dim):
    ranges = usual_ranges(dim)
    assert ranges.shape == (2, dim) and ranges.dtype == np.float32 and (ranges[0] == -ranges[1]).all()
    x = vectors(0, 200, dim)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert (np.abs(x) > ranges[1]).mean() < 1e-4, "few of them saturate"
    codes = quantize_embeddings(x, "uint8").astype(np.float32)
    back = ranges[0] + codes * (ranges[1] - ranges[0]) / 255
    assert ((back * x).sum(1) / np.linalg.norm(back, axis=1)).min() > 0.999


# --- bits


def test_bits_are_packed_as_everybody_packs_them():
    """sentence-transformers: `np.packbits(x > 0)`, and minus 128 for the signed form; first dimension, highest bit."""
    x = np.float32([[1, -1, 0, -0.0, 1e-45, -1e-45, 5, 5, -1, -1, -1, -1, -1, -1, -1, 1]])
    assert quantize_embeddings(x, "ubinary").tolist() == [[0b10001011, 0b00000001]]
    assert quantize_embeddings(x, "binary").tolist() == [[0b10001011 - 128, 1 - 128]]
    assert quantize_embeddings(np.ones((1, 8)), "binary").tolist() == [[127]]
    assert quantize_embeddings(-np.ones((1, 8)), "binary").tolist() == [[-128]]


@given(SIZES, st.integers(1, 12), SEEDS)
def test_bits(n, c, seed):
    x = vectors(seed, n, 8 * c)
    x[np.random.default_rng(seed).random(x.shape) < 0.2] = 0
    unsigned, signed = quantize_embeddings(x, "ubinary"), quantize_embeddings(x, "binary")
    assert unsigned.shape == signed.shape == (n, c) and (unsigned.dtype, signed.dtype) == (np.uint8, np.int8)
    for row, codes in zip(x, unsigned.tolist(), strict=True):
        text = "".join("1" if value > 0 else "0" for value in row)
        assert codes == [int(text[i : i + 8], 2) for i in range(0, len(text), 8)]
    assert np.array_equal(signed.astype(int), unsigned.astype(int) - 128)


# --- the doors


def test_float32_stays_what_it_is():
    x = vectors(0, 3, 5)
    assert np.array_equal(quantize_embeddings(x, "float32"), x)
    assert quantize_embeddings(x.astype(np.float64).tolist(), "float32").dtype == np.float32


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_vectors(precision):
    codes = quantize_embeddings(np.empty((0, 16)), precision)
    kind = {"int8": np.int8, "uint8": np.uint8, "binary": np.int8, "ubinary": np.uint8}.get(precision, np.float32)
    assert codes.shape == (0, 2 if "binary" in precision else 16) and codes.dtype == kind


@pytest.mark.parametrize(
    ("x", "precision", "options", "message"),
    [
        (np.ones((2, 8)), "int4", {}, "precision 'int4' is not one of"),
        (np.ones((2, 8)), None, {}, "precision None is not one of"),
        (np.ones((2, 9)), "binary", {}, "multiple of 8 dimensions, not 9"),
        (np.ones((2, 9)), "ubinary", {}, "multiple of 8 dimensions, not 9"),
        ([[np.nan] * 8], "int8", {}, "embeddings must be finite"),
        ([[np.inf] * 8], "binary", {}, "embeddings must be finite"),
        (["text"], "int8", {}, "embeddings must be an array of numbers"),
        (np.ones((2, 8)), "int8", {"ranges": np.ones((2, 7))}, "ranges have 7 dimensions, expected 8"),
        (np.ones((2, 8)), "int8", {"ranges": np.ones((1, 8))}, "smallest and the largest values"),
        (np.ones((2, 8)), "int8", {"ranges": np.ones((3, 8))}, "smallest and the largest values"),
        (np.ones((2, 8)), "int8", {"ranges": np.ones(8)}, "smallest and the largest values"),
        (np.ones((2, 8)), "int8", {"ranges": [[1] * 8, [0] * 8]}, "smallest and the largest values"),
        (np.ones((2, 8)), "uint8", {"ranges": np.full((2, 8), np.nan)}, "ranges must be finite"),
        (np.ones((2, 8)), "int8", {"calibration_embeddings": np.ones((1, 8))}, "at least 2 vectors"),
        (np.ones((2, 8)), "int8", {"calibration_embeddings": np.ones((5, 4))}, "have 4 dimensions, expected 8"),
    ],
)
def test_what_makes_no_sense(x, precision, options, message):
    with pytest.raises(InputError, match=message):
        quantize_embeddings(x, precision, **options)


def test_calibration_needs_vectors():
    for bad in ([], np.ones((1, 4)), np.ones(4)):
        with pytest.raises(InputError, match="calibration needs at least 2 vectors"):
            calibrate(bad)


# --- encode(precision=...)


def test_encode_with_a_precision(tiny_new, tiny_texts):
    options = {"truncation": "silent", "truncate_dim": 16}
    x = tiny_new.encode(tiny_texts, **options)
    ranges = calibrate(x)
    for precision in PRECISIONS:
        for known in (None, ranges):
            codes = tiny_new.encode(tiny_texts, precision=precision, ranges=known, **options)
            expected = quantize_embeddings(x, precision, known)
            assert codes.dtype == expected.dtype and np.array_equal(codes, expected)
        one = tiny_new.encode(tiny_texts[0], precision=precision, ranges=ranges, **options)
        assert one.ndim == 1 and one.dtype == expected.dtype and one.shape == expected[0].shape
    assert tiny_new.encode([], precision="ubinary", **options).shape == (0, 2)
    assert tiny_new.encode_query("a", precision="int8").dtype == np.int8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision 'int4' is not one of"),
        ({"precision": "binary"}, "multiple of 8 dimensions, not 20"),
        ({"precision": "int8", "ranges": np.ones((2, 7))}, "ranges have 7 dimensions, expected 20"),
        ({"precision": "int8", "output_value": "token_embeddings"}, "token embeddings are float32 only"),
    ],
)
def test_encode_complains_before_the_work(tiny_new, monkeypatch, options, message):
    monkeypatch.setattr(type(tiny_new._runner), "states", lambda *_, **__: pytest.fail("the work has begun"))
    with pytest.raises(InputError, match=message):
        tiny_new.encode(["a"], **options)
