"""`minibi demo`: opens at once when it was made before, makes itself anew when it must, and answers by meaning."""

from __future__ import annotations

import os
import select
import sys
import time
from pathlib import Path

import pytest

import minibi
from minibi import BiEncoder, Collection
from minibi.app import demo
from minibi.app.stdlib_docs import Doc

DOCS = {
    "subprocess.run": "Run command with arguments and return a CompletedProcess instance.\n\nBy default, stdout and "
    "stderr are not captured. Pass stdout=PIPE and/or stderr=PIPE in order to capture them.",
    "random.choice": "Choose a random element from a non-empty sequence.",
    "datetime.datetime.strptime": "string, format -> new datetime parsed from a string (like time.strptime()).",
    "math.sqrt": "Return the square root of x.",
    "shutil.rmtree": "Recursively delete a directory tree.",
    "json.dumps": "Serialize ``obj`` to a JSON formatted ``str``.",
}


@pytest.fixture
def docs(monkeypatch) -> dict[str, str]:
    """What the standard library's documentation is for now; may be changed."""
    docs = dict(DOCS)

    def stdlib_docs(progress=None):
        return [Doc(name, "()", text, "x.py:1") for name, text in docs.items()]

    monkeypatch.setattr(demo, "stdlib_docs", stdlib_docs)
    return docs


@pytest.fixture
def encoded(monkeypatch) -> list[str]:
    seen: list[str] = []
    real = BiEncoder.encode_document
    monkeypatch.setattr(BiEncoder, "encode_document", lambda self, t, **o: seen.extend(t) or real(self, t, **o))
    return seen


def test_a_question(run, docs, cache):
    code, out, err = run("demo", "start", "another", "program and capture its output", "-k", 2)
    assert (
        code == 0 and "First start" in err and f"kept in {cache}" in err and "6 passages of 6 documented names" in err
    )
    lines = [line for line in out.splitlines() if line.strip()]
    assert lines[0].startswith("start another program and capture its output  (") and lines[0].endswith(" ms)")
    assert (
        lines[1].startswith("  1  0.")
        and lines[1].endswith("  subprocess.run")
        and lines[2].startswith("       Run command")
    )
    assert "  2  " in out and "  3  " not in out and "x.py" not in out


def test_each_question_finds_its_answer(run, docs):
    for question, answer in {
        "pick a random element from a list": "random.choice",
        "parse a date string": "datetime.datetime.strptime",
        "remove a folder and everything in it": "shutil.rmtree",
    }.items():
        _, out, _ = run("demo", question, "-k", 1)
        assert out.splitlines()[2].endswith(f"  {answer}")


def test_the_second_start_encodes_nothing(run, docs, encoded):
    run("demo", "sqrt")
    assert len(encoded) == len(docs)
    encoded.clear()
    code, out, err = run("demo", "sqrt")
    assert code == 0 and encoded == [] and "First start" not in err and "math.sqrt" in out


def test_without_a_question_it_answers_a_few(run, docs):
    code, out, _ = run("demo")
    assert code == 0 and all(question in out for question in demo.QUESTIONS)
    assert "Now you" not in out  # nobody is there to type


def test_an_interrupted_start_is_continued(run, docs, encoded, monkeypatch):
    from minibi.search import collection

    monkeypatch.setattr(collection, "BATCH_CHARACTERS", 1)
    real, seen = BiEncoder.encode_document, []

    def encode_document(self, texts, **options):
        seen.extend(texts)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return real(self, texts, **options)

    with monkeypatch.context() as patch:
        patch.setattr(BiEncoder, "encode_document", encode_document)
        code, _, err = run("demo", "sqrt")
        assert code == 130 and "interrupted" in err
    encoded.clear()
    code, out, _ = run("demo", "sqrt")
    assert code == 0 and "math.sqrt" in out and len(encoded) == len(docs) - 3
    with Collection.open(demo.folder()) as c:
        assert c.documents == len(docs) and c.sources()[demo.SOURCE]


