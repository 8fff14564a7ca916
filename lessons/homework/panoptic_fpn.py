"""Lesson 10 and its homework: turns and exercises on Panoptic FPN, and the known mistakes."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from lessons.homework.answers.panoptic_fpn import (
    gradient_balance,
    hard_pixel_loss,
    merge_stuff_first,
    panoptic_head,
)
from lessons.kit.data import VOID, Segments
from lessons.kit.homework import Exercise, Homework, mistake
from lessons.panoptic_fpn import claim_pixels, class_iou, merge_panoptic

# ---------------------------------------------------------------- 1. merge_stuff_first


def two_answers(generator: torch.Generator) -> Iterator[tuple]:
    """Blocks of classes with void in them under overlapping rectangles; limits met exactly."""
    semantic, column = torch.tensor([[1, 1], [VOID, 0]]), torch.tensor([[[1, 0], [1, 0]]]).bool()
    yield column, torch.tensor([0]), torch.tensor([0.9]), semantic, 1, 2
    pair = torch.cat([column, ~column.any(0)[None] & column])  # the second is empty
    yield pair, torch.tensor([0, 0]), torch.tensor([0.3, 0.9]), semantic, 1, 3
    for h, w, n, area in ((24, 31, 6, 20), (20, 20, 9, 45), (28, 17, 5, 60), (16, 40, 8, 30)):
        blocks = torch.randint(0, 7, (4, 5), generator=generator)
        blocks[0, 0], blocks[1, 1:4] = VOID, 0
        semantic = blocks.repeat_interleave(-(-h // 4), 0).repeat_interleave(-(-w // 5), 1)[:h, :w]
        masks = torch.zeros(n, h, w, dtype=torch.bool)
        for mask in masks:
            top, left = (int(torch.randint(side - 4, (), generator=generator)) for side in (h, w))
            tall, wide = torch.randint(4, 12, (2,), generator=generator).tolist()
            mask[top : top + tall, left : left + wide] = True
        scores = torch.randperm(20, generator=generator)[:n] / 20 + 0.04
        yield masks, torch.randint(3, (n,), generator=generator), scores, semantic, 3, area
    half = torch.full((8, 10), 3)
    half[:, 4:] = 0
    masks = torch.zeros(3, 8, 10, dtype=torch.bool)
    masks[0, 2:6, 2:6], masks[1, :4, 5:9], masks[2, 2:4, 5:7] = True, True, True
    labels, scores = torch.tensor([0, 1, 2]), torch.tensor([0.9, 0.5, 0.8])
    yield masks, labels, scores, half, 3, 5
    yield masks, labels, scores, half, 3, 32  # the meadow is just large enough
    yield masks, labels, scores, half, 3, 40  # and too small
    yield masks[:0], labels[:0], scores[:0], torch.full((8, 10), VOID), 3, 5


def stuff_first_with(
    masks, labels, scores, semantic, num_things, stuff_area, *,
    hold_small=False, instances_first=False, ascending=False, void_is_stuff=False,
    among_instances=False, whole_masks=False, half_goes=False, no_overlap=False, all_scores=False,
    limit_goes=False, above_half=False, as_given=False, map_things=False, listed_last=False,
):  # fmt: skip
    """`merge_stuff_first` with parts replaced."""
    free = torch.ones_like(semantic, dtype=torch.bool)
    by_instances = torch.zeros_like(free)
    stuff, things = [], []

    def claim_stuff():
        for label in semantic.unique().tolist():
            region = (semantic == label) & free
            if label == VOID and not void_is_stuff or label < num_things and not map_things:
                continue
            large = region.sum() >= stuff_area + limit_goes and region.any()
            if large:
                stuff.append((region, label))
            if large or hold_small:
                free.logical_and_(~region)

    def claim_things():
        order = scores.argsort(descending=not ascending, stable=True).tolist()
        for k in sorted(order) if as_given else order:
            taken = masks[k] & (by_instances if among_instances else ~free)
            area, lost = int(masks[k].sum()), int(taken.sum())
            visible = masks[k] & free
            too_much = 2 * lost >= area if half_goes else 2 * lost > area
            too_much = too_much and not no_overlap
            unsure = scores[k] <= 0.5 if above_half else scores[k] < 0.5
            if (unsure and not all_scores) or not visible.any() or too_much:
                continue
            things.append((masks[k] if whole_masks else visible, int(labels[k])))
            free.logical_and_(~masks[k])
            by_instances.logical_or_(visible)

    for step in (claim_things, claim_stuff) if instances_first else (claim_stuff, claim_things):
        step()
    rows = things + stuff if listed_last else stuff + things
    found = torch.stack([mask for mask, _ in rows]) if rows else masks[:0]
    return found, torch.tensor([label for _, label in rows], dtype=torch.int64)


def stuff_first_mistake(**changes):
    def mistaken(masks, labels, scores, semantic, num_things, stuff_area):
        arguments = masks, labels, scores, semantic, num_things, stuff_area
        return stuff_first_with(*arguments, **changes)

    return mistaken


STUFF_FIRST = Exercise(
    merge_stuff_first,
    two_answers,
    points=4,
    minutes=20,
    mistakes=[
        mistake(
            "things first",
            "This is the order of the lesson. Here the stuff chooses before the things.",
        )(stuff_first_mistake(instances_first=True)),
        mistake(
            "small stuff keeps its pixels",
            "A region below the area limit gets no segment, but in yours its pixels are taken all "
            "the same. For whom should they be free?",
        )(stuff_first_mistake(hold_small=True)),
        mistake(
            "overlap with stuff does not count",
            "You compare an instance with other instances only. Who else may own its pixels?",
        )(stuff_first_mistake(among_instances=True)),
        mistake("the least sure first", "Your instances come in the order of rising scores.")(
            stuff_first_mistake(ascending=True)
        ),
        mistake(
            "void is a class", "You give a segment to 255. That label says that there is no answer."
        )(stuff_first_mistake(void_is_stuff=True)),
        mistake(
            "an instance gets all of its mask",
            "Your masks overlap: an instance may have those of its pixels that are free.",
        )(stuff_first_mistake(whole_masks=True)),
        mistake(
            "exactly half is too much",
            "You leave out an instance of which exactly half is taken. Read the rule again.",
        )(stuff_first_mistake(half_goes=True)),
        mistake(
            "nobody is left out",
            "An instance that is mostly taken still gets its rest. What does rule 2 say of it?",
        )(stuff_first_mistake(no_overlap=True)),
        mistake(
            "no score threshold",
            "You merge instances that the detector does not believe in itself.",
        )(stuff_first_mistake(all_scores=True)),
        mistake(
            "a score of exactly one half",
            "You leave out an instance whose score is exactly ½. Read the rule again.",
        )(stuff_first_mistake(above_half=True)),
        mistake(
            "a region of exactly the limit",
            "You drop a region that has exactly `stuff_area` pixels. Read the rule again.",
        )(stuff_first_mistake(limit_goes=True)),
        mistake(
            "the order of the list",
            "Your instances come to their pixels in the order in which they are given. Who should "
            "be first?",
        )(stuff_first_mistake(as_given=True)),
        mistake(
            "things of the map",
            "You give a segment to labels of the map that are things. Whose business are those?",
        )(stuff_first_mistake(map_things=True)),
        mistake(
            "the instances listed first",
            "Everybody has the right pixels, but your list begins with the instances.",
        )(stuff_first_mistake(listed_last=True)),
    ],
)

# ---------------------------------------------------------------- 2. hard_pixel_loss


def scored_maps(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, float]]:
    """Random logits, void in the truth; images of unequal difficulty; nothing but void."""
    tiny = torch.tensor([[[[1.0, 0.0, 2.0]], [[0.0, 3.0, -1.0]]]])
    yield tiny, torch.tensor([[[1, 1, VOID]]]), 0.5
    for b, k, h, w, share in ((2, 5, 9, 11, 0.15), (3, 3, 6, 5, 0.5), (1, 4, 7, 7, 0.33)):
        logits = 2 * torch.randn(b, k, h, w, generator=generator)
        logits *= 1 + torch.arange(b).view(-1, 1, 1, 1)  # the later image is harder
        targets = torch.randint(k, (b, h, w), generator=generator)
        targets[torch.rand(b, h, w, generator=generator) < 0.3] = VOID
        yield logits, targets, share
    yield logits, targets, 1.0
    yield 50 * logits, torch.full_like(targets, VOID), 0.2


def with_gradient(function, logits, targets, share):
    """What a loss says and its gradient; zeros where the gradient does not arrive."""
    leaf = logits.clone().requires_grad_()
    value = function(leaf, targets, share)
    gradient = torch.zeros_like(leaf)
    if isinstance(value, Tensor) and value.requires_grad:
        found = torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0]
        gradient = gradient if found is None else found
    return {"loss": value, "gradient": gradient}


def hard_pixels_with(
    logits, targets, share, *, easiest=False, with_void=False, over_all=False, rounded=math.ceil,
    by_image=False, total=False, least_sure=False,
):  # fmt: skip
    """`hard_pixel_loss` with parts replaced."""
    each = F.cross_entropy(logits, targets, ignore_index=VOID, reduction="none")
    judged = targets != VOID
    if not judged.any():
        return logits.sum() * 0
    if by_image:
        parts = [row[here] for row, here in zip(each, judged, strict=True) if here.any()]
        return torch.stack([p.topk(math.ceil(share * len(p))).values.mean() for p in parts]).mean()
    values = each.flatten() if with_void else each[judged]
    count = max(rounded(share * len(values)), 1)
    kept = values.topk(count, largest=not easiest).values
    if least_sure:
        confidence = logits.softmax(1).amax(1)[judged]
        kept = values[confidence.topk(count, largest=False).indices]
    if total:
        return kept.sum()
    return kept.sum() / len(values) if over_all else kept.mean()


def hard_mistake(**changes):
    def mistaken(logits, targets, share):
        return hard_pixels_with(logits, targets, share, **changes)

    return mistaken


@mistake(
    "no gradient",
    "The number is right, but no gradient reaches the logits: nobody learns from it. "
    "Where does yours leave the graph?",
)
def hard_detached(logits, targets, share):
    return hard_pixels_with(logits.detach(), targets, share)


@mistake(
    "a mean of nothing",
    "Right, except where all pixels are void. What is the mean of no numbers?",
)
def hard_mean_of_nothing(logits, targets, share):
    each = F.cross_entropy(logits, targets, ignore_index=VOID, reduction="none")
    each = each[targets != VOID]
    return each.topk(math.ceil(share * len(each))).values.mean()


HARD = Exercise(
    hard_pixel_loss,
    scored_maps,
    points=3,
    minutes=15,
    call=with_gradient,
    mistakes=[
        mistake(
            "the easiest pixels",
            "You keep the smallest cross-entropies: pixels that have nothing left to learn.",
        )(hard_mistake(easiest=True)),
        mistake(
            "void pixels count",
            "Your share is one of all pixels, and the void ones are among them. What is n?",
        )(hard_mistake(with_void=True)),
        mistake(
            "divided by all pixels",
            "You sum the hard ones and divide by all. Then a smaller share makes a smaller loss, "
            "however hard its pixels are.",
        )(hard_mistake(over_all=True)),
        mistake(
            "rounded down",
            "You keep a pixel less than asked. In which direction is share · n rounded?",
        )(hard_mistake(rounded=math.floor)),
        mistake(
            "rounded to the nearest",
            "You sometimes keep a pixel less than asked. In which direction is share · n rounded?",
        )(hard_mistake(rounded=round)),
        mistake(
            "the sum",
            "You sum the hard pixels. Asked is their mean: a loss should not grow with the image.",
        )(hard_mistake(total=True)),
        mistake(
            "the least sure pixels",
            "You choose the pixels on which the network is least sure of itself. Hard are also "
            "those on which it is sure and wrong.",
        )(hard_mistake(least_sure=True)),
        hard_detached,
        mistake(
            "each image by itself",
            "You choose the hardest pixels of each image. Asked are those of the whole batch: an "
            "easy image may have none of them.",
        )(hard_mistake(by_image=True)),
        hard_mean_of_nothing,
    ],
)

# ---------------------------------------------------------------- 3. gradient_balance


def two_gradients(generator: torch.Generator) -> Iterator[tuple[list, list]]:
    """Gradients of several shapes; some parameters that one loss does not reach; opposite ones."""
    yield [torch.tensor([3.0, 4.0])], [torch.tensor([0.0, 1.0])]
    for scale, lonely in ((1.0, 0), (0.1, 1), (7.0, 2)):
        shapes = ((4, 3, 3, 3), (4,), (6, 5), (1,))
        first = [(1 + i) * torch.randn(s, generator=generator) for i, s in enumerate(shapes)]
        second = [scale * torch.randn(s, generator=generator) + 0.2 * g
                  for s, g in zip(shapes, first, strict=True)]  # fmt: skip
        if lonely:
            first[0], second[2 if lonely == 1 else 3] = None, None
        yield first, second
    yield (
        [torch.tensor([1.0, 2.0]), torch.ones(2, 2)],
        [torch.tensor([-2.0, -4.0]), -2 * torch.ones(2, 2)],
    )


def zeros(side, other):
    return [torch.zeros_like(b) if a is None else a for a, b in zip(side, other, strict=True)]


def lengths(side):
    return math.sqrt(sum(float(g.square().sum()) for g in side))


def balance_with(first, second, *, ratio=lambda one, two: one / two, dot=None, drop=False):
    if drop:
        both = [
            (a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None
        ]
        first, second = ([pair[side] for pair in both] for side in (0, 1))
    first, second = zeros(first, second), zeros(second, first)
    one, two = lengths(first), lengths(second)
    inner = sum(float((a * b).sum()) for a, b in zip(first, second, strict=True))
    return ratio(one, two), inner / (one * two) if dot is None else dot(first, second)


@mistake(
    "the ratio upside down",
    "With your weight the second loss would be even further away. Which one is to be "
    "stretched or shrunk?",
)
def balance_inverted(first, second):
    return balance_with(first, second, ratio=lambda one, two: two / one)


@mistake(
    "lengths without the root",
    "Your ratio is one of squared lengths. A gradient twice as long needs half the weight, "
    "not a quarter.",
)
def balance_squared(first, second):
    return balance_with(first, second, ratio=lambda one, two: (one / two) ** 2)


@mistake(
    "parameters of one loss are dropped",
    "You leave out parameters that only one of the losses depends on. Its gradient there "
    "still makes it longer.",
)
def balance_dropped(first, second):
    return balance_with(first, second, drop=True)


@mistake(
    "a mean of the parameters' ratios",
    "You average a ratio of each parameter. All of them together are one vector.",
)
def balance_by_parameter(first, second):
    a, b = zeros(first, second), zeros(second, first)
    pairs = [(lengths([x]), lengths([y])) for x, y in zip(a, b, strict=True)]
    ratios = [one / two for one, two in pairs if two > 0]
    return sum(ratios) / len(ratios), balance_with(first, second)[1]


def mean_cosine(first, second):
    both = zip(first, second, strict=True)
    each = [F.cosine_similarity(a.flatten(), b.flatten(), dim=0).item() for a, b in both]
    return sum(each) / len(each)


@mistake(
    "a mean of the parameters' cosines",
    "You average a cosine of each parameter. All of them together are one vector.",
)
def balance_mean_cosine(first, second):
    return balance_with(first, second, dot=mean_cosine)


@mistake(
    "a cosine of the shared parameters",
    "Your weight is right. For the cosine you leave out parameters that only one of the "
    "losses depends on: they add nothing to the inner product, but to a length.",
)
def balance_shared_cosine(first, second):
    return balance_with(first, second)[0], balance_with(first, second, drop=True)[1]


@mistake(
    "the angle",
    "Your second number is the angle itself. Asked is its cosine.",
)
def balance_angle(first, second):
    ratio, cosine = balance_with(first, second)
    return ratio, math.acos(min(max(cosine, -1), 1))


@mistake(
    "the inner product",
    "Your second number grows with the gradients. A cosine lies between −1 and 1.",
)
def balance_inner_product(first, second):
    def inner(a, b):
        return sum(float((x * y).sum()) for x, y in zip(a, b, strict=True))

    return balance_with(first, second, dot=inner)


@mistake(
    "a sum of lengths",
    "You add the lengths of the parts. How long is a vector whose parts are 3 and 4 long?",
)
def balance_sum_of_lengths(first, second):
    a, b = zeros(first, second), zeros(second, first)
    one, two = (sum(lengths([g]) for g in side) for side in (a, b))
    return one / two, balance_with(first, second)[1]


BALANCE = Exercise(
    gradient_balance,
    two_gradients,
    points=3,
    minutes=15,
    tolerance=1e-5,
    mistakes=[
        balance_inverted,
        balance_squared,
        balance_dropped,
        balance_by_parameter,
        balance_mean_cosine,
        balance_inner_product,
        balance_shared_cosine,
        balance_angle,
        balance_sum_of_lengths,
    ],
)

# ---------------------------------------------------------------- 4. panoptic_head


def logits_and_masks(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Smooth logits, some all negative; boxes that overlap, touch the edge; no instances."""
    tiny = torch.tensor([[[1.0, 1.0, 1.0]], [[0.0, 2.0, 0.5]]])
    yield tiny, torch.tensor([[[0.5, 0.5, 0.5]]]), torch.tensor([[0, 0, 2, 1]])
    for s, n, h, w, shift in ((4, 3, 12, 17, 0.0), (2, 5, 20, 11, -6.0), (3, 2, 9, 9, 2.0)):
        logits = 2 * torch.randn(1 + s, h, w, generator=generator) + shift
        logits[0] += 0.5
        masks = 2 * torch.randn(n, h, w, generator=generator)
        corner = torch.stack(
            [torch.randint(side - 5, (n,), generator=generator) for side in (w, h)], 1
        )
        size = torch.randint(3, 8, (n, 2), generator=generator)
        far = torch.minimum(corner + size, torch.tensor([w, h]))
        yield logits, masks, torch.cat([corner, far], 1)
    yield logits, masks[:0], torch.zeros(0, 4, dtype=torch.int64)


