"""The same text gives the same vector bit for bit: in any company, order and batch, on any threads and processor."""

from __future__ import annotations

import inspect
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


@pytest.fixture(scope="module", params=["float32", "int8"])
def compute(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def model(compute):
    return BiEncoder("all-MiniLM-L6-v2", compute=compute)


@pytest.fixture(scope="module")
def alone(model, texts):
    """The vector of each golden text from a call of its own, on one thread."""
    return np.stack([model.encode(text, truncation="silent", threads=1) for text in texts])


@pytest.fixture(scope="module")
def small(golden, compute):
    """With cls pooling, so that the last layer is computed for first tokens alone, then Dense and Normalize."""
    return BiEncoder(golden / "tiny-bert-new", compute=compute)


@pytest.fixture(scope="module")
def small_alone(small, tiny_texts):
    return np.stack([small.encode(text, truncation="silent", threads=1) for text in tiny_texts])


@pytest.fixture(scope="module", params=["tiny-cross-encoder", "tiny-cross-encoder-3"])
def reranker(golden, compute, request):
    return CrossEncoder(golden / request.param, compute=compute)


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


@settings(max_examples=20)
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
        assert states.dtype == np.float32 and np.array_equal(states, small.encode(tiny_texts[i], **options))


@pytest.mark.parametrize("mode", ["cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"])
def test_every_pooling(golden, tiny_texts, compute, mode, tmp_path):
    folder = shutil.copytree(golden / "tiny-bert", tmp_path / "model")
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": mode}))
    model = BiEncoder(folder, compute=compute)
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


def test_a_studied_text_has_the_vector_that_encode_gives(model, small, texts, tiny_texts):
    """One goes verb by verb, the other by a replayed program."""
    for one, some in ((model, [texts[i] for i in (0, 3, 60, 95)]), (small, tiny_texts[:6])):
        for text in some:
            assert np.array_equal(one.study(text).vector, one.encode(text, truncation="silent"))


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


def vectors_and_scores(golden, texts, small, pairs):
    """What two models and a cross-encoder say in float32 and by bytes, end to end. Its source runs elsewhere too."""
    found = []
    for compute in ("float32", "int8"):
        found.append(BiEncoder(compute=compute).encode(texts))
        found.append(BiEncoder(golden + "/tiny-bert-new", compute=compute).encode(small, truncation="silent"))
        found.append(CrossEncoder(golden + "/tiny-cross-encoder", compute=compute).predict(pairs, truncation="silent"))
    return np.concatenate([part.ravel() for part in found])


SCRIPT = f"""
import json, sys
import numpy as np
from minibi import BiEncoder, CrossEncoder
from minibi.kernels import target
{inspect.getsource(vectors_and_scores)}
expected, *given = json.load(sys.stdin)
assert [target.has_wide_registers(), target.has_byte_dot(), target.has_avx2()] == expected
vectors_and_scores(*given).tofile(sys.argv[1])
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
BY_DEFAULT = {"AVX2", "no AVX, no FMA"}


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="names processors of the x86 family")
@pytest.mark.parametrize("processor", PROCESSORS)
def test_the_same_bits_on_other_processors(processor, deep, tmp_path, golden, texts, tiny_texts, pairs):
    """In a process of its own that compiles for another processor, by other instructions for products of bytes."""
    import llvmlite.binding

    if processor not in BY_DEFAULT and not deep:
        pytest.skip("MINIBI_DEEP=1 runs this")
    name, features, numpy_off, expected, needed = PROCESSORS[processor]
    if not llvmlite.binding.get_host_cpu_features().get(needed):
        pytest.skip(f"this processor has no {needed}")
    few = [texts[i] for i in (0, 3, 60, 70, 95, 110, 120, 130, 150, 199) if len(texts[i]) < 600]
    env = environment(NUMBA_CPU_NAME=name, NUMBA_CPU_FEATURES=features, NPY_DISABLE_CPU_FEATURES=numpy_off,
                      MINIBI_CACHE=str(tmp_path), PYTHONWARNINGS="ignore")  # fmt: skip
    given = [str(golden), few, tiny_texts, pairs]
    command = [sys.executable, "-c", SCRIPT, tmp_path / "bits"]
    subprocess.run(command, input=json.dumps([expected, *given]), env=env, text=True, check=True)
    assert np.array_equal(np.fromfile(tmp_path / "bits", np.float32), vectors_and_scores(*given))
