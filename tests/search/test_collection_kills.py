"""A writer killed at any moment leaves a collection that opens, answers with whole documents, and continues."""

from __future__ import annotations

import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
import warnings

import pytest

from minibi import Collection
from minibi.text.files import Document

CHILD = """
import itertools, sys
from minibi import BiEncoder, Collection
from minibi.search import collection as module
from minibi.text.files import Document
module.BATCH_CHARACTERS = 60
model = BiEncoder(sys.argv[2])
print("ready", flush=True)
with Collection.open_or_create(sys.argv[1], model) as c:
    for i in itertools.count(int(sys.argv[3])):
        c.sync("s", [Document(str(j), f"round {i}", f"sun {i} rain {j}") for j in range(i % 5, 12)], str(i))
        c.compact(always=i % 2 == 0)
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_killed_at_any_moment(tmp_path, model, golden, child_env, deep):
    folder = tmp_path / "c"
    dice = random.Random(11)
    for n in range(200 if deep else 8):
        arguments = [sys.executable, "-c", CHILD, str(folder), str(golden / "tiny-bert"), str(n * 1000)]
        child = subprocess.Popen(arguments, env=child_env, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert child.stdout.readline() == b"ready\n", child.stderr.read()
        time.sleep(dice.choice([0.005, 0.02, 0.1, 0.4]) * dice.random() if n else 0.002)
        child.send_signal(signal.SIGKILL)
        assert child.communicate()[1] == b""
        with Collection.open_or_create(folder, model) as c:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a kill is no damage
                hits = c.search("sun and rain", 100)
            assert len({h.key for h in hits}) == len(hits) == len(c) == c.documents  # each document once, whole
            for h in hits:
                (i,) = re.findall(r"round (\w+)", h.title)
                assert h.text == f"sun {i} rain {h.key}"
            if n % 3 == 2:  # and whoever repeats the work gets what an undisturbed run gets
                documents = [Document(str(j), "round end", f"sun end rain {j}") for j in range(9)]
                c.sync("s", documents)
                c.compact()
                assert sorted(h.text for h in c.search("bread", 100)) == sorted(d.text for d in documents)
    database = sqlite3.connect(folder / "collection.db")
    assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert database.execute("PRAGMA foreign_key_check").fetchall() == []
    database.close()
