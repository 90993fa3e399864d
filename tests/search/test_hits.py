"""Hits: what they hold, how they look, and what becomes of odd texts."""

from __future__ import annotations

import json

import numpy as np
import pytest

from minibi.errors import InputError
from minibi.evaluate import read_run
from minibi.search.hits import Evidence, Hit, Hits

BOTH = (Evidence("dense", 1, 0.712345, 0.0164), Evidence("bm25", None, None, 0.0))


@pytest.fixture
def hits() -> Hits:
    rows = [Hit(0.5, "A title", "first\n\ttext", "notes.txt", id="a", evidence=BOTH), Hit(0.25, text="<b>", id="b")]
    return Hits(tuple(rows), "what & why?", {"encode": 0.004, "scan": 0.001}, {"k": 60})


def test_a_sequence_of_hits(hits):
    assert (len(hits), hits[0].id, hits[-1].id, [h.id for h in hits]) == (2, "a", "b", ["a", "b"])
    assert hits.ids == ["a", "b"] and hits.texts == ["first\n\ttext", "<b>"]
    assert hits.scores.tolist() == [0.5, 0.25] and hits.scores.dtype == np.float64
    assert isinstance(hits[:1], Hits) and hits[:1].query == hits.query and hits[:1].ids == ["a"]
    assert hits == list(hits) == hits[:] and hits != hits[:1] and hits != "ab"
    assert hash(hits) == hash(hits[:])
    assert Hits() == [] and not Hits() and Hits().scores.shape == (0,)


def test_from_what_an_index_returns():
    found = Hits.of(np.array([7, 3, -1]), np.float32([0.5, 0.25, -np.inf]), ["x", "y", ""], query="q")
    assert (found.ids, found.texts, found.query) == ([7, 3], ["x", "y"], "q")
    assert type(found.ids[0]) is int
    assert Hits.of([], []) == []
    for ids, scores, texts in ([1], [], None), ([1], [1.0], ["a", "b"]), ([1], 1.0, None):
        with pytest.raises(InputError, match="one score"):
            Hits.of(ids, scores, texts)


def test_explanations(hits):
    assert hits[0].explain() == "0.5 = 0.0164 dense (rank 1, score 0.7123) + 0 bm25 (not found)"
    assert hits[1].explain() == "0.25"
    assert Hit(2.5, evidence=(Evidence("dense", 3, 0.1), Evidence("rerank", 1, 2.5))).explain() == (
        "2.5 after dense (rank 3, score 0.1), rerank (rank 1, score 2.5)"
    )
    assert hits.explain().splitlines() == [f"  1  a  {hits[0].explain()}", "  2  b  0.25"]


def test_plain_values(hits):
    plain = json.loads(json.dumps(hits.to_dict()))
    assert plain["query"] == "what & why?" and plain["seconds"] == {"encode": 0.004, "scan": 0.001}
    assert plain["hits"][0]["evidence"][0] == {
        "stage": "dense", "rank": 1, "score": 0.712345, "contribution": 0.0164
    }  # fmt: skip
    assert "evidence" not in plain["hits"][1] and plain["notes"] == {"k": 60}


def test_a_trec_run(hits, tmp_path):
    lines = hits.to_trec("q1", "mine")
    assert lines == "q1 Q0 a 1 0.5 mine\nq1 Q0 b 2 0.25 mine\n"
    (tmp_path / "run").write_text(lines)
    assert read_run(tmp_path / "run") == {"q1": {"a": 0.5, "b": 0.25}}
    assert Hits.of([10, 9], [1.0, 1.0]).to_trec("q").splitlines()[0] == "q Q0 9 1 1.0 minibi"
    with pytest.raises(InputError, match="cannot stand"):
        Hits.of(["a b"], [1.0]).to_trec("q")


def test_in_a_terminal(hits, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    assert repr(hits).splitlines() == [
        "2 hits for 'what & why?' in 5.0 ms (encode 4.0, scan 1.0)",
        "  1    0.5000  A title  first text",
        "  2    0.2500  b        <b>",
    ]
    assert repr(Hits()) == "0 hits" and repr(hits[:1]).startswith("1 hit for")
    many = Hits.of(range(25), np.linspace(1, 0, 25), ["word " * 100] * 25)
    assert len(repr(many).splitlines()) == 12 and repr(many).endswith("… and 15 more")
    assert max(map(len, repr(many).splitlines())) <= 60
    assert "\x1b" not in repr(Hits.of(["\x1b[31m"], [1.0], ["\x1b[2J\x07 gone\u2028?"]))


def test_in_a_notebook(hits):
    html = hits._repr_html_()
    assert "<b>" not in html and "&lt;b&gt;" in html and "what &amp; why?" in html
    assert "<th>dense</th><th>bm25</th>" in html and "1 (0.7123)" in html and "–" in html
    assert html.count("<tr>") == 3
    assert "and 15 more" in Hits.of(range(25), np.ones(25))._repr_html_()
