"""Passages fit the model's limit with their titles, cover the text, and are spans of it as it stands."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi import Tokenizer
from minibi.search.passages import TITLE_TOKENS, passages_of
from minibi.text.files import Document

PIECES = [
    "the",
    "rain.",
    "Sun",
    "tree!",
    "unbelievably",
    "antidisestablishmentarianism",
    "한국어",
    "日本語",
    "don't",
    "3.14",
]
PROSE = st.lists(st.sampled_from([*PIECES, "x\n\n", "…"]), max_size=150).map(" ".join)
TITLES = st.text(max_size=20) | PROSE | st.sampled_from(["", "Rain", "한" * 60, "x" * 300, "a, b; " * 90])


@pytest.fixture(scope="module")
def tokenizer(golden):
    return Tokenizer(golden / "tiny-bert")


@given(st.lists(st.tuples(TITLES, PROSE | st.text(max_size=300)), max_size=4), st.sampled_from([16, 24, 48, 120]))
def test_passages_fit_and_cover(tokenizer, pairs, limit):
    documents = [Document(str(i), title, text) for i, (title, text) in enumerate(pairs)]
    found = passages_of(documents, tokenizer, limit)
    assert len(found) == len(documents)
    for document, passages in zip(documents, found, strict=True):
        covered = set()
        for p in passages:
            piece = document.text[p.start : p.end]
            assert piece == piece.strip() != "" and p.text.endswith(piece)
            head = p.text[: len(p.text) - len(piece)]
            assert head == "" or (head.endswith("\n") and document.title.startswith(head[:-1]))
            covered.update(range(p.start, p.end))
        missing = [c for i, c in enumerate(document.text) if i not in covered and not c.isspace()]
        if tokenizer.bare([document.text])[0]:
            assert not missing
        assert [p.start for p in passages] == sorted({p.start for p in passages})
        lengths = [len(ids) + tokenizer.specials for ids in tokenizer.bare([p.text for p in passages])]
        assert all(length <= limit for length in lengths), f"{lengths} beyond {limit}"


def test_a_title_keeps_room_for_text(tokenizer):
    """Whatever the title, half of each window at least is text, and all of the text is read."""
    text = "rain sun tree river stone bread light house. " * 20
    for limit in (16, 48, 120, 256, 512):
        (passages,) = passages_of([Document("1", "mountain " * 400, text)], tokenizer, limit)
        for p in passages:
            title, body = tokenizer.bare([p.text[: -len(text[p.start : p.end])], text[p.start : p.end]])
            assert 1 <= len(title) <= min(TITLE_TOKENS, limit // 4) + 1
            assert len(title) + len(body) + tokenizer.specials <= limit
        assert len(passages[0].text) > limit // 4


def test_short_titles_are_kept_whole(tokenizer):
    (passages,) = passages_of([Document("1", "Rain and sun", "Bread. " * 100)], tokenizer, 48)
    assert len(passages) > 1 and all(p.text.startswith("Rain and sun\nBread.") for p in passages)


def test_no_title_and_no_text(tokenizer):
    found = passages_of(
        [Document("1", "", "Rain."), Document("2", "Rain", ""), Document("3", "", " \n ")], tokenizer, 48
    )
    assert [[p.text for p in passages] for passages in found] == [["Rain."], [], []]
    assert passages_of([], tokenizer, 48) == []


def test_neighbours_overlap(tokenizer):
    text = "one rain two sun three tree four river. " * 30
    (passages,) = passages_of([Document("1", "", text)], tokenizer, 48)
    assert len(passages) > 5
    assert all(a.end > b.start for a, b in pairwise(passages))


@settings(max_examples=20)
@given(st.integers(1, 400))
def test_one_endless_word(tokenizer, n):
    (passages,) = passages_of([Document("1", "t", "ab" * n)], tokenizer, 24)
    assert passages[0].start == 0 and passages[-1].end == 2 * n
    assert all(len(ids) + 2 <= 24 for ids in tokenizer.bare([p.text for p in passages]))
