# %% [markdown]
# # HNSW, drawn
#
# An exact search compares the query with every vector. A *graph* search compares it with a few hundred out of a
# million, and still finds nearly all of the nearest. Each vector knows some neighbours; the search starts somewhere
# and walks from neighbour to neighbour, always nearer. That is the whole idea, and everything in this lesson is about
# why it works: which neighbours a vector should know, where to start, when to stop, and what happens when vectors
# come twice or leave.
#
# HNSW (hierarchical navigable small world, Malkov & Yashunin 2016) has 384-dimensional vectors in mind. We draw it in
# two dimensions, where one can see it, and go back to real vectors to measure.
#
# You need some Python, and to know what a search by vectors is (lesson 01). Everything works offline. If lesson 03 or
# 06 has not run yet, the first run encodes 5,183 abstracts, which takes a minute or two; after that it takes seconds.

# %%
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
from lesson import QUICK, draw_table, encode_once, frame, ink, scifact, show_source, style
from matplotlib.collections import LineCollection

from minibi import BiEncoder, FlatIndex, HNSWIndex
from minibi.index.hnsw_plain import PlainEngine, search_layer

style()

# %% [markdown]
# ## 0 · A small world
#
# Four hundred points: five clusters and some scattered ones. `M=4` links per point on the upper layers, 8 on the
# lowest, far fewer than one would take for real vectors, so that a picture can hold them.

# %%
rng = np.random.default_rng(4)
centres = np.array([[0.2, 0.25], [0.8, 0.2], [0.5, 0.55], [0.18, 0.8], [0.82, 0.78]])
clustered = (centres[:, None] + rng.normal(scale=0.055, size=(5, 64, 2))).reshape(-1, 2)
points = np.concatenate([clustered, rng.uniform(0, 1, (80, 2))]).astype(np.float32)
points = points[rng.permutation(len(points))]

index = HNSWIndex(2, metric="l2", M=4, ef_construction=60)
index.add(points)
print(index, "; what is wrong with it:", index.check())
assert index.check() == []


def opened(index: HNSWIndex) -> PlainEngine:
    """The readable twin of the compiled search, on the graph that an index holds."""
    return PlainEngine(index._walk_codec, index._view.arrays, index._walked, index.metric)


def links_drawn(index: HNSWIndex, layer: int = 0) -> list[tuple[int, int]]:
    """All links (from, to) on a layer."""
    view, neighbours = index._view, opened(index)._layer(layer, index._view.count)
    rows = np.flatnonzero(view["live"] & (view["levels"] >= layer)).tolist()
    return [(row, other) for row in rows for other in neighbours(row)]


def without_tree(index: HNSWIndex) -> list[tuple[int, int]]:
    """The links of layer 0 that were chosen, without those of the tree in part 6."""
    parents = index._view["parents"]
    return [(a, b) for a, b in links_drawn(index) if parents[b] != a]


def reached(links: list[tuple[int, int]], start: int) -> set[int]:
    """The rows that can be reached from one, along links."""
    onward: dict[int, list[int]] = {}
    for a, b in links:
        onward.setdefault(a, []).append(b)
    seen, todo = {start}, [start]
    while todo:
        new = [b for b in onward.get(todo.pop(), []) if b not in seen]
        seen.update(new)
        todo.extend(new)
    return seen


levels, entry, root = index._view["levels"], index._view.facts["entry"], index._view.facts["root"]
print("points on each layer:", [int((levels >= layer).sum()) for layer in range(levels.max() + 1)])

# %% [markdown]
# The arrays of the graph were filled by compiled code. `minibi.index.hnsw_plain` reads the same arrays with heaps,
# sets and lists, and follows the paper line by line; that is the one we read and poke. First the picture: every point
# is on the lowest layer, fewer and fewer are on those above. The red line is a search: it goes down a layer wherever
# no neighbour is nearer.

# %%
query = np.array([0.86, 0.7], np.float32)


def traced(engine: PlainEngine, layer: int, ef: int, vector: np.ndarray, start: list[int]) -> tuple[list, list]:
    """(what `search_layer` found, its steps): each step is (expanded row, rows that were compared because of it)."""
    measure, neighbours = engine._distances(engine._codec.encode_queries(vector[None])[0]), engine._layer(layer, 10**9)
    steps: list[tuple[int, list[int]]] = []

    def expanding(row: int) -> list[int]:
        steps.append((row, []))
        return neighbours(row)

    def comparing(rows: list[int]) -> list[float]:
        steps[-1][1].extend(rows)
        return measure(rows)

    return search_layer(comparing, expanding, ef, list(zip(measure(start), start, strict=True))), steps


