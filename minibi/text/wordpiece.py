"""WordPiece as BERT uses it, in plain Python: what the library behind `Tokenizer` does, for reading.

Clean the text, split it into words and punctuation, and cut each word greedily into the longest pieces the vocabulary
knows; pieces inside a word begin with ##. (Devlin et al. 2019; Wu et al. 2016, section 4.1.)

What counts as punctuation, accent or control is up to the Unicode version: the library knows that of 2015, Python a
newer one, so a mark that was added in between may be cut differently.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping

MAX_WORD = 100  # longer words become [UNK]


def is_cjk(c: str) -> bool:
    """Chinese characters stand alone: each is a word. (Extension E begins at 2B820, but the library says 2B920.)"""
    return any(
        a <= ord(c) <= b
        for a, b in (
            (0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
            (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F),
        )
    )  # fmt: skip


def is_punctuation(c: str) -> bool:
    """Unicode punctuation, and every ASCII symbol that is no letter or digit."""
    return unicodedata.category(c).startswith("P") or (c.isascii() and c.isprintable() and not c.isalnum() and c != " ")


def normalize(text: str) -> str:
    """Controls dropped, white space to blanks, accents stripped, lower case."""
    kept = []
    for c in text:
        if c in "\t\n\r" or unicodedata.category(c) == "Zs":
            kept.append(" ")
        elif c not in "\0\ufffd" and unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cs"):
            kept.append(f" {c} " if is_cjk(c) else c)
    decomposed = unicodedata.normalize("NFD", "".join(kept))
    return "".join(c.lower() for c in decomposed if unicodedata.category(c) != "Mn")  # by itself: no final sigma


def words(text: str) -> list[str]:
    """Split at white space; each punctuation mark is a word of its own."""
    return "".join(f" {c} " if is_punctuation(c) else c for c in normalize(text)).split()


def pieces(word: str, vocabulary: Mapping[str, int], unknown: str = "[UNK]") -> list[str]:
    """The longest piece in the vocabulary, then the longest that continues it, and so on; [UNK] if one is missing."""
    found: list[str] = []
    start = 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((e for e in range(len(word), start, -1) if prefix + word[start:e] in vocabulary), None)
        if end is None or len(word) > MAX_WORD:
            return [unknown]
        found.append(prefix + word[start:end])
        start = end
    return found


SPECIAL = re.compile(r"(\[(?:PAD|UNK|CLS|SEP|MASK)\])")


def encode(text: str, vocabulary: Mapping[str, int]) -> list[int]:
    """Token ids of `text` between [CLS] and [SEP]. A special token written out in the text stays that token."""
    tokens = ["[CLS]"]
    for stretch in SPECIAL.split(text):
        if SPECIAL.fullmatch(stretch):
            tokens.append(stretch)
        else:
            tokens += [piece for word in words(stretch) for piece in pieces(word, vocabulary)]
    return [vocabulary[token] for token in [*tokens, "[SEP]"]]
