"""Is the better mean better, or lucky? Paired tests over per-query values, with confidence intervals.

    compare(ours, baseline)  ->  one Comparison per metric

Two systems answer the same queries, so the test looks at the differences d_1 … d_n of each query's values alone. The
paired t-test assumes that the mean of d is normally distributed; the bootstrap assumes nothing but that the queries are
a fair sample. On a hundred queries or more they agree (Smucker, Allan & Carterette, CIKM 2007). Neither corrects for
many comparisons: who tries twenty systems finds one at p < 0.05.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from .metrics import Result

Doubles = NDArray[np.float64]
BLOCK = 1 << 20  # resampled values held at once


@dataclass(frozen=True)
class Comparison:
    """Mean values of two systems over the same queries, and what their difference is worth."""

    mean: float
    baseline: float
    difference: float  # mean - baseline
    low: float  # confidence interval of the difference
    high: float
    p_value: float  # two-sided: how often chance alone would make a difference at least as clear
    better: int  # queries
    equal: int
    worse: int
    confidence: float
    test: str
    metric: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        sign = f"{self.difference:+.4f} ({self.low:+.4f} to {self.high:+.4f})"
        counts = f"{self.better} better, {self.equal} equal, {self.worse} worse"
        return f"{self.metric or 'mean'} {self.mean:.4f}, {sign}, p = {self.p_value:.3g} ({self.test}; {counts})"


def compare(
    ours: Result,
    baseline: Result,
    metrics: Iterable[str] | None = None,
    *,
    test: Literal["bootstrap", "t-test"] = "bootstrap",
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[Comparison]:
    """One comparison per metric (default: all that both results hold), queries paired by id.

    InputError if the results are of different queries, lack a metric, or share none.
    """
    if ours.per_query.keys() != baseline.per_query.keys():
        odd = sorted(ours.per_query.keys() ^ baseline.per_query.keys())[0]
        raise InputError(f"query {odd!r} is in one result alone: evaluate both runs against the same qrels")
    names = [m for m in ours.mean if m in baseline.mean] if metrics is None else list(metrics)
    for name in names:
        if name not in ours.mean or name not in baseline.mean:
            raise InputError(f"metric {name!r} is not in both results: evaluate both with it")
    if not names:
        raise InputError("the two results share no metric: evaluate both with the same ones")
    if test not in ("bootstrap", "t-test"):
        raise InputError(f"test must be 'bootstrap' or 't-test', not {test!r}")
    found = []
    for name in names:
        a = ours.values(name)
        b = np.array([baseline.per_query[query][name] for query in ours.per_query])
        if test == "t-test":
            found.append(paired_t_test(a, b, confidence=confidence, metric=name))
        else:
            options = {"resamples": resamples, "seed": seed, "metric": name}
            found.append(paired_bootstrap(a, b, confidence=confidence, **options))
    return found


def paired_t_test(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95, metric: str = "") -> Comparison:
    """Student's t-test on a - b, float64 [n]: t = mean(d) / (sd(d) / √n), with n - 1 degrees of freedom.

    Two equal systems have p = 1; a difference that is the same on every query p = 0. Raises InputError.
    """
    x, y, d = _paired(a, b, confidence)
    mean, error = float(d.mean()), _standard_error(d)
    if error == 0:
        p, reach = float(mean == 0), 0.0
    else:
        p = t_two_sided(mean / error, len(d) - 1)
        reach = t_quantile(confidence, len(d) - 1) * error
    return _comparison(x, y, (mean - reach, mean + reach), p, confidence, "paired t-test", metric)


def paired_bootstrap(
    a: ArrayLike,
    b: ArrayLike,
    *,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
    metric: str = "",
) -> Comparison:
    """Bootstrap on a - b, float64 [n]: queries are drawn again, with replacement, `resamples` times.

    p compares the studentized mean with those of draws from the differences shifted to mean 0, and counts the
    observation itself, so it is never 0 (Efron & Tibshirani 1993, algorithm 16.2; for retrieval Sakai, SIGIR 2006).
    The interval holds the middle `confidence` of the redrawn means. Raises InputError.
    """
    x, y, d = _paired(a, b, confidence)
    if isinstance(resamples, bool) or not isinstance(resamples, int) or resamples < 100:
        raise InputError(f"resamples must be a whole number of at least 100, not {resamples!r}")
    mean, rng = float(d.mean()), np.random.default_rng(seed)
    centred = d - mean
    observed = abs(_studentized(np.array([mean]), np.array([_standard_error(d)]))[0])
    means, extreme = np.empty(resamples), 0
    step = max(1, BLOCK // len(d))
    for first in range(0, resamples, step):
        count = min(step, resamples - first)
        drawn = centred[rng.integers(0, len(d), (count, len(d)))]  # (count, n)
        means[first : first + count] = drawn.mean(axis=1)
        errors = drawn.std(axis=1, ddof=1) / math.sqrt(len(d))
        extreme += int((np.abs(_studentized(means[first : first + count], errors)) >= observed).sum())
    tail = (1 - confidence) / 2
    low, high = (mean + np.quantile(means, [tail, 1 - tail])).tolist()
    p = (extreme + 1) / (resamples + 1)
    return _comparison(x, y, (low, high), p, confidence, f"paired bootstrap of {resamples}", metric)


def _paired(a: ArrayLike, b: ArrayLike, confidence: float) -> tuple[Doubles, Doubles, Doubles]:
    try:
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    except (TypeError, ValueError):
        raise InputError("a and b must be lists of numbers, one per query") from None
    if x.ndim != 1 or x.shape != y.shape:
        raise InputError(f"a and b must hold one value per query, not have shapes {list(x.shape)} and {list(y.shape)}")
    if len(x) < 2:
        raise InputError(f"a test needs the values of 2 queries at least, not {len(x)}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("a and b must be finite: one of their values is NaN or infinite")
    if not 0 < confidence < 1:
        raise InputError(f"confidence must lie between 0 and 1, as 0.95 does, not {confidence!r}")
    return x, y, x - y


def _standard_error(d: Doubles) -> float:
    """sd(d) / √n, exactly 0 if all differences are the same."""
    return 0.0 if (d == d[0]).all() else float(d.std(ddof=1)) / math.sqrt(len(d))


def _studentized(means: Doubles, errors: Doubles) -> Doubles:
    """means / errors; without spread 0 for a mean of 0, else infinite."""
    spread = errors > 0
    without = np.where(means == 0, 0.0, np.copysign(np.inf, means))
    return np.where(spread, means / np.where(spread, errors, 1), without)


def _comparison(
    x: Doubles, y: Doubles, interval: Sequence[float], p: float, confidence: float, test: str, metric: str
) -> Comparison:
    better, worse = int((x > y).sum()), int((x < y).sum())
    means = float(x.mean()), float(y.mean())
    counts = better, len(x) - better - worse, worse
    return Comparison(*means, float((x - y).mean()), *map(float, interval), p, *counts, confidence, test, metric)


# --- Student's t ------------------------------------------------------------------------------------------------------


def t_two_sided(t: float, df: float) -> float:
    """P(|T| >= |t|) for Student's t with `df` degrees of freedom: I_x(df/2, 1/2), x = df / (df + t²)."""
    square = t * t
    if math.isinf(square):
        return 0.0
    return incomplete_beta(df / 2, 0.5, df / (df + square), square / (df + square))


