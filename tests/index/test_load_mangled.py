"""Files that were forged or mangled, with every checksum put right: refused by `load`, or harmless, never a crash."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi import FlatIndex, HNSWIndex
from minibi.errors import FormatError, InputError
from minibi.store.snapshot import read_snapshot, write_snapshot

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

HUGE = 2**63 - 1
N, DIM = 60, 5


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """kind -> (class, arrays, fields) of a sound index with several layers."""
    found = {}
    x = np.random.default_rng(0).normal(size=(N, DIM))
    for name, index in {
        "flat": FlatIndex(DIM, "l2"),
        "hnsw": HNSWIndex(DIM, "l2", M=2, ef_construction=8),
        "codes": HNSWIndex(DIM, "ip", M=2, ef_construction=8, codes="int4", store="int8"),
    }.items():
        index.add(x, np.arange(N) * 3)
        path = tmp_path_factory.mktemp("i") / "index"
        index.save(path)
        found[name] = (type(index), *read_snapshot(path, index.kind))
    assert found["hnsw"][1]["levels"].max() >= 3
    return found


def survives(kind, path, arrays, fields) -> bool:
    """Whether the file loads; if so, it must be sound and usable."""
    write_snapshot(path, kind.kind, arrays, fields)
    try:
        index = kind.load(path)
    except FormatError as e:
        assert str(path) in str(e) and "\n" not in str(e)
        return False
    assert index.check() == []
    queries = np.random.default_rng(1).normal(size=(5, index.dim))
    for ef in (1, 200):
        scores, ids = index.search(queries, 7, ef=ef)
        assert scores.shape == ids.shape == (5, 7)
    try:
        index.add(queries)
    except InputError:  # no room after the largest id
        index.add(queries, [i for i in range(-500, -2) if i not in index][:5])
    index.search(queries, 100)
    assert index.check() == []
    return True


NUMBERS = st.sampled_from([-(2**63), -(2**31), -2, -1, 0, 1, N - 1, N, N + 1, 127, 2**31 - 1, HUGE]) | st.integers(
    -70, 70
)


@settings(max_examples=150)
@given(data=st.data())
@pytest.mark.parametrize("name", ["flat", "hnsw", "codes"])
def test_numbers_changed(originals, tmp_path_factory, name, data):
    kind, arrays, fields = originals[name]
    arrays = {k: a.copy() for k, a in arrays.items()}
    for _ in range(data.draw(st.integers(1, 3))):
        a = arrays[data.draw(st.sampled_from(sorted(arrays)))]
        at = data.draw(st.integers(0, a.size - 1))
        if a.dtype.kind == "f":
            a.flat[at] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, 0, 5]))
        else:
            info = np.iinfo(a.dtype)
            a.flat[at] = max(info.min, min(info.max, data.draw(NUMBERS)))
    survives(kind, tmp_path_factory.mktemp("m") / "index", arrays, fields)


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("name", ["flat", "hnsw", "codes"])
def test_bytes_flipped(originals, tmp_path_factory, name, data):
    kind, arrays, fields = originals[name]
    arrays = {k: a.copy() for k, a in arrays.items()}
    for _ in range(data.draw(st.integers(1, 4))):
        raw = arrays[data.draw(st.sampled_from(sorted(arrays)))].reshape(-1).view(np.uint8)
        raw[data.draw(st.integers(0, raw.size - 1))] ^= data.draw(st.integers(1, 255))
    survives(kind, tmp_path_factory.mktemp("m") / "index", arrays, fields)


@settings(max_examples=100)
@given(data=st.data())
@pytest.mark.parametrize("name", ["flat", "hnsw", "codes"])
def test_arrays_of_other_shapes_and_types(originals, tmp_path_factory, name, data):
    kind, arrays, fields = originals[name]
    arrays = dict(arrays)
    victim = data.draw(st.sampled_from(sorted(arrays)))
    a = arrays[victim]
    change = data.draw(st.sampled_from(["cut", "longer", "flat", "axis", "scalar", "empty", "gone", "type", "narrow"]))
    arrays[victim] = {
        "cut": lambda: a[:-1],
        "longer": lambda: np.concatenate([a, a[:1]]),
        "flat": lambda: a.reshape(-1),
        "axis": lambda: a[:, None],
        "scalar": lambda: a.reshape(-1)[0],
        "empty": lambda: a[:0],
        "gone": lambda: a,
        "type": lambda: a.astype(data.draw(st.sampled_from(["f4", "f8", "i8", "i4", "i1", "u8", "?"]))),
        "narrow": lambda: a[..., :-1],
    }[change]()
    same = arrays[victim].dtype == a.dtype and arrays[victim].shape == a.shape
    if change == "gone":
        del arrays[victim]
        same = False
    loaded = survives(kind, tmp_path_factory.mktemp("m") / "index", arrays, fields)
    assert loaded == same


WORDS = [
    None,
    True,
    -1,
    0,
    1,
    2.5,
    1e400,
    -1e400,
    math.nan,
    "",
    "x",
    "l2",
    "ip",
    [],
    [1],
    {},
    {"a": 1},
    10**30,
    -(2**63),
]


@settings(max_examples=150)
@given(data=st.data())
@pytest.mark.parametrize("name", ["flat", "hnsw", "codes"])
def test_settings_changed(originals, tmp_path_factory, name, data):
    kind, arrays, fields = originals[name]
    fields = copy.deepcopy(fields)
    key = data.draw(st.sampled_from([*sorted(fields), "surprise"]))
    if data.draw(st.booleans()) and key in fields:
        del fields[key]
    else:
        fields[key] = data.draw(st.sampled_from(WORDS) | st.integers(-3, 70))
    survives(kind, tmp_path_factory.mktemp("m") / "index", arrays, fields)


def forged(originals, tmp_path, **changes):
    """The refusal's text for an HNSW file with some arrays or fields replaced by functions of themselves."""
    kind, arrays, fields = originals["hnsw"]
    arrays, fields = {k: a.copy() for k, a in arrays.items()}, copy.deepcopy(fields)
    for name, change in changes.items():
        target = arrays if name in arrays else fields["facts"] if name in fields["facts"] else fields
        target[name] = change(target[name])
    write_snapshot(tmp_path / "index", kind.kind, arrays, fields)
    with pytest.raises(FormatError) as e:
        kind.load(tmp_path / "index")
    return str(e.value)


