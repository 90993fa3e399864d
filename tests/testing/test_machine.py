"""minibi's indexes under calls in any order; 10,000 steps with MINIBI_DEEP=1."""

from __future__ import annotations

from types import MappingProxyType

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import run_state_machine_as_test

from minibi import FlatIndex, HNSWIndex
from minibi.testing import Oracle, Subject, state_machine, strategies
from minibi.testing.machine import replay
from minibi.testing.strategies import Operation

TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "int8": 0.02, "int4": 0.2}
VARIANTS = [
    ("flat", "cosine", "", "float32"), ("flat", "l2", "", "float32"), ("flat", "ip", "", "float16"),
    ("hnsw", "cosine", "int4", "float32"), ("hnsw", "l2", "float32", "float32"), ("hnsw", "ip", "int8", "float32"),
    ("hnsw", "cosine", "float16", "float16"), ("hnsw", "l2", "int8", "float32"),
]  # fmt: skip


def subject(kind: str, codes: str, store: str) -> Subject:
    class Mine(Subject):
        tolerance = TOLERANCE[store]
        options = MappingProxyType({"ef": 1000} if kind == "hnsw" else {})

        def make(self, dim, metric):
            if kind == "flat":
                return FlatIndex(dim, metric, store=store)
            return HNSWIndex(dim, metric, M=4, ef_construction=20, codes=codes, store=store)

    return Mine()


@pytest.mark.parametrize(("kind", "metric", "codes", "store"), VARIANTS)
def test_calls_in_any_order(kind, metric, codes, store, deep, capsys):
    machine = state_machine(subject(kind, codes, store), dim=4, metric=metric, most=12)
    tries = settings(
        max_examples=70 if deep else 4, stateful_step_count=50 if deep else 20, deadline=None, derandomize=not deep,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    run_state_machine_as_test(machine, settings=tries)
    assert sum(machine.tally.values()) > 20
    if deep:
        with capsys.disabled():
            print(f"\n{kind} {metric} {codes}: {sum(machine.tally.values())} steps {dict(machine.tally)}")


def test_a_list_of_calls_is_a_bug_report():
    calls = [Operation("add", ([[1, 0], [0, 1]], [3, 4])), Operation("remove", ([3],)), Operation("check")]
    pair = replay(subject("hnsw", "float32", "float32"), 2, "ip", calls)
    assert pair.truth.ids.tolist() == [4] and repr(calls[1]) == "remove([3])"


@given(strategies.vector_sets((0, 30), (1, 5)), strategies.not_finite(3))
def test_strategies_give_what_they_promise(x, bad):
    assert x.dtype.name == "float32" and x.ndim == 2 and abs(x).max(initial=0) < 1e17 and (x == x).all()
    with pytest.raises(ValueError, match="finite"):
        Oracle(3).add(bad)


@given(strategies.ids(9))
def test_ids_are_different_and_fit(ids):
    assert len(set(ids)) == 9 and -1 not in ids and all(-(2**63) <= i < 2**63 for i in ids)


@pytest.mark.parametrize("kind", strategies.KINDS)
def test_every_kind_in_every_size(kind):
    @settings(max_examples=8, suppress_health_check=list(HealthCheck))
    @given(strategies.vector_sets((0, 600), (1, 8), [kind]))
    def check(x):
        assert x.dtype.name == "float32" and abs(x).max(initial=0) < 1e17

    check()
