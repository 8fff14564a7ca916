"""The command line: `lessons run`, `lab`, `start`, `build`, `train`, `evaluate`, `results`, ….

Each command imports what it needs when it is called, so that `lessons build` does not wait
for torch. An error of the user's or the machine's is one line and exit code 1.
"""

import math
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lessons.kit.errors import LessonsError
from lessons.kit.places import ROOT

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Instance and panoptic segmentation from scratch: run, read and build the lessons.",
)
console = Console()
DATA_HELP = (
    "held-out images, the run's own if none: scenes, scenes:SEED, four_scenes, nuclei, pennfudan, "
    "coco, ten_coco; all of nuclei:all, nuclei:PATH, pennfudan:PATH or coco:PATH"
)


def main() -> None:
    """Run the command line; a LessonsError ends it with one line and exit code 1."""
    _settle_data()
    try:
        app()
    except LessonsError as error:
        # As it is: no colours of rich inside, no line breaks at the terminal's width.
        print(f"lessons: {error}", file=sys.stderr)
        sys.exit(1)


def _settle_data() -> None:
    """Make a relative $LESSONS_DATA absolute: a kernel, which works elsewhere, is told it too.

    What `data_root` refuses is left to it: not every command needs the images.
    """
    said = os.environ.get("LESSONS_DATA", "")
    if said and said == said.strip() and said[0] not in "\"'~":
        with suppress(FileNotFoundError):  # the folder that we work in is gone
            os.environ["LESSONS_DATA"] = os.path.abspath(said)


def course_root() -> Path:
    """The clone's folder. Raises LessonsError where the package was installed without it."""
    if not (ROOT / "notebooks").is_dir():
        raise LessonsError(f"{ROOT} has no notebooks/: install from a clone with pip install -e .")
    return ROOT


@app.command()
def run(
    numbers: Annotated[
        list[str] | None, typer.Argument(help="lessons, as in 00 01; all if none")
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="for authors: keep the outputs in the notebooks")
    ] = False,
) -> None:
    """Execute lessons into build/: notebooks with results, an HTML page each, an index."""
    from lessons.kit.notebooks import running

    start = time.perf_counter()
    try:
        go = running.save_outputs if save else running.run_lessons
        go(course_root(), numbers or (), console)
    finally:
        console.print(f"lessons run took {time.perf_counter() - start:.0f} s")


@app.command()
def lab() -> None:
    """Open JupyterLab on the first lesson."""
    root = course_root()
    command = [sys.executable, "-m", "jupyter", "lab", "notebooks/00_start_here.ipynb"]
    raise typer.Exit(subprocess.call(command, cwd=root))


@app.command()
def start(number: Annotated[str, typer.Argument(help="a lesson's number, as in 03")]) -> None:
    """Copy a lesson's homework into my/, where your work is safe: nothing here overwrites it."""
    root = course_root()
    handed_out = sorted((root / "notebooks/homework").glob("[0-9][0-9]_*.ipynb"))
    by_number = {path.name[:2]: path for path in handed_out}
    if number.zfill(2) not in by_number:
        raise LessonsError(
            f"lesson {number} has no homework, there is {', '.join(by_number) or 'none'}"
        )
    source = by_number[number.zfill(2)]
    goal = root / "my" / source.name
    if goal.exists():
        raise LessonsError(
            f"my/{goal.name} exists already and is left as it is: go on with it there"
        )
    goal.parent.mkdir(exist_ok=True)
    part = goal.with_name(goal.name + ".part")
    shutil.copyfile(source, part)
    os.replace(part, goal)
    console.print(f"Your homework: my/{goal.name} (make lab, then open it)")


@app.command()
def build(
    check: Annotated[
        bool, typer.Option("--check", help="change nothing, fail if something is stale")
    ] = False,
) -> None:
    """Build the package and the homework from the notebooks."""
    from lessons.kit.notebooks import authoring

    root = course_root()
    stale = [path.relative_to(root).as_posix() for path in authoring.build(root, check)]
    if check and stale:
        raise LessonsError(f"stale, run lessons build: {', '.join(stale)}")
    console.print(f"built {', '.join(stale)}" if stale else "everything built is up to date")


