"""Lessons run from end to end, in a miniature house: pages, the index, failures, kept outputs."""

import asyncio
import html.parser
import io
import json
import os
import queue
import time

import nbformat
import pytest
import zmq
import zmq.asyncio
from jupyter_client.session import Session
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from rich.console import Console
from tiny_notebooks import KERNEL, write_notebook

from lessons.kit.errors import LessonsError
from lessons.kit.notebooks import executing
from lessons.kit.notebooks.executing import WakefulChannel, execute
from lessons.kit.notebooks.reading import METADATA
from lessons.kit.notebooks.running import (
    find_lessons,
    notebook_title,
    run_lessons,
    save_outputs,
)

PICTURE = """import base64, os, struct, sys, time, zlib
from IPython.display import display
from ipywidgets import interact


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def draw(sheep=1):
    head, rows = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0), zlib.compress(bytes([0, sheep]))
    parts = chunk(b"IHDR", head), chunk(b"IDAT", rows), chunk(b"IEND", b"")
    picture = base64.b64encode(bytes.fromhex("89504e470d0a1a0a") + b"".join(parts)).decode()
    metadata = {"image/png": {"alt": f'{sheep} sheep & one <b>"wolf"</b>', "width": 43}}
    display({"image/png": picture}, metadata=metadata, raw=True)


draw(2)"""
GOOD = [
    "# Sheep & <wolves>\n\nYou count.",
    PICTURE,
    "interact(draw, sheep=(0, 5));",
    "print('one')\nsys.stdout.flush()\ntime.sleep(0.3)\nprint('two')\nos.path.basename(os.getcwd())",
]
BAD = [
    "# The wolf\n\nYou fail.",
    "40 + 2",
    "raise ValueError('masks are [h, w], not [/b] <w>\\nand more')",
    "print('after the wolf')",
]


def write(root, name, cells):
    return write_notebook(root, name, cells, KERNEL)


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def images(page):
    """The attributes of each image of an HTML page."""
    found = []

    class Parser(html.parser.HTMLParser):
        def handle_starttag(self, tag, attributes):
            if tag == "img":
                found.append(dict(attributes))

    Parser().feed(page)
    return found


def quiet():
    return Console(file=io.StringIO(), width=200)


# ---------------------------------------------------------------- run


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """A house whose three lessons were run: the first fails; its root, message and output."""
    root = tmp_path_factory.mktemp("house")
    paths = [
        write(root, "notebooks/01_wolf.ipynb", BAD),
        write(root, "notebooks/02_sheep.ipynb", GOOD),
        write(root, "notebooks/03_dead.ipynb", ["# D\n\nIt dies.", "import os\nos._exit(3)"]),
    ]
    before = [path.read_bytes() for path in paths]
    console = quiet()
    start = time.perf_counter()
    with pytest.raises(LessonsError) as error:
        run_lessons(root, console=console)
    assert time.perf_counter() - start < 120
    assert [path.read_bytes() for path in paths] == before
    return root, str(error.value), console.file.getvalue()


def test_a_failing_lesson_is_named_and_does_not_stop_the_others(ran):
    root, message, printed = ran
    assert message == "2 of 3 lessons failed: 01_wolf, 03_dead"
    assert (
        "failed 01_wolf: cell 3 (cell-2): ValueError: masks are [h, w], not [/b] <w>\n" in printed
    )
    assert "3 lessons in" in printed and "build/index.html" in printed
    assert (root / "build/02_sheep.html").exists()


def test_an_executed_notebook_has_its_outputs(ran):
    root, _, _ = ran
    cells = read(root / "build/02_sheep.ipynb").cells
    assert [cell.get("execution_count") for cell in cells] == [None, 1, 2, 3]
    assert cells[1].outputs[0].metadata["image/png"]["width"] == 43
    assert "interactive" in cells[2].outputs[0].data["text/plain"]
    assert cells[3].outputs[-1].data["text/plain"] == "'notebooks'"  # where it works


def test_prints_of_one_cell_are_one_output_at_any_pace(ran):
    root, _, _ = ran
    outputs = read(root / "build/02_sheep.ipynb").cells[3].outputs
    assert [output.get("text") for output in outputs] == ["one\ntwo\n", None]


