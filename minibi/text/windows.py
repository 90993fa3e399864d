"""Long documents cut into overlapping windows at sentence boundaries.

A window is a span of characters of the text as it stands, so a hit can be shown where it was found. Windows cover every
character that is not white space, hold at most `size` tokens and are made of whole sentences where these fit. Time and
memory are linear in the text.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

# Possessive repeats (++, *+) and the look-behind keep the search linear on "......" and on blank lines without end.
_BREAK = re.compile(
    r"""(?P<stop>(?<![.!?…])[.!?…।॥؟۔]++["'”’»)\]}*_]*+)(?=\s++(?P<next>\S))  # a stop, then space
      | [。！？｡]++[」』”’）】]*+                                              # full-width stops need no space
      | (?:\r\n?+|\n)[^\S\r\n]*+(?:\r\n?+|\n)                                # a blank line
      | (?:\r\n?+|\n)(?=[^\S\r\n]*+(?:[-*+•‣–]|\d{1,3}[.)])[ \t])            # the next line is a list item""",
    re.VERBOSE,
)
_ABBREVIATIONS = """al approx bros ca capt cf ch cmdr col corp dept dr ed eds eq eqs est ex fig figs gen gov hon inc jr
lt ltd mr mrs ms mt nos op pp prof ref refs rep resp rev sec sen sgt sr st tab viz vol vols vs
jan feb mar apr jun jul aug sep sept oct nov dec"""
ABBREVIATIONS = frozenset(_ABBREVIATIONS.split())
BEFORE_NUMBERS = frozenset({"no", "p", "art", "nr"})  # abbreviations only where a number follows

Spans = list[tuple[int, int]]


def sentences(text: str) -> Spans:
    """Character spans (start, end) of the sentences of `text`, in order, disjoint, without space around them.

    Together they hold every character that is not white space. Sentences end at . ! ? … before space, unless a
    lower-case letter follows or the stop belongs to an abbreviation, an initial or a list number; at 。！？; at
    blank lines; before list items. Decimals, dotted names and URLs hold together since no space follows their dots.
    """
    spans: Spans = []
    cuts = [m.end() for m in _BREAK.finditer(text) if m["stop"] is None or _ends_sentence(text, m)]
    for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True):
        _append_trimmed(spans, text, a, b)
    return spans


def _ends_sentence(text: str, m: re.Match[str]) -> bool:
    if m["next"].islower():
        return False
    if m["stop"] != ".":
        return True
    before = text[max(0, m.start() - 16) : m.start()]
    word = re.search(r"\w*\Z", before)[0]  # type: ignore[index]
    if word.isdecimal():  # "1. Install" at the head of a line is an item, not a sentence
        ahead = before[: len(before) - len(word)].rstrip(" \t")
        return len(word) > 3 or ahead[-1:] not in ("\n", "\r", "")
    if len(word) == 1 and word.isalpha() and word.isascii():  # "J. Smith", "e.g. Rome", "U.S. Senate"
        return False
    low = word.lower()
    return low not in ABBREVIATIONS and not (low in BEFORE_NUMBERS and m["next"].isdecimal())


def _append_trimmed(spans: Spans, text: str, a: int, b: int) -> None:
    piece = text[a:b]
    if body := piece.strip():
        a += len(piece) - len(piece.lstrip())
        spans.append((a, a + len(body)))


def windows(text: str, offsets: NDArray[np.integer], *, size: int, overlap: int) -> Spans:
    """Character spans (start, end) of windows over `text`, each of at most `size` tokens.

    `offsets` [T, 2] are the character spans of the text's own tokens (no special tokens), starts non-decreasing; odd
    ones (empty, repeated, out of order) are drawn to their neighbours and still count as tokens.

    A window holds as many whole sentences as fit; the next begins with up to `overlap` tokens' worth of the sentences
    at its end, as far as a whole further sentence still fits. A sentence longer than `size` is cut between
    words where there is space between them, otherwise between tokens, and its pieces share `overlap` tokens; tokens
    that share characters are never parted, even if more than `size` of them do. A text within `size` tokens is
    one window; a text without tokens has none.

    Raises InputError unless 0 <= overlap < size.
    """
    if not 0 <= overlap < size:
        raise InputError(f"overlap must be at least 0 and less than the window's size of {size}, not {overlap}")
    spans: Spans = []
    T = len(offsets)
    if T == 0:
        return spans
    if size >= T:
        _append_trimmed(spans, text, 0, len(text))
        return spans
    starts = np.maximum.accumulate(np.clip(offsets[:, 0], 0, len(text)))  # [T]
    ends = np.maximum.accumulate(np.clip(np.maximum(offsets[:, 1], starts), 0, len(text)))  # [T] end of all so far
    sentence_starts = np.array([a for a, _ in sentences(text)] or [0])
    home = np.searchsorted(sentence_starts, np.maximum(starts, ends - 1), side="right") - 1  # [T] each token's sentence
    home, heads = np.unique(np.maximum(home, 0), return_index=True)  # sentences that have tokens, and their first ones
    begin = starts.copy()  # [T] where the text of a window begins whose first token is this one
    begin[heads] = sentence_starts[home]
    begin = [0, *begin[1:].tolist(), len(text)]

    apart = np.flatnonzero((starts[1:] >= ends[:-1]) & (starts[1:] > starts[:-1])) + 1  # clean edge before the token
    space = np.array([text[i : i + 1].isspace() for i in starts[apart].tolist()], bool)  # " word" is a token to some
    spaced = apart[(starts[apart] > ends[apart - 1]) | space]
    bounds = [*heads.tolist(), T]
    cuts = [sorted({*bounds, *where.tolist()}) for where in (spaced, apart)]  # the better kind first

    a, reach = 0, 0  # the first token of the window at hand; all tokens before `reach` are covered
    while True:
        b = _last(bounds, a + size)
        if b <= reach:  # no further whole sentence fits: cut it
            b = _cut(a, reach, size, cuts)
        if b <= reach:  # nor does the next word, with the overlap
            a = reach
            b = _cut(a, reach, size, cuts) or cuts[1][bisect_right(cuts[1], reach)]
        _append_trimmed(spans, text, begin[a], begin[b])
        if b == T:
            return spans
        a, reach = _overlapping(a, b, overlap, size, bounds, cuts), b


def _last(where: list[int], most: int) -> int:
    """The last of the ascending `where` that is <= most; `where` begins with 0."""
    return where[bisect_right(where, most) - 1]


def _cut(a: int, reach: int, size: int, cuts: list[list[int]]) -> int:
    """The end of a window [a, …) that ends inside a sentence and beyond `reach`, 0 if there is no place for it."""
    between_words = _last(cuts[0], a + size)
    if between_words > max(reach, a + size // 2):
        return between_words
    between_tokens = _last(cuts[1], a + size)
    return between_tokens if between_tokens > reach else 0


def _overlapping(a: int, reach: int, overlap: int, size: int, bounds: list[int], cuts: list[list[int]]) -> int:
    """The first token of the window after [a, reach): at most `overlap` tokens back, and later than `a`."""
    earliest = max(reach - overlap, a + 1)
    i = bisect_left(bounds, reach)
    if bounds[i] == reach:  # whole sentences, as many as leave room for the next one
        where = bounds[bisect_left(bounds, max(earliest, bounds[i + 1] - size))]
        return min(where, reach)
    spaced, apart = cuts
    where = spaced if spaced[bisect_left(spaced, reach)] == reach else apart
    return min(where[bisect_left(where, earliest)], reach)
