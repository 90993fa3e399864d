"""What only a whole process can show: the time to its first vector, and its peak memory.

Also the program of such a child: python -m benchmarks.processes FOLDER FILE COMPUTE
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .common import Ratio, memory, say

_QUERY = "how long does the first vector take"


def _programs(folder: Path, peers: Any) -> dict[str, str]:
    """Name -> Python code that ends with the vector of one query."""
    from .contenders import computes, option

    where = str(folder)
    programs = {}
    for compute in computes():
        arguments = "".join(f", {name}={value!r}" for name, value in option(compute).items())
        programs[f"minibi {compute}"] = (
            f"from minibi import BiEncoder\nBiEncoder({where!r}{arguments}).encode({_QUERY!r})"
        )
    if peers.sentence_transformers is not None:
        programs["sentence-transformers"] = (
            "from sentence_transformers import SentenceTransformer\n"
            f"SentenceTransformer({where!r}, device='cpu').encode({_QUERY!r})"
        )
    if peers.onnx:
        programs["onnxruntime with tokenizers"] = (
            "import numpy, onnxruntime, tokenizers\n"
            f"session = onnxruntime.InferenceSession({str(peers.files['traced'])!r})\n"
            f"encoding = tokenizers.Tokenizer.from_file({where + '/tokenizer.json'!r}).encode({_QUERY!r})\n"
            "ids = numpy.array([encoding.ids])\n"
            "session.run(None, {'input_ids': ids, 'attention_mask': 0 * ids + 1, 'token_type_ids': 0 * ids})"
        )
    return programs


def startup(folder: Path, peers: Any, rounds: int) -> list[dict[str, Any]]:
    """Seconds from starting a Python process to its first query vector; a first turn fills all caches."""
    programs = _programs(folder, peers)
    say(f"start-up: {', '.join(programs)}")
    times: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, code in programs.items():
            seconds = _first_vector(code)
            if turn:
                times[name].append(seconds)
    return [{"name": name, "seconds": Ratio.of(values)} for name, values in times.items()]


def _first_vector(code: str) -> float:
    start = time.perf_counter()
    command = [sys.executable, "-c", f"{code}\nprint('ready', flush=True)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None and child.stderr is not None
        while (line := child.stdout.readline()) not in (b"ready\n", b""):
            pass
        seconds = time.perf_counter() - start
        if not line:
            raise RuntimeError(f"a start-up program failed:\n{code}\n{child.stderr.read().decode()}")
    return seconds


def peak_memory(folder: Path, count: int) -> list[dict[str, Any]]:
    """Peak resident memory of a process that encodes `count` passages of 60 words; all texts and vectors are in it."""
    from .contenders import computes
    from .workloads import passages

    results = []
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / "passages.txt"
        with file.open("w", encoding="utf-8") as lines:
            lines.writelines(f"{passage}\n" for passage in passages(count))
        for compute in computes():
            say(f"memory: {count} passages, {compute}")
            command = [sys.executable, "-m", "benchmarks.processes", str(folder), str(file), compute]
            found = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            results.append({"minibi": compute, "passages": count, **json.loads(found)})
    return results


def _encode_file(folder: str, file: str, compute: str) -> dict[str, float]:
    import inspect

    from minibi import BiEncoder

    several = "compute" in inspect.signature(BiEncoder).parameters
    options: dict[str, Any] = {"compute": compute} if several else {}
    with open(file, encoding="utf-8") as lines:
        texts = [line.rstrip("\n") for line in lines]
    model = BiEncoder(folder, **options)
    model.encode(texts[:32])
    before = memory()
    start = time.perf_counter()
    vectors = model.encode(texts, truncation="silent")
    seconds = time.perf_counter() - start
    return {
        "before_mb": before["now"],
        "peak_mb": memory()["peak"],
        "texts_mb": sum(map(sys.getsizeof, texts)) / 2**20,
        "vectors_mb": vectors.nbytes / 2**20,
        "texts_per_second": len(texts) / seconds,
    }


if __name__ == "__main__":
    print(json.dumps(_encode_file(*sys.argv[1:])))
