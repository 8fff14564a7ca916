"""The command line: `lessons start`, `lab`, `run`, `train`, `evaluate`, `results`, `build`, ….

Each command imports what it needs when it is called, so that `lessons build` does not wait
for torch. An error of the user's or the machine's is one line and exit code 1.
"""

import math
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.console import Console

from lessons.kit import guard, places
from lessons.kit.errors import LessonsError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Instance and panoptic segmentation from scratch: run, read and build the lessons.",
)
console = Console()
DATA_HELP = (
    "held-out images, the run's own if none: scenes, scenes:SEED, four_scenes, wide_scenes, "
    "nuclei, pennfudan, coco, ten_coco; all of nuclei:all, nuclei:PATH, pennfudan:PATH or coco:PATH"
)


def main() -> None:
    """Run the command line; a LessonsError ends it with one line and exit code 1."""
    if os.environ.get("LESSONS_MY"):  # a kernel, which starts elsewhere, is told the whole path
        os.environ["LESSONS_MY"] = str(places.my())
    _settle_data()
    guard.stop_on_signals()
    try:
        app()
    except LessonsError as error:
        # As it is: no colours of rich inside, no line breaks at the terminal's width.
        print(f"lessons: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in guard.NO_ROOM:
            raise
        print(f"lessons: {guard.in_words(error)}", file=sys.stderr)
        sys.exit(1)
    except guard.Stopped:
        print("lessons: stopped", file=sys.stderr)
        sys.exit(guard.INTERRUPTED)


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
    if not places.is_clone(places.ROOT):
        raise LessonsError(
            f"{places.ROOT} has no notebooks/: clone the course, and there "
            'python -m pip install -c constraints.txt -e ".[course]"'
        )
    return places.ROOT


@app.command()
def run(
    numbers: Annotated[
        list[str] | None, typer.Argument(help="lessons, as in 00 01; all if none")
    ] = None,
    save: Annotated[
        bool, typer.Option("--save", help="for authors: keep the outputs in the notebooks")
    ] = False,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="lessons side by side; the machine's cores if none")
    ] = None,
) -> None:
    """Execute lessons into build/: notebooks with results, an HTML page each, an index."""
    from lessons.kit.notebooks import running

    start = time.perf_counter()
    try:
        go = running.save_outputs if save else running.run_lessons
        go(course_root(), numbers or (), console, jobs or os.cpu_count() or 1)
    finally:
        console.print(f"lessons run took {time.perf_counter() - start:.0f} s")


@app.command()
def lab() -> None:
    """Open JupyterLab on my/, where your notebooks are; on the first lesson if there are none."""
    from lessons.kit.notebooks import copies

    root, my = course_root(), places.my()
    page = my if copies.started(my) else _start(root, "00")
    served = os.path.commonpath([root, my])  # so that links to the course's notebooks lead there
    url = quote(Path(os.path.relpath(page, served)).as_posix())
    command = [sys.executable, "-m", "jupyter", "lab", f"--ServerApp.root_dir={served}"]
    command.append(f"--LabApp.default_url=/lab/tree/{url}")
    raise typer.Exit(subprocess.call(command, cwd=root))


@app.command()
def start(
    number: Annotated[str, typer.Argument(help="a lesson's number, as in 03")],
    again: Annotated[
        bool, typer.Option("--again", help="begin anew; what you have is kept beside it")
    ] = False,
    teach: Annotated[
        bool, typer.Option("--teach", help="the whole lesson without results, to show in class")
    ] = False,
) -> None:
    """Copy a lesson and its homework into my/, where your work is safe: nothing overwrites it."""
    _start(course_root(), number, again, teach)
    _say("Open them with lessons lab (or make lab).")


def _start(root: Path, number: str, again: bool = False, teach: bool = False) -> Path:
    """Start a lesson, say what was made, and return the lesson's copy."""
    from lessons.kit.notebooks import copies

    made = copies.start(root, number, places.my(), again, teach)
    for copy in made:
        kind = "the homework" if copy.path.stem.endswith("_homework") else "the lesson"
        if not copy.made:
            kind = "is there already and is left as it is"
        elif copy.aside:
            kind += f"; what you had is now {copy.aside.name}"
        _say(f"{places.shown(copy.path)}: {kind}")
    return made[0].path


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
        str | None, typer.Option("--as", help="the run's name in my/runs/; the system's if none")
    ] = None,
    weights: Annotated[bool, typer.Option(help="keep the weights, in float32")] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="go on with a run that was killed")
    ] = False,
    again: Annotated[
        bool, typer.Option("--again", help="begin anew; a run of that name is kept beside it")
    ] = False,
) -> None:
    """Train a system and keep the run in my/runs/; the course's own runs stay as they are."""
    from lessons.kit.training import recorded

    called = (name or system).removeprefix(recorded.MY)
    plan = recorded.plan(called, system, data, budget, seed, changes or (), weights)
    report = recorded.train(plan, again=again, resume=resume)
    if os.environ.get("RANK", "0") != "0":  # of torchrun's processes the first one speaks
        return
    _print_scores(report["scores"])
    mine = recorded.MY + plan.name
    home = places.shown(recorded.find(mine))
    _say(f"{home}: {report['seconds']:.0f} s on {report['device']}")
    if weights:
        _say(f"lessons evaluate {mine} measures it again, load_model({mine!r}) loads it")


