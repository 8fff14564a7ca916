"""Your turn: the blanks of the student's copy, the module of the turns, and every wrong cell."""

import os
from pathlib import Path

import nbformat
import pytest
from tiny_notebooks import write_notebook

from lessons.kit.errors import LessonsError
from lessons.kit.notebooks import copies
from lessons.kit.notebooks.authoring import build
from lessons.kit.notebooks.executing import execute
from lessons.kit.notebooks.reading import read_notebook
from lessons.kit.notebooks.recalling import unanswered
from lessons.kit.notebooks.turns import turns_of, with_blanks

ROOT = Path(__file__).resolve().parents[1]
STUB = 'raise NotImplementedError("your turn")'
LESSONS = sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))
WITH_TURNS = [path for path in LESSONS if turns_of(read_notebook(path), path.name)]

TITLE = "# Counting sheep\n\nYou count."
EXPORTED = '''#| export
#| your turn
import torch
from torch import Tensor


@torch.no_grad()
def total(x: Tensor) -> Tensor:
    """The sum.

    Of all of them.
    """
    # one after the other
    return x.sum()'''
INNER = '''#| your turn
def halves(x):
    """Half of the total, rounded down."""
    numbers = [floor(n / 2) for n in x]
    return total(torch.tensor(numbers))'''
GAPS = '''#| your turn
def count(flock):
    """How many are white."""
    n = 0
    for sheep in flock:
        ### BEGIN SOLUTION
        if sheep == "white":
            n += 1
        ### END SOLUTION
    return n'''
LESSON = [
    TITLE,
    "from math import ceil, floor",
    EXPORTED,
    "total = check(total)",
    INNER,
    "# That was half of it.",
    "halves = check(halves)\nhalves([1, 2])",
    GAPS,
    "count = check(count)",
]


def lesson_of(tmp_path, cells):
    return write_notebook(tmp_path, "notebooks/01_sheep.ipynb", cells)


def test_the_students_copy_has_stubs_behind_the_docstrings(tmp_path):
    path = lesson_of(tmp_path, LESSON)
    blank = with_blanks(read_notebook(path), path.name)
    whole, cut = EXPORTED.split("    # one after")[0], INNER.split("    numbers")[0]
    assert blank.cells[2].source == f"{whole}    {STUB}"
    assert blank.cells[4].source == f"{cut}    {STUB}"
    assert blank.cells[7].source == (
        '#| your turn\ndef count(flock):\n    """How many are white."""\n    n = 0\n'
        f"    for sheep in flock:\n        {STUB}\n    return n"
    )
    others = [0, 1, 3, 5, 6, 8]
    assert [blank.cells[k].source for k in others] == [LESSON[k] for k in others]


def test_turns_are_built_where_the_checks_find_them(tmp_path):
    lesson_of(tmp_path, LESSON)
    build(tmp_path)
    module = (tmp_path / "lessons/sheep.py").read_text()
    assert "def total(x: Tensor)" in module and "return x.sum()" in module
    assert "your turn" not in module and "halves" not in module
    turns = (tmp_path / "lessons/homework/answers/sheep_turns.py").read_text()
    assert turns.startswith("# Built by `lessons build` from notebooks/01_sheep.ipynb: ")
    for line in ("from math import floor\n", "import torch\n", "from lessons.sheep import total\n"):
        assert line in turns
    assert "ceil" not in turns and "SOLUTION" not in turns and 'if sheep == "white":' in turns
    assert build(tmp_path, check=True) == []


def test_a_module_of_turns_whose_turns_are_gone_is_named(tmp_path):
    lesson_of(tmp_path, LESSON)
    build(tmp_path)
    lesson_of(tmp_path, LESSON[:4])
    with pytest.raises(LessonsError, match="sheep_turns.py was built from .*`#| your turn`"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("cell", "check", "message"),
    [
        ("#| your turn\nx = 1", "x = check(x)", "cell 2 .*must hold one function"),
        (f"{INNER}\n\n\nhalves([2])", "halves = check(halves)", "must hold one function"),
        ("#| your turn\nclass A:\n    '''A.'''\n    x = 1", "A = check(A)", "one function"),
        ("#| your turn\ndef f():\n    return 1", "f = check(f)", "needs a docstring and a body"),
        ("#| your turn\ndef f():\n    '''One.'''", "f = check(f)", "needs a docstring and a body"),
        (INNER, "check(halves)", r"not checked: the next code cell must halves = check\(halves\)"),
        (INNER, "# The end", "is not checked"),
        (
            "#| your turn\n@method_of(A)\ndef f(self):\n    '''One.'''\n    return 1",
            "f = check(f)",
            "has a method, and a turn is a function",
        ),
        (
            "#| your turn\ndef f():\n    '''One.'''\n    return flock",
            "f = check(f)",
            "uses flock, which a turn can only import",
        ),
        (
            "def f():\n    ### BEGIN SOLUTION\n    return 1\n    ### END SOLUTION",
            "f()",
            "marks a solution, which belongs below `#| your turn`",
        ),
    ],
)
def test_a_wrong_turn_stops_the_build(tmp_path, cell, check, message):
    cells = [TITLE, cell, check] if "halves" not in cell else [*LESSON[:4], cell, check]
    lesson_of(tmp_path, cells)
    with pytest.raises(LessonsError, match=message):
        build(tmp_path)
    assert not (tmp_path / "lessons").exists()


