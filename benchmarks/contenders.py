"""Everything that turns a workload into vectors: minibi and its peers, as callables without arguments.

"ids" contenders start from the same token ids; a peer gets its batches sorted by length, padded to their longest and
laid out as it wants them before the clock starts. "text" contenders are the public calls a user writes. Every one
returns [N, C] in the workload's order: unit vectors of texts, or tanh of the first token's last state for pairs (what
a cross-encoder's head reads), so that all can be checked against each other before they are timed.
"""

from __future__ import annotations

import copy
import inspect
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from minibi import BiEncoder, CrossEncoder
from minibi.shapes import Floats, unit_rows

from .common import CACHE, say
from .export_onnx import FLOAT, INT8, graphs
from .workloads import LONGEST, Workload

Run = Callable[[], Floats]
BATCH_SIZES = (1, 8, 16, 32)


# --- minibi -----------------------------------------------------------------------------------------------------------


class _Tokenized:
    """A tokenizer that knows all answers beforehand, so that the clock sees the model alone."""

    def __init__(self, tokenizer: Any, work: Workload):
        self._tokenizer = tokenizer
        self._ids = dict(zip(work.texts, [np.array(i, np.int32) for i in work.ids], strict=True))
        self._types = dict(zip(work.texts, [np.array(t, np.int32) for t in work.types], strict=True))

    def encode(self, texts: Sequence[str], *_: Any, **__: Any) -> list[Any]:
        return [self._ids[text] for text in texts]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]], *_: Any, **__: Any) -> list[Any]:
        return [(self._ids[pair], self._types[pair]) for pair in pairs]

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._tokenizer, name)
        if callable(value):
            raise TypeError(f"tokenizer.{name} would tokenize after all: teach _Tokenized the answer")
        return value


def computes() -> list[str]:
    """The arithmetics this minibi knows."""
    return ["float32", "int8"] if "compute" in inspect.signature(BiEncoder).parameters else ["float32"]


def option(compute: str) -> dict[str, Any]:
    """The argument that asks an encoder for `compute`; none while it knows a single one."""
    return {"compute": compute} if len(computes()) > 1 else {}


class Minibi:
    """BiEncoder for texts and CrossEncoder for pairs, in one arithmetic."""

    def __init__(self, folder: Path, compute: str):
        self.bi_encoder = BiEncoder(folder, max_seq_length=LONGEST, **option(compute))
        self.cross_encoder = CrossEncoder(open_headed(folder), max_length=LONGEST, **option(compute))

    def text(self, work: Workload, threads: int | None = None) -> Run:
        if work.pairs:
            return lambda: self.cross_encoder.predict(work.texts, truncation="silent", threads=threads)
        return lambda: self.bi_encoder.encode(work.texts, truncation="silent", threads=threads)

    def ids(self, work: Workload, threads: int | None = None) -> Run:
        other = copy.copy(self)
        name = "cross_encoder" if work.pairs else "bi_encoder"
        model = copy.copy(getattr(self, name))  # shares the weights
        model.tokenizer = _Tokenized(model.tokenizer, work)
        setattr(other, name, model)
        return other.text(work, threads)


@cache  # written once: the contenders map the file into memory
def open_headed(folder: Path, labels: int | None = None) -> Path:
    """The encoder in `folder` as a cross-encoder whose head lets the first state through: 1, tanh, 1.

    labels: so many random outputs instead, where time is all that counts.
    """
    from safetensors.numpy import load_file, save_file

    out = CACHE / "cross-encoder" / (folder.name if labels is None else f"{folder.name}-{labels}")
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    c = config["hidden_size"]
    tensors = {f"bert.{name.removeprefix('bert.')}": tensor for name, tensor in tensors.items()}
    tensors |= {f"{name}.weight": np.eye(c, dtype=np.float32) for name in ("bert.pooler.dense", "classifier")}
    if labels is not None:
        tensors["classifier.weight"] = np.random.default_rng(0).standard_normal((labels, c), np.float32) / c**0.5
    heads = {"bert.pooler.dense": c, "classifier": labels or c}
    tensors |= {f"{name}.bias": np.zeros(width, np.float32) for name, width in heads.items()}
    config["architectures"] = ["BertForSequenceClassification"]
    config["id2label"] = {str(i): str(i) for i in range(heads["classifier"])}
    config["label2id"] = {str(i): i for i in range(heads["classifier"])}
    out.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        shutil.copy(folder / name, out / name)
    (out / "config.json").write_text(json.dumps(config))
    save_file(tensors, out / "model.safetensors", {"format": "pt"})
    return out


