"""What is measured of one workload's indexes: curves, rounds at equal recall, exact search, removal, filters, threads.

Contenders take turns, as everywhere; see `benchmarks.common`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from minibi.shapes import Floats, Ints

from ..common import Ratio, interleave, ratio, say, timed
from .contenders import Contender, Minibi, minibi_threads
from .curves import Point, bracket, front, qps_at, recall
from .data import Workload, exact

K = 10
TARGETS = (0.90, 0.95, 0.99)
ENOUGH = 0.998  # recall at which a sweep ends
SINGLES = 300  # queries of a turn when each is a call of its own
SHARES = (0.1, 0.01, 0.001)  # that a filter lets through
SCALED = 30_000  # rows in a build on one and on several threads

Curves = dict[str, list[Point]]


def sweep(contenders: Sequence[Contender], work: Workload) -> Curves:
    """Recall@10 and queries per second of each contender at all its settings, all queries in one call."""
    truth = work.truth[:, :K]
    curves: Curves = {}
    for contender in contenders:
        say(f"{work.name}: sweep of {contender.name}")
        curves[contender.name] = points = []
        for setting in contender.settings:
            found = contender.search(work.queries, K, setting)
            seconds = min(timed(partial(contender.search, work.queries, K, setting)) for _ in range(2))
            points.append(Point(recall(found, truth), len(work.queries) / seconds, setting))
            if points[-1].recall >= ENOUGH and not isinstance(setting, tuple):
                break
    return curves


def rounds(contenders: Sequence[Contender], work: Workload, curves: Curves, count: int) -> dict[str, Any]:
    """Queries per second at each target of recall, of every contender in every round.

    {"batch" | "single": {name: {target: [qps of each round]}}}. In a round each contender answers the same queries at
    the two settings that lie around the target on its own front; what it would do at the target is read off between.
    "single": 300 queries, each a call from Python.
    """
    say(f"{work.name}: {count} rounds of {len(contenders)} contenders")
    singles = [work.queries[i : i + 1] for i in range(min(SINGLES, len(work.queries)))]
    fronts = {c.name: front(curves[c.name]) for c in contenders}

    runs: dict[tuple[str, str, Any], Any] = {}
    for contender in contenders:
        for target in TARGETS:
            for point in bracket(fronts[contender.name], target):
                setting = point.setting
                runs["batch", contender.name, setting] = partial(contender.search, work.queries, K, setting)
                if target == 0.95:
                    runs["single", contender.name, setting] = partial(
                        one_by_one, partial(contender.search, k=K, setting=setting), singles
                    )
    times = interleave(runs, count)
    sizes = {"batch": len(work.queries), "single": len(singles)}
    found: dict[str, Any] = {mode: {} for mode in sizes}
    for mode, name in dict.fromkeys((mode, name) for mode, name, _ in runs):
        found[mode][name] = by_target = {}
        for target in TARGETS if mode == "batch" else (0.95,):
            around = bracket(fronts[name], target)
            if around:
                by_target[target] = [
                    qps_at([p._replace(qps=sizes[mode] / times[mode, name, p.setting][r]) for p in around], target)
                    for r in range(count)
                ]
    return found


def at_equal_recall(found: dict[str, Any]) -> list[dict[str, Any]]:
    """minibi's queries per second over every peer's, medians over rounds; the fastest peer of each target is marked."""
    rows = []
    for mode, by_name in found.items():
        for target in TARGETS:
            here = {name: by_target[target] for name, by_target in by_name.items() if target in by_target}
            peers = [name for name in here if not name.startswith("minibi")]
            best = max(peers, key=lambda name: Ratio.of(here[name]).median, default=None)
            rows += [
                {"mode": mode, "recall": target, "minibi": mine, "peer": peer, "best": peer == best}
                | {"ratio": ratio(here[mine], here[peer])}
                for mine in here
                if mine.startswith("minibi")
                for peer in peers
            ]
    return rows


def exact_search(contenders: Sequence[Contender], work: Workload, count: int) -> list[dict[str, Any]]:
    """Milliseconds per query of 100 in one call and of 20 in a call each, beside NumPy's product and a selection."""
    batch, singles = work.queries[:100], [work.queries[i : i + 1] for i in range(20)]
    ways: dict[str, Callable[[Floats], Any]] = {c.name: partial(_first, c) for c in contenders}
    ways["NumPy"] = lambda queries: exact(work.vectors, queries, K)
    runs: dict[tuple[str, int], Any] = {(name, 100): partial(search, batch) for name, search in ways.items()}
    runs |= {(name, 1): partial(one_by_one, search, singles) for name, search in ways.items()}
    times = interleave(runs, count)
    recalls = {name: recall(search(batch), work.truth[:100, :K]) for name, search in ways.items()}
    return [
        {"name": name, "queries": n, "ms": Ratio.of(1000 * t / max(n, len(singles)) for t in times[name, n])}
        | {"recall": recalls[name]}
        | {"over": {other: ratio(times[other, n], times[name, n]) for other in ways if other != name}}
        for name, n in runs
    ]


