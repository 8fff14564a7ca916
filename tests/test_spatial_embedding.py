"""Lesson 08 against fixtures computed by hand and against plain loops over pixels."""

import json
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lessons.kit.data import Segments, empty_segments, is_crowd
from lessons.kit.data.scenes import Scenes, scene
from lessons.kit.models.images import batch_images
from lessons.kit.training.recorded import recipe_of
from lessons.spatial_embedding import (
    SpatialEmbeddingNet,
    balanced_cross_entropy_loss,
    bandwidth,
    centroid,
    cluster_classes,
    cluster_pixels,
    cross_entropy_loss,
    embedding_losses,
    instance_terms,
    lovasz_loss,
    mean_embedding,
    mean_over,
    membership,
    pixel_grid,
    recipe,
    seed_loss,
    soft_dice_loss,
)

T = 4
BORDER = math.sqrt(2 * math.log(2))  # φ is ½ at this many σ
seeds = st.integers(0, 10**6)


def things_of(sample):
    """The things of a sample that can be learned: no crowds."""
    answer = sample.segments
    return answer[(answer.labels < T) & ~is_crowd(answer)]


def partition(generator, n, h, w, share=0.3):
    """n disjoint masks of at least one pixel, and pixels of none."""
    owner = torch.randint(n, (h, w), generator=generator)
    owner[torch.rand(h, w, generator=generator) < share] = n
    owner.view(-1)[torch.randperm(h * w, generator=generator)[:n]] = torch.arange(n)
    return owner == torch.arange(n)[:, None, None]


def random_maps(generator, b=1, d=2, k=2, size=(5, 6), unit=4.0):
    """Embeddings near their pixels, s, seeds, in float64, that want gradients."""
    maps = [torch.randn(b, c, *size, generator=generator, dtype=torch.float64) for c in (2, d, k)]
    embeddings = pixel_grid(size, unit).double() + 0.3 * maps[0]
    return [m.requires_grad_() for m in (embeddings, 0.05 * maps[1] + 0.1, maps[2].sigmoid())]


# ---------------------------------------------------------------- grid, φ, σ, centres


def test_the_grid_holds_the_centres_of_the_pixels():
    assert pixel_grid((2, 3), 1.0).tolist() == [
        [[0.5, 1.5, 2.5], [0.5, 1.5, 2.5]],
        [[0.5, 0.5, 0.5], [1.5, 1.5, 1.5]],
    ]
    # Without a unit the longer side is 1: pixels are a quarter wide.
    wide, tall = pixel_grid((2, 4)), pixel_grid((4, 2))
    assert wide[0, 0].tolist() == tall[1, :, 0].tolist() == [0.125, 0.375, 0.625, 0.875]
    assert wide[1, :, 0].tolist() == [0.125, 0.375]
    # With one, a crop is a part of the image's grid.
    assert torch.equal(pixel_grid((3, 5), 64.0), pixel_grid((9, 9), 64.0)[:, :3, :5])


def test_membership_by_hand():
    embeddings = torch.tensor([[[0.0, 1.0, 3.0]], [[0.0, 0.0, 4.0]]])
    # From (0, 0) with σ = 2: distances 0, 1, 5, so exp of 0, −1/8, −25/8.
    found = membership(embeddings, torch.zeros(2), torch.tensor([2.0]))
    torch.testing.assert_close(found, torch.tensor([[1, math.exp(-1 / 8), math.exp(-25 / 8)]]))
    # σ = (1, 2): the last is (3/1)² + (4/2)² = 13.
    found = membership(embeddings, torch.zeros(2), torch.tensor([1.0, 2.0]))
    torch.testing.assert_close(found, torch.tensor([[1, math.exp(-1 / 2), math.exp(-13 / 2)]]))


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(1, 2))
def test_membership_is_1_at_the_centre_and_half_at_the_border(seed, d):
    generator = torch.Generator().manual_seed(seed)
    centre, angle = torch.randn(2, generator=generator), torch.rand(20, generator=generator)
    sigma = 0.1 + torch.rand(d, generator=generator)
    circle = torch.stack([(2 * math.pi * angle).cos(), (2 * math.pi * angle).sin()])
    border = circle * sigma[:, None] * BORDER
    rows = [centre[:, None] + share * border for share in (0, 0.9, 1, 1.1)]
    phi = membership(torch.stack(rows, dim=1), centre, sigma)
    torch.testing.assert_close(phi[0], torch.ones(20))
    torch.testing.assert_close(phi[2], torch.full((20,), 0.5), atol=1e-5, rtol=0)
    assert (phi[1] > 0.5).all() and (phi[3] < 0.5).all()


def test_a_circle_is_an_ellipse_of_equal_axes_and_centres_do_not_disturb_each_other():
    generator = torch.Generator().manual_seed(0)
    embeddings, centres = torch.randn(2, 4, 5, generator=generator), torch.randn(3, 2)
    sigma = torch.rand(3, 1) + 0.5
    together = membership(embeddings, centres, sigma)
    assert together.shape == (3, 4, 5)
    torch.testing.assert_close(together, membership(embeddings, centres, sigma.expand(3, 2)))
    for phi, centre, own in zip(together, centres, sigma, strict=True):
        torch.testing.assert_close(phi, membership(embeddings, centre, own))
    assert membership(embeddings, centres[:0], sigma[:0]).shape == (0, 4, 5)


def test_bandwidth_is_what_the_network_means():
    s = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64).view(31, 1)
    torch.testing.assert_close((10 * s).exp(), 1 / (2 * bandwidth(s).square()))
    # exp(10 · 0) = 1 = 1/(2σ²): σ = 1/√2. With it φ is exp(−d² exp(10 s)).
    assert bandwidth(torch.zeros(1)).item() == pytest.approx(math.sqrt(0.5))
    at = torch.tensor([[[0.3]], [[0.0]]], dtype=torch.float64)
    for one in s:
        phi = membership(at, torch.zeros(2).double(), bandwidth(one))
        assert phi.item() == pytest.approx(math.exp(-(0.3**2) * math.exp(10 * one.item())))


