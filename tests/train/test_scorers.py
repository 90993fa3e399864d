"""Cross-encoders and late interaction in the loop: gradients by differences, runs that learn, folders that load."""

from __future__ import annotations

import numpy as np
import pytest
from fit_checks import GOLDEN, TINY, pairs, same_weights, training

from minibi import BiEncoder, CrossEncoder, LateInteraction
from minibi.errors import InputError, ModelError
from minibi.models.surgery import add_classifier
from minibi.train.data import Example
from minibi.train.fit import fit
from minibi.train.late import TrainableLate, rows_grad
from minibi.train.model import Trainable
from minibi.train.score_objective import SCORE_LOSSES, ScoreObjective
from minibi.train.scorers import CrossLearner, LateLearner

CROSS, LATE = GOLDEN / "tiny-cross-encoder", GOLDEN / "tiny-pylate"


def cross(loss="binary_cross_entropy", **options) -> CrossLearner:
    return CrossLearner(Trainable(CrossEncoder(CROSS)), ScoreObjective(loss), **options)


def late(loss="info_nce", dtype=np.float32, folder=LATE, dropout=0.0, **options) -> LateLearner:
    return LateLearner(TrainableLate(LateInteraction(folder, **options), dtype=dtype), ScoreObjective(loss), dropout)


def test_a_cross_encoder_learns_and_loads(tmp_path):
    model, examples = cross(), pairs(8, negatives=1)
    before = model.loss(examples)
    report = fit(model, examples, training(25, learning_rate=3e-3, save_every=None), folder=tmp_path / "run")
    assert model.loss(examples) < 0.7 * before
    assert report.tokens > 0
    model.save(tmp_path / "out")
    again = CrossEncoder(tmp_path / "out")
    listed = [(e.query, d) for e in examples for d in e.documents]
    expected = model.model.forward(model.model.batch(listed)).output[:, 0]
    np.testing.assert_allclose(again.predict(listed), expected, rtol=1e-4, atol=1e-4)
    scores = again.predict(listed).reshape(-1, 2)
    assert (scores[:, 0] > scores[:, 1]).mean() >= 0.75


def test_an_encoder_becomes_a_cross_encoder(tmp_path):
    folder = add_classifier(TINY, tmp_path / "cross", seed=1)
    model = CrossEncoder(folder)
    assert model.config.labels == 1
    ours, theirs = Trainable(model).parameters, Trainable(BiEncoder(TINY)).parameters
    assert all(np.array_equal(ours[name], p) for name, p in theirs.items())
    assert set(ours) - set(theirs) == {f"{n}.{k}" for n in ("pooler.dense", "classifier") for k in ("weight", "bias")}
    same = CrossEncoder(add_classifier(TINY, tmp_path / "same", seed=1))
    assert model.predict([("a", "b")])[0] == same.predict([("a", "b")])[0]


@pytest.mark.parametrize("name", [n for n in SCORE_LOSSES if n != "info_nce"])
def test_every_loss_of_scores_moves_both(name):
    examples = pairs(4, negatives=2, scores=SCORE_LOSSES[name][2])
    for model in (cross(name), late(name)):
        model.check(examples)
        done = model.gradients(examples, (0,))
        assert done.loss == pytest.approx(model.loss(examples), rel=1e-5)
        assert max(np.abs(g).max() for g in done.gradients.values()) > 0
        assert done.gradients.keys() == model.trainable.keys()


LATES = {
    "expansion": (LATE, {}),
    "unseen expansion": (LATE, {"attend_to_expansion_tokens": False}),
    "colbert": (GOLDEN / "tiny-colbert", {}),
    "own states": (TINY, {}),
}


@pytest.mark.parametrize("name", LATES)
@pytest.mark.parametrize("loss", ["info_nce", "cross_entropy"])
def test_gradients_of_late_interaction_are_differences(name, loss):
    folder, options = LATES[name]
    model = late(loss, np.float64, folder, **options)
    examples = pairs(3, negatives=1)
    gradients = model.gradients(examples, ()).gradients
    rng = np.random.default_rng(0)
    for key in [n for n in model.trainable if "layer.0" in n or "linear" in n][::5] + list(model.trainable)[-1:]:
        p = model.trainable[key]
        direction, kept, values = rng.standard_normal(p.shape), p.copy(), []
        for step in (1e-6, -1e-6):
            p[...] = kept + step * direction
            values.append(model.loss(examples))
        p[...] = kept
        expected = (values[0] - values[1]) / 2e-6
        assert abs((gradients[key] * direction).sum() - expected) <= 1e-5 * max(1, abs(expected)), key


