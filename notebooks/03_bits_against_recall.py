# %% [markdown]
# # Bits against recall
#
# A vector of 384 numbers takes 1,536 bytes. A million of them take 1.5 GB, and an exact search must read all of it
# for every question. This lesson asks: **how few bits can a vector be kept in, so that its nearest neighbours are
# still found?** The answer is surprising. One bit per number already does most of the work, if one knows how wrong it
# can be.
#
# We follow one vector into fewer and fewer bits, find out what the error looks like and why it is not a bias, and then
# put all indexes of the library on one curve: bytes per vector against the share of neighbours found.
#
# You need some Python and some linear algebra, and to know what a search by vectors is (lesson 01). Everything works
# offline. The first run encodes 5,183 abstracts, which takes a minute or two; after that the lesson takes seconds.

# %%
import math

import matplotlib.pyplot as plt
import numpy as np
from lesson import QUICK, draw_table, encode_once, frame, ink, pca, scifact, show_source, style

from minibi import BiEncoder, FlatIndex

style()

# %% [markdown]
# ## 0 · The question
#
# The vectors are real: scientific abstracts, searched by scientific claims (SciFact). What counts as right is what an
# exact search in float32 finds. **Recall@10** is the share of the ten true nearest neighbours that some cheaper search
# finds too, averaged over the claims.

# %%
model = BiEncoder("all-MiniLM-L6-v2", compute="int8")
_, test = scifact()
vectors = encode_once(model, test.docs)
queries = model.encode_query(list(test.queries.values()))
N, C = vectors.shape

exact = FlatIndex(C)
exact.add(vectors)
_, truth = exact.search(queries, k=10)


def recall_at_10(found: np.ndarray) -> float:
    """The share of the true ten among the found [Q, K]; -1 stands for nothing."""
    return float(np.mean([np.isin(t, f).mean() for t, f in zip(truth, found, strict=True)]))


print(f"{N} vectors of {C} numbers: {vectors.nbytes / 1e6:.1f} MB;  {len(queries)} queries")
assert recall_at_10(truth) == 1.0

# %% [markdown]
# ## 1 · A rotation makes coordinates alike
#
# To keep a number in 4 bits is to choose one of 16 marks for it. Where should the marks lie? If each coordinate had
# its own distribution, each would need its own marks, learned from data that tomorrow may be different. So before
# anything else the library **rotates** the vectors. A rotation $R$ changes no length and no product,
#
# $$ \langle R x, R y\rangle = \langle x, y \rangle, $$
#
# so nothing is lost by it. And if $R$ is random, every new coordinate is a sum of many old ones with random signs.
# Sums of many small things look like a bell curve, whatever the things were (the central limit theorem). A random
# rotation therefore turns *any* vector into one whose coordinates look like draws from one and the same Gaussian, and
# for that one the best marks have been known since 1960.
#
# A random $384 \times 384$ matrix would do, for 147,456 multiplications a vector. The library takes three rounds of
# random signs and Hadamard transforms instead, which only add and subtract:

# %%
from minibi.index import codes

show_source(codes.rotate_plain, codes._hadamard)

codec = codes.codec_for("int4", C)
turned = codec.rotate(vectors)
assert np.allclose(np.linalg.norm(turned, axis=1), 1, atol=1e-5)
assert np.allclose(turned[:50] @ turned[:50].T, vectors[:50] @ vectors[:50].T, atol=1e-5)

# %% [markdown]
# Three kinds of vectors, before and after. The first is the worst case: a single number, all else zero. The second are
# states from *inside* the model, which are known for a few channels that are far larger than the others. The third are
# the vectors that we want to store.

# %%
states = np.concatenate([model.study(text[:400]).states[4] for text in test.docs[:12]])
single = np.zeros((1, C), np.float32)
single[0, 100] = 1
kinds = {"one number, the rest zero": single, "states inside the model": states, "the vectors of texts": vectors[:2000]}


def in_deviations(x: np.ndarray) -> np.ndarray:
    """Coordinates in units of their vector's own root mean square."""
    return (x / np.sqrt(np.square(x).mean(axis=1, keepdims=True))).ravel()


fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.2), sharey=True)
grid = np.linspace(-6, 6, 49)
bell = np.exp(-(grid**2) / 2) / math.sqrt(2 * math.pi)
for ax, (name, x) in zip(axes, kinds.items(), strict=True):
    before, after = in_deviations(x), in_deviations(codec.rotate(x))
    ax.hist(before, grid, density=True, color=ink.orange, alpha=0.55, label="before")
    ax.hist(after, grid, density=True, histtype="step", color=ink.blue, lw=1.4, label="after")
    ax.plot(grid, bell, color=ink.black, lw=1, ls="--", label="Gaussian")
    ax.set(title=name, xlabel="coordinate, in deviations", xlim=(-5, 5), ylim=(1e-4, 30), yscale="log")
    ax.text(0.03, 0.97, f"largest: {np.abs(before).max():.1f} before,\n{np.abs(after).max():.1f} after",
            va="top", transform=ax.transAxes, size=8.5)  # fmt: skip
axes[0].set_ylabel("density")
axes[2].legend(loc="upper right", fontsize=8.5)
plt.show()

spiky, calm = in_deviations(states), in_deviations(codec.rotate(states))
assert np.abs(spiky).max() > 1.5 * np.abs(calm).max()

# %% [markdown]
# In the middle the rotation does what it is for: values many deviations out, for which any common grid of marks would
# be too narrow, are gone. On the right it has little left to do: the vectors of this model are nearly Gaussian by
# themselves. (Not quite, one of their 384 coordinates is the same for every text.) But an index does not know which
# model its vectors will come from. It rotates, and need not know.

# %% [markdown]
# ## 2 · Choosing marks
#
# Now a grid. With $b$ bits there are $2^b$ levels per coordinate, at odd multiples of half a step. The vector's own
# deviation sets the scale, so nothing is learned from data and nothing must be recalibrated when data change. This is
# the code for 8 and for 4 bits, and the search for the best step where bits are few:

# %%
from minibi.index import rabitq

show_source(codes.Codes._encode_plain, rabitq.levels_plain)

# %% [markdown]
# How far is the code from the vector? A code is whole numbers, so only its *direction* counts: let
# $a = \cos(x, y)$ be the cosine of a vector and its code. If the code is scaled as well as can be, a share
# $1 - a^2$ of the vector's square is lost. Theory has two marks for Gaussian coordinates: the best uniform grid (Max
# 1960), and what nobody could beat even with all coordinates coded together: $2^{-2b}$ (Shannon's rate distortion).

# %%
BITS = range(1, 9)
some = turned[:1000]
lost = {}
for b in BITS:
    steps = np.array([rabitq.MAX_STEP.get(b, 1.0) * t for t in rabitq.TRIED], np.float32)
    y = 2.0 * rabitq.levels_plain(some, b, steps) - (2**b - 1)
    a = (y * some).sum(axis=1) / np.linalg.norm(y, axis=1) / np.linalg.norm(some, axis=1)
    lost[b] = float((1 - a**2).mean())

shannon = {b: 2.0 ** (-2 * b) for b in BITS}
uniform = {1: 0.3634, 2: 0.1188, 3: 0.03744, 4: 0.01154, 5: 0.003495}
fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.6), width_ratios=[1.35, 1])
row = turned[0, :40]
steps = np.array([rabitq.MAX_STEP[2] * t for t in rabitq.TRIED], np.float32)
for b, colour, marker in ((4, ink.green, "D"), (2, ink.orange, "s"), (1, ink.red, "o")):
    steps = np.array([rabitq.MAX_STEP.get(b, 1.0) * t for t in rabitq.TRIED], np.float32)
    y = 2.0 * rabitq.levels_plain(turned[:1], b, steps)[0] - (2**b - 1)
    left.plot(y[:40] * (turned[0] @ y) / (y @ y), marker, color=colour, ms=4, label=f"{b} bit{'s' * (b > 1)}")
left.plot(row, color=ink.black, lw=1, label="the vector")
left.set(title="The first 40 coordinates of one vector, and its codes", xlabel="coordinate (after rotation)")
left.set_ylabel("value")
left.legend(ncols=4, loc="upper center", fontsize=8.5, columnspacing=1)
left.set_ylim(top=0.21)
right.plot(list(BITS), list(lost.values()), color=ink.blue, marker="o", label="measured on our vectors")
right.plot(list(uniform), list(uniform.values()), "--", color=ink.black, lw=1, label="best uniform grid, Gaussian")
right.plot(list(BITS), list(shannon.values()), ":", color=ink.grey, lw=2, label="nobody can do better")
right.set(title="What is lost", xlabel="bits per coordinate", ylabel="share of the square", yscale="log")
right.legend(fontsize=8.5)
plt.show()

