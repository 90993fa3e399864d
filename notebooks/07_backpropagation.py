# %% [markdown]
# # Backpropagation through a transformer
#
# A model has millions of numbers. Training asks of each: if you were a little larger, would the loss rise or fall, and
# how steeply? Trying it out takes one pass through the model for each number. Backpropagation answers for all of them
# in about the time of two passes. This lesson takes it apart on a transformer so small that every answer can also be
# had by trying it out.
#
# > one verb and its gradient → layer norm → attention → the tape → a whole model, checked → a step downhill
#
# You need derivatives and matrix products; lesson 01 shows what the parts of the model are for. Nothing is trained
# here: all is about the first derivative.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import heat, ink, show_source, style

from minibi.nn import plain
from minibi.nn.gradcheck import gradcheck
from minibi.nn.tape import Tape

style()
rng = np.random.default_rng(0)

# %% [markdown]
# ## 1 · One verb and its gradient
#
# Let $L$ be the loss: one number at the end of a long calculation. Somewhere in it stands $y = xW + b$. Suppose that
# we know already how $L$ depends on each element of $y$; call that $\bar y = \partial L / \partial y$, an array of the
# same shape as $y$. The chain rule says how $L$ depends on what went in. Element by element,
#
# $$ y_{tn} = \sum_k x_{tk} W_{kn} + b_n \quad\Longrightarrow\quad
# \bar x_{tk} = \sum_n \bar y_{tn} W_{kn}, \qquad
# \bar W_{kn} = \sum_t x_{tk}\, \bar y_{tn}, \qquad
# \bar b_n = \sum_t \bar y_{tn} $$
#
# and as matrices $\bar x = \bar y W^\top$, $\bar W = x^\top \bar y$. In the library each verb `f` has a neighbour
# `f_grad(dy, *the same arguments)`, which returns one gradient for each argument:

# %%
show_source(plain.linear_grad)

# %% [markdown]
# Is it right? Ask the function itself. Take a loss that weighs the elements of $y$ at random,
# $L = \sum \bar y \odot y$, move one element of $x$ a little to either side, and see what $L$ does:
#
# $$ \frac{\partial L}{\partial x} \approx \frac{L(x + h) - L(x - h)}{2h} $$

# %%
x, w, b, dy = rng.normal(size=(4, 5)), rng.normal(size=(5, 3)), rng.normal(size=3), rng.normal(size=(4, 3))
dx, dw, db = plain.linear_grad(dy, x, w, b)

h, moved = 1e-5, []
for side in (h, -h):
    there = x.copy()
    there[2, 1] += side
    moved.append((dy * plain.linear(there, w, b)).sum())
difference = (moved[0] - moved[1]) / (2 * h)

print(f"by the formula  {dx[2, 1]:+.9f}")
print(f"by trying       {difference:+.9f}")
assert abs(dx[2, 1] - difference) < 1e-8

# %% [markdown]
# How small should $h$ be? Too large, and the function's curvature shows; too small, and the two losses agree in all but
# their last digits, which are rounding. We look at a function that is curved, GELU, at one point. A formula with two
# steps to either side, $\big(8\,[L(x+h)-L(x-h)] - [L(x+2h)-L(x-2h)]\big) / 12h$, lets the curvature's first part
# cancel, so that a larger and safer step will do. That is what `gradcheck` uses.

# %%
point, steps = np.array([[0.7]]), 10.0 ** np.arange(-12, 0.01, 0.5)
(truth,) = plain.gelu_grad(np.ones((1, 1)), point)


def rise(h: float) -> float:
    return float((plain.gelu(point + h) - plain.gelu(point - h))[0, 0])