@pytest.mark.parametrize("name", LATES)
def test_late_interaction_learns_and_loads(tmp_path, name):
    folder, options = LATES[name]
    model, examples = late(folder=folder, dropout=0.1, **options), pairs(8)
    before = model.loss(examples)
    fit(model, examples, training(20, learning_rate=1e-2, batch_size=8, save_every=None), folder=tmp_path / "run")
    assert model.loss(examples) < 0.9 * before
    model.save(tmp_path / "out")
    again = LateInteraction(tmp_path / "out", **options)
    queries, documents = [e.query for e in examples], [e.documents[0] for e in examples]
    scores = again.similarity(again.encode_query(queries, truncation="silent"), again.encode_document(documents))
    right = np.log(np.exp(scores - np.diag(scores)[:, None]).sum(1)).mean()
    assert right == pytest.approx(model.loss(examples), rel=1e-3)


def test_late_interaction_resumes_bit_for_bit(tmp_path):
    models = [late(dropout=0.2, attend_to_expansion_tokens=False) for _ in range(3)]
    fit(models[0], pairs(), training(4), folder=tmp_path / "whole")
    fit(models[1], pairs(), training(4, save_every=2), folder=tmp_path / "a")
    assert not same_weights(models[2].trainable, models[0].trainable)
    fit(models[2], pairs(), training(4, save_every=1), folder=tmp_path / "a")  # what is finished is read
    assert same_weights(models[0].trainable, models[1].trainable)
    assert same_weights(models[0].trainable, models[2].trainable)


def test_rows_and_back():
    x, index = np.arange(12.0).reshape(4, 3), np.array([3, 0, 3])
    dx, none = rows_grad(np.ones((3, 3)), x, index)
    assert none is None
    np.testing.assert_array_equal(dx[:, 0], [1, 0, 0, 2])


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("infonce", {}, "did you mean 'info_nce'"),
        ("mse", {"scale": 2}, "mse has no option 'scale': it has none"),
        ("cross_entropy", {"label_smothing": 0.1}, "did you mean 'label_smoothing'"),
        ("binary_cross_entropy", {"pos_weight": -1}, "pos_weight must be"),
        ("binary_cross_entropy", {"pos_weight": "a"}, "pos_weight must be"),
    ],
)
def test_bad_losses(name, options, message):
    with pytest.raises(InputError, match=message):
        ScoreObjective(name, options)


def test_examples_that_do_not_suit():
    for name, examples, message in (
        ("binary_cross_entropy", [], "no examples"),
        ("binary_cross_entropy", pairs(2), "needs a wrong document"),
        ("cross_entropy", pairs(2, negatives=1, scores=True), "without scores, these have scores"),
        ("margin_mse", pairs(2, negatives=1), "with scores, these have none"),
        ("rank_net", pairs(2, scores=True), "needs a wrong document"),
        (
            "cross_entropy",
            [*pairs(1, negatives=1), *pairs(1, negatives=2)],
            "example 1 has 3 documents, the first has 2",
        ),
        ("binary_cross_entropy", [Example("q", ("a",), (3.0,))], "between 0 and 1"),
    ):
        with pytest.raises(InputError, match=message):
            ScoreObjective(name).check(examples)
    ScoreObjective("mse").check(pairs(2, scores=True))
    ScoreObjective("binary_cross_entropy").check(pairs(2, scores=True))
    ScoreObjective("info_nce").check(pairs(2))
    with pytest.raises(InputError, match="cannot score all of a batch"):
        cross("info_nce")
    with pytest.raises(ModelError, match="3 outputs"):
        CrossLearner(Trainable(CrossEncoder(GOLDEN / "tiny-cross-encoder-3")), ScoreObjective("mse"))
