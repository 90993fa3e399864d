"""Files of inverted lists with numbers and settings changed and every checksum put right: refused, or harmless."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi.errors import FormatError
from minibi.index.binary import BinaryIndex
from minibi.index.ivf import IVFIndex
from minibi.index.pq import IVFPQIndex
from minibi.index.rabitq import IVFRaBitQIndex
from minibi.store.snapshot import read_snapshot, write_snapshot

N, DIM = 90, 5
MAKERS = {
    "ivf": lambda: IVFIndex(DIM, "l2", 4, codes="int4", train_size=50),
    "pq": lambda: IVFPQIndex(DIM, "l2", 4, M=3, rotation="opq", train_size=50),
    "rabitq": lambda: IVFRaBitQIndex(DIM, "l2", 4, bits=2, train_size=50),
    "binary": lambda: BinaryIndex(DIM, "l2", 4, train_size=50),
}
WORDS = [None, True, -1, 0, 1, 2.5, 1e400, float("nan"), "", "x", "ip", "int8", [], {}, {"a": 1}, 10**30]
NUMBERS = [-(2**31), -2, -1, 0, 1, 3, 4, N - 1, N, 127, 2**31 - 1]


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    found = {}
    for name, make in MAKERS.items():
        index = make()
        index.add(np.random.default_rng(0).normal(size=(N, DIM)))
        path = tmp_path_factory.mktemp("i") / "index"
        index.save(path)
        found[name] = (type(index), *read_snapshot(path, index.kind))
    return found


@settings(max_examples=60)
@given(data=st.data())
@pytest.mark.parametrize("name", MAKERS)
def test_numbers_and_settings_changed(originals, tmp_path_factory, name, data):
    kind, arrays, fields = originals[name]
    arrays, fields = {k: a.copy() for k, a in arrays.items()}, copy.deepcopy(fields)
    if data.draw(st.booleans()):
        fields[data.draw(st.sampled_from([*sorted(fields), "surprise"]))] = data.draw(st.sampled_from(WORDS))
    else:
        for _ in range(data.draw(st.integers(1, 3))):
            a = arrays[data.draw(st.sampled_from(sorted(arrays)))]
            at = data.draw(st.integers(0, a.size - 1))
            if a.dtype.kind == "f":
                a.flat[at] = data.draw(st.sampled_from([np.nan, np.inf, 3e38, -3e38, 1e17, 1e-45, 0, 5]))
            else:
                info = np.iinfo(a.dtype)
                a.flat[at] = max(info.min, min(info.max, data.draw(st.sampled_from(NUMBERS))))
    path = tmp_path_factory.mktemp("m") / "index"
    write_snapshot(path, kind.kind, arrays, fields)
    try:
        index = kind.load(path)
    except FormatError as e:
        assert "\n" not in str(e)
        return
    assert index.check() == []
    queries = np.random.default_rng(1).normal(size=(5, index.dim))
    for breadth in (1, 200):
        scores, ids = index.search(queries, 7, nprobe=breadth, ef=breadth)
        assert scores.shape == (5, 7) and all(len(set(row)) == 7 for row in ids.tolist())
