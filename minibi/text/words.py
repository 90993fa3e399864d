"""Text to the terms that BM25 counts: folded words, without stop words, stemmed.

    Words()("The naïve CATS ran to Ångström!")  ->  ["naiv", "cat", "ran", "angstrom"]

1. Fold: compatibility forms and accents go, case too (NFKD, combining accents dropped, casefold, NFC).
2. Split: words are the longest runs of letters, digits, underscores and the vowel signs of scripts that have them; each
   Chinese character is a word of its own. Words of one character are dropped, Chinese ones excepted.
3. Drop stop words, and stem.

The same text gives the same terms everywhere, but for letters that are newer than the Unicode of the running Python.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from ..errors import InputError
from .stemmer import stem

# The stop words of Lucene's English analyzer: rare enough in queries that matter, and a third of running text.
ENGLISH_STOP_WORDS = frozenset(
    (
        "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not",
        "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was",
        "will", "with",
    )
)  # fmt: skip

_ASCII = "".join(chr(c).lower() if chr(c).isalnum() or chr(c) == "_" else " " for c in range(128))
# Accents and points that may be left out in writing: Latin, Greek, Cyrillic, Hebrew, Arabic; marks drawn around or
# above symbols; the invisible soft hyphen, word joiner and byte order mark. Not: Indic vowels, Japanese voicing.
_ACCENTS = re.compile(
    "[\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20f0\ufe20-\ufe2f"
    "\u00ad\u2060\ufeff]"
)
_BARRED = {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ŧ": "t", "æ": "ae", "œ": "oe", "ı": "i", "ð": "d", "þ": "th"}
_ANY_BARRED = re.compile("[" + "".join(_BARRED) + "]")
_IDEOGRAPH = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
# \w, and the vowel signs and viramas that \w leaves out: Indic and Tibetan, Thai, Lao, Burmese, Khmer, voiced kana
_WORD = re.compile(
    "[\\w\u0900-\u0963\u0971-\u0df3\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1\u0eb4-\u0ebc\u0ec8-\u0ecd\u0f18\u0f19\u0f35"
    "\u0f37\u0f39\u0f71-\u0f84\u0f8d-\u0fbc\u102b-\u103e\u1056-\u1059\u17b4-\u17d3\u3099\u309a]+"
)


def fold(text: str) -> str:
    """Text without case, accents and compatibility forms: "Ångström" and "ANGSTRÖM" give "angstrom"."""
    if text.isascii():
        return text.lower()
    text = _ACCENTS.sub("", unicodedata.normalize("NFKD", text)).casefold()
    if _ANY_BARRED.search(text):
        text = _ANY_BARRED.sub(lambda letter: _BARRED[letter[0]], text)
    return unicodedata.normalize("NFC", text)


def split(text: str) -> list[str]:
    """The folded words of a text, all of them, in order."""
    if not text.isascii():
        text = fold(text)
        if not text.isascii():
            return _WORD.findall(_IDEOGRAPH.sub(r" \g<0> ", text))
    return text.translate(_ASCII).split()


class Words:
    """A tokenizer for lexical search: `words(text)` are its terms.

    stop_words: "english", None, or the words to leave out. stemmer: "english", None, or any function of one word
    (which then must be given again when a saved index is loaded). min_length: shorter words are left out.
    Raises InputError.
    """

    def __init__(
        self,
        stop_words: str | Iterable[str] | None = "english",
        stemmer: str | Callable[[str], str] | None = "english",
        min_length: int = 2,
    ):
        if isinstance(stop_words, str) and stop_words != "english":
            raise InputError(f"stop_words {stop_words!r} is not 'english', None or a collection of words")
        if isinstance(stemmer, str) and stemmer != "english":
            raise InputError(f"stemmer {stemmer!r} is not 'english', None or a function of a word")
        if isinstance(min_length, bool) or not isinstance(min_length, int) or min_length < 1:
            raise InputError(f"min_length must be a whole number of at least 1, not {min_length!r}")
        try:
            chosen = ENGLISH_STOP_WORDS if stop_words == "english" else map(fold, stop_words or ())
            self.stop_words = frozenset(chosen)
        except (TypeError, AttributeError):
            raise InputError("stop_words must be a collection of strings") from None
        self.stemmer, self.min_length = stemmer, min_length
        self._stem = stem if stemmer == "english" else stemmer if stemmer is not None else str
        if not callable(self._stem):
            raise InputError(f"stemmer {stemmer!r} is not 'english', None or a function of a word")

    def __repr__(self) -> str:
        stopping = "english" if self.stop_words == ENGLISH_STOP_WORDS else sorted(self.stop_words)
        return f"Words(stop_words={stopping!r}, stemmer={self.stemmer!r}, min_length={self.min_length})"

    def __call__(self, text: str) -> list[str]:
        """The terms of one text, in order."""
        return [term for word in split(text) if (term := self.term(word)) is not None]

    def keys(self, texts: Sequence[str]) -> Iterable[list[str]]:
        """The words of each text before stop words and stems; `term` turns each distinct one into a term, once."""
        return map(split, texts)

    def term(self, key: str) -> str | None:
        """The term of a folded word, None if it is left out."""
        if key in self.stop_words or (len(key) < self.min_length and not _IDEOGRAPH.match(key)):
            return None
        return self._stem(key) or None

    def settings(self) -> dict[str, Any] | None:
        """What `Words(**settings)` needs to become this again, None if that cannot be written down."""
        if callable(self.stemmer):
            return None
        return {"stop_words": sorted(self.stop_words), "stemmer": self.stemmer, "min_length": self.min_length}
