"""What has no Lovász hinge is named in one sentence."""

import pytest
import torch

from lessons.lovasz import jaccard_loss, lovasz_hinge

LOGITS = torch.zeros(2, 3, 4)
LABELS = torch.ones(2, 3, 4)
NAN = torch.full((2, 3, 4), float("nan"))

WRONG = {
    "another size": (
        LOGITS,
        LABELS[..., :3],
        r"labels must be float \(n, \*size\) = \(2, 3, 4\) as logits, not float \(2, 3, 3\)",
    ),
    "labels for one mask": (
        LOGITS,
        LABELS[:1],
        r"labels must be .* as logits, not float \(1, 3, 4\)",
    ),
    "a channel too many": (
        LOGITS[:, None],
        LABELS,
        r"= \(2, 1, 3, 4\) as logits, not .*\(2, 3, 4\)",
    ),
    "labels of 255": (LOGITS, 255 * LABELS.int(), "labels must be 0 or 1 everywhere"),
    "labels turned round by ~": (LOGITS, ~LABELS.int(), "labels must be 0 or 1 everywhere"),
    "soft labels": (LOGITS, 0.5 * LABELS, "labels must be 0 or 1 everywhere"),
    "labels of −1 and 1": (LOGITS, -LABELS.long(), "labels must be 0 or 1 everywhere"),
    "complex labels": (
        LOGITS,
        LABELS.cfloat(),
        "labels must be boolean or integer or float .*, not complex64",
    ),
    "labels are NaN": (LOGITS, NAN, "labels must be 0 or 1 everywhere"),
    "one pixel, no masks": (
        LOGITS[0, 0, 0],
        LABELS[0, 0, 0],
        r"logits must be float \(n, \*size\), not one",
    ),
}


@pytest.mark.parametrize("logits, labels, message", WRONG.values(), ids=WRONG.keys())
def test_the_argument_is_named(logits, labels, message):
    with pytest.raises(ValueError, match=message):
        lovasz_hinge(logits, labels)


def test_the_jaccard_loss_names_its_arguments_too():
    with pytest.raises(ValueError, match=r"labels .* = \(2, 3, 4\) as wrong, not float \(2, 3\)"):
        jaccard_loss(LABELS, LABELS[..., 0])
    with pytest.raises(ValueError, match="wrong must be 0 or 1 everywhere"):
        jaccard_loss(2 * LABELS, LABELS)
    with pytest.raises(ValueError, match="labels must be 0 or 1 everywhere"):
        jaccard_loss(LABELS, 2 * LABELS)
    with pytest.raises(
        ValueError, match=r"wrong must be float \(n, \*size\), not one float number"
    ):
        jaccard_loss(LABELS[0, 0, 0], LABELS[0, 0, 0])