print("one bit:", f"{lost[1]:.3f} of the square is lost, 1 - 2/pi = {1 - 2 / math.pi:.3f}")
assert abs(lost[1] - (1 - 2 / math.pi)) < 0.02 and all(lost[b] > shannon[b] for b in BITS)
assert all(0.7 < lost[b] / uniform[b] < 1.25 for b in uniform)

# %% [markdown]
# The measured curve follows the theory's, and leaves it downwards in the end, since every vector may choose its own
# step. Each bit more divides the loss by three to four. And with one bit, the sign alone, nearly two thirds of the
# vector are still there: $a^2 = 2/\pi$.

# %% [markdown]
# ## 3 · The factor: why the error is no bias
#
# A search needs products $\langle q, x\rangle$, of a query and a vector that it has only as a code $y$. One would take
# the best copy of $x$ that the code allows, $x' = y\,\langle x, y\rangle / \lVert y \rVert^2$, and compute
# $\langle q, x'\rangle$. That is a mistake: of $x$ itself, $x'$ contains only the part $a^2 x$ (the rest of it is at a
# right angle to $x$), and products come out too small by this factor. Split the code into a part along the vector and
# the rest:
#
# $$ y = \frac{\langle x, y\rangle}{\lVert x\rVert^2}\, x + e, \qquad e \perp x $$
#
# Take the product with $q$ and solve for what we want:
#
# $$ \langle q, x\rangle = f\,\langle q, y\rangle - f\,\langle q, e\rangle,
# \qquad f = \frac{\lVert x\rVert^2}{\langle x, y\rangle} $$
#
# The first term can be computed from the code, if $f$ is stored with it. The second is the error. Because the
# rotation was random, $e$ points in a random direction among all those at a right angle to $x$: it is as often on the
# query's side as on the other. So $f\,\langle q, y\rangle$ is right **on average**, without any bias. This is
# RaBitQ's estimate (Gao & Long 2024). One float per vector is the whole price, and the library pays it for its 8 and
# 4 bit codes too: it is the `factor` in the source above.
#
# Here it is for one bit. On the left all pairs of some vectors and queries. On the right a single pair under 2,000
# different rotations, to see the average that the formula promises.

# %%
turned_queries = codec.rotate(queries)
x, q = turned[:300], turned_queries[:60]
y = np.sign(x)
along = (x * y).sum(axis=1)
product = q @ x.T
shrunk = (q @ y.T) * along / np.square(y).sum(axis=1)  # <q, x'>, from the best copy
estimate = (q @ y.T) * np.square(x).sum(axis=1) / along  # f <q, y>

rng = np.random.default_rng(3)
pair = np.stack([vectors[truth[0, 0]], queries[0]])
again = []
for _ in range(2000):
    flipped = pair[:, rng.permutation(C)] * rng.choice(np.float32([-1, 1]), C)  # another rotation: shuffled, signs
    one, asked = codec.rotate(flipped)
    code = np.sign(one)
    again.append((asked @ code / (one @ code), asked @ code * (one @ code) / (code @ code)))
again = np.array(again)
true = float(pair[0] @ pair[1])

fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8))
left.plot(product[::6].ravel(), shrunk[::6].ravel(), ".", color=ink.orange, ms=2, alpha=0.5)
left.plot(product[::6].ravel(), estimate[::6].ravel(), ".", color=ink.blue, ms=2, alpha=0.5)
ends = np.array([product.min(), product.max()])
left.plot(ends, ends, color=ink.black, lw=1)
left.plot(ends, ends * 2 / math.pi, color=ink.black, lw=1, ls="--")
left.plot([], [], "o", color=ink.blue, ms=4, label="with the factor")
left.plot([], [], "o", color=ink.orange, ms=4, label="product with the best copy")
left.plot([], [], "--", color=ink.black, lw=1, label=r"2/$\pi$ of the truth")
left.set(title="Products from one bit per coordinate", xlabel="true product", ylabel="estimate")
left.legend(loc="upper left", fontsize=8.5)
right.hist(again[:, 1], 50, color=ink.orange, alpha=0.7, label="product with the best copy")
right.hist(again[:, 0], 50, color=ink.blue, alpha=0.7, label="with the factor")
right.axvline(true, color=ink.black, lw=1.5)
right.text(true, right.get_ylim()[1] * 0.98, " the truth", va="top")
right.set(title="One pair, 2,000 rotations", xlabel="estimate", ylabel="rotations")
right.set_ylim(top=right.get_ylim()[1] * 1.2)
right.legend(fontsize=8.5, loc="upper left")
plt.show()

mean, naive = again.mean(axis=0)
print(f"true product {true:.4f};  mean of the estimates {mean:.4f}, of the naive ones {naive:.4f}")
assert abs(mean - true) < 0.004 and abs(naive - true * 2 / math.pi) < 0.02

