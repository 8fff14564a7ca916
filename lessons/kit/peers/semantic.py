"""torchmetrics' confusion matrix behind this course's types."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from lessons.kit.data import VOID


def torchmetrics_confusion(
    predictions: Sequence[Int[Tensor, "_ _"]], targets: Sequence[Int[Tensor, "_ _"]], k: int
) -> Int[Tensor, "k1 k1"]:
    """torchmetrics' confusion matrix of maps of `k` classes; void (255) is a class more."""
    from torchmetrics.classification import MulticlassConfusionMatrix

    matrix = MulticlassConfusionMatrix(k + 1, validate_args=False)
    for pair in zip(predictions, targets, strict=True):
        matrix.update(*(torch.where(each == VOID, k, each.long()) for each in pair))
    return matrix.compute()
