"""`minibi demo`: search by meaning in the documentation of Python's own standard library.

Thousands of real passages that every machine already has. The first start encodes them; the collection then lies in the
user's cache folder and every later start begins at once.
"""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from .. import __version__
from ..environment import cache_folder
from ..errors import MinibiError
from ..models.bi_encoder import BiEncoder
from ..search.collection import Collection
from ..text.files import Document
from .stdlib_docs import stdlib_docs

SOURCE = "Python's standard library"
QUESTIONS = (
    "start another program and capture its output",
    "pick a random element from a list",
    "parse a date string",
    "remove duplicate items while keeping only unique values",
)


def folder() -> Path:
    """Where the collection lies: one for each version of Python."""
    return cache_folder() / "demo" / f"python-{platform.python_version()}.minibi"


def documents() -> Iterator[Document]:
    """The documentation, one document for each public name; without tkinter, which many installations lack."""
    for doc in stdlib_docs():
        if doc.name.split(".")[0] in ("tkinter", "turtle"):
            continue
        yield Document(key=doc.name, title=doc.name, text=doc.text)


def open_demo(
    model: BiEncoder, begin: Callable[[int], object], progress: Callable[[int], object], where: Path | None = None
) -> Collection:
    """The collection, complete: opened, or made, or continued where it was interrupted."""
    where = where or folder()
    try:
        collection = Collection.open_or_create(where, model)
    except MinibiError:  # damaged, or made with another model: it is a cache, and can be made again
        shutil.rmtree(where)
        collection = Collection.create(where, model)
    stamp = f"minibi {__version__}, Python {platform.python_version()}"
    if collection.sources().get(SOURCE) != stamp:
        found = list(documents())
        begin(sum(len(d.text) for d in found))
        collection.sync(SOURCE, found, stamp, progress)
        collection.compact()
    return collection
