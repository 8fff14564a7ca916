"""Segments and samples that cannot be: the message names the field and what was found."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lessons.average_precision import evaluate_instances
from lessons.kit.data import (
    Category,
    Sample,
    Segments,
    empty_segments,
    flatten_overlaps,
    stuff,
    things,
)
from lessons.kit.data.imperfect import imperfect_detections, imperfect_panoptic
from lessons.kit.data.scenes import Scenes, scene
from lessons.kit.data.types import INTEGERS
from lessons.panoptic_quality import panoptic_quality

KINDS = [Category("sheep", True, (0, 0, 0)), Category("meadow", False, (0, 255, 0))]
MASKS = torch.zeros(2, 4, 6, dtype=torch.bool)
LABELS = torch.tensor([0, 1])
NAN = float("nan")

WRONG_MASKS = {
    "numbers": (MASKS.float(), r"not float32 of shape \(2, 4, 6\)"),
    "half": (MASKS.half(), r"not float16 of shape \(2, 4, 6\)"),
    "one mask": (MASKS[0], r"not bool of shape \(4, 6\)"),
    "a channel": (MASKS[:, None], r"not bool of shape \(2, 1, 4, 6\)"),
    "numpy": (MASKS.numpy(), "not ndarray"),
    "a list": ([MASKS[0], MASKS[1]], "not list"),
}


@pytest.mark.parametrize("masks, found", WRONG_MASKS.values(), ids=WRONG_MASKS.keys())
def test_masks_that_are_no_masks(masks, found):
    with pytest.raises(ValueError, match=f"^masks must be a boolean tensor of .*, {found}$"):
        Segments(masks, LABELS)


@pytest.mark.parametrize("value", [2, 255, -1])
def test_masks_and_crowds_of_other_numbers_than_0_and_1(value):
    masks, crowd = MASKS.int(), torch.tensor([0, value])
    masks[1, 3, 5] = value
    with pytest.raises(ValueError, match=f"^masks must be boolean, or 0 and 1, not {value}$"):
        Segments(masks, LABELS)
    with pytest.raises(ValueError, match=f"^is_crowd must be boolean, or 0 and 1, not {value}$"):
        Segments(MASKS, LABELS, is_crowd=crowd)


WRONG_FIELDS = {
    "too few labels": ({"labels": LABELS[:1]}, r"labels .* the 2 masks, not .*\(1,\)"),
    "no labels": ({"labels": LABELS[:0]}, r"labels .* the 2 masks, not .*\(0,\)"),
    "one number": ({"labels": torch.tensor(1)}, r"labels .* the 2 masks, not .*\(\)"),
    "a table": ({"labels": LABELS[:, None]}, r"labels .* the 2 masks, not .*\(2, 1\)"),
    "too many scores": ({"scores": torch.rand(3)}, r"scores .* the 2 masks, not .*\(3,\)"),
    "scores per class": ({"scores": torch.rand(2, 5)}, r"scores .* the 2 masks, not .*\(2, 5\)"),
    "one crowd": ({"is_crowd": torch.ones(1).bool()}, r"is_crowd .* the 2 masks, not .*\(1,\)"),
    "a list of labels": ({"labels": [0, 1]}, "labels must be a tensor, not list"),
    "labels that are no integers": ({"labels": LABELS / 2}, "labels must be integers, not float32"),
    "boolean labels": ({"labels": LABELS > 0}, "labels must be integers, not bool"),
    "whole scores": ({"scores": LABELS}, "scores must be floating-point numbers, not int64"),
    "crowds by halves": ({"is_crowd": LABELS / 2}, "is_crowd must be boolean, not float32"),
    "labels elsewhere": (
        {"labels": LABELS.to("meta")},
        "labels must be on the masks' device, cpu, not meta",
    ),
    "crowds elsewhere": (
        {"is_crowd": LABELS.to("meta")},
        "is_crowd must be on the masks' device, cpu, not meta",
    ),
    "no labels at all": ({"labels": None}, "labels must be a tensor, not NoneType"),
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


WRONG_IMAGES = {
    "no channel": (torch.rand(4, 6), r"not float32 of shape \(4, 6\)"),
    "one channel": (torch.rand(1, 4, 6), r"not float32 of shape \(1, 4, 6\)"),
    "channels last": (torch.rand(4, 6, 3), r"not float32 of shape \(4, 6, 3\)"),
    "a batch": (torch.rand(1, 3, 4, 6), r"not float32 of shape \(1, 3, 4, 6\)"),
    "bytes": (torch.zeros(3, 4, 6).byte(), r"not uint8 of shape \(3, 4, 6\)"),
    "NumPy": (np.zeros((3, 4, 6)), "not ndarray"),
}


@pytest.mark.parametrize("image, found", WRONG_IMAGES.values(), ids=WRONG_IMAGES.keys())
def test_an_image_that_is_none(image, found):
    wanted = r"image must be a float tensor \(3, h, w\) of RGB in \[0, 1\]"
    with pytest.raises(ValueError, match=f"^{wanted}, {found}$"):
        Sample(image, empty_segments((4, 6)))


@pytest.mark.parametrize("value, found", [(255.0, "values from 0 to 255"), (NAN, "NaN")])
def test_an_image_with_values_that_are_no_colours(value, found):
    image = torch.zeros(3, 4, 6)
    image[2, 3, 5] = value
    with pytest.raises(ValueError, match=rf"^image must be RGB in \[0, 1\], but has {found}$"):
        Sample(image, empty_segments((4, 6)))


def test_segments_that_overlap():
    masks = MASKS.clone()
    masks[0, :2], masks[1, 1:] = True, True
    segments = Segments(masks, LABELS)
    with pytest.raises(ValueError, match="must be disjoint, 6 pixels are in two: flatten_overlaps"):
        Sample(torch.rand(3, 4, 6), segments)
    Sample(torch.rand(3, 4, 6), flatten_overlaps(segments))


def test_what_is_on_top():
    with pytest.raises(ValueError, match="^top must be smaller or later, not 'larger'$"):
        flatten_overlaps(Segments(MASKS, LABELS), top="larger")


# Annotations forbid these in the other tests: see tests/conftest.py.


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_what_files_hold_as_0_and_1_is_boolean(dtype):
    masks = torch.rand(2, 4, 6) > 0.5
    segments = Segments(masks.to(dtype), LABELS.to(dtype), is_crowd=torch.tensor([1, 0]).to(dtype))
    assert segments.masks.dtype == torch.bool and segments.masks.equal(masks)
    assert segments.labels.dtype == torch.int64 and segments.labels.equal(LABELS)
    assert segments.is_crowd.dtype == torch.bool and segments.is_crowd.tolist() == [True, False]
    assert (~segments.is_crowd).tolist() == [False, True]


def test_a_label_is_no_mask_where_there_are_as_many_as_classes():
    segments = Segments(MASKS, torch.tensor([1, 1], dtype=torch.uint8))
    assert len(things(segments, KINDS)) == 0 and len(stuff(segments, KINDS)) == 2


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8], ids=str)
def test_crowds_of_numbers_are_scored_as_crowds(dtype):
    scenes, rng = Scenes.validation(), np.random.default_rng(0)
    samples = [scenes[index] for index in range(20)]
    kinds, truth = scenes.categories, [sample.segments for sample in samples]
    assert any(own.is_crowd.any() for own in truth)
    given = [replace(own, is_crowd=own.is_crowd.to(dtype)) for own in truth]
    detections = [imperfect_detections(sample, kinds, rng) for sample in samples]
    ap = evaluate_instances(detections, given, kinds)["ap"]
    assert ap == evaluate_instances(detections, truth, kinds)["ap"] > 0.2
    answers = [imperfect_panoptic(sample, kinds, rng) for sample in samples]
    pq = panoptic_quality(answers, given, kinds)["pq"]
    assert pq == panoptic_quality(answers, truth, kinds)["pq"] > 0.5


@pytest.mark.parametrize("choose", [things, stuff])
@pytest.mark.parametrize("label", [2, -1, 255])
def test_a_label_of_no_category(choose, label):
    segments = Segments(MASKS, torch.tensor([1, label]))
    with pytest.raises(
        ValueError, match=rf"label {label} is not one of the 2 categories \(0 … 1\)"
    ):
        choose(segments, KINDS)


@pytest.mark.parametrize(
    ("make", "name", "found"),
    [
        (lambda: Scenes(crowded="yes"), "crowded", "'yes'"),
        (lambda: Scenes.validation(crowded=1), "crowded", "1"),
        (lambda: Scenes.train(wide="no"), "wide", "'no'"),
        (lambda: scene(0, 0, 32, crowded=None), "crowded", "None"),
    ],
)
def test_a_kind_of_scene_is_yes_or_no(make, name, found):
    with pytest.raises(ValueError, match=f"^{name} must be True or False, not {found}$"):
        make()
