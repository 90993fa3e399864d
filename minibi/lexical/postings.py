"""Inverted lists that change in place: documents come and go in O(their length), and df, lengths and N are always true.

A term's list has a stretch of one arena, with room at its end; when that is used up the list moves to the arena's end
and gets a quarter more. A document is a row; rows only grow, so lists are ascending. Removing one lowers its terms' df
and marks its row dead; the postings stay until half of all are dead, then everything is packed anew. All of it costs
O(length of the document) amortized.

What depends on other documents is computed when a search first needs it: a term's idf and its postings' `parts`, the
tf / (tf + c B) of each, belong to the moment of the index at which `weigh` computed them, and every change is a new
moment. So a change costs nothing here, the first search after it about what reading the lists of its terms costs, and
later ones read numbers that are ready.

`codes`, of small collections, are a byte for what a frequent term gives to each row, of the same moment as `parts`.
`tops`, the largest x = tf / B of each list, are bounds for a search to prune with. They belong to the average length at
`reference` and are computed anew when the average has drifted by a tenth, which takes changes to about a tenth of the
collection.
"""

from __future__ import annotations

from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..environment import plain_kernels
from . import plain
from .variants import Model, Variant, idf

ROOM = 8  # a packed list has 1 / ROOM more places than postings
SMALL = 4096  # postings; below, tidying up is not worth a thought
DRIFT = 0.1
BLOCK = 64  # rows that share an entry of the table, as in kernels.lexical
SELDOM = 128  # a term in fewer than 1 / SELDOM of the rows gets no line in the table
STRETCH = 128  # rows; codes come in multiples of it
FEW = 16384  # rows, as in kernels.lexical; a collection of no more has codes instead of a table,
FREQUENT = 32  # for terms in 1 / FREQUENT of the rows
OFTEN = 64  # and in so many at least


class Lists(NamedTuple):
    """Term by term; rows, tfs and parts are the arena."""

    rows: NDArray[np.int32]
    tfs: NDArray[np.int32]
    parts: NDArray[np.float32]  # what the posting gives to a score, per unit of weight, as of moments[term]
    starts: NDArray[np.int64]
    counts: NDArray[np.int32]  # postings, those of dead rows included
    caps: NDArray[np.int32]
    dfs: NDArray[np.int32]  # live documents that hold the term
    idfs: NDArray[np.float64]  # as of moments[term]
    moments: NDArray[np.int64]
    tops: NDArray[np.float32]
    lines: NDArray[np.int32]  # where the term stands in the table, -1 for seldom ones
    table: NDArray[
        np.uint8
    ]  # [lines, blocks of rows]: a code >= the largest x in the block, 0 if the term is not in it
    places: NDArray[np.int32]  # [lines, blocks + 1]: how many of the term's postings come before the block
    codes: NDArray[np.uint8]  # [lines, rows and more]: a code for what the term gives to the row, as of moments[term]


ARENA, TABLES = Lists._fields[:3], Lists._fields[-3:]
NOT_BY_TERM = ARENA + TABLES


class Docs(NamedTuple):
    """Row by row; terms[firsts[row] : firsts[row + 1]] are the distinct terms of a row."""

    ids: NDArray[np.int64]
    lengths: NDArray[np.int32]
    live: NDArray[np.uint8]
    firsts: NDArray[np.int64]
    terms: NDArray[np.int32]


