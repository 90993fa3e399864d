# %% [markdown]
# # One small word
#
# *The library is open on Sundays.* *The library is not open on Sundays.* Whoever searches for one of them does not
# want the other. But the vectors of the two are nearly the same, and a search by vectors returns both. Why does a
# model that finds *subprocess.run* for "start another program" stumble over *not*?
#
# In this lesson we measure the failure, find out where in the geometry it happens, and look at three ways to read
# more closely: words, token by token, and both texts together, in a **cross-encoder**, which we build and train for
# half a minute.
#
# You need some Python and some linear algebra, and to know how a bi-encoder works (lesson 01). Everything works
# offline, in about a minute, half of it training.

# %%
import json
import shutil
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from lesson import QUICK, draw_table, ink, show_source, style

from minibi import BiEncoder

style()
model = BiEncoder("all-MiniLM-L6-v2")

# %% [markdown]
# ## 0 · Nearly the same
#
# Some sentences, each with one small thing changed so that it says the opposite, and each in other words. The cosine
# should be low with the first and high with the second:

# %%
triples = [
    (
        "The library is open on Sundays.",
        "The library is not open on Sundays.",
        "You can visit the library every Sunday.",
    ),
    ("The patient has a fever.", "The patient has no fever.", "His temperature is far too high."),
    ("Anna hired Pedro.", "Pedro hired Anna.", "Pedro got his job from Anna."),
    ("The shop closed before the war.", "The shop closed after the war.", "When the war began, the shop was gone."),
    ("The drug lowers blood pressure.", "The drug raises blood pressure.", "It brings hypertension down."),
]
rows = []
for text, opposite, same in triples:
    t, o, s = model.encode([text, opposite, same])
    rows.append((text, opposite, t @ o, same, t @ s))
draw_table(["text", "the opposite", "cosine", "the same in other words", "cosine"], rows)
assert all(row[2] > row[4] for row in rows)

# %% [markdown]
# Every time it is the other way round. That is five sentences, chosen by us. To *measure* it we need many, and a
# question that only the small word can answer.
#
# ## 1 · Contrast sets
#
# Take two passages that differ in one small word, and two questions, one for each. Whoever reads must pair them
# rightly. The library makes such **contrasts** from templates, of ten kinds. (CondaQA and NevIR are such sets written
# by people. They are not bundled, but `minibi.evaluate` reads them.)

# %%
from minibi.evaluate import bi_encoder_scorer, contrast_accuracy
from minibi.evaluate.quantifiers import KINDS, generate

show_source(bi_encoder_scorer)

contrasts = generate(50 if QUICK else 300, seed=0, context=False)
for one in contrasts[:10:3]:
    for question, passage in zip(one.questions, one.passages, strict=True):
        print(f"{question:62} {passage}")
    print()

measured = {"one vector": contrast_accuracy(contrasts, bi_encoder_scorer(model))}
print("one vector:", measured["one vector"])
assert measured["one vector"].chance == 0.25 and measured["one vector"].accuracy < 0.7

# %% [markdown]
# A contrast counts if *both* questions prefer their own passage; guessing earns a quarter. Kind by kind:

# %%
names = list(KINDS)
shares = [measured["one vector"].by_kind[kind][0] for kind in names]
by_share = np.argsort(shares)
fig, ax = plt.subplots(figsize=(8.5, 3.6))
bars = ax.barh([names[i] for i in by_share], [shares[i] for i in by_share], color=ink.blue)
ax.bar_label(bars, fmt=" %.2f", size=8.5)
ax.axvline(0.25, color=ink.black, lw=1, ls="--")
ax.text(0.255, -0.2, "guessing", size=8.5, va="center")
ax.set(title="One vector per text: how often both questions find their passage", xlabel="share", xlim=(0, 1.08))
plt.show()

assert measured["one vector"].by_kind["not"][0] < 0.25

