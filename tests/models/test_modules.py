"""What comes after the transformer: modules, pooling and dense layers, read faithfully or refused by name."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from folders import WEIGHTS, change_json
from safetensors.numpy import load_file

from minibi import BiEncoder
from minibi.errors import ModelError
from minibi.models.modules import Pooling


@pytest.fixture
def copy(golden, tmp_path):
    """copy("tiny-bert") is a copy of that folder, to be changed."""
    return lambda name: shutil.copytree(golden / name, tmp_path / name)


# --- refused: modules

T, P = ("", "sentence_transformers.models.Transformer"), ("1_Pooling", "sentence_transformers.models.Pooling")
D, N = ("2_Dense", "sentence_transformers.models.Dense"), ("3_Normalize", "sentence_transformers.models.Normalize")


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ([T, P, ("4_LSTM", "sentence_transformers.models.LSTM")], "module 'sentence_transformers.models.LSTM' is not"),
        ([T, P, ("", "my_code.Normalize")], "module 'my_code.Normalize' is not supported"),
        ([("", "sentence_transformers.models.StaticEmbedding")], "StaticEmbedding' is not supported"),
        ([T, P, ("../../elsewhere", D[1])], "outside its folder"),
        ([T, ("/etc", P[1])], "outside its folder"),
        ([T, N, P], "out of place"),
        ([P, T], "out of place"),
        ([T, T, P], "out of place"),
        ([T, P, P], "out of place"),
        ([T], "no transformer or no pooling"),
        ([], "no transformer or no pooling"),
        ([T, P, D, D], "the dense layer takes 36 numbers, it is given 20"),
    ],
)
def test_modules_that_cannot_be_followed(load, copy, modules, message):
    folder = copy("tiny-bert-new")
    entries = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(ModelError, match=message):
        load(BiEncoder, folder)


@pytest.mark.parametrize("entries", ["[1]", '[{"path": ""}]', '["sentence_transformers.models.Transformer"]'])
def test_modules_without_types(load, copy, entries):
    folder = copy("tiny-bert")
    (folder / "modules.json").write_text(entries)
    with pytest.raises(ModelError, match="not a list of modules"):
        load(BiEncoder, folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation_function": "torch.nn.modules.activation.Mish"}, "activation 'Mish' is not one of"),
        ({"activation_function": "os.system"}, "activation 'system' is not one of"),
        ({"activation_function": None}, "activation 'None' is not one of"),
        ({"in_features": ...}, "lacks 'in_features'"),
        ({"in_features": "many"}, "lacks"),
        ({"out_features": 21}, "has shape"),
        ({"use_residual": True}, "residual"),
        ({"module_input_name": "token_embeddings"}, "something else than vectors"),
        ({"module_output_name": "token_embeddings"}, "something else than vectors"),
    ],
)
def test_a_dense_layer_that_cannot_be_followed(load, copy, changes, message):
    folder = copy("tiny-bert-new")
    change_json(folder / "2_Dense" / "config.json", **changes)
    with pytest.raises(ModelError, match=message):
        load(BiEncoder, folder)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        ("Identity", lambda y: y),
        ("Tanh", np.tanh),
        ("ReLU", lambda y: np.maximum(y, 0)),
        ("Sigmoid", lambda y: 1 / (1 + np.exp(-y))),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_dense_activations(load, copy, activation, function, bias, tiny_texts):
    """tiny-bert (not normalized, so that the layer's own output is seen) with the dense layer of tiny-bert-new."""
    folder = copy("tiny-bert")
    shutil.copytree(copy("tiny-bert-new") / "2_Dense", folder / "2_Dense")
    plain = load(BiEncoder, folder).encode(tiny_texts, truncation="silent").astype(np.float64)
    entries = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps([*entries, {"path": D[0], "type": D[1]}]))
    change_json(folder / "2_Dense" / "config.json", activation_function=f"some.{activation}", bias=bias)
    dense = load_file(folder / "2_Dense" / WEIGHTS)
    model = load(BiEncoder, folder)
    expected = function(plain @ dense["linear.weight"].T + (dense["linear.bias"] if bias else 0))
    assert model.dim == 20
    assert np.abs(model.encode(tiny_texts, truncation="silent") - expected).max() < 1e-5


def pooling(tmp_path, **content):
    (tmp_path / "config.json").write_text(json.dumps(content))
    return Pooling.read(tmp_path)


def test_pooling_in_both_dialects(tmp_path):
    assert pooling(tmp_path, pooling_mode="cls") == Pooling(("cls",))
    assert pooling(tmp_path, pooling_mode=["mean", "cls"], include_prompt=False) == Pooling(("mean", "cls"), False)
    assert pooling(tmp_path, pooling_mode_mean_tokens=True, pooling_mode_cls_token=True).modes == ("cls", "mean")
    old = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken"]
    modes = pooling(tmp_path, **{f"pooling_mode_{name}": True for name in reversed(old)}).modes
    assert modes == ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"), "a fixed order"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "not made of"),
        ({"pooling_mode_mean_tokens": False}, "not made of"),
        ({"pooling_mode": "attention"}, "attention"),
        ({"pooling_mode": []}, "not made of"),
        ({"pooling_mode": ["mean", "std"]}, "std"),
        ({"pooling_mode_mean_tokens": True, "pooling_mode_std_tokens": True}, "pooling_mode_std_tokens"),
    ],
)
def test_pooling_that_cannot_be_followed(tmp_path, content, message):
    with pytest.raises(ModelError, match=message):
        pooling(tmp_path, **content)


def test_two_poolings_make_a_wider_vector(load, copy, tiny_texts, golden_arrays):
    folder = copy("tiny-bert")
    change_json(folder / "1_Pooling" / "config.json", pooling_mode_cls_token=True)
    model = load(BiEncoder, folder)
    assert model.dim == 72
    found = model.encode(tiny_texts, truncation="silent")
    assert np.abs(found - golden_arrays("tiny")["pooled_cls_mean"]).max() < 1e-5
