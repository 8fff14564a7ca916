"""Lesson 02 and its homework: turns and exercises on boxes, and the mistakes known by name."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lessons.anchor_boxes import box_iou, encode_boxes, largest_float, nms, survivors
from lessons.homework.answers.anchor_boxes import giou, soft_nms
from lessons.kit.homework import Exercise, Homework, mistake
from lessons.kit.models.images import in_full_precision


def random_boxes(n: int, generator: torch.Generator, size: float = 60.0) -> Tensor:
    """Boxes of 4 to 34 pixels, many of them overlapping."""
    corner = torch.rand(n, 2, generator=generator) * size
    sides = 4 + 30 * torch.rand(n, 2, generator=generator)
    return torch.cat([corner, corner + sides], dim=1)


# ---------------------------------------------------------------- your turn: box_iou


def boxes_to_compare(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Apart in either direction and in both, inside one another, touching, without area; none."""
    yield torch.tensor([[1.0, 1.0, 4.0, 4.0]]), torch.tensor([[2.0, 2.0, 5.0, 5.0]])
    square = torch.tensor([[0.0, 0.0, 10.0, 10.0]])
    others = [[2, 3, 6, 8], [20, 3, 30, 8], [3, 20, 8, 30], [20, 30, 24, 33], [10, 0, 20, 10]]
    yield square, torch.tensor([*others, [-8, -9, 5, 4]]).float()
    yield random_boxes(5, generator), random_boxes(7, generator)
    yield random_boxes(9, generator, 20) - 30, random_boxes(4, generator, 20) - 30
    yield random_boxes(6, generator).view(2, 3, 4), random_boxes(4, generator).view(2, 2, 4)
    yield square, torch.tensor([[5.0, 5, 5, 5], [3, 2, 9, 2]])
    yield torch.tensor([[5.0, 5, 5, 5]]), torch.tensor([[5.0, 5, 5, 5], [0, 0, 9, 9]])
    shares = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.0, 0.75, 0.5]])  # of an image's sides
    yield shares, shares
    yield random_boxes(3, generator) / 4096, random_boxes(2, generator) / 4096
    yield square.byte(), torch.tensor([[20, 30, 24, 33], [2, 3, 6, 8]], dtype=torch.uint8)
    yield torch.zeros(0, 4), square


def iou_by(
    inner=lambda side: side.clamp(min=0), union=lambda area, other, both: area + other - both
):
    """The IoU of all pairs, with another intersection or another union."""

    def iou(boxes, others):
        first, second = boxes.float()[..., :, None, :], others.float()[..., None, :, :]
        low = torch.maximum(first[..., :2], second[..., :2])
        high = torch.minimum(first[..., 2:], second[..., 2:])
        both = inner(high - low).prod(-1)
        area, other = ((b[..., 2:] - b[..., :2]).prod(-1) for b in (first, second))
        return both / union(area, other, both).clamp(min=1e-38)

    return iou


def plain_box_iou(boxes, others):
    boxes, others = in_full_precision(boxes), in_full_precision(others)
    first, second = boxes[..., :, None, :], others[..., None, :, :]
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    both = (high - low).clamp(min=0).prod(dim=-1)
    area, other = ((b[..., 2:] - b[..., :2]).prod(dim=-1) for b in (first, second))
    return both / (area + other - both).clamp(min=torch.finfo(both.dtype).tiny)


def iou_not_clamped(boxes, others):
    """Negative sides, and 0/0."""
    first, second = boxes.float()[..., :, None, :], others.float()[..., None, :, :]
    low = torch.maximum(first[..., :2], second[..., :2])
    both = (torch.minimum(first[..., 2:], second[..., 2:]) - low).prod(-1)
    area, other = ((b[..., 2:] - b[..., :2]).prod(-1) for b in (first, second))
    return both / (area + other - both)


def iou_around(boxes, others):
    first, second = boxes.float()[..., :, None, :], others.float()[..., None, :, :]
    low = torch.minimum(first[..., :2], second[..., :2])
    high = torch.maximum(first[..., 2:], second[..., 2:])
    both = (high - low).prod(-1)
    area, other = ((b[..., 2:] - b[..., :2]).prod(-1) for b in (first, second))
    return both / (area + other - both).clamp(min=1e-6)