# %% [markdown]
# Half of the kinds are fine. The others are *below* guessing, some at zero. A coin gives the two questions independent
# answers; the model gives both of them the *same* answer. Let us see why.
#
# ## 2 · Where it happens
#
# Write $d = p_1 - p_2$ for the difference of the passages' vectors. The first question is right if $q_1 \cdot d > 0$,
# the second if $q_2 \cdot d < 0$. Split the questions into what they share, $m = (q_1 + q_2)/2$, and what tells them
# apart, $h = (q_1 - q_2)/2$:
#
# $$ q_1 \cdot d = m \cdot d + h \cdot d, \qquad q_2 \cdot d = m \cdot d - h \cdot d $$
#
# Both are right if and only if $h \cdot d > |m \cdot d|$. The **signal** $h \cdot d$ says whether the change in the
# question points the same way as the change in the passage. The **bias** $m \cdot d$ says which passage looks more
# like this kind of question, whatever is asked. Here are all contrasts; those in the upper wedge are answered
# rightly.

# %%
q1, q2 = (model.encode_query([c.questions[i] for c in contrasts]) for i in (0, 1))
p1, p2 = (model.encode_document([c.passages[i] for c in contrasts]) for i in (0, 1))
d, m, h = p1 - p2, (q1 + q2) / 2, (q1 - q2) / 2
bias, signal = (m * d).sum(axis=1), (h * d).sum(axis=1)
kinds = np.array([c.kind for c in contrasts])
assert np.isclose((signal > np.abs(bias)).mean(), measured["one vector"].accuracy, atol=0.02)

looks = {
    "numbers": (ink.green, "D"),
    "not": (ink.red, "o"),
    "who / whom": (ink.orange, "^"),
    "all / none": (ink.blue, "s"),
}
reach = 1.05 * max(np.abs(bias).max(), np.abs(signal).max())
fig, ax = plt.subplots(figsize=(7.6, 4.9))
ax.fill([0, reach, -reach], [0, reach, reach], color=ink.green, alpha=0.10, linewidth=0)
ax.text(0, 0.54 * reach, "both questions right", ha="center", color=ink.green)
ax.text(-0.97 * reach, -0.02 * reach, "both prefer\nthe second passage", size=8.5, va="top")
ax.text(0.97 * reach, -0.02 * reach, "both prefer\nthe first passage", size=8.5, va="top", ha="right")
others = ~np.isin(kinds, list(looks))
ax.plot(bias[others], signal[others], ".", color=ink.grey, ms=5, label="other kinds")
for kind, (colour, marker) in looks.items():
    at = kinds == kind
    ax.plot(bias[at], signal[at], marker, color=colour, ms=5, label=kind, markeredgecolor="white", markeredgewidth=0.4)
ax.axhline(0, color=ink.black, lw=0.6)
ax.axvline(0, color=ink.black, lw=0.6)
ax.set(
    title="What tells the questions apart against what they share",
    xlim=(-reach, reach),
    ylim=(-0.16 * reach, 0.6 * reach),
)
ax.set(xlabel=r"bias: $m \cdot d$", ylabel=r"signal: $h \cdot d$")
ax.legend(loc="center left", bbox_to_anchor=(1, 0.5))
plt.show()

print(f"the passages of a contrast: cosine {(p1 * p2).sum(axis=1).mean():.3f} on average;", end=" ")
print(f"length of their difference {np.linalg.norm(d, axis=1).mean():.2f}")
print(f"signal above zero: {(signal > 0).mean():.0%};  and larger than the bias: {(signal > np.abs(bias)).mean():.0%}")
assert (signal > 0).mean() > (signal > np.abs(bias)).mean() + 0.1

# %% [markdown]
# The signal is there: in every contrast it has the right sign. It is only too *small*, and for many kinds the bias is
# larger. Nearly all of these points lie to the right: whatever is asked, the passages that say *all*, *always*,
# *more*, *open* are preferred to those that say *none*, *never*, *fewer*, *not open*. (*Who / whom* is lucky. Both
# passages have the same words, so there is no bias, and a tiny signal is enough.)
#
# Training did not ask for more. A model that learns from pairs of questions and answers, against random other texts,
# is right as soon as it knows the topic. It hardly ever met a negative that differed in one *not*.
#
# ### The vector knows, the cosine does not ask
#
# Is the word lost in averaging? Then nobody could recover it. We fit a straight line, a **linear probe**: least
# squares from the vectors of half of the passages to +1 (such as *open*) and -1 (*not open*), and ask it about the
# other half.

