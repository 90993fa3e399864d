"""Reads a retrieval data set in BEIR's layout, and relevance judgements in BEIR's or TREC's format.

    folder/
      corpus.jsonl        {"_id": "4983", "title": "…", "text": "…"} per line; the title may be absent
      queries.jsonl       {"_id": "1", "text": "…"} per line
      qrels/test.tsv      query-id <tab> corpus-id <tab> score, below a header line of these names

Each file may be gzipped (corpus.jsonl.gz); where both exist, the plain one is read. Blank lines are passed over. All
else that cannot be read, or could be read in two ways, is a FormatError that names the file and the line.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..arguments import as_path
from ..errors import FormatError
from ..text.lines import lines_of, objects_of

Folder = str | os.PathLike[str]
RELEVANCE = re.compile(r"[+-]?[0-9]{1,9}(\.0*)?", re.ASCII)  # some exports write 1.0


@dataclass(frozen=True)
class Dataset:
    """One split of a BEIR data set. `doc_ids`, `docs` and `titles` run in parallel, in the order of the corpus."""

    doc_ids: list[str] = field(repr=False)
    docs: list[str] = field(repr=False)  # title and text joined by a space and stripped: what BEIR hands to a model
    titles: list[str] = field(repr=False)  # "" where there is none
    queries: dict[str, str] = field(repr=False)  # query id -> text, the judged queries only, in the order of the qrels
    qrels: dict[str, dict[str, int]] = field(repr=False)  # query id -> document id -> relevance
    split: str
    unknown_docs: list[str]  # judged ids the corpus lacks, sorted; their judgements stay in `qrels`, as for trec_eval


def read_beir(folder: Folder, split: str = "test") -> Dataset:
    """The corpus, and the queries judged in `split`.

    A judged document that the corpus lacks is kept and listed in `unknown_docs`: no run can find it, so it costs
    recall, as it does under trec_eval. FormatError for a missing file (it says which splits there are), a malformed
    line, an id that occurs twice, and a judged query without text.
    """
    folder = as_path(folder)
    if not folder.is_dir():
        raise FormatError(f"no folder {folder}: expected one that holds corpus.jsonl, queries.jsonl and qrels/")
    corpus, queries = _find(folder, "corpus.jsonl"), _find(folder, "queries.jsonl")  # both, before the long read
    qrels_path = _find_split(folder, split)
    qrels = read_qrels(qrels_path)

    doc_ids, docs, titles = [], [], []
    for doc_id, title, text in _records(corpus):
        doc_ids.append(doc_id)
        docs.append(f"{title} {text}".strip())
        titles.append(title)
    if not doc_ids:
        raise FormatError(f"{corpus} holds no document")

    texts = {query_id: text for query_id, _, text in _records(queries)}
    for query_id in qrels:
        if query_id not in texts:
            raise FormatError(f"{qrels_path} judges query {query_id!r}, whose text is not in {queries}")
    known = set(doc_ids)
    unknown = {doc for judged in qrels.values() for doc in judged if doc not in known}
    return Dataset(doc_ids, docs, titles, {q: texts[q] for q in qrels}, qrels, split, sorted(unknown))


def read_qrels(path: Folder) -> dict[str, dict[str, int]]:
    """Relevance judgements, query id -> document id -> relevance, in the order of the file.

    Two formats are told apart by the first line: BEIR's three columns between tabs (a header line is passed over),
    and TREC's four columns between blanks, `query iteration document relevance`, whose second is not used. FormatError
    for any other line, a relevance that is not an integer, and two judgements of one pair that contradict each other.
    """
    path = as_path(path)
    qrels: dict[str, dict[str, int]] = {}
    columns = 0
    for number, line in lines_of(path):
        if not columns:
            fields = _tab_fields(line)
            columns = 3 if len(fields) == 3 else 4
            if columns == 3 and not RELEVANCE.fullmatch(fields[2].strip()):
                continue  # the header
        fields = _tab_fields(line) if columns == 3 else line.split()
        if len(fields) != columns:
            raise FormatError(
                f"{path}:{number}: neither 3 columns between tabs (query-id corpus-id score, BEIR) "
                "nor 4 between blanks (query 0 document relevance, TREC), or not the same as in the lines above"
            )
        query, doc, score = fields[0], fields[-2], fields[-1].strip()
        if not RELEVANCE.fullmatch(score):
            raise FormatError(f"{path}:{number}: relevance {score!r} must be an integer")
        if not query or not doc:
            raise FormatError(f"{path}:{number}: a query id or document id is empty")
        relevance = int(score.partition(".")[0])
        if qrels.setdefault(query, {}).setdefault(doc, relevance) != relevance:
            raise FormatError(
                f"{path}:{number}: document {doc!r} is judged {relevance} for query {query!r}, "
                f"but {qrels[query][doc]} above: keep one of the two lines"
            )
    if not qrels:
        raise FormatError(f"{path} holds no judgement")
    return qrels


def _records(path: Path) -> Iterator[tuple[str, str, str]]:
    """(id, title or "", text) of every line of a JSONL file."""
    seen: dict[str, int] = {}
    for number, record in objects_of(path, '{"_id": "1", "text": "…"}'):
        where = f"{path}:{number}"
        key, title, text = record.get("_id"), record.get("title"), record.get("text")
        if type(key) is int:
            key = str(key)
        if not isinstance(key, str) or not key:
            raise FormatError(f'{where}: "_id" must be a string that is not empty')
        if not isinstance(text, str):
            raise FormatError(f'{where}: "text" must be a string')
        if not isinstance(title, str | None):
            raise FormatError(f'{where}: "title" must be a string')
        if seen.setdefault(key, number) != number:
            raise FormatError(f"{where}: id {key!r} is already that of line {seen[key]}: ids must be unique")
        yield key, title or "", text


def _tab_fields(line: str) -> list[str]:
    """BEIR's files are written by a CSV writer, so an id with a quotation mark in it may be quoted."""
    return next(csv.reader([line], delimiter="\t")) if '"' in line else line.split("\t")


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FormatError(f"{folder} holds neither {name} nor {name}.gz: is it a data set in BEIR's layout?")


def _find_split(folder: Path, split: str) -> Path:
    try:
        return _find(folder / "qrels", f"{split}.tsv")
    except FormatError:
        found = sorted({p.name.split(".tsv")[0] for p in (folder / "qrels").glob("*.tsv*")})
        there_are = f"the splits there are: {', '.join(found)}" if found else "there are no splits in it"
        raise FormatError(f"{folder / 'qrels'} holds no {split}.tsv or {split}.tsv.gz; {there_are}") from None
