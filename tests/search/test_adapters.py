"""Adapters by their methods alone: what frameworks call, without any of them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minibi.errors import InputError
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

HITS = [Hit(0.75, "T", "first", "f.txt", "k", 3, 8, 2, id=7), Hit(0.5, text="second", id="b")]


def search(query, k):
    assert query == "q"
    return HITS[:k]


class Encoder:
    encode_query = encode_document = None


class Letters:
    """An embedding of the letters a, b and c: how often each occurs."""

    def embed_documents(self, texts):
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text):
        return [float(text.count(letter)) for letter in "abc"]


# --- LangChain --------------------------------------------------------------------------------------------------------


def test_langchain_embeddings(tiny_new, tiny_texts):
    embeddings = LangChainEmbeddings(tiny_new, truncation="silent")
    texts = tiny_texts[5:8]
    assert embeddings.embed_documents(texts) == tiny_new.encode_document(texts).tolist()
    assert embeddings.embed_query(texts[0]) == tiny_new.encode_query(texts[0]).tolist()
    assert embeddings.embed_query(texts[0]) != embeddings.embed_documents(texts[:1])[0], "prompts differ"
    assert asyncio.run(embeddings.aembed_documents(texts)) == embeddings.embed_documents(texts)
    assert asyncio.run(embeddings.aembed_query("x")) == embeddings.embed_query("x")
    assert type(embeddings.embed_query("x")[0]) is float and embeddings.embed_documents([]) == []


def test_a_store():
    store = LangChainStore.from_texts(
        ["aaa", "ab", "ccc"], Letters(), [{"n": i} for i in range(3)], ids=["x", "y", "z"]
    )
    found = store.similarity_search_with_score("a", k=2)
    assert [(d.id, d.page_content, d.metadata, round(s, 4)) for d, s in found] == [
        ("x", "aaa", {"n": 0}, 1.0),
        ("y", "ab", {"n": 1}, 0.7071),
    ]
    assert [d.id for d in store.similarity_search("c", k=1)] == ["z"]
    assert [d.id for d in store.similarity_search("a", k=3, filter=lambda d: d.metadata["n"] > 0)] == ["y", "z"]
    assert [d.id for d in store.similarity_search_by_vector([0, 0, 1], k=1)] == ["z"]
    assert store.add_texts(["b"], ids=["x"]) == ["x"] and len(store) == 3, "replaced"
    assert [d.page_content for d in store.similarity_search("b", k=2)] == ["b", "ab"]
    assert store.delete(["y", "unknown"]) is True
    assert [d.id for d in store.similarity_search("b", k=9)] == ["x", "z"]
    assert [d.page_content for d in store.get_by_ids(["z", "y"])] == ["ccc"]
    store.delete()
    assert len(store) == 0 and store.similarity_search("a") == [] == store.max_marginal_relevance_search("a")
    (new,) = store.add_documents([SimpleNamespace(page_content="a", metadata={}, id=None)])
    assert store.similarity_search("a")[0].id == new and len(new) == 32
    copied = store.similarity_search("a")[0]
    copied.metadata["changed"] = True
    assert store.get_by_ids([new])[0].metadata == {}


def test_relevance_thresholds_and_diversity():
    store = LangChainStore.from_documents(
        [SimpleNamespace(page_content=t, metadata={}, id=t) for t in ("aaa", "aa", "ab", "c")], Letters()
    )
    found = store.similarity_search_with_relevance_scores("a", k=4, score_threshold=0.7)
    assert [d.id for d, _ in found] == ["aaa", "aa", "ab"] and all(0 <= s <= 1 for _, s in found)
    assert [d.id for d in store.max_marginal_relevance_search("aab", k=2, lambda_mult=1.0)] == ["ab", "aaa"]
    assert [d.id for d in store.max_marginal_relevance_search("aab", k=3, lambda_mult=0.2)] == ["ab", "c", "aaa"]
    assert [d.id for d in store.as_retriever(search_kwargs={"k": 2}).invoke("a")] == ["aaa", "aa"]
    assert [d.id for d in store.as_retriever(search_type="mmr", search_kwargs={"k": 1}).invoke("c")] == ["c"]
    strict = store.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.9})
    assert [d.id for d in strict("a")] == ["aaa", "aa"]
    assert asyncio.run(store.asimilarity_search("c", 1))[0].id == "c"
    asyncio.run(store.aadd_texts(["b"], ids=["b"]))
    asyncio.run(store.adelete(["c"]))
    assert sorted(d.id for d in store.similarity_search("b", k=9)) == ["aa", "aaa", "ab", "b"]


changes = st.lists(
    st.tuples(st.sampled_from("uvwxyz"), st.text("abc", min_size=1, max_size=4) | st.none()), min_size=1, max_size=30
)


@given(changes, st.text("abc", min_size=1, max_size=3), st.integers(1, 8))
def test_a_store_is_a_dictionary_that_can_be_searched(changes, query, k):
    store, truth = LangChainStore(Letters()), {}
    for key, text in changes:
        if text is None:
            store.delete([key])
            truth.pop(key, None)
        else:
            store.add_texts([text], ids=[key])
            truth[key] = text
    cosines = {}
    for key, text in truth.items():
        a, b = np.array(Letters().embed_query(text)), np.array(Letters().embed_query(query))
        cosines[key] = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    found = store.similarity_search_with_score(query, k)
    assert {d.id: d.page_content for d, _ in found}.items() <= truth.items()
    assert [s for _, s in found] == pytest.approx(sorted(cosines.values(), reverse=True)[:k], abs=1e-6)
    assert all(s == pytest.approx(cosines[d.id], abs=1e-6) for d, s in found)


def test_dead_rows_are_cleared_away():
    store = LangChainStore(Letters())
    for _ in range(12):
        store.add_texts(["a", "b", "c"] * 40, ids=[str(i) for i in range(120)])
    assert len(store) == 120 and len(store._index) <= 1240 + 120
    assert store.similarity_search("b", k=1)[0].page_content == "b"
    assert len(store.similarity_search("b", k=500)) == 120


def test_a_langchain_retriever():
    retriever = LangChainRetriever(SimpleNamespace(search=search), k=2)
    first, second = retriever.invoke("q")
    assert (first.page_content, first.id) == ("first", "7")
    assert first.metadata == {
        "title": "T", "source": "f.txt", "key": "k", "start": 3, "end": 8, "line": 2, "score": 0.75
    }  # fmt: skip
    assert second.metadata == {"score": 0.5}
    assert len(retriever.invoke("q", k=1)) == 1 and len(retriever("q")) == 2
    assert len(asyncio.run(retriever.ainvoke("q"))) == 2 and len(retriever.batch(["q", "q"])) == 2


def test_a_collection_and_an_index_are_searches(tmp_path, tiny, tiny_texts):
    from minibi import Collection, FlatIndex
    from minibi.text.files import Document

    with Collection.create(tmp_path / "c", tiny) as collection:
        collection.sync("notes", [Document(key=str(i), title="", text=t) for i, t in enumerate(tiny_texts[5:8])])
        (found,) = LangChainRetriever(collection, k=1).invoke(tiny_texts[6])
        assert found.page_content == tiny_texts[6] and found.metadata["source"] == "notes"
    index = FlatIndex(tiny.dim)
    index.add(tiny.encode(tiny_texts[5:8]))
    (found,) = LlamaIndexRetriever(lambda q, k: index.search(tiny.encode(q), k), k=1).retrieve(tiny_texts[6])
    assert found.node_id == "1"


# --- LlamaIndex -------------------------------------------------------------------------------------------------------


def test_llama_index(tiny_new, tiny_texts):
    embedding = LlamaIndexEmbedding(tiny_new)
    texts = tiny_texts[5:8]
    assert embedding.get_query_embedding(texts[0]) == tiny_new.encode_query(texts[0]).tolist()
    assert embedding.get_text_embedding(texts[0]) == tiny_new.encode_document(texts[0]).tolist()
    assert embedding.get_text_embedding_batch(texts, show_progress=False) == tiny_new.encode_document(texts).tolist()
    assert asyncio.run(embedding.aget_query_embedding("x")) == embedding.get_query_embedding("x")
    assert asyncio.run(embedding.aget_text_embedding("x")) == embedding.get_text_embedding("x")
    retriever = LlamaIndexRetriever(search, k=2)
    for query in ("q", SimpleNamespace(query_str="q")):
        nodes = retriever.retrieve(query)
        assert [(n.score, n.node.get_content(), n.node_id) for n in nodes] == [
            (0.75, "first", "7"),
            (0.5, "second", "b"),
        ]
    assert nodes[0].metadata["line"] == 2
    assert len(asyncio.run(retriever.aretrieve("q"))) == 2


# --- Haystack ---------------------------------------------------------------------------------------------------------


def test_haystack(tiny_new, tiny_texts):
    text = tiny_texts[5]
    embedder = HaystackTextEmbedder(tiny_new)
    embedder.warm_up()
    assert embedder.run(text=text) == {"embedding": tiny_new.encode_query(text).tolist()}
    documents = [SimpleNamespace(content=text, meta={"t": "one"}, embedding=None) for _ in range(2)]
    found = HaystackDocumentEmbedder(tiny_new).run(documents=documents)["documents"]
    assert (
        found[0].embedding == pytest.approx(tiny_new.encode_document(text).tolist(), abs=1e-5)
        and documents[0].embedding is None
    )
    found = HaystackDocumentEmbedder(tiny_new, ["t", "none"]).run(documents=documents)["documents"]
    assert found[1].embedding == pytest.approx(tiny_new.encode_document(f"one\n{text}").tolist(), abs=1e-5)
    assert HaystackDocumentEmbedder(tiny_new).run(documents=[]) == {"documents": []}
    (found,) = HaystackRetriever(search).run(query="q", top_k=1)["documents"]
    assert (found.content, found.score, found.id, found.meta["source"]) == ("first", 0.75, "7", "f.txt")


# --- MTEB -------------------------------------------------------------------------------------------------------------


def test_mteb(tiny_new, tiny_texts):
    encoder, texts = MTEBEncoder(tiny_new), tiny_texts[5:9]
    batches = [{"text": texts[:3], "title": ["", "", ""]}, {"text": texts[3:]}]
    options = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "batch_size": 2, "task_name": "x"}
    query, document = SimpleNamespace(value="query"), SimpleNamespace(value="document")

    def same(a, b):
        return np.abs(a - b).max() < 1e-5  # of the plain kernels, whose BLAS heeds the batch, no more can be asked

    assert same(encoder.encode(batches, prompt_type=query, **options), tiny_new.encode_query(texts))
    assert same(encoder.encode(batches, prompt_type=document, **options), tiny_new.encode_document(texts))
    assert same(encoder.encode(texts, prompt_type="passage"), tiny_new.encode_document(texts))
    vectors = encoder.encode(iter(texts))
    assert same(vectors, tiny_new.encode(texts))
    assert (encoder.similarity(vectors, vectors[:2]) == tiny_new.similarity(vectors, vectors[:2])).all()
    assert encoder.similarity_pairwise(vectors, vectors[::-1]) == pytest.approx(
        np.diag(tiny_new.similarity(vectors, vectors[::-1])), abs=1e-6
    )
    assert encoder.mteb_model_meta.name == "minibi/tiny-bert-new"
    assert MTEBEncoder(tiny_new, meta="mine").mteb_model_meta == "mine"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: LangChainStore(Letters()).add_texts(["a"], [{}, {}]), "1 texts need as many metadatas"),
        (lambda: LangChainStore(Letters()).add_texts(["a", "b"], ids=["x", "x"]), "given twice"),
        (lambda: LangChainStore.from_texts(["a"], Letters()).similarity_search("a", k=0), "k must be"),
        (lambda: LangChainStore(Letters()).as_retriever(search_type="best"), "search_type 'best'"),
        (lambda: LangChainRetriever("collection"), "expected a collection"),
        (lambda: LlamaIndexRetriever(search, k=0), "k must be"),
        (lambda: HaystackRetriever(search).run("q", top_k=-1), "top_k must be"),
        (lambda: MTEBEncoder(Letters).encode("text"), "expected an encoder"),
        (lambda: MTEBEncoder(Encoder).encode("text"), "not one string"),
        (lambda: MTEBEncoder(Encoder).encode([{"image": []}]), "other modalities"),
        (lambda: LangChainStore(None), "expected an encoder, such as a BiEncoder, not None"),
        (lambda: LangChainEmbeddings("all-MiniLM-L6-v2"), "expected an encoder"),
        (lambda: LlamaIndexEmbedding(3), "expected an encoder"),
        (lambda: HaystackTextEmbedder(None), "expected an encoder"),
        (lambda: HaystackDocumentEmbedder(None), "expected an encoder"),
    ],
)
def test_complaints(call, says):
    with pytest.raises(InputError, match=says):
        call()