# %%
rows = []
for kind in ("not", "always / never", "all / none", "before / after"):
    some = generate(40 if QUICK else 120, seed=5, kinds=[kind], context=False)
    x = model.encode_document([c.passages[i] for c in some for i in (0, 1)])
    y = np.tile([1.0, -1.0], len(some))
    half = len(x) // 2
    w = np.linalg.solve(x[:half].T @ x[:half] + 0.1 * np.eye(x.shape[1]), x[:half].T @ y[:half])
    right = float((np.sign(x[half:] @ w) == y[half:]).mean())
    rows.append((kind, right, contrast_accuracy(some, bi_encoder_scorer(model)).accuracy))
draw_table(["kind", "a linear probe tells them apart (chance 0.50)", "the cosine pairs them (chance 0.25)"], rows)
assert rows[0][1] > 0.9 and rows[0][1] > rows[0][2] + 0.3

# %% [markdown]
# From the vector alone a straight line reads off the small word, without an error. It is written there, in some
# direction among 384. But a cosine weighs all directions alike, and most of them are about the topic. **Negation is
# not lost. It is outvoted.**
#
# ## 3 · Token by token
#
# If averaging hides the word, do not average. **Late interaction** (ColBERT, Khattab & Zaharia 2020) keeps a vector
# for every token. Each question token looks for its best match in the passage, and the matches are added up:
#
# $$ \text{MaxSim}(q, p) = \sum_{i} \max_{j}\ q_i \cdot p_j $$
#
# A trained ColBERT is not bundled. But the states of our model's own tokens will do to see the principle.

# %%
from minibi import LateInteraction
from minibi.ragged import maxsim

show_source(maxsim)

late = LateInteraction("all-MiniLM-L6-v2")
question = "Is the museum not open on Fridays?"
passages = ["The museum is not open on Fridays.", "The museum is open on Fridays."]


def matches(question: str, passage: str) -> np.ndarray:
    """Products of all question tokens with all passage tokens [S, T]."""
    return late.encode_query(question) @ late.encode_document(passage).T


fig, axes = plt.subplots(1, 3, figsize=(11.5, 4.4), width_ratios=[1, 0.9, 0.62])
asked = late.tokens(question, is_query=True)
best = []
for ax, passage in zip(axes, passages, strict=False):
    table, said = matches(question, passage), late.tokens(passage)
    best.append(table.max(axis=1))
    ax.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, j in enumerate(table.argmax(axis=1)):
        ax.add_patch(plt.Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor=ink.red, lw=1.5))
        colour = "white" if table[i, j] > 0.55 else "black"
        ax.text(j, i, f"{table[i, j]:.2f}".removeprefix("0"), ha="center", va="center", size=7.5, color=colour)
    ax.set_xticks(range(len(said)), said, rotation=60, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(len(asked)), asked)
    ax.tick_params(length=0)
    ax.set_title(f"{passage}\nMaxSim {table.max(axis=1).sum():.2f}", fontsize=9.5)
axes[1].set_yticks([])
gain = best[0] - best[1]
axes[2].barh(range(len(asked)), gain, color=[ink.red if t == "not" else ink.blue for t in asked])
axes[2].set(title="first minus second", xlabel="difference of best matches", yticks=[], ylim=(len(asked) - 0.5, -0.5))
axes[2].axvline(0, color=ink.black, lw=0.8)
plt.show()

assert np.isclose(
    best[0].sum(), late.similarity(late.encode_query(question), late.encode_document(passages[0]))[0, 0], atol=1e-4
)
assert asked[int(gain.argmax())] == "not"

# %% [markdown]
# The red frames are the best matches, and on the right is what the two sums differ by. One token carries the
# difference: *not* finds a *not* in the first passage, and nothing like it in the second. And yet the second passage,
# the wrong one, has the larger sum! Every token's state has seen its whole sentence, so all the others match a little
# less well where there is a *not*. Nine small votes against one large one: outvoted again, but now we can *see* it.
# (Training a ColBERT means, among other things, to give such a token its weight.)
#
# The question without *not* gets its passage right, and by a wide margin. That is no understanding either. It is the
# same bias:

# %%
plain_question = "Is the museum open on Fridays?"
sums = [float(matches(plain_question, passage).max(axis=1).sum()) for passage in passages]
for passage, total in zip(passages, sums, strict=True):
    print(f"{plain_question} {passage:35} {total:.2f}")
