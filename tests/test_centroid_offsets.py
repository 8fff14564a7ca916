"""Centroid offsets: equal to loops, to scipy, and right where there is next to nothing."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from lessons.average_precision import mask_iou
from lessons.centroid_offsets import (
    OffsetNet,
    PixelFeatures,
    centroid_offsets,
    find_centres,
    group_by_centroid,
    instance_centroids,
    instance_targets,
    instances_from_votes,
    offset_loss,
    pixel_centres,
    recipe,
)
from lessons.kit.data import Segments, empty_segments, is_crowd, things
from lessons.kit.data.scenes import CATEGORIES, scene


@st.composite
def partitions(draw):
    """Disjoint masks of an image of any shape, some of them empty, some of one pixel."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    n, h, w = draw(st.integers(0, 6)), draw(st.integers(1, 12)), draw(st.integers(1, 15))
    weight = 3 * torch.rand(n + 1, 1, 1, generator=generator)
    ids = (weight * torch.rand(n + 1, h, w, generator=generator)).argmax(dim=0)
    masks = ids == torch.arange(1, n + 1)[:, None, None]
    if n > 1 and draw(st.booleans()):
        masks[0] = False
    return masks


@st.composite
def clouds(draw):
    """Votes, many of them in one place or on the borders of pixels, some outside of the image."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10**6)))
    h, w, p = draw(st.integers(1, 13)), draw(st.integers(1, 16)), draw(st.integers(0, 60))
    votes = torch.rand(p, 2, generator=generator) * torch.tensor([w + 2.0, h + 2.0]) - 1
    kind = draw(st.sampled_from(["anywhere", "gathered", "on borders"]))
    if kind == "gathered":
        heap = torch.rand(3, 2, generator=generator) * torch.tensor([w, h])
        near = heap[torch.randint(3, (p,), generator=generator)]
        votes = near + 0.4 * torch.randn(p, 2, generator=generator)
    if kind == "on borders":
        votes = votes.round()
    return votes, (h, w)


def offsets_by_loops(masks):
    offsets, foreground = torch.zeros(2, *masks.shape[1:]), masks.any(dim=0)
    for mask in masks:
        places = [(j + 0.5, i + 0.5) for i, j in mask.nonzero().tolist()]
        for x, y in places:
            centre = [sum(each) / len(places) for each in zip(*places, strict=True)]
            offsets[:, int(y), int(x)] = torch.tensor([centre[0] - x, centre[1] - y])
    return offsets, foreground


def centres_by_loops(votes, size, radius, least):
    """The definition: a hat around every vote, peaks within twice the radius, ties to the first."""
    places = [(i, j) for i in range(size[0]) for j in range(size[1])]
    cells = [(int(y // 1), int(x // 1)) for x, y in votes.tolist()]
    cells = [(a, b) for a, b in cells if 0 <= a < size[0] and 0 <= b < size[1]]

    def hat(distance):
        return max(0, 1 - abs(distance) / (2 * radius + 1))

    density = {(i, j): sum(hat(i - a) * hat(j - b) for a, b in cells) for i, j in places}
    rank = {place: (round(density[place], 6), -number) for number, place in enumerate(places)}
    peaks = [
        (i, j)
        for i, j in places
        if density[i, j] > least - 0.5
        and all(
            rank[a, b] <= rank[i, j] for a, b in places if max(abs(a - i), abs(b - j)) <= 2 * radius
        )
    ]
    return [[j + 0.5, i + 0.5] for i, j in sorted(peaks, key=rank.get, reverse=True)]


@given(partitions())
@settings(max_examples=80, deadline=None)
def test_centroids_are_scipys(masks):
    found = instance_centroids(masks)
    assert found.shape == (len(masks), 2) and found.dtype == torch.float32
    for mask, centre in zip(masks, found, strict=True):
        if mask.any():
            row, column = ndimage.center_of_mass(mask.numpy())
            torch.testing.assert_close(centre, torch.tensor([column + 0.5, row + 0.5]).float())
        else:
            assert centre.isnan().all()


@given(partitions())
@settings(max_examples=80, deadline=None)
def test_offsets_equal_the_loops(masks):
    for found, expected in zip(centroid_offsets(masks), offsets_by_loops(masks), strict=True):
        torch.testing.assert_close(found, expected)


def test_a_large_image_loses_no_precision():
    masks = torch.zeros(1, 1024, 2048, dtype=torch.bool)
    masks[0, 100:, 3:2001] = True
    assert instance_centroids(masks).tolist() == [[1002.0, 562.0]]


@given(clouds(), st.integers(0, 3), st.sampled_from([1.0, 2.0, 6.0]))
@settings(max_examples=120, deadline=None)
def test_centres_equal_the_loops(cloud, radius, least):
    votes, size = cloud
    found = find_centres(votes, size, radius, least)
    assert found.tolist() == centres_by_loops(votes, size, radius, least)
    apart = (found[:, None] - found).abs().amax(dim=2) + 1e6 * torch.eye(len(found))
    assert not len(found) or apart.min() > 2 * radius


@pytest.mark.parametrize("corner", [[0.0, 0.0], [20.9, 0.3], [0.2, 14.9], [20.5, 14.5]])
def test_a_peak_at_the_border_counts_all_its_votes(corner):
    votes = torch.tensor([corner]).repeat(6, 1)
    assert len(find_centres(votes, (15, 21), least=6)) == 1
    assert len(find_centres(votes, (15, 21), least=7)) == 0


def test_votes_outside_are_lost_not_wrapped():
    votes = torch.tensor([[128.4, 60.5], [-0.1, 60.5], [60.5, -0.1], [60.5, 128.0]])
    assert not len(find_centres(votes.repeat(9, 1), (128, 128)))


@given(st.integers(0, 40), st.integers(0, 6), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_grouping_equals_brute_force(p, n, seed):
    generator = torch.Generator().manual_seed(seed)
    votes, centres = (8 * torch.rand(k, 2, generator=generator).double() for k in (p, n))
    centres = torch.cat([centres, centres[:1]])  # of two equal centres the first
    found = group_by_centroid(votes, centres).tolist()
    for vote, group in zip(votes.tolist(), found, strict=True):
        distances = [
            sum((a - b) ** 2 for a, b in zip(vote, c, strict=True)) for c in centres.tolist()
        ]
        assert group == (distances.index(min(distances)) if distances else -1)


@given(partitions(), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_the_loss_is_the_mean_distance_and_pulls_all_alike(masks, seed):
    generator = torch.Generator().manual_seed(seed)
    targets, foreground = centroid_offsets(masks)
    said = 3 * torch.randn(1, *targets.shape, generator=generator)
    loss = offset_loss(said.requires_grad_(), targets[None], foreground[None])
    votes, centroids = pixel_centres(tuple(masks.shape[1:])) + said[0], instance_centroids(masks)
    expected = [
        (votes[:, i, j] - centroids[k]).norm().item() for k, i, j in masks.nonzero().tolist()
    ]
    assert loss.item() == pytest.approx(sum(expected) / max(len(expected), 1), rel=1e-5)
    (pull,) = torch.autograd.grad(loss, said)
    assert not pull[0][:, ~foreground].any()
    strength = pull[0].norm(dim=0)[foreground]
    torch.testing.assert_close(strength, torch.full_like(strength, 1 / max(len(expected), 1)))


def test_an_offset_that_is_nan_is_heard():
    said = torch.full((1, 2, 3, 4), torch.nan)
    everywhere = torch.ones(1, 3, 4, dtype=torch.bool)
    assert offset_loss(said, torch.zeros(1, 2, 3, 4), everywhere).isnan()


# ---------------------------------------------------------------- an image


def perfect(segments, num_classes=4):
    """True votes and classes of the segments' things."""
    own = segments[(segments.labels < num_classes) & ~is_crowd(segments)]
    offsets, _ = centroid_offsets(own.masks)
    classes = (own.masks * (own.labels + 1)[:, None, None]).sum(dim=0)
    probability = torch.nn.functional.one_hot(classes, num_classes + 1).permute(2, 0, 1)
    return pixel_centres(own.size) + offsets, probability.float(), own


