"""Floor 2: BM25, retrieval by the words that query and document share."""

from .bm25 import BM25, Explanation

__all__ = ["BM25", "Explanation"]