engine = opened(index)
here, path = entry, {}
for layer in range(int(levels.max()), 0, -1):
    found, steps = traced(engine, layer, 1, query, [here])
    path[layer] = [row for row, _ in steps]
    here = found[0][1]
path[0] = [row for row, _ in traced(engine, 0, 1, query, [here])[1]]


def lifted(xy: np.ndarray, layer: int) -> np.ndarray:
    """A slanted view of a layer above the others."""
    return np.stack([xy[..., 0] + 0.45 * xy[..., 1], 0.5 * xy[..., 1] + 0.72 * layer], axis=-1)


fig, ax = plt.subplots(figsize=(8.6, 7.4))
corners = np.array([[-0.08, -0.08], [1.08, -0.08], [1.08, 1.08], [-0.08, 1.08]])
for layer in range(int(levels.max()) + 1):
    ax.fill(*lifted(corners, layer).T, color=ink.grey, alpha=0.16, zorder=3 * layer, linewidth=0)
    lines = lifted(points[np.array(links_drawn(index, layer)).reshape(-1, 2)], layer)
    ax.add_collection(LineCollection(lines, colors=ink.sky, linewidths=0.5, zorder=3 * layer + 1))
    ax.scatter(*lifted(points[levels >= layer], layer).T, s=7, color=ink.blue, zorder=3 * layer + 2, linewidth=0)
    ax.scatter(*lifted(query, layer), s=150, marker="*", color="white", edgecolor=ink.black, zorder=40)
    ax.plot(*lifted(points[path[layer]], layer).T, color=ink.red, lw=2, marker="o", ms=4, zorder=41)
    if layer:
        ends = np.stack([lifted(points[path[layer - 1][0]], at) for at in (layer, layer - 1)])
        ax.plot(*ends.T, color=ink.red, lw=1.2, ls=":", zorder=41)
    ax.text(*lifted(np.array([1.12, 0.45]), layer), f"layer {layer}: {(levels >= layer).sum()} points")
ax.plot([], [], color=ink.red, marker="o", label="the walk, one candidate at a time")
ax.plot([], [], "*", color="white", markeredgecolor=ink.black, ms=12, label="the query")
ax.set(title="The layers, and one descent", xlim=(-0.15, 1.9))
ax.legend(loc="upper left")
ax.axis("off")
plt.show()

assert len(path[0]) < 20

# %% [markdown]
# Above, links are long and few steps cross the whole map; below, they are short and the walk is precise. It is how one
# travels: a flight, a train, a bus.
#
# Which points are on the upper layers? Chance decides: $\ell = \lfloor -\ln u / \ln M \rfloor$ with $u$ uniform
# between 0 and 1, so that each layer has about an $M$th of the points of the one below:

# %%
from minibi.index.hnsw_engine import draw_levels

show_source(draw_levels)

drawn = draw_levels(np.arange(100_000), 16, seed=0)
rows = [(l, int((drawn >= l).sum()), 100_000 / 16.0**l) for l in range(5)]
draw_table(["layer", "points with M = 16, of 100,000", "expected"], rows)
assert abs(rows[1][1] / rows[1][2] - 1) < 0.05

# %% [markdown]
# ## 1 · One search, step by step
#
# On the lowest layer the search keeps more than one candidate. It has a **pool** of the `ef` nearest points seen so
# far. In every step it takes the nearest candidate that it has not looked behind yet, compares the query with those
# of its neighbours it has not visited, and puts them into the pool if they are near enough. It stops when the nearest
# open candidate is farther away than everything in a full pool. This is all of it:

# %%
show_source(search_layer)

# %% [markdown]
# We watch it through the two functions that it is given, `distances` and `layer`, which is all it knows of the world.

