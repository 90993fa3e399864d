"""BiEncoder as people use it: arguments, prompts, shapes, lengths, fingerprints, similarities."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from itertools import pairwise

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from minibi import BiEncoder
from minibi.errors import InputError, ModelError
from minibi.text.tokenizer import TruncationWarning

LONG = "everything that is stored can be found again " * 40


@pytest.fixture
def copy(golden, tmp_path):
    return lambda name: shutil.copytree(golden / name, tmp_path / name)


def change_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- what goes in, what comes out


def test_one_text_many_texts_no_text(tiny):
    one = tiny.encode("the quick brown fox")
    assert one.shape == (36,) and one.dtype == np.float32
    many = tiny.encode(["the quick brown fox", ""])
    assert many.shape == (2, 36) and many.flags.c_contiguous
    np.testing.assert_allclose(many[0], one, atol=1e-6)
    assert np.isfinite(many[1]).all() and np.abs(many[1]).max() > 0, "an empty text has a vector too"
    none = tiny.encode([])
    assert none.shape == (0, 36) and none.dtype == np.float32
    assert tiny.encode([], normalize_embeddings=True, truncate_dim=5).shape == (0, 5)
    assert tiny.encode([], output_value="token_embeddings") == []
    assert tiny.encode([], truncation="chunk").shape == (0, 36)


def test_any_sequence_of_strings(tiny):
    texts = ["the list", "a string", "Café"]
    expected = tiny.encode(texts)
    for given in (tuple(texts), np.array(texts), np.array(texts, object), iter(texts), dict.fromkeys(texts)):
        assert np.array_equal(tiny.encode(given), expected)
    assert tiny.encode(np.str_("the list")).shape == (36,)


NO_TEXTS = [None, 3, b"bytes", [None], ["a", 1], [["a"]], [b"bytes"], [("a", "b")], np.zeros(3), {"a"}]


@pytest.mark.parametrize("bad", NO_TEXTS)
def test_what_is_no_text(tiny, bad):
    for encode in (tiny.encode, tiny.encode_query, tiny.encode_document):
        with pytest.raises(InputError, match="string"):
            encode(bad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"output_value": "sentences"}, "output_value"),
        ({"output_value": None}, "output_value"),
        ({"truncation": "sometimes"}, "truncation"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1"),
        ({"batch_size": "8"}, "batch_size must be a whole number of at least 1"),
        ({"token_budget": 0}, "token_budget must be a whole number of at least 1"),
        ({"threads": 0}, "threads must be a whole number of at least 1"),
        ({"truncate_dim": 0}, "truncate_dim must be a whole number from 1 to 36"),
        ({"truncate_dim": 37}, "truncate_dim must be a whole number from 1 to 36"),
        ({"truncate_dim": 2.0}, "truncate_dim must be a whole number from 1 to 36"),
        ({"prompt": 3}, "prompt must be a string, not int"),
        ({"prompt_name": "none such"}, "no prompt is called 'none such'"),
    ],
)
def test_arguments_that_make_no_sense(tiny, options, message):
    with pytest.raises(InputError, match=message):
        tiny.encode(["a"], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_seq_length": "8"}, "max_length must be a whole number"),
        ({"max_seq_length": float("nan")}, "max_length must be a whole number"),
        ({"truncate_dim": "x"}, "truncate_dim must be a whole number from 1 to 36"),
        ({"prompts": 3}, "prompts must map names to strings"),
        ({"prompts": {"query": 3}}, "prompts must map names to strings"),
    ],
)
def test_settings_that_make_no_sense(load, golden, options, message):
    with pytest.raises(InputError, match=message):
        load(BiEncoder, golden / "tiny-bert", **options)


def test_awkward_texts(tiny):
    texts = ["", " ", "\0", "\ud83d", "\ud83d\ude00", "x" * 1_000_000, "[CLS] [SEP]", "字" * 3000]
    vectors = tiny.encode(texts, truncation="silent")
    assert np.isfinite(vectors).all()
    np.testing.assert_allclose(vectors[:4], vectors[[0, 0, 0, 0]], atol=1e-6)


def test_token_embeddings(tiny):
    states = tiny.encode(["the of", "a"], output_value="token_embeddings")
    assert [h.shape for h in states] == [(4, 36), (3, 36)]
    assert tiny.encode("the of", output_value="token_embeddings").shape == (4, 36)
    np.testing.assert_allclose(states[0].mean(0), tiny.encode("the of"), atol=1e-6)


def test_normalize_and_truncate(tiny, load, golden):
    whole = tiny.encode(["the of", "a"])
    short = tiny.encode(["the of", "a"], truncate_dim=10)
    assert short.shape == (2, 10) and short.flags.c_contiguous and np.array_equal(short, whole[:, :10])
    unit = tiny.encode(["the of", "a"], truncate_dim=10, normalize_embeddings=True)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(unit, short / np.linalg.norm(short, axis=1, keepdims=True), rtol=1e-5)
    fixed = load(BiEncoder, golden / "tiny-bert", truncate_dim=10)
    assert fixed.dim == fixed.get_sentence_embedding_dimension() == 10
    assert np.array_equal(fixed.encode(["the of", "a"]), short)
    assert fixed.encode("a", truncate_dim=7).shape == (7,)
    assert fixed.study("a").vector.shape == (10,)
    for bad in (0, -1, 37):
        with pytest.raises(InputError, match="truncate_dim"):
            load(BiEncoder, golden / "tiny-bert", truncate_dim=bad)


def test_names_of_things(tiny, golden, load):
    assert repr(tiny) == "BiEncoder('tiny-bert', dim=36, max_seq_length=48)"
    assert tiny.name == "tiny-bert" and tiny.folder == golden / "tiny-bert"
    assert load(BiEncoder, "sentence-transformers/all-MiniLM-L6-v2").dim == 384


def test_progress_bar(tiny, capsys):
    tiny.encode(["the of"] * 5, show_progress_bar=False)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    tiny.encode(["the of"] * 5, show_progress_bar=True)
    assert capsys.readouterr().out == "", "never on standard output"


# --- long texts


def test_truncation_is_reported(tiny):
    with pytest.warns(TruncationWarning, match="^1 of the texts .*exceed 48 tokens and were cut") as caught:
        cut = tiny.encode(["a", LONG])
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(tiny.encode(["a", LONG], truncation="silent"), cut)
        with pytest.raises(InputError, match="exceed 48 tokens"):
            tiny.encode(["a", LONG], truncation="raise")
        tiny.encode(["a"], truncation="raise")


def test_chunks(tiny):
    short = ["a list", ""]
    np.testing.assert_allclose(tiny.encode(short, truncation="chunk"), tiny.encode(short), atol=1e-6)
    (pieces,) = tiny.tokenizer.encode_chunks([LONG])
    assert len(pieces) > 3
    read = [tiny.tokenizer.tokens(piece[1:-1]) for piece in pieces]
    states = tiny.encode(LONG, truncation="chunk", output_value="token_embeddings")
    assert states.shape == (sum(len(r) + 2 for r in read), 36)
    vectors, at = [], 0
    for piece in pieces:
        vectors.append(states[at : at + len(piece)].mean(0))
        at += len(piece)
    weights = np.array([len(piece) for piece in pieces], np.float64)
    mean = (np.array(vectors) * weights[:, None]).sum(0)
    length = (np.linalg.norm(vectors, axis=1) * weights).sum() / weights.sum()
    expected = mean / np.linalg.norm(mean) * length
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = tiny.encode(["a", LONG, "b"], truncation="chunk")
    np.testing.assert_allclose(found[1], expected, atol=1e-5)
    np.testing.assert_allclose(found[[0, 2]], tiny.encode(["a", "b"]), atol=1e-6)


def test_chunks_of_a_normalizing_model_are_normalized(tiny_new):
    found = tiny_new.encode([LONG, "a"], truncation="chunk")
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_max_seq_length(load, golden, tiny):
    longer = load(BiEncoder, golden / "tiny-bert", max_seq_length=64)
    text = "the " * 62
    assert longer.encode(text, output_value="token_embeddings", truncation="raise").shape == (64, 36)
    assert np.abs(longer.encode(text) - tiny.encode(text, truncation="silent")).max() > 1e-4


# --- prompts


def test_prompts(tiny_new):
    assert tiny_new.prompts == {"query": "query: ", "document": "passage: "}
    bare = tiny_new.encode("the list")
    query, document = tiny_new.encode_query("the list"), tiny_new.encode_document("the list")
    np.testing.assert_allclose(query, tiny_new.encode("query: the list"), atol=1e-6)
    np.testing.assert_allclose(document, tiny_new.encode("passage: the list"), atol=1e-6)
    np.testing.assert_allclose(query, tiny_new.encode("the list", prompt_name="query"), atol=1e-6)
    np.testing.assert_allclose(query, tiny_new.encode("the list", prompt="query: "), atol=1e-6)
    np.testing.assert_allclose(query, tiny_new.encode("the list", prompt_name="document", prompt="query: "), atol=1e-6)
    np.testing.assert_allclose(bare, tiny_new.encode_query("the list", prompt=""), atol=1e-6)
    assert min(np.abs(bare - query).max(), np.abs(query - document).max()) > 1e-3
    assert tiny_new.document_prompt == "passage: "
    assert tiny_new.encode_query(["a", "b"], truncate_dim=4).shape == (2, 4)


def test_prompts_of_ones_own(load, golden):
    folder = golden / "tiny-bert-new"
    bare = load(BiEncoder, folder, prompts={})
    assert bare.prompts == {} and bare.document_prompt == ""
    np.testing.assert_allclose(bare.encode_query("the"), bare.encode("the"), atol=1e-6)
    with pytest.raises(InputError, match=r"no prompt is called 'query': this model has \[\]"):
        bare.encode("the", prompt_name="query")
    mine = load(BiEncoder, folder, prompts={"ask": "how ", "passage": "it is "}, default_prompt_name="ask")
    np.testing.assert_allclose(mine.encode("the"), bare.encode("how the"), atol=1e-6)
    np.testing.assert_allclose(mine.encode_query("the"), bare.encode("how the"), atol=1e-6)
    np.testing.assert_allclose(mine.encode_document("the"), bare.encode("it is the"), atol=1e-6)
    np.testing.assert_allclose(mine.encode("the", prompt=""), bare.encode("the"), atol=1e-6)


def test_default_prompt_of_the_folder(load, copy):
    folder = copy("tiny-bert-new")
    change_json(folder / "config_sentence_transformers.json", default_prompt_name="document")
    model, bare = load(BiEncoder, folder), load(BiEncoder, folder, prompts={})
    np.testing.assert_allclose(model.encode("the"), bare.encode("passage: the"), atol=1e-6)
    np.testing.assert_allclose(model.encode_query("the"), bare.encode("query: the"), atol=1e-6)
    assert bare.default_prompt_name is None, "the folder's default goes with the folder's prompts"
    change_json(folder / "config_sentence_transformers.json", default_prompt_name="none such")
    with pytest.raises(InputError, match="no prompt is called 'none such'"):
        load(BiEncoder, folder)


def test_a_model_without_prompts(tiny):
    assert tiny.prompts == {} and tiny.document_prompt == ""
    np.testing.assert_allclose(tiny.encode_query("the"), tiny.encode("the"), atol=1e-6)


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_pooling_without_the_prompt(load, copy, mode):
    """sentence-transformers masks the prompt's tokens and [CLS], and keeps the others' weights by position."""
    folder = copy("tiny-bert")
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode, "include_prompt": False}))
    model = load(BiEncoder, folder)
    prompt, text = "query: ", "the list"
    skip = 1 + len(model.tokenizer.bare([prompt])[0])
    h = model.encode(prompt + text, output_value="token_embeddings").astype(np.float64)
    rest, places = h[skip:], np.arange(skip + 1, len(h) + 1)
    expected = {
        "cls": rest[0],
        "max": rest.max(0),
        "mean": rest.mean(0),
        "mean_sqrt_len_tokens": rest.sum(0) / np.sqrt(len(rest)),
        "weightedmean": (rest * places[:, None]).sum(0) / places.sum(),
        "lasttoken": rest[-1],
    }[mode]
    np.testing.assert_allclose(model.encode(text, prompt=prompt), expected, atol=1e-5)
    with_prompt = load(BiEncoder, shutil.copytree(folder, folder.parent / "with"))
    change_json(with_prompt.folder / "1_Pooling" / "config.json", include_prompt=True)
    with_prompt = load(BiEncoder, with_prompt.folder)
    np.testing.assert_allclose(model.encode(text), with_prompt.encode(text), atol=1e-6)


def test_chunks_each_begin_with_the_prompt_and_pool_without_it(load, copy):
    folder = copy("tiny-bert")
    change_json(folder / "1_Pooling" / "config.json", include_prompt=False)
    model = load(BiEncoder, folder)
    (pieces,) = model.tokenizer.encode_chunks([LONG], "query: ")
    states = model.encode(LONG, prompt="query: ", truncation="chunk", output_value="token_embeddings")
    skip = 1 + len(model.tokenizer.bare(["query: "])[0])
    bounds = np.cumsum([0, *map(len, pieces)])
    vectors = np.array([states[a + skip : b].mean(0) for a, b in pairwise(bounds)])
    weights = np.diff(bounds)[:, None]
    mean = (vectors * weights).sum(0)
    length = (np.linalg.norm(vectors, axis=1) * weights[:, 0]).sum() / weights.sum()
    found = model.encode(LONG, prompt="query: ", truncation="chunk")
    np.testing.assert_allclose(found, mean / np.linalg.norm(mean) * length, atol=1e-5)


# --- fingerprints


def test_fingerprint_is_the_same_for_the_same_model(load, golden, copy, tiny_new):
    again = load(BiEncoder, golden / "tiny-bert-new")
    moved = load(BiEncoder, copy("tiny-bert-new"))
    assert tiny_new.fingerprint == again.fingerprint == moved.fingerprint, "where a folder lies does not matter"
    moved.encode(["a"])
    assert moved.fingerprint == again.fingerprint
    (moved.folder / "README.md").write_text("changed")
    assert load(BiEncoder, moved.folder).fingerprint == again.fingerprint


@pytest.mark.parametrize(
    "options",
    [
        {"compute": "int8"},
        {"max_seq_length": 32},
        {"truncate_dim": 8},
        {"prompts": {}},
        {"prompts": {"query": "query: ", "document": "passage:"}},
        {"default_prompt_name": "query"},
    ],
    ids=str,
)
def test_fingerprint_follows_the_settings(load, golden, tiny_new, options):
    assert load(BiEncoder, golden / "tiny-bert-new", **options).fingerprint != tiny_new.fingerprint


def test_fingerprint_follows_a_change_of_mind(load, golden):
    model = load(BiEncoder, golden / "tiny-bert-new")
    before = model.fingerprint
    model.prompts["document"] = "doc: "
    assert model.fingerprint != before


@pytest.mark.parametrize(
    "file",
    [
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "modules.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
    ],
)
def test_fingerprint_follows_the_files(load, copy, tiny_new, file):
    folder = copy("tiny-bert-new")
    if file.endswith(".safetensors"):
        content = bytearray((folder / file).read_bytes())
        content[-3] ^= 1
        (folder / file).write_bytes(content)
    else:
        (folder / file).write_text((folder / file).read_text() + "\n")
    assert load(BiEncoder, folder).fingerprint != tiny_new.fingerprint


def test_fingerprint_follows_the_dense_weights_and_the_activation(load, copy, tiny_new):
    folder = copy("tiny-bert-new")
    dense = {n: np.array(t) for n, t in load_file(folder / "2_Dense" / "model.safetensors").items()}
    dense["linear.bias"][0] += 1
    save_file(dense, folder / "2_Dense" / "model.safetensors")
    changed = load(BiEncoder, folder).fingerprint
    assert changed != tiny_new.fingerprint
    change_json(folder / "config.json", hidden_act="gelu")  # same weights, other vectors
    assert load(BiEncoder, folder).fingerprint != changed


# --- similarity

TRUTH = {
    "cosine": lambda x, y: (x @ y.T) / np.linalg.norm(x, axis=1)[:, None] / np.linalg.norm(y, axis=1),
    "dot": lambda x, y: x @ y.T,
    "euclidean": lambda x, y: -np.linalg.norm(x[:, None] - y[None], axis=2),
    "manhattan": lambda x, y: -np.abs(x[:, None] - y[None]).sum(2),
}


@pytest.mark.parametrize("name", [None, *TRUTH])
def test_similarity(load, copy, name):
    folder = copy("tiny-bert")
    change_json(folder / "config_sentence_transformers.json", similarity_fn_name=name)
    model = load(BiEncoder, folder)
    assert model.similarity_fn_name == (name or "cosine")
    x, y = np.random.default_rng(0).standard_normal((2, 4, 36))
    expected = TRUTH[name or "cosine"](x, y[:3])
    np.testing.assert_allclose(model.similarity(x, y[:3]), expected, rtol=1e-4, atol=1e-5)
    assert model.similarity(x[0], y).shape == (1, 4) and model.similarity([1.0, 2], [[3, 4], [5, 6]]).shape == (1, 2)
    np.testing.assert_allclose(
        np.diag(model.similarity(x, x)), np.diag(TRUTH[name or "cosine"](x, x)), rtol=1e-5, atol=1e-5
    )


def test_similarity_of_strange_things(tiny, load, copy):
    assert np.array_equal(tiny.similarity(np.zeros(3), np.ones(3)), [[0]]), "a zero vector is like nothing"
    with pytest.raises(InputError, match="2 dimensions, expected 3"):
        tiny.similarity(np.ones(3), np.ones(2))
    with pytest.raises(InputError, match="finite"):
        tiny.similarity([np.nan], [1.0])
    folder = copy("tiny-bert")
    change_json(folder / "config_sentence_transformers.json", similarity_fn_name="hamming")
    with pytest.raises(ModelError, match="'hamming' is not one of"):
        load(BiEncoder, folder).similarity([1.0], [1.0])


# --- MINIBI_KERNELS


def environment(**more):
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **more}


def test_plain_kernels_never_import_numba_and_agree(golden, tiny_texts, tmp_path, compiled):
    code = (
        "import json, sys, numpy as np\n"
        "from minibi import BiEncoder, CrossEncoder\n"
        f"model = BiEncoder({str(golden / 'tiny-bert')!r})\n"
        "vectors = model.encode(json.load(sys.stdin), truncation='silent')\n"
        f"CrossEncoder({str(golden / 'tiny-cross-encoder')!r}).predict([('a', 'b')])\n"
        "assert not {'numba', 'llvmlite'} & set(sys.modules)\n"
        f"np.save({str(tmp_path / 'vectors.npy')!r}, vectors)\n"
    )
    env = environment(MINIBI_KERNELS="plain", MINIBI_CACHE=str(tmp_path / "cache"))
    subprocess.run([sys.executable, "-c", code], input=json.dumps(tiny_texts), env=env, text=True, check=True)
    assert not (tmp_path / "cache").exists(), "nothing is written where nothing is compiled"
    fused = BiEncoder(golden / "tiny-bert").encode(tiny_texts, truncation="silent")
    assert 0 < np.abs(np.load(tmp_path / "vectors.npy") - fused).max() < 1e-5


def test_unknown_kernels_are_refused(monkeypatch, golden):
    monkeypatch.setenv("MINIBI_KERNELS", "fast")
    with pytest.raises(InputError, match="MINIBI_KERNELS='fast' is not understood"):
        BiEncoder(golden / "tiny-bert")
