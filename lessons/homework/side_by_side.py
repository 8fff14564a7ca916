"""Homework 17: the exercises on comparing systems, and the mistakes that are known by name."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lessons.homework.answers.side_by_side import (
    bootstrap_difference,
    rank_agreement,
    reasons,
    undominated,
)
from lessons.kit.homework import Exercise, Homework, mistake

NAN = float("nan")

# ---------------------------------------------------------------- 1. rank_agreement


def pairs_of_scores(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Scores with ties and with absent ones; the reverse; all tied; nothing in common."""
    yield torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.2, 0.1, 0.9])
    for n in (7, 12, 9):
        first = torch.rand(n, generator=generator)
        second = first + 0.4 * torch.rand(n, generator=generator)
        first[: n // 3] = first[0]
        second[n // 4 : n // 2] = second[n // 4]
        first[-1], second[-2] = NAN, NAN
        yield first, second
    ordered = torch.linspace(0.2, 0.9, 6)
    yield ordered, ordered.flip(0) ** 2
    yield ordered, torch.full((6,), 0.5)
    yield torch.tensor([0.3, NAN]), torch.tensor([NAN, 0.8])


def kendall(first, second, tied=True):
    """Kendall's τ_b, or with `tied` False divided by all pairs."""
    signs = [(s.double()[:, None] - s.double()).sign() for s in (first, second)]
    n = len(first)
    untied = [s.abs().sum() if tied else torch.tensor(n * (n - 1.0)) for s in signs]
    return ((signs[0] * signs[1]).sum() / (untied[0] * untied[1]).sqrt()).item()


def with_both(first, second):
    both = ~(first.isnan() | second.isnan())
    return first[both], second[both]


@mistake(
    "ties stay in the denominator",
    "You divide by the number of all pairs. A metric that has many ties could then never "
    "reach 1: which pairs does the formula take away, and for which metric?",
)
def ties_in_the_denominator(first, second):
    return kendall(*with_both(first, second), tied=False)


@mistake(
    "an absent score is a zero",
    "A system without a number takes part in your pairs, as if it were the worst.",
)
def absent_is_zero(first, second):
    return kendall(first.nan_to_num(0.0), second.nan_to_num(0.0))


@mistake(
    "an absent score in the other's denominator",
    "A system that lacks one of its numbers is no pair above, but it still counts below, with the "
    "number that it has. Who takes part at all?",
)
def absent_below(first, second):
    signs = [(s.double()[:, None] - s.double()).sign().nan_to_num() for s in (first, second)]
    untied = [s.abs().sum() for s in signs]
    return ((signs[0] * signs[1]).sum() / (untied[0] * untied[1]).sqrt()).item()


@mistake(
    "ties agree",
    "A pair that both metrics tie counts as agreement, one that a single metric ties as "
    "disagreement. A tied pair is neither.",
)
def ties_agree(first, second):
    a, b = with_both(first, second)
    i, j = torch.triu_indices(len(a), len(a), 1)
    if not len(i):
        return NAN
    alike = ((a[i] - a[j]).sign() == (b[i] - b[j]).sign()).double().mean().item()
    return 2 * alike - 1


@mistake(
    "the share of agreement",
    "You return the share of the pairs that agree, which is never negative. What should "
    "the reverse order give?",
)
def share_of_agreement(first, second):
    a, b = with_both(first, second)
    product = (a[:, None] - a).sign() * (b[:, None] - b).sign()
    judged = (product != 0).sum()
    return ((product > 0).sum() / judged).item() if judged else NAN


@mistake(
    "divided by the judged pairs",
    "You divide by agreement plus disagreement, so a pair that only one metric ties is "
    "forgotten. In the formula each metric takes away its own ties, no others.",
)
def untied_only(first, second):
    a, b = with_both(first, second)
    product = (a[:, None] - a).sign() * (b[:, None] - b).sign()
    judged = (product != 0).sum()
    return (product.sum() / judged).item() if judged else NAN


@mistake(
    "absent systems in the number of pairs",
    "Your number of pairs P counts systems that lack a number. Leave them out first, of "
    "both scores, then count.",
)
def absent_in_the_pairs(first, second):
    a, b = with_both(first, second)
    product = (a[:, None] - a).sign() * (b[:, None] - b).sign()
    n = len(first)
    untied = [n * (n - 1) - int((s[:, None] == s).sum()) + len(s) for s in (a, b)]
    return product.sum().item() / (untied[0] * untied[1]) ** 0.5


@mistake(
    "the correlation of places",
    "You correlate the places in the two orders (Spearman's ρ). Asked for are pairs: "
    "which of two systems does each metric prefer?",
)
def places_correlate(first, second):
    places = [s.argsort().argsort().double() for s in with_both(first, second)]
    return torch.corrcoef(torch.stack(places))[0, 1].item() if len(places[0]) > 1 else NAN


@mistake(
    "neighbours only",
    "You compare each system with the next one in the list only. Their place in the list "
    "means nothing.",
)
def neighbours_only(first, second):
    a, b = with_both(first, second)
    x, y = a.double().diff().sign(), b.double().diff().sign()
    return ((x * y).sum() / (x.abs().sum() * y.abs().sum()).sqrt()).item()


@mistake(
    "the values instead of the order",
    "This is the linear correlation: it depends on how far apart the scores are. Only "
    "the order counts here.",
)
def linear_correlation(first, second):
    a, b = (s.double() for s in with_both(first, second))
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return NAN
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


AGREEMENT = Exercise(
    rank_agreement,
    pairs_of_scores,
    points=3,
    minutes=15,
    tolerance=1e-6,
    mistakes=[
        ties_in_the_denominator,
        absent_is_zero,
        absent_below,
        ties_agree,
        untied_only,
        absent_in_the_pairs,
        places_correlate,
        share_of_agreement,
        neighbours_only,
        linear_correlation,
    ],
)

# ---------------------------------------------------------------- 2. reasons


def answers_and_things(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Tables of IoU with every reason, an exact half and tenth too; no answers; no things."""
    iou = torch.tensor([[0.7, 0.0, 0.3], [0.0, 0.6, 0.04]]).double()
    yield iou, torch.tensor([0, 1]), torch.tensor([0, 0, 1])
    for n, m in ((6, 9), (11, 7), (4, 12)):
        iou = torch.rand(n, m, generator=generator).double()
        iou[torch.rand(n, m, generator=generator) < 0.55] = 0.04
        iou[0, 0], iou[1:, 0] = 0.5, 0.0  # exactly one half
        iou[1, 1], iou[0, 1], iou[2:, 1] = 0.6, 0.9, 0.0
        iou[2, 2], iou[3, 2], iou[:2, 2], iou[4:, 2] = 0.8, 0.3, 0.0, 0.0
        iou[3, 3], iou[:3, 3], iou[4:, 3] = 0.3, 0.0, 0.0
        iou[0, 4], iou[1:, 4] = 0.1, 0.0  # exactly a tenth
        iou[0, 5], iou[1, 5], iou[2:, 5] = 0.9, 0.6, 0.0
        predicted = torch.randint(3, (n,), generator=generator)
        true = torch.randint(3, (m,), generator=generator)
        predicted[:4] = torch.tensor([0, 1, 2, 0])
        true[:6] = torch.tensor([0, 1, 0, 1, 0, 0])
        yield iou, predicted, true
    yield torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 1, 1])
    yield torch.zeros(2, 0), torch.tensor([0, 1]), torch.zeros(0, dtype=torch.int64)
    close = torch.tensor([[0.07, 0.5]]).double()  # nearly a tenth; a half, of another class
    yield close, torch.tensor([0]), torch.tensor([0, 1])


def first_that_holds(found, wrong, outlined):
    """0, 1, 2 or 3, the first of three tables (n, m) that has a hit in the column."""
    result = torch.full((found.shape[1],), 3)
    for value, table in ((2, outlined), (1, wrong), (0, found)):
        result[table.any(0)] = value
    return result


def same_class(predicted, true):
    return predicted[:, None] == true


@mistake(
    "only the best answer is asked",
    "You look at the answer with the highest IoU only. A better outline of the wrong class "
    "does not undo a right answer.",
)
def best_answer_only(iou, predicted_labels, true_labels):
    if not len(iou) or not len(true_labels):
        return torch.full(true_labels.shape, 3)
    best = torch.zeros_like(iou, dtype=torch.bool)
    best[iou.argmax(0), torch.arange(iou.shape[1])] = True
    same = same_class(predicted_labels, true_labels)
    return first_that_holds(
        best & same & (iou > 0.5), best & ~same & (iou > 0.5), best & same & (iou >= 0.1)
    )


@mistake(
    "one half is enough",
    "An IoU of exactly one half counts as found. More than one half is needed.",
)
def half_is_enough(iou, predicted_labels, true_labels):
    same = same_class(predicted_labels, true_labels)
    return first_that_holds(same & (iou >= 0.5), ~same & (iou >= 0.5), same & (iou >= 0.1))


@mistake(
    "the class does not matter",
    "You call a thing found whatever the class of the answer is.",
)
def class_does_not_matter(iou, predicted_labels, true_labels):
    same = same_class(predicted_labels, true_labels)
    return first_that_holds(iou > 0.5, ~same & (iou > 0.5), same & (iou >= 0.1))


@mistake(
    "a bad outline before the wrong class",
    "A thing with a good answer of another class and a poor one of its own: which reason "
    "comes first in the list?",
)
def outline_before_class(iou, predicted_labels, true_labels):
    same = same_class(predicted_labels, true_labels)
    result = first_that_holds(same & (iou > 0.5), ~same & (iou > 0.5), same & (iou >= 0.1))
    badly = (same & (iou >= 0.1)).any(0) & ~(same & (iou > 0.5)).any(0)
    return torch.where(badly, 2, result)


@mistake(
    "the wrong class before found",
    "A thing with a good answer of its own class and another one of a wrong class: the "
    "first reason that holds is the one to return.",
)
def wrong_before_found(iou, predicted_labels, true_labels):
    same = same_class(predicted_labels, true_labels)
    wrong = ~same & (iou > 0.5)
    found = same & (iou > 0.5) & ~wrong.any(0)
    return first_that_holds(found, wrong, same & (iou >= 0.1))


@mistake(
    "a tenth is too little",
    "An IoU of exactly 0.1 counts as missed. At least 0.1 is asked for.",
)
def more_than_a_tenth(iou, predicted_labels, true_labels):
    same = same_class(predicted_labels, true_labels)
    return first_that_holds(same & (iou > 0.5), ~same & (iou > 0.5), same & (iou > 0.1))


@mistake(
    "one half falls between",
    "An answer of its class with an IoU of exactly one half gets no reason: it is too "
    "little to be found. What is it then?",
)
def half_is_nothing(iou, predicted_labels, true_labels):
    same = same_class(predicted_labels, true_labels)
    poor = same & (iou >= 0.1) & (iou < 0.5)
    return first_that_holds(same & (iou > 0.5), ~same & (iou > 0.5), poor)


@mistake(
    "the outline of any class",
    "An answer of another class with a small IoU counts as a bad outline. Whose class "
    "must it have?",
)
def outline_of_any_class(iou, predicted_labels, true_labels):
    same = same_class(predicted_labels, true_labels)
    return first_that_holds(same & (iou > 0.5), ~same & (iou > 0.5), iou >= 0.1)


@mistake(
    "a touch is an outline",
    "An answer that only touches the thing counts as its outline. How much is asked for?",
)
def touching_is_an_outline(iou, predicted_labels, true_labels):
    same = same_class(predicted_labels, true_labels)
    return first_that_holds(same & (iou > 0.5), ~same & (iou > 0.5), same & (iou > 0))


REASONS = Exercise(
    reasons,
    answers_and_things,
    points=4,
    minutes=20,
    mistakes=[
        best_answer_only,
        half_is_enough,
        class_does_not_matter,
        outline_before_class,
        wrong_before_found,
        more_than_a_tenth,
        half_is_nothing,
        outline_of_any_class,
        touching_is_an_outline,
    ],
)

# ---------------------------------------------------------------- 3. undominated


def systems_with_costs(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Random systems with rounded numbers, twins, ties in one number, and absent ones."""
    yield torch.tensor([0.5, 0.7, 0.4]), torch.tensor([1.0, 2.0, 3.0])
    for n in (6, 10, 15):
        quality = (torch.rand(n, generator=generator) * 8).round() / 8
        cost = (torch.rand(n, generator=generator) * 8).round() + 1
        yield quality, cost
    quality = torch.tensor([0.5, 0.5, 0.7, 0.7, 0.9, 0.9, 0.2])
    yield quality, torch.tensor([1.0, 1.0, 2.0, 3.0, 6.0, 6.0, 1.0])
    yield quality, torch.tensor([1.0, 2.0, NAN, 3.0, 6.0, 8.0, NAN])
    yield torch.tensor([0.8, NAN, 0.6, 0.4]), torch.tensor([4.0, 1.0, 3.0, 3.5])
    yield torch.tensor([0.3]), torch.tensor([2.0])


def front_of(quality, cost, dominates, present=True):
    """The systems that are there and that no system dominates; row against column."""
    q, c = quality[:, None], cost[:, None]
    beaten = (dominates(q, c) & ~torch.eye(len(quality), dtype=torch.bool)).any(0)
    there = ~quality.isnan() & ~cost.isnan()
    return ~beaten & there if present else ~beaten


@mistake(
    "strictly better in both",
    "You ask for strictly better quality and strictly lower cost. A system of the same "
    "quality that is cheaper dominates as well.",
)
def strictly_in_both(quality, cost):
    return front_of(quality, cost, lambda q, c: (q > quality) & (c < cost))


@mistake(
    "twins beat each other",
    "Two systems with the same two numbers throw each other out. What must be strictly better?",
)
def twins_beat_each_other(quality, cost):
    return front_of(quality, cost, lambda q, c: (q >= quality) & (c <= cost))


@mistake(
    "a system beats itself",
    "Every system is as good and as cheap as itself, so yours throws itself out. One of "
    "the two must be strictly better.",
)
def beats_itself(quality, cost):
    q, c = quality[:, None], cost[:, None]
    return ~((q >= quality) & (c <= cost)).any(0)


@mistake(
    "the systems that dominate nobody",
    "You return the systems that dominate nobody. Which of your two axes is j, and which is i?",
)
def dominates_nobody(quality, cost):
    q, c = quality[:, None], cost[:, None]
    beats = (q >= quality) & (c <= cost) & ((q > quality) | (c < cost))
    return ~beats.any(1) & ~quality.isnan() & ~cost.isnan()


@mistake(
    "better in one is enough",
    "You throw out a system as soon as another one is better in one number. To dominate, "
    "it must not be worse in the other.",
)
def one_is_enough(quality, cost):
    return front_of(quality, cost, lambda q, c: (q > quality) | (c < cost))


@mistake(
    "the quality must be strictly better",
    "A system of the same quality and a lower cost dominates too.",
)
def better_quality_only(quality, cost):
    return front_of(quality, cost, lambda q, c: (q > quality) & (c <= cost))


@mistake(
    "the cost must be strictly lower",
    "A system of the same cost and a higher quality dominates too.",
)
def lower_cost_only(quality, cost):
    return front_of(quality, cost, lambda q, c: (q >= quality) & (c < cost))


@mistake(
    "dear is good",
    "You prefer the higher cost. Which of the two is to be low?",
)
def dear_is_good(quality, cost):
    return front_of(
        quality,
        cost,
        lambda q, c: (q >= quality) & (c >= cost) & ((q > quality) | (c > cost)),
    )


@mistake(
    "only the two winners",
    "You keep the best and the cheapest. What about a system in between, better than all "
    "that are cheaper?",
)
def only_the_winners(quality, cost):
    there = ~quality.isnan() & ~cost.isnan()
    best = quality == quality[there].max()
    return there & (best | (cost == cost[there].min()))


@mistake(
    "absent systems are kept",
    "A comparison with NaN is always false, so nobody dominates a system without a number. "
    "It is not to be chosen.",
)
def absent_stay(quality, cost):
    return front_of(
        quality,
        cost,
        lambda q, c: (q >= quality) & (c <= cost) & ((q > quality) | (c < cost)),
        present=False,
    )


@mistake(
    "quality divided by cost",
    "A ratio chooses one exchange rate between quality and cost. Domination needs none.",
)
def best_ratio(quality, cost):
    ratio = quality / cost
    return ratio == ratio[~ratio.isnan()].max()


FRONT = Exercise(
    undominated,
    systems_with_costs,
    points=4,
    minutes=20,
    mistakes=[
        strictly_in_both,
        twins_beat_each_other,
        beats_itself,
        dominates_nobody,
        one_is_enough,
        better_quality_only,
        lower_cost_only,
        dear_is_good,
        only_the_winners,
        absent_stay,
        best_ratio,
    ],
)

# ---------------------------------------------------------------- 4. bootstrap_difference


def counts_and_draws(generator: torch.Generator) -> Iterator[tuple]:
    """Numerators and denominators of images of different size, alike for both systems."""
    first, second = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 2.0], [1.0, 4.0]])
    yield first, second, torch.tensor([[0, 0], [0, 1], [1, 1]]), 0.5
    for n, draws, level in ((12, 300, 0.95), (20, 200, 0.9), (7, 400, 0.5)):
        things = torch.randint(2, 20, (n,), generator=generator).double()
        hard = torch.rand(n, generator=generator).double()
        pair = []
        for better in (0.06, 0.0):
            noise = 0.08 * torch.rand(n, generator=generator).double()
            share = (0.3 + 0.5 * hard + better + noise).clamp(max=1)
            pair.append(torch.stack([things * share, things + 1], dim=1))
        yield *pair, torch.randint(n, (draws, n), generator=generator), level
    yield *pair, torch.randint(n, (draws, n), generator=generator)  # at the usual level


