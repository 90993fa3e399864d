"""Building HNSW's graph in batches (Malkov & Yashunin 2016, algorithms 1 and 4), the same on any number of threads.

A batch is a few rows compared with what stands already. First every row of it looks for its neighbours in the graph as
it was before the batch, and writes its own links (`_find_neighbours`). Then one thread gives each a parent (`_adopt`)
and notes who gains which links (`_group`). Last, every row that gained links takes them in, each by itself
(`_link_back`). In the first step and the last no row's work sees another's: all threads that are in `insert` take what
they do next from counters that they share. Whoever does the last piece of a step opens the next one, so a thread that
never comes is not missed.

Every row but the root has a parent whose link to it is never given up: so every row can be reached from the root.
"""

from __future__ import annotations

import numpy as np

from .cache import inline, kernel
from .distance import as_query, same_rows, some_distances
from .graph import insert_key, new_stamp, slot_of
from .keys import fetch
from .memory import address, take, waited_for
from .pool import key_at, key_of, row_of, set_key
from .walk import LEVEL, REST, SIZE, STAGE, TASK, advance, begin, enter_layer, field_of, get, pool_of, put, state_of

TOGETHER = 16  # lists of links that a thread takes at once
TAKEN, FOUND, LISTS, LINKING, LINKED = range(5)  # of a batch: rows taken and done, 1 + lists, lists taken and done
COUNTERS = 8  # a line of memory
PATIENCE = 1_000_000  # looks at what others have done, a few milliseconds


@kernel
def _not_hidden(rows, keys, first, count, row, four, scratch_query):
    """Of keys[first:count], those that a chosen row does not hide, in order; returns where they end.

    Algorithm 4's test: it hides what is nearer to it than to the base, and its exact duplicates. Odd keys stay.
    """
    query = as_query(rows, row, scratch_query)
    kept = first
    for at in range(first, count, 4):
        block = min(4, count - at)
        for j in range(block):
            four[j] = row_of(keys[at + j])
        found = some_distances(rows, four, 0, block, query)
        for j in range(block):
            key = keys[at + j]
            between, limit = key_of(found[j], 0) >> 32, key >> 32
            hidden = between < limit or (between == limit and same_rows(rows, row, four[j]))
            keys[kept] = key
            kept += np.int64(key & 1 or not hidden)
    return kept


@kernel
def select_neighbours(rows, keys, count, m, chosen, scratch_query):
    """Algorithm 4: of `count` sorted keys, which are used up, up to m rows into `chosen`, where four places more are
    for the work; returns how many. Odd keys are of rows that must be among them.

    Of exact duplicates only one is chosen, so they cannot fill a list and seal it off.
    """
    four = chosen[m:]
    owed = first = size = 0
    for i in range(count):
        owed += keys[i] & 1
    while first < count and size < m:
        key = keys[first]
        first += 1
        if key & 1:
            owed -= 1
        elif size + owed >= m:
            continue
        chosen[size] = row_of(key)
        size += 1
        if size + owed < m:
            count = _not_hidden(rows, keys, first, count, row_of(key), four, scratch_query)
    return size


@kernel
def insert(rows, graph, kin, ends, entries, root, m, ef, live, walks, queries, board, gains, places):
    """Batches of new rows one after the other: b is of the rows ends[b] .. ends[b + 1] - 1, whose walks begin at
    entries[b]. Any number of threads may call this for the same batches; the arguments of all but walks and queries
    must be the same. Returns False to whoever waited long for others: call again, after a pause.

    kin: parents, children and youngest children, see `_adopt`. live [N]: rows that may be linked to. queries uint8
    [S, size]: room for rows as queries. board int64 [B, COUNTERS]: zeros at first. gains, places: see `_group`.
    """
    size, most = graph.links.shape[1], 0
    for b in range(entries.size):
        most = max(most, ends[b + 1] - ends[b])
    scratch = (  # all that may fail, before something is taken
        np.empty(size + 2 * most, np.int32),  # a row is linked to by another once or, as its parent, twice
        np.empty(max(ef, size + 2 * most + 1), np.int64),
        np.empty(size + 4, np.int32),
        np.empty(queries.shape[1], np.uint8),
    )
    for b in range(entries.size):
        first, last, counters = ends[b], ends[b + 1], address(board[b])
        if _find_neighbours(rows, graph, entries[b], root, first, last, m, ef, live, walks, queries, scratch, counters):
            _adopt(rows, graph.links, first, last, m, kin)
            take(counters + 8 * LISTS, 1 + _group(graph, kin[0], first, last, m, places, gains))
        if not waited_for(counters + 8 * LISTS, 1, PATIENCE):
            return False
        lists = take(counters + 8 * LISTS, 0) - 1
        _link_back(rows, graph, lists, gains, kin[0], scratch, counters)
        if not waited_for(counters + 8 * LINKED, lists, PATIENCE):
            return False
    return True