def test_means_and_centres_by_hand():
    masks = torch.tensor([[[1, 1, 0], [1, 0, 0]], [[0, 0, 0], [0, 0, 1]]]).bool()
    grid = pixel_grid((2, 3), 1.0)
    pointing = grid + torch.tensor([6.0, -3.0])[:, None, None]
    pointing[0, 0, 0] += 3  # one of three pixels: the mean moves by 1
    # (0.5 + 1.5 + 0.5) / 3 = 5/6, and the same down; the other is a single pixel.
    C = torch.tensor([[5 / 6, 5 / 6], [2.5, 1.5]])
    torch.testing.assert_close(centroid(masks, pointing, grid), C)
    moved = C + torch.tensor([[7.0, -3.0], [6.0, -3.0]])
    torch.testing.assert_close(mean_embedding(masks, pointing, grid), moved)
    torch.testing.assert_close(mean_over(masks, grid[:1]), C[:, :1])
    assert mean_over(masks[:0], grid).shape == (0, 2)


def test_means_are_exact_in_a_half_precision_training_step():
    """Under autocast a matrix product is done in bfloat16, which knows a centre to ⅓ of a pixel."""
    masks, grid = things_of(scene(0, 3)).masks, pixel_grid((128, 128), 64.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mean_over(masks, grid)
    assert ((found - mean_over(masks, grid)).abs() * 64).max() < 1e-3


# ---------------------------------------------------------------- losses, by hand


def test_losses_by_hand():
    """Three pixels in a row, the first two an instance.

    Both point at (1, ½), which is their mean, and the third 2 beside it. Their mean s makes φ = ½
    at a distance of 2, so φ = 1, 1, ½, and the logits 2φ − 1 are 1, 1, 0. The hinge errors are
    0, 0, 1: only the third pixel, painted on the background, is wrong by 1, and the Jaccard
    loss of that is 1 − 2/3 = 1/3.
    Variance: s is 0.1 above and below its mean: 0.01.
    Seeds: 10 · (½ − 1)² + 10 · (1 − 1)² + (0.2 − 0)² = 2.54, over three pixels.
    """
    embeddings = torch.tensor([[[1.0, 1.0, 3.0]], [[0.5, 0.5, 0.5]]])
    middle = math.log(math.log(2) / 4) / 10  # exp(10 s) · 2² = ln 2
    s = torch.tensor([[[middle + 0.1, middle - 0.1, 7.0]]])
    seed = torch.tensor([[[0.5, 1.0, 0.2]]])
    target = Segments(torch.tensor([[[True, True, False]]]), torch.tensor([0]))
    grid, everywhere = pixel_grid((1, 3), 1.0), torch.ones(1, 3, dtype=torch.bool)

    phi, variance = instance_terms(embeddings, s, target, grid, mean_embedding)
    torch.testing.assert_close(phi, torch.tensor([[[1.0, 1.0, 0.5]]]))
    torch.testing.assert_close(variance, torch.tensor([0.01]))
    torch.testing.assert_close(lovasz_loss(phi, target.masks), torch.tensor([1 / 3]))
    # The rival asks for −ln φ, −ln φ, −ln(1 − φ): 0, 0, ln 2, and takes the mean.
    rival = cross_entropy_loss(phi, target.masks)
    torch.testing.assert_close(rival, torch.tensor([math.log(2) / 3]), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        seed_loss(seed, phi, target, everywhere), torch.tensor(2.54 / 3), rtol=1e-5, atol=0
    )
    maps = embeddings[None], s[None], seed[None], [target], everywhere[None]
    found = embedding_losses(*maps, 1.0)
    wanted = {"instance": 1 / 3, "variance": 10 * 0.01, "seed": 2.54 / 3}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(wanted, rel=1e-5)
    # The third pixel does not count: nothing is wrong, and its seed is not asked.
    maps[-1][0, 0, 2] = False
    found = embedding_losses(*maps, 1.0)
    wanted = {"instance": 0, "variance": 10 * 0.01, "seed": 2.5 / 3}
    assert {name: value.item() for name, value in found.items()} == pytest.approx(wanted, rel=1e-5)
    # The centroid of the two pixels is (1, ½) as well.
    assert embedding_losses(*maps, 1.0, centre=centroid)["instance"].item() == pytest.approx(0)


def test_the_variance_of_an_ellipse_is_the_mean_of_its_two():
    s = torch.tensor([[[0.2, 0.0]], [[0.0, 0.4]]])  # ±0.1 and ±0.2 around the means
    target = Segments(torch.ones(1, 1, 2, dtype=torch.bool), torch.tensor([0]))
    grid = pixel_grid((1, 2), 1.0)
    _, variance = instance_terms(grid, s, target, grid, centroid)
    torch.testing.assert_close(variance, torch.tensor([(0.01 + 0.04) / 2]))


def test_a_seed_map_is_asked_for_its_own_class_only():
    """Two classes, an instance of the second: the first class's map should be 0 there."""
    seed = torch.tensor([[[0.5, 0.0]], [[0.5, 0.5]]])
    target = Segments(torch.tensor([[[True, False]]]), torch.tensor([1]))
    phi = torch.tensor([[[0.8, 0.9]]])
    found = seed_loss(seed, phi, target, torch.ones(1, 2, dtype=torch.bool))
    # Class 0: 0.5² as background. Class 1: 10 · (0.5 − 0.8)² inside, 0.5² outside.
    torch.testing.assert_close(found, torch.tensor((0.25 + 0.9 + 0.25) / 2))
    found = seed_loss(seed, phi, target, torch.ones(1, 2, dtype=torch.bool), foreground_weight=1.0)
    torch.testing.assert_close(found, torch.tensor((0.25 + 0.09 + 0.25) / 2))


# ---------------------------------------------------------------- losses, in loops


def losses_in_loops(embeddings, s, seed_maps, targets, counted, unit, middle):
    """The losses as Neven et al. write them down, a pixel at a time; `middle` is the centre."""
    b, k, h, w = seed_maps.shape
    d = s.shape[1]
    place = [(y, x) for y in range(h) for x in range(w)]
    instance, variance, seed = [], [], []
    for i, target in enumerate(targets):
        wanted, weight = torch.zeros(k, h, w).double(), torch.ones(k, h, w).double()
        for mask, label in zip(target.masks, target.labels.tolist(), strict=True):
            own = [p for p in place if mask[p]]
            x = [torch.tensor([p[1] + 0.5, p[0] + 0.5]).double() / unit for p in own]
            pointing = [torch.stack([embeddings[i, 0][p], embeddings[i, 1][p]]) for p in own]
            C = sum(pointing if middle is mean_embedding else x) / len(own)
            s_k = [sum(s[i, c][p] for p in own) / len(own) for c in range(d)]
            phi = {}
            for p in place:
                total = 0
                for axis in range(2):
                    away = embeddings[i, axis][p] - C[axis]
                    total = total + away**2 * torch.exp(10 * s_k[axis % d])
                phi[p] = torch.exp(-total)
            errors = []
            for p in place:
                if counted[i][p]:
                    sign = 1 if mask[p] else -1
                    errors.append((torch.relu(1 - (2 * phi[p] - 1) * sign), bool(mask[p])))
            errors.sort(key=lambda pair: -pair[0].item())
            missed = painted = before = loss = 0
            for error, is_own in errors:
                missed, painted = missed + is_own, painted + (not is_own)
                jaccard = 1 - (len(own) - missed) / (len(own) + painted)
                loss, before = loss + error * (jaccard - before), jaccard
            instance.append(loss)
            off = [(s[i, c][p] - s_k[c].detach()) ** 2 for p in own for c in range(d)]
            variance.append(sum(off) / len(off))
            for p in own:
                wanted[label][p], weight[label][p] = phi[p].detach(), 10
        terms = []
        for c in range(k):
            for p in place:
                error = weight[c][p] * (seed_maps[i, c][p] - wanted[c][p]) ** 2
                terms.append(error if counted[i][p] else 0 * error)
        seed.append(sum(terms) / (h * w))
    count = max(len(instance), 1)
    return {
        "instance": sum(instance) / count,
        "variance": 10 * sum(variance) / count,
        "seed": sum(seed) / b,
    }


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("middle", [mean_embedding, centroid])
@pytest.mark.parametrize("d", [1, 2])
def test_losses_and_gradients_are_those_of_the_loops(seed, middle, d):
    generator = torch.Generator().manual_seed(seed)
    counts, size = (2, 3), (4, 5)
    maps = random_maps(generator, 2, d, 3, size)
    targets = [
        Segments(partition(generator, n, *size), torch.randint(3, (n,), generator=generator))
        for n in counts
    ]
    free = torch.stack([~target.masks.any(dim=0) for target in targets])
    counted = ~(free & (torch.rand(2, *size, generator=generator) < 0.4))
    ours = embedding_losses(*maps, targets, counted, 4.0, centre=middle)
    theirs = losses_in_loops(*maps, targets, counted, 4.0, middle)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name])
        pair = [
            torch.autograd.grad(loss[name], maps, retain_graph=True, allow_unused=True)
            for loss in (ours, theirs)
        ]
        for mine, reference in zip(*pair, strict=True):
            assert (mine is None) == (reference is None) or not torch.stack(
                [g for g in (mine, reference) if g is not None]
            ).any()
            if mine is not None and reference is not None:
                torch.testing.assert_close(mine, reference, atol=1e-7, rtol=1e-4)