def test_a_page_has_its_title_and_the_pictures_alternative_text(ran):
    root, _, _ = ran
    page = (root / "build/02_sheep.html").read_text(encoding="utf-8")
    assert "<title>Sheep &amp; &lt;wolves&gt;</title>" in page
    (image,) = images(page)
    assert image["alt"] == '2 sheep & one <b>"wolf"</b>' and image["width"] == "43"
    assert image["src"].startswith("data:image/png;base64,iVBOR")


def test_a_page_holds_the_picture_of_a_widget(ran):
    root, _, _ = ran
    page = (root / "build/02_sheep.html").read_text(encoding="utf-8")
    start = page.index('<script type="application/vnd.jupyter.widget-state+json">')
    state = json.loads(page[page.index("{", start) : page.index("</script>", start)])
    models = state["state"].values()
    assert {"IntSliderModel", "OutputModel"} <= {model["model_name"] for model in models}
    (output,) = [model for model in models if model["model_name"] == "OutputModel"]
    (picture,) = output["state"]["outputs"]
    assert picture["metadata"]["image/png"]["alt"].startswith("1 sheep")


def test_the_page_of_a_failed_lesson_ends_at_the_failing_cell(ran):
    root, _, _ = ran
    cells = read(root / "build/01_wolf.ipynb").cells
    assert cells[1].outputs[0].data["text/plain"] == "42"
    assert cells[2].outputs[0].ename == "ValueError" and cells[3].outputs == []
    assert "ValueError" in (root / "build/01_wolf.html").read_text(encoding="utf-8")


def test_the_index_has_number_title_time_and_result(ran):
    root, _, _ = ran
    index = (root / "build/index.html").read_text(encoding="utf-8")
    rows = [line for line in index.splitlines() if line.startswith("<tr><td>")]
    wolf, sheep, dead = rows
    assert '<td>01</td><td><a href="01_wolf.html">The wolf</a>' in wolf
    assert (
        '<td class="failed">cell 3 (cell-2): ValueError: masks are [h, w], not [/b] &lt;w&gt;</td>'
        in wolf
    )
    assert '<td>02</td><td><a href="02_sheep.html">Sheep &amp; &lt;wolves&gt;</a>' in sheep
    assert "<td>ran</td>" in sheep and "failed" not in sheep
    seconds = float(sheep.split('<td class="time">')[1].split(" s<")[0])
    assert 0.3 < seconds < 120
    assert "cell 2 (cell-1): the kernel died" in dead and "03_dead.log" in dead


def test_a_log_stays_only_where_a_lesson_failed(ran):
    root, _, _ = ran
    logs = sorted(path.name for path in (root / "build").glob("*.log"))
    assert logs == ["01_wolf.log", "03_dead.log"]


def test_only_the_lessons_that_are_asked_for_are_run(tmp_path):
    for name in ("01_one", "02_two"):
        write(tmp_path, f"notebooks/{name}.ipynb", ["# One\n\nA lesson.", "1 + 1"])
    assert run_lessons(tmp_path, ["2"], quiet()) == tmp_path / "build/index.html"
    built = sorted(path.name for path in (tmp_path / "build").iterdir())
    assert built == [".lock", "02_two.html", "02_two.ipynb", "index.html", "runs.json"]
    assert "01_one" not in (tmp_path / "build/index.html").read_text()


def test_lessons_are_found_by_number(tmp_path):
    for name in ("02_b", "01_a", "10_c", "draft"):
        write(tmp_path, f"notebooks/{name}.ipynb", ["1"])
    write(tmp_path, "notebooks/homework/03_d.ipynb", ["1"])

    def names(*numbers):
        return [path.stem for path in find_lessons(tmp_path, numbers)]

    assert names() == ["01_a", "02_b", "10_c"]
    assert names("10", "1") == ["10_c", "01_a"]
    for number in ("3", "99", "x", "010"):
        with pytest.raises(LessonsError) as error:
            names("1", number)
        assert str(error.value) == f"there is no lesson {number}, there are 01, 02, 10"


def test_nothing_is_run_where_a_number_is_unknown(tmp_path):
    write(tmp_path, "notebooks/01_a.ipynb", ["1"])
    for go in (run_lessons, save_outputs):
        with pytest.raises(LessonsError, match="no lesson 99, there are 01"):
            go(tmp_path, ["1", "99"], quiet())
    assert list((tmp_path / "build").glob("*.ipynb")) == []


