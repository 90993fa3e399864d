# %% [markdown]
# # InfoNCE: what temperature and batch size do
#
# Nearly every text embedding model is trained with one loss. A batch holds pairs, a query and its document; each query
# must find its own document among those of all the others. The loss has two knobs, temperature and batch size, and this
# lesson shows what they do on real pairs: names of Python's standard library, and what their documentation says.
#
# > scores → probabilities → a gradient → temperature → batch size → batches that do not fit in memory
#
# [Lesson 07](07_backpropagation.ipynb) tells how a gradient by the vectors goes on into the model.

# %%
import re

import matplotlib.pyplot as plt
import numpy as np
from lesson import draw_table, ink, show_source, style

from minibi import BiEncoder
from minibi.app.stdlib_docs import stdlib_docs
from minibi.nn.gradcheck import gradcheck
from minibi.train.losses import grad_cache, info_nce, same_text_masks

style()

# %% [markdown]
# ## 1 · Real pairs
#
# The query is a name, written as words; the document is the first sentence of its documentation.

# %%
pairs = []
for doc in stdlib_docs():
    sentence = " ".join(doc.text.strip().split("\n\n")[0].split())
    if 25 < len(sentence) < 90 and doc.name.count(".") == 1:
        pairs.append((re.sub(r"[._]+", " ", doc.name), sentence))
chosen = np.random.default_rng(0).permutation(len(pairs))[:256]
pairs = [pairs[i] for i in chosen]
names, sentences = map(list, zip(*pairs, strict=True))
draw_table(["query", "document"], pairs[:6])

model = BiEncoder("all-MiniLM-L6-v2")
q, d = model.encode(names), model.encode(sentences)  # unit vectors
print(len(pairs), "pairs, vectors", q.shape)

# %% [markdown]
# ## 2 · A probability minus a label
#
# Scores are cosines times a **scale** $\kappa$ (its inverse is the temperature). Of the documents of the batch, the
# query chooses by softmax, and the loss is the surprise at the true one:
#
# $$ s_{ij} = \kappa \cos(q_i, d_j), \qquad p_{ij} = \frac{e^{s_{ij}}}{\sum_{j'} e^{s_{ij'}}}, \qquad
# L = -\frac1B \sum_i \log p_{ii} $$
#
# Its gradient by the scores is as simple as can be, the probability minus the label:
#
# $$ \frac{\partial L}{\partial s_{ij}} = \frac1B \big( p_{ij} - [i = j] \big) $$
#
# Each query is pulled to its document by $1 - p_{ii}$ and pushed from each other by $p_{ij}$; pull and push are equal
# in sum, and both end when the query is sure.

# %%
from minibi.train.losses.ranking import _contrast

show_source(_contrast)

B, scale = 8, 20.0
s = scale * q[:B] @ d[:B].T
p = np.exp(s) / np.exp(s).sum(axis=1, keepdims=True)
slope = (p - np.eye(B)) / B
loss, (dq, dd) = info_nce(q[:B], d[:B], scale=scale)
print(f"loss {loss:.4f}, by hand {-np.log(np.diag(p)).mean():.4f}")
assert abs(loss + np.log(np.diag(p)).mean()) < 1e-5


def tangent(x, dx):
    """What is left of a gradient by unit vectors x when their length is fixed."""
    return dx - x * (x * dx).sum(axis=1, keepdims=True)


assert np.allclose(dq, tangent(q[:B], scale * slope @ d[:B]), atol=1e-5)
assert np.allclose(dd, tangent(d[:B], scale * slope.T @ q[:B]), atol=1e-5)
assert np.abs(slope.sum(axis=1)).max() < 1e-6  # pull = push

fig, axes = plt.subplots(1, 3, figsize=(10.5, 3.9))
shown = (
    (s / scale, "cosines", "Blues", 0, 1),
    (p, "probabilities", "Blues", 0, 1),
    (slope * B, "p - label", "RdBu_r", -1, 1),
)
for ax, (values, title, colours, low, high) in zip(axes, shown, strict=True):
    ax.imshow(values, cmap=colours, vmin=low, vmax=high)
    for (i, j), value in np.ndenumerate(values):
        if abs(value) > 0.05:
            ax.text(j, i, f"{value:.2f}".replace("0.", "."), ha="center", va="center", size=7,
                    color="white" if abs(value) > 0.6 else "black")  # fmt: skip
    ax.set(xticks=range(B), yticks=[], title=title, xlabel="document")
