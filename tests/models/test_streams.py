"""Streams of texts: the vectors that encode gives, little ahead of the supply, whole files or none."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from minibi.errors import InputError
from minibi.models import streams
from minibi.models.precision import PRECISIONS, quantize_embeddings
from minibi.models.streams import AT_ONCE, encode_stream, encode_to_file
from minibi.text.tokenizer import TruncationWarning


@pytest.fixture
def few_at_once(monkeypatch):
    """Parts of ten texts, so that short lists are long streams."""
    monkeypatch.setattr(streams, "AT_ONCE", 10)


@pytest.fixture
def many(tiny_texts):
    return [f"{text} {i}" for i, text in enumerate(tiny_texts * 2)][:37]


class Supply:
    """An iterator that counts what was taken, and may fail."""

    def __init__(self, texts, fail_at=None, error=None):
        self.taken, self._texts, self._fail_at, self._error = 0, iter(texts), fail_at, error

    def __iter__(self):
        return self

    def __next__(self):
        if self.taken == self._fail_at:
            raise self._error
        text = next(self._texts)
        self.taken += 1
        return text


# --- encode_stream


@pytest.mark.usefixtures("few_at_once")
def test_a_stream_is_what_encode_gives_in_order(tiny_new, many):
    options = {"truncation": "silent", "prompt_name": "query", "truncate_dim": 8, "normalize_embeddings": True}
    parts = list(encode_stream(tiny_new, iter(many), **options))
    assert [len(part) for part in parts] == [10, 10, 10, 7]
    np.testing.assert_allclose(np.concatenate(parts), tiny_new.encode(many, **options), atol=1e-6)
    ranges = np.float32([[-0.5] * 8, [0.5] * 8])
    for precision in PRECISIONS:
        codes = np.concatenate(list(encode_stream(tiny_new, many, precision=precision, ranges=ranges, **options)))
        expected = quantize_embeddings(np.concatenate(parts), precision, ranges)
        assert codes.dtype == expected.dtype and np.array_equal(codes, expected)


def test_a_stream_has_the_bits_of_encode(compiled, golden, many, few_at_once):
    from minibi import BiEncoder

    for compute in ("float32", "int8"):
        model = BiEncoder(golden / "tiny-bert", compute=compute)
        parts = list(encode_stream(model, many, truncation="silent"))
        assert np.array_equal(np.concatenate(parts), model.encode(many, truncation="silent"))


@pytest.mark.usefixtures("few_at_once")
def test_an_endless_supply_is_read_as_it_is_used(tiny):
    supply = Supply(f"text {i}" for i in itertools.count())
    stream = encode_stream(tiny, supply)
    assert supply.taken == 0
    for i, vectors in enumerate(itertools.islice(stream, 5)):
        assert vectors.shape == (10, 36) and supply.taken == 10 * (i + 1), "not one text ahead of the part"
    stream.close()
    assert supply.taken == 50


def test_the_supply_is_taken_some_thousand_at_a_time():
    supply = Supply(["a", "the list"] * AT_ONCE)
    stream = encode_stream(Quick(), supply)
    assert len(next(stream)) == AT_ONCE <= 5000 and supply.taken <= AT_ONCE


@pytest.mark.usefixtures("few_at_once")
def test_long_texts_are_numbered_over_the_whole_stream(tiny):
    texts = ["the list"] * 12 + ["the list " * 60] + ["the list"] * 10 + ["the list " * 60] * 2
    with pytest.warns(TruncationWarning) as caught:
        list(encode_stream(tiny, texts))
    assert [str(w.message).split(" exceed")[0] for w in caught] == [
        "1 of the texts (first: number 12)", "2 of the texts (first: number 23)"
    ]  # fmt: skip
    with pytest.raises(InputError, match="first: number 12"):
        list(encode_stream(tiny, texts, truncation="raise"))


def test_no_texts(tiny):
    assert list(encode_stream(tiny, [])) == [] and list(encode_stream(tiny, iter(()))) == []


NO_TEXTS = [None, 3, "one text", np.str_("one text"), b"one text", {"one text"}]


@pytest.mark.parametrize("bad", NO_TEXTS)
def test_what_is_not_many_texts(tiny, tmp_path, bad):
    with pytest.raises(InputError, match="expected many texts, not one"):
        list(encode_stream(tiny, bad))
    with pytest.raises(InputError, match="expected many texts, not one"):
        encode_to_file(tiny, bad, tmp_path / "x.npy")
    assert not list(tmp_path.iterdir())


# --- encode_to_file


@pytest.mark.usefixtures("few_at_once")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_file_of_vectors(tiny, many, tmp_path, precision):
    path, options = tmp_path / "new folder" / "vectors.npy", {"truncation": "silent", "truncate_dim": 32}
    assert encode_to_file(tiny, iter(many), path, precision=precision, **options) == 37
    mapped, whole = np.load(path, mmap_mode="r", allow_pickle=False), np.load(path, allow_pickle=False)
    assert isinstance(mapped, np.memmap) and np.array_equal(mapped, whole)
    expected = np.concatenate(list(encode_stream(tiny, many, precision=precision, **options)))
    assert whole.dtype == expected.dtype and whole.flags.c_contiguous and np.array_equal(whole, expected)
    assert path.stat().st_size == 128 + expected.nbytes and mapped.offset == 128
    assert [f.name for f in path.parent.iterdir()] == ["vectors.npy"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_file_of_no_vectors(tiny, tmp_path, precision):
    """Its width and type are those it would have with vectors."""
    options = {"precision": precision, "truncate_dim": 16}
    assert encode_to_file(tiny, iter(()), tmp_path / "none.npy", **options) == 0
    none, some = np.load(tmp_path / "none.npy"), tiny.encode(["a"], **options)
    assert none.shape == (0, some.shape[1]) and none.dtype == some.dtype
    assert isinstance(np.load(tmp_path / "none.npy", mmap_mode="r"), np.ndarray)


@pytest.mark.usefixtures("few_at_once")
@pytest.mark.parametrize(
    "error", [RuntimeError("the disk with the texts is gone"), KeyboardInterrupt(), GeneratorExit()]
)
@pytest.mark.parametrize("at", [0, 5, 25])
def test_an_interruption_leaves_what_was_there(tiny, many, tmp_path, error, at):
    path = tmp_path / "vectors.npy"
    for before in (None, b"the old vectors"):
        if before:
            path.write_bytes(before)
        with pytest.raises(type(error)):
            encode_to_file(tiny, Supply(many, at, error), path, truncation="silent")
        assert [f.name for f in tmp_path.iterdir()] == (["vectors.npy"] if before else []), "nothing half done"
        assert not before or path.read_bytes() == before


@pytest.mark.usefixtures("few_at_once")
def test_a_text_that_is_none_leaves_what_was_there(tiny, many, tmp_path):
    with pytest.raises(InputError, match="text number 37 is NoneType"):
        encode_to_file(tiny, [*many, None], tmp_path / "vectors.npy", truncation="silent")
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("few_at_once")
def test_an_old_file_is_replaced_and_keeps_its_permissions(tiny, many, tmp_path):
    path = tmp_path / "vectors.npy"
    path.write_bytes(b"old")
    path.chmod(0o640)
    encode_to_file(tiny, many, path, truncation="silent")
    assert np.load(path).shape == (37, 36) and path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int4"}, "precision 'int4' is not one of"),
        ({"precision": "binary"}, "multiple of 8 dimensions, not 36"),
        ({"precision": "int8", "ranges": np.ones((1, 36))}, "smallest and the largest"),
        ({"truncate_dim": 99}, "truncate_dim must be a whole number from 1 to 36"),
        ({"prompt_name": "none such"}, "no prompt is called 'none such'"),
        ({"output_value": "token_embeddings"}, "a file holds one vector per text"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_read(tiny, tmp_path, options, message):
    supply = Supply(["a"])
    with pytest.raises(InputError, match=message):
        encode_to_file(tiny, supply, tmp_path / "vectors.npy", **options)
    with pytest.raises(InputError, match="is a folder"):
        encode_to_file(tiny, supply, tmp_path)
    assert supply.taken == 0 and not list(tmp_path.iterdir())


def test_the_header_holds_any_number_of_rows():
    from io import BytesIO

    for kind in (np.float32, np.int8):
        for shape in ((0, 1), (10**15, 8192)):
            header = streams._header(np.dtype(kind), shape)
            assert len(header) == streams.HEADER == 128
            file = BytesIO(header)
            assert np.lib.format.read_magic(file) == (1, 0)
            assert np.lib.format.read_array_header_1_0(file) == (shape, False, np.dtype(kind))


class Quick:
    """Stands for a model where only the stream around it is in question."""

    def encode(self, texts, **options):
        return np.ones((len(texts), 32), np.float32)


def test_memory_stays_bounded(tmp_path):
    """Eight times the texts, no more memory: those of a part or two and their vectors are all that is held."""

    def peak(n):
        texts = (f"text {i} " + "the list " * 30 for i in range(n))
        tracemalloc.start()
        try:
            assert encode_to_file(Quick(), texts, tmp_path / "vectors.npy") == n
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(AT_ONCE)
    few, many = peak(2 * AT_ONCE), peak(16 * AT_ONCE)
    assert many < 1.1 * few and many < 2 * AT_ONCE * 500 + AT_ONCE * 32 * 4
    assert np.load(tmp_path / "vectors.npy", mmap_mode="r").shape == (16 * AT_ONCE, 32)


def test_the_progress_bar_is_silent_away_from_a_terminal(tiny, tmp_path, capsys):
    encode_to_file(tiny, ["a"], tmp_path / "x.npy", show_progress_bar=True, total=1)
    assert capsys.readouterr() == ("", "")


def test_tokens_are_counted_as_they_are_read(tiny, tmp_path, monkeypatch):
    shown = []
    monkeypatch.setattr("tqdm.tqdm.set_postfix_str", lambda bar, text: shown.append(text))
    encode_to_file(tiny, ["a b c", "the sun"] * 5, tmp_path / "x.npy")
    assert shown and all(text.endswith(" tokens/s") for text in shown)
    seen: list[int] = []
    tiny.encode(["the sun and the rain", "night"], progress=seen.append)
    tiny.encode("night", progress=seen.append)
    lengths = [len(ids) for ids in tiny.tokenizer.encode(["the sun and the rain", "night", "night"])]
    assert sum(seen) == sum(lengths)
