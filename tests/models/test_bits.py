"""The same text gives the same vector bit for bit: in any company, order and batch, on any threads and processor."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi import BiEncoder, CrossEncoder

pytestmark = pytest.mark.usefixtures("compiled")  # BLAS, and so the plain verbs, promise no bits


@pytest.fixture(scope="module")
def model(compiled):
    return BiEncoder("all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def alone(model, texts):
    """The vector of each golden text from a call of its own, on one thread."""
    return np.stack([model.encode(text, truncation="silent", threads=1) for text in texts])


@pytest.fixture(scope="module")
def small(golden, compiled):
    return BiEncoder(golden / "tiny-bert-new")


@pytest.fixture(scope="module")
def small_alone(small, tiny_texts):
    return np.stack([small.encode(text, truncation="silent", threads=1) for text in tiny_texts])


@pytest.fixture(scope="module")
def pairs(golden):
    return [tuple(pair) for pair in json.loads((golden / "cross_encoder.json").read_text())["pairs"]]


@pytest.fixture(scope="module", params=["tiny-cross-encoder", "tiny-cross-encoder-3"])
def reranker(golden, compiled, request):
    return CrossEncoder(golden / request.param)


@pytest.fixture(scope="module")
def pairs_alone(reranker, pairs):
    return np.stack([reranker.predict(pair, truncation="silent", threads=1) for pair in pairs])


WAYS = st.fixed_dictionaries(
    {
        "token_budget": st.sampled_from([1, 16, 64, 512, 5000]),
        "batch_size": st.none() | st.sampled_from([1, 2, 7]),
        "threads": st.sampled_from([1, 2, 4]),
    }
)


@settings(max_examples=25)
@given(st.lists(st.integers(0, 199), min_size=1, max_size=20), WAYS)
def test_golden_texts_in_any_company(model, texts, alone, which, ways):
    found = model.encode([texts[i] for i in which], truncation="silent", **ways)
    assert np.array_equal(found, alone[which])


def test_all_golden_texts_at_once(model, texts, alone):
    assert np.array_equal(model.encode(texts, truncation="silent"), alone)
    assert np.array_equal(model.encode(texts[::-1], truncation="silent", token_budget=4096)[::-1], alone)


@given(st.lists(st.integers(0, 23), min_size=1, max_size=60), WAYS)
def test_small_model_with_dense_tanh_and_normalize(small, tiny_texts, small_alone, which, ways):
    found = small.encode([tiny_texts[i] for i in which], truncation="silent", **ways)
    assert np.array_equal(found, small_alone[which])


@given(st.lists(st.integers(0, 35), min_size=1, max_size=60), WAYS)
def test_pairs_in_any_company(reranker, pairs, pairs_alone, which, ways):
    found = reranker.predict([pairs[i] for i in which], truncation="silent", **ways)
    assert np.array_equal(found, pairs_alone[which])


@given(st.lists(st.integers(0, 23), min_size=1, max_size=30), WAYS)
def test_token_states_in_any_company(small, tiny_texts, which, ways):
    options = {"output_value": "token_embeddings", "truncation": "silent"}
    found = small.encode([tiny_texts[i] for i in which], **options, **ways)
    for i, states in zip(which, found, strict=True):
        assert np.array_equal(states, small.encode(tiny_texts[i], **options))


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_every_pooling(golden, tiny_texts, mode, tmp_path):
    folder = shutil.copytree(golden / "tiny-bert", tmp_path / "model")
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
    model = BiEncoder(folder)
    together = model.encode(tiny_texts, truncation="silent", normalize_embeddings=True)
    for text, vector in zip(tiny_texts, together, strict=True):
        assert np.array_equal(model.encode(text, truncation="silent", normalize_embeddings=True), vector)


def test_four_python_threads_at_once(model, texts, alone, reranker, pairs, pairs_alone):
    """Encoders are shared by threads without a lock, each call itself working on two."""

    def work(seed):
        rng = np.random.default_rng(seed)
        which, chosen = rng.integers(0, 200, 30), rng.permutation(36)
        vectors = model.encode([texts[i] for i in which], truncation="silent", threads=2)
        scores = reranker.predict([pairs[i] for i in chosen], truncation="silent", threads=2)
        return np.array_equal(vectors, alone[which]) and np.array_equal(scores, pairs_alone[chosen])

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(work, range(6))) == [True] * 6


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")
def test_after_a_fork(golden):
    """A server that loads and tries its model before it forks: the child has no threads, and makes its own."""
    code = f"""
import os, signal, numpy as np
from minibi import BiEncoder
model = BiEncoder({str(golden / "tiny-bert")!r})
texts = ["first", "second", "third"]
before = model.encode(texts, threads=2, batch_size=1)
child = os.fork()
if child == 0:
    signal.alarm(30)
    same = np.array_equal(model.encode(texts, threads=2, batch_size=1), before)
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", code], env=environment(), check=True, stderr=subprocess.DEVNULL)


# --- other processors


def environment(**more):
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **more}


SCRIPT = """
import json, sys
import numpy as np
from minibi import BiEncoder, CrossEncoder
from minibi.kernels import target
golden, texts, small, pairs = json.load(sys.stdin)
minilm, tiny, cross = BiEncoder(), BiEncoder(golden + "/tiny-bert-new"), CrossEncoder(golden + "/tiny-cross-encoder")
assert not target.has_wide_registers()
parts = [minilm.encode(texts), tiny.encode(small, truncation="silent"), cross.predict(pairs, truncation="silent")]
np.concatenate([p.ravel() for p in parts]).tofile(sys.argv[1])
"""


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of the x86 family")
@pytest.mark.parametrize(
    ("name", "features", "numpy_off"),
    [
        ("haswell", "+avx,+avx2,+fma,+f16c,+bmi,+bmi2", "X86_V4 AVX512_ICL AVX512_SPR AVX512F AVX512_SKX"),
        ("nehalem", "", "X86_V3 X86_V4 AVX512_ICL AVX512_SPR AVX512F AVX512_SKX AVX2 FMA3"),
    ],
    ids=["AVX2", "no AVX, no FMA"],
)
def test_the_same_bits_on_other_processors(name, features, numpy_off, tmp_path, golden, texts, tiny_texts, pairs):
    """A process compiled for an older processor, NumPy's own dispatch included."""
    import llvmlite.binding

    if features and not llvmlite.binding.get_host_cpu_features().get("avx2"):
        pytest.skip("this processor has no AVX2")
    few = [texts[i] for i in (0, 3, 60, 70, 95, 110, 120, 130, 150, 199)]
    few = [text for text in few if len(text) < 600]
    env = environment(
        NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features, MINIBI_CACHE=str(tmp_path), PYTHONWARNINGS="ignore"
    )
    env["NPY_DISABLE_CPU_FEATURES"] = numpy_off
    subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path / "bits"],
        input=json.dumps([str(golden), few, tiny_texts, pairs]),
        env=env,
        text=True,
        check=True,
    )
    here = [
        BiEncoder().encode(few),
        BiEncoder(golden / "tiny-bert-new").encode(tiny_texts, truncation="silent"),
        CrossEncoder(golden / "tiny-cross-encoder").predict(pairs, truncation="silent"),
    ]
    there = np.fromfile(tmp_path / "bits", np.float32)
    assert np.array_equal(there, np.concatenate([a.ravel() for a in here]))
