"""Checkpoints: all that a run needs to go on as if it had never stopped, in one file, replaced atomically.

A checkpoint holds the trained parameters, the optimizer's moments and its step, the place of the next batch, and the
`identity` of the run: every setting, the data and the model it began with, each as a short text under its name. There
is no other state: dropout and shuffling follow from the seed and the step. A run with another identity is refused,
since what it computed would be neither the one nor the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..errors import FormatError, InputError
from ..store.snapshot import read_snapshot, write_snapshot
from .data import Example
from .optimizer import AdamW

KIND = "checkpoint"
Arrays = Mapping[str, NDArray]


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0
    batch: tuple[int, int, int] = (0, 0, 0)  # Batches.state: seed, epoch, number
    seconds: float = 0.0  # of work, without the time between a stop and a resumption
    tokens: int = 0
    first: dict[str, float] = field(default_factory=dict)  # what evaluation gave before the first step
    last: dict[str, float] = field(default_factory=dict)
    best: float | None = None  # the best value of the metric that is watched
    best_step: int = 0


def save_checkpoint(path: Path, progress: Progress, identity: Mapping[str, str], optimizer: AdamW) -> None:
    """Writes the parameters that `optimizer` changes, and its state. The file there was is replaced, or stays whole."""
    arrays = {f"parameter/{name}": p for name, p in optimizer.parameters.items()}
    arrays |= {f"optimizer/{name}": a for name, a in optimizer.state().items()}
    write_snapshot(path, KIND, arrays, {"progress": vars(progress), "identity": dict(identity)})


def load_checkpoint(path: Path, identity: Mapping[str, str], optimizer: AdamW) -> Progress:
    """Takes parameters and optimizer back to where they were.

    Raises FormatError for a damaged file, InputError for one of another run; nothing has changed then.
    """
    arrays, fields = read_snapshot(path, KIND)
    try:
        progress = Progress(**fields["progress"])
        progress.batch = tuple(progress.batch)  # type: ignore[assignment]
        theirs: dict[str, str] = dict(fields["identity"])
    except (KeyError, TypeError, ValueError) as e:
        raise FormatError(f"{path} is damaged: it lacks what a checkpoint holds ({e!r}): delete it") from None
    for name in sorted({*identity, *theirs}):
        if identity.get(name) != theirs.get(name):
            now, then = (known.get(name, "absent") for known in (identity, theirs))
            raise InputError(
                f"the checkpoint {path} is of a run with another {name} ({then}, now {now}): "
                f"restore that to resume, or delete the folder {path.parent} to begin anew"
            )
    parameters = {n.removeprefix("parameter/"): a for n, a in arrays.items() if n.startswith("parameter/")}
    state = {n.removeprefix("optimizer/"): a for n, a in arrays.items() if n.startswith("optimizer/")}
    mine = optimizer.parameters
    if parameters.keys() != mine.keys() or any(parameters[n].shape != p.shape for n, p in mine.items()):
        raise InputError(f"the checkpoint {path} is of another model: delete the folder {path.parent} to begin anew")
    optimizer.load_state(state)
    for name, p in mine.items():
        p[...] = parameters[name]
    return progress


def digest_of(examples: Sequence[Example]) -> str:
    """A short hash of the examples, in their order."""
    digest = blake2b(digest_size=16)
    for example in examples:
        parts = [*example.texts, repr(example.scores)]
        digest.update("".join(f"{len(part)}:{part}" for part in parts).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings as one level of texts: {"training": {"steps": 3}} gives {"training.steps": "3"}."""
    out: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            out |= flat(value, f"{prefix}{name}.")
        elif value is not None:
            out[prefix + name] = repr(list(value) if isinstance(value, tuple) else value)
    return out
