"""A training step of MiniLM beside torch's: forward, backward, AdamW on 32 texts of 128 tokens, the same arithmetic.

    python -m benchmarks.training                # times in turns, and peak memory
    python -m benchmarks.training --threads 1 --rounds 15
    python -m benchmarks.training --dropout 0.1  # of embeddings, attention weights and what each half of a block adds
    python -m benchmarks.training curves --data pairs.jsonl        # how the loss falls: see `curves`

The loss is half the squared length of all vectors (mean-pooled, not normalized), so that nothing but the model takes
time; both begin with the same weights, and the first loss and gradient norm are compared before anything is timed.
Each contender has a process of its own; they take turns, step by step, and the ratio is the median over rounds.
Dropout is off unless asked for, AdamW decays matrices alone, every parameter is trained, the table of words included.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace

from . import curves
from .common import ROOT, Ratio, limit_threads, machine, memory, ratio, say

MODEL = ROOT / "weights" / "all-MiniLM-L6-v2"
TEXTS, LENGTH, RATE, DECAY = 32, 128, 2e-5, 0.01
Step = Callable[[], tuple[float, float]]


def ours(dropout: float) -> Step:
    """minibi: a step that returns (loss, gradient norm)."""
    import numpy as np

    from minibi.nn.dropout import Dropout
    from minibi.text.batches import Batch
    from minibi.train.model import Trainable
    from minibi.train.optimizer import AdamW, global_norm

    model = Trainable(MODEL)
    model.encoder.modules = replace(model.encoder.modules, steps=())  # vectors as they are pooled
    ids = np.array(_ids(), np.int32).reshape(-1)
    batch = Batch(ids, np.zeros_like(ids), np.arange(0, len(ids) + 1, LENGTH))
    optimizer = AdamW(model.trainable, lr=RATE, weight_decay=DECAY)
    first: list[float] = []

    def step() -> tuple[float, float]:
        run = model.forward(batch, Dropout(dropout, dropout, (0, optimizer.steps)) if dropout else None)
        gradients = run.backward(run.output)
        if not first:
            first.append(global_norm(gradients))
        optimizer.step(gradients)
        return float((run.output**2).sum() / 2), first[0]

    return step


def torchs(dropout: float, threads: int) -> Step:
    """torch with transformers' BertModel and its fused attention."""
    import torch
    from safetensors.torch import load_file
    from transformers import BertConfig, BertModel

    torch.set_num_threads(threads)
    rates = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    model = BertModel(BertConfig.from_pretrained(MODEL, **rates), add_pooling_layer=False).float().train(dropout > 0)
    tensors = {name: t.float() for name, t in load_file(MODEL / "model.safetensors").items()}
    missing, _ = model.load_state_dict(tensors, strict=False)
    if missing:
        raise RuntimeError(f"the weights lack {missing}")
    parameters = list(model.parameters())
    groups = [{"params": [p for p in parameters if (p.ndim > 1) == big], "weight_decay": DECAY * big} for big in (1, 0)]
    optimizer = torch.optim.AdamW(groups, lr=RATE)
    ids = torch.tensor(_ids())
    first: list[float] = []

    def step() -> tuple[float, float]:
        optimizer.zero_grad()
        loss = (model(ids).last_hidden_state.mean(dim=1) ** 2).sum() / 2
        loss.backward()
        if not first:
            first.append(float(torch.nn.utils.get_total_norm([p.grad for p in parameters])))
        optimizer.step()
        return loss.item(), first[0]

    return step


def _ids() -> list[list[int]]:
    """Token ids as if drawn from the vocabulary's middle, the same every time."""
    import random

    draw = random.Random(0)
    return [[draw.randrange(1000, 30000) for _ in range(LENGTH)] for _ in range(TEXTS)]


class Child:
    """A contender in a process of its own, so that neither meets the other's threads, which may still be spinning."""

    def __init__(self, name: str, threads: int, dropout: float):
        command = [sys.executable, "-m", "benchmarks.training", "--child", name]
        command += ["--threads", str(threads), "--dropout", str(dropout)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.loss, self.norm = self.ask("step")[1:]

    def ask(self, what: str) -> list[float]:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(what, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())


def answer(step: Step) -> None:
    """The child's side: each line on stdin is answered by one on stdout."""
    for line in sys.stdin:
        if line == "peak\n":
            print(json.dumps([memory()["peak"]]), flush=True)
        else:
            start = time.perf_counter()
            loss, norm = step()
            print(json.dumps([time.perf_counter() - start, loss, norm]), flush=True)


def main() -> None:
    if sys.argv[1:2] == ["curves"]:
        curves.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--child", choices=["minibi", "torch"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    threads, dropout = arguments.threads, arguments.dropout
    limit_threads(threads)
    if arguments.child:
        answer(ours(dropout) if arguments.child == "minibi" else torchs(dropout, threads))
        return
    children = {"minibi": Child("minibi", threads, dropout)}
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        children["torch"] = Child("torch", threads, dropout)
    for name, child in children.items():
        say(f"{name}: first loss {child.loss:.6f}, gradient norm {child.norm:.6f}")
        child.ask("step")  # memory is laid out by now
    times: dict[str, list[float]] = {name: [] for name in children}
    for _ in range(arguments.rounds):
        for name, child in children.items():
            times[name].append(child.ask("step")[0])
    print(json.dumps(machine()))
    for name, seconds in times.items():
        each, peak = Ratio.of(seconds), children[name].ask("peak")[0]
        print(f"{name:8s} {each} s a step, {TEXTS * LENGTH / each.median:.0f} tokens/s; peak {peak:.0f} MB")
    if "torch" in times:
        print(f"torch / minibi: {ratio(times['torch'], times['minibi'])}")


if __name__ == "__main__":
    main()
