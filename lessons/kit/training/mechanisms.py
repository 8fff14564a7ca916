"""What is measured beside the scores of a claim's run: did the mechanism act?

Each check takes a trained model, the held-out images and their answers, and returns numbers by
name. A system's checks are made for every run of it, so that a later claim finds them.
"""

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from lessons.kit.data import DataSet, Segments, boxes, is_crowd
from lessons.kit.models.images import batch_images

Answers = Mapping[str, Sequence[Segments]]
"""What each `predict_…` method said of the images."""


def check_mechanisms(
    system: str, model: nn.Module, data: DataSet, answers: Answers
) -> dict[str, float]:
    """The numbers of all checks of a system; NaN where there is nothing to average."""
    found: dict[str, float] = {}
    for check in CHECKS.get(system, ()):
        found |= check(model, data, answers)
    return found


def mistakes(model: nn.Module, data: DataSet, answers: Answers) -> dict[str, float]:
    """Lesson 17's counts over all images (duplicates, merged, …), and `blunt`, at outlines."""
    if "predict_instances" not in answers:
        return {}
    targets = [data[index].segments for index in range(len(data))]
    count_errors = _lesson("side_by_side").count_errors
    return count_errors(answers["predict_instances"], targets, data.categories)


@torch.no_grad()
def mask_ceiling(model: nn.Module, data: DataSet, answers: Answers) -> dict[str, float]:
    """`ceiling`: the error at outlines of true masks that were cut to m×m cells and pasted back."""
    lesson, errors = _lesson("mask_rcnn"), []
    for index in range(len(data)):
        truth = data[index].segments
        truth = truth[(truth.labels < model.num_things) & ~is_crowd(truth)]
        if not len(truth):
            continue
        own = boxes(truth)
        matches = torch.arange(len(truth))
        small = lesson.mask_targets(truth.masks, own, matches, model.mask_size)
        pasted = lesson.paste_masks(small, own, truth.size) >= 0.5
        errors += lesson.boundary_error(pasted, truth.masks).tolist()
    return {"ceiling": _mean(errors)}


@torch.no_grad()
def freed_rows(model: nn.Module, data: DataSet, answers: Answers) -> dict[str, float]:
    """How masked attention looks: `blocked`, the share of cells that a query must not look at.

    `freed` is the share of rows whose mask is below ½ everywhere, so that they look everywhere.
    """
    freed, blocked = [], []
    for index in range(min(len(data), 64)):
        batch, _ = batch_images([data[index].image.to(model.mean.device)], model.mean, model.std)
        said, forbidden = model.decode(batch)
        said = said[len(said) - len(forbidden) - 1 :] if len(said) > len(forbidden) else said
        first = 0 if len(said) > len(forbidden) else 1  # without raw queries nothing comes before
        for number, mask in enumerate(forbidden):
            if mask is None or number < first:
                continue
            before = F.interpolate(said[number - first][1], mask.shape[-2:], mode="bilinear")
            empty = (before.sigmoid() < 0.5).flatten(2).all(dim=2)
            freed += empty.flatten().tolist()
            blocked += mask.flatten(2).float().mean(dim=2)[~empty].tolist()
    return {"freed": _mean(freed), "blocked": _mean(blocked)}


@torch.no_grad()
def sigma_and_size(model: nn.Module, data: DataSet, answers: Answers) -> dict[str, float]:
    """`sigma_size`: does σ grow with the object? The correlation of their logarithms.

    NaN where σ is the same everywhere. `sigma_ratio` is how much larger the σ of the 95th
    percentile is than that of the 5th.
    """
    lesson, sigmas, sides = _lesson("spatial_embedding"), [], []
    for index in range(len(data)):
        sample = data[index]
        truth = sample.segments
        truth = truth[(truth.labels < model.num_classes) & ~is_crowd(truth)]
        _, s, _, _ = model.maps([sample.image.to(model.mean.device)])
        height, width = truth.size
        sigma = lesson.bandwidth(s[0, :, :height, :width]).log().mean(dim=0).cpu()
        for mask in truth.masks:
            sigmas.append(float(sigma[mask].mean()))
            sides.append(math.log(float(mask.sum())) / 2)
    both = torch.tensor([sigmas, sides], dtype=torch.float64)
    if both.shape[1] < 3 or float(both[0].std()) < 1e-6:
        return {"sigma_size": math.nan, "sigma_ratio": 1.0}
    low, high = both[0].quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
    return {
        "sigma_size": float(torch.corrcoef(both)[0, 1]),
        "sigma_ratio": math.exp(high - low),
    }


def _mean(numbers: Sequence[Any]) -> float:
    numbers = [float(number) for number in numbers if math.isfinite(number)]
    return sum(numbers) / len(numbers) if numbers else math.nan


def _lesson(name: str) -> ModuleType:
    """A lesson's module, found by its name: a check may count as the lessons do."""
    return importlib.import_module(f"lessons.{name}")


Check = Callable[[nn.Module, DataSet, Answers], dict[str, float]]
CHECKS: Mapping[str, Sequence[Check]] = {
    "mask_rcnn": (mistakes, mask_ceiling),
    "centroid_offsets": (mistakes,),
    "spatial_embedding": (mistakes, sigma_and_size),
    "panoptic_fpn": (mistakes,),
    "maskformer": (mistakes,),
    "mask2former": (mistakes, freed_rows),
    "oneformer": (mistakes,),
}
