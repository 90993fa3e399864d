"""How results look in a terminal."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from ..search.hits import Hit, one_line

LINES = 4  # of a passage


@contextmanager
def characters_bar(label: str) -> Iterator[tuple[Callable[[int], object], Callable[[int], object]]]:
    """(begin, progress) of a bar over characters; silent where standard error is no terminal."""
    from tqdm import tqdm

    with tqdm(total=0, desc=label, unit="char", unit_scale=True, disable=None, leave=False) as bar:

        def begin(total: int) -> None:
            bar.reset(total)

        yield begin, bar.update


def hits(found: Sequence[Hit], places: bool = True) -> None:
    """Score, title, the passage's first lines, and where it stands."""
    width = min(shutil.get_terminal_size().columns, 100)
    for rank, hit in enumerate(found, 1):
        title = one_line(hit.title or Path(hit.source).name)
        click.echo(f"{rank:>3}  {hit.score:.3f}  {click.style(title, bold=True)}")
        lines = textwrap.wrap(one_line(hit.text), width - 7, max_lines=LINES, placeholder=" …")
        for line in lines:
            click.echo(f"       {line}")
        if places:
            click.secho(f"       {short_place(hit)}", dim=True)


def short_place(hit: Hit) -> str:
    """file:line and characters, the file as seen from the working folder."""
    source = hit.source
    if os.path.isabs(source):
        relative = os.path.relpath(source)
        source = relative if not relative.startswith("..") else source
    line = f":{hit.line}" if hit.line else ""
    return f"{source}{line}  characters {hit.start}–{hit.end}"


def json_safe(value: Any) -> Any:
    """Text for --json that any terminal's encoding can hold."""
    import json

    return json.dumps(value, ensure_ascii=(sys.stdout.encoding or "").lower() not in ("utf-8", "utf8"))
