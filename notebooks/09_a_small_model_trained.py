# %% [markdown]
# # A small model trained
#
# Somebody types `tarfile extractall` and wants the sentence *Extract all members from the archive*. A model that was
# trained on questions and sentences does not know how programmers name things. In this lesson it learns to, in less
# than a minute, on pairs that Python brings along. Documents keep the vectors that they have, so an index of them
# would not have to be built anew: only the model that reads queries is trained, and of it only the upper layers.
#
# > pairs → two towers → the loop → what was learned, on names it has never seen
#
# [Lesson 07](07_backpropagation.ipynb) is about gradients, [lesson 08](08_infonce.ipynb) about the loss.

# %%
import re
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from lesson import draw_table, ink, show_source, style

from minibi import BiEncoder
from minibi.app.stdlib_docs import stdlib_docs
from minibi.models.towers import open_encoder
from minibi.train.data import Example
from minibi.train.fit import fit, mean_gradients
from minibi.train.learners import EmbeddingLearner
from minibi.train.model import Trainable
from minibi.train.objective import make_objective
from minibi.train.log import read_log
from minibi.train.optimizer import AdamW, clip, linear_schedule
from minibi.train.recipe import Training

style()

# %% [markdown]
# ## 1 · Pairs to learn from, and others to be asked about
#
# What is learned must be tested on what was not seen. Whole modules are held out, not single names: otherwise
# `tarfile open` in training would tell about `tarfile close` in the test.

# %%
pairs = []
for doc in stdlib_docs():
    sentence = " ".join(doc.text.strip().split("\n\n")[0].split())
    if 25 < len(sentence) < 90 and 1 <= doc.name.count(".") <= 2:
        pairs.append((doc.name.partition(".")[0], re.sub(r"[._]+", " ", doc.name), sentence))
modules = sorted({module for module, _, _ in pairs})
held_out = set(np.random.default_rng(0).permutation(modules)[: len(modules) // 5])
learned = [Example(name, (sentence,)) for module, name, sentence in pairs if module not in held_out]
asked = [Example(name, (sentence,)) for module, name, sentence in pairs if module in held_out]
order = np.random.default_rng(1)
learned = [learned[i] for i in order.permutation(len(learned))[:640]]
asked = [asked[i] for i in order.permutation(len(asked))[:200]]
draw_table(["query", "document"], [(e.query, e.documents[0]) for e in asked[:5]])
print(len(learned), "pairs to learn from,", len(asked), "to be asked about, of other modules")
assert not {e.query for e in learned} & {e.query for e in asked}

# %% [markdown]
# ## 2 · Two towers
#
# Queries go through a copy of the model that changes, documents through one that does not. Of the changing one the
# embeddings and the first four of six layers stay frozen: the tape does not even note them, so the way back is short.

# %%
frozen = ("embeddings", *(f"encoder.layer.{i}" for i in range(4)))
start = BiEncoder("all-MiniLM-L6-v2")
queries = Trainable("all-MiniLM-L6-v2", frozen=frozen)
learner = EmbeddingLearner(queries, make_objective("info_nce", {"scale": 20.0, "same_texts": True}), document=start)
count, total = (sum(p.size for p in some.values()) for some in (queries.trainable, queries.parameters))
print(f"{count:,} of {total:,} numbers are trained")

show_source(EmbeddingLearner.gradients)

# %% [markdown]
# The measure is the mean reciprocal rank: 1 if the right sentence of the 200 comes first, ½ if second, and so on.

# %%
documents = learner.encode_document([e.documents[0] for e in asked])


def ranks(vectors):
    """The place of each query's own document, from 1."""
    scores = vectors @ documents.T
    return 1 + (scores > np.diag(scores)[:, None]).sum(axis=1)


def mean_reciprocal(learner):
    return {"mrr": float((1 / ranks(learner.encode_query([e.query for e in asked]))).mean())}


before = learner.encode_query([e.query for e in asked])
print(f"before: MRR {mean_reciprocal(learner)['mrr']:.3f}, first for {np.mean(ranks(before) == 1):.0%}")

# %% [markdown]
# ## 3 · The loop
#
# A batch, a pass forward and back, a step; and again. The step is AdamW: each number has its own scale, from a running
# mean $m$ of its gradients and $v$ of their squares, $\theta \leftarrow \theta - \eta\,(\hat m / (\sqrt{\hat v} +
# \varepsilon) + \lambda \theta)$. Gradients that are too long as a whole are shortened before (`clip`), and the rate
# $\eta$ rises for a tenth of the steps and falls to 0.

# %%
show_source(fit, mean_gradients, AdamW.step, clip, linear_schedule)

# %%
training = Training(steps=20, batch_size=32, learning_rate=2e-4, evaluate_every=10)
with tempfile.TemporaryDirectory() as folder:
    report = fit(learner, learned, training, folder=Path(folder) / "run", seed=0, evaluate=mean_reciprocal)
    log = read_log(Path(folder) / "run" / "log.csv")
    learner.save(Path(folder) / "model")
    saved = open_encoder(Path(folder) / "model")
    from_file = saved.encode_query([e.query for e in asked[:20]])
print(f"{report.steps} steps; MRR {report.first_metrics['mrr']:.3f} -> {report.metrics['mrr']:.3f}")
assert report.metrics["mrr"] > report.first_metrics["mrr"] + 0.01

steps, loss, mrr = (np.asarray(log[name], float) for name in ("step", "loss", "mrr"))
fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 3.4))
left.plot(steps, loss, ".", color=ink.grey)
smooth = [np.nanmean(loss[max(0, i - 4) : i + 5]) for i in range(len(loss))]
left.plot(steps, smooth, color=ink.blue)
left.set(xlabel="step", ylabel="loss of the batch", title="Batches differ; the line is a mean of nine")
seen = ~np.isnan(mrr)
right.plot(steps[seen], mrr[seen], color=ink.green, marker="o")
right.set(xlabel="step", ylabel="MRR", title="Names from modules never seen")
for ax in (left, right):
    ax.set_xticks(range(0, len(loss), 5))