def head_with(
    logits, mask_logits, boxes, *, outside=-torch.inf, thing=True, far=0, sigmoid=False,
    everywhere=False, product=False, swapped=False, things_first=False, any_thing=False,
    thing_last=False,
):  # fmt: skip
    """`panoptic_head` with parts replaced."""
    h, w = logits.shape[1:]
    if thing_last:
        logits = logits.roll(1, 0)
    y, x = torch.arange(h)[:, None], torch.arange(w)
    x0, y0, x1, y1 = boxes.T[..., None, None]
    if swapped:
        x0, y0, x1, y1 = y0, x0, y1, x1
    inside = (x >= x0) & (x < x1 + far) & (y >= y0) & (y < y1 + far)
    masks = mask_logits.sigmoid() if sigmoid else mask_logits
    things = logits[0] * masks if product else masks + logits[0] * thing
    things = things if everywhere else things.masked_fill(~inside, outside)
    if any_thing:
        return torch.cat([logits, things]).argmax(dim=0) - 1
    order = [things, logits[1:]] if things_first else [logits[1:], things]
    return torch.cat(order).argmax(dim=0)


def head_mistake(**changes):
    def mistaken(logits, mask_logits, boxes):
        return head_with(logits, mask_logits, boxes, **changes)

    return mistaken


