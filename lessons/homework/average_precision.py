"""Lesson 01 and its homework: turns and exercises on average precision, and the known mistakes."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from lessons.average_precision import (
    RECALLS,
    average_precision,
    mask_iou,
    match_detections,
    precision_recall,
)
from lessons.homework.answers.average_precision import (
    best_cut,
    boundary_iou,
    match_voc,
    mean_average_precision,
)
from lessons.kit.data import Segments, boxes
from lessons.kit.data.pixels import pixel_counts
from lessons.kit.homework import Exercise, Homework, Mistake, mistake

# ---------------------------------------------------------------- your turn: mask_iou


def masks_to_compare(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """With crowds of both types and without; empty masks, no masks, one mask within another."""
    p = torch.tensor([[[1, 1], [1, 0]]]).bool()
    g = torch.tensor([[[0, 1], [0, 1]], [[1, 0], [0, 0]]]).bool()
    yield p, g, None
    yield p, g, torch.tensor([True, False])
    yield g[1:], g, None  # one pixel
    yield random_masks(4, 9, 11, generator), random_masks(3, 9, 11, generator), None
    some = random_masks(5, 12, 10, generator)
    yield some[:3], some[1:], torch.tensor([0, 1, 1, 0])
    empty = torch.zeros(2, 4, 5, dtype=torch.bool)
    yield torch.cat([empty, ~empty[:1]]), empty, None
    yield torch.cat([empty, ~empty[:1]]), torch.cat([empty, ~empty[:1]]), torch.ones(3).bool()
    yield some[:0], some[:2], torch.tensor([False, True])
    yield some[:2], some[:0], None


def compared_by(union, crowd=lambda p, union: p[:, None].expand_as(union)):
    """The IoU with another union, and another one against crowds."""

    def compare(predictions, targets, is_crowd=None):
        both, p, g = pixel_counts(predictions, targets)
        below = union(both, p[:, None], g)
        if is_crowd is not None:
            below = torch.where(is_crowd.bool(), crowd(p, below), below)
        return both / below.clamp(min=1).double()

    return compare


def usual_union(both, p, g):
    return p + g - both


def divided_as_it_comes(predictions, targets, is_crowd=None):
    """A quotient of whole numbers: float32, and NaN of two empty masks."""
    both, p, g = pixel_counts(predictions, targets)
    union = usual_union(both, p[:, None], g)
    if is_crowd is not None:
        union = torch.where(is_crowd.bool(), p[:, None], union)
    return both / union


MASK_IOU = Exercise(
    mask_iou,
    masks_to_compare,
    tolerance=1e-12,
    mistakes=[
        Mistake(
            "float32",
            lambda *arguments: mask_iou(*arguments).float(),
            "Right to seven digits: your quotient is float32. An IoU of .7 would be just below the "
            "threshold .7. Divide in float64.",
        ),
        Mistake(
            "float32 and 0/0",
            divided_as_it_comes,
            "The formula is right, its division is not yet: whole numbers are divided in float32 "
            "(an IoU of .7 would be just below the threshold .7), and two empty masks give 0/0.",
        ),
        Mistake(
            "what both have, twice",
            compared_by(lambda both, p, g: p + g + 0 * both),
            "Your union counts twice what both masks have.",
        ),
        Mistake(
            "Dice",
            compared_by(lambda both, p, g: (p + g) / 2),
            "Twice the intersection over the sum of both areas is Dice. What does IoU divide by?",
        ),
        Mistake(
            "the smaller area",
            compared_by(lambda both, p, g: torch.minimum(p, g)),
            "You divide by the smaller of the two areas. Then a mask within another has 1.",
        ),
        Mistake(
            "the larger area",
            compared_by(lambda both, p, g: torch.maximum(p, g)),
            "You divide by the larger of the two areas. How many pixels has either mask?",
        ),
        Mistake(
            "the crowd's own area",
            lambda predictions, targets, is_crowd=None: compared_by(
                usual_union, lambda p, union: pixel_counts(predictions, targets)[2].expand_as(union)
            )(predictions, targets, is_crowd),
            "Against a crowd you ask how much of the crowd is covered. The question was how much "
            "of the prediction lies inside.",
        ),
        Mistake(
            "the other things for crowds",
            lambda predictions, targets, is_crowd=None: mask_iou(
                predictions, targets, None if is_crowd is None else ~is_crowd.bool()
            ),
            "What belongs to crowds happens to all the others: see which of the two torch.where "
            "takes where its condition is true.",
        ),
        Mistake(
            "nothing overlaps a crowd",
            lambda predictions, targets, is_crowd=None: (
                mask_iou(predictions, targets) * (1 if is_crowd is None else ~is_crowd.bool())
            ),
            "With a crowd your overlap is always 0. Then a detection inside it would be false.",
        ),
    ],
)

# ---------------------------------------------------------------- your turn: match_detections


def scenes_to_match(generator: torch.Generator) -> Iterator[tuple]:
    """IoUs in steps of 0.1, so that some are equal and some equal a threshold; ignored, crowds."""
    iou = torch.tensor([[0.9, 0.6], [0.8, 0.0], [0.7, 0.6]])
    yield iou, torch.tensor([0.5]), None, None
    yield iou[:2], torch.tensor([0.5, 0.85]), torch.tensor([True, False]), None
    for d, g, r in ((6, 4, 2), (8, 3, 3), (5, 7, 1)):
        iou = torch.randint(0, 11, (d, g), generator=generator).double() / 10
        crowd = torch.rand(g, generator=generator) < 0.4
        ignored = (torch.rand(r, g, generator=generator) < 0.5) | crowd
        yield iou, torch.tensor([0.3, 0.5, 0.8]).double(), ignored, crowd
    crowd = torch.tensor([0, 1])  # as COCO's JSON has it
    yield torch.full((3, 2), 0.5), torch.tensor([0.5, 0.6]), crowd, crowd
    yield torch.tensor([[0.0, math.nan], [0.6, 1.0]]), torch.tensor([0.0, 0.5]), None, None
    # At 0 even what does not overlap will do; what counts first.
    yield torch.tensor([[0.0, 1.0], [0.0, 0.0]]), torch.tensor([0.0]), torch.tensor([0, 1]), None
    yield torch.zeros(2, 0), torch.tensor([0.5]), None, None
    yield torch.zeros(0, 2), torch.tensor([0.5]), None, None


def matched_by(rank, take):
    """The greedy rule with other ranks, or with another way to remember what is taken."""

    def match(iou, thresholds, ignored=None, is_crowd=None):
        none = torch.zeros(iou.shape[1], dtype=torch.bool)
        ignored = none if ignored is None else ignored.bool()
        crowd = none if is_crowd is None else is_crowd.bool()
        enough = iou[:, None] >= thresholds[:, None]
        bonus = torch.where(ignored, 0, 2)[..., None, :]
        free = torch.ones(*ignored.shape[:-1], len(thresholds), len(none), dtype=torch.bool)
        matches = torch.full((*free.shape[:-1], len(iou)), -1)
        if iou.numel() == 0:
            return matches
        for d in enough.any(-1).any(-1).nonzero()[:, 0]:
            ranks = torch.where((free | crowd) & enough[d], rank(iou[d], bonus), -1.0)
            best = len(none) - 1 - ranks.flip(-1).argmax(-1)
            matches[..., d] = torch.where(ranks.amax(-1) >= 0, best, -1)
            free = take(free, best, matches[..., d])
        return matches

    return match


def taken_everywhere(free, best, match):
    free[..., best] = False
    return free


def taken_without_a_match(free, best, match):
    return free & (best[..., None] != torch.arange(free.shape[-1]))


def taken(free, best, match):
    return free & (match[..., None] != torch.arange(free.shape[-1]))


def crowd_used_up(iou, thresholds, ignored=None, is_crowd=None):
    return match_detections(iou, thresholds, ignored)


def free_again(free, best, match):
    return match[..., None] != torch.arange(free.shape[-1])


MATCH = Exercise(
    match_detections,
    scenes_to_match,
    minutes=12,
    mistakes=[
        Mistake(
            "taken at every threshold",
            matched_by(lambda iou, bonus: iou + bonus, taken_everywhere),
            "`free[..., best]` takes the things in `best` away from all thresholds and ranges at "
            "once, also where nobody took them. `matches[..., d]` has one for each of them.",
        ),
        Mistake(
            "taken without a match",
            matched_by(lambda iou, bonus: iou + bonus, taken_without_a_match),
            "`best` is a number also where no rank was high enough. Which of the two says whether "
            "the thing was really taken?",
        ),
        Mistake(
            "free again",
            matched_by(lambda iou, bonus: iou + bonus, free_again),
            "What an earlier detection took is free again in yours: there `free` has to stay "
            "False, `free &= …`.",
        ),
        Mistake(
            "never taken",
            matched_by(lambda iou, bonus: iou + bonus, lambda free, best, match: free),
            "A thing that was taken stays free in yours, and is found twice.",
        ),
        Mistake(
            "a crowd is used up",
            crowd_used_up,
            "Right without crowds. A crowd can be taken by any number of detections.",
        ),
        Mistake(
            "times for plus",
            matched_by(lambda iou, bonus: iou * bonus, taken),
            "You multiply by the bonus, so all ignored things have the rank 0 and look alike.",
        ),
    ],
)

# ---------------------------------------------------------------- your turn: average_precision


def curves(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Rankings alone and several at once; all found, none found, no detections, no things.

    With 15 and with 100 things recalls are among the 101, if these are rounded as RECALLS are.
    """
    yield precision_recall(*verdicts_of("+-+"), 4)
    yield precision_recall(*verdicts_of("-++-+"), 3)
    yield precision_recall(*verdicts_of("---"), 2)
    for rankings, d, things in (((), 12, 9), ((3,), 20, 29), ((2, 3), 15, 15), ((), 100, 100)):
        hit = torch.rand(*rankings, d, generator=generator) < 0.6
        yield precision_recall(hit, ~hit, things)
    hit, false = torch.rand(2, 2, 9, generator=generator) < 0.5
    hit[1] = False  # there is nothing of this class
    yield precision_recall(hit & ~false, false & ~hit, torch.tensor([[12], [0]]))
    yield torch.zeros(2, 0, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.float64)


