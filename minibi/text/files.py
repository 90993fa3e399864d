"""From paths to documents: plain text, Markdown, reStructuredText, JSON lines, CSV and TSV, each also as .gz.

Every document knows its place: its character offset for prose, its line for rows. Rows are streamed, so a table may be
larger than memory; a prose file is read whole. All is UTF-8, with or without a byte order mark. What cannot be read is
refused by file and line; only what holds no words is passed over.
"""

from __future__ import annotations

import csv
import json
import os
import re
from codecs import getincrementaldecoder
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..arguments import as_path
from ..errors import FormatError, InputError
from .lines import decoded, objects_of, open_bytes, while_reading
from .sections import sections

KINDS = {".txt": "plain", ".text": "plain", ".md": "markdown", ".markdown": "markdown", ".rst": "rst"}
KINDS |= {".jsonl": "json", ".ndjson": "json", ".csv": "csv", ".tsv": "csv"}
TEXT_NAMES = "text contents content page_content body passage passage_text paragraph document abstract article answer"
TEXT_NAMES += " context segment description summary"
TITLE_NAMES = "title name heading headline subject question"
ID_NAMES = "_id id doc_id docid document_id docno pid passage_id key uuid url"
EXAMPLE = '{"_id": "1", "title": "…", "text": "…"}'
HEAD = 100  # rows looked at before the columns are chosen


@dataclass(frozen=True, slots=True)
class Document:
    """One text to be indexed. `key` is unique within its file: the row's id or line number, a section's anchor.

    `start` is the character offset of `text` in the decoded file (prose; 0 for rows); `line` counts from 1.
    """

    key: str
    title: str
    text: str
    start: int = 0
    line: int = 0


# --- which files -----------------------------------------------------------------------------------------------------


def find_sources(paths: Sequence[str | Path]) -> list[Path]:
    """The files to read, each once: in the order given, those of a folder sorted by path.

    Folders are searched to the bottom for the suffixes in KINDS, with or without .gz. Hidden names are skipped; links
    are followed, but never into a folder already seen. A file that is named outright may have any suffix: .json is
    read as JSON lines, every other unknown one as plain text. Raises InputError for a missing path, for a file
    that is not text, or if nothing is found.
    """
    given = list(paths) if isinstance(paths, Iterable) and not isinstance(paths, str | bytes) else [paths]
    found: dict[str, Path] = {}
    for path in map(as_path, given):
        if os.path.isdir(path):
            files = _files_below(path)
        elif os.path.isfile(path):
            if _suffix(path) not in KINDS and not _is_text(path):
                raise InputError(f"{path} is not a text file: minibi reads UTF-8 text, {_suffixes()}")
            files = [path]
        else:
            raise InputError(f"{path} is not a file or folder: check the spelling of the path")
        for file in files:
            found.setdefault(os.path.realpath(file), file)
    if not found:
        where = ", ".join(map(str, given)) or "an empty list of paths"
        raise InputError(f"nothing to read in {where}: name a text file, or a folder that holds {_suffixes()}")
    return list(found.values())


def _files_below(top: Path) -> list[Path]:
    """Known text files in a folder, sorted. Real folders come before linked ones, so a file shows its own path."""

    def refuse(e: OSError) -> None:
        raise InputError(f"cannot read the folder {e.filename}: {e.strerror}")

    seen: set[str] = set()
    found: list[Path] = []
    tops = [str(top)]
    for start in tops:  # grows while linked folders turn up
        for folder, folders, files in os.walk(start, onerror=refuse):
            real = os.path.realpath(folder)
            names = sorted(n for n in folders if not n.startswith(".")) if real not in seen else []
            linked = [n for n in names if os.path.islink(os.path.join(folder, n))]
            tops += [os.path.join(folder, n) for n in linked]
            folders[:] = [n for n in names if n not in linked]
            if real not in seen:
                found += [Path(folder, n) for n in files if not n.startswith(".") and _suffix(Path(n)) in KINDS]
            seen.add(real)
    by_file: dict[str, Path] = {}
    for path in sorted(found, key=lambda p: (p.is_symlink(), p.parts)):
        if path.is_file():  # not a dangling link, not a pipe
            by_file.setdefault(os.path.realpath(path), path)
    return sorted(by_file.values(), key=lambda p: p.parts)


