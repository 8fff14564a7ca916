"""A system of twenty parameters that learns in milliseconds; tests take it for lessons/tiny.py."""

import os
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lessons.kit.data import Sample, Segments
from lessons.kit.errors import LessonsError
from lessons.kit.training import Budget, Recipe

NAN = float("nan")


class Tiny(nn.Module):
    """Finds the pixels of the things by their colour, as one segment of label 0."""

    def __init__(self, width: int = 4, noise: float = 0.1):
        super().__init__()
        self.pixel, self.scale = nn.Conv2d(3, width, 1), nn.Parameter(torch.ones(width))
        self.noise, self.calls = noise, 0

    def logits(self, image: Tensor) -> Tensor:
        return (self.pixel(image) * self.scale[:, None, None]).sum(0)

    def forward(self, images, segments) -> dict[str, Tensor]:
        time.sleep(float(os.environ.get("TINY_PAUSE", "0")))
        self.calls += 1
        if self.calls > int(os.environ.get("TINY_STOP", "1000000")):
            raise LessonsError("stopped by TINY_STOP")
        losses = []
        for image, truth in zip(images, segments, strict=True):
            target = truth.masks[truth.labels < 4].any(0).float()
            losses.append(F.binary_cross_entropy_with_logits(self.logits(image), target))
        drawn = torch.randn(len(self.scale), device=self.scale.device)
        return {
            "mask": torch.stack(losses).mean(),
            "size": (self.scale**2).mean() * 0.01 + (self.scale * drawn).mean() * self.noise,
        }

    @torch.no_grad()
    def predict_instances(self, images) -> list[Segments]:
        answers = []
        for image in images:
            soft = self.logits(image).sigmoid()
            label = torch.zeros(1, dtype=torch.int64, device=image.device)
            answers.append(Segments((soft >= 0.5)[None], label, soft.mean()[None]))
        return answers


def measure(predictions, targets, categories) -> dict:
    scores = [float(prediction.scores.mean()) for prediction in predictions]
    areas = [float(prediction.masks.float().mean()) for prediction in predictions]
    return {
        "score": sum(scores) / len(scores),
        "area": sum(areas) / len(areas),
        "rare": NAN,
        "per_class": {category.name: {"rare": NAN} for category in categories},
    }


def recipe(data: str = "four_scenes", **options) -> Recipe:
    """Twelve steps of three images of 32×32 pixels, measured three times."""
    if unknown := set(options) - {"width", "noise"}:
        raise TypeError(f"Tiny has no option {unknown.pop()!r}")
    few = Budget(12, batch=3, size=32, validated=2, evaluations=3, learning_rate=0.02)
    return Recipe(
        system="tiny",
        model=lambda: Tiny(**options),
        metrics={"predict_instances": measure},
        budgets={"test": few, "quick": few, "full": few},
        data=data,
        options=options,
    )


class Painted(Sequence):
    """Images whose colour says what a pixel is: its segment's id, its row and its column.

    A segment's label is its id − 1; every third is a crowd; the first row is void.
    """

    categories = ()

    def __init__(self, *sizes: tuple[int, int], cell: int = 4):
        self.samples = [self._paint(height, width, cell) for height, width in sizes]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def _paint(self, height: int, width: int, cell: int) -> Sample:
        row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        ids = 1 + row // cell * -(-width // cell) + column // cell
        ids[0] = 0
        present = ids.unique()[1:] if cell > 1 else ids[1:].flatten()
        masks = ids == present[:, None, None]
        image = torch.stack([ids, row, column]).clamp(max=255) / 255
        return Sample(image, Segments(masks, present - 1, is_crowd=present % 3 == 0))
