"""The learning loop: it learns, and a run that stopped anywhere ends with the bits of one that did not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fit_checks import learner, pairs, same_weights, training

from minibi.errors import FormatError, InputError, ModelError
from minibi.store.snapshot import read_snapshot
from minibi.train.data import Batches
from minibi.train.fit import Clock, fit
from minibi.train.held_out import held_out_evaluator
from minibi.train.journal import BEST, CHECKPOINT, LOG
from minibi.train.log import read_log

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
from fit_checks import learner, pairs, training
from minibi.train.fit import fit
fit(learner(), pairs(), training(16, save_every=1), folder=sys.argv[1])
"""


class Stopping:
    """A learner that does something else when it is asked for the n-th time."""

    def __init__(self, inner, at: int, what):
        self.inner, self.at, self.what, self.asked = inner, at, what, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def gradients(self, batch, seed):
        self.asked += 1
        if self.asked == self.at:
            self.what()
        return self.inner.gradients(batch, seed)


def fail():
    raise OSError("the power went out")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """(weights, log) of twelve steps without a stop."""
    folder, model = tmp_path_factory.mktemp("run"), learner()
    fit(model, pairs(), training(), folder=folder, seed=3)
    return model.trainable, read_log(folder / LOG)


def test_it_learns_the_pairs_by_heart(tmp_path):
    model = learner(0.0)
    evaluate = held_out_evaluator(pairs(), 6)
    report = fit(model, pairs(), training(40, learning_rate=5e-3, save_every=None), folder=tmp_path, evaluate=evaluate)
    log = read_log(tmp_path / LOG)
    assert report.loss < 0.1 < log["loss"][1]
    assert report.metrics["mrr@10"] > 0.9 > report.first_metrics["mrr@10"]
    assert log["step"] == list(range(41))
    assert log["mrr@10"][0] == report.first_metrics["mrr@10"]
    assert log["learning_rate"][1] == 0
    assert max(log["learning_rate"][1:]) == pytest.approx(5e-3)


def test_a_folder_in_use_is_refused(tmp_path):
    """By another process, and by another thread of this one; its end, however it ends, sets the folder free."""
    code = "import sys, time; from pathlib import Path; from minibi.store.files import locked\n"
    code += "with locked(Path(sys.argv[1]), 'x'): print('mine', flush=True); time.sleep(100)"
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "mine\n"
    with pytest.raises(InputError, match=f"in use by process {other.pid}: wait for its end"):
        fit(learner(), pairs(), training(), folder=tmp_path)
    other.kill()
    other.wait()
    seen = []

    def meanwhile():
        with ThreadPoolExecutor(1) as pool:
            seen.append(pool.submit(fit, learner(), pairs(), training(), folder=tmp_path).exception())

    fit(Stopping(learner(), 2, meanwhile), pairs(), training(3), folder=tmp_path)
    assert isinstance(seen[0], InputError) and f"in use by process {os.getpid()}" in str(seen[0])


def test_no_step_is_wasted_on_a_single_pair(tmp_path):
    """Seven pairs in batches of six: alone, the seventh has no negative; with one of its own it is used."""
    for examples, counts in ((pairs(7), [6]), (pairs(7, negatives=1), [6, 1])):
        batches = Batches(examples, 6, least=learner().check(examples))
        assert [len(batch) for batch in batches.plan(0)] == counts
    assert fit(learner(), pairs(7), training(None, epochs=2), folder=tmp_path / "a").steps == 2
    with pytest.raises(InputError, match="batch_size is 1, but in a batch examples learn from others: make it 2"):
        fit(learner(), pairs(7), training(batch_size=1), folder=tmp_path / "b")
    with pytest.raises(InputError, match="no batch has 6 examples that share no text"):
        fit(learner(), pairs(5), training(drop_last=True), folder=tmp_path / "c")


@pytest.mark.parametrize("at", [2, 5, 7, 12])
def test_a_run_that_broke_down_goes_on_bit_for_bit(tmp_path, uninterrupted, at):
    with pytest.raises(OSError):
        fit(Stopping(learner(), at, fail), pairs(), training(), folder=tmp_path, seed=3)
    model = learner()
    fit(model, pairs(), training(), folder=tmp_path, seed=3)
    weights, log = uninterrupted
    assert same_weights(model.trainable, weights)
    ours = read_log(tmp_path / LOG)
    assert (ours["loss"], ours["step"], ours["gradient_norm"]) == (log["loss"], log["step"], log["gradient_norm"])


