"""Residual codes: what is decoded is near, by the formula, and the same whoever decodes it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.index.residual import ResidualCodec, least_squares_weights
from minibi.shapes import unit_rows


def sample(n=600, dim=24, seed=0, unit=True):
    x = np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)
    return unit_rows(x) if unit else x


@settings(max_examples=25)
@given(
    dim=st.sampled_from([1, 3, 8, 16, 17, 40]),
    nbits=st.sampled_from([1, 2, 4]),
    unit=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_decoded_by_the_formula(dim, nbits, unit, seed):
    x = sample(120, dim, seed, unit)
    codec = ResidualCodec.train(x, 5, nbits, unit=unit, iterations=2, seed=seed)
    cells, codes = codec.encode(x)
    assert codec.nbits == nbits and codes.shape == (120, -(-dim // 16) * 2 * nbits) and codes.dtype == np.uint8
    residuals = x - codec.centroids[cells]
    nearest = codec.weights[np.abs(residuals[:, :, None] - codec.weights).argmin(axis=2)]
    ties = np.isclose(residuals[:, :, None], codec.cutoffs, atol=1e-6).any(axis=(1, 2))
    expected = codec.centroids[cells] + nearest
    expected = unit_rows(expected) if unit else expected
    assert codec.decode_plain(cells, codes)[~ties] == pytest.approx(expected[~ties], abs=1e-6)
    assert codec.decode(cells, codes) == pytest.approx(codec.decode_plain(cells, codes), abs=1e-6)


def test_more_bits_are_nearer():
    x = sample()
    errors = []
    for nbits in (1, 2, 4):
        codec = ResidualCodec.train(x, 16, nbits, seed=1)
        errors.append(float(np.square(codec.decode(*codec.encode(x)) - x).sum(axis=1).mean()))
    nothing = float(np.square(unit_rows(codec.centroids)[codec.encode(x)[0]] - x).sum(axis=1).mean())
    assert nothing > 2 * errors[0] > 4 * errors[1] > 16 * errors[2]


def test_a_row_is_encoded_by_itself():
    x = sample()
    codec = ResidualCodec.train(x, 16, 2)
    cells, codes = codec.encode(x)
    for i in (0, 7, 599):
        one = codec.encode(x[i : i + 1])
        assert one[0][0] == cells[i] and (one[1][0] == codes[i]).all()


def test_the_same_codec_on_any_number_of_threads():
    one, two = (ResidualCodec.train(sample(9000), 32, 2, seed=3, threads=t) for t in (1, 3))
    assert one.centroids.tobytes() == two.centroids.tobytes() and one.weights.tobytes() == two.weights.tobytes()
    assert one.encode(sample(9000), threads=2)[1].tobytes() == two.encode(sample(9000), threads=1)[1].tobytes()


@given(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=60), st.sampled_from([2, 4, 16]))
def test_weights_rise_and_beat_quantiles(numbers, count):
    x = np.array(numbers, np.float32)

    def cost(weights):
        return float(np.square(x[:, None] - weights).min(axis=1).sum())

    weights = least_squares_weights(x, count)
    assert weights.shape == (count,) and (np.diff(weights) >= 0).all()
    quantiles = np.quantile(x.astype(np.float64), (np.arange(count) + 0.5) / count)
    assert cost(weights) <= cost(quantiles) * (1 + 1e-5) + 1e-5


def test_weights_of_a_gaussian():
    x = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    assert least_squares_weights(x, 2) == pytest.approx([-0.798, 0.798], abs=0.01)  # Max 1960, table I
    assert least_squares_weights(x, 4) == pytest.approx([-1.510, -0.453, 0.453, 1.510], abs=0.02)


def test_sizes_by_default():
    assert len(ResidualCodec.train(sample(2)).centroids) == 1
    assert len(ResidualCodec.train(sample(1024), iterations=1).centroids) == 128
    assert ResidualCodec.train(sample(10), 300).cell_dtype is np.uint16


@pytest.mark.parametrize(("options"), [{"nbits": 3}, {"nbits": True}, {"n_centroids": 0}, {"n_centroids": 1.5}])
def test_refused(options):
    with pytest.raises(InputError):
        ResidualCodec.train(sample(), **options)


def test_nothing_to_learn_from():
    with pytest.raises(InputError, match="at least one"):
        ResidualCodec.train(np.zeros((0, 4), np.float32))