IOU = Exercise(
    box_iou,
    boxes_to_compare,
    plain=plain_box_iou,
    mistakes=[
        mistake(
            "an area below 1",
            "Right for boxes in pixels. Boxes may be in any unit, as shares of an image: there a "
            "union of .25 is no zero.",
        )(iou_by(union=lambda area, other, both: (area + other - both).clamp(min=1))),
        mistake(
            "a negative side and 0/0",
            "Apart, a side is negative: it counts as 0. And two boxes without area give 0/0.",
        )(iou_not_clamped),
        mistake(
            "0/0",
            "Right, but for two boxes without area: 0/0 is NaN, and 0 is asked for.",
        )(
            iou_by(
                union=lambda area, other, both: torch.where(
                    area + other == 0, torch.nan, area + other - both
                )
            )
        ),
        mistake(
            "the product clamped",
            "Apart in both directions, two negative sides have a positive product: each side has "
            "to be 0 for itself.",
        )(lambda boxes, others: iou_by(inner=lambda side: side)(boxes, others).clamp(min=0)),
        mistake(
            "a negative side",
            "Right where boxes meet. Apart in both directions, two negative sides have a positive "
            "product.",
        )(iou_by(inner=lambda side: side)),
        mistake(
            "the box around both",
            "Your intersection is the box around both. At which left edge should it begin?",
        )(iou_around),
        mistake(
            "both counted twice",
            "Your union counts what both boxes cover twice.",
        )(iou_by(union=lambda area, other, both: area + other)),
        mistake(
            "a pixel too many",
            "Your sides are one too long: a box from 1 to 4 is 3 wide.",
        )(iou_by(inner=lambda side: (side + 1).clamp(min=0))),
        mistake(
            "the share of the first box",
            "You divide by the area of one of the two boxes. A small box inside a large one should "
            "have a small IoU from either side.",
        )(iou_by(union=lambda area, other, both: area + 0 * other)),
        mistake(
            "the share of the smaller box",
            "A box inside another has 1 in yours. What does the union of the two measure?",
        )(iou_by(union=lambda area, other, both: torch.minimum(area, other))),
    ],
)

# ---------------------------------------------------------------- your turn: encode_boxes


def boxes_and_anchors(generator: torch.Generator) -> Iterator[tuple]:
    """Moved and grown alone, all at once, with weights, one anchor for several boxes, none."""
    anchor = torch.tensor([[10.0, 10.0, 30.0, 50.0]])
    yield torch.tensor([[15.0, 12.0, 35.0, 52.0]]), anchor
    yield torch.tensor([[0.0, 10.0, 40.0, 50.0]]), anchor
    yield random_boxes(6, generator), random_boxes(6, generator)
    yield random_boxes(5, generator), random_boxes(5, generator), (10.0, 9.0, 5.0, 4.0)
    yield random_boxes(4, generator), anchor
    yield random_boxes(6, generator).view(2, 3, 4), random_boxes(2, generator).view(2, 1, 4)
    whole = random_boxes(6, generator).round().long()
    yield whole[:3], whole[3:], (0.5, 2.5, 1.5, 0.2)
    yield torch.zeros(0, 4), torch.zeros(0, 4)


def code_by(growth=torch.log, of_anchor=True, centre=0.5, weigh=torch.mul):
    """The code with another growth, unit, reference point, or use of the weights."""

    def encode(boxes, anchors, weights=(1, 1, 1, 1)):
        boxes, anchors = boxes.double(), anchors.double()
        size, scale = (b[..., 2:] - b[..., :2] for b in (boxes, anchors))
        moved = boxes[..., :2] + centre * size - anchors[..., :2] - centre * scale
        code = torch.cat([moved / (scale if of_anchor else size), growth(size / scale)], -1)
        return weigh(code, code.new_tensor(weights)).float()

    return encode


def code_in_pixels(boxes, anchors, weights=(1, 1, 1, 1)):
    unit = (anchors[..., 2:] - anchors[..., :2]).float().repeat_interleave(2, -1)[..., [0, 2, 1, 3]]
    code = encode_boxes(boxes, anchors, weights)
    return torch.cat([code[..., :2] * unit[..., :2], code[..., 2:]], -1)