def t_quantile(confidence: float, df: float) -> float:
    """The t with P(|T| < t) = confidence, by bisection: 1.96 for 0.95 and many degrees of freedom."""
    low, high = 0.0, 1.0
    while t_two_sided(high, df) > 1 - confidence:
        low, high = high, 2 * high
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if t_two_sided(middle, df) > 1 - confidence else (low, middle)
    return high


def incomplete_beta(a: float, b: float, x: float, rest: float | None = None) -> float:
    """The regularized incomplete beta function I_x(a, b), 0 <= x <= 1, a, b > 0; rest: 1 - x, where it is known better.

    DLMF 8.17.22, the continued fraction x^a (1-x)^b / (a B(a, b)) · 1/(1+ d₁/(1+ d₂/(1+ …, which converges fast for
    x below (a + 1) / (a + b + 2); above, I_x(a, b) = 1 - I_{1-x}(b, a) (8.17.4).
    """
    y = 1 - x if rest is None else rest
    if x <= 0 or y <= 0:
        return float(x > 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, y, x)
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    front = math.exp(a * math.log(x) + b * (math.log(y) if y < 0.5 else math.log1p(-x)) - log_beta) / a
    return front / _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    """1 + d₁/(1 + d₂/(1 + …)) by the modified Lentz method (Thompson & Barnett 1986)."""
    tiny = 1e-300
    value, c, d = 1.0, 1.0, 0.0
    for i in range(1, 100_000):
        m, odd = divmod(i, 2)
        if odd:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / (1 + step * d or tiny)
        c = 1 + step / c or tiny
        value *= c * d
        if abs(c * d - 1) < 1e-16:
            break
    return value
