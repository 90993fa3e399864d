"""Paths to documents: what is found, what is read, where it lies, and what is refused."""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi.errors import FormatError, InputError, MinibiError
from minibi.text.files import Document, find_sources, read_documents


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


# --- find_sources ----------------------------------------------------------------------------------------------------


def test_a_folder_gives_its_known_text_files_sorted_and_nothing_hidden(tmp_path):
    for name in ("b/z.md", "b/a.txt", "a.csv", "c.JSONL", "d.tsv.gz", "b/e.rst", "f.text", "g.markdown", "h.ndjson"):
        write(tmp_path / name, "x")
    for name in (".hidden.txt", ".git/x.txt", "code.py", "image.png", "archive.tar.gz", "x.json", "noext"):
        write(tmp_path / name, "x")
    names = [p.relative_to(tmp_path).as_posix() for p in find_sources([tmp_path])]
    assert names == ["a.csv", "b/a.txt", "b/e.rst", "b/z.md", "c.JSONL", "d.tsv.gz", "f.text", "g.markdown", "h.ndjson"]


def test_order_follows_the_arguments_and_each_file_comes_once(tmp_path):
    a, b = write(tmp_path / "a.txt", "x"), write(tmp_path / "sub" / "b.txt", "x")
    assert find_sources([b, str(tmp_path), a]) == [b, a]
    assert find_sources(str(a)) == [a]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_links_are_followed_once_and_loops_end(tmp_path):
    real = write(tmp_path / "real" / "deep" / "x.txt", "x")
    outside = write(tmp_path / "outside" / "y.md", "y")
    top = tmp_path / "real"
    (top / "deep" / "up").symlink_to(top)  # a loop
    (top / "again").symlink_to(top / "deep")  # the same folder twice
    (top / "away").symlink_to(outside.parent)
    (top / "a.txt").symlink_to(real)  # the same file twice: its own path is shown
    (top / "dangling.txt").symlink_to(tmp_path / "nowhere.txt")
    assert find_sources([top]) == [top / "away" / "y.md", real]


def test_a_file_named_outright_may_have_any_suffix_if_it_is_text(tmp_path):
    readme, log = write(tmp_path / "README", "hello"), write(tmp_path / "app.log.gz", "line\n")
    cut = write(
        tmp_path / "cut.dat", "é" * (1 << 15) + "é"
    )  # the look at its head must not stumble over a half character
    assert find_sources([readme, log, cut]) == [readme, log, cut]
    with pytest.raises(InputError, match=r"photo\.png is not a text file"):
        find_sources([write(tmp_path / "photo.png", b"\x89PNG\r\n\x1a\n\0\0")])
    with pytest.raises(InputError, match="not a text file"):
        find_sources([write(tmp_path / "nul.bin", b"abc\0def")])


def test_what_is_missing_or_empty_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"no/such/path\.txt is not a file or folder"):
        find_sources(["no/such/path.txt"])
    with pytest.raises(InputError, match=r"nothing to read in .*empty"):
        find_sources([tmp_path / "empty"])
    with pytest.raises(InputError, match="nothing to read in an empty list"):
        find_sources([])
    with pytest.raises(InputError, match="is not a file or folder"):
        find_sources(["x" * 5000])


# --- rows ------------------------------------------------------------------------------------------------------------


def test_beir_corpus_works_as_it_is(tmp_path):
    rows = [{"_id": "4983", "title": "T", "text": "Body.", "metadata": {}}, {"_id": "5", "title": "", "text": "B"}]
    expected = [Document("4983", "T", "Body.", 0, 1), Document("5", "", "B", 0, 2)]
    for name in ("corpus.jsonl", "corpus.jsonl.gz", "corpus.ndjson", "corpus.json"):
        assert list(read_documents(write(tmp_path / name, jsonl(*rows)))) == expected


@pytest.mark.parametrize(
    ("row", "key", "title", "text"),
    [
        ({"id": 7, "contents": "c"}, "7", "", "c"),  # Pyserini
        ({"docid": "d", "headline": "h", "Body": "b"}, "d", "h", "b"),
        ({"question": "q", "answer": "a"}, "1", "q", "a"),
        ({"page_content": "p", "metadata": {"x": 1}}, "1", "", "p"),
        ({"id": 1, "title": "t", "abstract": ["s1.", "s2."]}, "1", "t", "s1.\ns2."),
        (
            {"pid": "p", "name": "n", "remarks": "a long remark, longer than names"},
            "p",
            "n",
            "a long remark, longer than names",
        ),
        ({"lang": "en", "title": "only a title"}, "1", "", "only a title"),
        ({"text": {"no": 1}, "passage": "p"}, "1", "", "p"),
        ({"text": "a\ud800b"}, "1", "", "a\ufffdb"),  # JSON can spell what UTF-8 cannot
        ({"text": "x", "title": None}, "1", "", "x"),
    ],
)
def test_columns_are_guessed(tmp_path, row, key, title, text):
    assert list(read_documents(write(tmp_path / "a.jsonl", jsonl(row)))) == [Document(key, title, text, 0, 1)]


