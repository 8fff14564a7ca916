"""Homework 13: the exercise on MaskFormer, and the mistakes that are known by name."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lessons.homework.answers.maskformer import as_masks
from lessons.kit.homework import Exercise, Homework, mistake

# ---------------------------------------------------------------- 1. as_masks


def pixel_logits(generator: torch.Generator) -> Iterator[tuple[Tensor]]:
    """Logits of small and large scale, two classes and many."""
    yield (torch.tensor([[[1.0, -2.0]], [[0.5, 1.0]]]),)
    for k, h, w, scale in ((3, 5, 7, 1.0), (8, 6, 4, 4.0), (2, 4, 4, 0.3), (5, 3, 6, 50.0)):
        yield (scale * (2 * torch.rand(k, h, w, generator=generator, dtype=torch.float64) - 1),)


def as_semantic(function, x):
    """The set that `function` makes of x, as the lecture's sum of it, and whether it is finite."""
    class_logits, mask_logits = function(x)
    finite = bool(class_logits.isfinite().all() and mask_logits.isfinite().all())
    p = class_logits.softmax(dim=1)[:, :-1]
    total = torch.einsum("qk,qhw->khw", p.to(mask_logits), mask_logits.sigmoid())
    return tuple(class_logits.shape), tuple(mask_logits.shape), finite, total


def sure(x, logit=30):
    return logit * torch.eye(len(x), len(x) + 1, dtype=x.dtype)


@mistake(
    "the logits as they are",
    "The sigmoid of a pixel's logit knows nothing of the other classes; the softmax does.",
)
def logits_as_they_are(x):
    return sure(x), x


@mistake(
    "log-probabilities",
    "The sigmoid of log p is p / (1 + p). Which logit has the sigmoid p?",
)
def log_probability(x):
    return sure(x), x.log_softmax(0)


@mistake(
    "probabilities as logits",
    "Your masks are right, but they go through a sigmoid once more.",
)
def probability(x):
    return sure(x), x.softmax(0)


@mistake(
    "infinite logits",
    "Right while no probability is 0 or 1 in float32. p / (1 − p) can be written with x "
    "alone, before anything is rounded.",
)
def infinite_logits(x):
    p = x.float().softmax(0)  # 0 and 1 in float32
    return sure(x), torch.logit(p).to(x)


@mistake(
    "the largest rival only",
    "You compare a class with its strongest rival. The denominator of a softmax has all of them.",
)
def largest_other(x):
    others = torch.stack([x[torch.arange(len(x)) != c].amax(0) for c in range(len(x))])
    return sure(x), x - others


@mistake(
    "queries are not sure",
    "Your queries give a part of their probability to other classes. They should be sure, "
    "to four digits.",
)
def unsure(x):
    return sure(x, 1), as_masks(x)[1]


@mistake(
    "infinitely sure",
    "Your class logits are infinite. How large must a finite one be, so that what is left "
    "for the others is below four digits?",
)
def infinitely_sure(x):
    return torch.where(sure(x) > 0, 0.0, -torch.inf), as_masks(x)[1]


@mistake(
    "∅ comes first",
    "Your queries all speak of the class after their own. Where is ∅?",
)
def empty_first(x):
    return sure(x).roll(1, dims=1), as_masks(x)[1]


@mistake(
    "no column for ∅",
    "Class logits have K + 1 columns, also where nobody says ∅.",
)
def without_column_for_empty(x):
    return sure(x)[:, :-1], as_masks(x)[1]


AS_MASKS = Exercise(
    as_masks,
    pixel_logits,
    points=4,
    minutes=25,
    stretch=True,
    tolerance=1e-4,
    call=as_semantic,
    mistakes=[
        logits_as_they_are,
        log_probability,
        probability,
        infinite_logits,
        largest_other,
        unsure,
        infinitely_sure,
        empty_first,
        without_column_for_empty,
    ],
)

homework = Homework("Homework 13: MaskFormer", [AS_MASKS])
check, score_board = homework.check, homework.score_board