def test_cross_entropy_is_torchs():
    phi = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    masks = phi > torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(1))
    rival = nn.functional.binary_cross_entropy(phi, masks.double(), reduction="none")
    torch.testing.assert_close(cross_entropy_loss(phi, masks), rival.mean(dim=(1, 2)))
    certain = torch.tensor([[[0.0, 1.0]]], requires_grad=True)
    for wrong in (False, True):
        loss = cross_entropy_loss(certain, torch.tensor([[[wrong, not wrong]]])).sum()
        (gradient,) = torch.autograd.grad(loss, certain)
        assert loss.isfinite() and gradient.isfinite().all()


def test_balanced_cross_entropy_counts_object_and_background_one_half_each():
    phi, masks = torch.full((1, 10, 10), 0.25), torch.zeros(1, 10, 10, dtype=torch.bool)
    masks[0, 0, 0] = True
    expected = (math.log(4) - math.log(0.75)) / 2
    assert balanced_cross_entropy_loss(phi, masks).item() == pytest.approx(expected, rel=1e-5)
    masks[0, :5] = True  # how many there are changes nothing
    assert balanced_cross_entropy_loss(phi, masks).item() == pytest.approx(expected, rel=1e-5)
    assert balanced_cross_entropy_loss(phi, torch.ones_like(masks)).isfinite().all()


def test_soft_dice_is_the_overlap_that_it_says():
    phi = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
    masks = torch.tensor([[[True, False], [True, False]]])
    assert soft_dice_loss(phi, masks).item() == pytest.approx(1 - 3 / 4.5)
    assert soft_dice_loss(masks.float(), masks).item() == 0
    gradient = torch.autograd.functional.jacobian(lambda p: soft_dice_loss(p, masks)[0], phi)
    assert (gradient[masks] < 0).all() and (gradient[~masks] > 0).all()


