"""Every index under one contract: `make` builds one of each kind and metric, named so that a failure can be read."""

from __future__ import annotations

import pytest

from minibi import FlatIndex, HNSWIndex
from minibi.index.binary import BinaryIndex
from minibi.index.ivf import IVFIndex
from minibi.index.pq import IVFPQIndex, PQIndex
from minibi.index.rabitq import IVFRaBitQIndex


def all_of(index):
    """Every candidate is compared exactly, so that the contract's exact answers can be asked for without `ef`."""
    index.ef = 10**6
    return index


def sifted(index):
    """The bounds are used however few vectors there are."""
    index.scanned = 0
    return index


KINDS = {
    "flat": lambda dim, metric, **options: FlatIndex(dim, metric, **options),
    "flat-int8": lambda dim, metric, **options: sifted(FlatIndex(dim, metric, codes="int8", **options)),
    "ivf": lambda dim, metric, **options: IVFIndex(dim, metric, 3, train_size=20, nprobe=3, **options),
    "ivf-int4": lambda dim, metric, **options: all_of(
        IVFIndex(dim, metric, 3, codes="int4", train_size=20, nprobe=3, **options)
    ),
    "ivfpq": lambda dim, metric, **options: all_of(IVFPQIndex(dim, metric, 3, train_size=20, nprobe=3, **options)),
    "pq": lambda dim, metric, **options: all_of(
        PQIndex(dim, metric, bits=8, rotation="random", train_size=9, **options)
    ),
    "rabitq": lambda dim, metric, **options: IVFRaBitQIndex(
        dim, metric, 3, bits=3, epsilon=1e3, train_size=20, nprobe=3, **options
    ),
    "binary": lambda dim, metric, **options: all_of(BinaryIndex(dim, metric, train_size=20, **options)),
    "hnsw": lambda dim, metric, **options: HNSWIndex(dim, metric, M=4, ef_construction=20, **options),
}


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(params=["cosine", "ip", "l2"])
def metric(request) -> str:
    return request.param


@pytest.fixture
def make(kind, metric):
    """make(dim, **options) is an empty index."""
    return lambda dim, **options: KINDS[kind](dim, metric, **options)
