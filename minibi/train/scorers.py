"""Learners of models that score a query with a document: cross-encoders by their logits, late interaction by MaxSim.

    learner = make_scorer(recipe, folder)

Their losses are those of `score_objective`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, ModelError
from ..models.bert import BertConfig
from ..models.convert import transformer_place
from ..models.cross_encoder import CrossEncoder
from ..models.late_interaction import LateInteraction
from ..models.locate import locate
from ..models.surgery import add_classifier, take_layers, write_settings
from ..nn.dropout import Dropout
from ..text.tokenizer import Truncation
from . import losses
from .data import Example
from .late import TrainableLate
from .learners import Arrays, Done, accumulate, digest, documents_of, files_digest, least
from .model import Trainable, frozen_names
from .recipe import Recipe
from .score_objective import ScoreObjective


def make_scorer(recipe: Recipe, folder: Path) -> CrossLearner | LateLearner:
    """The cross-encoder or late-interaction model of a recipe. folder: where a changed model may lie. InputError."""
    model, objective = recipe.model, recipe.objective()
    assert isinstance(objective, ScoreObjective) and model.base is not None
    name, start = model.base, folder / "start"
    shutil.rmtree(start, ignore_errors=True)
    if model.layers:
        name = str(take_layers(name, start, model.layers))
    if model.kind == "late-interaction":
        late = LateInteraction(name)
        frozen = frozen_names(model.freeze_layers, late.config.layers)
        return LateLearner(TrainableLate(late, frozen=frozen), objective, model.dropout)  # type: ignore[arg-type]
    if not BertConfig.read(locate(name) / transformer_place(locate(name))).labels:
        shutil.rmtree(folder / "headed", ignore_errors=True)
        add_classifier(name, folder / "headed", recipe.seed)
        shutil.rmtree(start, ignore_errors=True)
        os.replace(folder / "headed", start)
        name = str(start)
    cross = CrossEncoder(name, max_length=model.max_seq_length)
    frozen = frozen_names(model.freeze_layers, cross.config.layers)
    return CrossLearner(Trainable(cross, frozen=frozen), objective, model.dropout)


class _Scorer:
    """What both kinds share."""

    model: Trainable

    def __init__(self, model: Trainable, objective: ScoreObjective, dropout: float = 0.0):
        self.model, self.objective, self.dropout = model, objective, dropout
        self.trainable = model.trainable
        if not self.trainable:
            raise InputError("all parameters are frozen: leave some to be trained")

    def check(self, examples: Sequence[Example]) -> int:
        return least(self.objective, examples)

    def after_step(self) -> None:
        pass

    def identity(self) -> dict[str, Any]:
        known = {"base model": files_digest(self.model.encoder.folder), "trained": digest(self.trainable)}
        return known | {"loss": self.objective.name, "options": dict(self.objective.options), "dropout": self.dropout}

    def save(self, folder: Path) -> None:
        self.model.save(folder)

    def _drop(self, seed: tuple[int, ...] | None, place: int = 0) -> Dropout | None:
        return Dropout(self.dropout, self.dropout, (*seed, place)) if self.dropout and seed is not None else None


class CrossLearner(_Scorer):
    """A cross-encoder of one output, whose logit is the score."""

    def __init__(self, model: Trainable, objective: ScoreObjective, dropout: float = 0.0):
        super().__init__(model, objective, dropout)
        if model.config.labels != 1:
            raise ModelError(f"{model.encoder.name} has {model.config.labels} outputs: ranking is trained with one")
        if objective.in_batch:
            raise InputError("a cross-encoder cannot score all of a batch: use cross_entropy with hard negatives")

    def read(self, examples: Sequence[Example], truncation: Truncation) -> None:
        self.model.batch([(e.query, d) for e in examples for d in e.documents], truncation=truncation)

    def gradients(self, batch: Sequence[Example], seed: tuple[int, ...]) -> Done:
        packed = self.model.batch([(e.query, d) for e in batch for d in e.documents])
        run = self.model.forward(packed, self._drop(seed))
        value, (slope,) = self.objective.loss(run.output.reshape(len(batch), -1), batch)
        return Done(value, run.backward(slope.reshape(run.output.shape)), len(packed.ids))

    def loss(self, batch: Sequence[Example]) -> float:
        packed = self.model.batch([(e.query, d) for e in batch for d in e.documents])
        return self.objective.loss(self.model.forward(packed).output.reshape(len(batch), -1), batch)[0]

    def save(self, folder: Path) -> None:
        super().save(folder)
        write_settings(folder, max_seq_length=self.model.encoder.tokenizer.max_length)


class LateLearner(_Scorer):
    """A late-interaction model, whose score is MaxSim."""

    model: TrainableLate

    def read(self, examples: Sequence[Example], truncation: Truncation) -> None:
        for document, texts in enumerate([[e.query for e in examples], documents_of(examples)]):
            self.model.tokens(texts, bool(document), truncation)

    def gradients(self, batch: Sequence[Example], seed: tuple[int, ...]) -> Done:
        return self._pass(batch, seed, back=True)

    def loss(self, batch: Sequence[Example]) -> float:
        return self._pass(batch, None, back=False).loss

    def _pass(self, batch: Sequence[Example], seed: tuple[int, ...] | None, back: bool) -> Done:
        runs, kept, starts, tokens = [], [], [], 0
        for document, texts in enumerate([[e.query for e in batch], [d for e in batch for d in e.documents]]):
            packed = self.model.tokens(texts, bool(document))
            runs.append(self.model.forward(packed, self._drop(seed, document)))
            kept.append(self.model.kept(packed, bool(document)))
            starts.append(np.concatenate([[0], np.cumsum(kept[-1])])[packed.starts])
            tokens += len(packed.ids)
        b, count = len(batch), len(batch[0].documents)
        own = np.stack(np.broadcast_arrays(np.arange(b)[:, None], np.arange(b * count).reshape(b, count)), axis=-1)
        loss = losses.of_tokens(lambda scores: self.objective.loss(scores, batch))
        places = {
            "query_starts": starts[0],
            "document_starts": starts[1],
            "pairs": None if self.objective.in_batch else own,
        }
        value, slopes = loss(*(run.output[k] for run, k in zip(runs, kept, strict=True)), **places)
        gradients: Arrays = {}
        for run, k, slope in zip(runs, kept, slopes, strict=True):
            if back:
                dy = np.zeros_like(run.output)
                dy[k] = slope
                accumulate(gradients, run.backward(dy))
        return Done(value, gradients, tokens)
