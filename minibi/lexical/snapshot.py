"""A BM25 index as a file: the live documents, packed. Lengths and df follow from the postings and are not stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, InputError
from ..store.snapshot import read_snapshot
from ..text.words import Words
from .postings import Docs, Postings, empty_lists
from .terms import Reader, as_source
from .variants import Variant

if TYPE_CHECKING:
    from .bm25 import BM25

Arrays = dict[str, NDArray[Any]]


def arrays_of(bm25: BM25) -> tuple[Arrays, dict[str, Any]]:
    """(arrays, fields) to write."""
    kept = np.flatnonzero(bm25._postings.lists.dfs[: bm25._postings.terms])
    p = bm25._postings.packed(kept, room=0)
    names = list(bm25._reader.vocabulary)
    texts = [names[i].encode("utf-8", "surrogatepass") for i in kept.tolist()]
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    arrays = {
        "ids": p.docs.ids,
        "texts": np.frombuffer(b"".join(texts), np.uint8),
        "text_ends": ends,
        "ends": np.cumsum(p.lists.dfs, dtype=np.int64),
        "rows": p.lists.rows,
        "tfs": p.lists.tfs,
    }
    v = bm25.variant
    delta = v.delta if v.floor else None
    fields = {"variant": v.name, "k1": v.k1, "b": v.b, "delta": delta, "floor_for": v.floor_for}
    words = bm25.tokenizer.settings()
    return arrays, fields | {"words": words, "next_id": bm25._next, "notes": bm25.notes}


def load_bm25(kind: type[BM25], path: str | Path, tokenizer: Any) -> Any:
    """See `BM25.load`."""
    arrays, fields = read_snapshot(path, kind.kind)
    try:
        notes, next_id, words = dict(fields.pop("notes")), fields.pop("next_id"), fields.pop("words")
        if words is None and tokenizer is None:
            raise InputError(f"{path} was made with a tokenizer of its own: pass it as tokenizer")
        bm25 = kind(**fields, tokenizer=Words(**words) if tokenizer is None else as_source(tokenizer))
        if type(next_id) is not int or not 0 <= next_id < 2**63:
            raise ValueError(f"the next id is {next_id!r}")
        bm25.notes, bm25._next = notes, next_id
        bm25._reader = Reader(bm25.tokenizer, _texts(arrays))
        bm25._postings = _postings(bm25.variant, arrays, len(bm25._reader.vocabulary))
        ids = bm25._postings.docs.ids
        bm25._row_of = dict(zip(ids.tolist(), range(len(ids)), strict=True))
        if len(bm25._row_of) < len(ids) or next_id <= ids.max(initial=-1):
            raise ValueError("an id is there twice, or is the next one")
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, MemoryError) as e:
        if isinstance(e, InputError) and tokenizer is None and "words" not in fields and "pass it" in str(e):
            raise
        raise FormatError(f"{path} is damaged: {e}") from None
    return bm25


def _texts(arrays: Arrays) -> list[str]:
    raw, ends = arrays["texts"], arrays["text_ends"]
    _expect(raw, np.uint8, "texts")
    _expect(ends, np.int64, "text_ends")
    _expect_ends(ends, len(raw), "text_ends")
    whole = raw.tobytes()
    starts = [0, *ends[:-1].tolist()]
    texts = [whole[a:b].decode("utf-8", "surrogatepass") for a, b in zip(starts, ends.tolist(), strict=False)]
    if len(set(texts)) != len(texts):
        raise ValueError("a term is there twice")
    return texts


def _postings(variant: Variant, arrays: Arrays, terms: int) -> Postings:
    """Postings from packed arrays, every number of which is checked before it is used."""
    ids, ends, rows, tfs = (arrays[name] for name in ("ids", "ends", "rows", "tfs"))
    for name, dtype in {"ids": np.int64, "ends": np.int64, "rows": np.int32, "tfs": np.int32}.items():
        _expect(arrays[name], dtype, name)
    if len(rows) != len(tfs) or len(ends) != terms or len(ids) >= 2**31:
        raise ValueError(f"{len(rows)} rows, {len(tfs)} counts, {len(ends)} lists for {terms} terms do not fit")
    _expect_ends(ends, len(rows), "ends")
    starts = np.concatenate([[0], ends[:-1]]) if terms else np.zeros(0, np.int64)
    dfs = (ends - starts).astype(np.int32)
    if (dfs < 1).any() or (rows < 0).any() or (rows >= len(ids)).any() or (tfs < 1).any() or (ids == -1).any():
        raise ValueError("a list is empty, a row or count is out of bounds, or an id is -1")
    first = np.zeros(len(rows) + 1, bool)
    first[starts] = True
    if ((rows[1:] <= rows[:-1]) & ~first[1:-1]).any():
        raise ValueError("the rows of a list do not ascend")
    lengths = np.bincount(rows, weights=tfs, minlength=len(ids))
    if lengths.max(initial=0) >= 2**31:
        raise ValueError("a document is too long")
    p = Postings(variant)
    p.lists = empty_lists(0, starts, dfs, dfs)._replace(rows=rows, tfs=tfs, counts=dfs)
    p.terms, p.rows, p.used, p.documents = terms, len(ids), len(rows), len(ids)
    p.tokens, lengths = int(lengths.sum()), lengths.astype(np.int32)
    none = np.zeros(0, np.int32)
    sizes = np.bincount(rows, minlength=len(ids)).astype(np.int64)
    p.docs = Docs(ids, lengths, np.ones(len(ids), np.uint8), np.concatenate([[0], np.cumsum(sizes)]), none)
    return p.packed(np.arange(terms))


def _expect(a: NDArray[Any], dtype: Any, name: str) -> None:
    if a.dtype != dtype or a.ndim != 1:
        raise ValueError(f"{name} is {a.dtype}{list(a.shape)}")


def _expect_ends(ends: NDArray[np.int64], total: int, name: str) -> None:
    if (np.diff(ends, prepend=0) < 0).any() or (ends[-1] if len(ends) else 0) != total:
        raise ValueError(f"{name} does not divide what it ends")
