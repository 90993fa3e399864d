"""A ranking: what one search says of one query, ids with scores, larger is better.

Searches come with hits, with a pair (ids, scores) or with a mapping id -> score; all become a dict, best first.
Nothing here knows what a hit is, but that it has an id and a score.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import InputError

Id = str | int
Ranking = dict[Id, float]


def as_ranking(found: Any, name: str = "the ranking") -> Ranking:
    """`found` as {id: score}, best first, equal scores by smaller id.

    found: an object with `ids` and `scores`, a list of objects with `id` and `score`, a pair (ids, scores), a mapping,
    or what an index's `search` returns for one query. An id that occurs twice keeps its better score; the id -1, which
    indexes return for "none", is passed over. `name` is for messages. InputError for anything else, ids neither all
    strings nor all integers, and scores that are NaN or no numbers.
    """
    if isinstance(found, Mapping):
        ids, scores = list(found), list(found.values())
    else:
        if hasattr(found, "ids") and hasattr(found, "scores"):
            found = (found.ids, found.scores)
        elif isinstance(found, (tuple, list)) and all(hasattr(hit, "id") and hasattr(hit, "score") for hit in found):
            found = ([hit.id for hit in found], [hit.score for hit in found])
        found = _of_index(found)
        if not isinstance(found, (tuple, list)) or len(found) != 2:
            raise InputError(f"{name} must have ids and scores, be a pair of them, or map ids to scores")
        ids, scores = (x.tolist() if isinstance(x, np.ndarray) else list(x) for x in found)
        if len(ids) != len(scores):
            raise InputError(f"{name} has {len(ids)} ids, but {len(scores)} scores: there must be one for each")
    best: Ranking = {}
    for raw, value in zip(ids, scores, strict=True):
        id = raw.item() if isinstance(raw, np.generic) else raw
        try:
            score = float(value)
        except (TypeError, ValueError):
            raise InputError(f"{name}: the score of {id!r} must be a number, not {value!r}") from None
        if isinstance(id, bool) or not isinstance(id, (str, int)):
            raise InputError(f"{name}: ids must be strings or integers, not {id!r}")
        if id == -1:
            continue
        if math.isnan(score):
            raise InputError(f"{name}: the score of {id!r} is NaN, which has no rank: drop the hit")
        best[id] = max(score, best.get(id, score))
    if len({isinstance(id, str) for id in best}) == 2:
        raise InputError(f"{name} mixes ids that are strings with ids that are integers: use one kind")
    return dict(sorted(best.items(), key=lambda item: (-item[1], item[0])))


def _of_index(found: Any) -> Any:
    """An index gives (scores, ids), arrays [1, k] of floats and integers: turned round, since ids are never floats."""
    if isinstance(found, tuple) and len(found) == 2 and all(isinstance(x, np.ndarray) for x in found):
        first, second = (x[0] if x.ndim == 2 and len(x) == 1 else x for x in found)
        return (second, first) if (first.dtype.kind, second.dtype.kind) == ("f", "i") else (first, second)
    return found
