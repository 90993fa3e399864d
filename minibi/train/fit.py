"""The learning loop: batches, a pass forward and back, clipping, a step of AdamW; and again.

    learner = EmbeddingLearner(Trainable("all-MiniLM-L6-v2"), make_objective("info_nce"))
    report = fit(learner, read_examples("pairs.jsonl"), Training(epochs=1, batch_size=32), folder="runs/first")
    learner.save("my-model")

`folder` holds the log (log.csv) and a checkpoint. A run that was stopped, by Ctrl-C or by a power cut, goes on from its
checkpoint when the same call is repeated, and ends with the very same bits as if it had never stopped. (Only a
length in minutes makes it depend on the clock.)
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

from ..arguments import as_path
from ..errors import ModelError
from ..store.files import locked
from .checkpoint import Progress, digest_of, flat
from .data import Batches, Example
from .journal import Evaluate, Journal, Report
from .learners import Done, Learner, accumulate
from .optimizer import AdamW, clip, constant_schedule, cosine_schedule, linear_schedule
from .recipe import Training

MINUTE_STEPS = 1_000_000  # a schedule in minutes has so many
NOT_PART = ("save_every", "minutes")  # of a run's identity: settings that may change before it is resumed


def fit(
    learner: Learner,
    examples: Sequence[Example],
    training: Training,
    *,
    folder: str | Path,
    seed: int = 0,
    evaluate: Evaluate | None = None,
    show_progress_bar: bool = False,
) -> Report:
    """Trains `learner` in place.

    evaluate: called with the learner before the first step, every training.evaluate_every steps and after the last; its
    first metric is the one that training.keep_best goes by. Ctrl-C finishes the step, writes a checkpoint and raises
    KeyboardInterrupt; a second one does not wait. Raises InputError for examples that the learner cannot use and for
    a folder that holds another run's checkpoint or is in use, ModelError if the loss is no longer finite.
    """
    least = learner.check(examples)
    betas = training.betas[0], training.betas[1]
    optimizer = AdamW(learner.trainable, training.learning_rate, betas, training.eps, training.weight_decay)
    batches = Batches(examples, training.batch_size, seed=seed, drop_last=training.drop_last, least=least)
    clock = Clock(training, batches)
    journal = Journal(as_path(folder), learner, optimizer, training, evaluate)
    feed = iter(batches)
    with locked(journal.folder, "train into another folder"):
        now = journal.open(Progress(batch=batches.state), identity_of(learner, examples, training, seed))
        batches.state = now.batch
        with _bar(clock.steps, now.step, show_progress_bar) as bar, stop_signal() as stopped:
            while not clock.over(now):
                start = time.perf_counter()

                done = mean_gradients(learner, islice(feed, training.accumulate), (seed, now.step))
                norm = clip(done.gradients, training.max_grad_norm or math.inf)
                rate = clock.rate(now)
                optimizer.step(done.gradients, rate)
                learner.after_step()

                seconds = time.perf_counter() - start
                now.step, now.batch = now.step + 1, batches.state
                now.seconds, now.tokens = now.seconds + seconds, now.tokens + done.tokens
                over = clock.over(now)
                journal.note(done, norm, rate, seconds, batches.epochs, over)
                journal.save(always=over or stopped())
                bar.update()
                bar.set_postfix(loss=f"{done.loss:.4f}", tokens_per_s=f"{done.tokens / seconds:,.0f}")
                if stopped() and not over:
                    raise KeyboardInterrupt(f"stopped after step {now.step}: repeat the same to go on from {folder}")
        journal.restore_best()
        return journal.report()


# --- the parts --------------------------------------------------------------------------------------------------------


def identity_of(learner: Learner, examples: Sequence[Example], training: Training, seed: int) -> dict[str, str]:
    """All that decides the bits of a run, each as a short text under its name."""
    settings = {k: v for k, v in asdict(training).items() if k not in NOT_PART}
    return flat({"seed": seed, "training": settings, "data": digest_of(examples), **learner.identity()})


def mean_gradients(learner: Learner, batches: Iterator[list[Example]], seed: tuple[int, ...]) -> Done:
    """The mean of several batches' losses and gradients. Raises ModelError if a loss is not finite."""
    total = Done(0.0, {}, 0)
    for count, batch in enumerate(batches, 1):
        done = learner.gradients(batch, (*seed, count))
        if not math.isfinite(done.loss):
            raise ModelError(f"the loss is {done.loss} at step {seed[-1] + 1}: lower the learning rate")
        total.loss, total.tokens = total.loss + done.loss, total.tokens + done.tokens
        accumulate(total.gradients, done.gradients)
    if count > 1:
        total.loss /= count
        for gradient in total.gradients.values():
            gradient /= gradient.dtype.type(count)
    return total


class Clock:
    """How long a run is, and the learning rate along it."""

    def __init__(self, training: Training, batches: Batches):
        self.seconds = 60 * training.minutes if training.minutes is not None else math.inf
        self.steps = training.steps
        if training.minutes is None and self.steps is None:
            whole, part = divmod(training.epochs or 1, 1)
            count = sum(batches.count(epoch) for epoch in range(int(whole)))
            count += math.ceil(part * batches.count(int(whole))) if part else 0
            self.steps = max(1, math.ceil(count / training.accumulate))
        length = MINUTE_STEPS if self.steps is None else self.steps
        warmup = round(training.warmup * length)
        schedules = {"linear": linear_schedule, "cosine": cosine_schedule}
        shape = schedules.get(training.schedule)
        self._factor = constant_schedule(warmup) if shape is None else shape(length, warmup)

    def over(self, now: Progress) -> bool:
        return now.step >= self.steps if self.steps is not None else now.seconds >= self.seconds

    def rate(self, now: Progress) -> float:
        """The factor of the learning rate for the step to come."""
        if self.steps is not None:
            return self._factor(now.step)
        return self._factor(round(MINUTE_STEPS * now.seconds / self.seconds))


@contextmanager
def stop_signal() -> Iterator[Callable[[], bool]]:
    """stopped(): whether Ctrl-C was pressed meanwhile. The second time it is raised as ever."""
    asked = threading.Event()
    before = signal.getsignal(signal.SIGINT)
    elsewhere = threading.current_thread() is not threading.main_thread()  # only there are signals caught
    if elsewhere or before in (signal.SIG_IGN, None):
        yield asked.is_set
        return

    def note(number: int, frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGINT, before)


def _bar(steps: int | None, done: int, show: bool) -> Any:
    """A progress bar over steps; silent when not asked for or not at a terminal."""
    from tqdm import tqdm

    return tqdm(total=steps, initial=done, desc="training", unit="step", disable=None if show else True)