# %%
EF = 6
start = int(np.argmin(np.square(points - [0.45, 0.5]).sum(axis=1)))
found, steps = traced(engine, 0, EF, query, [start])
distance = np.square(points - query).sum(axis=1)
shown = [0, 1, 2, len(steps) // 2, len(steps) - 3, len(steps) - 1]
every_link = points[np.array(links_drawn(index))]

fig, axes = plt.subplots(2, 3, figsize=(10.5, 7))
for ax, number in zip(axes.flat, shown, strict=True):
    frame(ax)
    behind = [row for row, _ in steps[: number + 1]]
    seen = [start, *(row for _, rows in steps[: number + 1] for row in rows)]
    pool = sorted(seen, key=lambda row: (distance[row], row))[:EF]
    ax.add_collection(LineCollection(every_link, colors=ink.grey, linewidths=0.25, alpha=0.6))
    ax.scatter(*points.T, s=3, color=ink.grey, linewidth=0)
    new = points[[[behind[-1], row] for row in steps[number][1]]] if steps[number][1] else np.zeros((0, 2, 2))
    ax.add_collection(LineCollection(new, colors=ink.red, linewidths=1))
    ax.scatter(*points[seen].T, s=16, color=ink.sky, label="compared", linewidth=0)
    ax.scatter(*points[pool].T, s=26, color=ink.orange, label=f"in the pool of {EF}", linewidth=0)
    ax.scatter(*points[behind].T, s=42, facecolor="none", edgecolor=ink.blue, label="looked behind")
    ax.scatter(*points[behind[-1]], s=42, facecolor="none", edgecolor=ink.red, linewidth=1.8, label="just now")
    ax.scatter(*query, s=130, marker="*", color="white", edgecolor=ink.black, zorder=5, label="the query")
    ax.set(xlim=(0.36, 1.0), ylim=(0.38, 0.98), title=f"step {number + 1}: {len(seen)} compared so far")
handles, labels = axes[0, 0].get_legend_handles_labels()
fig.legend(handles, labels, loc="outside lower center", ncols=5)
plt.show()

compared = 1 + sum(len(rows) for _, rows in steps)
print(f"{len(steps)} steps, {compared} of {len(points)} points compared; found {[row for _, row in found]}")
best = np.lexsort((np.arange(len(points)), distance))[:EF]
print(f"of the true {EF} nearest it has {np.isin(best, [row for _, row in found]).sum()}")
assert [row for _, row in found] == [int(r) for r in sorted({start, *(r for _, rs in steps for r in rs)},
                                                            key=lambda r: (distance[r], r))[:EF]]  # fmt: skip
assert compared < len(points) / 2

# %% [markdown]
# The pool first travels as a swarm, then surrounds the query, then the search goes on for a while only to be sure. A
# larger `ef` means a larger swarm: it is not stopped by a small obstacle, and it pays for that with comparisons.

# %% [markdown]
# ## 2 · Which neighbours? The heuristic
#
# One would link every point to its nearest. Look at a point at the edge of a cluster: all its nearest are in the
# cluster, and no link leads anywhere else. Algorithm 4 of the paper takes candidates from the nearest on, but only if
# a candidate is nearer to the point itself than to all neighbours chosen before. What would be near a chosen
# neighbour can be reached *through* it. What is left are neighbours in different directions.

# %%
show_source(PlainEngine._select, PlainEngine._not_hidden)

base = int(np.argmin(np.square(points - (centres[2] + [0.07, 0.07])).sum(axis=1)))
near = np.lexsort((np.arange(len(points)), np.square(points - points[base]).sum(axis=1)))[1:61]
candidates = [(float(np.square(points[row] - points[base]).sum()), int(row)) for row in near]
by_heuristic = engine._select(candidates, 8)
by_distance = [row for _, row in candidates[:8]]

fig, axes = plt.subplots(1, 2, figsize=(9.4, 4.6))
for ax, chosen, title in zip(
    axes, (by_distance, by_heuristic), ("the 8 nearest", "by the heuristic, 8 at most"), strict=True
):
    frame(ax)
    ax.scatter(*points.T, s=10, color=ink.grey, linewidth=0)
    ax.scatter(*points[near].T, s=14, color=ink.sky, linewidth=0, label="60 candidates")
    lines = points[[[base, row] for row in chosen]]
    ax.add_collection(LineCollection(lines, colors=ink.blue, linewidths=1.3))
    ax.scatter(*points[chosen].T, s=34, color=ink.blue, linewidth=0, label="chosen", zorder=3)
    ax.scatter(*points[base], s=60, color=ink.red, linewidth=0, label="the point", zorder=4)
    ax.set(title=f"{title}: {len(chosen)} links", xlim=points[base][0] + [-0.24, 0.24])
    ax.set(ylim=points[base][1] + [-0.24, 0.24], aspect="equal")
axes[0].legend(loc="upper left", fontsize=8.5)
plt.show()

for i, row in enumerate(by_heuristic):  # the rule, in one line
    kept = points[by_heuristic[:i]]
    assert (np.square(kept - points[row]).sum(axis=1) >= np.square(points[base] - points[row]).sum()).all()
assert len(by_heuristic) <= 8 and by_heuristic[0] == by_distance[0]

# %% [markdown]
# Often the heuristic is content with fewer links than it might have, and that alone makes a search faster: every link
# that is followed costs a comparison. Now the same for a whole graph. We replace the heuristic in the readable twin
# by "the nearest", and let the library build an index with it.


# %%
class TheNearest(PlainEngine):
    """Links to the nearest, whatever their directions."""

    def _select(self, candidates, m, children=()):
        own = [row for _, row in candidates if row in children]
        return (own + [row for _, row in candidates if row not in children])[:m]


def of_our_choice(index, view):
    return index.chosen(index._walk_codec, view.arrays, index._walked, index.metric)


class Built(HNSWIndex):
    """An index whose graph is built and walked by an engine of our choice, in plain Python."""

    chosen = PlainEngine
    _engine = of_our_choice


class BuiltToTheNearest(Built):
    chosen = TheNearest


def built(kind: type[HNSWIndex], vectors: np.ndarray) -> HNSWIndex:
    made = kind(2, metric="l2", M=4, ef_construction=60)
    made.add(vectors)
    return made


with_heuristic, without = built(Built, points), built(BuiltToTheNearest, points)
assert links_drawn(with_heuristic) == links_drawn(index)  # twin and kernels build the same graph

fig, axes = plt.subplots(1, 2, figsize=(10.5, 5.2))
for ax, one, title in zip(axes, (without, with_heuristic), ("links to the nearest", "by the heuristic"), strict=True):
    frame(ax)
    lines = points[np.array(links_drawn(one))]
    length = np.linalg.norm(lines[:, 0] - lines[:, 1], axis=1)
    ax.add_collection(LineCollection(lines, colors=ink.blue, linewidths=0.5, alpha=0.6))
    ax.scatter(*points.T, s=7, color=ink.black, linewidth=0)
    ax.set(title=f"{title}: {len(lines)} links, median length {np.median(length):.3f}", aspect="equal")
plt.show()

test_points = rng.uniform(0, 1, (300, 2)).astype(np.float32)
exact = FlatIndex(2, metric="l2")
exact.add(points)
_, truth = exact.search(test_points, k=5)


def comparisons(engine: PlainEngine, facts: dict, vector: np.ndarray, ef: int, how: str = "layers") -> tuple[list, int]:
    """(rows found, comparisons made) by a search of layer 0 from: "layers", the last row ("one"), the best of some."""
    count, made = len(engine._levels), []
    measure = engine._distances(engine._codec.encode_queries(vector[None])[0])

    def counting(rows: list[int]) -> list[float]:
        made.append(len(rows))
        return measure(rows)

    if how == "layers":
        start = engine._descend(counting, count, facts["entry"], 0)
    elif how == "one":
        start = [(counting([facts["count"] - 1])[0], facts["count"] - 1)]
    else:  # the nearest of so many rows
        sample = np.random.default_rng(0).choice(facts["count"], int(how), replace=False).tolist()
        start = [min(zip(counting(sample), sample, strict=True))]
    found = search_layer(counting, engine._layer(0, count), ef, start)
    return [row for _, row in found], sum(made)


def measured(engine: PlainEngine, index: HNSWIndex, vectors: np.ndarray, truth: np.ndarray, ef: int, how: str) -> tuple:
    """(recall, comparisons per query), means over vectors [Q, D] with true neighbours [Q, K]."""
    facts = {**index._view.facts, "count": index._view.count}
    answers = [comparisons(engine, facts, vector, ef, how) for vector in vectors]
    recall = np.mean([np.isin(t, rows).mean() for t, (rows, _) in zip(truth, answers, strict=True)])
    return float(recall), float(np.mean([made for _, made in answers]))


rows = []
for ef in (5, 8, 12):
    for name, one in (("nearest", without), ("heuristic", with_heuristic)):
        rows.append((ef, name, *measured(opened(one), one, test_points, truth, ef, "one")))
draw_table(["ef", "links to the nearest, or by the heuristic", "recall@5, from one fixed point", "comparisons"], rows)
assert all(b[2] > a[2] for a, b in zip(rows[::2], rows[1::2], strict=True))

# %% [markdown]
# On the left, clusters are knots: many links inside, few between. A walk that starts in one of them often ends there.
# On the right the same number of places for links makes a net that covers the map.

# %% [markdown]
# ## 3 · Breadth against recall, on real vectors
#
# Back to 384 dimensions: abstracts and claims (SciFact), as in lesson 03. The graph is the library's default with M =
# 16, except that it is walked on float32 here. We count comparisons, since they are what a search takes its time for.

# %%
model = BiEncoder("all-MiniLM-L6-v2", compute="int8")
_, test = scifact()
vectors = encode_once(model, test.docs)
queries = model.encode_query(list(test.queries.values()))[: 40 if QUICK else 120]
N, C = vectors.shape
flat = FlatIndex(C)
flat.add(vectors)
_, true_ten = flat.search(queries, k=10)

real = HNSWIndex(C, M=16, ef_construction=200, codes="float32")
real.add(vectors)
real_engine = opened(real)
breadths = (10, 20, 40, 80, 160)
curve = [measured(real_engine, real, queries, true_ten, ef, "layers") for ef in breadths]

fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.7))
recalls, made = zip(*curve, strict=True)
left.plot(breadths, recalls, color=ink.blue, marker="o")
left.set(title="A wider pool finds more", xlabel="ef", ylabel="recall@10", xscale="log")
left.set_xticks(breadths, map(str, breadths))
left.minorticks_off()
right.plot(made, recalls, color=ink.blue, marker="o")
for ef, x, y in zip(breadths, made, recalls, strict=True):
    right.annotate(f"ef {ef}", (x, y), (8, -9), textcoords="offset points", size=8.5)
