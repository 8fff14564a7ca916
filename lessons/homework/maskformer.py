"""Homework 13: the exercise on MaskFormer, and the mistakes that are known by name."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lessons.homework.answers.maskformer import as_masks
from lessons.kit.homework import Exercise, Homework, Mistake

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


def logits_as_they_are(x):
    return sure(x), x


def log_probability(x):
    return sure(x), x.log_softmax(0)


def probability(x):
    return sure(x), x.softmax(0)


def infinite_logits(x):
    p = x.float().softmax(0)  # 0 and 1 in float32
    return sure(x), torch.logit(p).to(x)


def largest_other(x):
    others = torch.stack([x[torch.arange(len(x)) != c].amax(0) for c in range(len(x))])
    return sure(x), x - others


def unsure(x):
    return sure(x, 1), as_masks(x)[1]


def infinitely_sure(x):
    return torch.where(sure(x) > 0, 0.0, -torch.inf), as_masks(x)[1]


def empty_first(x):
    return sure(x).roll(1, dims=1), as_masks(x)[1]


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
        Mistake(
            "the logits as they are",
            logits_as_they_are,
            "The sigmoid of a pixel's logit knows nothing of the other classes; the softmax does.",
        ),
        Mistake(
            "log-probabilities",
            log_probability,
            "The sigmoid of log p is p / (1 + p). Which logit has the sigmoid p?",
        ),
        Mistake(
            "probabilities as logits",
            probability,
            "Your masks are right, but they go through a sigmoid once more.",
        ),
        Mistake(
            "infinite logits",
            infinite_logits,
            "Right while no probability is 0 or 1 in float32. p / (1 − p) can be written with x "
            "alone, before anything is rounded.",
        ),
        Mistake(
            "the largest rival only",
            largest_other,
            "You compare a class with its strongest rival. The denominator of a softmax has all "
            "of them.",
        ),
        Mistake(
            "queries are not sure",
            unsure,
            "Your queries give a part of their probability to other classes. They should be sure, "
            "to four digits.",
        ),
        Mistake(
            "infinitely sure",
            infinitely_sure,
            "Your class logits are infinite. How large must a finite one be, so that what is left "
            "for the others is below four digits?",
        ),
        Mistake(
            "∅ comes first",
            empty_first,
            "Your queries all speak of the class after their own. Where is ∅?",
        ),
        Mistake(
            "no column for ∅",
            without_column_for_empty,
            "Class logits have K + 1 columns, also where nobody says ∅.",
        ),
    ],
)

homework = Homework("Homework 13: MaskFormer", [AS_MASKS])
check, score_board = homework.check, homework.score_board
