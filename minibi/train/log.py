"""The record of a training run: a CSV file, one row for each step, and a picture of its curves.

A row is written whole and at once, so a killed run leaves at most a torn last line. A run resumed after step n cuts the
file back to that step, and what follows is as if it had never been interrupted.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..arguments import as_path
from ..errors import FormatError, InputError
from ..store.files import replace_file

COLUMNS = ("step", "epoch", "loss", "learning_rate", "gradient_norm", "tokens_per_second", "seconds")


class Log:
    """Appends rows to a CSV file. The columns are COLUMNS and the names of the metrics that evaluation gives."""

    def __init__(self, path: str | Path, metrics: Sequence[str] = (), resume_after: int | None = None):
        """A new file, which must not exist; or, resume_after a step, the old one without its later rows.

        Raises InputError, FormatError.
        """
        self.path, self.columns = as_path(path), (*COLUMNS, *metrics)
        if len(set(self.columns)) < len(self.columns):
            raise InputError(f"two columns of the log have one name: {', '.join(self.columns)}")
        kept: list[list[str]] = []
        if resume_after is not None:
            columns, rows = _read(self.path)
            if columns != list(self.columns):
                fix = f"resume with the metrics {', '.join(columns[len(COLUMNS) :]) or '(none)'}"
                raise FormatError(f"{self.path} has other columns than this run: {fix}")
            kept = [row for row in rows if float(row[0]) <= resume_after]
        elif self.path.exists():
            raise InputError(f"{self.path} exists: resume that run, or write to another folder")
        text = "".join(map(_line, [self.columns, *kept]))
        replace_file(self.path, lambda file: file.write(text.encode()))

    def write(self, values: Mapping[str, float | None]) -> None:
        """One row; what is absent or None stays empty. Numbers are written to their last digit. Raises InputError."""
        if unknown := set(values) - set(self.columns):
            raise InputError(f"the log has no column {sorted(unknown)[0]!r}: name it when the log is made")
        if values.get("step") is None:
            raise InputError("every row of the log needs its step")
        cells = ["" if values.get(c) is None else _number(values[c]) for c in self.columns]
        with self.path.open("ab") as file:
            file.write(_line(cells).encode())


def read_log(path: str | Path) -> dict[str, list[float]]:
    """The columns of a log, NaN where a cell is empty; a torn last line is passed over.

    Raises InputError, FormatError.
    """
    columns, rows = _read(as_path(path))
    return {name: [float(row[i]) if row[i] else math.nan for row in rows] for i, name in enumerate(columns)}


def plot_log(
    logs: str | Path | Mapping[str, str | Path],
    out: str | Path,
    *,
    metrics: Sequence[str] = (),
    smooth: float | None = None,
) -> None:
    """Draws the loss by step, and below it each of `metrics`, into a picture file (.png, .svg, .pdf).

    logs: one file, or name -> file to lay several runs over each other. smooth: weight of the past in the running mean
    that is drawn above the single losses, by default such that it looks back on a tenth of the run and at most on 50
    steps. Needs matplotlib. Raises InputError, FormatError.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plotting needs matplotlib: python -m pip install matplotlib") from None
    runs = {"": logs} if isinstance(logs, str | Path) else dict(logs)
    tables = {name: read_log(path) for name, path in runs.items()}
    for name, table in tables.items():
        if missing := [m for m in metrics if m not in table]:
            raise InputError(f"the log {runs[name]} has no column {missing[0]!r}: it has {', '.join(table)}")
    figure = Figure(figsize=(8, 4 + 2.5 * len(metrics)), layout="constrained")
    axes = figure.subplots(1 + len(metrics), sharex=True, squeeze=False)[:, 0]
    for i, (name, table) in enumerate(tables.items()):
        colour = f"C{i % 10}"
        axes[0].plot(table["step"], table["loss"], color=colour, alpha=0.25, linewidth=0.8)
        past = max(0.0, min(0.98, 1 - 10 / max(1, len(table["loss"])))) if smooth is None else smooth
        axes[0].plot(table["step"], running_mean(table["loss"], past), color=colour, label=name or None)
        for axis, metric in zip(axes[1:], metrics, strict=True):
            seen = [(s, v) for s, v in zip(table["step"], table[metric], strict=True) if not math.isnan(v)]
            axis.plot([s for s, _ in seen], [v for _, v in seen], color=colour, marker=".", label=name or None)
    for axis, label in zip(axes, ("loss", *metrics), strict=True):
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[-1].set_xlabel("step")
    if any(runs):
        axes[0].legend()
    try:
        figure.savefig(out)
    except (OSError, ValueError) as e:
        raise InputError(f"cannot write the picture {out}: {e}") from None


def running_mean(values: Sequence[float], smooth: float) -> list[float]:
    """An exponential mean without the pull of its start (Kingma & Ba 2015, section 3); NaN leaves it as it is."""
    if not 0 <= smooth < 1:
        raise InputError(f"smooth must be at least 0 and below 1, not {smooth!r}")
    mean, weight, out = 0.0, 0.0, []
    for value in values:
        if not math.isnan(value):
            mean, weight = smooth * mean + (1 - smooth) * value, smooth * weight + (1 - smooth)
        out.append(mean / weight if weight else math.nan)
    return out


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    """Columns and whole rows of a log."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as e:
        raise InputError(f"cannot read the log {path}: {e.strerror or e}") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path} is not a log of training: not UTF-8") from None
    whole = text[: text.rfind("\n") + 1]  # a torn last line has no end
    rows = list(csv.reader(io.StringIO(whole, newline="")))
    if not rows or rows[0][: len(COLUMNS)] != list(COLUMNS):
        raise FormatError(f"{path} is not a log of training: its first line must begin {','.join(COLUMNS)}")
    for number, row in enumerate(rows[1:], 2):
        try:
            if len(row) != len(rows[0]) or not row[0]:
                raise ValueError
            [float(cell) for cell in row if cell]
        except ValueError:
            raise FormatError(f"{path}:{number}: not a row of {len(rows[0])} numbers") from None
    return rows[0], rows[1:]


def _line(cells: Sequence[Any]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerow(cells)
    return out.getvalue()


def _number(value: Any) -> str:
    """The shortest text that reads back as the same number."""
    if isinstance(value, bool):
        raise InputError("the log holds numbers, not True or False")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise InputError(f"the log holds numbers, not {value!r}") from None
    return str(int(number)) if number.is_integer() and abs(number) < 1e15 else repr(number)
