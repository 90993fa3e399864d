"""Inverted lists: documents appended to them, packed anew, turned round.

A list holds the rows of the documents that contain a term, ascending, with the counts. `lists` and `docs` are the named
tuples of `minibi.lexical.postings`, `model` that of `minibi.lexical.variants`. The plain twins are in
`minibi.lexical.plain`.
"""

from __future__ import annotations

import numpy as np

from .cache import kernel
from .whole import code_of

BLOCK = 64  # rows that share an entry of the table


@kernel
def append(lists, docs, flat, offsets, first, slope, state):
    """Add documents, rows first, first + 1, ...: their term ids are flat[offsets[d] : offsets[d + 1]].

    slope: (1 - b, b / average length), for `tops`. state: int64 [document, token, end of the arena, end of the forward
    lists, holes]; where to go on. Returns 0 when done, else how many places it needs at the arena's end: call again.
    """
    rows, tfs, starts, counts = lists.rows, lists.tfs, lists.starts, lists.counts
    room = rows.shape[0]
    for d in range(state[0], offsets.shape[0] - 1):
        row = first + d
        begin = docs.firsts[row]
        for i in range(max(state[1], offsets[d]), offsets[d + 1]):
            term = flat[i]
            count = counts[term]
            place = starts[term] + count
            if count and rows[place - 1] == row:
                tfs[place - 1] += 1
                continue
            if count == lists.caps[term]:  # full: move to the end, with a quarter more room
                cap = count + count // 4 + 4
                if state[2] + cap > room:
                    state[0], state[1] = d, i
                    return cap
                old, new = starts[term], state[2]
                for j in range(count):
                    rows[new + j] = rows[old + j]
                    tfs[new + j] = tfs[old + j]
                state[4] += lists.caps[term]
                starts[term], lists.caps[term] = new, cap
                state[2] += cap
                place = new + count
            rows[place], tfs[place] = row, 1
            counts[term] += 1
            lists.dfs[term] += 1
            docs.terms[state[3]] = term
            state[3] += 1
        docs.firsts[row + 1] = state[3]
        size = offsets[d + 1] - offsets[d]
        docs.lengths[row], docs.live[row] = size, 1
        for i in range(begin, state[3]):
            term = docs.terms[i]
            x = np.float32(tfs[starts[term] + counts[term] - 1] / (slope[0] + slope[1] * size))
            lists.tops[term] = max(lists.tops[term], x)
    return 0


@kernel
def weigh(lists, lengths, terms, model):
    """Computes the `parts` of the postings of these terms, and their codes."""
    for t in range(terms.shape[0]):
        first = lists.starts[terms[t]]
        end = first + lists.counts[terms[t]]
        rows, tfs, parts = lists.rows[first:end], lists.tfs[first:end], lists.parts[first:end]
        for i in range(rows.shape[0]):
            tf = np.float32(tfs[i])
            parts[i] = tf / (tf + (model.c0 + model.c1 * np.float32(lengths[np.uint32(rows[i])])))
        if lists.lines[terms[t]] >= 0:
            codes = lists.codes[lists.lines[terms[t]]]
            for i in range(rows.shape[0]):
                if rows[i] < codes.shape[0]:
                    codes[np.uint32(rows[i])] = code_of(parts[i])


@kernel
def count_documents(flat, offsets, need):
    """Adds to need[term] in how many of the documents it occurs."""
    last = np.full(need.shape[0], -1, np.int64)
    for d in range(offsets.shape[0] - 1):
        for i in range(offsets[d], offsets[d + 1]):
            if last[flat[i]] != d:
                last[flat[i]] = d
                need[flat[i]] += 1


@kernel
def pack(lists, kept, new_rows, lengths, slope, new):
    """Copies the postings of the terms `kept` to the lists `new`, rows renumbered, or left out by a number < 0."""
    for term in range(kept.shape[0]):
        start, place = lists.starts[kept[term]], new.starts[term]
        top = np.float32(0)
        for i in range(start, start + lists.counts[kept[term]]):
            row = new_rows[lists.rows[i]]
            if row >= 0:
                new.rows[place], new.tfs[place] = row, lists.tfs[i]
                place += 1
                x = np.float32(lists.tfs[i] / (slope[0] + slope[1] * lengths[row]))
                top = max(top, x)
                line, block = new.lines[term], row // BLOCK
                if line >= 0 and block < new.table.shape[1]:
                    code = np.uint8(min(255.0, 255 * x / (x + 1) + 1))
                    new.table[line, block] = max(new.table[line, block], code)
                    new.places[line, block + 1] = place - new.starts[term]
        new.counts[term], new.tops[term] = place - new.starts[term], top
        if new.lines[term] >= 0:
            places = new.places[new.lines[term]]
            for block in range(1, places.shape[0]):  # where a block has none, as many as before
                places[block] = max(places[block], places[block - 1])


@kernel
def transpose(lists, ends, terms):
    """Writes each row's terms behind one another, beginning at ends[row], which moves up to where they end."""
    for term in range(lists.starts.shape[0]):
        start = lists.starts[term]
        for i in range(start, start + lists.counts[term]):
            row = lists.rows[i]
            terms[ends[row]] = term
            ends[row] += 1
