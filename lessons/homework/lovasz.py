"""Lesson 07 and its homework: turns and exercises on the Lovász hinge, and the known mistakes."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lessons.homework.answers.lovasz import (
    dice_gradient,
    loss_in_layers,
    lovasz_softmax,
    void_hinge,
)
from lessons.kit.homework import Exercise, Homework, mistake
from lessons.lovasz import jaccard_loss, lovasz_gradient, lovasz_hinge, zeros_and_ones


def with_gradient(function: Callable, first: Tensor, *others: Tensor) -> dict[str, Tensor]:
    """What a loss says and its gradient; zeros where the gradient does not arrive."""
    leaf = first.clone().requires_grad_()
    value = function(leaf, *others)
    gradient = torch.zeros_like(leaf)
    if isinstance(value, Tensor) and value.requires_grad:
        found = torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0]
        gradient = gradient if found is None else found
    return {"loss": value, "gradient": gradient}


# ---------------------------------------------------------------- your turn: jaccard_loss


def sets_of_pixels(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Some pixels wrong, none, all; no object and nothing else; all types; images; no masks."""
    wrong = torch.tensor([[False, True, True, False, False, False]])
    yield wrong, torch.tensor([[True, True, False, True, False, False]])
    for shape, much, share, dtype in (
        ((4, 9), 0.4, 0.5, torch.bool),
        ((3, 4, 5), 0.2, 0.3, torch.int64),
        ((2, 12), 0.5, 0.2, torch.float64),
        ((3, 7), 0.0, 0.5, torch.float32),
        ((2, 7), 0.0, 0.0, torch.bool),
        ((2, 7), 0.5, 0.0, torch.float32),
        ((2, 6), 1.0, 0.5, torch.bool),
        ((5,), 0.5, 0.5, torch.bool),
        ((0, 4), 0.5, 0.5, torch.bool),
    ):
        both = torch.rand(2, *shape, generator=generator)
        yield (both[0] < much).to(dtype), (both[1] < share).to(dtype)


