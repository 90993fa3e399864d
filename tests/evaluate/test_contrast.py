"""Contrast sets: accuracy by hand and by chance, the files they come in, and templates that flip the answer."""

from __future__ import annotations

import gzip
import json
import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import FormatError, InputError
from minibi.evaluate.contrast import (
    Contrast,
    bi_encoder_scorer,
    contrast_accuracy,
    cross_encoder_scorer,
    read_condaqa,
    read_nevir,
)
from minibi.evaluate.quantifiers import KINDS, generate

ONE = Contrast(("q",), ("yes", "no"), "one")
TWO = Contrast(("q1", "q2"), ("p1", "p2"), "two")


def by_table(values):
    return lambda questions, passages: [values[q + p] for q, p in zip(questions, passages, strict=True)]


# --- accuracy ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("contrast", "scores", "value"),
    [
        (ONE, {"qyes": 2, "qno": 1}, 1.0),
        (ONE, {"qyes": 1, "qno": 2}, 0.0),
        (ONE, {"qyes": 1, "qno": 1}, 0.5),
        (TWO, {"q1p1": 2, "q1p2": 1, "q2p1": 1, "q2p2": 2}, 1.0),
        (TWO, {"q1p1": 2, "q1p2": 1, "q2p1": 2, "q2p2": 1}, 0.0),  # one passage is always preferred
        (TWO, {"q1p1": 2, "q1p2": 1, "q2p1": 1, "q2p2": 1}, 0.5),
        (TWO, {"q1p1": 1, "q1p2": 1, "q2p1": 1, "q2p2": 1}, 0.25),
    ],
)
def test_one_contrast(contrast, scores, value):
    found = contrast_accuracy([contrast], by_table(scores))
    assert found.accuracy == value and found.values.tolist() == [value]
    assert found.ties == (value not in (0.0, 1.0)) and found.count == 1
    assert found.chance == 0.5 ** len(contrast.questions)
    assert 0 <= found.low <= value <= found.high <= 1


def test_kinds_and_calls():
    asked = []

    def score(questions, passages):
        asked.append(list(zip(questions, passages, strict=True)))
        return np.arange(len(questions), 0, -1)

    found = contrast_accuracy([ONE, TWO, ONE], score)
    assert len(asked) == 1 and len(asked[0]) == len(set(asked[0])) == 6, "all at once, each pair once"
    assert found.by_kind == {"one": (1.0, 2), "two": (0.0, 1)}
    assert found.chance == pytest.approx(1.25 / 3)
    assert str(found).startswith("0.667 (")


def test_guessing_earns_chance_and_the_interval_holds_it():
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(200):
        contrasts = [Contrast((f"q{i}",), ("a", "b")) for i in range(60)]
        found = contrast_accuracy(contrasts, lambda q, p: rng.random(len(q)), confidence=0.9)
        inside += found.low <= 0.5 <= found.high
    assert inside / 200 == pytest.approx(0.9, abs=0.06)


def test_contrasts_about_one_text_are_not_independent():
    """Thirty texts with ten contrasts each, all of a text right or all wrong: no more evidence than thirty."""
    rng = np.random.default_rng(1)
    right = rng.random(30) < 0.5
    contrasts = [Contrast((f"{i} {j}",), ("a", "b"), cluster=str(i)) for i in range(30) for j in range(10)]
    table = {f"{i} {j}{p}": float(right[i] == (p == "a")) for i in range(30) for j in range(10) for p in "ab"}
    found = contrast_accuracy(contrasts, by_table(table))
    singles = contrast_accuracy([Contrast((f"{i} 0",), ("a", "b")) for i in range(30)], by_table(table))
    assert found.accuracy == singles.accuracy
    assert found.high - found.low == pytest.approx(singles.high - singles.low, rel=0.05)
    apart = contrast_accuracy([Contrast(c.questions, c.passages) for c in contrasts], by_table(table))
    assert apart.high - apart.low < 0.4 * (found.high - found.low)


