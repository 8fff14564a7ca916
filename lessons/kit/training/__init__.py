"""One `fit` and one `evaluate` for every system of the course, and the runs that are recorded."""

from lessons.kit.data.named import categories, data_set
from lessons.kit.training.loop import Run, fit
from lessons.kit.training.measure import evaluate, predict
from lessons.kit.training.recipe import (
    BUDGETS,
    Budget,
    Metric,
    Recipe,
    budget,
    by_heart,
    from_full,
)

__all__ = [
    "BUDGETS",
    "Budget",
    "Metric",
    "Recipe",
    "Run",
    "budget",
    "by_heart",
    "categories",
    "data_set",
    "evaluate",
    "fit",
    "from_full",
    "predict",
]
