# Built by `lessons build` from solutions/05_mask_rcnn.ipynb: edit that, not this.
"""Homework 05: masks.

Three exercises and a stretch change the mask branch in four places: how many masks there are, how
their loss is averaged, what a mask says about itself, and how it becomes sharp.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.mask_rcnn import MaskHead, mask_loss, mask_scores


def agnostic_parts(channels: int) -> dict[str, nn.Module | Callable]:
    """The parts of a `MaskRCNN` with one mask for all classes, by keyword.

    `channels` is the number of channels of the pooled features that the mask head gets.
    """

    def agnostic_mask_loss(logits: Tensor, targets: Tensor, labels: Tensor) -> Tensor:
        return mask_loss(logits, targets, labels * 0)  # as if there were one class, number 0

    def agnostic_mask_scores(logits: Tensor, labels: Tensor) -> Tensor:
        return mask_scores(logits, labels * 0)

    return {
        "mask_head": MaskHead(channels, 1),
        "mask_loss": agnostic_mask_loss,
        "mask_scores": agnostic_mask_scores,
    }


def batch_mask_loss(
    logits: Sequence[Float[Tensor, "_ k m m"]],
    targets: Sequence[Float[Tensor, "_ m m"]],
    u: Sequence[Int[Tensor, "_"]],
) -> Float[Tensor, ""]:
    """L_mask, the mean over the pixels of all positive RoIs of a batch. Entry i is image i's.

    `u` is 0 for background and k + 1 for label k.
    """
    total, count = logits[0].sum() * 0, 0
    for f, w, classes in zip(logits, targets, u, strict=True):
        positive = torch.where(classes >= 1)[0]  # [u ≥ 1]
        own = f[positive, classes[positive] - 1]  # one mask of K
        total = total + F.binary_cross_entropy_with_logits(own, w[positive], reduction="sum")
        count += own.numel()
    return total / max(count, 1)  # one mean, over all images


def rescore(soft: Float[Tensor, "n h w"], scores: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """Each score times the IoU with the truth that its mask expects, if `soft` is right."""
    inside = soft >= 0.5
    intersection = (soft * inside).flatten(1).sum(1)  # in the union for certain, true with s
    union = torch.where(inside, 1, soft).flatten(1).sum(1)  # outside only the true ones count
    return scores * intersection / union.clamp(min=1e-6)


def refine_masks(
    logits: Float[Tensor, "n m m"],
    point_head: Callable[[Float[Tensor, "n p 2"]], Float[Tensor, "n p"]],
    count: int,
    steps: int,
) -> Float[Tensor, "n m2 m2"]:
    """Mask logits, 2^`steps` times as large, refined where they are least certain."""
    for _ in range(steps):
        logits = F.interpolate(
            logits[:, None], scale_factor=2, mode="bilinear", align_corners=False
        )[:, 0]
        m = logits.shape[-1]
        flat = logits.flatten(1)
        cells = flat.abs().topk(min(count, m * m), largest=False).indices  # σ(0) = ½
        points = (torch.stack([cells % m, cells // m], dim=-1) + 0.5) / m
        logits = flat.scatter(1, cells, point_head(points)).unflatten(1, (m, m))
    return logits
