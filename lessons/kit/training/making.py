"""The runs of claims that are missing are made: by priority, resumably, in a given time.

`lessons record --claims` (or `python -m lessons.kit.training.making`, which needs neither Jupyter
nor the command line's packages) may be stopped at any time and started again: a run goes on from
its checkpoint. Several at once never make the same run.
"""

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import date
from statistics import median
from typing import Any

import torch
from filelock import FileLock

from lessons.kit import places
from lessons.kit.data.named import data_set
from lessons.kit.errors import LessonsError
from lessons.kit.guard import held, write_whole
from lessons.kit.training import store
from lessons.kit.training.ledger import (
    Arm,
    Tuning,
    claim_named,
    claims,
    runs_file,
    runs_of,
    tunings,
)
from lessons.kit.training.loop import Run, fit
from lessons.kit.training.measure import predict
from lessons.kit.training.mechanisms import check_mechanisms
from lessons.kit.training.recipe import Recipe, differences
from lessons.kit.training.runs import MAIN_SCORES, load_model
from lessons.kit.training.verdict import resamplings

MEASURING = 3.0  # minutes, of a model that is there
DIGITS = 5  # of the scores on other drawings of the scenes: there are many


class Clock:
    """How much slower than alone this process was since then: others want the same cores."""

    def __init__(self):
        self.wall, self.own = time.perf_counter(), time.process_time()

    def slowness(self) -> float:
        """Time by the clock through time at work, at least 1; 1 where a GPU does the work."""
        wall, own = time.perf_counter() - self.wall, time.process_time() - self.own
        return 1.0 if torch.cuda.is_available() else max(1.0, wall / max(own, 1e-9))


@dataclass(frozen=True)
class Wanted:
    """A run that is missing, the claim or tuning that wants it most, and how long it takes."""

    arm: Arm
    seed: int
    name: str
    minutes: float


def missing(wanted: Collection[str] = ()) -> list[Wanted]:
    """The runs that the claims lack, or some of them, in the order in which they are made.

    By priority, a tuning before the claims that have the same one, then by seed, so that pairs
    become whole. A run that two claims need comes once. One that was recorded and kept weights is
    only measured: its mechanism was not.
    """
    known = [*tunings().values(), *claims().values()]
    unknown = set(wanted) - {each.name for each in known}
    for name in sorted(unknown):
        claim_named(name)  # which says what it could mean
    chosen = [each for each in known if each.name in wanted or not wanted]
    found: dict[tuple[str, int], Wanted] = {}
    for each in sorted(chosen, key=lambda each: each.priority):
        there = {arm.name: runs_of(arm) for arm in each.arms}
        for seed in [each.seed] if isinstance(each, Tuning) else range(each.seeds):
            for arm in each.arms:
                run = there[arm.name].get(seed)
                if run is None or _can_be_measured(run):
                    minutes = minutes_of(arm, there[arm.name]) if run is None else MEASURING
                    found.setdefault((arm.name, seed), Wanted(arm, seed, each.name, minutes))
    return list(found.values())


def minutes_of(arm: Arm, there: Mapping[int, Mapping[str, Any]]) -> float:
    """How long a run of an arm takes, with all that is measured: as those that are there took."""
    took = [run["minutes"] for run in there.values() if "minutes" in run]
    return median(took) if took else arm.minutes


def _can_be_measured(run: Mapping[str, Any]) -> bool:
    """Whether a run has its weights, and not yet what is measured beside the scores."""
    return "weights" in run and "checks" not in run


