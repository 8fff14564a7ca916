# Built by `lessons build` from solutions/09_panoptic_quality.ipynb: edit that, not this.
"""Homework 09: panoptic quality.

Three exercises and a stretch question what PQ takes for granted: a threshold for stuff too, a
border that is exact to the pixel, an answer without scores, and segments that all weigh the same.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F


def stuff_iou(
    predicted: Bool[Tensor, "b h w"], true: Bool[Tensor, "b h w"], void: Bool[Tensor, "b h w"]
) -> float:
    """PQ† of one stuff class: the mean IoU over the images that truly have it."""
    there = true.any((1, 2))
    p, g = (predicted & ~void)[there], true[there]
    iou = (p & g).sum((1, 2)).double() / (p | g).sum((1, 2))
    return iou.mean().item()  # the mean of nothing is NaN


def tolerant_iou(predicted: Bool[Tensor, "h w"], true: Bool[Tensor, "h w"], width: int) -> float:
    """IoU outside a band of `width` pixels on both sides of the true outline."""

    def grown(mask):
        return F.max_pool2d(mask[None].float(), 2 * width + 1, stride=1, padding=width)[0] > 0

    judged = ~(grown(true) & grown(~true))
    if not (true & judged).any():
        judged = torch.ones_like(true)
    both = (predicted & true & judged).sum().item()
    return both / ((predicted | true) & judged).sum().item()


def ap_and_pq(
    scores: Float[Tensor, "d"], iou: Float[Tensor, "d"], num_things: int
) -> tuple[float, float]:
    """AP50 by its exact area, and PQ, of the detections of one class."""
    right = (iou >= 0.5)[scores.argsort(descending=True)].double().cumsum(0)
    precision = right / torch.arange(1, len(right) + 1)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    steps = right.diff(prepend=right.new_zeros(1)) / num_things
    ap = (steps * envelope).sum().item()
    pq = iou[iou > 0.5].double().sum().item() / ((len(iou) + num_things) / 2)
    return ap, pq


def parsing_covering(
    overlaps: Int[Tensor, "rows columns"],
    predicted_labels: Int[Tensor, "p"],
    true_labels: Int[Tensor, "g"],
) -> float:
    """Parsing covering of one image (Yang et al. 2019)."""
    both = overlaps[1:, 1:].double()
    area = overlaps[:, 1:].sum(0).double()
    judged = (overlaps[1:].sum(1) - overlaps[1:, 0]).double()  # predicted, without void
    iou = both / (judged[:, None] + area - both)
    iou = iou * (predicted_labels[:, None] == true_labels)
    best = torch.cat([iou, iou.new_zeros(1, len(area))]).amax(0)
    covered = [
        (best * area)[true_labels == k].sum() / area[true_labels == k].sum()
        for k in true_labels.unique()
    ]
    return torch.stack(covered).mean().item()
