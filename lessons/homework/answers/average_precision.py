# Built by `lessons build` from solutions/01_average_precision.ipynb: edit that, not this.
"""Homework 01: average precision.

Three exercises and a stretch take the metric of lesson 01 apart: a sharper overlap, an older
matching rule, an exact area, and the choice of a threshold.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from lessons.average_precision import mask_iou


def boundary_iou(
    predictions: Bool[Tensor, "n h w"], targets: Bool[Tensor, "m h w"], width: int
) -> Float[Tensor, "n m"]:
    """IoU of the inner boundary bands, `width` pixels wide, of each pair (Cheng et al. 2021)."""

    def band(masks):
        background = F.pad((~masks).float(), (width, width, width, width), value=1)
        near = F.max_pool2d(background[:, None], 2 * width + 1, stride=1)[:, 0] > 0
        return masks & near

    return mask_iou(band(predictions), band(targets))


def match_voc(iou: Float[Tensor, "d g"], threshold: float) -> Int[Tensor, "d"]:
    """The thing that each detection takes, or −1, by PASCAL VOC's rule (Everingham et al. 2010)."""
    matches = torch.full((len(iou),), -1)
    if iou.shape[1] == 0:
        return matches
    taken = torch.zeros(iou.shape[1], dtype=torch.bool)
    for d, favourite in enumerate(iou.argmax(dim=1)):
        if iou[d, favourite] >= threshold and not taken[favourite]:
            matches[d] = favourite
            taken[favourite] = True
    return matches


def mean_average_precision(
    scores: Float[Tensor, "d"],
    true_positive: Bool[Tensor, "d"],
    labels: Int[Tensor, "d"],
    num_targets: Int[Tensor, "k"],
) -> float:
    """Mean over the classes that exist of the exact area under the envelope (VOC since 2010)."""
    areas = []
    for k in num_targets.nonzero()[:, 0]:
        mine = labels == k
        order = scores[mine].argsort(descending=True)
        hits = true_positive[mine][order].double().cumsum(0)
        precision = hits / torch.arange(1, len(hits) + 1)
        envelope = precision.flip(0).cummax(0).values.flip(0)
        steps = hits.diff(prepend=hits.new_zeros(1)) / num_targets[k]
        areas.append((steps * envelope).sum())
    return torch.stack(areas).mean().item() if areas else float("nan")


def best_cut(
    scores: Float[Tensor, "d"], true_positive: Bool[Tensor, "d"], num_targets: int
) -> tuple[float, float]:
    """The score threshold with the best F₁, the highest of equally good ones, and that F₁."""
    best = (float("inf"), 0.0)
    for threshold in scores.unique().flip(0).tolist():  # from the strictest
        kept = scores >= threshold
        hits = int(true_positive[kept].sum())
        f1 = 2 * hits / (int(kept.sum()) + num_targets)  # 2TP + FP + FN = kept + targets
        if f1 > best[1] or best[0] == float("inf"):
            best = (threshold, f1)
    return best
