"""What tests share: the golden files, models on both sets of kernels, and how hard hypothesis tries."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import settings

from minibi import BiEncoder, CrossEncoder
from minibi.store.tensors import read_safetensors

DEEP = os.environ.get("MINIBI_DEEP") == "1"
PLAIN = os.environ.get("MINIBI_KERNELS") == "plain"
settings.register_profile("minibi", deadline=None, max_examples=500 if DEEP else 40)
settings.load_profile("minibi")
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in the background of a shell: tests press Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def deep() -> bool:
    """True if slow tests were asked for (MINIBI_DEEP=1)."""
    return DEEP


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of what other programs said; its README lists the files."""
    return Path(__file__).parent / "golden"


@pytest.fixture(scope="session")
def golden_arrays(golden):
    """golden_arrays("tiny") is the content of tiny.safetensors."""
    return lambda name: read_safetensors(golden / f"{name}.safetensors")


@pytest.fixture(scope="session")
def texts(golden) -> list[str]:
    return json.loads((golden / "texts.json").read_text())


@pytest.fixture(scope="session")
def tiny_texts(golden) -> list[str]:
    return json.loads((golden / "tiny.json").read_text())


@pytest.fixture(scope="session")
def pairs(golden) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads((golden / "cross_encoder.json").read_text())["pairs"]]


@pytest.fixture(scope="module")
def no_waiting_for_the_disk():
    """fsync costs much and proves nothing where many files are written; how it is used is tested with the store."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def compiled() -> None:
    """For tests about the compiled kernels themselves."""
    if PLAIN:
        pytest.skip("MINIBI_KERNELS=plain: there are no compiled kernels to test")


@pytest.fixture(scope="session")
def said_on(deep, compiled):
    """said_on(program, "haswell"): what a program prints when it is compiled for this processor, and for others."""
    if not deep:
        pytest.skip("compiles for other processors: MINIBI_DEEP=1")

    def said_on(program: str, *processors: str) -> list[str]:
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        others = [{"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": ""} for name in processors]
        command = [sys.executable, "-c", program]
        return [subprocess.check_output(command, env=env | other, text=True) for other in ({}, *others)]

    return said_on


@pytest.fixture(scope="session", params=["plain"] if PLAIN else ["plain", "fused"])
def kernels(request) -> str:
    """Both interpreters, one after the other; under MINIBI_KERNELS=plain the plain one alone."""
    return request.param


@pytest.fixture(scope="session")
def load(kernels):
    """load(BiEncoder, name, ...) on the kernels of the moment."""

    def load(kind, name, **options):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MINIBI_KERNELS", "plain" if kernels == "plain" else "compiled")
            return kind(name, **options)

    return load


@pytest.fixture(scope="session")
def minilm(load) -> BiEncoder:
    return load(BiEncoder, "all-MiniLM-L6-v2")


@pytest.fixture(scope="session")
def tiny(load, golden) -> BiEncoder:
    return load(BiEncoder, golden / "tiny-bert")


@pytest.fixture(scope="session")
def tiny_new(load, golden) -> BiEncoder:
    return load(BiEncoder, golden / "tiny-bert-new")


@pytest.fixture(scope="session")
def cross(load, golden) -> CrossEncoder:
    return load(CrossEncoder, golden / "tiny-cross-encoder")


@pytest.fixture(scope="session")
def cross_3(load, golden) -> CrossEncoder:
    return load(CrossEncoder, golden / "tiny-cross-encoder-3")
