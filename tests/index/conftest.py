"""Every index under one contract: `make` builds one of each kind and metric, named so that a failure can be read."""

from __future__ import annotations

import pytest

from minibi import FlatIndex, HNSWIndex

KINDS = {
    "flat": lambda dim, metric, **options: FlatIndex(dim, metric, **options),
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