def test_control_c_finishes_the_step_and_keeps_it(tmp_path, uninterrupted):
    before = signal.getsignal(signal.SIGINT)
    model = Stopping(learner(), 5, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="stopped after step 5"):
        fit(model, pairs(), training(save_every=None), folder=tmp_path, seed=3)
    assert signal.getsignal(signal.SIGINT) is before
    again = learner()
    fit(again, pairs(), training(save_every=None), folder=tmp_path, seed=3)
    assert same_weights(again.trainable, uninterrupted[0])


def test_a_second_control_c_does_not_wait(tmp_path):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fit(Stopping(learner(), 2, twice), pairs(), training(), folder=tmp_path)


def test_killed_from_outside_again_and_again(tmp_path):
    """SIGKILL at moments of no one's choosing, many of them while a checkpoint is written."""

    def start(folder: Path) -> subprocess.Popen:
        path = os.pathsep.join(p for p in sys.path if p)
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT.format(tests=str(Path(__file__).parent)), str(folder)],
            env={**os.environ, "PYTHONPATH": path, "MINIBI_KERNELS": "plain", "OPENBLAS_NUM_THREADS": "1"},
        )

    folder, whole, kills = tmp_path / "killed", tmp_path / "whole", 0
    beside = start(whole)
    for wait in (0.005, 0.02):
        process, done = start(folder), steps_in(folder)
        while steps_in(folder) < done + 2 and process.poll() is None:
            time.sleep(0.002)
        time.sleep(wait)
        process.kill()
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2
    assert start(folder).wait() == beside.wait() == 0
    ours, theirs = (read_snapshot(place / CHECKPOINT, "checkpoint")[0] for place in (folder, whole))
    assert len(ours) > 100
    assert same_weights(ours, theirs)
    assert read_log(folder / LOG)["loss"] == read_log(whole / LOG)["loss"]


def steps_in(folder: Path) -> int:
    return (folder / LOG).read_text().count("\n") if (folder / LOG).exists() else 0


