"""Small late-interaction models with random weights, and what PyLate says their token vectors are.

    python tests/golden/make_late.py        # writes tiny-colbert, tiny-pylate and late.safetensors beside itself

Run with Python 3.11.7, pylate 1.6.0, sentence-transformers 5.3.0, transformers 5.3.0, tokenizers 0.22.2, torch 2.13.0
(CPU). Both models are tiny-bert with new weights; each text goes through alone, in float32, on one thread. What PyLate
says is compared here with torch's BertModel called by hand, by the definition of ColBERT, so that the golden vectors
have two witnesses.
"""

from __future__ import annotations

import json
import math
import shutil
import string
import tempfile
from pathlib import Path

import numpy as np
import torch
from pylate import models
from safetensors.numpy import save_file
from safetensors.torch import load_file
from safetensors.torch import save_file as save_torch
from transformers import AutoTokenizer, BertModel

HERE = Path(__file__).resolve().parent
DIM = 20
TEXTS = [
    "the quick brown fox",
    "",
    "hello, world! (again)",
    "How do I read a file line by line?",
    "Café crème, 字 and 😀",
    "a [MASK] of the list",
    "...",
    "the of to and in " * 9 + "it is",
    "x" * 101,
]


@torch.no_grad()
def randomize(model: torch.nn.Module, seed: int) -> None:
    """Draws every parameter anew: attention far from uniform, norms away from the identity, no bias zero."""
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=draw)
        if parameter.ndim == 1:
            parameter.copy_(1 + 0.2 * noise if "LayerNorm.weight" in name else 0.1 * noise)
        else:
            parameter.copy_(0.5 * noise if "embeddings" in name else 1.3 * noise / math.sqrt(parameter.shape[1]))


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="ascii")


def write_tokenizer(folder: Path, added: list[str]) -> None:
    """tiny-bert's tokenizer without the padding it bakes in, and with marker tokens."""
    with tempfile.TemporaryDirectory() as place:
        for name in ("tokenizer.json", "tokenizer_config.json", "config.json"):
            shutil.copy(HERE / "tiny-bert" / name, place)
        raw = json.loads((Path(place) / "tokenizer.json").read_text())
        raw |= {"padding": None, "truncation": None}
        (Path(place) / "tokenizer.json").write_text(json.dumps(raw))
        tokenizer = AutoTokenizer.from_pretrained(place)
    tokenizer.add_tokens(added)
    tokenizer.save_pretrained(folder)


