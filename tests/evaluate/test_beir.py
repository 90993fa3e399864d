"""The BEIR reader: what it returns, and what it says of files it cannot read."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import FormatError, InputError
from minibi.evaluate import evaluate, read_beir, read_qrels

SCIFACT = Path(__file__).parents[2] / "benchmarks" / "data" / "scifact"
HEADER = "query-id\tcorpus-id\tscore\n"


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def jsonl(*records: object) -> str:
    return "".join(json.dumps(r) + "\n" for r in records)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(
        tmp_path / "corpus.jsonl",
        jsonl(
            {"_id": "d1", "title": "Cats", "text": "purr."},
            {"_id": "d2", "title": "", "text": " dogs bark "},
            {"_id": "d3", "text": "é\u2028漢 😀", "metadata": {"year": 1}},
            {"_id": "d4", "title": None, "text": ""},
        ),
    )
    write(
        tmp_path / "queries.jsonl",
        jsonl({"_id": "q1", "text": "one"}, {"_id": "q2", "text": "two"}, {"_id": "q3", "text": "three"}),
    )
    write(tmp_path / "qrels" / "test.tsv", HEADER + "q3\td1\t1\nq1\td2\t2\nq3\td9\t1\nq1\td1\t0\n")
    write(tmp_path / "qrels" / "train.tsv.gz", HEADER + "q2\td3\t1\n")
    return tmp_path


def test_a_split(folder: Path):
    data = read_beir(folder)
    assert data.doc_ids == ["d1", "d2", "d3", "d4"]
    assert data.docs == ["Cats purr.", "dogs bark", "é\u2028漢 😀", ""]
    assert data.titles == ["Cats", "", "", ""]
    assert list(data.queries.items()) == [("q3", "three"), ("q1", "one")]
    assert data.qrels == {"q3": {"d1": 1, "d9": 1}, "q1": {"d2": 2, "d1": 0}}
    assert data.unknown_docs == ["d9"]
    assert "purr" not in repr(data)  # a corpus of megabytes does not belong in a traceback


def test_an_unknown_judged_document_costs_recall(folder: Path):
    data = read_beir(str(folder))
    run = {query: dict.fromkeys(data.doc_ids, 1.0) for query in data.queries}
    assert evaluate(data.qrels, run, ["recall@100"]).per_query["q3"] == {"recall@100": 0.5}


def test_gzipped_files_and_other_splits(folder: Path):
    for name in ("corpus.jsonl", "queries.jsonl"):
        write(folder / f"{name}.gz", (folder / name).read_bytes())
        (folder / name).unlink()
    data = read_beir(folder, "train")
    assert (data.queries, data.qrels, data.split) == ({"q2": "two"}, {"q2": {"d3": 1}}, "train")


def test_the_plain_file_comes_before_the_gzipped(folder: Path):
    write(folder / "corpus.jsonl.gz", jsonl({"_id": "other", "text": "x"}))
    assert read_beir(folder).doc_ids[0] == "d1"


def test_blank_lines_windows_line_ends_and_a_byte_order_mark(folder: Path):
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        lines = (folder / name).read_bytes().split(b"\n")
        write(folder / name, b"\xef\xbb\xbf" + b"\r\n\r\n".join(lines).rstrip())
    data = read_beir(folder)
    assert len(data.docs) == 4
    assert data.qrels == {"q3": {"d1": 1, "d9": 1}, "q1": {"d2": 2, "d1": 0}}


def test_integer_ids_become_strings(folder: Path):
    write(folder / "corpus.jsonl", jsonl({"_id": 7, "text": "x"}))
    assert read_beir(folder).doc_ids == ["7"]


def test_scifact_as_published():
    data = read_beir(SCIFACT)
    assert (len(data.doc_ids), len(data.queries), sum(map(len, data.qrels.values()))) == (5183, 300, 339)
    assert data.unknown_docs == []
    assert data.queries["1"] == "0-dimensional biomaterials show inductive properties."
    row = data.doc_ids.index("4983")
    assert data.docs[row].startswith(data.titles[row] + " Alterations of the architecture")
    train = read_beir(SCIFACT, "train")
    assert (len(train.queries), sum(map(len, train.qrels.values()))) == (809, 919)


# --- judgements -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        HEADER + "q\ta\t1\nq\tb\t-2\np q\ta\t0\n",
        "qid\tdocid\tanything\nq\ta\t1\nq\tb\t-2\np q\ta\t0",
        "q\ta\t1\nq\tb\t-2\np q\ta\t0\n",  # no header: the first line is a judgement
        HEADER + "q\ta\t1.0\nq\tb\t-2.\np q\ta\t+0\n",
        HEADER + "q\ta\t1\nq\ta\t1\nq\tb\t-2\np q\ta\t0\n",  # said twice, but the same
    ],
)
def test_beir_judgements(tmp_path: Path, text: str):
    assert read_qrels(write(tmp_path / "x.tsv", text)) == {"q": {"a": 1, "b": -2}, "p q": {"a": 0}}


@pytest.mark.parametrize("text", ["q 0 a 1\nq Q0 b -2\np 0 a 0\n", "q\t0\ta\t1\n  q  0 b\t-2 \n\np 1 a 0"])
def test_trec_judgements(tmp_path: Path, text: str):
    assert read_qrels(write(tmp_path / "x.qrels", text)) == {"q": {"a": 1, "b": -2}, "p": {"a": 0}}


@given(
    st.dictionaries(
        st.text(st.characters(exclude_characters="\t\r\n\x00", exclude_categories=["Cs"]), min_size=1).filter(
            str.strip
        ),
        st.dictionaries(
            st.text(st.characters(exclude_characters="\t\r\n\x00", exclude_categories=["Cs"]), min_size=1),
            st.integers(-5, 5),
            min_size=1,
            max_size=4,
        ),
        min_size=1,
        max_size=4,
    )
)
def test_what_a_csv_writer_wrote_is_read_back(tmp_path_factory, qrels):
    """BEIR's files come from csv.writer: ids with spaces, quotation marks and any script survive."""
    path = tmp_path_factory.mktemp("qrels") / "test.tsv"
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t")
        writer.writerow(["query-id", "corpus-id", "score"])
        writer.writerows((q, d, r) for q, judged in qrels.items() for d, r in judged.items())
    assert read_qrels(path) == qrels


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no judgement"),
        (HEADER, "holds no judgement"),
        (HEADER + "q\ta\n", r"x.tsv:2: neither 3 columns"),
        (HEADER + "q\ta\t1\t0\n", r"x.tsv:2: neither 3 columns"),
        (HEADER + "q\ta\t1\nq 0 a 1\n", r"x.tsv:3: neither 3 columns"),
        ("q 0 a 1\nq 0 b\n", r"x.tsv:2: neither 3 columns"),
        ("q a 1\n", r"x.tsv:1: neither 3 columns"),
        (HEADER + "q\ta\tyes\n", r"x.tsv:2: relevance 'yes' must be an integer"),
        (HEADER + "q\ta\t0.5\n", "relevance '0.5'"),
        (HEADER + "q\ta\t1_0\n", "relevance '1_0'"),
        (HEADER + "q\ta\t٣\n", "relevance '٣'"),
        (HEADER + "q\ta\t99999999999\n", "must be an integer"),
        (HEADER + "q\t\t1\n", "x.tsv:2: a query id or document id is empty"),
        (HEADER + "q\ta\t1\n\nq\ta\t2\n", "x.tsv:4: document 'a' is judged 2 for query 'q', but 1 above"),
        (HEADER.encode() + b"q\t\xff\t1\n", r"x.tsv:2: byte \d+ \(0xff\) is not UTF-8"),
    ],
)
def test_judgements_that_cannot_be_read(tmp_path: Path, text: str | bytes, says: str):
    with pytest.raises(FormatError, match=says):
        read_qrels(write(tmp_path / "x.tsv", text))


