"""`minibi warmup`: compile every kernel now, so that no first query waits; for images and read-only systems."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import numpy as np

from ..errors import InputError

TARGETS = ("x86-64-v2", "x86-64-v3", "x86-64-v4", "generic")


def target_environment(target: str) -> dict[str, str]:
    """The variables that make Numba compile for a processor family instead of the machine at hand."""
    return {"NUMBA_CPU_NAME": target, "NUMBA_CPU_FEATURES": ""}


def warm_for(target: str) -> None:
    """Warms up in a process of its own that compiles for `target`. Raises InputError."""
    if target not in TARGETS:
        raise InputError(f"target {target!r} is not one of {list(TARGETS)}")
    done = subprocess.run([sys.executable, "-m", "minibi", "warmup"], env={**os.environ, **target_environment(target)})
    if done.returncode:
        raise InputError(f"compiling for {target} failed on this machine: warm up where the processor knows it")


def warm(report: Callable[[str], object]) -> None:
    """Runs each kernel once on little data."""
    from ..index.flat import FlatIndex
    from ..index.hnsw import HNSWIndex
    from ..index.kmeans import kmeans
    from ..index.multi_vector import MultiVectorIndex
    from ..index.token_codes import STORAGES
    from ..models.bi_encoder import BiEncoder

    texts = ["warm up", "a longer text " * 20]
    for compute in ("float32", "int8"):
        report(f"encoder, {compute}")
        model = BiEncoder(compute=compute)
        model.encode(texts)
        model.study(texts[0])  # verb by verb, which layers behind the encoder and cross-encoders need too
    vectors = np.eye(64, 32, dtype=np.float32)
    for index in (FlatIndex(32), HNSWIndex(32, M=4)):
        report(type(index).__name__)
        index.add(vectors)
        index.search(vectors, 3)
    for storage in STORAGES:
        report(f"MultiVectorIndex, {storage}")
        documents = MultiVectorIndex(32, storage=storage)
        documents.add(vectors.reshape(4, 16, 32))
        documents.search(vectors, 1, nprobe=1, depth=1)
        documents.reconstruct([0])
    kmeans(vectors, 2, start="k-means++")
