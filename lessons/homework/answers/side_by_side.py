# Built by `lessons build` from solutions/17_side_by_side.ipynb: edit that, not this.
"""Homework 17: side by side.

Three exercises and a stretch about comparing: do two metrics agree, why is a thing missed, which
systems are beaten in everything, and is a difference more than luck?
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def rank_agreement(first: Float[Tensor, "n"], second: Float[Tensor, "n"]) -> float:
    """Kendall's τ_b of two scores of the same systems, those with both numbers."""
    both = ~(first.isnan() | second.isnan())
    a, b = (s[both].double() for s in (first, second))
    signs = [(s[:, None] - s).sign() for s in (a, b)]  # each pair twice, antisymmetric
    untied = [s.abs().sum() for s in signs]
    return ((signs[0] * signs[1]).sum() / (untied[0] * untied[1]).sqrt()).item()


def reasons(
    iou: Float[Tensor, "n m"], predicted_labels: Int[Tensor, "n"], true_labels: Int[Tensor, "m"]
) -> Int[Tensor, "m"]:
    """What became of each true thing: 0 found, 1 wrong class, 2 badly outlined, 3 missed."""
    same = predicted_labels[:, None] == true_labels
    result = torch.full(true_labels.shape, 3)
    result[(same & (iou >= 0.1)).any(0)] = 2
    result[(~same & (iou > 0.5)).any(0)] = 1
    result[(same & (iou > 0.5)).any(0)] = 0
    return result


def undominated(quality: Float[Tensor, "n"], cost: Float[Tensor, "n"]) -> Bool[Tensor, "n"]:
    """Which systems no other one beats: quality is to be high, cost is to be low."""
    as_good = (quality[:, None] >= quality) & (cost[:, None] <= cost)  # row beats column, or ties
    better = (quality[:, None] > quality) | (cost[:, None] < cost)
    beaten = (as_good & better).any(0)
    return ~beaten & ~quality.isnan() & ~cost.isnan()


def bootstrap_difference(
    first: Float[Tensor, "n 2"],
    second: Float[Tensor, "n 2"],
    drawn: Int[Tensor, "draws n"],
    level: float = 0.95,
) -> tuple[float, float, float]:
    """The difference of two pooled scores over the same images, and its bootstrap interval."""

    def score(counts):  # … n 2
        total = counts.double().sum(-2)
        return total[..., 0] / total[..., 1]

    differences = score(first[drawn]) - score(second[drawn])
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = differences.quantile(ends).tolist()
    return (score(first) - score(second)).item(), low, high
