"""Kernels read nothing beyond their arrays: each argument ends right before a page that nobody may touch."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SCRIPT = """
import ctypes, mmap
import numpy as np
from minibi.kernels import attention, matmul, norm

libc = ctypes.CDLL(None, use_errno=True)
kept = []

def fenced(a):
    a = np.ascontiguousarray(a, np.float32)
    pages = -(-a.nbytes // mmap.PAGESIZE) + 1
    memory = mmap.mmap(-1, pages * mmap.PAGESIZE)
    whole = np.frombuffer(memory, np.uint8)
    fence = (pages - 1) * mmap.PAGESIZE
    assert libc.mprotect(ctypes.c_void_p(whole.ctypes.data + fence), mmap.PAGESIZE, 0) == 0
    b = whole[fence - a.nbytes : fence].view(np.float32).reshape(a.shape)
    b[...] = a
    kept.append(memory)
    return b

rng = np.random.default_rng(0)
for rows, k, n in [(1, 5, 3), (5, 16, 64), (7, 33, 65), (6, 64, 16), (13, 1, 200)]:
    x, panels = fenced(rng.standard_normal((rows, k))), fenced(matmul.pack(rng.standard_normal((k, n)).astype("f")))
    width = len(panels) * matmul.PANEL
    bias, residual = fenced(np.ones(width)), fenced(np.ones((rows, width)))
    for kind in range(7):
        matmul.linear(x, panels.view(np.uint8), False, bias, residual, kind, fenced(np.zeros((rows, width))))
for rows, channels in [(1, 1), (3, 36), (5, 64)]:
    width = -(-channels // 16) * 16
    gamma, beta = fenced(np.ones(width)), fenced(np.ones(width))
    norm.layer_norm(fenced(rng.standard_normal((rows, width))), channels, gamma, beta, np.float32(1e-6))
for lengths, heads, width in [([1], 1, 1), ([17, 3], 3, 12), ([6, 65], 2, 33), ([130], 1, 64)]:
    starts = np.cumsum([0, *lengths])
    packed = fenced(rng.standard_normal((starts[-1], 3, heads, width)))
    out = fenced(np.zeros((starts[-1], heads, width)))
    attention.attend(packed[:, 0], packed[:, 1], packed[:, 2], starts, np.float32(0.3), False, out)
    q, k, v = (fenced(packed[:, i]) for i in range(3))
    attention.attend(q, k, v, starts, np.float32(0.3), False, out)
print("untouched")
"""


@pytest.mark.usefixtures("compiled")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fences memory by Linux's mprotect")
def test_nothing_beyond_an_array_is_read_or_written():
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    run = subprocess.run([sys.executable, "-c", SCRIPT], env=env, text=True, capture_output=True)
    assert run.stdout == "untouched\n", f"exit code {run.returncode}: {run.stderr[-500:]}"
