"""Texts of thousands of tokens, where a model has the positions for them, and a refusal where it has not."""

from __future__ import annotations

import numpy as np
import pytest

from minibi.errors import InputError
from minibi.models import bert
from minibi.nn import plain
from minibi.text.batches import pack

CONFIG = bert.BertConfig(
    layers=2,
    channels=36,
    heads=3,
    feed_forward=72,
    vocabulary=100,
    positions=4096,
    types=2,
    eps=1e-12,
    activation="gelu",
)


def random_weights(config: bert.BertConfig, seed: int) -> dict[str, np.ndarray]:
    """Weights under a BERT's stored names, large enough that attention is far from uniform."""
    rng = np.random.default_rng(seed)
    c, f = config.channels, config.feed_forward
    shapes = {
        "embeddings.word_embeddings.weight": (config.vocabulary, c),
        "embeddings.position_embeddings.weight": (config.positions, c),
        "embeddings.token_type_embeddings.weight": (config.types, c),
    }
    norms = ["embeddings.LayerNorm"]
    for i in range(config.layers):
        p = f"encoder.layer.{i}."
        linears = [(f"{p}attention.self.{n}", (c, c)) for n in ("query", "key", "value")]
        linears += [
            (p + "attention.output.dense", (c, c)),
            (p + "intermediate.dense", (f, c)),
            (p + "output.dense", (c, f)),
        ]
        for name, shape in linears:
            shapes[name + ".weight"], shapes[name + ".bias"] = shape, shape[:1]
        norms += [p + "attention.output.LayerNorm", p + "output.LayerNorm"]
    for name in norms:
        shapes[name + ".weight"] = shapes[name + ".bias"] = (c,)
    tensors = {}
    for name, shape in shapes.items():
        noise = rng.standard_normal(shape).astype(np.float32)
        scale = 1.5 / np.sqrt(shape[-1]) if len(shape) == 2 and "embeddings" not in name else 0.5
        tensors[name] = noise * np.float32(scale)
    return tensors


@pytest.fixture(scope="module")
def weights():
    return random_weights(CONFIG, seed=7)


@pytest.fixture(scope="module")
def batch():
    """Three texts of 2,100, 5 and 700 tokens."""
    rng = np.random.default_rng(0)
    return pack([rng.integers(0, 100, n) for n in (2100, 5, 700)])


@pytest.fixture(scope="module")
def truth(weights, batch):
    return bert.forward(plain, bert.read_params(weights, CONFIG, plain), CONFIG, batch)


def test_a_long_text_on_compiled_kernels(compiled, weights, batch, truth):
    from minibi.nn import fused

    params = bert.read_params(weights, CONFIG, fused)
    found = bert.forward(fused, params, CONFIG, batch)
    assert found.shape == truth.shape == (2805, 36)
    assert np.abs(found - truth).max() < 5e-5
    alone = bert.forward(fused, params, CONFIG, pack([batch.ids[2105:]]))
    assert np.array_equal(alone, found[2105:])


def test_study_of_several_texts(weights):
    study, batch = bert.Study(), pack([range(60), [5], range(9)])
    h = bert.forward(plain, bert.read_params(weights, CONFIG, plain), CONFIG, batch, study)
    assert len(study.states) == 3 and np.array_equal(study.states[-1], h)
    assert [w.shape for w in study.attention[1]] == [(3, 60, 60), (3, 1, 1), (3, 9, 9)]


def test_a_text_beyond_the_positions_is_refused(weights):
    params = bert.read_params(weights, CONFIG, plain)
    with pytest.raises(InputError, match="a text of 4097 tokens exceeds the model's 4096 positions"):
        bert.forward(plain, params, CONFIG, pack([[1, 2], [3] * 4097]))


def test_no_tokens_at_all(weights):
    assert bert.forward(plain, bert.read_params(weights, CONFIG, plain), CONFIG, pack([])).shape == (0, 36)
