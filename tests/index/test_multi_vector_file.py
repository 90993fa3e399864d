"""Saved and loaded, the same; mangled with every checksum put right, refused or harmless, never a crash."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi import MultiVectorIndex
from minibi.errors import FormatError
from minibi.store.snapshot import read_snapshot, write_snapshot

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

DIM, N = 6, 25
WAYS = {
    "float32": {"storage": "float32"},
    "float16": {"storage": "float16"},
    "int8": {"storage": "int8", "metric": "ip"},
    "residual": {"storage": "residual", "n_centroids": 5, "nbits": 4},
}


def texts(seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, DIM)).astype(np.float32) for length in rng.integers(0, 6, N)]


QUERY = np.random.default_rng(1).normal(size=(3, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """way -> (arrays, fields) of a sound file."""
    found = {}
    for name, options in WAYS.items():
        index = MultiVectorIndex(DIM, **options)
        index.add(texts(), np.arange(N) * 3)
        path = tmp_path_factory.mktemp("i") / "index"
        index.save(path)
        found[name] = read_snapshot(path, index.kind)
    return found


@pytest.mark.parametrize("name", WAYS)
def test_saved_and_loaded(name, tmp_path):
    index = MultiVectorIndex(DIM, fingerprint="model", **WAYS[name])
    index.notes = {"made": "for a test"}
    index.add(texts(), np.arange(N) * 3)
    index.remove([0, 3, 9])
    index.upsert(texts(5)[:2], [6, 100])
    before = index.search(QUERY, 9)
    index.save(tmp_path / "index")
    assert (index.search(QUERY, 9)[1] == before[1]).all(), "saving changes nothing"
    again = MultiVectorIndex.load(tmp_path / "index")
    for attribute in ("dim", "metric", "storage", "nbits", "n_centroids", "seed", "fingerprint", "notes"):
        assert getattr(again, attribute) == getattr(index, attribute)
    after = again.search(QUERY, 9)
    assert after[0].tobytes() == before[0].tobytes() and (after[1] == before[1]).all()
    assert (again.ids == index.ids).all() and again.stats() == index.stats()
    for one in (index, again):
        one.add(texts(7)[:5], range(200, 205))
    assert index.search(QUERY, 30)[0].tobytes() == again.search(QUERY, 30)[0].tobytes()


def survives(path, arrays, fields) -> bool:
    """Whether the file loads; if so, it must be sound and usable."""
    write_snapshot(path, MultiVectorIndex.kind, arrays, fields)
    try:
        index = MultiVectorIndex.load(path)
    except FormatError as e:
        assert str(path) in str(e) and "\n" not in str(e)
        return False
    assert index.check() == []
    query = np.ones((2, index.dim), np.float32)
    for options in ({}, {"nprobe": 1, "depth": 2}):
        scores, _ = index.search(query, 4, **options)
        assert not np.isnan(scores).any()
    index.upsert([query], [12345])
    assert index.check() == []
    return True


NUMBERS = st.sampled_from([-(2**63), -2, -1, 0, 1, 5, 2**31 - 1, 2**63 - 1]) | st.integers(-70, 70)


@settings(max_examples=80)
@given(data=st.data())
@pytest.mark.parametrize("name", WAYS)
def test_numbers_changed(originals, tmp_path_factory, name, data):
    arrays, fields = originals[name]
    arrays = {k: a.copy() for k, a in arrays.items()}
    for _ in range(data.draw(st.integers(1, 3))):
        a = arrays[data.draw(st.sampled_from(sorted(arrays)))]
        at = data.draw(st.integers(0, a.size - 1))
        if a.dtype.kind == "f":
            with np.errstate(over="ignore"):
                a.flat[at] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0, 5]))
        else:
            info = np.iinfo(a.dtype)
            a.flat[at] = max(info.min, min(info.max, data.draw(NUMBERS)))
    survives(tmp_path_factory.mktemp("m") / "index", arrays, fields)


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("name", WAYS)
def test_other_shapes_and_types(originals, tmp_path_factory, name, data):
    arrays, fields = originals[name]
    arrays = dict(arrays)
    victim = data.draw(st.sampled_from(sorted(arrays)))
    a = arrays[victim]
    change = data.draw(st.sampled_from(["cut", "longer", "flat", "axis", "empty", "gone", "type", "extra"]))
    if change == "gone":
        del arrays[victim]
    elif change == "extra":
        arrays["more"] = a
    else:
        arrays[victim] = {
            "cut": lambda: a[:-1],
            "longer": lambda: np.concatenate([a, a[:1]]),
            "flat": lambda: a.reshape(-1),
            "axis": lambda: a[:, None],
            "empty": lambda: a[:0],
            "type": lambda: a.astype(data.draw(st.sampled_from(["f4", "f8", "i8", "i4", "u1", "u2", "?"]))),
        }[change]()
    same = victim in arrays and arrays[victim].dtype == a.dtype and arrays[victim].shape == a.shape
    loads = survives(tmp_path_factory.mktemp("m") / "index", arrays, fields)
    if victim == "centroids" and change == "longer":
        assert loads  # a centroid that nothing is near to
    else:
        assert loads == (same and change != "extra")


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("name", WAYS)
def test_fields_changed(originals, tmp_path_factory, name, data):
    arrays, fields = originals[name]
    fields = dict(fields)
    victim = data.draw(st.sampled_from(sorted(fields)))
    if data.draw(st.booleans()):
        del fields[victim]
    else:
        values = [None, "", "x", -1, 0, 1, 2, 7, 10**30, 1.5, [], {}, True, "residual", "int8", "float16", "ip"]
        fields[victim] = data.draw(st.sampled_from(values))
    survives(tmp_path_factory.mktemp("m") / "index", dict(arrays), fields)


def test_foreign_files(tmp_path):
    with pytest.raises(FormatError):
        MultiVectorIndex.load(tmp_path / "none")
    (tmp_path / "noise").write_bytes(b"\x07" * 500)
    with pytest.raises(FormatError):
        MultiVectorIndex.load(tmp_path / "noise")
    write_snapshot(tmp_path / "other", "flat-index", {"ids": np.arange(3)}, {})
    with pytest.raises(FormatError, match="not a multi-vector-index"):
        MultiVectorIndex.load(tmp_path / "other")


def test_a_flipped_byte_is_noticed(tmp_path):
    index = MultiVectorIndex(DIM, storage="residual")
    index.add(texts())
    index.save(tmp_path / "index")
    raw = bytearray((tmp_path / "index").read_bytes())
    for at in range(0, len(raw), 37):
        raw[at] ^= 4
        (tmp_path / "index").write_bytes(raw)
        with pytest.raises(FormatError):
            MultiVectorIndex.load(tmp_path / "index")
        raw[at] ^= 4