def pooled(counts):
    total = counts.double().sum(-2)
    return total[..., 0] / total[..., 1]


def ends_of(differences, low, high):
    ends = torch.tensor([low, high], dtype=torch.float64)
    return differences.quantile(ends).tolist()


@mistake(
    "each system draws its own images",
    "Your two systems are measured on different draws, so easy and hard images count as a "
    "difference between them.",
)
def each_draws_its_own(first, second, drawn, level=0.95):
    differences = pooled(first[drawn]) - pooled(second[drawn.roll(1, 0)])
    ends = ends_of(differences, (1 - level) / 2, (1 + level) / 2)
    return (pooled(first) - pooled(second)).item(), *ends


@mistake(
    "a mean of ratios",
    "You divide image by image and then take the mean. In the score the sums are divided: "
    "an image with many things weighs more.",
)
def mean_of_ratios(first, second, drawn, level=0.95):
    ratio = first[:, 0] / first[:, 1] - second[:, 0] / second[:, 1]
    ends = ends_of(ratio[drawn].mean(-1), (1 - level) / 2, (1 + level) / 2)
    return ratio.mean().item(), *ends


@mistake(
    "the share is outside on each side",
    "Your interval leaves out 1 − level on each side, twice what is asked for.",
)
def one_sided(first, second, drawn, level=0.95):
    differences = pooled(first[drawn]) - pooled(second[drawn])
    return (pooled(first) - pooled(second)).item(), *ends_of(differences, 1 - level, level)


