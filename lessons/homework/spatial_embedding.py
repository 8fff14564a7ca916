"""Lesson 08 and its homework: turns and exercises on spatial embeddings, and known mistakes."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lessons.homework.answers.spatial_embedding import (
    centre_gradient,
    hinge_membership,
    second_opinion,
    tilted_numbers,
)
from lessons.kit.data import Segments
from lessons.kit.homework import Exercise, Homework, mistake
from lessons.spatial_embedding import (
    bandwidth,
    cluster_pixels,
    membership,
    pixel_grid,
    seed_loss,
)

MARGIN = math.sqrt(2 * math.log(2))

# ---------------------------------------------------------------- your turn: membership


def one_and_many_centres(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """One centre, several, none; circles and ellipses; double."""
    yield torch.tensor([[[1.0, 3.0]], [[0.0, 2.0]]]), torch.tensor([1.0, 1.0]), torch.tensor([2.0])
    for many, d, h, w, dtype in (
        ((), 2, 5, 7, torch.float32),
        ((3,), 2, 6, 4, torch.float32),
        ((2,), 1, 2, 2, torch.float64),
        ((2,), 2, 3, 5, torch.float32),
        ((0,), 2, 4, 6, torch.float32),
    ):
        embeddings = torch.rand(2, h, w, generator=generator).to(dtype)
        centre = torch.rand(*many, 2, generator=generator).to(dtype)
        yield embeddings, centre, 0.1 + 0.5 * torch.rand(*many, d, generator=generator).to(dtype)


def of_distance(total):
    """`membership` with the distance in σ, (…, 2, h, w), added up in another way."""
    return lambda embeddings, centre, sigma: torch.exp(
        -total((embeddings - centre[..., None, None]) / sigma[..., None, None]) / 2
    )


MEMBERSHIP = Exercise(
    membership,
    one_and_many_centres,
    tolerance=1e-5,
    mistakes=[
        mistake(
            "a diamond",
            "You add up distances along x and y. The formula has the square of a norm: what is "
            "added up there?",
        )(of_distance(lambda away: away.abs().sum(dim=-3))),
        mistake(
            "the square forgotten",
            "The distance is right, the bell is not: in the exponent stands its square.",
        )(of_distance(lambda away: torch.linalg.vector_norm(away, dim=-3))),
    ],
)

# ---------------------------------------------------------------- your turn: cluster_pixels


def maps_to_cluster(generator: torch.Generator) -> Iterator[tuple]:
    """The lesson's row; clusters that overlap, half taken, too small; nothing; other limits."""
    row = torch.tensor([[[2.0, 2.4, 5.0, 5.2, 9.0]], [[0.0, 0.0, 0.0, 0.0, 0.0]]])
    one, limits = torch.ones(1, 1, 5), (0.5, 0.5, 1)
    some = [0, 1, 2, 4]  # few enough to be told whole
    yield row[..., some], one[..., :4], torch.tensor([[0.9, 0.8, 0.95, 0.3]]), *limits
    yield row, one, torch.tensor([[0.9, 0.8, 0.95, 0.6, 0.3]]), *limits
    chain = torch.tensor([[[0.0, 1.0, 2.0, 2.1, 9.0]], [[0.0, 0.0, 0.0, 0.0, 0.0]]])
    seeds = torch.tensor([[0.9, 0.6, 0.8, 0.7, 0.95]])
    yield chain, one, seeds, *limits  # one of three is taken
    yield chain[..., :3], one[..., :3], seeds[..., :3], *limits  # one of two
    yield chain, one, seeds, 0.5, 0.5, 2  # exactly enough
    yield chain, one, seeds, 0.5, 0.5, 3  # enough with the taken one, which no cluster took
    yield chain, torch.tensor([[[1.0, 0.1, 1.5, 1.0, 1.0]]]), seeds, *limits  # one of three
    yield chain, one, torch.tensor([[0.9, 0.85, 0.6, 0.55, 0.3]]), *limits  # a silenced one is next
    exact = torch.tensor([[0.5, 0.25, 0.8, 0.7, 0.3]])
    yield chain, one, exact, 0.25, 0.5, 1  # exactly the foreground's seed, exactly the threshold
    e = torch.cat([torch.zeros(9), torch.full((7,), 9.0), torch.full((8,), 20.0)])
    seeds = torch.cat([torch.tensor([0.375]), torch.full((15,), 0.75), torch.full((8,), 0.375)])
    yield torch.stack([e, 0 * e])[:, None], torch.ones(1, 1, 24), seeds[None]  # the usual limits
    yield chain, one, torch.full((1, 5), 0.2), *limits
    for d, h, w, foreground, threshold, smallest, dtype in (
        (1, 7, 9, 0.3, 0.5, 2, torch.float32),
        (2, 8, 8, 0.0, 0.4, 3, torch.float64),
        (2, 9, 6, 0.5, 0.8, 1, torch.float32),
        (1, 6, 11, 0.2, 0.0, 4, torch.float32),
    ):
        gather = torch.randint(4, (2, h, w), generator=generator).to(dtype)
        embeddings = gather + 0.3 * torch.randn(2, h, w, generator=generator).to(dtype)
        sigma = 0.2 + 0.8 * torch.rand(d, h, w, generator=generator).to(dtype)
        seeds = torch.rand(h, w, generator=generator).to(dtype)
        yield embeddings, sigma, seeds, foreground, threshold, smallest


