"""Homework 03: the exercises on levels and anchors, and the mistakes that are known by name."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lessons.homework.answers.region_proposals import anchor_shapes, assign_levels
from lessons.kit.homework import Exercise, Homework, mistake

# ---------------------------------------------------------------- 1. assign_levels


def boxes_of_levels(generator: torch.Generator) -> Iterator[tuple[Tensor, int, int, int, float]]:
    """Boxes of all sizes, some exactly at a limit between two levels, some long, some empty."""
    yield torch.tensor([[0.0, 0.0, 112.0, 112.0], [0.0, 0.0, 300.0, 300.0]]), 2, 5, 4, 224.0
    exact = torch.tensor([28.0, 56, 112, 224, 448, 896, 4, 2000])
    yield torch.stack([0 * exact, 0 * exact, exact, exact], dim=1), 2, 5, 4, 224.0
    corner = torch.rand(40, 2, generator=generator) * 50
    sides = torch.exp(2 + 5 * torch.rand(40, 2, generator=generator))
    yield torch.cat([corner, corner + sides], dim=1), 2, 5, 4, 224.0
    yield torch.cat([corner, corner + sides / 8], dim=1), 2, 4, 3, 24.0
    yield torch.cat([corner, corner + sides / 4], dim=1).double(), 3, 6, 4, 40.0
    long = torch.tensor([[0.0, 0.0, 100.0, 4.0], [5.0, 5.0, 6.0, 261.0], [9.0, 9.0, 9.0, 30.0]])
    yield long, 2, 5, 3, 24.0
    # A rounding error below a limit between two levels: 24 and 12 pixels, nearly.
    yield torch.tensor([[10.1, 10.1, 34.1, 34.1]]), 1, 5, 2, 24.0
    yield torch.tensor([[11.3, 11.3, 23.3, 23.3]]), 0, 5, 2, 24.0
    yield torch.zeros(0, 4), 2, 5, 4, 224.0


def level_by(size_of, rounding=torch.floor, shift=1e-6, logarithm=torch.log2, clamp=True):
    """The rule with one of its parts exchanged."""

    def assign(boxes, lowest, highest, reference_level, reference_size):
        size = size_of(boxes[:, 2:] - boxes[:, :2])
        level = rounding(reference_level + logarithm(size / reference_size) + shift)
        if clamp:
            level = level.clamp(lowest, highest)
        return level.nan_to_num(neginf=0).long() - lowest

    return assign


def root_of_area(sides):
    return sides.prod(dim=-1).sqrt()


@mistake(
    "counted from 0",
    "Your numbers are the levels' names, 2 for the finest. As an index into a list of "
    "features, what is the finest?",
)
def level_from_zero(boxes, lowest, highest, reference_level, reference_size):
    return assign_levels(boxes, lowest, highest, reference_level, reference_size) + lowest


@mistake(
    "large boxes on fine levels",
    "In yours the large boxes go to the fine levels. Where does one cell see more of the image?",
)
def level_other_way(boxes, lowest, highest, reference_level, reference_size):
    turned = assign_levels(boxes, lowest, highest, reference_level, reference_size)
    return highest - lowest - turned


LEVELS = Exercise(
    assign_levels,
    boxes_of_levels,
    points=3,
    minutes=15,
    mistakes=[
        level_from_zero,
        mistake(
            "the area for the size",
            "Twice the size, in each direction, should be one level more. How much is that in "
            "area?",
        )(level_by(lambda sides: sides.prod(dim=-1))),
        mistake(
            "rounded to the nearest",
            "Many of your boxes are a level too high: from which size on does a level begin, and "
            "which rounding says so?",
        )(level_by(root_of_area, torch.round)),
        mistake(
            "the natural logarithm",
            "Your levels are too close together: a factor of 2.7 is one level in yours.",
        )(level_by(root_of_area, logarithm=torch.log)),
        mistake(
            "nothing added before rounding",
            "Right except exactly at a limit: 1.9999999 is rounded down to 1. What does the text "
            "add before rounding?",
        )(level_by(root_of_area, shift=0.0)),
        mistake("no limits", "Very small or very large boxes get a level that does not exist.")(
            level_by(root_of_area, clamp=False)
        ),
        mistake(
            "the longer side", "Right for squares. The size of a box is not its longer side here."
        )(level_by(lambda sides: sides.amax(dim=-1))),
        level_other_way,
    ],
)

# ---------------------------------------------------------------- 2. anchor_shapes


def sizes_and_shapes(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Clusters of sizes, from good and from bad beginnings; one round, several, none."""
    shares = torch.tensor([[0.2, 0.4], [0.3, 0.2], [0.5, 0.5], [0.8, 0.9]])
    yield from ((shares, torch.tensor([[0.1, 0.2], [0.6, 0.6]]), rounds) for rounds in (1, 2))
    three = torch.tensor([[10.0, 20.0], [30.0, 15.0], [60.0, 90.0]])
    sizes = three.repeat(12, 1) * (0.7 + 0.6 * torch.rand(36, 2, generator=generator))
    yield sizes, sizes[:3], 1
    yield sizes, sizes[:4], 6
    yield sizes, torch.tensor([[10.0, 10.0], [50.0, 50.0], [500.0, 1.0]]), 4
    wide = torch.exp(1 + 4 * torch.rand(50, 2, generator=generator))
    yield wide, wide[:5], 3
    yield wide.double(), wide[:1].double(), 2
    yield wide, wide[:2], 0
    yield sizes[:2], torch.tensor([[12.0, 12.0], [12.0, 12.0]]), 1


