"""Indexes by name, in faiss's notation, and advice on which to take.

index_factory("HNSW32,SQ8", 384)         an index, empty
recommend(50_000, 384)                   ("Flat", "…because…")

Flat  SQfp16  SQ8  SQ4                   all vectors, as float32, float16, 8 or 4 bits; codes=None to save memory
HNSW16  HNSW16,SQ8  HNSW16,Flat          a graph of M 16, walked on 4-bit codes (or others that are named)
IVF1024  IVF1024,Flat  IVF1024,SQ8       lists; codes are scanned and the best ordered by float32
IVF1024,PQ96x4fs  IVF,PQ48  PQ48         product codes of 4 bits, 8 where no x4 is said; IVF alone: 4 sqrt(n) lists
RaBitQ  RaBitQ4  IVF1024,RaBitQ          one bit per coordinate, or as many as are said
Binary

"RR," or "OPQ," before the rest rotates at random or as learned; ",RFlat", ",Refine(SQ8)", … after it says what
the best candidates are ordered by: it is also how vectors are kept, float32 unless said.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from typing import Any

from ..errors import InputError
from .binary import BinaryIndex
from .contract import Index, whole
from .flat import MOST, PAYS, FlatIndex
from .hnsw import HNSWIndex
from .ivf import IVFIndex
from .pq import IVFPQIndex, PQIndex
from .rabitq import IVFRaBitQIndex, RaBitQIndex

FORMS = (
    "Flat", "SQfp16", "SQ8", "SQ4", "HNSW16", "HNSW16,Flat", "HNSW16,SQ8", "HNSW16,SQ4", "HNSW16,SQfp16", "IVF1024",
    "IVF1024,Flat", "IVF1024,SQ8", "IVF1024,SQ4", "IVF1024,SQfp16", "IVF1024,PQ48", "IVF1024,PQ96x4fs",
    "IVF1024,PQ96x4fs,RFlat", "OPQ96,IVF1024,PQ96x4fs", "RR,IVF1024,PQ96x4fs", "PQ48", "PQ96x4fs", "OPQ48,PQ48",
    "RaBitQ", "RaBitQ4", "IVF1024,RaBitQ", "IVF1024,RaBitQ4", "IVF1024,Binary", "Binary",
)  # fmt: skip
CODE_OF = {"Flat": "float32", "SQfp16": "float16", "SQ8": "int8", "SQ4": "int4"}
GRAMMAR = re.compile(
    r"((?P<turn>OPQ\d*|RR)(_\d+)?,)?"
    r"(HNSW(?P<M>\d+)|IVF(?P<nlist>\d*))?,?"
    r"((?P<plain>Flat|SQfp16|SQ8|SQ4|Binary)|PQ(?P<parts>\d*)(x(?P<bits>\d+)(fs)?r?)?|RaBitQ(?P<rabitq>\d*))?"
    r"(,RFlat|,Refine\((?P<store>Flat|SQfp16|SQ8|SQ4)\))?"
)
SMALL = 100_000  # vectors up to which a scan answers in a few thousandths of a second


def index_factory(name: str, dim: int, metric: str = "cosine", **settings: Any) -> Index:
    """The index that a string describes, empty. settings: further arguments of its class, such as `seed`.

    Raises InputError, which names the nearest form that is understood.
    """
    found = GRAMMAR.fullmatch(name) if isinstance(name, str) else None
    make = _maker(found) if found else None
    if found is None or make is None:
        asked = str(name).casefold()
        alike = {form: difflib.SequenceMatcher(None, asked, form.casefold()).ratio() for form in FORMS}
        nearest = max(FORMS, key=lambda form: (alike[form], -len(form)))
        forms = f"the nearest form is {nearest!r}" if alike[nearest] >= 0.5 else f"the forms are {', '.join(FORMS)}"
        raise InputError(f"{name!r} does not name an index: {forms}")
    kind, own = make
    if found["store"]:
        own["store"] = CODE_OF[found["store"]]
    try:
        return kind(dim, metric, **own, **settings)
    except TypeError as e:
        raise InputError(f"{name!r} cannot be made with these settings: {str(e).split(') ', 1)[-1]}") from None


def _maker(found: re.Match[str]) -> tuple[Callable[..., Index], dict[str, Any]] | None:
    """(class, its arguments), or None for parts that do not go together."""
    text, turn, plain = found[0], found["turn"], found["plain"]
    listed, product, rabitq = found["nlist"] is not None, found["parts"] is not None, found["rabitq"] is not None
    if not text or text.startswith(",") or ",," in text or text.endswith(",") or (turn and not product):
        return None
    first = "HNSW" + found["M"] if found["M"] else "IVF" + found["nlist"] if listed else ""
    coded = bool(plain) or product or rabitq
    if bool(first) and coded and f"{first}," not in text:
        return None
    own: dict[str, Any] = {"nlist": int(found["nlist"]) if found["nlist"] else None} if listed else {}
    if found["M"]:
        if product or rabitq or plain == "Binary":
            return None
        return HNSWIndex, {"M": int(found["M"])} | ({"codes": CODE_OF[plain]} if plain else {})
    if product:
        own["bits"] = int(found["bits"] or 8)
        if found["parts"]:
            own["M"] = int(found["parts"])
        own["rotation"] = "random" if turn == "RR" else "opq" if turn else "none"
        return (IVFPQIndex if listed else PQIndex), own
    if rabitq:
        return (IVFRaBitQIndex if listed else RaBitQIndex), own | {"bits": int(found["rabitq"] or 1)}
    if plain == "Binary":
        return BinaryIndex, own
    if listed:
        return IVFIndex, own | ({"codes": CODE_OF[plain]} if plain else {})
    if plain and "," not in text:
        return FlatIndex, {"store": CODE_OF[plain]}
    return None


def recommend(n: int, dim: int, memory_bytes: int | None = None) -> tuple[str, str]:
    """(name for `index_factory`, one sentence why) for n vectors of width dim within memory_bytes, if that is given.

    Raises InputError if no index would fit.
    """
    n, dim = whole("n", n, 0), whole("dim", dim, 1)
    room = None if memory_bytes is None else whole("memory_bytes", memory_bytes, 0)
    blocks = -(-dim // 128) * 128
    sizes = {"float32": 4 * dim + 17, "float16": 2 * dim + 17, "int8": blocks + 25, "int4": blocks // 2 + 25}

    def fits(each: float) -> bool:
        return room is None or n * each <= room

    if n <= SMALL:
        sieve = blocks + 16 if PAYS <= dim <= MOST else 0  # what FlatIndex keeps beside vectors of floats
        for name, store in (("Flat", "float32"), ("SQfp16", "float16"), ("SQ8", "int8"), ("SQ4", "int4")):
            if fits(sizes[store] + (0 if store.startswith("int") else sieve)):
                why = "a scan of so few vectors takes a few thousandths of a second, is exact and needs no tuning"
                return name, why if name == "Flat" else f"{why}; {store} is the most exact form that fits the memory"
        raise InputError(f"{n} vectors of {dim} do not fit {room} bytes even at 4 bits: {n * sizes['int4']} are needed")
    if fits(sizes["float32"] + blocks / 2 + 190):
        return (
            "HNSW16",
            "a graph finds nearly all neighbours in the least time, and fits the memory with float32 vectors",
        )
    nlist = 2 ** round(math.log2(4 * math.sqrt(n)))
    parts = -(-dim // 4)
    for store, refine in (("float32", "RFlat"), ("float16", "Refine(SQfp16)"), ("int8", "Refine(SQ8)")):
        if fits(sizes[store] + parts + 24):
            return (
                f"IVF{nlist},PQ{parts}x4fs,{refine}",
                f"lists of 4-bit product codes need {parts // 2} bytes beside each vector, kept as {store}, "
                "where a graph would not fit the memory",
            )
    if fits(sizes["int4"]):
        return f"IVF{nlist},SQ4,Refine(SQ4)", "vectors of 4 bits in lists are the smallest form there is"
    raise InputError(f"{n} vectors of {dim} do not fit {room} bytes even at 4 bits: {n * sizes['int4']} are needed")