def test_one_function_cannot_be_asked_for_twice(tmp_path):
    lesson_of(tmp_path, [*LESSON, GAPS, "count = check(count)"])
    with pytest.raises(LessonsError, match="cell 8 .*asks for count, as another cell does"):
        build(tmp_path)


def test_a_local_name_is_nothing_from_outside(tmp_path):
    """`flock` is the notebook's and, inside, an argument and a variable."""
    text = "#| your turn\ndef f(flock):\n    '''One.'''\n    n = 1\n    return [n for n in flock]"
    lesson_of(tmp_path, [TITLE, "flock, n = [1], 3", text, "f = check(f)"])
    build(tmp_path)
    turns = (tmp_path / "lessons/homework/answers/sheep_turns.py").read_text()
    assert "import" not in turns.split('"""')[2]


# ---------------------------------------------------------------- start


def test_start_hands_out_blanks_and_a_teacher_gets_the_whole(tmp_path):
    path = lesson_of(tmp_path, LESSON)
    notebook = nbformat.read(path, 4)
    notebook.cells[1].outputs = [nbformat.v4.new_output("stream", text="hello")]
    nbformat.write(notebook, path)
    my = tmp_path / "my"
    (mine,) = copies.start(tmp_path, "01", my)
    (teach,) = copies.start(tmp_path, "01", my, teach=True)
    assert (mine.path, teach.path) == (my / "01_sheep.ipynb", my / "teach/01_sheep.ipynb")
    mine, teach = (nbformat.read(copy.path, 4) for copy in (mine, teach))
    assert sum(STUB in cell.source for cell in mine.cells) == 3
    assert [cell.source for cell in teach.cells] == LESSON
    assert not any(cell.get("outputs") for cell in [*mine.cells, *teach.cells])
    with pytest.raises(LessonsError, match="01_sheep.ipynb is in .*teach already"):
        copies.start(tmp_path, "01", my, teach=True)


# ---------------------------------------------------------------- the lessons


def test_there_are_lessons_with_turns():
    assert WITH_TURNS


@pytest.mark.parametrize("path", WITH_TURNS, ids=lambda path: path.stem)
def test_a_copy_with_its_answers_filled_in_is_the_lesson(path, tmp_path):
    copy = nbformat.read(copies.start(ROOT, path.name[:2], tmp_path)[0].path, 4)
    lesson = read_notebook(path)
    turns = {turn.place: turn for turn in turns_of(lesson, path.name)}
    for place, (ours, theirs) in enumerate(zip(copy.cells, lesson.cells, strict=True)):
        assert ours.id == theirs.id
        if place in turns:
            assert STUB in ours.source and ours.source != theirs.source
            ours.source = theirs.source
        if ours.cell_type == "code":
            assert ours.source == unanswered(theirs.source)


@pytest.mark.parametrize("path", WITH_TURNS, ids=lambda path: path.stem)
def test_an_untouched_copy_runs_from_end_to_end(path, tmp_path, monkeypatch):
    """The references stand in for what is not written yet."""
    monkeypatch.setenv("LESSONS_MY", str(tmp_path))
    monkeypatch.setenv("LESSONS_BUDGET", "test")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    notebook = read_notebook(copies.start(ROOT, path.name[:2], tmp_path)[0].path)
    assert execute(notebook, tmp_path, tmp_path / "log", threads=1) is None
    turns = turns_of(read_notebook(path), path.name)
    said = "".join(str(cell.get("outputs")) for cell in notebook.cells)
    assert all(f"○ {turn.name}: to do" in said for turn in turns)
