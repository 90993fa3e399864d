"""InfoNCE, also called multiple negatives ranking: each query finds its own document among all of the batch.

    loss = mean over i of  log Z_i - scale s(q_i, p_i),   Z_i = sum over all candidates c of exp(scale s(i, c))

van den Oord et al. 2018, equation 4; in-batch negatives Henderson et al. 2017, section 4.4. Which candidates are in Z_i
is the whole difference between the family's members:

    query_to_doc    q_i with every positive and hard negative of the batch
    doc_to_query    p_i with every query; with query_to_doc "per_direction": the symmetric loss of CLIP
    query_to_query  q_i with every other query
    doc_to_doc      p_i with every document of another row; all four "joint": GTE (Li et al. 2023, equations 3 and 4)

Candidates can be left out: texts that are known to match (`same_text_masks`), candidates that a guide prefers to the
positive (`guide_masks`, `gist_embed`), or that the model itself scores above it (`false_negative_margin`). The pair
of a row itself always stays. Scores are made for ROWS rows at a time, so thousands of pairs need no quadratic memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from .similarity import SIMILARITIES, Array, Loss, as_floats, as_rows, log_sum_exp, one_of, positive, unit, unit_grad

DIRECTIONS = ("query_to_doc", "doc_to_query", "query_to_query", "doc_to_doc")
ROWS = 256

Masks = Mapping[str, NDArray[np.bool_]]  # direction -> [B, candidates], True: leave out


def info_nce(
    queries: Array,
    positives: Array,
    *negatives: Array,
    scale: float = 20.0,
    similarity: str = "cosine",
    directions: Sequence[str] = ("query_to_doc",),
    partition_mode: str = "joint",
    masks: Masks | None = None,
    false_negative_margin: float | None = None,
) -> Loss:
    """Multiple negatives ranking of queries, positives and any number of hard negatives, each [B, C].

    scale: 1 / temperature. partition_mode: "joint", one Z over all directions, or "per_direction", the mean of one log
    Z for each. masks: see `merge_masks`. false_negative_margin: leaves out candidates that score above their positive
    by more than it (Qwen3 Embedding, Zhang et al. 2025, has 0.1). The gradient takes what is left out as
    given. Raises InputError.
    """
    options = (positive("scale", scale), similarity, directions, partition_mode, masks, false_negative_margin)
    loss, gradients, _ = _contrast((queries, positives, *negatives), *options)
    return loss, gradients


def info_nce_learned_scale(
    log_scale: Any,
    queries: Array,
    positives: Array,
    *negatives: Array,
    similarity: str = "cosine",
    directions: Sequence[str] = ("query_to_doc",),
    partition_mode: str = "joint",
    masks: Masks | None = None,
    false_negative_margin: float | None = None,
) -> Loss:
    """`info_nce` with scale = e^log_scale, a parameter to be learned; its gradient comes first.

    CLIP (Radford et al. 2021, section 2.5) starts at log(1 / 0.07) and clips the parameter at log(100) after each step.
    """
    log_scale = np.asarray(log_scale, np.float64)
    if log_scale.ndim or not abs(log_scale) < 50:
        raise InputError(f"log_scale must be one number between -50 and 50, not {log_scale}")
    scale = float(np.exp(log_scale))
    options = (scale, similarity, directions, partition_mode, masks, false_negative_margin)
    loss, gradients, d_scale = _contrast((queries, positives, *negatives), *options)
    return loss, (np.float64(d_scale * scale), *gradients)


def _contrast(
    columns: Sequence[Array],
    scale: float,
    similarity: str,
    directions: Sequence[str],
    partition_mode: str,
    masks: Masks | None,
    margin: float | None,
) -> tuple[float, tuple[Array, ...], float]:
    """Loss, gradients of the columns, gradient of the scale."""
    columns = as_rows(*columns)
    names = _checked(len(columns[0]), len(columns) - 1, similarity, directions, partition_mode, masks or {})
    vectors = [unit(x) for x in columns] if similarity == "cosine" else columns
    queries, documents = vectors[0], np.concatenate(vectors[1:])  # (B, C), (N, C): positives first
    b, dtype = len(queries), documents.dtype
    d_queries, d_documents = np.zeros_like(queries), np.zeros_like(documents)
    sides = {  # direction -> left rows, all right rows, and where their gradients go
        "query_to_doc": (queries, documents, d_queries, d_documents),
        "doc_to_query": (documents, queries, d_documents, d_queries),
        "query_to_query": (queries, queries, d_queries, d_queries),
        "doc_to_doc": (documents, documents, d_documents, d_documents),
    }
    groups = [names] if partition_mode == "joint" else [(name,) for name in names]
    loss = d_scale = 0.0
    for first in range(0, b, ROWS):
        rows = np.arange(first, min(first + ROWS, b))
        here = rows - first
        sims = {name: sides[name][0][rows] @ sides[name][1].T for name in names}
        own = sims["query_to_doc"][here, rows][:, None]
        for name in names:
            out = _left_out(name, rows, sims[name], own, masks or {}, margin, b)
            sims[name] = np.where(out, np.asarray(-np.inf, dtype), sims[name])
        for group in groups:
            s = np.concatenate([sims[name] for name in group], axis=1)
            scores = dtype.type(scale) * (s - own)  # from here on the positive's score is 0
            log_z = log_sum_exp(scores)
            p = np.exp(scores - log_z[:, None]) / dtype.type(b * len(groups))
            loss += float(log_z.sum(dtype=np.float64)) / (b * len(groups))
            d_scale += float((p * np.where(p > 0, s - own, 0)).sum(dtype=np.float64))
            if group[0] == "query_to_doc":
                p[here, rows] -= dtype.type(1 / b)  # of the term -scale s(q_i, p_i)
            ends = np.cumsum([sims[name].shape[1] for name in group])[:-1]
            for name, part in zip(group, np.split(dtype.type(scale) * p, ends, axis=1), strict=True):
                left, right, d_left, d_right = sides[name]
                d_left[rows] += part @ right
                d_right += part.T @ left[rows]
    gradients = [d_queries, *np.split(d_documents, len(columns) - 1)]
    if similarity == "cosine":
        gradients = [unit_grad(du, x) for du, x in zip(gradients, columns, strict=True)]
    return loss, tuple(g.astype(x.dtype) for g, x in zip(gradients, columns, strict=True)), d_scale


def _left_out(
    name: str, rows: Array, sims: Array, own: Array, masks: Masks, margin: float | None, b: int
) -> NDArray[np.bool_]:
    """Which candidates of these rows do not count, [rows, candidates]."""
    out = masks[name][rows] if name in masks else np.zeros(sims.shape, bool)
    if margin is not None:
        out = out | (sims > own + sims.dtype.type(margin))
    out = out.copy()
    if name in ("query_to_query", "doc_to_doc"):  # nothing is compared with itself or with its own hard negatives
        out |= np.arange(sims.shape[1]) % b == rows[:, None]
    else:
        out[np.arange(len(rows)), rows] = False  # the pair itself
    return out


def _checked(
    b: int, per_row: int, similarity: str, directions: Sequence[str], partition_mode: str, masks: Masks
) -> tuple[str, ...]:
    """The directions, query_to_doc first. Raises InputError."""
    one_of("similarity", similarity, SIMILARITIES)
    one_of("partition_mode", partition_mode, ("joint", "per_direction"))
    for name in (*directions, *masks):
        one_of("direction", name, DIRECTIONS)
    if "query_to_doc" not in directions or len(set(directions)) < len(directions):
        raise InputError("directions must name query_to_doc, which holds the pairs to be found, and each name once")
    if partition_mode == "per_direction" and {"query_to_query", "doc_to_doc"} & set(directions):
        raise InputError('query_to_query and doc_to_doc hold no pair to be found: use partition_mode="joint" with them')
    for name, mask in masks.items():
        shape = (b, b * per_row if name.endswith("doc") else b)
        if np.shape(mask) != shape or np.asarray(mask).dtype != bool:
            raise InputError(f"the mask of {name} must be bool {list(shape)}, not {list(np.shape(mask))}")
    return tuple(name for name in DIRECTIONS if name in directions)


# --- what to leave out -----------------------------------------------------------------------------------------------


def merge_masks(*masks: Masks) -> dict[str, NDArray[np.bool_]]:
    """What any of the masks leaves out. A mask is direction -> bool [B, candidates]; the candidates of *_to_query are
    the B queries, those of *_to_doc the B positives and then each column of hard negatives."""
    merged: dict[str, NDArray[np.bool_]] = {}
    for mask in masks:
        for name, out in mask.items():
            merged[name] = merged[name] | out if name in merged else out
    return merged


def same_text_masks(queries: Sequence[str], *documents: Sequence[str]) -> dict[str, NDArray[np.bool_]]:
    """Leaves out every candidate whose text is known to match. documents: positives, then hard negatives, B texts each.

    Two rows that share a text (as query or as positive) mean the same thing: a query with two positives, two questions
    with one answer. So the texts of the one are no negatives of the other, wherever they stand in the batch.
    """
    columns = [list(queries), *map(list, documents)]
    if len(columns) < 2 or any(len(c) != len(columns[0]) for c in columns):
        raise InputError("same_text_masks needs queries, positives and hard negatives of the same number")
    b = len(columns[0])
    rows: dict[str, list[int]] = {}  # text -> the rows that are about it
    as_query: dict[str, list[int]] = {}  # text -> where it stands among the candidates
    as_doc: dict[str, list[int]] = {}
    for i, pair in enumerate(zip(columns[0], columns[1], strict=True)):
        as_query.setdefault(pair[0], []).append(i)
        for text in dict.fromkeys(pair):
            rows.setdefault(text, []).append(i)
    for j, text in enumerate(text for column in columns[1:] for text in column):
        as_doc.setdefault(text, []).append(j)
    to_query, to_doc = np.zeros((b, b), bool), np.zeros((b, b * (len(columns) - 1)), bool)
    for i in range(b):
        related = {k for column in columns[:2] for k in rows[column[i]]}
        for text in {column[k] for column in columns[:2] for k in related}:
            to_query[i, as_query.get(text, [])] = True
            to_doc[i, as_doc.get(text, [])] = True
    return {"query_to_doc": to_doc, "doc_to_doc": to_doc, "doc_to_query": to_query, "query_to_query": to_query}


def guide_masks(
    queries: Array,
    positives: Array,
    *negatives: Array,
    directions: Iterable[str] = DIRECTIONS,
    margin_strategy: str = "absolute",
    margin: float = 0.0,
) -> dict[str, NDArray[np.bool_]]:
    """Leaves out what a guide finds nearer than the positive (GISTEmbed, Solatorio 2024, section 3.2).

    The arrays [B, .] are the guide's embeddings of the batch. A candidate goes whose cosine exceeds g - margin
    ("absolute") or g - |g| margin ("relative", NV-Retriever, Moreira et al. 2024), g the guide's cosine of the pair.
    """
    one_of("margin_strategy", margin_strategy, ("absolute", "relative"))
    q, *docs = [unit(x) for x in as_rows(queries, positives, *negatives)]
    d = np.concatenate(docs)
    own = (q * docs[0]).sum(axis=1, keepdims=True)
    limit = own - (margin if margin_strategy == "absolute" else np.abs(own) * margin)
    left_right = {"query_to_doc": (q, d), "doc_to_query": (docs[0], q), "query_to_query": (q, q)}
    left_right["doc_to_doc"] = (docs[0], d)
    return {name: left_right[name][0] @ left_right[name][1].T > limit for name in directions}


def gist_embed(
    queries: Array,
    positives: Array,
    *negatives: Array,
    guides: Sequence[Array],
    temperature: float = 0.01,
    margin_strategy: str = "absolute",
    margin: float = 0.0,
    contrast_anchors: bool = True,
    contrast_positives: bool = True,
) -> Loss:
    """GISTEmbed (Solatorio 2024): InfoNCE over documents, queries and positives, less what a guide model disputes.

    guides: the guide's embeddings, one array [B, .] (of any width) for each of ours. Raises InputError.
    """
    count = 1 + len(negatives)
    if len(guides) != count + 1:
        raise InputError(f"guides must be {count + 1} arrays, one for each array of embeddings, not {len(guides)}")
    wanted = (True, False, contrast_anchors, contrast_positives)
    directions = [name for name, on in zip(DIRECTIONS, wanted, strict=True) if on]
    guides = [as_floats("guides", g) for g in guides]
    masks = guide_masks(*guides, directions=directions, margin_strategy=margin_strategy, margin=margin)
    if contrast_positives:
        b = len(guides[0])
        masks["doc_to_doc"][:, b:] = True  # positives are compared with positives alone
    return info_nce(
        queries,
        positives,
        *negatives,
        scale=1 / positive("temperature", temperature),
        directions=directions,
        masks=masks,
    )
