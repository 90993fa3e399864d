"""The standard library's documentation: all of it, under public names, at its place, and without side effects."""

from __future__ import annotations

import datetime
import importlib
import inspect
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import time
from pathlib import Path

import pytest

from minibi.app import stdlib_docs as module
from minibi.app.stdlib_docs import Doc, stdlib_docs


@pytest.fixture(scope="module")
def docs() -> dict[str, Doc]:
    seen: list[tuple[int, int]] = []
    found = stdlib_docs(lambda done, total: seen.append((done, total)))
    names = [d.name for d in found]
    assert names == sorted(set(names)), "sorted, and no name twice"
    assert seen[0][0] == 0 and seen[-1][0] == seen[-1][1] >= 300
    assert all(a[0] < b[0] for a, b in itertools.pairwise(seen))
    return dict(zip(names, found, strict=True))


def test_there_are_thousands(docs):
    assert 4500 < len(docs) < 8000  # distributions may split off tkinter and others
    for doc in docs.values():
        assert doc.text == doc.text.strip() != ""
        assert not doc.signature or doc.signature.startswith("(")
        assert "\n--\n\n" not in doc.text
    texts = [(d.text, d.name.rpartition(".")[2]) for d in docs.values()]
    assert len(set(texts)) == len(texts)


def test_the_rough_questions_have_their_answers(docs):
    assert "Run command with arguments and return a CompletedProcess instance." in docs["subprocess.run"].text
    assert docs["random.Random.choice"].text == "Choose a random element from a non-empty sequence."
    assert "Parse a string to a time tuple" in docs["time.strptime"].text
    assert "new datetime parsed from a string" in docs["datetime.datetime.strptime"].text


@pytest.mark.parametrize(
    "function", [subprocess.run, json.dumps, shutil.copytree, textwrap.dedent, random.Random.choice]
)
def test_text_and_place_are_those_that_python_gives(docs, function):
    doc = docs[f"{function.__module__.replace('json.encoder', 'json')}.{function.__qualname__}"]
    assert doc.text == inspect.getdoc(function)
    file, line = doc.place.split(":")
    assert (Path(sysconfig.get_path("stdlib")) / file).samefile(inspect.getsourcefile(function))
    assert int(line) == inspect.getsourcelines(function)[1]


@pytest.mark.parametrize(
    ("name", "signature", "text", "place"),
    [
        ("str.split", "(sep=None, maxsplit=-1)", str.split.__doc__, "built-in module builtins"),
        ("time.sleep", None, time.sleep.__doc__.partition("\n\n")[2], "built-in module time"),
        ("dict.items", None, dict.items.__doc__, "built-in module builtins"),
        ("itertools.chain.from_iterable", None, "Alternative chain() constructor", "built-in module itertools"),
        ("re.Pattern.search", "(string, pos=0, endpos=sys.maxsize)", "Scan through string", "built-in module re"),
        ("os.listdir", "(path=None)", "Return a list containing the names", "built-in module os"),
        ("collections.deque.appendleft", None, "Add an element to the left", "built-in module collections"),
        ("os.path.join", "(a, *p)", "Join two or more pathname components", "posixpath.py:"),
        ("asyncio.gather", "(*coros_or_futures, return_exceptions=False)", "Return a future", "asyncio/tasks.py:"),
        ("collections.abc.Mapping", "", "generic container for associating key", "_collections_abc.py:"),
        ("concurrent.futures.ThreadPoolExecutor.submit", None, None, None),
        (
            "concurrent.futures.Executor.submit",
            "(fn, /, *args, **kwargs)",
            "Submits a callable",
            "concurrent/futures/_base",
        ),
        ("json.JSONDecoder.decode", None, "Return the Python representation", "json/decoder.py:"),
        ("pathlib.Path.mkdir", None, "Create a new directory at this given path.", "pathlib"),
        ("unittest.TestCase.assertEqual", "(first, second, msg=None)", "Fail if the two objects", "unittest/case.py:"),
        ("threading.Lock.acquire", None, "acquire", "built-in module threading"),
        ("math", "", "mathematical functions", "built-in module math"),
        ("subprocess", "", "Subprocesses with accessible I/O streams", "subprocess.py:1"),
        ("OSError", None, "Base class for I/O related errors.", "built-in module builtins"),
        ("zipfile.ZipFile", None, "Class with methods to open, read, write", "zipfile"),
    ],
)
def test_names_are_the_public_ones(docs, name, signature, text, place):
    if text is None:
        assert name not in docs  # an inherited method is not a second passage
        return
    doc = docs[name]
    assert " ".join(text.split())[:40].lower() in " ".join(doc.text.split()).lower()
    assert doc.place.startswith(place)
    assert signature in (None, doc.signature)


def test_private_and_foreign_names_are_left_out(docs):
    tops = {name.split(".")[0] for name in docs}
    assert not tops & {"antigravity", "this", "idlelib", "lib2to3", "turtledemo", "distutils", "test", "pip", "numpy"}
    for name in docs:
        parts = name.split(".")
        assert name == "__future__" or not any(p.startswith("_") for p in parts), name
        assert not {"test", "tests"} & set(parts[:-1]), name
    assert "os.error" not in docs and "IOError" not in docs  # other names of OSError
    assert "asyncio.tasks.gather" not in docs and "decimal.Decimal" in docs


