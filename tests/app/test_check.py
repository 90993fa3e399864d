"""`minibi check`: sound files pass, damaged ones are named, and rebuilt where their vectors are whole."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minibi.errors import FormatError
from minibi.index.factory import index_factory
from minibi.index.inspect import CLASSES, load_index, repair
from minibi.index.multi_vector import MultiVectorIndex

X = np.random.default_rng(0).normal(size=(90, 12)).astype(np.float32)
IDS = np.arange(90) * 7 - 100
NAMES = ("Flat", "SQ8", "HNSW4", "HNSW4,SQ8", "IVF4", "IVF4,PQ4", "PQ4", "IVF4,RaBitQ", "RaBitQ", "Binary")


def made(name, path):
    index = index_factory(name, 12, **({} if name.startswith(("Flat", "SQ", "HNSW")) else {"train_size": 40}))
    index.add(X, IDS)
    index.notes = {"made": name}
    index.save(path)
    return index


def flip(path, name):
    """One byte of an array changed."""
    raw = bytearray(path.read_bytes())
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(bytes(raw[8 : 8 + size]))
    first, last = header[name]["data_offsets"]
    raw[8 + size + (first + last) // 2] ^= 1
    path.write_bytes(raw)
    return sorted(header)


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_is_opened_and_rebuilt(tmp_path, name):
    path = tmp_path / "index"
    index = made(name, path)
    assert type(load_index(path)) is type(index) and load_index(path).notes == {"made": name}
    others = [a for a in flip(path, "ids") if a not in ("ids", "vectors", "__metadata__")]
    flip(path, "ids")  # and back
    for array in others[:2]:
        flip(path, array)
        with pytest.raises(FormatError, match=array):
            load_index(path)
        flip(path, array)  # and back
    if others:
        flip(path, others[0])
    built = repair(path)
    assert type(built) is type(index) and built.check() == [] and built.notes == index.notes
    assert sorted(built.ids.tolist()) == sorted(IDS.tolist()) and built.metric == index.metric
    if index.store == "float32":
        np.testing.assert_array_equal(built.reconstruct(IDS), index.reconstruct(IDS))
        assert (built.search(X[:5], 1)[1][:, 0] == IDS[:5]).all()


@pytest.mark.parametrize("array", ["ids", "vectors"])
def test_without_its_vectors_nothing_is_made_up(tmp_path, array):
    made("HNSW4", tmp_path / "index")
    flip(tmp_path / "index", array)
    with pytest.raises(FormatError, match=f"its {array} are damaged"):
        repair(tmp_path / "index")


def test_other_files_are_refused(tmp_path):
    tokens = MultiVectorIndex(4)
    tokens.add([np.eye(4, dtype=np.float32)])
    tokens.save(tmp_path / "tokens")
    assert isinstance(load_index(tmp_path / "tokens"), MultiVectorIndex)
    with pytest.raises(FormatError, match="cannot be rebuilt"):
        repair(tmp_path / "tokens")
    (tmp_path / "junk").write_bytes(b"junk" * 9)
    for path in (tmp_path / "junk", tmp_path / "nowhere", tmp_path):
        with pytest.raises(FormatError):
            load_index(path)
    assert len(CLASSES) == 9


def test_the_command(run, tmp_path):
    path = tmp_path / "index"
    made("HNSW4", path)
    code, out, err = run("check", path)
    assert code == 0 and "sound" in out and "90 vectors" in out and err == ""
    flip(path, "links")
    before = path.read_bytes()
    code, out, err = run("check", path)
    assert code == 1 and "links" in err and "--repair" in err and path.read_bytes() == before
    code, out, err = run("check", path, "--repair")
    assert code == 0 and "rebuilt" in out and (tmp_path / "index.damaged").read_bytes() == before
    assert run("check", path)[0] == 0
    flip(path, "links")
    code, out, err = run("check", path, "--repair")
    assert code == 1 and "move it away" in err and (tmp_path / "index.damaged").read_bytes() == before
