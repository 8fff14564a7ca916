"""Lesson 09 and its homework: turns and exercises on panoptic quality, and the known mistakes."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lessons.homework.answers.panoptic_quality import (
    ap_and_pq,
    parsing_covering,
    stuff_iou,
    tolerant_iou,
)
from lessons.kit.homework import Exercise, Homework, mistake
from lessons.panoptic_quality import class_quality, count_overlaps, is_match

# ---------------------------------------------------------------- your turn: count_overlaps


def maps_of_ids(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, int, int]]:
    """More rows than columns and fewer, ids that no pixel has, bytes, and no segments at all."""
    yield torch.tensor([[0, 1, 2, 2]]), torch.tensor([[1, 1, 1, 0]]), 2, 1
    yield torch.tensor([[1, 0], [1, 1]]), torch.tensor([[2, 2], [3, 0]]), 1, 4
    for n_p, n_g, size in ((3, 5, (9, 13)), (6, 2, (12, 7))):
        predicted = torch.randint(n_p + 1, size, generator=generator)
        yield predicted, torch.randint(n_g + 1, size, generator=generator), n_p + 1, n_g + 2
    many = torch.randint(41, (2, 16, 16), generator=generator).to(torch.uint8)
    yield *many, 40, 40  # 41 · 40 does not fit into a byte
    yield torch.zeros(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.int64), 0, 1
    yield torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), 0, 0


@mistake(
    "each pair once",
    "Your table says which pairs occur, not how often: `table[rows, columns] += 1` adds 1 to a "
    "place once, however often it is named.",
)
def each_pair_once(predicted, true, num_predicted, num_true):
    return (count_overlaps(predicted, true, num_predicted, num_true) > 0).astype(np.int64)


@mistake(
    "float counts",
    "The right counts, as floats. Pixels are counted in whole numbers.",
)
def float_counts(predicted, true, num_predicted, num_true):
    return count_overlaps(predicted, true, num_predicted, num_true).astype(np.float64)


@mistake(
    "two pairs with one number",
    "Two different pairs get the same number. How far must one predicted id more move it, so that "
    "the true ids 0, 1, …, n_g all fit in between?",
)
def too_narrow(predicted, true, num_predicted, num_true):
    rows, columns = num_predicted + 1, num_true + 1
    pairs = predicted.long().numpy() * num_true + true.long().numpy()
    return np.bincount(pairs.ravel(), minlength=rows * columns).reshape(rows, columns)


TABLE = Exercise(
    count_overlaps,
    maps_of_ids,
    mistakes=[each_pair_once, float_counts, too_narrow],
)

# ---------------------------------------------------------------- your turn: is_match


def tables_to_match(generator: torch.Generator) -> Iterator[tuple[np.ndarray, ...]]:
    """Void that decides, exactly ½, crowds, other classes, masks without a pixel, no segments."""
    yield np.array([[0, 1], [1, 2]]), np.array([2]), np.array([2]), np.array([False])
    letters = [[0, 0, 0, 0], [0, 9, 1, 2], [2, 0, 3, 0], [0, 0, 0, 2], [3, 3, 0, 15]]
    yield np.array(letters), np.array([0, 0, 0, 6]), np.array([0, 0, 6]), np.zeros(3, dtype=bool)
    first_in_void = np.array([[0, 1, 0], [1, 2, 0], [0, 0, 5]])
    yield first_in_void, np.array([1, 1]), np.array([1, 1]), np.array([False, False])
    half = np.array([[0, 4, 0], [0, 4, 0], [0, 0, 8]])
    yield half, np.array([1, 1]), np.array([1, 1]), np.array([False, True])
    for n_p, n_g in ((4, 6), (5, 3), (3, 3)):
        table = torch.randint(0, 9, (n_p + 1, n_g + 1), generator=generator)
        for k in range(min(n_p, n_g)):  # some fit well
            table[1 + k, 1 + k] += int(torch.randint(20, 90, (), generator=generator))
        predicted = torch.randint(3, (n_p,), generator=generator)
        true = torch.randint(3, (n_g,), generator=generator)
        same = torch.rand(min(n_p, n_g), generator=generator) < 0.7
        true[: len(same)] = torch.where(same, predicted[: len(same)], true[: len(same)])
        crowd = torch.rand(n_g, generator=generator) < 0.3
        yield tuple(each.numpy() for each in (table, predicted, true, crowd))
    empty = np.array([[0, 0, 7], [0, 0, 0], [0, 0, 9]])
    yield empty, np.array([1, 1]), np.array([1, 1]), np.zeros(2, dtype=bool)
    none = np.zeros(0, dtype=np.int64)
    yield np.array([[3, 4]]), none, np.array([1]), np.array([False])
    yield np.array([[3], [4]]), np.array([1]), none, np.zeros(0, dtype=bool)


def matched_by(union, same_class=np.equal):
    """`is_match` with another union, of the table's parts, or another rule for the classes."""

    def match(overlaps, predicted_labels, true_labels, is_crowd):
        both, void, none = overlaps[1:, 1:], overlaps[1:, :1], overlaps[:1, 1:]
        below = union(both, void, none)
        return same_class(predicted_labels[:, None], true_labels) & ~is_crowd & (2 * both > below)

    return match


