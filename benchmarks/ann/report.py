"""The index benchmark's result as Markdown tables that also read as plain text, and as curves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..common import Ratio, describe, table
from .curves import front
from .measures import TARGETS

STANDARD = "synthetic-100000x384"  # the workload that is called synthetic

# What minibi sets itself to reach: (mode, peer, recall) -> its best index at least so many times faster.
GOALS = {
    "synthetic": {
        ("batch", "hnswlib", 0.95): 4.5,
        ("batch", "faiss HNSWFlat", 0.95): 5.0,
        ("batch", "best", 0.90): 1.7,
        ("batch", "best", 0.95): 1.7,
        ("batch", "best", 0.99): 1.4,
        ("single", "hnswlib", 0.95): 2.5,
    },
    "real": {
        ("batch", "hnswlib", 0.95): 4.2,
        ("batch", "faiss HNSWFlat", 0.95): 4.6,
        ("batch", "best", 0.95): 1.9,
        ("single", "hnswlib", 0.95): 2.0,
    },
}
BUILD = {"synthetic": 4.5, "real": 3.7}  # times hnswlib's speed
EXACT = {100: 1.7, 1: 4.0}  # queries at a time -> times the speed of faiss's flat index
SHARE = 0.9  # several threads over one, of as many processes


def render(result: dict[str, Any]) -> str:
    parts = [describe(result["machine"], result["versions"])]
    threads, rounds = result["threads"], result["rounds"]
    parts.append(f"{threads} thread{'s' if threads > 1 else ''}, {rounds} rounds; medians (quartiles)")
    for name, work in result["workloads"].items():
        parts.append(f"## {work['title']} (local intrinsic dimension {work['intrinsic_dimension']:.1f})")
        parts += [f"{absent} took no part: {reason}" for absent, reason in work["absent"].items()]
        for key, make in _TABLES.items():
            if work.get(key):
                parts += make(work[key], "synthetic" if name == STANDARD else name)
    return "\n\n".join(parts)


def _goal(median: float, goal: float | None) -> str:
    return "" if goal is None else f"≥ {goal:.2f} {'yes' if median >= goal else 'no'}"


def _indexes(found: dict[str, Any], name: str) -> Iterator[str]:
    reference = found.get("hnswlib", {}).get("build_seconds")
    rows = []
    for contender, facts in found.items():
        faster = reference / facts["build_seconds"] if reference else None
        graph = contender.startswith("minibi HNSW")
        rows.append(
            (
                contender,
                f"{facts['build_seconds']:.1f}",
                f"{facts['quiet']:.2f}",
                f"{faster:.2f}" if faster else "",
                _goal(faster, BUILD.get(name)) if faster and graph else "",
                f"{facts['bytes_per_vector']:.0f}",
                f"{facts['save_seconds']:.2f}",
                f"{facts['load_seconds']:.2f}",
            )
        )
    yield "Build (once, kept; quiet: share of the time in which the processor was its own), file, saving and loading"
    headings = ("index", "build s", "quiet", "× hnswlib", "goal", "bytes/vector", "save s", "load s")
    yield table(headings, rows)


def _qps(found: dict[str, Any], name: str) -> Iterator[str]:
    rows = []
    for contender, by_target in found["batch"].items():
        single = found["single"].get(contender, {}).get(0.95)
        speeds = [_kilo(by_target.get(target)) for target in TARGETS]
        rows.append((contender, *speeds, _kilo(single)))
    yield "Queries per second at recall@10, all in one call, and one query per call from Python"
    yield table(("index", *(f"{target:.2f}" for target in TARGETS), "single, 0.95"), rows)


def _kilo(values: list[float] | None) -> str:
    return f"{Ratio.of(values).median:,.0f}" if values else "–"


def _ratios(found: list[dict[str, Any]], name: str) -> Iterator[str]:
    goals = GOALS.get(name, {})
    rows = []
    for r in found:
        goal = goals.get((r["mode"], r["peer"], r["recall"]))
        if r["best"] and goal is None:
            goal = goals.get((r["mode"], "best", r["recall"]))
        peer = r["peer"] + (" (the best)" if r["best"] else "")
        rows.append((r["mode"], f"{r['recall']:.2f}", r["minibi"], peer, r["ratio"], _goal(r["ratio"].median, goal)))
    yield "Times faster at equal recall"
    yield table(("queries", "recall@10", "", "is faster than", "times", "goal"), rows, left=4)


def _exact(found: list[dict[str, Any]], name: str) -> Iterator[str]:
    rows = []
    for r in found:
        peers = [x for other, x in r["over"].items() if other.startswith("faiss") and other != r["name"]]
        over = min(peers, key=lambda x: x.median, default=None)  # the faster of its ways
        goal = EXACT.get(r["queries"]) if name in GOALS and r["name"].startswith("minibi") else None
        rows.append(
            (r["queries"], r["name"], r["ms"], f"{r['recall']:.4f}", over, _goal(over.median, goal) if over else "")
        )
    yield "Exact search, milliseconds per query"
    yield table(("queries", "", "ms", "recall@10", "× the faster faiss", "goal"), rows, left=2)


def _filters(found: list[dict[str, Any]], name: str) -> Iterator[str]:
    rows = [
        (r["name"], f"{100 * r['share']:g} %", f"{r['recall']:.4f}", f"{r['qps']:,.0f}", r["forbidden_returned"])
        for r in found
    ]
    yield "A random share of the rows allowed, at the setting that gives recall 0.95 without a filter"
    yield table(("index", "allowed", "recall@10", "QPS", "forbidden returned"), rows, left=2)


def _removal(found: list[dict[str, Any]], name: str) -> Iterator[str]:
    rows = [
        (r["name"], f"{r['recall']:.4f}", f"{r['fresh']:.4f}", r["removed_returned"], len(r["problems"]), r["seconds"])
        for r in found
    ]
    rows = [(*row[:-1], f"{row[-1]:.1f}") for row in rows]
    yield "After removing half at random, beside an index built of the rest"
    yield table(("index", "recall@10", "fresh", "removed returned", "problems", "seconds"), rows)


def _scans(found: list[dict[str, Any]], name: str) -> Iterator[str]:
    rows = [(r["name"], r["batch"], r["single"], f"{r['recall']:.4f}") for r in found]
    yield "Codes of a few bits, every one read: milliseconds per query, 200 in one call and one a call"
    yield table(("codes", "ms", "ms alone", "recall@10"), rows)


def _scaling(found: list[dict[str, Any]], name: str) -> Iterator[str]:
    rows = [(r["what"], r["name"], r["gain"], r["ceiling"], r["share"], _goal(r["share"].median, SHARE)) for r in found]
    yield "Several threads over one, beside as many processes of register arithmetic over one"
    yield table(("what", "index", "threads", "processes", "share", "goal"), rows, left=2)


_TABLES = {
    "indexes": _indexes,
    "qps": _qps,
    "ratios": _ratios,
    "exact": _exact,
    "filters": _filters,
    "removal": _removal,
    "scans": _scans,
    "scaling": _scaling,
}


def plot(result: dict[str, Any], folder: Path) -> None:
    """ann_NAME.png for every workload whose curves were measured: recall@10 across, queries per second upwards."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    for name, work in result["workloads"].items():
        if not work.get("curves"):
            continue
        figure, axes = plt.subplots(figsize=(8, 5.2), dpi=120)
        for contender, points in work["curves"].items():
            best = front(points)
            style = {"lw": 2.4, "marker": "o"} if contender.startswith("minibi") else {"lw": 1.2, "marker": "."}
            line = "--" if "IVF" in contender else "-"
            axes.plot([p.recall for p in best], [p.qps for p in best], line, ms=4, label=contender, **style)
        axes.set(yscale="log", xlim=(0.8, 1.002), xlabel="recall@10", ylabel="queries per second, one thread")
        axes.set_title(work["title"])
        axes.grid(alpha=0.3, which="both")
        axes.legend(fontsize=8, loc="lower left")
        figure.tight_layout()
        figure.savefig(folder / f"ann_{'synthetic' if name == STANDARD else name}.png")
        plt.close(figure)
