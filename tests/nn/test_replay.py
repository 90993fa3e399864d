"""Replayed programs are the verbs they recorded, bit for bit, whatever memory they run in and whoever else runs."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minibi.models import bert
from minibi.store.tensors import read_weights
from minibi.text.batches import pack

pytestmark = pytest.mark.usefixtures("compiled")

ACTIVATIONS = ["gelu", "gelu_new", "relu"]
WAYS = [("float32", "float32"), ("float16", "float32"), ("float16", "int8"), ("float32", "int8")]  # stored, compute


@pytest.fixture(scope="module")
def fused(compiled):
    from minibi.nn import fused

    return fused


class Model:
    """A BERT in both forms: called verb by verb, and as programs."""

    def __init__(self, tensors, config, stored, compute, ops):
        self.ops, self.config = ops, config
        tensors = {name: tensor.astype(stored) for name, tensor in tensors.items() if tensor.dtype.kind == "f"}
        self.params = bert.read_params(tensors, config, ops, "test", compute)
        self.programs = {first_only: self.program(first_only) for first_only in (False, True)}

    def program(self, first_only=False):
        from minibi.nn.replay import Program, Recorder

        recorder = Recorder()
        result = bert.layers(recorder, self.params, self.config, None, None, None, None, None, first_only)
        heads = (self.config.heads, self.config.channels // self.config.heads)
        return Program(recorder, result, heads, worth_sharing=0)

    def eager(self, batch, first_only=False):
        inputs = (batch.ids, batch.types, batch.positions(), batch.starts)
        return bert.layers(self.ops, self.params, self.config, *inputs, None, first_only)

    def replayed(self, batch, first_only=False):
        return self.programs[first_only].run(batch.ids, batch.types, batch.starts)

    def batch(self, lengths, seed=0):
        rng = np.random.default_rng(seed)
        ids = [rng.integers(0, self.config.vocabulary, n) for n in lengths]
        return pack(ids, [rng.integers(0, self.config.types, n) for n in lengths])


@pytest.fixture(scope="module")
def tiny_bert(golden):
    """(tensors, config): width 36 in heads of 12, so that no row ends where a vector does."""
    folder = golden / "tiny-bert"
    return bert.canonical(read_weights(folder)), bert.BertConfig.read(folder)


@pytest.fixture(scope="module", params=WAYS, ids=[" ".join(way) for way in WAYS])
def way(request):
    return request.param


@pytest.fixture(scope="module", params=ACTIVATIONS)
def model(request, way, tiny_bert, fused):
    tensors, config = tiny_bert
    return Model(tensors, replace(config, activation=request.param), *way, fused)


@pytest.fixture(scope="module")
def int8_model(tiny_bert, fused):
    return Model(*tiny_bert, "float16", "int8", fused)


@pytest.fixture(scope="module", params=["float32", "int8"])
def minilm(request, fused):
    from minibi import BiEncoder

    folder = BiEncoder().folder
    return Model(bert.canonical(read_weights(folder)), bert.BertConfig.read(folder), "float16", request.param, fused)


LENGTHS = st.lists(st.integers(1, 64), min_size=1, max_size=8) | st.lists(st.just(1), min_size=1, max_size=70)


def check(model, batch):
    h = model.eager(batch)
    found = model.replayed(batch)
    assert found.dtype == np.float32 and found.flags.c_contiguous and np.array_equal(found, h)
    first = model.replayed(batch, first_only=True)
    assert first.dtype == np.float32 and first.flags.c_contiguous and np.array_equal(first, h[batch.starts[:-1]])
    assert np.array_equal(first, model.eager(batch, first_only=True))
    shared = batch if len(batch) == 1 else pack([batch.ids[: batch.starts[1]]], [batch.types[: batch.starts[1]]])
    for threads in (2, 3):  # of which a single text makes use
        found = model.programs[False].run(shared.ids, shared.types, shared.starts, threads)
        assert found.flags.c_contiguous and np.array_equal(found, h[: len(shared.ids)])
        found = model.programs[True].run(shared.ids, shared.types, shared.starts, threads)
        assert np.array_equal(found, h[:1])


@settings(max_examples=15)
@given(lengths=LENGTHS, seed=st.integers(0, 1000))
def test_replayed_is_eager(model, lengths, seed):
    """Large and small batches in any sequence: memory grows, and is larger than needed afterwards."""
    check(model, model.batch(lengths, seed))


def test_replayed_is_eager_where_float16_is_widened_ahead_and_in_registers(minilm):
    for lengths in ([1], [5], [24], [25], [3, 4], [100, 30, 7]):
        check(minilm, minilm.batch(lengths))


@pytest.mark.parametrize(
    ("channels", "heads", "feed_forward"), [(1, 1, 1), (5, 5, 3), (16, 1, 16), (70, 2, 33), (96, 3, 130)]
)
@pytest.mark.parametrize("compute", ["float32", "int8"])
def test_any_width(fused, channels, heads, feed_forward, compute):
    config = bert.BertConfig(
        layers=2, channels=channels, heads=heads, feed_forward=feed_forward, vocabulary=11, positions=40, types=3,
        eps=1e-6, activation="gelu",
    )  # fmt: skip
    model = Model(random_weights(config), config, "float32", compute, fused)
    for lengths in ([1], [40, 1, 2, 17], [6] * 9):
        check(model, model.batch(lengths))


def random_weights(config, seed=7):
    rng = np.random.default_rng(seed)
    c, f = config.channels, config.feed_forward
    shapes = {f"embeddings.{kind}_embeddings.weight": (size, c) for kind, size in (
        ("word", config.vocabulary), ("position", config.positions), ("token_type", config.types))}  # fmt: skip
    norms = ["embeddings.LayerNorm"]
    for i in range(config.layers):
        p = f"encoder.layer.{i}."
        linears = [(f"attention.self.{n}", (c, c)) for n in ("query", "key", "value")]
        linears += [("attention.output.dense", (c, c)), ("intermediate.dense", (f, c)), ("output.dense", (c, f))]
        for name, shape in linears:
            shapes[f"{p}{name}.weight"], shapes[f"{p}{name}.bias"] = shape, shape[:1]
        norms += [p + "attention.output.LayerNorm", p + "output.LayerNorm"]
    shapes |= {f"{name}.{part}": (c,) for name in norms for part in ("weight", "bias")}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def test_a_long_text(tiny_bert, fused):
    tensors, config = tiny_bert
    rng = np.random.default_rng(0)
    table = rng.standard_normal((3000, 36)).astype(np.float32) * 0.1
    tensors = tensors | {"embeddings.position_embeddings.weight": table}
    for compute in ("float32", "int8"):
        model = Model(tensors, replace(config, positions=3000), "float32", compute, fused)
        for lengths in ([3], [2, 3000, 1], [7, 9]):
            check(model, model.batch(lengths))


# --- memory


def poisons(memory):
    """What may lie in memory before a run: quiet and signalling noise, numbers that win every minimum and maximum."""
    floats = memory.arena[: memory.arena.size // 4 * 4].view(np.float32)
    for value in (np.nan, np.inf, -np.inf, 3e38, -3e38):
        floats[:] = value
        memory.scratch[:] = value
        yield value
    memory.arena[:] = np.random.default_rng(0).integers(0, 256, memory.arena.size)
    yield "noise"


def test_what_lies_in_memory_before_a_run_does_not_count(model):
    for lengths in ([64, 1, 13], [2], [1] * 65):
        batch = model.batch(lengths)
        for first_only, program in model.programs.items():
            expected = model.eager(batch, first_only)
            model.replayed(batch, first_only)
            for what in poisons(program._threads.memory):
                assert np.array_equal(model.replayed(batch, first_only), expected), what


def test_results_are_the_caller_s_own(int8_model):
    batch, other = int8_model.batch([9, 30]), int8_model.batch([30, 9], seed=1)
    first = int8_model.replayed(batch)
    before = first.copy()
    int8_model.replayed(other)[:] = np.nan
    assert np.array_equal(first, before)
    first[:] = np.nan
    assert np.array_equal(int8_model.replayed(batch), before)


def test_memory_grows_and_is_kept(int8_model):
    program = int8_model.program()
    sizes = []
    for lengths in ([4], [64], [1] * 200, [64] * 10, [3], [64] * 10, [1], [1] * 200):
        batch = int8_model.batch(lengths)
        found = program.run(batch.ids, batch.types, batch.starts)
        assert np.array_equal(found, int8_model.eager(batch))
        memory = program._threads.memory
        sizes.append((memory.arena.size, memory.tokens, memory.texts))
    assert sizes == sorted(sizes) and sizes[3] == sizes[-1], "as large as the largest batch, and no larger"
    per_token = (sizes[-1][0] - 64) / sizes[-1][1]
    assert per_token < 4 * 16 * 64, "a few rows for all layers together"


def test_layers_share_their_memory(tiny_bert, fused):
    """Twelve layers need no more memory than two."""
    tensors, config = tiny_bert
    sizes = {}
    for layers in (2, 4, 12):
        deep = dict(tensors)
        for i in range(layers):
            for name, tensor in tensors.items():
                if name.startswith(f"encoder.layer.{i % 2}."):
                    deep[name.replace(f"layer.{i % 2}.", f"layer.{i}.", 1)] = tensor
        for compute in ("float32", "int8"):
            model = Model(deep, replace(config, layers=layers), "float32", compute, fused)
            batch = model.batch([5, 20])
            check(model, batch)
            sizes[compute, layers] = model.programs[False]._threads.memory.arena.size
    for compute in ("float32", "int8"):
        assert sizes[compute, 2] == sizes[compute, 4] == sizes[compute, 12]


# --- any way to hold and drop values


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["linear", "linear_gelu", "linear_relu", "linear_add_norm", "attend", "attend16", "narrow"]),
        st.integers(0, 99),  # which of the held values goes in
        st.integers(0, 99),  # which one is the residual
        st.integers(0, 3),  # how many are dropped afterwards
        st.booleans(),  # by floats or by bytes
    ),
    max_size=14,
)


def test_a_batch_is_read_in_parts(int8_model):
    """Of so many tokens together, or of a single longer text; memory is for a part, and the bits are the same."""
    batch = int8_model.batch([64, 3, 9, 1, 1, 40, 2])
    for first_only in (False, True):
        expected = int8_model.eager(batch, first_only)
        for at_once, tokens in ((1, 64), (12, 64), (70, 128), (1000, 128)):
            program = int8_model.program(first_only)
            program.at_once = at_once
            assert np.array_equal(program.run(batch.ids, batch.types, batch.starts), expected)
            assert program._threads.memory.tokens == tokens


@settings(max_examples=60)
@given(steps=STEPS, lengths=st.lists(st.integers(1, 9), min_size=1, max_size=5), first_only=st.booleans())
def test_no_value_is_overwritten_while_it_is_held(fused, steps, lengths, first_only):
    """Models nobody has written: verbs on any values still held, in any order, some dropped and some kept."""
    from minibi.nn.replay import Program, Recorder

    c, heads = 20, 2
    rng = np.random.default_rng(0)
    draw = lambda *shape: rng.standard_normal(shape).astype(np.float32) / 2  # noqa: E731
    square, triple, narrow, back = draw(c, c), draw(3 * c, c), draw(7, c), draw(c, 7)
    stored = {"s": square, "t": triple, "n": narrow, "b": back}
    matrices = [{name: fused.matrix(w) for name, w in stored.items()}]
    matrices.append({name: fused.matrix8(w, i) for i, (name, w) in enumerate(stored.items())})  # each with a channel
    b, b3, b7, gamma, beta = (fused.vector(draw(n)) for n in (c, 3 * c, 7, c, c))
    norm = (gamma, beta, 1e-3)
    word, position, kinds = draw(30, c), draw(9, c), draw(2, c)
    batch = pack([rng.integers(0, 30, n) for n in lengths])

    def model(ops, ids, types, positions, starts):
        held = [ops.embed(ids, types, positions, word, position, kinds, *norm)]
        for verb, i, j, drop, by_bytes in steps:
            w, x, residual = matrices[by_bytes], held[i % len(held)], held[j % len(held)]
            if verb in ("attend", "attend16"):
                held.append(getattr(ops, verb)(*ops.qkv(x, w["t"], b3, heads), starts))
            elif verb == "linear_add_norm":
                held.append(ops.linear_add_norm(x, residual, w["s"], b, *norm))
            elif verb == "narrow":  # a value of another width in between
                held.append(ops.linear(ops.linear_relu(x, w["n"], b7), w["b"], b))
            else:
                held.append(getattr(ops, verb)(x, w["s"], b))
            del x, residual
            del held[: min(drop, len(held) - 1)]
        if first_only:
            held = [ops.first_rows(x, starts) for x in held]
        total = held.pop()
        while held:
            total = ops.linear_add_norm(held.pop(), total, matrices[0]["s"], b, *norm)
        return total

    expected = model(fused, batch.ids, batch.types, batch.positions(), batch.starts)
    recorder = Recorder()
    program = Program(recorder, model(recorder, None, None, None, None), (heads, c // heads), worth_sharing=0)
    for threads in (1, 2, 5, 1):
        assert np.array_equal(program.run(batch.ids, batch.types, batch.starts, threads), expected)
        for _ in poisons(program._threads.memory):
            pass


def test_a_value_s_room_is_free_once_nobody_holds_it(fused):
    from minibi.nn.replay import Recorder

    recorder = Recorder()
    w, b = fused.matrix(np.ones((4, 4), np.float32)), fused.vector(np.ones(4, np.float32))
    table, norm = np.ones((2, 4), np.float32), (b, b, 1e-3)
    x = recorder.embed(None, None, None, table, table.copy(), table.copy(), *norm)
    y = recorder.linear(x, w, b)
    taken = y.place
    assert taken != x.place and recorder.linear(x, w, b).place not in (x.place, y.place)
    del y
    gc.collect()
    z = recorder.linear(x, w, b)
    assert z.place == taken
    assert recorder.linear(z, w, b).place not in (x.place, z.place)


# --- threads


def test_every_thread_has_memory_of_its_own(int8_model):
    """Eight threads start together on one program, with batches of all sizes."""
    program, gate = int8_model.program(), threading.Barrier(8)
    batches = [int8_model.batch(np.random.default_rng(i).integers(1, 64, 1 + i % 7), seed=i) for i in range(24)]
    expected = [int8_model.eager(batch) for batch in batches]

    def work(seed):
        gate.wait(30)
        wrong = 0
        for i in np.random.default_rng(seed).integers(0, len(batches), 60).tolist():
            batch = batches[i]
            found = program.run(batch.ids, batch.types, batch.starts, 1 + i % 3)  # a single text: the first to ask
            wrong += not np.array_equal(found, expected[i])
        memory = program._threads.memory
        gate.wait(30)
        return wrong, memory.arena.ctypes.data, memory.arena.size

    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(work, range(8)))
    assert [wrong for wrong, *_ in done] == [0] * 8
    places = sorted((start, start + size) for _, start, size in done)
    assert all(end <= following for (_, end), (following, _) in pairwise(places)), "no two threads share a byte"


@pytest.mark.parametrize("parts", [2, 3])
def test_a_thread_held_up_in_the_middle_of_a_text_is_waited_for(minilm, parts):
    """It has taken the first piece; the other does what it can, comes back to say that it waits, and goes on."""
    program, batch = minilm.program(), minilm.batch([30])
    memory, counters = program._memory(30, 1, 30), np.zeros(16, np.int64)
    inputs = (memory.table, batch.ids, batch.types, batch.starts, memory.scratch, np.empty((0, 0), np.float32))
    memory.arena[:] = 255
    counters[0] = 1
    for _ in range(2):
        assert not program._forward(*inputs, parts, counters)
        assert counters[[0, 8]].tolist() == [parts, parts - 1], "the first operation, all but what the other has taken"
    steps, program._steps = program._steps, program._steps[:1]
    program._forward(*inputs, 1, counters)  # the first operation, whole
    program._steps = steps
    counters[8] += 1
    assert program._forward(*inputs, parts, counters)
    assert counters[[0, 8]].tolist() == [parts * len(steps)] * 2
    place = memory.table[program.result.place] - memory.arena.ctypes.data
    states = memory.arena[place:][: 4 * 30 * program.result.width].view(np.float32).reshape(30, -1)
    assert np.array_equal(states[:, : program.result.channels], minilm.eager(batch))


def test_an_interrupted_text_leaves_nobody_waiting(minilm, monkeypatch):
    """Whoever is interrupted between two looks holds no piece: the others come to an end."""
    program, batch = minilm.program(), minilm.batch([30])
    forward, main = program._forward, threading.current_thread()

    def interrupted(*args):
        if threading.current_thread() is main:
            raise KeyboardInterrupt
        return forward(*args)

    for _ in range(20):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(program, "_forward", interrupted)
            program.run(batch.ids, batch.types, batch.starts, 3)
        assert np.array_equal(program.run(batch.ids, batch.types, batch.starts, 3), minilm.eager(batch))


def test_threads_that_are_gone_leave_no_memory(int8_model):
    program = int8_model.program()
    batch = int8_model.batch([64] * 20)
    import weakref

    seen = []

    def work():
        program.run(batch.ids, batch.types, batch.starts)
        seen.append(weakref.ref(program._threads.memory))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    gc.collect()
    assert seen[0]() is None


# --- what a table of embeddings may be


@pytest.mark.parametrize("stored", [np.float16, np.float32, np.float64])
def test_tables_of_any_float_type(fused, tiny_bert, stored):
    tensors, config = tiny_bert
    model = Model(tensors, config, "float32", "float32", fused)
    model.params = replace(model.params, word=model.params.word.astype(stored))
    model.programs = {first_only: model.program(first_only) for first_only in (False, True)}
    check(model, model.batch([3, 64]))
