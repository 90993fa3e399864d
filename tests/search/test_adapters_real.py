"""Adapters inside the real frameworks, each where it is installed.

Last seen to pass with langchain-core 1.7.2, llama-index-core 0.14.25, haystack-ai 3.4.0 and mteb 2.26.24.
"""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from minibi.search.adapters import (
    HaystackDocumentEmbedder,
    HaystackRetriever,
    HaystackTextEmbedder,
    LangChainEmbeddings,
    LangChainRetriever,
    LangChainStore,
    LlamaIndexEmbedding,
    LlamaIndexRetriever,
    MTEBEncoder,
)
from minibi.search.hits import Hit

TEXTS = ["the quick brown fox", "hello, world!", "numbers and letters"]


def search(query, k):
    return [Hit(0.75, "T", f"about {query}", "f.txt", id=7), Hit(0.5, text="second", id="b")][:k]


def test_langchain(tiny_new):
    pytest.importorskip("langchain_core")
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.runnables import RunnableLambda
    from langchain_core.vectorstores import InMemoryVectorStore, VectorStore

    class OurEmbeddings(LangChainEmbeddings, Embeddings):
        pass

    class OurStore(LangChainStore, VectorStore):
        pass

    embeddings = OurEmbeddings(tiny_new)
    metadatas = [{"n": i} for i in range(3)]
    theirs = InMemoryVectorStore.from_texts(TEXTS, LangChainEmbeddings(tiny_new), metadatas, ids=list("xyz"))
    ours = OurStore.from_texts(TEXTS, embeddings, metadatas, ids=list("xyz"), document=Document)
    assert ours.similarity_search("hello", k=3) == theirs.similarity_search("hello", k=3)
    for (a, s), (b, t) in zip(
        ours.similarity_search_with_score("fox", k=2), theirs.similarity_search_with_score("fox", k=2), strict=True
    ):
        assert a == b and s == pytest.approx(t, abs=1e-6)
    assert ours.max_marginal_relevance_search("fox", k=2) == theirs.max_marginal_relevance_search("fox", k=2)
    retriever = ours.as_retriever(search_kwargs={"k": 1})
    assert retriever.invoke(TEXTS[1]) == [Document(page_content=TEXTS[1], metadata={"n": 1}, id="y")]
    assert asyncio.run(retriever.ainvoke(TEXTS[1]))[0].id == "y"
    ours.delete(["y"])
    ours.add_documents([Document(page_content="new", id="x")])
    assert {d.page_content for d in ours.similarity_search("anything", k=9)} == {"new", TEXTS[2]}
    made = OurStore.from_documents([Document(page_content=t) for t in TEXTS], embeddings, document=Document)
    assert made.similarity_search(TEXTS[0], k=1)[0].page_content == TEXTS[0]
    chain = RunnableLambda(lambda text: text) | LangChainRetriever(search, k=1, document=Document)
    assert chain.invoke("foxes")[0].page_content == "about foxes"


def test_llama_index(tiny_new):
    pytest.importorskip("llama_index.core")
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    from llama_index.core.vector_stores import SimpleVectorStore, VectorStoreQuery

    class OurEmbedding(LlamaIndexEmbedding, BaseEmbedding):
        pass

    class OurRetriever(LlamaIndexRetriever, BaseRetriever):
        pass

    embedding = OurEmbedding(tiny_new, embed_batch_size=2)
    found = np.array(embedding.get_text_embedding_batch(TEXTS))  # two at a time: other bits with plain kernels
    assert found == pytest.approx(tiny_new.encode_document(TEXTS), abs=1e-6)
    assert embedding.get_query_embedding("fox") == tiny_new.encode_query("fox").tolist()
    assert asyncio.run(embedding.aget_query_embedding("fox")) == embedding.get_query_embedding("fox")
    assert len(embedding.get_agg_embedding_from_queries(["a", "b"])) == tiny_new.dim
    nodes = embedding([TextNode(text=t, id_=str(i)) for i, t in enumerate(TEXTS)])
    store = SimpleVectorStore()
    store.add(nodes)
    query = VectorStoreQuery(query_embedding=embedding.get_query_embedding("fox"), similarity_top_k=1)
    best = (tiny_new.encode_query("fox") @ tiny_new.encode_document(TEXTS).T).argmax()
    assert store.query(query).ids == [str(best)]

    def node(text, score, metadata, id):
        return NodeWithScore(node=TextNode(text=text, metadata=metadata, id_=id), score=score)

    retriever = OurRetriever(search, k=2, node=node)
    for found in (retriever.retrieve("foxes"), retriever.retrieve(QueryBundle("foxes"))):
        assert [(n.score, n.get_content(), n.node_id) for n in found] == [
            (0.75, "about foxes", "7"),
            (0.5, "second", "b"),
        ]
    assert asyncio.run(retriever.aretrieve("foxes"))[0].metadata == {"title": "T", "source": "f.txt"}


