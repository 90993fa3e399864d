"""What the machine and the environment decide: threads within the container's quota, folders, kinds of kernels."""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from minibi import environment
from minibi.environment import cache_folder, plain_kernels, thread_count, weights_folder
from minibi.errors import InputError
from minibi.threads import in_pieces, on_each, parallel_map, parallel_ranges


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """cgroup({"cpu.max": "..."}) is the quota read from a folder with those files."""

    def quota(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
            (tmp_path / name).write_text(text)
        return environment._cpu_quota(tmp_path)

    return quota


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "200000 100000\n"}, 2.0),
        ({"cpu.max": "50000 100000"}, 0.5),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "0 100000"}, None),
        ({"cpu.max": ""}, None),
        ({"cpu.max": "rubbish"}, None),
        ({"cpu.max": "100000 0"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "400000\n"}, None),
        ({"cpu.max": "100000 100000", "cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 1.0),
    ],
    ids=str,
)
def test_cpu_quota(cgroup, files, cpus):
    assert cgroup(files) == cpus


@pytest.mark.parametrize(
    ("quota", "affinity", "threads"),
    [(None, 8, 8), (2.0, 8, 2), (0.1, 8, 1), (1.5, 8, 2), (1.4, 8, 1), (16.0, 8, 8), (3.0, 1, 1)],
)
def test_threads_follow_affinity_and_quota(monkeypatch, quota, affinity, threads):
    monkeypatch.delenv("MINIBI_NUM_THREADS", raising=False)
    monkeypatch.setattr(environment, "_cpu_quota", lambda _: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(affinity)), raising=False)
    assert thread_count() == threads


def test_threads_without_affinity(monkeypatch):
    monkeypatch.delenv("MINIBI_NUM_THREADS", raising=False)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(environment, "_cpu_quota", lambda _: None)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert thread_count() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert thread_count() == 1


