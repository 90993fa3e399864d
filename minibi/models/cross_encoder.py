"""CrossEncoder: question and passage read together, one score for the pair (Nogueira & Cho 2019).

Slower than comparing vectors, since every pair goes through the model, and better at telling near misses apart: made to
reorder the best hundred candidates of a faster search.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError, ModelError
from ..shapes import Floats
from ..store.tensors import read_weights
from ..text.batches import Batch
from ..text.tokenizer import Tokenizer, Truncation
from . import bert
from .locate import locate
from .running import Runner, ranked, run_batches


def sigmoid(x: Floats) -> NDArray[np.float64]:
    """1 / (1 + e^-x) in float64, so that large scores keep their order: in float32 all above 17 would be 1."""
    return 1 / (1 + np.exp(-np.clip(x.astype(np.float64), -700, None)))


_ACTIVATIONS: dict[str, Callable[[Floats], Any]] = {"logits": lambda x: x, "sigmoid": sigmoid}


class CrossEncoder:
    """A BERT with a classification head, from a folder such as cross-encoder/ms-marco-MiniLM-L-6-v2.

    name: a folder or a hub name. max_length: tokens read per pair (default: the model's limit). compute: see BiEncoder.
    Raises ModelError if the folder is missing, incomplete or of another architecture.
    """

    def __init__(
        self,
        name: str | Path,
        *,
        max_length: int | None = None,
        compute: Literal["float32", "int8"] = "float32",
        threads: int | None = None,
    ):
        self.folder = locate(name)
        self.name = str(name)
        self.threads = threads
        self.config = bert.BertConfig.read(self.folder)
        if not self.config.labels:
            raise ModelError(f"{self.folder} is no cross-encoder: config.json names no ...ForSequenceClassification")
        tensors = bert.canonical(read_weights(self.folder))
        self._runner = Runner(tensors, self.config, self.folder, compute)
        self.compute = compute
        ops = self._runner.ops
        get, c, n = bert.getter(tensors, self.folder), self.config.channels, self.config.labels
        self._pooler_w = ops.matrix(get("pooler.dense.weight", c, c))
        self._pooler_b = ops.vector(get("pooler.dense.bias", c))
        self._classifier_w = ops.matrix(get("classifier.weight", n, c))
        self._classifier_b = ops.vector(get("classifier.bias", n))
        self.tokenizer = Tokenizer(self.folder, max_length)
        self.tokenizer.max_length = min(self.tokenizer.max_length or self.config.positions, self.config.positions)
        if max_length is not None and max_length > self.config.positions:
            raise ModelError(f"max_length {max_length} exceeds the model's {self.config.positions} positions")
        bert.check_vocabulary(self.tokenizer, self.config, self.folder, pairs=True)

    def __repr__(self) -> str:
        return f"CrossEncoder({self.name!r}, labels={self.config.labels}, max_length={self.tokenizer.max_length})"

    def predict(
        self,
        pairs: Sequence[Sequence[str]],
        batch_size: int | None = None,
        show_progress_bar: bool = False,
        activation: str | Callable[[Floats], Any] = "logits",
        *,
        truncation: Truncation = "warn",
        token_budget: int | None = None,
        threads: int | None = None,
    ) -> Any:
        """Scores [N] of N pairs of texts ([N, labels] where the model has several); of a single pair, a scalar.

        activation: "logits" (the raw outputs, float32, and the default), "sigmoid" (float64), or a function of the
        outputs [N, labels].
        Pairs that are too long lose tokens of their longer side. Raises InputError.
        """
        try:
            if isinstance(pairs, str):
                raise TypeError
            listed: list[Any] = [pair if isinstance(pair, str) else tuple(pair) for pair in pairs]
        except TypeError:
            raise InputError("expected pairs of strings: pass [(query, document), ...]") from None
        single = len(listed) == 2 and all(isinstance(side, str) for side in listed)
        if single:
            listed = [tuple(listed)]
        if activation not in _ACTIVATIONS if isinstance(activation, str) else not callable(activation):
            raise InputError(f"activation {activation!r} is not 'logits', 'sigmoid' or a function")
        if truncation == "chunk":
            raise InputError("pairs cannot be read in chunks: use truncation 'warn', 'silent' or 'raise'")
        encoded = self.tokenizer.encode_pairs(listed, truncation)
        logits = run_batches(
            [ids for ids, _ in encoded],
            self._logits,
            types=[types for _, types in encoded],
            batch_size=batch_size,
            token_budget=token_budget,
            at_once=self._runner.at_once,
            threads=self.threads if threads is None else threads,
            show_progress_bar=show_progress_bar,
        )
        scores = np.array(logits, np.float32).reshape(len(listed), self.config.labels)
        scores = (_ACTIVATIONS[activation] if isinstance(activation, str) else activation)(scores)
        if self.config.labels == 1:
            scores = scores.reshape(-1)
        return scores[0] if single else scores

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """The documents best first, as [{"corpus_id": i, "score": s}, ...], with "text" too if return_documents.

        Equal scores keep the documents' order. Options go to `predict`. Raises InputError.
        """
        if self.config.labels != 1:
            raise InputError(f"rank needs a model with one output, this one has {self.config.labels}")
        return ranked(
            lambda query, texts: self.predict([(query, text) for text in texts], **options),
            query, documents, top_k, return_documents,
        )  # fmt: skip

    def _logits(self, batch: Batch, threads: int = 1) -> Floats:
        """[B, labels] from the first token's last state: dense, tanh, classifier."""
        first = self._runner.states(batch, True, threads)  # (T,) -> (B, C)
        pooled = self._runner.ops.linear_tanh(first, self._pooler_w, self._pooler_b)
        return self._runner.ops.linear(pooled, self._classifier_w, self._classifier_b)