assert sums[1] > sums[0]


def late_scorer(questions: list[str], texts: list[str]) -> np.ndarray:
    q, p = list(dict.fromkeys(questions)), list(dict.fromkeys(texts))
    asked, said = late.encode_query(q), late.encode_document(p)
    at_q, at_p = {t: i for i, t in enumerate(q)}, {t: i for i, t in enumerate(p)}
    tables = (asked[at_q[a]] @ said[at_p[b]].T for a, b in zip(questions, texts, strict=True))
    return np.array([table.max(axis=1).sum() for table in tables])


measured["token by token"] = contrast_accuracy(contrasts, late_scorer)
print("token by token:", measured["token by token"])
pair = late.encode_query(question), late.encode_document(passages)
assert np.allclose(maxsim(*pair), late_scorer([question] * 2, passages), atol=1e-4)
assert measured["token by token"].accuracy > measured["one vector"].accuracy

# %% [markdown]
# ## 4 · And words?
#
# BM25 (lesson 06) knows no meaning, but if question and passage share a word, it notices. There is one catch: words
# such as *not* are often thrown away before counting, as **stop words**. For finding topics that is sensible. Here it
# is fatal. Both ways:

# %%
from minibi.lexical.bm25 import BM25
from minibi.text.words import ENGLISH_STOP_WORDS, Words

print(
    "stop words among them:", sorted(ENGLISH_STOP_WORDS & {"not", "no", "all", "none", "before", "after", "from", "to"})
)


def words_scorer(words: Words):
    def by_words(questions: list[str], texts: list[str]) -> np.ndarray:
        q, p = list(dict.fromkeys(questions)), list(dict.fromkeys(texts))
        index = BM25(tokenizer=words)
        index.add(p)
        scores, rows = index.search(q, k=len(p))
        table = np.zeros((len(q), len(p) + 1))  # the last column takes what was not found
        np.put_along_axis(table, rows, np.where(rows >= 0, scores, 0), axis=1)
        at_q, at_p = {t: i for i, t in enumerate(q)}, {t: i for i, t in enumerate(p)}
        return np.array([table[at_q[a], at_p[b]] for a, b in zip(questions, texts, strict=True)])

    return by_words


measured["words, no stop words"] = contrast_accuracy(contrasts, words_scorer(Words()))
measured["all words"] = contrast_accuracy(contrasts, words_scorer(Words(stop_words=None)))
rows = [
    (name, result.accuracy, result.by_kind["not"][0], result.by_kind["who / whom"][0])
    for name, result in measured.items()
]
draw_table(["", "all kinds", "not", "who / whom"], rows)
assert measured["all words"].by_kind["not"][0] > measured["words, no stop words"].by_kind["not"][0]

# %% [markdown]
# With all words counted, BM25 is the best so far on these templates, in which a question repeats the passage's very
# words. But it is blind to order (*who / whom*), and to any other way of saying it: on questions that people wrote
# (CondaQA) none of the three is better than a coin. None of them *reads*.
#
# ## 5 · Read them together: the cross-encoder
#
# A bi-encoder must make a passage's vector before it knows any question. A **cross-encoder** gets both at once:
#
# > `[CLS]` question `[SEP]` passage `[SEP]`
#
# in one text, with types 0 and 1 to tell the sides apart. Every token of the question can look at every token of the
# passage, in every layer. In the end the state of `[CLS]` goes through a dense layer, tanh, and one output: a score
# for the pair.

# %%
from minibi import CrossEncoder
from minibi.models import bert
from minibi.models.locate import locate
from minibi.nn import plain
from minibi.store.tensors import read_weights
from minibi.text.batches import pack

show_source(CrossEncoder._logits)

# %% [markdown]
# No trained one is bundled, so we make one: the layers of our bi-encoder, and a **head** of random numbers. That is
# also how real ones begin.

# %%
scratch = tempfile.TemporaryDirectory()
source, folder = locate("all-MiniLM-L6-v2"), Path(scratch.name) / "untrained"
folder.mkdir()
config = json.loads((source / "config.json").read_text())
config |= {"architectures": ["BertForSequenceClassification"], "id2label": {"0": "match"}}
(folder / "config.json").write_text(json.dumps(config))
for name in ("tokenizer.json", "tokenizer_config.json"):
    shutil.copy(source / name, folder)

