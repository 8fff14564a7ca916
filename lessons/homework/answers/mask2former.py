# Built by `lessons build` from solutions/15_mask2former.ipynb: edit that, not this.
"""Homework 15: Mask2Former.

Three exercises take the parts of the lesson into your own hands: masked attention without a
library call, a mask that is not all or nothing, and what importance sampling does to a mean.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F


def masked_attention(
    queries: Float[Tensor, "q c"],
    keys: Float[Tensor, "s c"],
    values: Float[Tensor, "s d"],
    mask_logits: Float[Tensor, "q s"],
) -> Float[Tensor, "q d"]:
    """What each query takes from the cells inside of its mask."""
    blocked = mask_logits < 0
    blocked = blocked & ~blocked.all(dim=1, keepdim=True)
    scores = queries @ keys.T / math.sqrt(queries.shape[1])
    return scores.masked_fill(blocked, -math.inf).softmax(dim=1) @ values


def attention_bias(
    mask_logits: Float[Tensor, "b q h w"], size: tuple[int, int], sharpness: float
) -> Float[Tensor, "b q cells"]:
    """What to add to the attention's scores, from 0 inside of a mask to very negative outside."""
    resized = F.interpolate(mask_logits.detach(), size, mode="bilinear", align_corners=False)
    return sharpness * F.logsigmoid(resized.flatten(2))


def importance_estimate(
    logits: Float[Tensor, "n"], losses: Float[Tensor, "n"], chosen: Int[Tensor, "k"]
) -> Float[Tensor, ""]:
    """An estimate of losses.mean() from the chosen pixels, right on average."""
    uncertainty = torch.exp(-logits.abs())
    probability = 0.75 * uncertainty / uncertainty.sum() + 0.25 / len(logits)
    return (losses[chosen] / (len(logits) * probability[chosen])).mean()
