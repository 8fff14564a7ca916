"""Run lessons from end to end: an executed notebook, an HTML page each, and an index."""

import html
import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from nbconvert import HTMLExporter
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from lessons.kit.errors import LessonsError
from lessons.kit.guard import held, write_whole
from lessons.kit.notebooks.executing import execute, kill_kernels
from lessons.kit.notebooks.reading import METADATA, read_notebook

VIEW = "application/vnd.jupyter.widget-view+json"
KEPT = ("tags", "nbgrader", "lines_to_next_cell")
"""The metadata of a cell that are an author's; the rest are an editor's."""

# The lab template leaves out the alternative text that `draw.captioned` stores with a picture.
PAGE = """{%- extends 'lab/index.html.j2' -%}
{%- block data_png -%}
<img src="data:image/png;base64,{{ output.data['image/png'] }}" style="max-width: 100%"
{%- set alt = output | get_metadata('alt', 'image/png') -%}
{%- set width = output | get_metadata('width', 'image/png') -%}
{%- if alt %} alt="{{ alt | escape_html }}"{% endif -%}
{%- if width %} width="{{ width }}"{% endif -%}>
{%- endblock data_png -%}"""

INDEX_STYLE = """
body { font: 17px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem;
       color: #222 }
table { border-collapse: collapse; width: 100% }
td, th { text-align: left; padding: .5rem .8rem; border-bottom: 1px solid #ddd }
td.time { text-align: right; font-variant-numeric: tabular-nums }
a { color: #0b62a4 } .failed { color: #a4330b; font-weight: 600 } footer { color: #666 }
"""


@dataclass
class LessonRun:
    """What came of one lesson; `error` is None where it ran to its end."""

    name: str  # 03_roi_align
    title: str
    seconds: float
    error: str | None
    when: str  # 2026-11-28 19:30


def find_lessons(root: Path, numbers: Sequence[str] = ()) -> list[Path]:
    """The lessons in teaching order, or those of the given numbers (`3` and `03` are one)."""
    paths = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    by_number = {path.name[:2]: path for path in paths}
    for number in numbers:
        if number.zfill(2) not in by_number:
            raise LessonsError(f"there is no lesson {number}, there are {', '.join(by_number)}")
    return [by_number[number.zfill(2)] for number in numbers] or paths


def run_lessons(
    root: Path,
    numbers: Sequence[str] = (),
    console: Console | None = None,
    jobs: int = 1,
) -> Path:
    """Execute lessons into `root/build`, `jobs` side by side, and return the index's path.

    Of several, each computes with one thread. A lesson that fails does not stop the others; its
    page ends at the failing cell. The index is written after each lesson and lists all whose
    pages lie there. Raises LessonsError at the end, naming the lessons that failed, and where
    another command works in `root/build`; Stopped ends the kernels first.
    """
    console = console or Console()
    notebooks = [(path, read_notebook(path)) for path in find_lessons(root, numbers)]
    build, runs, begun = root / "build", [], time.perf_counter()

    def work(path: Path, notebook: nbformat.NotebookNode, advance: Callable) -> LessonRun:
        return _run(path, notebook, build, advance, threads=1 if jobs > 1 else None)

    def done(run: LessonRun) -> None:
        runs.append(run)
        _write_index(build, run)
        if run.error:
            error = escape(run.error)  # it may speak of shapes: [h, w]
            console.print(f"[bold red]failed[/] {run.name}: {error}", highlight=False)

    with held(build):
        _side_by_side(work, notebooks, jobs, console, done)
    total = time.perf_counter() - begun
    index = build / "index.html"
    console.print(f"{len(runs)} lessons in {total:.0f} s, the index: {index.relative_to(root)}")
    failed = sorted(run.name for run in runs if run.error)
    if failed:
        raise LessonsError(f"{len(failed)} of {len(runs)} lessons failed: {', '.join(failed)}")
    return index


def _side_by_side(
    work: Callable,
    notebooks: Sequence[tuple[Path, nbformat.NotebookNode]],
    jobs: int,
    console: Console,
    done: Callable,
) -> None:
    """Call `work` for each notebook, `jobs` at a time, with a bar; `done` with each result.

    The work is done in threads, so that this one hears Ctrl-C: then the kernels are ended, and
    nothing more is begun.
    """
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    progress = Progress(*columns, TextColumn("cells"), TimeElapsedColumn(), console=console)
    with progress, ThreadPoolExecutor(jobs) as pool:
        waiting: set[Future] = set()
        try:
            for path, notebook in notebooks:
                task = progress.add_task(path.stem, total=len(notebook.cells), start=False)

                def advance(task=task, **_):
                    progress.advance(task)

                def one(path=path, notebook=notebook, task=task, advance=advance):
                    progress.start_task(task)
                    result = work(path, notebook, advance)
                    progress.update(task, completed=len(notebook.cells))
                    progress.stop_task(task)
                    return result

                waiting.add(pool.submit(one))
            while waiting:
                ended, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in ended:
                    done(future.result())
        except BaseException:
            for future in waiting:
                future.cancel()
            while any(future.running() for future in waiting):
                kill_kernels()  # again: one may just have been begun
                wait(waiting, timeout=0.5)
            raise


