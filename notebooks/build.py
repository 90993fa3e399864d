"""Builds each lesson's .ipynb from its .py: converts, executes, and strips what belongs to one machine.

    python notebooks/build.py            # all lessons
    python notebooks/build.py 01         # those whose name begins so

The .py is the source and the .ipynb is made from it, outputs and all; edit only the .py. Lessons run in a fresh kernel
of this very Python, on the minibi of this checkout, with compiled kernels.
"""

from __future__ import annotations

import asyncio
import base64
import io
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import jupytext
import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image
from traitlets import default
from traitlets.config import Config

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SECONDS = 300  # for one cell
PNG = "iVBORw0KGgo"  # how every PNG begins in base64
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python", "file_extension": ".py", "mimetype": "text/x-python"},
}


def lessons() -> list[Path]:
    """The sources of all lessons, in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def convert(source: Path) -> NotebookNode:
    """The notebook of a lesson without outputs. Cell ids count up, since random ones would differ in every build."""
    notebook = jupytext.read(source, fmt="py:percent")
    for i, cell in enumerate(notebook.cells):
        cell.id = f"cell-{i:02d}"
        cell.metadata = {}
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


class _ThisPython(AsyncKernelManager):
    """Kernels of the Python that runs this file, whatever other kernels are registered on the machine."""

    @default("kernel_spec_manager")
    def _only_the_native_kernel(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])


def execute(notebook: NotebookNode, quick: bool = False) -> float:
    """Runs all cells in a fresh kernel; outputs are added to `notebook`. Returns the seconds it took.

    quick: lessons may take less data (see `lesson.QUICK`). Raises nbclient's CellExecutionError at the first cell that
    fails.
    """
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        environment = {k: v for k, v in os.environ.items() if k not in ("MINIBI_KERNELS", "MPLBACKEND")}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment["IPYTHONDIR"] = scratch  # no start-up files of the user's
        environment["MINIBI_LESSONS"] = "quick" if quick else "whole"
        for threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            environment.setdefault(threads, "1")  # on a busy machine, BLAS threads that wait for each other cost most
        client = NotebookClient(
            notebook,
            kernel_manager_class=_ThisPython,
            config=Config({"KernelManager": _quiet_transport(scratch)}),
            timeout=SECONDS,
            record_timing=False,
        )
        asyncio.run(client.async_execute(cwd=str(HERE), env=environment))
    return time.perf_counter() - begin


def _quiet_transport(folder: str) -> dict[str, str]:
    """Pipes in a private folder rather than TCP ports that anybody on the machine may listen to."""
    return {"transport": "ipc", "connection_file": f"{folder}/kernel.json"} if os.name == "posix" else {}


def clean(notebook: NotebookNode) -> None:
    """Takes out what differs between machines and means nothing: warnings of other software, paths, addresses.

    Pictures get a palette, which takes a third of the bytes.
    """
    notebook.metadata = nbformat.from_dict(METADATA)  # running it adds the version of Python
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        cell.metadata = {}
        cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
        for out in cell.outputs:
            if "text" in out:
                out.text = _neutral(out.text)
            for kind, value in out.get("data", {}).items():
                if kind.startswith("text/"):
                    out.data[kind] = _neutral(value)
                elif kind == "image/png" and value.startswith(PNG):
                    out.data[kind] = _with_palette(value)


def _with_palette(png: str) -> str:
    """The same picture in at most 256 colours, base64; every pixel stays nearly what it was."""
    picture = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    out = io.BytesIO()
    picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(out, "png", optimize=True)
    return min(png, base64.b64encode(out.getvalue()).decode("ascii"), key=len)


def _neutral(text: str) -> str:
    for folder in (ROOT, Path(sys.prefix), Path.home()):
        text = text.replace(str(folder) + os.sep, "")
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)


def build(source: Path) -> float:
    """Writes the .ipynb beside `source`. Returns the seconds its execution took."""
    notebook = convert(source)
    seconds = execute(notebook)
    clean(notebook)
    nbformat.validate(notebook)
    target = source.with_suffix(".ipynb")
    draft = target.with_suffix(".ipynb.new")
    draft.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")
    draft.replace(target)
    return seconds


def main(names: list[str]) -> int:
    chosen = [source for source in lessons() if not names or any(source.name.startswith(name) for name in names)]
    if not chosen:
        print(f"no lesson begins with {' or '.join(names)}: there are {', '.join(s.stem for s in lessons())}")
        return 1
    for source in chosen:
        print(f"{source.stem}: {build(source):.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
