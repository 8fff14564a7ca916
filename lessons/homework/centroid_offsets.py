"""Lesson 06 and its homework: turns and exercises on votes and vectors, and known mistakes."""

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lessons.centroid_offsets import (
    centroid_offsets,
    group_by_centroid,
    instance_centroids,
    pixel_centres,
)
from lessons.homework.answers.centroid_offsets import (
    balanced_offset_loss,
    inner_centres,
    mean_shift,
    turn_offsets,
)
from lessons.kit.homework import Exercise, Homework, mistake

# ---------------------------------------------------------------- your turn: instance_centroids


def partitions(generator: torch.Generator) -> Iterator[tuple[Tensor]]:
    """Disjoint masks: one pixel, an empty mask, no mask; wide, high, in parts, up to the edges."""
    yield (torch.tensor([[[1, 1, 0]], [[0, 0, 1]]]).bool(),)
    for n, h, w in ((3, 7, 12), (4, 11, 5), (1, 6, 6), (6, 3, 17)):
        weight = 3 * torch.rand(n + 1, 1, 1, generator=generator)
        ids = (weight * torch.rand(n + 1, h, w, generator=generator)).argmax(dim=0)
        ids[-1, -1] = n
        yield (ids == torch.arange(1, n + 1)[:, None, None],)
    some = torch.zeros(3, 5, 8, dtype=torch.bool)
    some[0, 4, 6] = some[2, :2, 1:] = True
    yield (some,)  # the second is empty
    yield (some[[0, 2, 1]],)  # the last
    yield (torch.zeros(0, 4, 7, dtype=torch.bool),)
    yield (torch.ones(1, 4, 9, dtype=torch.bool),)


def box_middles(masks: Tensor) -> Tensor:
    centres = torch.full((len(masks), 2), torch.nan)
    for k, mask in enumerate(masks):
        if mask.any():
            row, column = mask.nonzero().T
            centres[k, 0] = (column.min() + column.max() + 1) / 2
            centres[k, 1] = (row.min() + row.max() + 1) / 2
    return centres


CENTROIDS = Exercise(
    instance_centroids,
    partitions,
    tolerance=1e-4,
    mistakes=[
        mistake(
            "(row, column)",
            "Your centres are (row, column). Asked for is (x, y): which of the two is the column?",
        )(lambda masks: instance_centroids(masks).flip(1)),
        mistake(
            "half a pixel",
            "You average the pixels' corners. The first pixel covers 0 to 1: where is its centre?",
        )(lambda masks: instance_centroids(masks) - 0.5),
        mistake(
            "(row, column), from the corners",
            "Two things: the first number is x, which is the column; and the centre of a pixel is "
            "half a pixel from its corner.",
        )(lambda masks: instance_centroids(masks).flip(1) - 0.5),
        mistake(
            "the middle of the box",
            "You go by the outermost pixels. The centroid is the mean of all of them.",
        )(box_middles),
        mistake(
            "an empty mask",
            "Right, except where a mask is empty: it has no centre, and NaN says so. A place such "
            "as (0, 0) would be one.",
        )(lambda masks: instance_centroids(masks).nan_to_num(0)),
    ],
)

# ---------------------------------------------------------------- your turn: centroid_offsets


def small_partitions(generator: torch.Generator) -> Iterator[tuple[Tensor]]:
    """The same, with a first one whose offsets are few enough to be printed."""
    yield (torch.tensor([[[1, 1], [1, 0]]]).bool(),)
    yield from partitions(generator)


def filled_in(dx: Callable, dy: Callable) -> Callable:
    """`centroid_offsets` with other fillings, made of (centroids (p, 2), row, column)."""

    def fill(masks):
        k, row, column = masks.nonzero(as_tuple=True)
        each, offsets = instance_centroids(masks)[k], torch.zeros(2, *masks.shape[1:])
        offsets[0, row, column] = dx(each, row, column)
        offsets[1, row, column] = dy(each, row, column)
        return offsets, masks.any(dim=0)

    return fill


