"""Model folders with other parts: each layer, weight and setting where it belongs, the old folder untouched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from minibi import BiEncoder, CrossEncoder
from minibi.errors import InputError, ModelError
from minibi.models.surgery import add_classifier, add_projection, take_layers, write_settings
from minibi.store.tensors import read_weights

TEXTS = ["a river runs", "stone"]


@pytest.fixture
def tiny_folder(golden) -> Path:
    return golden / "tiny-bert"


def test_all_layers_are_the_model_itself(tiny_folder, tmp_path):
    model = BiEncoder(take_layers(tiny_folder, tmp_path / "all", [0, 1]))
    np.testing.assert_array_equal(model.encode(TEXTS), BiEncoder(tiny_folder).encode(TEXTS))


def test_layers_in_another_order(tiny_folder, tmp_path):
    old = read_weights(tiny_folder)
    swapped = take_layers(tiny_folder, tmp_path / "swapped", [1, 0, 1])
    new = read_weights(swapped)
    for place, source in enumerate([1, 0, 1]):
        for name, tensor in new.items():
            if f"encoder.layer.{place}." in name:
                np.testing.assert_array_equal(tensor, old[name.replace(f"layer.{place}.", f"layer.{source}.")])
    assert BiEncoder(swapped).config.layers == 3
    assert {n for n in new if "encoder" not in n} <= set(old)
    one = BiEncoder(take_layers(tiny_folder, tmp_path / "one", [0]))
    study = BiEncoder(tiny_folder).study(TEXTS[0])
    np.testing.assert_allclose(one.study(TEXTS[0]).states[1], study.states[1], rtol=1e-5, atol=1e-6)
    for layers in ([], [2], [-1]):
        with pytest.raises(InputError, match="layers must name some of the model's 2"):
            take_layers(tiny_folder, tmp_path / "bad", layers)
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("outputs", [5, 36, 50])
def test_a_projection_keeps_angles_as_well_as_it_can(tiny_folder, tmp_path, outputs):
    base, model = BiEncoder(tiny_folder), BiEncoder(add_projection(tiny_folder, tmp_path / "p", outputs, seed=2))
    assert model.dim == outputs
    w = read_weights(next((tmp_path / "p").glob("*_Dense")))["linear.weight"]
    np.testing.assert_allclose(model.encode(TEXTS), base.encode(TEXTS) @ w.T, rtol=1e-4, atol=1e-5)
    square = w.T @ w if outputs >= 36 else w @ w.T
    np.testing.assert_allclose(square, np.eye(len(square)), atol=1e-5)
    again = BiEncoder(add_projection(tiny_folder, tmp_path / "again", outputs, seed=2))
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


def test_a_projection_stands_before_the_norm(tmp_path):
    model = BiEncoder(add_projection("all-MiniLM-L6-v2", tmp_path / "p", 64))
    np.testing.assert_allclose(np.linalg.norm(model.encode(TEXTS), axis=1), 1, rtol=1e-5)
    base = BiEncoder()
    u, v = model.encode(TEXTS), base.encode(TEXTS)
    assert abs((u[0] @ u[1]) - (v[0] @ v[1])) < 0.3
    twice = BiEncoder(add_projection(tmp_path / "p", tmp_path / "twice", 32))
    assert twice.dim == 32


def test_what_cannot_be_done(tiny_folder, golden, tmp_path):
    with pytest.raises(InputError, match="exists already"):
        add_projection(tiny_folder, tmp_path, 4)
    for change in (lambda target: add_projection(golden / "tiny-cross-encoder", target, 4),):
        with pytest.raises(ModelError, match=r"modules\.json is missing"):
            change(tmp_path / "x")
    with pytest.raises(ModelError, match="no model folder"):
        take_layers(tmp_path / "none", tmp_path / "y", [0])


def test_a_classifier(tiny_folder, tmp_path):
    folder = add_classifier(tiny_folder, tmp_path / "cross", seed=1)
    model = CrossEncoder(folder)
    assert (model.config.labels, model.tokenizer.max_length) == (1, 48)
    assert np.isfinite(model.predict([("a river", "stone")])).all()
    assert not (folder / "modules.json").exists()
    assert not [p for p in folder.iterdir() if p.is_dir()]
    with pytest.raises(ModelError):
        BiEncoder(folder / "none")


def test_settings(tiny_folder, tmp_path):
    folder = take_layers(tiny_folder, tmp_path / "m", [0, 1])
    write_settings(folder)
    assert BiEncoder(folder).max_seq_length == 48
    write_settings(folder, prompts={"query": "Ü: "}, max_seq_length=12, default_prompt_name="query")
    model = BiEncoder(folder)
    assert (model.prompts, model.max_seq_length, model.default_prompt_name) == ({"query": "Ü: "}, 12, "query")
    write_settings(folder, prompts={})
    raw = json.loads((folder / "config_sentence_transformers.json").read_text())
    assert raw["prompts"] == {}
    assert raw["__version__"]
