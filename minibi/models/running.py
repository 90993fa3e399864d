"""What all encoders share: which interpreter runs a model, and how many texts become batches on several threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..arguments import whole
from ..environment import plain_kernels, thread_count
from ..errors import InputError
from ..shapes import Floats
from ..text.batches import Batch, pack, plan
from ..text.tokenizer import Tokens, as_texts
from ..threads import parallel_map
from . import bert

# Tokens that go through all layers together: bytes keep their activations in a second-level cache of 1 MB; float32
# takes longer for each token and gains more from widening a weight once for many of them.
TOKENS_AT_ONCE = {"float32": 512, "int8": 256}
PARTS = 4  # such groups of texts in one batch: what Python does around a batch takes nearly as long for one


class Runner:
    """A BERT ready to run on packed batches: recorded once as a program of kernels, or verb by verb on `plain`."""

    def __init__(
        self, tensors: Mapping[str, NDArray], config: bert.BertConfig, where: object, compute: str = "float32"
    ):
        if compute not in ("float32", "int8"):
            raise InputError(f"compute is 'float32' or 'int8', not {compute!r}")
        self.ops = interpreter()
        self.config = config
        self.at_once = TOKENS_AT_ONCE[compute]
        self.params = bert.read_params(tensors, config, self.ops, where, compute)
        self._programs: dict[bool, Any] = {}

    def states(self, batch: Batch, first_only: bool = False, threads: int = 1) -> Floats:
        """The last layer's states [T, C], or [B, C] of each text's first token; the same bits either way.

        threads: of which a single text may make use.
        """
        if self.ops.name == "plain" or not len(batch.ids):
            h = bert.forward(self.ops, self.params, self.config, batch)
            return self.ops.first_rows(h, batch.starts) if first_only else h
        bert.check_lengths(batch, self.config)
        if first_only not in self._programs:
            self._programs[first_only] = self._record(first_only)
        return self._programs[first_only].run(batch.ids, batch.types, batch.starts, threads)

    def _record(self, first_only: bool) -> Any:
        from ..nn.replay import Program, Recorder

        recorder = Recorder()
        result = bert.layers(recorder, self.params, self.config, None, None, None, None, None, first_only)
        return Program(recorder, result, (self.config.heads, self.config.channels // self.config.heads), self.at_once)


def interpreter() -> Any:
    """The verbs to run models on: `fused` kernels, or `plain` NumPy under MINIBI_KERNELS=plain."""
    if plain_kernels():
        from ..nn import plain

        return plain
    from ..nn import fused

    return fused


def run_batches(
    ids: Sequence[Tokens],
    work: Callable[[Batch, int], Sequence[Any]],
    *,
    types: Sequence[Tokens] | None = None,
    batch_size: int | None = None,
    token_budget: int | None = None,
    at_once: int,
    threads: int | None = None,
    show_progress_bar: bool = False,
    progress: Callable[[int], object] | None = None,
    into: NDArray[Any] | None = None,
) -> list[Any] | NDArray[Any]:
    """`work(batch, its threads)` on packed batches of similar lengths; its results, one per token list, in their order.

    batch_size, token_budget: at most so many texts and tokens in a batch. at_once: the tokens that a model likes best.
    progress: told the tokens of each batch when it is done. into: an array for the results, instead of a list.
    """
    for name, value in (("batch_size", batch_size), ("token_budget", token_budget)):
        if value is not None:
            whole(name, value, 1)
    threads = thread_count(threads)
    lengths = [len(i) for i in ids]
    results: list[Any] | NDArray[Any] = [None] * len(ids) if into is None else into

    if len(ids) == 1:  # a single query goes straight through
        results[0] = work(pack(ids, types), threads)[0]
        if progress:
            progress(lengths[0])
        return results

    def jobs() -> Iterator[tuple[NDArray[np.int64], Batch]]:
        groups = plan(lengths, tokens=token_budget or at_once, texts=batch_size)
        most = 1 if token_budget or batch_size else PARTS
        first = 0
        while first < len(groups):  # less and less at a time, so that at the end no thread waits long for another
            parts = most if threads == 1 else max(1, min(most, (len(groups) - first) // (8 * threads)))
            rows = np.concatenate(groups[first : first + parts])
            yield rows, pack([ids[i] for i in rows], None if types is None else [types[i] for i in rows])
            first += parts

    def run(job: tuple[NDArray[np.int64], Batch]) -> tuple[NDArray[np.int64], Batch, Sequence[Any]]:
        return *job, work(job[1], 1)

    with _bar(sum(lengths), show_progress_bar) as bar:
        for rows, batch, out in parallel_map(run, jobs(), threads):
            for row, result in zip(rows.tolist(), out, strict=True):
                results[row] = result
            bar.update(len(batch.ids))
            if progress:
                progress(len(batch.ids))
    return results


def ranked(
    scores: Callable[[str, list[str]], Any], query: str, documents: Sequence[str], top_k: int | None, with_text: bool
) -> list[dict[str, Any]]:
    """The documents best first, as sentence-transformers writes it; equal scores keep their order. Raises InputError.

    scores: of a query with each of several texts.
    """
    if top_k is not None:
        whole("top_k", top_k, 1)
    if not isinstance(query, str):
        raise InputError(f"rank orders documents for one query, a string, not {type(query).__name__}")
    texts = as_texts(documents)
    found = np.asarray(scores(query, texts))
    best = np.argsort(-found, kind="stable")[:top_k].tolist()
    return [{"corpus_id": i, "score": float(found[i])} | ({"text": texts[i]} if with_text else {}) for i in best]


def _bar(total: int, show: bool) -> Any:
    """A progress bar over tokens; silent when not asked for or not at a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, desc="encoding", unit="tok", unit_scale=True, disable=None if show else True)
