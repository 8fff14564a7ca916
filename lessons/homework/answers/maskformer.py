# Built by `lessons build` from solutions/13_maskformer.ipynb: edit that, not this.
"""Homework 13: MaskFormer.

One exercise on the title of the paper: in what sense classifying pixels is a special case of
classifying masks, and what it lacks.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def as_masks(
    x: Float[Tensor, "k h w"],
) -> tuple[Float[Tensor, "k k1"], Float[Tensor, "k h w"]]:
    """A pixel classifier's logits as a set of K queries: class logits and mask logits."""
    k = len(x)
    class_logits = 30 * torch.eye(k, k + 1, dtype=x.dtype)
    others = [x[torch.arange(k) != c].logsumexp(dim=0) for c in range(k)]
    return class_logits, x - torch.stack(others)
