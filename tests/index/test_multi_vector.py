"""Multi-vector index: scores by the definition, the same answers after any history, exact when everything is probed."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi import MultiVectorIndex
from minibi.errors import InputError
from minibi.index import multi_vector, multi_vector_search
from minibi.ragged import Ragged, maxsim, pack_rows
from minibi.shapes import unit_rows

DIM = 12
ALL = {"nprobe": 10**6, "depth": 10**6}
WAYS = {
    "float32": {"storage": "float32"},
    "float16": {"storage": "float16"},
    "int8": {"storage": "int8"},
    "1 bit": {"storage": "residual", "nbits": 1, "n_centroids": 8},
    "2 bits": {"storage": "residual", "nbits": 2, "n_centroids": 8},
    "4 bits": {"storage": "residual", "nbits": 4, "n_centroids": 8},
}


def texts(n, seed=0, longest=9, dim=DIM):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, dim)).astype(np.float32) for length in rng.integers(0, longest + 1, n)]


def questions(n=3, seed=1, dim=DIM):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(length, dim)).astype(np.float32) for length in rng.integers(1, 20, n)]


@pytest.fixture(params=WAYS)
def way(request):
    return WAYS[request.param]


@pytest.fixture(params=["cosine", "ip"])
def metric(request):
    return request.param


def expected_search(index, queries, k):
    """Every document scored in NumPy on what the index says it holds; empty ones left out."""
    ids, stored = index.ids, index.reconstruct(index.ids)
    scores, found = np.full((len(queries), k), -np.inf), np.full((len(queries), k), -1)
    for i, query in enumerate(queries):
        query = unit_rows(query) if index.metric == "cosine" else query
        all_scores = maxsim(query, stored)
        order = [j for j in np.lexsort((ids, -all_scores)) if np.isfinite(all_scores[j])][:k]
        scores[i, : len(order)], found[i, : len(order)] = all_scores[order], ids[order]
    return scores, found


def test_search_by_the_definition(way, metric):
    index = MultiVectorIndex(DIM, metric, **way)
    documents, queries = texts(60), questions()
    assert (index.add(documents) == np.arange(60)).all()
    scores, ids = index.search(queries, 7, **ALL)
    expected, found = expected_search(index, queries, 7)
    rough = 0.15 if way["storage"] == "int8" else 1e-3  # there the query is rounded, too
    assert scores.dtype == np.float32 and ids.dtype == np.int64
    assert scores == pytest.approx(expected, abs=rough * (1 if metric == "cosine" else 10))
    if way["storage"] != "int8":
        assert (ids == found).all()
    assert index.check() == []


def test_stored_is_what_was_given(way, metric):
    index = MultiVectorIndex(DIM, metric, **way)
    documents = texts(40)
    index.add(documents, np.arange(40) * 7 - 100)
    given = np.concatenate(documents)
    given = unit_rows(given) if metric == "cosine" else given
    held = index.reconstruct(np.arange(40) * 7 - 100)
    near = {"float32": 1e-6, "float16": 2e-3, "int8": 0.02}.get(way["storage"])
    assert held.starts.tolist() == np.cumsum([0, *map(len, documents)]).tolist()
    if near:
        assert held.vectors == pytest.approx(given, abs=near)
    else:
        cosines = (unit_rows(held.vectors) * unit_rows(given)).sum(axis=1)
        assert cosines.mean() > {1: 0.75, 2: 0.9, 4: 0.98}[way["nbits"]]


def test_scores_to_rerank(way):
    index = MultiVectorIndex(DIM, **way)
    index.add(texts(30), np.arange(30) + 5)
    queries = questions()
    scores, ids = index.search(queries, 30, **ALL)
    again = index.score(queries, ids[:, :4])
    assert (again == scores[:, :4]).all()
    everything = index.score(queries, np.arange(30) + 5)
    empty = np.flatnonzero([len(t) == 0 for t in texts(30)])
    assert (
        len(empty)
        and (everything[:, empty] == -np.inf).all()
        and np.isfinite(everything).sum() == 3 * (30 - len(empty))
    )
    assert not np.isin(ids, empty + 5).any()
    with pytest.raises(InputError, match="id 3 "):
        index.score(queries, [5, 3])


@pytest.mark.parametrize("storage", ["float32", "residual"])
def test_kernels_and_twins_agree(storage, monkeypatch):
    documents, queries = texts(50), questions(5)
    found = []
    codec = None
    for kind in ("plain", "compiled"):
        monkeypatch.setenv("MINIBI_KERNELS", kind)
        index = MultiVectorIndex(DIM, storage=storage, codec=codec, n_centroids=None if codec else 8)
        index.add(documents)
        codec = index.codec
        found.append(index.search(queries, 50, nprobe=2, depth=9))
    (a, i), (b, j) = found
    assert a == pytest.approx(b, abs=1e-4) and (i == j).all()


ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(["add", "upsert", "remove"]),
        st.lists(st.integers(-3, 12).filter(lambda i: i != -1), unique=True, max_size=6),
        st.integers(0, 10**6),
    ),
    max_size=12,
)


@settings(max_examples=60)
@given(ACTIONS, st.sampled_from(["float32", "int8", "residual"]), st.sampled_from([1, 2, 10**6]))
def test_any_history_equals_a_rebuild(actions, storage, nprobe):
    """With lists rebuilt at once, and arrays laid anew, as often as can be."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(multi_vector, "TAIL", 6)
        patch.setattr(multi_vector_search, "TOKENS_PER_JOB", 10)
        first = MultiVectorIndex(DIM, storage=storage, n_centroids=6 if storage == "residual" else None)
        if storage == "residual":
            first.train(texts(30, seed=9))
        codec = first.codec
        index, truth = first, {}
        queries = questions(2)
        for action, ids, seed in actions:
            documents = dict(zip(ids, texts(len(ids), seed, longest=4), strict=True))
            if action == "remove":
                assert index.remove(ids) == sum(truth.pop(i, None) is not None for i in ids)
            elif action == "add" and any(i in truth for i in ids):
                before = index.search(queries, 5, nprobe=nprobe, depth=5)
                with pytest.raises(InputError):
                    index.add(list(documents.values()), ids)
                assert (index.search(queries, 5, nprobe=nprobe, depth=5)[1] == before[1]).all()
            else:
                getattr(index, action)(list(documents.values()), ids)
                for i in ids:
                    truth.pop(i, None)
                truth |= documents
            index.search(queries, 3)
        rebuilt = MultiVectorIndex(DIM, storage=storage, codec=codec)
        rebuilt.add(list(truth.values()), list(truth))
        assert index.check() == [] == rebuilt.check()
        assert len(index) == len(rebuilt) == len(truth) and (index.ids == rebuilt.ids).all()
        for options in ({"nprobe": nprobe, "depth": 4}, {"nprobe": nprobe, "depth": 100}, ALL):
            mine, theirs = (one.search(queries, 4, **options) for one in (index, rebuilt))
            assert mine[0].tobytes() == theirs[0].tobytes() and (mine[1] == theirs[1]).all()
        assert index.stats()["tokens"] == rebuilt.stats()["tokens"] == sum(map(len, truth.values()))


