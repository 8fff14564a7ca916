"""Run lessons from end to end: an executed notebook, an HTML page each, and an index."""

import ast
import html
import math
import os
import queue
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import nbformat
from jinja2 import DictLoader
from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.channels import AsyncZMQSocketChannel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.filters import strip_ansi
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from traitlets import Type

from lessons.kit.errors import LessonsError
from lessons.kit.notebooks.authoring import METADATA, read_notebook

CELL_SECONDS = 600
"""A cell that takes longer has failed (a training cell has two minutes at the quick budget)."""

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


class WakefulChannel(AsyncZMQSocketChannel):
    """A channel that looks for a message twice a second, whether or not it was woken.

    nbclient sends a widget's answer on the socket on which it waits for a cell's reply. If
    both meet, asyncio never learns that the reply has come, and the cell waits out its whole
    limit (seen in every second run of a widget on a busy machine; nbclient issue 312).
    """

    async def get_msg(self, timeout: float | None = None) -> dict:
        """The next message. Raises queue.Empty after `timeout` seconds; None waits for ever."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            try:
                return await super().get_msg(timeout=max(0, min(0.5, end - time.monotonic())))
            except queue.Empty:
                if time.monotonic() >= end:
                    raise


class WakefulClient(AsyncKernelClient):
    """A kernel's client whose shell channel does not oversleep."""

    shell_channel_class = Type(WakefulChannel)


@dataclass
class LessonRun:
    """What came of one lesson; `error` is None where it ran to its end."""

    path: Path
    title: str
    seconds: float
    error: str | None


def find_lessons(root: Path, numbers: Sequence[str] = ()) -> list[Path]:
    """The lessons in teaching order, or those of the given numbers (`3` and `03` are one)."""
    paths = sorted((root / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    by_number = {path.name[:2]: path for path in paths}
    for number in numbers:
        if number.zfill(2) not in by_number:
            raise LessonsError(f"there is no lesson {number}, there are {', '.join(by_number)}")
    return [by_number[number.zfill(2)] for number in numbers] or paths


def run_lessons(root: Path, numbers: Sequence[str] = (), console: Console | None = None) -> Path:
    """Execute lessons in order into `root/build` and return the index's path.

    A lesson that fails does not stop the others; its page ends at the failing cell.
    Raises LessonsError at the end, naming the lessons that failed.
    """
    console = console or Console()
    notebooks = [(path, read_notebook(path)) for path in find_lessons(root, numbers)]
    build = root / "build"
    build.mkdir(exist_ok=True)
    runs = []
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("cells"),
        TimeElapsedColumn(),
        console=console,
    ) as progress:
        for path, notebook in notebooks:
            task = progress.add_task(path.stem, total=len(notebook.cells))

            def advance(progress=progress, task=task, **_):
                progress.advance(task)

            runs.append(_run(path, notebook, build, advance))
            progress.update(task, completed=len(notebook.cells))
            if runs[-1].error:
                error = escape(runs[-1].error)  # it may speak of shapes: [h, w]
                console.print(f"[bold red]failed[/] {path.name}: {error}", highlight=False)
    index = build / "index.html"
    index.write_text(_index_page(runs), encoding="utf-8")
    total = sum(run.seconds for run in runs)
    console.print(f"{len(runs)} lessons in {total:.0f} s, the index: {index.relative_to(root)}")
    failed = [run.path.stem for run in runs if run.error]
    if failed:
        raise LessonsError(f"{len(failed)} of {len(runs)} lessons failed: {', '.join(failed)}")
    return index


def _run(path: Path, notebook: nbformat.NotebookNode, build: Path, advance) -> LessonRun:
    start = time.perf_counter()
    error = execute(notebook, path.parent, build / f"{path.stem}.log", advance)
    seconds = time.perf_counter() - start
    nbformat.write(notebook, build / path.name)
    page, _ = HTMLExporter(
        template_file="page.html.j2", extra_loaders=[DictLoader({"page.html.j2": PAGE})]
    ).from_notebook_node(notebook, {"metadata": {"name": notebook_title(notebook)}})
    (build / f"{path.stem}.html").write_text(page, encoding="utf-8")
    return LessonRun(path, notebook_title(notebook), seconds, error)


def execute(
    notebook: nbformat.NotebookNode, folder: Path, log: Path, advance: Callable | None = None
) -> str | None:
    """Run a notebook's cells in place, working in `folder`; return what went wrong, or None.

    What went wrong is one line: the cell by its number (from 1) and id, the exception and its
    message, or, where it has none, the line that raised it (`assert ap50 >= 0.9`). Outputs of
    an earlier run are gone, also behind a cell that failed. What the kernel itself writes to
    its error stream goes into `log`, which is removed after a good run.
    """
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    running = 0

    def start(cell_index, **_):
        nonlocal running
        running = cell_index

    client = NotebookClient(
        notebook,
        km=AsyncKernelManager(kernel_name="python3", client_class=f"{__name__}.WakefulClient"),
        timeout=CELL_SECONDS,
        resources={"metadata": {"path": str(folder)}},
        on_cell_execute=start,
        on_cell_complete=advance,
        record_timing=False,
        coalesce_streams=True,  # else it depends on the kernel's pace how prints are grouped
    )
    client.owns_km = True  # it shall shut the kernel down, a gigabyte, though it is handed one
    error = None
    with log.open("w", encoding="utf-8") as stream:
        try:
            client.execute(stderr=stream)
        except CellExecutionError as failure:
            error = _in_one_line(failure, notebook)
        except CellTimeoutError:
            error = f"took longer than {CELL_SECONDS} s"
        except DeadKernelError:
            error = f"the kernel died (out of memory?), its last words are in {log.name}"
    if error is None:
        log.unlink()
        return None
    return f"cell {running + 1} ({notebook.cells[running].get('id', 'no id')}): {error}"


def _in_one_line(failure: CellExecutionError, notebook: nbformat.NotebookNode) -> str:
    """An exception's name and the first line of its message, or else of what raised it."""
    lines = [line.strip() for line in strip_ansi(failure.evalue).splitlines() if line.strip()]
    message = lines[0] if lines else _raising_line(failure, notebook)
    return f"{failure.ename}: {message}" if message else failure.ename


def _raising_line(failure: CellExecutionError, notebook: nbformat.NotebookNode) -> str:
    """The statement at which IPython's traceback points last, on one line; "" if at none."""
    traceback = strip_ansi(failure.traceback)
    arrows = list(re.finditer(r"^-+> (\d+) (.*)$", traceback, re.MULTILINE))
    if not arrows:
        return ""
    number, shown = int(arrows[-1][1]), arrows[-1][2].strip()
    heads = r"^(?:Cell In\[(\d+)\]|File (.+?):\d+, in )"
    frames = re.findall(heads, traceback[: arrows[-1].start()], re.MULTILINE)
    count, file = frames[-1] if frames else ("", "")
    try:
        if file:
            source = Path(file).expanduser().read_text(encoding="utf-8")
        else:
            source = next(
                c.source for c in notebook.cells if str(c.get("execution_count")) == count
            )
        tree = ast.parse(source)
    except (OSError, ValueError, StopIteration, SyntaxError):  # a magic, say
        return shown
    statements = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.stmt) and node.lineno <= number <= (node.end_lineno or 0)
        if not hasattr(node, "body")
    ]
    if failure.ename == "AssertionError":
        statements = [node for node in statements if isinstance(node, ast.Assert)]
    if not statements:
        return shown
    text = ast.get_source_segment(source, statements[0]) or shown
    return ast.unparse(statements[0]) if "\n" in text else text


