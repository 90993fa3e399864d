"""`minibi train`: a recipe in, a model folder out."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("train")
@click.argument("recipe", type=click.Path(path_type=Path), metavar="RECIPE.toml")
@click.option("--check", "only_check", is_flag=True, help="Read the recipe and the data, and train nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object instead.")
def train_command(recipe: Path, only_check: bool, as_json: bool) -> None:
    """Train a model as RECIPE.toml says.

    An interrupted run goes on where it was when the command is repeated. Beside the model's folder, OUTPUT.run holds
    the log and the loss curve.
    """
    from ..train.recipe import read_recipe
    from ..train.run import read_data, run_folder, train
    from . import show

    found = read_recipe(recipe)
    if only_check:
        examples, apart = read_data(found)
        counts = {"examples": len(examples), "held_out": len(apart)}
        line = f"{recipe}: sound, {len(examples):,} examples to learn from, {len(apart):,} held out"
        click.echo(show.json_safe(counts | {"recipe": found.as_dict()}) if as_json else line)
        return
    report = train(found, show_progress_bar=True, tell=lambda line: click.echo(line, err=True))
    if as_json:
        click.echo(show.json_safe({"output": found.output, "run": str(run_folder(found))} | report.to_dict()))
        return
    click.echo(f"{found.output}: {report.steps:,} steps, {report.tokens:,} tokens in {report.seconds:.1f} s")
    click.echo(f"  {'loss':<16} {report.loss:.4f} (mean of the last tenth)")
    for name, value in report.metrics.items():
        click.echo(f"  {name:<16} {value:.4f} (before {report.first_metrics[name]:.4f})")
    if report.best_step is not None:
        click.echo(f"  kept             the weights of step {report.best_step:,}")
