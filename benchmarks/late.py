"""Late interaction: python -m benchmarks.late [--only maxsim,storage,search] [--threads N] [--rounds R] [--json]

    maxsim    32 query tokens x 100 documents x 128 tokens x 128 dimensions, one thread, against torch (einsum, and one
              matrix product); scores of unit vectors, so that the error of bytes is in units of cosine
    storage   SciFact with MiniLM's own token vectors: bytes per token and nDCG@10 of each way of keeping them, at 128
              dimensions (principal axes of a sample of the documents' token vectors) or at 384, their own
    search    milliseconds per query there, at the first of the widths

The token vectors are encoded once (int8 arithmetic) and kept as float16 under benchmarks/.cache.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from typing import TYPE_CHECKING, Any

from .common import CACHE, SCIFACT, interleave, limit_threads, machine, ratio, say, table, versions

if TYPE_CHECKING:
    from minibi import MultiVectorIndex
    from minibi.ragged import Ragged
    from minibi.shapes import Floats

GOALS = {"int8": 2.8, "float32": 1.0}
# Others: a largest score error of 0.02; at most 40 bytes per token of 128 d at 0.99 of the uncompressed nDCG@10.
WAYS: dict[str, tuple[dict[str, Any], int]] = {  # name -> options of the index, factor of token pooling
    "float32": ({"storage": "float32"}, 1),
    "residual, 2 bits": ({"storage": "residual", "nbits": 2}, 1),
    "residual, 1 bit": ({"storage": "residual", "nbits": 1}, 1),
    "residual, 4 bits": ({"storage": "residual", "nbits": 4}, 1),
    "residual, 2 bits, half the vectors": ({"storage": "residual", "nbits": 2}, 2),
    "int8": ({"storage": "int8"}, 1),
}


def maxsim(rounds: int) -> dict[str, Any]:
    """Times and score errors of minibi's kernels and torch's best on one query and 100 documents."""
    import numpy as np

    from minibi.index.residual import ResidualCodec
    from minibi.index.token_codes import ByteCodes, Floating, Residuals
    from minibi.ragged import Ragged
    from minibi.ragged import maxsim as plain

    rng = np.random.default_rng(0)
    documents = rng.standard_normal((100, 128, 128)).astype(np.float32)
    documents /= np.linalg.norm(documents, axis=2, keepdims=True)
    query = rng.standard_normal((32, 128)).astype(np.float32)
    query /= np.linalg.norm(query, axis=1, keepdims=True)
    flat, starts, lengths = documents.reshape(-1, 128), np.arange(100) * 128, np.full(100, 128)
    truth = plain(query, Ragged(flat, np.arange(101) * 128))
    codecs = {
        "float32": Floating(128),
        "float16": Floating(128, halves=True),
        "int8": ByteCodes(128),
        "residual, 2 bits": Residuals(ResidualCodec.train(flat, 256, 2)),
    }
    stored = {name: codes.encode(flat) for name, codes in codecs.items()}
    runs = {  # the query is packed anew every time, as in a search
        name: (lambda c=codes, s=stored[name]: c.scorer(query)(s, starts, lengths)) for name, codes in codecs.items()
    }
    errors = {name: float(np.abs(run() - truth).max()) for name, run in runs.items()}
    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None:
        q, d = torch.from_numpy(query), torch.from_numpy(documents)
        with torch.inference_mode():
            runs["torch einsum"] = lambda: torch.einsum("qd,ntd->nqt", q, d).amax(2).sum(1)
            runs["torch mm"] = lambda: (d.reshape(-1, 128) @ q.T).reshape(100, 128, 32).amax(1).sum(1)
            times = interleave(runs, rounds)
            for name in ("torch einsum", "torch mm"):
                errors[name] = float(np.abs(runs[name]().numpy() - truth).max())
    else:
        times = interleave(runs, rounds)
    result: dict[str, Any] = {"ms": {n: 1e3 * sorted(t)[len(t) // 2] for n, t in times.items()}, "error": errors}
    if torch is not None:
        best = min(("torch einsum", "torch mm"), key=lambda n: result["ms"][n])
        result |= {"peer": best, "times": {name: ratio(times[best], times[name]) for name in codecs}}
    return result


def token_vectors() -> tuple[Ragged, Ragged]:
    """(documents, queries of the test split) of SciFact, encoded once."""
    import numpy as np

    from minibi import LateInteraction
    from minibi.evaluate.beir import read_beir
    from minibi.ragged import Ragged, pack_rows

    dataset = read_beir(SCIFACT)
    model = LateInteraction(compute="int8")
    queries = model.encode_query(list(dataset.queries.values()), truncation="silent")
    folder = CACHE / "late"
    names = [folder / f"{model.fingerprint[:16]}-{part}.npy" for part in ("vectors", "starts")]
    if not names[1].exists():
        folder.mkdir(parents=True, exist_ok=True)
        matrices: list[Any] = []
        for first in range(0, len(dataset.docs), 256):
            say(f"encoding documents: {first} of {len(dataset.docs)}")
            some = model.encode_document(dataset.docs[first : first + 256], truncation="silent")
            matrices += [matrix.astype(np.float16) for matrix in some]
        starts = np.cumsum([0, *map(len, matrices)])
        np.save(names[0], np.concatenate(matrices))
        np.save(names[1], starts)
    documents = Ragged(np.load(names[0]).astype(np.float32), np.load(names[1]))
    return documents, pack_rows(list(queries), model.dim)


def principal_axes(vectors: Floats, dim: int, sample: int = 50_000) -> Floats:
    """[D, dim]: the directions that keep most of the inner products of a sample of vectors."""
    import numpy as np

    rows = np.random.default_rng(0).choice(len(vectors), min(sample, len(vectors)), replace=False)
    x = vectors[rows].astype(np.float64)
    _, axes = np.linalg.eigh(x.T @ x)
    return axes[:, ::-1][:, :dim].astype(np.float32)


def quality(index: MultiVectorIndex, queries: Ragged, **options: int) -> dict[str, float]:
    """nDCG@10 and recall@100 on SciFact."""
    from minibi.evaluate.beir import read_beir
    from minibi.evaluate.metrics import evaluate, run_from_arrays

    dataset = read_beir(SCIFACT)
    run = run_from_arrays(list(dataset.queries), dataset.doc_ids, *index.search(queries, 100, **options))
    return evaluate(dataset.qrels, run, ["ndcg@10", "recall@100"]).mean


def at_width(dim: int) -> tuple[Ragged, Ragged]:
    """Documents and queries at `dim` dimensions."""
    from minibi.ragged import Ragged
    from minibi.shapes import unit_rows

    documents, queries = token_vectors()
    if dim == documents.dim:
        return documents, queries
    axes = principal_axes(documents.vectors, dim)
    projected = Ragged(unit_rows(documents.vectors @ axes), documents.starts)
    return projected, Ragged(unit_rows(queries.vectors @ axes), queries.starts)


def storage(widths: tuple[int, ...], names: list[str]) -> list[dict[str, Any]]:
    """A row for each way of keeping SciFact's token vectors. The 2-bit index is kept in the cache for `search`."""
    from minibi import MultiVectorIndex
    from minibi.nn.token_pooling import pool_tokens
    from minibi.ragged import pack_rows

    rows: list[dict[str, Any]] = []
    for dim in widths:
        documents, queries = at_width(dim)
        for name in names:
            options, factor = WAYS[name]
            say(f"{dim} dimensions, {name}")
            kept = documents
            if factor > 1:
                kept = pack_rows([pool_tokens(matrix, factor) for matrix in documents], dim)
            start = time.perf_counter()
            index = MultiVectorIndex(dim, **options)
            index.add(kept)
            row = {"dim": dim, "name": name, "build": time.perf_counter() - start} | quality(index, queries)
            size = index.stats()
            row["bytes_per_token"] = (size["token_bytes"] + size["list_bytes"]) / len(documents.vectors)
            if name == "residual, 2 bits":
                index.save(CACHE / "late" / f"residual-{dim}.minibi")
                if dim < 256:
                    row["everything"] = quality(index, queries, nprobe=10**9, depth=10**9)
            rows.append(row)
            row["share"] = row["ndcg@10"] / next(r for r in rows if r["dim"] == dim)["ndcg@10"]
            say(json.dumps(row))
    return rows