# %% [markdown]
# For ranking alone a factor common to all vectors would not matter. But $f$ differs from vector to vector, and above
# all: only an estimate of the *right* number can be compared with exact numbers, and given a bound.

# %% [markdown]
# ## 4 · The bound
#
# How large is the error $f\,\langle q, e\rangle$? Its direction is random in $D - 1$ dimensions, so a fixed direction
# gets a share of about $1/\sqrt{D - 1}$ of its length. With $\lVert e\rVert$ written by the angle $a$ this gives
#
# $$ \text{error} < \epsilon\, \lVert x\rVert\, \lVert q\rVert \sqrt{\frac{1 - a^2}{a^2}\,\frac1{D - 1}} $$
#
# except for a few times in a hundred at $\epsilon = 1.9$, and practically never at 4. (The index codes $x - c$
# instead of $x$, where $c$ is the mean of all vectors. What remains is shorter, and so is the error.) Everything on
# the right is known *before* anybody looks at $x$ itself. `estimates` returns both numbers for every pair:

# %%
from minibi.index.rabitq import RaBitQIndex

coded = {}
for b in (1, 2, 4):
    coded[b] = RaBitQIndex(C, bits=b, train_size=100)
    coded[b].add(vectors)
asked = queries[:100]
product = -(asked @ vectors.T)  # a distance: smaller is nearer
deviations = {}
rows = []
for b, index in coded.items():
    distances, errors, ids = index.estimates(asked)
    deviations[b] = (distances - product[:, ids]) / errors
    beyond = [np.mean(np.abs(deviations[b]) > limit) for limit in (1.0, 1.9, 3.0, 4.0)]
    rows.append((b, float(np.median(errors)), *(f"{share:.3%}" for share in beyond)))
draw_table(["bits", "one error, median", "beyond 1", "beyond 1.9", "beyond 3", "beyond 4"], rows)
assert all(np.mean(np.abs(z) > 1.9) < 0.08 and np.mean(np.abs(z) > 4) < 1e-3 for z in deviations.values())

distances, errors, ids = coded[1].estimates(asked[:1])
fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.9), width_ratios=[1, 1.35])
left.hist(np.clip(deviations[1], -5, 5).ravel(), np.linspace(-5, 5, 81), density=True, color=ink.sky, label="1 bit")
left.hist(np.clip(deviations[4], -5, 5).ravel(), np.linspace(-5, 5, 81), density=True, histtype="step",
          color=ink.red, label="4 bits")  # fmt: skip
left.plot(grid, bell, "--", color=ink.black, lw=1, label="Gaussian")
for end in (-1.9, 1.9):
    left.axvline(end, color=ink.black, lw=1, ls=":")
left.text(1.95, 0.42, r"$\epsilon$ = 1.9")
left.set(title="True error over promised error, all pairs", xlabel="errors", ylabel="density", xlim=(-5, 5))
left.legend(loc="upper left", fontsize=8.5)
order = np.argsort(distances[0])[:120]
middle, reach = -distances[0][order], 1.9 * errors[0][order]
right.errorbar(np.arange(120), middle, reach, fmt="none", ecolor=ink.sky, elinewidth=2.2, label="estimate, 1.9 errors")
right.plot(-product[0][ids[order]], "o", color=ink.black, ms=2.5, label="true product")
kept_from = np.sort(-distances[0] - 1.9 * errors[0])[-10]
right.axhline(kept_from, color=ink.red, lw=1.5, label="ten lower ends are above this line")
right.set(title="The 120 that one bit holds to be nearest, one query", xlabel="rank by the code", ylabel="product")
right.legend(loc="upper right", fontsize=8.5)
plt.show()

# %% [markdown]
# The promise holds for every number of bits: only the unit changes, the *shape* of the error does not. And the
# picture on the right is a whole search algorithm. Ten vectors have their lower ends above the red line, so whoever
# has his upper end *below* it cannot be among the best ten. Only those that reach over the line must be compared
# exactly. There is no "how many candidates shall I keep?" to be tuned. The bound says it for each query, many where
# it is close and few where it is clear:

# %%
show_source(rabitq.IVFRaBitQIndex._kept_plain)

