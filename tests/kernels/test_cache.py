"""Compiled kernels are cached privately, and whatever is wrong with the cache costs a compilation and no more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("compiled")


@pytest.fixture
def cache():
    from minibi.kernels import cache

    return cache


@pytest.fixture
def folder(cache, monkeypatch, tmp_path):
    """kernel_folder() is an empty folder of this test."""
    monkeypatch.setattr(cache, "kernel_folder", lambda: tmp_path)
    return tmp_path


def plus_one(x):
    return x[0] + 1.0


def fresh(cache):
    """Hits of the cache at the first call in what stands for a new process: a new dispatcher."""
    kernel = cache.kernel(plus_one)
    assert kernel(np.float32([41])) == 42
    return sum(kernel.stats.cache_hits.values())


def only(folder: Path, suffix: str) -> Path:
    (file,) = folder.glob("*" + suffix)
    return file


def test_second_process_finds_the_kernel(cache, folder):
    assert [fresh(cache), fresh(cache)] == [0, 1]
    assert {f.suffix for f in folder.iterdir()} == {".nbi", ".nbc"}


def damages(content: bytes):
    yield "empty", b""
    yield "short", content[: len(content) // 2]
    yield "short by one", content[:-1]
    yield "foreign", b"something else entirely\n" * 50
    yield "zeros", bytes(len(content))
    for at in range(0, len(content), max(1, len(content) // 15)):
        yield f"bit at {at}", content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
def test_a_damaged_file_costs_one_compilation(cache, folder, suffix):
    fresh(cache)
    file = only(folder, suffix)
    sound = file.read_bytes()
    for what, content in damages(sound):
        file.write_bytes(content)
        fresh(cache)
        if what == "foreign" or suffix == ".nbc":
            assert fresh(cache) == 1, f"{what}: healed by the compilation"
        for old in folder.iterdir():
            old.unlink()
        fresh(cache)


def test_every_byte_of_the_machine_code_is_checked(cache, folder):
    fresh(cache)
    kernel = cache.kernel(plus_one)
    file, disk = only(folder, ".nbc"), kernel._cache._cache_file
    sound = file.read_bytes()
    assert disk._load_data(file.name) is not None
    for at in range(0, len(sound), 5):
        file.write_bytes(sound[:at] + bytes([sound[at] ^ 1]) + sound[at + 1 :])
        with pytest.raises(ValueError, match="damaged"):
            disk._load_data(file.name)


def test_an_edited_source_is_compiled_anew(cache, folder, monkeypatch):
    fresh(cache)
    monkeypatch.setattr(cache, "source_stamp", lambda: "edited")
    assert [fresh(cache), fresh(cache)] == [0, 1]


def test_the_stamp_covers_every_file_of_the_room(cache):
    import hashlib

    from minibi import kernels

    files = sorted(Path(kernels.__file__).parent.glob("*.py"))
    assert len(files) > 4
    assert cache.source_stamp() == hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()


def test_a_full_disk_costs_nothing_but_the_cache(cache, folder, monkeypatch):
    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache._File, "_open_for_write", full)
    assert [fresh(cache), fresh(cache)] == [0, 0]
    assert not list(folder.iterdir())


def test_without_a_folder_kernels_work(cache, monkeypatch):
    monkeypatch.setattr(cache, "kernel_folder", lambda: None)
    assert [fresh(cache), fresh(cache)] == [0, 0]


# --- which folder


@pytest.fixture
def choose_folder(cache, monkeypatch, tmp_path):
    monkeypatch.setenv("MINIBI_CACHE", str(tmp_path / "cache"))
    return cache.kernel_folder.__wrapped__


def test_the_folder_is_made_private(choose_folder, tmp_path):
    assert choose_folder() == tmp_path / "cache" / "kernels"
    assert choose_folder().stat().st_mode & 0o777 == 0o700
    choose_folder().chmod(0o777)
    assert choose_folder().stat().st_mode & 0o777 == 0o700, "an open one is closed"


def test_a_folder_of_somebody_else_is_not_used(choose_folder, monkeypatch):
    assert choose_folder() is not None
    monkeypatch.setattr(os, "getuid", lambda: 987654)
    assert choose_folder() is None


def test_an_unwritable_folder_is_not_used(choose_folder, monkeypatch):
    assert choose_folder() is not None
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert choose_folder() is None


def test_a_folder_that_cannot_be_made_is_not_used(choose_folder, tmp_path):
    (tmp_path / "cache").write_text("a file is in the way")
    assert choose_folder() is None


def test_a_process_runs_without_a_usable_cache(tmp_path, golden):
    """The whole way once, in a new process: the cache folder is a file."""
    (tmp_path / "cache").write_text("")
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\n"
        "from minibi.kernels.cache import kernel, kernel_folder\n"
        "@kernel\n"
        "def total(x):\n"
        "    return x.sum()\n"
        "print(kernel_folder(), total(np.float32([40, 2])))\n"
    )
    env = {**os.environ, "MINIBI_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.check_output([sys.executable, script], env=env, text=True).split() == ["None", "42.0"]