@kernel
def _find_neighbours(rows, graph, entry, root, first, last, m, ef, live, walks, queries, scratch, counters):
    """Algorithm 1 up to the links of the new rows first .. last-1 themselves, in the graph of the rows before them.
    Whether this thread did the last of them."""
    _, keys, chosen, scratch_query = scratch
    next_row, done = counters + 8 * TAKEN, 0
    slots = min(walks.state.shape[0], last - first)
    field = field_of(rows, graph, walks, slots, first, ef)
    walking = 0
    for slot in range(slots):
        walking += _seek(field, rows, graph, entry, root, first + take(next_row, 1), last, queries, slot)
    slot = 0
    while walking > 0:
        slot = advance(field, slot)
        state, pool = state_of(field, slot), pool_of(field, slot)
        layer, mine = get(state, LEVEL), get(state, TASK)
        many = 0
        for j in range(get(state, SIZE)):
            key = key_at(pool, j) & ~np.int64(1)
            set_key(pool, j, key)
            keys[many] = key
            many += np.int64(live[row_of(key)])
        picked = select_neighbours(rows, keys, many, m, chosen, scratch_query)
        links = (graph.links if layer == 0 else graph.upper)[slot_of(mine, layer, graph.offsets)]
        links[:picked] = chosen[:picked]
        links[picked:] = -1
        if layer > 0:
            put(state, LEVEL, layer - 1)
            enter_layer(field, slot)
        else:
            put(state, STAGE, REST)
            done = take(counters + 8 * FOUND, 1) + 1
            walking -= 1
            walking += _seek(field, rows, graph, entry, root, first + take(next_row, 1), last, queries, slot)
    return done == last - first


@inline
def _seek(field, rows, graph, entry, root, row, last, queries, slot):
    """A walk in search of a new row's neighbours; whether there was such a row."""
    if row >= last:
        return 0
    query = as_query(rows, row, queries[slot])
    begin(field, entry, graph.levels[entry], root, query, graph.levels[row], slot)
    put(state_of(field, slot), TASK, row)
    return 1


@kernel
def _adopt(rows, links, first, last, limit, kin):
    """Gives each new row a parent: the nearest of its neighbours with fewer than `limit` children.

    Exact duplicates hang on one another: where the one that was found has no room, its youngest child takes the next,
    and so on. Where no neighbour has room, the first row of the tree that has. youngest [N]: a row's last child.
    """
    parent, children, youngest = kin
    spare = 0
    for row in range(first, last):
        parent[row] = -1
        for j in range(links.shape[1]):
            host = links[row, j]
            if host < 0:
                break
            while children[host] >= limit and same_rows(rows, youngest[host], row):
                host = youngest[host]
            if children[host] < limit:
                parent[row] = host
                break
        while parent[row] < 0:
            if parent[spare] >= 0 and children[spare] < limit:
                parent[row] = spare
            else:
                spare += 1
        children[parent[row]] += 1
        youngest[parent[row]] = row


@kernel
def _rank(rows, node, others, count, keys, scratch_query):
    """The first `count` of other rows as sorted keys, by their distances to a row."""
    query = as_query(rows, node, scratch_query)
    size = 0
    for at in range(0, count, 4):
        block = min(4, count - at)
        found = some_distances(rows, others, at, block, query)
        for j in range(block):
            _, size = insert_key(keys, size, count, key_of(found[j], others[at + j]))


@kernel
def _group(graph, parents, first, last, m, places, gains):
    """Which lists of links gain the rows first .. last-1: list slots[i], of row targets[i], gains
    sources[starts[i] : starts[i + 1]], in order; returns how many lists. They are those of a row's neighbours, at most
    m on each layer, and of its parent. A list on an upper layer has the slot ~s, where s is its place in `graph.upper`.

    places [N + U]: zeros, and zeros again afterwards. gains: (slots [P], targets [P], starts [P + 1], sources [P], room
    for work [2, P]), P at least the number of rows and of their upper layers times m + 1.
    """
    slots, targets, starts, sources, work = gains
    lists = pairs = 0
    starts[0] = 0
    for row in range(first, last):
        for layer in range(graph.levels[row] + 1):
            mine = (graph.links if layer == 0 else graph.upper)[slot_of(row, layer, graph.offsets)]
            for j in range(np.int64(layer > 0), m + 1):
                other = parents[row] if j == 0 else mine[j - 1]
                if other < 0:
                    break
                slot = slot_of(other, layer, graph.offsets)
                place = slot if layer == 0 else slot + graph.links.shape[0]
                if places[place] == 0:
                    slots[lists] = slot if layer == 0 else ~slot
                    targets[lists] = other
                    lists += 1
                    places[place] = lists
                    starts[lists] = 0
                work[0, pairs], work[1, pairs] = places[place], row
                starts[places[place]] += 1
                pairs += 1
    for i in range(lists):
        places[slots[i] if slots[i] >= 0 else ~slots[i] + graph.links.shape[0]] = 0
        starts[i + 1] += starts[i]
    for p in range(pairs):  # meanwhile starts[i] goes up to where list i ends
        sources[starts[work[0, p] - 1]] = work[1, p]
        starts[work[0, p] - 1] += 1
    for i in range(lists, 0, -1):
        starts[i] = starts[i - 1]
    starts[0] = 0
    return lists


