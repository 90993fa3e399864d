"""Makes every golden file of this folder: what torch, transformers and sentence-transformers say, frozen once.

Run with Python 3.11.7, torch 2.13.0 (CPU), transformers 5.23.0, sentence-transformers 6.2.0, tokenizers 0.23.3,
safetensors 0.8.0, NumPy 2.4.6. Not part of the test run: tests read the files it wrote. All random weights are seeded.

    python tests/golden/make.py --original FOLDER --weights weights/all-MiniLM-L6-v2 --out tests/golden

`FOLDER` holds the published float32 model. Every text and every pair goes through its model alone, so that no padding
can touch it, on one thread, in float32. README.md beside this file lists what each file holds.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from make_texts import make_pairs, make_texts
from make_tiny import SPECIALS, make_cross_encoder, make_cross_encoder_3, make_new, make_old, vocabulary, write_json
from safetensors.numpy import load_file, save
from sentence_transformers import CrossEncoder, SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer

STUDIED = 0  # the text whose layers and attention maps are kept
TINY_TEXTS = [
    "the quick brown fox",
    "",
    " ",
    "a",
    "?",
    "hello, world!",
    "How do I read a file line by line?",
    "WHY IS THE SKY BLUE",
    "Café crème",
    "字 and 漢字",
    "😀",
    "running runs runner unhelpfulness",
    "x" * 101,
    "[CLS] the [MASK] [SEP]",
    "1234567890",
    "tab\tnew\nline\x00nul",
    "bread rises because yeast turns sugar into carbon dioxide",
    "query: the list",
    "the " * 22,  # 24 tokens: as many as tokenizer.json bakes in
    "the " * 23,
    "the of to and in " * 9 + "it",  # 48 tokens: just fits
    "the of to and in " * 9 + "it is",  # one too many
    "the of to and in " * 12 + "it is",  # 64 tokens, the whole position table, without a prompt
    "everything that is stored can be found again " * 20,
]


class Seen:
    """Records the ids and types that reach a BERT model's embedding tables, by hooks on their calls."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.ids: list[int] = []
        self.types: list[int] = []
        for name, module in model.named_modules():
            if name.endswith("word_embeddings"):
                module.register_forward_pre_hook(lambda _, given: self.ids.__setitem__(slice(None), rows(given[0])))
            if name.endswith("token_type_embeddings"):
                module.register_forward_pre_hook(lambda _, given: self.types.__setitem__(slice(None), rows(given[0])))


def rows(table: torch.Tensor) -> list[int]:
    """The one row of a batch of one."""
    assert table.shape[0] == 1, "every text goes alone"
    return table[0].tolist()


def packed(prefix: str, lists: list[list[int]]) -> dict[str, np.ndarray]:
    """Lists end to end: `ids` (T,) int32 and `starts` (B + 1,) int64."""
    starts = np.cumsum([0] + [len(one) for one in lists])
    return {f"{prefix}ids": np.concatenate(lists).astype(np.int32), f"{prefix}starts": starts.astype(np.int64)}


def load(folder: Path, **options: object) -> SentenceTransformer:
    """A sentence-transformers model computing in float32 on the CPU, whatever its file stores."""
    options = {"dtype": torch.float32, **options}
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True, model_kwargs=options).eval()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    return model


def alone(model: SentenceTransformer, texts: list[str], verb: str = "encode") -> tuple[np.ndarray, list[list[int]]]:
    """(embeddings (B, C) float32, the token ids that the transformer saw), one call per text."""
    seen, vectors, ids = Seen(model[0].model), [], []
    for text in texts:
        vectors.append(getattr(model, verb)([text], show_progress_bar=False)[0])
        ids.append(seen.ids.copy())
    return np.stack(vectors).astype(np.float32), ids