distances, errors, ids = coded[1].estimates(queries)
rows = []
for epsilon in (0.5, 1.0, 1.9, 3.0):
    lower, upper = distances - epsilon * errors, distances + epsilon * errors
    line = np.partition(upper, 9, axis=1)[:, 9:10]
    compared = (lower <= line).sum(axis=1)
    coded[1].epsilon = epsilon
    _, found = coded[1].search(queries, k=10)
    rows.append((epsilon, int(np.median(compared)), f"{compared.min()} … {compared.max()}", recall_at_10(found)))
coded[1].epsilon = 1.9
draw_table(["epsilon", "compared exactly, median", "least … most", "recall@10"], rows)
print(f"of {N} vectors. The library's search draws the line as it goes, so it compares somewhat more or less.")
recalls = [row[-1] for row in rows]
assert recalls == sorted(recalls) and recalls[2] > 0.99

# %% [markdown]
# With one bit per coordinate, a scan of codes and a look at a few per cent of the vectors, the search is all but
# exact.
#
# Signs can also be compared with signs, by counting those that differ (`BinaryIndex`). That is cheaper still, but the
# query has then lost its numbers too, and no bound comes with it. We shall see what it costs.

# %% [markdown]
# ## 5 · Product quantization: learned marks for a few coordinates at once
#
# So far each coordinate was coded alone, on a grid that knows nothing of the data. The opposite idea: cut the vector
# into $M$ **sub-spaces** of a few coordinates, and for each *learn* 16 (or 256) typical pieces by k-means. A vector
# becomes $M$ small numbers: which typical piece is nearest (Jégou, Douze & Schmid 2011).

# %%
from minibi.index import pq
from minibi.index.pq import PQIndex

show_source(pq.encode_plain, pq.decode, pq.tables_plain)

residuals = vectors - vectors.mean(axis=0)
books = pq.learn_codebooks(residuals, 192, 4, 15, np.random.default_rng(0))  # 192 sub-spaces of 2 coordinates: drawable
letters = pq.encode(residuals, books)
print("codebooks", books.shape, " codes", letters.shape, " back again", pq.decode(letters, books).shape)

fig, axes = plt.subplots(1, 2, figsize=(9.5, 4.4))
for ax, m in zip(axes, (20, 90), strict=True):
    words = books[m].transpose(0, 2, 1).reshape(-1, 2)
    piece = residuals[:, 2 * m : 2 * m + 2]
    reach = 1.1 * np.abs(np.quantile(piece, [0.002, 0.998], axis=0)).max()
    mesh = np.stack(np.meshgrid(*[np.linspace(-reach, reach, 240)] * 2), axis=-1)
    cell = np.square(mesh[:, :, None] - words).sum(axis=-1).argmin(axis=-1)
    ax.scatter(*piece[:1200].T, s=3, color=ink.sky, linewidth=0)
    for word in range(16):
        ax.contour(mesh[..., 0], mesh[..., 1], cell == word, [0.5], colors=ink.grey, linewidths=0.7)
    ax.scatter(*words.T, s=28, color=ink.red, edgecolor="white", linewidth=0.6, zorder=3)
    ax.set(title=f"sub-space {m}: coordinates {2 * m} and {2 * m + 1}", xlim=(-reach, reach), ylim=(-reach, reach))
    ax.set(xlabel=f"coordinate {2 * m}", ylabel=f"coordinate {2 * m + 1}", aspect="equal")
plt.show()

# %% [markdown]
# Blue: the pieces of vectors. Red: the 16 typical ones that k-means found, and around each the cell of what is nearest
# to it. The marks are dense where the data are dense, which is what "learned" means.
#
# The product with a query falls apart into the sub-spaces. So one computes the products of the query's pieces with all
# typical pieces once, a small **table**, and afterwards the product with any vector is $M$ look-ups and a sum:
#
# $$ \langle q, x'\rangle = \sum_{m=1}^{M} \langle q_m, x'_m\rangle = \sum_{m=1}^{M} T_m[\text{code}_m] $$

# %%
table = -pq.tables_plain(queries[:1], books)[0]  # (M, 16)
looked_up = table[np.arange(192), letters].sum(axis=1)
assert np.allclose(looked_up, pq.decode(letters, books) @ queries[0], atol=1e-5)
print("the table of one query:", table.shape, "numbers; with them every vector is", len(table), "look-ups")

