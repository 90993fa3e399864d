"""The sieve of bytes leaves nothing out: bounds hold, and every answer is that of a scan, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minibi import FlatIndex
from minibi.errors import FormatError, InputError
from minibi.index.codes import codec_for, rotate_back_plain
from minibi.index.flat import scan
from minibi.index.sieve import FEW, Sieve, Stored, bounds_plain, bytes_plain, encode_plain
from minibi.store.snapshot import read_snapshot, write_snapshot

METRICS = ("cosine", "ip", "l2")
SIZES = st.sampled_from([1.0, 1e-3, 1e-19, 1e-30, 1e-42, 1e5, 1e15])
NUMBERS = st.floats(-1, 1, width=32) | st.integers(-4, 4).map(float)


@st.composite
def tables(draw, queries=5):
    """(vectors, queries, ids): rows that repeat or nearly do, of any size, some far from the origin."""
    dim, n = draw(st.integers(1, 200)), draw(st.integers(1, 300))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = draw(st.sampled_from(["any", "normal", "near one", "far", "spikes", "equal", "rising"]))
    x = rng.normal(size=(n, dim))
    if shape == "any":
        kinds = draw(hnp.arrays(np.float64, (draw(st.integers(1, 9)), dim), elements=NUMBERS, fill=st.just(0.0)))
        x = kinds[rng.integers(len(kinds), size=n)]
    elif shape == "near one":
        x = x[:1] + 10.0 ** draw(st.integers(-8, -1)) * x
    elif shape == "far":
        x += 10.0 ** draw(st.integers(1, 6))
    elif shape == "spikes":
        x = np.eye(dim)[rng.integers(dim, size=n)] * rng.choice([-1, 1], size=(n, 1)) + 1e-6 * x
    elif shape == "equal":
        x = np.repeat(x[:1], n, axis=0)
    elif shape == "rising":
        x = x[:1] * (1 + np.arange(n)[:, None] * 10.0 ** draw(st.integers(-7, 0)))
    q = rng.normal(size=(queries, dim)) if draw(st.booleans()) else x[rng.integers(n, size=queries)]
    scale, query_scale = draw(SIZES), draw(SIZES)
    if draw(st.booleans()):
        scale = scale * 10.0 ** rng.integers(-3, 3, size=(n, 1))
    x, q = ((a * s).clip(-9e16, 9e16).astype(np.float32) for a, s in ((x, scale), (q, query_scale)))
    return x, q, rng.permutation(5 * n)[:n] * 2 - 4 * n - 1 + n % 2


def both_ways(x, q, ids, k, metric, store="float32", which=None):
    """((distances, rows) by the sieve, where it settles a query; by a scan)."""
    codec = codec_for(store, x.shape[1])
    stored = codec.encode(x)
    sieve = Sieve(codec)
    columns = {name: np.empty((len(x), *shape), dtype) for name, (dtype, shape, _) in sieve.columns().items()}
    sieve.fill(stored, columns, 0)
    distances, rows, settled = sieve.scan(Stored(columns, stored, ids, metric, which), q, k)
    wanted = scan(codec, stored, ids, q, k, metric, which)
    return (distances[settled], rows[settled]), tuple(a[settled] for a in wanted), settled


@pytest.mark.parametrize("store", ["float32", "float16"])
@given(table=tables(), metric=st.sampled_from(["ip", "l2"]), k=st.integers(1, 40), some=st.booleans(), data=st.data())
def test_the_answer_of_a_scan_bit_for_bit(store, table, metric, k, some, data):
    x, q, ids = table
    if store == "float16":
        x = x.clip(-6e4, 6e4)
    which = np.flatnonzero(np.random.default_rng(len(x)).random(len(x)) < 0.6) if some else None
    k = min(k, len(x) if which is None else len(which))
    if not k:
        return
    sieved, scanned, _ = both_ways(x, q[: data.draw(st.sampled_from([1, 5]))], ids, k, metric, store, which)
    np.testing.assert_array_equal(sieved[0], scanned[0])
    np.testing.assert_array_equal(sieved[1], scanned[1])


@given(table=tables(queries=FEW + 5), metric=st.sampled_from(["ip", "l2"]), k=st.integers(1, 20))
def test_many_queries_at_once(table, metric, k):
    x, q, ids = table
    sieved, scanned, _ = both_ways(x, q, ids, min(k, len(x)), metric)
    np.testing.assert_array_equal(sieved[0], scanned[0])
    np.testing.assert_array_equal(sieved[1], scanned[1])


@pytest.mark.parametrize("store", ["float32", "float16"])
@given(table=tables(), metric=st.sampled_from(["cosine", "ip", "l2"]), k=st.integers(1, 40))
def test_one_query_in_one_kernel(store, table, metric, k):
    x, q, ids = table
    if store == "float16":
        x = x.clip(-6e4, 6e4)
    sieved, scanned = (FlatIndex(x.shape[1], metric, store=store, codes=codes) for codes in ("int8", None))
    sieved.scanned = 0
    for index in (sieved, scanned):
        index.add(x, ids + 10_000)
    for found, wanted in zip(sieved.search(q[0], k), scanned.search(q[0], k), strict=True):
        np.testing.assert_array_equal(found.view(np.int32), wanted.view(np.int32))


@pytest.mark.parametrize("metric", ["ip", "l2"])
@pytest.mark.parametrize("queries", [1, 30])
@given(st.integers(0, 10**6), st.sampled_from([0.0, 1e-3, 1.0]))
def test_codes_that_err_all_in_the_query_s_direction(metric, queries, seed, noise):
    """As wide as bounds can be: every coordinate of a row is off by as much, and the query is the sum of them all."""
    rng = np.random.default_rng(seed)
    y = rng.uniform(-1, 1, size=(200, 1)) * 16.0 ** -rng.integers(0, 3, size=(200, 1)) * np.ones(256)
    y[:, 0] = 1
    q = rng.choice([-1, 1], size=(queries, 1)) * np.ones(256)
    x, q = (rotate_back_plain((a + noise * rng.normal(size=a.shape) / 127).astype(np.float32)) for a in (y, q))
    sieved, scanned, settled = both_ways(x, q, np.arange(200), 3, metric)
    assert settled.all()
    np.testing.assert_array_equal(sieved[0], scanned[0])
    np.testing.assert_array_equal(sieved[1], scanned[1])


@given(table=tables(queries=2), metric=st.sampled_from(["ip", "l2"]))
def test_bounds_hold_the_value_that_a_scan_computes(table, metric):
    x, q, ids = table
    codec = codec_for("float32", x.shape[1])
    sieve = Sieve(codec)
    high, low, terms = encode_plain(sieve._turn.rotate(x), sieve._rounding)
    distances, rows = scan(codec, codec.encode(x), ids, q, len(x), metric)
    for one, d, r in zip(q, distances.astype(float), rows, strict=True):
        y = sieve._turn.rotate(one[None])[0]
        lower, upper = bounds_plain(high, low, terms, y, sieve._rounding, metric)
        value = (np.square(one.astype(float)).sum() - d) / 2 if metric == "l2" else -d
        assert (lower[r] <= value).all() and (value <= upper[r]).all()


@given(tables(queries=1))
def test_distances_from_the_codes_are_never_too_small(table):
    x, _, _ = table
    sieve = Sieve(codec_for("float32", x.shape[1]))
    y = sieve._turn.rotate(x)
    high, low, terms = encode_plain(y, sieve._rounding)
    codes, (factor, coarse, fine, norm) = bytes_plain(high, low), terms.T.astype(float)
    y = y.astype(float)
    assert codes.min() >= -127 and codes.max() <= 127
    assert (np.linalg.norm(y - factor[:, None] * codes, axis=1) <= fine).all()
    assert (np.linalg.norm(y - factor[:, None] * ((codes & ~15) + 8), axis=1) <= coarse).all()
    np.testing.assert_allclose(norm, np.linalg.norm(x.astype(float), axis=1), rtol=1e-5, atol=1e-20)


@given(tables(queries=1))
def test_the_twin_encodes_bit_for_bit(compiled, table):
    from minibi.kernels import sieve_codes

    x, _, _ = table
    sieve = Sieve(codec_for("float32", x.shape[1]))
    y = sieve._turn.rotate(x)
    out = [np.empty((len(x), *shape), dtype) for dtype, shape, _ in sieve.columns().values()]
    sieve_codes.encode(y, sieve._rounding, *out)
    for found, wanted in zip(out, encode_plain(y, sieve._rounding), strict=True):
        np.testing.assert_array_equal(found, wanted)


def clustered(n, dim, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(50, dim))[rng.integers(50, size=n)] + 0.6 * rng.normal(size=(n, dim))
    return x.astype(np.float32), x[rng.integers(n, size=130)].astype(np.float32) + 0.1


@pytest.mark.parametrize("metric", METRICS)
def test_thousands_of_vectors_most_of_which_are_never_compared(metric):
    x, q = clustered(6000, 96)
    index, plain = FlatIndex(96, metric), FlatIndex(96, metric, codes=None)
    index.add(x)
    plain.add(x)
    for queries, k in ((q, 10), (q[:1], 10), (q[:7], 100), (q[:9], 1), (q, 187)):
        np.testing.assert_array_equal(index.search(queries, k), plain.search(queries, k))
    chosen = np.arange(0, 6000, 7)
    np.testing.assert_array_equal(index.search(q, 5, filter=chosen), plain.search(q, 5, filter=chosen))
    for found, wanted in zip(index.range_search(q[:20], 0.9), plain.range_search(q[:20], 0.9), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_it_leaves_little_to_compare(compiled):
    """Else it would be exact, and slow."""
    from minibi.kernels import sieve, sieve_codes

    x, q = clustered(20_000, 128)
    index = FlatIndex(128, "ip")
    index.add(x)
    view, own = index._view, index._sieve
    planes = sieve.Planes(*(view[name] for name in own.columns()), np.zeros(0, np.int64), False)
    for count in (4, 100):
        coded = np.empty((count, 128 + 32), np.uint8)
        sieve_codes.encode_queries(own._turn.rotate(q[:count]), own._rounding, 0.0, coded)
        left = sieve.left_for(count, 10)
        (sieve.sift_few if count <= FEW else sieve.sift_many)(planes, coded, left)
        kept = [(left.uppers[i, : left.sizes[i, 1]] >= left.limits[i]).sum() for i in range(count)]
        assert not left.sizes[:, 2].any() and max(kept) < 300 and np.mean(kept) < 100


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_where_bounds_are_useless_it_is_scanned(compiled, metric):
    """Equal rows, and rows far from the origin, beside one query that can be settled."""
    rng = np.random.default_rng(3)
    same = np.repeat(rng.normal(size=(1, 64)), 9000, axis=0)
    far = 1e5 + rng.normal(size=(9000, 64))
    for x in (same, far):
        x, ids = x.astype(np.float32), rng.permutation(9000)
        q = np.concatenate([x[:3], rng.normal(size=(10, 64)).astype(np.float32)])
        _, _, settled = both_ways(x, q, ids, 5, metric)
        assert not settled[:3].any()
        index, plain = FlatIndex(64, metric), FlatIndex(64, metric, codes=None)
        index.add(x, ids)
        plain.add(x, ids)
        for queries in (q, q[:2]):
            np.testing.assert_array_equal(index.search(queries, 5), plain.search(queries, 5))


@settings(max_examples=15)
@given(st.lists(st.sampled_from(["add", "upsert", "remove", "compact", "load"]), max_size=8), st.integers(0, 99))
def test_any_calls_in_any_order(tmp_path_factory, calls, seed):
    rng = np.random.default_rng(seed)
    pair = [FlatIndex(70, "l2", codes=codes) for codes in ("int8", None)]
    for call in ["add", *calls]:
        n, held = int(rng.integers(1, 150)), pair[0].ids
        x = rng.normal(size=(n, 70)).astype(np.float32)
        old, path = rng.permutation(held)[:n], tmp_path_factory.mktemp("pair") / "index"
        for i, index in enumerate(pair):
            if call == "add":
                index.add(x)
            elif call == "upsert":
                index.upsert(x, np.concatenate([old, held.max(initial=0) + 1 + np.arange(n - len(old))]))
            elif call == "remove":
                index.remove(old)
            elif call == "compact":
                index.compact()
            else:
                index.save(path)
                pair[i] = FlatIndex.load(path, mmap=bool(seed % 2))
            assert pair[i].check() == []
            pair[i].scanned = 0
        q = np.concatenate([x[:3], rng.normal(size=(9, 70))])
        np.testing.assert_array_equal(pair[0].search(q, 7), pair[1].search(q, 7))
        for some in (q[:2], q[:1]):
            np.testing.assert_array_equal(pair[0].search(some, 7), pair[1].search(some, 7))


def test_codes_by_default_where_they_pay():
    assert FlatIndex(384)._sieve and FlatIndex(64, store="float16")._sieve and FlatIndex(8, codes="int8")._sieve
    for index in (FlatIndex(63), FlatIndex(8193), FlatIndex(384, codes=None), FlatIndex(384, store="int8")):
        assert index._sieve is None
    index = FlatIndex(384)
    index.add(np.eye(100, 384))
    assert index.stats()["bytes_per_item"] == 4 * 384 + 384 + 16 + 9


@pytest.mark.parametrize("settings", [{"codes": "int4"}, {"codes": 8}, {"codes": "int8", "store": "int4"}])
def test_refusals(settings):
    with pytest.raises(InputError):
        FlatIndex(64, **settings)


def test_numbers_as_large_as_there_may_be_in_as_many_as_there_may_be():
    x = np.full((3, 8192), 1e17, np.float32) * np.float32([[1], [-1], [0.999]])
    sieved, scanned, settled = both_ways(x, x, np.arange(3), 2, "l2")
    assert settled.all() and np.isfinite(scanned[0]).all()
    np.testing.assert_array_equal(sieved, scanned)
    with pytest.raises(InputError, match="8192"):
        FlatIndex(8193, codes="int8")


def test_a_file_holds_no_codes_and_may_know_nothing_of_them(tmp_path):
    x, q = clustered(500, 64)
    index = FlatIndex(64, "ip", codes="int8")
    index.add(x)
    index.save(tmp_path / "a")
    arrays, fields = read_snapshot(tmp_path / "a", "flat-index")
    assert set(arrays) == {"vectors", "ids"} and fields["codes"] == "int8"
    wanted = index.search(q, 3)
    for codes in ("int8", "auto", None, "none said"):
        more = {} if codes == "none said" else {"codes": codes}
        write_snapshot(tmp_path / "b", "flat-index", arrays, {k: v for k, v in fields.items() if k != "codes"} | more)
        loaded = FlatIndex.load(tmp_path / "b")
        assert (loaded._sieve is None) == (codes is None)
        np.testing.assert_array_equal(loaded.search(q, 3), wanted)
    for codes in ("int5", 3, ["int8"], {}):
        write_snapshot(tmp_path / "b", "flat-index", arrays, fields | {"codes": codes})
        with pytest.raises(FormatError):
            FlatIndex.load(tmp_path / "b")


def test_any_number_of_threads_gives_the_same(monkeypatch):
    x, q = clustered(3000, 64)
    index = FlatIndex(64)
    index.add(x)
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setenv("MINIBI_NUM_THREADS", str(threads))
        other = FlatIndex(64)
        other.add(x)
        found += [index.search(q, 9), other.search(q, 9)]
    for one in found:
        np.testing.assert_array_equal(one, found[0])


PROGRAM = """
import hashlib, numpy as np
from minibi import FlatIndex
rng = np.random.default_rng(0)
x, digest = rng.normal(size=(1500, 70)).astype(np.float32), hashlib.sha256()
for metric in ("cosine", "l2"):
    index = FlatIndex(70, metric)
    index.add(x)
    for q in (x[:3] + 0.1, x[:40] + 0.1):
        for found in index.search(q, 5):
            digest.update(found.tobytes())
print(digest.hexdigest())
"""


def test_the_same_bits_on_other_processors(said_on):
    """Where a block is of sixteen rows, and bytes are multiplied without an instruction of their own."""
    assert len(set(said_on(PROGRAM, "haswell", "nehalem"))) == 1