def make(arm: Arm, seed: int, progress: bool = True) -> dict[str, Any]:
    """Make a run of an arm and keep it in the arm's file; return what is kept.

    A run that was killed goes on from its checkpoint, in build/checkpoints/claims. Raises
    LessonsError where another process makes it and where the file holds runs of other settings.
    """
    folder = places.CHECKPOINTS / "claims" / f"{arm.name}-{seed}"
    with held(folder):
        there = runs_of(arm).get(seed)
        if there is not None and not _can_be_measured(there):
            return there
        plan = arm.plan(seed)
        recipe, others = plan.recipe(), None
        if arm.held_out:
            others = data_set(arm.held_out, "validation", recipe.budget("full").size)
        _must_fit(arm, settings(arm, recipe))
        clock = Clock()
        if there is not None:
            run = _recorded(arm, recipe, there)
        else:
            how = {"validation": others, "seed": seed, "folder": folder, "progress": progress}
            run = fit(recipe, "full", **how)
        measured = measure(run)
        kept = report(run, measured, (run.seconds + measured["seconds"]) / 60 / clock.slowness())
        if there is not None:
            kept |= {key: there[key] for key in ("date", "versions")}
            del kept["minutes"]  # nothing was trained
        keep(arm, recipe, kept)
    shutil.rmtree(folder, ignore_errors=True)
    return kept


def _recorded(arm: Arm, recipe: Recipe, there: Mapping[str, Any]) -> Run:
    """A recorded run with its weights, as `fit` left it."""
    plan = recipe.budget("full")
    return Run(
        recipe=recipe,
        budget="full",
        seed=there["seed"],
        model=load_model(arm.recorded),
        history=there["history"],
        scores=there["scores"],
        seconds=there["seconds"],
        device=there["device"],
        peak_memory=there["peak_memory"],
        held_out=data_set(recipe.data, "validation", plan.size, plan.validated),
    )


def settings(arm: Arm, recipe: Recipe) -> dict[str, Any]:
    """What all runs of an arm have in common."""
    said = {"system": recipe.system, "data": recipe.data, "options": dict(recipe.options)}
    said |= {"held_out": arm.held_out} if arm.held_out else {}
    return store.plain(said | asdict(recipe.budget("full")))


def measure(run: Run) -> dict[str, Any]:
    """The scores on other drawings of the scenes, the checks of mechanisms, and the seconds."""
    start, data = time.perf_counter(), run.held_out
    answers = {method: predict(run.model, data, method) for method in run.recipe.metrics}
    targets = [data[index].segments for index in range(len(data))]
    drawn: dict[str, list[float]] = {}
    for method, metric in run.recipe.metrics.items():
        for chosen in resamplings(len(data)):
            scores = metric(
                [answers[method][i] for i in chosen], [targets[i] for i in chosen], data.categories
            )
            for key in MAIN_SCORES:
                if key in scores:
                    drawn.setdefault(key, []).append(round(float(scores[key]), DIGITS))
    checks = check_mechanisms(run.recipe.system, run.model, data, answers)
    return {"resampled": drawn, "checks": checks, "seconds": time.perf_counter() - start}


def report(run: Run, measured: Mapping[str, Any], minutes: float) -> dict[str, Any]:
    """What is kept of a run: what a claim may ask, in a few kilobytes."""
    own = {"step", "seconds", "learning_rate", "scores"}
    scores = {key: value for key, value in run.scores.items() if key != "per_class"}
    curve = [
        {"step": row["step"], **{k: v for k, v in row["scores"].items() if k in MAIN_SCORES}}
        for row in run.history[:-1]
        if "scores" in row
    ]
    kept = {
        "seed": run.seed,
        "scores": scores,
        "checks": measured["checks"],
        "losses": {key: value for key, value in run.history[-1].items() if key not in own},
        "curve": curve,
        "resampled": measured["resampled"],
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "device": run.device,
        "seconds": round(run.seconds, 1),
        "minutes": minutes,  # of a machine that had nothing else to do
        "date": date.today().isoformat(),
        "versions": {"python": sys.version.split()[0]} | store.versions(),
    }
    return store.plain(kept)