rows, shares = [], {}
square = np.square(residuals).sum()
for M, b in ((192, 4), (96, 4), (48, 4), (24, 4), (96, 8), (48, 8), (24, 8)):
    own = pq.learn_codebooks(residuals, M, b, 8, np.random.default_rng(0))
    back = pq.decode(pq.encode(residuals, own), own)
    shares[M, b] = float(np.square(residuals - back).sum() / square)
    rows.append((M, C // M, b, M * b // 8, f"{M * b / C:.2f}", shares[M, b], 2.0 ** (-2 * M * b / C)))
draw_table(["M", "coordinates of each", "bits", "bytes", "bits per coordinate", "share lost", "nobody, Gaussian"], rows)
assert shares[192, 4] < shares[96, 4] < shares[48, 4] < shares[24, 4] and shares[48, 8] < shares[48, 4]

# %% [markdown]
# Compare the rows with equal bytes: 96 × 4 bits and 48 × 8 bits are 48 bytes either way. Longer pieces with more
# typical ones fit better (they see how coordinates go together), but the tables are sixteen times as large: 16
# entries fit in a register of the processor, 256 do not. That is why 4 bits is the fast form.

# %% [markdown]
# ## 6 · IVF: do not look everywhere
#
# Fewer bytes per vector is one way to read less. The other is to read fewer vectors. An **inverted file** sorts the
# vectors into lists around centroids, found by k-means too, and a search reads only the `nprobe` lists whose centroids
# are nearest to the query.

# %%
from minibi.index import lists
from minibi.index.ivf import IVFIndex

show_source(lists.sort_rows)

ivf = IVFIndex(C, nlist=16 if QUICK else 64, train_size=100)
ivf.add(vectors)
learned = ivf._view.facts["learned"].centroids
cells = ivf._view["cells"]
steps = [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64) if n <= len(learned)]
found = {n: ivf.search(queries, k=10, nprobe=n)[1] for n in steps}
by_probe = [recall_at_10(found[n]) for n in steps]
nearest_lists = np.argsort(-(queries @ learned.T), axis=1, kind="stable")
sizes = np.bincount(cells, minlength=len(learned))
read = [sizes[nearest_lists[:, :n]].sum(axis=1).mean() / N for n in steps]
place = (nearest_lists[:, None] == cells[truth][:, :, None]).argmax(axis=2)  # (Q, 10): in which of the query's lists
assert np.isclose(by_probe[3], (place < steps[3]).mean(), atol=1e-6)  # recall is just: is the list among those read?

plane, _ = pca(vectors)
xy, centre_xy, query_xy = (((v - vectors.mean(axis=0)) @ plane.T) for v in (vectors, learned, queries[:1]))
fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 4.2), width_ratios=[1.15, 1])
frame(left)
left.scatter(*xy[::2].T, s=3, color=ink.grey, linewidth=0)
for n, colour in ((4, ink.sky), (1, ink.blue)):
    inside = np.isin(cells, nearest_lists[0, :n])
    label = "its nearest list" if n == 1 else "the next three"
    left.scatter(*xy[inside].T, s=6, color=colour, linewidth=0, label=label)
left.scatter(*centre_xy.T, s=22, marker="x", color=ink.black, linewidth=0.8, label="centroids")
left.scatter(*xy[truth[0]].T, s=40, facecolor="none", edgecolor=ink.red, label="the ten true neighbours")
left.scatter(*query_xy.T, s=200, marker="*", color="white", edgecolor=ink.black, label="one query", zorder=4)
left.set_title(f"{len(learned)} lists, of which a query reads a few")
left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.01), ncols=3, fontsize=8, handletextpad=0.2)
right.plot(steps, by_probe, color=ink.blue, marker="o", label="recall@10")
right.plot(steps, read, color=ink.orange, marker="s", label="share of the vectors read")
right.set(title="More lists, more neighbours", xlabel="nprobe, lists read", ylabel="share")
right.set(xscale="log", ylim=(0, 1.03))
right.set_xticks(steps[::2], map(str, steps[::2]))
right.minorticks_off()
right.legend(loc="center left", bbox_to_anchor=(0, 0.36))
plt.show()

enough = next(n for n, share in zip(steps, by_probe, strict=True) if share >= 0.95)
share = read[steps.index(enough)]
print(f"{enough} of {len(learned)} lists hold 95 % of the neighbours, and {share:.0%} of the vectors")
assert by_probe[-1] == 1.0 and (QUICK or by_probe == sorted(by_probe))

# %% [markdown]
# What IVF misses has a simple reason: a neighbour lies in a list that was not read. In two dimensions a point has few
# neighbouring cells; in 384 it lies near the border of many, and that is why the curve takes its time. On five
# thousand vectors this hardly pays. On millions, where a list out of sixteen thousand is read, it does.

