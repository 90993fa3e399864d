"""The encoder beside its peers: python -m benchmarks.encoder [--threads N] [--only NAMES] [--rounds R] [--json] ...

One process, contenders in turn, one thread each unless told otherwise. For every workload the peers first choose their
own settings (exported graph, batch size), then all run `--rounds` rounds; a ratio is the median over rounds of peer's
time / minibi's time, with its quartiles. With --threads N > 1 the question is another: how much faster minibi is on N
threads than on one, as a share of what N processes of pure arithmetic get from the machine in the same rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import Clock, Ratio, interleave, limit_threads, machine, ratio, say, timed, versions
from .export_onnx import MODEL
from .report import render

if TYPE_CHECKING:
    from .contenders import Minibi, Peers
    from .workloads import Workload

WORKLOADS = ("query", "texts", "mixed", "pairs", "documents")
EXTRAS = ("roofline", "accuracy", "startup")
PACKAGES = ("numpy", "numba", "llvmlite", "tokenizers", "torch", "transformers", "sentence-transformers")
PACKAGES += ("onnxruntime", "onnx", "fastembed")

# What minibi sets itself to reach: (minibi's arithmetic, peer) -> at least so many times faster.
GOALS = {
    ("float32", "onnxruntime float32"): 1.2,
    ("int8", "onnxruntime float32"): 2.8,
    ("int8", "onnxruntime int8"): 1.6,
    ("float32", "sentence-transformers"): 2.4,
    ("int8", "sentence-transformers"): 5.0,
}
GOALS_DOCUMENTS = {("float32", "onnxruntime float32"): 1.2, ("int8", "onnxruntime float32"): 2.2}
SHARES = {  # of a peak measured in the same run: the kernel alone, inside the model, N threads of N processes
    "alone": {"float32": 0.80, "int8": 0.72},
    "in sequence": {"float32": 0.75, "int8": 0.68},
    "threads": {"float32": 0.95, "int8": 0.93},
}


def finalists(work: Workload, members: dict[str, Any], clock: Clock, keep: int) -> dict[str, Callable[[], Any]]:
    """The `keep` fastest settings of one class of peers, as "graph, batch n" -> call.

    All members with all batch sizes are tried on about 32 of the texts; those within a fifth of the best once more.
    """
    from .contenders import BATCH_SIZES

    step = max(1, len(work.ids) // 32)
    columns = {name: getattr(work, name)[::step] for name in ("texts", "ids", "types")}
    few = dataclasses.replace(work, **columns)
    settings = [(name, size) for name in members for size in BATCH_SIZES if size == 1 or size <= len(few.ids)]
    runs = {(name, size): members[name].ids(few, size) for name, size in settings}
    for name in members:
        runs[name, settings[0][1]]()  # the first call of a session sets up its memory
    calls = max(1, round(0.05 / timed(runs[settings[0]])))
    seconds = {setting: timed(run, calls, clock) for setting, run in runs.items()}
    best = min(seconds.values())
    for setting in [s for s in settings if seconds[s] <= 1.2 * best]:
        seconds[setting] = min(seconds[setting], timed(runs[setting], calls, clock))
    chosen = sorted(seconds, key=seconds.__getitem__)[:keep]
    return {f"{name}, batch {size}": members[name].ids(work, size) for name, size in chosen}


def compare(work: Workload, ours: dict[str, Minibi], peers: Peers, rounds: int, clock: Clock) -> dict[str, Any]:
    """All contenders on one workload: times, how true their vectors are, and minibi's ratios to the best peers."""
    import numpy as np

    say(f"{work.name}: peers choose their settings")
    runs: dict[tuple[str, str, str], Callable[[], Any]] = {}  # (from what, contender, setting)
    for compute, model in ours.items():
        runs["ids", f"minibi {compute}", ""] = model.ids(work)
        runs["text", f"minibi {compute}", ""] = model.text(work)
    for name, members in peers.from_ids().items():
        runs |= {
            ("ids", name, setting): run
            for setting, run in finalists(work, members, clock, keep=min(2, len(members))).items()
        }
    runs |= {("text", name, ""): run for name, run in peers.from_text(work).items()}

    say(f"{work.name}: checking vectors")
    truth = (peers.torch.ids(work, 1) if peers.torch else next(iter(runs.values())))()
    cosines = {}
    for key, run in runs.items():
        v = np.asarray(run())
        assert v.shape == truth.shape, f"{key}: {v.shape}, not {truth.shape}"
        cosine = (v * truth).sum(1) / (np.linalg.norm(v, axis=1) * np.linalg.norm(truth, axis=1))
        cosines[key] = float(cosine.min())
        floor = 0.7 if "int8" in key[1] else 0.9999
        assert cosines[key] > floor, f"{key} does not compute the same vectors: cosine {cosines[key]}"

    say(f"{work.name}: {len(runs)} contenders, {rounds} rounds")
    times = interleave(runs, rounds, clock=clock)
    found = [
        dict(zip(("from", "name", "setting"), key, strict=True))
        | {"seconds": Ratio.of(times[key]), "lowest_cosine": cosines[key], "times": times[key]}
        for key in runs
    ]
    return {
        "title": work.title,
        "texts": len(work.ids),
        "tokens": work.tokens,
        "contenders": found,
        "ratios": _ratios(found, GOALS_DOCUMENTS if work.name == "documents" else GOALS),
    }


