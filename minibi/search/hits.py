"""Hit: one answer of a search, and where it stands."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage with its score (larger is better) and its place.

    `source` is the file and `key` the document in it: a row's id, a section's anchor. For prose, `start` and `end` are
    characters of the file, for rows of the row's text; `line` is where the passage begins, counted from 1.
    """

    score: float
    title: str
    text: str
    source: str
    key: str
    start: int
    end: int
    line: int
    id: int

    @property
    def place(self) -> str:
        """`file:line`, the way editors and terminals understand it."""
        return f"{self.source}:{self.line}" if self.line else self.source

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
