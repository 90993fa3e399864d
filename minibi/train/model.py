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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import as_path
from ..environment import plain_kernels, thread_count
from ..errors import InputError, ModelError
from ..models import bert
from ..models.bi_encoder import BiEncoder
from ..models.convert import write_model
from ..models.cross_encoder import CrossEncoder
from ..models.modules import Dense
from ..nn.dropout import Dropout
from ..nn.memory import empty
from ..nn.tape import Tape
from ..shapes import Ints
from ..store.tensors import read_weights
from ..text.batches import Batch, pack
from ..text.tokenizer import Truncation
from ..threads import parallel_ranges

Arrays = dict[str, NDArray]
WORD = "embeddings.word_embeddings.weight"
EVEN = 1.15  # a batch is cut for threads if the largest part is at most so much larger than the mean
LEAST = 600  # tokens of a part: fewer are left to NumPy


@dataclass
class Part:
    """Some texts of a batch on their way through the model: a thread takes them forward, and later back."""

    output: NDArray
    tape: Tape
    wanted: Arrays  # what gets a gradient; of the table of words only the rows that occur
    rows: Ints  # their numbers


@dataclass
class Run:
    """One pass through a model: its output, and the way back."""

    output: NDArray  # [B, dim] vectors, or [B, labels] logits
    parts: list[Part]
    wanted: Arrays

    def backward(self, dy: NDArray) -> Arrays:
        """Gradients of the trainable parameters by name, given dL/d(output). Once only: the tapes are used up."""
        if dy.shape != self.output.shape:
            raise InputError(f"the gradient has shape {list(dy.shape)}, the output {list(self.output.shape)}")
        ends = np.cumsum([0, *(len(part.output) for part in self.parts)])
        found: list[dict[str, NDArray | None]] = [{} for _ in self.parts]

        def back(first: int, last: int) -> None:
            for i in range(first, last):
                part = self.parts[i]
                gradients = part.tape.gradients([part.output], [dy[ends[i] : ends[i + 1]]], list(part.wanted.values()))
                found[i] = dict(zip(part.wanted, gradients, strict=True))

        parallel_ranges(back, len(self.parts))
        whole: Arrays = {}

        def add_up(first: int, last: int) -> None:
            for name in names[first:last]:
                gradients = [g for f in found if (g := f.pop(name)) is not None]
                whole[name] = gradients[0] if gradients else np.zeros_like(self.wanted[name])
                for other in gradients[1:]:
                    whole[name] += other

        names = [name for name in self.wanted if name != WORD]
        parallel_ranges(add_up, len(names))
        if WORD in self.wanted:
            whole[WORD] = self._words([f[WORD] for f in found])
        return {name: whole[name] for name in self.wanted}

    def _words(self, found: list[NDArray | None]) -> NDArray:
        """The gradient of the whole table, from those of the rows that occurred."""
        table = empty(self.wanted[WORD].shape, self.wanted[WORD].dtype)
        parallel_ranges(lambda s, e: table[s:e].fill(0), len(table))
        for part, g in zip(self.parts, found, strict=True):
            if g is not None:
                table[part.rows] += g
        return table


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
        bert.check_lengths(batch, self.config)
        cuts = self._cuts(batch)
        parts: list[Any] = [None] * (len(cuts) - 1)

        def some(first: int, last: int) -> None:
            for i in range(first, last):
                part, own = _texts(batch, cuts[i], cuts[i + 1]), dropout
                if dropout is not None:
                    begins = (len(part.ids), int(batch.starts[cuts[i]])), (len(part), cuts[i])
                    own = replace(dropout, begins=begins)
                parts[i] = self._pass(part, own, prompt_tokens)

        parallel_ranges(some, len(parts))
        output = np.concatenate([part.output for part in parts])
        if not np.isfinite(output).all():
            raise ModelError("the model gives NaN or infinity: lower the learning rate, or go back to a checkpoint")
        return Run(output, parts, self.trainable)

    def _cuts(self, batch: Batch) -> list[int]:
        """Where a batch is cut, by text, so that each thread has its part from the first layer to the last and back.

        Where texts are too few or too uneven there is one part, and threads share every step.
        """
        count, tokens = thread_count(), len(batch.ids)
        places = np.arange(1, count) * (tokens / count)  # a cut is the beginning that lies nearest
        middles = (batch.starts[1:] + batch.starts[:-1]) / 2
        cuts = [0, *np.searchsorted(middles, places).tolist(), len(batch)]
        sizes = np.diff(batch.starts[cuts])
        whole = plain_kernels() or sizes.min() < LEAST or sizes.max() > EVEN * tokens / count
        return [0, len(batch)] if whole else cuts

    def _pass(self, batch: Batch, dropout: Dropout | None, prompt_tokens: int) -> Part:
        """Some texts forward, on a tape of their own; of the table of words they have the rows that occur."""
        p, wanted, config = dict(self.parameters), self.trainable, self.config
        rows, ids = np.unique(batch.ids, return_inverse=True)
        p[WORD], config = p[WORD][rows], replace(config, vocabulary=len(rows))
        if WORD in wanted:
            wanted[WORD] = p[WORD]
        tape = Tape(self._verbs(), wanted.values(), dropout)
        params = bert.read_params(p, config, tape, f"{self.encoder.name} in training", finite=False)
        renumbered = Batch(ids.astype(np.int32), batch.types, batch.starts)
        return Part(self._output(tape, params, p, renumbered, prompt_tokens), tape, wanted, rows)

    def _output(self, tape: Tape, params: bert.Params, p: Arrays, batch: Batch, prompt_tokens: int) -> NDArray:
        """What the model says of a batch: one row for each text."""
        places = (batch.ids, batch.types, batch.positions(), batch.starts)
        h = bert.layers(tape, params, self.config, *places, first_only=self.pairs)
        if isinstance(self.encoder, CrossEncoder):
            x = tape.linear_tanh(h, tape.matrix(p["pooler.dense.weight"]), p["pooler.dense.bias"])
            return tape.linear(tape.dropout(x), tape.matrix(p["classifier.weight"]), p["classifier.bias"])
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
        return x

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
        target = as_path(target)
        weights: dict[Path, dict[str, NDArray]] = {place: dict(tensors) for place, tensors in self._stored.items()}
        for name, (place, stored) in self._places.items():
            weights[place][stored] = self.parameters[name].astype(np.float32)
        write_model(self.encoder.folder, target, weights)
        return target


def _texts(batch: Batch, first: int, last: int) -> Batch:
    """Some texts of a batch, one after the other."""
    s, e = batch.starts[first], batch.starts[last]
    return Batch(batch.ids[s:e], batch.types[s:e], batch.starts[first : last + 1] - s)


def frozen_names(count: int, layers: int) -> list[str]:
    """The beginnings of the names of the embeddings' and the first `count` layers' parameters. Raises InputError."""
    if count > layers:
        raise InputError(f"freeze_layers = {count}, but the model has {layers} layers: lower it")
    return ["embeddings", *(f"encoder.layer.{i}" for i in range(count))] if count else []
