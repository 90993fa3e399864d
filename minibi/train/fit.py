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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, ModelError
from ..store.snapshot import read_snapshot, write_snapshot
from .checkpoint import Progress, digest_of, flat, load_checkpoint, save_checkpoint
from .data import Batches, Example
from .learners import Done, Learner, accumulate
from .log import Log, read_log
from .optimizer import AdamW, clip, constant_schedule, cosine_schedule, linear_schedule
from .recipe import Training

CHECKPOINT, LOG, BEST = "checkpoint.safetensors", "log.csv", "best.safetensors"
SAVE_SECONDS = 300.0  # between checkpoints, where the training does not say
MINUTE_STEPS = 1_000_000  # a schedule in minutes has so many
NOT_PART = ("save_every", "minutes")  # of a run's identity: settings that may change before it is resumed

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
    a folder that holds another run's checkpoint, ModelError if the loss is no longer finite.
    """
    learner.check(examples)
    folder = Path(folder)
    settings = {k: v for k, v in asdict(training).items() if k not in NOT_PART}
    identity = flat({"seed": seed, "training": settings, "data": digest_of(examples), **learner.identity()})
    betas = training.betas[0], training.betas[1]
    optimizer = AdamW(learner.trainable, training.learning_rate, betas, training.eps, training.weight_decay)
    batches = Batches(examples, training.batch_size, seed=seed)
    clock = Clock(training, batches)
    now = Progress(batch=batches.state)
    resumed = (folder / CHECKPOINT).exists()
    if resumed:
        now = load_checkpoint(folder / CHECKPOINT, identity, optimizer)
        batches.state = now.batch
    else:
        if evaluate is not None:
            now.first = now.last = measure(evaluate, learner)
            keep_best(folder, learner, now, training)
        save_checkpoint(folder / CHECKPOINT, now, identity, optimizer)
    again = resumed and (folder / LOG).exists()
    log = Log(folder / LOG, list(now.first), (now.step or -1) if again else None)
    if now.first and now.step == 0:
        log.write({"step": 0, **now.first})
    feed = iter(batches)
    saved = time.monotonic()
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
            row = {"step": now.step, "epoch": batches.epochs, "loss": done.loss, "gradient_norm": norm}
            row |= {"learning_rate": rate * training.learning_rate, "seconds": now.seconds}
            row["tokens_per_second"] = done.tokens / seconds
            if evaluate is not None and (clock.over(now) or due(now.step, training.evaluate_every)):
                now.last = measure(evaluate, learner)
                row |= now.last
                keep_best(folder, learner, now, training)
            log.write(row)
            bar.update()
            bar.set_postfix(loss=f"{done.loss:.4f}", tokens_per_s=f"{done.tokens / seconds:,.0f}")
            waited = time.monotonic() - saved > SAVE_SECONDS and training.save_every is None
            if stopped() or clock.over(now) or waited or due(now.step, training.save_every):
                save_checkpoint(folder / CHECKPOINT, now, identity, optimizer)
                saved = time.monotonic()
            if stopped() and not clock.over(now):
                raise KeyboardInterrupt(f"stopped after step {now.step}: repeat the same to go on from {folder}")
    if training.keep_best and now.best is not None:
        restore_best(folder, learner)
    return report(folder, now, training)


# --- the parts --------------------------------------------------------------------------------------------------------


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


def due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


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


def measure(evaluate: Evaluate, learner: Learner) -> dict[str, float]:
    """What `evaluate` gives, as floats. Raises InputError."""
    found = evaluate(learner)
    if not isinstance(found, Mapping) or not found:
        raise InputError(f"evaluate must return metrics by name, such as {{'mrr@10': 0.5}}, not {found!r}")
    return {str(name): float(value) for name, value in found.items()}


def keep_best(folder: Path, learner: Learner, now: Progress, training: Training) -> None:
    """Writes the weights of the moment if the first metric is better than it ever was."""
    if not training.keep_best:
        return
    name, value = next(iter(now.last.items()))
    better = now.best is None or (value < now.best if name.endswith("loss") else value > now.best)
    if better:
        now.best, now.best_step = value, now.step
        write_snapshot(folder / BEST, "best weights", learner.trainable, {"step": now.step, name: value})


def restore_best(folder: Path, learner: Learner) -> None:
    arrays, _ = read_snapshot(folder / BEST, "best weights")
    for name, p in learner.trainable.items():
        p[...] = arrays[name]


def report(folder: Path, now: Progress, training: Training) -> Report:
    losses = [loss for loss in read_log(folder / LOG)["loss"] if not math.isnan(loss)]
    tail = losses[-max(1, len(losses) // 10) :]
    best = now.best_step if training.keep_best and now.best is not None else None
    return Report(now.step, now.seconds, now.tokens, float(np.mean(tail)), now.last, now.first, best)


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
