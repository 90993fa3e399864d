"""`minibi index`, `search` and `eval`: what they print, what they refuse, and that nothing breaks them."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from minibi import Collection, __version__
from minibi.search.collection import Collection as Real

MAIN = "from minibi.app.cli import main; main()"


@pytest.fixture
def tiny(golden) -> Path:
    return golden / "tiny-bert"


@pytest.fixture
def notes(tmp_path) -> Path:
    folder = tmp_path / "work" / "my notes"
    folder.mkdir(parents=True)
    (folder / "garden.md").write_text("# Garden\n\n## Roses\n\nCut roses in March.\n\n## Beans\n\nSow beans in May.\n")
    (folder / "bread.txt").write_text("Mix flour and water.\nBake it hot.\n")
    (folder / "rows.jsonl").write_text('{"_id": "r1", "title": "Rust", "text": "The borrow checker.\\nTwo lines."}\n')
    (folder / "cities.csv").write_text("id,title,text\n1,Paris,The capital of France\n2,Rome,The capital of Italy\n")
    with gzip.open(folder / "packed.txt.gz", "wt") as f:
        f.write("Packed words about the sea.")
    (folder / "picture.png").write_bytes(b"\x89PNG\0\0")
    return folder


def one_line(error: str) -> str:
    assert error.startswith("Error: ") and error.count("\n") == 1 and "Traceback" not in error, error
    return error


# --- index and search ------------------------------------------------------------------------------------------------


def test_index_and_search(run, notes, tiny):
    code, out, err = run("index", notes, "-o", "notes.minibi", "--model", tiny)
    assert code == 0
    assert re.fullmatch(
        r"notes\.minibi: 7 documents, 7 passages \(7 new, 0 changed, 0 removed documents; "
        r"0 of 5 files unchanged; \d+\.\d s\)\n",
        out,
    )
    assert "minibi search notes.minibi 'your question'" in err
    code, out, err = run("search", "notes.minibi", "capital of France", "-k", 3)
    assert code == 0 and err == ""
    first = out.splitlines()
    assert re.fullmatch(r"  1  \d\.\d{3}  .+", first[0]) and first[1].startswith("       ")
    assert len(re.findall(r"^  \d  \d\.\d{3}  ", out, re.M)) == 3
    assert "my notes/" in out and "characters" in out
    assert not any(line != line.rstrip() for line in first)


def test_json(run, notes, tiny):
    run("index", notes, "-o", "n.minibi", "--model", tiny)
    code, out, err = run("search", "n.minibi", "roses", "--json", "-k", 50)
    assert code == 0 and err == ""
    answer = json.loads(out)
    assert answer["query"] == "roses" and set(answer["seconds"]) == {"encode", "search"}
    found = answer["hits"]
    assert len(found) == 7
    assert all(set(h) == {"score", "title", "text", "source", "key", "start", "end", "line", "id"} for h in found)
    assert [h["score"] for h in found] == sorted((h["score"] for h in found), reverse=True)
    by_key = {(Path(h["source"]).name, h["key"]): h for h in found}
    roses = by_key["garden.md", "roses"]
    assert (roses["title"], roses["text"], roses["line"]) == ("Garden › Roses", "Cut roses in March.", 5)
    file = (notes / "garden.md").read_text()
    assert file[roses["start"] : roses["end"]] == roses["text"]
    assert (
        by_key["rows.jsonl", "r1"]["text"] == "The borrow checker.\nTwo lines." and Path(roses["source"]).is_absolute()
    )


def test_meaning(run, notes):
    """With the model that is bundled, and no word in common."""
    assert run("index", notes, "-o", "n.minibi")[0] == 0
    for question, answer in {
        "when should I prune flowers": "Cut roses in March.",
        "memory safety in a programming language": "The borrow checker.\nTwo lines.",
        "baking dough in an oven": "Mix flour and water.\nBake it hot.",
    }.items():
        _, out, _ = run("search", "n.minibi", question, "--json", "-k", 1)
        assert [h["text"] for h in json.loads(out)["hits"]] == [answer]


def test_the_collection_is_named_after_the_first_path(run, notes, tiny):
    code, out, err = run("index", notes / "packed.txt.gz", "--model", tiny)
    assert code == 0 and out.startswith("packed.minibi: 1 documents") and Path("packed.minibi/collection.db").is_file()
    code, out, err = run("index", notes, "--model", tiny)
    assert code == 0 and "minibi search 'my notes.minibi' 'your question'" in err  # ready to be pasted
    (notes / ".hidden").write_text("sun")
    assert run("index", notes / ".hidden", "--model", tiny)[0] == 0 and not Path(".minibi").exists()


def test_again_after_changes(run, notes, tiny):
    run("index", notes, "-o", "n.minibi", "--model", tiny)
    _, out, _ = run("index", notes, "-o", "n.minibi", "--model", tiny)
    assert "(0 new, 0 changed, 0 removed documents; 5 of 5 files unchanged" in out
    (notes / "bread.txt").write_text("Knead the dough.")
    (notes / "rows.jsonl").unlink()
    _, out, _ = run("index", notes, "-o", "n.minibi", "--model", tiny)
    assert "(0 new, 1 changed, 1 removed documents; 3 of 4 files unchanged" in out
    texts = [h["text"] for h in json.loads(run("search", "n.minibi", "x", "--json")[1])["hits"]]
    assert "Knead the dough." in texts and "Mix flour and water.\nBake it hot." not in texts and len(texts) == 6


def test_columns_by_name(run, notes, tiny):
    path = notes / "t.csv"
    path.write_text("a,b,c\nsun,rain,x1\n")
    assert run("index", path, "-o", "t.minibi", "--model", tiny, "--text", "b", "--title", "a", "--id", "c")[0] == 0
    (hit,) = json.loads(run("search", "t.minibi", "x", "--json")[1])["hits"]
    assert (hit["text"], hit["title"], hit["key"]) == ("rain", "sun", "x1")


def test_help_and_version(run):
    code, out, _ = run("--help")
    assert code == 0 and all(name in out for name in ("demo", "index", "search", "eval"))
    for summary in ("Index files and folders of text.", "Answer a question from an index."):
        assert summary in out  # whole: click cuts off what does not fit on a line
    for command in ("demo", "index", "search", "eval"):
        assert run(command, "-h")[0] == 0
    assert run("--version")[1].strip().endswith(__version__)


# --- how it looks ----------------------------------------------------------------------------------------------------


def test_long_and_strange_texts_on_a_terminal(run, notes, tiny, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rows = [
        {"title": "a\nb\tc", "text": "one  two\n\n\nthree"},
        {"title": "bell \a \x1b[31mred\x1b[0m \x9b2J", "text": "\x1b]0;title\x07 clear \x1b[2J screen \u202f!"},
        {"title": "字" * 20, "text": "字" * 900},
        {"title": "long", "text": "word " * 900},
        {"title": "wide", "text": "x" * 900},
        {"title": "", "text": "no title"},
    ]
    (notes / "strange.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    run("index", notes / "strange.jsonl", "-o", "s.minibi", "--model", tiny)
    code, out, _ = run("search", "s.minibi", "x", "-k", 100, color=True)
    assert code == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    lines = plain.splitlines()
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", plain)
    assert max(map(len, lines)) <= 80
    assert "a b c" in plain and "one two three" in plain and "strange.jsonl:1" in plain
    passages = [list(g) for g in blocks(lines)]
    assert all(len(block) <= 4 for block in passages)
    assert sum("字字字字字字字" in line for line in lines) >= 3  # not an ellipsis alone
    assert any("xxxxxxx" in line for line in lines) and any(line.endswith("…") for line in lines)
    assert any(re.fullmatch(r" +\d+  -?\d\.\d{3}  strange\.jsonl", line) for line in lines)  # what has no title


def blocks(lines):
    """The passage lines of each hit."""
    block: list[str] = []
    for line in lines:
        if re.match(r" *\d+  -?\d\.\d{3}  ", line):
            block = []
        elif re.match(r" {7}.*characters \d+–\d+$", line):
            yield block
        else:
            block.append(line)


def test_a_question_needs_no_quotes(run, notes, tiny):
    run("index", notes, "-o", "n.minibi", "--model", tiny)
    quoted = run("search", "n.minibi", "cut the roses")
    assert run("search", "n.minibi", "cut", "the", "roses") == quoted and quoted[0] == 0
    assert run("search", "n.minibi")[0] == 2


def test_an_empty_collection_says_so(run, notes, tiny):
    (notes / "empty.txt").write_text(" \n")
    assert run("index", notes / "empty.txt", "-o", "e.minibi", "--model", tiny)[0] == 0
    code, out, err = run("search", "e.minibi", "x")
    assert code == 0 and out == "" and "e.minibi holds no text" in err
    assert json.loads(run("search", "e.minibi", "x", "--json")[1])["hits"] == []


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_terminal_that_lacks_characters(run, notes, tiny, spawn, encoding):
    (notes / "u.jsonl").write_text(json.dumps({"title": "Ünï › 😀", "text": "日本語 ' sun"}) + "\n")
    run("index", notes / "u.jsonl", "-o", "u.minibi", "--model", tiny)
    for options in ((), ("--json",)):
        child = spawn(MAIN, "search", Path("u.minibi").resolve(), "sun", *options, PYTHONIOENCODING=encoding)
        out, err = child.communicate()
        assert child.returncode == 0 and err == b"", err
        if options:
            assert json.loads(out.decode(encoding))["hits"][0]["title"] == "Ünï › 😀"
        elif encoding == "utf-8":
            assert "日本語 ' sun" in out.decode()


@pytest.mark.skipif(os.name != "posix", reason="about pipes")
def test_output_into_a_pipe_that_closes(run, notes, tiny, spawn):
    rows = "".join(json.dumps({"text": f"sun {i} " + "rain and wind " * 12}) + "\n" for i in range(1200))
    (notes / "many.jsonl").write_text(rows)
    run("index", notes / "many.jsonl", "-o", "m.minibi", "--model", tiny)
    for options in ((), ("--json",)):
        child = spawn(MAIN, "search", Path("m.minibi").resolve(), "sun", "-k", 1200, *options)
        assert len(child.stdout.read(30)) == 30
        child.stdout.close()
        err = child.stderr.read()
        child.stderr.close()
        child.wait()
        assert err == b"", err


# --- refusals --------------------------------------------------------------------------------------------------------

BAD_INDEX = {
    "missing path": (["nope"], "nope"),
    "one of two missing": (["notes", "nope"], "nope"),
    "empty folder": (["empty"], "nothing to read"),
    "binary file": (["picture.png"], "not a text file"),
    "binary text": (["binary.txt"], "binary.txt"),
    "latin-1": (["latin.txt"], "latin.txt:1"),
    "bad row": (["bad.jsonl"], "bad.jsonl:2"),
    "row is a list": (["list.jsonl"], "list.jsonl:1"),
    "missing column": (["t.csv", "--text", "body"], "body"),
    "no text column": (["t.csv"], "--text"),
    "torn gzip": (["torn.txt.gz"], "torn.txt.gz"),
    "same ids": (["same.jsonl"], "lines 1 and 2"),
    "no model": (["notes", "--model", "no-such-model"], "no-such-model"),
    "model is a file": (["notes", "--model", "t.csv"], "t.csv"),
}


@pytest.fixture
def trouble(run, notes):
    """Files that cannot be indexed, in the working folder."""
    Path("notes").mkdir()
    Path("notes/a.txt").write_text("sun")
    Path("empty").mkdir()
    Path("picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    Path("binary.txt").write_bytes(b"abc\0def")
    Path("latin.txt").write_bytes(b"caf\xe9")
    Path("bad.jsonl").write_text('{"text": "sun"}\n{"text": "rain"\n')
    Path("list.jsonl").write_text("[1, 2]\n")
    Path("t.csv").write_text("a,b\n1,2\n")
    Path("same.jsonl").write_text('{"id": "a", "text": "sun"}\n{"id": "a", "text": "rain"}\n')
    Path("torn.txt.gz").write_bytes(gzip.compress(b"sun " * 500)[:-9])
    return sorted(p.name for p in Path().iterdir())


@pytest.mark.parametrize("name", BAD_INDEX)
def test_index_refuses_in_one_line_and_leaves_nothing(run, trouble, tiny, name):
    arguments, said = BAD_INDEX[name]
    model = [] if "--model" in arguments else ["--model", tiny]
    code, out, err = run("index", *arguments, *model, "-o", "out.minibi")
    assert code == 1 and out == "" and said in one_line(err)
    assert sorted(p.name for p in Path().iterdir()) == trouble


@pytest.mark.parametrize("target", ["t.csv", "notes", "t.csv/below"])
def test_index_into_what_is_no_collection(run, trouble, tiny, target):
    code, out, err = run("index", "notes", "-o", target, "--model", tiny)
    assert code in (1, 2) and out == "" and "Traceback" not in err and err.strip()
    if code == 1:
        one_line(err)
    assert sorted(p.name for p in Path().iterdir()) == trouble
    assert Path("t.csv").read_text() == "a,b\n1,2\n" and [p.name for p in Path("notes").iterdir()] == ["a.txt"]


def test_a_bad_file_does_not_harm_an_existing_collection(run, trouble, tiny):
    run("index", "notes", "-o", "n.minibi", "--model", tiny)
    before = run("search", "n.minibi", "x")
    Path("notes/b.jsonl").write_text("{oops\n")
    code, _, err = run("index", "notes", "-o", "n.minibi", "--model", tiny)
    assert code == 1 and "b.jsonl:1" in one_line(err)
    assert run("search", "n.minibi", "x") == before


def test_another_model_than_the_collections(run, trouble, tiny, golden):
    run("index", "notes", "-o", "n.minibi", "--model", tiny)
    code, _, err = run("index", "notes", "-o", "n.minibi", "--model", golden / "tiny-bert-new")
    assert code == 1 and "another model" in one_line(err) and "tiny-bert" in err
    assert run("search", "n.minibi", "x")[0] == 0


def test_an_empty_folder_stays_when_indexing_into_it_fails(run, trouble, tiny):
    code, _, err = run("index", "bad.jsonl", "-o", "empty", "--model", tiny)
    assert code == 1 and one_line(err) and sorted(p.name for p in Path().iterdir()) == trouble
    assert list(Path("empty").iterdir()) == []


@pytest.mark.parametrize("name", ["nope", "empty", "t.csv", "notes", "nope/below", ""])
def test_search_in_what_is_no_collection(run, trouble, name):
    code, out, err = run("search", name, "x")
    assert code == 1 and out == "" and "is not a collection" in one_line(err)
    assert sorted(p.name for p in Path().iterdir()) == trouble and list(Path("empty").iterdir()) == []


@pytest.mark.parametrize("question", ["", "   ", "\n"])
def test_empty_questions(run, trouble, tiny, question):
    run("index", "notes", "-o", "n.minibi", "--model", tiny)
    code, out, err = run("search", "n.minibi", question)
    assert code == 1 and out == "" and "ask something" in one_line(err)


@pytest.mark.parametrize("k", ["0", "-3", "two", "1.5"])
def test_bad_numbers_show_the_usage(run, trouble, tiny, k):
    run("index", "notes", "-o", "n.minibi", "--model", tiny)
    code, out, err = run("search", "n.minibi", "x", "-k", k)
    assert code == 2 and out == "" and "Usage:" in err and "'-k'" in err


def test_more_than_there_is(run, trouble, tiny):
    run("index", "notes", "-o", "n.minibi", "--model", tiny)
    code, out, _ = run("search", "n.minibi", "x", "--json", "-k", 10**18)
    assert code == 0 and len(json.loads(out)["hits"]) == 1


@pytest.mark.parametrize("where", ["all", "middle", "cut", "empty"])
def test_a_damaged_database(run, trouble, tiny, where):
    Path("notes/many.txt").write_text("The sun and the rain. " * 3000)
    run("index", "notes", "-o", "n.minibi", "--model", tiny)
    path = Path("n.minibi/collection.db")
    content = path.read_bytes()
    rubbish = {"all": b"rubbish!" * 4000, "middle": content[:8192] + b"\x55" * (len(content) - 8192)}
    path.write_bytes({**rubbish, "cut": content[: len(content) // 3], "empty": b""}[where])
    Path("notes/new.txt").write_text("wind")
    for command in (["search", "n.minibi", "x"], ["index", "notes", "-o", "n.minibi", "--model", tiny]):
        code, out, err = run(*command)
        assert code == 1 and out == "" and one_line(err)


def test_a_damaged_snapshot_is_a_note(run, trouble, tiny):
    run("index", "notes", "-o", "n.minibi", "--model", tiny)
    before = run("search", "n.minibi", "sun")
    Path("n.minibi/vectors.safetensors").write_bytes(b"rubbish")
    code, out, err = run("search", "n.minibi", "sun")
    assert (
        (code, out) == before[:2] and err.startswith("note: ") and "vectors.safetensors" in err and err.count("\n") == 1
    )
    assert run("index", "notes", "-o", "n.minibi", "--model", tiny)[0] == 0
    assert run("search", "n.minibi", "sun") == before


def test_unreadable_files(run, trouble, tiny):
    if os.name != "posix" or os.geteuid() == 0:
        pytest.skip("needs permissions that hold")
    Path("notes/a.txt").chmod(0)
    code, _, err = run("index", "notes", "-o", "n.minibi", "--model", tiny)
    assert code == 1 and "a.txt" in one_line(err) and not Path("n.minibi").exists()


def test_two_runs_at_once(run, trouble, tiny):
    """The second is refused in one line, and harms nothing."""
    run("index", "notes", "-o", "n.minibi", "--model", tiny)
    Path("notes/b.txt").write_text("rain")
    lock = sqlite3.connect("n.minibi/writer.lock", isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    code, _, err = run("index", "notes", "-o", "n.minibi", "--model", tiny)
    assert code == 1 and "another process is writing" in one_line(err)
    assert run("search", "n.minibi", "x")[0] == 0
    lock.close()
    assert run("index", "notes", "-o", "n.minibi", "--model", tiny)[0] == 0


# --- interruptions ---------------------------------------------------------------------------------------------------

SLOW = """
import sys
from minibi.search import collection
collection.BATCH_CHARACTERS = 1000
from minibi.app.cli import main
main()
"""


@pytest.mark.skipif(os.name != "posix", reason="about signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill"])
def test_interrupted_and_repeated(run, notes, tiny, spawn, tmp_path, number):
    rows = [{"_id": str(i), "title": f"t {i}", "text": f"sun {i} " + "rain and wind " * 5} for i in range(900)]
    (notes / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    target = tmp_path / "slow.minibi"
    command = ["index", notes, "-o", target, "--model", tiny]
    child = spawn(SLOW, *command)
    deadline = time.monotonic() + 60
    while passages(target) < 40:
        assert child.poll() is None and time.monotonic() < deadline, child.stderr.read()
        time.sleep(0.02)
    child.send_signal(number)
    out, err = child.communicate()
    assert out == b"" and b"Traceback" not in err
    if number == signal.SIGINT:
        assert child.returncode == 130 and b"interrupted" in err and b"repeat the command" in err
    with Collection.open(target) as c:
        done = len(c)
        assert 40 <= done < 906 and len(c.search("sun", 2000)) == done
    code, out, _ = run(*command)
    assert code == 0 and "906 documents" in out
    new = int(re.search(r"\((\d+) new", out)[1])
    assert new == 906 - done  # what was finished is not done again
    run("index", notes, "-o", "whole.minibi", "--model", tiny)
    targets = target, "whole.minibi"
    found = [json.loads(run("search", c, "sun and rain", "--json", "-k", 2000)[1])["hits"] for c in targets]
    key = lambda h: (h["source"], h["key"], h["start"], h["text"])  # noqa: E731
    assert sorted(map(key, found[0])) == sorted(map(key, found[1])) and len(found[0]) == 906
    assert [h["score"] for h in found[0]] == pytest.approx([h["score"] for h in found[1]], abs=1e-5)


def passages(folder: Path) -> int:
    try:
        db = sqlite3.connect(f"file:{folder / 'collection.db'}?mode=ro", uri=True)
        try:
            return db.execute("SELECT count(*) FROM passages").fetchone()[0]
        finally:
            db.close()
    except sqlite3.Error:
        return 0


def test_interrupted_in_the_first_moment(run, notes, tiny, monkeypatch):
    def sync(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Real, "sync", sync)
    code, out, err = run("index", notes, "-o", "n.minibi", "--model", tiny)
    assert code == 130 and out == "" and "interrupted" in err
    monkeypatch.undo()
    os.chdir(notes.parent)
    assert run("index", notes, "-o", "n.minibi", "--model", tiny)[0] == 0


# --- eval ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def beir(tmp_path) -> Path:
    folder = tmp_path / "small"
    (folder / "qrels").mkdir(parents=True)
    docs = ["the sun and the rain", "bread on stone", "night wind", "the river road", "salt and glass"]
    rows = [{"_id": f"d{i}", "title": "", "text": text} for i, text in enumerate(docs)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    queries = [{"_id": f"q{i}", "text": text} for i, text in enumerate(docs[:3])]
    (folder / "queries.jsonl").write_text("".join(json.dumps(r) + "\n" for r in queries))
    lines = ["query-id\tcorpus-id\tscore", *(f"q{i}\td{i}\t1" for i in range(3))]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


def test_eval(run, beir, tiny):
    code, out, err = run("eval", beir, "--model", tiny, "--json")
    assert code == 0 and err == ""
    report = json.loads(out)
    assert {"ndcg@10", "mrr@10", "recall@100"} <= set(report["metrics"])
    assert report["metrics"]["ndcg@10"] == report["metrics"]["mrr@10"] == 1  # each query is its document
    assert (report["dataset"], report["split"], report["documents"], report["queries"]) == ("small", "test", 5, 3)
    assert report["pipeline"] == "dense" and report["model"] == "tiny-bert" and report["seconds"]["index"] > 0
    assert {"dense encode", "dense search", "total"} == set(report["latency_ms"]) and report["queries_per_second"] > 0
    code, out, err = run("eval", beir, "--model", tiny)
    assert code == 0 and out.startswith("small (test): 5 documents, 3 queries\n") and "ndcg@10" in out and err == ""


def test_eval_measures_as_many_hits_as_were_asked_for(run, beir, tiny):
    for k, names in ((3, ["ndcg@3", "mrr@3", "recall@3"]), (20, ["ndcg@10", "mrr@10", "recall@20"])):
        code, out, err = run("eval", beir, "--model", tiny, "-k", k, "--json")
        assert code == 0 and list(json.loads(out)["metrics"]) == names and err == ""
    code, out, err = run("eval", beir, "--model", tiny, "-k", 3, "--metric", "map", "--metric", "recall@4")
    assert code == 0 and "recall@4" in out and err == "recall@4 sees only the 3 hits that -k asks for\n"


@pytest.mark.parametrize("window", [(), ("--window", 16, "--aggregate", "mean3")])
@pytest.mark.parametrize("pipeline", ["bm25", "hybrid", "colbert", "rerank"])
def test_eval_of_every_pipeline(run, beir, tiny, pipeline, window):
    options = ("--pipeline", pipeline, "--metric", "ndcg@10", "--depth", 3, "-k", 5, *window)
    code, out, _ = run("eval", beir, "--model", tiny, *options, "--run-out", "run.txt", "--json")
    report = json.loads(out)
    assert code == 0 and set(report["metrics"]) == {"ndcg@10"} and report["metrics"]["ndcg@10"] == 1
    assert ("rerank" in report["latency_ms"]) == (pipeline == "rerank") and ("window" in report) == bool(window)
    rows = [line.split() for line in Path("run.txt").read_text().splitlines()]
    assert {row[0] for row in rows} == {"q0", "q1", "q2"} and all(row[5] == f"minibi-{pipeline}" for row in rows)
    code, out, _ = run("eval", beir, "--model", tiny, *options, "--against", "run.txt")
    assert code == 0 and "+0.0000" in out


@pytest.mark.parametrize("change", ["no folder", "no corpus", "no queries", "no split", "bad row", "bad qrels"])
def test_eval_refuses_in_one_line(run, beir, tiny, change):
    if change == "bad row":
        (beir / "corpus.jsonl").write_text("{oops\n")
    elif change == "bad qrels":
        (beir / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td0\tmany\n")
    elif change in ("no corpus", "no queries"):
        (beir / f"{change[3:]}.jsonl").unlink()
    split = ["--split", "dev"] if change == "no split" else []
    code, out, err = run("eval", "nowhere" if change == "no folder" else beir, "--model", tiny, "--json", *split)
    assert code == 1 and out == "" and one_line(err)


def test_eval_complains_of_a_metric_before_the_work_and_of_a_run_after_the_figures(run, beir, tiny):
    code, out, err = run("eval", beir, "--model", "no such model", "--metric", "ndgc@10")
    assert code == 1 and out == "" and "unknown metric 'ndgc@10'" in one_line(err)
    (beir / "file").write_text("")
    code, out, err = run("eval", beir, "--model", tiny, "--run-out", beir / "file" / "run.txt", "--json")
    assert code == 1 and json.loads(out)["metrics"] and "cannot use" in one_line(err) and "Errno" not in err