def areas_inside(both):
    """The pixels of p and of g in segments of the other side, added up for each pair."""
    return both.sum(1, keepdims=True) + both.sum(0)


MATCH = Exercise(
    is_match,
    tables_to_match,
    mistakes=[
        mistake(
            "void counted",
            "The pixels of the prediction that lie in void are still in your union. In which "
            "column of the table are they?",
        )(matched_by(lambda both, void, none: areas_inside(both) + void + none - both)),
        mistake(
            "what nobody predicted is left out",
            "Your true areas count only pixels that some segment answers. Does a true segment "
            "shrink where there is no answer?",
        )(matched_by(lambda both, void, none: areas_inside(both) - both)),
        mistake(
            "void kept, what nobody predicted left out",
            "You take row 0 out of the true areas and leave column 0 in the predicted ones. Which "
            "of the two is void?",
        )(matched_by(lambda both, void, none: areas_inside(both) + void - both)),
        mistake(
            "the intersection twice",
            "Your union counts the pixels that both have twice.",
        )(matched_by(lambda both, void, none: areas_inside(both) + none)),
        mistake(
            "half of the true segment",
            "You ask whether p holds more than half of g. That follows from IoU > ½, but it is "
            "not enough: p may be far larger.",
        )(matched_by(lambda both, void, none: both.sum(0) + none)),
        mistake(
            "half of the predicted segment",
            "You ask whether g holds more than half of p. That follows from IoU > ½, but it is "
            "not enough: g may be far larger.",
        )(matched_by(lambda both, void, none: both.sum(1, keepdims=True))),
        mistake(
            "any class",
            "Your pairs may be of two classes. A sheep does not answer a meadow.",
        )(
            matched_by(
                lambda both, void, none: areas_inside(both) + none - both,
                lambda a, b: np.ones((len(a), len(b)), dtype=bool),
            )
        ),
    ],
)

# ---------------------------------------------------------------- your turn: class_quality


def sums_and_counts(generator: torch.Generator) -> Iterator[tuple[np.ndarray, ...]]:
    """Sums of IoU and counts: classes with matches, with mistakes alone, and with nothing."""
    yield np.array([1.35]), np.array([2.0]), np.array([1.0]), np.array([0.0])
    yield np.array([0.0]), np.array([0.0]), np.array([1.0]), np.array([0.0])
    yield np.zeros(1), np.zeros(1), np.zeros(1), np.zeros(1)
    yield np.array([0.9, 0.0]), np.array([1.0, 0.0]), np.array([0.0, 0.0]), np.array([1.0, 2.0])
    for k in (3, 8):
        tp, fp, fn = torch.randint(0, 6, (3, k), generator=generator).double()
        iou = tp * (0.5 + 0.5 * torch.rand(k, generator=generator))
        tp[0], iou[0], fp[1], fn[2] = 0, 0, 0, 0
        if k > 3:
            iou[3] = tp[3] = fp[3] = fn[3] = 0
        yield tuple(each.numpy() for each in (iou, tp, fp, fn))


