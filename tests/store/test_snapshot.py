"""Snapshots come back as they were written, or not at all: no flipped byte, cut or forgery goes unnoticed."""

from __future__ import annotations

import copy
import json
import os
import random
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

import minibi
from minibi.errors import FormatError
from minibi.store.snapshot import VERSION, read_snapshot, write_snapshot

ROOT = str(Path(minibi.__file__).resolve().parents[1])
DTYPES = ["f4", "f2", "f8", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
FIELDS = {"name": "Ünï “x” \0 😀", "n": -(2**63), "x": 0.1, "none": None, "deep": {"list": [1, [2, {"a": True}]]}}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes() for k in a
    )


def small(path: Path) -> Path:
    rng = np.random.default_rng(0)
    arrays = {
        "vectors": rng.normal(size=(3, 4)).astype(np.float32),
        "ids": np.array([7, -2, 2**62]),
        "levels": np.array([0, 1, 0], np.int8),
        "none": np.zeros((0, 4), np.int32),
    }
    write_snapshot(path, "test", arrays, {"dim": 4, "metric": "cosine", "fingerprint": "0af3"})
    return path


# --- round trip ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (7,), (3, 5)])
def test_every_dtype_and_shape(tmp_path, dtype, shape):
    rng = np.random.default_rng(1)
    a = rng.integers(0, 2 if dtype == "?" else 100, size=shape).astype(dtype)
    write_snapshot(tmp_path / "s", "test", {"a": a}, FIELDS)
    arrays, fields = read_snapshot(tmp_path / "s", "test")
    assert same(arrays, {"a": a}) and fields == FIELDS


@settings(max_examples=25)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda s: s != "__metadata__" and s.isprintable()),
        st.sampled_from(DTYPES).flatmap(
            lambda d: hnp.arrays(d, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
        ),
        max_size=5,
    )
)
def test_any_arrays_and_the_file_is_ordinary_safetensors(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("s") / "snapshot.safetensors"
    write_snapshot(path, "test", arrays, {})
    back, fields = read_snapshot(path, "test")
    assert same(back, arrays) and fields == {}
    assert same(load_file(path), arrays)


def test_nan_bits_survive(tmp_path):
    a = np.array([np.nan, -np.nan, np.inf, -0.0], np.float32)
    a.view(np.uint32)[0] |= 0x1234
    write_snapshot(tmp_path / "s", "test", {"a": a}, {})
    assert read_snapshot(tmp_path / "s", "test")[0]["a"].tobytes() == a.tobytes()


@pytest.mark.parametrize(
    "a",
    [
        np.arange(24, dtype=np.float32).reshape(4, 6)[::2, ::-1],
        np.asfortranarray(np.arange(24.0).reshape(4, 6)),
        np.arange(5, dtype=">f4"),
        np.arange(5, dtype=">i8"),
        np.broadcast_to(np.float32(3), (4, 2)),
    ],
    ids=["strided", "fortran", "big-endian", "big-endian-int", "broadcast"],
)
def test_arrays_in_any_memory_layout(tmp_path, a):
    write_snapshot(tmp_path / "s", "test", {"a": a}, {})
    back = read_snapshot(tmp_path / "s", "test")[0]["a"]
    assert back.dtype == a.dtype.newbyteorder("=") and back.flags.c_contiguous
    np.testing.assert_array_equal(back, a)


def test_tensors_are_aligned_and_private(tmp_path):
    path = small(tmp_path / "s")
    content = path.read_bytes()
    arrays, _ = read_snapshot(path, "test")
    assert int.from_bytes(content[:8], "little") % 64 == 56
    for a in arrays.values():
        assert a.flags.aligned and a.flags.c_contiguous and a.flags.writeable
    arrays["vectors"][:] = 0
    arrays["ids"][0] = 99
    assert path.read_bytes() == content
    again, _ = read_snapshot(path, "test")
    assert again["ids"][0] == 7 and again["vectors"].any()


def test_what_was_read_stays_when_the_file_is_replaced(tmp_path):
    path = small(tmp_path / "s")
    arrays, _ = read_snapshot(path, "test")
    before = arrays["vectors"].copy()
    write_snapshot(path, "test", {"vectors": np.zeros(1, np.float32)}, {})
    np.testing.assert_array_equal(arrays["vectors"], before)


def test_the_same_content_gives_the_same_bytes(tmp_path):
    assert small(tmp_path / "a").read_bytes() == small(tmp_path / "b").read_bytes()


# --- damage ----------------------------------------------------------------------------------------------------------


def test_every_flipped_byte_is_noticed_or_harmless(tmp_path, deep):
    path = small(tmp_path / "good")
    content, (arrays, fields) = path.read_bytes(), read_snapshot(path, "test")
    bad = tmp_path / "bad"
    harmless = 0
    for at in range(len(content)):
        for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255) if deep else (1 << at % 8, 2, 255):
            bad.write_bytes(content[:at] + bytes([content[at] ^ flip]) + content[at + 1 :])
            try:
                back = read_snapshot(bad, "test")
            except FormatError:
                continue
            harmless += 1
            assert same(back[0], arrays) and back[1] == fields, f"byte {at} ^ {flip} went unnoticed"
    assert harmless < len(content) // 20  # white space alone


