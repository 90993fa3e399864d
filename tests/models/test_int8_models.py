"""compute="int8": the same bits everywhere, on every processor; close to float32; the same model on plain kernels."""

from __future__ import annotations

import gzip
import inspect
import json
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from minibi import BiEncoder, CrossEncoder
from minibi.errors import InputError, ModelError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def model(compiled):
    return BiEncoder(compute="int8")


@pytest.fixture(scope="module")
def exact(compiled):
    """The same model in float32."""
    return BiEncoder()


@pytest.fixture(scope="module")
def alone(model, texts):
    return np.stack([model.encode(text, truncation="silent", threads=1) for text in texts])


@pytest.fixture(scope="module")
def small(golden, compiled):
    """With cls pooling, so that the last layer is computed for first tokens alone, then Dense and Normalize."""
    return BiEncoder(golden / "tiny-bert-new", compute="int8")


@pytest.fixture(scope="module")
def small_alone(small, tiny_texts):
    return np.stack([small.encode(text, truncation="silent", threads=1) for text in tiny_texts])


@pytest.fixture(scope="module")
def pairs(golden):
    return [tuple(pair) for pair in json.loads((golden / "cross_encoder.json").read_text())["pairs"]]


@pytest.fixture(scope="module", params=["tiny-cross-encoder", "tiny-cross-encoder-3"])
def reranker(golden, compiled, request):
    return CrossEncoder(golden / request.param, compute="int8")


@pytest.fixture(scope="module")
def pairs_alone(reranker, pairs):
    return np.stack([reranker.predict(pair, truncation="silent", threads=1) for pair in pairs])


# --- the same bits


WAYS = st.fixed_dictionaries(
    {
        "token_budget": st.sampled_from([1, 16, 64, 512, 5000]),
        "batch_size": st.none() | st.sampled_from([1, 2, 7]),
        "threads": st.sampled_from([1, 2, 4]),
    }
)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 199), min_size=1, max_size=20), WAYS)
def test_golden_texts_in_any_company(model, texts, alone, which, ways):
    found = model.encode([texts[i] for i in which], truncation="silent", **ways)
    assert np.array_equal(found, alone[which])


def test_all_golden_texts_at_once(model, texts, alone):
    assert np.array_equal(model.encode(texts, truncation="silent"), alone)
    assert np.array_equal(model.encode(texts[::-1], truncation="silent", token_budget=4096)[::-1], alone)


@given(st.lists(st.integers(0, 23), min_size=1, max_size=60), WAYS)
def test_small_model_in_any_company(small, tiny_texts, small_alone, which, ways):
    found = small.encode([tiny_texts[i] for i in which], truncation="silent", **ways)
    assert np.array_equal(found, small_alone[which])


@given(st.lists(st.integers(0, 35), min_size=1, max_size=60), WAYS)
def test_pairs_in_any_company(reranker, pairs, pairs_alone, which, ways):
    found = reranker.predict([pairs[i] for i in which], truncation="silent", **ways)
    assert np.array_equal(found, pairs_alone[which])


def test_token_states_in_any_company(small, tiny_texts):
    options = {"output_value": "token_embeddings", "truncation": "silent"}
    for text, states in zip(tiny_texts, small.encode(tiny_texts, **options), strict=True):
        assert states.dtype == np.float32 and np.array_equal(states, small.encode(text, **options))


def test_four_python_threads_at_once(model, texts, alone, reranker, pairs, pairs_alone):
    def work(seed):
        rng = np.random.default_rng(seed)
        which, chosen = rng.integers(0, 200, 30), rng.permutation(36)
        vectors = model.encode([texts[i] for i in which], truncation="silent", threads=2)
        scores = reranker.predict([pairs[i] for i in chosen], truncation="silent", threads=2)
        return np.array_equal(vectors, alone[which]) and np.array_equal(scores, pairs_alone[chosen])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(6))) == [True] * 6


def test_a_studied_text_has_the_vector_that_encode_gives(model, small, texts, tiny_texts):
    """One goes verb by verb, the other by a replayed program."""
    for one, some in ((model, [texts[i] for i in (0, 3, 60, 95)]), (small, tiny_texts[:6])):
        for text in some:
            assert np.array_equal(one.study(text).vector, one.encode(text, truncation="silent"))


def test_awkward_texts(model):
    awkward = ["", " ", "\0", "\ud83d", "x" * 100_000, "[CLS] [SEP]", "字" * 3000]
    vectors = model.encode(awkward, truncation="silent")
    assert np.isfinite(vectors).all() and np.array_equal(vectors[:4], vectors[[0, 0, 0, 0]])
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-6)
    assert model.encode([]).shape == (0, 384)


# --- other processors


