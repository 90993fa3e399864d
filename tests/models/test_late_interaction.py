"""Late interaction: vectors as PyLate gives them, the same bits in any batch, markers, expansion and skip-list."""

from __future__ import annotations

import json
import shutil
import string
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi import LateInteraction
from minibi.errors import InputError, ModelError
from minibi.models.late_interaction import FirstKeys
from minibi.nn import plain
from minibi.ragged import Ragged
from minibi.text.tokenizer import TruncationWarning

RUNS = {  # name in late.safetensors: folder, options
    "colbert": ("tiny-colbert", {}),
    "pylate": ("tiny-pylate", {}),
    "unseen": ("tiny-pylate", {"attend_to_expansion_tokens": False}),
    "bare": ("tiny-pylate", {"do_query_expansion": False}),
}
SILENT = {"truncation": "silent"}


@pytest.fixture(scope="module")
def late_texts(golden) -> list[str]:
    return json.loads((golden / "late.json").read_text())


@pytest.fixture(scope="module")
def models(load, golden):
    return {name: load(LateInteraction, golden / folder, **options) for name, (folder, options) in RUNS.items()}


@pytest.fixture
def folder(golden, tmp_path):
    """folder("tiny-pylate"): a copy to tamper with."""

    def copied(name):
        return shutil.copytree(golden / name, tmp_path / name)

    return copied


def edit(path, **changes):
    raw = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in raw.items() if v is not None}))


@pytest.mark.parametrize("kind", ["query", "document"])
@pytest.mark.parametrize("name", RUNS)
def test_as_pylate(models, late_texts, golden_arrays, name, kind):
    arrays = golden_arrays("late")
    model = models[name]
    found = getattr(model, f"encode_{kind}")(late_texts, **SILENT)
    assert isinstance(found, Ragged) and len(found) == len(late_texts) and found.dim == model.dim == 20
    assert (found.starts == arrays[f"{name}_{kind}_starts"]).all()
    assert np.abs(found.vectors - arrays[f"{name}_{kind}"]).max() < 1e-5
    assert np.linalg.norm(found.vectors, axis=1) == pytest.approx(1, abs=1e-6)


def test_pooling_as_pylate(models, late_texts, golden_arrays):
    expected = golden_arrays("late")["pooled"]
    expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    found = models["colbert"].encode_document(late_texts[7], pool_factor=3, **SILENT)
    assert found.shape == expected.shape
    ours, theirs = (sorted(np.round(m.astype(np.float64), 4).tolist()) for m in (found, expected))
    assert np.abs(np.array(ours) - np.array(theirs)).max() < 2e-4, "the same clusters, in another order"


def test_the_same_bits_in_any_batch(models, late_texts, kernels):
    if kernels == "plain":
        pytest.skip("BLAS makes no such promise")
    for name in ("colbert", "pylate", "bare"):
        model = models[name]
        for encode in (model.encode_query, model.encode_document):
            alone = [encode(text, **SILENT).tobytes() for text in late_texts]
            for options in ({}, {"batch_size": 2}, {"token_budget": 16, "threads": 3}):
                assert [m.tobytes() for m in encode(late_texts, **SILENT, **options)] == alone
            backwards = encode(late_texts[::-1], **SILENT)
            assert [m.tobytes() for m in backwards][::-1] == alone


def test_what_gets_a_vector(models):
    model = models["colbert"]
    text = "hello, the list!"
    assert [t for t in model.tokens(text) if t in string.punctuation] == []
    assert model.tokens(text)[:2] == ["[CLS]", "[unused1]"]
    query = model.tokens(text, is_query=True)
    assert query[:2] == ["[CLS]", "[unused0]"] and len(query) == 16 and query[-1] == "[MASK]" and "," in query
    assert len(model.encode_document(text)) == len(model.tokens(text))
    assert len(models["bare"].encode_query("a")) == 4  # [CLS] [Q] a [SEP]


def test_attending_changes_the_words_and_expansion_does_not_when_unseen(models):
    seen, unseen, bare = (models[n].encode_query("the quick fox") for n in ("pylate", "unseen", "bare"))
    n = len(bare)
    assert len(seen) == len(unseen) == 12
    assert np.abs(unseen[:n] - bare).max() < 1e-6
    assert np.abs(seen[:n] - bare).max() > 1e-3


@settings(max_examples=30)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    data=st.data(),
)
def test_first_keys_is_masked_attention(lengths, data):
    words = np.array([data.draw(st.integers(1, n)) for n in lengths])
    starts = np.cumsum([0, *lengths])
    q, k, v = np.random.default_rng(sum(lengths)).normal(size=(3, starts[-1], 2, 4)).astype(np.float32)
    found = FirstKeys(plain, starts, words).attend(q, k, v, starts)
    for (a, b), n in zip(pairwise(starts), words, strict=True):
        scores = np.einsum("ihd,jhd->hij", q[a:b], k[a : a + n]) / 2
        p = np.exp(scores) / np.exp(scores).sum(axis=2, keepdims=True)
        expected = np.einsum("hij,jhd->ihd", p, v[a : a + n]).reshape(b - a, -1)
        assert found[a:b] == pytest.approx(expected, abs=1e-5)


