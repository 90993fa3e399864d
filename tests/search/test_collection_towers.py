"""A collection and the encoders that may ask it: those whose queries belong to its vectors, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from minibi import BiEncoder, Collection, Towers
from minibi.errors import InputError
from minibi.models.surgery import add_projection, write_settings
from minibi.models.towers import copy_encoder, save_towers
from minibi.search.retrievers import Dense
from minibi.search.vector_cache import VectorCache
from minibi.text.files import Document

TEXTS = [Document(key=str(i), title="", text=text) for i, text in enumerate(["a river runs", "stone", "the house"])]


@pytest.fixture(scope="module")
def pair(golden_tiny, tmp_path_factory) -> Path:
    """Towers whose document side is tiny-bert itself, and whose query side is another encoder of its width."""
    folder = tmp_path_factory.mktemp("towers") / "pair"
    document = BiEncoder(golden_tiny)
    add_projection(golden_tiny, folder / "query", document.dim, seed=3)
    copy_encoder(document, folder / "document")
    save_towers(folder)
    return folder


@pytest.fixture(scope="module")
def golden_tiny() -> Path:
    return Path(__file__).resolve().parents[1] / "golden" / "tiny-bert"


@pytest.fixture
def filled(tmp_path, golden_tiny):
    """A collection that tiny-bert filled, before there was any other tower."""
    with Collection.create(tmp_path / "c.minibi", BiEncoder(golden_tiny)) as collection:
        collection.sync("texts", TEXTS)
    return tmp_path / "c.minibi"


def test_a_query_tower_asks_what_its_document_tower_filled(filled, pair):
    vector = BiEncoder(pair / "query").encode_query("stone", normalize_embeddings=True)
    for model in (BiEncoder(pair / "query"), Towers.load(pair)):
        with Collection.open(filled, model) as collection:
            hits = collection.search("stone", 3)
            vectors = model.encode_query("stone", normalize_embeddings=True)
            assert (vectors == vector).all()
            assert len(hits) == 3
    with Collection.open(filled) as collection:
        assert [h.score for h in collection.search("stone", 3)] != [h.score for h in hits]


def test_in_int8_too(golden_tiny, pair, tmp_path):
    document = BiEncoder(golden_tiny, compute="int8")
    with Collection.create(tmp_path / "c.minibi", document) as collection:
        collection.sync("texts", TEXTS)
    for model in (BiEncoder(pair / "query", compute="int8"), Towers.load(pair, compute="int8")):
        with Collection.open(tmp_path / "c.minibi", model) as collection:
            assert len(collection.search("stone", 3)) == 3
    for query in (BiEncoder(pair / "query"), BiEncoder(pair / "query", compute="int8")):
        for other in (document, BiEncoder(golden_tiny)):
            Towers(query, other)  # the space is one, whatever the arithmetic
    with pytest.raises(InputError, match="other settings"):  # but a collection has one arithmetic
        Collection.open(tmp_path / "c.minibi", BiEncoder(pair / "query"))


def test_a_tower_that_knows_one_fingerprint(golden_tiny, pair, tmp_path):
    """As a text, it is that of float32."""
    known = BiEncoder(golden_tiny)
    query = add_projection(golden_tiny, tmp_path / "query", known.dim, seed=4)
    write_settings(query, tower="query", document_fingerprint=known.fingerprint)
    assert BiEncoder(query).space == known.space
    stranger = BiEncoder(query, compute="int8").space
    assert stranger not in (known.space, BiEncoder(golden_tiny, compute="int8").space)


def test_a_query_tower_cannot_fill(filled, pair, tmp_path):
    with Collection.open(filled, BiEncoder(pair / "query")) as collection:
        with pytest.raises(InputError, match="reads queries alone"):
            collection.sync("more", TEXTS[:1])
        assert len(collection) == 3
    with pytest.raises(InputError, match="reads queries alone"):
        Collection.create(tmp_path / "new.minibi", BiEncoder(pair / "query"))
    assert not (tmp_path / "new.minibi").exists()


def test_towers_fill_and_come_back_by_name(pair, tmp_path):
    with Collection.create(tmp_path / "t.minibi", Towers.load(pair)) as collection:
        collection.sync("texts", TEXTS)
        expected = collection.search("stone", 3)
    with Collection.open(tmp_path / "t.minibi") as collection:
        assert isinstance(collection.model, Towers)
        assert collection.search("stone", 3) == expected
        collection.sync("more", TEXTS[:1])
        assert len(collection) == 4


def test_strangers_are_refused(filled, golden_tiny, pair, tmp_path):
    other = add_projection(golden_tiny, tmp_path / "other", BiEncoder(golden_tiny).dim, seed=4)
    write_settings(other, tower="query", document_fingerprint="0" * 64)
    narrow = BiEncoder(pair / "query", truncate_dim=8)
    for stranger in (BiEncoder(other), narrow, BiEncoder(golden_tiny, max_seq_length=10)):
        with pytest.raises(InputError, match="made with another model or other settings"):
            Collection.open(filled, stranger)


def test_a_retriever_knows_towers_too(golden_tiny, pair):
    document, cache = BiEncoder(golden_tiny), VectorCache()
    plain = Dense(document, cache=cache)
    plain.add([d.text for d in TEXTS])
    towers = Dense(Towers.load(pair), plain.index, cache=cache)
    first, second = plain.search("stone", 3), towers.search("stone", 3)
    assert list(first.scores) != list(second.scores)  # the cache tells the towers apart
    assert Dense(BiEncoder(pair / "query"), plain.index).search("stone", 3).ids == second.ids
    with pytest.raises(InputError, match="filled by another model"):
        Dense(BiEncoder(golden_tiny, max_seq_length=10), plain.index)