def make_colbert(folder: Path) -> None:
    """tiny-colbert: as Stanford's code saves it, with `linear.weight` among BERT's own tensors."""
    model = BertModel.from_pretrained(HERE / "tiny-bert", add_pooling_layer=False)
    model.resize_token_embeddings(603)
    randomize(model, seed=11)
    folder.mkdir(exist_ok=True)
    draw = torch.Generator().manual_seed(12)
    tensors = {f"bert.{name}": value.contiguous() for name, value in model.state_dict().items()}
    tensors["linear.weight"] = torch.randn((DIM, 36), generator=draw) / 6
    save_torch(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((HERE / "tiny-bert" / "config.json").read_text())
    write_json(folder / "config.json", config | {"architectures": ["HF_ColBERT"], "vocab_size": 603})
    write_tokenizer(folder, ["[unused0]", "[unused1]"])
    metadata = {"query_token_id": "[unused0]", "doc_token_id": "[unused1]", "query_token": "[Q]", "doc_token": "[D]"}
    metadata |= {"query_maxlen": 16, "doc_maxlen": 40, "attend_to_mask_tokens": False, "mask_punctuation": True}
    write_json(folder / "artifact.metadata", metadata | {"dim": DIM, "similarity": "cosine"})


def make_pylate(folder: Path) -> None:
    """tiny-pylate: as PyLate saves it; markers "[Q] " and "[D] " were added to the vocabulary."""
    with tempfile.TemporaryDirectory() as place:
        base = Path(place)
        BertModel.from_pretrained(HERE / "tiny-bert", add_pooling_layer=False).save_pretrained(base)
        write_tokenizer(base, [])
        options = {"query_length": 12, "document_length": 30, "skiplist_words": [",", "the"]}
        model = models.ColBERT(str(base), embedding_size=DIM, attend_to_expansion_tokens=True, device="cpu", **options)
        randomize(model, seed=13)
        shutil.rmtree(folder, ignore_errors=True)
        model.save(str(folder), create_model_card=False)


@torch.no_grad()
def by_hand(folder: Path, text: str, is_query: bool, **rules: object) -> torch.Tensor:
    """ColBERT's definition: [CLS] marker text [SEP], queries filled with [MASK]; BERT, linear, length one."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    length, marker = rules["length"], rules["marker"]
    ids = tokenizer(text, truncation=True, max_length=length - 1)["input_ids"]
    ids.insert(1, tokenizer.get_vocab()[marker])
    real = len(ids)
    if is_query and rules["expand"]:
        ids += [tokenizer.mask_token_id] * (length - real)
    seen = torch.ones(1, len(ids), dtype=torch.long)
    if not rules["attend"]:
        seen[:, real:] = 0
    tensors = load_file(folder / "model.safetensors")
    bert = BertModel.from_pretrained(HERE / "tiny-bert", add_pooling_layer=False, attn_implementation="eager")
    bert.resize_token_embeddings(603)
    modern = {"bert.": "", "LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    state = {}
    for name, value in tensors.items():
        for old, new in modern.items():
            name = name.replace(old, new)
        state[name] = value
    missing, _ = bert.load_state_dict(state, strict=False)
    assert not missing, missing
    linear = tensors.get("linear.weight")
    if linear is None:
        linear = load_file(folder / "1_Dense" / "model.safetensors")["linear.weight"]
    states = bert.eval()(torch.tensor([ids]), attention_mask=seen).last_hidden_state[0] @ linear.T
    vectors = torch.nn.functional.normalize(states, dim=1)
    skipped = [] if is_query else tokenizer.convert_tokens_to_ids(rules["skip"])
    return vectors[[i not in skipped for i in ids]]


def packed(name: str, matrices: list[np.ndarray]) -> dict[str, np.ndarray]:
    starts = np.cumsum([0, *map(len, matrices)]).astype(np.int64)
    return {name: np.concatenate(matrices).astype(np.float32), f"{name}_starts": starts}


def main() -> None:
    torch.set_num_threads(1)
    make_colbert(HERE / "tiny-colbert")
    make_pylate(HERE / "tiny-pylate")
    arrays: dict[str, np.ndarray] = {}
    punctuation = list(string.punctuation)
    colbert = {"query": 16, "document": 40, "markers": ("[unused0]", "[unused1]"), "skip": punctuation}
    pylate = {"query": 12, "document": 30, "markers": ("[Q] ", "[D] "), "skip": [",", "the"]}
    runs = [  # name, folder, rules, options that differ from the folder's own
        ("colbert", "tiny-colbert", colbert | {"attend": False, "expand": True}, {}),
        ("pylate", "tiny-pylate", pylate | {"attend": True, "expand": True}, {}),
        ("unseen", "tiny-pylate", pylate | {"attend": False, "expand": True}, {"attend_to_expansion_tokens": False}),
        ("bare", "tiny-pylate", pylate | {"attend": False, "expand": False}, {"do_query_expansion": False}),
    ]
    for name, folder, rules, options in runs:
        model = models.ColBERT(str(HERE / folder), device="cpu", **options)
        for is_query in (True, False):
            found = [model.encode([t], is_query=is_query, show_progress_bar=False)[0] for t in TEXTS]
            kind = "query" if is_query else "document"
            rule = rules | {"length": rules[kind], "marker": rules["markers"][not is_query]}
            for text, vectors in zip(TEXTS, found, strict=True):
                witness = by_hand(HERE / folder, text, is_query, **rule).numpy()
                assert witness.shape == vectors.shape, (name, kind, text, witness.shape, vectors.shape)
                assert np.abs(witness - vectors).max() < 2e-6, (name, kind, text, np.abs(witness - vectors).max())
            arrays |= packed(f"{name}_{kind}", found)
    start, end = arrays["colbert_document_starts"][7:9]
    matrix = torch.from_numpy(arrays["colbert_document"][start:end].copy())
    arrays["pooled"] = model.pool_embeddings_hierarchical([matrix], pool_factor=3)[0].numpy()
    save_file(dict(sorted(arrays.items())), HERE / "late.safetensors")
    write_json(HERE / "late.json", TEXTS)


if __name__ == "__main__":
    main()
