"""`minibi index` on a collection that exists already takes its model and arithmetic unless told otherwise."""

from __future__ import annotations

import pytest

from minibi.search.collection import Collection


@pytest.fixture
def tiny(golden):
    return golden / "tiny-bert"


@pytest.fixture
def notes(tmp_path):
    folder = tmp_path / "work" / "notes"
    folder.mkdir(parents=True)
    (folder / "a.txt").write_text("Paris is the capital of France.")
    return folder


@pytest.mark.parametrize("compute", ["float32", "int8"])
def test_the_collections_own_model_and_arithmetic(run, notes, tiny, compute):
    assert run("index", notes, "--model", tiny, "--compute", compute)[0] == 0
    (notes / "b.txt").write_text("Rome is the capital of Italy.")
    code, out, _ = run("index", notes)
    assert code == 0 and "2 documents" in out and "1 new" in out
    with Collection.open("notes.minibi") as collection:
        assert (collection.model.compute, collection.model.folder) == (compute, tiny)
    code, out, err = run("search", "notes.minibi", "capital of Italy", "-k", 1)
    assert (code, err) == (0, "") and "b.txt" in out


def test_another_arithmetic_is_refused_by_name(run, notes, tiny):
    run("index", notes, "--model", tiny, "--compute", "int8")
    code, _, err = run("index", notes, "--model", tiny, "--compute", "float32")
    assert code == 1 and "int8" in err and err.count("\n") == 1
