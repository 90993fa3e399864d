"""The commands that prepare: `warmup` leaves nothing to compile, `quantize` makes a smaller model."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
import time

import numpy as np
import pytest

from minibi import BiEncoder
from minibi.app import warmup
from minibi.errors import InputError


def environment(cache, **more):
    path = os.pathsep.join(p for p in sys.path if p)
    return {**os.environ, "PYTHONPATH": path, "MINIBI_CACHE": str(cache), "PYTHONWARNINGS": "ignore", **more}


def contents(cache):
    return {f.name: (f.stat().st_mtime_ns, f.stat().st_size) for f in (cache / "kernels").iterdir()}


EVERYTHING = """
import sys
import numpy as np
from minibi import BiEncoder, CrossEncoder, FlatIndex, HNSWIndex
golden, out = sys.argv[1:]
texts = ["one text", "and another one " * 30]
parts = []
for compute in ("float32", "int8"):
    model = BiEncoder(compute=compute)
    parts += [model.encode(texts[0]), model.encode(texts * 3), model.study(texts[0]).vector]
    parts += [np.concatenate(model.encode(texts, output_value="token_embeddings"))]
    parts += [BiEncoder(golden + "/" + name, compute=compute).encode(texts, truncation="silent")
              for name in ("tiny-bert", "tiny-bert-new")]
    cross = CrossEncoder(golden + "/tiny-cross-encoder", compute=compute)
    parts += [cross.predict(tuple(texts), truncation="silent"), cross.predict([texts] * 5, truncation="silent")]
vectors = np.sin(np.arange(200 * 24, dtype=np.float32)).reshape(200, 24)
for kind in (FlatIndex, HNSWIndex):
    for metric in ("cosine", "l2"):
        index = kind(24, metric)
        index.add(vectors[:1])
        index.add(vectors[1:])
        index.save(out + ".index")
        for searched in (index, kind.load(out + ".index")):
            parts += [*searched.search(vectors[0], 3), *searched.search(vectors[:70], 5)]
        searched.add(vectors)
