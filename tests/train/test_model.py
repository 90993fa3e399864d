"""Whole models: gradients and ten steps of training as torch computes them, and back into a folder that loads."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from minibi import BiEncoder, CrossEncoder
from minibi.errors import InputError, ModelError
from minibi.nn.dropout import Dropout
from minibi.text.batches import pack
from minibi.train import model as trainable
from minibi.train.model import Trainable
from minibi.train.optimizer import AdamW, clip, linear_schedule

MODELS = ["tiny-bert", "tiny-bert-new", "tiny-cross-encoder", "tiny-cross-encoder-3"]


def softmax_loss(scores, labels):
    """Mean cross-entropy of rows and dL/dscores."""
    p = np.exp(scores - scores.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    truth = np.eye(scores.shape[1], dtype=scores.dtype)[labels]
    return -np.log((p * truth).sum(axis=1)).mean(), (p - truth) / len(scores)


def loss_of(x, pairs):
    """The losses of golden/make_train.py, with their gradients."""
    n = np.arange(len(x))
    if pairs and x.shape[1] == 1:
        y = (n % 2)[:, None]
        p = 1 / (1 + np.exp(-x))
        return -np.log(np.where(y, p, 1 - p)).mean(), (p - y) / len(x)
    if pairs:
        return softmax_loss(x, n % 3)
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    u = x / norms
    loss, d = softmax_loss(20 * u[0::2] @ u[1::2].T, np.arange(len(x) // 2))
    du = np.empty_like(x)
    du[0::2], du[1::2] = 20 * d @ u[1::2], 20 * d.T @ u[0::2]
    return loss, (du - u * (u * du).sum(axis=1, keepdims=True)) / norms


@pytest.fixture
def start(golden, golden_arrays, load):
    """start(name): a trainable model and its golden batch."""

    def start(name, **options):
        if "cross" in name:
            given = json.loads((golden / "cross_encoder.json").read_text())[name]
            return Trainable(load(CrossEncoder, golden / name), **options), pack(given["ids"][:8], given["types"][:8])
        arrays, prefix = golden_arrays("tiny"), "new_encode_" if "new" in name else ""
        ids, starts = arrays[prefix + "ids"], arrays[prefix + "starts"][:9]
        batch = pack([ids[s:e] for s, e in pairwise(starts)])
        return Trainable(load(BiEncoder, golden / name), **options), batch

    return start


def train(model, batch, steps=10, **options):
    """Ten steps as golden/make_train.py takes them: (losses, gradients of the first step)."""
    optimizer, schedule = AdamW(model.trainable, lr=2e-3, weight_decay=0.1), linear_schedule(10, warmup=3)
    losses, first = [], None
    for n in range(steps):
        run = model.forward(batch, **options)
        loss, dy = loss_of(run.output, model.pairs)
        gradients = run.backward(dy.astype(run.output.dtype))
        losses.append(loss)
        first = first or {name: g.copy() for name, g in gradients.items()}
        clip(gradients, 1.0)
        optimizer.step(gradients, schedule(n))
    return losses, first


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 2e-7), (np.float32, 1e-4)])
def test_gradients_and_ten_steps_are_torchs(start, golden_arrays, name, dtype, tolerance):
    golden = {k.removeprefix(name + "/"): v for k, v in golden_arrays("train").items() if k.startswith(name + "/")}
    model, batch = start(name, dtype=dtype)
    losses, gradients = train(model, batch)
    np.testing.assert_allclose(losses, golden["losses"], rtol=tolerance)
    expected = {k.removeprefix("gradient/"): v for k, v in golden.items() if k.startswith("gradient/")}
    assert set(gradients) - set(expected) <= {"embeddings.word_embeddings.weight"} and set(expected) <= set(gradients)
    largest = max(np.abs(g).max() for g in expected.values())
    for key, g in expected.items():  # key biases have no gradient at all: the softmax does not see them
        scale = max(np.abs(g).max(), 1e-3 * largest)
        assert np.abs(gradients[key] - g).max() <= tolerance * scale, key
    for key, p in golden.items():
        if key.startswith("final/") and "key.bias" not in key:  # Adam makes steps even of a gradient that is rounding
            found = model.parameters[key.removeprefix("final/")]
            assert np.linalg.norm(found - p) <= tolerance * np.linalg.norm(p), key


@pytest.mark.parametrize("name", MODELS[:3])  # the fourth has relu, whose kinks lie between
def test_differences_agree_with_dropout(start, name, kernels):
    if kernels == "fused":
        pytest.skip("float64 runs on the plain verbs alone")
    model, batch = start(name, dtype=np.float64)
    dropout = Dropout(hidden=0.2, attention=0.2, seed=(1, 5))
    run = model.forward(batch, dropout)
    dy = np.random.default_rng(0).standard_normal(run.output.shape)
    gradients = run.backward(dy)
    rng = np.random.default_rng(1)
    for key, p in list(model.parameters.items())[::4]:
        direction = rng.standard_normal(p.shape)
        values = []
        for step in (1e-5, -1e-5):
            model.parameters[key] = p + step * direction
            values.append((model.forward(batch, dropout).output * dy).sum())
        model.parameters[key] = p
        expected = (values[0] - values[1]) / 2e-5
        assert abs((gradients[key] * direction).sum() - expected) <= 1e-6 * max(1, abs(expected)), key


@pytest.mark.parametrize("name", MODELS)
def test_without_training_it_says_what_the_encoder_says(start, name, tmp_path):
    model, batch = start(name)
    expected = model.encoder._logits(batch) if model.pairs else model.encoder._vectors(
        model.encoder._runner.states(batch), batch, 0
    )  # fmt: skip
    np.testing.assert_allclose(model.forward(batch).output, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("name", MODELS)
def test_a_trained_model_loads(start, load, tmp_path, name):
    model, batch = start(name)
    train(model, batch, steps=3)
    folder = model.save(tmp_path / "trained")
    again = load(type(model.encoder), folder)
    ours = Trainable(again)
    assert all(np.array_equal(ours.parameters[n], p) for n, p in model.parameters.items())
    texts = ["one text", "another"]
    if model.pairs:
        batch = model.batch([texts])
        np.testing.assert_allclose(
            np.reshape(again.predict([texts]), (1, -1)), model.forward(batch).output, rtol=1e-4, atol=1e-5
        )
    else:
        np.testing.assert_allclose(again.encode(texts), model.forward(model.batch(texts)).output, rtol=1e-4, atol=2e-5)
    with pytest.raises(InputError, match="exists"):
        model.save(folder)


def test_frozen_parameters_stay_and_get_no_gradient(start):
    model, batch = start("tiny-bert", frozen=("embeddings", "encoder.layer.0"))
    before = {n: p.copy() for n, p in model.parameters.items()}
    whole, _ = start("tiny-bert")
    run = whole.forward(batch)
    _, dy = loss_of(run.output, False)
    everything = run.backward(dy)
    _, gradients = train(model, batch, steps=2)
    assert set(gradients) == {n for n in model.parameters if n.startswith("encoder.layer.1.")}
    for name, p in model.parameters.items():
        if name in gradients:
            np.testing.assert_allclose(gradients[name], everything[name], rtol=1e-4, atol=1e-6)
        else:
            assert np.array_equal(p, before[name])
    with pytest.raises(InputError, match="embedings"):
        model.freeze("embedings")
    with pytest.raises(InputError, match="begins with"):
        model.freeze("encoder.layer.1.out")


def test_the_same_seed_gives_the_same_bits(start, monkeypatch):
    runs = []
    for threads in ("1", "2", "1"):
        monkeypatch.setenv("MINIBI_NUM_THREADS", threads)
        model, batch = start("tiny-bert")
        losses, _ = train(model, batch, steps=3, dropout=Dropout(0.1, 0.1, seed=(3,)))
        runs.append((losses, model.parameters))
    for losses, parameters in runs[1:]:
        assert losses == runs[0][0]
        assert all(np.array_equal(p, runs[0][1][n]) for n, p in parameters.items())


@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("name", MODELS)
def test_each_thread_takes_its_texts(start, monkeypatch, kernels, name, rate):
    """Gradients of a batch cut for threads are those of the whole, dropout included; the same bits each time."""
    if kernels == "plain":
        pytest.skip("NumPy's own threads share every step")
    monkeypatch.setattr(trainable, "LEAST", 1)
    found = []
    for threads in ("1", "2", "2", "3"):
        monkeypatch.setenv("MINIBI_NUM_THREADS", threads)
        model, _ = start(name)
        batch = pack([[2, 5 + n, 7, 3 + n % 4, 3] for n in range(12)])
        run = model.forward(batch, Dropout(rate, rate, (5,)))
        assert len(run.parts) == int(threads)
        found.append([run.output, *run.backward(np.sin(run.output)).values()])
    largest = max(np.abs(a).max() for a in found[0][1:])
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert np.abs(a - b).max() <= 1e-4 * max(1e-3 * largest, np.abs(a).max())
    assert all(np.array_equal(a, b) for a, b in zip(found[1], found[2], strict=True))
    assert len(model.forward(pack([[2, 3], [2] * 40, [2, 3]])).parts) == 1  # too uneven
    with pytest.raises(InputError, match="shape"):
        run.backward(np.zeros((1, 1), np.float32))


def test_edges(start):
    model, _ = start("tiny-bert")
    one = model.batch(["a"])
    gradients = model.forward(one).backward(np.ones((1, 36), np.float32))
    assert all(np.isfinite(g).all() for g in gradients.values())
    with pytest.raises(InputError, match="positions"):
        model.forward(pack([[2] * 65]))
    with pytest.raises(InputError, match="another model"):
        model.load({})
    parameters = {n: p + 1 for n, p in model.parameters.items()}
    model.load(parameters)
    assert all(np.array_equal(p, parameters[n]) for n, p in model.parameters.items())
    model.parameters["encoder.layer.0.output.dense.bias"][0] = np.nan
    with pytest.raises(ModelError, match="NaN"):
        model.forward(one)
