"""The command line: `lessons run`, `lab`, `start`, `build`, `download`, `doctor`.

Each command imports what it needs when it is called, so that `lessons build` does not wait
for torch. An error of the user's or the machine's is one line and exit code 1.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from lessons.kit.authoring import ROOT
from lessons.kit.errors import LessonsError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Instance and panoptic segmentation from scratch: run, read and build the lessons.",
)
console = Console()


def main() -> None:
    """Run the command line; a LessonsError ends it with one line and exit code 1."""
    try:
        app()
    except LessonsError as error:
        # As it is: no colours of rich inside, no line breaks at the terminal's width.
        print(f"lessons: {error}", file=sys.stderr)
        sys.exit(1)


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
    from lessons.kit import running

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
    from lessons.kit import authoring

    root = course_root()
    stale = [path.relative_to(root).as_posix() for path in authoring.build(root, check)]
    if check and stale:
        raise LessonsError(f"stale, run lessons build: {', '.join(stale)}")
    console.print(f"built {', '.join(stale)}" if stale else "everything built is up to date")


@app.command()
def download(name: Annotated[str, typer.Argument(help="nuclei or pennfudan")]) -> None:
    """Fetch a data set from its official address into data/ (or $LESSONS_DATA)."""
    from lessons.kit.download import download as fetch

    fetch(name)


@app.command()
def doctor() -> None:
    """Print versions, device, data, and what is missing."""
    from lessons.kit.doctor import examine

    examine(course_root(), console)