two = [abs(rise(h) / (2 * h) - truth[0, 0]) for h in steps]
four = [abs((8 * rise(h) - rise(2 * h)) / (12 * h) - truth[0, 0]) for h in steps]
fig, ax = plt.subplots(figsize=(6.4, 3.6))
ax.loglog(steps, np.maximum(two, 1e-17), color=ink.orange, marker="o", ms=3, label="one step to either side")
ax.loglog(steps, np.maximum(four, 1e-17), color=ink.blue, marker="o", ms=3, label="two steps to either side")
ax.axvline(1e-4, color=ink.grey, zorder=0)
ax.text(8e-5, 1e-5, "what gradcheck takes", color="#777777", size=9, ha="right")
ax.set(xlabel="step h", ylabel="error of the derivative", title="Rounding to the left, curvature to the right")
ax.legend(loc="upper left")
plt.show()
assert min(two) < 1e-9 and min(four) < min(two) * 10

# %% [markdown]
# `gradcheck` moves every element of every argument in this way. All verbs of the library pass it below $10^{-6}$; a
# sign or a transpose that is wrong gives an error near 1.

# %%
show_source(gradcheck)

print(f"linear: {gradcheck(plain.linear, plain.linear_grad, [x, w, b]):.1e}")


def wrong(dy, x, w, b):
    dx, dw, db = plain.linear_grad(dy, x, w, b)
    return dx, -dw, db


print(f"with one sign wrong: {gradcheck(plain.linear, wrong, [x, w, b]):.1f}")
assert gradcheck(plain.linear, plain.linear_grad, [x, w, b]) < 1e-8 < 0.5 < gradcheck(plain.linear, wrong, [x, w, b])

# %% [markdown]
# ## 2 · Layer norm: a gradient with two directions taken out
#
# $y = (x - \mu) / \sigma$ does not change when a constant is added to $x$, nor when the distance from the mean is
# stretched. So a step in those two directions does nothing to the loss, and the gradient has no part in them. With
# $d = \bar y \odot \gamma$ and $y$ before $\gamma, \beta$,
#
# $$ \bar x = \frac1\sigma \Big( d - \underbrace{\mathrm{mean}(d)}_{\text{along } 1}
# - y\, \underbrace{\mathrm{mean}(d \odot y)}_{\text{along } y} \Big) $$

# %%
show_source(plain.layer_norm, plain.layer_norm_grad)

x, dy = rng.normal(size=(4, 6)) * 3 + 1, rng.normal(size=(4, 6))
gamma, beta, eps = rng.normal(size=6), rng.normal(size=6), 1e-12
dx, dgamma, dbeta = plain.layer_norm_grad(dy, x, gamma, beta, eps)
print(f"gradcheck: {gradcheck(plain.layer_norm, plain.layer_norm_grad, [x, gamma, beta], eps=eps):.1e}")
print("gradient along a constant:          ", np.abs(dx.sum(axis=1)).max().round(12))
print("gradient along the stretching:      ", np.abs((dx * (x - x.mean(1, keepdims=True))).sum(1)).max().round(12))
assert np.abs(dx.sum(axis=1)).max() < 1e-12

# %% [markdown]
# The factor $1/\sigma$ has a consequence: where a token's vector is long before the norm, the gradient behind it is
# short. A model whose numbers grow while it learns slows down by itself.

# %% [markdown]
# ## 3 · Attention: what a weight is worth
#
# Within one text and one head, $P = \mathrm{softmax}(S)$ with $S = QK^\top/\sqrt D$, and the result is $PV$. Walk
# back in the other order:
#
# $$ \bar V = P^\top\, \overline{\text{out}}, \qquad \bar P = \overline{\text{out}}\, V^\top, \qquad
# \bar S_{ij} = P_{ij} \Big( \bar P_{ij} - \sum_{j'} P_{ij'} \bar P_{ij'} \Big), \qquad
# \bar Q = \bar S K / \sqrt D, \quad \bar K = \bar S^\top Q / \sqrt D $$
#
# Read the one in the middle: $\bar P_{ij}$ says how much attention of token $i$ to token $j$ is worth; subtracted is
# what the attention of $i$ is worth on average, as it is spread now. What is better than average gets a push, in
# proportion to the weight that it has already; where the weight is 0, nothing is learned. Each row of $\bar S$ sums
# to 0. In the picture more of what is red raises the loss, more of what is blue lowers it.