def _bare(path: Path) -> str:
    """The file's name without .gz."""
    return path.name[:-3] if path.name.lower().endswith(".gz") else path.name


def kind_of(path: str | Path) -> str:
    """How a file is read: "plain", "markdown", "rst", "json" (one object per line) or "csv"."""
    suffix = _suffix(as_path(path))
    return KINDS.get(suffix, "json" if suffix == ".json" else "plain")


def _suffix(path: Path) -> str:
    return Path(_bare(path)).suffix.lower()


def _suffixes() -> str:
    return " ".join(KINDS) + " (also .gz)"


def _is_text(path: Path) -> bool:
    with while_reading(path), open_bytes(path) as f:
        head = f.read(1 << 16)
    try:
        getincrementaldecoder("utf-8")().decode(head)  # incremental: the last character may be cut
    except UnicodeDecodeError:
        return False
    return b"\0" not in head


# --- documents -------------------------------------------------------------------------------------------------------


def read_documents(
    path: str | Path, *, text: str | None = None, title: str | None = None, id: str | None = None
) -> Iterator[Document]:
    """The documents of one file, in order.

    Plain text is one document, titled by its first line where that stands alone like a title, else by the file's name.
    Markdown and reStructuredText give one document per section that has a body; the title is the path of its
    headings. Always `decoded_file[d.start : d.start + len(d.text)] == d.text`, the file decoded without translating
    line ends and without its byte order mark.

    Rows (JSON lines, CSV, TSV) take their columns from `text`, `title` and `id`, else from the customary names, and the
    text at last from the column with the longest strings; `title=""` and `id=""` mean none. Numbers become
    strings, lists are joined by line ends. A row without text stands by its title; one without either is
    passed over. Ids must be there and unique; without an id column the line number is the key.

    Raises InputError (no such file or column) and FormatError (damaged, binary, not UTF-8, not an object or a header,
    duplicate ids), as soon as the reading comes to it.
    """
    path = as_path(path)
    kind = kind_of(path)
    with while_reading(path):
        if kind in ("json", "csv"):
            read = partial(objects_of, example=EXAMPLE) if kind == "json" else _csv_rows
            yield from _row_documents(path, read, text, title, id)
        else:
            whole = "".join(decoded(path, ""))
            for s in sections(whole, kind, Path(_bare(path)).stem):
                yield Document(s.key, s.title, whole[s.start : s.end], s.start, s.line)


Row = dict[str, Any]
Rows = Callable[[Path], Iterator[tuple[int, Row]]]


def _row_documents(path: Path, read: Rows, text: str | None, title: str | None, id: str | None) -> Iterator[Document]:
    rows = read(path)
    head = list(islice(rows, HEAD))
    if not head:
        return
    text, title, id = _columns(path, [row for _, row in head], text or None, title, id)
    seen: set[int] = set()  # hashes, to be sparing with memory; a second sight of one is looked into
    for n, row in chain(head, rows):
        where = f"{path}:{n}"
        body, name = _string(row.get(text), where, text), _string(row.get(title), where, title)
        key = _string(row.get(id), where, id).strip() if id else str(n)
        if not key:
            raise FormatError(f"{where}: the row has no {id!r}: give it one, or number rows by line with --id ''")
        if hash(key) in seen:
            for m, earlier in read(path):
                if m >= n:
                    break
                if _string(earlier.get(id), where, id).strip() == key:
                    hint = "make ids unique, or choose another column with --id ('' numbers rows by line)"
                    raise FormatError(f"{path}: lines {m} and {n} have the same {id!r}, {key!r}: {hint}")
        if id:
            seen.add(hash(key))
        if body.strip():
            yield Document(key, name.strip(), body, line=n)
        elif name.strip():
            yield Document(key, "", name, line=n)


