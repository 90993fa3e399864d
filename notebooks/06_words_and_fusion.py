# %% [markdown]
# # Words and fusion
#
# Long before vectors, search counted words. It is still hard to beat where the right word decides: a gene, a drug, a
# number, a name. In this lesson we take apart **BM25**, the formula behind most of the world's search boxes, term by
# term. Then we let it compete with a model's vectors on claims from science, see where either wins, and put the two
# together. The last question is the one that matters most in practice: is the mixture *really* better, or were we
# lucky?
#
# You need some Python, and to know what a search by vectors is (lesson 01). Everything works offline. If lesson 03 or
# 04 has not run yet, the first run encodes 5,183 abstracts, which takes a minute or two; after that it takes seconds.

# %%
import matplotlib.pyplot as plt
import numpy as np
from lesson import QUICK, draw_table, encode_once, ink, scifact, show_source, style, write_beside

from minibi import BiEncoder, FlatIndex
from minibi.lexical.bm25 import BM25

style()

# %% [markdown]
# ## 0 · Claims and papers
#
# SciFact: somebody makes a claim, and the papers that it rests on, or falls by, are to be found among 5,183
# abstracts. 300 claims are for testing. 809 others may be used to tune things, and we shall need them.

# %%
train, test = scifact()
bm25 = BM25()
bm25.add(test.docs)
place_of = {doc: row for row, doc in enumerate(test.doc_ids)}  # rows of the index are places in the corpus

claim = "Macrolides protect against myocardial infarction."
claim_id = next(q for q, text in test.queries.items() if text == claim) if not QUICK else next(iter(test.queries))
claim = test.queries[claim_id]
right = [place_of[doc] for doc in test.qrels[claim_id]]
scores, rows = bm25.search(claim, k=5)

print(bm25, "\n\nclaim:", claim)
best = zip(scores[0], rows[0], strict=True)
draw_table(["score", "title", "judged"], [(s, test.titles[row], "relevant" if row in right else "") for s, row in best])

# %% [markdown]
# The index is filled in a fraction of the time that vectors take: there is no model. What does it do instead?
#
# ## 1 · From text to terms
#
# A text becomes a list of **terms**: folded (no capitals, no accents), split into words, without words like *the*, and
# cut to their stems, so that *protects* and *protecting* meet in *protect*.

# %%
from minibi.text.words import Words, split

show_source(split, Words.__call__, Words.term)

words = Words()
samples = [
    claim,
    "Antibiotics and risk of subsequent first-time acute myocardial infarction.",
    "Ångström's 2 protecting proteins",
]
for text in samples:
    print(f"{text}\n    {words(text)}")
assert words("protects protecting protected") == ["protect"] * 3 and words("The of and") == []

# %% [markdown]
# *Antibiotics* and *macrolides* do not meet. A macrolide **is** an antibiotic, but no rule of spelling knows that.
#
# ## 2 · The formula, one part at a time
#
# A document's score is a sum over the query's terms. What it holds of other terms plays no role but through its
# length:
#
# $$ \text{score}(q, d) = \sum_{t \in q}
# \underbrace{\ln\!\Big(1 + \frac{N - n_t + \frac12}{n_t + \frac12}\Big)}_{\text{rare words count more}}
# \cdot \underbrace{\frac{f}{f + k_1 B}}_{\text{repetition saturates}}, \qquad
# B = \underbrace{1 - b + b\,\frac{\text{length}}{\text{average length}}}_{\text{long documents pay}} $$
#
# $N$ documents, $n_t$ of them hold the term; $f$ is how often *this* one does. (This is Lucene's form. Four others
# differ in details, see `minibi/lexical/variants.py`.)

# %%
from minibi.lexical import plain, variants

show_source(variants.idf, plain.parts, plain.contributions)

stats = bm25.stats()
n_docs, average = stats["documents"], stats["average_length"]
explained = bm25.explain(claim, int(rows[0, 0]))
print(f"{n_docs} documents of {average:.0f} terms on average, {stats['terms']} different terms")

