"""Writing files so that a crash at any moment leaves the old file or the new one, never a mixture.

Write to a temporary name in the same folder, fsync, rename over the old name, fsync the folder. `locked` keeps others
out of a folder meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import InputError

LOCK = ".lock"
_mine = threading.local()  # .folders: those that this thread holds


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Calls `write(file)` and puts the result in the place of `path`, durably. On any error `path` is as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
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
    wait, or do `otherwise`. Where there are no such locks (Windows, some network drives) nobody is kept out.
    """
    try:
        import fcntl
    except ImportError:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    held, key = _mine.__dict__.setdefault("folders", set()), folder.resolve()
    if key in held:
        yield
        return
    with open(folder / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read().strip() or "another process"
            fix = f"wait for its end, or {otherwise}"
            raise InputError(f"{folder} is in use by {owner}: {fix}") from None
        except OSError:  # no locks here
            pass
        file.truncate(0)
        file.write(f"process {os.getpid()}")
        file.flush()
        held.add(key)
        try:
            yield
        finally:
            held.discard(key)