from safetensors.numpy import save_file

rng = np.random.default_rng(0)
tensors = {name: np.ascontiguousarray(tensor) for name, tensor in read_weights(source).items()}
tensors["pooler.dense.weight"] = rng.normal(scale=0.02, size=(384, 384)).astype(np.float32)
tensors["pooler.dense.bias"] = np.zeros(384, np.float32)
tensors["classifier.weight"] = rng.normal(scale=0.02, size=(1, 384)).astype(np.float32)
tensors["classifier.bias"] = np.zeros(1, np.float32)
save_file(tensors, folder / "model.safetensors")

cross = CrossEncoder(folder)
print("scores before training:", cross.predict([(question, passage) for passage in passages]))

# %% [markdown]
# What does reading together change? Attention. Below is one layer's attention, averaged over its heads, of the pair
# as one text; and beside it the same two texts as a bi-encoder sees them. What is red there does not exist: no token
# of one text has ever looked at the other.

# %%
((ids, types),) = cross.tokenizer.encode_pairs([(question, passages[0])])
params = bert.read_params(bert.canonical(tensors), cross.config, plain)
together = bert.Study()
states = bert.forward(plain, params, cross.config, pack([ids], [types]), together)
tokens = cross.tokenizer.tokens(ids)
split = int(np.flatnonzero(types)[0])  # where the passage begins

first = states[:1]  # the head, by hand
pooled = np.tanh(first @ tensors["pooler.dense.weight"].T + tensors["pooler.dense.bias"])
by_hand = (pooled @ tensors["classifier.weight"].T)[0, 0]
assert np.isclose(by_hand, cross.predict((question, passages[0])), atol=1e-4)

apart = bert.Study()
separate = model.tokenizer.encode([question, passages[0]])
bert.forward(plain, params, cross.config, pack(separate), apart)

LAYER = 3
joint = together.attention[LAYER][0].mean(axis=0)
sizes = [len(s) for s in separate]
blocks = np.zeros((sum(sizes), sum(sizes)))
blocks[: sizes[0], : sizes[0]] = apart.attention[LAYER][0].mean(axis=0)
blocks[sizes[0] :, sizes[0] :] = apart.attention[LAYER][1].mean(axis=0)
labels = [token for s in separate for token in model.tokenizer.tokens(s)]

fig, axes = plt.subplots(1, 2, figsize=(11, 5.4))
for ax, table, names_of, border, title in (
    (axes[0], joint, tokens, split, "cross-encoder: one text"),
    (axes[1], blocks, labels, sizes[0], "bi-encoder: two texts"),
):
    ax.imshow(np.sqrt(table), cmap="Blues", vmin=0, vmax=0.7)
    ax.axhline(border - 0.5, color=ink.orange, lw=1.2)
    ax.axvline(border - 0.5, color=ink.orange, lw=1.2)
    ax.set_xticks(range(len(names_of)), names_of, rotation=70, ha="right", rotation_mode="anchor", size=8)
    ax.set_yticks(range(len(names_of)), names_of, size=8)
    ax.tick_params(length=0)
    ax.set_title(f"{title}, layer {LAYER}, mean of 12 heads")
for x, y in ((sizes[0], 0), (0, sizes[0])):
    size = (sizes[1], sizes[0]) if x else (sizes[0], sizes[1])
    axes[1].add_patch(plt.Rectangle((x - 0.5, y - 0.5), *size, facecolor=ink.red, alpha=0.25, linewidth=0))
plt.show()

crossing = [float(a[0][:, :split, split:].sum(axis=2).mean()) for a in together.attention]
print("share of the question's attention that goes to the passage, by layer:", np.round(crossing, 2))
assert blocks[: sizes[0], sizes[0] :].max() == 0 and min(crossing) > 0.05

# %% [markdown]
# Rows look, columns are looked at (colours by the square root, to see small ones). The upper right block is the
# question looking at the passage. It was never trained on pairs, and still a good part of the attention crosses over.
#
# ### Half a minute of training
#
# Can it learn to use that? The objective: of the two scores of one question, the right passage's should be
# larger, $L = \ln(1 + e^{-(s_\text{right} - s_\text{wrong})})$ (RankNet, Burges et al. 2005). The examples come from
# the templates, of other draws, and *three kinds are left out altogether*: *not*, *before / after* and *all / some* it
# will never have seen. The embeddings and the two lowest layers stay as they are, which saves time.

