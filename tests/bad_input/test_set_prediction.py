"""What a user reads who asks the loss between two sets for something that cannot be."""

import pytest
import torch

from lessons.kit.data import Segments
from lessons.set_prediction import (
    Weights,
    assign,
    class_loss,
    dice_loss,
    focal_loss,
    mask_classification_loss,
    match_segments_to_queries,
    matching_cost,
    pad_masks,
    task_targets,
)

Q, K, SIZE = 3, 4, (8, 8)
CLASSES, MASKS = torch.zeros(2, Q, K + 1), torch.zeros(2, Q, *SIZE)
TARGET = Segments(torch.ones(2, *SIZE, dtype=torch.bool), torch.tensor([0, 3]))
LARGER = pad_masks(TARGET, (9, 8))
NO_CLASS = Segments(TARGET.masks, torch.tensor([0, K]))
MATCH = (torch.tensor([0, 1]), torch.tensor([0, 1]))
POINTS = torch.zeros(Q, 10), TARGET.labels, torch.zeros(2, 10)


def loss(targets, matches=(MATCH, MATCH)):
    return mask_classification_loss(CLASSES, MASKS, targets, matches)


WRONG = {
    "task": (
        lambda: task_targets(TARGET, "depth", 2),
        "task must be one of panoptic, instance, semantic, not 'depth'",
    ),
    "focal": (
        lambda: focal_loss(MASKS[0, 0], MASKS[0, 0, :2]),
        "targets must be float (n, p) = (8, 8) as logits, not float (2, 8)",
    ),
    "dice": (
        lambda: dice_loss(MASKS[0], MASKS[0]),
        "logits must be float (n, p), not float (3, 8, 8)",
    ),
    "weights": (
        lambda: Weights(dice=-1),
        "weights must be at least 0, not (1.0, 20.0, -1, 0.1)",
    ),
    "points": (
        lambda: matching_cost(CLASSES[0], *POINTS[:2], torch.zeros(2, 9)),
        "masks must be (n, p) = (2, 10) as labels, not float (2, 9)",
    ),
    "queries": (
        lambda: matching_cost(CLASSES[0, :2], *POINTS),
        "mask_logits must be float (q, p) = (2, p) as class_logits, not float (3, 10)",
    ),
    "∅ as a target": (
        lambda: matching_cost(CLASSES[0], POINTS[0], NO_CLASS.labels, POINTS[2]),
        "labels must be 0 … 3, the 4 classes, not 4",
    ),
    "label −1": (
        lambda: matching_cost(CLASSES[0], POINTS[0], -TARGET.labels, POINTS[2]),
        "labels must be 0 … 3, the 4 classes, not -3",
    ),
    "diverged": (
        lambda: assign(torch.tensor([[0.0, float("nan")]])),
        "the matching cost is not finite: training has diverged",
    ),
    "targets of a match": (
        lambda: match_segments_to_queries(CLASSES, MASKS, [TARGET]),
        "targets must have one entry for each of 2 images, not 1",
    ),
    "masks of a match": (
        lambda: match_segments_to_queries(CLASSES, MASKS[:1], [TARGET] * 2),
        "mask_logits must be float (b, q, h, w) = (2, 3, h, w) as class_logits, "
        "not float (1, 3, 8, 8)",
    ),
    "matches": (
        lambda: loss([TARGET] * 2, [MATCH]),
        "matches must have one entry for each of 2 images, not 1",
    ),
    "targets": (
        lambda: loss([TARGET]),
        "targets must have one entry for each of 2 images, not 1",
    ),
    "sizes": (
        lambda: loss([TARGET, LARGER]),
        "targets must be of one size, as by pad_masks, not [(8, 8), (9, 8)]",
    ),
    "labels": (
        lambda: class_loss(CLASSES, [TARGET, NO_CLASS], [MATCH] * 2),
        "labels must be 0 … 3, the 4 classes, not 4",
    ),
    "padding": (
        lambda: pad_masks(LARGER, SIZE),
        "size must be at least (9, 8), the masks', not (8, 8)",
    ),
}


@pytest.mark.parametrize("call, message", WRONG.values(), ids=WRONG.keys())
def test_the_argument_is_named(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message