def test_wilsons_interval():
    """81 of 263: 0.255 to 0.366 (Newcombe, Statistics in Medicine 1998, method 3)."""
    contrasts = [Contrast((str(i),), ("a", "b")) for i in range(263)]
    found = contrast_accuracy(
        contrasts, lambda q, p: [float((int(t) < 81) == (x == "a")) for t, x in zip(q, p, strict=True)]
    )
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=1e-3)
    sure = contrast_accuracy(contrasts[:10], lambda q, p: [float(x == "a") for x in p])
    assert sure.high == 1.0 and sure.low == pytest.approx(0.7225, abs=1e-3)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: contrast_accuracy([], lambda q, p: []), "no contrasts"),
        (lambda: contrast_accuracy([ONE], lambda q, p: [1.0]), "2 scores, one for each pair"),
        (lambda: contrast_accuracy([ONE], lambda q, p: [[1.0, 2.0]]), "2 scores, one for each pair"),
        (lambda: contrast_accuracy([ONE], lambda q, p: [1.0, np.nan]), "NaN for the question 'q'"),
        (lambda: contrast_accuracy([ONE], lambda q, p: [1, 2], confidence=95), "between 0 and 1"),
        (lambda: generate(0), "count must be"),
        (lambda: generate(10, kinds=["nor"]), "kinds must be some of"),
        (lambda: generate(10, kinds=[]), "kinds must be some of"),
        (lambda: generate(2000, kinds=["from / to"]), "cannot make 2000"),
    ],
)
def test_complaints(call, says):
    with pytest.raises(InputError, match=says):
        call()


# --- scorers ----------------------------------------------------------------------------------------------------------


def test_a_bi_encoder_scores(tiny, tiny_texts):
    q, p = [*tiny_texts[:3], tiny_texts[0]], [*tiny_texts[3:6], tiny_texts[0]]
    scores = bi_encoder_scorer(tiny, truncation="silent")(q, p)
    a, b = (tiny.encode(x, normalize_embeddings=True, truncation="silent") for x in (q, p))
    assert scores == pytest.approx((a * b).sum(1), abs=1e-6) and scores[3] == pytest.approx(1)


def test_a_cross_encoder_scores(cross):
    scores = cross_encoder_scorer(cross)(["is it?", "was it?"], ["it is", "it was"])
    assert scores.tolist() == cross.predict([("is it?", "it is"), ("was it?", "it was")]).tolist()


# --- files ------------------------------------------------------------------------------------------------------------