def verdicts_of(ranking: str) -> tuple[Tensor, Tensor]:
    hit = torch.tensor([each == "+" for each in ranking])
    return hit, ~hit


def read_by(envelope, recalls=RECALLS):
    """The mean reading of another envelope, or at other recalls."""

    def read(precision, recall):
        points = recalls.double().expand(*recall.shape[:-1], -1).contiguous()
        at = torch.searchsorted(recall.contiguous(), points)
        ap = F.pad(envelope(precision), (0, 1)).gather(-1, at).mean(-1)
        return ap.masked_fill(recall.isnan().any(-1), math.nan)

    return read


def from_the_end(precision):
    return precision.flip(-1).cummax(-1).values.flip(-1)


def read_where_reached(precision, recall):
    """The mean over those recalls that are reached."""
    ends = recall.amax(-1) if recall.shape[-1] else recall.new_zeros(recall.shape[:-1])
    reached = (ends[..., None] >= RECALLS).sum(-1)
    return average_precision(precision, recall) * len(RECALLS) / reached.clamp(min=1)


def read_the_last_beyond(precision, recall):
    """Recalls that are never reached read the precision of the last rank."""
    recalls = RECALLS.expand(*recall.shape[:-1], -1).contiguous()
    first = torch.searchsorted(recall.contiguous(), recalls).clamp(max=recall.shape[-1] - 1)
    ap = from_the_end(precision).gather(-1, first).mean(-1)
    return ap.masked_fill(recall.isnan().any(-1), math.nan)