def test_probing_finds_nearly_all():
    rng = np.random.default_rng(0)
    topics = rng.normal(size=(40, 32)) * 1.5
    documents = [topics[rng.integers(0, 40, 12)] + rng.normal(size=(12, 32)) for _ in range(800)]
    index = MultiVectorIndex(32, storage="residual", nbits=4)
    index.add([d.astype(np.float32) for d in documents])
    queries = [documents[i][::2] + 0.3 * rng.normal(size=(6, 32)) for i in range(40)]
    exact, probed = index.search(queries, 10, **ALL)[1], index.search(queries, 10, nprobe=12, depth=200)[1]
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(exact.tolist(), probed.tolist(), strict=True)])
    assert recall > 0.9
    assert (exact[:, 0] == np.arange(40)).all()


def test_as_many_as_there_are():
    """However few centroids are probed, k documents are found where there are k."""
    index = MultiVectorIndex(DIM, storage="residual", n_centroids=16)
    index.add(texts(40))
    full = sum(len(t) > 0 for t in texts(40))
    scores, ids = index.search(questions(2), 50, nprobe=1, depth=1)
    assert ((ids >= 0).sum(axis=1) == full).all() and (scores[:, full:] == -np.inf).all()


def test_filter(way):
    index = MultiVectorIndex(DIM, **way)
    index.add(texts(60), np.arange(60) * 2)
    wanted = [0, 8, 20, 21, 40, 118]
    everything = index.search(questions(), 60, **ALL)
    for filter in (wanted, set(wanted), np.array(wanted), lambda ids: np.isin(ids, wanted)):
        scores, ids = index.search(questions(), 6, filter=filter, nprobe=1)
        for row in range(3):
            kept = np.isin(everything[1][row], wanted)
            assert ids[row][: kept.sum()].tolist() == everything[1][row][kept].tolist()
            assert (ids[row][kept.sum() :] == -1).all()
            assert (scores[row][: kept.sum()] == everything[0][row][kept]).all()
    assert (index.search(questions(), 3, filter=[])[1] == -1).all()
    for wrong in ("text", 3, [1.5], np.ones((2, 2), int), lambda ids: ids):
        with pytest.raises(InputError, match="filter"):
            index.search(questions(), 3, filter=wrong)


