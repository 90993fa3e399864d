"""From the name of a model to its folder: a local path, a bundled model, or a download that was asked for by name."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ..environment import weights_folder
from ..errors import ModelError

_WANTED = ["*.json", "*.safetensors", "*/config.json", "*/model.safetensors", "*.txt", "artifact.metadata", "README.md"]


def locate(name: str | Path) -> Path:
    """The folder of a model.

    A path to a folder is taken as it is. `all-MiniLM-L6-v2`, with or without its hub prefix `sentence-transformers/`,
    is bundled. Another `owner/name` is fetched by huggingface_hub, from its local cache if it is there. Nothing else
    ever touches the network. Raises ModelError.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise ModelError(f"a model is named by a string or a path, not by {name!r:.60}")
    path = Path(os.path.expanduser(name))
    if str(name) and os.path.isdir(path):  # False for what can be no name of a file, too
        return path
    text = str(name)
    bundled = weights_folder()
    short = text.removeprefix("sentence-transformers/")
    if bundled and re.fullmatch(r"[\w.-]+", short) and os.path.isfile(bundled / short / "config.json"):
        return bundled / short
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not text.startswith((".", "~", os.sep)):
        return _download(text)
    known = sorted(p.parent.name for p in bundled.glob("*/config.json")) if bundled else []
    raise ModelError(f"no model folder {text!r}: give a path, a hub name like 'owner/name', or one of {known}")


def _download(name: str) -> Path:
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise ModelError(f"{name!r} is no local folder, and huggingface_hub is not installed to fetch it") from None
    try:
        return Path(snapshot_download(name, allow_patterns=_WANTED))
    except Exception as e:  # every kind of network trouble
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise ModelError(f"{name!r} is no local folder and could not be fetched from the hub: {reason}") from None


def read_json(path: Path, default: Any = None, kind: type = dict) -> Any:
    """A JSON file's content; `default` where it does not exist and a default is given. Raises ModelError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(value, kind):
            raise ValueError(f"it holds a {type(value).__name__}, not a {kind.__name__}")
        return value
    except FileNotFoundError:
        if default is not None:
            return default
        raise ModelError(f"{path} is missing") from None
    except (OSError, ValueError) as e:
        raise ModelError(f"{path} cannot be read as JSON: {e}") from None
