"""The graph: sound after any sequence of calls, reachable throughout, the same every time, and good at finding."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import minibi
from minibi import FlatIndex, HNSWIndex
from minibi.errors import InputError
from minibi.index import hnsw, hnsw_engine
from minibi.index.codes import CODES, codec_for
from minibi.index.hnsw_engine import draw_levels, engine_for
from minibi.index.hnsw_plain import PlainEngine
from minibi.index.hnsw_repair import used_upper
from minibi.kernels import graph_build

ROOT = str(Path(minibi.__file__).resolve().parents[1])
METRICS = ("cosine", "ip", "l2")


def clustered(n, dim, clusters, spread=0.3, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim))
    return (centres[rng.integers(0, clusters, n)] + spread * rng.normal(size=(n, dim))).astype(np.float32)


@st.composite
def heaps_of_vectors(draw, most=160):
    """Vectors as they really come: in clusters, repeated, all the same, all zero, of one dimension."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, dim = draw(st.integers(0, most)), draw(st.sampled_from([1, 2, 3, 8, 17]))
    kind = draw(st.sampled_from(["normal", "clusters", "duplicates", "constant", "zeros", "whole", "line", "lengths"]))
    if kind == "constant":
        return np.full((n, dim), rng.normal(), np.float32)
    if kind == "zeros":
        return np.zeros((n, dim), np.float32)
    if kind == "whole":
        return rng.integers(-1, 2, size=(n, dim)).astype(np.float32)
    if kind == "line":
        return np.linspace(-1, 1, n)[:, None].astype(np.float32) * np.ones(dim, np.float32)
    x = rng.normal(size=(n, dim)).astype(np.float32)
    if kind == "duplicates" and n:
        return x[rng.integers(0, max(1, n // 20), n)]
    if kind == "clusters" and n:
        return x[rng.integers(0, max(1, n // 20), n)] + 0.01 * x
    if kind == "lengths":
        return x * rng.exponential(size=(n, 1)).astype(np.float32) ** 3
    return x


def sound(index: HNSWIndex) -> None:
    """`check`, and once more by hand: degrees, targets, levels, ids, and that every row can be reached."""
    assert index.check() == []
    n, m = len(index), index.M
    assert len(set(index.ids.tolist())) == n
    assert index.reconstruct(index.ids).shape == (n, index.dim)
    view = index._view
    if not n or view.gone:
        return
    links, levels, upper, root = view["links"], view["levels"], view.arrays["upper"], view.facts["root"]
    assert links.shape == (n, 2 * m) and upper.shape[1] == m and levels[view.facts["entry"]] == levels.max()
    slot = 0
    for row in range(n):
        for layer in range(int(levels[row]) + 1):
            table = links[row] if layer == 0 else upper[slot]
            slot += layer > 0
            found = [t for t in table.tolist() if t >= 0]
            assert table.tolist() == found + [-1] * (len(table) - len(found)), "links come first"
            assert len(set(found)) == len(found) and row not in found
            assert all(t < n and levels[t] >= layer for t in found)
    seen, todo = {root}, [root]
    while todo:
        fresh = {t for t in links[todo.pop()].tolist() if t >= 0} - seen
        seen |= fresh
        todo += fresh
    assert len(seen) == n


@settings(max_examples=80)
@given(
    st.lists(heaps_of_vectors(60), min_size=1, max_size=5),
    st.sampled_from(METRICS),
    st.integers(2, 16),
    st.integers(1, 24),
    st.integers(0, 3),
)
def test_sound_after_any_adds_and_complete_when_asked_for_all(heaps, metric, m, breadth, seed):
    index = HNSWIndex(8, metric, M=m, ef_construction=breadth, seed=seed)
    added = 0
    for x in heaps:
        x = np.resize(x, (len(x), 8)) if x.size else np.zeros((0, 8), np.float32)
        index.add(x)
        added += len(x)
        sound(index)
    if added:
        q = np.vstack([index.reconstruct(index.ids[:2]), np.zeros((1, 8)), np.ones((1, 8))])
        for k in (1, max(1, added // 2), added, added + 3):
            _, ids = index.search(q, k, ef=1)
            assert ((ids >= 0).sum(1) == min(k, added)).all(), "min(k, N) results, whatever ef"
            assert all(len(set(row[row >= 0].tolist())) == min(k, added) for row in ids)
        exact = FlatIndex(8, metric)
        exact.add(index.reconstruct(index.ids))
        for a, b in zip(exact.search(q, added), index.search(q, added, ef=added), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6) if a.dtype == np.float32 else None


@settings(max_examples=60)
@given(heaps_of_vectors(), st.sampled_from(METRICS), st.integers(2, 16), st.integers(1, 40))
def test_sound_in_any_dimension(x, metric, m, breadth):
    index = HNSWIndex(x.shape[1] if x.size else 3, metric, M=m, ef_construction=breadth)
    if x.size:
        index.add(x, np.arange(len(x))[::-1] * 7)
    sound(index)


# --- the twin --------------------------------------------------------------------------------------------------------


@st.composite
def exact_vectors(draw):
    """Vectors whose distances, normalized or not, have no rounding: entries 0 and ±1, of them 0, 1, 4 or 16 not 0."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    dim = draw(st.sampled_from([4, 16, 20]))
    x = np.zeros((draw(st.integers(1, 130)), dim), np.float32)
    for row in x:
        count = rng.choice([c for c in (0, 1, 4, 16) if c <= dim])
        row[rng.permutation(dim)[:count]] = rng.choice([-1, 1], count)
    return x


def graph_of(index: HNSWIndex) -> list:
    view = index._view
    upper = view.arrays["upper"][: used_upper(view.arrays, view.count)]
    return [view.facts, upper.tolist(), *(view[name].tolist() for name in ("levels", "links", "parents", "live"))]


@settings(max_examples=40)
@given(
    exact_vectors(), st.sampled_from(METRICS), st.sampled_from(CODES), st.sampled_from(CODES),
    st.integers(2, 9), st.integers(1, 30), st.integers(1, 40), st.integers(0, 2**32),
    st.sampled_from(("hierarchy", "sampled")),
)  # fmt: skip
def test_kernel_and_plain_twin_build_the_same_graph(compiled, x, metric, codes, store, m, breadth, ef, seed, entry):
    if codes.startswith("float") and store.startswith("int"):
        store = codes  # what is decoded from codes has rounded sums
    half = len(x) // 2
    built, results = [], []
    for choice in ("compiled", "plain"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MINIBI_KERNELS", choice)
            index = HNSWIndex(x.shape[1], metric, M=m, ef_construction=breadth, codes=codes, store=store, entry=entry)
            index.add(x[:half])
            index.add(x[half:])
            built.append(graph_of(index))
            index.remove(np.flatnonzero(np.random.default_rng(seed).random(len(x)) < 0.4))
            index.upsert(x[:5] * np.float32(-1), np.arange(len(x[:5])))
            index._relink()
            built[-1] += graph_of(index)
            index.compact()
            built[-1] += graph_of(index)
            results.append([a.tolist() for k in (1, 5, len(x)) for a in index.search(x[:9], k, ef=ef)])
            sound(index)
    assert built[0] == built[1]
    assert results[0] == results[1]


def test_kernel_and_plain_twin_agree_on_reachability(compiled, monkeypatch):
    rng = np.random.default_rng(0)
    for _ in range(20):
        links = -np.sort(-rng.integers(-1, 40, size=(40, 3)), axis=1).astype(np.int32)
        arrays = HNSWIndex(16)._empty(40) | {"links": links, "upper": np.zeros((0, 16), np.int32)}
        found = []
        for choice in ("compiled", "plain"):
            monkeypatch.setenv("MINIBI_KERNELS", choice)
            engine, parents = engine_for(codec_for("float32", 16), arrays, "vectors", "ip"), np.full(40, -1, np.int32)
            counts = [engine.spanning_tree(40, 7, parents)]
            assert counts[0] == (parents >= 0).sum()
            rest = int(np.flatnonzero(parents < 0)[0]) if (parents < 0).any() else 7
            counts.append(engine.spanning_tree(40, rest, parents))
            found.append([counts, parents.tolist()])
        assert found[0] == found[1]


# --- recall ----------------------------------------------------------------------------------------------------------


def recall(index, exact, queries, k=10, ef=128) -> float:
    """The share of the true k nearest that were found; anything as near as the k-th counts."""
    scores, _ = index.search(queries, k, ef=ef)
    wanted, _ = exact.search(queries, k)
    worst = wanted[:, -1:]
    slack = 1e-5 * np.maximum(1, np.abs(worst))
    good = scores <= worst + slack if index.metric == "l2" else scores >= worst - slack
    return float(good.mean())


def size(n: int) -> int:
    """The plain twin is a hundred times slower: it gets a tenth."""
    return n // 10 if os.environ.get("MINIBI_KERNELS") == "plain" else n


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("dim", "clusters", "spread"), [(32, 40, 0.3), (64, 200, 0.1), (48, 1, 1.0)])
def test_recall_on_clustered_vectors(metric, dim, clusters, spread):
    x = clustered(size(5000), dim, clusters, spread)
    rng = np.random.default_rng(1)
    q = (x[rng.integers(0, len(x), 200)] + 0.5 * spread * rng.normal(size=(200, dim))).astype(np.float32)
    index, exact = HNSWIndex(dim, metric), FlatIndex(dim, metric)
    index.add(x)
    exact.add(x)
    assert index.check() == []
    assert recall(index, exact, q) >= 0.95


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("order", ["mixed", "duplicates first", "duplicates last"])
def test_duplicates_do_not_hide_the_others(metric, order):
    """A thousand copies of one vector among five thousand others, searched for the others."""
    copies, others = size(1000), size(5000)
    x = clustered(others, 32, 40)
    same = np.repeat(x[:1] + 0.01, copies, axis=0)
    y = np.vstack([same, x] if order == "duplicates first" else [x, same])
    if order == "mixed":
        y = y[np.random.default_rng(0).permutation(len(y))]
    rng = np.random.default_rng(1)
    far = x[np.linalg.norm(x - same[0], axis=1) > np.median(np.linalg.norm(x - same[0], axis=1)) / 2]
    q = far[rng.integers(0, len(far), 200)] + 0.1 * rng.normal(size=(200, 32)).astype(np.float32)
    index, exact, clean = HNSWIndex(32, metric), FlatIndex(32, metric), HNSWIndex(32, metric)
    index.add(y)
    exact.add(y)
    clean.add(x)
    assert index.check() == []
    assert recall(index, exact, q) >= max(0.95, recall(clean, exact, q) - 0.02)
    scores, ids = index.search(same[0], 50, ef=128)  # and the copies themselves are found, each once
    assert len(set(ids[0].tolist())) == 50
    np.testing.assert_allclose(scores, scores[0, 0], atol=1e-5)


def test_many_groups_of_duplicates_take_no_longer_than_linear():
    """Each group is a sink that pruning cuts off; linking them again must not cost a search of everything each."""
    n = size(20_000)
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(20, 16)).astype(np.float32)
    index = HNSWIndex(16, M=8, ef_construction=40)
    index.add(kinds[rng.integers(0, 20, n)])
    assert index.check() == []
    _, ids = index.search(kinds, 50, ef=60)
    found = [np.unique(index.reconstruct(row), axis=0) for row in ids]
    assert all(len(f) == 1 for f in found)


def test_a_larger_ef_finds_no_less():
    x = clustered(size(3000), 32, 1, 1.0)
    q = clustered(100, 32, 1, 1.0, seed=9)
    index, exact = HNSWIndex(32, "l2", M=4, ef_construction=40), FlatIndex(32, "l2")
    index.add(x)
    exact.add(x)
    found = [recall(index, exact, q, ef=ef) for ef in (10, 40, 200, len(x))]
    assert found[0] < found[1] < found[2] <= found[3] == 1


# --- the same graph every time ---------------------------------------------------------------------------------------

BUILD = """
import hashlib
import numpy as np
from minibi import HNSWIndex
index = HNSWIndex(12, "l2", M=5, ef_construction=30, seed=3)
rng = np.random.default_rng(0)
for n in (1, 200, 99, 700, 1500):
    index.add(rng.integers(-5, 6, size=(n, 12)))
index.remove(range(50, 120))
index.upsert(rng.integers(-5, 6, size=(400, 12)), range(400))
view = index._view
parts = [view[name] for name in ("links", "levels", "offsets", "parents", "ids")]
print(hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest(), view.facts)
"""


def test_the_same_calls_give_the_same_graph_in_every_process():
    out = set()
    for threads in ("1", "2", "4"):
        env = {**os.environ, "PYTHONPATH": ROOT, "MINIBI_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        out.add(subprocess.check_output([sys.executable, "-c", BUILD], env=env))
    assert len(out) == 1


def test_different_seeds_differ_in_levels_alone(tmp_path):
    x = clustered(300, 8, 3)
    digests, levels = [], []
    for seed in (0, 0, 1):
        index = HNSWIndex(8, seed=seed)
        index.add(x)
        index.save(tmp_path / "i")
        digests.append(hashlib.sha256((tmp_path / "i").read_bytes()).hexdigest())
        levels.append(index._view["levels"].tolist())
    assert digests[0] == digests[1] != digests[2] and levels[0] == levels[1] != levels[2]


@pytest.mark.parametrize("m", [2, 4, 16, 64])
@pytest.mark.parametrize("seed", [0, 1, -5, 2**80])
def test_levels_follow_the_geometric_law(m, seed):
    """P(level >= l) = M ** -l: each share within five standard deviations."""
    n = 200_000
    levels = draw_levels(np.arange(n), m, seed)
    assert levels.dtype == np.int8 and levels.min() == 0 and levels.max() <= 30
    for level in range(1, 12):
        p = float(m) ** -level
        if n * p < 20:
            break
        assert abs((levels >= level).mean() - p) < 5 * math.sqrt(p * (1 - p) / n)
    other = draw_levels(np.arange(n), m, seed + 1)
    p = (levels == other).mean()
    q = sum(((m - 1) / m**i) ** 2 for i in range(1, 31))
    assert abs(p - q) < 5 * math.sqrt(q * (1 - q) / n) + 1e-9  # seeds are independent
    np.testing.assert_array_equal(draw_levels(np.arange(50, 90), m, seed), levels[50:90])


# --- interruptions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["insert", "find_neighbours", "adopt", "link_back"])
@pytest.mark.parametrize("call", [1, 2, 9])
def test_interrupted_at_any_step(monkeypatch, step, call):
    """Ctrl-C lands before or after a call of the engine: batches that were published stay, the rest was never there."""
    monkeypatch.setattr(hnsw, "STRETCH", 16)
    if step != "insert":  # the kernels have it all in one
        monkeypatch.setenv("MINIBI_KERNELS", "plain")
    x = clustered(400, 8, 5)
    index = HNSWIndex(8, M=4, ef_construction=20)
    index.add(x[:200], np.arange(1000, 1200))
    engine = type(index._engine(index._view))
    real, calls = getattr(engine, step), itertools.count(1)

    def interrupted(*args):
        now = next(calls) == call
        if now and call % 2:
            raise KeyboardInterrupt
        real(*args)
        if now:
            raise KeyboardInterrupt

    monkeypatch.setattr(engine, step, interrupted)
    with pytest.raises(KeyboardInterrupt):
        index.add(x[200:], np.arange(200))
    monkeypatch.setattr(engine, step, real)
    stayed = len(index)
    assert 200 <= stayed < 400 and index.ids.tolist() == [*range(1000, 1200), *range(stayed - 200)]
    sound(index)
    assert (index.search(x[100], 400, ef=400)[1] >= 0).sum() == stayed
    index.add(x[stayed:], np.arange(stayed - 200, 200))
    sound(index)
    whole = HNSWIndex(8, M=4, ef_construction=20)
    whole.add(x[:200], np.arange(1000, 1200))
    whole.add(x[200:], np.arange(200))
    np.testing.assert_array_equal(index.search(x, 10, ef=400)[1], whole.search(x, 10, ef=400)[1])


@pytest.mark.parametrize("who", ["caller", "helper", "waiting"])
def test_a_thread_that_fails_keeps_nobody_waiting(compiled, monkeypatch, who):
    """The caller or its helper fails before it has taken a row: the other does all the work. Or the caller waits for a
    row that was taken by a thread that is held up, and is interrupted."""
    monkeypatch.setenv("MINIBI_NUM_THREADS", "1" if who == "waiting" else "2")
    x = clustered(1500, 8, 5)
    index, whole = HNSWIndex(8, M=4, ef_construction=20), HNSWIndex(8, M=4, ef_construction=20)
    whole.add(x[:1000])
    whole.add(x[1000:])
    index.add(x[:1000])
    real, caller, failed = graph_build.insert, threading.get_ident(), threading.Event()

    def insert(*args):
        if who == "waiting":
            board = next(a for a in args if isinstance(a, np.ndarray) and a.shape[1:] == (graph_build.COUNTERS,))
            board[0, graph_build.TAKEN] += 1 - failed.is_set()
            failed.set()
        elif (who == "caller") == (threading.get_ident() == caller):
            failed.set()
            raise KeyboardInterrupt
        elif who == "helper":
            assert failed.wait(20)
        return real(*args)

    def sleep(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(graph_build, "insert", insert)
    monkeypatch.setattr(hnsw_engine, "sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        index.add(x[1000:])
    assert failed.is_set() and index.ids.tolist() == list(range(1000))
    monkeypatch.undo()
    sound(index)
    index.add(x[1000:])
    sound(index)
    found = index.search(x, 10, ef=400)[1]
    np.testing.assert_array_equal(found, whole.search(x, 10, ef=400)[1])


def test_a_thread_that_was_held_up_is_waited_for(compiled, monkeypatch):
    """Another thread takes the first batch's rows, sleeps, and does them when everybody waits."""
    monkeypatch.setenv("MINIBI_NUM_THREADS", "1")
    x = clustered(700, 8, 5)
    index, whole = HNSWIndex(8, M=4, ef_construction=20), HNSWIndex(8, M=4, ef_construction=20)
    for part in (x[:600], x[600:]):
        whole.add(part)
    index.add(x[:600])
    real, naps = graph_build.insert, itertools.count(1)

    def insert(*args):
        board = next(a for a in args if isinstance(a, np.ndarray) and a.shape[1:] == (graph_build.COUNTERS,))
        now = next(naps)
        if now in (1, 3):  # the third time it is that thread's own call
            board[0, graph_build.TAKEN] = 12 if now == 1 else 0
        return real(*args)

    monkeypatch.setattr(graph_build, "insert", insert)
    index.add(x[600:])
    assert next(naps) == 4
    assert graph_of(index) == graph_of(whole)


@pytest.mark.parametrize("call", [1, 7, 60, 150, 333])
@pytest.mark.parametrize("before", [0, 1, 25])
def test_interrupted_in_the_middle_of_a_row(monkeypatch, call, before):
    """The plain twin can be interrupted anywhere, also when a row is half linked."""
    monkeypatch.setenv("MINIBI_KERNELS", "plain")
    x = clustered(90, 6, 4, seed=2)
    index = HNSWIndex(6, "l2", M=3, ef_construction=10)
    index.add(x[:before])
    real, calls = PlainEngine._write, itertools.count(1)

    def write(self, layer, row, links, table=None):
        if next(calls) == call:
            self._slots(layer, row)[:1] = -1  # half of it was written
            raise KeyboardInterrupt
        real(self, layer, row, links, table)

    monkeypatch.setattr(PlainEngine, "_write", write)
    try:
        index.add(x[before:])
        finished = True
    except KeyboardInterrupt:
        finished = False
    monkeypatch.setattr(PlainEngine, "_write", real)
    assert finished == (next(calls) <= call)
    assert len(index) == 90 if finished else before <= len(index) < 90
    index.add(x[len(index) :], np.arange(len(index), 90))
    sound(index)
    exact = FlatIndex(6, "l2")
    exact.add(x)
    assert recall(index, exact, x[:40], k=5, ef=90) == 1


# --- settings --------------------------------------------------------------------------------------------------------


BAD_SETTINGS = [("M", 1), ("M", 513), ("M", 16.0), ("M", "16"), ("M", None), ("M", True), ("seed", 1.5), ("seed", "x")]
BAD_SETTINGS += [("ef_construction", 0), ("ef_construction", 2.5), ("ef_construction", 100_001)]


@pytest.mark.parametrize(("name", "value"), BAD_SETTINGS)
def test_bad_settings(name, value):
    with pytest.raises(InputError, match=name):
        HNSWIndex(4, **{name: value})


def test_numpy_settings_can_be_saved(tmp_path):
    index = HNSWIndex(np.int64(4), M=np.int32(4), ef_construction=np.int64(9), seed=np.uint8(3))
    index.add(np.eye(4))
    index.save(tmp_path / "i")
    assert HNSWIndex.load(tmp_path / "i").seed == 3


def test_ef_can_be_set_once():
    x = clustered(size(2000), 24, 1, 1.0)
    index = HNSWIndex(24, M=4, ef_construction=20)
    index.add(x)
    few = index.search(x[:50] + 0.1, 10, ef=10)[1]
    index.ef = 10
    np.testing.assert_array_equal(index.search(x[:50] + 0.1, 10)[1], few)
