"""A model whose parameters are arrays of one's own: forward, backward, save.

    model = Trainable("all-MiniLM-L6-v2", frozen=("embeddings",))
    run = model.forward(model.batch(texts))       # run.output: vectors [B, dim]
    loss, dy = some_loss(run.output)
    gradients = run.backward(dy)                  # {"encoder.layer.0.output.dense.weight": [N, K], ...}

The definition of the model is that of `minibi.models`: parameters are read into it on the tape, so their gradients
come back under their own names. Training promises the same bits for the same inputs and threads, not those of `encode`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..environment import plain_kernels
from ..errors import InputError, ModelError
from ..models import bert
from ..models.bi_encoder import BiEncoder
from ..models.convert import write_model
from ..models.cross_encoder import CrossEncoder
from ..models.modules import Dense
from ..nn.dropout import Dropout
from ..nn.tape import Tape
from ..store.tensors import read_weights
from ..text.batches import Batch, pack
from ..text.tokenizer import Truncation

Arrays = dict[str, NDArray]


@dataclass
class Run:
    """One pass through a model: its output, and the way back."""

    output: NDArray  # [B, dim] vectors, or [B, labels] logits
    tape: Tape
    wanted: Arrays

    def backward(self, dy: NDArray) -> Arrays:
        """Gradients of the trainable parameters by name, given dL/d(output). Once only: the tape is used up."""
        gradients = self.tape.gradients([self.output], [dy], list(self.wanted.values()))
        found = zip(self.wanted.items(), gradients, strict=True)
        return {name: np.zeros_like(p) if grad is None else grad for (name, p), grad in found}


class Trainable:
    """A BiEncoder or CrossEncoder (or the name of a bi-encoder) to be trained.

    frozen: parameters that stay as they are, by the beginning of their names: "embeddings", "encoder.layer.0". Their
    gradients are not computed. dtype: float64 computes on NumPy alone, to check gradients. Raises ModelError,
    InputError.
    """

    def __init__(
        self, model: BiEncoder | CrossEncoder | str | Path, *, frozen: Sequence[str] = (), dtype: Any = np.float32
    ):
        self.encoder = BiEncoder(model) if isinstance(model, (str, Path)) else model
        self.config = self.encoder.config
        self.pairs = isinstance(self.encoder, CrossEncoder)
        folder = self.encoder.folder
        place = self._transformer().relative_to(folder)
        self._stored = {place: bert.as_floats(read_weights(folder / place))}
        self._places: dict[str, tuple[Path, str]] = {}  # of each parameter: its folder and the name it is stored under
        for stored, tensor in self._stored[place].items():
            name = bert.canonical_name(stored)
            if name.split(".")[0] in self._parts() and tensor.dtype.kind == "f":
                self._places[name] = (place, stored)
        for dense in self._dense():
            place = dense.folder.relative_to(folder)
            self._stored[place] = dict(read_weights(dense.folder))
            self._places |= {f"{place.as_posix()}.{stored}": (place, stored) for stored in self._stored[place]}
        self.parameters: Arrays = {
            name: np.array(self._stored[place][stored], dtype, order="C")
            for name, (place, stored) in self._places.items()
        }
        self.frozen: set[str] = set()
        self.freeze(*frozen)

    def _transformer(self) -> Path:
        return self.encoder.modules.transformer if isinstance(self.encoder, BiEncoder) else self.encoder.folder

    def _parts(self) -> tuple[str, ...]:
        """What the transformer's file holds that is trained, by the first word of a name."""
        return ("embeddings", "encoder", *(("pooler", "classifier") if self.pairs else ()))

    def _dense(self) -> list[Dense]:
        steps = self.encoder.modules.steps if isinstance(self.encoder, BiEncoder) else ()
        return [step for step in steps if isinstance(step, Dense)]

    def freeze(self, *beginnings: str) -> None:
        """Freezes parameters (from now on, besides those frozen before). Raises InputError if nothing is called so."""
        for beginning in beginnings:
            found = {name for name in self.parameters if f"{name}.".startswith(f"{beginning.removesuffix('.')}.")}
            if not found:
                raise InputError(f"no parameter's name begins with {beginning!r}: see `parameters` for their names")
            self.frozen |= found

    @property
    def trainable(self) -> Arrays:
        """The parameters that are not frozen, by name."""
        return {name: p for name, p in self.parameters.items() if name not in self.frozen}

    def batch(self, texts: Sequence[Any], prefix: str = "", truncation: Truncation = "silent") -> Batch:
        """Texts (for a cross-encoder: pairs of texts) as a packed batch. prefix: a prompt before each text."""
        if not self.pairs:
            return pack(self.encoder.tokenizer.encode([prefix + text for text in texts], truncation))
        encoded = self.encoder.tokenizer.encode_pairs([tuple(pair) for pair in texts], truncation)
        return pack([ids for ids, _ in encoded], [types for _, types in encoded])

    def forward(self, batch: Batch, dropout: Dropout | None = None, prompt_tokens: int = 0) -> Run:
        """Vectors [B, dim] of texts, or logits [B, labels] of pairs, with the way back to the parameters.

        prompt_tokens: how many tokens of each text are a prompt's, for models that pool without it.
        Raises ModelError if the output is not finite, InputError for texts beyond the model's positions.
        """
        p = self.parameters
        bert.check_lengths(batch, self.config)
        tape = Tape(self._verbs(), self.trainable.values(), dropout)
        where = f"{self.encoder.name} in training"
        params = bert.read_params(p, self.config, tape, where, finite=False)
        h = bert.layers(
            tape, params, self.config, batch.ids, batch.types, batch.positions(), batch.starts, first_only=self.pairs
        )
        if isinstance(self.encoder, CrossEncoder):
            x = tape.linear_tanh(h, tape.matrix(p["pooler.dense.weight"]), p["pooler.dense.bias"])
            x = tape.linear(tape.dropout(x), tape.matrix(p["classifier.weight"]), p["classifier.bias"])
            return self._run(x, tape)
        pooling = self.encoder.modules.pooling
        x = tape.pool(h, batch.starts, pooling.modes, 0 if pooling.include_prompt else prompt_tokens)
        for step in self.encoder.modules.steps:
            if isinstance(step, Dense):
                prefix = step.folder.relative_to(self.encoder.folder).as_posix()
                weight = p[f"{prefix}.linear.weight"]
                bias = p.get(f"{prefix}.linear.bias", np.zeros(len(weight), weight.dtype))
                x = step.apply(tape, x, tape.matrix(weight), bias)
            else:
                x = step(tape, x)
        return self._run(x, tape)

    def _run(self, output: NDArray, tape: Tape) -> Run:
        if not np.isfinite(output).all():
            raise ModelError("the model gives NaN or infinity: lower the learning rate, or go back to a checkpoint")
        return Run(output, tape, self.trainable)

    def _verbs(self) -> Any:
        """Kernels, but NumPy for float64 and under MINIBI_KERNELS=plain."""
        from ..nn import plain

        if plain_kernels() or any(p.dtype != np.float32 for p in self.parameters.values()):
            return plain
        from ..nn import fused_grad

        return fused_grad

    def load(self, parameters: Mapping[str, NDArray]) -> None:
        """Takes over parameters of the same names and shapes, such as a checkpoint's. Raises InputError."""
        wrong = set(parameters) ^ set(self.parameters)
        wrong |= {n for n in set(parameters) - wrong if parameters[n].shape != self.parameters[n].shape}
        if wrong:
            raise InputError(f"these parameters belong to another model: {min(wrong)!r} is missing, new or misshapen")
        for name, array in parameters.items():
            self.parameters[name][...] = array

    def save(self, target: str | Path) -> Path:
        """Writes a model folder that BiEncoder or CrossEncoder loads, matrices as float32; what was not trained comes
        from the model it began with. Raises InputError if the folder exists."""
        weights: dict[Path, dict[str, NDArray]] = {place: dict(tensors) for place, tensors in self._stored.items()}
        for name, (place, stored) in self._places.items():
            weights[place][stored] = self.parameters[name].astype(np.float32)
        write_model(self.encoder.folder, Path(target), weights)
        return Path(target)


def frozen_names(count: int, layers: int) -> list[str]:
    """The beginnings of the names of the embeddings' and the first `count` layers' parameters. Raises InputError."""
    if count > layers:
        raise InputError(f"freeze_layers = {count}, but the model has {layers} layers: lower it")
    return ["embeddings", *(f"encoder.layer.{i}" for i in range(count))] if count else []
