"""What cannot be compared is named in one sentence."""

import pytest
import torch
from torch import nn

from lessons.kit.data import Category, Segments
from lessons.side_by_side import (
    answers_of,
    as_table,
    compare,
    count_errors,
    find_errors,
    images_per_second,
    merge_things,
    peak_memory,
)

KINDS = [Category("sheep", True, (240, 228, 66))]
MASKS, LABEL = torch.ones(1, 4, 5, dtype=torch.bool), torch.tensor([0])
TRUTH = Segments(MASKS, LABEL)
ANSWER = Segments(MASKS, LABEL, torch.ones(1))
IMAGE = torch.zeros(3, 4, 5)


class Mute(nn.Module):
    """Says nothing."""


class System(nn.Linear):
    def predict_instances(self, images):
        return [ANSWER for _ in images]


class Data(list):
    categories = KINDS


SYSTEM = {"a": System(1, 1)}
WRONG = {
    "no rows": (lambda: as_table([]), "rows is empty"),
    "a model without answers": (lambda: answers_of(Mute(), Data()), "model Mute has no predict_"),
    "nothing to time": (lambda: images_per_second(Mute(), [IMAGE]), "model Mute has neither"),
    "nothing to weigh": (lambda: peak_memory(Mute(), [IMAGE]), "model Mute has neither"),
    "no images": (lambda: images_per_second(SYSTEM["a"], []), "images must not be empty"),
    "a batch of 0": (lambda: images_per_second(SYSTEM["a"], [IMAGE], 0), "batch and repeats must"),
    "0 repeats": (lambda: images_per_second(SYSTEM["a"], [IMAGE], 1, 0), "batch and repeats must"),
    "no models": (lambda: compare({}, Data([1])), "models and data must not be empty"),
    "no data": (lambda: compare(SYSTEM, Data()), "models and data must not be empty"),
    "a report too many": (
        lambda: compare(SYSTEM, Data([1]), reports={"b": {}}),
        "reports has 'b', which is none of the models",
    ),
    "answers of nobody": (
        lambda: compare(SYSTEM, Data([1]), answers={"c": None}),
        "answers has 'c', which is none of the models",
    ),
    "no scores": (lambda: find_errors(TRUTH, TRUTH, KINDS), "the prediction has no scores"),
    "no scores to merge by": (lambda: merge_things(TRUTH, 1), "instances must have scores"),
    "another size": (
        lambda: find_errors(ANSWER, Segments(MASKS[:, :3], LABEL), KINDS),
        r"predicted masks are \(4, 5\), true ones \(3, 5\)",
    ),
    "lists of two lengths": (
        lambda: count_errors([ANSWER], [], KINDS),
        "1 predictions for 0 targets",
    ),
    "a score that is NaN": (
        lambda: find_errors(Segments(MASKS, LABEL, torch.ones(1) / 0 * 0), TRUTH, KINDS),
        "a score of the prediction is NaN",
    ),
    "an image without scores": (
        lambda: count_errors([ANSWER, TRUTH], [TRUTH, TRUTH], KINDS),
        "image 1: the prediction has no scores",
    ),
    "a class that is none": (
        lambda: find_errors(Segments(MASKS, LABEL + 1, torch.ones(1)), TRUTH, KINDS),
        "predicted labels must be 0 … 0, the 1 classes, not 1",
    ),
    "a true class that is none": (
        lambda: find_errors(ANSWER, Segments(MASKS, LABEL - 1), KINDS),
        "true labels must be 0 … 0, the 1 classes, not -1",
    ),
}


@pytest.mark.parametrize("call, message", WRONG.values(), ids=WRONG.keys())
def test_the_argument_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
