"""Files that must survive: a crash at every moment of a save, flipped and mangled bytes, and kill -9.

    check_crashes(path, save, read)        replays what is on disk after each step of save(), and after power cuts
    check_flips(path, read)                each byte changed: refused, or harmless
    check_mangled(path, read, count)       cut, lengthened, zeroed, shuffled, overwritten: refused, or harmless
    check_kills(program, path, read)       a process that saves over and over is killed at random times

`read(path)` loads a file and returns what it holds, as something that can be compared with ==; it raises one of
`refusals` for a damaged file. Each function raises AssertionError that says which damage went unnoticed.
"""

from __future__ import annotations

import io
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from ..arguments import as_path

Read = Callable[[Path], Any]
Refusals = tuple[type[Exception], ...]
REFUSALS: Refusals = (ValueError, OSError)


# ---------------------------------------------------------------------------------------------------------- crashes


@dataclass(frozen=True)
class Moment:
    """A folder at one moment of a save."""

    what: str  # the step that was just done
    names: Mapping[str, int]  # file -> its inode
    contents: Mapping[int, bytes]  # inode -> bytes
    synced: Mapping[int, bytes]  # inode -> bytes at its last fsync
    durable: Mapping[str, int]  # names at the folder's last fsync

    def states(self, last: bool) -> Iterator[tuple[str, dict[str, bytes]]]:
        """(which, files): what a crash now may leave. last: save has returned, so names must be durable too."""
        yield "killed", {name: self.contents[i] for name, i in self.names.items()}
        for lost in ("missing", "zeros", "half"):  # what was never synced is lost in a power cut
            yield f"power cut, unsynced bytes {lost}", {n: self._after_cut(i, lost) for n, i in self.names.items()}
        if last:
            yield "power cut, renames undone", {n: self._after_cut(i, "missing") for n, i in self.durable.items()}

    def _after_cut(self, inode: int, lost: str) -> bytes:
        now, safe = self.contents.get(inode), self.synced.get(inode, b"")
        if now is None or now == safe:
            return safe
        if lost == "missing":
            return safe
        return bytes(len(now)) if lost == "zeros" else now[: len(now) // 2]


class Recorder:
    """Looks at a folder after every write, fsync, rename and unlink that Python makes."""

    def __init__(self, folder: Path):
        self.folder, self.moments = folder, list[Moment]()
        self._synced: dict[int, bytes] = {}
        self._durable: dict[str, int] = {}
        names, contents = self._look()
        self._synced.update(contents)  # what was there before is safe
        self._durable.update(names)
        self.note("nothing")

    def _look(self) -> tuple[dict[str, int], dict[int, bytes]]:
        names, contents = {}, {}
        for root, _, files in os.walk(self.folder):
            for name in files:
                path = Path(root) / name
                inode = path.stat().st_ino
                names[str(path.relative_to(self.folder))], contents[inode] = inode, path.read_bytes()
        return names, contents

    def note(self, what: str) -> None:
        names, contents = self._look()
        for inode in set(self._synced) - set(contents) - set(self._durable.values()):
            del self._synced[inode]  # its number may be given to another file
        self.moments.append(Moment(what, names, contents, dict(self._synced), dict(self._durable)))

    def fsynced(self, handle: int) -> None:
        status = os.fstat(handle)
        names, contents = self._look()
        if status.st_ino in contents:
            self._synced[status.st_ino] = contents[status.st_ino]
        elif status.st_ino in {Path(root).stat().st_ino for root, _, _ in os.walk(self.folder)}:
            self._durable = names
        self.note("fsync")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Python's own ways to change files go through the recorder; what C code writes is seen at the next step."""
        recorder, opened = self, io.open

        class Raw(io.FileIO):
            def write(self, data: Any) -> int:
                n = super().write(data)
                recorder.note("write")
                return n

            def truncate(self, size: int | None = None) -> int:
                n = super().truncate(size)
                recorder.note("truncate")
                return n

        def opening(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **options: Any) -> Any:
            kind = mode.replace("b", "").replace("t", "")
            if "b" not in mode or kind == "r":
                stream = opened(file, mode, buffering, *rest, **options)
            else:
                extra = {k: v for k, v in options.items() if k in ("closefd", "opener")}
                raw = Raw(file, kind, **extra)
                wrapper = io.BufferedRandom if "+" in kind else io.BufferedWriter
                stream = raw if buffering == 0 else wrapper(raw)
            if kind != "r":
                recorder.note(f"open for {mode}")
            return stream

        def after(name: str) -> Any:
            real = getattr(os, name)

            def call(*arguments: Any, **options: Any) -> Any:
                result = real(*arguments, **options)
                recorder.note(name)
                return result

            return mock.patch.object(os, name, call)

        def fsync(handle: Any) -> None:  # the real one would only take time
            recorder.fsynced(handle if isinstance(handle, int) else handle.fileno())

        patches = [mock.patch("builtins.open", opening), mock.patch.object(io, "open", opening)]
        patches += [
            after(n) for n in ("replace", "rename", "unlink", "remove", "link", "write", "truncate", "ftruncate")
        ]
        patches += [mock.patch.object(os, n, fsync) for n in ("fsync", "fdatasync") if hasattr(os, n)]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in reversed(patches):
                patch.stop()
        recorder.note("return from save")


@dataclass
class CrashReport:
    """What `check_crashes` replayed."""

    steps: int  # that the save was seen to take
    old: int = 0  # different states of the disk that read as the old
    new: int = 0

    def __str__(self) -> str:
        return f"{self.steps} steps, {self.old + self.new} states of the disk: {self.old} old, {self.new} new"


def check_crashes(path: str | Path, save: Callable[[], object], read: Read) -> CrashReport:
    """Replays a crash after every step of save(), which replaces the file or folder `path`.

    Each state of the disk that a kill or a power cut could leave must read as the old content or the new, and once save
    has returned as the new alone. If `path` did not exist, the old content is that it does not. Only files in the same
    folder are watched. A power cut loses whatever was not followed by fsync. Raises AssertionError.
    """
    path = as_path(path)
    folder = path.parent
    none = object()
    old = read(path) if path.exists() else none
    recorder = Recorder(folder)
    with recorder.watching():
        save()
    new = read(path)
    assert old is none or old != new, "the old and the new content are the same: such a test would prove nothing"
    report, seen = CrashReport(len(recorder.moments) - 2), set[tuple[Any, bool]]()
    for number, moment in enumerate(recorder.moments):
        last = number == len(recorder.moments) - 1
        for which, files in moment.states(last):
            key = (frozenset(files.items()), last)
            if key in seen:
                continue
            seen.add(key)
            where = f"after step {number} ({moment.what}), {which}"
            with tempfile.TemporaryDirectory() as scratch:
                for name, content in files.items():
                    target = Path(scratch) / name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(content)
                there = Path(scratch) / path.name
                try:
                    found = read(there) if there.exists() else none
                except Exception as e:
                    raise AssertionError(f"{where}: neither the old nor the new can be read: {e}") from e
            assert found is none or found in (old, new), f"{where}: what is read is neither old nor new"
            assert found is not none or old is none, f"{where}: the file is gone"
            fresh = found is not none and found == new
            assert fresh or not last, f"{where}: save had returned, but the new content is lost"
            report.new, report.old = report.new + fresh, report.old + (not fresh)
    return report


# ---------------------------------------------------------------------------------------------------- damaged bytes


@dataclass
class DamageReport:
    """What became of damaged files."""

    refused: int = 0
    harmless: int = 0
    words: dict[str, int] = field(default_factory=dict)  # kind of error -> how often

    def __str__(self) -> str:
        kinds = ", ".join(f"{n} {name}" for name, n in sorted(self.words.items()))
        return (
            f"{self.refused + self.harmless} damaged files: {self.refused} refused ({kinds}), {self.harmless} harmless"
        )

    def judge(self, where: str, path: Path, read: Read, wanted: Any, refusals: Refusals) -> None:
        """Reads one damaged file."""
        try:
            found = read(path)
        except refusals as e:
            self.refused += 1
            self.words[type(e).__name__] = self.words.get(type(e).__name__, 0) + 1
        except Exception as e:
            raise AssertionError(f"{where}: {type(e).__name__} instead of a refusal: {e}") from e
        else:
            assert found == wanted, f"{where}: the damage went unnoticed, and what is read is wrong"
            self.harmless += 1


def check_flips(
    path: str | Path, read: Read, *, sample: int | None = None, seed: int = 0, refusals: Refusals = REFUSALS
) -> DamageReport:
    """Changes one byte at a time: all of them, or `sample` random ones. `path` itself is left alone."""
    path = as_path(path)
    data, wanted, dice = path.read_bytes(), read(path), random.Random(seed)
    places = range(len(data)) if sample is None or sample >= len(data) else dice.sample(range(len(data)), sample)
    report = DamageReport()
    with tempfile.TemporaryDirectory() as folder:
        for number, at in enumerate(places):
            changed = bytearray(data)
            changed[at] ^= 1 << dice.randrange(8) if dice.random() < 0.7 else dice.randrange(1, 256)
            damaged = Path(folder) / str(number)  # a new name each: some readers keep files mapped
            damaged.write_bytes(changed)
            report.judge(f"byte {at} of {len(data)} changed", damaged, read, wanted, refusals)
            damaged.unlink()
    return report


def mangle(data: bytes, dice: random.Random) -> tuple[bytes, str]:
    """Damage of a random kind: (bytes, what was done)."""
    kind = dice.choice(["cut", "longer", "zeros", "noise", "swap", "repeat", "lost", "flips", "front"])
    a, b = sorted(dice.randrange(len(data) + 1) for _ in range(2))
    if dice.random() < 0.5:
        b = min(b, a + 64)  # small wounds as well as large ones
    where = f"{kind} at {a}:{b}"
    if kind == "cut":
        return data[:a], where
    if kind == "longer":
        return data + dice.randbytes(dice.randrange(1, 4096)), where
    if kind == "zeros":
        return data[:a] + bytes(b - a) + data[b:], where
    if kind == "noise":
        return data[:a] + dice.randbytes(b - a) + data[b:], where
    if kind == "swap":
        return data[b:] + data[a:b] + data[:a], where
    if kind == "repeat":
        return data[:b] + data[a:b] + data[b:], where
    if kind == "lost":
        return data[:a] + data[b:], where
    changed = bytearray(data)
    reach = min(len(data), 256) if kind == "front" else len(data)  # headers lie in front
    for _ in range(dice.randrange(1, 9)):
        changed[dice.randrange(reach)] ^= dice.randrange(1, 256)
    return bytes(changed), where


def check_mangled(
    path: str | Path, read: Read, count: int = 100, *, seed: int = 0, refusals: Refusals = REFUSALS
) -> DamageReport:
    """Reads `count` files that were mangled from `path` (see `mangle`), which itself is left alone."""
    path = as_path(path)
    data, wanted, dice = path.read_bytes(), read(path), random.Random(seed)
    report = DamageReport()
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            damaged = Path(folder) / str(number)
            content, where = mangle(data, dice)
            damaged.write_bytes(content)
            report.judge(f"mangled file {number} ({where})", damaged, read, wanted, refusals)
            damaged.unlink()
    return report


# ------------------------------------------------------------------------------------------------------------ kills


@dataclass
class KillReport:
    """What `check_kills` found."""

    kills: int = 0
    newer: int = 0  # states that were in place before the killed process could say so
    saved: int = 0

    def __str__(self) -> str:
        return f"{self.kills} kills among {self.saved} saves, {self.newer} between the rename and its return"


def check_kills(
    program: str, path: str | Path, read: Callable[[Path], int], *, rounds: int = 5, seed: int = 0,
    longest: float = 0.3, env: Mapping[str, str] | None = None,
) -> KillReport:  # fmt: skip
    """Kills a Python process that saves, `rounds` times, each at a random moment within `longest` seconds.

    program: source that gets `path` and a number n as sys.argv[1:], saves state n, n + 1, ... to `path`, and prints
    each number, flushed, when its save has returned. read(path): the number of the state in the file. It must be the
    last that was printed or the one after. Raises AssertionError.
    """
    path, dice, report, number = as_path(path), random.Random(seed), KillReport(), 0
    for _ in range(rounds):
        command = [sys.executable, "-c", program, str(path), str(number)]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        try:
            assert child.stdout is not None
            lines = [child.stdout.readline()]  # the first save has returned
            time.sleep(dice.random() * longest)
        finally:
            child.kill()
        rest, errors = child.communicate()
        lines += rest.splitlines()
        assert child.returncode == -signal.SIGKILL, f"the process ended by itself, with {child.returncode}: {errors}"
        printed = [int(line) for line in lines if line.strip()]
        try:
            found = read(path)
        except Exception as e:
            raise AssertionError(f"after a kill following save {printed[-1]} the file cannot be read: {e}") from e
        assert found in (printed[-1], printed[-1] + 1), f"save {printed[-1]} had returned, but the file holds {found}"
        report.kills, report.saved = report.kills + 1, report.saved + found + 1 - number
        report.newer += found > printed[-1]
        number = found + 1
    return report