fig, (one, two, three) = plt.subplots(1, 3, figsize=(11, 3.5))
df = np.geomspace(1, n_docs, 200)
one.plot(df, variants.idf("lucene", df, n_docs), color=ink.blue)
seen = {}
for text in list(test.queries.values())[:40]:
    for term in bm25.explain(text, 0).terms:
        seen[term.term] = (term.df, term.idf)
wanted = [t.term for t in explained.terms] + [t for t in ("cell", "increas", "ppm1d", "human") if t in seen]
marks = {t: seen.get(t) or next((x.df, x.idf) for x in explained.terms if x.term == t) for t in dict.fromkeys(wanted)}
one.plot(*zip(*marks.values(), strict=True), "o", color=ink.red, ms=5)
one.set(xscale="log", title="Rare words count more", xlabel="documents with the term", ylabel="idf", ylim=(0, 9.5))

f = np.arange(0, 13)
for k1, colour, marker in ((0.5, ink.orange, "s"), (1.5, ink.blue, "o"), (5.0, ink.green, "D")):
    two.plot(f, f / (f + k1), color=colour, marker=marker, ms=4, label=f"k1 = {k1:g}")
two.axhline(1, color=ink.grey, lw=1, ls="--")
two.set(title="Repetition saturates", xlabel="f, times in the document", ylabel="share of the idf", ylim=(0, 1.08))
two.legend(loc="lower right")

lengths = np.array([len(words(text)) for text in test.docs])
x = np.linspace(1, np.quantile(lengths, 0.995), 100)
three.hist(
    lengths, np.linspace(0, x[-1], 50), weights=np.full(len(lengths), 6 / len(lengths)), color=ink.grey, alpha=0.7
)
for b, colour, style_of_line in ((0.0, ink.orange, ":"), (0.75, ink.blue, "-"), (1.0, ink.green, "--")):
    three.plot(x, 2 / (2 + 1.5 * (1 - b + b * x / average)), color=colour, ls=style_of_line, label=f"b = {b:g}")
three.set(title="Long documents pay", xlabel="terms in the document", ylabel="share of the idf, f = 2", ylim=(0, 1.08))
three.legend(loc="upper right", title="grey: how many are so long", title_fontsize=8.5)
write_beside(one, np.array(list(marks.values())), list(marks))
plt.show()

weights = variants.idf("lucene", df, n_docs)
assert (np.diff(weights) < 0).all() and weights[-1] >= 0

# %% [markdown]
# Each part is an answer to a way in which plain counting goes wrong. Without **idf**, *increase* would weigh as much
# as the name of a gene. Without **saturation** a text that repeats a word twenty times would win over one that holds
# all of the query's words once. Without the **length**, long texts would win, since they hold more of everything.
#
# ## 3 · One score, explained
#
# `explain` says where a score comes from. Here it is in words, then by hand, and then for the best three documents and
# for the one that was judged relevant, if it is not among them:

# %%
print(explained)

by_hand = 0.0
for t in explained.terms:
    B = 1 - 0.75 + 0.75 * explained.length / explained.average_length
    by_hand += np.log1p((n_docs - t.df + 0.5) / (t.df + 0.5)) * t.tf / (t.tf + 1.5 * B)
print(f"\nby hand: {by_hand:.4f}")
assert abs(by_hand - scores[0, 0]) < 1e-4 and abs(explained.score - scores[0, 0]) < 1e-6

shown = list(dict.fromkeys([*rows[0, :3].tolist(), *right[:1]]))
parts = [bm25.explain(claim, row) for row in shown]
terms = [t.term for t in parts[0].terms]
colours = dict(
    zip(terms, [ink.blue, ink.orange, ink.green, ink.pink, ink.sky, ink.red, ink.black, ink.grey] * 4, strict=False)
)
fig, ax = plt.subplots(figsize=(9.5, 0.62 * len(shown) + 1.5))
for place, one in enumerate(parts):
    left = 0.0
    for t in sorted(one.terms, key=lambda t: terms.index(t.term)):
        ax.barh(place, t.score, left=left, color=colours[t.term], edgecolor="white", height=0.6)
        if t.score > 0.6:
            ax.text(left + t.score / 2, place, f"{t.term} × {t.tf}", ha="center", va="center", color="white", size=8.5)
        left += t.score
    title = test.titles[shown[place]]
    label = (title if len(title) < 55 else title[:54] + "…") + ("  (relevant)" if shown[place] in right else "")
    ax.text(0, place - 0.36, f"{label}, {one.length} terms", va="bottom", size=8.5)
