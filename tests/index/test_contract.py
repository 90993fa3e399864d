"""What every index promises, held for each kind and metric. Graphs are searched with ef = N, where they are exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi import FlatIndex, HNSWIndex
from minibi.environment import plain_kernels
from minibi.errors import FormatError, InputError
from minibi.testing.strategies import BROKEN_IDS, BROKEN_VECTORS, HUGE


def oracle(vectors, ids, queries, k, metric):
    """(scores, ids) by float64 arithmetic, equal scores by id."""
    x, q = np.asarray(vectors, float), np.asarray(queries, float)
    if metric == "cosine":
        x, q = (a / np.where((n := np.linalg.norm(a, axis=1, keepdims=True)) > 0, n, 1) for a in (x, q))
    distances = ((x[None] - q[:, None]) ** 2).sum(-1) if metric == "l2" else -(q @ x.T)
    order = np.stack([np.lexsort((ids, d)) for d in distances])[:, :k]
    best = np.take_along_axis(distances, order, 1)
    return (best if metric == "l2" else -best), np.asarray(ids)[order]


def random(n, dim=8, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


# --- shapes and order ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "dim", "k"), [(1, 1, 1), (3, 1, 2), (40, 5, 40), (40, 16, 7), (200, 33, 10)])
def test_equals_an_oracle(make, metric, n, dim, k):
    x, q = random(n, dim), random(9, dim, 1)
    index = make(dim)
    ids = np.random.default_rng(2).permutation(n) * 3 - 7
    ids[ids == -1] = 10**6
    index.add(x, ids)
    scores, found = index.search(q, k, ef=n)
    assert scores.dtype == np.float32 and found.dtype == np.int64 and scores.shape == found.shape == (9, k)
    wanted, wanted_ids = oracle(x, ids, q, k, metric)
    np.testing.assert_allclose(scores, wanted, rtol=1e-5, atol=1e-5)
    clear = np.abs(np.diff(wanted, axis=1)).min(initial=1) > 1e-5
    if clear:
        np.testing.assert_array_equal(found, wanted_ids)


def test_more_asked_than_stored(make, metric):
    index = make(4)
    index.add(random(3, 4))
    scores, ids = index.search(random(2, 4, 1), 7)
    assert (ids[:, 3:] == -1).all() and (np.sort(ids[:, :3]) == [0, 1, 2]).all()
    assert (scores[:, 3:] == (np.inf if metric == "l2" else -np.inf)).all() and np.isfinite(scores[:, :3]).all()


def test_empty_index(make):
    index = make(4)
    assert len(index) == 0 and index.check() == [] and index.ids.tolist() == [] and 0 not in index
    scores, ids = index.search(random(3, 4), 5)
    assert ids.shape == (3, 5) and (ids == -1).all() and np.isinf(scores).all()
    index.add(np.zeros((0, 4)))
    index.add([], [])
    assert len(index) == 0 and index.check() == []


def test_input_of_any_numeric_kind(make):
    index = make(3)
    index.add([1, 2, 3])
    index.add([[True, False, True]])
    index.add(np.arange(6, dtype=np.int16).reshape(2, 3))
    index.add(np.asfortranarray(random(4, 3).astype(np.float64)))
    index.add(np.repeat(random(4, 3, 1), 2, axis=1)[:, ::2])
    index.add([[0.5, np.float16(2), 1]])
    assert len(index) == 13 and index.check() == []
    scores, ids = index.search([3, 2, 1], 13, ef=13)
    assert sorted(ids[0]) == list(range(13)) and np.isfinite(scores).all()


def test_the_callers_arrays_are_neither_kept_nor_changed(make):
    x, ids, q = random(5, 16), np.arange(5), random(1, 16, 1)
    before = x.copy()
    index = make(16)
    returned = index.add(x, ids)
    wanted = index.search(q, 5)
    x[:] = 9
    ids[:] = 77
    returned[:] = 88
    index.ids[:] = 99
    for a, b in zip(index.search(q, 5), wanted, strict=True):
        np.testing.assert_array_equal(a, b)
    assert index.ids.tolist() == [0, 1, 2, 3, 4] and 77 not in index
    index.search(before, 2)
    np.testing.assert_array_equal(before, random(5, 16))


# --- ties, zeros, extremes -------------------------------------------------------------------------------------------


def test_ties_go_to_the_smaller_id(make):
    x = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [0, 1]], np.float32)
    index = make(2)
    index.add(x, [30, 4, -20, 10, HUGE])
    _, ids = index.search([[1, 0], [0, 1], [1, 1]], 5, ef=5)
    assert ids[0].tolist()[:3] == [-20, 10, 30] and ids[1].tolist()[:2] == [4, HUGE]
    assert ids[2].tolist() == [-20, 4, 10, 30, HUGE]
    _, ids = index.search([1, 0], 2, ef=5)
    assert ids.tolist() == [[-20, 10]]


@pytest.mark.parametrize("metric", ["ip", "l2"])  # normalizing would round
@pytest.mark.parametrize("seed", range(3))
def test_exact_ties_on_whole_numbers(make, metric, seed):
    """Small whole numbers leave no rounding: scores, order and ids must all be those of the oracle."""
    rng = np.random.default_rng(seed)
    x, q = rng.integers(-2, 3, size=(60, 3)), rng.integers(-2, 3, size=(20, 3))
    ids = rng.permutation(1000)[:60] - 500
    ids[ids == -1] = 1001
    index = make(3)
    index.add(x, ids)
    scores, found = index.search(q, 25, ef=60)
    wanted, wanted_ids = oracle(x, ids, q, 25, metric)
    np.testing.assert_array_equal(scores, wanted)
    np.testing.assert_array_equal(found, wanted_ids)


@pytest.mark.parametrize("metric", ["cosine"])
def test_cosine_of_zero_vectors_is_zero(make):
    index = make(3)
    index.add([[0, 0, 0], [1, 0, 0], [-1, 0, 0]])
    scores, ids = index.search([[1, 0, 0], [0, 0, 0]], 3, ef=3)
    assert scores.tolist() == [[1, 0, -1], [0, 0, 0]] and ids.tolist() == [[1, 0, 2], [0, 1, 2]]
    assert not np.signbit(scores[1]).any()


def test_minus_zero_is_zero(make):
    index = make(2)
    index.add([[-0.0, 0.0], [0.0, -0.0]], [5, 3])
    scores, ids = index.search([-0.0, -0.0], 2, ef=2)
    assert ids.tolist() == [[3, 5]] and scores.tolist() == [[0, 0]] and not np.signbit(scores).any()


def test_huge_and_tiny_values(make, metric):
    x = np.array([[3e38, 3e38], [1e-45, 0], [0, 1e-38], [-3e38, 1]])
    index = make(2)
    if metric == "cosine":
        index.add(x)
        scores, ids = index.search([[2e38, 2e38], [1e-44, 0]], 4, ef=4)
        np.testing.assert_allclose(scores[0], [1, 0.5**0.5, 0.5**0.5, -(0.5**0.5)], rtol=1e-6)
        assert ids[0].tolist() == [0, 1, 2, 3] and ids[1].tolist() == [1, 0, 2, 3]
        return
    with pytest.raises(InputError, match="1e17"):
        index.add(x)
    assert len(index) == 0
    index.add(x[1:3])
    with pytest.raises(InputError, match="1e17"):
        index.search(x[0], 1)
    index.add([[1e17, -1e17]], [9])
    scores, _ = index.search([[1e17, -1e17], [-1e17, 1e17]], 3, ef=3)
    assert np.isfinite(scores).all()


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BROKEN_VECTORS)
def test_bad_vectors_are_refused_and_nothing_is_added(make, name):
    index = make(3)
    index.add(random(4, 3))
    before = [a.tobytes() for a in index.search(np.ones(3), 4, ef=4)]
    for call in (index.add, index.search):
        with pytest.raises(InputError) as e:
            call(BROKEN_VECTORS[name])
        assert "\n" not in str(e.value)
    assert len(index) == 4 and index.check() == []
    assert [a.tobytes() for a in index.search(np.ones(3), 4, ef=4)] == before


@pytest.mark.parametrize("name", BROKEN_IDS)
def test_bad_ids_are_refused_and_nothing_is_added(make, name):
    index = make(3)
    index.add(random(1, 3), [100])
    with pytest.raises(InputError) as e:
        index.add(random(2, 3), BROKEN_IDS[name])
    assert "\n" not in str(e.value)
    assert len(index) == 1 and index.ids.tolist() == [100] and index.check() == []


def test_ids_given_twice_are_named(make):
    index = make(3)
    index.add(random(2, 3), [-5, HUGE])
    with pytest.raises(InputError, match="id 41 is given twice"):
        index.add(random(3, 3), [41, 7, 41])
    with pytest.raises(InputError, match=f"id {HUGE} is already"):
        index.add(random(2, 3), [8, HUGE])
    assert index.ids.tolist() == [-5, HUGE] and 8 not in index and index.check() == []


@pytest.mark.parametrize("k", [0, -1, 1.0, 2.5, "3", None, True, [1]])
def test_bad_k(make, k):
    index = make(3)
    index.add(random(2, 3))
    with pytest.raises(InputError, match="k must be"):
        index.search(np.ones(3), k)


@pytest.mark.parametrize("ef", [0, -1, 2.5, "3", [1]])
def test_bad_ef(make, ef):
    index = make(3)
    index.add(random(2, 3))
    with pytest.raises(InputError, match="ef must be"):
        index.search(np.ones(3), 1, ef=ef)


@pytest.mark.parametrize("dim", [0, -1, 2.0, "3", None])
def test_bad_dim(make, dim):
    with pytest.raises(InputError, match="dim"):
        make(dim)


@pytest.mark.parametrize("metric", ["", "euclidean", None, 3, ["ip"]])
def test_bad_metric(metric):
    for kind in (FlatIndex, HNSWIndex):
        with pytest.raises(InputError, match="metric"):
            kind(3, metric)


def test_numpy_integers_are_whole_numbers(make):
    index = make(3)
    index.add(random(5, 3))
    _, ids = index.search(np.ones(3), np.int64(2), ef=np.int32(5))
    assert ids.shape == (1, 2)


# --- ids -------------------------------------------------------------------------------------------------------------


def test_any_int64_but_minus_one(make):
    ids = [0, -2, HUGE, -(2**63), 1, 2**32, -(2**31)]
    index = make(4)
    x = random(7, 4)
    assert index.add(x, ids).tolist() == ids
    assert index.ids.tolist() == ids and all(i in index for i in ids) and -1 not in index and 3 not in index
    _, found = index.search(x, 1, ef=7)
    if index.metric != "ip":
        assert found[:, 0].tolist() == ids
    assert sorted(index.search(x[0], 7, ef=7)[1][0].tolist()) == sorted(ids)


def test_a_range_holds_negative_ids_too(make):
    index = make(2)
    index.add([[1, 0], [1, 0], [1, 0]], [-5, 3, -(2**63)])
    assert index.range_search([1, 0], 0.0 if index.metric == "l2" else 1.0)[2].tolist() == [-(2**63), -5, 3]


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint64])
def test_ids_of_any_integer_type(make, dtype):
    index = make(2)
    index.add(random(2, 2), np.array([3, 100], dtype))
    assert index.ids.tolist() == [3, 100] and index.ids.dtype == np.int64


def test_ids_count_on(make):
    index = make(2)
    assert index.add(random(2, 2)).tolist() == [0, 1]
    assert index.add(random(1, 2), [10]).tolist() == [10]
    assert index.add(random(2, 2)).tolist() == [11, 12]
    assert index.add(random(1, 2), [5]).tolist() == [5]
    assert index.add(random(1, 2)[0]).tolist() == [13]
    negative = make(2)
    negative.add(random(1, 2), [-100])
    assert negative.add(random(2, 2)).tolist() == [0, 1]


def test_ids_cannot_count_beyond_int64(make):
    index = make(2)
    index.add(random(1, 2), [HUGE - 2])
    assert index.add(random(1, 2)).tolist() == [HUGE - 1]
    with pytest.raises(InputError, match="pass ids"):
        index.add(random(1, 2))
    assert len(index) == 2
    index.add(random(1, 2), [0])


def test_reconstruct(make, metric):
    x = random(6, 5)
    index = make(5)
    index.add(x, [4, -9, HUGE, 0, 1, 2])
    stored = x / np.linalg.norm(x, axis=1, keepdims=True) if metric == "cosine" else x
    np.testing.assert_allclose(index.reconstruct([HUGE, 4, 4]), stored[[2, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(index.reconstruct(-9), stored[[1]], rtol=1e-6)
    assert index.reconstruct([]).shape == (0, 5)
    got = index.reconstruct([4])
    got[:] = 0
    assert index.reconstruct([4]).any()
    for bad in (77, [4, 77], "4", [[4, 0], [1, 2]], [[4], [0, 1]], None, [0.5]):
        with pytest.raises(InputError):
            index.reconstruct(bad)


# --- the same bits ---------------------------------------------------------------------------------------------------


def equal(a, b):
    if plain_kernels():  # BLAS may sum in another order for another number of rows
        np.testing.assert_allclose(a[0], b[0], rtol=1e-5, atol=1e-6)
    else:
        assert a[0].tobytes() == b[0].tobytes() and a[1].tobytes() == b[1].tobytes()


def test_results_do_not_depend_on_the_batch(make):
    index = make(37)
    index.add(random(300, 37))
    q = random(150, 37, 1)
    scores, ids = index.search(q, 10)
    for i in (0, 1, 31, 32, 63, 64, 149):
        equal(index.search(q[i], 10), (scores[i : i + 1], ids[i : i + 1]))
    order = np.random.default_rng(0).permutation(150)
    equal(index.search(q[order], 10), (scores[order], ids[order]))
    equal(index.search(q[40:77], 10), (scores[40:77], ids[40:77]))


def test_fewer_results_are_a_prefix(make):
    index = make(12)
    index.add(random(300, 12))
    q = random(40, 12, 1)
    whole = index.search(q, 50, ef=60)
    for k in (1, 2, 49):
        equal(index.search(q, k, ef=60), (whole[0][:, :k].copy(), whole[1][:, :k].copy()))


def test_results_do_not_depend_on_threads(make, monkeypatch):
    q, found = random(200, 24, 1), []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("MINIBI_NUM_THREADS", threads)
        index = make(24)
        index.add(random(300, 24))
        found.append(index.search(q, 10))
    equal(found[0], found[1])
    equal(found[0], found[2])


def test_adding_in_parts_is_adding_at_once(make):
    x, q = random(150, 8), random(30, 8, 1)
    whole, parts = make(8), make(8)
    whole.add(x)
    for a, b in ((0, 1), (1, 2), (2, 66), (66, 66), (66, 150)):
        parts.add(x[a:b])
    assert parts.ids.tolist() == whole.ids.tolist() and parts.check() == []
    equal(whole.search(q, 10, ef=150), parts.search(q, 10, ef=150))


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [0, 1, 70])
def test_save_and_load(make, tmp_path, n):
    index = make(7, fingerprint="0afe")
    index.notes = {"commit": 3, "who": "Ünï", "deep": [1, {"a": None}]}
    index.add(random(n, 7), np.arange(n) * 5 - 2**62)
    path = tmp_path / "deep" / "index.safetensors"
    index.save(path)
    loaded = type(index).load(str(path))
    assert (loaded.dim, loaded.metric, loaded.fingerprint, loaded.notes) == (7, index.metric, "0afe", index.notes)
    assert loaded.ids.tolist() == index.ids.tolist() and len(loaded) == n and loaded.check() == []
    q = random(20, 7, 1)
    equal(index.search(q, 10), loaded.search(q, 10))
    more = random(80, 7, 2)
    assert index.add(more).tolist() == loaded.add(more).tolist()
    equal(index.search(q, 10), loaded.search(q, 10))
    assert loaded.check() == []
    loaded.save(path)  # over the file that it was read from
    equal(type(index).load(path).search(q, 10), index.search(q, 10))


def test_loading_changes_no_file(make, tmp_path):
    index = make(7)
    index.add(random(70, 7))
    path = tmp_path / "index"
    index.save(path)
    before = path.read_bytes()
    loaded = type(index).load(path)
    loaded.add(random(5, 7, 3))
    loaded._view.arrays["vectors"][:] = 0
    assert path.read_bytes() == before


def test_an_index_of_another_kind_is_refused(tmp_path):
    for kind, other in ((FlatIndex, HNSWIndex), (HNSWIndex, FlatIndex)):
        index = kind(3)
        index.add(random(4, 3))
        index.save(tmp_path / "index")
        with pytest.raises(FormatError, match=f"not a {other.kind}"):
            other.load(tmp_path / "index")


def test_settings_survive(tmp_path):
    index = HNSWIndex(5, "ip", M=7, ef_construction=33, seed=-(2**70), fingerprint="f")
    index.add(random(9, 5))
    index.save(tmp_path / "i")
    loaded = HNSWIndex.load(tmp_path / "i")
    assert (loaded.M, loaded.ef_construction, loaded.seed, loaded.metric) == (7, 33, -(2**70), "ip")


def test_text_form(make, kind, metric):
    index = make(3)
    index.add(random(2, 3))
    assert repr(index) == f"{type(index).__name__}(dim=3, metric={metric!r}, 2 vectors)"


# --- any sequence of calls -------------------------------------------------------------------------------------------

BATCHES = st.lists(
    st.lists(st.tuples(st.integers(-3, 12), st.lists(st.integers(-2, 2), min_size=2, max_size=2)), max_size=6),
    max_size=5,
)


@settings(max_examples=40)
@given(batches=BATCHES, queries=st.lists(st.lists(st.integers(-2, 2), min_size=2, max_size=2), max_size=4))
@pytest.mark.parametrize("kind_", [FlatIndex, HNSWIndex])
@pytest.mark.parametrize("metric_", ["ip", "l2"])
def test_any_sequence_of_adds_against_a_dict(kind_, metric_, batches, queries):
    """A batch with an id that is -1, known or repeated adds nothing; the others add all."""
    index, truth = kind_(2, metric_), {}
    for batch in batches:
        ids, vectors = [i for i, _ in batch], [v for _, v in batch]
        if -1 in ids or len(set(ids)) < len(ids) or truth.keys() & set(ids):
            with pytest.raises(InputError):
                index.add(vectors, ids)
        else:
            index.add(vectors, ids)
            truth.update(zip(ids, vectors, strict=True))
        assert index.ids.tolist() == list(truth) and index.check() == []
    k = max(1, len(truth))
    scores, found = index.search(queries, k, ef=k)
    if truth and queries:
        wanted, wanted_ids = oracle(list(truth.values()), list(truth), queries, k, metric_)
        np.testing.assert_array_equal(found, wanted_ids)
        np.testing.assert_array_equal(scores, wanted)
