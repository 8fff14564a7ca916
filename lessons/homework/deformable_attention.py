"""Homework 14: the exercise on deformable attention, and the mistakes known by name."""

from collections.abc import Iterator

import torch
from torch import Tensor

from lessons.homework.answers.deformable_attention import deform
from lessons.kit.homework import Exercise, Homework, mistake

# ---------------------------------------------------------------- 1. deform


def looks(generator: torch.Generator) -> Iterator[tuple[Tensor, ...]]:
    """Maps that are not square, places inside, at the edges and outside; a single cell."""
    tiny = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]])
    yield tiny, torch.tensor([[0.5, 0.25]]), torch.tensor([[[0.25, 0.0]]]), torch.ones(1, 1)
    for h, w, c, q, k, reach, dtype in (
        (4, 7, 3, 6, 4, 1.5, torch.float64),
        (5, 3, 2, 8, 2, 3.0, torch.float32),
        (1, 1, 1, 5, 3, 0.8, torch.float64),
        (6, 6, 4, 3, 1, 0.0, torch.float32),
    ):
        values = torch.randn(h, w, c, generator=generator, dtype=dtype)
        references = torch.rand(q, 2, generator=generator, dtype=dtype)
        offsets = reach * torch.randn(q, k, 2, generator=generator, dtype=dtype)
        weights = torch.rand(q, k, generator=generator, dtype=dtype) + 0.1
        yield values, references, offsets, weights / weights.sum(1, keepdim=True)


def corners(
    place=lambda r, o, size: r[:, None] * size - 0.5 + o,
    whole=torch.floor,
    inside=True,
    nearest=False,
    weigh=True,
    strict=False,
    far=False,
):
    """`deform` with one of its parts exchanged."""

    def gathered(values, references, offsets, weights):
        h, w, c = values.shape
        at = place(references, offsets, references.new_tensor([w, h]))
        low = at.round() if nearest else whole(at)
        beyond = torch.zeros_like(at) if nearest else at - low
        beyond = 1 - beyond if far else beyond
        out = values.new_zeros(len(references), c)
        for right, down in ((0, 0), (0, 1), (1, 0), (1, 1)):
            j, i = low[..., 0].long() + right, low[..., 1].long() + down
            near = beyond[..., 0] if right else 1 - beyond[..., 0]
            near = near * (beyond[..., 1] if down else 1 - beyond[..., 1])
            if inside:
                near = near * ((i >= 0) & (i < h) & (j >= 0) & (j < w))
            share = weights if weigh else torch.full_like(weights, 1 / weights.shape[1])
            if strict:
                share = share * ((at >= 0) & (at <= at.new_tensor([w - 1, h - 1]))).all(dim=-1)
            found = values[i.clamp(0, h - 1), j.clamp(0, w - 1)]
            out = out + ((share * near)[..., None] * found).sum(dim=1)
        return out

    return gathered


@mistake(
    "x and y exchanged",
    "You take x for the row. x goes to the right: it counts columns.",
)
def exchanged(values, references, offsets, weights):
    """x taken for y."""
    turned = values.transpose(0, 1)
    return deform(turned, references, offsets, weights)


DEFORM = Exercise(
    deform,
    looks,
    points=4,
    minutes=35,
    forbidden=("torch.nn.functional.grid_sample",),
    stretch=True,
    tolerance=1e-4,
    mistakes=[
        mistake(
            "corners aligned",
            "In yours x = 0 is the centre of the first cell and x = 1 that of the last. Where "
            "does the task put the centre of cell j?",
        )(corners(lambda r, o, size: r[:, None] * (size - 1) + o)),
        mistake(
            "half a cell off",
            "All places are half a cell too far to the right and down: cell 0 has its centre at "
            "½/w, not at 0.",
        )(corners(lambda r, o, size: r[:, None] * size + o)),
        mistake(
            "offsets in images", "You count an offset of 1 as the whole image. It is one cell."
        )(corners(lambda r, o, size: (r[:, None] + o) * size - 0.5)),
        mistake(
            "rounded towards 0",
            "Right inside of the map. Left of the first centre a place is negative: what does "
            "a conversion to whole numbers do there?",
        )(corners(whole=torch.trunc)),
        mistake(
            "the border goes on",
            "Outside of the map you find the border's value again. There is nothing: 0.",
        )(corners(inside=False)),
        mistake(
            "a place beside the map is empty",
            "You drop a place as soon as one of its four corners is outside. The corners that "
            "are inside still count.",
        )(corners(strict=True)),
        mistake(
            "the far corner counts most",
            "Your corners count the more, the farther they are. A place on a centre is that cell.",
        )(corners(far=True)),
        mistake(
            "the nearest cell",
            "You take the nearest cell. Then an offset has no gradient; four cells share a place.",
        )(corners(nearest=True)),
        exchanged,
        mistake(
            "the weights forgotten", "You take the plain mean of the places. Each has its weight A."
        )(corners(weigh=False)),
    ],
)

homework = Homework("Homework 14: Deformable attention", [DEFORM])
check, score_board = homework.check, homework.score_board
