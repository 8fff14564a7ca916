"""All homework: solutions pass, stubs say "to do", each known mistake gets its own hint."""

import ast
import importlib
from pathlib import Path

import nbformat
import pytest
import torch
from homework_checks import (
    assert_mistakes_get_their_own_hint,
    assert_solutions_pass,
    assert_stubs_are_to_do,
)

from lessons.kit.homework import judge
from lessons.kit.notebooks.authoring import lesson_name

ROOT = Path(__file__).resolve().parents[1]
SOLUTIONS = sorted((ROOT / "solutions").glob("*.ipynb"))
NAMES = [lesson_name(path) for path in SOLUTIONS]


def homework_of(name):
    return importlib.import_module(f"lessons.homework.{name}").homework


def functions_of(path, names):
    """The exercises' functions as a notebook defines them, with the imports that they need."""
    parts = []
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code":
            for node in ast.parse(cell.source).body:
                ours = isinstance(node, ast.FunctionDef) and node.name in names
                if ours or isinstance(node, ast.Import | ast.ImportFrom):
                    parts.append(node)
    space = {}
    exec(compile(ast.Module(parts, []), path.name, "exec"), space)
    return {name: space[name] for name in names}


def test_there_is_homework():
    assert NAMES


@pytest.mark.parametrize("path", SOLUTIONS, ids=NAMES)
def test_every_solution_passes(path):
    homework = homework_of(lesson_name(path))
    assert_solutions_pass(homework, functions_of(path, homework.exercises))


@pytest.mark.parametrize("path", SOLUTIONS, ids=NAMES)
def test_every_stub_is_to_do(path):
    homework = homework_of(lesson_name(path))
    handed_out = ROOT / "notebooks/homework" / path.name
    assert_stubs_are_to_do(homework, functions_of(handed_out, homework.exercises))


@pytest.mark.parametrize("name", NAMES)
def test_every_mistake_gets_its_own_hint(name):
    assert_mistakes_get_their_own_hint(homework_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_the_plain_answer_that_is_shown_is_right(name):
    for exercise in homework_of(name).asked.values():
        if exercise.plain is not None:
            assert judge(exercise, exercise.plain, search=False).state == "passed"


@pytest.mark.parametrize("name", NAMES)
def test_four_exercises_at_most_and_a_stretch_stands_last(name):
    stretch = [exercise.stretch for exercise in homework_of(name).exercises.values()]
    assert 1 <= len(stretch) <= 4 and not any(stretch[:-1])


def test_no_exercise_was_lost_when_lessons_were_divided():
    names = [exercise for name in NAMES for exercise in homework_of(name).exercises]
    assert len(names) == len(set(names)) >= 56


@pytest.mark.parametrize("name", NAMES)
def test_no_reference_fails_on_its_inputs(name):
    """An input that breaks the reference would ask the students to break too."""
    for exercise in homework_of(name).exercises.values():
        for arguments in exercise.inputs(torch.Generator().manual_seed(0)):
            exercise.call(exercise.reference, *arguments)
