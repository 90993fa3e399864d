"""TREC's files: runs read and written, judgements written (`beir.read_qrels` reads them).

    a run        query Q0 document rank score tag       between blanks; the rank is written, and ignored when read
    judgements   query 0 document relevance

A file that ends in .gz is gzipped. What was written is read back the same, scores to the last bit.
"""

from __future__ import annotations

import gzip
import math
from collections.abc import Iterable

from ..arguments import as_path
from ..errors import FormatError, InputError
from ..store.files import replace_file
from ..text.lines import lines_of
from .beir import Folder
from .metrics import Qrels, Run, rank_hits


def read_run(path: Folder) -> dict[str, dict[str, float]]:
    """A run, query id -> document id -> score, in the order of the file.

    FormatError for a line without six columns, a score that is no number or NaN, and a document that one query finds
    twice.
    """
    run: dict[str, dict[str, float]] = {}
    for number, line in lines_of(path):
        fields = line.split()
        if len(fields) != 6:
            raise FormatError(f"{path}:{number}: not the 6 columns of a TREC run, `query Q0 document rank score tag`")
        query, _, doc, _, text, _ = fields
        try:
            score = float(text)
        except ValueError:
            score = math.nan
        if math.isnan(score) or "_" in text:
            raise FormatError(f"{path}:{number}: score {text!r} must be a number")
        hits = run.setdefault(query, {})
        if doc in hits:
            raise FormatError(f"{path}:{number}: query {query!r} has document {doc!r} twice: keep one of the lines")
        hits[doc] = score
    if not run:
        raise FormatError(f"{path} holds no hit")
    return run


def write_run(path: Folder, run: Run, tag: str = "minibi") -> None:
    """Writes a run, each query's hits in trec_eval's order with ranks from 1; replaces the file atomically.

    Queries without hits leave no line. InputError for ids that hold blanks or are empty, for which the format has no
    place, and for scores that are no numbers.
    """
    _write(path, format_run(run, tag))


def format_run(run: Run, tag: str = "minibi") -> str:
    """The lines of `write_run`. Raises InputError."""
    _check_ids([tag], "tag")
    _check_ids(run, "query id")
    lines = []
    for query, scores in run.items():
        ranked = rank_hits(scores, query)
        _check_ids(ranked, "document id")
        lines += [f"{query} Q0 {doc} {rank} {float(scores[doc])!r} {tag}\n" for rank, doc in enumerate(ranked, 1)]
    return "".join(lines)


def write_qrels(path: Folder, qrels: Qrels) -> None:
    """Writes judgements in TREC's four columns; replaces the file atomically. Raises InputError as `write_run` does."""
    _check_ids(qrels, "query id")
    lines = []
    for query, judged in qrels.items():
        _check_ids(judged, "document id")
        lines += [f"{query} 0 {doc} {int(relevance)}\n" for doc, relevance in judged.items()]
    _write(path, "".join(lines))


def _check_ids(ids: Iterable[str], what: str) -> None:
    for id in ids:
        if not isinstance(id, str) or id.split() != [id] or id.startswith("\ufeff") or "\0" in id:
            raise InputError(
                f"{what} {id!r} cannot stand in a TREC file: use strings that are not empty, without blanks or NUL"
            )


def _write(path: Folder, text: str) -> None:
    try:
        data = text.encode()
    except UnicodeEncodeError as e:
        raise InputError(f"an id holds half a surrogate pair, which is no text: {e.reason}") from None
    path = as_path(path)
    if path.suffix == ".gz":
        data = gzip.compress(data, mtime=0)  # the same run, the same bytes
    replace_file(path, lambda file: file.write(data))
