"""A probability that is none is named."""

import numpy as np
import pytest

from lessons.kit.data.imperfect import imperfect_detections, imperfect_panoptic
from lessons.kit.data.scenes import Scenes

NAN = float("nan")


@pytest.mark.parametrize(
    "spoil, names",
    [
        (imperfect_detections, ("drop", "double", "relabel")),
        (imperfect_panoptic, ("drop", "split", "relabel", "void")),
    ],
)
def test_the_probability_is_named(spoil, names):
    scenes, rng = Scenes.validation(), np.random.default_rng(0)
    for name in names:
        for value in (NAN, -0.1, 1.5):
            with pytest.raises(ValueError, match=f"{name} must be a probability, .* not {value}"):
                spoil(scenes[0], scenes.categories, rng, **{name: value})
    for value in (NAN, -0.1, float("inf")):
        with pytest.raises(ValueError, match=f"shift must be at least 0 .* not {value}"):
            spoil(scenes[0], scenes.categories, rng, shift=value)
