"""A training run as a file: recipe.toml, read into checked values before anything is loaded.

    output = "my-model"                  # the folder to write

    [model]
    kind = "bi-encoder"                  # or "cross-encoder", "late-interaction"
    base = "all-MiniLM-L6-v2"            # or query = "…" and document = "…": two towers into one space
    # frozen = "document"                # that tower stays as it is, and so does an index made with it
    # layers = [0, 2, 5]                 # a student of three of its layers, for a *_distill loss, which needs a
    # teacher = "all-MiniLM-L6-v2"

    [data]
    train = "pairs.jsonl"                # or a list of files
    held_out = 0.05

    [loss]
    name = "info_nce"                    # every other key is an option of that loss
    scale = 20.0
    matryoshka_dims = [384, 128, 64]

    [training]
    epochs = 1                           # or steps = 500, or minutes = 10
    batch_size = 64                      # chunk_size = 32 holds only so many texts in memory (GradCache)
    learning_rate = 2e-5
    evaluate_every = 100                 # on what is held out; keep_best = true ends with the best weights

The dataclasses below list all keys with their checks and defaults. An unknown key is refused with the nearest one that
is known; paths start at the recipe's folder. Reading loads no model and opens no data.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, TypeVar, get_type_hints

from ..arguments import as_path
from ..errors import FormatError, InputError
from .data import NAMES
from .objective import Objective, make_objective, nearest
from .score_objective import ScoreObjective

LOSS_OF = {"bi-encoder": "info_nce", "cross-encoder": "binary_cross_entropy", "late-interaction": "info_nce"}
Check = Callable[[Any], str]  # what is wrong with a value: "must be …", or ""
T = TypeVar("T")


# --- checks ----------------------------------------------------------------------------------------------------------


def _whole(low: int) -> Check:
    ok: Callable[[Any], bool] = lambda v: isinstance(v, int) and not isinstance(v, bool) and v >= low  # noqa: E731
    return lambda v: "" if ok(v) else f"must be a whole number of at least {low}"


def _number(low: float, high: float = math.inf, open_low: bool = False) -> Check:
    def check(v: Any) -> str:
        ok = isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) and low <= v <= high
        if ok and not (open_low and v == low):
            return ""
        return f"must be a number {'above' if open_low else 'of at least'} {low:g}" + (
            f" and at most {high:g}" if high < math.inf else ""
        )

    return check


def _text(v: Any) -> str:
    return "" if isinstance(v, str) and v.strip() else "must be a text"


def _string(v: Any) -> str:
    return "" if isinstance(v, str) else "must be a text"


def _yes_or_no(v: Any) -> str:
    return "" if isinstance(v, bool) else "must be true or false"


def _choice(*names: str) -> Check:
    return lambda v: "" if v in names else f"must be one of {', '.join(map(repr, names))}"


def _list_of(check: Check, what: str) -> Check:
    return lambda v: "" if isinstance(v, list | tuple) and v and not any(map(check, v)) else f"must be a list of {what}"


def _texts(v: Any) -> str:
    return "" if not _text(v) or not _list_of(_text, "texts")(v) else "must be a text or a list of texts"


def _columns(v: Any) -> str:
    if not isinstance(v, dict) or any(map(_text, v.values())):
        return 'must be a table such as {query = "title", positive = "body"}'
    unknown = [role for role in v if role not in NAMES]
    return f"names no role {unknown[0]!r}{nearest(unknown[0], NAMES)}" if unknown else ""


def _betas(v: Any) -> str:
    ok = isinstance(v, list | tuple) and len(v) == 2 and not any(map(_number(0, 1), v)) and max(v) < 1
    return "" if ok else "must be two numbers of at least 0 and below 1"


def _range(v: Any) -> str:
    ok = isinstance(v, list | tuple) and len(v) == 2 and not any(map(_number(-math.inf), v)) and v[0] < v[1]
    return "" if ok else "must be two rising numbers such as [0, 5]"


# --- the keys --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Model:
    kind: Annotated[str, _choice(*LOSS_OF)] = "bi-encoder"
    base: Annotated[str | None, _text] = None  # a model's name or folder, for queries and documents
    query: Annotated[str | None, _text] = None  # instead: one for queries …
    document: Annotated[str | None, _text] = None  # … and one for documents
    frozen: Annotated[str | None, _choice("query", "document")] = None
    freeze_layers: Annotated[int, _whole(0)] = 0  # the embeddings and this many first layers keep their weights
    layers: Annotated[tuple[int, ...] | None, _list_of(_whole(0), "layers from 0 on")] = None  # of base, to keep
    projection: Annotated[int | None, _whole(1)] = None  # components: one more linear layer behind trained encoders
    teacher: Annotated[str | None, _text] = None  # for the *_distill losses
    dropout: Annotated[float, _number(0, 0.9)] = 0.1
    max_seq_length: Annotated[int | None, _whole(4)] = None
    query_prompt: Annotated[str | None, _string] = None  # to be put before each query, now and ever after …
    document_prompt: Annotated[str | None, _string] = None  # … and before each document


@dataclass(frozen=True, kw_only=True)
class Data:
    train: Annotated[str | tuple[str, ...], _texts]
    columns: Annotated[dict[str, str] | None, _columns] = None
    score_range: Annotated[tuple[float, ...] | None, _range] = None
    negatives: Annotated[int, _whole(0)] = 0  # hard negatives of each example, where it has no scores
    held_out: Annotated[float, _number(0, 0.9)] = 0.0  # share kept apart for evaluation


@dataclass(frozen=True, kw_only=True)
class Loss:
    name: Annotated[str | None, _text] = None  # none: the usual one, LOSS_OF the kind of model
    options: dict[str, Any] = field(default_factory=dict)  # every other key of [loss]
    matryoshka_dims: Annotated[tuple[int, ...] | None, _list_of(_whole(1), "widths")] = None
    matryoshka_weights: Annotated[tuple[float, ...] | None, _list_of(_number(0), "numbers of at least 0")] = None


@dataclass(frozen=True, kw_only=True)
class Training:
    epochs: Annotated[float | None, _number(0, open_low=True)] = None  # how long: one of these three
    steps: Annotated[int | None, _whole(1)] = None
    minutes: Annotated[float | None, _number(0, open_low=True)] = None
    batch_size: Annotated[int, _whole(1)] = 32
    drop_last: Annotated[bool, _yes_or_no] = False  # leave out batches that are not full
    chunk_size: Annotated[int | None, _whole(1)] = None  # GradCache: this many texts in memory at a time
    accumulate: Annotated[int, _whole(1)] = 1  # batches to a step
    learning_rate: Annotated[float, _number(0, open_low=True)] = 2e-5
    schedule: Annotated[str, _choice("linear", "cosine", "constant")] = "linear"
    warmup: Annotated[float, _number(0, 1)] = 0.1  # share of the steps
    weight_decay: Annotated[float, _number(0)] = 0.01
    betas: Annotated[tuple[float, ...], _betas] = (0.9, 0.999)
    eps: Annotated[float, _number(0, open_low=True)] = 1e-8
    max_grad_norm: Annotated[float, _number(0)] = 1.0  # 0: no clipping
    evaluate_every: Annotated[int | None, _whole(1)] = None  # steps
    keep_best: Annotated[bool, _yes_or_no] = False  # end with the weights that were best when evaluated
    save_every: Annotated[int | None, _whole(1)] = None  # steps between checkpoints; none: some minutes


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A checked recipe."""

    output: Annotated[str, _text]  # the folder to write
    seed: Annotated[int, _whole(0)] = 0
    model: Model
    data: Data
    loss: Loss
    training: Training

    def objective(self) -> Objective | ScoreObjective:
        """The loss, ready to use. Raises InputError."""
        loss = self.loss
        assert loss.name is not None
        if self.model.kind != "bi-encoder":
            return ScoreObjective(loss.name, loss.options)
        return make_objective(loss.name, loss.options, dims=loss.matryoshka_dims or (), weights=loss.matryoshka_weights)

    def as_dict(self) -> dict[str, Any]:
        """Plain values as `parse_recipe` reads them, to be kept beside what was trained."""
        whole = asdict(self)
        whole["loss"] |= whole["loss"].pop("options")
        parts = {part: {k: v for k, v in whole.pop(part).items() if v is not None} for part in PARTS}
        return whole | parts