def put(at, value):
    def change(a):
        a[at] = value
        return a

    return change


def without(row):
    """Every link to a row taken away, the others moved up."""

    def change(links):
        kept = np.where(links == row, -1, links)
        return np.take_along_axis(kept, np.argsort(kept < 0, axis=1, kind="stable"), 1)

    return change


def test_each_kind_of_forgery_is_named(originals, tmp_path):
    links = originals["hnsw"][1]["links"]
    levels = originals["hnsw"][1]["levels"]
    parents = originals["hnsw"][1]["parents"]
    entry, root = (originals["hnsw"][2]["facts"][name] for name in ("entry", "root"))
    low = int(np.flatnonzero(levels == 0)[0])
    full = int(np.flatnonzero((links >= 0).all(1))[0])
    short = int(np.flatnonzero((links >= 0).sum(1) < 4)[0])

    def check(text, **changes):
        assert text in forged(originals, tmp_path, **changes)

    check("leads nowhere", links=put((0, 0), N))
    check("leads nowhere", links=put((0, 0), -2))
    check("leads nowhere", upper=put((0, 0), 2**31 - 1))
    check("leads nowhere", links=put(short, [-1, 0, -1, -1]))
    check("to itself", links=put((full, 0), full))
    check("same link twice", links=put((full, 0), links[full, 1]))
    check("not on that layer", upper=put((0, 0), low))
    check("no link from its parent", links=without(7))
    check("no link from its parent", parents=put(7, int(np.flatnonzero(~(links == 7).any(1))[-1])))
    check("parent", parents=put(7, N))
    check("parent", parents=put(7, -1))
    check("its own parent", root=lambda _: 7)
    check("its own parent", parents=put(root, 7))
    child = next(r for r in range(N) if (links[r] == parents[r]).any() and r != root and parents[r] != root)
    check("cannot be reached", parents=put(int(parents[child]), child))
    check("entry point", entry=lambda _: -1)
    check("entry point", entry=lambda _: N)
    check("entry point", entry=lambda _: low)
    check("upper is", levels=put(entry, 0))
    check("upper is", upper=lambda a: a[:-1])
    check("occurs twice", ids=put(1, 0))
    check("-1", ids=put(1, -1))
    check("not finite", vectors=put((3, 1), np.nan))
    check("padding", vectors=put((3, DIM), 1))


def test_an_empty_index_with_an_entry_point(tmp_path):
    index = HNSWIndex(3)
    index.save(tmp_path / "index")
    arrays, fields = read_snapshot(tmp_path / "index", index.kind)
    for entry in (0, 5, -2):
        write_snapshot(tmp_path / "index", index.kind, arrays, {**fields, "facts": {"entry": entry, "root": 0}})
        with pytest.raises(FormatError, match="entry point"):
            HNSWIndex.load(tmp_path / "index")
