"""A prediction that cannot be compared with its target is named, with its image."""

from dataclasses import replace

import pytest
import torch

from lessons.kit.data import Segments
from lessons.kit.data.pairs import all_comparable, comparable

TRUTH = Segments(torch.ones(2, 4, 5, dtype=torch.bool), torch.tensor([0, 2]))
ANSWER = replace(TRUTH, scores=torch.tensor([0.5, 0.4]))
NARROW = Segments(TRUTH.masks[..., :4], TRUTH.labels)
CASES = {
    "no scores": (TRUTH, TRUTH, {"scored": True}, "the prediction has no scores"),
    "NaN": (
        replace(TRUTH, scores=torch.tensor([0.5, torch.nan])),
        TRUTH,
        {"scored": True},
        "a score of the prediction is NaN",
    ),
    "two sizes": (ANSWER, NARROW, {}, "predicted masks are (4, 5), true ones (4, 4)"),
    "a predicted label": (
        replace(ANSWER, labels=torch.tensor([0, 3])),
        TRUTH,
        {},
        "predicted labels must be 0 … 2, the 3 classes, not 3",
    ),
    "a true label": (
        ANSWER,
        replace(TRUTH, labels=torch.tensor([-1, 0])),
        {},
        "true labels must be 0 … 2, the 3 classes, not -1",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_says_why_not(case):
    prediction, target, options, message = CASES[case]
    with pytest.raises(ValueError) as error:
        comparable(prediction, target, 3, **options)
    assert str(error.value) == message
    with pytest.raises(ValueError) as error:
        all_comparable([ANSWER, prediction], [TRUTH, target], 3, **options)
    assert str(error.value) == f"image 1: {message}"


def test_lists_of_two_lengths():
    with pytest.raises(ValueError, match="^2 predictions for 1 targets$"):
        all_comparable([ANSWER, ANSWER], [TRUTH], 3)


def test_what_fits_passes():
    comparable(TRUTH, TRUTH)  # neither labels nor scores are looked at
    comparable(replace(TRUTH, labels=torch.tensor([7, -1])), TRUTH)
    comparable(ANSWER[:0], TRUTH, 3, scored=True)
    all_comparable([ANSWER], [TRUTH], 3, scored=True)
    all_comparable([], [], 3)