def _ratios(found: list[dict[str, Any]], goals: dict[tuple[str, str], float]) -> list[dict[str, Any]]:
    """minibi against the best setting of every peer that starts from the same: ids or text."""
    ratios = []
    for start in ("ids", "text"):
        here = [c for c in found if c["from"] == start]
        for mine in [c for c in here if c["name"].startswith("minibi")]:
            for peer in dict.fromkeys(c["name"] for c in here if not c["name"].startswith("minibi")):
                best = min((c for c in here if c["name"] == peer), key=lambda c: c["seconds"].median)
                compute = mine["name"].removeprefix("minibi ")
                ratios.append(
                    {
                        "from": start,
                        "minibi": compute,
                        "peer": peer,
                        "setting": best["setting"],
                        "ratio": ratio(best["times"], mine["times"]),
                        "goal": goals.get((compute, peer)),
                    }
                )
    return ratios


def scaling(works: list[Workload], ours: dict[str, Minibi], threads: int, rounds: int) -> list[dict[str, Any]]:
    """minibi on one and on `threads` threads, beside as many processes of register arithmetic."""
    from .roofline import Burners

    results = []
    alone = [work.first() for work in works if not work.pairs and len(work.texts) > 1]  # one text, shared by threads
    with Burners(threads) as burners:
        for work in [*works, *alone]:
            say(f"{work.name}: 1 and {threads} threads, {rounds} rounds")
            runs = {"burn 1": lambda: burners.run(1), f"burn {threads}": lambda: burners.run(threads)}
            for compute, model in ours.items():
                for count in (1, threads):
                    runs[f"{compute} {count}"] = model.text(work, threads=count)
            times = interleave(runs, rounds, seconds=0.3)
            ceiling = [threads * a / b for a, b in zip(times["burn 1"], times[f"burn {threads}"], strict=True)]
            for compute in ours:
                gain = [a / b for a, b in zip(times[f"{compute} 1"], times[f"{compute} {threads}"], strict=True)]
                results.append(
                    {
                        "workload": work.name,
                        "minibi": compute,
                        "gain": Ratio.of(gain),
                        "ceiling": Ratio.of(ceiling),
                        "share": ratio(gain, ceiling),
                        "goal": SHARES["threads"].get(compute) if len(work.texts) > 1 else None,
                    }
                )
    return results


