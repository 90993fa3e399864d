"""Towers: one encoder for queries and another for documents, whose vectors lie in one space.

    model = open_encoder("my-model")                    # a BiEncoder, or Towers, as the folder says
    model.encode_query("who?"), model.encode_document("It was he.")

On disk they are a folder with `query/` and `document/`, each a model by itself, and a router_config.json that makes the
whole a Router of sentence-transformers. The query tower names the fingerprint of the document tower it was trained
with, so a collection made with that one, even before, can tell which queries belong to its vectors.
"""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from ..errors import InputError, ModelError
from ..store.files import replace_file
from .bi_encoder import BiEncoder
from .convert import OTHER_WEIGHTS, check_target
from .locate import locate, read_json
from .surgery import write_settings

SIDES = ("query", "document")
ROUTER = "router_config.json"


class Towers:
    """Reads queries with one BiEncoder and documents with another; where a BiEncoder is wanted for both, this will do.

    Raises InputError if the query tower was not trained with this document tower.
    """

    def __init__(self, query: BiEncoder, document: BiEncoder, folder: str | Path | None = None):
        if query.dim != document.dim:
            raise InputError(f"the towers' vectors have {query.dim} and {document.dim} components: take a pair")
        if query.space not in (document.space, document.fingerprint_of(query.compute)):
            raise InputError(f"{query.name!r} was not trained with the document tower {document.name!r}: take a pair")
        self.query, self.document = query, document
        self.folder = Path(folder) if folder is not None else document.folder
        self.name = self.folder.name if folder is not None else document.name
        self.dim, self.tokenizer, self.compute = document.dim, document.tokenizer, document.compute
        self.max_seq_length, self.document_prompt = document.max_seq_length, document.document_prompt
        self.similarity_fn_name, self.similarity = document.similarity_fn_name, document.similarity

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        compute: Literal["float32", "int8"] = "float32",
        threads: int | None = None,
    ) -> Towers:
        """From a folder as `save_towers` writes it. Raises ModelError."""
        folder = locate(name)
        if not is_towers(folder):
            raise ModelError(f"{folder} holds no two towers: load it as a BiEncoder")
        for side in SIDES:
            if not (folder / side / "modules.json").is_file():
                raise ModelError(f"{folder} has no {side}/modules.json: only towers that minibi saved can be loaded")
        query, document = (BiEncoder(folder / side, compute=compute, threads=threads) for side in SIDES)
        return cls(query, document, folder)

    def __repr__(self) -> str:
        return f"Towers({self.name!r}, dim={self.dim})"

    def get_sentence_embedding_dimension(self) -> int:
        return self.dim

    @property
    def fingerprint(self) -> str:
        """The document tower's: it decides the vectors that are stored."""
        return self.document.fingerprint

    space = fingerprint

    def encode_query(self, texts: Any, **options: Any) -> Any:
        """`BiEncoder.encode_query` of the query tower."""
        return self.query.encode_query(texts, **options)

    def encode_document(self, texts: Any, **options: Any) -> Any:
        """`BiEncoder.encode_document` of the document tower."""
        return self.document.encode_document(texts, **options)


def open_encoder(name: str | Path = "all-MiniLM-L6-v2", **options: Any) -> BiEncoder | Towers:
    """The encoder in a folder: Towers if it holds two, else a BiEncoder. Options: compute, threads. ModelError."""
    return Towers.load(name, **options) if is_towers(locate(name)) else BiEncoder(name, **options)


def is_towers(folder: Path) -> bool:
    return (folder / ROUTER).is_file()


def save_towers(target: Path) -> None:
    """Makes the folders target/query and target/document into one model: a Router, whose query tower knows the space.

    Raises ModelError if one of them is no encoder.
    """
    document = BiEncoder(target / "document")
    fingerprints = {compute: document.fingerprint_of(compute) for compute in ("float32", "int8")}
    write_settings(target / "query", tower="query", document_fingerprint=fingerprints)
    types: dict[str, str] = {}
    structure: dict[str, list[str]] = {}
    for side in SIDES:
        structure[side] = []
        for entry in read_json(target / side / "modules.json", kind=list):
            place = "/".join(part for part in (side, str(entry.get("path", ""))) if part)
            types[place] = entry["type"]
            structure[side].append(place)
    parameters = {"default_route": "document", "allow_empty_key": True, "route_mappings": {}}
    prompts = {side: BiEncoder(target / side).prompts.get(side, "") for side in SIDES}
    similar = {"similarity_fn_name": document.similarity_fn_name}
    for name, value in {
        ROUTER: {"types": types, "structure": structure, "parameters": parameters},
        "modules.json": [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Router"}],
        "config_sentence_transformers.json": {"prompts": prompts, "default_prompt_name": None} | similar,
    }.items():
        replace_file(target / name, lambda file, v=value: file.write(json.dumps(v, indent=2).encode()))


def copy_encoder(encoder: BiEncoder, target: Path) -> None:
    """Copies a model as it is, with the settings it was loaded with: its fingerprint stays the same.

    Raises InputError if the target exists.
    """
    check_target(encoder.folder, target)

    def skip(place: str, names: list[str]) -> list[str]:
        files = [name for name in names if not (Path(place) / name).is_dir()]
        return [n for n in files if any(fnmatch(n, pattern) for pattern in (*OTHER_WEIGHTS, ".*"))]

    shutil.copytree(encoder.folder, target, ignore=skip)
    write_settings(target, **encoder.settings)
