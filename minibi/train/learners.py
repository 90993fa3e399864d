"""What is trained, seen from the loop: a batch of examples in, a loss and gradients by name out.

    learner = EmbeddingLearner(Trainable("all-MiniLM-L6-v2"), make_objective("info_nce"))
    done = learner.gradients(batch, seed=(0, 1))       # done.loss, done.gradients, done.tokens

`trainable` are the arrays that an optimizer changes, by the names of the gradients. All that is random follows from
`seed`: the same batch and seed give the same gradients. Two towers put "query." and "document." before their names.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..models.bi_encoder import BiEncoder
from ..models.prompts import DOCUMENT_NAMES, QUERY_NAMES, choose, first_of
from ..models.surgery import write_settings
from ..models.towers import copy_encoder, save_towers
from ..nn.dropout import Dropout
from ..text.tokenizer import Truncation
from .data import Example
from .losses import grad_cache
from .model import Run, Trainable
from .objective import Objective
from .score_objective import ScoreObjective

Arrays = dict[str, NDArray]
CACHE = 1 << 28  # numbers of a frozen encoder's vectors that are kept: 1 GB


@dataclass
class Done:
    """A batch that went through: its loss, dL/dp for each trainable parameter, and how many tokens it had."""

    loss: float
    gradients: Arrays
    tokens: int


class Learner(Protocol):
    """What `fit` needs of a model with its loss."""

    trainable: Mapping[str, NDArray]

    def check(self, examples: Sequence[Example]) -> int:
        """How many examples a batch needs for anything to be learned from it. Raises InputError if these cannot be."""

    def read(self, examples: Sequence[Example], truncation: Truncation) -> None:
        """Tokenizes texts as training does; the Tokenizer warns of those that are cut, or refuses them."""

    def gradients(self, batch: Sequence[Example], seed: tuple[int, ...]) -> Done: ...

    def loss(self, batch: Sequence[Example]) -> float:
        """Of examples that are not learned from: without dropout."""

    def after_step(self) -> None:
        """Called when the optimizer has changed the parameters."""

    def identity(self) -> dict[str, Any]:
        """All that decides the gradients besides the parameters of the moment, as values that have a short repr."""

    def save(self, folder: Path) -> None:
        """Writes a model folder. Raises InputError if it exists."""


def accumulate(total: Arrays, gradients: Mapping[str, NDArray]) -> None:
    """total += gradients, in place; a name that is new is taken over as it is."""
    for name, gradient in gradients.items():
        if name in total:
            total[name] += gradient
        else:
            total[name] = gradient


def least(objective: Objective | ScoreObjective, examples: Sequence[Example]) -> int:
    """How many examples a batch needs: two where they are each other's negatives, and have none of their own."""
    return 2 if objective.check(examples) == 1 and objective.in_batch else 1


def documents_of(examples: Sequence[Example]) -> list[str]:
    return [document for example in examples for document in example.documents]


# --- one side of a bi-encoder -----------------------------------------------------------------------------------------


class Tower:
    """A model that is trained on texts behind a prompt. prefix: of its parameters' names."""

    def __init__(self, model: Trainable, prompt: str, prefix: str = "", dropout: float = 0.0):
        self.model, self.prompt, self.prefix, self.dropout = model, prompt, prefix, dropout
        self.encoder: BiEncoder = model.encoder  # type: ignore[assignment]
        self.skip, self.dim = self.encoder._prompt_tokens(prompt), self.encoder.dim

    def forward(self, texts: Sequence[str], seed: tuple[int, ...] | None) -> tuple[Run, int]:
        """One pass, and the number of its tokens. seed: of dropout; None: no dropout."""
        batch = self.model.batch(texts, self.prompt)
        drop = Dropout(self.dropout, self.dropout, seed) if self.dropout and seed is not None else None
        return self.model.forward(batch, drop, self.skip), len(batch.ids)

    @property
    def trainable(self) -> Arrays:
        return {self.prefix + name: p for name, p in self.model.trainable.items()}


class Frozen:
    """An encoder that stays as it is: each text is encoded once, and its vector kept."""

    def __init__(self, encoder: BiEncoder, prompt: str):
        self.encoder, self.prompt, self.dim = encoder, prompt, encoder.dim
        self._vectors: dict[str, NDArray] = {}

    def vectors(self, texts: Sequence[str]) -> NDArray:
        """[N, dim]"""
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        found = {}
        if new:
            found = dict(zip(new, self.encoder.encode(new, prompt=self.prompt, truncation="silent"), strict=True))
        if (len(self._vectors) + len(found)) * self.dim <= CACHE:
            self._vectors |= found
        return np.stack([found[text] if text in found else self._vectors[text] for text in texts])


