"""The command line: what each command does, and one line and exit code 1 where it cannot."""

import json
import os
import re
import subprocess
import sys
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import unquote

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lessons.kit import cli, doctor, places
from lessons.kit.errors import LessonsError
from lessons.kit.notebooks import copies
from lessons.kit.training import recorded

COMMANDS = (
    "run", "lab", "start", "build", "train", "record", "evaluate", "mine", "results", "download",
    "doctor",
)  # fmt: skip


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A root with a lesson and its homework, which the command line takes for the clone's."""
    cells = [
        new_markdown_cell("# Sheep\n\nYou count.", id="title"),
        new_code_cell("#| export\ndef count(n):\n    return n", id="count"),
    ]
    for folder in ("notebooks", "notebooks/homework", "solutions"):
        (tmp_path / folder).mkdir()
    for folder in ("notebooks", "solutions"):
        nbformat.write(new_notebook(cells=cells), tmp_path / folder / "01_sheep.ipynb")
    for name in ("01_sheep", "03_wolf"):
        homework = new_notebook(cells=[new_markdown_cell(f"# Homework of {name}", id="title")])
        nbformat.write(homework, tmp_path / f"notebooks/homework/{name}.ipynb")
    monkeypatch.delenv("LESSONS_MY")
    monkeypatch.setattr(places, "ROOT", tmp_path)
    return tmp_path


def files(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def in_a_process(code, *arguments, **environment):
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=os.environ | environment
    )


# ---------------------------------------------------------------- help


LOADED = """
import json, sys
from lessons.kit import cli
try:
    cli.main()
except SystemExit:
    pass
print("LOADED", json.dumps(sorted({name.split(".")[0] for name in sys.modules})))
"""


def test_help_lists_the_commands_and_loads_nothing_heavy():
    run = in_a_process(LOADED, "--help", COLUMNS="120", TERM="dumb")
    printed, loaded = run.stdout.split("LOADED")
    for command in COMMANDS:
        assert f" {command} " in printed
    assert "Execute lessons into build/" in printed
    heavy = {"torch", "torchvision", "numpy", "matplotlib", "nbclient", "nbconvert", "scipy"}
    assert heavy & set(json.loads(loaded)) == set() and "typer" in json.loads(loaded)


def test_no_command_shows_the_help(lessons):
    code, printed, errors = lessons()
    assert code != 0
    for command in COMMANDS:
        assert f" {command} " in printed + errors


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(lessons, command):
    code, printed, _ = lessons(command, "--help")
    assert code == 0 and f"lessons {command}" in printed


# ---------------------------------------------------------------- errors


def test_an_error_is_printed_as_it_is_on_one_line(lessons, monkeypatch):
    message = "a file [bold] of [/red] " + 30 * "many words "

    def fail():
        raise cli.LessonsError(message)

    monkeypatch.setattr(cli, "course_root", fail)
    for arguments in (["run"], ["lab"], ["start", "01"], ["build"], ["record"]):
        code, _, errors = lessons(*arguments)
        assert (code, errors) == (1, f"lessons: {message}\n")


def test_a_package_without_its_notebooks_is_explained(lessons, tmp_path, monkeypatch):
    monkeypatch.setattr(places, "ROOT", tmp_path)
    code, _, errors = lessons("build")
    assert code == 1
    assert (
        f"{tmp_path} has no notebooks/" in errors
        and 'pip install -c constraints.txt -e ".[course]"' in errors
    )


# ---------------------------------------------------------------- build


def test_the_package_is_built_from_the_notebooks(root):
    command = [sys.executable, "-m", "lessons", "build", "--check"]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert (run.returncode, run.stderr) == (0, "")
    assert "everything built is up to date" in run.stdout


def test_build_names_what_it_built_and_check_what_is_stale(lessons, house):
    (house / "notebooks/homework/03_wolf.ipynb").unlink()
    before = files(house)
    code, _, errors = lessons("build", "--check")
    stale = "lessons/homework/answers/sheep.py, lessons/sheep.py, notebooks/homework/01_sheep.ipynb"
    assert (code, errors) == (1, f"lessons: stale, run lessons build: {stale}\n")
    assert files(house) == before
    code, printed, _ = lessons("build")
    assert code == 0 and " ".join(printed.split()) == f"built {stale}"
    assert "def count(n):" in (house / "lessons/sheep.py").read_text()
    assert lessons("build", "--check")[0] == 0


