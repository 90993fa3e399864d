"""What training is worth: a model fine-tuned on SQuAD's pairs, and a student that learns from a teacher.

    python -m benchmarks.fine_tune squad --data DIR                  # fine-tuned against as it came
    python -m benchmarks.fine_tune distil --data DIR --epochs 1      # taught by scores against taught by labels

DIR holds squad_pairs.jsonl, lines of {"query": …, "positive": …}. A fifth of the pairs is held out by a hash, so that
no text is on both sides. Each held-out question is asked among all sentences of the file, those of training included;
the figure is the reciprocal rank of its sentence (0 beyond 10), compared question by question. The student has three of
the model's layers; its teacher is what `squad` made. Runs are kept in runs/ and go on where they were interrupted; what
is finished there is not trained again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from minibi import BiEncoder
from minibi.evaluate.significance import paired_bootstrap
from minibi.train.data import Example
from minibi.train.held_out import held_out_evaluator
from minibi.train.recipe import Recipe, parse_recipe
from minibi.train.run import read_data, run_folder, train

from .common import ROOT, machine, say

MODEL, DEPTH, WATCHED = "all-MiniLM-L6-v2", 10, 500
LAYERS = [0, 2, 5]


def recipe(args: argparse.Namespace, name: str, loss: dict[str, Any], rate: float, **model: Any) -> Recipe:
    """What all runs share, and what sets one apart."""
    return parse_recipe(
        {
            "output": str(args.runs / name),
            "seed": args.seed,
            "model": {"base": MODEL, "dropout": 0.0} | model,
            "data": {"train": str(args.data / "squad_pairs.jsonl"), "held_out": 0.2},
            "loss": loss,
            "training": {"epochs": args.epochs, "batch_size": 64, "learning_rate": rate, "save_every": 50},
        }
    )


def trained(wanted: Recipe) -> tuple[BiEncoder, dict[str, Any]]:
    """The recipe's model, trained now or before, and the run's summary."""
    if not Path(wanted.output).exists():
        _, apart = read_data(wanted)
        evaluate = held_out_evaluator(apart[:WATCHED], wanted.training.batch_size)
        train(wanted, show_progress_bar=True, evaluate=evaluate, tell=say)
    return BiEncoder(wanted.output), json.loads((run_folder(wanted) / "summary.json").read_text())


def reciprocal_ranks(model: BiEncoder, asked: Sequence[Example], sentences: Sequence[str]) -> np.ndarray:
    """1 / rank of each question's sentence among all, by cosine; 0 beyond DEPTH."""
    options: dict[str, Any] = {"truncation": "silent", "normalize_embeddings": True}
    documents = model.encode_document(sentences, **options)
    scores = model.encode_query([e.query for e in asked], **options) @ documents.T
    number = {text: i for i, text in enumerate(sentences)}
    right = scores[np.arange(len(asked)), [number[e.documents[0]] for e in asked]]
    ranks = 1 + (scores > right[:, None]).sum(axis=1)
    return np.where(ranks <= DEPTH, 1 / ranks, 0)


def squad(args: argparse.Namespace) -> dict[str, Any]:
    tuned = recipe(args, "squad", {"name": "info_nce", "same_texts": True}, 2e-5)
    model, summary = trained(tuned)
    return compared(tuned, {"as it came": BiEncoder(MODEL), "fine-tuned": model}, {"fine-tuned": summary})


def distil(args: argparse.Namespace) -> dict[str, Any]:
    teacher = str(args.runs / "squad")
    if not Path(teacher).is_dir():
        raise SystemExit(f"{teacher} is missing, the teacher: run squad first")
    labels = recipe(args, "labels", {"name": "info_nce", "same_texts": True}, 1e-4, layers=LAYERS)
    scores = recipe(
        args, "scores", {"name": "score_distill", "scale": args.scale}, 1e-4, layers=LAYERS, teacher=teacher
    )
    (one, first), (other, second) = trained(labels), trained(scores)
    models = {"labels": one, "scores": other, "teacher": BiEncoder(teacher)}
    return compared(labels, models, {"labels": first, "scores": second})


def compared(wanted: Recipe, models: dict[str, BiEncoder], summaries: dict[str, Any]) -> dict[str, Any]:
    """Each model's figure, and the second against the first."""
    examples, apart = read_data(wanted)
    sentences = list(dict.fromkeys(e.documents[0] for e in [*examples, *apart]))
    ranks = {}
    for name, model in models.items():
        say(f"asking {len(apart):,} questions: {name}")
        ranks[name] = reciprocal_ranks(model, apart, sentences)
    base, ours = list(models)[:2]
    comparison = paired_bootstrap(ranks[ours], ranks[base], metric="mrr@10")
    counts = {"examples": len(examples), "questions": len(apart), "sentences": len(sentences)}
    runs = {name: {k: s[k] for k in ("steps", "seconds", "tokens", "loss")} for name, s in summaries.items()}
    means = {name: float(r.mean()) for name, r in ranks.items()}
    print(f"{ours} against {base}: {comparison}")
    return machine() | counts | {"mrr@10": means, "runs": runs, "comparison": comparison.to_dict()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["squad", "distil"])
    parser.add_argument("--data", type=Path, required=True, help="the folder with squad_pairs.jsonl")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the split and the order; give each its own --runs")
    parser.add_argument("--scale", type=float, default=5.0, help="of distil: of both models' cosines, before softmax")
    args = parser.parse_args()
    args.runs.mkdir(exist_ok=True)
    found = {"squad": squad, "distil": distil}[args.what](args)
    (args.runs / f"{args.what}.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