@app.command()
def record(
    names: Annotated[
        list[str] | None, typer.Argument(help="runs of runs.toml, or claims of claims.toml")
    ] = None,
    of_claims: Annotated[
        bool, typer.Option("--claims", help="the seeds that claims lack, by priority")
    ] = False,
    hours: Annotated[
        float | None, typer.Option(min=0, help="begin no run that takes longer than what is left")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="runs side by side, one thread each")] = 1,
) -> None:
    """For authors: make the course's runs in lessons/recorded/, those that are missing if none."""
    course_root()
    if of_claims:
        from lessons.kit.training import making

        making.record_claims(names or (), math.inf if hours is None else hours, jobs)
        return
    if hours is not None or jobs > 1:
        raise LessonsError("--hours and --jobs are for the runs of claims: say --claims too")
    from lessons.kit.training import recorded

    recorded.main(names or ())


@app.command()
def claims(
    name: Annotated[str | None, typer.Argument(help="one claim, with its runs")] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="the runs that are missing, and how long they take")
    ] = False,
) -> None:
    """Print the ledger: every claim of the lecture with its seeds, interval and verdict."""
    from lessons.kit.training import claims as ledger

    if plan:
        _plan(name)
        return
    if name is None:
        _ledger()
        return
    for line in ledger.described(name):
        _say(line)
    path = places.ROOT / "build" / "claims" / f"{name}.png"
    ledger.picture(name, path)
    _say(f"the picture: {places.shown(path)}")


def _ledger() -> None:
    from rich.table import Table

    from lessons.kit.training import claims as ledger

    table, rows = Table(), ledger.rows()
    for heading in ledger.HEADINGS:
        table.add_column(heading, no_wrap=heading in ("claim", "lesson", "seeds"))
    for row in rows:
        table.add_row(*ledger.cells(row))
    console.print(table)
    for line in ledger.tunings_described():
        _say(line)
    _say(f"{len(rows)} claims: {ledger.counted(rows)}")


def _plan(name: str | None) -> None:
    """A line for each claim with missing runs, in the order in which they are made."""
    from lessons.kit.training import claims as ledger

    wanted = ledger.missing([name] if name else ())
    for claim in dict.fromkeys(each.name for each in wanted):
        own = [each for each in wanted if each.name == claim]
        arms = ", ".join(dict.fromkeys(each.arm.name for each in own))
        _say(f"{claim:<26}{len(own):3} runs {sum(w.minutes for w in own):5.0f} min  {arms}")
    _say(f"{len(wanted)} runs, {sum(each.minutes for each in wanted) / 60:.1f} hours on one thread")


@app.command()
def evaluate(
    name: Annotated[
        str | None, typer.Argument(help="a run: mask_rcnn, the course's, or my/NAME, yours")
    ] = None,
    data: Annotated[str | None, typer.Option(help=DATA_HELP)] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="scenes of another seed")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="the first images only")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
    export: Annotated[
        Path | None, typer.Option(help="write its panoptic answers and the truth here, as COCO's")
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="the course's runs, beside what their run.json say")
    ] = False,
) -> None:
    """Measure a run again, on any held-out images, or all of the course's on their own."""
    from lessons.kit.training import recorded

    if everything:
        if name or data or seed is not None or as_json or export:
            raise LessonsError("--all takes --count and nothing else: each run has its own data")
        _evaluate_all(count)
        return
    if name is None:
        raise LessonsError("name a run, or say --all: lessons results lists them")
    if as_json:
        print(recorded.as_json(recorded.evaluate_again(name, data, seed, count, export)))
        return
    whose, report = recorded.label(name), recorded.read(name)
    scores = recorded.evaluate_again(name, data, seed, count, export)
    _say(f"{whose}: {recorded.describe(report)}")
    if whose == name and recorded.MY + name in recorded.my_names():
        _say(f"(the course's run; yours is {recorded.MY}{name})")
    _print_scores(scores)
    if export is not None:
        _say(f"{export}: panoptic.json and ground_truth.json, with their PNGs")


