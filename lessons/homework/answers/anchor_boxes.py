# Built by `lessons build` from solutions/02_anchor_boxes.ipynb: edit that, not this.
"""Homework 02: anchor boxes.

Two exercises on what lesson 02 left open: a suppression that does not delete, and an overlap that
still speaks when boxes are apart.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from lessons.anchor_boxes import box_iou


def soft_nms(
    boxes: Float[Tensor, "n 4"], scores: Float[Tensor, "n"], sigma: float
) -> Float[Tensor, "n"]:
    """The scores after Gaussian soft-NMS (Bodla et al. 2017), one for each box, in their order."""
    scores, left = scores.clone(), torch.ones(len(boxes), dtype=torch.bool)
    decay = torch.exp(-box_iou(boxes, boxes).square() / sigma)
    for _ in range(len(boxes)):
        best = scores.where(left, -1).argmax()
        left[best] = False
        scores = scores.where(~left, scores * decay[best])
    return scores


def giou(boxes: Float[Tensor, "n 4"], others: Float[Tensor, "m 4"]) -> Float[Tensor, "n m"]:
    """Generalised IoU of every box with every other (Rezatofighi et al. 2019), −1 … 1."""
    first, second = boxes[:, None], others[None]
    inner = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(
        first[..., :2], second[..., :2]
    )
    outer = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(
        first[..., :2], second[..., :2]
    )
    both, around = inner.clamp(min=0).prod(dim=-1), outer.prod(dim=-1)
    area, other = ((b[..., 2:] - b[..., :2]).prod(dim=-1) for b in (first, second))
    either = area + other - both
    return both / either - (around - either) / around
