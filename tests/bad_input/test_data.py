"""Segments and samples that cannot be: the message names the field and what was found."""

import numpy as np
import pytest
import torch

from lessons.kit.data import Category, Sample, Segments, empty_segments, stuff, things

KINDS = [Category("sheep", True, (0, 0, 0)), Category("meadow", False, (0, 255, 0))]
MASKS = torch.zeros(2, 4, 6, dtype=torch.bool)
LABELS = torch.tensor([0, 1])

WRONG_MASKS = {
    "numbers": (MASKS.float(), r"not float32 of shape \(2, 4, 6\)"),
    "bytes": (MASKS.byte(), r"not uint8 of shape \(2, 4, 6\)"),
    "one mask": (MASKS[0], r"not bool of shape \(4, 6\)"),
    "a channel": (MASKS[:, None], r"not bool of shape \(2, 1, 4, 6\)"),
    "numpy": (MASKS.numpy(), "not ndarray"),
    "a list": ([MASKS[0], MASKS[1]], "not list"),
}


@pytest.mark.parametrize("masks, found", WRONG_MASKS.values(), ids=WRONG_MASKS.keys())
def test_masks_that_are_no_masks(masks, found):
    with pytest.raises(ValueError, match=f"^masks must be a boolean tensor of .*, {found}$"):
        Segments(masks, LABELS)


WRONG_FIELDS = {
    "too few labels": ({"labels": LABELS[:1]}, r"labels .* the 2 masks, not .*\(1,\)"),
    "no labels": ({"labels": LABELS[:0]}, r"labels .* the 2 masks, not .*\(0,\)"),
    "one number": ({"labels": torch.tensor(1)}, r"labels .* the 2 masks, not .*\(\)"),
    "a table": ({"labels": LABELS[:, None]}, r"labels .* the 2 masks, not .*\(2, 1\)"),
    "too many scores": ({"scores": torch.rand(3)}, r"scores .* the 2 masks, not .*\(3,\)"),
    "scores per class": ({"scores": torch.rand(2, 5)}, r"scores .* the 2 masks, not .*\(2, 5\)"),
    "one crowd": ({"is_crowd": torch.ones(1).bool()}, r"is_crowd .* the 2 masks, not .*\(1,\)"),
    "a list of labels": ({"labels": [0, 1]}, "labels must be a tensor, not list"),
    "a list of scores": ({"scores": [0.5, 1.0]}, "scores must be a tensor, not list"),
}


@pytest.mark.parametrize("fields, message", WRONG_FIELDS.values(), ids=WRONG_FIELDS.keys())
def test_a_field_that_does_not_fit_the_masks(fields, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Segments(MASKS, **{"labels": LABELS} | fields)


@pytest.mark.parametrize("size", [(6, 4), (4, 7), (5, 6)])
def test_an_image_of_another_size_than_its_masks(size):
    with pytest.raises(ValueError, match=rf"masks are 4×6 pixels but the image is {size[0]}×"):
        Sample(torch.rand(3, *size), empty_segments((4, 6)))


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (4, 6, 3), (1, 3, 4, 6)])
def test_an_image_that_is_no_colour_image(shape):
    with pytest.raises(ValueError, match=r"^image must be a tensor of shape \(3, h, w\)") as error:
        Sample(torch.rand(shape), empty_segments((4, 6)))
    assert str(shape) in str(error.value)


def test_an_image_that_is_no_tensor():
    with pytest.raises(ValueError, match="^image must be a tensor of shape .*, not ndarray$"):
        Sample(np.zeros((3, 4, 6)), empty_segments((4, 6)))


def test_segments_that_overlap():
    masks = MASKS.clone()
    masks[0, :2], masks[1, 1:] = True, True
    with pytest.raises(ValueError, match="segments .* must be disjoint, 6 pixels are in two"):
        Sample(torch.rand(3, 4, 6), Segments(masks, LABELS))


@pytest.mark.parametrize("choose", [things, stuff])
@pytest.mark.parametrize("label", [2, -1, 255])
def test_a_label_of_no_category(choose, label):
    segments = Segments(MASKS, torch.tensor([1, label]))
    with pytest.raises(
        ValueError, match=rf"label {label} is not one of the 2 categories \(0 … 1\)"
    ):
        choose(segments, KINDS)