axes[0].set_yticks(range(B), names[:B])
plt.show()

# %% [markdown]
# Vectors are compared by direction alone, so the part of the gradient along a vector is taken out (`tangent` above, and
# `unit_grad` in the library). And the check by trying out, in float64:

# %%
from minibi.train.losses.similarity import unit_grad

show_source(info_nce, unit_grad)
rng = np.random.default_rng(1)
few = [rng.normal(size=(4, 6)) for _ in range(3)]  # queries, positives, hard negatives
error = gradcheck(lambda *x: np.array(info_nce(*x)[0]), lambda dy, *x: [dy * g for g in info_nce(*x)[1]], few)
print(f"gradcheck: {error:.1e}")
assert error < 1e-6

# %% [markdown]
# ## 3 · Temperature: whom to push away
#
# All negatives together are pushed with the strength $1 - p_{ii}$. How is it divided? In proportion to
# $e^{\kappa \cos}$: a negative that is nearer by 0.1 gets $e^{0.1\kappa}$ times as much. With $\kappa = 1$ all are
# treated nearly alike, however unlike the query they are; with $\kappa = 100$ the hardest gets nearly everything.

# %%
cosines = (q @ d.T).astype(np.float64)
n = len(q)
negatives = np.sort(cosines[~np.eye(n, dtype=bool)].reshape(n, n - 1), axis=1)[:, ::-1]  # hardest first
scales = 10.0 ** np.linspace(0, 2.3, 24)
shares, pulls = [], []
for kappa in scales:
    push = np.exp(kappa * (negatives - negatives[:, :1]))
    push /= push.sum(axis=1, keepdims=True)
    shares.append([push[:, :k].sum(axis=1).mean() for k in (1, 5, 25)])
    e = np.exp(kappa * (cosines - cosines.max(axis=1, keepdims=True)))
    pulls.append((1 - np.diag(e) / e.sum(axis=1)).mean())
shares = np.array(shares)

fig, (left, right) = plt.subplots(1, 2, figsize=(9.8, 3.6))
for column, (k, colour) in enumerate(((1, ink.red), (5, ink.orange), (25, ink.green))):
    left.semilogx(scales, shares[:, column], color=colour, label=f"the {k} hardest" if k > 1 else "the hardest")
left.axvline(20, color=ink.grey, zorder=0)
left.set(xlabel="scale (1 / temperature)", ylabel="share of the push", title=f"Among {n - 1} negatives", ylim=(0, 1.02))
left.legend()
right.semilogx(scales, pulls, color=ink.blue)
right.axvline(20, color=ink.grey, zorder=0)
right.set(
    xlabel="scale (1 / temperature)", ylabel="mean of 1 - p(own)", title="How much there is to learn", ylim=(0, 1.02)
)
plt.show()
assert shares[0, 0] < 0.02 and shares[-1, 0] > 0.6 and (np.diff(shares[:, 0]) > 0).all()

# %% [markdown]
# The grey line is 20, what most libraries take. Too low a scale (right) and even a perfect model cannot be sure, since
# cosines end at 1: with $B$ documents, $p_{ii}$ is at most $e^{2\kappa} / (e^{2\kappa} + B - 1)$. Too high, and a
# single negative decides, which had better be a negative. Who are the hardest?

# %%
hardest = np.argsort(-(cosines - 2 * np.eye(n)), axis=1)[:, 0]
margin = cosines[np.arange(n), hardest] - np.diag(cosines)
rows = [(names[i], sentences[i], sentences[hardest[i]], margin[i]) for i in np.argsort(-margin)[:6]]
draw_table(["query", "its document", "preferred by the model", "by"], rows)
assert margin.max() > 0

# %% [markdown]
# Some of these are not wrong at all: they are **false negatives**. Where two pairs even share a text, that is certain,
# and `same_text_masks` leaves such candidates out:

# %%
again = ([*names[:3], "a new name"], [*sentences[:3], sentences[0]])
masks = same_text_masks(*again)
print(masks["query_to_doc"].astype(int))
with_twin = info_nce(q[[0, 1, 2, 3]], d[[0, 1, 2, 0]])[0]
without = info_nce(q[[0, 1, 2, 3]], d[[0, 1, 2, 0]], masks={"query_to_doc": masks["query_to_doc"]})[0]
print(f"loss {with_twin:.3f}, with the twins left out {without:.3f}")
assert masks["query_to_doc"][0, 3] and masks["query_to_doc"][3, 0] and without < with_twin

