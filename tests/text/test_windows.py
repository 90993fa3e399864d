"""Sentences tile the text; windows cover it, fit, overlap as promised and make progress."""

from __future__ import annotations

import re
import time

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers.pre_tokenizers import ByteLevel

from minibi.errors import InputError
from minibi.text.windows import sentences, windows


def words(text: str) -> np.ndarray:
    """[T, 2] character spans of a tokenizer that knows words alone."""
    return np.array([m.span() for m in re.finditer(r"\w+", text)], dtype=np.int64).reshape(-1, 2)


PIECES = [
    "the ",
    "Cat",
    " sat. ",
    "He said",
    "! ",
    "?\n",
    "\n\n",
    "\n- ",
    "1. ",
    "e.g. ",
    "3.14",
    "…",
    "。",
    "」",
    " ",
    "  \t",
]
PROSE = st.lists(st.sampled_from(PIECES), max_size=60).map("".join)
TEXT = PROSE | st.text(max_size=80)


def parts(text: str) -> list[str]:
    return [text[a:b] for a, b in sentences(text)]


# --- sentences -------------------------------------------------------------------------------------------------------


@given(TEXT)
def test_sentences_tile_all_that_is_not_space(text):
    spans, at = sentences(text), 0
    for a, b in spans:
        assert at <= a < b and text[at:a].strip() == "" and text[a:b] == text[a:b].strip()
        at = b
    assert text[at:].strip() == ""


@pytest.mark.parametrize(
    "sentence",
    [
        "Dr. Smith met Mrs. Jones, e.g. in St. Louis.",
        "The method of Devlin et al. The name is common.",
        "See Fig. 3 and Eq. 7, cf. Sec. 2, pp. 4 to 9.",
        "J. K. Rowling wrote it.",
        "It needs Python 3.11 or numpy 2.0.1 to run.",
        "Go to https://example.org/a.html?q=1!x and www.example.org. then back.",
        "The U.S. Senate voted.",
        "It costs 5.30 vs. 4.20 in Jan. 2020.",
        "Is it Yahoo! or not.",
        "See no. 5 of them",
        "wait... what is it",
        "1. Install it",
        "2) Run it",
        "os.path.join joins",
    ],
)
def test_these_hold_together(sentence):
    assert parts(sentence) == [sentence]
    assert parts(f"Before.\n\n{sentence}\n\nAfter.") == ["Before.", sentence, "After."]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four… Five", ["One.", "Two!", "Three?", "Four…", "Five"]),
        ('"Stop." (He left.) [Then] he ran.', ['"Stop."', "(He left.)", "[Then] he ran."]),
        ("He said “no.” She left.", ["He said “no.”", "She left."]),
        ("**Bold.** Next", ["**Bold.**", "Next"]),
        ("no capital\n\nnor stop\r\n \r\nhere", ["no capital", "nor stop", "here"]),
        ("List:\n- one\n- two\n* three\n10. four", ["List:", "- one", "- two", "* three", "10. four"]),
        ("これは文です。次の文！「はい。」終わり", ["これは文です。", "次の文！", "「はい。」", "終わり"]),
        ("It is 3.11. Next", ["It is 3.11.", "Next"]),
        ("No. I did not.", ["No.", "I did not."]),
        ("In 2020. Then", ["In 2020.", "Then"]),
        ("Жил. Был. Él vino. Ñandú", ["Жил.", "Был.", "Él vino.", "Ñandú"]),
        ("यह है। वह है।", ["यह है।", "वह है।"]),
        ("one line\nthe next", ["one line\nthe next"]),
        ("", []),
        (" \n\n ", []),
    ],
)
def test_these_part(text, expected):
    assert parts(text) == expected


