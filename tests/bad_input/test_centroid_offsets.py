"""What has no centre or no vote is named in one sentence."""

import pytest
import torch

from lessons.centroid_offsets import (
    OffsetNet,
    centroid_offsets,
    find_centres,
    group_by_centroid,
    instance_centroids,
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
        (MASKS.float(), r"masks must be boolean \(n, h, w\), not float \(2, 4, 5\)"),
        (MASKS.to(torch.uint8), "masks must be boolean .* not uint8"),
        (MASKS[0], r"masks must be boolean \(n, h, w\), not boolean \(4, 5\)"),
        (MASKS[None], r"masks must be boolean .* \(1, 2, 4, 5\)"),
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
        (
            (OFFSETS[0], OFFSETS, INSIDE),
            r"offsets must be float \(b, 2, h, w\), not float \(2, 4, 5\)",
        ),
        ((OFFSETS[:, :1], OFFSETS[:, :1], INSIDE), r"offsets must be .* not float \(1, 1, 4, 5\)"),
        (
            (OFFSETS, OFFSETS[..., :4], INSIDE),
            r"targets must be float .* = \(1, 2, 4, 5\) as offsets, not float \(1, 2, 4, 4\)",
        ),
        (
            (OFFSETS, OFFSETS, INSIDE.float()),
            r"foreground must be boolean .* = \(1, 4, 5\) as offsets, not float \(1, 4, 5\)",
        ),
        (
            (OFFSETS, OFFSETS, INSIDE[0]),
            r"foreground must be boolean .* = \(1, 4, 5\) as offsets, not boolean \(4, 5\)",
        ),
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
    "three numbers": (torch.ones(3, 3), r"must be float \([np], 2\).*, not float \(3, 3\)"),
    "a single point": (VOTES[0], r"must be float \([np], 2\), not float \(2,\)"),
    "whole numbers": (VOTES.long(), "must be float .* not int64"),
    "NaN": (with_a_wrong_row(torch.nan), r"must be finite, not nan at \(1, 0\)"),
    "infinity": (with_a_wrong_row(torch.inf), r"must be finite, not inf at \(1, 0\)"),
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
    with pytest.raises(ValueError, match="radius must be a whole number of at least 0, not -1"):
        find_centres(VOTES, (4, 5), radius=-1)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("channel, name", [(0, "offsets"), (3, "logits")])
def test_a_network_that_has_diverged(channel, name, value):
    net = OffsetNet(4).eval()
    net.head.bias.data[channel] = value
    with pytest.raises(ValueError, match=f"^{name} must be finite, not {value} at .* has diverged"):
        net.predict_instances([torch.rand(3, 40, 50)])


@pytest.mark.parametrize(
    "options, message",
    [
        ({"num_classes": 0}, "num_classes must be a whole number of at least 1, not 0"),
        ({"smallest": 0}, "smallest must be a whole number of at least 1, not 0"),
        ({"smallest": 2.5}, "smallest must be a whole number of at least 1, not 2.5"),
        ({"reach": 0}, "reach must be positive and finite, not 0"),
        ({"offset_weight": -1.0}, "offset_weight must be positive and finite, not -1.0"),
    ],
)
def test_networks_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        OffsetNet(**{"num_classes": 4, **options})


def test_unknown_keyword_is_named():
    with pytest.raises(TypeError, match=r"OffsetNet.__init__\(\) got an unexpected .* 'reech'"):
        OffsetNet(4, reech=2.0)


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
