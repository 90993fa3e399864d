"""Any sequence of sync, interruption, drop, compact, damage and reopening, seen through two connections.

The oracle knows nothing of snapshots, tails or commits: it keeps the documents in a dict and compares with all of them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from minibi import BiEncoder, Collection
from minibi.environment import plain_kernels
from minibi.search import collection as module
from minibi.search.passages import passages_of
from minibi.shapes import unit_rows
from minibi.text.files import Document

DEEP = os.environ.get("MINIBI_DEEP") == "1"
MODEL = BiEncoder(Path(__file__).parents[1] / "golden" / "tiny-bert")
SOURCES = st.sampled_from(["a", "b"])
VERSIONS = st.dictionaries(st.integers(0, 7), st.integers(0, 3), max_size=8)  # document -> its version
QUERIES = ["sun", "rain and bread", "the night wind", "title"]


def document(number: int, version: int) -> Document:
    """Several have the same text; one is long, one is empty, some have no title."""
    text = ["sun and rain", "bread on stone. " * 40, "", "night wind", "the river road", "salt"][number % 6]
    return Document(str(number), f"title {version}" if version != 3 else "", text and f"{text} {version % 2}", number)


def oracle(sources: dict[str, dict[int, int]]) -> dict[str, list]:
    """query -> (score, source, key, title, start, end) of every passage there should be, best first."""
    places, texts = [], []
    for source, versions in sources.items():
        documents = [document(n, v) for n, v in versions.items()]
        for d, passages in zip(documents, passages_of(documents, MODEL.tokenizer, MODEL.max_seq_length), strict=True):
            places += [(source, d.key, d.title, d.start + p.start, d.start + p.end) for p in passages]
            texts += [p.text for p in passages]
    vectors = unit_rows(MODEL.encode(texts)) if texts else np.zeros((0, MODEL.dim))
    found = {}
    for query, vector in zip(QUERIES, unit_rows(MODEL.encode(QUERIES)), strict=True):
        scores = (vectors.astype(float) @ vector.astype(float)).tolist()
        found[query] = sorted(((s, *p) for s, p in zip(scores, places, strict=True)), key=lambda x: -x[0])
    return found


@contextlib.contextmanager
def quiet():
    """Without the warnings of damage, which are tested elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Machine(RuleBasedStateMachine):
    @initialize()
    def begin(self):
        self.folder = Path(tempfile.mkdtemp()) / "c"
        self.truth: dict[str, dict[int, int]] = {}
        self.writer = Collection.create(self.folder, MODEL)
        self.reader = Collection.open(self.folder, MODEL)
        self.expected = oracle({})
        self.patience = module.BATCH_CHARACTERS
        module.BATCH_CHARACTERS = 1  # every document is a commit of its own

    def teardown(self):
        module.BATCH_CHARACTERS = self.patience
        self.writer.close()
        self.reader.close()
        shutil.rmtree(self.folder.parent)

    def changed(self):
        self.expected = oracle(self.truth)

    @rule(source=SOURCES, versions=VERSIONS)
    def sync(self, source, versions):
        before = self.truth.get(source, {})
        changes = self.writer.sync(source, [document(n, v) for n, v in versions.items()], "done")
        assert changes.new == len(versions.keys() - before.keys())
        assert changes.removed == len(before.keys() - versions.keys())
        assert changes.unchanged == sum(before.get(n) == v for n, v in versions.items())
        assert changes.changed == len(versions) - changes.new - changes.unchanged
        self.truth[source] = dict(versions)
        self.changed()

    @rule(source=SOURCES, versions=VERSIONS, after=st.integers(0, 8))
    def interrupted_sync(self, source, versions, after):
        def documents():
            for i, (n, v) in enumerate(versions.items()):
                if i == after:
                    raise KeyboardInterrupt
                yield document(n, v)
            raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            self.writer.sync(source, documents(), "done")
        started = dict(list(versions.items())[:after])
        pending = waiting(self.truth.get(source, {}), started)  # an empty text fills no batch
        self.truth[source] = self.truth.get(source, {}) | {n: v for n, v in started.items() if n not in pending}
        self.changed()
        assert self.writer.sources()[source] is None

    @rule(source=SOURCES)
    def drop(self, source):
        assert self.writer.drop(source) == len(self.truth.pop(source, {}))
        self.changed()

    @rule(always=st.booleans())
    def compact(self, always):
        with quiet():
            self.writer.compact(always)

    @rule()
    def reader_compacts(self):
        with quiet():
            self.reader.compact(always=True)

    @rule(warm=st.booleans())
    def reopen(self, warm):
        self.writer.close()
        self.writer = Collection.open(self.folder, MODEL)
        if warm:
            self.check(self.writer, "sun", 3)

    @rule(damage=st.sampled_from(["missing", "cut", "flipped"]))
    def damage(self, damage):
        path = self.folder / "vectors.safetensors"
        if path.is_file():
            content = bytearray(path.read_bytes())
            path.unlink()
            if damage == "cut":
                path.write_bytes(content[: len(content) // 2])
            elif damage == "flipped":
                content[len(content) // 2] ^= 1
                path.write_bytes(content)
        self.reopen(warm=False)

    @rule(query=st.sampled_from(QUERIES), k=st.integers(1, 60))
    def search(self, query, k):
        for c in (self.writer, self.reader):
            self.check(c, query, k)

    def check(self, c, query, k):
        with quiet():
            hits = c.search(query, k)
        expected = self.expected[query]
        assert len(hits) == min(k, len(expected))
        np.testing.assert_allclose([h.score for h in hits], [e[0] for e in expected[:k]], atol=1e-5)
        places = [(h.source, h.key, h.title, h.start, h.end) for h in hits]
        assert len({h.id for h in hits}) == len(set(places)) == len(hits)
        assert set(places) <= {e[1:] for e in expected}
        if k >= len(expected):
            assert set(places) == {e[1:] for e in expected}
        exact = {e[1:]: e[0] for e in expected}
        np.testing.assert_allclose([h.score for h in hits], [exact[p] for p in places], atol=1e-5)
        assert all(
            h.text == document(int(h.key), self.version(h)).text[h.start - int(h.key) : h.end - int(h.key)]
            for h in hits
        )

    def version(self, hit) -> int:
        return self.truth[hit.source][int(hit.key)]

    @invariant()
    def counts(self):
        assert self.writer.documents == self.reader.documents == sum(map(len, self.truth.values()))
        assert len(self.writer) == len(self.expected["sun"])


def waiting(before: dict[int, int], started: dict[int, int]) -> set[int]:
    """Documents taken but not yet published when the interruption came: empty ones after the last one with text."""
    pending: set[int] = set()
    for n, v in started.items():
        if before.get(n) == v:
            continue
        pending.add(n)
        if document(n, v).text:
            pending.clear()
    return pending


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=300 if DEEP else 8 if plain_kernels() else 30, stateful_step_count=40 if DEEP else 15, deadline=None
)