def test_ties_go_to_the_smaller_id(way):
    index = MultiVectorIndex(DIM, **way)
    one = texts(1, seed=4)[0] if len(texts(1, seed=4)[0]) else np.ones((2, DIM), np.float32)
    index.add([one] * 5, [9, 4, 7, -5, 2])
    assert index.search(questions(1), 3, **ALL)[1].tolist() == [[-5, 2, 4]]


def test_the_same_bits_on_any_number_of_threads(way, monkeypatch):
    monkeypatch.setattr(multi_vector_search, "TOKENS_PER_JOB", 20)
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("MINIBI_NUM_THREADS", threads)
        index = MultiVectorIndex(DIM, **way)
        index.add(texts(80))
        found.append(index.search(questions(), 20))
    assert found[0][0].tobytes() == found[1][0].tobytes() and (found[0][1] == found[1][1]).all()


def test_forms_of_input():
    documents = texts(6, longest=4)
    packed = pack_rows(documents, DIM)
    results = []
    for form in (documents, packed, [d.tolist() for d in documents], tuple(documents)):
        index = MultiVectorIndex(DIM)
        index.add(form)
        results.append(index.search(questions(1)[0], 6)[0].tobytes())
    assert len(set(results)) == 1
    cube = np.ones((2, 3, DIM))
    index = MultiVectorIndex(DIM)
    assert index.add(cube).tolist() == [0, 1] and len(index.reconstruct([1])[0]) == 3
    assert index.search([], 2)[0].shape == (0, 2)
    assert index.add([]).tolist() == [] and index.remove([]) == 0
    assert index.add(cube[:1]).tolist() == [2]