def _run(
    path: Path,
    notebook: nbformat.NotebookNode,
    build: Path,
    advance: Callable,
    threads: int | None,
) -> LessonRun:
    start = time.perf_counter()
    error = execute(notebook, path.parent, build / f"{path.stem}.log", advance, threads)
    seconds = time.perf_counter() - start
    _without_bare_views(notebook)
    write_whole(build / path.name, nbformat.writes(notebook) + "\n")
    page, _ = HTMLExporter(
        template_file="page.html.j2", extra_loaders=[DictLoader({"page.html.j2": PAGE})]
    ).from_notebook_node(notebook, {"metadata": {"name": notebook_title(notebook)}})
    write_whole(build / f"{path.stem}.html", page)
    when = f"{datetime.now():%Y-%m-%d %H:%M}"
    return LessonRun(path.stem, notebook_title(notebook), round(seconds, 1), error, when)


def save_outputs(
    root: Path,
    numbers: Sequence[str] = (),
    console: Console | None = None,
    jobs: int = 1,
) -> None:
    """Run lessons and their solutions and keep the outputs in the notebooks themselves.

    For authors: what readers see is what was run. Texts stay as they are, in the form in which
    `read_notebook` gives them; what differs from run to run (times of execution, the state of
    widgets) and an editor's own metadata are left out. A notebook that fails, or that somebody
    edited meanwhile, is left as it was and named in a LessonsError; the others are saved.
    """
    console, build = console or Console(), root / "build"
    paths = [
        path
        for lesson in find_lessons(root, numbers)
        for path in (lesson, root / "solutions" / lesson.name)
        if path.exists()
    ]
    read = {path: path.read_bytes() for path in paths}
    problems = []

    def work(path: Path, notebook: nbformat.NotebookNode, advance: Callable) -> tuple:
        log = build / f"{path.parent.name}_{path.stem}.log"
        threads = 1 if jobs > 1 else None
        return path, notebook, execute(notebook, path.parent, log, advance, threads)

    def done(result: tuple) -> None:
        path, notebook, error = result
        name = path.relative_to(root)
        if error:
            problems.append(f"{name} failed and is left as it was: {error}")
        elif path.read_bytes() != read[path]:
            problems.append(f"{name} was edited while it ran and is left as it is: run it again")
        else:
            write_whole(path, nbformat.writes(_without_noise(notebook)) + "\n")
            console.print(f"saved the outputs of {name}")

    with held(build):
        _side_by_side(work, [(path, read_notebook(path)) for path in paths], jobs, console, done)
    if problems:
        raise LessonsError("; ".join(sorted(problems)))


def _without_noise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook without what differs from run to run and from editor to editor."""
    _without_bare_views(notebook)
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in notebook.cells:
        cell.metadata = {k: v for k, v in cell.metadata.items() if k in KEPT}
        for output in cell.get("outputs", ()):
            output.get("data", {}).pop(VIEW, None)
    return notebook


def _without_bare_views(notebook: nbformat.NotebookNode) -> None:
    """Take out widgets that stand there without a text: those of `play`, which need a kernel.

    The picture that belongs to them is an output of its own.
    """
    outputs = []
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if {*each.get("data", ())} != {VIEW}]
            outputs += cell.outputs
    if not any(VIEW in output.get("data", ()) for output in outputs):
        notebook.metadata.pop("widgets", None)  # their state


def notebook_title(notebook: nbformat.NotebookNode) -> str:
    """The first heading, without its marks."""
    lines = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown").splitlines()
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("# ")), "untitled")


# ---------------------------------------------------------------- the index


def _write_index(build: Path, run: LessonRun) -> None:
    """The index of all lessons whose pages lie in `build`, this one among them."""
    known = build / "runs.json"
    try:
        rows = {name: LessonRun(**row) for name, row in json.loads(known.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        rows = {}
    rows[run.name] = run
    rows = {name: rows[name] for name in sorted(rows) if (build / f"{name}.html").exists()}
    write_whole(known, json.dumps({name: asdict(row) for name, row in rows.items()}, indent=1))
    write_whole(build / "index.html", _index_page(list(rows.values())))


def _index_page(runs: list[LessonRun]) -> str:
    rows = "\n".join(
        f'<tr><td>{run.name[:2]}</td><td><a href="{run.name}.html">{html.escape(run.title)}</a>'
        f'</td><td>{run.when}</td><td class="time">{run.seconds:.1f} s</td>'
        + (
            f'<td class="failed">{html.escape(run.error)}</td></tr>'
            if run.error
            else "<td>ran</td></tr>"
        )
        for run in runs
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>The lessons, run</title>
<style>{INDEX_STYLE}</style></head><body>
<h1>The lessons, run</h1>
<table><tr><th></th><th>lesson</th><th>when</th><th>time</th><th>result</th></tr>
{rows}
</table>
</body></html>
"""
