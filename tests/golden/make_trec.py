"""Makes trec.json: judgements, runs and what trec_eval itself says of each query. Run once and kept.

    pip install pytrec-eval-terrier==0.5.11
    python tests/golden/make_trec.py

Seeded, so a second run writes the same bytes. What the queries are made to hold: scores in crowded ties, scores that
differ only beyond float32 (also by overflow and underflow), graded, zero and negative judgements, unjudged hits, judged
documents nobody retrieved, queries without a relevant document, queries without hits, a judged query missing from the
run, a query that only the run knows, and ids whose order is easy to get wrong: "10" and "9", upper and lower case,
prefixes, accents, CJK, and characters on either side of the surrogates, where UTF-8 and UTF-16 order differ.

One case is left out, for trec_eval reads stale memory on it: a query all of whose judgements are negative.
"""

from __future__ import annotations

import json
import random
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytrec_eval

CUTOFFS = (1, 2, 3, 5, 10, 20, 100, 1000)
BY_CUTOFF = ("ndcg_cut", "recall", "P", "map_cut", "success")
WHOLE = ("ndcg", "recip_rank", "map", "set_recall", "set_P", "Rprec")
ODD_IDS = [
    *("10", "9", "09", "1", "100", "1e1", "-1", "+1", "0", "٣", "doc", "Doc", "doc ", "do", "docs", "doc-1", "doc_1"),
    *(
        "é",
        "e\u0301",
        "ß",
        "ss",
        "漢",
        "漢字",
        "\ud7ff",
        "\ue000",
        "\uffee",
        "\U00010000",
        "😀",
        "a b",
        "\u2028",
        '"',
        "{}",
    ),
]


def tie_scores(rng: random.Random) -> float:
    return rng.choice([0.25, 0.5, 0.5, 0.75])


def near_tie_scores(rng: random.Random) -> float:
    """Near 1, float32 steps by 1.2e-7 above and 6e-8 below."""
    return 1.0 + rng.choice([0, 1e-12, -1e-12, 1e-9, 5e-8, 7e-8, 1.2e-7, 2e-7, -2e-8, -4e-8, -7e-8])


def wild_scores(rng: random.Random) -> float:
    return rng.choice(
        [0.0, -0.0, 1e-300, -1e-300, 1e-45, 1e-46, 1e38, 3.5e38, 1e39, 1e300, -1e39, -1e300, 16777216, 16777217]
    )


def plain_scores(rng: random.Random) -> float:
    return rng.gauss(0, 1)


def make_query(rng: random.Random, hits: int, grades: list[int]) -> tuple[dict[str, int], dict[str, float]]:
    pool = list(ODD_IDS) + [str(i) for i in range(2 * hits)]
    rng.shuffle(pool)
    draw = rng.choice([tie_scores, near_tie_scores, wild_scores, plain_scores])
    run = {doc: draw(rng) for doc in pool[:hits]}
    retrieved = rng.sample(sorted(run), min(len(run), rng.randint(0, 12)))
    others = rng.sample(pool[hits:], rng.randint(1, 6))
    judged = {doc: rng.choice(grades) for doc in [*retrieved, *others]}
    if max(judged.values()) < 0:
        judged[others[0]] = 0
    return judged, run


def make() -> dict[str, Any]:
    rng = random.Random(20240229)
    qrels: dict[str, dict[str, int]] = {}
    run: dict[str, dict[str, float]] = {}
    for i in range(80):
        grades = rng.choice([[0, 1], [1], [0, 1, 2, 3], [-2, -1, 0, 1, 2], [0], [-1, 0], [0, 0, 0, 1, 10]])
        hits = 1100 if i < 2 else rng.choice([0, 1, 2, 3, 8, 20, 40])
        qrels[f"q{i}"], run[f"q{i}"] = make_query(rng, hits, grades)
    qrels["not in the run"] = {"a": 1, "b": 0}
    run["not judged"] = {"a": 1.0}
    cuts = ",".join(map(str, CUTOFFS))
    measures = {*(f"{name}.{cuts}" for name in BY_CUTOFF), *WHOLE}
    values = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    return {
        "made_by": f"tests/golden/make_trec.py with pytrec-eval-terrier {version('pytrec-eval-terrier')}",
        "cutoffs": CUTOFFS,
        "qrels": qrels,
        "run": run,
        "values": {query: dict(sorted(values[query].items())) for query in qrels if query in values},
    }


if __name__ == "__main__":
    path = Path(__file__).with_name("trec.json")
    with open(path, "w", encoding="ascii", newline="\n") as file:
        json.dump(make(), file, indent=0, separators=(",", ":"))
        file.write("\n")
