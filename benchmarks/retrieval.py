"""Retrieval stage by stage, beside its peers where there are any: python -m benchmarks.retrieval STAGE [--json]

    bm25        BM25 against bm25s: queries per second, indexing, nDCG@10 (benchmarks/lexical.py)
    pipelines   quality and time of bm25, dense, hybrid, rerank and colbert on data sets (benchmarks/pipelines.py)
    long        long documents of which one sentence answers: cut off, or read in windows (benchmarks/long.py)
    latency     milliseconds of every stage over 1,000,000 vectors (benchmarks/latency.py)

A stage is a module here with `arguments(parser)`, `run(options) -> dict` and `render(dict) -> str`. Imported after
the threads are limited, so it may import NumPy.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module

from .common import limit_threads

STAGES = {"bm25": ("lexical", 1), "pipelines": ("pipelines", 2), "long": ("long", 2), "latency": ("latency", 2)}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval", description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--rounds", type=int, default=7, help="of turns with a peer")
    parser.add_argument("--threads", type=int, help="default: 1 beside a peer, otherwise 2")
    parser.add_argument("--json", action="store_true")
    options, rest = parser.parse_known_args()
    name, threads = STAGES[options.stage]
    options.threads = options.threads or threads
    limit_threads(options.threads)
    stage = import_module(f".{name}", __package__)
    more = argparse.ArgumentParser(prog=f"{parser.prog} {options.stage}")
    stage.arguments(more)
    more.parse_args(rest, options)
    result = stage.run(options)
    print(json.dumps(result, indent=1, default=vars) if options.json else stage.render(result))


if __name__ == "__main__":
    main()
