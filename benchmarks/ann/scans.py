"""Scans of codes of one and a few bits, all rows in one list: signs and RaBitQ, beside faiss's.

What minibi takes includes ordering the best by the vectors as stored, as `IndexRefineFlat` does for faiss's RaBitQ;
faiss's `IndexBinaryFlat` has signs alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from minibi.shapes import Floats, Ints

from ..common import Ratio, interleave, say
from .curves import recall
from .data import Workload
from .measures import one_by_one

K, BATCH, SINGLES = 10, 200, 50
Search = Callable[[Floats], Ints]


def scans(work: Workload, rounds: int, wanted: Callable[[str], bool], peers: bool) -> list[dict[str, Any]]:
    """Milliseconds per query of 200 in one call and of 50 in a call each, with recall@10."""
    ways: dict[str, Search] = {}
    for make in (_minibi, _faiss) if peers else (_minibi,):
        ways |= make(work, wanted)
    say(f"{work.name}: {rounds} rounds of {len(ways)} scans")
    batch, singles = work.queries[:BATCH], [work.queries[i : i + 1] for i in range(SINGLES)]
    runs: dict[Any, Any] = {(name, BATCH): partial(search, batch) for name, search in ways.items()}
    runs |= {(name, 1): partial(one_by_one, search, singles) for name, search in ways.items()}
    times = interleave(runs, rounds)
    return [
        {"name": name, "recall": recall(search(batch)[:, :K], work.truth[:BATCH, :K])}
        | {"batch": Ratio.of(1000 * t / BATCH for t in times[name, BATCH])}
        | {"single": Ratio.of(1000 * t / SINGLES for t in times[name, 1])}
        for name, search in ways.items()
    ]


def _minibi(work: Workload, wanted: Callable[[str], bool]) -> dict[str, Search]:
    from minibi import index_factory

    ways: dict[str, Search] = {}
    described = {"signs": "Binary"} | {f"RaBitQ of {b} bit{'s' if b > 1 else ''}": f"RaBitQ{b}" for b in (1, 2, 4, 8)}
    for name, form in described.items():
        if not wanted(f"minibi {name}"):
            continue
        say(f"{work.name}: building minibi {name}")
        index = index_factory(form, work.dim, "cosine")
        index.train(work.vectors)
        index.add(work.vectors)
        for ef in (100, 400) if name == "signs" else (None,):
            more = {"ef": ef} if ef else {}
            label = f"minibi {name}" + (f", ef {ef}" if ef else "")
            ways[label] = lambda queries, index=index, more=more: index.search(queries, K, **more)[1]
    return ways


def _faiss(work: Workload, wanted: Callable[[str], bool]) -> dict[str, Search]:
    import faiss

    faiss.omp_set_num_threads(1)
    ways: dict[str, Search] = {}
    if wanted("faiss IndexBinaryFlat"):
        centre = work.vectors.mean(axis=0)
        signs = faiss.IndexBinaryFlat(work.dim)
        signs.add(np.packbits(work.vectors > centre, axis=1))
        for k in (100, 400):
            ways[f"faiss IndexBinaryFlat, k {k}"] = lambda queries, k=k: signs.search(
                np.packbits(queries > centre, axis=1), k
            )[1]
    for name, kind in (("RaBitQfs", faiss.IndexRaBitQFastScan), ("RaBitQ", faiss.IndexRaBitQ)):
        if not wanted(f"faiss {name}"):
            continue
        say(f"{work.name}: building faiss {name}")
        index = faiss.IndexRefineFlat(kind(work.dim, faiss.METRIC_INNER_PRODUCT))
        index.train(work.vectors)
        index.add(work.vectors)
        for factor in (10, 40):
            chosen = faiss.IndexRefineSearchParameters(k_factor=factor)
            ways[f"faiss {name}, k_factor {factor}"] = lambda queries, index=index, chosen=chosen: index.search(
                queries, K, params=chosen
            )[1]
    return ways
