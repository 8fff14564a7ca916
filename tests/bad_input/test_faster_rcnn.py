"""What does not belong together is named: levels, images, a box without area."""

import pytest
import torch

from lessons.faster_rcnn import (
    FeaturePyramid,
    ProposalSettings,
    RegionProposalNetwork,
    make_anchors,
    match_boxes,
    nms,
)

FEATURES = [torch.zeros(2, 8, side, side) for side in (8, 4)]
SIZES = [(32, 32), (32, 30)]
BOXES = [torch.tensor([[1.0, 2.0, 9.0, 9.0]]), torch.zeros(0, 4)]


def network():
    return RegionProposalNetwork(8, sizes=(12, 24))


def test_levels_without_an_anchor_size():
    with pytest.raises(ValueError, match="1 levels of features for 2 anchor sizes"):
        network()(FEATURES[:1], (32, 32), SIZES)


def test_as_many_image_sizes_as_images():
    with pytest.raises(ValueError, match="1 image sizes for 2 images"):
        network()(FEATURES, (32, 32), SIZES[:1])


def test_as_many_lists_of_boxes_as_images():
    with pytest.raises(ValueError, match="true boxes of 1 images for 2 images"):
        network()(FEATURES, (32, 32), SIZES, BOXES[:1])


@pytest.mark.parametrize("broken", [[3.0, 3, 3, 9], [3.0, 3, 9, 1], [float("nan"), 3, 9, 9]])
def test_a_true_box_without_area_is_named_by_its_image(broken):
    boxes = [BOXES[0], torch.tensor([[1.0, 1, 5, 5], broken])]
    with pytest.raises(ValueError, match="image 1: a true box has no area"):
        network()(FEATURES, (32, 32), SIZES, boxes)


def test_a_level_with_more_anchors_than_another():
    with pytest.raises(ValueError, match="every level needs equally many anchor sizes"):
        RegionProposalNetwork(8, sizes=(12, (24, 32)))


def test_a_setting_that_does_not_exist_is_named():
    with pytest.raises(TypeError, match="forground"):
        RegionProposalNetwork(8, forground=0.5)
    assert ProposalSettings(foreground=0.5).foreground == 0.5


def test_a_pyramid_of_other_levels():
    with pytest.raises(ValueError, match="3 features for a pyramid of 2 levels"):
        FeaturePyramid([8, 8], 8)([*FEATURES, FEATURES[1]])


def test_anchors_need_a_stride_and_a_size_for_each_level():
    with pytest.raises(ValueError, match="2 feature sizes, 1 strides and 2 anchor sizes"):
        make_anchors([(4, 4), (2, 2)], [8], [12, 24])


NAN = float("nan")


@pytest.mark.parametrize("background, foreground", [(0.7, 0.3), (NAN, 0.3), (0.7, NAN)])
def test_background_above_foreground(background, foreground):
    message = f"background {background} must not be above foreground {foreground}"
    with pytest.raises(ValueError, match=message):
        match_boxes(torch.rand(2, 5), foreground, background)


def test_an_iou_that_is_nan_is_no_match_and_no_background():
    with pytest.raises(ValueError, match="iou holds NaN"):
        match_boxes(torch.tensor([[0.9, 0.1], [0.2, NAN]]), 0.7, 0.3)


@pytest.mark.parametrize("name", ["foreground", "nms_threshold", "score_threshold", "min_size"])
@pytest.mark.parametrize("value", [NAN, -0.1])
def test_a_setting_that_is_no_number(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least 0, not {value}"):
        RegionProposalNetwork(8, **{name: value})


@pytest.mark.parametrize("scores, groups", [(3, None), (4, 3), (5, 4)])
def test_a_score_and_a_group_for_each_box(scores, groups):
    groups = None if groups is None else torch.zeros(groups, dtype=torch.int64)
    with pytest.raises(ValueError, match="4 boxes need as many scores and as many groups"):
        nms(torch.rand(4, 4), torch.rand(scores), 0.5, groups)
