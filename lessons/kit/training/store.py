"""Runs on disk, as they are written: a folder with run.json and, for most, weights."""

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

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lessons.kit import places
from lessons.kit.data import Category
from lessons.kit.errors import LessonsError
from lessons.kit.training.loop import Run
from lessons.kit.training.measure import evaluate

LARGEST = 4 * 2**20  # bytes of weights that the repository takes
VERSIONS = ("torch", "torchvision", "numpy", "accelerate")


def write(name: str, run: Run, weights: bool = True, folder: Path | None = None) -> dict[str, Any]:
    """Record a run as `folder`/NAME, whole or not at all; return its scores and all about it.

    The folder is the course's if none is named. Weights are kept in float16, and the scores are
    those of the weights as they are kept. Raises LessonsError where the weights take more than
    4 MB; then nothing is written.
    """
    folder = folder or places.RECORDED
    state = half(run.model)
    if weights:
        must_be_small(name, state)
    goal, part, old = folder / name, folder / f".{name}.part", folder / f".{name}.old"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        report = _fill(part, run, state, weights)
        shutil.rmtree(old, ignore_errors=True)
        if goal.exists():
            os.replace(goal, old)
        os.replace(part, goal)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return report


def keep(goal: Path, run: Run, weights: bool = True) -> dict[str, Any]:
    """Keep a user's run in the folder `goal`, beside what else is there; return what is written.

    Weights are kept as they were trained, in float32, whatever their size. run.json comes last:
    a folder that has one is a run that is finished.
    """
    part = goal / ".part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        report = _fill(part, run, state_of(run.model, torch.float32), weights)
        for path in sorted(part.iterdir(), key=lambda path: path.name == "run.json"):
            os.replace(path, goal / path.name)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return report


def _fill(folder: Path, run: Run, state: dict[str, Tensor], weights: bool) -> dict[str, Any]:
    """Write run.json and, if wanted, the weights into a folder; return what run.json says."""
    plan = run.recipe.budget(run.budget)
    model = run.recipe.model()
    model.load_state_dict(single(state))
    model = model.to(next(run.model.parameters()).device).eval()
    scores = evaluate(model, run.held_out, run.recipe.metrics)
    report = {
        "system": run.recipe.system,
        "data": run.recipe.data,
        "categories": [_category_as_json(category) for category in run.held_out.categories],
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
        "versions": {"python": sys.version.split()[0]} | versions(),
        "history": run.history,
    }
    if weights:
        save_file(state, folder / "weights.safetensors")
        report["weights"] = digest(folder / "weights.safetensors")
    text = json.dumps(plain(report), indent=1, allow_nan=False)
    (folder / "run.json").write_text(text + "\n", encoding="utf-8")
    return report


def _category_as_json(category: Category) -> dict[str, Any]:
    return {
        "name": category.name,
        "is_thing": category.is_thing,
        "color": "#{:02x}{:02x}{:02x}".format(*category.color),
    }


def half(model: nn.Module) -> dict[str, Tensor]:
    """A model's state as the course keeps it: float16, on the CPU."""
    return state_of(model, torch.float16)


def state_of(model: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """A copy of a model's state on the CPU, its fractions in `dtype`."""
    return {
        key: value.to(
            "cpu", dtype if value.is_floating_point() else value.dtype, copy=True
        ).contiguous()
        for key, value in model.state_dict().items()
    }


def single(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A saved state in float32."""
    return {
        key: value.float() if value.is_floating_point() else value for key, value in state.items()
    }


def must_be_small(name: str, state: Mapping[str, Tensor]) -> None:
    """Raise LessonsError where weights are more than the course keeps of a run."""
    size = sum(value.numel() * value.element_size() for value in state.values())
    if size > LARGEST:
        raise LessonsError(f"the weights of {name} take {size / 2**20:.1f} MB, 4 MB are allowed")


def versions() -> dict[str, str]:
    found = {}
    for package in VERSIONS:
        try:
            found[package] = version(package).split("+")[0]
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def plain(value: Any) -> Any:
    """The same with NaN as null and floats at six digits, for JSON."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
