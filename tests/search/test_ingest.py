"""Files in, hits out: every hit leads back to the very characters and line of its file."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os

import pytest

from minibi.errors import FormatError, InputError
from minibi.search.ingest import ingest

PROSE = {
    "plain.txt": "Title line\n\nThe sun is up.\nRain came later. " + "The river ran over stones. " * 40,
    "crlf.txt": "First.\r\nThe sun.\r\n\r\n" + "Rain fell on bread.\r\n" * 40,
    "mac.txt": "First.\rThe sun.\r\r" + "Rain fell on bread.\r" * 40,
    "bom.txt": "\ufeffThe sun. " + "Wind and salt. " * 40,
    "notes.md": "# Garden\n\nintro\n\n## Tomatoes 🍅\n\nWater them.\n\n"
    + "They like sun. " * 50
    + "\n\n## Empty\n\n## End\nBye.\n",
    "manual.rst": "Manual\n======\n\nIntro text.\n\nPart\n----\n\n" + "Stone on stone. " * 40,
    "deep/er/unicode.txt": "日本語の文章です。雨が降る。\n" * 30 + "émoji 😀 sun 𝔘𝔫𝔦.\n" * 20,
}


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "docs"
    for name, text in PROSE.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(text.encode())
    return folder


def test_spans_and_lines_of_prose(folder, collection):
    ingest(collection, [folder])
    hits = collection.search("the sun", 1000)
    assert {os.path.relpath(h.source, folder) for h in hits} == set(PROSE)
    assert len(hits) == len(collection) > 40
    for h in hits:
        text = PROSE[os.path.relpath(h.source, folder)].removeprefix("\ufeff")
        assert text[h.start : h.end] == h.text
        before = text[: h.start].replace("\r\n", "\n").replace("\r", "\n")
        assert h.line == before.count("\n") + 1, h.place
        assert h.place == f"{h.source}:{h.line}"


def test_lines_of_rows(tmp_path, collection):
    """A row of JSON is one line whatever its text; a cell of CSV may go over several."""
    long = "".join(f"Line {i} of the text. It rains.\n" for i in range(60))
    rows = [{"_id": "a", "title": "A", "text": "Sun."}, {"_id": "b", "title": "B", "text": long}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    with gzip.open(tmp_path / "rows.csv.gz", "wt", newline="") as f:
        writer = csv.DictWriter(f, ["_id", "title", "text"])
        writer.writeheader()
        writer.writerows(rows)
    ingest(collection, [tmp_path / "rows.jsonl", tmp_path / "rows.csv.gz"])
    hits = collection.search("rain", 1000)
    of_json = [h for h in hits if h.source.endswith("jsonl") and h.key == "b"]
    of_csv = [h for h in hits if h.source.endswith("csv.gz") and h.key == "b"]
    assert len(of_json) == len(of_csv) > 5
    assert {h.line for h in of_json} == {2}
    file = gzip.decompress((tmp_path / "rows.csv.gz").read_bytes()).decode().split("\n")
    for h in of_csv:
        assert h.text.split("\n")[0] in file[h.line - 1]
    for h in hits:
        assert h.text == {"a": "Sun.", "b": long}[h.key][h.start : h.end]


def test_report_and_nothing_done_twice(folder, collection, encoded):
    report = ingest(collection, [folder])
    assert (report.files, report.unchanged_files, report.removed_files) == (len(PROSE), 0, 0)
    assert report.changes.new == collection.documents and report.changes.passages == len(collection) == len(encoded)
    encoded.clear()
    report = ingest(collection, [folder])
    assert (report.files, report.unchanged_files) == (len(PROSE), len(PROSE)) and encoded == []
    assert report.changes.new == report.changes.unchanged == 0  # the files were not even opened


def test_touched_changed_new_and_vanished_files(folder, collection, encoded):
    ingest(collection, [folder])
    encoded.clear()
    os.utime(folder / "plain.txt", ns=(1, 1))  # touched, same content
    report = ingest(collection, [folder])
    assert report.unchanged_files == len(PROSE) - 1 and report.changes.unchanged == 1 and encoded == []
    (folder / "plain.txt").write_text("Only the wind.")
    (folder / "new.txt").write_text("Bread and salt.")
    (folder / "crlf.txt").unlink()
    report = ingest(collection, [folder])
    assert (report.changes.new, report.changes.changed, report.changes.removed, report.removed_files) == (1, 1, 1, 1)
    assert len(encoded) == 2
    texts = {h.text for h in collection.search("bread", 1000)}
    assert {"Only the wind.", "Bread and salt."} <= texts and not any("\r\n" in t for t in texts)


def test_a_markdown_file_whose_sections_change(tmp_path, collection, encoded):
    path = tmp_path / "a.md"
    path.write_text("# A\n\none\n\n## B\n\ntwo\n\n## C\n\nthree\n")
    ingest(collection, [path])
    encoded.clear()
    path.write_text("# A\n\none\n\n## B\n\ntwo\n\n## D\n\nfour\n")
    report = ingest(collection, [path])
    assert (report.changes.unchanged, report.changes.new, report.changes.removed) == (2, 1, 1)
    assert encoded == ["A › D\nfour"]
    assert {h.key for h in collection.search("x", 10)} == {"a", "b", "d"}


def test_files_elsewhere_are_left_alone(tmp_path, folder, collection):
    """Indexing one folder drops nothing of another, nor a file that is there but was named outright."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.txt").write_text("sun")
    (folder / "README").write_text("bread")  # no suffix: only when named
    ingest(collection, [folder, other, folder / "README"])
    before = len(collection)
    assert ingest(collection, [folder]).removed_files == 0
    (other / "x.txt").unlink()
    assert ingest(collection, [folder]).removed_files == 0 and len(collection) == before
    (other / "y.txt").write_text("rain")
    assert ingest(collection, [other]).removed_files == 1
    (folder / "README").unlink()
    assert ingest(collection, [folder]).removed_files == 1


