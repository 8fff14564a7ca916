"""The command line: what each command does, and one line and exit code 1 where it cannot."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import nbformat
import pytest
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lessons.kit import cli, doctor

COMMANDS = ("run", "lab", "start", "build", "train", "evaluate", "results", "download", "doctor")


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
    (tmp_path / "notebooks/homework/01_sheep.ipynb").write_text("the first homework")
    (tmp_path / "notebooks/homework/03_wolf.ipynb").write_text("the third homework")
    monkeypatch.setattr(cli, "ROOT", tmp_path)
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
    for arguments in (["run"], ["lab"], ["start", "01"], ["build"], ["doctor"]):
        code, _, errors = lessons(*arguments)
        assert (code, errors) == (1, f"lessons: {message}\n")


def test_a_package_without_its_notebooks_is_explained(lessons, tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "ROOT", tmp_path)
    code, _, errors = lessons("build")
    assert code == 1
    assert f"{tmp_path} has no notebooks/" in errors and "pip install -e ." in errors


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
            running, name, lambda root, numbers, console, name=name: calls.append((name, numbers))
        )
    for arguments in (["run"], ["run", "01", "3"], ["run", "--save", "01"]):
        code, printed, _ = lessons(*arguments)
        assert code == 0 and printed.startswith("lessons run took 0 s")
    expected = [("run_lessons", ()), ("run_lessons", ["01", "3"]), ("save_outputs", ["01"])]
    assert calls == expected


def test_a_notebook_that_cannot_be_read_cannot_be_run(lessons, house):
    (house / "notebooks/02_wolf.ipynb").write_text('{"cells": [')
    for options in ([], ["--save"]):
        code, _, errors = lessons("run", "02", *options)
        assert code == 1 and errors.count("\n") == 1
        assert "notebooks/02_wolf.ipynb is not a notebook that can be read" in errors


def test_lab_opens_the_first_lesson_and_passes_on_the_exit_code(lessons, house, monkeypatch):
    calls = []

    def call(command, cwd):
        calls.append((command, cwd))
        return 7

    monkeypatch.setattr(cli.subprocess, "call", call)
    assert lessons("lab")[0] == 7
    first = "notebooks/00_start_here.ipynb"
    assert calls == [([sys.executable, "-m", "jupyter", "lab", first], house)]


def test_start_copies_the_homework_once_and_leaves_the_work_as_it_is(lessons, house):
    work = house / "my/01_sheep.ipynb"
    code, printed, errors = lessons("start", "01")
    assert (code, errors) == (0, "") and "my/01_sheep.ipynb" in printed
    assert work.read_text() == "the first homework"
    work.write_text("my own work")
    for number in ("01", "1"):
        code, _, errors = lessons("start", number)
        assert code == 1 and "my/01_sheep.ipynb exists already and is left as it is" in errors
    assert work.read_text() == "my own work"
    assert lessons("start", "3")[0] == 0
    names = sorted(path.name for path in (house / "my").iterdir())
    assert names == ["01_sheep.ipynb", "03_wolf.ipynb"]


@pytest.mark.parametrize("number", ["02", "2", "99", "sheep", "../01"])
def test_homework_that_does_not_exist_is_answered_with_what_there_is(lessons, house, number):
    code, _, errors = lessons("start", number)
    assert (code, errors) == (1, f"lessons: lesson {number} has no homework, there is 01, 03\n")
    assert not (house / "my").exists()


def test_where_there_is_no_homework_start_says_so(lessons, house):
    for path in (house / "notebooks/homework").iterdir():
        path.unlink()
    (house / "notebooks/homework").rmdir()
    code, _, errors = lessons("start", "01")
    assert (code, errors) == (1, "lessons: lesson 01 has no homework, there is none\n")


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
    assert "All that the lessons need is here." in printed


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
