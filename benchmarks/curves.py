"""How the loss falls, in minibi and in torch: the same beginnings, batches and settings, step for step.

    python -m benchmarks.training curves --data pairs.jsonl

Two beginnings: a BERT of 4 layers and 256 channels with random weights, and all-MiniLM-L6-v2 with a new random
projection to 128 components behind it. Each learns pairs ("query", "positive") by InfoNCE over the batch at a scale of
20: AdamW with a linear schedule, gradients clipped at 1, no dropout, so that nothing is left to chance. A CSV with both
losses of every step and a picture go into benchmarks/pictures.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .common import HERE, ROOT, limit_threads, say

MODEL = ROOT / "weights" / "all-MiniLM-L6-v2"
PICTURES = HERE / "pictures"
LENGTH = 64  # tokens at most
SCALE, CLIP, DECAY, WARMUP = 20.0, 1.0, 0.01, 0.1
COLOURS = {"minibi": "#c2410c", "torch": "#1d4ed8"}


@dataclass(frozen=True)
class Start:
    """A beginning, and how it is trained."""

    title: str
    steps: int
    pairs: int  # in a batch
    rate: float


STARTS = {
    "random": Start("BERT, 4 layers × 256, random weights", 150, 32, 5e-4),
    "projection": Start("all-MiniLM-L6-v2, new projection to 128", 60, 16, 1e-4),
}


def make_random(target: Path) -> None:
    """A model folder: MiniLM's tokenizer, and a smaller BERT whose weights are drawn as BERT's were."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    shutil.copytree(MODEL, target)
    layers, c, f = 4, 256, 1024
    config = json.loads((MODEL / "config.json").read_text())
    config |= {"num_hidden_layers": layers, "hidden_size": c, "intermediate_size": f, "num_attention_heads": 4}
    (target / "config.json").write_text(json.dumps(config))
    pooling = json.loads((MODEL / "1_Pooling" / "config.json").read_text())
    (target / "1_Pooling" / "config.json").write_text(json.dumps(pooling | {"word_embedding_dimension": c}))
    sizes, draw, tensors = {384: c, 1536: f}, np.random.default_rng(0), {}
    for name, tensor in sorted(load_file(MODEL / "model.safetensors").items()):
        parts = name.split(".")
        if ("layer" in parts and int(parts[parts.index("layer") + 1]) >= layers) or tensor.dtype.kind != "f":
            continue
        shape = [sizes.get(n, n) for n in tensor.shape]
        tensors[name] = draw.normal(0, 0.02, shape).astype(np.float32)
        if len(shape) == 1:
            tensors[name] = np.full(shape, float("LayerNorm.weight" in name), np.float32)
    save_file(tensors, target / "model.safetensors", {"format": "pt"})


def make_projection(target: Path) -> None:
    """MiniLM's folder with a dense layer between pooling and normalization."""
    import numpy as np
    from safetensors.numpy import save_file

    shutil.copytree(MODEL, target)
    modules = json.loads((MODEL / "modules.json").read_text())
    kind = "sentence_transformers.models.Dense"
    modules.insert(2, {"idx": 2, "name": "2", "path": "2_Dense", "type": kind})
    (target / "modules.json").write_text(json.dumps(modules))
    (target / "2_Dense").mkdir()
    config = {"in_features": 384, "out_features": 128, "bias": True}
    config["activation_function"] = "torch.nn.modules.linear.Identity"
    (target / "2_Dense" / "config.json").write_text(json.dumps(config))
    weight = np.random.default_rng(1).normal(0, 384**-0.5, (128, 384)).astype(np.float32)
    tensors = {"linear.weight": weight, "linear.bias": np.zeros(128, np.float32)}
    save_file(tensors, target / "2_Dense" / "model.safetensors", {"format": "pt"})


