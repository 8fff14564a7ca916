"""What a user reads who asks MaskFormer for something that cannot be."""

import pytest
import torch

from lessons.kit.data import Segments
from lessons.maskformer import (
    Attention,
    MaskFormer,
    PixelDecoder,
    Weights,
    assign,
    class_loss,
    dice_loss,
    focal_loss,
    instance_inference,
    mask_classification_loss,
    match_segments_to_queries,
    matching_cost,
    pad_masks,
    panoptic_inference,
    recipe,
    semantic_inference,
    sine_positions,
    task_targets,
)

Q, K, SIZE = 3, 4, (8, 8)
CLASSES, MASKS = torch.zeros(2, Q, K + 1), torch.zeros(2, Q, *SIZE)
TARGET = Segments(torch.ones(2, *SIZE, dtype=torch.bool), torch.tensor([0, 3]))
LARGER = pad_masks(TARGET, (9, 8))
NO_CLASS = Segments(TARGET.masks, torch.tensor([0, K]))
MATCH = (torch.tensor([0, 1]), torch.tensor([0, 1]))
Z = CLASSES[0], MASKS[0]
POINTS = torch.zeros(Q, 10), TARGET.labels, torch.zeros(2, 10)


def loss(targets, matches=(MATCH, MATCH)):
    return mask_classification_loss(CLASSES, MASKS, targets, matches)


WRONG = {
    "task": (lambda: task_targets(TARGET, "depth", 2), "task must be one of panoptic, .*'depth'"),
    "focal": (lambda: focal_loss(MASKS[0, 0], MASKS[0, 0, :2]), "logits and targets must both be"),
    "dice": (lambda: dice_loss(MASKS[0], MASKS[0]), r"must both be \(n, p\)"),
    "weights": (lambda: Weights(dice=-1), "weights must be at least 0"),
    "points": (
        lambda: matching_cost(CLASSES[0], *POINTS[:2], torch.zeros(2, 9)),
        r"mask_logits and masks must be .* not \(3, 10\) and \(2, 9\)",
    ),
    "queries": (lambda: matching_cost(CLASSES[0, :2], *POINTS), "for 2 queries and 2 labels"),
    "∅ as a target": (
        lambda: matching_cost(CLASSES[0], POINTS[0], NO_CLASS.labels, POINTS[2]),
        "labels must be 0 … 3, not 4",
    ),
    "label −1": (
        lambda: matching_cost(CLASSES[0], POINTS[0], -TARGET.labels, POINTS[2]),
        "labels must be 0 … 3, not -3",
    ),
    "diverged": (lambda: assign(torch.tensor([[0.0, float("nan")]])), "training has diverged"),
    "targets of a match": (
        lambda: match_segments_to_queries(CLASSES, MASKS, [TARGET]),
        "targets must have 2 entries, not 1",
    ),
    "masks of a match": (
        lambda: match_segments_to_queries(CLASSES, MASKS[:1], [TARGET] * 2),
        "mask_logits must have 2 entries, not 1",
    ),
    "matches": (lambda: loss([TARGET] * 2, [MATCH]), "matches must have 2 entries, not 1"),
    "targets": (lambda: loss([TARGET]), "targets must have 2 entries, not 1"),
    "sizes": (lambda: loss([TARGET, LARGER]), "targets must be of one size, as by pad_masks"),
    "labels": (
        lambda: class_loss(CLASSES, [TARGET, NO_CLASS], [MATCH] * 2),
        "labels must be 0 … 3, not 4",
    ),
    "padding": (lambda: pad_masks(LARGER, SIZE), r"size must be at least \(9, 8\)"),
    "levels": (lambda: PixelDecoder([16, 32], 16)([MASKS]), "1 features for 2 levels"),
    "channels": (lambda: sine_positions((2, 2), 6), "channels must be a multiple of 4, not 6"),
    "heads": (lambda: Attention(16, 3), r"channels \(16\) must be a multiple of heads \(3\)"),
    "no heads": (lambda: Attention(16, 0), r"multiple of heads \(0\)"),
    "semantic": (lambda: semantic_inference(Z[0], Z[1][:2]), "mask_logits must have 3 entries"),
    "panoptic": (lambda: panoptic_inference(Z[0], Z[1][:2], 2), "mask_logits must have 3"),
    "instance": (lambda: instance_inference(Z[0], Z[1][:2], 2), "mask_logits must have 3"),
    "score": (lambda: panoptic_inference(*Z, 2, 1.5), r"score_threshold must be in \[0, 1\]"),
    "overlap": (lambda: panoptic_inference(*Z, 2, 0.5, -1.0), "overlap_threshold must be in"),
    "mask": (lambda: panoptic_inference(*Z, 2, mask_threshold=80), "mask_threshold must be in"),
    "most": (lambda: instance_inference(*Z, 2, 0), "most must be at least 1, not 0"),
    "things": (lambda: panoptic_inference(*Z, 5), "num_things must be in 0 … 4, not 5"),
    "things to find": (lambda: instance_inference(*Z, -1), "num_things must be in 0 … 4, not -1"),
    "model's things": (lambda: MaskFormer(4, 5), "num_things must be in 0 … 4, not 5"),
    "model's task": (lambda: MaskFormer(4, 2, task="box"), "task must be one of"),
    "model's queries": (lambda: MaskFormer(4, 2, num_queries=0), "num_queries must be at least 1"),
    "model's layers": (lambda: MaskFormer(4, 2, decoder_layers=0), "decoder_layers must be at"),
    "model's encoder": (lambda: MaskFormer(4, 2, encoder_layers=-1), "encoder_layers must be at"),
    "model's channels": (
        lambda: MaskFormer(4, 2, channels=40),
        "channels must be a multiple of 16",
    ),
    "model's threshold": (
        lambda: MaskFormer(4, 2, score_threshold=2),
        "score_threshold must be in",
    ),
    "recipe's task": (lambda: recipe(task="things"), "task must be one of"),
}


@pytest.mark.parametrize("call, message", WRONG.values(), ids=WRONG.keys())
def test_the_argument_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_images_and_segments_fit():
    model = MaskFormer(4, 2, num_queries=2, channels=16, heads=2, hidden=16, decoder_layers=1)
    image = torch.zeros(3, 32, 40)
    with pytest.raises(ValueError, match="segments of 2 images for 1 images"):
        model([image], [TARGET, TARGET])
    with pytest.raises(ValueError, match="image 0 is 32×40 pixels, but its segments are 8×8"):
        model([image], [TARGET])
    with pytest.raises(ValueError, match="no images"):
        model.predict_panoptic([])


def test_unknown_keyword_is_named():
    with pytest.raises(TypeError, match="num_querys"):
        MaskFormer(4, 2, num_querys=10)