right.set(
    title="and compares more", xlabel=f"comparisons per query, of {N}", ylabel="recall@10", xlim=(0, max(made) * 1.15)
)
plt.show()

draw_table(
    ["ef", "recall@10", "comparisons", "share of all"],
    [(e, r, m, f"{m / N:.1%}") for e, (r, m) in zip(breadths, curve, strict=True)],
)
assert list(recalls) == sorted(recalls) and recalls[-1] > 0.97
assert made[0] < made[-1]

# %% [markdown]
# Every neighbour more is dearer than the one before: the curve bends. Of five thousand vectors the search still looks
# at a good part. That share shrinks as sets grow, since comparisons grow much more slowly than the number of vectors.
# It is why the library recommends a plain scan up to some 100,000 vectors, and a graph beyond.

# %% [markdown]
# ## 4 · What the hierarchy brings, and when it does not
#
# Three ways to start on layer 0: descend through the layers; begin at one fixed point; or compare the query with some
# points drawn at random once for all, and begin at the nearest of them. For growing sets, in two dimensions and in
# 384: how many comparisons does it take to get *somewhere near*, that is, to run into the first local minimum with
# `ef=1`?

# %%
square = rng.uniform(0, 1, (4000, 2)).astype(np.float32)
sizes = {
    "2 dimensions": (250, 500, 1000, 2000) if QUICK else (250, 1000, 4000),
    f"{C} dimensions": (200, 300, N) if QUICK else (300, 1200, N),
}
starts = {"layers": ("through the layers", ink.blue, "o"), "one": ("from one fixed point", ink.orange, "s"),
          "64": ("from the nearest of 64 points", ink.green, "D")}  # fmt: skip
