"""BiEncoder: text in, vectors out, with the names sentence-transformers taught everybody.

Compiled kernels give a text the same vector bit for bit, alone or in any batch, in any order, on any number of threads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from ..arguments import whole
from ..errors import InputError, ModelError
from ..shapes import Floats, as_vectors, unit_rows
from ..store.tensors import read_weights, weight_files
from ..text.batches import Batch, pack
from ..text.tokenizer import Tokenizer, Tokens, Truncation, as_texts
from . import bert
from .locate import locate, read_json
from .modules import read_modules
from .precision import Precision, quantize_embeddings
from .prompts import DOCUMENT_NAMES, QUERY_NAMES, as_prompts, choose, first_of, read_prompts
from .running import Runner, interpreter, run_batches


@dataclass
class Insight(bert.Study):
    """All that happens to one text: tokens, each layer's states [T, C] and attention [H, T, T], the final vector."""

    tokens: list[str] = field(default_factory=list)
    vector: Floats = field(default_factory=lambda: np.empty(0, np.float32))


class BiEncoder:
    """A model that turns texts into vectors.

    name: a bundled model, a folder in sentence-transformers' layout, or a hub name. max_seq_length: tokens read per
    text (default: the model's own limit). prompts, default_prompt_name: instead of the model's. truncate_dim: keep only
    this many leading dimensions. compute: "int8" runs the layers on bytes, slightly less exact (cosine with the float32
    vector about 0.999) and, on processors with AVX-512 VNNI, some three times faster. threads: at most this many at
    once (default: all that are granted).
    Raises ModelError if the folder is missing, incomplete, or holds something this version cannot run faithfully.
    """

    def __init__(
        self,
        name: str | Path = "all-MiniLM-L6-v2",
        *,
        max_seq_length: int | None = None,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        truncate_dim: int | None = None,
        compute: Literal["float32", "int8"] = "float32",
        threads: int | None = None,
    ):
        self.folder = locate(name)
        self.name = self.folder.name if Path(name).is_dir() else str(name)
        self.threads = threads
        self.modules = read_modules(self.folder, lambda f: bert.BertConfig.read(f).channels, interpreter())
        self.config = bert.BertConfig.read(self.modules.transformer)
        tensors = bert.canonical(read_weights(self.modules.transformer))
        self._runner = Runner(tensors, self.config, self.folder, compute)
        self.compute = compute
        self.tokenizer = Tokenizer(self.modules.transformer, max_seq_length)
        limit = min(self.tokenizer.max_length or self.config.positions, self.config.positions)
        if max_seq_length is not None and max_seq_length > limit:
            raise ModelError(f"max_seq_length {max_seq_length} exceeds the model's {self.config.positions} positions")
        self.tokenizer.max_length = limit
        bert.check_vocabulary(self.tokenizer, self.config, self.folder)
        _check_case(self.tokenizer, self.modules.transformer)
        raw = read_json(self.folder / "config_sentence_transformers.json", {})
        self.prompts = read_prompts(raw, name) if prompts is None else as_prompts(prompts)
        default = raw.get("default_prompt_name") if prompts is None else None  # the model's own goes with its prompts
        self.default_prompt_name = default_prompt_name or default
        choose(self.prompts, self.default_prompt_name, None, None)  # complains now rather than at every text
        self.similarity_fn_name = raw.get("similarity_fn_name") or "cosine"
        self.tower, known = raw.get("tower"), raw.get("document_fingerprint") or {}
        self._document_fingerprints = known if isinstance(known, dict) else {"float32": str(known)}
        self.truncate_dim = truncate_dim
        self._check_width(truncate_dim)

    def __repr__(self) -> str:
        return f"BiEncoder({self.name!r}, dim={self.dim}, max_seq_length={self.max_seq_length})"

    @property
    def max_seq_length(self) -> int:
        """Tokens read per text, special ones included."""
        return self.tokenizer.max_length or self.config.positions

    @property
    def dim(self) -> int:
        """Width of the vectors."""
        return self.truncate_dim or self.modules.dim

    def get_sentence_embedding_dimension(self) -> int:
        return self.dim

    @cached_property
    def _files_digest(self) -> bytes:
        digest = hashlib.sha256()
        transformer = self.modules.transformer
        steps = [*self.folder.glob("*/config.json"), *self.folder.glob("*/*.safetensors"), self.folder / "modules.json"]
        files = [*weight_files(transformer), transformer / "config.json", transformer / "tokenizer.json", *steps]
        for file in sorted({f for f in files if f.is_file()}):
            digest.update(file.relative_to(self.folder).as_posix().encode())
            with file.open("rb") as f:
                digest.update(hashlib.file_digest(f, "sha256").digest())
        return digest.digest()

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides a text's vector: weights, arithmetic, tokenizer, modules, length limit, prompts.

        Two indexes may be compared only if their fingerprints agree.
        """
        return self.fingerprint_of(self.compute)

    @property
    def space(self) -> str:
        """The fingerprint of the vectors that this encoder's queries are to be compared with: its own, but of a query
        tower that of its document tower with the same `compute`."""
        if not self._document_fingerprints:
            return self.fingerprint
        found = self._document_fingerprints.get(self.compute, f"unknown in {self.compute}")
        return found + (f"/{self.truncate_dim}" if self.truncate_dim else "")

    @property
    def settings(self) -> dict[str, Any]:
        """What a copy of the model's folder must be told to give the same vectors; see `surgery.write_settings`."""
        named = {"default_prompt_name": self.default_prompt_name} if self.default_prompt_name else {}
        return {"prompts": self.prompts, "max_seq_length": self.max_seq_length} | named

    def fingerprint_of(self, compute: str) -> str:
        """The fingerprint that it has with another `compute`."""
        digest = hashlib.sha256(self._files_digest)
        settings: list[Any] = [
            self.max_seq_length,
            self.truncate_dim,
            sorted(self.prompts.items()),
            self.default_prompt_name,
        ]
        if compute != "float32":
            settings.append(compute)
        digest.update(json.dumps(settings).encode())
        return digest.hexdigest()

    def encode(
        self,
        texts: str | Sequence[str],
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        output_value: Literal["sentence_embedding", "token_embeddings"] = "sentence_embedding",
        normalize_embeddings: bool = False,
        *,
        truncate_dim: int | None = None,
        precision: Precision = "float32",
        ranges: ArrayLike | None = None,
        truncation: Truncation = "warn",
        token_budget: int | None = None,
        threads: int | None = None,
        progress: Callable[[int], object] | None = None,
        first_number: int = 0,
    ) -> Any:
        """Vectors float32 [N, dim] of N texts; of a single string, [dim].

        prompt, prompt_name: what to put before each text. truncation: a text beyond `max_seq_length` is cut with a
        warning ("warn") or silently ("silent"), refused ("raise"), or read in pieces whose vectors are averaged
        ("chunk"). batch_size, token_budget: at most so many texts and tokens per batch; they affect speed and
        memory alone. output_value="token_embeddings": the last layer's states instead, a list of [T, C].
        precision, ranges: codes instead of floats, see `minibi.models.precision`. progress: told the number of tokens
        read, batch by batch. first_number: the first text's in what is said of truncation, where texts are a part.
        Raises InputError for anything that is not text.
        """
        single = isinstance(texts, str)
        prefix = choose(self.prompts, self.default_prompt_name, prompt_name, prompt)
        wanted = as_texts(texts)
        want_states = output_value == "token_embeddings"
        if not want_states and output_value != "sentence_embedding":
            raise InputError(f"output_value is 'sentence_embedding' or 'token_embeddings', not {output_value!r}")
        width = self.truncate_dim if truncate_dim is None else truncate_dim
        self._check_width(width)
        if precision != "float32":  # complains now rather than after the work
            if want_states:
                raise InputError("token embeddings are float32 only: leave precision at 'float32'")
            quantize_embeddings(np.empty((0, width or self.modules.dim), np.float32), precision, ranges)
        pieces, counts = self._pieces(wanted, prefix, truncation, first_number)
        skip = self._prompt_tokens(prefix)
        first_only = not want_states and not skip and self.modules.pooling.modes == ("cls",)

        def work(batch: Batch, threads: int) -> Sequence[Floats]:
            if first_only:
                return self._after(self._runner.states(batch, True, threads))
            h = self._runner.states(batch, False, threads)
            return np.split(h, batch.starts[1:-1]) if want_states else self._vectors(h, batch, skip)

        results = run_batches(
            pieces,
            work,
            batch_size=batch_size,
            token_budget=token_budget,
            at_once=self._runner.at_once,
            threads=self.threads if threads is None else threads,
            show_progress_bar=show_progress_bar,
            progress=progress,
            into=None if want_states else np.empty((len(pieces), self.modules.dim), np.float32),
        )
        if want_states:
            bounds = np.cumsum([0, *counts])
            states = [np.concatenate(results[a:b]) for a, b in pairwise(bounds)]
            return states[0] if single else states
        vectors = np.asarray(results)
        if len(pieces) > len(wanted):
            vectors = _join(vectors, counts, [len(p) for p in pieces])
        if width is not None:
            vectors = np.ascontiguousarray(vectors[:, :width])
        if normalize_embeddings:
            vectors = unit_rows(vectors)
        codes = quantize_embeddings(vectors, precision, ranges)
        return codes[0] if single else codes

    def encode_query(self, texts: str | Sequence[str], **options: Any) -> Any:
        """`encode` with the model's prompt for queries, if it has one. Raises InputError for a document tower."""
        self._only_for("query")
        options.setdefault("prompt_name", first_of(self.prompts, QUERY_NAMES))
        return self.encode(texts, **options)

    def encode_document(self, texts: str | Sequence[str], **options: Any) -> Any:
        """`encode` with the model's prompt for documents, if it has one. Raises InputError for a query tower."""
        self._only_for("document")
        options.setdefault("prompt_name", first_of(self.prompts, DOCUMENT_NAMES))
        return self.encode(texts, **options)

    @property
    def document_prompt(self) -> str:
        """What `encode_document` puts before a text."""
        return choose(self.prompts, self.default_prompt_name, first_of(self.prompts, DOCUMENT_NAMES), None)

    def study(self, text: str) -> Insight:
        """One text (as it stands, without prompt) through the model with every intermediate kept."""
        (ids,) = self.tokenizer.encode(as_texts(text))
        insight = Insight(tokens=self.tokenizer.tokens(ids))
        batch = pack([ids])
        h = bert.forward(self._runner.ops, self._runner.params, self.config, batch, insight)
        insight.vector = self._vectors(h, batch, 0)[0][: self.dim]
        return insight

    def similarity(self, a: ArrayLike, b: ArrayLike) -> Floats:
        """Similarities [A, B] of vectors [A, dim] and [B, dim], by the function the model was trained for.

        cosine, dot, or minus the euclidean or manhattan distance. `a` and `b` may be single vectors.
        """
        x = as_vectors(a, name="the first vectors")
        y = as_vectors(b, x.shape[1], name="the second vectors")
        kind = self.similarity_fn_name
        if kind == "cosine":
            return unit_rows(x) @ unit_rows(y).T
        if kind in ("dot", "dot_product"):
            return x @ y.T
        if kind == "euclidean":
            p, q = x.astype(np.float64), y.astype(np.float64)  # in float32 close vectors would lose their difference
            squares = np.square(p).sum(1)[:, None] + np.square(q).sum(1)[None] - 2 * (p @ q.T)
            return -np.sqrt(np.maximum(squares, 0)).astype(np.float32)
        if kind == "manhattan":
            return -np.stack([np.abs(row - y).sum(1) for row in x])
        raise ModelError(f"similarity_fn_name {kind!r} is not one of cosine, dot, euclidean, manhattan")

    def _vectors(self, h: Floats, batch: Batch, skip: int) -> Floats:
        """Token states [T, C] -> pooled, projected, normalized [B, dim], each by itself."""
        return self._after(self.modules.pooling(h, batch.starts, skip))

    def _after(self, x: Floats) -> Floats:
        for step in self.modules.steps:
            x = step(self._runner.ops, x)
        return x

    def _pieces(
        self, texts: list[str], prefix: str, truncation: Truncation, number: int
    ) -> tuple[list[Tokens], list[int]]:
        """Token lists, and how many of them belong to each text: one, unless long texts are read in chunks."""
        if truncation == "chunk":
            chunks = self.tokenizer.encode_chunks(texts, prefix)
            return [piece for text in chunks for piece in text], [len(text) for text in chunks]
        return self.tokenizer.encode([prefix + text for text in texts], truncation, number), [1] * len(texts)

    def _prompt_tokens(self, prefix: str) -> int:
        """How many leading tokens pooling leaves out: those of the prompt, for models that pool without it."""
        if not prefix or self.modules.pooling.include_prompt:
            return 0
        return len(self.tokenizer.encode([prefix], "silent")[0]) - 1  # all but the closing special token

    def _only_for(self, side: str) -> None:
        if self.tower not in (None, side):
            raise InputError(
                f"{self.name!r} is a {self.tower} tower: read each {side} with the tower trained beside it"
            )

    def _check_width(self, width: int | None) -> None:
        if width is not None:
            whole("truncate_dim", width, 1, self.modules.dim)


