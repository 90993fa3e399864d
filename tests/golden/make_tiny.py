"""Small models with random weights and awkward sizes, in the folder layouts that published models come in.

Width 36 in 3 heads of 12, feed-forward 72, 2 layers, 64 positions, 601 word pieces: no size is a multiple of a vector
register. All weights are drawn with fixed seeds and scaled so that a forgotten term shows. Needs torch and its friends.
"""

from __future__ import annotations

import collections
import json
import math
import re
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from transformers import BertConfig, BertForSequenceClassification, BertModel

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SUFFIXES = "es ed er ers est ing ings ly ness less ful able ible ment ments tion ation ity al ial ic ous ive en le th"
PROMPTS = {"query": "query: ", "document": "passage: "}
VOCABULARY = 601


def vocabulary(texts: list[str]) -> list[str]:
    """Specials, printable ASCII, ##letters and ##digits, suffixes, then the commonest words of `texts`: 601 in all."""
    singles = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    inner = ["##" + c for c in singles if c.isalnum()] + ["##" + s for s in SUFFIXES.split()]
    counts = collections.Counter(w for text in texts for w in re.findall(r"[a-z]{2,}", text.lower()))
    words = sorted(counts, key=lambda w: (-counts[w], w))
    return (SPECIALS + singles + inner + words)[:VOCABULARY]


def write_json(path: Path, value: object) -> None:
    """ASCII only, so that no editor or checkout can change an invisible character; rows of numbers on one line."""
    text = re.sub(r"\[\n[-+.\de,\s]+\]", lambda row: re.sub(r"\s+", " ", row[0]), json.dumps(value, indent=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="ascii")


def write_tokenizer(folder: Path, pieces: list[str], baked: int | None, limit: int) -> None:
    """tokenizer.json (with truncation and fixed padding at `baked` tokens inside, if given) and its config."""
    tokenizer = Tokenizer(WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    if baked:
        tokenizer.enable_truncation(baked)
        tokenizer.enable_padding(length=baked)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    config = {**names, "do_lower_case": True, "model_max_length": limit, "tokenizer_class": "BertTokenizer"}
    write_json(folder / "tokenizer_config.json", config)


def config(**changes: object) -> BertConfig:
    sizes = {"hidden_size": 36, "num_attention_heads": 3, "intermediate_size": 72, "num_hidden_layers": 2}
    return BertConfig(vocab_size=VOCABULARY, max_position_embeddings=64, **{**sizes, **changes})


@torch.no_grad()
def randomize(model: torch.nn.Module, seed: int) -> None:
    """Draws every parameter anew: attention far from uniform, norms away from the identity, no bias zero."""
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(model.named_parameters()):
        noise = torch.randn(parameter.shape, generator=draw)
        if parameter.ndim == 1:
            parameter.copy_(1 + 0.2 * noise if "LayerNorm.weight" in name else 0.1 * noise)
        elif "embeddings" in name:
            parameter.copy_(0.5 * noise)
        else:
            scale = 4.0 if "classifier" in name else 1.3  # logits far apart
            parameter.copy_(scale * noise / math.sqrt(parameter.shape[1]))


def make_old(folder: Path, pieces: list[str]) -> None:
    """tiny-bert: the dialect before sentence-transformers 5.x; mean pooling, not normalized; 48 tokens, 24 baked in."""
    model = BertModel(config())
    randomize(model, seed=1)
    model.save_pretrained(folder)
    write_tokenizer(folder, pieces, baked=24, limit=64)
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
    rows = enumerate(kinds)
    modules = [{"idx": i, "name": str(i), "path": p, "type": f"sentence_transformers.models.{k}"} for i, (p, k) in rows]
    write_json(folder / "modules.json", modules)
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": False})
    write_json(folder / "config_sentence_transformers.json", {"__version__": {"sentence_transformers": "2.0.0"}})
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    modes = {f"pooling_mode_{name}": name == "mean_tokens" for name in names}
    write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": 36, **modes})


def make_new(folder: Path, old: Path) -> None:
    """tiny-bert-new: tiny-bert's weights as sentence-transformers 6 saves them; tanh-GELU, cls, Dense, prompts.

    The word vectors are then stored as bfloat16 and one matrix as float16, so that one file holds three dtypes.
    """
    changed = {"hidden_act": "gelu_new", "layer_norm_eps": 1e-3}
    transformer = Transformer(str(old), config_kwargs=changed)
    transformer.max_seq_length = 64
    dense = Dense(36, 20, activation_function=torch.nn.Tanh())
    randomize(dense, seed=2)
    modules = [transformer, Pooling(36, "cls"), dense, Normalize()]
    SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu").save(str(folder), create_model_card=False)
    tensors = load_file(folder / "model.safetensors")
    words, matrix = "embeddings.word_embeddings.weight", "encoder.layer.1.intermediate.dense.weight"
    tensors[words] = tensors[words].bfloat16()
    tensors[matrix] = tensors[matrix].half()
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))


def make_cross_encoder(folder: Path, pieces: list[str], seed: int) -> None:
    """tiny-cross-encoder: one label, as transformers saves it, which is how most rerankers are published."""
    model = BertForSequenceClassification(config(num_labels=1))
    randomize(model, seed)
    model.config.sentence_transformers = {"activation_fn": "torch.nn.modules.linear.Identity", "version": "4.1.0"}
    model.save_pretrained(folder)
    write_tokenizer(folder, pieces, baked=None, limit=512)  # beyond the 64 positions: the smaller one counts


def make_cross_encoder_3(folder: Path, pieces: list[str], seed: int) -> None:
    """tiny-cross-encoder-3: three labels, relu, a limit of 40 tokens, as sentence-transformers 6 itself saves it."""
    model = BertForSequenceClassification(config(num_labels=3, hidden_act="relu"))
    randomize(model, seed)
    with tempfile.TemporaryDirectory() as plain:
        model.save_pretrained(plain)
        write_tokenizer(Path(plain), pieces, baked=None, limit=64)
        CrossEncoder(plain, device="cpu", max_length=40).save_pretrained(str(folder), create_model_card=False)
