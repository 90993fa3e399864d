"""Hit and Hits: the answers of a search, each with its place and with what every stage said of it.

hits = pipeline.search("what was decided about backups?")
hits                     # a table in a terminal, another in a notebook
hits.ids, hits.scores, hits.texts
hits[0].explain()        # "0.0325 = 0.0164 dense (rank 1, score 0.712) + 0.0161 bm25 (rank 2, score 11.2)"
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError
from ..evaluate.trec import format_run


class Evidence(NamedTuple):
    """What one stage said of one hit."""

    stage: str
    rank: int | None  # from 1; None where the stage did not find it
    score: float | None  # as the stage gave it
    contribution: float | None = None  # what it added to the hit's score; None where scores were not added

    def __str__(self) -> str:
        said = "not found" if self.rank is None else f"rank {self.rank}, score {self.score:.4g}"
        share = "" if self.contribution is None else f"{self.contribution:.4g} "
        return f"{share}{self.stage} ({said})"


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage with its score (larger is better) and its place.

    `source` is the file and `key` the document in it: a row's id, a section's anchor. For prose, `start` and `end` are
    characters of the file, for rows of the row's text; `line` is where the passage begins, counted from 1.
    """

    score: float
    title: str = ""
    text: str = ""
    source: str = ""
    key: str = ""
    start: int = 0
    end: int = 0
    line: int = 0
    id: int | str = -1
    evidence: tuple[Evidence, ...] = ()

    @property
    def place(self) -> str:
        """`file:line`, the way editors and terminals understand it."""
        return f"{self.source}:{self.line}" if self.line else self.source

    @property
    def label(self) -> str:
        """What to call it in a table: its title, else its id."""
        return one_line(self.title) or one_line(str(self.id))

    def scored(self, score: float, evidence: tuple[Evidence, ...]) -> Hit:
        """The same passage with another score. (`dataclasses.replace` takes four times as long.)"""
        place = self.source, self.key, self.start, self.end, self.line
        return Hit(score, self.title, self.text, *place, self.id, evidence)

    def explain(self) -> str:
        """The score and how it came about, stage by stage, in one line."""
        if not self.evidence:
            return f"{self.score:.4g}"
        adds = all(e.contribution is not None for e in self.evidence)
        return f"{self.score:.4g} {'=' if adds else 'after'} " + (" + " if adds else ", ").join(map(str, self.evidence))

    def to_dict(self) -> dict[str, Any]:
        fields = asdict(self)
        del fields["evidence"]
        if self.evidence:
            fields["evidence"] = [e._asdict() for e in self.evidence]
        return fields


