"""compute="int8": close to float32, and the same model on plain kernels. `test_bits` is about its bits."""

from __future__ import annotations

import gzip
import inspect
import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minibi import BiEncoder, CrossEncoder
from minibi.errors import InputError, ModelError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(compiled):
    return BiEncoder(compute="int8")


@pytest.fixture(scope="module")
def exact(compiled):
    """The same model in float32."""
    return BiEncoder()


def test_awkward_texts(model):
    awkward = ["", " ", "\0", "\ud83d", "x" * 100_000, "[CLS] [SEP]", "字" * 3000]
    vectors = model.encode(awkward, truncation="silent")
    assert np.isfinite(vectors).all() and np.array_equal(vectors[:4], vectors[[0, 0, 0, 0]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert model.encode([]).shape == (0, 384)


# --- accuracy


def real_texts() -> list[str]:
    """Questions and abstracts of SciFact where they are at hand, else documentation of the standard library."""
    folder = ROOT / "benchmarks" / "data" / "scifact"
    if folder.is_dir():
        lines = (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
        queries = [json.loads(line)["text"] for line in lines[:240]]
        with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
            return queries + [json.loads(next(file))["text"] for _ in range(60)]
    names = "argparse asyncio collections csv dataclasses decimal email.message functools inspect itertools json"
    names += " logging os pathlib random re shutil socket statistics string subprocess threading typing unittest"
    things = [thing for name in names.split() for _, thing in sorted(vars(import_module(name)).items())]
    found = dict.fromkeys(inspect.getdoc(thing) or "" for thing in things if callable(thing))
    return [text for text in found if len(text) > 60][:300]


def cosine_errors(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return 1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def real_vectors(exact, model):
    """Of the same 300 texts, in float32 and by bytes."""
    texts = real_texts()
    assert len(texts) == 300
    return exact.encode(texts, truncation="silent"), model.encode(texts, truncation="silent")


def test_vectors_are_close_to_float32(real_vectors):
    error = cosine_errors(*real_vectors)
    assert 1e-5 < error.mean() <= 0.8e-3, "bytes were used, and used well"
    assert error.max() <= 2e-3


def test_nearest_neighbours_stay(real_vectors):
    """The nearest of sixty texts to each of 240, unless float32 itself sees two side by side."""
    near = [vectors[:240] @ vectors[240:].T for vectors in real_vectors]
    order = np.sort(near[0], axis=1)
    clear = order[:, -1] - order[:, -2] > 0.05
    assert clear.sum() > 40
    assert np.array_equal(near[0].argmax(1)[clear], near[1].argmax(1)[clear])


@pytest.mark.parametrize("name", ["tiny-cross-encoder", "tiny-cross-encoder-3"])
def test_pairs_are_scored_alike_and_clear_differences_keep_their_order(load, golden, pairs, name):
    scores = load(CrossEncoder, golden / name).predict(pairs, truncation="silent").astype(np.float64)
    bytewise = load(CrossEncoder, golden / name, compute="int8").predict(pairs, truncation="silent")
    assert bytewise.dtype == np.float32
    error = np.abs(scores - bytewise).max()
    assert 1e-4 < error < 0.12 * scores.std()
    column, other = (s.reshape(len(pairs), -1)[:, 0] for s in (scores, bytewise))
    clear = column[:, None] - column > 0.25 * column.std()
    assert clear.sum() > 100 and ((other[:, None] - other)[clear] > 0).all()


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-bert-new"])
def test_small_models_are_close_to_float32(load, golden, tiny_texts, name):
    a, b = (
        load(BiEncoder, golden / name, compute=compute).encode(tiny_texts, truncation="silent")
        for compute in ("float32", "int8")
    )
    assert 1e-6 < cosine_errors(a, b).max() < 5e-4


# --- plain kernels


@pytest.fixture
def plain_minilm():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIBI_KERNELS", "plain")
        return BiEncoder(compute="int8")


def test_plain_kernels_agree(model, exact, plain_minilm, texts):
    """As closely as bytes allow: where two roundings decide a near tie differently, later layers magnify the step.

    (A relative noise of 2e-7 on the embeddings moves the vectors of the plain verbs themselves by as much.)
    """
    for i in (0, 3, 60):
        a, b, c = (m.study(texts[i]) for m in (plain_minilm, model, exact))
        assert a.vector.dtype == np.float32 and all(h.dtype == np.float32 for h in a.states)
        off, cost = np.abs(a.states[1] - b.states[1]).mean(), np.abs(b.states[1] - c.states[1]).mean()
        assert off < cost / 10, "after one layer they are one, compared with what bytes cost"
        assert cosine_errors(a.vector[None], b.vector[None])[0] < 4e-3


def test_small_models_agree_on_plain_kernels(golden, tiny_texts, pairs, compiled, monkeypatch):
    def results():
        yield BiEncoder(golden / "tiny-bert", compute="int8").encode(tiny_texts, truncation="silent")
        yield BiEncoder(golden / "tiny-bert-new", compute="int8").encode(tiny_texts, truncation="silent")
        yield CrossEncoder(golden / "tiny-cross-encoder", compute="int8").predict(pairs, truncation="silent")[:, None]

    fast = list(results())
    monkeypatch.setenv("MINIBI_KERNELS", "plain")
    for a, b in zip(fast, results(), strict=True):
        assert np.abs(a - b).max() < 0.02 * np.abs(a).max() and np.abs(a - b).mean() < 2e-3 * np.abs(a).max()


# --- arguments


@pytest.mark.parametrize("compute", ["int4", "float16", None, 8])
def test_other_ways_to_compute_are_refused(load, golden, compute):
    for kind, name in ((BiEncoder, "tiny-bert"), (CrossEncoder, "tiny-cross-encoder")):
        with pytest.raises(InputError, match="compute is 'float32' or 'int8', not"):
            load(kind, golden / name, compute=compute)


def test_models_say_how_they_compute(load, golden):
    assert load(BiEncoder, golden / "tiny-bert").compute == "float32"
    assert load(BiEncoder, golden / "tiny-bert", compute="int8").compute == "int8"
    assert load(CrossEncoder, golden / "tiny-cross-encoder", compute="int8").compute == "int8"


def test_a_pair_of_types_the_model_lacks_is_refused(load, golden, tmp_path):
    """A kernel would read beyond the table of types."""
    folder = shutil.copytree(golden / "tiny-cross-encoder", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "token_type" in name)
    save_file(tensors | {name: tensors[name][:1].copy()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"type_vocab_size": 1}))
    with pytest.raises(ModelError, match="the tokenizer gives pairs 2 types, the model has 1"):
        load(CrossEncoder, folder)