# %% [markdown]
# ## 4 · Batch size: how hard the question is
#
# A query with 7 negatives drawn at random has an easy task; among 255, one is likely to be near. So the same model
# has a higher loss in a larger batch. A model that knows nothing has $\log B$, whatever the scale.

# %%
sizes, at_scale, hardness = [2, 4, 8, 16, 32, 64, 128, 256], [], []
for size in sizes:
    groups = [slice(i, i + size) for i in range(0, n, size)]
    at_scale.append(np.mean([info_nce(q[g], d[g])[0] for g in groups]))
    hardness.append(np.mean([(cosines[g, g] - 3 * np.eye(size)).max(axis=1).mean() for g in groups]))

fig, (left, right) = plt.subplots(1, 2, figsize=(9.8, 3.6))
left.semilogx(sizes, at_scale, color=ink.blue, marker="o", ms=4, base=2, label="the model")
left.semilogx(sizes, np.log(sizes), "--", color=ink.grey, base=2, label="log B: knows nothing")
left.set(xlabel="pairs in the batch", ylabel="loss", title="The same model, the same pairs")
left.legend()
right.semilogx(sizes, hardness, color=ink.red, marker="o", ms=4, base=2, label="hardest negative")
right.axhline(np.diag(cosines).mean(), color=ink.blue, label="own document")
right.set(xlabel="pairs in the batch", ylabel="mean cosine", title="What a query is up against")
right.legend(loc="lower right")
plt.show()
assert (np.diff(at_scale) > 0).all() and (np.diff(hardness) > 0).all()

# %% [markdown]
# A loss is therefore only comparable at one batch size. And a larger batch is worth having: random negatives soon teach
# nothing ($p_{ij} \approx 0$), while the hard ones keep teaching. How much of the push comes from negatives that
# matter?

# %%
rows = []
for size in (8, 64, 256):
    e = np.exp(20 * cosines[:size, :size])
    p = e / e.sum(axis=1, keepdims=True)
    push = p[~np.eye(size, dtype=bool)]
    rows.append((size, size * (size - 1), int((push > 0.01).sum()), float(1 - np.diag(p).mean())))
draw_table(["pairs", "negatives", "of them with p > 0.01", "mean pull 1 - p(own)"], rows)
assert rows[0][3] < rows[-1][3]

# %% [markdown]
# ## 5 · Batches that do not fit
#
# To walk back, a tape keeps what every verb was given: for a batch of 256 pairs that is a lot. But pairs meet only in
# the loss, and the loss needs vectors alone. So GradCache (Gao et al. 2021) embeds chunk by chunk and forgets, takes
# the loss of the whole batch and its gradient by the vectors, then embeds each chunk once more and walks back through
# it:

# %%
show_source(grad_cache)

# %%
from minibi.train.data import Example
from minibi.train.learners import EmbeddingLearner
from minibi.train.model import Trainable
from minibi.train.objective import make_objective

batch = [Example(name, (sentence,)) for name, sentence in pairs[:16]]
last = tuple(f"encoder.layer.{i}" for i in range(5))
trainable = Trainable("all-MiniLM-L6-v2", frozen=("embeddings", *last))  # only the last layer, to be quick
whole, chunked = (EmbeddingLearner(trainable, make_objective("info_nce"), chunk_size=size) for size in (None, 8))
one, other = whole.gradients(batch, (0, 0)), chunked.gradients(batch, (0, 0))

worst = max(np.abs(one.gradients[name] - other.gradients[name]).max() for name in one.gradients)
largest = max(np.abs(g).max() for g in one.gradients.values())
print(f"32 texts at once: loss {one.loss:.6f}; 8 at a time: {other.loss:.6f}")
print(f"largest gradient {largest:.4f}, largest difference {worst:.1e}")
assert worst < 1e-4 * largest and abs(one.loss - other.loss) < 1e-5

# %% [markdown]
# The same gradient, in the memory of 8 texts, for one more pass. Splitting the batch and adding up the gradients of the
# parts (`accumulate`) would be another loss: each part with its own few negatives.

# %%
parts = [whole.loss(batch[i : i + 4]) for i in range(0, 16, 4)]
print(f"four batches of 4 pairs: mean loss {np.mean(parts):.4f}; one batch of 16: {one.loss:.4f}")
assert np.mean(parts) < one.loss

# %% [markdown]
# In the [next lesson](09_a_small_model_trained.ipynb) this loss trains a model.