@pytest.mark.parametrize(
    "unit", [".", "\n", "\r\n \n", ".) ", "a", ". ", "\n   ", "。", "。』", "a.", "e.g. ", "- \n", " ", "?!", "1. \n"]
)
def test_sentences_take_linear_time(unit):
    text = unit * (1_000_000 // len(unit)) + "x"
    t = time.process_time()
    spans = sentences(text)
    assert time.process_time() - t < 5  # a quadratic search takes minutes
    assert spans[-1][1] == len(text)


# --- windows ---------------------------------------------------------------------------------------------------------


def inside(offsets: np.ndarray, a: int, b: int) -> list[int]:
    return np.flatnonzero((offsets[:, 0] >= a) & (offsets[:, 1] <= b)).tolist()


@settings(max_examples=300)
@given(TEXT, st.integers(1, 12), st.integers(0, 11))
@example("a b c d e f g", 3, 2)
@example("A b. C d e. F g. H i j k l. M.", 4, 2)
def test_windows_cover_fit_overlap_and_advance(text, size, overlap):
    overlap = min(overlap, size - 1)
    offsets = words(text)
    spans = windows(text, offsets, size=size, overlap=overlap)
    held = [inside(offsets, a, b) for a, b in spans]
    if len(offsets) == 0:
        assert spans == []
        return
    if len(offsets) <= size:
        start = len(text) - len(text.lstrip())
        assert spans == [(start, start + len(text.strip()))]
        return
    for (a, b), tokens in zip(spans, held, strict=True):
        assert text[a:b] == text[a:b].strip() != ""
        assert 0 < len(tokens) <= size
        assert tokens == list(range(tokens[0], tokens[-1] + 1))
    assert sorted({i for tokens in held for i in tokens}) == list(range(len(offsets)))
    covered = np.zeros(len(text), bool)
    for a, b in spans:
        covered[a:b] = True
    assert all(c.isspace() for c, yes in zip(text, covered, strict=True) if not yes)

    starts = {a for a, _ in sentences(text)}
    ends = {b for _, b in sentences(text)}
    longest = {t for a, b in sentences(text) if len(own := inside(offsets, a, b)) > size for t in own}
    for before, after, (a, _) in zip(held, held[1:], spans[1:], strict=False):
        shared = len(set(before) & set(after))
        assert after[0] > before[0] and after[-1] > before[-1]  # progress, and not merely the overlap again
        assert shared <= overlap
        if after[0] + shared in longest and before[-1] in longest and a not in starts:
            assert shared == overlap  # pieces of one cut sentence
    for tokens, (a, b) in zip(
        held, spans, strict=True
    ):  # edges within a sentence only where it is too long for a window
        assert a in starts or tokens[0] in longest
        assert b in ends or tokens[-1] in longest


def test_whole_sentences_and_their_overlap():
    text = "One two three. Four five. Six seven. Eight nine ten eleven. Twelve."
    found = [text[a:b] for a, b in windows(text, words(text), size=7, overlap=3)]
    assert found == [
        "One two three. Four five. Six seven.",
        "Six seven. Eight nine ten eleven. Twelve.",
    ]
    found = [text[a:b] for a, b in windows(text, words(text), size=5, overlap=2)]
    assert found == ["One two three. Four five.", "Four five. Six seven.", "Eight nine ten eleven. Twelve."]


def test_a_long_sentence_is_cut_between_words():
    text = "Short one. A b c d e f g h, i j kin. Short two."
    found = [text[a:b] for a, b in windows(text, words(text), size=5, overlap=2)]
    assert found == ["Short one.", "A b c d e", "d e f g h,", "g h, i j kin.", "Short two."]
    pieces = "un|believ|able in|con|ceiv|able long|er words"  # sub-word tokens: no window begins or ends within a word
    text, at, offsets = pieces.replace("|", ""), 0, []
    for piece in re.split(r"[| ]", pieces):
        at = text.index(piece, at)
        offsets.append((at, at + len(piece)))
        at += len(piece)
    found = [text[a:b] for a, b in windows(text, np.array(offsets), size=5, overlap=2)]
    assert found == ["unbelievable", "inconceivable", "longer words"]


def test_text_without_spaces_is_cut_between_tokens():
    text = "深" * 25
    offsets = np.array([(i, i + 1) for i in range(25)])
    assert windows(text, offsets, size=10, overlap=4) == [(0, 10), (6, 16), (12, 22), (18, 25)]


def test_tokens_that_share_characters_are_not_parted():
    text = "a😀b"  # four byte tokens for one character, as byte-level tokenizers give
    offsets = np.array([(0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3)])
    assert windows(text, offsets, size=2, overlap=1) == [(0, 1), (1, 2), (2, 3)]


@settings(max_examples=100)
@given(TEXT, st.integers(1, 10), st.integers(0, 9))
def test_byte_level_tokens_with_their_leading_spaces(text, size, overlap):
    overlap = min(overlap, size - 1)
    pieces = ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
    offsets = np.array([span for _, span in pieces], dtype=np.int64).reshape(-1, 2)
    spans = windows(text, offsets, size=size, overlap=overlap)
    covered = "".join(text[max(a, e) : b] for (a, b), e in zip(spans, [0] + [b for _, b in spans], strict=False))
    assert "".join(covered.split()) == "".join(text.split())


@settings(max_examples=200)
@given(
    TEXT,
    st.lists(st.tuples(st.integers(-5, 90), st.integers(-5, 90)), max_size=40),
    st.integers(1, 8),
    st.integers(0, 7),
)
def test_odd_offsets_lose_nothing(text, offsets, size, overlap):
    spans = windows(text, np.array(offsets, dtype=np.int64).reshape(-1, 2), size=size, overlap=min(overlap, size - 1))
    assert len(spans) <= len(offsets)
    covered = np.zeros(len(text), bool)
    for a, b in spans:
        assert 0 <= a < b <= len(text)
        covered[a:b] = True
    if offsets:
        assert all(c.isspace() for c, yes in zip(text, covered, strict=True) if not yes)


def test_sizes_are_checked():
    for size, overlap in ((0, 0), (5, 5), (5, -1), (5, 9)):
        with pytest.raises(InputError, match="overlap must be at least 0 and less than the window's size"):
            windows("a b", words("a b"), size=size, overlap=overlap)


@pytest.mark.parametrize("text", ["The quick brown fox. " * 60_000, "word " * 250_000, "a,b;" * 300_000])
def test_windows_take_linear_time(text):
    offsets = words(text)
    t = time.process_time()
    spans = windows(text, offsets, size=250, overlap=50)
    assert time.process_time() - t < 10  # 1.2 MB; a quadratic cut takes hours
    assert len(offsets) / 250 <= len(spans) <= len(offsets) / 190 and spans[-1][1] == len(text.rstrip())
