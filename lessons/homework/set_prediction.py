"""Homework 12: the exercises on set prediction, and the mistakes that are known by name."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lessons.homework.answers.set_prediction import (
    iou_from_dice,
    match_with_no_object,
    turned_by_logarithm,
)
from lessons.hungarian import hungarian
from lessons.kit.homework import Exercise, Homework, mistake

# ---------------------------------------------------------------- 1. iou_from_dice


def dice_losses(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Losses of random soft masks, small and large, and of two empty ones."""
    yield torch.tensor([0.0, 0.0, 0.75]).double(), torch.tensor([0.0, 8.0, 3.0]).double()
    for count, pixels in ((9, 4), (12, 50), (7, 4000)):
        masks = torch.rand(count, pixels, generator=generator, dtype=torch.float64)
        share = torch.rand(count, 1, generator=generator)
        true = (torch.rand(count, pixels, generator=generator) < share).double()
        area = masks.sum(1) + true.sum(1)
        yield 1 - (2 * (masks * true).sum(1) + 1) / (area + 1), area
    masks = torch.tensor([[0.1, 0.4], [0.3, 0.05], [0.02, 0.01]]).double()
    area = masks.sum(1)  # soft masks of less than a pixel are not empty
    yield 1 - (2 * (masks * 0.2).sum(1) + 1) / (area + 1), area
    yield torch.zeros(0).double(), torch.zeros(0).double()


@mistake(
    "the ones are forgotten",
    "Nearly: this is right for large masks. Which two numbers stand in the loss beside the areas?",
)
def without_ones(loss, area):
    dice = 1 - loss
    return torch.where(area > 0, dice / (2 - dice), 1.0)


@mistake(
    "dice, not the IoU",
    "One minus the loss is dice. Solve it for the common area first.",
)
def of_the_dice(loss, area):
    return torch.where(area > 0, 1 - loss, 1.0)


def common_area(loss, area):
    return ((1 - loss) * (area + 1) - 1) / 2


@mistake(
    "divided by both areas",
    "You divide by A. In the sum of both areas the common pixels are counted twice.",
)
def over_both_areas(loss, area):
    return torch.where(area > 0, common_area(loss, area) / area.clamp(min=1e-12), 1.0)


@mistake(
    "the loss for dice",
    "You put the loss where one minus the loss belongs.",
)
def from_the_loss(loss, area):
    both = (loss * (area + 1) - 1) / 2
    return torch.where(area > 0, both / (area - both).clamp(min=1e-12), 1.0)


@mistake(
    "the two is forgotten",
    "The loss holds twice the common area. Your common area is twice too large.",
)
def not_halved(loss, area):
    both = (1 - loss) * (area + 1) - 1
    return torch.where(area > 0, both / (area - both), 1.0)


def over_union(both, area):
    return torch.where(area > 0, both / (area - both).clamp(min=1e-12), 1.0)


@mistake(
    "the one above is forgotten",
    "Nearly: the numerator of dice is more than twice the common area.",
)
def upper_one_forgotten(loss, area):
    return over_union((1 - loss) * (area + 1) / 2, area)


@mistake(
    "the one below is forgotten",
    "Nearly: the denominator of dice is more than the sum of both areas.",
)
def lower_one_forgotten(loss, area):
    return over_union(((1 - loss) * area - 1) / 2, area)


@mistake(
    "ones in the IoU",
    "Your common area is right. But the ones stand in the dice loss only, not in the IoU.",
)
def ones_in_the_iou(loss, area):
    both = common_area(loss, area)
    return (both + 1) / (area - both + 1)


@mistake(
    "two empty masks differ",
    "Right, except for two empty masks. Read again what is to be returned there.",
)
def empty_is_0(loss, area):
    both = common_area(loss, area)
    return torch.where(area > 0, both / (area - both).clamp(min=1e-12), 0.0)


@mistake(
    "two empty masks give NaN",
    "Right, except for two empty masks, where you divide zero by zero.",
)
def empty_is_nan(loss, area):
    both = common_area(loss, area)
    return both / (area - both)


DICE = Exercise(
    iou_from_dice,
    dice_losses,
    points=3,
    minutes=15,
    mistakes=[
        without_ones,
        upper_one_forgotten,
        lower_one_forgotten,
        ones_in_the_iou,
        of_the_dice,
        over_both_areas,
        from_the_loss,
        not_halved,
        empty_is_0,
        empty_is_nan,
    ],
)

# ---------------------------------------------------------------- 2. turned_by_logarithm