@mistake(
    "the level is ignored",
    "Your interval holds 95 of 100 draws whatever `level` is.",
)
def level_is_ignored(first, second, drawn, level=0.95):
    differences = pooled(first[drawn]) - pooled(second[drawn])
    return (pooled(first) - pooled(second)).item(), *ends_of(differences, 0.025, 0.975)


@mistake(
    "an interval for each system",
    "You take the ends of each system's scores and subtract those. Subtract within each "
    "draw first, then look for the ends.",
)
def interval_of_each(first, second, drawn, level=0.95):
    ends = [ends_of(pooled(s[drawn]), (1 - level) / 2, (1 + level) / 2) for s in (first, second)]
    middle = (pooled(first) - pooled(second)).item()
    return middle, ends[0][0] - ends[1][0], ends[0][1] - ends[1][1]


@mistake(
    "a mean of ratios in the draws",
    "Your difference is right, but in the draws you divide image by image and take the "
    "mean. There too the sums are divided.",
)
def ratios_in_the_draws(first, second, drawn, level=0.95):
    ratio = first[:, 0] / first[:, 1] - second[:, 0] / second[:, 1]
    ends = ends_of(ratio[drawn].mean(-1), (1 - level) / 2, (1 + level) / 2)
    return (pooled(first) - pooled(second)).item(), *ends


