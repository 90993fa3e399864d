"""Retrieval beside its peers, stage by stage: python -m benchmarks.retrieval STAGE [--rounds R] [--json]

    bm25    BM25 against bm25s: queries per second, indexing, nDCG@10 (benchmarks/lexical.py)

A stage is a module here with `arguments(parser)`, `run(options) -> dict` and `render(dict) -> str`. Imported after
the threads are limited, so it may import NumPy.
"""

from __future__ import annotations

import argparse
import json
from importlib import import_module

from .common import limit_threads

STAGES = {"bm25": "lexical"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.retrieval", description=__doc__.splitlines()[0])
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    options, rest = parser.parse_known_args()
    limit_threads(1)
    stage = import_module(f".{STAGES[options.stage]}", __package__)
    more = argparse.ArgumentParser(prog=f"{parser.prog} {options.stage}")
    stage.arguments(more)
    more.parse_args(rest, options)
    result = stage.run(options)
    print(json.dumps(result, indent=1, default=vars) if options.json else stage.render(result))


if __name__ == "__main__":
    main()
