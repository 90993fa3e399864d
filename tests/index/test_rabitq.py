"""RaBitQ: the published bound is tested for coverage and used; planes and grids against their plain twins."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.index.flat import FlatIndex
from minibi.index.rabitq import IVFRaBitQIndex, RaBitQIndex, from_planes, levels_plain, to_planes


def like_real(n, dim, seed=0):
    """Clusters of unequal size in a subspace, with a common offset, as text vectors have them."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(30, 12)) @ rng.normal(size=(12, dim))
    x = centres[rng.zipf(1.5, n) % 30] + 0.6 * rng.normal(size=(n, 12)) @ rng.normal(size=(12, dim))
    return (x + 2 + 0.1 * rng.normal(size=(n, dim))).astype(np.float32)


def random(n, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


@pytest.mark.parametrize("data", [random, like_real])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("bits", [1, 2, 4, 7])
def test_the_bound_covers_what_it_promises(data, metric, bits):
    x = data(1540, 128)
    index = IVFRaBitQIndex(128, metric, 5, bits=bits, train_size=1000)
    index.add(x[:1500])
    estimates, errors, ids = index.estimates(x[1500:])
    q, v = index._prepare(x[1500:], "q").astype(float), index.reconstruct(ids).astype(float)
    true = np.square(q[:, None] - v).sum(-1) if metric == "l2" else -(q @ v.T)
    z = (estimates - true) / errors
    assert (np.abs(z) > 1.9).mean() < 0.075 and (np.abs(z) > 4).mean() < 1e-3 and abs(z.mean()) < 0.1
    assert 0.3 < z.std() < 1.1  # a bound that covers by being wide would be of no use


def test_more_bits_leave_less_error():
    x = random(1100, 128)
    widths = []
    for bits in (1, 2, 3, 4, 6):
        index = RaBitQIndex(128, "l2", bits=bits, train_size=1000)
        index.add(x)
        widths.append(index.estimates(x[:5])[1].mean())
    assert all(b < 0.75 * a for a, b in pairwise(widths))


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("bits", [1, 3, 8])
def test_few_comparisons_find_nearly_all(compiled, metric, bits):
    x = like_real(3050, 128)
    index, exact = RaBitQIndex(128, metric, bits=bits), FlatIndex(128, metric)
    index.add(x[:3000])
    exact.add(x[:3000])
    found, wanted = index.search(x[3000:], 10)[1], exact.search(x[3000:], 10)[1]
    assert np.mean([len(set(a) & set(b)) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]) >= 9.8
    index.epsilon = 50.0
    np.testing.assert_array_equal(index.search(x[3000:], 10)[1], wanted)


@given(st.integers(0, 20), st.sampled_from([128, 256]), st.integers(1, 8), st.integers(0, 9))
def test_planes_of_bits(n, width, bits, seed):
    codes = np.random.default_rng(seed).integers(0, 2**bits, (n, width)).astype(np.uint8)
    planes = to_planes(codes, bits)
    assert planes.shape == (n, width * bits // 8)
    np.testing.assert_array_equal(from_planes(planes, bits), codes)


@given(st.integers(1, 8), st.integers(0, 9), st.sampled_from([0.0, 1e-30, 1.0, 1e15]))
def test_grids_are_those_of_the_twin(compiled, bits, seed, size):
    from minibi.kernels import bits as kernels

    y = (size * random(7, 128, seed)).astype(np.float32)
    steps = np.array([0.3, 0.5, 0.9, 1.4], np.float32) / bits
    out = np.empty(y.shape, np.uint8)
    kernels.levels(y, bits, steps, out)
    np.testing.assert_array_equal(out, levels_plain(y, bits, steps))


@given(st.integers(1, 8), st.integers(0, 9), st.sampled_from(["ip", "l2"]))
def test_estimates_are_those_of_the_twin_bit_for_bit(compiled, bits, seed, metric):
    index = RaBitQIndex(40, metric, bits=bits, train_size=10)
    index.add(random(50, 40, seed))
    fast = index.estimates(random(3, 40, seed + 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minibi.index.rabitq.plain_kernels", lambda: True)
        plain = index.estimates(random(3, 40, seed + 1))
    for a, b in zip(fast, plain, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("settings", [{"bits": 0}, {"bits": 9}, {"epsilon": -1}, {"epsilon": "2"}, {"nlist": 2}])
def test_refusals(settings):
    with pytest.raises(InputError):
        RaBitQIndex(8, **settings)


def test_no_estimates_before_training():
    with pytest.raises(InputError, match="training"):
        RaBitQIndex(8).estimates(random(1, 8))