@pytest.mark.parametrize(
    "text",
    ["", '{"cells": [', "{}", "[]", "{\n'cells': []\n}\n", '{"nbformat": 4, "cells": []}'],
    ids=["empty", "cut short", "no cells", "a list", "no JSON", "no metadata"],
)
def test_a_notebook_that_does_not_parse_is_one_line_and_nothing_is_written(lessons, house, text):
    (house / "notebooks/02_wolf.ipynb").write_text(text)
    before = files(house)
    code, printed, errors = lessons("build")
    assert code == 1 and printed == ""
    assert errors.count("\n") == 1 and "notebooks/02_wolf.ipynb is not a notebook" in errors
    assert files(house) == before


# ---------------------------------------------------------------- run, lab, start


def test_a_lesson_that_does_not_exist_cannot_be_run(lessons, house):
    for options in ([], ["--save"]):
        code, _, errors = lessons("run", "99", *options)
        assert (code, errors) == (1, "lessons: there is no lesson 99, there are 01\n")


def test_run_runs_what_it_is_told_and_says_how_long_it_took(lessons, house, monkeypatch):
    from lessons.kit.notebooks import running

    calls = []
    for name in ("run_lessons", "save_outputs"):
        monkeypatch.setattr(
            running, name, lambda *given, name=name: calls.append((name, *given[1:2], given[3]))
        )
    for arguments in (["run"], ["run", "01", "3", "--jobs", "3"], ["run", "--save", "01"]):
        code, printed, _ = lessons(*arguments)
        assert code == 0 and printed.startswith("lessons run took 0 s")
    cores = os.cpu_count()
    assert calls == [
        ("run_lessons", (), cores),
        ("run_lessons", ["01", "3"], 3),
        ("save_outputs", ["01"], cores),
    ]


def test_a_notebook_that_cannot_be_read_cannot_be_run(lessons, house):
    (house / "notebooks/02_wolf.ipynb").write_text('{"cells": [')
    for options in ([], ["--save"]):
        code, _, errors = lessons("run", "02", *options)
        assert code == 1 and errors.count("\n") == 1
        assert "notebooks/02_wolf.ipynb is not a notebook that can be read" in errors


@pytest.fixture
def lab(house, monkeypatch):
    """The calls of `jupyter lab`, each its options and what it was told of my/; it ends with 7."""
    calls = []

    def call(command, cwd):
        assert command[:4] == [sys.executable, "-m", "jupyter", "lab"] and cwd == house
        options = dict(option.removeprefix("--").split("=") for option in command[4:])
        calls.append((options, os.environ.get("LESSONS_MY")))
        return 7

    monkeypatch.setattr(cli.subprocess, "call", call)
    return calls


def test_lab_starts_the_first_lesson_and_passes_on_the_exit_code(lessons, house, lab):
    first = new_notebook(cells=[new_markdown_cell("# Start", id="title")])
    nbformat.write(first, house / "notebooks/00_start_here.ipynb")
    code, printed, _ = lessons("lab")
    assert code == 7 and printed == "my/00_start_here.ipynb: the lesson\n"
    opened = {
        "ServerApp.root_dir": str(house),
        "LabApp.default_url": "/lab/tree/my/00_start_here.ipynb",
    }
    assert lab == [(opened, None)]


def test_lab_opens_the_folder_of_what_has_been_started(lessons, house, lab):
    lessons("start", "01")
    before = files(house / "my")
    assert lessons("lab")[:2] == (7, "")
    assert lab[0][0]["LabApp.default_url"] == "/lab/tree/my"
    assert files(house / "my") == before


def test_lab_finds_my_folder_elsewhere_and_tells_the_kernels(
    lessons, house, lab, monkeypatch, tmp_path_factory
):
    """Named from where the command was started, and served with the course, for the links."""
    here = tmp_path_factory.mktemp("a place")
    monkeypatch.chdir(here)
    monkeypatch.setenv("LESSONS_MY", "my work")
    lessons("start", "01")
    assert lessons("lab")[0] == 7
    options, told = lab[0]
    assert told == str(here / "my work")
    page = unquote(options["LabApp.default_url"].removeprefix("/lab/tree/"))
    assert Path(options["ServerApp.root_dir"], page) == here / "my work"
    assert house.is_relative_to(options["ServerApp.root_dir"])