@kernel
def _link_back(rows, graph, lists, gains, parent, scratch, counters):
    """Each of the lists found by `_group` takes in what it gains; one that would overflow is chosen anew."""
    slots, targets, starts, sources, _ = gains
    all_of, keys, chosen, scratch_query = scratch
    while True:
        first = take(counters + 8 * LINKING, TOGETHER)
        if first >= lists:
            break
        last = min(first + TOGETHER, lists)
        for i in range(first, last):
            mine = _list_of(graph, slots[i])
            fetch(address(mine), 4 * mine.size)
        for i in range(first, last):
            if i + 1 < last:
                _ask_for(rows, _list_of(graph, slots[i + 1]))
            mine, lowest, gained = _list_of(graph, slots[i]), slots[i] >= 0, sources[starts[i] : starts[i + 1]]
            _link_one(rows, mine, targets[i], gained, lowest, parent, all_of, keys, chosen, scratch_query)
        take(counters + 8 * LINKED, last - first)


@inline
def _list_of(graph, slot):
    return graph.links[slot] if slot >= 0 else graph.upper[~slot]


@inline
def _ask_for(rows, which):
    """Asks memory for the rows of a list that is full: they will be compared."""
    if which[which.size - 1] >= 0:
        base, stride = address(rows.table), rows.table.shape[1]
        for j in range(which.size):
            fetch(base + stride * np.int64(which[j]), stride)


@inline
def _link_one(rows, mine, node, gained, lowest, parent, all_of, keys, chosen, scratch_query):
    """A row's list takes in some rows."""
    capacity, count = mine.size, 0
    while count < capacity and mine[count] >= 0:
        all_of[count] = mine[count]
        count += 1
    held = count
    for j in range(gained.size):
        known = False
        for h in range(count):
            known |= all_of[h] == gained[j]
        if not known:
            all_of[count] = gained[j]
            count += 1
    if count <= capacity:
        for j in range(held, count):
            mine[j] = all_of[j]
        return
    _rank(rows, node, all_of, count, keys, scratch_query)
    if lowest:  # links to children stay
        for j in range(count):
            keys[j] |= np.int64(parent[row_of(keys[j])] == node)
    size = select_neighbours(rows, keys, count, capacity, chosen, scratch_query)
    mine[:size] = chosen[:size]
    mine[size:] = -1


@inline
def _hidden(rows, chosen, size, row, limit, scratch_query):
    """Whether one of the first `size` rows of `chosen` is nearer to a row than `limit`, its distance to the base as an
    integer that orders, or is its exact duplicate."""
    query = as_query(rows, row, scratch_query)
    for at in range(0, size, 4):
        block = min(4, size - at)
        found = some_distances(rows, chosen, at, block, query)
        for j in range(block):
            between = key_of(found[j], 0) >> 32
            if between < limit or (between == limit and same_rows(rows, row, chosen[at + j])):
                return True
    return False


@kernel
def bypass(rows, table, offsets, level, owners, first, last, live, scratch, fresh_table, scratch_query):
    """New links for the rows owners[first : last], some of whose links lead to removed rows: chosen by algorithm 4 from
    the live neighbours of removed neighbours, and of their removed neighbours in turn, until each lost link has as many
    candidates as a row has places. Links to live rows stay: were all chosen anew from what is near, a row would lose
    its long ones, and the graph would get worse with each removal.

    Reads `table`, writes `fresh_table`, so the order of the rows does not matter.
    """
    capacity = table.shape[1]
    most = scratch.pool.size - 1
    chosen = np.empty(capacity, np.int32)
    todo = np.empty(most, np.int32)
    found_rows = np.empty(most, np.int32)
    for i in range(first, last):
        node = owners[i]
        stamp = new_stamp(scratch)
        scratch.visited[node] = stamp
        todo[0] = node
        head, tail, count, held, owed = 0, 1, 0, 0, 0
        while head < tail and count < most and (head == 0 or count - owed < capacity * (held - owed)):
            neighbours = table[slot_of(todo[head], level, offsets)]
            for j in range(capacity):
                row = neighbours[j]
                if row < 0:
                    break
                if scratch.visited[row] != stamp:
                    scratch.visited[row] = stamp
                    if live[row]:
                        if count < most:
                            found_rows[count] = row
                            count += 1
                    elif tail < most:
                        todo[tail] = row
                        tail += 1
            if head == 0:
                held, owed = count + tail - 1, count
            head += 1
        _rank(rows, node, found_rows, count, scratch.pool, scratch_query)
        before = table[slot_of(node, level, offsets)]
        mine = fresh_table[slot_of(node, level, offsets)]
        size = 0
        for j in range(count):
            if size >= capacity:
                break
            row, kept = row_of(scratch.pool[j]), False
            for h in range(held):
                kept |= before[h] == row
            owed -= np.int64(kept)
            if kept or (
                size + owed < capacity and not _hidden(rows, chosen, size, row, scratch.pool[j] >> 32, scratch_query)
            ):
                chosen[size] = row
                size += 1
        mine[:size] = chosen[:size]
        mine[size:] = -1
