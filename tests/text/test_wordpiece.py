"""The WordPiece twin cuts every text as the library does, as far as both know the same Unicode."""

from __future__ import annotations

import unicodedata

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st

from minibi import Tokenizer
from minibi.environment import weights_folder
from minibi.text import wordpiece

FOLDER = weights_folder() / "all-MiniLM-L6-v2"
LIBRARY = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
TOKENIZER = Tokenizer(FOLDER, max_length=10**6)
VOCABULARY = TOKENIZER.vocabulary

# Both know Unicode 3.2 for certain. Some characters have changed their category since 2015, and the library, whose
# tables are of that year, is right by the old one and Python by the new one.
MOVED = {0x166D, 0x1734, 0x1885, 0x1886, 0x111C9}
KNOWN = [
    chr(c) for c in range(0x110000) if unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs") and c not in MOVED
]


def library_words(text: str) -> list[str]:
    return [word for word, _ in LIBRARY.pre_tokenizer.pre_tokenize_str(LIBRARY.normalizer.normalize_str(text))]


def differing(characters: list[str], size: int = 32) -> list[str]:
    """The characters at which twin and library part: between two letters, some at a time to be quick."""
    found = []
    for i in range(0, len(characters), size):
        part = characters[i : i + size]
        if library_words(text := " ".join(f"a{c}b" for c in part)) != wordpiece.words(text):
            found += differing(part, 1) if size > 1 else part
    return found


def test_all_golden_texts(texts, tiny_texts, golden_arrays):
    arrays = golden_arrays("minilm")
    for text, full in zip(texts, arrays["full_lengths"], strict=True):
        ids = wordpiece.encode(text, VOCABULARY)
        assert ids == TOKENIZER.encode([text])[0].tolist() and len(ids) == full
    for text in tiny_texts:
        assert wordpiece.encode(text, VOCABULARY) == TOKENIZER.encode([text])[0].tolist()


def test_every_character_of_unicode_3_2(deep):
    """Of the 160,000 that are Chinese, Korean or private, every sixteenth will do."""

    def crowded(c: str) -> bool:
        return unicodedata.category(c) == "Co" or unicodedata.name(c, "").startswith(("CJK UNIFIED", "HANGUL SYLLABLE"))

    some = [c for i, c in enumerate(KNOWN) if deep or i % 16 == 0 or not crowded(c)]
    assert len(some) > 20_000
    assert differing(some) == []


def test_every_character_there_is(deep):
    """Characters newer than the library's tables are letters to it, whatever they are: nothing else may differ."""
    if not deep:
        pytest.skip("all 1,112,064 characters: MINIBI_DEEP=1")
    everything = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    for c in differing(everything):
        if ord(c) in MOVED:
            continue
        assert unicodedata.ucd_3_2_0.category(c) == "Cn"
        (whole,) = library_words(f"a{c}b")
        new_to_library = whole == f"a{c}b" and unicodedata.category(c)[0] in "MPC"
        new_to_python = unicodedata.category(c) == "Cn"
        decomposed_anew = unicodedata.normalize("NFD", c) != c
        assert new_to_library or new_to_python or decomposed_anew, hex(ord(c))


LETTERS = st.sampled_from("aàAÀ Σςİıßẞ字々ǅﬁ①Ⅷ.-_'\"\u0301\u0307\u200d\u00a0\u2028\t\n\0\ufffd😀क़각[]#")
WORDS = st.sampled_from(
    ["[CLS]", "[SEP]", "[MASK]", "[UNK]", "[PAD]", "[cls]", "[CLS", "##ing", "ΟΔΟΣ", "don't", "x" * 100]
)


@settings(max_examples=200)
@given(st.lists(LETTERS | WORDS | st.sampled_from(KNOWN), max_size=20).map("".join))
@example("x" * 101)
@example("x" * 100)
@example("字" * 101)
@example("é" * 101)
@example("[CLS][SEP][CLS]")
@example("[[MASK]]")
@example("ΑΣ ΑΣ. ΑΣΑ")
def test_any_text(text):
    assert wordpiece.encode(text, VOCABULARY) == TOKENIZER.encode([text])[0].tolist()


def test_pieces_by_hand():
    vocabulary = {p: i for i, p in enumerate(["[UNK]", "un", "##want", "##wanted", "##ed", "a", "##b"])}
    assert wordpiece.pieces("unwanted", vocabulary) == ["un", "##wanted"]
    assert wordpiece.pieces("unwantedb", vocabulary) == ["un", "##wanted", "##b"]
    assert wordpiece.pieces("unwantedx", vocabulary) == ["[UNK]"], "all or nothing"
    assert wordpiece.pieces("", vocabulary) == []
    assert wordpiece.pieces("a" + "b" * 99, vocabulary) == ["a"] + ["##b"] * 99
    assert wordpiece.pieces("a" + "b" * 100, vocabulary) == ["[UNK]"], "more than 100 characters"