def prompts_of(encoder: BiEncoder) -> tuple[str, str]:
    """What `encode_query` and `encode_document` put before a text."""
    names = [first_of(encoder.prompts, kind) for kind in (QUERY_NAMES, DOCUMENT_NAMES)]
    query, document = (choose(encoder.prompts, encoder.default_prompt_name, name, None) for name in names)
    return query, document


# --- bi-encoders ------------------------------------------------------------------------------------------------------


@dataclass
class _Chunk:
    """Texts that go through a tower together."""

    tower: Tower
    texts: list[str]
    seed: tuple[int, ...]
    run: Run | None = field(default=None, repr=False)


class EmbeddingLearner:
    """A bi-encoder, or two towers into one space, with a loss of their vectors.

    query: reads queries and, without `document`, documents too. document: another model to train, or a BiEncoder, which
    stays as it is: its vectors are computed once. teacher: whose vectors a distillation loss is given. dropout: while
    training. chunk_size: texts in memory at a time (GradCache), which changes the gradients by rounding and by other
    dropout alone. Raises InputError.
    """

    def __init__(
        self,
        query: Trainable,
        objective: Objective,
        document: Trainable | BiEncoder | None = None,
        *,
        teacher: BiEncoder | None = None,
        dropout: float = 0.0,
        chunk_size: int | None = None,
    ):
        self.objective, self.chunk_size, self.dropout = objective, chunk_size, dropout
        names = ("query.", "document.") if document is not None else ("", "")
        self.query = Tower(query, prompts_of(query.encoder)[0], names[0], dropout)
        side = query if document is None else document
        if isinstance(side, BiEncoder):
            self.document: Tower | Frozen = Frozen(side, prompts_of(side)[1])
        else:
            self.document = Tower(side, prompts_of(side.encoder)[1], names[1], dropout)
        if self.query.dim != self.document.dim:
            raise InputError(
                f"the towers' vectors have {self.query.dim} and {self.document.dim} components: "
                "give one a projection into the other's space"
            )
        if objective.wants_teacher != (teacher is not None):
            need = "needs a teacher: name one" if teacher is None else "has no use for a teacher: leave it out"
            raise InputError(f"{objective.name} {need}")
        self.teacher = [Frozen(teacher, prompt) for prompt in prompts_of(teacher)] if teacher is not None else []
        self.learned = {f"loss.{name}": np.array([value]) for name, value in objective.parameters}
        towers = [self.query] if isinstance(self.document, Frozen) or document is None else [self.query, self.document]
        self.towers: list[Tower] = towers  # type: ignore[assignment]
        self.trainable = {name: p for tower in self.towers for name, p in tower.trainable.items()} | self.learned
        if not self.trainable:
            raise InputError("all parameters are frozen: leave some to be trained")

    def check(self, examples: Sequence[Example]) -> int:
        return least(self.objective, examples)

    def read(self, examples: Sequence[Example], truncation: Truncation) -> None:
        for side, texts in ((self.query, [e.query for e in examples]), (self.document, documents_of(examples))):
            side.encoder.tokenizer.encode([side.prompt + text for text in texts], truncation)

    def gradients(self, batch: Sequence[Example], seed: tuple[int, ...]) -> Done:
        columns = self.objective.columns(batch)
        gradients: Arrays = {}
        tokens = 0

        def embed(chunk: _Chunk) -> NDArray:
            nonlocal tokens
            run, count = chunk.tower.forward(chunk.texts, chunk.seed)
            tokens += count
            chunk.run = run if self.chunk_size is None else None  # kept, or forgotten until the way back
            return run.output

        def backward(chunk: _Chunk, dy: NDArray) -> None:
            run = chunk.run or chunk.tower.forward(chunk.texts, chunk.seed)[0]
            accumulate(gradients, {chunk.tower.prefix + name: g for name, g in run.backward(dy).items()})

        still = self._still(columns)
        chunks = self._chunks(columns[: len(columns) - len(still)], seed)
        value, slopes = grad_cache([chunks], embed, backward, partial(self._loss, batch, columns, still))
        for name, slope in zip(self.learned, slopes, strict=False):
            gradients[name] = np.reshape(slope, 1)
        return Done(value, gradients, tokens)

    def loss(self, batch: Sequence[Example]) -> float:
        columns = self.objective.columns(batch)
        still = self._still(columns)
        chunks = self._chunks(columns[: len(columns) - len(still)], ())
        rows = np.concatenate([chunk.tower.forward(chunk.texts, None)[0].output for chunk in chunks])
        return self._loss(batch, columns, still, rows)[0]

    def _still(self, columns: list[list[str]]) -> list[NDArray]:
        """The vectors of the columns that a frozen tower reads: the documents'."""
        return [self.document.vectors(c) for c in columns[1:]] if isinstance(self.document, Frozen) else []

    def _chunks(self, columns: list[list[str]], seed: tuple[int, ...]) -> list[_Chunk]:
        """The texts of all columns, one after the other, as few passes: of one tower, one prompt and chunk_size."""
        groups: list[tuple[Tower, list[str]]] = []
        for i, column in enumerate(columns):
            tower = self.document if i else self.query
            assert isinstance(tower, Tower)
            last = groups[-1][0] if groups else None
            if last is not None and last.model is tower.model and last.prompt == tower.prompt:
                groups[-1][1].extend(column)
            else:
                groups.append((tower, list(column)))
        size = self.chunk_size or max(len(texts) for _, texts in groups)
        cut = [(t, texts[i : i + size]) for t, texts in groups for i in range(0, len(texts), size)]
        return [_Chunk(tower, texts, (*seed, number)) for number, (tower, texts) in enumerate(cut)]

    def _loss(
        self, batch: Sequence[Example], columns: list[list[str]], still: list[NDArray], rows: NDArray
    ) -> tuple[float, tuple[Any, ...]]:
        """The objective on vectors of all columns, one after the other [N, dim]; their gradient is the last."""
        moving = np.split(rows, len(columns) - len(still))
        given = self.objective.given(batch)
        if self.teacher:
            given["teacher"] = [self.teacher[i > 0].vectors(column) for i, column in enumerate(columns)]
        learned = [float(p[0]) for p in self.learned.values()]
        value, slopes = self.objective.loss(*learned, *moving, *still, **given)
        first = len(learned)
        return value, (*slopes[:first], np.concatenate(slopes[first : first + len(moving)]))

    def after_step(self) -> None:
        if "loss.log_scale" in self.learned:  # CLIP's limit
            np.minimum(self.learned["loss.log_scale"], np.log(100), out=self.learned["loss.log_scale"])

    def identity(self) -> dict[str, Any]:
        encoders = {"query": self.query.encoder, "document": self.document.encoder}
        if self.teacher:
            encoders["teacher"] = self.teacher[0].encoder
        known = {f"{name} model": encoder.fingerprint for name, encoder in encoders.items()}
        known |= {"loss": [self.objective.name, *self.objective.settings]}
        return known | {"dropout": self.dropout, "chunk_size": self.chunk_size, "trained": digest(self.trainable)}

    def encode_query(self, texts: Sequence[str]) -> NDArray:
        """Vectors [N, dim] as the weights of the moment give them."""
        return self._encode(self.query, texts)

    def encode_document(self, texts: Sequence[str]) -> NDArray:
        return self.document.vectors(texts) if isinstance(self.document, Frozen) else self._encode(self.document, texts)

    def _encode(self, tower: Tower, texts: Sequence[str], size: int = 64) -> NDArray:
        order = np.argsort([len(text) for text in texts], kind="stable")
        out = np.empty((len(texts), tower.dim), np.float32)
        for i in range(0, len(order), size):
            rows = order[i : i + size]
            out[rows] = tower.forward([texts[r] for r in rows], None)[0].output
        return out

    def save(self, folder: Path) -> None:
        """A bi-encoder's folder, or one of two towers."""
        if self.query.prefix == "":
            save_encoder(self.query.model, folder)
            return
        save_encoder(self.query.model, folder / "query")
        if isinstance(self.document, Frozen):
            copy_encoder(self.document.encoder, folder / "document")
        else:
            save_encoder(self.document.model, folder / "document")
            write_settings(folder / "document", tower="document")
        save_towers(folder)


def save_encoder(model: Trainable, folder: Path) -> None:
    """The trained weights with the settings that the encoder was loaded with."""
    model.save(folder)
    write_settings(folder, **model.encoder.settings)  # type: ignore[union-attr]


def files_digest(folder: Path) -> str:
    """A short hash of a model folder's weights and configuration."""
    hashed = blake2b(digest_size=16)
    for file in sorted([*folder.rglob("*.safetensors"), *folder.rglob("*.json")]):
        hashed.update(file.relative_to(folder).as_posix().encode())
        with file.open("rb") as f:
            hashed.update(hashlib.file_digest(f, "sha256").digest())
    return hashed.hexdigest()


def digest(names: Mapping[str, NDArray]) -> str:
    """A short hash of names and shapes."""
    text = ";".join(f"{name}{list(p.shape)}" for name, p in names.items())
    return blake2b(text.encode(), digest_size=8).hexdigest()