def roofline(work: Workload, ours: dict[str, Minibi], rounds: int, clock: Clock) -> list[dict[str, Any]]:
    """Peak, and the matrix kernel's share of it: alone with 128 and 512 rows, and while the model encodes `work`."""
    from .roofline import alone, has_steps, in_sequence

    results = []
    for compute, model in ours.items():
        say(f"roofline, {compute}" if has_steps(model) else "roofline: nothing to measure, no recorded program")
        for rows in (128, 512):
            if (found := alone(model, compute, work, rows, rounds, clock)) is not None:
                results.append({"minibi": compute, "where": "alone", "goal": SHARES["alone"][compute], **found})
        if (found := in_sequence(model, compute, work, rounds, clock)) is not None:
            results.append({"minibi": compute, "where": "in sequence", "goal": SHARES["in sequence"][compute], **found})
    return results


def measure(arguments: argparse.Namespace, names: tuple[str, ...]) -> dict[str, Any]:
    """Everything that was asked for, in one object; see `report` for how it reads."""
    folder, rounds, threads = arguments.model.resolve(), arguments.rounds, arguments.threads
    clock: Clock = time.process_time if arguments.cpu_time else time.perf_counter
    result: dict[str, Any] = {"machine": machine()}  # first: it looks at how busy others keep the machine
    from . import processes, quality
    from .contenders import Minibi, Peers, computes
    from .workloads import workloads

    result |= {"versions": versions(*PACKAGES), "threads": threads, "rounds": rounds, "clock": clock.__name__}
    ours = {compute: Minibi(folder, compute) for compute in computes()}
    peers = Peers(folder, threads, wanted=threads == 1 and not arguments.no_peers)
    result["absent"] = peers.absent
    works = list(workloads(folder, names))
    if threads > 1:
        result["scaling"] = scaling(works, ours, threads, rounds)
    else:
        result["workloads"] = {work.name: compare(work, ours, peers, rounds, clock) for work in works}
        if "roofline" in names:
            (texts,) = workloads(folder, ("texts",))
            result["roofline"] = roofline(texts, ours, rounds, clock)
        if "accuracy" in names:
            result["accuracy"] = quality.accuracy(folder, ours, peers)
        if "startup" in names:
            result["startup"] = processes.startup(folder, peers, rounds)
    if arguments.ndcg:
        result["ndcg_at_10"] = quality.ndcg(folder, peers)
    if arguments.memory:
        result["memory"] = processes.peak_memory(folder, arguments.memory)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="more than 1: measure scaling (see above)")
    parser.add_argument("--only", metavar="NAMES", help=f"comma-separated, of {', '.join((*WORKLOADS, *EXTRAS))}")
    parser.add_argument("--rounds", type=int, default=9, metavar="R", help="default 9; fewer than 7 say little")
    parser.add_argument("--cpu-time", action="store_true", help="time the processor, not the wall: see `interleave`")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--ndcg", action="store_true", help="also SciFact nDCG@10 (encodes the whole corpus)")
    parser.add_argument("--memory", type=int, metavar="N", help="also peak memory of encoding N passages")
    parser.add_argument("--no-peers", action="store_true", help="minibi alone")
    parser.add_argument("--model", type=Path, default=MODEL, help="default: the bundled all-MiniLM-L6-v2")
    arguments = parser.parse_args()
    names = tuple((arguments.only or "").split(",")) if arguments.only else (*WORKLOADS, *EXTRAS)
    if unknown := set(names) - {*WORKLOADS, *EXTRAS}:
        parser.error(f"--only {','.join(sorted(unknown))}: not one of {', '.join((*WORKLOADS, *EXTRAS))}")
    if arguments.threads < 1 or arguments.rounds < 1:
        parser.error("--threads and --rounds must be at least 1")
    if arguments.threads > 1 and arguments.cpu_time:
        parser.error("--cpu-time adds the threads up, so it cannot show what several of them gain")
    limit_threads(arguments.threads)
    result = measure(arguments, names)
    print(json.dumps(result, default=dataclasses.asdict, indent=1) if arguments.json else render(result))


if __name__ == "__main__":
    main()
