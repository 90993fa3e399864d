"""Searching: exact whatever is pruned, ties by id, filters, forms of a query, and many threads."""

from __future__ import annotations

import threading
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi import BM25
from minibi.errors import InputError


def zipf(documents: int, vocabulary: int, length: int, seed: int = 0):
    """Lists of terms as skewed as words are."""
    rng = np.random.default_rng(seed)
    p = 1 / (np.arange(1, vocabulary + 1) + 2.7) ** 1.07
    sizes = np.maximum(1, rng.lognormal(np.log(length), 0.5, documents).astype(int))
    tokens = [f"t{i}" for i in rng.choice(vocabulary, sizes.sum(), p=p / p.sum())]
    ends = np.cumsum(sizes)
    return [tokens[end - size : end] for end, size in zip(ends.tolist(), sizes.tolist(), strict=True)]


def plainly(index, queries, k, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIBI_KERNELS", "plain")
        return index.search(queries, k, **options)


def same(a, b):
    np.testing.assert_array_equal(a[1], b[1])
    np.testing.assert_array_equal(a[0], b[0])


@pytest.fixture(scope="module")
def large():
    """40,000 short documents: lines in the table, lists of all lengths."""
    index = BM25()
    index.add(zipf(40_000, 5_000, 8), np.random.default_rng(1).permutation(40_000))
    rng = np.random.default_rng(2)
    queries = [[f"t{int(i)}" for i in rng.zipf(1.25, rng.integers(1, 9)) if i < 6_000] for _ in range(120)]
    return index, queries


@pytest.mark.parametrize("k", [1, 10, 300, 50_000])
def test_pruned_is_exact(compiled, large, k):
    index, queries = large
    assert index._postings.lists.table.shape[1] > 128
    some = queries if k <= 10 else queries[:15]
    same(index.search(some, k), plainly(index, some, k))


@pytest.mark.parametrize("variant", ["robertson", "atire", "bm25l", "bm25+"])
@pytest.mark.parametrize("floor_for", ["all", "held"])
@pytest.mark.parametrize("documents", [20_000, 9_000])
def test_pruned_is_exact_for_every_variant(compiled, variant, floor_for, documents):
    """As is what is not pruned because it is small."""
    index = BM25(variant, floor_for=floor_for)
    index.add(zipf(documents, 400, 6, seed=3))
    rng = np.random.default_rng(4)
    queries = [[f"t{int(i)}" for i in rng.integers(0, 300, 4)] for _ in range(40)]
    same(index.search(queries, 10), plainly(index, queries, 10))


def test_pruned_is_exact_after_changes(compiled):
    """Bounds stay bounds when documents come and go and the average length moves."""
    docs = zipf(24_000, 500, 8, seed=5)
    index = BM25()
    index.add(docs[:21_000])
    rng = np.random.default_rng(6)
    queries = [[f"t{int(i)}" for i in rng.integers(0, 400, 5)] for _ in range(40)]
    for step in range(4):
        index.remove(rng.choice(index.ids, 900, replace=False))
        index.add([doc * (1 + step) for doc in docs[21_000 + 500 * step : 21_500 + 500 * step]])
        index.upsert([doc[:2] for doc in docs[:300]], rng.choice(index.ids, 300, replace=False))
        assert index.check() == []
        same(index.search(queries, 10), plainly(index, queries, 10))


@pytest.mark.parametrize("k", [1, 10, 64, 65, 700])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.002])
def test_all_of_a_small_collection(compiled, k, share):
    """Thresholds of groups of rows are right with and without a filter, for dead rows too."""
    rng = np.random.default_rng(8)
    index = BM25("bm25+")
    index.add(zipf(3_000, 300, 8, seed=7), rng.permutation(3_000))
    index.remove(rng.choice(3_000, 700, replace=False))
    queries = [[f"t{int(i)}" for i in rng.integers(0, 250, rng.integers(1, 7))] for _ in range(30)]
    chosen = None if share == 1 else rng.choice(3_000, int(3_000 * share), replace=False)
    same(index.search(queries, k, filter=chosen), plainly(index, queries, k, filter=chosen))


