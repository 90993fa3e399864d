"""A small model with random weights for all that is not about meaning; and a count of what it encodes."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import minibi
from minibi import BiEncoder, Collection, LateInteraction
from minibi.text.files import Document

WORDS = ["rain", "sun", "tree", "river", "stone", "bread", "light", "house", "bird", "road", "wind", "salt", "night"]


@pytest.fixture(scope="session")
def model(golden) -> BiEncoder:
    """tiny-bert: 36 dimensions, 48 tokens."""
    return BiEncoder(golden / "tiny-bert")


@pytest.fixture(scope="session")
def late(golden) -> LateInteraction:
    return LateInteraction(golden / "tiny-bert")


@pytest.fixture
def collection(tmp_path, model):
    """A new one."""
    with Collection.create(tmp_path / "c.minibi", model) as made:
        yield made


@pytest.fixture
def encoded(model, monkeypatch) -> list[str]:
    """The texts that were encoded as documents since the list was last cleared."""
    seen: list[str] = []
    real = BiEncoder.encode_document

    def encode_document(self, texts, **options):
        seen.extend(texts)
        return real(self, texts, **options)

    monkeypatch.setattr(BiEncoder, "encode_document", encode_document)
    return seen


@pytest.fixture(scope="session")
def words():
    """words(seed, n) is a text of n words; a long one makes several passages."""

    def words(seed: int, n: int = 6) -> str:
        rng = np.random.default_rng(seed)
        return " ".join(rng.choice(WORDS, n)) + f" {seed}."

    return words


@pytest.fixture(scope="session")
def some(words):
    """some(0, 1, 2) are three documents with their number as key."""
    return lambda *numbers, n=6: [Document(str(i), f"title {i}", words(i, n)) for i in numbers]


@pytest.fixture(scope="session")
def child_env() -> dict[str, str]:
    """Environment of a second process that uses the same package and starts quickly."""
    root = str(Path(minibi.__file__).resolve().parents[1])
    return {**os.environ, "PYTHONPATH": root, "MINIBI_KERNELS": "plain"}


@pytest.fixture(scope="module", autouse=True)
def quick(no_waiting_for_the_disk):
    """For all tests here."""
