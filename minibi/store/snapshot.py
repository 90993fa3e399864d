"""Snapshots: arrays with a checksum each in one safetensors file, replaced atomically, memory-mapped on reading.

Any safetensors reader can open one. The metadata holds what kind of thing it is, a format version, free fields as JSON,
the CRC-32 of every tensor, and one of all that the header says.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..arguments import as_path
from ..errors import FormatError, ModelError
from .files import replace_file
from .tensors import read_header, read_safetensors

VERSION = 1
ALIGNMENT = 64  # bytes: tensors of whole cache lines begin at one, others where their numbers may

_NAMES = {
    "float32": "F32", "float16": "F16", "float64": "F64", "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip


def write_snapshot(path: str | Path, kind: str, arrays: Mapping[str, NDArray], fields: Mapping[str, Any]) -> None:
    """Writes `arrays` and the JSON-able `fields` as a snapshot of the given kind, atomically and durably."""
    solid = {name: np.asarray(a, a.dtype.newbyteorder("="), order="C") for name, a in arrays.items()}
    solid = dict(sorted(solid.items(), key=lambda item: -math.gcd(item[1].nbytes, ALIGNMENT)))  # so each begins aligned
    header: dict[str, Any] = {
        "__metadata__": {
            "format": "minibi",
            "kind": kind,
            "version": str(VERSION),
            "fields": json.dumps(dict(fields)),
            "crc32": json.dumps({name: zlib.crc32(_bytes(a)) for name, a in solid.items()}),
        }
    }
    at = 0
    for name, a in solid.items():
        header[name] = {"dtype": _NAMES[a.dtype.name], "shape": list(a.shape), "data_offsets": [at, at + a.nbytes]}
        at += a.nbytes
    header["__metadata__"]["header_crc32"] = _header_sum(header)
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little"))
        file.write(text)
        for a in solid.values():
            file.write(_bytes(a))

    replace_file(as_path(path), write)


def read_snapshot(path: str | Path, kind: str, *, verify: bool = True) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """(arrays, fields) of a snapshot; the arrays are private views of the mapped file.

    verify: compare every tensor with its checksum, which reads the whole file once.
    Raises FormatError if the file is missing, damaged, of another kind or of a newer version.
    """
    path = as_path(path)
    try:
        with path.open("rb"):
            pass
        tensors, metadata, _ = read_header(path)
        metadata = metadata or {}
        if metadata.get("format") != "minibi" or metadata.get("kind") != kind:
            raise FormatError(f"{path} is not a {kind} file of minibi")
        if int(metadata["version"]) > VERSION:
            raise FormatError(f"{path} was written by a newer version of minibi: upgrade to read it")
        if metadata.pop("header_crc32") != _header_sum({"__metadata__": metadata, **tensors}):
            raise FormatError(f"{path} is damaged: the checksum of its header does not match")
        fields, sums = json.loads(metadata["fields"]), json.loads(metadata["crc32"])
        arrays = read_safetensors(path)
    except OSError as e:
        raise FormatError(f"{path} cannot be read: {e.strerror}") from None
    except ModelError:
        raise FormatError(f"{path} is damaged, or was never a {kind} file of minibi") from None
    except (KeyError, ValueError, TypeError, RecursionError) as e:
        if isinstance(e, FormatError):
            raise
        raise FormatError(f"{path} is damaged: its metadata cannot be read ({e!r})") from None
    if not isinstance(fields, dict) or not isinstance(sums, dict) or set(sums) != set(arrays):
        raise FormatError(f"{path} is damaged: its metadata and its tensors do not agree")
    if verify:
        for name, a in arrays.items():
            if zlib.crc32(_bytes(a)) != sums[name]:
                raise FormatError(f"{path} is damaged: the checksum of {name} does not match")
    return arrays, fields


def snapshot_kind(path: str | Path) -> str:
    """What kind of thing a snapshot says it holds. Raises FormatError."""
    try:
        metadata = read_header(as_path(path))[1] or {}
    except OSError as e:
        raise FormatError(f"{path} cannot be read: {e.strerror}") from None
    except ModelError:
        raise FormatError(f"{path} is damaged, or was never a file of minibi") from None
    if metadata.get("format") != "minibi" or not isinstance(metadata.get("kind"), str):
        raise FormatError(f"{path} is not a file of minibi")
    return metadata["kind"]


def salvage(path: str | Path, kind: str) -> tuple[dict[str, NDArray], dict[str, Any]]:
    """(arrays, fields) of a damaged snapshot: only the arrays whose checksums are right.

    Raises FormatError if the header itself, which says where they are, cannot be trusted.
    """
    arrays, fields = read_snapshot(path, kind, verify=False)
    sums = json.loads((read_header(as_path(path))[1] or {})["crc32"])
    return {name: a for name, a in arrays.items() if zlib.crc32(_bytes(a)) == sums[name]}, fields


def _header_sum(header: Mapping[str, Any]) -> str:
    return str(zlib.crc32(json.dumps(header, sort_keys=True).encode()))


def _bytes(a: NDArray) -> memoryview:
    return memoryview(a.reshape(-1).view(np.uint8)) if a.size else memoryview(b"")
