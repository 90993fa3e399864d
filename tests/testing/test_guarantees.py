"""What the indexes guarantee, small by default and in full with MINIBI_DEEP=1 (figures: benchmarks/RESULTS.md)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import minibi
from minibi import FlatIndex, HNSWIndex
from minibi.testing import (
    Oracle,
    Subject,
    check_kills,
    check_mangled,
    check_readers,
    graph_of,
    graph_report,
    recall_report,
)


def clustered(n, dim=32, clusters=100, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(7).normal(size=(clusters, dim))
    return (centres[rng.integers(0, clusters, n)] + 0.4 * rng.normal(size=(n, dim))).astype(np.float32)


def size(n: int, deep: bool) -> int:
    """A twentieth by default, a fiftieth for the slow twin."""
    return n if deep else n // (50 if os.environ.get("MINIBI_KERNELS") == "plain" else 20)


@pytest.fixture
def say(deep, capsys):
    """Shows a figure in deep runs."""

    def say(*words):
        if deep:
            with capsys.disabled():
                print("\n", *words)

    return say


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_half_removed(metric, deep, say):
    n = size(20_000, deep)
    x, q = clustered(n), clustered(100, seed=1)
    gone = np.random.default_rng(2).permutation(n)[: n // 2]
    kept = np.setdiff1d(np.arange(n), gone)
    index, fresh = HNSWIndex(32, metric), HNSWIndex(32, metric)
    index.add(x)
    for part in np.array_split(gone, 7):
        index.remove(part)
    fresh.add(x[kept], kept)
    after = recall_report(index, x[kept], q, metric=metric, ids=kept)
    new = recall_report(fresh, x[kept], q, metric=metric, ids=kept)
    graph = graph_report(**graph_of(index))
    assert index.check() == [] and after.short == 0 and not set(index.search(q, 50)[1].ravel()) & set(gone.tolist())
    assert after.by_score >= new.by_score - 0.01
    index.compact()
    assert graph_report(**graph_of(index)).problems == []
    say(f"half of {n} removed, {metric}: recall@10 {after.by_score:.4f}, fresh build {new.by_score:.4f};",
        f"{graph.reachable} of {graph.nodes} reachable")  # fmt: skip


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_filters(metric, deep, say):
    n = size(50_000, deep)
    x, q = clustered(n), clustered(100, seed=1)
    index = HNSWIndex(32, metric)
    index.add(x)
    for share in (0.1, 0.01, 0.001):
        some = np.flatnonzero(np.random.default_rng(3).random(n) < share)
        report = recall_report(index, x, q, metric=metric, filter=some)
        assert report.by_score >= 0.99 and report.short == 0
        say(f"filter of {share:.1%} of {n}, {metric}: recall@10 {report.by_score:.4f}")


def test_a_thousand_copies(deep, say):
    n, copies = size(50_000, deep), size(1000, deep)
    x, q = clustered(n), clustered(100, seed=1)
    both = np.vstack([x, np.repeat(x[:1], copies, axis=0)])
    both = both[np.random.default_rng(4).permutation(len(both))]
    clean, index = HNSWIndex(32), HNSWIndex(32)
    clean.add(x)
    index.add(both)
    without, beside = recall_report(clean, x, q, metric="cosine"), recall_report(index, both, q, metric="cosine")
    assert index.check() == [] and beside.by_score >= without.by_score - 0.01
    say(f"{copies} copies among {n}: recall@10 of the others {beside.by_score:.4f}, without {without.by_score:.4f}")


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_mangled_files(kind, deep, say, tmp_path):
    index = FlatIndex(4, "l2") if kind == "flat" else HNSWIndex(4, "l2", M=3, ef_construction=20)
    x = clustered(80, 4)
    index.add(x)
    index.save(tmp_path / "index")

    def read(path: Path):
        loaded = type(index).load(path)
        return [a.tobytes() for a in loaded.search(x[:9], 7, ef=80)]

    report = check_mangled(tmp_path / "index", read, 1000 if deep else 60)
    assert report.refused
    say(kind, report)


KILLED = """
import itertools, sys
import numpy as np
from minibi import HNSWIndex
path, n = sys.argv[1], int(sys.argv[2])
index = HNSWIndex(8, M=4, ef_construction=10)
index.add(np.random.default_rng(0).normal(size=(300, 8)))
for n in itertools.count(n):
    index.notes = {"n": n}
    index.save(path)
    print(n, flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_while_saving(deep, say, tmp_path):
    root = str(Path(minibi.__file__).resolve().parents[1])
    report = check_kills(
        KILLED, tmp_path / "index", lambda path: HNSWIndex.load(path).notes["n"], rounds=50 if deep else 2,
        env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    say(report)


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_readers_beside_a_writer(kind, deep, say):
    class Mine(Subject):
        recall = 1.0 if kind == "flat" else 0.9

        def make(self, dim, metric):
            return FlatIndex(dim, metric) if kind == "flat" else HNSWIndex(dim, metric, M=8, ef_construction=40)

    report = check_readers(Mine(), 8, "cosine", seconds=10 if deep else 0.4, items=300, largest=80)
    say(kind, report)


def test_reports_are_tables_and_tell_the_truth():
    x = clustered(50, 4)
    perfect = Oracle(4, "l2")
    perfect.add(x)
    report = recall_report(perfect, x, x[:20], 5, metric="l2")
    assert (report.by_id, report.by_score, report.worst, report.short) == (1, 1, 1, 0) and report.error < 1e-6
    worse = recall_report(perfect, np.vstack([x, x[:20]]), x[:20], 1, metric="l2", ids=[*range(50), *range(-20, 0)])
    assert worse.by_score == 1 and worse.by_id == 0 and "recall@1 by id" in str(worse)
    graph = graph_report([[1, 1, -1], [1, 2, -1], [9, 0, -1], [0, -1, -1]], 0)
    assert (graph.reachable, graph.double, graph.selfish, graph.astray, graph.depth) == (3, 1, 1, 1, 2)
    assert len(graph.problems) == 4 and "reachable from the start" in str(graph)
