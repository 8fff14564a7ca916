"""The builder: what it makes of notebooks, that building twice changes nothing, every error."""

import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from tiny_notebooks import write_notebook

from lessons.kit.errors import LessonsError
from lessons.kit.notebooks.authoring import build

TITLE = "# Counting sheep\n\nYou **count** what *stands* on a meadow. More follows."
LESSON = [
    TITLE,
    """#| export
import torch
from os import path

LIMIT = 3


def count(n):
    '''Double it.'''
    return 2 * n""",
    "count(2)",
    """#| export
from os import sep, path
import ast

def use():
    return count(LIMIT), sep, path, ast, torch""",
]
SOLUTION = [
    "# Homework\n\nYou mend it.",
    "from lessons.sheep import count",
    "#| export\ndef mend(n):\n    ### BEGIN SOLUTION\n    return n + 1\n    ### END SOLUTION",
    "mend(3)",
]


@pytest.fixture
def house(tmp_path):
    write_notebook(tmp_path, "notebooks/01_sheep.ipynb", LESSON)
    write_notebook(tmp_path, "solutions/01_sheep.ipynb", SOLUTION)
    return tmp_path


def test_a_module_is_made_of_the_exported_cells(house):
    build(house)
    module = (house / "lessons/sheep.py").read_text()
    first, rest = module.split("\n", 1)
    assert first == "# Built by `lessons build` from notebooks/01_sheep.ipynb: edit that, not this."
    assert rest.startswith(
        '"""Counting sheep.\n\nYou count what stands on a meadow.\n"""\n\nimport ast\n'
    )
    assert "from os import path, sep\n\nimport torch\n\nLIMIT = 3\n\n\ndef count(n):" in module
    assert "count(2)" not in module and "#|" not in module
    names = {}
    exec(module, names)
    assert names["use"]()[0] == 6


def test_what_is_built_is_formatted(house):
    build(house)
    for command in (["check", "--select", "E,F,I"], ["format", "--check"]):
        run = [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "100"]
        assert subprocess.run([*run, house / "lessons/sheep.py"]).returncode == 0


def test_the_homework_has_stubs_and_no_outputs(house):
    path = house / "solutions/01_sheep.ipynb"
    solution = nbformat.read(path, 4)
    solution.cells[3].outputs = [nbformat.v4.new_output("stream", text="4\n")]
    solution.cells[3].execution_count = 3
    solution.cells[2].metadata["nbgrader"] = {"solution": True}
    nbformat.write(solution, path)
    build(house)
    homework = nbformat.read(house / "notebooks/homework/01_sheep.ipynb", 4)
    nbformat.validate(homework)
    assert homework.cells[2].source == 'def mend(n):\n    raise NotImplementedError("your turn")'
    assert homework.cells[3].outputs == [] and homework.cells[3].execution_count is None
    assert "nbgrader" not in homework.cells[2].metadata
    assert [cell.id for cell in homework.cells] == [cell.id for cell in solution.cells]
    answers = (house / "lessons/homework/answers/sheep.py").read_text()
    assert "return n + 1" in answers and "###" not in answers and "mend(3)" not in answers


def test_building_twice_changes_nothing(house):
    assert len(build(house)) == 3
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in house.rglob("*.*") if p.is_file()}
    assert build(house) == []
    assert before == {
        p: (p.read_bytes(), p.stat().st_mtime_ns) for p in house.rglob("*.*") if p.is_file()
    }


def test_check_names_what_is_stale_and_changes_nothing(house):
    build(house)
    assert build(house, check=True) == []
    module = house / "lessons/sheep.py"
    module.write_text(module.read_text().replace("2 * n", "3 * n"))
    assert build(house, check=True) == [module]
    assert "3 * n" in module.read_text()
    assert build(house) == [module] and "2 * n" in module.read_text()


def test_a_lesson_that_exports_nothing_builds_nothing(tmp_path):
    write_notebook(tmp_path, "notebooks/00_start.ipynb", ["# Start\n\nYou look around.", "1 + 1"])
    assert build(tmp_path) == []


EXPORTS = "#| export\ndef f():\n    return 1"
WRONG_LESSONS = {
    "a magic": (["#| export\n%timeit 1"], "cell 2 (cell-1), has a magic in line 2: %timeit 1"),
    "a shell line": (["#| export\nx = 1\n!ls"], "has a magic in line 3: !ls"),
    "no Python": (["#| export\ndef f(:\n    pass"], "does not parse, line 2"),
    "twice": ([EXPORTS, EXPORTS], "cell 3 (cell-2), exports f again, it stands in"),
    "a name and a value": ([EXPORTS, "#| export\nf = 2"], "exports f again"),
    "no end": (["#| export\n### BEGIN SOLUTION\nx = 1"], "### BEGIN SOLUTION without its partner"),
}


