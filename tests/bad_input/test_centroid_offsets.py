"""What has no centre or no vote is named in one sentence."""

import pytest
import torch

from lessons.centroid_offsets import (
    OffsetNet,
    centroid_offsets,
    find_centres,
    group_by_centroid,
    instance_centroids,
    must_be_finite,
    offset_loss,
)
from lessons.kit.data import empty_segments

MASKS = torch.zeros(2, 4, 5, dtype=torch.bool)
VOTES = torch.ones(3, 2)
OFFSETS, INSIDE = torch.zeros(1, 2, 4, 5), torch.ones(1, 4, 5, dtype=torch.bool)


@pytest.mark.parametrize("function", [instance_centroids, centroid_offsets])
@pytest.mark.parametrize(
    "masks, message",
    [
        (MASKS.float(), r"masks must be bool \(n, h, w\), not float32 \(2, 4, 5\)"),
        (MASKS.to(torch.uint8), "masks must be bool .* not uint8"),
        (MASKS[0], r"masks must be bool \(n, h, w\), not bool \(4, 5\)"),
        (MASKS[None], r"masks must be bool .* \(1, 2, 4, 5\)"),
    ],
)
def test_masks(function, masks, message):
    with pytest.raises(ValueError, match=message):
        function(masks)


def test_masks_that_overlap():
    masks = MASKS.clone()
    masks[0, :2], masks[1, 1:] = True, True
    with pytest.raises(ValueError, match="masks must be disjoint, 5 pixels are in more than one"):
        centroid_offsets(masks)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((OFFSETS[0], OFFSETS, INSIDE), r"offsets must be \(b, 2, h, w\), not \(2, 4, 5\)"),
        ((OFFSETS[:, :1], OFFSETS[:, :1], INSIDE), r"offsets must be .* not \(1, 1, 4, 5\)"),
        (
            (OFFSETS, OFFSETS[..., :4], INSIDE),
            r"targets must have the shape of offsets, \(1, 2, 4, 5\), not \(1, 2, 4, 4\)",
        ),
        (
            (OFFSETS, OFFSETS, INSIDE.float()),
            r"foreground must be bool \(1, 4, 5\), not float32 \(1, 4, 5\)",
        ),
        ((OFFSETS, OFFSETS, INSIDE[0]), r"foreground must be bool \(1, 4, 5\), not bool \(4, 5\)"),
    ],
)
def test_the_loss(arguments, message):
    with pytest.raises(ValueError, match=message):
        offset_loss(*arguments)


def with_a_wrong_row(value):
    points = VOTES.clone()
    points[1, 0] = value
    return points


WRONG_POINTS = {
    "three numbers": (torch.ones(3, 3), r"must be float \(n, 2\), x and y, not float32 \(3, 3\)"),
    "a single point": (VOTES[0], r"must be float \(n, 2\), .* not float32 \(2,\)"),
    "whole numbers": (VOTES.long(), "must be float .* not int64"),
    "NaN": (with_a_wrong_row(torch.nan), r"must be finite, row 1 is \[nan, 1.0\]"),
    "infinity": (with_a_wrong_row(torch.inf), r"must be finite, row 1 is \[inf, 1.0\]"),
}


@pytest.mark.parametrize("points, message", WRONG_POINTS.values(), ids=WRONG_POINTS.keys())
@pytest.mark.parametrize(
    "name, call",
    [
        ("votes", lambda points: find_centres(points, (4, 5))),
        ("votes", lambda points: group_by_centroid(points, VOTES)),
        ("centres", lambda points: group_by_centroid(VOTES, points)),
    ],
    ids=["find_centres", "group_by_centroid, votes", "group_by_centroid, centres"],
)
def test_points(name, call, points, message):
    with pytest.raises(ValueError, match=f"{name} {message}"):
        call(points)


def test_a_radius():
    with pytest.raises(ValueError, match="radius must be at least 0 pixels, not -1"):
        find_centres(VOTES, (4, 5), radius=-1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("channel, name", [(0, "offsets"), (3, "class logits")])
def test_a_network_that_has_diverged(channel, name, value):
    net = OffsetNet(4).eval()
    net.head.bias.data[channel] = value
    with pytest.raises(ValueError, match=f"the network's {name} are not finite: its training"):
        net.predict_instances([torch.rand(3, 40, 50)])


def test_the_first_map_is_named():
    maps = {"first": torch.ones(2), "second": torch.tensor([torch.nan]), "third": torch.ones(1) / 0}
    with pytest.raises(ValueError, match="the network's second are not finite"):
        must_be_finite(maps)


def test_no_images():
    with pytest.raises(ValueError, match="no images"):
        OffsetNet(4).predict_instances([])


def test_segments_of_other_images():
    net, image = OffsetNet(4), torch.rand(3, 32, 64)
    nothing = empty_segments((32, 64))
    with pytest.raises(ValueError, match="segments of 1 images for 2 images"):
        net([image, image], [nothing])
    with pytest.raises(ValueError, match="image 1 is 32×64 pixels, but its segments are 64×32"):
        net([image, image], [nothing, empty_segments((64, 32))])
