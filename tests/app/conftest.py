"""The command line as a user meets it: called in this process, or as a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import minibi
from minibi.app.cli import main
from minibi.environment import plain_kernels

ROOT = str(Path(minibi.__file__).resolve().parents[1])


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache folder of the test's own, all but the compiled kernels, which every test shares."""
    folder = tmp_path / "cache"
    folder.mkdir()
    if not plain_kernels():
        from minibi.kernels.cache import kernel_folder

        if kernels := kernel_folder():
            (folder / "kernels").symlink_to(kernels)
    monkeypatch.setenv("MINIBI_CACHE", str(folder))
    return folder


@pytest.fixture
def run(cache, tmp_path, monkeypatch):
    """run("search", ...) -> (exit code, standard output, standard error), in an empty working folder."""
    work = tmp_path / "work"
    work.mkdir(exist_ok=True)
    monkeypatch.chdir(work)
    try:
        runner = CliRunner(mix_stderr=False)  # click before 8.2
    except TypeError:
        runner = CliRunner()

    def run(*arguments, **options):
        result = runner.invoke(main, [str(a) for a in arguments], **options)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return run


@pytest.fixture
def spawn(cache, tmp_path):
    """spawn(script, *argv, **environment) starts Python on a script; on plain kernels, which are there at once."""

    def spawn(script, *arguments, **environment):
        env = {**os.environ, "PYTHONPATH": ROOT, "MINIBI_KERNELS": "plain", "OPENBLAS_NUM_THREADS": "1", **environment}
        command = [sys.executable, "-c", script, *map(str, arguments)]
        return subprocess.Popen(command, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return spawn
