"""Any order of add, upsert and remove gives what a new index gives, and what the formula says."""

from __future__ import annotations

import os

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from oracle import Oracle

from minibi import BM25
from minibi.lexical import postings

TERMS = [f"t{i}" for i in range(12)]
DOCS = st.lists(st.sampled_from(TERMS), max_size=12) | st.lists(st.sampled_from(TERMS[:2]), max_size=40)
IDS = st.integers(-5, 30).filter(lambda i: i != -1)
VARIANTS = [(v, held) for v in ("lucene", "robertson", "atire", "bm25l", "bm25+") for held in (False, True)]


class Changes(RuleBasedStateMachine):
    @initialize(
        variant=st.sampled_from(VARIANTS), k1=st.sampled_from([0.4, 1.5, 3.0]), b=st.sampled_from([0.0, 0.75, 1.0])
    )
    def begin(self, variant, k1, b):
        name, held = variant
        floor = {"delta": 0.8} if name in ("bm25l", "bm25+") else {}
        self.make = lambda: BM25(name, k1, b, **floor, floor_for="held" if held else "all")
        self.index = self.make()
        self.oracle = Oracle(name, k1, b, floor.get("delta", 0.0), held)

    @rule(docs=st.dictionaries(IDS, DOCS, max_size=6))
    def add(self, docs):
        new = {id: doc for id, doc in docs.items() if id not in self.oracle.docs}
        self.index.add(list(new.values()), list(new))
        self.oracle.docs |= new

    @rule(docs=st.dictionaries(IDS, DOCS, max_size=4))
    def upsert(self, docs):
        self.index.upsert(list(docs.values()), list(docs))
        for id, doc in docs.items():
            self.oracle.docs.pop(id, None)
            self.oracle.docs[id] = doc

    @precondition(lambda self: self.oracle.docs)
    @rule(data=st.data())
    def remove(self, data):
        gone = data.draw(st.lists(st.sampled_from(sorted(self.oracle.docs)), unique=True, max_size=5))
        self.index.remove(gone)
        for id in gone:
            del self.oracle.docs[id]

    @rule()
    def tidy(self):
        p = self.index._postings
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(p), "untidy", lambda _: True)
            patch.setattr(postings, "OFTEN", 1)  # codes for every term
            self.index._tidy()

    @rule(query=st.lists(st.sampled_from([*TERMS, "none"]), max_size=6), k=st.integers(1, 12))
    def search(self, query, k):
        scores, ids = self.index.search([query], k)
        rebuilt = self.make()
        rebuilt.add(list(self.oracle.docs.values()), list(self.oracle.docs))
        again, same = rebuilt.search([query], k)
        np.testing.assert_array_equal(ids, same)
        np.testing.assert_array_equal(scores, again)
        truth = self.oracle.scores(query)
        found = ids[0][ids[0] != -1].tolist()
        assert len(found) == len(set(found)) == min(k, len(truth)) and set(found) <= set(truth)
        best = sorted(truth.values(), reverse=True)[:k]
        np.testing.assert_allclose(scores[0][: len(found)], best, rtol=3e-6)
        np.testing.assert_allclose([truth[id] for id in found], best, rtol=3e-6)
        order = [(-s, i) for s, i in zip(scores[0].tolist(), ids[0].tolist(), strict=True) if i != -1]
        assert order == sorted(order)
        for id, score in zip(found, scores[0].tolist(), strict=False):
            assert self.index.explain([query], id).score == score

    @invariant()
    def sound(self):
        if hasattr(self, "index"):
            assert self.index.check() == []
            assert len(self.index) == len(self.oracle.docs) and sorted(self.index.ids) == sorted(self.oracle.docs)


Changes.TestCase.settings = settings(
    max_examples=300 if os.environ.get("MINIBI_DEEP") == "1" else 25, stateful_step_count=25, deadline=None
)
TestChanges = Changes.TestCase
