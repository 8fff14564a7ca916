"""Runs that are measured again: one on any data, or all of the course's on their own."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lessons.kit.data import DataSet
from lessons.kit.data.named import categories, data_set
from lessons.kit.errors import LessonsError
from lessons.kit.training.measure import evaluate
from lessons.kit.training.plan import recipe_of
from lessons.kit.training.recipe import Metric
from lessons.kit.training.runs import categories_of, label, load_model, names, read, recalled


def evaluate_again(
    name: str,
    data: str | None = None,
    seed: int | None = None,
    count: int | None = None,
    export: Path | str | None = None,
) -> dict[str, Any]:
    """The scores of a recorded system on the held-out split of a data set, its own if none.

    `seed` asks for scenes that are of no split. `export` is a folder for what the system's
    `predict_panoptic` says and for the ground truth, in COCO's panoptic format: panoptic.json
    and ground_truth.json, each with a folder of PNGs. Raises LessonsError where the data set
    has other categories than the one that the system was trained on, and where a system without
    `predict_panoptic` is to be exported.
    """
    report = read(name)
    data = data or report["data"]
    if seed is not None:
        if data != "scenes":
            raise LessonsError(f"only scenes have seeds, {data} has none")
        data = f"scenes:{seed}"
    if data != report["data"] and categories(data) != categories_of(report):
        raise LessonsError(
            f"{label(name)} knows the categories of {report['data']}, {data} has others"
        )
    images = data_set(data, "validation", report["size"], count)
    model = load_model(name)
    with recalled(report):
        metrics = recipe_of(report["system"], report["data"], report["options"]).metrics
    if export is not None:
        if not hasattr(model, "predict_panoptic"):
            raise LessonsError(
                f"{label(name)} cannot be exported: {report['system']} has no predict_panoptic, "
                "so its answers may overlap"
            )
        metrics = _exporting(metrics, Path(export), images)
    if torch.cuda.is_available():
        model = model.cuda()
    return evaluate(model, images, metrics)


@dataclass(frozen=True)
class Again:
    """A recorded run, measured again: its scores then and now, or why that could not be done."""

    name: str
    then: Mapping[str, float]
    now: Mapping[str, float]
    skipped: str = ""

    def differences(self, tolerance: float = 1e-3) -> list[str]:
        """The scores that are not the same, as "ap is 0.702, not 0.762"."""
        found = []
        for key in self.then.keys() | self.now.keys() if not self.skipped else ():
            old, new = self.then.get(key, math.nan), self.now.get(key, math.nan)
            both_nan = math.isnan(old) and math.isnan(new)
            if not both_nan and not abs(old - new) <= tolerance:
                found.append(f"{key} is {new:.4f}, not {old:.4f}")
        return sorted(found)


def evaluate_all(count: int | None = None) -> Iterator[Again]:
    """Measure every run of the course that kept weights again, each on its own held-out split.

    The user's are no part of it. A run whose images are not at hand is skipped with the reason.
    Raises LessonsError, naming the run, where its weights are not those of its run.json or no
    longer fit the lesson's model.
    """
    for name in names():
        report = read(name)
        if "weights" not in report:
            continue
        count_here = count or report["validated"]
        then = {key: value for key, value in report["scores"].items() if key != "per_class"}
        try:
            data_set(report["data"], "validation", report["size"], count_here)
        except LessonsError as error:
            yield Again(name, then, {}, str(error))
            continue
        now = evaluate_again(name, count=count_here)
        yield Again(name, then, {key: x for key, x in now.items() if key != "per_class"})


def _exporting(metrics: Mapping[str, Metric], folder: Path, images: DataSet) -> dict[str, Metric]:
    """The same metrics; what measures the panoptic answers writes them first."""
    from lessons.kit.data.panoptic_files import write_panoptic

    measure = metrics.get("predict_panoptic")

    def write_and_measure(predictions, targets, kinds):
        own: dict[str, Any] = {}
        if hasattr(images, "category_ids"):  # COCO's: so that the official annotations fit too
            own = {"names": images.names, "category_ids": images.category_ids}
        write_panoptic(folder / "panoptic.json", predictions, kinds, **own)
        write_panoptic(folder / "ground_truth.json", targets, kinds, **own)
        return measure(predictions, targets, kinds) if measure else {}

    return {**metrics, "predict_panoptic": write_and_measure}
