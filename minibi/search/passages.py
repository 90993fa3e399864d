"""What of a document the model reads: windows of sentences, each with the document's title before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..text.files import Document
from ..text.tokenizer import Tokenizer
from ..text.windows import windows

OVERLAP = 32  # tokens that neighbouring windows share
TITLE_TOKENS = 64  # a longer title is cut, so that every window has room for text
SLACK = 8  # a window that begins or ends inside a word may count a few tokens more by itself


@dataclass(frozen=True, slots=True)
class Passage:
    """A window [start, end) of a document's text, and what is encoded for it."""

    start: int
    end: int
    text: str


def passages_of(documents: Sequence[Document], tokenizer: Tokenizer, limit: int) -> list[list[Passage]]:
    """The passages of each document, each at most `limit` tokens long with its title."""
    titles = [_short(d.title, tokenizer) for d in documents]
    counts = [len(ids) for ids in tokenizer.bare(titles)]
    offsets = tokenizer.offsets([d.text for d in documents])
    found = []
    for document, title, count, spans in zip(documents, titles, counts, offsets, strict=True):
        room = max(limit - tokenizer.specials - count, 2)
        size = room if len(spans) <= room else max(room - SLACK, 2)
        cut = windows(document.text, spans, size=size, overlap=min(OVERLAP, size // 4))
        prefix = f"{title}\n" if title else ""
        found.append([Passage(a, b, prefix + document.text[a:b]) for a, b in cut])
    return found


def _short(title: str, tokenizer: Tokenizer) -> str:
    if len(title) <= TITLE_TOKENS:
        return title
    (spans,) = tokenizer.offsets([title])
    return title if len(spans) <= TITLE_TOKENS else title[: int(spans[TITLE_TOKENS - 1][1])]
