"""Recipes and objectives: what is read, what is refused and with which hint, and that every loss can be asked for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import FormatError, InputError
from minibi.train import losses
from minibi.train.data import Example
from minibi.train.objective import LOSSES, PAIRS, SCORED_LISTS, SCORED_PAIRS, make_objective
from minibi.train.recipe import parse_recipe, read_recipe

LEAST = {"output": "out", "model": {"base": "some-model"}, "data": {"train": "pairs.jsonl"}}

WHOLE = """
output = "models/out"
seed = 7

[model]
query = "small"
document = "large"
frozen = "document"
dropout = 0

[data]
train = ["a.jsonl", "/data/b.jsonl.gz"]
columns = {query = "title", positive = "body"}
held_out = 0.05

[loss]
name = "info_nce"
directions = ["query_to_doc", "doc_to_query"]
partition_mode = "per_direction"
same_texts = true
matryoshka_dims = [384, 64]
matryoshka_weights = [1, 0.5]

[training]
minutes = 10
batch_size = 256
chunk_size = 32
schedule = "cosine"
betas = [0.9, 0.98]
"""


def test_a_whole_recipe(tmp_path):
    (tmp_path / "small").mkdir()
    path = tmp_path / "recipe.toml"
    path.write_text(WHOLE)
    recipe = read_recipe(path)
    assert recipe.output == str(tmp_path / "models/out")
    assert recipe.model.query == str(tmp_path / "small")  # a folder beside the recipe
    assert recipe.model.document == "large"  # a name
    assert recipe.data.train == (str(tmp_path / "a.jsonl"), "/data/b.jsonl.gz")
    assert recipe.training.minutes == 10
    assert recipe.training.epochs is None
    assert recipe.training.betas == (0.9, 0.98)
    assert recipe.loss.options["same_texts"] is True
    assert recipe.objective().same_text_masks
    assert parse_recipe(recipe.as_dict()) == recipe


def test_the_least_recipe():
    recipe = parse_recipe(LEAST)
    assert recipe.training.epochs == 1
    assert recipe.loss.name == "info_nce"
    assert recipe.objective().needs == PAIRS


BAD = {
    "spelled": (
        {"training": {"bach_size": 3}},
        r"\[training\] unknown key 'bach_size' \(did you mean 'batch_size'\?\)",
    ),
    "misplaced": ({"model": {"base": "m", "batch_size": 3}}, r"it belongs below \[training\]"),
    "top": ({"epochs": 3}, r"unknown key 'epochs' \(it belongs below \[training\]\)"),
    "table": ({"data": 3}, "'data' must be a table"),
    "no data": ({"data": {}}, r"\[data\] train is missing: it must be a text or a list"),
    "output": ({"output": " "}, "output must be a text, not ' '"),
    "seed": ({"seed": 1.5}, "seed must be a whole number of at least 0, not 1.5"),
    "type": ({"training": {"batch_size": "32"}}, "batch_size must be a whole number of at least 1, not '32'"),
    "bool": ({"training": {"batch_size": True}}, "not True"),
    "range": ({"model": {"base": "m", "dropout": 1}}, "dropout must be a number of at least 0 and at most 0.9, not 1"),
    "nan": ({"training": {"learning_rate": float("nan")}}, "learning_rate must be a number above 0, not nan"),
    "choice": ({"training": {"schedule": "cosinus"}}, "schedule must be one of 'linear', 'cosine', 'constant'"),
    "betas": ({"training": {"betas": [0.9]}}, "betas must be two numbers"),
    "lengths": ({"training": {"epochs": 1, "steps": 5}}, "epochs and steps both say how long"),
    "role": ({"data": {"train": "x", "columns": {"querry": "q"}}}, r"no role 'querry' \(did you mean 'query'\?\)"),
    "scores": ({"data": {"train": "x", "score_range": [5, 0]}}, "two rising numbers"),
    "no model": ({"model": {}}, "name the model to start from"),
    "one tower": ({"model": {"query": "a"}}, "base, or both query and document"),
    "three": ({"model": {"base": "a", "query": "b"}}, "base stands for both towers"),
    "frozen": ({"model": {"base": "a", "frozen": "document"}}, "frozen needs two towers"),
    "loss": ({"loss": {"name": "infonce"}}, r"\[loss\] there is no loss 'infonce' .*did you mean 'info_nce'"),
    "option": ({"loss": {"sclae": 5}}, "info_nce has no option 'sclae' .*did you mean 'scale'"),
    "given": ({"loss": {"name": "cosent", "labels": [1]}}, "cosent has no option 'labels'"),
    "value": ({"loss": {"scale": -1}}, "scale must be a finite number above 0"),
    "word": ({"loss": {"false_negative_margin": "a"}}, "an option of info_nce has the wrong type"),
    "weights": ({"loss": {"matryoshka_dims": [4], "matryoshka_weights": [1, 2]}}, "1 numbers .*, one for each width"),
    "no dims": ({"loss": {"matryoshka_weights": [1]}}, "without matryoshka_dims"),
    "dims": ({"loss": {"matryoshka_dims": [0]}}, "matryoshka_dims must be a list of widths"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named(name):
    change, message = BAD[name]
    with pytest.raises(FormatError, match=message):
        parse_recipe(LEAST | change)


def test_bad_files(tmp_path):
    with pytest.raises(InputError, match="cannot read"):
        read_recipe(tmp_path / "none.toml")
    path = tmp_path / "recipe.toml"
    path.write_text('output = "x\n')
    with pytest.raises(FormatError, match=r"recipe\.toml is not TOML: .*line 1"):
        read_recipe(path)
    path.write_bytes(b"\xff")
    with pytest.raises(FormatError, match="not UTF-8"):
        read_recipe(path)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    part=st.sampled_from(["model", "data", "loss", "training", "output", "seed"]),
    name=st.sampled_from(["base", "train", "name", "scale", "betas", "columns", "epochs", "directions", "score_range"]),
    value=json_like,
)
def test_anything_is_read_or_refused_in_words(part, name, value):
    change = {part: value} if part in ("output", "seed") else {part: LEAST.get(part, {}) | {name: value}}
    try:
        recipe = parse_recipe(LEAST | change)
    except FormatError as e:
        assert str(e).startswith("recipe:")
    else:
        assert parse_recipe(recipe.as_dict()) == recipe


# --- objectives ------------------------------------------------------------------------------------------------------


def batch_for(needs: str, documents: int) -> list[Example]:
    scores = {PAIRS: None, SCORED_PAIRS: (1.0,), SCORED_LISTS: tuple(np.linspace(0, 1, documents))}[needs]
    return [Example(f"q{i}", tuple(f"d{i}{k}" for k in range(documents)), scores) for i in range(4)]


@pytest.mark.parametrize("dims", [(), (6, 3)])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_runs_on_its_kind_of_examples(name, dims):
    objective = make_objective(name, dims=dims)
    count = objective.documents or 3
    batch = batch_for(objective.needs, count)
    assert objective.check(batch) == count
    columns = objective.columns(batch)
    assert columns[0] == ["q0", "q1", "q2", "q3"]
    assert columns[-1][2] == f"d2{count - 1}"
    vectors = np.random.default_rng(0).normal(size=(len(columns), 4, 6)).astype(np.float32)
    first = [value for _, value in objective.parameters]
    teacher = {"teacher": list(vectors)} if objective.wants_teacher else {}
    value, gradients = objective.loss(*first, *vectors, **objective.given(batch), **teacher)
    assert np.isfinite(value)
    assert len(gradients) == len(first) + len(columns)


def test_what_an_objective_gives_its_loss():
    lists = [Example("q", ("a", "b"), (3.0, 1.0)), Example("r", ("c", "d"), (0.0, 2.0))]
    objective = make_objective("kl_divergence", {"temperature": 0.5, "similarity": "cosine"})
    np.testing.assert_array_equal(objective.given(lists)["teacher"], [[3, 1], [0, 2]])
    x = np.random.default_rng(0).normal(size=(3, 2, 4))
    direct = losses.of_embeddings(losses.kl_divergence, "cosine")(*x, teacher=[[3, 1], [0, 2]], temperature=0.5)
    assert objective.loss(*x, **objective.given(lists))[0] == direct[0]
    pairs = [Example("q", ("a",), (3.0,)), Example("r", ("c",), (0.5,))]
    assert make_objective("cosent").given(pairs)["labels"].tolist() == [3, 0.5]
    same = make_objective("info_nce", {"same_texts": True}).given([Example("q", ("a",)), Example("q", ("b",))])
    assert same["masks"]["query_to_doc"].all()


def test_examples_that_do_not_suit():
    pair, scored = Example("q", ("p",)), Example("q", ("p",), (1.0,))
    for name, examples, message in (
        ("info_nce", [], "no examples"),
        ("info_nce", [pair, scored], "info_nce needs pairs, but example 1 has scores"),
        ("cosent", [pair], "cosent needs scored pairs, but example 0 has none"),
        ("info_nce", [pair, Example("q", ("p", "n"))], "example 1 has 2 documents, the first has 1: cut them"),
        ("triplet", [pair], "triplet needs 2 documents .* have 1"),
        ("margin_mse", [scored], "needs at least 2 documents"),
        ("cosine_similarity", [scored] * 1500 + [Example("q", ("p",), (4.0,))], "between -1 and 1, .* one is 4"),
    ):
        with pytest.raises(InputError, match=message):
            make_objective(name).check(examples)