asked = {"2 dimensions": test_points[:100], f"{C} dimensions": queries[:60]}
source = {"2 dimensions": square, f"{C} dimensions": vectors}

fig, axes = plt.subplots(1, 2, figsize=(10.5, 3.7))
costs = {}
for ax, (name, counts) in zip(axes, sizes.items(), strict=True):
    for count in counts:
        if name == "2 dimensions":
            grown = HNSWIndex(2, metric="l2", M=4, ef_construction=60)
        else:
            grown = HNSWIndex(C, M=16, ef_construction=100, codes="float32")
        grown.add(source[name][:count])
        nobody = np.zeros((len(asked[name]), 1), np.int64)
        for how in starts:
            costs[name, how, count] = measured(opened(grown), grown, asked[name], nobody, 1, how)[1]
    for how, (label, colour, marker) in starts.items():
        ax.plot(counts, [costs[name, how, count] for count in counts], color=colour, marker=marker, label=label)
    ax.set(title=f"{name}, ef = 1", xlabel="vectors", ylabel="comparisons per query", xscale="log")
    ax.set_ylim(bottom=0)
    ax.set_xticks(counts, [f"{count:,}" for count in counts])
    ax.minorticks_off()
axes[0].legend(loc="upper left")
plt.show()

small, large = sizes["2 dimensions"][0], sizes["2 dimensions"][-1]
flat_growth = costs["2 dimensions", "one", large] / costs["2 dimensions", "one", small]
layered_growth = costs["2 dimensions", "layers", large] / costs["2 dimensions", "layers", small]
print(
    f"in 2 dimensions, {large // small} times the points: {flat_growth:.1f} times the comparisons from one point,",
    end=" ",
)
print(f"{layered_growth:.1f} times through the layers")
assert flat_growth > 1.3 * layered_growth

