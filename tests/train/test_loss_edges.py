"""Where losses are tried: scores huge or equal, zero vectors, one row, masks, batches in blocks, bad input."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loss_checks import normal, seeds

from minibi.errors import InputError
from minibi.train import losses as L
from minibi.train.losses import ranking, similarity

ALL = ranking.DIRECTIONS


def finite(result) -> None:
    value, gradients = result
    assert np.isfinite(value)
    assert all(np.isfinite(g).all() for g in gradients)


# --- the pieces ------------------------------------------------------------------------------------------------------


def test_exponentials_at_both_ends():
    x = np.array([-1e4, -800.0, -40.0, 0.0, 40.0, 800.0, 1e4])
    np.testing.assert_allclose(similarity.softplus(x), [0, 0, np.exp(-40), np.log(2), 40, 800, 1e4], rtol=1e-14)
    np.testing.assert_allclose(similarity.sigmoid(x), [0, 0, np.exp(-40), 0.5, 1, 1, 1], rtol=1e-14)
    rows = np.array([[1e30, 1e30], [-1e30, -1e30], [-np.inf, 3], [-np.inf, -np.inf]])
    np.testing.assert_array_equal(similarity.log_sum_exp(rows), [1e30, -1e30, 3, -np.inf])


@given(seed=seeds, exponent=st.integers(-40, 36))
def test_rows_of_length_one_of_any_size(seed, exponent):
    x = normal(seed, 4, 5).astype(np.float32)
    y = (x * 10.0**exponent).astype(np.float32)
    if exponent < -13:
        assert not similarity.unit(y).any()
        assert not similarity.unit_grad(np.ones_like(y), y).any()
    elif exponent > -10:
        np.testing.assert_allclose(similarity.unit(y), similarity.unit(x), atol=1e-6)


@given(seed=seeds, offset=st.sampled_from([0.0, 1.0, 1e4]), dtype=st.sampled_from([np.float32, np.float64]))
def test_distances_in_a_batch_are_those_of_rows(seed, offset, dtype):
    x = (normal(seed, 5, 3) + offset).astype(dtype)
    x[3] = x[1]
    wide = x.astype(np.float64)
    d = similarity.all_distances(x, "euclidean")
    np.testing.assert_allclose(d, np.linalg.norm(wide[:, None] - wide, axis=-1), rtol=1e-6)
    assert d[1, 3] == d[3, 1] == 0
    assert not similarity.all_distances_grad(np.eye(5)[:, [0, 1, 2, 1, 4]].T - np.eye(5), x, "euclidean")[1].any()


# --- InfoNCE ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e3, 1e9])
def test_scores_may_be_huge_or_all_equal(dtype, size):
    x = [(size * normal(i, 5, 4)).astype(dtype) for i in range(3)]
    for similarity_name in ("cosine", "dot"):
        finite(L.info_nce(*x, scale=1000.0, similarity=similarity_name, directions=ALL))
    same = [np.full((5, 4), size, dtype)] * 3
    value, gradients = L.info_nce(*same, similarity="dot", directions=ALL)
    assert value == pytest.approx(np.log(10 + 5 + 4 + 8))  # every candidate is as good: 10 + 5 + 4 + 8 of them
    finite((value, gradients))


def test_a_zero_vector_has_cosine_0_and_no_gradient():
    q, p = normal(0, 2, 4, 3)
    q[1] = p[2] = 0
    value, (dq, dp) = L.info_nce(q, p)
    finite((value, (dq, dp)))
    assert not dq[1].any()
    assert not dp[2].any()
    assert dq[0].any()
    for loss in (
        partial(L.cosent, labels=[1, 2, 3, 4]),
        partial(L.cosine_similarity, labels=[0, 0, 1, 1]),
        partial(L.contrastive, labels=[0, 0, 1, 1]),
        L.matryoshka(L.info_nce, [3, 1]),
    ):
        finite(loss(np.zeros((4, 3)), np.zeros((4, 3))))
        assert not any(g.any() for g in loss(np.zeros((4, 3)), np.zeros((4, 3)))[1])


def test_equal_rows_neither_push_nor_pull():
    x = np.ones((4, 3))
    labels = [0, 0, 1, 1]
    for find in (L.batch_all_triplet, L.batch_hard_triplet, L.batch_semi_hard_triplet):
        value, (gradient,) = find(x, labels=labels, margin=0.5)
        assert value == 0.5
        assert not gradient.any()
    value, gradients = L.contrastive(x, x, labels=labels, distance="euclidean", margin=1.0)
    assert value == 0.25
    assert not any(g.any() for g in gradients)


def test_one_pair_alone_has_nothing_to_be_told_from():
    q, p = normal(0, 2, 1, 3)
    for options in ({}, {"directions": ALL}):
        value, gradients = L.info_nce(q, p, **options, scale=1.0)
        if not options:
            assert value == 0
            assert not any(g.any() for g in gradients)
        finite((value, gradients))
    assert L.info_nce(q, p, -p)[0] > 0


@given(seed=seeds, rows=st.integers(1, 9), count=st.integers(1, 9), negatives=st.integers(0, 2))
def test_blocks_of_rows_change_nothing(seed, rows, count, negatives):
    x = normal(seed, 2 + negatives, count, 3)
    rng = np.random.default_rng(seed)
    masks = {"query_to_doc": rng.random((count, count * (1 + negatives))) < 0.3}
    masks["query_to_query"] = rng.random((count, count)) < 0.3
    options = {"directions": ALL, "masks": masks, "false_negative_margin": 0.2}
    whole = L.info_nce(*x, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "ROWS", rows)
        parts = L.info_nce(*x, **options)
    assert parts[0] == pytest.approx(whole[0], rel=1e-12)
    np.testing.assert_allclose(parts[1], whole[1], atol=1e-12)


@given(seed=seeds, negatives=st.integers(0, 2))
def test_info_nce_is_its_formula(seed, negatives):
    q, *docs = normal(seed, 2 + negatives, 4, 3)
    out = np.random.default_rng(seed).random((4, 4 * (1 + negatives))) < 0.4
    u = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, *docs)]
    candidates = np.concatenate(u[1:])
    expected = 0.0
    for i in range(4):
        scores = [7 * float(u[0][i] @ c) for c in candidates]
        z = sum(np.exp(s) for j, s in enumerate(scores) if j == i or not out[i, j])
        expected += (np.log(z) - scores[i]) / 4
    assert L.info_nce(q, *docs, scale=7, masks={"query_to_doc": out})[0] == pytest.approx(expected)


def test_everything_masked_leaves_the_pair_itself():
    x = normal(0, 3, 4, 3)
    masks = {name: np.ones((4, 8 if name.endswith("doc") else 4), bool) for name in ALL}
    value, gradients = L.info_nce(*x, masks=masks)
    assert value == 0
    assert not any(g.any() for g in gradients)
    assert L.info_nce(*x, masks=masks, directions=ALL)[0] == pytest.approx(np.log(2))  # the pair, both ways


def test_same_texts_are_no_negatives():
    queries = ["how?", "why?", "how?", "who?"]
    positives = ["so", "because", "thus", "so"]
    negatives = ["because", "x", "so", "who?"]
    masks = L.same_text_masks(queries, positives, negatives)
    # rows 0 and 2 share a query, rows 0 and 3 a positive: what they hold matches row 0
    np.testing.assert_array_equal(masks["query_to_doc"][0], [1, 0, 1, 1, 0, 0, 1, 1])
    np.testing.assert_array_equal(masks["query_to_doc"][1], [0, 1, 0, 0, 1, 0, 0, 0])
    np.testing.assert_array_equal(masks["doc_to_query"][0], [1, 0, 1, 1])
    np.testing.assert_array_equal(masks["query_to_query"], masks["doc_to_query"])
    x = normal(0, 3, 4, 5)
    assert L.info_nce(*x, masks=masks)[0] < L.info_nce(*x)[0]
    none = L.same_text_masks("abcd", "efgh", "ijkl")
    assert L.info_nce(*x, masks=none, directions=ALL)[0] == L.info_nce(*x, directions=ALL)[0]


@given(st.lists(st.text("abcdefgh", min_size=3, max_size=3), min_size=1, max_size=7))
def test_same_texts_by_definition(rows):
    q, p, n = zip(*rows, strict=True)  # each row three texts of one letter
    about = [{x, y} for x, y in zip(q, p, strict=True)]
    known = [set().union(*(other for other in about if mine & other)) for mine in about]
    masks = L.same_text_masks(q, p, n)
    np.testing.assert_array_equal(masks["query_to_doc"], [[text in mine for text in p + n] for mine in known])
    np.testing.assert_array_equal(masks["doc_to_query"], [[text in mine for text in q] for mine in known])


def test_masks_merge_by_or():
    a, b = {"query_to_doc": np.eye(2, dtype=bool)}, {"query_to_doc": ~np.eye(2, dtype=bool), "x": np.ones(1, bool)}
    merged = L.merge_masks(a, b)
    assert merged["query_to_doc"].all()
    assert set(merged) == {"query_to_doc", "x"}
    assert not a["query_to_doc"].all()


# --- scores ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_of_any_size(dtype):
    x = np.array([[1e30, -1e30, 0], [5e4, 5e4, 5e4], [0, 0, -8e4]], dtype)
    for result in (
        L.kl_divergence(x, teacher=-x),
        L.list_net(x, labels=np.abs(x)),
        L.rank_net(x, labels=[[1, 2, 3]] * 3),
        L.binary_cross_entropy(x, labels=np.ones((3, 3))),
        L.cross_entropy(x, labels=[1, 0, 2]),
        L.cross_entropy(x, labels=[1, 0, 2], label_smoothing=0.5),
        L.rank_net_pairs(x[0], x[1], probability=0.5),
    ):
        finite(result)
    assert L.kl_divergence(x, teacher=x)[0] == 0
    assert not L.kl_divergence(x, teacher=x)[1][0].any()


def test_nothing_to_rank_is_no_loss():
    value, (gradient,) = L.rank_net(np.ones((2, 3)), labels=np.zeros((2, 3)))
    assert value == 0
    assert not gradient.any()
    for labels in ([1, 1, 1], [0, 1, 2]):  # no negative, no positive
        for find in (L.batch_all_triplet, L.batch_hard_triplet, L.batch_semi_hard_triplet):
            value, (gradient,) = find(normal(0, 3, 4), labels=labels)
            assert value == 0
            assert not gradient.any()


@given(seed=seeds)
def test_cosent_is_its_double_sum(seed):
    a, b = normal(seed, 2, 6, 3)
    labels = np.random.default_rng(seed).integers(0, 3, 6)
    s = 20 * similarity.row_scores(a, b, "cosine")
    pairs = [np.exp(s[i] - s[j]) for i in range(6) for j in range(6) if labels[i] < labels[j]]
    assert L.cosent(a, b, labels=labels)[0] == pytest.approx(np.log1p(sum(pairs)))


def test_maxsim_is_its_double_loop():
    q, d = normal(0, 5, 3), normal(1, 7, 3)
    scores = L.maxsim(q, d, [0, 2, 5], [0, 1, 3, 7])
    slow = [[sum(max(x @ y for y in d[s:e]) for x in q[a:b]) for s, e in [(0, 1), (1, 3), (3, 7)]]
            for a, b in [(0, 2), (2, 5)]]  # fmt: skip
    np.testing.assert_allclose(scores, slow)
    np.testing.assert_array_equal(
        L.maxsim(q, d, [0, 2, 5], [0, 1, 3, 7], [[1, 2], [0, 0]]), [scores[1, 2], scores[0, 0]]
    )


# --- bad input -------------------------------------------------------------------------------------------------------

X, Y = normal(0, 2, 4, 3)
BAD = {
    "integers": (lambda: L.info_nce(np.ones((2, 2), int), np.ones((2, 2), int)), "float32 or float64"),
    "empty": (lambda: L.info_nce(X[:0], X[:0]), "at least one row"),
    "flat": (lambda: L.info_nce(X[0], X[0]), r"\[B, C\]"),
    "shapes": (lambda: L.info_nce(X, Y[:2]), "have shape"),
    "one column": (lambda: L.of_embeddings(L.mse)(X), "no documents"),
    "scale": (lambda: L.info_nce(X, Y, scale=0), "scale must be a finite number above 0"),
    "direction": (lambda: L.info_nce(X, Y, directions=("doc_to_query",)), "must name query_to_doc"),
    "unknown": (lambda: L.info_nce(X, Y, directions=("query_to_doc", "up")), "'up' is not one of"),
    "partition": (lambda: L.info_nce(X, Y, directions=ALL, partition_mode="per_direction"), "joint"),
    "mask": (lambda: L.info_nce(X, Y, masks={"query_to_doc": np.ones((4, 3), bool)}), "must be bool"),
    "log_scale": (lambda: L.info_nce_learned_scale(99.0, X, Y), "log_scale"),
    "guides": (lambda: L.gist_embed(X, Y, guides=[X]), "2 arrays"),
    "similarity": (lambda: L.info_nce(X, Y, similarity="l2"), "not one of"),
    "margin": (lambda: L.triplet(X, X, Y, margin=-1), "margin"),
    "distance": (lambda: L.triplet(X, X, Y, distance="l1"), "distance 'l1' is not one of"),
    "labels": (lambda: L.batch_all_triplet(X, labels=[1, 2]), "labels must be 4 values"),
    "contrastive": (lambda: L.contrastive(X, Y, labels=[0, 1, 2, 0]), "between 0"),
    "online": (lambda: L.online_contrastive(X, Y, labels=[0, 1, 0.5, 0]), "must be 0"),
    "cosine": (lambda: L.cosine_similarity(X, Y, labels=[0, 1, 5, 0]), "between -1 and 1"),
    "nan labels": (lambda: L.cosent(X, Y, labels=[0, 1, np.nan, 0]), "finite"),
    "words": (lambda: L.cosent(X, Y, labels=["a"] * 4), "numbers"),
    "teacher": (lambda: L.margin_mse(X, teacher=Y[:, :1]), r"shape \[4, 2\]"),
    "starts": (lambda: L.list_net(X[0], labels=Y[0], starts=[0, 2, 2, 3]), "no empty list"),
    "no starts": (lambda: L.list_net(X[0], labels=Y[0]), "with `starts`"),
    "bce": (lambda: L.binary_cross_entropy(X, labels=Y), "between 0 and 1"),
    "classes": (lambda: L.cross_entropy(X, labels=[0, 1, 2, 3]), "from 0 to 2"),
    "probabilities": (lambda: L.cross_entropy(X, labels=np.ones((4, 3))), "probabilities"),
    "no scores": (lambda: L.mse(np.zeros(0), targets=[]), "empty"),
    "dims": (lambda: L.matryoshka(L.info_nce, []), "dims"),
    "too wide": (lambda: L.matryoshka(L.info_nce, [4])(X, Y), "vectors have 3"),
    "weights": (lambda: L.matryoshka(L.info_nce, [2, 1], [1]), "weights"),
    "empty document": (lambda: L.maxsim(X, Y, [0, 4], [0, 0, 4]), "document_starts"),
    "pairs": (lambda: L.maxsim(X, Y, [0, 4], [0, 4], [[0, 1]]), "below 1"),
    "distill": (lambda: L.embed_distill(X, teacher=Y[:2]), "teacher must be"),
    "no chunks": (lambda: L.grad_cache([[1], []], None, None, L.info_nce), "at least one chunk"),
    "same texts": (lambda: L.same_text_masks("ab", "a"), "same number"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    call, message = BAD[name]
    with pytest.raises(InputError, match=message):
        call()