np.concatenate([np.ravel(p).astype(np.float64) for p in parts]).tofile(out)
"""


def use_everything(cache, golden, out, **more):
    """What a first use of encoders and indexes gives, in a process of its own."""
    command = [sys.executable, "-c", EVERYTHING, str(golden), str(out)]
    done = subprocess.run(command, env=environment(cache, **more), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.fromfile(out)


@pytest.fixture(scope="module")
def warm_cache(compiled, tmp_path_factory):
    """(a cache folder that `minibi warmup` has filled, how many seconds that took)"""
    cache = tmp_path_factory.mktemp("warm") / "cache"
    started = time.perf_counter()
    command = [sys.executable, "-m", "minibi", "warmup"]
    done = subprocess.run(command, env=environment(cache), text=True, capture_output=True)
    assert done.returncode == 0 and done.stdout.startswith("ready after "), done.stderr[-2000:]
    assert "compiling: encoder, int8" in done.stderr
    return cache, time.perf_counter() - started


def test_a_fresh_cache_gets_the_kernels(warm_cache):
    cache, _ = warm_cache
    assert {f.suffix for f in (cache / "kernels").iterdir()} == {".nbi", ".nbc"}
    assert (cache / "kernels").stat().st_mode & 0o777 == 0o700
    for kernel in ("program.forward", "int8.linear8", "matmul.linear", "graph_search.search", "sieve.finish"):
        assert any(name.startswith(kernel) for name in contents(cache)), kernel


def test_nothing_is_left_to_compile(warm_cache, golden, tmp_path):
    cache, _ = warm_cache
    before = contents(cache)
    use_everything(cache, golden, tmp_path / "out")
    assert contents(cache) == before


def test_a_second_warmup_is_quick_and_changes_nothing(warm_cache):
    cache, first = warm_cache
    before, started = contents(cache), time.perf_counter()
    command = [sys.executable, "-m", "minibi", "warmup"]
    subprocess.run(command, env=environment(cache), check=True, capture_output=True)
    assert time.perf_counter() - started < first / 2
    assert contents(cache) == before


def test_every_kernel_of_the_room_is_compiled(warm_cache):
    """A kernel that is added, and forgotten in `warm`, fails here."""
    import ast
    from pathlib import Path

    from minibi import kernels

    names = set()
    for file in Path(kernels.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and any(getattr(d, "id", "") == "kernel" for d in node.decorator_list):
                names.add(f"{file.stem}.{node.name}")
    assert len(names) > 15
    cached = {name.rsplit("-", 1)[0] for name in contents(warm_cache[0])}
    assert names <= cached


# --- a cache that cannot be written


def plus_two(x):
    return x[0] + 2.0


def test_a_read_only_cache_serves_what_it_holds(compiled, tmp_path, monkeypatch):
    """An image that was warmed up when it was built: nothing is compiled again, and nothing complains."""
    from minibi.kernels import cache

    monkeypatch.setenv("MINIBI_CACHE", str(tmp_path))
    (tmp_path / "kernels").mkdir(mode=0o700)
    choose_folder = cache.kernel_folder.__wrapped__
    folder = choose_folder()
    assert folder == tmp_path / "kernels"
    monkeypatch.setattr(cache, "kernel_folder", lambda: folder)

    def hits(x):
        kernel = cache.kernel(plus_two)
        assert kernel(x) == 42
        return sum(kernel.stats.cache_hits.values())

    assert [hits(np.float32([40])), hits(np.float32([40]))] == [0, 1]
    folder.chmod(0o500)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(cache._File, "_open_for_write", refuse)
        patch.setattr(cache._Locator, "ensure_cache_path", refuse)
        patch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
        patch.setattr(type(folder), "chmod", refuse)
        assert choose_folder() == folder
        assert hits(np.float32([40])) == 1, "found"
        assert hits(np.float64([40])) == 0, "what is missing is compiled, and not kept"
    folder.chmod(0o700)
    assert hits(np.float64([40])) == 0


def test_an_encoder_runs_where_no_cache_can_be_made(compiled, deep, golden, tmp_path):
    if not deep:
        pytest.skip("MINIBI_DEEP=1 runs this")
    (tmp_path / "cache").write_text("a file is in the way")
    use_everything(tmp_path / "cache", golden, tmp_path / "out")
    assert (tmp_path / "cache").read_text() == "a file is in the way"


def test_warming_up_where_no_cache_can_be_made_is_refused_in_one_line(compiled, tmp_path):
    (tmp_path / "cache").write_text("a file is in the way")
    command = [sys.executable, "-m", "minibi", "warmup"]
    done = subprocess.run(command, env=environment(tmp_path / "cache"), text=True, capture_output=True)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.splitlines()[-1].endswith(
        "cannot hold compiled kernels: set MINIBI_CACHE to a folder of your own"
    )


# --- other targets


@pytest.mark.parametrize("target", ["x86-64-v9", "haswell", "", "X86-64-V3"])
def test_an_unknown_target_is_refused_in_one_line(run, target):
    code, out, err = run("warmup", "--target", target)
    assert code == 1 and out == ""
    assert err == f"Error: target {target!r} is not one of {list(warmup.TARGETS)}\n"


@pytest.mark.parametrize("returncode", [1, -4])
def test_a_target_beyond_this_machine_is_refused_in_one_line(run, monkeypatch, returncode):
    """The process that compiles for it dies of an unknown instruction."""
    calls = []

    def died(command, **options):
        calls.append(options["env"])
        return subprocess.CompletedProcess(command, returncode)

    monkeypatch.setattr(warmup.subprocess, "run", died)
    code, out, err = run("warmup", "--target", "x86-64-v4")
    assert (code, out) == (1, "")
    assert err == "Error: compiling for x86-64-v4 failed on this machine: warm up where the processor knows it\n"
    assert calls[0]["NUMBA_CPU_NAME"] == "x86-64-v4" and calls[0]["NUMBA_CPU_FEATURES"] == ""
    assert calls[0]["PATH"] == os.environ["PATH"], "the rest of the environment is kept"
    with pytest.raises(InputError):
        warmup.warm_for("x86-64-v4")


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of the x86 family")
@pytest.mark.parametrize("target", ["x86-64-v3", "generic"])
def test_a_cache_for_a_family_of_processors(compiled, deep, golden, tmp_path, target):
    """Filled by --target, used with the settings it names: nothing to compile, and the same bits as natively."""
    import llvmlite.binding

    if not deep:
        pytest.skip("MINIBI_DEEP=1 runs this")
    if target == "x86-64-v3" and not llvmlite.binding.get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no AVX2")
    cache, native = tmp_path / "cache", tmp_path / "native"
    command = [sys.executable, "-m", "minibi", "warmup", "--target", target]
    done = subprocess.run(command, env=environment(cache), text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    settings = f"NUMBA_CPU_NAME='{target}' NUMBA_CPU_FEATURES=''"
    assert done.stdout.splitlines()[-1] == f"to use what was compiled, on any such processor, set {settings}"
    before = contents(cache)
    found = use_everything(cache, golden, tmp_path / "out", **warmup.target_environment(target))
    assert contents(cache) == before
    assert np.array_equal(found, use_everything(native, golden, tmp_path / "native out"))
    use_everything(cache, golden, tmp_path / "both")  # both kinds of machine code live in one folder
    assert len(contents(cache)) > len(before) and not before.keys() - contents(cache).keys()
    after = contents(cache)
    use_everything(cache, golden, tmp_path / "out", **warmup.target_environment(target))
    assert contents(cache) == after


# --- quantize


def test_quantize(run, golden, tmp_path, monkeypatch, tiny_texts):
    for stored in ("float32", "float16", "int8"):
        code, out, err = run("quantize", golden / "tiny-bert", tmp_path / stored, "--to", stored)
        assert (code, err) == (0, "")
        size = (tmp_path / stored / "model.safetensors").stat().st_size
        assert out == f"{tmp_path / stored}: weights stored as {stored}, {size / 1e6:.1f} MB\n"
        BiEncoder(tmp_path / stored).encode(tiny_texts[:3])
    assert run("quantize", golden / "tiny-bert", "here")[1].startswith("here: weights stored as float16")


def test_quantize_complains_in_one_line(run, golden, tmp_path):
    (tmp_path / "there").mkdir()
    for arguments, message in (
        ((golden / "tiny-bert", tmp_path / "there"), "exists already: choose another name"),
        (("no such model", tmp_path / "out"), "no model folder 'no such model'"),
        ((tmp_path / "there", tmp_path / "out"), "config.json is missing"),
    ):
        code, out, err = run("quantize", *arguments)
        assert (code, out) == (1, "") and err.count("\n") == 1 and message in err
    code, _, err = run("quantize", golden / "tiny-bert", tmp_path / "out", "--to", "int4")
    assert code == 2 and "'int4' is not one of" in err
    assert not (tmp_path / "out").exists()
