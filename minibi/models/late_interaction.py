"""LateInteraction: text in, one vector per token out, compared token by token (ColBERT, Khattab & Zaharia 2020).

A document's tokens keep their own vectors, so a query can match several of its places; the score is MaxSim, for each
query token its best document token, summed (`minibi.ragged.maxsim`; `minibi.index.multi_vector` searches many).
Compiled kernels give a text the same vectors bit for bit, alone or in any batch and order, on any number of threads.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import InputError, ModelError
from ..nn.token_pooling import pool_tokens
from ..ragged import as_ragged, maxsim, pack_rows
from ..shapes import Floats, Ints, unit_rows
from ..store.tensors import read_weights, weight_files
from ..text.batches import Batch
from ..text.tokenizer import Tokenizer, Tokens, Truncation, as_texts
from . import bert
from .late_folders import read_late_folder
from .locate import locate, read_json
from .running import Runner, interpreter, ranked, run_batches


class LateInteraction:
    """A model that turns a text into a matrix of token vectors of length one.

    name: a ColBERT or PyLate folder, or a hub name. A bi-encoder's folder, or `all-MiniLM-L6-v2`, which is bundled,
    serves too, with its own token states. query_length, document_length: tokens read per text, markers included.
    do_query_expansion: fill queries up to query_length with [MASK] tokens, whose vectors take part in the score;
    attend_to_expansion_tokens: let the query's words look at them. skiplist_words: tokens of documents that get no
    vector. All of these default to what the folder says. compute, threads: as for BiEncoder.
    Raises ModelError if the folder is missing, incomplete, or holds something this version cannot run faithfully.
    """

    def __init__(
        self,
        name: str | Path = "all-MiniLM-L6-v2",
        *,
        query_length: int | None = None,
        document_length: int | None = None,
        do_query_expansion: bool | None = None,
        attend_to_expansion_tokens: bool | None = None,
        skiplist_words: Iterable[str] | None = None,
        compute: Literal["float32", "int8"] = "float32",
        threads: int | None = None,
    ):
        self.folder = locate(name)
        self.name = self.folder.name if Path(name).is_dir() else str(name)
        self.compute, self.threads = compute, threads
        found = read_late_folder(self.folder, lambda f: bert.BertConfig.read(f).channels, interpreter())
        self.config = bert.BertConfig.read(found.transformer)
        tensors = bert.canonical(read_weights(found.transformer))
        self._runner = Runner(tensors, self.config, self.folder, compute)
        self._transformer, self._steps, self._linear = found.transformer, found.projection, None
        self.dim = found.projection[-1].outputs if found.projection else self.config.channels
        if found.linear:
            self.dim = len(tensors["linear.weight"])
            weight = bert.getter(tensors, self.folder)("linear.weight", self.dim, self.config.channels)
            ops = self._runner.ops
            self._linear = ops.matrix(weight), ops.vector(np.zeros(self.dim, np.float32))
        tokenizer = Tokenizer(found.transformer)
        bert.check_vocabulary(tokenizer, self.config, self.folder)
        limit = self.config.positions
        if found.plain:
            limit = min(tokenizer.max_length or limit, limit)
        for asked in (query_length, document_length):
            if isinstance(asked, int) and asked > self.config.positions:
                raise ModelError(f"a length of {asked} exceeds the model's {self.config.positions} positions")
        self.settings = found.settings.with_options(
            self.folder,
            query_length=query_length if query_length is not None else min(found.settings.query_length or limit, limit),
            document_length=document_length
            if document_length is not None
            else min(found.settings.document_length or limit, limit),
            do_query_expansion=do_query_expansion,
            attend_to_expansion_tokens=attend_to_expansion_tokens,
            skiplist_words=skiplist_words,
        )
        self._read_vocabulary(tokenizer)

    def _read_vocabulary(self, tokenizer: Tokenizer) -> None:
        """Ids of markers, of what fills queries up, and of what is skipped; a tokenizer for each kind of text."""
        settings, vocabulary = self.settings, tokenizer.vocabulary
        self._markers: list[int | None] = []
        self._tokenizers: list[Tokenizer] = []
        lengths = settings.query_length, settings.document_length
        for prefix, length in zip((settings.query_prefix, settings.document_prefix), lengths, strict=True):
            if prefix and prefix not in vocabulary:
                raise ModelError(f"{self.folder}: the tokenizer has no token {prefix!r}, which marks texts")
            self._markers.append(vocabulary[prefix] if prefix else None)
            cut = copy.copy(tokenizer)
            cut.max_length = (length or self.config.positions) - bool(prefix)
            self._tokenizers.append(cut)
        names = read_json(self._transformer / "tokenizer_config.json", {})
        filler = _content(names.get("mask_token"), "[MASK]")
        if settings.do_query_expansion and filler not in vocabulary:
            raise ModelError(f"{self.folder}: the tokenizer has no token {filler!r} to fill queries up with")
        self._filler = vocabulary.get(filler, 0)
        unknown = vocabulary.get(_content(names.get("unk_token"), "[UNK]"))  # what a word without a token is read as
        skipped = {vocabulary.get(word, unknown) for word in settings.skiplist_words} - {None}
        self._skipped = np.array(sorted(skipped), np.int32)

    def __repr__(self) -> str:
        s = self.settings
        lengths = f"query_length={s.query_length}, document_length={s.document_length}"
        return f"LateInteraction({self.name!r}, dim={self.dim}, {lengths})"

    @property
    def tokenizer(self) -> Tokenizer:
        """What reads documents; its `max_length` leaves room for the marker."""
        return self._tokenizers[True]

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all that decides a text's vectors: weights, arithmetic, tokenizer, projection, settings."""
        arithmetic = [] if self.compute == "float32" else [self.compute]
        digest = hashlib.sha256(json.dumps([vars(self.settings), self._skipped.tolist(), *arithmetic]).encode())
        t = self._transformer
        files = [*weight_files(t), t / "config.json", t / "tokenizer.json", *self.folder.glob("*/*.safetensors")]
        for file in sorted({f for f in [*files, *self.folder.glob("*/config.json")] if f.is_file()}):
            digest.update(file.relative_to(self.folder).as_posix().encode())
            with file.open("rb") as f:
                digest.update(hashlib.file_digest(f, "sha256").digest())
        return digest.hexdigest()

    def encode_query(self, texts: str | Sequence[str], **options: Any) -> Any:
        """Token vectors of queries: a `Ragged` of N matrices; of a single string, its matrix [T, dim].

        With expansion every matrix has query_length rows. Options: as for `encode_document`, without pool_factor.
        """
        return self._encode(texts, False, **options)

    def encode_document(self, texts: str | Sequence[str], *, pool_factor: int = 1, **options: Any) -> Any:
        """Token vectors of documents: a `Ragged` of N matrices; of a single string, its matrix [T, dim].

        pool_factor: keep about one vector in so many, averages of similar ones (`minibi.nn.token_pooling`). Options:
        truncation ("warn", "silent" or "raise": what to do about texts that are too long), show_progress_bar;
        batch_size, token_budget and threads, which affect speed and memory alone.
        Raises InputError.
        """
        if isinstance(pool_factor, bool) or not isinstance(pool_factor, int) or pool_factor < 1:
            raise InputError(f"pool_factor must be a whole number of at least 1, not {pool_factor!r}")
        vectors = self._encode(texts, True, **options)
        if pool_factor == 1:
            return vectors
        if isinstance(texts, str):
            return pool_tokens(vectors, pool_factor)
        return pack_rows([pool_tokens(matrix, pool_factor) for matrix in vectors], self.dim)

    def similarity(self, queries: Any, documents: Any) -> Floats:
        """MaxSim scores [Q, B] of what `encode_query` and `encode_document` returned."""
        q, d = as_ragged(queries, self.dim, name="queries"), as_ragged(documents, self.dim, name="documents")
        return np.stack([maxsim(one, d) for one in q]) if len(q) else np.zeros((0, len(d)), np.float32)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """The documents best first, as [{"corpus_id": i, "score": s}, ...], with "text" too if return_documents.

        Equal scores keep the documents' order. Options go to `encode_document`. Raises InputError.
        """

        def scores(query: str, texts: list[str]) -> Floats:
            matrix = self.encode_query(query, truncation=options.get("truncation", "warn"))
            return maxsim(matrix, self.encode_document(texts, **options))

        return ranked(scores, query, documents, top_k, return_documents)

    def tokens(self, text: str, *, is_query: bool = False) -> list[str]:
        """The written form of the tokens that get a vector, in the order of the rows: for heat maps of MaxSim."""
        ((ids, _),) = self._tokens(as_texts(text), not is_query, "silent")
        kept = ids if is_query else ids[~np.isin(ids, self._skipped)]
        return self._tokenizers[0].tokens(kept)

    def _encode(
        self,
        texts: str | Sequence[str],
        document: bool,
        *,
        truncation: Truncation = "warn",
        show_progress_bar: bool = False,
        batch_size: int | None = None,
        token_budget: int | None = None,
        threads: int | None = None,
    ) -> Any:
        if truncation == "chunk":
            raise InputError("token vectors cannot be read in chunks: use truncation 'warn', 'silent' or 'raise'")
        tokens = self._tokens(as_texts(texts), document, truncation)
        matrices = run_batches(
            [ids for ids, _ in tokens],
            self._document_vectors if document else self._query_vectors,
            types=[fillers for _, fillers in tokens],  # every token has type 0: the place is free for this
            batch_size=batch_size,
            token_budget=token_budget,
            at_once=self._runner.at_once,
            threads=self.threads if threads is None else threads,
            show_progress_bar=show_progress_bar,
        )
        return matrices[0] if isinstance(texts, str) else pack_rows(matrices, self.dim)

    def _tokens(self, texts: list[str], document: bool, truncation: Truncation) -> list[tuple[Tokens, Tokens]]:
        """(ids, 1 where a token merely fills up) of each text: the marker stands after the first special token."""
        marker, settings = self._markers[document], self.settings
        out = []
        for ids in self._tokenizers[document].encode(texts, truncation):
            if marker is not None:
                ids = np.insert(ids, 1, marker).astype(np.int32)
            missing = 0 if document or not settings.do_query_expansion else (settings.query_length or 0) - len(ids)
            whole = np.full(len(ids) + max(0, missing), self._filler, np.int32)
            whole[: len(ids)] = ids
            out.append((whole, (np.arange(len(whole)) >= len(ids)).astype(np.int32)))
        return out

    def _query_vectors(self, batch: Batch, threads: int) -> list[Floats]:
        plain = Batch(batch.ids, np.zeros_like(batch.types), batch.starts)
        if self.settings.attend_to_expansion_tokens or not batch.types.any():
            h = self._runner.states(plain, False, threads)
        else:
            words = np.add.reduceat(1 - batch.types, batch.starts[:-1]).astype(np.int64)
            ops = FirstKeys(self._runner.ops, batch.starts, words)
            h = bert.forward(ops, self._runner.params, self.config, plain)
        return np.split(self._project(h), batch.starts[1:-1])

    def _document_vectors(self, batch: Batch, threads: int) -> list[Floats]:
        kept = ~np.isin(batch.ids, self._skipped)
        bounds = np.concatenate([[0], np.cumsum(kept)])[batch.starts]
        return np.split(self._project(self._runner.states(batch, False, threads)[kept]), bounds[1:-1])

    def _project(self, h: Floats) -> Floats:
        """States [T, C] -> token vectors [T, dim] of length one, each row by itself."""
        for step in self._steps:
            h = step(self._runner.ops, h)
        if self._linear is not None:
            h = self._runner.ops.linear(np.ascontiguousarray(h), *self._linear)
        return unit_rows(h)


