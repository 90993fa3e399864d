"""CrossEncoder as people use it: pairs, activations, ranking, truncation."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from minibi.errors import InputError
from minibi.models.cross_encoder import sigmoid
from minibi.text.tokenizer import TruncationWarning

DOCUMENTS = ["bread rises because of yeast", "the sky is blue", "", "bread rises because of yeast", "a list"]


def test_shapes(cross, cross_3):
    one = cross.predict(("a", "b"))
    assert np.ndim(one) == 0 and one.dtype == np.float32
    assert cross.predict([("a", "b")]).shape == (1,)
    assert cross.predict([["a", "b"], ("c", "d")]).shape == (2,)
    assert cross.predict(np.array([["a", "b"], ["c", "d"], ["e", "f"]])).shape == (3,)
    assert cross.predict([]).shape == (0,) and cross.predict([]).dtype == np.float32
    assert cross_3.predict(("a", "b")).shape == (3,) and cross_3.predict([]).shape == (0, 3)
    assert cross_3.predict(iter([("a", "b")])).shape == (1, 3)
    assert repr(cross).startswith("CrossEncoder(") and "max_length=64" in repr(cross)


def test_the_sides_of_a_pair_differ(cross):
    a, b = cross.predict([("bread", "the sky"), ("the sky", "bread")])
    assert abs(a - b) > 1e-3


@pytest.mark.parametrize(
    "bad", [None, 3, "ab", [None], [1], ["abc"], [("a",)], [("a", "b", "c")], [("a", None)], [("a", "b"), "cd"], [[]]]
)
def test_what_is_no_pair(cross, bad):
    with pytest.raises(InputError, match="pair"):
        cross.predict(bad)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "softmax"}, "activation 'softmax' is not"),
        ({"activation": None}, "activation None is not"),
        ({"truncation": "chunk"}, "cannot be read in chunks"),
        ({"truncation": "never"}, "truncation"),
        ({"batch_size": 0}, "batch_size"),
        ({"threads": 0}, "threads"),
    ],
)
def test_arguments_that_make_no_sense(cross, options, message):
    with pytest.raises(InputError, match=message):
        cross.predict([("a", "b")], **options)


def test_sigmoid():
    x = np.float32([-200, -1000, -18, 0, 16.5, 17, 18, 30, 1000])
    with np.errstate(all="raise", under="ignore"):
        y = sigmoid(x)
    assert y.dtype == np.float64 and (y > 0).all() and (y <= 1).all() and y[3] == 0.5
    assert (np.diff(y[4:8]) > 0).all(), "large scores keep their order; in float32 they would all be 1"
    exact = 1 / (1 + np.exp(-x[2:8].astype(np.float64)))
    np.testing.assert_allclose(y[2:8], exact, rtol=1e-15)


def test_activations(cross):
    pairs = [("bread", text) for text in DOCUMENTS]
    logits = cross.predict(pairs)
    np.testing.assert_allclose(cross.predict(pairs, activation="sigmoid"), 1 / (1 + np.exp(-logits)), rtol=1e-5)
    assert np.array_equal(cross.predict(pairs, activation=lambda x: -x), -logits)


def test_rank(cross):
    scores = cross.predict([("bread", text) for text in DOCUMENTS])
    ranked = cross.rank("bread", DOCUMENTS)
    assert [set(hit) for hit in ranked] == [{"corpus_id", "score"}] * 5
    assert [hit["corpus_id"] for hit in ranked] == sorted(range(5), key=lambda i: (-scores[i], i))
    assert [hit["score"] for hit in ranked] == pytest.approx(sorted(scores.tolist(), reverse=True))
    order = [hit["corpus_id"] for hit in ranked]
    assert order.index(0) < order.index(3), "equal texts keep their order"
    assert cross.rank("bread", DOCUMENTS, top_k=2) == ranked[:2]
    assert cross.rank("bread", DOCUMENTS, top_k=99) == ranked
    assert cross.rank("bread", DOCUMENTS, return_documents=True)[0]["text"] == DOCUMENTS[order[0]]
    assert cross.rank("bread", []) == []
    assert cross.rank("bread", "one document")[0]["corpus_id"] == 0
    squashed = cross.rank("bread", DOCUMENTS, activation="sigmoid")
    assert [hit["corpus_id"] for hit in squashed] == order and all(0 < hit["score"] < 1 for hit in squashed)


def test_rank_refuses(cross, cross_3):
    with pytest.raises(InputError, match="one output, this one has 3"):
        cross_3.rank("a", ["b"])
    for bad in (0, -1):
        with pytest.raises(InputError, match="top_k must be a whole number of at least 1"):
            cross.rank("a", ["b"], top_k=bad)
    with pytest.raises(InputError, match="text number 1 is NoneType"):
        cross.rank("a", ["b", None])
    with pytest.raises(InputError, match="one query, a string"):
        cross.rank(None, ["b"])


def test_truncation(cross_3):
    long = [("a", "b"), ("the " * 90, "of " * 90)]
    with pytest.warns(TruncationWarning, match="^1 of the texts") as caught:
        cut = cross_3.predict(long)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_allclose(cross_3.predict(long, truncation="silent"), cut, atol=1e-5)
        with pytest.raises(InputError, match="exceed 40 tokens"):
            cross_3.predict(long, truncation="raise")
    np.testing.assert_allclose(cut[1], cross_3.predict(("the " * 18, "of " * 19)), atol=1e-5)
