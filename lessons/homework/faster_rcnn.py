"""Homework 02: the exercises on boxes, and the mistakes that are known by name."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lessons.faster_rcnn import box_iou, nms
from lessons.homework.answers.faster_rcnn import anchor_shapes, assign_levels, giou, soft_nms
from lessons.kit.homework import Exercise, Homework, Mistake


def random_boxes(n: int, generator: torch.Generator, size: float = 60.0) -> Tensor:
    """Boxes of 4 to 34 pixels, many of them overlapping."""
    corner = torch.rand(n, 2, generator=generator) * size
    sides = 4 + 30 * torch.rand(n, 2, generator=generator)
    return torch.cat([corner, corner + sides], dim=1)


# ---------------------------------------------------------------- 1. soft_nms


def scored_boxes(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, float]]:
    """A chain of three, equal scores, near duplicates, one box, none."""
    chain = torch.tensor([[0.0, 0, 30, 20], [8, 0, 38, 20], [16, 0, 46, 20]])
    yield chain, torch.tensor([0.9, 0.8, 0.7]), 0.5
    yield chain[[1, 0, 2]], torch.tensor([0.6, 0.9, 0.58]), 0.3
    yield chain.repeat(2, 1), torch.tensor([0.5, 0.5, 0.7, 0.5, 0.5, 0.7]), 0.5
    for n, sigma in ((12, 0.5), (30, 0.3), (20, 0.1)):
        yield random_boxes(n, generator, 30), torch.rand(n, generator=generator), sigma
    exact = random_boxes(9, generator, 20).double()
    yield exact, torch.rand(9, generator=generator).double(), 0.5
    yield random_boxes(1, generator), torch.tensor([0.4]), 0.5
    yield torch.zeros(0, 4), torch.zeros(0), 0.5


def soft_search(boxes, scores, decay, fixed_order=False, best_first=True, sort=False):
    """Soft-NMS with another decay, order of visits, or order of the answer."""
    scores, left = scores.clone(), torch.ones(len(boxes), dtype=torch.bool)
    iou, visited = box_iou(boxes, boxes), []
    planned = scores.argsort(descending=True, stable=True).tolist()
    for step in range(len(boxes)):
        if fixed_order:
            best = planned[step]
        elif best_first:
            best = int(scores.where(left, -1).argmax())
        else:
            best = int(scores.where(left, 2).argmin())
        visited.append(best)
        left[best] = False
        scores = scores.where(~left, scores * decay(iou[best]))
    return scores[visited] if sort else scores


def soft_hard(boxes, scores, sigma):
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    kept[nms(boxes, scores, 0.5)] = True
    return scores * kept


def soft_not_squared(boxes, scores, sigma):
    return soft_search(boxes, scores, lambda iou: torch.exp(-iou / sigma))


def soft_linear(boxes, scores, sigma):
    return soft_search(boxes, scores, lambda iou: 1 - iou)


def soft_sigma_squared(boxes, scores, sigma):
    return soft_search(boxes, scores, lambda iou: torch.exp(-iou.square() / sigma**2))


def soft_two_sigma(boxes, scores, sigma):
    return soft_search(boxes, scores, lambda iou: torch.exp(-iou.square() / (2 * sigma)))


def soft_planned(boxes, scores, sigma):
    return soft_search(boxes, scores, lambda iou: torch.exp(-iou.square() / sigma), True)


def soft_in_order_taken(boxes, scores, sigma):
    return soft_search(boxes, scores, lambda iou: torch.exp(-iou.square() / sigma), sort=True)


def soft_worst_first(boxes, scores, sigma):
    return soft_search(
        boxes, scores, lambda iou: torch.exp(-iou.square() / sigma), best_first=False
    )


def soft_everyone(boxes, scores, sigma):
    decay = torch.exp(-box_iou(boxes, boxes).square() / sigma)
    scores, left = scores.clone(), torch.ones(len(boxes), dtype=torch.bool)
    for _ in range(len(boxes)):
        best = scores.where(left, -1).argmax()
        left[best] = False
        others = torch.arange(len(boxes)) != best
        scores = scores.where(~others, scores * decay[best])
    return scores


def soft_itself_too(boxes, scores, sigma):
    decay = torch.exp(-box_iou(boxes, boxes).square() / sigma)
    scores, left = scores.clone(), torch.ones(len(boxes), dtype=torch.bool)
    for _ in range(len(boxes)):
        best = scores.where(left, -1).argmax()
        scores = scores.where(~left, scores * decay[best])
        left[best] = False
    return scores


SOFT = Exercise(
    soft_nms,
    scored_boxes,
    points=4,
    minutes=25,
    tolerance=1e-5,
    mistakes=[
        Mistake(
            "deleted, not lowered",
            soft_hard,
            "Some of your scores are 0: that is the NMS of the lesson. Here no box is deleted, "
            "each keeps a part of its score.",
        ),
        Mistake(
            "the IoU is not squared",
            soft_not_squared,
            "Your scores fall too fast where boxes hardly overlap. Compare the exponent with the "
            "formula, symbol by symbol.",
        ),
        Mistake(
            "the linear variant",
            soft_linear,
            "You multiply by 1 − IoU, the paper's other variant. What is sigma for in yours?",
        ),
        Mistake(
            "sigma squared",
            soft_sigma_squared,
            "Right but for the width of the decay. Is it a standard deviation in this formula?",
        ),
        Mistake(
            "twice sigma",
            soft_two_sigma,
            "Your scores fall too slowly: there is no 2 in this exponent.",
        ),
        Mistake(
            "the order of the first scores",
            soft_planned,
            "You sort once and go down that list. After one step the scores are others: who is "
            "best now?",
        ),
        Mistake(
            "the order in which boxes were taken",
            soft_in_order_taken,
            "The numbers are right, but in the order of taking. Entry i belongs to box i.",
        ),
        Mistake(
            "the worst box first",
            soft_worst_first,
            "You begin with the box of the lowest score, so the sure boxes pay for the unsure.",
        ),
        Mistake(
            "boxes that were taken are lowered again",
            soft_everyone,
            "A box that has been taken loses score to later ones. Its score is final once it is "
            "taken: whom does a step touch?",
        ),
        Mistake(
            "the box suppresses itself",
            soft_itself_too,
            "Even a box that stands alone loses score in yours. What is its IoU with itself?",
        ),
    ],
)

# ---------------------------------------------------------------- 2. giou


def pairs_of_boxes(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Boxes that overlap, contain one another, touch, and are far apart; none."""
    square = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    yield square, square + torch.tensor([[20.0, 30.0, 20.0, 30.0]])
    yield square, torch.tensor([[2.0, 3.0, 6.0, 8.0], [0.0, 0.0, 10.0, 10.0], [10.0, 0, 20, 10]])
    for n, m, size in ((5, 7, 60.0), (9, 2, 200.0), (1, 1, 20.0)):
        yield random_boxes(n, generator, size), random_boxes(m, generator, size)
    yield random_boxes(4, generator).double(), random_boxes(3, generator).double()
    yield random_boxes(3, generator) - 40, random_boxes(2, generator)
    yield torch.zeros(0, 4), random_boxes(2, generator)