def clusters(limit=MARGIN**2, whose=None, fill=None, count=None, silence=None, frees=None):
    """`cluster_pixels` with another margin, σ, filling, number, silence or freedom."""

    def found(embeddings, sigma, seeds, foreground=0.5, threshold=0.5, smallest=8):
        place = torch.where(seeds.flatten() > foreground)[0]
        e, width = embeddings.flatten(1)[:, place], sigma.flatten(1)[:, place]
        rest, scores = seeds.flatten()[place], []
        number, free = torch.full_like(place, -1), torch.ones_like(place, dtype=torch.bool)
        while len(rest):
            score, best = rest.max(dim=0)
            if score <= 0 or score < threshold:
                break
            own = width if whose else width[:, best, None]
            members = ((e - e[:, best, None]) / own).square().sum(dim=0) < limit
            accepted = members.sum() >= smallest and 2 * (members & free).sum() > members.sum()
            if accepted:
                number[members if fill else members & free] = len(scores) + (count or 0)
                scores.append(score.item())
            if accepted or not frees:
                free[members] = False
            rest[best] = 0
            if not silence:
                rest[members] = 0
        instances = torch.full(seeds.shape, -1, dtype=torch.int64)
        instances.view(-1)[place] = number
        return instances, torch.tensor(scores)

    return found


CLUSTER = Exercise(
    cluster_pixels,
    maps_to_cluster,
    tolerance=1e-5,
    mistakes=[
        mistake(
            "the σ of each pixel",
            "You measure each pixel by its own σ. Whose bandwidth decides who is a member?",
        )(clusters(whose=True)),
        mistake("the margin is not σ", "Where is φ above ½? The margin is wider than one σ.")(
            clusters(limit=1.0)
        ),
        mistake(
            "members of others are taken",
            "You overwrite pixels that belong to an earlier cluster. It takes the free ones alone.",
        )(clusters(fill=True)),
        mistake(
            "numbers from 1",
            "The clusters are right, their numbers are one too high: how many scores are there "
            "when the first one gets its number?",
        )(clusters(count=1)),
        mistake(
            "only one is silenced",
            "Pixels that are members already speak again. Of whom must the seed be gone?",
        )(clusters(silence=True)),
        mistake(
            "only accepted clusters count",
            "Members of a cluster that was not accepted stay free in yours. What does step 4 say?",
        )(clusters(frees=True)),
    ],
)

# ---------------------------------------------------------------- your turn: seed_loss


