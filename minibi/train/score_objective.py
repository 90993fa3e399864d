"""Losses for models that score a query with a document: what a recipe's [loss] asks for, made ready for the loop.

    objective = ScoreObjective("cross_entropy")
    objective.check(examples)
    loss, (slope,) = objective.loss(scores, batch)                # scores [B, K]: each query with its own documents

For late interaction also "info_nce": each query finds its first document among all documents of the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from . import losses
from .data import Example
from .losses import Loss, LossFunction
from .objective import GIVEN, MINE, nearest

SCORE_LOSSES: dict[str, tuple[LossFunction, str, bool]] = {  # name -> function, what scores are to it, are they needed
    "binary_cross_entropy": (losses.binary_cross_entropy, "labels", False),
    "cross_entropy": (losses.cross_entropy, "labels", False),
    "info_nce": (losses.cross_entropy, "labels", False),
    "mse": (losses.mse, "targets", True),
    "margin_mse": (losses.margin_mse, "teacher", True),
    "kl_divergence": (losses.kl_divergence, "teacher", True),
    "list_net": (losses.list_net, "labels", True),
    "rank_net": (losses.rank_net, "labels", True),
}
POINTWISE = ("binary_cross_entropy", "mse")  # make sense of a single document


@dataclass(frozen=True)
class ScoreObjective:
    """A loss of scores with its options. Without scores in the examples, the first document is the right one."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    wants_teacher: bool = False

    def __post_init__(self) -> None:
        if self.name not in SCORE_LOSSES:
            hint = nearest(self.name, SCORE_LOSSES)
            raise InputError(f"there is no loss of scores {self.name!r}{hint}: choose from {', '.join(SCORE_LOSSES)}")
        found = inspect.signature(SCORE_LOSSES[self.name][0]).parameters.values()
        known = [p.name for p in found if p.kind is inspect.Parameter.KEYWORD_ONLY and p.name not in GIVEN]
        for option in self.options:
            if option not in known:
                have = f"it knows {', '.join(known)}" if known else "it has none"
                raise InputError(f"{self.name} has no option {option!r}{nearest(option, known)}: {have}")
        scores = (0.0, 1.0) if SCORE_LOSSES[self.name][2] else None
        try:
            self.loss(np.zeros((2, 2), np.float32), [Example("q", ("a", "b"), scores)] * 2)
        except TypeError as e:
            raise InputError(f"an option of {self.name} has the wrong type: {e}") from None

    @property
    def in_batch(self) -> bool:
        """Whether each query is scored with the documents of all."""
        return self.name == "info_nce"

    def check(self, examples: Sequence[Example]) -> int:
        """The number of documents of each example. Raises InputError if the examples do not suit this loss."""
        if not examples:
            raise InputError(f"{self.name} has no examples to learn from")
        needed = SCORE_LOSSES[self.name][2]
        count, scored = len(examples[0].documents), examples[0].scores is not None
        if scored != needed and (needed or self.name != "binary_cross_entropy"):
            have = "have none" if needed else "have scores"
            raise InputError(
                f"{self.name} is a loss for examples {'with' if needed else 'without'} scores, these {have}"
            )
        for i, example in enumerate(examples):
            if len(example.documents) != count:
                n = len(example.documents)
                raise InputError(f"example {i} has {n} documents, the first has {count}: give each query as many")
        if count < 2 and not (self.in_batch or (scored and self.name in POINTWISE)):
            raise InputError(f"{self.name} needs a wrong document beside the right one: {MINE}")
        for first in range(0, len(examples) if scored else 0, 1000):  # now, not in the middle of an epoch
            part = examples[first : first + 1000]
            self.loss(np.zeros((len(part), count), np.float32), part)
        return count

    def loss(self, scores: NDArray, batch: Sequence[Example]) -> Loss:
        """Of scores [B, K]; of info_nce [B, B K], the documents of one example after those of another."""
        function, name, _ = SCORE_LOSSES[self.name]
        if function is losses.cross_entropy:
            given: Any = np.arange(len(batch)) * (scores.shape[1] // len(batch)) if self.in_batch else [0] * len(batch)
            given = np.asarray(given)
        elif batch[0].scores is None:
            given = np.zeros(scores.shape)
            given[:, 0] = 1
        else:
            given = np.array([e.scores for e in batch], np.float64)
        return function(scores, **{name: given}, **self.options)
