"""Every loss: its gradient by hand equals central differences, in float64, on drawn arrays; float32 stays float32."""

from __future__ import annotations

import os
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from loss_checks import check_gradient, normal, seeds

from minibi.train import losses as L

quick = settings(max_examples=100 if os.environ.get("MINIBI_DEEP") == "1" else 4)


def gaps_are_clear(*values, least=2e-3) -> bool:
    """No two numbers so near that a difference step could swap them or cross a hinge."""
    v = np.sort(np.concatenate([np.ravel(x) for x in values]))
    return len(v) < 2 or np.diff(v).min() > least


LABELS = np.array([0, 0, 1, 1, 2])
PAIR_LABELS = np.array([1.0, 0.0, 1.0, 0.0, 0.0])
EMBEDDING_LOSSES = {
    "info_nce": (2, L.info_nce),
    "info_nce hard negatives": (4, L.info_nce),
    "info_nce dot": (3, partial(L.info_nce, scale=0.7, similarity="dot")),
    "info_nce temperature 0.01": (2, partial(L.info_nce, scale=100.0)),
    "info_nce symmetric": (
        3,
        partial(L.info_nce, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"),
    ),
    "info_nce all directions": (4, partial(L.info_nce, directions=L.ranking.DIRECTIONS)),
    "info_nce same texts": (
        3,
        partial(L.info_nce, directions=L.ranking.DIRECTIONS, masks=L.same_text_masks("abcda", "vwxyz", "zzuxt")),
    ),
    "gist_embed": (3, partial(L.gist_embed, guides=[normal(k, 5, 2) for k in range(3)], temperature=0.1)),
    "gist_embed relative": (
        2,
        partial(L.gist_embed, guides=[normal(k, 5, 2) for k in range(2)], margin_strategy="relative", margin=0.1),
    ),
    "cosine_similarity": (2, partial(L.cosine_similarity, labels=[0.1, -1, 1, 0.5, 0])),
    "cosent": (2, partial(L.cosent, labels=[3, 1, 3, 0, 2])),
    "cosent dot": (2, partial(L.cosent, labels=[3, 1, 3, 0, 2], similarity="dot", scale=1.5)),
    "margin_mse": (4, partial(L.of_embeddings(L.margin_mse), teacher=normal(1, 5, 2))),
    "kl_divergence": (4, partial(L.of_embeddings(L.kl_divergence, "cosine"), teacher=normal(1, 5, 3), temperature=0.2)),
    "list_net": (3, partial(L.of_embeddings(L.list_net), labels=normal(1, 5, 2))),
    "embed_distill mse": (2, partial(L.embed_distill, teacher=normal(2, 5, 4))),
    "embed_distill l2": (2, partial(L.embed_distill, teacher=normal(2, 2, 5, 4), distance="l2")),
    "embed_distill cosine": (1, partial(L.embed_distill, teacher=normal(2, 5, 4), distance="cosine")),
    "score_distill": (3, partial(L.score_distill, teacher=normal(3, 3, 5, 6), scale=3.0)),
    "score_distill dot": (2, partial(L.score_distill, teacher=normal(3, 2, 5, 4), scale=0.7, similarity="dot")),
    "score_distill with labels": (
        3,
        L.with_labels(partial(L.score_distill, teacher=normal(3, 3, 5, 6), scale=3.0), 0.4, scale=5.0),
    ),
    "embed_distill with labels": (2, L.with_labels(partial(L.embed_distill, teacher=normal(2, 5, 4)), 2.0)),
    "matryoshka": (3, L.matryoshka(L.info_nce, [4, 2, 1], [1, 0.5, 0.25])),
    "matryoshka dot": (2, L.matryoshka(partial(L.info_nce, similarity="dot", scale=1.0), [4, 3])),
    "matryoshka raw": (2, L.matryoshka(partial(L.info_nce, similarity="dot", scale=1.0), [2], normalize=False)),
    "matryoshka teacher": (
        1,
        partial(L.matryoshka(L.embed_distill, [4, 2], truncated=["teacher"]), teacher=normal(2, 5, 4)),
    ),
    "triplet soft": (3, partial(L.triplet, margin="soft")),
    "triplet soft cosine": (3, partial(L.triplet, margin="soft", distance="cosine")),
    "batch_all soft": (1, partial(L.batch_all_triplet, labels=LABELS, margin="soft")),
    "contrastive": (2, partial(L.contrastive, labels=PAIR_LABELS)),
    "contrastive euclidean": (2, partial(L.contrastive, labels=[1, 0, 0.3, 0.5, 0], distance="euclidean", margin=4.0)),
}


@pytest.mark.parametrize("name", EMBEDDING_LOSSES)
@quick
@given(seed=seeds)
def test_losses_of_embeddings(name, seed):
    count, loss = EMBEDDING_LOSSES[name]
    arrays = normal(seed, count, 5, 4)
    assume(np.linalg.norm(arrays, axis=-1).min() > 0.3)
    cut = np.linalg.norm(arrays[..., :1], axis=-1)
    assume("matryoshka" not in name or cut.min() > 0.02)
    if name == "contrastive":
        cosine = L.similarity.row_scores(arrays[0], arrays[1], "cosine")
        assume(np.abs(1 - cosine - 0.5).min() > 2e-3)
    if name == "contrastive euclidean":
        assume(np.abs(np.linalg.norm(arrays[0] - arrays[1], axis=1) - 4).min() > 2e-3)
    check_gradient(loss, *arrays, step=2e-5 if "matryoshka" in name else 1e-4)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@pytest.mark.parametrize("find", [L.batch_all_triplet, L.batch_hard_triplet, L.batch_semi_hard_triplet])
@quick
@given(seed=seeds, margin=st.sampled_from([0.3, 5.0]))
def test_triplets_in_a_batch(find, distance, seed, margin):
    x = normal(seed, 5, 3)
    d = L.similarity.all_distances(x, distance)[np.triu_indices(5, 1)]
    assume(gaps_are_clear(d) and np.linalg.norm(x, axis=1).min() > 0.3)
    assume(np.abs(np.abs(d[:, None] - d) - margin).min() > 2e-3)
    check_gradient(partial(find, labels=LABELS, distance=distance, margin=margin), x)
    if find is not L.batch_all_triplet:
        check_gradient(partial(find, labels=LABELS, distance=distance, margin="soft"), x)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@quick
@given(seed=seeds)
def test_given_triplets(distance, seed):
    x = normal(seed, 3, 4, 3)
    gap = L.similarity.row_distances(x[0], x[1], distance) - L.similarity.row_distances(x[0], x[2], distance)
    assume(np.linalg.norm(x, axis=-1).min() > 0.3 and np.abs(gap + 0.4).min() > 2e-3)
    check_gradient(partial(L.triplet, distance=distance, margin=0.4), *x)


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
@quick
@given(seed=seeds, labels=st.lists(st.integers(0, 1), min_size=5, max_size=5))
def test_online_contrastive(distance, seed, labels):
    a, b = normal(seed, 2, 5, 3)
    d = L.similarity.row_distances(a, b, distance)
    assume(gaps_are_clear(d, [0.5, d.mean()]) and np.linalg.norm([a, b], axis=-1).min() > 0.3)
    check_gradient(partial(L.online_contrastive, labels=labels, distance=distance), a, b)


@quick
@given(seed=seeds)
def test_false_negative_margin(seed):
    x = normal(seed, 3, 5, 4)
    u = x / np.linalg.norm(x, axis=-1, keepdims=True)
    s = u[0] @ u[1:].reshape(-1, 4).T
    assume(np.linalg.norm(x, axis=-1).min() > 0.3 and np.abs(s - np.diag(s)[:, None] - 0.1).min() > 2e-3)
    value = check_gradient(partial(L.info_nce, false_negative_margin=0.1), *x)
    assert value <= L.info_nce(*x)[0]


@quick
@given(seed=seeds, log_scale=st.floats(-1, 4))
def test_learned_scale(seed, log_scale):
    x = normal(seed, 3, 4, 5)
    options = {"directions": L.ranking.DIRECTIONS, "masks": L.same_text_masks("abca", "stuv", "zuyx")}
    value = check_gradient(partial(L.info_nce_learned_scale, **options), log_scale, *x)
    assert value == pytest.approx(L.info_nce(*x, scale=np.exp(log_scale), **options)[0])
    check_gradient(partial(L.matryoshka(L.info_nce_learned_scale, [5, 3])), log_scale, *x, step=2e-5)


STARTS = np.array([0, 3, 4, 9])
SCORE_LOSSES = {
    "mse": (partial(L.mse, targets=normal(5, 9)), (9,)),
    "margin_mse scores": (partial(L.margin_mse, teacher=normal(5, 3, 3)), (3, 3)),
    "margin_mse margins": (partial(L.margin_mse, teacher=normal(5, 3, 2)), (3, 3)),
    "kl lists": (partial(L.kl_divergence, teacher=normal(5, 9), starts=STARTS, temperature=3.0), (9,)),
    "kl": (partial(L.kl_divergence, teacher=normal(5, 3, 4)), (3, 4)),
    "list_net lists": (partial(L.list_net, labels=normal(5, 9), starts=STARTS), (9,)),
    "list_net": (partial(L.list_net, labels=normal(5, 3, 3), temperature=0.5), (3, 3)),
    "rank_net lists": (partial(L.rank_net, labels=[2, 1, 0, 5, 0, 0, 1, 3, 1], starts=STARTS), (9,)),
    "rank_net": (partial(L.rank_net, labels=np.arange(9).reshape(3, 3), sigma=2.0), (3, 3)),
    "bce": (partial(L.binary_cross_entropy, labels=[0, 1, 0.3, 1], pos_weight=3.0), (4,)),
    "cross_entropy": (partial(L.cross_entropy, labels=[2, 0, 1, 1]), (4, 3)),
    "cross_entropy soft": (partial(L.cross_entropy, labels=np.full((4, 3), 1 / 3), label_smoothing=0.1), (4, 3)),
}


@pytest.mark.parametrize("name", SCORE_LOSSES)
@quick
@given(seed=seeds, size=st.sampled_from([0.1, 1.0, 10.0]))
def test_losses_of_scores(name, seed, size):
    loss, shape = SCORE_LOSSES[name]
    assert check_gradient(loss, size * normal(seed, *shape)) >= 0


@quick
@given(seed=seeds, probability=st.sampled_from([0.0, 0.3, 1.0]))
def test_rank_net_pairs(seed, probability):
    a, b = 3 * normal(seed, 2, 5)
    check_gradient(partial(L.rank_net_pairs, probability=probability, sigma=1.5), a, b)
    if probability == 1:
        both, labels = np.stack([a, b], axis=1), np.tile([1, 0], (5, 1))
        assert L.rank_net_pairs(a, b)[0] == pytest.approx(L.rank_net(both, labels=labels)[0])


@quick
@given(seed=seeds, chosen=st.booleans())
def test_late_interaction(seed, chosen):
    q, d = normal(seed, 7, 3), normal(seed + 1, 9, 3)
    qs, ds = np.array([0, 3, 4, 7]), np.array([0, 1, 6, 9])
    products = q @ d.T
    for first, end in pairwise(ds):
        best = np.sort(products[:, first:end], axis=1)
        assume(end - first < 2 or (best[:, -1] - best[:, -2]).min() > 2e-3)
    spans = {"query_starts": qs, "document_starts": ds}
    if chosen:
        pairs = np.array([[[0, 1], [0, 2]], [[2, 0], [2, 1]]])
        loss = partial(L.of_tokens(L.kl_divergence), teacher=normal(3, 2, 2), pairs=pairs, **spans)
    else:
        loss = partial(L.of_tokens(L.cross_entropy), labels=np.arange(3), **spans)
    check_gradient(loss, q, d)


@pytest.mark.parametrize("name", EMBEDDING_LOSSES)
def test_float32_in_float32_out_and_nothing_is_changed(name):
    count, loss = EMBEDDING_LOSSES[name]
    wide = normal(7, count, 5, 4)
    arrays = list(wide.astype(np.float32))
    before = [x.copy() for x in arrays]
    value, gradients = loss(*arrays)
    assert all(g.dtype == np.float32 and g.shape == (5, 4) for g in gradients)
    assert all(np.array_equal(x, y) for x, y in zip(arrays, before, strict=True))
    exact, exact_gradients = loss(*wide)
    assert value == pytest.approx(exact, rel=1e-4, abs=1e-5)
    for g, e in zip(gradients, exact_gradients, strict=True):
        np.testing.assert_allclose(g, e, rtol=1e-3, atol=1e-4 * max(1, np.abs(e).max()))


@pytest.mark.parametrize("name", SCORE_LOSSES)
def test_float32_scores(name):
    loss, shape = SCORE_LOSSES[name]
    wide = normal(7, *shape)
    value, (gradient,) = loss(wide.astype(np.float32))
    exact, (exact_gradient,) = loss(wide)
    assert gradient.dtype == np.float32
    assert value == pytest.approx(exact, rel=1e-5)
    np.testing.assert_allclose(gradient, exact_gradient, atol=1e-5)
