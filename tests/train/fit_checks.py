"""What tests of the learning loop share: pairs that a tiny model can learn, and a learner of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from minibi import BiEncoder
from minibi.train.data import Example
from minibi.train.learners import EmbeddingLearner
from minibi.train.model import Trainable
from minibi.train.objective import make_objective
from minibi.train.recipe import Training

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
TINY = GOLDEN / "tiny-bert"
WORDS = ["river", "stone", "bread", "winter", "garden", "letter", "music", "horse", "window", "paper", "silver"]


def pairs(count: int = 24, negatives: int = 0, scores: bool = False) -> list[Example]:
    """Each query names two words, its document three others, always the same for the same query."""
    rng = np.random.default_rng(5)
    found = []
    for i in range(count):
        texts = [" ".join(rng.choice(WORDS, 3)) + f" {i} {k}" for k in range(2 + negatives)]
        given = tuple(float(x) for x in rng.random(1 + negatives)) if scores else None
        found.append(Example(texts[0], tuple(texts[1:]), given))
    return found


def learner(dropout: float = 0.1, *, loss: str = "info_nce", frozen=(), chunk_size=None, **options) -> EmbeddingLearner:
    model = Trainable(BiEncoder(TINY), frozen=frozen)
    return EmbeddingLearner(model, make_objective(loss, options), dropout=dropout, chunk_size=chunk_size)


def training(steps: int = 12, **options) -> Training:
    return Training(**{"steps": steps, "batch_size": 6, "learning_rate": 1e-3, "save_every": 3} | options)


def same_weights(one, other) -> bool:
    return all(np.array_equal(p, other[name]) for name, p in one.items())


def write_pairs(path: Path, examples=None) -> Path:
    rows = [{"query": e.query, "positive": e.documents[0]} for e in examples or pairs()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
