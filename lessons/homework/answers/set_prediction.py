# Built by `lessons build` from solutions/12_set_prediction.ipynb: edit that, not this.
"""Homework 12: Set prediction.

Three exercises question what the lesson took from the paper: what a dice loss says about the IoU,
which segments the logarithm gives to another query, and what happens if ∅ has a price in the
matching too.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lessons.hungarian import hungarian


def iou_from_dice(loss: Float[Tensor, "n"], area: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """The soft IoU of masks whose dice loss is `loss` and whose areas add up to `area`."""
    both = ((1 - loss) * (area + 1) - 1) / 2
    return torch.where(area > 0, both / (area - both).clamp(min=1e-12), 1.0)


def turned_by_logarithm(
    class_logits: Float[Tensor, "q k1"], labels: Int[Tensor, "n"], mask_cost: Float[Tensor, "q n"]
) -> int:
    """How many segments are matched to another query with −log p than with −p."""
    owners = []
    for by_class in (class_logits.softmax(1), class_logits.log_softmax(1)):
        queries, segments = hungarian(mask_cost - by_class[:, labels])
        owners.append(queries[segments.argsort()])
    return int((owners[0] != owners[1]).sum())


def match_with_no_object(
    class_logits: Float[Tensor, "q k1"], labels: Int[Tensor, "n"], mask_cost: Float[Tensor, "q n"]
) -> tuple[Int[Tensor, "m"], Int[Tensor, "m"]]:
    """Queries and segments of the cheapest matching in which ∅ costs −p(∅)."""
    p = class_logits.softmax(1)
    # All queries pay −p(∅) first; a segment costs the difference.
    return hungarian(mask_cost - p[:, labels] + p[:, -1:])