ax.set(title=f"“{claim}”", xlabel="score", yticks=[], ylim=(len(shown) - 0.5, -0.75))
plt.show()

# %% [markdown]
# A glance at such bars tells more about a search than its scores. Which words carried it? Is there one word that
# decides everything? Did the stemmer unite what does not belong together? That is the great virtue of words: when
# they fail, one can see why.
#
# ## 4 · Where words win, where meaning wins
#
# Now the other contestant: vectors of the same abstracts. Both answer all test claims, and for each claim we measure
# nDCG@10: 1 if the judged papers are at the top, less the further down they are, 0 if they are not among the first
# ten.

# %%
from minibi.evaluate import compare, evaluate, run_from_arrays
from minibi.evaluate.metrics import ndcg

show_source(ndcg)

model = BiEncoder("all-MiniLM-L6-v2", compute="int8")
index = FlatIndex(model.dim)
index.add(encode_once(model, test.docs))


def answers(data) -> dict[str, dict]:
    """The hundred best of every claim, by words and by vectors: query id -> document id -> score."""
    ids, texts = list(data.queries), list(data.queries.values())
    found = {"dense": index.search(model.encode_query(texts), k=100), "bm25": bm25.search(texts, k=100)}
    return {name: run_from_arrays(ids, data.doc_ids, *arrays) for name, arrays in found.items()}


runs = {"train": answers(train), "test": answers(test)}
results = {name: evaluate(test.qrels, run, ["ndcg@10", "recall@100"]) for name, run in runs["test"].items()}
draw_table(["", "nDCG@10", "recall@100"], [(name, *result.mean.values()) for name, result in results.items()])

ids = list(test.queries)
dense, lexical = (results[name].values("ndcg@10") for name in ("dense", "bm25"))
difference = dense - lexical
fig, ax = plt.subplots(figsize=(9, 3.3))
order = np.argsort(-difference, kind="stable")
bars = difference[order]
ax.bar(np.arange(len(bars)), bars, width=1, color=np.where(bars > 0, ink.blue, ink.orange))
ax.axhline(0, color=ink.black, lw=0.8)
wins, ties = int((difference > 0).sum()), int((difference == 0).sum())
ax.text(wins / 2, -0.12, f"vectors better: {wins}", color=ink.blue, ha="center", va="top")
ax.text(wins + ties / 2, 0.12, f"equal: {ties}", ha="center")
ax.text(
    len(bars) - (len(bars) - wins - ties) / 2,
    0.12,
    f"words better: {len(bars) - wins - ties}",
    color=ink.orange,
    ha="center",
)
ax.set(title="Claim by claim", xlabel="test claims, sorted", ylabel="nDCG@10, vectors minus words", ylim=(-1.05, 1.05))
plt.show()

assert 0 < wins < len(ids) and len(bars) - wins - ties > 0

# %% [markdown]
# On more than half of the claims the two are equal. On the others they differ, often by everything: one has the right
# paper at the top, the other nowhere. Look at some of each kind.


# %%
def rank_of(run: dict[str, float], judged: dict[str, int]) -> str:
    ranked = sorted(run, key=lambda doc: -run[doc])
    found = [ranked.index(doc) + 1 for doc in judged if doc in run]
    return str(min(found)) if found else "over 100"


for title, chosen in (("Words win", order[::-1][:6]), ("Vectors win", order[:6])):
    table = []
    for i in chosen:
        judged = test.qrels[ids[i]]
        place = place_of[next(iter(judged))]
        both = sorted(set(words(test.queries[ids[i]])) & set(words(test.docs[place])))
        ranks = [rank_of(runs["test"][name][ids[i]], judged) for name in ("bm25", "dense")]
        table.append((test.queries[ids[i]], test.titles[place], " ".join(both), *ranks))
    draw_table([f"{title}: the claim", "the paper", "terms in both", "rank by words", "by vectors"], table)

