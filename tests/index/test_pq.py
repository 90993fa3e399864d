"""Product codes and the fast scan: each compiled step against its plain twin, and what codes are worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.index.pq import (
    IVFPQIndex,
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
    twin = quantize_plain(exact, largest_byte(M))
    for i in range(n):
        small = np.full((-(-M // 4) * 4, 16), 7, np.uint8)
        scale, offset = pq.quantize_row(exact[i], largest_byte(M), small)
        np.testing.assert_array_equal(small[:M], twin[0][i])
        assert (small[M:] == 7).all() and scale == twin[1][i] and offset == twin[2][i]


@given(st.integers(1, 300), st.integers(0, 130), st.integers(0, 9))
def test_the_fast_scan_sums_exactly(compiled, M, n, seed):
    """Against sums in NumPy, for any number of sub-spaces; with M beyond 257 entries stay below 256 / (M / 257)."""
    from minibi.kernels import ivf, ivf_pq, pq

    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 16, (n, M)).astype(np.uint8)
    paired = pair(codes)
    np.testing.assert_array_equal(apart(paired, M), codes)
    slots = -(-max(n, 1) // 32) * 32
    order = np.full(slots, -1, np.int32)
    order[:n] = rng.permutation(n)
    blocks = np.zeros((slots // 32, -(-M // 4), 64), np.uint8)
    pq.pack(paired, order, blocks)
    table = np.zeros((-(-M // 4) * 4, 16), np.uint8)
    table[:M] = rng.integers(0, largest_byte(M) + 1, (M, 16))
    add, factor = rng.normal(size=(2, n)).astype(np.float32)
    terms = np.zeros((2, slots), np.float32)
    terms[:, order >= 0] = np.stack([add, factor])[:, order[order >= 0]]
    terms = np.ascontiguousarray(terms.reshape(2, -1, 32).swapaxes(0, 1))
    scale, offset = np.float32(0.37), np.float32(-2.5)
    mask = rng.random(n) < 0.8
    keep, cut = 10, 32 * int(rng.integers(0, slots // 32 + 1))
    starts, cells = np.array([0, cut, slots]), rng.permutation(2)  # two lists, one maybe empty
    bases = rng.normal(size=2).astype(np.float32)
    out, waiting = np.empty(keep, np.int64), np.arange(3)
    numbers = np.zeros(25, np.int64)
    at = {ivf_pq.BLOCKS: blocks, ivf_pq.TERMS: terms, ivf_pq.ORDER: order, ivf_pq.STARTS: starts}
    numbers[[*at]] = [a.ctypes.data for a in at.values()]
    numbers[ivf_pq.M] = M
    keys = np.empty(ivf.room_for(keep) + 32, np.int64)
    found = ivf_pq.scan_lists(numbers, mask, cells, bases, table.ctypes.data, scale, offset, keep, keys, waiting, out)
    sums = table[np.arange(M), codes].sum(1, dtype=np.int64).astype(np.float32)
    slot = np.empty(n, np.int64)
    slot[order[order >= 0]] = np.flatnonzero(order >= 0)
    base = bases[np.argsort(cells)][(slot >= cut).astype(int)]
    estimates = base + (add + factor * (scale * sums + offset))
    rows = np.flatnonzero(mask)
    wanted = rows[np.lexsort((rows, estimates[rows]))[:keep]]
    assert found == len(wanted) and sorted(out[:found].tolist()) == sorted(wanted.tolist())
    assert (out[found:] == -1).all()


@given(st.integers(1, 200), st.integers(1, 300), st.integers(2, 13))
def test_centroids_are_compared_with_one_query_as_with_many(compiled, k, n, rows):
    from minibi.kernels import ivf_pq, matmul

    rng = np.random.default_rng(k)
    x, panels = rng.normal(size=(rows, k)).astype(np.float32), matmul.pack(rng.normal(size=(k, n)).astype(np.float32))
    bias = rng.normal(size=len(panels) * matmul.PANEL).astype(np.float32)
    both = np.empty((2, rows, len(bias)), np.float32)
    at = panels.ctypes.data, bias.ctypes.data
    ivf_pq.multiply(x.ctypes.data, 4 * k, rows, k, *at, both[0].ctypes.data, len(bias))
    for i in range(rows):
        ivf_pq.multiply(x[i].ctypes.data, 0, 1, k, *at, both[1, i].ctypes.data, len(bias))
    np.testing.assert_array_equal(both[0], both[1])


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("settings", [{}, {"rotation": "opq"}, {"rotation": "random", "store": "int8"}])
def test_the_short_way_gives_the_same_bits(compiled, metric, settings, tmp_path):
    """A query a call, many, with a filter that lets all pass, read-only, from a file, with rows in the tail."""
    rng = np.random.default_rng(0)
    x, q = rng.normal(size=(900, 20)), rng.normal(size=(130, 20)).astype(np.float32)
    index = IVFPQIndex(20, metric, 8, M=6, train_size=700, **settings)
    index.add(x[:800])
    index.add(x[800:])
    index.remove(np.arange(0, 900, 9))
    many = index.search(q, 10, nprobe=3, ef=30)
    q.flags.writeable = False
    ways = {
        "one": [index.search(one, 10, nprobe=3, ef=30) for one in q],
        "few": [index.search(q[i : i + 13], 10, nprobe=3, ef=30) for i in range(0, 130, 13)],
        "filter": [index.search(q, 10, nprobe=3, ef=30, filter=np.arange(900))],
        "double": [index.search(q.astype(float), 10, nprobe=3, ef=30)],
    }
    for name, parts in ways.items():
        for part, whole in zip(zip(*parts, strict=True), many, strict=True):
            np.testing.assert_array_equal(np.concatenate(part), whole, err_msg=name)
    index.save(tmp_path / "i")
    index = IVFPQIndex.load(tmp_path / "i")
    again = index.search(q, 10, nprobe=3, ef=30)
    for one, whole in zip((index.search(one, 10, nprobe=3, ef=30) for one in q), zip(*again, strict=True), strict=True):
        np.testing.assert_array_equal(one[0][0], whole[0])
        np.testing.assert_array_equal(one[1][0], whole[1])
    for bad in (np.full(20, np.nan, np.float32), np.full(19, 1, np.float32), np.full(20, np.inf, np.float32)):
        with pytest.raises(InputError):
            index.search(bad)


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


PROGRAM = """
import numpy as np, hashlib
from minibi.index.pq import PQIndex
rng = np.random.default_rng(0)
x, index = rng.normal(size=(1200, 24)), PQIndex(24, train_size=1000)
index.add(x)
scores, ids = index.search(x[:50], 10, ef=12)
print(hashlib.sha256(scores.tobytes() + ids.tobytes()).hexdigest())
"""


def test_other_processors_give_the_same_bits(said_on):
    """The shuffle with registers of 32 bytes, and with none that shuffles, against that of this processor."""
    assert len(set(said_on(PROGRAM, "haswell", "x86-64"))) == 1
