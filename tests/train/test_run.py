"""From recipe to model folder: what is written, kept, resumed and refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fit_checks import GOLDEN, TINY, pairs, write_pairs

from minibi import BiEncoder, CrossEncoder, LateInteraction, Towers, open_encoder
from minibi.errors import FormatError, InputError
from minibi.store.files import LOCK
from minibi.train import run as running
from minibi.train.journal import CHECKPOINT, LOG
from minibi.train.log import read_log
from minibi.train.recipe import parse_recipe
from minibi.train.run import make_learner, run_folder, train


def write_triplets(folder):
    rows = [{"query": e.query, "positive": e.documents[0], "negative": e.documents[1]} for e in pairs(12, negatives=1)]
    (folder / "triplets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "triplets.jsonl"


@pytest.fixture
def recipe(tmp_path):
    """recipe(part={…}, …): a small one over pairs.jsonl, with changes."""
    write_pairs(tmp_path / "pairs.jsonl")

    def recipe(**changes):
        parts = {
            "output": "out",
            "model": {"base": str(TINY), "dropout": 0.0},
            "data": {"train": "pairs.jsonl"},
            "training": {"steps": 3, "batch_size": 6, "learning_rate": 1e-3},
        }
        for part, values in changes.items():
            values = {**parts.get(part, {}), **values} if isinstance(values, dict) else values
            parts[part] = {k: v for k, v in values.items() if v is not None} if isinstance(values, dict) else values
        return parse_recipe(parts, tmp_path)

    return recipe


def test_a_run_from_end_to_end(tmp_path, recipe):
    told = []
    report = train(recipe(data={"held_out": 0.3}, training={"evaluate_every": 2}), tell=told.append)
    assert "held out" in told[0]
    assert (report.steps, set(report.metrics)) == (3, {"mrr@10", "held_out_loss"})
    files = {f.name for f in run_folder(recipe()).iterdir() if f.name != LOCK}
    assert {LOG, "summary.json"} <= files <= {LOG, "summary.json", "curve.png"}
    summary = json.loads((tmp_path / "out.run" / "summary.json").read_text())
    assert summary["recipe"]["training"]["learning_rate"] == 1e-3
    log = read_log(tmp_path / "out.run" / LOG)
    assert [not np.isnan(v) for v in log["mrr@10"]] == [True, False, True, True]
    model, base = BiEncoder(tmp_path / "out"), BiEncoder(TINY)
    assert (model.max_seq_length, model.prompts) == (base.max_seq_length, base.prompts)
    assert model.modules.pooling == base.modules.pooling
    assert np.abs(model.encode("a river") - base.encode("a river")).max() > 1e-4
    with pytest.raises(InputError, match="exists already: remove it, or name another output"):
        train(recipe())


def test_texts_that_are_cut_are_told_of(tmp_path, recipe):
    told = []
    train(recipe(output="a", model={"max_seq_length": 5}), tell=told.append)
    assert [line for line in told if line.startswith("among the first 24 examples 24 of the texts")] == told[1:]
    assert len(told) == 3 and all("exceed 5 tokens and were cut" in line for line in told[1:])  # queries, documents
    told.clear()
    data = {"train": write_triplets(tmp_path), "negatives": 1}
    train(recipe(output="b", model={"kind": "cross-encoder", "max_seq_length": 60}, data=data), tell=told.append)
    assert len(told) == 1
    train(recipe(output="c", model={"kind": "cross-encoder", "max_seq_length": 9}, data=data), tell=told.append)
    assert "exceed 9 tokens" in told[-1]


def test_an_interrupted_run_goes_on(tmp_path, recipe, monkeypatch):
    wanted, fit = recipe(training={"steps": 6, "save_every": 2}, model={"dropout": 0.1}), running.fit

    def broken(learner, *args, **options):
        real, calls = learner.gradients, []

        def gradients(batch, seed):
            calls.append(seed)
            if len(calls) == 5:
                raise KeyboardInterrupt
            return real(batch, seed)

        learner.gradients = gradients
        return fit(learner, *args, **options)

    monkeypatch.setattr(running, "fit", broken)
    with pytest.raises(KeyboardInterrupt):
        train(wanted)
    assert (tmp_path / "out.run" / CHECKPOINT).exists()
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(running, "fit", fit)
    with pytest.raises(InputError, match=r"another training.learning_rate \(0.001, now 0.002\)"):
        train(recipe(training={"steps": 6, "learning_rate": 2e-3}, model={"dropout": 0.1}))
    told = []
    train(wanted, tell=told.append)
    assert "resuming" in told[1]
    train(recipe(output="whole", training={"steps": 6, "save_every": 5}, model={"dropout": 0.1}))
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_a_model_is_there_in_whole_or_not_at_all(tmp_path, recipe, monkeypatch):
    def broken(learner, folder):
        folder.mkdir()
        (folder / "half").write_text("")
        raise OSError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr("minibi.train.learners.EmbeddingLearner.save", broken)
        with pytest.raises(OSError):
            train(recipe())
    assert not (tmp_path / "out").exists()
    train(recipe())  # the weights were kept, and are written now
    BiEncoder(tmp_path / "out")


def test_what_a_recipe_says_of_the_model(tmp_path, recipe):
    said = {"query_prompt": "letter: ", "document_prompt": "", "max_seq_length": 20, "freeze_layers": 1}
    train(recipe(model=said, loss={"matryoshka_dims": [36, 8]}))
    model = BiEncoder(tmp_path / "out")
    assert (model.prompts, model.max_seq_length) == ({"query": "letter: ", "document": ""}, 20)
    ours, base = make_learner(recipe(model={"base": str(tmp_path / "out")}), tmp_path), BiEncoder(TINY)
    before = make_learner(recipe(), tmp_path).query.model.parameters
    moved = {n for n, p in ours.query.model.parameters.items() if not np.array_equal(p, before[n])}
    assert moved
    assert all(name.startswith("encoder.layer.1.") for name in moved)
    assert base.config.layers == 2


def test_a_student_of_fewer_layers_and_another_width(tmp_path, recipe):
    model = {"layers": [1], "projection": 20, "teacher": str(TINY)}
    train(recipe(model=model, loss={"name": "score_distill"}))
    student = BiEncoder(tmp_path / "out")
    assert (student.config.layers, student.dim) == (1, 20)
    assert not list((tmp_path / "out.run").glob("*start"))


def test_two_towers_of_a_recipe(tmp_path, recipe):
    sides = {"base": None, "query": str(TINY), "document": str(GOLDEN / "tiny-bert-new")}
    document = BiEncoder(sides["document"])
    projected = {"projection": document.dim} if document.dim != BiEncoder(TINY).dim else {}
    train(recipe(model=sides | {"frozen": "document"} | projected))
    towers = open_encoder(tmp_path / "out")
    assert isinstance(towers, Towers)
    assert towers.fingerprint == document.fingerprint


def test_other_kinds_of_models(tmp_path, recipe):
    data = {"train": write_triplets(tmp_path), "negatives": 1, "held_out": 0.3}
    train(recipe(output="cross", model={"kind": "cross-encoder", "max_seq_length": 30}, data=data))
    assert CrossEncoder(tmp_path / "cross").tokenizer.max_length == 30
    report = train(recipe(output="late", model={"kind": "late-interaction", "layers": [0]}))
    assert report.loss > 0
    assert LateInteraction(tmp_path / "late").config.layers == 1


BAD = {
    "negatives": ({"data": {"negatives": 2}}, InputError, "no example has 2 negatives"),
    "share": ({"data": {"held_out": 0.001}}, InputError, "leaves a part without examples"),
    "data": ({"data": {"train": "none.jsonl"}}, InputError, "cannot read"),
    "layers": ({"model": {"layers": [0, 7]}}, InputError, "layers must name some of the model's 2, from 0 on"),
    "freeze": ({"model": {"freeze_layers": 3}}, InputError, "the model has 2 layers: lower it"),
    "all": ({"model": {"freeze_layers": 2}}, InputError, "all parameters are frozen"),
    "loss": ({"loss": {"name": "cosent"}}, InputError, "cosent needs scored pairs"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_trained(tmp_path, recipe, name):
    changes, error, message = BAD[name]
    with pytest.raises(error, match=message):
        train(recipe(**changes))
    assert not (tmp_path / "out").exists()


REFUSED = {
    "no teacher": ({"loss": {"name": "score_distill"}}, r"\[loss\] score_distill needs a teacher: name one"),
    "idle teacher": ({"model": {"teacher": "m"}}, "has no use for a teacher: remove"),
    "late prompts": ({"model": {"kind": "late-interaction", "query_prompt": "q"}}, "query_prompt is for bi-encoders"),
    "late length": ({"model": {"kind": "late-interaction", "max_seq_length": 9}}, "max_seq_length is the folder's own"),
    "cross chunks": ({"model": {"kind": "cross-encoder"}, "training": {"chunk_size": 3}}, "chunk_size is for bi-enc"),
    "cross loss": ({"model": {"kind": "cross-encoder"}, "loss": {"name": "triplet"}}, "no loss of scores 'triplet'"),
    "cross dims": ({"model": {"kind": "cross-encoder"}, "loss": {"matryoshka_dims": [3]}}, "is for bi-encoders"),
    "kind": ({"model": {"kind": "biencoder"}}, "kind must be one of 'bi-encoder'"),
    "query": ({"model": {"base": None, "query": "a", "document": "b", "frozen": "query"}}, "frozen = 'query'"),
    "towers": ({"model": {"base": None, "query": "a", "document": "b", "layers": [0]}}, "layers goes with base"),
    "best": ({"training": {"keep_best": 1}}, "keep_best must be true or false"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_contradicts_itself(recipe, name):
    changes, message = REFUSED[name]
    with pytest.raises(FormatError, match=message):
        recipe(**changes)
