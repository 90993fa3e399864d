"""From token states to one vector per text: the six poolings sentence-transformers knows.

Each takes the states [S, C] of one text and returns [C]; its gradient takes dL/dy [C] and returns dL/dh, [S, C] or what
spreads to it. In packed batches there is no padding, so there is no mask.
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


def cls_grad(dy: Floats, h: Floats, before: int = 0) -> Floats:
    dh = np.zeros_like(h)
    dh[0] = dy
    return dh


def lasttoken(h: Floats, before: int = 0) -> Floats:
    """The last token's state."""
    return h[-1]


def lasttoken_grad(dy: Floats, h: Floats, before: int = 0) -> Floats:
    dh = np.zeros_like(h)
    dh[-1] = dy
    return dh


def max_tokens(h: Floats, before: int = 0) -> Floats:
    """The largest value of each channel."""
    return h.max(axis=0)


def max_tokens_grad(dy: Floats, h: Floats, before: int = 0) -> Floats:
    """All of it to the first of the largest."""
    dh = np.zeros_like(h)
    np.put_along_axis(dh, h.argmax(axis=0)[None], dy[None], axis=0)
    return dh


def mean_tokens(h: Floats, before: int = 0) -> Floats:
    """The average state."""
    return h.sum(axis=0) / h.dtype.type(len(h))


def mean_tokens_grad(dy: Floats, h: Floats, before: int = 0) -> Floats:
    return dy / h.dtype.type(len(h))


def mean_sqrt_len_tokens(h: Floats, before: int = 0) -> Floats:
    """The sum divided by the square root of the length."""
    return h.sum(axis=0) / np.sqrt(h.dtype.type(len(h)))


def mean_sqrt_len_tokens_grad(dy: Floats, h: Floats, before: int = 0) -> Floats:
    return dy / np.sqrt(h.dtype.type(len(h)))


def weightedmean_tokens(h: Floats, before: int = 0) -> Floats:
    """The average weighted by position 1, 2, ..., S in the text: later tokens count more (Muennighoff 2022, SGPT)."""
    weights = np.arange(before + 1, before + len(h) + 1, dtype=h.dtype)
    return (h * weights[:, None]).sum(axis=0) / weights.sum()


def weightedmean_tokens_grad(dy: Floats, h: Floats, before: int = 0) -> Floats:
    weights = np.arange(before + 1, before + len(h) + 1, dtype=h.dtype)
    return (weights / weights.sum())[:, None] * dy


POOLINGS: dict[str, Callable[[Floats, int], Floats]] = {
    "cls": cls,
    "lasttoken": lasttoken,
    "max": max_tokens,
    "mean": mean_tokens,
    "mean_sqrt_len_tokens": mean_sqrt_len_tokens,
    "weightedmean": weightedmean_tokens,
}


GRADIENTS: dict[str, Callable[[Floats, Floats, int], Floats]] = {
    "cls": cls_grad,
    "lasttoken": lasttoken_grad,
    "max": max_tokens_grad,
    "mean": mean_tokens_grad,
    "mean_sqrt_len_tokens": mean_sqrt_len_tokens_grad,
    "weightedmean": weightedmean_tokens_grad,
}


def pool(h: Floats, starts: Ints, modes: Sequence[str], skip: int = 0) -> Floats:
    """h [T, C] -> [B, C * len(modes)]: the poolings named, side by side; the first `skip` tokens are left out."""
    out = np.empty((len(starts) - 1, h.shape[1] * len(modes)), h.dtype)
    for row, (s, e) in zip(out, pairwise(starts), strict=True):
        before = min(skip, e - s - 1)  # the last token always stays
        np.concatenate([POOLINGS[mode](h[s + before : e], before) for mode in modes], out=row)
    return out


def pool_grad(dy: Floats, h: Floats, starts: Ints, modes: Sequence[str], skip: int = 0) -> tuple[Floats]:
    """dy [B, C * len(modes)] -> dh [T, C]."""
    dh = np.zeros(h.shape, dy.dtype)
    for row, (s, e) in zip(dy, pairwise(starts), strict=True):
        before = min(skip, e - s - 1)
        for mode, part in zip(modes, np.split(row, len(modes)), strict=True):
            dh[s + before : e] += GRADIENTS[mode](part, h[s + before : e], before)
    return (dh,)