# %% [markdown]
# Words win by **names**: *macrolides*, *onchocerciasis*, *CTCF*, *CCL19*. Such a word occurs in few papers, has a
# large idf, and decides. The model cuts it into pieces that it has hardly ever seen together, and answers with
# something near the topic. Vectors win where things are **said differently**: *Bcl2* and *BCL-2*, *aPKCz* and *PKCζ*,
# *autoimmune events* and *autoimmunity*. There the words in common are those that many papers share.
#
# Their mistakes are different ones. That is what makes it worth putting them together.
#
# ## 5 · Fusion: by ranks
#
# How to add up a cosine of 0.52 and a BM25 score of 14.3? The simplest answer is not to look at scores at all.
# **Reciprocal rank fusion** (Cormack, Clarke & Büttcher 2009) gives each document points for its rank in each list:
#
# $$ \text{RRF}(d) = \sum_{\text{list}} \frac{1}{60 + \text{rank}(d)} $$
#
# The 60 makes the top flat: rank 1 earns 1/61, rank 10 still 1/70. Being tenth in both lists (2/70) beats being first
# in one and nowhere in the other (1/61).

# %%
from minibi.search.fusion import Method, convex, fuse_runs, reciprocal_rank, tune

show_source(Method.parts, Method._normalized)

two = {name: run[claim_id] for name, run in runs["test"].items()}
fused = reciprocal_rank(two)
print(f"claim: {claim}\n")
print(fused[:4].explain())

points = sum(1 / (60 + e.rank) for e in fused[0].evidence if e.rank)
assert np.isclose(points, fused[0].score) and 2 / 70 > 1 / 61

# %% [markdown]
# `explain` again: rank, score and share of each retriever for every hit. Reciprocal ranks need no tuning and never
# fail badly. But look at what they throw away. The paper on macrolides comes out fourth. By words it was first, and
# by far (10.4; the second had 6.2). By vectors it was 26th, but hardly worse than those before it (0.39; the first
# had 0.49). Ranks know only "1" and "26".
#
# ## 6 · Fusion: by scores
#
# A **convex combination** keeps the scores. Each list is first brought to the range from 0 to 1 (least and largest
# score of the list; other ways are in the source above), and then
#
# $$ \text{score}(d) = \alpha\,\text{dense}(d) + (1 - \alpha)\,\text{bm25}(d) $$
#
# The $\alpha$ must come from somewhere. It may come from judged queries, if they are *not the ones we shall
# report*. We tune on the 809 training claims, then look once at the test claims.

# %%
tuned = tune(runs["train"], train.qrels, "ndcg@10")
print("chosen on the training claims:", tuned.weights, f"nDCG@10 there {tuned.score:.4f}")
afterwards = tune(runs["test"], test.qrels, "ndcg@10")  # only to draw what tuning on the test claims would have seen

alphas = np.array([weights["dense"] for weights, _ in tuned.grid])
by_alpha = np.argsort(alphas)
fig, (left, right) = plt.subplots(1, 2, figsize=(10.5, 3.8))
for name, grid, colour, marker in (("training", tuned.grid, ink.blue, "o"), ("test", afterwards.grid, ink.orange, "s")):
    values = np.array([value for _, value in grid])
    left.plot(alphas[by_alpha], values[by_alpha], color=colour, marker=marker, label=f"{name} claims")
left.axvline(tuned.weights["dense"], color=ink.black, lw=1, ls="--", label="chosen")
left.set(title="One weight", xlabel=r"$\alpha$: 0 words alone, 1 vectors alone", ylabel="nDCG@10")
left.legend(loc="lower left", fontsize=8.5)

samples = np.random.default_rng(6)
train_ids = list(train.qrels)
picked = {}
for size in (5, 20, 80):
    picked[size] = []
    for _ in range(15 if QUICK else 40):
        some = samples.choice(len(train_ids), min(size, len(train_ids)), replace=False)
        qrels = {train_ids[i]: train.qrels[train_ids[i]] for i in some}
        part = {name: {q: run[q] for q in qrels} for name, run in runs["train"].items()}
        picked[size].append(tune(part, qrels, "ndcg@10").weights["dense"])
