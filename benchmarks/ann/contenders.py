"""Every index of the benchmark behind one small face: build, search at a setting, save, load.

All graphs have M 16 and ef_construction 200, and all else is each library's default. A library that is not installed,
or an option of minibi that does not exist, takes no part and is named in `absent`. To add a contender, add a line to
`CONTENDERS`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from minibi.shapes import Floats, Ints

M, EF_CONSTRUCTION = 16, 200
EFS = (10, 12, 14, 17, 20, 24, 28, 40, 56, 80, 112, 160, 224, 320, 448)
NPROBES, FACTORS = (4, 8, 12, 16, 24, 32, 48, 64, 96, 128), (2, 4, 8, 16, 32)  # FACTORS: rescored, as multiples of k
EPSILONS = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2, 0.25, 0.3, 0.4)


class Contender:
    """One index over unit vectors whose rows are their ids. Subclasses know a library each."""

    suffix = ""  # of the file it saves

    def __init__(self, name: str, settings: tuple[Any, ...] = (None,)):
        self.name, self.settings = name, settings
        self.index: Any = None

    own = property(lambda self: self.name.startswith("minibi"))
    exact = property(lambda self: self.settings == (None,))

    def available(self, dim: int) -> None:
        """Raises whatever says that this contender cannot take part."""

    def build(self, vectors: Floats, threads: int) -> None:
        raise NotImplementedError

    def search(self, queries: Floats, k: int, setting: Any) -> Ints:
        """Rows [Q, k]."""
        raise NotImplementedError

    def save(self, path: Path) -> None:
        raise NotImplementedError

    def load(self, path: Path, vectors: Floats, threads: int) -> None:
        raise NotImplementedError


@contextmanager
def minibi_threads(count: int) -> Iterator[None]:
    """minibi looks at its environment on every call."""
    before = os.environ.get("MINIBI_NUM_THREADS")
    os.environ["MINIBI_NUM_THREADS"] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINIBI_NUM_THREADS"]
        else:
            os.environ["MINIBI_NUM_THREADS"] = before


class Minibi(Contender):
    """`make(dim)` gives an empty index, `knobs(setting)` the arguments of its `search`."""

    suffix = ".minibi"

    def __init__(
        self,
        name: str,
        make: Callable[[int], Any],
        settings: tuple[Any, ...] = (None,),
        knobs: Callable[[Any], dict[str, Any]] = lambda setting: {},
    ):
        super().__init__(f"minibi {name}", settings)
        self.make, self.knobs = make, knobs

    def available(self, dim: int) -> None:
        self.make(dim)

    def build(self, vectors: Floats, threads: int) -> None:
        index = self.make(vectors.shape[1])
        with minibi_threads(threads):
            if hasattr(index, "train"):
                index.train(vectors)
            index.add(vectors)
        self.index = index

    def search(self, queries: Floats, k: int, setting: Any, **more: Any) -> Ints:
        return self.index.search(queries, k, **self.knobs(setting), **more)[1]

    def save(self, path: Path) -> None:
        self.index.save(path)

    def load(self, path: Path, vectors: Floats, threads: int) -> None:
        self.index = type(self.make(vectors.shape[1])).load(path, mmap=False)  # as peers do

    def can(self, verb: str, argument: str | None = None) -> bool:
        """Whether the index has a method, and the method an argument."""
        method = getattr(self.index, verb, None)
        return method is not None and (argument is None or argument in inspect.signature(method).parameters)


class Hnswlib(Contender):
    suffix = ".bin"

    def available(self, dim: int) -> None:
        import hnswlib  # noqa: F401

    def build(self, vectors: Floats, threads: int) -> None:
        import hnswlib

        self.index = hnswlib.Index("ip", vectors.shape[1])
        self.index.set_num_threads(threads)
        self.index.init_index(len(vectors), ef_construction=EF_CONSTRUCTION, M=M)
        self.index.add_items(vectors)

    def search(self, queries: Floats, k: int, setting: Any) -> Ints:
        self.index.set_ef(setting)
        return self.index.knn_query(queries, k)[0]

    def save(self, path: Path) -> None:
        self.index.save_index(str(path))

    def load(self, path: Path, vectors: Floats, threads: int) -> None:
        import hnswlib

        self.index = hnswlib.Index("ip", vectors.shape[1])
        self.index.load_index(str(path))
        self.index.set_num_threads(threads)


class Faiss(Contender):
    """`make(faiss, dim)` gives an empty index; `tune(faiss, index, setting)` is called before each search."""

    suffix = ".faiss"

    def __init__(
        self,
        name: str,
        make: Callable[[Any, int], Any],
        settings: tuple[Any, ...] = (None,),
        tune: Callable[[Any, Any, Any], None] = lambda faiss, index, setting: None,
    ):
        super().__init__(f"faiss {name}", settings)
        self.make, self.tune = make, tune

    def available(self, dim: int) -> None:
        import faiss

        self.make(faiss, dim)

    def build(self, vectors: Floats, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        index = self.make(faiss, vectors.shape[1])
        if not index.is_trained:
            index.train(vectors)
        index.add(vectors)
        self.index = index

    def search(self, queries: Floats, k: int, setting: Any) -> Ints:
        import faiss

        self.tune(faiss, self.index, setting)
        return self.index.search(queries, k)[1]

    def save(self, path: Path) -> None:
        import faiss

        faiss.write_index(self.index, str(path))

    def load(self, path: Path, vectors: Floats, threads: int) -> None:
        import faiss

        faiss.omp_set_num_threads(threads)
        self.index = faiss.read_index(str(path))


class Usearch(Contender):
    suffix = ".usearch"

    def __init__(self, dtype: str):
        super().__init__(f"usearch {dtype}", EFS)
        self.dtype, self.threads = dtype, 1

    def available(self, dim: int) -> None:
        import usearch.index  # noqa: F401

    def _empty(self, dim: int) -> Any:
        from usearch.index import Index

        return Index(ndim=dim, metric="cos", dtype=self.dtype, connectivity=M, expansion_add=EF_CONSTRUCTION)

    def build(self, vectors: Floats, threads: int) -> None:
        self.index, self.threads = self._empty(vectors.shape[1]), threads
        self.index.add(np.arange(len(vectors)), vectors, threads=threads)

    def search(self, queries: Floats, k: int, setting: Any) -> Ints:
        self.index.expansion_search = setting
        return self.index.search(queries, k, threads=self.threads).keys.reshape(len(queries), -1).astype(np.int64)

    def save(self, path: Path) -> None:
        self.index.save(str(path))

    def load(self, path: Path, vectors: Floats, threads: int) -> None:
        self.index, self.threads = self._empty(vectors.shape[1]), threads
        self.index.load(str(path))


class Pynndescent(Contender):
    """Its own graph (it has no M), searched with backtracking `epsilon`; it has no file but a pickle."""

    suffix = ".pickle"

    def available(self, dim: int) -> None:
        import pynndescent  # noqa: F401

    def build(self, vectors: Floats, threads: int) -> None:
        from pynndescent import NNDescent

        NNDescent(vectors[:2000], metric="dot", random_state=0, n_jobs=threads).prepare()  # compiles
        self.index = NNDescent(vectors, metric="dot", random_state=0, n_jobs=threads)
        self.index.prepare()

    def search(self, queries: Floats, k: int, setting: Any) -> Ints:
        return self.index.query(queries, k, epsilon=setting)[0]

    def save(self, path: Path) -> None:
        import pickle

        path.write_bytes(pickle.dumps(self.index, protocol=5))

    def load(self, path: Path, vectors: Floats, threads: int) -> None:
        import pickle  # the benchmark's own cache, never a file of others

        self.index = pickle.loads(path.read_bytes())


# --- the list ---------------------------------------------------------------------------------------------------------


def _minibi_flat(**options: Any) -> Callable[[int], Any]:
    from minibi import FlatIndex

    return lambda dim: FlatIndex(dim, "cosine", **options)


def _minibi_hnsw(**options: Any) -> Callable[[int], Any]:
    from minibi import HNSWIndex

    return lambda dim: HNSWIndex(dim, "cosine", M=M, ef_construction=EF_CONSTRUCTION, **options)


def _minibi_factory(description: str) -> Callable[[int], Any]:
    def make(dim: int) -> Any:
        from minibi import index_factory

        return index_factory(description, dim, "cosine")

    return make


def _ef(setting: Any) -> dict[str, Any]:
    return {"ef": setting}


def _nprobe(setting: Any) -> dict[str, Any]:
    return {"nprobe": setting[0], "ef": 10 * setting[1]}  # of the benchmark's k, as faiss's k_factor


def _set_ef(faiss: Any, index: Any, setting: Any) -> None:
    index.hnsw.efSearch = setting


def _set_ivf(faiss: Any, index: Any, setting: Any) -> None:
    nprobe, index.k_factor = setting
    faiss.extract_index_ivf(index).nprobe = nprobe


def _blas_from(queries: int) -> Callable[[Any, Any, Any], None]:
    """A matrix product instead of one inner product after the other, from so many queries on."""

    def tune(faiss: Any, index: Any, setting: Any) -> None:
        faiss.cvar.distance_compute_blas_threshold = queries

    return tune


def _faiss_hnsw(faiss: Any, dim: int) -> Any:
    return _with_ef_construction(faiss.IndexHNSWFlat(dim, M, faiss.METRIC_INNER_PRODUCT))


def _faiss_hnsw_sq8(faiss: Any, dim: int) -> Any:
    kind = faiss.ScalarQuantizer.QT_8bit
    return _with_ef_construction(faiss.IndexHNSWSQ(dim, kind, M, faiss.METRIC_INNER_PRODUCT))


def _with_ef_construction(index: Any) -> Any:
    index.hnsw.efConstruction = EF_CONSTRUCTION
    return index


def _faiss_factory(description: str) -> Callable[[Any, int], Any]:
    return lambda faiss, dim: faiss.index_factory(dim, description.format(dim=dim), faiss.METRIC_INNER_PRODUCT)


def _pq(dim: int) -> str:
    """IVF with 4-bit codes of 4 dimensions each, and the vectors to rescore with."""
    return f"IVF512,PQ{dim // 4}x4fs,RFlat"


IVF = tuple(product(NPROBES, FACTORS))
CONTENDERS: tuple[Contender, ...] = (
    Minibi("HNSW float32", _minibi_hnsw(codes="float32"), EFS, _ef),
    Minibi("HNSW int8", _minibi_hnsw(codes="int8"), EFS, _ef),
    Minibi("HNSW int4", _minibi_hnsw(codes="int4"), EFS, _ef),
    Minibi("HNSW bytes alone", _minibi_hnsw(codes="int8", store="int8"), EFS, _ef),
    Minibi("IVF-PQ", lambda dim: _minibi_factory(_pq(dim))(dim), IVF, _nprobe),
    Minibi("Flat", _minibi_flat()),
    Minibi("Flat scan", _minibi_flat(codes=None)),
    Hnswlib("hnswlib", EFS),
    Faiss("HNSWFlat", _faiss_hnsw, EFS, _set_ef),
    Faiss("HNSW-SQ8", _faiss_hnsw_sq8, EFS, _set_ef),
    Faiss("IVF-PQ", lambda faiss, dim: _faiss_factory(_pq(dim))(faiss, dim), IVF, _set_ivf),
    Faiss("Flat", _faiss_factory("Flat"), tune=_blas_from(128_000)),  # the default of 1.15: never, for our batches
    Faiss("Flat BLAS", _faiss_factory("Flat"), tune=_blas_from(20)),  # the default before
    Usearch("f32"),
    Usearch("i8"),
    Pynndescent("pynndescent", EPSILONS),
)


def taking_part(dim: int, wanted: Callable[[str], bool]) -> tuple[list[Contender], dict[str, str]]:
    """(those that can be made here, name -> why not of the others)."""
    present, absent = [], {}
    for contender in CONTENDERS:
        if not wanted(contender.name):
            continue
        try:
            contender.available(dim)
        except (ImportError, TypeError, ValueError, RuntimeError) as e:  # no package, no such option
            absent[contender.name] = str(e).splitlines()[0]
        else:
            present.append(contender)
    return present, absent
