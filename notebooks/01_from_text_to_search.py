# %% [markdown]
# # From text to search
#
# You type a question. Among hundreds of passages that nobody has tagged or sorted, the one that answers it comes up
# first, even where question and answer use different words. This lesson follows one question all the way:
#
# > text → tokens → hidden states → one vector → nearest vectors → ranked passages
#
# At every step you see three things: what it means, as a formula; the library's own source, read from the files that
# run here, not retyped; and the numbers, with an `assert` wherever the text claims something.
#
# You need some Python and some linear algebra: what a matrix product and a dot product are. Everything works offline,
# in less than a minute. The first run on a machine spends some ten seconds of it compiling.

# %%
import time
from dataclasses import replace
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
from lesson import draw_table, frame, heat, ink, pca, show_source, style, write_beside

from minibi import BiEncoder, FlatIndex

style()

# %% [markdown]
# ## 0 · The promise
#
# The passages are text that every machine with Python already has: the documentation of some modules of its standard
# library. Each passage is the name of a function, class or module, and what is written about it.

# %%
from minibi.app.stdlib_docs import stdlib_docs

MODULES = ["subprocess", "threading", "random", "datetime", "time", "shutil", "math", "itertools", "functools", "re"]
MODULES += ["set", "list", "dict"]

docs = [doc for doc in stdlib_docs() if doc.name.partition(".")[0] in MODULES]
names = [doc.name for doc in docs]
passages = [f"{doc.name}\n{doc.text}" for doc in docs]

print(len(passages), "passages. One of them:\n")
print(passages[names.index("random.Random.choice")])

# %% [markdown]
# And here is the whole program. A **bi-encoder** is a model that turns a text into a vector, 384 numbers in this
# case. It encodes the passages once, and later each question by itself; the passages whose vectors lie nearest to the
# question's are the answer. Everything below this cell explains these few lines.

# %%
question = "start another program and capture its output"

model = BiEncoder("all-MiniLM-L6-v2")
vectors = model.encode_document(passages, truncation="silent")  # the model reads 256 tokens of each; more in part 1
index = FlatIndex(model.dim)
index.add(vectors)
scores, ids = index.search(model.encode_query(question), k=5)

best = zip(scores[0], ids[0], strict=True)
draw_table(["score", "passage", "begins"], [(s, f"`{names[i]}`", docs[i].text.split("\n")[0]) for s, i in best])

answer = names.index("subprocess.run")
assert ids[0, 0] == answer

# %% [markdown]
# `subprocess.run` is what one would want. Which words brought it up? It has three of the question's seven, and one of
# them is *and*:

# %%
from minibi.text.wordpiece import words


def vocabulary_of(text: str) -> set[str]:
    return {word for word in words(text) if word[0].isalnum()}


shared = vocabulary_of(question) & vocabulary_of(passages[answer])
print("in both:              ", sorted(shared))
print("in the question alone:", sorted(vocabulary_of(question) - shared))
assert len(shared) == 3 and not {"start", "another", "program"} & shared

# %% [markdown]
# The documentation says *run* and *command* where the question says *start* and *program*. Somewhere on the way, the
# model must notice that these mean the same. Let us see where.

# %% [markdown]
# ## 1 · From text to tokens
#
# A model computes with numbers, so text is first cut into **tokens** from a fixed vocabulary: frequent words whole,
# rare words in pieces. BERT's way of cutting is called WordPiece. Text is lower-cased and split into words and
# punctuation; then each word is cut greedily: take the longest piece that the vocabulary has, and go on behind it.
# Pieces inside a word are written with `##` before them.
#
# In daily use a fast library does this. Beside it stands a plain twin that says what is done:

# %%
from minibi.text import wordpiece

show_source(wordpiece.words, wordpiece.pieces)

# %% [markdown]
# To watch it work, we hand it a vocabulary that notes every question it is asked. Nothing of the function is changed.

# %%
vocabulary = model.tokenizer.vocabulary
print(len(vocabulary), "tokens in the vocabulary\n")


class Noting(dict):
    """A vocabulary that writes down which pieces were looked up, the known ones in brackets."""

    def __contains__(self, piece: object) -> bool:
        known = super().__contains__(piece)
        print(f"[{piece}]\n" if known else piece, end="  ")
        return known


for word in ("capture", "strptime", "subprocess"):
    found = wordpiece.pieces(word, Noting(vocabulary))
    print("=", found, "\n")
    assert "".join(found).replace("##", "") == word

# %% [markdown]
# `capture` is a word of its own. `subprocess` is not: every shorter beginning is tried until `sub` is found, then the
# rest in the same way. So rare words only take more pieces; one that holds a character the vocabulary lacks becomes
# `[UNK]`.
#
# A `[CLS]` goes before the whole and a `[SEP]` behind it, and each token is replaced by its number. The plain twin
# and the fast library agree on all our passages:

# %%
ids_fast = model.tokenizer.encode([question])[0]
ids_plain = wordpiece.encode(question, vocabulary)
draw_table(["token", *model.tokenizer.tokens(ids_fast)], [("id", *ids_fast)])

assert list(ids_fast) == ids_plain
for passage, ids in zip(passages, model.tokenizer.bare(passages), strict=True):
    assert wordpiece.encode(passage, vocabulary)[1:-1] == ids

# %% [markdown]
# ### Packed, not padded
#
# A model is fast when it reads many texts at once, but texts differ in length. The usual way is a rectangle: every
# text is filled up with `[PAD]` to the length of the longest, and a mask tells the model what to ignore. Here texts
# are laid end to end instead. `ids` holds all tokens, and text $i$ is `ids[starts[i]:starts[i+1]]`. (`types` tells
# the two sides of a pair apart, for models that read pairs; for us it is always 0.)

# %%
from minibi.text.batches import Batch, pack

show_source(Batch.positions, pack)

batch = pack(model.tokenizer.encode(["start another program", "parse a date", "sleep"]))
draw_table(
    ["token", *model.tokenizer.tokens(batch.ids)],
    [("`ids`", *batch.ids), ("`types`", *batch.types), ("`positions()`", *batch.positions())],
)
print("starts =", batch.starts)
assert batch.starts[-1] == len(batch.ids)

# %% [markdown]
# What would padding have cost on our passages? Most are short, a few are long, and the long ones decide how wide the
# rectangle is.

# %%
tokens = model.tokenizer.encode(passages, truncation="silent")
lengths = np.array([len(ids) for ids in tokens])
cut = sum(len(ids) + 2 > model.max_seq_length for ids in model.tokenizer.bare(passages))
print(f"{cut} of {len(passages)} passages are longer than {model.max_seq_length} tokens: their ends are not read")


def rectangles(lengths: np.ndarray, texts: int = 32) -> int:
    """Cells of the padded rectangles, 32 texts in each."""
    groups = [lengths[i : i + texts] for i in range(0, len(lengths), texts)]
    return sum(len(group) * group.max() for group in groups)


cost = {
    f"padded to {model.max_seq_length}": len(lengths) * model.max_seq_length,
    "padded, 32 texts\nas they come": rectangles(lengths),
    "padded, 32 texts\nsorted by length": rectangles(np.sort(lengths)),
    "packed": lengths.sum(),
}
fig, (left, right) = plt.subplots(1, 2, figsize=(9.5, 3.6), width_ratios=[1.2, 1])
some = lengths[:32]
left.barh(range(32), some.max(), color="white", edgecolor=ink.grey, hatch="////", linewidth=0, label="padding")
left.barh(range(32), some, color=ink.blue, label="tokens")
left.set(title="The first 32 passages as one rectangle", xlabel="tokens", ylabel="passage", xlim=(0, some.max()))
left.invert_yaxis()
left.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
bars = right.barh(list(cost), [n / 1000 for n in cost.values()], color=[ink.grey, ink.grey, ink.grey, ink.blue])
right.bar_label(bars, fmt=" %.0f", padding=2)
right.set(title="All passages", xlabel="thousand tokens to compute")
right.invert_yaxis()
plt.show()

assert cost["packed"] == min(cost.values())

# %% [markdown]
# Sorting by length takes away much of the waste, and most libraries sort. Packing takes away all of it, and the mask
# with it: what does not exist cannot be masked wrongly.

# %% [markdown]
# ## 2 · Embeddings and layer norm
#
# The model's first act is to look up vectors. Token $t$ gets the sum of three: one for the piece of text it is, one
# for its position, one for its type. Each has $C = 384$ numbers (**channels**):
#
# $$ h_t = \mathrm{LN}\big(
# E^{\text{word}}_{\text{id}_t} + E^{\text{position}}_{\text{pos}_t} + E^{\text{type}}_{\text{type}_t}
# \big) $$
#
# **Layer norm** brings each token's vector to mean 0 and variance 1, then stretches and shifts every channel by
# learned $\gamma$ and $\beta$. That keeps numbers in a good range, however many layers follow:
#
# $$ \mathrm{LN}(x) = \gamma \odot \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta,
# \qquad \mu = \frac1C \sum_c x_c, \qquad \sigma^2 = \frac1C \sum_c (x_c - \mu)^2 $$
#
# The library has every step twice: in `minibi.nn.plain` as NumPy that reads like the formula, and in
# `minibi.nn.fused` as compiled code. In this lesson we compute with `plain` and check against what the compiled code
# found.

# %%
from minibi.models import bert
from minibi.nn import plain
from minibi.store.tensors import read_weights

show_source(plain.embed, plain.layer_norm)

config = model.config
stored = bert.canonical(read_weights(model.modules.transformer))
params = bert.read_params(stored, config, plain)  # the model's weights, laid out for `plain`
draw_table(list(vars(config)), [list(map(str, vars(config).values()))])

# %% [markdown]
# `model.study` runs one text and keeps everything that happens in between. We compute the embedding ourselves and
# find what it found.