def write(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Writes a .safetensors file and reads it back."""
    path.write_bytes(save({name: np.ascontiguousarray(a) for name, a in arrays.items()}))
    again = load_file(path)
    assert all(np.array_equal(again[name], a) and again[name].dtype == a.dtype for name, a in arrays.items())
    for name, a in arrays.items():
        assert a.dtype.kind != "f" or np.isfinite(a).all(), name
        print(f"{path.name}  {name}  {a.dtype}  {a.shape}")


@torch.inference_mode()
def minilm(original: Path, weights: Path, texts: list[str]) -> dict[str, np.ndarray]:
    """Ids and embeddings of all texts by both weights; layers and attention maps of one text by the rounded ones."""
    rounded = load(weights)
    vectors, ids = alone(rounded, texts)
    vectors_original, ids_original = alone(load(original), texts)
    library = Tokenizer.from_file(str(weights / "tokenizer.json"))
    library.no_padding()
    library.no_truncation()
    full = [library.encode(text).ids for text in texts]
    assert ids == ids_original and len(texts) == 200
    assert [one[:255] for one in full] == [one[:255] for one in ids] and max(map(len, ids)) == 256

    eager = load(weights, attn_implementation="eager")[0].model
    outputs = eager(
        input_ids=torch.tensor([ids[STUDIED]]),
        attention_mask=torch.ones(1, len(ids[STUDIED]), dtype=torch.long),
        output_hidden_states=True,
        output_attentions=True,
    )
    states = torch.cat(outputs.hidden_states).numpy()
    mean = states[-1].mean(axis=0)
    assert np.abs(mean / np.linalg.norm(mean) - vectors[STUDIED]).max() < 1e-6
    print(f"float16 storage moves an embedding by at most {np.abs(vectors - vectors_original).max():.3g}")
    print(f"and its cosine by at most {1 - (vectors * vectors_original).sum(axis=1, dtype=np.float64).min():.3g}")
    return {
        **packed("", ids),
        "full_lengths": np.array([len(one) for one in full], np.int64),
        "embeddings_original": vectors_original,
        "embeddings_rounded": vectors,
        "states_text": np.array([STUDIED], np.int64),
        "states": states,
        "attention": torch.cat(outputs.attentions).numpy(),
    }


@torch.inference_mode()
def tiny(old: Path, new: Path) -> dict[str, np.ndarray]:
    """tiny-bert: ids, token embeddings, each pooling of them, embeddings; tiny-bert-new: three ways to encode."""
    model = load(old)
    vectors, ids = alone(model, TINY_TEXTS)
    encoded = [model.encode([text], output_value="token_embeddings")[0].numpy() for text in TINY_TEXTS]
    assert [len(one) for one in encoded] == [len(one) for one in ids]
    arrays = {**packed("", ids), "token_embeddings": np.concatenate(encoded), "embeddings": vectors}
    for mode in (*Pooling.POOLING_MODES, ("cls", "mean")):
        pooling, rows = Pooling(model.get_embedding_dimension(), mode), []
        for one in encoded:
            features = {"token_embeddings": torch.tensor(one)[None], "attention_mask": torch.ones(1, len(one)).long()}
            rows.append(pooling(features)["sentence_embedding"][0].numpy())
        arrays["pooled_" + (mode if isinstance(mode, str) else "_".join(mode))] = np.stack(rows)
    model = load(new)
    for verb in ("encode", "encode_query", "encode_document"):
        vectors, ids = alone(model, TINY_TEXTS, verb)
        arrays |= {**packed(f"new_{verb}_", ids), f"new_{verb}": vectors}
    return arrays


def cross_encoder(folder: Path, pairs: list[tuple[str, str]]) -> dict[str, list]:
    """What one cross-encoder sees of every pair, and what it says: logits, and their sigmoid or softmax."""
    model = CrossEncoder(str(folder), device="cpu", local_files_only=True, model_kwargs={"dtype": torch.float32})
    seen = Seen(model[0].model)
    squash = torch.nn.Sigmoid() if model.num_labels == 1 else torch.nn.Softmax(dim=-1)
    result: dict[str, list] = {"ids": [], "types": [], "logits": [], "scores": []}
    for pair in pairs:
        result["logits"].append(model.predict([pair], activation_fn=torch.nn.Identity())[0].tolist())
        result["scores"].append(model.predict([pair], activation_fn=squash)[0].tolist())
        result["ids"].append(seen.ids.copy())
        result["types"].append(seen.types.copy())
    lengths, logits = [len(one) for one in result["ids"]], np.array(result["logits"])
    print(f"{folder.name}: {len(pairs)} pairs, {min(lengths)} to {max(lengths)} tokens, logits {logits.std(0)} around")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--original", type=Path, required=True, help="folder of all-MiniLM-L6-v2 in float32")
    parser.add_argument("--weights", type=Path, required=True, help="the converted folder")
    parser.add_argument("--out", type=Path, required=True, help="where the golden files go")
    args = parser.parse_args()
    torch.set_num_threads(1)
    texts = make_texts()
    write_json(args.out / "texts.json", texts)
    write(args.out / "minilm.safetensors", minilm(args.original, args.weights, texts))

    pieces = vocabulary(texts)
    assert len(pieces) == len(set(pieces)) == 601 and pieces[: len(SPECIALS)] == SPECIALS
    make_old(args.out / "tiny-bert", pieces)
    make_new(args.out / "tiny-bert-new", args.out / "tiny-bert")
    write(args.out / "tiny.safetensors", tiny(args.out / "tiny-bert", args.out / "tiny-bert-new"))
    write_json(args.out / "tiny.json", TINY_TEXTS)

    make_cross_encoder(args.out / "tiny-cross-encoder", pieces, seed=3)
    make_cross_encoder_3(args.out / "tiny-cross-encoder-3", pieces, seed=4)
    pairs = make_pairs()
    folders = ("tiny-cross-encoder", "tiny-cross-encoder-3")
    write_json(
        args.out / "cross_encoder.json", {"pairs": pairs, **{f: cross_encoder(args.out / f, pairs) for f in folders}}
    )
    for path in args.out.glob("tiny-*/**/model.safetensors"):
        path.chmod(0o644)  # safetensors leaves the files that it saves to their owner alone


if __name__ == "__main__":
    main()
