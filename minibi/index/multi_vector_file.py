"""What a multi-vector index read from a file must satisfy before anyone searches it, and what `check` looks at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .multi_vector_search import build_lists
from .residual import NBITS, ResidualCodec
from .token_codes import Residuals

if TYPE_CHECKING:
    from .multi_vector import MultiVectorIndex


def restore(kind: type[MultiVectorIndex], arrays: dict[str, NDArray], fields: dict[str, Any]) -> Any:
    """The index that was saved. Raises ValueError, KeyError or TypeError for what cannot have been."""
    notes = dict(fields.pop("notes"))
    codec = None
    if "centroids" in arrays:
        codec = _codec(arrays.pop("centroids"), arrays.pop("weights"), fields["metric"] == "cosine")
        if codec.nbits != fields["nbits"]:
            raise ValueError(f"{codec.nbits} bits per dimension are stored, {fields['nbits']} are stated")
    index = kind(**fields, codec=codec)
    index.notes, index.n_centroids = notes, fields["n_centroids"]
    ids, lengths = arrays.pop("ids"), arrays.pop("lengths")
    for name, a in (("ids", ids), ("lengths", lengths)):
        if a.dtype != np.int64 or a.shape != (len(ids),):
            raise ValueError(f"{name} is {a.dtype}{list(a.shape)}")
    if (ids == -1).any() or len(np.unique(ids)) != len(ids):
        raise ValueError("an id is -1 or stands twice")
    tokens = len(next(iter(arrays.values()))) if arrays else 0
    if lengths.size and (lengths.min() < 0 or lengths.max() > tokens):
        raise ValueError("a document's length is impossible")
    if int(lengths.sum()) != tokens:
        raise ValueError(f"the documents have {int(lengths.sum())} tokens, {tokens} are stored")
    expected = index._codes.columns() if index._codes is not None else {}
    if set(arrays) != set(expected) and (arrays or tokens):
        raise ValueError(f"the columns are {sorted(arrays)}, not {sorted(expected)}")
    for name, a in arrays.items():
        dtype, shape = expected[name]
        if a.dtype != dtype or a.shape != (tokens, *shape):
            raise ValueError(f"{name} is {a.dtype}{list(a.shape)}")
    index._adopt(arrays, ids, lengths)
    found = problems(index)
    if found:
        raise ValueError(found[0])
    return index


def _codec(centroids: NDArray, weights: NDArray, unit: bool) -> ResidualCodec:
    if centroids.dtype != np.float32 or centroids.ndim != 2 or not centroids.size:
        raise ValueError(f"centroids are {centroids.dtype}{list(centroids.shape)}")
    if weights.dtype != np.float32 or weights.shape not in [(2**n,) for n in NBITS]:
        raise ValueError(f"weights are {weights.dtype}{list(weights.shape)}")
    if not np.isfinite(centroids).all() or np.abs(centroids).max() > 1e17:
        raise ValueError("a centroid is not a finite number of usual size")
    if not np.isfinite(weights).all() or np.abs(weights).max() > 1e17 or (np.diff(weights) < 0).any():
        raise ValueError("the weights of residuals do not rise, or are no finite numbers of usual size")
    return ResidualCodec(centroids, weights, unit)


def problems(index: MultiVectorIndex) -> list[str]:
    """What is wrong with an index, in words."""
    found = []
    view = index._view()
    rows = np.array(list(index._row_of.values()), np.int64)
    if (view.ids[rows] != np.array(list(index._row_of), np.int64)).any() or (np.diff(rows) <= 0).any():
        found.append("ids and rows do not correspond one to one")
    tokens = sum(len(a) for a in view.columns.values()) // max(1, len(view.columns))
    if (view.starts != np.cumsum(view.lengths) - view.lengths).any() or int(view.lengths.sum()) != tokens:
        found.append("the documents do not lie end to end")
    held = np.zeros(len(view.ids), bool)
    held[rows] = view.lengths[rows] > 0
    if (held != view.alive).any():
        found.append("a removed document can still be found, or a stored one cannot")
    for name, a in view.columns.items():
        if a.dtype.kind == "f" and a.size and not (np.isfinite(a).all() and float(np.abs(a).max()) < 1e18):
            found.append(f"a number in {name} is not finite or of unusual size")
    if index.codec is not None and len(view.columns):
        cells = view.columns["cells"]
        if len(cells) and int(cells.max()) >= len(index.codec.centroids):
            found.append("a token belongs to a centroid that is not there")
        elif isinstance(index._codes, Residuals) and view.lists is not None:
            n = view.lists.count
            end = int(view.lengths[:n].sum())
            again = build_lists(cells[:end], view.lengths[:n], len(index.codec.centroids))
            if not (np.array_equal(again.starts, view.lists.starts) and np.array_equal(again.rows, view.lists.rows)):
                found.append("the inverted lists do not hold what the tokens say")
    return found