def corner_iou(sizes, shapes):
    both = torch.minimum(sizes[:, None], shapes).prod(dim=-1)
    return both / (sizes.prod(dim=-1)[:, None] + shapes.prod(dim=-1) - both)


def clustered(sizes, shapes, rounds, nearest=None, centre=None, again=True, empty=False):
    """k-means with one of its parts exchanged."""
    nearest = nearest or (lambda a, b: corner_iou(a, b).argmax(dim=1))
    centre = centre or (lambda mine: mine.mean(dim=0))
    shapes, assigned = shapes.clone(), None
    for _ in range(rounds):
        assigned = nearest(sizes, shapes) if again or assigned is None else assigned
        for k in range(len(shapes)):
            if (assigned == k).any():
                shapes[k] = centre(sizes[assigned == k])
            elif empty:
                shapes[k] = 0
    return shapes


@mistake(
    "the Euclidean distance",
    "Your sizes go to the shape that is nearest in pixels, so the large boxes decide. "
    "Which shape overlaps them most?",
)
def shapes_euclidean(sizes, shapes, rounds):
    return clustered(sizes, shapes, rounds, lambda a, b: torch.cdist(a, b).argmin(dim=1))


@mistake(
    "the median",
    "You take the median of each group. That would be k-medians; what is in the name?",
)
def shapes_median(sizes, shapes, rounds):
    return clustered(sizes, shapes, rounds, centre=lambda mine: mine.median(dim=0).values)


@mistake(
    "the lowest IoU",
    "Your sizes go to the shape that fits them worst. The distance is 1 − IoU.",
)
def shapes_lowest(sizes, shapes, rounds):
    return clustered(sizes, shapes, rounds, lambda a, b: corner_iou(a, b).argmin(dim=1))


@mistake(
    "assigned only once",
    "Right for one round. When the shapes have moved, do all sizes still belong to the same?",
)
def shapes_assigned_once(sizes, shapes, rounds):
    return clustered(sizes, shapes, rounds, again=False)


@mistake(
    "an unchosen shape becomes nothing",
    "A shape that nobody chose turns into 0 × 0. What is it to become?",
)
def shapes_empty_vanish(sizes, shapes, rounds):
    return clustered(sizes, shapes, rounds, empty=True)


@mistake(
    "one round too many",
    "You do one round more than asked. What is returned for 0 rounds?",
)
def shapes_one_too_many(sizes, shapes, rounds):
    return anchor_shapes(sizes, shapes, rounds + 1)


SHAPES = Exercise(
    anchor_shapes,
    sizes_and_shapes,
    points=4,
    minutes=30,
    tolerance=1e-5,
    stretch=True,
    mistakes=[
        shapes_euclidean,
        shapes_median,
        shapes_lowest,
        shapes_assigned_once,
        shapes_empty_vanish,
        shapes_one_too_many,
    ],
)

homework = Homework("Homework 03: region proposals", [LEVELS, SHAPES])
check, score_board = homework.check, homework.score_board
