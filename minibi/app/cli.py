"""The command line: `minibi demo`, `index`, `search`, `eval`, `check`, `train`, `warmup`, `quantize`.

Bad input ends in one line on standard error and exit code 1; a wrong call in usage help and exit code 2.
"""

from __future__ import annotations

import shlex
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..errors import MinibiError
from .evaluation import evaluate
from .training import train_command

INTERRUPTED = "interrupted; what was finished is kept, repeat the command to continue"


class _Group(click.Group):
    """Turns expected errors into one line each."""

    def invoke(self, ctx: click.Context) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal may lack some characters; that is no reason to stop
        try:
            with warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except (MinibiError, OSError) as e:
            if isinstance(e, BrokenPipeError):
                raise
            told = f"cannot use {e.filename}: {e.strerror}" if isinstance(e, OSError) and e.filename else str(e)
            raise click.ClickException(" ".join(told.split())) from e
        except KeyboardInterrupt as e:
            click.echo(f"\n{e}" if str(e) else f"\n{INTERRUPTED}", err=True)
            ctx.exit(130)


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    click.echo(f"note: {message}", err=True)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def main() -> None:
    """Neural retrieval with bi-encoders, on your own machine."""


@main.command()
@click.argument("question", nargs=-1)
@click.option("-k", default=3, show_default=True, type=click.IntRange(1), help="Answers per question.")
def demo(question: tuple[str, ...], k: int) -> None:
    """Search Python's own documentation by meaning.

    With a QUESTION, answers it. Without, answers a few and then asks for yours.
    """
    from ..models.bi_encoder import BiEncoder
    from . import show
    from .demo import QUESTIONS, folder, open_demo

    started = time.perf_counter()
    if not folder().exists():
        click.echo("First start: reading and encoding Python's own documentation. This takes a minute, once.", err=True)
    with show.characters_bar("encoding") as (begin, progress):
        collection = open_demo(BiEncoder(), begin, progress)
    with collection:
        ready = time.perf_counter() - started
        count = f"{len(collection):,} passages of {collection.documents:,} documented names"
        click.secho(f"{count}, ready after {ready:.1f} s (kept in {folder()})", dim=True, err=True)
        for text in [" ".join(question)] if question else QUESTIONS:
            _answer(collection, text, k)
        if question or not (sys.stdin.isatty() and sys.stdout.isatty()):
            return
        click.echo("\nNow you: type a question, or nothing to end.")
        with suppress(click.Abort):  # Ctrl-D or Ctrl-C
            while text := click.prompt("?", default="", show_default=False, prompt_suffix=" ").strip():
                _answer(collection, text, k)


def _answer(collection: Any, text: str, k: int) -> None:
    from . import show

    start = time.perf_counter()
    found = collection.search(text, k)
    milliseconds = 1000 * (time.perf_counter() - start)
    click.echo(f"\n{click.style(text, fg='cyan')}  {click.style(f'({milliseconds:.0f} ms)', dim=True)}")
    show.hits(found, places=False)


@main.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PATH...")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="The collection's folder.  [default: the first PATH's name]"
)
@click.option("--text", help="Column that holds the text, for JSONL and CSV.")
@click.option("--title", help="Column that holds the title.")
@click.option("--id", "id_column", help="Column that holds the id.")
@click.option("--model", help="Bundled name, folder or hub name.  [default: the collection's, or all-MiniLM-L6-v2]")
@click.option(
    "--compute",
    type=click.Choice(["float32", "int8"]),
    help="Arithmetic, here and in searches: int8 is some three times faster.  [default: the collection's, or float32]",
)
def index(
    paths: tuple[Path, ...],
    output: Path | None,
    text: str | None,
    title: str | None,
    id_column: str | None,
    model: str | None,
    compute: str | None,
) -> None:
    """Index files and folders of text.

    Reads text, Markdown, reStructuredText, JSONL, CSV and TSV, each also as .gz. Repeat the command after files
    changed: only what is new is encoded. An interrupted run continues when repeated.
    """
    from ..models.towers import open_encoder
    from ..search.collection import Collection
    from ..search.ingest import ingest
    from ..text.files import find_sources
    from . import show

    started = time.perf_counter()
    find_sources(paths)  # complain before anything is made
    target = output or Path((paths[0].resolve().name.split(".")[0] or "index") + ".minibi")
    existed, blank = target.exists(), not (target / "collection.db").exists()
    if model or compute or blank:
        encoder = open_encoder(model or "all-MiniLM-L6-v2", compute=compute or "float32")
        collection = Collection.open_or_create(target, encoder)
    else:
        collection = Collection.open(target)
    with collection:
        try:
            with show.characters_bar("indexing") as (begin, progress):
                report = ingest(collection, paths, text=text, title=title, id=id_column, begin=begin, progress=progress)
        except (MinibiError, OSError):
            if blank and not len(collection):
                _remove(collection, existed)
            raise
        changes = report.changes
        click.echo(
            f"{target}: {collection.documents:,} documents, {len(collection):,} passages "
            f"({changes.new:,} new, {changes.changed:,} changed, {changes.removed:,} removed documents; "
            f"{report.unchanged_files:,} of {report.files:,} files unchanged; {time.perf_counter() - started:.1f} s)"
        )
    click.echo(f"now ask:  minibi search {shlex.quote(str(target))} 'your question'", err=True)


