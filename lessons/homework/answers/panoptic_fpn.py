# Built by `lessons build` from solutions/10_panoptic_fpn.ipynb: edit that, not this.
"""Homework 10: Panoptic FPN.

Three exercises and a stretch turn the screws of the lesson: another order in the merge, a loss
that looks at hard pixels only, a weight that is measured instead of guessed, and a merge that is
one arg max.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def merge_stuff_first(
    masks: Bool[Tensor, "n h w"],
    labels: Int[Tensor, "n"],
    scores: Float[Tensor, "n"],
    semantic: Int[Tensor, "h w"],
    num_things: int,
    stuff_area: int,
) -> tuple[Bool[Tensor, "m h w"], Int[Tensor, "m"]]:
    """Disjoint masks and their labels; stuff claims its pixels before the instances."""
    free = torch.ones_like(semantic, dtype=torch.bool)
    claimed, owners = [masks[:0].any(0)[None][:0]], []
    for label in semantic.unique().tolist():
        region = semantic == label
        if num_things <= label != 255 and region.sum() >= stuff_area:
            claimed.append(region[None])
            owners.append(label)
            free &= ~region
    for k in scores.argsort(descending=True, stable=True).tolist():
        visible = masks[k] & free
        area, left = int(masks[k].sum()), int(visible.sum())
        if scores[k] >= 0.5 and left > 0 and 2 * (area - left) <= area:
            claimed.append(visible[None])
            owners.append(int(labels[k]))
            free &= ~visible
    return torch.cat(claimed), torch.tensor(owners, dtype=torch.int64)


def hard_pixel_loss(
    logits: Float[Tensor, "b k h w"], targets: Int[Tensor, "b h w"], share: float
) -> Float[Tensor, ""]:
    """The mean cross-entropy of the hardest `share` of the pixels that are not void (255)."""
    each = F.cross_entropy(logits, targets, ignore_index=255, reduction="none")
    each = each[targets != 255]
    if not len(each):
        return logits.sum() * 0
    return each.topk(math.ceil(share * len(each))).values.mean()


def gradient_balance(
    first: list[Float[Tensor, "..."] | None], second: list[Float[Tensor, "..."] | None]
) -> tuple[float, float]:
    """The weight of the second loss that makes both equally loud, and the cosine between them."""
    dot = sum(
        float((a * b).sum())
        for a, b in zip(first, second, strict=True)
        if a is not None and b is not None
    )
    one, two = (
        math.sqrt(sum(float(g.square().sum()) for g in side if g is not None))
        for side in (first, second)
    )
    return one / two, dot / (one * two)


def panoptic_head(
    logits: Float[Tensor, "k h w"], mask_logits: Float[Tensor, "n h w"], boxes: Int[Tensor, "n 4"]
) -> Int[Tensor, "h w"]:
    """The winner of each pixel: a stuff class 0 … S−1, or S + i for instance i (UPSNet)."""
    y = torch.arange(logits.shape[1])[:, None]
    x = torch.arange(logits.shape[2])
    x0, y0, x1, y1 = boxes.T[..., None, None]
    inside = (x >= x0) & (x < x1) & (y >= y0) & (y < y1)
    things = (logits[0] + mask_logits).masked_fill(~inside, -torch.inf)
    return torch.cat([logits[1:], things]).argmax(dim=0)
