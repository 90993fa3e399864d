"""GradCache: contrastive batches of thousands in the memory of tens (Gao et al. 2021, section 3.2).

In-batch negatives tie every text of a batch to every other, but only through the embeddings. So: embed chunk by chunk
and forget the activations; take the loss and its gradient by the embeddings of the whole batch; then embed each chunk
once more, now to walk back through it. One more forward pass buys memory for one chunk instead of the batch, and the
gradient is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from ...errors import InputError
from .similarity import Array, Loss, LossFunction

Chunk = TypeVar("Chunk")


def grad_cache(
    columns: Sequence[Sequence[Chunk]],
    embed: Callable[[Chunk], Array],
    backward: Callable[[Chunk, Array], object],
    loss: LossFunction,
) -> Loss:
    """The loss of a batch that is too large for one pass, and its gradients by the embeddings.

    columns: for each array that the loss takes (queries, positives, ...) its chunks, of whatever kind the two callables
    understand. embed(chunk) -> [b, C], keeping nothing; backward(chunk, gradient [b, C]) embeds again and adds to the
    gradients of the parameters. Each gets the very same object, so a chunk that carries a seed has the same dropout
    both times. A loss with further parameters in front (a learned scale) gives their gradients in front.
    Raises InputError.
    """
    if not columns or not all(len(column) for column in columns):
        raise InputError("grad_cache needs at least one chunk in every column")
    parts = [[embed(chunk) for chunk in column] for column in columns]
    value, gradients = loss(*(np.concatenate(part) for part in parts))
    for column, part, gradient in zip(columns, parts, gradients[-len(columns) :], strict=True):
        first = 0
        for chunk, vectors in zip(column, part, strict=True):
            backward(chunk, gradient[first : first + len(vectors)])
            first += len(vectors)
    return value, gradients
