"""From a recipe to a model folder: `minibi train` in one function.

    report = train(read_recipe("recipe.toml"))

Next to the output there is a folder of the same name with `.run` behind it: the log, the loss curve and, until the
model is written, the checkpoint from which an interrupted run goes on.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..models.bi_encoder import BiEncoder
from ..models.surgery import add_projection, take_layers
from ..store.files import locked, replace_file, sync_folder
from ..text.tokenizer import TruncationWarning
from .data import Example, held_out, read_examples, with_negatives
from .fit import fit
from .held_out import held_out_evaluator
from .journal import BEST, CHECKPOINT, LOG, Report
from .learners import EmbeddingLearner, Learner
from .log import plot_log
from .model import Trainable, frozen_names
from .objective import Objective
from .recipe import Recipe

CURVE, SUMMARY = "curve.png", "summary.json"
SAMPLE = 1000  # examples whose length is looked at


def run_folder(recipe: Recipe) -> Path:
    """Where a run keeps what it needs."""
    return Path(recipe.output + ".run")


def train(
    recipe: Recipe,
    *,
    show_progress_bar: bool = False,
    evaluate: Callable[[Learner], Mapping[str, float]] | None = None,
    tell: Callable[[str], object] = lambda line: None,
) -> Report:
    """Trains as the recipe says and writes the model to its output.

    evaluate: instead of the measures over the held-out examples. tell: told in a line each what goes on. A checkpoint
    of the same recipe is resumed; a run folder that another process trains into is refused. Raises InputError,
    FormatError, ModelError; KeyboardInterrupt once a checkpoint is written.
    """
    output, folder = Path(recipe.output), run_folder(recipe)
    if output.exists():
        raise InputError(f"{output} exists already: remove it, or name another output in the recipe")
    examples, apart = read_data(recipe)
    tell(f"{len(examples):,} examples to learn from, {len(apart):,} held out")
    with locked(folder, "name another output in the recipe"):
        learner = make_learner(recipe, folder)
        if evaluate is None and apart:
            learner.check(apart)
            evaluate = held_out_evaluator(apart, recipe.training.batch_size, recipe.seed)
        if (folder / CHECKPOINT).exists():
            tell(f"resuming from {folder / CHECKPOINT}")
        for cut in _cuts(learner, examples[:SAMPLE]):
            tell(f"among the first {min(SAMPLE, len(examples)):,} examples {cut}")
        options = {"seed": recipe.seed, "evaluate": evaluate, "show_progress_bar": show_progress_bar}
        report = fit(learner, examples, recipe.training, folder=folder, **options)
        _write_json(folder / SUMMARY, report.to_dict() | {"recipe": recipe.as_dict()})
        draw(folder, report)
        put(learner, folder / "model", output)
        for left_over in (folder / CHECKPOINT, folder / BEST):
            left_over.unlink(missing_ok=True)
        for parts in PARTS:
            shutil.rmtree(folder / parts, ignore_errors=True)
        return report


def _cuts(learner: Learner, examples: Sequence[Example]) -> list[str]:
    """What the tokenizer says of texts that are longer than the model reads."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", TruncationWarning)
        learner.read(examples, "warn")
    return [str(w.message) for w in caught if w.category is TruncationWarning]


def read_data(recipe: Recipe) -> tuple[list[Example], list[Example]]:
    """(examples to learn from, examples held out) of a recipe. Raises InputError, FormatError."""
    data = recipe.data
    files = [data.train] if isinstance(data.train, str) else data.train
    scores = None if data.score_range is None else (data.score_range[0], data.score_range[1])
    examples = [e for file in files for e in read_examples(file, columns=data.columns, score_range=scores)]
    if examples[0].scores is None:
        examples = with_negatives(examples, data.negatives)
        if not examples:
            raise InputError(f"no example has {data.negatives} negatives: lower [data] negatives in the recipe")
    apart: list[Example] = []
    if data.held_out:
        examples, apart = held_out(examples, data.held_out, recipe.seed)
        if not examples or not apart:
            raise InputError(f"held_out = {data.held_out} leaves a part without examples: choose another share")
    return examples, apart


PARTS = ("query.start", "document.start", "start")  # folders of models that were changed before training


def make_learner(recipe: Recipe, folder: Path) -> Learner:
    """The model that a recipe begins with, and its loss. folder: for what has to be written. Raises InputError."""
    if recipe.model.kind != "bi-encoder":
        from .scorers import make_scorer

        return make_scorer(recipe, folder)
    model = recipe.model
    objective = recipe.objective()
    assert isinstance(objective, Objective)
    options = {"dropout": model.dropout, "chunk_size": recipe.training.chunk_size}
    teacher = BiEncoder(model.teacher) if model.teacher else None
    if model.base:
        return EmbeddingLearner(_trainable(recipe, model.base, folder, "query"), objective, teacher=teacher, **options)
    sides: dict[str, Any] = {}
    for side, name in (("query", model.query), ("document", model.document)):
        still = side == model.frozen
        sides[side] = BiEncoder(name) if still else _trainable(recipe, name, folder, side)  # type: ignore[arg-type]
    return EmbeddingLearner(sides["query"], objective, sides["document"], teacher=teacher, **options)


def _trainable(recipe: Recipe, name: str, folder: Path, side: str) -> Trainable:
    """A bi-encoder to train, changed as the recipe says."""
    model = recipe.model
    start = folder / PARTS[side == "document"]
    shutil.rmtree(start, ignore_errors=True)
    if model.layers:
        name = str(take_layers(name, start, model.layers))
    if model.projection:
        shutil.rmtree(folder / "projected", ignore_errors=True)
        add_projection(name, folder / "projected", model.projection, recipe.seed)
        shutil.rmtree(start, ignore_errors=True)
        os.replace(folder / "projected", start)
        name = str(start)
    prompts = {k: p for k, p in (("query", model.query_prompt), ("document", model.document_prompt)) if p is not None}
    encoder = BiEncoder(name, max_seq_length=model.max_seq_length, prompts=prompts or None)
    return Trainable(encoder, frozen=frozen_names(model.freeze_layers, encoder.config.layers))


def put(learner: Learner, staging: Path, output: Path) -> None:
    """Writes the model to `output`, which is there in whole or not at all, whatever happens."""
    shutil.rmtree(staging, ignore_errors=True)
    learner.save(staging)
    for file in staging.rglob("*"):
        if file.is_file():
            with file.open("rb") as f:
                os.fsync(f.fileno())
    os.replace(staging, output)
    sync_folder(output.parent)


def draw(folder: Path, report: Report) -> None:
    """The loss curve, where matplotlib is installed to draw it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return
    plot_log(folder / LOG, folder / CURVE, metrics=list(report.metrics))


def _write_json(path: Path, value: Any) -> None:
    replace_file(path, lambda file: file.write(json.dumps(value, indent=2).encode()))
