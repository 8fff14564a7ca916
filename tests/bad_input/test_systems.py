"""What no system takes for an image or a target, in one sentence, and what each takes as it is.

Annotations would stop some of it before a user's message: see tests/conftest.py.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_systems import PREDICTIONS, SYSTEMS

from lessons.kit.data import Segments, empty_segments
from lessons.kit.data.scenes import scene
from lessons.kit.data.types import INTEGERS
from lessons.kit.models.images import MEAN, STD, batch_images
from lessons.mask_rcnn import (
    mask_loss,
    mask_scores,
    sample_rois,
    softmax_mask_loss,
    softmax_mask_scores,
)
from lessons.panoptic_fpn import count_pixels, merge_panoptic, semantic_loss, thing_or_stuff
from lessons.set_prediction import matching_cost
from lessons.spatial_embedding import seed_loss

SAMPLES = [scene(0, index, 64) for index in range(2)]
IMAGES, SEGMENTS = [s.image for s in SAMPLES], [s.segments for s in SAMPLES]
IMAGE = IMAGES[0]
systems = pytest.mark.parametrize("system", SYSTEMS)


@pytest.fixture(scope="module")
def models():
    """Each system once: a call that is refused changes nothing."""
    return {name: make() for name, make in SYSTEMS.items()}


def with_nan(image):
    """One value of it is NaN."""
    image = image.clone()
    image[1, 5, 7] = torch.nan
    return image


KIND = r"must be a float tensor \(3, h, w\) of RGB in \[0, 1\], not"
LIST = "images must be a list with one entry for each image, not"
IMAGES_THAT_ARE_NONE = {
    "bytes": ([(IMAGE * 255).byte()], rf"images\[0\] {KIND} uint8 of shape \(3, 64, 64\)"),
    "whole numbers": ([IMAGE.long()], rf"images\[0\] {KIND} int64 of shape .*"),
    "booleans": ([IMAGE > 0.5], rf"images\[0\] {KIND} bool of shape .*"),
    "one channel": ([IMAGE[:1]], rf"images\[0\] {KIND} float32 of shape \(1, 64, 64\)"),
    "no channel": ([IMAGE[0]], rf"images\[0\] {KIND} float32 of shape \(64, 64\)"),
    "channels last": ([IMAGE.permute(1, 2, 0)], rf"images\[0\] {KIND} .* \(64, 64, 3\)"),
    "RGBA": ([torch.cat([IMAGE, IMAGE[:1]])], rf"images\[0\] {KIND} .* \(4, 64, 64\)"),
    "no pixels": ([IMAGE[:, :0]], rf"images\[0\] {KIND} .* \(3, 0, 64\)"),
    "NumPy": ([IMAGE.numpy()], rf"images\[0\] {KIND} ndarray"),
    "None": ([None], rf"images\[0\] {KIND} NoneType"),
    "the second": ([IMAGE, (IMAGE * 255).byte()], rf"images\[1\] {KIND} uint8 of shape .*"),
    "up to 255": (
        [IMAGE, IMAGE * 0 + 255],
        r"images\[1\] must be RGB in \[0, 1\], but has values from 255 to 255",
    ),
    "normalised": (
        [IMAGE * 4 - 2],
        r"images\[0\] must be RGB in \[0, 1\], but has values from -[\d.]+ to [\d.]+",
    ),
    "NaN": ([with_nan(IMAGE)], r"images\[0\] must be RGB in \[0, 1\], but has NaN"),
    "infinity": ([IMAGE / 0], r"images\[0\] must be RGB .* but has .*"),
    "NaN in half precision": ([IMAGE, with_nan(IMAGE).half()], r"images\[1\] must .* has NaN"),
    "elsewhere": (
        [IMAGE, IMAGE.to("meta")],
        r"images\[1\] must be on the model's device, cpu, not meta",
    ),
    "a batch": (torch.stack(IMAGES), rf"{LIST} a tensor of shape \(2, 3, 64, 64\)"),
    "an image without a list": (IMAGE, rf"{LIST} a tensor of shape \(3, 64, 64\)"),
    "a batch of NumPy": (np.zeros((2, 3, 64, 64)), f"{LIST} ndarray"),
    "a generator": ((image for image in IMAGES), f"{LIST} generator"),
    "nothing": (None, f"{LIST} NoneType"),
    "an empty list": ([], "no images: a batch needs at least one"),
}


@pytest.mark.parametrize("case", IMAGES_THAT_ARE_NONE)
@systems
def test_images_that_are_none(models, system, case):
    (images, message), model = IMAGES_THAT_ARE_NONE[case], models[system]
    calls = [getattr(model, name) for name in PREDICTIONS if hasattr(model, name)]
    for call in (lambda images: model(images, SEGMENTS), *calls):
        with pytest.raises(ValueError, match=f"^{message}$"):
            call(images)


def test_an_image_may_be_off_by_rounding():
    """Resizing leaves 1.0000001 behind."""
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD))
    batch_images([torch.full((3, 32, 32), 1 + 1e-6), torch.full((3, 32, 32), -1e-6)], mean, std)


TARGETS_THAT_ARE_NONE = {
    "too few": (SEGMENTS[:1], "segments of 1 images for 2 images"),
    "too many": (SEGMENTS * 2, "segments of 4 images for 2 images"),
    "none": ([], "segments of 0 images for 2 images"),
    "of another image": (
        [SEGMENTS[0], empty_segments((64, 32))],
        "image 1 is 64×64 pixels, but its segments are 64×32",
    ),
    "not in a list": (SEGMENTS[0], "segments must be a list .*, not Segments"),
    "torchvision's": (
        [SEGMENTS[0], {"masks": SEGMENTS[1].masks}],
        r"segments\[1\] must be Segments, not dict",
    ),
    "a label below 0": (
        [SEGMENTS[0], replace(SEGMENTS[1], labels=SEGMENTS[1].labels - 1)],
        "image 1: label -1 is below 0, the first class",
    ),
}


@pytest.mark.parametrize("case", TARGETS_THAT_ARE_NONE)
@systems
def test_targets_that_are_none(models, system, case):
    segments, message = TARGETS_THAT_ARE_NONE[case]
    with pytest.raises(ValueError, match=f"^{message}$"):
        models[system](IMAGES, segments)


# ---------------------------------------------------------------- labels of any integer type


@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
@systems
def test_labels_of_every_integer_type_are_learned_alike(models, system, dtype):
    other = [
        Segments(own.masks.to(torch.uint8), own.labels.to(dtype), is_crowd=own.is_crowd.to(dtype))
        for own in SEGMENTS
    ]
    with torch.no_grad():
        torch.manual_seed(0)
        expected = models[system](IMAGES, SEGMENTS)
        torch.manual_seed(0)
        losses = models[system](IMAGES, other)
    for name, loss in expected.items():
        assert torch.equal(loss, losses[name]), name


N = K = 4  # as many labels as classes: a uint8 index is then taken for a mask
LABELS = torch.tensor([0, 1, 0, 1])
MAPS, MASKS = torch.randn(N, K, 6, 6), torch.rand(N, 6, 6)
CLASSES = torch.tensor([[0, 1, 255], [2, 3, 4]])


def boxes_with(labels):
    torch.manual_seed(0)
    box = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    return sample_rois([box.repeat(3, 1)], [box.repeat(N, 1)], [labels], 8, 0.5).u


FUNCTIONS = {
    "mask_loss": (lambda labels: mask_loss(MAPS, MASKS, labels), LABELS),
    "mask_scores": (lambda labels: mask_scores(MAPS, labels), LABELS),
    "softmax_mask_loss": (lambda labels: softmax_mask_loss(MAPS, MASKS, labels), LABELS),
    "softmax_mask_scores": (lambda labels: softmax_mask_scores(MAPS, labels), LABELS),
    "sample_rois": (boxes_with, torch.tensor([0, 126, 127, 1])),
    "seed_loss": (
        lambda labels: seed_loss(
            MAPS[0], MASKS, Segments(MASKS > 0.7, labels), torch.ones(6, 6, dtype=torch.bool)
        ),
        LABELS,
    ),
    "matching_cost": (
        lambda labels: matching_cost(MAPS[0, 0, :, :5], MASKS[0], labels, MASKS[0][:N]),
        LABELS,
    ),
    "thing_or_stuff": (lambda labels: thing_or_stuff(labels, 3), CLASSES),
    "semantic_loss": (lambda labels: semantic_loss(MAPS[:1, :, :2, :3], labels[None]), CLASSES % 4),
    "count_pixels": (lambda labels: torch.tensor(count_pixels(labels, labels, 5)), CLASSES),
    "merge_panoptic": (
        lambda labels: (
            merge_panoptic(
                empty_segments((2, 3), with_scores=True), labels, num_things=2, stuff_area=1
            ).labels
        ),
        CLASSES,
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_takes_labels_of_every_integer_type(name):
    function, labels = FUNCTIONS[name]
    expected = function(labels)
    for dtype in INTEGERS:
        if labels.max() <= torch.iinfo(dtype).max:
            assert torch.equal(function(labels.to(dtype)), expected), dtype


def test_segments_keep_what_they_were_given():
    """The caller's tensors are left alone."""
    labels, crowd = LABELS.to(torch.uint8), torch.tensor([0, 1, 0, 0])
    segments = Segments(MASKS > 0.5, labels, is_crowd=crowd)
    assert labels.dtype == torch.uint8 and crowd.dtype == torch.int64
    assert replace(segments, labels=labels).labels.equal(LABELS)
