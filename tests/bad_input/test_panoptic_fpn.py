"""What cannot be counted or merged is named: the image, the label, the two sizes."""

import pytest
import torch

from lessons.kit.data import Category, Segments
from lessons.panoptic_fpn import (
    PanopticFPN,
    SemanticBranch,
    count_pixels,
    evaluate_semantic,
    merge_panoptic,
    recipe,
)

KINDS = [Category("sheep", True, (0, 0, 0)), Category("meadow", False, (0, 255, 0))]


def segments(size=(4, 5), label=0, scores=True):
    masks = torch.ones(1, *size, dtype=torch.bool)
    return Segments(masks, torch.tensor([label]), torch.tensor([0.9]) if scores else None)


def classes(size=(4, 5), label=1):
    return torch.full(size, label)


WRONG = {
    "another size": (
        classes((4, 6)),
        segments(),
        r"image 1: true must be integer \(h, w\) = \(4, 6\) as predicted, not int64 \(4, 5\)",
    ),
    "unknown label": (
        classes(label=2),
        segments(),
        "image 1: predicted must be 0 … 1, the 2 classes, not 2",
    ),
    "negative label": (
        classes(label=-1),
        segments(),
        "image 1: predicted must be 0 … 1, the 2 classes, not -1",
    ),
    "unknown true label": (
        classes(),
        segments(label=7),
        "image 1: true must be 0 … 1, the 2 classes, not 7",
    ),
    "no integers": (
        classes().float(),
        segments(),
        r"image 1: predicted must be integer \(h, w\), not float \(4, 5\)",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_miou_names_the_image(case):
    prediction, target, message = WRONG[case]
    with pytest.raises(ValueError, match=f"^{message}$"):
        evaluate_semantic([classes(), prediction], [segments(), target], KINDS)


def test_miou_needs_a_prediction_for_each_target():
    message = "^predictions must have one entry for each of 2 images, not 1$"
    with pytest.raises(ValueError, match=message):
        evaluate_semantic([classes()], [segments()] * 2, KINDS)


def test_counting_names_the_side():
    with pytest.raises(ValueError, match="^true must be 0 … 2, the 3 classes, not 9$"):
        count_pixels(classes(), classes(label=9), 3)


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        (
            segments((4, 6)),
            r"semantic must be \(4, 6\), the size of the masks, not \(4, 5\)",
        ),
        (segments(scores=False), "instances must have scores: the best claims its pixels first"),
        (segments(label=1), "instances.labels must be 0 … 0, the 1 classes, not 1"),
        (segments(label=-1), "instances.labels must be 0 … 0, the 1 classes, not -1"),
    ],
)
def test_the_merge_says_what_it_cannot_merge(instances, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        merge_panoptic(instances, classes(), num_things=1)


def test_the_branch_says_how_many_levels_it_takes():
    with pytest.raises(ValueError, match="^features must have .* each of 4 levels, not 2$"):
        SemanticBranch(16, 3, hidden=16)([torch.zeros(1, 16, 8, 8)] * 2)


def test_the_merge_takes_shares():
    with pytest.raises(ValueError, match="^overlap_threshold must be between 0 and 1, not 50$"):
        merge_panoptic(segments(), classes(), num_things=1, overlap_threshold=50)


@pytest.mark.parametrize("things", [0, 8, 9])
def test_there_must_be_things_and_stuff(things):
    with pytest.raises(ValueError, match=f"^num_things must be in 1 … 7, not {things}$"):
        PanopticFPN(8, things)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"panoptic_score": 50}, "panoptic_score must be between 0 and 1, not 50"),
        ({"panoptic_overlap": -0.1}, "panoptic_overlap must be between 0 and 1, not -0.1"),
        ({"stuff_share": 4096}, "stuff_share must be between 0 and 1, not 4096"),
        ({"semantic_weight": -1}, "semantic_weight must be at least 0, not -1"),
        ({"score_threshold": 1.5}, "score_threshold must be between 0 and 1, not 1.5"),
    ],
)
def test_settings_out_of_range(setting, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        PanopticFPN(8, 4, **setting)


def test_one_class_is_too_few():
    message = "^num_classes must be a whole number of at least 2, not 1$"
    with pytest.raises(ValueError, match=message):
        PanopticFPN(1, 1)


def test_unknown_keyword_is_named():
    with pytest.raises(TypeError, match="PanopticFPN.* unexpected .*'panoptic_scor'"):
        PanopticFPN(8, 4, panoptic_scor=0.3)


def test_the_model_merges_logits_of_its_classes():
    with pytest.raises(ValueError, match=r"^logits must be float \(k, h, w\), not float \(4, 5\)$"):
        PanopticFPN(8, 4).merge(segments(), torch.zeros(4, 5))


def test_no_images():
    model = PanopticFPN(8, 4)
    for call in (model.predict_instances, model.predict_semantic, model.predict_panoptic):
        with pytest.raises(ValueError, match="^no images: a batch needs at least one$"):
            call([])


def test_shared_is_yes_or_no():
    with pytest.raises(ValueError, match="^shared must be True or False, not 'no'$"):
        recipe(shared="no")