@pytest.mark.parametrize("k", [1, 10, 17, 300, 700])
@pytest.mark.parametrize("share", [1.0, 0.5, 0.002])
def test_codes_are_exact(compiled, k, share):
    """Frequent words in thousands of documents, some very often, so that counts share a code, and some very long."""
    rng = np.random.default_rng(10)
    docs = zipf(6_000, 300, 30, seed=11)
    for i in range(0, 6_000, 7):
        docs[i] = docs[i] + docs[i][:3] * int(rng.integers(1, 60))
    docs[5] = docs[5] * 300
    index = BM25()
    index.add(docs, rng.permutation(6_000))
    queries = [[f"t{int(i)}" for i in rng.integers(0, 60, rng.integers(1, 9))] for _ in range(30)]
    heavy = [{f"t{i}": float(10 ** rng.uniform(-6, 3)) for i in rng.integers(0, 60, 5).tolist()} for _ in range(9)]
    assert index._postings.lists.codes.shape[1] >= 6_000 and (index._postings.lists.lines >= 0).sum() > 30
    for _ in range(2):
        chosen = None if share == 1 else rng.choice(6_000, int(6_000 * share), replace=False)
        for asked in queries, heavy:
            same(index.search(asked, k, filter=chosen), plainly(index, asked, k, filter=chosen))
        assert index.check() == []
        index.remove(rng.choice(index.ids, 500, replace=False))
        index.add(docs[:900])


def test_windows(compiled):
    """More documents than are searched together."""
    rng = np.random.default_rng(12)
    ends = np.cumsum(rng.integers(1, 5, 300_000)).tolist()
    tokens = [f"t{i}" for i in np.minimum(rng.zipf(1.3, ends[-1]), 3_000)]
    index = BM25()
    index.add([tokens[a:b] for a, b in pairwise([0, *ends])])
    queries = [[f"t{int(i)}" for i in rng.integers(1, 200, 3)] for _ in range(10)] + [["t1", "t2"], ["t1", "t2999"]]
    for k in 10, 3_000:
        same(index.search(queries, k), plainly(index, queries, k))


def test_the_first_search_after_a_change_is_as_good_as_any():
    """Whenever and in whatever order lists were brought up to date, scores are those of today."""
    docs = zipf(400, 60, 8, seed=9)
    index, fresh = BM25(), BM25()
    index.add(docs[:300])
    for step in range(20):
        index.search([[f"t{3 * step % 40}", "t1"]], 3)
        index.add(docs[300 + 5 * step : 305 + 5 * step])
    assert index.check() == []
    fresh.add(docs)
    queries = [[f"t{i}", f"t{i + 1}"] for i in range(40)]
    same(index.search(queries, 10), fresh.search(queries, 10))
    assert index.check() == []


DOCS = st.lists(st.lists(st.sampled_from("abcdef"), max_size=6), max_size=20)


@settings(max_examples=60)
@given(DOCS, st.lists(st.lists(st.sampled_from("abcdefg"), max_size=8), max_size=4), st.integers(1, 25), st.data())
def test_small_ones_with_many_ties(docs, queries, k, data):
    index = BM25(k1=data.draw(st.sampled_from([0.0, 1.5])))
    index.add(docs, data.draw(st.permutations(range(len(docs)))))
    chosen = data.draw(st.none() | st.lists(st.integers(0, 25), max_size=15))
    found = index.search(queries, k, filter=chosen)
    same(found, plainly(index, queries, k, filter=chosen))
    every = index.search(queries, max(1, len(docs)))
    for scores, rows, all_scores, all_rows in zip(*found, *every, strict=True):
        pairs = zip(all_scores.tolist(), all_rows.tolist(), strict=True)
        expected = [(s, i) for s, i in pairs if i >= 0 and (chosen is None or i in chosen)][:k]
        assert list(zip(scores.tolist(), rows.tolist(), strict=True))[: len(expected)] == expected
        assert (rows[len(expected) :] == -1).all()