def parts(boxes, others, clamp=True):
    """Intersection, union and the box around, for all pairs."""
    first, second = boxes[:, None], others[None]
    inner = torch.minimum(first[..., 2:], second[..., 2:]) - torch.maximum(
        first[..., :2], second[..., :2]
    )
    outer = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(
        first[..., :2], second[..., :2]
    )
    both = (inner.clamp(min=0) if clamp else inner).prod(dim=-1)
    area, other = ((b[..., 2:] - b[..., :2]).prod(dim=-1) for b in (first, second))
    return both, area + other - both, outer.prod(dim=-1)


def giou_plain(boxes, others):
    return box_iou(boxes, others)


def giou_over_union(boxes, others):
    both, either, around = parts(boxes, others)
    return both / either - (around - either) / either


def giou_added(boxes, others):
    both, either, around = parts(boxes, others)
    return both / either + (around - either) / around


def giou_not_clamped(boxes, others):
    both, either, around = parts(boxes, others, clamp=False)
    return both / either - (around - either) / around


def giou_sum_for_union(boxes, others):
    both, either, around = parts(boxes, others)
    return both / either - (around - (either + both)) / around


def giou_as_loss(boxes, others):
    return 1 - giou(boxes, others)


def giou_intersection(boxes, others):
    both, either, around = parts(boxes, others)
    return both / either - (around - both) / around


GIOU = Exercise(
    giou,
    pairs_of_boxes,
    points=3,
    minutes=15,
    tolerance=1e-5,
    mistakes=[
        Mistake(
            "the IoU alone",
            giou_plain,
            "This is the plain IoU: two boxes that are apart have 0 in yours, near or far.",
        ),
        Mistake(
            "divided by the union",
            giou_over_union,
            "Your values fall far below −1. The empty share is a share of which box?",
        ),
        Mistake(
            "added, not subtracted",
            giou_added,
            "Boxes that are farther apart have a higher value in yours. Which way should it go?",
        ),
        Mistake(
            "a negative side",
            giou_not_clamped,
            "Right where boxes overlap. Apart in both directions, two negative sides have a "
            "positive product.",
        ),
        Mistake(
            "the sum of the areas for the union",
            giou_sum_for_union,
            "Right where boxes are apart. Where they overlap, you count what both cover twice.",
        ),
        Mistake(
            "the loss",
            giou_as_loss,
            "A box has 0 with itself in yours: that is the loss, 1 − GIoU. The overlap was asked "
            "for.",
        ),
        Mistake(
            "without the intersection only",
            giou_intersection,
            "You subtract all of C that is outside of the intersection. What neither box covers "
            "is less than that.",
        ),
    ],
)

