"""Names of indexes: every form makes what it says, others are refused with the nearest one; and advice."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
from minibi.index.factory import FORMS, index_factory, recommend


@pytest.mark.parametrize("name", FORMS)
def test_every_form_makes_a_working_index(name):
    index = index_factory(name, 96, "l2")
    x = np.random.default_rng(0).normal(size=(50, 96))
    index.add(x)
    assert index.search(x, 1)[1][:, 0].tolist() == list(range(50)) and index.metric == "l2"


@pytest.mark.parametrize(
    ("name", "kind", "wanted"),
    [
        ("Flat", "flat-index", {"store": "float32"}),
        ("SQ8", "flat-index", {"store": "int8"}),
        ("SQfp16", "flat-index", {"store": "float16"}),
        ("HNSW32,SQ8", "hnsw-index", {"M": 32, "codes": "int8", "store": "float32"}),
        ("HNSW16,SQ4", "hnsw-index", {"M": 16, "codes": "int4"}),
        ("HNSW16,Flat", "hnsw-index", {"codes": "float32"}),
        ("IVF1024,Flat", "ivf-index", {"nlist": 1024, "codes": None}),
        ("IVF,SQ8", "ivf-index", {"nlist": None, "codes": "int8"}),
        ("IVF512,PQ96x4fs,RFlat", "ivfpq-index", {"nlist": 512, "M": 96, "bits": 4, "rotation": "none"}),
        ("IVF64,PQ8x4fs,Refine(SQ8)", "ivfpq-index", {"M": 8, "store": "int8"}),
        ("OPQ48,IVF64,PQ48", "ivfpq-index", {"M": 48, "bits": 8, "rotation": "opq"}),
        ("RR,PQ48x4", "pq-index", {"M": 48, "bits": 4, "rotation": "random", "nlist": 1}),
        ("RaBitQ", "rabitq-index", {"bits": 1}),
        ("IVF64,RaBitQ4", "ivf-rabitq-index", {"bits": 4, "nlist": 64}),
        ("Binary", "binary-index", {"nlist": 1}),
    ],
)
def test_what_a_name_means(name, kind, wanted):
    index = index_factory(name, 96, seed=3) if "Flat" not in name[:4] and name[:2] != "SQ" else index_factory(name, 96)
    assert index.kind == kind and {key: getattr(index, key) for key in wanted} == wanted


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("flat", "Flat"), ("HNSW", "HNSW16"), ("IVF1024;Flat", "IVF1024,Flat"), ("SQ6", "SQ8"), ("RaBit", "RaBitQ"),
        ("HNSW16,PQ8", "HNSW16"), ("", None), (None, None), (7, None), ("IVF1024SQ8", "IVF1024,SQ8"), ("Flat,", "Flat"),
        ("OPQ8,Flat", None), (",Flat", "Flat"), ("IVF1024,", "IVF1024"),
    ],
)  # fmt: skip
def test_other_names_are_refused_with_the_nearest_form(name, nearest):
    with pytest.raises(InputError) as e:
        index_factory(name, 96)
    assert "\n" not in str(e.value) and (nearest is None or f"'{nearest}" in str(e.value))


def test_settings_that_a_class_does_not_have():
    with pytest.raises(InputError, match="these settings"):
        index_factory("Flat", 8, nlist=3)
    for name in ("IVF0,Flat", "RaBitQ9", "PQ97", "PQ8x5", "HNSW1"):
        with pytest.raises(InputError):
            index_factory(name, 96)


def test_advice():
    assert recommend(50_000, 384)[0] == "Flat" and "scan" in recommend(50_000, 384)[1]
    assert recommend(50_000, 384, 50_000 * 1200)[0] == "SQfp16" and recommend(50_000, 384, 50_000 * 800)[0] == "SQ8"
    assert recommend(1_000_000, 384)[0] == "HNSW16"
    assert recommend(1_000_000, 384, 1_700_000_000)[0] == "IVF4096,PQ96x4fs,RFlat"
    with pytest.raises(InputError, match="4 bits"):
        recommend(1_000_000, 384, 1000)


@given(st.integers(0, 10**9), st.integers(1, 5000), st.none() | st.integers(0, 10**13))
def test_advice_can_be_followed(n, dim, room):
    try:
        name, why = recommend(n, dim, room)
    except InputError:
        assert room is not None and room < n * (dim // 2 + 100)
        return
    assert index_factory(name, dim).dim == dim and why and "\n" not in why