HEAD = Exercise(
    panoptic_head,
    logits_and_masks,
    points=4,
    minutes=25,
    stretch=True,
    mistakes=[
        mistake(
            "zero outside the box",
            "Outside its box your instance has the logit 0. Where all stuff is negative, it wins.",
        )(head_mistake(outside=0.0)),
        mistake("the box is forgotten", "Your instances win pixels outside their boxes.")(
            head_mistake(everywhere=True)
        ),
        mistake(
            "masks only",
            "Your instances ask the mask alone. What does the branch say about the pixel?",
        )(head_mistake(thing=False)),
        mistake("the far edges are inside", "Your boxes are one pixel too wide and too tall.")(
            head_mistake(far=1)
        ),
        mistake(
            "a probability for the mask",
            "You add a sigmoid of the mask to a logit of the branch: two different units, and a "
            "mask that says no can only add to an instance.",
        )(head_mistake(sigmoid=True)),
        mistake("a product", "You multiply two logits. Two that say no would make a yes.")(
            head_mistake(product=True)
        ),
        mistake(
            "the instances counted first",
            "Your numbers begin with the instances. Which ones belong to the stuff?",
        )(head_mistake(things_first=True)),
        mistake(
            "thing wins a pixel",
            'Some of your pixels go to the channel "thing" itself. It is nobody: it may only help '
            "an instance.",
        )(head_mistake(any_thing=True)),
        mistake(
            "the last channel for thing", 'You take the last channel for "thing". Which one is it?'
        )(head_mistake(thing_last=True)),
        mistake(
            "x and y exchanged", "Your boxes run along the wrong axes. Which axis of an image is x?"
        )(head_mistake(swapped=True)),
    ],
)