@pytest.mark.parametrize("loss", ["lovasz", "cross_entropy", "balanced", "dice"])
def test_the_weight_of_the_loss_on_phi_is_an_option(loss):
    sample, values = scene(5, 0, 64), {}
    for weight in (1.0, 3.0):
        torch.manual_seed(0)
        model = recipe(loss=loss, instance_weight=weight).model()
        values[weight] = model([sample.image], [sample.segments])
    torch.testing.assert_close(values[3.0]["instance"], 3 * values[1.0]["instance"])
    for name in ("variance", "seed"):
        torch.testing.assert_close(values[3.0][name], values[1.0][name])
    with pytest.raises(ValueError, match="instance_weight"):
        recipe(instance_weight=0.0).model()


# ---------------------------------------------------------------- what teaches what


@pytest.mark.parametrize("loss", [lovasz_loss, cross_entropy_loss])
@pytest.mark.parametrize("middle", [mean_embedding, centroid])
def test_offsets_and_bandwidth_learn_only_through_phi(loss, middle):
    """The lecture's claim: o and σ are supervised implicitly, by the loss computed for φ."""
    generator = torch.Generator().manual_seed(1)
    maps = random_maps(generator)
    target = Segments(partition(generator, 3, 5, 6), torch.tensor([0, 1, 0]))
    counted = torch.ones(1, 5, 6, dtype=torch.bool)
    losses = embedding_losses(*maps, [target], counted, 4.0, middle, loss)
    heard = {
        name: [
            gradient is not None and bool(gradient.any())
            for gradient in torch.autograd.grad(
                value, maps, retain_graph=True, allow_unused=True
            )  # of the embeddings, of s, of the seeds
        ]
        for name, value in losses.items()
    }
    assert heard == {
        "instance": [True, True, False],
        "variance": [False, True, False],
        "seed": [False, False, True],
    }


def test_the_variance_moves_each_s_towards_the_mean_and_not_the_mean():
    generator = torch.Generator().manual_seed(2)
    _, s, _ = random_maps(generator, d=1)
    mask = partition(generator, 1, 5, 6)
    target, grid = Segments(mask, torch.tensor([0])), pixel_grid((5, 6), 4.0).double()
    _, variance = instance_terms(grid, s[0], target, grid, centroid)
    (gradient,) = torch.autograd.grad(variance.sum(), s)
    inside = s[0, 0][mask[0]]
    # The mean of (s_i − s_k)² over n pixels. (A mean that learned would change nothing here: what
    # it hears, −2 Σ (s_i − s_k) / n, is 0.)
    wanted = 2 * (inside - inside.mean()) / len(inside)
    torch.testing.assert_close(gradient[0, 0][mask[0]], wanted)
    assert not gradient[0, 0][~mask[0]].any()
    assert abs(gradient.sum()) < 1e-12  # the mean s_k stays where it is


def test_the_centroid_hears_nothing_and_the_mean_embedding_hears_all():
    """Wherever the pixels point together, φ of a learned centre is the same."""
    generator = torch.Generator().manual_seed(3)
    (embeddings,), (s,), _ = random_maps(generator)
    mask = torch.ones(1, 5, 6, dtype=torch.bool)
    target, grid = Segments(mask, torch.tensor([0])), pixel_grid((5, 6), 4.0).double()
    shift = torch.tensor([0.7, -0.4]).double()[:, None, None]
    for middle, same in ((mean_embedding, True), (centroid, False)):
        phi, _ = instance_terms(embeddings, s, target, grid, middle)
        moved, _ = instance_terms(embeddings + shift, s, target, grid, middle)
        assert torch.allclose(phi, moved) == same
        (gradient,) = torch.autograd.grad(phi.sum(), embeddings)
        assert (gradient.sum(dim=(1, 2)).abs().max() < 1e-9) == same


# ---------------------------------------------------------------- degenerate answers


def test_what_lies_in_padding_and_crowds_does_not_count():
    generator = torch.Generator().manual_seed(4)
    maps = random_maps(generator, b=2, size=(6, 8))
    crowd = torch.zeros(1, 6, 5, dtype=torch.bool)
    crowd[0, :2] = True
    masks = torch.cat([partition(generator, 2, 6, 5) & ~crowd, crowd])
    targets = [Segments(masks[:2], torch.tensor([0, 1])), empty_segments((6, 8))]
    targets[0] = replace(targets[0], masks=nn.functional.pad(masks[:2], (0, 3)))
    counted = torch.ones(2, 6, 8, dtype=torch.bool)
    counted[0, :, 5:] = False  # padding
    counted[0, :2] = False  # the crowd
    for loss in (lovasz_loss, cross_entropy_loss):
        before = embedding_losses(*maps, targets, counted, 4.0, mean_embedding, loss)
        other = [m.detach().clone() for m in maps]
        for m in other:
            shape = m[:, :, 0, 0, None]
            m[0][:, ~counted[0]] = torch.rand(*shape.shape[1:], generator=generator).double()
        after = embedding_losses(*other, targets, counted, 4.0, mean_embedding, loss)
        for name in before:
            torch.testing.assert_close(before[name], after[name])
        for value in before.values():
            for gradient in torch.autograd.grad(value, maps, retain_graph=True, allow_unused=True):
                assert gradient is None or not gradient[0][:, ~counted[0]].any()
    other[0][0, :, counted[0]] += 1.0  # the same where it does count
    after = embedding_losses(*other, targets, counted, 4.0)
    assert after["instance"] != before["instance"]


