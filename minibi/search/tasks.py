"""What embeddings are good for besides answering questions: pairs, duplicates and communities in a heap of texts.

Names, arguments and results are those of sentence_transformers.util, over NumPy arrays instead of tensors. All of them
compare everything with everything, block by block: memory stays at some BLOCK scores, whatever the chunk sizes say.
Equal scores go by smaller position, so a result depends on the vectors alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InputError
from ..index.contract import whole
from ..shapes import Floats, Ints, as_vectors, unit_rows

ScoreFunction = Callable[[Any, Any], Any]  # [A, dim], [B, dim] -> [A, B]
BLOCK = 1 << 24  # scores held at once: 64 MB


def cos_sim(a: ArrayLike, b: ArrayLike) -> Floats:
    """Cosines [A, B] of vectors [A, dim] and [B, dim]; 0 with a zero vector."""
    x = as_vectors(a, name="the first vectors")
    return unit_rows(x) @ unit_rows(as_vectors(b, x.shape[1], name="the second vectors")).T


def dot_score(a: ArrayLike, b: ArrayLike) -> Floats:
    """Inner products [A, B] of vectors [A, dim] and [B, dim]."""
    x = as_vectors(a, name="the first vectors")
    return x @ as_vectors(b, x.shape[1], name="the second vectors").T


def semantic_search(
    query_embeddings: ArrayLike,
    corpus_embeddings: ArrayLike,
    query_chunk_size: int = 100,
    corpus_chunk_size: int = 500_000,
    top_k: int = 10,
    score_function: ScoreFunction = cos_sim,
) -> list[list[dict[str, int | float]]]:
    """For each query [Q, dim] or [dim] the top_k of the corpus [N, dim], best first, as {"corpus_id": i, "score": s}.

    score_function: cos_sim, dot_score, or any that gives scores [A, B], larger being better. Raises InputError.
    """
    corpus = as_vectors(corpus_embeddings, name="corpus_embeddings")
    queries = as_vectors(query_embeddings, corpus.shape[1] if len(corpus) else None, name="query_embeddings")
    found: list[list[dict[str, int | float]]] = []
    for scores, ids in _best(queries, corpus, query_chunk_size, corpus_chunk_size, top_k, score_function):
        hits = zip(scores.tolist(), ids.tolist(), strict=True)
        found.append([{"corpus_id": i, "score": s} for s, i in hits])
    return found


def paraphrase_mining(
    model: Any,
    sentences: Sequence[str],
    show_progress_bar: bool = False,
    batch_size: int = 32,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
    **options: Any,
) -> list[list[float | int]]:
    """The pairs of sentences most alike, [[score, i, j], …] with i < j, best first; see paraphrase_mining_embeddings.

    model: anything with `encode(sentences, show_progress_bar=…, batch_size=…, **options)`.
    """
    if isinstance(sentences, str) or not isinstance(sentences, Iterable):
        raise InputError(f"sentences must be a list of strings, not {type(sentences).__name__}")
    embeddings = model.encode(list(sentences), show_progress_bar=show_progress_bar, batch_size=batch_size, **options)
    chunks = {"query_chunk_size": query_chunk_size, "corpus_chunk_size": corpus_chunk_size}
    return paraphrase_mining_embeddings(
        embeddings, max_pairs=max_pairs, top_k=top_k, score_function=score_function, **chunks
    )


def paraphrase_mining_embeddings(
    embeddings: ArrayLike,
    query_chunk_size: int = 5000,
    corpus_chunk_size: int = 100_000,
    max_pairs: int = 500_000,
    top_k: int = 100,
    score_function: ScoreFunction = cos_sim,
) -> list[list[float | int]]:
    """The max_pairs best pairs [[score, i, j], …] of vectors [N, dim], i < j, among each one's top_k neighbours.

    score_function must be symmetric. Raises InputError.
    """
    x, top_k, max_pairs = as_vectors(embeddings), whole("top_k", top_k, 1), whole("max_pairs", max_pairs, 1)
    kept = np.empty(0, PAIR)
    waiting: list[np.ndarray] = []
    for i, (scores, ids) in enumerate(_best(x, x, query_chunk_size, corpus_chunk_size, top_k + 1, score_function)):
        others = ids != i
        j = ids[others][:top_k]
        pairs = np.empty(len(j), PAIR)
        pairs["score"], pairs["i"], pairs["j"] = scores[others][:top_k], np.minimum(i, j), np.maximum(i, j)
        waiting.append(pairs)
        if len(waiting) * top_k > max(max_pairs, 1 << 20):
            kept, waiting = _top_pairs(np.concatenate([kept, *waiting]), max_pairs), []
    kept = _top_pairs(np.concatenate([kept, *waiting]), max_pairs)
    return [list(pair) for pair in kept.tolist()]


PAIR = np.dtype([("score", np.float32), ("i", np.int64), ("j", np.int64)])


def _top_pairs(pairs: np.ndarray, count: int) -> np.ndarray:
    """Each pair once, with the better of its scores (they may differ in rounding); the best `count`."""
    order = np.lexsort((-pairs["score"], pairs["j"], pairs["i"]))
    pairs = pairs[order]
    first = np.ones(len(pairs), bool)
    first[1:] = (pairs["i"][1:] != pairs["i"][:-1]) | (pairs["j"][1:] != pairs["j"][:-1])
    pairs = pairs[first]
    return pairs[np.argsort(-pairs["score"], kind="stable")[:count]]


def duplicates(embeddings: ArrayLike, threshold: float = 0.95) -> list[list[int]]:
    """Groups of two or more vectors [N, dim] that are linked by pairs with cosine >= threshold, directly or in a chain.

    Positions in a group are ascending, so its first member is the one to keep; groups come in the order of their first.
    Raises InputError.
    """
    unit = unit_rows(as_vectors(embeddings))
    limit = _threshold(threshold)
    label = np.arange(len(unit))  # the first member of each one's group
    step = max(1, BLOCK // max(1, len(unit)))
    for start in range(0, len(unit), step):
        alike = unit[start : start + step] @ unit[start:].T >= limit
        for i, row in enumerate(alike):
            row[i] = True
            linked = np.unique(label[start:][row])
            if len(linked) > 1:
                label[np.isin(label, linked)] = linked[0]
    groups: dict[int, list[int]] = {}
    for i, first in enumerate(label.tolist()):
        groups.setdefault(first, []).append(i)
    return [group for group in groups.values() if len(group) > 1]


def community_detection(
    embeddings: ArrayLike,
    threshold: float = 0.75,
    min_community_size: int = 10,
    batch_size: int = 1024,
    show_progress_bar: bool = False,
) -> list[list[int]]:
    """Disjoint communities of vectors [N, dim], largest first: a centre, then its neighbours with cosine >= threshold.

    Centres are tried by how many neighbours they have; one that belongs to a community already is passed over, and so
    are neighbours, and what then is left must still be min_community_size. Raises InputError.
    """
    from tqdm import tqdm

    unit = unit_rows(as_vectors(embeddings))
    limit, least = _threshold(threshold), whole("min_community_size", min_community_size, 1)
    batch_size = min(whole("batch_size", batch_size, 1), max(1, BLOCK // max(1, len(unit))))
    starts = range(0, len(unit), batch_size)
    bar = tqdm(starts, desc="Finding communities", disable=not show_progress_bar)
    blocks = [((unit[s : s + batch_size] @ unit.T) >= limit).sum(axis=1) for s in bar]
    counts = np.concatenate([np.empty(0, np.int64), *blocks])
    centres = np.argsort(-counts, kind="stable")
    centres = centres[counts[centres] >= least]
    used = np.zeros(len(unit), bool)
    communities: list[list[int]] = []
    for s in range(0, len(centres), batch_size):  # the same products again: cheaper than keeping all neighbours
        some = centres[s : s + batch_size]
        some = some[~used[some]]
        for centre, scores in zip(some.tolist(), unit[some] @ unit.T, strict=True):
            if used[centre]:
                continue
            members = np.flatnonzero((scores >= limit) & ~used)
            if len(members) >= least:
                members = members[np.argsort(-scores[members], kind="stable")]
                community = [centre, *members[members != centre].tolist()]
                used[community] = True
                communities.append(community)
    return sorted(communities, key=len, reverse=True)


def _threshold(threshold: float) -> np.float32:
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not -1 <= threshold <= 1:
        raise InputError(f"threshold must be a cosine, from -1 to 1, not {threshold!r}")
    return np.float32(threshold)


def _best(
    queries: Floats, corpus: Floats, query_chunk: int, corpus_chunk: int, k: int, score: ScoreFunction
) -> Iterator[tuple[Floats, Ints]]:
    """(scores, positions) of each query's k best, best first."""
    k = whole("top_k", k, 1)
    query_chunk, corpus_chunk = whole("query_chunk_size", query_chunk, 1), whole("corpus_chunk_size", corpus_chunk, 1)
    if score is cos_sim:  # normalized once
        same = queries is corpus
        corpus = unit_rows(corpus)
        queries, score = corpus if same else unit_rows(queries), _dot
    query_chunk = min(query_chunk, max(1, BLOCK // max(1, min(len(corpus), corpus_chunk))))
    corpus_chunk = min(corpus_chunk, max(1, BLOCK // query_chunk))
    for start in range(0, len(queries), query_chunk):
        some = queries[start : start + query_chunk]
        best = [(np.empty(0, np.float32), np.empty(0, np.int64))] * len(some)
        for first in range(0, len(corpus), corpus_chunk):
            part = corpus[first : first + corpus_chunk]
            scores = np.asarray(score(some, part), np.float32)
            if scores.shape != (len(some), len(part)):
                raise InputError(
                    f"score_function must give [{len(some)}, {len(part)}] scores, not {list(scores.shape)}"
                )
            best = [_merge(*old, row, first, k) for old, row in zip(best, scores, strict=True)]
        yield from best


def _dot(a: Floats, b: Floats) -> Floats:
    return a @ b.T


def _merge(scores: Floats, ids: Ints, row: Floats, first: int, k: int) -> tuple[Floats, Ints]:
    """The k best of (scores, ids), sorted, and of `row`, whose positions count from `first` and are larger than ids."""
    near = np.arange(len(row))
    if len(row) > k:
        near = np.flatnonzero(row >= np.partition(row, len(row) - k)[len(row) - k])  # the k best, and ties of the last
    scores, ids = np.concatenate([scores, row[near]]), np.concatenate([ids, near + first])
    order = np.argsort(-scores, kind="stable")[:k]
    return scores[order], ids[order]