for i, (size, weights) in enumerate(picked.items()):
    share = np.bincount(np.rint(10 * np.array(weights)).astype(int), minlength=11) / len(weights)
    right.bar(np.arange(11) / 10 + (i - 1) * 0.028, share, width=0.026, label=f"{size} claims",
              color=(ink.orange, ink.green, ink.blue)[i])  # fmt: skip
right.set(title="What tuning on few judged claims chooses", xlabel=r"chosen $\alpha$", ylabel="share of the trials")
right.legend(title="tuned on", fontsize=8.5)
plt.show()

inner = [value for weights, value in tuned.grid if 0 < weights["dense"] < 1]
ends = [value for weights, value in tuned.grid if weights["dense"] in (0.0, 1.0)]
assert QUICK or max(inner) > max(ends)

# %% [markdown]
# The hill is broad: anything from 0.3 to 0.5 is nearly as good as the best. Both curves have their top at nearly the
# same place, although they are of different claims; one weight cannot learn much by heart. On the right, 5 judged
# claims say little: often many weights are equally good on them, and then `tune` takes the middle. 80 say enough.
# (Bruch, Gai & Ingber 2023 found the same on larger sets: a handful of judged queries is enough for a convex
# combination to overtake reciprocal ranks.)
#
# ## 7 · Better, or lucky?
#
# Now the whole table, on the test claims:

# %%
fusions = {"RRF": fuse_runs(runs["test"], reciprocal_rank), "convex, untuned": fuse_runs(runs["test"], convex)}
fusions["convex, tuned on others"] = fuse_runs(runs["test"], tuned)
results |= {name: evaluate(test.qrels, run, ["ndcg@10", "recall@100"]) for name, run in fusions.items()}
draw_table(["", "nDCG@10", "recall@100"], [(name, *result.mean.values()) for name, result in results.items()])
ours, words_alone, rrf = (results[name] for name in ("convex, tuned on others", "bm25", "RRF"))
assert QUICK or ours.mean["ndcg@10"] > max(results[name].mean["ndcg@10"] for name in ("bm25", "dense"))

# %% [markdown]
# The mixtures are better than either part. But these are 300 claims; with 300 others, would it look the same? We do
# not have 300 others, but we can ask what would have happened if chance had handed us *other ones of these*: draw 300
# claims with replacement, some twice, some not at all, and take the mean difference. Do it 10,000 times. This is the
# **paired bootstrap**: paired, because for each claim we look at the difference of the two systems. Hard claims are
# hard for both, and that cancels.

# %%
from minibi.evaluate.significance import paired_bootstrap

show_source(paired_bootstrap)


def redrawn(a, b, times: int = 5000) -> np.ndarray:
    """The mean difference over claims drawn again with replacement."""
    d = a.values("ndcg@10") - b.values("ndcg@10")
    return d[np.random.default_rng(1).integers(0, len(d), (times, len(d)))].mean(axis=1)


matches = [("tuned mixture - words", ours, words_alone, ink.blue), ("tuned mixture - RRF", ours, rrf, ink.orange)]
fig, ax = plt.subplots(figsize=(9, 3.5))
verdicts = []
for name, a, b, colour in matches:
    means = redrawn(a, b)
    (verdict,) = compare(a, b, ["ndcg@10"])
    verdicts.append(verdict)
    ax.hist(means, 60, color=colour, alpha=0.6, label=f"{name}: p = {verdict.p_value:.2g}", density=True)
    ax.plot([verdict.low, verdict.high], [-2 - 2 * len(verdicts)] * 2, color=colour, lw=4, solid_capstyle="butt")
    print(f"{name}:\n    {verdict}")
ax.plot([], [], color=ink.black, lw=4, label="bars: 95 % intervals")
ax.axvline(0, color=ink.black, lw=1)
ax.set(title="The difference, if chance had drawn other claims", xlabel="mean difference of nDCG@10", yticks=[])
ax.legend(fontsize=8.5)
plt.show()

low, high = np.quantile(redrawn(ours, words_alone), [0.025, 0.975])
assert abs(low - verdicts[0].low) < 0.006 and abs(high - verdicts[0].high) < 0.006
assert QUICK or verdicts[0].low > 0 > verdicts[1].low

