"""Where pytrec_eval is installed: every metric of random runs with ties equals its own, to 1e-12."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi.evaluate import evaluate

CUTOFFS = (1, 2, 3, 5, 10, 100)
THEIRS = {
    **{
        f"{ours}@{k}": f"{theirs}_{k}"
        for ours, theirs in (
            ("ndcg", "ndcg_cut"),
            ("recall", "recall"),
            ("precision", "P"),
            ("map", "map_cut"),
            ("success", "success"),
        )
        for k in CUTOFFS
    },
    "ndcg": "ndcg",
    "mrr": "recip_rank",
    "map": "map",
    "recall": "set_recall",
    "precision": "set_P",
    "rprec": "Rprec",
}

ids = st.text("0123456789abAB-é漢\ue000😀", min_size=1, max_size=2)
scores = st.sampled_from([0.0, 0.25, 0.5, 1.0, 1.0 + 1e-12, 1e39, 1e40]) | st.floats(-1, 1)
query = st.tuples(
    st.dictionaries(ids, st.integers(-1, 3), min_size=1, max_size=12).filter(lambda judged: max(judged.values()) >= 0),
    st.dictionaries(ids, scores, min_size=1, max_size=25),
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(["q1", "q2", "q3"]), query, min_size=1))
def test_equal_to_pytrec_eval(queries):
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels, run = {q: judged for q, (judged, _) in queries.items()}, {q: hits for q, (_, hits) in queries.items()}
    cuts = ",".join(map(str, CUTOFFS))
    wanted = {f"{name}.{cuts}" for name in ("ndcg_cut", "recall", "P", "map_cut", "success")}
    theirs = pytrec_eval.RelevanceEvaluator(
        qrels, wanted | {"ndcg", "recip_rank", "map", "set_recall", "set_P", "Rprec"}
    )
    ours = evaluate(qrels, run, list(THEIRS))
    for q, values in theirs.evaluate(run).items():
        for name, their_name in THEIRS.items():
            assert ours.per_query[q][name] == pytest.approx(values[their_name], rel=0, abs=1e-12), (q, name)
