"""Makes tasks.json: what sentence-transformers and scikit-learn make of the 200 golden embeddings. Run once and kept.

    pip install sentence-transformers==6.2.0 scikit-learn==1.9.1
    python tests/golden/make_tasks.py

Thresholds of communities keep 1e-5 away from every cosine.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import sklearn
import torch
from safetensors.numpy import load_file
from sentence_transformers import __version__ as version
from sentence_transformers import util
from sklearn.cluster import AgglomerativeClustering
from sklearn.linear_model import LogisticRegression

HERE = Path(__file__).parent


def clear_of(threshold: float, cosines: np.ndarray) -> float:
    """The first number from `threshold` on that no cosine comes near."""
    while np.abs(cosines - threshold).min() < 1e-5:
        threshold = round(threshold + 1e-5, 5)
    return threshold


def classification(rng: np.random.Generator) -> list[dict[str, object]]:
    cases = []
    for classes in (2, 3):
        u, v = rng.normal(size=(2, 90, 5)).round(3)
        z = np.stack([u[:, 0] - v[:, 0], np.abs(u - v).mean(1) * 2 - 1, (u * v).sum(1)], 1)[:, :classes]
        labels = (z + rng.normal(size=z.shape)).argmax(1)
        x = np.concatenate([u, v, np.abs(u - v), u * v], 1).astype(np.float32)
        l2 = 0.01
        # scikit-learn's binary model has one row of weights where softmax has two: half the penalty
        c = (2 if classes == 2 else 1) / (len(x) * l2)
        model = LogisticRegression(C=c, tol=1e-12, max_iter=100_000).fit(x.astype(np.float64), labels)
        proba = model.predict_proba(x.astype(np.float64)).round(9)
        cases.append({"u": u.tolist(), "v": v.tolist(), "labels": labels.tolist(), "l2": l2, "proba": proba.tolist()})
    return cases


def main() -> None:
    torch.set_num_threads(1)
    x = load_file(HERE / "minilm.safetensors")["embeddings_rounded"]
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(len(x), 1)]
    scaled = x * (1 + np.arange(len(x), dtype=np.float32)[:, None] % 7)
    communities = [(clear_of(t, cosines), size) for t, size in ((0.3, 5), (0.25, 2), (0.5, 2))]
    linkages = [(name, t) for name in ("average", "complete", "single") for t in (0.45, 0.7, 0.85)]
    peers = f"sentence-transformers {version}, scikit-learn {sklearn.__version__}"
    golden = {
        "made_by": f"tests/golden/make_tasks.py with {peers}",
        "semantic_search": util.semantic_search(scaled[:20], scaled, top_k=6),
        "semantic_search_dot": util.semantic_search(scaled[:20], scaled, top_k=6, score_function=util.dot_score),
        "paraphrase_mining": util.paraphrase_mining_embeddings(torch.from_numpy(x), top_k=50, max_pairs=400),
        "community_detection": [
            {"threshold": t, "min_community_size": n, "found": util.community_detection(x, t, n)}
            for t, n in communities
        ],
        "agglomerative": [
            {
                "linkage": name,
                "threshold": t,
                "labels": AgglomerativeClustering(n_clusters=None, distance_threshold=t, metric="cosine", linkage=name)
                .fit_predict(x.astype(np.float64))
                .tolist(),
            }
            for name, t in linkages
        ],
        "classification": classification(np.random.default_rng(20240229)),
    }
    with open(HERE / "tasks.json", "w", encoding="ascii", newline="\n") as file:
        json.dump(golden, file, separators=(",", ":"))
        file.write("\n")


if __name__ == "__main__":
    main()
