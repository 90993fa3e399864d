"""Makes losses.json and losses.safetensors: what sentence-transformers and torch say of every loss. Run once and kept.

    python tests/golden/make_losses.py

Run with torch 2.13.0 (CPU) and sentence-transformers 6.2.0; a second run wrote the same bytes. Each case of losses.json
names a function of minibi.train.losses, its options and inputs, the loss, and `gradients`, the number of gradients that
autograd gave; they stand in losses.safetensors as "case.0", "case.1", ... Inputs are the float64 arrays of the same
file that `inputs` names. `mining` holds a small corpus and what `mine_hard_negatives` makes of it.
"""

from __future__ import annotations

import json
import sys
import types
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file
from sentence_transformers.cross_encoder import losses as ce
from sentence_transformers.multi_vector_encoder.scoring import colbert_kd_scores, colbert_scores
from sentence_transformers.sentence_transformer import losses as st
from sentence_transformers.sentence_transformer.losses import gist_embed
from sentence_transformers.sentence_transformer.losses.batch_hard_triplet import BatchHardTripletLossDistanceFunction
from sentence_transformers.util import cos_sim, dot_score, hard_negatives, pairwise_cos_sim, pairwise_dot_score

HERE = Path(__file__).parent
B, C = 6, 8
draw = np.random.default_rng(20)
ARRAYS: dict[str, np.ndarray] = {name: draw.normal(size=(B, C)) for name in ("queries", "positives")}
for name in ("positives", "negatives", "more"):  # related to the queries, so that losses are neither 0 nor hopeless
    ARRAYS[name] = 0.8 * ARRAYS["queries"] + draw.normal(size=(B, C))
for name in ("guide_queries", "guide_positives", "guide_negatives"):
    ARRAYS[name] = draw.normal(size=(B, 3))
ARRAYS["teacher"] = draw.normal(size=(B, 3))
ARRAYS["logits"] = 3 * draw.normal(size=(B, 4))
ARRAYS["vectors"] = draw.normal(size=(9, C))
ARRAYS["query_tokens"], ARRAYS["document_tokens"] = draw.normal(size=(9, C)), draw.normal(size=(14, C))
QUERY_STARTS, DOCUMENT_STARTS = [0, 4, 5, 9], [0, 2, 9, 10, 14]
CASES: list[dict[str, Any]] = []


def case(name: str, call: str, inputs: str, options: dict[str, Any], loss: Any) -> None:
    """loss(*tensors) -> a scalar tensor; options are for the function of minibi."""
    tensors = [torch.tensor(ARRAYS[i], requires_grad=True) for i in inputs.split()]
    value = loss(*tensors)
    value.backward()
    for i, x in enumerate(tensors):
        ARRAYS[f"{name}.{i}"] = x.grad.numpy()
    row = {"name": name, "call": call, "inputs": inputs.split(), "options": options, "loss": value.item()}
    CASES.append({**row, "gradients": len(tensors)})


def of(loss: Any, labels: Any = None) -> Any:
    labels = None if labels is None else torch.tensor(labels)
    return lambda *x: loss.compute_loss_from_embeddings(list(x), labels)


def gist(guides: list[str], **options: Any) -> Any:
    def loss(*x: torch.Tensor) -> torch.Tensor:
        it = gist_embed.GISTEmbedLoss.__new__(gist_embed.GISTEmbedLoss)
        torch.nn.Module.__init__(it)
        usual = {"temperature": 0.01, "margin_strategy": "absolute", "margin": 0.0}
        flags = {"contrast_anchors": True, "contrast_positives": True}
        it.__dict__.update(usual | flags | options, gather_across_devices=False, must_retokenize=False)
        it.model, it.guide = "model", "guide"
        it.similarity_fct, it.cross_entropy_loss = torch.nn.CosineSimilarity(dim=-1), torch.nn.CrossEntropyLoss()
        vectors = {"model": list(x), "guide": [torch.tensor(ARRAYS[g]) for g in guides]}
        gist_embed.embed_columns = lambda which, features: vectors[which]
        return it([{} for _ in x], None)

    return loss


