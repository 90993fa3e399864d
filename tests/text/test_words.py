"""Text to terms, and the stemmer beside Snowball's own."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.text.stemmer import stem
from minibi.text.words import ENGLISH_STOP_WORDS, Words, fold, split


def test_stems_as_snowball(golden):
    stems = json.loads((golden / "bm25.json").read_text())["stems"]
    assert len(stems) > 200
    assert {word: stem(word) for word in stems} == stems


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The naïve CATS ran to Ångström!", ["naiv", "cat", "ran", "angstrom"]),
        ("don't stop, e.g. snake_case 3.14 B-52", ["don", "stop", "snake_cas", "14", "52"]),
        ("Straße ﬁne Ⓐ CO₂ İstanbul Łódź œuvre", ["strass", "fine", "co2", "istanbul", "lodz", "oeuvr"]),
        ("中文字 がくせい 한국어", ["中", "文", "字", "がくせい", "한국어"]),
        ("सुनिश्चित ภาษาไทย", ["सुनिश्चित", "ภาษาไทย"]),
        ("שָׁלוֹם مَرْحَبًا", ["שלום", "مرحبا"]),
        ("soft\u00adhyphen zero\u200bwidth \ud800 lone", ["softhyphen", "zero", "width", "lone"]),
        ("", []),
        (" .,;!? a the", []),
    ],
)
def test_terms(text, terms):
    assert Words()(text) == terms


@settings(max_examples=200)
@given(st.text())
def test_folding_twice_changes_nothing(text):
    assert fold(fold(text)) == fold(text)
    assert split(fold(text)) == split(text)


@given(st.text(st.characters(max_codepoint=127)))
def test_ascii_is_split_like_everything_else(text):
    """The short way for ASCII, and the long one, taken for the sake of one other letter."""
    assert [*split(text), "и"] == split(text + " и")


@given(st.lists(st.text(max_size=20), max_size=5))
def test_keys_and_terms_are_the_same_as_words(texts):
    words = Words()
    found = [[term for key in keys if (term := words.term(key)) is not None] for keys in words.keys(texts)]
    assert found == [words(text) for text in texts]


def test_settings():
    assert Words(None, None, 1)("The cats I saw") == ["the", "cats", "i", "saw"]
    assert Words(["Naïve", "cats"], None)("naive cats ran") == ["ran"]
    assert Words(stemmer=str.upper)("cats ran") == ["CATS", "RAN"] and Words(stemmer=str.upper).settings() is None
    assert Words(**Words(["x"], None, 3).settings()).settings() == Words(["x"], None, 3).settings()
    assert "the" in ENGLISH_STOP_WORDS and "english" in repr(Words())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stop_words": "german"}, "stop_words"),
        ({"stop_words": [3]}, "collection of strings"),
        ({"stop_words": 3}, "collection of strings"),
        ({"stemmer": "german"}, "stemmer"),
        ({"stemmer": 3}, "stemmer"),
        ({"min_length": 0}, "min_length"),
        ({"min_length": True}, "min_length"),
    ],
)
def test_settings_that_make_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        Words(**options)
