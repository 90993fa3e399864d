"""The error function for arrays, which NumPy lacks: by rational approximations, exact to some 1e-16 in float64.

The quotients of polynomials and their coefficients are those of W. J. Cody, "Rational Chebyshev approximations for the
error function", Mathematics of Computation 23 (1969), as in his routine CALERF.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Array = Any

# erf(x) = x A(x^2) / B(x^2) up to 0.46875; coefficients from the constant term upward
_A = (3209.37758913846947, 377.485237685302021, 113.864154151050156, 3.16112374387056560, 0.185777706184603153)
_B = (2844.23683343917062, 1282.61652607737228, 244.024637934444173, 23.6012909523441209, 1.0)
# erfc(x) = e^(-x^2) C(x) / D(x) up to 4
_C = (
    1230.33935479799725, 2051.07837782607147, 1712.04761263407058, 881.952221241769090, 298.635138197400131,
    66.1191906371416295, 8.88314979438837594, 0.564188496988670089, 2.15311535474403846e-8,
)  # fmt: skip
_D = (
    1230.33935480374942, 3439.36767414372164, 4362.61909014324716, 3290.79923573345963, 1621.38957456669019,
    537.181101862009858, 117.693950891312499, 15.7449261107098347, 1.0,
)  # fmt: skip
# erfc(x) = e^(-x^2) / x (1 / sqrt(pi) - x^-2 P(x^-2) / Q(x^-2)) beyond
_P = (
    6.58749161529837803e-4, 0.0160837851487422766, 0.125781726111229246, 0.360344899949804439, 0.305326634961232344,
    0.0163153871373020978,
)  # fmt: skip
_Q = (
    0.00233520497626869185,
    0.0605183413124413191,
    0.527905102951428412,
    1.87295284992346725,
    2.56852019228982242,
    1.0,
)


def _polynomial(x: Array, coefficients: Sequence[float]) -> Array:
    result = np.full_like(x, coefficients[-1])
    for c in reversed(coefficients[:-1]):
        result = result * x + c
    return result


def erf(x: Array) -> Array:
    """2 / sqrt(pi) times the integral of e^(-t^2) from 0 to x, elementwise, in float64; returned in x.dtype."""
    wide = np.asarray(x, np.float64)
    a = np.minimum(np.abs(wide), 6)  # erf(6) is 1 in float64; NaN stays
    small = np.minimum(a, 0.46875) ** 2
    near = wide * (_polynomial(small, _A) / _polynomial(small, _B))
    middle = np.clip(a, 0.46875, 4)
    tail = _polynomial(middle, _C) / _polynomial(middle, _D)
    if (a > 4).any():
        large = np.maximum(a, 4)
        inverse = large**-2
        beyond = (1 / math.sqrt(math.pi) - inverse * _polynomial(inverse, _P) / _polynomial(inverse, _Q)) / large
        tail = np.where(a > 4, beyond, tail)
    far = np.copysign(1 - np.exp(-a * a) * tail, wide)
    return np.where(a <= 0.46875, near, far).astype(np.result_type(x))
