"""Encoding more texts than fit in memory: an iterator in, a .npy file out, with bounded memory in between."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from itertools import count, islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..arguments import as_path
from ..errors import InputError
from ..store.files import replace_file
from .bi_encoder import BiEncoder
from .precision import Precision

AT_ONCE = 4096  # texts tokenized and sorted by length together
HEADER = 128  # bytes kept for the .npy header, which is written last, when the number of rows is known


def encode_stream(
    model: BiEncoder, texts: Iterable[str], *, precision: Precision = "float32", ranges: Any = None, **options: Any
) -> Iterator[NDArray]:
    """Vectors of an endless supply of texts, in order, some thousand at a time. Options go to `BiEncoder.encode`.

    What is too long is reported part by part, by its number in the whole supply.
    """
    supply, done = _supply(texts), 0
    while part := list(islice(supply, AT_ONCE)):
        yield model.encode(part, precision=precision, ranges=ranges, first_number=done, **options)
        done += len(part)


def _supply(texts: Iterable[str]) -> Iterator[str]:
    """Raises InputError for what is not many texts."""
    if isinstance(texts, (str, bytes, set, frozenset)) or not isinstance(texts, Iterable):
        raise InputError(f"expected many texts, not one {type(texts).__name__}: pass a list or an iterator of strings")
    return map(_text, count(), texts)


def _text(number: int, text: Any) -> str:
    if not isinstance(text, str):
        raise InputError(f"text number {number} is {type(text).__name__}, not str: pass strings only")
    return text


def encode_to_file(
    model: BiEncoder,
    texts: Iterable[str],
    path: str | Path,
    *,
    precision: Precision = "float32",
    ranges: Any = None,
    total: int | None = None,
    show_progress_bar: bool = False,
    **options: Any,
) -> int:
    """Writes the vectors of `texts` to a .npy file, [N, dim]; returns N. Read it by `np.load(path, mmap_mode="r")`.

    The file appears, complete, at the end; an interruption leaves what was there before. total: for the progress bar,
    which shows texts and tokens per second.
    """
    from tqdm import tqdm

    options |= {"precision": precision, "ranges": ranges}
    supply, none = _supply(texts), model.encode([], **options)  # complains of the options before anything is done
    if not isinstance(none, np.ndarray):
        raise InputError("a file holds one vector per text: leave output_value at 'sentence_embedding'")
    written = tokens = 0

    def write(file: BinaryIO) -> None:
        nonlocal written
        file.write(b" " * HEADER)
        with tqdm(total=total, desc="encoding", unit="text", disable=None if show_progress_bar else True) as bar:
            began = time.perf_counter()

            def tell(read: int) -> None:
                nonlocal tokens
                tokens += read
                bar.set_postfix_str(f"{tokens / (time.perf_counter() - began):,.0f} tokens/s")

            for vectors in encode_stream(model, supply, progress=tell, **options):
                file.write(np.ascontiguousarray(vectors).data)
                written += len(vectors)
                bar.update(len(vectors))
        file.seek(0)
        file.write(_header(none.dtype, (written, none.shape[1])))

    replace_file(as_path(path), write)
    return written


def _header(kind: np.dtype, shape: tuple[int, int]) -> bytes:
    """The header of a .npy file, version 1.0, filled up to HEADER bytes (numpy.lib.format)."""
    text = repr({"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape})
    body = text.encode().ljust(HEADER - 11) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body
