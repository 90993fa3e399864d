"""The BM25 family as one formula.

With tf the count of a term in a document, B = 1 - b + b * length / average length, and x = tf / B, every variant is

    idf * (scale * x / (x + c) + floor)  =  idf * (scale * tf / (tf + c B) + floor)

| variant   | idf                              | c      | scale                   | floor                    |
|-----------|----------------------------------|--------|-------------------------|--------------------------|
| lucene    | ln(1 + (N - df + ½) / (df + ½))  | k1     | 1                       | 0                        |
| robertson | max(0, ln((N - df + ½)/(df + ½)))| k1     | 1                       | 0                        |
| atire     | ln(N / df)                       | k1     | k1 + 1                  | 0                        |
| bm25l     | ln((N + 1) / (df + ½))           | k1 + δ | (k1 + 1) k1 / (k1 + δ)  | (k1 + 1) δ / (k1 + δ)    |
| bm25+     | ln((N + 1) / df)                 | k1     | k1 + 1                  | δ                        |

Lucene's and Robertson's without the factor k1 + 1, which changes no ranking, and Robertson's idf not below 0: as in
Kamphuis, de Vries, Boytsov & Lin, "Which BM25 do you mean?", ECIR 2020 (table 1), and in bm25s. ATIRE: Trotman, Puurula
& Burgess, "Improvements to BM25 and language models examined", ADCS 2014. BM25L: Lv & Zhai, "When documents are very
long, BM25 fails!", SIGIR 2011; there (k1 + 1)(x + δ) / (k1 + x + δ), which is the line above after one division. BM25+:
Lv & Zhai, "Lower-bounding term frequency normalization", CIKM 2011.

Lv & Zhai give the floor to a document for each query term that it *holds*: that is what keeps a long document above one
that lacks the term. bm25s and rank_bm25 give it for every query term, held or not, so it changes scores but no ranking.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError

VARIANTS = ("lucene", "robertson", "atire", "bm25l", "bm25+")
DELTAS = {"bm25l": 0.5, "bm25+": 1.0}  # as their authors set them


class Model(NamedTuple):
    """The formula for one moment of the collection: weight * tf / (tf + c0 + c1 * length) + jump, summed over terms.

    weight = idf * scale, jump = idf * jump; every document gets idf * everywhere on top.
    """

    c: float
    c0: np.float32
    c1: np.float32
    scale: float
    jump: float
    everywhere: float
    stretch: float  # how much larger an x may be today than when `tops` were computed


def idf(variant: str, df: NDArray[Any], documents: int) -> NDArray[np.float64]:
    """The inverse document frequency of terms that `df` documents hold; 0 where df is 0."""
    df = np.asarray(df, np.float64)
    n = float(documents)
    formula: dict[str, Callable[[], Any]] = {
        "lucene": lambda: np.log1p((n - df + 0.5) / (df + 0.5)),
        "robertson": lambda: np.log(np.maximum((n - df + 0.5) / (df + 0.5), 1.0)),
        "atire": lambda: np.log(n / df),
        "bm25l": lambda: np.log((n + 1.0) / (df + 0.5)),
        "bm25+": lambda: np.log((n + 1.0) / df),
    }
    with np.errstate(divide="ignore", invalid="ignore"):  # df = 0
        return np.where(df > 0, formula[variant](), 0.0)


class Variant:
    """One member of the family with its parameters. Raises InputError."""

    def __init__(self, name: str, k1: float, b: float, delta: float | None, floor_for: str):
        if name not in VARIANTS:
            raise InputError(f"variant {name!r} is not one of {list(VARIANTS)}")
        if delta is not None and name not in DELTAS:
            raise InputError(f"delta belongs to {' and '.join(DELTAS)} alone: leave it out for {name}")
        if floor_for not in ("all", "held"):
            raise InputError(f"floor_for {floor_for!r} is not 'all' (as bm25s) or 'held' (as Lv and Zhai)")
        self.name, self.floor_for = name, floor_for
        self.k1, self.b = _number("k1", k1), _number("b", b, 1.0)
        self.delta = _number("delta", delta) if delta is not None else DELTAS.get(name, 0.0)
        if name == "bm25l" and self.k1 == 0:
            raise InputError("k1 must be above 0 for bm25l, which is a constant otherwise")
        self.c, self.scale, self.floor = self.k1, 1.0, 0.0
        if name in ("atire", "bm25+"):
            self.scale, self.floor = self.k1 + 1, self.delta
        elif name == "bm25l":
            self.c = self.k1 + self.delta
            self.scale, self.floor = (self.k1 + 1) * self.k1 / self.c, (self.k1 + 1) * self.delta / self.c

    def slope(self, average: float) -> tuple[float, float]:
        """(s0, s1): B = s0 + s1 * length. An average of 0 means that no document has a word."""
        return 1.0 - self.b, self.b / average if average else 0.0

    def model(self, average: float, reference: float) -> Model:
        """For today's average length, and `tops` computed for the average length `reference`.

        B changes by less than the average does: if that grew by a factor r, then B_then <= r * B_today, so
        x_today <= r * x_then; if it shrank, x_today <= x_then.
        """
        s0, s1 = self.slope(average)
        held = self.floor_for == "held"
        return Model(
            self.c, np.float32(self.c * s0), np.float32(self.c * s1), self.scale, self.floor if held else 0.0,
            0.0 if held else self.floor, max(1.0, average / reference if reference else 1.0) * 1.000001,
        )  # fmt: skip


def _number(name: str, value: Any, most: float = 1e6) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise InputError(f"{name} must be a number, not {value!r}")
    if not (math.isfinite(value) and 0 <= value <= most):
        raise InputError(f"{name} must be from 0 to {most:g}, not {value}")
    return float(value)
