"""From bytes to lines of text and to JSON objects: UTF-8, gzipped or not; every complaint names file and line."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from codecs import getincrementaldecoder
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

from ..arguments import as_path
from ..errors import FormatError, InputError


def lines_of(path: str | PathLike[str]) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of a text file; blank lines are left out. Lines end at \\n alone.

    InputError for a file that cannot be opened, FormatError for one that is no text in UTF-8.
    """
    path = as_path(path)
    with while_reading(path):
        for number, line in enumerate(decoded(path, "\n"), 1):
            if not line.isspace():
                yield number, line.rstrip("\r\n")


def objects_of(path: str | PathLike[str], example: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number, object) of every line of a JSONL file. FormatError, with `example`, for lines of another kind."""
    for number, line in lines_of(path):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as e:
            wrong = f"not valid JSON ({getattr(e, 'msg', e)})"
        else:
            if isinstance(row, dict):
                yield number, row
                continue
            wrong = f"not a JSON object but {type(row).__name__}"
        raise FormatError(f"{path}:{number}: {wrong}: each line must be one object such as {example}")


def open_bytes(path: Path) -> BinaryIO:
    packed = path.name.lower().endswith(".gz")
    return gzip.open(path, "rb") if packed else open(path, "rb")  # type: ignore[return-value]


@contextmanager
def while_reading(path: Path) -> Iterator[None]:
    """What can go wrong with a file's bytes, said in the project's own errors."""
    try:
        yield
    except UnicodeDecodeError:
        raise FormatError(_not_utf8(path)) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as e:
        raise FormatError(f"{path} is not a whole gzip file ({e}): copy or compress it again") from None
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from None


def _not_utf8(path: Path) -> str:
    """Why the file is not UTF-8 and where: the first bad byte, found by reading again in pieces of a megabyte."""
    decoder, read, line = getincrementaldecoder("utf-8")(), 0, 1
    with open_bytes(path) as f:
        for piece in chain(iter(lambda: f.read(1 << 20), b""), [b""]):
            if read == 0 and piece[:2] in (b"\xff\xfe", b"\xfe\xff"):
                return f"{path} is UTF-16, not UTF-8: convert it, for example with iconv -f UTF-16 -t UTF-8"
            if b"\0" in piece:
                break
            read += len(piece)
            try:
                decoder.decode(piece, final=not piece)
            except UnicodeDecodeError as e:
                at = read - len(e.object) + e.start  # e.object may begin with bytes kept from the piece before
                line += e.object[: e.start].count(b"\n")
                bad = f"{path}:{line}: byte {at} (0x{e.object[e.start]:02x}) is not UTF-8"
                return f"{bad}: convert the file, for example with iconv -f LATIN1 -t UTF-8"
            line += piece.count(b"\n")
    return f"{path} is a binary file, not text"


def decoded(path: Path, newline: str) -> Iterator[str]:
    """Decoded lines with their line ends; `newline` as in open()."""
    with open_bytes(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", newline=newline) as f:
        for n, line in enumerate(f, 1):
            if "\0" in line:
                raise FormatError(f"{path}:{n}: holds a NUL character: this is a binary file or UTF-16, not UTF-8 text")
            yield line