def test_names_lead_to_what_they_document(docs):
    """Every name under these modules can be reached as written, and carries the text (in C or in Python)."""
    tops = (
        "argparse array base64 bisect calendar collections copy csv datetime fnmatch functools gzip hashlib heapq html"
    )
    tops += " io itertools json logging math operator pathlib pickle random re shutil string struct subprocess tempfile"
    tops += " textwrap time unicodedata urllib uuid weakref zipfile zlib"
    checked = alike = 0
    for name, doc in docs.items():
        if name.split(".")[0] not in tops.split():
            continue
        parts, found = name.split("."), None
        for k in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:k]))
            except ImportError:
                continue
            for part in parts[k:]:
                own = inspect.isclass(found) and part in vars(found)
                found = inspect.getattr_static(found, part) if own else getattr(found, part)
            break
        assert found is not None, name
        checked += 1
        alike += doc.text in inspect.cleandoc(getattr(found, "__doc__", None) or "")
    assert checked > 900 and alike / checked > 0.85  # the rest is documented better in Python than in C


def test_collecting_has_no_side_effects():
    """Audited in a fresh process: nothing is printed, written, connected to or started; no source module of the
    standard library is imported that could do so by itself."""
    code = textwrap.dedent(
        """
        import sys
        from minibi.app.stdlib_docs import stdlib_docs
        events = []
        def hook(event, args):
            if event.split(".")[0] in ("socket", "subprocess", "os", "webbrowser", "ctypes", "sqlite3", "shutil"):
                if event not in ("os.listdir", "os.scandir"):
                    events.append(event)
            if event == "open" and (set(str(args[1])) & set("wax+") if args[1] else args[2] & 3):
                events.append(f"open {args[0]} to write")
        sys.addaudithook(hook)
        before = set(sys.modules)
        docs = stdlib_docs()
        bad = {"this", "antigravity", "tkinter", "_tkinter", "turtle", "idlelib", "readline", "webbrowser", "curses",
               "ssl", "socket", "subprocess", "asyncio", "ctypes", "multiprocessing", "unittest", "test"}
        assert len(docs) > 1000
        assert not events, events
        assert not (bad & set(sys.modules)) - before, (bad & set(sys.modules)) - before
        """
    )
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_without_sources_the_built_in_part_remains(monkeypatch, tmp_path):
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / "python.zip"))
    docs = {d.name: d for d in stdlib_docs()}
    assert 900 < len(docs) < 3000
    assert all(d.place.startswith("built-in module ") for d in docs.values())
    assert {"str.split", "time.sleep", "math.sqrt", "os.listdir", "datetime.datetime.strptime"} <= set(docs)
    assert docs["datetime.datetime.strptime"].text == inspect.cleandoc(datetime.datetime.strptime.__doc__)


def test_a_library_of_ones_own(monkeypatch, tmp_path):
    """The rules on a small scale: __all__, re-exports, private helpers, decorators, broken files."""
    files = {
        "alpha/__init__.py": """
            'Alpha.'
            from ._impl import *
            from .beta import shown
            __all__ = ['shown', 'lazy']
            __all__ += ['made']
            __all__.extend(('more',))
            __all__.append('last')
            """,
        "alpha/_impl.py": """
            __all__ = ['made', 'more']
            def made(a, *, b: int = 2) -> str: 'Made.'
            def more(): 'More.'
            def hidden(): 'Hidden.'
            """,
        "alpha/beta.py": """
            def shown(): 'Shown.'
            def own(): 'Own.'
            def _private(): 'Private.'
            """,
        "alpha/gamma.py": """
            def lazy(): 'Lazy.'
            if True:
                async def inner(x): 'Inner.'
            else:
                def other(): 'Other.'
            """,
        "alpha/_alone.py": "def alone(): 'Alone.'",
        "alpha/broken.py": "def (:",
        "alpha/test/test_x.py": "def tested(): 'Tested.'",
        "alpha/kinds.py": """
            class K:
                'K.'
                def __init__(self, n): 'Init.'
                def m(self, /, x): 'M.'
                @staticmethod
                def s(x): 'S.'
                @property
                def p(self): 'P.'
                def __len__(self): 'Len.'
                class In:
                    def __init__(self, y): 'From init.'
            def k():
                def nested(): 'Nested.'
                return 1
            """,
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(content).lstrip())
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(sys, "stdlib_module_names", frozenset({"alpha", "missing"}))
    monkeypatch.setattr(module, "_c_docs", lambda modules: iter(()))
    assert [(d.name, d.signature, d.text, d.place) for d in stdlib_docs()] == [
        ("alpha", "", "Alpha.", "alpha/__init__.py:1"),
        ("alpha.beta.own", "()", "Own.", "alpha/beta.py:2"),
        ("alpha.gamma.inner", "(x)", "Inner.", "alpha/gamma.py:3"),
        ("alpha.gamma.other", "()", "Other.", "alpha/gamma.py:5"),
        ("alpha.kinds.K", "(n)", "K.", "alpha/kinds.py:1"),
        ("alpha.kinds.K.In", "(y)", "From init.", "alpha/kinds.py:10"),
        ("alpha.kinds.K.m", "(x)", "M.", "alpha/kinds.py:4"),
        ("alpha.kinds.K.p", "", "P.", "alpha/kinds.py:8"),
        ("alpha.kinds.K.s", "(x)", "S.", "alpha/kinds.py:6"),
        ("alpha.lazy", "()", "Lazy.", "alpha/gamma.py:1"),
        ("alpha.made", "(a, *, b: int=2) -> str", "Made.", "alpha/_impl.py:2"),
        ("alpha.more", "()", "More.", "alpha/_impl.py:3"),
        ("alpha.shown", "()", "Shown.", "alpha/beta.py:1"),
    ]
