"""Prompts: read from the folder, else known by the family's name and announced, else none."""

from __future__ import annotations

import shutil
import warnings

import pytest

from minibi import BiEncoder
from minibi.errors import InputError
from minibi.models.prompts import choose, first_of, known_prompts, read_prompts

BGE = "Represent this sentence for searching relevant passages: "


@pytest.mark.parametrize(
    ("name", "query", "document"),
    [
        ("intfloat/e5-small", "query: ", "passage: "),
        ("intfloat/e5-base-v2", "query: ", "passage: "),
        ("intfloat/multilingual-e5-large", "query: ", "passage: "),
        ("models--intfloat--e5-large-v2", "query: ", "passage: "),
        ("/data/models/E5-Small-v2", "query: ", "passage: "),
        ("BAAI/bge-small-en", BGE, ""),
        ("BAAI/bge-large-en-v1.5", BGE, ""),
        ("mixedbread-ai/mxbai-embed-large-v1", BGE, ""),
        ("Snowflake/snowflake-arctic-embed-m", BGE, ""),
    ],
)
def test_families_that_need_prompts(name, query, document):
    assert known_prompts(name) == {"query": query, "document": document}
    with pytest.warns(UserWarning, match="states no prompts but was trained with some"):
        assert read_prompts({}, name) == known_prompts(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_prompts({"prompts": {"query": "mine: "}}, name) == {"query": "mine: "}


@pytest.mark.parametrize(
    "name",
    [
        "all-MiniLM-L6-v2",
        "BAAI/bge-m3",
        "BAAI/bge-small-zh",
        "thenlper/gte-small",
        "intfloat/multilingual-e5-large-instruct",  # wants an instruction of the user's own
        "intfloat/e5-mistral-7b-instruct",
        "some/base5-small",
    ],
)
def test_families_that_need_none(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert known_prompts(name) == {} == read_prompts({"prompts": {}}, name)


def test_empty_prompts_are_as_good_as_none():
    with pytest.warns(UserWarning, match="states no prompts"):
        assert read_prompts({"prompts": {"query": "", "document": ""}}, "e5-small")["query"] == "query: "
    assert read_prompts({"prompts": {"query": "", "document": ""}}, "gte-small") == {"query": "", "document": ""}
    assert read_prompts({"prompts": None}, "gte-small") == {}


def test_a_folder_named_after_a_family(golden, tmp_path):
    folder = shutil.copytree(golden / "tiny-bert", tmp_path / "e5-small-v2")
    with pytest.warns(UserWarning, match=r"e5-small-v2 states no prompts.*pass prompts=\{\} to use none") as caught:
        model = BiEncoder(folder)
    assert caught[0].filename == __file__, "the warning points at the caller"
    assert model.prompts == {"query": "query: ", "document": "passage: "}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert BiEncoder(folder, prompts={}).prompts == {}


def test_choose():
    prompts = {"query": "q: ", "document": ""}
    assert choose(prompts, None, None, None) == ""
    assert choose(prompts, "query", None, None) == "q: "
    assert choose(prompts, "query", "document", None) == ""
    assert choose(prompts, "query", "query", "") == ""
    assert choose(prompts, None, "none such", "given") == "given"
    with pytest.raises(InputError, match=r"no prompt is called 'none such': this model has \['document', 'query'\]"):
        choose(prompts, None, "none such", None)


def test_first_of():
    assert first_of({"corpus": "", "passage": ""}, ("document", "passage", "corpus")) == "passage"
    assert first_of({}, ("query",)) is None
