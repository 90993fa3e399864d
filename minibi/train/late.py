"""A late-interaction model to be trained: token vectors of length one, with the way back to the parameters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models import bert
from ..models.late_interaction import FirstKeys, LateInteraction
from ..models.modules import Dense
from ..nn.tape import Tape
from ..text.batches import Batch, pack
from ..text.tokenizer import Truncation
from .model import Arrays, Trainable


class TrainableLate(Trainable):
    """As `Trainable`, of a LateInteraction: the output of a pass holds a row for every token of the batch."""

    encoder: LateInteraction  # type: ignore[assignment]

    def _transformer(self) -> Path:
        return self.encoder._transformer

    def _parts(self) -> tuple[str, ...]:
        return ("embeddings", "encoder", *(("linear",) if self.encoder._linear is not None else ()))

    def _dense(self) -> list[Dense]:
        return list(self.encoder._steps)

    def tokens(self, texts: Sequence[str], document: bool, truncation: Truncation = "silent") -> Batch:
        """A packed batch, markers and fillers included; its types are 1 where a token merely fills up."""
        tokens = self.encoder._tokens(list(texts), document, truncation)
        return pack([ids for ids, _ in tokens], [fillers for _, fillers in tokens])

    def kept(self, batch: Batch, document: bool) -> NDArray[np.bool_]:
        """Which tokens take part in the score [T]: of documents not those of the skip-list."""
        return ~np.isin(batch.ids, self.encoder._skipped) if document else np.ones(len(batch.ids), bool)

    def _verbs(self) -> Any:
        return _WithRows(super()._verbs())

    def _output(self, tape: Tape, params: bert.Params, p: Arrays, batch: Batch, prompt_tokens: int) -> NDArray:
        """Token vectors [T, dim] of texts that `tokens` gave."""
        ops: Any = tape
        if batch.types.any() and not self.encoder.settings.attend_to_expansion_tokens:
            words = np.add.reduceat(1 - batch.types, batch.starts[:-1]).astype(np.int64)
            ops = _FirstKeysOnTape(tape, batch.starts, words)
        types = np.zeros_like(batch.types)
        x = bert.layers(ops, params, self.config, batch.ids, types, batch.positions(), batch.starts)
        for dense in self._dense():
            prefix = dense.folder.relative_to(self.encoder.folder).as_posix()
            weight = p[f"{prefix}.linear.weight"]
            bias = p.get(f"{prefix}.linear.bias", np.zeros(len(weight), weight.dtype))
            x = dense.apply(tape, x, tape.matrix(weight), bias)
        if "linear.weight" in p:
            weight = p["linear.weight"]
            x = tape.linear(x, tape.matrix(weight), np.zeros(len(weight), weight.dtype))
        return tape.normalize(x)


class _WithRows:
    """The verbs of `ops` and one more: rows of an array, some of them perhaps several times."""

    def __init__(self, ops: Any):
        self._ops = ops
        self.GRAD = ops.GRAD | {"rows": rows_grad}

    rows = staticmethod(lambda x, index: x[index])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ops, name)


def rows_grad(dy: NDArray, x: NDArray, index: NDArray) -> tuple[NDArray, None]:
    """y = x[index]: each row of x gets the sum of what came of it."""
    dx = np.zeros_like(x)
    np.add.at(dx, index, dy)
    return dx, None


class _FirstKeysOnTape(FirstKeys):
    def attend(self, q: Any, k: Any, v: Any, starts: Any, first_only: bool = False) -> Any:
        rows = self._ops.rows
        a = self._ops.attend(rows(q, self._rows), rows(k, self._keys), rows(v, self._keys), self._starts)
        return rows(a, self._kept)