# ---------------------------------------------------------------- 3. assign_levels


def boxes_of_levels(generator: torch.Generator) -> Iterator[tuple[Tensor, int, int, int, float]]:
    """Boxes of all sizes, some exactly at a limit between two levels, some long, some empty."""
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


def level_from_zero(boxes, lowest, highest, reference_level, reference_size):
    return assign_levels(boxes, lowest, highest, reference_level, reference_size) + lowest


def level_other_way(boxes, lowest, highest, reference_level, reference_size):
    turned = assign_levels(boxes, lowest, highest, reference_level, reference_size)
    return highest - lowest - turned


LEVELS = Exercise(
    assign_levels,
    boxes_of_levels,
    points=3,
    minutes=15,
    mistakes=[
        Mistake(
            "counted from 0",
            level_from_zero,
            "Your numbers are the levels' names, 2 for the finest. As an index into a list of "
            "features, what is the finest?",
        ),
        Mistake(
            "the area for the size",
            level_by(lambda sides: sides.prod(dim=-1)),
            "Twice the size, in each direction, should be one level more. How much is that in "
            "area?",
        ),
        Mistake(
            "rounded to the nearest",
            level_by(root_of_area, torch.round),
            "Many of your boxes are a level too high: from which size on does a level begin, and "
            "which rounding says so?",
        ),
        Mistake(
            "the natural logarithm",
            level_by(root_of_area, logarithm=torch.log),
            "Your levels are too close together: a factor of 2.7 is one level in yours.",
        ),
        Mistake(
            "nothing added before rounding",
            level_by(root_of_area, shift=0.0),
            "Right except exactly at a limit: 1.9999999 is rounded down to 1. What does the text "
            "add before rounding?",
        ),
        Mistake(
            "no limits",
            level_by(root_of_area, clamp=False),
            "Very small or very large boxes get a level that does not exist.",
        ),
        Mistake(
            "the longer side",
            level_by(lambda sides: sides.amax(dim=-1)),
            "Right for squares. The size of a box is not its longer side here.",
        ),
        Mistake(
            "large boxes on fine levels",
            level_other_way,
            "In yours the large boxes go to the fine levels. Where does one cell see more of the "
            "image?",
        ),
    ],
)

# ---------------------------------------------------------------- 4. anchor_shapes


def sizes_and_shapes(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Clusters of sizes, from good and from bad beginnings; one round, several, none."""
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


def shapes_euclidean(sizes, shapes, rounds):
    return clustered(sizes, shapes, rounds, lambda a, b: torch.cdist(a, b).argmin(dim=1))


def shapes_median(sizes, shapes, rounds):
    return clustered(sizes, shapes, rounds, centre=lambda mine: mine.median(dim=0).values)


def shapes_lowest(sizes, shapes, rounds):
    return clustered(sizes, shapes, rounds, lambda a, b: corner_iou(a, b).argmin(dim=1))


def shapes_assigned_once(sizes, shapes, rounds):
    return clustered(sizes, shapes, rounds, again=False)


def shapes_empty_vanish(sizes, shapes, rounds):
    return clustered(sizes, shapes, rounds, empty=True)


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
        Mistake(
            "the Euclidean distance",
            shapes_euclidean,
            "Your sizes go to the shape that is nearest in pixels, so the large boxes decide. "
            "Which shape overlaps them most?",
        ),
        Mistake(
            "the median",
            shapes_median,
            "You take the median of each group. That would be k-medians; what is in the name?",
        ),
        Mistake(
            "the lowest IoU",
            shapes_lowest,
            "Your sizes go to the shape that fits them worst. The distance is 1 − IoU.",
        ),
        Mistake(
            "assigned only once",
            shapes_assigned_once,
            "Right for one round. When the shapes have moved, do all sizes still belong to the "
            "same?",
        ),
        Mistake(
            "an unchosen shape becomes nothing",
            shapes_empty_vanish,
            "A shape that nobody chose turns into 0 × 0. What is it to become?",
        ),
        Mistake(
            "one round too many",
            shapes_one_too_many,
            "You do one round more than asked. What is returned for 0 rounds?",
        ),
    ],
)

homework = Homework("Homework 02: boxes", [SOFT, GIOU, LEVELS, SHAPES])
check, score_board = homework.check, homework.score_board
