"""Bringing a collection up to date with files: what is new or changed is encoded, what is gone is removed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import InputError
from ..text.files import find_sources, read_documents
from .collection import Changes, Collection


@dataclass
class Report:
    """What `ingest` did."""

    changes: Changes = field(default_factory=Changes)
    files: int = 0
    unchanged_files: int = 0
    removed_files: int = 0


def ingest(
    collection: Collection,
    paths: Sequence[str | Path],
    *,
    text: str | None = None,
    title: str | None = None,
    id: str | None = None,
    begin: Callable[[int], object] = lambda total: None,
    progress: Callable[[int], object] = lambda characters: None,
) -> Report:
    """Makes the collection hold what the files in `paths` hold now.

    A file with the size, time and column names of last time is not opened. A file that vanished from a folder in
    `paths` is dropped. text, title, id: column names for tables, see `read_documents`. begin is called once with the
    number of characters to be done, progress with those done since. Raises InputError, FormatError.
    """
    files = find_sources(paths)
    for file in files:
        try:
            str(file.resolve()).encode()
        except UnicodeEncodeError:
            raise InputError(f"the name of the file {str(file)!r} is not UTF-8: rename it") from None
    known = collection.sources()
    stamps = {str(f.resolve()): f"{f.stat().st_size} {f.stat().st_mtime_ns} {text} {title} {id}" for f in files}
    due = [name for name, stamp in stamps.items() if known.get(name) != stamp]
    report = Report(files=len(files), unchanged_files=len(files) - len(due))

    total = sum(len(d.text) for name in due for d in read_documents(name, text=text, title=title, id=id))
    begin(total)  # reading twice costs a thousandth of encoding, finds every bad line before work begins
    for name in due:
        documents = read_documents(name, text=text, title=title, id=id)
        report.changes += collection.sync(name, documents, stamps[name], progress)

    folders = [Path(p).resolve() for p in paths if Path(p).is_dir()]
    for name in known:
        if name not in stamps and not Path(name).exists() and any(Path(name).is_relative_to(f) for f in folders):
            report.changes.removed += collection.drop(name)
            report.removed_files += 1
    collection.compact()
    return report