@mistake(
    "two standard deviations",
    "You assume that the draws are normally distributed, and 1.96 knows nothing of the "
    "level. Take the ends from the draws themselves.",
)
def two_deviations(first, second, drawn, level=0.95):
    differences = pooled(first[drawn]) - pooled(second[drawn])
    middle, away = (pooled(first) - pooled(second)).item(), 1.96 * differences.std().item()
    return middle, middle - away, middle + away


@mistake(
    "second minus first",
    "Your difference has the other sign.",
)
def reversed_difference(first, second, drawn, level=0.95):
    middle, low, high = bootstrap_difference(first, second, drawn, level)
    return -middle, -high, -low


@mistake(
    "the mean of the draws",
    "Your first number is the mean over the draws. The difference itself is measured, on "
    "all images, each once.",
)
def mean_of_the_draws(first, second, drawn, level=0.95):
    differences = pooled(first[drawn]) - pooled(second[drawn])
    ends = ends_of(differences, (1 - level) / 2, (1 + level) / 2)
    return differences.mean().item(), *ends


@mistake(
    "each image once",
    "You take an image that was drawn twice only once. With repetition means that it counts twice.",
)
def each_image_once(first, second, drawn, level=0.95):
    rows = [row.unique() for row in drawn]
    differences = torch.stack([pooled(first[row]) - pooled(second[row]) for row in rows])
    ends = ends_of(differences, (1 - level) / 2, (1 + level) / 2)
    return (pooled(first) - pooled(second)).item(), *ends


BOOTSTRAP = Exercise(
    bootstrap_difference,
    counts_and_draws,
    points=5,
    minutes=30,
    stretch=True,
    mistakes=[
        each_draws_its_own,
        mean_of_ratios,
        one_sided,
        level_is_ignored,
        interval_of_each,
        ratios_in_the_draws,
        two_deviations,
        reversed_difference,
        mean_of_the_draws,
        each_image_once,
    ],
)

homework = Homework("Homework 17: side by side", [AGREEMENT, REASONS, FRONT, BOOTSTRAP])
check, score_board = homework.check, homework.score_board
