"""The English Snowball stemmer (Porter2): inflected forms of a word to one stem, "connections" to "connect".

After M. F. Porter, "The English (Porter2) stemming algorithm" (2001), as the Snowball project defines it since its
version 3.0 (https://snowballstem.org/algorithms/english/stemmer.html). A stem need not be a word ("generous" gives
"generous", "beautiful" gives "beauti"). Words are expected in lower case; what is not English passes with little harm.
"""

from __future__ import annotations

import re

VOWELS = "aeiouy"
_SYLLABLE = re.compile("[^aeiouy]*[aeiouy]+[^aeiouy]")  # up to the first non-vowel that follows a vowel
_Y_AS_CONSONANT = re.compile("^y|(?<=[aeiouy])y")
_SHORT_END = re.compile("(?:[^aeiouy][aeiouy][^aeiouywxY]|^[aeiouy][^aeiouy]|past)$")
_HAS_VOWEL = re.compile("[aeiouy]")

# Beginnings after which R1 starts, whatever their letters: they keep apart general and generate, past and paste, ...
_R1_AFTER = re.compile("gener|commun|arsen|past|univers|later|emerg|organ|inter")

_WHOLE_WORDS = {
    "skis": "ski", "skies": "sky",
    "idly": "idl", "gently": "gentl", "ugly": "ugli", "early": "earli", "only": "onli", "singly": "singl",
    "sky": "sky", "news": "news", "howe": "howe",
    "atlas": "atlas", "cosmos": "cosmos", "bias": "bias", "andes": "andes",
}  # fmt: skip
_NO_PARTICIPLES = {"inning", "outing", "canning", "herring", "earring", "evening"}
_NO_AGREEMENTS = {"proceed", "exceed", "succeed"}

_STEP_2 = {
    "tional": "tion", "enci": "ence", "anci": "ance", "abli": "able", "entli": "ent", "izer": "ize", "ization": "ize",
    "ational": "ate", "ation": "ate", "ator": "ate", "alism": "al", "aliti": "al", "alli": "al", "fulness": "ful",
    "ousli": "ous", "ousness": "ous", "iveness": "ive", "iviti": "ive", "biliti": "ble", "bli": "ble", "ogist": "og",
    "ogi": "og", "fulli": "ful", "lessli": "less", "li": "",
}  # fmt: skip
_STEP_3 = {
    "tional": "tion", "ational": "ate", "alize": "al", "icate": "ic", "iciti": "ic", "ical": "ic",
    "ful": "", "ness": "", "ative": "",
}  # fmt: skip
_STEP_4 = dict.fromkeys(
    (
        "al", "ance", "ence", "er", "ic", "able", "ible", "ant", "ement", "ment", "ent", "ism", "ate", "iti", "ous",
        "ive", "ize", "ion",
    ),
    "",
)  # fmt: skip


def stem(word: str) -> str:
    """The stem of one lower-case English word."""
    if len(word) <= 2:
        return word
    if word in _WHOLE_WORDS:
        return _WHOLE_WORDS[word]
    if word[0] == "'":
        word = word[1:]
    marked = "y" in word
    if marked:
        word = _y_marked(word)
    r1, r2 = _regions(word)
    word = _step_1a(_step_0(word))
    word = _step_1c(_step_1b(word, r1))
    word = _step_2(word, r1)
    word = _step_3(word, r1, r2)
    word = _step_4(word, r2)
    word = _step_5(word, r1, r2)
    return word.replace("Y", "y") if marked else word


def _y_marked(word: str) -> str:
    """A y that begins the word or follows a vowel is a consonant, written Y; then the next y follows no vowel."""
    return _Y_AS_CONSONANT.sub("Y", word) if "yy" not in word else _y_marked_singly(word)


def _y_marked_singly(word: str) -> str:
    letters = list(word)
    for i, letter in enumerate(letters):
        if letter == "y" and (i == 0 or letters[i - 1] in VOWELS):
            letters[i] = "Y"
    return "".join(letters)