# ---------------------------------------------------------------- your turn: class_iou


def tables(generator: torch.Generator) -> Iterator[tuple[Tensor]]:
    """Confusion matrices: void in truth and prediction, classes that do not occur, one class."""
    yield (torch.tensor([[3, 1, 0], [0, 2, 2], [5, 0, 1]]),)
    for k in (4, 1, 6):
        counts = torch.randint(0, 40, (k + 1, k + 1), generator=generator)
        yield (counts,)
    absent = counts.clone()
    absent[2], absent[:, 2] = 0, 0  # nowhere
    absent[4, :] = 0  # only called so
    absent[5, 5] = 0  # never right
    yield (absent,)
    only_void = absent.clone()
    only_void[6, 2] = 7  # called so where nothing is asked
    yield (only_void,)
    yield (torch.zeros(3, 3, dtype=torch.int64),)


def iou_with(*, every_row=False, void_is_no_miss=False, twice=False, rows=True, columns=True):
    """The IoU from a table with parts replaced."""

    def mistaken(counts):
        judged = counts if every_row else counts[:-1]
        k = len(counts) - 1
        hit = judged.diagonal()[:k]
        row = (judged[:k, :k] if void_is_no_miss else judged[:k]).sum(1)
        union = row * rows + judged[:, :k].sum(0) * columns - hit * (not twice and rows and columns)
        with np.errstate(invalid="ignore", divide="ignore"):
            return hit / union

    return mistaken


