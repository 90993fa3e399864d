"""Two towers: trained together or against a frozen one, saved, loaded, and known by their fingerprints."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fit_checks import GOLDEN, TINY, learner, pairs, training

from minibi import BiEncoder, Towers, open_encoder
from minibi.errors import InputError, ModelError
from minibi.models.surgery import add_projection, write_settings
from minibi.models.towers import save_towers
from minibi.train.fit import fit
from minibi.train.learners import EmbeddingLearner, Frozen
from minibi.train.model import Trainable
from minibi.train.objective import make_objective

OTHER = GOLDEN / "tiny-bert-new"


@pytest.fixture(scope="module")
def widths():
    return BiEncoder(TINY).dim, BiEncoder(OTHER).dim


@pytest.fixture(scope="module")
def asymmetric(tmp_path_factory, widths):
    """Two different encoders, projected into 16 components, trained for some steps: (learner, its folder)."""
    folder = tmp_path_factory.mktemp("asymmetric")
    sides = [
        Trainable(BiEncoder(add_projection(source, folder / name, 16))) for source, name in ((TINY, "q"), (OTHER, "d"))
    ]
    model = EmbeddingLearner(sides[0], make_objective("info_nce"), sides[1])
    before = {name: p.copy() for name, p in model.trainable.items()}
    fit(model, pairs(), training(4, save_every=None), folder=folder / "run")
    model.save(folder / "out")
    still = {n for n, p in model.trainable.items() if np.array_equal(p, before[n])}
    return model, folder / "out", still


@pytest.fixture(scope="module")
def against_frozen(tmp_path_factory):
    """A query tower trained against a model that stays as it is: (learner, the document model, its folder)."""
    folder = tmp_path_factory.mktemp("frozen")
    document = BiEncoder(TINY)
    model = EmbeddingLearner(Trainable(BiEncoder(TINY)), make_objective("info_nce"), document)
    fit(model, pairs(), training(6, save_every=None, learning_rate=3e-3), folder=folder / "run")
    model.save(folder / "out")
    return model, document, folder / "out"


def test_both_towers_learn(asymmetric):
    model, _, still = asymmetric
    assert {name.split(".")[0] for name in model.trainable} == {"query", "document"}
    assert not {name for name in still if "word_embeddings" not in name and "token_type" not in name}


def test_a_saved_pair_reads_as_it_was_trained(asymmetric):
    model, folder, _ = asymmetric
    towers = open_encoder(folder)
    assert isinstance(towers, Towers)
    assert towers.dim == towers.get_sentence_embedding_dimension() == 16
    texts = [e.query for e in pairs(5)]
    np.testing.assert_allclose(towers.encode_query(texts), model.encode_query(texts), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(towers.encode_document(texts), model.encode_document(texts), rtol=1e-4, atol=1e-5)
    assert np.abs(towers.encode_query(texts) - towers.encode_document(texts)).max() > 0.01
    assert towers.space == towers.fingerprint == towers.document.fingerprint == towers.query.space
    assert towers.query.fingerprint != towers.fingerprint


def test_each_tower_does_its_own_work_only(asymmetric):
    _, folder, _ = asymmetric
    query, document = (BiEncoder(folder / side) for side in ("query", "document"))
    with pytest.raises(InputError, match="is a query tower"):
        query.encode_document(["a"])
    with pytest.raises(InputError, match="is a document tower"):
        document.encode_query(["a"])
    with pytest.raises(ModelError, match="two towers"):
        BiEncoder(folder)
    with pytest.raises(ModelError, match="no two towers"):
        Towers.load(TINY)


def test_the_folder_is_a_router(asymmetric):
    """The layout that sentence-transformers' Router reads: each module by the place it lies in."""
    _, folder, _ = asymmetric
    router = json.loads((folder / "router_config.json").read_text())
    assert list(router["structure"]) == ["query", "document"]
    for side, places in router["structure"].items():
        assert places[0] == side
        for place in places:
            kind = router["types"][place].rsplit(".", 1)[-1]
            assert (folder / place / "config.json").is_file() or kind == "Normalize"
    assert [e["type"].rsplit(".", 1)[-1] for e in json.loads((folder / "modules.json").read_text())] == ["Router"]


def test_a_frozen_tower_stays_and_is_known(against_frozen):
    model, document, folder = against_frozen
    assert all(name.startswith("query.") for name in model.trainable)
    towers = Towers.load(folder)
    assert towers.fingerprint == document.fingerprint  # an index made with it stays valid
    texts = [e.documents[0] for e in pairs(5)]
    np.testing.assert_array_equal(towers.encode_document(texts), document.encode_document(texts))
    alone = BiEncoder(folder / "query")
    assert alone.space == document.fingerprint != alone.fingerprint
    assert BiEncoder(folder / "query", truncate_dim=8).space != document.fingerprint
    assert document.space == document.fingerprint


