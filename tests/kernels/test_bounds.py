"""Kernels read nothing beyond their arrays: each argument ends right before a page that nobody may touch."""

from __future__ import annotations

import sys

import pytest
from fences import survives

pytestmark = [
    pytest.mark.usefixtures("compiled"),
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="fences memory by Linux's mprotect"),
]


def test_floats():
    survives("""
from minibi.kernels import attention, attention16, matmul, norm
f, rng = np.float32, np.random.default_rng(0)
draw = lambda *shape: fenced(rng.standard_normal(shape).astype(f))
for rows, k, n in [(1, 5, 3), (5, 16, 64), (7, 33, 65), (6, 64, 16), (13, 1, 200)]:
    for stored in (f, np.float16):
        x, panels = draw(rows, k), fenced(matmul.pack(rng.standard_normal((k, n)).astype(stored)))
        width = len(panels) * matmul.PANEL
        bias, residual = fenced(np.ones(width, f)), fenced(np.ones((rows, width), f))
        for kind in range(7):
            out = fenced(np.zeros((rows, width), f))
            matmul.linear(x, panels.view(np.uint8), stored != f, bias, residual, kind, out)
for rows, channels in [(1, 1), (3, 36), (5, 64)]:
    width = -(-channels // 16) * 16
    gamma, beta = fenced(np.ones(width, f)), fenced(np.ones(width, f))
    norm.layer_norm(draw(rows, width), channels, gamma, beta, f(1e-6))
for lengths, heads, width in [([1], 1, 1), ([17, 3], 3, 12), ([6, 65], 2, 33), ([130], 1, 64)]:
    starts = np.cumsum([0, *lengths])
    packed = draw(starts[-1], 3, heads, width)
    out = fenced(np.zeros((starts[-1], heads, width), f))
    attention.attend(packed[:, 0], packed[:, 1], packed[:, 2], starts, f(0.3), False, out)
    q, k, v = (fenced(packed[:, i]) for i in range(3))
    attention.attend(q, k, v, starts, f(0.3), False, out)
    attention16.attend16(packed[:, 0], packed[:, 1], packed[:, 2], starts, f(0.3), False, out)
    attention16.attend16(q, k, v, starts, f(0.3), False, out)
""")


def test_bytes():
    survives("""
from minibi.kernels import int8
f, rng = np.float32, np.random.default_rng(0)
draw = lambda *shape: fenced(rng.standard_normal(shape).astype(f))
for rows, k, n in [(1, 1, 1), (5, 16, 64), (7, 33, 65), (6, 64, 16), (13, 4, 200)]:
    x = draw(rows, -(-k // 16) * 16)
    codes, terms = fenced(np.zeros(x.shape, np.uint8)), fenced(np.zeros((rows, int8.TERM // 4), f))
    int8.quantize(x, k - 1, codes, terms)
    panels, columns = map(fenced, int8.pack8(rng.standard_normal((k, n)).astype(f), k - 1))
    width = len(panels) * int8.PANEL
    bias, residual = fenced(np.ones(width, f)), fenced(np.ones((rows, width), f))
    out = fenced(np.zeros((rows, width), f))
    for kind in range(7):
        int8.linear8(codes, terms, -(-k // 4) * 4, panels, columns, bias, residual, kind, out)
""")
