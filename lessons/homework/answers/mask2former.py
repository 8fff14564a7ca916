# Built by `lessons build` from solutions/15_mask2former.ipynb: edit that, not this.
"""Homework 12: Mask2Former.

Three exercises and a stretch take the parts of the lesson into your own hands: masked attention
without a library call, a mask that is not all or nothing, what importance sampling does to a mean,
and deformable attention corner by corner.
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


def deform(
    values: Float[Tensor, "h w c"],
    references: Float[Tensor, "q 2"],
    offsets: Float[Tensor, "q k 2"],
    weights: Float[Tensor, "q k"],
) -> Float[Tensor, "q c"]:
    """What each query gathers from the map at its places."""
    h, w, _ = values.shape
    place = references[:, None] * references.new_tensor([w, h]) - 0.5 + offsets
    low = place.floor()
    beyond = place - low  # how far it is to the next cell
    out = values.new_zeros(len(references), values.shape[2])
    for right in (0, 1):
        for down in (0, 1):
            j, i = low[..., 0].long() + right, low[..., 1].long() + down
            near = (beyond[..., 0] if right else 1 - beyond[..., 0]) * (
                beyond[..., 1] if down else 1 - beyond[..., 1]
            )
            inside = (i >= 0) & (i < h) & (j >= 0) & (j < w)
            found = values[i.clamp(0, h - 1), j.clamp(0, w - 1)]
            out = out + ((weights * near * inside)[..., None] * found).sum(dim=1)
    return out