def test_the_query_tower_came_nearer(against_frozen):
    model, document, _ = against_frozen
    examples = pairs()
    d = document.encode_document([e.documents[0] for e in examples], normalize_embeddings=True)

    def right(vectors):
        u = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return (u * d).sum(1).mean() - (u @ d.T).mean()

    queries = [e.query for e in examples]
    assert right(model.encode_query(queries)) > right(document.encode_query(queries)) + 0.005


def test_frozen_vectors_are_computed_once(monkeypatch):
    frozen = Frozen(BiEncoder(TINY), "")
    first = frozen.vectors(["a river", "a stone", "a river"])
    np.testing.assert_array_equal(first, frozen.encoder.encode(["a river", "a stone", "a river"]))
    monkeypatch.setattr(frozen.encoder, "encode", lambda *a, **k: pytest.fail("encoded again"))
    np.testing.assert_array_equal(frozen.vectors(["a stone"])[0], first[1])
    small = Frozen(BiEncoder(TINY), "")
    monkeypatch.setattr("minibi.train.learners.CACHE", 0)
    np.testing.assert_array_equal(small.vectors(["a river", "a stone"]), first[:2])
    assert not small._vectors


def test_settings_keep_a_frozen_fingerprint(tmp_path):
    document = BiEncoder(TINY, max_seq_length=20, prompts={"document": "stone: ", "query": "river: "})
    model = EmbeddingLearner(Trainable(BiEncoder(TINY)), make_objective("info_nce"), document)
    model.save(tmp_path / "out")
    towers = Towers.load(tmp_path / "out")
    assert towers.fingerprint == document.fingerprint
    assert (towers.max_seq_length, towers.document_prompt) == (20, "stone: ")
    np.testing.assert_array_equal(towers.encode_document(["a horse"]), document.encode_document(["a horse"]))


def test_prompts_are_trained_and_kept(tmp_path):
    encoder = BiEncoder(TINY, max_seq_length=24, prompts={"query": "letter ", "document": "paper "})
    model = EmbeddingLearner(Trainable(encoder), make_objective("info_nce"))
    plain = learner(0.0)
    batch = pairs(4)
    prompted = [type(e)("letter " + e.query, ("paper " + e.documents[0],)) for e in batch]
    assert model.gradients(batch, ()).loss == pytest.approx(plain.gradients(prompted, ()).loss, rel=1e-5)
    model.save(tmp_path / "out")
    again = open_encoder(tmp_path / "out")
    assert isinstance(again, BiEncoder)
    assert (again.prompts, again.max_seq_length) == (encoder.prompts, 24)
    np.testing.assert_allclose(again.encode_query(["a horse"]), model.encode_query(["a horse"]), rtol=1e-4, atol=1e-5)


def test_what_does_not_belong_together(tmp_path, asymmetric, against_frozen, widths):
    query = Trainable(BiEncoder(TINY))
    objective = make_objective("info_nce")
    wide = add_projection(TINY, tmp_path / "wide", 50)
    with pytest.raises(InputError, match=f"{widths[0]} and 50 components: give one a projection"):
        EmbeddingLearner(query, objective, BiEncoder(wide))
    with pytest.raises(InputError, match="not trained with the document tower"):
        Towers(BiEncoder(TINY), BiEncoder(add_projection(TINY, tmp_path / "same", widths[0])))
    with pytest.raises(InputError, match="components: take a pair"):
        Towers(BiEncoder(TINY), BiEncoder(wide))
    foreign = BiEncoder(asymmetric[1] / "query")
    with pytest.raises(InputError, match="not trained with"):
        Towers(foreign, BiEncoder(add_projection(TINY, tmp_path / "sixteen", 16)))
    for loss, teacher in (("score_distill", None), ("info_nce", BiEncoder(TINY))):
        with pytest.raises(InputError, match="teacher"):
            EmbeddingLearner(query, make_objective(loss), teacher=teacher)


def test_a_teacher_is_followed(tmp_path, widths):
    """A student of other weights comes nearer to its teacher's vectors, or to its scores."""
    teacher = BiEncoder(TINY)
    for loss in ("embed_distill", "score_distill"):
        student = Trainable(BiEncoder(TINY))
        rng = np.random.default_rng(1)
        for name, p in student.parameters.items():
            if name.startswith("encoder.layer.1") and p.ndim == 2:
                p[...] += 0.1 * rng.standard_normal(p.shape).astype(np.float32)
        model = EmbeddingLearner(student, make_objective(loss), teacher=teacher)
        before = model.loss(pairs())
        fit(model, pairs(), training(15, save_every=None), folder=tmp_path / loss)
        assert model.loss(pairs()) < 0.7 * before


def test_router_settings_are_plain_json(tmp_path, against_frozen):
    folder = against_frozen[2]
    config = json.loads((folder / "query" / "config_sentence_transformers.json").read_text())
    assert config["tower"] == "query"
    write_settings(tmp_path, similarity_fn_name="dot")
    assert json.loads((tmp_path / "config_sentence_transformers.json").read_text()) == {"similarity_fn_name": "dot"}
    with pytest.raises(ModelError):
        save_towers(tmp_path)