# %%
show_source(plain.attend_grad)

tokens = ["the", "cat", "sat", "on", "it"]
starts = np.array([0, 5])
q, k, v = (rng.normal(size=(5, 1, 4)) * 1.5 for _ in range(3))
dout = rng.normal(size=(5, 4))
(p,) = plain.attention_weights(q, k, starts)
dp = np.einsum("id,jd->ij", dout, v[:, 0])
ds = p[0] * (dp - (dp * p[0]).sum(axis=1, keepdims=True))

fig, axes = plt.subplots(1, 3, figsize=(10, 3.6))
heat(axes[0], p[0], tokens, "the weights P")
for ax, values, title in (
    (axes[1], dp, "what a weight is worth, dL/dP"),
    (axes[2], ds, "the push on the score, dL/dS"),
):
    limit = np.abs(values).max()
    ax.imshow(values, cmap="RdBu_r", vmin=-limit, vmax=limit)
    ax.set_xticks(range(5), tokens, rotation=60, ha="right", rotation_mode="anchor")
    ax.set(yticks=[], title=title)
plt.show()

print(f"gradcheck: {gradcheck(plain.attend, plain.attend_grad, [q, k, v, starts]):.1e}")
assert np.abs(ds.sum(axis=1)).max() < 1e-12
dq, _, _ = plain.attend_grad(dout, q, k, v, starts)
assert np.allclose(dq[:, 0], ds @ k[:, 0] / 2)  # sqrt(D) = 2

# %% [markdown]
# ## 4 · The tape
#
# A model is a chain of such verbs. To walk back we need to know which were called, with what, and in what order. A
# `Tape` has the same verbs as `plain`, calls them and notes each call. Walking back is one loop over the notes from
# the last to the first: hand the gradient of the result to the verb's `_grad`, and **add** what comes out to what is
# known of each argument. Adding is the whole secret of a value that was used twice: what it does to the loss is the
# sum of what it does along both ways.

# %%
show_source(Tape._call, Tape.gradients)

# %% [markdown]
# The model is the library's own BERT, only small: 2 layers, 8 channels, 2 heads, a vocabulary of 10. Its parameters are
# random. Two texts go through it end to end, and the loss is the cosine of their mean vectors, which we would like to
# be 1. A tape of our own also prints what it is asked.

# %%
from minibi.models import bert
from minibi.text.batches import pack

config = bert.BertConfig(
    layers=2, channels=8, heads=2, feed_forward=8, vocabulary=10, positions=5, types=1, eps=1e-12, activation="gelu"
)
show_source(bert.layers)

# %%
c, f = config.channels, config.feed_forward
shapes = {
    "embeddings.word_embeddings.weight": (config.vocabulary, c),
    "embeddings.position_embeddings.weight": (config.positions, c),
    "embeddings.token_type_embeddings.weight": (config.types, c),
    "embeddings.LayerNorm.weight": (c,),
    "embeddings.LayerNorm.bias": (c,),
}
for i in range(config.layers):
    parts = {f"attention.self.{n}": (c, c) for n in ("query", "key", "value")} | {"attention.output.dense": (c, c)}
    parts |= {"intermediate.dense": (f, c), "output.dense": (c, f)}
    for name, shape in parts.items():
        shapes[f"encoder.layer.{i}.{name}.weight"], shapes[f"encoder.layer.{i}.{name}.bias"] = shape, shape[:1]
    for name in ("attention.output.LayerNorm", "output.LayerNorm"):
        shapes[f"encoder.layer.{i}.{name}.weight"] = shapes[f"encoder.layer.{i}.{name}.bias"] = (c,)
parameters = {n: rng.normal(size=shape) * (0.1 if n.endswith("bias") else 0.5) for n, shape in shapes.items()}
for name in shapes:
    if name.endswith("LayerNorm.weight"):
        parameters[name] += 1
total = sum(p.size for p in parameters.values())
print(len(parameters), "arrays,", total, "numbers")