def nothing_of_no_things(precision, recall):
    return average_precision(precision, recall).nan_to_num(0.0)


AVERAGE_PRECISION = Exercise(
    average_precision,
    curves,
    minutes=15,
    mistakes=[
        Mistake(
            "no envelope",
            read_by(lambda precision: precision),
            "You read the precision of the first rank that reaches the recall. A later rank may "
            "be better.",
        ),
        Mistake(
            "the envelope from the front",
            read_by(lambda precision: precision.cummax(-1).values),
            "Your envelope keeps the best of the ranks *before*. It is the later ones, with higher "
            "recall, to which one may go on.",
        ),
        Mistake(
            "the envelope is still turned",
            read_by(lambda precision: precision.flip(-1).cummax(-1).values),
            "You turned the ranks to walk from the end, and read as if they stood as before.",
        ),
        Mistake(
            "no things",
            nothing_of_no_things,
            "Right, except where there are no things: recall is NaN there, and so is AP. "
            "searchsorted does not see it.",
        ),
        Mistake(
            "the exact area",
            lambda precision, recall: (
                from_the_end(precision) * recall.diff(prepend=torch.zeros_like(recall[..., :1]))
            ).sum(-1),
            "That is the exact area under the envelope (the homework asks for it). COCO takes the "
            "mean of 101 readings.",
        ),
        Mistake(
            "the mean over the ranks",
            lambda precision, recall: from_the_end(precision).mean(-1),
            "The right envelope, and its mean over the ranks. The mean goes over recalls: some "
            "ranks answer for many of them, some for none.",
        ),
        Mistake(
            "the mean precision",
            lambda precision, recall: precision.mean(-1),
            "That is the mean of precision over the ranks. Recall has to play a part: see the "
            "picture above.",
        ),
        Mistake(
            "the last rank beyond the end",
            read_the_last_beyond,
            "Recalls that the ranking never reaches read your last rank. What do they count as?",
        ),
        Mistake(
            "without recall 0",
            read_by(from_the_end, RECALLS[1:]),
            "You read at 100 recalls. Which of 0, 0.01, …, 1 is missing?",
        ),
        Mistake(
            "recalls of float32",
            read_by(from_the_end, torch.linspace(0, 1, 101)),
            "Right but where a recall is one of the 101: yours are rounded in another way. RECALLS "
            "are pycocotools' own.",
        ),
        Mistake(
            "recalls in hundredths",
            read_by(from_the_end, torch.arange(101).double() / 100),
            "Right but where a recall is one of the 101: yours are rounded in another way. RECALLS "
            "are pycocotools' own.",
        ),
        Mistake(
            "eleven recalls",
            read_by(from_the_end, RECALLS[::10]),
            "That is PASCAL VOC's first rule, with 11 recalls. COCO has 101: RECALLS.",
        ),
        Mistake(
            "recalls that are never reached drop out",
            read_where_reached,
            "Your mean leaves out the recalls that the ranking never reaches. A thing that was "
            "missed must cost something.",
        ),
    ],
)

