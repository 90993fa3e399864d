"""What tests share: the golden files, models on both sets of kernels, and how hard hypothesis tries."""

from __future__ import annotations

import json
import os
import signal
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
def compiled() -> None:
    """For tests about the compiled kernels themselves."""
    if PLAIN:
        pytest.skip("MINIBI_KERNELS=plain: there are no compiled kernels to test")


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