def zero_for_nothing(counts):
    return np.nan_to_num(class_iou(counts))


IOU = Exercise(
    class_iou,
    tables,
    call=lambda function, counts: function(counts.numpy()),
    mistakes=[
        mistake(
            "void in the truth is judged",
            "You count pixels whose truth is void against a class. Which row of the table is that?",
        )(iou_with(every_row=True)),
        mistake(
            "void in the prediction is no miss",
            "A pixel without an answer is a miss of its class. In which column does it stand?",
        )(iou_with(void_is_no_miss=True)),
        mistake(
            "TP counted twice",
            "Your union is too large: what is right stands in the row and in the column.",
        )(iou_with(twice=True)),
        mistake("recall", "That is TP / (TP + FN): it does not ask what was called so wrongly.")(
            iou_with(columns=False)
        ),
        mistake("precision", "That is TP / (TP + FP): it does not ask what was missed.")(
            iou_with(rows=False)
        ),
        mistake(
            "0 where there is nothing",
            "A class that neither truth nor prediction has is not wrong. It has no IoU: NaN.",
        )(zero_for_nothing),
    ],
)

# ---------------------------------------------------------------- your turn: claim_pixels


def masks_that_overlap(generator: torch.Generator) -> Iterator[tuple]:
    """Equal scores; exactly half taken; exactly at the threshold; empty, equal and no masks."""
    pair = torch.tensor([[[1, 1, 0]], [[0, 1, 1]]]).bool()
    yield pair, torch.tensor([0.75, 1.0]), 0.5, 0.5
    row = torch.zeros(3, 1, 4, dtype=torch.bool)
    row[0, 0, :2], row[1, 0, 1:3], row[2, 0, :3] = True, True, True
    yield row, torch.tensor([0.75, 1.0, 0.25]), 0.5, 0.5
    for n, h, w, score, overlap in (
        (7, 12, 15, 0.25, 0.5),
        (9, 10, 11, 0.5, 0.25),
        (12, 14, 9, 0.0, 0.75),
        (8, 9, 9, 0.125, 1.0),
        (6, 9, 8, 0.25, 0.0),
    ):
        masks = torch.zeros(n, h, w, dtype=torch.bool)
        for mask in masks[:-1]:  # the last stays empty
            top, left = (int(torch.randint(side - 3, (), generator=generator)) for side in (h, w))
            tall, wide = torch.randint(2, 8, (2,), generator=generator).tolist()
            mask[top : top + tall, left : left + wide] = True
        masks[2] = masks[1]
        yield masks, torch.randint(9, (n,), generator=generator) / 8, score, overlap
    yield masks[:0], torch.zeros(0), 0.5, 0.5