def quality_by(result):
    """Another result, of the numbers pq, sq, rq and the counts, without a warning of NumPy's."""

    def quality(iou, tp, fp, fn):
        with np.errstate(all="ignore"):
            return result(*class_quality(iou, tp, fp, fn), iou, tp, fp, fn)

    return quality


def in_full(pq, sq, rq, iou, tp, fp, fn):
    return iou / (tp + fp + fn), sq, tp / (tp + fp + fn)


QUALITY = Exercise(
    class_quality,
    sums_and_counts,
    mistakes=[
        mistake(
            "mistakes in full",
            "You divide by TP + FP + FN. How much do a false positive and a false negative weigh?",
        )(quality_by(in_full)),
        mistake(
            "SQ of nothing is NaN",
            "Your SQ divides by TP = 0. What is SQ where something occurred and nothing matched?",
        )(quality_by(lambda pq, sq, rq, iou, tp, fp, fn: (pq, iou / tp, rq))),
        mistake(
            "NaN where nothing matched",
            "Your numbers are NaN where nothing matched, also for a class that was missed. Which "
            "classes have no quality, and which have a bad one?",
        )(quality_by(lambda pq, sq, rq, iou, tp, fp, fn: (pq * tp / tp, iou / tp, rq))),
        mistake(
            "0 for a class that does not occur",
            "A class that occurs nowhere gets 0 from you, in a number or in all three. It would "
            "pull down the mean of a system that did nothing wrong.",
        )(quality_by(lambda pq, sq, rq, *counts: tuple(map(np.nan_to_num, (pq, sq, rq))))),
        mistake(
            "SQ 0 for a class that does not occur",
            "Your SQ is 0 for a class that occurs nowhere: there it is NaN, as PQ and RQ are.",
        )(quality_by(lambda pq, sq, rq, *counts: (pq, np.nan_to_num(sq), rq))),
        mistake(
            "another order",
            "The three right numbers in another order: PQ, SQ, RQ is asked for.",
        )(quality_by(lambda pq, sq, rq, *counts: (sq, rq, pq))),
        mistake(
            "SQ and RQ exchanged",
            "Your SQ and RQ are exchanged: SQ asks how well the matches fit.",
        )(quality_by(lambda pq, sq, rq, *counts: (pq, rq, sq))),
        mistake(
            "one number for all classes",
            "You sum over the classes. Each class has its own three numbers.",
        )(
            quality_by(
                lambda pq, sq, rq, iou, tp, fp, fn: (
                    np.full_like(pq, iou.sum() / (tp + fp / 2 + fn / 2).sum()),
                    np.full_like(pq, iou.sum() / max(tp.sum(), 1)),
                    np.full_like(pq, tp.sum() / (tp + fp / 2 + fn / 2).sum()),
                )
            )
        ),
    ],
)

# ---------------------------------------------------------------- 1. stuff_iou


