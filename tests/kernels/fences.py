"""Arrays that end right before a page nobody may touch, for scripts in processes of their own."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import sys

import numpy as np

_kept = []


def fenced(a):
    """A copy of `a`; reading or writing beyond its end kills the process."""
    libc = ctypes.CDLL(None, use_errno=True)
    a = np.ascontiguousarray(a)
    pages = -(-a.nbytes // mmap.PAGESIZE) + 1
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
    whole = np.frombuffer(memory, np.uint8)
    fence = (pages - 1) * mmap.PAGESIZE
    assert libc.mprotect(ctypes.c_void_p(whole.ctypes.data + fence), mmap.PAGESIZE, 0) == 0
    b = whole[fence - a.nbytes : fence].view(a.dtype).reshape(a.shape)
    b[...] = a
    _kept.append(memory)
    return b


def survives(script: str) -> None:
    """Runs a script that prints "untouched" at its end, with `np` and `fenced` at hand."""
    here = os.path.dirname(os.path.abspath(__file__))
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)])}
    code = f"import numpy as np\nfrom fences import fenced\n{script}\nprint('untouched')"
    run = subprocess.run([sys.executable, "-c", code], env=env, text=True, capture_output=True)
    assert run.stdout == "untouched\n", f"exit code {run.returncode}: {run.stderr[-500:]}"