OTHERS = {
    "seed": (lambda: learner(), pairs(), training(), 1, "another seed"),
    "setting": (
        lambda: learner(),
        pairs(),
        training(learning_rate=1e-4),
        0,
        r"training.learning_rate \(0.001, now 0.0001",
    ),
    "data": (lambda: learner(), pairs(23), training(), 0, "another data"),
    "dropout": (lambda: learner(0.2), pairs(), training(), 0, "another dropout"),
    "loss": (lambda: learner(loss="info_nce", scale=10.0), pairs(), training(), 0, "another loss"),
    "frozen": (lambda: learner(frozen=["embeddings"]), pairs(), training(), 0, "another trained"),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    fit(learner(), pairs(), training(2), folder=folder)
    return folder


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_refused_and_nothing_changes(kept, name):
    make, examples, settings, seed, message = OTHERS[name]
    model, before = make(), make()
    files = {f.name: f.read_bytes() for f in kept.iterdir()}
    settings = training(2, learning_rate=settings.learning_rate)
    with pytest.raises(InputError, match=message) as e:
        fit(model, examples, settings, folder=kept, seed=seed)
    assert "delete the folder" in str(e.value)
    assert same_weights(model.trainable, before.trainable)
    assert {f.name: f.read_bytes() for f in kept.iterdir()} == files


def test_a_damaged_checkpoint_is_refused(tmp_path, kept):
    whole = (kept / CHECKPOINT).read_bytes()
    for place in (40, len(whole) // 2, len(whole) - 3):
        (tmp_path / CHECKPOINT).write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        model = learner()
        with pytest.raises(FormatError):
            fit(model, pairs(), training(2), folder=tmp_path)
        assert same_weights(model.trainable, learner().trainable)
    (tmp_path / CHECKPOINT).write_bytes(whole[:-100])
    with pytest.raises(FormatError):
        fit(learner(), pairs(), training(2), folder=tmp_path)


def test_frozen_layers_do_not_move(tmp_path):
    model = learner(frozen=["embeddings", "encoder.layer.0"])
    before = {name: p.copy() for name, p in model.query.model.parameters.items()}
    fit(model, pairs(), training(3), folder=tmp_path)
    for name, p in model.query.model.parameters.items():
        moved = not np.array_equal(p, before[name])
        assert moved == name.startswith("encoder.layer.1"), name


def test_accumulation_is_the_large_batch(tmp_path):
    """For a loss that is a mean over rows. The batches of an epoch are the same pairs, in another order of sums."""
    examples = pairs(12, scores=True)
    weights = []
    for size, count in ((12, 1), (3, 4)):
        model = learner(0.0, loss="cosine_similarity")
        options = {"batch_size": size, "accumulate": count, "warmup": 0.0}
        fit(model, examples, training(4, **options), folder=tmp_path / str(size))
        weights.append(model.trainable)
    for name, p in weights[0].items():
        if name.endswith("key.bias"):  # adds the same to all scores of a query: a slope of zero, of which AdamW makes
            continue  # steps of full length in the direction of rounding
        assert np.linalg.norm(p - weights[1][name]) <= 2e-4 * np.linalg.norm(p) + 1e-4, name


@pytest.mark.parametrize("chunk_size", [1, 5, 100])
def test_grad_cache_is_the_uncached_gradient(chunk_size):
    batch = pairs(8, negatives=1)
    whole = learner(0.0).gradients(batch, (0,))
    parts = learner(0.0, chunk_size=chunk_size).gradients(batch, (0,))
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.tokens == whole.tokens
    largest = max(np.abs(g).max() for g in whole.gradients.values())
    for name, g in whole.gradients.items():
        np.testing.assert_allclose(parts.gradients[name], g, rtol=1e-3, atol=1e-5 * largest, err_msg=name)


def test_grad_cache_drops_the_same_both_times():
    """With one chunk the cached pass has the seeds of the uncached one, so it must have its gradients."""
    batch = pairs(4)
    whole, cached = (learner(0.3, chunk_size=c).gradients(batch, (1, 2)) for c in (None, 8))
    other = learner(0.3).gradients(batch, (1, 3))
    assert whole.loss == cached.loss != other.loss
    for name, g in whole.gradients.items():
        np.testing.assert_array_equal(g, cached.gradients[name])


def test_a_learned_scale_moves_and_is_kept(tmp_path):
    model = learner(loss="info_nce_learned_scale")
    with pytest.raises(OSError):
        fit(Stopping(model, 5, fail), pairs(), training(6, save_every=2), folder=tmp_path)
    again = learner(loss="info_nce_learned_scale")
    start = again.learned["loss.log_scale"].copy()
    fit(again, pairs(), training(6, save_every=2), folder=tmp_path)
    assert again.learned["loss.log_scale"] != start
    again.learned["loss.log_scale"][0] = 7
    again.after_step()
    assert again.learned["loss.log_scale"] == np.log(100)


@pytest.mark.parametrize("metric", ["score", "some_loss"])
def test_the_best_weights_are_kept(tmp_path, metric):
    values = iter([1, 5, 2, 3] if metric == "score" else [5, 1, 3, 2])
    seen = []

    def evaluate(model):
        seen.append({name: p.copy() for name, p in model.trainable.items()})
        return {metric: next(values)}

    model = learner()
    report = fit(model, pairs(), training(9, evaluate_every=3, keep_best=True), folder=tmp_path, evaluate=evaluate)
    assert report.best_step == 3
    assert same_weights(model.trainable, seen[1])
    assert not same_weights(model.trainable, seen[3])
    assert (tmp_path / BEST).exists()


def test_how_long_a_run_is(tmp_path):
    batches = Batches(pairs(24), 6)
    for options, steps in (
        ({"steps": 7}, 7), ({"epochs": 2}, 8), ({"epochs": 0.5}, 2), ({"epochs": 1.5, "accumulate": 4}, 2),
        ({"epochs": 0.01}, 1),
    ):  # fmt: skip
        assert Clock(training(**{"steps": None} | options), batches).steps == steps
    report = fit(learner(), pairs(), training(steps=None, minutes=0.005), folder=tmp_path)
    assert report.steps >= 1
    assert report.seconds >= 0.3


def test_what_goes_wrong_is_said(tmp_path):
    with pytest.raises(InputError, match="needs pairs, but example 0 has scores"):
        fit(learner(), pairs(scores=True), training(), folder=tmp_path / "a")
    assert not (tmp_path / "a").exists()
    with pytest.raises(InputError, match="evaluate must return metrics by name"):
        fit(learner(), pairs(), training(), folder=tmp_path / "b", evaluate=lambda model: 3)
    model = learner()
    model.trainable["encoder.layer.0.output.dense.bias"][0] = np.inf
    with pytest.raises(ModelError, match="lower the learning rate"), np.errstate(all="ignore"):
        fit(model, pairs(), training(), folder=tmp_path / "c")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / LOG).write_text("not ours")
    with pytest.raises(InputError, match="exists"):
        fit(learner(), pairs(), training(), folder=tmp_path / "d")
    with pytest.raises(InputError, match="all parameters are frozen"):
        learner(frozen=["embeddings", "encoder"])