plt.show()

# %% [markdown]
# The loss of single batches jumps about, as each has other pairs; the measure on names that were held out rises. What
# was saved is a folder with two models, which `open_encoder` reads; its queries get the same vectors:

# %%
after = learner.encode_query([e.query for e in asked])
cosine = (from_file * after[:20]).sum(axis=1)
print(f"lowest cosine of a query's vector from the file with that in memory: {cosine.min():.6f}")
assert cosine.min() > 0.9999

# %% [markdown]
# ## 4 · What was learned
#
# Each point is a held-out name. Below the diagonal, in green, are those whose sentence has moved up. (A little noise
# keeps points of the same two ranks apart.)

# %%
old, new = ranks(before), ranks(after)
fig, ax = plt.subplots(figsize=(4.6, 4.4))
jitter = np.random.default_rng(2).uniform(0.9, 1.1, (2, len(old)))
colour = np.where(new < old, ink.green, np.where(new > old, ink.red, ink.grey))
ax.scatter(old * jitter[0], new * jitter[1], s=12, c=colour)
ax.plot([0.9, 200], [0.9, 200], color=ink.grey, lw=1, zorder=0)
ax.set(
    xscale="log", yscale="log", xlabel="rank before", ylabel="rank after", title="200 names, others than in training"
)
plt.show()
print(f"up {np.sum(new < old)}, down {np.sum(new > old)}, first {np.mean(old == 1):.0%} -> {np.mean(new == 1):.0%}")
assert np.sum(new < old) > np.sum(new > old)

gain = np.log(old / new)
best, worst = np.argsort(-gain)[:5], np.argsort(gain)[:3]
rows = [(asked[i].query, asked[i].documents[0], int(old[i]), int(new[i])) for i in (*best, *worst)]
draw_table(["query", "its sentence", "rank before", "after"], rows)

# %% [markdown]
# Not every name gained; a mean rises, single answers may fall. How did the scores change? Own and other
# sentences stand a little further apart:

# %%
fig, axes = plt.subplots(1, 2, figsize=(9.6, 3), sharex=True)
bins = np.linspace(-0.3, 1, 53)
for ax, vectors, title in ((axes[0], before, "before"), (axes[1], after, "after")):
    cosines = vectors @ documents.T
    own, others = np.diag(cosines), cosines[~np.eye(len(cosines), dtype=bool)]
    ax.hist(others, bins, density=True, color=ink.grey, label="other sentences")
    ax.hist(own, bins, density=True, color=ink.blue, alpha=0.7, label="own sentence")
    gap = (own.mean() - others.mean()) / others.std()
    ax.set(xlabel="cosine", yticks=[], title=f"{title}: apart by {gap:.1f} standard deviations")
axes[0].legend()
plt.show()

# %% [markdown]
# Twenty steps on a few hundred pairs are little. To go on: more steps and pairs, hard negatives
# (`minibi.train.mining`), both towers. The same from the command line, with a recipe in a file, is `minibi train`.