@dataclass(frozen=True, eq=False)
class Hits(Sequence[Hit]):
    """Hits, best first: a read-only sequence that also knows the query and how long each stage took.

    Equal to any sequence of the same hits. A slice of Hits is Hits.
    """

    hits: tuple[Hit, ...] = ()
    query: str = ""
    seconds: dict[str, float] = field(default_factory=dict)  # stage -> how long it took
    notes: dict[str, Any] = field(default_factory=dict)  # what decided the order, such as {"k": 60}

    def __post_init__(self) -> None:
        object.__setattr__(self, "hits", tuple(self.hits))

    @classmethod
    def of(cls, ids: Iterable[int | str], scores: ArrayLike, texts: Iterable[str] | None = None, **more: Any) -> Hits:
        """Hits from what an index returns, in the order given; id -1, "none", is passed over.

        Raises InputError if there is not one score (and one text) for each id.
        """
        listed = [i.item() if isinstance(i, np.generic) else i for i in ids]
        values = np.asarray(scores, np.float64).tolist()
        words = [""] * len(listed) if texts is None else list(texts)
        if not isinstance(values, list) or not len(listed) == len(values) == len(words):
            raise InputError("Hits.of needs one score, and one text if there are any, for each id")
        rows = zip(listed, values, words, strict=True)
        return cls(tuple(Hit(score, text=text, id=id) for id, score, text in rows if id != -1), **more)

    @property
    def ids(self) -> list[int | str]:
        return [hit.id for hit in self.hits]

    @property
    def scores(self) -> NDArray[np.float64]:
        """[K], best first."""
        return np.array([hit.score for hit in self.hits], np.float64)

    @property
    def texts(self) -> list[str]:
        return [hit.text for hit in self.hits]

    def __len__(self) -> int:
        return len(self.hits)

    @overload
    def __getitem__(self, at: int) -> Hit: ...
    @overload
    def __getitem__(self, at: slice) -> Hits: ...
    def __getitem__(self, at: int | slice) -> Hit | Hits:
        return Hits(self.hits[at], self.query, self.seconds, self.notes) if isinstance(at, slice) else self.hits[at]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Sequence) and not isinstance(other, (str, bytes))
        return self.hits == tuple(other) if same else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hits)

    def explain(self) -> str:
        """One line per hit: rank, id, and `Hit.explain`."""
        return "\n".join(f"{rank:>3}  {one_line(str(h.id))}  {h.explain()}" for rank, h in enumerate(self.hits, 1))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        hits = [hit.to_dict() for hit in self.hits]
        return {"query": self.query, "hits": hits, "seconds": dict(self.seconds), "notes": dict(self.notes)}

    def to_trec(self, query_id: str, tag: str = "minibi") -> str:
        """Lines of a TREC run, ties in trec_eval's order. Raises InputError for ids that hold blanks."""
        return format_run({query_id: {str(hit.id): hit.score for hit in self.hits}}, tag)

    # --- how it looks ---

    @property
    def _heading(self) -> str:
        what = f"{len(self)} hit{'s' * (len(self) != 1)}" + (f" for {one_line(self.query)!r}" if self.query else "")
        if not self.seconds:
            return what
        stages = ", ".join(f"{name} {1000 * s:.1f}" for name, s in self.seconds.items())
        return f"{what} in {1000 * sum(self.seconds.values()):.1f} ms ({stages})"

    def __repr__(self) -> str:
        """A table as wide as the terminal, ten hits at most."""
        width = min(shutil.get_terminal_size().columns, 120)
        labels = [_cut(hit.label, 24) for hit in self.hits[:SHOWN]]
        room = max(map(len, labels), default=0)
        lines = [self._heading]
        for rank, (hit, label) in enumerate(zip(self.hits, labels, strict=False), 1):
            start = f"{rank:>3}  {hit.score:8.4f}  {label:<{room}}  "
            lines.append((start + _cut(one_line(hit.text), max(20, width - len(start)))).rstrip())
        if len(self) > SHOWN:
            lines.append(f"     … and {len(self) - SHOWN} more")
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """A table for notebooks; each stage that left evidence has a column."""
        stages = list(dict.fromkeys(e.stage for hit in self.hits for e in hit.evidence))
        head = "".join(f"<th>{escape(x)}</th>" for x in ("", "score", "hit", "text", *stages))
        rows = []
        for rank, hit in enumerate(self.hits[:SHOWN], 1):
            said = {e.stage: _short(e) for e in hit.evidence}
            cells = [str(rank), f"{hit.score:.4f}", hit.label, _cut(one_line(hit.text), 300)]
            cells += [said.get(stage, "") for stage in stages]
            rows.append("<tr>" + "".join(f'<td style="text-align:left">{escape(c)}</td>' for c in cells) + "</tr>")
        more = f"<p>… and {len(self) - SHOWN} more</p>" if len(self) > SHOWN else ""
        return f"<p>{escape(self._heading)}</p><table><tr>{head}</tr>{''.join(rows)}</table>{more}"


SHOWN = 10


def as_hits(found: Any) -> dict[int | str, Hit]:
    """id -> Hit of whatever holds hits, empty for arrays and mappings: where fused answers take texts from."""
    if isinstance(found, Mapping) or not isinstance(found, Sequence):
        return {}
    return {hit.id: hit for hit in found if isinstance(hit, Hit)}


def one_line(text: str) -> str:
    """Without line ends, and without control characters, which could steer a terminal."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f\s]+", " ", text).strip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _short(evidence: Evidence) -> str:
    return "–" if evidence.rank is None else f"{evidence.rank} ({evidence.score:.4g})"