# %%
insight = model.study(question)
one = pack([ids_fast])
norm = (params.norm_g, params.norm_b, config.eps)
h0 = plain.embed(one.ids, one.types, one.positions(), params.word, params.position, params.token_type, *norm)

print("one row of 384 numbers for each of the", len(insight.tokens), "tokens:", h0.shape)
assert np.allclose(h0, insight.states[0], atol=1e-5)

raw = plain.layer_norm(h0, np.float32(1), np.float32(0), config.eps)  # layer norm alone: mean 0, variance 1
assert np.allclose(raw.mean(axis=1), 0, atol=1e-5) and np.allclose(raw.var(axis=1), 1, atol=1e-4)

# %% [markdown]
# What does the table of word vectors know by itself? Take a word and see which other rows point the same way:

# %%
from minibi.shapes import unit_rows

unit_words = unit_rows(np.asarray(params.word, np.float32))
spelled = {i: token for token, i in vocabulary.items()}
rows = []
for word in ("program", "start", "capture", "thread"):
    likeness = unit_words @ unit_words[vocabulary[word]]
    nearest = np.argsort(-likeness)[1:7]
    rows.append((word, ", ".join(f"{spelled[i]} {likeness[i]:.2f}" for i in nearest)))
draw_table(["word", "nearest in the table (cosine)"], rows)
assert "begin" in rows[1][1] and "yarn" in rows[3][1]

# %% [markdown]
# It knows that *starting* and *begin* are near *start*. But it has one row for *thread*, whether of silk or of
# execution: its neighbours are yarn as well as parallel. What a word means *here* depends on the words around it, and
# so far no token has seen any other.

# %% [markdown]
# ## 3 · Attention: tokens look at each other
#
# Each token makes three vectors by three learned matrices: a **query** $q$ (what am I looking for?), a **key** $k$
# (what do I offer?) and a **value** $v$ (what do I hand over?). Token $i$ compares its query with all keys of its
# text; softmax turns the comparisons into weights that sum to one; it takes the values by these weights:
#
# $$ A = \mathrm{softmax}\!\Big(\frac{Q K^\top}{\sqrt D}\Big), \qquad \text{out} = A\,V $$
#
# This happens 12 times side by side, in **heads** of $D = 32$ channels each ($12 \cdot 32 = 384$). Without the
# division by $\sqrt D$, dot products of longer vectors would be larger and softmax would tend to pick a single token.

# %%
show_source(plain.qkv, plain.attention_weights, plain.attend)

# %% [markdown]
# `starts` does what a mask does elsewhere: the loop over texts takes the rows of one text and no others.

# %%
layer = params.layers[0]
q, k, v = plain.qkv(h0, layer.qkv_w, layer.qkv_b, config.heads)
(weights,) = plain.attention_weights(q, k, one.starts)
print("queries", q.shape, " attention", weights.shape)

assert np.allclose(weights.sum(axis=-1), 1, atol=1e-6)  # every row of every head sums to one
assert np.allclose(weights, insight.attention[0][0], atol=1e-5)

i, head = insight.tokens.index("program"), 2  # one row by hand
e = np.exp(q[i, head] @ k[:, head].T / np.sqrt(32))
assert np.allclose(e / e.sum(), weights[head, i], atol=1e-6)

# %% [markdown]
# Nobody told the heads what to look for. Here are four of the model's 72; rows look, columns are looked at (layers
# and heads counted from 0, as the code counts).

# %%
maps = [
    (0, 2, "looks one token back"),
    (1, 8, "looks one token ahead"),
    (1, 11, "rests on [CLS]"),
    (4, 4, "three tokens look at “program”"),
]
fig, axes = plt.subplots(2, 2, figsize=(8.4, 8))
for ax, (layer_number, head, what) in zip(axes.flat, maps, strict=True):
    heat(ax, insight.attention[layer_number][0][head], insight.tokens, f"layer {layer_number}, head {head}: {what}")
plt.show()

back, ahead, rest, its = (insight.attention[l][0][h] for l, h, _ in maps)
at = insight.tokens.index
assert np.diagonal(back, -1).min() > 0.9  # each row's weight on the token before
assert np.diagonal(ahead, 1).mean() > 0.5
assert rest[:, 0].mean() > 0.9
assert its[at("its")].argmax() == at("program")

# %% [markdown]
# The first two move information to a neighbour, which later layers use to put phrases together. The third does next to
# nothing: `[CLS]` is where many heads rest when there is nothing for them to do. In the last, *its* looks at *program*,
# which it stands for. A pretty story, but *and* and `[SEP]` look there as well. A map says where a head takes from, not
# why; and on another sentence the same head may do something else.

