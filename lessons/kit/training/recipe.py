"""What is trained and for how long: a lesson's `Recipe` and the `Budget`s in it."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from lessons.kit.data import Category, Segments
from lessons.kit.errors import LessonsError

BUDGETS = ("test", "quick", "full")


def budget() -> str:
    """The budget that LESSONS_BUDGET names: "test", "quick" (the default) or "full".

    Raises LessonsError for any other word.
    """
    name = os.environ.get("LESSONS_BUDGET") or "quick"
    if name not in BUDGETS:
        raise LessonsError(f"LESSONS_BUDGET is {name!r}: choose one of {', '.join(BUDGETS)}")
    return name


@dataclass(frozen=True)
class Budget:
    """How long to train: `steps` updates of `batch` images.

    `size` is the side of the training images in pixels: scenes are drawn at that size, real
    images are cropped to it. `count` limits the training images, `validated` the held-out
    ones. `evaluations` are spread over the run; the last one is at its end.
    """

    steps: int
    batch: int = 8
    size: int = 128
    count: int | None = None
    validated: int | None = None
    evaluations: int = 1
    learning_rate: float = 1e-3
    weight_decay: float = 0.05
    warm_up: float = 0.05  # the share of the steps in which the learning rate grows
    clip: float = 1.0  # the largest norm of the gradient
    mirror: bool = True  # half of the images, at random
    turn: bool = False  # by 0, 90, 180 or 270 degrees: for images that have no up

    def __post_init__(self):
        for name in ("steps", "batch", "size", "evaluations", "count", "validated"):
            value = getattr(self, name)
            if value is None and name in ("count", "validated"):
                continue
            if type(value) is not int or value < 1:
                raise LessonsError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name in ("learning_rate", "clip", "weight_decay", "warm_up"):
            value, may_be_0 = getattr(self, name), name in ("weight_decay", "warm_up")
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            if not is_number or not (0 < value < math.inf or (may_be_0 and value == 0)):
                least = "of at least" if may_be_0 else "above"
                raise LessonsError(f"{name} must be a number {least} 0, not {value!r}")
        for name in ("mirror", "turn"):
            if type(getattr(self, name)) is not bool:
                raise LessonsError(f"{name} must be True or False, not {getattr(self, name)!r}")


def from_full(full: Budget, *, steps: int = 200) -> dict[str, Budget]:
    """All three budgets of a system, from its `full` one.

    "quick" is `steps` steps of 8 of a thousand images, "test" four steps that only show that
    everything runs.
    """
    quick = replace(full, steps=steps, batch=8, count=1000, evaluations=1)
    tiny = replace(quick, steps=4, batch=2, size=64, count=8, validated=4)
    return {"test": tiny, "quick": quick, "full": full}


def by_heart(few: Budget, *, steps: int = 600, batch: int = 2) -> dict[str, Budget]:
    """All three budgets for learning few images by heart: `few` is "test".

    The others take `steps` steps of `batch` images. Nothing is mirrored and there is one
    evaluation, at the end.
    """
    few = replace(few, mirror=False, evaluations=1)
    longer = replace(few, steps=steps, batch=batch)
    return {"test": few, "quick": longer, "full": longer}


Metric = Callable[[Sequence, Sequence[Segments], Sequence[Category]], Mapping[str, Any]]


@dataclass(frozen=True)
class Recipe:
    """What a lesson trains.

    `metrics` says which prediction is measured by what: {"predict_instances":
    evaluate_instances}. `options` are those that made this recipe, so that a recorded run can
    build its model again.
    """

    system: str  # the lesson's module, "mask_rcnn"
    model: Callable[[], nn.Module]
    metrics: Mapping[str, Metric]
    budgets: Mapping[str, Budget]
    data: str = "scenes"
    options: Mapping[str, Any] = field(default_factory=dict)

    def with_budget(self, name: str, **changes: Any) -> "Recipe":
        """The same recipe with parts of one budget changed: `with_budget("quick", steps=50)`."""
        return replace(self, budgets={**self.budgets, name: replace(self.budget(name), **changes)})

    def budget(self, name: str) -> Budget:
        """What a budget means here. Raises LessonsError for one that is not there."""
        if name not in self.budgets:
            raise LessonsError(f"{name!r} is no budget: choose one of {', '.join(self.budgets)}")
        return self.budgets[name]


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """The entries that are not the same, in words: "seed is 1, not 0"; "" where all are."""
    return ", ".join(
        f"{name} is {there.get(name)!r}, not {here.get(name)!r}"
        for name in there | here
        if there.get(name) != here.get(name)
    )