# --- peers, from token ids --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Padded:
    """Some texts of a workload, padded to the longest of them; `rows` are their places in it."""

    rows: np.ndarray
    lengths: list[int]
    input_ids: np.ndarray  # [B, S] int64, as the next two
    attention_mask: np.ndarray
    token_type_ids: np.ndarray


def padded(work: Workload, size: int) -> list[Padded]:
    """Batches of `size` texts, sorted by length, so that little is padding."""
    order = np.argsort(work.lengths, kind="stable")[::-1]
    batches = []
    for first in range(0, len(order), size):
        rows = order[first : first + size]
        lengths = [len(work.ids[row]) for row in rows]
        ids, mask, types = np.zeros((3, len(rows), max(lengths)), np.int64)
        for i, row in enumerate(rows):
            ids[i, : lengths[i]], mask[i, : lengths[i]], types[i, : lengths[i]] = work.ids[row], 1, work.types[row]
        batches.append(Padded(rows, lengths, ids, mask, types))
    return batches


def _vectors(work: Workload, states: Callable[[Any], Floats], batches: list[tuple[Padded, Any]]) -> Floats:
    """Last states [B, S, C] of each batch -> mean over each text's own tokens and unit length, or the first token's."""
    out: Floats | None = None
    for batch, given in batches:
        h = states(given)
        if out is None:
            out = np.empty((len(work.ids), h.shape[2]), np.float32)
        if work.pairs:
            out[batch.rows] = h[:, 0]
        else:
            for row, length, own in zip(batch.rows, batch.lengths, h, strict=True):
                np.add.reduce(own[:length], out=out[row])
    assert out is not None
    return np.tanh(out) if work.pairs else unit_rows(out)


class OnnxRuntime:
    """One exported graph."""

    def __init__(self, graph: Path, threads: int):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])

    def ids(self, work: Workload, size: int) -> Run:
        wanted = {i.name: np.int32 if "int32" in i.type else np.int64 for i in self._session.get_inputs()}
        feeds = [(b, {n: getattr(b, n).astype(kind) for n, kind in wanted.items()}) for b in padded(work, size)]
        return lambda: _vectors(work, lambda feed: self._session.run(None, feed)[0], feeds)


class Torch:
    """transformers' BertModel with scaled_dot_product_attention; no mask where nothing is padded."""

    def __init__(self, folder: Path, threads: int):
        import torch
        from transformers import BertModel

        torch.set_num_threads(threads)
        options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "sdpa"}
        self._model = BertModel.from_pretrained(folder, add_pooling_layer=False, **options).eval()

    def ids(self, work: Workload, size: int) -> Run:
        import torch

        def tensors(batch: Padded) -> dict[str, Any]:
            even = bool(batch.attention_mask.all())
            names = ("input_ids", "token_type_ids") if even else ("input_ids", "attention_mask", "token_type_ids")
            return {name: torch.from_numpy(getattr(batch, name)) for name in names}

        feeds = [(batch, tensors(batch)) for batch in padded(work, size)]

        def run() -> Floats:
            with torch.inference_mode():
                return _vectors(work, lambda feed: self._model(**feed).last_hidden_state.numpy(), feeds)

        return run


# --- peers, from text -------------------------------------------------------------------------------------------------