SCRIPT = """
import json, sys
import numpy as np
from minibi import BiEncoder, CrossEncoder
from minibi.kernels import target
golden, expected, texts, small, pairs = json.load(sys.stdin)
assert [target.has_wide_registers(), target.has_byte_dot(), target.has_avx2()] == expected
minilm, tiny = BiEncoder(compute="int8"), BiEncoder(golden + "/tiny-bert-new", compute="int8")
cross = CrossEncoder(golden + "/tiny-cross-encoder", compute="int8")
parts = [minilm.encode(texts), tiny.encode(small, truncation="silent"), cross.predict(pairs, truncation="silent")]
np.concatenate([p.ravel() for p in parts]).tofile(sys.argv[1])
"""
NO_AVX512 = "X86_V4 AVX512_ICL AVX512_SPR AVX512F AVX512_SKX"
HIDDEN = "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,-avx512f,-avx512bw,-avx512vl,-avx512dq,-avx512vnni"
PROCESSORS = {  # name, features, what NumPy is kept from, [wide registers, byte dot, AVX2], what the machine needs
    "AVX2": ("haswell", "", NO_AVX512, [False, False, True], "avx2"),
    "AVX-512 without VNNI": ("skylake-avx512", "", "", [True, False, True], "avx512bw"),
    "AVX-512 hidden by a hypervisor": ("icelake-server", HIDDEN, NO_AVX512, [False, False, True], "avx512f"),
    "no AVX, no FMA": ("nehalem", "", f"X86_V3 {NO_AVX512} AVX2 FMA3", [False, False, False], "sse4.2"),
    "any x86-64": ("generic", "", "", [False, False, False], "sse2"),
}
BY_DEFAULT = {"AVX2"}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of the x86 family")
@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_same_bits_on_other_processors(processor, deep, tmp_path, golden, texts, tiny_texts, pairs, compiled):
    """In a process of its own that compiles for another processor, by other instructions for products of bytes."""
    import llvmlite.binding

    if processor not in BY_DEFAULT and not deep:
        pytest.skip("MINIBI_DEEP=1 runs this")
    name, features, numpy_off, expected, needed = PROCESSORS[processor]
    if not llvmlite.binding.get_host_cpu_features().get(needed):
        pytest.skip(f"this processor has no {needed}")
    few = [texts[i] for i in (0, 3, 60, 70, 95, 110, 120, 130, 150, 199) if len(texts[i]) < 600]
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "NUMBA_CPU_NAME": name,
        "NUMBA_CPU_FEATURES": features,
        "NPY_DISABLE_CPU_FEATURES": numpy_off,
        "MINIBI_CACHE": str(tmp_path),
        "PYTHONWARNINGS": "ignore",
    }
    subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "bits"],
        input=json.dumps([str(golden), expected, few, tiny_texts, pairs]),
        env=env,
        text=True,
        check=True,
    )
    here = [
        BiEncoder(compute="int8").encode(few),
        BiEncoder(golden / "tiny-bert-new", compute="int8").encode(tiny_texts, truncation="silent"),
        CrossEncoder(golden / "tiny-cross-encoder", compute="int8").predict(pairs, truncation="silent"),
    ]
    there = np.fromfile(tmp_path / "bits", np.float32)
    assert np.array_equal(there, np.concatenate([a.ravel() for a in here]))


# --- accuracy


