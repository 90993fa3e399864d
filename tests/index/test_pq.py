"""Product codes and the fast scan: each compiled step against its plain twin, and what codes are worth."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.index.pq import (
    PQIndex,
    apart,
    decode,
    encode_plain,
    largest_byte,
    learn_codebooks,
    pair,
    quantize_plain,
    tables_plain,
)  # fmt: skip


def books(M, part, groups=1, seed=0):
    return np.random.default_rng(seed).normal(size=(M, groups, part, 16)).astype(np.float32)


@given(st.integers(1, 9), st.integers(1, 5), st.sampled_from([1, 16]), st.integers(0, 40))
def test_encoding_is_that_of_the_twin_bit_for_bit(compiled, M, part, groups, n):
    from minibi.kernels import pq

    x = np.random.default_rng(n).normal(size=(n, M * part)).astype(np.float32)
    b = books(M, part, groups)
    out = np.empty((n, M), np.uint8)
    pq.encode(x, b, 0, n, out)
    np.testing.assert_array_equal(out, encode_plain(x, b))
    words = b.transpose(0, 1, 3, 2).reshape(M, -1, part)
    errors = np.square(x.reshape(n, M, 1, part) - words).sum(-1)
    np.testing.assert_allclose(
        np.take_along_axis(errors, out[..., None].astype(int), 2)[..., 0], errors.min(2), rtol=1e-5
    )
    np.testing.assert_array_equal(decode(out, b).reshape(n, M, part), words[np.arange(M), out])


@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 4))
def test_tables_are_products(compiled, M, part, n):
    from minibi.kernels import pq

    q, b = np.random.default_rng(n).normal(size=(n, M * part)).astype(np.float32), books(M, part)
    exact = np.empty((n, M, 16), np.float32)
    pq.tables(q, b, exact)
    np.testing.assert_allclose(exact, tables_plain(q, b), rtol=1e-5, atol=1e-5)
    small, scales, offsets = (
        np.full((n, -(-M // 4) * 4, 16), 7, np.uint8),
        np.empty(n, np.float32),
        np.empty(n, np.float32),
    )
    pq.quantize(exact, largest_byte(M), small, scales, offsets)
    twin = quantize_plain(exact, largest_byte(M))
    np.testing.assert_array_equal(small[:, :M], twin[0])
    assert not small[:, M:].any()
    np.testing.assert_array_equal(scales, twin[1])
    np.testing.assert_array_equal(offsets, twin[2])


@given(st.integers(1, 300), st.integers(0, 130), st.integers(0, 9))
def test_the_fast_scan_sums_exactly(compiled, M, n, seed):
    """Against sums in NumPy, for any number of sub-spaces; with M beyond 257 entries stay below 256 / (M / 257)."""
    from minibi.kernels import pq

    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, (n, M)).astype(np.uint8)
    paired = pair(codes)
    np.testing.assert_array_equal(apart(paired, M), codes)
    slots = -(-max(n, 1) // 32) * 32
    order = np.full(slots, -1, np.int32)
    order[:n] = rng.permutation(n)
    blocks = np.zeros((slots // 32, -(-M // 4), 64), np.uint8)
    pq.pack(paired, order, blocks)
    table = np.zeros((1, -(-M // 4) * 4, 16), np.uint8)
    table[:, :M] = rng.integers(0, largest_byte(M) + 1, (1, M, 16))
    add, factor = rng.normal(size=(2, n)).astype(np.float32)
    terms = np.zeros((2, slots), np.float32)
    terms[:, order >= 0] = np.stack([add, factor])[:, order[order >= 0]]
    terms = np.ascontiguousarray(terms.reshape(2, -1, 32).swapaxes(0, 1))
    scale, offset, base = (np.array([v], np.float32) for v in (0.37, -2.5, 1.25))
    mask = rng.random(n) < 0.8
    keep = 10
    out = np.empty((1, keep), np.int64)
    starts, cells = np.array([0, slots]), np.zeros((1, 1), np.int64)
    pq.fast_scan(blocks, terms, order, starts, mask, cells, base[None], table, scale, offset, keep, out)
    sums = table[0][np.arange(M), codes].sum(1, dtype=np.int64).astype(np.float32)
    estimates = base[0] + (add + factor * (scale[0] * sums + offset[0]))
    rows = np.flatnonzero(mask)
    wanted = rows[np.lexsort((rows, estimates[rows]))[:keep]]
    assert sorted(out[0][out[0] >= 0].tolist()) == sorted(wanted.tolist())


def test_codebooks_learn_what_is_there():
    words = np.random.default_rng(0).normal(size=(2, 16, 3))
    which = np.random.default_rng(1).integers(0, 16, (4000, 2))
    x = np.concatenate([words[m][which[:, m]] for m in range(2)], axis=1).astype(np.float32)
    b = learn_codebooks(x, 2, 4, 20, np.random.default_rng(2))
    error = np.square(decode(encode_plain(x, b), b) - x).sum(1).mean()
    assert error < 0.25 * np.square(x - x.mean(0)).sum(1).mean()


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_more_bits_and_a_learned_rotation_find_more(metric):
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(3100, 32)) * np.linspace(3, 0.05, 32)) @ np.linalg.qr(rng.normal(size=(32, 32)))[0]
    x, q = x[:3000], x[3000:]
    found = {}
    for name, settings in {"4": {}, "8": {"bits": 8}, "opq": {"rotation": "opq"}}.items():
        index = PQIndex(32, metric, M=8, train_size=1000, **settings)
        index.add(x)
        _, exact = index.search(q, 10, ef=3000)
        _, ids = index.search(q, 10, ef=10)
        found[name] = np.mean([len(set(a) & set(b)) for a, b in zip(ids.tolist(), exact.tolist(), strict=True)]) / 10
    assert found["4"] > 0.3 and found["8"] > found["4"] + 0.1 and found["opq"] > found["4"] + 0.02


@pytest.mark.parametrize(
    "settings", [{"M": 0}, {"M": 9}, {"bits": 5}, {"bits": True}, {"rotation": "pca"}, {"nlist": 2}, {"M": "4"}]
)
def test_refusals(settings):
    with pytest.raises(InputError):
        PQIndex(8, **settings)


@pytest.mark.parametrize("target", ["haswell", "x86-64"])
def test_other_processors_give_the_same_bits(deep, compiled, target):
    """The shuffle with registers of 32 bytes, and with none that shuffles, against that of this processor."""
    if not deep:
        pytest.skip("compiles everything twice: MINIBI_DEEP=1")
    code = (
        "import numpy as np, hashlib; from minibi.index.pq import PQIndex; rng = np.random.default_rng(0)\n"
        "x = rng.normal(size=(1200, 24)); i = PQIndex(24, train_size=1000); i.add(x)\n"
        "s, n = i.search(x[:50], 10, ef=12); print(hashlib.sha256(s.tobytes() + n.tobytes()).hexdigest())"
    )
    said = []
    for name in (None, target):
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        if name:
            env |= {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""}
        said.append(subprocess.check_output([sys.executable, "-c", code], env=env, text=True))
    assert said[0] == said[1]
