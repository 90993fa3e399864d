"""minibi's indexes, and the oracle itself, under the public contract."""

from __future__ import annotations

from types import MappingProxyType

from minibi import FlatIndex, HNSWIndex
from minibi.testing import EVERYTHING, IndexContract, Oracle


class TestOracle(IndexContract):
    capabilities = EVERYTHING - {"save", "concurrent"}

    def make(self, dim, metric):
        return Oracle(dim, metric)


class TestFlat(IndexContract):
    def make(self, dim, metric):
        return FlatIndex(dim, metric)


class TestHNSW(IndexContract):
    shrink = False
    options = MappingProxyType({"ef": 500})

    def make(self, dim, metric):
        return HNSWIndex(dim, metric, M=4, ef_construction=20)