# ---------------------------------------------------------------- start


def test_start_copies_lesson_and_homework_once_and_leaves_the_work_as_it_is(lessons, house):
    lesson, homework = house / "my/01_sheep.ipynb", house / "my/01_sheep_homework.ipynb"
    code, printed, errors = lessons("start", "01")
    assert (code, errors) == (0, "")
    assert printed.splitlines() == [
        "my/01_sheep.ipynb: the lesson",
        "my/01_sheep_homework.ipynb: the homework",
        "Open them with lessons lab (or make lab).",
    ]
    assert "def count(n)" in lesson.read_text() and "Homework of 01" in homework.read_text()
    homework.write_text("my own work")
    before = files(house / "my")
    for number in ("01", "1"):
        code, printed, errors = lessons("start", number)
        assert (code, printed) == (1, "")
        assert errors == (
            "lessons: 01_sheep.ipynb and 01_sheep_homework.ipynb are in my already: go on there, "
            "or begin anew and keep what you have beside it (--again)\n"
        )
    assert files(house / "my") == before

    lesson.unlink()
    code, printed, _ = lessons("start", "01")
    assert code == 0 and printed.splitlines()[:2] == [
        "my/01_sheep.ipynb: the lesson",
        "my/01_sheep_homework.ipynb: is there already and is left as it is",
    ]
    assert homework.read_text() == "my own work" and lesson.exists()


def test_start_again_keeps_the_work_beside_the_new_copy(lessons, house):
    today = date.today().isoformat()
    lessons("start", "01")
    fresh = files(house / "my")
    for number, suffix in enumerate(("", "_2")):
        for path in fresh:
            path.write_text(f"my work {number}")
        code, printed, _ = lessons("start", "01", "--again")
        assert code == 0
        for name in ("01_sheep", "01_sheep_homework"):
            aside = f"{name}_{today}{suffix}.ipynb"
            assert f"; what you had is now {aside}\n" in printed
            assert (house / "my" / aside).read_text() == f"my work {number}"
    after = files(house / "my")
    assert {path: after[path] for path in fresh} == fresh and len(after) == 6


def test_a_lesson_without_homework_can_be_started(lessons, house):
    (house / "notebooks/homework/01_sheep.ipynb").unlink()
    code, printed, _ = lessons("start", "1")
    assert code == 0 and printed.splitlines()[0] == "my/01_sheep.ipynb: the lesson"
    assert [path.name for path in (house / "my").iterdir()] == ["01_sheep.ipynb"]
    code, _, errors = lessons("start", "1")
    assert code == 1 and errors.startswith("lessons: 01_sheep.ipynb is in my already: ")


@pytest.mark.parametrize("number", ["02", "03", "99", "sheep", "../01"])
def test_a_lesson_that_does_not_exist_is_answered_with_what_there_is(lessons, house, number):
    code, _, errors = lessons("start", number)
    assert (code, errors) == (1, f"lessons: there is no lesson {number}, there are 01\n")
    assert not (house / "my").exists()


def test_a_lesson_that_cannot_be_read_or_written_leaves_everything_as_it_was(
    lessons, house, monkeypatch
):
    lessons("start", "01")
    before = files(house)
    homework = house / "notebooks/homework/01_sheep.ipynb"
    whole = homework.read_text()
    homework.write_text("{")
    code, _, errors = lessons("start", "01", "--again")
    assert code == 1 and "01_sheep.ipynb is not a notebook" in errors
    homework.write_text(whole)
    assert files(house) == before

    def full(path, *arguments, **keywords):
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(LessonsError, match="cannot be written: no space"):
        copies.start(house, "01", house / "my", again=True)
    assert files(house) == before


