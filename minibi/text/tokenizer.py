"""Text to token ids: the `tokenizers` library behind one small class.

What a tokenizer.json bakes in about truncation and padding is switched off; the only limit is `max_length`, and when a
text is longer this is reported, never silent. Special tokens are added here from the tokenizer's own template, so
truncation cuts the text and keeps [CLS] and [SEP].
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..arguments import as_path, whole
from ..errors import InputError, ModelError

Tokens = NDArray[np.int32]
Truncation = Literal["warn", "raise", "silent", "chunk"]
AT_ONCE = 1024  # texts whose tokens the tokenizers library holds at a time: some ten kilobytes for each


class TruncationWarning(UserWarning):
    """Texts were longer than the model reads, and their ends were not read."""


class Tokenizer:
    """Tokenizer of a model folder.

    path: a tokenizer.json, or the folder that holds one. max_length: tokens per text, special ones included; None reads
    `max_seq_length` from sentence_bert_config.json, else `model_max_length` from tokenizer_config.json, else no limit.
    Raises ModelError if the file is missing or not understood.
    """

    def __init__(self, path: str | Path, max_length: int | None = None):
        import tokenizers

        path = as_path(path)
        folder, file = (path, path / "tokenizer.json") if path.is_dir() else (path.parent, path)
        if not file.is_file():
            raise ModelError(f"{folder} has no tokenizer.json: save the model with a fast tokenizer")
        try:
            self._backend = tokenizers.Tokenizer.from_file(str(file))
        except Exception as e:  # the library raises plain Exception
            raise ModelError(f"{file} cannot be read as a tokenizer: {e}") from None
        self._backend.no_truncation()
        self._backend.no_padding()
        self.max_length = _configured_length(folder) if max_length is None else max_length
        if max_length is not None:
            whole("max_length", max_length)
        if self.max_length is not None and self.max_length <= max(self.specials, self.pair_specials):
            raise ModelError(f"max_length {self.max_length} leaves no room for text beside the special tokens")

    @property
    def vocabulary(self) -> dict[str, int]:
        """token -> id"""
        return self._backend.get_vocab()

    def tokens(self, ids: Sequence[int]) -> list[str]:
        """The written form of each id."""
        return [self._backend.id_to_token(int(i)) or "" for i in ids]

    def _template(self, pair: bool) -> list[tuple[int | str, int]]:
        """What the post-processor builds: ("A" | "B" | special id, type id) in order. Found by asking it once."""
        probe = self._backend.encode("a", "a") if pair else self._backend.encode("a")
        parts: list[tuple[int | str, int]] = []
        for token, kind, side, special in zip(
            probe.ids, probe.type_ids, probe.sequence_ids, probe.special_tokens_mask, strict=True
        ):
            part = (token, kind) if special else ("AB"[side or 0], kind)
            if special or part not in parts:
                parts.append(part)
        return parts

    @cached_property
    def _single(self) -> list[tuple[int | str, int]]:
        return self._template(pair=False)

    @cached_property
    def _pair(self) -> list[tuple[int | str, int]]:
        return self._template(pair=True)

    @property
    def specials(self) -> int:
        """Special tokens around one text."""
        return sum(isinstance(part, int) for part, _ in self._single)

    @property
    def pair_specials(self) -> int:
        return sum(isinstance(part, int) for part, _ in self._pair)

    @property
    def pair_types(self) -> int:
        """How many types the tokens of a pair have: 2 where they tell its sides apart."""
        return 1 + max((kind for _, kind in self._pair), default=0)

    def bare(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text without special tokens and without any limit."""
        return [e.ids for e in self._encode(texts, self._backend.encode_batch_fast)]

    def offsets(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Character spans [T, 2] of the tokens of each text, without special tokens."""
        return [np.array(e.offsets, np.int64).reshape(-1, 2) for e in self._encode(texts, self._backend.encode_batch)]

    def _encode(self, texts: Sequence[str], encode: Any) -> list[Any]:
        texts = as_texts(texts)
        try:
            return encode(texts, add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            return encode([_without_surrogates(text) for text in texts], add_special_tokens=False)

    def encode(self, texts: Sequence[str], truncation: Truncation = "warn", first_number: int = 0) -> list[Tokens]:
        """Token ids with special tokens, at most `max_length` of them.

        Longer texts are cut: with one TruncationWarning that says how many ("warn"), not at all but InputError
        ("raise"), or without a word ("silent"). first_number: the first text's, in such words.
        """
        texts, room = as_texts(texts), self._room(self.specials)
        tokens: list[Tokens] = []
        long = []
        for first in range(0, len(texts), AT_ONCE):
            for i, ids in enumerate(self.bare(texts[first : first + AT_ONCE]), first):
                if len(ids) > room:
                    long.append(first_number + i)
                tokens.append(self._dress(self._single, ids[:room])[0])
        self._report(long, truncation)
        return tokens

    def encode_chunks(self, texts: Sequence[str], prompt: str = "") -> list[list[Tokens]]:
        """Each text as one or more pieces of at most `max_length` tokens, of nearly equal length, none lost.

        Every piece begins with the prompt.
        """
        (whole_head,) = self.bare([prompt])
        room = self._room(self.specials)
        if len(whole_head) >= room:
            raise InputError(f"the prompt leaves no room for text within {self.max_length} tokens: use a shorter one")
        chunks = []
        for ids in self.bare([prompt + text for text in as_texts(texts)]):
            head = whole_head if ids[: len(whole_head)] == whole_head else []  # else: it ran into the first word
            rest = ids[len(head) :]
            count = max(1, -(-len(rest) // (room - len(head))))
            cuts = [round(i * len(rest) / count) for i in range(count + 1)]
            chunks.append([self._dress(self._single, head + rest[a:b])[0] for a, b in pairwise(cuts)])
        return chunks

    def encode_pairs(
        self, pairs: Sequence[tuple[str, str]], truncation: Truncation = "warn"
    ) -> list[tuple[Tokens, Tokens]]:
        """(ids, type ids) of each pair; when too long, tokens are dropped from the longer side first."""
        for i, pair in enumerate(pairs):
            if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(side, str) for side in pair):
                raise InputError(f"pair number {i} is not two strings: pass [(query, document), ...]")
        sides = [self.bare([pair[side] for pair in pairs]) for side in (0, 1)]
        room = self._room(self.pair_specials)
        self._report([i for i, (a, b) in enumerate(zip(*sides, strict=True)) if len(a) + len(b) > room], truncation)
        out = []
        for a, b in zip(*sides, strict=True):
            keep_a, keep_b = longest_first(len(a), len(b), room)
            out.append(self._dress(self._pair, a[:keep_a], b[:keep_b]))
        return out

    def _room(self, specials: int) -> int:
        return 2**62 if self.max_length is None else self.max_length - specials

    def _dress(self, template: list[tuple[int | str, int]], *sides: Sequence[int]) -> tuple[Tokens, Tokens]:
        ids: list[int] = []
        types: list[int] = []
        for part, kind in template:
            piece = [part] if isinstance(part, int) else sides["AB".index(part)]
            ids.extend(piece)
            types.extend([kind] * len(piece))
        return np.array(ids, np.int32), np.array(types, np.int32)

    def _report(self, long: list[int], truncation: Truncation) -> None:
        if truncation not in ("warn", "raise", "silent"):
            raise InputError(f"truncation {truncation!r} is not 'warn', 'raise', 'silent' or 'chunk'")
        if not long or truncation == "silent":
            return
        some = f"{len(long)} of the texts (first: number {long[0]}) exceed {self.max_length} tokens"
        if truncation == "raise":
            raise InputError(f"{some}: shorten them, or pass truncation='warn' or 'chunk'")
        warnings.warn(f"{some} and were cut", TruncationWarning, stacklevel=5)


def longest_first(a: int, b: int, room: int) -> tuple[int, int]:
    """How many tokens of two sides of length a and b to keep so that their sum is at most `room`.

    The rule of the `longest_first` truncation in tokenizers: the longer side shrinks to what the shorter leaves; if
    both are longer than half, each keeps half, and the odd token goes to the longer side (equal: to the second).
    """
    if a + b <= room:
        return a, b
    swapped = a > b
    short, long = (b, a) if swapped else (a, b)
    long = short if short > room else max(short, room - short)
    if short + long > room:
        short = room // 2
        long = short + room % 2
    return (long, short) if swapped else (short, long)


def _configured_length(folder: Path) -> int | None:
    for name, key in (("sentence_bert_config.json", "max_seq_length"), ("tokenizer_config.json", "model_max_length")):
        try:
            value = json.loads((folder / name).read_text(encoding="utf-8")).get(key)
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError) as e:
            raise ModelError(f"{folder / name} is not a JSON object: {e}") from None
        if isinstance(value, int) and 0 < value < 10**9:  # transformers writes 10^30 for "no limit"
            return value
    return None


def as_texts(texts: str | Sequence[str]) -> list[str]:
    """A list of strings, from one or many. Raises InputError that names the first thing that is no string."""
    if isinstance(texts, str):
        return [texts]
    try:
        if isinstance(texts, (bytes, set, frozenset)):  # numbers; no order
            raise TypeError
        found = list(texts)
    except TypeError:
        raise InputError(f"expected a string or a list of strings, not {type(texts).__name__}") from None
    for i, text in enumerate(found):
        if not isinstance(text, str):
            raise InputError(f"text number {i} is {type(text).__name__}, not str: pass strings only")
    return [str(text) for text in found]  # NumPy's str_ included


def _without_surrogates(text: str) -> str:
    """Text that UTF-8 can hold: a lone surrogate becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
