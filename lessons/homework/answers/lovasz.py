# Built by `lessons build` from solutions/07_lovasz.ipynb: edit that, not this.
"""Homework 07: the Lovász hinge.

Three exercises and a stretch take the loss to many classes, compute it without any weights, keep
void pixels out of it, and put another loss in the place of Jaccard's.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lessons.lovasz import jaccard_loss, lovasz_gradient, lovasz_hinge


def lovasz_softmax(
    probabilities: Float[Tensor, "k p"], labels: Int[Tensor, "p"]
) -> Float[Tensor, ""]:
    """The Lovász-Softmax loss of one image: the mean over the classes that occur in it."""
    classes = labels.unique()
    own = (labels == classes[:, None]).to(probabilities)  # one row for each class
    errors = (own - probabilities[classes]).abs()
    falling, order = errors.sort(dim=1, descending=True)
    return (falling * lovasz_gradient(own.gather(1, order))).sum(1).mean()


def loss_in_layers(errors: Float[Tensor, "p"], labels: Bool[Tensor, "p"]) -> Float[Tensor, ""]:
    """The Lovász extension of the Jaccard loss at the errors, as a sum over layers."""
    tops = errors.unique()  # sorted: where the layers end
    heights = tops.diff(prepend=tops.new_zeros(1))
    sets = errors >= tops[:, None]  # one row for each layer
    J = jaccard_loss(sets, labels.expand(len(tops), -1)).to(errors)
    return (heights * J).sum()


def void_hinge(
    logits: Float[Tensor, "n p"], labels: Bool[Tensor, "n p"], void: Bool[Tensor, "n p"]
) -> Float[Tensor, "n"]:
    """The Lovász hinge of each mask, over the pixels that are not void."""
    # Ground that is right beyond the margin: error 0, so last in the order, and not in the object.
    return lovasz_hinge(logits.masked_fill(void, -2), labels & ~void)


def dice_gradient(labels: Float[Tensor, "n p"]) -> Float[Tensor, "n p"]:
    """By how much the Dice loss rises with each pixel that goes wrong, in the order given."""
    right = labels.sum(1, keepdim=True) - labels.cumsum(1)  # |Y∖M|
    wrong = torch.arange(1, labels.shape[1] + 1).to(labels)  # |M|
    dice = wrong / (2 * right + wrong)
    return dice.diff(dim=1, prepend=dice.new_zeros(len(dice), 1))
