"""Makes statistics.json: what SciPy says of tests, distributions and correlations. Run once and kept.

    pip install scipy==1.17.1
    python tests/golden/make_statistics.py

Seeded, so a second run writes the same bytes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import scipy
from scipy import special, stats


def t_tests(rng: np.random.Generator) -> list[dict[str, Any]]:
    """Pairs of value lists as metrics give them: shares of ten, with many equal, and plain numbers."""
    cases = []
    for n in (2, 3, 5, 20, 100, 1000):
        for shift in (0.0, 0.02, 0.2):
            a = rng.integers(0, 11, n) / 10
            b = np.clip(a + rng.normal(shift, 0.1, n).round(1), 0, 1) if n > 3 else rng.random(n)
            if (a - b == (a - b)[0]).all():
                continue
            test = stats.ttest_rel(a, b)
            interval = test.confidence_interval(0.9)
            cases.append(
                {"a": a.tolist(), "b": b.tolist(), "p": test.pvalue, "low": interval.low, "high": interval.high}
            )
    return cases


def main() -> None:
    rng = np.random.default_rng(20240229)
    shapes = [0.5, 1, 1.5, 2, 10, 99.5, 5000, 1e5]
    xs = [0.0, 1e-300, 1e-12, 1e-3, 0.25, 0.5, 0.9, 0.999, 0.99999, 1 - 1e-12, 1.0]
    beta = [[a, b, x, special.betainc(a, b, x)] for a in shapes for b in shapes[:5] for x in xs]
    t = [
        [value, df, 2 * stats.t.sf(abs(value), df)]
        for df in (1, 2, 3, 10, 29, 299, 6979, 100_000)
        for value in (0.0, 0.001, 0.1, -1.0, 1.96, -3.5, 10.0, 60.0)
    ]
    quantiles = [[p, df, stats.t.ppf((1 + p) / 2, df)] for p in (0.5, 0.9, 0.95, 0.99, 0.999) for df in (1, 2, 9, 299)]
    correlations = []
    for n in (2, 3, 10, 50, 200):
        for draw in (lambda n: rng.normal(size=n), lambda n: rng.integers(0, 5, n) / 2):
            x = rng.normal(size=n)
            y = x + draw(n)
            x = x.round(1)
            if len(set(x)) > 1 and len(set(y)) > 1:
                s, p = stats.spearmanr(x, y).statistic, stats.pearsonr(x, y).statistic
                correlations.append({"x": x.tolist(), "y": y.tolist(), "spearman": s, "pearson": p})
    golden = {
        "made_by": f"tests/golden/make_statistics.py with SciPy {scipy.__version__}",
        "incomplete_beta": beta,
        "t_two_sided": t,
        "t_quantile": quantiles,
        "t_tests": t_tests(rng),
        "correlations": correlations,
    }
    path = Path(__file__).with_name("statistics.json")
    with open(path, "w", encoding="ascii", newline="\n") as file:
        json.dump(golden, file, indent=None, separators=(",", ":"), default=float)
        file.write("\n")


if __name__ == "__main__":
    main()