# %% [markdown]
# In two dimensions the walk from a fixed point has a map to cross, and with four times the points it takes nearly
# twice as many comparisons. The layers make that a logarithm. That is what the hierarchy was invented for. (Our fixed
# point is the last that was added. The first would be a better one: it got its links while the map was empty, so they
# are long.)
#
# In 384 dimensions the difference is small. There a point has neighbours in so many directions that a few steps lead
# anywhere, and what a search really spends (part 3: hundreds of comparisons, with any useful `ef`) it spends *around*
# the query. And for a processor, comparisons are not equal. Descending is a chain: no step can begin before the last
# has ended, and each reads vectors from places scattered over memory. Comparing with 64 points that lie side by side
# is one sweep through a few kilobytes. So entry by sampled points can win in time even where it loses in comparisons.
# In clusters far apart from each other it may also start beside the right one, or beside none. To compare fairly, one
# must look at the whole search:

# %%
rows = []
for how, (label, *_) in starts.items():
    for ef in (20, 80):
        rows.append((label, ef, *measured(real_engine, real, queries, true_ten, ef, how)))
draw_table(["start", "ef", "recall@10", "comparisons, all in all"], rows)
by_ef = {ef: [row[2] for row in rows if row[1] == ef] for ef in (20, 80)}
assert max(by_ef[80]) - min(by_ef[80]) < 0.02

# %% [markdown]
# The same recall, and nearly the same work. With real vectors the start hardly matters. The *neighbourhood* does.
#
# The library begins at the top, as published, unless told otherwise. `entry="sampled"` takes the other way, with 128
# rows that are copied next to each other. It is a matter of searching alone, so it can be changed at any time: the
# graph, whose building always descends, stays as it is.

# %%
found = {}
for entry in ("hierarchy", "sampled"):
    real.entry = entry
    ids = real.search(queries, 10, ef=20)[1]
    found[entry] = np.mean([np.isin(t, row).mean() for t, row in zip(true_ten, ids, strict=True)])
    print(f"{entry}: recall@10 {found[entry]:.3f}")
assert abs(found["hierarchy"] - found["sampled"]) < 0.03

# %% [markdown]
# ## 5 · Points that come twice
#
# Real data hold duplicates: the same footer, the same empty page, a thousand times. Duplicates are poison for a
# graph. All nearest neighbours of a copy are the other copies, at distance 0; if they take all places for links, a
# search that enters never leaves. Such a group is called a **sink**. Malkov's rule does not prevent it: "nearer to
# the point than to a chosen neighbour" is answered with *neither, both are 0*, so a copy is kept.
#
# The library's `_not_hidden` has half a line for this: at equal distance, a candidate that is *the same* as a chosen
# one is dropped. So the copies keep one link to a copy, and the other places are for the world. Here is a graph with
# 40 copies of one point, with and without that half line:


# %%
class AsPublished(PlainEngine):
    """Algorithm 4 to the letter: equal distances are no reason to drop a candidate."""

    def _not_hidden(self, candidates, row, children):
        between = self._distances(self._as_query(row))([other for _, other in candidates]) if candidates else []
        return [one for d, one in zip(between, candidates, strict=True) if one[1] in children or d >= one[0]]


class BuiltAsPublished(Built):
    chosen = AsPublished


copies = np.repeat(points[[base]], 40, axis=0)
crowded = np.concatenate([points, copies])[rng.permutation(len(points) + 40)]
group = np.flatnonzero((crowded == points[base]).all(axis=1))
others = np.flatnonzero((crowded != points[base]).any(axis=1))
all_exact = FlatIndex(2, metric="l2")
all_exact.add(crowded)
far = test_points[np.linalg.norm(test_points - points[base], axis=1) > 0.3][:150]
_, truth_far = all_exact.search(far, k=5)

rows = []
for name, kind in (("as published", BuiltAsPublished), ("the library's", Built)):
    one = built(kind, crowded)
    chosen = without_tree(one)
    ends = [to for row, to in chosen if row in group]
    found = []
    for vector in far:
        entered = [int(group[0])]  # a search that has come to a copy
        found.append([row for _, row in traced(opened(one), 0, 20, vector, entered)[0]])
    recall = float(np.mean([np.isin(t, f).mean() for t, f in zip(truth_far, found, strict=True)]))
    into = int(np.isin(ends, group).sum())
    rows.append((name, into, len(ends) - into, len(reached(chosen, int(group[0]))), recall))
what = ["links from copies to copies", "to others", "rows reached from a copy by these links", "recall@5 from a copy"]
draw_table(["rule", *what], rows)
assert rows[0][2] < rows[1][2] and rows[0][3] <= 40 and rows[1][3] > 300 and rows[1][4] > rows[0][4]