def _remove(collection: Any, keep_folder: bool) -> None:
    """Takes an empty new collection away again."""
    collection.close()
    for file in collection.folder.iterdir():
        file.unlink()
    if not keep_folder:
        collection.folder.rmdir()


@main.command()
@click.argument("collection", type=click.Path(path_type=Path))
@click.argument("question", nargs=-1, required=True)
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="How many passages.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead.")
def search(collection: Path, question: tuple[str, ...], k: int, as_json: bool) -> None:
    """Answer a question from an index.

    Shows the passages of COLLECTION, made by `minibi index`, that are nearest to QUESTION in meaning.
    """
    from ..search.collection import Collection
    from . import show

    with Collection.open(collection) as opened:
        found = opened.search(" ".join(question), k)
    if as_json:
        click.echo(show.json_safe(found.to_dict()))
    elif found:
        show.hits(found)
    else:
        click.echo(f"{collection} holds no text yet", err=True)


main.add_command(evaluate)
main.add_command(train_command)


@main.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--repair", is_flag=True, help="Rebuild from the vectors; FILE.damaged is what it was.")
def check(file: Path, repair: bool) -> None:
    """Check the file of an index: every checksum, length, id and link.

    Exit code 0 if all is well, 1 if not (with --repair: if it could not be rebuilt).
    """
    from ..errors import FormatError
    from ..index.inspect import class_of, load_index
    from ..index.inspect import repair as rebuild

    class_of(file)  # what is no file of minibi cannot be rebuilt
    try:
        index = load_index(file)
    except FormatError as e:
        if not repair:
            raise FormatError(f"{e}; `minibi check {shlex.quote(str(file))} --repair` may rebuild it") from None
        click.echo(str(e), err=True)
        built = rebuild(file)
        kept = file.with_name(file.name + ".damaged")
        if kept.exists():
            raise FormatError(f"{kept} exists: move it away first, so that nothing is overwritten") from None
        kept.hardlink_to(file)
        built.save(file)
        click.echo(f"{file}: rebuilt, {built!r}; the damaged file is {kept}")
        return
    click.echo(f"{file}: sound, {index!r}")


@main.command()
@click.option("--target", help="Compile for a processor family such as x86-64-v3 instead of this machine.")
def warmup(target: str | None) -> None:
    """Compile all kernels now, into the user's cache, so that the first query need not wait."""
    from .warmup import target_environment, warm, warm_for

    started = time.perf_counter()
    if target is None:
        warm(lambda what: click.echo(f"compiling: {what}", err=True))
        click.echo(f"ready after {time.perf_counter() - started:.1f} s")
        return
    warm_for(target)
    settings = " ".join(f"{name}={value!r}" for name, value in target_environment(target).items())
    click.echo(f"to use what was compiled, on any such processor, set {settings}")


@main.command()
@click.argument("source")
@click.argument("target", type=click.Path(path_type=Path))
@click.option("--to", "stored", default="float16", show_default=True, type=click.Choice(["float32", "float16", "int8"]))
def quantize(source: str, target: Path, stored: str) -> None:
    """Copy the model SOURCE to the folder TARGET with its matrices stored in fewer bytes."""
    from ..models.convert import convert

    folder = convert(source, target, stored)
    size = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    click.echo(f"{folder}: weights stored as {stored}, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