# --- folders that cannot be read --------------------------------------------------------------------------------------


def test_missing_files_are_named(folder: Path):
    with pytest.raises(FormatError, match=r"no dev.tsv or dev.tsv.gz; the splits there are: test, train$"):
        read_beir(folder, "dev")
    with pytest.raises(FormatError, match=r"no folder .*nowhere: expected"):
        read_beir(folder / "nowhere")
    with pytest.raises(FormatError, match=r"neither corpus.jsonl nor corpus.jsonl.gz"):
        read_beir(folder / "qrels")
    with pytest.raises(InputError, match=r"cannot read .*none.tsv: No such file"):
        read_qrels(folder / "none.tsv")
    with pytest.raises(InputError, match="cannot read"):
        read_qrels(folder)
    for path in (folder / "qrels").iterdir():
        path.unlink()
    with pytest.raises(FormatError, match="no splits in it"):
        read_beir(folder)
    (folder / "queries.jsonl").unlink()
    with pytest.raises(FormatError, match=r"neither queries.jsonl nor"):
        read_beir(folder)


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl"])
@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("{", "2: not valid JSON"),
        ("[" * 100_000, "2: not valid JSON"),
        ("[]", "2: not a JSON object"),
        ("null", "2: not a JSON object"),
        ('{"text": "x"}', '2: "_id" must be a string'),
        ('{"_id": "", "text": "x"}', '2: "_id" must be'),
        ('{"_id": true, "text": "x"}', '2: "_id" must be'),
        ('{"_id": 1.5, "text": "x"}', '2: "_id" must be'),
        ('{"_id": "x"}', '2: "text" must be a string'),
        ('{"_id": "x", "text": null}', '2: "text" must be a string'),
        ('{"_id": "x", "text": "x", "title": ["t"]}', '2: "title" must be a string'),
        ('{"_id": "first", "text": "x"}', "2: id 'first' is already that of line 1"),
        (b'{"_id": "x", "text": "\xe9"}', r"2: byte \d+ \(0xe9\) is not UTF-8"),
    ],
)
def test_a_malformed_line_is_named(folder: Path, name: str, line: str | bytes, says: str):
    first = b'{"_id": "first", "text": "fine"}\n'
    write(folder / name, first + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(FormatError, match=f"{name}:{says}") as e:
        read_beir(folder)
    assert len(str(e.value)) < 400


def test_an_empty_corpus_and_a_query_without_text(folder: Path):
    queries = (folder / "queries.jsonl").read_text()
    write(folder / "queries.jsonl", jsonl({"_id": "q3", "text": "three"}))
    with pytest.raises(FormatError, match=r"test.tsv judges query 'q1', whose text is not in .*queries.jsonl"):
        read_beir(folder)
    write(folder / "queries.jsonl", queries)
    write(folder / "corpus.jsonl", "\n")
    with pytest.raises(FormatError, match="holds no document"):
        read_beir(folder)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "not gzip"])
def test_a_damaged_gzip_file(folder: Path, damage: str):
    (folder / "corpus.jsonl").unlink()
    whole = gzip.compress(jsonl(*({"_id": str(i), "text": f"text {i * i}"} for i in range(1000))).encode())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    data = {"truncated": whole[: len(whole) // 2], "flipped": bytes(flipped), "not gzip": b'{"_id": "1"}'}[damage]
    (folder / "corpus.jsonl.gz").write_bytes(data)
    with pytest.raises(FormatError, match=r"corpus.jsonl.gz"):
        read_beir(folder)
