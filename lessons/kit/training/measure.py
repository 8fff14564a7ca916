"""One `evaluate` for every system: predict a data set and measure what was predicted."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lessons.kit.data import DataSet
from lessons.kit.training.recipe import Metric


def evaluate(
    model: nn.Module,
    data: DataSet,
    metrics: Mapping[str, Metric],
    batch: int = 8,
) -> dict[str, Any]:
    """The model's scores on a data set: {"ap": …, "ap50": …}, all metrics in one mapping.

    In `per_class` a class has one row with the numbers of all metrics. Predictions are made in
    float32, `batch` images at a time.
    """
    targets = [data[index].segments for index in range(len(data))]
    scores: dict[str, Any] = {}
    for method, metric in metrics.items():
        predictions = predict(model, data, method, batch)
        found = _plain(metric(predictions, targets, data.categories))
        rows, new_rows = scores.get("per_class", {}), found.pop("per_class", {})
        scores |= found
        if rows or new_rows:
            names = dict.fromkeys((*rows, *new_rows))
            scores["per_class"] = {
                name: {**rows.get(name, {}), **new_rows.get(name, {})} for name in names
            }
    return scores


def _plain(value: Any) -> Any:
    """Numbers of NumPy and torch as Python's own, which checkpoints and JSON take."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


@torch.no_grad()
def predict(model: nn.Module, data: DataSet, method: str, batch: int = 8) -> list[Any]:
    """What `model.predict_…` says of each image of a data set, on the CPU."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    answers: list[Any] = []
    for first in range(0, len(data), batch):
        chosen = range(first, min(first + batch, len(data)))
        images = [data[index].image.to(device) for index in chosen]
        answers += [answer.to("cpu") for answer in getattr(model, method)(images)]
    model.train(was_training)
    return answers