@pytest.mark.parametrize("index", range(12))
def test_perfect_votes_give_scenes_back(index):
    """Exactly, except for instances whose centres the peaks cannot tell apart."""
    votes, probability, own = perfect(scene(5, index).segments)
    found = instances_from_votes(votes, probability)
    assert (found.masks.sum(dim=0) <= 1).all() and (found.scores == 1).all()
    assert torch.equal(found.masks.any(dim=0), own.masks.any(dim=0))
    centres = instance_centroids(own.masks)
    for k, mask in enumerate(own.masks):
        same = (own.labels == own.labels[k]) & (torch.arange(len(own)) != k)
        apart = (centres[same] - centres[k]).norm(dim=1)
        if (apart > 9).all():
            best = mask_iou(mask[None], found.masks)[0]
            assert best.max() == 1 and found.labels[best.argmax()] == own.labels[k]


def test_classes_are_grouped_apart():
    """A sheep and a tree with one centre, which two sheep could not have."""
    radius = (pixel_centres((48, 48)) - 24).norm(dim=0)
    rings = torch.stack([(radius > 13) & (radius < 20), radius < 7])
    two = perfect(Segments(rings, torch.tensor([0, 1])))
    found = instances_from_votes(*two[:2])
    assert len(found) == 2 and mask_iou(rings, found.masks).amax(dim=1).tolist() == [1, 1]
    one = instances_from_votes(*perfect(Segments(rings, torch.tensor([0, 0])))[:2])
    assert len(one) == 1 and torch.equal(one.masks[0], rings.any(dim=0))


