"""Runs on disk: a folder with run.json and, for most, small weights."""

import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lessons.kit import places
from lessons.kit.data.named import data_set
from lessons.kit.errors import LessonsError
from lessons.kit.training.loop import Run
from lessons.kit.training.measure import evaluate
from lessons.kit.training.plan import plans, recipe_of

LARGEST = 4 * 2**20  # bytes of weights that the repository takes
MAIN_SCORES = ("ap", "ap50", "ap75", "pq", "sq", "rq", "miou")
VERSIONS = ("torch", "torchvision", "numpy", "accelerate")


def write(name: str, run: Run, weights: bool = True, folder: Path | None = None) -> dict[str, Any]:
    """Record a run as `folder`/NAME, whole or not at all; return its scores and all about it.

    The scores are computed anew, in float32, from the weights as they are saved (float16).
    Raises LessonsError where the weights take more than 4 MB; then nothing is written.
    """
    folder = folder or places.RECORDED
    state = half(run.model)
    if weights:
        must_be_small(name, state)
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


def half(model: nn.Module) -> dict[str, Tensor]:
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


def must_be_small(name: str, state: Mapping[str, Tensor]) -> None:
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
    return sorted(path.parent.name for path in (folder or places.RECORDED).glob("[!.]*/run.json"))


def read(name: str, folder: Path | None = None) -> dict[str, Any]:
    """What a recorded run's run.json says; scores that could not be averaged are NaN.

    Raises LessonsError where there is no such run and where the file is damaged.
    """
    path = (folder or places.RECORDED) / name / "run.json"
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
    path = (folder or places.RECORDED) / name / "weights.safetensors"
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


def describe(report: Mapping[str, Any]) -> str:
    """In a sentence: how long a recorded run took, on what, and when."""
    return (
        f"{report['steps']} steps of {report['batch']} images of {report['size']}×{report['size']} "
        f"in {report['seconds'] / 60:.0f} min on {report['device']}, {report['date']}"
    )


def as_json(scores: Mapping[str, Any]) -> str:
    """Scores as JSON, NaN as null."""
    return json.dumps(_plain(scores), indent=1, allow_nan=False)


def is_cpu_run(report: Mapping[str, Any]) -> bool:
    """Whether a recorded run was made without a GPU, so that one with it is worth more."""
    return report["device"].startswith("cpu")