# %% [markdown]
# As published, no link leaves the copies: a search that comes here sees nothing else. (That the last column is not
# zero is due to a second safety, the links of a tree. The next part explains it; the columns before leave it out.)
#
# ## 6 · Every row can be reached
#
# Links are *directed*: A may link to B while B, whose list is full, has dropped A. So in most implementations some
# rows end up with no link that leads to them. Nobody ever finds them again, and nobody notices.
#
# The library keeps a **tree of parents** inside the links. Each new row gets a parent: one of its neighbours, which
# links to it and may *never* drop that link ("children of the base are always kept", in `_select`). The first row is
# the root. From it every row can be reached, by construction; `check` proves it for any graph.

# %%
show_source(PlainEngine.adopt)

parents = index._view["parents"]
fig, axes = plt.subplots(1, 2, figsize=(10.5, 5.2))
for ax in axes:
    frame(ax)
    ax.set_aspect("equal")
axes[0].add_collection(LineCollection(every_link, colors=ink.grey, linewidths=0.4))
tree = np.array([(parent, row) for row, parent in enumerate(parents) if row != root])
for ax in axes:
    ax.add_collection(LineCollection(points[tree], colors=ink.green, linewidths=1.1))
    ax.scatter(*points.T, s=6, color=ink.black, linewidth=0)
    ax.scatter(*points[root], s=90, color=ink.red, linewidth=0, zorder=4)
axes[0].set_title("All links of layer 0, those of the tree in green")
axes[1].set_title("The tree alone; red: its root")
plt.show()

stored = set(links_drawn(index))
assert all((int(a), int(b)) in stored for a, b in tree)
above = np.arange(len(points))
for _ in range(len(points)):
    above = parents[above]
assert (above == root).all()  # everybody's ancestors end at the root

print(f"the library's graph: {len(reached(links_drawn(index), root))} of {len(points)} rows are reached")
bare, first = without_tree(without), without._view.facts["root"]
print(f"links to the nearest, without the tree's: {len(reached(bare, first))} rows")
assert len(reached(links_drawn(index), root)) == len(points)

# %% [markdown]
# ## 7 · Points that leave
#
# To remove a point from a graph, one cannot just cut it out: others were reached through it. Many libraries only
# *mark* it, and walk through the dead forever. Here a removed row stays a stepping stone for a while; once there are
# some, each row that linked to a removed one chooses new links, by the same heuristic, among its living neighbours
# and those that lie *behind* the removed ones:

# %%
show_source(PlainEngine.bypass)

hole = np.square(points - [0.5, 0.55]).sum(axis=1) < 0.026
removed = np.flatnonzero(hole)
smaller = built(HNSWIndex, points)
smaller.remove(removed)
living = np.flatnonzero(~hole)
cut = [(a, b) for a, b in links_drawn(index) if not (hole[a] or hole[b])]
healed = links_drawn(smaller)
fresh = [link for link in healed if link not in stored]
print(f"{len(removed)} of {len(points)} points removed")
fig, axes = plt.subplots(1, 2, figsize=(10.5, 5.2))
for ax, links, title in zip(axes, (cut, healed), ("cut out", f"healed: {len(fresh)} new links"), strict=True):
    frame(ax)
    ax.add_collection(LineCollection(points[np.array(links)], colors=ink.sky, linewidths=0.6))
    if links is healed:
        ax.add_collection(LineCollection(points[np.array(fresh)], colors=ink.red, linewidths=0.9))
    ax.scatter(*points[living].T, s=7, color=ink.black, linewidth=0)
    ax.scatter(*points[removed].T, s=14, marker="x", color=ink.grey, linewidth=0.8)
    ax.set(title=title, aspect="equal")
plt.show()

assert len(removed) > 64 and smaller.check() == []
assert len(reached(healed, smaller._view.facts["root"])) == len(living)
_, again = smaller.search(test_points, k=5, ef=20)
assert not np.isin(again, removed).any()

# %% [markdown]
# The new links bridge the hole. One hole would not tear this map apart even if it were simply cut out, but removal at
# random does, sooner than one would think:

# %%
rows = []
for share in (0.2, 0.35, 0.45):
    lost = np.random.default_rng(7).permutation(len(points))[: int(share * len(points))]
    one, left_over = built(HNSWIndex, points), len(points) - len(lost)
    remains = [(a, b) for a, b in links_drawn(one) if a not in lost and b not in lost]
    start = next(row for row in range(len(points)) if row not in lost)
    one.remove(lost)
    healed_too = len(reached(links_drawn(one), one._view.facts["root"]))
    rows.append((f"{share:.0%}", left_over, len(reached(remains, start)), healed_too))
    assert healed_too == left_over