OFFSETS = Exercise(
    centroid_offsets,
    small_partitions,
    tolerance=1e-4,
    mistakes=[
        mistake(
            "away from the centre",
            "Your arrows point away from the centre. An offset leads from the pixel to C_k.",
        )(filled_in(lambda c, i, j: j + 0.5 - c[:, 0], lambda c, i, j: i + 0.5 - c[:, 1])),
        mistake(
            "dx and dy exchanged",
            "The right numbers in each other's channel: channel 0 is dx, to the right.",
        )(filled_in(lambda c, i, j: c[:, 1] - i - 0.5, lambda c, i, j: c[:, 0] - j - 0.5)),
        mistake(
            "rows taken for x",
            "You subtract the row from x. Which of row and column counts to the right?",
        )(filled_in(lambda c, i, j: c[:, 0] - i - 0.5, lambda c, i, j: c[:, 1] - j - 0.5)),
        mistake(
            "from the corners",
            "Your arrows begin at the pixels' corners: where is the centre of pixel 0?",
        )(filled_in(lambda c, i, j: c[:, 0] - j, lambda c, i, j: c[:, 1] - i)),
        mistake(
            "half a pixel too much",
            "The half has the wrong sign: the pixel's centre is half a pixel beyond its column.",
        )(filled_in(lambda c, i, j: c[:, 0] - j + 0.5, lambda c, i, j: c[:, 1] - i + 0.5)),
        mistake(
            "the centre itself",
            "That is the centre C_k, in each of its pixels. An offset is the way to it.",
        )(filled_in(lambda c, i, j: c[:, 0], lambda c, i, j: c[:, 1])),
    ],
)

# ---------------------------------------------------------------- your turn: group_by_centroid


