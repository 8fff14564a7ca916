"""Homework 15: the exercises on Mask2Former, and the mistakes that are known by name."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from lessons.homework.answers.mask2former import (
    attention_bias,
    importance_estimate,
    masked_attention,
)
from lessons.kit.homework import Exercise, Homework, mistake


def gradient(value: object, *leaves: Tensor) -> list[Tensor]:
    """What the leaves hear of a value, weighted so that nothing cancels; zeros for nothing."""
    heard: list[Tensor | None] = [None] * len(leaves)
    if isinstance(value, Tensor) and value.requires_grad:
        weight = torch.linspace(-1, 2, value.numel(), dtype=value.dtype).view(value.shape)
        heard = list(torch.autograd.grad((weight * value).sum(), leaves, allow_unused=True))
    return [
        torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, heard, strict=True)
    ]


# ---------------------------------------------------------------- 1. masked_attention


def queries_and_masks(generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
    """Masks that are empty, full, mixed; logits near the border; one query, one cell."""
    two, masks = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0], [-1.0, 2.0]])
    yield two, torch.eye(2), torch.tensor([[1.0], [2.0]]), masks
    for q, s, c, d, shift, dtype in (
        (3, 7, 4, 2, 0.0, torch.float64),
        (5, 6, 9, 3, -0.8, torch.float32),
        (1, 1, 2, 1, -1.0, torch.float64),
        (4, 8, 3, 5, 0.2, torch.float32),
    ):
        queries, keys = (torch.randn(n, c, generator=generator, dtype=dtype) for n in (q, s))
        masks = torch.randn(q, s, generator=generator, dtype=dtype) + shift
        masks[0] = -1 - masks[0].abs()  # this query has painted nothing
        masks[-1, -1] = 0.3  # above ½, but below 0.5 as a number
        if q > 1:
            masks[1, 0] = 0.0  # exactly ½: not below
        values = torch.randn(s, d, generator=generator, dtype=dtype)
        yield queries, keys, values, masks
    # The cell outside fits far better than the one inside: no finite number of some size will do.
    queries, keys = torch.tensor([[2000.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0], [-1.0, 0]])
    masks = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    yield queries.double(), keys.double(), torch.tensor([[1.0], [2.0]]).double(), masks.double()


def with_gradients(
    function: Callable, queries: Tensor, keys: Tensor, values: Tensor, mask_logits: Tensor
) -> dict[str, Tensor]:
    """The answer, and what queries and keys hear of it."""
    leaves = queries.clone().requires_grad_(), keys.clone().requires_grad_()
    answer = function(*leaves, values, mask_logits)
    heard = gradient(answer, *leaves)
    return {"X": answer, "gradient of queries": heard[0], "gradient of keys": heard[1]}


def attend(
    blocked=lambda x: x < 0,
    never=-math.inf,
    mend=True,
    root=True,
    after=False,
    empty=None,
):
    """`masked_attention` with one of its parts exchanged."""

    def answer(queries, keys, values, mask_logits):
        no = blocked(mask_logits)
        if mend:
            no = no & ~no.all(dim=1, keepdim=True)
        scores = queries @ keys.T / (math.sqrt(queries.shape[1]) if root else 1)
        if after:
            return (scores.softmax(dim=1) * ~no) @ values
        found = scores.masked_fill(no, never).softmax(dim=1) @ values
        return found if empty is None else found.nan_to_num(empty)

    return answer


@mistake(
    "a score swallowed",
    "Your large negative number swallows the scores to which it is added: a query with "
    "an empty mask weighs all cells alike. It was to look at them by its scores.",
)
def swallowed(queries, keys, values, mask_logits):
    """A large negative number is added, and in single precision nothing is left of a score."""
    scores = queries @ keys.T / math.sqrt(queries.shape[1])
    return (scores + -1e9 * (mask_logits < 0)).softmax(dim=1) @ values


@mistake(
    "the score 0",
    "You set the score of a blocked cell to 0, but e⁰ = 1. Which score has the weight 0?",
)
def scores_set_to_0(queries, keys, values, mask_logits):
    allowed = mask_logits >= 0
    allowed = allowed | ~allowed.any(dim=1, keepdim=True)
    scores = queries @ keys.T / math.sqrt(queries.shape[1])
    return (scores * allowed).softmax(dim=1) @ values


@mistake(
    "the softmax over the queries",
    "Your weights sum to 1 over the queries. One query shares its attention among cells.",
)
def softmax_over_queries(queries, keys, values, mask_logits):
    blocked = mask_logits < 0
    blocked = blocked & ~blocked.all(dim=1, keepdim=True)
    scores = queries @ keys.T / math.sqrt(queries.shape[1])
    return scores.masked_fill(blocked, -math.inf).softmax(dim=0).nan_to_num() @ values


@mistake(
    "one mask for all",
    "All of your queries look where any of them has painted. Each has a mask of its own.",
)
def one_mask_for_all(queries, keys, values, mask_logits):
    together = mask_logits.amax(dim=0, keepdim=True).expand_as(mask_logits)
    return attend()(queries, keys, values, together)


ATTENTION = Exercise(
    masked_attention,
    queries_and_masks,
    points=3,
    minutes=20,
    forbidden=("torch.nn.functional.scaled_dot_product_attention",),
    tolerance=1e-5,
    call=with_gradients,
    mistakes=[
        mistake(
            "NaN where nothing is left",
            "A query whose mask is below ½ everywhere becomes NaN in yours: the softmax of "
            "nothing but −∞. Where may such a query look?",
        )(attend(mend=False)),
        mistake(
            "0 where nothing is left",
            "A query with an empty mask gets 0 from you. It was to look everywhere.",
        )(attend(mend=False, empty=0.0)),
        mistake("the wrong side", "Your queries look at everything except their own mask.")(
            attend(lambda x: x >= 0)
        ),
        mistake(
            "a threshold of ½ on the logit",
            "You compare the logit with ½. Which logit belongs to a probability of ½?",
        )(attend(lambda x: x < 0.5)),
        mistake(
            "only discouraged",
            "A blocked cell still weighs something in yours: what must its score be, so that its "
            "weight is 0?",
        )(attend(never=-1.0)),
        mistake(
            "all alike where nothing is left",
            "With an empty mask all scores of a query become the same number in yours, so it "
            "takes the plain mean of the cells. It was to look at all of them by its scores.",
        )(attend(mend=False, never=-1e9)),
        swallowed,
        scores_set_to_0,
        softmax_over_queries,
        mistake(
            "masked after the softmax",
            "You take the weights of blocked cells away after the softmax. What do the others "
            "sum to then?",
        )(attend(after=True)),
        mistake(
            "without the root of c",
            "Your scores are too large: look at what the products are divided by.",
        )(attend(root=False)),
        one_mask_for_all,
    ],
)

# ---------------------------------------------------------------- 2. attention_bias


def soft_masks(generator: torch.Generator) -> Iterator[tuple]:
    """Smaller, larger, of other proportions; logits that underflow."""
    yield torch.tensor([[[[1.0, -1.0], [3.0, 0.0]]]]), (1, 2), 0.5
    for b, q, size, target, sharpness, dtype in (
        (2, 3, (8, 12), (4, 6), 1.0, torch.float64),
        (1, 2, (6, 5), (3, 2), 0.5, torch.float32),
        (1, 1, (4, 4), (7, 9), 2.0, torch.float32),
    ):
        yield 3 * torch.randn(b, q, *size, generator=generator, dtype=dtype), target, sharpness
    yield torch.full((1, 2, 4, 4), -200.0), (2, 2), 1.5


def with_mask_gradient(
    function: Callable, mask_logits: Tensor, size: tuple[int, int], sharpness: float
) -> dict[str, Tensor]:
    """The bias, and what the mask hears of it."""
    leaf = mask_logits.clone().requires_grad_()
    bias = function(leaf, size, sharpness)
    return {"bias": bias, "gradient of mask_logits": gradient(bias, leaf)[0]}


def bias(resize=None, log=F.logsigmoid, detach=True, inside=False):
    """`attention_bias` with one of its parts exchanged."""
    resize = resize or resized()

    def answer(mask_logits, size, sharpness):
        x = resize(mask_logits.detach() if detach else mask_logits, size).flatten(2)
        return log(sharpness * x) if inside else sharpness * log(x)

    return answer


def resized(mode="bilinear", **how):
    return lambda x, size: F.interpolate(x, size, mode=mode, **how)


@mistake(
    "probabilities resized",
    "You resize the probabilities and take the log of their mean. The logits were to be resized.",
)
def probabilities_resized(mask_logits, size, sharpness):
    soft = mask_logits.detach().sigmoid()
    return sharpness * resized()(soft, size).flatten(2).log()


def step(x):
    return torch.where(x < 0, -math.inf, 0.0).to(x)


BIAS = Exercise(
    attention_bias,
    soft_masks,
    points=3,
    minutes=20,
    tolerance=1e-5,
    call=with_mask_gradient,
    mistakes=[
        mistake(
            "a gradient through the mask",
            "The values are right, but the mask hears of them: where the next layer would like "
            "to look would change what this layer has painted.",
        )(bias(detach=False)),
        mistake(
            "corners aligned",
            "Your resizing puts the outermost cells' centres on one another. Here 0 is the outer "
            "edge of the first cell, in both sizes.",
        )(bias(resized(align_corners=True))),
        mistake(
            "the nearest cell", "You take the nearest cell. The mask was to be resized bilinearly."
        )(bias(resized("nearest"))),
        probabilities_resized,
        mistake(
            "the log of 0",
            "Right for moderate logits. At −200 the sigmoid is 0 and its log −∞: a row of those "
            "is NaN after the softmax. Which function does both steps at once?",
        )(bias(log=lambda x: x.sigmoid().log())),
        mistake(
            "a gradient, and the log of 0",
            "Two things are left: no gradient may reach the mask, and at −200 the sigmoid is 0 "
            "and its log −∞.",
        )(bias(log=lambda x: x.sigmoid().log(), detach=False)),
        mistake(
            "not the log of m alone",
            "A small number inside of the log keeps it finite, but changes it. Which function "
            "is log ∘ sigmoid at once, for any logit?",
        )(bias(log=lambda x: (x.sigmoid() + 1e-6).log())),
        mistake(
            "no log",
            "You add the mask itself. Inside the bias is to be about 0, outside very negative.",
        )(bias(log=torch.sigmoid)),
        mistake(
            "the sharpness inside",
            "You sharpen the logit, and then take the log of its sigmoid. The factor stands "
            "before the log: m to the power of the sharpness.",
        )(bias(inside=True)),
        mistake("all or nothing", "This is the lesson's hard mask. Here it is to be soft.")(
            bias(log=step)
        ),
    ],
)

# ---------------------------------------------------------------- 3. importance_estimate


def chosen_pixels(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Sure and unsure pixels of both signs; pixels drawn twice; a single one."""
    losses = torch.tensor([0.5, 1.0, 2.0])
    yield torch.tensor([0.0, 1.0, -2.0]), losses, torch.tensor([0, 2])
    for n, k, scale, dtype in (
        (30, 12, 3.0, torch.float64),
        (50, 80, 1.0, torch.float32),
        (7, 1, 2.0, torch.float64),
        (1, 4, 1.0, torch.float32),
    ):
        logits = scale * torch.randn(n, generator=generator, dtype=dtype) - 0.5
        losses = torch.rand(n, generator=generator, dtype=dtype) * 3
        yield logits, losses, torch.randint(n, (k,), generator=generator)