class Reranker(torch.nn.Module):
    """Stands in for a cross-encoder: the score of ("i", "j") is scores[i, j]."""

    num_labels, device = 1, torch.device("cpu")

    def __init__(self, scores: torch.Tensor):
        super().__init__()
        self.scores = scores

    def preprocess(self, pairs: list[tuple[str, str]], **_: Any) -> dict[str, Any]:
        return {"pairs": pairs}

    def forward(self, tokens: dict[str, Any]) -> dict[str, torch.Tensor]:
        return {"scores": torch.stack([self.scores[int(i), int(j)] for i, j in tokens["pairs"]])}


def ranked(kind: Any, labels: list[list[float]], **options: Any) -> Any:
    """A list-wise loss of cross-encoders, on lists of different lengths."""

    def loss(scores: torch.Tensor) -> torch.Tensor:
        it = kind(Reranker(scores), **options)
        documents = [[str(j) for j in range(len(row))] for row in labels]
        return it([[str(i) for i in range(len(labels))], documents], [torch.tensor(row) for row in labels])

    return loss


def embedding_cases() -> None:
    qp, qpn, four = "queries positives", "queries positives negatives", "queries positives negatives more"
    mnr = st.MultipleNegativesRankingLoss
    all_four = ["query_to_doc", "doc_to_query", "query_to_query", "doc_to_doc"]
    both = all_four[:2]
    case("info_nce", "info_nce", qp, {}, of(mnr(None)))
    case("info_nce_hard", "info_nce", four, {"scale": 5.0}, of(mnr(None, scale=5.0)))
    dot = {"scale": 0.5, "similarity": "dot"}
    case("info_nce_dot", "info_nce", qpn, dot, of(mnr(None, scale=0.5, similarity_fct=dot_score)))
    options: dict[str, Any] = {"directions": both, "partition_mode": "per_direction"}
    case("info_nce_symmetric", "info_nce", qpn, options, of(mnr(None, **options)))
    case("info_nce_all", "info_nce", four, {"directions": all_four}, of(mnr(None, directions=all_four)))
    for name, options in {
        "plain": {"temperature": 0.2},
        "margin": {"temperature": 0.05, "margin": 0.1},
        "relative": {"temperature": 0.05, "margin": 0.2, "margin_strategy": "relative", "contrast_positives": False},
        "anchors": {"temperature": 0.1, "contrast_anchors": False},
    }.items():
        for inputs in (qp, qpn):
            guides = ["guide_" + i for i in inputs.split()]
            label = f"gist_{name}_{len(guides)}"
            case(label, "gist_embed", inputs, options | {"guides": guides}, gist(guides, **options))
    for name, metric in {
        "cosine": st.TripletDistanceMetric.COSINE,
        "euclidean": st.TripletDistanceMetric.EUCLIDEAN,
    }.items():
        options = {"distance": name, "margin": 0.4}
        reference = st.TripletLoss(None, distance_metric=metric, triplet_margin=0.4)
        case(f"triplet_{name}", "triplet", qpn, options, of(reference))
    batch = BatchHardTripletLossDistanceFunction
    labels = [0, 1, 2, 0, 1, 2, 0, 0, 1]
    for name, metric in {"cosine": batch.cosine_distance, "euclidean": batch.euclidean_distance}.items():
        for call, kind in {
            "batch_all_triplet": st.BatchAllTripletLoss,
            "batch_hard_triplet": st.BatchHardTripletLoss,
            "batch_semi_hard_triplet": st.BatchSemiHardTripletLoss,
        }.items():
            options = {"labels": labels, "distance": name, "margin": 0.3}
            case(f"{call}_{name}", call, "vectors", options, of(kind(None, metric, margin=0.3), labels))
        options = {"labels": labels, "distance": name, "margin": "soft"}
        soft = st.BatchHardSoftMarginTripletLoss(None, metric)
        case(f"batch_hard_soft_{name}", "batch_hard_triplet", "vectors", options, of(soft, labels))
    labels = [1, 0, 0, 1, 0, 1]
    case("contrastive", "contrastive", qp, {"labels": labels}, of(st.ContrastiveLoss(None), labels))
    online = st.OnlineContrastiveLoss(None)
    case("online_contrastive", "online_contrastive", qp, {"labels": labels}, of(online, labels))
    for label in (0, 1):
        case(f"online_{label}", "online_contrastive", qp, {"labels": [label] * B}, of(online, [label] * B))
    grades = [0.125, 0.875, 0.5, 0.5, 0.0, 1.0]  # exact in float32, to which some losses turn labels
    exact = torch.tensor(grades, dtype=torch.float64)
    cosine = st.CosineSimilarityLoss(None)
    case("cosine_similarity", "cosine_similarity", qp, {"labels": grades}, of(cosine, exact.numpy()))
    case("cosent", "cosent", qp, {"labels": grades}, of(st.CoSENTLoss(None), exact.numpy()))
    options = {"labels": grades, "scale": 2.0, "similarity": "dot"}
    dotted = st.CoSENTLoss(None, scale=2.0, similarity_fct=pairwise_dot_score)
    case("cosent_dot", "cosent", qp, options, of(dotted, exact.numpy()))


