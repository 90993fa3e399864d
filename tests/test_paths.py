"""What is no path is refused in one sentence that says what to pass, wherever a file or folder is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from minibi import BM25, BiEncoder, Collection, CrossEncoder, FlatIndex, MultiVectorIndex, Tokenizer
from minibi.errors import MinibiError
from minibi.evaluate import read_beir, read_nevir, read_qrels, read_run, read_sts, write_run
from minibi.index.exchange import read_faiss_flat, read_hnswlib, read_vectors, write_vectors
from minibi.models.convert import convert
from minibi.models.streams import encode_to_file
from minibi.models.surgery import take_layers
from minibi.store.snapshot import snapshot_kind
from minibi.testing.files import check_flips
from minibi.text.files import find_sources, read_documents
from minibi.train.data import read_examples
from minibi.train.log import read_log
from minibi.train.recipe import read_recipe

TINY = Path(__file__).resolve().parent / "golden" / "tiny-bert"
DOORS = {
    "Index.save": lambda path: FlatIndex(2).save(path),
    "Index.load": FlatIndex.load,
    "MultiVectorIndex.save": lambda path: MultiVectorIndex(2).save(path),
    "MultiVectorIndex.load": MultiVectorIndex.load,
    "BM25.save": lambda path: BM25().save(path),
    "BM25.load": BM25.load,
    "Collection.create": lambda path: Collection.create(path, BiEncoder(TINY)),
    "Collection.open_or_create": lambda path: Collection.open_or_create(path, BiEncoder(TINY)),
    "encode_to_file": lambda path: encode_to_file(BiEncoder(TINY), ["a"], path),
    "convert": lambda path: convert(TINY, path, "int8"),
    "take_layers": lambda path: take_layers(TINY, path, [0]),
    "write_run": lambda path: write_run(path, {"q": {"d": 1.0}}),
    "write_vectors": lambda path: write_vectors(path, [[1.0, 2.0]]),
    "check_flips": lambda path: check_flips(path, Path.read_bytes),
    "read_documents": lambda path: list(read_documents(path)),
    **{
        read.__qualname__: read
        for read in (
            Collection.open, BiEncoder, CrossEncoder, Tokenizer, read_beir, read_nevir, read_qrels, read_run, read_sts,
            read_faiss_flat, read_hnswlib, read_vectors, snapshot_kind, find_sources, read_examples, read_log,
            read_recipe,
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("bad", [None, 3, b"name"], ids=repr)
@pytest.mark.parametrize("door", DOORS)
def test_no_path(door, bad):
    with pytest.raises(MinibiError, match=r"by a string or a .*ath, not by (None|int 3|3|(bytes )?b'name')"):
        DOORS[door](bad)