_MIXED_CASE = "The Quick BROWN Fox, Ünder ÉTÉ"


def _check_case(tokenizer: Tokenizer, folder: Path) -> None:
    """Raises ModelError if texts should be lower-cased and the tokenizer does not do so by itself."""
    if read_json(folder / "sentence_bert_config.json", {}).get("do_lower_case"):
        mixed, lower = tokenizer.encode([_MIXED_CASE, _MIXED_CASE.lower()], "silent")
        if not np.array_equal(mixed, lower):
            raise ModelError(f"{folder}: do_lower_case is not supported where tokenizer.json keeps capitals")


def _join(vectors: Floats, counts: Sequence[int], lengths: Sequence[int]) -> Floats:
    """Vectors of pieces -> one per text: their average, weighted by tokens, scaled back to the pieces' mean norm."""
    out = np.empty((len(counts), vectors.shape[1]), np.float32)
    first = 0
    for i, count in enumerate(counts):
        rows = vectors[first : first + count]
        if count == 1:
            out[i] = rows[0]
        else:
            weights = np.asarray(lengths[first : first + count], np.float32)[:, None]
            norms = np.linalg.norm(rows, axis=1, keepdims=True)
            mean_length = (weights * norms).sum() / weights.sum()
            out[i] = unit_rows((weights * rows).sum(0, keepdims=True))[0] * mean_length
        first += count
    return out