def estimate(
    uncertain=lambda x: torch.exp(-x.abs()),
    hard=0.75,
    combine=lambda losses, p, n: (losses / (n * p)).mean(),
    total=torch.sum,
    others=1.0,
):
    """`importance_estimate` with one of its parts exchanged."""

    def answer(logits, losses, chosen):
        u = uncertain(logits)
        p = hard * u / total(u) + (1 - hard) / len(logits) ** others
        return combine(losses[chosen], p[chosen], len(logits))

    return answer


@mistake(
    "u among the chosen",
    "You divide u by its sum over the chosen pixels. A draw is from all N of them.",
)
def chosen_alone(logits, losses, chosen):
    """The uncertainties sum to 1 over the chosen pixels only."""
    u = torch.exp(-logits[chosen].abs())
    p = 0.75 * u / u.sum() + 0.25 / len(logits)
    return (losses[chosen] / (len(logits) * p)).mean()


ESTIMATE = Exercise(
    importance_estimate,
    chosen_pixels,
    points=4,
    minutes=25,
    tolerance=1e-5,
    mistakes=[
        mistake(
            "the plain mean",
            "This is the mean of what was drawn. Unsure pixels are drawn more often than once in "
            "N: how much must each of them count?",
        )(estimate(combine=lambda losses, p, n: losses.mean())),
        mistake("N forgotten", "On average this is the sum over all pixels.")(
            estimate(combine=lambda losses, p, n: (losses / p).mean())
        ),
        mistake(
            "multiplied, not divided",
            "You count those most that are drawn most anyway. They should count less.",
        )(estimate(combine=lambda losses, p, n: (losses * n * p).mean())),
        mistake(
            "weights that sum to 1",
            "You divide by the sum of the weights. That is steadier, but not right on average "
            "for a few draws; divide by what you know.",
        )(estimate(combine=lambda losses, p, n: (losses / p).sum() / (1 / p).sum())),
        mistake(
            "the sum",
            "Each draw alone estimates the mean already. What do you do with K estimates?",
        )(estimate(combine=lambda losses, p, n: (losses / (n * p)).sum())),
        mistake(
            "only the unsure part",
            "Right if all draws were in proportion to u. A quarter of them takes any pixel alike.",
        )(estimate(hard=1.0)),
        mistake(
            "u is no probability",
            "You take u itself for a probability. Over all pixels those must sum to 1.",
        )(estimate(total=torch.ones_like)),
        chosen_alone,
        mistake(
            "a quarter for each",
            "In yours each pixel has a quarter for itself. All N of them share it.",
        )(estimate(others=0.0)),
        mistake("all losses", "That is the mean itself. You may look at the chosen losses only.")(
            lambda logits, losses, chosen: losses.mean()
        ),
        mistake(
            "the shares exchanged",
            "You have the shares of the two kinds of draws the wrong way round.",
        )(estimate(hard=0.25)),
        mistake(
            "unsure where the logit is small",
            "You call a pixel the more uncertain, the more surely it is background. Where is a "
            "mask undecided?",
        )(estimate(lambda x: torch.exp(-x))),
        mistake(
            "the sure pixels", "Your u is largest where the logit is far from 0: that is certainty."
        )(estimate(lambda x: torch.exp(x.abs()))),
        mistake(
            "p(1 − p)",
            "That is a sensible uncertainty, but the draws were made with another u: their "
            "probability decides.",
        )(estimate(lambda x: x.sigmoid() * (-x).sigmoid())),
    ],
)

homework = Homework("Homework 15: Mask2Former", [ATTENTION, BIAS, ESTIMATE])
check, score_board = homework.check, homework.score_board