def test_the_same_file_by_two_names_is_one(folder, collection):
    (folder / "link.txt").symlink_to(folder / "plain.txt")
    report = ingest(collection, [folder, folder / "plain.txt", folder / "deep" / ".." / "plain.txt"])
    assert report.files == len(PROSE) and ingest(collection, [folder]).unchanged_files == len(PROSE)


def test_other_columns_are_a_change(tmp_path, collection):
    (tmp_path / "t.csv").write_text("name,body,note\nA,sun,rain\n")
    ingest(collection, [tmp_path / "t.csv"], text="body")
    assert [h.text for h in collection.search("x")] == ["sun"]
    ingest(collection, [tmp_path / "t.csv"], text="note")
    assert [h.text for h in collection.search("x")] == ["rain"]


def test_a_bad_file_is_found_before_anything_is_encoded(folder, collection, encoded):
    (folder / "z.jsonl").write_text('{"text": "sun"}\n{"text": \n')
    with pytest.raises(FormatError, match=r"z\.jsonl:2"):
        ingest(collection, [folder])
    assert encoded == [] and len(collection) == 0 and collection.sources() == {}


@pytest.mark.parametrize("what", ["nothing", "missing", "empty"])
def test_nothing_to_read(tmp_path, collection, what):
    (tmp_path / "empty").mkdir()
    paths = {"nothing": [], "missing": [tmp_path / "no"], "empty": [tmp_path / "empty"]}[what]
    with pytest.raises(InputError):
        ingest(collection, paths)


@pytest.mark.skipif(os.name != "posix", reason="about file names that are bytes")
def test_a_file_name_that_is_not_utf8(tmp_path, collection):
    path = os.path.join(os.fsencode(tmp_path), b"caf\xe9.txt")
    with open(path, "w") as f:
        f.write("sun")
    with pytest.raises(InputError, match="rename it") as e:
        ingest(collection, [tmp_path])
    io.TextIOWrapper(io.BytesIO(), "utf-8").write(str(e.value))  # and can be said


def test_progress(folder, collection):
    total, done = [], []
    ingest(collection, [folder], begin=total.append, progress=done.append)
    assert total == [sum(done)] and sum(done) > 3000
    total.clear(), done.clear()
    ingest(collection, [folder], begin=total.append, progress=done.append)
    assert total == [0] and done == []
