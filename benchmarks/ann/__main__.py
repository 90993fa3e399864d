"""minibi's indexes beside their peers: python -m benchmarks.ann [--data DIR] [--threads N] [--only NAMES] [--json] ...

One process, contenders in turn, one thread each unless told otherwise. Workloads: 100,000 × 384 synthetic vectors; with
--data the passages, sentences and questions of a folder of data sets as MiniLM vectors; with --vectors and --queries
any two .npy files; with --large 1,000,000 × 96 synthetic ones. Vectors, true neighbours and the peers' indexes are made
once and kept in benchmarks/.cache/ann. With --threads N > 1 the question is how much faster minibi builds and searches
on N threads than on one, as a share of what N processes of pure arithmetic get from the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..common import HERE, limit_threads, machine, versions

if TYPE_CHECKING:
    from .data import Workload

PARTS = ("curves", "exact", "removal", "filters", "scans")
PACKAGES = ("numpy", "numba", "hnswlib", "faiss-cpu", "usearch", "pynndescent")


def workloads(arguments: argparse.Namespace) -> Iterator[Workload]:
    from . import data

    if arguments.vectors:
        yield data.files(arguments.vectors, arguments.queries)
        return
    if arguments.large:
        yield data.synthetic(1_000_000, 96, arguments.latent or data.LATENT)
        return
    if not arguments.no_synthetic:
        yield data.synthetic(100_000, 384, arguments.latent or data.LATENT)
    if arguments.data:
        yield data.real(arguments.data)


def measure(work: Workload, arguments: argparse.Namespace) -> dict[str, Any]:
    """All that was asked for of one workload; see `report` for how it reads."""
    from . import builds, measures
    from .contenders import Minibi, taking_part
    from .data import intrinsic_dimension
    from .scans import scans

    threads, names = arguments.threads, arguments.only

    def wanted(name: str) -> bool:
        return not names or any(part in name for part in names)

    present, absent = taking_part(work.dim, wanted)
    if arguments.parts == ("scans",):
        present = []
    if threads > 1 or arguments.no_peers:
        present = [c for c in present if c.own]
    result: dict[str, Any] = {
        "title": work.title,
        "intrinsic_dimension": intrinsic_dimension(work),
        "absent": absent,
        "indexes": {c.name: builds.ready(c, work, 1, anew=arguments.build) for c in present},
    }
    if arguments.build:
        return result
    approximate = [c for c in present if not c.exact]
    graphs = [c for c in approximate if isinstance(c, Minibi)]
    parts = arguments.parts
    if threads > 1:
        curves = measures.sweep(graphs, work)
        return result | {"scaling": measures.scaling(graphs, work, curves, threads, arguments.rounds)}
    if set(parts) & {"curves", "removal", "filters"}:
        result["curves"] = curves = measures.sweep(approximate, work)
    if "curves" in parts:
        result["qps"] = measures.rounds(approximate, work, curves, arguments.rounds)
        result["ratios"] = measures.at_equal_recall(result["qps"])
    if "exact" in parts:
        result["exact"] = measures.exact_search([c for c in present if c.exact], work, arguments.rounds)
    if "filters" in parts:
        result["filters"] = [row for c in approximate for row in measures.filters(c, work, curves[c.name])]
    if "removal" in parts:
        found = [measures.removal(c, work, builds.path(c, work, 1), curves[c.name]) for c in graphs]
        result["removal"] = [row for row in found if row]
    if "scans" in parts:
        result["scans"] = scans(work, arguments.rounds, wanted, not arguments.no_peers)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ann", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="a folder of data sets in BEIR's layout and JSONL pairs"
    )
    parser.add_argument("--vectors", type=Path, metavar="X.npy", help="these vectors instead, with --queries")
    parser.add_argument("--queries", type=Path, metavar="Q.npy")
    parser.add_argument("--large", action="store_true", help="1,000,000 × 96 synthetic vectors instead")
    parser.add_argument(
        "--latent", type=int, metavar="L", help="latent dimensions of the synthetic vectors, default 28"
    )
    parser.add_argument("--no-synthetic", action="store_true", help="with --data: leave the synthetic vectors out")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="more than 1: measure scaling (see above)")
    parser.add_argument("--only", type=_names, metavar="NAMES", help="contenders whose name contains one of these")
    parser.add_argument("--parts", type=_names, default=PARTS, metavar="NAMES", help=f"of {','.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=7, metavar="R", help="default 7; fewer say little")
    parser.add_argument("--build", action="store_true", help="build anew, keep the indexes and their times, no more")
    parser.add_argument("--no-peers", action="store_true", help="minibi alone")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    parser.add_argument("--plots", type=Path, metavar="DIR", help=f"recall–QPS curves as PNG, such as into {HERE.name}")
    arguments = parser.parse_args()
    if bool(arguments.vectors) != bool(arguments.queries):
        parser.error("--vectors and --queries go together")
    if arguments.no_synthetic and not arguments.data:
        parser.error("--no-synthetic leaves nothing to search: pass --data DIR as well")
    if unknown := set(arguments.parts) - set(PARTS):
        parser.error(f"--parts {','.join(sorted(unknown))}: not one of {', '.join(PARTS)}")
    if arguments.latent is not None and arguments.latent < 1:
        parser.error("--latent must be at least 1")
    if arguments.threads < 1 or arguments.rounds < 1:
        parser.error("--threads and --rounds must be at least 1")
    limit_threads(arguments.threads)
    os.environ["NUMBA_NUM_THREADS"] = str(arguments.threads)
    facts = {"machine": machine(), "versions": versions(*PACKAGES)}  # first: it looks at how busy others are
    facts |= {"threads": arguments.threads, "rounds": arguments.rounds}
    from . import report

    facts["workloads"] = {work.name: measure(work, arguments) for work in workloads(arguments)}
    if arguments.plots:
        report.plot(facts, arguments.plots)
    print(json.dumps(facts, default=dataclasses.asdict, indent=1) if arguments.json else report.render(facts))


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


if __name__ == "__main__":
    main()