# %% [markdown]
# ## 7 · One curve for all
#
# Now everything together: bytes per vector against recall@10. First by **codes alone**: the ten that the codes hold to
# be nearest. (For `ef=10` an index keeps ten candidates by its codes, and ordering those by the stored vectors cannot
# bring in others. RaBitQ's `estimates` rank as they are.)

# %%
from minibi.index.binary import BinaryIndex

alone: dict[str, list[tuple[float, float]]] = {}


def note(family: str, size: float, found: np.ndarray) -> None:
    alone.setdefault(family, []).append((size, recall_at_10(found)))


for store in ("float32", "float16", "int8", "int4"):
    flat = FlatIndex(C, store=store)
    flat.add(vectors)
    note("grids: float32, float16, int8, int4", codes.codec_for(store, C).stride, flat.search(queries, k=10)[1])
for b in (1, 2, 3, 4, 6):
    index = coded.get(b) or RaBitQIndex(C, bits=b, train_size=100)
    if b not in coded:
        index.add(vectors)
    distances, _, ids = index.estimates(queries)
    note("RaBitQ, 1 to 6 bits", C * b / 8 + 16, ids[np.argsort(distances, axis=1, kind="stable")[:, :10]])
products = {}
for M, b in ((24, 4), (48, 4), (96, 4), (192, 4), (24, 8), (48, 8), (96, 8)):
    products[M, b] = PQIndex(C, M=M, bits=b, train_size=100)
    products[M, b].add(vectors)
    note(f"PQ, {b} bits", M * b / 8 + 8, products[M, b].search(queries, k=10, ef=10)[1])
signs = BinaryIndex(C, train_size=100)
signs.add(vectors)
note("binary, sign against sign", C / 8, signs.search(queries, k=10, ef=10)[1])

fig, ax = plt.subplots(figsize=(9, 4.6))
looks = [(ink.black, "s"), (ink.blue, "o"), (ink.orange, "^"), (ink.red, "v"), (ink.green, "D")]
for (family, points), (colour, marker) in zip(alone.items(), looks, strict=True):
    points = sorted(points)
    ax.plot(*zip(*points, strict=True), color=colour, marker=marker, ms=6, label=family)
ax.set(title="Ten neighbours by codes alone", xlabel="bytes per vector, corrections included", ylabel="recall@10")
ax.set(xscale="log", ylim=(0, 1.03))
ticks = [20, 50, 100, 200, 400, 800, 1536]
ax.set_xticks(ticks, map(str, ticks))
ax.minorticks_off()
ax.legend(loc="lower right")
plt.show()

grids = dict(alone["grids: float32, float16, int8, int4"])
int8, int4 = (grids[codes.codec_for(store, C).stride] for store in ("int8", "int4"))
one_bit, two_bits = (recall for _, recall in alone["RaBitQ, 1 to 6 bits"][:2])
((_, by_signs),) = alone["binary, sign against sign"]
print(f"int8 {int8:.3f}, int4 {int4:.3f}, one bit of RaBitQ {one_bit:.3f}, sign against sign {by_signs:.3f}")
assert int8 > 0.98 and int4 > 0.9 and two_bits > one_bit > by_signs

# %% [markdown]
# Bits buy recall along one curve, with a knee: down to 4 bits a coordinate hardly anything happens, at 1 bit a
# quarter or more of the neighbours is missed. Learned codes (PQ) are ahead where bytes are very few; in the middle
# the simple grids are as good, and need no training. Sign against sign pays for having rounded the query too: it
# stores three quarters of the bytes of RaBitQ's one bit, and finds far less.
#
# ### Rescoring
#
# But why should the codes have the last word? Let them choose `ef` candidates, more than wanted, and order only these
# by the exact vectors. The neighbour that was pushed from rank 8 to rank 15 is then found again:

# %%
coarse = {
    "int4": IVFIndex(C, nlist=1, codes="int4", train_size=100),
    "PQ 96 × 4 bits": products[96, 4], "PQ 24 × 4 bits": products[24, 4], "binary": signs,
}  # fmt: skip
coarse["int4"].add(vectors)
breadths = [10, 15, 20, 30, 50, 80, 120, 200, 400]
fig, ax = plt.subplots(figsize=(8.5, 3.9))
rescored = {}
for (name, index), (colour, marker) in zip(coarse.items(), [looks[0], looks[2], looks[3], looks[4]], strict=True):
    rescored[name] = [recall_at_10(index.search(queries, k=10, ef=ef)[1]) for ef in breadths]
    ax.plot(breadths, rescored[name], color=colour, marker=marker, label=name)
