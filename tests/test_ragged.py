"""Ragged: what is accepted as token vectors, and what comes back; MaxSim's edges."""

from __future__ import annotations

import numpy as np
import pytest

from minibi.errors import InputError
from minibi.ragged import Ragged, as_ragged, maxsim, pack_rows


def test_as_a_sequence():
    matrices = [np.full((n, 2), n, np.float32) for n in (3, 0, 1)]
    ragged = pack_rows(matrices, 2)
    assert len(ragged) == 3 and ragged.dim == 2 and ragged.lengths.tolist() == [3, 0, 1]
    assert [m.shape for m in ragged] == [(3, 2), (0, 2), (1, 2)]
    assert (ragged[-1] == matrices[2]).all() and ragged[1].shape == (0, 2)
    for beyond in (3, -4):
        with pytest.raises(IndexError):
            ragged[beyond]
    assert len(pack_rows([], 5)) == 0 and pack_rows([], 5).dim == 5


def test_accepted():
    for given in (
        np.ones((4, 3)),
        [np.ones((4, 3))],
        np.ones((1, 4, 3)),
        [[[1, 1, 1]] * 4],
        Ragged(np.ones((4, 3)), [0, 4]),
    ):
        found = as_ragged(given)
        assert found.vectors.dtype == np.float32 and found.vectors.shape == (4, 3)
        assert found.starts.tolist() == [0, 4] and found.starts.dtype == np.int64
    assert as_ragged([], 3).vectors.shape == (0, 3)
    assert as_ragged([[], np.ones((2, 3))], 3).lengths.tolist() == [0, 2]


@pytest.mark.parametrize(
    "given",
    [
        [],
        "text",
        5,
        None,
        [np.ones(3)],
        [np.ones((2, 2, 2))],
        [np.ones((2, 3)), np.ones((2, 4))],
        [["a", "b"]],
        [np.full((1, 2), np.inf)],
        Ragged(np.ones((2, 3)), np.array([1, 2])),
        Ragged(np.ones((2, 3)), np.array([0, 1])),
        Ragged(np.ones((2, 3)), np.array([0, 2, 1, 2])),
        Ragged(np.ones((2, 3)), np.array([])),
        Ragged(np.ones((2, 3)), np.array([0.0, 2.0])),
        Ragged(np.ones((2, 3)), np.array([[0, 2]])),
    ],
)
def test_refused(given):
    with pytest.raises(InputError) as e:
        as_ragged(given)
    assert "\n" not in str(e.value)


def test_width():
    with pytest.raises(InputError, match="expected 4"):
        as_ragged([np.ones((2, 3))], 4)


def test_maxsim_edges():
    documents = pack_rows([np.zeros((0, 2)), np.array([[1, 0], [0, -2]]), np.zeros((0, 2))], 2)
    assert maxsim(np.array([[3, 0], [0, 1]]), documents).tolist() == [-np.inf, 3, -np.inf]
    assert maxsim(np.ones((1, 2)), pack_rows([np.zeros((0, 2))] * 2, 2)).tolist() == [-np.inf, -np.inf]
    assert maxsim(np.ones((1, 2)), pack_rows([], 2)).shape == (0,)