def save_outputs(root: Path, numbers: Sequence[str] = (), console: Console | None = None) -> None:
    """Run lessons and their solutions and keep the outputs in the notebooks themselves.

    For authors: what readers see is what was run. Texts stay as they are, in the form in which
    `read_notebook` gives them; what differs from run to run (times of execution, the state of
    widgets) and an editor's own metadata are left out. A notebook that fails is left as it was
    and named in a LessonsError.
    """
    console = console or Console()
    (root / "build").mkdir(exist_ok=True)
    for lesson in find_lessons(root, numbers):
        for path in (lesson, root / "solutions" / lesson.name):
            if not path.exists():
                continue
            notebook = read_notebook(path)
            error = execute(notebook, path.parent, root / "build" / f"{path.stem}.log")
            name = path.relative_to(root)
            if error:
                raise LessonsError(f"{name} failed and is left as it was: {error}")
            notebook.metadata = nbformat.from_dict(METADATA)
            for cell in notebook.cells:
                cell.metadata = {k: v for k, v in cell.metadata.items() if k in KEPT}
                for output in cell.get("outputs", ()):
                    output.get("data", {}).pop("application/vnd.jupyter.widget-view+json", None)
            part = path.with_name(path.name + ".part")
            nbformat.write(notebook, part)
            os.replace(part, path)
            console.print(f"saved the outputs of {name}")


def notebook_title(notebook: nbformat.NotebookNode) -> str:
    """The first heading, without its marks."""
    lines = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown").splitlines()
    return next((line.lstrip("# ").strip() for line in lines if line.startswith("# ")), "untitled")


def _index_page(runs: list[LessonRun]) -> str:
    total = sum(run.seconds for run in runs)
    rows = "\n".join(
        f'<tr><td>{run.path.name[:2]}</td><td><a href="{run.path.stem}.html">'
        f'{html.escape(run.title)}</a></td><td class="time">{run.seconds:.1f} s</td>'
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
<table><tr><th></th><th>lesson</th><th>time</th><th>result</th></tr>
{rows}
</table>
<footer><p>{datetime.now():%Y-%m-%d %H:%M}, {total:.0f} s in all.</p></footer>
</body></html>
"""
