"""What a user reads who asks Mask R-CNN for something that cannot be."""

import pytest
import torch

from lessons.mask_rcnn import (
    MaskRCNN,
    boundary_error,
    choose_detections,
    choose_level,
    mask_loss,
    mask_scores,
    mask_targets,
    paste_masks,
    pool_pyramid,
    recipe,
    sample_rois,
    softmax_mask_loss,
    softmax_mask_scores,
)

SETTINGS = {
    "odd mask": ({"mask_size": 27}, "mask_size must be even, not 27"),
    "no mask": ({"mask_size": 0}, "mask_size must be a whole number of at least 2, not 0"),
    "no samples": ({"samples": 0}, "samples must be a whole number of at least 1, not 0"),
    "no detections": (
        {"max_detections": 0},
        "max_detections must be a whole number of at least 1, not 0",
    ),
    "percent": ({"positive_fraction": 25}, "positive_fraction must be between 0 and 1, not 25"),
    "score": ({"score_threshold": -0.1}, "score_threshold must be between 0 and 1, not -0.1"),
    "NaN": ({"nms_threshold": float("nan")}, "nms_threshold must be between 0 and 1, not nan"),
    "size 0": ({"canonical_size": 0}, "canonical_size must be above 0, not 0"),
    "a level left out": (
        {"levels": (0, 2)},
        r"levels must be neighbours among \[0, 1, 2, 3\], finest first, not \(0, 2\)",
    ),
    "too coarse": ({"levels": (3, 4)}, r"levels must be neighbours .* not \(3, 4\)"),
    "coarsest first": ({"levels": [2, 1]}, r"levels must be neighbours .* not \[2, 1\]"),
    "no level": ({"levels": ()}, r"levels must be neighbours .* not \(\)"),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_settings_out_of_range(case):
    setting, message = SETTINGS[case]
    with pytest.raises(ValueError, match=f"^{message}$"):
        MaskRCNN(4, **setting)


def test_there_must_be_a_class():
    message = "^num_classes must be a whole number of at least 1, not 0$"
    with pytest.raises(ValueError, match=message):
        MaskRCNN(0)


def test_unknown_keyword_is_named():
    with pytest.raises(TypeError, match="MaskRCNN.* unexpected .*'scores_threshold'"):
        MaskRCNN(4, scores_threshold=0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"roi": "crop"}, "roi must be one of align, pool, not 'crop'"),
        ({"mask": "tanh"}, "mask must be one of sigmoid, softmax, not 'tanh'"),
    ],
)
def test_unknown_variant(options, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        recipe(**options)


MAPS, MASKS, LABELS = torch.zeros(3, 4, 6, 6), torch.zeros(3, 6, 6), torch.tensor([0, 1, 2])
BOXES, ROIS = torch.zeros(3, 4), torch.zeros(3, 5)
ARGUMENTS = {
    "a mask of another size": (
        lambda: mask_loss(MAPS, torch.zeros(3, 6, 7), LABELS),
        r"targets must be float \(n, m, m\) = \(3, 6, 6\) as logits, not float \(3, 6, 7\)",
    ),
    "boolean targets": (
        lambda: softmax_mask_loss(MAPS, MASKS > 0, LABELS),
        r"targets must be float \(n, m, m\) = \(3, 6, 6\) as logits, not boolean \(3, 6, 6\)",
    ),
    "counted from 1": (
        lambda: mask_loss(MAPS, MASKS, LABELS + 2),
        "labels must be 0 … 3, the 4 classes, not 4",
    ),
    "background": (
        lambda: mask_scores(MAPS, LABELS - 1),
        "labels must be 0 … 3, the 4 classes, not -1",
    ),
    "the softmax's background": (
        lambda: softmax_mask_loss(MAPS, MASKS, LABELS + 1),
        "labels must be 0 … 2, the 3 classes, not 3",
    ),
    "the softmax's background, read": (
        lambda: softmax_mask_scores(MAPS, LABELS + 1),
        "labels must be 0 … 2, the 3 classes, not 3",
    ),
    "too few labels": (
        lambda: mask_scores(MAPS, LABELS[:2]),
        r"labels must be integer \(n,\) = \(3,\) as logits, not int64 \(2,\)",
    ),
    "soft masks": (
        lambda: mask_targets(MASKS, BOXES, LABELS, 6),
        r"masks must be boolean \(g, h, w\), not float \(3, 6, 6\)",
    ),
    "RoIs for boxes": (
        lambda: paste_masks(MASKS, ROIS, (8, 8)),
        r"boxes must be float \(n, 4\) = \(3, 4\) as masks, not float \(3, 5\)",
    ),
    "a mask too few": (
        lambda: paste_masks(MASKS[:2], BOXES, (8, 8)),
        r"boxes must be float \(n, 4\) = \(2, 4\) as masks, not float \(3, 4\)",
    ),
    "soft answers": (
        lambda: boundary_error(MASKS, MASKS > 0),
        r"found must be boolean \(n, h, w\), not float \(3, 6, 6\)",
    ),
    "boxes for RoIs": (
        lambda: choose_level(BOXES, (0, 1), 56),
        r"rois must be float \(n, 5\) = \(3, 5\), not float \(3, 4\)",
    ),
    "features of two widths": (
        lambda: pool_pyramid([MAPS, MAPS[:, :2]], ROIS, 7, None, (4, 8), (0, 1), 56),
        r"features\[1\] must be float .* as features\[0\], not float \(3, 2, 6, 6\)",
    ),
    "codes of the background too": (
        lambda: choose_detections(
            torch.zeros(3, 5), torch.zeros(3, 5, 4), ROIS, [(8, 8)], 0.5, 0.5, 1
        ),
        r"codes must be float \(n, k1-1, 4\) = \(3, 4, 4\) as logits, not float \(3, 5, 4\)",
    ),
    "truth of other images": (
        lambda: sample_rois([BOXES], [BOXES] * 2, [LABELS], 8, 0.5),
        "true_boxes must have one entry for each of 1 images, not 2",
    ),
}


@pytest.mark.parametrize("case", ARGUMENTS)
def test_what_does_not_belong_together(case):
    call, message = ARGUMENTS[case]
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()
