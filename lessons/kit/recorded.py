"""Recorded full runs: `lessons/recorded/NAME/` with run.json and, for most, small weights.

A lesson shows the numbers of its recorded run and loads its weights, so that nobody needs a GPU
to read it. `python -m lessons.kit.recorded` (`make recorded`) makes the runs of runs.toml that
are missing or were made on a CPU; it needs neither Jupyter nor the command line's packages.
"""

import ast
import hashlib
import importlib
import json
import math
import os
import re
import shutil
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lessons.kit.errors import LessonsError
from lessons.kit.training import (
    Budget,
    Metric,
    Recipe,
    Run,
    budget,
    categories,
    data_set,
    evaluate,
    fit,
)

FOLDER = Path(__file__).resolve().parents[1] / "recorded"
CHECKPOINTS = FOLDER.parents[1] / "build" / "checkpoints"
LARGEST = 4 * 2**20  # bytes of weights that the repository takes
MAIN_SCORES = ("ap", "ap50", "ap75", "pq", "sq", "rq", "miou")
VERSIONS = ("torch", "torchvision", "numpy", "accelerate")


@dataclass(frozen=True)
class Plan:
    """A run that is to be recorded, as runs.toml says it."""

    name: str
    system: str
    data: str = "scenes"
    budget: str = "full"
    seed: int = 0
    options: Mapping[str, Any] | None = None  # of the recipe
    changes: Mapping[str, Any] | None = None  # of the budget: steps, batch, …
    weights: bool = True
    title: str = ""  # what it is, for the table of the README

    def recipe(self) -> Recipe:
        """The lesson's recipe with this run's options and budget.

        Raises LessonsError naming the system, option or budget that does not exist.
        """
        made = recipe_of(self.system, self.data, self.options or {})
        known = {entry.name for entry in fields(Budget)}
        for option in self.changes or {}:
            if option not in known:
                raise LessonsError(f"a budget has no {option!r}, it has {', '.join(sorted(known))}")
        return made.with_budget(self.budget, **(self.changes or {}))


def recipe_of(system: str, data: str, options: Mapping[str, Any]) -> Recipe:
    """A lesson's recipe, found by its module's name; the model is built once to see that it can."""
    if not system.isidentifier() or system.startswith("_"):
        raise LessonsError(f"there is no system {system!r}: {_systems()}")
    try:
        module = importlib.import_module(f"lessons.{system}")
    except ModuleNotFoundError as error:
        if error.name != f"lessons.{system}":
            raise
        raise LessonsError(f"there is no system {system!r}: {_systems()}") from None
    if not hasattr(module, "recipe"):
        raise LessonsError(f"{system} trains no model: {_systems()}")
    try:
        made = module.recipe(data, **options)
        made.model()
    except (TypeError, ValueError, RuntimeError, ArithmeticError) as error:
        what = (str(error) or type(error).__name__).splitlines()[0]
        raise LessonsError(f"{system} cannot be made with {dict(options)}: {what}") from None
    return made


def _systems() -> str:
    names = []
    for path in sorted(Path(__file__).resolve().parents[1].glob("*.py")):
        if "\ndef recipe(" in path.read_text(encoding="utf-8"):
            names.append(path.stem)
    return f"choose {', '.join(names)}" if names else "no lesson trains one yet"


def plans() -> dict[str, Plan]:
    """The runs that the course records, by name."""
    with open(FOLDER / "runs.toml", "rb") as file:
        return {name: Plan(name=name, **entry) for name, entry in tomllib.load(file).items()}


