"""`minibi eval`: a pipeline over a BEIR folder, measured, compared, and its run written."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

PIPELINES = ("dense", "bm25", "hybrid", "colbert", "rerank")
AGGREGATES = ("max", "mean3")


@click.command("eval")
@click.argument("folder", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--split", default="test", show_default=True, help="Which qrels/SPLIT.tsv.")
@click.option("--pipeline", default="dense", show_default=True, type=click.Choice(PIPELINES), help="What is measured.")
@click.option("--model", default="all-MiniLM-L6-v2", show_default=True, help="Bundled name, folder or hub name.")
@click.option("--reranker", help="A cross-encoder's folder, for rerank; by default MODEL's token vectors judge.")
@click.option("--compute", default="float32", show_default=True, type=click.Choice(["float32", "int8"]))
@click.option("--window", type=click.IntRange(16), help="Read documents in windows of so many tokens.")
@click.option(
    "--aggregate", default="max", show_default=True, type=click.Choice(AGGREGATES), help="A document's windows."
)
@click.option("--depth", default=100, show_default=True, type=click.IntRange(1), help="Candidates of each retriever.")
@click.option("-k", default=100, show_default=True, type=click.IntRange(1), help="Hits asked for per query.")
@click.option(
    "--metric",
    "metrics",
    multiple=True,
    help="Such as map or ndcg@20; may be repeated.  [default: ndcg@10, mrr@10, recall@K]",
)
@click.option("--run-out", type=click.Path(path_type=Path, dir_okay=False), help="Write the run in TREC's format.")
@click.option("--against", type=click.Path(path_type=Path), help="A run in TREC's format to compare with.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def evaluate(
    folder: Path, split: str, pipeline: str, model: str, reranker: str | None, compute: Any,
    window: int | None, aggregate: str, depth: int, k: int, metrics: tuple[str, ...], run_out: Path | None,
    against: Path | None, as_json: bool,
) -> None:  # fmt: skip
    """Measure retrieval on a BEIR folder.

    DIR holds corpus.jsonl, queries.jsonl and qrels/test.tsv. Queries are asked one by one; latencies are milliseconds
    per query of each stage.
    """
    from tqdm import tqdm

    from .. import evaluate as judge
    from ..evaluate.metrics import default_metrics, parse_metric
    from ..search.presets import build
    from . import show

    for metric in metrics:
        parse_metric(metric)  # complains now rather than after hours
        if int(metric.partition("@")[2] or 0) > k:
            click.echo(f"{metric} sees only the {k} hits that -k asks for", err=True)
    metrics = metrics or default_metrics(k)
    dataset = judge.read_beir(folder, split)
    baseline = None if against is None else judge.read_run(against)
    parts = _parts(pipeline, model, reranker, compute, window is not None)
    started = time.perf_counter()
    built = build(pipeline, dataset.doc_ids, dataset.docs, depth=depth, window=window, aggregate=aggregate,
                  show_progress_bar=True, **parts)  # fmt: skip
    indexed = time.perf_counter() - started
    with tqdm(total=len(dataset.queries), desc="asking", unit="query", disable=None, leave=False) as bar:
        found = judge.measure(dataset, built.search, k=k, metrics=metrics, progress=bar.update)
    compared = []
    if baseline is not None:
        other = judge.evaluate(dataset.qrels, baseline, metrics)
        compared = judge.compare(found.result, other)
    report = {"dataset": folder.name, "split": split, "pipeline": pipeline, "model": Path(model).name}
    report |= {} if window is None else {"window": window, "aggregate": aggregate}
    report |= {"documents": len(dataset.doc_ids)} | found.to_dict() | {"seconds": {"index": indexed}}
    if as_json:
        click.echo(show.json_safe(report | ({"against": [c.to_dict() for c in compared]} if compared else {})))
    else:
        _print(report, found, compared)
    if run_out is not None:  # last, for should this fail, the figures are there
        judge.write_run(run_out, found.run, f"minibi-{pipeline}")


def _print(report: dict[str, Any], found: Any, compared: list[Any]) -> None:
    windows = f" in windows of {report['window']} tokens ({report['aggregate']})" if "window" in report else ""
    documents = f"{report['documents']:,} documents{windows}"
    click.echo(f"{report['dataset']} ({report['split']}): {documents}, {report['queries']:,} queries")
    for name, value in found.result.mean.items():
        click.echo(f"  {name:<12} {value:.4f}")
    indexed = report["seconds"]["index"]
    click.echo(f"  indexed in {indexed:.1f} s; {found.queries_per_second:.1f} queries/s, one at a time")
    for name, stage in found.stages.items():
        click.echo(f"  {name:<18} p50 {stage.p50:8.2f} ms   p95 {stage.p95:8.2f} ms")
    for comparison in compared:
        click.echo(f"  {comparison}")


def _parts(pipeline: str, model: str, reranker: str | None, compute: Any, windows: bool) -> dict[str, Any]:
    """The models that a pipeline needs."""
    from ..models.cross_encoder import CrossEncoder
    from ..models.late_interaction import LateInteraction
    from ..models.towers import open_encoder

    parts: dict[str, Any] = {}
    if pipeline in ("dense", "hybrid", "rerank") or (windows and pipeline == "bm25"):  # whose words it counts
        parts["model"] = open_encoder(model, compute=compute)
    if pipeline == "colbert":
        parts["late"] = LateInteraction(model, compute=compute)
    if pipeline == "rerank":
        judge = LateInteraction(model, compute=compute) if reranker is None else CrossEncoder(reranker, compute=compute)
        parts["reranker"] = judge
    return parts
