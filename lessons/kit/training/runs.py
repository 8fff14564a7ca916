"""Runs on disk, as they are found by name, read and turned into models again.

The course's runs lie in lessons/recorded/, a user's in my/runs/. By name, `my/NAME` is always the
user's, and NAME the course's wherever the course has one: nobody's run hides another.
"""

import json
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor, nn

from lessons.kit import places
from lessons.kit.data import Category
from lessons.kit.data.named import remembered
from lessons.kit.errors import LessonsError
from lessons.kit.training.plan import Own, plans, recipe_of
from lessons.kit.training.progress import checkpoint_in
from lessons.kit.training.store import digest, plain, single

MAIN_SCORES = ("ap", "ap50", "ap75", "pq", "sq", "rq", "miou")
MY = "my/"  # before the name of a user's run


def find(name: str, folder: Path | None = None) -> Path:
    """The folder of a run: `my/NAME` is the user's; NAME is the course's, if it has one.

    Where the course has no run of that name, NAME is the user's too. With a `folder` it is the
    run of that name there.
    """
    if folder is None and name.startswith(MY):
        return places.my_runs() / name.removeprefix(MY)
    course = (folder or places.RECORDED) / name
    mine = places.my_runs() / name
    is_mine = folder is None and not is_finished(course) and (is_finished(mine) or is_begun(mine))
    return mine if is_mine else course


def is_finished(folder: Path) -> bool:
    """Whether a folder holds a run that came to its end."""
    return (folder / "run.json").is_file()


def is_begun(folder: Path) -> bool:
    """Whether a folder holds a run that can be gone on with."""
    return not is_finished(folder) and checkpoint_in(folder).is_file()


def label(name: str, folder: Path | None = None) -> str:
    """A run's name as it is printed: a user's begins with my/."""
    path = find(name, folder)
    return MY + path.name if path.parent == places.my_runs() else name


def names(folder: Path | None = None) -> list[str]:
    """The recorded runs that are there: the course's if no folder is named."""
    return sorted(path.parent.name for path in (folder or places.RECORDED).glob("[!.]*/run.json"))


def my_names() -> list[str]:
    """The user's runs that are finished, as `my/NAME`."""
    return [MY + name for name in names(places.my_runs())]


def my_begun() -> list[str]:
    """The user's runs that can be gone on with, as `my/NAME`."""
    found = places.my_runs().glob("[!.]*/")
    return sorted(MY + path.name for path in found if is_begun(path))


def read(name: str, folder: Path | None = None) -> dict[str, Any]:
    """What a run's run.json says; scores that could not be averaged are NaN.

    Raises LessonsError where there is no such run and where the file is damaged.
    """
    home = find(name, folder)
    path = home / "run.json"
    if is_begun(home):
        raise LessonsError(f"{label(name, folder)} is not finished: train it with --resume")
    if not path.is_file():
        known = names(folder) if folder else [*names(), *my_names()]
        near = ", ".join(get_close_matches(name, known, n=3))
        hint = f", do you mean {near}?" if near else ": lessons results lists them"
        raise LessonsError(f"there is no run {name!r}{hint}")
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


def categories_of(report: Mapping[str, Any]) -> list[Category]:
    """The categories that a run learned, things first; no image is read."""
    try:
        return [
            Category(entry["name"], entry["is_thing"], tuple(bytes.fromhex(entry["color"][1:])))
            for entry in report["categories"]
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise LessonsError(
            f"the categories in a run.json of {report['system']} are damaged: {error!r}"
        ) from None


def recalled(report: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Within it `categories` of the run's data set are those of its run.json: no image is read."""
    return remembered(report["data"], categories_of(report))


def load_model(name: str, *, recipe: Own = None, folder: Path | None = None) -> nn.Module:
    """A run's model with its weights, in float32, ready to predict.

    The lesson's package builds it or, where a notebook hands over its `recipe` (the function, or
    what that made), the notebook: then the functions that are written there are those that run.
    Raises LessonsError where the run kept no weights, where they are not those of run.json, and
    where the recipe or its model is not that of the run.
    """
    report = read(name, folder)
    path = find(name, folder) / "weights.safetensors"
    if "weights" not in report:
        raise LessonsError(f"the run {label(name, folder)} kept no weights, only its scores")
    if not path.is_file() or digest(path) != report["weights"]:
        raise LessonsError(f"{path} is missing or not the file that its run.json tells of")
    with recalled(report):
        model = recipe_of(report["system"], report["data"], report["options"], recipe).model()
    state = single(load_file(path))
    try:
        model.load_state_dict(state)
    except RuntimeError:
        maker = "the recipe" if recipe else report["system"]
        raise LessonsError(
            f"{path} does not fit the model that {maker} makes now, "
            f"{_first_difference(state, model.state_dict())}: train it anew"
        ) from None
    return model.eval()


def _first_difference(saved: Mapping[str, Tensor], made: Mapping[str, Tensor]) -> str:
    """Where two states part: "its pixel.weight is (4, 3, 1, 1), not (5, 3, 1, 1)"."""
    for key in saved | made:
        if key not in made or key not in saved:
            return f"which has {'no' if key in saved else 'a new'} {key}"
        one, other = tuple(saved[key].shape), tuple(made[key].shape)
        if one != other:
            return f"whose {key} is {other}, not {one}"
    return "whose weights have other types"


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
    return json.dumps(plain(scores), indent=1, allow_nan=False)


def is_cpu_run(report: Mapping[str, Any]) -> bool:
    """Whether a recorded run was made without a GPU, so that one with it is worth more."""
    return report["device"].startswith("cpu")