def test_forms_of_a_query():
    index = BM25()
    index.add(["The cat sat.", "Dogs and cats, dogs!", "birds", ""])
    one = index.search("cats dogs", 2)
    assert one[0].shape == (1, 2) and one[1].tolist() == [[1, 0]]
    same(one, index.search(["cats dogs"], 2))
    same(one, index.search([["cat", "dog"]], 2))
    same(one, index.search({"cat": 1, "dog": 1.0}, 2))
    same(index.search("cats cats dogs", 2), index.search([{"dog": 1, "cat": 2}], 2))
    assert index.search([], 2)[0].shape == (0, 2)
    assert index.search(["nothing", "", "the"], 1)[1].tolist() == [[-1], [-1], [-1]]
    assert np.isneginf(index.search("nothing", 1)[0]).all()
    assert index.search({"cat": 0.0, "dog": 1}, 3)[1].tolist() == [[1, -1, -1]]
    assert BM25().search("cats", 3)[1].tolist() == [[-1, -1, -1]]
    assert index.search("cat " * 5_000 + "dog", 1)[1].tolist() == index.search({"cat": 5_000, "dog": 1}, 1)[1].tolist()


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        (3, {}, "one query or a list"),
        ([3], {}, "query number 0 is int"),
        (["a", ["b"]], {}, "strings only"),
        ([["a", 3]], {}, "not a string"),
        ([{"a": 1}, "b"], {}, "all of one kind"),
        ({"a": -1}, {}, "weight"),
        ({"a": float("nan")}, {}, "weight"),
        ({"a": True}, {}, "weight"),
        ("a", {"k": 0}, "k must be"),
        ("a", {"k": True}, "k must be"),
        ("a", {"filter": [0.5]}, "filter must be whole"),
        ("a", {"filter": [-1]}, "not -1"),
    ],
)
def test_what_cannot_be_searched(queries, options, message):
    index = BM25()
    index.add(["a b"])
    with pytest.raises(InputError, match=message):
        index.search(queries, **options)


def test_explanations_add_up(large):
    index, queries = large
    scores, ids = index.search(queries[:20], 3)
    for query, row, values in zip(queries, ids, scores, strict=False):
        for id, score in zip(row.tolist(), values.tolist(), strict=True):
            if id >= 0:
                explained = index.explain([query], id)
                assert explained.score == score
                assert sum(t.score for t in explained.terms) == pytest.approx(score, rel=1e-5)
                assert {t.term for t in explained.terms} <= set(query) and str(explained).count("\n")


def test_any_number_of_threads(large, monkeypatch):
    index, queries = large
    monkeypatch.setenv("MINIBI_NUM_THREADS", "1")
    one = index.search(queries, 10)
    monkeypatch.setenv("MINIBI_NUM_THREADS", "3")
    same(one, index.search(queries, 10))


def test_a_search_sees_one_state_or_another():
    """While one thread adds, replaces and removes, every answer of the others is that of some moment between two."""
    index, done = BM25(), threading.Event()
    index.add([["a"], ["a", "b"], ["b", "b", "c"]])

    def answer():
        scores, ids = index.search([["a", "b"], ["c"]], 50)
        return scores.tobytes() + ids.tobytes()

    seen: list[bytes] = []
    states = {answer()}

    def read():
        while not done.is_set():
            seen.append(answer())

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for step in range(60):
            if step % 3 == 0:
                index.add([["a", f"x{step}"], ["c", "b"]], [100 + step, 200 + step])
            elif step % 3 == 1:
                index.upsert([["b", "a", "a"], ["c"] * 9], [1, 300 + step])
            else:
                index.remove([100 + step - 2, 200 + step - 2])
            states.add(answer())
    finally:
        done.set()
        for reader in readers:
            reader.join()
    assert seen and set(seen) <= states