@app.command()
def train(
    system: Annotated[str, typer.Argument(help="a lesson's module, as mask_rcnn")],
    budget: Annotated[str, typer.Option(help="test, quick or full")] = "full",
    data: Annotated[str, typer.Option(help="scenes, nuclei, pennfudan, coco, …")] = "scenes",
    seed: Annotated[int, typer.Option(min=0, help="of weights and batches")] = 0,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="option=value of the recipe or the budget")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--as", help="the recorded run's name; the system's if none")
    ] = None,
    weights: Annotated[bool, typer.Option(help="keep the weights, 4 MB at most")] = True,
) -> None:
    """Train a system and record the run in lessons/recorded/; a killed run goes on."""
    from lessons.kit.training import recorded

    plan = recorded.plan(name or system, system, data, budget, seed, changes or (), weights)
    report = recorded.train(plan)
    _print_scores(report["scores"])
    console.print(f"lessons/recorded/{plan.name}: {report['seconds']:.0f} s on {report['device']}")


@app.command()
def evaluate(
    name: Annotated[str | None, typer.Argument(help="a recorded run, as mask_rcnn")] = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="scenes of another seed")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="the first images only")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    export: Annotated[
        Path | None, typer.Option(help="write its panoptic answers and the truth here, as COCO's")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="every recorded run, beside what its run.json says")
    ] = False,
) -> None:
    """Measure a recorded system again, on any split, or all of them on their own."""
    from lessons.kit.training import recorded

    if everything:
        if name or data or seed is not None or as_json or export:
            raise LessonsError("--all takes --count and nothing else: each run has its own data")
        _evaluate_all(count)
        return
    if name is None:
        raise LessonsError("name a recorded run, or say --all: lessons results lists them")
    scores = recorded.evaluate_again(name, data, seed, count, export)
    if as_json:
        print(recorded.as_json(scores))
        return
    _print_scores(scores)
    if export is not None:
        console.print(f"{export}: panoptic.json and ground_truth.json, with their PNGs")


def _evaluate_all(count: int | None) -> None:
    """Print each run's scores, measured now, beside those of its run.json, and compare them.

    Of the first `count` images only, nothing is compared: run.json tells of all of them.
    """
    from lessons.kit.training import recorded

    differing = []
    for again in recorded.evaluate_all(count):
        if again.skipped:
            console.print(f"{again.name}: skipped, {again.skipped}", highlight=False)
            continue
        shown = [key for key in recorded.MAIN_SCORES if key in {**again.then, **again.now}]
        scores = "  ".join(
            f"{key} {again.now.get(key, math.nan):.3f} ({again.then.get(key, math.nan):.3f})"
            for key in shown
        )
        console.print(f"{again.name:<26}{scores}", highlight=False, soft_wrap=True)
        if count is None and (found := again.differences()):
            differing.append(f"{again.name}: {', '.join(found)}")
    if count is not None:
        console.print(f"in brackets run.json's scores; of {count} images only: not compared")
        return
    if differing:
        raise LessonsError(f"not what run.json says: {'; '.join(differing)}")
    console.print("in brackets run.json's scores: every one within 0.001")


@app.command()
def results(
    markdown: Annotated[bool, typer.Option("--markdown", help="as the README's table")] = False,
) -> None:
    """Print the scores of all recorded runs."""
    from rich.table import Table

    from lessons.kit.training import recorded

    if markdown:
        print(recorded.results_table())
        return
    table = Table()
    for heading in ("run", "data", "scores", "parameters", "time", "device"):
        table.add_column(heading, no_wrap=heading == "run")
    for name in recorded.names():
        report = recorded.read(name)
        scores = [
            f"{key} {report['scores'][key]:.3f}"
            for key in recorded.MAIN_SCORES
            if key in report["scores"]
        ]
        table.add_row(
            name,
            report["data"],
            "  ".join(scores),
            f"{report['parameters'] / 1e6:.2f} M",
            f"{report['seconds'] / 60:.0f} min",
            report["device"],
        )
    console.print(table)


def _print_scores(scores: dict) -> None:
    for key, value in scores.items():
        if key != "per_class":
            console.print(f"{key:<12}{value:.4f}", highlight=False)


@app.command()
def download(name: Annotated[str, typer.Argument(help="nuclei or pennfudan")]) -> None:
    """Fetch a data set from its official address into data/ (or $LESSONS_DATA)."""
    from lessons.kit.data.download import download as fetch

    fetch(name)


@app.command()
def doctor() -> None:
    """Print versions, device, data, and what is missing."""
    from lessons.kit.doctor import examine

    examine(course_root(), console)