def test_columns_can_be_named(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl({"id": "x", "text": "wrong", "n": 12, "k": 3, "ok": True, "title": "t"}))
    assert list(read_documents(path, text="n", title="k", id="ok")) == [Document("true", "3", "12", 0, 1)]
    assert list(read_documents(path, title="", id="")) == [Document("1", "", "wrong", 0, 1)]
    for option in ("text", "title", "id"):
        with pytest.raises(InputError, match=rf"no column 'nope', as --{option} asks; its columns are: id, text, n"):
            list(read_documents(path, **{option: "nope"}))
    with pytest.raises(InputError, match="no column looks like text: name one with --text; its columns are: a, b"):
        list(read_documents(write(tmp_path / "b.jsonl", jsonl({"a": 1, "b": "x"}))))


def test_rows_without_text_stand_by_their_title_or_are_passed_over(tmp_path):
    rows = [
        {"text": None, "title": "t"},
        {"text": " ", "title": ""},
        {"title": "u"},
        {"text": "x"},
        {"text": float("nan")},
    ]
    docs = list(read_documents(write(tmp_path / "a.jsonl", jsonl(*rows))))
    assert docs == [Document("1", "", "t", 0, 1), Document("3", "", "u", 0, 3), Document("4", "", "x", 0, 4)]


def test_named_columns_pass_over_other_types_with_an_error(tmp_path):
    path = write(tmp_path / "a.jsonl", jsonl({"text": "x"}, {"text": {"a": 1}}))
    with pytest.raises(FormatError, match=r"a\.jsonl:2: 'text' holds an object"):
        list(read_documents(path))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"text": "x"', "2: not valid JSON"),
        ("[1]", "2: not a JSON object but list"),
        ("null", "2: not a JSON object but NoneType"),
        ("[" * 200_000, "2: not valid JSON"),
        ('{"text": ' + "9" * 5000 + "}", "2: not valid JSON"),
        ('{"text": "a"} {"text": "b"}', "2: not valid JSON"),
    ],
)
def test_bad_json_is_refused_by_line(tmp_path, line, message):
    path = write(tmp_path / "a.jsonl", '{"text": "fine"}\n' + line + "\n")
    with pytest.raises(FormatError, match=rf"a\.jsonl:{message}"):
        list(read_documents(path))


def test_ids_must_be_there_and_unique(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        jsonl({"id": "a", "text": "x"}, {"id": 1, "text": "y"}) + "\n" + jsonl({"id": "1", "text": "z"}),
    )
    with pytest.raises(FormatError, match=r"lines 2 and 4 have the same 'id', '1'"):
        list(read_documents(path))
    assert [d.key for d in read_documents(path, id="")] == ["1", "2", "4"]
    with pytest.raises(FormatError, match=r"b\.jsonl:2: the row has no 'id'"):
        list(read_documents(write(tmp_path / "b.jsonl", jsonl({"id": "a", "text": "x"}, {"text": "y"}))))


def test_rows_are_streamed(tmp_path):
    path = tmp_path / "big.jsonl"
    with open(path, "w") as f:
        f.writelines(f'{{"id": {i}, "text": "row {i}"}}\n' for i in range(20_000))
        f.write("broken")
    docs = read_documents(path)
    assert [d.text for d in itertools.islice(docs, 15_000)] == [f"row {i}" for i in range(15_000)]
    with pytest.raises(FormatError, match="20001"):
        list(docs)


ROW = st.fixed_dictionaries(
    {
        "text": st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1).filter(str.strip),
        "title": st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=9).map(str.strip),
        "extra": st.sampled_from(["", "1,5", 'a "quoted" word', "tab\there", "a;b|c"]),
    }
)


@settings(max_examples=60)
@given(rows=st.lists(ROW, min_size=1, max_size=8), delimiter=st.sampled_from(",;\t|"), gz=st.booleans())
def test_tables_come_back_as_they_were_written(tmp_path_factory, rows, delimiter, gz):
    out = io.StringIO(newline="")
    quoting = csv.QUOTE_MINIMAL if delimiter == "\t" else csv.QUOTE_ALL
    writer = csv.DictWriter(out, ["extra", "title", "text"], delimiter=delimiter, quoting=quoting)
    writer.writeheader()
    writer.writerows(rows)
    suffix = "tsv" if delimiter == "\t" else "csv"
    path = write(tmp_path_factory.getbasetemp() / f"back.{suffix}{'.gz' if gz else ''}", out.getvalue())
    docs = list(read_documents(path))
    assert [(d.title, d.text) for d in docs] == [(r["title"], r["text"]) for r in rows]
    path = write(tmp_path_factory.getbasetemp() / "back.jsonl", jsonl(*rows))
    assert [(d.title, d.text) for d in read_documents(path)] == [(r["title"], r["text"]) for r in rows]