def test_a_copy_has_no_outputs_and_its_links_lead_where_they_led(house):
    """To the user's own copies where there are some, else to the course's notebooks."""
    my, lessons = house / "other" / "my work", house / "notebooks"
    (house / "docs").mkdir()
    (house / "docs/a picture.png").write_bytes(b"")
    text = (
        "# Wolf\n\n[homework](homework/02_wolf.ipynb), [sheep](01_sheep.ipynb#count), "
        "![a](../docs/a%20picture.png), [web](https://example.org/01_sheep.ipynb), [here](#top), "
        '[gone](09_gone.ipynb), <img src="../docs/a%20picture.png" width="3">, $f[x](y)$, '
        "[in words][sheep]\n\n[sheep]: 01_sheep.ipynb"
    )
    code = new_code_cell("1", id="one", execution_count=3, metadata={"tags": ["kept"]})
    code.outputs = [new_output("execute_result", {"text/plain": "1"}, execution_count=3)]
    cells = [new_markdown_cell(text, id="title"), code, new_code_cell("[a](b)", id="two")]
    nbformat.write(new_notebook(cells=cells), lessons / "02_wolf.ipynb")
    back = new_notebook(cells=[new_markdown_cell("[lesson](../02_wolf.ipynb)", id="title")])
    nbformat.write(back, lessons / "homework/02_wolf.ipynb")

    made = copies.start(house, "2", my)
    assert [copy.path.name for copy in made] == ["02_wolf.ipynb", "02_wolf_homework.ipynb"]
    lesson, homework = (nbformat.read(copy.path, 4) for copy in made)
    assert (lesson.cells[1].outputs, lesson.cells[1].execution_count) == ([], None)
    assert lesson.cells[1].metadata == {"tags": ["kept"]} and lesson.cells[2].source == "[a](b)"
    assert [cell.id for cell in lesson.cells] == ["title", "one", "two"]
    assert lesson.cells[0].source == (
        "# Wolf\n\n[homework](02_wolf_homework.ipynb), "
        "[sheep](../../notebooks/01_sheep.ipynb#count), "
        "![a](../../docs/a%20picture.png), [web](https://example.org/01_sheep.ipynb), "
        '[here](#top), [gone](09_gone.ipynb), <img src="../../docs/a%20picture.png" width="3">, '
        "$f[x](y)$, [in words][sheep]\n\n[sheep]: ../../notebooks/01_sheep.ipynb"
    )
    assert homework.cells[0].source == "[lesson](02_wolf.ipynb)"

    copies.start(house, "1", my)
    (lesson, _) = copies.start(house, "2", my, again=True)
    assert "[sheep](01_sheep.ipynb#count)" in nbformat.read(lesson.path, 4).cells[0].source


def test_every_link_of_every_lesson_leads_somewhere_from_its_copy(root, tmp_path):
    for source in sorted((root / "notebooks").glob("*.ipynb")):
        for copy in copies.start(root, source.name[:2], tmp_path):
            notebook = nbformat.read(copy.path, 4)
            prose = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
            for target in re.findall(r"\]\(([^)#\s]+\.(?:ipynb|png))", prose):
                if not target.startswith("http"):
                    assert (tmp_path / unquote(target)).exists(), (copy.path.name, target)
            assert not any(cell.get("outputs") for cell in notebook.cells)


# ---------------------------------------------------------------- where my/ is


def test_one_rule_says_where_my_folder_is(house, monkeypatch, tmp_path_factory):
    here = tmp_path_factory.mktemp("here")
    monkeypatch.chdir(here)
    assert places.my() == house / "my"
    monkeypatch.setenv("LESSONS_MY", "")
    assert places.my() == house / "my"
    for said, found in (("work", here / "work"), ("../x", here.parent / "x"), ("/a/b", "/a/b")):
        monkeypatch.setenv("LESSONS_MY", said)
        assert places.my() == Path(found)
        assert places.my_runs() == Path(found) / "runs"
    monkeypatch.setenv("LESSONS_MY", "~/work")
    assert places.my() == Path.home() / "work"
    monkeypatch.delenv("LESSONS_MY")
    (house / "notebooks").rename(house / "gone")  # the package alone
    assert places.my() == here / "my"


