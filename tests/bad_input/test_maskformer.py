"""What a user reads who asks MaskFormer for something that cannot be."""

import pytest
import torch

from lessons.kit.data import Segments
from lessons.maskformer import (
    Attention,
    MaskFormer,
    PixelDecoder,
    instance_inference,
    panoptic_inference,
    recipe,
    semantic_inference,
    sine_positions,
)

Q, K, SIZE = 3, 4, (8, 8)
MASKS = torch.zeros(2, Q, *SIZE)
TARGET = Segments(torch.ones(2, *SIZE, dtype=torch.bool), torch.tensor([0, 3]))
Z = torch.zeros(Q, K + 1), MASKS[0]
TWO_MASKS = "mask_logits must be float (q, h, w) = (3, h, w) as class_logits, not float (2, 8, 8)"
NO_TASK = "task must be one of panoptic, instance, semantic, not "


def model(**settings):
    return MaskFormer(4, 2, **settings)


WRONG = {
    "levels": (lambda: PixelDecoder([16, 32], 16)([MASKS]), "1 features for 2 levels"),
    "channels": (lambda: sine_positions((2, 2), 6), "channels must be a multiple of 4, not 6"),
    "heads": (lambda: Attention(16, 3), "channels (16) must be a multiple of heads (3)"),
    "no heads": (lambda: Attention(16, 0), "channels (16) must be a multiple of heads (0)"),
    "semantic": (lambda: semantic_inference(Z[0], Z[1][:2]), TWO_MASKS),
    "panoptic": (lambda: panoptic_inference(Z[0], Z[1][:2], 2), TWO_MASKS),
    "instance": (lambda: instance_inference(Z[0], Z[1][:2], 2), TWO_MASKS),
    "score": (
        lambda: panoptic_inference(*Z, 2, 1.5),
        "score_threshold must be between 0 and 1, not 1.5",
    ),
    "overlap": (
        lambda: panoptic_inference(*Z, 2, 0.5, -1.0),
        "overlap_threshold must be between 0 and 1, not -1.0",
    ),
    "mask": (
        lambda: panoptic_inference(*Z, 2, mask_threshold=80),
        "mask_threshold must be between 0 and 1, not 80",
    ),
    "most": (
        lambda: instance_inference(*Z, 2, 0),
        "most must be a whole number of at least 1, not 0",
    ),
    "things": (lambda: panoptic_inference(*Z, 5), "num_things must be in 0 … 4, not 5"),
    "things to find": (lambda: instance_inference(*Z, -1), "num_things must be in 0 … 4, not -1"),
    "model's things": (lambda: MaskFormer(4, 5), "num_things must be in 0 … 4, not 5"),
    "model's task": (lambda: model(task="box"), NO_TASK + "'box'"),
    "model's queries": (
        lambda: model(num_queries=0),
        "num_queries must be a whole number of at least 1, not 0",
    ),
    "model's layers": (
        lambda: model(decoder_layers=0),
        "decoder_layers must be a whole number of at least 1, not 0",
    ),
    "model's width": (
        lambda: model(hidden=0),
        "hidden must be a whole number of at least 1, not 0",
    ),
    "model's encoder": (
        lambda: model(encoder_layers=-1),
        "encoder_layers must be a whole number of at least 0, not -1",
    ),
    "encoder's width": (
        lambda: model(encoder_hidden=0),
        "encoder_hidden must be a whole number of at least 1, not 0",
    ),
    "model's channels": (
        lambda: model(channels=40),
        "channels must be a multiple of 16, not 40",
    ),
    "model's groups": (
        lambda: model(groups=5),
        "channels must be a multiple of groups, 5, not 64",
    ),
    "model's threshold": (
        lambda: model(score_threshold=2),
        "score_threshold must be between 0 and 1, not 2",
    ),
    "recipe's task": (lambda: recipe(task="things"), NO_TASK + "'things'"),
}


@pytest.mark.parametrize("call, message", WRONG.values(), ids=WRONG.keys())
def test_the_argument_is_named(call, message):
    with pytest.raises(ValueError) as error:
        call()
    assert str(error.value) == message


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
    with pytest.raises(TypeError, match=r"MaskFormer.__init__\(\) got .* 'num_querys'"):
        MaskFormer(4, 2, num_querys=10)
