"""Lesson 00: its turn, the cutting of a semantic map into patches, and the known mistakes."""

from collections.abc import Iterator

import torch
from scipy import ndimage
from torch import Tensor

from lessons.homework.answers.start_here_turns import connected_patches
from lessons.kit.homework import Exercise, Homework, mistake

SHEEP, TREE, SKY, VOID = 0, 1, 4, 255
TINY = torch.tensor([[0, 4], [4, 0]])


def maps(generator: torch.Generator) -> Iterator[tuple[Tensor, int]]:
    """Patches that meet at a corner, at a side and not at all; no patch; one; void."""
    yield TINY, SHEEP
    yield torch.tensor([[4, 0, 4, 0], [0, 4, 4, 0], [4, 4, 0, 4]]), SHEEP
    yield TINY, SKY
    yield TINY, TREE  # there is none
    yield torch.tensor([[1, 255], [255, 1], [1, 1]]), VOID
    yield torch.ones(3, 5, dtype=torch.int64), TREE
    yield torch.tensor([[0, 4, 0], [0, 4, 0], [0, 0, 0]]), SHEEP  # joined further down
    for size in ((6, 9), (9, 6)):
        yield torch.randint(3, size, generator=generator), 2


def cut(classes: Tensor, structure=None) -> Tensor:
    numbers, count = ndimage.label(classes, structure)
    return torch.from_numpy(numbers) == torch.arange(1, count + 1)[:, None, None]


@mistake(
    "corners join",
    "Your patches are too large: pixels that only touch at a corner are no neighbours here.",
)
def with_corners(classes, label):
    return cut(classes == label, structure=torch.ones(3, 3))


@mistake("one mask for all", "That is the class's mask. How many patches does it have?")
def whole_class(classes, label):
    return (classes == label)[None]


@mistake(
    "the rest as a patch",
    "One mask too many: `ndimage.label` writes 0 where there is nothing, and counts from 1.",
)
def with_the_rest(classes, label):
    numbers, count = ndimage.label(classes == label)
    return torch.from_numpy(numbers) == torch.arange(count + 1)[:, None, None]


@mistake(
    "no new axes",
    "The n numbers meet the columns of the map. With `[:, None, None]` each meets the whole map.",
)
def without_axes(classes, label):
    numbers, count = ndimage.label(classes == label)
    return torch.from_numpy(numbers) == torch.arange(1, count + 1)


@mistake(
    "counted from 0",
    "Your masks are one off: `ndimage.label` writes 0 where there is nothing, and counts from 1.",
)
def counted_from_zero(classes, label):
    numbers, count = ndimage.label(classes == label)
    return torch.from_numpy(numbers) == torch.arange(count)[:, None, None]


@mistake(
    "the last one missing",
    "The last patch is missing: `torch.arange` leaves its end out.",
)
def without_the_last(classes, label):
    return cut(classes == label)[:-1]


@mistake(
    "patches of all that is not 0",
    "You cut the map as it is. `ndimage.label` joins whatever is not 0: which pixels are the "
    "class's?",
)
def of_all_classes(classes, label):
    return cut(classes)


@mistake(
    "a map for masks",
    "That is a map with each patch's number. Asked for is a mask for each of them.",
)
def as_numbers(classes, label):
    return torch.from_numpy(ndimage.label(classes == label)[0])


PATCHES = Exercise(
    connected_patches,
    maps,
    mistakes=[
        with_corners,
        whole_class,
        with_the_rest,
        without_axes,
        counted_from_zero,
        without_the_last,
        of_all_classes,
        as_numbers,
    ],
)

homework = Homework("Lesson 00: start here", exercises=[], turns=[PATCHES])
check, your_turns = homework.check, homework.your_turns