def test_a_title_is_the_first_heading():
    def title(*texts):
        return notebook_title(new_notebook(cells=[new_markdown_cell(text) for text in texts]))

    assert title("An **aside**.", "## Small\n# Large\n\n# Larger") == "Large"
    assert title("Nothing.") == "untitled"
    code = new_code_cell("# no title")
    assert notebook_title(new_notebook(cells=[code, new_markdown_cell("# A title")])) == "A title"


def test_a_cell_that_takes_too_long_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr(executing, "CELL_SECONDS", 1)
    path = write(tmp_path, "notebooks/01_slow.ipynb", ["1", "import time\ntime.sleep(300)"])
    start = time.perf_counter()
    error = execute(read(path), path.parent, tmp_path / "log")
    assert error == "cell 2 (cell-1): took longer than 1 s"
    assert time.perf_counter() - start < 60


HELPER = """def positive(x):
    assert (
        x
        > 0
    )


def first(row):
    return next(iter(row))
"""
WRONG = {
    "a bare assertion": ("ap50 = 0.3\nassert ap50 >= 0.9", "AssertionError: assert ap50 >= 0.9"),
    "with a message": ("assert 1 > 2, 'one is\\nless'", "AssertionError: one is"),
    "over many lines": (
        "x = [1, -1]\nassert all(  # of them\n    y > 0\n    for y in x\n)",
        "AssertionError: assert all((y > 0 for y in x))",
    ),
    "two in a line": ("for i in (4, 3): assert i > 3; print(i)", "AssertionError: assert i > 3"),
    "in a block": (
        "if True:\n    if 1:\n        assert 'a' == \"b\"",
        "AssertionError: assert 'a' == \"b\"",
    ),
    "in a function of a cell above": ("late(2)", "AssertionError: assert x > 3"),
    "in a module": ("import helper\nhelper.positive(-1)", "AssertionError: assert x > 0"),
    "behind a magic": ("%matplotlib inline\nassert 1 > 2", "AssertionError: assert 1 > 2"),
    "no message": ("import helper\nhelper.first([])", "StopIteration: return next(iter(row))"),
    "a class alone": ("raise KeyError", "KeyError: raise KeyError"),
    "a message that begins late": (
        "raise ValueError('\\n\\n  wrong: 3\\n4')",
        "ValueError: wrong: 3",
    ),
    "in colours": ("raise ValueError('\\x1b[31mred\\x1b[0m')", "ValueError: red"),
    "no Python": ("def f(:", "SyntaxError: invalid syntax"),
    "no traceback": ("%xmode Minimal\nassert 1 > 2", "AssertionError"),
}


@pytest.mark.parametrize("text, message", WRONG.values(), ids=WRONG.keys())
def test_what_is_wrong_is_said_in_one_line_with_its_cell(tmp_path, text, message):
    (tmp_path / "helper.py").write_text(HELPER)
    above = "def late(x):\n    y = x\n    assert x > 3\n    return y"
    path = write(tmp_path, "01_wolf.ipynb", ["# Wrong\n\nIt is.", above, text, "1 + 1"])
    notebook = read(path)
    error = execute(notebook, tmp_path, tmp_path / "log")
    assert error.startswith(f"cell 3 (cell-2): {message}") and "\n" not in error
    if message == "AssertionError":
        assert error == "cell 3 (cell-2): AssertionError"
    assert notebook.cells[2].outputs[-1].output_type == "error" and notebook.cells[3].outputs == []


def test_the_last_good_run_is_not_shown_behind_a_cell_that_fails(tmp_path):
    path = write(
        tmp_path, "notebooks/01_wolf.ipynb", ["print('before')", "1 / 0", "print('after')"]
    )
    notebook = read(path)
    for cell in notebook.cells:
        cell.outputs = [new_output("stream", text="of the last run\n")]
        cell.execution_count = 7
    nbformat.write(notebook, path)
    with pytest.raises(LessonsError):
        run_lessons(tmp_path, console=quiet())
    cells = read(tmp_path / "build/01_wolf.ipynb").cells
    assert (
        cells[0].outputs[0].text == "before\n" and cells[1].outputs[0].ename == "ZeroDivisionError"
    )
    assert cells[2].outputs == [] and cells[2].execution_count is None
    assert "of the last run" not in (tmp_path / "build/01_wolf.html").read_text(encoding="utf-8")


# ---------------------------------------------------------------- save


def saved(root):
    """What may not change but by saving: every file below the notebooks and the solutions."""
    folders = (root / "notebooks", root / "solutions")
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*.*")}