@pytest.mark.parametrize("harm", ["rubbish", "another model"])
def test_what_cannot_be_opened_is_made_anew(run, docs, harm, golden, encoded):
    if harm == "rubbish":
        run("demo", "sqrt")
        (demo.folder() / "collection.db").write_bytes(b"rubbish " * 1000)
    else:
        Collection.create(demo.folder(), BiEncoder(golden / "tiny-bert")).close()
    encoded.clear()
    code, out, _ = run("demo", "sqrt")
    assert code == 0 and "math.sqrt" in out and len(encoded) == len(docs)


def test_a_file_where_the_cache_should_be(run, docs, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("MINIBI_CACHE", str(tmp_path / "file"))
    code, out, err = run("demo", "sqrt")
    assert code == 1 and out == "" and "Traceback" not in err and str(tmp_path / "file") in err
    assert (tmp_path / "file").read_text() == "mine"


def test_another_version_of_the_documents(run, docs, encoded, monkeypatch):
    run("demo", "sqrt")
    del docs["json.dumps"]
    docs["math.sqrt"] = "Return the square root of x, rounded."
    monkeypatch.setattr(demo, "__version__", "9.9")
    encoded.clear()
    code, out, err = run("demo", "sqrt")
    assert code == 0 and len(encoded) == 1 and "5 passages" in err and "rounded" in out


def test_documents_are_real():
    """Not the patched ones: names are unique, texts are there."""
    found = list(demo.documents())
    assert len(found) > 2000 and len({d.key for d in found}) == len(found)
    assert all(d.title == d.key and d.text.strip() for d in found)
    assert {"subprocess.run", "random.Random.choice", "str.split", "time.sleep"} <= {d.key for d in found}


TYPED = """
import os, sys
sys.path[:0] = [sys.argv.pop(1)]
from minibi.app import demo
from test_demo import DOCS, Doc
demo.stdlib_docs = lambda: [Doc(n, "", t, "") for n, t in DOCS.items()]
from minibi.app.cli import main
main(["demo", "-k", "1"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("end", [b"\n", b"\x04", b"\x03"], ids=["empty line", "ctrl-d", "ctrl-c"])
def test_questions_typed_at_a_terminal(cache, end):
    import pty

    root = str(Path(minibi.__file__).resolve().parents[1])
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update(MINIBI_KERNELS="plain", PYTHONPATH=root, TERM="xterm", OPENBLAS_NUM_THREADS="1")
        os.execv(sys.executable, [sys.executable, "-c", TYPED, os.path.dirname(__file__)])
    wait_for(terminal, b"Now you", b"? ")
    os.write(terminal, b"square root\n")
    wait_for(terminal, b"math.sqrt", b"Return the square root", b"\r\n? ")
    os.write(terminal, end)
    rest = wait_for(terminal, again=end)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0 and b"Traceback" not in rest and b"Aborted" not in rest


def wait_for(terminal: int, *wanted: bytes, again: bytes = b"") -> bytes:
    """Reads until all that is wanted was printed, one after the other; without any, until the end.

    again: typed once more each second, for a key that was pressed before anybody looked at the keyboard.
    """
    seen, at, deadline = b"", 0, time.monotonic() + 40
    for what in wanted or (None,):
        while what is None or seen.find(what, at) < 0:
            assert time.monotonic() < deadline, seen
            if not select.select([terminal], [], [], 1)[0]:
                os.write(terminal, again)
                continue
            try:
                piece = os.read(terminal, 4096)
            except OSError:  # the other side is gone
                piece = b""
            if not piece:
                assert what is None, seen
                return seen
            seen += piece
        at = seen.find(what, at) + len(what)
    return seen


def test_the_whole_of_it(spawn, deep):
    """The real documentation, from a cold start."""
    if not deep:
        pytest.skip("takes a minute: set MINIBI_DEEP=1")
    script = "from minibi.app.cli import main; main()"
    question = "start another program and capture its output"
    out, _ = spawn(script, "demo", question, MINIBI_KERNELS="compiled").communicate()
    assert out.decode().splitlines()[2].endswith("  subprocess.run"), out
    started = time.perf_counter()
    again, _ = spawn(script, "demo", question, MINIBI_KERNELS="compiled").communicate()
    assert again.decode().splitlines()[2:] == out.decode().splitlines()[2:] and time.perf_counter() - started < 10