class Noting(Tape):
    """A tape that also keeps what its verbs returned."""

    def __getattr__(self, verb):
        call = super().__getattr__(verb)

        def noted(*args, **options):
            result = call(*args, **options)
            self.__dict__.setdefault("notes", []).append((verb, result))
            return result

        return noted


batch = pack([[1, 5, 6, 2], [1, 7, 8, 9, 2]])


def states(ops):
    p = bert.read_params(parameters, config, ops, finite=False)
    return bert.layers(ops, p, config, batch.ids, batch.types, batch.positions(), batch.starts)


def loss_and_slope(h):
    """-cosine of the two texts' means, and its gradient by the token states h [T, C]."""
    a, b = (h[s:e] for s, e in zip(batch.starts, batch.starts[1:], strict=False))
    means = np.stack([a.mean(axis=0), b.mean(axis=0)])
    u = plain.normalize(means)
    (dmeans,) = plain.normalize_grad(-u[::-1], means)  # L = -u0 . u1
    return -float(u[0] @ u[1]), np.repeat(dmeans / batch.lengths[:, None], batch.lengths, axis=0)


tape = Noting(plain, watched=parameters.values())
h = states(tape)
loss, dh = loss_and_slope(h)
verbs = [verb for verb, _ in tape.notes]
print("loss", round(loss, 4), "by", len(verbs), "calls:", ", ".join(dict.fromkeys(verbs)))
assert np.array_equal(h, states(Tape()))  # which watches nothing, so it only computes

# %% [markdown]
# Where the model reads parameters it only turns them round and joins them (`transpose`, `join`); those are verbs too,
# so gradients come back in the shape in which weights are stored. The rest is one embedding, then `qkv`, `attend` and
# three more for each layer. Now back, for all parameters at once, and for the states between the layers as well:

# %%
between = [result for verb, result in tape.notes if verb in ("embed", "linear_add_norm")]
found = tape.gradients([h], [dh], of=[*parameters.values(), *between])
gradients = dict(zip(parameters, found, strict=False))
slopes = found[len(parameters) :]
for name in ("embeddings.word_embeddings.weight", "encoder.layer.1.output.dense.weight"):
    print(name, gradients[name].shape)
unused = [i for i in range(config.vocabulary) if i not in batch.ids]
assert not gradients["embeddings.word_embeddings.weight"][unused].any()  # words that were not read

# %% [markdown]
# ## 5 · The whole model, checked
#
# Two passes for each of the numbers, against one walk back for all of them:

# %%
import time

start = time.perf_counter()
tried = {}
for name, p in parameters.items():
    tried[name] = np.zeros_like(p)
    for at in np.ndindex(p.shape):
        kept, moved = p[at], []
        for side in (1e-6, -1e-6):
            p[at] = kept + side
            moved.append(loss_and_slope(states(Tape()))[0])
        p[at] = kept
        tried[name][at] = (moved[0] - moved[1]) / 2e-6
one_by_one = time.perf_counter() - start

start = time.perf_counter()
again = Tape(watched=parameters.values())
out = states(again)
again.gradients([out], [loss_and_slope(out)[1]], of=list(parameters.values()))
at_once = time.perf_counter() - start

flat = [np.concatenate([g[name].ravel() for name in parameters]) for g in (gradients, tried)]
worst = np.abs(flat[0] - flat[1]).max()
print(f"largest difference {worst:.1e}, largest gradient {np.abs(flat[0]).max():.2f}, of {total} numbers")
print("the walk back is faster by", "a factor of hundreds" if one_by_one > 100 * at_once else "less than expected")
assert worst < 1e-6

fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.8), width_ratios=[1, 1.4])
left.plot(flat[1], flat[0], ".", ms=3, color=ink.blue)
left.set(xlabel="by trying", ylabel="by the tape", title=f"All {total} numbers")
sizes = {name: float(np.linalg.norm(g)) for name, g in gradients.items() if name.endswith("weight")}
short = [n.removesuffix(".weight").replace("encoder.layer.", "").replace("attention.", "a.") for n in sizes]
right.barh(short, sizes.values(), color=[ink.orange if "norm" in n.lower() else ink.blue for n in sizes])
right.invert_yaxis()
right.tick_params(axis="y", labelsize=7)
right.set(xlabel="length of the gradient", title="Which arrays the loss depends on (layer norms orange)")
plt.show()

