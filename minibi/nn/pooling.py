"""From token states to one vector per text: the six poolings sentence-transformers knows.

Each takes the states [S, C] of one text and returns [C]. In packed batches there is no padding, so there is no mask.
`before` is how many tokens of the text, those of a prompt, were left out in front of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from ..shapes import Floats, Ints


def cls(h: Floats, before: int = 0) -> Floats:
    """The first token's state."""
    return h[0]


def lasttoken(h: Floats, before: int = 0) -> Floats:
    """The last token's state."""
    return h[-1]


def max_tokens(h: Floats, before: int = 0) -> Floats:
    """The largest value of each channel."""
    return h.max(axis=0)


def mean_tokens(h: Floats, before: int = 0) -> Floats:
    """The average state."""
    return h.sum(axis=0) / np.float32(len(h))


def mean_sqrt_len_tokens(h: Floats, before: int = 0) -> Floats:
    """The sum divided by the square root of the length."""
    return h.sum(axis=0) / np.sqrt(np.float32(len(h)))


def weightedmean_tokens(h: Floats, before: int = 0) -> Floats:
    """The average weighted by position 1, 2, ..., S in the text: later tokens count more (Muennighoff 2022, SGPT)."""
    weights = np.arange(before + 1, before + len(h) + 1, dtype=np.float32)
    return (h * weights[:, None]).sum(axis=0) / weights.sum()


POOLINGS: dict[str, Callable[[Floats, int], Floats]] = {
    "cls": cls,
    "lasttoken": lasttoken,
    "max": max_tokens,
    "mean": mean_tokens,
    "mean_sqrt_len_tokens": mean_sqrt_len_tokens,
    "weightedmean": weightedmean_tokens,
}


def pool(h: Floats, starts: Ints, modes: Sequence[str], skip: int = 0) -> Floats:
    """h [T, C] -> [B, C * len(modes)]: the poolings named, side by side; the first `skip` tokens are left out."""
    out = np.empty((len(starts) - 1, h.shape[1] * len(modes)), np.float32)
    for row, (s, e) in zip(out, pairwise(starts), strict=True):
        before = min(skip, e - s - 1)  # the last token always stays
        np.concatenate([POOLINGS[mode](h[s + before : e], before) for mode in modes], out=row)
    return out
