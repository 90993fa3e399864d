"""Hypothesis strategies for what indexes are given: vector sets, ids, broken input, sequences of calls.

    vector_sets(n=(0, 60), dim=(1, 8), kinds=KINDS)     float32 [n, dim]
    table(draw, n, dim)                                 a kind of your own: add it to KINDS

Numbers are drawn one by one from few values, and sets are built from few prototypes: so failures shrink to few rows of
zeros and ones. Sets of more than LARGE numbers come from a drawn seed instead; those shrink in size alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ..shapes import Floats

Span = int | tuple[int, int]
Table = Callable[[Any, int, int], Floats]
LARGE = 2000  # numbers
HUGE = 2**63 - 1


def span(size: Span) -> st.SearchStrategy[int]:
    """A whole number, or one from (least, most)."""
    return st.just(size) if isinstance(size, int) else st.integers(*size)


def numbers(draw: Any, n: int, dim: int, low: int = -4, high: int = 4, scale: float = 1.0) -> Floats:
    """[n, dim] of whole numbers from low to high, times scale."""
    if n * dim > LARGE:
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        return (scale * rng.integers(low, high + 1, size=(n, dim))).astype(np.float32)
    elements = st.integers(low, high)
    return (scale * draw(hnp.arrays(np.int64, (n, dim), elements=elements, fill=st.just(0)))).astype(np.float32)


def choices(draw: Any, n: int, among: int) -> Any:
    """[n] whole numbers below `among`."""
    if n > LARGE:
        return np.random.default_rng(draw(st.integers(0, 2**32 - 1))).integers(0, among, n)
    return draw(hnp.arrays(np.int64, n, elements=st.integers(0, among - 1), fill=st.just(0)))


def whole(draw: Any, n: int, dim: int) -> Floats:
    """Small whole numbers: distances without rounding, full of ties."""
    return numbers(draw, n, dim, -2, 2)


def spread(draw: Any, n: int, dim: int) -> Floats:
    """Nothing special: numbers from -1 to 1."""
    return numbers(draw, n, dim, -1000, 1000, 1e-3)


def clustered(draw: Any, n: int, dim: int) -> Floats:
    """Around few centres, a hundred times nearer to their own than to the others."""
    centres = numbers(draw, draw(st.integers(1, 6)), dim)
    return centres[choices(draw, n, len(centres))] + numbers(draw, n, dim, -3, 3, 0.01)


def duplicated(draw: Any, n: int, dim: int) -> Floats:
    """Few different vectors, many times each."""
    kinds = numbers(draw, draw(st.integers(1, 4)), dim)
    return kinds[choices(draw, n, len(kinds))]


def constant(draw: Any, n: int, dim: int) -> Floats:
    """One vector n times; zero at its simplest."""
    return np.repeat(numbers(draw, 1, dim), n, axis=0)


def collinear(draw: Any, n: int, dim: int) -> Floats:
    """Multiples of one vector: under cosine all the same or opposite."""
    return numbers(draw, n, 1, -9, 9) * numbers(draw, 1, dim)


def some_zeros(draw: Any, n: int, dim: int) -> Floats:
    """Zero vectors among others."""
    return numbers(draw, n, dim) * (choices(draw, n, 2)[:, None] == 1)


def one_axis(draw: Any, n: int, dim: int) -> Floats:
    """Multiples of unit vectors: most pairs are at right angles."""
    return (np.eye(dim)[choices(draw, n, dim)] * numbers(draw, n, 1, 1, 5)).astype(np.float32)


def lengths(draw: Any, n: int, dim: int) -> Floats:
    """Lengths from 1e-4 to 1e4: under the inner product a few long ones win everything."""
    powers = 10.0 ** (choices(draw, n, 9)[:, None] - 4)
    return (numbers(draw, n, dim) * powers).astype(np.float32)


def huge(draw: Any, n: int, dim: int) -> Floats:
    """Around 1e15: squares are large, but finite in float32."""
    return numbers(draw, n, dim, scale=1e15)


def tiny(draw: Any, n: int, dim: int) -> Floats:
    """Around 1e-15: squares are small, but not yet zero in float32."""
    return numbers(draw, n, dim, scale=1e-15)


def outlier(draw: Any, n: int, dim: int) -> Floats:
    """Close together, but for the last one, which is far away."""
    x = numbers(draw, n, dim, scale=0.01)
    x[-1:] += 1000
    return x


def cone(draw: Any, n: int, dim: int) -> Floats:
    """All in one direction, as embeddings of models often are: cosines near 1 that differ in late digits."""
    axis = np.ones(dim, np.float32)
    return axis + numbers(draw, n, dim, scale=0.01)


KINDS: Mapping[str, Table] = {
    kind.__name__: kind
    for kind in (
        whole, spread, clustered, duplicated, constant, collinear, some_zeros, one_axis, lengths, huge, tiny, outlier,
        cone,
    )
}  # fmt: skip
DEGENERATE = ("constant", "collinear", "some_zeros", "one_axis")
ADVERSARIAL = ("some_zeros", "lengths", "huge", "tiny", "outlier", "cone")


@st.composite
def vector_sets(draw: Any, n: Span = (0, 60), dim: Span = (1, 8), kinds: Iterable[str] = tuple(KINDS)) -> Floats:
    """float32 [n, dim] of one of the kinds. n and dim: a number, or (least, most)."""
    kind = draw(st.sampled_from(list(kinds)))
    rows, width = draw(span(n)), draw(span(dim))
    x = KINDS[kind](draw, rows, width)
    return np.ascontiguousarray(x, np.float32).reshape(rows, width)


def ids(n: Span = (0, 60), *, any_id: bool = True) -> st.SearchStrategy[list[int]]:
    """Different ids: small ones with gaps; with any_id also negative ones and the ends of int64. Never -1."""
    small = st.integers(0, 500)
    one = small | st.integers(-(2**63), HUGE) | st.sampled_from([HUGE, -(2**63), -2, 2**32]) if any_id else small
    return span(n).flatmap(lambda m: st.lists(one.filter(lambda i: i != -1), min_size=m, max_size=m, unique=True))


def not_finite(dim: int, n: Span = (1, 5)) -> st.SearchStrategy[Floats]:
    """float64 [n, dim] with at least one number that float32 cannot hold: NaN, infinite, or beyond 3.4e38."""

    @st.composite
    def build(draw: Any) -> Any:
        x = numbers(draw, draw(span(n)), dim).astype(np.float64)
        row, column = draw(st.integers(0, len(x) - 1)), draw(st.integers(0, dim - 1))
        x[row, column] = draw(st.sampled_from([np.nan, np.inf, -np.inf, 1e39, -1e300]))
        return x

    return build()


BROKEN_VECTORS: Mapping[str, Any] = {  # what no index of three dimensions should take
    "nan": [[1, 2, 3], [1, np.nan, 3]],
    "inf": [[1, 2, np.inf]],
    "beyond float32": [[1, 2, 1e39]],
    "ragged": [[1, 2, 3], [1, 2]],
    "wrong dim": [[1, 2]],
    "wrong dim, none": np.zeros((0, 2)),
    "one number": 3.0,
    "three axes": np.zeros((1, 1, 3)),
    "strings": [["1", "2", "3"]],
    "a string": "abc",
    "objects": np.array([[1, 2, None]], object),
    "complex": np.array([[1, 2, 3j]]),
    "dates": np.array([["2020", "2021", "2022"]], "M8[Y]"),
    "nothing": None,
    "a dict": {"a": 1},
    "whole numbers too large": [[10**40, 1, 1]],
}
BROKEN_IDS: Mapping[str, Any] = {  # what no index should take as the ids of two vectors
    "too few": [1],
    "too many": [1, 2, 3],
    "none": [],
    "fractions": [1.0, 2.0],
    "strings": ["a", "b"],
    "objects": [None, 1],
    "booleans": [True, False],
    "minus one": [5, -1],
    "beyond int64": [1, 2**63],
    "far beyond": [1, 2**70],
    "negative beyond": [1, -(2**63) - 1],
    "two axes": [[1], [2]],
    "ragged": [[1], [2, 3]],
    "a number": 7,
    "uint64": np.array([1, 2**64 - 1], np.uint64),
    "given twice": [41, 41],
}
BROKEN_K: tuple[Any, ...] = (0, -1, 1.0, 2.5, "3", None, True, [1])


@dataclass(frozen=True)
class Operation:
    """One call. name: a method of `machine.Shadowed`; arguments: what it takes."""

    name: str
    arguments: tuple[Any, ...] = ()

    def __repr__(self) -> str:
        shown = [a.tolist() if isinstance(a, np.ndarray) else a for a in self.arguments]
        return f"{self.name}({', '.join(map(repr, shown))})"


def operations(
    dim: int, *, capabilities: Iterable[str], most: int = 12, kinds: Iterable[str] = ("whole", "duplicated")
) -> st.SearchStrategy[list[Operation]]:
    """Up to `most` calls on an index of `dim` dimensions. Ids are few, so that they meet again and again."""
    few = st.lists(st.integers(0, 20), max_size=8, unique=True)

    @st.composite
    def rows(draw: Any) -> tuple[Floats, list[int]]:
        ids = draw(few)
        return draw(vector_sets(len(ids), dim, kinds)), ids

    queries = vector_sets((1, 3), dim, kinds)
    offered = {
        "add": rows(),
        "search": st.tuples(queries, st.integers(1, 25)),
        "upsert": rows(),
        "remove": st.tuples(few),
        "filter": st.tuples(queries, st.integers(1, 25), few),
        "range_search": st.tuples(queries, st.integers(-9, 9).map(float)),
        "save": st.just(()),
        "compact": st.just(()),
        "check": st.just(()),
    }
    names = [name for name in offered if name in ("add", "search") or name in set(capabilities)]
    one = st.sampled_from(names).flatmap(lambda name: st.builds(Operation, st.just(name), offered[name]))
    return st.lists(one, max_size=most)
