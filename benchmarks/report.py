"""The encoder benchmark's result as Markdown tables that also read as plain text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .common import describe, table


def render(result: dict[str, Any]) -> str:
    parts = [describe(result["machine"], result["versions"])]
    threads, rounds = result["threads"], result["rounds"]
    what = "processor time, " if result["clock"] == "process_time" else ""
    parts.append(f"{threads} thread{'s' if threads > 1 else ''}, {rounds} rounds; {what}medians (quartiles)")
    parts += [f"{name} took no part: {reason}" for name, reason in result["absent"].items()]
    for work in result.get("workloads", {}).values():
        parts += _workload(work)
    for name in ("scaling", "roofline", "accuracy", "ndcg_at_10", "startup", "memory"):
        if result.get(name):
            parts += _TABLES[name](result[name])
    return "\n\n".join(parts)


def _goal(median: float, goal: float | None, form: str = ".2f") -> str:
    """ "≥ 1.20 yes" or "≥ 1.20 no"; nothing where no goal is set."""
    return "" if goal is None else f"≥ {goal:{form}} {'yes' if median >= goal else 'no'}"


def _workload(work: dict[str, Any]) -> Iterator[str]:
    yield f"## {work['title']} ({work['texts']} × {work['tokens'] / work['texts']:.0f} tokens)"
    rows = []
    for c in work["contenders"]:
        seconds = c["seconds"].median
        speed = f"{1e6 * seconds / work['tokens']:.1f}"
        rows.append((c["from"], c["name"], c["setting"], f"{1e3 * seconds:.2f}", speed, f"{c['lowest_cosine']:.5f}"))
    yield table(("from", "contender", "setting", "ms", "µs/token", "lowest cosine to torch"), rows, left=3)
    rows = [
        (r["from"], f"minibi {r['minibi']}", r["peer"], r["setting"], r["ratio"], _goal(r["ratio"].median, r["goal"]))
        for r in work["ratios"]
    ]
    if rows:
        yield table(("from", "", "is faster than", "setting", "times", "goal"), rows, left=4)


def _scaling(found: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Threads: text to vector, several threads over one, and as many processes of register arithmetic over one"
    rows = [
        (r["workload"], r["minibi"], r["gain"], r["ceiling"], r["share"], _goal(r["share"].median, r["goal"]))
        for r in found
    ]
    yield table(("workload", "minibi", "threads", "processes", "share", "goal"), rows, left=2)


def _roofline(found: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Roofline: the matrix kernel's share of a register-only loop's speed"
    rows: list[tuple[Any, ...]] = []
    for r in found:
        if r["where"] == "alone":
            peak = f"{r['peak_gops'].median:.0f} Gop/s"
            for name, share in r["shares"].items():
                goal = r["goal"] if name == "all four" else None
                rows.append((r["minibi"], f"alone, {r['rows']} rows, {name}", peak, share, _goal(share.median, goal)))
        else:
            share = r["kernels"]
            rows.append((r["minibi"], "matrix kernels inside the model", "", share, _goal(share.median, r["goal"])))
            rows.append((r["minibi"], "the whole model, ids to vectors", "", r["model"], ""))
    yield table(("minibi", "what", "peak", "share", "goal"), rows, left=2)
    for r in found:
        if r["where"] == "in sequence":
            spent = ", ".join(f"{name} {us.median:.1f}" for name, us in r["us_per_token"].items())
            yield f"{r['minibi']}, µs per token of the pass: {spent}"


def _accuracy(found: list[dict[str, Any]]) -> Iterator[str]:
    yield f"## Accuracy: distance to torch float32 with the same stored weights, {found[0]['texts']} texts"
    rows = [
        (r["name"], *(f"{r[key]:.1e}" for key in ("largest_difference", "cosine_error_mean", "cosine_error_max")))
        for r in found
    ]
    yield table(("", "max abs difference", "mean 1 − cosine", "max 1 − cosine"), rows)


def _ndcg(found: dict[str, float]) -> Iterator[str]:
    yield "## SciFact nDCG@10"
    yield table(("", "nDCG@10"), [(name, f"{score:.4f}") for name, score in found.items()])


def _startup(found: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Process start to first query vector, caches warm"
    yield table(("", "seconds"), [(r["name"], r["seconds"]) for r in found])


def _memory(found: list[dict[str, Any]]) -> Iterator[str]:
    yield "## Peak resident memory of encoding a list of passages"
    keys = ("peak_mb", "before_mb", "texts_mb", "vectors_mb", "texts_per_second")
    rows = [(r["minibi"], r["passages"], *(f"{r[key]:.0f}" for key in keys)) for r in found]
    yield table(("minibi", "passages", "peak MB", "before MB", "texts MB", "vectors MB", "texts/s"), rows)


_TABLES = {
    "scaling": _scaling,
    "roofline": _roofline,
    "accuracy": _accuracy,
    "ndcg_at_10": _ndcg,
    "startup": _startup,
    "memory": _memory,
}