def set_answers(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Class logits, labels and mask costs: queries that are unsure, sure, and far too sure."""
    p = torch.tensor([[0.9, 0.05, 0.05], [0.5, 0.001, 0.499]])
    yield p.log(), torch.tensor([0, 1]), torch.full((2, 2), 0.1)
    certain = torch.tensor([[300.0, -300, 0], [-300, 300, 0], [-300, -300, 300.0]])
    yield certain, torch.tensor([1, 0]), torch.tensor([[0.1, 0.6], [0.7, 0.1], [0.2, 0.3]])
    for q, n, k, scale in (
        (9, 6, 4, 2),
        (12, 9, 3, 5),
        (10, 10, 5, 3),
        (8, 5, 4, 90),
        (14, 8, 2, 3),
    ):
        class_logits = scale * torch.randn(q, k + 1, generator=generator)
        class_logits[:, -1] += scale  # most have nothing to say
        labels = torch.randint(k, (n,), generator=generator)
        yield class_logits, labels, 3 * torch.rand(q, n, generator=generator)
    yield torch.zeros(3, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(3, 0)


def owners_of(cost):
    queries, segments = hungarian(cost)
    return queries[segments.argsort()]


def turned(class_logits, labels, mask_cost, first, second, owners=owners_of):
    """How many owners differ for two class terms, functions of the class logits."""
    a, b = (owners(mask_cost + term(class_logits)[:, labels]) for term in (first, second))
    return int((a != b).sum())


def minus_p(x):
    return -x.softmax(1)


def minus_log_p(x):
    return -x.log_softmax(1)


@mistake(
    "each segment alone",
    "You give each segment its cheapest query. Two segments may want the same one: match.",
)
def nearest_owner(class_logits, labels, mask_cost):
    def cheapest(cost):
        return cost.argmin(0)

    return turned(class_logits, labels, mask_cost, minus_p, minus_log_p, cheapest)


@mistake(
    "the sign of the logarithm",
    "With your cost a probable class is dear. What sign has the logarithm of a probability?",
)
def plus_logarithm(class_logits, labels, mask_cost):
    return turned(class_logits, labels, mask_cost, minus_p, lambda x: x.log_softmax(1))


@mistake(
    "the logarithm has a floor",
    "Right while probabilities are not tiny. A floor under p hides how sure the network "
    "is: take the logarithm before anything can become zero.",
)
def clamped_logarithm(class_logits, labels, mask_cost):
    def clamped(x):
        return -x.softmax(1).clamp(min=1e-8).log()

    return turned(class_logits, labels, mask_cost, minus_p, clamped)


@mistake(
    "∅ takes no part in the softmax",
    "You drop ∅ before the softmax. A query that has nothing to say is then as sure of a "
    "class as any other.",
)
def without_empty(class_logits, labels, mask_cost):
    return turned(class_logits[:, :-1], labels, mask_cost, minus_p, minus_log_p)


@mistake(
    "compared in the order of the queries",
    "You compare the pairs by their place in the list. The matching is sorted by query: "
    "which entry belongs to segment j?",
)
def by_position(class_logits, labels, mask_cost):
    pairs = [
        hungarian(mask_cost + term(class_logits)[:, labels]) for term in (minus_p, minus_log_p)
    ]
    return int((pairs[0][1] != pairs[1][1]).sum())


@mistake(
    "the sorted queries are compared",
    "You compare the two lists of queries. They are sorted by query, not by segment: "
    "which entry belongs to segment j?",
)
def queries_in_their_order(class_logits, labels, mask_cost):
    first, second = (
        hungarian(mask_cost + term(class_logits)[:, labels])[0] for term in (minus_p, minus_log_p)
    )
    return int((first != second).sum())


@mistake(
    "pairs are counted twice",
    "Twice too many: each segment that moves loses a pair and gains one.",
)
def pairs_of_both(class_logits, labels, mask_cost):
    return 2 * turned(class_logits, labels, mask_cost, minus_p, minus_log_p)


@mistake(
    "queries are counted",
    "You count queries that change their segment. A segment that moves changes two of them.",
)
def queries_that_change(class_logits, labels, mask_cost):
    said = []
    for term in (minus_p, minus_log_p):
        queries, segments = hungarian(mask_cost + term(class_logits)[:, labels])
        own = torch.full((len(class_logits),), -1)
        own[queries] = segments
        said.append(own)
    return int((said[0] != said[1]).sum())


@mistake(
    "whether, not how many",
    "You say whether any segment moves. How many do?",
)
def any_turned(class_logits, labels, mask_cost):
    return int(turned(class_logits, labels, mask_cost, minus_p, minus_log_p) > 0)


TURNED = Exercise(
    turned_by_logarithm,
    set_answers,
    points=4,
    minutes=20,
    mistakes=[
        nearest_owner,
        plus_logarithm,
        clamped_logarithm,
        without_empty,
        by_position,
        queries_in_their_order,
        pairs_of_both,
        queries_that_change,
        any_turned,
    ],
)

# ---------------------------------------------------------------- 3. match_with_no_object


def priced_answers(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """As `set_answers`, with mask costs so close that the price of ∅ decides; also n > q."""
    p = torch.tensor([[0.4, 0.5, 0.1], [0.02, 0.58, 0.4]])
    yield p.log(), torch.tensor([1]), torch.tensor([[0.2], [0.2]])
    for q, n, k in ((9, 5, 3), (12, 7, 4), (15, 6, 2), (4, 7, 3), (6, 6, 3), (20, 3, 4)):
        class_logits = 2 * torch.randn(q, k + 1, generator=generator)
        labels = torch.randint(k, (n,), generator=generator)
        yield class_logits, labels, 0.6 * torch.rand(q, n, generator=generator)
    yield torch.zeros(3, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(3, 0)


def padded(class_logits, labels, mask_cost, price, columns=None, kept=True, p=None):
    """The matching with columns of ∅ at a price for each query."""
    p = class_logits.softmax(1) if p is None else p
    q, n = mask_cost.shape
    count = max(q - n, 0) if columns is None else columns
    empty = price(p)[:, None].expand(-1, count)
    queries, segments = hungarian(torch.cat([mask_cost - p[:, labels], empty], dim=1))
    own = segments < n
    return (queries[own], segments[own]) if kept else (queries, segments)


@mistake(
    "∅ is free",
    "This is the lesson's matching: nobody pays for ∅. Here it has a price.",
)
def empty_is_free(*arguments):
    return padded(*arguments, lambda p: 0 * p[:, -1])


@mistake(
    "the sign of the price",
    "With your price a query that is sure of ∅ avoids it. Who takes a segment gives up "
    "its ∅: does that make the segment cheaper or dearer?",
)
def empty_is_dear(*arguments):
    return padded(*arguments, lambda p: p[:, -1])


@mistake(
    "only one ∅",
    "You have one column of ∅. Several queries may have nothing to say.",
)
def one_empty(class_logits, labels, mask_cost):
    return padded(class_logits, labels, mask_cost, lambda p: -p[:, -1], columns=1)


@mistake(
    "∅ is the first class",
    "You take the first class for ∅. Where is it in the logits?",
)
def first_class_is_empty(*arguments):
    return padded(*arguments, lambda p: -p[:, 0])


@mistake(
    "pairs with ∅ are returned",
    "The matching is right; but return only the pairs of a query and a segment.",
)
def empty_pairs_kept(*arguments):
    return padded(*arguments, lambda p: -p[:, -1], kept=False)


@mistake(
    "∅ takes no part in the softmax",
    "Your probabilities of the classes add up to one without ∅. One softmax for all.",
)
def sure_of_a_class(class_logits, labels, mask_cost):
    p = torch.cat([class_logits[:, :-1].softmax(1), class_logits.softmax(1)[:, -1:]], dim=1)
    return padded(class_logits, labels, mask_cost, lambda p: -p[:, -1], p=p)


@mistake(
    "as many ∅ as queries",
    "With your padding a segment may be left over though there is a query for it. How "
    "many ∅ are needed?",
)
def always_empty(class_logits, labels, mask_cost):
    return padded(class_logits, labels, mask_cost, lambda p: -p[:, -1], columns=len(class_logits))


@mistake(
    "as many ∅ as segments",
    "You pad with a ∅ for each segment. But how many queries are left when every segment has one?",
)
def empty_for_each_segment(class_logits, labels, mask_cost):
    return padded(class_logits, labels, mask_cost, lambda p: -p[:, -1], columns=len(labels))


@mistake(
    "a logarithm",
    "Your ∅ costs −log p. In a matching cost all classes count by p.",
)
def negative_log_price(*arguments):
    return padded(*arguments, lambda p: -p[:, -1].log())


@mistake(
    "sorted by segment",
    "The pairs are right. Return them sorted by query.",
)
def sorted_by_segment(*arguments):
    queries, segments = match_with_no_object(*arguments)
    order = segments.argsort()
    return queries[order], segments[order]


@mistake(
    "queries that say ∅ are left out",
    "You leave out the queries whose most probable answer is ∅. They may still be the "
    "cheapest: ∅ is a price here, not a veto.",
)
def speakers_only(class_logits, labels, mask_cost):
    p = class_logits.softmax(1)
    speaking = (p.argmax(1) < p.shape[1] - 1).nonzero().flatten()
    queries, segments = hungarian((mask_cost - p[:, labels])[speaking])
    return speaking[queries], segments


PRICED = Exercise(
    match_with_no_object,
    priced_answers,
    points=4,
    minutes=20,
    mistakes=[
        empty_is_free,
        empty_is_dear,
        one_empty,
        always_empty,
        empty_for_each_segment,
        speakers_only,
        sorted_by_segment,
        first_class_is_empty,
        empty_pairs_kept,
        sure_of_a_class,
        negative_log_price,
    ],
)

homework = Homework("Homework 12: Set prediction", [DICE, TURNED, PRICED])
check, score_board = homework.check, homework.score_board
