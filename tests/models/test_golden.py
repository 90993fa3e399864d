"""The models say what torch and sentence-transformers say, on plain NumPy and on compiled kernels alike."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minibi.models import bert
from minibi.nn import plain
from minibi.store.tensors import read_weights
from minibi.text.batches import pack


def cosines(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def minilm_vectors(minilm, texts, kernels, deep):
    """(which texts, their vectors): all 200; NumPy's erf is slow, so the plain verbs read every seventh by default."""
    which = np.arange(0, 200, 1 if kernels == "fused" or deep else 7)
    return which, minilm.encode([texts[i] for i in which], truncation="silent")


def test_embeddings_with_the_same_weights(minilm_vectors, golden_arrays):
    which, vectors = minilm_vectors
    assert vectors.dtype == np.float32 and vectors.shape == (len(which), 384)
    assert np.abs(vectors - golden_arrays("minilm")["embeddings_rounded"][which]).max() <= 1e-6


def test_embeddings_against_the_published_float32_weights(minilm_vectors, golden_arrays):
    which, vectors = minilm_vectors
    truth = golden_arrays("minilm")["embeddings_original"][which]
    assert cosines(vectors, truth).min() >= 0.999999
    assert np.abs(vectors - truth).max() <= 2e-4


def test_every_layer_and_attention_map(minilm, texts, golden_arrays):
    arrays = golden_arrays("minilm")
    (studied,) = arrays["states_text"]
    insight = minilm.study(texts[studied])
    assert insight.tokens[0] == "[CLS]" and insight.tokens[-1] == "[SEP]" and len(insight.tokens) == 14
    assert len(insight.states) == 7 and len(insight.attention) == 6
    for found, truth in zip(insight.states, arrays["states"], strict=True):
        assert np.abs(found - truth).max() < 1e-5
    for (found,), truth in zip(insight.attention, arrays["attention"], strict=True):
        assert found.shape == (12, 14, 14) and np.abs(found - truth).max() < 2e-6
    assert np.array_equal(insight.vector, minilm.encode(texts[studied]))


def test_states_agree_with_float64(texts, golden_arrays, minilm):
    """The plain verbs in float64 settle who is right: minibi is no further from them than 1e-6."""

    class Double:
        matrix = staticmethod(lambda w: np.asarray(w, np.float64).T)
        vector = staticmethod(lambda x: np.asarray(x, np.float64))
        embed = staticmethod(
            lambda ids, types, at, word, position, kinds, *norm: plain.layer_norm(
                word[ids].astype(np.float64) + position[at].astype(np.float64) + kinds[types], *norm
            )
        )

        def __getattr__(self, name):
            return getattr(plain, name)

    params = bert.read_params(bert.canonical(read_weights(minilm.folder)), minilm.config, Double())
    for text in texts[:4]:
        batch = pack(minilm.tokenizer.encode([text]))
        mean = bert.forward(Double(), params, minilm.config, batch).mean(0)
        exact = mean / np.linalg.norm(mean)
        assert exact.dtype == np.float64
        assert np.abs(minilm.encode(text) - exact).max() < 1e-6


# --- small models of awkward sizes


def test_tiny_token_embeddings(tiny, tiny_texts, golden_arrays):
    arrays = golden_arrays("tiny")
    found = tiny.encode(tiny_texts, output_value="token_embeddings", truncation="silent")
    assert [len(h) for h in found] == np.diff(arrays["starts"]).tolist()
    assert np.abs(np.concatenate(found) - arrays["token_embeddings"]).max() < 1e-5


def test_tiny_embeddings(tiny, tiny_texts, golden_arrays):
    found = tiny.encode(tiny_texts, truncation="silent")
    assert np.abs(found - golden_arrays("tiny")["embeddings"]).max() < 5e-6
    assert np.ptp(np.linalg.norm(found, axis=1)) > 0.1, "this model does not normalize"


@pytest.mark.parametrize("verb", ["encode", "encode_query", "encode_document"])
def test_tiny_new(tiny_new, verb, tiny_texts, golden_arrays):
    """Dense, tanh, Normalize, prompts, gelu_new, eps 1e-3, three dtypes in one file."""
    arrays = golden_arrays("tiny")
    found = getattr(tiny_new, verb)(tiny_texts, truncation="silent")
    assert found.shape == (24, 20)
    assert np.abs(found - arrays[f"new_{verb}"]).max() < 2e-6
    prompt = {"encode": "", "encode_query": "query: ", "encode_document": "passage: "}[verb]
    ids = tiny_new.tokenizer.encode([prompt + text for text in tiny_texts], "silent")
    assert np.concatenate(ids).tolist() == arrays[f"new_{verb}_ids"].tolist()


# --- cross-encoders


@pytest.fixture(scope="module")
def pairs(golden):
    return json.loads((golden / "cross_encoder.json").read_text())


def test_cross_encoder(cross, pairs):
    truth = pairs["tiny-cross-encoder"]
    logits = cross.predict(pairs["pairs"], truncation="silent")
    assert logits.shape == (36,) and logits.dtype == np.float32
    assert np.abs(logits - truth["logits"]).max() < 2e-5
    scores = cross.predict(pairs["pairs"], truncation="silent", activation="sigmoid")
    assert np.abs(scores - truth["scores"]).max() < 1e-6


def test_cross_encoder_with_three_labels(cross_3, pairs):
    truth = pairs["tiny-cross-encoder-3"]
    logits = cross_3.predict(pairs["pairs"], truncation="silent")
    assert logits.shape == (36, 3)
    assert np.abs(logits - truth["logits"]).max() < 2e-5

    def softmax(x):
        return np.exp(x) / np.exp(x).sum(1, keepdims=True)

    scores = cross_3.predict(pairs["pairs"], truncation="silent", activation=softmax)
    assert np.abs(scores - truth["scores"]).max() < 1e-5
