"""How much a map of features says about every place, asked of a single weight for each channel."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F


def linear_reader(
    level: Float[Tensor, "b c _ _"],
    truth: Bool[Tensor, "b h w"],
    new_level: Float[Tensor, "n c _ _"],
    new_truth: Bool[Tensor, "n h w"],
) -> float:
    """IoU of what a line through a level's features finds in new images.

    A weight for each channel and a constant, by least squares on `level`, brought to the size of
    `truth`; the threshold is the best of seventeen there.
    """
    old, new = (_rows(each, truth.shape[1:]) for each in (level, new_level))
    weights = torch.linalg.lstsq(old, truth.flatten()[:, None].float()).solution
    said, new_said = (old @ weights)[:, 0], (new @ weights)[:, 0]
    limits = torch.arange(0.1, 0.91, 0.05)
    best = max(limits, key=lambda limit: iou(said > limit, truth.flatten()))
    return iou(new_said > best, new_truth.flatten())


def iou(predicted: Bool[Tensor, "n"], true: Bool[Tensor, "n"]) -> float:
    return ((predicted & true).sum() / (predicted | true).sum()).item()


def _rows(level: Float[Tensor, "b c _ _"], size: tuple[int, int]) -> Float[Tensor, "n _"]:
    """A row of features for each place, with a 1 at its end."""
    rows = F.interpolate(level, size=size).transpose(0, 1).flatten(1).T
    return F.pad(rows, (0, 1), value=1)