def test_haystack(tiny_new):
    pytest.importorskip("haystack")
    from haystack import Document, Pipeline, component
    from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
    from haystack.components.writers import DocumentWriter
    from haystack.document_stores.in_memory import InMemoryDocumentStore

    store = InMemoryDocumentStore(embedding_similarity_function="cosine")
    indexing = Pipeline()
    indexing.add_component("embedder", HaystackDocumentEmbedder.bind(component, Document)(tiny_new))
    indexing.add_component("writer", DocumentWriter(store))
    indexing.connect("embedder.documents", "writer.documents")
    indexing.run({"embedder": {"documents": [Document(content=t) for t in TEXTS]}})
    assert store.count_documents() == 3

    asking = Pipeline()
    asking.add_component("embedder", HaystackTextEmbedder.bind(component)(tiny_new))
    asking.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=1))
    asking.connect("embedder.embedding", "retriever.query_embedding")
    (found,) = asking.run({"embedder": {"text": "fox"}})["retriever"]["documents"]
    vectors = tiny_new.encode_document(TEXTS)
    assert found.content == TEXTS[int(tiny_new.similarity(tiny_new.encode_query("fox"), vectors).argmax())]

    ours = Pipeline()
    ours.add_component("retriever", HaystackRetriever.bind(component, Document)(search, top_k=2))
    documents = ours.run({"retriever": {"query": "foxes"}})["retriever"]["documents"]
    assert [(type(d), d.content, d.score) for d in documents] == [
        (Document, "about foxes", 0.75),
        (Document, "second", 0.5),
    ]
    assert len(ours.run({"retriever": {"query": "foxes", "top_k": 1}})["retriever"]["documents"]) == 1


def test_mteb(tiny_new, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    pytest.importorskip("mteb")
    datasets = pytest.importorskip("datasets")
    import mteb
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.abstasks.sts import AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata
    from mteb.models.models_protocols import EncoderProtocol

    encoder = MTEBEncoder(tiny_new)
    assert isinstance(encoder, EncoderProtocol)
    common = {
        "dataset": {"path": "none", "revision": "1"}, "description": "made up", "modalities": ["text"],
        "category": "t2t", "eval_splits": ["test"], "eval_langs": ["eng-Latn"], "reference": None, "date": None,
        "domains": None, "task_subtypes": None, "license": None, "annotations_creators": None, "dialect": None,
        "sample_creation": None, "bibtex_citation": None,
    }  # fmt: skip

    class Pairs(AbsTaskSTS):
        metadata = TaskMetadata(name="Pairs", type="STS", main_score="cosine_spearman", **common)
        min_score, max_score = 0, 5

        def load_data(self, **_):
            a, b = [*TEXTS, "fox"], ["brown fox", "hello", "other things", "a quick fox"]
            rows = {"sentence1": a, "sentence2": b, "score": [4.0, 3.0, 1.0, 2.0]}
            self.dataset = datasets.DatasetDict({"test": datasets.Dataset.from_dict(rows)})
            self.data_loaded = True

    class Search(AbsTaskRetrieval):
        metadata = TaskMetadata(name="Search", type="Retrieval", main_score="ndcg_at_10", **common)

        def load_data(self, **_):
            corpus = datasets.Dataset.from_dict({"id": list("xyz"), "text": TEXTS, "title": [""] * 3})
            queries = datasets.Dataset.from_dict({"id": ["q1", "q2"], "text": ["fox", "letters"]})
            judged = {"q1": {"x": 1}, "q2": {"z": 1}}
            split = {"corpus": corpus, "queries": queries, "relevant_docs": judged, "top_ranked": None}
            self.dataset = {"default": {"test": split}}
            self.data_loaded = True

    from minibi.evaluate import ScoredPairs, evaluate, evaluate_sts

    results = mteb.evaluate(encoder, [Pairs(), Search()], cache=None, overwrite_strategy="always")
    pairs, retrieval = (r.scores["test"][0] for r in results.task_results)
    task = Pairs()
    task.load_data()
    rows = task.dataset["test"]
    ours = evaluate_sts(tiny_new, ScoredPairs(rows["sentence1"], rows["sentence2"], rows["score"]))
    assert pairs["cosine_spearman"] == pytest.approx(ours["spearman_cosine"], abs=1e-6)
    scores = tiny_new.similarity(tiny_new.encode_query(["fox", "letters"]), tiny_new.encode_document(TEXTS))
    run = {q: dict(zip("xyz", map(float, row), strict=True)) for q, row in zip(["q1", "q2"], scores, strict=True)}
    ours = evaluate({"q1": {"x": 1}, "q2": {"z": 1}}, run, ["ndcg@10"]).mean["ndcg@10"]
    assert retrieval["ndcg_at_10"] == pytest.approx(ours, abs=1e-5)
    assert np.isfinite(retrieval["main_score"])
