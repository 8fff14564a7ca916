"""What lesson 15 cannot do is named in one sentence."""

import pytest
import torch

from lessons.kit.data import empty_segments
from lessons.kit.errors import LessonsError
from lessons.kit.training.recorded import recipe_of
from lessons.mask2former import (
    WEIGHTS,
    DeformableAttention,
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
CELLS, PLACES = torch.zeros(1, 20, 16), torch.rand(20, 2)


@pytest.mark.parametrize(
    "maps, points, message",
    [
        (MAPS[0], POINTS, r"maps must be \(n, h, w\) or \(n, c, h, w\), not \(4, 5\)"),
        (MAPS[:, :0], POINTS, r"maps must be .* not \(2, 0, 5\)"),
        (MAPS, POINTS[0], r"points must be \(2, p, 2\), an x and a y .* not \(7, 2\)"),
        (MAPS, POINTS[:1], r"points must be \(2, p, 2\), .* not \(1, 7, 2\)"),
        (MAPS, POINTS[..., :1], r"points must be \(2, p, 2\), .* not \(2, 7, 1\)"),
    ],
)
def test_maps_and_points_must_fit(maps, points, message):
    with pytest.raises(ValueError, match=message):
        sample_points(maps, points)


def test_there_must_be_points():
    with pytest.raises(ValueError, match="count must be at least 1, not 0"):
        uniform_points(3, 0)
    for wrong in ((0, 3.0, 0.75), (10, 0.5, 0.75), (10, 3.0, 1.5)):
        with pytest.raises(ValueError, match=f"count and oversampling .* not {wrong[0]}, "):
            importance_points(MAPS, *wrong)


@pytest.mark.parametrize("size", [(0, 4), (4,), (4, -1)])
def test_a_map_without_cells_cannot_be_attended_to(size):
    with pytest.raises(ValueError, match="size must be a height and a width of at least 1, not"):
        attention_mask(MAPS[None], size)


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="heads must divide the 16 channels, 3 does not"):
        DeformableAttention(16, heads=3)


@pytest.mark.parametrize("sizes", [[(4, 5)], [(2, 2), (3, 5)], [(2, 2), (4, 4), (1, 1)]])
def test_sizes_must_be_those_of_the_cells(sizes):
    attention = DeformableAttention(16, levels=2)
    with pytest.raises(ValueError, match="sizes must be those of the maps, not .* for 20 cells"):
        attention(CELLS, PLACES, CELLS, sizes)


def test_a_model_needs_points():
    with pytest.raises(ValueError, match="num_points must be at least 1, not 0"):
        Mask2Former(8, 4, num_points=0)


def test_each_image_needs_its_segments():
    model, image = Mask2Former(8, 4, channels=16, heads=2), torch.zeros(3, 32, 32)
    with pytest.raises(ValueError, match="segments of 0 images for 1 images"):
        model([image], [])
    with pytest.raises(ValueError, match="image 0 is 32×32 pixels, but its segments are 8×8"):
        model([image], [empty_segments((8, 8))])


def test_matching_and_losses_need_a_target_for_each_image():
    z, targets = (torch.zeros(2, 3, 5), torch.zeros(2, 3, 4, 4)), [empty_segments((8, 8))]
    with pytest.raises(ValueError, match="targets must have 2 entries, not 1"):
        match_at_points(*z, targets, 5, WEIGHTS)
    with pytest.raises(ValueError, match="matches must have 2 entries, not 0"):
        point_losses(*z, targets * 2, [], 5, WEIGHTS)


def test_there_are_three_tasks():
    with pytest.raises(ValueError, match="task must be one of .*, not 'boxes'"):
        recipe("scenes", task="boxes")


def test_an_unknown_switch_is_named():
    with pytest.raises(LessonsError, match="mask2former cannot be made with .*masked_atention"):
        recipe_of("mask2former", "scenes", {"masked_atention": False})