def search(dim: int, count: int = 100) -> dict[str, dict[str, float]]:
    """Milliseconds per query, median and 95th percentile over `count` queries one by one, k = 10."""
    import numpy as np

    from minibi import MultiVectorIndex

    documents, queries = at_width(dim)
    path = CACHE / "late" / f"residual-{dim}.minibi"
    if not path.exists():
        raise SystemExit("run --only storage first: it builds the index that is searched here")
    indexes = {"residual, 2 bits": MultiVectorIndex.load(path)}
    for kind in ("int8", "float32"):
        indexes[f"{kind}, every document"] = MultiVectorIndex(dim, storage=kind)
        indexes[f"{kind}, every document"].add(documents)
    times: dict[str, list[float]] = {name: [] for name in indexes}
    for number in range(count + 1):
        for name, index in indexes.items():
            start = time.perf_counter()
            index.search(queries[number], 10)
            if number:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: {"p50": float(np.median(t)), "p95": float(np.quantile(t, 0.95))} for name, t in times.items()}


def render(result: dict[str, Any]) -> str:
    parts = []
    if "maxsim" in result:
        found = result["maxsim"]
        lines = [
            [name, f"{ms:.2f}", found.get("times", {}).get(name), f"{found['error'][name]:.4f}", GOALS.get(name)]
            for name, ms in found["ms"].items()
        ]
        peer = found.get("peer", "torch")
        parts.append(table(["MaxSim, one thread", "ms", f"times {peer}", "largest score error", "goal"], lines))
    if "storage" in result:
        lines = [
            [
                f"{r['name']}, {r['dim']} d", f"{r['bytes_per_token']:.1f}", f"{r['ndcg@10']:.4f}", f"{r['share']:.3f}",
                f"{r['recall@100']:.3f}", f"{r['build']:.0f}",
            ]
            for r in result["storage"]
        ]  # fmt: skip
        heads = ["SciFact", "bytes per token", "nDCG@10", "of float32's", "recall@100", "build s"]
        parts.append(table(heads, lines))
    if "search" in result:
        lines = [[name, f"{r['p50']:.1f}", f"{r['p95']:.1f}"] for name, r in result["search"].items()]
        parts.append(table(["SciFact, one query, k = 10", "ms p50", "ms p95"], lines))
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="maxsim,storage,search", metavar="NAMES")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="for storage and search")
    parser.add_argument("--rounds", type=int, default=9, metavar="R")
    parser.add_argument("--widths", default="128", metavar="DIMS", help="of storage")
    parser.add_argument("--ways", default=";".join(WAYS), metavar="NAMES", help="of storage, separated by semicolons")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    arguments = parser.parse_args()
    names = set(arguments.only.split(","))
    if names - {"maxsim", "storage", "search"}:
        parser.error("--only: choose among maxsim, storage and search")
    if arguments.threads > 1 and "maxsim" in names:
        parser.error("maxsim is measured on one thread: add --only storage,search")
    widths = tuple(int(width) for width in arguments.widths.split(","))
    ways = arguments.ways.split(";")
    if set(ways) - set(WAYS) or ways[0] != "float32":
        parser.error(f"--ways: choose among {list(WAYS)}, float32 first")
    limit_threads(arguments.threads)
    result: dict[str, Any] = {"machine": machine(), "versions": versions("numpy", "numba", "torch")}
    if "maxsim" in names:
        result["maxsim"] = maxsim(arguments.rounds)
    if "storage" in names:
        result["storage"] = storage(widths, ways)
    if "search" in names:
        result["search"] = search(widths[0])
    print(json.dumps(result, default=dataclasses.asdict, indent=1) if arguments.json else render(result))


if __name__ == "__main__":
    main()
