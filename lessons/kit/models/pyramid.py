"""From a feature pyramid to the features of RoIs: each is read from the level that suits it."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lessons.kit.data.checks import checked


@checked
def choose_level(
    rois: Float[Tensor, "n 5"], levels: Sequence[int], canonical_size: float
) -> Int[Tensor, "n"]:
    """The pyramid level of each RoI: a box of `canonical_size` pixels belongs to stride 16.

    Half the size is one level finer (Lin et al. 2017, eq. 1). Level 0 has stride 4; the result
    is limited to `levels`.
    """
    area = (rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])
    level = torch.floor(2 + torch.log2(area.sqrt() / canonical_size) + 1e-6)
    return level.clamp(levels[0], levels[-1]).long()


@checked
def pool_pyramid(
    features: Sequence[Float[Tensor, "b c _ _"]],
    rois: Float[Tensor, "n 5"],
    size: int,
    roi_align: Callable,
    strides: Sequence[int],
    levels: Sequence[int],
    canonical_size: float,
) -> Float[Tensor, "n c p p"]:
    """Each RoI's features, size×size, from the level that suits its area."""
    level = choose_level(rois, levels, canonical_size)
    order, pooled = [], []
    for number in levels:
        here = torch.where(level == number)[0]
        order.append(here)
        pooled.append(roi_align(features[number], rois[here], size, 1 / strides[number]))
    return torch.cat(pooled)[torch.cat(order).argsort()]
