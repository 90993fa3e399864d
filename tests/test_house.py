"""The floors hold: reads every import of the package and fails on an arrow that goes up or sideways."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "minibi"
GROUND = {"errors", "shapes", "ragged", "environment", "threads", "arguments", "hashing"}
MAY_IMPORT = {  # room -> the rooms it may look into, besides the ground and itself
    "kernels": set(),
    "nn": {"kernels"},
    "text": set(),
    "store": set(),
    "models": {"nn", "text", "store"},
    "index": {"kernels", "store"},
    "lexical": {"kernels", "store", "text"},
    "train": {"models", "nn", "text", "store", "kernels"},
    "evaluate": {"models", "index", "lexical", "text", "store"},
    "search": {"models", "index", "lexical", "text", "store", "evaluate"},
    "testing": {"models", "index", "lexical", "text", "store", "evaluate", "search"},
    "app": {"models", "index", "lexical", "text", "store", "evaluate", "search", "train", "testing"},
}
KERNEL_DOORS = ("fused.py", "fused_grad.py", "replay.py")  # of nn
PRINTS = {"app"}
FORBIDDEN = {"torch", "transformers", "sentence_transformers", "onnxruntime", "faiss", "hnswlib", "pickle"}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path):
    """(line, absolute dotted name) of every import statement in a file, also those inside functions."""
    here = ("minibi", *path.relative_to(PACKAGE).with_suffix("").parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(here[: len(here) - node.level]) if node.level else ""
            for alias in node.names:
                yield node.lineno, ".".join(p for p in (base, node.module, alias.name) if p)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_import_goes_down(path: Path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py").replace("__main__", "app")
    for line, name in imports(path):
        where = f"{path.relative_to(PACKAGE)}:{line} imports {name}"
        top, *rest = name.split(".")
        assert top not in FORBIDDEN, where
        assert top not in {"numba", "llvmlite"} or room == "kernels", f"{where}: only kernels/ may"
        if top == "minibi" and rest and path.name != "__init__.py":
            target = rest[0]
            if target in MAY_IMPORT and target != room:
                assert room in MAY_IMPORT, f"{where}: the ground imports no room"
                assert target in MAY_IMPORT[room], f"{where}: {room} may not look into {target}"
    if room == "nn" and path.name not in KERNEL_DOORS:
        assert not any("kernels" in name.split(".") for _, name in imports(path)), f"only {KERNEL_DOORS} may"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_only_the_app_prints_and_files_stay_small(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), f"{path} must begin with what it promises"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 420, f"{path} holds two ideas"
    if path.relative_to(PACKAGE).parts[0] not in PRINTS:
        calls = [n.lineno for n in ast.walk(tree) if isinstance(n, ast.Call) and getattr(n.func, "id", "") == "print"]
        assert not calls, f"{path} prints at lines {calls}"


def test_import_is_light_and_quick():
    code = (
        "import time; t = time.perf_counter(); import minibi; t = time.perf_counter() - t\n"
        "import sys; heavy = {'numba', 'tokenizers', 'safetensors', 'sqlite3', 'click'} & set(sys.modules)\n"
        "assert not heavy, heavy; print(t)"
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    seconds = [float(subprocess.check_output([sys.executable, "-c", code], env=env, text=True)) for _ in range(3)]
    assert min(seconds) < 0.3


def test_every_public_name_loads():
    import minibi

    assert set(minibi.__all__) == {*minibi._HOME, "__version__"}
    for name in minibi.__all__:
        assert getattr(minibi, name) is not None
    with pytest.raises(AttributeError):
        _ = minibi.no_such_name