# ---------------------------------------------------------------- homework 1. boundary_iou


def mask_pairs(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Masks of two overlapping rectangles each, some at the image's edge, one empty, one full."""
    square = torch.ones(1, 3, 3, dtype=torch.bool)
    bitten = square.clone()
    bitten[0, 0, 2] = False
    yield square, bitten, 1
    small = torch.zeros(2, 5, 5, dtype=torch.bool)
    small[0, :4, :4] = small[1, 1:, 1:] = True
    yield small[:1], small[1:], 1
    for n, m, h, w, width in ((3, 4, 20, 31, 1), (4, 2, 33, 18, 2), (1, 1, 12, 12, 3)):
        yield random_masks(n, h, w, generator), random_masks(m, h, w, generator), width
    full, hole = torch.ones(1, 9, 11, dtype=torch.bool), torch.ones(1, 9, 11, dtype=torch.bool)
    hole[0, 3:6, 4:7] = False
    yield torch.cat([full, hole]), torch.cat([hole, full, ~full]), 2
    yield random_masks(0, 8, 10, generator), random_masks(2, 8, 10, generator), 1
    empty = torch.zeros(1, 4, 5, dtype=torch.bool)
    yield torch.cat([empty, ~empty]), empty, 1


def random_masks(n: int, h: int, w: int, generator: torch.Generator) -> Tensor:
    """Unions of two rectangles: most differ from their boxes."""
    masks = torch.zeros(n, h, w, dtype=torch.bool)
    for mask in masks:
        for _ in range(2):
            y, x = (int(torch.randint(-2, s // 2, (), generator=generator)) for s in (h, w))
            dy, dx = (
                int(torch.randint(s // 4, 2 * s // 3, (), generator=generator)) for s in (h, w)
            )
            mask[max(y, 0) : y + dy, max(x, 0) : x + dx] = True
    return masks


def pool(values, width, padding=0):
    """The maximum over squares of 2·width + 1 pixels, for (n, h, w), n = 0 included."""
    return F.max_pool2d(values[:, None], 2 * width + 1, stride=1, padding=padding)[:, 0]


@mistake(
    "the IoU of the boxes",
    "Your numbers are those of the bounding boxes. Which pixels of its box does a sheep not fill?",
)
def boxes_iou(predictions, targets, width):
    def filled(masks):
        out = torch.zeros_like(masks)
        sides = boxes(Segments(masks, torch.zeros(len(masks), dtype=torch.int64)))
        for mask, (x0, y0, x1, y1) in zip(out, sides.int().tolist(), strict=True):
            mask[y0:y1, x0:x1] = True
        return out

    return mask_iou(filled(predictions), filled(targets))


@mistake(
    "no band at all",
    "These are the IoUs of the whole masks. Take the interior away before you compare.",
)
def whole_mask_iou(predictions, targets, width):
    return mask_iou(predictions, targets)


@mistake(
    "the band lies outside",
    "You grow the mask and keep what was added. The band belongs to the mask itself: "
    "grow the background instead.",
)
def outer_band_iou(predictions, targets, width):
    def band(masks):
        grown = pool(masks.float(), width, padding=width) > 0
        return grown & ~masks

    return mask_iou(band(predictions), band(targets))


@mistake(
    "the image's edge is no boundary",
    "Right, except for masks that touch the edge of the image. What does max_pool2d's own "
    "padding put there, and what should stand there?",
)
def edge_forgotten_iou(predictions, targets, width):
    def band(masks):
        return masks & (pool((~masks).float(), width, padding=width) > 0)

    return mask_iou(band(predictions), band(targets))


def padded_band(masks, width):
    background = F.pad((~masks).float(), (width,) * 4, value=1)
    return masks & (pool(background, width) > 0)


@mistake(
    "the interior",
    "You compare what lies inside the bands. The band is what is left of the mask without "
    "its interior.",
)
def interior_iou(predictions, targets, width):
    def interior(masks):
        return masks & ~padded_band(masks, width)

    return mask_iou(interior(predictions), interior(targets))


@mistake(
    "only four neighbours",
    "Right but at corners: in king's moves a diagonal step is one move, so the "
    "neighbourhood is a square.",
)
def diamond_iou(predictions, targets, width):
    def band(masks):
        background = F.pad((~masks).float(), (width,) * 4, value=1)
        for _ in range(width):  # steps to the four neighbours only
            rows = F.max_pool2d(background[:, None], (3, 1), stride=1, padding=(1, 0))[:, 0]
            columns = F.max_pool2d(background[:, None], (1, 3), stride=1, padding=(0, 1))[:, 0]
            background = torch.maximum(rows, columns)
        h, w = masks.shape[1:]
        return masks & (background[:, width : width + h, width : width + w] > 0)

    return mask_iou(band(predictions), band(targets))


BOUNDARY = Exercise(
    boundary_iou,
    mask_pairs,
    points=4,
    minutes=20,
    mistakes=[
        boxes_iou,
        whole_mask_iou,
        outer_band_iou,
        edge_forgotten_iou,
        interior_iou,
        diamond_iou,
    ],
)

# ---------------------------------------------------------------- homework 2. match_voc


def iou_matrices(generator: torch.Generator) -> Iterator[tuple[Tensor, float]]:
    """Matrices of multiples of 0.1, so that some are equal and some equal the threshold."""
    yield torch.tensor([[0.9, 0.6], [0.8, 0.0], [0.7, 0.6]]), 0.5
    yield torch.tensor([[0.5, 0.5], [0.5, 0.5]]), 0.5
    for d, g, threshold in ((6, 3, 0.5), (4, 7, 0.5), (1, 1, 0.3), (8, 2, 0.7), (5, 5, 0.2)):
        yield torch.randint(0, 10, (d, g), generator=generator) / 10, threshold
    yield (torch.randint(0, 10, (9, 4), generator=generator) / 10).double(), 0.5
    yield torch.zeros(3, 0), 0.5
    yield torch.zeros(0, 3), 0.5


@mistake(
    "one thing is matched twice",
    "Two detections got the same thing. Who remembers that it is taken?",
)
def voc_twice(iou, threshold):
    if iou.shape[1] == 0:
        return torch.full((len(iou),), -1)
    best, favourite = iou.max(dim=1)
    return torch.where(best >= threshold, favourite, -1)


@mistake(
    "a second choice",
    "This is COCO's rule: when the favourite is taken you try the next best. VOC gives no "
    "second choice.",
)
def voc_second_choice(iou, threshold):
    # COCO's rule, with the first of equal things as VOC takes it.
    backwards = match_detections(iou.flip(1).double(), torch.tensor([threshold]).double())[0]
    return torch.where(backwards >= 0, iou.shape[1] - 1 - backwards, -1)


@mistake(
    "the last of equal favourites",
    "Two things have the same IoU with a detection, and you take the last. The first was "
    "asked for.",
)
def voc_last_of_equals(iou, threshold):
    matches = match_voc(iou.flip(1), threshold)
    return torch.where(matches >= 0, iou.shape[1] - 1 - matches, -1)


@mistake(
    "from the worst detection up",
    "Where two rows want one thing, your later row gets it. Which row has the best score?",
)
def voc_last_first(iou, threshold):
    return match_voc(iou.flip(0), threshold).flip(0)


@mistake(
    "the things choose",
    "In your version each thing looks for its best detection. Here the detections choose.",
)
def voc_by_column(iou, threshold):
    matches = torch.full((len(iou),), -1)
    if len(iou):
        for g, d in enumerate(iou.argmax(dim=0)):
            if iou[d, g] >= threshold:
                matches[d] = g
    return matches


VOC = Exercise(
    match_voc,
    iou_matrices,
    points=3,
    minutes=10,
    mistakes=[
        voc_twice,
        voc_second_choice,
        voc_last_of_equals,
        voc_last_first,
        voc_by_column,
    ],
)

# --------------------------------------------------------------- homework 3. mean_average_precision


def rankings(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Mixed classes: some without things, some without detections; no two scores are equal."""
    hits = torch.tensor([False, True, True, True])
    labels = torch.tensor([0, 0, 1, 0])
    yield torch.tensor([0.9, 0.8, 0.7, 0.6]), hits, labels, torch.tensor([3, 1])
    for count, things, dtype in (
        (40, [12, 9, 0, 4], torch.float32),
        (25, [7, 0, 30], torch.float64),
        (9, [6], torch.float32),
        (1, [1, 2], torch.float32),
    ):
        scores = (torch.randperm(count, generator=generator) + 1).to(dtype) / count
        labels = torch.randint(0, len(things), (count,), generator=generator)
        # The last class has things and no detection, where there are classes enough.
        labels = labels.clamp(max=max(len(things) - 2, 0))
        hits = torch.rand(count, generator=generator) < 0.3 + 0.4 * scores
        room = torch.tensor(things)
        for k in range(len(things)):  # never more hits than things
            mine = (labels == k) & hits
            hits[mine.nonzero()[room[k] :, 0]] = False
        yield scores, hits, labels, room
    none = torch.zeros(0)
    yield none, none.bool(), none.long(), torch.tensor([3, 0])
    yield torch.tensor([0.5]), torch.tensor([False]), torch.tensor([0]), torch.tensor([0, 0])


def class_areas(scores, true_positive, labels, num_targets, area):
    """The area of each class that exists, by another rule for the area."""
    areas = []
    for k in num_targets.nonzero()[:, 0]:
        mine = labels == k
        order = scores[mine].argsort(descending=True)
        hits = true_positive[mine][order].double().cumsum(0)
        precision = hits / torch.arange(1, len(hits) + 1)
        areas.append(area(precision, hits / num_targets[k]))
    return torch.stack(areas).mean().item() if areas else float("nan")


@mistake(
    "no envelope",
    "You sum the precision of each rank itself. A later rank may be better: which maximum "
    "comes first?",
)
def map_no_envelope(*arguments):
    def area(precision, recall):
        return (recall.diff(prepend=recall.new_zeros(1)) * precision).sum()

    return class_areas(*arguments, area)


@mistake(
    "trapezoids",
    "You join the measured points by slanted lines. The envelope is a staircase: between "
    "two ranks it is flat.",
)
def map_trapezoid(*arguments):
    def area(precision, recall):
        start = torch.cat([precision[:1], precision]) if len(precision) else recall.new_zeros(1)
        return torch.trapezoid(start, torch.cat([recall.new_zeros(1), recall]))

    return class_areas(*arguments, area)


@mistake(
    "101 points instead of the area",
    "That is COCO's reading at 101 recalls, close to the area but not it.",
)
def map_101_points(*arguments):
    def area(precision, recall):
        envelope = precision.flip(0).cummax(0).values.flip(0)
        first = torch.searchsorted(recall, torch.linspace(0, 1, 101).double())
        return torch.cat([envelope, envelope.new_zeros(1)])[first].mean()

    return class_areas(*arguments, area)


@mistake(
    "the mean over absent classes",
    "A class without any thing counts as 0 in your mean. Nobody could have found it: over "
    "how many classes is the mean?",
)
def map_absent_classes(scores, true_positive, labels, num_targets):
    present = int((num_targets > 0).sum())
    mean = mean_average_precision(scores, true_positive, labels, num_targets)
    return mean * present / len(num_targets) if present else 0.0


@mistake(
    "a class that was never detected drops out",
    "A class with things but without detections is missing from your mean. Missing "
    "everything is not the same as having nothing to find.",
)
def map_undetected_classes(scores, true_positive, labels, num_targets):
    detected = torch.bincount(labels, minlength=len(num_targets)) > 0
    return mean_average_precision(scores, true_positive, labels, num_targets * detected)


@mistake(
    "a mean weighted by the number of things",
    "Large classes count more in your mean. Every class that exists has the same weight, "
    "the rare ones too.",
)
def map_weighted(scores, true_positive, labels, num_targets):
    classes = torch.arange(len(num_targets))
    each = [
        mean_average_precision(scores, true_positive, labels, num_targets * (classes == k))
        for k in num_targets.nonzero()[:, 0]
    ]
    weights = num_targets[num_targets > 0] / num_targets.sum()
    return (torch.tensor(each).double() * weights).sum().item() if each else float("nan")


@mistake(
    "no ranking",
    "You take the detections in the order in which they came. Whom does precision at rank 1 ask?",
)
def map_not_ranked(scores, true_positive, labels, num_targets):
    order = -torch.arange(len(scores)).double()
    return mean_average_precision(order, true_positive, labels, num_targets)


@mistake(
    "the worst score first",
    "Your ranking begins with the lowest score: argsort ascends unless told otherwise.",
)
def map_worst_first(scores, true_positive, labels, num_targets):
    return mean_average_precision(-scores, true_positive, labels, num_targets)


@mistake(
    "all classes in one ranking",
    "You rank all classes together. Frequent classes then drown the rare ones: one "
    "ranking for each class.",
)
def map_one_ranking(scores, true_positive, labels, num_targets):
    together = num_targets.sum()[None]
    return mean_average_precision(scores, true_positive, torch.zeros_like(labels), together)


MEAN_AP = Exercise(
    mean_average_precision,
    rankings,
    points=4,
    minutes=20,
    mistakes=[
        map_no_envelope,
        map_absent_classes,
        map_undetected_classes,
        map_weighted,
        map_not_ranked,
        map_worst_first,
        map_one_ranking,
        map_trapezoid,
        map_101_points,
    ],
)

# ---------------------------------------------------------------- homework 4. best_cut


def cuts(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Scores of one decimal, so that many are shared; few and many things."""
    yield torch.tensor([0.9, 0.5, 0.4]), torch.tensor([True, False, True]), 2
    for count, targets, dtype in (
        (30, 14, torch.float32),
        (12, 30, torch.float64),
        (20, 9, torch.float32),
    ):
        scores = torch.randint(1, 10, (count,), generator=generator).to(dtype) / 10
        hits = torch.rand(count, generator=generator) < scores
        yield scores, hits & (hits.cumsum(0) <= targets), targets
    yield torch.tensor([0.9, 0.8, 0.8, 0.7, 0.6]), torch.tensor([1, 1, 0, 1, 0]).bool(), 4
    yield torch.tensor([0.4]), torch.tensor([False]), 3
    yield torch.zeros(0), torch.zeros(0).bool(), 2


def search(scores, true_positive, num_targets, value, keep=torch.ge, at_least=False):
    """`best_cut` with another value to maximise or another rule for what is kept."""
    best = (float("inf"), 0.0)
    for threshold in scores.unique().flip(0).tolist():
        kept = keep(scores, threshold)
        hits, count = int(true_positive[kept].sum()), int(kept.sum())
        found = value(hits, count, num_targets)
        if found > best[1] or (at_least and found >= best[1]) or best[0] == float("inf"):
            best = (threshold, found)
    return best


def f1_score(hits, count, num_targets):
    return 2 * hits / (count + num_targets)


@mistake(
    "the arithmetic mean",
    "You average precision and recall. F₁ is their harmonic mean, which is closer to the "
    "smaller of the two.",
)
def cut_arithmetic(*arguments):
    def mean(hits, count, num_targets):
        return (hits / max(count, 1) + hits / num_targets) / 2

    return search(*arguments, mean)


@mistake(
    "only precision",
    "You maximise precision alone; one sure detection would be the best system.",
)
def cut_precision(*arguments):
    return search(*arguments, lambda hits, count, num_targets: hits / max(count, 1))


@mistake(
    "the lowest of equal cuts",
    "Of equally good thresholds you return the lowest. The highest was asked for.",
)
def cut_lowest(*arguments):
    return search(*arguments, f1_score, at_least=True)


@mistake(
    "a cut through equal scores",
    "You stop in the middle of detections that share a score. No threshold can do that.",
)
def cut_through_ties(scores, true_positive, num_targets):
    order = scores.argsort(descending=True, stable=True)
    best, hits = (float("inf"), 0.0), 0
    for rank, i in enumerate(order.tolist(), start=1):
        hits += int(true_positive[i])
        f1 = f1_score(hits, rank, num_targets)
        if f1 > best[1] or best[0] == float("inf"):
            best = (scores[i].item(), f1)
    return best


CUT = Exercise(
    best_cut,
    cuts,
    points=3,
    minutes=20,
    stretch=True,
    mistakes=[
        cut_through_ties,
        cut_arithmetic,
        cut_precision,
        cut_lowest,
    ],
)

homework = Homework(
    "Homework 01: average precision",
    [BOUNDARY, VOC, MEAN_AP, CUT],
    turns=[MASK_IOU, MATCH, AVERAGE_PRECISION],
)
check, score_board, your_turns = homework.check, homework.score_board, homework.your_turns
