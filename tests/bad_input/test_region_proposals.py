"""What does not belong together is named: levels, images, settings, a box without area."""

import re

import pytest
import torch

from lessons.region_proposals import (
    FeaturePyramid,
    ProposalHead,
    RegionProposalNetwork,
    match_boxes,
    proposal_losses,
    sample_boxes,
    select_proposals,
)

FEATURES = [torch.zeros(2, 8, side, side) for side in (8, 4)]
SIZES = [(32, 32), (32, 30)]
BOXES = [torch.tensor([[1.0, 2.0, 9.0, 9.0]]), torch.zeros(0, 4)]
NAN = float("nan")


def network(**settings):
    return RegionProposalNetwork(8, sizes=(12, 24), **settings)


def says(message):
    return pytest.raises(ValueError, match=f"^{re.escape(message)}$")


# ---------------------------------------------------------------- a batch


@pytest.mark.parametrize("features", [FEATURES[:1], []])
def test_levels_without_an_anchor_size(features):
    with says(f"{len(features)} levels of features for 2 anchor sizes"):
        network()(features, (32, 32), SIZES)


def test_as_many_image_sizes_as_images():
    with says("image_sizes must have one entry for each of 2 images, not 1"):
        network()(FEATURES, (32, 32), SIZES[:1])


def test_as_many_lists_of_boxes_as_images():
    with says("boxes must have one entry for each of 2 images, not 1"):
        network()(FEATURES, (32, 32), SIZES, BOXES[:1])


def test_levels_of_one_batch():
    wanted = "float (b, c, _, _) = (2, 8, _, _) as features[0]"
    with says(f"features[1] must be {wanted}, not float (3, 8, 4, 4)"):
        network()([FEATURES[0], torch.zeros(3, 8, 4, 4)], (32, 32), SIZES)


def test_true_boxes_have_four_numbers_and_are_a_list():
    with says("boxes[0] must be float (_, 4), not float (1, 5)"):
        network()(FEATURES, (32, 32), SIZES, [torch.zeros(1, 5), BOXES[1]])
    with says("boxes must be a list of tensors, not float (2, 1, 4)"):
        network()(FEATURES, (32, 32), SIZES, torch.zeros(2, 1, 4))


@pytest.mark.parametrize("broken", [[3.0, 3, 3, 9], [3.0, 3, 9, 1], [NAN, 3, 9, 9]])
def test_a_true_box_without_area_is_named_by_its_image(broken):
    boxes = [BOXES[0], torch.tensor([[1.0, 1, 5, 5], broken])]
    with says("image 1: a true box has no area"):
        network()(FEATURES, (32, 32), SIZES, boxes)


# ---------------------------------------------------------------- settings


def test_a_level_with_more_anchors_than_another():
    with pytest.raises(ValueError, match="every level needs equally many anchor sizes"):
        RegionProposalNetwork(8, sizes=(12, (24, 32)))


def test_a_setting_that_does_not_exist_is_named():
    message = r"RegionProposalNetwork.__init__\(\) got an unexpected keyword argument 'forground'"
    with pytest.raises(TypeError, match=message):
        network(forground=0.5)


@pytest.mark.parametrize(
    "name",
    ["foreground", "background", "positive_fraction", "nms_threshold", "score_threshold"],
)
@pytest.mark.parametrize("value", [NAN, -0.1, 1.5])
def test_a_share_out_of_range(name, value):
    with says(f"{name} must be between 0 and 1, not {value}"):
        network(**{name: value})


@pytest.mark.parametrize(
    "name",
    ["samples", "candidates_train", "candidates_eval", "proposals_train", "proposals_eval"],
)
@pytest.mark.parametrize("value", [0, -1, 2.5, NAN])
def test_a_number_out_of_range(name, value):
    with says(f"{name} must be a whole number of at least 1, not {value}"):
        network(**{name: value})


@pytest.mark.parametrize("value", [NAN, -0.1])
def test_a_least_size_out_of_range(value):
    with says(f"min_size must be at least 0, not {value}"):
        network(min_size=value)


# ---------------------------------------------------------------- its parts


def test_a_pyramid_of_other_levels():
    with says("3 features for a pyramid of 2 levels"):
        FeaturePyramid([8, 8], 8)([*FEATURES, FEATURES[1]])


def test_a_pyramid_of_what_is_no_list():
    with says("features must be a list of tensors, not float (2, 8, 4, 4)"):
        FeaturePyramid([8, 8], 8)(FEATURES[1])


def test_a_head_without_images():
    with says("features[0] must be float (b, c, _, _), not float (8, 4, 4)"):
        ProposalHead(8, 3)([FEATURES[1][0]])


@pytest.mark.parametrize("background, foreground", [(0.7, 0.3), (NAN, 0.3), (0.7, NAN)])
def test_background_above_foreground(background, foreground):
    with says(f"background {background} must not be above foreground {foreground}"):
        match_boxes(torch.rand(2, 5), foreground, background)


def test_an_iou_that_is_nan_is_no_match_and_no_background():
    with pytest.raises(ValueError, match="iou holds NaN"):
        match_boxes(torch.tensor([[0.9, 0.1], [0.2, NAN]]), 0.7, 0.3)


def test_an_iou_is_a_matrix_of_floats():
    with says("iou must be float (g, n), not float (5,)"):
        match_boxes(torch.rand(5), 0.7, 0.3)


def test_matches_are_whole_numbers():
    with says("matches must be integer (n,), not float (5,)"):
        sample_boxes(torch.rand(5), 4, 0.5)


NUMBERS = {"foreground": 0.7, "background": 0.3, "samples": 9, "positive_fraction": 0.5}


def test_losses_need_deltas_and_anchors_for_their_logits():
    with says("deltas must be float (b, n, 4) = (2, 9, 4) as logits, not float (2, 8, 4)"):
        proposal_losses(
            torch.zeros(2, 9), torch.zeros(2, 8, 4), torch.zeros(9, 4), BOXES, **NUMBERS
        )
    with says("anchors must be float (n, 4) = (9, 4) as logits, not float (8, 4)"):
        proposal_losses(
            torch.zeros(2, 9), torch.zeros(2, 9, 4), torch.zeros(8, 4), BOXES, **NUMBERS
        )


def test_proposals_need_deltas_for_their_logits():
    with says("deltas must be float (b, n, 4) = (2, 9, 4) as logits, not float (3, 9, 4)"):
        select_proposals(
            torch.zeros(2, 9),
            torch.zeros(3, 9, 4),
            [torch.zeros(9, 4)],
            SIZES,
            candidates=5,
            proposals=5,
            nms_threshold=0.7,
            min_size=0.0,
            score_threshold=0.0,
        )
