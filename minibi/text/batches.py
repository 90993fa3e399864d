"""Packed batches: all texts end to end, never padded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..shapes import Ints


@dataclass(frozen=True)
class Batch:
    """B texts of T tokens in all. Text i is ids[starts[i]:starts[i+1]]; types tell the two sides of a pair apart."""

    ids: NDArray[np.int32]  # [T]
    types: NDArray[np.int32]  # [T]
    starts: Ints  # [B+1]

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def lengths(self) -> Ints:
        return np.diff(self.starts)

    def positions(self) -> Ints:
        """0, 1, 2, ... within each text. [T]"""
        return np.arange(len(self.ids)) - np.repeat(self.starts[:-1], self.lengths)


def pack(ids: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None) -> Batch:
    """Token lists laid end to end; types are zero where none are given."""
    starts = np.zeros(len(ids) + 1, np.int64)
    np.cumsum([len(i) for i in ids], out=starts[1:])
    flat = _end_to_end(ids)
    return Batch(flat, np.zeros_like(flat) if types is None else _end_to_end(types), starts)


def _end_to_end(lists: Sequence[Sequence[int]]) -> NDArray[np.int32]:
    return np.concatenate([np.zeros(0, np.int32), *[np.asarray(one, np.int32) for one in lists]])


def plan(lengths: Sequence[int], *, tokens: int, texts: int | None = None) -> list[NDArray[np.int64]]:
    """Which texts go together: indices by falling length, grouped up to `tokens` tokens and `texts` texts.

    Every text is in exactly one group; a text longer than the budget has a group of its own. Texts of one length keep
    their order, so the plan depends on nothing but the lengths.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    groups: list[list[int]] = []
    filled = 0
    for i in order.tolist():
        full = not groups or filled + lengths[i] > tokens or (texts is not None and len(groups[-1]) >= texts)
        if full:
            groups.append([])
            filled = 0
        groups[-1].append(i)
        filled += lengths[i]
    return [np.array(g, np.int64) for g in groups]