def test_small_instances_and_empty_images():
    size = (20, 30)
    votes, probability, _ = perfect(empty_segments(size))
    nothing = instances_from_votes(votes, probability)
    assert len(nothing) == 0 and nothing.size == size and nothing.scores.shape == (0,)
    pixels = torch.zeros(2, *size, dtype=torch.bool)
    pixels[0, 3, 4] = pixels[1, 10:13, 20:23] = True
    apart = instances_from_votes(*perfect(Segments(pixels, torch.tensor([1, 2])))[:2])
    assert torch.equal(apart.masks, pixels[1:])  # a single vote is no peak
    votes, probability, _ = perfect(Segments(pixels, torch.tensor([2, 2])))
    joined = instances_from_votes(votes, probability)
    assert torch.equal(joined.masks, pixels.any(dim=0)[None])  # it joins the only centre there is
    all_of_them = instances_from_votes(
        votes, probability, lambda own, size: find_centres(own, size, least=1), smallest=1
    )
    assert len(all_of_them) == 2 and torch.equal(all_of_them.masks.any(0), pixels.any(0))


@pytest.mark.parametrize("count", [7, 8])
def test_an_instance_has_eight_pixels_at_least(count):
    strip = torch.zeros(1, 12, 20, dtype=torch.bool)
    strip[0, 5, 6 : 6 + count] = True
    found = instances_from_votes(*perfect(Segments(strip, torch.tensor([0])))[:2])
    assert len(found) == (count >= 8)


def test_the_best_comes_first():
    votes, probability, own = perfect(scene(5, 0).segments)
    probability = probability * torch.linspace(0.7, 1, 128)
    probability[0] += 1 - probability.sum(dim=0)
    found = instances_from_votes(votes, probability)
    assert (found.scores.diff() <= 0).all()
    for mask, label, score in zip(found.masks, found.labels, found.scores, strict=True):
        assert score == pytest.approx(probability[label + 1][mask].mean().item())


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("size", [(64, 96), (32, 32)])
def test_features_have_the_images_size(size):
    features = PixelFeatures().eval()
    with torch.no_grad():
        assert features(torch.rand(2, 3, *size)).shape == (2, features.channels, *size)


def test_targets_leave_out_crowds_stuff_and_padding():
    sample = next(
        s for s in (scene(1, i) for i in range(40)) if is_crowd(s.segments).any()
    ).segments
    targets, counted = instance_targets([sample], 4, [(128, 128)], (160, 128))
    crowd = sample.masks[is_crowd(sample)].any(dim=0)
    own = things(sample, CATEGORIES)
    own = own[~is_crowd(own)]
    assert torch.equal(targets[0].labels, own.labels)
    assert torch.equal(targets[0].masks[:, :128], own.masks) and not targets[0].masks[:, 128:].any()
    assert torch.equal(counted[0, :128], ~crowd) and not counted[0, 128:].any()


def test_a_thing_without_a_pixel_is_no_target():
    masks = torch.zeros(2, 32, 32, dtype=torch.bool)
    masks[1, 4:9, 4:9] = True
    targets, _ = instance_targets([Segments(masks, torch.tensor([0, 1]))], 4, [(32, 32)], (32, 32))
    assert targets[0].labels.tolist() == [1] and torch.equal(targets[0].masks, masks[1:])


def network():
    torch.manual_seed(0)
    return OffsetNet(4)


