"""The training batches: which images, how they are cropped and turned, in which order."""

from dataclasses import replace
from functools import lru_cache

import torch
from jaxtyping import Int
from torch import Tensor
from torch.utils.data import Dataset

from lessons.kit.data import DataSet, Sample
from lessons.kit.training.recipe import Budget


class Batches(Dataset):
    """The training batches: batch t depends on (seed, t) only, so a run can start anywhere.

    Every image comes once an epoch, in an order of that epoch, cropped and mirrored as the
    budget says.
    """

    def __init__(self, samples: DataSet, plan: Budget, seed: int):
        self.samples, self.plan, self.seed = samples, plan, seed

    def __len__(self) -> int:
        return self.plan.steps

    def __getitem__(self, step: int) -> list[Sample]:
        if step >= len(self):
            raise IndexError(step)
        generator = _generator(self.seed, step)
        first, plan = step * self.plan.batch, self.plan
        chosen = [self.samples[self._index(first + i)] for i in range(plan.batch)]
        return [augment(sample, plan, generator) for sample in chosen]

    def _index(self, position: int) -> int:
        epoch, place = divmod(position, len(self.samples))
        return int(_order(len(self.samples), self.seed, epoch)[place])


@lru_cache(maxsize=4)
def _order(count: int, seed: int, epoch: int) -> Int[Tensor, "count"]:
    return torch.randperm(count, generator=_generator(seed, -1 - epoch))


def augment(sample: Sample, plan: Budget, generator: torch.Generator) -> Sample:
    """A random crop of at most size×size pixels, mirrored and turned as the budget says.

    Segments that the crop leaves out are dropped.
    """
    image, segments = sample.image, sample.segments
    masks = segments.masks
    height, width = segments.size
    y, x = (
        int(torch.randint(max(side - plan.size, 0) + 1, (), generator=generator))
        for side in (height, width)
    )
    image = image[:, y : y + plan.size, x : x + plan.size]
    masks = masks[:, y : y + plan.size, x : x + plan.size]
    if plan.mirror and torch.rand((), generator=generator) < 0.5:
        image, masks = image.flip(-1), masks.flip(-1)
    if plan.turn:
        quarters = int(torch.randint(4, (), generator=generator))
        image, masks = image.rot90(quarters, (1, 2)), masks.rot90(quarters, (1, 2))
    kept = masks.flatten(1).any(dim=1)
    return Sample(image, replace(segments, masks=masks)[kept])


def _generator(*numbers: int) -> torch.Generator:
    """A generator whose stream depends on all the numbers."""
    return torch.Generator().manual_seed(mixed(*numbers))


def mixed(*numbers: int) -> int:
    """A seed made of several numbers."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 6364136223846793005 + number + 1442695040888963407) % 2**63
    return mixed
