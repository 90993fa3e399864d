"""`minibi warmup`: compile every kernel now, so that no first query waits; for images and read-only systems."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

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
    """Runs each kernel once on little data. Raises InputError if nothing of it can be kept."""
    from ..environment import cache_folder

    folder = cache_folder() / "kernels"
    with suppress(OSError):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not folder.is_dir() or not (os.access(folder, os.W_OK) or any(folder.iterdir())):
        raise InputError(f"{cache_folder()} cannot hold compiled kernels: set MINIBI_CACHE to a folder of your own")
    texts = ["warm up", "a longer text " * 20]
    for name, run in STEPS.items():
        run(texts, lambda what, name=name: report(f"{name}{what}"))


def _encoder(texts: list[str], report: Callable[[str], object]) -> None:
    from ..models.bi_encoder import BiEncoder

    for compute in ("float32", "int8"):
        report(f", {compute}")
        model = BiEncoder(compute=compute)
        model.encode(texts)
        model.study(texts[0])  # verb by verb, which layers behind the encoder and cross-encoders need too


def _indexes(texts: list[str], report: Callable[[str], object]) -> None:
    from ..index.factory import index_factory
    from ..index.kmeans import kmeans

    vectors = np.eye(700, 32, dtype=np.float32)
    for name, settings in INDEXES.items():
        report(f", {name}")
        index = index_factory(name, 32, **settings)
        index.add(vectors)
        for queries, k in ((vectors, 3), (vectors[:1], 3), (vectors[:1], 60)):  # the three ways of FlatIndex
            index.search(queries, k)
        if "RaBitQ" in name:
            index.estimates(vectors[:1])
        index.remove(range(40))
        index.compact()
    kmeans(vectors, 2, start="k-means++")


def _tokens(texts: list[str], report: Callable[[str], object]) -> None:
    from ..index.multi_vector import MultiVectorIndex
    from ..index.token_codes import STORAGES

    vectors = np.eye(64, 32, dtype=np.float32)
    for storage in STORAGES:
        report(f", {storage}")
        documents = MultiVectorIndex(32, storage=storage)
        documents.add(vectors.reshape(4, 16, 32))
        documents.search(vectors, 1, nprobe=1, depth=1)
        documents.reconstruct([0])


def _words(texts: list[str], report: Callable[[str], object]) -> None:
    from ..lexical.bm25 import BM25

    report("")
    words = BM25()
    words.add(texts * 3000)
    words.search(texts, 2)
    words.remove(range(1, 6000))  # enough to be packed anew


def _training(texts: list[str], report: Callable[[str], object]) -> None:
    from ..models.bi_encoder import BiEncoder
    from ..train.learners import Tower
    from ..train.model import Trainable
    from ..train.optimizer import AdamW, clip

    report("")
    model = Trainable(BiEncoder())
    for dropout in (0.0, 0.1):
        run, _ = Tower(model, "", dropout=dropout).forward([texts[1]] * 16, seed=(0,))
        gradients = run.backward(np.ones_like(run.output))
    clip(gradients, 1.0)
    AdamW(model.parameters).step(gradients)


STEPS: dict[str, Callable[[list[str], Callable[[str], object]], None]] = {
    "encoder": _encoder,
    "index": _indexes,
    "token vectors": _tokens,
    "BM25": _words,
    "training": _training,
}
INDEXES: dict[str, dict[str, Any]] = {
    "Flat": {"codes": "int8"},
    "HNSW4": {},
    "IVF4": {"train_size": 32},
    "IVF4,SQ8": {"train_size": 32},
    "IVF4,Flat": {"train_size": 32},
    "IVF4,PQ8x4fs": {"train_size": 32},
    "IVF4,PQ8": {"train_size": 32},
    "IVF4,RaBitQ": {"train_size": 32},
    "Binary": {"train_size": 32},
}
