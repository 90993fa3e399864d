"""What a run writes down as it goes: the log, checkpoints, evaluations, and the best weights so far."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..store.snapshot import read_snapshot, write_snapshot
from .checkpoint import Progress, load_checkpoint, save_checkpoint
from .learners import Done, Learner
from .log import Log, read_log
from .optimizer import AdamW
from .recipe import Training

CHECKPOINT, LOG, BEST = "checkpoint.safetensors", "log.csv", "best.safetensors"
SAVE_SECONDS = 300.0  # between checkpoints, where the training does not say

Evaluate = Callable[[Learner], Mapping[str, float]]  # larger is better, but for names that end in "loss"


@dataclass(frozen=True)
class Report:
    """What came of a run. metrics: of the last evaluation; first_metrics: before the first step."""

    steps: int
    seconds: float
    tokens: int
    loss: float  # mean over the last tenth of the steps
    metrics: dict[str, float]
    first_metrics: dict[str, float]
    best_step: int | None = None  # whose weights are kept, where the best were asked for

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Journal:
    """The files of one run in its folder, and how far it has come (`now`, which the loop moves on)."""

    def __init__(self, folder: Path, learner: Learner, optimizer: AdamW, training: Training, evaluate: Evaluate | None):
        self.folder, self.learner, self.optimizer = folder, learner, optimizer
        self.training, self.evaluate = training, evaluate

    def open(self, now: Progress, identity: Mapping[str, str]) -> Progress:
        """Goes back to the checkpoint, if there is one; else begins one. Raises InputError, FormatError."""
        self.identity = {**identity, "evaluation": str(self.evaluate is not None)}
        path, log = self.folder / CHECKPOINT, self.folder / LOG
        resumed, self.now = path.exists(), now
        if resumed:
            self.now = load_checkpoint(path, self.identity, self.optimizer)
        else:
            if log.exists():
                raise InputError(f"{log} exists, but no checkpoint: write to another folder, or delete it")
            self.now.first = self._evaluated()
            save_checkpoint(path, self.now, self.identity, self.optimizer)
        kept = (self.now.step or -1) if resumed and log.exists() else None
        self._log = Log(log, list(self.now.first), kept)
        if self.now.first and self.now.step == 0:
            self._log.write({"step": 0, **self.now.first})
        self._saved = time.monotonic()
        return self.now

    def note(self, done: Done, norm: float, rate: float, seconds: float, epochs: float, over: bool) -> None:
        """A step that was taken: its row in the log, with an evaluation where one is due."""
        now = self.now
        row = {"step": now.step, "epoch": epochs, "loss": done.loss, "gradient_norm": norm, "seconds": now.seconds}
        row |= {"learning_rate": rate * self.training.learning_rate, "tokens_per_second": done.tokens / seconds}
        if over or _due(now.step, self.training.evaluate_every):
            row |= self._evaluated()
        self._log.write(row)

    def save(self, always: bool) -> None:
        """A checkpoint, if one is due."""
        every = self.training.save_every
        waited = every is None and time.monotonic() - self._saved > SAVE_SECONDS
        if always or waited or _due(self.now.step, every):
            save_checkpoint(self.folder / CHECKPOINT, self.now, self.identity, self.optimizer)
            self._saved = time.monotonic()

    def restore_best(self) -> None:
        """The learner gets the best weights back, where they were to be kept."""
        if self.training.keep_best and self.now.best is not None:
            arrays, _ = read_snapshot(self.folder / BEST, "best weights")
            for name, p in self.learner.trainable.items():
                p[...] = arrays[name]

    def report(self) -> Report:
        now = self.now
        losses = [loss for loss in read_log(self.folder / LOG)["loss"] if not math.isnan(loss)]
        tail = losses[-max(1, len(losses) // 10) :]
        best = now.best_step if self.training.keep_best and now.best is not None else None
        return Report(now.step, now.seconds, now.tokens, float(np.mean(tail)), now.last, now.first, best)

    def _evaluated(self) -> dict[str, float]:
        """What `evaluate` gives; the weights are written if its first metric is better than it ever was."""
        if self.evaluate is None:
            return {}
        found = self.evaluate(self.learner)
        if not isinstance(found, Mapping) or not found:
            raise InputError(f"evaluate must return metrics by name, such as {{'mrr@10': 0.5}}, not {found!r}")
        now = self.now
        now.last = {str(name): float(value) for name, value in found.items()}
        name, value = next(iter(now.last.items()))
        better = now.best is None or (value < now.best if name.endswith("loss") else value > now.best)
        if self.training.keep_best and better:
            now.best, now.best_step = value, now.step
            write_snapshot(self.folder / BEST, "best weights", self.learner.trainable, {"step": now.step, name: value})
        return now.last


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0