# %%
from minibi.train.losses import rank_net_pairs
from minibi.train.model import Trainable
from minibi.train.optimizer import AdamW, clip, linear_schedule

show_source(rank_net_pairs)

UNSEEN = ("not", "before / after", "all / some")
STEPS, BATCH = (2, 2) if QUICK else (40, 8)
tested = {c.questions for c in contrasts}
examples = [c for c in generate(1000, seed=1, kinds=[k for k in KINDS if k not in UNSEEN], context=False)
            if c.questions not in tested]  # fmt: skip
rng.shuffle(examples)

trainable = Trainable(cross, frozen=("embeddings", "encoder.layer.0", "encoder.layer.1"))
optimizer, schedule = AdamW(trainable.trainable, lr=1e-4), linear_schedule(STEPS, warmup=STEPS // 10)
losses = []
begin = time.perf_counter()
for step in range(STEPS):
    some = examples[step * BATCH : (step + 1) * BATCH]
    pairs = [(c.questions[i], c.passages[j]) for c in some for i in (0, 1) for j in (i, 1 - i)]  # right, wrong
    run = trainable.forward(trainable.batch(pairs))
    right, wrong = run.output[::2, 0], run.output[1::2, 0]
    loss, (d_right, d_wrong) = rank_net_pairs(right, wrong)
    gradients = run.backward(np.stack([d_right, d_wrong], axis=1).reshape(-1, 1))
    clip(gradients, 1.0)
    optimizer.step(gradients, schedule(step))
    losses.append(loss)
trainable.save(Path(scratch.name) / "trained")
learned = sum(p.size for p in trainable.trainable.values())
print(f"{STEPS} steps of {4 * BATCH} pairs, {learned / 1e6:.1f} million parameters")

reader = CrossEncoder(Path(scratch.name) / "trained")
from minibi.evaluate import cross_encoder_scorer

before = contrast_accuracy(contrasts, cross_encoder_scorer(cross))
measured["cross-encoder"] = contrast_accuracy(contrasts, cross_encoder_scorer(reader))
print("untrained head:", before)
print("trained:       ", measured["cross-encoder"])

fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=[1, 1.7])
left.plot(losses, color=ink.blue)
left.axhline(np.log(2), color=ink.black, lw=1, ls="--")
left.text(len(losses) - 1, np.log(2), "guessing", ha="right", va="bottom", size=8.5)
left.set(title="Training", xlabel="step", ylabel="loss", ylim=(0, None))
systems = {"one vector": (ink.blue, "o"), "token by token": (ink.green, "D"), "all words": (ink.orange, "s"),
           "cross-encoder": (ink.red, "^")}  # fmt: skip
ordered = [*[k for k in names if k not in UNSEEN], *UNSEEN]
for i, (name, (colour, marker)) in enumerate(systems.items()):
    values = [measured[name].by_kind[kind][0] for kind in ordered]
    right.plot(values, np.arange(len(ordered)) + 0.13 * (i - 1.5), marker, color=colour, ms=6, label=name)
right.axvline(0.25, color=ink.black, lw=1, ls="--")
right.axhline(len(ordered) - len(UNSEEN) - 0.5, color=ink.grey, lw=1)
right.set_yticks(range(len(ordered)), [f"{k} (unseen)" if k in UNSEEN else k for k in ordered])
right.set(
    title="Both questions right", xlabel="share; dashed: guessing", ylim=(len(ordered) - 0.5, -0.5), xlim=(-0.03, 1.03)
)
right.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8.5)
plt.show()

if not QUICK:
    assert measured["cross-encoder"].accuracy > measured["one vector"].accuracy + 0.2
    assert np.mean([measured["cross-encoder"].by_kind[kind][0] for kind in UNSEEN]) > 0.6

