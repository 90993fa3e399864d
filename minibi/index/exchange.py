"""Vectors and graphs in other programs' files: .npy, .fvecs, .ivecs, faiss's IndexFlat, hnswlib's .bin.

    x = read_vectors("base.fvecs")                   write_vectors("base.npy", x)
    x, metric = read_faiss_flat("flat.faiss")        write_faiss_flat("flat.faiss", x, "ip")
    graph = read_hnswlib("index.bin")                write_hnswlib("index.bin", hnsw_index)
    index = import_hnswlib("index.bin", "cosine")    an HNSWIndex with its vectors and labels, linked anew

Whatever a file claims is compared with its length before memory is taken or an offset followed: a mangled one gives
FormatError. Files are replaced atomically. All numbers are little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..arguments import as_path
from ..errors import FormatError, InputError
from ..shapes import Floats, Ints, as_vectors
from ..store.files import replace_file
from .hnsw import HNSWIndex

_HNSWLIB = struct.Struct("<6QiI3QdQ")  # the 96 bytes that HierarchicalNSW::saveIndex begins with
_FAISS = struct.Struct("<4siqqq?i")  # what write_index_header writes
_FAISS_KINDS = {b"IxFI": "ip", b"IxF2": "l2"}
_METRICS = {"ip": (b"IxFI", 0), "cosine": (b"IxFI", 0), "l2": (b"IxF2", 1)}


def read_vectors(path: str | Path) -> NDArray:
    """The table [N, D] in a .npy, .fvecs or .ivecs file, float32 or int32. Raises FormatError, InputError."""
    path = as_path(path)
    if path.suffix == ".npy":
        try:
            table: Any = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError, SyntaxError, OverflowError, MemoryError) as e:
            raise FormatError(f"{path} cannot be read as .npy: {_first_line(e)}") from None
        return _vectors(table, path)
    if path.suffix not in (".fvecs", ".ivecs"):
        raise InputError(f"{path} must end in .npy, .fvecs or .ivecs")
    raw = _read(path)
    if not raw.size:
        return np.zeros((0, 0), np.float32 if path.suffix == ".fvecs" else np.int32)
    if raw.size % 4:
        raise FormatError(f"{path} is cut off: its length is not a multiple of four bytes")
    words = raw.view("<i4")
    dim = int(words[0])
    if dim < 1 or words.size % (dim + 1):
        raise FormatError(f"{path} is damaged: {raw.size} bytes are not whole vectors of {dim} numbers")
    table = words.reshape(-1, dim + 1)
    if (table[:, 0] != dim).any():
        raise FormatError(f"{path} is damaged: not all of its vectors say that they have {dim} numbers")
    body = np.ascontiguousarray(table[:, 1:])
    return body if path.suffix == ".ivecs" else _vectors(body.view("<f4"), path)


def write_vectors(path: str | Path, table: ArrayLike) -> None:
    """Writes [N, D] as .npy, .fvecs (float32) or .ivecs (int32), as the path ends. Raises InputError."""
    path = as_path(path)
    if path.suffix == ".ivecs":
        whole: Any = np.asarray(table)
        if whole.ndim != 2 or whole.dtype.kind not in "iu" or (whole.size and np.abs(whole).max() >= 2**31):
            raise InputError("an .ivecs file holds a table of whole numbers below 2^31")
        x = whole.astype("<i4")
    elif path.suffix in (".npy", ".fvecs"):
        x = as_vectors(table)
    else:
        raise InputError(f"{path} must end in .npy, .fvecs or .ivecs")
    if path.suffix == ".npy":
        replace_file(path, lambda file: np.save(file, x, allow_pickle=False))
        return
    heads = np.full((len(x), 1), x.shape[1], "<i4")
    replace_file(path, lambda file: file.write(np.concatenate([heads, x.view("<i4")], axis=1).tobytes()))


def read_faiss_flat(path: str | Path) -> tuple[Floats, str]:
    """(vectors [N, D], "ip" or "l2") of a file that faiss wrote from an IndexFlat. Raises FormatError."""
    path = as_path(path)
    raw = _read(path)
    size = _FAISS.size
    if raw.size < size + 8:
        raise FormatError(f"{path} is too short for an IndexFlat of faiss")
    kind, dim, count, _, _, _, metric = _FAISS.unpack(raw[:size].tobytes())
    if kind not in _FAISS_KINDS or _METRICS[_FAISS_KINDS[kind]][1] != metric:
        raise FormatError(f"{path} is not an IndexFlat of faiss for inner products or L2")
    (numbers,) = struct.unpack("<Q", raw[size : size + 8].tobytes())
    if dim < 1 or count < 0 or numbers != dim * count or raw.size != size + 8 + 4 * numbers:
        raise FormatError(f"{path} is damaged: it should hold {count} vectors of {dim} and is {raw.size} bytes long")
    return _vectors(raw[size + 8 :].copy().view("<f4").reshape(count, dim), path), _FAISS_KINDS[kind]


def write_faiss_flat(path: str | Path, vectors: ArrayLike, metric: str = "ip") -> None:
    """Writes vectors [N, D] as an IndexFlat that faiss reads; cosine is the inner product of what you give it.

    Raises InputError.
    """
    x = as_vectors(vectors)
    if metric not in _METRICS or not x.shape[1]:
        raise InputError(f"metric must be one of {list(_METRICS)} and vectors must have a width")
    kind, code = _METRICS[metric]
    head = _FAISS.pack(kind, x.shape[1], len(x), 1 << 20, 1 << 20, True, code) + struct.pack("<Q", x.size)
    replace_file(as_path(path), lambda file: file.write(head + x.tobytes()))


@dataclass(frozen=True)
class HnswlibGraph:
    """What an hnswlib file says: vectors [N, D], labels [N], who is marked as deleted [N], and the graph.

    links [N, maxM0] on layer 0 and upper[i] [levels[i], maxM] above it, -1 behind.
    """

    vectors: Floats
    labels: Ints
    deleted: NDArray[np.bool_]
    levels: Ints
    links: NDArray[np.int32]
    upper: list[NDArray[np.int32]]
    entry: int
    M: int
    ef_construction: int


def read_hnswlib(path: str | Path) -> HnswlibGraph:
    """Reads what hnswlib's save_index wrote for float32 vectors; every length, link and label is checked.

    Raises FormatError.
    """
    path = as_path(path)
    raw = _read(path)

    def damaged(why: str) -> FormatError:
        return FormatError(f"{path} is not a sound hnswlib index: {why}")

    if raw.size < _HNSWLIB.size:
        raise damaged("it is shorter than its header")
    head = _HNSWLIB.unpack(raw[: _HNSWLIB.size].tobytes())
    start, room, count, size, label_at, data_at, top, entry, most, most0, M, _, ef_construction = head
    body = raw[_HNSWLIB.size :]
    width = label_at - data_at
    if start or not 1 <= M <= most <= most0 < 2**16 or data_at != 4 * most0 + 4 or size != label_at + 8:
        raise damaged("its header contradicts itself")
    if width < 4 or width % 4 or size >= 2**31 or count > room or count * size > body.size:
        raise damaged(f"it cannot hold {count} vectors of {width} bytes")
    table = body[: count * size].reshape(count, size)
    links, sizes = _lists(np.ascontiguousarray(table[:, :data_at]).view("<u4"), count, damaged)
    levels, upper, at = np.zeros(count, np.int64), [], count * size
    for row in range(count):
        if at + 4 > body.size:
            raise damaged("it ends before the links of its upper layers")
        length = int(body[at : at + 4].copy().view("<u4")[0])
        at += 4
        if length % (4 * most + 4) or at + length > body.size:
            raise damaged(f"the links of item {row} have an impossible length")
        levels[row] = length // (4 * most + 4)
        upper.append(_lists(body[at : at + length].copy().view("<u4").reshape(-1, most + 1), count, damaged)[0])
        at += length
    if at != body.size:
        raise damaged("something follows after its end")
    if count and (entry >= count or top != levels.max() or levels[entry] != top):
        raise damaged("its entry point is not on the top layer")
    for row in np.flatnonzero(levels):
        for layer, linked in enumerate(upper[row], 1):
            if (levels[linked[linked >= 0]] < layer).any():
                raise damaged(f"item {row} links to one that is not on its layer")
    labels = np.ascontiguousarray(table[:, label_at:]).view("<i8")[:, 0]
    if len(np.unique(labels)) != count or (labels == -1).any():
        raise damaged("a label occurs twice, or is -1")
    vectors = np.ascontiguousarray(table[:, data_at:label_at]).view("<f4")
    if not np.isfinite(vectors).all():
        raise damaged("a vector is not finite")
    deleted = (sizes >> 16 & 1).astype(bool)
    return HnswlibGraph(vectors, labels, deleted, levels, links, upper, int(entry), int(M), int(ef_construction))


def _lists(words: NDArray[np.uint32], count: int, damaged: Any) -> tuple[NDArray[np.int32], NDArray[np.uint32]]:
    """Rows of (how many, links …) as links with -1 behind, and the first numbers as they are."""
    held = words[:, 0] & 0xFFFF
    within = np.arange(words.shape[1] - 1) < held[:, None]
    if (held >= words.shape[1]).any() or (words[:, 1:][within] >= count).any():
        raise damaged("a link leads nowhere")
    return np.where(within, words[:, 1:], 0).astype(np.int32) - ~within, words[:, 0]


def import_hnswlib(path: str | Path, metric: str, **settings: Any) -> HNSWIndex:
    """An HNSWIndex of the items in an hnswlib file that are not deleted, under their labels.

    The vectors are linked anew: hnswlib's graphs do not promise that everything can be reached. metric: that of the
    index, which the file does not tell; M and ef_construction are the file's unless settings say others. Raises
    FormatError, InputError.
    """
    graph = read_hnswlib(path)
    given = {"M": max(graph.M, 2), "ef_construction": max(graph.ef_construction, 1)} | settings
    index = HNSWIndex(graph.vectors.shape[1], metric, **given)
    index.add(graph.vectors[~graph.deleted], graph.labels[~graph.deleted])
    return index


def write_hnswlib(path: str | Path, index: HNSWIndex) -> None:
    """Writes an HNSWIndex, links and all, as a file that hnswlib's load_index reads (space "cosine", "ip" or "l2").

    Vectors are written as float32; removed items are left out. Raises InputError if there is nothing to write.
    """
    with index._lock:
        index.compact()
        view = index._view
    count, M = view.count, index.M
    if not count:
        raise InputError("hnswlib cannot load an empty index: add vectors first")
    vectors = index._codec.decode(index._bytes(view)).astype("<f4")
    most0, width = 2 * M, 4 * index.dim
    record = np.dtype([("count", "<u4"), ("links", "<u4", (most0,)), ("vector", "<f4", (index.dim,)), ("label", "<i8")])
    table = np.zeros(count, record)
    table["count"], table["links"] = _counted(view["links"])
    table["vector"], table["label"] = vectors, view["ids"]
    levels, offsets, upper = view["levels"].astype(np.int64), view["offsets"], view.arrays["upper"]
    entry = int(view.facts["entry"])
    label_at = 4 * most0 + 4 + width
    head = _HNSWLIB.pack(
        0, count, count, record.itemsize, label_at, 4 * most0 + 4, int(levels.max()), entry, M, most0, M,
        1 / np.log(M), index.ef_construction,
    )  # fmt: skip

    def write(file: BinaryIO) -> None:
        file.write(head)
        file.write(table.tobytes())
        for row in range(count):
            linked = upper[offsets[row] : offsets[row] + levels[row]]
            held, links = _counted(linked)
            file.write(struct.pack("<I", linked.shape[0] * (4 * M + 4)))
            file.write(np.concatenate([held[:, None], links], axis=1).astype("<u4").tobytes())

    replace_file(as_path(path), write)


def _counted(links: NDArray[np.int32]) -> tuple[NDArray, NDArray]:
    """(how many [N], links [N, …]): the links moved to the front, zeros behind."""
    links = np.take_along_axis(links, np.argsort(links < 0, axis=1, kind="stable"), axis=1)
    return (links >= 0).sum(axis=1), np.maximum(links, 0)


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        return np.frombuffer(path.read_bytes(), np.uint8)
    except OSError as e:
        raise FormatError(f"{path} cannot be read: {e.strerror}") from None


def _vectors(table: Any, path: Path) -> Floats:
    try:
        return as_vectors(table)
    except InputError as e:
        raise FormatError(f"{path} holds no vectors: {e}") from None


def _first_line(e: BaseException) -> str:
    return (str(e) or type(e).__name__).splitlines()[0]