def stuff_images(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Regions that end at a random row; some images lack the class in truth or in prediction."""
    both, first = torch.ones(2, 1, 2, dtype=torch.bool), torch.tensor([[[1, 0]], [[1, 0]]]).bool()
    yield both, first, torch.tensor([[[0, 0]], [[0, 1]]]).bool()
    for b, h, w in ((6, 12, 17), (9, 20, 11), (4, 8, 8)):
        rows = torch.arange(h)[:, None].expand(h, w)
        predicted, true, void = torch.zeros(3, b, h, w, dtype=torch.bool)
        for i in range(b):
            first, second = torch.randint(1, h, (2,), generator=generator).tolist()
            predicted[i], true[i] = rows < first, rows < second
            void[i] = torch.rand(h, w, generator=generator) < 0.15
        true[0], predicted[1] = False, False  # made up; missed
        true &= ~void
        yield predicted, true, void
    nothing = torch.zeros(2, 5, 6, dtype=torch.bool)
    yield ~nothing, nothing, nothing
    yield nothing, ~nothing, nothing
    half = torch.tensor([True, True, False, False])[:, None, None].expand(4, 2, 3)
    yield torch.ones_like(half), half, torch.zeros_like(half)  # two perfect, two made up


def dagger_of(predicted, true, void, value, there=None):
    """The mean of `value` over some images; NaN where there are none."""
    there = true.any((1, 2)) if there is None else there
    if not there.any():
        return float("nan")
    rows = zip(predicted[there], true[there], void[there], strict=True)
    return torch.tensor([value(p, g, v) for p, g, v in rows]).double().mean().item()


def iou_of(p, g, v):
    p = p & ~v
    return (p & g).sum().item() / max((p | g).sum().item(), 1)


@mistake(
    "the threshold is still there",
    "You count only what is above one half. That was PQ; PQ† has no threshold for stuff.",
)
def stuff_with_threshold(predicted, true, void):
    def over_half(p, g, v):
        iou = iou_of(p, g, v)
        return iou if iou > 0.5 else 0.0

    return dagger_of(predicted, true, void, over_half)


@mistake(
    "made-up stuff counts",
    "Your mean includes images where the class was predicted but is not there. What does "
    "the formula divide by?",
)
def stuff_made_up_counts(predicted, true, void):
    there = true.any((1, 2)) | (predicted & ~void).any((1, 2))
    return dagger_of(predicted, true, void, iou_of, there)


@mistake(
    "missed stuff is left out",
    "Your mean leaves out images where the class is there and nothing was predicted. What "
    "is the IoU of an empty prediction?",
)
def stuff_missed_left_out(predicted, true, void):
    there = true.any((1, 2)) & predicted.any((1, 2))
    return dagger_of(predicted, true, void, iou_of, there)


@mistake(
    "void counts against the prediction",
    "You compare predicted pixels in void with the truth. Nobody knows what is there.",
)
def stuff_void_counts(predicted, true, void):
    return dagger_of(predicted, true, torch.zeros_like(void), iou_of)


@mistake(
    "one IoU over all pixels",
    "You sum the pixels of all images before you divide: that is the IoU of semantic "
    "segmentation. Here every image has the same weight.",
)
def stuff_all_pixels(predicted, true, void):
    p = predicted & ~void
    there = true.any((1, 2))
    if not there.any():
        return float("nan")
    return (p & true).sum().item() / (p | true).sum().item()


@mistake(
    "a mean over all images",
    "You divide by the number of images, also of those without the class. Which ones are in S?",
)
def stuff_over_all_images(predicted, true, void):
    if not true.any():
        return float("nan")
    return dagger_of(predicted, true, void, iou_of, torch.ones(len(true), dtype=torch.bool))


@mistake(
    "coverage instead of IoU",
    "You divide by the true area only. A prediction that covers the whole image would be perfect.",
)
def stuff_coverage(predicted, true, void):
    def covered(p, g, v):
        return (p & g).sum().item() / g.sum().item()

    return dagger_of(predicted, true, void, covered)


@mistake(
    "the first image only",
    "You score one image, the first that has the class. When does your function return?",
)
def stuff_first_only(predicted, true, void):
    there = true.any((1, 2))
    first = there & (there.cumsum(0) == 1)
    return dagger_of(predicted, true, void, iou_of, first)


STUFF = Exercise(
    stuff_iou,
    stuff_images,
    points=3,
    minutes=15,
    mistakes=[
        stuff_with_threshold,
        stuff_made_up_counts,
        stuff_missed_left_out,
        stuff_void_counts,
        stuff_all_pixels,
        stuff_over_all_images,
        stuff_coverage,
        stuff_first_only,
    ],
)

# ---------------------------------------------------------------- 2. tolerant_iou


def outlines(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Rectangles with a bite, moved a little; at the image's edge; one that is all band; wide."""
    true = torch.tensor([[1, 1, 1, 1, 0, 0, 0]]).bool()
    yield torch.tensor([[0, 1, 1, 1, 1, 1, 0]]).bool(), true, 1
    yield torch.tensor([[0, 0, 0, 1, 1, 1, 0]]).bool(), true, 1  # right in the band only
    for h, w, width in ((30, 41, 1), (36, 27, 2), (40, 40, 3), (25, 33, 2)):
        true = torch.zeros(h, w, dtype=torch.bool)
        top, left = (int(torch.randint(2, 6, (), generator=generator)) for _ in range(2))
        true[top : h - 6, left : w - 7] = True
        true[: h // 3, : w // 3] = False
        predicted = true.roll((2, -3), (0, 1)) & (torch.rand(h, w, generator=generator) > 0.05)
        yield predicted, true, width
    edge = torch.zeros(20, 24, dtype=torch.bool)
    edge[:12, :15] = True
    yield edge.roll((3, 4), (0, 1)), edge, 2
    small = torch.zeros(15, 15, dtype=torch.bool)
    small[6:9, 6:9] = True
    yield small.roll(1, 0), small, 2
    yield small.roll((1, 1), (0, 1)), small, 3
    far = small.clone()
    far[13, 1] = True
    yield far, small, 2  # all of the true mask is band, but not all of the prediction
    full = torch.ones(9, 9, dtype=torch.bool)
    yield full.roll(0) & (torch.arange(9) > 2), full, 2


def grow(mask, width):
    return F.max_pool2d(mask[None].float(), 2 * width + 1, stride=1, padding=width)[0] > 0


def iou_where(predicted, true, judged):
    """The IoU of the pixels that are judged, of all pixels where no true one is left."""
    if not (true & judged).any():
        judged = torch.ones_like(true)
    both = (predicted & true & judged).sum().item()
    return both / max(((predicted | true) & judged).sum().item(), 1)


@mistake(
    "no band",
    "This is the IoU of all pixels. Leave out those that are near the outline.",
)
def plain_iou(predicted, true, width):
    return iou_where(predicted, true, torch.ones_like(true))


@mistake(
    "the band lies inside only",
    "Your band takes pixels of the mask only. A prediction that is a pixel too large is "
    "as excusable as one that is a pixel too small.",
)
def inside_band_only(predicted, true, width):
    return iou_where(predicted, true, ~(true & grow(~true, width)))


@mistake(
    "the band lies outside only",
    "Your band takes pixels of the background only. A prediction that is a pixel too "
    "small is as excusable as one that is a pixel too large.",
)
def outside_band_only(predicted, true, width):
    return iou_where(predicted, true, ~(~true & grow(true, width)))


@mistake(
    "only the band is compared",
    "You look at the band and nothing else. That measures outlines; here they are to be forgiven.",
)
def only_the_band(predicted, true, width):
    return iou_where(predicted, true, grow(true, width) & grow(~true, width))


@mistake(
    "no diagonal steps",
    "Your band grows up, down, left and right only. How does a king move?",
)
def four_neighbours(predicted, true, width):
    def grown(mask):
        plus = mask.new_zeros(3, 3)
        plus[1], plus[:, 1] = True, True
        grid = mask[None, None].float()
        for _ in range(width):
            grid = (F.conv2d(grid, plus[None, None].float(), padding=1) > 0).float()
        return grid[0, 0] > 0

    return iou_where(predicted, true, ~(grown(true) & grown(~true)))


@mistake(
    "the image's edge is an outline",
    "Right, except for masks that touch the edge of the image. Is a sheep that the frame "
    "cuts off badly outlined there?",
)
def edge_is_outline(predicted, true, width):
    background = F.pad((~true)[None].float(), (width,) * 4, value=1)
    near = F.max_pool2d(background, 2 * width + 1, stride=1)[0] > 0
    return iou_where(predicted, true, ~(grow(true, width) & near))


@mistake(
    "the prediction's band",
    "Your band follows the predicted mask. Then every prediction chooses what it is judged by.",
)
def band_of_the_prediction(predicted, true, width):
    return iou_where(predicted, true, ~(grow(predicted, width) & grow(~predicted, width)))


@mistake(
    "small masks are worth nothing",
    "Right, except for a mask that is all band. Read again what is to be returned there.",
)
def small_is_zero(predicted, true, width):
    judged = ~(grow(true, width) & grow(~true, width))
    if not (true & judged).any():
        return 0.0
    return iou_where(predicted, true, judged)


@mistake(
    "judged while anything is left",
    "You take the ordinary IoU only where nothing of either mask is left outside of the band. "
    "Which of the two masks decides that it cannot be judged?",
)
def judged_while_anything_is_left(predicted, true, width):
    judged = ~(grow(true, width) & grow(~true, width))
    some = bool(((predicted | true) & judged).any())
    nothing_true = not (true & judged).any()
    return 0.0 if some and nothing_true else iou_where(predicted, true, judged)


TOLERANT = Exercise(
    tolerant_iou,
    outlines,
    points=4,
    minutes=20,
    mistakes=[
        plain_iou,
        inside_band_only,
        outside_band_only,
        only_the_band,
        four_neighbours,
        edge_is_outline,
        band_of_the_prediction,
        small_is_zero,
        judged_while_anything_is_left,
    ],
)

# ---------------------------------------------------------------- 3. ap_and_pq


def rankings(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Detections without order, some with an IoU of exactly one half, and some things missed."""
    yield torch.tensor([0.3, 0.9]).double(), torch.tensor([0.8, 0.5]).double(), 2
    for count, num_things in ((20, 17), (35, 22), (8, 30), (15, 12)):
        scores = torch.randperm(4 * count, generator=generator)[:count].double() / (4 * count)
        iou = torch.randint(8, 20, (count,), generator=generator).double() / 20
        iou[torch.rand(count, generator=generator) < 0.3] = 0
        iou[int(torch.randint(count, (), generator=generator))] = 0.5
        found = (iou > 0).cumsum(0) <= num_things
        yield scores, iou * found, num_things
    yield torch.zeros(0).double(), torch.zeros(0).double(), 3


def both_of(scores, iou, num_things, *, ap_right=None, matched=None, order=None, envelope=True):
    """`ap_and_pq` with parts replaced."""
    right = iou >= 0.5 if ap_right is None else ap_right
    matched = iou > 0.5 if matched is None else matched
    order = scores.argsort(descending=True) if order is None else order
    hits = right[order].double().cumsum(0)
    precision = hits / torch.arange(1, len(hits) + 1)
    if envelope:
        precision = precision.flip(0).cummax(0).values.flip(0)
    ap = (hits.diff(prepend=hits.new_zeros(1)) / num_things * precision).sum().item()
    return ap, iou[matched].sum().item() / ((len(iou) + num_things) / 2)


@mistake(
    "½ is a match of PQ",
    "Your PQ matches an IoU of exactly one half. Remember why the lesson insisted on more.",
)
def half_matches(scores, iou, num_things):
    return both_of(scores, iou, num_things, matched=iou >= 0.5)


@mistake(
    "½ is no hit of AP",
    "Your AP refuses an IoU of exactly one half. AP and PQ differ in that: at least, more than.",
)
def half_is_wrong(scores, iou, num_things):
    return both_of(scores, iou, num_things, ap_right=iou > 0.5)


@mistake(
    "PQ without a threshold",
    "Your PQ sums the IoU of everything that touches its thing. Below one half there is no match.",
)
def no_threshold(scores, iou, num_things):
    return both_of(scores, iou, num_things, matched=iou > 0)


@mistake(
    "RQ instead of PQ",
    "Your second number counts matches; PQ also asks how well each one fits.",
)
def rq_for_pq(scores, iou, num_things):
    ap, _ = both_of(scores, iou, num_things)
    return ap, (iou > 0.5).sum().item() / ((len(iou) + num_things) / 2)


@mistake(
    "mistakes counted in full",
    "You divide by TP + FP + FN. How much does PQ charge for a false positive?",
)
def mistakes_in_full(scores, iou, num_things):
    ap, _ = both_of(scores, iou, num_things)
    matched = iou[iou > 0.5]
    return ap, matched.sum().item() / (len(iou) + num_things - len(matched))


@mistake(
    "no ranking",
    "You take the detections in the order in which they came. Who is first?",
)
def not_ranked(scores, iou, num_things):
    return both_of(scores, iou, num_things, order=torch.arange(len(iou)))


@mistake(
    "no envelope",
    "Your AP uses precision as measured at each rank. Which later rank would do better?",
)
def no_envelope(scores, iou, num_things):
    return both_of(scores, iou, num_things, envelope=False)


@mistake(
    "the lowest score first",
    "Your ranking begins with the detection of which the system was least sure.",
)
def worst_first(scores, iou, num_things):
    return both_of(scores, iou, num_things, order=scores.argsort())


@mistake(
    "the first step is missing",
    "Your area begins at the recall of the first detection. Where does the curve begin?",
)
def no_first_step(scores, iou, num_things):
    _, pq = both_of(scores, iou, num_things)
    hits = (iou >= 0.5)[scores.argsort(descending=True)].double().cumsum(0)
    precision = hits / torch.arange(1, len(hits) + 1)
    envelope = precision.flip(0).cummax(0).values.flip(0)
    return torch.trapezoid(envelope, hits / num_things).item(), pq


@mistake(
    "missed are only things beyond the number of detections",
    "Your denominator does not grow with every false detection. Which detections find a "
    "thing, and which things are missed?",
)
def missed_without_detection(scores, iou, num_things):
    ap, _ = both_of(scores, iou, num_things)
    matched = iou[iou > 0.5]
    mistakes = (len(iou) - len(matched)) + (num_things - len(iou))
    return ap, matched.sum().item() / max(len(matched) + mistakes / 2, 0.5)


BOTH = Exercise(
    ap_and_pq,
    rankings,
    points=4,
    minutes=20,
    mistakes=[
        half_matches,
        half_is_wrong,
        no_threshold,
        rq_for_pq,
        mistakes_in_full,
        not_ranked,
        worst_first,
        no_first_step,
        missed_without_detection,
        no_envelope,
    ],
)

# ---------------------------------------------------------------- 4. parsing_covering


def overlap_tables(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Tables of random maps: few and many segments, a class that nobody predicts, void."""
    yield torch.tensor([[9, 1], [2, 30]]), torch.tensor([2]), torch.tensor([2])  # no class 0, no 1
    for p, g, classes in ((5, 4, 3), (9, 7, 3), (3, 8, 4), (6, 3, 2)):
        table = torch.randint(0, 30, (p + 1, g + 1), generator=generator)
        for b in range(g):  # something that fits fairly well
            table[1 + int(torch.randint(p, (), generator=generator)), 1 + b] += 60 + 40 * b
        labels = torch.randint(classes, (p,), generator=generator)
        yield table, labels, torch.randint(classes, (g,), generator=generator)
    table = torch.tensor([[3, 2, 0], [0, 25, 4], [5, 0, 40]])
    yield table, torch.tensor([1, 6]), torch.tensor([1, 6])
    lonely = torch.tensor([[3, 40, 10], [5, 12, 30]])
    yield lonely, torch.tensor([1]), torch.tensor([0, 1])
    yield torch.tensor([[0, 25, 14]]), torch.zeros(0, dtype=torch.int64), torch.tensor([2, 0])


def covering(
    overlaps, predicted_labels, true_labels, *, void=True, weighted=True, value=None, by_class=True
):
    """`parsing_covering` with parts replaced."""
    both, area = overlaps[1:, 1:].double(), overlaps[:, 1:].sum(0).double()
    judged = (overlaps[1:].sum(1) - (overlaps[1:, 0] if void else 0)).double()
    iou = both / (judged[:, None] + area - both)
    iou = iou * (predicted_labels[:, None] == true_labels) if by_class else iou
    best = torch.cat([iou, iou.new_zeros(1, len(area))]).amax(0)
    best = best if value is None else value(best)
    weight = area if weighted else torch.ones_like(area)
    classes = [true_labels == k for k in true_labels.unique()]
    means = [(best * weight)[these].sum() / weight[these].sum() for these in classes]
    return means, best, area


@mistake(
    "every segment weighs the same",
    "You average over segments. What does the formula multiply each of them by?",
)
def covering_unweighted(*arguments):
    return torch.stack(covering(*arguments, weighted=False)[0]).mean().item()


@mistake(
    "void in the union",
    "The void pixels of a predicted segment are still in your union. In which column of "
    "the table are they?",
)
def covering_with_void(*arguments):
    return torch.stack(covering(*arguments, void=False)[0]).mean().item()


@mistake(
    "a threshold",
    "You drop what overlaps by less than half. This measure has no threshold.",
)
def covering_with_threshold(*arguments):
    def over_half(best):
        return best * (best > 0.5)

    return torch.stack(covering(*arguments, value=over_half)[0]).mean().item()


@mistake(
    "segments of any class",
    "A sheep may not be covered by the meadow: only predicted segments of its class.",
)
def covering_of_any_class(*arguments):
    return torch.stack(covering(*arguments, by_class=False)[0]).mean().item()


@mistake(
    "one mean over all pixels",
    "You average over all segments at once, so that the sky decides. First within a "
    "class, then over the classes.",
)
def covering_one_mean(*arguments):
    _, best, area = covering(*arguments)
    return ((best * area).sum() / area.sum()).item()


@mistake(
    "classes that are only predicted",
    "You divide by a number of classes that includes some without a true segment.",
)
def covering_predicted_classes(overlaps, predicted_labels, true_labels):
    means, _, _ = covering(overlaps, predicted_labels, true_labels)
    there = torch.cat([predicted_labels, true_labels]).unique()
    return (torch.stack(means).sum() / len(there)).item()


@mistake(
    "true areas without what nobody predicted",
    "Your true areas count only the pixels that some predicted segment covers. Does a "
    "true segment shrink where there is no answer?",
)
def covering_answered_area(overlaps, *labels):
    answered = torch.cat([torch.zeros_like(overlaps[:1]), overlaps[1:]])
    return torch.stack(covering(answered, *labels)[0]).mean().item()


@mistake(
    "the share instead of the IoU",
    "You divide by the true area only. One predicted segment over the whole image would "
    "cover all of its class.",
)
def covering_by_share(overlaps, predicted_labels, true_labels):
    both, area = overlaps[1:, 1:].double(), overlaps[:, 1:].sum(0).double()
    share = both / area * (predicted_labels[:, None] == true_labels)
    best = torch.cat([share, share.new_zeros(1, len(area))]).amax(0)
    classes = [true_labels == k for k in true_labels.unique()]
    means = [(best * area)[these].sum() / area[these].sum() for these in classes]
    return torch.stack(means).mean().item()


COVERING = Exercise(
    parsing_covering,
    overlap_tables,
    points=4,
    minutes=25,
    stretch=True,
    mistakes=[
        covering_unweighted,
        covering_with_void,
        covering_with_threshold,
        covering_of_any_class,
        covering_one_mean,
        covering_predicted_classes,
        covering_answered_area,
        covering_by_share,
    ],
)

homework = Homework(
    "Homework 09: panoptic quality",
    [STUFF, TOLERANT, BOTH, COVERING],
    turns=[TABLE, MATCH, QUALITY],
)
check, score_board, your_turns = homework.check, homework.score_board, homework.your_turns
