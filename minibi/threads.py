"""Threads as chunks of work: one shared ThreadPoolExecutor over kernels that release the GIL.

Work is never split by `numba.prange`: its default layer aborts the process when two Python threads enter it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from itertools import islice, pairwise
from typing import TypeVar

from .environment import thread_count

A = TypeVar("A")
B = TypeVar("B")

PAUSE = 1e-4  # seconds: where kernels of several threads wait for one that was held up in the middle of its work

_pools: dict[tuple[str, int], ThreadPoolExecutor] = {}
_lock = threading.Lock()
_here = threading.local()  # .worker: whether this thread is one of a pool's


def _forget_threads() -> None:
    """A forked child has none of its parent's threads, and would wait for them for ever."""
    global _lock
    _lock = threading.Lock()
    _here.worker = False
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)


def _in_worker() -> bool:
    return getattr(_here, "worker", False)


def _pool(name: str, threads: int) -> ThreadPoolExecutor:
    """The pool of that name and size; there is one of each."""
    with _lock:
        if (name, threads) not in _pools:
            _pools[name, threads] = ThreadPoolExecutor(threads, name, setattr, (_here, "worker", True))
        return _pools[name, threads]


def parallel_map(work: Callable[[A], B], items: Iterable[A], threads: int | None = None) -> Iterator[B]:
    """`work(item)` for each item, results in the items' order, at most `threads` at once.

    Lazy on both sides: at most 2 * threads items are taken ahead of the results that were consumed. With one thread the
    work runs in the caller's own, and so it does inside other work: a pool whose threads wait for one another would
    wait for ever. An exception in `work` reaches the caller; work not yet begun is dropped, and what had begun has
    ended by then.
    """
    count, todo = thread_count(threads), iter(items)
    if count == 1 or _in_worker():
        yield from map(work, todo)
        return
    pool = _pool("minibi", count)
    waiting: list[Future[B]] = [pool.submit(work, item) for item in islice(todo, 2 * count)]
    try:
        while waiting:
            result = waiting.pop(0).result()
            waiting.extend(pool.submit(work, item) for item in islice(todo, 1))
            yield result
    finally:
        wait_for([future for future in waiting if not future.cancel()])


def parallel_ranges(work: Callable[[int, int], object], count: int, threads: int | None = None) -> None:
    """`work(first, last)` on contiguous parts of range(count), one for each thread; the caller's own does the first.

    For many short steps one after the other, where handing out chunk by chunk would cost more than an uneven share.
    Inside other work there is one part. An exception in `work` reaches the caller, once all parts have ended.
    """
    parts = 1 if _in_worker() else max(1, min(thread_count(threads), count))
    ends = [count * i // parts for i in range(parts + 1)]
    if parts == 1:
        work(0, count)
        return
    pool = _pool("minibi-part", parts - 1)
    waiting = [pool.submit(work, first, last) for first, last in pairwise(ends[1:])]
    try:
        _here.worker = True  # for as long as its own part lasts
        work(ends[0], ends[1])
    finally:
        _here.worker = False
        for future in waiting:
            future.exception()
    for future in waiting:
        future.result()


def in_pieces(work: Callable[[int, int], object], first: int, last: int, least: int, most: int) -> None:
    """`work(a, b)` over first .. last-1 in pieces of `least` to `most`, four for each thread where it can be, so that
    none waits long for another at the end. An exception in `work` reaches the caller."""
    if last - first <= least:
        work(first, last)
        return
    size = min(max(-(-(last - first) // (4 * thread_count())), least), most)
    for _ in parallel_map(lambda a: work(a, min(a + size, last)), range(first, last, size)):
        pass


def on_each(work: Callable[[], A], threads: int | None = None) -> list[A]:
    """What `work()` returns on each of `threads` threads at once, the caller's own among them.

    For work that takes its next piece from a counter which all share (`kernels.memory.take`): whoever is free goes on,
    and a thread that only comes when nothing is left is not waited for. So there may be fewer results than threads;
    inside other work there is one. An exception in `work` reaches the caller, once all have ended.
    """
    count = 1 if _in_worker() else thread_count(threads)
    if count == 1:
        return [work()]
    pool = _pool("minibi-part", count - 1)
    waiting = [pool.submit(work) for _ in range(count - 1)]
    try:
        _here.worker = True
        results = [work()]
    finally:
        _here.worker = False
        begun = [future for future in waiting if not future.cancel()]
        wait_for(begun)
    return results + [future.result() for future in begun]
