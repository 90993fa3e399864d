"""minibi: neural retrieval with bi-encoders, whole and legible, in NumPy and Numba.

    from minibi import BiEncoder, FlatIndex
    model = BiEncoder("all-MiniLM-L6-v2")
    index = FlatIndex(model.dim)
    index.add(model.encode(["The cat sat on the mat.", "Stocks fell sharply."]))
    scores, ids = index.search(model.encode("a feline on a rug"), k=1)

Public names load when first used (PEP 562): `import minibi` itself imports nothing heavy.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "BiEncoder": ".models.bi_encoder",
    "CrossEncoder": ".models.cross_encoder",
    "LateInteraction": ".models.late_interaction",
    "Tokenizer": ".text.tokenizer",
    "Towers": ".models.towers",
    "open_encoder": ".models.towers",
    "BM25": ".lexical.bm25",
    "FlatIndex": ".index.flat",
    "HNSWIndex": ".index.hnsw",
    "MultiVectorIndex": ".index.multi_vector",
    "Collection": ".search.collection",
    "Hit": ".search.hits",
    "MinibiError": ".errors",
}

__all__ = [
    "BM25",
    "BiEncoder",
    "Collection",
    "CrossEncoder",
    "FlatIndex",
    "HNSWIndex",
    "Hit",
    "LateInteraction",
    "MinibiError",
    "MultiVectorIndex",
    "Tokenizer",
    "Towers",
    "__version__",
    "open_encoder",
]

if TYPE_CHECKING:
    from .errors import MinibiError
    from .index.flat import FlatIndex
    from .index.hnsw import HNSWIndex
    from .index.multi_vector import MultiVectorIndex
    from .lexical.bm25 import BM25
    from .models.bi_encoder import BiEncoder
    from .models.cross_encoder import CrossEncoder
    from .models.late_interaction import LateInteraction
    from .models.towers import Towers, open_encoder
    from .search.collection import Collection
    from .search.hits import Hit
    from .text.tokenizer import Tokenizer


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name], __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'minibi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
