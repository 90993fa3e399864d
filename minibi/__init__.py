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
    "Document": ".text.files",
    "BM25": ".lexical.bm25",
    "FlatIndex": ".index.flat",
    "HNSWIndex": ".index.hnsw",
    "IVFIndex": ".index.ivf",
    "IVFPQIndex": ".index.pq",
    "PQIndex": ".index.pq",
    "IVFRaBitQIndex": ".index.rabitq",
    "RaBitQIndex": ".index.rabitq",
    "BinaryIndex": ".index.binary",
    "MultiVectorIndex": ".index.multi_vector",
    "index_factory": ".index.factory",
    "recommend": ".index.factory",
    "load_index": ".index.inspect",
    "Collection": ".search.collection",
    "Hit": ".search.hits",
    "Hits": ".search.hits",
    "Pipeline": ".search.pipeline",
    "Dense": ".search.retrievers",
    "Late": ".search.retrievers",
    "Lexical": ".search.retrievers",
    "Windowed": ".search.windowed",
    "rerank": ".search.rerank",
    "convex": ".search.fusion",
    "reciprocal_rank": ".search.fusion",
    "semantic_search": ".search.tasks",
    "paraphrase_mining": ".search.tasks",
    "community_detection": ".search.tasks",
    "FormatError": ".errors",
    "InputError": ".errors",
    "MinibiError": ".errors",
    "ModelError": ".errors",
}

__all__ = [
    "BM25",
    "BiEncoder",
    "BinaryIndex",
    "Collection",
    "CrossEncoder",
    "Dense",
    "Document",
    "FlatIndex",
    "FormatError",
    "HNSWIndex",
    "Hit",
    "Hits",
    "IVFIndex",
    "IVFPQIndex",
    "IVFRaBitQIndex",
    "InputError",
    "Late",
    "LateInteraction",
    "Lexical",
    "MinibiError",
    "ModelError",
    "MultiVectorIndex",
    "PQIndex",
    "Pipeline",
    "RaBitQIndex",
    "Tokenizer",
    "Towers",
    "Windowed",
    "__version__",
    "community_detection",
    "convex",
    "index_factory",
    "load_index",
    "open_encoder",
    "paraphrase_mining",
    "reciprocal_rank",
    "recommend",
    "rerank",
    "semantic_search",
]

if TYPE_CHECKING:
    from .errors import FormatError, InputError, MinibiError, ModelError
    from .index.binary import BinaryIndex
    from .index.factory import index_factory, recommend
    from .index.flat import FlatIndex
    from .index.hnsw import HNSWIndex
    from .index.inspect import load_index
    from .index.ivf import IVFIndex
    from .index.multi_vector import MultiVectorIndex
    from .index.pq import IVFPQIndex, PQIndex
    from .index.rabitq import IVFRaBitQIndex, RaBitQIndex
    from .lexical.bm25 import BM25
    from .models.bi_encoder import BiEncoder
    from .models.cross_encoder import CrossEncoder
    from .models.late_interaction import LateInteraction
    from .models.towers import Towers, open_encoder
    from .search.collection import Collection
    from .search.fusion import convex, reciprocal_rank
    from .search.hits import Hit, Hits
    from .search.pipeline import Pipeline
    from .search.rerank import rerank
    from .search.retrievers import Dense, Late, Lexical
    from .search.tasks import community_detection, paraphrase_mining, semantic_search
    from .search.windowed import Windowed
    from .text.files import Document
    from .text.tokenizer import Tokenizer


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name], __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'minibi' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})