def test_threads_asked_for(monkeypatch):
    monkeypatch.setenv("MINIBI_NUM_THREADS", "3")
    assert thread_count() == 3
    assert thread_count(5) == 5, "the argument comes first"
    monkeypatch.setenv("MINIBI_NUM_THREADS", "")
    assert thread_count() >= 1
    for bad in ("many", "1.5", "0", "-2"):
        monkeypatch.setenv("MINIBI_NUM_THREADS", bad)
        with pytest.raises(InputError, match=r"MINIBI_NUM_THREADS=.* is not a whole number of at least 1"):
            thread_count()
    for wrong in (0, "2", 1.5, True):
        with pytest.raises(InputError, match="threads must be a whole number of at least 1, not"):
            thread_count(wrong)


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("MINIBI_CACHE", str(tmp_path / "x"))
    assert cache_folder() == tmp_path / "x" and not cache_folder().exists(), "nothing is created"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MINIBI_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"
    monkeypatch.setenv("MINIBI_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_folder() == tmp_path / "xdg" / "minibi"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == tmp_path / ".cache" / "minibi"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_folder() == tmp_path / "Library/Caches/minibi"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    assert cache_folder() == tmp_path / "Local" / "minibi"


def test_weights_folder():
    assert (weights_folder() / "all-MiniLM-L6-v2" / "model.safetensors").is_file()


def test_kinds_of_kernels(monkeypatch):
    for value, plain in ((None, False), ("", False), ("compiled", False), ("plain", True)):
        monkeypatch.delenv("MINIBI_KERNELS", raising=False)
        if value is not None:
            monkeypatch.setenv("MINIBI_KERNELS", value)
        assert plain_kernels() is plain
    monkeypatch.setenv("MINIBI_KERNELS", "PLAIN")
    with pytest.raises(InputError, match="use 'plain' or 'compiled'"):
        plain_kernels()


# --- minibi.threads


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_parallel_map_keeps_the_order(threads):
    assert list(parallel_map(lambda x: x * x, range(100), threads)) == [x * x for x in range(100)]
    assert list(parallel_map(str, [], threads)) == []


def test_one_thread_is_the_callers_own():
    assert set(parallel_map(lambda _: threading.get_ident(), range(5), 1)) == {threading.get_ident()}
    assert threading.get_ident() not in set(parallel_map(lambda _: threading.get_ident(), range(5), 2))


@pytest.mark.parametrize("threads", [1, 3])
def test_parallel_map_is_lazy(threads):
    taken = []

    def items():
        for i in range(1000):
            taken.append(i)
            yield i

    results = parallel_map(lambda x: x, items(), threads)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    assert len(taken) <= 3 + 2 * threads
    results.close()


@pytest.mark.parametrize("threads", [1, 3])
def test_an_exception_reaches_the_caller(threads):
    def work(x):
        if x == 7:
            raise KeyError("seven")
        return x

    results = parallel_map(work, range(100), threads)
    assert [next(results) for _ in range(7)] == list(range(7))
    with pytest.raises(KeyError, match="seven"):
        next(results)
    assert list(parallel_map(work, range(7), threads)) == list(range(7)), "the pool is still good"


@pytest.mark.parametrize("threads", ["1", "2", "5"])
@pytest.mark.parametrize("count", [0, 1, 7, 100, 1000])
def test_pieces_cover_everything_once(monkeypatch, count, threads):
    monkeypatch.setenv("MINIBI_NUM_THREADS", threads)
    pieces: list[tuple[int, int]] = []
    in_pieces(lambda a, b: pieces.append((a, b)), 5, 5 + count, 10, 60)
    assert sorted(i for a, b in pieces for i in range(a, b)) == list(range(5, 5 + count))
    assert all(b - a <= 60 for a, b in pieces) and (count < 10 or sum(b - a < 10 for a, b in pieces) <= 1)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_on_each_thread_what_is_left_is_taken(threads):
    """Whoever is free goes on; a failure reaches the caller, and then all have ended."""
    left, done = list(range(50)), []

    def work():
        while left:
            with suppress(IndexError):  # another was faster
                done.append(left.pop())
        return threading.get_ident()

    idents = on_each(work, threads)
    assert idents[0] == threading.get_ident() and 1 <= len(idents) <= threads and sorted(done) == list(range(50))
    assert len(on_each(lambda: len(on_each(work, threads)), threads)) >= 1
    assert on_each(lambda: on_each(lambda: 7, threads) == [7], threads)[0], "inside other work there is one"

    def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        on_each(fail, threads)


@pytest.mark.parametrize("inner", [parallel_map, parallel_ranges])
@pytest.mark.parametrize("outer", [parallel_map, parallel_ranges])
def test_work_inside_work_does_not_wait_for_itself(outer, inner):
    """Every thread of the pool does work that wants threads of the same pool."""
    done: list[int] = []

    def nested(*_: int) -> None:
        if inner is parallel_map:
            done.extend(parallel_map(lambda x: x, range(10), 2))
        else:
            parallel_ranges(lambda first, last: done.extend(range(first, last)), 10, 2)

    def run() -> None:
        if outer is parallel_map:
            list(parallel_map(nested, range(8), 2))
        else:
            parallel_ranges(nested, 8, 2)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(20)
    assert not thread.is_alive(), "a worker waits for a worker"
    assert sorted(done) == sorted(list(range(10)) * (8 if outer is parallel_map else 2))


def test_the_folder_of_a_checkout_comes_with_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "__file__", str(tmp_path / "minibi" / "environment.py"))
    assert weights_folder() is None
    (tmp_path / "weights").mkdir()
    assert weights_folder() == tmp_path / "weights"
    (tmp_path / "minibi" / "weights").mkdir(parents=True)
    assert weights_folder() == tmp_path / "minibi" / "weights", "a wheel carries its own"
    assert isinstance(weights_folder(), Path)