def _evaluate_all(count: int | None) -> None:
    """Print each run's scores, measured now, beside those of its run.json, and compare them.

    Of the first `count` images only, nothing is compared: run.json tells of all of them.
    """
    from lessons.kit.training import recorded

    measured, skipped, differing = [], [], []
    for again in recorded.evaluate_all(count):
        if again.skipped:
            skipped.append(again.name)
            _say(f"{again.name}: skipped, {again.skipped}")
            continue
        measured.append(again.name)
        shown = [key for key in recorded.MAIN_SCORES if key in {**again.then, **again.now}]
        scores = "  ".join(
            f"{key} {again.now.get(key, math.nan):.3f} ({again.then.get(key, math.nan):.3f})"
            for key in shown
        )
        _say(f"{again.name:<26}{scores}")
        if count is None and (found := again.differences()):
            differing.append(f"{again.name}: {', '.join(found)}")
    there = recorded.names()
    _say(f"measured {len(measured)} of the course's {len(there)} runs; in brackets their run.json")
    if without := len(there) - len(measured) - len(skipped):
        _say(f"{without} kept no weights: there are only their scores (lessons results)")
    if skipped:
        _say(f"{len(skipped)} could not be measured here: {', '.join(skipped)}")
    if count is not None:
        _say(f"of {count} images only: not compared")
    elif differing:
        raise LessonsError(f"not what run.json says: {'; '.join(differing)}")
    elif measured:
        _say(f"all {len(measured)} that were measured are within 0.001 of their run.json")


@app.command()
def mine(
    systems: Annotated[
        list[str] | None, typer.Argument(help="as mask_rcnn; those with a part of yours if none")
    ] = None,
    count: Annotated[
        int, typer.Option(min=1, help="held-out images; 200 for all, as the recorded score")
    ] = 40,
    seconds: Annotated[
        float, typer.Option(min=1, help="how long your functions may take in a system")
    ] = 300,
) -> None:
    """Run the recorded systems with the functions that you wrote in place of the reference's."""
    from lessons.kit.homework import mine as own
    from lessons.kit.homework import parts

    wanted = systems or own.systems_of(parts.kept())
    for number, system in enumerate(wanted):
        _say(f"{'' if number == 0 else chr(10)}{own.measure(system, count, seconds)}")
    if not wanted and (names := ", ".join(part.name for part in parts.kept())):
        _say(
            f"You have {names} in {places.shown(parts.folder())}; no recorded system is made of it."
        )
    elif not wanted:
        _say(
            "You have no parts yet: lessons start 04, write a function at *Your turn*, and what "
            f"passes its check is kept in {places.shown(parts.folder())}."
        )


@app.command()
def results(
    markdown: Annotated[bool, typer.Option("--markdown", help="as the README's table")] = False,
) -> None:
    """Print the scores of the course's runs, and of yours."""
    from lessons.kit.training import recorded

    if markdown:
        print(recorded.results_table())
        return
    course, mine, begun = recorded.names(), recorded.my_names(), recorded.my_begun()
    tables = [_table(course), _table(mine)]  # a damaged run is found before anything is printed
    home = places.shown(places.my_runs())
    _say("The course's runs:")
    console.print(tables[0])
    if mine:
        _say(f"Your runs, in {home}:")
        console.print(tables[1])
    for name in begun:
        _say(f"{name}: begun and not finished; lessons train … --resume goes on with it")
    if not mine and not begun:
        _say(f"You have no runs yet: lessons train keeps them in {home}.")


def _table(names: list[str]):
    """The scores of runs, a row each."""
    from rich.table import Table

    from lessons.kit.training import recorded

    table = Table()
    for heading in ("run", "data", "scores", "parameters", "time", "device"):
        table.add_column(heading, no_wrap=heading == "run")
    for name in names:
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
    return table


def _print_scores(scores: dict) -> None:
    for key, value in scores.items():
        if key != "per_class":
            _say(f"{key:<12}{value:.4f}")


def _say(line: str) -> None:
    """Print a line as it is: no colours for its numbers, no marks, no breaks."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


@app.command()
def download(name: Annotated[str, typer.Argument(help="nuclei or pennfudan")]) -> None:
    """Fetch a data set from its official address into data/ (or $LESSONS_DATA)."""
    from lessons.kit.data.download import download as fetch

    fetch(name)


@app.command()
def doctor() -> None:
    """Print versions, device, data, where your work is, and what is missing."""
    from lessons.kit.doctor import examine

    examine(console)
