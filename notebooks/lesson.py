"""What the lessons share: how they show source, tables and pictures. Nothing of what they teach is in here.

Source is read from the installed library at the moment of showing, so a lesson cannot show what does not run.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Markdown, display
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from minibi.environment import cache_folder
from minibi.evaluate import Dataset, read_beir

QUICK = os.environ.get("MINIBI_LESSONS") == "quick"  # as the tests run lessons: on less data, so with other numbers

# Okabe & Ito's palette, which colour-blind readers can tell apart (yellow left out: too faint on white), and a grey.
ink = SimpleNamespace(
    black="#000000", orange="#E69F00", sky="#56B4E9", green="#009E73",
    blue="#0072B2", red="#D55E00", pink="#CC79A7", grey="#BBBBBB",
)  # fmt: skip


def style() -> None:
    """Plain axes and one font size for all pictures of a lesson."""
    plt.rcdefaults()
    plt.rcParams.update(
        {
            "figure.dpi": 90,
            "font.size": 10,
            "axes.titlesize": 10.5,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.axisbelow": True,
            "legend.frameon": False,
            "figure.constrained_layout.use": True,
        }
    )


def show_source(*things: Callable[..., Any]) -> None:
    """Shows the source of functions, methods or classes of the library, each below the name of its file."""
    for thing in things:
        thing = inspect.unwrap(thing)
        place = sys.modules[thing.__module__].__name__.replace(".", "/") + ".py"
        display(Markdown(f"```python\n# {place}\n{textwrap.dedent(inspect.getsource(thing)).rstrip()}\n```"))


def draw_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table: numbers right, floats to three places, all else as it prints."""

    def cell(value: object) -> str:
        return f"{value:.3f}" if isinstance(value, float | np.floating) else str(value).replace("|", "\\|")

    numeric = [all(isinstance(v, int | float | np.number) for v in column) for column in zip(*rows, strict=True)]
    lines = [
        map(str, header),
        ["---:" if right else ":---" for right in numeric],
        *[[cell(v) for v in row] for row in rows],
    ]
    display(Markdown("\n".join("| " + " | ".join(line) + " |" for line in lines)))


def scifact() -> tuple[Dataset, Dataset]:
    """The 5,183 scientific abstracts of benchmarks/data, with the claims of its train split and of its test split.

    QUICK: the beginnings of some 500 of them, and 160 claims.
    """
    folder = Path(__file__).resolve().parents[1] / "benchmarks" / "data" / "scifact"
    both = [read_beir(folder, split) for split in ("train", "test")]
    if QUICK:
        asked = [list(data.queries)[:80] for data in both]
        judged = {doc for data, some in zip(both, asked, strict=True) for query in some for doc in data.qrels[query]}
        kept = [i for i, doc in enumerate(both[0].doc_ids) if doc in judged or i % 16 == 0]
        both = [_part(data, some, kept) for data, some in zip(both, asked, strict=True)]
    return both[0], both[1]


def _part(data: Dataset, queries: list[str], docs: list[int]) -> Dataset:
    return replace(
        data,
        doc_ids=[data.doc_ids[i] for i in docs],
        docs=[data.docs[i][:400] for i in docs],
        titles=[data.titles[i] for i in docs],
        queries={q: data.queries[q] for q in queries},
        qrels={q: data.qrels[q] for q in queries},
    )


def encode_once(model: Any, texts: Sequence[str]) -> NDArray[Any]:
    """Vectors of documents [N, C]. They stay in the cache folder: the second time, and in other lessons, they are read.

    The name of the file is made of all that decides what is in it.
    """
    digest = hashlib.sha256("\0".join([model.fingerprint, *texts]).encode()).hexdigest()
    file = cache_folder() / "lessons" / f"{digest[:32]}.npy"
    if file.exists():
        return np.load(file)
    vectors = model.encode_document(list(texts), truncation="silent")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        draft = file.with_suffix(f".{os.getpid()}.new")
        with draft.open("wb") as f:
            np.save(f, vectors)
        draft.replace(file)
    except OSError:  # a cache that cannot be written is no reason to stop
        pass
    return vectors


def pca(x: NDArray[Any], dims: int = 2) -> tuple[NDArray[Any], NDArray[Any]]:
    """The directions of largest variance: (axes [dims, C], share of the variance along each [dims]).

    Project with `(x - x.mean(0)) @ axes.T`. The sign of an axis is arbitrary; here its largest entry is positive, so
    that a picture does not turn over from one machine to the next.
    """
    _, s, axes = np.linalg.svd(x - x.mean(0), full_matrices=False)
    axes = axes[:dims]
    axes = axes * np.sign(axes[np.arange(dims), np.abs(axes).argmax(axis=1)])[:, None]
    return axes, (s**2 / (s**2).sum())[:dims]


def frame(ax: plt.Axes) -> None:
    """For maps, whose axes have no scale: no ticks, a thin frame."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color=ink.grey)


def write_beside(ax: plt.Axes, points: NDArray[Any], labels: Sequence[str]) -> None:
    """Writes each label near its point [N, 2], where it covers least of points, texts and lines and stays inside.

    Call it last: what changes the size of the axes afterwards moves points and labels apart.
    """
    ax.figure.draw_without_rendering()
    taken = [Bbox.from_bounds(x - 6, y - 6, 12, 12) for x, y in ax.transData.transform(points)]
    taken += [text.get_window_extent() for text in ax.texts]
    lines = [line.get_path().transformed(line.get_transform()) for line in ax.lines if line.get_linestyle() != "None"]
    sides = [(dx, dy) for far in (6, 12, 20) for dx, dy in ((far, 0), (-far, 0), (0, far), (0, -far), (far, far))]
    for point, label in zip(points, labels, strict=True):
        tried = []
        for dx, dy in sides:
            ha, va = ("left", "center", "right")[1 - np.sign(dx)], ("bottom", "center", "top")[1 - np.sign(dy)]
            text = ax.annotate(label, point, (dx, dy), textcoords="offset points", ha=ha, va=va, size=8)
            box = text.get_window_extent()
            shared = (Bbox.intersection(box, other) for other in taken)
            crossed = sum(line.intersects_bbox(box.padded(3), filled=False) for line in lines)
            inside = Bbox.intersection(box, ax.bbox) or Bbox.null()
            outside = box.width * box.height - max(inside.width, 0) * max(inside.height, 0)
            covered = sum(s.width * s.height for s in shared if s) + crossed * box.width * box.height / 4
            tried.append((outside + covered, text, box))
        _, best, box = min(tried, key=lambda one: one[0])  # the first of equals: the nearest
        for _, text, _ in tried:
            if text is not best:
                text.remove()
        taken.append(box)


def heat(ax: plt.Axes, weights: NDArray[Any], tokens: Sequence[str], title: str) -> None:
    """An attention map [S, S]: one row per token that looks, one column per token that is looked at; 0 to 1."""
    ax.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    ax.set_xticks(range(len(tokens)), tokens, rotation=60, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(tokens)), tokens)
    ax.tick_params(length=0)
    ax.set_title(title)
    for (i, j), w in np.ndenumerate(weights):
        if w >= 0.2:
            colour = "white" if w > 0.55 else "black"
            ax.text(j, i, f"{w:.1f}".removeprefix("0"), ha="center", va="center", size=7, color=colour)
