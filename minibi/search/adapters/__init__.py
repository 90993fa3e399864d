"""minibi inside other frameworks: classes with the methods they call, and no import of any of them.

    LangChainEmbeddings, LangChainStore, LangChainRetriever
    LlamaIndexEmbedding, LlamaIndexRetriever
    HaystackTextEmbedder, HaystackDocumentEmbedder, HaystackRetriever
    MTEBEncoder

Most frameworks only call methods, and these have them. Where one insists on its own base class, inherit from both, ours
first: `class Embedding(LlamaIndexEmbedding, BaseEmbedding): pass`. Where it wants its own document class, pass that.

A retriever wraps any search: a Collection, a pipeline, or a function `search(query, k)` that returns hits.
"""

from .haystack import HaystackDocumentEmbedder, HaystackRetriever, HaystackTextEmbedder
from .langchain import LangChainEmbeddings, LangChainRetriever, LangChainStore
from .llama_index import LlamaIndexEmbedding, LlamaIndexRetriever
from .mteb import MTEBEncoder

__all__ = [
    "HaystackDocumentEmbedder",
    "HaystackRetriever",
    "HaystackTextEmbedder",
    "LangChainEmbeddings",
    "LangChainRetriever",
    "LangChainStore",
    "LlamaIndexEmbedding",
    "LlamaIndexRetriever",
    "MTEBEncoder",
]
