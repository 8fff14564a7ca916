# Built by `lessons build` from notebooks/07_lovasz.ipynb: edit that, not this.
"""The Lovász hinge.

You turn the Jaccard loss, 1 − IoU, into a function that a network can be trained on: piecewise
linear, convex, equal to the Jaccard loss where every pixel is wholly right or wholly wrong (errors
0 and 1), and, as a hinge of logits, never below it.
"""

import torch
from jaxtyping import Bool, Float, Integer
from torch import Tensor

from lessons.kit.data.checks import checked

ZeroOne = Bool[Tensor, "n *size"] | Integer[Tensor, "n *size"] | Float[Tensor, "n *size"]


def zeros_and_ones(name: str, values: ZeroOne, like: Tensor) -> Float[Tensor, "n p"]:
    """Values as a row of 0.0 and 1.0 for each mask, in the precision of `like`, at least float32.

    Raises ValueError where they are neither 0 nor 1.
    """
    if values.dtype != torch.bool and not ((values == 0) | (values == 1)).all():
        raise ValueError(f"{name} must be 0 or 1 everywhere")
    dtype = torch.promote_types(like.dtype, torch.float32)
    return values.to(dtype)[..., None].flatten(1)  # None: also masks of one value each, (n,)


@checked
def jaccard_loss(wrong: ZeroOne, labels: ZeroOne) -> Float[Tensor, "n"]:
    """J(M) = |M| / |Y ∪ M|: 1 − IoU of masks that are wrong in these pixels and in no others.

    `labels` are 1 in the object Y; `wrong` is 1 in M, the missed and the falsely painted
    pixels. Without wrong pixels it is 0, also where there is no object. Raises ValueError where
    the shapes differ or a value is neither 0 nor 1.
    """
    M = zeros_and_ones("wrong", wrong, wrong)
    Y = zeros_and_ones("labels", labels, wrong)
    union = (M + Y).clamp(max=1).sum(1)
    return M.sum(1) / union.clamp(min=1)


@checked
def lovasz_gradient(
    labels: Bool[Tensor, "n p"] | Integer[Tensor, "n p"] | Float[Tensor, "n p"],
) -> Float[Tensor, "n p"]:
    """By how much the Jaccard loss rises with each pixel that goes wrong, in the order given.

    Labels are 0 or 1, of any type, each row an object; they are computed in at least float32. A
    missed pixel of the object takes 1 from the intersection, a painted one of the ground adds 1 to
    the union U: 1/U and IoU/U, with the U after the step and the IoU before it. Each row sums to 1.
    (Berman et al. 2018, algorithm 1, without its differences of nearly equal numbers.)
    """
    labels = labels.to(torch.promote_types(labels.dtype, torch.float32))
    count = labels.sum(1, keepdim=True)
    k = torch.arange(1, labels.shape[1] + 1, dtype=labels.dtype, device=labels.device)
    intersection = count - labels.cumsum(1)
    union = intersection + k
    iou_before = intersection / (union - 1).clamp(min=1)  # where the step is the ground's
    steps = torch.where(labels == 1, 1, iou_before) / union
    steps[:, :1] += count == 0  # without an object the first painted pixel costs everything
    return steps


def largest_first(errors: Float[Tensor, "n p"]) -> Integer[Tensor, "n p"]:
    """The order in which each row falls. No entry may be negative.

    The bits of such floats, read as integers, have the same order and are sorted faster.
    """
    bits = torch.int64 if errors.dtype == torch.float64 else torch.int32
    return errors.view(bits).argsort(dim=1, descending=True)


@checked
def lovasz_hinge(logits: Float[Tensor, "n *size"], labels: ZeroOne) -> Float[Tensor, "n"]:
    """The Lovász hinge of each mask, a convex surrogate of 1 − IoU (Yu and Blaschko 2015).

    Σ m_i w_i with the hinge errors m = max(0, 1 − F (2y − 1)) of the logits F; the weight w_i is
    what pixel i adds to the Jaccard loss when pixels go wrong in the order of falling errors.
    It carries no gradient. Labels are 0 or 1, of any type. Half precision is computed in
    float32. A mask without an object costs its largest error, one without pixels 0; no masks
    give an empty result. kornia's `lovasz_hinge_loss` is the mean of this. Raises ValueError
    where the shapes differ or a label is neither 0 nor 1.
    """
    y = zeros_and_ones("labels", labels, logits)
    F = logits[..., None].flatten(1).to(y.dtype)
    errors = (1 - F * (2 * y - 1)).relu()
    with torch.no_grad():
        order = largest_first(errors)
        steps = lovasz_gradient(y.gather(1, order))
        weights = torch.empty_like(errors).scatter_(1, order, steps)
    return (errors * weights).sum(1)
