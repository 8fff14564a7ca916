"""What cannot be compared is named: the image, the argument, what was found there."""

import pytest
import torch

from lessons.average_precision import evaluate_instances, mask_iou
from lessons.kit.data import Category, Segments

KINDS = [Category("sheep", True, (0, 0, 0)), Category("meadow", False, (0, 255, 0))]


def segments(size=(8, 8), label=0, score=0.5):
    scores = None if score is None else torch.tensor([score])
    return Segments(torch.ones(1, *size, dtype=torch.bool), torch.tensor([label]), scores)


WRONG = {
    "no scores": (segments(score=None), segments(), "image 1: the prediction has no scores"),
    "a score is NaN": (segments(score=float("nan")), segments(), "image 1: a score .* is NaN"),
    "another size": (segments((8, 9)), segments(), r"image 1: predicted masks are \(8, 9\)"),
    "unknown predicted label": (
        segments(label=2),
        segments(),
        "image 1: predicted labels must be 0 … 1, the 2 classes, not 2",
    ),
    "unknown true label": (
        segments(),
        segments(label=-1),
        "image 1: true labels must be 0 … 1, the 2 classes, not -1",
    ),
}


@pytest.mark.parametrize("prediction, target, message", WRONG.values(), ids=WRONG.keys())
def test_the_image_is_named(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        evaluate_instances([segments(), prediction], [segments(), target], KINDS)


def test_as_many_predictions_as_targets():
    with pytest.raises(ValueError, match="2 predictions for 1 targets"):
        evaluate_instances([segments(), segments()], [segments()], KINDS)


def test_masks_of_two_sizes():
    wanted = r"targets must be boolean .* = \(2, 4, 5\) as predictions, not boolean \(2, 5, 4\)"
    with pytest.raises(ValueError, match=wanted):
        mask_iou(torch.ones(1, 4, 5, dtype=torch.bool), torch.ones(2, 5, 4, dtype=torch.bool))


@pytest.mark.parametrize("threshold", [float("nan"), -0.1, 1.5])
def test_a_threshold_that_no_iou_can_be(threshold):
    with pytest.raises(ValueError, match=f"thresholds must be between 0 and 1, not {threshold}"):
        evaluate_instances([segments()], [segments()], KINDS, thresholds=[0.5, threshold])
