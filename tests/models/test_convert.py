"""Model folders in fewer bytes: what is kept exactly, what is rounded, and nothing that loads as something else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from folders import move_transformer, place_transformer
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from minibi import BiEncoder, CrossEncoder
from minibi.errors import InputError, MinibiError, ModelError
from minibi.models import convert as conversion
from minibi.models.convert import convert, to_bytes
from minibi.nn import plain
from minibi.store.tensors import read_weights

WEIGHTS = "model.safetensors"
STORED = ["float32", "float16", "int8"]


@pytest.fixture
def copy(golden, tmp_path):
    return lambda name: shutil.copytree(golden / name, tmp_path / "copy of" / name)


@pytest.fixture
def bits(load, tiny_texts):
    """bits(folder, compute): the vectors of the small texts."""

    def bits(folder, compute="float32"):
        return load(BiEncoder, folder, compute=compute).encode(tiny_texts, truncation="silent")

    return bits


def kinds(folder: Path) -> dict[str, str]:
    return {name: tensor.dtype.name for name, tensor in read_weights(folder).items()}


def cosine_errors(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return 1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


# --- what is stored


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-bert-new", "tiny-cross-encoder"])
@pytest.mark.parametrize("stored", STORED)
def test_what_is_stored(golden, tmp_path, name, stored):
    before, folder = read_weights(golden / name), convert(golden / name, tmp_path / "out", stored)
    assert folder == tmp_path / "out"
    after = read_weights(folder)
    assert {n.removesuffix("_scale").removesuffix("_outlier").removesuffix("_channel") for n in after} == set(before)
    for n, tensor in before.items():
        if tensor.ndim < 2 or stored == "float32":
            expected = tensor.astype(np.float32)
        elif stored == "float16" or "embeddings" in n:
            expected = tensor.astype(np.float16)
        else:
            channel = after.get(n + "_channel")
            assert (channel is None) == ("encoder.layer" not in n)
            parts = to_bytes(tensor, None if channel is None else int(channel[0]))
            expected = parts[""]
            assert all(np.array_equal(after[n + part], array) for part, array in parts.items())
            assert parts["_scale"].dtype == np.float32
        assert after[n].dtype == expected.dtype and np.array_equal(after[n], expected)
        assert after[n].dtype == np.int8 or n + "_scale" not in after
    others = {p.relative_to(golden / name): p.read_bytes() for p in (golden / name).rglob("*.*")
              if p.is_file() and p != golden / name / WEIGHTS}  # fmt: skip
    copied = {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*.*")
              if p.is_file() and p != folder / WEIGHTS}  # fmt: skip
    assert others == copied and others, "all else is copied as it is"


def test_sizes(tmp_path):
    sizes = {s: (convert("all-MiniLM-L6-v2", tmp_path / s, s) / WEIGHTS).stat().st_size for s in STORED}
    assert sizes["float16"] < 0.502 * sizes["float32"] and sizes["int8"] < 0.78 * sizes["float16"]


@given(
    st.integers(1, 40), st.integers(1, 40), st.sampled_from([1e-43, 1e-30, 1e-3, 1, 1e30, 3e38]), st.integers(0, 999)
)
def test_to_bytes_is_what_the_linear_verbs_make_of_a_matrix(n, k, magnitude, seed):
    w = (np.random.default_rng(seed).uniform(-1, 1, (n, k)) * magnitude).astype(np.float32)
    w[0] = 0
    channel = seed % k
    parts = to_bytes(w, channel)
    codes, scales, outlier = parts[""], parts["_scale"], parts["_outlier"]
    twin = plain.matrix8(w, channel)
    assert np.array_equal(codes.T, twin.codes) and np.array_equal(scales.ravel(), twin.scales)
    assert np.array_equal(outlier.ravel(), twin.outlier) and parts["_channel"].tolist() == [channel]
    assert codes.dtype == np.int8 and scales.shape == outlier.shape == (n, 1) and not codes[0].any()
    again = to_bytes(codes.astype(np.float32) * scales, channel)
    assert np.array_equal(again[""], codes), "bytes, floats, bytes: nothing is lost the second time"
    usual = np.abs(np.delete(w, channel, 1)).max(1, initial=0) > 1e-35
    assert np.array_equal(again["_scale"][usual], scales[usual])
    assert set(to_bytes(w)) == {"", "_scale"}


def test_no_scale_changes_from_bytes_to_floats_and_back():
    """127 s / 127 is s again for each s that the division of a largest magnitude by 127 gives: all 2^23 fractions."""
    top = np.arange(0x3F800000, 0x40000000, dtype=np.uint32).view(np.float32)
    scale = top / np.float32(127)
    assert np.array_equal(scale * np.float32(127) / np.float32(127), scale)


# --- the same model


def test_float32_is_exact(golden, tmp_path, bits):
    for name in ("tiny-bert", "tiny-bert-new"):  # the second holds three kinds of floats
        folder = convert(golden / name, tmp_path / name, "float32")
        assert np.array_equal(bits(folder), bits(golden / name)) and set(kinds(folder).values()) == {"float32"}
        assert np.array_equal(bits(folder, "int8"), bits(golden / name, "int8"))


def test_float16_is_near_and_exact_the_second_time(golden, tmp_path, bits):
    for name in ("tiny-bert", "tiny-bert-new"):
        folder = convert(golden / name, tmp_path / name, "float16")
        found = bits(folder)
        assert 0 < cosine_errors(found, bits(golden / name)).max() < 1e-5
        for stored in ("float16", "float32"):
            again = convert(folder, tmp_path / f"{name} {stored}", stored)
            assert np.array_equal(bits(again), found) and np.array_equal(bits(again, "int8"), bits(folder, "int8"))


def test_int8_is_near(golden, tmp_path, bits):
    for name in ("tiny-bert", "tiny-bert-new"):
        folder = convert(golden / name, tmp_path / name, "int8")
        for compute in ("float32", "int8"):
            assert 1e-7 < cosine_errors(bits(folder, compute), bits(golden / name)).max() < 5e-4


def test_stored_bytes_are_those_that_int8_makes_of_stored_floats(compiled, golden, tmp_path, tiny_texts):
    """compute="int8" gives the same bits from float16 and from the bytes made of it.

    (Made of float32 the bytes may differ by a step, since float16 was rounded once before.)
    """
    for name in (golden / "tiny-bert", golden / "tiny-bert-new", "all-MiniLM-L6-v2"):
        halves = convert(name, tmp_path / f"{Path(name).name} float16", "float16")
        whole = convert(halves, tmp_path / f"{Path(name).name} float32", "float32")
        stored = convert(halves, tmp_path / f"{Path(name).name} int8", "int8")
        expected = BiEncoder(halves, compute="int8").encode(tiny_texts, truncation="silent")
        for folder in (whole, stored):
            assert np.array_equal(BiEncoder(folder, compute="int8").encode(tiny_texts, truncation="silent"), expected)
        assert not np.array_equal(BiEncoder(stored).encode(tiny_texts, truncation="silent"), expected)


@pytest.mark.parametrize("again", STORED)
def test_bytes_are_floats_again(golden, tmp_path, bits, again):
    """From int8 to anything: the numbers that the bytes mean, never the bytes themselves."""
    folder = convert(golden / "tiny-bert", tmp_path / "int8", "int8")
    back = convert(folder, tmp_path / "back", again)
    if again == "float16":  # scale times byte need not fit into float16
        assert cosine_errors(bits(back), bits(folder)).max() < 1e-5
    else:
        assert np.array_equal(bits(back), bits(folder)) and np.array_equal(bits(back, "int8"), bits(folder, "int8"))
    assert ("int8" in kinds(back).values()) == (again == "int8")
    assert any(name.endswith("_scale") for name in kinds(back)) == (again == "int8")
    assert not any(name.endswith("_scale_scale") for name in kinds(back))


@pytest.mark.parametrize("name", ["tiny-cross-encoder", "tiny-cross-encoder-3"])
def test_cross_encoders(golden, tmp_path, load, pairs, name):
    scores = {s: load(CrossEncoder, convert(golden / name, tmp_path / s, s)).predict(pairs, truncation="silent")
              for s in STORED}  # fmt: skip
    exact = load(CrossEncoder, golden / name).predict(pairs, truncation="silent")
    assert np.array_equal(scores["float32"], exact)
    assert 0 < np.abs(scores["float16"] - exact).max() < 0.01 * exact.std()
    assert 0 < np.abs(scores["int8"] - exact).max() < 0.15 * exact.std()


def test_fingerprints_differ(golden, tmp_path, load):
    folders = [golden / "tiny-bert", *(convert(golden / "tiny-bert", tmp_path / s, s) for s in ("float16", "int8"))]
    assert len({load(BiEncoder, folder).fingerprint for folder in folders}) == 3


# --- layouts


@pytest.mark.parametrize("stored", STORED)
def test_layers_behind_the_transformer_are_copied(golden, tmp_path, bits, stored):
    folder = convert(golden / "tiny-bert-new", tmp_path / "out", stored)
    assert (folder / "2_Dense" / WEIGHTS).read_bytes() == (golden / "tiny-bert-new" / "2_Dense" / WEIGHTS).read_bytes()
    assert bits(folder).shape[1] == 20


@pytest.mark.parametrize("stored", STORED)
def test_a_transformer_in_a_folder_of_its_own(copy, tmp_path, golden, bits, stored):
    folder = copy("tiny-bert-new")
    move_transformer(folder)
    moved = convert(folder, tmp_path / "moved", stored)
    usual = convert(golden / "tiny-bert-new", tmp_path / "usual", stored)
    assert np.array_equal(bits(moved), bits(usual)) and not (moved / WEIGHTS).exists()
    place_transformer(folder, "..")
    with pytest.raises(ModelError, match="points outside its folder"):
        convert(folder, tmp_path / "outside", stored)


def test_shards_become_one_file(copy, tmp_path, golden, bits):
    folder = copy("tiny-bert")
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    where = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(tensors)}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in tensors if where[name] == file}, folder / file)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": where}))
    out = convert(folder, tmp_path / "out", "float32")
    assert [p.name for p in out.glob("*safetensors*")] == [WEIGHTS]
    assert np.array_equal(bits(out), bits(golden / "tiny-bert"))


def test_pickles_and_hidden_files_stay_behind(copy, tmp_path):
    folder = copy("tiny-bert")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / ".git").mkdir()
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"another format")
    (folder / "tf_model.h5").write_bytes(b"another format")
    names = {p.name for p in convert(folder, tmp_path / "out", "float16").iterdir()}
    assert not {"pytorch_model.bin", ".git", "onnx", "tf_model.h5"} & names


# --- refusals


def test_a_target_that_exists_is_refused_and_left_alone(golden, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    for name in ("folder", "file"):
        with pytest.raises(InputError, match="exists already: choose another name"):
            convert(golden / "tiny-bert", tmp_path / name, "int8")
    assert not list((tmp_path / "folder").iterdir()) and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("inside", ["out", "1_Pooling/out"])
def test_a_target_inside_the_source_is_refused(copy, inside):
    folder = copy("tiny-bert")
    with pytest.raises(InputError, match="lies in the folder to be copied"):
        convert(folder, folder / inside, "float16")
    assert not (folder / inside).exists()


@pytest.mark.parametrize("stored", ["bfloat16", "", None, "INT8"])
def test_other_kinds_are_refused(golden, tmp_path, stored):
    with pytest.raises(InputError, match="is not one of"):
        convert(golden / "tiny-bert", tmp_path / "out", stored)
    assert not (tmp_path / "out").exists()


def change(folder, **changes):
    """Applies functions to single tensors; names by their last parts, dots as __."""
    tensors = {name: np.array(tensor) for name, tensor in load_file(folder / WEIGHTS).items()}
    for ending, what in changes.items():
        (name,) = [n for n in tensors if n.endswith(ending.replace("__", "."))]
        tensors[name] = what(tensors[name])
    save_file(tensors, folder / WEIGHTS)
    return name


@pytest.mark.parametrize("value", [70_000, -1e30])
def test_numbers_beyond_float16_are_refused(copy, tmp_path, value):
    def one(w):
        w[3, 5] = value
        return w

    folder = copy("tiny-bert")
    change(folder, layer__1__output__dense__weight=one)
    with pytest.raises(InputError, match=r"layer\.1\.output\.dense\.weight holds numbers beyond float16"):
        convert(folder, tmp_path / "out", "float16")
    assert not (tmp_path / "out").exists()
    assert np.isfinite(load_file(convert(folder, tmp_path / "int8", "int8") / WEIGHTS)
                       ["encoder.layer.1.output.dense.weight_scale"]).all()  # fmt: skip
    change(folder, word_embeddings__weight=one)
    for stored in ("float16", "int8"):
        with pytest.raises(InputError, match=r"word_embeddings\.weight holds numbers beyond float16"):
            convert(folder, tmp_path / "out", stored)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("stored", STORED)
def test_nan_does_not_become_a_byte(copy, tmp_path, value, stored):
    def one(w):
        w[3, 5] = value
        return w

    folder = copy("tiny-bert")
    change(folder, layer__0__intermediate__dense__weight=one)
    with pytest.raises(InputError, match=r"intermediate\.dense\.weight holds NaN or infinity"):
        convert(folder, tmp_path / "out", stored)
    assert not (tmp_path / "out").exists()


def test_what_is_no_model_is_refused(copy, tmp_path):
    for name in ("no such model", "", tmp_path):
        with pytest.raises(MinibiError):
            convert(name, tmp_path / "out", "float16")
    folder = copy("tiny-bert")
    (folder / WEIGHTS).write_bytes(b"not weights")
    with pytest.raises(ModelError, match="not a sound safetensors file"):
        convert(folder, tmp_path / "out", "float16")
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        convert(folder, tmp_path / "out", "float16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "scales",
    [
        lambda s: s[:-1],
        lambda s: s.ravel(),
        lambda s: s.T.copy(),
        lambda s: np.ones((1, 1), np.float32),
        lambda s: (127 * s).astype(np.int8),
    ],
)
def test_scales_that_do_not_fit_are_refused(golden, tmp_path, load, scales):
    folder = convert(golden / "tiny-bert", tmp_path / "int8", "int8")
    change(folder, layer__0__output__dense__weight_scale=scales)
    for use in (lambda: load(BiEncoder, folder), lambda: convert(folder, tmp_path / "out", "float32")):
        with pytest.raises(ModelError, match=r"layer\.0\.output\.dense\.weight_scale is"):
            use()


@pytest.mark.parametrize(
    ("what", "change_it"),
    [
        ("outlier", lambda x: x[:-1]),
        ("outlier", lambda x: x.astype(np.int32)),
        ("channel", lambda x: x + 1000),
        ("channel", lambda x: -1 - x),
        ("channel", lambda x: np.float32(x)),
        ("channel", lambda x: np.concatenate([x, x])),
    ],
)
def test_a_column_apart_that_does_not_fit_is_refused(golden, tmp_path, load, what, change_it):
    folder = convert(golden / "tiny-bert", tmp_path / "int8", "int8")
    change(folder, **{f"layer__0__output__dense__weight_{what}": change_it})
    for compute in ("float32", "int8"):
        with pytest.raises(ModelError, match=rf"layer\.0\.output\.dense\.weight_{what} is"):
            load(BiEncoder, folder, compute=compute)


def test_a_column_apart_that_is_missing_is_refused(golden, tmp_path, load):
    folder = convert(golden / "tiny-bert", tmp_path / "int8", "int8")
    tensors = load_file(folder / WEIGHTS)
    del tensors["encoder.layer.0.output.dense.weight_outlier"]
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ModelError, match="weight_outlier is missing"):
        load(BiEncoder, folder)


def test_bytes_without_scales_are_refused(golden, tmp_path, load):
    folder = convert(golden / "tiny-bert", tmp_path / "int8", "int8")
    tensors = load_file(folder / WEIGHTS)
    del tensors["encoder.layer.0.output.dense.weight_scale"]
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(ModelError, match="stored as int8: only float weights"):
        load(BiEncoder, folder)


# --- interruptions


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
@pytest.mark.parametrize("step", ["copytree", "copy", "replace_file"])
def test_an_interruption_leaves_nothing(golden, tmp_path, monkeypatch, load, error, step):
    def fail(*_, **__):
        raise error

    place = conversion if step == "replace_file" else conversion.shutil
    original = getattr(place, step)
    if step == "copytree":  # some files are there already
        monkeypatch.setattr(place, step, lambda *a, **o: (original(*a, **o), fail()))
    else:
        monkeypatch.setattr(place, step, fail)
    with pytest.raises(type(error)):
        convert(golden / "tiny-bert-new", tmp_path / "out", "int8")
    monkeypatch.undo()
    assert not list(tmp_path.iterdir())
    load(BiEncoder, convert(golden / "tiny-bert-new", tmp_path / "out", "int8"))


def test_a_process_that_is_killed_leaves_no_model(golden, tmp_path, load):
    """Whatever was there at that moment, it does not load."""
    code = (
        "import os\n"
        "from minibi.models import convert\n"
        "def killed(path, write):\n"
        "    with open(str(path) + '.tmp', 'wb') as f:\n"
        "        write(f)\n"
        "    os._exit(9)\n"
        "convert.replace_file = killed\n"
        f"convert.convert({str(golden / 'tiny-bert-new')!r}, {str(tmp_path / 'out')!r}, 'int8')\n"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "MINIBI_KERNELS": "plain"}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 9
    assert (tmp_path / "out").is_dir()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        load(BiEncoder, tmp_path / "out")
