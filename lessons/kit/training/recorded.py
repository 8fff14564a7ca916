"""Recorded full runs: `lessons/recorded/NAME/` with run.json and, for most, small weights.

A lesson shows the numbers of its recorded run and loads its weights, so that nobody needs a GPU
to read it. `python -m lessons.kit.training.recorded` (`make recorded`) makes the runs of
runs.toml that are missing or were made on a CPU; it needs neither Jupyter nor the command
line's packages.
"""

import math
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from lessons.kit import places
from lessons.kit.data.named import categories, data_set
from lessons.kit.errors import LessonsError
from lessons.kit.training.loop import fit
from lessons.kit.training.measure import evaluate
from lessons.kit.training.plan import Plan, plan, plans, recipe_of
from lessons.kit.training.recipe import Metric, budget
from lessons.kit.training.store import (
    LARGEST,
    MAIN_SCORES,
    VERSIONS,
    as_json,
    describe,
    half,
    is_cpu_run,
    load_model,
    must_be_small,
    names,
    read,
    results_table,
    write,
)

__all__ = [
    "LARGEST",
    "MAIN_SCORES",
    "VERSIONS",
    "Again",
    "Plan",
    "as_json",
    "describe",
    "evaluate_again",
    "evaluate_all",
    "full_run",
    "is_cpu_run",
    "load_model",
    "main",
    "names",
    "plan",
    "plans",
    "read",
    "recipe_of",
    "results_table",
    "train",
    "write",
]


def train(wanted: Plan, progress: bool = True) -> dict[str, Any]:
    """Do a run and record it; return what its run.json says.

    A run that was killed goes on from its checkpoint, in build/checkpoints/NAME. Raises
    LessonsError before the first step where the weights would be too large to be kept.
    """
    recipe = wanted.recipe()
    if wanted.weights:
        must_be_small(wanted.name, half(recipe.model()))
    checkpoints = places.CHECKPOINTS / wanted.name
    run = fit(recipe, wanted.budget, seed=wanted.seed, folder=checkpoints, progress=progress)
    processes = PartialState()  # of accelerate: one of several writes
    if processes.is_main_process:
        write(wanted.name, run, wanted.weights)
        shutil.rmtree(checkpoints, ignore_errors=True)
    processes.wait_for_everyone()
    return read(wanted.name)


def full_run(name: str) -> tuple[dict[str, Any], nn.Module]:
    """The report and the model of a recorded run; where LESSONS_BUDGET is full, made anew first.

    It is what the "full training" cell of a lesson calls.
    """
    if budget() == "full":
        train(plans()[name])
    return read(name), load_model(name)


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
    if categories(data) != categories(report["data"]):
        raise LessonsError(f"{name} knows the categories of {report['data']}, {data} has others")
    made = recipe_of(report["system"], report["data"], report["options"])
    model = load_model(name)
    metrics = made.metrics
    if export is not None:
        if not hasattr(model, "predict_panoptic"):
            raise LessonsError(
                f"{name} cannot be exported: {report['system']} has no predict_panoptic, so its "
                "answers may overlap"
            )
        metrics = _exporting(metrics, Path(export), data)
    if torch.cuda.is_available():
        model = model.cuda()
    return evaluate(model, data_set(data, "validation", report["size"], count), metrics)


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
    """Measure every recorded run that kept weights again, each on its own held-out split.

    A run whose images are not at hand is skipped with the reason. Raises LessonsError, naming
    the run, where its weights are not those of its run.json or no longer fit the lesson's model.
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


def _exporting(metrics: Mapping[str, Metric], folder: Path, data: str) -> dict[str, Metric]:
    """The same metrics; what measures the panoptic answers writes them first."""
    from lessons.kit.data.panoptic_files import write_panoptic
    from lessons.kit.data.real import CocoPanoptic

    measure = metrics.get("predict_panoptic")

    def write_and_measure(predictions, targets, kinds):
        own: dict[str, Any] = {}
        if data == "coco":  # so that the official annotations fit too
            source = CocoPanoptic()
            own = {"names": source.names[: len(targets)], "category_ids": source.category_ids}
        write_panoptic(folder / "panoptic.json", predictions, kinds, **own)
        write_panoptic(folder / "ground_truth.json", targets, kinds, **own)
        return measure(predictions, targets, kinds) if measure else {}

    return {**metrics, "predict_panoptic": write_and_measure}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the named runs of runs.toml, or all that are missing or were made on a CPU."""
    wanted = list(sys.argv[1:] if arguments is None else arguments)
    known = plans()
    for name in wanted:
        if name not in known:
            raise LessonsError(f"runs.toml has no run {name!r}, it has {', '.join(known)}")
    if not wanted:
        there = names()
        better = torch.cuda.is_available()  # than the CPU that some were made on
        wanted = [n for n in known if n not in there or (better and is_cpu_run(read(n)))]
    for number, name in enumerate(wanted, start=1):
        print(f"{number}/{len(wanted)} {name}", flush=True)
        report = train(known[name])
        shown = {key: value for key, value in report["scores"].items() if key != "per_class"}
        numbers = ", ".join(f"{key} {value:.3f}" for key, value in shown.items())
        print(f"  {numbers}; {report['seconds']:.0f} s on {report['device']}", flush=True)
    if not wanted:
        print("every recorded run is there; those made on a CPU are made anew where there is a GPU")


if __name__ == "__main__":
    try:
        main()
    except LessonsError as error:
        sys.exit(f"recorded: {error}")
