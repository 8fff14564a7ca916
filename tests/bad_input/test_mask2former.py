"""What lesson 15 cannot do is named in one sentence."""

import pytest
import torch

from lessons.kit.data import empty_segments
from lessons.kit.errors import LessonsError
from lessons.kit.training.recorded import recipe_of
from lessons.mask2former import (
    WEIGHTS,
    Mask2Former,
    attention_mask,
    importance_points,
    match_at_points,
    point_losses,
    recipe,
    sample_points,
    uniform_points,
)

MAPS, POINTS = torch.zeros(2, 4, 5), torch.rand(2, 7, 2)


@pytest.mark.parametrize(
    "maps, points, message",
    [
        (MAPS[0], POINTS, "maps must be float (n, *c, h, w), not float (4, 5)"),
        (MAPS, POINTS[0], "points must be float (n, p, 2) = (2, p, 2) as maps, not float (7, 2)"),
        (
            MAPS,
            POINTS[:1],
            "points must be float (n, p, 2) = (2, p, 2) as maps, not float (1, 7, 2)",
        ),
        (
            MAPS,
            POINTS[..., :1],
            "points must be float (n, p, 2) = (2, 7, 2) as maps, not float (2, 7, 1)",
        ),
    ],
)
def test_maps_and_points_must_fit(maps, points, message):
    with pytest.raises(ValueError) as error:
        sample_points(maps, points)
    assert str(error.value) == message


@pytest.mark.parametrize("shape", [(2, 0, 5), (2, 3, 3, 4, 5)])
def test_what_is_no_map(shape):
    points = torch.rand(2, 7, 2)
    with pytest.raises(ValueError, match=r"maps must be \(n, h, w\) or \(n, c, h, w\) with cells"):
        sample_points(torch.zeros(shape), points)


@pytest.mark.parametrize(
    "how, message",
    [
        ((0, 3.0, 0.75), "count must be a whole number of at least 1, not 0"),
        ((10, 0.5, 0.75), "oversampling must be at least 1, not 0.5"),
        ((10, 3.0, 1.5), "importance must be between 0 and 1, not 1.5"),
    ],
)
def test_there_must_be_points(how, message):
    with pytest.raises(ValueError, match="count must be a whole number of at least 1, not 0"):
        uniform_points(3, 0)
    with pytest.raises(ValueError) as error:
        importance_points(MAPS, *how)
    assert str(error.value) == message


@pytest.mark.parametrize("size", [(0, 4), (4,), (4, -1)])
def test_a_map_without_cells_cannot_be_attended_to(size):
    with pytest.raises(ValueError, match="size must be a height and a width of at least 1, not"):
        attention_mask(MAPS[None], size)


def test_a_model_needs_points():
    with pytest.raises(ValueError, match="num_points must be a whole number of at least 1, not 0"):
        Mask2Former(8, 4, num_points=0)


def test_each_image_needs_its_segments():
    model, image = Mask2Former(8, 4, channels=16, heads=2), torch.zeros(3, 32, 32)
    with pytest.raises(ValueError, match="segments of 0 images for 1 images"):
        model([image], [])
    with pytest.raises(ValueError, match="image 0 is 32×32 pixels, but its segments are 8×8"):
        model([image], [empty_segments((8, 8))])


def test_matching_and_losses_need_a_target_for_each_image():
    z, targets = (torch.zeros(2, 3, 5), torch.zeros(2, 3, 4, 4)), [empty_segments((8, 8))]
    with pytest.raises(ValueError, match="targets must have one entry for each of 2 images, not 1"):
        match_at_points(*z, targets, 5, WEIGHTS)
    with pytest.raises(ValueError, match="matches must have one entry for each of 2 images, not 0"):
        point_losses(*z, targets * 2, [], 5, WEIGHTS)


def test_there_are_three_tasks():
    with pytest.raises(ValueError, match="task must be one of .*, not 'boxes'"):
        recipe("scenes", task="boxes")


def test_an_unknown_switch_is_named():
    with pytest.raises(LessonsError, match="mask2former cannot be made with .*masked_atention"):
        recipe_of("mask2former", "scenes", {"masked_atention": False})
