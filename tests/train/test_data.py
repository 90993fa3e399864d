"""Training data: what is read, what is refused and by which line; held-out parts; batches without duplicate texts."""

from __future__ import annotations

import gzip
import json
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import FormatError, InputError
from minibi.hashing import mixed
from minibi.train.data import Batches, Example, held_out, read_examples, shuffled, with_negatives


def write(path, *rows) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


FORMS = {
    "pair": ({"query": "q", "positive": "p", "source": "x"}, [Example("q", ("p",))]),
    "aliases": ({"question": "q", "answer": "p"}, [Example("q", ("p",))]),
    "triplet": ({"anchor": "q", "positive": "p", "negative": "n"}, [Example("q", ("p", "n"))]),
    "numbered": (
        {"query": "q", "positive": "p", "negative_10": "c", "negative_2": "b", "negative_1": "a"},
        [Example("q", ("p", "a", "b", "c"))],
    ),
    "several": (
        {"query": "q", "positives": ["p", "o"], "negatives": ["n"]},
        [Example("q", ("p", "n")), Example("q", ("o", "n"))],
    ),
    "both": ({"query": "q", "positives": ["p", "p"], "negatives": ["n", "p"]}, [Example("q", ("p", "n"))]),
    "teacher": (
        {"query": "q", "positive": "p", "negatives": ["n", "m"], "scores": [3, 1.5, -2]},
        [Example("q", ("p", "n", "m"), (3.0, 1.5, -2.0))],
    ),
    "list": ({"query": "q", "documents": ["a", "b"], "labels": [1, 0]}, [Example("q", ("a", "b"), (1.0, 0.0))]),
    "scored pair": ({"a": "q", "b": "d", "score": 2.5}, [Example("q", ("d",), (2.5,))]),
    "label": ({"sentence1": "q", "sentence2": "d", "label": 0}, [Example("q", ("d",), (0.0,))]),
    "null is absent": ({"query": "q", "positive": "p", "negative": None}, [Example("q", ("p",))]),
    "surrogate": ('{"query": "q\\ud800", "positive": "ü"}', [Example("q\ufffd", ("ü",))]),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("packed", [False, True])
def test_the_forms_of_a_line(name, packed, tmp_path):
    row, expected = FORMS[name]
    path = write(tmp_path / "data.jsonl", "\ufeff", row, "", row)
    if packed:
        (tmp_path / "data.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
        path = tmp_path / "data.jsonl.gz"
    assert read_examples(path) == expected * 2


def test_columns_and_score_range(tmp_path):
    path = write(
        tmp_path / "x.jsonl",
        {"sentence": "s", "negation": "n", "label": 4},
        {"sentence": "t", "negation": "m", "label": 1},
    )
    columns = {"query": "sentence", "document": "negation"}
    assert [e.scores for e in read_examples(path, columns=columns, score_range=(0, 5))] == [(0.8,), (0.2,)]
    with pytest.raises(InputError, match="unknown role 'querry'"):
        read_examples(path, columns={"querry": "sentence"})
    with pytest.raises(InputError, match="two rising numbers"):
        read_examples(path, columns=columns, score_range=(5, 0))
    with pytest.raises(FormatError, match=r"x\.jsonl:1: score 4 lies outside"):
        read_examples(path, columns=columns, score_range=(0, 3))


BAD = {
    "not json": ("{", "not valid JSON"),
    "a list": ([1], "not a JSON object but list"),
    "no query": ({"positive": "p"}, "no query: expected 'query' or 'anchor'"),
    "nothing else": ({"query": "q", "text": "p"}, "no positive, .* it has 'query', 'text'"),
    "a number": ({"query": 7, "positive": "p"}, "'query' must be a text, not int"),
    "blank": ({"query": "q", "positive": " \n"}, "'positive' is empty"),
    "no list": ({"query": "q", "positives": "p"}, "'positives' must be a list"),
    "no positives": ({"query": "q", "positives": []}, "'positives' is empty"),
    "inner": ({"query": "q", "positive": "p", "negatives": ["n", None]}, r"'negatives\[1\]' must be a text"),
    "too few": ({"query": "q", "documents": ["a", "b"], "scores": [1]}, "'scores' must hold 2 numbers, .* not 1"),
    "no scores": ({"query": "q", "documents": ["a", "b"]}, "needs documents and 'scores'"),
    "word": ({"query": "q", "document": "a", "score": "1"}, "finite numbers, not '1'"),
    "nan": ('{"query": "q", "document": "a", "score": NaN}', "finite numbers, not nan"),
    "true": ({"query": "q", "document": "a", "score": True}, "finite numbers, not True"),
    "many": ({"query": "q", "positives": ["a", "b"], "scores": [1, 2]}, "beside 'positives'"),
    "mixed": ({"query": "q", "document": "a", "score": 1}, "has scores, but line 1 has none"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named(name, tmp_path):
    row, message = BAD[name]
    path = write(tmp_path / "data.jsonl", {"query": "q", "positive": "p"}, "", row)
    with pytest.raises(FormatError, match=rf"data\.jsonl:3: .*{message}"):
        read_examples(path)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_examples(tmp_path / "none.jsonl")
    with pytest.raises(FormatError, match="holds no example"):
        read_examples(write(tmp_path / "empty.jsonl", ""))
    bad = tmp_path / "latin.jsonl"
    bad.write_bytes(b'{"query": "q", "positive": "p"}\n{"query": "\xfc", "positive": "p"}\n')
    with pytest.raises(FormatError, match=r"latin\.jsonl:2: byte .* is not UTF-8"):
        read_examples(bad)
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b'{"query": "q", "positive": "p"}\n' * 99)[:-12])
    with pytest.raises(FormatError, match="not a whole gzip file"):
        read_examples(cut)


def test_with_negatives():
    examples = [Example("a", ("p", "n", "m")), Example("b", ("p",)), Example("c", ("p", "n"))]
    assert with_negatives(examples, 1) == [Example("a", ("p", "n")), Example("c", ("p", "n"))]
    assert [len(with_negatives(examples, n)) for n in (0, 2, 3)] == [3, 1, 0]
    with pytest.raises(InputError, match="without scores"):
        with_negatives([Example("a", ("p",), (1.0,))], 0)


some_examples = st.lists(
    st.builds(
        lambda q, p, n: Example(f"q{q}", (f"p{p}", *(f"n{i}" for i in n))),
        st.integers(0, 15),
        st.integers(0, 15),
        st.lists(st.integers(0, 30), max_size=2, unique=True),
    ),
    min_size=1,
    max_size=40,
)


@given(examples=some_examples, share=st.floats(0, 0.9), seed=st.integers(-5, 2**70))
def test_held_out_shares_no_query_and_no_positive(examples, share, seed):
    train, held = held_out(examples, share, seed)
    assert sorted(map(repr, train + held)) == sorted(map(repr, examples))
    for side in (lambda e: e.query, lambda e: e.documents[0]):
        assert not {side(e) for e in train} & {side(e) for e in held}
    again, _ = held_out(examples[::-1], share, seed)
    assert again == train[::-1]


def test_held_out_has_about_its_share():
    examples = [Example(f"q{i}", (f"p{i // 3}",)) for i in range(6000)]
    assert 500 < len(held_out(examples, 0.1)[1]) < 700
    assert held_out(examples, 0.0)[1] == []
    assert held_out(examples, 0.1, 1)[1] != held_out(examples, 0.1, 2)[1]
    with pytest.raises(InputError, match="below 1"):
        held_out(examples, 1.0)


def test_the_shuffle_is_frozen_and_fair():
    assert shuffled(10, 0, 0).tolist() == [8, 5, 0, 3, 1, 2, 9, 6, 7, 4]
    assert (
        mixed(np.array([0x9E3779B97F4A7C15], np.uint64)) == 0xE220A8397B1DCDAF
    )  # the first number of splitmix64 from state 0
    assert sorted(shuffled(1000, 3, 4)) == list(range(1000))
    places = np.array([shuffled(20, seed, epoch) for seed in range(40) for epoch in range(25)])
    counts = np.apply_along_axis(np.bincount, 0, places, minlength=20)  # number x place, 50 each expected
    assert np.square(counts - 50).sum() / 50 < 361 + 6 * np.sqrt(2 * 361)  # chi squared, 19 x 19 degrees of freedom
    assert len({tuple(row) for row in places}) == len(places)


@given(
    examples=some_examples, size=st.integers(2, 8), seed=st.integers(0, 99), drop_last=st.booleans(),
    least=st.integers(1, 2),
)  # fmt: skip
def test_batches_hold_each_example_once_and_no_text_twice(examples, size, seed, drop_last, least):
    batches = Batches(examples, size, seed=seed, drop_last=drop_last, least=least)
    plan = batches.plan(3)
    used = [i for batch in plan for i in batch]
    assert len(used) == len(set(used))
    everything = Batches(examples, size, seed=seed).plan(3)
    assert plan == [batch for batch in everything if len(batch) >= (size if drop_last else least)]
    assert sorted(i for batch in everything for i in batch) == list(range(len(examples)))
    assert all(len(batch) <= size for batch in plan)
    assert not drop_last or all(len(batch) == size for batch in plan)
    for batch in plan:
        texts = [t for i in batch for t in set(examples[i].texts)]
        assert len(texts) == len(set(texts))


@given(examples=some_examples, size=st.integers(1, 8), stop=st.integers(0, 60))
def test_resumed_equals_uninterrupted(examples, size, stop):
    whole = list(islice(Batches(examples, size, seed=5), stop + 20))
    first = Batches(examples, size, seed=5)
    begun = list(islice(first, stop))
    second = Batches(examples, size, seed=77)
    second.state = json.loads(json.dumps(first.state))
    assert begun + list(islice(second, 20)) == whole


def test_full_batches_where_texts_differ():
    examples = [Example(f"q{i}", (f"p{i}",)) for i in range(1003)]
    assert sorted(map(len, Batches(examples, 32).plan(0))) == [1003 - 31 * 32, *[32] * 31]
    assert Batches(examples, 32, drop_last=True).count() == 31
    few = [Example(f"q{i}", ("same" if i % 50 == 0 else f"p{i}",)) for i in range(1000)]
    assert len(Batches(few, 32).plan(0)) <= 33  # twenty that clash find room in the others' batches


def test_many_duplicates_take_no_quadratic_time():
    examples = [Example("the same", (f"p{i}",)) for i in range(20_000)]
    assert Batches(examples, 32).count() == 20_000


def test_batches_refuse():
    pair = [Example("q", ("p",))]
    for size in (0, 1.5, True, "8"):
        with pytest.raises(InputError, match="batch_size"):
            Batches(pair, size)
    with pytest.raises(InputError, match="no examples"):
        Batches([], 4)
    with pytest.raises(InputError, match="lower batch_size"):
        next(iter(Batches(pair * 4, 2, drop_last=True)))
