"""TREC's files: what was written is read back; what cannot be written or read is named."""

from __future__ import annotations

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import FormatError, InputError
from minibi.evaluate import evaluate, read_qrels, read_run, write_qrels, write_run

ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5).filter(
    lambda s: s.split() == [s] and s[0] != "\ufeff" and "\0" not in s
)
runs = st.dictionaries(
    ids, st.dictionaries(ids, st.floats(allow_nan=False), min_size=1, max_size=5), min_size=1, max_size=4
)


@given(runs, st.sampled_from(["run.txt", "run.txt.gz"]))
def test_a_run_survives(tmp_path_factory, run, name):
    path = tmp_path_factory.mktemp("runs") / name
    write_run(path, run, "some-tag")
    again = read_run(path)
    assert again == run and list(again) == list(run)
    qrels = {query: dict.fromkeys(list(hits)[:2], 1) for query, hits in run.items()}
    assert evaluate(qrels, again, ["map"]) == evaluate(qrels, run, ["map"])


@given(st.dictionaries(ids, st.dictionaries(ids, st.integers(-3, 9), min_size=1, max_size=5), min_size=1, max_size=4))
def test_judgements_survive(tmp_path_factory, qrels):
    path = tmp_path_factory.mktemp("qrels") / "qrels.txt"
    write_qrels(path, qrels)
    assert read_qrels(path) == qrels


def test_the_format(tmp_path):
    path = tmp_path / "run"
    write_run(path, {"q1": {"9": 0.1, "10": 0.1, "x": 2}, "none": {}, "q2": {"a": -1e-9}}, "me")
    assert path.read_text() == "q1 Q0 x 1 2.0 me\nq1 Q0 9 2 0.1 me\nq1 Q0 10 3 0.1 me\nq2 Q0 a 1 -1e-09 me\n"
    write_run(tmp_path / "a.gz", {"q": {"a": 1.0}})
    write_run(tmp_path / "b.gz", {"q": {"a": 1.0}})
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.gz").read_bytes()) == b"q Q0 a 1 1.0 minibi\n"


def test_ranks_and_order_in_the_file_are_ignored(tmp_path):
    (tmp_path / "run").write_text("q Q0 b 0 0.5 t\r\n\n  p\tQ0 a 1 1e3 t \nq 0 a 0 .75 other\n")
    run = read_run(tmp_path / "run")
    assert run == {"q": {"b": 0.5, "a": 0.75}, "p": {"a": 1000.0}}
    assert evaluate({"q": {"a": 1}}, run, ["mrr"]).mean["mrr"] == 1.0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no hit"),
        ("q Q0 a 1 0.5\n", "run:1: not the 6 columns"),
        ("q Q0 a 1 0.5 t\nq Q0 b c 1 0.5 t\n", "run:2: not the 6 columns"),
        ("q Q0 a 1 high t\n", "run:1: score 'high' must be a number"),
        ("q Q0 a 1 nan t\n", "score 'nan' must be a number"),
        ("q Q0 a 1 1_0 t\n", "score '1_0' must be a number"),
        ("q Q0 a 1 0.5 t\nq Q0 a 2 0.4 t\n", "run:2: query 'q' has document 'a' twice"),
    ],
)
def test_runs_that_cannot_be_read(tmp_path, text, says):
    (tmp_path / "run").write_text(text)
    with pytest.raises(FormatError, match=says):
        read_run(tmp_path / "run")
    with pytest.raises(InputError, match="cannot read"):
        read_run(tmp_path / "absent")


@pytest.mark.parametrize(
    ("run", "tag", "says"),
    [
        ({"q": {"a b": 1.0}}, "t", "document id 'a b' cannot stand"),
        ({"q": {"a\0": 1.0}}, "t", "without blanks or NUL"),
        ({"q": {"": 1.0}}, "t", "document id '' cannot"),
        ({"q\n": {"a": 1.0}}, "t", "query id"),
        ({"\ufeffq": {"a": 1.0}}, "t", "query id"),
        ({"q": {"a": 1.0}}, "my tag", "tag 'my tag'"),
        ({"q": {"\ud800": 1.0}}, "t", "half a surrogate"),
        ({"q": {"a": "high"}}, "t", "must be a number"),
    ],
)
def test_runs_that_cannot_be_written_leave_the_old_file(tmp_path, run, tag, says):
    path = tmp_path / "run"
    path.write_text("old")
    with pytest.raises(InputError, match=says):
        write_run(path, run, tag)
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(InputError, match="cannot stand"):
        write_qrels(path, {"q": {"a b": 1}})
