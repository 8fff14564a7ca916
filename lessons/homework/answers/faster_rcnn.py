# Built by `lessons build` from solutions/02_faster_rcnn.ipynb: edit that, not this.
"""Homework 02: boxes.

Three exercises and a stretch on what lesson 02 left open: a suppression that does not delete, an
overlap that still speaks when boxes are apart, the rule that sends a box to its level, and anchors
that fit the data.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lessons.faster_rcnn import box_iou


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


def assign_levels(
    boxes: Float[Tensor, "n 4"],
    lowest: int,
    highest: int,
    reference_level: int,
    reference_size: float,
) -> Int[Tensor, "n"]:
    """The index of the pyramid level that each box is read from (Lin et al. 2017, eq. 1)."""
    size = (boxes[:, 2:] - boxes[:, :2]).prod(dim=-1).sqrt()
    level = torch.floor(reference_level + torch.log2(size / reference_size) + 1e-6)
    return level.clamp(lowest, highest).long() - lowest


def anchor_shapes(
    sizes: Float[Tensor, "n 2"], shapes: Float[Tensor, "k 2"], rounds: int
) -> Float[Tensor, "k 2"]:
    """The shapes (width, height) after k-means with the distance 1 − IoU (YOLOv2's anchors)."""
    shapes = shapes.clone()
    for _ in range(rounds):
        both = torch.minimum(sizes[:, None], shapes).prod(dim=-1)
        iou = both / (sizes.prod(dim=-1)[:, None] + shapes.prod(dim=-1) - both)
        nearest = iou.argmax(dim=1)
        for k in nearest.unique():
            shapes[k] = sizes[nearest == k].mean(dim=0)
    return shapes