class FirstKeys:
    """The verbs of `ops`, but tokens see only the first `words[i]` tokens of their text i: none sees those behind.

    A text of S tokens becomes ceil(S / words) texts of `words` tokens, all with the same keys and values, whose queries
    are its tokens in turn; rows that are left over repeat the last one and are dropped.
    """

    def __init__(self, ops: Any, starts: Ints, words: Ints):
        self._ops = ops
        rows, keys, starts_again, kept = [], [], [0], []
        for first, length, n in zip(starts[:-1].tolist(), np.diff(starts).tolist(), words.tolist(), strict=True):
            copies = -(-length // n)
            kept.append(starts_again[-1] + np.arange(length))
            rows.append(first + np.minimum(np.arange(copies * n), length - 1))
            keys.append(np.tile(first + np.arange(n), copies))
            starts_again += [starts_again[-1] + n * (i + 1) for i in range(copies)]
        self._rows, self._keys, self._kept = (np.concatenate(x) for x in (rows, keys, kept))
        self._starts = np.array(starts_again, np.int64)

    def __getattr__(self, verb: str) -> Any:
        return getattr(self._ops, verb)

    def attend(self, q: Floats, k: Floats, v: Floats, starts: Ints, first_only: bool = False) -> Floats:
        return self._ops.attend(q[self._rows], k[self._keys], v[self._keys], self._starts)[self._kept]

    def attend16(self, q: Floats, k: Floats, v: Floats, starts: Ints, first_only: bool = False) -> Floats:
        return self._ops.attend16(q[self._rows], k[self._keys], v[self._keys], self._starts)[self._kept]


def _content(token: Any, default: str) -> str:
    """A token's name in tokenizer_config.json: a string, or an object that holds one."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else default