def votes_and_centres(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Votes everywhere, outside too; ties; one centre, equal centres, no centre; no vote."""
    yield (
        torch.tensor([[4.0, 2.0], [0.0, 5.0], [9.0, 1.0]]),
        torch.tensor([[0.0, 2.0], [6.0, 5.0], [9.0, 2.0]]),
    )
    yield torch.tensor([[4.0, 2.0], [8.0, 2.0]]), torch.tensor([[8.0, 2.0], [0.0, 2.0], [8.0, 2.0]])
    for p, n, spread in ((30, 5, 20.0), (12, 2, 6.0), (50, 9, 30.0), (7, 1, 10.0)):
        votes = spread * torch.rand(p, 2, generator=generator, dtype=torch.float64) - 2
        yield votes, spread * torch.rand(n, 2, generator=generator, dtype=torch.float64)
    yield 9 * torch.rand(6, 2, generator=generator), torch.zeros(0, 2)
    yield torch.zeros(0, 2), 9 * torch.rand(3, 2, generator=generator)
    yield torch.zeros(0, 2), torch.zeros(0, 2)


def nearest_by(measure: Callable) -> Callable:
    """`group_by_centroid` with another distance, made of differences (p, n, 2)."""

    def group(votes, centres):
        if not len(centres):
            return torch.full((len(votes),), -1)
        return measure(votes[:, None] - centres).argmin(dim=1)

    return group


@mistake(
    "0 without centres",
    "Right, except where there is no centre: 0 would be the first one. Asked for is −1.",
)
def first_of_none(votes, centres):
    return group_by_centroid(votes, centres).clamp(min=0)


@mistake(
    "the distance itself",
    "You return how far the nearest centre is. Asked for is which one it is: its number.",
)
def how_far(votes, centres):
    return torch.cdist(votes, centres).amin(dim=1) if len(centres) else torch.zeros(len(votes))


GROUPS = Exercise(
    group_by_centroid,
    votes_and_centres,
    mistakes=[
        mistake(
            "|dx| + |dy|",
            "You add |dx| and |dy|: that is the way of a taxi. ‖·‖ is the straight line.",
        )(nearest_by(lambda d: d.abs().sum(dim=2))),
        mistake(
            "the larger of |dx| and |dy|",
            "You take the larger of |dx| and |dy|. ‖·‖ is the straight line.",
        )(nearest_by(lambda d: d.abs().amax(dim=2))),
        mistake("x alone", "You look at x alone: a distance needs both numbers.")(
            nearest_by(lambda d: d[..., 0].abs())
        ),
        mistake(
            "differences with their sign",
            "You add the differences as they are: centres far to the right and below seem nearest.",
        )(nearest_by(lambda d: d.sum(dim=2))),
        first_of_none,
        how_far,
    ],
)

# ---------------------------------------------------------------- homework 1. inner_centres


def shapes(generator: torch.Generator) -> Iterator[tuple[Tensor]]:
    """Rings, bars in two parts, wedges and random pixels; one pixel, an empty mask, no mask."""
    yield (torch.tensor([[[1, 1, 1], [1, 0, 0]]]).bool(),)
    x, y = pixel_centres((26, 37))
    for _ in range(3):
        cx, cy, r = (torch.rand(3, generator=generator) * torch.tensor([15, 8, 3])).tolist()
        radius = ((x - 10 - cx) ** 2 + (y - 9 - cy) ** 2).sqrt()
        ring = (radius > 4 + r) & (radius < 7.5 + r)
        bars = (y > 20) & ((x < 9 + 3 * r) | (x > 25 + 2 * r))
        wedge = (y < 2 + cy) & (x + 2 * y < 14 + cx)
        yield (torch.stack([ring, bars, wedge]),)
    yield (torch.rand(4, 9, 6, generator=generator) < 0.2,)
    one = torch.zeros(3, 5, 8, dtype=torch.bool)
    one[0, 4, 6] = one[2, :2, 1:] = True
    yield (one,)  # the second is empty
    yield (torch.zeros(0, 4, 7, dtype=torch.bool),)


def judge_centres(function: Callable, masks: Tensor) -> dict[str, Tensor]:
    """How good each centre is, since several pixels may be equally good."""
    centres = function(masks)
    if not isinstance(centres, Tensor) or centres.shape != (len(masks), 2):
        shape = tuple(centres.shape) if isinstance(centres, Tensor) else type(centres).__name__
        raise TypeError(f"a centre (x, y) for each mask is asked for, not {shape}")
    grid = pixel_centres(tuple(masks.shape[1:]))
    squares = [
        (grid[:, mask].T - centre).square().sum(dim=1).mean() if mask.any() else centre.sum()
        for mask, centre in zip(masks, centres.double(), strict=True)
    ]
    x, y = torch.nan_to_num(centres).long().T
    x, y = x.clamp(0, masks.shape[2] - 1), y.clamp(0, masks.shape[1] - 1)
    return {
        "mean squared distance to all pixels": torch.stack(squares) if squares else torch.zeros(0),
        "lies in the mask": masks[range(len(masks)), y, x],
    }


def of_each(choose: Callable) -> Callable:
    """`choose` finds the centre of the pixels (p, 2) of one mask, given all of the image too."""

    def centres(masks):
        found = torch.full((len(masks), 2), torch.nan)
        grid = pixel_centres(tuple(masks.shape[1:]))
        for k, mask in enumerate(masks):
            if mask.any():
                found[k] = choose(grid[:, mask].T, grid, mask)
        return found

    return centres


def nearest(places, centre):
    return places[(places - centre).square().sum(dim=1).argmin()]


def of_image(places, grid, mask):
    return nearest(grid.flatten(1).T, places.mean(dim=0))


def medoid(places, grid, mask):
    return places[torch.cdist(places, places).sum(dim=1).argmin()]


def box_middle(places, grid, mask):
    return nearest(places, (places.amin(dim=0) + places.amax(dim=0)) / 2)


def medians(places, grid, mask):
    return nearest(places, places.median(dim=0).values)


def innermost(places, grid, mask):
    inside, depth = F.pad(mask[None].float(), (1, 1, 1, 1)), torch.zeros(mask.shape)
    while inside.any():  # one layer of pixels after another
        depth += inside[0, 1:-1, 1:-1]
        inside = -F.max_pool2d(-inside, 3, 1, 1)
        inside[:, [0, -1]], inside[:, :, [0, -1]] = 0, 0
    return places[depth[mask].argmax()]


def corner(places, grid, mask):
    return nearest(places, places.mean(dim=0)) - 0.5


def exchanged_centre(places, grid, mask):
    return nearest(places, places.mean(dim=0)).flip(0)


def worst(places, grid, mask):
    return places[(places - places.mean(dim=0)).square().sum(dim=1).argmax()]


INNER = Exercise(
    inner_centres,
    shapes,
    points=3,
    minutes=20,
    tolerance=1e-3,
    call=judge_centres,
    mistakes=[
        mistake(
            "the centroid itself",
            "That is C, the best point of the plane, and it may lie in a hole. Asked for is the "
            "best among the pixels of the instance.",
        )(instance_centroids),
        mistake(
            "the pixel under the centroid",
            "You choose among all pixels of the image. Over which set does the arg min run?",
        )(of_each(of_image)),
        mistake(
            "distances without the square",
            "This is the pixel with the least sum of distances, not of their squares. For that one "
            "there is no shortcut.",
        )(of_each(medoid)),
        mistake(
            "nearest to the middle of the box",
            "You go by the middle of the box, which knows only the four outermost pixels. Multiply "
            "the square out: which point appears?",
        )(of_each(box_middle)),
        mistake(
            "nearest to the medians",
            "You go by the medians of x and y. They belong to sums of |x|; which point belongs to "
            "sums of squares?",
        )(of_each(medians)),
        mistake(
            "the innermost pixel",
            "Yours is the pixel farthest from the outline, a fine centre too, but it does not care "
            "how far the rest of the instance is.",
        )(of_each(innermost)),
        mistake(
            "half a pixel",
            "The right pixel, but its corner, not its centre: where is the centre of pixel 0?",
        )(of_each(corner)),
        mistake("x and y exchanged", "The right pixel as (row, column). Asked for is (x, y).")(
            of_each(exchanged_centre)
        ),
        mistake("arg max", "You found the pixel that is farthest from all others.")(of_each(worst)),
    ],
)

# ---------------------------------------------------------------- homework 2. turn_offsets


def fields(generator: torch.Generator) -> Iterator[tuple[Tensor, bool, int]]:
    """Fields of several shapes, all mirrorings and turns, more than a whole turn, and backwards."""
    tiny = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    yield from ((tiny, True, 0), (tiny, False, 1), (tiny, True, 2))
    for h, w, mirror, quarters in (
        (4, 7, False, 0), (4, 7, True, 0), (5, 3, False, 1), (6, 6, False, 2), (3, 8, False, 3),
        (4, 5, True, 1), (5, 5, True, 2), (2, 9, True, 3), (4, 3, True, -1), (3, 4, False, 5),
        (1, 1, True, 1),
    ):  # fmt: skip
        yield torch.randn(2, h, w, generator=generator, dtype=torch.float64), mirror, quarters


def turned(
    mirror_places=True, mirror_sign=(-1, 1), turn_places=True, turn_arrows=1, turn_first=False
):
    """`turn_offsets` with parts left out or exchanged; turn_arrows = −1 is the wrong way round."""

    def turn(offsets, mirror, quarters):
        def mirrored(field):
            if not mirror:
                return field
            field = field.flip(2) if mirror_places else field
            return field * torch.tensor(mirror_sign)[:, None, None]

        def rotated(field):
            field = field.rot90(quarters, (1, 2)) if turn_places else field
            for _ in range(quarters * turn_arrows % 4):
                field = torch.stack([field[1], -field[0]])
            return field

        return mirrored(rotated(offsets)) if turn_first else rotated(mirrored(offsets))

    return turn


@mistake(
    "one quarter for all",
    "Right for one quarter. How often do the arrows have to turn when the image turns "
    "twice, or three times?",
)
def one_quarter_of_arrows(offsets, mirror, quarters):
    field = turned(turn_arrows=0)(offsets, mirror, quarters)
    return torch.stack([field[1], -field[0]]) if quarters % 4 else field


@mistake(
    "exchanged without a sign",
    "You exchange dx and dy, which mirrors the arrows along the diagonal. A turn needs a "
    "sign as well, and half a turn is not nothing.",
)
def exchanged_arrows(offsets, mirror, quarters):
    field = turned(turn_arrows=0)(offsets, mirror, quarters)
    return field.flip(0) if quarters % 2 else field


@mistake(
    "channels taken for (dy, dx)",
    "You treat the first channel as dy. The channels are dx and dy, in this order.",
)
def rows_and_columns(offsets, mirror, quarters):
    return turn_offsets(offsets.flip(0), mirror, quarters).flip(0)


TURN = Exercise(
    turn_offsets,
    fields,
    points=4,
    minutes=20,
    mistakes=[
        mistake(
            "only the places",
            "This is still the colleague's: the arrows are carried to their new places and point "
            "as before. Take the arrow to the right: where does it point in the mirror?",
        )(turned(mirror_sign=(1, 1), turn_arrows=0)),
        mistake(
            "the mirror without its sign",
            "The turns are right. In the mirror right becomes left: which number of an arrow "
            "changes, and how?",
        )(turned(mirror_sign=(1, 1))),
        mistake(
            "the mirror's sign on dy",
            "The turns are right. Your mirror turns up and down: which of the two channels is dx?",
        )(turned(mirror_sign=(1, -1))),
        mistake(
            "both signs in the mirror",
            "The turns are right. A mirror changes left and right only; what becomes of an arrow "
            "that points up?",
        )(turned(mirror_sign=(-1, -1))),
        mistake(
            "turned places, unturned arrows",
            "The mirror is right. After a quarter turn your arrows stand elsewhere and point as "
            "before.",
        )(turned(turn_arrows=0)),
        mistake(
            "arrows turned the other way",
            "Places and arrows turn in opposite directions. dy counts downwards: turn the page and "
            "look where the arrow to the right points.",
        )(turned(turn_arrows=-1)),
        one_quarter_of_arrows,
        exchanged_arrows,
        mistake(
            "first turned, then mirrored",
            "Each is right by itself. The order is not: mirror first, then turn.",
        )(turned(turn_first=True)),
        mistake("the places stay", "The arrows are changed as they should, in their old places.")(
            turned(mirror_places=False, turn_places=False)
        ),
        rows_and_columns,
    ],
)

# ---------------------------------------------------------------- homework 3. balanced_offset_loss


def batches(generator: torch.Generator) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Batches of one to three images with instances of all sizes; empty masks, no instances."""
    said = torch.tensor([[[[1.0, 0.0, 2.0]], [[0.0, 2.0, -1.0]]]])
    yield said, [torch.tensor([[[True, True, False]], [[False, False, True]]])]
    for counts, h, w in (
        ((3,), 9, 14), ((2, 5), 12, 8), ((4, 1, 2), 10, 10), ((6, 0), 7, 9), ((1,), 5, 5),
        ((3, 2), 8, 8), ((0, 0), 12, 14),
    ):  # fmt: skip
        masks = []
        for number, count in enumerate(counts):
            weight = torch.rand(count + 1, 1, 1, generator=generator) * 3
            ids = (torch.rand(count + 1, h, w, generator=generator) * weight).argmax(dim=0)
            own = ids == torch.arange(1, count + 1)[:, None, None]
            if count >= 3 and number == 0:
                own[1] = False  # a crop has left nothing of it
            masks.append(own)
        yield 4 * torch.randn(len(counts), 2, h, w, generator=generator), masks


def learn_from(
    function: Callable, offsets: Tensor, masks: list[Tensor]
) -> dict[str, Tensor | object]:
    """The loss of a batch and its gradient; zeros where the gradient does not arrive."""
    leaf = offsets.clone().requires_grad_()
    value = function(leaf, masks)
    gradient = torch.zeros_like(leaf)
    if isinstance(value, Tensor) and value.requires_grad:
        found = torch.autograd.grad(value.sum(), leaf, allow_unused=True)[0]
        gradient = gradient if found is None else found
    return {"loss": value, "gradient": gradient}


def misses(offsets: Tensor, masks: Sequence[Tensor], norm: Callable) -> list[list[Tensor]]:
    """For each image the misses of the pixels of each of its instances."""
    return [
        [norm(said - centroid_offsets(own)[0])[mask] for mask in own]
        for said, own in zip(offsets, masks, strict=True)
    ]


def euclid(difference):
    return torch.linalg.vector_norm(difference, dim=0)


def balanced(norm: Callable = euclid, per_instance=torch.mean, over: str = "instances") -> Callable:
    """The loss with parts exchanged; `over` says what the instances' values are averaged over."""

    def loss(offsets, masks):
        images = [[m for m in own if len(m)] for own in misses(offsets, masks, norm)]
        values = [per_instance(m) for own in images for m in own]
        if not values:
            return offsets.sum() * 0
        if over == "pixels":
            return torch.cat([m for own in images for m in own]).mean()
        if over == "images":
            means = [torch.stack([per_instance(m) for m in own]).mean() for own in images if own]
            return torch.stack(means).mean()
        if over == "all images":
            return torch.stack(values).sum() / len(masks)
        if over == "nothing":
            return torch.stack(values).sum()
        if over == "empty ones too":
            return torch.stack(values).sum() / sum(len(own) for own in masks)
        return torch.stack(values).mean()

    return loss


@mistake(
    "NaN of an empty mask",
    "Right, except where a mask is empty: the mean of no pixels is NaN, and one NaN ends "
    "the training.",
)
def with_nan(offsets, masks):
    values = [m.mean() for own in misses(offsets, masks, euclid) for m in own]
    return torch.stack(values).mean() if values else offsets.sum() * 0


@mistake(
    "no gradient",
    "The value is right, but no gradient reaches the offsets: what cuts it off?",
)
def detached(offsets, masks):
    return balanced_offset_loss(offsets, masks).detach()


def by_area_root(miss):
    return miss.sum() / len(miss) ** 0.5


BALANCED = Exercise(
    balanced_offset_loss,
    batches,
    points=3,
    minutes=15,
    tolerance=1e-5,
    call=learn_from,
    mistakes=[
        mistake(
            "every pixel the same",
            "This is the lesson's loss: large instances have more pixels and weigh more. What must "
            "be averaged first?",
        )(balanced(over="pixels")),
        mistake(
            "a mean of the images' means",
            "An instance that is alone in its image weighs as much as six that share one. Each "
            "instance of the batch weighs the same.",
        )(balanced(over="images")),
        mistake(
            "divided by the images", "Your sum is right, and you divide it by the number of images."
        )(balanced(over="all images")),
        mistake(
            "the sum over the instances",
            "The instances' means are added up: a scene with more sheep would have a larger loss.",
        )(balanced(over="nothing")),
        mistake(
            "empty masks are counted",
            "Right, except where a mask is empty: it adds nothing to the sum, and you count it.",
        )(balanced(over="empty ones too")),
        with_nan,
        mistake(
            "the sum over the pixels",
            "You add up the pixels of an instance: a large one then weighs more than ever.",
        )(balanced(per_instance=torch.sum)),
        mistake("the square", "You square the distance. The formula has the norm itself.")(
            balanced(norm=lambda difference: difference.square().sum(dim=0))
        ),
        mistake(
            "|dx| + |dy|",
            "You add |dx| and |dy|: that is the way of a taxi. ‖·‖ is the straight line.",
        )(balanced(norm=lambda difference: difference.abs().sum(dim=0))),
        mistake(
            "the root of the area",
            "You divide by the root of the number of pixels: half of the way from the sum to the "
            "mean.",
        )(balanced(per_instance=by_area_root)),
        detached,
    ],
)

# ---------------------------------------------------------------- homework 4. mean_shift


def clouds(generator: torch.Generator) -> Iterator[tuple[Tensor, float, int]]:
    """Heaps and loose clouds of votes, small and large radii; a single vote, no step."""
    yield torch.tensor([[0.0, 0.0], [3.0, 4.0], [3.0, 8.0]]), 5.0, 1  # exactly at the border
    for heaps, each, spread, radius, steps in (
        (3, 20, 2.0, 3.0, 1), (3, 20, 2.0, 3.0, 5), (4, 15, 4.0, 5.0, 8), (1, 40, 6.0, 4.0, 3),
        (2, 12, 1.0, 0.7, 6), (5, 8, 3.0, 9.0, 20), (1, 1, 1.0, 2.0, 4), (2, 10, 2.0, 3.0, 0),
    ):  # fmt: skip
        centre = 30 * torch.rand(heaps, 1, 2, generator=generator, dtype=torch.float64)
        noise = torch.randn(heaps, each, 2, generator=generator, dtype=torch.float64)
        yield (centre + spread * noise).flatten(0, 1), radius, steps


def shifted(
    weigh: Callable | None = None, blur=False, leave_out=False, share=1.0, least_steps=None
):
    """`mean_shift` with parts exchanged; `weigh` makes weights of differences and the radius."""

    def shift(votes, radius, steps):
        walkers = votes
        for _ in range(steps if least_steps is None else min(steps, least_steps)):
            data = walkers if blur else votes
            difference = walkers[:, None] - data
            weights = (weigh or within)(difference, radius).to(votes)
            if leave_out:
                weights = weights * (1 - torch.eye(len(votes), dtype=votes.dtype))
            total = weights.sum(dim=1, keepdim=True)
            goal = torch.where(total > 0, weights @ data / total.clamp(min=1e-12), walkers)
            walkers = walkers + share * (goal - walkers)
        return walkers

    return shift


def within(difference, radius):
    return difference.norm(dim=2) <= radius


def within_square(difference, radius):
    return difference.abs().amax(dim=2) <= radius


def within_taxi(difference, radius):
    return difference.abs().sum(dim=2) <= radius


def within_root(difference, radius):
    return difference.square().sum(dim=2) <= radius


def within_half(difference, radius):
    return difference.norm(dim=2) <= radius / 2


def gaussian(difference, radius):
    return torch.exp(-difference.square().sum(dim=2) / (2 * radius**2))


def hat(difference, radius):
    return (1 - difference.norm(dim=2) / radius).clamp(min=0)


@mistake(
    "a single step",
    "Right for one step. Does the number of steps do anything?",
)
def one_window(votes, radius, steps):
    """Every walker keeps the neighbours of its first place."""
    return shifted()(votes, radius, min(steps, 1))


SHIFT = Exercise(
    mean_shift,
    clouds,
    points=4,
    minutes=30,
    stretch=True,
    tolerance=1e-5,
    call=lambda function, votes, radius, steps: function(votes, radius, steps),
    mistakes=[
        mistake(
            "the votes move along",
            "Right for one step. From the second on your walkers look at walkers, not at the "
            "votes: the heaps melt into each other.",
        )(shifted(blur=True)),
        mistake(
            "a walker leaves its own vote out",
            "You leave a walker's own vote out of the mean. It is a vote like any other.",
        )(shifted(leave_out=True)),
        mistake(
            "a square window",
            "Your neighbourhood is a square: a distance in the plane is ‖·‖, not the larger of "
            "|Δx| and |Δy|.",
        )(shifted(within_square)),
        mistake("|Δx| + |Δy|", "Your neighbourhood is a diamond: you add |Δx| and |Δy|.")(
            shifted(within_taxi)
        ),
        mistake(
            "the radius without its square",
            "You compare the squared distance with the radius itself.",
        )(shifted(within_root)),
        mistake(
            "a gaussian",
            "You weigh all votes with a gaussian, a mean shift too. Asked for is the plain mean of "
            "the votes within the radius.",
        )(shifted(gaussian)),
        mistake(
            "a hat",
            "You weigh near votes more than far ones, as the density of the lesson does. Asked for "
            "is the plain mean.",
        )(shifted(hat)),
        mistake(
            "half of the way",
            "Your walkers go half of the way to the mean. They should stand on it.",
        )(shifted(share=0.5)),
        one_window,
    ],
)

homework = Homework(
    "Homework 06: votes and vectors",
    [INNER, TURN, BALANCED, SHIFT],
    turns=[CENTROIDS, OFFSETS, GROUPS],
)
check, score_board, your_turns = homework.check, homework.score_board, homework.your_turns