class SentenceTransformers:
    """`SentenceTransformer.encode` and `CrossEncoder.predict` in batches of 32, their default."""

    def __init__(self, folder: Path, threads: int):
        import torch
        from sentence_transformers import CrossEncoder, SentenceTransformer

        torch.set_num_threads(threads)
        options = {"device": "cpu", "model_kwargs": {"dtype": torch.float32}}
        self._bi_encoder = SentenceTransformer(str(folder), **options)
        self._bi_encoder.max_seq_length = LONGEST
        self._cross_encoder = CrossEncoder(str(open_headed(folder)), max_length=LONGEST, **options)

    def text(self, work: Workload) -> Run:
        if work.pairs:
            return lambda: self._cross_encoder.predict(work.texts, show_progress_bar=False)
        return lambda: self._bi_encoder.encode(work.texts, show_progress_bar=False)

    def encode(self, texts: list[str], max_seq_length: int = LONGEST) -> Floats:
        self._bi_encoder.max_seq_length = max_seq_length
        try:
            return self._bi_encoder.encode(texts, show_progress_bar=False)
        finally:
            self._bi_encoder.max_seq_length = LONGEST


class FastEmbed:
    """fastembed's own code and defaults (batches of 256 in the order given) on a float32 graph exported here.

    Its hub file is not fetched; the graph is the same model.
    """

    def __init__(self, folder: Path, graph: Path, threads: int):
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        name, local = f"local/{folder.name}", CACHE / "fastembed" / folder.name
        local.mkdir(parents=True, exist_ok=True)
        for file in ("config.json", "tokenizer.json", "special_tokens_map.json"):
            shutil.copy(folder / file, local / file)
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        (local / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": LONGEST}))
        shutil.copy(graph, local / "model.onnx")
        if name not in [model["model"] for model in TextEmbedding.list_supported_models()]:
            TextEmbedding.add_custom_model(
                model=name,
                pooling=PoolingType.MEAN,
                normalization=True,
                sources=ModelSource(hf=name),
                dim=json.loads((folder / "config.json").read_text())["hidden_size"],
                model_file="model.onnx",
            )
        self._model = TextEmbedding(name, specific_model_path=str(local), threads=threads)

    def text(self, work: Workload) -> Run:
        return lambda: np.array(list(self._model.embed(work.texts)))


class Peers:
    """The peers that are installed and wanted; `absent` says which are not, and why."""

    def __init__(self, folder: Path, threads: int, wanted: bool = True):
        self.absent: dict[str, str] = {}

        def attempt(name: str, make: Callable[[], Any]) -> Any:
            if not wanted:
                self.absent[name] = "not asked for"
                return None
            say(f"loading {name}")
            try:
                return make()
            except ImportError as e:
                self.absent[name] = str(e)
                return None

        self.torch = attempt("torch", lambda: Torch(folder, threads))
        self.sentence_transformers = attempt("sentence-transformers", lambda: SentenceTransformers(folder, threads))
        self.files: dict[str, Path] = attempt("onnxruntime", lambda: graphs(folder)) or {}
        self.onnx = {name: OnnxRuntime(path, threads) for name, path in self.files.items()}
        if self.files:
            self.fastembed = attempt("fastembed", lambda: FastEmbed(folder, self.files["traced"], threads))
        else:
            self.fastembed, self.absent["fastembed"] = None, "there is no exported graph for it"

    def from_ids(self) -> dict[str, dict[str, Any]]:
        """Class of peers -> its members. Of each class the best on a workload counts."""
        classes = {
            "onnxruntime float32": {name: self.onnx[name] for name in FLOAT if name in self.onnx},
            "onnxruntime int8": {name: self.onnx[name] for name in INT8 if name in self.onnx},
            "torch": {"sdpa": self.torch} if self.torch else {},
        }
        return {name: members for name, members in classes.items() if members}

    def from_text(self, work: Workload) -> dict[str, Callable[[], Any]]:
        runs = {"sentence-transformers": self.sentence_transformers and self.sentence_transformers.text(work)}
        if not work.pairs:
            runs["fastembed"] = self.fastembed and self.fastembed.text(work)
        return {name: run for name, run in runs.items() if run}
