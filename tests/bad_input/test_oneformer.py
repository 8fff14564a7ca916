"""What a reader can get wrong with lesson 16 is named in one sentence."""

import pytest
import torch

from lessons.kit.data import Category, Segments
from lessons.kit.data.scenes import CATEGORIES
from lessons.oneformer import (
    OneFormer,
    TextEncoder,
    TextMapper,
    Tokeniser,
    contrastive_loss,
    draw_tasks,
    task_sentences,
)

ONE = Segments(torch.ones(1, 4, 4, dtype=torch.bool), torch.tensor([9]))
NAMES = [category.name for category in CATEGORIES]
PAIR = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
SMALL = {"num_queries": 6, "channels": 16, "hidden": 16, "heads": 2}

WRONG = {
    "no task to draw": (lambda: draw_tasks(3, []), "tasks must name at least one task"),
    "a task that is none": (lambda: draw_tasks(3, ["things"]), "task must be one of .*'things'"),
    "sentences of no task": (
        lambda: task_sentences(ONE, "stuff", CATEGORIES, 4),
        "task must be one of panoptic, instance, semantic, not 'stuff'",
    ),
    "no sentences": (
        lambda: task_sentences(ONE, "panoptic", CATEGORIES, 0),
        "count must be a whole number of at least 1, not 0",
    ),
    "a label that is no category": (
        lambda: task_sentences(ONE, "panoptic", CATEGORIES, 4),
        "labels must be 0 … 7, the 8 classes, not 9",
    ),
    "an unknown word": (
        lambda: Tokeniser(NAMES)(["a photo with a zebra"]),
        "'zebra' in 'a photo with a zebra' is not in the vocabulary",
    ),
    "a long sentence": (
        lambda: Tokeniser(NAMES)(["a photo with a sheep with a tree"]),
        "'a photo with a sheep with a tree' is longer than 5 words",
    ),
    "an encoder of nothing": (
        lambda: TextEncoder(9, 5, 16, 0, 2),
        "layers must be a whole number of at least 1, not 0",
    ),
    "tokens that are too many": (
        lambda: TextEncoder(9, 5, 16, 1, 2)(torch.ones(2, 6, dtype=torch.int64)),
        "tokens must be at most 5 a sentence, not 6",
    ),
    "contexts below 0": (
        lambda: TextMapper(TextEncoder(9, 5, 16, 1, 2), 16, -1),
        "contexts must be a whole number of at least 0, not -1",
    ),
    "two shapes": (
        lambda: contrastive_loss(PAIR[0], PAIR[1][:, :2]),
        r"texts must be float \(b, q, c\) = \(2, 3, 4\) as queries, not float \(2, 2, 4\)",
    ),
    "an empty batch": (
        lambda: contrastive_loss(PAIR[0][:0], PAIR[1][:0]),
        "queries of no image: a batch needs at least one",
    ),
    "a temperature of 0": (
        lambda: contrastive_loss(*PAIR, temperature=0.0),
        "temperature must be above 0, not 0.0",
    ),
    "a temperature that is NaN": (
        lambda: contrastive_loss(*PAIR, temperature=float("nan")),
        "temperature must be above 0, not nan",
    ),
    "no query layers": (
        lambda: OneFormer(8, 4, query_layers=0, **SMALL),
        "query_layers must be a whole number of at least 1, not 0",
    ),
    "contexts for all queries": (
        lambda: OneFormer(8, 4, contexts=6, **SMALL),
        r"contexts must be in 0 … 5, not 6",
    ),
    "categories of another number": (
        lambda: OneFormer(7, 4, categories=CATEGORIES, **SMALL),
        "categories must be 7 with 4 things, things first, not 8 with 4 things",
    ),
    "stuff before things": (
        lambda: OneFormer(
            2,
            1,
            categories=[Category("sky", False, (0, 0, 0)), Category("cow", True, (0, 0, 0))],
            **SMALL,
        ),
        "categories must be 2 with 1 things, things first, .* in another order",
    ),
    "a token of no task": (
        lambda: OneFormer(8, 4, **SMALL).predict_panoptic([torch.zeros(3, 32, 32)], task="stuff"),
        "task must be one of panoptic, instance, semantic, not 'stuff'",
    ),
    "segments of another size": (
        lambda: OneFormer(8, 4, **SMALL)([torch.zeros(3, 32, 32)], [ONE]),
        "image 0 is 32×32 pixels, but its segments are 4×4",
    ),
}


@pytest.mark.parametrize("call, message", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