def test_csv_lines_count_from_the_start_of_the_row(tmp_path):
    path = write(tmp_path / "a.csv", '\n id, Title, text\n\n1,t,"two\nlines"\r\n2,,"a ""b"", c"\n3,only title\n,,\n')
    docs = list(read_documents(path))
    assert docs == [
        Document("1", "t", "two\nlines", 0, 4),
        Document("2", "", 'a "b", c', 0, 6),
        Document("3", "", "only title", 0, 7),
    ]


def test_tsv_without_quoting_is_read_letter_for_letter(tmp_path):
    path = write(tmp_path / "a.tsv", 'id\ttext\n1\t"Hello" he said\n2\t"never closed\n3\t"a ""b"""\n4\t5" disk\n')
    assert [d.text for d in read_documents(path)] == ['"Hello" he said', '"never closed', 'a "b"', '5" disk']


def test_a_field_may_be_larger_than_the_csv_default(tmp_path):
    body = "word " * 100_000
    assert [d.text for d in read_documents(write(tmp_path / "a.csv", f"id,text\n1,{body}\n"))] == [body]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("id,text\n1,a,b\n", "2: 3 fields, the header has 2"),
        ('id,text\n1,ok\n2,"open\n3,x\n', "3: unexpected end of data"),
        ('id,text\n1,"a" b\n', "2: "),
        ("1,some words\n2,more words\n", "1: this does not look like a header"),
        ("text,text\na,b\n", "1: two columns are named 'text'"),
        ("id,text\n1,a\n1,b\n", " lines 2 and 3 have the same 'id'"),
        ("id\ttext\n1\ta\tb\n", "2: 3 fields"),
    ],
)
def test_bad_tables_are_refused_by_line(tmp_path, content, message):
    with pytest.raises(FormatError, match=rf"a\.csv:{message}"):
        list(read_documents(write(tmp_path / "a.csv", content)))


def test_empty_files_hold_no_documents(tmp_path):
    for name in ("a.csv", "a.tsv", "a.jsonl", "a.txt", "a.md", "a.rst", "a.txt.gz"):
        assert list(read_documents(write(tmp_path / name, ""))) == []
        assert list(read_documents(write(tmp_path / name, "\n \r\n"))) == []
    assert list(read_documents(write(tmp_path / "a.csv", "id,text\n"))) == []


# --- bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.jsonl", "a.csv", "a.txt.gz"])
def test_other_encodings_are_refused_with_the_place(tmp_path, name):
    good = '{"text": "x"}\n{"text": "' + "ü" * 700_000 + '"}\n'  # 1.4 MB: the bad byte is found in the second piece
    with pytest.raises(FormatError, match=rf"{name}:3: byte {len(good.encode()) + 2} \(0xe9\) is not UTF-8: convert"):
        list(read_documents(write(tmp_path / name, good.encode() + b"af\xe9")))
    with pytest.raises(FormatError, match=r":1: byte 1 \(0xc3\) is not UTF-8"):
        list(read_documents(write(tmp_path / name, b"a\xc3")))  # ends within a character
    for encoding in ("utf-16", "utf-16-be"):
        raw = "text\nabc".encode(encoding)
        with pytest.raises(FormatError, match="UTF-16"):
            list(read_documents(write(tmp_path / name, raw)))
    with pytest.raises(FormatError, match="binary file"):
        list(read_documents(write(tmp_path / name, b"\x89PNG\r\n\x1a\n\0\0\0")))


def test_damaged_gzip_is_refused(tmp_path):
    whole = gzip.compress(b"text\n" * 10_000)
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for raw in (whole[:-9], whole[:20], bytes(flipped), b"text", b"\x1f\x8b"):
        path = tmp_path / "a.csv.gz"
        path.write_bytes(raw)
        with pytest.raises(FormatError, match=r"a\.csv\.gz is not a whole gzip file"):
            list(read_documents(path))
        with pytest.raises(FormatError, match="gzip"):
            path = tmp_path / "a.unknown.gz"
            path.write_bytes(raw[:12])
            find_sources([path])


def test_unreadable_paths_are_named(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*gone\.txt"):
        list(read_documents(tmp_path / "gone.txt"))
    with pytest.raises(InputError, match="cannot read"):
        list(read_documents(tmp_path))


@settings(max_examples=200)
@given(
    raw=st.binary(max_size=80) | st.text("\"',;\t|\n\r{}[]:#=-`ab1é", max_size=60).map(str.encode),
    suffix=st.sampled_from([".txt", ".md", ".rst", ".jsonl", ".csv", ".tsv", ".json", ""]),
    gz=st.booleans(),
    named=st.sampled_from([{}, {"text": "a"}, {"id": "", "title": ""}]),
)
def test_no_bytes_crash_the_reader(tmp_path_factory, raw, suffix, gz, named):
    path = tmp_path_factory.getbasetemp() / f"fuzz{suffix}{'.gz' if gz else ''}"
    path.write_bytes(gzip.compress(raw) if gz and len(raw) % 4 else raw)
    try:
        docs = list(read_documents(path, **named))
    except MinibiError as e:
        assert str(path) in str(e) and "\n" not in str(e)
    else:
        assert len({d.key for d in docs}) == len(docs) and all(d.text.strip() and d.line > 0 for d in docs)
