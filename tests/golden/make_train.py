"""What torch computes while it trains the small models: losses, gradients, ten steps of AdamW, all in float64.

    python tests/golden/make_train.py --out tests/golden

Writes `train.safetensors`, in float32. Run with Python 3.11.7, torch 2.13.0 (CPU), transformers 5.23.0, safetensors
0.8.0. Each text runs alone, without padding; dropout is off.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch.nn import functional as F
from transformers import BertForSequenceClassification, BertModel

HERE = Path(__file__).parent
STEPS, WARMUP, RATE, DECAY, CLIP = 10, 3, 2e-3, 0.1, 1.0


def loss_of_texts(x: torch.Tensor) -> torch.Tensor:
    """Text 2i belongs to text 2i + 1; the others are negatives. Cosine similarity times 20."""
    a, b = F.normalize(x[0::2], dim=1), F.normalize(x[1::2], dim=1)
    return F.cross_entropy(20 * a @ b.T, torch.arange(len(a)))


def bi_encoder(name: str, prefix: str):
    """(parameters by name, a function that gives the loss) of tiny-bert or tiny-bert-new on eight texts."""
    arrays = load_file(HERE / "tiny.safetensors")
    ids, starts = torch.from_numpy(arrays[prefix + "ids"]).long(), arrays[prefix + "starts"][:9]
    model = BertModel.from_pretrained(HERE / name, add_pooling_layer=False, dtype=torch.float64).eval()
    parameters = dict(model.named_parameters())
    if name == "tiny-bert-new":
        dense = load_file(HERE / name / "2_Dense" / "model.safetensors")
        dense = {f"2_Dense.{k}": torch.from_numpy(v).double().requires_grad_() for k, v in dense.items()}
        parameters |= dense

    def loss() -> torch.Tensor:
        states = [model(ids[None, s:e]).last_hidden_state[0] for s, e in pairwise(starts)]
        if name == "tiny-bert":
            return loss_of_texts(torch.stack([h.mean(0) for h in states]))
        first = torch.stack([h[0] for h in states])
        return loss_of_texts(torch.tanh(F.linear(first, dense["2_Dense.linear.weight"], dense["2_Dense.linear.bias"])))

    return parameters, loss


def cross_encoder(name: str):
    """The same for a cross-encoder on its first eight pairs: pair i has label i % 3, or i % 2 where there is one."""
    model = BertForSequenceClassification.from_pretrained(HERE / name, dtype=torch.float64).eval()
    given = json.loads((HERE / "cross_encoder.json").read_text())[name]
    row = lambda numbers: torch.tensor([numbers])  # noqa: E731
    pairs = [(row(i), row(t)) for i, t in list(zip(given["ids"], given["types"], strict=True))[:8]]

    def loss() -> torch.Tensor:
        logits = torch.cat([model(input_ids=i, token_type_ids=t).logits for i, t in pairs])
        labels = torch.arange(8)
        if logits.shape[1] == 1:
            return F.binary_cross_entropy_with_logits(logits[:, 0], (labels % 2).double())
        return F.cross_entropy(logits, labels % 3)

    return {n.removeprefix("bert."): p for n, p in model.named_parameters()}, loss


def train(parameters: dict[str, torch.Tensor], loss, out: dict[str, np.ndarray], name: str, whole: bool) -> None:
    decaying = [p for p in parameters.values() if p.ndim > 1]
    others = [p for p in parameters.values() if p.ndim == 1]
    optimizer = torch.optim.AdamW([{"params": decaying, "weight_decay": DECAY}, {"params": others, "weight_decay": 0}])
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (step / WARMUP if step < WARMUP else (STEPS - step) / (STEPS - WARMUP))
        optimizer.zero_grad()
        value = loss()
        value.backward()
        losses.append(value.item())
        if not step:
            for key, p in parameters.items():
                if whole or "word_embeddings" not in key:
                    out[f"{name}/gradient/{key}"] = p.grad.numpy().copy()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), CLIP)
        optimizer.step()
    out[f"{name}/losses"] = np.array(losses)
    for key, p in parameters.items():
        if whole:
            out[f"{name}/final/{key}"] = p.detach().numpy().copy()
    print(name, losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    out: dict[str, np.ndarray] = {}
    train(*bi_encoder("tiny-bert", ""), out, "tiny-bert", True)
    train(*bi_encoder("tiny-bert-new", "new_encode_"), out, "tiny-bert-new", False)
    train(*cross_encoder("tiny-cross-encoder"), out, "tiny-cross-encoder", False)
    train(*cross_encoder("tiny-cross-encoder-3"), out, "tiny-cross-encoder-3", False)
    arrays = {k: a if k.endswith("losses") else np.ascontiguousarray(a, np.float32) for k, a in out.items()}
    save_file(arrays, arguments.out / "train.safetensors")


if __name__ == "__main__":
    main()
