"""Lessons run, and the built notebook is what its source says: the same cells, the library as it is now, no errors."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

for needed in ("jupytext", "nbformat", "nbclient", "ipykernel", "matplotlib"):
    pytest.importorskip(needed)

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "minibi"
SECONDS = 60
LARGEST = 1_500_000  # bytes of a built notebook, pictures included


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"notebooks_{name}", ROOT / "notebooks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _load("build")
LESSONS = build.lessons()
INTRINSICS = {"generate"}  # what an intrinsic's inner function is called everywhere
REBUILD = "rebuild it: python notebooks/build.py"


@pytest.fixture(scope="module", params=LESSONS, ids=lambda path: path.stem)
def source(request) -> Path:
    return request.param


@pytest.fixture(scope="module")
def built(source) -> Any:
    import nbformat

    return nbformat.read(source.with_suffix(".ipynb"), as_version=4)


@pytest.fixture(scope="module")
def executed(source) -> tuple[Any, float]:
    """The lesson made anew from its .py and run on less data, and the seconds that took. Fails if any cell does.

    On a busy machine what its process was given counts, not how long it waited for that.
    """
    notebook, before = build.convert(source), os.times()
    seconds = build.execute(notebook, quick=True)
    given = sum(os.times()[2:4]) - sum(before[2:4])  # of children that have ended
    build.clean(notebook)
    return notebook, min(seconds, given) if given > 1 else seconds


def _outputs(notebook: Any):
    """(cell, its number, output) of every output."""
    for number, cell in enumerate(notebook.cells):
        for output in cell.get("outputs", []):
            yield cell, number, output


def _sources_shown(notebook: Any) -> list[str]:
    texts = (output.get("data", {}).get("text/markdown", "") for _, _, output in _outputs(notebook))
    return [text for text in texts if text.startswith("```python\n# minibi/")]


def test_there_is_a_first_lesson():
    assert [path.stem for path in LESSONS][:1] == ["01_from_text_to_search"]


def test_the_notebook_has_the_cells_of_its_source(source, built):
    wanted = build.convert(source)
    for number, (a, b) in enumerate(itertools.zip_longest(wanted.cells, built.cells)):
        assert a is not None and b is not None, f"{source.stem} has another number of cells than its .py: {REBUILD}"
        assert (a.cell_type, a.source, a.id) == (b.cell_type, b.source, b.id), f"cell {number} differs: {REBUILD}"
    assert wanted.metadata == built.metadata


def test_the_notebook_was_run_from_top_to_bottom(source, built):
    code = [cell for cell in built.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert not [number for _, number, output in _outputs(built) if output.output_type == "error"]
    pictures = [output for _, _, output in _outputs(built) if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3
    assert source.with_suffix(".ipynb").stat().st_size < LARGEST


def test_the_notebook_holds_nothing_of_the_machine_that_built_it(built):
    for cell in built.cells:
        assert cell.metadata == {}
    for _, number, output in _outputs(built):
        assert output.get("name") != "stderr", f"cell {number} warns"
        text = json.dumps({**output, "data": {k: v for k, v in output.get("data", {}).items() if "image" not in k}})
        for mark in (str(ROOT), str(Path.home()) + "/", sys.prefix, "/tmp/", "/home/", "/Users/", " at 0x"):
            assert mark not in text, f"cell {number} holds {mark!r}"


def test_it_runs_within_a_minute(executed):
    notebook, seconds = executed
    assert not [number for _, number, output in _outputs(notebook) if output.output_type == "error"]
    assert seconds < SECONDS


def test_the_notebook_shows_the_library_as_it_is(built, executed):
    shown = _sources_shown(executed[0])
    assert len(shown) >= 4
    assert _sources_shown(built) == shown, f"a function was edited since: {REBUILD}"


def test_what_is_shown_is_in_the_files_named(built):
    for text in _sources_shown(built):
        _, place, *lines, fence = text.splitlines()
        file = (ROOT / place.removeprefix("# ")).read_text(encoding="utf-8").splitlines()
        assert fence == "```" and {line.strip() for line in lines} <= {line.strip() for line in file}


def test_lessons_never_redefine_the_library(source):
    def defined(path: Path, everything: bool) -> set[str]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        methods = {method for node in ast.walk(tree) if isinstance(node, ast.ClassDef) for method in node.body}
        nodes = set(ast.walk(tree)) - methods if everything else tree.body
        return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}

    library = set().union(*(defined(path, everything=False) for path in PACKAGE.rglob("*.py")))
    assert not defined(source, everything=True) - INTRINSICS & library
    assert not defined(ROOT / "notebooks" / "lesson.py", everything=False) & library


def test_numbers_paths_and_addresses_are_stripped():
    import nbformat

    text = f"{ROOT}/minibi/nn/plain.py <object at 0x7f00deadbeef>"
    outputs = [
        nbformat.v4.new_output("stream", name="stderr", text="a warning"),
        nbformat.v4.new_output("stream", name="stdout", text=text),
        nbformat.v4.new_output("display_data", data={"text/plain": text, "image/png": "AAAA"}),
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("pass", outputs=outputs)])
    notebook.cells[0].metadata = {"execution": {"iopub.status.busy": "now"}}
    build.clean(notebook)
    (cell,) = notebook.cells
    assert cell.metadata == {}
    assert [o.get("text") or o.data["text/plain"] for o in cell.outputs] == ["minibi/nn/plain.py <object>"] * 2
    assert cell.outputs[1].data["image/png"] == "AAAA"


def test_pictures_keep_their_colours():
    import base64
    import io

    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = np.full((60, 80, 3), 255, np.uint8)
    pixels[10:20, 10:20] = (213, 94, 0)  # a small red mark on many shades of blue
    pixels[30:50] = 255 - rng.integers(0, 80, (20, 80, 1)) * np.array([3, 1, 0], np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    png = base64.b64encode(file.getvalue()).decode("ascii")
    smaller = build._with_palette(png)
    again = np.asarray(Image.open(io.BytesIO(base64.b64decode(smaller))).convert("RGB")).astype(int)
    assert len(smaller) < len(png) and np.abs(again - pixels).max() <= 16


def test_a_failing_cell_fails_the_build(tmp_path):
    from nbclient.exceptions import CellExecutionError

    lesson = tmp_path / "09_broken.py"
    lesson.write_text("# %%\nassert 1 + 1 == 3\n", encoding="utf-8")
    with pytest.raises(CellExecutionError):
        build.build(lesson)
    assert not lesson.with_suffix(".ipynb").exists()


def test_a_name_that_is_no_lesson_is_refused(capsys):
    assert build.main(["99"]) == 1
    assert "01_from_text_to_search" in capsys.readouterr().out
