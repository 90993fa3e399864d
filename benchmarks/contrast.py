"""What scorers make of passages that differ in one small word: pairwise accuracy on contrast sets.

    python -m benchmarks.contrast                                    # quantifier edits, made by templates
    python -m benchmarks.contrast --condaqa FILE --nevir FILE        # and these, for those who have them
    python -m benchmarks.contrast --cross-encoder FOLDER --json

Scorers: the bi-encoder's cosine; the same model's token vectors compared one by one (each question token takes its best
match, summed: late interaction without any training for it, punctuation of passages left out); BM25 over all passages
of the set; a cross-encoder, where its folder is given.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from minibi import BM25, BiEncoder, CrossEncoder, LateInteraction
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
from minibi.text.words import Words

from .common import say, table


def bm25(questions: list[str], passages: list[str]) -> list[float]:
    """BM25 as in Lucene, words in lower case, none left out or stemmed; the collection is the set of all passages."""
    distinct = list(dict.fromkeys(passages))
    index = BM25(k1=1.2, tokenizer=Words(stop_words=None, stemmer=None, min_length=1))
    index.add(distinct)
    number = {text: i for i, text in enumerate(distinct)}
    scores = []
    for question, passage in zip(questions, passages, strict=True):
        found, ids = index.search(question, 1, filter=[number[passage]])
        scores.append(float(found[0, 0]) if ids[0, 0] >= 0 else 0.0)
    return scores


def token_vectors(model: LateInteraction) -> Scorer:
    """MaxSim: each question token takes its best match among the passage's, summed."""

    def score(questions: list[str], passages: list[str]) -> list[float]:
        asked, read = list(dict.fromkeys(questions)), list(dict.fromkeys(passages))
        queries = dict(zip(asked, model.encode_query(asked, truncation="silent"), strict=True))
        documents = dict(zip(read, model.encode_document(read, truncation="silent"), strict=True))
        return [
            float(model.similarity(queries[q], documents[p])[0, 0]) for q, p in zip(questions, passages, strict=True)
        ]

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
        "token vectors": token_vectors(LateInteraction(options.model)),
        "BM25": bm25,
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