def _regions(word: str) -> tuple[int, int]:
    """Where R1 and R2 begin: R1 after the first non-vowel that follows a vowel, R2 the same within R1."""
    match = _R1_AFTER.match(word) or _SYLLABLE.match(word)
    if match is None:
        return len(word), len(word)
    r1 = match.end()
    match = _SYLLABLE.match(word, r1)
    return r1, match.end() if match else len(word)


def _suffix(word: str, rules: dict[str, str], longest: int) -> str | None:
    """The longest of the rules' suffixes that the word ends in."""
    for length in range(min(longest, len(word)), 1, -1):
        end = word[-length:]
        if end in rules:
            return end
    return None


def _step_0(word: str) -> str:
    """The genitive."""
    if "'" in word:
        for end in ("'s'", "'s", "'"):
            if word.endswith(end):
                return word[: -len(end)]
    return word


def _step_1a(word: str) -> str:
    """The plural."""
    if word.endswith("sses"):
        return word[:-2]
    if word.endswith(("ied", "ies")):
        return word[:-2] if len(word) > 4 else word[:-1]
    if word.endswith(("us", "ss")):
        return word
    if word.endswith("s") and _HAS_VOWEL.search(word, 0, len(word) - 2):
        return word[:-1]
    return word


def _step_1b(word: str, r1: int) -> str:
    """Past and participle."""
    for end in ("eedly", "eed"):
        if word.endswith(end):
            place = len(word) - len(end)
            return word[: place + 2] if place >= r1 and word[: place + 3] not in _NO_AGREEMENTS else word
    for end in ("ingly", "edly", "ing", "ed"):
        if word.endswith(end):
            break
    else:
        return word
    if end == "ing":
        if len(word) == 5 and word[1] == "y" and word[0] not in VOWELS:  # dying, lying, tying
            return word[0] + "ie"
        if word in _NO_PARTICIPLES:
            return word
    rest = word[: -len(end)]
    if not _HAS_VOWEL.search(rest):
        return word
    if rest.endswith(("at", "bl", "iz")):
        return rest + "e"
    if rest.endswith(("bb", "dd", "ff", "gg", "mm", "nn", "pp", "rr", "tt")):
        return rest if len(rest) == 3 and rest[0] in "aeo" else rest[:-1]
    return rest + "e" if r1 == len(rest) and _SHORT_END.search(rest) else rest


def _step_1c(word: str) -> str:
    """A final y that sounds like i."""
    return word[:-1] + "i" if len(word) > 2 and word[-1] in "yY" and word[-2] not in VOWELS else word


def _step_2(word: str, r1: int) -> str:
    """Doubled derivations: -ization to -ize, -fulness to -ful."""
    end = _suffix(word, _STEP_2, 7)
    if end is None or len(word) - len(end) < r1:
        return word
    rest = word[: -len(end)]
    if (end == "li" and rest[-1:] not in tuple("cdeghkmnrt")) or (end == "ogi" and rest[-1:] != "l"):
        return word
    return rest + _STEP_2[end]


def _step_3(word: str, r1: int, r2: int) -> str:
    """-ical, -ful, -ness and their kin."""
    end = _suffix(word, _STEP_3, 7)
    if end is None or len(word) - len(end) < (r2 if end == "ative" else r1):
        return word
    return word[: -len(end)] + _STEP_3[end]


def _step_4(word: str, r2: int) -> str:
    """The last derivation, where enough is left before it."""
    end = _suffix(word, _STEP_4, 5)
    if end is None or len(word) - len(end) < r2 or (end == "ion" and word[-4:-3] not in ("s", "t")):
        return word
    return word[: -len(end)]


def _step_5(word: str, r1: int, r2: int) -> str:
    """A final e, and the second of two l."""
    place = len(word) - 1
    if word.endswith("e") and (place >= r2 or (place >= r1 and not _SHORT_END.search(word, 0, place))):
        return word[:-1]
    return word[:-1] if word.endswith("ll") and place >= r2 else word