def distillation_cases() -> None:
    qpnm, teacher = "queries positives negatives more", ARRAYS["teacher"]
    bridge = {"teacher": "teacher", "similarity": "dot"}
    case("margin_mse", "of:margin_mse", qpnm, bridge, of(st.MarginMSELoss(None), teacher))
    case("kl", "of:kl_divergence", qpnm, bridge, of(st.DistillKLDivLoss(None), teacher))
    kl = st.DistillKLDivLoss(None, pairwise_cos_sim, temperature=0.2)
    options = {"teacher": "teacher", "similarity": "cosine", "temperature": 0.2}
    case("kl_cosine", "of:kl_divergence", qpnm, options, of(kl, teacher))
    target = torch.tensor(ARRAYS["more"])
    for distance in ("mse", "l2", "cosine"):
        reference = st.EmbedDistillLoss(None, distance)
        options = {"teacher": "more", "distance": distance}

        def loss(q: torch.Tensor, p: torch.Tensor, reference: Any = reference) -> torch.Tensor:
            return reference.compute_loss_from_embeddings([q, p], [target, target])

        case(f"embed_distill_{distance}", "embed_distill", "queries positives", options, loss)

    class Encoder(torch.nn.Module):
        def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return dict(features)

        def get_embedding_dimension(self) -> int:
            return C

    for label, inner, options in (
        ("cosine", {"similarity_fct": cos_sim}, {}),
        ("dot", {"similarity_fct": dot_score, "scale": 3.0}, {"similarity": "dot", "scale": 3.0}),
    ):

        def nested(*x: torch.Tensor, inner: dict[str, Any] = inner) -> torch.Tensor:
            model = Encoder()
            mnr = st.MultipleNegativesRankingLoss(model, **inner)
            loss = st.MatryoshkaLoss(model, mnr, matryoshka_dims=[8, 4, 1], matryoshka_weights=[1.0, 0.5, 0.25])
            return loss([{"sentence_embedding": v} for v in x], None)

        options = {"dims": [8, 4, 1], "weights": [1.0, 0.5, 0.25]} | options
        case(f"matryoshka_{label}", "nested:info_nce", "queries positives negatives", options, nested)