# %% [markdown]
# Forty steps, and most kinds are solved, the three that it never saw among them. What the layers know of *not* was
# there all along; reading together, a few steps suffice to make use of it. *Rise / fall* shows something that words
# cannot do: there the passage says *rose* and *fell*.
#
# Now the honest part. *From / to* and *who / whom* are not solved; there it is worse than the vectors it came from.
# *That the same word stands in both* is quickly learned, *in which role* is not. Forty steps on templates make no
# reader: what it has learned is to look for the small word, and on questions by people it would fail like the others.
# Real cross-encoders are trained on hundreds of thousands of judged pairs, and they too are far from perfect at
# negation.
#
# ### What it costs
#
# A bi-encoder reads every passage once, beforehand, and compares vectors. A cross-encoder reads every *pair*, when
# the question is asked:

# %%
many = [c.passages[0] for c in contrasts[:100]]
stored, asked_vector = model.encode_document(many), model.encode_query(question)


def seconds(work) -> float:
    taken = []
    for _ in range(5):
        begin = time.perf_counter()
        work()
        taken.append(time.perf_counter() - begin)
    return min(taken)


by_vectors = seconds(lambda: stored @ asked_vector)
by_reading = seconds(lambda: reader.predict([(question, passage) for passage in many]))
print(
    f"100 short passages: {1e6 * by_vectors:.0f} µs by vectors, {1e3 * by_reading:.0f} ms by reading each pair:",
    end=" ",
)
print(f"{by_reading / by_vectors:,.0f} times as long")
assert by_reading > 100 * by_vectors

# %% [markdown]
# So the two share the work. Vectors (and words) find a hundred candidates among a million in milliseconds; the
# cross-encoder reads these hundred and puts them in order: `Pipeline([dense, bm25], rerank=CrossEncoder(folder))`.
#
# ## 6 · Poke it
#
# Change things and see what happens. The `.py` beside this notebook is its source, and everything is imported from
# `minibi`: to look into a function, put it into `show_source(...)`.
#
# 1. **Your own pairs.** Write ten pairs of a kind that is not among the templates (*with / without*, *at least / at
#    most*, *must / may*) as `Contrast`s and measure all four on them. Begun below.
# 2. **Context.** `generate(300, context=True)` puts a neutral sentence before and after. Which of the four suffers
#    most? Predict first: what becomes of an average over tokens?
# 3. **Weigh the probe's direction.** Add the linear probe of part 2 to the cosine: how many more *not* contrasts are
#    right if you multiply the components of both vectors along `w` by 3? What happens to ordinary search?
# 4. **The other way round.** MaxSim asks only for the question's tokens. Add the passage's best matches in the
#    question. Does "Is the museum open?" now tell the two passages apart?
# 5. **Roles.** Train 200 steps instead of 40, on *who / whom* alone. Can it learn it at all? And are the other kinds
#    forgotten?
# 6. **Bi-encoder, trained.** The same contrasts can be used as hard negatives for a bi-encoder (`minibi.train`). How
#    far does one vector get?

# %%
# Your turn. For a start on the first one:
from minibi.evaluate import Contrast

mine = [
    Contrast(("Is the soup made with milk?", "Is the soup made without milk?"),
             ("The soup is made with milk.", "The soup is made without milk.")),
    Contrast(("Must visitors pay?", "May visitors pay?"), ("Visitors must pay.", "Visitors may pay.")),
]  # fmt: skip
scorers = {
    "one vector": bi_encoder_scorer(model),
    "token by token": late_scorer,
    "cross-encoder": cross_encoder_scorer(reader),
}
for name, scorer in scorers.items():
    print(f"{name:15} {contrast_accuracy(mine, scorer).values}")
scratch.cleanup()

# %% [markdown]
# ### Where to read on
#
# | what | file |
# |:---|:---|
# | contrast sets; the templates | `minibi/evaluate/contrast.py`, `minibi/evaluate/quantifiers.py` |
# | a vector for each token | `minibi/models/late_interaction.py`, `minibi/index/multi_vector.py` |
# | the cross-encoder | `minibi/models/cross_encoder.py` |
# | reordering with a time budget | `minibi/search/rerank.py`, `minibi/search/pipeline.py` |
# | losses and training | `minibi/train/losses`, `minibi/train/model.py` |
# | the same on larger sets, and on CondaQA | `benchmarks/contrast.py`, `benchmarks/RESULTS.md` |
