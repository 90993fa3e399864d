"""What scorers make of passages that differ in one small word: pairwise accuracy on contrast sets.

    python -m benchmarks.contrast                                    # quantifier edits, made by templates
    python -m benchmarks.contrast --condaqa FILE --nevir FILE        # and these, for those who have them
    python -m benchmarks.contrast --cross-encoder FOLDER --json

Scorers: the bi-encoder's cosine; the same model's token vectors compared one by one (each question token takes its best
match, summed: late interaction without any training for it); BM25 over all passages of the set; a cross-encoder, where
its folder is given.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from minibi import BiEncoder, CrossEncoder
from minibi.evaluate.contrast import (
    Contrast,
    Scorer,
    bi_encoder_scorer,
    contrast_accuracy,
    cross_encoder_scorer,
    read_condaqa,
    read_nevir,
)
from minibi.evaluate.quantifiers import generate
from minibi.shapes import unit_rows

from .common import say, table


def bm25(questions: list[str], passages: list[str], k1: float = 1.2, b: float = 0.75) -> list[float]:
    """BM25 as in Lucene, words in lower case; the collection is the set of all passages."""
    words = {text: re.findall(r"\w+", text.lower()) for text in dict.fromkeys([*questions, *passages])}
    counts = {text: Counter(words[text]) for text in dict.fromkeys(passages)}
    frequency = Counter(word for count in counts.values() for word in count)
    average = sum(count.total() for count in counts.values()) / len(counts)
    scores = []
    for question, passage in zip(questions, passages, strict=True):
        count = counts[passage]
        norm = k1 * (1 - b + b * count.total() / average)
        terms = [w for w in words[question] if w in count]
        idf = [math.log(1 + (len(counts) - frequency[w] + 0.5) / (frequency[w] + 0.5)) for w in terms]
        scores.append(math.fsum(i * count[w] / (count[w] + norm) for i, w in zip(idf, terms, strict=True)))
    return scores


def token_vectors(model: BiEncoder) -> Scorer:
    """The sum over a question's tokens of the best cosine with a passage's token (ColBERT's MaxSim)."""

    def score(questions: list[str], passages: list[str]) -> list[float]:
        texts = list(dict.fromkeys([*questions, *passages]))
        states = model.encode(texts, output_value="token_embeddings", truncation="silent")
        of = {text: unit_rows(h) for text, h in zip(texts, states, strict=True)}
        return [float((of[q] @ of[p].T).max(axis=1).sum()) for q, p in zip(questions, passages, strict=True)]

    return score


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.contrast", description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--cross-encoder", metavar="FOLDER")
    parser.add_argument("--condaqa", metavar="FILE")
    parser.add_argument("--nevir", metavar="FILE")
    parser.add_argument("--count", type=int, default=1000, help="of contrasts made by templates (default 1000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)

    sets: dict[str, list[Contrast]] = {"quantifiers": generate(options.count, options.seed)}
    if options.condaqa:
        sets["CondaQA"] = read_condaqa(options.condaqa)
    if options.nevir:
        sets["NevIR"] = read_nevir(options.nevir)
    model = BiEncoder(options.model)
    scorers: dict[str, Scorer] = {
        "bi-encoder": bi_encoder_scorer(model, truncation="silent"),
        "token vectors": token_vectors(model),
        "BM25": lambda questions, passages: np.array(bm25(questions, passages)),
    }
    if options.cross_encoder:
        cross = CrossEncoder(options.cross_encoder)
        scorers["cross-encoder"] = cross_encoder_scorer(cross, truncation="silent")

    results: list[dict[str, Any]] = []
    for set_name, contrasts in sets.items():
        for name, scorer in scorers.items():
            say(f"{set_name}: {name}")
            found = asdict(contrast_accuracy(contrasts, scorer))
            found.pop("values")
            results.append({"set": set_name, "scorer": name, **found})
    if options.json:
        print(json.dumps(results, indent=1))
        return
    for set_name in sets:
        mine = [r for r in results if r["set"] == set_name]
        print(f"\n{set_name}: {mine[0]['count']} contrasts, chance {mine[0]['chance']:.2f}\n")
        rows = [[r["scorer"], f"{r['accuracy']:.3f}", f"{r['low']:.3f}–{r['high']:.3f}", r["ties"]] for r in mine]
        print(table(["scorer", "accuracy", "95 %", "ties"], rows))
        kinds = [[k, n, *(f"{r['by_kind'][k][0]:.2f}" for r in mine)] for k, (_, n) in mine[0]["by_kind"].items()]
        print("\n" + table(["edit", "count", *(r["scorer"] for r in mine)], kinds))


if __name__ == "__main__":
    main()