def test_outputs_are_kept_without_what_differs_from_run_to_run(tmp_path):
    path = write(tmp_path, "notebooks/01_sheep.ipynb", GOOD)
    solution = write(tmp_path, "solutions/01_sheep.ipynb", ["# Solved\n\nIt is.", "6 * 7"])
    notebook = read(path)
    notebook.cells[2].outputs = [new_output("stream", text="stale")]
    notebook.cells[3].metadata["tags"] = ["nbval-ignore-output"]
    notebook.metadata["language_info"] = {"name": "python", "version": "3.8.1"}
    notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {}}}
    nbformat.write(notebook, path)
    save_outputs(tmp_path, console=quiet())

    kept = read(path)
    assert [cell.id for cell in kept.cells] == [f"cell-{i}" for i in range(4)]
    assert [cell.source for cell in kept.cells] == GOOD
    assert kept.cells[3].metadata == {"tags": ["nbval-ignore-output"]}
    assert all("execution" not in cell.metadata for cell in kept.cells)
    assert dict(kept.metadata) == {
        "kernelspec": notebook.metadata.kernelspec,
        "language_info": {"name": "python"},
    }
    assert list(kept.cells[1].outputs[0].data) == ["image/png"]
    (widget,) = kept.cells[2].outputs
    assert list(widget.data) == ["text/plain"] and "interactive" in widget.data["text/plain"]
    assert kept.cells[3].outputs[0].text == "one\ntwo\n"
    assert str(tmp_path) not in path.read_text() and "model_id" not in path.read_text()
    assert read(solution).cells[1].outputs[0].data["text/plain"] == "42"

    before = saved(tmp_path)
    save_outputs(tmp_path, ["1"], quiet())
    assert saved(tmp_path) == before  # no half-written file beside them either


def test_what_an_editor_saved_is_brought_into_form(tmp_path):
    """As Colab does it: nbformat 4.0, no ids, metadata of its own, CRLF."""
    cells = [
        {
            "cell_type": "markdown",
            "metadata": {"id": "T_1"},
            "source": ["# Sheep\r\n", "\r\n", "So."],
        },
        {
            "cell_type": "code",
            "metadata": {"id": "C_1", "outputId": "x", "tags": ["nbval-skip"]},
            "source": "x = 6\r\nx * 7",
            "outputs": [{"output_type": "stream", "text": "not of nbformat"}],
            "execution_count": 9,
        },
        {"cell_type": "code", "metadata": {}, "source": "x", "execution_count": None},
    ]
    metadata = {
        "colab": {"provenance": []},
        "kernelspec": {"name": "python3"},
        "accelerator": "GPU",
    }
    path = tmp_path / "notebooks/01_sheep.ipynb"
    path.parent.mkdir()
    notebook = {"nbformat": 4, "nbformat_minor": 0, "metadata": metadata, "cells": cells}
    path.write_text(json.dumps(notebook))
    with pytest.raises(LessonsError, match=r"cell 2 is not as nbformat 4.5 wants it: 'name' is"):
        save_outputs(tmp_path, console=quiet())
    cells[1]["outputs"] = []
    path.write_text(json.dumps(notebook))
    save_outputs(tmp_path, console=quiet())

    kept = read(path)
    assert (kept.nbformat, kept.nbformat_minor, kept.metadata) == (4, 5, METADATA)
    assert [cell.id for cell in kept.cells] == ["T_1", "C_1", "x"]
    assert [cell.source for cell in kept.cells] == ["# Sheep\n\nSo.", "x = 6\nx * 7", "x"]
    assert [cell.metadata for cell in kept.cells] == [{}, {"tags": ["nbval-skip"]}, {}]
    assert kept.cells[2].outputs[0].data["text/plain"] == "6"


@pytest.mark.parametrize(
    "cells, message",
    [
        (BAD, "cell 3 (cell-2): ValueError: masks are [h, w], not [/b] <w>"),
        (["print(1)", "import os\nos._exit(1)"], "cell 2 (cell-1): the kernel died"),
        (["ap50 = 0.3", "assert ap50 >= 0.9"], "cell 2 (cell-1): AssertionError: assert ap50"),
    ],
    ids=["an error", "a dead kernel", "a bare assertion"],
)
def test_a_notebook_that_fails_is_left_as_it_was(tmp_path, cells, message):
    path = write(tmp_path, "notebooks/01_wolf.ipynb", cells)
    path.write_bytes(path.read_bytes() + b"\n \n")  # as an editor may leave it
    before = saved(tmp_path)
    with pytest.raises(LessonsError) as error:
        save_outputs(tmp_path, console=quiet())
    assert str(error.value).startswith("notebooks/01_wolf.ipynb failed and is left as it was: ")
    assert message in str(error.value)
    assert saved(tmp_path) == before