# %% [markdown]
# ## 4 · The other half: feed-forward
#
# Attention mixes tokens. The second half of a layer works on each token alone: up to $F = 1536$ channels, through a
# bend, and down to 384 again. The bend is GELU, $x$ times the probability that a standard normal number is below $x$:
#
# $$ \mathrm{GELU}(x) = x\,\Phi(x), \qquad
# \mathrm{FFN}(h) = \mathrm{GELU}(h\,W_{\text{up}} + b_{\text{up}})\,W_{\text{down}} + b_{\text{down}} $$
#
# Around both halves there is a **residual**: what comes out is added to what went in, and the sum is normalized. A
# layer thus need not carry the text along, only change it a little:
#
# $$ h \leftarrow \mathrm{LN}\big(h + \mathrm{attend}(h)\,W_{\text{out}} + b_{\text{out}}\big), \qquad
# h \leftarrow \mathrm{LN}\big(h + \mathrm{FFN}(h)\big) $$

# %%
show_source(plain.gelu, plain.linear_gelu, plain.linear_add_norm)

a = plain.attend(q, k, v, one.starts)
h = plain.linear_add_norm(a, h0, layer.out_w, layer.out_b, layer.norm1_g, layer.norm1_b, config.eps)
u = plain.linear_gelu(h, layer.up_w, layer.up_b)
h1 = plain.linear_add_norm(u, h, layer.down_w, layer.down_b, layer.norm2_g, layer.norm2_b, config.eps)

assert np.allclose(h1, insight.states[1], atol=1e-5)  # one whole layer, verb by verb

# %%
before = plain.linear(h, layer.up_w, layer.up_b)  # what arrives at the bend, 1536 numbers per token
x = np.linspace(-5, 3, 400)
fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.2))
left.plot(x, np.maximum(x, 0), color=ink.grey, lw=2, label="ReLU: max(x, 0)")
left.plot(x, plain.gelu(x), color=ink.blue, lw=2, label="GELU: x Φ(x)")
left.axhline(0, color=ink.black, lw=0.5)
left.axvline(0, color=ink.black, lw=0.5)
left.set(title="The bend", xlabel="x")
left.legend(loc="upper left")
right.hist(before.ravel(), bins=np.linspace(-5, 3, 81), color=ink.sky)
right.axvline(0, color=ink.black, lw=0.5)
right.set(title="What arrives there (question, layer 0)", xlabel="x", ylabel="how many")
plt.show()

below = plain.gelu(before[before < 0])
print(f"{below.size / before.size:.0%} of the numbers are below zero; none leaves with more than {-below.min():.2f}")
assert below.size > 0.6 * before.size and below.min() > -0.18

attention_size = sum(w.size for w in (layer.qkv_w, layer.out_w))
feed_forward_size = sum(w.size for w in (layer.up_w, layer.down_w))
print(f"weights of one layer: {attention_size:,} for attention, {feed_forward_size:,} for feed-forward")
assert feed_forward_size == 2 * attention_size

# %% [markdown]
# Most channels stay nearly silent for any one token. One can think of the 1536 as so many small detectors, of which
# some respond.

# %% [markdown]
# ## 5 · Six layers
#
# That was one layer. The whole model is an embedding and six layers, and this is all of it. `ops` is `plain` or
# `fused`: the architecture is written once, and whoever provides the verbs can run it.

# %%
show_source(bert.forward, BiEncoder.study)

h = bert.forward(plain, params, config, one)
assert np.allclose(h, insight.states[-1], atol=1e-5)

# %% [markdown]
# What happens to a text on the way? Take four short texts, two questions and each in other words, and draw the states
# of all their tokens in the plane of largest variance (PCA), at the start and at the end.

# %%
four = {
    question: (ink.blue, "o"),
    "run a command and read what it prints": (ink.sky, "s"),
    "pick a random element from a list": (ink.red, "^"),
    "choose any one item of a sequence": (ink.orange, "D"),
}
studies = [model.study(text) for text in four]
fig, axes = plt.subplots(1, 2, figsize=(10.5, 5.4))
places = []
for ax, depth in zip(axes, (0, config.layers), strict=True):
    states = np.concatenate([study.states[depth][1:-1] for study in studies])  # without [CLS] and [SEP]
    plane, share = pca(states)
    for study, (text, (colour, marker)) in zip(studies, four.items(), strict=True):
        xy = (study.states[depth][1:-1] - states.mean(0)) @ plane.T
        ax.scatter(*xy.T, color=colour, marker=marker, s=32, label=text)
    ax.set_title(f"after {depth} layers" if depth else "the embedding")
    ax.set_xlabel(f"{share.sum():.0%} of the variance")
    ax.margins(0.14)
    frame(ax)
    places.append((states - states.mean(0)) @ plane.T)
fig.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
for ax, xy in zip(axes, places, strict=True):
    write_beside(ax, xy, [token for study in studies for token in study.tokens[1:-1]])
plt.show()

# %% [markdown]
# At the start tokens lie by what they *are*: small words here, nouns there, *pick* beside *choose*. At the end they lie
# by the text they are *in*, and texts that mean the same lie side by side. In numbers, the average cosine between
# tokens of one text, and between tokens of two texts:


