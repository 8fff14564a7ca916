"""What cannot be pooled is named in one sentence, by both operators alike."""

import pytest
import torch

from lessons.roi_align import roi_align, roi_pool

FEATURES = torch.zeros(2, 3, 8, 9)
BOX = torch.tensor([[0, 1.0, 2.0, 5.0, 6.0]])

WRONG = {
    "features without channels": (
        FEATURES[0],
        BOX,
        7,
        r"features must be float \(b, c, h, w\), not .*",
    ),
    "features without cells": (FEATURES[..., :0], BOX, 7, r"features .* cells, not \(2, 3, 8, 0\)"),
    "boxes without the image": (FEATURES, BOX[:, 1:], 7, r"boxes must be real \(n, 5\).* \(1, 4\)"),
    "one box, not a row of boxes": (
        FEATURES,
        BOX[0],
        7,
        r"boxes must be real \(n, 5\), not float \(5,\)",
    ),
    "one list for two images": (
        FEATURES,
        [BOX[:, 1:]],
        7,
        "boxes must have one entry .* 2 images, not 1",
    ),
    "rows of five in a list": (FEATURES, [BOX, BOX], 7, r"boxes\[0\] must be real \(_, 4\)"),
    "an image too many": (FEATURES, BOX + torch.eye(5)[:1] * 2, 7, "no box in one of 2 images"),
    "image −1": (FEATURES, BOX - torch.eye(5)[:1], 7, "no box in one of 2 images"),
    "a box is NaN": (FEATURES, BOX * float("nan"), 7, "boxes holds .*nan"),
    "an infinite box": (FEATURES, [BOX[:, 1:] / 0, BOX[:, 1:]], 7, "boxes holds .*inf"),
    "no output": (FEATURES, BOX, 0, "output_size must be .* positive numbers, not 0"),
    "no columns": (FEATURES, BOX, (7, 0), r"output_size .* not \(7, 0\)"),
    "a box beyond all maps": (FEATURES, BOX * 1e20, 7, r"boxes holds \[0.0, .* no box"),
    "features of integers": (FEATURES.long(), BOX, 7, "features must be float .* not int64"),
    "features of bytes": (FEATURES.byte(), BOX, 7, "features must be float .* not uint8"),
    "boxes of words": (
        FEATURES,
        "box",
        7,
        r"boxes must be real \(n, 5\) or a list of tensors, not",
    ),
    "three sizes": (FEATURES, BOX, (7, 7, 7), "output_size must be one or two"),
}


@pytest.mark.parametrize("pool", [roi_align, roi_pool])
@pytest.mark.parametrize("features, boxes, output_size, message", WRONG.values(), ids=WRONG.keys())
def test_the_argument_is_named(pool, features, boxes, output_size, message):
    with pytest.raises(ValueError, match=message):
        pool(features, boxes, output_size)


@pytest.mark.parametrize("pool", [roi_align, roi_pool])
@pytest.mark.parametrize("scale", [0, -0.5, float("nan"), float("inf")])
def test_the_scale_is_a_positive_number(pool, scale):
    with pytest.raises(ValueError, match=f"spatial_scale must be positive and finite, not {scale}"):
        pool(FEATURES, BOX, 7, scale)
