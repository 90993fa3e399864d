"""Writing files so that a crash at any moment leaves the old file or the new one, never a mixture.

Write to a temporary name in the same folder, fsync, rename over the old name, fsync the folder. What a killed process
left half-written is taken away by the next one that writes there. `locked` keeps others out of a folder meanwhile.
"""

from __future__ import annotations

import contextlib
import glob
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError

LOCK = ".lock"
FAR = 2**31 - 2  # a place in a file
_mine = threading.local()  # .folders: those that this thread holds


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write(file)` and puts the result in the place of `path`, durably. On any error `path` is as it was.

    Raises InputError, before anything is written, for a folder.
    """
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the name of a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep(path)
    handle, temporary = _temporary(path)
    try:
        with os.fdopen(handle, "wb") as file:
            os.chmod(temporary, _mode(path))
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(path.parent)


def _temporary(path: Path) -> tuple[int, str]:
    """A new file beside `path`, locked for as long as it is open, so that nobody takes it for a dead writer's."""
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        if _lock(handle) is not False and os.path.exists(name):  # else a sweep was faster
            return handle, name
        os.close(handle)


def _sweep(path: Path) -> None:
    """Removes the temporary files of writers of `path` that are no more."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        with contextlib.suppress(OSError), open(left, "rb") as file:
            if _lock(file.fileno()):
                left.unlink()


def _lock(handle: int) -> bool | None:
    """Whether an open file is now locked for this process; None where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return _lock_byte(handle)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _lock_byte(handle: int) -> bool | None:
    """The same on Windows, by a byte far behind any content: nobody may read what somebody else has locked."""
    try:
        import msvcrt
    except ImportError:
        return None
    here = os.lseek(handle, 0, os.SEEK_CUR)
    os.lseek(handle, FAR, os.SEEK_SET)
    try:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except PermissionError:
        return False
    except OSError:
        return None
    finally:
        os.lseek(handle, here, os.SEEK_SET)
    return True


def _mode(path: Path) -> int:
    """The permissions of the file to be replaced, else what the umask grants (mkstemp's own 0600 is too narrow)."""
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        mask = os.umask(0o077)
        os.umask(mask)
        return 0o666 & ~mask


def sync_folder(folder: Path) -> None:
    """Makes renames in a folder durable, where the system has that notion."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


@contextlib.contextmanager
def locked(folder: Path, otherwise: str) -> Iterator[None]:
    """Keeps a folder, which is made if need be, for this thread alone; a thread may ask again for what it holds.

    The system lets go of the lock when the process ends, however it ends. Raises InputError if somebody else holds it:
    wait, or do `otherwise`. Where there are no such locks (some network drives) nobody is kept out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    held, key = _mine.__dict__.setdefault("folders", set()), folder.resolve()
    if key in held:
        yield
        return
    with open(folder / LOCK, "a+") as file:
        if _lock(file.fileno()) is False:
            file.seek(0)
            owner = file.read().strip() or "another process"
            raise InputError(f"{folder} is in use by {owner}: wait for its end, or {otherwise}")
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        held.add(key)
        try:
            yield
        finally:
            held.discard(key)