draw_table(
    ["removed at random", "rows left", "reached if they are just cut out", "reached in the library's graph"], rows
)
assert rows[-1][2] < rows[-1][1]

# %% [markdown]
# And does it find as much as before? We take half of the real vectors away, in random order, and compare with a graph
# that has never known them:

# %%
gone = np.random.default_rng(1).permutation(N)[: N // 2]
kept = np.setdiff1d(np.arange(N), gone)
real.remove(gone)
never = HNSWIndex(C, M=16, ef_construction=200, codes="float32")
never.add(vectors[kept], kept)
flat.remove(gone)
_, true_left = flat.search(queries, k=10)
rows = []
for name, one in (("half removed", real), ("built of the other half", never)):
    found = {ef: one.search(queries, k=10, ef=ef)[1] for ef in (20, 80)}
    rows.append(
        (
            name,
            *(
                float(np.mean([np.isin(t, f).mean() for t, f in zip(true_left, found[ef], strict=True)]))
                for ef in found
            ),
        )
    )
    assert one.check() == [] and not np.isin(found[80], gone).any()
draw_table(["graph", "recall@10, ef 20", "ef 80"], rows)
assert abs(rows[0][2] - rows[1][2]) < 0.02

# %% [markdown]
# ## 8 · Codes on the way, floats at the end
#
# All distances on the way only decide where to go next. They may be a little wrong. So the library walks on 4-bit
# codes (lesson 03), 200 bytes instead of 1,536 for a comparison, and orders the pool by the vectors as stored in the
# end:

# %%
rows = []
for codes in ("float32", "int8", "int4"):
    one = HNSWIndex(C, M=16, ef_construction=200, codes=codes)
    one.add(vectors[kept], kept)
    found = {ef: one.search(queries, k=10, ef=ef)[1] for ef in (20, 80)}
    rows.append(
        (
            codes,
            one._walk_codec.stride,
            *(
                float(np.mean([np.isin(t, f).mean() for t, f in zip(true_left, found[ef], strict=True)]))
                for ef in found
            ),
        )
    )
draw_table(["walked on", "bytes per comparison", "recall@10, ef 20", "ef 80"], rows)
assert rows[0][3] - rows[2][3] < 0.02

# %% [markdown]
# ## 9 · Poke it
#
# Change things and see what happens. The `.py` beside this notebook is its source, and everything is imported from
# `minibi`: to look into a function, put it into `show_source(...)`.
#
# 1. **Another order.** Build the graph of part 0 with the points sorted from left to right. Does the descent get
#    longer? What became of the median link length? *Hint:* `built(HNSWIndex, points[np.argsort(points[:, 0])])`.
# 2. **More links.** M = 2, 8, 16 in two dimensions, at `ef=8`: comparisons and recall. Begun below.
# 3. **A stricter heuristic.** Let a candidate pass only if it is at least 1.2 times nearer to the point than to every
#    chosen one (DiskANN's $\alpha$ is the other way round, 1.2 times *farther* is still accepted). Fewer links, more
#    links? *Hint:* a class like `AsPublished`.
# 4. **Patience.** Stop a search when the pool has not changed for 10 steps. How many comparisons does it save at
#    equal recall? *Hint:* raise an exception of your own in `expanding`, and take the pool from what was compared.
# 5. **A far query.** Where does a walk end whose query lies far outside of the map, say at (3, 3)? Is that the
#    nearest point?
# 6. **Two islands.** Put two clusters at a distance of 100 from each other. Which links hold them together, and what
#    happens to recall when you take the tree's links away?

# %%
# Your turn. For a start on the second one:
for m in (2, 4, 8, 16):
    one = HNSWIndex(2, metric="l2", M=m, ef_construction=60)
    one.add(points)
    recall, made = measured(opened(one), one, test_points[:100], truth[:100], 8, "layers")
    per_point = Counter(a for a, _ in links_drawn(one))
    print(
        f"M = {m}: {np.mean(list(per_point.values())):.1f} links per point, recall {recall:.3f}, {made:.0f} comparisons"
    )

# %% [markdown]
# ### Where to read on
#
# | what | file |
# |:---|:---|
# | the paper's algorithms, readable | `minibi/index/hnsw_plain.py` |
# | the index: batches, levels, searching, filters | `minibi/index/hnsw.py` |
# | removal, the tree of parents, the proof | `minibi/index/hnsw_repair.py` |
# | the same, compiled: walks that take turns, links | `minibi/kernels/walk.py`, `minibi/kernels/graph_build.py` |
# | speed beside other libraries | `benchmarks/ann`, `benchmarks/RESULTS.md` |
