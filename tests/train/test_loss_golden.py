"""Losses and gradients equal what sentence-transformers and torch's autograd say (tests/golden/make_losses.py)."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from minibi.store.tensors import read_safetensors
from minibi.train import losses as L

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = json.loads((GOLDEN / "losses.json").read_text())["cases"]


@pytest.fixture(scope="module")
def arrays():
    return read_safetensors(GOLDEN / "losses.safetensors")


def function(call: str, options: dict, arrays: dict):
    """The function of a case, its options filled in."""
    options = dict(options)
    kind, _, name = call.rpartition(":")
    if isinstance(options.get("teacher"), str):
        options["teacher"] = arrays[options["teacher"]]
    if "guides" in options:
        options["guides"] = [arrays[g] for g in options["guides"]]
    loss = getattr(L, name)
    if kind == "of":
        return partial(L.of_embeddings(loss, options.pop("similarity")), **options)
    if kind == "tokens":
        return partial(L.of_tokens(loss), **options)
    if kind == "nested":
        return partial(L.matryoshka(loss, options.pop("dims"), options.pop("weights")), **options)
    if kind == "lists":
        return partial(packed, loss, options.pop("labels"), options)
    return partial(loss, **options)


def packed(loss, labels, options, logits):
    """A loss of lists of different lengths, which are the beginnings of the rows of logits."""
    sizes = np.array([len(row) for row in labels])
    inside = np.arange(logits.shape[1]) < sizes[:, None]
    value, (d,) = loss(logits[inside], labels=np.concatenate(labels), starts=np.append(0, sizes.cumsum()), **options)
    gradient = np.zeros_like(logits)
    gradient[inside] = d
    return value, (gradient,)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_as_sentence_transformers_and_torch(case, arrays):
    inputs = [arrays[name] for name in case["inputs"]]
    value, gradients = function(case["call"], case["options"], arrays)(*inputs)
    tolerance = 1e-6 if case["call"].startswith(("tokens", "lists")) else 1e-9  # those turn scores to float32
    assert value == pytest.approx(case["loss"], rel=tolerance)
    assert len(gradients) == case["gradients"]
    for i, gradient in enumerate(gradients):
        expected = arrays[f"{case['name']}.{i}"]
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=tolerance * max(1e-3, np.abs(expected).max()))


def test_golden_losses_are_not_trivial(arrays):
    for case in CASES:
        assert case["loss"] > 1e-3, case["name"]
        assert all(np.abs(arrays[f"{case['name']}.{i}"]).max() > 1e-4 for i in range(case["gradients"])), case["name"]
