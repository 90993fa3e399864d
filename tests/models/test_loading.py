"""Model folders: what is read faithfully, and what is refused by name rather than read wrongly."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import WEIGHTS, change_json, change_weights, move_transformer
from safetensors.numpy import load_file, save_file

from minibi import BiEncoder, CrossEncoder
from minibi.errors import ModelError
from minibi.models import bert


@pytest.fixture
def copy(golden, tmp_path):
    """copy("tiny-bert") is a copy of that folder, to be changed."""
    return lambda name: shutil.copytree(golden / name, tmp_path / name)


# --- the same model, stored otherwise


@pytest.fixture(scope="module")
def usual(tiny, tiny_texts):
    return tiny.encode(tiny_texts, truncation="silent")


def same(load, folder, usual, tiny_texts):
    return np.array_equal(load(BiEncoder, folder).encode(tiny_texts, truncation="silent"), usual)


def test_prefix_and_old_names(load, copy, usual, tiny_texts):
    folder = copy("tiny-bert")

    def rename(tensors):
        old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        out = {}
        for name, tensor in tensors.items():
            for new, was in old.items():
                name = name.replace(new, was)
            out["bert." + name] = tensor
        assert any("gamma" in name for name in out)
        return out | {"cls.predictions.bias": np.zeros(3, np.float32)}  # left over from training: not looked at

    change_weights(folder, rename)
    assert same(load, folder, usual, tiny_texts)


def test_shards(load, copy, usual, tiny_texts):
    folder = copy("tiny-bert")
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    where = {name: f"model-0000{i % 3 + 1}-of-00003.safetensors" for i, name in enumerate(tensors)}
    for file in set(where.values()):
        save_file({name: tensors[name] for name in tensors if where[name] == file}, folder / file)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": where}))
    assert same(load, folder, usual, tiny_texts)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00003.* does not exist"):
        load(BiEncoder, folder)


@pytest.mark.parametrize("index", ["[]", "{}", "no json", '{"weight_map": 3}', '{"weight_map": {"a": 5}}'])
def test_a_damaged_shard_index(load, copy, index):
    folder = copy("tiny-bert")
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(index)
    with pytest.raises(ModelError, match="not a list of weight shards"):
        load(BiEncoder, folder)


def test_shards_stay_in_their_folder(load, copy):
    folder = copy("tiny-bert")
    shutil.move(folder / WEIGHTS, folder.parent / WEIGHTS)
    (folder / f"{WEIGHTS}.index.json").write_text('{"weight_map": {"a": "../model.safetensors"}}')
    with pytest.raises(ModelError, match="outside its folder"):
        load(BiEncoder, folder)


def test_transformer_in_a_folder_of_its_own(load, copy, usual, tiny_texts):
    folder = copy("tiny-bert")
    move_transformer(folder)
    assert same(load, folder, usual, tiny_texts)


def test_half_and_double_precision(load, copy, usual, tiny_texts):
    for kind, tolerance in ((np.float64, 0), (np.float16, 2e-2)):
        folder = copy("tiny-bert")
        change_weights(folder, lambda tensors: {n: t.astype(kind) for n, t in tensors.items()})  # noqa: B023
        found = load(BiEncoder, folder).encode(tiny_texts, truncation="silent")
        assert np.abs(found - usual).max() <= tolerance
        shutil.rmtree(folder)


def test_without_modules_json_mean_pooling_is_assumed_aloud(load, copy, usual, tiny_texts):
    folder = copy("tiny-bert")
    (folder / "modules.json").unlink()
    with pytest.warns(UserWarning, match="no modules.json: mean pooling is assumed"):
        assert same(load, folder, usual, tiny_texts)


@pytest.mark.parametrize("dialect", ["sentence_transformers.models", "sentence_transformers.base.modules.any.thing"])
def test_module_names_of_any_version(load, copy, usual, tiny_texts, dialect):
    folder = copy("tiny-bert")
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize")]  # the last has no folder
    entries = [{"idx": i, "path": path, "type": f"{dialect}.{kind}"} for i, (path, kind) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(entries))
    found = load(BiEncoder, folder).encode(tiny_texts, truncation="silent")
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found, usual / np.linalg.norm(usual, axis=1, keepdims=True), atol=1e-6)


# --- the limit


def test_length_limit(load, copy, golden):
    assert load(BiEncoder, golden / "tiny-bert").max_seq_length == 48
    assert load(BiEncoder, golden / "tiny-bert-new").max_seq_length == 64
    assert load(BiEncoder, golden / "tiny-bert", max_seq_length=60).max_seq_length == 60
    folder = copy("tiny-bert-new")
    change_json(folder / "tokenizer_config.json", model_max_length=512)
    assert load(BiEncoder, folder).max_seq_length == 64, "the position table is the last word"
    change_json(folder / "tokenizer_config.json", model_max_length=10**30)
    assert load(BiEncoder, folder).max_seq_length == 64
    (folder / "tokenizer_config.json").unlink()
    assert load(BiEncoder, folder).max_seq_length == 64
    with pytest.raises(ModelError, match="exceeds the model's 64 positions"):
        load(BiEncoder, folder, max_seq_length=65)
    for bad in (0, -5, 3):
        with pytest.raises(ModelError, match="no room"):
            load(BiEncoder, folder, max_seq_length=bad)


# --- capitals


def test_lower_case_is_obeyed_or_refused(load, copy, usual, tiny_texts):
    folder = copy("tiny-bert")
    change_json(folder / "sentence_bert_config.json", do_lower_case=True)
    assert same(load, folder, usual, tiny_texts), "this tokenizer does so anyway"
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    assert tokenizer["normalizer"]["lowercase"] is True
    change_json(folder / "tokenizer.json", normalizer=tokenizer["normalizer"] | {"lowercase": False})
    with pytest.raises(ModelError, match="do_lower_case is not supported where"):
        load(BiEncoder, folder)
    change_json(folder / "sentence_bert_config.json", do_lower_case=False)
    load(BiEncoder, folder)


# --- refused: weights


def test_a_missing_tensor(load, copy):
    folder = copy("tiny-bert")
    change_weights(folder, lambda tensors: tensors.pop("encoder.layer.1.output.dense.bias") is None)
    with pytest.raises(ModelError, match=r"the weights lack 'encoder\.layer\.1\.output\.dense\.bias'"):
        load(BiEncoder, folder)


def test_a_tensor_of_another_shape(load, copy):
    folder = copy("tiny-bert")
    name = "encoder.layer.0.intermediate.dense.weight"
    change_weights(folder, lambda tensors: tensors.update({name: tensors[name].T.copy()}))
    with pytest.raises(
        ModelError, match=r"intermediate\.dense\.weight has shape \[36, 72\], the config says \[72, 36\]"
    ):
        load(BiEncoder, folder)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_weight_that_is_no_number(load, copy, bad):
    folder = copy("tiny-bert")

    def spoil(tensors):
        tensors["embeddings.word_embeddings.weight"][17, 3] = bad

    change_weights(folder, spoil)
    with pytest.raises(ModelError, match=r"word_embeddings.weight holds NaN or infinity"):
        load(BiEncoder, folder)


def test_quantized_weights(load, copy):
    folder = copy("tiny-bert")
    name = "encoder.layer.0.output.dense.weight"
    change_weights(folder, lambda tensors: tensors.update({name: (tensors[name] * 50).astype(np.int8)}))
    with pytest.raises(ModelError, match="stored as int8: only float weights"):
        load(BiEncoder, folder)


def test_a_pickle_alone(load, copy):
    folder = copy("tiny-bert")
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only a pickled pytorch_model.bin: save the model again as safetensors"):
        load(BiEncoder, folder)
    (folder / "pytorch_model.bin").unlink()
    with pytest.raises(ModelError, match=r"has no model\.safetensors"):
        load(BiEncoder, folder)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, 5000, -1])
def test_a_truncated_file(load, copy, kept):
    folder = copy("tiny-bert")
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:kept])
    with pytest.raises(ModelError, match=r"not a sound safetensors file.*fetch it again"):
        load(BiEncoder, folder)


# --- refused: configuration


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "roberta"}, "model_type 'roberta' is not supported"),
        ({"model_type": ...}, "model_type None is not supported"),
        ({"is_decoder": True}, "decoder"),
        ({"position_embedding_type": "relative_key"}, "absolute position"),
        ({"hidden_act": "silu"}, "hidden_act 'silu' is not one of"),
        ({"hidden_act": ["gelu"]}, "hidden_act"),
        ({"hidden_size": ...}, "lacks 'hidden_size'"),
        ({"num_attention_heads": 5}, "sizes do not fit together"),
        ({"num_attention_heads": 0}, "sizes do not fit together"),
        ({"num_hidden_layers": "2"}, "sizes do not fit together"),
        ({"num_hidden_layers": -1}, "sizes do not fit together"),
        ({"num_hidden_layers": 3}, r"the weights lack 'encoder\.layer\.2\."),
        ({"vocab_size": 600}, r"has shape \[601, 36\], the config says \[600, 36\]"),
        ({"layer_norm_eps": "small"}, "value of the wrong kind"),
        ({"layer_norm_eps": None}, "value of the wrong kind"),
    ],
)
def test_a_config_that_cannot_be_followed(load, copy, changes, message):
    folder = copy("tiny-bert")
    change_json(folder / "config.json", **changes)
    with pytest.raises(ModelError, match=message):
        load(BiEncoder, folder)


@pytest.mark.parametrize(
    "name", ["config.json", "modules.json", "config_sentence_transformers.json", "1_Pooling/config.json"]
)
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"7", b"null", b'"text"'])
def test_a_damaged_json_file(load, copy, name, content):
    folder = copy("tiny-bert")
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read as JSON"):
        load(BiEncoder, folder)


@pytest.mark.parametrize("name", ["config.json", "1_Pooling/config.json", "tokenizer.json"])
def test_a_missing_file(load, copy, name):
    folder = copy("tiny-bert")
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"{Path(name).name}"):
        load(BiEncoder, folder)


def test_a_tokenizer_with_more_tokens_than_the_model(load, copy):
    for kind, name in ((BiEncoder, "tiny-bert"), (CrossEncoder, "tiny-cross-encoder")):
        folder = copy(name)
        content = json.loads((folder / "tokenizer.json").read_text())
        content["model"]["vocab"]["one-more"] = 601
        (folder / "tokenizer.json").write_text(json.dumps(content))
        with pytest.raises(ModelError, match=r"the tokenizer has more tokens than the model \(601\)"):
            load(kind, folder)


# --- cross-encoders


def test_a_bi_encoder_is_no_cross_encoder(load, golden):
    with pytest.raises(ModelError, match="is no cross-encoder"):
        load(CrossEncoder, golden / "tiny-bert")


@pytest.mark.parametrize("name", ["bert.pooler.dense.weight", "classifier.weight", "classifier.bias"])
def test_a_cross_encoder_without_its_head(load, copy, name):
    folder = copy("tiny-cross-encoder")
    change_weights(folder, lambda tensors: tensors.pop(name) is None)
    with pytest.raises(ModelError, match="the weights lack"):
        load(CrossEncoder, folder)


def test_labels_must_fit_the_classifier(load, copy):
    folder = copy("tiny-cross-encoder")
    change_json(folder / "config.json", id2label={"0": "no", "1": "yes"})
    with pytest.raises(ModelError, match=r"classifier\.weight has shape \[1, 36\], the config says \[2, 36\]"):
        load(CrossEncoder, folder)


def test_cross_encoder_limit(load, golden):
    assert load(CrossEncoder, golden / "tiny-cross-encoder").tokenizer.max_length == 64
    assert load(CrossEncoder, golden / "tiny-cross-encoder-3").tokenizer.max_length == 40
    assert load(CrossEncoder, golden / "tiny-cross-encoder", max_length=10).tokenizer.max_length == 10
    with pytest.raises(ModelError, match="exceeds the model's 64 positions"):
        load(CrossEncoder, golden / "tiny-cross-encoder", max_length=65)


# --- odds and ends of bert.py


def test_canonical_names():
    names = ["bert.a.LayerNorm.gamma", "b.LayerNorm.beta", "c.LayerNorm.weight", "bert.bert.d"]
    assert list(bert.canonical(dict.fromkeys(names))) == ["a.LayerNorm.weight", "b.LayerNorm.bias", names[2], "bert.d"]
