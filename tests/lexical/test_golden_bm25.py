"""The same scores as bm25s, for every variant and every document."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minibi import BM25


@pytest.fixture(scope="module")
def peer(golden):
    return json.loads((golden / "bm25.json").read_text())


def test_scores_of_bm25s(peer):
    for case in peer["found"]:
        floor = {"delta": case["delta"]} if case["variant"] in ("bm25l", "bm25+") else {}
        index = BM25(case["variant"], case["k1"], case["b"], **floor)
        index.add(peer["corpus"])
        scores, ids = index.search(peer["queries"], len(peer["corpus"]))
        for query, expected, got, rows in zip(peer["queries"], case["scores"], scores, ids, strict=True):
            hits = rows[rows >= 0]
            np.testing.assert_allclose(got[: len(hits)], np.array(expected)[hits], rtol=1e-6, atol=2e-7)
            holders = {i for i, doc in enumerate(peer["corpus"]) if set(doc) & set(query)}
            missed = holders - set(hits.tolist())  # those whose terms all have idf 0
            assert set(hits.tolist()) <= holders and all(abs(expected[i]) < 1e-6 for i in missed)
            assert not missed or case["variant"] in ("robertson", "atire")


def test_the_floor_of_its_authors_sets_holders_apart():
    """Lv & Zhai's point: a long document that holds the term stays well above one that does not."""
    long = ["rare"] + ["filler"] * 500
    gaps = {}
    for held in ("all", "held"):
        for variant in ("bm25l", "bm25+"):
            index = BM25(variant, floor_for=held)
            index.add([long, ["filler", "other"], ["filler"]])
            scores, ids = index.search([["rare", "filler"]], 3)
            by_id = dict(zip(ids[0].tolist(), scores[0].tolist(), strict=True))
            gaps[variant, held] = by_id[0] - by_id[2]
    assert gaps["bm25l", "held"] > gaps["bm25l", "all"] + 0.3
    assert gaps["bm25+", "held"] > gaps["bm25+", "all"] + 0.9
