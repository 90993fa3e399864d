"""The contract held against hnswlib and faiss, where they are installed: what they fail is written down in FAILS.

A promise that a library begins to keep, or ceases to, makes this test fail: then the table is brought up to date.
Looked at with hnswlib 0.8 and faiss 1.14.
"""

from __future__ import annotations

import pytest

from minibi.testing import EVERYTHING, FaissAdapter, HnswlibAdapter, IndexContract, audit

ERRORS = (ValueError, RuntimeError, AssertionError, TypeError, IndexError)
NO_API = {"check", "compact", "concurrent", "counting"}  # of both libraries, or of the adapters


class HNSWLib(IndexContract):
    errors = ERRORS
    capabilities = EVERYTHING - NO_API - {"range_search"}
    recall = 0.9
    test_damaged_bytes_are_noticed = None  # one changed byte in a file ends the process (segmentation fault)

    def make(self, dim, metric):
        return HnswlibAdapter(pytest.importorskip("hnswlib"), dim, metric, ef=500)


class FaissFlat(IndexContract):
    errors = ERRORS
    capabilities = EVERYTHING - NO_API

    def make(self, dim, metric):
        faiss = pytest.importorskip("faiss")
        return FaissAdapter(faiss, (faiss.IndexFlatL2 if metric == "l2" else faiss.IndexFlatIP)(dim), metric)


class FaissHNSW(IndexContract):
    errors = ERRORS
    capabilities = EVERYTHING - NO_API - {"remove", "upsert", "range_search"}
    recall = 0.9

    def make(self, dim, metric):
        faiss = pytest.importorskip("faiss")
        kind = faiss.METRIC_L2 if metric == "l2" else faiss.METRIC_INNER_PRODUCT
        index = faiss.IndexHNSWFlat(dim, 16, kind)
        index.hnsw.efSearch = 500
        return FaissAdapter(faiss, index, metric)


# "finds the k best" fails for ties and for short rows; hnswlib raises where it has fewer than k; neither refuses NaN,
# nor an id that is there; both write in place, and faiss reads changed bytes as other vectors.
BOTH = {
    "a crash while saving leaves the old file or the new",
    "any sequence of calls",
    "broken ids are refused",
    "broken vectors are refused",
    "finds the k best",
    "more asked than stored",
    "numbers float32 cannot hold are refused",
    "ties go to the smaller id",
}
FAILS = {
    "HNSWLib": BOTH
    | {
        "all removed",
        "an empty index",
        "broken k is refused",
        "filters",
        "length ids and membership",
        "removed ids never return",
        "removing what is not there is refused",
        "saved and loaded",
    },
    "FaissFlat": BOTH
    | {
        "damaged bytes are noticed",
        "equal vectors are found each once",
        "exact where nothing is rounded",
        "one query as a vector",
        "range search",
        "removing what is not there is refused",
        "zero vectors",
    },
    "FaissHNSW": BOTH
    | {
        "damaged bytes are noticed",
        "equal vectors are found each once",
        "one query as a vector",
        "zero vectors",
    },
}


@pytest.mark.parametrize("contract", [HNSWLib, FaissFlat, FaissHNSW], ids=lambda c: c.__name__)
def test_what_they_fail_is_known(contract):
    found = audit(contract())
    assert found.broken == FAILS[contract.__name__], str(found)
