"""From embeddings to scores and back: what lets a bi-encoder or a late-interaction model use the losses of scores.

of_embeddings(loss)   each query against its own documents, cosine or dot: distillation, ranked lists
of_tokens(loss)       MaxSim of token vectors (Khattab & Zaharia 2020, section 3.3), all pairs or chosen ones
embed_distill         no scores at all: the student's vectors are to be the teacher's
score_distill         the student's scores of each query with all documents of the batch are to be the teacher's
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...errors import InputError
from .scores import kl_divergence
from .similarity import (
    SIMILARITIES,
    Array,
    Loss,
    LossFunction,
    as_floats,
    as_rows,
    one_of,
    positive,
    row_distances,
    row_distances_grad,
    row_scores,
    row_scores_grad,
    unit,
    unit_grad,
)


def of_embeddings(loss: LossFunction, similarity: str = "dot") -> Callable[..., Loss]:
    """`loss(scores [B, K], **options)` as a loss of queries [B, C] and K arrays of documents [B, C].

    Column k of the scores holds each query with its k-th document. `of_embeddings(margin_mse)(queries, positives,
    negatives, teacher=t)`. Raises InputError.
    """
    one_of("similarity", similarity, SIMILARITIES)

    def on_embeddings(queries: Array, *documents: Array, **options: Any) -> Loss:
        q, *docs = as_rows(queries, *documents)
        if not docs:
            raise InputError("no documents: pass queries and at least one array of documents")
        value, (ds,) = loss(np.stack([row_scores(q, d, similarity) for d in docs], axis=1), **options)
        back = [row_scores_grad(ds[:, k], q, d, similarity) for k, d in enumerate(docs)]
        return value, (sum(dq for dq, _ in back), *(dd for _, dd in back))

    return on_embeddings


def of_tokens(loss: LossFunction) -> Callable[..., Loss]:
    """`loss(scores, **options)` as a loss of packed token vectors: query_tokens [Tq, C], document_tokens [Td, C].

    Further keywords as in `maxsim`: query_starts, document_starts, pairs. `of_tokens(cross_entropy)(q, d,
    query_starts=qs, document_starts=ds, labels=np.arange(B))` is in-batch training of a late-interaction model.
    """

    def on_tokens(
        query_tokens: Array,
        document_tokens: Array,
        *,
        query_starts: Any,
        document_starts: Any,
        pairs: Any = None,
        **options: Any,
    ) -> Loss:
        q, d, spans = _tokens(query_tokens, document_tokens, query_starts, document_starts)
        value, (ds,) = loss(maxsim(q, d, *spans, pairs), **options)
        return value, maxsim_grad(ds, q, d, *spans, pairs)

    return on_tokens


def maxsim(
    query_tokens: Array, document_tokens: Array, query_starts: Any, document_starts: Any, pairs: Any = None
) -> Array:
    """Sum over a query's tokens of the largest dot product with any token of the document.

    query_tokens [Tq, C], document_tokens [Td, C]; starts [Q+1] and [N+1] say where each text begins and the last ends.
    Returns scores [Q, N]; or, with pairs, an integer array [..., 2] of query and document numbers, scores [...].
    """
    q, d, spans = _tokens(query_tokens, document_tokens, query_starts, document_starts)
    chosen, shape = _pairs(pairs, len(spans[0]) - 1, len(spans[1]) - 1)
    scores = np.empty(len(chosen), q.dtype)
    for p, (i, j) in enumerate(chosen):
        scores[p] = (q[_span(spans[0], i)] @ d[_span(spans[1], j)].T).max(axis=1).sum()
    return scores.reshape(shape)


def maxsim_grad(
    d_scores: Array,
    query_tokens: Array,
    document_tokens: Array,
    query_starts: Any,
    document_starts: Any,
    pairs: Any = None,
) -> tuple[Array, Array]:
    """Gradients [Tq, C] and [Td, C]: each query token and its best match (of equals, the first) move each other."""
    q, d, spans = _tokens(query_tokens, document_tokens, query_starts, document_starts)
    chosen, _ = _pairs(pairs, len(spans[0]) - 1, len(spans[1]) - 1)
    dq, dd = np.zeros_like(q), np.zeros_like(d)
    for (i, j), ds in zip(chosen, np.asarray(d_scores, q.dtype).reshape(len(chosen)), strict=True):
        if ds == 0:
            continue
        mine, its = _span(spans[0], i), _span(spans[1], j)
        best = (q[mine] @ d[its].T).argmax(axis=1)  # a token of the document for each of the query's
        dq[mine] += ds * d[its][best]
        np.add.at(dd[its], best, ds * q[mine])
    return dq, dd


def embed_distill(*embeddings: Array, teacher: Any, distance: str = "mse") -> Loss:
    """The student's vectors are to be the teacher's (Reimers & Gurevych 2020, equation 1); the mean over the arrays.

    embeddings: one or more arrays [B, C]; teacher: [B, C], the same for all (one text in several languages), or one
    array for each. distance: "mse" (mean square of all components), "l2" or "cosine" (1 - cosine). Raises InputError.
    """
    one_of("distance", distance, ("mse", "l2", "cosine"))
    rows = as_rows(*embeddings)
    if not rows:
        raise InputError("no embeddings: pass the student's vectors before teacher=")
    targets = [teacher] * len(rows) if np.ndim(teacher) == 2 else list(teacher)
    if len(targets) != len(rows) or any(np.shape(t) != rows[0].shape for t in targets):
        raise InputError(f"teacher must be vectors {list(rows[0].shape)}, one array or {len(rows)} of them")
    total, gradients = 0.0, []
    for x, t in zip(rows, targets, strict=True):
        t = np.asarray(t, x.dtype)
        if distance == "mse":
            total += float(np.square(x - t).mean(dtype=np.float64))
            gradients.append(2 * (x - t) / x.dtype.type(x.size * len(rows)))
        else:
            kind = "euclidean" if distance == "l2" else "cosine"
            total += float(row_distances(x, t, kind).mean(dtype=np.float64))
            slope = np.full(len(x), 1 / (len(x) * len(rows)), x.dtype)
            gradients.append(row_distances_grad(slope, x, t, kind)[0])
    return total / len(rows), tuple(gradients)


def score_distill(
    queries: Array,
    *documents: Array,
    teacher: Any,
    scale: float = 20.0,
    similarity: str = "cosine",
) -> Loss:
    """Mean over queries of KL(softmax(scale T) | softmax(scale S)), S and T the scores of student and teacher.

    queries and each of documents [B, C]; a row of S holds a query with every document of the batch, so no labels are
    needed (after Fang et al. 2021, without their queue). teacher: the teacher's vectors of the same texts, [B, C'] of
    any width, queries first. Raises InputError.
    """
    one_of("similarity", similarity, SIMILARITIES)
    q, *docs = as_rows(queries, *documents)
    tq, *tdocs = as_rows(*teacher)
    if not docs or [len(x) for x in (tq, *tdocs)] != [len(x) for x in (q, *docs)]:
        raise InputError(f"teacher must be vectors of the same {1 + len(docs)} x {len(q)} texts, queries first")
    k, d = positive("scale", scale), np.concatenate(docs)
    a, b = (q, d) if similarity == "dot" else (unit(q), unit(d))
    target = k * (tq @ np.concatenate(tdocs).T if similarity == "dot" else unit(tq) @ unit(np.concatenate(tdocs)).T)
    value, (ds,) = kl_divergence(k * (a @ b.T), teacher=target)
    da, db = ds.dtype.type(k) * (ds @ b), ds.dtype.type(k) * (ds.T @ a)
    if similarity != "dot":
        da, db = unit_grad(da, q), unit_grad(db, d)
    return value, (da, *np.split(db, len(docs)))


def _tokens(q: Any, d: Any, query_starts: Any, document_starts: Any) -> tuple[Array, Array, tuple[Array, Array]]:
    """Checked token vectors and the bounds of their texts. Raises InputError."""
    q, d = as_floats("query_tokens", q), as_floats("document_tokens", d)
    if q.ndim != 2 or d.ndim != 2 or q.shape[1] != d.shape[1]:
        raise InputError(f"token vectors must be [T, C] of one width, not {list(q.shape)} and {list(d.shape)}")
    spans = []
    for name, starts, count in (("query_starts", query_starts, len(q)), ("document_starts", document_starts, len(d))):
        bounds = np.asarray(starts)
        ok = bounds.ndim == 1 and bounds.size > 1 and bounds.dtype.kind in "iu"
        if not ok or bounds[0] != 0 or bounds[-1] != count or (np.diff(bounds.astype(np.int64)) < 1).any():
            raise InputError(f"{name} must rise from 0 to {count}, the number of tokens, with no empty text between")
        spans.append(bounds.astype(np.int64))
    return q, d, (spans[0], spans[1])


def _pairs(pairs: Any, queries: int, documents: int) -> tuple[Array, tuple[int, ...]]:
    """(query, document) numbers [P, 2], and the shape of their scores. Raises InputError."""
    if pairs is None:
        return np.stack(np.divmod(np.arange(queries * documents), documents), axis=1), (queries, documents)
    p = np.asarray(pairs)
    if p.ndim < 2 or p.shape[-1] != 2 or p.dtype.kind not in "iu":
        raise InputError(f"pairs must be whole numbers [..., 2], a query and a document each, not {list(p.shape)}")
    if (p < 0).any() or (p >= (queries, documents)).any():
        raise InputError(f"pairs must name queries below {queries} and documents below {documents}")
    return p.reshape(-1, 2).astype(np.int64), p.shape[:-1]


def _span(starts: Array, i: int) -> slice:
    return slice(starts[i], starts[i + 1])