@pytest.mark.parametrize("cells, message", WRONG_LESSONS.values(), ids=WRONG_LESSONS.keys())
def test_a_wrong_lesson_is_named_and_nothing_is_written(house, cells, message):
    write_notebook(house, "notebooks/02_wrong.ipynb", [TITLE, *cells])
    with pytest.raises(LessonsError) as error:
        build(house)
    assert "notebooks/02_wrong.ipynb" in str(error.value) and message in str(error.value)
    assert not (house / "lessons").exists() and not (house / "notebooks/homework").exists()


WRONG_HOMEWORK = {
    "END alone": ("x = 1\n### END SOLUTION", "has a ### END SOLUTION without its partner"),
    "BEGIN twice": (
        "### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION",
        "has a ### BEGIN SOLUTION without its partner",
    ),
    "imports it": ("from lessons.sheep import mend", "imports what the homework asks for: mend"),
    "another name": ("from lessons.sheep import mend as m", "asks for: mend"),
    "by its module": ("import lessons.sheep as s\ns.mend(2)", "asks for: mend"),
    "a star": ("from lessons.sheep import *", "asks for: everything from lessons.sheep"),
    "the answers": ("from lessons.homework.answers import sheep", "asks for: the answers"),
    "the answers' module": ("import lessons.homework.answers.sheep", "asks for: the answers"),
}


@pytest.mark.parametrize("text, message", WRONG_HOMEWORK.values(), ids=WRONG_HOMEWORK.keys())
def test_a_wrong_homework_is_named(house, text, message):
    write_notebook(house, "solutions/01_sheep.ipynb", [*SOLUTION, text])
    with pytest.raises(LessonsError) as error:
        build(house)
    assert "solutions/01_sheep.ipynb, cell 5 (cell-4)" in str(error.value)
    assert message in str(error.value)
    assert not (house / "lessons").exists()


def test_a_solution_may_use_in_its_solution_what_a_stub_must_not_import(house):
    hidden = "### BEGIN SOLUTION\nfrom lessons.sheep import mend\n### END SOLUTION"
    write_notebook(house, "solutions/01_sheep.ipynb", [*SOLUTION, hidden])
    build(house)


def test_a_file_written_by_hand_is_not_replaced(house):
    (house / "lessons").mkdir()
    (house / "lessons/sheep.py").write_text("by_hand = True\n")
    with pytest.raises(LessonsError, match=r"lessons/sheep.py is written by hand"):
        build(house)
    assert (house / "lessons/sheep.py").read_text() == "by_hand = True\n"


def test_a_built_file_without_its_notebook_is_named_and_kept(house):
    build(house)
    (house / "notebooks/01_sheep.ipynb").unlink()
    with pytest.raises(
        LessonsError, match=r"lessons/sheep.py was built from a notebook that is gone"
    ):
        build(house)
    assert (house / "lessons/sheep.py").exists()


def test_two_notebooks_of_one_name(house):
    write_notebook(house, "notebooks/02_sheep.ipynb", LESSON)
    with pytest.raises(LessonsError, match="two notebooks build lessons/sheep.py"):
        build(house)


def test_a_notebook_without_title_or_sentence(house):
    write_notebook(house, "notebooks/01_sheep.ipynb", ["# Only a title", EXPORTS])
    with pytest.raises(LessonsError, match=r"01_sheep.ipynb must begin with a title"):
        build(house)


def test_a_badly_named_notebook(house):
    write_notebook(house, "notebooks/Sheep.ipynb", LESSON)
    with pytest.raises(LessonsError, match=r"Sheep.ipynb must be named as in 03_roi_align.ipynb"):
        build(house)


def test_a_file_that_is_no_notebook(house):
    (house / "notebooks/02_wolf.ipynb").write_text('{"cells": [')
    with pytest.raises(LessonsError, match=r"02_wolf.ipynb is not a notebook that can be read"):
        build(house)


NOTEBOOKS = sorted(Path(__file__).parents[1].glob("notebooks/*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_lesson_has_at_most_60_cells_of_40_lines_and_3_megabytes(path):
    cells = nbformat.read(path, 4).cells
    lines = {c.id: len(c.source.splitlines()) for c in cells if c.cell_type == "code"}
    assert len(cells) <= 60
    assert {cell: count for cell, count in lines.items() if count > 40} == {}
    assert path.stat().st_size <= 3e6
    assert all(cell.source.strip() for cell in cells)
