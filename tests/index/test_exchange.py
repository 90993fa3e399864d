"""Other programs' files: golden ones made by hnswlib and faiss, round trips, and mangled ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from minibi import FlatIndex, HNSWIndex
from minibi.errors import FormatError, InputError
from minibi.index.exchange import (
    import_hnswlib,
    read_faiss_flat,
    read_hnswlib,
    read_vectors,
    write_faiss_flat,
    write_hnswlib,
    write_vectors,
)

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

X = np.random.default_rng(7).normal(size=(40, 5)).astype(np.float32)  # as in golden/make_hnswlib.py


def test_what_hnswlib_wrote(golden):
    graph = read_hnswlib(golden / "hnswlib.bin")
    np.testing.assert_array_equal(graph.vectors, X)
    assert graph.labels.tolist() == [10 * i + 3 for i in range(40)] and graph.M == 3
    assert np.flatnonzero(graph.deleted).tolist() == [1] and graph.levels.max() >= 1
    assert graph.links.shape == (40, 6) and (graph.links[:, 0] >= 0).all()
    index, exact = import_hnswlib(golden / "hnswlib.bin", "l2"), FlatIndex(5, "l2")
    kept = np.arange(40) != 1
    exact.add(X[kept], graph.labels[kept])
    for a, b in zip(index.search(X, 5, ef=40), exact.search(X, 5), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_faiss_wrote(golden, tmp_path):
    vectors, metric = read_faiss_flat(golden / "faiss_flat.bin")
    assert metric == "ip"
    np.testing.assert_array_equal(vectors, X)
    write_faiss_flat(tmp_path / "f", vectors, metric)
    assert (tmp_path / "f").read_bytes() == (golden / "faiss_flat.bin").read_bytes()
    write_faiss_flat(tmp_path / "f", vectors, "l2")
    assert read_faiss_flat(tmp_path / "f")[1] == "l2"


@pytest.mark.parametrize("n", [1, 2, 300])
def test_a_graph_written_and_read(tmp_path, n):
    x = np.random.default_rng(n).normal(size=(n + 3, 7))
    index = HNSWIndex(7, "l2", M=4, ef_construction=20)
    index.add(x, np.arange(n + 3) - 2**62)
    index.remove(np.arange(n, n + 3) - 2**62)
    write_hnswlib(tmp_path / "i.bin", index)
    graph = read_hnswlib(tmp_path / "i.bin")
    np.testing.assert_array_equal(graph.vectors, index.reconstruct(graph.labels))
    assert graph.labels.tolist() == index.ids.tolist() and not graph.deleted.any()
    found = [set(row[row >= 0].tolist()) for row in graph.links]
    assert found == [set(row[row >= 0].tolist()) for row in index._view["links"]]
    assert len(import_hnswlib(tmp_path / "i.bin", "l2")) == n


def test_an_empty_graph_is_not_written(tmp_path):
    with pytest.raises(InputError, match="add vectors"):
        write_hnswlib(tmp_path / "i.bin", HNSWIndex(3))


@given(hnp.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 7)), elements=st.floats(-9, 9, width=32)))
@pytest.mark.parametrize("suffix", [".npy", ".fvecs", ".ivecs"])
def test_tables_written_and_read(tmp_path_factory, suffix, table):
    path = tmp_path_factory.mktemp("t") / f"x{suffix}"
    table = table.astype(np.int32) if suffix == ".ivecs" else table
    write_vectors(path, table)
    back = read_vectors(path)
    assert back.dtype == table.dtype
    np.testing.assert_array_equal(back, table)


def test_refusals(tmp_path):
    for call in (
        lambda: write_vectors(tmp_path / "x.txt", X),
        lambda: read_vectors(tmp_path / "x.txt"),
        lambda: write_vectors(tmp_path / "x.ivecs", X),
        lambda: write_vectors(tmp_path / "x.ivecs", [[2**31]]),
        lambda: write_faiss_flat(tmp_path / "x", X, "hamming"),
    ):
        with pytest.raises(InputError):
            call()
    np.save(tmp_path / "o.npy", np.array([{}], object), allow_pickle=True)
    for name in ("o.npy", "missing.npy", "missing.fvecs"):
        with pytest.raises(FormatError):
            read_vectors(tmp_path / name)
    assert not list(tmp_path.glob("x*"))


READERS = {"hnswlib.bin": read_hnswlib, "faiss_flat.bin": read_faiss_flat, "x.fvecs": read_vectors}


@pytest.mark.parametrize("name", READERS)
@given(data=st.data())
def test_mangled_files_are_refused_or_harmless(golden, tmp_path_factory, name, data):
    path = tmp_path_factory.mktemp("m") / name
    if name == "x.fvecs":
        write_vectors(path, X)
        raw = bytearray(path.read_bytes())
    else:
        raw = bytearray((golden / name).read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, min(len(raw), 120) - 1) | st.integers(0, len(raw) - 1))
        change = data.draw(st.sampled_from(["flip", "word", "cut", "longer"]))
        if change == "flip":
            raw[at] ^= data.draw(st.integers(1, 255))
        elif change == "word":
            raw[at : at + 8] = data.draw(st.sampled_from([b"\xff" * 8, b"\0" * 8, b"\0\0\0\x80" * 2]))
        elif change == "cut":
            del raw[max(at, 1) :]
        else:
            raw += raw[at : at + 9]
    path.write_bytes(raw)
    try:
        READERS[name](path)
    except FormatError as e:
        assert "\n" not in str(e)


@pytest.mark.parametrize("name", READERS)
def test_every_prefix_is_refused(golden, tmp_path, name):
    path = tmp_path / name
    if name == "x.fvecs":
        write_vectors(path, X)
    else:
        path.write_bytes((golden / name).read_bytes())
    raw = path.read_bytes()
    for end in range(1, len(raw), 7):
        if name == "x.fvecs" and end % 24 == 0:
            continue
        path.write_bytes(raw[:end])
        with pytest.raises(FormatError):
            READERS[name](path)