def claims_with(
    masks, scores, score_threshold, overlap_threshold, *, ascending=False, as_given=False,
    above=False, half_goes=False, whole=False, all_taken=False, stops=False, by_free=False,
    empty=False, keeps_free=False,
):  # fmt: skip
    """`claim_pixels` with parts replaced."""
    order = scores.argsort(descending=not ascending, stable=True).tolist()
    masks = masks.numpy()
    free, claimed, kept = np.ones(masks.shape[1:], dtype=bool), [], []
    for k in sorted(order) if as_given else order:
        visible = masks[k] & free
        area, left = np.count_nonzero(masks[k]), np.count_nonzero(visible)
        lost = (area - left) / max(left if by_free else area, 1)
        too_much = lost >= overlap_threshold if half_goes else lost > overlap_threshold
        unsure = scores[k] <= score_threshold if above else scores[k] < score_threshold
        if unsure or (too_much and not all_taken) or not (left or empty):
            if stops:
                break
            if keeps_free:
                free &= ~masks[k]
            continue
        free &= ~visible
        claimed.append(masks[k] if whole else visible)
        kept.append(k)
    return free, claimed, kept


def claims_mistake(**changes):
    def mistaken(masks, scores, score_threshold, overlap_threshold):
        return claims_with(masks, scores, score_threshold, overlap_threshold, **changes)

    return mistaken