class Postings:
    """The arrays and their bookkeeping. Ids are checked by the caller; whoever searches must keep changes out."""

    def __init__(self, variant: Variant):
        self.variant = variant
        self.lists = empty_lists(0, np.zeros(0, np.int64), np.zeros(0, np.int32), np.zeros(0, np.int32))
        self.docs = Docs(
            *(np.zeros(0, t) for t in (np.int64, np.int32, np.uint8)), np.zeros(1, np.int64), np.zeros(0, np.int32)
        )
        self.terms = 0  # in use of lists.starts etc.
        self.rows = 0  # in use of docs.ids etc.
        self.used = 0  # of the arena
        self.covered = 0  # rows when tables were made
        self.holes = 0  # places in it that no list owns any more
        self.dead = 0  # postings of dead rows
        self.documents = 0  # live
        self.tokens = 0  # of live documents
        self.reference = 0.0
        self.moment = 1  # counts changes
        self._model = 0, variant.model(0.0, 0.0)

    @property
    def average(self) -> float:
        """Mean length of the live documents in tokens; 0 if there are none."""
        return self.tokens / self.documents if self.documents else 0.0

    @property
    def postings(self) -> int:
        """Of live documents."""
        return int(self.docs.firsts[self.rows]) - self.dead

    def engine(self) -> ModuleType:
        if plain_kernels():
            return plain
        from ..kernels import postings

        return postings

    def append(self, ids: NDArray[np.int64], flat: NDArray[np.int32], offsets: NDArray[np.int64], terms: int) -> None:
        """Adds documents with the term ids flat[offsets[d] : offsets[d + 1]], all below `terms`."""
        first, tokens = self.rows, int(offsets[-1] - offsets[0])
        if not self.reference and tokens:
            self.reference = tokens / len(ids)
        self._reserve(terms, first + len(ids), tokens)
        if tokens > 4 * terms:  # so much at once that a look at every term costs little: exact room for new lists
            need = np.zeros(terms, np.int64)
            self.engine().count_documents(flat, offsets, need)
            self._give_room(np.flatnonzero((self.lists.counts[:terms] == 0) & (need > 0)), need)
        self.docs.ids[first : first + len(ids)] = ids
        state = np.array([0, offsets[0], self.used, self.docs.firsts[first], self.holes], np.int64)
        slope = self.variant.slope(self.reference)
        self.moment += 1
        try:
            while needed := self.engine().append(self.lists, self.docs, flat, offsets, first, slope, state):
                self._enlarge_arena(int(state[2]) + int(needed))
        except BaseException:  # no memory, or interrupted: what was added is dead at once
            self.rows, self.used, self.holes = first + int(state[0]) + 1, int(state[2]), int(state[4])
            self.docs.firsts[self.rows] = state[3]
            begun = self.docs.terms[self.docs.firsts[first] : state[3]]
            np.subtract.at(self.lists.dfs, begun, 1)
            self.docs.live[first : self.rows] = 0
            self.dead += len(begun)
            raise
        self.used, self.holes = int(state[2]), int(state[4])
        self.rows += len(ids)
        self.documents += len(ids)
        self.tokens += tokens

    def remove(self, rows: list[int]) -> None:
        """Takes documents out, by their rows."""
        self.moment += 1
        for row in rows:
            terms = self.terms_of(row)
            self.lists.dfs[terms] -= 1
            self.dead += len(terms)
            self.tokens -= int(self.docs.lengths[row])
        self.docs.live[rows] = 0
        self.documents -= len(rows)

    def model(self) -> Model:
        """The formula of this moment."""
        if self._model[0] != self.moment:
            self._model = self.moment, self.variant.model(self.average, self.reference)
        return self._model[1]

    def weigh(self, terms: NDArray[np.int32]) -> None:
        """Brings idfs and parts of the terms up to this moment. One caller at a time; a negative term is none."""
        lists = self.lists
        terms = np.unique(terms[(terms >= 0) & (terms < self.terms)])
        terms = terms[lists.moments[terms] != self.moment]
        lists.idfs[terms] = idf(self.variant.name, lists.dfs[terms], self.documents)
        self.engine().weigh(lists, self.docs.lengths, terms, self.model())
        lists.moments[terms] = self.moment

    def terms_of(self, row: int) -> NDArray[np.int32]:
        """The distinct terms of a row."""
        return self.docs.terms[self.docs.firsts[row] : self.docs.firsts[row + 1]]

    def count(self, term: int, row: int) -> int:
        """How often a row has a term."""
        start = self.lists.starts[term]
        rows = self.lists.rows[start : start + self.lists.counts[term]]
        at = int(np.searchsorted(rows, row))
        return int(self.lists.tfs[start + at]) if at < len(rows) and rows[at] == row else 0

    def untidy(self) -> bool:
        """Whether `packed` is due."""
        drifted = abs(self.average - self.reference) > DRIFT * self.reference and self.postings > SMALL
        grown = self.rows > _limit(self.covered)
        return grown or drifted or self.dead > max(SMALL, self.postings) or self.holes > max(SMALL, self.used // 2)

    def check(self) -> list[str]:
        """What is wrong, in words; empty if nothing is."""
        problems, lists, docs = [], Lists(*(a[: self.terms] for a in self.lists)), self.docs
        lists = lists._replace(**{name: getattr(self.lists, name) for name in NOT_BY_TERM})
        live = docs.live[: self.rows] > 0
        terms = np.repeat(np.arange(self.terms), lists.counts)
        places = np.repeat(lists.starts - np.cumsum(lists.counts) + lists.counts, lists.counts) + np.arange(len(terms))
        stretches = np.argsort(lists.starts[lists.caps > 0])
        ends = (lists.starts + lists.caps)[lists.caps > 0][stretches]
        if (ends[:-1] > lists.starts[lists.caps > 0][stretches][1:]).any() or (lists.counts > lists.caps).any():
            return ["two lists share a place, or one is longer than its room"]
        if ends.max(initial=0) > self.used or self.used > len(lists.rows):
            return ["a list ends beyond the arena"]
        rows, tfs = lists.rows[places], lists.tfs[places]
        if ((np.diff(rows) <= 0) & (np.diff(terms) == 0)).any():
            problems.append("the rows of a list do not ascend")
        lengths = docs.lengths[: self.rows]
        if (np.bincount(rows, tfs, self.rows)[live] != lengths[live]).any():
            problems.append("a length is not the sum of its counts")
        if (np.bincount(terms[live[rows]], minlength=self.terms) != lists.dfs).any():
            problems.append("a document frequency is wrong")
        owners = np.repeat(np.arange(self.rows), np.diff(docs.firsts[: self.rows + 1]))
        forward = owners * max(1, self.terms) + docs.terms[: len(owners)]
        if not np.array_equal(np.sort(forward), np.sort(rows * np.int64(max(1, self.terms)) + terms)):
            problems.append("the forward lists are not the lists turned round")
        totals = int(live.sum()), int(lengths[live].sum(dtype=np.int64)), int((~live)[rows].sum())
        if (self.documents, self.tokens, self.dead) != totals:
            problems.append("the totals are wrong")
        s0, s1 = self.variant.slope(self.reference)
        x = tfs / (s0 + s1 * lengths[rows])
        x[~live[rows]] = 0
        there = (lists.lines[terms] >= 0) & (rows // BLOCK < lists.table.shape[1])
        codes = lists.table[lists.lines[terms[there]], rows[there] // BLOCK]
        if (x > lists.tops[terms] * 1.000001).any() or (x[there] / (x[there] + 1) * 255 > codes * 1.000001).any():
            problems.append("a bound is too low")
        fresh = lists.moments[terms] == self.moment
        if (lists.parts[places] != plain.parts(self.model(), tfs, lengths[rows]))[fresh].any():
            problems.append("what a posting gives is wrong")
        coded = fresh & (lists.lines[terms] >= 0) & (rows < lists.codes.shape[1])
        if (lists.codes[lists.lines[terms[coded]], rows[coded]] != plain.codes(lists.parts[places[coded]])).any():
            problems.append("a code is wrong")
        held = np.zeros(lists.table.shape, np.int32)
        np.add.at(held, (lists.lines[terms[there]], rows[there] // BLOCK), 1)
        if lists.places[:, 0].any() or (np.diff(lists.places) != held).any():
            problems.append("a block's place is wrong")
        return problems

    def packed(self, kept: NDArray[np.int64], room: int = ROOM) -> Postings:
        """A copy without dead rows and holes, of the terms `kept`, which become 0, 1, ...; all others must have df 0.

        room: a list gets 1 / room more places than postings; 0 for none.
        """
        new = Postings(self.variant)
        live = np.flatnonzero(self.docs.live[: self.rows])
        rows = np.full(self.rows, -1, np.int32)
        rows[live] = np.arange(len(live))
        dfs = self.lists.dfs[kept]
        caps = dfs + dfs // room if room else dfs.copy()
        starts = np.cumsum(caps, dtype=np.int64) - caps
        places = int(caps.sum(dtype=np.int64))
        new.lists = empty_lists(places, starts, caps, dfs, len(live))
        new.terms, new.rows, new.used = len(kept), len(live), places
        new.documents, new.tokens, new.reference = self.documents, self.tokens, self.average
        new.covered = new.rows
        lengths = self.docs.lengths[live]
        self.engine().pack(self.lists, kept, rows, lengths, self.variant.slope(new.reference), new.lists)
        sizes = (self.docs.firsts[1 : self.rows + 1] - self.docs.firsts[: self.rows])[live]
        new.docs = new.transposed(self.docs.ids[live], lengths, sizes)
        return new

    def transposed(self, ids: NDArray[np.int64], lengths: NDArray[np.int32], sizes: NDArray[np.int64]) -> Docs:
        """The rows as their lists tell them; sizes: how many terms each has."""
        firsts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        terms = np.zeros(firsts[-1], np.int32)
        self.engine().transpose(self.lists, firsts[:-1].copy(), terms)
        return Docs(ids, lengths, np.ones(len(ids), np.uint8), firsts, terms)

    def _reserve(self, terms: int, rows: int, postings: int) -> None:
        """Room for so many terms and rows, and so many postings more in the forward lists."""
        if terms > len(self.lists.starts):
            of_terms = set(Lists._fields).difference(NOT_BY_TERM)
            self.lists = self.lists._replace(
                **{name: _grown(getattr(self.lists, name), self.terms, terms) for name in of_terms}
            )
            self.lists.lines[self.terms :] = -1
        self.terms = max(self.terms, terms)
        docs = self.docs
        if rows > len(docs.ids):
            docs = Docs(*(_grown(a, self.rows, rows) for a in docs[:3]), *docs[3:])
        if rows + 1 > len(docs.firsts):
            docs = docs._replace(firsts=_grown(docs.firsts, self.rows + 1, rows + 1))
        used = int(docs.firsts[self.rows])
        if used + postings > len(docs.terms):
            docs = docs._replace(terms=_grown(docs.terms, used, used + postings))
        self.docs = docs

    def _give_room(self, terms: NDArray[np.int64], need: NDArray[np.int64]) -> None:
        """Places for need[term] postings and some more to each of the terms, whose lists are empty."""
        caps = need[terms] + need[terms] // ROOM
        self.holes += int(self.lists.caps[terms].sum(dtype=np.int64))
        self.lists.caps[terms] = caps
        self.lists.starts[terms] = self.used + np.cumsum(caps) - caps
        end = self.used + int(caps.sum())
        self._enlarge_arena(end)
        self.used = end

    def _enlarge_arena(self, places: int) -> None:
        if places > len(self.lists.rows):
            grown = {name: _grown(a, len(a), places) for name, a in zip(ARENA, self.lists, strict=False)}
            self.lists = self.lists._replace(**grown)


def empty_lists(
    places: int, starts: NDArray[np.int64], caps: NDArray[np.int32], dfs: NDArray[np.int32], rows: int = 0
) -> Lists:
    """Room for the postings of terms that so many of the `rows` documents hold."""
    small = rows <= FEW
    often = (dfs >= (max(OFTEN, rows // FREQUENT) if small else rows // SELDOM)) & (rows > 0)
    blocks, columns = (0, -(-_limit(rows) // STRETCH) * STRETCH) if small else (rows // BLOCK, 0)
    return Lists(
        rows=np.zeros(places, np.int32), tfs=np.zeros(places, np.int32), parts=np.zeros(places, np.float32),
        starts=starts, counts=np.zeros_like(dfs), caps=caps, dfs=dfs,
        idfs=np.zeros(len(dfs)), moments=np.zeros(len(dfs), np.int64), tops=np.zeros(len(dfs), np.float32),
        lines=np.where(often, np.cumsum(often) - 1, -1).astype(np.int32),
        table=np.zeros((int(often.sum()), blocks), np.uint8),
        places=np.zeros((int(often.sum()), blocks + 1), np.int32),
        codes=np.zeros((int(often.sum()), columns), np.uint8),
    )  # fmt: skip


def _limit(rows: int) -> int:
    """How many rows tables for `rows` of them are good for, until all is packed anew."""
    return rows + max(rows // 2, SMALL)


def _grown(a: NDArray, used: int, least: int) -> NDArray:
    """A copy of the first `used` elements with room for at least `least`, half as much again as before."""
    bigger = np.zeros(max(least, len(a) + len(a) // 2, 16), a.dtype)
    bigger[:used] = a[:used]
    return bigger
