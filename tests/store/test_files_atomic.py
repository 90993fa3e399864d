"""`replace_file`: whatever happens while a file is written, the old content or the new one stands, never a mixture."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

import minibi
from minibi.errors import InputError
from minibi.store.files import locked, replace_file, sync_folder

posix = pytest.mark.skipif(os.name != "posix", reason="about POSIX permissions and signals")
ROOT = str(Path(minibi.__file__).resolve().parents[1])


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "new" / "deep" / "file.bin"
    replace_file(path, lambda f: f.write(b"one"))
    assert path.read_bytes() == b"one"
    replace_file(path, lambda f: f.write(b""))
    assert path.read_bytes() == b"" and names(path.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
@pytest.mark.parametrize("before", [b"old", None])
def test_an_error_while_writing_changes_nothing(tmp_path, error, before):
    path = tmp_path / "file.bin"
    if before is not None:
        path.write_bytes(before)

    def write(file):
        file.write(b"half of the new con")
        file.flush()
        raise error("in the middle")

    with pytest.raises(error):
        replace_file(path, write)
    assert (path.read_bytes() if path.exists() else None) == before
    assert names(tmp_path) == ([] if before is None else ["file.bin"])


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_an_error_in_any_step_changes_nothing(tmp_path, monkeypatch, step, error):
    path = tmp_path / "file.bin"
    path.write_bytes(b"old")

    def fail(*_):
        raise error("no space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(error):
        replace_file(path, lambda f: f.write(b"new"))
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and names(tmp_path) == ["file.bin"]


def test_the_content_is_on_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    """fsync of the file, then rename, then fsync of the folder: the order that survives a power cut."""
    path, log = tmp_path / "file.bin", []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(handle):
        log.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        real_fsync(handle)

    def replace(a, b):
        log.append("rename")
        assert Path(a).read_bytes() == b"content" and Path(a).parent == tmp_path
        real_replace(a, b)

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to tell files from folders")
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    replace_file(path, lambda f: f.write(b"content"))
    assert log == ["file", "rename", "folder"]


def test_a_folder_in_the_way_is_left_alone(tmp_path):
    path = tmp_path / "taken"
    (path / "inside").mkdir(parents=True)
    with pytest.raises(InputError, match="taken is a folder: give the name of a file"):
        replace_file(path, lambda f: pytest.fail("work was done for nothing"))
    assert names(tmp_path) == ["taken"] and names(path) == ["inside"]


def test_a_file_where_a_folder_is_needed(tmp_path):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(OSError):
        replace_file(tmp_path / "file" / "below", lambda f: f.write(b"new"))
    assert names(tmp_path) == ["file"]


@posix
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o027, 0o000])
def test_new_files_follow_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        replace_file(tmp_path / "file", lambda f: f.write(b"x"))
        assert os.umask(mask) == mask  # put back as it was
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~mask


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_replaced_files_keep_their_permissions(tmp_path, mode):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    replace_file(path, lambda f: f.write(b"new"))
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == mode


def test_sync_folder_never_complains(tmp_path):
    sync_folder(tmp_path)
    sync_folder(tmp_path / "missing")


@posix
def test_what_a_dead_writer_left_is_taken_away_but_not_a_living_ones(tmp_path):
    path = tmp_path / "a[1].npy"  # no pattern
    for name in (".a[1].npy.dead.tmp", ".a1.npy.other.tmp"):
        (tmp_path / name).write_bytes(b"half")

    def write(file):
        file.write(b"outer")
        replace_file(path, lambda inner: inner.write(b"inner"))  # meanwhile, by another

    replace_file(path, write)
    assert path.read_bytes() == b"outer" and names(tmp_path) == [".a1.npy.other.tmp", "a[1].npy"]


WRITER = """
import sys, itertools
from pathlib import Path
from minibi.store.files import replace_file
path, n = Path(sys.argv[1]), int(sys.argv[2])

def write(file):
    for _ in range(40):
        file.write(content[:n // 40])

for i in itertools.count():
    content = bytes([i % 251]) * n
    replace_file(path, write)
    if i == 0:
        print("ready", flush=True)
"""


def test_a_folder_is_locked_on_windows_too(tmp_path, monkeypatch):
    """With the calls of msvcrt in the place of fcntl's."""
    held: dict[tuple[int, int], int] = {}  # (file, byte) -> who has it

    def locking(handle, mode, count):
        byte = os.fstat(handle).st_ino, os.lseek(handle, 0, os.SEEK_CUR)
        if mode != 2 or count != 1 or byte[1] < 2**30 or byte in held:
            raise PermissionError(13, "Permission denied")
        held[byte] = handle

    monkeypatch.setitem(sys.modules, "fcntl", None)  # so that importing it fails
    monkeypatch.setitem(sys.modules, "msvcrt", SimpleNamespace(locking=locking, LK_NBLCK=2))
    with locked(tmp_path, "go"), ThreadPoolExecutor(1) as pool:

        def enter():
            with locked(tmp_path, "look elsewhere"):
                pass

        with pytest.raises(InputError, match=f"in use by process {os.getpid()}: wait for its end, or look elsewhere"):
            pool.submit(enter).result()
        with locked(tmp_path, "go"):  # its holder may ask again
            pass
    assert len(held) == 1
    replace_file(tmp_path / "file", lambda file: file.write(b"whole"))
    assert (tmp_path / "file").read_bytes() == b"whole" and len(held) == 2


@posix
def test_killed_at_any_moment_the_file_is_whole(tmp_path, deep):
    size = 400_000
    path = tmp_path / "file"
    path.write_bytes(b"\xff" * size)
    env = {**os.environ, "PYTHONPATH": ROOT}
    dice = random.Random(7)
    for _ in range(300 if deep else 12):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(size)], env=env, stdout=subprocess.PIPE
        )
        assert process.stdout.readline() == b"ready\n"
        time.sleep(dice.uniform(0, 0.02))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        content = path.read_bytes()
        assert len(content) == size and len(set(content)) == 1
    left = [p for p in names(tmp_path) if p != "file"]
    assert all(p.startswith(".file.") and p.endswith(".tmp") for p in left)  # nobody takes them for files
