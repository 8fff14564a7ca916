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
        r"image 1: predicted map is \(4, 6\), true \(4, 5\)",
    ),
    "unknown label": (
        classes(label=2),
        segments(),
        "image 1: predicted label 2 is none of 2 categories",
    ),
    "negative label": (
        classes(label=-1),
        segments(),
        "image 1: predicted label -1 is none of 2 categories",
    ),
    "unknown true label": (
        classes(),
        segments(label=7),
        "image 1: true label 7 is none of 2 categories",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_miou_names_the_image(case):
    prediction, target, message = WRONG[case]
    with pytest.raises(ValueError, match=f"^{message}$"):
        evaluate_semantic([classes(), prediction], [segments(), target], KINDS)


def test_miou_needs_a_prediction_for_each_target():
    with pytest.raises(ValueError, match="^1 predictions for 2 targets$"):
        evaluate_semantic([classes()], [segments()] * 2, KINDS)


def test_counting_names_the_side():
    with pytest.raises(ValueError, match="^true label 9 is none of 3 categories$"):
        count_pixels(classes(), classes(label=9), 3)


@pytest.mark.parametrize(
    ("instances", "message"),
    [
        (segments((4, 6)), r"semantic is \(4, 5\), the instances \(4, 6\)"),
        (segments(scores=False), "instances must have scores: the best claims its pixels first"),
        (segments(label=1), "instance label 1 is none of 1 things"),
        (segments(label=-1), "instance label -1 is none of 1 things"),
    ],
)
def test_the_merge_says_what_it_cannot_merge(instances, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        merge_panoptic(instances, classes(), num_things=1)


def test_the_branch_says_how_many_levels_it_takes():
    with pytest.raises(ValueError, match="^2 features for 4 levels$"):
        SemanticBranch(16, 3, hidden=16)([torch.zeros(1, 16, 8, 8)] * 2)


@pytest.mark.parametrize("things", [0, 8, 9])
def test_there_must_be_things_and_stuff(things):
    message = f"^num_things must be between 0 and the 8 classes, not {things}$"
    with pytest.raises(ValueError, match=message):
        PanopticFPN(8, things)


def test_no_images():
    model = PanopticFPN(8, 4)
    for call in (model.predict_instances, model.predict_semantic, model.predict_panoptic):
        with pytest.raises(ValueError, match="^no images: a batch needs at least one$"):
            call([])


def test_shared_is_yes_or_no():
    with pytest.raises(ValueError, match="^shared must be True or False, not 'no'$"):
        recipe(shared="no")
