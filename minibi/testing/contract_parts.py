"""What the tests of the contract share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from hypothesis import HealthCheck, Phase, settings
from numpy.typing import ArrayLike

from ..shapes import Floats
from .oracle import Oracle
from .subject import EVERYTHING, Subject

F = TypeVar("F", bound=Callable[..., Any])


def needs(*names: str) -> Callable[[F], F]:
    """Marks a test with the capabilities without which it is skipped."""
    assert set(names) <= EVERYTHING, names

    def mark(test: F) -> F:
        test.needs = frozenset(names)  # type: ignore[attr-defined]
        return test

    return mark


def tries(subject: Subject) -> settings:
    """How hypothesis tries: as the user's profile says, which may be slow, and shrinking if asked for."""
    slow = [HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(suppress_health_check=slow, phases=phases(subject))


def phases(subject: Subject) -> tuple[Phase, ...]:
    """What hypothesis does: all, or all but look for the smallest failure."""
    return tuple(p for p in Phase if subject.shrink or p not in (Phase.shrink, Phase.explain))


def random_rows(n: int, dim: int, seed: int = 0) -> Floats:
    """Normal numbers [n, dim]."""
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def stored(subject: Subject, x: ArrayLike, ids: Any, metric: str) -> tuple[Any, Oracle]:
    """(index, oracle) that hold the same vectors."""
    x = np.asarray(x, np.float32)
    index, truth = subject.make(x.shape[1], metric), Oracle(x.shape[1], metric)
    index.add(x, list(ids))
    truth.add(x, list(ids))
    return index, truth


def holds(index: Any, count: int) -> None:
    """The index counts so many items."""
    assert len(index) == count, f"len(index) is {len(index)}, not {count}"


def same(a: tuple[Any, Any], b: tuple[Any, Any], words: str = "") -> None:
    """Two answers are equal, scores to the bit."""
    np.testing.assert_array_equal(a[1], b[1], words)
    np.testing.assert_array_equal(a[0], b[0], words)


def refused(subject: Subject, name: str, call: Callable[..., Any], *arguments: Any) -> None:
    """The call raises one of the errors that the subject raises for bad input."""
    try:
        call(*arguments)
    except subject.errors:
        return
    except Exception as e:
        raise AssertionError(f"{name}: {type(e).__name__} is not how bad input is refused: {e}") from e
    raise AssertionError(f"{name}: was not refused")
