"""Folders of late-interaction models: what they say about markers, lengths, expansion, skip-list and projection.

PyLate        a sentence-transformers folder: Transformer, then Dense modules; config_sentence_transformers.json
              holds query_prefix, document_prefix, query_length, document_length, do_query_expansion,
              attend_to_expansion_tokens and skiplist_words
ColBERT       config.json, artifact.metadata, and `linear.weight` among BERT's own tensors
bi-encoder    no markers, no expansion, no projection: its own token vectors serve, punctuation left out
"""

from __future__ import annotations

import string
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import ModelError
from ..store.tensors import read_header, weight_files
from .locate import read_json
from .modules import Dense

PUNCTUATION = tuple(string.punctuation)


@dataclass(frozen=True)
class LateSettings:
    """How texts become token vectors. Lengths count all tokens, markers included; None: the model's own limit."""

    query_prefix: str = ""
    document_prefix: str = ""
    query_length: int | None = None
    document_length: int | None = None
    do_query_expansion: bool = False
    attend_to_expansion_tokens: bool = False
    skiplist_words: tuple[str, ...] = ()

    def with_options(self, where: Path, **options: Any) -> LateSettings:
        """A copy with the options that are not None. Raises ModelError for values that make no sense."""
        changes = {name: value for name, value in options.items() if value is not None}
        words = changes.get("skiplist_words", ())
        if isinstance(words, str) or not isinstance(words, Iterable):
            raise ModelError(f"{where}: skiplist_words must be a list of words, not {words!r:.60}")
        if "skiplist_words" in changes:
            changes["skiplist_words"] = tuple(words)
        settings = replace(self, **changes)
        for name in ("query_length", "document_length"):
            value = getattr(settings, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 4):
                raise ModelError(f"{where}: {name} must be a whole number of at least 4 tokens, not {value!r}")
        for name in ("query_prefix", "document_prefix"):
            if not isinstance(getattr(settings, name), str):
                raise ModelError(f"{where}: {name} must be a token, not {getattr(settings, name)!r}")
        if not all(isinstance(word, str) for word in settings.skiplist_words):
            raise ModelError(f"{where}: skiplist_words must be a list of words, not {settings.skiplist_words!r}")
        return settings


_PLAIN = LateSettings(skiplist_words=PUNCTUATION)


@dataclass(frozen=True)
class LateFolder:
    """A model folder taken apart: where the transformer lies, its settings, and what projects its states."""

    transformer: Path
    settings: LateSettings
    projection: tuple[Dense, ...] = ()
    linear: bool = False  # the projection is `linear.weight`, among the transformer's own tensors
    plain: bool = field(default=False)  # a bi-encoder: never trained to compare token by token


def read_late_folder(folder: Path, channels: Callable[[Path], int], ops: Any) -> LateFolder:
    """Reads a folder of any of the three kinds. `channels(folder)`: the width of the transformer's states.

    Raises ModelError.
    """
    if not (folder / "modules.json").is_file():
        return _read_colbert(folder)
    raw = read_json(folder / "config_sentence_transformers.json", {})
    entries = read_json(folder / "modules.json", kind=list)
    if not entries or not all(isinstance(e, dict) and "type" in e for e in entries):
        raise ModelError(f"{folder / 'modules.json'} is not a list of modules")
    kinds = [str(e["type"]).rsplit(".", 1)[-1] for e in entries]
    places = [folder / str(e.get("path", "")) for e in entries]
    for entry, place in zip(entries, places, strict=True):
        if not place.resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{folder / 'modules.json'} points outside its folder: {entry['path']!r}")
        if str(entry["type"]).split(".")[0] not in ("sentence_transformers", "pylate"):
            raise ModelError(f"{folder}: module {entry['type']!r} is not supported")
    if kinds[0] != "Transformer":
        raise ModelError(f"{folder}: the first module must be a Transformer, not {entries[0]['type']!r}")
    if "Pooling" in kinds:
        return LateFolder(places[0], _PLAIN, plain=True)
    wrong = [k for k in kinds[1:] if k not in ("Dense", "Normalize")]
    if wrong or "Normalize" in kinds[1:-1]:
        raise ModelError(f"{folder}: modules of a late-interaction model must be Transformer and Dense, not {kinds}")
    if any((raw.get("prompts") or {}).values()):
        raise ModelError(f"{folder}: prompts of a late-interaction model are not supported: only marker tokens are")
    dim, steps = channels(places[0]), []
    for place in [p for p, kind in zip(places, kinds, strict=True) if kind == "Dense"]:
        dense = Dense(place, ops)
        if dense.inputs != dim:
            raise ModelError(f"{place}: the dense layer takes {dense.inputs} numbers, it is given {dim}")
        steps.append(dense)
        dim = dense.outputs
    usual = LateSettings("[Q] ", "[D] ", 32, 180, True, False, PUNCTUATION)
    names = [name for name in vars(usual) if name in raw]
    return LateFolder(places[0], usual.with_options(folder, **{name: raw[name] for name in names}), tuple(steps))


def _read_colbert(folder: Path) -> LateFolder:
    names = {name for file in weight_files(folder) for name in read_header(file)[0]}
    if "linear.weight" not in names:
        warnings.warn(f"{folder} has no projection of token vectors: the model's own states are taken", stacklevel=4)
        return LateFolder(folder, _PLAIN, plain=True)
    raw = read_json(folder / "artifact.metadata", {})
    if raw.get("similarity", "cosine") != "cosine":
        raise ModelError(f"{folder}: similarity {raw['similarity']!r} is not supported: only cosine is")
    settings = LateSettings("[unused0]", "[unused1]", 32, 180, True, False).with_options(
        folder,
        query_prefix=raw.get("query_token_id"),
        document_prefix=raw.get("doc_token_id"),
        query_length=raw.get("query_maxlen"),
        document_length=raw.get("doc_maxlen"),
        attend_to_expansion_tokens=raw.get("attend_to_mask_tokens"),
        skiplist_words=PUNCTUATION if raw.get("mask_punctuation", True) else (),
    )
    return LateFolder(folder, settings, linear=True)