def plan(
    name: str,
    system: str,
    data: str = "scenes",
    budget: str = "full",
    seed: int = 0,
    changes: Sequence[str] = (),
    weights: bool = True,
) -> Plan:
    """A run as the command line says it; `changes` are "option=value".

    An option that is a field of `Budget` changes the budget, any other goes to the recipe.
    Raises LessonsError for a name that is no folder's and a change without "=".
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise LessonsError(f"{name!r} cannot name a run: letters, digits, _ and - only")
    options, parts = {}, {}
    budget_fields = {entry.name for entry in fields(Budget)}
    for change in changes:
        option, equals, text = change.partition("=")
        if not equals or not option.isidentifier():
            raise LessonsError(f"--set takes option=value, not {change!r}")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
            value = text
        (parts if option in budget_fields else options)[option] = value
    return Plan(name, system, data, budget, seed, options, parts, weights)


# ---------------------------------------------------------------- writing


def train(wanted: Plan, progress: bool = True) -> dict[str, Any]:
    """Do a run and record it; return what its run.json says.

    A run that was killed goes on from its checkpoint, in build/checkpoints/NAME. Raises
    LessonsError before the first step where the weights would be too large to be kept.
    """
    recipe = wanted.recipe()
    if wanted.weights:
        _must_be_small(wanted.name, _half(recipe.model()))
    checkpoints = CHECKPOINTS / wanted.name
    run = fit(recipe, wanted.budget, seed=wanted.seed, folder=checkpoints, progress=progress)
    processes = PartialState()  # of accelerate: one of several writes
    if processes.is_main_process:
        write(wanted.name, run, wanted.weights)
        shutil.rmtree(checkpoints, ignore_errors=True)
    processes.wait_for_everyone()
    return read(wanted.name)


def write(name: str, run: Run, weights: bool = True, folder: Path | None = None) -> dict[str, Any]:
    """Record a run as `folder`/NAME, whole or not at all; return its scores and all about it.

    The scores are computed anew, in float32, from the weights as they are saved (float16).
    Raises LessonsError where the weights take more than 4 MB; then nothing is written.
    """
    folder = folder or FOLDER
    state = _half(run.model)
    if weights:
        _must_be_small(name, state)
    plan = run.recipe.budget(run.budget)
    model = run.recipe.model()
    model.load_state_dict(_single(state))
    model = model.to(next(run.model.parameters()).device).eval()
    held_out = data_set(run.recipe.data, "validation", plan.size, plan.validated)
    scores = evaluate(model, held_out, run.recipe.metrics)

    report = {
        "system": run.recipe.system,
        "data": run.recipe.data,
        "options": dict(run.recipe.options),
        "budget": run.budget,
        **asdict(plan),
        "seed": run.seed,
        "scores": scores,
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "device": run.device,
        "seconds": round(run.seconds, 1),
        "peak_memory": run.peak_memory,
        "date": date.today().isoformat(),
        "versions": {"python": sys.version.split()[0]} | _versions(),
        "history": run.history,
    }
    goal, part, old = folder / name, folder / f".{name}.part", folder / f".{name}.old"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        if weights:
            save_file(state, part / "weights.safetensors")
            report["weights"] = _digest(part / "weights.safetensors")
        text = json.dumps(_plain(report), indent=1, allow_nan=False)
        (part / "run.json").write_text(text + "\n", encoding="utf-8")
        shutil.rmtree(old, ignore_errors=True)
        if goal.exists():
            os.replace(goal, old)
        os.replace(part, goal)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return report


def _half(model: nn.Module) -> dict[str, Tensor]:
    """A model's state as it is saved: float16, on the CPU."""
    return {
        key: (value.half() if value.is_floating_point() else value).cpu().contiguous()
        for key, value in model.state_dict().items()
    }