_LOSS_KEYS = ("name", "matryoshka_dims", "matryoshka_weights")
PARTS: dict[str, Any] = {"model": Model, "data": Data, "loss": Loss, "training": Training}


# --- reading ---------------------------------------------------------------------------------------------------------


def read_recipe(path: str | Path) -> Recipe:
    """The recipe in a TOML file. InputError if it cannot be opened, FormatError for whatever is wrong inside."""
    path = as_path(path)
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise InputError(f"cannot read {path}: {e.strerror or e}") from None
    except UnicodeDecodeError:
        raise FormatError(f"{path} is not UTF-8: convert it") from None
    except tomllib.TOMLDecodeError as e:
        raise FormatError(f"{path} is not TOML: {e}") from None
    return parse_recipe(content, path.parent, str(path))


def parse_recipe(content: Mapping[str, Any], folder: str | Path = "", name: str = "recipe") -> Recipe:
    """The recipe in a dict as TOML gives it; paths start at `folder`. Raises FormatError."""
    parts: dict[str, Any] = {}
    for part, cls in PARTS.items():
        table = content.get(part, {})
        if not isinstance(table, Mapping):
            raise FormatError(f"{name}: {part!r} must be a table: write [{part}] and its keys below")
        options = {k: v for k, v in table.items() if k not in _LOSS_KEYS} if cls is Loss else {}
        parts[part] = _filled(cls, {k: v for k, v in table.items() if k not in options}, f"{name}: [{part}]")
        if options:
            parts[part] = replace(parts[part], options=options)
    top = {k: v for k, v in content.items() if k not in PARTS}
    recipe = _settled(_filled(Recipe, top, f"{name}:", parts), Path(folder), name)
    try:
        objective = recipe.objective()
    except InputError as e:
        raise FormatError(f"{name}: [loss] {e}") from None
    if objective.wants_teacher != (recipe.model.teacher is not None):
        fix = "name one: [model] teacher" if objective.wants_teacher else "remove [model] teacher"
        need = "needs a teacher" if objective.wants_teacher else "has no use for a teacher"
        raise FormatError(f"{name}: [loss] {objective.name} {need}: {fix}")
    return recipe


