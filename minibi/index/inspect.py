"""Any index's file: opened by what it says it is, checked, and rebuilt where its vectors are whole.

The vectors and their ids are the truth of an index; graphs, lists and codes follow from them. So a file in which those
two arrays have the right checksums can be rebuilt, whatever else was damaged.
"""

from __future__ import annotations

import inspect
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import FormatError, InputError
from ..store.snapshot import salvage, snapshot_kind
from .codes import codec_for
from .contract import Index

CLASSES = {
    "flat-index": ("flat", "FlatIndex"),
    "hnsw-index": ("hnsw", "HNSWIndex"),
    "ivf-index": ("ivf", "IVFIndex"),
    "ivfpq-index": ("pq", "IVFPQIndex"),
    "pq-index": ("pq", "PQIndex"),
    "ivf-rabitq-index": ("rabitq", "IVFRaBitQIndex"),
    "rabitq-index": ("rabitq", "RaBitQIndex"),
    "binary-index": ("binary", "BinaryIndex"),
    "multi-vector-index": ("multi_vector", "MultiVectorIndex"),
}


def class_of(path: str | Path) -> Any:
    """The class whose `save` wrote a file. Raises FormatError."""
    kind = snapshot_kind(path)
    if kind not in CLASSES:
        raise FormatError(f"{path} holds a {kind}, not an index of vectors")
    module, name = CLASSES[kind]
    return getattr(import_module(f".{module}", __package__), name)


def load_index(path: str | Path, **options: Any) -> Any:
    """The index in a file, of whatever kind. Raises FormatError."""
    return class_of(path).load(path, **options)


def repair(path: str | Path) -> Index:
    """An index built anew from the vectors, ids and settings of a damaged file, in the order they were added.

    Where vectors were kept in fewer bytes, what is built holds what those bytes meant. Nothing is written. Raises
    FormatError if the vectors, the ids or the header are damaged too.
    """
    cls = class_of(path)
    if not issubclass(cls, Index):
        raise FormatError(f"{path} cannot be rebuilt: a {cls.kind} holds nothing but its codes")
    arrays, fields = salvage(path, cls.kind)
    lost = [name for name in ("vectors", "ids") if name not in arrays]
    if lost:
        raise FormatError(f"{path} cannot be rebuilt: its {' and '.join(lost)} are damaged; restore it from a copy")
    known = set(inspect.signature(cls.__init__).parameters)
    try:
        index = cls(**{name: value for name, value in fields.items() if name in known})
        codec = codec_for(index.store, index.dim)
        rows, ids = arrays["vectors"].view(np.uint8), arrays["ids"]
        if rows.ndim != 2 or rows.shape != (len(ids), codec.stride) or codec.sound(rows):
            raise ValueError("vectors and ids do not fit")
        index.add(codec.decode(rows), ids)
        index.notes = dict(fields.get("notes") or {})
    except (AttributeError, KeyError, TypeError, ValueError, InputError) as e:
        raise FormatError(f"{path} cannot be rebuilt: {e}") from None
    return index