CLAIM = Exercise(
    claim_pixels,
    masks_that_overlap,
    mistakes=[
        mistake("the least sure first", "Your instances come in the order of rising scores.")(
            claims_mistake(ascending=True)
        ),
        mistake(
            "the order of the list",
            "Your instances come in the order in which they are given. `order` has another one.",
        )(claims_mistake(as_given=True)),
        mistake(
            "a score of exactly the threshold",
            "You leave out an instance whose score is exactly the threshold: it is not below it.",
        )(claims_mistake(above=True)),
        mistake(
            "exactly as much as allowed",
            "You leave out an instance of which exactly the allowed share is taken. Rule 2 says "
            "*more than*.",
        )(claims_mistake(half_goes=True)),
        mistake(
            "an instance gets all of its mask",
            "Your masks overlap: an instance gets those of its pixels that are free.",
        )(claims_mistake(whole=True)),
        mistake("nobody is left out", "A mask that is mostly taken still gets its rest. Rule 2?")(
            claims_mistake(all_taken=True)
        ),
        mistake(
            "it ends at the first",
            "You stop at the first instance that is left out. Those after it may be kept.",
        )(claims_mistake(stops=True)),
        mistake(
            "a share of the free pixels",
            "What is taken is to be a share of the whole mask; you divide by its free pixels.",
        )(claims_mistake(by_free=True)),
        mistake(
            "a segment without a pixel",
            "You keep a mask that has no free pixel: a segment of nothing.",
        )(claims_mistake(empty=True)),
        mistake(
            "who is left out takes pixels",
            "An instance that is left out takes pixels away all the same. For whom are they free?",
        )(claims_mistake(keeps_free=True)),
    ],
)

# ---------------------------------------------------------------- your turn: merge_panoptic