def _filled(cls: type[T], table: Mapping[str, Any], where: str, parts: Mapping[str, Any] = MappingProxyType({})) -> T:
    """`cls` with the keys of a table, each checked. Raises FormatError."""
    hints = get_type_hints(cls, include_extras=True)
    known = {k: hint.__metadata__[0] for k, hint in hints.items() if hasattr(hint, "__metadata__")}
    for k, value in table.items():
        if k not in known:
            home = [f"[{part}]" for part, other in PARTS.items() if k in other.__dataclass_fields__]
            hint = f" (it belongs below {home[0]})" if home else nearest(k, [*known, *parts])
            raise FormatError(f"{where} unknown key {k!r}{hint}: the keys here are {', '.join([*known, *parts])}")
        if problem := known[k](value):
            raise FormatError(f"{where} {k} {problem}, not {value!r}")
    for k, check in known.items():
        if k not in table and not hasattr(cls, k):
            raise FormatError(f"{where} {k} is missing: it {check(None)}")
    return cls(**parts, **{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})


def _settled(recipe: Recipe, folder: Path, name: str) -> Recipe:
    """The recipe with whole paths and a length of training; what contradicts itself is refused. Raises FormatError."""
    model, data, training = recipe.model, recipe.data, recipe.training
    if model.base and (model.query or model.document):
        raise FormatError(f"{name}: [model] base stands for both towers: remove it, or query and document")
    if not model.base and not (model.query and model.document):
        raise FormatError(f"{name}: [model] name the model to start from: base, or both query and document")
    if model.frozen == "query":
        raise FormatError(f"{name}: [model] frozen = 'query' is not supported: freeze the tower whose vectors are kept")
    if model.base and model.frozen:
        raise FormatError(f"{name}: [model] frozen needs two towers: name query and document instead of base")
    if (model.query or model.document) and (model.layers or model.kind != "bi-encoder"):
        what = "layers" if model.layers else f"a {model.kind}"
        raise FormatError(f"{name}: [model] {what} goes with base: two towers are bi-encoders as they come")
    if model.kind != "bi-encoder":
        for key in ("projection", "teacher", "query_prompt", "document_prompt"):
            if getattr(model, key) is not None:
                raise FormatError(f"{name}: [model] {key} is for bi-encoders, not for a {model.kind}: remove it")
        if recipe.loss.matryoshka_dims is not None:
            raise FormatError(f"{name}: [loss] matryoshka_dims is for bi-encoders, not for a {model.kind}: remove it")
        if model.kind == "late-interaction" and model.max_seq_length is not None:
            raise FormatError(f"{name}: [model] max_seq_length is the folder's own in late interaction: remove it")
        if training.chunk_size is not None:
            raise FormatError(f"{name}: [training] chunk_size is for bi-encoders: use accumulate with a {model.kind}")
    lengths = [k for k in ("epochs", "steps", "minutes") if getattr(training, k) is not None]
    if len(lengths) > 1:
        raise FormatError(f"{name}: [training] {lengths[0]} and {lengths[1]} both say how long: keep one")
    if not lengths:
        training = replace(training, epochs=1)
    loss = recipe.loss if recipe.loss.name else replace(recipe.loss, name=LOSS_OF[model.kind])
    files = [data.train] if isinstance(data.train, str) else data.train
    data = replace(data, train=tuple(str(folder / file) for file in files))
    names = ("base", "query", "document", "teacher")
    towers = {k: _model_path(v, folder) for k in names if (v := getattr(model, k))}
    output = str(folder / recipe.output)
    model = replace(model, **towers)
    return replace(recipe, output=output, model=model, data=data, loss=loss, training=training)


def _model_path(name: str, folder: Path) -> str:
    """A folder beside the recipe, else the name as it stands, for a bundled model or a whole path."""
    return str(folder / name) if (folder / name).is_dir() else name
