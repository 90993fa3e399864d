"""What the machine and the user's environment decide: folders, threads, and whether kernels are compiled.

    MINIBI_CACHE        the cache folder (default: the platform's per-user cache)
    MINIBI_NUM_THREADS  how many threads work at once (default: what affinity and the container's CPU quota allow)
    MINIBI_KERNELS      `plain` runs everything on the readable NumPy twins; Numba is then never imported

Nothing is created here.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from .arguments import whole
from .errors import InputError


def cache_folder() -> Path:
    """The per-user cache: $MINIBI_CACHE, else the platform's usual place."""
    if set_by_user := os.environ.get("MINIBI_CACHE"):
        return Path(set_by_user).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "minibi"


def weights_folder() -> Path | None:
    """The bundled models: inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "weights", package.parent / "weights"):
        if folder.is_dir():
            return folder
    return None


def plain_kernels() -> bool:
    """True when the user asked for the NumPy twins instead of compiled kernels."""
    choice = os.environ.get("MINIBI_KERNELS") or "compiled"
    if choice not in ("plain", "compiled"):
        raise InputError(f"MINIBI_KERNELS={choice!r} is not understood: use 'plain' or 'compiled'")
    return choice == "plain"


_CGROUP = Path("/sys/fs/cgroup")


def thread_count(threads: int | None = None) -> int:
    """How many threads to use: the argument, else $MINIBI_NUM_THREADS, else the CPUs this process may really use."""
    if threads is None and (text := os.environ.get("MINIBI_NUM_THREADS")):
        try:
            return whole("MINIBI_NUM_THREADS", int(text), 1)
        except ValueError:
            raise InputError(f"MINIBI_NUM_THREADS={text!r} is not a whole number of at least 1") from None
    if threads is not None:
        return whole("threads", threads, 1)
    try:
        available = len(os.sched_getaffinity(0))
    except AttributeError:  # macOS, Windows
        available = os.cpu_count() or 1
    quota = _cpu_quota(_CGROUP)
    return max(1, min(available, int(quota + 0.5)) if quota else available)


@cache
def _cpu_quota(cgroup: Path) -> float | None:
    """Read once. CPUs granted by the container's quota, None if unlimited: cgroup v2 `cpu.max`, v1 `cpu.cfs_*_us`."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()[:2]
    except (OSError, ValueError):
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text()
        except OSError:
            return None
    try:
        granted = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return granted if granted > 0 else None