def test_a_kernel_is_told_the_whole_path_of_my_folder(lessons, house, monkeypatch, tmp_path):
    """It starts in another folder than the command."""
    from lessons.kit.notebooks import running

    told = []
    monkeypatch.setattr(
        running, "run_lessons", lambda *arguments: told.append(os.environ["LESSONS_MY"])
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LESSONS_MY", "work")
    lessons("run")
    assert told == [str(tmp_path / "work")]


# ---------------------------------------------------------------- download, doctor


def test_only_known_data_can_be_downloaded(lessons, tmp_path, monkeypatch):
    monkeypatch.setenv("LESSONS_DATA", str(tmp_path))
    code, printed, errors = lessons("download", "nope")
    assert (code, printed) == (1, "")
    assert errors == "lessons: no data set 'nope' to download, choose from nuclei, pennfudan\n"
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_prints_versions_device_and_the_data_that_is_missing(
    lessons, tmp_path, monkeypatch
):
    data = tmp_path / ("a [red] folder" + 200 * "x")
    monkeypatch.setenv("LESSONS_DATA", str(data))
    code, printed, errors = lessons("doctor")
    assert (code, errors) == (0, "")
    (row,) = [line for line in printed.splitlines() if "│ torch " in line]
    assert version("torch") in row and ">=2.11" in row and " ok " in row
    device = "CUDA" if torch.cuda.is_available() else "CPU"
    (line,) = [line for line in printed.splitlines() if line.startswith("device")]
    assert device in line
    for name in ("nuclei", "pennfudan"):
        assert f"{name:<10} not found: lessons download {name}\n" in printed
    assert "coco       not found: optional" in printed
    assert f"looked for in {data}\n" in printed
    assert f"course   {places.ROOT}\n" in printed
    assert f"my       {places.my()}: not there yet, lessons start 00 makes it\n" in printed
    assert "All that the lessons need is here." in printed


def test_the_doctor_knows_my_folder_where_the_package_is_alone(lessons, monkeypatch, tmp_path):
    monkeypatch.setattr(places, "ROOT", tmp_path / "alone")
    monkeypatch.delenv("LESSONS_MY")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my").mkdir()
    code, printed, _ = lessons("doctor")
    assert code == 0 and f"my       {tmp_path / 'my'}\n" in printed
    assert f"course   {tmp_path / 'alone'}: the package alone, without its notebooks\n" in printed


def test_the_doctor_counts_the_data_that_is_there(lessons, nuclei):
    _, printed, _ = lessons("doctor")
    assert f"nuclei     {len(nuclei)} images" in printed


def test_the_doctor_names_a_missing_package_and_how_to_install_it(lessons, monkeypatch):
    def find(name):
        if name in ("accelerate", "nbval"):
            raise PackageNotFoundError(name)
        return "0.1" if name == "typer" else version(name)

    monkeypatch.setattr(doctor, "version", find)
    monkeypatch.setattr(doctor, "Console", None)  # the console of the command line is used
    code, printed, errors = lessons("doctor")
    assert code == 1 and errors.count("\n") == 1
    assert errors.startswith("lessons: missing or broken: accelerate, typer; install with ")
    assert "pip install -c constraints.txt -e ." in errors
    rows = {line.split()[1]: line for line in printed.splitlines() if line.startswith("│")}
    assert "missing" in rows["accelerate"] and "too old" in rows["typer"]
    assert "missing, only" in rows["nbval"] and "ok" in rows["torch"]  # a test's is no error


BREAK = """
import sys
sys.modules[sys.argv.pop(1)] = None
from lessons.kit.cli import main
main()
"""


def test_the_doctor_is_well_where_torch_is_not():
    run = in_a_process(BREAK, "torch", "doctor", COLUMNS="200")
    assert run.returncode == 1
    assert run.stderr.startswith("lessons: missing or broken: torch, ")
    assert run.stderr.count("\n") == 1
    assert "cannot be imported" in run.stdout and "device" not in run.stdout


@pytest.mark.parametrize(
    "error, reason",
    [
        (ImportError(), "cannot be imported: ImportError"),
        (OSError("libcudart.so: [/] cannot open\nmore"), "libcudart.so: [/] cannot open"),
        (RuntimeError("operator torchvision::nms"), "operator torchvision::nms"),
    ],
)
def test_a_package_that_is_there_but_broken_is_named(lessons, monkeypatch, error, reason):
    load = doctor.importlib.import_module

    def import_module(name, package=None):  # others load lazily by it too
        if name == "torchvision":
            raise error
        return load(name, package)

    monkeypatch.setattr(doctor.importlib, "import_module", import_module)
    code, printed, errors = lessons("doctor")
    assert code == 1 and "missing or broken: torchvision;" in errors
    (row,) = [line for line in printed.splitlines() if "│ torchvision " in line]
    assert reason in row and "more" not in row


def test_record_makes_the_runs_that_are_named_or_those_that_are_missing(monkeypatch):
    made = []
    monkeypatch.setattr(recorded, "main", lambda names: made.append(tuple(names)))
    cli.record(["mask_rcnn", "oneformer"])
    cli.record(None)
    assert made == [("mask_rcnn", "oneformer"), ()]
