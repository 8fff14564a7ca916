"""Homework 01: the exercises on average precision, and the mistakes that are known by name."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from lessons.average_precision import mask_iou, match_detections
from lessons.homework.answers.average_precision import (
    best_cut,
    boundary_iou,
    match_voc,
    mean_average_precision,
)
from lessons.kit.data import Segments, boxes
from lessons.kit.homework import Exercise, Homework, mistake

# ---------------------------------------------------------------- 1. boundary_iou


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

# ---------------------------------------------------------------- 2. match_voc


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

# ---------------------------------------------------------------- 3. mean_average_precision


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

# ---------------------------------------------------------------- 4. best_cut


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

homework = Homework("Homework 01: average precision", [BOUNDARY, VOC, MEAN_AP, CUT])
check, score_board = homework.check, homework.score_board