def test_bundled_bi_encoder_serves(load, minilm):
    model = load(LateInteraction, "all-MiniLM-L6-v2")
    assert model.dim == 384 and model.settings.query_length == 256 and not model.settings.do_query_expansion
    text = "Cats, they say, purr."
    states = minilm.encode(text, output_value="token_embeddings")
    kept = [i for i, t in enumerate(minilm.study(text).tokens) if t not in string.punctuation]
    expected = states[kept] / np.linalg.norm(states[kept], axis=1, keepdims=True)
    assert model.encode_document(text) == pytest.approx(expected, abs=1e-6)
    assert len(model.encode_query(text)) == len(states)
    ranked = model.rank("do cats purr?", ["Stocks fell sharply.", text], return_documents=True)
    assert [hit["corpus_id"] for hit in ranked] == [1, 0] and ranked[0]["text"] == text
    scores = model.similarity(model.encode_query(["do cats purr?"]), model.encode_document(["Stocks fell.", text]))
    assert scores.shape == (1, 2) and scores[0, 1] == pytest.approx(ranked[0]["score"])


def test_int8_is_near(golden, late_texts, compiled):
    exact, fast = (LateInteraction(golden / "tiny-colbert", compute=c) for c in ("float32", "int8"))
    a, b = (m.encode_document(late_texts, **SILENT).vectors for m in (exact, fast))
    assert (a * b).sum(axis=1).mean() > 0.98


def test_one_text_none_and_nonsense(models):
    model = models["colbert"]
    matrix = model.encode_query("hello")
    assert matrix.shape == (16, 20) and matrix.dtype == np.float32
    assert len(model.encode_document([])) == 0 and model.encode_document([]).vectors.shape == (0, 20)
    assert model.rank("hello", []) == []
    for wrong in (lambda: model.encode_query(3), lambda: model.encode_document(["a", None])):
        with pytest.raises(InputError):
            wrong()
    with pytest.raises(InputError, match="chunk"):
        model.encode_document("a", truncation="chunk")
    with pytest.raises(InputError, match="pool_factor"):
        model.encode_document("a", pool_factor=0)
    with pytest.raises(InputError, match="top_k"):
        model.rank("a", ["b"], top_k=0)
    with pytest.raises(InputError, match="one query"):
        model.rank(["a", "b"], ["b"])
    with pytest.raises(InputError, match="exceed"):
        model.encode_document("a b " * 60, truncation="raise")
    with pytest.warns(TruncationWarning):
        model.encode_query("a b " * 60)


def test_options_override_the_folder(golden):
    options = {"query_length": 20, "document_length": 8, "skiplist_words": ["a"]}
    model = LateInteraction(golden / "tiny-pylate", **options)
    assert len(model.encode_query("a fox")) == 20
    assert len(model.encode_document("x y z x y z x y z", truncation="silent")) == 8
    assert "a" not in model.tokens("a fox") and "the" in model.tokens("the fox")
    assert model.fingerprint != LateInteraction(golden / "tiny-pylate").fingerprint
    assert model.fingerprint != LateInteraction(golden / "tiny-pylate", **options, compute="int8").fingerprint
    assert "query_length=20" in repr(model)


def test_refused_folders(folder, golden):
    place = folder("tiny-pylate")
    config = place / "config_sentence_transformers.json"
    for changes, words in [
        ({"query_prefix": "[none]"}, "no token"),
        ({"query_length": 2}, "at least 4"),
        ({"query_length": "12"}, "whole number"),
        ({"document_prefix": 7}, "must be a token"),
        ({"skiplist_words": [1]}, "list of words"),
        ({"prompts": {"query": "find: "}}, "prompts"),
    ]:
        before = config.read_text()
        edit(config, **changes)
        with pytest.raises(ModelError, match=words):
            LateInteraction(place)
        config.write_text(before)
    modules = place / "modules.json"
    entries = json.loads(modules.read_text())
    for i, change, words in [
        (1, {"type": "elsewhere.models.Dense"}, "not supported"),
        (1, {"type": "pylate.models.Other"}, "Transformer and Dense"),
        (0, {"type": "pylate.models.Dense.Dense"}, "first module"),
        (1, {"path": "../.."}, "outside"),
    ]:
        modules.write_text(json.dumps([e | (change if j == i else {}) for j, e in enumerate(entries)]))
        with pytest.raises(ModelError, match=words):
            LateInteraction(place)
    for length, words in ((65, "exceeds"), (0, "at least 4")):
        with pytest.raises(ModelError, match=words):
            LateInteraction(golden / "tiny-colbert", query_length=length)
    for options in ({"skiplist_words": "ab"}, {"skiplist_words": 3}, {"query_length": "12"}):
        with pytest.raises(ModelError, match=r"must be a list of words, not|must be a whole number"):
            LateInteraction(golden / "tiny-colbert", **options)


def test_colbert_metadata(folder):
    place = folder("tiny-colbert")
    edit(place / "artifact.metadata", mask_punctuation=False, query_maxlen=9, attend_to_mask_tokens=True)
    model = LateInteraction(place)
    assert "," in model.tokens("a, b") and model.settings.query_length == 9
    assert model.settings.attend_to_expansion_tokens
    edit(place / "artifact.metadata", similarity="l2")
    with pytest.raises(ModelError, match="similarity"):
        LateInteraction(place)
    (place / "artifact.metadata").unlink()
    assert LateInteraction(place).settings.query_length == 32
    (place / "artifact.metadata").write_text("{")
    with pytest.raises(ModelError, match="JSON"):
        LateInteraction(place)
