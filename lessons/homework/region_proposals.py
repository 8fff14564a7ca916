"""Lesson 03 and its homework: turns and exercises on proposals, and the mistakes known by name."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from lessons.anchor_boxes import decode_boxes, make_anchors, nms
from lessons.homework.answers.region_proposals import anchor_shapes, assign_levels
from lessons.kit.homework import Exercise, Homework, mistake
from lessons.region_proposals import match_boxes, select_proposals, top_down_step

# ---------------------------------------------------------------- your turn: top_down_step


def two_levels(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Twice as large, one less than that along an axis or both; several channels and images."""
    yield torch.tensor([[[[1.0, 2], [3, 4]]]]), torch.tensor([[[[10.0]]]])
    for b, c, h, w in ((1, 1, 4, 6), (2, 3, 6, 4), (1, 2, 5, 8), (2, 1, 7, 3), (1, 1, 1, 1)):
        fine = torch.randn(b, c, h, w, generator=generator)
        yield fine, torch.randn(b, c, (h + 1) // 2, (w + 1) // 2, generator=generator)
    yield torch.randn(0, 2, 4, 4), torch.randn(0, 2, 2, 2)


def enlarged(fine: Tensor, coarse: Tensor, mode: str = "nearest") -> Tensor:
    if mode == "nearest" or not len(fine):
        return F.interpolate(coarse, size=fine.shape[-2:])
    return F.interpolate(coarse, size=fine.shape[-2:], mode=mode)


def step_tiled(fine, coarse):
    h, w = fine.shape[-2:]
    return fine + coarse.repeat(1, 1, 2, 2)[..., :h, :w]


STEP = Exercise(
    top_down_step,
    two_levels,
    minutes=5,
    mistakes=[
        mistake(
            "smoothed",
            "Your coarse map is smoothed between its cells. The pyramid repeats them; the 3×3 "
            "convolution smooths later.",
        )(lambda fine, coarse: fine + enlarged(fine, coarse, "bilinear")),
        mistake(
            "without the fine map",
            "Only the coarse map is left: where is what the finer level knows itself?",
        )(enlarged),
        mistake(
            "the mean of both",
            "You take the mean. The step is a sum.",
        )(lambda fine, coarse: (fine + enlarged(fine, coarse)) / 2),
        mistake(
            "the whole map repeated",
            "You put the whole coarse map beside itself. Each of its cells is to be repeated where "
            "it stands.",
        )(step_tiled),
    ],
)

# ---------------------------------------------------------------- your turn: match_boxes


def overlaps_to_match(generator: torch.Generator) -> Iterator[tuple]:
    """Exactly at the thresholds, ties of boxes and of things, a thing that no box meets; none."""
    yield torch.tensor([[0.8, 0.5, 0.1], [0.1, 0.6, 0.2]]), 0.7, 0.3, True
    yield torch.tensor([[0.8, 0.6, 0.2, 0.0], [0.0, 0.1, 0.4, 0.5]]), 0.7, 0.3, True
    yield torch.tensor([[0.8, 0.6, 0.2, 0.0], [0.0, 0.1, 0.4, 0.5]]), 0.7, 0.3
    yield torch.tensor([[0.75, 0.5, 0.25, 0.2]]), 0.75, 0.25  # exactly at both
    yield torch.tensor([[0.5, 0.5, 0.1, 0.5], [0.1, 0.2, 0.2, 0.1]]), 0.7, 0.3, True  # ties
    yield torch.tensor([[0.6, 0.1], [0.4, 0.0]]), 0.7, 0.3, True  # two things share their best
    yield torch.tensor([[0.8, 0.8], [0.8, 0.8]]), 0.7, 0.3, True
    yield torch.tensor([[0.9, 0.2], [0.0, 0.0]]), 0.7, 0.3, True  # nobody meets the second
    yield torch.tensor([[0.2, 0.1], [0.1, 0.15]]), 0.7, 0.3, True  # best, and below both
    yield torch.tensor([[0.8, 0.4], [0.6, 0.5]]), 0.5, 0.5, False
    yield torch.tensor([[0.8, 0.6, 0.0], [0.0, 0.0, 0.6]]), 0.7, 0.3, True  # not the second's .6
    for g, n in ((3, 40), (12, 60), (1, 9)):
        iou = torch.rand(g, n, generator=generator).square()
        yield iou, 0.7, 0.3, True
        yield iou, 0.5, 0.5
    yield torch.zeros(0, 3), 0.7, 0.3, True
    yield torch.zeros(2, 0), 0.7, 0.3, True


def matched_by(own=False, only_first=False, zero_counts=False, strict=False, swapped=False):
    """The rule with one of its parts exchanged."""

    def match(iou, foreground, background, keep_best=False):
        if iou.numel() == 0:
            return torch.full(iou.shape[1:], -1)
        best, favourite = iou.max(dim=0)
        positive = best > foreground if strict else best >= foreground
        matches = favourite.where(positive, -1 if swapped else -2)
        matches = matches.where(best >= background, -2 if swapped else -1)
        if keep_best:
            for g, row in enumerate(iou):
                mine = (row == row.max()).nonzero()[:, 0]
                mine = mine[:1] if only_first else mine
                if zero_counts or row.max() > 0:
                    matches[mine] = g if own else favourite[mine]
        return matches

    return match


def matched_without_rule_4(iou, foreground, background, keep_best=False):
    return match_boxes(iou, foreground, background)


def matched_always(iou, foreground, background, keep_best=False):
    return match_boxes(iou, foreground, background, True)


MATCH = Exercise(
    match_boxes,
    overlaps_to_match,
    minutes=10,
    mistakes=[
        mistake(
            "rule 4 is missing",
            "Right without keep_best. With it, the best box of each true one is taken in any case.",
        )(matched_without_rule_4),
        mistake(
            "rule 4 always",
            "You take the best box of each true one even where keep_best is False.",
        )(matched_always),
        mistake(
            "the thing that it is best for",
            "A box that is taken by rule 4 finds the thing that it overlaps most itself, not the "
            "one that it is best for.",
        )(matched_by(own=True)),
        mistake(
            "no ties",
            "Right where one box is the best. Where several are equally good, all of them are "
            "taken.",
        )(matched_by(only_first=True)),
        mistake(
            "a best of nothing",
            "A true box that no box meets has a best IoU of 0, and in yours all boxes are its "
            "best.",
        )(matched_by(zero_counts=True)),
        mistake(
            "the best box of each thing, and its own thing",
            "With keep_best all boxes that tie are taken, not one; and each of them finds the "
            "thing that it overlaps most itself.",
        )(matched_by(own=True, only_first=True)),
        mistake(
            "more than the threshold",
            "Right but for an IoU of exactly the threshold: from it up a box is positive.",
        )(matched_by(strict=True)),
        mistake(
            "−1 for −2",
            "You have exchanged background (−1) and neither (−2).",
        )(matched_by(swapped=True)),
    ],
)

# ---------------------------------------------------------------- your turn: select_proposals

NAMES = ("candidates", "proposals", "nms_threshold", "min_size", "score_threshold")


def answers_to_select(generator: torch.Generator) -> Iterator[tuple]:
    """Two levels and three; boxes that leave their images; each setting once at work."""
    tiny = [torch.tensor([[0.0, 0, 8, 8], [4, 0, 12, 8]])]
    yield torch.tensor([[0.0, 2.0]]), torch.zeros(1, 2, 4), tiny, [(8, 9)], 2, 2, 0.5, 0.0, 0.0
    # One candidate a level: number 1 of the first, number 0 of the second, which is number 2.
    pair = [
        torch.tensor([[0.0, 0, 4, 4], [4, 0, 8, 4]]),
        torch.tensor([[0.0, 4, 8, 8], [0, 0, 9, 9]]),
    ]
    yield torch.tensor([[0.0, 2, 1, -1]]), torch.zeros(1, 4, 4), pair, [(8, 8)], 1, 4, 0.5, 0.0, 0.0
    one = make_anchors([(4, 4)], [8], [8], (1.0,))
    two = make_anchors([(4, 5), (2, 3)], [8, 16], [10, 20])
    three = make_anchors([(5, 4), (3, 2), (2, 1)], [8, 16, 32], [8, 20, 30], (1.0, 2.0))
    for anchors, sizes, settings in (
        (one, [(32, 32)], (16, 16, 0.9, 0.0, 0.0)),
        (two, [(32, 40), (25, 40)], (12, 60, 0.5, 1e-3, 0.0)),
        (two, [(32, 40), (32, 19)], (100, 9, 0.4, 1e-3, 0.0)),
        (three, [(40, 30)], (7, 100, 0.3, 1e-3, 0.0)),
        (three, [(40, 30), (21, 30)], (100, 100, 0.7, 6.0, 0.0)),
        (three, [(40, 30)], (20, 100, 0.7, 1e-3, 0.6)),
        (two, [(32, 40)], (60, 60, 0.7, 1e-3, 0.5)),
    ):
        n = sum(map(len, anchors))
        logits = (2 * torch.randn(len(sizes), n, generator=generator)).round(decimals=2)
        logits[0, 0] = 0  # a probability of exactly ½
        deltas = 0.5 * torch.randn(len(sizes), n, 4, generator=generator)
        yield logits, deltas, anchors, sizes, *settings
    same = torch.tensor([[0.0, 0, 8, 8]]).repeat(2, 1)
    logits, settings = torch.tensor([[0.0, 1.0]]), (2, 2, 0.5, 0.0, 0.0)
    yield logits, torch.zeros(1, 2, 4), [same[:1], same[1:]], [(8, 8)], *settings


def select(function, logits, deltas, anchors, image_sizes, *settings):
    """A submission, called as the network calls it."""
    return function(logits, deltas, anchors, image_sizes, **dict(zip(NAMES, settings, strict=True)))


def selected_by(
    clip=True,
    turned=False,
    by_level=True,
    whole=False,
    first=True,
    decode=decode_boxes,
    cut=True,
    first_size=False,
    renumber=True,
    all_of_them=False,
):
    """The selection with one of its parts exchanged."""

    def choose(logits, deltas, anchors, image_sizes, **settings):
        candidates, proposals, threshold, smallest, least = (settings[name] for name in NAMES)
        answer = []
        for score, delta, (h, w) in zip(logits, deltas, image_sizes, strict=True):
            start, chosen, level = 0, [], []
            for number, boxes in enumerate(anchors):
                these = score if whole else score[start : start + len(boxes)]
                best = these.topk(min(candidates, len(boxes))).indices
                chosen.append(best + start * (first and not whole))
                level += [number] * len(best)
                start += len(boxes)
            chosen, level = torch.cat(chosen), torch.tensor(level)
            boxes = decode(delta[chosen], torch.cat(list(anchors))[chosen])
            h, w = image_sizes[0] if first_size else (h, w)
            edge = torch.tensor([h, w, h, w] if turned else [w, h, w, h])
            boxes = torch.minimum(boxes.clamp(min=0), edge) if clip else boxes
            sure = score[chosen].sigmoid()
            ok = ((boxes[:, 2:] - boxes[:, :2]) >= smallest).all(-1) & (sure >= least)
            ok = torch.ones_like(ok) if all_of_them else ok
            kept = nms(boxes[ok], sure[ok], threshold, level[ok] if by_level else None)
            answer.append((boxes[ok] if renumber else boxes)[kept[:proposals] if cut else kept])
        return answer

    return choose


def selected_undecoded(deltas, anchors):
    return anchors.float()


SELECT = Exercise(
    select_proposals,
    answers_to_select,
    minutes=15,
    call=select,
    mistakes=[
        mistake(
            "not cut off at the edges",
            "Some of your boxes leave the image.",
        )(selected_by(clip=False)),
        mistake(
            "height for width",
            "Right for square images. In a box x comes first, in an image's size the height does.",
        )(selected_by(turned=True)),
        mistake(
            "one NMS for all levels",
            "Your NMS works across levels. Boxes of different levels leave one another in peace.",
        )(selected_by(by_level=False)),
        mistake(
            "numbers within the level",
            "Your candidates of the second level carry numbers that count from 0 again. What has "
            "to be added?",
        )(selected_by(first=False)),
        mistake(
            "the first image's edges",
            "Right for the first image. Each image has a size of its own.",
        )(selected_by(first_size=True)),
        mistake(
            "numbers among those that are good",
            "NMS saw only the boxes that are large and sure enough: its numbers count among those.",
        )(selected_by(renumber=False)),
        mistake(
            "small and improbable boxes, too",
            "Your NMS sees all boxes: `ok` says which are large and sure enough.",
        )(selected_by(all_of_them=True)),
        mistake(
            "anchors as they are",
            "You return anchors. What do the deltas make of them?",
        )(selected_by(decode=selected_undecoded)),
        mistake(
            "all that NMS leaves",
            "The right boxes, and too many of them: only the best `proposals` are asked for.",
        )(selected_by(cut=False)),
    ],
)

# ---------------------------------------------------------------- homework 1. assign_levels


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

# ---------------------------------------------------------------- homework 2. anchor_shapes


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

homework = Homework("Homework 03: region proposals", [LEVELS, SHAPES], turns=[STEP, MATCH, SELECT])
check, score_board, your_turns = homework.check, homework.score_board, homework.your_turns