def seeds_and_things(generator: torch.Generator) -> Iterator[tuple]:
    """The lesson's row; several things of a class, none, crowds, other weights; double."""
    tiny = Segments(torch.tensor([[[True, True, False, False]]]), torch.tensor([0]))
    phi = torch.tensor([[[0.9, 0.5, 0.3, 0.0]]])
    everywhere = torch.ones(1, 4, dtype=torch.bool)
    yield torch.tensor([[[0.9, 0.7, 0.1, 0.0]]]), phi, tiny, everywhere
    for k, labels, h, w, weight, share, dtype in (
        (3, [2, 0, 2], 6, 8, 10.0, 1.0, torch.float32),
        (2, [1, 1], 5, 7, 3.0, 0.7, torch.float32),
        (2, [], 4, 6, 10.0, 0.8, torch.float32),
        (3, [1, 2, 0, 1], 7, 5, 10.0, 0.6, torch.float64),
    ):
        owner = torch.randint(-1, max(len(labels), 1), (h, w), generator=generator)
        masks = owner == torch.arange(len(labels))[:, None, None]
        seeds = torch.rand(k, h, w, generator=generator).to(dtype)
        phi = torch.rand(len(labels), h, w, generator=generator).to(dtype)
        counted = torch.rand(h, w, generator=generator) < share
        target = Segments(masks, torch.tensor(labels, dtype=torch.int64))
        yield seeds, phi, target, counted, weight


def who_learns(
    function: Callable,
    seeds: Tensor,
    phi: Tensor,
    target: Segments,
    counted: Tensor,
    *foreground_weight: float,
) -> dict[str, Tensor]:
    """The loss, and what the seeds and φ hear of it."""
    leaves = [seeds.clone().requires_grad_(), phi.clone().requires_grad_()]
    loss = function(leaves[0], leaves[1], target, counted, *foreground_weight)
    heard: list[Tensor | None] = [None, None]
    if isinstance(loss, Tensor) and loss.requires_grad:
        heard = list(torch.autograd.grad(loss.sum(), leaves, allow_unused=True))
    names = "gradient of the seeds", "gradient of phi"
    zeros = {
        name: torch.zeros_like(leaf) if g is None else g
        for name, leaf, g in zip(names, leaves, heard, strict=True)
    }
    return {"loss": loss, **zeros}


def seed_error(fixed=True, outside=False, weigh_all=False, want_all=False, divide=None):
    """`seed_loss` with another target, weight or divisor."""

    def loss(seeds, phi, target, counted, foreground_weight=10.0):
        wanted, weight = torch.zeros_like(seeds), torch.ones_like(seeds)
        for mask, label, own in zip(target.masks, target.labels, phi, strict=True):
            own, label = own.detach() if fixed else own, int(label)
            rows = slice(None) if want_all else slice(label, label + 1)
            wanted = wanted.clone()
            wanted[rows] = own if outside else torch.where(mask, own, wanted[rows])
            rows = slice(None) if weigh_all else slice(label, label + 1)
            weight[rows] = torch.where(mask, foreground_weight, weight[rows]).to(weight)
        error = weight * (seeds - wanted).square() * counted
        return error.sum() / (divide(seeds, counted) if divide else counted.numel())

    return loss


SEEDS = Exercise(
    seed_loss,
    seeds_and_things,
    tolerance=1e-5,
    call=who_learns,
    mistakes=[
        mistake(
            "φ learns from it",
            "The loss is right, but φ hears of it: seeds follow φ and must not change it.",
        )(seed_error(fixed=False)),
        mistake(
            "φ outside of the thing",
            "You want φ in the whole map. Outside of the things of the class a seed should be 0.",
        )(seed_error(outside=True)),
        mistake(
            "the weight in every class",
            "A pixel of a sheep counts more in the sheep's map. In yours it does in every class's.",
        )(seed_error(weigh_all=True)),
        mistake(
            "φ in every class",
            "A sheep's φ is wanted in the sheep's map alone. In yours every class should have it.",
        )(seed_error(want_all=True)),
        mistake(
            "the mean over the counted",
            "You divide by the pixels that count. N is the number of all pixels of the image.",
        )(seed_error(divide=lambda seeds, counted: counted.sum())),
        mistake(
            "the mean over classes too",
            "You divide by pixels times classes. The formula adds the classes up.",
        )(seed_error(divide=lambda seeds, counted: seeds.numel())),
    ],
)

