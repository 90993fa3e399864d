"""Prompts: the words some models want before a query or a document, from their config or from what is known of them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError

QUERY_NAMES = ("query",)
DOCUMENT_NAMES = ("document", "passage", "corpus")

_BGE = "Represent this sentence for searching relevant passages: "
_KNOWN = (  # (name of the model, its prompts), from the models' own cards
    (r"\b(multilingual-)?e5-(small|base|large)(?!-instruct)", {"query": "query: ", "document": "passage: "}),
    (r"\bbge-(small|base|large)-en", {"query": _BGE, "document": ""}),
    (r"\bmxbai-embed-(large|xsmall)", {"query": _BGE, "document": ""}),
    (r"\bsnowflake-arctic-embed-[a-z]+$", {"query": _BGE, "document": ""}),
)


def known_prompts(name: str | Path) -> dict[str, str]:
    """The prompts of a model family that needs them but whose folder states none; empty for all others."""
    text = str(name).lower().replace("--", "/")
    return next((dict(prompts) for pattern, prompts in _KNOWN if re.search(pattern, text)), {})


def choose(prompts: Mapping[str, str], default: str | None, name: str | None, prompt: str | None) -> str:
    """The prompt to put before a text: `prompt` itself, else the one called `name`, else the default one, else none."""
    if prompt is not None:
        if not isinstance(prompt, str):
            raise InputError(f"prompt must be a string, not {type(prompt).__name__}")
        return prompt
    wanted = name if name is not None else default
    if wanted is None:
        return ""
    if wanted not in prompts:
        raise InputError(f"no prompt is called {wanted!r}: this model has {sorted(prompts)}")
    return prompts[wanted]


def as_prompts(prompts: Mapping[str, str]) -> dict[str, str]:
    """A user's own prompts. Raises InputError unless they map names to strings."""
    if not isinstance(prompts, Mapping) or not all(isinstance(x, str) for pair in prompts.items() for x in pair):
        raise InputError(f'prompts must map names to strings, such as {{"query": "query: "}}, not {prompts!r:.60}')
    return dict(prompts)


def first_of(prompts: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    """The first of `names` that is a prompt."""
    return next((n for n in names if n in prompts), None)


def read_prompts(raw: Mapping, name: str | Path) -> dict[str, str]:
    """Prompts from config_sentence_transformers.json, else those known for the family, with a warning."""
    prompts = {str(k): str(v) for k, v in (raw.get("prompts") or {}).items()}
    if any(prompts.values()):
        return prompts
    if known := known_prompts(name):
        warnings.warn(
            f"{name} states no prompts but was trained with some: using {known} (pass prompts={{}} to use none)",
            stacklevel=3,
        )
        return known
    return prompts
