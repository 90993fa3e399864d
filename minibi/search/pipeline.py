"""Pipeline: candidates from one or several retrievers, fused, then reordered by a better judge. Every stage timed.

    pipeline = Pipeline([dense, bm25], rerank=CrossEncoder(folder), texts=dict(zip(ids, passages)))
    hits = pipeline.search("does aspirin thin the blood?", k=10)
    hits                       # a table; hits.explain() says what each stage thought of each hit

    retrieve (depth) -> fuse -> rerank (depth) -> the k best

Each stage is optional but the first. A retriever is anything with `search(query, k)` that returns hits, arrays or a
mapping id -> score; retrievers must speak of the same ids.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..arguments import whole
from ..errors import InputError
from ..evaluate.ranking import as_ranking
from ..threads import parallel_map
from .fusion import Tuned, convex, reciprocal_rank
from .hits import Evidence, Hit, Hits
from .rerank import Judge, as_judge, rerank

FUSIONS: dict[str, Callable[..., Hits]] = {"rrf": reciprocal_rank, "convex": convex}
Texts = Mapping[Any, str] | Callable[[Any], str]


class Pipeline:
    """retrievers: one, a list (named by their `name`), or a mapping name -> retriever.

    fuse: "rrf" (reciprocal rank, k = 60), "convex" (min-max), what `fusion.tune` returned, or any function of
    {name: ranking} that returns Hits. rerank: a CrossEncoder, a LateInteraction model, a Late retriever or a function
    (query, texts) -> scores. depth: candidates taken from each retriever, and how many are reranked. texts: id -> text,
    a mapping or a function, for hits that come without; reranking reads them. budget_ms: time for reranking, see
    `rerank`. parallel: ask several retrievers at once, on threads. Raises InputError.
    """

    def __init__(
        self,
        retrievers: Any,
        *,
        fuse: str | Callable[[Mapping[str, Any]], Hits] = "rrf",
        rerank: Judge | None = None,
        depth: int = 100,
        texts: Texts | None = None,
        budget_ms: float | None = None,
        parallel: bool = False,
    ):
        self.retrievers = _named(retrievers)
        self.fuse: Callable[..., Hits] = FUSIONS.get(fuse) if isinstance(fuse, str) else fuse  # type: ignore[assignment]
        if not callable(self.fuse):
            raise InputError(f"fuse must be one of {list(FUSIONS)} or a function, not {fuse!r}")
        self._fuses_top = isinstance(self.fuse, Tuned) or self.fuse in FUSIONS.values()  # takes top_k
        self.judge = rerank
        if rerank is not None:
            as_judge(rerank)  # complains now rather than at the first query
        self.depth, self.texts, self.parallel = whole("depth", depth, 1), texts, parallel
        self.budget_ms = _budget(budget_ms)

    def __repr__(self) -> str:
        fused = "" if len(self.retrievers) == 1 else ", fused"
        return f"Pipeline({' + '.join(self.retrievers)}{fused}{', reranked' if self.judge else ''}, depth={self.depth})"

    def search(self, query: str, k: int = 10, *, budget_ms: float | None = None, **options: Any) -> Hits:
        """The k best hits, each with the evidence of every stage; `hits.seconds` holds the time of each.

        budget_ms: instead of the pipeline's own. options: for every retriever's search, such as filter. Asking for more
        than `depth` deepens the whole search. Raises InputError.
        """
        if not isinstance(query, str):
            raise InputError(f"a query is one string, not {type(query).__name__}")
        depth = max(self.depth, whole("k", k, 1))
        seconds: dict[str, float] = {}
        found = self._retrieve(query, depth, seconds, options)
        start = time.perf_counter()
        wanted = k if self.judge is None else depth
        if len(found) == 1:
            hits = self._one(*found.popitem(), wanted)
        else:
            hits = self.fuse(found, top_k=wanted) if self._fuses_top else self.fuse(found)
            if not isinstance(hits, Hits):
                raise InputError(f"fuse must return Hits, as reciprocal_rank does, not {type(hits).__name__}")
            seconds["fuse"] = time.perf_counter() - start
        hits = Hits(tuple(map(self._with_text, hits[:wanted])), query, seconds, hits.notes)
        if self.judge is None:
            return hits
        return rerank(hits, self.judge, budget_ms=self.budget_ms if budget_ms is None else _budget(budget_ms))[:k]

    def _retrieve(self, query: str, depth: int, seconds: dict[str, float], options: dict[str, Any]) -> dict[str, Any]:
        def ask(name: str) -> tuple[str, Any, float]:
            start = time.perf_counter()
            return name, self.retrievers[name].search(query, depth, **options), time.perf_counter() - start

        names = list(self.retrievers)
        answers = list(parallel_map(ask, names)) if self.parallel and len(names) > 1 else [ask(name) for name in names]
        for name, answer, took in answers:
            stages = getattr(answer, "seconds", None) or {"": took}
            seconds.update({f"{name} {stage}".strip(): value for stage, value in stages.items()})
        return {name: answer for name, answer, _ in answers}

    @staticmethod
    def _one(name: str, answer: Any, wanted: int) -> Hits:
        """A single retriever's answer, with itself as evidence."""
        ranked = list(as_ranking(answer, name).items())[:wanted]
        known = {hit.id: hit for hit in answer} if isinstance(answer, Hits) else {}
        return Hits(
            tuple(
                (known.get(id) or Hit(score, id=id)).scored(score, (Evidence(name, rank, score),))
                for rank, (id, score) in enumerate(ranked, 1)
            )
        )

    def _with_text(self, hit: Hit) -> Hit:
        if self.texts is None or hit.text:
            return hit
        try:
            text = self.texts(hit.id) if callable(self.texts) else self.texts[hit.id]
        except (KeyError, IndexError):
            raise InputError(f"texts holds nothing for id {hit.id!r}, which a retriever found") from None
        return replace(hit, text=text)


def _named(retrievers: Any) -> dict[str, Any]:
    if not isinstance(retrievers, Mapping):
        listed = list(retrievers) if isinstance(retrievers, (list, tuple)) else [retrievers]
        names = [getattr(r, "name", type(r).__name__.lower()) for r in listed]
        double = next((name for name in names if names.count(name) > 1), None)
        if double:
            raise InputError(f"two retrievers are called {double!r}: pass a mapping from name to retriever")
        retrievers = dict(zip(names, listed, strict=True))
    if not retrievers:
        raise InputError("a pipeline needs a retriever at least")
    for name, retriever in retrievers.items():
        if not callable(getattr(retriever, "search", None)):
            raise InputError(f"{name!r} has no search(query, k): wrap it in Dense, Lexical or Late")
    return dict(retrievers)


def _budget(budget_ms: float | None) -> float | None:
    if budget_ms is None:
        return None
    if isinstance(budget_ms, bool) or not isinstance(budget_ms, (int, float)) or not budget_ms >= 0:
        raise InputError(f"budget_ms must be a number of milliseconds of at least 0, not {budget_ms!r}")
    return float(budget_ms)
