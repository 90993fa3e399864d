"""MaxSim kernels: exact on whole numbers, the same bits in any company, nothing wins that is not there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.index.token_codes import quantize_tokens
from minibi.ragged import Ragged, maxsim
from minibi.shapes import unit_rows

pytestmark = pytest.mark.usefixtures("compiled")

LENGTHS = st.lists(st.integers(0, 30) | st.sampled_from([11, 12, 13, 24, 25]), min_size=1, max_size=6)
TOKENS = st.integers(1, 40) | st.sampled_from([16, 17, 32, 33, 48, 70])
DIMS = st.sampled_from([16, 32, 48, 128])


@pytest.fixture(scope="module")
def kernels():
    from minibi.kernels import maxsim

    return maxsim


def some(lengths, tokens, dim, seed, top=5):
    """(documents, their starts, their lengths, query) of whole numbers up to `top`."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *lengths]).astype(np.int64)
    vectors = rng.integers(-top, top + 1, (starts[-1], dim)).astype(np.float32)
    query = rng.integers(-top, top + 1, (tokens, dim)).astype(np.float32)
    return Ragged(vectors, starts), starts[:-1].copy(), np.array(lengths, np.int64), query


def by_loops(query, documents):
    """The definition, number by number."""
    scores = []
    for matrix in documents:
        best = [max((float(np.dot(q, t)) for t in matrix), default=-np.inf) for q in query.astype(np.float64)]
        scores.append(sum(best) if len(matrix) else -np.inf)
    return np.array(scores, np.float32)


@given(LENGTHS, TOKENS, DIMS, st.integers(0, 10**6))
def test_exact_on_whole_numbers(kernels, lengths, tokens, dim, seed):
    documents, starts, sizes, query = some(lengths, tokens, dim, seed)
    expected = by_loops(query, documents)
    assert (maxsim(query, documents) == expected).all()
    out = np.full(len(lengths), np.nan, np.float32)
    panels = kernels.pack_query(query)
    kernels.score_floats(documents.vectors, starts, sizes, panels, tokens, out)
    assert (out == expected).all()
    halves = documents.vectors.astype(np.float16).view(np.uint16)
    kernels.score_halves(halves, starts, sizes, panels, tokens, out)
    assert (out == expected).all()


@given(LENGTHS, TOKENS, DIMS, st.integers(0, 10**6))
def test_bytes_are_exact_sums(kernels, lengths, tokens, dim, seed):
    rng = np.random.default_rng(seed)
    _, starts, sizes, _ = some(lengths, tokens, dim, seed)
    codes = rng.integers(-127, 128, (sum(lengths), dim)).astype(np.int8)
    asked = rng.integers(-127, 128, (tokens, dim)).astype(np.int8)
    scales = rng.choice([0.25, 0.5, 1, 2], len(codes)).astype(np.float32)  # powers of two: still exact
    worth = rng.choice([0.25, 0.5, 1], tokens).astype(np.float32)
    documents = Ragged(codes.astype(np.float32) * scales[:, None], np.append(starts, len(codes)))
    expected = by_loops(asked * worth[:, None], documents)
    out = np.full(len(lengths), np.nan, np.float32)
    raised = codes.view(np.uint8) ^ 128
    kernels.score_bytes(raised, scales, starts, sizes, *kernels.pack_query8(asked), worth, out)
    assert out == pytest.approx(expected, rel=1e-6)


@given(LENGTHS, TOKENS, st.integers(0, 10**6))
def test_the_same_bits_in_any_company(kernels, lengths, tokens, seed):
    documents, starts, sizes, query = some(lengths, tokens, 32, seed)
    documents.vectors[:] = np.random.default_rng(seed).normal(size=documents.vectors.shape)
    panels = kernels.pack_query(query)
    together = np.empty(len(lengths), np.float32)
    kernels.score_floats(documents.vectors, starts, sizes, panels, tokens, together)
    alone = np.empty(1, np.float32)
    for i in range(len(lengths)):
        kernels.score_floats(documents[i].copy(), np.zeros(1, np.int64), sizes[i : i + 1], panels, tokens, alone)
        assert alone.tobytes() == together[i : i + 1].tobytes()
    assert together == pytest.approx(maxsim(query, documents), rel=1e-4, abs=1e-3)


def test_what_is_not_there_cannot_win(kernels):
    """All products are negative: a padded row or query token, whose products are zero, would win every maximum."""
    vectors, query = -np.ones((5, 16), np.float32), np.ones((3, 16), np.float32)
    starts, sizes = np.array([0, 5, 2]), np.array([2, 0, 3])
    out = np.empty(3, np.float32)
    kernels.score_floats(vectors, starts, sizes, kernels.pack_query(query), 3, out)
    assert out.tolist() == [-48, -np.inf, -48]
    codes, scales = quantize_tokens(vectors)
    asked, worth = quantize_tokens(query)
    kernels.score_bytes(codes.view(np.uint8) ^ 128, scales, starts, sizes, *kernels.pack_query8(asked), worth, out)
    assert out == pytest.approx([-48, -np.inf, -48], rel=1e-5)


def test_error_of_bytes_on_unit_vectors(kernels):
    rng = np.random.default_rng(0)
    x, q = (unit_rows(rng.normal(size=(n, 128)).astype(np.float32)) for n in (3200, 32))
    documents = Ragged(x, np.arange(0, 3201, 32))
    codes, scales = quantize_tokens(documents.vectors)
    asked, worth = quantize_tokens(q)
    out = np.empty(100, np.float32)
    starts, sizes = documents.starts[:-1].copy(), documents.lengths
    kernels.score_bytes(codes.view(np.uint8) ^ 128, scales, starts, sizes, *kernels.pack_query8(asked), worth, out)
    assert np.abs(out - maxsim(q, documents)).max() < 0.02


PROGRAM = """
import hashlib, numpy as np
from minibi.index.residual import ResidualCodec
from minibi.index.token_codes import ByteCodes, Floating, Residuals
from minibi.index.kmeans import kmeans
rng = np.random.default_rng(0)
x, q = rng.normal(size=(300, 32)).astype(np.float32), rng.normal(size=(37, 32)).astype(np.float32)
starts, sizes = np.arange(0, 300, 30), np.full(10, 25)
digest = hashlib.sha256()
residuals = [Residuals(ResidualCodec.train(x, 9, nbits)) for nbits in (1, 2, 4)]
for codes in (Floating(32), Floating(32, halves=True), ByteCodes(32), *residuals):
    digest.update(codes.scorer(q)(codes.encode(x), starts, sizes).tobytes())
digest.update(kmeans(x, 9, seed=0)[0].tobytes())
print(digest.hexdigest())
"""


def test_the_same_bits_on_other_processors(said_on):
    assert len(set(said_on(PROGRAM, "haswell", "nehalem"))) == 1
