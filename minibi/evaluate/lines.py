"""Reads line by line what the literature keeps in lines: UTF-8, gzipped or not, and every complaint names its line."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import FormatError


def lines_of(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """(line number from 1, line without its end) of a text file, gzipped or not, blank lines left out.

    FormatError for a file that cannot be opened or is not UTF-8.
    """
    path, number = Path(path), 0
    try:
        # Bytes, not text: lines end at \n alone, and a bad byte can be laid to its line.
        with gzip.open(path, "rb") if path.suffix == ".gz" else open(path, "rb") as file:
            for number, raw in enumerate(file, start=1):
                line = raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as e:
        raise FormatError(f"{path}:{number}: not UTF-8: {e.reason}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as e:
        raise FormatError(f"{path} is damaged after line {number}: {e}") from None
    except OSError as e:
        raise FormatError(f"cannot read {path}: {e.strerror or e}") from None


def objects_of(path: str | os.PathLike[str], example: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """("file:line", object) of every line of a JSONL file. FormatError, with `example`, for lines of another kind."""
    for number, line in lines_of(path):
        where = f"{path}:{number}"
        try:
            record: Any = json.loads(line)
        except (ValueError, RecursionError) as e:
            raise FormatError(f"{where}: not a line of JSON: {e}") from None
        if not isinstance(record, dict):
            raise FormatError(f"{where}: expected an object such as {example}")
        yield where, record