def score_cases() -> None:
    lists = [[2.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0], [3.0], [0.0, 1.0], [1.0, 1.0, 1.0, 0.0], [0.0, 0.0, 5.0]]
    options = {"labels": lists}
    case("list_net", "lists:list_net", "logits", options, ranked(ce.ListNetLoss, lists))
    rank = ranked(ce.RankNetLoss, lists, reduction_log="natural")
    case("rank_net", "lists:rank_net", "logits", options, rank)
    rank = ranked(ce.RankNetLoss, lists, reduction_log="natural", sigma=2.5)
    case("rank_net_sigma", "lists:rank_net", "logits", options | {"sigma": 2.5}, rank)
    target = draw.uniform(size=(B, 4)).round(3)
    exact = torch.tensor(target)
    case("mse", "mse", "logits", {"targets": target.tolist()}, lambda x: F.mse_loss(x, exact))
    bce = F.binary_cross_entropy_with_logits
    options = {"labels": target.tolist(), "pos_weight": 3.5}
    case("bce", "binary_cross_entropy", "logits", {"labels": target.tolist()}, lambda x: bce(x, exact))
    weight = torch.tensor(3.5, dtype=torch.float64)
    case("bce_weighted", "binary_cross_entropy", "logits", options, lambda x: bce(x, exact, pos_weight=weight))
    classes = [0, 3, 1, 1, 2, 0]
    wanted = torch.tensor(classes)
    case("cross_entropy", "cross_entropy", "logits", {"labels": classes}, lambda x: F.cross_entropy(x, wanted))
    options = {"labels": classes, "label_smoothing": 0.1}
    smooth = lambda x: F.cross_entropy(x, wanted, label_smoothing=0.1)  # noqa: E731
    case("cross_entropy_smooth", "cross_entropy", "logits", options, smooth)


