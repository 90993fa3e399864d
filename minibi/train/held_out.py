"""Measures over held-out examples, taken during training: what `train` uses if a recipe holds some apart.

Retrieval among the held-out documents tells more than the loss where there is one right document for each query.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from .data import Batches, Example
from .learners import EmbeddingLearner, Learner

DEPTH = 10


def held_out_evaluator(
    examples: Sequence[Example], batch_size: int, seed: int = 0
) -> Callable[[Learner], dict[str, float]]:
    """evaluate(learner) for `fit`: "mrr@10" of each query among all held-out documents, where the learner embeds texts
    and examples have no scores; and always "held_out_loss", the mean loss of batches like those of training."""
    batches = Batches(examples, batch_size, seed=seed)
    plan = [[examples[i] for i in batch] for batch in batches.plan(0)]

    def evaluate(learner: Learner) -> dict[str, float]:
        found: dict[str, float] = {}
        if isinstance(learner, EmbeddingLearner) and examples[0].scores is None:
            found["mrr@10"] = float(reciprocal_ranks(learner, examples).mean())
        losses = [learner.loss(batch) for batch in plan]
        weights = [len(batch) for batch in plan]
        return found | {"held_out_loss": float(np.average(losses, weights=weights))}

    return evaluate


def reciprocal_ranks(learner: EmbeddingLearner, examples: Sequence[Example]) -> NDArray:
    """1 / rank of each example's first document among all documents of the examples by cosine; 0 beyond DEPTH."""
    documents = list(dict.fromkeys(text for example in examples for text in example.documents))
    number = {text: i for i, text in enumerate(documents)}
    d = learner.encode_document(documents)
    d = d / np.maximum(np.linalg.norm(d, axis=1, keepdims=True), 1e-30)
    out = np.empty(len(examples))
    for first in range(0, len(examples), 256):
        block = examples[first : first + 256]
        scores = learner.encode_query([e.query for e in block]) @ d.T
        right = np.array([number[e.documents[0]] for e in block])
        ranks = 1 + (scores > scores[np.arange(len(block)), right][:, None]).sum(axis=1)
        out[first : first + 256] = np.where(ranks <= DEPTH, 1 / ranks, 0)
    return out
