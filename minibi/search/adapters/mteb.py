"""For MTEB: a BiEncoder as its encoder protocol wants it, for versions 2 (data loaders) and 1 (lists of strings).

mteb.evaluate(MTEBEncoder(BiEncoder()), tasks)
MTEBEncoder(model, meta=mteb.ModelMeta.create_empty({"name": "my/model", "revision": "1"}))      # names the results
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from ...errors import InputError
from ...shapes import Floats
from .common import encoder_of


class MTEBEncoder:
    """encode, similarity, similarity_pairwise and mteb_model_meta over a BiEncoder.

    meta: MTEB's ModelMeta. options: for the model's encode; texts are cut silently at its limit unless they say else.
    """

    def __init__(self, model: Any, meta: Any = None, **options: Any):
        self.model, self.options = encoder_of(model), {"truncation": "silent", **options}
        name = getattr(model, "name", type(model).__name__)
        fallback = SimpleNamespace(name=f"minibi/{name}", revision=None, similarity_fn_name="cosine")
        self._meta = fallback if meta is None else meta

    @property
    def mteb_model_meta(self) -> Any:
        return self._meta

    def encode(
        self,
        inputs: Iterable[str] | Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any = None,
        hf_split: str | None = None,
        hf_subset: str | None = None,
        prompt_type: Any = None,
        **settings: Any,
    ) -> Floats:
        """Vectors [N, dim] of batches {"text": […]}, or of strings.

        prompt_type: "query" and "document" (or "passage") choose the model's prompts; None its default. settings:
        batch_size and show_progress_bar are passed on, the rest is for other encoders.
        """
        if isinstance(inputs, str):
            raise InputError("expected batches or a list of strings, not one string")
        texts: list[str] = []
        for item in inputs:
            if isinstance(item, str):
                texts.append(item)
            elif isinstance(item, Mapping) and "text" in item:
                texts += item["text"]
            else:
                raise InputError("expected strings, or batches with a field 'text': other modalities cannot be encoded")
        kind = getattr(prompt_type, "value", prompt_type)
        verbs = {None: self.model.encode, "query": self.model.encode_query}
        encode = verbs.get(kind, self.model.encode_document)
        passed = {name: settings[name] for name in ("batch_size", "show_progress_bar") if name in settings}
        return encode(texts, **{**passed, **self.options})

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Floats:
        """[A, B] by the model's own function, of arrays or tensors."""
        return self.model.similarity(np.asarray(embeddings1), np.asarray(embeddings2))

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Floats:
        """[N]: row by row."""
        a, b = (np.atleast_2d(np.asarray(x)) for x in (embeddings1, embeddings2))
        if a.shape != b.shape:
            raise InputError(f"pairs need embeddings of the same shape, not {list(a.shape)} and {list(b.shape)}")
        return np.array([self.model.similarity(x, y)[0, 0] for x, y in zip(a, b, strict=True)], np.float32)