def _columns(
    path: Path, head: list[Row], text: str | None, title: str | None, id: str | None
) -> tuple[str | None, str | None, str | None]:
    """Which columns hold text, title and id: as named by the options, else as the first rows suggest."""
    columns = list(dict.fromkeys(name for row in head for name in row))
    named = {"--text": text, "--title": title, "--id": id}
    for option, name in named.items():
        if name and name not in columns:
            have = ", ".join(columns) or "none"
            raise InputError(f"{path} has no column {name!r}, as {option} asks; its columns are: {have}")
    free = [c for c in columns if c and c not in named.values()]

    def guess(names: str, *types: type) -> str | None:
        folded = {c.strip().casefold(): c for c in reversed(free)}
        for column in filter(None, map(folded.get, names.split())):
            values = [v for row in head if isinstance(v := row.get(column), types) and v not in ("", [])]
            if any(not isinstance(v, list) or isinstance(v[0], str) for v in values):
                free.remove(column)
                return column
        return None

    def length(column: str) -> float:
        return sum(len(v) for row in head if isinstance(v := row.get(column), str)) / len(head)

    id = guess(ID_NAMES, str, int) if id is None else id
    text = text or guess(TEXT_NAMES, str, list)
    title = guess(TITLE_NAMES, str) if title is None else title
    if not text:
        longest = max(free, key=length, default="")
        if longest and length(longest) >= 20:
            text = longest
        elif not title:
            have = ", ".join(columns) or "none"
            raise InputError(f"{path}: no column looks like text: name one with --text; its columns are: {have}")
    return text, title or None, id or None


def _string(value: Any, where: str, column: str | None) -> str:
    """A cell as text; lone surrogates, which JSON can spell but UTF-8 cannot, become U+FFFD."""
    if value is None or value != value:  # null, NaN
        return ""
    if isinstance(value, str):
        return value if value.isascii() else re.sub("[\ud800-\udfff]", "\ufffd", value)
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list):
        return "\n".join(_string(v, where, column) for v in value)
    raise FormatError(f"{where}: {column!r} holds an object, not a string: name another column")


def _csv_rows(path: Path) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(2**31 - 1)  # the largest that every platform takes; the default cuts off at 128 KB
    lines = decoded(path, "")
    blank, first = next(((n, line) for n, line in enumerate(lines) if not line.isspace()), (0, ""))
    if not first:
        return
    tab_first = "\t,;|" if _suffix(path) == ".tsv" else ",;\t|"
    delimiter = max(tab_first, key=lambda d: len(next(csv.reader([first], delimiter=d), [])))
    if delimiter == "\t":
        records = _tab_records(chain([first], lines))
    else:
        reader = csv.reader(chain([first], lines), delimiter=delimiter, strict=True, skipinitialspace=True)
        records = ((reader.line_num, record) for record in reader)
    header: list[str] = []
    n = blank  # lines before the record
    try:
        for read, record in records:
            n, line = blank + read, n + 1
            if not header:
                header = _checked_header(path, line, [name.strip() for name in record])
            elif any(record[len(header) :]):
                fix = f"put fields that contain {delimiter!r} in double quotes"
                raise FormatError(f"{path}:{line}: {len(record)} fields, the header has {len(header)}: {fix}")
            elif any(record):
                record += [""] * (len(header) - len(record))
                yield line, dict(zip(header, record, strict=False))
    except csv.Error as e:
        raise FormatError(f"{path}:{n + 1}: {e}: check the double quotes from here on") from None


def _tab_records(lines: Iterator[str]) -> Iterator[tuple[int, list[str]]]:
    """(lines read, fields) of tab-separated rows, with quotes as spreadsheets write them or without any.

    A row that does not parse as quoted, within a thousand lines, is taken letter for letter: most data sets write TSV
    without quoting, so a field may well begin with a quote that never closes.
    """
    width = read = 0
    ahead: deque[str] = deque()  # lines looked at and put back

    def pull(taken: list[str]) -> Iterator[str]:
        while len(taken) < 1000 and (line := ahead.popleft() if ahead else next(lines, "")):
            taken.append(line)
            yield line

    while True:
        taken: list[str] = []
        try:
            record = next(csv.reader(pull(taken), delimiter="\t", strict=True), None)
            if record is None:
                return
            if len(taken) > 1 and len(record) != width:
                raise csv.Error
        except csv.Error:
            record = taken[0].rstrip("\r\n").split("\t")
            ahead.extendleft(reversed(taken[1:]))
            del taken[1:]
        read, width = read + len(taken), width or len(record)
        yield read, record


def _checked_header(path: Path, line: int, header: list[str]) -> list[str]:
    example = "the first line must name the columns, for example id,title,text"
    if header[0].isdecimal() or not any(header) or max(map(len, header)) > 200:
        raise FormatError(f"{path}:{line}: this does not look like a header: {example}")
    if twice := next((name for name in header if name and header.count(name) > 1), None):
        raise FormatError(f"{path}:{line}: two columns are named {twice!r}: {example}")
    return header
