"""Homework 02: the exercises on boxes, and the mistakes that are known by name."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lessons.anchor_boxes import box_iou, nms
from lessons.homework.answers.anchor_boxes import giou, soft_nms
from lessons.kit.homework import Exercise, Homework, mistake


def random_boxes(n: int, generator: torch.Generator, size: float = 60.0) -> Tensor:
    """Boxes of 4 to 34 pixels, many of them overlapping."""
    corner = torch.rand(n, 2, generator=generator) * size
    sides = 4 + 30 * torch.rand(n, 2, generator=generator)
    return torch.cat([corner, corner + sides], dim=1)


# ---------------------------------------------------------------- 1. soft_nms


def scored_boxes(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, float]]:
    """A chain of three, equal scores, near duplicates, one box, none."""
    two = torch.tensor([[0.0, 0, 3, 2], [1, 0, 4, 2]])
    yield two, torch.tensor([0.9, 0.8]), 0.5
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


@mistake(
    "deleted, not lowered",
    "Some of your scores are 0: that is the NMS of the lesson. Here no box is deleted, "
    "each keeps a part of its score.",
)
def soft_hard(boxes, scores, sigma):
    kept = torch.zeros(len(boxes), dtype=torch.bool)
    kept[nms(boxes, scores, 0.5)] = True
    return scores * kept


@mistake(
    "the IoU is not squared",
    "Your scores fall too fast where boxes hardly overlap. Compare the exponent with the "
    "formula, symbol by symbol.",
)
def soft_not_squared(boxes, scores, sigma):
    return soft_search(boxes, scores, lambda iou: torch.exp(-iou / sigma))


@mistake(
    "the linear variant",
    "You multiply by 1 − IoU, the paper's other variant. What is sigma for in yours?",
)
def soft_linear(boxes, scores, sigma):
    return soft_search(boxes, scores, lambda iou: 1 - iou)


@mistake(
    "sigma squared",
    "Right but for the width of the decay. Is it a standard deviation in this formula?",
)
def soft_sigma_squared(boxes, scores, sigma):
    return soft_search(boxes, scores, lambda iou: torch.exp(-iou.square() / sigma**2))


@mistake(
    "the order of the first scores",
    "You sort once and go down that list. After one step the scores are others: who is best now?",
)
def soft_planned(boxes, scores, sigma):
    return soft_search(boxes, scores, lambda iou: torch.exp(-iou.square() / sigma), True)


@mistake(
    "the order in which boxes were taken",
    "The numbers are right, but in the order of taking. Entry i belongs to box i.",
)
def soft_in_order_taken(boxes, scores, sigma):
    return soft_search(boxes, scores, lambda iou: torch.exp(-iou.square() / sigma), sort=True)


@mistake(
    "the worst box first",
    "You begin with the box of the lowest score, so the sure boxes pay for the unsure.",
)
def soft_worst_first(boxes, scores, sigma):
    return soft_search(
        boxes, scores, lambda iou: torch.exp(-iou.square() / sigma), best_first=False
    )


@mistake(
    "boxes that were taken are lowered again",
    "A box that has been taken loses score to later ones. Its score is final once it is "
    "taken: whom does a step touch?",
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


@mistake(
    "the box suppresses itself",
    "Even a box that stands alone loses score in yours. What is its IoU with itself?",
)
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
        soft_hard,
        soft_not_squared,
        soft_linear,
        soft_sigma_squared,
        soft_planned,
        soft_in_order_taken,
        soft_worst_first,
        soft_everyone,
        soft_itself_too,
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


@mistake(
    "the IoU alone",
    "This is the plain IoU: two boxes that are apart have 0 in yours, near or far.",
)
def giou_plain(boxes, others):
    return box_iou(boxes, others)


@mistake(
    "divided by the union",
    "Your values fall far below −1. The empty share is a share of which box?",
)
def giou_over_union(boxes, others):
    both, either, around = parts(boxes, others)
    return both / either - (around - either) / either


@mistake(
    "added, not subtracted",
    "Boxes that are farther apart have a higher value in yours. Which way should it go?",
)
def giou_added(boxes, others):
    both, either, around = parts(boxes, others)
    return both / either + (around - either) / around


@mistake(
    "a negative side",
    "Right where boxes overlap. Apart in both directions, two negative sides have a "
    "positive product.",
)
def giou_not_clamped(boxes, others):
    both, either, around = parts(boxes, others, clamp=False)
    return both / either - (around - either) / around


@mistake(
    "the sum of the areas for the union",
    "Right where boxes are apart. Where they overlap, you count what both cover twice.",
)
def giou_sum_for_union(boxes, others):
    both, either, around = parts(boxes, others)
    return both / either - (around - (either + both)) / around


@mistake(
    "without the intersection only",
    "You subtract all of C that is outside of the intersection. What neither box covers "
    "is less than that.",
)
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
        giou_plain,
        giou_over_union,
        giou_added,
        giou_not_clamped,
        giou_sum_for_union,
        giou_intersection,
    ],
)

homework = Homework("Homework 02: anchor boxes", [SOFT, GIOU])
check, score_board = homework.check, homework.score_board