def one_by_one(search: Callable[[Floats], Any], singles: Sequence[Floats]) -> None:
    """Every query a call of its own."""
    for query in singles:
        search(query)


def _first(contender: Contender, queries: Floats) -> Ints:
    return contender.search(queries, K, None)


def setting_at(curve: Sequence[Point], target: float) -> Any:
    """The fastest setting that reaches the target, or the most thorough one."""
    curve = front(curve)
    return (bracket(curve, target) or curve)[-1].setting


def removal(contender: Minibi, work: Workload, file: Path, curve: Sequence[Point]) -> dict[str, Any] | None:
    """Half of the rows removed at random, beside an index of the other half; None where nothing can be removed."""
    if not contender.can("remove"):
        return None
    say(f"{work.name}: removing half of {contender.name}")
    setting = setting_at(curve, 0.95)
    order = np.random.default_rng(0).permutation(len(work))
    gone, kept = np.sort(order[::2]), np.sort(order[1::2])
    truth = kept[exact(work.vectors[kept], work.queries, K)]
    fresh = Minibi(contender.name, contender.make, contender.settings, contender.knobs)
    fresh.build(work.vectors[kept], 1)
    rebuilt = kept[fresh.search(work.queries, K, setting)]
    contender.load(file, work.vectors, 1)
    seconds = timed(lambda: contender.index.remove(gone))
    found = contender.search(work.queries, K, setting)
    result = {
        "name": contender.name,
        "setting": setting,
        "seconds": seconds,
        "recall": recall(found, truth),
        "fresh": recall(rebuilt, truth),
        "removed_returned": int(np.isin(found, gone).sum()),
        "problems": contender.index.check(),
    }
    contender.load(file, work.vectors, 1)
    return result


def filters(contender: Contender, work: Workload, curve: Sequence[Point]) -> list[dict[str, Any]]:
    """Recall@10 and speed when a random share of the rows is allowed, at the setting for 0.95 without a filter."""
    setting, rows = setting_at(curve, 0.95), []
    for share in SHARES:
        size = max(K, round(share * len(work)))
        allowed = np.sort(np.random.default_rng(1).choice(len(work), size, replace=False))
        truth = allowed[exact(work.vectors[allowed], work.queries, K)]
        run = filtered(contender, work.queries, setting, allowed)
        if run is None:
            return []
        found = run()
        rows.append(
            {
                "name": contender.name,
                "share": share,
                "recall": recall(found, truth),
                "qps": len(work.queries) / timed(run),
                "forbidden_returned": int((~np.isin(found, allowed) & (found >= 0)).sum()),
            }
        )
    return rows


def filtered(contender: Contender, queries: Floats, setting: Any, allowed: Ints) -> Any:
    """A call that searches among the `allowed` rows alone, or None where there is no such way."""
    if isinstance(contender, Minibi):
        if not contender.can("search", "filter"):
            return None
        return lambda: contender.search(queries, K, setting, filter=allowed)
    if contender.name in ("faiss HNSWFlat", "faiss HNSW-SQ8"):
        import faiss

        chosen = faiss.SearchParametersHNSW(sel=faiss.IDSelectorBatch(allowed), efSearch=setting)
        return lambda: contender.index.search(queries, K, params=chosen)[1]
    return None


def scaling(contenders: Sequence[Minibi], work: Workload, curves: Curves, threads: int, count: int) -> list[Any]:
    """Build and search of minibi on one and on `threads` threads, beside as many processes of pure arithmetic."""
    from ..roofline import Burners

    def on(contender: Minibi, run: Any, threads: int) -> None:
        with minibi_threads(threads):
            run(contender, threads)

    def search(setting: Any, contender: Minibi, threads: int) -> None:
        contender.search(work.queries, K, setting)

    def build(contender: Minibi, threads: int) -> None:
        Minibi(contender.name, contender.make).build(work.vectors[:SCALED], threads)

    results = []
    with Burners(threads) as burners:
        for what, turns in (("search", count), ("build", 3)):
            runs: dict[Any, Any] = {("burn", n): partial(burners.run, n) for n in (1, threads)}
            for c in contenders:
                run = partial(search, setting_at(curves[c.name], 0.95)) if what == "search" else build
                runs |= {(c.name, n): partial(on, c, run, n) for n in (1, threads)}
            say(f"{work.name}: {what} on 1 and {threads} threads, {turns} rounds")
            times = interleave(runs, turns, seconds=0.3)
            ceiling = [threads * a / b for a, b in zip(times["burn", 1], times["burn", threads], strict=True)]
            for c in contenders:
                gain = [a / b for a, b in zip(times[c.name, 1], times[c.name, threads], strict=True)]
                results.append(
                    {"what": what, "name": c.name, "gain": Ratio.of(gain), "ceiling": Ratio.of(ceiling)}
                    | {"share": ratio(gain, ceiling), "seconds": Ratio.of(times[c.name, 1])}
                )
    return results
