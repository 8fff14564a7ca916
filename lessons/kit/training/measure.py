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
    shared: bool = False,
) -> dict[str, Any]:
    """The model's scores on a data set: {"ap": …, "ap50": …}, all metrics in one mapping.

    In `per_class` a class has one row with the numbers of all metrics. Predictions are made in
    float32, `batch` images at a time. Where several processes call it together, `shared`, each
    predicts its part of the images; the first of them alone has scores.
    """
    everything = {m: predict(model, data, m, batch, shared) for m in metrics}
    if shared and _processes()[0] > 0:
        return {}
    targets = [data[index].segments for index in range(len(data))]
    scores: dict[str, Any] = {}
    for method, metric in metrics.items():
        predictions = everything.pop(method)
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
def predict(
    model: nn.Module, data: DataSet, method: str, batch: int = 8, shared: bool = False
) -> list[Any]:
    """What `model.predict_…` says of each image of a data set, on the CPU.

    Of several processes that call it together, `shared`, each does its part and all get all.
    """
    was_training, device = model.training, next(model.parameters()).device
    rank, count = _processes() if shared else (0, 1)
    model.eval()
    answers: list[Any] = []
    own = range(rank, len(data), count)
    for first in range(0, len(own), batch):
        images = [data[index].image.to(device) for index in own[first : first + batch]]
        answers += [answer.to("cpu") for answer in getattr(model, method)(images)]
    model.train(was_training)
    if count == 1:
        return answers
    parts: list[Any] = [None] * count
    torch.distributed.all_gather_object(parts, answers)
    return [parts[index % count][index // count] for index in range(len(data))]


def _processes() -> tuple[int, int]:
    """The number of this process among those that work together, and how many they are."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()