# ---------------------------------------------------------------- homework 1. second_opinion


def noisy_maps(generator: torch.Generator) -> Iterator[tuple]:
    """Circles and ellipses; an s that is rough, one that is smooth; a pixel that is alone."""
    tiny = torch.tensor([[[0.1, 0.3, 0.7]], [[0.5, 0.5, 0.5]]])
    s, everywhere = torch.tensor([[[0.1, 0.2, 0.4]]]), torch.ones(1, 3, dtype=torch.bool)
    yield tiny, s, everywhere, (0, 1)
    for d, h, w, noise, off, dtype in (
        (1, 12, 17, 0.12, 0.08, torch.float32),
        (2, 15, 13, 0.12, -0.1, torch.float64),
        (2, 16, 16, 0.2, 0.08, torch.float32),
        (1, 9, 20, 0.2, -0.1, torch.float64),
        (2, 12, 12, 0.0, 0.0, torch.float32),
    ):
        x = pixel_grid((h, w)).to(dtype)
        embeddings = x + 0.05 * torch.randn(2, h, w, generator=generator, dtype=dtype)
        level = torch.tensor([0.17, 0.24], dtype=dtype)[:d, None, None]
        s = level + noise * torch.randn(d, h, w, generator=generator, dtype=dtype)
        s += 0.1 * (x[:1] - 0.5)  # far away it is another
        foreground = torch.rand(h, w, generator=generator) < 0.7
        best = h // 2, w // 2
        s[:, best[0], best[1]] = level[:, 0, 0] + off  # the one that decides is wrong
        foreground[best] = True
        yield embeddings, s, foreground, best
    far = pixel_grid((5, 6))
    yield far, torch.full((1, 5, 6), 1.0), torch.ones(5, 6, dtype=torch.bool), (0, 3)


def opinion(
    mean=lambda s, asked: s[:, asked].mean(dim=1),
    sigma=bandwidth,
    ask_background=False,
    take_background=False,
    both=False,
    move=False,
    rounds=1,
):
    """`second_opinion` with one of its parts exchanged."""

    def members(embeddings, s, foreground, best):
        everywhere = torch.ones_like(foreground)
        centre = embeddings[:, best[0], best[1]]
        own = membership(embeddings, centre, bandwidth(s[:, best[0], best[1]])) > 0.5
        asked = own & (everywhere if ask_background else foreground)
        for _ in range(rounds):
            agreed = sigma(mean(s, asked if mean is not of_all else foreground))
            if move:
                centre = embeddings[:, asked].mean(dim=1)
            found = membership(embeddings, centre, agreed) > 0.5
            found &= everywhere if take_background else foreground
            asked = asked & found if both else found
        return asked

    return members


def of_all(s, foreground):
    return s[:, foreground].mean(dim=1)


def of_sigma(s, asked):
    return bandwidth(s)[:, asked].mean(dim=1)


def of_both_axes(s, asked):
    return s[:, asked].mean()[None]


def of_median(s, asked):
    return s[:, asked].median(dim=1).values


OPINION = Exercise(
    second_opinion,
    noisy_maps,
    points=3,
    minutes=15,
    mistakes=[
        mistake(
            "the pixel still decides alone",
            "These are the members by the deciding pixel's own bandwidth, as in the lesson. They "
            "are the ones to be asked.",
        )(opinion(rounds=0)),
        mistake(
            "the mean of σ",
            "You take the mean of the bandwidths. Of what does the training take the mean, and is "
            "a mean of exp(−5s) the exp of the mean?",
        )(opinion(of_sigma, lambda sigma: sigma)),
        mistake(
            "all of the foreground is asked",
            "You ask all pixels of the foreground. Other instances have bandwidths of their own: "
            "who is asked?",
        )(opinion(of_all)),
        mistake(
            "the background is asked too",
            "Your answer is cut to the foreground, but the background was asked as well, and "
            "nobody ever taught it an s.",
        )(opinion(ask_background=True)),
        mistake(
            "background in the answer",
            "The right pixels are asked. But your answer also takes pixels that are not "
            "foreground.",
        )(opinion(take_background=True)),
        mistake(
            "only those who were asked",
            "Your instance can only shrink: a pixel that the first bandwidth left out never "
            "comes in. The second opinion replaces the first.",
        )(opinion(both=True)),
        mistake(
            "one number for both axes",
            "Right for a circle. Of an ellipse you mix the two numbers: over what is the mean?",
        )(opinion(of_both_axes)),
        mistake(
            "the centre moves",
            "You move the centre to the mean of those who were asked. Only the bandwidth was to "
            "be agreed on.",
        )(opinion(move=True)),
        mistake(
            "asked again", "You ask a third time. That may be good, but it was one second opinion."
        )(opinion(rounds=2)),
        mistake(
            "the median",
            "You take the median. It resists outliers, but the training knows the mean.",
        )(opinion(of_median)),
    ],
)

