"""The k best hits as a heap whose root is the worst of them: equal scores by smaller id."""

from __future__ import annotations

import numpy as np

from .cache import inline, kernel


@inline
def _worse(score, id, other_score, other_id):
    return score < other_score or (score == other_score and id > other_id)


@kernel
def sift_down(scores, ids, size):
    """Restores the heap whose root, the worst of all, was replaced."""
    at, score, id = 0, scores[0], ids[0]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and _worse(scores[child + 1], ids[child + 1], scores[child], ids[child]):
            child += 1
        if _worse(score, id, scores[child], ids[child]):
            break
        scores[at], ids[at] = scores[child], ids[child]
        at = child
    scores[at], ids[at] = score, id


@kernel
def offer(scores, ids, size, k, score, id):
    """Puts a hit among the k best, a heap; its new size."""
    if size < k:
        at = size
        while at and _worse(score, id, scores[(at - 1) >> 1], ids[(at - 1) >> 1]):
            scores[at], ids[at] = scores[(at - 1) >> 1], ids[(at - 1) >> 1]
            at = (at - 1) >> 1
        scores[at], ids[at] = score, id
        return size + 1
    if _worse(scores[0], ids[0], score, id):
        scores[0], ids[0] = score, id
        sift_down(scores, ids, size)
    return size


@inline
def ranked(scores, ids, size, out_scores, out_ids, q):
    """Empties a heap into row q of `out`, best first; what is left of the row becomes -inf and -1."""
    for i in range(size, out_ids.shape[1]):
        out_scores[q, i], out_ids[q, i] = -np.inf, -1
    while size:  # the worst first, from the back
        size -= 1
        out_scores[q, size], out_ids[q, size] = scores[0], ids[0]
        scores[0], ids[0] = scores[size], ids[size]
        sift_down(scores, ids, size)