def keep(arm: Arm, recipe: Recipe, kept: Mapping[str, Any]) -> None:
    """Add a run to its arm's file, whole or not at all."""
    path = runs_file(arm)
    here = settings(arm, recipe)
    with FileLock(places.CHECKPOINTS / "claims" / f"{arm.name}.lock"):
        runs = _must_fit(arm, here)
        runs = sorted([*runs, kept], key=lambda run: run["seed"])
        lines = ",\n".join(f"  {json.dumps(run, allow_nan=False)}" for run in runs)
        head = json.dumps(here, allow_nan=False)
        write_whole(path, f'{{"settings": {head},\n "runs": [\n{lines}\n]}}\n')


def _must_fit(arm: Arm, here: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The runs in an arm's file. Raises LessonsError where they were made in another way."""
    path = runs_file(arm)
    if not path.is_file():
        return []
    there = json.loads(path.read_text(encoding="utf-8"))
    if found := differences(there["settings"], here):
        raise LessonsError(f"{path} holds runs of other settings: {found}; move it away first")
    return there["runs"]


def record_claims(
    wanted: Sequence[str] = (), hours: float = math.inf, jobs: int = 1, progress: bool = True
) -> None:
    """Make the missing runs of all claims or of some, as long as there is time.

    A run that does not fit into what is left of the `hours`, on a machine as busy as during the
    last run, is not begun; a shorter one that does is. With `jobs` so many processes work side by
    side, of one thread each.
    """
    if jobs > 1:
        _side_by_side(wanted, hours, jobs)
        return
    end, tried, slowness = time.monotonic() + 3600 * hours, set(), 1.0
    while True:
        left = (end - time.monotonic()) / 60
        todo = [each for each in missing(wanted) if (each.arm.name, each.seed) not in tried]
        fitting = [each for each in todo if each.minutes * slowness <= left]
        if not fitting:
            break
        each = fitting[0]
        tried.add((each.arm.name, each.seed))
        print(
            f"{each.name}: {each.arm.name}, seed {each.seed}, about {each.minutes:.0f} min; "
            f"{len(todo)} runs are missing",
            flush=True,
        )
        clock = Clock()
        try:
            kept = make(each.arm, each.seed, progress)
        except LessonsError as error:
            if "is in use by" not in str(error):
                raise
            print("  another process makes it", flush=True)
            continue
        slowness = clock.slowness()
        shown = {key: kept["scores"][key] for key in MAIN_SCORES if key in kept["scores"]}
        numbers = ", ".join(f"{key} {number or math.nan:.3f}" for key, number in shown.items())
        print(f"  {numbers}; {kept['minutes']:.1f} min on {kept['device']}", flush=True)
    if not todo:
        print("every run of the claims is there, or is being made")
    else:
        rest = sum(each.minutes for each in todo) / 60
        print(f"{len(todo)} runs of {rest:.1f} hours are left; none fits into the time that is")


def _side_by_side(wanted: Sequence[str], hours: float, jobs: int) -> None:
    """Several processes that choose their runs themselves: whoever holds a run makes it."""
    command = [sys.executable, "-m", "lessons.kit.training.making", "--hours", str(hours), *wanted]
    processes = []
    try:
        for _ in range(jobs):
            environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            processes.append(subprocess.Popen(command, env=environment))
        codes = [process.wait() for process in processes]
    except BaseException:
        for process in processes:
            with suppress(OSError):
                process.terminate()
        for process in processes:
            process.wait()
        raise
    if any(codes):
        raise LessonsError(f"{sum(map(bool, codes))} of {jobs} processes ended with an error")


def main(arguments: Sequence[str] | None = None) -> None:
    """[--hours H] [claims …]"""
    said = list(sys.argv[1:] if arguments is None else arguments)
    hours = math.inf
    if "--hours" in said:
        at = said.index("--hours")
        hours = float(said[at + 1])
        del said[at : at + 2]
    record_claims(said, hours, progress=False)


if __name__ == "__main__":
    from lessons.kit.guard import INTERRUPTED, Stopped, stop_on_signals

    stop_on_signals()
    try:
        main()
    except LessonsError as error:
        sys.exit(f"making: {error}")
    except Stopped:
        sys.exit(INTERRUPTED)
