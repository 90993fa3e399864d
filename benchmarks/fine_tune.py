"""What training is worth: a model fine-tuned on SQuAD's pairs, and a student that learns from a teacher.

    python -m benchmarks.fine_tune squad --data DIR                  # fine-tuned against as it came
    python -m benchmarks.fine_tune distil --data DIR                 # taught by scores against taught by labels

DIR holds squad_pairs.jsonl, lines of {"query": …, "positive": …}. A fifth of the pairs is held out by a hash, so that
no text is on both sides. Each held-out question is asked among all sentences of the file, those of training included;
the figure is the reciprocal rank of its sentence (0 beyond 10), compared question by question. A student has three of
the model's layers; its teacher is the model fine-tuned on the same pairs. Runs are kept in runs/ and go on where they
were interrupted; what is finished there is not trained again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from minibi import BiEncoder
from minibi.evaluate.significance import paired_bootstrap
from minibi.train.data import Example, held_out, read_examples
from minibi.train.held_out import held_out_evaluator
from minibi.train.recipe import Recipe, parse_recipe
from minibi.train.run import read_data, run_folder, train

from .common import ROOT, machine, say

MODEL, DEPTH, WATCHED = "all-MiniLM-L6-v2", 10, 500
LAYERS = [0, 2, 5]


def recipe(
    args: argparse.Namespace, name: str, loss: dict[str, Any], rate: float, others: dict[str, Any], **model: Any
) -> Recipe:
    """What all runs share, and what sets one apart."""
    content = {"output": str(args.runs / name), "model": {"base": MODEL, "dropout": 0.0} | model, "loss": loss}
    return parse_recipe(content | others | {"training": others["training"] | {"learning_rate": rate}})


def trained(wanted: Recipe) -> tuple[BiEncoder, dict[str, Any]]:
    """The recipe's model, trained now or before, and the run's summary."""
    if not Path(wanted.output).exists():
        _, apart = read_data(wanted)
        evaluate = held_out_evaluator(apart[:WATCHED], wanted.training.batch_size) if apart else None
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
    data = {"train": str(args.data / "squad_pairs.jsonl"), "held_out": 0.2}
    training = {"epochs": args.epochs, "batch_size": 64, "save_every": 50}
    others = {"data": data, "seed": args.seed, "training": training}
    tuned = recipe(args, "squad", {"name": "info_nce", "same_texts": True}, 2e-5, others)
    model, summary = trained(tuned)
    examples, apart = read_data(tuned)
    models = {"as it came": [BiEncoder(MODEL)], "fine-tuned": [model]}
    return compared([*examples, *apart], apart, models, {"fine-tuned": summary})


# What students were tried with, on the questions of `dev`: the loss with its options, and the learning rate.
STUDENTS: dict[str, tuple[dict[str, Any], float]] = {
    f"labels {rate}": ({"name": "info_nce", "same_texts": True}, rate) for rate in (5e-5, 1e-4, 3e-4)
}
STUDENTS |= {
    "scores 0.0003": ({"name": "score_distill", "scale": 5.0}, 3e-4),
    "scores and labels 0.0003": ({"name": "score_distill", "scale": 5.0, "label_weight": 0.25}, 3e-4),
    "vectors 0.0003": ({"name": "embed_distill", "distance": "cosine"}, 3e-4),
    "vectors and labels 0.0003": ({"name": "embed_distill", "distance": "cosine", "label_weight": 0.1}, 3e-4),
}
CHOSEN = ["labels 0.0001", "scores 0.0003"]


def distil(args: argparse.Namespace) -> dict[str, Any]:
    """Pairs in three parts: `test` as `squad` holds it out with seed 1, a sixth of the rest to choose by, the rest."""
    examples = read_examples(args.data / "squad_pairs.jsonl")
    rest, test = held_out(examples, 0.2, 1)
    learned, dev = held_out(rest, 0.15, 2)
    file = args.runs / "distil.jsonl"
    file.write_text("".join(json.dumps({"query": e.query, "positive": e.documents[0]}) + "\n" for e in learned))
    data = {"train": str(file), "held_out": 0.0}
    begin = {"data": data, "seed": 1, "training": {"steps": 120, "batch_size": 64, "save_every": 50}}
    labels = {"name": "info_nce", "same_texts": True}
    teacher, _ = trained(recipe(args, "teacher", labels, 5e-5, begin, freeze_layers=2))
    models: dict[str, list[BiEncoder]] = {}
    summaries: dict[str, Any] = {}
    for name, seed in product(args.students, args.seeds):
        loss, rate = STUDENTS[name]
        taught = {"teacher": str(args.runs / "teacher")} if loss["name"].endswith("_distill") else {}
        wanted = recipe(args, f"{name}, {seed}", loss, rate, begin | {"seed": seed}, layers=LAYERS, **taught)
        model, summaries[f"{name}, {seed}"] = trained(wanted)
        models.setdefault(name, []).append(model)
    return compared(examples, dev if args.part == "dev" else test, models | {"teacher": [teacher]}, summaries)


def compared(
    examples: Sequence[Example], asked: Sequence[Example], models: dict[str, list[BiEncoder]], summaries: dict[str, Any]
) -> dict[str, Any]:
    """Each model's figure, the mean of its seeds question by question, and the others against the first."""
    sentences = list(dict.fromkeys(e.documents[0] for e in examples))
    ranks, comparisons = {}, {}
    for name, seeds in models.items():
        say(f"asking {len(asked):,} questions: {name}")
        each = [reciprocal_ranks(model, asked, sentences) for model in seeds]
        ranks[name] = np.mean(each, axis=0)
        print(f"{name}: {', '.join(f'{r.mean():.4f}' for r in each)}")
    base, *others = models
    for name in others:
        comparisons[name] = paired_bootstrap(ranks[name], ranks[base], metric="mrr@10")
        print(f"{name} against {base}: {comparisons[name]}")
    counts = {"examples": len(examples), "questions": len(asked), "sentences": len(sentences)}
    runs = {name: {k: s[k] for k in ("steps", "seconds", "tokens", "loss")} for name, s in summaries.items()}
    means = {name: float(r.mean()) for name, r in ranks.items()}
    against = {name: comparison.to_dict() for name, comparison in comparisons.items()}
    return machine() | counts | {"mrr@10": means, "runs": runs, "against the first": against}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["squad", "distil"])
    parser.add_argument("--data", type=Path, required=True, help="the folder with squad_pairs.jsonl")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--epochs", type=float, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of squad's split and order")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7], help="of distil: of the order of the pairs")
    parser.add_argument("--part", choices=["dev", "test"], default="test", help="of distil: whose questions are asked")
    parser.add_argument(
        "--students", nargs="+", choices=STUDENTS, default=CHOSEN, metavar="NAME", help=f"of distil: {[*STUDENTS]}"
    )
    args = parser.parse_args()
    args.runs.mkdir(exist_ok=True)
    found = {"squad": squad, "distil": distil}[args.what](args)
    (args.runs / f"{args.what}.json").write_text(json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