def to_merge(generator: torch.Generator) -> Iterator[tuple]:
    """Two answers with the usual thresholds and with others, none (the defaults), limits met."""
    cases = list(two_answers(generator))
    masks, labels, scores, semantic, num_things, _ = cases[0]
    yield Segments(masks, labels, scores), semantic, num_things, 0.5, 0.5, 1
    for masks, labels, scores, semantic, num_things, area in cases:
        yield Segments(masks, labels, scores), semantic, num_things, 0.5, 0.5, area
    for masks, labels, scores, semantic, num_things, area in cases[2:5]:
        yield Segments(masks, labels, scores), semantic, num_things, 0.1, 0.8, area
        yield Segments(masks, labels, scores), semantic, num_things, 0.7, 0.2, area
    half = torch.full((4, 6), 3)
    half[:, 2:4], half[:, 4:], half[0, 5] = 0, 5, VOID
    masks = torch.zeros(1, 4, 6, dtype=torch.bool)
    masks[0, :2, :3] = True
    one = Segments(masks, torch.tensor([1]), torch.tensor([0.75]))
    for area in (0, 4, 5, 7, 8):  # of 3 four pixels are left, of 5 seven
        yield one, half, 3, 0.5, 0.5, area
    covered = Segments(half[None] == 3, torch.tensor([1]), torch.tensor([0.75]))
    yield covered, half, 3, 0.5, 0.5, 0  # of 3 nothing is left
    large = torch.full((64, 129), 3)
    large[:, 64:128], large[0, 64], large[:, 128] = 4, VOID, 0
    masks = torch.zeros(4, 64, 129, dtype=torch.bool)
    masks[0, :40, 128], masks[1, 20:60, 128], masks[2, 30:64, 128] = True, True, True
    masks[3, 60:, 128] = True
    scores = torch.tensor([0.8, 0.5, 0.45, 0.3])  # half of the second is taken
    yield Segments(masks, torch.tensor([0, 1, 2, 2]), scores), large, 3, None, None, None
    masks[2, 30:, 128], scores = False, torch.tensor([0.8, 0.5, 0.6, 0.3])
    masks[2, 15:41, 128] = True  # all but one of its pixels are the first one's
    yield Segments(masks, torch.tensor([0, 1, 2, 2]), scores), large, 3, None, None, None


def merged(function, instances, semantic, num_things, score, overlap, area):
    limits = {"score_threshold": score, "overlap_threshold": overlap, "stuff_area": area}
    given = {name: value for name, value in limits.items() if value is not None}
    return function(instances, semantic, num_things=num_things, **given)


def merge_with(*, void=False, things=False, limit_goes=False, taken_too=False, from_zero=False):
    """`merge_panoptic` with another rule 3."""

    def mistaken(
        instances, semantic, *, num_things, score_threshold=0.5, overlap_threshold=0.5,
        stuff_area=4096,
    ):  # fmt: skip
        free, claimed, kept = claim_pixels(
            instances.masks, instances.scores, score_threshold, overlap_threshold
        )
        classes, parts = semantic.numpy(), [torch.from_numpy(mask) for mask in claimed]
        labels = instances.labels[kept].tolist()
        for label in range(VOID + 1) if from_zero else np.unique(classes).tolist():
            region = classes == label
            count = (region if taken_too else region & free).sum()
            wanted = (label >= num_things or things) and (label != VOID or void)
            if wanted and count >= stuff_area + limit_goes and (count or from_zero):
                parts.append(torch.from_numpy(region & free))
                labels.append(label)
        masks = torch.stack(parts) if parts else instances.masks[:0]
        scores = torch.cat([instances.scores[kept], torch.ones(len(labels) - len(kept))])
        return Segments(masks, torch.tensor(labels, dtype=torch.int64), scores)

    return mistaken


MERGE = Exercise(
    merge_panoptic,
    to_merge,
    call=merged,
    mistakes=[
        mistake(
            "void is a class", "You give a segment to 255. That label says that there is no answer."
        )(merge_with(void=True)),
        mistake(
            "things of the map",
            "You give a segment to labels of the map that are things. Whose business are those?",
        )(merge_with(things=True)),
        mistake(
            "a region of exactly the limit",
            "You drop a class that has exactly `stuff_area` pixels: it is not below the limit.",
        )(merge_with(limit_goes=True)),
        mistake(
            "taken pixels count",
            "You count all pixels of a class. Some of them belong to instances already.",
        )(merge_with(taken_too=True)),
        mistake(
            "a class without a pixel",
            "With a limit of 0 your list has classes that have no pixel at all.",
        )(merge_with(from_zero=True)),
    ],
)

homework = Homework(
    "Homework 10: Panoptic FPN", [STUFF_FIRST, HARD, BALANCE, HEAD], turns=[IOU, CLAIM, MERGE]
)
check, score_board, your_turns = homework.check, homework.score_board, homework.your_turns
