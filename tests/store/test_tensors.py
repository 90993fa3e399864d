"""safetensors files: every dtype as it is, bfloat16 widened, and nothing believed that is damaged."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save, save_file

from minibi.errors import ModelError
from minibi.store.tensors import read_header, read_safetensors, read_weights, weight_files

ARRAYS = {
    "float32": np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4),
    "float16": np.linspace(-1, 1, 6, dtype=np.float16),
    "float64": np.array([[1e300]]),
    "int8": np.arange(-3, 2, dtype=np.int8),
    "int64": np.array(2**60),
    "uint8": np.arange(7, dtype=np.uint8),
    "bool": np.array([True, False]),
    "empty": np.zeros((0, 3), np.float32),
}


@pytest.fixture
def file(tmp_path):
    save_file(ARRAYS, tmp_path / "model.safetensors", metadata={"format": "np"})
    return tmp_path / "model.safetensors"


def with_header(header: dict | bytes, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_every_dtype(file):
    found = read_safetensors(file)
    assert found.keys() == ARRAYS.keys()
    for name, a in ARRAYS.items():
        assert found[name].dtype == a.dtype and found[name].shape == a.shape and np.array_equal(found[name], a)


def test_writing_to_a_tensor_never_reaches_the_file(file):
    before = file.read_bytes()
    found = read_safetensors(file)
    found["float32"][:] = 7
    assert file.read_bytes() == before and read_safetensors(file)["float32"][0, 0] == -1


def test_header(file):
    tensors, metadata, begin = read_header(file)
    assert tensors.keys() == ARRAYS.keys() and metadata == {"format": "np"}
    assert begin == 8 + int.from_bytes(file.read_bytes()[:8], "little")


@given(st.lists(st.floats(width=32), max_size=20))
@settings(max_examples=30)
def test_bfloat16_is_widened(tmp_path_factory, numbers):
    upper = (np.array(numbers, np.float32).view(np.uint32) >> 16).astype(np.uint16)  # what a bfloat16 keeps
    content = with_header(
        {"x": {"dtype": "BF16", "shape": [len(numbers)], "data_offsets": [0, 2 * len(numbers)]}}, upper.tobytes()
    )
    file = tmp_path_factory.mktemp("bf16") / "x.safetensors"
    file.write_bytes(content)
    found = read_safetensors(file)["x"]
    assert found.dtype == np.float32
    assert np.array_equal(found.view(np.uint32), upper.astype(np.uint32) << 16)


def test_three_dtypes_in_one_model(golden):
    found = read_weights(golden / "tiny-bert-new")
    truth = read_weights(golden / "tiny-bert")
    words, matrix = "embeddings.word_embeddings.weight", "encoder.layer.1.intermediate.dense.weight"
    assert found[words].dtype == np.float32 and found[matrix].dtype == np.float16
    np.testing.assert_allclose(found[words], truth[words], rtol=2**-8)
    np.testing.assert_allclose(found[matrix], truth[matrix], rtol=2**-10, atol=1e-7)


def test_odd_offsets(tmp_path):
    """A header of any length: tensors may begin at an odd address."""
    content = save({"x": np.arange(5, dtype=np.float32)})
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].rstrip()
    for pad in range(8):
        file = tmp_path / f"{pad}.safetensors"
        file.write_bytes(with_header(header + b" " * pad, content[8 + size :]))
        assert read_safetensors(file)["x"].tolist() == [0, 1, 2, 3, 4]


def test_a_file_without_tensors(tmp_path):
    save_file({}, tmp_path / "x.safetensors")
    assert read_safetensors(tmp_path / "x.safetensors") == {}


def test_missing(tmp_path):
    with pytest.raises(ModelError, match="does not exist"):
        read_safetensors(tmp_path / "none.safetensors")
    with pytest.raises(ModelError, match="not a sound safetensors file"):
        read_safetensors(tmp_path)


ONE = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0" * 7,
        b"\xff" * 200,
        with_header(b"not json"),
        with_header(b"[]"),
        with_header({"x": ONE}),
        with_header({"x": ONE}, b"\0" * 7),
        with_header({"x": ONE}, b"\0" * 9),
        with_header({"x": ONE | {"shape": [3]}}, b"\0" * 8),
        with_header({"x": ONE | {"shape": [-2]}}, b"\0" * 8),
        with_header({"x": ONE | {"shape": [2**62, 2**62]}}, b"\0" * 8),
        with_header({"x": ONE | {"data_offsets": [8, 0]}}, b"\0" * 8),
        with_header({"x": ONE | {"data_offsets": [4, 12]}}, b"\0" * 8),
        with_header({"x": ONE, "y": ONE}, b"\0" * 8),
        with_header({"x": {"dtype": "F32"}}, b"\0" * 8),
        with_header({"x": ONE | {"dtype": "nonsense"}}, b"\0" * 8),
        with_header({"x": 5}),
        (2**63).to_bytes(8, "little") + b"{}",
    ],
)
def test_mangled(tmp_path, content):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="not a sound safetensors file"):
        read_safetensors(tmp_path / "x.safetensors")


def test_a_type_that_is_not_supported(tmp_path):
    content = with_header({"x": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}, b"\0\0")
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match="tensor x has type F8_E4M3, which is not supported"):
        read_safetensors(tmp_path / "x.safetensors")


@given(st.integers(0, 10**9), st.integers(0, 255))
def test_any_flipped_byte_is_an_error_or_other_numbers(tmp_path_factory, at, value):
    """Never a crash, never memory outside the file."""
    content = bytearray(save({name: a for name, a in ARRAYS.items() if a.size}))
    content[at % len(content)] = value
    file = tmp_path_factory.mktemp("flip") / "x.safetensors"
    file.write_bytes(content)
    try:
        found = read_safetensors(file)
    except ModelError:
        return
    assert sum(a.nbytes for a in found.values()) <= len(content)
    assert all(a.copy() is not None for a in found.values())


@given(st.integers(0, 2000))
def test_any_shortened_file_is_refused(tmp_path_factory, kept):
    content = save({"x": np.arange(400, dtype=np.float32)})
    file = tmp_path_factory.mktemp("short") / "x.safetensors"
    file.write_bytes(content[: min(kept, len(content) - 1)])
    with pytest.raises(ModelError, match="not a sound safetensors file"):
        read_safetensors(file)


def test_which_files(tmp_path):
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        weight_files(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(ModelError, match="pickled"):
        weight_files(tmp_path)
    index = {"weight_map": {"a": "two.safetensors", "b": "one.safetensors", "c": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weight_files(tmp_path) == [tmp_path / "one.safetensors", tmp_path / "two.safetensors"]
    save_file(ARRAYS, tmp_path / "model.safetensors")
    assert weight_files(tmp_path) == [tmp_path / "model.safetensors"]


@pytest.mark.parametrize("name", ["../x.safetensors", "/etc/passwd", "a/b.safetensors", ".."])
def test_shards_outside_the_folder(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match="outside its folder"):
        weight_files(tmp_path)


def test_shards_are_read_together(tmp_path):
    save_file({"a": np.ones(2, np.float32)}, tmp_path / "1.safetensors")
    save_file({"b": np.zeros(3, np.float16)}, tmp_path / "2.safetensors")
    index = {"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert {name: a.tolist() for name, a in read_weights(tmp_path).items()} == {"a": [1, 1], "b": [0, 0, 0]}


def test_the_library_reads_the_same(golden):
    file = golden / "tiny-bert" / "model.safetensors"
    truth = load_file(file)
    found = read_safetensors(file)
    assert found.keys() == truth.keys() and all(np.array_equal(found[name], truth[name]) for name in truth)