def padded(tokens: torch.Tensor, starts: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    parts = [tokens[s:e] for s, e in pairwise(starts)]
    rows = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    return rows, torch.arange(rows.shape[1]) < torch.tensor([len(p) for p in parts])[:, None]


def late_cases() -> None:
    spans = {"query_starts": QUERY_STARTS, "document_starts": DOCUMENT_STARTS}

    def contrast(q: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        (q, q_mask), (d, d_mask) = padded(q, QUERY_STARTS), padded(d, DOCUMENT_STARTS)
        scores = colbert_scores(q, d[:, None], queries_mask=q_mask, documents_mask=d_mask[:, None])
        return F.cross_entropy(scores, torch.tensor([2, 0, 3]))

    options = {**spans, "labels": [2, 0, 3]}
    case("late_contrast", "tokens:cross_entropy", "query_tokens document_tokens", options, contrast)
    pairs = [[[0, 3], [0, 1]], [[1, 0], [1, 2]], [[2, 1], [2, 3]]]
    teacher = [[2.0, 1.0], [0.0, 3.0], [1.0, 1.5]]

    def distill(q: torch.Tensor, d: torch.Tensor) -> torch.Tensor:
        (q, q_mask), (d, d_mask) = padded(q, QUERY_STARTS), padded(d, DOCUMENT_STARTS)
        chosen = torch.tensor(pairs)[:, :, 1]
        scores = colbert_kd_scores(q, d[chosen], queries_mask=q_mask, documents_mask=d_mask[chosen])
        target = F.softmax(torch.tensor(teacher), dim=1)
        return F.kl_div(F.log_softmax(scores, dim=1), target, reduction="batchmean")

    options = {**spans, "pairs": pairs, "teacher": teacher}
    case("late_distill", "tokens:kl_divergence", "query_tokens document_tokens", options, distill)


# --- hard negatives --------------------------------------------------------------------------------------------------


class Table(dict):
    """As much of datasets.Dataset as mine_hard_negatives uses, for that library is not needed otherwise."""

    column_names = property(list)
    from_dict = classmethod(lambda cls, columns: cls(columns))

    def __len__(self) -> int:
        return len(next(iter(self.values())))

    def to_pandas(self) -> Any:
        anchor, positive = self.column_names[:2]
        counts = {positive: dict(Counter(self[anchor]))}
        grouped = types.SimpleNamespace(count=lambda: types.SimpleNamespace(to_dict=lambda: counts))
        return types.SimpleNamespace(groupby=lambda _: grouped)


class Vectors:
    """Stands in for an encoder: texts are numbers of rows."""

    device = torch.device("cpu")
    similarity, similarity_pairwise = staticmethod(cos_sim), staticmethod(pairwise_cos_sim)

    def __init__(self, queries: np.ndarray, documents: np.ndarray):
        self.queries, self.documents = queries, documents

    def encode_query(self, texts: list[str], **_: Any) -> np.ndarray:
        return np.stack([self.queries[int(t[1:])] for t in texts])

    def encode_document(self, texts: list[str], **_: Any) -> np.ndarray:
        return np.stack([self.documents[int(t[1:])] for t in texts])

    def predict(self, pairs: list[tuple[str, str]], **_: Any) -> torch.Tensor:
        products = [self.encode_query([q])[0] @ self.encode_document([d])[0] for q, d in pairs]
        return torch.tensor(np.array(products))


def mining() -> dict[str, Any]:
    sys.modules["datasets"] = types.SimpleNamespace(Dataset=Table)  # type: ignore[assignment]
    hard_negatives.is_datasets_available = lambda: True
    rng = np.random.default_rng(3)
    documents = rng.normal(size=(40, 4))
    queries = documents[:12] + 0.9 * rng.normal(size=(12, 4))
    pairs = [(i, i) for i in range(12)] + [(2, 20), (2, 21), (5, 22)]
    model = Vectors(queries, documents)
    judge = Vectors(queries + rng.normal(size=queries.shape), documents)
    ARRAYS["mining.queries"], ARRAYS["mining.documents"] = queries, documents
    ARRAYS["mining.judge"] = judge.queries
    cases = []
    for options in (
        {},
        {"num_negatives": 2, "range_min": 3, "range_max": 9, "output_format": "n-tuple"},
        {"num_negatives": 4, "absolute_margin": 0.1, "output_format": "n-tuple", "output_scores": True},
        {"num_negatives": 4, "absolute_margin": 0.1, "output_format": "labeled-list"},
        {"relative_margin": 0.05, "max_score": 0.8, "output_scores": True},
        {"relative_margin": 0.5, "min_score": 0.2, "output_format": "labeled-pair"},
        {"min_score": 0.3, "range_min": 1, "range_max": 6, "output_format": "labeled-list", "output_scores": True},
        {"judge": True, "max_score": 1.5, "num_negatives": 5, "range_max": 12, "output_scores": True},
        {"judge": True, "relative_margin": 0.2, "output_format": "labeled-pair", "output_scores": True},
    ):
        data = Table(query=[f"q{q}" for q, _ in pairs], positive=[f"d{d}" for _, d in pairs])
        given = {k: v for k, v in options.items() if k != "judge"}
        mined = hard_negatives.mine_hard_negatives(
            data,
            model,
            corpus=[f"d{i}" for i in range(40)],
            cross_encoder=judge if "judge" in options else None,
            verbose=False,
            **given,
        )
        cases.append({"options": options, "columns": dict(mined)})
    return {"pairs": pairs, "cases": cases}


if __name__ == "__main__":
    embedding_cases()
    distillation_cases()
    score_cases()
    late_cases()
    mined = mining()
    text = ",\n".join(json.dumps(row) for row in CASES)
    rows = ",\n".join(json.dumps(row) for row in mined["cases"])
    whole = f'{{"cases": [\n{text}\n],\n"mining": {{"pairs": {json.dumps(mined["pairs"])}, "cases": [\n{rows}\n]}}}}\n'
    (HERE / "losses.json").write_text(whole, encoding="ascii")
    save_file({name: np.ascontiguousarray(x) for name, x in ARRAYS.items()}, HERE / "losses.safetensors")
