"""What of a document the model reads: windows of sentences, each with the document's title before it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..text.files import Document
from ..text.tokenizer import Tokenizer
from ..text.windows import windows

OVERLAP = 32  # tokens that neighbouring windows share
TITLE_TOKENS = 64  # a longer title is cut, as is one beyond a quarter of the limit: every window has room for text
SLACK = 8  # a window that begins or ends inside a word may count a few tokens more by itself


@dataclass(frozen=True, slots=True)
class Passage:
    """A window [start, end) of a document's text, and what is encoded for it."""

    start: int
    end: int
    text: str


def passages_of(
    documents: Sequence[Document], tokenizer: Tokenizer, limit: int, overlap: int = OVERLAP
) -> list[list[Passage]]:
    """The passages of each document, each at most `limit` tokens long with its title.

    overlap: tokens that neighbouring windows share at most, and never more than a quarter of a window.
    """
    most = min(TITLE_TOKENS, limit // 4)
    spans = tokenizer.offsets([d.title for d in documents])
    ends = [s[:most].max(initial=0) if len(s) > most else None for s in spans]
    titles = [d.title[:end] for d, end in zip(documents, ends, strict=True)]
    counts = [len(ids) for ids in tokenizer.bare(titles)]
    offsets = tokenizer.offsets([d.text for d in documents])
    found = []
    for document, title, count, spans in zip(documents, titles, counts, offsets, strict=True):
        room = max(limit - tokenizer.specials - count, 2)
        size = room if len(spans) <= room else max(room - SLACK, 2)
        cut = windows(document.text, spans, size=size, overlap=min(overlap, size // 4))
        prefix = f"{title}\n" if title else ""
        found.append([Passage(a, b, prefix + document.text[a:b]) for a, b in cut])
    return found
