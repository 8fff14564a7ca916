"""Recorded runs: the course's in `lessons/recorded/NAME/`, a user's in `my/runs/NAME/`.

A lesson shows the numbers of its recorded run and loads its weights, so that nobody needs a GPU
to read it. `lessons record` (or `python -m lessons.kit.training.recorded`, which needs neither
Jupyter nor the command line's packages) alone writes there: it makes the runs of runs.toml that
are missing or were made on a CPU. What a user trains goes to `my/runs/` and is never replaced.
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch
from accelerate import PartialState
from torch import nn

from lessons.kit import places
from lessons.kit.data.named import data_set
from lessons.kit.errors import LessonsError
from lessons.kit.training.again import Again, evaluate_again, evaluate_all
from lessons.kit.training.loop import fit
from lessons.kit.training.plan import Own, Plan, plan, plans, recipe_of
from lessons.kit.training.progress import checkpoint_in
from lessons.kit.training.recipe import Budget, Recipe, budget, differences
from lessons.kit.training.runs import (
    MAIN_SCORES,
    MY,
    as_json,
    describe,
    find,
    is_begun,
    is_cpu_run,
    is_finished,
    label,
    load_model,
    my_begun,
    my_names,
    names,
    read,
    results_table,
)
from lessons.kit.training.store import LARGEST, VERSIONS, half, keep, must_be_small, plain, write

__all__ = [
    "LARGEST",
    "MAIN_SCORES",
    "MY",
    "VERSIONS",
    "Again",
    "Plan",
    "as_json",
    "describe",
    "evaluate_again",
    "evaluate_all",
    "find",
    "full_run",
    "is_cpu_run",
    "label",
    "load_model",
    "main",
    "my_begun",
    "my_names",
    "names",
    "plan",
    "plans",
    "read",
    "recipe_of",
    "record",
    "results_table",
    "train",
    "write",
]


def record(wanted: Plan, progress: bool = True) -> dict[str, Any]:
    """Do a run of the course and record it in lessons/recorded/; return what its run.json says.

    A run that was killed goes on from its checkpoint, in build/checkpoints/NAME. Raises
    LessonsError before the first step where the weights would be too large to be kept.
    """
    recipe = wanted.recipe()
    if wanted.weights:
        must_be_small(wanted.name, half(recipe.model()))
    checkpoints = places.CHECKPOINTS / wanted.name
    run = fit(recipe, wanted.budget, seed=wanted.seed, folder=checkpoints, progress=progress)
    processes = _processes()
    if processes.is_main_process:
        write(wanted.name, run, wanted.weights, places.RECORDED)
        shutil.rmtree(checkpoints, ignore_errors=True)
    processes.wait_for_everyone()
    return read(wanted.name, places.RECORDED)


def train(
    wanted: Plan,
    *,
    again: bool = False,
    resume: bool = False,
    recipe: Own = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Do a run of the user's and keep it in my/runs/NAME; return what its run.json says.

    While it runs, its checkpoint is there too. A run that is there is never replaced: `resume`
    goes on with one that was killed, `again` begins anew and gives the old one's folder another
    name. Raises LessonsError where one of them is needed and where there is nothing to resume.
    """
    made, goal, name = wanted.recipe(recipe), places.my_runs() / wanted.name, MY + wanted.name
    if again and resume:
        raise LessonsError("--again begins anew, --resume goes on: choose one of them")
    if is_finished(goal) and not again:
        raise LessonsError(
            f"{name} is there already, finished: give the new run a name (--as NAME), or keep the "
            "old one beside it (--again)"
        )
    if is_begun(goal) and not (again or resume):
        raise LessonsError(
            f"{name} was begun and not finished: go on with it (--resume), or begin anew and keep "
            "what there is beside it (--again)"
        )
    if resume and not is_begun(goal):
        raise LessonsError(f"{name} has no checkpoint to go on from: train it without --resume")
    processes = _processes()
    if again and goal.exists():
        _read_data(made, wanted.budget)  # what fails, fails before anything is moved
        processes.wait_for_everyone()
        if processes.is_main_process:
            aside = places.put_aside(goal)
            print(f"what there was is now {MY}{aside.name}", flush=True)
        processes.wait_for_everyone()
    run = fit(made, wanted.budget, seed=wanted.seed, folder=goal, progress=progress)
    if processes.is_main_process:
        keep(goal, run, wanted.weights)
        checkpoint_in(goal).unlink(missing_ok=True)
    processes.wait_for_everyone()
    return read(name)


def _processes() -> PartialState:
    """The processes that share the training, one or several: accelerate's."""
    return PartialState(cpu=not torch.cuda.is_available())


def _read_data(recipe: Recipe, name: str) -> None:
    plan = recipe.budget(name)
    data_set(recipe.data, "train", plan.size, plan.count)
    data_set(recipe.data, "validation", plan.size, plan.validated)


def full_run(name: str, recipe: Own = None) -> tuple[dict[str, Any], nn.Module]:
    """The report and the model of a recorded run, or of the user's where LESSONS_BUDGET is full.

    It is what the "full training" cell of a lesson calls. `recipe` is the notebook's own, with
    which the model is built. The user's run is trained, or gone on with, if my/runs/NAME is not
    there; one of other settings is put aside.
    """
    if budget() == "full":
        wanted, mine = plans()[name], MY + name
        home = find(mine)
        if not is_finished(home):
            train(wanted, resume=is_begun(home), recipe=recipe)
        elif found := differences(_settings(read(mine)), _settings_of(wanted, recipe)):
            print(f"{mine} is another run: {found}")
            train(wanted, again=True, recipe=recipe)
        name = mine
    return read(name), load_model(name, recipe=recipe)


def _settings(report: Mapping[str, Any]) -> dict[str, Any]:
    """What a run.json says of how its run was made."""
    told = ("system", "data", "options", "budget", "seed", *(f.name for f in fields(Budget)))
    return {key: report[key] for key in told}


def _settings_of(wanted: Plan, recipe: Own) -> dict[str, Any]:
    """The same of a run that is to be made."""
    made = wanted.recipe(recipe)
    own = {"system": made.system, "data": made.data, "options": made.options}
    own |= {"budget": wanted.budget, "seed": wanted.seed, **asdict(made.budget(wanted.budget))}
    return plain(own)


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
        report = record(known[name])
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
