"""AdamW, clipping and schedules: against the loop over single numbers, and equal after a resumption."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.train import optimizer as module
from minibi.train.optimizer import AdamW, clip, constant_schedule, cosine_schedule, global_norm, linear_schedule


def arrays(seed, dtype=np.float32):
    rng = np.random.default_rng(seed)
    shapes = {"matrix": (7, 33), "bias": (33,), "table": (300, 5), "one": (1,)}
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def by_hand(p, gradients, lr, b1, b2, eps, decay):
    """The paper's algorithm on one number."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        p -= lr * decay * p
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        p -= lr * (m / (1 - b1**t)) / (math.sqrt(v / (1 - b2**t)) + eps)
    return p


@pytest.mark.parametrize("dtype, tolerance", [(np.float64, 1e-12), (np.float32, 2e-6)])
@given(st.integers(0, 10**6), st.integers(1, 5), st.sampled_from([0.0, 0.1]), st.sampled_from([(0.9, 0.999), (0, 0.5)]))
def test_adamw(dtype, tolerance, seed, steps, decay, betas):
    p, start = arrays(seed, dtype), arrays(seed, dtype)
    gradients = [arrays(seed + 1 + n, dtype) for n in range(steps)]
    optimizer = AdamW(p, lr=0.01, betas=betas, eps=1e-6, weight_decay=decay)
    for g in gradients:
        optimizer.step(g)
    for name, a in p.items():
        at = (0,) * a.ndim
        history = [float(g[name][at]) for g in gradients]
        expected = by_hand(float(start[name][at]), history, 0.01, *betas, 1e-6, decay if a.ndim > 1 else 0)
        assert abs(a[at] - expected) <= tolerance * max(1, abs(expected))


def test_resumed_equals_uninterrupted():
    def run(stops):
        p, optimizer = arrays(0), None
        for n in range(6):
            if optimizer is None or n in stops:
                state = optimizer and {k: a.copy() for k, a in optimizer.state().items()}
                p = {name: a.copy() for name, a in p.items()}
                optimizer = AdamW(p, lr=0.1)
                if state:
                    optimizer.load_state(state)
            optimizer.step(arrays(n + 1), scale=0.5)
        return p

    whole, parts = run(()), run((2, 5))
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_the_same_bits_on_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 64)
    found = []
    for threads in (1, 3):
        p = arrays(0)
        optimizer = AdamW(p, lr=0.1, threads=threads)
        for n in range(3):
            g = arrays(n + 1)
            clip(g, 0.5, threads)
            optimizer.step(g)
        found.append(p)
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_clip():
    g = arrays(0)
    norm = math.sqrt(sum((a.astype(np.float64) ** 2).sum() for a in g.values()))
    assert global_norm(g) == pytest.approx(norm, rel=1e-6)
    before = {name: a.copy() for name, a in g.items()}
    assert clip(g, 1e9) == pytest.approx(norm, rel=1e-6)
    assert all(np.array_equal(g[name], before[name]) for name in g)
    clip(g, 1.0)
    assert global_norm(g) == pytest.approx(1, rel=1e-5)
    g["bias"][3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        clip(g, 1.0)


def test_schedules():
    linear, cosine = linear_schedule(100, warmup=10), cosine_schedule(100, warmup=10)
    assert [linear(0), linear(5), linear(10), linear(55), linear(100), linear(200)] == [0, 0.5, 1, 0.5, 0, 0]
    assert [cosine(0), cosine(5), cosine(10)] == [0, 0.5, 1] and cosine(55) == pytest.approx(0.5)
    assert cosine(100) == pytest.approx(0) and linear_schedule(10)(0) == 1
    assert constant_schedule(4)(1) == 0.25 and constant_schedule(4)(9) == constant_schedule()(0) == 1
    with pytest.raises(InputError, match="warm-up"):
        linear_schedule(10, warmup=11)


def test_bad_input_changes_nothing():
    p, g = arrays(0), arrays(1)
    optimizer = AdamW(p)
    with pytest.raises(InputError, match="each name"):
        optimizer.step({"matrix": g["matrix"]})
    with pytest.raises(InputError, match="shape"):
        optimizer.step({**g, "bias": g["matrix"]})
    with pytest.raises(InputError, match="other parameters"):
        optimizer.load_state({})
    assert optimizer.steps == 0 and all(
        np.array_equal(a, b) for a, b in zip(p.values(), arrays(0).values(), strict=True)
    )
    with pytest.raises(InputError, match="AdamW"):
        AdamW(p, betas=(1.0, 0.9))
    with pytest.raises(InputError, match="contiguous"):
        AdamW({"a": np.zeros((3, 4)).T})