@pytest.mark.parametrize("part", ["cls", "offset"])
def test_a_step_lowers_each_loss(part):
    net, sample = network(), scene(0, 1, 64)
    optimizer = torch.optim.SGD(net.parameters(), lr=2e-3)
    values = []
    for _ in range(6):
        loss = net([sample.image], [sample.segments])[part]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < values[0]


def test_losses_of_a_batch_do_not_hear_padding_or_crowds():
    """The offset loss, and its gradient, of maps that are wrong only where nothing counts."""
    net = network()
    sample = scene(1, 1)  # with a crowd
    crowd = sample.segments.masks[is_crowd(sample.segments)].any(dim=0)
    assert crowd.any()
    maps = torch.randn(1, 7, 128, 160)
    said = []
    for change in (0.0, 5.0):
        changed = maps.clone()
        changed[0, :, :, 128:] += change * torch.randn(7, 128, 32)
        changed[0, :, :, :128] += change * torch.randn(7, 128, 128) * crowd
        net.maps = lambda images, changed=changed: (changed[:, :2], changed[:, 2:], [(128, 128)])
        said.append(net([sample.image], [sample.segments]))
    for name in ("cls", "offset"):
        torch.testing.assert_close(said[0][name], said[1][name])
    assert len(said[0]) == 2


def test_perfect_maps_have_no_loss():
    net, sample = network(), scene(5, 3)
    votes, probability, _ = perfect(sample.segments)
    offsets = votes - pixel_centres((128, 128))
    net.maps = lambda images: (offsets[None], 40 * probability[None], [(128, 128)])
    losses = net([sample.image], [sample.segments])
    assert losses["cls"] < 1e-4 and losses["offset"] == 0


def test_images_without_things_train_and_predict():
    net = network()
    image, nothing = torch.rand(3, 50, 70), empty_segments((50, 70))
    losses = net([image], [nothing])
    assert losses["offset"] == 0 and losses["cls"].isfinite()
    sum(losses.values()).backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
    answer = net.eval().predict_instances([image, torch.rand(3, 33, 40)])
    assert [each.size for each in answer] == [(50, 70), (33, 40)]


def test_offsets_of_the_network_are_in_pixels():
    """With the head's bias alone: reach times what it says."""
    net = network().eval()
    torch.nn.init.zeros_(net.head.weight)
    net.head.bias.data[:2] = torch.tensor([1.0, -0.5])
    with torch.no_grad():
        offsets, logits, sizes = net.maps([torch.rand(3, 40, 64)])
    assert offsets.shape == (1, 2, 64, 64) and logits.shape[1] == 5 and sizes == [(40, 64)]
    assert (offsets[0, 0] == net.reach).all() and (offsets[0, 1] == -net.reach / 2).all()


def test_a_prediction_is_made_of_the_networks_maps():
    net, sample = network().eval(), scene(5, 3)
    votes, probability, own = perfect(sample.segments)
    offsets = torch.nn.functional.pad(votes - pixel_centres((128, 128)), (0, 32))
    logits = torch.nn.functional.pad(20 * probability, (0, 32))
    net.maps = lambda images: (offsets[None], logits[None], [(128, 128)])
    found = net.predict_instances([sample.image])[0]
    expected = instances_from_votes(votes, probability)
    assert found.size == (128, 128) and len(found) == len(expected)
    assert mask_iou(expected.masks, found.masks).amax(dim=1).min() == 1


def test_the_parts_can_be_exchanged():
    seen = []

    def loss(offsets, targets, foreground):
        seen.append(foreground.sum().item())
        return offset_loss(offsets, targets, foreground)

    net = OffsetNet(4, offset_loss=loss, find_centres=lambda votes, size: votes[:0])
    sample = scene(0, 0, 64)
    net([sample.image], [sample.segments])
    assert seen[0] > 0
    assert len(net.eval().predict_instances([sample.image])[0]) == 0


def test_the_recipe_names_its_parts():
    """Recorded weights are found again by these names."""
    made = recipe("scenes", reach=8.0)
    model = made.model()
    assert made.options == {"reach": 8.0} and model.reach == 8.0
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"features", "head"}
    inner = {name.split(".")[1] for name, _ in model.features.named_parameters("features")}
    assert inner == {"backbone", "fine", "detail", "lateral", "mix"}
    assert recipe("four_scenes").budget("test").size == 64