def condaqa(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(label, edit, passage, question="Is it?", group="7-q1"):
    return {"question": question, "passage": passage, "label": label, "edit_id": edit, "group": group}


def test_condaqa(tmp_path):
    path = condaqa(
        tmp_path / "x.jsonl",
        [
            row("YES", 0, "it is"),
            row("NO", 2, "it is not"),
            row("no ", 3, "it never was"),
            row("DON'T KNOW", 1, "who knows"),
            row("NO", 1, "elsewhere", group="7-q2"),
            row("YES", 1, "same text", group="8-q1"),
            row("NO", 1, "same text", group="8-q1"),
        ],
    )
    assert read_condaqa(path) == [
        Contrast(("Is it?",), ("it is", "it is not"), "original / scope", "7"),
        Contrast(("Is it?",), ("it is", "it never was"), "original / affirmative", "7"),
    ]


def test_condaqa_as_published(tmp_path):
    shared = {"sentence2": "Is it?", "PassageID": 7, "QuestionID": "q1", "original cue": "not"}
    rows = [
        {**shared, "sentence1": "it is", "label": "YES", "PassageEditID": 3},
        {**shared, "sentence1": "it is not", "label": "NO", "PassageEditID": 0},
    ]
    found = read_condaqa(condaqa(tmp_path / "x.jsonl", rows))
    assert found == [Contrast(("Is it?",), ("it is", "it is not"), "affirmative / original", "7")]


def test_nevir(tmp_path):
    expected = [Contrast(("who did?", "who did not?"), ("Ann did.", 'Ann did "not".'), "negation", "5-1")]
    record = {"id": "5-1", "q1": "who did?", "q2": "who did not?", "doc1": "Ann did.", "doc2": 'Ann did "not".'}
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(json.dumps(record).encode()))
    (tmp_path / "a.csv").write_text('id,q1,q2,doc1,doc2\n5-1,who did?,who did not?,Ann did.,"Ann did ""not""."\n')
    (tmp_path / "a.tsv").write_text(
        'id\tq1\tq2\tdoc1\tdoc2\n5-1\twho did?\twho did not?\tAnn did.\t"Ann did ""not""."\n'
    )
    for name in ("a.jsonl.gz", "a.csv", "a.tsv"):
        assert read_nevir(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("read", "name", "text", "says"),
    [
        (read_condaqa, "x.jsonl", "", "holds no question"),
        (read_condaqa, "x.jsonl", json.dumps(row("YES", 0, "p")), "holds no question"),
        (read_condaqa, "x.jsonl", json.dumps(row("YES", 4, "p")), "the edit must be"),
        (read_condaqa, "x.jsonl", json.dumps(row("YES", 0, "")), "1: passage must be a string"),
        (read_condaqa, "x.jsonl", json.dumps(row(True, 0, "p")), "label must be a string"),
        (read_condaqa, "x.jsonl", "[1]", "not a JSON object"),
        (read_nevir, "x.jsonl", "", "holds no contrast"),
        (read_nevir, "x.jsonl", '{"q1": "a", "q2": "b", "doc1": "c"}', "the columns q1, q2, doc1 and doc2"),
        (read_nevir, "x.csv", "q1,q2,doc1,doc2\na,b,c\n", "row 1: expected texts"),
        (read_nevir, "x.csv", "q1,q2,doc1,doc2\na,b,c,c\n", "doc1 and doc2 are the same"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, read, name, text, says):
    (tmp_path / name).write_text(text)
    with pytest.raises(FormatError, match=says):
        read(tmp_path / name)


# --- templates --------------------------------------------------------------------------------------------------------


def test_the_same_seed_makes_the_same_contrasts():
    assert generate(50, seed=1) == generate(50, seed=1) != generate(50, seed=2)
    assert generate(30, seed=1) == generate(50, seed=1)[:30]
    found = generate(1000)
    assert len({c.questions for c in found}) == 1000
    assert {c.kind for c in found} == set(KINDS) and len(KINDS) == 10
    assert [c.kind for c in generate(4, kinds=["not", "numbers"])] == ["not", "numbers"] * 2


@given(st.integers(0, 10_000), st.sampled_from(sorted(KINDS)), st.booleans())
def test_a_contrast_differs_in_few_words(seed, kind, context):
    (c,) = generate(1, seed, [kind], context)
    for pair in (c.questions, c.passages):
        a, b = (re.findall(r"\w+", text) for text in pair)
        assert a != b
        if sorted(a) == sorted(b):
            assert kind in ("from / to", "who / whom")
        else:
            assert len(set(a) ^ set(b)) <= 3 and abs(len(a) - len(b)) <= 1
    text = " ".join((*c.questions, *c.passages))
    assert "{" not in text and "  " not in text
    assert all(p[0].isupper() and p.endswith(".") for p in c.passages) and all(q.endswith("?") for q in c.questions)


def test_the_right_passage_answers_each_question():
    """A reader who knows the words that matter pairs all of them rightly."""
    forms = {"rise": "rose", "fall": "fell", "hire": "hired", "teach": "taught", "sue": "sued"}

    def score(questions, passages):
        out = []
        for q, p in zip(questions, passages, strict=True):
            words = [forms.get(w.lower(), w.lower()) for w in re.findall(r"\w+", q)]
            said = [w.lower() for w in re.findall(r"\w+", p)]
            pairs = len(set(pairwise(said)) & set(pairwise(words)))
            out.append(pairs + sum(w in said for w in words) - 3 * ("not" in said) * ("not" not in words))
        return out

    found = contrast_accuracy(generate(500), score)
    assert found.accuracy > 0.99, found.by_kind