def test_a_solution_that_fails_is_named_as_one(tmp_path):
    write(tmp_path, "notebooks/01_wolf.ipynb", ["1 + 1"])
    path = write(tmp_path, "solutions/01_wolf.ipynb", ["1 / 0"])
    before = path.read_bytes()
    with pytest.raises(LessonsError, match=r"^solutions/01_wolf.ipynb failed .*ZeroDivisionError"):
        save_outputs(tmp_path, console=quiet())
    assert path.read_bytes() == before


# ---------------------------------------------------------------- the channel that wakes


class Line:
    """A kernel's end of a shell channel and ours, on this machine."""

    def __init__(self):
        self.context = zmq.Context()
        self.session = Session()
        self.kernel = self.context.socket(zmq.ROUTER)
        port = self.kernel.bind_to_random_port("tcp://127.0.0.1")
        self.ours = zmq.asyncio.Context(self.context).socket(zmq.DEALER)
        self.ours.connect(f"tcp://127.0.0.1:{port}")
        self.channel = WakefulChannel(self.ours, self.session)
        self.channel.send(self.session.msg("hello"))
        self.us = self.kernel.recv_multipart()[0]

    def reply(self):
        self.session.send(self.kernel, "execute_reply", ident=self.us)

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        self.ours.close(linger=0)
        self.kernel.close(linger=0)
        self.context.term()


def test_a_reply_that_arrives_while_a_widget_answers_is_heard():
    async def talk():
        async with Line() as line:
            waiting = asyncio.create_task(line.channel.get_msg(timeout=60))
            await asyncio.sleep(0.1)  # until it sleeps
            line.reply()
            time.sleep(0.1)  # the reply arrives while Python is busy
            line.channel.send(line.session.msg("comm_msg"))  # this takes its wake-up call
            start = time.monotonic()
            message = await waiting
            return message["msg_type"], time.monotonic() - start

    kind, seconds = asyncio.run(talk())
    assert kind == "execute_reply"
    assert seconds < 20  # half a second where the machine is not busy, else sixty


def test_a_reply_that_is_late_is_waited_for():
    async def talk(timeout):
        async with Line() as line:
            asyncio.get_running_loop().call_later(0.8, line.reply)  # later than one look
            return (await line.channel.get_msg(timeout))["msg_type"]

    assert asyncio.run(talk(None)) == "execute_reply"
    assert asyncio.run(talk(60)) == "execute_reply"


@pytest.mark.parametrize("timeout", [0, 0.2, 0.8])
def test_a_reply_that_never_comes_is_waited_for_as_long_as_was_said(timeout):
    async def talk():
        async with Line() as line:
            start = time.monotonic()
            with pytest.raises(queue.Empty):
                await line.channel.get_msg(timeout)
            return time.monotonic() - start

    seconds = asyncio.run(talk())
    assert 0.9 * timeout <= seconds < timeout + 10


def test_lessons_are_executed_over_that_channel(tmp_path, monkeypatch):
    asked = []
    get_msg = WakefulChannel.get_msg

    async def counted(self, timeout=None):
        asked.append(timeout)
        return await get_msg(self, timeout)

    monkeypatch.setattr(WakefulChannel, "get_msg", counted)
    notebook = new_notebook(cells=[new_code_cell("1 + 1")])
    assert execute(notebook, tmp_path, tmp_path / "log") is None
    assert asked and notebook.cells[0].outputs[0].data["text/plain"] == "2"


@pytest.mark.parametrize("last", ["1 + 1", "1 / 0"])
def test_no_kernel_is_left_behind(tmp_path, last):
    """Each keeps a gigabyte: those of a whole course would fill a machine."""
    path = write_notebook(
        tmp_path, "01_sheep.ipynb", ["import os\nprint(os.getpid())", last], KERNEL
    )
    notebook = nbformat.read(path, as_version=4)
    error = execute(notebook, tmp_path, tmp_path / "log")
    assert (error is None) == (last == "1 + 1")
    with pytest.raises(ProcessLookupError):
        os.kill(int(notebook.cells[0].outputs[0].text), 0)
