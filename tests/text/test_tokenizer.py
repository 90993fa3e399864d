"""Token ids are those of transformers; truncation is the library's own rule, and is never silent unless asked to be."""

from __future__ import annotations

import json
import shutil
import warnings
from itertools import chain

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from minibi import Tokenizer
from minibi.environment import weights_folder
from minibi.errors import InputError, ModelError
from minibi.text.tokenizer import TruncationWarning, longest_first


@pytest.fixture(scope="module")
def minilm_tokenizer() -> Tokenizer:
    return Tokenizer(weights_folder() / "all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def tiny_tokenizer(golden) -> Tokenizer:
    return Tokenizer(golden / "tiny-bert")


@pytest.fixture
def folder(golden, tmp_path):
    """A copy of tiny-bert's files about text, to be changed."""
    for name in ("tokenizer.json", "tokenizer_config.json", "sentence_bert_config.json"):
        shutil.copy(golden / "tiny-bert" / name, tmp_path / name)
    return tmp_path


def split(ids, starts):
    return [part.tolist() for part in np.split(ids, starts[1:-1])]


# --- against the golden files


def test_ids_of_all_texts(minilm_tokenizer, texts, golden_arrays):
    arrays = golden_arrays("minilm")
    found = minilm_tokenizer.encode(texts, "silent")
    assert [ids.tolist() for ids in found] == split(arrays["ids"], arrays["starts"])
    assert all(ids.dtype == np.int32 for ids in found)


def test_full_lengths_of_all_texts(texts, golden_arrays):
    unlimited = Tokenizer(weights_folder() / "all-MiniLM-L6-v2", max_length=10**6)
    lengths = [len(ids) for ids in unlimited.encode(texts, "raise")]
    assert lengths == golden_arrays("minilm")["full_lengths"].tolist()
    assert max(lengths) > 256


def test_limits_come_from_the_configuration(minilm_tokenizer, golden):
    assert minilm_tokenizer.max_length == 256  # sentence_bert_config.json; tokenizer_config.json says 512
    assert Tokenizer(golden / "tiny-bert").max_length == 48
    assert Tokenizer(golden / "tiny-bert-new").max_length == 64  # sentence_bert_config.json without max_seq_length
    assert Tokenizer(golden / "tiny-cross-encoder").max_length == 512
    assert Tokenizer(golden / "tiny-bert" / "tokenizer.json", max_length=9).max_length == 9


def test_what_tokenizer_json_bakes_in_is_off(tiny_tokenizer, tiny_texts, golden, golden_arrays):
    baked = json.loads((golden / "tiny-bert" / "tokenizer.json").read_text())
    assert baked["truncation"]["max_length"] == 24 and baked["padding"]["strategy"] == {"Fixed": 24}
    arrays = golden_arrays("tiny")
    assert [i.tolist() for i in tiny_tokenizer.encode(tiny_texts, "silent")] == split(arrays["ids"], arrays["starts"])
    assert [len(i) for i in tiny_tokenizer.encode(["a", "the " * 40], "raise")] == [3, 42]


@pytest.mark.parametrize("name", ["tiny-cross-encoder", "tiny-cross-encoder-3"])
def test_pairs(name, golden):
    truth = json.loads((golden / "cross_encoder.json").read_text())
    tokenizer = Tokenizer(golden / name)
    tokenizer.max_length = min(tokenizer.max_length, 64)  # as CrossEncoder does by the position table
    found = tokenizer.encode_pairs(truth["pairs"], "silent")
    assert [ids.tolist() for ids, _ in found] == truth[name]["ids"]
    assert [types.tolist() for _, types in found] == truth[name]["types"]


# --- truncation


def test_longest_first_is_the_librarys_rule_on_a_grid():
    library = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    library.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    for room in range(1, 18):
        library.enable_truncation(room, strategy="longest_first")
        for a in range(15):
            for b in range(15):
                sides = library.encode("a " * a, "a " * b).sequence_ids
                assert longest_first(a, b, room) == (sides.count(0), sides.count(1)), (a, b, room)


@given(
    st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), min_size=1, max_size=5),
    st.integers(4, 80),
)
def test_pairs_are_cut_as_the_library_cuts_them(golden, lengths, limit):
    file = golden / "tiny-cross-encoder" / "tokenizer.json"
    library = tokenizers.Tokenizer.from_file(str(file))
    library.enable_truncation(limit, strategy="longest_first")
    pairs = [("the of to " * (a // 3) + "in " * (a % 3), "it is a " * (b // 3) + "as " * (b % 3)) for a, b in lengths]
    for (ids, types), truth in zip(
        Tokenizer(file, max_length=limit).encode_pairs(pairs, "silent"), library.encode_batch(pairs), strict=True
    ):
        assert ids.tolist() == truth.ids and types.tolist() == truth.type_ids
        assert len(ids) <= limit


def test_truncation_warns_once_with_the_count(tiny_tokenizer):
    with pytest.warns(TruncationWarning, match=r"^2 of the texts \(first: number 1\) exceed 48 tokens") as caught:
        cut = tiny_tokenizer.encode(["short", "the " * 47, "the " * 46, "of " * 1000])
    assert len(caught) == 1
    assert [len(ids) for ids in cut[1:]] == [48, 48, 48]
    assert all(ids[0] == 2 and ids[-1] == 3 for ids in cut), "[CLS] and [SEP] stay"


def test_truncation_warns_for_pairs(golden):
    tokenizer = Tokenizer(golden / "tiny-cross-encoder-3")
    with pytest.warns(TruncationWarning, match="^1 of the texts") as caught:
        tokenizer.encode_pairs([("the", "of"), ("the " * 30, "of " * 30)])
    assert len(caught) == 1


def test_no_warning_when_nothing_is_cut(tiny_tokenizer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tiny_tokenizer.encode(["the " * 46, ""])
        tiny_tokenizer.encode(["the " * 900], "silent")


def test_truncation_can_be_an_error(tiny_tokenizer):
    with pytest.raises(InputError, match=r"first: number 1.*exceed 48 tokens.*shorten"):
        tiny_tokenizer.encode(["the", "the " * 47], "raise")
    assert len(tiny_tokenizer.encode(["the " * 46], "raise")[0]) == 48


@pytest.mark.parametrize("wrong", ["never", "chunk", None, True])
def test_unknown_truncation_is_refused_even_if_nothing_is_long(tiny_tokenizer, wrong):
    with pytest.raises(InputError, match="truncation"):
        tiny_tokenizer.encode(["a"], wrong)
    with pytest.raises(InputError, match="truncation"):
        tiny_tokenizer.encode_pairs([("a", "b")], wrong)


@given(st.lists(st.text("abc字 ,", max_size=300), max_size=4), st.integers(4, 60), st.sampled_from(["", "query: "]))
def test_chunks_lose_nothing_and_fit(golden, given_texts, limit, prompt):
    tokenizer = Tokenizer(golden / "tiny-bert", max_length=max(limit, 8))
    (head,) = tokenizer.bare([prompt])
    whole = tokenizer.bare(given_texts)
    for ids, chunks in zip(whole, tokenizer.encode_chunks(given_texts, prompt), strict=True):
        bodies = []
        for chunk in chunks:
            assert len(chunk) <= tokenizer.max_length and chunk[0] == 2 and chunk[-1] == 3
            assert chunk[1 : 1 + len(head)].tolist() == head
            bodies.append(chunk[1 + len(head) : -1].tolist())
        assert list(chain.from_iterable(bodies)) == ids
        assert max(map(len, bodies)) - min(map(len, bodies)) <= 1, "of nearly equal length"
        assert len(bodies) == max(1, -(-len(ids) // (tokenizer.max_length - 2 - len(head)))), "no more than needed"


def test_a_prompt_that_runs_into_the_first_word_is_not_torn_off(tiny_tokenizer):
    joined = tiny_tokenizer.encode(["the" + "re is a list " * 30], "silent")[0]
    chunks = tiny_tokenizer.encode_chunks(["re is a list " * 30], prompt="the")
    assert len(chunks[0]) > 1
    assert np.concatenate([chunk[1:-1] for chunk in chunks[0]])[:46].tolist() == joined[1:-1].tolist()


def test_a_prompt_without_room_for_text(golden):
    with pytest.raises(InputError, match="prompt leaves no room"):
        Tokenizer(golden / "tiny-bert", max_length=5).encode_chunks(["a"], prompt="the of to ")


def test_max_length_must_leave_room(golden):
    for bad in (-1, 0, 2, 3):
        with pytest.raises(ModelError, match="no room"):
            Tokenizer(golden / "tiny-bert", max_length=bad)
    assert len(Tokenizer(golden / "tiny-bert", max_length=4).encode(["the of to"], "silent")[0]) == 4


# --- awkward texts


def test_awkward_strings(tiny_tokenizer):
    one = lambda text: tiny_tokenizer.encode([text], "silent")[0].tolist()  # noqa: E731
    assert one("") == one(" ") == one("\0") == one("\u200b\t\n") == [2, 3]
    assert one("a\0b") == one("ab"), "NUL vanishes, it does not end the text"
    assert one("\ud83d") == one("\ufffd") == [2, 3], "a lone surrogate is dropped like U+FFFD"
    assert one("the \ud83d of") == one("the of")
    assert one("\ud83d\ude00") == one("😀"), "a pair of surrogates is the character they mean"
    assert one(np.str_("the")) == one("the")
    assert one("[CLS] the [MASK] [SEP]") == [2, 2, *one("the")[1:-1], 4, 3, 3], "specials written out stay specials"


def test_one_surrogate_changes_no_other_text(tiny_tokenizer, tiny_texts):
    clean = tiny_tokenizer.encode(tiny_texts, "silent")
    mixed = tiny_tokenizer.encode([*tiny_texts, "\udfff"], "silent")
    assert all(np.array_equal(a, b) for a, b in zip(clean, mixed, strict=False)) and len(mixed) == len(clean) + 1


def test_huge_strings(tiny_tokenizer):
    many, one = tiny_tokenizer.bare(["the of " * 150_000, "w" * 1_000_000])
    assert len(many) == 300_000 and one == [1]
    assert [len(i) for i in tiny_tokenizer.encode(["the of " * 150_000], "silent")] == [48]


@pytest.mark.parametrize("bad", [None, 1, 2.5, b"bytes", ["list"], ("a", "b"), np.nan, object()])
def test_what_is_no_text_is_refused_by_number(tiny_tokenizer, bad):
    with pytest.raises(InputError, match=f"text number 1 is {type(bad).__name__}, not str"):
        tiny_tokenizer.encode(["fine", bad])


@pytest.mark.parametrize("bad", [None, 5, 1.5, np.array("zero-dimensional")])
def test_what_is_no_list_is_refused(tiny_tokenizer, bad):
    with pytest.raises(InputError, match="expected a string or a list of strings"):
        tiny_tokenizer.encode(bad)


@pytest.mark.parametrize("bad", ["ab", ("a",), ("a", "b", "c"), ("a", None), (1, 2)])
def test_what_is_no_pair_is_refused(tiny_tokenizer, bad):
    with pytest.raises(InputError, match="pair number 1 is not two strings"):
        tiny_tokenizer.encode_pairs([("a", "b"), bad])


def test_one_string_is_one_text_and_none_are_none(tiny_tokenizer):
    assert [i.tolist() for i in tiny_tokenizer.encode("the of")] == [
        i.tolist() for i in tiny_tokenizer.encode(["the of"])
    ]
    assert tiny_tokenizer.encode([]) == [] and tiny_tokenizer.encode_pairs([]) == []
    assert tiny_tokenizer.encode_chunks([]) == []


@given(st.lists(st.text(), max_size=6))
def test_any_text_gives_ids_of_the_vocabulary(tiny_tokenizer, strings):
    for ids in tiny_tokenizer.encode(strings, "silent"):
        assert 2 <= len(ids) <= 48 and ids.min() >= 0 and ids.max() < 601


def test_tokens_and_offsets(minilm_tokenizer):
    text = "Café  中unbelievable!"
    (ids,) = minilm_tokenizer.bare([text])
    (spans,) = minilm_tokenizer.offsets([text])
    assert minilm_tokenizer.tokens(ids) == ["cafe", "中", "unbelievable", "!"]
    assert [text[a:b] for a, b in spans] == ["Café", "中", "unbelievable", "!"]
    assert minilm_tokenizer.offsets([""])[0].shape == (0, 2)
    assert minilm_tokenizer.tokens([101, 10**8]) == ["[CLS]", ""]


# --- files


def test_configuration_without_a_usable_limit(folder):
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": null}')
    assert Tokenizer(folder).max_length == 64, "next in line: tokenizer_config.json"
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1000000000000000019884624838656}')
    assert Tokenizer(folder).max_length is None
    assert len(Tokenizer(folder).encode(["the " * 1000], "raise")[0]) == 1002
    (folder / "tokenizer_config.json").unlink()
    (folder / "sentence_bert_config.json").unlink()
    assert Tokenizer(folder).max_length is None


@pytest.mark.parametrize("text", ["{", "[]", "null", "3", "\udcff"])
def test_a_damaged_configuration(folder, text):
    (folder / "sentence_bert_config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"sentence_bert_config\.json is not a JSON object"):
        Tokenizer(folder)


@pytest.mark.parametrize("text", ["", "{}", "not json", '{"model": {"type": "Nonsense"}}', "\0" * 100])
def test_a_damaged_tokenizer(folder, text):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match="cannot be read as a tokenizer"):
        Tokenizer(folder)


def test_a_missing_tokenizer(tmp_path):
    for path in (tmp_path, tmp_path / "tokenizer.json", tmp_path / "nowhere"):
        with pytest.raises(ModelError, match=r"no tokenizer\.json"):
            Tokenizer(path)


def test_a_tokenizer_without_template_adds_nothing(folder):
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"] = None
    (folder / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = Tokenizer(folder)
    assert tokenizer.specials == tokenizer.pair_specials == 0
    assert tokenizer.encode(["the of"])[0].tolist() == tokenizer.bare(["the of"])[0]