ENCODE = Exercise(
    encode_boxes,
    boxes_and_anchors,
    mistakes=[
        mistake(
            "no logarithm",
            "Your growth is the plain ratio: a box of the anchor's own size should have a growth "
            "of 0.",
        )(code_by(growth=lambda ratio: ratio)),
        mistake(
            "the wrong way round",
            "Your growth has the wrong sign: a larger box should have a growth above 0.",
        )(code_by(growth=lambda ratio: -torch.log(ratio))),
        mistake(
            "the growth as a share",
            "Your growth is the ratio minus 1. Nearly right for small changes, but twice and half "
            "are not equally far from 0.",
        )(code_by(growth=lambda ratio: ratio - 1)),
        mistake(
            "in units of the box",
            "You divide the way by the size of the box. A network knows its anchor: whose size is "
            "the unit?",
        )(code_by(of_anchor=False)),
        mistake(
            "from corner to corner",
            "Your way leads from corner to corner. A box that only grows should not move.",
        )(code_by(centre=0.0)),
        mistake(
            "in pixels",
            "Your way is in pixels: a picture of twice the size should have the same code.",
        )(code_in_pixels),
        mistake(
            "without the weights",
            "Right with weights of 1. Each of the four numbers is multiplied by its weight.",
        )(code_by(weigh=lambda code, weights: code)),
        mistake(
            "divided by the weights",
            "You divide by the weights, which belongs to the way back.",
        )(code_by(weigh=torch.div)),
    ],
)

# ---------------------------------------------------------------- your turn: nms


def boxes_to_suppress(generator: torch.Generator) -> Iterator[tuple]:
    """A chain, equal scores and equal boxes, an IoU of exactly the threshold, groups, none."""
    four = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10], [30, 0, 40, 10]])
    yield four[:2], torch.tensor([0.8, 0.9]), 0.5
    yield four[:3], torch.tensor([0.9, 0.8, 0.7]), 0.5
    yield four[[2, 3, 0, 1]], torch.tensor([0.3, 0.9, 0.5, 0.4]), 0.5
    yield four.repeat(2, 1), torch.tensor([0.5, 0.7, 0.5, 0.7, 0.5, 0.7, 0.5, 0.7]), 0.5
    half = torch.tensor([[0.0, 0, 4, 2], [0, 0, 2, 2], [0, 0, 4, 1]])
    yield half, torch.tensor([0.9, 0.8, 0.7]), 0.5  # both IoUs with the first are ½
    apart = torch.tensor([[0.0, 0, 10, 10], [-11, -11, -1, -1], [1, 0, 11, 10]])
    yield apart, torch.tensor([0.9, 0.8, 0.7]), 0.5, torch.tensor([0, 1, 0])
    groups = torch.tensor([3, 1, 3, 1])
    yield four, torch.tensor([0.6, 0.9, 0.8, 0.7]), 0.2, groups
    yield four.repeat(2, 1), torch.rand(8, generator=generator), 0.5, torch.arange(8) % 3
    for n, threshold in ((40, 0.3), (60, 0.7), (25, 0.0)):
        yield random_boxes(n, generator, 30), torch.rand(n, generator=generator), threshold
    for n, kinds in ((40, 2), (50, 5)):
        groups = torch.randint(kinds, (n,), generator=generator)
        yield random_boxes(n, generator, 30), torch.rand(n, generator=generator), 0.4, groups
    tenths = torch.tensor([[0, 0, 10, 1], [0, 0, 3, 1], [0, 0, 7, 1]], dtype=torch.uint8)
    yield tenths, torch.tensor([0.9, 0.8, 0.7]), 0.3  # 3/10, as a 32-bit number, is above 0.3
    yield tenths, torch.tensor([0.9, 0.8, 0.7]).double(), 0.3  # and the scores' type is no matter
    yield (
        four[[0, 0, 0]] * torch.tensor([1.0, 1, 0, 1]),
        torch.tensor([0.7, 0.9, 0.8]),
        0.5,
    )  # empty
    scores = torch.randint(5, (300,), generator=generator) / 4  # many are equal
    yield random_boxes(300, generator, 200), scores, 0.3
    yield random_boxes(300, generator, 90), scores, 0.3, torch.arange(300) % 3
    yield random_boxes(300, generator, 30), scores, 0.3, (torch.arange(300) > 126).long()
    yield torch.zeros(0, 4), torch.zeros(0), 0.5


