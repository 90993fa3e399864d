"""What the index benchmark searches: vectors, queries and their true neighbours, made once and kept in `.cache/ann`.

synthetic   clustered unit vectors whose local intrinsic dimension, some 19, is that of sentence embeddings
real        MiniLM vectors of the passages and sentences of a folder of data sets, queries its questions
files       any two .npy files
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minibi.shapes import Floats, Ints, as_vectors, unit_rows

from ..common import CACHE, say

QUERIES = 1000
TRUE = 100  # neighbours known of each query


@dataclass(frozen=True)
class Workload:
    """N vectors to store and Q queries, all of length one; `truth` [Q, TRUE]: the nearest rows, best first."""

    name: str
    title: str
    vectors: Floats
    queries: Floats
    truth: Ints
    folder: Path  # where what is made of these vectors may be kept

    @property
    def dim(self) -> int:
        return self.vectors.shape[1]

    def __len__(self) -> int:
        return len(self.vectors)


LATENT = 28  # dimensions of the surface near which synthetic vectors lie; more are harder to search


def synthetic(count: int, dim: int, latent: int = LATENT) -> Workload:
    """`count` made-up vectors and 1,000 queries from the same distribution."""
    name = f"synthetic-{count}x{dim}" + (f"-latent{latent}" if latent != LATENT else "")

    def make() -> tuple[Floats, Floats]:
        x = manifold(count + QUERIES, dim, latent=latent)
        return x[:count], x[count:]

    return _kept(name, f"{count:,} × {dim} synthetic, {latent} latent dimensions", make)


def real(folder: Path, count: int = 100_000) -> Workload:
    """Passages and sentences below `folder` (see `texts`), encoded with all-MiniLM-L6-v2 in int8."""

    def make() -> tuple[Floats, Floats]:
        from minibi import BiEncoder

        from .texts import collect

        texts, questions = collect(folder, count, QUERIES)
        say(f"encoding {len(texts)} texts and {len(questions)} questions")
        model = BiEncoder("all-MiniLM-L6-v2", compute="int8")
        return tuple(model.encode(some, truncation="silent") for some in (texts, questions))

    return _kept("real", "{count:,} × {dim} MiniLM vectors of passages and sentences", make)


def files(vectors: Path, queries: Path) -> Workload:
    """Two .npy files, float vectors [N, D] and [Q, D]; compared by cosine."""
    stamp = hashlib.sha256(vectors.read_bytes() + queries.read_bytes()).hexdigest()[:16]
    return _kept(
        f"files-{stamp}", f"{{count:,}} × {{dim}} of {vectors.name}", lambda: (np.load(vectors), np.load(queries))
    )


def _kept(name: str, title: str, make: Callable[[], tuple[Floats, Floats]]) -> Workload:
    """The workload from the cache, or made, checked and put there."""
    folder = CACHE / "ann" / name
    paths = {key: folder / f"{key}.npy" for key in ("vectors", "queries", "truth")}
    if not paths["truth"].exists():  # written last
        say(f"{name}: making vectors")
        vectors, queries = make()
        vectors = unit_rows(as_vectors(vectors, name="vectors"))
        queries = unit_rows(as_vectors(queries, vectors.shape[1], name="queries"))
        _, first = np.unique(vectors, axis=0, return_index=True)  # of twins no one can say which is the neighbour
        vectors = np.ascontiguousarray(vectors[np.sort(first)])
        folder.mkdir(parents=True, exist_ok=True)
        say(f"{name}: {len(vectors)} vectors, finding the true neighbours of {len(queries)} queries")
        for key, array in (("vectors", vectors), ("queries", queries), ("truth", exact(vectors, queries, TRUE))):
            np.save(paths[key], array)
    vectors, queries, truth = (np.load(path) for path in paths.values())
    title = title.format(count=len(vectors), dim=vectors.shape[1])
    return Workload(name, title, vectors, queries, truth, folder)


def exact(vectors: Floats, queries: Floats, k: int) -> Ints:
    """The rows of the k largest inner products [Q, k], best first; NumPy alone, 100 queries at a time."""
    k = min(k, len(vectors))
    found = np.empty((len(queries), k), np.int64)
    for first in range(0, len(queries), 100):
        products = queries[first : first + 100] @ vectors.T
        best = np.argpartition(-products, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(products, best, 1), axis=1, kind="stable")
        found[first : first + 100] = np.take_along_axis(best, order, 1)
    return found


def manifold(count: int, dim: int, seed: int = 0, latent: int = LATENT, clusters: int = 2000) -> Floats:
    """Unit vectors [count, dim] near a curved surface of `latent` dimensions, in clusters of unequal size and width.

    Clusters gather around 50 themes, as topics do; a random two-layer network bends their space into `dim` dimensions;
    a mean that all share and some noise in all directions are added, as real embeddings have both.
    """
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> Floats:
        return rng.standard_normal(shape, np.float32)

    themes = normal(50, latent)
    centres = 0.8 * themes[rng.integers(50, size=clusters)] + 0.8 * normal(clusters, latent)
    shares = rng.dirichlet(np.full(clusters, 0.7))
    widths = 0.55 * np.exp(0.3 * normal(clusters, 1))
    hidden, bias = normal(latent, 256) * (1.2 / latent**0.5), 0.3 * normal(256)
    output, mean = normal(256, dim) / 16, 0.35 * normal(dim)

    x = np.empty((count, dim), np.float32)
    for first in range(0, count, 50_000):  # bounded memory
        some = x[first : first + 50_000]
        of = rng.choice(clusters, len(some), p=shares)
        z = centres[of] + widths[of] * normal(len(some), latent)
        some[:] = np.tanh(z @ hidden + bias) @ output
        some += some.std() * (mean + 0.25 * normal(len(some), dim))
    return unit_rows(x)


def intrinsic_dimension(work: Workload, k: int = 20) -> float:
    """Local intrinsic dimension at the queries, median of the maximum-likelihood estimate (Levina & Bickel 2004)."""
    near = np.einsum("qkd,qd->qk", work.vectors[work.truth[:200, : k + 1]], work.queries[:200])
    distances = np.sqrt(np.maximum(2 - 2 * near, 1e-12))
    return float(np.median(-1 / np.log(distances[:, :k] / distances[:, k:]).mean(axis=1)))