# %% [markdown]
# The bias of the keys has a gradient of nothing at all. It adds the same number to all scores in a row of attention,
# and softmax does not see that. The model has 16 numbers that do nothing, and the gradient tells:

# %%
for i in range(config.layers):
    silent = np.abs(gradients[f"encoder.layer.{i}.attention.self.key.bias"]).max()
    print(f"layer {i}, bias of the keys: {silent:.1e}")
    assert silent < 1e-12

# %% [markdown]
# The gradient by the states between the layers shows which tokens matter, and that the way back stays open: each half
# of a layer ends in `state + something`, so a gradient passes every layer along the sum as well as through the layer.

# %%
fig, ax = plt.subplots(figsize=(7, 2.8))
lengths = np.stack([np.linalg.norm(slope, axis=1) for slope in slopes if slope is not None])
picture = ax.imshow(lengths, cmap="Blues", vmin=0)
ax.set_xticks(range(len(batch.ids)), [f"{i}" for i in batch.ids])
names = ["embedding", *[f"layer {i}, {half}" for i in range(config.layers) for half in ("attention", "feed-forward")]]
ax.set_yticks(range(len(lengths)), names[: len(lengths)])
ax.axvline(batch.starts[1] - 0.5, color="white", lw=3)
ax.set(xlabel="token (two texts)", title="Length of dL/dh")
fig.colorbar(picture)
plt.show()
assert lengths.shape[0] == 1 + 2 * config.layers and (lengths > 0).all()

# %% [markdown]
# ## 6 · A step downhill
#
# What is a gradient good for? Of all directions of a given length, minus the gradient is the one in which the loss
# falls fastest, and near here it falls as fast as the gradient says: $L(\theta - s\,g/|g|) \approx L(\theta) - s\,|g|$.
# Compared with directions drawn at random:

# %%
direction = {name: -g / np.linalg.norm(flat[0]) for name, g in gradients.items()}
begin = {name: p.copy() for name, p in parameters.items()}


def go(direction, lengths):
    """The loss after a step of each length; parameters are put back."""
    losses = []
    for s in lengths:
        for name, p in parameters.items():
            p[...] = begin[name] + s * direction[name]
        losses.append(loss_and_slope(states(Tape()))[0])
    for name, p in parameters.items():
        p[...] = begin[name]
    return np.array(losses)


far = np.linspace(0, 0.2, 41)
fig, ax = plt.subplots(figsize=(6.4, 3.6))
for i in range(8):
    chance = {name: rng.normal(size=p.shape) for name, p in parameters.items()}
    norm = np.sqrt(sum((d**2).sum() for d in chance.values()))
    label = "at random" if i == 0 else None
    ax.plot(far, go({n: d / norm for n, d in chance.items()}, far), color=ink.grey, lw=1, label=label)
down = go(direction, far)
ax.plot(far, down, color=ink.blue, label="against the gradient")
ax.plot(far, loss - far * np.linalg.norm(flat[0]), "--", color=ink.orange, lw=1, label="as the gradient says")
ax.set(xlabel="length of the step", ylabel="loss", ylim=(-1.05, max(loss + 0.25, -0.3)), title="One step")
ax.legend()
plt.show()
(near,) = go(direction, [1e-4])
print(f"length of the gradient {np.linalg.norm(flat[0]):.3f}, the fall by a tiny step {(loss - near) / 1e-4:.3f}")
assert abs((loss - near) / 1e-4 / np.linalg.norm(flat[0]) - 1) < 0.01 and down.min() < loss - 0.2

# %% [markdown]
# The straight line is true for a small step and a fiction further on; that is what learning rates are about. An
# optimizer repeats small steps, each with a new gradient of other texts. What loss those texts get is the subject of
# the [next lesson](08_infonce.ipynb).