def test_refused():
    index = MultiVectorIndex(DIM)
    index.add(texts(3))
    before = index.search(questions(1), 3)
    wrong = [
        lambda: index.add([np.ones((2, DIM + 1))]),
        lambda: index.add([np.full((2, DIM), np.nan)]),
        lambda: index.add([np.ones(DIM)]),
        lambda: index.add("text"),
        lambda: index.add(7),
        lambda: index.add(texts(2), [5]),
        lambda: index.add(texts(2), [5, 5]),
        lambda: index.add(texts(2), [5, -1]),
        lambda: index.add(texts(2), [5, 0]),
        lambda: index.add(texts(2), [5.0, 6.0]),
        lambda: index.upsert(texts(2), [[5, 6]]),
        lambda: index.add(Ragged(np.ones((3, DIM), np.float32), np.array([0, 2]))),
        lambda: index.add(Ragged(np.ones((3, DIM), np.float32), np.array([0, 4, 3]))),
        lambda: index.search([np.zeros((0, DIM))], 1),
        lambda: index.search(questions(1), 0),
        lambda: index.search(questions(1), 1, nprobe=0),
        lambda: index.search(questions(1), 1, depth=True),
        lambda: index.score(questions(1), [99]),
        lambda: index.score(questions(2), [[0], [1], [2]]),
        lambda: index.reconstruct([99]),
        lambda: index.train(texts(3)),
        lambda: MultiVectorIndex(0),
        lambda: MultiVectorIndex(4, "l2"),
        lambda: MultiVectorIndex(4, storage="int4"),
        lambda: MultiVectorIndex(4, nbits=3),
        lambda: MultiVectorIndex(4, storage="residual", n_centroids=0),
        lambda: MultiVectorIndex(4, "ip", storage="float16").add([np.full((1, 4), 1e6)]),
        lambda: MultiVectorIndex(4, "ip").add([np.full((1, 4), 1e18)]),
    ]
    for number, attempt in enumerate(wrong):
        with pytest.raises(InputError) as e:
            attempt()
        assert "\n" not in str(e.value), number
    trained = MultiVectorIndex(DIM, storage="residual")
    trained.add(texts(9))
    with pytest.raises(InputError, match="codec"):
        MultiVectorIndex(DIM + 1, storage="residual", codec=trained.codec)
    with pytest.raises(InputError, match="codec"):
        MultiVectorIndex(DIM, codec=trained.codec)
    after = index.search(questions(1), 3)
    assert (before[1] == after[1]).all() and len(index) == 3


def test_only_empty_documents(way, tmp_path):
    index = MultiVectorIndex(DIM, **way)
    index.add([np.zeros((0, DIM), np.float32)] * 3)
    assert len(index) == 3 and 2 in index
    assert index.search(questions(1), 2)[1].tolist() == [[-1, -1]]
    assert (index.score(questions(1), [0, 2]) == -np.inf).all()
    assert index.reconstruct([1]).vectors.shape == (0, DIM)
    index.save(tmp_path / "i")
    again = MultiVectorIndex.load(tmp_path / "i")
    assert len(again) == 3 and again.check() == []
    again.add(texts(5), range(10, 15))
    assert (again.search(questions(1), 1)[1] >= 10).all()


def test_searches_while_it_changes(monkeypatch):
    """A search sees whole documents of one moment: every score it returns is one that its document once had."""
    monkeypatch.setattr(multi_vector, "TAIL", 50)
    index = MultiVectorIndex(DIM, storage="residual", n_centroids=8)
    index.train(texts(40, longest=5))
    versions = [np.repeat(unit_rows(np.eye(DIM, dtype=np.float32)[v : v + 1]), 3, axis=0) for v in range(DIM)]
    index.add([versions[0]] * 30)
    possible = set()
    for version in versions:
        one = MultiVectorIndex(DIM, storage="residual", codec=index.codec)
        one.add([version])
        possible.add(round(one.search(np.ones((1, DIM)), 1, **ALL)[0][0, 0].item(), 4))
    wrong, done = [], threading.Event()

    def reader():
        while not done.is_set():
            scores, ids = index.search(np.ones((1, DIM)), 30, **ALL)
            seen = {round(s, 4) for s in scores[0][ids[0] >= 0].tolist()}
            if len(set(ids[0].tolist()) - {-1}) < 30 or not seen <= possible:
                wrong.append((scores, ids))

    thread = threading.Thread(target=reader)
    thread.start()
    for step in range(150):
        index.upsert([versions[step % DIM]], [step % 30])
    done.set()
    thread.join()
    assert not wrong and index.check() == []


def test_what_it_says_of_itself():
    index = MultiVectorIndex(128, storage="residual", nbits=2, n_centroids=32, fingerprint="abc")
    index.add(texts(50, dim=128, longest=30))
    index.search(questions(1, dim=128), 1)
    stats = index.stats()
    assert stats["documents"] == 50 and stats["centroids"] == 32
    assert stats["token_bytes"] == 34 * stats["tokens"] and 0 < stats["list_bytes"] <= 4 * stats["tokens"]
    assert stats["bytes_per_token"] <= 38
    assert repr(index) == "MultiVectorIndex(dim=128, metric='cosine', residual, 2 bits, 50 documents)"
