"""For people who test their own approximate nearest neighbours: `pip install 'minibi[testing]'`.

from minibi.testing import EVERYTHING, IndexContract, state_machine

class TestMine(IndexContract):                       # pytest collects one test per promise and metric
    capabilities = EVERYTHING - {"upsert", "save"}   # what Mine does not offer
    recall = 0.9                                     # 1.0 for exact search
    def make(self, dim, metric):
        return Mine(dim, metric)                     # any object with add(vectors, ids) and search(queries, k)

TestSequences = state_machine(TestMine(), dim=4, metric="l2").TestCase

subject       what is under test, what it offers, and how its answers are judged
oracle        the slow index in float64 that is always right
strategies    hypothesis strategies: vector sets, ids, broken input, sequences of calls
contract      one test for each promise of an index; `audit` runs them without pytest and returns a table
machine       all calls in any order, beside the oracle
readers       many threads search while one writes
files         crashes at every moment of a save, flipped and mangled bytes, kill -9
reports       recall and graph invariants as tables
adapters      hnswlib and faiss in the form that all of this takes
"""

from __future__ import annotations

try:
    import hypothesis as _hypothesis  # noqa: F401
    import pytest as _pytest

    _pytest.register_assert_rewrite(f"{__name__}.contract", f"{__name__}.contract_changes")  # failures show values
except ImportError as e:
    raise ImportError(f"minibi.testing needs {e.name}: pip install 'minibi[testing]'") from None

from .adapters import FaissAdapter, HnswlibAdapter, graph_of
from .contract import IndexContract, audit
from .files import check_crashes, check_flips, check_kills, check_mangled
from .machine import Shadowed, state_machine
from .oracle import Oracle
from .readers import check_readers
from .reports import graph_report, recall_report
from .subject import CAPABILITIES, EVERYTHING, Subject, verify, verify_range

__all__ = [
    "CAPABILITIES",
    "EVERYTHING",
    "FaissAdapter",
    "HnswlibAdapter",
    "IndexContract",
    "Oracle",
    "Shadowed",
    "Subject",
    "audit",
    "check_crashes",
    "check_flips",
    "check_kills",
    "check_mangled",
    "check_readers",
    "graph_of",
    "graph_report",
    "recall_report",
    "state_machine",
    "verify",
    "verify_range",
]
