"""The usual pipelines over a list of texts, by name: what `minibi eval --pipeline` measures.

    pipeline = build("hybrid", ids, texts, model=BiEncoder("all-MiniLM-L6-v2"))
    pipeline.search("a question", 10)

dense: single vectors, compared exactly · bm25: words · hybrid: both, fused by reciprocal rank · colbert: a vector for
each token, compared by MaxSim · rerank: hybrid, reordered by `reranker`. With `window`, documents are read in windows;
but words of whole documents are counted in hybrid, where they lose nothing, while a reranker reads windows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..errors import InputError
from ..models.bi_encoder import BiEncoder
from ..models.late_interaction import LateInteraction
from ..models.towers import Towers
from .pipeline import Pipeline
from .rerank import Judge
from .retrievers import Dense, Late, Lexical, Retriever
from .windowed import Windowed

PRESETS = ("dense", "bm25", "hybrid", "colbert", "rerank")


def build(
    preset: str,
    ids: Sequence[str],
    texts: Sequence[str],
    *,
    model: BiEncoder | Towers | None = None,
    late: LateInteraction | None = None,
    reranker: Judge | None = None,
    window: int | None = None,
    aggregate: str = "max",
    depth: int = 100,
    budget_ms: float | None = None,
    show_progress_bar: bool = False,
) -> Pipeline:
    """A pipeline over texts, each known by its id. Texts beyond a model's limit are cut, as is usual in evaluation,
    unless there are windows.

    model: for dense, hybrid and rerank, and for the windows of bm25. late: for colbert. reranker: for rerank. window:
    tokens of the windows that texts are read in; aggregate: how these make a document's score, see `Windowed`. Raises
    InputError if something is missing.
    """
    if preset not in PRESETS:
        raise InputError(f"pipeline {preset!r} is not one of {list(PRESETS)}")
    if len(ids) != len(texts):
        raise InputError(f"there must be one id for each text, not {len(ids)} for {len(texts)}")
    wanted: list[tuple[str, Callable[[], Retriever]]] = [
        ("dense", lambda: Dense(_given(model, preset, "model"))),
        ("bm25", Lexical),
        ("colbert", lambda: Late(_given(late, preset, "late"))),
    ]
    names = ("dense", "bm25") if preset in ("hybrid", "rerank") else (preset,)
    judge = _given(reranker, preset, "reranker") if preset == "rerank" else None
    retrievers = [make() for name, make in wanted if name in names]
    if window is not None:
        tokenizer = late.tokenizer if preset == "colbert" else _given(model, preset, "model").tokenizer
        for i, retriever in enumerate(retrievers):
            if preset != "hybrid" or retriever.name != "bm25":
                retrievers[i] = Windowed(retriever, size=window, aggregate=aggregate, tokenizer=tokenizer)
    options: dict[str, Any] = {"truncation": "silent", "show_progress_bar": show_progress_bar}
    for retriever in retrievers:
        retriever.add(texts, ids, **({} if retriever.name == "bm25" else options))
    return Pipeline(retrievers, rerank=judge, depth=depth, budget_ms=budget_ms)


def _given(value: Any, preset: str, name: str) -> Any:
    if value is None:
        raise InputError(f"the {preset} pipeline needs {name}=")
    return value