def real_texts() -> list[str]:
    """Questions and abstracts of SciFact where they are at hand, else documentation of the standard library."""
    folder = ROOT / "benchmarks" / "data" / "scifact"
    if folder.is_dir():
        lines = (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines()
        queries = [json.loads(line)["text"] for line in lines[:240]]
        with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
            return queries + [json.loads(next(file))["text"] for _ in range(60)]
    names = "argparse asyncio collections csv dataclasses decimal email.message functools inspect itertools json"
    names += " logging os pathlib random re shutil socket statistics string subprocess threading typing unittest"
    things = [thing for name in names.split() for _, thing in sorted(vars(import_module(name)).items())]
    found = dict.fromkeys(inspect.getdoc(thing) or "" for thing in things if callable(thing))
    return [text for text in found if len(text) > 60][:300]


def cosine_errors(a, b):
    a, b = a.astype(np.float64), b.astype(np.float64)
    return 1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


@pytest.fixture(scope="module")
def real_vectors(exact, model):
    """Of the same 300 texts, in float32 and by bytes."""
    texts = real_texts()
    assert len(texts) == 300
    return exact.encode(texts, truncation="silent"), model.encode(texts, truncation="silent")


def test_vectors_are_close_to_float32(real_vectors):
    error = cosine_errors(*real_vectors)
    assert 1e-5 < error.mean() <= 0.8e-3, "bytes were used, and used well"
    assert error.max() <= 2e-3


def test_nearest_neighbours_stay(real_vectors):
    """The nearest of sixty texts to each of 240, unless float32 itself sees two side by side."""
    near = [vectors[:240] @ vectors[240:].T for vectors in real_vectors]
    order = np.sort(near[0], axis=1)
    clear = order[:, -1] - order[:, -2] > 0.05
    assert clear.sum() > 40
    assert np.array_equal(near[0].argmax(1)[clear], near[1].argmax(1)[clear])


@pytest.mark.parametrize("name", ["tiny-cross-encoder", "tiny-cross-encoder-3"])
def test_pairs_are_scored_alike_and_clear_differences_keep_their_order(load, golden, pairs, name):
    scores = load(CrossEncoder, golden / name).predict(pairs, truncation="silent").astype(np.float64)
    bytewise = load(CrossEncoder, golden / name, compute="int8").predict(pairs, truncation="silent")
    assert bytewise.dtype == np.float32
    error = np.abs(scores - bytewise).max()
    assert 1e-4 < error < 0.12 * scores.std()
    column, other = (s.reshape(len(pairs), -1)[:, 0] for s in (scores, bytewise))
    clear = column[:, None] - column > 0.25 * column.std()
    assert clear.sum() > 100 and ((other[:, None] - other)[clear] > 0).all()


@pytest.mark.parametrize("name", ["tiny-bert", "tiny-bert-new"])
def test_small_models_are_close_to_float32(load, golden, tiny_texts, name):
    a, b = (
        load(BiEncoder, golden / name, compute=compute).encode(tiny_texts, truncation="silent")
        for compute in ("float32", "int8")
    )
    assert 1e-6 < cosine_errors(a, b).max() < 5e-4


# --- plain kernels


@pytest.fixture
def plain_minilm():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIBI_KERNELS", "plain")
        return BiEncoder(compute="int8")


def test_plain_kernels_agree(model, exact, plain_minilm, texts):
    """As closely as bytes allow: where two roundings decide a near tie differently, later layers magnify the step.

    (A relative noise of 2e-7 on the embeddings moves the vectors of the plain verbs themselves by as much.)
    """
    for i in (0, 3, 60):
        a, b, c = (m.study(texts[i]) for m in (plain_minilm, model, exact))
        assert a.vector.dtype == np.float32 and all(h.dtype == np.float32 for h in a.states)
        off, cost = np.abs(a.states[1] - b.states[1]).mean(), np.abs(b.states[1] - c.states[1]).mean()
        assert off < cost / 10, "after one layer they are one, compared with what bytes cost"
        assert cosine_errors(a.vector[None], b.vector[None])[0] < 4e-3


def test_small_models_agree_on_plain_kernels(golden, tiny_texts, pairs, compiled, monkeypatch):
    def results():
        yield BiEncoder(golden / "tiny-bert", compute="int8").encode(tiny_texts, truncation="silent")
        yield BiEncoder(golden / "tiny-bert-new", compute="int8").encode(tiny_texts, truncation="silent")
        yield CrossEncoder(golden / "tiny-cross-encoder", compute="int8").predict(pairs, truncation="silent")[:, None]

    fast = list(results())
    monkeypatch.setenv("MINIBI_KERNELS", "plain")
    for a, b in zip(fast, results(), strict=True):
        assert np.abs(a - b).max() < 0.02 * np.abs(a).max() and np.abs(a - b).mean() < 2e-3 * np.abs(a).max()


# --- arguments


@pytest.mark.parametrize("compute", ["int4", "float16", None, 8])
def test_other_ways_to_compute_are_refused(load, golden, compute):
    for kind, name in ((BiEncoder, "tiny-bert"), (CrossEncoder, "tiny-cross-encoder")):
        with pytest.raises(InputError, match="compute is 'float32' or 'int8', not"):
            load(kind, golden / name, compute=compute)


def test_models_say_how_they_compute(load, golden):
    assert load(BiEncoder, golden / "tiny-bert").compute == "float32"
    assert load(BiEncoder, golden / "tiny-bert", compute="int8").compute == "int8"
    assert load(CrossEncoder, golden / "tiny-cross-encoder", compute="int8").compute == "int8"


def test_a_pair_of_types_the_model_lacks_is_refused(load, golden, tmp_path):
    """A kernel would read beyond the table of types."""
    folder = shutil.copytree(golden / "tiny-cross-encoder", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in tensors if "token_type" in name)
    save_file(tensors | {name: tensors[name][:1].copy()}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"type_vocab_size": 1}))
    with pytest.raises(ModelError, match="the tokenizer gives pairs 2 types, the model has 1"):
        load(CrossEncoder, folder)