# %% [markdown]
# Mixture against words: hardly any redrawn set says that words are better, and the interval stays clear of zero. That
# is a result. Tuned mixture against RRF: the mean is higher, but the interval contains zero. On these claims we
# *cannot say* which of them is better; perhaps with more. The p-value says how often a difference at least as clear
# would come about if there were none.
#
# Two warnings. Who compares twenty systems will find one at p < 0.05 by chance alone. And all of this is about *these
# kinds of claims*. No test protects from having measured on other texts than those that will be searched.
#
# ## 8 · As a pipeline
#
# What took a lesson takes four lines in use. Every hit knows what each stage said of it:

# %%
from minibi.search.pipeline import Pipeline
from minibi.search.retrievers import Dense, Lexical

retrievers = [Dense(model, index, labels=test.doc_ids), Lexical(bm25, labels=test.doc_ids)]
pipeline = Pipeline(retrievers, fuse=tuned, texts=dict(zip(test.doc_ids, test.titles, strict=True)))
hits = pipeline.search(claim, k=5)
print(hits.explain())
draw_table(["score", "title"], [(hit.score, hit.text) for hit in hits])
assert hits[0].evidence[0].stage == "dense" and len(hits) == 5
assert QUICK or hits[0].id in test.qrels[claim_id]  # the paper on macrolides

# %% [markdown]
# With scores instead of ranks the paper on macrolides is first: words were sure of it, and vectors not much against
# it.
#
# ## 9 · Poke it
#
# Change things and see what happens. The `.py` beside this notebook is its source, and everything is imported from
# `minibi`: to look into a function, put it into `show_source(...)`.
#
# 1. **The knobs.** Give `BM25` a `k1` of 0.9 or 3, a `b` of 0.4 or 0. Which changes nDCG@10 more on these abstracts,
#    which are all about equally long? Predict first; begun below.
# 2. **Variants.** Try `BM25("bm25+")`, `"bm25l"`, `"atire"`, `"robertson"`. How large are the differences beside that
#    between words and vectors?
# 3. **Without stems.** `BM25(tokenizer=Words(stemmer=None))`, or `stop_words=None`. Which claims change?
# 4. **The model's own words.** `BM25(tokenizer=model.tokenizer)` counts WordPiece tokens. Does *PPM1D* still decide?
# 5. **Another k.** `reciprocal_rank(…, k=1)` gives the top much more weight, `k=1000` hardly any. *Hint:*
#    `fuse_runs(runs, partial(reciprocal_rank, k=1))`.
# 6. **An unfair match.** Add 1,000 abstracts once more under new ids to the BM25 index (`bm25.add(docs, ids)`) and
#    remove them again. Are the scores the same bits as before? Should they be?

# %%
# Your turn. For a start on the first one:
texts = list(test.queries.values())[:100]
for k1, b in ((1.5, 0.75), (0.9, 0.4), (3.0, 0.75), (1.5, 0.0)):
    other = BM25(k1=k1, b=b)
    other.add(test.docs)
    run = run_from_arrays(ids[:100], test.doc_ids, *other.search(texts, k=10))
    judged = {q: test.qrels[q] for q in ids[:100]}
    print(
        f"k1 = {k1}, b = {b}: nDCG@10 {evaluate(judged, run, ['ndcg@10']).mean['ndcg@10']:.4f} on {len(judged)} claims"
    )

# %% [markdown]
# ### Where to read on
#
# | what | file |
# |:---|:---|
# | folding, splitting, stems | `minibi/text/words.py`, `minibi/text/stemmer.py` |
# | five variants as one formula | `minibi/lexical/variants.py` |
# | the index that changes in place, and its plain twin | `minibi/lexical/bm25.py`, `minibi/lexical/plain.py` |
# | fusion and tuning | `minibi/search/fusion.py` |
# | stages in a row, explained | `minibi/search/pipeline.py`, `minibi/search/hits.py` |
# | metrics, and whether a difference is one | `minibi/evaluate/metrics.py`, `minibi/evaluate/significance.py` |
