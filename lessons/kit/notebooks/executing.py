"""One notebook in a kernel of its own, from its first cell to its last or to the one that fails."""

import ast
import math
import os
import queue
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelClient, AsyncKernelManager
from jupyter_client.channels import AsyncZMQSocketChannel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbconvert.filters import strip_ansi
from traitlets import Type

CELL_SECONDS = 600
"""A cell that takes longer has failed (a training cell has two minutes at the quick budget)."""

_MANAGERS: set[AsyncKernelManager] = set()  # of the kernels that are at work


def kill_kernels() -> None:
    """End every kernel that is at work, at once: each notebook ends with a dead kernel."""
    for manager in list(_MANAGERS):
        with suppress(AttributeError, OSError):  # it has not begun, or has ended
            manager.provisioner.process.kill()


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


def execute(
    notebook: nbformat.NotebookNode,
    folder: Path,
    log: Path,
    advance: Callable | None = None,
    threads: int | None = None,
) -> str | None:
    """Run a notebook's cells in place, working in `folder`; return what went wrong, or None.

    What went wrong is one line: the cell by its number (from 1) and id, the exception and its
    message, or, where it has none, the line that raised it (`assert ap50 >= 0.9`). Outputs of
    an earlier run are gone, also behind a cell that failed. What the kernel itself writes to
    its error stream goes into `log`, which is removed after a good run. `threads` are those of
    the kernel's arithmetic, the machine's own choice if None.
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
    environment = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
    error = None
    _MANAGERS.add(client.km)
    with log.open("w", encoding="utf-8") as stream:
        try:
            client.execute(stderr=stream, env=environment)
        except CellExecutionError as failure:
            error = _in_one_line(failure, notebook)
        except CellTimeoutError:
            error = f"took longer than {CELL_SECONDS} s"
        except DeadKernelError:
            error = f"the kernel died (out of memory?), its last words are in {log.name}"
        finally:
            _MANAGERS.discard(client.km)
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
