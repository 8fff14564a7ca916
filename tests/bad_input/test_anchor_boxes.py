"""What is no box, and lists that do not belong together, are named in one sentence."""

import re

import pytest
import torch

from lessons.anchor_boxes import box_iou, decode_boxes, encode_boxes, make_anchors, nms

BOXES = torch.tensor([[0.0, 0, 4, 4], [1, 1, 5, 5], [2, 2, 9, 9], [3, 3, 8, 8]])


def test_anchors_need_a_stride_and_a_size_for_each_level():
    with pytest.raises(ValueError, match="2 feature sizes, 1 strides and 2 anchor sizes"):
        make_anchors([(4, 4), (2, 2)], [8], [12, 24])


@pytest.mark.parametrize(
    "scores, groups, message",
    [
        (3, None, "scores must be real (n,) = (4,) as boxes, not float (3,)"),
        (4, 3, "groups must be integer (n,) = (4,) as boxes, not int64 (3,)"),
        (5, 4, "scores must be real (n,) = (4,) as boxes, not float (5,)"),
    ],
)
def test_a_score_and_a_group_for_each_box(scores, groups, message):
    groups = None if groups is None else torch.zeros(groups, dtype=torch.int64)
    with pytest.raises(ValueError, match=re.escape(message)):
        nms(BOXES, torch.rand(scores), 0.5, groups)


def test_groups_are_whole_numbers():
    with pytest.raises(ValueError, match="groups must be integer"):
        nms(BOXES, torch.rand(4), 0.5, torch.rand(4))


CALLS = {
    "boxes": [
        lambda wrong: box_iou(wrong, BOXES),
        lambda wrong: encode_boxes(wrong, BOXES),
        lambda wrong: nms(wrong, torch.rand(4), 0.5),
    ],
    "others": [lambda wrong: box_iou(BOXES, wrong)],
    "deltas": [lambda wrong: decode_boxes(wrong, BOXES)],
    "anchors": [
        lambda wrong: encode_boxes(BOXES, wrong),
        lambda wrong: decode_boxes(BOXES, wrong),
    ],
}


@pytest.mark.parametrize(
    "wrong, found",
    [
        (BOXES[:, :3], "float (4, 3)"),
        (BOXES > 1, "boolean (4, 4)"),
        (BOXES.numpy(), "a NumPy array, float32 (4, 4)"),
        (BOXES.tolist(), "a list"),
    ],
    ids=["three numbers", "boolean", "NumPy", "list"],
)
@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_box_is_named(name, wrong, found):
    for call in CALLS[name]:
        with pytest.raises(ValueError, match=f"^{name} must be .*, not {re.escape(found)}$"):
            call(wrong)


def test_one_box_is_no_list_of_boxes():
    with pytest.raises(ValueError, match="^boxes must be .*, not float \\(4,\\)$"):
        box_iou(BOXES[0], BOXES)
    with pytest.raises(ValueError, match="^boxes must be .*, not float \\(4,\\)$"):
        nms(BOXES[0], torch.rand(4), 0.5)


def test_batches_of_boxes_are_equally_large():
    with pytest.raises(ValueError, match="others must be .* as boxes, not float"):
        box_iou(BOXES[None], BOXES.expand(2, 4, 4))
