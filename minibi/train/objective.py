"""What a recipe's [loss] asks for, made ready for the loop: which texts of an example are embedded, and what is given.

    objective = make_objective("info_nce", {"scale": 20.0}, dims=[384, 128])
    objective.check(examples)
    embeddings = [embed(column) for column in objective.columns(batch)]      # a list of texts for each array
    loss, gradients = objective.loss(*parameters, *embeddings, **objective.given(batch))

The losses of this table train a bi-encoder on `Example`s; the *_distill ones also need a teacher's vectors of the same
columns, as teacher=[...]. `ScoreObjective` is for models that score a query with a document: late interaction, and
cross-encoders. Losses that need more (class labels of a batch, vectors of a guide) are called by whoever has it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np

from ..errors import InputError
from . import losses
from .data import Example
from .losses import LossFunction

PAIRS, SCORED_PAIRS, SCORED_LISTS = "pairs", "scored pairs", "scored lists"
LOSSES: dict[str, tuple[LossFunction, str, str]] = {  # name -> function, the examples it needs, what scores are to it
    "info_nce": (losses.info_nce, PAIRS, ""),
    "info_nce_learned_scale": (losses.info_nce_learned_scale, PAIRS, ""),
    "triplet": (losses.triplet, PAIRS, ""),
    "embed_distill": (losses.embed_distill, PAIRS, ""),
    "score_distill": (losses.score_distill, PAIRS, ""),
    "contrastive": (losses.contrastive, SCORED_PAIRS, "labels"),
    "online_contrastive": (losses.online_contrastive, SCORED_PAIRS, "labels"),
    "cosine_similarity": (losses.cosine_similarity, SCORED_PAIRS, "labels"),
    "cosent": (losses.cosent, SCORED_PAIRS, "labels"),
    "mse": (losses.mse, SCORED_LISTS, "targets"),
    "margin_mse": (losses.margin_mse, SCORED_LISTS, "teacher"),
    "kl_divergence": (losses.kl_divergence, SCORED_LISTS, "teacher"),
    "list_net": (losses.list_net, SCORED_LISTS, "labels"),
    "rank_net": (losses.rank_net, SCORED_LISTS, "labels"),
}
GIVEN = {"labels", "teacher", "targets", "masks", "starts"}  # by the batch, not by the recipe
MINE = "mine hard negatives first (minibi.train.mining)"
LOG_SCALE = float(np.log(1 / 0.07))


@dataclass(frozen=True)
class Objective:
    """A loss with its options, and how examples become its arguments."""

    name: str
    needs: str
    loss: LossFunction = field(repr=False)
    scores_are: str = ""
    documents: int | None = None  # for each example; None: as many as the examples have, but all the same
    same_text_masks: bool = False
    parameters: tuple[tuple[str, float], ...] = ()  # learned besides the model: name and first value, in front
    width: int = 2  # the least number of components that the loss can be tried on
    settings: tuple[str, ...] = ()  # what it was made of, as texts
    wants_teacher: bool = False  # the teacher's vectors of all columns, as teacher=

    @property
    def in_batch(self) -> bool:
        """Whether each query is compared with the documents of all."""
        return self.name.startswith("info_nce") or self.name == "score_distill"

    def check(self, examples: Sequence[Example]) -> int:
        """The number of documents of each example. Raises InputError if the examples do not suit this loss."""
        if not examples:
            raise InputError(f"{self.name} has no examples to learn from")
        scored = self.needs != PAIRS
        count = len(examples[0].documents)
        for i, example in enumerate(examples):
            if (example.scores is not None) != scored:
                have = "has none" if scored else "has scores"
                raise InputError(f"{self.name} needs {self.needs}, but example {i} {have}: choose another loss or data")
            if len(example.documents) != count:
                n = len(example.documents)
                fix = "cut them to one number of negatives" if not scored else "give each query as many"
                raise InputError(f"example {i} has {n} documents, the first has {count}: {fix}")
        wanted = self.documents or count
        least = 2 if self.needs == SCORED_LISTS and self.name != "mse" else 1
        if count != wanted or count < least:
            wanted_text = f"{wanted}" if self.documents else f"at least {least}"
            fix = f": {MINE}" if count < (least if scored else wanted) else ""
            raise InputError(f"{self.name} needs {wanted_text} documents a query, the examples have {count}{fix}")
        if scored:
            for first in range(0, len(examples), 1000):  # now, not in the middle of an epoch
                self.attempt(examples[first : first + 1000])
        return count

    def attempt(self, batch: Sequence[Example]) -> None:
        """The loss on made-up vectors. Raises InputError for labels or options that it refuses."""
        x = np.ones((1 + len(batch[0].documents), len(batch), self.width), np.float32)
        given = self.given(batch) | ({"teacher": list(x)} if self.wants_teacher else {})
        try:
            self.loss(*(value for _, value in self.parameters), *x, **given)
        except InputError:
            raise
        except (TypeError, ValueError) as e:
            raise InputError(f"an option of {self.name} has the wrong type: {e}") from None

    def columns(self, batch: Sequence[Example]) -> list[list[str]]:
        """The texts of each array: queries, then first documents, second documents, …"""
        return [[e.query for e in batch], *map(list, zip(*(e.documents for e in batch), strict=True))]

    def given(self, batch: Sequence[Example]) -> dict[str, Any]:
        """The keywords that come from the batch."""
        if self.same_text_masks:
            return {"masks": losses.same_text_masks(*self.columns(batch))}
        if not self.scores_are:
            return {}
        scores = np.array([e.scores for e in batch], np.float64)
        return {self.scores_are: scores[:, 0] if self.needs == SCORED_PAIRS else scores}


def make_objective(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    dims: Sequence[int] = (),
    weights: Sequence[float] | None = None,
) -> Objective:
    """The loss `name` of LOSSES with its keyword options; dims, weights: Matryoshka, at these widths.

    Further options: same_texts = true masks texts that are known to match (the info_nce family, whose batches may then
    hold a text twice); similarity is also understood by losses of scored lists ("dot" by default); label_weight adds so
    much of info_nce, at label_scale, to a teacher's loss. InputError for an unknown name or option, and for values the
    loss refuses: it is tried on two rows.
    """
    options = dict(options or {})
    settings = (repr(sorted(options.items())), repr((*dims,)), repr(weights and (*weights,)))
    if name not in LOSSES:
        raise InputError(
            f"there is no loss {name!r} for a recipe{nearest(name, LOSSES)}: choose from {', '.join(LOSSES)}"
        )
    function, needs, scores_are = LOSSES[name]
    kinds = inspect.Parameter.KEYWORD_ONLY
    known = [p.name for p in inspect.signature(function).parameters.values() if p.kind is kinds and p.name not in GIVEN]
    known += ["same_texts"] if name.startswith("info_nce") else []
    known += ["similarity"] if needs == SCORED_LISTS else []
    known += ["label_weight", "label_scale"] if name.endswith("_distill") else []
    for option in options:
        if option not in known:
            raise InputError(f"{name} has no option {option!r}{nearest(option, known)}: it knows {', '.join(known)}")
    same_texts = options.pop("same_texts", False)
    if not isinstance(same_texts, bool):
        raise InputError(f"same_texts must be true or false, not {same_texts!r}")
    loss: Callable[..., Any] = function
    labels = {k.removeprefix("label_"): options.pop(k) for k in ("label_weight", "label_scale") if k in options}
    if needs == SCORED_LISTS:
        similarity = options.pop("similarity", "dot")
        loss = losses.of_embeddings(partial(function, **options), similarity)
    elif options:
        loss = partial(function, **options)
    if labels:
        loss = losses.with_labels(loss, **labels)
    if dims:
        loss = losses.matryoshka(loss, dims, weights, truncated=("teacher",) if name == "embed_distill" else ())
    elif weights is not None:
        raise InputError("matryoshka_weights are given without matryoshka_dims")
    objective = Objective(
        name,
        needs,
        loss,
        scores_are,
        documents={"triplet": 2}.get(name, 1 if needs == SCORED_PAIRS else None),
        same_text_masks=same_texts,
        parameters=(("log_scale", LOG_SCALE),) if name == "info_nce_learned_scale" else (),
        width=max(dims, default=2),
        settings=settings,
        wants_teacher=name.endswith("_distill"),
    )
    documents = 1 if needs == SCORED_PAIRS else 2
    scores = None if needs == PAIRS else (1.0,) * documents
    objective.attempt([Example(f"q{i}", tuple(f"d{i}{k}" for k in range(documents)), scores) for i in range(2)])
    return objective


def nearest(word: str, known: Any) -> str:
    """', did you mean …?' if a known word is near."""
    found = get_close_matches(str(word), list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""
