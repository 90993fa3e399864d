"""Every loss is a pure function: arrays in, (loss, gradients) out.

What comes by position is learned, and has its gradient in the same place of the tuple; what comes by keyword (labels, a
teacher's scores, options) is given. float32 in use, float64 where gradients are checked; the loss is a float.

    ranking      info_nce, info_nce_learned_scale, gist_embed; what to leave out: *_masks
    triplets     triplet, batch_all_triplet, batch_hard_triplet, batch_semi_hard_triplet
    pairs        contrastive, online_contrastive, cosine_similarity, cosent
    scores       mse, margin_mse, kl_divergence, list_net, rank_net, rank_net_pairs, binary_cross_entropy, cross_entropy
    bridges      of_embeddings and of_tokens turn a loss of scores into one of vectors; maxsim
                 embed_distill and score_distill: the teacher's vectors, or its scores
    nested       matryoshka: any loss of vectors, at several widths at once; with_labels: a teacher's beside info_nce
    cached       grad_cache: any loss of vectors, over batches that do not fit in memory
"""

from .bridges import embed_distill, maxsim, maxsim_grad, of_embeddings, of_tokens, score_distill
from .cached import grad_cache
from .nested import matryoshka, with_labels
from .pairs import contrastive, cosent, cosine_similarity, online_contrastive
from .ranking import gist_embed, guide_masks, info_nce, info_nce_learned_scale, merge_masks, same_text_masks
from .scores import (
    binary_cross_entropy,
    cross_entropy,
    kl_divergence,
    list_net,
    margin_mse,
    mse,
    rank_net,
    rank_net_pairs,
)
from .similarity import Loss, LossFunction
from .triplets import batch_all_triplet, batch_hard_triplet, batch_semi_hard_triplet, triplet

__all__ = [
    "Loss",
    "LossFunction",
    "batch_all_triplet",
    "batch_hard_triplet",
    "batch_semi_hard_triplet",
    "binary_cross_entropy",
    "contrastive",
    "cosent",
    "cosine_similarity",
    "cross_entropy",
    "embed_distill",
    "gist_embed",
    "grad_cache",
    "guide_masks",
    "info_nce",
    "info_nce_learned_scale",
    "kl_divergence",
    "list_net",
    "margin_mse",
    "matryoshka",
    "maxsim",
    "maxsim_grad",
    "merge_masks",
    "mse",
    "of_embeddings",
    "of_tokens",
    "online_contrastive",
    "rank_net",
    "rank_net_pairs",
    "same_text_masks",
    "score_distill",
    "triplet",
    "with_labels",
]
