"""Prose to documents: Markdown, reStructuredText and plain text, divided at headings with exact offsets."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi.text.files import read_documents
from minibi.text.sections import sections


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


GUIDE = """\
---
title: "The Guide"
tags: [a]
---

Before the first heading.

# Install

## On Linux ##

Use `apt`.

```sh
# not a heading
```

~~~
## nor this
```
~~~

## On [Windows](https://x.y)

#hashtag is text

## Empty

Usage
=====
Run it.

### Deep `code`
Deep text.

## On Linux

Again.
"""


def test_markdown_divides_at_headings_and_keeps_their_path():
    found = [(s.key, s.title, GUIDE[s.start : s.end].split("\n")[0]) for s in sections(GUIDE, "markdown", "guide")]
    assert found == [
        ("top", "The Guide", "Before the first heading."),
        ("on-linux", "The Guide › Install › On Linux", "Use `apt`."),
        ("on-windows", "The Guide › Install › On Windows", "#hashtag is text"),
        ("usage", "The Guide › Usage", "Run it."),
        ("deep-code", "The Guide › Usage › Deep code", "Deep text."),
        ("on-linux-1", "The Guide › Usage › On Linux", "Again."),
    ]


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("# Top\na\n## B\nb", ["Top", "Top › B"]),  # a top heading is the document's title
        ("intro\n# Top\na", ["file", "Top"]),
        ("## B\nb\n### C\nc\n## D\nd", ["file › B", "file › B › C", "file › D"]),
        ("# A\na\n# B\nb", ["A", "B"]),
        ("just words", ["file"]),
        ("a\n\n---\n\nb", ["file"]),  # a rule, not a heading
        ("---\n\nwords\n\n---\n\nmore", ["file"]),  # rules, not front matter
        ("+++\ntitle = 'T'\n+++\nx", ["T"]),
        ("---\ntitle: T\n---\n# T\nx", ["T"]),
        ("Two\n---\nx", ["file › Two"]),
        ("- item\n---\nx", ["file"]),
        ("# Top\n```\n# code never closed\n## x", ["Top"]),
        ("    # indented code", ["file"]),
        ("####### seven", ["file"]),
        ("", []),
        ("# only\n## headings\n", []),
    ],
)
def test_markdown_titles(text, titles):
    assert [s.title for s in sections(text, "markdown", "file")] == titles


def test_restructured_text_divides_at_underlines():
    text = (
        "=====\nTitle\n=====\n\nIntro.\n\nPart\n====\nOne.\n\nSub\n---\nTwo::\n\n    Code\n    ----\n\n"
        "Part 2\n======\nThree.\n\n----\n\nFour."
    )
    found = [(s.title, text[s.start : s.end]) for s in sections(text, "rst", "file")]
    assert found == [
        ("Title", "Intro."),
        ("Title › Part", "One."),
        ("Title › Part › Sub", "Two::\n\n    Code\n    ----"),
        ("Title › Part 2", "Three.\n\n----\n\nFour."),
    ]


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("\nOn Bees\n\nThey fly.", "On Bees"),
        ("They fly.\n\nFar.", "notes"),  # a sentence
        ("On Bees\nThey fly.", "notes"),
        ("On Bees\n", "notes"),
        ("-----\n\nText", "notes"),
        ("w " * 60 + "\n\nText", "notes"),
    ],
)
def test_plain_text_is_one_document(tmp_path, text, title):
    for name in ("notes.txt", "notes.TXT.gz", "notes"):
        path = write(tmp_path / name, text)
        if path.suffix == ".gz":
            path.write_bytes(gzip.compress(text.encode()))
        [doc] = read_documents(path)
        assert (doc.title, doc.text, doc.key) == (title, text.strip(), "top")
        assert doc.start == len(text) - len(text.lstrip())
        assert doc.line == 1 + text[: doc.start].count("\n")


MARKDOWN_LINES = st.sampled_from(
    [
        "# One",
        "## Two ##",
        "### One",
        "#no",
        "text é 😀",
        "  more",
        "```",
        "~~~~",
        "    # code",
        "",
        " \t",
        "- a",
        "\u2028x",
        "a\x0cb",
    ]
)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])
MARKDOWN = st.lists(st.tuples(MARKDOWN_LINES, ENDS), max_size=25).map(lambda ls: "".join(a + b for a, b in ls))


@settings(max_examples=150)
@given(MARKDOWN | st.text(st.characters(codec="utf-8", exclude_characters="\0")), st.sampled_from(["md", "rst", "txt"]))
def test_offsets_are_exact_whatever_the_line_ends(tmp_path_factory, text, suffix):
    path = tmp_path_factory.getbasetemp() / f"exact.{suffix}"
    path.write_bytes(text.encode())
    text = text.removeprefix("\ufeff")
    docs = list(read_documents(path))
    assert len({d.key for d in docs}) == len(docs)
    at = 0
    for d in docs:
        assert text[d.start : d.start + len(d.text)] == d.text == d.text.strip() != ""
        assert d.start >= at and d.title
        assert d.line == len((text[: d.start] + "x").replace("\r\n", "\n").replace("\r", "\n").split("\n"))
        at = d.start + len(d.text)
    if suffix == "txt":
        assert [d.text for d in docs] == ([text.strip()] if text.strip() else [])


@given(MARKDOWN)
def test_markdown_loses_nothing_but_headings(text):
    covered = list(text)
    for s in sections(text, "markdown", "f"):
        covered[s.start : s.end] = " " * (s.end - s.start)
    left = "".join(covered).replace("\r", "\n").split("\n")
    assert all(line.strip() in ("", "# One", "## Two ##", "### One") for line in left)


def test_a_byte_order_mark_is_not_text(tmp_path):
    [doc] = read_documents(write(tmp_path / "a.md", "\ufeff# T\nx"))
    assert (doc.title, doc.text, doc.start) == ("T", "x", 4)
    [doc] = read_documents(write(tmp_path / "a.csv", "\ufefftext\nhello"))
    assert doc.text == "hello"