def rows(wrong: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """M and Y of `jaccard_loss`."""
    return zeros_and_ones("wrong", wrong, wrong), zeros_and_ones("labels", labels, wrong)


@mistake(
    "0 / 0",
    "Right, except where there is no object and nothing is wrong: that is 0 / 0. What is J of "
    "the empty set?",
)
def jaccard_of_nothing(wrong, labels):
    M, Y = rows(wrong, labels)
    return M.sum(1) / (M + Y).clamp(max=1).sum(1)


twice = mistake(
    "missed pixels counted twice",
    "Your union counts the missed pixels twice: they are in M and in Y.",
)


@twice
def jaccard_without_overlap(wrong, labels):
    M, Y = rows(wrong, labels)
    return M.sum(1) / (M.sum(1) + Y.sum(1)).clamp(min=1)


@twice
def jaccard_without_overlap_of_nothing(wrong, labels):
    M, Y = rows(wrong, labels)
    return M.sum(1) / (M + Y).sum(1)


painted = mistake(
    "M taken for the prediction",
    "You compare M with Y as if it were the painted mask. It is the set of pixels that are "
    "*wrong*: all of it counts, and when it is empty, the loss is 0.",
)


@painted
def jaccard_of_overlap(wrong, labels):
    M, Y = rows(wrong, labels)
    return 1 - (M * Y).sum(1) / (M + Y).clamp(max=1).sum(1).clamp(min=1)


@painted
def jaccard_of_missed_pixels(wrong, labels):
    M, Y = rows(wrong, labels)
    return (M * Y).sum(1) / (M + Y).clamp(max=1).sum(1).clamp(min=1)


@mistake(
    "the IoU, not the loss",
    "That is the IoU. The loss is 1 less it: 0 when nothing is wrong.",
)
def jaccard_is_iou(wrong, labels):
    return 1 - jaccard_loss(wrong, labels)


@mistake(
    "the share of wrong pixels",
    "You divide by all pixels: that is how cross-entropy counts. Over which pixels does the "
    "Jaccard loss go?",
)
def jaccard_of_all_pixels(wrong, labels):
    M, _ = rows(wrong, labels)
    return M.sum(1) / max(M.shape[1], 1)


JACCARD = Exercise(
    jaccard_loss,
    sets_of_pixels,
    mistakes=[
        jaccard_of_nothing,
        jaccard_without_overlap,
        jaccard_without_overlap_of_nothing,
        jaccard_of_overlap,
        jaccard_of_missed_pixels,
        jaccard_is_iou,
        jaccard_of_all_pixels,
    ],
)

# ---------------------------------------------------------------- your turn: lovasz_gradient


def labels_in_order(generator: torch.Generator) -> Iterator[tuple[Tensor]]:
    """Rows of all kinds; no object, everything, one pixel, no pixels, no rows; all types."""
    yield (torch.tensor([[1.0, 0.0, 1.0]]),)
    yield (torch.tensor([[0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0]]),)
    for n, p, share, dtype in (
        (4, 7, 0.5, torch.bool),
        (3, 30, 0.2, torch.float32),
        (2, 12, 0.8, torch.float64),
        (2, 6, 0.0, torch.float32),
        (2, 6, 1.0, torch.int32),
        (3, 1, 0.5, torch.float32),
        (2, 0, 0.5, torch.float32),
        (0, 5, 0.5, torch.bool),
    ):
        yield ((torch.rand(n, p, generator=generator) < share).to(dtype),)


def jaccard_after(labels: Tensor) -> Tensor:
    """The Jaccard loss after each pixel."""
    labels = labels.to(torch.promote_types(labels.dtype, torch.float32))
    k = torch.arange(1, labels.shape[1] + 1).to(labels)
    right = labels.sum(1, keepdim=True) - labels.cumsum(1)
    return k / (right + k)


def two_kinds(labels: Tensor, of_object: Callable, of_ground: Callable, nobody=True) -> Tensor:
    """The steps, with other values for the two kinds; both get I and U after the step."""
    labels = labels.to(torch.promote_types(labels.dtype, torch.float32))
    count = labels.sum(1, keepdim=True)
    I = count - labels.cumsum(1)  # noqa: E741 - the lesson's letter
    U = I + torch.arange(1, labels.shape[1] + 1).to(labels)
    steps = torch.where(labels == 1, of_object(I, U), of_ground(I, U))
    if nobody:
        steps[:, :1] += count == 0
    return steps


def share(I, U):  # noqa: E741
    return I / (U - 1).clamp(min=1) / U


@mistake(
    "the loss, not its steps",
    "These are the values of J after each pixel. By how much did it *rise*?",
)
def gradient_is_the_loss(labels):
    return jaccard_after(labels)


@mistake(
    "the first step is missing",
    "Right except for the first pixel: from which value does J start?",
)
def gradient_without_first(labels):
    values = jaccard_after(labels)
    return torch.cat([torch.zeros_like(values[:, :1]), values.diff(dim=1)], 1)


nobody = mistake(
    "a row without an object",
    "Right for every row with an object. Without one the first painted pixel costs everything, "
    "J = 1, and the others nothing.",
)


@nobody
def gradient_of_nobody(labels):
    return two_kinds(labels, lambda I, U: 1 / U, share, nobody=False)  # noqa: E741


@nobody
def gradient_of_nobody_by_zero(labels):
    return two_kinds(labels, lambda I, U: 1 / U, lambda I, U: I / (U - 1) / U, nobody=False)  # noqa: E741


shifted = mistake(
    "the union before and after",
    "Your steps of object pixels are right, those of the ground not: they need the IoU before the "
    "step, I / (U − 1), and the union after it, U, if U is what I + k gives.",
)


@shifted
def gradient_of_the_union_before(labels):
    def ground(I, U):  # noqa: E741
        return I / (U - 1).clamp(min=1) / (U - 1).clamp(min=1)

    return two_kinds(labels, lambda I, U: 1 / U, ground)  # noqa: E741


@shifted
def gradient_of_the_union_after(labels):
    return two_kinds(labels, lambda I, U: 1 / U, lambda I, U: I / U / (U + 1))  # noqa: E741


@shifted
def gradient_of_the_union_after_without_nobody(labels):
    return two_kinds(labels, lambda I, U: 1 / U, lambda I, U: I / U / (U + 1), nobody=False)  # noqa: E741


@mistake(
    "the IoU itself",
    "A step of the ground is the IoU before it, divided by the union after it. You forgot to "
    "divide.",
)
def gradient_is_the_iou(labels):
    return two_kinds(labels, lambda I, U: 1 / U, lambda I, U: I / U, nobody=False)  # noqa: E741


@mistake(
    "one object for all rows",
    "Right for a single row. You count the pixels of all objects together: each row has an object "
    "of its own.",
)
def gradient_of_all_rows(labels):
    labels = labels.to(torch.promote_types(labels.dtype, torch.float32))
    right = labels.sum() - labels.cumsum(1)
    k = torch.arange(1, labels.shape[1] + 1).to(labels)
    return (k / (right + k)).diff(dim=1, prepend=labels.new_zeros(len(labels), 1))


@mistake(
    "the ground weighs as the object",
    "You give both kinds the step of an object pixel. What is a step of the ground multiplied by?",
)
def gradient_of_one_kind(labels):
    return two_kinds(labels, lambda I, U: 1 / U, lambda I, U: 1 / U, nobody=False)  # noqa: E741


@mistake(
    "the two kinds exchanged",
    "You give the object's pixels the step of the ground, and the ground's that of the object.",
)
def gradient_exchanged(labels):
    return two_kinds(labels, share, lambda I, U: 1 / U, nobody=False)  # noqa: E741


@mistake(
    "the object never shrinks",
    "Your I is the whole object all the time. How many of its pixels are wrong after k steps?",
)
def gradient_of_the_whole_object(labels):
    labels = labels.to(torch.promote_types(labels.dtype, torch.float32))
    count = labels.sum(1, keepdim=True)
    U = count + torch.arange(1, labels.shape[1] + 1).to(labels)
    steps = torch.where(labels == 1, 1, count / (U - 1).clamp(min=1)) / U
    steps[:, :1] += count == 0
    return steps


@mistake(
    "from the end",
    "You begin with the last pixel of the row. The first in the row goes wrong first.",
)
def gradient_from_the_end(labels):
    return lovasz_gradient(labels.flip(1)).flip(1)


GRADIENT = Exercise(
    lovasz_gradient,
    labels_in_order,
    mistakes=[
        gradient_is_the_loss,
        gradient_without_first,
        gradient_of_nobody,
        gradient_of_nobody_by_zero,
        gradient_of_the_union_before,
        gradient_of_the_union_after,
        gradient_of_the_union_after_without_nobody,
        gradient_is_the_iou,
        gradient_of_all_rows,
        gradient_of_one_kind,
        gradient_exchanged,
        gradient_of_the_whole_object,
        gradient_from_the_end,
    ],
)

# ---------------------------------------------------------------- your turn: lovasz_hinge


def logits_of_masks(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """All errors different; images; no object, all object, far beyond the margin; no masks."""
    yield torch.tensor([[0.5, 0.0, -0.6]]), torch.tensor([[1, 0, 0]])
    for shape, scale, share, dtype in (
        ((3, 8), 1.0, 0.5, torch.float32),
        ((2, 4, 5), 0.5, 0.3, torch.float64),
        ((4, 10), 3.0, 0.4, torch.float32),
        ((2, 6), 1.0, 0.0, torch.float32),
        ((2, 6), 1.0, 1.0, torch.float64),
        ((3,), 1.0, 0.5, torch.float32),
        ((0, 6), 1.0, 0.5, torch.float32),
    ):
        logits = scale * torch.randn(shape, generator=generator, dtype=dtype)
        yield logits, torch.rand(shape, generator=generator) < share


def hinged(
    logits, labels, error=None, order=None, sort_labels=True, sort_errors=True, total=torch.sum
):
    """`lovasz_hinge` with parts replaced."""
    y = zeros_and_ones("labels", labels, logits)
    F = logits[..., None].flatten(1).to(y.dtype)
    errors = (1 - F * (2 * y - 1)).relu() if error is None else error(F, y)
    falls = errors.argsort(dim=1, descending=True) if order is None else order(errors)
    weights = lovasz_gradient(y.gather(1, falls) if sort_labels else y)
    return total((errors.gather(1, falls) if sort_errors else errors) * weights, 1)


@mistake(
    "sorted the wrong way round",
    "The smallest error comes first in yours. Which pixel should go wrong first? (`sort` rises "
    "unless it is told to fall.)",
)
def hinge_rising(logits, labels):
    return hinged(logits, labels, order=lambda errors: errors.argsort(dim=1))


@mistake(
    "no relu",
    "A pixel that is right by more than the margin has a negative error in yours: its error is 0.",
)
def hinge_without_relu(logits, labels):
    return hinged(logits, labels, error=lambda F, y: 1 - F * (2 * y - 1))


@mistake(
    "labels of 0 and 1 in the hinge",
    "A ground pixel has an error of 1 in yours, whatever its logit is. The hinge multiplies F by "
    "+1 or −1: make these of 1 and 0.",
)
def hinge_of_zeros_and_ones(logits, labels):
    return hinged(logits, labels, error=lambda F, y: (1 - F * y).relu())


@mistake(
    "the hinge turned round",
    "Your error is large where the logit is right. Which sign has F (2y − 1) at a pixel that is "
    "right?",
)
def hinge_turned(logits, labels):
    return hinged(logits, labels, error=lambda F, y: (1 + F * (2 * y - 1)).relu())


@mistake(
    "no margin",
    "A pixel that is barely right has no error in yours. The hinge asks for a margin of 1.",
)
def hinge_without_margin(logits, labels):
    return hinged(logits, labels, error=lambda F, y: (-F * (2 * y - 1)).relu())


@mistake(
    "the labels stay behind",
    "The errors are sorted, the labels are not. lovasz_gradient wants the labels in the order in "
    "which the pixels go wrong.",
)
def hinge_labels_stay(logits, labels):
    return hinged(logits, labels, sort_labels=False)


@mistake(
    "the errors stay behind",
    "Your steps stand in the new order, largest error first. To which pixel does the first step "
    "belong, and which error do you multiply it by?",
)
def hinge_errors_stay(logits, labels):
    return hinged(logits, labels, sort_errors=False)


@mistake(
    "the mean over the pixels",
    "You take the mean over the pixels. The steps sum to 1 already: the loss is the sum.",
)
def hinge_mean(logits, labels):
    return hinged(logits, labels, total=torch.mean)


@mistake(
    "no gradient arrives",
    "The values are right, and no gradient reaches the logits: only the steps may be without one.",
)
def hinge_detached(logits, labels):
    return hinged(logits.detach(), labels)


HINGE = Exercise(
    lovasz_hinge,
    logits_of_masks,
    call=with_gradient,
    mistakes=[
        hinge_rising,
        hinge_without_relu,
        hinge_of_zeros_and_ones,
        hinge_turned,
        hinge_without_margin,
        hinge_labels_stay,
        hinge_errors_stay,
        hinge_mean,
        hinge_detached,
    ],
)

# ---------------------------------------------------------------- 1. lovasz_softmax


def softmax_inputs(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Few and many classes; some that do not occur; one that is alone; one pixel."""
    tiny = torch.tensor([[0.7, 0.4, 0.2], [0.3, 0.6, 0.8]])
    yield tiny, torch.tensor([0, 0, 1])
    for k, occurring, p, dtype in (
        (3, (0, 1, 2), 20, torch.float64),
        (5, (0, 3), 30, torch.float32),
        (4, (1, 2, 3), 50, torch.float32),
        (2, (1,), 12, torch.float64),
        (6, (0, 1, 2, 3, 4, 5), 200, torch.float32),
        (3, (2,), 1, torch.float32),
    ):
        logits = 2 * torch.randn(k, p, generator=generator, dtype=torch.float64)
        chosen = torch.randint(len(occurring), (p,), generator=generator)
        chosen[: len(occurring)] = torch.arange(len(occurring))[:p]
        yield logits.softmax(0).to(dtype), torch.tensor(occurring)[chosen]


def class_losses(probabilities, classes, labels, error=None, descending=True, sort_labels=True):
    """The loss of each class, with parts replaced."""
    own = (labels == classes[:, None]).to(probabilities)
    p = probabilities[classes]
    errors = (own - p).abs() if error is None else error(own, p)
    ordered, order = errors.sort(dim=1, descending=descending)
    labels_in_order = own.gather(1, order) if sort_labels else own
    return (ordered * lovasz_gradient(labels_in_order)).sum(1)


@mistake(
    "classes that do not occur",
    "You ask classes too that no pixel of the image has. For them a single pixel decides "
    "the whole loss: which classes have an IoU?",
)
def softmax_over_all_classes(probabilities, labels):
    return class_losses(probabilities, torch.arange(len(probabilities)), labels).mean()


@mistake(
    "divided by all classes",
    "The sum is right. You divide by K, also where only some of the K classes occur.",
)
def softmax_divided_by_all(probabilities, labels):
    return class_losses(probabilities, labels.unique(), labels).sum() / len(probabilities)


@mistake(
    "the sum over the classes",
    "You add up the classes. With more classes the loss would grow, however good the "
    "answer is: what is the measure that is named *mean* IoU?",
)
def softmax_sum(probabilities, labels):
    return class_losses(probabilities, labels.unique(), labels).sum()


@mistake(
    "large classes count more",
    "You weigh each class by its pixels. Then the sky counts a hundred times as much as a "
    "sheep: how do classes weigh in the mean IoU?",
)
def softmax_by_frequency(probabilities, labels):
    classes, counts = labels.unique(return_counts=True)
    return (class_losses(probabilities, classes, labels) * counts / len(labels)).sum()


@mistake(
    "one error for all classes",
    "You use the error of the true class in every class's loss. A pixel of the sky that is "
    "70 % lake and 20 % meadow: how wrong is it as *lake*, and how wrong as *meadow*?",
)
def softmax_one_error(probabilities, labels):
    true = probabilities.gather(0, labels[None])
    return class_losses(
        probabilities, labels.unique(), labels, lambda own, p: (1 - true).expand_as(p)
    ).mean()


@mistake(
    "1 − p in all pixels",
    "Your error is large where the probability of the class is low, also in pixels of "
    "other classes. Is a *low* probability a mistake there?",
)
def softmax_of_missing(probabilities, labels):
    return class_losses(probabilities, labels.unique(), labels, lambda own, p: 1 - p).mean()


@mistake(
    "a hinge of probabilities",
    "Twice too large: your errors are those of a hinge on 2p − 1, which is how one mask is "
    "trained. How far is a probability from its label?",
)
def softmax_hinge(probabilities, labels):
    return class_losses(
        probabilities, labels.unique(), labels, lambda own, p: 1 - (2 * p - 1) * (2 * own - 1)
    ).mean()


@mistake(
    "sorted the wrong way round",
    "Which pixel goes wrong first: the one with the largest error or the one with the smallest?",
)
def softmax_rising(probabilities, labels):
    return class_losses(probabilities, labels.unique(), labels, descending=False).mean()


@mistake(
    "the labels stay behind",
    "The errors are sorted, the labels are not. lovasz_gradient wants to know, place by "
    "place in the new order, which pixels are of the object.",
)
def softmax_labels_stay(probabilities, labels):
    return class_losses(probabilities, labels.unique(), labels, sort_labels=False).mean()


@mistake(
    "the errors stay behind",
    "Your weights stand in the new order, largest error first. To which pixel does the "
    "first weight belong, and which error do you multiply it by?",
)
def softmax_errors_stay(probabilities, labels):
    classes = labels.unique()
    own = (labels == classes[:, None]).to(probabilities)
    errors = (own - probabilities[classes]).abs()
    order = errors.argsort(dim=1, descending=True)
    return (errors * lovasz_gradient(own.gather(1, order))).sum(1).mean()


@mistake(
    "no gradient arrives",
    "The value is right, and no gradient reaches the probabilities. Only the weights may "
    "be without one.",
)
def softmax_detached(probabilities, labels):
    return class_losses(probabilities.detach(), labels.unique(), labels).mean()


SOFTMAX = Exercise(
    lovasz_softmax,
    softmax_inputs,
    points=4,
    minutes=25,
    tolerance=1e-5,
    call=with_gradient,
    mistakes=[
        softmax_over_all_classes,
        softmax_divided_by_all,
        softmax_sum,
        softmax_by_frequency,
        softmax_one_error,
        softmax_of_missing,
        softmax_hinge,
        softmax_rising,
        softmax_labels_stay,
        softmax_errors_stay,
        softmax_detached,
    ],
)

# ---------------------------------------------------------------- 2. loss_in_layers


def layer_inputs(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Random errors, ties, zeros; objects of all sizes, none, everything; no pixels."""
    yield torch.tensor([1.5, 0.5, 1.0]).double(), torch.tensor([True, False, False])
    for p, share, dtype in (
        (8, 0.5, torch.float64),
        (30, 0.2, torch.float32),
        (200, 0.05, torch.float64),
        (1, 1.0, torch.float64),
        (10, 0.0, torch.float64),
        (10, 1.0, torch.float32),
    ):
        labels = torch.rand(p, generator=generator) < share
        yield 2 * torch.rand(p, generator=generator, dtype=dtype), labels
    steps = torch.randint(4, (20,), generator=generator) / 2  # many ties, some of them at 0
    yield steps.double(), torch.rand(20, generator=generator) < 0.4
    yield torch.zeros(5, dtype=torch.float64), torch.tensor([True, False, True, False, False])
    yield torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.bool)


def layers(errors, labels, sets=None, heights=None, loss=jaccard_loss):
    """`loss_in_layers` with parts replaced."""
    tops = errors.unique()
    inside = (errors >= tops[:, None]) if sets is None else sets(errors, tops[:, None])
    high = tops.diff(prepend=tops.new_zeros(1)) if heights is None else heights(tops)
    return (high * loss(inside, labels.expand(len(tops), -1)).to(errors)).sum()


@mistake(
    "the pixel at the top is left out",
    "The topmost layer of yours is empty. Does a pixel with error θ reach the height θ?",
)
def layers_strict(errors, labels):
    return layers(errors, labels, sets=lambda e, t: e > t)


@mistake(
    "the pixels below",
    "You ask for the pixels whose errors are small. A layer at height θ is made of those "
    "that reach up to it.",
)
def layers_below(errors, labels):
    return layers(errors, labels, sets=lambda e, t: e <= t)


@mistake(
    "the ground floor is missing",
    "A layer is missing: where does the lowest one begin? Not at the smallest error.",
)
def layers_without_lowest(errors, labels):
    return layers(errors, labels, heights=lambda t: t.diff(prepend=t[:1]))


@mistake(
    "the pixels at the floor",
    "A layer lies between two neighbouring heights. You take the pixels that reach its "
    "floor: do all of these reach the middle of it?",
)
def layers_of_the_floor(errors, labels):
    def reach_the_floor(e, tops):
        return e >= torch.cat([tops.new_zeros(1, 1), tops])[: len(tops)]

    return layers(errors, labels, sets=reach_the_floor)


@mistake(
    "the pixels at the floor, without the ground floor",
    "Two things: the pixels that reach the floor of a layer do not all reach its middle, "
    "and the lowest layer does not begin at the smallest error.",
)
def layers_between_errors_of_the_floor(errors, labels):
    """A loop over neighbouring errors."""
    tops, total = errors.unique(), errors.new_zeros(())
    for low, high in zip(tops, tops[1:], strict=False):
        total = total + (high - low) * jaccard_loss((errors >= low)[None], labels[None])[0]
    return total


@mistake(
    "heights for differences of heights",
    "You multiply by how high up a layer is. How thick is it?",
)
def layers_of_full_height(errors, labels):
    return layers(errors, labels, heights=lambda t: t)


@mistake(
    "the mean of the layers",
    "You take the mean of the layers. They lie on one another: what is the whole area?",
)
def layers_mean(errors, labels):
    return layers(errors, labels) / max(len(errors.unique()), 1)


@mistake(
    "layers of equal height",
    "Your layers are all equally thick. Between which two heights does the set of pixels "
    "stay the same?",
)
def layers_of_equal_height(errors, labels):
    return layers(errors, labels, heights=lambda t: t[-1:].expand(len(t)) / max(len(t), 1))


@mistake(
    "counting pixels",
    "You multiply by the share of wrong pixels. That is the pixel error; which loss did we "
    "want to extend?",
)
def layers_of_pixels(errors, labels):
    def share(wrong, _):
        return wrong.double().mean(1) if wrong.shape[1] else wrong.double().sum(1)

    return layers(errors, labels, loss=share)


@mistake(
    "only missed pixels",
    "Painted ground does not count in your sets. M holds both kinds of wrong pixels.",
)
def layers_of_missed(errors, labels):
    return layers(errors, labels, loss=lambda wrong, y: jaccard_loss(wrong & y, y))


@mistake(
    "M taken for the prediction",
    "You compare the set with the object, as if it were a prediction. It is the set of "
    "pixels that are *wrong*: when it is empty, how large is the loss?",
)
def layers_of_overlap(errors, labels):
    def one_minus_iou_of_the_set(wrong, y):
        return 1 - (wrong & y).sum(1) / (wrong | y).sum(1).clamp(min=1)

    return layers(errors, labels, loss=one_minus_iou_of_the_set)


LAYERS = Exercise(
    loss_in_layers,
    layer_inputs,
    points=3,
    minutes=20,
    forbidden=("lessons.lovasz.lovasz_gradient",),
    tolerance=1e-5,
    mistakes=[
        layers_strict,
        layers_below,
        layers_without_lowest,
        layers_of_the_floor,
        layers_between_errors_of_the_floor,
        layers_of_full_height,
        layers_mean,
        layers_of_equal_height,
        layers_of_pixels,
        layers_of_missed,
        layers_of_overlap,
    ],
)

# ---------------------------------------------------------------- 3. void_hinge


def void_inputs(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Some void, none, all; void over the object, over the ground; one mask and none."""
    labels, void = torch.tensor([[True, False, False]]), torch.tensor([[False, False, True]])
    yield torch.tensor([[0.5, 0.2, 0.3]]), labels, void
    for n, p, share, dtype in (
        (3, 20, 0.3, torch.float64),
        (2, 40, 0.6, torch.float32),
        (1, 9, 0.4, torch.float64),
        (4, 15, 0.2, torch.float32),
        (2, 10, 0.0, torch.float32),
        (2, 10, 1.0, torch.float32),
        (0, 5, 0.5, torch.float32),
    ):
        logits = 2 * torch.randn(n, p, generator=generator, dtype=dtype)
        labels = torch.rand(n, p, generator=generator) < 0.4
        void = torch.rand(n, p, generator=generator) < share
        yield logits, labels, void
    logits = torch.randn(2, 12, generator=generator)
    labels = torch.rand(2, 12, generator=generator) < 0.5
    labels[:, :2] = torch.tensor([True, False])
    yield logits, labels, labels.clone()  # the whole object is void
    yield logits, labels, ~labels


@mistake(
    "the colleague's",
    "That is the colleague's loss. A logit of 0 is not *no answer*: which error does it "
    "have? And what do the labels of void pixels do?",
)
def void_of_a_colleague(logits, labels, void):
    return lovasz_hinge(logits * ~void, labels)


@mistake(
    "a logit of 0",
    "The labels are mended. But a void pixel has a logit of 0 now, which is undecided: how "
    "large is its error?",
)
def void_undecided(logits, labels, void):
    return lovasz_hinge(logits.masked_fill(void, 0), labels & ~void)


@mistake(
    "the logits stay",
    "You turn void into ground, and ask the network to leave it empty. It may answer there "
    "what it likes.",
)
def void_labels_only(logits, labels, void):
    return lovasz_hinge(logits, labels & ~void)


@mistake(
    "void pixels stay in the object",
    "The logits say *ground* where it is void, and some of the labels still say *object*: "
    "these are missed pixels now.",
)
def void_painted_out(logits, labels, void):
    return lovasz_hinge(logits.masked_fill(void, -2), labels)


@mistake(
    "void pixels stay in the union",
    "Your void pixels are right whatever happens, so they have no error. But those that "
    "are labelled as object still belong to Y, and with it to every I and every U.",
)
def void_as_if_right(logits, labels, void):
    right = torch.where(labels, 2.0, -2.0).to(logits)
    return lovasz_hinge(torch.where(void, right, logits), labels)


@mistake(
    "void is object that was found",
    "Your void pixels have no error, and you count them as object that was found. The "
    "object is larger now: what does that do to I and U?",
)
def void_found(logits, labels, void):
    return lovasz_hinge(logits.masked_fill(void, 9), labels | void)


@mistake(
    "a void pixel takes a place in the order",
    "You drop the void pixels at the end. But they stood in the order, and made the union "
    "larger for all that came after them.",
)
def void_takes_a_place(logits, labels, void):
    y = labels.to(logits)
    falling, order = (1 - logits * (2 * y - 1)).relu().sort(dim=1, descending=True)
    weights = lovasz_gradient((labels & ~void).to(logits).gather(1, order))
    return (falling * weights * ~void.gather(1, order)).sum(1)


@mistake(
    "left out of the sum only",
    "You leave the void pixels out of the sum. They still take their places in the order, "
    "and they still count in the object.",
)
def void_zeroed_at_the_end(logits, labels, void):
    y = labels.to(logits)
    falling, order = (1 - logits * (2 * y - 1)).relu().sort(dim=1, descending=True)
    return (falling * lovasz_gradient(y.gather(1, order)) * ~void.gather(1, order)).sum(1)


@mistake(
    "one big mask",
    "logits[~void] is one long row: which pixel belongs to which mask is lost, and an IoU "
    "belongs to a mask.",
)
def void_one_big_mask(logits, labels, void):
    one = lovasz_hinge(logits[~void][None], labels[~void][None])
    return one.expand(len(logits))


@mistake(
    "no gradient arrives",
    "The value is right, and no gradient reaches the logits.",
)
def void_detached(logits, labels, void):
    return void_hinge(logits, labels, void).detach()


VOID = Exercise(
    void_hinge,
    void_inputs,
    points=4,
    minutes=20,
    forbidden=("loops",),
    tolerance=1e-5,
    call=with_gradient,
    mistakes=[
        void_of_a_colleague,
        void_undecided,
        void_labels_only,
        void_painted_out,
        void_as_if_right,
        void_found,
        void_takes_a_place,
        void_zeroed_at_the_end,
        void_one_big_mask,
        void_detached,
    ],
)

# ---------------------------------------------------------------- 4. dice_gradient


def dice_inputs(generator: torch.Generator) -> Iterator[tuple[Tensor]]:
    """Rows of all kinds in any order; no object, everything, one pixel, no rows."""
    yield (torch.tensor([[1.0, 0.0, 1.0]]),)
    for n, p, share, dtype in (
        (4, 7, 0.5, torch.float64),
        (3, 30, 0.2, torch.float32),
        (2, 12, 0.8, torch.float64),
        (2, 6, 0.0, torch.float32),
        (2, 6, 1.0, torch.float64),
        (1, 1, 1.0, torch.float32),
        (0, 5, 0.5, torch.float64),
    ):
        yield ((torch.rand(n, p, generator=generator) < share).to(dtype),)


def dice_values(labels, before=False):
    """The Dice loss after each pixel."""
    right = labels.sum(1, keepdim=True) - labels.cumsum(1) + (labels if before else 0)
    wrong = torch.arange(1, labels.shape[1] + 1).to(labels)
    return wrong / (2 * right + wrong)


def steps_of(values):
    return values.diff(dim=1, prepend=values.new_zeros(len(values), 1))


@mistake(
    "Jaccard's steps",
    "These are the steps of the Jaccard loss. In Dice the intersection counts twice.",
)
def dice_of_jaccard(labels):
    return lovasz_gradient(labels)


@mistake(
    "the loss, not its steps",
    "These are the values of the loss after each pixel. By how much did it *rise*?",
)
def dice_not_differences(labels):
    return dice_values(labels)


@mistake(
    "the first step is missing",
    "Right except for the first pixel: from which value does the loss start?",
)
def dice_without_first(labels):
    values = dice_values(labels)
    return torch.cat([torch.zeros_like(values[:, :1]), values.diff(dim=1)], 1)


@mistake(
    "one pixel late",
    "Your intersection is the one before the pixel went wrong, your |M| the one after.",
)
def dice_one_late(labels):
    return steps_of(dice_values(labels, before=True))


@mistake(
    "smoothed",
    "You add 1 above and below, as the soft Dice loss does to avoid 0/0. A set function "
    "needs no smoothing; where there is no object, the loss is 1 from the first wrong "
    "pixel on.",
)
def dice_smoothed(labels):
    right = labels.sum(1, keepdim=True) - labels.cumsum(1)
    wrong = torch.arange(1, labels.shape[1] + 1).to(labels)
    return steps_of(1 - (2 * right + 1) / (2 * right + wrong + 1))


@mistake(
    "the object never shrinks",
    "Your denominator is |Y| + |M|. What is left of Y, when pixels of M are taken away?",
)
def dice_of_the_set(labels):
    count = labels.sum(1, keepdim=True)
    wrong = torch.arange(1, labels.shape[1] + 1).to(labels)
    return steps_of(wrong / (count + wrong))


@mistake(
    "a factor is forgotten",
    "Put in an empty set of wrong pixels: is your loss 0 there? Compare the two places of "
    "I in the formula.",
)
def dice_single_in_the_denominator(labels):
    right = labels.sum(1, keepdim=True) - labels.cumsum(1)
    wrong = torch.arange(1, labels.shape[1] + 1).to(labels)
    return steps_of(1 - 2 * right / (right + wrong))


@mistake(
    "step by step",
    "D = J / (2 − J) holds for the values of the two losses. Does it hold for their differences?",
)
def dice_of_each_step(labels):
    g = lovasz_gradient(labels)
    return g / (2 - g)


@mistake(
    "from the end",
    "You begin with the last pixel of the row. The first in the row goes wrong first.",
)
def dice_from_the_end(labels):
    return steps_of(dice_values(labels.flip(1))).flip(1)


DICE = Exercise(
    dice_gradient,
    dice_inputs,
    points=4,
    minutes=25,
    stretch=True,
    tolerance=1e-5,
    mistakes=[
        dice_of_jaccard,
        dice_not_differences,
        dice_without_first,
        dice_one_late,
        dice_smoothed,
        dice_of_the_set,
        dice_single_in_the_denominator,
        dice_of_each_step,
        dice_from_the_end,
    ],
)

homework = Homework(
    "Homework 07: the Lovász hinge",
    [SOFTMAX, LAYERS, VOID, DICE],
    turns=[JACCARD, GRADIENT, HINGE],
)
check, score_board, your_turns = homework.check, homework.score_board, homework.your_turns
