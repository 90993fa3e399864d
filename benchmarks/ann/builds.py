"""Indexes ready to search: built once, kept in the workload's folder, with the time it took and how busy others were.

A stored index is used again as long as its library's version, the number of threads and the vectors are the same.
minibi's own are built anew in every run: what they are is being worked on.
"""

from __future__ import annotations

import json
import os
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from ..common import say
from .contenders import Contender
from .data import Workload

PACKAGES = {"hnswlib": "hnswlib", "faiss": "faiss-cpu", "usearch": "usearch", "pynndescent": "pynndescent"}


def ready(contender: Contender, work: Workload, threads: int, anew: bool = False) -> dict[str, Any]:
    """Loads or builds the contender's index; returns what is known of its build, its file and its loading.

    "quiet": share of the build's wall-clock time in which this process had its processors, 1 on a machine of its own.
    """
    file = path(contender, work, threads)
    facts_path = file.with_suffix(".json")
    version = _version(contender)
    if not contender.own and not anew and file.exists() and facts_path.exists():
        facts = json.loads(facts_path.read_text())
        if facts["version"] == version:
            facts["load_seconds"] = _timed(lambda: contender.load(file, work.vectors, threads))[0]
            return facts
    say(f"{work.name}: building {contender.name}")
    load = os.getloadavg()[0]
    if contender.own:  # kernels compile on first use
        contender.build(work.vectors[:1000], threads)
        contender.search(work.queries[:2], 10, contender.settings[0])
    seconds, processor = _timed(lambda: contender.build(work.vectors, threads))
    file.parent.mkdir(parents=True, exist_ok=True)
    save_seconds, _ = _timed(lambda: contender.save(file))
    facts = {
        "version": version,
        "threads": threads,
        "build_seconds": seconds,
        "processor_seconds": processor,
        "quiet": min(1.0, processor / seconds / threads),
        "load_before": round(load, 2),
        "save_seconds": save_seconds,
        "bytes_per_vector": file.stat().st_size / len(work),
    }
    facts_path.write_text(json.dumps(facts, indent=1))
    say(f"{work.name}: {contender.name} built in {seconds:.1f} s, {processor:.1f} s of processor time")
    facts["load_seconds"] = _timed(lambda: contender.load(file, work.vectors, threads))[0]
    return facts


def path(contender: Contender, work: Workload, threads: int) -> Path:
    """Where the contender's index is kept."""
    name = contender.name.replace(" ", "-") + (f"-{threads}" if threads > 1 else "")
    return work.folder / "indexes" / (name + contender.suffix)


def _version(contender: Contender) -> str:
    package = PACKAGES.get(contender.name.split()[0])
    return metadata.version(package) if package else "checkout"


def _timed(run: Any) -> tuple[float, float]:
    """(wall-clock, processor) seconds."""
    start, spent = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - start, time.process_time() - spent