def nms_by(too_close=torch.gt, revive=True, best_first=True, ordered=True, apart=True):
    """Greedy suppression with one of its parts replaced."""

    def suppress(boxes, scores, iou_threshold, groups=None):
        close = too_close(box_iou(boxes, boxes), largest_float(iou_threshold, torch.float32))
        if groups is not None and apart:
            close = close & (groups[:, None] == groups)
        order = scores.argsort(descending=best_first, stable=True).tolist()
        kept = []
        for place, i in enumerate(order):
            before = kept if revive else order[:place]
            if not any(close[j, i] for j in before):
                kept.append(i)
        kept = kept if ordered else sorted(kept)
        return torch.tensor(kept, dtype=torch.int64)

    return suppress


def nms_unsorted_groups(boxes, scores, iou_threshold, groups=None):
    order = scores.argsort(descending=True, stable=True)
    close = box_iou(boxes[order], boxes[order]) > largest_float(iou_threshold, torch.float32)
    close = close if groups is None else close & (groups[:, None] == groups)
    return order[survivors(close)]


def plain_nms(boxes, scores, iou_threshold, groups=None):
    boxes = in_full_precision(boxes)
    limit = largest_float(iou_threshold, boxes.dtype)
    order = scores.argsort(descending=True, stable=True)
    overlaps = box_iou(boxes[order], boxes[order]) > limit
    if groups is not None:
        overlaps &= groups[order][:, None] == groups[order]
    return order[survivors(overlaps)]


def nms_far_apart(boxes, scores, iou_threshold, groups=None):
    """Each group moved by the largest coordinate, as torchvision's batched NMS does."""
    if groups is None or not len(boxes):
        return nms(boxes, scores, iou_threshold)
    return nms(boxes + groups[:, None] * (boxes.max() + 1), scores, iou_threshold)


def nms_mask(boxes, scores, iou_threshold, groups=None):
    kept = torch.zeros_like(scores, dtype=torch.bool)
    kept[nms(boxes, scores, iou_threshold, groups)] = True
    return kept


def nms_places(boxes, scores, iou_threshold, groups=None):
    order = scores.argsort(descending=True, stable=True)
    return order.argsort()[nms(boxes, scores, iou_threshold, groups)]


NMS = Exercise(
    nms,
    boxes_to_suppress,
    plain=plain_nms,
    mistakes=[
        mistake(
            "groups moved apart too little",
            "Right for boxes of an image. With coordinates below 0 your groups still meet: compare "
            "the groups' numbers instead.",
        )(nms_far_apart),
        mistake(
            "a mask of those that stay",
            "You return which boxes stay. Asked for are their numbers, best first.",
        )(nms_mask),
        mistake(
            "the dead suppress",
            "In yours a box that is gone still suppresses others. In a chain of three, the third "
            "may stay.",
        )(nms_by(revive=False)),
        mistake(
            "from the threshold on",
            "Right but for boxes whose IoU is exactly the threshold: more than it is asked.",
        )(nms_by(too_close=torch.ge)),
        mistake(
            "the wrong way round",
            "You keep what overlaps and drop what stands alone.",
        )(nms_by(too_close=torch.le)),
        mistake(
            "the worst first",
            "You begin with the lowest score. Who may suppress whom?",
        )(nms_by(best_first=False)),
        mistake(
            "in the order of the boxes",
            "The right boxes, in their own order: the best one should come first.",
        )(nms_by(ordered=False)),
        mistake(
            "groups are not looked at",
            "Right without groups. With them, a box may suppress only boxes of its own group.",
        )(nms_by(apart=False)),
        mistake(
            "groups in another order",
            "Right without groups. Your boxes are sorted by score: are their groups, too?",
        )(nms_unsorted_groups),
        mistake(
            "places for numbers",
            "You return places in the sorted order. Which boxes stand at these places?",
        )(nms_places),
    ],
)

# ---------------------------------------------------------------- homework 1. soft_nms


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

# ---------------------------------------------------------------- homework 2. giou


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

homework = Homework("Homework 02: anchor boxes", [SOFT, GIOU], turns=[IOU, ENCODE, NMS])
check, score_board, your_turns = homework.check, homework.score_board, homework.your_turns