# ---------------------------------------------------------------- homework 2. hinge_membership


def far_and_near(generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Circles and ellipses, near and far; pixels exactly at the centre, none at a kink."""
    tiny = torch.tensor([[[0.3, 1.0]], [[0.4, 0.5]]])
    yield tiny, torch.tensor([0.0, 0.2]), torch.tensor([1.0])
    for d, h, w, spread, dtype in (
        (1, 7, 9, 1.0, torch.float64),
        (2, 8, 5, 2.0, torch.float32),
        (2, 6, 6, 0.3, torch.float64),
        (1, 5, 8, 5.0, torch.float32),
    ):
        embeddings = spread * torch.randn(2, h, w, generator=generator, dtype=dtype)
        sigma = 0.4 + torch.rand(d, generator=generator, dtype=dtype)
        yield embeddings, 0.2 * torch.randn(2, generator=generator, dtype=dtype), sigma
    centre = torch.tensor([0.3, -0.2], dtype=torch.float64)
    embeddings = centre[:, None, None] + torch.randn(2, 3, 4, generator=generator).double()
    embeddings[:, 1, 2] = centre  # this pixel points exactly at the centre
    yield embeddings, centre, torch.tensor([0.9, 1.4], dtype=torch.float64)


def with_gradients(
    function: Callable, embeddings: Tensor, centre: Tensor, sigma: Tensor
) -> dict[str, Tensor]:
    """φ, and what embeddings and σ hear of it; zeros where no gradient arrives."""
    leaves = [embeddings.clone().requires_grad_(), sigma.clone().requires_grad_()]
    phi = function(leaves[0], centre, leaves[1])
    heard: list[Tensor | None] = [None, None]
    if isinstance(phi, Tensor) and phi.requires_grad:
        weight = torch.linspace(-1, 2, phi.numel(), dtype=phi.dtype).view(phi.shape)
        heard = list(torch.autograd.grad((weight * phi).sum(), leaves, allow_unused=True))
    names = "gradient of embeddings", "gradient of sigma"
    zeros = {
        name: torch.zeros_like(leaf) if g is None else g
        for name, leaf, g in zip(names, leaves, heard, strict=True)
    }
    return {"phi": phi, **zeros}


def in_sigmas(embeddings, centre, sigma):
    return (embeddings - centre[:, None, None]) / sigma[:, None, None]


def hinge(norm=lambda away: torch.linalg.vector_norm(away, dim=0), margin=MARGIN, flank=None):
    """`hinge_membership` with another norm, margin or flank."""
    flank = flank or (lambda r: (1 - r / 2).relu())

    def phi(embeddings, centre, sigma):
        return flank(norm(in_sigmas(embeddings, centre, sigma)) / margin)

    return phi


@mistake(
    "a hinge for each axis",
    "You multiply a hinge along x and one along y. For the Gaussian that is the same as "
    "one of the distance; for a hinge it is not.",
)
def hinges_multiplied(embeddings, centre, sigma):
    away = in_sigmas(embeddings, centre, sigma).abs() / MARGIN
    return (1 - away / 2).relu().prod(dim=0)


@mistake(
    "the hinge loss itself",
    "This is the margin loss: 0 near the centre, and growing. A membership is 1 at the "
    "centre and falls.",
)
def hinge_loss_itself(embeddings, centre, sigma):
    away = torch.linalg.vector_norm(in_sigmas(embeddings, centre, sigma), dim=0)
    return (away - MARGIN).relu()


@mistake(
    "no gradient",
    "The values are right, but embeddings and sigma hear nothing of them.",
)
def hinge_detached(embeddings, centre, sigma):
    return hinge_membership(embeddings.detach(), centre, sigma.detach())


HINGE = Exercise(
    hinge_membership,
    far_and_near,
    points=4,
    minutes=20,
    tolerance=1e-5,
    call=with_gradients,
    mistakes=[
        mistake(
            "0 at the border",
            "Your hill has come down to 0 where it should be ½: the masks would be a quarter of "
            "the area. How far does the flank reach?",
        )(hinge(flank=lambda r: (1 - r).relu())),
        mistake("½ at σ", "Your φ is ½ at a distance of σ. Where is exp(−d²/2) equal to ½?")(
            hinge(margin=1.0)
        ),
        mistake("below 0", "The flank is right, and goes on below 0. What makes a hinge of it?")(
            hinge(flank=lambda r: 1 - r / 2)
        ),
        mistake(
            "NaN at the centre",
            "The values are right. But a pixel that points exactly at its centre has the gradient "
            "NaN, and it is the best pixel there is: what is the slope of a square root at 0?",
        )(hinge(norm=lambda away: away.square().sum(dim=0).sqrt())),
        mistake(
            "a diamond",
            "Your border is a diamond. The Gaussian's is an ellipse: how do the distances along x "
            "and y add up?",
        )(hinge(norm=lambda away: away.abs().sum(dim=0))),
        mistake(
            "a box",
            "Your border is a box: the larger of the two distances counts alone. The Gaussian's "
            "is an ellipse.",
        )(hinge(norm=lambda away: away.abs().amax(dim=0))),
        mistake(
            "a parabola",
            "½ at the border, but the flank is bent: you take the square of the distance. The "
            "line was to be straight.",
        )(hinge(flank=lambda r: (1 - r.square() / 2).relu())),
        mistake(
            "a plateau",
            "½ at the border, but your hill is flat on top: 1 not only at the centre. Nobody in "
            "there hears anything.",
        )(hinge(flank=lambda r: (1.5 - r).clamp(0, 1))),
        hinges_multiplied,
        hinge_loss_itself,
        hinge_detached,
    ],
)

# ---------------------------------------------------------------- homework 3. centre_gradient


def errors_that_arrive(generator: torch.Generator) -> Iterator[tuple]:
    """Small and large instances, one pixel, the whole image; errors inside and outside."""
    tiny = torch.tensor([[[0.0, 1.0, 2.0]], [[1.0, 0.0, 1.0]]])
    mask, error = torch.tensor([[True, True, False]]), torch.tensor([[1.0, -1.0, 2.0]])
    yield tiny, mask, torch.tensor([1.0, 2.0]), error
    for h, w, share, dtype in (
        (6, 8, 0.3, torch.float64),
        (9, 5, 0.6, torch.float32),
        (7, 7, 0.0, torch.float64),
        (4, 6, 1.0, torch.float64),
        (10, 12, 0.2, torch.float32),
    ):
        embeddings = 0.6 * torch.randn(2, h, w, generator=generator, dtype=dtype)
        mask = torch.rand(h, w, generator=generator) < share
        mask[h // 2, w // 2] = True
        sigma = 0.5 + torch.rand(2, generator=generator, dtype=dtype)
        yield embeddings, mask, sigma, torch.randn(h, w, generator=generator, dtype=dtype)


def passed_on(
    direct=1.0, members_only=False, divide=True, to_all=False, factor=1.0, power=2, hill=True
):
    """`centre_gradient` with one of its parts exchanged."""

    def heard(embeddings, mask, sigma, error):
        centre = embeddings[:, mask].mean(dim=1)
        away = (embeddings - centre[:, None, None]) / sigma.pow(power)[:, None, None]
        phi = membership(embeddings, centre, sigma) if hill else torch.ones_like(error)
        pull = factor * error * phi * away
        total = (pull * mask if members_only else pull).sum(dim=(1, 2), keepdim=True)
        listeners = torch.ones_like(mask) if to_all else mask
        share = listeners * total / (listeners.sum() if divide else 1)
        return share - direct * pull

    return heard


@mistake(
    "the centre stands still",
    "This is right for a centre that does not move. Here it is a mean of embeddings: what "
    "does it pass on to those it is the mean of?",
)
def centre_stands_still(embeddings, mask, sigma, error):
    return centre_gradient(embeddings, mask, sigma, error) - passed_on(0.0)(
        embeddings, mask, sigma, error
    )


@mistake(
    "the other sign",
    "The size is right, the sign is not. An error of +1 says that φ is too large: a "
    "gradient points to where it becomes larger still.",
)
def centre_other_sign(embeddings, mask, sigma, error):
    return -centre_gradient(embeddings, mask, sigma, error)


@mistake(
    "the centre pushes",
    "What comes through the centre has the wrong sign: φ depends on e − C, so C hears "
    "the opposite of what e hears.",
)
def centre_pushes(embeddings, mask, sigma, error):
    own = centre_stands_still(embeddings, mask, sigma, error)
    return 2 * own - centre_gradient(embeddings, mask, sigma, error)


@mistake(
    "the background hears nothing",
    "Right inside of the mask. A pixel of the background has a φ too, and is to learn to "
    "point elsewhere.",
)
def background_is_silent(embeddings, mask, sigma, error):
    return mask * centre_gradient(embeddings, mask, sigma, error)


GRADIENT = Exercise(
    centre_gradient,
    errors_that_arrive,
    points=4,
    minutes=25,
    forbidden=("torch.autograd.grad", "torch.Tensor.backward"),
    tolerance=1e-5,
    mistakes=[
        centre_stands_still,
        mistake(
            "only through the centre",
            "This is what arrives through the centre. A pixel is also in its own φ.",
        )(passed_on(0.0)),
        centre_other_sign,
        centre_pushes,
        mistake(
            "only the members' errors",
            "The centre hears from the members only in yours. It also stands in the φ of every "
            "pixel of the background.",
        )(passed_on(members_only=True)),
        mistake(
            "the sum, not the mean",
            "Each member gets all of what the centre hears. The centre is a mean of n: how far "
            "does it move when one embedding moves?",
        )(passed_on(divide=False)),
        mistake(
            "passed on to everybody",
            "You pass on what the centre hears to all pixels of the image. Of whose embeddings is "
            "it the mean?",
        )(passed_on(to_all=True)),
        mistake(
            "twice as large", "Twice as large as it should be: where is the ½ of the exponent?"
        )(passed_on(factor=2.0)),
        mistake("σ, not σ²", "You divide by σ once. What is the derivative of (e − C)²/(2σ²)?")(
            passed_on(power=1)
        ),
        mistake(
            "φ forgotten",
            "The derivative of exp(z) is exp(z) times the derivative of z. You have the second "
            "factor.",
        )(passed_on(hill=False)),
        background_is_silent,
    ],
)

# ---------------------------------------------------------------- homework 4. tilted_numbers


def covariances(generator: torch.Generator) -> Iterator[tuple[Tensor]]:
    """Round, along the axes, tilted to both sides, thin; one, none."""
    yield (torch.tensor([[[0.5, 0.2], [0.2, 0.4]]]).double(),)
    for n, size, dtype in (
        (6, 1.0, torch.float64),
        (4, 0.1, torch.float64),
        (1, 3.0, torch.float32),
        (0, 1.0, torch.float32),
    ):
        angle = math.pi * torch.rand(n, generator=generator, dtype=dtype)
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2)
        axes = size * (0.3 + torch.rand(n, 2, generator=generator, dtype=dtype))
        yield (turn @ torch.diag_embed(axes.square()) @ turn.mT,)
    straight = torch.tensor([[[0.04, 0.0], [0.0, 0.09]], [[0.5, 0.0], [0.0, 0.5]]])
    yield (straight.double(),)


def numbers(matrix=lambda covariance: torch.linalg.inv(covariance) / 2, solve=None, exponent=5):
    """`tilted_numbers` with another matrix, another factor of it, or another exponent."""

    def lower(M):
        b = M[:, 1, 1].sqrt()
        t = M[:, 0, 1] / b
        return (M[:, 0, 0] - t.square()).clamp(min=1e-12).sqrt(), b, t

    def found(covariance):
        a, b, t = (solve or lower)(matrix(covariance))
        return torch.stack([a.log() / exponent, b.log() / exponent, t], dim=1)

    return found


def from_cholesky(M):
    L = torch.linalg.cholesky(M)
    return L[:, 0, 0], L[:, 1, 1], L[:, 1, 0]


def from_diagonal(M):
    return M[:, 0, 0].sqrt(), M[:, 1, 1].sqrt(), 0 * M[:, 0, 1]


def t_as_it_stands(M):
    a, b, _ = exact(M)
    return a, b, M[:, 0, 1]


def t_forgotten(M):
    _, b, t = exact(M)
    return M[:, 0, 0].sqrt(), b, t


def other_side(M):
    a, b, t = exact(M)
    return a, b, -t


def exact(M):
    b = M[:, 1, 1].sqrt()
    t = M[:, 0, 1] / b
    return (M[:, 0, 0] - t.square()).sqrt(), b, t


def one_over(covariance):
    return torch.diag_embed(1 / (2 * covariance.diagonal(dim1=1, dim2=2)))


TILTED = Exercise(
    tilted_numbers,
    covariances,
    points=4,
    minutes=30,
    forbidden=("loops",),
    stretch=True,
    tolerance=1e-4,
    mistakes=[
        mistake(
            "the ½ is missing",
            "Your ellipse is too small by a factor of √2: AᵀA is not the whole of the inverse. "
            "Compare the two exponents.",
        )(numbers(torch.linalg.inv)),
        mistake("not inverted", "Your A belongs to Σ itself: a wide ellipse becomes a narrow one.")(
            numbers(lambda covariance: covariance / 2)
        ),
        mistake(
            "Cholesky's factor",
            "Cholesky gives a lower L with L Lᵀ. Here the lower matrix stands on the right: Aᵀ A. "
            "Multiply it out, and see where t and which entry of M meet.",
        )(numbers(solve=from_cholesky)),
        mistake(
            "the inverse's diagonal alone",
            "Right along the axes. For an ellipse that lies askew t is not 0.",
        )(numbers(solve=from_diagonal)),
        mistake(
            "the variances alone",
            "This is the ellipse along the axes with the right variances, the lesson's. One of "
            "its two numbers is right even here: which one, and why?",
        )(numbers(one_over, solve=from_diagonal)),
        mistake(
            "t to the other side",
            "Your ellipse leans to the other side. What is the sign of the inverse's entry, and "
            "what is divided by b?",
        )(numbers(solve=other_side)),
        mistake(
            "t is the entry itself",
            "Your t is the entry beside the diagonal of M. In AᵀA there stands t times something.",
        )(numbers(solve=t_as_it_stands)),
        mistake(
            "t forgotten in the first entry",
            "Two numbers are right. The first entry of AᵀA is not only a²: t is in it, too.",
        )(numbers(solve=t_forgotten)),
        mistake(
            "a root too few",
            "Your s is twice as large as it should be: exp(5 s) stands in A, exp(10 s) in AᵀA.",
        )(numbers(exponent=2.5)),
        mistake(
            "a root too many",
            "Your s is half as large as it should be: exp(5 s) stands in A, exp(10 s) in AᵀA.",
        )(numbers(exponent=10)),
    ],
)

homework = Homework(
    "Homework 08: spatial embeddings",
    [OPINION, HINGE, GRADIENT, TILTED],
    turns=[MEMBERSHIP, CLUSTER, SEEDS],
)
check, score_board, your_turns = homework.check, homework.score_board, homework.your_turns