ax.set(title="A few more candidates, ordered exactly", xlabel="ef, candidates by codes", ylabel="recall@10")
ax.set_xscale("log")
ax.set_xticks(breadths, map(str, breadths))
ax.minorticks_off()
ax.set_ylim(top=1.02)
ax.legend(loc="lower right")
plt.show()

rows = []
size = {"int4": 200, "PQ 96 × 4 bits": 56, "PQ 24 × 4 bits": 20, "binary": 48}
for name, recalls in rescored.items():
    enough = next(ef for ef, recall in zip(breadths, recalls, strict=True) if recall >= 0.95)
    read_bytes = N * size[name] + enough * 4 * C
    rows.append((name, size[name], recalls[0], enough, f"{4 * C * N / read_bytes:.1f}"))
draw_table(["codes", "bytes", "recall alone", "ef for recall 0.95", "an exact search reads more bytes, times"], rows)
assert all(recalls == sorted(recalls) for recalls in rescored.values())
assert rescored["int4"][2] > 0.99

# %% [markdown]
# That is the whole trick of fast vector search, in every library: **a coarse look at everything, an exact look at a
# few**. The coarse look decides the speed, the exact look the quality, and a graph (lesson 04) or lists only decide
# which "everything" is looked at. The float32 vectors are still there, but they may lie on a disk: few of them are
# read.
#
# ## 8 · Which one?
#
# For five thousand vectors: none of them. A scan of all of them takes about a millisecond. The library says so:

# %%
from minibi.index.factory import index_factory, recommend

rows = []
for n, memory in ((5_000, None), (1_000_000, 4_000_000_000), (1_000_000, 1_800_000_000), (1_000_000, 300_000_000)):
    name, why = recommend(n, C, memory)
    rows.append((f"{n:,}", "any" if memory is None else f"{memory / 1e9:g} GB", f"`{name}`", why))
draw_table(["vectors", "memory", "index", "because"], rows)
assert rows[0][2] == "`Flat`"
print(index_factory("IVF64,PQ96x4fs", C))

# %% [markdown]
# ## 9 · Poke it
#
# Change things and see what happens. The `.py` beside this notebook is its source, and everything is imported from
# `minibi`: to look into a function, put it into `show_source(...)`.
#
# 1. **Without the rotation.** Give `PQIndex` the argument `rotation="random"` or `"opq"`. Which of them helps on these
#    vectors, and why might a random rotation *harm* PQ? *Hint:* k-means likes coordinates that go together.
# 2. **Vectors with outliers.** Search among the `states` of part 1 instead of text vectors, with int4 codes. Compare
#    with codes of unrotated vectors: `codec._encode_plain(states)` codes without rotating, begun below.
# 3. **The query in bytes.** RaBitQ rounds queries to bytes. Is that error visible beside the one from coding vectors?
#    *Hint:* `index._coded(queries)` returns the length of what rounding left out.
# 4. **A tighter line.** In part 4 the line moves down if you ask for k = 100 instead of 10. How many vectors must
#    then be compared exactly? Predict first.
# 5. **Other lists.** Take 16 or 256 lists instead of 64. At the same share of vectors read, which finds more?
# 6. **Fewer dimensions.** Keep the first 96 numbers of each vector (and `unit_rows` of `minibi.shapes`), in 8 bits
#    each. Is that better or worse than 384 numbers in 2 bits each? Both are 96 bytes.

# %%
# Your turn. For a start on the second one:
for what, coordinates in (("rotated", codec.rotate(states)), ("as they are", states)):
    y = codec._centred(codec._encode_plain(coordinates)).astype(np.float64)
    a = (y * coordinates).sum(axis=1) / np.linalg.norm(y, axis=1) / np.linalg.norm(coordinates, axis=1)
    print(f"states inside the model, {what}: {np.mean(1 - a**2):.4f} of the square is lost at 4 bits")

# %% [markdown]
# ### Where to read on
#
# | what | file |
# |:---|:---|
# | rotation, codes of 8 and 4 bits | `minibi/index/codes.py` |
# | one to eight bits with a bound | `minibi/index/rabitq.py` |
# | signs | `minibi/index/binary.py` |
# | product quantization | `minibi/index/pq.py` |
# | lists, training | `minibi/index/ivf.py`, `minibi/index/kmeans.py` |
# | indexes by name, and advice | `minibi/index/factory.py` |
# | the same in registers | `minibi/kernels/codes.py`, `minibi/kernels/bits.py`, `minibi/kernels/pq.py` |
# | speed, beside other libraries | `benchmarks/ann`, `benchmarks/RESULTS.md` |
