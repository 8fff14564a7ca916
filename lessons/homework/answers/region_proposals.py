# Built by `lessons build` from solutions/03_region_proposals.ipynb: edit that, not this.
"""Homework 03: region proposals.

An exercise and a stretch on what lesson 03 left open: the rule that sends a box to its level, and
anchors that fit the data.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


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
