"""What all benchmarks share: threads, turns, ratios, the machine, tables.

Clocks drift: other programs come and go, and processors change their frequency. So contenders live in one process and
take turns (A B C A B C ...), each round gives one ratio between neighbours in time, and the median of those ratios is
the figure, with its quartiles beside it. This file imports the standard library alone: `limit_threads` must come before
NumPy.
"""

from __future__ import annotations

import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

K = TypeVar("K")

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
CACHE = HERE / ".cache"  # ignored by git: exported graphs and the like
SCIFACT = HERE / "data" / "scifact"

_POOLS = ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR", "RAYON", "MINIBI")  # <name>_NUM_THREADS
_FEATURES = ("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimd", "asimddp", "i8mm")


def limit_threads(count: int) -> None:
    """`count` threads for every library of this process and its children, and peace from their progress bars.

    Raises RuntimeError if NumPy is already there: its BLAS has then counted the processors by itself.
    """
    if "numpy" in sys.modules:
        raise RuntimeError("limit_threads must be called before NumPy is imported")
    for name in _POOLS:
        os.environ[f"{name}{'' if name.endswith('MAXIMUM') else '_NUM'}_THREADS"] = str(count)
    os.environ["TOKENIZERS_PARALLELISM"] = "true" if count > 1 else "false"
    os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", TQDM_DISABLE="1")
    # Children (start-up, memory, burning processors) must find both packages wherever they are started.
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))


def say(text: str) -> None:
    """Progress, to stderr: stdout belongs to the result."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


Clock = Callable[[], float]


def interleave(
    contenders: Mapping[K, Callable[[], Any]],
    rounds: int = 7,
    *,
    seconds: float = 0.1,
    clock: Clock = time.perf_counter,
) -> dict[K, list[float]]:
    """Seconds per call of each contender, one figure per round; the rounds go through all contenders in turn.

    Each is called to warm up. A turn repeats a short call until it lasts about `seconds`. On a machine that
    others keep busy, `time.process_time` leaves out the time when they had the processor, though not what they did to
    the caches.
    """
    calls = {}
    for name, run in contenders.items():
        once = timed(run)
        calls[name] = 1 if once >= seconds else math.ceil(seconds / timed(run))
    times: dict[K, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            times[name].append(timed(run, calls[name], clock))
    return times


def timed(run: Callable[[], Any], calls: int = 1, clock: Clock = time.perf_counter) -> float:
    """Seconds per call."""
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls


@dataclass(frozen=True)
class Ratio:
    """A figure with its spread over the rounds."""

    median: float
    low: float  # first quartile
    high: float  # third quartile

    @classmethod
    def of(cls, values: Iterable[float]) -> Ratio:
        values = list(values)
        if len(values) < 2:
            return cls(values[0], values[0], values[0])
        low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(middle, low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


def ratio(above: Sequence[float], below: Sequence[float]) -> Ratio:
    """Median and quartiles over rounds of above[i] / below[i]: with times, how many times faster `below` is."""
    return Ratio.of(a / b for a, b in zip(above, below, strict=True))


def machine() -> dict[str, Any]:
    """What decides speed, and nothing that names the machine."""
    try:
        info = Path("/proc/cpuinfo").read_text()
    except OSError:
        info = ""
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in info.splitlines())}
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    caches = {}
    for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
        if kind != "Instruction":
            caches[f"L{level}"] = size
    facts: dict[str, Any] = {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "features": [name for name in _FEATURES if name in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "caches": caches,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        facts["memory_gb"] = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    if hasattr(os, "getloadavg"):
        facts["load_before"] = round(os.getloadavg()[0], 2)  # near 0 on a machine that is ours alone
    return facts


def versions(*packages: str) -> dict[str, str | None]:
    """Installed versions, None where absent; first minibi's own revision, where git knows it."""
    found: dict[str, str | None] = {}
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        found["minibi"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        found["minibi"] = "of unknown revision"
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def memory() -> dict[str, float]:
    """Resident memory of this process in MB, {"now", "peak"}.

    Linux: from /proc, since a child's ru_maxrss begins at what its parent had when it was started.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        status = dict(line.split(":", 1) for line in lines if line.startswith(("VmHWM", "VmRSS")))
        return {name: int(status[key].split()[0]) / 1024 for name, key in (("now", "VmRSS"), ("peak", "VmHWM"))}
    except (OSError, KeyError):
        import resource

        unit = 2**20 if sys.platform == "darwin" else 2**10
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        return {"now": peak, "peak": peak}


def table(headings: Sequence[str], rows: Iterable[Sequence[Any]], left: int = 1) -> str:
    """A Markdown table that also lines up as plain text; the first `left` columns are set to the left."""
    cells = [[str(x) for x in headings], *([("" if x is None else str(x)) for x in row] for row in rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["| " + " | ".join(_set(row, widths, left)) + " |" for row in cells]
    rules = ["-" * (width + 2) if i < left else "-" * (width + 1) + ":" for i, width in enumerate(widths)]
    return "\n".join([lines[0], f"|{'|'.join(rules)}|", *lines[1:]])


def _set(row: Sequence[str], widths: Sequence[int], left: int) -> list[str]:
    pairs = enumerate(zip(row, widths, strict=True))
    return [text.ljust(width) if i < left else text.rjust(width) for i, (text, width) in pairs]


def describe(facts: Mapping[str, Any], packages: Mapping[str, str | None]) -> str:
    """Machine and versions in two lines."""
    caches = ", ".join(f"{level} {size}" for level, size in facts["caches"].items())
    what = f"{facts['processor']}, {facts['cores']} cores, {caches}, {' '.join(facts['features'])}"
    rest = f"{facts['system']}, Python {facts['python']}, load before {facts.get('load_before', 'unknown')}"
    return f"{what}; {rest}\n" + ", ".join(f"{name} {version or 'not installed'}" for name, version in packages.items())
