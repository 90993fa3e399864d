"""Packed batches hold every text once, in order, within their budget."""

from __future__ import annotations

from itertools import chain, pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from minibi.text.batches import pack, plan

TEXTS = st.lists(st.lists(st.integers(0, 30000), min_size=1, max_size=9), max_size=8)
LENGTHS = st.lists(st.integers(1, 60), max_size=40)


def flat(lists):
    return list(chain.from_iterable(lists))


@given(TEXTS)
def test_pack_lays_texts_end_to_end(texts):
    batch = pack(texts)
    assert len(batch) == len(texts)
    assert batch.ids.dtype == batch.types.dtype == np.int32 and batch.starts.dtype == np.int64
    assert batch.ids.tolist() == flat(texts) and not batch.types.any()
    assert batch.lengths.tolist() == [len(t) for t in texts]
    assert [batch.ids[a:b].tolist() for a, b in pairwise(batch.starts)] == texts
    assert batch.positions().tolist() == [i for t in texts for i in range(len(t))]


@given(TEXTS)
def test_pack_keeps_types(texts):
    types = [[i % 2 for i in range(len(t))] for t in texts]
    batch = pack(texts, types)
    assert batch.types.tolist() == flat(types) and batch.types.dtype == np.int32


@given(LENGTHS, st.integers(1, 200), st.none() | st.integers(1, 10))
def test_plan_is_a_partition_within_its_budget(lengths, tokens, texts):
    groups = [g.tolist() for g in plan(lengths, tokens=tokens, texts=texts)]
    order = flat(groups)
    assert sorted(order) == list(range(len(lengths))), "every text exactly once"
    assert order == sorted(order, key=lambda i: (-lengths[i], i)), "longest first, equals in their order"
    for group in groups:
        total = sum(lengths[i] for i in group)
        assert total <= tokens or len(group) == 1, "only a text that is too long by itself exceeds the budget"
        assert texts is None or len(group) <= texts
    for one, following in pairwise(groups):
        full = sum(lengths[i] for i in one) + lengths[following[0]] > tokens
        assert full or len(one) == texts, "no batch ends early"


def test_plan_of_nothing():
    assert plan([], tokens=512) == []
    assert len(pack([])) == 0 and pack([]).positions().size == 0