def test_images_of_two_sizes_are_learned_from_as_if_alone():
    generator = torch.Generator().manual_seed(5)
    sizes, counts = [(6, 8), (4, 5)], (3, 2)
    alone, padded, targets, counted = [], [], [], torch.zeros(2, 6, 8, dtype=torch.bool)
    for i, ((h, w), n) in enumerate(zip(sizes, counts, strict=True)):
        maps = [m.detach() for m in random_maps(generator, size=(h, w))]
        target = Segments(
            partition(generator, n, h, w), torch.randint(2, (n,), generator=generator)
        )
        inside = torch.ones(1, h, w, dtype=torch.bool)
        alone.append(embedding_losses(*maps, [target], inside, 4.0))
        border = (0, 8 - w, 0, 6 - h)
        padded.append([nn.functional.pad(m, border, value=0.5) for m in maps])
        targets.append(replace(target, masks=nn.functional.pad(target.masks, border)))
        counted[i, :h, :w] = True
    together = embedding_losses(
        *(torch.cat(pair) for pair in zip(*padded, strict=True)), targets, counted, 4.0
    )
    for name in ("instance", "variance"):  # each instance counts the same
        mean = (3 * alone[0][name] + 2 * alone[1][name]) / 5
        torch.testing.assert_close(together[name], mean)
    seed = (alone[0]["seed"] + alone[1]["seed"] * 20 / 48) / 2  # the padding is in H · W
    torch.testing.assert_close(together["seed"], seed)


@pytest.mark.parametrize("loss", [lovasz_loss, cross_entropy_loss])
@pytest.mark.parametrize("middle", [mean_embedding, centroid])
def test_images_without_things(loss, middle):
    generator = torch.Generator().manual_seed(6)
    maps = random_maps(generator, b=2)
    counted = torch.ones(2, 5, 6, dtype=torch.bool)
    nothing = [empty_segments((5, 6))] * 2
    losses = embedding_losses(*maps, nothing, counted, 4.0, middle, loss)
    assert losses["instance"] == losses["variance"] == 0
    torch.testing.assert_close(losses["seed"], maps[2].square().sum() / (2 * 30))
    sum(losses.values()).backward()
    assert all(m.grad is None or m.grad.isfinite().all() for m in maps)
    assert maps[2].grad.all() and not maps[0].grad.any()
    # One of the two images has things: the other adds its seeds and no instances.
    target = Segments(partition(generator, 2, 5, 6), torch.tensor([0, 1]))
    first = embedding_losses(*(m[:1] for m in maps), [target], counted[:1], 4.0, middle, loss)
    both = embedding_losses(*maps, [target, nothing[0]], counted, 4.0, middle, loss)
    torch.testing.assert_close(both["instance"], first["instance"])
    torch.testing.assert_close(both["variance"], first["variance"])