def make_batches(folder: Path, data: Path, start: Start) -> list[list[list[int]]]:
    """Token ids of each step's texts: queries, then what belongs to them. The same every time."""
    from minibi import BiEncoder
    from minibi.train.data import read_examples, shuffled

    examples = read_examples(data)
    tokenizer = BiEncoder(folder).tokenizer
    batches = []
    for step in range(start.steps):
        epoch, first = divmod(step * start.pairs, len(examples) // start.pairs * start.pairs)
        chosen = [examples[i] for i in shuffled(len(examples), 0, epoch)[first : first + start.pairs]]
        texts = [e.query for e in chosen] + [e.documents[0] for e in chosen]
        encoded = [list(map(int, ids)) for ids in tokenizer.encode(texts, "silent")]
        batches.append([ids if len(ids) <= LENGTH else [*ids[: LENGTH - 1], ids[-1]] for ids in encoded])
    return batches


def ours(folder: Path, batches: list[list[list[int]]], start: Start) -> list[float]:
    """The losses of minibi's steps."""
    import numpy as np

    from minibi.text.batches import pack
    from minibi.train.losses import info_nce
    from minibi.train.model import Trainable
    from minibi.train.optimizer import AdamW, clip, linear_schedule

    model = Trainable(folder)
    optimizer = AdamW(model.trainable, lr=start.rate, weight_decay=DECAY)
    schedule = linear_schedule(start.steps, round(WARMUP * start.steps))
    losses = []
    for n, ids in enumerate(batches):
        run = model.forward(pack(ids))
        loss, gradients = info_nce(*np.split(run.output, 2), scale=SCALE)
        found = run.backward(np.concatenate(gradients).astype(np.float32))
        clip(found, CLIP)
        optimizer.step(found, schedule(n))
        losses.append(float(loss))
    return losses


def torchs(folder: Path, batches: list[list[list[int]]], start: Start) -> list[float]:
    """The losses of torch's, with transformers' BertModel."""
    import torch
    from safetensors.torch import load_file
    from torch.nn import functional as F
    from transformers import BertConfig, BertModel

    model = BertModel(BertConfig.from_pretrained(folder), add_pooling_layer=False).float().eval()
    model.load_state_dict({n: t.float() for n, t in load_file(folder / "model.safetensors").items()}, strict=False)
    parameters: list[Any] = list(model.parameters())
    dense = None
    if (folder / "2_Dense").exists():
        tensors = load_file(folder / "2_Dense" / "model.safetensors")
        dense = [torch.nn.Parameter(tensors[f"linear.{name}"]) for name in ("weight", "bias")]
        parameters += dense
    groups = [{"params": [p for p in parameters if (p.ndim > 1) == big], "weight_decay": DECAY * big} for big in (1, 0)]
    optimizer = torch.optim.AdamW(groups, lr=start.rate)
    warmup = round(WARMUP * start.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda n: n / warmup if n < warmup else (start.steps - n) / (start.steps - warmup)
    )
    losses = []
    for ids in batches:
        longest = max(map(len, ids))
        padded = torch.tensor([[*one, *[0] * (longest - len(one))] for one in ids])
        mask = torch.tensor([[1] * len(one) + [0] * (longest - len(one)) for one in ids])
        states = model(padded, attention_mask=mask).last_hidden_state
        x = (states * mask[..., None]).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        if dense is not None:
            x = F.linear(x, *dense)
        a, b = F.normalize(x, dim=1).chunk(2)
        loss = F.cross_entropy(SCALE * a @ b.T, torch.arange(len(a)))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def child(name: str, work: Path, start: str) -> None:
    """One contender in a process of its own: prints its losses as JSON."""
    batches = json.loads((work / "batches.json").read_text())
    run = ours if name == "minibi" else torchs
    print(json.dumps(run(work / "model", batches, STARTS[start])))


def draw(curves: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Both curves of each beginning beside each other; torch's lies behind, broad and pale."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(curves), figsize=(4.5 * len(curves), 3), constrained_layout=True, squeeze=False)
    for axis, (start, losses) in zip(axes[0], curves.items(), strict=True):
        for name in reversed(losses):
            broad = {"linewidth": 4, "alpha": 0.35} if name == "torch" else {"linewidth": 1}
            axis.plot(losses[name], color=COLOURS[name], label=name, **broad)
        axis.set(title=STARTS[start].title, xlabel="step", ylabel="InfoNCE")
        axis.title.set_fontsize(9)
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=80)


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.training curves", description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help='JSONL with "query" and "positive"')
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--start", choices=STARTS, action="append")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    limit_threads(arguments.threads)
    if arguments.child:
        name, work, start = arguments.child
        child(name, Path(work), start)
        return
    if arguments.data is None:
        parser.error("--data is missing")
    names = ["minibi"] + ["torch"] * all(map(importlib.util.find_spec, ("torch", "transformers")))
    curves: dict[str, dict[str, list[float]]] = {}
    for start in arguments.start or STARTS:
        curves[start] = {}
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            {"random": make_random, "projection": make_projection}[start](work / "model")
            (work / "batches.json").write_text(json.dumps(make_batches(work / "model", arguments.data, STARTS[start])))
            for name in names:
                say(f"{start}: {name}")
                command = [sys.executable, "-m", "benchmarks.training", "curves", "--threads", str(arguments.threads)]
                done = subprocess.run(
                    [*command, "--child", name, str(work), start], stdout=subprocess.PIPE, check=True, text=True
                )
                curves[start][name] = json.loads(done.stdout)
    PICTURES.mkdir(exist_ok=True)
    with (PICTURES / "training.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["start", "step", *names])
        for start, losses in curves.items():
            for n, row in enumerate(zip(*losses.values(), strict=True)):
                writer.writerow([start, n, *(f"{x:.6f}" for x in row)])
    draw(curves, PICTURES / "training.png")
    for start, losses in curves.items():
        mine = losses["minibi"]
        tail = max(1, len(mine) // 10)
        text = f"{start}: {mine[0]:.4f} at first, {sum(mine[-tail:]) / tail:.4f} over the last tenth"
        if "torch" in losses:
            gaps = [abs(a - b) for a, b in zip(mine, losses["torch"], strict=True)]
            largest = max(gaps)
            text += f"; largest difference from torch {largest:.1e}, at step {gaps.index(largest)}"
        print(text)