def _single(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A saved state in float32."""
    return {
        key: value.float() if value.is_floating_point() else value for key, value in state.items()
    }


def _must_be_small(name: str, state: Mapping[str, Tensor]) -> None:
    size = sum(value.numel() * value.element_size() for value in state.values())
    if size > LARGEST:
        raise LessonsError(f"the weights of {name} take {size / 2**20:.1f} MB, 4 MB are allowed")


def _versions() -> dict[str, str]:
    found = {}
    for package in VERSIONS:
        try:
            found[package] = version(package).split("+")[0]
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _plain(value: Any) -> Any:
    """The same with NaN as null and floats at six digits, for JSON."""
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


# ---------------------------------------------------------------- reading


def names(folder: Path | None = None) -> list[str]:
    """The recorded runs that are there."""
    return sorted(path.parent.name for path in (folder or FOLDER).glob("[!.]*/run.json"))


def read(name: str, folder: Path | None = None) -> dict[str, Any]:
    """What a recorded run's run.json says; scores that could not be averaged are NaN.

    Raises LessonsError where there is no such run and where the file is damaged.
    """
    path = (folder or FOLDER) / name / "run.json"
    if not path.is_file():
        there = ", ".join(names(folder)) or "none"
        raise LessonsError(f"there is no recorded run {name!r}, there is {there}")
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        report["scores"] = _with_nan(report["scores"])
        for row in report["history"]:
            if "scores" in row:
                row["scores"] = _with_nan(row["scores"])
    except (ValueError, KeyError, TypeError) as error:
        raise LessonsError(f"{path} is damaged: {error}") from None
    return report


def _with_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_nan(entry) for key, entry in value.items()}
    return math.nan if value is None else value


def load_model(name: str, folder: Path | None = None) -> nn.Module:
    """A recorded run's model with its weights, in float32, ready to predict.

    Raises LessonsError where the run kept no weights, where they are not those of run.json, and
    where the lesson's model has become another.
    """
    report = read(name, folder)
    path = (folder or FOLDER) / name / "weights.safetensors"
    if "weights" not in report:
        raise LessonsError(f"the recorded run {name} measured a claim and kept no weights")
    if not path.is_file() or _digest(path) != report["weights"]:
        raise LessonsError(f"{path} is missing or not the file that its run.json tells of")
    model = recipe_of(report["system"], report["data"], report["options"]).model()
    try:
        model.load_state_dict(_single(load_file(path)))
    except RuntimeError:
        raise LessonsError(
            f"{path} does not fit the model that {report['system']} makes now: record it anew"
        ) from None
    return model.eval()


def results_table() -> str:
    """The README's table: the runs of runs.toml that are recorded, in that order, as Markdown."""
    columns = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "pq": "PQ", "miou": "mIoU"}
    headings = ["Run", "What", *columns.values(), "Trained on"]
    lines = [headings, ["---"] * len(headings)]
    there = names()
    for name, run in plans().items():
        if name not in there:
            continue
        report = read(name)
        scores = [report["scores"].get(key) for key in columns]
        device = "one CPU core" if report["device"] == "cpu, 1 thread" else report["device"]
        trained = f"{report['steps']:,} steps of {report['batch']} images, {device}"
        shown = ["–" if score is None else f"{score:.3f}" for score in scores]
        lines.append([f"`{name}`", run.title, *shown, trained])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def full_run(name: str) -> tuple[dict[str, Any], nn.Module]:
    """The report and the model of a recorded run; where LESSONS_BUDGET is full, made anew first.

    It is what the "full training" cell of a lesson calls.
    """
    if budget() == "full":
        train(plans()[name])
    return read(name), load_model(name)


def describe(report: Mapping[str, Any]) -> str:
    """In a sentence: how long a recorded run took, on what, and when."""
    return (
        f"{report['steps']} steps of {report['batch']} images of {report['size']}×{report['size']} "
        f"in {report['seconds'] / 60:.0f} min on {report['device']}, {report['date']}"
    )


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
    from lessons.kit.panoptic_files import write_panoptic
    from lessons.kit.real import CocoPanoptic

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


def as_json(scores: Mapping[str, Any]) -> str:
    """Scores as JSON, NaN as null."""
    return json.dumps(_plain(scores), indent=1, allow_nan=False)


def is_cpu_run(report: Mapping[str, Any]) -> bool:
    """Whether a recorded run was made without a GPU, so that one with it is worth more."""
    return report["device"].startswith("cpu")


# ---------------------------------------------------------------- make recorded


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