@pytest.mark.parametrize("loss", [lovasz_loss, cross_entropy_loss])
@pytest.mark.parametrize("kind", ["one pixel", "one centroid", "everything", "one pixel image"])
def test_odd_instances_have_finite_losses_and_gradients(kind, loss):
    size = (1, 1) if kind == "one pixel image" else (5, 5)
    masks = torch.zeros(1, *size, dtype=torch.bool)
    masks[0, size[0] // 2, size[1] // 2] = True
    if kind == "one centroid":  # a pixel and the ring around it
        masks = torch.cat([masks, ~masks])
    if kind == "everything":
        masks[:] = True
    target = Segments(masks, torch.zeros(len(masks), dtype=torch.int64))
    for middle in (mean_embedding, centroid):
        maps = random_maps(torch.Generator().manual_seed(7), size=size)
        counted = torch.ones(1, *size, dtype=torch.bool)
        losses = embedding_losses(*maps, [target], counted, 4.0, middle, loss)
        sum(losses.values()).backward()
        assert all(value.isfinite() for value in losses.values())
        assert all(m.grad.isfinite().all() for m in maps)
        if kind.startswith("one pixel"):
            assert losses["variance"] == 0
        if kind == "one centroid":
            grid = pixel_grid(size, 4.0).double()
            phi, _ = instance_terms(maps[0][0], maps[1][0], target, grid, middle)
            same = torch.allclose(*centroid(masks, grid, grid))
            assert phi.isfinite().all() and same


# ---------------------------------------------------------------- clustering, by hand


def row(*values):
    """A map of one row."""
    return torch.tensor([values], dtype=torch.float64)


def cluster_row(seed, x, sigma=0.1, **options):
    """Pixels in a row that point at places x; smallest = 1 if not said otherwise."""
    embeddings = torch.stack([row(*x), torch.zeros(1, len(x)).double()])
    sigma = sigma if torch.is_tensor(sigma) else torch.full((1, 1, len(x)), sigma).double()
    instances, scores = cluster_pixels(embeddings, sigma, row(*seed), **{"smallest": 1, **options})
    return instances[0].tolist(), [round(score, 5) for score in scores.tolist()]


def test_two_clusters_by_hand():
    # The highest seed is the fourth pixel's: it and the fifth point at 5. Then those at 1.
    found = cluster_row((0.7, 0.6, 0.2, 0.9, 0.8, 0.55), (1, 1.05, 1, 5, 5, 9))
    assert found == ([1, 1, -1, 0, 0, 2], [0.9, 0.7, 0.55])
    # The last seed is below the threshold.
    found = cluster_row((0.7, 0.6, 0.2, 0.9, 0.8, 0.55), (1, 1.05, 1, 5, 5, 9), threshold=0.6)
    assert found == ([1, 1, -1, 0, 0, -1], [0.9, 0.7])
    # A pixel that is no seed may still be a member, if it is foreground.
    found = cluster_row((0.95, 0.4, 0.2), (1, 1, 1), foreground=0.3, threshold=0.9)
    assert found == ([0, 0, -1], [0.95])


def test_foreground_is_above_and_a_seed_at_least():
    assert cluster_row((0.5, 0.75), (1, 5), foreground=0.5) == ([-1, 0], [0.75])
    assert cluster_row((0.75, 0.75), (1, 5), threshold=0.75) == ([0, 1], [0.75, 0.75])
    assert cluster_row((0.75, 0.5), (1, 5), threshold=0.75625) == ([-1, -1], [])
    assert cluster_row((0.0, 0.0), (1, 5), foreground=0.0, threshold=0.0) == ([-1, -1], [])


def test_the_seed_says_how_far_its_instance_reaches():
    # Radius 1 is σ = 1/BORDER: a pixel at a distance of 0.99 is a member, one at 1.01 is not.
    found = cluster_row((0.9, 0.8, 0.7), (0, 0.99, -1.01), sigma=1 / BORDER)
    assert found == ([0, 0, 1], [0.9, 0.7])
    # The members' own σ is not asked.
    sigma = torch.tensor([[[1.0, 0.01, 0.01]]]).double() / BORDER
    found = cluster_row((0.9, 0.8, 0.7), (0, 0.99, -1.01), sigma=sigma)
    assert found == ([0, 0, 1], [0.9, 0.7])
    # An ellipse, ten times as far along y as along x.
    embeddings = torch.tensor([[[0.0, 0.5, 0.0]], [[0.0, 0.0, 0.5]]]).double()
    sigma = torch.tensor([0.1, 1.0]).double()[:, None, None].expand(2, 1, 3)
    instances, _ = cluster_pixels(embeddings, sigma, row(0.9, 0.8, 0.7), smallest=1)
    assert instances.tolist() == [[0, 1, 0]]


def test_of_equal_seeds_the_first_begins():
    assert cluster_row((0.8, 0.8, 0.8), (5, 1, 5)) == ([0, 1, 0], [0.8, 0.8])
    # It matters: the second would have taken both of its neighbours.
    found = cluster_row((0.8, 0.8, 0.8), (0, 0.9, 1.8), sigma=1 / BORDER)
    assert found == ([0, 0, -1], [0.8])


def test_small_clusters_are_dropped_and_their_pixels_lost():
    seed, x = (0.9, 0.8, 0.85, 0.7, 0.6), (1, 1, 5, 9, 9)
    assert cluster_row(seed, x, smallest=2) == ([0, 0, -1, 1, 1], [0.9, 0.7])
    assert cluster_row(seed, x, smallest=3) == ([-1] * 5, [])
    # The first alone is too small, and no other cluster may have it.
    sigma = torch.tensor([[[0.01, 1.0, 1.0]]]).double()
    assert cluster_row((0.9, 0.8, 0.7), (0, 0.5, 1), sigma=sigma, smallest=2) == (
        [-1, 0, 0],
        [0.8],
    )


def test_a_cluster_that_is_mostly_taken_is_dropped():
    # The first takes the pixels at 0 and 0.9; the second reaches to 1.8 and finds one of three
    # (the one at 0.9) taken, so it is kept and takes the two others.
    sigma = torch.full((1, 1, 4), 1 / BORDER).double()
    found = cluster_row((0.9, 0.6, 0.8, 0.7), (0, 0.9, 1.8, 1.85), sigma=sigma)
    assert found == ([0, 0, 1, 1], [0.9, 0.8])
    # Without the fourth it is one of two: half is not more than half.
    found = cluster_row((0.9, 0.6, 0.8), (0, 0.9, 1.8), sigma=sigma[..., :3])
    assert found == ([0, 0, -1], [0.9])


def test_nothing_to_cluster():
    assert cluster_row((0.1, 0.2), (0, 1)) == ([-1, -1], [])
    sigma = torch.ones(1, 0, 5)
    instances, scores = cluster_pixels(torch.zeros(2, 0, 5), sigma, torch.zeros(0, 5))
    assert instances.shape == (0, 5) and scores.shape == (0,)


# ---------------------------------------------------------------- clustering, in loops


def cluster_in_loops(embeddings, sigma, seed, foreground, threshold, smallest):
    """Neven et al.'s inference over the whole image, a pixel at a time."""
    h, w = seed.shape
    place = [(y, x) for y in range(h) for x in range(w) if seed[y, x] > foreground]
    instances, scores, unclustered = torch.full((h, w), -1), [], set(place)
    while unclustered:
        best = None
        for p in place:
            if p in unclustered and (best is None or seed[p] > seed[best]):
                best = p
        if seed[best] < threshold:
            break
        members = []
        for p in place:
            d = [
                (embeddings[axis][p] - embeddings[axis][best]).item()
                / sigma[axis % len(sigma)][best].item()
                for axis in range(2)
            ]
            if math.exp(-(d[0] ** 2 + d[1] ** 2) / 2) > 0.5:
                members.append(p)
        fresh = [p for p in members if p in unclustered]
        if len(members) >= smallest and len(fresh) > len(members) / 2:
            for p in fresh:
                instances[p] = len(scores)
            scores.append(seed[best].item())
        unclustered -= set(members)
    return instances, scores


@settings(max_examples=60, deadline=None)
@given(
    seeds,
    st.integers(1, 2),
    st.sampled_from([0.0, 0.3, 0.5]),
    st.sampled_from([0.0, 0.5, 0.8]),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
)
def test_clustering_is_that_of_the_loops(seed, d, foreground, threshold, smallest, ties):
    generator = torch.Generator().manual_seed(seed)
    size = (7, 9)
    gather = torch.randint(4, (2, *size), generator=generator)
    embeddings = gather + 0.3 * torch.randn(2, *size, generator=generator, dtype=torch.float64)
    sigma = 0.1 + torch.rand(d, *size, generator=generator, dtype=torch.float64)
    seed_map = torch.rand(size, generator=generator, dtype=torch.float64)
    if ties:
        seed_map = (4 * seed_map).round() / 4
    arguments = embeddings, sigma, seed_map, foreground, threshold, smallest
    wanted, wanted_scores = cluster_in_loops(*arguments)
    instances, scores = cluster_pixels(*arguments)
    assert torch.equal(instances, wanted)
    torch.testing.assert_close(scores.double(), torch.tensor(wanted_scores).double())
    again, _ = cluster_pixels(*arguments)
    assert torch.equal(instances, again)


# ---------------------------------------------------------------- a perfect embedding


class Pixels(nn.Conv2d):
    """The smallest features: one convolution."""

    def __init__(self, channels=6):
        super().__init__(3, channels, 3, padding=1)
        self.channels = channels


def small_net(**options):
    torch.manual_seed(0)
    return SpatialEmbeddingNet(T, features=Pixels(), **options)


def perfect_maps(truth, size):
    """Each pixel of a thing points at its centroid, σ is a hundredth of a pixel, seeds are 1."""
    embeddings, sigma = pixel_grid(size, 1.0), torch.full((1, *size), 0.01)
    seed = torch.zeros(T, *size)
    for mask, label, C in zip(
        truth.masks, truth.labels, centroid(truth.masks, embeddings, embeddings), strict=True
    ):
        embeddings = torch.where(mask, C[:, None, None], embeddings)
        seed[label][mask] = 1
    return embeddings, sigma, seed


def test_a_perfect_embedding_gives_the_truth_on_500_scenes():
    touching = 0
    for sample in Scenes(seed=3, count=500, size=64):
        truth = things_of(sample)
        answer = cluster_classes(*perfect_maps(truth, (64, 64)), 0.5, 0.5, 1)
        assert len(answer) == len(truth)
        # Both in the same order: by class, then by the first pixel.
        for both in (answer, truth):
            first = both.masks.flatten(1).to(torch.uint8).argmax(dim=1)
            both.order = (both.labels * 64**2 + first).argsort()
        assert torch.equal(answer.labels[answer.order], truth.labels[truth.order])
        assert torch.equal(answer.masks[answer.order], truth.masks[truth.order])
        assert (answer.scores == 1).all()
        owner = torch.where(truth.masks.any(dim=0), truth.masks.to(torch.uint8).argmax(dim=0), -1)
        kind = torch.where(owner >= 0, truth.labels[owner], -1) if len(truth) else owner
        beside = (kind[:, 1:] == kind[:, :-1]) & (kind[:, 1:] >= 0)
        touching += bool((beside & (owner[:, 1:] != owner[:, :-1])).any())
    assert touching > 250  # scenes in which neighbours of one class touch


def test_the_order_of_the_classes_does_not_matter():
    truth = things_of(scene(1, 4, 64))
    embeddings, sigma, seed = perfect_maps(truth, (64, 64))
    seed = seed * (0.6 + 0.4 * torch.rand(T, 64, 64, generator=torch.Generator().manual_seed(0)))
    order = torch.tensor([2, 0, 3, 1])
    answer = cluster_classes(embeddings, sigma, seed, 0.5, 0.5, 1)
    other = cluster_classes(embeddings, sigma, seed[order], 0.5, 0.5, 1)
    assert len(answer) == len(truth) > 4
    assert torch.equal(answer.scores, other.scores)
    assert torch.equal(answer.masks, other.masks)
    assert torch.equal(answer.labels, order[other.labels])


# ---------------------------------------------------------------- the model


def random_head(net, scale=3.0):
    """Give the head weights with which an untrained network finds instances."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        net.head.weight.copy_(scale * torch.randn(net.head.weight.shape, generator=generator))
        net.head.bias[-T:] = 0.5
    return net


@pytest.mark.parametrize("sigma", ["ellipse", "circle", "shared", "fixed"])
def test_predictions_of_images_of_two_sizes(sigma):
    net = random_head(small_net(sigma=sigma, smallest=3, radius=6.0))
    images = [scene(0, 0, 64).image, scene(0, 1, (40, 72)).image]
    answers = net.predict_instances(images)
    assert [answer.size for answer in answers] == [(64, 64), (40, 72)]
    for answer in answers:
        assert len(answer) > 3 and answer.masks.flatten(1).any(dim=1).all()
        assert (answer.scores.diff() <= 0).all() and answer.scores[-1] >= 0.4
        assert answer.labels.min() >= 0 and answer.labels.max() < T
        for label in answer.labels.unique():
            assert (answer.masks[answer.labels == label].sum(dim=0) <= 1).all()
    again = net.predict_instances(images)
    for answer, same in zip(answers, again, strict=True):
        assert torch.equal(answer.masks, same.masks) and torch.equal(answer.scores, same.scores)


@torch.no_grad()
def test_each_image_of_a_batch_is_clustered_without_its_padding():
    net = random_head(small_net(smallest=3, radius=6.0, foreground=0.3, threshold=0.7))
    image = scene(0, 1, (40, 72)).image
    embeddings, s, seed, sizes = net.maps([scene(0, 0, 96).image, image])
    assert sizes == [(96, 96), (40, 72)] and embeddings.shape[-2:] == (96, 96)
    own = (m[1, :, :40, :72] for m in (embeddings, bandwidth(s), seed))
    wanted = cluster_classes(*own, net.foreground, net.threshold, net.smallest)
    found = net.predict_instances([scene(0, 0, 96).image, image])[1]
    assert torch.equal(found.masks, wanted.masks) and torch.equal(found.scores, wanted.scores)


def test_pixels_point_from_where_they_are():
    """e_i = x_i + tanh: at most one unit away, and in the unit of the grid, not of the image."""
    net = small_net(unit=32.0)
    batch = [scene(0, 0, 64).image]
    net.head.weight.data.zero_()
    embeddings, s, seed, _ = net.maps(batch)
    torch.testing.assert_close(embeddings[0], pixel_grid((64, 64), 32.0))
    assert (seed < 0.2).all()  # at the start most pixels are background
    # φ starts with ½ at 12 pixels, whatever the unit.
    for one in (net, small_net(unit=100.0), small_net(radius=12.0, sigma="fixed")):
        one.head.weight.data.zero_()
        _, s, _, _ = one.maps(batch)
        reach = bandwidth(s) * BORDER * one.unit
        torch.testing.assert_close(reach, torch.full_like(reach, 12.0), rtol=1e-4, atol=0)
    net.head.bias.data[:2] = 100.0
    torch.testing.assert_close(net.maps(batch)[0][0], pixel_grid((64, 64), 32.0) + 1)


@pytest.mark.parametrize(
    ("sigma", "outputs", "learned"),
    [("ellipse", 2, False), ("circle", 1, False), ("shared", 0, True), ("fixed", 0, False)],
)
def test_kinds_of_sigma(sigma, outputs, learned):
    net = random_head(small_net(sigma=sigma), scale=0.3)
    assert net.head.out_channels == 2 + outputs + T
    assert (net.s is not None) == learned
    sample = scene(0, 2, 64)
    losses = net([sample.image], [sample.segments])
    assert losses.keys() == {"instance", "variance", "seed"}
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.head.weight.grad[:2].any() and net.head.weight.grad[-T:].any()
    if outputs:
        assert all(net.head.weight.grad[2 + i].any() for i in range(outputs))
    else:
        assert losses["variance"] < 1e-9
    if learned:  # one step against its gradient makes the masks better
        assert net.s.grad != 0
        with torch.no_grad():
            net.s -= 0.02 * net.s.grad.sign()
            assert net([sample.image], [sample.segments])["instance"] < losses["instance"]


def test_the_losses_are_those_of_the_maps():
    """Padding, crowds and stuff are left out; the parts are those that were asked for."""
    samples = [scene(0, index, size) for index, size in ((5, 64), (6, (40, 72)))]
    noted = []

    def middle(masks, embeddings, grid):
        noted.append(len(masks))
        return centroid(masks, embeddings, grid)

    net = random_head(small_net(centre=middle, membership_loss=cross_entropy_loss), scale=0.3)
    images, segments = [s.image for s in samples], [s.segments for s in samples]
    crowd = segments[0].labels == 0
    segments[0] = replace(segments[0], is_crowd=crowd)
    losses = net(images, segments)
    targets, counted = [], torch.zeros(2, 64, 96, dtype=torch.bool)
    for i, answer in enumerate(segments):
        h, w = answer.size
        kept = answer[(answer.labels < T) & ~is_crowd(answer)]
        border = (0, 96 - w, 0, 64 - h)
        targets.append(replace(kept, masks=nn.functional.pad(kept.masks, border)))
        counted[i, :h, :w] = ~answer.masks[is_crowd(answer)].any(dim=0)
    assert crowd.any() and noted == [len(target) for target in targets]
    embeddings, s, seed, _ = net.maps(images)
    assert tuple(seed.shape[-2:]) == tuple(batch_images(images, net.mean, net.std)[0].shape[-2:])
    wanted = embedding_losses(
        embeddings, s, seed, targets, counted, net.unit, centroid, cross_entropy_loss
    )
    for name, value in losses.items():
        torch.testing.assert_close(value, wanted[name])


def test_a_thing_without_a_pixel_is_no_target():
    net, sample = small_net(), scene(0, 2, 64)
    answer = sample.segments
    masks = torch.cat([answer.masks, torch.zeros(1, 64, 64, dtype=torch.bool)])
    more = Segments(masks, torch.cat([answer.labels, torch.tensor([0])]))
    losses = net([sample.image], [replace(answer, is_crowd=None)])
    for name, value in net([sample.image], [more]).items():
        torch.testing.assert_close(value, losses[name])


def test_an_image_without_things_can_be_trained_on_and_predicted():
    net, sample = small_net(), scene(0, 2, 64)
    nothing = sample.segments[sample.segments.labels >= T]
    losses = net([sample.image], [nothing])
    assert losses["instance"] == losses["variance"] == 0 and losses["seed"] > 0
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    answer = net.predict_instances([sample.image])[0]  # untrained: no seed is high enough
    assert len(answer) == 0 and answer.size == (64, 64)
    assert answer.scores.shape == answer.labels.shape == (0,)


@pytest.mark.parametrize(("output", "name"), [(0, "embeddings"), (2, "s"), (-1, "seeds")])
def test_nan_from_the_network_names_the_map(output, name):
    net = small_net()
    net.head.bias.data[output] = torch.nan
    with pytest.raises(ValueError, match=f"^{name} must be finite, not nan at .* has diverged"):
        net.predict_instances([scene(0, 2, 64).image])


def test_the_network_of_the_recipe_trains_a_step():
    torch.manual_seed(0)
    net = recipe().model()
    samples = [scene(0, index, 64) for index in (0, 1)]
    losses = net([s.image for s in samples], [s.segments for s in samples])
    sum(losses.values()).backward()
    assert all(value.isfinite() for value in losses.values())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


# ---------------------------------------------------------------- the recipe


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sigma": "circle", "centre": "centroid"},
        {"loss": "cross_entropy", "sigma": "fixed", "radius": 5.0},
        {"unit": 32.0, "foreground": 0.5, "threshold": 0.9, "smallest": 20},
    ],
)
def test_a_recipe_can_be_built_again_from_its_options(options):
    made = recipe("scenes", **options)
    assert made.options.items() >= options.items()
    again = recipe_of("spatial_embedding", "scenes", json.loads(json.dumps(dict(made.options))))
    first, second = made.model(), again.model()
    assert again.options == made.options
    settings = ("sigma", "unit", "radius", "foreground", "threshold", "smallest")
    for name in ("num_classes", *settings, "width", "centre", "membership_loss"):
        assert getattr(first, name) == getattr(second, name)
    for name in set(settings) & set(options):
        assert getattr(first, name) == options[name]
    assert first.start == second.start
    assert first.centre is (centroid if options.get("centre") else mean_embedding)
    assert first.membership_loss is (cross_entropy_loss if options.get("loss") else lovasz_loss)
    assert first.num_classes == T


@pytest.mark.parametrize("data", ["scenes", "four_scenes", "scenes:7"])
def test_every_budget_is_there(data):
    made = recipe(data)
    assert made.budgets.keys() == {"test", "quick", "full"}
    assert made.system == "spatial_embedding" and made.metrics.keys() == {"predict_instances"}
