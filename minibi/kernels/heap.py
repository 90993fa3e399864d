"""The k best hits as a heap whose root is the worst of them: equal scores by smaller id.

`scores` and `ids` are addresses, of float32 and int64: counting references to arrays would cost more than the work.
"""

from __future__ import annotations

import numpy as np

from .cache import inline, kernel
from .memory import float_at, int64_at, set_float, set_int64


@inline
def _worse(score, id, other_score, other_id):
    return score < other_score or (score == other_score and id > other_id)


@inline
def _put(scores, ids, at, score, id):
    set_float(scores + 4 * at, score)
    set_int64(ids + 8 * at, id)


@kernel
def _sift_down(scores, ids, size, score, id):
    """Puts a hit where the root was, the worst of all, and restores the heap."""
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        its_score, its_id = float_at(scores + 4 * child), int64_at(ids + 8 * child)
        if child + 1 < size:
            other_score, other_id = float_at(scores + 4 * child + 4), int64_at(ids + 8 * child + 8)
            if _worse(other_score, other_id, its_score, its_id):
                child, its_score, its_id = child + 1, other_score, other_id
        if _worse(score, id, its_score, its_id):
            break
        _put(scores, ids, at, its_score, its_id)
        at = child
    _put(scores, ids, at, score, id)


@kernel
def offer(scores, ids, size, k, score, id):
    """Puts a hit among the k best, a heap; its new size."""
    if size < k:
        at = size
        while at:
            parent = (at - 1) >> 1
            its_score, its_id = float_at(scores + 4 * parent), int64_at(ids + 8 * parent)
            if not _worse(score, id, its_score, its_id):
                break
            _put(scores, ids, at, its_score, its_id)
            at = parent
        _put(scores, ids, at, score, id)
        return size + 1
    if _worse(float_at(scores), int64_at(ids), score, id):
        _sift_down(scores, ids, size, score, id)
    return size


@inline
def ranked(scores, ids, size, out_scores, out_ids, q):
    """Empties a heap into row q of `out`, best first; what is left of the row becomes -inf and -1."""
    for i in range(size, out_ids.shape[1]):
        out_scores[q, i], out_ids[q, i] = -np.inf, -1
    while size:  # the worst first, from the back
        size -= 1
        out_scores[q, size], out_ids[q, size] = float_at(scores), int64_at(ids)
        _sift_down(scores, ids, size, float_at(scores + 4 * size), int64_at(ids + 8 * size))
