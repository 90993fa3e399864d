"""Files: what was saved comes back, what was mangled is refused or harmless."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi import BM25, Tokenizer
from minibi.errors import FormatError, InputError
from minibi.lexical.terms import Pieces
from minibi.store.snapshot import read_snapshot, write_snapshot
from minibi.text.words import Words

pytestmark = pytest.mark.usefixtures("no_waiting_for_the_disk")

TEXTS = ["The cat sat on the mat", "cats and dogs, dogs", "über naïve straße", "", "birds fly; fish swim far away"]
QUERIES = ["cat dog", "uber birds", "swim swim"]


@pytest.fixture(scope="module")
def original():
    index = BM25("bm25+", 1.2, 0.6, delta=0.9, floor_for="held", tokenizer=Words(["far"], None, 1))
    index.add(TEXTS, [3, 0, 7, 9, 4])
    index.add(["gone cat"])
    index.remove(10)
    index.notes = {"source": "here"}
    return index


def test_what_was_saved_comes_back(original, tmp_path):
    original.save(tmp_path / "a")
    index = BM25.load(tmp_path / "a")
    assert index.check() == [] and index.notes == {"source": "here"} and repr(index) == repr(original)
    assert repr(index.tokenizer) == repr(original.tokenizer)
    for a, b in zip(index.search(QUERIES, 5), original.search(QUERIES, 5), strict=True):
        np.testing.assert_array_equal(a, b)
    assert index.add(["new"]).tolist() == [11]  # an id is never used twice
    index.remove([3, 0])
    index.upsert(["cat cat"], [7])
    assert index.check() == [] and index.search("cat", 5)[1].tolist() == [[7, -1, -1, -1, -1]]
    index.save(tmp_path / "b")
    BM25.load(tmp_path / "b").save(tmp_path / "c")
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


def test_an_empty_index(tmp_path):
    BM25().save(tmp_path / "a")
    index = BM25.load(tmp_path / "a")
    assert len(index) == 0 and index.check() == [] and index.add(["x y"]).tolist() == [0]


def test_a_tokenizer_of_its_own_must_be_given_again(golden, tmp_path):
    tokenizer = Tokenizer(golden / "tiny-bert")
    for own in (tokenizer, str.split, Words(stemmer=str.upper)):
        index = BM25(tokenizer=own)
        index.add(["a cat sat here", "dogs"])
        index.save(tmp_path / "a")
        with pytest.raises(InputError, match="pass it as tokenizer"):
            BM25.load(tmp_path / "a")
        again = BM25.load(tmp_path / "a", tokenizer=own)
        assert again.search("cat", 1)[1].tolist() == [[0]]
    assert isinstance(BM25(tokenizer=tokenizer).tokenizer, Pieces)


def survives(path, arrays, fields) -> bool:
    """Whether the file loads; if so, it must be sound and usable."""
    write_snapshot(path, BM25.kind, arrays, fields)
    try:
        index = BM25.load(path)
    except (FormatError, InputError) as e:
        assert str(path) in str(e) and "\n" not in str(e)
        return False
    assert index.check() == []
    index.search(QUERIES, 3)
    index.remove(index.ids[:2])
    index.upsert(["cat"], [3])
    assert index.check() == []
    return True


NUMBERS = [-(2**63), -(2**31), -2, -1, 0, 1, 4, 5, 6, 200, 2**31 - 1, 2**63 - 1]


@settings(max_examples=120)
@given(data=st.data())
def test_numbers_shapes_and_settings_changed(original, tmp_path_factory, data):
    path = tmp_path_factory.mktemp("m") / "index"
    original.save(path)
    arrays, fields = read_snapshot(path, BM25.kind)
    arrays, fields = {name: a.copy() for name, a in arrays.items()}, copy.deepcopy(fields)
    victim = data.draw(st.sampled_from(sorted(arrays)))
    a = arrays[victim]
    match data.draw(st.sampled_from(["number", "cut", "longer", "axis", "gone", "type", "field"])):
        case "number":
            info = np.iinfo(a.dtype)
            a[data.draw(st.integers(0, len(a) - 1))] = min(max(data.draw(st.sampled_from(NUMBERS)), info.min), info.max)
        case "cut":
            arrays[victim] = a[:-1]
        case "longer":
            arrays[victim] = np.concatenate([a, a[:1]])
        case "axis":
            arrays[victim] = a[:, None]
        case "gone":
            del arrays[victim]
        case "type":
            arrays[victim] = a.astype(data.draw(st.sampled_from(["f4", "i1", "u8", "?"])))
        case "field":
            values = [None, True, -1, 0, 2.5, 1e400, "", "lucene", [], {}, 10**30]
            fields[data.draw(st.sampled_from([*sorted(fields), "more"]))] = data.draw(st.sampled_from(values))
    survives(path, arrays, fields)


def test_every_byte_counts(original, tmp_path):
    original.save(tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    rng = np.random.default_rng(0)
    for at in rng.choice(len(whole), 150, replace=False).tolist():
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        (tmp_path / "b").write_bytes(broken)
        with pytest.raises(FormatError):
            BM25.load(tmp_path / "b")
    for size in (0, 7, 8, 100, len(whole) // 2, len(whole) - 1):
        (tmp_path / "b").write_bytes(whole[:size])
        with pytest.raises(FormatError):
            BM25.load(tmp_path / "b")