# %%
def mean_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Average over all pairs of a row of a and a row of b."""
    return float(unit_rows(a).mean(0) @ unit_rows(b).mean(0))


rows = [
    (depth, *(mean_cosine(studies[a].states[depth], studies[b].states[depth]) for a, b in ((0, 0), (0, 1), (0, 2))))
    for depth in range(config.layers + 1)
]
draw_table(["layers", "within the question", "with its paraphrase", "with another question"], rows)
first, last = rows[0], rows[-1]
assert last[2] - last[3] > 0.2 > first[2] - first[3]
assert first[3] < rows[-2][3] > 0.2 and last[3] < 0.1

# %% [markdown]
# The last layer does most of it. Up to there everything grows more alike; there, texts that mean the same stay together
# and the others fall apart.
#
# Does the search get better layer by layer, then? We can ask: pool the states (part 6) of all passages after every
# layer, and see at which rank the right answer would have come. Our question is joined by nine others, some of them
# chosen because the model does *not* do well on them.
#
# Since `ops` is nothing but a table of verbs, we may hand over one of our own: the compiled verbs, but for attention
# maps, which are not needed here and are left out to save time.

# %%
questions = {
    question: "subprocess.run",
    "pick a random element from a list": "random.Random.choice",
    "remember the results of slow calls": "functools.cache",
    "largest number that divides both": "math.gcd",
    "take out a member that may not be there": "set.discard",
    "the longest side of a right triangle": "math.hypot",
    "pause for a few seconds": "time.sleep",
    "round a number up": "math.ceil",
    "copy a folder and everything in it": "shutil.copytree",
    "wait until a thread has finished": "threading.Thread.join",
}

# %%
from minibi.models.running import run_batches
from minibi.nn import fused
from minibi.nn.pooling import pool

verbs = SimpleNamespace(**{**vars(fused), "attention_weights": lambda q, k, starts: None})
fast_params = bert.read_params(stored, config, fused)


def pool_every_depth(batch: Batch, threads: int) -> np.ndarray:
    """[B, L + 1, C]: the mean state of each text after 0, 1, ..., L layers."""
    study = bert.Study()
    bert.forward(verbs, fast_params, config, batch, study)
    return np.stack([pool(states, batch.starts, ["mean"]) for states in study.states], axis=1)


def at_every_depth(texts: list[str]) -> np.ndarray:
    """[L + 1, N, C], computed on several threads."""
    ids = model.tokenizer.encode(texts, truncation="silent")
    return np.stack(run_batches(ids, pool_every_depth, at_once=512), axis=1)


deep_passages, deep_questions = at_every_depth(passages), at_every_depth(list(questions))
rank = np.empty((config.layers + 1, len(questions)), int)
for depth in range(config.layers + 1):
    cosines = unit_rows(deep_questions[depth]) @ unit_rows(deep_passages[depth]).T  # (Q, N)
    for i, name in enumerate(questions.values()):
        rank[depth, i] = 1 + (cosines[i] > cosines[i, names.index(name)]).sum()

fig, ax = plt.subplots(figsize=(8.5, 3.8))
ax.plot(rank[:, 1:], color=ink.grey, lw=1.2)
ax.plot([], [], color=ink.grey, label="nine other questions")
ax.plot(np.median(rank, axis=1), color=ink.orange, lw=2.5, ls="--", label="median of all ten")
ax.plot(rank[:, 0], color=ink.blue, lw=2.5, marker="o", label=f"“{question}”")
ax.set(yscale="log", xlabel="layers", ylabel="rank of the right passage")
ax.set_title("If the search stopped after so many layers")
ax.set_yticks([1, 3, 10, 30, 100, 300], ["1", "3", "10", "30", "100", "300"])
ax.minorticks_off()
ax.invert_yaxis()
ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
plt.show()

assert rank[-1, 0] == 1 and rank[:-1, 0].min() > 50
assert np.median(rank[:-1], axis=1).min() > 10 > np.median(rank[-1])
assert np.array_equal(unit_rows(deep_passages[-1]), vectors)  # after all layers: the very vectors of part 0

# %% [markdown]
# Not gradually at all. For one or two questions the embedding is nearly enough: their passages are short, and made of
# words that lie near the question's. For most, ours among them, the right passage stays far down until the last layer
# and then jumps to the top. That is no accident: the training that taught this model to search compared the pooled
# vectors of the *last* layer and nothing else. Earlier layers gather what the last one needs; nobody asked them to be
# comparable themselves.

# %% [markdown]
# ## 6 · One vector per text
#
# A search compares texts, not tokens, so the states of a text become one vector. This model was trained to take their
# average (others take the first state, or the largest value of each channel), and to scale it to length one:
#
# $$ p = \frac1S \sum_{t=1}^{S} h_t, \qquad x = \frac{p}{\lVert p \rVert} $$

# %%
from minibi.nn import pooling

show_source(pooling.mean_tokens, unit_rows)

p = pooling.mean_tokens(insight.states[-1])
x = unit_rows(p[None])[0]
assert np.allclose(x, insight.vector, atol=1e-6) and np.allclose(x, model.encode(question), atol=1e-6)
print(f"length before {np.linalg.norm(p):.3f}, after {np.linalg.norm(x):.3f};  it begins {x[:4].round(3)}")

# %% [markdown]
# How alike two texts are is measured by the angle between their vectors, or rather its cosine. Between vectors of
# length one that is just the dot product, and the order of the nearest is the same for the dot product and for the
# distance:
#
# $$ \cos(x, y) = \frac{x \cdot y}{\lVert x\rVert\,\lVert y\rVert} = x \cdot y,
# \qquad \lVert x - y \rVert^2 = \lVert x\rVert^2 + \lVert y\rVert^2 - 2\,x \cdot y = 2 - 2\,x \cdot y $$
#
# So one matrix product compares a question with everything:

# %%
similarity = vectors @ x  # (N, C) @ (C,) -> (N,)

assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
assert np.allclose(similarity, model.similarity(x, vectors)[0], atol=1e-5)
assert np.allclose(np.square(vectors - x).sum(axis=1), 2 - 2 * similarity, atol=1e-5)
print(f"cosine of the question and subprocess.run: {similarity[answer]:.3f}")

# %% [markdown]
# ## 7 · Search
#
# `FlatIndex` is exact search: compare with every stored vector, keep the best $k$. Its compiled scan has a plain twin
# too, which is nearly the line above plus a sort. Equal scores are ordered by id, so that the same search always
# gives the same answer.

# %%
from minibi.index import codes, flat

show_source(codes.Floating.distances_plain, flat.scan_plain)

scores, ids = index.search(x, k=10)
assert ids[0].tolist() == np.argsort(-similarity, kind="stable")[:10].tolist()
assert np.allclose(scores[0], similarity[ids[0]], atol=1e-6)

rows = [(s, f"`{names[i]}`", docs[i].text.split("\n")[0]) for s, i in zip(scores[0], ids[0], strict=True)]
draw_table(["rank", "score", "passage", "begins"], [(r, *row) for r, row in enumerate(rows, start=1)])

# %%
fig, ax = plt.subplots(figsize=(8.5, 3.4))
ax.hist(similarity, bins=60, color=ink.sky)
ax.plot(scores[0], np.full(10, -1.2), "^", color=ink.red, ms=6, clip_on=False, label="the ten best")
for place, height in ((0, 16), (1, 11), (2, 6)):
    score = scores[0, place]
    ax.plot([score, score], [0, height + 1], color=ink.red, lw=0.8)
    ax.text(score - 0.004, height, f"{place + 1}  {names[ids[0, place]]}", ha="right", size=9)
ax.set(title="The question's cosine with every passage", xlabel="cosine", ylabel="passages")
ax.set_xlim(right=0.62)
ax.legend(loc="upper right")
plt.show()

assert scores[0, 0] > similarity.mean() + 3 * similarity.std()

# %% [markdown]
# Most passages have nothing to do with the question: their cosines lie around zero. The few that do stand apart on
# the right. A score means little by itself (0.52 is not "52 % right"); what counts is the order.
#
# The passages as a map, each where its vector lies in the plane of largest variance:

# %%
plane, share = pca(vectors)
xy, question_xy = (vectors - vectors.mean(0)) @ plane.T, (x - vectors.mean(0)) @ plane.T
module = np.array([name.partition(".")[0] for name in names])
marks = {
    "subprocess": (ink.red, "s"), "threading": (ink.orange, "^"), "datetime": (ink.blue, "o"), "time": (ink.sky, "v"),
    "math": (ink.green, "D"), "random": (ink.pink, "P"), "shutil": (ink.black, "X"),
}  # fmt: skip
fig, ax = plt.subplots(figsize=(8.5, 5.6))
frame(ax)
others = ~np.isin(module, list(marks))
ax.scatter(*xy[others].T, color=ink.grey, s=14, label="others", linewidth=0)
for name, (colour, marker) in marks.items():
    size = 58 if marker in "PX" else 36
    ax.scatter(*xy[module == name].T, color=colour, marker=marker, s=size, label=name, edgecolor="white", linewidth=0.4)
star = {"marker": "*", "s": 330, "color": "white", "edgecolor": ink.black, "linewidth": 1.5, "zorder": 5}
ax.scatter(*question_xy, label="the question", **star)
ax.annotate("subprocess.run", xy[answer], xytext=(40, -28), textcoords="offset points", arrowprops={"arrowstyle": "-"})
ax.set(title=f"All passages; this plane holds {share.sum():.0%} of the variance")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

# %% [markdown]
# Modules form regions, though no vector was told its module by anything but its text. Two dimensions of 384 show only
# a small part: what overlaps here can be far apart, and the search sees all 384.

# %% [markdown]
# ## 8 · What meaning adds to words
#
# The old way to search is to count the words that question and passage share. That takes three lines. (A good word
# search counts rare words for more and long passages for less; the idea is the same.)

# %%
bags = [vocabulary_of(passage) for passage in passages]
overlap = np.array([len(vocabulary_of(question) & bag) for bag in bags])
for i in np.argsort(-overlap, kind="stable")[:3]:
    print(f"{overlap[i]} shared   {names[i]:28} {sorted(vocabulary_of(question) & bags[i])}")
print(f"{overlap[answer]} shared   {names[answer]:28} {sorted(shared)}")

assert (overlap > overlap[answer]).any()  # others share more words than the answer does

# %% [markdown]
# Words alone put a thread's property beside what we want. Now all ten questions, with the measure the field uses for
# "how far up is the first right answer": the mean reciprocal rank, $\mathrm{MRR} = \frac1Q\sum_i 1/\text{rank}_i$.
# Only one passage per question counts as right here, which is strict: others would often do.

# %%
from minibi.evaluate import evaluate, run_from_arrays
from minibi.evaluate.metrics import reciprocal_rank

show_source(reciprocal_rank)

by_meaning = model.encode_query(list(questions)) @ vectors.T  # (Q, N)
by_words = np.array([[len(vocabulary_of(text) & bag) for bag in bags] for text in questions])

rows = []
for i, (text, name) in enumerate(questions.items()):
    right = names.index(name)
    better, tied = (by_words[i] > by_words[i, right]).sum(), (by_words[i] == by_words[i, right]).sum()
    place = f"{better + 1}" + (f", tied with {tied - 1}" if tied > 1 else "")
    place = place if by_words[i, right] else "shares no word"
    rows.append((text, f"`{name}`", f"{1 + (by_meaning[i] > by_meaning[i, right]).sum()}", place))
draw_table(["question", "right answer", "rank by meaning", "rank by words"], rows)

qrels = {text: {name: 1} for text, name in questions.items()}
everyone = np.tile(np.arange(len(names)), (len(questions), 1))
mrr = {}
for how, score in (("meaning", by_meaning), ("words", by_words)):
    mrr[how] = evaluate(qrels, run_from_arrays(list(questions), names, score, everyone), ["mrr"]).mean["mrr"]
    print(f"MRR by {how}: {mrr[how]:.2f}")
assert by_words[list(questions.values()).index("functools.cache"), names.index("functools.cache")] == 0
assert mrr["meaning"] > mrr["words"] + 0.1

# %% [markdown]
# *Remember the results of slow calls* shares not one word with *Simple lightweight unbounded cache, sometimes called
# "memoize"*, and still finds it. But look at the last rows: where the right words are there, counting them is hard to
# beat. The two err differently, which is why good systems use both.
#
# Ten questions picked by hand show how it works; they measure nothing. Real measurements take hundreds of questions
# with judged answers.

# %% [markdown]
# ## 9 · Plain and fused
#
# We computed in NumPy and were always told the same as the compiled code had found. The same up to rounding, that is:
# sums of floating-point numbers depend a little on their order. How much, and what is the compiled code good for?

# %%
batch = pack(tokens[:4])
timed = {}
for ops, weights in ((plain, params), (fused, fast_params)):
    best = np.inf
    for _ in range(2):
        begin = time.perf_counter()
        states = bert.forward(ops, weights, config, batch)
        best = min(best, time.perf_counter() - begin)
    timed[ops.name] = best, states

difference = np.abs(timed["plain"][1] - timed["fused"][1]).max()
print(f"{len(batch.ids)} tokens, the largest state is {np.abs(states).max():.1f}")
print(f"largest difference:  {difference:.1e}")
slow, fast = timed["plain"][0], timed["fused"][0]
print(f"plain {slow * 1000:.0f} ms, fused {fast * 1000:.0f} ms: {slow / fast:.0f} times as fast here")
assert difference < 1e-4 and fast < slow

# %% [markdown]
# The compiled verbs promise one thing more. Most libraries give a text slightly different vectors depending on which
# other texts are in its batch, since the order of sums changes with the shape of a matrix. Here a text has *one*
# vector, to the last bit: alone, in company, in any order. NumPy, whose matrix products come from a BLAS library, makes
# no such promise: with some of them it is enough that a product has one row rather than nine.

# %%
some = list(range(0, len(passages), 20))
alone = np.stack([model.encode(passages[i], truncation="silent") for i in some])
backwards = model.encode([passages[i] for i in reversed(some)], truncation="silent", token_budget=2000)[::-1]
assert np.array_equal(alone, vectors[some]) and np.array_equal(backwards, vectors[some])
print("fused: alone, backwards and with all the others, the same bits")

one_row = plain.linear(h0[:1], layer.qkv_w, layer.qkv_b)
nine_rows = plain.linear(h0, layer.qkv_w, layer.qkv_b)
change = np.abs(one_row - nine_rows[:1]).max()
print(f"plain: the first row of a product, alone and among nine rows, differs by {change:.0e}")

# %% [markdown]
# ## 10 · Where it fails
#
# A vector of 384 numbers says what a text is *about*. It says much less about what the text *claims*:

# %%
pairs = [
    ("The lock is held by this thread.", "The lock is not held by this thread.", "This thread owns the mutex."),
    ("overwrite existing files", "do not overwrite existing files", "replace files that are already there"),
    ("sort from smallest to largest", "sort from largest to smallest", "put into ascending order"),
    ("a dog bites a man", "a man bites a dog", "somebody is hurt by an animal"),
]
rows = []
for text, opposite, same in pairs:
    t, o, s = model.encode([text, opposite, same])
    rows.append((text, opposite, t @ o, same, t @ s))
    assert t @ o > t @ s  # the opposite is nearer than the paraphrase!
draw_table(["text", "its opposite", "cosine", "the same in other words", "cosine"], rows)

# %% [markdown]
# Every time, the opposite is *nearer* than a paraphrase. *Not* is one small word, and so is the order of words; most
# of the sentence stays. In the search it looks like this:

# %%
negated = question.replace("capture", "do not capture")
scores, ids = index.search(model.encode_query([question, negated]), k=3)
for text, s, found in zip((question, negated), scores, ids, strict=True):
    print(f"{text}\n   ", ",  ".join(f"{names[i]} {score:.3f}" for score, i in zip(s, found, strict=True)))
assert answer in ids[1]

# %% [markdown]
# Keep this in mind when you build on it. A search by meaning finds what is relevant; whether it is *true*, or says
# yes or no, must be read in the passage, by a person or by a model that reads question and passage together (a
# cross-encoder). Other limits you have met on the way: text beyond 256 tokens is not read unless it is cut into
# pieces first, and exact words, names and numbers are better found by words.

# %% [markdown]
# ## 11 · Poke it
#
# Change things and see what happens. The `.py` beside this notebook is its source, and everything is imported from
# `minibi`: to look into a function, put it into `show_source(...)`.
#
# 1. **Word order.** Shuffle the words of the question. How far does its vector move, and is `subprocess.run` still
#    first? Then take the model's sense of order away altogether and compare again. *Hint:* `replace(params,
#    position=np.zeros_like(params.position))` gives weights without positions; run them with `bert.forward(plain,
#    ..., config, one)`.
# 2. **Two senses.** Follow the state of *thread* through the layers in "start a thread in the background", "wait for
#    the thread to finish" and "sew it with a silk thread". At which depth do the first two part from the third?
#    *Hint:* `model.study(text).states[depth][tokens.index("thread")]`, and cosines.
# 3. **Another pooling.** Pool all passages by `"cls"` or `"max"` instead of `"mean"`. Where does the right passage
#    end up, and why would training have made `"mean"` best? *Hint:* the third argument of `pool` in part 5.
# 4. **Fewer numbers.** Keep only the first 192, 96, 48 numbers of each vector. How many of the ten questions still
#    find their answer first? *Hint:* `vectors[:, :96]`, then `unit_rows`; or `truncate_dim=96` in `BiEncoder`.
# 5. **Both together.** Add up $1/(60 + \text{rank})$ by meaning and by words for every passage (reciprocal rank
#    fusion). Does the mean reciprocal rank of the ten questions rise? *Hint:* ranks are
#    `(-scores).argsort().argsort()`.
# 6. **A head of your own.** Find a head in which *output* looks at *capture*. Does it do the same in other sentences?
#    *Hint:* `max` over layers and heads of `insight.attention[l][0][h, i, j]`.

# %%
# Your turn. For a start on the first one:
no_order = replace(params, position=np.zeros_like(params.position))
shuffled = pack(model.tokenizer.encode(["output program its start and another capture"]))
for what, weights in (("with positions", params), ("without positions", no_order)):
    a, b = (pool(bert.forward(plain, weights, config, batch), batch.starts, ["mean"]) for batch in (one, shuffled))
    print(f"{what}: cosine of the question and the shuffled question {model.similarity(a, b)[0, 0]:.4f}")

# %% [markdown]
# ### Where to read on
#
# | step | file |
# |:---|:---|
# | tokens, truncation, pairs | `minibi/text/tokenizer.py`, and its plain twin `minibi/text/wordpiece.py` |
# | packed batches, which texts go together | `minibi/text/batches.py` |
# | the verbs: formula by formula, and compiled | `minibi/nn/plain.py`, `minibi/nn/fused.py` |
# | the kernels behind them | `minibi/kernels/matmul.py`, `minibi/kernels/attention.py` |
# | the architecture, written once | `minibi/models/bert.py` |
# | pooling | `minibi/nn/pooling.py`, `minibi/models/modules.py` |
# | text in, vectors out | `minibi/models/bi_encoder.py` |
# | exact search, and search in a graph | `minibi/index/flat.py`, `minibi/index/hnsw.py` |
# | how good is a ranking? | `minibi/evaluate/metrics.py` |
