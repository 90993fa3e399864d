"""A hash of whole numbers, for randomness that follows from a seed and a place alone, the same on every machine."""

from __future__ import annotations

from typing import Any

import numpy as np


def mixed(x: Any) -> Any:
    """splitmix64's finalizer (Steele, Lea & Flood 2014) of an array of uint64, whose products wrap around."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