def test_every_other_character_in_the_header_is_noticed_or_harmless(tmp_path):
    """Whole letters too: F32 may become I32 and [0, 4] become [0, 5] by one byte."""
    path = small(tmp_path / "good")
    content, (arrays, fields) = path.read_bytes(), read_snapshot(path, "test")
    begin = 8 + int.from_bytes(content[:8], "little")
    bad = tmp_path / "bad"
    for at in range(8, begin):
        for letter in b"IU6 0" if chr(content[at]).isalnum() else b"0 ":
            bad.write_bytes(content[:at] + bytes([letter]) + content[at + 1 :])
            try:
                back = read_snapshot(bad, "test")
            except FormatError:
                continue
            assert same(back[0], arrays) and back[1] == fields, f"byte {at} = {chr(letter)} went unnoticed"


def test_every_cut_and_every_addition_is_noticed(tmp_path):
    content = small(tmp_path / "good").read_bytes()
    bad = tmp_path / "bad"
    for length in range(len(content)):
        bad.write_bytes(content[:length])
        with pytest.raises(FormatError):
            read_snapshot(bad, "test")
    for more in (b"\0", b"x" * 64):
        bad.write_bytes(content + more)
        with pytest.raises(FormatError):
            read_snapshot(bad, "test")


@settings(max_examples=60)
@given(st.binary(max_size=300), st.integers(0, 1000), st.booleans())
def test_rubbish_is_refused(tmp_path_factory, rubbish, at, whole):
    folder = tmp_path_factory.mktemp("s")
    content = small(folder / "good").read_bytes()
    (folder / "bad").write_bytes(rubbish if whole else content[:at] + rubbish + content[at + len(rubbish) :])
    if (folder / "bad").read_bytes() == content:
        return
    try:
        back = read_snapshot(folder / "bad", "test")
    except FormatError:
        return
    good = read_snapshot(folder / "good", "test")
    assert same(back[0], good[0]) and back[1] == good[1]


META = {"format": "minibi", "kind": "test", "version": "1"}
HOSTILE = {  # forged by hand, and with a checksum that fits
    "no metadata": {},
    "metadata null": {"__metadata__": None},
    "no version": {"__metadata__": {"format": "minibi", "kind": "test"}},
    "version is a word": {"__metadata__": {"format": "minibi", "kind": "test", "version": "one"}},
    "fields are a list": {"__metadata__": {**META, "fields": "[]", "crc32": "{}"}},
    "fields are too deep": {"__metadata__": {**META, "fields": "[" * 99_999, "crc32": "{}"}},
    "sums are null": {"__metadata__": {**META, "fields": "{}", "crc32": "null"}},
    "sums are of others": {"__metadata__": {**META, "fields": "{}", "crc32": '{"a": 1}'}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(tmp_path, name):
    header = copy.deepcopy(HOSTILE[name])
    if header.get("__metadata__"):
        header["__metadata__"]["header_crc32"] = str(zlib.crc32(json.dumps(header, sort_keys=True).encode()))
    text = json.dumps(header).encode()
    (tmp_path / "bad").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(FormatError):
        read_snapshot(tmp_path / "bad", "test")


# --- the wrong file --------------------------------------------------------------------------------------------------


def refusal(path: Path, kind: str = "test") -> str:
    with pytest.raises(FormatError) as e:
        read_snapshot(path, kind)
    text = str(e.value)
    assert str(path) in text and "\n" not in text
    return text


def test_wrong_kind_foreign_missing_and_folder(tmp_path):
    path = small(tmp_path / "s")
    assert "not a flat-index" in refusal(path, "flat-index")
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "foreign")
    assert "not a test file of minibi" in refusal(tmp_path / "foreign")
    assert "No such file" in refusal(tmp_path / "missing")
    refusal(tmp_path)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("hello world, this is no snapshot")
    for name in ("empty", "text"):
        assert "fetch it again" not in refusal(tmp_path / name)  # it was made here, there is nowhere to fetch it


def test_a_newer_version_asks_for_an_upgrade(tmp_path, monkeypatch):
    import minibi.store.snapshot as module

    monkeypatch.setattr(module, "VERSION", VERSION + 1)
    path = small(tmp_path / "s")
    monkeypatch.undo()
    assert "newer version" in refusal(path)


def test_verify_can_be_switched_off(tmp_path):
    path = small(tmp_path / "s")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert read_snapshot(path, "test", verify=False)[0].keys() == {"vectors", "ids", "levels", "none"}
    assert "checksum" in refusal(path)


# --- kills -----------------------------------------------------------------------------------------------------------

SAVER = """
import sys, itertools
import numpy as np
from minibi.store.snapshot import write_snapshot
for i in itertools.count():
    write_snapshot(sys.argv[1], "test", {"a": np.full((40, 1000), i, np.float32), "b": np.full(9, i)}, {"i": i})
    if i == 0:
        print("ready", flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_while_saving(tmp_path, deep):
    path = tmp_path / "snapshot"
    env = {**os.environ, "PYTHONPATH": ROOT}
    dice = random.Random(3)
    for _ in range(300 if deep else 10):
        process = subprocess.Popen([sys.executable, "-c", SAVER, str(path)], env=env, stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(dice.uniform(0, 0.03))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        arrays, fields = read_snapshot(path, "test")
        assert (arrays["a"] == fields["i"]).all() and (arrays["b"] == fields["i"]).all()
