"""BM25: documents ranked by the words they share with a query, rare words first (Robertson & Zaragoza 2009).

    bm25 = BM25()
    bm25.add(["The cat sat on the mat.", "Stocks fell sharply."])
    scores, ids = bm25.search("cats", k=1)

The index is always up to date: a document is added, replaced or removed in O(its length), and scores are what an index
built anew from the documents of that moment would give, bit for bit. Any number of threads may search while one
changes: a search works on the index as it was when it began, and waits for a change under way; additions of many
documents become visible in portions (`PORTION` tokens), each at once. One change follows the other.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import int64_ids, new_ids, next_ids, whole
from ..environment import plain_kernels, thread_count
from ..errors import InputError
from ..shapes import Floats, Ints
from ..store.snapshot import write_snapshot
from ..threads import parallel_map
from . import plain
from .explanation import Explanation, TermScore
from .postings import Postings
from .shared_lock import SharedLock
from .snapshot import arrays_of, load_bm25
from .terms import Batch, Ids, Reader, as_documents, as_source
from .variants import Variant

PORTION = 1 << 22  # tokens that are added while searches wait
FEW_QUERIES, QUERIES_PER_JOB = 64, 512  # so few are not shared out among threads; at most


class BM25:
    """Lexical search.

    variant: "lucene", "robertson", "atire", "bm25l" or "bm25+"; formulas and sources in `minibi.lexical.variants`.
    k1: how slowly repetition saturates (1.5 as in bm25s and rank_bm25; Lucene uses 1.2, Anserini 0.9). b: how much
    length counts, 0 to 1. delta: the floor of BM25L (default 0.5) and BM25+ (1.0). floor_for: who gets that floor for a
    query term, "all" documents as in bm25s, or those that "held" it as its authors define. tokenizer: "words", a
    `Words` with other settings, a model's `Tokenizer`, or any function from a text to its list of terms. Raises
    InputError.
    """

    kind: ClassVar[str] = "bm25-index"

    def __init__(
        self,
        variant: str = "lucene",
        k1: float = 1.5,
        b: float = 0.75,
        delta: float | None = None,
        tokenizer: Any = "words",
        floor_for: str = "all",
    ):
        self.variant = Variant(variant, k1, b, delta, floor_for)
        self.notes: dict[str, Any] = {}  # free JSON that travels with the file
        self._reader = Reader(as_source(tokenizer))
        self._postings = Postings(self.variant)
        self._row_of: dict[int, int] = {}
        self._rooms: dict[ModuleType, list[Any]] = defaultdict(list)  # for searches to work in, by engine
        self._next = 0  # the first id that was never in use, by default
        self._changes = threading.Lock()  # one change after the other
        self._weighing = threading.Lock()  # one search at a time brings lists up to date, to the same numbers as any
        self._view = SharedLock()  # held shared to search, exclusively to publish a change

    def __repr__(self) -> str:
        v = self.variant
        delta = f", delta={v.delta:g}" if v.delta else ""
        return f"BM25(variant={v.name!r}, k1={v.k1:g}, b={v.b:g}{delta}, {len(self)} documents)"

    def __len__(self) -> int:
        return len(self._row_of)

    def __contains__(self, id: object) -> bool:
        return id in self._row_of

    @property
    def tokenizer(self) -> Any:
        """Where terms come from: a `Words`, or what was passed, wrapped."""
        return self._reader.source

    @property
    def ids(self) -> Ints:
        """The stored ids in the order they were added, [N]."""
        with self._view.shared():
            p = self._postings
            return p.docs.ids[: p.rows][p.docs.live[: p.rows] > 0]

    def add(self, texts: Any, ids: ArrayLike | Sequence[int] | None = None) -> Ints:
        """Stores texts under `ids` (int64 but -1, each once; by default they count on); returns the ids [n].

        A text is a string, or the list of its terms if you tokenize yourself. Raises InputError, and nothing changes.
        """
        with self._changes:
            texts = as_documents(texts)
            new = next_ids(self._next, len(texts)) if ids is None else new_ids(ids, len(texts), "text")
            for id in new.tolist():
                if id in self._row_of:
                    raise InputError(f"id {id} is already in the index: use upsert to replace it")
            flat, offsets = self._reader.documents(texts)
            first = 0
            while first < len(new):
                last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + PORTION, "right")) - 1)
                with self._view.exclusive():
                    self._publish([], new[first:last], flat, offsets[first : last + 1])
                first = last
            self._tidy()
        return new

    def upsert(self, texts: Any, ids: ArrayLike | Sequence[int]) -> Ints:
        """As `add`, but an id that is stored already gets the new text. Searches see all of it at once."""
        with self._changes:
            texts = as_documents(texts)
            new = new_ids(ids, len(texts), "text")
            flat, offsets = self._reader.documents(texts)
            with self._view.exclusive():
                self._publish([id for id in new.tolist() if id in self._row_of], new, flat, offsets)
            self._tidy()
        return new

    def remove(self, ids: ArrayLike | Sequence[int] | int) -> None:
        """Takes documents out. Raises InputError if one of them is not stored, and nothing changes."""
        with self._changes:
            gone = int64_ids(ids)
            gone = new_ids(gone, len(gone), "text").tolist()
            for id in gone:
                if id not in self._row_of:
                    raise InputError(f"id {id} is not in the index")
            with self._view.exclusive():
                self._publish(gone, np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(1, np.int64))
            self._tidy()

    def search(self, queries: Any, k: int = 10, filter: ArrayLike | None = None) -> tuple[Floats, Ints]:
        """The k best of each query: (scores float32 [Q, k], ids int64 [Q, k]), best first, equal scores by smaller id.

        queries: a string, a list of strings, lists of terms, or {term: weight}. filter: ids that may be found, of which
        some may not be stored. Only documents with a term of the query are found; the rest of a row is score -inf and
        id -1. Exact: pruned, but never approximate. Raises InputError.
        """
        k = whole("k", k, 1)
        with self._view.shared():
            p, engine = self._postings, _engine()
            batch = self._reader.queries(queries)
            self._weigh(batch.terms, engine)
            every = filter is None and p.documents == p.rows
            allowed = p.docs.live if filter is None else self._allowed(int64_ids(filter, "filter"))
            count, rooms = len(batch.offsets) - 1, self._rooms[engine]
            scores, ids = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
            depth, model = min(k, p.documents), p.model()

            def job(part: Batch, scores: Floats, ids: Ints) -> None:
                room = rooms.pop() if rooms else engine.new_work()
                engine.search(
                    p.lists, p.docs.ids, p.docs.lengths, p.rows, allowed, every, model, part, room, depth, scores, ids
                )
                rooms.append(room)

            def portion(first: int) -> None:
                at = slice(first, first + size)
                job(batch._replace(offsets=batch.offsets[first : at.stop + 1]), scores[at], ids[at])

            size = count if count <= FEW_QUERIES else min(QUERIES_PER_JOB, -(-count // thread_count()))
            if size == count:
                job(batch, scores, ids)
            else:
                list(parallel_map(portion, range(0, count, size)))
        return scores, ids

    def explain(self, query: Any, id: int) -> Explanation:
        """Where the score of one document for one query comes from. Raises InputError."""
        with self._view.shared():
            p = self._postings
            asked = self._reader.queries(query)
            if len(asked.offsets) != 2:
                raise InputError("explain takes one query: a string, or {term: weight}")
            row = self._row_of.get(id)
            if row is None:
                raise InputError(f"id {id} is not in the index")
            model, length = p.model(), p.docs.lengths[row : row + 1]
            self._weigh(asked.terms, _engine())
            chosen = plain.query_terms(p.lists, *asked[:2])
            names = list(self._reader.vocabulary)
            everywhere = plain.constant(model, [weight for _, weight in chosen])
            total, parts = np.float32(0), []
            for term, weight in chosen:
                tf = p.count(term, row)
                part = np.float32(0)
                if tf:
                    part = plain.contributions(model, weight, plain.parts(model, np.array([tf]), length))[0]
                total += part
                idf = float(p.lists.idfs[term])
                parts.append(TermScore(names[term], weight / idf, idf, int(p.lists.dfs[term]), tf, float(part)))
            score = float(total + everywhere) if total > 0 else 0.0
            return Explanation(id, score, int(length[0]), p.average, p.documents, parts, float(everywhere))

    def stats(self) -> dict[str, Any]:
        """documents, terms, tokens, average_length, postings, dead_postings (of removed ones), bytes (of arrays)."""
        with self._view.shared():
            p = self._postings
            return {
                "documents": p.documents,
                "terms": int((p.lists.dfs > 0).sum()),
                "tokens": p.tokens,
                "average_length": p.average,
                "postings": p.postings,
                "dead_postings": p.dead,
                "bytes": sum(a.nbytes for a in (*p.lists, *p.docs)),
            }

    def check(self) -> list[str]:
        """What is wrong with the index, in words; empty if nothing is."""
        with self._view.shared():
            p = self._postings
            problems = p.check()
            live = np.flatnonzero(p.docs.live[: p.rows])
            if self._row_of != dict(zip(p.docs.ids[live].tolist(), live.tolist(), strict=True)):
                problems.append("ids and rows do not correspond one to one")
            if self._row_of and self._next <= max(self._row_of):
                problems.append("the next id is one that is stored")
            return problems

    def save(self, path: str | Path) -> None:
        """Writes the index to one file, atomically and durably."""
        with self._view.shared():
            arrays, fields = arrays_of(self)
        write_snapshot(path, self.kind, arrays, fields)

    @classmethod
    def load(cls, path: str | Path, tokenizer: Any = None) -> Self:
        """Reads what `save` wrote; every length, id and posting is checked.

        tokenizer: what the index was made with, if that was not words. Raises FormatError, or InputError without it.
        """
        return load_bm25(cls, path, tokenizer)

    def _publish(self, gone: list[int], new: Ids, flat: NDArray[np.int32], offsets: Ids) -> None:
        """One step from one state to the next, for a caller that holds the view exclusively."""
        p = self._postings
        first = p.rows
        p.append(new, flat, offsets, len(self._reader.vocabulary))
        p.remove([self._row_of.pop(id) for id in gone])
        self._row_of.update(zip(new.tolist(), range(first, p.rows), strict=True))
        self._next = max(self._next, int(new.max(initial=-1)) + 1)

    def _tidy(self) -> None:
        """Packs the postings anew if that is due, and forgets terms that no document has."""
        p = self._postings
        if not p.untidy():
            return
        kept = np.flatnonzero(p.lists.dfs[: p.terms])
        if 2 * len(kept) > p.terms:
            kept = np.arange(p.terms)
        packed = p.packed(kept)
        row_of = dict(zip(packed.docs.ids.tolist(), range(packed.rows), strict=True))
        with self._view.exclusive():
            if len(kept) < p.terms:
                self._reader.keep(kept)
            self._postings, self._row_of = packed, row_of

    def _weigh(self, terms: NDArray[np.int32], engine: ModuleType) -> None:
        """Brings what is stored about the terms up to date, if it is not."""
        p = self._postings
        if engine.stale(p.lists.moments, p.terms, p.moment, terms):
            with self._weighing:
                p.weigh(terms)

    def _allowed(self, ids: Ids) -> NDArray[np.uint8]:
        p = self._postings
        rows = [row for id in ids.tolist() if (row := self._row_of.get(id)) is not None]
        allowed = np.zeros_like(p.docs.live)
        allowed[rows] = 1
        return allowed


def _engine() -> ModuleType:
    return plain if plain_kernels() else _compiled()


@cache
def _compiled() -> ModuleType:
    from ..kernels import lexical

    return lexical
